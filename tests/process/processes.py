"""Real farflung processes for tests and benchmarks: a folder, a spec, and nobody left behind.

Every node has its own FARFLUNG_HOME below one root. Nothing sleeps blindly: `until` polls with a
deadline. Leaving the `with` block kills whole process groups and then looks for tracebacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from farflung.config.load import from_table
from farflung.config.run import RunSpec, spec_bytes
from farflung.events import Event, read_events
from farflung.failpoints import VARIABLE
from farflung.swarm.identity import verify_record
from farflung.swarm.journal import HEADER, Journal
from farflung.swarm.records import AnyRecord, Commit

DEADLINE_S = 60.0
POLL_S = 0.02
HOST_START_S = 300.0
"""The first weights of a built-in model need torch, which a busy machine loads in minutes."""
RUN = "quad"


def quad_spec(**sections: Any) -> RunSpec:
    """A quadratic run: no torch, a round in some ten milliseconds. Sections are merged."""
    table: dict[str, Any] = {
        "name": RUN,
        "model": {"preset": "quadratic", "parameters": 100_000},
        "data": {"source": "synthetic", "seq_len": 16, "rows": 100_000},
        "inner": {"batch_rows": 4, "lr": 0.1},
        "outer": {"inner_steps": 20, "rounds": 20},
        "swarm": {"start_peers": 2, "keep_rounds": 100_000},
    }
    for name, values in sections.items():
        if isinstance(values, dict):
            table[name] = {**table.get(name, {}), **values}
        else:
            table[name] = values
    return from_table(table)


ENDLESS: dict[str, Any] = {"outer": {"rounds": 1_000_000}}
QUICK_DEATH: dict[str, Any] = {"beat_s": 0.3, "suspect_s": 1.0, "dead_s": 2.0, "grace_s": 1.0}


def until(done: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """The first truthy value of `done`, or an AssertionError that says what never came."""
    end = time.monotonic() + deadline_s
    while True:
        value = done()
        if value:
            return value
        assert time.monotonic() < end, f"{what}: not within {deadline_s:g} s"
        time.sleep(POLL_S)


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "FARFLUNG_HOME": str(home),
        "FARFLUNG_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def command(
    home: Path, *arguments: str, patch: str = "", timeout_s: float = DEADLINE_S
) -> subprocess.CompletedProcess[str]:
    """Run one farflung command to its end. `patch`: Python that runs before `main`."""
    return subprocess.run(
        program(arguments, patch),
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def program(arguments: tuple[str, ...], patch: str = "") -> list[str]:
    if not patch:
        return [sys.executable, "-m", "farflung", *arguments]
    code = f"import sys\n{patch}\nfrom farflung.cli.main import main\nmain()\n"
    return [sys.executable, "-c", code, *arguments]


@dataclass
class Running:
    """One started process and its log (stdout and stderr together)."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Its exit code."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} still runs after {deadline_s:g} s: {self.text[-500:]}"
            ) from None

    def kill(self) -> None:
        """SIGKILL to the whole group; returns when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


class Counted:
    """How many lines of a growing file hold some bytes; reads only what is new."""

    def __init__(self, path: Path, wanted: bytes) -> None:
        self._path = path
        self._wanted = wanted
        self._at = 0
        self._found = 0

    def now(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                whole = file.read().rpartition(b"\n")[0]
            self._at += len(whole)
            self._found += sum(self._wanted in line for line in whole.splitlines())
        return self._found


class Swarm:
    """A host and peers below one folder."""

    def __init__(self, root: Path, spec: RunSpec) -> None:
        self.root = root
        self.spec = spec
        self.started: list[Running] = []
        self._counted: dict[tuple[str, bytes], Counted] = {}
        self._spec_file = root / "spec.json"
        root.mkdir(parents=True, exist_ok=True)
        self._spec_file.write_bytes(spec_bytes(spec))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill_all()
        if kind is None:
            for each in self.started:
                assert "Traceback" not in each.text, f"{each.log}: {each.text[-2000:]}"
        elif error is not None:
            for each in self.started:
                error.add_note(f"--- {each.name}\n{each.text[-1500:]}")

    def kill_all(self) -> None:
        for each in self.started:
            each.kill()

    # ---- places ----------------------------------------------------------------------------

    def home(self, name: str) -> Path:
        return self.root / name

    def folder(self, name: str) -> Path:
        """A node's state: `host`, `keeper` or a peer's."""
        if name in ("host", "keeper"):
            return self.home("host") / self.spec.name / name
        return self.home(name) / self.spec.name / "peer"

    @property
    def invite(self) -> str:
        return (self.folder("host") / "invite.txt").read_text()

    @property
    def endpoint(self) -> str:
        """Where the coordinator listens."""
        settings = json.loads((self.folder("host") / "host.json").read_bytes())
        return str(settings["bind"])

    # ---- processes -------------------------------------------------------------------------

    def spawn(self, name: str, *arguments: str, patch: str = "", failpoint: str = "") -> Running:
        log = self.root / f"{name}-{len(self.started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self.place(name), *program(arguments, patch)],
                env={**environment(self.home(name)), VARIABLE: failpoint},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Running(name, process, log)
        self.started.append(running)
        return running

    def place(self, name: str) -> list[str]:
        """What a node's command line begins with."""
        del name
        return []

    def host(self, *arguments: str) -> Running:
        """Start the run on a free port; returns when the invite is printed."""
        return self._hosting(self.spawn("host", *self.hosting, *arguments))

    @property
    def hosting(self) -> tuple[str, ...]:
        """The command line that creates the run."""
        spec = ("--spec-json", str(self._spec_file))
        return ("host", "--no-window", *spec, "--bind", "127.0.0.1:0")

    def host_again(self, patch: str = "", failpoint: str = "") -> Running:
        """`farflung host` without arguments."""
        return self._hosting(self.spawn("host", "host", patch=patch, failpoint=failpoint))

    def again(self, *arguments: str) -> Running:
        """`farflung host` for the run that is there, told something else."""
        return self._hosting(self.spawn("host", "host", *arguments))

    def _hosting(self, running: Running) -> Running:
        until(
            lambda: "farflung join ff1" in running.text or running.process.poll() is not None,
            "the host prints its invite",
            HOST_START_S,
        )
        assert running.process.poll() is None, running.text
        return running

    def join(self, name: str, *arguments: str, failpoint: str = "") -> Running:
        joining = ("join", self.invite, "--name", name, *arguments)
        return self.spawn(name, *joining, failpoint=failpoint)

    def join_again(self, name: str, patch: str = "", failpoint: str = "") -> Running:
        """`farflung join` without arguments."""
        return self.spawn(name, "join", patch=patch, failpoint=failpoint)

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command with a node's home, to its end."""
        return command(self.home(name), *arguments)

    def verify(
        self, *options: str, deadline_s: float = DEADLINE_S
    ) -> subprocess.CompletedProcess[str]:
        return command(self.root, "verify", str(self.root), *options, timeout_s=deadline_s)

    # ---- what they wrote -------------------------------------------------------------------

    def events(self, name: str, kind: type[Event] | None = None) -> list[Any]:
        """Events of a node so far, all its incarnations."""
        path = self.folder(name) / "events.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [e for _, e in read_events(lines) if kind is None or isinstance(e, kind)]

    def records(self) -> list[AnyRecord]:
        """The coordinator's journal as it is now, read from a copy."""
        data = (self.folder("host") / "journal.bin").read_bytes()
        return records_of(data)

    def commits(self) -> list[Commit]:
        return [r for r in self.records() if isinstance(r, Commit)]

    def committed(self, rounds: int, deadline_s: float = DEADLINE_S) -> None:
        """Wait until the host has told of this many commits."""
        until(lambda: self.n_committed() >= rounds, f"{rounds} committed rounds", deadline_s)

    def more(self, rounds: int, deadline_s: float = DEADLINE_S) -> None:
        """Wait until this many more rounds are committed."""
        self.committed(self.n_committed() + rounds, deadline_s)

    def n_committed(self) -> int:
        """Commits that the host's event log tells of; cheap enough for polling."""
        return self.counted("host", b'"kind": "RoundCommitted"')

    def counted(self, name: str, wanted: bytes) -> int:
        """Lines of a node's event log that hold these bytes, so far."""
        path = self.folder(name) / "events.jsonl"
        return self._counted.setdefault((name, wanted), Counted(path, wanted)).now()


def records_of(data: bytes) -> list[AnyRecord]:
    """The whole records of journal bytes; a tail that is still being written is left out."""
    from farflung.disk import MemoryDisk

    if len(data) < len(HEADER):
        return []
    disk = MemoryDisk({"journal.bin": data})
    journal = Journal.open(disk, "journal.bin", verifier=verify_record, sign=None)
    return list(journal.records())


def assert_one_sentence(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one line on stderr that holds these words."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("farflung: "), lines
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in lines[0], f"{word!r} is not in {lines[0]!r}"


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content; the lock's owner does not count."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in ("lock", "events.jsonl")
    }


def number(pattern: str, text: str) -> int:
    """The integer in the first group of a match."""
    match = re.search(pattern, text)
    assert match, f"{pattern!r} not in {text!r}"
    return int(match[1].replace(",", ""))
