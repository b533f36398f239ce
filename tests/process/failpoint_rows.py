"""Rows of failpoint cells: one swarm, one role, one action, one name after the other.

A cell is (role, action, name): the process of that role dies, stops or fails at that place, and
afterwards the run goes on with it. A row keeps one swarm for its cells, since starting processes
is what takes time; each cell has its own outcome.

Places that a node passes only while it starts are armed for a fresh process. All others are armed
behind a gate: the process first takes part in five rounds, so that a cell also shows that the
cell before it was survived.
"""

from __future__ import annotations

import itertools
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from processes import ENDLESS, RUN, Running, Swarm, quad_spec, until

from farflung.config.load import from_table
from farflung.events import Abstained, GenerationClosed, TrainerRestarted

STARTING = (
    "state.installed",
    "hello.sent",
    "hello.welcomed",
    "blob.piece-fetched",
    "results.fetched",
    "replay.step",
    "synced.sent",
)
PEER = (
    "replica.written",
    "ready.sent",
    "contribution.before-frame",
    "contribution.sent",
    "statistics.sent",
    "result.sent",
    "vote.stored",
    "vote.sent",
    "apply.before-step",
    "apply.stepped",
    "replica.synced",
    "landing.started",
    "snapshot.chunks-written",
    "disk.before-rename",
    "disk.renamed",
    "certificate.renewed",
    "leave.sent",
)
CREATING = ("genesis.stored", "genesis.appended", "term.appended")
KEEPER_STARTING = ("state.installed", "hello.sent", "hello.welcomed", "synced.sent")
HOST = (
    "coordinator.before-append",
    "coordinator.written",
    "coordinator.appended",
    "lease.appended",
    "index.written",
    "commit.half-sent",
    "verdict.sent",
    "replica.written",
    "vote.stored",
    "vote.sent",
    "apply.before-step",
    "apply.stepped",
    "replica.synced",
    "snapshot.chunks-written",
    "disk.before-rename",
    "disk.renamed",
    "certificate.renewed",
    "generation.closed",
    "leave.sent",
    "abandon.appended",
)
RANK = ("step.begun", "step.memory", "step.loss")
NAMES = {
    "peer": (*STARTING, *PEER),
    "host": (*CREATING, *KEEPER_STARTING, *HOST),
    "rank": RANK,
}
"""Every place that a role passes, in the order of its cells."""

GATES = {"peer": "ready.sent:5:pass", "host": "commit.half-sent:7:pass"}
PATCHES = {
    "peer": "import farflung.run.join as patched\npatched.RENEW_EVERY_S = 0.2",
    "host": "import farflung.run.certificates as patched\npatched.RENEW_EVERY_S = 0.2",
}
LAST_OF_A_LIFE = ("state.installed", "leave.sent")
"""What comes before the greeting, or ends the process: the next place is armed in a new one."""
DRIVEN = ("generation.closed", "abandon.appended")
HOLD_S = 1.2
"""How long a host is stopped: longer than its peers' beats."""
SPEC = quad_spec(
    record="all",
    model={"preset": "quadratic", "parameters": 20_000},
    outer={**ENDLESS["outer"], "chunk_elements": 1024, "inner_steps": 4},
    swarm={
        "start_peers": 3,
        "snapshot_every": 3,
        "beat_s": 0.3,
        "suspect_s": 1.0,
        "dead_s": 2.0,
        "grace_s": 1.0,
        "attempt_s": 2.0,
    },
)
"""Twenty chunks: each of three peers owns a slice, so each passes every place."""

SHAPE = {"vocab": 64, "dim": 32, "layers": 2, "heads": 2, "kv_heads": 1, "ff": 64, "max_len": 32}
RANKS_SPEC = from_table(
    {
        "name": RUN,
        "record": "all",
        "model": {
            "preset": "shape",
            "shape": SHAPE,
        },
        "inner": {"batch_rows": 4},
        "data": {"source": "synthetic", "rows": 100_000, "seq_len": 32},
        "outer": {**ENDLESS["outer"], "chunk_elements": 1024, "inner_steps": 4},
        "swarm": {"start_peers": 3, "snapshot_every": 3, "progress_s": 3.0, "norm_band": 1e9},
    }
)
"""A trainer of several ranks that makes no step for three `progress_s` hangs. Twins that have come
to their goal move so little that real training is far outside any band."""
TWIN = "import farflung.run.assemble as a; a.trainer_program = lambda spec: None"
"""The quadratic twin over the run's layout: a survivor that needs no torch."""
FEW_STEPS = 12
"""Steps that a life of the ranks makes before its place acts: some rounds."""
RANKS_S = 600.0
"""For ranks to load torch, to meet and to take part."""


