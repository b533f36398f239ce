"""What averaging costs: CPU seconds per GB, and the time from the last result to the last anchor.

    python benchmarks/averaging.py [--parameters 20000000] [--peers 4] [--rounds 4] [--repeats 2]

Host (coordinator and keeper) and N peers as processes on loopback; quadratic model, one inner step
of one row, int8, one fragment, no snapshots, nothing in flight beside the round. The first
committed round warms up. Medians over the measured rounds of all repeats:

    cpu_s_per_GB   user + system seconds of all processes (/proc/PID/stat) from one commit to the
                   next, less those inside NumpyTrainer's methods (thread clock), over
                   peers * parameters * 4 bytes; `/ peer`: the same per peer and round.
                   peers only: without the host's process. user / system: their parts, with the
                   trainers' (the kernel's part is mostly fresh pages, and differs by machine)
    apply_s        from the moment that the last frame of results has arrived at the last node
                   (Exchange.deliver_result) until the last node has emitted Applied; keeper
                   included (peers: without it)
    vote_s, commit_s   from the same moment until the last Voted, the commit at the coordinator
    round_s        from one commit to the next
"""

from __future__ import annotations

import argparse
import json
import os
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

DEADLINE_S = 180.0
POLL_S = 0.005
WARM_UP = 1
"""Committed rounds that are not measured."""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Marked(Swarm):
    """A swarm whose processes write marks."""

    def spawn(self, name: str, *arguments: str, patch: str = "", failpoint: str = "") -> Running:
        text = patch or _watch.patch("marks", self.marks(name))
        return super().spawn(name, *arguments, patch=text, failpoint=failpoint)

    def marks(self, name: str) -> Path:
        return self.root / f"{name}.marks"

    def marked(self, name: str, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.marks(name).read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind]

    def cpu_s(self) -> dict[str, tuple[float, float]]:
        """(user, system) seconds so far by node, of its whole process group."""
        owners = {each.process.pid: each.name for each in self.started}
        spent = dict.fromkeys(owners.values(), (0.0, 0.0))
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            name = owners.get(int(fields[2]))  # its process group
            if name is not None:
                user, system = spent[name]
                spent[name] = (
                    user + TICK_S * int(fields[11]),
                    system + TICK_S * int(fields[12]),
                )
        return spent


def once(parameters: int, peers: int, rounds: int) -> list[dict[str, float]]:
    """One swarm; a row per measured round."""
    names = [f"p{i}" for i in range(peers)]
    spec = quad_spec(
        model={"parameters": parameters},
        inner={"batch_rows": 1},
        outer={"rounds": WARM_UP + rounds + 1, "inner_steps": 1, "codec": "int8", "fragments": 1},
        swarm={"start_peers": peers, "snapshot_every": 1000, "keep_rounds": 64},
    )
    with tempfile.TemporaryDirectory(prefix="farflung-") as folder:
        with Marked(Path(folder), spec) as swarm:
            swarm.host()
            for name in names:
                swarm.join(name)
            spent = follow(swarm, WARM_UP + rounds)
            until_applied(swarm, [*names, "keeper"], WARM_UP + rounds)
        return measured(swarm, names, spent, parameters)


def follow(swarm: Marked, wanted: int) -> list[dict[str, tuple[float, float]]]:
    """CPU seconds by node at each of the first `wanted` commits."""
    spent: list[dict[str, tuple[float, float]]] = []
    end = time.monotonic() + DEADLINE_S
    while len(spent) < wanted:
        if swarm.n_committed() > len(spent):
            spent.append(swarm.cpu_s())
        if time.monotonic() > end:
            raise SystemExit(f"{len(spent)} commits in {DEADLINE_S:g} s")
        time.sleep(POLL_S)
    return spent


def until_applied(swarm: Marked, nodes: list[str], rounds: int) -> None:
    end = time.monotonic() + DEADLINE_S
    while any(swarm.counted(n, b'"kind": "Applied"') < rounds for n in nodes):
        if time.monotonic() > end:
            raise SystemExit("not all nodes apply all rounds")
        time.sleep(0.05)


