"""The SQLite index is derived: rebuilt, never trusted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from swarm_samples import genesis

from farflung.config.load import from_table
from farflung.errors import StorageError
from farflung.swarm.index import Index
from farflung.swarm.records import (
    Abandon,
    AnyRecord,
    Commit,
    Contributor,
    DataPart,
    Join,
    Mix,
    Term,
)


def _records() -> list[AnyRecord]:
    zero = bytes(32)
    commit = Commit(
        term=1,
        round=0,
        attempt=1,
        fragment=0,
        base_hash=zero,
        base_round=-1,
        codec="int8",
        contributors=(
            Contributor(
                node="a",
                generation=1,
                credited=((0, 8), (16, 24)),
                tokens=256,
                commitment=zero,
                clip=0,
                base_round=-1,
            ),
        ),
        rejected=(),
        divisor=256,
        slices=(),
        bytes_root=zero,
        outer_lr=0,
        outer_momentum=0,
        fragment_hash=zero,
        state_root=b"\x01" * 32,
        holders=("a",),
        votes=(),
    )
    joins = [
        Join(node=n, name=f"peer-{n}", region="", role="trainer", public_key=zero, invite=b"")
        for n in ("a", "b")
    ]
    return [Term(term=1), *joins, commit, Abandon(term=1, round=1, fragment=0, reason="nobody")]


def _from(records: list[AnyRecord]) -> Callable[[int], list[AnyRecord]]:
    return lambda first: records[first:]


def test_totals_and_credits_answer_from_the_records(tmp_path: Path) -> None:
    index = Index(tmp_path / "i.sqlite")
    index.catch_up(_from(_records()), 5)
    assert index.totals() == (1, 1, 16, "01" * 32)
    assert index.credited() == [("peer-a", "trainer", 1, 16), ("peer-b", "trainer", 0, 0)]
    index.close()


def test_credits_are_counted_by_source_across_a_change_of_the_mixture(tmp_path: Path) -> None:
    spec = from_table(
        {
            "data": {
                "sources": [
                    {"name": "web", "source": "synthetic", "rows": 5000, "weight": 3},
                    {"name": "notes", "source": "synthetic", "rows": 10, "weight": 1},
                ]
            }
        }
    )
    parts = tuple(
        DataPart(name=p.name, rows=p.rows, manifest=b"", manifest_bytes=0) for p in spec.data.parts
    )
    first = msgspec.structs.replace(genesis(spec), data=parts)
    mix = Mix(term=1, start_row=1000, weights=(1, 4), bases=(750, 250))
    (commit,) = [r for r in _records() if isinstance(r, Commit)]
    one, two = [
        msgspec.structs.replace(
            commit,
            round=number,
            contributors=(msgspec.structs.replace(commit.contributors[0], credited=credited),),
        )
        for number, credited in enumerate([((0, 1000),), ((1000, 2000),)])
    ]
    path = tmp_path / "i.sqlite"
    index = Index(path)
    index.add(0, [first, one])
    assert index.sources() == [("web", 750, 5000), ("notes", 250, 10)]
    index.close()
    index = Index(path)  # it goes on from what it holds itself
    index.catch_up(_from([first, one, mix, two]), 4)
    assert index.sources() == [("web", 950, 5000), ("notes", 1050, 10)]
    index.close()


def test_catching_up_adds_only_what_is_missing(tmp_path: Path) -> None:
    index = Index(tmp_path / "i.sqlite")
    index.catch_up(_from(_records()[:3]), 3)
    index.catch_up(_from(_records()), 5)
    assert index.length == 5
    assert index.totals()[:3] == (1, 1, 16)
    index.close()


def test_an_index_ahead_of_the_journal_starts_again(tmp_path: Path) -> None:
    index = Index(tmp_path / "i.sqlite")
    index.catch_up(_from(_records()), 5)
    index.catch_up(_from(_records()[:3]), 3)
    assert index.length == 3
    assert index.totals()[0] == 0
    index.close()


def test_a_damaged_database_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "i.sqlite"
    path.write_bytes(b"this is no database" * 100)
    index = Index(path)
    index.catch_up(_from(_records()), 5)
    assert index.totals()[0] == 1
    index.close()


def test_a_database_with_damaged_pages_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "i.sqlite"
    records: list[AnyRecord] = [*_records(), *(Term(term=n) for n in range(2, 2000))]
    index = Index(path)
    index.catch_up(_from(records), len(records))
    index.close()
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xaa" * (len(data) - 8192))  # header and schema are good
    index = Index(path)
    index.catch_up(_from(records), len(records))
    assert index.length == len(records)
    assert index.totals() == (1, 1, 16, "01" * 32)
    index.close()


@pytest.mark.parametrize("shared", [0, 4])
def test_an_index_of_another_journal_starts_again(shared: int, tmp_path: Path) -> None:
    """Also of one that began alike: a journal that was restored from a copy and went on."""
    index = Index(tmp_path / "i.sqlite")
    index.catch_up(_from(_records()), 5)
    other: list[AnyRecord] = [*_records()[:shared], *(Term(term=n) for n in range(5, 12))]
    index.catch_up(_from(other), len(other))
    assert index.length == len(other)
    assert index.totals()[:2] == ((1, 0) if shared else (0, 0))
    index.close()


def test_an_index_of_another_version_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "i.sqlite"
    old = sqlite3.connect(path)
    old.execute("CREATE TABLE records (idx INTEGER PRIMARY KEY, kind TEXT NOT NULL)")
    old.execute("INSERT INTO records VALUES (0, 'Term')")
    old.commit()
    old.close()
    index = Index(path)
    assert index.length == 0
    index.catch_up(_from(_records()), 5)
    assert index.length == 5
    index.close()


def test_adding_is_all_or_nothing(tmp_path: Path) -> None:
    index = Index(tmp_path / "i.sqlite")

    def broken() -> list[AnyRecord]:
        raise sqlite3.OperationalError("disk full")

    with pytest.raises(sqlite3.OperationalError):
        index.add(0, (r for part in (_records, broken) for r in part()))
    assert index.length == 0
    index.add(0, _records())
    assert index.length == 5
    index.close()


def test_an_index_that_cannot_be_opened_is_a_storage_error_and_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "i.sqlite"
    path.mkdir()
    with pytest.raises(StorageError, match="delete it, it is rebuilt"):
        Index(path)
    assert path.is_dir()
