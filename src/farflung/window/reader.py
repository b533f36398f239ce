"""The one owner of tail and view: a thread that folds what is new and answers questions.

The loop never waits for the fold. What was answered is kept until the view moves on, so that a
thousand viewers who ask the same cost one answer.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from farflung.clock import Workers
from farflung.errors import CorruptState, FarflungError
from farflung.monitor.view import View
from farflung.monitor.weave import Stamped
from farflung.swarm.records import AnyRecord
from farflung.tasks import Tasks
from farflung.window.api import Asked, encoded
from farflung.window.static_files import Body, body_of
from farflung.window.tail import FolderTail

POLL_S = 0.2
SLICE = 1000
"""Records and events of the history that are folded at once: some ten milliseconds."""
FRESH_S = 1.0
"""An answer's age, while nothing new happens: lengths of time in it go on."""
MOST_KEPT = 64 << 20
"""Bytes of answers."""
MOST_WAITING = 64
"""Different questions at once."""
RETRY_S = 5.0
"""After the folder could not be read."""

MESSAGES = {
    "head": "head",
    "rounds": "round",
    "evaluations": "evaluation",
    "peers": "peers",
    "timelines": "timeline",
    "links": "links",
    "lines": "line",
}
"""Kind of a view's changes -> event of the stream."""

Message = tuple[str, bytes]
"""An event of the stream, and its JSON."""
T = TypeVar("T")


class _Kept(NamedTuple):
    life: int
    step: int
    at: float
    body: Body | None
    bytes: int
    """What it takes, its key and a little for itself included."""


class NotReady(FarflungError):
    """The history is being read, or cannot be; `share` of it is known."""

    def __init__(self, sentence: str, share: float) -> None:
        super().__init__(sentence)
        self.share = share


class Busy(FarflungError):
    """More different questions than can be answered now."""


