"""What the terminal at hand can show, and the one place where lines become its bytes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from farflung.cli.screens.line import STYLES, ScreenLine
from farflung.cli.screens.text import ascii_only

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

NARROWEST = 40
FALLBACK = (80, 24)
_UTF8 = ("utf-8", "utf8")


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """What lines are made for."""

    width: int
    height: int
    live: bool
    """Lines can be written over: a terminal that knows how."""
    colour: bool
    unicode: bool
    """Blocks, braille and `·`; else ASCII only."""
    cut: bool = True
    """Sentences end at the width. Not in a pipe, where somebody greps for their end."""

    @property
    def sentence_width(self) -> int:
        return self.width if self.cut else 4096


def terminal_of(
    stream: IO[str], environment: Mapping[str, str], size: tuple[int, int] | None = None
) -> Terminal:
    """NO_COLOR, TERM=dumb, COLUMNS and the locale are honoured."""
    tty = stream.isatty()
    dumb = environment.get("TERM", "").lower() in ("dumb", "unknown", "")
    columns, rows = size or shutil.get_terminal_size(FALLBACK)
    return Terminal(
        width=max(NARROWEST, columns),
        height=max(8, rows),
        live=tty and not dumb,
        colour=tty and not dumb and not environment.get("NO_COLOR"),
        unicode=_speaks_unicode(getattr(stream, "encoding", None) or "", environment),
        cut=tty,
    )


def this_terminal() -> Terminal:
    """Of this process's standard output."""
    return terminal_of(sys.stdout, os.environ)


def _speaks_unicode(encoding: str, environment: Mapping[str, str]) -> bool:
    """An explicit locale without UTF-8 counts, also where Python itself goes on in UTF-8."""
    if encoding.lower().replace("_", "-") not in _UTF8:
        return False
    if environment.get("TERM") == "linux":  # the console's font has neither blocks nor braille
        return False
    wanted = environment.get("LC_ALL") or environment.get("LANG") or environment.get("LC_CTYPE", "")
    return not wanted or any(name in wanted.lower() for name in _UTF8)


def console_of(terminal: Terminal, file: IO[str] | None = None) -> Console:
    """A console that adds nothing of its own to lines."""
    from rich.console import Console

    return Console(
        file=file or sys.stdout,
        width=terminal.width,
        height=terminal.height,
        force_terminal=terminal.live,
        no_color=not terminal.colour,
        color_system="standard" if terminal.colour else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def styled(line: ScreenLine, terminal: Terminal) -> Text:
    """In the terminal's letters and colours."""
    from rich.text import Text

    text = Text(no_wrap=True, end="")
    for piece, style in line:
        text.append(piece if terminal.unicode else ascii_only(piece), STYLES[style])
    return text


def show(lines: Iterable[ScreenLine], terminal: Terminal) -> None:
    """Print lines that were made for this terminal."""
    console = console_of(terminal)
    for line in lines:
        text = styled(line, terminal)
        text.rstrip()
        console.print(text, soft_wrap=True)
