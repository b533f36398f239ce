"""What nodes tell of their rounds, in virtual time: true, complete, and without consequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sim_stories import small_run

from farflung.events import (
    PHASES,
    AttemptStarted,
    PeerDescribed,
    PeerMeasured,
    RoundCommitted,
    RoundOpened,
)
from farflung.ids import Role
from farflung.peer.control_link import ControlLink
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm

LATENCY_S = 0.02
"""One way, between any two nodes."""


@dataclass
class Told:
    opened: dict[int, float]
    resolved: dict[int, float]
    measured: dict[tuple[int, str], PeerMeasured]
    heard: dict[tuple[int, str], float]
    events: list[object]

    def spans(self, round_: int, name: str) -> list[tuple[str, float, float]]:
        return list(spans_of(self.measured[round_, name]))


def spans_of(event: PeerMeasured) -> Iterator[tuple[str, float, float]]:
    flat = iter(event.spans)
    return ((PHASES[int(i)], start, stop) for i, start, stop in zip(flat, flat, flat, strict=True))


def told_by(swarm: SimSwarm) -> Told:
    told = Told({}, {}, {}, {}, [event for _, event in swarm.told])
    for at_s, event in swarm.told:
        match event:
            case RoundOpened():
                told.opened[event.round] = at_s
            case RoundCommitted():
                told.resolved[event.round] = at_s
            case PeerMeasured():
                assert (event.round, event.name) not in told.measured, "once per round"
                told.measured[event.round, event.name] = event
                told.heard[event.round, event.name] = at_s
    return told


async def _run(step_s: dict[str, float], rounds: int = 6, **outer: int) -> SimSwarm:
    outer = {"rounds": rounds, **outer}
    spec = small_run("measures", outer=outer, swarm={"start_peers": len(step_s)})
    swarm = await SimSwarm.start(spec, peers=0, seed=5, latency_s=(LATENCY_S, LATENCY_S))
    for label, seconds in step_s.items():
        swarm.add(label, Role.TRAINER, step_s=seconds)
        swarm.spawn(label)
    await swarm.finished()
    return swarm


@pytest.fixture(scope="module")
def story() -> Told:
    return told_by(run_virtual(_run({"quick": 0.05, "even": 0.05, "slow": 0.4})))


def test_every_peer_and_the_keeper_tell_of_every_round(story: Told) -> None:
    trained = {n for r, n in story.measured if r >= 2}
    assert trained == {"quick", "even", "slow", "keeper"}
    for round_ in range(2, 6):
        assert {n for r, n in story.measured if r == round_} == trained, round_


def test_spans_lie_inside_their_round_and_cover_most_of_it(story: Told) -> None:
    for (round_, name), event in story.measured.items():
        spans, heard_s = story.spans(round_, name), story.heard[round_, name]
        opened_s = story.opened[round_]
        for phase, start_s, stop_s in spans:
            assert opened_s - 0.002 <= start_s <= stop_s <= heard_s + 0.002, (phase, event)
        first, last = min(s for _, s, _ in spans), max(e for *_, e in spans)
        assert last >= story.resolved[round_], "until it is applied"
        if name != "keeper" and round_ >= 2:
            assert last - first > 0.9 * (story.resolved[round_] - opened_s), (round_, name)


def test_overlapping_rounds_are_told_each_by_itself() -> None:
    """Window 2: a round is trained while the one before it is averaged."""
    story = told_by(run_virtual(_run({"quick": 0.05, "even": 0.05}, fragments=2, window=2)))
    overlaps = 0
    for (round_, name), event in story.measured.items():
        spans, opened_s = story.spans(round_, name), story.opened[round_]
        heard_s = story.heard[round_, name]
        assert all(opened_s - 0.002 <= a <= b <= heard_s + 0.002 for _, a, b in spans), event
        before = story.measured.get((round_ - 1, name))
        trains = [(a, b) for p, a, b in spans if p == "train"]
        votes = [(a, b) for p, a, b in spans_of(before) if p == "vote"] if before else []
        overlaps += any(a < d and c < b for a, b in trains for c, d in votes)
    assert overlaps >= 4


def test_nothing_between_first_and_last_span_is_left_open(story: Told) -> None:
    for round_, name in story.measured:
        covered_s = -1.0
        for _, start_s, stop_s in story.spans(round_, name):
            assert covered_s < 0 or start_s - covered_s <= 0.002, (round_, name)
            covered_s = max(covered_s, stop_s)


def test_waits_overlap_nothing(story: Told) -> None:
    for round_, name in story.measured:
        spans = story.spans(round_, name)
        for _, start_s, stop_s in [s for s in spans if s[0] == "wait"]:
            others = [s for s in spans if s[0] != "wait"]
            assert all(b <= start_s + 0.002 or a >= stop_s - 0.002 for _, a, b in others)


def test_phases_come_in_the_order_of_the_protocol(story: Told) -> None:
    for round_, name in story.measured:
        if name in ("quick", "even"):  # the slow one may train while the others average
            first: dict[str, float] = {}
            for phase, start_s, _ in story.spans(round_, name):
                first.setdefault(phase, start_s)
            starts = [first[p] for p in ("train", "encode", "vote", "merge") if p in first]
            assert starts == sorted(starts) and starts[0] == first["train"], (round_, name, first)


def test_a_slow_peers_training_is_the_longest_and_the_others_wait(story: Told) -> None:
    """Its one step takes longer than the others' five; not every round has one for it."""
    stepped = [r for r in range(6) if story.measured[r, "slow"].tokens_per_s]
    assert len(stepped) >= 2
    for round_ in stepped:
        spent = {
            (name, kind): sum(b - a for p, a, b in story.spans(round_, name) if p == kind)
            for name in ("quick", "even", "slow")
            for kind in ("train", "wait")
        }
        longest = max(("quick", "even", "slow"), key=lambda n: spent[n, "train"])
        assert longest == "slow", spent
        gap_s = spent["slow", "train"] - spent["quick", "train"]
        assert spent["quick", "wait"] > spent["slow", "wait"] + 0.5 * gap_s > 0


def test_a_trainers_figures_arrive(story: Told) -> None:
    event = story.measured[3, "quick"]
    assert 0 < event.lr <= 1 and event.grad_norm > 0 and event.flops == 6 * 4096
    assert event.device == "NumPy"
    assert event.tokens_per_s == pytest.approx(4 * 16 / 0.05), "rows x length over a step's time"
    assert story.measured[3, "keeper"].tokens_per_s == 0


def test_who_describes_itself_does_so_again_when_its_device_is_known(story: Told) -> None:
    said = [e for e in story.events if isinstance(e, PeerDescribed) and e.name == "quick"]
    assert [e.device for e in said] == ["", "NumPy"]
    assert all(e.software.startswith("farflung ") for e in said)


def test_an_attempts_shares_are_the_whole_fragment(story: Told) -> None:
    attempts = [e for e in story.events if isinstance(e, AttemptStarted)]
    for event in attempts:
        assert len(event.shares) == event.owners
        assert sum(share for _, share in event.shares) == pytest.approx(1, abs=0.001)


def test_telling_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    with_measures = run_virtual(_run({"quick": 0.05, "slow": 0.4}, rounds=4))

    async def silent(_: ControlLink, __: object) -> None:
        pass

    monkeypatch.setattr(ControlLink, "offer", silent)
    without = run_virtual(_run({"quick": 0.05, "slow": 0.4}, rounds=4))
    assert told_by(with_measures).measured and not told_by(without).measured
    assert with_measures.journal_bytes() == without.journal_bytes()
