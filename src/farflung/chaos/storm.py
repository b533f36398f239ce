"""`farflung chaos`: start a swarm, strike it, heal it, stop it, judge what it wrote."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from farflung.chaos.evidence import Evidence, gather
from farflung.chaos.faults import Executed, Striker
from farflung.chaos.judge import Judgement, judge
from farflung.chaos.resources import ResourceMeter
from farflung.chaos.schedule import Fault, Kind, make_schedule
from farflung.chaos.swarm import ChaosSwarm, chaos_spec
from farflung.errors import UserError
from farflung.stopping import stop_signals
from farflung.tasks import first_ended

WARM_ROUNDS = 3
CALM_ROUNDS = 3
FIRST_ROUNDS_S = 180.0
CALM_S = 90.0
"""After healing, the swarm gets this long for its calm rounds and for everybody's return."""
LEAVE_S = 30.0
SAMPLE_S = 5.0
LOOK_S = 0.25
AGAIN_S = 2.0
"""Until a process that ended by itself is started again."""


@dataclass(frozen=True, kw_only=True)
class ChaosOptions:
    minutes: float
    peers: int
    seed: int
    folder: Path | None = None
    """Keep everything here; without it a temporary folder, kept on failure only."""
    min_peers: int = 2
    kinds: frozenset[Kind] = frozenset(Kind)
    netns: bool = False
    """Network namespaces instead of relays; needs root."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the screen shows."""

    stage: str
    elapsed_s: float
    commits: int
    faults: int
    kills: int
    running: int


Show = Callable[[Look], None]


@dataclass
class StormOutcome:
    """All that a report says."""

    options: ChaosOptions
    schedule: tuple[Fault, ...]
    evidence: Evidence
    verdict: Judgement
    folder: Path
    kept: bool
    interrupted: bool


@dataclass
class _Run:
    """The state of one `run_chaos`."""

    options: ChaosOptions
    show: Show
    swarm: ChaosSwarm
    striker: Striker
    interrupted: asyncio.Event
    meter: ResourceMeter = field(default_factory=ResourceMeter)
    started_s: float = field(default_factory=time.monotonic)
    healed_s: float = 0.0
    calm: bool = False
    stage: str = "starting the swarm"
    stuck: list[str] = field(default_factory=list)
    """Processes that did not stop politely at the end, or ended with an error."""


