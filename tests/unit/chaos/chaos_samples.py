"""Evidence of a small storm in which every promise held; tests forge one thing in it."""

from __future__ import annotations

from pathlib import Path

from farflung.chaos.evidence import Evidence, Said
from farflung.chaos.faults import Executed
from farflung.chaos.journal_marks import Mark
from farflung.chaos.processes import ProcessLife
from farflung.chaos.resources import Sample
from farflung.chaos.schedule import HOST, Fault, Kind
from farflung.chaos.swarm import chaos_spec
from farflung.events import (
    AgentStarted,
    Applied,
    Event,
    GenerationClosed,
    GenerationOpened,
    PeerJoined,
    PeerSuspect,
    RoundCommitted,
    RunStarted,
    StateReported,
)
from farflung.hashing import digest
from farflung.run.verify import Findings
from farflung.swarm.records import (
    AnyRecord,
    Close,
    Commit,
    Contributor,
    Gen,
    Genesis,
    Grant,
    Join,
    Lease,
    SignedVote,
    Term,
)

PEERS = ("p0", "p1", "p2")
ROUNDS = 100
ROWS = 10
START_S = 1000.0
KILL_S = 20.0
"""p1 is killed then, and started again a second later."""
BACK_S = 25.0
HOST_KILL_S = 50.0
HEALED_S = 85.0
"""Times are seconds after the start; a round takes one."""


def node(name: str) -> str:
    return f"{name}-node"


def root(round_: int) -> bytes:
    return bytes(digest(f"root {round_}".encode()))


def present(name: str, round_: int) -> bool:
    return name != "p1" or not KILL_S <= round_ < BACK_S


def generation(name: str, round_: int) -> int:
    return 2 if name == "p1" and round_ >= BACK_S else 1


def evidence() -> Evidence:
    return Evidence(
        spec=chaos_spec(0, 3, 2),
        started_s=START_S,
        healed_s=START_S + HEALED_S,
        executed=executed(),
        lives=lives(),
        said=said(),
        records=records(),
        marks=[(Mark(at_s=START_S + HOST_KILL_S, length=10, digest="", torn=0), True)],
        findings=Findings(
            commits=ROUNDS, steps_recomputed=ROUNDS, reductions_recomputed=ROUNDS * 2, partial=0
        ),
        samples={("p0", 10): samples()},
    )


def samples() -> list[Sample]:
    return [
        Sample(at_s=START_S + 5 * i, fds=20 + i % 3, rss=(60 << 20) + i * 1000, threads=5)
        for i in range(20)
    ]


def executed() -> list[Executed]:
    kill = Fault(number=0, kind=Kind.KILL, at_s=KILL_S, lasts_s=1.0, nodes=("p1",))
    host = Fault(number=1, kind=Kind.KILL_HOST, at_s=HOST_KILL_S, lasts_s=0.1, nodes=(HOST,))
    return [
        Executed(fault=f, started_s=START_S + f.at_s, ended_s=START_S + f.end_s)
        for f in (kill, host)
    ]


def lives() -> list[ProcessLife]:
    def life(
        name: str, number: int, from_s: float, to_s: float, why: str, code: int
    ) -> ProcessLife:
        return ProcessLife(
            name=name,
            number=number,
            pid=10 + number,
            started_s=START_S + from_s,
            log=Path(f"{name}-{number}.log"),
            ended_s=START_S + to_s,
            code=code,
            why=why,
        )

    return [
        life(HOST, 0, -5, HOST_KILL_S, "killed", -9),
        life(HOST, 1, HOST_KILL_S + 0.1, 110, "asked", 0),
        life("p0", 0, -3, 105, "asked", 0),
        life("p1", 0, -3, KILL_S, "killed", -9),
        life("p1", 1, KILL_S + 1, 105, "asked", 0),
        life("p2", 0, -3, 105, "asked", 0),
    ]


def records() -> list[AnyRecord]:
    found: list[AnyRecord] = [
        Genesis(
            version=1,
            run="r",
            run_key=b"",
            protocol=1,
            arithmetic=1,
            spec=b"",
            layout=b"",
            layout_hash=b"",
            fragment_hashes=(b"",),
            snapshot=b"",
            snapshot_bytes=0,
            data=(),
            tokenizer=b"",
            tokenizer_bytes=0,
        ),
        Term(term=1),
    ]
    for name in (*PEERS, "keeper"):
        found.append(
            Join(node=node(name), name=name, region="", role="trainer", public_key=b"", invite=b"")
        )
        found.append(Gen(node=node(name), generation=1))
    for round_ in range(ROUNDS):
        if round_ == KILL_S:
            found.append(Close(node=node("p1"), generation=1, reason="no connection", freed=()))
        if round_ == BACK_S:
            found.append(Gen(node=node("p1"), generation=2))
        if round_ == HOST_KILL_S:
            found.append(Term(term=2))
        found += a_round(round_)
    return found


