"""Named failpoints: places where a test makes this process die, stop or fail, by position.

    FARFLUNG_FAILPOINT=vote.stored:3:kill     at the third time that `vote.stored` is passed

Several, separated by commas, are armed one after the other: the next one begins to count when the
one before has acted. Actions:

    kill    SIGKILL to itself
    stop    SIGSTOP to itself; who armed it sends SIGCONT
    error   StorageError at that place; at `step.memory` an out-of-memory, at `step.loss` a NaN
    pass    nothing; only the next one begins to count

A failpoint that acts says so on stderr. One that is not armed costs a look at a variable.

The simulator runs many nodes in one process: there a failpoint is armed for a context (PEP 567)
and acts through a function:

    context = contextvars.copy_context()
    context.run(arm, "vote.stored", 3, crash)
    task = tasks.start(agent.run(), "agent", context=context)

Tasks that the node starts inherit it, others see nothing of it. `crash` should cut the node off
(links, disk) and raise `Killed`. `EVERY` instead of a name counts every failpoint: with an action
that does nothing, `passed()` says how many a history has; then "crash at the n-th" is a loop over
n. `arm` replaces what the context inherited from the environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

from farflung.errors import StorageError, UserError

NAMES = (
    # the host, before and while it starts
    "genesis.stored",
    "genesis.appended",
    "term.appended",
    # the coordinator's decisions
    "coordinator.before-append",
    "coordinator.written",
    "coordinator.appended",
    "lease.appended",
    "generation.closed",
    "abandon.appended",
    "index.written",
    "commit.half-sent",
    "verdict.sent",
    # host and peers
    "certificate.renewed",
    # every node: link, replica, state
    "hello.sent",
    "hello.welcomed",
    "replica.written",
    "replica.synced",
    "blob.piece-fetched",
    "state.installed",
    "results.fetched",
    "replay.step",
    "synced.sent",
    # a round
    "ready.sent",
    "contribution.before-frame",
    "contribution.sent",
    "statistics.sent",
    "result.sent",
    "vote.stored",
    "vote.sent",
    "apply.before-step",
    "apply.stepped",
    "landing.started",
    # a step of the built-in trainer; of several ranks in the last one
    "step.begun",
    "step.memory",
    "step.loss",
    # files
    "snapshot.chunks-written",
    "disk.before-rename",
    "disk.renamed",
    # the end
    "leave.sent",
)
ACTIONS = ("kill", "stop", "error", "pass")
VARIABLE = "FARFLUNG_FAILPOINT"
EVERY = "*"

FLUSH_TURNS = 5
"""Turns of the loop after which what was sent is in the socket: transports write at a turn's end,
TLS a turn later."""

Action = Callable[[], None]


class Killed(BaseException):
    """A simulated SIGKILL: no handler of errors may catch it."""


@dataclass
class _Step:
    name: str
    left: int
    action: Action


class Arming:
    """Failpoints armed one after the other. Passed by the loop and by worker threads."""

    def __init__(self, steps: Iterable[_Step]) -> None:
        self._steps = deque(steps)
        self._lock = threading.Lock()
        self.passed: Counter[str] = Counter()
        """How often each name was passed."""

    def due(self, name: str) -> Action | None:
        """Count one pass; the action when this is the pass that was armed."""
        with self._lock:
            self.passed[name] += 1
            if not self._steps or self._steps[0].name not in (name, EVERY):
                return None
            step = self._steps[0]
            step.left -= 1
            return self._steps.popleft().action if step.left == 0 else None


def _act(name: str, action: str) -> None:
    os.write(2, f"failpoint {name}: {action}\n".encode())
    if action == "error":
        raise StorageError(f"failpoint {name}")
    if action != "pass":
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


def parse(text: str) -> Arming | None:
    """The plan of an environment variable; None when it is empty. UserError for a mistake."""
    return Arming(_step(part, text) for part in text.split(",")) if text else None


def _step(part: str, text: str) -> _Step:
    fields = part.split(":")
    if len(fields) != 3 or fields[0] not in NAMES or not fields[1].isdigit() or fields[1] == "0":
        raise UserError(
            f"{VARIABLE}={text!r}: {part!r} must look like vote.stored:1:kill, with a name of "
            f"farflung.failpoints.NAMES"
        )
    name, count, action = fields
    if action not in ACTIONS:
        raise UserError(f"{VARIABLE}: action {action!r} must be one of {', '.join(ACTIONS)}")
    return _Step(name, int(count), partial(_act, name, action))


_process: Arming | None = None
_context: ContextVar[Arming | None] = ContextVar("farflung_failpoints", default=None)


def arm_process() -> None:
    """Arm this process from its environment. UserError when the variable is malformed."""
    global _process
    _process = parse(os.environ.get(VARIABLE, ""))


def arm(name: str, count: int, action: Action) -> Arming:
    """In the present context: call `action` at the `count`-th pass of `name` (or of any, EVERY).

    Once; the plan that is returned counts passes. ValueError for an unknown name or count < 1.
    """
    if name not in (*NAMES, EVERY) or count < 1:
        raise ValueError(f"no failpoint {name!r} with count {count}")
    plan = Arming([_Step(name, count, action)])
    _context.set(plan)
    return plan


def hit(name: str) -> None:
    """Pass a failpoint. Raises StorageError when it is armed with `error`."""
    plan = _context.get() or _process
    if plan is not None:
        action = plan.due(name)
        if action is not None:
            action()


def fails(name: str) -> bool:
    """Pass a failpoint whose failure is no error of the disk: True when armed with `error`."""
    try:
        hit(name)
    except StorageError:
        return True
    return False


async def sent(name: str) -> None:
    """Pass a failpoint behind a send: when it is due, what was sent leaves the process first."""
    plan = _context.get() or _process
    if plan is not None:
        action = plan.due(name)
        if action is not None:
            for _ in range(FLUSH_TURNS):
                await asyncio.sleep(0)
            action()
