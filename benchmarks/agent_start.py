"""From exec to AgentStarted: seconds and resident memory of an agent with the NumPy trainer.

    python benchmarks/agent_start.py [--runs 5] [--parameters 4096] [--out FILE]

Starts a host, then one `farflung join` after the other; the first AgentStarted line in its event
log ends the measurement. The first start redeems the invite (one more TLS
handshake); each further one continues with its certificate, as a restart does. Memory is VmRSS at
that moment and VmHWM three seconds later, when the agent has its state and trains.
Goal: 0.6 s, 70 MB.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "process"))

from processes import Running, Swarm, quad_spec, until

GOAL_S, GOAL_MB = 0.6, 70.0
STARTED = b'"kind": "AgentStarted"'
SETTLE_S = 3.0


def memory_mb(pid: int, field: str) -> float:
    """VmRSS or VmHWM of a process, in MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"no {field} for process {pid}")


def starts(path: Path) -> int:
    return path.read_bytes().count(STARTED) if path.exists() else 0


def measure(swarm: Swarm, first: bool) -> dict[str, float]:
    """One start; the process is killed afterwards."""
    log = swarm.folder("a") / "events.jsonl"
    before = starts(log)
    began = time.perf_counter()
    running: Running = swarm.join("a") if first else swarm.join_again("a")
    while starts(log) == before:
        assert running.process.poll() is None, running.text
        time.sleep(0.002)
    seconds = time.perf_counter() - began
    rss = memory_mb(running.process.pid, "VmRSS")
    until(lambda: "contributed" in running.text, "it trains")
    time.sleep(SETTLE_S)
    peak = memory_mb(running.process.pid, "VmHWM")
    running.kill()
    return {"seconds": seconds, "rss_mb": rss, "training_peak_mb": peak}


def run(runs: int, parameters: int) -> dict[str, Any]:
    spec = quad_spec(
        model={"parameters": parameters},
        outer={"rounds": 1_000_000},
        swarm={"start_peers": 1, "suspect_s": 0.5, "dead_s": 1.0, "beat_s": 0.2},
    )
    with tempfile.TemporaryDirectory() as folder, Swarm(Path(folder), spec) as swarm:
        swarm.host()
        rows = [measure(swarm, first=number == 0) for number in range(runs + 1)]
    again = rows[1:]
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "parameters": parameters,
        "first": rows[0],
        "runs": again,
        "median": {k: statistics.median(r[k] for r in again) for k in again[0]},
        "goal": {"seconds": GOAL_S, "rss_mb": GOAL_MB},
    }


def show(result: dict[str, Any]) -> None:
    print(f"{'start':>10s} {'seconds':>8s} {'RSS MB':>8s} {'training, peak MB':>18s}")
    named = [("first", result["first"])]
    named += [(str(n), r) for n, r in enumerate(result["runs"], 1)]
    named.append(("median", result["median"]))
    for name, row in named:
        print(
            f"{name:>10s} {row['seconds']:8.3f} {row['rss_mb']:8.1f} "
            f"{row['training_peak_mb']:18.1f}"
        )
    print(f"{'goal':>10s} {GOAL_S:8.3f} {GOAL_MB:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--parameters", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/agent_start.json"))
    options = parser.parse_args()
    result = run(options.runs, options.parameters)
    show(result)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
