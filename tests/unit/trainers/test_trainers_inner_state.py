"""A node's inner states: saved, loaded after a restart, given to a joiner, refused when bad."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from test_trainers_process import ENTRIES, FRAGMENTS, SPEC, TOY, N, lease

from farflung.clock import InlineWorkers
from farflung.config.run import SwarmSpec
from farflung.disk import Disk, MemoryDisk, RealDisk
from farflung.errors import CorruptState, LinkDown, StorageError
from farflung.events import Event, InnerStateLoaded, InnerStateSkipped
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.inner.seam import SharedState
from farflung.inner.state_file import Header, StateEntry, encode_header
from farflung.network.messages import InnerOffer, InnerWanted
from farflung.outer.layout import Layout
from farflung.peer.outer_state import OuterState
from farflung.trainers import inner_state
from farflung.trainers.inner_state import FILES, POINTER, InnerStates
from farflung.trainers.process import ProcessTrainer
from farflung.world import World

EVERY_ROUND = msgspec.structs.replace(SPEC, swarm=SwarmSpec(snapshot_every=1))


class Wire:
    """Joins one node to others without sockets: the bytes that one reads, the other gets."""

    def __init__(self, nodes: dict[str, InnerStates], me: str) -> None:
        self._nodes = nodes
        self._me = me
        self.blobs = self

    async def fetch(self, sources: list[str], name: Hash, n_bytes: int) -> bytes:
        data = await self._nodes[sources[0]].read(name, 0, n_bytes)
        if data is None or len(data) != n_bytes:
            raise LinkDown("not here")
        if digest(data) != name:
            raise CorruptState("bad bytes")
        return data

    async def reach(self, node: str, deadline_s: float) -> Any:  # noqa: ARG002
        return _Link(self._nodes, self._me, node)


class _Link:
    def __init__(self, nodes: dict[str, InnerStates], me: str, there: str) -> None:
        self._nodes, self._me, self._there = nodes, me, there

    async def send(self, message: InnerWanted) -> None:
        assert message == InnerWanted()
        offer = self._nodes[self._there].offer()
        self._nodes[self._me].on_offer(self._there, offer)


class Place:
    """A node with its states."""

    def __init__(
        self, nodes: dict[str, InnerStates], name: str, disk: Disk, rule: str = "fresh"
    ) -> None:
        self.asked: list[int] = []
        self.limit = 1 << 40
        self.events: list[Event] = []
        world = World(
            transport=None,  # type: ignore[arg-type]
            disk=disk,
            clock=None,  # type: ignore[arg-type]
            workers=InlineWorkers(),
            rng=None,  # type: ignore[arg-type]
            emit=self.events.append,
            sign=bytes,
        )
        self.disk = disk
        self.outer = OuterState(Layout.from_entries(ENTRIES), SPEC.outer)
        self.states = InnerStates(
            run="run",
            rule=rule,
            world=world,
            mesh=Wire(nodes, name),
            donors=lambda: [n for n in nodes if n != name],
            state=lambda: self.outer,
            admit=self.admit,
        )
        nodes[name] = self.states

    async def admit(self, wanted: int) -> None:
        self.asked.append(wanted)
        if inner_state.stored_bytes(self.disk) + wanted > self.limit:
            raise StorageError(f"{wanted} bytes more would be above the limit")

    @property
    def warnings(self) -> list[str]:
        return [e.sentence for e in self.events if isinstance(e, InnerStateSkipped)]

    @property
    def loaded(self) -> list[InnerStateLoaded]:
        return [e for e in self.events if isinstance(e, InnerStateLoaded)]

    def at_round(self, number: int) -> None:
        self.outer.next_round = number


def toy(folder: Path) -> ProcessTrainer:
    shared = SharedState.create(N, FRAGMENTS, 2, memfd=True)
    shared.anchor[:] = np.arange(N, dtype=np.float32)
    return ProcessTrainer(
        shared,
        EVERY_ROUND,
        layout=Layout.from_entries(ENTRIES),
        program=TOY,
        data_dir=folder,
        log_path=folder / "trainer.log",
        emit=print,
        env={"TOY_ADAMW": "1"},
    )


def within(seconds: float, main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await main()

    asyncio.run(bounded())


def test_a_restarted_trainer_and_a_donors_joiner_go_on_bit_by_bit(tmp_path: Path) -> None:
    async def main() -> None:
        nodes: dict[str, InnerStates] = {}
        a = Place(nodes, "a", RealDisk(tmp_path / "a"))
        trainer = toy(tmp_path / "a")
        kept = a.states.keep(trainer, EVERY_ROUND)
        try:
            await kept.start()
            assert a.events == []  # at genesis there is nothing to look for
            fresh = await _outcome(kept, trainer, 9)
            await a.states.saved()
            await kept.reset()
            a.at_round(1)
            warm = await _outcome(kept, trainer, 9, saves=False)
            assert not np.array_equal(fresh, warm)

            await kept.start()  # as after a crash
            np.testing.assert_array_equal(await _outcome(kept, trainer, 9, saves=False), warm)
            assert [(e.source, e.round) for e in a.loaded] == [("own", 0)]
        finally:
            await kept.close()

        again = Place(nodes, "a", RealDisk(tmp_path / "a"))  # the agent was started again, too
        again.at_round(1)
        b = Place(nodes, "b", RealDisk(tmp_path / "b"), rule="donor")
        b.at_round(2)
        trainer = toy(tmp_path / "b")
        kept = b.states.keep(trainer, EVERY_ROUND)
        again.states.keep(toy(tmp_path / "a"), EVERY_ROUND)
        await again.states._from_disk()
        try:
            await kept.start()
            assert [(e.source, e.round) for e in b.loaded] == [("a", 0)]
            np.testing.assert_array_equal(await _outcome(kept, trainer, 9, saves=False), warm)
        finally:
            await kept.close()
        assert a.warnings == again.warnings == b.warnings == []

    within(120, main)


async def _outcome(kept: Any, trainer: Any, first: int, saves: bool = True) -> np.ndarray:
    """Local parameters of fragment 0 after a lease of three steps."""
    await (kept if saves else trainer).train(lease(0, first=first))
    sent: np.ndarray = trainer.shared.sent(0, 0).copy()
    return sent


# ---- what others offer ---------------------------------------------------------------------


class Listener:
    """A trainer that notes what it is given."""

    has_inner_state = True
    shared: Any = None
    steps = 5
    steps_per_s = 0.0
    phase = "waiting"

    def __init__(self) -> None:
        self.given: list[str] = []
        self.saves: list[str] = []
        self.disk: Disk | None = None
        self.note = ""

    async def start(self) -> None: ...

    async def load_inner(self, file: str) -> str:
        self.given.append(file)
        return self.note

    async def save_inner(self, file: str) -> str:
        assert self.disk is not None
        self.saves.append(file)
        self.disk.replace(file, state(round_=4))
        return self.note


def state(round_: int, value: float = 1.0, version: int = 1) -> bytes:
    """A state file of one slot of the second parameter (4 elements)."""
    header = Header(
        version=version,
        kind="AdamW",
        round=round_,
        entries=(StateEntry(parameter=1, slots=("exp_avg",)),),
    )
    return encode_header(header) + struct.pack("<4f", *[value] * 4)


def donor(nodes: dict[str, InnerStates], name: str = "donor") -> tuple[Place, Listener]:
    place, trainer = Place(nodes, name, MemoryDisk()), Listener()
    trainer.disk = place.disk
    place.at_round(5)
    place.states.keep(trainer, EVERY_ROUND)  # type: ignore[arg-type]
    return place, trainer


def holding(place: Place, data: bytes, file: str = FILES[0]) -> None:
    place.disk.replace(file, data)
    place.states._remember(place.states._describe(file))


async def joined(
    nodes: dict[str, InnerStates], rule: str = "donor", note: str = ""
) -> tuple[Place, Listener]:
    place, trainer = Place(nodes, "joiner", MemoryDisk(), rule), Listener()
    trainer.note = note
    place.at_round(5)
    place.states.keep(trainer, EVERY_ROUND)  # type: ignore[arg-type]
    await place.states.prepare(trainer)  # type: ignore[arg-type]
    return place, trainer


def test_a_donor_without_a_state_saves_one_when_asked() -> None:
    async def main() -> None:
        nodes: dict[str, InnerStates] = {}
        there, its_trainer = donor(nodes)
        inner_state.ASK_AGAIN_S, before = 0.0, inner_state.ASK_AGAIN_S
        try:
            here, trainer = await joined(nodes)
        finally:
            inner_state.ASK_AGAIN_S = before
        assert its_trainer.saves == [FILES[0]]
        assert trainer.given == [FILES[0]]
        assert here.disk.read(FILES[0]) == state(4)
        assert here.loaded[0].source == "donor" and here.warnings == []
        assert here.states.offer().manifest == there.states.offer().manifest

    within(20, main)


def test_fresh_asks_nobody() -> None:
    async def main() -> None:
        nodes: dict[str, InnerStates] = {}
        there, its_trainer = donor(nodes)
        holding(there, state(4))
        here, trainer = await joined(nodes, rule="fresh")
        assert trainer.given == [] and here.events == [] and its_trainer.saves == []

    within(20, main)


def test_without_a_donor_it_starts_fresh_with_one_warning() -> None:
    async def main() -> None:
        here, trainer = await joined({})
        assert trainer.given == []
        assert here.warnings == [
            "no donor's inner state (no peer offers one); the optimizer starts fresh"
        ]
        await here.states.prepare(trainer)  # type: ignore[arg-type]
        assert len(here.warnings) == 1

    within(20, main)


def test_a_trainer_that_refuses_the_state_starts_fresh() -> None:
    async def main() -> None:
        nodes: dict[str, InnerStates] = {}
        there, _ = donor(nodes)
        holding(there, state(4))
        here, trainer = await joined(nodes, note="it is of AdamW, mine is Muon")
        assert trainer.given == [FILES[0]] and here.loaded == []
        assert here.warnings == [
            "the inner state is not loaded (it is of AdamW, mine is Muon); "
            "the optimizer starts fresh"
        ]

    within(20, main)


def forge(place: Place, **changes: Any) -> None:
    """Offer a manifest that is not the file's."""
    kept = place.states._kept[-1]
    manifest = msgspec.structs.replace(kept.manifest, **changes)
    place.states._kept[-1] = inner_state.keep(kept.file, manifest)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"run": "other"}, "of another run, size or time"),
        ({"round": 1}, "of another run, size or time"),
        ({"n_bytes": 1 << 40}, "of another run, size or time"),
        ({"n_bytes": 0}, "of another run, size or time"),
        ({"chunks": ("zz",)}, "malformed"),
        ({"chunks": ("00" * 32,)}, "not here"),
        ({"chunks": ()}, "of another run, size or time"),
        ({"round": 3}, "describes its inner state wrongly"),
    ],
)
def test_a_forged_offer_is_refused_and_the_next_donor_asked(
    changes: dict[str, Any], sentence: str
) -> None:
    async def main() -> None:
        nodes: dict[str, InnerStates] = {}
        bad, _ = donor(nodes, "bad")
        holding(bad, state(4))
        alone: dict[str, InnerStates] = {"bad": bad.states}
        bad.states._recent = lambda _: True  # type: ignore[method-assign]
        forge(bad, **changes)
        here, trainer = await joined(alone)
        assert trainer.given == []
        assert len(here.warnings) == 1 and sentence in here.warnings[0]
        good, _ = donor(nodes, "good")
        holding(good, state(4))
        here, trainer = await joined(nodes)
        assert here.loaded[0].source == "good" and len(trainer.given) == 1

    within(20, main)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (state(4, value=float("nan")), "not finite"),
        (state(4) + bytes(4), "wrong size"),
        (state(4, version=2), "version 2"),
        (b"\xff" * 64, "cut or too long"),
    ],
)
def test_a_donors_file_is_checked_on_arrival(data: bytes, sentence: str) -> None:
    async def main() -> None:
        nodes: dict[str, InnerStates] = {}
        there, _ = donor(nodes)
        there.disk.replace(FILES[0], data)
        manifest = inner_state.InnerManifest(
            version=1, run="run", round=4, n_bytes=len(data), chunks=(digest(data).hex(),)
        )
        there.states._remember(inner_state.keep(FILES[0], manifest))
        here, trainer = await joined(nodes)
        assert trainer.given == []
        assert len(here.warnings) == 1 and sentence in here.warnings[0]
        assert here.disk.read(POINTER) is None

    within(20, main)


