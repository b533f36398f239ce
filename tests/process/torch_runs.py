"""Whole torch runs, with and without deaths, up to a number of credited tokens.

Used by benchmarks/twins.py and test_torch_kills.py. A run ends by `outer.tokens`, so that a run
that lost peers on the way has trained as many samples as one that lost none.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from processes import Running, Swarm, environment

from farflung.cli.demo import demo_spec
from farflung.config.run import RunSpec
from farflung.events import RoundCommitted
from farflung.run.demo import final_anchor
from farflung.run.verify import verify_folder

POLL_S = 0.05
STALL_S = 600.0
"""Without a commit for this long the run counts as stuck: a cold start loads torch many times."""
QUIET_SHARE = 0.9
"""No kill after this share of the tokens: the last victim shall come back before the end."""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Which deaths a run suffers. Rounds are committed rounds of the host."""

    kill_every: int
    """Rounds from one kill of a peer to the next; 0: none."""
    down_rounds: int = 1
    """Rounds that are committed before the victim is started again."""
    host_at: tuple[int, ...] = ()
    """The host (coordinator and keeper) is killed when so many rounds are committed."""
    seed: int = 0
    """Of the moment inside the round."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    seed: int
    peers_killed: int
    hosts_killed: int
    rounds: int
    abandoned: int
    contributors: tuple[int, ...]
    """Of each committed round."""
    tokens: int
    loss_first: float
    loss_last: float
    """Mean training loss of the first and of the last committed round, nats per token."""
    nats_per_token: float
    bits_per_byte: float
    """Of the final weights, on all held-out text."""
    duplicated: int
    lost: int
    steps_recomputed: int
    """Commits whose outer step `verify` recomputed to the journalled hashes; equals rounds."""
    seconds: float


def twin_spec(
    *, peers: int, rounds: int, seed: int, size: str = "demo", inner_steps: int = 0, rows: int = 0
) -> RunSpec:
    """The demo's run, ended by the tokens that `peers` train in `rounds` full rounds.

    `inner_steps` and `rows` (of a batch) replace the demo's when above 0.
    """
    spec = demo_spec(peers, rounds, size, seed, "results")
    inner, outer = spec.inner, spec.outer
    if rows:
        inner = msgspec.structs.replace(inner, batch_rows=rows)
    if inner_steps:
        outer = msgspec.structs.replace(outer, inner_steps=inner_steps)
    spec = msgspec.structs.replace(spec, inner=inner, outer=outer)
    steps = int(spec.steps_per_round * rounds)
    tokens = steps * peers * spec.inner_batch_tokens
    outer = msgspec.structs.replace(outer, tokens=tokens)
    return msgspec.structs.replace(spec, outer=outer)


def round_tokens(spec: RunSpec) -> int:
    """Tokens of a round with all peers at full speed: a run ends at most this far too late."""
    return int(spec.steps_per_round * spec.swarm.start_peers * spec.inner_batch_tokens)


def play(root: Path, spec: RunSpec, faults: Faults | None = None) -> Outcome:
    """One run from genesis to its end, verified and evaluated.

    Raises AssertionError when it gets stuck, Violation when it breaks a promise.
    """
    began_s = time.monotonic()
    with Swarm(root, spec) as swarm:
        swarm.host()
        names = [f"peer-{i}" for i in range(spec.swarm.start_peers)]
        drive = _Drive(swarm, {name: swarm.join(name) for name in names}, faults)
        drive.run()
    return _outcome(swarm, drive, time.monotonic() - began_s)


class _Drive:
    """Watches a run to its end and kills on the way."""

    def __init__(self, swarm: Swarm, peers: dict[str, Running], faults: Faults | None) -> None:
        self.kills = 0
        self.hosts_killed = 0
        self._swarm = swarm
        self._host = swarm.started[0]
        self._peers = peers
        self._names = list(peers)
        self._starts = dict.fromkeys(peers, 1)
        self._faults = faults or Faults(kill_every=0)
        self._rng = random.Random(self._faults.seed)
        self._down: dict[str, int] = {}
        """Victims, and the number of commits at which each is started again."""
        self._next_kill = self._faults.kill_every
        self._moved_s = time.monotonic()
        self._seen = 0

    def run(self) -> None:
        while self._host.process.poll() is None:
            committed = self._swarm.n_committed()
            if committed > self._seen:
                self._seen, self._moved_s = committed, time.monotonic()
            assert time.monotonic() - self._moved_s < STALL_S, f"stuck after {committed} commits"
            self._revive(committed)
            if not self._kill_host(committed):
                self._kill_peer(committed)
            time.sleep(POLL_S)
        assert self._host.process.returncode == 0, self._host.text[-1500:]
        for name, peer in self._peers.items():
            if name not in self._down and self._contributes(name):
                assert peer.wait() == 0

    def _revive(self, committed: int) -> None:
        for name in [n for n, at in self._down.items() if committed >= at]:
            del self._down[name]
            self._starts[name] += 1
            self._peers[name] = self._swarm.join_again(name)

    def _kill_host(self, committed: int) -> bool:
        times = self._faults.host_at
        if self.hosts_killed == len(times) or committed < times[self.hosts_killed]:
            return False
        self._somewhere()
        if self._host.process.poll() is not None:
            return False
        self._host.kill()
        self._host = self._swarm.host_again()
        self.hosts_killed += 1
        return True

    def _kill_peer(self, committed: int) -> None:
        faults = self._faults
        if not faults.kill_every or committed < self._next_kill or self._near_end():
            return
        victim = self._names[self.kills % len(self._names)]
        others = [n for n in self._names if n != victim and self._contributes(n)]
        if not self._contributes(victim) or not others:
            return  # the run goes on with whoever is left, so somebody must be
        self._somewhere()
        self._peers[victim].kill()
        self.kills += 1
        self._down[victim] = self._swarm.n_committed() + faults.down_rounds
        self._next_kill = committed + faults.kill_every

    def _somewhere(self) -> None:
        """Anywhere inside a round: about as long as the last one took, at random."""
        rounds = self._swarm.events("host", RoundCommitted)
        time.sleep(self._rng.uniform(0.0, rounds[-1].took_s if rounds else 0.0))

    def _near_end(self) -> bool:
        rounds = self._swarm.events("host", RoundCommitted)
        done = rounds[-1].total_tokens if rounds else 0
        return bool(done >= QUIET_SHARE * self._swarm.spec.outer.tokens)

    def _contributes(self, name: str) -> bool:
        """It is up, and has contributed since its newest start."""
        if name in self._down:
            return False
        path = self._swarm.folder(name) / "events.jsonl"
        data = path.read_bytes() if path.exists() else b""
        parts = data.split(b'"kind": "AgentStarted"')
        return len(parts) - 1 >= self._starts[name] and b'"contributed": true' in parts[-1]


def _outcome(swarm: Swarm, drive: _Drive, seconds: float) -> Outcome:
    findings = verify_folder(swarm.root)
    assert not findings.missing_results, findings.missing_results
    committed = swarm.events("host", RoundCommitted)
    held_out = evaluate(swarm)
    return Outcome(
        seed=swarm.spec.seed,
        peers_killed=drive.kills,
        hosts_killed=drive.hosts_killed,
        rounds=findings.commits,
        abandoned=findings.abandoned,
        contributors=tuple(len(c.contributors) for c in swarm.commits()),
        tokens=findings.credited * swarm.spec.data.seq_len,
        loss_first=committed[0].loss,
        loss_last=committed[-1].loss,
        nats_per_token=held_out["nats_per_token"],
        bits_per_byte=held_out["bits_per_byte"],
        duplicated=findings.duplicated,
        lost=findings.lost,
        steps_recomputed=findings.steps_recomputed,
        seconds=seconds,
    )


def evaluate(swarm: Swarm) -> dict[str, Any]:
    """Held-out loss of the keeper's last snapshot."""
    weights, out = swarm.root / "final.f32", swarm.root / "evaluation.json"
    final_anchor(swarm.folder("keeper"), weights)
    command = [sys.executable, "-m", "farflung.inner.report"]
    files = {
        "--spec": swarm.root / "spec.json",
        "--data": swarm.folder("host") / "data",
        "--weights": weights,
        "--out": out,
    }
    for flag, path in files.items():
        command += [flag, str(path)]
    done = subprocess.run(
        [*command, "--sample", "0"],
        env=environment(swarm.root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(out.read_text())
    return result
