"""The ledger, position by position: free, held by a stay, or credited. Nothing else.

Written from the rules, not from `farflung.swarm.ledger`: sets of single positions, no ranges.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

Stay = tuple[str, int]
"""(node, generation)."""
Rows = frozenset[int]
NO_ROWS: Rows = frozenset()

Pairs = tuple[tuple[Any, Any], ...]
"""A small hashable dictionary, sorted by key."""


class NotAllowed(Exception):
    """The rules forbid this step here."""


def look(pairs: Pairs, key: object, default: Any = None) -> Any:
    return next((v for k, v in pairs if k == key), default)


def put(pairs: Pairs, key: object, value: object) -> Pairs:
    return tuple(sorted([*((k, v) for k, v in pairs if k != key), (key, value)], key=_first))


def drop(pairs: Pairs, key: object) -> Pairs:
    return tuple((k, v) for k, v in pairs if k != key)


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]


class Book(NamedTuple):
    frontier: int = 0
    """Positions from here on were never leased."""
    free: Rows = NO_ROWS
    credited: Rows = NO_ROWS
    held: Pairs = ()
    """Stay -> positions in the order of the grants."""
    claims: Pairs = ()
    """(stay, round) -> positions that it says it has trained. Volatile."""
    frozen: Pairs = ()
    """Round -> stays that its open attempt uses. Volatile."""
    closing: frozenset[Stay] = frozenset()
    """Closed stays that an open attempt still uses. Volatile."""

    def claim_of(self, stay: Stay, round_: int) -> Rows:
        """Claimed for rounds up to this one, and not credited."""
        found = [v for (s, r), v in self.claims if s == stay and r <= round_]
        return frozenset().union(*found) if found else NO_ROWS

    def untrained(self, stay: Stay) -> tuple[int, ...]:
        claimed = self.claim_of(stay, 10**9)
        return tuple(p for p in look(self.held, stay, ()) if p not in claimed)


def grant(book: Book, stay: Stay, rows: tuple[int, ...]) -> Book:
    """LEASE: returned positions first, lowest first, then new ones."""
    expected = sorted(book.free)[: len(rows)]
    expected += range(book.frontier, book.frontier + len(rows) - len(expected))
    if list(rows) != expected:
        raise NotAllowed(f"{stay} is granted {rows}, expected {expected}")
    return book._replace(
        frontier=max([book.frontier, *(p + 1 for p in rows)]),
        free=book.free - set(rows),
        held=put(book.held, stay, (*look(book.held, stay, ()), *rows)),
    )


def claim(book: Book, stay: Stay, round_: int, trained: Rows) -> Book:
    """READY: a prefix of the stay's leases, and in step with its other claims."""
    held = look(book.held, stay, ())
    if frozenset(held[: len(trained)]) != trained:
        raise NotAllowed(f"{stay} claims {sorted(trained)}, no prefix of {held}")
    for (other, r), rows in book.claims:
        if other == stay and not (rows <= trained if r < round_ else trained <= rows):
            raise NotAllowed(f"{stay} claims {sorted(trained)} after {sorted(rows)}")
    return book._replace(claims=put(book.claims, (stay, round_), trained))


def credit(book: Book, round_: int, stay: Stay) -> tuple[Book, Rows]:
    """COMMIT: what the stay claimed for rounds up to this one."""
    done = book.claim_of(stay, round_)
    if done & book.credited:
        raise NotAllowed(f"{sorted(done & book.credited)} would be credited twice")
    claims = tuple(
        ((s, r), rows - done if s == stay else rows)
        for (s, r), rows in book.claims
        if s != stay or r > round_
    )
    held = put(book.held, stay, tuple(p for p in look(book.held, stay, ()) if p not in done))
    return book._replace(credited=book.credited | done, claims=claims, held=held), done


def freeze(book: Book, round_: int, stays: Iterable[Stay]) -> Book:
    return book._replace(frozen=put(book.frozen, round_, frozenset(stays)))


def thaw(book: Book, round_: int) -> tuple[Book, list[tuple[Stay, Rows]]]:
    """The round's attempt is over: closed stays that nobody uses any more give up their rest."""
    book = book._replace(frozen=drop(book.frozen, round_))
    returned: list[tuple[Stay, Rows]] = []
    for stay in sorted(book.closing):
        if not _used(book, stay):
            book, rows = _release(book, stay)
            if rows:
                returned.append((stay, rows))
    return book, returned


def close(book: Book, stay: Stay, *, frozen_stay: bool = True) -> tuple[Book, Rows]:
    """End of a stay: what no open attempt uses is free at once."""
    if not frozen_stay or not _used(book, stay):
        return _release(book, stay)
    rest = frozenset(book.untrained(stay))
    held = tuple(p for p in look(book.held, stay, ()) if p not in rest)
    book = book._replace(held=put(book.held, stay, held), free=book.free | rest)
    return book._replace(closing=book.closing | {stay}), rest


def _used(book: Book, stay: Stay) -> bool:
    return any(stay in stays for _, stays in book.frozen)


def _release(book: Book, stay: Stay) -> tuple[Book, Rows]:
    rows = frozenset(look(book.held, stay, ()))
    claims = tuple(c for c in book.claims if c[0][0] != stay)
    book = book._replace(
        free=book.free | rows,
        held=drop(book.held, stay),
        claims=claims,
        closing=book.closing - {stay},
    )
    return book, rows


def lost_or_doubled(book: Book) -> str:
    """Every position below the frontier is in exactly one place."""
    places = [*book.free, *book.credited, *(p for _, rows in book.held for p in rows)]
    if len(places) != len(set(places)):
        return f"a position is in two places: {sorted(places)}"
    if set(places) != set(range(book.frontier)):
        return f"a lease is lost: {sorted(set(range(book.frontier)) - set(places))}"
    return ""