def test_an_offer_of_an_impossible_manifest_is_not_fetched() -> None:
    async def main() -> None:
        nodes: dict[str, InnerStates] = {}
        there, _ = donor(nodes)
        huge = InnerOffer(manifest=bytes(32), manifest_bytes=1 << 40)
        there.states.offer = lambda: huge  # type: ignore[method-assign]
        here, _ = await joined(nodes)
        assert "impossible size" in here.warnings[0]

    within(20, main)


# ---- my own files --------------------------------------------------------------------------


def test_a_stale_or_damaged_own_state_is_not_loaded() -> None:
    async def main() -> None:
        for at, data, words in (
            (7, state(4), []),
            (5, state(4, value=2.0), ["my saved inner state is unusable"]),
        ):
            first, _ = donor({})
            holding(first, state(4))
            second = Place({}, "donor", first.disk)
            first.disk.replace(FILES[0], data)
            second.at_round(at)
            trainer = Listener()
            second.states.keep(trainer, EVERY_ROUND)  # type: ignore[arg-type]
            await second.states.prepare(trainer)  # type: ignore[arg-type]
            assert trainer.given == []
            assert [w.split(":")[0] for w in second.warnings] == words

    within(20, main)


def test_a_state_that_its_trainer_died_of_is_not_given_twice() -> None:
    async def main() -> None:
        place, trainer = donor({})
        holding(place, state(4))
        await place.states.prepare(trainer)  # type: ignore[arg-type]
        await place.states.prepare(trainer)  # type: ignore[arg-type]
        assert trainer.given == [FILES[0]]  # no step came between
        trainer.steps += 1
        await place.states.prepare(trainer)  # type: ignore[arg-type]
        assert trainer.given == [FILES[0]] * 2

    within(20, main)