class Row(ABC):
    """`run` fills `outcomes`: name -> what went wrong, empty for a cell that passed."""

    role = ""
    spec = SPEC

    def __init__(self, root: Path, action: str, names: Sequence[str]) -> None:
        self.action = action
        self.names = names
        self.outcomes: dict[str, str] = {}
        self.end = "the row did not come to its end"
        """Empty when the whole row left a run that verifies and logs without tracebacks."""
        self.swarm = Swarm(root, self.spec)
        self._at = self._before = "the start"
        self._seen = 0

    def run(self) -> None:
        """Never raises; every cell that was not reached says which one broke the row."""
        try:
            with self.swarm:
                self._cells()
                self._finish()
        except Exception as error:
            notes = "\n".join(getattr(error, "__notes__", ()))
            self.end = f"broken at {self._at} (after {self._before}): {error!r}\n{notes}"
            for name in self.names:
                self.outcomes.setdefault(name, self.end)
        else:
            self.end = ""

    def _finish(self) -> None:
        """The survivors kept their stays; everything that was written is sound."""
        self._at = "the end"
        self.swarm.more(5)
        closed = {e.name: e.reason for e in self.swarm.events("host", GenerationClosed)}
        lost = {name: why for name, why in closed.items() if name not in self._may_lose()}
        assert not lost, f"survivors lost their stay: {lost}"
        self.swarm.kill_all()
        verified = self.swarm.verify(deadline_s=RANKS_S)
        assert verified.returncode == 0, verified.stdout + verified.stderr

    @abstractmethod
    def _may_lose(self) -> set[str]:
        """Names of nodes whose stay may have ended."""

    @abstractmethod
    def _cells(self) -> None: ...

    # ---- parts -----------------------------------------------------------------------------

    def _begin(self, name: str) -> None:
        self._before, self._at = self._at, name

    def _passed(self) -> None:
        self.outcomes[self._at] = ""

    def _armed(self, name: str) -> str:
        """The chain for one cell: starting places at once, others behind the gate."""
        if name in STARTING or name in CREATING or name == "leave.sent":
            return f"{name}:1:{self.action}"
        count = 1 if name in DRIVEN else 2
        return f"{GATES[self.role]},{name}:{count}:{self.action}"

    def _acted(self, life: Running) -> None:
        """Wait until the present place of `life` has acted, after all that acted before."""
        line = f"failpoint {self._at}: {self.action}"
        until(
            lambda: line in life.text[self._seen :] or life.process.poll() is not None,
            f"{line} of {life.name}, whose log ends with {life.text[-300:]!r}",
        )
        found = life.text.find(line, self._seen)
        assert found >= 0, f"{life.name} ended before {line}: {life.text[-500:]}"
        self._seen = found + len(line)
        if self.action == "kill":
            assert life.wait() == -signal.SIGKILL
        elif self.action == "stop":
            until(lambda: _state(life) == "T", f"{life.name} stands still at {self._at}")

    def _gated(self, life: Running) -> None:
        """Wait until the gate before the present place is passed."""
        gate = GATES[self.role].split(":")[0]
        before = self._seen
        until(lambda: f"failpoint {gate}: pass" in life.text[before:], f"{life.name}'s gate")

    def _contributed(self, name: str, times: int = 2) -> None:
        wanted = b'"contributed": true'
        goal = self.swarm.counted(name, wanted) + times
        until(lambda: self.swarm.counted(name, wanted) >= goal, f"{name} contributes again")


