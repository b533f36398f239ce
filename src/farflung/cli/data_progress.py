"""How far a long reading is: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 60.0


class ReadProgress:
    """`total` in bytes of the files; None when nobody knows."""

    def __init__(
        self, what: str, total: int | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._what = what
        self._total = total
        self._live = sys.stderr.isatty()
        self._started_s = self._said_s = now()
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=total, rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line of its own, whole."""
        if self._live:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stderr.write(f"{text}\n")

    def update(self, read_bytes: int, text_bytes: int) -> None:
        now_s = self._now()
        rate = text_bytes / 1e6 / max(now_s - self._started_s, 1e-3)
        if self._live:
            self._bar.update(self._task, completed=read_bytes, rate=f"{rate:.1f} MB/s of text")
        elif now_s - self._said_s >= LINE_EVERY_S:
            self._said_s = now_s
            self.say(self._line(read_bytes, text_bytes, rate, now_s))

    def _line(self, read_bytes: int, text_bytes: int, rate: float, now_s: float) -> str:
        line = f"{self._what}: {text_bytes / 1e6:,.0f} MB of text, {rate:.1f} MB/s"
        if not self._total or not read_bytes:
            return line
        left_s = (now_s - self._started_s) * max(0, self._total - read_bytes) / read_bytes
        return f"{line}, {read_bytes / self._total:.0%}, {left_s:.0f} s left"
