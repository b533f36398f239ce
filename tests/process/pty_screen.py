"""A command on a real pseudo-terminal, and what a person would see on it (pyte)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte
from processes import environment, program, until

WIDE = 4
"""A second screen is this many times as wide: what reaches beyond the first would have wrapped."""


class OnTerminal:
    """Owner of one process and of the terminal that it runs on."""

    def __init__(
        self, home: Path, *arguments: str, columns: int = 80, rows: int = 24, **variables: str
    ) -> None:
        self.columns, self.rows = columns, rows
        self.screen = pyte.Screen(columns, rows)
        self._wide = pyte.HistoryScreen(columns * WIDE, rows, history=10_000, ratio=0.5)
        self._streams = [pyte.ByteStream(self.screen), pyte.ByteStream(self._wide)]
        self._lock = threading.Lock()
        self.raw = b""
        self._master, self._slave = pty.openpty()
        self._set_size(columns, rows)
        self.modes = termios.tcgetattr(self._slave)
        env = {**environment(home), "TERM": "xterm-256color", "LANG": "C.UTF-8", **variables}
        for name in ("COLUMNS", "LINES", "NO_COLOR", "LC_ALL"):
            if name not in variables:
                env.pop(name, None)
        self.process = subprocess.Popen(
            program(arguments),
            env=env,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=self._control,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _control(self) -> None:
        """In the child: the terminal's Ctrl-C and its changes of size reach it."""
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                with self._lock:
                    self.raw += data
                    for stream in self._streams:
                        stream.feed(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if error is not None:
            error.add_note("--- the terminal\n" + "\n".join(self.lines))
        os.close(self._slave)
        self._reader.join(5)
        os.close(self._master)

    # ---- what a person does --------------------------------------------------------------------

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def resize(self, columns: int, rows: int) -> None:
        with self._lock:
            self.screen.resize(rows, columns)
            self.screen.reset()
            self._wide.resize(rows, columns * WIDE)
        self.forget()
        self.columns, self.rows = columns, rows
        self._set_size(columns, rows)

    def forget(self) -> None:
        """How wide it was so far."""
        with self._lock:
            self._wide.reset()

    def ended(self, deadline_s: float = 30.0) -> int:
        """Its exit code, when all that it wrote is on the screen."""
        code = self.process.wait(deadline_s)
        self.settled()
        return code

    # ---- what a person sees --------------------------------------------------------------------

    @property
    def lines(self) -> list[str]:
        with self._lock:
            return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def shows(self, *words: str, deadline_s: float = 60.0) -> None:
        until(lambda: all(w in self.text for w in words), f"the screen shows {words}", deadline_s)

    def settled(self) -> None:
        """The reader has taken all that was written."""
        seen = -1
        while seen != len(self.raw):
            seen = len(self.raw)
            self._reader.join(0.2)

    @property
    def widest(self) -> int:
        """Columns that the widest line so far needed, on the wide screen and above it."""
        with self._lock:
            rows: list[Any] = [*self._wide.history.top, *self._wide.buffer.values()]
            return max((x + 1 for row in rows for x, c in row.items() if c.data.strip()), default=0)

    @property
    def cursor_hidden(self) -> bool:
        return bool(self.screen.cursor.hidden)

    def left_as_found(self) -> bool:
        """The terminal's modes are what they were, its cursor is there, its main screen shows."""
        entered = self.raw.rfind(b"\x1b[?1049h")
        back = self.raw.rfind(b"\x1b[?1049l")
        modes = termios.tcgetattr(self._slave)
        return not self.cursor_hidden and back >= entered and modes[:4] == self.modes[:4]
