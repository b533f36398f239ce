"""The in-process trainer: deterministic, and every landing exact."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from farflung.config.run import DataSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from farflung.inner.seam import SharedState
from farflung.sim.loop import run_virtual
from farflung.trainers.numpy_trainer import NumpyTrainer, quadratic_genesis
from farflung.trainers.port import Landing, TrainerDied, Work

N = 80
FRAGMENTS = (((0, 10), (20, 40)), ((10, 20), (40, 80)))
SPEC = RunSpec(
    model=ModelSpec(preset="quadratic", parameters=N),
    data=DataSpec(source="synthetic", rows=1000, seq_len=4),
    inner=InnerSpec(lr=0.1, batch_rows=4, schedule="constant", warmup_steps=0),
    outer=OuterSpec(fragments=2, window=2, inner_steps=10),
)


def trainer(step_s: float = 0.0) -> NumpyTrainer:
    shared = SharedState.create(N, FRAGMENTS, 2, memfd=False)
    shared.anchor[:] = quadratic_genesis(SPEC)[1]
    return NumpyTrainer(shared, SPEC, step_s)


def lease(fragment: int = 0, rows: int = 20, first: int = 0) -> Work:
    return Work(
        round=fragment,
        fragment=fragment,
        generation=1,
        ranges=((first, first + rows),),
        steps=rows // 4,
        progress_start=0.0,
        progress_end=0.1,
        slot=fragment,
    )


def landing(op: str, alpha: float = 0.0) -> Landing:
    return Landing(round=0, fragment=0, op=op, alpha=alpha, slot=0)  # type: ignore[arg-type]


def part(values: np.ndarray, fragment: int) -> np.ndarray:
    return np.concatenate([values[a:b] for a, b in FRAGMENTS[fragment]])


def test_genesis_has_layer_names_and_the_wanted_size() -> None:
    entries, anchor = quadratic_genesis(SPEC)
    assert [name for name, _ in entries] == [f"model.layers.{i}.w" for i in range(8)]
    assert sum(shape[0] for _, shape in entries) == anchor.size == N
    assert anchor.dtype == np.float32


def test_equal_leases_give_equal_bits_and_lower_the_loss() -> None:
    async def main() -> tuple[bytes, float, float]:
        port = trainer()
        await port.start()
        first = await port.train(lease(0))
        second = await port.train(lease(1, rows=400, first=20))
        assert (first.steps, first.rows, first.tokens, port.steps) == (5, 20, 80, 105)
        assert first.finite and second.finite
        return port.local.tobytes(), first.loss_sum / 5, second.loss_sum / 100

    once, again = run_virtual(main()), run_virtual(main())
    assert once == again
    assert once[2] < 0.5 * once[1]


def test_the_departing_fragment_is_the_local_one() -> None:
    async def main() -> None:
        port = trainer()
        await port.start()
        await port.train(lease(1))
        np.testing.assert_array_equal(port.shared.sent(1, 1), part(port.local, 1))
        assert not np.array_equal(port.shared.sent(1, 1), part(port.shared.anchor, 1))

    run_virtual(main())


def test_landings_are_exact_and_touch_one_fragment() -> None:
    async def main() -> None:
        port = trainer()
        await port.start()
        await port.train(lease(0))
        before = port.local.copy()
        port.shared.land(0, 0)[:] = np.arange(30, dtype=np.float32)
        await port.land(landing("carry"))
        np.testing.assert_array_equal(
            part(port.local, 0), part(before, 0) + np.arange(30, dtype=np.float32)
        )
        np.testing.assert_array_equal(part(port.local, 1), part(before, 1))
        before = port.local.copy()
        await port.land(landing("blend", 0.5))
        half = np.float32(0.5)
        expected = part(before, 0) * half + part(port.shared.anchor, 0) * half
        np.testing.assert_array_equal(part(port.local, 0), expected)
        await port.land(landing("overwrite"))
        np.testing.assert_array_equal(part(port.local, 0), part(port.shared.anchor, 0))

    run_virtual(main())


def test_stop_early_trains_a_prefix() -> None:
    async def main() -> None:
        port = trainer(step_s=1.0)
        await port.start()
        asyncio.get_running_loop().call_later(2.5, port.stop_early)
        report = await port.train(lease(0))
        assert (report.steps, report.rows) == (3, 12)  # the step that had begun is finished
        assert (await port.train(lease(0, first=12))).steps == 5
        assert port.steps_per_s == 1.0

    run_virtual(main())


def test_a_lease_of_no_steps_departs_at_once() -> None:
    async def main() -> None:
        port = trainer()
        await port.start()
        report = await port.train(lease(0, rows=0))
        assert (report.steps, report.rows, report.finite) == (0, 0, True)
        np.testing.assert_array_equal(port.shared.sent(0, 0), part(port.shared.anchor, 0))

    run_virtual(main())


def test_a_landing_waits_until_the_anchor_is_whole() -> None:
    async def main() -> None:
        port = trainer()
        await port.start()
        port.shared.begin_write(0)
        task = asyncio.create_task(port.land(landing("overwrite")))
        await asyncio.sleep(0.1)
        assert not task.done()
        port.shared.anchor[:] = 7.0
        port.shared.end_write(0)
        await task
        assert (part(port.local, 0) == 7.0).all()

    run_virtual(main())


def test_a_dead_trainer_says_so_until_it_is_started_again() -> None:
    async def main() -> None:
        port = trainer(step_s=1.0)
        await port.start()
        asyncio.get_running_loop().call_later(1.5, port.die, "out of luck")
        with pytest.raises(TrainerDied, match="out of luck"):
            await port.train(lease(0))
        with pytest.raises(TrainerDied):
            await port.reset()
        await port.start()
        np.testing.assert_array_equal(port.local, port.shared.anchor)
        assert (await port.train(lease(0))).steps == 5

    run_virtual(main())