async def run_chaos(options: ChaosOptions, show: Show) -> StormOutcome:
    """The whole storm and its judgement. UserError when the swarm does not even start."""
    folder = options.folder or Path(tempfile.mkdtemp(prefix="farflung-chaos-"))
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; give another --keep or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    schedule = make_schedule(
        options.seed, options.minutes * 60, options.peers, options.min_peers, options.kinds
    )
    spec = chaos_spec(options.seed, options.peers, options.min_peers)
    swarm = ChaosSwarm(folder, spec, options.netns)
    with _interruptible() as interrupted:
        run = _Run(options, show, swarm, Striker(swarm), interrupted)
        try:
            await first_ended(_play(run, schedule), _watch(run))
        finally:
            await swarm.end()
        run.stage = "recomputing every round from the log"
        _show(run)
        evidence = gather(
            swarm=swarm,
            executed=run.striker.executed,
            meter=run.meter,
            started_s=run.started_s,
            healed_s=run.healed_s,
            stuck=[*run.stuck, *(f"chaos itself: {fault}" for fault in swarm.faults)],
        )
        verdict = judge(evidence)
    kept = options.folder is not None or not verdict.passed
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
    return StormOutcome(
        options, schedule, evidence, verdict, folder, kept, run.interrupted.is_set()
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[asyncio.Event]:
    """The first Ctrl-C ends the storm early; the second one ends everything."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    task = asyncio.current_task()
    assert task is not None

    def once() -> None:
        if event.is_set():
            task.cancel()
        event.set()

    signals = stop_signals()
    for number in signals:
        loop.add_signal_handler(number, once if number is signal.SIGINT else event.set)
    try:
        yield event
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _play(run: _Run, schedule: tuple[Fault, ...]) -> None:
    await _start(run)
    await _storm(run, schedule)
    await _calm(run)
    await _stop(run)


# ---- phases --------------------------------------------------------------------------------


async def _start(run: _Run) -> None:
    swarm = run.swarm
    await swarm.start_host()
    for number in range(run.options.peers):
        await swarm.add_peer(f"p{number}")
    end_s = time.monotonic() + FIRST_ROUNDS_S
    while swarm.look() < WARM_ROUNDS and not run.interrupted.is_set():
        for life in swarm.surprises:
            line = swarm.programs[life.name].last_line()
            raise UserError(f"{life.name} ended at the start: {line}; logs are in {swarm.logs}")
        if time.monotonic() > end_s:
            raise UserError(
                f"no {WARM_ROUNDS} rounds in {FIRST_ROUNDS_S:g} s before any fault; logs are in "
                f"{swarm.logs}"
            )
        await asyncio.sleep(0.05)


async def _storm(run: _Run, schedule: tuple[Fault, ...]) -> None:
    """Strike on time; a fault that lasts does not hold up the next one."""
    run.stage = "storm"
    begun_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for fault in schedule:
            if not await _sleep(run, begun_s + fault.at_s - time.monotonic()):
                break
            group.create_task(run.striker.strike(fault))
        await _sleep(run, begun_s + run.options.minutes * 60 - time.monotonic())
        run.stage = "healing"
        run.striker.healing.set()


async def _sleep(run: _Run, seconds: float) -> bool:
    """False when the person wants an end."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await run.interrupted.wait()
    except TimeoutError:
        return True
    return False


async def _calm(run: _Run) -> None:
    """Everybody is brought back; rounds must be committed and everybody must contribute."""
    swarm = run.swarm
    swarm.net.heal()
    for name, program in swarm.programs.items():
        program.send(signal.SIGCONT)
        program.free_disk()
        if name not in run.striker.gone and not program.running:
            await swarm.bring_back(name)
    run.healed_s = time.monotonic()
    before = swarm.look()
    end_s = run.healed_s + CALM_S
    while time.monotonic() < end_s:
        if swarm.look() >= before + CALM_ROUNDS and swarm.all_back(run.healed_s, run.striker.gone):
            run.calm = True
            return
        await asyncio.sleep(0.1)


async def _stop(run: _Run) -> None:
    """Peers say goodbye, then the host stops."""
    run.stage = "stopping"
    programs = [p for p in run.swarm.peers if p.running]
    done = await asyncio.gather(*(p.leave(LEAVE_S, "asked to leave at the end") for p in programs))
    programs.append(run.swarm.host)
    done.append(await run.swarm.host.leave(LEAVE_S, "asked to stop at the end"))
    for program, left in zip(programs, done, strict=True):
        code = program.lives[-1].code
        if not left or code != 0:
            run.stuck.append(f"{program.name} ended with code {code}: {program.last_line()}")


# ---- watching ------------------------------------------------------------------------------


async def _watch(run: _Run) -> None:
    """Samples, the screen, and a new start for whatever ended by itself."""
    sampled_s, seen, waiting = 0.0, 0, dict[str, float]()
    while True:
        await asyncio.sleep(LOOK_S)
        now_s = time.monotonic()
        run.swarm.look()
        if now_s - sampled_s >= SAMPLE_S:
            sampled_s = now_s
            pids = {n: p.pid for n, p in run.swarm.programs.items() if p.pid}
            run.meter.look(pids, now_s)
        surprises, seen = run.swarm.surprises[seen:], len(run.swarm.surprises)
        waiting |= {life.name: now_s + AGAIN_S for life in surprises}
        for name in [n for n, due_s in waiting.items() if due_s <= now_s]:
            del waiting[name]
            # Also while healing: whoever met a second process of its key may have ended just now.
            if run.stage in ("storm", "healing") and name not in run.striker.gone:
                await run.swarm.bring_back(name)
        _show(run)


def _show(run: _Run) -> None:
    kinds = Counter(e.kind for e in run.striker.executed if not e.skipped)
    run.show(
        Look(
            stage=run.stage,
            elapsed_s=time.monotonic() - run.started_s,
            commits=len(run.swarm.commits_s),
            faults=kinds.total(),
            kills=kinds[Kind.KILL],
            running=sum(p.running for p in run.swarm.peers),
        )
    )


__all__ = ["ChaosOptions", "Executed", "Look", "StormOutcome", "run_chaos"]