def measured(
    swarm: Marked,
    names: list[str],
    spent: list[dict[str, tuple[float, float]]],
    parameters: int,
) -> list[dict[str, float]]:
    nodes = [*names, "keeper"]
    lines = {name: list(swarm.lines(name)) for name in ["host", *nodes]}
    failed = sum(line["kind"] == "AttemptFailed" for line in lines["host"])
    commits = [line for line in lines["host"] if line["kind"] == "RoundCommitted"]
    results = {n: swarm.marked("host" if n == "keeper" else n, "Result") for n in nodes}
    trainers = {n: swarm.marked(n, "TrainerCpu") for n in names}
    gb = len(names) * parameters * 4 / 1e9
    rows = []
    for i in range(WARM_UP, len(spent)):
        before, commit = commits[i - 1], commits[i]
        trained = {
            n: cpu_at(trainers[n], commit["t"]) - cpu_at(trainers[n], before["t"]) for n in names
        }
        user, system = (
            sum(spent[i][n][part] - spent[i - 1][n][part] for n in spent[i]) for part in (0, 1)
        )
        used = {n: sum(spent[i][n]) - sum(spent[i - 1][n]) for n in spent[i]}
        net = sum(used.values()) - sum(trained.values())
        at = (commit["round"], commit["attempt"])
        here = [last(results[n], at) for n in nodes]
        got = max(t for t in here if t is not None)
        applied = {n: last(of(lines[n], "Applied"), at) or 0.0 for n in nodes}
        voted = [last(of(lines[n], "Voted"), at) for n in nodes]
        rows.append(
            {
                "cpu_s_per_gb": net / gb,
                "cpu_s_per_peer": net / len(names),
                "peers_cpu_s_per_gb": (net - used["host"]) / gb,
                "user_s_per_gb": user / gb,
                "system_s_per_gb": system / gb,
                "host_cpu_s": used["host"],
                "trainer_cpu_s": sum(trained.values()),
                "apply_s": max(applied.values()) - got,
                "apply_peers_s": max(applied[n] for n in names)
                - max(t for t in here[:-1] if t is not None),
                "vote_s": max(t for t in voted if t is not None) - got,
                "commit_s": commit["t"] - got,
                "round_s": commit["t"] - before["t"],
                "nodes_with_results": sum(t is not None for t in here),
                "contributors": commit["contributors"],
                "failed_attempts": failed,
            }
        )
    return rows


def of(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind]


def last(lines: list[dict[str, Any]], at: tuple[int, int]) -> float | None:
    """When the last of these lines was written for this round and attempt."""
    return max((e["t"] for e in lines if (e["round"], e["attempt"]) == at), default=None)


def cpu_at(lines: list[dict[str, Any]], t: float) -> float:
    return max((float(e["cpu_s"]) for e in lines if e["t"] <= t), default=0.0)


def show(result: dict[str, Any]) -> None:
    median, low, high = result["median"], result["min"], result["max"]
    print(
        f"{result['peers']} peers + keeper, {result['parameters'] / 1e6:g} M parameters, int8, "
        f"{len(result['rounds'])} rounds, {os.cpu_count()} cores"
    )
    print(f"{'':44s} {'median':>8s} {'min':>8s} {'max':>8s}")
    for key, words in (
        ("cpu_s_per_gb", "CPU s per GB averaged, all processes"),
        ("peers_cpu_s_per_gb", "CPU s per GB averaged, peers only"),
        ("user_s_per_gb", "user s per GB, with the trainers'"),
        ("system_s_per_gb", "system s per GB, with the trainers'"),
        ("cpu_s_per_peer", "CPU s per peer and round, all processes"),
        ("host_cpu_s", "CPU s per round, host"),
        ("trainer_cpu_s", "CPU s per round, trainers (not counted)"),
        ("apply_s", "last result -> all applied, s"),
        ("apply_peers_s", "last result -> all applied, peers, s"),
        ("vote_s", "last result -> last vote, s"),
        ("commit_s", "last result -> commit, s"),
        ("round_s", "commit -> commit, s"),
        ("nodes_with_results", "nodes that frames of results came to"),
        ("contributors", "contributors"),
        ("failed_attempts", "failed attempts of the run"),
    ):
        print(f"{words:44s} {median[key]:8.3f} {low[key]:8.3f} {high[key]:8.3f}")


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=int, default=20_000_000)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/averaging.json"))
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    for _ in range(options.repeats):
        rows += once(options.parameters, options.peers, options.rounds)
    result = {
        "parameters": options.parameters,
        "peers": options.peers,
        "median": {k: statistics.median(r[k] for r in rows) for k in rows[0]},
        "min": {k: min(r[k] for r in rows) for k in rows[0]},
        "max": {k: max(r[k] for r in rows) for k in rows[0]},
        "rounds": rows,
    }
    show(result)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
