"""A full disk of the coordinator commits nothing, loses nothing, and the run goes on later."""

from __future__ import annotations

import asyncio

from farflung.config.load import from_table
from farflung.events import RoundCommitted, StateReported, Warned
from farflung.sim.loop import run_virtual
from farflung.sim.world import SimSwarm
from farflung.swarm.ledger import audit

FULL_S = 5.0


def test_a_full_disk_commits_nothing_and_goes_on_when_there_is_room() -> None:
    spec = from_table(
        {
            "name": "full",
            "model": {"preset": "quadratic", "parameters": 4096},
            "data": {"source": "synthetic", "rows": 100_000, "seq_len": 16},
            "inner": {"batch_rows": 4, "optimizer": "adamw", "lr": 0.1},
            "outer": {"inner_steps": 5, "rounds": 12, "chunk_elements": 256},
            "swarm": {"start_peers": 3},
        }
    )
    stuck: list[int] = []

    async def main() -> SimSwarm:
        swarm = await SimSwarm.start(spec, peers=3)
        try:
            await swarm.committed(3)
            swarm.disk.full = True
            before = (len(swarm.commits()), len(swarm.records()), told(swarm))
            await asyncio.sleep(FULL_S)
            stuck.extend(before)
            stuck.extend((len(swarm.commits()), len(swarm.records()), told(swarm)))
            swarm.disk.full = False
            await swarm.finished()
        finally:
            await swarm.stop()
        return swarm

    swarm = run_virtual(main())
    assert stuck[:3] == stuck[3:]
    warned = [e for e in swarm.events if isinstance(e, Warned)]
    assert sum("nothing is committed: no space left" in e.sentence for e in warned) >= 2
    assert swarm.picture.committed == 12
    assert not [e for e in swarm.events if isinstance(e, StateReported) and not e.agrees]
    result = audit(swarm.records(), spec.data.rows)
    assert (result.duplicated, result.lost) == (0, 0)


def told(swarm: SimSwarm) -> int:
    """Commits that the coordinator has told of."""
    return sum(isinstance(e, RoundCommitted) for e in swarm.events)
