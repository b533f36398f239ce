"""`farflung demo`: a real swarm of processes on this machine, with a death and a join.

Everything runs through the same commands that people use; this module only starts them, kills one
and reads what they wrote.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import decode_manifest, newest
from farflung.config.run import RunSpec, spec_bytes
from farflung.disk import RealDisk
from farflung.errors import FarflungError, UserError
from farflung.events import Event, RoundCommitted, WindowOpened
from farflung.monitor.picture import Picture
from farflung.monitor.report import Timed, build_report
from farflung.monitor.view import View
from farflung.outer.layout import Layout
from farflung.run.evaluator import write_anchor
from farflung.run.home import EVENTS, JOURNAL
from farflung.run.logs import last_line
from farflung.run.verify import verify_folder
from farflung.stopping import held_back
from farflung.swarm.identity import verify_record
from farflung.swarm.journal import Journal
from farflung.swarm.records import Genesis
from farflung.window.export import write_report
from farflung.window.reading import events_of, records_of, resolved_rounds
from farflung.window.tail import EventTail

START_S = 120.0
"""Until the host has printed its invite."""
FIRST_ROUND_S = 400.0
"""Until the first round is committed: a cold start loads torch several times."""
POLITE_S = 10.0
"""From SIGTERM to SIGKILL, for all processes together."""
PAGES = "report"
"""Where in the demo's folder its page is kept."""
STALL_S = 120.0
"""Without another committed round for this long the demo gives up and shows the logs' place."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    spec: RunSpec
    out: Path
    peers: int
    fault: bool
    solo: bool = True


@dataclass
class Watch:
    """What the demo's screen shows: called with the picture after every change."""

    stage: Callable[[str], None]
    picture: Callable[[Picture], None]
    solo: Callable[[int, int], None]
    window: Callable[[WindowOpened], None] = lambda _: None
    """Where the run can be watched."""


