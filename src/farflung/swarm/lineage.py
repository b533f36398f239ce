"""What a run began with, in words."""

from __future__ import annotations

from collections.abc import Sequence

from farflung.swarm.records import Ancestor


def descent(lineage: Sequence[Ancestor]) -> str:
    """For people: what a run began with; empty for fresh weights."""
    return "; before that ".join(_descent(ancestor) for ancestor in lineage)


def _descent(one: Ancestor) -> str:
    parts = [f"{one.name} ({one.run})" if one.run else one.name]
    if one.run:
        parts.append(f"after round {one.round}" if one.round >= 0 else "before its first round")
    parts += [f"state {one.state.hex()[:16]}"] if one.state else []
    parts += [f"files {one.files.hex()[:16]}"] if one.files else []
    parts += [f"licence {one.licence}"] if one.licence else []
    return ", ".join(parts)
