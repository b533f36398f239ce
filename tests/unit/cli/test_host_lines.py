"""What a host's terminal shows of its run."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len

from farflung.cli.host_lines import HostLines, shown_window
from farflung.cli.live_line import CLEAR, LiveLine
from farflung.cli.screens.terminal import Terminal
from farflung.events import (
    JournalBlocked,
    JournalWritable,
    LastRoundAwaited,
    Paused,
    RoundAbandoned,
    RoundCommitted,
    RoundOpened,
    RunStarted,
    WindowOpened,
)


def committed(round_: int, **changes: object) -> RoundCommitted:
    fields = {
        "round": round_, "fragment": 0, "attempt": 0, "contributors": 4, "tokens": 1000,
        "total_tokens": 1000 * (round_ + 1), "loss": 2.31, "took_s": 2.0, "holders": 2,
        "replicated": True, "state_root": "", **changes,
    }  # fmt: skip
    return RoundCommitted(**fields)  # type: ignore[arg-type]


class Desk:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, live: bool, width: int = 80) -> None:
        self.now, self.out, self.err = 0.0, io.StringIO(), io.StringIO()
        monkeypatch.setattr("sys.stdout", self.out)
        monkeypatch.setattr("sys.stderr", self.err)
        shape = Terminal(width=width, height=24, live=live, colour=live, unicode=True, cut=live)
        self.lines = HostLines(lambda: self.now, LiveLine(lambda: shape))
        self.lines.see(
            RunStarted(run="ab", name="books", parameters=9, term=1, rounds=50, descent="")
        )

    def run(self, rounds: int, every_s: float) -> None:
        for round_ in range(rounds):
            self.lines.see(RoundOpened(round=round_, fragment=0, peers=4, rows=9))
            self.now += every_s
            self.lines.see(committed(round_))
            self.lines.tick()

    @property
    def live(self) -> str:
        return self.out.getvalue().split(CLEAR)[-1]


def test_a_live_line_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, live=True)
    desk.run(20, 2.0)
    assert desk.live == "round 19 of 50 · 4 peers · loss 2.31 · 500 tok/s · eta 60 s"
    assert desk.out.getvalue().count("\n") == 1, "a line of rounds a minute"
    desk.lines.see(RoundAbandoned(round=20, fragment=0, reason="nobody\x1b[2J"))
    assert "round 20 abandoned: nobody [2J\n" in desk.out.getvalue()
    desk.lines.end()
    assert desk.live == ""


@pytest.mark.parametrize("width", range(40, 100, 9))
def test_it_never_wraps(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    desk = Desk(monkeypatch, live=True, width=width)
    desk.run(20, 2.0)
    assert all(cell_len(text) < width for text in desk.out.getvalue().split(CLEAR)[2:])


def test_without_a_terminal_rounds_are_lines_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(monkeypatch, live=False)
    desk.run(30, 2.0)
    said = desk.out.getvalue().splitlines()
    assert said[0] == "round 0 · loss 2.31 · 4 peers · 1.00k tokens · 2.0 s"
    assert len(said) == 6 and "\x1b" not in desk.out.getvalue()
    desk.lines.see(committed(31, replicated=False))
    assert desk.out.getvalue().endswith("not replicated\n"), "this cannot wait"


def test_a_pause_says_what_ends_it_and_who_must_act(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, live=True)
    desk.run(3, 2.0)
    desk.lines.see(Paused(reason="paused: 1 of min 2 peers"))
    for _ in range(24):
        desk.now += 0.5
        desk.lines.tick()
    text = desk.out.getvalue()
    assert "  paused for 10 s: 1 of min 2 peers; goes on by itself when" in text
    assert "invite others" in text and text.count("invite others") == 1
    assert desk.live == "round 2 of 50 · paused for 12 s: 1 of min 2 peers · loss 2.31"
    desk.lines.see(RoundOpened(round=3, fragment=0, peers=2, rows=9))
    desk.lines.tick()
    assert desk.live == "round 3 of 50 · 2 peers · loss 2.31", "a pause is no pace"


def test_a_full_disk_and_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, live=True)
    desk.lines.see(JournalBlocked(reason="No space left", for_s=0.0))
    desk.now += 11
    desk.lines.tick()
    assert "free some space on the host's disk" in desk.out.getvalue()
    desk.lines.see(JournalWritable(after_s=11.0))
    desk.lines.tick()
    assert desk.live == ""
    desk.lines.see(LastRoundAwaited(names=("kitchen",), up_to_s=300.0))
    desk.lines.tick()
    assert desk.live == "the run is complete; serving its last round for 0 s"
    assert "kitchen" in desk.err.getvalue()


def test_where_the_dashboard_is(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, live=False)
    event = WindowOpened(address="http://127.0.0.1:7080", public=False, taken=0)
    desk.lines.see(event)
    assert desk.out.getvalue() == shown_window(event) + "\n"
