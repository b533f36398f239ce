"""The end of a simulated run: whoever is left gets the last round and ends by itself."""

from __future__ import annotations

from farflung.ids import GUESTS, Role
from farflung.sim.checks import BrokenInvariant
from farflung.sim.node import SimNode
from farflung.sim.world import KEEPER, SimSwarm

NEW = "after the end"
"""Who joins a finished run that goes on."""
END_S = 400.0
"""More than a host waits for a connected peer (coordinator/coordinator.py)."""


async def play_out(swarm: SimSwarm, wedged_s: float) -> int:
    """Everything is healed and runs. The host may have ended while somebody was out: its operator
    starts it once more. Returns how many trainers ended with the last round.

    Raises BrokenInvariant, TimeoutError.
    """
    await swarm.until(lambda: swarm.picture.finished, wedged_s)
    await swarm.until(lambda: swarm.over or not _running(swarm), END_S)
    if _running(swarm):
        await swarm.start_coordinator()
        await swarm.kill(KEEPER)
        swarm.spawn(KEEPER)
        await swarm.until(lambda: swarm.over or not _running(swarm), END_S)
    if _running(swarm):
        left = ", ".join(n.label for n in _running(swarm))
        raise BrokenInvariant(f"L1: the run is finished and {left} waits for ever")
    await swarm.until(lambda: swarm.over, END_S)
    return sum(_holds_the_end(node) for node in _trainers(swarm))


async def open_again(swarm: SimSwarm, rounds: int, wedged_s: float) -> int:
    """The operator extends a run that is over, everybody comes back, and somebody new joins; it is
    played to its second end. Returns how many trainers ended with the last round."""
    before = swarm.picture.committed
    await swarm.start_coordinator(f"rounds=+{rounds}")
    swarm.add(NEW, Role.TRAINER, step_s=next(iter(_trainers(swarm))).step_s)
    for label, node in list(swarm.nodes.items()):
        if node.task is None or not node.task.done():
            await swarm.kill(label)
        swarm.spawn(label)
    held = await play_out(swarm, wedged_s)
    if swarm.picture.committed != before + rounds:
        raise BrokenInvariant(
            f"A1: extended by {rounds} rounds, it went on by {swarm.picture.committed - before}"
        )
    return held


def _trainers(swarm: SimSwarm) -> list[SimNode]:
    return [n for n in swarm.nodes.values() if n.role == Role.TRAINER]


def _running(swarm: SimSwarm) -> list[SimNode]:
    guests = (n for n in swarm.nodes.values() if n.role in GUESTS)
    return [n for n in guests if n.task is not None and not n.task.done()]


def _holds_the_end(node: SimNode) -> bool:
    """Raises BrokenInvariant when it ended with an older state."""
    assert node.agent is not None
    follower = node.agent.node.follower
    if not follower.ready or follower.state.next_round < follower.resolved:
        raise BrokenInvariant(f"L1: {node.label} ended without the last round")
    return True
