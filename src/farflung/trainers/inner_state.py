"""The inner optimizer's state of one node: saved beside its snapshots, offered to others, loaded.

A trainer that starts in mid-run takes, in this order: this node's own saved state, with
`--inner-state donor` another trainer's, none (its optimizer starts at zero and the learning rate
ramps up over `inner.join_warmup_steps`). A state older than two snapshots counts as none.

Two files take turns in `inner/`, so that a peer that copies one can end while the other is
written. The trainer writes and reads them; the agent hashes and serves. Owned by the agent's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import msgspec

from farflung.config.run import RunSpec
from farflung.disk import Disk
from farflung.errors import CorruptState, FarflungError, LinkDown, StorageError
from farflung.events import InnerStateLoaded, InnerStateSkipped
from farflung.hashing import digest
from farflung.ids import Hash
from farflung.inner.state_file import finite, most_bytes, read_header
from farflung.network.link import Connection
from farflung.network.messages import InnerOffer, InnerWanted
from farflung.outer.layout import Layout
from farflung.tasks import Tasks, nothing_else
from farflung.trainers.port import TrainerDied, TrainerPort
from farflung.trainers.resuming import ResumingTrainer
from farflung.world import World

FILES = ("inner/a.state", "inner/b.state")
POINTER = "inner/newest.json"
MANIFEST_VERSION = 1
CHUNK_BYTES = 4 << 20
STALE_SNAPSHOTS = 2
"""A state that is older than so many times `swarm.snapshot_every` rounds is not worth loading."""
OFFER_S = 10.0
"""A donor that does not answer in this time is passed over."""
COMING_S = 60.0
"""How long a joiner waits for states that donors are just saving."""
ASK_AGAIN_S = 1.0


class InnerManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names every chunk of a state file by its hash."""

    version: int
    run: str
    round: int
    n_bytes: int
    chunks: tuple[str, ...]


class InnerPointer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest state of this node."""

    file: str
    manifest: InnerManifest


@dataclass(frozen=True)
class Kept:
    """A file that is whole, and its description."""

    file: str
    manifest: InnerManifest
    data: bytes
    """The manifest's bytes."""

    @property
    def name(self) -> Hash:
        return digest(self.data)


def stored_bytes(disk: Disk) -> int:
    """What the files of a node take."""
    return sum(disk.size(file) or 0 for file in FILES)


def keep(file: str, manifest: InnerManifest) -> Kept:
    return Kept(file, manifest, msgspec.json.encode(manifest, order="sorted"))


class NodeState(Protocol):
    """What this needs of the node's state (peer/outer_state.py)."""

    next_round: int

    @property
    def layout(self) -> Layout: ...


class BlobSource(Protocol):
    """Blobs by hash (transfer/blobs.py)."""

    async def fetch(self, sources: list[str], name: Hash, n_bytes: int) -> bytes: ...


class LinkSource(Protocol):
    """What this needs of transfer/mesh.py."""

    @property
    def blobs(self) -> BlobSource: ...

    async def reach(self, node: str, deadline_s: float) -> Connection: ...


