"""All that a storm left behind, read once: event logs, journal, samples, verify's outcome."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from farflung.chaos.effects import Counts
from farflung.chaos.faults import Executed
from farflung.chaos.journal_marks import Mark, kept
from farflung.chaos.processes import ProcessLife
from farflung.chaos.resources import ResourceMeter, Sample
from farflung.chaos.schedule import HOST
from farflung.chaos.swarm import DOUBLE, ChaosSwarm
from farflung.config.run import RunSpec
from farflung.disk import MemoryDisk
from farflung.errors import FarflungError
from farflung.events import AgentStarted, Event, read_events
from farflung.run.home import EVENTS, JOURNAL
from farflung.run.verify import Findings, verify_folder
from farflung.swarm.identity import verify
from farflung.swarm.journal import Journal
from farflung.swarm.records import AnyRecord


@dataclass(frozen=True)
class Said:
    """One line of an event log. `at_s`: monotonic seconds of this machine."""

    at_s: float
    event: Event


@dataclass(kw_only=True)
class Evidence:
    """What the judge sees. Every part may be forged by a test."""

    spec: RunSpec
    started_s: float
    healed_s: float
    executed: Sequence[Executed] = ()
    lives: Sequence[ProcessLife] = ()
    said: dict[str, list[Said]] = field(default_factory=dict)
    """By log: `host` (the coordinator), `keeper`, every peer, every second process."""
    records: Sequence[AnyRecord] = ()
    marks: Sequence[tuple[Mark, bool]] = ()
    """The journal at each death of the host, and whether the last one begins with it."""
    findings: Findings | None = None
    violation: str = ""
    """What `verify` found wrong."""
    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)
    temporary: Sequence[str] = ()
    """Files that an interrupted write left behind."""
    stuck: Sequence[str] = ()
    counts: Counts = field(default_factory=Counts)

    def node_of(self, log: str) -> str:
        """The key of the node that wrote a log; "" when it never started."""
        lines = self.said.get(log, [])
        return next((s.event.node for s in lines if isinstance(s.event, AgentStarted)), "")


def gather(
    *,
    swarm: ChaosSwarm,
    executed: Sequence[Executed],
    meter: ResourceMeter,
    started_s: float,
    healed_s: float,
    stuck: Sequence[str],
) -> Evidence:
    """Read everything below the swarm's folder. All processes must have ended."""
    root = swarm.root
    data = (swarm.folder(HOST) / JOURNAL).read_bytes()
    findings, violation = _verified(root)
    lost = {p.name for p in swarm.programs.values() if p.lives and p.lives[-1].code != 0}
    return Evidence(
        spec=swarm.spec,
        started_s=started_s,
        healed_s=healed_s or time.monotonic(),
        executed=executed,
        lives=[life for program in swarm.programs.values() for life in program.lives],
        said={log: read_log(path) for log, path in _logs(root).items()},
        records=_records(data),
        marks=[(mark, kept(data, mark)) for mark in swarm.marks],
        findings=findings,
        violation=violation,
        samples=meter.samples,
        temporary=_temporary(root, lost),
        stuck=stuck,
        counts=swarm.net.counts,
    )


def read_log(path: Path) -> list[Said]:
    """Known events of one log."""
    return [Said(t, event) for t, event in read_events(path.read_bytes().splitlines())]


def _logs(root: Path) -> dict[str, Path]:
    """Every event log below the root, by the name of its node."""
    logs = {}
    for path in sorted(root.glob(f"*/*/*/{EVENTS}")):
        role, home = path.parent.name, path.parents[2].name
        logs[home if role == "peer" else role] = path
    return logs


def _records(data: bytes) -> list[AnyRecord]:
    """From a copy in memory: opening a journal cuts its torn tail."""
    disk = MemoryDisk({JOURNAL: data})
    try:
        return list(Journal.open(disk, JOURNAL, verifier=_verify, sign=None).records())
    except FarflungError:
        return []  # verify names the damage


def _verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return verify(public_key, b"journal", message, signature)


def _verified(root: Path) -> tuple[Findings | None, str]:
    """`farflung verify` on everything: the host's folders and those of all peers."""
    try:
        return verify_folder(root), ""
    except FarflungError as error:
        return None, str(error)


def _temporary(root: Path, lost: set[str]) -> list[str]:
    """A node whose last process was killed could not clean up."""
    found = [p.relative_to(root) for p in sorted(root.rglob("*.tmp"))]
    return [str(p) for p in found if p.parts[0] not in lost and DOUBLE not in p.parts[0]]
