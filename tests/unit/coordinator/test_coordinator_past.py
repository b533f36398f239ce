"""A long journal is read page by page, between what else a node is sent, and never out of turn."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from farflung.coordinator.roster import Past, Session
from farflung.errors import StorageError
from farflung.network.link import Connection
from farflung.network.messages import Control, JournalFrames, StatusRequest
from farflung.sim.loop import run_virtual

PAGE = 7


class Link:
    """A node that takes what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Control] = []
        self.closed: str | None = None

    async def send(self, message: Control) -> None:
        await asyncio.sleep(1.0)
        self.sent.append(message)

    def close(self, reason: str = "") -> None:
        self.closed = reason


def frames(first: int, stop: int) -> JournalFrames:
    return JournalFrames(first=first, frames=tuple(b"%d" % i for i in range(first, stop)))


@pytest.mark.parametrize("first", [0, 5, 29, 30])
def test_the_past_comes_whole_and_before_what_happens_meanwhile(first: int) -> None:
    link, length = Link(), 30

    async def read(at: int) -> JournalFrames:
        return frames(at, min(at + PAGE, length))  # also what was journalled meanwhile

    async def main() -> None:
        nonlocal length
        session = Session("n", "s", cast(Connection, link), read)
        session.outbox.put_nowait(StatusRequest())
        session.outbox.put_nowait(Past(first, length))
        writing = asyncio.get_running_loop().create_task(session.write())
        await asyncio.sleep(1.5)
        session.put(frames(30, 32))
        length = 32
        await asyncio.sleep(30.0)
        writing.cancel()

    run_virtual(main())
    assert isinstance(link.sent[0], StatusRequest)
    pages = [m for m in link.sent[1:] if isinstance(m, JournalFrames)]
    assert [f for page in pages for f in page.frames] == [b"%d" % i for i in range(first, 32)]
    at = first
    for page in pages:
        assert page.first == at and len(page.frames) <= PAGE
        at += len(page.frames)


def test_a_journal_that_cannot_be_read_ends_that_link_with_its_reason() -> None:
    link = Link()

    async def refuse(_: int) -> JournalFrames:
        raise StorageError("the disk failed")

    async def main() -> None:
        session = Session("n", "s", cast(Connection, link), refuse)
        session.outbox.put_nowait(Past(0, 3))
        await session.write()

    run_virtual(main())
    assert link.closed == "the disk failed"
