"""One peer alone, without any swarm: the comparison that a run is measured against.

    python -m farflung.inner.solo --spec spec.json --data DIR --steps N --out FILE.json

Same initial weights, order of rows, inner steps, batch and schedule as a peer of the run, as if
it owned its machine. Prints one JSON line per step; writes one JSON file.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

from farflung.errors import ConfigError, FarflungError
from farflung.inner.built_in import BuiltIn, build, read_spec, use_threads
from farflung.inner.flat import FlatParameters
from farflung.inner.loss import evaluate
from farflung.inner.optimizer import set_lr_factor
from farflung.inner.options import options_from
from farflung.inner.schedule import lr_factor

LAST_STEPS = 20
"""`loss_last` is the mean of this many."""


def train_alone(built: BuiltIn, steps: int) -> list[float]:
    """Losses of all steps. Positions 0, 1, 2, ... of the run's order."""
    spec = built.spec
    rows = spec.inner.batch_rows
    stepper = built.stepper(options_from())
    losses: list[float] = []
    for step in range(steps):
        set_lr_factor(built.optimizer, lr_factor(step / steps, spec.inner, steps))
        tokens_BT, targets_BT = built.batch(range(step * rows, (step + 1) * rows))
        losses.append(float(stepper(tokens_BT, targets_BT).loss))
        print(json.dumps({"step": step + 1, "steps": steps, "loss": losses[-1]}), flush=True)
    return losses


def held_out_loss(built: BuiltIn) -> dict[str, float]:
    """Nats per token and bits per byte on all held-out rows; empty for synthetic data."""
    if built.rows is None or not len(built.rows.held_out):
        return {}
    table = built.rows.held_out
    rows = (table[i] for i in range(len(table)))
    nats, bits = evaluate(built.model, rows, table.text_bytes)
    return {"nats_per_token": nats, "bits_per_byte": bits}


def run(args: argparse.Namespace) -> None:
    """Raises FarflungError with one sentence."""
    if args.steps < 1:
        raise ConfigError(f"--steps {args.steps} must be at least 1")
    use_threads()
    built = build(read_spec(args.spec), args.data, fresh=True)
    started_s = time.monotonic()
    losses = train_alone(built, args.steps)
    seconds = time.monotonic() - started_s
    outcome = {
        "steps": args.steps,
        "tokens": args.steps * built.spec.inner_batch_tokens,
        "loss_first": losses[0],
        "loss_last": float(np.mean(losses[-LAST_STEPS:])),
        "seconds": seconds,
    } | held_out_loss(built)
    if args.weights is not None:
        flat = FlatParameters(built.model)
        weights = np.empty(flat.size, "<f4")
        flat.read([(0, flat.size)], weights)
        weights.tofile(args.weights)
    args.out.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Exit code 2 for a mistake, with its sentence on stderr."""
    parser = argparse.ArgumentParser(description="train one peer alone, without a swarm")
    parser.add_argument("--spec", type=Path, required=True, help="run spec as JSON")
    parser.add_argument("--data", type=Path, required=True, help="folder of token shards")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--weights", type=Path, help="also write the final weights (raw fp32)")
    try:
        run(parser.parse_args())
    except FarflungError as error:
        print(f"farflung: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
