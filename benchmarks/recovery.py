"""How long deaths hold a swarm up: real processes, quadratic model, kill -9.

    python benchmarks/recovery.py [--kills 6] [--out benchmarks/recovery.json]

Peer: one of three peers is killed in mid-round (a round trains for some hundred milliseconds);
seconds to the first commit without it, by the survivors. What was committed with its contribution
on the way does not count. It is started again (`farflung join`) and contributes before the next
kill.
Host: coordinator and keeper are killed and started again at once (`farflung host`); seconds from
exec to the next commit, and committed rounds that the journal lost (compared byte by byte).
Timings of the run are the defaults: grace window 3 s, dead after 6 s.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "process"))

from processes import Swarm, quad_spec, records_of, until

from farflung.swarm.records import Commit

PEERS = ("a", "b", "c")
VICTIM = "c"
POLL_S = 0.005
INNER_STEPS = 600


def next_commit_s(swarm: Swarm, since: float, before: int) -> float:
    """Seconds from `since` to the first commit after `before` of them."""
    end = since + 120
    while swarm.n_committed() <= before:
        if time.perf_counter() > end:
            raise SystemExit("no commit in 120 s")
        time.sleep(POLL_S)
    return time.perf_counter() - since


def survivors_commit_s(swarm: Swarm, since: float, offset: int) -> float:
    """Seconds from `since` to the first commit after `offset` of the log without the victim."""
    path = swarm.folder("host") / "events.jsonl"
    fewer = f'"contributors": {len(PEERS) - 1},'.encode()
    while True:
        lines = path.read_bytes()[offset:].splitlines()
        if any(b'"RoundCommitted"' in line and fewer in line for line in lines):
            return time.perf_counter() - since
        if time.perf_counter() > since + 120:
            raise SystemExit("no commit in 120 s")
        time.sleep(POLL_S)


def contributed(swarm: Swarm, since: int) -> int:
    """Rounds that the victim has contributed to after its start number `since`."""
    path = swarm.folder(VICTIM) / "events.jsonl"
    part = path.read_bytes().split(b'"kind": "AgentStarted"')
    return part[-1].count(b'"contributed": true') if len(part) > since else 0


def peer_kills(swarm: Swarm, kills: int, rng: random.Random) -> list[float]:
    victim = swarm.started[-1]
    times: list[float] = []
    for number in range(1, kills + 1):
        until(lambda n=number: contributed(swarm, n) >= 3, "the victim contributes")
        time.sleep(rng.uniform(0, 0.5))  # anywhere in a round
        offset = (swarm.folder("host") / "events.jsonl").stat().st_size
        began = time.perf_counter()
        victim.kill()
        times.append(survivors_commit_s(swarm, began, offset))
        victim = swarm.join_again(VICTIM)
    return times


def host_kills(swarm: Swarm, kills: int, rng: random.Random) -> tuple[list[float], int]:
    """(seconds from restart to the next commit, committed rounds lost over all kills)."""
    host = swarm.started[0]
    journal = swarm.folder("host") / "journal.bin"
    times: list[float] = []
    lost = 0
    for _ in range(kills):
        swarm.more(5)
        time.sleep(rng.uniform(0, 0.2))
        host.kill()
        kept = journal.read_bytes()
        before = swarm.n_committed()
        began = time.perf_counter()
        host = swarm.spawn("host", "host")
        times.append(next_commit_s(swarm, began, before))
        now = journal.read_bytes()
        lost += len(set(rounds(kept)) - set(rounds(now)))
    return times, lost


def rounds(data: bytes) -> list[int]:
    return [r.round for r in records_of(data) if isinstance(r, Commit)]


def run(kills: int) -> dict[str, Any]:
    rng = random.Random(0)
    outer = {"rounds": 1_000_000, "inner_steps": INNER_STEPS}
    spec = quad_spec(outer=outer, swarm={"start_peers": len(PEERS)})
    with tempfile.TemporaryDirectory() as folder, Swarm(Path(folder), spec) as swarm:
        swarm.host()
        for name in PEERS:
            swarm.join(name)
        swarm.committed(5)
        peer = peer_kills(swarm, kills, rng)
        host, lost = host_kills(swarm, kills, rng)
        swarm.kill_all()
        verified = swarm.verify().returncode == 0
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "peers": len(PEERS),
        "inner_steps": INNER_STEPS,
        "grace_s": spec.swarm.grace_s,
        "dead_s": spec.swarm.dead_s,
        "peer_kill_to_commit_s": summary(peer),
        "host_restart_to_commit_s": summary(host),
        "committed_rounds_lost": lost,
        "verified": verified,
    }


def summary(times: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(times),
        "max": max(times),
        "all": [round(t, 3) for t in times],
    }


def show(result: dict[str, Any]) -> None:
    print(f"{'':34s} {'median s':>9s} {'max s':>7s} {'kills':>6s}")
    for key, words in (
        ("peer_kill_to_commit_s", "peer killed -> survivors commit"),
        ("host_restart_to_commit_s", "host killed, restart -> next commit"),
    ):
        row = result[key]
        print(f"{words:34s} {row['median']:9.2f} {row['max']:7.2f} {len(row['all']):6d}")
    print(f"{'committed rounds lost':34s} {result['committed_rounds_lost']:9d}")
    print(f"{'verify':34s} {'ok' if result['verified'] else 'FAILED':>9s}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/recovery.json"))
    options = parser.parse_args()
    result = run(options.kills)
    show(result)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
