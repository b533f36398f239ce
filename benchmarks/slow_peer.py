"""What a peer at a tenth of the speed costs the others: real processes, NumPy trainers.

    python benchmarks/slow_peer.py [--seconds 60] [--step 0.02] [--inner-steps 50]

Three equal peers, then the same with a fourth one that takes ten times as long for a step. Prints
committed rounds per second of both, and the rows credited to each peer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "process"))

from processes import Swarm, quad_spec, until

from farflung.events import GenerationClosed
from farflung.swarm import ranges

STEP = (
    "from farflung.trainers import numpy_trainer as t\n"
    "first = t.NumpyTrainer.__init__\n"
    "def slow(self, shared, spec, step_s=0.0):\n"
    "    first(self, shared, spec, {})\n"
    "t.NumpyTrainer.__init__ = slow\n"
)


def measure(arguments: argparse.Namespace, steps: dict[str, float]) -> dict[str, Any]:
    """Rounds per second and credited rows by name; `steps`: seconds of a step by name."""
    outer = {"rounds": 1_000_000, "inner_steps": arguments.inner_steps}
    spec = quad_spec(outer=outer, swarm={"start_peers": len(steps)})
    with tempfile.TemporaryDirectory() as folder, Swarm(Path(folder), spec) as swarm:
        swarm.host()
        for name, step_s in steps.items():
            words = ("join", swarm.invite, "--name", name)
            swarm.spawn(name, *words, patch=STEP.format(step_s))
        swarm.committed(5, 120)
        start, before = time.monotonic(), swarm.n_committed()
        until(lambda: time.monotonic() - start >= arguments.seconds, "time", 600)
        swarm.more(1, 120)
        seconds, rounds = time.monotonic() - start, swarm.n_committed() - before
        names = {swarm.events(name)[0].node: name for name in steps}
        rows = dict.fromkeys(steps, 0)
        for commit in swarm.commits()[before:]:
            for c in commit.contributors:
                rows[names[c.node]] += ranges.count(c.credited)
        return {
            "rounds": rounds,
            "rounds_per_s": round(rounds / seconds, 4),
            "rows": rows,
            "stays_closed": len(swarm.events("host", GenerationClosed)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="what a slow peer costs the others")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--step", type=float, default=0.02, help="seconds of a fast step")
    parser.add_argument("--inner-steps", type=int, default=50)
    arguments = parser.parse_args()
    fast = dict.fromkeys("abc", arguments.step)
    alone = measure(arguments, fast)
    with_slow = measure(arguments, fast | {"slow": 10 * arguments.step})
    ratio = round(with_slow["rounds_per_s"] / alone["rounds_per_s"], 4)
    print(json.dumps({"alone": alone, "with_slow": with_slow, "ratio": ratio}, indent=1))


if __name__ == "__main__":
    main()
