"""No state without a sentence: what is waited for, since when, what ends it, who must act."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from farflung.cli.waiting import (
    NOBODY,
    QUIET,
    STATE_WORDS,
    Reminder,
    Wait,
    Waiting,
    brief,
    of_node,
    of_run,
    sentence,
    wait_of_run,
)
from farflung.ids import NodePhase, Role
from farflung.peer.glance import Glance, LeaseGlance
from farflung.peer.standing import StayPhase

GLANCE = Glance(
    role=Role.TRAINER,
    stay=StayPhase.MEMBER,
    trainer=NodePhase.TRAINING,
    connected=True,
    known=True,
    provided=True,
    rows_missing=False,
    finished=False,
    evaluating=False,
    next_round=12,
    rounds_wanted=50,
    lease=LeaseGlance(round=12, step=30, steps=50),
    tokens_per_s=8123.0,
    peers=4,
    sent_bytes=12_000_000,
    received_bytes=12_000_000,
)
IDLE = LeaseGlance()


@pytest.mark.parametrize("wait", Wait)
def test_every_state_says_what_ends_it_and_who_must_act(wait: Wait) -> None:
    told = STATE_WORDS[wait]
    assert told.what and told.ends and told.act
    text = sentence(Waiting(wait=wait, since_s=0.0, detail="a reason"), 75.0)
    assert told.what in text and "75 s" in text and told.ends in text and told.act in text
    assert "a reason" in text and "\n" not in text


def test_states_are_told_apart() -> None:
    assert len({(w.what, w.ends) for w in STATE_WORDS.values()}) == len(STATE_WORDS)


@pytest.mark.parametrize(
    ("stay", "trainer", "role"), list(itertools.product(StayPhase, NodePhase, Role))
)
def test_every_phase_of_a_node_has_a_state(stay: StayPhase, trainer: NodePhase, role: Role) -> None:
    for lease in (IDLE, GLANCE.lease, LeaseGlance(departed=True)):
        wait = of_node(replace(GLANCE, stay=stay, trainer=trainer, role=role, lease=lease))
        assert wait in STATE_WORDS


@pytest.mark.parametrize(
    ("changes", "wait"),
    [
        ({}, Wait.TRAINING),
        ({"connected": False}, Wait.COORDINATOR),
        ({"connected": False, "known": False}, Wait.HOST),
        ({"known": False}, Wait.JOURNAL),
        ({"provided": False}, Wait.DATA),
        ({"stay": StayPhase.SYNCING}, Wait.STATE),
        ({"stay": StayPhase.STARTING, "trainer": NodePhase.LOADING}, Wait.LOADING),
        ({"stay": StayPhase.STARTING, "trainer": NodePhase.WAITING}, Wait.RESETTING),
        ({"stay": StayPhase.ASKED}, Wait.ADMISSION),
        ({"trainer": NodePhase.COMPILING}, Wait.COMPILING),
        ({"trainer": NodePhase.WAITING, "lease": IDLE}, Wait.PLAN),
        ({"trainer": NodePhase.WAITING, "lease": LeaseGlance(departed=True)}, Wait.OTHERS),
        ({"rows_missing": True}, Wait.ROWS),
        ({"trainer": NodePhase.SAVING}, Wait.SAVING),
        ({"finished": True}, Wait.END),
        ({"role": Role.EVALUATOR, "trainer": NodePhase.NONE}, Wait.QUESTION),
        ({"role": Role.EVALUATOR, "evaluating": True}, Wait.EVALUATING),
        ({"role": Role.KEEPER, "trainer": NodePhase.NONE}, Wait.FOLLOWING),
    ],
)
def test_which_state_a_node_is_in(changes: dict[str, object], wait: Wait) -> None:
    assert of_node(replace(GLANCE, **changes)) is wait  # type: ignore[arg-type]
    assert of_node(None) is Wait.HOST


@pytest.mark.parametrize(
    ("state", "reason", "wait"),
    [
        ("waiting", "waiting: 1 of at least 2 peers", Wait.FIRST_PEERS),
        ("paused", "paused: 1 of min 2 peers", Wait.MIN_PEERS),
        ("paused", "The host's disk refuses the journal (full).", Wait.JOURNAL_DISK),
        ("paused", "for reasons", Wait.PAUSED),
        ("running", "", Wait.ROUND),
        ("finished", "", Wait.NOTHING),
        ("stopped", "", Wait.UNSERVED),
        ("of another version", "", Wait.ROUND),
    ],
)
def test_which_state_a_run_is_in(state: str, reason: str, wait: Wait) -> None:
    assert wait_of_run(state, reason) is wait
    assert wait_of_run("finished", "", "round 3: 40 %") is Wait.UPLOAD


def test_a_run_says_nothing_twice() -> None:
    """The coordinator's own sentence may say already what ends it."""
    whole = "Paused: 1 of min 2 peers. It goes on by itself when enough peers are here."
    text = of_run("paused", whole, "", 100.0, 280.0)
    assert text.startswith(f"for 3 m: {whole}") and text.count("by itself") == 1
    assert "invite others" in text, "who must act"
    bare = of_run("paused", "paused: 1 of min 2 peers", "", 100.0, 280.0)
    assert bare.startswith("paused: 1 of min 2 peers for 3 m; goes on by itself")
    assert of_run("running", "Round 3 trains.", "", 0.0, 60.0) == "for 60 s: Round 3 trains."
    assert of_run("running", "") == ""


def test_the_short_form_fits_a_live_line() -> None:
    waiting = Waiting(wait=Wait.STATE, since_s=3.0, detail="120 of 512 MB")
    assert brief(waiting, 15.0) == "fetching the model's state for 12 s: 120 of 512 MB"
    assert "\x1b" not in brief(replace(waiting, detail="\x1b[2J"), 15.0)


def test_a_state_that_lasts_is_told_after_ten_seconds_a_minute_and_every_ten_minutes() -> None:
    reminder, told = Reminder(), []
    waiting = Waiting(wait=Wait.STATE, since_s=0.0)
    for now in range(3000):
        if reminder.due(waiting, float(now)):
            told.append(now)
    assert told == [10, 60, 600, 1200, 1800, 2400]


def test_a_state_that_was_just_told_is_not_told_at_once() -> None:
    reminder, waiting = Reminder(), Waiting(wait=Wait.HOST, since_s=0.0)
    reminder.said(waiting, 0.0)
    assert [s for s in range(100) if reminder.due(waiting, float(s))] == [60]


def test_another_state_begins_anew() -> None:
    reminder = Reminder()
    first, second = Waiting(wait=Wait.STATE, since_s=0.0), Waiting(wait=Wait.LOADING, since_s=20.0)
    assert reminder.due(first, 11.0)
    assert not reminder.due(second, 21.0)
    assert not reminder.due(None, 25.0)
    assert reminder.due(second, 31.0)


def test_what_is_as_it_should_be_is_quiet() -> None:
    assert Wait.TRAINING in QUIET and Wait.HOST not in QUIET and Wait.DISK not in QUIET
    assert STATE_WORDS[Wait.DISK].act != NOBODY, "somebody must free space"
