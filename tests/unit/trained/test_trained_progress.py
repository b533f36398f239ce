"""The line that long reading and writing show on a terminal."""

from __future__ import annotations

import io

import pytest

from farflung.cli import loading
from farflung.cli.loading import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_has_share_rate_and_time_left_and_a_second_work_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen, now = Terminal(), [100.0]
    monkeypatch.setattr(loading.sys, "stderr", screen)
    monkeypatch.setattr(loading.time, "monotonic", lambda: now[0])
    line = ProgressLine("fetching", in_bytes=True)

    def seen(at_s: float, done: int) -> str:
        now[0] = 100.0 + at_s
        line(done, 100_000_000)
        return screen.getvalue().rpartition("\x1b[K")[2]

    assert seen(0.5, 10_000_000) == ""
    assert seen(4.0, 20_000_000) == "fetching 20 %, 5.0 MB/s, 16 s left"
    assert seen(4.1, 90_000_000) == "fetching 20 %, 5.0 MB/s, 16 s left"  # not that often
    assert seen(8.0, 100_000_000) == ""
    assert seen(10.0, 0) == ""
    assert seen(12.0, 50_000_000) == "fetching 50 %, 25.0 MB/s, 2 s left"
