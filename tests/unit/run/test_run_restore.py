"""Choosing among copies of a journal; reading one without touching it."""

from __future__ import annotations

from pathlib import Path

import pytest

from farflung.disk import MemoryDisk
from farflung.errors import UserError
from farflung.run.assemble import read_journal
from farflung.run.restore import Copy, first_difference, longest, read_recovery
from farflung.sim.world import JOURNAL, seeded_identity
from farflung.swarm.identity import RECORD, verify_record
from farflung.swarm.journal import Journal
from farflung.swarm.records import Genesis, Term

KEY = seeded_identity("restore")


def genesis() -> Genesis:
    blob = bytes(32)
    return Genesis(
        version=1, run="r", run_key=KEY.public_key, protocol=1, arithmetic=1, spec=b"{}",
        layout=b"[]", layout_hash=blob, fragment_hashes=(), snapshot=blob, snapshot_bytes=0,
        data=(), tokenizer=b"", tokenizer_bytes=0,
    )  # fmt: skip


def copy(name: str, *incarnations: str) -> Copy:
    """A journal of GENESIS and one TERM per incarnation."""
    disk = MemoryDisk()
    journal = Journal.open(
        disk, JOURNAL, verifier=verify_record, sign=lambda m: KEY.sign(RECORD, m)
    )
    journal.append(genesis())
    for term, incarnation in enumerate(incarnations, 1):
        journal.append(Term(term=term, incarnation=incarnation))
    return Copy(name, journal, disk)


def test_the_first_difference_is_found_wherever_it_is() -> None:
    whole = ["x"] * 20
    one = copy("one", *whole)
    assert first_difference(one.journal, copy("same", *whole).journal) is None
    for at in range(20):
        other = copy("other", *whole[:at], "y", *whole[at + 1 :])
        assert first_difference(one.journal, other.journal) == at + 1  # GENESIS is record 0
        assert first_difference(one.journal, copy("short", *whole[:at]).journal) is None


def test_the_longest_of_agreeing_copies_is_chosen() -> None:
    copies = [copy("a", "x"), copy("b", "x", "x", "x"), copy("c", "x", "x")]
    assert longest(copies).source == "b"
    assert longest(copies).term == 3


def test_a_fork_is_refused_with_both_hashes() -> None:
    one, other = copy("one", "x", "x", "x"), copy("other", "x", "y")
    with pytest.raises(UserError, match="different signed records at index 2") as raised:
        longest([one, other])
    for each in (one, other):
        assert each.journal.hash_at(3).hex() in str(raised.value)


def test_reading_a_journal_in_use_leaves_its_torn_tail_alone(tmp_path: Path) -> None:
    """Its owner may be in the middle of that write."""
    whole = copy("a", "x", "x").disk.read(JOURNAL) or b""
    path = tmp_path / JOURNAL
    path.write_bytes(whole[:-5])
    journal = read_journal(path)
    assert (journal.length, journal.cut_bytes > 0) == (2, True)
    assert path.read_bytes() == whole[:-5]


def test_a_foreign_record_needs_the_run_keys_signature_and_not_to_be_mine() -> None:
    one, other = copy("one", "x", "x"), copy("other", "x", "y")
    frame = other.journal.frame(2)
    assert one.journal.is_foreign(frame, other.journal.head)
    assert not one.journal.is_foreign(one.journal.frame(2), one.journal.head)  # my own
    assert not one.journal.is_foreign(frame, one.journal.head)  # not the record of that head
    for at in range(len(frame)):  # no byte may be changed
        changed = frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]
        assert not one.journal.is_foreign(changed, other.journal.head)
    for junk in (b"", b"\0" * 8, frame[:50], frame + b"x"):
        assert not one.journal.is_foreign(junk, other.journal.head)


def test_a_recovery_key_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_recovery(str(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="it is no text"):
        read_recovery(str(tmp_path / "binary"))
