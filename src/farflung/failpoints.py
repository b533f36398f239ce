"""Named failpoints: places where a test makes this process die, stop or fail, by position.

    FARFLUNG_FAILPOINT=vote.stored:3:kill     at the third time that `vote.stored` is passed

Actions: `kill` (SIGKILL to itself), `stop` (SIGSTOP), `error` (StorageError). Without the variable
a failpoint is one comparison.
"""

from __future__ import annotations

import os
import signal

from farflung.errors import StorageError, UserError

NAMES = (
    "coordinator.before-append",
    "coordinator.appended",
    "ready.sent",
    "contribution.sent",
    "statistics.sent",
    "result.sent",
    "vote.stored",
    "vote.sent",
    "apply.before-step",
    "apply.stepped",
    "snapshot.chunks-written",
)
ACTIONS = ("kill", "stop", "error")
VARIABLE = "FARFLUNG_FAILPOINT"


class _Armed:
    """The one failpoint of this process, from its environment."""

    def __init__(self, text: str) -> None:
        self.name, self.left, self.action = "", 0, ""
        if not text:
            return
        parts = text.split(":")
        if len(parts) != 3 or parts[0] not in NAMES or not parts[1].isdigit():
            raise UserError(f"{VARIABLE}={text!r} must look like {NAMES[0]}:1:kill")
        if parts[2] not in ACTIONS:
            raise UserError(f"{VARIABLE}: action {parts[2]!r} must be one of {', '.join(ACTIONS)}")
        self.name, self.left, self.action = parts[0], int(parts[1]), parts[2]


_armed = _Armed(os.environ.get(VARIABLE, ""))


def hit(name: str) -> None:
    """Pass a failpoint. Raises StorageError when it is armed with `error`."""
    if name != _armed.name:
        return
    _armed.left -= 1
    if _armed.left != 0:
        return
    if _armed.action == "error":
        raise StorageError(f"failpoint {name}")
    os.kill(os.getpid(), signal.SIGKILL if _armed.action == "kill" else signal.SIGSTOP)
