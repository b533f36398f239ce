"""One line of a terminal that is written over, with news above it; plain lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable

from farflung.cli.screens.terminal import Terminal, this_terminal
from farflung.cli.screens.text import ascii_only, fit, wrapped
from farflung.events import Emit
from farflung.tasks import Tasks, nothing_else

TICK_S = 0.5
CLEAR = "\r\x1b[K"


class LiveLine:
    """Owns the last line of the terminal. Texts that come here are inert already.

    Nothing is ever longer than the terminal is wide: a line that wraps cannot be written over.
    """

    def __init__(self, look: Callable[[], Terminal] = this_terminal) -> None:
        """`look`: the terminal as it is now; its width may change at any time."""
        self._look = look
        self._shown = ""
        self.live = look().live

    def keep(self, text: str, *, err: bool = False, whole: bool = False) -> None:
        """A line that stays, above the live one; on a terminal broken between words unless it is
        to be copied, `whole`."""
        stream = sys.stderr if err else sys.stdout
        if self.live and not whole:
            text = "\n".join(hanging(text, self._look().width))
        shown, self._shown = self._shown, ""
        if shown:
            sys.stdout.write(CLEAR)
            sys.stdout.flush()
        stream.write(self._letters(text) + "\n")
        stream.flush()
        if shown:
            self.show(shown)

    def show(self, text: str) -> None:
        """The live line; nothing where lines cannot be written over."""
        if not self.live:
            return
        terminal = self._look()
        line = self._letters(fit(text, terminal.width - 1))
        if line != self._shown:
            sys.stdout.write(CLEAR + line)
            sys.stdout.flush()
            self._shown = line

    @property
    def width(self) -> int:
        """Columns for the live line."""
        return self._look().width - 1

    def end(self) -> None:
        """Nothing of it stays behind."""
        if self._shown:
            sys.stdout.write(CLEAR)
            sys.stdout.flush()
            self._shown = ""

    def _letters(self, text: str) -> str:
        return text if self._look().unicode else ascii_only(text)


def hanging(text: str, width: int) -> list[str]:
    """Lines of `width` cells at most; those after the first stand further in."""
    first, *rest = wrapped(text, width, most=64) or [text]
    if not rest:
        return [first]
    margin = " " * (len(text) - len(text.lstrip(" ")) + 2)
    left = text[len(first) :].strip()
    return [first, *(margin + line for line in wrapped(left, width - len(margin), most=64))]


@contextlib.asynccontextmanager
async def ticking(
    tick: Callable[[], None], emit: Emit, every_s: float = TICK_S
) -> AsyncIterator[None]:
    """Call `tick` now and then while the block runs. A fault in it is told, and costs the line."""

    async def beat() -> None:
        while True:
            with contextlib.suppress(OSError):  # a terminal that went away
                tick()
            await asyncio.sleep(every_s)

    tasks = Tasks(emit, nothing_else)
    tasks.start(beat(), "show the live line")
    try:
        yield
    finally:
        await tasks.close()
