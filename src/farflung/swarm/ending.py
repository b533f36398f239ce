"""The end of a run, in two steps: the last commit, and that enough nodes hold it. Pure.

ADMIN(finish) follows the last commit: nothing opens any more. ADMIN(end) says that the last round
is kept, applied and on the disk: by a keeper, or, in a run without one, by every trainer whose stay
is open. Until then the trainers that have it stay and serve it, also when the coordinator dies in
between. An evaluator's copy counts for nothing here: it goes when it likes.
"""

from __future__ import annotations

from dataclasses import replace

from farflung.events import LastRoundLacking
from farflung.ids import Role
from farflung.swarm.membership import resolved
from farflung.swarm.records import Admin
from farflung.swarm.state import Node, State, Step

PATIENCE_S = 300.0
"""How long the swarm waits for a keeper, or for trainers without one, to take the last round."""


def applied(step: Step, node: str, round_: int) -> None:
    """A node has said, with the right hash, that it has applied everything up to this round."""
    known = step.state.nodes[node]
    # What it kept before was an older round: a run that was extended ends a second time.
    step.set_node(replace(known, applied=round_, kept=known.kept and known.applied == round_))


def lacking(state: State) -> list[Node]:
    """Nodes that take part, or are expected back, without the last round."""
    members = (n for n in state.nodes.values() if n.open and n.role != Role.SOURCE)
    return [n for n in members if not _holds(state, n)]


def _holds(state: State, node: Node) -> bool:
    """In memory is not enough: a disk that was full brings an older round back."""
    return node.kept and node.applied == resolved(state) - 1


def try_end(step: Step) -> None:
    """ADMIN(end), once, when the last round is kept or nobody is waited for any longer."""
    state = step.state
    if state.ended:
        return
    if not state.finished_s:
        step.state = state = replace(state, finished_s=step.now_s)
    missing = [n for n in lacking(state) if n.averages]
    if not _kept(state, missing):
        if step.now_s - state.finished_s < PATIENCE_S:
            return
        names = tuple(sorted(n.name for n in missing)) or ("its keeper",)
        step.tell(LastRoundLacking(names=names))
    step.append(Admin(action="end", who="", reason="kept", from_round=state.next_round))
    step.state = replace(step.state, ended=True)
    step.because("the last round is kept; trainers may go")


def _kept(state: State, missing: list[Node]) -> bool:
    """A keeper that is away counts: its host starts it again."""
    keepers = [n for n in state.nodes.values() if n.role == Role.KEEPER]
    if keepers:
        return any(_holds(state, n) for n in keepers)
    return not missing
