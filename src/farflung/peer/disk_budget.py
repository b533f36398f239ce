"""`--max-disk`: how much one node may store, and how much a run needs. Pure arithmetic."""

from __future__ import annotations

import re
from dataclasses import dataclass

from farflung.averaging.reduce import ChunkGrid
from farflung.config.run import OuterSpec
from farflung.errors import ConfigError
from farflung.outer.codecs import get_codec
from farflung.outer.fragments import make_fragments, size
from farflung.outer.layout import Layout

UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
DEFAULT_SHARE = 0.5
"""Without --max-disk: of what this node uses and what is free beside it. The same share at every
start, so that restarts do not creep up on the whole disk."""
DAY_S = 86_400.0
_AGES = {"h": 3600.0, "d": DAY_S}
_KEEP = re.compile(r"\s*([0-9]+)\s*([hd]?)\s*")


def parse_size(text: str, option: str = "--max-disk") -> int:
    """`20GiB`, `500MB`, `1.5 GB` -> bytes. ConfigError for anything else, which names `option`."""
    match = _SIZE.fullmatch(text)
    unit = {u.lower(): n for u, n in UNITS.items()}.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigError(
            f"{option} {text!r} is no size; give a number with a unit: 20GiB or 500MB"
        )
    return round(float(match[1]) * unit)


@dataclass(frozen=True, kw_only=True)
class Keep:
    """How long a keeper keeps results that nobody needs any more except `verify`; 0: no such
    bound."""

    rounds: int = 0
    age_s: float = 0.0


KEEP_ALL = Keep()


def parse_keep(text: str) -> Keep:
    """`1000` rounds, `36h` or `7d`. ConfigError for anything else."""
    match = _KEEP.fullmatch(text.lower())
    if match is None or not int(match[1]):
        raise ConfigError(
            f"--keep-results {text!r} is neither a number of rounds (1000) nor an age (36h, 7d)"
        )
    number, unit = int(match[1]), match[2]
    return Keep(age_s=number * _AGES[unit]) if unit else Keep(rounds=number)


def show_size(n_bytes: float) -> str:
    """`20.0 GiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if n_bytes >= UNITS[unit]:
            return f"{n_bytes / UNITS[unit]:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a node cannot do without, in bytes."""

    snapshot: int
    """Anchor and momentum."""
    genesis: int
    """A keeper's copy of the initial weights; 0 for others."""
    results: int
    """Of the rounds that may be unresolved, and one more."""
    cache: int
    """Token shards and tokenizer."""

    @property
    def total(self) -> int:
        """One snapshot stays while the next one is written."""
        return 2 * self.snapshot + self.genesis + self.results + self.cache


def need_of(layout: Layout, outer: OuterSpec, *, keeps_genesis: bool, cache: int) -> Need:
    """From the layout and the spec alone."""
    return Need(
        snapshot=8 * layout.size,
        genesis=4 * layout.size if keeps_genesis else 0,
        results=(outer.window + 1) * max(_result_sizes(layout, outer), default=0),
        cache=cache,
    )


def check_limit(limit: int, need: Need) -> None:
    """ConfigError when the limit is below the need; 0 is no limit."""
    if limit and limit < need.total:
        cache = f", {show_size(need.cache)} of data" if need.cache else ""
        raise ConfigError(
            f"--max-disk {show_size(limit)} is below the {show_size(need.total)} that this run "
            f"needs here (two snapshots of {show_size(need.snapshot)}, "
            f"{show_size(need.genesis + need.results)} of log{cache}); give --max-disk "
            f"{-(-need.total // 2**20)}MiB or more"
        )


def usual_limit(used: int, free: int, need: Need) -> int:
    """Without --max-disk, in bytes."""
    return max(round(DEFAULT_SHARE * (used + max(0, free))), need.total)


def result_bytes(layout: Layout, outer: OuterSpec) -> float:
    """Of an average round's result, as a keeper stores it."""
    sizes = _result_sizes(layout, outer)
    return sum(sizes) / len(sizes)


def _result_sizes(layout: Layout, outer: OuterSpec) -> list[int]:
    """Of each fragment's result, in bytes."""
    codec = get_codec(outer.codec)
    fragments = make_fragments(layout, outer.fragments)
    grids = [ChunkGrid(size(f), outer.chunk_elements, codec) for f in fragments]
    return [g.bytes_between(0, g.chunks) for g in grids]


def forecast(per_round: float, rounds: int, limit: int, free: int) -> str:
    """Before anything has run: what a keeper's results will come to, and what bounds them."""
    total = per_round * rounds
    bound = limit or round(DEFAULT_SHARE * free)
    whose = "--max-disk" if limit else "half of what is free; --max-disk changes it"
    end = "; then the oldest go, and `verify` recomputes the rest" if total > bound else ""
    return (
        f"{show_size(per_round)} a round, {show_size(total)} for {rounds:,} rounds; limit "
        f"{show_size(bound)} ({whose}){end}"
    )


def usage(used: int, limit: int, per_day: float, to_come: float) -> str:
    """`1.2 GiB of 120.0 GiB; 9.0 GiB a day at this rate, full in 13 days`. Bytes; `to_come`: of
    the rounds that are left."""
    text = f"{show_size(used)} of {show_size(limit)}"
    if per_day <= 0:
        return text
    left = max(0, limit - used)
    text += f"; {show_size(per_day)} a day at this rate, "
    if to_come <= left:
        return text + "enough for the rest of the run"
    return text + (f"full in {show_days(left / per_day)}" if left else "full: the oldest go")


def show_days(days: float) -> str:
    """`3 hours`, `12 days`, `2 years`; at least an hour."""
    if days < 2:
        return f"{max(1.0, days * 24):.0f} hours"
    return f"{days:.0f} days" if days < 730 else f"{days / 365:.0f} years"
