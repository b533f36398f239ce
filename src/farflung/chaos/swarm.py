"""The swarm that a storm strikes: one host with its keeper, peers, and a relay before each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farflung.chaos.effects import Links, Place
from farflung.chaos.journal_marks import Mark, marked
from farflung.chaos.links import Net, own_address
from farflung.chaos.netns import Namespaces
from farflung.chaos.owners import dialler
from farflung.chaos.processes import ProcessLife, Program
from farflung.chaos.schedule import HOST
from farflung.config.load import from_table
from farflung.config.run import RunSpec, spec_bytes
from farflung.errors import UserError
from farflung.events import Event
from farflung.run.home import EVENTS, JOURNAL

RUN = "chaos"
START_S = 120.0
"""Until a host prints its invite; a busy machine is slow."""
STEP_S = 0.010
SOURCES = [
    {"name": "web", "source": "synthetic", "weight": 6, "rows": 100_000},
    {"name": "books", "source": "synthetic", "weight": 3, "rows": 2_000},
    {"name": "notes", "source": "synthetic", "weight": 1, "rows": 100},
]
"""A mixture: the smallest one wraps many times in a storm."""
DOUBLE = "-double"
"""In the name of a second process of one key."""


def chaos_spec(seed: int, peers: int, min_peers: int) -> RunSpec:
    """Light peers, rounds of some 0.3 s, short timers: more faults per minute."""
    table: dict[str, Any] = {
        "name": RUN,
        "seed": seed,
        "record": "all",
        "model": {"preset": "quadratic", "parameters": 20_000, "step_s": STEP_S},
        "data": {"seq_len": 16, "seed": seed, "sources": SOURCES},
        "inner": {"batch_rows": 4, "lr": 0.1},
        "outer": {"inner_steps": 20, "rounds": 1_000_000, "chunk_elements": 2048},
        "swarm": {
            "start_peers": peers,
            "min_peers": min_peers,
            "beat_s": 0.3,
            "suspect_s": 1.5,
            "dead_s": 4.0,
            "grace_s": 1.0,
            "progress_s": 4.0,
            "attempt_s": 3.0,
            "round_s": 12.0,
            "restart_grace_s": 6.0,
            "snapshot_every": 20,
            "keep_rounds": 200,
        },
    }
    return from_table(table)


@dataclass(eq=False)
class Tail:
    """What a growing file of JSON lines got since the last look."""

    path: Path
    offset: int = 0

    def lines(self, wanted: bytes = b"") -> Iterator[dict[str, Any]]:
        """New whole lines that hold these bytes; a torn one is left out."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            whole = file.read().rpartition(b"\n")
        self.offset += len(whole[0]) + len(whole[1])
        for line in whole[0].splitlines():
            if wanted in line:
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue


