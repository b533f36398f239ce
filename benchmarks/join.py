"""What a join costs: how long it takes with one and with three donors, and the others' stall.

Real processes on this machine: a host with keeper and PEERS trainers on a quadratic model of
PARAMETERS (64 million: state 512 MiB), then one more peer. With one donor the first peers accept no
connection, so that the newcomer fetches from the keeper alone. Prints one JSON line per case:

    state_s        from its start until the newcomer holds a snapshot (fetch_s: the download)
    contributes_s  until its first contribution is committed
    gap_s          median time between two commits before the join; spread: longest of these / gap_s
    stall          longest gap between two commits during the download / gap_s
    stall_first    longest gap from the download's end until its first contribution / gap_s
"""

from __future__ import annotations

import itertools
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
from farflung.config.run import spec_bytes

PARAMETERS = int(os.environ.get("PARAMETERS", str(64_000_000)))
PEERS = int(os.environ.get("PEERS", "2"))
STEPS = int(os.environ.get("STEPS", "4"))
BEFORE = int(os.environ.get("BEFORE", "6"))
"""Rounds before the join."""
DEADLINE_S = 900.0


class Run:
    """Processes of one swarm; their homes are below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes: list[subprocess.Popen[bytes]] = []
        spec = from_table(
            {
                "name": "bench",
                "model": {"preset": "quadratic", "parameters": PARAMETERS},
                "data": {"source": "synthetic", "rows": 1_000_000, "seq_len": 16},
                "inner": {"batch_rows": 1, "lr": 0.1},
                "outer": {"rounds": 100_000, "inner_steps": STEPS},
                "swarm": {"start_peers": PEERS, "snapshot_every": 2},
            }
        )
        (root / "spec.json").write_bytes(spec_bytes(spec))

    def start(self, home: str, *arguments: str) -> None:
        environment = {
            **os.environ,
            "FARFLUNG_HOME": str(self.root / home),
            "FARFLUNG_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        with (self.root / f"{home}.log").open("wb") as log:
            command = [sys.executable, "-m", "farflung", *arguments]
            self.processes.append(
                subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            )

    def host(self) -> str:
        spec = str(self.root / "spec.json")
        self.start("host", "host", "--spec-json", spec, "--bind", "127.0.0.1:0", "--no-window")
        path = self.root / "host" / "bench" / "host" / "invite.txt"
        wait(path.exists, "no invite")
        return path.read_text()

    def events(self, home: str, role: str) -> list[dict[str, Any]]:
        path = self.root / home / "bench" / role / "events.jsonl"
        if not path.exists():
            return []
        whole = path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def commits(self) -> list[float]:
        """Wall time of every commit."""
        found = self.events("host", "host")
        return [e["wall"] for e in found if e["kind"] == "RoundCommitted"]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def wait(done: Any, what: str) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (found := done()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)
    return found


def first(events: list[dict[str, Any]], kind: str, **fields: Any) -> dict[str, Any] | None:
    same = (e for e in events if e["kind"] == kind)
    return next((e for e in same if all(e[k] == v for k, v in fields.items())), None)


def case(root: Path, donors: int) -> dict[str, Any]:
    run = Run(root)
    try:
        invite = run.host()
        for i in range(PEERS):
            closed = ["--outbound-only"] if i >= donors - 1 else []
            run.start(f"p{i}", "join", invite, "--name", f"p{i}", *closed)
        wait(lambda: len(run.commits()) >= BEFORE, "the run does not start")
        began = time.time()
        run.start("late", "join", invite, "--name", "late")
        fetched = wait(lambda: first(run.events("late", "peer"), "SnapshotFetched"), "no snapshot")
        applied = wait(
            lambda: first(run.events("late", "peer"), "Applied", contributed=True),
            "no contribution",
        )
        commits = run.commits()
    finally:
        run.stop()
    gaps = [(a, b) for a, b in itertools.pairwise(commits)]
    earlier = [b - a for a, b in gaps[2:] if b < began]
    before = statistics.median(earlier)
    during = [b - a for a, b in gaps if b > began and a < fetched["wall"]]
    after = [b - a for a, b in gaps if b > fetched["wall"] and a < applied["wall"]]
    return {
        "donors": donors,
        "delivered": fetched["sources"],
        "state_mib": round((fetched["bytes"] + fetched["reused"]) / 2**20, 1),
        "state_s": round(fetched["wall"] - began, 2),
        "fetch_s": round(fetched["took_s"], 2),
        "contributes_s": round(applied["wall"] - began, 2),
        "gap_s": round(before, 2),
        "spread": round(max(earlier) / before, 3),
        "stall": round(max(during) / before, 3),
        "stall_first": round(max(after, default=0.0) / before, 3),
    }


def main() -> None:
    for donors in (1, PEERS + 1):
        with tempfile.TemporaryDirectory(prefix="farflung-join-") as folder:
            print(json.dumps(case(Path(folder), donors)), flush=True)


if __name__ == "__main__":
    main()
