"""What a joiner says about its own clock, and how it keeps its certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from farflung.cli.join import _JoinLine
from farflung.errors import LinkDown
from farflung.events import CertificateNotRenewed, ClockSkewed, Event, TaskFailed
from farflung.run.certificates import RENEW_EVERY_S as HOST_RENEWS_S
from farflung.run.certificates import keep_certified
from farflung.run.join import RENEW_EVERY_S, SKEW_TOLD_S, Joined, tell_skew
from farflung.sim.loop import run_virtual


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [(3600.0, "3,600 s ahead of the"), (-90.4, "90 s behind the"), (SKEW_TOLD_S, ""), (-3.0, "")],
)
def test_a_clock_that_is_wrong_by_more_than_a_minute_is_told(ahead_s: float, words: str) -> None:
    events: list[Event] = []
    tell_skew(ahead_s, events.append)
    assert [words in e.sentence for e in events if isinstance(e, ClockSkewed)] == [True] * bool(
        words
    )


ERRORS = [KeyError("no such key"), LinkDown("nobody answers"), OSError("no descriptors")]


def failing(times: list[float]) -> Callable[..., None]:
    """Fails by something else each time."""

    def fail(*_: object) -> None:
        times.append(asyncio.get_running_loop().time())
        raise ERRORS[len(times) - 1]

    return fail


async def for_a_while(work: object, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await work  # type: ignore[misc]


def check(events: list[Event], times: list[float], every_s: float) -> None:
    assert times == [pytest.approx(every_s * i) for i in (1, 2, 3)]
    assert [type(e) for e in events] == [TaskFailed, CertificateNotRenewed, CertificateNotRenewed]
    assert all("renew" in e.task for e in events if isinstance(e, TaskFailed))


def test_a_members_renewal_that_fails_by_whatever_is_told_and_tried_again() -> None:
    events, times = list[Event](), list[float]()

    class Log:
        emit = staticmethod(events.append)

    class Files:
        log = Log

    joined = Joined.__new__(Joined)
    joined.files = Files  # type: ignore[assignment]
    fail = failing(times)

    async def renew() -> None:
        fail()

    joined._renew = renew  # type: ignore[method-assign]
    with pytest.raises(TimeoutError):
        run_virtual(for_a_while(joined._keep_renewing(), 3.5 * RENEW_EVERY_S))
    check(events, times, RENEW_EVERY_S)


def test_a_hosts_renewal_that_fails_by_whatever_is_told_and_tried_again() -> None:
    events, times = list[Event](), list[float]()

    class Authority:
        issue = staticmethod(failing(times))

    class Identity:
        public_key, node_id = b"", ""

    certified = [(None, Identity, "peer")]
    keeping = keep_certified(Authority, certified, events.append)  # type: ignore[arg-type]
    with pytest.raises(TimeoutError):
        run_virtual(for_a_while(keeping, 3.5 * HOST_RENEWS_S))
    check(events, times, HOST_RENEWS_S)


def test_a_failed_task_is_one_line_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _JoinLine().see(TaskFailed(task="serve blobs", error="KeyError: 'x'", where="blobs.py:7"))
    assert capsys.readouterr().out == (
        "! a fault ended the task `serve blobs`: KeyError: 'x' (blobs.py:7)\n"
    )
