"""A node's journal does not fit the coordinator's: which of the two is wrong?

Every record is signed by the run key, which only the run's coordinator has. A record that carries
this signature and is not in the coordinator's own journal proves that another coordinator has
continued the run, or that this one's disk lost records that it had told of. In both cases it
would fork the run by going on, so it halts. A node that has no such record is damaged itself and is
refused: no node can halt a run by claiming something.
"""

from __future__ import annotations

import asyncio

from farflung.errors import Forked
from farflung.network.link import Connection
from farflung.network.messages import Dispute, Hello, JournalFrames
from farflung.swarm.journal import Journal

SHOW_S = 10.0
"""How long a node may take to show its record."""


def fits(journal: Journal, hello: Hello) -> bool:
    """The node's journal is a prefix of mine."""
    return (
        0 <= hello.journal_length <= journal.length
        and journal.hash_at(hello.journal_length) == hello.journal_head
    )


async def examine(link: Connection, journal: Journal, hello: Hello, *, alone_since: int) -> str:
    """The sentence with which the node is refused. Forked when its record is genuine.

    `alone_since`: lower terms were given up by the operator, when the run was restored.
    """
    if hello.term < alone_since:
        return (
            f"your copy of this run ends in term {hello.term} with records that were given up when "
            f"the run was restored in term {alone_since}; move the copy away and join again"
        )
    mine = journal.hash_at(min(max(hello.journal_length, 0), journal.length))
    await link.send(Dispute(journal_length=journal.length, hash=mine))
    try:
        async with asyncio.timeout(SHOW_S):
            answer = await link.receive()
    except TimeoutError:
        answer = None
    if isinstance(answer, JournalFrames) and len(answer.frames) == 1:
        (frame,) = answer.frames
        if journal.is_foreign(frame, hello.journal_head):
            raise Forked(
                _sentence(journal, hello),
                index=hello.journal_length - 1,
                mine=mine,
                theirs=hello.journal_head,
            )
    return (
        f"your journal of {hello.journal_length} records is no prefix of mine, and you show no "
        f"record that the run's key signed: your copy is damaged; move it away and join again"
    )


def _sentence(journal: Journal, hello: Hello) -> str:
    if hello.journal_length > journal.length:
        return (
            f"{hello.name} has {hello.journal_length} records that the run's key signed, my "
            f"journal {journal.length}: another coordinator has continued this run, or my disk "
            f"lost records; stopped"
        )
    return (
        f"another coordinator has continued this run: record {hello.journal_length - 1} of "
        f"{hello.name}, signed by the run's key, is not mine; stopped"
    )
