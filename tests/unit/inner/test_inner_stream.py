"""Exactly once: what a lease is credited with is what the steps used, however far a loop runs
ahead of them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from agent_end import AgentEnd
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from farflung.attach import Peer, attach
from farflung.config.run import DataSpec, InnerSpec, ModelSpec, RunSpec
from farflung.errors import UserError
from farflung.inner.line import SoloLine
from farflung.inner.rows import TakenRows, row_numbers
from farflung.inner.stream import Stream

SPEC = RunSpec(
    model=ModelSpec(preset="custom", program=("toy",)),
    data=DataSpec(source="synthetic", seq_len=10),
    inner=InnerSpec(batch_rows=4, schedule="constant", warmup_steps=0, join_warmup_steps=0),
)


class Loop:
    """A model of which every step takes 0.25 off each weight: the sum tells the steps."""

    def __init__(self) -> None:
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.25)

    def step(self) -> None:
        self.optimizer.zero_grad()
        torch.stack([p.sum() for p in self.model.parameters()]).sum().backward()
        self.optimizer.step()


def ahead(rows: Iterator[list[int]], n: int) -> Iterator[list[int]]:
    """A loader that keeps `n` more micro-batches than it has handed out."""
    held: deque[list[int]] = deque()
    for each in rows:
        held.append(each)
        if len(held) > n:
            yield held.popleft()
    yield from held


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def agent(tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentEnd]:
    with AgentEnd(tmp_path, SPEC, loop.model, monkeypatch, leases=3, steps=5) as end:
        yield end


def test_a_second_batch_before_the_step_is_an_error_at_once(agent: AgentEnd, loop: Loop) -> None:
    with attach(loop.model, loop.optimizer) as peer:
        lease = peer.lease()
        assert lease is not None
        batches = lease.batches()
        assert next(batches) == [0, 1, 2, 3]
        with pytest.raises(UserError, match=r"a second batch was taken before peer\.step\(\)"):
            next(batches)
        with pytest.raises(
            UserError, match=r"a lease was taken before peer\.step\(\) for the last"
        ):
            peer.lease()
        assert agent.trained == []


def test_a_loop_that_leaves_a_lease_early_gives_the_rest_back(agent: AgentEnd, loop: Loop) -> None:
    used: list[int] = []
    with attach(loop.model, loop.optimizer) as peer:
        while lease := peer.lease():
            for positions in lease.batches():
                loop.step()
                used += positions
                peer.step(tokens=7, metrics={"loss": 1.0})
                if positions[0] == 8:
                    break
    assert agent.trained == used == list(range(13 * 4))
    assert [r.steps for r in agent.reports] == [3, 5, 5]
    assert [r.tokens for r in agent.reports] == [21, 35, 35]


def test_a_loop_may_go_by_the_leases_rows(agent: AgentEnd, loop: Loop) -> None:
    with attach(loop.model, loop.optimizer) as peer:
        lease = peer.lease()
        assert lease is not None and lease.rows() == list(range(20))
        for _ in range(5):
            peer.step(tokens=1)
        assert lease.over and peer.lease() is not None
    assert agent.trained == list(range(20))


def train_ahead(peer: Peer, loop: Loop, stream: Stream, n_ahead: int) -> list[int]:
    """Accumulates micro-batches that a loader has taken ahead; returns the rows it trained."""
    used: list[int] = []
    micro: list[list[int]] = []
    for rows in ahead(iter(stream), n_ahead):
        micro.append(rows)
        if len(micro) == stream.steps_per_update:
            loop.step()
            used += [r for part in micro for r in part]
            peer.step(tokens=11, rows=[torch.tensor(part) for part in micro])
            micro.clear()
    assert not micro
    return used


@pytest.mark.parametrize("n_ahead", [0, 1, 2, 3, 5])
def test_an_endless_loop_may_run_ahead_over_the_end_of_a_lease(
    agent: AgentEnd, loop: Loop, n_ahead: int
) -> None:
    with attach(loop.model, loop.optimizer) as peer:
        used = train_ahead(peer, loop, peer.stream(2), n_ahead)
    counted = agent.trained
    assert used[: len(counted)] == counted == list(range(len(counted)))
    assert sum(r.tokens for r in agent.reports) == 11 * len(counted) // 4
    held = -(-n_ahead // 2)  # whole batches that the loader holds back at a lease's end
    assert [r.steps for r in agent.reports] == [5 - held] * 3


@pytest.mark.parametrize("n_ahead", [0, 1, 3, 50])
def test_a_pass_over_one_lease_trains_all_of_it(agent: AgentEnd, loop: Loop, n_ahead: int) -> None:
    used: list[int] = []
    with attach(loop.model, loop.optimizer) as peer:
        stream = peer.stream(1, endless=False)
        while stream.wait():
            used += train_ahead(peer, loop, stream, n_ahead)
            assert stream.ended
        assert peer.over
    assert used == agent.trained == list(range(3 * 20))
    assert [r.steps for r in agent.reports] == [5, 5, 5]


def test_what_a_dropped_loader_had_taken_comes_again(agent: AgentEnd, loop: Loop) -> None:
    used: list[int] = []
    with attach(loop.model, loop.optimizer) as peer:
        stream = peer.stream(endless=False)
        while stream.wait():
            for rows in ahead(iter(stream), 2):
                loop.step()
                used += rows
                peer.step(tokens=1, rows=rows)
                if len(used) == 8:
                    break  # and with it what the loader holds
    assert used == agent.trained == list(range(12 * 4))
    assert [r.steps for r in agent.reports] == [2, 5, 5]


@pytest.mark.parametrize("endless", [True, False])
def test_an_early_end_counts_what_was_trained_until_then(
    agent: AgentEnd, loop: Loop, endless: bool
) -> None:
    used: list[int] = []
    with attach(loop.model, loop.optimizer) as peer:
        stream = peer.stream(endless=endless)
        while not peer.over:
            for rows in ahead(iter(stream), 1):
                loop.step()
                if len(used) == 8:
                    agent.stop_early()
                    settle(peer)
                used += rows
                peer.step(tokens=1, rows=rows)
    assert used[: len(agent.trained)] == agent.trained == list(range(len(agent.trained)))
    assert 3 <= agent.reports[0].steps <= 4
    if not endless:
        assert used == agent.trained


def settle(peer: Peer) -> None:
    """Until something that the agent sent is here."""
    import select

    line = peer._line
    assert isinstance(line, SoloLine)
    assert select.select([line.channel.end], [], [], 10)[0]


def test_rows_of_an_ended_stay_are_neither_counted_nor_kept(agent: AgentEnd, loop: Loop) -> None:
    """The loader holds two batches when the stay ends: their steps are undone."""
    start = np.array(agent.shared.anchor)
    used: list[int] = []
    with attach(loop.model, loop.optimizer) as peer:
        for rows in ahead(iter(peer.stream()), 2):
            loop.step()
            used += rows
            if len(used) == 8:
                agent.reset()
                settle(peer)
            peer.step(tokens=1, rows=rows)
            if len(used) == 16:  # both stale batches are through
                np.testing.assert_array_equal(weights(loop), start)
    first = agent.reports[0]
    assert first.steps == 3 and first.rows == 12
    # Two steps before the reset, then two on rows that belonged to others; none is counted.
    assert (
        agent.trained == used[16 : 16 + len(agent.trained)] == list(range(20, 20 + 3 * 4 + 3 * 4))
    )
    assert agent.reports[0].tokens == 3


def weights(loop: Loop) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in loop.model.parameters()])


@pytest.mark.usefixtures("agent")
def test_a_loop_that_runs_ahead_by_more_than_a_lease_is_told(loop: Loop) -> None:
    too_far = pytest.raises(UserError, match="takes 5 batches before it trains the first")
    with attach(loop.model, loop.optimizer) as peer, too_far:
        next(ahead(iter(peer.stream()), 5))


@pytest.mark.usefixtures("agent")
def test_wrong_rows_are_refused_by_name(loop: Loop) -> None:
    with attach(loop.model, loop.optimizer) as peer:
        stream = iter(peer.stream(2))
        first, second, third = next(stream), next(stream), next(stream)
        with pytest.raises(UserError, match=r"needs rows=, the row numbers"):
            peer.step(tokens=1)
        with pytest.raises(UserError, match=r"used 2 rows, one step of this run trains 4"):
            peer.step(tokens=1, rows=first)
        with pytest.raises(
            UserError, match=r"used the rows \[2, 3, 4, 5\], but \[0, 1, 2, 3\] came"
        ):
            peer.step(tokens=1, rows=[second, third])
        with pytest.raises(UserError, match="must be row numbers"):
            peer.step(tokens=1, rows="0123")
        peer.step(tokens=1, rows=[first, second])
    with pytest.raises(UserError, match=r"micro_rows=3 must divide inner\.batch_rows=4"):
        Stream(peer, 4, 3, endless=True)


def test_after_the_end_a_loaders_last_batches_are_let_pass(agent: AgentEnd, loop: Loop) -> None:
    with attach(loop.model, loop.optimizer) as peer:
        stream = peer.stream(endless=False)
        while stream.wait():
            train_ahead(peer, loop, stream, 1)
        peer.step(tokens=1, rows=[1, 2, 3, 4])
        assert list(stream) == []
    assert len(agent.trained) == 60


def test_row_numbers_come_from_tensors_arrays_and_lists() -> None:
    assert row_numbers([torch.tensor([1, 2]), np.array([3]), [4, [5]]]) == [1, 2, 3, 4, 5]
    assert row_numbers(torch.tensor(7)) == [7]
    with pytest.raises(UserError, match="must be row numbers"):
        row_numbers([1.5])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["take", "use", "void"]), max_size=30))
def test_taken_rows_count_once_and_in_order(moves: list[str]) -> None:
    taken, model, seen = TakenRows(), deque[tuple[list[int], bool]](), Counter[int]()
    for number, move in enumerate(moves):
        if move == "take":
            taken.take([number])
            model.append(([number], True))
        elif move == "void":
            taken.void()
            model = deque((batch, False) for batch, _ in model)
        elif model:
            batch, counts = model.popleft()
            assert taken.use(batch) is counts
            seen[batch[0]] += counts
        assert taken.waiting == [batch for batch, counts in model if counts]
        assert taken.has_void == any(not counts for _, counts in model)
    assert all(n <= 1 for n in seen.values())


@pytest.mark.usefixtures("agent")
def test_the_share_of_the_run_follows_the_lease(loop: Loop) -> None:
    with attach(loop.model, loop.optimizer) as peer:
        seen = []
        assert peer.progress == 0.0
        while lease := peer.lease():
            for _ in lease.batches():
                seen.append(peer.progress)
                peer.step(tokens=1)
    assert seen == pytest.approx([k / 15 for k in range(15)])