class InnerStates:
    """What a node knows of inner states: its own files and others' offers."""

    def __init__(
        self,
        *,
        run: str,
        rule: str,
        world: World,
        mesh: LinkSource,
        donors: Callable[[], list[str]],
        state: Callable[[], NodeState | None],
        admit: Callable[[int], Awaitable[None]],
    ) -> None:
        """`rule`: what a new peer takes, `fresh` or `donor`. `state`: what the node holds.
        `admit`: raises StorageError when so many bytes more would be above --max-disk."""
        self._run = run
        self._rule = rule
        self._disk = world.disk
        self._workers = world.workers
        self._emit = world.emit
        self._mesh = mesh
        self._donors = donors
        self._kept: list[Kept] = []
        """Newest last; never two of one file."""
        self._chunks: dict[bytes, tuple[str, int]] = {}
        self._offers: dict[str, asyncio.Future[InnerOffer]] = {}
        self._trainer: TrainerPort | None = None
        self._state = state
        self._admit = admit
        self._spec: RunSpec | None = None
        self._saving: asyncio.Task[None] | None = None
        self._tasks = Tasks(world.emit, nothing_else)  # a fault costs that save
        self._looked = False
        self._said: set[InnerStateSkipped] = set()
        self._tried: tuple[Hash, int] | None = None
        """The state that the last start took, and the steps before it."""

    def keep(self, trainer: TrainerPort, spec: RunSpec) -> TrainerPort:
        """The trainer itself, or one that saves and loads as said above."""
        if not trainer.has_inner_state:
            return trainer
        self._trainer, self._spec = trainer, spec
        return ResumingTrainer(trainer, self, spec.swarm.snapshot_every)

    def amend(self, spec: RunSpec) -> None:
        """The run's settings from now on."""
        self._spec = spec

    # ---- saving ----------------------------------------------------------------------------

    def save_soon(self) -> None:
        """In the background; nothing happens while a former save still runs."""
        if self._trainer is not None and (self._saving is None or self._saving.done()):
            self._saving = self._tasks.start(self._save(self._trainer), "save the inner state")

    async def saved(self) -> None:
        """Returns when no save is under way."""
        await self._tasks.ended()

    async def _save(self, trainer: TrainerPort) -> None:
        file = self._next_file()
        try:
            await self._admit(self._expected_bytes() - (self._disk.size(file) or 0))
            self._forget(file)
            note = await trainer.save_inner(file)
            if note:
                self._say("saving", note)
                return
            self._remember(await self._workers.run(lambda: self._describe(file)))
        except (CorruptState, StorageError) as error:
            self._say("saving", str(error))
        except TrainerDied:
            pass  # its supervisor says so

    def _expected_bytes(self) -> int:
        """The next file's size: the last one's, at first AdamW's two moments in fp32."""
        return self._kept[-1].manifest.n_bytes if self._kept else 8 * sum(self._sizes())

    def _describe(self, file: str) -> Kept:
        """Hash and check a file, point to it. Raises CorruptState, StorageError."""
        kept = keep(file, self._measure(file))
        pointer = InnerPointer(file=file, manifest=kept.manifest)
        self._disk.replace(POINTER, msgspec.json.encode(pointer))
        return kept

    def _measure(self, file: str) -> InnerManifest:
        n_bytes = self._disk.size(file) or 0
        names: list[str] = []
        round_ = -1
        for at in range(0, n_bytes, CHUNK_BYTES):
            chunk = self._disk.read_at(file, at, min(CHUNK_BYTES, n_bytes - at))
            body = memoryview(chunk)
            if at == 0:
                header, start, total = read_header(chunk, self._sizes())
                body, round_ = body[start:], header.round
                if total != n_bytes:
                    raise CorruptState("the inner state's file has the wrong size")
            if len(chunk) % 4 or not finite(body):
                raise CorruptState("the inner state is not finite")
            names.append(digest(chunk).hex())
        if not names:
            raise CorruptState("the inner state's file is empty")
        return InnerManifest(
            version=MANIFEST_VERSION,
            run=self._run,
            round=round_,
            n_bytes=n_bytes,
            chunks=tuple(names),
        )

    async def _from_disk(self) -> None:
        """What a former process left. A damaged file is forgotten."""
        self._looked = True
        try:
            data = self._disk.read(POINTER)
            if data is None:
                return
            pointer = msgspec.json.decode(data, type=InnerPointer)
            if pointer.file not in FILES or pointer.manifest.run != self._run:
                raise CorruptState("it is no file of this run")
            measured = await self._workers.run(lambda: self._measure(pointer.file))
            if measured != pointer.manifest:
                raise CorruptState("it is not the file that was saved")
        except (msgspec.DecodeError, CorruptState, StorageError) as error:
            self._say("reading", str(error))
            return
        self._remember(keep(pointer.file, pointer.manifest))

    def _next_file(self) -> str:
        """The file that does not hold the newest state."""
        return FILES[1] if self._kept and self._kept[-1].file == FILES[0] else FILES[0]

    def _forget(self, file: str) -> None:
        self._kept = [k for k in self._kept if k.file != file]
        self._chunks = {n: place for n, place in self._chunks.items() if place[0] != file}

    def _remember(self, kept: Kept) -> None:
        self._forget(kept.file)
        self._kept.append(kept)
        for index, name in enumerate(kept.manifest.chunks):
            self._chunks[bytes.fromhex(name)] = (kept.file, index * CHUNK_BYTES)

    # ---- serving ---------------------------------------------------------------------------

    async def read(self, name: bytes, offset: int, length: int) -> bytes | None:
        """A piece of a manifest or chunk; None when it is not here."""
        if offset < 0 or length < 0:
            return None
        for kept in self._kept:
            if kept.name == name:
                return kept.data[offset : offset + length]
        place = self._chunks.get(bytes(name))
        if place is None or offset + length > CHUNK_BYTES:
            return None
        file, at = place
        try:
            return await self._workers.run(lambda: self._disk.read_at(file, at + offset, length))
        except StorageError:
            return None  # another donor will do

    def offer(self) -> InnerOffer:
        """The newest state; when there is none, or a stale one, a save begins."""
        newest = self._newest()
        if newest is None and self._next_round() > 0:
            self.save_soon()
        return InnerOffer(
            manifest=b"" if newest is None else newest.name,
            manifest_bytes=0 if newest is None else len(newest.data),
            coming=newest is None and self._saving is not None and not self._saving.done(),
        )

    def _newest(self) -> Kept | None:
        return self._kept[-1] if self._kept and self._recent(self._kept[-1].manifest) else None

    def _recent(self, manifest: InnerManifest) -> bool:
        assert self._spec is not None
        age = self._next_round() - manifest.round
        return age <= STALE_SNAPSHOTS * self._spec.swarm.snapshot_every

    # ---- loading ---------------------------------------------------------------------------

    async def prepare(self, trainer: TrainerPort) -> None:
        """A trainer has started: give it a warm optimizer if there is one. Raises TrainerDied."""
        await self.saved()
        if not self._looked:
            await self._from_disk()
        if self._next_round() == 0:
            return
        newest = self._newest()
        if newest is not None:
            if self._tried != (newest.name, trainer.steps):  # else it died of this very state
                await self._load(trainer, newest, "own")
            return
        if self._rule == "donor":
            await self._from_donors(trainer)

    async def _load(self, trainer: TrainerPort, kept: Kept, source: str) -> None:
        self._tried = (kept.name, trainer.steps)
        note = await trainer.load_inner(kept.file)
        if note:
            self._say("loading", note)
            return
        manifest = kept.manifest
        self._emit(InnerStateLoaded(source=source, round=manifest.round, bytes=manifest.n_bytes))

    async def _from_donors(self, trainer: TrainerPort) -> None:
        failure = "no peer offers one"
        end = asyncio.get_running_loop().time() + COMING_S
        while True:
            coming = False
            for donor in self._donors():
                try:
                    offer = await self._ask(donor)
                    coming = coming or offer.coming
                    if offer.manifest:
                        kept = await self._fetch(donor, offer)
                        await self._load(trainer, kept, donor)
                        return
                except TrainerDied:
                    raise
                except FarflungError as error:
                    failure = str(error)
            if not coming or asyncio.get_running_loop().time() > end:
                self._say("fetching", failure)
                return
            await asyncio.sleep(ASK_AGAIN_S)

    async def _ask(self, donor: str) -> InnerOffer:
        """Raises LinkDown."""
        link = await self._mesh.reach(donor, OFFER_S)
        future: asyncio.Future[InnerOffer] = asyncio.get_running_loop().create_future()
        self._offers[donor] = future
        try:
            async with asyncio.timeout(OFFER_S):
                await link.send(InnerWanted())
                return await future
        except TimeoutError:
            raise LinkDown(f"{donor[:8]} did not say what it has") from None
        finally:
            self._offers.pop(donor, None)

    def on_offer(self, node: str, offer: InnerOffer) -> None:
        waiting = self._offers.get(node)
        if waiting is not None and not waiting.done():
            waiting.set_result(offer)

    async def _fetch(self, donor: str, offer: InnerOffer) -> Kept:
        """Copy a donor's state to a file of mine. Raises LinkDown, CorruptState, StorageError."""
        exchange, file = self._mesh.blobs, self._next_file()
        most = most_bytes(self._sizes())
        if not 0 < offer.manifest_bytes <= 1024 + 80 * (most // CHUNK_BYTES + 1):
            raise CorruptState(f"{donor[:8]} offers an inner state of an impossible size")
        data = await exchange.fetch([donor], Hash(offer.manifest), offer.manifest_bytes)
        manifest = self._check(donor, data, most)
        await self._admit(manifest.n_bytes - (self._disk.size(file) or 0))
        self._forget(file)
        await self._workers.run(lambda: self._disk.remove(file))
        for index, name in enumerate(manifest.chunks):
            n_bytes = min(CHUNK_BYTES, manifest.n_bytes - index * CHUNK_BYTES)
            chunk = await exchange.fetch([donor], Hash(bytes.fromhex(name)), n_bytes)
            if index == 0:
                await self._workers.run(partial(self._check_size, donor, chunk, manifest))
            await self._workers.run(partial(self._disk.append, file, chunk))
        kept = await self._workers.run(lambda: self._describe(file))
        if kept.manifest != manifest:
            raise CorruptState(f"{donor[:8]} describes its inner state wrongly")
        self._remember(kept)
        return kept

    def _check_size(self, donor: str, first: bytes, manifest: InnerManifest) -> None:
        if read_header(first, self._sizes())[2] != manifest.n_bytes:
            raise CorruptState(f"{donor[:8]} offers an inner state of the wrong size")

    def _check(self, donor: str, data: bytes, most: int) -> InnerManifest:
        try:
            manifest = msgspec.json.decode(data, type=InnerManifest)
            names = [bytes.fromhex(name) for name in manifest.chunks]
        except (msgspec.DecodeError, ValueError) as error:
            raise CorruptState(f"{donor[:8]} offers a malformed inner state: {error}") from None
        sound = (
            manifest.version == MANIFEST_VERSION
            and manifest.run == self._run
            and 0 < manifest.n_bytes <= most
            and len(names) == -(-manifest.n_bytes // CHUNK_BYTES)
            and self._recent(manifest)
        )
        if not sound:
            raise CorruptState(f"{donor[:8]} offers an inner state of another run, size or time")
        return manifest

    # ---- inside ----------------------------------------------------------------------------

    def _next_round(self) -> int:
        """0: nothing is committed, or this node holds nothing yet."""
        state = self._state()
        return 0 if state is None else state.next_round

    def _sizes(self) -> list[int]:
        state = self._state()
        if state is None:
            raise StorageError("the node's state is being fetched anew")
        return [entry.size for entry in state.layout.entries]

    def _say(self, doing: Literal["saving", "reading", "loading", "fetching"], reason: str) -> None:
        """Each of them once."""
        event = InnerStateSkipped(doing=doing, reason=reason)
        if event not in self._said:
            self._said.add(event)
            self._emit(event)
