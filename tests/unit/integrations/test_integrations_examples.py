"""The examples, each under an agent's end: what is counted is what the model saw, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from agent_end import AgentEnd
from witness import steps_of

from farflung.config.run import DataSpec, InnerSpec, ModelSpec, RunSpec
from farflung.integrations.loader import keyed_order

EXAMPLES = Path(__file__).parents[3] / "examples"
WITNESS = Path(__file__).parent / "witness.py"
N_SAMPLES = 1000
SPEC = RunSpec(
    seed=3,
    model=ModelSpec(preset="custom", program=("example",)),
    data=DataSpec(source="synthetic", seq_len=10),
    inner=InnerSpec(batch_rows=4, schedule="constant", warmup_steps=0),
)


@pytest.mark.parametrize("name", ["transformers_loop.py", "lightning_loop.py"])
def test_an_example_is_short_enough_to_read(name: str) -> None:
    code = [line for line in (EXAMPLES / name).read_text().splitlines() if line.strip()]
    assert len(code) <= 30


@pytest.mark.parametrize(
    ("program", "tokens"),
    [
        (EXAMPLES / "transformers_loop.py", 16),
        (EXAMPLES / "lightning_loop.py", 17),
        (WITNESS.parent / "plain_loop.py", 17),
    ],
    ids=lambda value: getattr(value, "stem", ""),
)
def test_accumulation_and_workers_train_every_row_once(
    program: Path, tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two micro-batches a step, a worker that prefetches; the second lease ends early."""
    with AgentEnd(tmp_path, SPEC, None, monkeypatch, leases=4, steps=3, stop=1) as agent:
        log = run_to_its_end(program, tmp_path)
    seen = steps_of(log)
    index = keyed_order(SPEC, N_SAMPLES, shuffle=True)
    assert [len(step) for step in seen] == [4] * len(seen)
    assert [r.steps for r in agent.reports] == [3, 1, 3, 3]
    assert agent.trained == list(range(40))
    assert [row for step in seen for row in step] == [index(p) for p in agent.trained]
    assert [r.tokens for r in agent.reports] == [4 * tokens * r.steps for r in agent.reports]
    assert all(r.finite and 0 < r.loss < 10 for r in agent.reports)


def run_to_its_end(program: Path, folder: Path) -> str:
    """Standard output of a program."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, str(WITNESS), str(program)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout
