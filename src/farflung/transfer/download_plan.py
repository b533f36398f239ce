"""Which piece of which blob to ask of which source: the pure part of a parallel download.

Whole blobs are given to sources, so that a bad hash names its sender; the pieces of a blob are
pipelined. What is in flight from a source is at most what it delivers in LATENCY_S: enough to keep
a long path busy, little enough that its round traffic does not queue behind blobs. No clock, no
socket: times are arguments, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from farflung.errors import FarflungError

PIECE_BYTES = 256 << 10
LATENCY_S = 0.5
MIN_WINDOW = 2 * PIECE_BYTES
MAX_WINDOW = 16 << 20
"""Bytes asked of one source and not here yet."""
SAMPLE_S = 0.2
"""Rates are measured over at least this long."""
STRIKES = 3
"""Bad hashes after which a source is not asked again."""
REST_S = (0.5, 8.0)
"""First and longest pause after a lost link."""
SLOW_S = 2.0
"""A source that has sent nothing for this long may be overtaken."""
COPIES = 2
"""Sources that send one blob at a time, at the end of a download."""


class Unservable(FarflungError):
    """Every source has said that it does not have a needed blob."""


@dataclass(frozen=True, slots=True)
class Item:
    """A blob to fetch."""

    name: bytes
    n_bytes: int
    label: str
    """For people: `chunk 17`."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: `length` bytes from `offset` of a blob."""

    source: str
    name: bytes
    offset: int
    length: int
    serial: int
    """Of the copy that it belongs to: answers to a dropped copy count for nothing."""


@dataclass(slots=True)
class _Copy:
    """One blob on its way from one source."""

    name: bytes
    n_bytes: int
    serial: int
    started_s: float
    issued: int = 0
    here: int = 0


@dataclass(slots=True)
class _Source:
    node: str
    window: int = MIN_WINDOW
    in_flight: int = 0
    rate: float = 0.0
    """Bytes per second while something was asked of it; 0: not measured yet."""
    sample_from_s: float = 0.0
    sample_bytes: int = 0
    heard_s: float = -1.0
    """When its last piece came; -1: nothing yet."""
    present: bool = True
    """Among those that may be asked now."""
    failures: int = 0
    rests_until_s: float = 0.0
    lacks: set[bytes] = field(default_factory=set)
    copies: dict[bytes, _Copy] = field(default_factory=dict)

    @property
    def proven(self) -> bool:
        """It delivers: what an unproven source was given may be given to a proven one too."""
        return self.heard_s >= 0 and not self.failures

    def effective_rate(self, now_s: float) -> float:
        """What it still delivers: a silence counts as slowness."""
        silence_s = now_s - max(self.heard_s, self.sample_from_s)
        return min(self.rate, PIECE_BYTES / silence_s) if silence_s > 0 else self.rate


class FetchPlan:
    """One download. Every item is given to one source, again after a failure; at its end slow
    items are given to a second one."""

    def __init__(
        self, items: Iterable[Item], strikes: dict[str, int] | None = None, turn: int = 0
    ) -> None:
        """`strikes` by source are the session's: shared by its downloads, written by this one.
        `turn` says which source begins, so that small downloads side by side use several."""
        self._missing: dict[bytes, Item] = {i.name: i for i in items}
        """Not stored yet, in the order in which they are asked."""
        self._checking: set[bytes] = set()
        """Arrived whole; the caller compares the hash and stores."""
        self._sources: dict[str, _Source] = {}
        self._strikes = {} if strikes is None else strikes
        self._turn = turn
        self._serial = 0

    # ---- looking ---------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return not self._missing

    def unservable(self) -> Item | None:
        """An item that every source lacks; None while there is hope."""
        if not any(s.present for s in self._sources.values()):
            return None
        asked = self._able()
        if asked and not any(s.lacks for s in asked):
            return None
        for item in self._missing.values():
            if item.name not in self._checking and all(item.name in s.lacks for s in asked):
                return item
        return None

    def partial_bytes(self) -> int:
        """Bytes of blobs that are not whole yet."""
        best: dict[bytes, int] = {}
        for source in self._sources.values():
            for copy in source.copies.values():
                best[copy.name] = max(best.get(copy.name, 0), copy.here)
        return sum(best.values()) + sum(self._missing[n].n_bytes for n in self._checking)

    def active(self) -> list[str]:
        """Sources that something is asked of."""
        return [s.node for s in self._sources.values() if s.in_flight]

    def is_live(self, ask: Ask) -> bool:
        """Whether the copy that a piece belongs to is still wanted."""
        copy = self._sources[ask.source].copies.get(ask.name)
        return copy is not None and copy.serial == ask.serial

    def serials(self) -> set[int]:
        """Of all copies that are still wanted."""
        return {c.serial for s in self._sources.values() for c in s.copies.values()}

    def another(self, name: bytes, than: str) -> str:
        """A source that may be asked next for a blob; empty when none is known."""
        able = (s for s in self._able() if name not in s.lacks)
        return next((s.node for s in able if s.node != than), "")

    def _able(self) -> list[_Source]:
        present = (s for s in self._sources.values() if s.present)
        return [s for s in present if self._strikes.get(s.node, 0) < STRIKES]

    # ---- deciding --------------------------------------------------------------------------

    def set_sources(self, nodes: Sequence[str]) -> None:
        """Who may be asked from now on; what others still send is taken."""
        for node in nodes:
            self._sources.setdefault(node, _Source(node))
        for node, source in self._sources.items():
            source.present = node in nodes

    def asks(self, now_s: float) -> list[Ask]:
        """Requests to send now. Sources take turns, so that equal ones get equal shares."""
        found: list[Ask] = []
        sources = [s for s in self._able() if s.rests_until_s <= now_s]
        self._turn += 1
        start = self._turn % len(sources) if sources else 0
        waiting = sources[start:] + sources[:start]
        while waiting:
            asked = [(s, ask) for s in waiting if (ask := self._ask(s, now_s)) is not None]
            found += [ask for _, ask in asked]
            waiting = [s for s, _ in asked]
        return found

    def _ask(self, source: _Source, now_s: float) -> Ask | None:
        if source.in_flight >= source.window:
            return None
        copy = next((c for c in source.copies.values() if c.issued < c.n_bytes), None)
        if copy is None:
            copy = self._begin(source, now_s)
        if copy is None:
            return None
        length = min(PIECE_BYTES, copy.n_bytes - copy.issued)
        ask = Ask(source.node, copy.name, copy.issued, length, copy.serial)
        copy.issued += length
        if not source.in_flight:
            source.sample_from_s, source.sample_bytes = now_s, 0
        source.in_flight += length
        return ask

    def _begin(self, source: _Source, now_s: float) -> _Copy | None:
        item = self._fresh(source) or self._overtaken(source, now_s)
        if item is None:
            return None
        self._serial += 1
        copy = _Copy(item.name, item.n_bytes, self._serial, now_s)
        source.copies[item.name] = copy
        return copy

    def _fresh(self, source: _Source) -> Item | None:
        """The first item that nobody sends, or (asked of a proven source) nobody proven."""
        senders = [s for s in self._sources.values() if s is not source]
        taken = {name for s in senders for name in s.copies}
        able = [
            i
            for i in self._missing.values()
            if not (i.name in source.lacks or i.name in source.copies or i.name in self._checking)
        ]
        free = next((i for i in able if i.name not in taken), None)
        if free is not None or not source.proven:
            return free
        safe = {name for s in senders if s.proven for name in s.copies}
        return next((i for i in able if i.name not in safe), None)

    def _overtaken(self, source: _Source, now_s: float) -> Item | None:
        """The end-game: an item that its source will send later than this one would."""
        worst: tuple[float, Item] | None = None
        for item in self._missing.values():
            senders = [s for s in self._sources.values() if item.name in s.copies]
            if not senders or source in senders or len(senders) >= COPIES:
                continue
            if item.name in source.lacks or item.name in self._checking:
                continue
            wait_s = min(_time_left(s, s.copies[item.name], now_s) for s in senders)
            mine_s = item.n_bytes / source.rate if source.rate else SLOW_S
            if wait_s > 2 * mine_s + LATENCY_S and (worst is None or wait_s > worst[0]):
                worst = (wait_s, item)
        return None if worst is None else worst[1]

    # ---- what came of it -------------------------------------------------------------------

    def on_piece(self, ask: Ask, now_s: float) -> bool:
        """A piece is here. True when its blob is whole: check it, then on_stored or on_bad."""
        source = self._sources[ask.source]
        self._landed(source, ask)
        source.failures = 0
        source.heard_s = now_s
        source.sample_bytes += ask.length
        took_s = now_s - source.sample_from_s
        if took_s >= SAMPLE_S:
            sample = source.sample_bytes / took_s
            source.rate = (source.rate + sample) / 2 if source.rate else sample
            source.window = round(min(MAX_WINDOW, max(MIN_WINDOW, source.rate * LATENCY_S)))
            source.sample_from_s, source.sample_bytes = now_s, 0
        if not self.is_live(ask):
            return False
        copy = source.copies[ask.name]
        copy.here += ask.length
        if copy.here < copy.n_bytes:
            return False
        del source.copies[ask.name]
        if ask.name not in self._missing or ask.name in self._checking:
            return False
        self._checking.add(ask.name)
        return True

    def on_stored(self, name: bytes) -> None:
        """A blob is checked and kept; copies of it that still come are dropped."""
        self._checking.discard(name)
        self._missing.pop(name, None)
        for source in self._sources.values():
            source.copies.pop(name, None)

    def on_bad(self, node: str, name: bytes) -> int:
        """A blob of this source has a bad hash. Returns its strikes; it is asked elsewhere."""
        source = self._sources[node]
        self._checking.discard(name)
        source.lacks.add(name)
        self._strikes[node] = self._strikes.get(node, 0) + 1
        if self._strikes[node] >= STRIKES:
            source.copies.clear()
        return self._strikes[node]

    def on_missing(self, ask: Ask) -> None:
        """The source does not have this blob."""
        source = self._sources[ask.source]
        self._landed(source, ask)
        source.lacks.add(ask.name)
        source.copies.pop(ask.name, None)

    def on_lost(self, ask: Ask, now_s: float) -> None:
        """The link or the source failed: its blobs go elsewhere, it rests."""
        source = self._sources[ask.source]
        self._landed(source, ask)
        if not self.is_live(ask):
            return  # the same failure, told by another piece
        first_s, longest_s = REST_S
        source.rests_until_s = now_s + min(longest_s, first_s * 2**source.failures)
        source.failures += 1
        source.copies.clear()
        source.window = MIN_WINDOW

    def _landed(self, source: _Source, ask: Ask) -> None:
        source.in_flight -= ask.length


def _time_left(source: _Source, copy: _Copy, now_s: float) -> float:
    """Seconds until a source has sent the rest of a blob, those before it included."""
    rate = source.effective_rate(now_s)
    if rate == 0:
        return 0.0 if now_s - copy.started_s < SLOW_S else float("inf")
    left = 0
    for other in source.copies.values():
        left += other.n_bytes - other.here
        if other is copy:
            break
    return left / rate
