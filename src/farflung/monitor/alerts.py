"""When somebody should be woken: rules over what a window shows. Pure; times are arguments.

An alert is raised once, raised again after longer and longer pauses while its cause lasts, and
ended with a sentence of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from farflung.words import counted

KINDS = ("paused", "stopped", "lost", "loss", "disk", "drift", "finished")
REMIND_S, LONGEST_S = 600.0, 6 * 3600.0
"""While its cause lasts an alert comes again; the pause doubles."""
WARM_ROUNDS = 30
"""Rounds before a loss can be unusual."""
SMOOTH = 0.9
"""Of the moving means of loss and of its deviation, per round."""
SPIKE_DEVIATIONS, SPIKE_SHARE = 6.0, 0.1
"""A spike is above the mean by so many mean deviations, and by this share of it."""
LOW_BYTES, LOW_SHARE = 2 << 30, 0.05
"""A disk is low when less is free than both of these leave: 2 GiB, or 5 % of a smaller one."""


@dataclass(frozen=True, kw_only=True)
class Alert:
    """`sentence` is one line, inert; `ended`: its cause is gone."""

    kind: str
    sentence: str
    at: float
    ended: bool = False


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What is known at one moment. Shapes: web/src/types.ts."""

    head: Mapping[str, Any] | None = None
    """Head."""
    rounds: Iterable[Mapping[str, Any]] = ()
    """RoundRow of the rounds that are new."""
    peers: Iterable[Mapping[str, Any]] = ()
    """Peer of those that changed."""
    free_bytes: int | None = None
    disk_bytes: int | None = None


@dataclass
class _Standing:
    """A cause that lasts."""

    since: float
    raised: float = -math.inf
    pause_s: float = REMIND_S


@dataclass
class AlertRules:
    """Fed with sights in order; answers with the alerts that are due."""

    kinds: frozenset[str] = frozenset(KINDS)
    patience_s: float = 60.0
    """How long a pause or a stop may last before it is one."""
    _lasting: dict[str, _Standing] = field(default_factory=dict)
    _active: dict[str, str] = field(default_factory=dict)
    """Name of the peers that take part, by node."""
    _mean: float = math.nan
    _deviation: float = 0.0
    _rounds: int = 0
    _finished: bool = False
    _known_disagreements: int | None = None

    def see(self, sight: Sight, now: float) -> list[Alert]:
        found: list[Alert] = []
        if sight.head is not None:
            found += self._of_state(sight.head, now)
        for peer in sight.peers:
            found += self._of_peer(peer, now)
        for row in sight.rounds:
            found += self._of_loss(row, now)
        found += self._of_disk(sight, now)
        return [alert for alert in found if alert.kind in self.kinds]

    def forget_past(self) -> None:
        """What was seen so far is history: of it only what lasts is told."""
        self._known_disagreements = None

    # ---- rules -----------------------------------------------------------------------------

    def _of_state(self, head: Mapping[str, Any], now: float) -> list[Alert]:
        name, state = head["name"] or "the run", head["state"]
        found: list[Alert] = []
        for kind in ("paused", "stopped"):
            sentence = f"{name} is {kind}: {head['reason']}"
            ends = f"{name} goes on"
            patience_s = max(0.0, self.patience_s - max(0.0, now - head["since"]))
            found += self._lasts(kind, state == kind, sentence, ends, now, patience_s)
        if state == "finished" and not self._finished:
            rounds, tokens = counted(head["rounds"], "round"), counted(head["tokens"], "token")
            found.append(
                Alert(kind="finished", sentence=f"{name} is complete: {rounds}, {tokens}", at=now)
            )
        self._finished = state == "finished"
        known, seen = self._known_disagreements, head["disagreements"]
        if known is not None and seen > known:
            who = ", ".join(sorted({d["name"] for d in head["drift"]})) or "a peer"
            sentence = f"{name}: {who} reported a state that is not the journal's"
            found.append(Alert(kind="drift", sentence=sentence, at=now))
        self._known_disagreements = seen
        return found

    def _of_peer(self, peer: Mapping[str, Any], now: float) -> list[Alert]:
        node, state, why = peer["node"], peer["state"], peer["why"]
        was = self._active.get(node)
        if state in ("active", "suspect"):
            self._active[node] = peer["name"]
            return []
        self._active.pop(node, None)
        if was is None or state not in ("gone", "out") or why.startswith("left"):
            return []
        return [Alert(kind="lost", sentence=f"{was} is lost: {why or 'no reason known'}", at=now)]

    def _of_loss(self, row: Mapping[str, Any], now: float) -> list[Alert]:
        loss = row["loss"]
        if loss is None:
            return []
        usual, above = self._mean, loss - self._mean
        limit = max(SPIKE_DEVIATIONS * self._deviation, SPIKE_SHARE * abs(usual))
        unusual = self._rounds >= WARM_ROUNDS and above > limit
        sentence = f"loss {loss:.3f} in round {row['round']}, lately {usual:.3f}"
        ends = f"the loss is usual again: {loss:.3f} in round {row['round']}"
        self._learn(min(loss, usual + limit) if unusual else loss)
        return self._lasts("loss", unusual, sentence, ends, now, 0.0)

    def _learn(self, loss: float) -> None:
        self._rounds += 1
        if math.isnan(self._mean):
            self._mean = loss
            return
        away = abs(loss - self._mean)
        self._mean = SMOOTH * self._mean + (1 - SMOOTH) * loss
        self._deviation = SMOOTH * self._deviation + (1 - SMOOTH) * away

    def _of_disk(self, sight: Sight, now: float) -> list[Alert]:
        if sight.free_bytes is None or not sight.disk_bytes:
            return []
        limit = min(LOW_BYTES, LOW_SHARE * sight.disk_bytes)
        gib = sight.free_bytes / 2**30
        sentence = f"only {gib:.1f} GiB are free on the disk of the run's folder"
        return self._lasts(
            "disk", sight.free_bytes < limit, sentence, f"{gib:.1f} GiB are free again", now, 0.0
        )

    def _lasts(
        self, kind: str, lasting: bool, sentence: str, ends: str, now: float, patience_s: float
    ) -> list[Alert]:
        standing = self._lasting.get(kind)
        if not lasting:
            told = self._lasting.pop(kind, None)
            if told is None or told.raised == -math.inf:
                return []
            return [Alert(kind=kind, sentence=ends, at=now, ended=True)]
        if standing is None:
            standing = self._lasting[kind] = _Standing(since=now + patience_s)
        if now < standing.since or now - standing.raised < standing.pause_s:
            return []
        if standing.raised > -math.inf:
            standing.pause_s = min(LONGEST_S, 2 * standing.pause_s)
        standing.raised = now
        return [Alert(kind=kind, sentence=sentence, at=now)]
