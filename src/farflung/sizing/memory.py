"""Bytes that a peer needs: in its GPU, in its host's memory, on its disk.

GPU: the arithmetic with which the trainer itself chooses its micro-batch (inner/sizing.py).
Host: what agent and trainer hold (inner/seam.py, peer/outer_state.py), with n parameters, m
elements of the largest fragment, D its bytes on the wire, W the window:

    agent     4 n anchor + 4 n momentum + 8 m W slots + 8 m W steps ahead + 2 D W wire bytes
    trainer   a process with torch; on a CPU the model and its step too
"""

from __future__ import annotations

from dataclasses import dataclass

from farflung.config.run import RunSpec
from farflung.inner.sizing import KEEP_FREE, StepSize, ladder, needed_bytes
from farflung.peer.disk_budget import need_of, result_bytes
from farflung.sizing.model import ModelSizes

LOGITS_SHARE = 1 / 32
"""Of a GPU's memory: inner/loss.py, DEVICE_SHARE (which needs torch)."""
LOGITS_BYTES = 1 << 28
"""On a CPU: inner/loss.py, CHUNK_BYTES."""
AGENT_BYTES = 70 << 20
"""An agent's process without a run."""
TORCH_BYTES = 400 << 20
"""A process that has loaded torch's CPU build; with CUDA it is more."""
CUDA_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True)
class StepFit:
    """How a step fits into a memory."""

    size: StepSize
    bytes: int
    fits: bool


def gpu_fit(spec: RunSpec, sizes: ModelSizes, memory_bytes: int) -> StepFit:
    """The first size of the trainer's ladder that fits; else the smallest, which does not."""
    budget = int(memory_bytes * LOGITS_SHARE)
    rungs = ladder(spec.inner.batch_rows, sizes.config.seq_len, sizes.config.layers)
    fit = StepFit(size=rungs[-1], bytes=0, fits=False)
    for rung in rungs:
        needed = needed_bytes(sizes.config, rung, sizes.state_floats, budget)
        fit = StepFit(size=rung, bytes=needed, fits=needed <= (1 - KEEP_FREE) * memory_bytes)
        if fit.fits:
            break
    return fit


def host_bytes(spec: RunSpec, sizes: ModelSizes, *, gpu: bool) -> int:
    """Of agent and trainer together."""
    n, m, window = sizes.parameters, sizes.largest_fragment, spec.outer.window
    wire = sizes.fragment_bytes
    agent = AGENT_BYTES + 8 * n + 16 * m * window + int(2 * wire * window)
    if gpu:
        return agent + TORCH_BYTES + CUDA_BYTES + 4 * m
    whole = StepSize(spec.inner.batch_rows, 0)
    # fp32, where the arithmetic of a GPU counts kept activations in two bytes
    kept = needed_bytes(sizes.config, whole, sizes.state_floats, 0)
    state = int(4 * n * (2 + sizes.state_floats))
    logits = min(LOGITS_BYTES, 4 * spec.inner_batch_tokens * sizes.config.vocab)
    return agent + TORCH_BYTES + state + 2 * (kept - state) + logits


def disk_bytes(spec: RunSpec, sizes: ModelSizes, *, data_bytes: int = 0) -> int:
    """Two snapshots, the round log, the inner optimizer's state, and `data_bytes`."""
    need = need_of(sizes.layout, spec.outer, keeps_genesis=False, cache=data_bytes)
    log = spec.swarm.keep_rounds * result_bytes(sizes.layout, spec.outer)
    return need.total + int(log + 4 * sizes.parameters * sizes.state_floats)


def fixed_gpu_bytes(sizes: ModelSizes, memory_bytes: int) -> int:
    """The least that any step of this model needs: one row, every block recomputed."""
    smallest = StepSize(1, sizes.config.layers)
    budget = int(memory_bytes * LOGITS_SHARE)
    return needed_bytes(sizes.config, smallest, sizes.state_floats, budget)