class PeerRow(Row):
    """The peer c passes the places; a and b survive."""

    role = "peer"

    def _may_lose(self) -> set[str]:
        return {"c"}

    def _cells(self) -> None:
        swarm = self.swarm
        swarm.host()
        for name in "abc":
            swarm.join(name)
        self._contributed("c")
        swarm.started[-1].kill()
        swarm.more(5)  # c comes back behind the others, so that it has something to fetch
        if self.action == "kill":
            self._die()
        else:
            self._live_on()
        swarm.join_again("c")
        self._contributed("c", 5)

    def _die(self) -> None:
        for name in interleaved(self.names):
            self._die_at(name)

    def _die_at(self, name: str) -> None:
        self._begin(name)
        self._seen = 0
        patch = PATCHES["peer"] if name == "certificate.renewed" else ""
        life = self.swarm.join_again("c", patch, self._armed(name))
        if name == "leave.sent":
            self._contributed("c")
            life.signal(signal.SIGTERM)
        self._acted(life)
        self.swarm.more(5)
        self._passed()

    def _live_on(self) -> None:
        for names in lives(self.names):
            self._seen = 0
            chain = ",".join(self._armed(n) for n in names)
            life = self.swarm.join_again("c", PATCHES["peer"], chain)
            for name in names:
                self._begin(name)
                self._live_through(name, life)
                self._passed()
            life.kill()

    def _live_through(self, name: str, life: Running) -> None:
        if name == "leave.sent":
            self._contributed("c")
            life.signal(signal.SIGTERM)
        self._acted(life)
        self.swarm.more(5)
        if self.action == "stop":
            life.signal(signal.SIGCONT)
        if name == "leave.sent":
            assert life.wait() == (0 if self.action == "stop" else 2), life.text[-500:]
        elif name not in STARTING:
            self._contributed("c", 1)


class HostRow(Row):
    """The host passes the places: coordinator and keeper. All peers survive."""

    role = "host"

    def _may_lose(self) -> set[str]:
        drives = {"generation.closed": {"c"}, "abandon.appended": {"a", "b", "c"}}
        lost = [drives.get(n, set()) for n in self.names]
        return {"keeper"}.union(*lost)

    def _cells(self) -> None:
        self._create()
        swarm = self.swarm
        peers = {name: swarm.join(name) for name in "abc"}
        swarm.committed(5)
        self._life.kill()
        rest = [n for n in self.names if n not in CREATING]
        if self.action == "kill":
            for name in interleaved(rest):
                self._die_at(name, peers)
        else:
            self._live_on(rest, peers)
        self._life = self.swarm.host_again()

    def _create(self) -> None:
        """The places of a host that creates its run, each in a process of its own."""
        creating = [n for n in self.names if n in CREATING]
        for names in [creating] if self.action == "stop" else [[n] for n in creating]:
            self._seen = 0
            chain = ",".join(self._armed(n) for n in names)
            life = self.swarm.spawn("host", *self.swarm.hosting, failpoint=chain)
            for name in names:
                self._begin(name)
                self._acted(life)
                if self.action == "stop":
                    life.signal(signal.SIGCONT)
                elif self.action == "error":
                    assert life.wait() == 2, life.text
                self._passed()
            life.kill()
        self._at = "the start"
        self._life = self.swarm.host()

    def _die_at(self, name: str, peers: dict[str, Running]) -> None:
        self._begin(name)
        self._seen = 0
        patch = PATCHES["host"] if name == "certificate.renewed" else ""
        self._life = self.swarm.spawn("host", "host", patch=patch, failpoint=self._armed(name))
        self._drive(name, peers)
        self._acted(self._life)
        self._undo(name, peers)
        self._passed()

    def _live_on(self, rest: Sequence[str], peers: dict[str, Running]) -> None:
        for names in lives(rest):
            self._seen = 0
            chain = ",".join(self._armed(n) for n in names)
            self._life = self.swarm.spawn("host", "host", patch=PATCHES["host"], failpoint=chain)
            for name in names:
                self._begin(name)
                self._live_through(name, peers)
                self._passed()
            self._life.kill()

    def _live_through(self, name: str, peers: dict[str, Running]) -> None:
        self._drive(name, peers)
        self._acted(self._life)
        if self.action == "stop":
            time.sleep(HOLD_S)
            self._life.signal(signal.SIGCONT)
        self._undo(name, peers)
        if name == "leave.sent":
            assert self._life.wait() == 0, self._life.text[-500:]
        elif self.action == "error" or name not in STARTING:
            self.swarm.more(5)

    def _drive(self, name: str, peers: dict[str, Running]) -> None:
        """Make happen what leads through a place that rounds alone do not pass."""
        if name == "generation.closed":
            self._gated(self._life)
            peers["c"].kill()
            peers["c"] = self.swarm.join_again("c")
        elif name == "abandon.appended":
            self._gated(self._life)
            for peer in peers.values():
                peer.signal(signal.SIGSTOP)
        elif name == "leave.sent":
            self.swarm.more(5)
            self._life.signal(signal.SIGTERM)

    def _undo(self, name: str, peers: dict[str, Running]) -> None:
        if name == "abandon.appended":
            for peer in peers.values():
                peer.signal(signal.SIGCONT)


