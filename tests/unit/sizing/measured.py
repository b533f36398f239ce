"""What was measured (docs/speed.md and docs/sizing.md), and what the formulas say of the same."""

from __future__ import annotations

import math
from dataclasses import dataclass

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.sizing.devices import DEVICES, DeviceClass
from farflung.sizing.exchange import exchange
from farflung.sizing.groups import PeerGroup, parse_groups
from farflung.sizing.links import LINKS, link_of
from farflung.sizing.model import ModelSizes, sizes_of
from farflung.sizing.schedule import overlapped_s, round_time
from farflung.sizing.speed import PeerSpeed, speed_of

GB = 10**9


@dataclass(frozen=True)
class Comparison:
    what: str
    predicted: float
    measured: float
    fitted: bool = False
    """The formula's constants come from this very figure."""

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


def spec_of(preset: str, seq_len: int, rows: int, optimizer: str = "adamw") -> RunSpec:
    return from_table(
        {
            "model": {"preset": preset},
            "data": {"source": "synthetic", "seq_len": seq_len},
            "inner": {"batch_rows": rows, "optimizer": optimizer},
        }
    )


STEPS = (
    # name, preset, T, rows, optimizer, GB at most, tokens/s, GB, fitted speed
    ("1b, 4 rows", "1b", 8192, 4, "adamw", 0, 57_275, 67.3, True),
    ("1b, Muon, 32 rows", "1b", 8192, 32, "muon", 0, 56_722, 108.8, False),
    ("1b, Muon, 24 GB", "1b", 8192, 32, "muon", 24, 37_672, 20.0, True),
    ("150m, 64 rows", "150m", 1024, 64, "adamw", 0, 452_646, 30.6, True),
    ("150m, Muon, 256 rows", "150m", 1024, 256, "muon", 0, 462_838, 106.4, False),
    ("150m, 8 GB", "150m", 1024, 64, "adamw", 8, 344_385, 6.3, True),
    ("35m, 64 rows", "35m", 1024, 64, "adamw", 0, 1_720_477, 11.8, True),
)


def steps() -> tuple[list[Comparison], list[Comparison]]:
    """(tokens/s, memory)"""
    speeds, memories = [], []
    for name, preset, seq_len, rows, optimizer, cap, rate, used, fitted in STEPS:
        spec = spec_of(preset, seq_len, rows, optimizer)
        speed = speed_of(spec, sizes_of(spec), h200(cap))
        speeds.append(Comparison(f"tokens/s: {name}", speed.tokens_per_s, rate, fitted))
        memories.append(Comparison(f"GPU memory, GB: {name}", speed.fit.bytes / GB, used))
    return speeds, memories


def h200(cap_gb: int) -> DeviceClass:
    whole = DEVICES["h200"]
    if not cap_gb:
        return whole
    return DeviceClass(name="capped", peak=whole.peak, memory_bytes=cap_gb * GB)


LINK_ROWS = (
    # down/up Mb/s and round trip, peers, million parameters, seconds
    ("200mbit,80ms", 2, 20, 1.80),
    ("200mbit,80ms", 4, 20, 3.14),
    ("1gbit,20ms", 4, 20, 0.73),
    ("50mbit,150ms", 4, 10, 4.55),
    ("100/20mbit,40ms", 4, 10, 8.94),
)
CROWDED = ("200mbit,80ms", 8, 10, 5.3)
"""Eight peers and the emulator on two cores: computing, not links."""


def averaging(row: tuple[str, int, int, float]) -> Comparison:
    link, peers, millions, measured = row
    groups = parse_groups(f"{peers}xcpu@{link}")
    elements = millions * 1e6
    done = exchange(groups, link_of(link), elements * (1 + 4 / 256), elements)
    what = f"averaging, s: {link}, {peers} peers, {millions} M"
    return Comparison(what, done.seconds, measured, fitted=row != CROWDED)


def demo(peers: int) -> tuple[ModelSizes, RunSpec, tuple[PeerGroup, ...], dict[str, PeerSpeed]]:
    spec = from_table({})
    sizes = sizes_of(spec, vocab=1024)
    groups = parse_groups(f"{peers}xcpu-avx512@10gbit,0ms")
    return sizes, spec, groups, {g.name: speed_of(spec, sizes, g.device) for g in groups}


def shares() -> list[Comparison]:
    """Part of a round that demo peers train, on 16 cores."""
    found = []
    for peers, measured in ((2, 0.91), (4, 0.83), (8, 0.76)):
        sizes, spec, groups, speeds = demo(peers)
        done = exchange(groups, LINKS["datacenter"], sizes.fragment_bytes, sizes.parameters)
        time = round_time(spec, groups, speeds, done.seconds)
        share = 1 - time.waiting
        found.append(Comparison(f"training share: {peers} peers", share, measured, fitted=True))
    return found


def swarms() -> list[Comparison]:
    """Tokens per second of the same swarms."""
    found = []
    for peers, measured in ((2, 27_600), (4, 50_200), (8, 83_500)):
        sizes, spec, groups, speeds = demo(peers)
        done = exchange(groups, LINKS["datacenter"], sizes.fragment_bytes, sizes.parameters)
        time = round_time(spec, groups, speeds, done.seconds)
        rate = time.tokens / time.round_s
        found.append(Comparison(f"swarm tokens/s: {peers} peers", rate, measured, fitted=True))
    return found


def overlaps() -> list[Comparison]:
    """With window 2, from what the same swarm did blocking."""
    found = []
    for link, blocking, measured in (("100 Mb/s", 0.79, 0.99), ("20 Mb/s", 0.56, 0.92)):
        sync = 1 / blocking - 1
        share = 1 / overlapped_s(1.0, sync, 2)
        found.append(Comparison(f"utilisation, window 2: {link}", share, measured))
    return found


def table(rows: list[Comparison]) -> str:
    """As docs/sizing.md shows it."""
    lines = ["| what | predicted | measured | ratio | |", "|---|---|---|---|---|"]
    for row in rows:
        digits = [f"{v:,.0f}" if v >= 1000 else f"{v:.3g}" for v in (row.predicted, row.measured)]
        note = "fitted" if row.fitted else ""
        lines.append(f"| {row.what} | {digits[0]} | {digits[1]} | {row.ratio:.2f} | {note} |")
    assert all(math.isfinite(row.ratio) for row in rows)
    return "\n".join(lines)


def everything() -> list[Comparison]:
    rates, memories = steps()
    links = [averaging(row) for row in (*LINK_ROWS, CROWDED)]
    return [*rates, *memories, *links, *shares(), *swarms(), *overlaps()]
