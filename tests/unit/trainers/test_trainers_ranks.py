"""A trainer of several ranks through the agent's end: the toy program, once per rank.

The toy's ranks hold whole copies that move alike, so what they do together is exact.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_trainers_process import ENTRIES, FRAGMENTS, SPEC, TOY, N, landing, lease, part, within

from farflung.config.run import RunSpec
from farflung.inner.seam import SharedState
from farflung.outer.layout import Layout
from farflung.trainers.port import TrainerDied
from farflung.trainers.process import ProcessTrainer

pytestmark = pytest.mark.slow

QUICK = msgspec.structs.replace(SPEC, swarm=msgspec.structs.replace(SPEC.swarm, progress_s=0.5))
PATIENCE_S = 600.0
"""Several processes load torch, twice, on a machine with other work."""
START = np.arange(N, dtype=np.float32)


@asynccontextmanager
async def toys(
    folder: Path, ranks: int = 2, spec: RunSpec = SPEC, **env: str
) -> AsyncIterator[ProcessTrainer]:
    shared = SharedState.create(N, FRAGMENTS, 2, memfd=True)
    shared.anchor[:] = START
    trainer = ProcessTrainer(
        shared,
        spec,
        layout=Layout.from_entries(ENTRIES),
        program=TOY,
        data_dir=folder,
        log_path=folder / "trainer.log",
        emit=print,
        env=env,
        ranks=ranks,
    )
    try:
        yield trainer
        pids = [p.pid for p in trainer._processes]
    finally:
        await trainer.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def pids(port: ProcessTrainer) -> list[int]:
    return [process.pid for process in port._processes]


def test_two_ranks_train_a_lease_and_land_as_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with toys(tmp_path) as port:
            await port.start()
            report = await port.train(lease(0))
            assert (report.rows, report.steps, port.steps) == (6, 3, 3)
            assert report.tokens == 60  # of both ranks' rows
            assert report.finite and not report.note
            np.testing.assert_array_equal(port.shared.sent(0, 0), part(START, 0) - 0.75)
            port.shared.anchor[:] += 100.0
            await port.land(landing("overwrite", 0))
            port.shared.land(1, 1)[:] = 0.125
            await port.land(landing("carry", 1))
            await port.train(lease(1, rows=0))
            np.testing.assert_array_equal(port.shared.sent(1, 1), part(START, 1) - 0.625)
            await port.reset()
            await port.train(lease(0, first=6, rows=2))
            np.testing.assert_array_equal(port.shared.sent(0, 0), part(START, 0) + 99.75)
        assert "toy ends" in (tmp_path / "trainer.log").read_text()
        assert "toy ends" in (tmp_path / "trainer.rank1.log").read_text()

    within(PATIENCE_S, main)


def test_a_loss_that_is_not_finite_in_one_rank_counts_for_all(tmp_path: Path) -> None:
    async def main() -> None:
        async with toys(tmp_path, TOY_NAN_AT="3") as port:  # the second row of a batch: rank 1's
            await port.start()
            report = await port.train(lease(0))
            assert not report.finite and report.note == "non-finite loss at step 2"
            await port.reset()
            assert (await port.train(lease(0, first=6, rows=2))).finite

    within(PATIENCE_S, main)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all_and_they_start_again(tmp_path: Path, rank: int) -> None:
    async def main() -> None:
        async with toys(tmp_path, TOY_STEP_S="0.02") as port:
            await port.start()
            training = asyncio.create_task(port.train(lease(0, rows=4000)))
            await asyncio.sleep(0.5)
            before = pids(port)
            os.kill(before[rank], signal.SIGKILL)
            with pytest.raises(TrainerDied, match=rf"rank {rank} of 2 ended \(killed by SIGKILL\)"):
                await training
            await port.start()
            assert not any(Path(f"/proc/{pid}").exists() for pid in before)
            assert (await port.train(lease(0))).finite
            np.testing.assert_array_equal(port.shared.sent(0, 0), part(START, 0) - 0.75)

    within(PATIENCE_S, main)


def test_a_rank_that_hangs_ends_all(tmp_path: Path) -> None:
    async def main() -> None:
        async with toys(tmp_path, spec=QUICK, TOY_STEP_S="0.02") as port:
            await port.start()
            await port.train(lease(0))
            training = asyncio.create_task(port.train(lease(1, rows=4000)))
            await asyncio.sleep(0.3)
            os.kill(pids(port)[1], signal.SIGSTOP)
            with pytest.raises(TrainerDied, match="hung: no step of its 2 ranks"):
                await training
            await port.start()
            assert (await port.train(lease(0))).finite

    within(PATIENCE_S, main)


def test_a_rank_without_memory_is_told_and_ends_all(tmp_path: Path) -> None:
    async def main() -> None:
        async with toys(tmp_path, TOY_MEMORY_AT="3") as port:
            await port.start()
            with pytest.raises(TrainerDied, match=r"rank 1 of 2 ended .*OutOfMemoryError: toy"):
                await port.train(lease(0))
            await port.start()
            assert (await port.train(lease(0, first=6, rows=2))).finite

    within(PATIENCE_S, main)


def test_a_batch_that_ranks_cannot_share_is_told_at_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        async with toys(tmp_path, ranks=3) as port:
            with pytest.raises(TrainerDied, match=r"batch_rows=2 must be a multiple .* 3 ranks"):
                await port.start()

    within(PATIENCE_S, main)


def test_the_ranks_of_a_killed_agent_end_too(tmp_path: Path) -> None:
    """No rank outlives its agent, even one that waits in the middle of a step."""
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_trainers_ranks import toys, lease, pids\n"
        "async def main():\n"
        f"    async with toys(Path({str(tmp_path)!r}), TOY_STEP_S='600') as port:\n"
        "        await port.start()\n"
        "        print(*pids(port), flush=True)\n"
        "        await port.train(lease(0))\n"
        "asyncio.run(main())\n"
    )

    async def main() -> None:
        import sys

        agent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        assert agent.stdout is not None
        ranks = [int(pid) for pid in (await agent.stdout.readline()).split()]
        assert len(ranks) == 2
        agent.kill()
        await agent.wait()
        while any(_runs(pid) for pid in ranks):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.1)

    within(PATIENCE_S, main)


def _runs(pid: int) -> bool:
    """A zombie whose new parent has not collected it yet has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
