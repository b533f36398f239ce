"""Downloads many blobs from several peers at once: the shell around download_plan.py.

Owner: the agent's loop. Every whole blob is checked and kept in the worker pool as it arrives, so
that a killed process loses only blobs in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from farflung.clock import Clock, Workers
from farflung.errors import LinkDown
from farflung.events import BadBlob, Emit
from farflung.failpoints import hit
from farflung.tasks import Tasks
from farflung.transfer.download_plan import STRIKES, Ask, FetchPlan, Item, Unservable
from farflung.transfer.mesh import Mesh

TICK_S = 0.5
"""Between looks for slow sources, new ones, and those that have rested."""
GIVE_UP_S = 60.0
"""Without a single new byte: the caller looks for another snapshot, or again for sources."""
MAX_CHECKING = 8
"""Blobs that wait for hash and disk; nothing more is asked meanwhile."""

Keep = Callable[[Item, bytes], Awaitable[bool]]
"""Compare the hash and store. False: the bytes are not what the name says."""


@dataclass
class DownloadMeter:
    """Bytes and busy time of a node's downloads; times of overlapping ones count once."""

    n_bytes: int = 0
    busy_s: float = 0.0
    running: int = 0
    since_s: float = 0.0

    def start(self, now_s: float) -> None:
        if not self.running:
            self.since_s = now_s
        self.running += 1

    def stop(self, now_s: float) -> None:
        self.running -= 1
        if not self.running:
            self.busy_s += now_s - self.since_s

    def clear(self) -> None:
        """Begin anew; what runs goes on."""
        if not self.running:
            self.n_bytes, self.busy_s = 0, 0.0

    def seconds(self, now_s: float) -> float:
        return self.busy_s + (now_s - self.since_s if self.running else 0.0)


@dataclass
class DownloadProgress:
    """One download as others may look at it."""

    bytes: int = 0
    """Moved and intact."""
    partial: int = 0
    """Of blobs that are not whole yet."""
    active: int = 0
    """Sources that something is asked of."""
    sources: set[str] = field(default_factory=set)
    """Those that delivered an intact blob."""


class Downloader:
    """All parallel downloads of one node. Strikes last as long as it."""

    def __init__(
        self,
        mesh: Mesh,
        donors: Callable[[], list[str]],
        clock: Clock,
        workers: Workers,
        emit: Emit,
    ) -> None:
        self._exchange = mesh.blobs
        self._donors = donors
        self._linked = mesh.linked
        self._clock = clock
        self._workers = workers
        self.emit = emit
        self.strikes: dict[str, int] = {}
        self.meter = DownloadMeter()
        self.moved_s = 0.0
        """When the last byte came, of whatever download."""
        self._downloads = 0

    async def fetch(
        self,
        items: Sequence[Item],
        keep: Keep,
        *,
        first: Sequence[str] = (),
        on_progress: Callable[[DownloadProgress], None] | None = None,
    ) -> DownloadProgress:
        """Every item, through `keep`. `first` may be asked besides the donors where a link is up.

        Raises Unservable when no source has an item, LinkDown when nothing came for a minute,
        and what `keep` raises. Safe to cancel.
        """
        self._downloads += 1
        download = _Download(self, items, keep, first, on_progress, self._downloads)
        self.meter.start(self._clock.now())
        try:
            return await download.run()
        finally:
            self.meter.stop(self._clock.now())

    def forgive(self) -> None:
        """Nobody is left to ask: strikes are forgotten, so that a run with one donor goes on."""
        self.strikes.clear()

    # ---- used by downloads -----------------------------------------------------------------

    def now(self) -> float:
        return self._clock.now()

    def sources(self, first: Sequence[str]) -> list[str]:
        donors = self._donors()
        near = [n for n in first if n in donors or self._linked(n)]
        return list(dict.fromkeys([*near, *donors]))

    async def ask(self, ask: Ask) -> bytes | None:
        return await self._exchange.ask(ask.source, ask.name, ask.offset, ask.length)

    async def joined(self, pieces: Sequence[bytes]) -> bytes:
        """In the pool: a chunk of 4 MiB is too much for the loop."""
        return await self._workers.run(lambda: b"".join(pieces))

    def struck(self, node: str, item: Item, strikes: int, other: str) -> None:
        last = "it is not asked again" if strikes >= STRIKES else "one strike"
        then = f"asking {other[:8]}" if other else "nobody else has it"
        self.emit(
            BadBlob(
                node=node,
                what=item.label,
                strikes=strikes,
                sentence=f"{item.label} from {node[:8]} has a bad hash; {then} ({last})",
            )
        )


@dataclass
class _Answer:
    """What became of one request."""

    ask: Ask
    data: bytes | None = None
    failed: bool = False


@dataclass
class _Kept:
    """What became of a whole blob."""

    item: Item
    source: str
    intact: bool = False
    error: Exception | None = None