def a_round(round_: int) -> list[AnyRecord]:
    names = [n for n in PEERS if present(n, round_)]
    held = {n: ((round_ * 3 + i) * ROWS, (round_ * 3 + i + 1) * ROWS) for i, n in enumerate(names)}
    # A peer that is away leaves no hole: the ranges of a round are packed.
    first = sum(ROWS * sum(present(n, r) for n in PEERS) for r in range(round_))
    held = {n: (first + i * ROWS, first + (i + 1) * ROWS) for i, n in enumerate(names)}
    term = 2 if round_ >= HOST_KILL_S else 1
    grants = tuple(
        Grant(node=node(n), generation=generation(n, round_), ranges=(held[n],)) for n in names
    )
    return [
        Lease(round=round_, term=term, fragment=0, grants=grants),
        Commit(
            term=term,
            round=round_,
            attempt=1,
            fragment=0,
            base_hash=b"",
            base_round=round_ - 1,
            codec="int8",
            contributors=tuple(
                Contributor(
                    node=node(n),
                    generation=generation(n, round_),
                    credited=(held[n],),
                    tokens=10,
                    commitment=b"",
                    clip=0,
                    base_round=round_ - 1,
                )
                for n in names
            ),
            rejected=(),
            divisor=10 * len(names),
            slices=(),
            bytes_root=b"",
            outer_lr=0,
            outer_momentum=0,
            fragment_hash=b"",
            state_root=root(round_),
            holders=(node("p0"), node("keeper")),
            votes=(SignedVote(node=node("p0"), bytes_root=b"", fragment_hash=b"", signature=b""),),
        ),
    ]


def said() -> dict[str, list[Said]]:
    logs: dict[str, list[Said]] = {HOST: [], "keeper": [], "p0": [], "p1": [], "p2": []}

    def say(log: str, at_s: float, event: Event) -> None:
        logs[log].append(Said(START_S + at_s, event))

    say(HOST, -5, RunStarted(run="r", name="chaos", parameters=1, term=1, rounds=1))
    for name in PEERS:
        say(name, -3, AgentStarted(run="r", node=node(name), name=name, role="trainer"))
        say(HOST, -2, PeerJoined(node=node(name), name=name, role="trainer"))
        opened = GenerationOpened(node=node(name), name=name, generation=1, next_round=0)
        say(HOST, -1, opened)
    say("p1", KILL_S + 1.5, AgentStarted(run="r", node=node("p1"), name="p1", role="trainer"))
    for round_ in range(ROUNDS):
        at_s = round_ + 0.5
        if round_ == KILL_S:
            lost = PeerSuspect(node=node("p1"), name="p1", reason="closed")
            say(HOST, KILL_S + 0.1, lost)
            say(HOST, KILL_S + 0.2, closed("p1", "no connection"))
        if round_ == BACK_S:
            again = GenerationOpened(node=node("p1"), name="p1", generation=2, next_round=round_)
            say(HOST, BACK_S, again)
        if round_ == HOST_KILL_S:
            again_ = RunStarted(run="r", name="chaos", parameters=1, term=2, rounds=1)
            say(HOST, HOST_KILL_S + 0.3, again_)
        say(HOST, at_s, committed(round_))
        say(HOST, at_s + 0.2, reported("p0", round_))
        for name in ("keeper", *PEERS):
            if name == "keeper" or present(name, round_):
                say(name, at_s + 0.1, applied(round_, name != "keeper"))
    return logs


def closed(name: str, reason: str) -> GenerationClosed:
    return GenerationClosed(node=node(name), name=name, generation=1, reason=reason, returned=0)


def committed(round_: int) -> RoundCommitted:
    return RoundCommitted(
        round=round_,
        fragment=0,
        attempt=1,
        contributors=3,
        tokens=1,
        total_tokens=1,
        loss=0.1,
        took_s=0.9,
        holders=2,
        replicated=True,
        state_root=root(round_).hex(),
    )


def applied(round_: int, contributed: bool) -> Applied:
    return Applied(
        round=round_,
        fragment=0,
        attempt=1,
        fragment_hash="",
        state_root=root(round_).hex(),
        contributed=contributed,
    )


def reported(name: str, round_: int, agrees: bool = True) -> StateReported:
    return StateReported(
        round=round_,
        node=node(name),
        name=name,
        state_root=root(round_).hex(),
        agrees=agrees,
        bytes_up=0,
        bytes_down=0,
    )
