"""Who is there: links, beats, generations. Pure; see docs/protocol.md, "Generations"."""

from __future__ import annotations

import math
from dataclasses import replace

from farflung.averaging.plan import Edge
from farflung.events import (
    GenerationClosed,
    GenerationOpened,
    PeerJoined,
    PeerRecovered,
    PeerSuspect,
    StateRejected,
    inert,
)
from farflung.hashing import merkle_root
from farflung.ids import NodePhase
from farflung.network.messages import Beat, Leave, Synced
from farflung.swarm.records import Close, Gen, Join
from farflung.swarm.state import Admitted, Connected, Disconnected, Link, Node, State, Step

STEP_PATIENCE = 5.0
"""A trainer may take this many of its own steps without reporting one."""
PHASE_S = {
    NodePhase.LOADING: 960.0,
    NodePhase.COMPILING: 1800.0,
    NodePhase.SAVING: 600.0,
}
"""Declared phases need no steps, but come to an end."""
MAX_BEHIND = 8
"""Rounds that a node may have to apply before its first plan."""


def admit(step: Step, event: Admitted) -> None:
    """JOIN: an identity becomes known; known ones are left alone."""
    if event.node in step.state.nodes:
        return
    step.append(
        Join(
            node=event.node,
            name=event.name,
            region=event.region,
            role=event.role,
            public_key=event.public_key,
            invite=event.invite,
        )
    )
    step.set_node(
        Node(
            node=event.node,
            name=event.name,
            region=event.region,
            role=event.role,
            public_key=event.public_key,
        )
    )
    step.tell(PeerJoined(node=event.node, name=event.name, role=event.role))
    step.because(f"{event.name} joined as {event.role}")


def connect(step: Step, event: Connected) -> None:
    """A link is up. A process that lost its generation's progress starts a new one."""
    node = step.state.nodes[event.node]
    if node.open and event.generation != node.generation:
        close_generation(step, event.node, "restarted without its progress")
        node = step.state.nodes[event.node]
    if node.open and (node.link is Link.GONE or node.suspect):
        step.tell(PeerRecovered(node=node.node, name=node.name))
    step.set_node(
        replace(
            node,
            link=Link.SYNCING,
            session=event.session,
            endpoints=event.endpoints,
            last_beat_s=step.now_s,
            step_s=step.now_s,
            suspect=False,
            kept=False,
            uplink_seen=() if event.session != node.session else node.uplink_seen,
        )
    )
    step.state = replace(step.state, dead_edges=_without(step.state.dead_edges, event.node))


def disconnect(step: Step, event: Disconnected) -> None:
    """A link is gone; the generation stays open until `dead_s` has passed."""
    node = step.state.nodes[event.node]
    if node.link is Link.GONE or node.session != event.session:
        return
    step.set_node(replace(node, link=Link.GONE, gone_s=step.now_s))
    if node.open:
        step.tell(PeerSuspect(node=node.node, name=node.name, reason=event.reason))
        step.because(f"{node.name} lost its link ({event.reason})")


def synced(step: Step, sender: str, message: Synced) -> bool:
    """A node holds the state: it takes part from the next plan on. True when it does.

    It may be a few rounds behind, which are in its journal by now: where a round takes less than
    a round trip nobody could ever join otherwise.
    """
    node, state = step.state.nodes[sender], step.state
    if node.link is Link.GONE or not 0 <= resolved(state) - message.next_round <= MAX_BEHIND:
        return False
    expected = _root_before(state, message.next_round)
    if expected is None:
        return False
    if message.state_root != expected:
        step.tell(StateRejected(node=sender, name=node.name))
        return False
    if _must_observe(state, node):
        return False
    fresh = not node.open
    generation = node.generation + 1 if fresh else node.generation
    if fresh:
        step.append(Gen(node=sender, generation=generation))
        zeros = (0,) * len(state.fragment_hashes)
        step.state = replace(state, since={**state.since, (sender, generation): zeros})
        step.tell(
            GenerationOpened(
                node=sender,
                name=node.name,
                generation=generation,
                next_round=message.next_round,
            )
        )
    step.set_node(
        replace(
            node,
            generation=generation,
            open=True,
            link=Link.ACTIVE,
            last_beat_s=step.now_s,
            step_s=step.now_s,
            steps_per_s=message.steps_per_s or node.steps_per_s,
            phase_s=step.now_s,
            budget=0.0 if fresh else node.budget,
            unknown_until_s=0.0,
            evaluates=message.evaluates,
            applied=message.next_round - 1,
        )
    )
    step.because(f"{node.name} takes part (generation {generation})")
    return True


def enough_without(state: State, name: str) -> bool:
    """Whether the swarm goes on if this peer does not train."""
    others = [n for n in state.active_trainers() if n.node != name]
    return len(others) >= max(1, state.spec.swarm.min_peers)