@dataclass(eq=False)
class ChaosSwarm:
    """All processes and relays of one storm."""

    root: Path
    spec: RunSpec
    netns: bool = False
    """Network namespaces instead of relays."""
    net: Links = field(init=False)
    programs: dict[str, Program] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    """The journal as it was at each death of the host."""
    commits_s: list[float] = field(default_factory=list)
    """When the host told of each commit."""
    surprises: list[ProcessLife] = field(default_factory=list)
    """Processes that ended though nobody asked them to."""
    faults: list[Event] = field(default_factory=list)
    """Tasks of this very program that failed."""
    doubles: dict[str, Program] = field(default_factory=dict)
    """Second processes of one key, by a name of their own: no fault strikes them."""
    _invite: str = ""
    _address: str = ""
    _tail: Tail = field(init=False)
    _starting: dict[str, asyncio.Lock] = field(default_factory=dict)
    _tails: dict[str, Tail] = field(default_factory=dict)
    _contributed_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._address = own_address(os.getpid())
        self.net = Namespaces(os.getpid()) if self.netns else self._relays()
        self._tail = Tail(self.folder(HOST) / EVENTS)

    def _relays(self) -> Net:
        return Net(self._who, self.faults.append, self._address)

    # ---- places ----------------------------------------------------------------------------

    def folder(self, name: str) -> Path:
        """State of a node: `host`, `keeper` or a peer's."""
        if name in (HOST, "keeper"):
            return self.root / HOST / RUN / name
        return self.root / name / RUN / "peer"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def peers(self) -> list[Program]:
        return [p for n, p in self.programs.items() if n != HOST]

    @property
    def host(self) -> Program:
        return self.programs[HOST]

    def _who(self, source_port: int, listening: int) -> str:
        programs = {**self.programs, **self.doubles}
        running = {n: p.pid for n, p in programs.items() if p.pid}
        return dialler(source_port, (self._address, listening), running)

    # ---- life ------------------------------------------------------------------------------

    async def start_host(self) -> None:
        """Create the run. UserError with the host's last line when it does not start."""
        self.logs.mkdir(parents=True)
        spec_file = self.root / "spec.json"
        spec_file.write_bytes(spec_bytes(self.spec))
        place = await self.net.place(HOST, listeners=2)  # coordinator, keeper
        self._program(HOST, place, "host")
        listening = (*_listening(place), "--no-window")
        await self.host.start("host", "--spec-json", str(spec_file), *listening)
        path = self.folder(HOST) / "invite.txt"
        end_s = time.monotonic() + START_S
        while not path.exists():
            if not self.host.running or time.monotonic() > end_s:
                raise UserError(f"the host did not start: {self.host.last_line()}")
            await asyncio.sleep(0.05)
        self._invite = path.read_text()

    async def add_peer(self, name: str) -> None:
        """A new identity joins."""
        place = await self.net.place(name)
        program = self._program(name, place, "join")
        await self._join(program, place)

    async def _join(self, program: Program, place: Place) -> None:
        listening = _listening(place)
        life = await program.start("join", self._invite, "--name", program.name, *listening)
        life.admitted = False

    def _program(self, name: str, place: Place, *arguments: str) -> Program:
        program = Program(
            name,
            self.root / name,
            arguments,
            self.logs,
            self._on_end,
            self.faults.append,
            prefix=place.prefix,
        )
        self.programs[name] = program
        return program

    def _on_end(self, life: ProcessLife) -> None:
        if life.name == HOST:
            self.marks.append(marked(self.folder(HOST) / JOURNAL, time.monotonic()))
        if not life.why:
            self.surprises.append(life)

    async def bring_back(self, name: str) -> None:
        """Start a node again with what it finds in its folder.

        A peer that was killed before it was a member is told the invite again.
        """
        async with self._starting.setdefault(name, asyncio.Lock()):
            await self._bring_back(name)

    async def _bring_back(self, name: str) -> None:
        program = self.programs[name]
        if program.running:
            return
        if name != HOST and not self.is_member(name):
            await self._join(program, await self.net.place(name))
        else:
            await program.start()

    def is_member(self, name: str) -> bool:
        """Whether the host has let this peer in, and the peer knows."""
        return (self.folder(name) / "membership.json").exists()

    async def start_double(self, name: str) -> Program:
        """A second process on a copy of a peer's folder: the same key, its own port."""
        copy = f"{name}{DOUBLE}{len(self.doubles) + 1}"
        await asyncio.to_thread(_copy_live, self.root / name, self.root / copy)
        place = await self.net.place(copy)
        arguments = ("join", self._invite, "--name", name, *_listening(place))
        program = Program(
            copy,
            self.root / copy,
            arguments,
            self.logs,
            _ignore,
            self.faults.append,
            prefix=place.prefix,
        )
        self.doubles[copy] = program
        await program.start()
        return program

    async def end(self) -> None:
        """Kill what runs, close the relays."""
        for program in [*self.programs.values(), *self.doubles.values()]:
            await program.kill("killed at the end")
        await self.net.close()

    # ---- watching --------------------------------------------------------------------------

    def look(self) -> int:
        """Commits so far, as the host's event log tells."""
        for fields in self._tail.lines(b'"RoundCommitted"'):
            self.commits_s.append(float(fields["t"]))
        return len(self.commits_s)

    def all_back(self, since_s: float, gone: set[str]) -> bool:
        """Whether every peer that is to be here has contributed after this time."""
        for name in self.programs:
            if name == HOST or name in gone:
                continue
            tail = self._tails.setdefault(name, Tail(self.folder(name) / EVENTS))
            for fields in tail.lines(b'"Applied"'):
                if fields["contributed"]:
                    self._contributed_s[name] = float(fields["t"])
            if self._contributed_s.get(name, 0.0) <= since_s:
                return False
        return True


def _listening(place: Place) -> tuple[str, ...]:
    """The options of `host` and `join` that say where to listen and where to be dialled."""
    advertised = ("--advertise", place.advertise) if place.advertise else ()
    return ("--bind", place.bind, *advertised)


def _copy_live(source: Path, target: Path) -> None:
    """A folder in use: files that vanish meanwhile are left out, as they are for any backup."""
    with contextlib.suppress(shutil.Error):
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("events*", "lock"))


def _ignore(_: ProcessLife) -> None:
    """The end of a second process of one key is judged by what it said."""
