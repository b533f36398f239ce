"""The window's fold: seconds per 1,000 rounds, milliseconds of every answer, memory.

    PYTHONPATH=src python benchmarks/view.py [--cases 4x2000,100x400,1000x60,8x100000]

The runs are made up (tests/window/synthetic.py) and not on disk; their making is not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "window"))

from synthetic import Options, Story, Told

from farflung.monitor.view import View

CASES = "4x2000,100x400,1000x60,8x100000"
CHUNK = 5000
REPEATS = 5


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def chunks(told: Iterator[Told]) -> Iterator[list[Told]]:
    while chunk := list(islice(told, CHUNK)):
        yield chunk


def fold(options: Options) -> tuple[View, float, int]:
    view, spent, count = View(), 0.0, 0
    for chunk in chunks(Story(options).tell()):
        began = time.process_time()
        for one in chunk:
            if isinstance(one, tuple):
                view.event(*one)
            else:
                view.record(one)
        spent += time.process_time() - began
        count += len(chunk)
    return view, spent, count


def took_ms(ask: Callable[[], object]) -> float:
    """The median of some, in CPU time."""
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        ask()
        found.append(time.process_time() - began)
    return sorted(found)[len(found) // 2] * 1e3


def measure(peers: int, rounds: int) -> None:
    gc.collect()
    before = resident_mb()
    view, spent, count = fold(Options(peers=peers, rounds=rounds, hostile=False))
    gc.collect()
    grown = resident_mb() - before
    now = view.newest or 0.0
    node = view.peers(now)[0]["node"]
    asks: dict[str, Callable[[], object]] = {
        "head": lambda: view.head(now),
        "rounds": lambda: view.rounds(0, None, 1000),
        "peers": lambda: view.peers(now),
        "peer": lambda: view.peer_page(node, now),
        "timelines": lambda: view.newest_timelines(6),
        "links": view.links,
        "lines": view.lines,
        "search": lambda: view.lines(kind="trouble", q="not there"),
        "changes": lambda: view.changes(view.step - 50, now),
        "frame": lambda: view.frame(now),
        "json": lambda: json.dumps(view.frame(now)),
    }
    times = "  ".join(f"{name} {took_ms(ask):.1f}" for name, ask in asks.items())
    size = len(json.dumps(view.frame(now))) / 1e6
    each = spent / count * 1e6
    print(f"{peers} peers x {rounds} rounds: {count:,} records and events")
    print(f"  fold {spent / rounds * 1000:.2f} s per 1,000 rounds, {each:.1f} us each")
    print(f"  {times} ms; frame {size:.2f} MB; memory {grown:.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The window's fold.")
    parser.add_argument("--cases", default=CASES, help="PEERSxROUNDS, with commas.")
    for case in parser.parse_args().cases.split(","):
        peers, _, rounds = case.partition("x")
        measure(int(peers), int(rounds))


if __name__ == "__main__":
    main()