@dataclass
class DemoSwarm:
    """The processes of one demo."""

    options: DemoOptions
    host: subprocess.Popen[bytes] | None = None
    peers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def host_folder(self) -> Path:
        return self.options.out / "host" / self.options.spec.name / "host"

    @property
    def keeper_folder(self) -> Path:
        return self.host_folder.parent / "keeper"

    def start_host(self) -> str:
        """Start the host, wait for its invite. UserError with its last line when it fails."""
        spec_path = self.options.out / "run.toml.json"
        spec_path.write_bytes(spec_bytes(self.options.spec))
        with held_back():
            self.host = self._spawn(
                "host", ["host", "--spec-json", str(spec_path), "--bind", "127.0.0.1:0"]
            )
        path = self.host_folder / "invite.txt"
        end = time.monotonic() + START_S
        while not path.exists():
            if self.host.poll() is not None or time.monotonic() > end:
                raise UserError(f"the host did not start: {last_line(self._log('host'))}")
            time.sleep(0.05)
        return path.read_text()

    def start_peer(self, number: int, invite: str) -> None:
        arguments = ["join", invite, "--name", f"peer-{number}"]
        with held_back():
            self.peers[number] = self._spawn(f"peer-{number}", arguments)

    def kill_peer(self, number: int) -> None:
        """SIGKILL: the process gets no chance to say goodbye."""
        self.peers.pop(number).kill()

    def failed(self) -> str:
        """Which process ended with an error, and its last line; '' while all is well."""
        for number, process in self.peers.items():
            if process.poll() not in (None, 0):
                return f"peer-{number} failed: {last_line(self._log(f'peer-{number}'))}"
        if self.host is not None and self.host.poll() not in (None, 0):
            return f"the host failed: {last_line(self._log('host'))}"
        return ""

    def wait(self, timeout_s: float) -> None:
        for process in [*self.peers.values(), *([self.host] if self.host else [])]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)

    def stop(self) -> None:
        """Terminate politely, then kill: nothing of a demo stays behind."""
        everyone = [*self.peers.values(), *([self.host] if self.host else [])]
        try:
            for process in everyone:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            end = time.monotonic() + POLITE_S
            for process in everyone:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, end - time.monotonic()))
        finally:  # also when a second Ctrl-C cuts the wait short
            for process in everyone:
                process.kill()
            for process in everyone:
                process.wait()

    def _spawn(self, home: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "FARFLUNG_HOME": str(self.options.out / home),
            "FARFLUNG_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        with self._log(home).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "farflung", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _log(self, home: str) -> Path:
        return self.options.out / f"{home}.log"


def run_demo(options: DemoOptions, watch: Watch) -> dict[str, Any]:
    """The whole demo; returns the report. Raises UserError when a process fails."""
    started = time.monotonic()
    _prepare_folder(options.out)
    swarm = DemoSwarm(options)
    with contextlib.closing(DemoProgress(swarm.host_folder / EVENTS, watch)) as follower:
        try:
            watch.stage("making the initial weights")
            invite = swarm.start_host()
            watch.stage(f"starting {options.peers} peers")
            for number in range(options.peers):
                swarm.start_peer(number, invite)
            killed = _drive(swarm, follower, invite, options)
            swarm.wait(30)
        finally:
            swarm.stop()
        swarm_seconds = time.monotonic() - started
        follower.poll()
    return _conclude(swarm, follower, killed, options, watch, started, swarm_seconds)


def _prepare_folder(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; give another --out or remove it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from None


class DemoProgress:
    """The picture of the host's events so far, and the times of its rounds."""

    def __init__(self, path: Path, watch: Watch) -> None:
        self._view = View()
        self.rounds: list[Timed] = []
        self._tail = EventTail(path)
        self._watch = watch

    @property
    def picture(self) -> Picture:
        return self._view.picture()

    def poll(self) -> bool:
        """Read what is new. True when the run is finished."""
        more = True
        while more:
            told, more, _ = self._tail.poll()
            for at_s, _, event in told:
                self._see(at_s, event)
        return self.picture.finished

    def _see(self, at_s: float, event: Event) -> None:
        self._view.event(None, event)
        if isinstance(event, RoundCommitted):
            self.rounds.append(Timed(round=event.round, at_s=at_s, took_s=event.took_s))
        if isinstance(event, WindowOpened):
            self._watch.window(event)
        self._watch.picture(self.picture)

    def close(self) -> None:
        self._tail.close()


def _drive(
    swarm: DemoSwarm, follower: DemoProgress, invite: str, options: DemoOptions
) -> int | None:
    """Until the run is finished: kill one peer at 3/10 of the rounds, let one join at 4/10.

    Returns the round in which the peer died.
    """
    rounds = options.spec.outer.rounds
    kill_at, join_at = max(1, rounds * 3 // 10), max(2, rounds * 4 // 10)
    killed: int | None = None
    joined = not options.fault
    progress, since = -1, time.monotonic()
    while not follower.poll():
        time.sleep(0.1)
        picture = follower.picture
        if picture.committed != progress:
            progress, since = picture.committed, time.monotonic()
        if options.fault and killed is None and picture.committed >= kill_at:
            swarm.kill_peer(options.peers - 1)
            killed = picture.round
        if killed is not None and not joined and picture.committed >= join_at:
            swarm.start_peer(options.peers, invite)
            joined = True
        failure = swarm.failed()
        patience = STALL_S if picture.committed else FIRST_ROUND_S
        if failure or time.monotonic() - since > patience:
            if follower.poll():
                break
            stalled = f"no round was committed for {patience:g} s"
            raise UserError(f"{failure or stalled}; logs are in {options.out}")
    return killed


def _conclude(
    swarm: DemoSwarm,
    follower: DemoProgress,
    killed: int | None,
    options: DemoOptions,
    watch: Watch,
    started: float,
    swarm_seconds: float,
) -> dict[str, Any]:
    watch.stage("recomputing every round from the log")
    findings = verify_folder(options.out)
    picture = follower.picture
    watch.stage("evaluating the final weights")
    evaluation = evaluate(swarm, options)
    steps = round(options.spec.steps_per_round * options.spec.outer.rounds)
    solo: dict[str, Any] = {}
    if options.solo:
        watch.stage("training one peer alone, for comparison")
        solo = run_solo(swarm, options, steps, watch)
    watch.stage("keeping the run as a page")
    keep_page(swarm.host_folder, options.out / PAGES)
    return build_report(
        picture=picture,
        peers=options.peers,
        steps_per_peer=steps,
        rounds=follower.rounds,
        kill_round=killed,
        hashes_equal=picture.disagreements == 0
        and picture.agreements > 0
        and findings.steps_recomputed == findings.commits,
        duplicated=findings.duplicated,
        lost=findings.lost,
        partial=findings.partial,
        evaluation=evaluation,
        solo=solo,
        solo_steps=steps,
        seconds=time.monotonic() - started,
        swarm_seconds=swarm_seconds,
    )


def keep_page(folder: Path, out: Path) -> None:
    """The run as files that open from a disk (window/export.py)."""
    write_report(
        records_of(folder),
        events_of(folder),
        out,
        resolved=resolved_rounds(folder),
        served=False,
    )


# ---- the final weights ---------------------------------------------------------------------


def final_anchor(keeper: Path, where: Path) -> None:
    """Write the anchor of the keeper's newest snapshot as raw fp32."""
    disk = RealDisk(keeper)
    pointer = newest(disk)
    journal = Journal.open(disk, JOURNAL, verifier=verify_record, sign=None)
    genesis = next(journal.records())
    assert isinstance(genesis, Genesis) and pointer is not None
    store = BlobStore(disk)
    manifest = decode_manifest(store.get(bytes.fromhex(pointer.manifest)) or b"", genesis.run)
    write_anchor(Layout.from_json(genesis.layout), manifest, store, where)


def evaluate(swarm: DemoSwarm, options: DemoOptions) -> dict[str, Any]:
    """Bits per byte on held-out text and a sample, by a process that reads the final weights."""
    weights = options.out / "final.f32"
    final_anchor(swarm.keeper_folder, weights)
    out = options.out / "evaluation.json"
    _module(
        "farflung.inner.report",
        ["--weights", str(weights), "--sample", "200", "--out", str(out)],
        swarm,
        options,
        None,
    )
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def run_solo(swarm: DemoSwarm, options: DemoOptions, steps: int, watch: Watch) -> dict[str, Any]:
    """One peer alone: the same inner steps, batch and schedule, on one thread."""
    out = options.out / "solo.json"
    _module(
        "farflung.inner.solo",
        ["--steps", str(steps), "--out", str(out)],
        swarm,
        options,
        lambda step: watch.solo(step, steps),
    )
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def _module(
    module: str,
    arguments: list[str],
    swarm: DemoSwarm,
    options: DemoOptions,
    on_step: Callable[[int], None] | None,
) -> None:
    """Run one of our torch programs; its JSON lines report steps."""
    command = [
        sys.executable,
        "-m",
        module,
        "--spec",
        str(options.out / "run.toml.json"),
        "--data",
        str(swarm.host_folder / "data"),
        *arguments,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FARFLUNG_THREADS": "1"}
    log = options.out / f"{module.rsplit('.', 1)[-1]}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if on_step is not None and line.startswith("{"):
                    on_step(int(json.loads(line)["step"]))
            if process.wait() != 0:
                raise FarflungError(f"{module} failed: {last_line(log)}")
        finally:
            process.kill()
