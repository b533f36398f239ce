"""The figures above everything else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from farflung.ids import Role
from farflung.monitor import inert
from farflung.monitor.columns import COMMITTED
from farflung.monitor.fold import Fold
from farflung.monitor.peer_rows import PeerRow
from farflung.monitor.timelines import OneRound
from farflung.words import counted

NEWEST = 16
"""Rounds that speeds are means of."""
NAN = math.nan


def headline(fold: Fold, now: float, *, map_shown: bool) -> dict[str, Any]:
    """Head of web/src/types.ts."""
    newest = fold.wall if math.isfinite(fold.wall) else now
    served = fold.standing.served
    state, reason, since = fold.standing.describe(
        rounds=fold.committed,
        opened=fold.columns.length > 0,
        now_doing=_doing(fold),
        newest=newest,
    )
    speed = NewestRounds(fold)
    trainers = [row for row in fold.peers.values() if row.role == Role.TRAINER]
    active = [row for row in trainers if row.active(served)]
    wanted = fold.spec.outer.tokens or None
    last = fold.evaluations.newest
    return {
        "version": 1,
        "at": inert.seconds(newest),
        "run": fold.run,
        "name": fold.name,
        "descent": fold.descent,
        "parameters": fold.parameters,
        "term": fold.term,
        "state": state,
        "reason": reason,
        "since": inert.seconds(since),
        "started": inert.seconds(fold.started),
        "round": fold.columns.length - 1,
        "rounds": fold.committed,
        "rounds_wanted": fold.rounds_wanted,
        "abandoned": fold.abandoned,
        "rejected": fold.rejected,
        "tokens": fold.tokens,
        "tokens_wanted": wanted,
        "eta_s": inert.number(speed.eta_s(fold, wanted), 4) if state == "running" else None,
        "tokens_per_s": inert.number(speed.tokens_per_s),
        "tflops": inert.number(speed.tokens_per_s * fold.flops / 1e12),
        "mfu": inert.number(_mfu(active), 4),
        "utilisation": inert.number(speed.utilisation, 4),
        "loss": inert.number(_last_known(fold, "loss")),
        "bits_per_byte": inert.number(last.bits_per_byte) if last else None,
        "peers_active": len(active),
        "peers_seen": len(trainers),
        "regions": len({row.region for row in active if row.region}) if map_shown else 0,
        "bytes_up": fold.bytes_up,
        "bytes_down": fold.bytes_down,
        "reduction": inert.number(fold.reduction, 4),
        "state_root": fold.state_root,
        "agreements": fold.agreements,
        "disagreements": fold.disagreements,
        "drift": [{"round": round_, "name": name} for round_, name in fold.drift],
        "archived": fold.archived,
        "uploading": fold.uploading,
        "keeper_disk": fold.disk,
        "settings": _settings(fold),
        "sources": _sources(fold),
        "map": map_shown,
    }


class NewestRounds:
    """Of the newest rounds; pauses between them do not count."""

    def __init__(self, fold: Fold) -> None:
        rounds = fold.columns.newest(NEWEST)
        first, stop = rounds.start, rounds.stop
        seconds = fold.columns.seconds(first, stop)
        known = np.isfinite(seconds)
        self._seconds = float(seconds[known].sum())
        self._commits = int((fold.columns.part("outcome", first, stop)[known] == COMMITTED).sum())
        tokens = int(fold.columns.part("tokens", first, stop)[known].sum())
        self.tokens_per_s = tokens / self._seconds if self._seconds > 0 else NAN
        busy = float(np.nansum(fold.columns.part("compute_s", first, stop)))
        idle = float(np.nansum(fold.columns.part("wait_s", first, stop)))
        self.utilisation = busy / (busy + idle) if busy + idle > 0 else NAN

    def eta_s(self, fold: Fold, tokens_wanted: int | None) -> float:
        """Until the run is complete, at this speed."""
        if tokens_wanted is not None:
            left = max(0, tokens_wanted - fold.tokens)
            return left / self.tokens_per_s if self.tokens_per_s > 0 else NAN
        left = max(0, fold.rounds_wanted - fold.committed)
        return left * self._seconds / self._commits if self._commits else NAN


def _mfu(active: list[PeerRow]) -> float:
    """Model FLOPs over the peaks of all devices whose peak is known: a peer's peak is in
    proportion to its tokens/s over its MFU."""
    known = [r for r in active if r.mfu > 0 and r.tokens_per_s > 0]
    peaks = sum(r.tokens_per_s / r.mfu for r in known)
    return sum(r.tokens_per_s for r in known) / peaks if peaks > 0 else NAN


def _last_known(fold: Fold, name: str) -> float:
    rounds = fold.columns.newest(NEWEST)
    column = fold.columns.part(name, rounds.start, rounds.stop)
    known = np.flatnonzero(np.isfinite(column))
    return float(column[known[-1]]) if len(known) else NAN


def _doing(fold: Fold) -> str:
    """What the newest open round waits for."""
    opened = fold.open_rounds()
    found = fold.timelines.known(opened[-1]) if opened else None
    if found is None:
        return f"{counted(fold.committed, 'round')} committed; the next one opens."
    return _waits(found)


def _waits(found: OneRound) -> str:
    ready = sum(math.isfinite(p.ready) for p in found.parts.values())
    expected = sum(not p.left_out for p in found.parts.values())
    if not expected:
        return f"Round {found.number} is open."
    if ready < expected and not found.attempts:
        return (
            f"Round {found.number} trains: {ready} of {counted(expected, 'peer')} are ready. "
            f"It goes on by itself."
        )
    return f"Round {found.number} is averaged by {counted(expected, 'peer')}."


def _settings(fold: Fold) -> dict[str, str | int | float]:
    spec = fold.spec
    if not fold.journalled:
        return {}
    return {
        "preset": inert.name(spec.model.preset),
        "seq_len": spec.data.seq_len,
        "batch_rows": spec.inner.batch_rows,
        "inner_steps": spec.outer.inner_steps,
        "fragments": spec.outer.fragments,
        "window": spec.outer.window,
        "codec": spec.outer.codec,
        "merge": spec.outer.merge,
        "optimizer": spec.inner.optimizer,
        "schedule": spec.inner.schedule,
        "outer_lr": spec.outer.lr,
        "outer_momentum": spec.outer.momentum,
        "min_peers": spec.swarm.min_peers,
        "record": spec.record,
    }


def _sources(fold: Fold) -> list[dict[str, Any]]:
    seen = fold.sources.seen
    weights = sum(source.weight for source in seen)
    return [
        {
            "name": inert.name(source.name),
            "share": round(source.weight / weights, 6) if weights else 0.0,
            "samples": source.consumed,
            "epochs": round(source.consumed / source.epoch_rows, 4) if source.epoch_rows else 0.0,
        }
        for source in seen
    ]
