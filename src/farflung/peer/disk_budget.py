"""`--max-disk`: how much one node may store, and how much a run needs. Pure arithmetic."""

from __future__ import annotations

import re
from dataclasses import dataclass

from farflung.errors import ConfigError
from farflung.peer.outer_state import OuterState

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
DEFAULT_SHARE = 0.8
"""Without --max-disk: of what is free when the node starts, besides what it uses already."""


def parse_size(text: str, option: str = "--max-disk") -> int:
    """`20GiB`, `500MB`, `1.5 GB` -> bytes. ConfigError for anything else, which names `option`."""
    match = _SIZE.fullmatch(text)
    unit = {u.lower(): n for u, n in UNITS.items()}.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigError(
            f"{option} {text!r} is no size; give a number with a unit: 20GiB or 500MB"
        )
    return round(float(match[1]) * unit)


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


def need_of(state: OuterState, *, keeps_genesis: bool, cache: int) -> Need:
    """From the layout and the spec alone."""
    fragments = range(len(state.fragments))
    grids = [state.grid(f) for f in fragments]
    largest = max((g.bytes_between(0, g.chunks) for g in grids if g.chunks), default=0)
    return Need(
        snapshot=8 * state.layout.size,
        genesis=4 * state.layout.size if keeps_genesis else 0,
        results=(state.outer.window + 1) * largest,
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
