"""What a coordinator answers: a frame that fits in a message, whoever asks and whoever is in it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from synthetic import Options, view_of

from farflung.monitor.answers import FRESH_S, MOST_BYTES, PEERS, Answers
from farflung.monitor.evaluations import Score
from farflung.monitor.inert import NAME_LENGTH, SAMPLE_LENGTH, TEXT_LENGTH
from farflung.monitor.lines import Sentence
from farflung.monitor.timelines import MAX_SPANS
from farflung.monitor.view import View
from farflung.network.frames import encode_control
from farflung.network.limits import TYPE_CAPS
from farflung.network.messages import Status

WIDE = "🦦"
"""Four bytes a character, the most that there is."""
SMALL = Options(peers=9, rounds=30, seed=3)


def answer(view: View, asker: str = "", at_s: float = 0.0) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(Answers(view).to(asker, at_s=at_s, now=view.newest or 0.0))
    return frame


def hostile() -> View:
    """A thousand peers that fill every text and every round as far as they can."""
    view = view_of(Options(peers=1000, rounds=3, seed=2))
    fold = view._fold
    for row in fold.peers.values():
        row.name = row.device = row.software = WIDE * NAME_LENGTH
        row.suspect = row.banned = WIDE * TEXT_LENGTH
    for one, node in itertools.product(fold.timelines, fold.peers):
        part = one.part(node)
        assert part is not None
        part.left_out = WIDE * TEXT_LENGTH
        start = one.opened + 1e8 + 0.123
        part.spans = (0, start, start + 0.5) * MAX_SPANS
    text = Sentence("trouble", WIDE * TEXT_LENGTH, WIDE * NAME_LENGTH, None)
    for at in range(500):
        view._fold.step += 1
        fold.lines.add(fold.step, 1e9 + 100 * at, text)
    sample = (WIDE * SAMPLE_LENGTH, WIDE * SAMPLE_LENGTH)
    for at in range(200):
        name = WIDE * NAME_LENGTH
        fold.evaluations.add(Score(10_000 + at, at, 1.0, 2.0, name, (sample,) * 8))
    return view


def test_the_answer_about_a_thousand_hostile_peers_fits_in_a_message() -> None:
    view = hostile()
    last = view.peers(0.0)[-1]["node"]
    text = Answers(view).to(last, at_s=0.0, now=1e9)
    assert len(text.encode()) < MOST_BYTES < TYPE_CAPS[Status] - 100 * 1024
    assert len(encode_control(Status(json=text), 0)) < TYPE_CAPS[Status]
    frame = json.loads(text)
    assert frame["peers_total"] == len(view) >= 1000
    assert frame["peers"][-1]["node"] == last, "who asks is in it"
    assert 20 < len(frame["peers"]) <= PEERS
    assert frame["timelines"][-1]["peers"] and frame["timelines"][-1]["more"] > 900
    assert len(frame["evaluations"][-1]["samples"]) == 8
    assert len(frame["lines"]) > 20
    newest = frame["lines"][0]["serial"]
    assert [line["serial"] for line in frame["lines"]] == list(
        range(newest, newest - len(frame["lines"]), -1)
    )


def test_of_a_small_run_it_is_the_whole_frame() -> None:
    view = view_of(SMALL)
    whole, told = json.loads(json.dumps(view.frame(view.newest or 0.0))), answer(view)
    assert set(told) == {*whole, "running", "spec"} and told["running"] is True
    for key in ("head", "peers", "regions", "links"):
        assert told[key] == whole[key], key
    assert told["rounds"] == whole["rounds"]
    assert told["timelines"] == whole["timelines"][-len(told["timelines"]) :] != []
    assert told["lines"] == whole["lines"][: len(told["lines"])] != []
    assert told["evaluations"][-1] == whole["evaluations"][-1]
    assert answer(view, "a stranger") == told


def test_whoever_asks_soon_again_gets_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(SMALL)
    made: list[float] = []
    head = view.head

    def counted(now: float) -> dict[str, Any]:
        made.append(now)
        return head(now)

    monkeypatch.setattr(view, "head", counted)
    answers = Answers(view)
    for at in range(300):
        answers.to(f"node {at}", at_s=100.0 + at * FRESH_S / 100, now=float(at))
    assert made == [0.0, 100.0, 200.0]


def test_a_host_that_keeps_regions_to_itself_answers_without_them() -> None:
    shown, hidden = answer(view_of(SMALL)), answer(view_of(SMALL, map_shown=False))
    assert shown["regions"] and any(p["region"] for p in shown["peers"])
    assert hidden["regions"] == [] and hidden["head"]["map"] is False
    assert {p["region"] for p in hidden["peers"]} == {""}
    assert {n["region"] for n in hidden["links"]["nodes"]} == {""}
    large = view_of(Options(peers=PEERS + 20, rounds=2, seed=1), map_shown=False)
    last = answer(large, large.peers(0.0)[-1]["node"])["peers"][-1]
    assert last["node"] == large.peers(0.0)[-1]["node"] and last["region"] == ""