def _must_observe(state: State, node: Node) -> bool:
    """Whether this peer may not begin a stay yet (slow_links.py)."""
    waits = not node.open and state.committed < node.observes_until
    return waits and enough_without(state, node.node)


def _root_before(state: State, round_: int) -> bytes | None:
    """The state root of those who have applied every round below this one; None: forgotten."""
    if round_ == resolved(state):
        return merkle_root(state.fragment_hashes)
    known = [r for r in state.roots if r < round_]
    return state.roots[max(known)] if known else None


def beat(step: Step, sender: str, message: Beat) -> None:
    """Life and progress, stamped with the coordinator's own clock."""
    node = step.state.nodes[sender]
    if node.suspect:
        step.tell(PeerRecovered(node=sender, name=node.name))
    moved = message.steps != node.steps or message.phase != NodePhase.TRAINING
    step.set_node(
        replace(
            node,
            last_beat_s=step.now_s,
            suspect=False,
            steps=message.steps,
            step_s=step.now_s if moved else node.step_s,
            steps_per_s=message.steps_per_s or node.steps_per_s,
            phase=message.phase,
            phase_s=node.phase_s if message.phase == node.phase else step.now_s,
            up_bytes_per_s=_rate(message.up_bytes_per_s),
            down_bytes_per_s=_rate(message.down_bytes_per_s),
            kept=message.kept,
        )
    )


def _rate(value: float) -> float:
    """A node's claim; what is no rate counts as unknown."""
    return value if math.isfinite(value) and value > 0 else 0.0


def leave(step: Step, sender: str, message: Leave) -> None:
    if step.state.nodes[sender].open:
        close_generation(step, sender, f"left: {inert(message.reason)}")


def watch(step: Step) -> None:
    """Judge everybody's silence. Deadlines count only this clock, at receipt."""
    for name in sorted(step.state.nodes):
        node = step.state.nodes[name]
        if node.open and node.unknown_until_s <= step.now_s:
            _watch_one(step, node)


def _watch_one(step: Step, node: Node) -> None:
    rules, now = step.spec.swarm, step.now_s
    if node.link is Link.GONE:
        if now - node.gone_s >= rules.dead_s:
            close_generation(step, node.node, f"no connection for {rules.dead_s:g} s")
        return
    silence = now - node.last_beat_s
    if silence >= rules.dead_s:
        close_generation(step, node.node, f"no beat for {silence:.1f} s")
    elif silence >= rules.suspect_s and not node.suspect:
        step.set_node(replace(node, suspect=True))
        step.tell(
            PeerSuspect(node=node.node, name=node.name, reason=f"no beat for {silence:.1f} s")
        )
    elif node.trains and node.link is Link.ACTIVE:
        _watch_progress(step, node)


def _watch_progress(step: Step, node: Node) -> None:
    """A peer that lives but does not move is out, unless it has said what it is busy with."""
    now = step.now_s
    if node.phase == NodePhase.TRAINING:
        own_step_s = 1 / node.steps_per_s if node.steps_per_s > 0 else 0.0
        patience = max(step.spec.swarm.progress_s, STEP_PATIENCE * own_step_s)
        if now - node.step_s >= patience:
            close_generation(step, node.node, f"alive but no progress for {patience:.0f} s")
    elif node.phase in PHASE_S and now - node.phase_s >= PHASE_S[node.phase]:
        reason = f"alive but {node.phase} for {PHASE_S[node.phase]:.0f} s"
        close_generation(step, node.node, reason)


def close_generation(step: Step, name: str, reason: str) -> None:
    """End a stay: uncredited leases are free again, those in an open attempt after it."""
    node = step.state.nodes[name]
    ledger, freed = step.state.ledger.close(name, node.generation)
    step.append(Close(node=name, generation=node.generation, reason=reason, freed=freed))
    since = {k: v for k, v in step.state.since.items() if k[0] != name}
    step.state = replace(step.state, ledger=ledger, since=since)
    link = Link.GONE if node.link is Link.GONE else Link.SYNCING
    step.set_node(replace(node, open=False, link=link, suspect=False))
    returned = sum(stop - start for start, stop in freed)
    step.tell(
        GenerationClosed(
            node=name,
            name=node.name,
            generation=node.generation,
            reason=reason,
            returned=returned,
        )
    )
    step.because(f"{node.name} is out ({reason}); {returned} samples returned")


def resolved(state: State) -> int:
    """How many rounds are committed or abandoned: the next one that a node may apply."""
    return state.next_round if state.oldest is None else state.oldest


def present(state: State, name: str, generation: int) -> bool:
    """Whether this stay is open and linked."""
    node = state.nodes.get(name)
    return (
        node is not None
        and node.open
        and node.generation == generation
        and node.link is Link.ACTIVE
    )


def _without(edges: frozenset[Edge], node: str) -> frozenset[Edge]:
    return frozenset(e for e in edges if node not in e)
