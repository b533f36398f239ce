"""What agent and protocol cost a trainer when nothing fails.

The same model, batch and steps twice: alone (`farflung.inner.solo`), and as the only peer of a
swarm (host with keeper, agent, trainer; int8, blocking rounds of 20 steps). One thread each.
Overhead = wall time per step in the swarm / alone - 1, from the first step to the last, averaging
and commits included. Interleaved repeats; the median counts. Prints a table, writes overhead.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from farflung.config.load import from_table
from farflung.config.run import RunSpec, spec_bytes

ROUNDS = int(os.environ.get("ROUNDS", "12"))
REPEATS = int(os.environ.get("REPEATS", "3"))
INNER = 20


def spec() -> RunSpec:
    return from_table({"name": "bench", "outer": {"rounds": ROUNDS, "inner_steps": INNER}})


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FARFLUNG_HOME": str(home),
        "FARFLUNG_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def swarm(root: Path) -> dict[str, float]:
    """Milliseconds per step: wall, and inside the trainer's steps."""
    spec_file = root / "spec.json"
    spec_file.write_bytes(spec_bytes(spec()))
    base = [sys.executable, "-m", "farflung"]
    arguments = ["host", "--spec-json", str(spec_file), "--bind", "127.0.0.1:0", "--no-window"]
    with (root / "log").open("wb") as log:
        host = subprocess.Popen(base + arguments, env=environment(root / "h"), stdout=log)
        invite = root / "h" / "bench" / "host" / "invite.txt"
        while not invite.exists():
            assert host.poll() is None
            time.sleep(0.05)
        command = [*base, "join", invite.read_text()]
        peer = subprocess.Popen(command, env=environment(root / "p"), stdout=log)
        assert peer.wait(600) == 0
        assert host.wait(60) == 0
    events = root / "p" / "bench" / "peer" / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    trained = [e for e in lines if e["kind"] == "Trained"]
    steps = sum(e["steps"] for e in trained[1:])  # the first round warms up
    wall = trained[-1]["t"] - trained[0]["t"]
    return {
        "wall_ms": 1000 * wall / steps,
        "compute_ms": 1000 * sum(e["compute_s"] for e in trained[1:]) / steps,
    }


def alone(root: Path, data: Path) -> dict[str, float]:
    out = root / "solo.json"
    command = [
        sys.executable,
        "-m",
        "farflung.inner.solo",
        "--spec",
        str(root / "spec.json"),
        "--data",
        str(data),
        "--steps",
        str(ROUNDS * INNER),
        "--out",
        str(out),
    ]
    stamps: list[tuple[int, float]] = []
    process = subprocess.Popen(
        command, env=environment(root), stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            stamps.append((json.loads(line)["step"], time.monotonic()))
    assert process.wait() == 0
    first = next(s for s in stamps if s[0] >= INNER)
    last = stamps[-1]
    return {"wall_ms": 1000 * (last[1] - first[1]) / (last[0] - first[0])}


def main() -> None:
    rows: list[dict[str, Any]] = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory(prefix="farflung-bench-") as folder:
            root = Path(folder)
            together = swarm(root)
            single = alone(root, root / "h" / "bench" / "host" / "data")
        rows.append(
            {
                "alone_ms": single["wall_ms"],
                "swarm_ms": together["wall_ms"],
                "swarm_compute_ms": together["compute_ms"],
                "overhead": together["wall_ms"] / single["wall_ms"] - 1,
            }
        )
        print({k: round(v, 4) for k, v in rows[-1].items()}, flush=True)
    median = {k: statistics.median(r[k] for r in rows) for k in rows[0]}
    print(f"{'ms per step':>28s}: alone {median['alone_ms']:.2f}, swarm {median['swarm_ms']:.2f}")
    print(f"{'overhead':>28s}: {100 * median['overhead']:.1f} %")
    result = {"rounds": ROUNDS, "inner_steps": INNER, "runs": rows, "median": median}
    Path("overhead.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
