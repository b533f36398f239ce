"""A host's folder as a window reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from farflung.disk import MemoryDisk
from farflung.events import RoundCommitted
from farflung.swarm.identity import RECORD, Identity, verify_record
from farflung.swarm.journal import JOURNAL, Journal
from farflung.swarm.records import AnyRecord

GOLDEN = Path(__file__).parents[2] / "golden" / "swarm_journal.bin"


def _golden() -> list[AnyRecord]:
    disk = MemoryDisk({JOURNAL: GOLDEN.read_bytes()})
    return list(Journal.open(disk, JOURNAL, verifier=verify_record, sign=None).records())


BODIES = _golden()
"""One record of every kind."""


def journal_bytes(records: Sequence[AnyRecord], key: int = 1) -> bytes:
    """A journal's file, signed by this key; GENESIS names it."""
    identity, disk = Identity.from_seed(bytes([key]) * 32), MemoryDisk()
    journal = Journal.open(
        disk, JOURNAL, verifier=verify_record, sign=lambda m: identity.sign(RECORD, m)
    )
    journal.append_all(records)
    data = disk.read(JOURNAL)
    assert data is not None
    return data


def committed(number: int) -> RoundCommitted:
    return RoundCommitted(
        round=number, fragment=0, attempt=0, contributors=2, tokens=10, total_tokens=10 * number,
        loss=1.0, took_s=1.0, holders=2, replicated=True, state_root="ab",
    )  # fmt: skip
