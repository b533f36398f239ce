"""What is known of a run right now, as a frame of the window (web/src/types.ts).

A host's folder is read itself: journal and event log tell more than any answer. A peer asks the
coordinator, and reads its own folder when that does not answer.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from farflung.clock import Workers
from farflung.errors import LinkDown, UserError
from farflung.run.home import JOURNAL, running_process

if TYPE_CHECKING:
    from farflung.monitor.view import View

Json = dict[str, Any]


class Answer(NamedTuple):
    frame: Json
    """`head`, `peers`, `rounds`, ...: of one's own folder, or as a stranger's host sent it."""
    silent: str
    """Why the coordinator does not answer; empty: it does, or its own folder was read."""


class FolderReader:
    """Follows a node's folder. Blocking: use it from one thread, and not from an event loop's."""

    def __init__(self, folder: Path) -> None:
        from farflung.window.tail import FolderTail

        self._tail = FolderTail(folder)
        self._view = self._new_view()

    def frame(self, *, served: bool) -> Json:
        """Everything up to now. CorruptState for a damaged journal."""
        more = True
        while more:
            more = self._slice()
        newest = self._view.newest
        now = time.time()
        self._view.serve(served, now if served or newest is None else newest)
        return self._view.frame(now)

    @property
    def share(self) -> float:
        """Of the journal, what was read: 0..1. From any thread."""
        return self._tail.journal_share

    def _slice(self) -> bool:
        news = self._tail.poll()
        if news.anew:
            self._view = self._new_view()
        for record in news.records:
            self._view.record(record)
        for told in news.told:
            self._view.event(told.wall, told.event)
        return news.more

    @staticmethod
    def _new_view() -> View:
        from farflung.monitor.view import View

        return View()

    def close(self) -> None:
        self._tail.close()


class FrameSource:
    """Where the frames of one node's run come from."""

    def __init__(self, role: str, folder: Path, workers: Workers) -> None:
        """`workers`: of one thread."""
        self._role, self._folder, self._workers = role, folder, workers
        self._reader: FolderReader | None = None

    async def answer(self) -> Answer:
        """Raises LinkDown when nothing is to be had, CorruptState, StorageError, UserError."""
        if self._role == "host":
            return await self._of_host()
        from farflung.run.status import ask_as_peer

        try:
            return Answer(await ask_as_peer(self._folder), "")
        except LinkDown as error:
            if not (self._folder / JOURNAL).exists():
                raise LinkDown(
                    f"the coordinator does not answer ({error}); is the host up?"
                ) from None
            return Answer(await self._read(served=False), str(error))

    async def _of_host(self) -> Answer:
        process = running_process(self._folder)
        frame = await self._read(served=process is not None)
        if process is None:
            return Answer(frame, "no `farflung host` runs on this folder")
        return Answer({**frame, "head": await self._head() or frame["head"]}, "")

    async def _head(self) -> Json:
        """As the coordinator has it: on a full disk the log does not. Empty from one that starts or
        stops, or is older."""
        from farflung.run.status import ask_as_host

        with contextlib.suppress(LinkDown, UserError):
            head = (await ask_as_host(self._folder))["head"]
            return head if isinstance(head, dict) else {}
        return {}

    async def _read(self, *, served: bool) -> Json:
        reader = self._reader = self._reader or FolderReader(self._folder)
        return await self._workers.run(lambda: reader.frame(served=served))

    @property
    def reading(self) -> float:
        """Of the journal, what was read: 0..1."""
        return 1.0 if self._reader is None else self._reader.share

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
