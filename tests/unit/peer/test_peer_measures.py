"""The book of a node's rounds: joined spans, waits between them, and bounds on all of it."""

from __future__ import annotations

import pytest

from farflung.events import PHASES
from farflung.inner.channel import StepFigures, WorkReport
from farflung.network.messages import LinkFigures, RoundMeasures
from farflung.peer.measures import MAX_KEPT, MAX_ROUNDS, MAX_SPANS, RoundBook, told

TRAIN, WAIT, SEND = (PHASES.index(p) for p in ("train", "wait", "send"))


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def now(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def book(clock: Hand) -> RoundBook:
    return RoundBook(clock.now)


def spans(message: RoundMeasures | None) -> list[tuple[str, float, float]]:
    assert message is not None
    return [(PHASES[i], round(a, 6), round(b, 6)) for i, a, b in message.spans]


def test_what_no_phase_covers_is_waiting(book: RoundBook, clock: Hand) -> None:
    book.begin(3)
    clock.s += 1
    with book.during(3, "train"):
        clock.s += 5
    clock.s += 2
    with book.during(3, "merge"):
        clock.s += 0.5
    clock.s += 0.25
    assert spans(book.close(3, ())) == [
        ("wait", 8.75, 7.75),
        ("train", 7.75, 2.75),
        ("wait", 2.75, 0.75),
        ("merge", 0.75, 0.25),
    ]


def test_several_at_a_time_are_one_span(book: RoundBook, clock: Hand) -> None:
    book.begin(0)
    with book.during(0, "send"):
        clock.s += 1
        with book.during(0, "send"):
            clock.s += 1
        clock.s += 1
    with book.during(0, "send"):  # goes on at once
        clock.s += 1
    assert spans(book.close(0, ())) == [("send", 4.0, 0.0)]


def test_a_phase_that_an_error_ends_is_ended(book: RoundBook, clock: Hand) -> None:
    book.begin(0)

    def fail() -> None:
        with book.during(0, "send"):
            clock.s += 1
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    clock.s += 9
    assert spans(book.close(0, ())) == [("send", 10.0, 9.0)]


def test_an_interrupted_phase_may_be_left_later(book: RoundBook, clock: Hand) -> None:
    book.begin(0)
    book.enter(0, "vote")
    clock.s += 1
    book.interrupt(0, "vote")
    clock.s += 1
    book.leave(0, "vote")
    book.interrupt(0, "vote")
    assert spans(book.close(0, ())) == [("vote", 2.0, 1.0)]


def test_what_still_runs_when_the_round_is_resolved_ends_there(
    book: RoundBook, clock: Hand
) -> None:
    book.begin(0)
    with book.during(0, "train"):
        clock.s += 4
        assert spans(book.close(0, ())) == [("train", 4.0, 0.0)]
        clock.s += 4
    assert book.close(0, ()) is None


def test_rounds_that_were_not_begun_or_are_over_leave_no_trace(
    book: RoundBook, clock: Hand
) -> None:
    with book.during(7, "merge"):
        clock.s += 1
    assert book.close(7, ()) is None
    for late in (6, 7):
        book.begin(late)
        assert not book.knows(late)


def test_rounds_that_are_never_resolved_are_forgotten(book: RoundBook) -> None:
    for round_ in range(1000):
        book.begin(round_)
    assert [r for r in range(1000) if book.knows(r)] == list(range(1000 - MAX_ROUNDS, 1000))


def test_the_longest_spans_are_told_of_too_many(book: RoundBook, clock: Hand) -> None:
    book.begin(0)
    for i in range(60):
        with book.during(0, "send"):
            clock.s += 1.0 + i / 10
        clock.s += 2.0
    message = book.close(0, ())
    assert message is not None and len(message.spans) == MAX_SPANS
    assert sum(i == SEND for i, *_ in message.spans) == 50, "sends of 2 s and more; then waits"
    assert min(a - b for _, a, b in message.spans) == pytest.approx(2.0)
    assert list(message.spans) == sorted(message.spans, key=lambda s: -s[1])


def test_a_phase_that_is_entered_too_often_is_waiting(book: RoundBook, clock: Hand) -> None:
    book.begin(0)
    for _ in range(MAX_KEPT + 100):
        with book.during(0, "send"):
            clock.s += 0.01
        clock.s += 0.1
    book.enter(0, "vote")
    clock.s += 10.0
    told = spans(book.close(0, ()))
    assert [phase for phase, *_ in told[-2:]] == ["wait", "vote"], "what goes on is told"
    assert sum(a - b for phase, a, b in told if phase == "send") < MAX_KEPT * 0.11 + 0.01


def test_nothing_too_short_to_be_seen_is_told() -> None:
    assert told(0.0, [(TRAIN, 0.0, 1.0), (SEND, 1.0003, 1.0004), (TRAIN, 1.0006, 2.0)]) == [
        (TRAIN, 0.0, 2.0)
    ]
    assert told(0.0, [(TRAIN, 0.0, 1.0), (SEND, 1.2, 1.2), (TRAIN, 1.5, 2.0)]) == [
        (TRAIN, 0.0, 1.0),
        (WAIT, 1.0, 1.5),
        (TRAIN, 1.5, 2.0),
    ]


def test_the_trainers_figures_come_along(book: RoundBook, clock: Hand) -> None:
    book.begin(2)
    figures = StepFigures(lr=0.5, grad_norm=2.0, mfu=0.4, device="x" * 100, memory_bytes=7)
    report = WorkReport(
        round=2,
        rows=8,
        steps=2,
        tokens=1000,
        loss_sum=4.0,
        finite_steps=2,
        finite=True,
        compute_s=4.0,
        wait_s=1.0,
        note="",
        figures=figures,
    )
    with book.during(2, "train"):
        clock.s += 4
    book.trained(2, report)
    link = LinkFigures(node="n", bytes=3)
    message = book.close(2, (link,))
    assert message is not None
    assert (message.lr, message.grad_norm, message.mfu) == (0.5, 2.0, 0.4)
    assert (message.tokens_per_s, message.memory_bytes) == (250.0, 7)
    assert message.device == book.device == "x" * 64
    assert message.links == (link,)
