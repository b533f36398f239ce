"""A SQLite index of the journal, for people and tools: derived, disposable, rebuilt at will.

The journal decides; this answers questions such as "what has each peer been credited?" with SQL,
also while the coordinator does not run (`farflung status` uses it then).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from farflung.data.mixture import MixtureTimeline
from farflung.data.samples import mixture_of
from farflung.errors import StorageError
from farflung.hashing import digest
from farflung.swarm import ranges
from farflung.swarm.mixing import changes
from farflung.swarm.records import (
    Abandon,
    AnyRecord,
    Close,
    Commit,
    Gen,
    Genesis,
    Join,
    Mix,
    decode_record,
    encode_record,
)
from farflung.swarm.replay import genesis_spec

SCHEMA_VERSION = 3
"""An index of another version is thrown away."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
  idx INTEGER PRIMARY KEY, kind TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS members (node TEXT PRIMARY KEY, name TEXT, role TEXT);
CREATE TABLE IF NOT EXISTS rounds (
  round INTEGER PRIMARY KEY, fragment INTEGER, attempt INTEGER, committed INTEGER,
  contributors INTEGER, rows INTEGER, state_root TEXT, reason TEXT);
CREATE TABLE IF NOT EXISTS credits (
  round INTEGER, node TEXT, generation INTEGER, rows INTEGER, tokens INTEGER,
  PRIMARY KEY (round, node));
