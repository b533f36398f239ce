"""What the tests of this folder share: small runs, a story played in them, what must hold after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.events import Applied, StateReported
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm
from farflung.swarm.ledger import audit

Story = Callable[[SimSwarm], Awaitable[None]]


def small_run(
    name: str,
    *,
    elements: int = 4096,
    rows: int = 100_000,
    record: str = "results",
    inner: dict[str, Any] | None = None,
    outer: dict[str, Any] | None = None,
    swarm: dict[str, Any] | None = None,
) -> RunSpec:
    """A quadratic model on row numbers: rounds of five steps, without torch."""
    return from_table(
        {
            "name": name,
            "record": record,
            "model": {"preset": "quadratic", "parameters": elements},
            "data": {"source": "synthetic", "rows": rows, "seq_len": 16},
            "inner": {"batch_rows": 4, "optimizer": "adamw", "lr": 0.1, **(inner or {})},
            "outer": {"inner_steps": 5, "rounds": 12, "chunk_elements": 256, **(outer or {})},
            "swarm": {"start_peers": 3, **(swarm or {})},
        }
    )


def play(story: Story, run_spec: RunSpec, **options: Any) -> SimSwarm:
    """The swarm after the story; `options` are those of `SimSwarm.start`."""

    async def main() -> SimSwarm:
        swarm = await SimSwarm.start(run_spec, **options)
        try:
            await story(swarm)
        finally:
            swarm.roots_at_end = swarm.roots()  # type: ignore[attr-defined]
            await swarm.stop()
        return swarm

    return run_virtual(main())


async def to_the_end(swarm: SimSwarm) -> None:
    """The story without events."""
    await swarm.finished()


def assert_sound(swarm: SimSwarm) -> None:
    """Agreement, one gap-free log, exactly-once."""
    commits = {c.round: c for c in swarm.commits()}
    assert not [e for e in swarm.events if isinstance(e, StateReported) and not e.agrees]
    for node in swarm.nodes.values():
        for event in node.events:
            if isinstance(event, Applied):
                assert event.state_root == commits[event.round].state_root.hex()
    assert_exactly_once(swarm)


def assert_exactly_once(swarm: SimSwarm) -> None:
    result = audit(swarm.records())
    assert (result.duplicated, result.lost) == (0, 0)


def contributions(swarm: SimSwarm, label: str) -> list[int]:
    """Rounds whose commit counts this node."""
    node = swarm.nodes[label].node
    return [c.round for c in swarm.commits() if node in {x.node for x in c.contributors}]
