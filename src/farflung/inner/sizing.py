"""How much of a batch goes through the model at a time, and what is kept of it, by memory.

A ladder of sizes, each smaller than the one before: first fewer rows, then blocks that are computed
again in the backward pass, then fewer rows still. The first that should fit by arithmetic is tried;
an out-of-memory takes the next, and what did not fit is remembered in the node's folder.

Bytes per token that a compiled block keeps for its backward pass, in bf16 (D model width, Q and K
widths of all query and key heads, F inner width): its input, the two normed inputs and the residual
between them, q, k, v, the attention's result, gate, up and their product:

    2 * (4 D + 2 Q + 2 K + 3 F)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from farflung.model.presets import LlamaConfig, parameter_count

KEEP_FREE = 0.05
"""Share of the accelerator's memory that stays free: other programs' peaks, fragmentation."""
ENOUGH_TOKENS = 8192
"""A micro-batch of fewer leaves a GPU idle: recomputing some blocks costs less than that."""
SIZES_FILE = "step-sizes.json"
MANY = 64
"""Entries that are remembered; the oldest go."""


@dataclass(frozen=True)
class StepSize:
    """One rung of the ladder."""

    micro_rows: int
    checkpointed: int
    """Blocks that keep only their input."""


def ladder(batch_rows: int, seq_len: int, layers: int) -> list[StepSize]:
    """All sizes from the whole batch down to one row with every block recomputed."""
    sizes = [batch_rows]
    while sizes[-1] > 1 and sizes[-1] * seq_len >= 2 * ENOUGH_TOKENS:
        sizes.append(-(-sizes[-1] // 2))
    rungs = [StepSize(rows, 0) for rows in sizes]
    rows = sizes[-1]
    some = sorted({max(1, layers // 4), max(1, layers // 2), layers})
    rungs += [StepSize(rows, count) for count in some]
    while rows > 1:
        rows = -(-rows // 2)
        rungs.append(StepSize(rows, layers))
    return rungs


def needed_bytes(config: LlamaConfig, size: StepSize, state_floats: float, logits: int) -> int:
    """Peak of a step by arithmetic: fp32 parameters, gradients and `state_floats` per parameter;
    kept activations; two more gradients of the head; the chunk of logits."""
    n = parameter_count(config)
    tokens = size.micro_rows * config.seq_len
    d, q, k, f = config.dim, config.q_dim, config.kv_dim, config.ff
    block = 2 * (4 * d + 2 * q + 2 * k + 3 * f)
    kept = (config.layers - size.checkpointed) * block + size.checkpointed * 2 * d
    working = 2 * block + 12 * d  # of the block that is computed, and around the blocks
    head = 2 * 4 * config.vocab * config.dim + logits
    return int(4 * n * (2 + state_floats)) + tokens * (kept + working) + head


class SizeMemory:
    """Which rung held, for this model on this device; in the node's folder, if there is one."""

    def __init__(self, node: Path | None, key: str) -> None:
        self._path = None if node is None else node / SIZES_FILE
        self._key = hashlib.sha256(key.encode()).hexdigest()[:16]

    def rung(self) -> int:
        """The first that has not run out of memory before; 0: nothing is known."""
        value = self._all().get(self._key, 0)
        return value if isinstance(value, int) and value >= 0 else 0

    def note(self, rung: int) -> None:
        """A folder that cannot be written is no reason to stop."""
        if self._path is None:
            return
        known = self._all()
        known.pop(self._key, None)
        entries = [*known.items(), (self._key, rung)][-MANY:]
        temporary = self._path.with_name(f".{SIZES_FILE}.tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(dict(entries)) + "\n", encoding="utf-8")
            temporary.replace(self._path)

    def _all(self) -> dict[str, object]:
        with contextlib.suppress(OSError, ValueError):
            if self._path is not None:
                found = json.loads(self._path.read_text(encoding="utf-8"))
                return found if isinstance(found, dict) else {}
        return {}
