"""Who may connect to the coordinator: one sentence of refusal, or none. Pure."""

from __future__ import annotations

from farflung.config.run import ARITHMETIC_VERSION, PROTOCOL_VERSION
from farflung.ids import Role
from farflung.network.messages import Hello
from farflung.swarm.state import Link, Node, State


def refuse_version(state: State, hello: Hello) -> str:
    """One sentence with both values, or ''."""
    if hello.protocol != PROTOCOL_VERSION:
        return (
            f"you speak protocol {hello.protocol}, this run {PROTOCOL_VERSION}; install the "
            f"same farflung version as the host"
        )
    if hello.arithmetic != ARITHMETIC_VERSION:
        return (
            f"your arithmetic version is {hello.arithmetic}, the run's {ARITHMETIC_VERSION}; "
            f"install the same farflung version as the host"
        )
    if hello.run != state.run:
        return f"you want run {hello.run}, this is {state.run}; use its own invite"
    return ""


def refuse(state: State, node: str, hello: Hello, connected: bool, now_s: float) -> str:
    """One sentence with both values, or '' to let the node in. Its journal fits mine."""
    if node not in state.nodes:
        return "this run does not know your key; redeem an invite first"
    if hello.term > state.term:
        return (
            f"you claim term {hello.term}, but your journal is a prefix of mine, in term "
            f"{state.term}; move your copy of this run away and join again"
        )
    return _other_role(state.nodes[node], hello.role) or _double_start(
        state, node, hello, connected, now_s
    )


def _other_role(known: Node, role: Role) -> str:
    """A key is an evaluator's for ever, or never. (A host's own node may be its keeper or its
    source, as `--keeper` says.)"""
    if known.role == role or Role.EVALUATOR not in (known.role, role):
        return ""
    return (
        f"the key of {known.name} joined as {known.role}, you come as {role}; join as {role} with "
        f"another FARFLUNG_HOME"
    )


def _double_start(state: State, node: str, hello: Hello, connected: bool, now_s: float) -> str:
    """A live session of the same key is kept; only a silent one gives way."""
    known = state.nodes[node]
    if not connected or known.session in ("", hello.session):
        return ""
    silence = now_s - known.last_beat_s
    if known.link is Link.GONE or silence > state.spec.swarm.suspect_s:
        return ""
    return (
        f"the key of {known.name} is already connected (last beat {silence:.1f} s ago); stop "
        f"the other process or use another FARFLUNG_HOME"
    )