class _Download:
    """One call of `Downloader.fetch`."""

    def __init__(
        self,
        fetcher: Downloader,
        items: Sequence[Item],
        keep: Keep,
        first: Sequence[str],
        on_progress: Callable[[DownloadProgress], None] | None,
        number: int,
    ) -> None:
        self._fetcher = fetcher
        self._items = {i.name: i for i in items}
        self._keep = keep
        self._first = first
        self._on_progress = on_progress
        self._plan = FetchPlan(self._items.values(), fetcher.strikes, number)
        self._pieces: dict[int, dict[int, bytes]] = {}
        """By copy, then by offset."""
        self._news: asyncio.Queue[_Answer | _Kept | Exception] = asyncio.Queue()
        self._tasks = Tasks(fetcher.emit, self._news.put_nowait)
        self._checking = 0
        self._progress = DownloadProgress()
        self._from_s = fetcher.now()

    async def run(self) -> DownloadProgress:
        try:
            for item in [i for i in self._items.values() if not i.n_bytes]:
                self._check(item, "", [])
            while not self._plan.done:
                self._plan.set_sources(self._fetcher.sources(self._first))
                self._ask()
                self._look()
                await self._wait()
            return self._progress
        finally:
            await self._tasks.close()

    def _ask(self) -> None:
        if self._checking < MAX_CHECKING:
            for ask in self._plan.asks(self._fetcher.now()):
                self._tasks.start(self._request(ask), f"ask {ask.source[:8]}")

    def _look(self) -> None:
        """Is there hope?"""
        lost = self._plan.unservable()
        if lost is not None:
            raise Unservable(f"no peer has {lost.label} any more")
        moved_s = max(self._from_s, self._fetcher.moved_s)  # downloads share the links
        if self._fetcher.now() - moved_s > GIVE_UP_S:
            raise LinkDown(f"no byte in {GIVE_UP_S:g} s from any peer")
        self._progress.partial = self._plan.partial_bytes()
        self._progress.active = len(self._plan.active())
        if self._on_progress is not None:
            self._on_progress(self._progress)

    async def _wait(self) -> None:
        """For one thing to happen, then take all that happened."""
        try:
            async with asyncio.timeout(TICK_S):
                self._take(await self._news.get())
        except TimeoutError:
            return
        while not self._news.empty():
            self._take(self._news.get_nowait())

    def _take(self, news: _Answer | _Kept | Exception) -> None:
        if isinstance(news, Exception):
            raise news  # of a task, told already: without it the download would never end
        if isinstance(news, _Kept):
            self._on_kept(news)
        elif news.data is not None:
            self._on_piece(news.ask, news.data)
        elif news.failed:
            self._plan.on_lost(news.ask, self._fetcher.now())
            self._drop_pieces()
        else:
            self._plan.on_missing(news.ask)
            self._drop_pieces()

    def _on_piece(self, ask: Ask, data: bytes) -> None:
        hit("blob.piece-fetched")
        self._fetcher.moved_s = self._fetcher.now()
        self._fetcher.meter.n_bytes += len(data)
        if self._plan.is_live(ask):
            self._pieces.setdefault(ask.serial, {})[ask.offset] = data
        if self._plan.on_piece(ask, self._fetcher.now()):
            pieces = self._pieces.pop(ask.serial)
            in_order = [pieces[offset] for offset in sorted(pieces)]
            self._check(self._items[ask.name], ask.source, in_order)

    def _drop_pieces(self) -> None:
        """Forget the pieces of copies that were given up."""
        live = self._plan.serials()
        for serial in [s for s in self._pieces if s not in live]:
            del self._pieces[serial]

    def _check(self, item: Item, source: str, pieces: Sequence[bytes]) -> None:
        self._checking += 1
        self._tasks.start(self._store(_Kept(item, source), pieces), f"keep {item.label}")

    def _on_kept(self, kept: _Kept) -> None:
        self._checking -= 1
        if kept.error is not None:
            raise kept.error
        name = kept.item.name
        if kept.intact:
            self._plan.on_stored(name)
            self._progress.bytes += kept.item.n_bytes
            self._progress.sources |= {kept.source} - {""}
            self._drop_pieces()
        else:
            other = self._plan.another(name, kept.source)
            strikes = self._plan.on_bad(kept.source, name)
            self._fetcher.struck(kept.source, kept.item, strikes, other)

    # ---- tasks -----------------------------------------------------------------------------

    async def _request(self, ask: Ask) -> None:
        answer = _Answer(ask)
        try:
            answer.data = await self._fetcher.ask(ask)
        except LinkDown:
            answer.failed = True
        self._news.put_nowait(answer)

    async def _store(self, kept: _Kept, pieces: Sequence[bytes]) -> None:
        try:
            whole = await self._fetcher.joined(pieces)
            kept.intact = await self._keep(kept.item, whole)
        except Exception as error:
            kept.error = error  # raised again in `run`, by the one who waits for it
        self._news.put_nowait(kept)
