"""False evictions on a bad network: real processes in network namespaces, delay and loss.

    python benchmarks/false_evictions.py [--seconds 200] [--loss 0.01] [--delay 0.1] [--peers 4]

A host with keeper and light peers (NumPy trainers, 20 steps of 50 ms) over a network that delays
every packet by `--delay` each way and drops `--loss` of them. Everybody lives, so every closed
stay and every failed attempt is false. Needs root, `ip` and /dev/net/tun.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "process"))

from lossy import Wan, WanSwarm, missing
from processes import quad_spec

from farflung.events import (
    AttemptFailed,
    EdgeFailed,
    GenerationClosed,
    PeerSuspect,
    Reconnected,
    RoundAbandoned,
    RoundCommitted,
)

STEP = (
    "from farflung.trainers import numpy_trainer as t\n"
    "first = t.NumpyTrainer.__init__\n"
    "def slow(self, shared, spec, step_s=0.0):\n"
    "    first(self, shared, spec, 0.05)\n"
    "t.NumpyTrainer.__init__ = slow\n"
)
COUNTED = (GenerationClosed, AttemptFailed, RoundAbandoned, EdgeFailed, PeerSuspect)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    peers = [f"p{i}" for i in range(arguments.peers)]
    spec = quad_spec(outer={"rounds": 1_000_000}, swarm={"start_peers": len(peers)})
    wan = Wan(len(peers) + 1, delay_s=arguments.delay, loss=arguments.loss)
    with (
        tempfile.TemporaryDirectory() as folder,
        wan,
        WanSwarm(Path(folder), spec, wan) as swarm,
    ):
        swarm.host()
        for name in peers:
            swarm.join(name, patch=STEP)
        swarm.gathered(len(peers), 120)
        start = time.monotonic()
        while time.monotonic() - start < arguments.seconds:
            swarm.more(1, 120)
        seconds = time.monotonic() - start
        counts = {kind.__name__: len(swarm.events("host", kind)) for kind in COUNTED}
        return {
            "machine": platform.processor() or platform.machine(),
            "peers": len(peers),
            "delay_s": arguments.delay,
            "loss": arguments.loss,
            "seconds": round(seconds, 1),
            "rounds": len(swarm.events("host", RoundCommitted)),
            **counts,
            "reasons": [e.reason for e in swarm.events("host", AttemptFailed)],
            "reconnections": sum(len(swarm.events(n, Reconnected)) for n in peers),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="false evictions under loss and delay")
    parser.add_argument("--seconds", type=float, default=200.0)
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds, one way")
    parser.add_argument("--peers", type=int, default=4)
    arguments = parser.parse_args()
    why_not = missing()
    if why_not:
        raise SystemExit(f"SKIPPED: 1 measurement not taken: {why_not}")
    print(json.dumps(measure(arguments), indent=1))


if __name__ == "__main__":
    main()