def test_two_files_take_turns_and_the_older_one_is_still_served() -> None:
    async def main() -> None:
        place, trainer = donor({})
        offers = []
        for _ in range(3):
            place.states.save_soon()
            await place.states.saved()
            offers.append(place.states.offer())
        assert trainer.saves == [FILES[0], FILES[1], FILES[0]]
        served = [await place.states.read(o.manifest, 0, o.manifest_bytes) for o in offers]
        assert all(served)
        assert await place.states.read(bytes(32), 0, 10) is None
        assert await place.states.read(offers[0].manifest, -1, 10) is None

    within(20, main)


def test_a_state_that_does_not_fit_below_max_disk_is_neither_saved_nor_fetched() -> None:
    async def main() -> None:
        nodes: dict[str, InnerStates] = {}
        place, trainer = donor(nodes)
        place.states.save_soon()
        await place.states.saved()
        first = place.states.offer()
        place.limit = inner_state.stored_bytes(place.disk) + 10
        place.states.save_soon()
        await place.states.saved()
        assert trainer.saves == [FILES[0]]
        assert "is not saved: " in place.warnings[0] and "above the limit" in place.warnings[0]
        assert place.states.offer() == first  # what is there is still served
        late = Place(nodes, "late", MemoryDisk(), "donor")
        late.at_round(5)
        late.limit = 10
        listener = Listener()
        late.states.keep(listener, EVERY_ROUND)  # type: ignore[arg-type]
        await late.states.prepare(listener)  # type: ignore[arg-type]
        assert not listener.given
        assert inner_state.stored_bytes(late.disk) == 0
        assert "above the limit" in late.warnings[0]

    within(20, main)
