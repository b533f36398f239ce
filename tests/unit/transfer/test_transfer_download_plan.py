"""The pure planner of a parallel download, against random sources."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from farflung.transfer.download_plan import (
    LATENCY_S,
    MIN_WINDOW,
    PIECE_BYTES,
    STRIKES,
    Ask,
    FetchPlan,
    Item,
)

CHUNK = 4 << 20


def items(count: int, n_bytes: int = CHUNK) -> list[Item]:
    return [Item(bytes([i]) * 32, n_bytes, f"chunk {i}") for i in range(count)]


@dataclass
class Source:
    """Delivers in order at a rate; lies, lacks, dies or falls silent as told."""

    bytes_per_s: float
    lies: bool = False
    lacks: frozenset[bytes] = frozenset()
    dies_at_s: float = float("inf")
    silent_from_s: float = float("inf")
    free_s: float = 0.0


@dataclass
class World:
    """Plays one download; what it saw is in the counters."""

    plan: FetchPlan
    sources: dict[str, Source]
    now_s: float = 0.0
    asked: Counter[tuple[str, bytes]] = field(default_factory=Counter)
    whole: Counter[bytes] = field(default_factory=Counter)
    in_flight: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)

    def run(self, deadline_s: float = 600.0) -> None:
        answers: list[tuple[float, int, str, Ask]] = []
        count = 0
        self.plan.set_sources(list(self.sources))
        while not self.plan.done and self.plan.unservable() is None:
            for ask in self.plan.asks(self.now_s):
                count += 1
                self.asked[ask.source, ask.name] += ask.offset == 0
                self.in_flight[ask.source] += ask.length
                self.most[ask.source] = max(self.most[ask.source], self.in_flight[ask.source])
                answer = self._answer(ask)
                if answer is not None:
                    heapq.heappush(answers, (answer[0], count, answer[1], ask))
            if answers and answers[0][0] <= self.now_s + 0.5:
                self.now_s, _, what, ask = heapq.heappop(answers)
                self._take(what, ask)
            else:
                self.now_s += 0.5
            assert self.now_s < deadline_s

    def _answer(self, ask: Ask) -> tuple[float, str] | None:
        source = self.sources[ask.source]
        start_s = max(self.now_s, source.free_s)
        source.free_s = start_s + ask.length / source.bytes_per_s
        if source.free_s >= source.dies_at_s:
            return max(self.now_s, source.dies_at_s), "lost"
        if source.free_s >= source.silent_from_s:
            return None
        if ask.name in source.lacks:
            return self.now_s, "missing"
        return source.free_s, "piece"

    def _take(self, what: str, ask: Ask) -> None:
        self.in_flight[ask.source] -= ask.length
        if what == "lost":
            self.plan.on_lost(ask, self.now_s)
        elif what == "missing":
            self.plan.on_missing(ask)
        elif self.plan.on_piece(ask, self.now_s):
            if self.sources[ask.source].lies:
                self.plan.on_bad(ask.source, ask.name)
            else:
                self.whole[ask.name] += 1
                self.delivered[ask.source] += CHUNK
                self.plan.on_stored(ask.name)


def test_every_blob_comes_once_and_sources_share_by_their_rate() -> None:
    world = World(FetchPlan(items(40)), {"a": Source(4e6), "b": Source(12e6)})
    world.run()
    assert set(world.whole.values()) == {1} and len(world.whole) == 40
    assert sum(world.asked.values()) <= 42  # at the end a slow one may be asked twice
    assert world.delivered["b"] == pytest.approx(3 * world.delivered["a"], rel=0.35)
    assert world.now_s == pytest.approx(40 * CHUNK / 16e6, rel=0.15)


def test_no_source_has_more_in_flight_than_it_delivers_in_the_latency() -> None:
    world = World(FetchPlan(items(40)), {"slow": Source(1e6), "fast": Source(40e6)})
    world.run()
    assert world.most["slow"] <= MIN_WINDOW
    assert world.most["fast"] <= 40e6 * LATENCY_S * 1.1 + PIECE_BYTES
    assert world.most["fast"] > 4 * MIN_WINDOW


def test_a_liar_is_asked_for_three_blobs_at_most_and_all_come_from_others() -> None:
    strikes: dict[str, int] = {}
    world = World(
        FetchPlan(items(20), strikes), {"liar": Source(50e6, lies=True), "good": Source(5e6)}
    )
    world.run()
    assert strikes == {"liar": STRIKES}
    assert world.delivered["good"] == 20 * CHUNK
    again = World(FetchPlan(items(5), strikes), {"liar": Source(50e6), "good": Source(5e6)})
    again.run()  # another download of the session
    assert not [key for key in again.asked if key[0] == "liar"]


def test_what_one_source_lacks_is_asked_of_the_others_only_once_of_it() -> None:
    lacked = frozenset(i.name for i in items(10)[3:7])
    world = World(FetchPlan(items(10)), {"old": Source(9e6, lacks=lacked), "new": Source(3e6)})
    world.run()
    assert len(world.whole) == 10
    assert all(world.asked["old", name] <= 1 for name in lacked)


def test_a_blob_that_nobody_has_is_named() -> None:
    gone = items(4)[2]
    lacks = frozenset({gone.name})
    world = World(
        FetchPlan(items(4)), {"a": Source(5e6, lacks=lacks), "b": Source(5e6, lacks=lacks)}
    )
    world.run()
    assert world.plan.unservable() == gone


@pytest.mark.parametrize("how", ["dies_at_s", "silent_from_s"])
def test_a_source_that_stops_costs_only_what_it_was_sending(how: str) -> None:
    bad = Source(8e6, **{how: 2.0})
    world = World(FetchPlan(items(20)), {"bad": bad, "good": Source(8e6)})
    world.run()
    assert len(world.whole) == 20
    # What both deliver in the first two seconds is kept.
    assert world.now_s < 2 + (20 * CHUNK - 2 * 16e6 + 3 * CHUNK) / 8e6 + 3


@pytest.mark.parametrize("seed", range(30))
def test_any_mix_of_faults_ends_with_every_blob_while_one_source_is_sound(seed: int) -> None:
    rng = random.Random(seed)
    wanted = items(rng.randint(1, 25), rng.choice([1, PIECE_BYTES, PIECE_BYTES + 1, CHUNK]))
    sources = {"sound": Source(rng.uniform(1e6, 2e7))}
    for n in range(rng.randint(0, 4)):
        sources[f"s{n}"] = Source(
            rng.uniform(1e5, 5e7),
            lies=rng.random() < 0.3,
            lacks=frozenset(i.name for i in wanted if rng.random() < 0.3),
            dies_at_s=rng.choice([float("inf"), rng.uniform(0, 5)]),
            silent_from_s=rng.choice([float("inf"), rng.uniform(0, 5)]),
        )
    world = World(FetchPlan(wanted), sources)
    world.run()
    assert world.plan.done
    assert set(world.whole) == {i.name for i in wanted}
    assert set(world.whole.values()) == {1}
    for node, source in sources.items():
        if source.lies:
            assert world.delivered[node] == 0
