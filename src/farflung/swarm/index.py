"""A SQLite index of the journal, for people and tools: derived, disposable, rebuilt at will.

The journal decides; this answers questions such as "what has each peer been credited?" with SQL,
also while the coordinator does not run (`farflung status` uses it then).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from farflung.swarm import ranges
from farflung.swarm.records import Abandon, AnyRecord, Close, Commit, Gen, Join

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (idx INTEGER PRIMARY KEY, kind TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS members (node TEXT PRIMARY KEY, name TEXT, role TEXT);
CREATE TABLE IF NOT EXISTS rounds (
  round INTEGER PRIMARY KEY, fragment INTEGER, attempt INTEGER, committed INTEGER,
  contributors INTEGER, rows INTEGER, state_root TEXT, reason TEXT);
CREATE TABLE IF NOT EXISTS credits (
  round INTEGER, node TEXT, generation INTEGER, rows INTEGER, tokens INTEGER,
  PRIMARY KEY (round, node));
CREATE TABLE IF NOT EXISTS generations (
  node TEXT, generation INTEGER, closed TEXT, PRIMARY KEY (node, generation));
"""


class Index:
    """One database file. Never the only copy of anything, so it is not synced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = self._connect()

    def _connect(self) -> sqlite3.Connection:
        """Open; a file that is no database is thrown away."""
        try:
            return self._prepare()
        except sqlite3.DatabaseError:
            self._path.unlink(missing_ok=True)
            return self._prepare()

    def _prepare(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA synchronous=OFF")
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(SCHEMA)
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    @property
    def length(self) -> int:
        """Records that are indexed."""
        row = self._db.execute("SELECT COUNT(*) FROM records").fetchone()
        return int(row[0])

    def catch_up(self, records: Callable[[int], Iterable[AnyRecord]], total: int) -> None:
        """Bring the index to `total` records; one that is ahead of the journal starts again.

        `records(first)` gives the journal's records from `first` on (`Journal.records`).
        """
        if self.length > total:
            self._db.close()
            self._path.unlink()
            self._db = self._connect()
        self.add(self.length, records(self.length))

    def add(self, first: int, records: Iterable[AnyRecord]) -> None:
        """Index what was just appended."""
        self._db.execute("BEGIN")
        for index, record in enumerate(records, first):
            self._add(index, record)
        self._db.execute("COMMIT")

    def _add(self, index: int, record: AnyRecord) -> None:
        run = self._db.execute
        run("INSERT OR REPLACE INTO records VALUES (?, ?)", (index, type(record).__name__))
        match record:
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

    def _add_commit(self, record: Commit) -> None:
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

    def close(self) -> None:
        self._db.close()
