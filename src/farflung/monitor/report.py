"""The report card of a run: numbers from the picture and the event log, nothing else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from farflung.ids import Role
from farflung.monitor.picture import Picture
from farflung.monitor.ring import ddp_bytes


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A committed round with the time at which the coordinator said so."""

    round: int
    at_s: float
    took_s: float


def time_lost(rounds: Sequence[Timed], during: int | None) -> float:
    """Seconds by which the round in which a peer died took longer than the median round."""
    if during is None or len(rounds) < 2:
        return 0.0
    median = statistics.median(r.took_s for r in rounds)
    took = next((r.took_s for r in rounds if r.round == during), median)
    return max(0.0, took - median)


def utilisation(picture: Picture) -> float:
    """Compute time over compute plus waiting time, of all trainers."""
    trainers = [p for p in picture.peers.values() if p.role == Role.TRAINER]
    compute = sum(p.compute_s for p in trainers)
    total = compute + sum(p.wait_s for p in trainers)
    return compute / total if total > 0 else math.nan


def build_report(
    *,
    picture: Picture,
    peers: int,
    steps_per_peer: int,
    rounds: Sequence[Timed],
    kill_round: int | None,
    hashes_equal: bool,
    duplicated: int,
    lost: int,
    partial: int,
    evaluation: dict[str, Any],
    solo: dict[str, Any],
    solo_steps: int,
    seconds: float,
    swarm_seconds: float,
) -> dict[str, Any]:
    """Everything that `farflung demo` promises to report, as plain values."""
    trainers = [p for p in picture.peers.values() if p.role == Role.TRAINER and p.rounds]
    whole = [p for p in trainers if p.rounds == max(q.rounds for q in trainers)]
    up = statistics.fmean(p.bytes_up for p in whole) if whole else 0.0
    down = statistics.fmean(p.bytes_down for p in whole) if whole else 0.0
    ddp = ddp_bytes(picture.parameters, steps_per_peer, peers)
    return {
        "rounds_committed": picture.committed,
        "rounds_abandoned": picture.abandoned,
        "peers": peers,
        "parameters": picture.parameters,
        "deaths": picture.deaths,
        "joins": picture.joins,
        "hashes_equal": hashes_equal,
        "loss_first": picture.loss_first,
        "loss_last": picture.loss_last,
        "bpb_last": evaluation.get("bits_per_byte"),
        "solo_bpb": solo.get("bits_per_byte"),
        "solo_loss_last": solo.get("loss_last"),
        "solo_steps": solo_steps,
        "solo_seconds": solo.get("seconds"),
        "tokens_committed": picture.tokens,
        "samples_duplicated": duplicated,
        "samples_lost": lost,
        "samples_partial": partial,
        "bytes_up_per_peer": round(up),
        "bytes_down_per_peer": round(down),
        "ddp_bytes_per_peer": ddp,
        "reduction": ddp / max(up, down) if max(up, down) > 0 else None,
        "utilisation": utilisation(picture),
        "time_lost_to_death_s": time_lost(rounds, kill_round),
        "seconds": seconds,
        "swarm_seconds": swarm_seconds,
        "sample": evaluation.get("sample", ""),
    }