class RankRow(Row):
    """The last of c's two ranks passes the places, in every life anew; a and b survive.

    The agent starts the ranks again, and they take part until the place acts again.
    """

    role = "rank"
    spec = RANKS_SPEC

    def _may_lose(self) -> set[str]:
        return {"c"}

    def _cells(self) -> None:
        swarm = self.swarm
        swarm.host()
        for name in "ab":
            swarm.spawn(name, "join", swarm.invite, "--name", name, patch=TWIN)
        life = swarm.join("c", "--ranks", "2")
        until(lambda: swarm.counted("c", b'"contributed": true') >= 1, "c contributes", RANKS_S)
        for name in self.names:
            life.kill()
            self._begin(name)
            life = self._survive(name)
            self._passed()
        life.kill()

    def _survive(self, name: str) -> Running:
        """One agent whose ranks fail at the place: it notices why, and they contribute again."""
        swarm, log = self.swarm, self.swarm.folder("c") / "trainer.rank1.log"
        said = len(log.read_bytes())
        noticed = len(self._troubles())
        life = swarm.join_again("c", failpoint=f"{name}:{FEW_STEPS}:{self.action}")
        line = f"failpoint {name}: {self.action}".encode()
        until(lambda: line in log.read_bytes()[said:], f"{line.decode()} of rank 1", RANKS_S)
        wanted = self._wanted(name)
        until(
            lambda: any(wanted in trouble for trouble in self._troubles()[noticed:]),
            f"the agent says {wanted!r}",
            RANKS_S,
        )
        goal = swarm.counted("c", b'"contributed": true') + 1
        until(lambda: swarm.counted("c", b'"contributed": true') >= goal, "c is back", RANKS_S)
        return life

    def _troubles(self) -> list[str]:
        """Why the ranks were started again, and why their training did not count."""
        events = self.swarm.events("c")
        return [e.reason for e in events if isinstance(e, TrainerRestarted | Abstained)]

    def _wanted(self, name: str) -> str:
        if self.action == "error":
            ends = {"step.memory": "out of memory", "step.loss": "non-finite loss"}
            return ends.get(name, f"failpoint {name}")
        return "killed by SIGKILL" if self.action == "kill" else "hung: no step of its 2 ranks"


def interleaved(names: Sequence[str]) -> list[str]:
    """For one life per cell: after each that dies while it starts one that takes part."""
    starting = [n for n in names if n in STARTING]
    training = [n for n in names if n not in STARTING]
    pairs = itertools.zip_longest(starting, training)
    return [name for pair in pairs for name in pair if name is not None]


def lives(names: Sequence[str]) -> list[list[str]]:
    """For one life with many cells: where it cannot go on to the next place, a new one begins."""
    found: list[list[str]] = [[]]
    for name in names:
        found[-1].append(name)
        if name in LAST_OF_A_LIFE:
            found.append([])
    return [life for life in found if life]


ROLES: dict[str, type[Row]] = {"peer": PeerRow, "host": HostRow, "rank": RankRow}


def _state(life: Running) -> str:
    """One letter from /proc: R, S, T (stopped) ..."""
    stat = Path(f"/proc/{life.process.pid}/stat").read_text()
    return stat.rsplit(")", 1)[1].split()[0]
