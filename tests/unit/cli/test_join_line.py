"""The live line of `farflung join`, and the plain lines where there is no terminal."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len
from test_waiting import GLANCE

from farflung.cli.join_line import (
    JoinLine,
    JoinState,
    Pace,
    bits_per_byte,
    download,
    parts,
    render,
)
from farflung.cli.live_line import CLEAR, LiveLine, hanging
from farflung.cli.screens.terminal import Terminal
from farflung.cli.waiting import Wait, Waiting
from farflung.events import (
    Applied,
    DiskAwaited,
    FetchDelayed,
    NoCoordinator,
    Reconnected,
    RunKnown,
    StateProgress,
    Trained,
)
from farflung.ids import NodePhase
from farflung.peer.glance import NO_LEASE, LeaseGlance
from farflung.peer.standing import StayPhase

STATE = JoinState(
    name="kitchen",
    lease=LeaseGlance(round=12, step=30, steps=50),
    next_round=12,
    rounds_wanted=50,
    loss=2.3127,
    bpb=1.4523,
    tokens_per_s=8123.0,
    mfu=0.41,
    peers=4,
    sent_bytes=12_000_000,
    received_bytes=12_000_000,
    eta_s=180.0,
    waiting=Waiting(wait=Wait.TRAINING, since_s=0.0),
)
KNOWN = RunKnown(name="books", model="tiny", parameters=1_234_567, rounds=50, finished=False)


def test_the_line_says_all_where_there_is_room() -> None:
    assert render(STATE, 200, 5.0) == (
        "round 12 · step 30/50 · loss 2.31 · bpb 1.45 · 8.12k tok/s · MFU 41 % · 4 peers"
        " · up 12.0 MB down 12.0 MB · eta 3 m"
    )


@pytest.mark.parametrize("width", range(8, 130, 3))
def test_what_matters_least_goes_first(width: int) -> None:
    text = render(STATE, width, 5.0)
    assert cell_len(text) <= width and text.startswith("round 12")
    shown = {rank for rank, part in parts(STATE, 5.0) if part and part in text}
    if width >= 40:
        assert "step 30/50" in text and "loss 2.31" in text
    if "up 12.0 MB" in text:
        assert shown == {rank for rank, part in parts(STATE, 5.0) if part}


def test_a_state_that_is_waited_in_stands_in_the_line() -> None:
    waiting = Waiting(wait=Wait.STATE, since_s=3.0, detail="120 of 512 MB")
    text = render(JoinState(waiting=waiting), 100, 15.0)
    assert text == "fetching the model's state for 12 s: 120 of 512 MB"
    gone = replace(STATE, waiting=Waiting(wait=Wait.COORDINATOR, since_s=0.0))
    assert "step 30/50" in render(gone, 120, 5.0) and "coordinator gone" in render(gone, 79, 5.0)


def test_a_download_says_how_far_it_is() -> None:
    event = StateProgress(
        here=120_300_000, total=512_000_000, bytes_per_s=14.2e6, eta_s=28.4, sources=3
    )
    assert download(event) == "120 of 512 MB, 14.2 MB/s from 3 peers, eta 28 s"
    unknown = replace(event, eta_s=-1.0, bytes_per_s=0.0, sources=1)
    assert download(unknown) == "120 of 512 MB, 0 B/s from 1 peer"


def test_bits_per_byte_of_a_loss() -> None:
    assert bits_per_byte(math.log(2) * 8, 4.0) == pytest.approx(2.0)
    assert math.isnan(bits_per_byte(2.0, math.nan))


def test_the_time_left_follows_the_newest_rounds() -> None:
    pace = Pace()
    assert math.isnan(pace.eta_s(10))
    for round_ in range(40):
        pace.applied(round_, 10.0 * round_ if round_ < 20 else 200 + 2.0 * (round_ - 20))
    assert pace.eta_s(10) == pytest.approx(20.0)
    assert math.isnan(pace.eta_s(0))


# ---- on a terminal, and without one --------------------------------------------------------


class Desk:
    """A clock and a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, live: bool, width: int = 80) -> None:
        self.now = 0.0
        self.width = width
        self.out = io.StringIO()
        monkeypatch.setattr("sys.stdout", self.out)
        self.live = LiveLine(lambda: self._terminal(live))
        self.line = JoinLine("kitchen", now=lambda: self.now, line=self.live)
        self.line.host = "h:7000"

    def _terminal(self, live: bool) -> Terminal:
        return Terminal(width=self.width, height=24, live=live, colour=live, unicode=True, cut=live)

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()

    def pass_s(self, seconds: int) -> None:
        for _ in range(2 * seconds):
            self.now += 0.5
            self.line.tick()


def trained(round_: int) -> Trained:
    return Trained(
        round=round_, steps=50, tokens=81_000, loss=2.3, compute_s=10.0, wait_s=0.0, mfu=0.41
    )