class RunReader:
    """A folder's run, as its window shows it."""

    def __init__(
        self,
        folder: Path,
        *,
        workers: Workers,
        tasks: Tasks,
        wall: Callable[[], float],
        map_shown: bool = True,
        served: Callable[[], bool] | None = None,
    ) -> None:
        """`workers`: one thread, used by nothing else. `served`: whether a process has the folder
        in use now; None: until `leave`."""
        self._workers, self._tasks = workers, tasks
        self._wall, self._map_shown = wall, map_shown
        self._left = False
        self._served = served or (lambda: not self._left)
        self._folder = folder
        self._tail = FolderTail(folder)
        self._history: Iterator[AnyRecord | Stamped] | None = self._tail.history()
        self._view = View(map_shown=map_shown)
        self._was_served = True
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._waiting: dict[str, asyncio.Task[Body | None]] = {}
        self._problem = ""
        self._disk = ""
        self.ready = False
        self.life = 0
        """Counts views: with another one, all that was said before is void."""

    # ---- following -------------------------------------------------------------------------

    async def follow(self, on_news: Callable[[], None]) -> None:
        """For ever: fold what is new, and say so."""
        while True:
            try:
                more = await self._workers.run(self._fold)
            except (FarflungError, OSError) as error:
                self._problem = str(error)
                if self._history is not None or not isinstance(error, CorruptState | OSError):
                    await self._workers.run(self._begin_again)  # half a view would mislead
                await asyncio.sleep(RETRY_S)
                continue
            self._problem = ""
            if not more:
                self.ready = True
                on_news()
                await asyncio.sleep(POLL_S)

    def _fold(self) -> bool:
        """One slice. In the thread."""
        if self._history is not None:
            return self._fold_history(self._history)
        anew, records, told, more = self._tail.poll()
        if anew:
            self._begin_again()
            return True
        self._view.take(records, ((wall, event) for _, wall, event in told))
        if not more:
            self._notice_host()
        return more

    def _fold_history(self, history: Iterator[AnyRecord | Stamped]) -> bool:
        """What was there before: both files in one order."""
        done = 0
        for one in itertools.islice(history, SLICE):
            done += 1
            if isinstance(one, tuple):
                self._view.event(*one)
            else:
                self._view.record(one)
        if self._tail.void:
            self._begin_again()
        elif done < SLICE:
            self._history = None
            return self._fold()
        return True

    def _begin_again(self) -> None:
        """Another run is in the folder, or it lost its last records."""
        self._tail.close()
        self._tail = FolderTail(self._folder)
        self._history = self._tail.history()
        self._view = View(map_shown=self._map_shown)
        self._view.tell_disk(self._disk)
        self._was_served = True
        self.ready, self.life = False, self.life + 1

    def _notice_host(self) -> None:
        served = self._served()
        if served != self._was_served:
            self._was_served = served
            self._view.serve(served, self._wall())

    def leave(self) -> None:
        """Nobody serves the run any more."""
        self._left = True

    async def tell_disk(self, text: str) -> None:
        """What the host says of its keeper's disk."""
        self._disk = text
        await self._workers.run(lambda: self._view.tell_disk(text))

    @property
    def problem(self) -> str:
        """Why the folder cannot be read now; empty while it can."""
        return self._problem

    def check_ready(self) -> None:
        """NotReady while there is nothing to show."""
        if not self.ready:
            share = self._tail.journal_share
            raise NotReady(self._problem or f"reading the run's history: {share:.0%}", share)

    # ---- answering -------------------------------------------------------------------------

    async def answer(self, question: Asked) -> Body | None:
        """None: there is no such thing. Raises NotReady, Busy. Safe to cancel."""
        self.check_ready()
        kept = self._kept.get(question.key)
        if kept is not None and self._is_fresh(kept):
            self._kept.move_to_end(question.key)
            return kept.body
        waiting = self._waiting.get(question.key)
        if waiting is None:
            if len(self._waiting) >= MOST_WAITING:
                raise Busy("too many different questions at once; ask again in a second")
            waiting = self._tasks.start(self._make(question), "answer a question")
            self._waiting[question.key] = waiting
        return await asyncio.shield(waiting)

    async def _make(self, question: Asked) -> Body | None:
        life, at = self.life, asyncio.get_running_loop().time()
        try:
            step, body = await self._workers.run(lambda: self._answered(question))
        finally:
            del self._waiting[question.key]
        size = 0 if body is None else len(body.data) + len(body.gzipped or b"")
        self._keep(question.key, _Kept(life, step, at, body, size + len(question.key) + 200))
        return body

    def _answered(self, question: Asked) -> tuple[int, Body | None]:
        data = question.answer(self._view, self._wall())
        body = None if data is None else body_of(question.content_type, data)
        return self._view.step, body

    def _is_fresh(self, kept: _Kept) -> bool:
        young = asyncio.get_running_loop().time() - kept.at < FRESH_S
        return young and (kept.life, kept.step) == (self.life, self._view.step)

    def _keep(self, key: str, kept: _Kept) -> None:
        before = self._kept.pop(key, None)
        self._kept_bytes += kept.bytes - (before.bytes if before is not None else 0)
        self._kept[key] = kept
        while self._kept_bytes > MOST_KEPT:
            self._kept_bytes -= self._kept.popitem(last=False)[1].bytes

    # ---- the stream ------------------------------------------------------------------------

    @property
    def step(self) -> int:
        return self._view.step

    async def changes(
        self, since: Mapping[str, int], pack: Callable[[Sequence[Message]], T]
    ) -> tuple[int, T]:
        """What changed since a step of each kind, made ready by `pack` in the thread, and the step
        to give next time."""
        return await self._workers.run(lambda: self._changed(since, pack))

    def _changed(
        self, since: Mapping[str, int], pack: Callable[[Sequence[Message]], T]
    ) -> tuple[int, T]:
        messages: list[Message] = []
        for kind, step in since.items():
            changed: Mapping[str, Any] = self._view.changes(step, self._wall(), (kind,))
            value = changed.get(kind)
            told = value if isinstance(value, list) else [] if value is None else [value]
            if kind == "peers" and told:
                told = [told]  # one message for all that changed
            messages += [(MESSAGES[kind], encoded(one)) for one in told]
        return self._view.step, pack(messages)

    def close(self) -> None:
        self._tail.close()
