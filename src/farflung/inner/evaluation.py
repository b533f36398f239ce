"""What a peer measures when it is asked how good the model is: a process of its own.

    python -m farflung.inner.evaluation --spec spec.json --data DIR --weights W.f32 --out F.json

Held-out loss on the first `evaluation.rows` held-out rows and a text after each of
`evaluation.prompts`, as one JSON object. On a GPU only where that leaves the trainer its memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from farflung.errors import ConfigError, FarflungError
from farflung.inner.built_in import BuiltIn, build, read_spec, use_threads
from farflung.inner.loss import evaluate
from farflung.inner.report import load_weights, sample_text

GPU_SHARE = 0.25
"""Of the free memory of a GPU that the weights may take: a trainer's peaks come and go."""


def held_out(built: BuiltIn, rows: int) -> dict[str, Any]:
    """Figures of the first `rows` held-out rows; 0: all. ConfigError when there are none."""
    if built.rows is None or not len(built.rows.held_out):
        raise ConfigError("the run's data has no held-out rows to measure")
    table = built.rows.held_out
    count = min(rows or len(table), len(table))
    n_bytes = sum(table.bytes_of(i) for i in range(count))
    nats, bits = evaluate(built.model, (table[i] for i in range(count)), n_bytes)
    tokens = count * built.spec.data.seq_len
    return {"nats_per_token": nats, "bits_per_byte": bits, "tokens": tokens}


def fits_a_gpu(n_bytes: int) -> bool:
    """Whether weights of this size may go beside a trainer."""
    if not torch.cuda.is_available():
        return False
    free, _ = torch.cuda.mem_get_info()
    return n_bytes < GPU_SHARE * free


def run(args: argparse.Namespace) -> None:
    """Raises FarflungError with one sentence."""
    use_threads()
    spec = read_spec(args.spec)
    cpu = not fits_a_gpu(args.weights.stat().st_size)
    built = build(spec, args.data, fresh=False, cpu=cpu)
    load_weights(built, args.weights)
    built.model.eval()
    rules = spec.evaluation
    drawn = rules.prompts if rules.sample_tokens else ()
    samples = [
        {"prompt": p, "text": sample_text(built, rules.sample_tokens, p)[len(p) :]} for p in drawn
    ]
    outcome = {**held_out(built, rules.rows), "samples": samples}
    args.out.write_text(json.dumps(outcome) + "\n", encoding="utf-8")


def main() -> int:
    """Exit code 2 for a mistake, with its sentence on stderr."""
    parser = argparse.ArgumentParser(description="how good the model of a run is")
    parser.add_argument("--spec", type=Path, required=True, help="run spec as JSON")
    parser.add_argument("--data", type=Path, required=True, help="folder of token shards")
    parser.add_argument("--weights", type=Path, required=True, help="flat vector, raw fp32")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    try:
        run(parser.parse_args())
    except FarflungError as error:
        print(f"farflung: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