def applied(round_: int, *, contributed: bool = True) -> Applied:
    return Applied(
        round=round_,
        fragment=0,
        attempt=0,
        fragment_hash="",
        state_root="",
        contributed=contributed,
    )


def test_without_a_terminal_a_round_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(monkeypatch, live=False)
    desk.line.see(KNOWN)
    desk.line.glance = lambda: replace(GLANCE, lease=NO_LEASE)
    for round_ in range(60):
        desk.now += 1.0
        desk.line.see(trained(round_))
        desk.line.see(applied(round_, contributed=round_ >= 5))
    said = desk.lines[1:]
    assert said[0].startswith("round 0 · followed") and said[1].startswith("round 5 · contributed")
    assert len(said) == 7, said
    assert "loss 2.30 · 8.12k tok/s · MFU 41 % · 4 peers · up 12.0 MB" in said[-1]
    assert "eta" in said[-1] and "\x1b" not in desk.out.getvalue()


def test_on_a_terminal_rounds_are_in_the_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, live=True)
    desk.line.see(KNOWN)
    desk.line.glance = lambda: GLANCE
    for round_ in range(5):
        desk.line.see(trained(round_))
        desk.line.see(applied(round_))
        desk.pass_s(1)
    written = desk.out.getvalue()
    assert written.count("\n") == 1, "the first line of a healthy start"
    assert all(cell_len(piece) < 80 for piece in written.split(CLEAR)[1:])
    desk.line.see(Reconnected(after_s=3.0, term=2))
    assert desk.out.getvalue().endswith(
        f"coordinator back after 3.0 s\n{CLEAR}" + written.split(CLEAR)[-1]
    )
    desk.line.end()
    assert desk.out.getvalue().endswith(CLEAR)


def test_a_line_that_did_not_change_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, live=True)
    desk.line.glance = lambda: GLANCE
    desk.pass_s(60)
    assert desk.out.getvalue().count(CLEAR) == 1


def test_a_host_that_does_not_answer_is_told_at_once_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk(monkeypatch, live=False)
    desk.line.tick()
    for minute in range(25):
        desk.line.see(NoCoordinator(reason="refused", tries=1 + minute, for_s=60.0 * minute))
        desk.pass_s(60)
    said = desk.lines
    assert said[0].startswith("waiting for the host: refused; it is tried again until it answers")
    assert [s.partition(":")[0].partition("for ")[2] for s in said] == [
        "the host",
        *(f"the host for {m}" for m in ("60 s", "10 m", "20 m")),
    ]


def test_whatever_lasts_says_what_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, live=False)
    desk.line.see(KNOWN)
    syncing = replace(GLANCE, stay=StayPhase.SYNCING, lease=NO_LEASE)
    desk.line.glance = lambda: syncing
    desk.line.tick()
    desk.line.see(
        StateProgress(here=120_000_000, total=512_000_000, bytes_per_s=9e6, eta_s=40.0, sources=2)
    )
    desk.pass_s(12)
    assert desk.lines[-1].startswith(
        "fetching the model's state for 10 s: 120 of 512 MB, 9.00 MB/s from 2 peers, eta 40 s; "
        "goes on when"
    )
    loading = replace(GLANCE, stay=StayPhase.STARTING, trainer=NodePhase.LOADING, lease=NO_LEASE)
    desk.line.glance = lambda: loading
    desk.pass_s(12)
    assert desk.lines[-1].startswith("starting the trainer for 10 s; goes on when the model is")
    desk.line.glance = lambda: GLANCE
    before = len(desk.lines)
    desk.pass_s(3600)
    assert len(desk.lines) == before, "training is no news"


def test_a_full_disk_explains_why_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, live=True)
    desk.line.see(KNOWN)
    desk.line.glance = lambda: replace(GLANCE, lease=NO_LEASE, trainer=NodePhase.WAITING)
    desk.line.see(DiskAwaited(what="the journal's copy", reason="No space left on device"))
    desk.pass_s(11)
    text = desk.out.getvalue()
    assert "the disk refuses what must be kept for 10 s: No space left" in text
    assert "free some space" in text
    assert text.count("! the journal's copy waits for the disk") == 1
    desk.line.see(FetchDelayed(what="a snapshot", reason="nobody offers one"))
    assert "! a snapshot is not here yet" in desk.out.getvalue()


def test_a_name_of_a_run_steers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(monkeypatch, live=True)
    desk.line.see(replace(KNOWN, name="\x1b[2Jx\u202e", model="a\nb"))
    assert "\x1b[2J" not in desk.out.getvalue() and "\u202e" not in desk.out.getvalue()
    assert desk.out.getvalue().count("\n") == 1


def test_long_news_is_broken_between_words_and_copied_text_is_not() -> None:
    text = "! " + "a word and another one " * 8
    lines = hanging(text.strip(), 40)
    assert all(cell_len(line) <= 40 for line in lines) and len(lines) > 3
    assert all(line.startswith("  ") for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == text.strip(), "no word is lost"
    assert hanging("short", 40) == ["short"]