CREATE TABLE IF NOT EXISTS sources (
  source INTEGER PRIMARY KEY, name TEXT NOT NULL, epoch_rows INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS samples (
  round INTEGER, source INTEGER, rows INTEGER, PRIMARY KEY (round, source));
CREATE TABLE IF NOT EXISTS mixtures (idx INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS generations (
  node TEXT, generation INTEGER, closed TEXT, PRIMARY KEY (node, generation));
"""

Records = Callable[[int], Iterable[AnyRecord]]
"""The journal's records from an entry on (`Journal.records`)."""


class Index:
    """One database file. Never the only copy of anything, so it is not synced.

    Raises StorageError when it can be neither used nor written anew: no space, or another process
    has it locked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._timeline: MixtureTimeline | None = None
        """What positions read, as the indexed records say it; None: to be read again."""
        try:
            self._db = self._connect()
        except sqlite3.Error as error:
            raise _refused(path, error) from error

    def _connect(self) -> sqlite3.Connection:
        """Open; a file that is no database, or of another version, is thrown away."""
        try:
            return self._prepare()
        except sqlite3.OperationalError:
            raise  # locked or no space: the file itself may be good
        except sqlite3.DatabaseError:
            self._remove()
            return self._prepare()

    def _prepare(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA synchronous=OFF")
            db.execute("PRAGMA journal_mode=WAL")
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            tables = int(db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0])
            if tables and version != SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"index version {version}, not {SCHEMA_VERSION}")
            db.executescript(SCHEMA)
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _restart(self) -> None:
        self._timeline = None
        self._db.close()
        self._remove()
        self._db = self._connect()

    @property
    def length(self) -> int:
        """Records that are indexed."""
        row = self._db.execute("SELECT COUNT(*) FROM records").fetchone()
        return int(row[0])

    def catch_up(self, records: Records, total: int) -> None:
        """Bring the index to `total` records.

        It starts again when it is damaged, ahead of the journal, or of another journal.
        """
        try:
            try:
                if self.length > total or not self._fits(records):
                    self._restart()
                self.add(self.length, records(self.length))
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self._restart()
                self.add(0, records(0))
        except sqlite3.Error as error:
            raise _refused(self._path, error) from error

    def _fits(self, records: Records) -> bool:
        """Whether the first and the last record that are indexed are the journal's."""
        known = self.length
        return not known or all(self._same(at, records) for at in (0, known - 1))

    def _same(self, at: int, records: Records) -> bool:
        record = next(iter(records(at)))
        row = self._db.execute("SELECT hash FROM records WHERE idx = ?", (at,)).fetchone()
        return row is not None and row[0] == _hash(record)

    def add(self, first: int, records: Iterable[AnyRecord]) -> None:
        """Index what was just appended: all of it, or (sqlite3.Error) nothing."""
        self._timeline = None  # a transaction that was rolled back may have changed it
        with self._db:
            self._db.execute("BEGIN")
            for index, record in enumerate(records, first):
                self._add(index, record)

    def _add(self, index: int, record: AnyRecord) -> None:
        run = self._db.execute
        run(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?)",
            (index, type(record).__name__, _hash(record)),
        )
        match record:
            case Genesis() | Mix():
                self._add_mixture(index, record)
            case Join():
                run(
                    "INSERT OR REPLACE INTO members VALUES (?, ?, ?)",
                    (record.node, record.name, record.role),
                )
            case Gen():
                run(
                    "INSERT OR REPLACE INTO generations VALUES (?, ?, '')",
                    (record.node, record.generation),
                )
            case Close():
                run(
                    "UPDATE generations SET closed = ? WHERE node = ? AND generation = ?",
                    (record.reason, record.node, record.generation),
                )
            case Commit():
                self._add_commit(record)
            case Abandon():
                run(
                    "INSERT OR REPLACE INTO rounds VALUES (?, ?, 0, 0, 0, 0, '', ?)",
                    (record.round, record.fragment, record.reason),
                )
            case _:
                pass

    def _add_mixture(self, index: int, record: Genesis | Mix) -> None:
        self._timeline = None
        self._db.execute(
            "INSERT OR REPLACE INTO mixtures VALUES (?, ?)", (index, encode_record(record))
        )
        if isinstance(record, Genesis):
            rows = [(i, part.name, part.rows) for i, part in enumerate(record.data)]
            self._db.executemany("INSERT OR REPLACE INTO sources VALUES (?, ?, ?)", rows)

    def _add_samples(self, record: Commit) -> None:
        """Rows of each source; nothing is known of them without GENESIS."""
        if self._timeline is None:
            kept = self._db.execute("SELECT record FROM mixtures ORDER BY idx").fetchall()
            records = [decode_record(row[0]) for row in kept]
            if not records or not isinstance(records[0], Genesis):
                return
            self._timeline = mixture_of(genesis_spec(records[0]), changes(records))
        counts = self._timeline.count(r for c in record.contributors for r in c.credited)
        self._db.executemany(
            "INSERT OR REPLACE INTO samples VALUES (?, ?, ?)",
            [(record.round, source, rows) for source, rows in enumerate(counts)],
        )

    def _add_commit(self, record: Commit) -> None:
        self._add_samples(record)
        credits = [
            (record.round, c.node, c.generation, ranges.count(c.credited), c.tokens)
            for c in record.contributors
        ]
        self._db.executemany("INSERT OR REPLACE INTO credits VALUES (?, ?, ?, ?, ?)", credits)
        self._db.execute(
            "INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, 1, ?, ?, ?, '')",
            (
                record.round,
                record.fragment,
                record.attempt,
                len(credits),
                sum(c[3] for c in credits),
                record.state_root.hex(),
            ),
        )

    # ---- questions -------------------------------------------------------------------------

    def totals(self) -> tuple[int, int, int, str]:
        """(rounds committed, rounds abandoned, rows credited, last state root)."""
        row = self._db.execute(
            "SELECT COALESCE(SUM(committed), 0), COALESCE(SUM(1 - committed), 0), "
            "COALESCE(SUM(rows), 0) FROM rounds"
        ).fetchone()
        last = self._db.execute(
            "SELECT state_root FROM rounds WHERE committed = 1 ORDER BY round DESC LIMIT 1"
        ).fetchone()
        return int(row[0]), int(row[1]), int(row[2]), str(last[0]) if last else ""

    def credited(self) -> list[tuple[str, str, int, int]]:
        """(name, role, rounds contributed, rows credited) of every member, most rows first."""
        rows = self._db.execute(
            "SELECT name, role, COUNT(round), COALESCE(SUM(rows), 0) FROM members "
            "LEFT JOIN credits USING (node) GROUP BY node ORDER BY 4 DESC, name"
        ).fetchall()
        return [(str(n), str(r), int(k), int(total)) for n, r, k, total in rows]

    def sources(self) -> list[tuple[str, int, int]]:
        """(name, rows credited, rows of an epoch) of every source, in the order of GENESIS."""
        rows = self._db.execute(
            "SELECT name, COALESCE(SUM(rows), 0), epoch_rows FROM sources "
            "LEFT JOIN samples USING (source) GROUP BY source ORDER BY source"
        ).fetchall()
        return [(str(name), int(n), int(epoch)) for name, n, epoch in rows]

    def close(self) -> None:
        self._db.close()


def _hash(record: AnyRecord) -> str:
    return digest(encode_record(record)).hex()


def _refused(path: Path, error: sqlite3.Error) -> StorageError:
    return StorageError(f"the index {path} cannot be used: {error}; delete it, it is rebuilt")
