"""Claims about the algorithm made of the outer room's parts (exact, tiny, NumPy)."""

from __future__ import annotations

import numpy as np
import pytest
from outer_diloco import INNER_LR, LAYOUT, Problem, Streaming, mean, plain_diloco, start

from farflung.outer.fragments import gather


def test_diloco_with_one_plain_step_is_data_parallel_sgd() -> None:
    problem, workers, steps = Problem(), 4, 40
    theta = start()
    for step in range(steps):
        theta = theta - INNER_LR * mean([problem.gradient(theta, w, step) for w in range(workers)])
    diloco = Streaming(problem, workers=workers, inner_steps=1, lr=1.0, mu=0.0)
    diloco.run(steps)
    np.testing.assert_allclose(diloco.anchor, theta, rtol=0, atol=1e-6)


def test_identical_replicas_equal_one_worker_to_the_bit() -> None:
    runs = [Streaming(Problem(same_data=True), workers=m) for m in (1, 4)]
    for run in runs:
        run.run(24)
    np.testing.assert_array_equal(runs[0].anchor, runs[1].anchor)


def test_one_worker_without_momentum_is_lookahead() -> None:
    problem, lr = Problem(), np.float32(0.5)
    slow = start()
    for r in range(6):
        fast = slow.copy()
        for step in range(4 * r, 4 * r + 4):
            problem.inner_step(fast, 0, step)
        slow = slow + lr * (fast - slow)
    run = Streaming(problem, workers=1, lr=0.5, mu=0.0)
    run.run(24)
    np.testing.assert_array_equal(run.anchor, slow)


def test_streaming_with_one_fragment_and_no_overlap_is_diloco_to_the_bit() -> None:
    run = Streaming()
    run.run(32)
    np.testing.assert_array_equal(run.anchor, plain_diloco(Problem(), 3, 4, 8, 0.7, 0.9))


@pytest.mark.parametrize("fragments", [2, 4])
def test_fragments_are_equal_on_all_workers_at_their_sync_step(fragments: int) -> None:
    run = Streaming(fragments=fragments)
    seen: set[int] = set()
    for _ in range(8):
        for p in run.run(1):
            seen.add(p)
            expected = gather(run.anchor, run.parts[p])
            for theta in run.local:
                np.testing.assert_array_equal(gather(theta, run.parts[p]), expected)
    assert seen == set(range(fragments))


def test_alpha_one_is_no_communication() -> None:
    run = Streaming(fragments=2, overlap=1, alpha=1.0)
    run.run(20)
    for w, theta in enumerate(run.local):
        alone = start()
        for step in range(20):
            run.problem.inner_step(alone, w, step)
        np.testing.assert_array_equal(theta, alone)


def test_alpha_zero_with_overlap_discards_the_steps_after_departure() -> None:
    run = Streaming(overlap=2)
    run.run(6)
    for theta in run.local:
        np.testing.assert_array_equal(theta, run.anchor)


def test_carry_keeps_the_steps_after_departure_exactly_once() -> None:
    run = Streaming(overlap=2, carried=True)
    run.run(4)
    sent = [theta.copy() for theta in run.local]
    run.run(1)
    before = [theta.copy() for theta in run.local]
    for w, theta in enumerate(before):
        run.problem.inner_step(theta, w, 5)
    run.run(1)
    for theta, trained, was in zip(run.local, before, sent, strict=True):
        np.testing.assert_allclose(theta - run.anchor, trained - was, rtol=0, atol=1e-6)


@pytest.mark.parametrize("codec", ["bf16", "int8", "int8-sigma"])
@pytest.mark.parametrize("fragments", [1, 3])
def test_compressed_runs_stay_close_to_fp32(codec: str, fragments: int) -> None:
    exact, compressed = Streaming(fragments=fragments), Streaming(fragments=fragments, codec=codec)
    exact.run(60)
    compressed.run(60)
    moved = float(np.linalg.norm(exact.anchor - start()))
    assert float(np.linalg.norm(exact.anchor - compressed.anchor)) < 0.03 * moved


def test_the_swarm_finds_the_minimum() -> None:
    run = Streaming(fragments=2, overlap=1, alpha=0.5, lr=0.4)
    run.run(400)
    assert float(np.abs(run.anchor - 1).mean()) < 0.1
    assert run.anchor.shape == (LAYOUT.size,)
