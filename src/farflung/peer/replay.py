"""Result bytes of committed rounds for whoever lacks them: fetched by hash, some rounds ahead.

Owner: the apply loop of one node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from farflung.errors import FarflungError, LinkDown, StorageError
from farflung.events import FetchDelayed, ResultNotKept
from farflung.failpoints import hit
from farflung.hashing import digest
from farflung.peer.bootstrap import Bootstrap
from farflung.peer.catch_up_rate import CatchUpRate
from farflung.peer.follower import slice_lengths
from farflung.peer.node import LocalNode
from farflung.swarm.records import Commit
from farflung.tasks import Tasks, nothing_else
from farflung.transfer.download import Downloader
from farflung.transfer.download_plan import Item, Unservable

AHEAD_ROUNDS = 4
"""Rounds whose bytes are fetched while an earlier one is applied."""
RETRY_S = (0.5, 8.0)
"""First and longest pause between tries to get what no source delivered."""


class LogTrimmed(FarflungError):
    """Nobody keeps the result bytes of a round that I need: a newer snapshot has to be taken."""


class Replay:
    """At most AHEAD_ROUNDS downloads at a time; bytes are kept in the round log as they come."""

    def __init__(self, node: LocalNode, downloader: Downloader, bootstrap: Bootstrap) -> None:
        self._follower = node.follower
        self._fetcher = downloader
        self._source = bootstrap
        self._workers = node.world.workers
        self._clock = node.world.clock
        self._emit = node.world.emit
        self._downloads: dict[int, asyncio.Task[list[bytes]]] = {}
        """By round, also those that have ended and were not asked for yet."""
        self._tasks = Tasks(self._emit, nothing_else)  # `results` raises what ended one
        self._begun: tuple[float, int] | None = None
        """When replay began, and the rounds that were resolved then."""

    def begin(self) -> None:
        """Rounds are missing: from now on the log should not outgrow the download."""
        if self._begun is None:
            self._begun = (self._clock.now(), self._follower.resolved)

    def end(self) -> None:
        """This node takes part: the next catching up is measured by itself."""
        self._begun = None
        self._fetcher.meter.clear()

    def refusal(self) -> str:
        """Why this node can never catch up; '' while it may."""
        if self._begun is None:
            return ""
        since_s, first = self._begun
        stop, follower = self._follower.resolved, self._follower
        commits = [c for r in range(first, stop) if (c := follower.commit_of(r)) is not None]
        meter, now_s = self._fetcher.meter, self._clock.now()
        return CatchUpRate(
            since_s=now_s - since_s,
            rounds=stop - first,
            grown_bytes=sum(sum(slice_lengths(follower.state, c)) for c in commits),
            fetched_bytes=meter.n_bytes,
            busy_s=meter.seconds(now_s),
        ).refusal()

    async def results(self, commit: Commit) -> list[bytes]:
        """The averaged bytes of a round, from my log or from holders.

        Tries until they are here. Raises LogTrimmed when only a snapshot can help.
        """
        pause_s, longest_s = RETRY_S
        for old in [r for r in self._downloads if r < commit.round]:
            self._downloads.pop(old).cancel()  # its bytes came another way
        while True:
            task = self._start(commit)
            self._run_ahead(commit.round)
            try:
                results = await asyncio.shield(task)
            except (LinkDown, StorageError, Unservable) as error:
                del self._downloads[commit.round]
                await self._consider(commit, error)
                await asyncio.sleep(pause_s)
                pause_s = min(longest_s, 2 * pause_s)
                continue
            del self._downloads[commit.round]
            return results

    async def _consider(self, commit: Commit, error: FarflungError) -> None:
        """Is there a snapshot that makes this round unnecessary?"""
        self._emit(FetchDelayed(what=f"round {commit.round}", reason=str(error)))
        if isinstance(error, Unservable):
            self._fetcher.forgive()
            if await self._source.newest_offer() > commit.round:
                raise LogTrimmed(f"nobody keeps the result of round {commit.round} any more")

    def _start(self, commit: Commit) -> asyncio.Task[list[bytes]]:
        if commit.round not in self._downloads:
            self._downloads[commit.round] = self._tasks.start(
                self._get(commit),
                f"fetch the result of round {commit.round}",
                expects=(FarflungError,),
            )
        return self._downloads[commit.round]

    def _run_ahead(self, round_: int) -> None:
        for number in range(round_ + 1, round_ + 1 + AHEAD_ROUNDS):
            commit = self._follower.commit_of(number)
            wanted = commit is not None and not self._follower.holds(commit)
            if commit is not None and wanted and len(self._downloads) <= AHEAD_ROUNDS:
                self._start(commit)

    async def _get(self, commit: Commit) -> list[bytes]:
        stored = await self._workers.run(lambda: self._follower.stored(commit))
        if stored is not None:
            return stored
        lengths = slice_lengths(self._follower.state, commit)
        items = [
            Item(bytes(place.hash), n_bytes, f"slice {index} of round {commit.round}")
            for index, (place, n_bytes) in enumerate(zip(commit.slices, lengths, strict=True))
        ]
        here: dict[bytes, bytes] = {}

        async def keep(item: Item, data: bytes) -> bool:
            if await self._workers.run(lambda: digest(data)) != item.name:
                return False
            here[item.name] = data
            return True

        first: Sequence[str] = [*commit.holders, *(s.owner for s in commit.slices)]
        await self._fetcher.fetch(items, keep, first=first)
        hit("results.fetched")
        results = [here[bytes(place.hash)] for place in commit.slices]
        try:
            await self._follower.keep(commit.round, results, [s.hash for s in commit.slices])
        except StorageError as error:  # only a vote promises that they are kept
            self._emit(ResultNotKept(round=commit.round, reason=str(error)))
        return results

    async def close(self) -> None:
        """End the downloads; more may begin afterwards."""
        self._downloads = {}
        self._tasks.cancel()
        await self._tasks.ended()
