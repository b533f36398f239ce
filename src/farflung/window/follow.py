"""Following a node's folder from a process of its own, for trackers and alerts.

What a tracker was told is remembered in the folder (`follow.json`), so that it is told nothing
twice. Of what was over before this process began no alert is raised.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farflung.disk import RealDisk
from farflung.errors import StorageError
from farflung.monitor.alerts import Alert, AlertRules, Sight
from farflung.monitor.view import View
from farflung.window.alarm import Deliver
from farflung.window.exporters import (
    HEAD_FIGURES,
    OWN_FIGURES,
    ROUND_FIGURES,
    Exporter,
    figures,
)
from farflung.window.tail import FolderTail

REMEMBERED = "follow.json"
RETRY_S, LONGEST_S = 10.0, 600.0
"""Until an alert that was not delivered is tried again; the pause doubles."""
MOST_WAITING = 100
"""Alerts that wait for their delivery."""
KEEP_EVERY_S = 5.0

Say = Callable[[str], None]
Open = Callable[[str, str, Mapping[str, Any]], Exporter]
"""(id of the run, its name, its settings) -> a tracker that is ready."""


@dataclass
class _Tracker:
    """One exporter and what it was told."""

    target: str
    open: Open
    round: int = -1
    evaluation: int = -1
    exporter: Exporter | None = None


@dataclass
class Forwarder:
    """`look` again and again; `close` at the end. Blocking."""

    folder: Path
    trackers: Sequence[tuple[str, Open]]
    alarms: Sequence[Deliver]
    watch: AlertRules
    say: Say
    wall: Callable[[], float]
    served: Callable[[], bool] = lambda: True
    own: str = ""
    """Node of a volunteer whose own figures are exported too."""
    _step: int = 0

    def __post_init__(self) -> None:
        self._disk = RealDisk(self.folder)
        self._tail = FolderTail(self.folder)
        self._view = View()
        self._trackers = [_Tracker(target, make) for target, make in self.trackers]
        self._queue: list[tuple[Deliver, Alert]] = []
        self._try_at, self._pause_s, self._kept_at = 0.0, RETRY_S, 0.0
        self._first = True
        self._remember()

    def look(self) -> str:
        """One look at the folder; the run's state. CorruptState, UserError of a tracker."""
        more = True
        while more:
            news = self._tail.poll()
            if news.anew:
                self._view, self._step = View(), 0
            for record in news.records:
                self._view.record(record)
            for told in news.told:
                self._view.event(told.wall, told.event)
            more = news.more
        now = self.wall()
        self._view.serve(self.served(), now)
        changes = self._view.changes(self._step, now, ("head", "rounds", "peers", "evaluations"))
        self._step = changes["step"]
        head = self._view.head(now)
        if head["run"]:
            self._export(head, changes)
        self._alert(head, changes, now)
        self._deliver(now, head["name"])
        self._keep(now)
        self._first = False
        return str(head["state"])

    def close(self) -> None:
        """What was told is remembered, trackers are closed."""
        self._keep(float("inf"))
        for tracker in self._trackers:
            if tracker.exporter is not None:
                tracker.exporter.close()
        self._tail.close()

    # ---- trackers --------------------------------------------------------------------------

    def _export(self, head: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            if tracker.exporter is None:
                settings = {**head["settings"], "parameters": head["parameters"]}
                name = f"{head['name']}-{self._own_name()}" if self.own else head["name"]
                tracker.exporter = tracker.open(self._tracker_id(head), name, settings)
            self._export_to(tracker, tracker.exporter, head, changes)

    def _export_to(
        self,
        tracker: _Tracker,
        exporter: Exporter,
        head: Mapping[str, Any],
        changes: Mapping[str, Any],
    ) -> None:
        news = [row for row in changes["rounds"] if row["round"] > tracker.round]
        for row in news:
            values = figures(row, ROUND_FIGURES)
            if row is news[-1]:  # of the present moment
                values |= figures(head, HEAD_FIGURES) | self._own_figures()
            exporter.log(row["round"], values)
            tracker.round = row["round"]
        for one in changes["evaluations"]:
            if one["round"] <= tracker.evaluation:
                continue
            values = {"eval/bits_per_byte": one["bits_per_byte"]}
            values["eval/nats_per_token"] = one["nats_per_token"]
            # A tracker's steps only go up: an evaluation of an older state stands at the newest.
            step = max(tracker.round, one["round"])
            exporter.log(step, {**values, "eval/of_round": float(one["round"])})
            for number, drawn in enumerate(one["samples"]):
                exporter.text(step, f"prompt-{number}", drawn["prompt"] + drawn["text"])
            tracker.evaluation = one["round"]

    def _own_figures(self) -> dict[str, float]:
        if not self.own:
            return {}
        page = self._view.peer_page(self.own, self.wall())
        return {} if page is None else figures(page["peer"], OWN_FIGURES)

    def _own_name(self) -> str:
        page = self._view.peer_page(self.own, self.wall())
        return "peer" if page is None else str(page["peer"]["name"])

    def _tracker_id(self, head: Mapping[str, Any]) -> str:
        return f"{head['run'][:24]}{self.own[:12]}"

    # ---- alerts ----------------------------------------------------------------------------

    def _alert(self, head: Mapping[str, Any], changes: Mapping[str, Any], now: float) -> None:
        if not self.alarms:
            return
        usage = shutil.disk_usage(self.folder)
        sight = Sight(
            head=head,
            rounds=changes["rounds"],
            peers=changes["peers"],
            free_bytes=usage.free,
            disk_bytes=usage.total,
        )
        found = self.watch.see(sight, now)
        if self._first:  # what was before: only what lasts is news
            found = [a for a in found if a.kind in ("paused", "stopped", "disk") and not a.ended]
        for alert in found:
            self.say(f"alert: {'resolved: ' if alert.ended else ''}{alert.sentence}")
            self._queue += [(alarm, alert) for alarm in self.alarms]
        del self._queue[:-MOST_WAITING]

    def _deliver(self, now: float, run: str) -> None:
        if now < self._try_at:
            return
        while self._queue:
            deliver, alert = self._queue[0]
            why = deliver(alert, run)
            if why:
                self.say(f"! the alert is not delivered: {why}; tried again in {self._pause_s:g} s")
                self._try_at, self._pause_s = now + self._pause_s, min(LONGEST_S, 2 * self._pause_s)
                return
            self._queue.pop(0)
            self._pause_s = RETRY_S

    # ---- what was told ---------------------------------------------------------------------

    def _remember(self) -> None:
        with suppress(StorageError, ValueError, TypeError, KeyError, AttributeError):
            told = json.loads(self._disk.read(REMEMBERED) or b"{}")
            for tracker in self._trackers:
                tracker.round = int(told[tracker.target]["round"])
                tracker.evaluation = int(told[tracker.target]["evaluation"])

    def _keep(self, now: float) -> None:
        """Now and then, and at the end."""
        if not self._trackers or now - self._kept_at < KEEP_EVERY_S:
            return
        self._kept_at = now
        told = {t.target: {"round": t.round, "evaluation": t.evaluation} for t in self._trackers}
        with suppress(StorageError):  # then some is told twice after a restart
            self._disk.replace(REMEMBERED, json.dumps(told).encode())
