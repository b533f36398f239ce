"""How long a finished run serves before its coordinator ends (swarm/ending.py, decision 0012)."""

from __future__ import annotations

from collections.abc import Container

from farflung.ids import GUESTS
from farflung.swarm.ending import PATIENCE_S, lacking
from farflung.swarm.state import State

LINGER_S = PATIENCE_S + 10.0
"""How long it waits for its peers to take the last round and say goodbye."""
TOLD_S = 5.0
"""After so long it says for whom it waits."""


class Lingering:
    """Pure but for what it remembers; asked at every tick of a finished run."""

    def __init__(self, state: State) -> None:
        self.least_s = state.spec.swarm.restart_grace_s if state.finished else 0.0
        """A finished run that is started again serves for so long whoever missed its end."""
        self._since_s: float | None = None
        self._told = False

    def reopened(self) -> None:
        """The run was extended: its next end is another one."""
        self.least_s, self._since_s, self._told = 0.0, None, False

    def over(self, state: State, connected: Container[str], now_s: float) -> bool:
        """Whether the coordinator may end."""
        self._since_s = now_s if self._since_s is None else self._since_s
        waited_s = now_s - self._since_s
        ready = not _late(state, connected) and waited_s >= self.least_s and state.ended
        return waited_s > LINGER_S or ready

    def awaited(self, state: State, connected: Container[str], now_s: float) -> tuple[str, ...]:
        """Names to tell the operator, once; first the keeper, whom all wait for."""
        late = _late(state, connected)
        if self._told or not late or self._since_s is None or now_s - self._since_s <= TOLD_S:
            return ()
        self._told = True
        lack = [n.node for n in lacking(state)]
        return tuple(sorted(state.nodes[n].name for n in lack or late))


def _late(state: State, connected: Container[str]) -> list[str]:
    """Trainers that may lack the last round, and evaluators that may measure it. Who is connected
    leaves when it holds it; a trainer's open stay without a link is waited for until it is closed,
    also after a restart."""
    missing = {n.node for n in lacking(state) if n.trains}
    nodes = state.nodes.values()
    return [
        n.node for n in nodes if n.role in GUESTS and (n.node in connected or n.node in missing)
    ]
