"""The screens of `status` and `watch` at several widths, of healthy, sick and hostile runs."""

from __future__ import annotations

from typing import Any

import pytest
import screen_frames as made
from rich.cells import cell_len
from test_screens_text import HOSTILE

from farflung.cli.screens.frame import frame_of
from farflung.cli.screens.line import STYLES, ScreenLine, plain
from farflung.cli.screens.status_screen import status_lines
from farflung.cli.screens.terminal import Terminal
from farflung.cli.screens.watch_screen import watch_lines

WIDTHS = [40, 60, 80, 120, 200]
STATES = {
    "running": {"reason": "Round 212 trains: 2 of 4 peers are ready. It goes on by itself."},
    "waiting": {"reason": "Waiting: 1 of at least 2 peers.", "rounds": 0, "loss": None},
    "paused": {"reason": "Paused: 1 of min 2 peers. It goes on by itself when they are here."},
    "finished": {"reason": "Complete: 1,000 rounds committed. Nobody needs to do anything."},
    "stopped": {"reason": "Nobody serves the run now."},
}


def terminal(width: int, height: int = 24, **changes: Any) -> Terminal:
    shape = {"live": True, "colour": True, "unicode": True, **changes}
    return Terminal(width=width, height=height, **shape)


def texts(lines: list[ScreenLine]) -> list[str]:
    assert all(style in STYLES for line in lines for _, style in line)
    return [plain(line) for line in lines]


def status_of(frame: Any, width: int = 80, **options: Any) -> list[str]:
    return texts(status_lines(frame_of(frame), terminal(width), made.NOW, **options))


def watch_of(frame: Any, width: int = 80, height: int = 24, **options: Any) -> list[str]:
    return texts(watch_lines(frame_of(frame), terminal(width, height, **options), made.NOW))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("state", STATES)
def test_no_line_is_wider_than_the_terminal(width: int, state: str) -> None:
    frame = made.frame(state=state, **STATES[state])
    for height in (8, 24, 40, 70):
        shown = watch_of(frame, width, height)
        assert len(shown) == height
        assert max(map(cell_len, shown)) <= width
    assert max(map(cell_len, status_of(frame, width))) <= width


def test_status_says_all_that_was_asked_for_in_80_columns() -> None:
    text = "\n".join(status_of(made.frame(reason=STATES["running"]["reason"])))
    for wanted in (
        *("books (9f86d081884c7d65)", "running", "for 14 m: Round 212 trains", "eta 2 h 14 m"),
        *("round 212 of 1,000", "48.2M tokens", "3 abandoned", "21.3k tok/s", "MFU 41 %"),
        *("94 % computing", "2.3127", "bits per byte after 200 rounds", "up 1.26 GB, down 1.31"),
        *("412× less", "840 reports agree", "kitchen", "25 %", "8.12k", "up to round 200"),
        *("1.2 GiB of 20.0 GiB", "north-hall is out", "What say you, my lord?", "▁", "█"),
    ):
        assert wanted in text, wanted
    assert "NVIDIA" not in text and "NVIDIA H200" in "\n".join(status_of(made.frame(), 140))


def test_tables_are_aligned() -> None:
    lines = status_of(made.frame())
    start = next(i for i, line in enumerate(lines) if line.startswith("peer "))
    assert len({cell_len(line) for line in lines[start : start + 7]}) == 1


def test_many_peers_are_counted_not_listed() -> None:
    crowd = [made.peer(i) for i in range(1000)]
    lines = status_of(made.frame(crowd))
    assert any("and 980 more: --peers 1000" in line for line in lines)
    assert sum("kitchen" in line for line in status_of(made.frame(crowd), most_peers=1000)) > 100
    assert any("(+" in line for line in watch_of(made.frame(crowd)))


def test_watch_shows_what_each_peer_does_and_did() -> None:
    shown = watch_of(made.frame(), 120, 40)
    kitchen = next(line for line in shown if line.startswith("kitchen"))
    basement = next(line for line in shown if line.startswith("basement"))
    assert "waiting" in kitchen and "training" in basement and "━━━━" in kitchen
    assert any("round 211, 11 s" in line for line in shown)
    assert "■ train ■ wait" in shown[-1] and shown[-1].endswith("q quits")
    plain_ = watch_of(made.frame(), 120, 40, colour=False)
    assert any("tttt" in line and "vm" in line for line in plain_)
    assert "t train . wait" in plain_[-1]


def test_the_straggler_is_drawn_longest() -> None:
    shown = watch_of(made.frame(), 120, 40, colour=False)
    count = {n: next(x for x in shown if x.startswith(n)).count("t") for n in ("lab-07", "kitchen")}
    assert count["lab-07"] > count["kitchen"] + 5


def test_a_round_is_drawn_when_most_of_it_is_known() -> None:
    frame = made.frame()
    half = made.timeline(212, frame["peers"])
    for track in half["peers"]:
        track["spans"] = track["spans"][:3]
    frame["timelines"] = [made.timeline(210, frame["peers"]), made.timeline(211, frame["peers"])]
    frame["timelines"].append(half)
    assert "round 211, 11 s" in "\n".join(watch_of(frame, 120, 40))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("width", [60, 80, 120])
def test_hostile_words_steer_nothing_and_push_no_column(text: str, width: int) -> None:
    peers = [made.peer(0, name=text), made.peer(1), made.peer(2, name=text + "!")]
    peers[1].update(device=text, why=text, node=text)
    frame = made.frame(peers, name=text, descent=text, reason=text, uploading=text, run=text)
    frame["head"].update(keeper_disk=text, sources=[{"name": text, "share": 1, "samples": 3}])
    frame["lines"] = [made.line(1, "trouble", text, 5)]
    frame["evaluations"][-1]["samples"] = [{"prompt": text, "text": text}]
    for shown in (status_of(frame, width), watch_of(frame, width), watch_of(frame, width, 50)):
        for line in shown:
            assert line.isprintable() and cell_len(line) <= width
    rows = [line for line in status_of(frame, width) if "●" in line][1:]
    assert len({cell_len(line.partition("●")[0]) for line in rows}) == 1


JUNK: list[Any] = [None, 3, "x", [], {}, [1], [None], {"a": 1}, True, [[1, 2]], [{"spans": ["x"]}]]


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_an_answer_of_the_wrong_shape_is_shown_as_unknown(junk: Any) -> None:
    """A coordinator of another version, or a stranger's."""
    whole = made.frame()
    for key in whole:
        assert watch_of({**whole, key: junk}) and status_of({**whole, key: junk})
    for key in whole["head"]:
        broken = {**whole, "head": {**whole["head"], key: junk}}
        assert watch_of(broken) and status_of(broken)
    for key in whole["peers"][0]:
        broken = {**whole, "peers": [{**whole["peers"][0], key: junk}]}
        assert watch_of(broken) and status_of(broken)
    for key in whole["timelines"][0]:
        broken = {**whole, "timelines": [{**whole["timelines"][0], key: junk}]}
        assert watch_of(broken)


def test_an_answer_with_some_of_the_peers_counts_all_of_them() -> None:
    frame = {**made.frame([made.peer(n) for n in range(30)]), "peers_total": 1000}
    assert "and 990 more: --peers 30" in "\n".join(status_of(frame, most_peers=10))
    whole = "\n".join(status_of(frame, most_peers=30))
    assert "and 970 more" in whole and "--peers" not in whole
    assert "peer (+9" in "\n".join(watch_of(frame, 120, 40))
