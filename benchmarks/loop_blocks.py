"""How long the event loops are blocked: the longest single callback of agents and of the host.

    python benchmarks/loop_blocks.py [--parameters 64000000] [--rounds 2] [--repeats 2]

Host (coordinator and keeper in one process) and two peers on a quadratic model of PARAMETERS
(64 million: anchor + momentum are 512 MB; 125 million for 1 GB take 32 GB of memory), int8, a
snapshot every third round; one more peer joins in mid-run and fetches a snapshot. Ends when the
newcomer has contributed and ROUNDS more rounds are committed. Every process runs asyncio's own loop
(not uvloop), with every callback timed.

    wall   includes what the loop waits for: the interpreter lock, and a core of this machine
    CPU    of the loop's thread alone (time.thread_time)

The NumPy trainer runs inside the agent's loop; its methods' time is taken out of the callbacks and
told apart (`trainer`: the longest stretch). Per process the longest callbacks with the coroutines
that it resumed in, the ones that it stopped in, and the seconds for which a sampling thread saw it
where, innermost frames first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "process"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import _watch
from processes import Running, Swarm, quad_spec

DEADLINE_S = 480.0
PEERS = ("a", "b")
LATE = "late"
SNAPSHOT_EVERY = 3
WRITTEN_S = 2 * _watch.WRITE_S
NODES = ("host", *PEERS, LATE)


class Watched(Swarm):
    """A swarm whose processes time their loops."""

    def spawn(self, name: str, *arguments: str, patch: str = "", failpoint: str = "") -> Running:
        text = patch or _watch.patch("loop", self.root / f"{name}.loop")
        return super().spawn(name, *arguments, patch=text, failpoint=failpoint)

    def watched(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / f"{name}.loop").read_text())
        return found

    def peak_gib(self) -> dict[str, float]:
        """The most memory that each process held, mapped files included."""
        found = {}
        for each in self.started:
            status = Path(f"/proc/{each.process.pid}/status").read_text().splitlines()
            peak = next(line for line in status if line.startswith("VmHWM"))
            found[each.name] = int(peak.split()[1]) / 2**20
        return found


def once(parameters: int, rounds: int) -> dict[str, Any]:
    spec = quad_spec(
        model={"parameters": parameters},
        inner={"batch_rows": 1},
        outer={"rounds": 1_000_000, "inner_steps": 1, "codec": "int8", "fragments": 1},
        swarm={"start_peers": len(PEERS), "snapshot_every": SNAPSHOT_EVERY, "keep_rounds": 64},
    )
    with (
        tempfile.TemporaryDirectory(prefix="farflung-") as folder,
        Watched(Path(folder), spec) as swarm,
    ):
        swarm.host()
        for name in PEERS:
            swarm.join(name)
        swarm.committed(SNAPSHOT_EVERY + 1, DEADLINE_S)
        swarm.join(LATE)
        end = time.monotonic() + DEADLINE_S
        while not swarm.counted(LATE, b'"contributed": true'):
            if time.monotonic() > end:
                raise SystemExit(f"the newcomer has not contributed in {DEADLINE_S:g} s")
            time.sleep(0.1)
        swarm.more(rounds, DEADLINE_S)
        time.sleep(WRITTEN_S)
        return {
            "nodes": {name: swarm.watched(name) for name in NODES},
            "peak_gib": swarm.peak_gib(),
            "rounds": swarm.n_committed(),
            "snapshot_fetched": swarm.counted(LATE, b'"kind": "SnapshotFetched"'),
            "resynced": sum(swarm.counted(name, b'"kind": "Resynced"') for name in PEERS),
            "failed_attempts": swarm.counted("host", b'"kind": "AttemptFailed"'),
        }


def longest(run: dict[str, Any], node: str, order: str) -> float:
    rows = run["nodes"][node][f"by_{order}"]
    return float(rows[0][f"{order}_s"]) if rows else 0.0


def show(result: dict[str, Any], top: int) -> None:
    runs = result["runs"]
    for node in NODES:
        for order in ("wall", "cpu"):
            for row, found in enumerate(runs[-1]["nodes"][node][f"by_{order}"][:top]):
                told(node, order, row, found)
    print(
        f"{len(PEERS)} peers + 1 newcomer, {result['parameters'] / 1e6:g} M parameters, "
        f"{[r['rounds'] for r in runs]} rounds, medians of {len(runs)} runs"
    )
    print(
        f"{'longest callback, s':22s} {'wall':>8s} {'CPU':>8s} {'trainer':>8s} {'peak GiB':>9s}"
        f" {'callbacks':>10s}"
    )
    for node in NODES:
        print(
            f"{'host' if node == 'host' else 'agent ' + node:22s}"
            f" {statistics.median(longest(r, node, 'wall') for r in runs):8.3f}"
            f" {statistics.median(longest(r, node, 'cpu') for r in runs):8.3f}"
            f" {statistics.median(r['nodes'][node]['trainer_s'] for r in runs):8.3f}"
            f" {max(r['peak_gib'][node] for r in runs):9.1f}"
            f" {runs[-1]['nodes'][node]['callbacks']:10d}"
        )


def told(node: str, order: str, row: int, found: dict[str, Any]) -> None:
    print(
        f"{node:5s} {row + 1:2d}. by {order:4s} wall {found['wall_s']:.3f} CPU {found['cpu_s']:.3f}"
        f" at {found['at_s']:.1f} s: {found['callback']}"
    )
    print(f"        from {' > '.join(found['from']) or '-'}")
    print(f"        to   {' > '.join(found['to']) or '-'}")
    for where, seconds in found["seen"]:
        print(f"        {seconds:6.3f} s in {where}")


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=64_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--top", type=int, default=4, help="callbacks told per process")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/loop_blocks.json"))
    options = parser.parse_args()
    runs = [once(options.parameters, options.rounds) for _ in range(options.repeats)]
    result = {"parameters": options.parameters, "runs": runs}
    show(result, options.top)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
