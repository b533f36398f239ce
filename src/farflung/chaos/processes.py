"""Real processes of a storm: start, kill, stop, full disks, restarts. Nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from farflung.errors import UserError
from farflung.events import Emit
from farflung.run.logs import last_line
from farflung.tasks import Tasks

UNSET = ("FARFLUNG_FAILPOINT", "FARFLUNG_FAILPOINTS")
"""Variables that would change what the children do."""
TRACEBACK = b"Traceback (most recent call last)"
"""Anywhere in a line: those of exception groups are indented."""


@dataclass(kw_only=True)
class ProcessLife:
    """One process from its start to its end. Times are monotonic seconds of this machine."""

    name: str
    number: int
    pid: int
    started_s: float
    log: Path
    ended_s: float | None = None
    code: int | None = None
    admitted: bool = True
    """Whether it was a member already when it started."""
    why: str = ""
    """Why we ended it; empty while it runs, and when it ended by itself."""
    warnings: list[tuple[float, str]] = field(default_factory=list)
    """Lines that an operator would read as a warning, with their time of arrival."""
    traceback: str = ""
    """The log that a traceback reached; empty: none did."""


@dataclass(eq=False)
class Program:
    """One node: a home folder, a command, and the process that runs it now, if any."""

    name: str
    home: Path
    arguments: tuple[str, ...]
    logs: Path
    on_end: Callable[[ProcessLife], None]
    emit: Emit
    """Hears when this program cannot watch the process any more; it is killed then."""
    prefix: tuple[str, ...] = ()
    """Words before the command: where it runs."""
    lives: list[ProcessLife] = field(default_factory=list)
    _process: asyncio.subprocess.Process | None = None
    _watching: asyncio.Task[None] | None = None
    _why: str = ""

    def __post_init__(self) -> None:
        self._tasks = Tasks(self.emit, lambda _: self._strike())

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """0 when nothing runs."""
        return self._process.pid if self.running and self._process is not None else 0

    async def start(self, *arguments: str) -> ProcessLife:
        """Start the process, with other arguments where given. It must not run yet."""
        assert not self.running, f"{self.name} runs already"
        environment = {k: v for k, v in os.environ.items() if k not in UNSET}
        environment |= {
            "FARFLUNG_HOME": str(self.home),
            "FARFLUNG_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self._why = ""
        # A pipe, not a file: a full disk of the node must not swallow what it says about it.
        process = await asyncio.create_subprocess_exec(
            *self.prefix,
            sys.executable,
            "-m",
            "farflung",
            *(arguments or self.arguments),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=1 << 20,
        )
        life = ProcessLife(
            name=self.name,
            number=len(self.lives),
            pid=process.pid,
            started_s=time.monotonic(),
            log=self.logs / f"{self.name}-{len(self.lives)}.log",
        )
        self._process = process
        self.lives.append(life)
        self._watching = self._tasks.start(self._watch(process, life), f"watch {self.name}")
        return life

    async def _watch(self, process: asyncio.subprocess.Process, life: ProcessLife) -> None:
        assert process.stdout is not None
        with life.log.open("wb", buffering=0) as log:
            while line := await process.stdout.readline():
                log.write(line)
                if line.startswith((b"!", b"farflung: ")):
                    text = line.decode(errors="replace").strip()
                    life.warnings.append((time.monotonic(), text))
                if TRACEBACK in line and not life.traceback:
                    life.traceback = str(life.log)
        life.code = await process.wait()
        life.ended_s = time.monotonic()
        life.why = self._why
        self.on_end(life)

    async def kill(self, why: str = "killed") -> None:
        """SIGKILL to the whole group; returns when it is gone."""
        if self.running:
            self._why = why
            self._strike()
        await self.gone()

    def _strike(self) -> None:
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def leave(self, patience_s: float, why: str = "asked to leave") -> bool:
        """SIGTERM; False when it had to be killed after `patience_s`."""
        if self.running:
            self._why = why
            self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience_s):
                await self.gone()
        except TimeoutError:
            await self.kill(f"killed: it did not leave in {patience_s:g} s")
            return False
        return True

    async def gone(self) -> None:
        """Returns when the process has ended, or is not watched any more."""
        if self._watching is not None:
            await asyncio.wait([self._watching])

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.running and self._process is not None:
                self._process.send_signal(number)

    def fill_disk(self) -> bool:
        """From now on the process may write no byte to any file: EFBIG. False when it is gone."""
        return self._limit_files(0)

    def free_disk(self) -> None:
        self._limit_files(resource.RLIM_INFINITY)

    def _limit_files(self, limit: int) -> bool:
        if not self.running:
            return False
        try:
            _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
            soft = hard if limit == resource.RLIM_INFINITY else limit
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (soft, hard))
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def last_line(self) -> str:
        """Of its newest log, for one-sentence errors."""
        return last_line(self.lives[-1].log) if self.lives else "it wrote nothing"


async def wait_for(
    done: Callable[[], object], limit_s: float, failed: Callable[[], str], poll_s: float = 0.05
) -> None:
    """Until `done()` is true. UserError with `failed()` when that takes longer than `limit_s`."""
    end_s = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > end_s:
            raise UserError(failed())
        await asyncio.sleep(poll_s)
