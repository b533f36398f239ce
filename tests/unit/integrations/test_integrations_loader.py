"""Loaders over leases, without the libraries that use them; and torchtitan's data source."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from agent_end import AgentEnd
from torch import nn
from torch.utils.data import DataLoader

from farflung.attach import attach
from farflung.config.run import DataSpec, InnerSpec, ModelSpec, RunSpec
from farflung.errors import UserError
from farflung.integrations.loader import ROWS, NumberedCollate, keyed_order, lease_loader
from farflung.integrations.member import RunMember, count_tokens

TITAN = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "torchtitan_data.py"))
SPEC = RunSpec(
    model=ModelSpec(preset="custom", program=("toy",)),
    data=DataSpec(source="synthetic", seq_len=10, rows=1000),
    inner=InnerSpec(batch_rows=4, schedule="constant", warmup_steps=0),
)


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(2, 1)


@pytest.fixture
def agent(tmp_path: Path, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentEnd]:
    with AgentEnd(tmp_path, SPEC, model, monkeypatch, leases=3, steps=5) as end:
        yield end


def member(model: nn.Module, micro_rows: int, accumulation: int, shuffle: bool = True) -> RunMember:
    made = RunMember(schedule="run", layout_names=None, tokens=count_tokens, shuffle=shuffle)
    made.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_rows, accumulation)
    return made


def ahead(batches: Iterable[Any], n: int) -> Iterator[Any]:
    """A loader's background thread, that keeps `n` batches in hand."""
    held: deque[Any] = deque()
    for batch in batches:
        held.append(batch)
        if len(held) > n:
            yield held.popleft()
    yield from held


# ---- the loader ----------------------------------------------------------------------------


def test_a_plain_loop_over_the_loader_counts_its_rows(agent: AgentEnd, model: nn.Module) -> None:
    samples = [
        {"input_ids": torch.tensor([n, n]), "attention_mask": torch.tensor([1, n % 2])}
        for n in range(70)
    ]
    seat = member(model, 2, 2, shuffle=False)
    loader = lease_loader(samples, seat)
    seen: list[int] = []
    while seat.next_lease():
        for index, batch in enumerate(ahead(loader, 3)):
            seen += batch["input_ids"][:, 0].tolist()
            seat.used(batch, torch.tensor(0.5))
            if index % 2:
                seat.stepped()
    seat.close()
    assert seen == agent.trained == list(range(60))
    assert [(r.steps, r.tokens, r.loss) for r in agent.reports] == [(5, 30, 1.0)] * 3


def test_a_keyed_order_takes_every_sample_once_an_epoch() -> None:
    order = keyed_order(SPEC, 50, shuffle=True)
    for epoch in range(3):
        taken = [order(row) for row in range(50 * epoch, 50 * (epoch + 1))]
        assert sorted(taken) == list(range(50)) and taken != list(range(50))
    plain = keyed_order(SPEC, 50, shuffle=False)
    assert [plain(row) for row in (0, 49, 50, 101)] == [0, 49, 0, 1]
    with pytest.raises(UserError, match="the dataset is empty"):
        keyed_order(SPEC, 0, shuffle=True)


def test_a_batch_must_be_a_dict_and_keep_its_rows(agent: AgentEnd, model: nn.Module) -> None:
    with pytest.raises(UserError, match="a batch is a list and must be a dict"):
        NumberedCollate(lambda samples: samples)([(0, 1), (1, 2)])
    batch = NumberedCollate(lambda samples: {"x": samples})([(7, "a"), (9, "b")])
    assert batch[ROWS].tolist() == [7, 9] and batch["x"] == ["a", "b"]
    seat = member(model, 4, 1)
    with pytest.raises(UserError, match="a batch has no 'farflung_rows'"):
        seat.used({"x": 1}, 0.0)
    seat.close()
    assert agent.trained == []


@pytest.mark.usefixtures("agent")
def test_a_step_of_another_size_is_refused_with_both_numbers(model: nn.Module) -> None:
    with pytest.raises(UserError, match=r"of 2 rows times 4 accumulated is 8 rows .* trains 4"):
        member(model, 2, 4)


def test_nothing_works_before_the_training_begins() -> None:
    seat = RunMember(schedule="run", layout_names=None, tokens=count_tokens, shuffle=True)
    seat.close()
    assert not seat.attached
    with pytest.raises(UserError, match="attached when the training begins"):
        _ = seat.peer
    with pytest.raises(UserError, match="read before the training began"):
        next(iter(lease_loader([1, 2], seat)))


def test_tokens_are_what_is_no_padding() -> None:
    ids, mask = torch.zeros(2, 3), torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert int(count_tokens({"input_ids": ids, "attention_mask": mask})) == 3
    assert count_tokens({"input_ids": ids}) == 6
    assert count_tokens({"pixels": ids}) == 0


@pytest.mark.parametrize("library", ["transformers", "lightning"])
def test_a_missing_library_is_one_sentence_with_its_extra(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"farflung.integrations.{library}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    for module in [m for m in sys.modules if m == library or m.startswith(f"{library}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"pip install 'farflung\[{library}\]'"):
        importlib.import_module(name)


# ---- torchtitan ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_ahead", [0, 1, 2, 4])
def test_torchtitans_source_counts_what_was_used(
    agent: AgentEnd, model: nn.Module, n_ahead: int
) -> None:
    used = TITAN["UsedRows"]()
    seen: list[int] = []
    with attach(model, torch.optim.SGD(model.parameters(), lr=0.1)) as peer:
        data = TITAN["RunRows"](peer, lambda row: torch.arange(row, row + 4))
        loader = DataLoader(data, batch_size=2)
        for index, (inputs, labels) in enumerate(ahead(loader, n_ahead)):
            used.take(inputs)
            assert list(inputs) == ["input"] and torch.equal(labels, inputs["input"] + 1)
            seen += inputs["input"][:, 0].tolist()
            if index % 2:
                used.step(peer, tokens=12)
        assert data.state_dict() == {}
        data.load_state_dict({})
    assert agent.trained == seen[: len(agent.trained)] == list(range(len(agent.trained)))
    assert [r.steps for r in agent.reports] == [5 - -(-n_ahead // 2)] * 3
    assert sum(r.tokens for r in agent.reports) == 3 * len(agent.trained)
