"""What a joiner says about its own clock, and how it keeps its certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from farflung.cli.join import _role, read_invite
from farflung.cli.join_line import JoinLine
from farflung.errors import LinkDown, UserError
from farflung.events import (
    CertificateNotRenewed,
    ClockSkewed,
    Event,
    NoCoordinator,
    RunKnown,
    TaskFailed,
)
from farflung.ids import Endpoint, Role, RunId
from farflung.run.certificates import RENEW_EVERY_S as HOST_RENEWS_S
from farflung.run.certificates import keep_certified
from farflung.run.join import (
    RENEW_EVERY_S,
    SKEW_TOLD_S,
    Joined,
    check_same_role,
    check_same_run,
    tell_skew,
    wanted_options,
)
from farflung.run.membership import MEMBERSHIP, JoinOptions, Membership, load_membership
from farflung.sim.loop import run_virtual
from farflung.swarm.identity import Identity
from farflung.swarm.invite import make_invite


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
    JoinLine().see(TaskFailed(task="serve blobs", error="KeyError: 'x'", where="blobs.py:7"))
    assert capsys.readouterr().out == (
        "! a fault ended the task `serve blobs`: KeyError: 'x' (blobs.py:7)\n"
    )


# ---- who dials out only, and what a joiner prints ---------------------------------------------


def invite(*endpoints: str, run: str = "0123456789abcdef") -> str:
    return make_invite(
        Identity.from_seed(bytes(32)),
        run=RunId(run),
        run_name="far",
        ca_public_key=bytes(32),
        endpoints=[Endpoint(e) for e in endpoints],
        role=Role.TRAINER,
        expires_at=1_800_000_000,
        uses=3,
    )


FAR, NEAR = invite("train.example.org:7000"), invite("127.0.0.1:7000")


def member(text: str, options: JoinOptions) -> Membership:
    return Membership(
        invite=text,
        name=options.name,
        region="",
        bind=options.bind or "",
        advertise=options.advertise,
        outbound_only=options.outbound_only,
        trainer=(),
        certificate_pem="",
        ca_pem="",
    )


@pytest.mark.parametrize(
    ("text", "given", "hidden"),
    [
        (FAR, JoinOptions(), True),
        (FAR, JoinOptions(bind="0.0.0.0:7100", advertise=("a.example.org:7100",)), False),
        (FAR, JoinOptions(bind="192.0.2.11:7100"), False),
        (FAR, JoinOptions(advertise=("a.example.org:7100",)), False),
        (NEAR, JoinOptions(), False),
        (NEAR, JoinOptions(outbound_only=True), True),
    ],
)
def test_a_peer_that_nobody_could_dial_dials_out_only(
    text: str, given: JoinOptions, hidden: bool
) -> None:
    first = wanted_options(None, given, text)
    assert first.outbound_only is hidden
    again = wanted_options(member(text, first), JoinOptions(), "")
    assert (again.outbound_only, again.bind, again.name) == (hidden, first.bind, first.name)
    opened = wanted_options(member(text, first), JoinOptions(bind="192.0.2.11:7100"), "")
    assert opened.outbound_only is False


def test_another_run_of_the_same_name_is_refused_before_its_folder_is_touched(
    tmp_path: Path,
) -> None:
    known = member(FAR, wanted_options(None, JoinOptions(), FAR))
    check_same_run(known, NEAR, tmp_path)
    check_same_run(None, FAR, tmp_path)
    with pytest.raises(UserError, match="of the same name"):
        check_same_run(known, invite("x.example.org:1", run="f" * 16), tmp_path)


KNOWN = RunKnown(name="books", model="tiny", parameters=1_234_567, rounds=200, finished=False)


def test_the_first_line_names_the_run_and_the_second_why_it_is_not_dialled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = JoinLine("kitchen", hidden=True)
    line.host = "train.example.org:7000"
    line.see(KNOWN)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "kitchen joins run books of train.example.org:7000: tiny, 1,234,567 parameters, 200 rounds"
    )
    assert len(said) == 2 and "dials out only" in said[1]


def test_a_host_that_is_down_is_waited_for_in_calm_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = JoinLine("kitchen")
    line.see(NoCoordinator(reason="cannot reach h:1: connection refused", tries=1, for_s=0.1))
    line.see(NoCoordinator(reason="cannot reach h:1: connection refused", tries=9, for_s=130.0))
    line.see(KNOWN)
    line.see(NoCoordinator(reason="gone", tries=1, for_s=0.1))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("waiting for the host: cannot reach h:1") and "Ctrl-C" in said[0]
    assert said[1].startswith("kitchen joins run books"), "the reminder says the rest, later"
    assert said[2].startswith(
        "! the coordinator is gone; training goes on: gone; it is tried again"
    )
    assert "no work is lost" in said[2]


@pytest.mark.parametrize("how", ["words", "file", "bom", "quoted"])
def test_an_invite_comes_as_words_or_as_a_file(tmp_path: Path, how: str) -> None:
    path = tmp_path / "invite.txt"
    path.write_text(f"farflung join {FAR}\n", "utf-8-sig" if how == "bom" else "utf-8")
    pasted = {
        "words": ["farflung", "join", FAR[:50], FAR[50:]],
        "quoted": [f'"{FAR}"'],
    }.get(how, [str(path)])
    assert read_invite(pasted) == FAR


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "invite.bin"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"invite\.bin"):
        read_invite([str(path)])


# ---- the role ------------------------------------------------------------------------------


def test_a_node_keeps_its_role_and_a_start_without_one_goes_on_with_it(tmp_path: Path) -> None:
    first = wanted_options(None, JoinOptions(role=Role.EVALUATOR), NEAR)
    known = msgspec.structs.replace(member(NEAR, first), role=Role.EVALUATOR)
    for invite_again in ("", NEAR):
        assert wanted_options(known, JoinOptions(), invite_again).role == Role.EVALUATOR
    check_same_role(known, None, tmp_path)
    check_same_role(known, Role.EVALUATOR, tmp_path)
    check_same_role(None, Role.TRAINER, tmp_path)
    with pytest.raises(UserError, match="takes part as evaluator, not as trainer"):
        check_same_role(known, Role.TRAINER, tmp_path)


def test_a_membership_of_an_older_version_is_a_trainers(tmp_path: Path) -> None:
    plain = msgspec.to_builtins(member(NEAR, wanted_options(None, JoinOptions(), NEAR)))
    del plain["role"]
    (tmp_path / MEMBERSHIP).write_bytes(msgspec.json.encode(plain))
    known = load_membership(tmp_path)
    assert known is not None and known.role is Role.TRAINER


@pytest.mark.parametrize(
    ("role", "trainer", "words"),
    [
        ("keeper", "", "--role 'keeper' must be trainer or evaluator"),
        ("Evaluator", "", "must be trainer or evaluator"),
        ("evaluator", "python own.py", "an evaluator trains nothing"),
    ],
)
def test_a_role_that_nobody_joins_as_is_one_sentence(role: str, trainer: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        _role(role, trainer)


def test_the_roles_of_a_joiner() -> None:
    assert (_role("", "python own.py"), _role("evaluator", "")) == (None, Role.EVALUATOR)
