"""Who may train what: FREE -> LEASED -> PENDING -> CREDITED. Pure and immutable.

Positions are numbers in the global order of samples. A range becomes FREE again only when its
holder's generation is closed and no open attempt has it (docs/protocol.md, "The ledger").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from farflung.errors import ProtocolError
from farflung.swarm import ranges
from farflung.swarm.records import Abandon, AnyRecord, Close, Commit, Lease, Ranges, Return

Holder = tuple[str, int]
"""(node, generation)."""


@dataclass(frozen=True)
class Ledger:
    batch_rows: int
    frontier: int = 0
    """Positions from here on were never leased."""
    free: Ranges = ()
    """Returned positions, lowest first."""
    held: Mapping[Holder, Ranges] = field(default_factory=dict)
    """Granted and uncredited, in the order of the grants."""
    claims: Mapping[Holder, tuple[tuple[int, Ranges], ...]] = field(default_factory=dict)
    """(round, trained and uncredited): volatile, repeated by READY."""
    frozen: Mapping[int, frozenset[Holder]] = field(default_factory=dict)
    """Round -> holders whose claims an open attempt uses."""
    closing: frozenset[Holder] = frozenset()
    """Closed holders whose claims are still frozen."""
    credited: Ranges = ()

    # ---- leases ----------------------------------------------------------------------------

    def grant(self, node: str, generation: int, rows: int) -> tuple[Ledger, Ranges]:
        """At least `rows` positions in whole batches: returned ones first, then new ones."""
        if rows < 0:
            raise AssertionError(f"rows={rows}: the frontier never moves back")
        wanted = -(-rows // self.batch_rows) * self.batch_rows
        given, rest = ranges.take(self.free, wanted)
        missing = wanted - ranges.count(given)
        frontier = self.frontier + missing
        if missing:
            given = (*given, (self.frontier, frontier))
        key = (node, generation)
        held = {**self.held, key: (*self.held.get(key, ()), *given)}
        return replace(self, frontier=frontier, free=rest, held=held), given

    def leased(self, node: str, generation: int) -> Ranges:
        """Granted and not credited, in grant order."""
        return self.held.get((node, generation), ())

    def untrained(self, node: str, generation: int) -> Ranges:
        """Leased and, as far as is known, not trained; in grant order."""
        key = (node, generation)
        return ranges.subtract(self.held.get(key, ()), self._claimed(key))

    def _claimed(self, key: Holder) -> Ranges:
        return ranges.normalise(r for _, claim in self.claims.get(key, ()) for r in claim)

    # ---- trained ---------------------------------------------------------------------------

    def train(self, node: str, generation: int, round_: int, trained: Ranges) -> Ledger:
        """READY's cumulative claim. ProtocolError when it is no prefix of the holder's leases."""
        key = (node, generation)
        held = self.held.get(key, ())
        prefix, _ = ranges.take(held, ranges.count(ranges.normalise(trained)))
        if ranges.normalise(prefix) != ranges.normalise(trained):
            raise ProtocolError("the trained samples are not a prefix of the lease")
        known = tuple(c for c in self.claims.get(key, ()) if c[0] != round_)
        for other, claim in known:
            smaller, larger = (claim, trained) if other < round_ else (trained, claim)
            if not ranges.contains(larger, smaller):
                raise ProtocolError("a later claim must hold the earlier ones")
        claims = tuple(sorted([*known, (round_, ranges.normalise(trained))]))
        return replace(self, claims={**self.claims, key: claims})

    def pending(self, node: str, generation: int, round_: int) -> Ranges:
        """Claimed for rounds up to `round_` and not credited."""
        mine = self.claims.get((node, generation), ())
        return ranges.normalise(r for when, claim in mine if when <= round_ for r in claim)

    def credit(self, round_: int, node: str, generation: int) -> tuple[Ledger, Ranges]:
        """COMMIT(r): what was claimed for rounds up to r is credited."""
        done = self.pending(node, generation, round_)
        return self._credited((node, generation), round_, done), done

    def _credited(self, key: Holder, round_: int, done: Ranges) -> Ledger:
        if ranges.intersect(self.credited, done):
            raise AssertionError(f"credited twice: {ranges.intersect(self.credited, done)}")
        claims = tuple(
            (when, ranges.subtract(claim, done))
            for when, claim in self.claims.get(key, ())
            if when > round_
        )
        return replace(
            self,
            held={**self.held, key: ranges.subtract(self.held.get(key, ()), done)},
            claims={**self.claims, key: claims},
            credited=ranges.union(self.credited, done),
        )

    # ---- attempts and closing --------------------------------------------------------------

    def freeze(self, round_: int, holders: Iterable[Holder]) -> Ledger:
        """An attempt of this round uses these holders' claims until `thaw`."""
        return replace(self, frozen={**self.frozen, round_: frozenset(holders)})

    def thaw(self, round_: int) -> tuple[Ledger, tuple[tuple[str, int, Ranges], ...]]:
        """The attempt is over; claims of holders that were closed meanwhile become free."""
        frozen = {r: h for r, h in self.frozen.items() if r != round_}
        ledger = replace(self, frozen=frozen)
        freed: list[tuple[str, int, Ranges]] = []
        for key in sorted(self.closing):
            if not ledger._is_frozen(key):
                what = ranges.normalise(ledger.held.get(key, ()))
                ledger = ledger._release(key, what)
                if what:
                    freed.append((*key, what))
        return ledger, tuple(freed)

    def close(self, node: str, generation: int) -> tuple[Ledger, Ranges]:
        """End of a stay: untrained leases are free at once, claims when no attempt has them."""
        key = (node, generation)
        held = self.held.get(key, ())
        if not self._is_frozen(key):
            what = ranges.normalise(held)
            return self._release(key, what), what
        what = ranges.normalise(self.untrained(node, generation))
        ledger = replace(self, closing=self.closing | {key})
        return ledger._free(key, what), what

    def _is_frozen(self, key: Holder) -> bool:
        return any(key in holders for holders in self.frozen.values())

    def _free(self, key: Holder, what: Ranges) -> Ledger:
        held = {**self.held, key: ranges.subtract(self.held.get(key, ()), what)}
        return replace(self, held=held, free=ranges.union(self.free, what))

    def _release(self, key: Holder, what: Ranges) -> Ledger:
        ledger = self._free(key, what)
        return replace(
            ledger,
            held={k: v for k, v in ledger.held.items() if k != key},
            claims={k: v for k, v in ledger.claims.items() if k != key},
            closing=ledger.closing - {key},
        )

    # ---- replay ----------------------------------------------------------------------------

    def apply(self, record: AnyRecord) -> Ledger:
        """The durable part of the ledger as a record leaves it."""
        match record:
            case Lease():
                ledger = self
                for grant in record.grants:
                    ledger = ledger._replay_grant((grant.node, grant.generation), grant.ranges)
                return ledger
            case Commit():
                ledger = self
                for c in record.contributors:
                    key = (c.node, c.generation)
                    ledger = ledger._credited(key, record.round, c.credited)
                return ledger
            case Close():
                return self._free((record.node, record.generation), record.freed)
            case Return():
                return self._free((record.node, record.generation), record.ranges)
            case _:
                return self

    def _replay_grant(self, key: Holder, what: Ranges) -> Ledger:
        top = max((stop for _, stop in what), default=0)
        held = {**self.held, key: (*self.held.get(key, ()), *what)}
        return replace(
            self,
            free=ranges.subtract(self.free, what),
            frontier=max(self.frontier, top),
            held=held,
        )


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Positions, counted from the records alone."""

    duplicated: int
    """Credited more than once."""
    lost: int
    """Below the frontier, and neither credited, nor free, nor leased to a stay that is open or
    whose end still waits for the rounds that were open then."""
    unleased: int
    """Credited to a contributor that did not hold them."""
    credited: int
    leased: int
    free: int
    where: Whereabouts


@dataclass(frozen=True, kw_only=True)
class Whereabouts:
    """The same as positions, sorted and disjoint."""

    duplicated: Ranges
    lost: Ranges
    credited: Ranges
    leased: Ranges
    free: Ranges
    """Returned by a stay that ended, and not leased again."""


def audit(records: Sequence[AnyRecord]) -> Audit:
    """Count again, without the ledger above: credited twice, and nobody's.

    A position is one row of one source in one epoch, so that counting positions counts samples.
    """
    count = _Count()
    for record in records:
        count.add(record)
    return count.result()


class _Count:
    """The audit's running account."""

    def __init__(self) -> None:
        self.granted: dict[Holder, Ranges] = {}
        self.credited: Ranges = ()
        self.free: Ranges = ()
        self.duplicated: Ranges = ()
        self.frontier = self.duplications = self.unleased = 0
        self.open_rounds: set[int] = set()
        self.ended: dict[Holder, set[int]] = {}
        """Closed stays -> rounds that were open then and still are: these may freeze leases."""
        self.forgotten: set[Holder] = set()
        """Closed stays that may hold nothing any more."""

    def add(self, record: AnyRecord) -> None:
        match record:
            case Lease():
                self._lease(record)
            case Commit():
                for c in record.contributors:
                    self._credit((c.node, c.generation), c.credited)
                self._resolve(record.round)
            case Abandon():
                self._resolve(record.round)
            case Close():
                key = (record.node, record.generation)
                self._return(key, record.freed)
                self.ended[key] = set(self.open_rounds)
            case Return():
                self._return((record.node, record.generation), record.ranges)
            case _:
                pass

    def _lease(self, record: Lease) -> None:
        """By the next round's plan everything that the last ones froze has been returned.

        Not before: a crash may come between a round's end and its RETURNs.
        """
        self.forgotten |= {k for k, rounds in self.ended.items() if not rounds}
        self.ended = {k: rounds for k, rounds in self.ended.items() if rounds}
        self.open_rounds.add(record.round)
        for grant in record.grants:
            key = (grant.node, grant.generation)
            self.granted[key] = ranges.union(self.granted.get(key, ()), grant.ranges)
            self.free = ranges.subtract(self.free, grant.ranges)
            self.frontier = max([self.frontier, *(stop for _, stop in grant.ranges)])

    def _credit(self, key: Holder, what: Ranges) -> None:
        held = self.granted.get(key, ())
        again = ranges.intersect(self.credited, what)
        self.duplicated = ranges.union(self.duplicated, again)
        self.duplications += ranges.count(again)
        self.unleased += ranges.count(ranges.subtract(ranges.normalise(what), held))
        self.credited = ranges.union(self.credited, what)
        self.granted[key] = ranges.subtract(held, what)

    def _resolve(self, round_: int) -> None:
        self.open_rounds.discard(round_)
        for rounds in self.ended.values():
            rounds.discard(round_)

    def _return(self, key: Holder, what: Ranges) -> None:
        self.granted[key] = ranges.subtract(self.granted.get(key, ()), what)
        self.free = ranges.union(self.free, what)

    def result(self) -> Audit:
        held = {k: v for k, v in self.granted.items() if k not in self.forgotten}
        leased = ranges.normalise(r for what in held.values() for r in what)
        known = ranges.union(ranges.union(self.credited, leased), self.free)
        lost = ranges.subtract(((0, self.frontier),), known)
        where = Whereabouts(
            duplicated=self.duplicated,
            lost=lost,
            credited=self.credited,
            leased=leased,
            free=self.free,
        )
        return Audit(
            duplicated=self.duplications,
            lost=ranges.count(lost),
            unleased=self.unleased,
            credited=ranges.count(self.credited),
            leased=ranges.count(leased),
            free=ranges.count(self.free),
            where=where,
        )
