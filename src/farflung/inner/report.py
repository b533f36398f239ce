"""Held-out loss and a sample of text from an anchor.

    python -m farflung.inner.report --spec spec.json --data DIR --weights anchor.f32 --out F.json

The weights are the raw little-endian fp32 flat vector of a snapshot or of inner/solo.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from farflung.data.tokenizer import tokenizer_from_bytes
from farflung.errors import ConfigError, FarflungError
from farflung.inner.built_in import BuiltIn, build, read_spec, use_threads
from farflung.inner.flat import FlatParameters
from farflung.inner.solo import held_out_loss
from farflung.model.generate import sample

TEMPERATURE = 0.8
TOP_K = 40


def load_weights(built: BuiltIn, path: Path) -> None:
    """Put a flat vector into the model. ConfigError when it has another size."""
    flat = FlatParameters(built.model)
    try:
        weights = np.fromfile(path, "<f4")
    except OSError as error:
        raise ConfigError(f"cannot read the weights {path}: {error.strerror}") from None
    if weights.size != flat.size:
        raise ConfigError(
            f"{path} holds {weights.size} weights, model.preset="
            f"{built.spec.model.preset!r} has {flat.size}; give the run's own spec"
        )
    flat.land([(0, flat.size)], "overwrite", weights)


def sample_text(built: BuiltIn, n: int, prompt: str) -> str:
    """`n` tokens after `prompt`, or after the end of a document; empty for synthetic data."""
    if built.rows is None or n == 0:
        return ""
    tokenizer = tokenizer_from_bytes(built.rows.tokenizer, eos=built.rows.manifest.eos)
    start = tokenizer.encode(prompt) or [tokenizer.eos]
    ids = sample(built.model, start, n, temperature=TEMPERATURE, top_k=TOP_K, seed=built.spec.seed)
    return prompt + tokenizer.decode(ids)


def run(args: argparse.Namespace) -> None:
    """Raises FarflungError with one sentence."""
    use_threads()
    built = build(read_spec(args.spec), args.data, fresh=False)
    load_weights(built, args.weights)
    outcome = {**held_out_loss(built), "sample": sample_text(built, args.sample, args.prompt)}
    args.out.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Exit code 2 for a mistake, with its sentence on stderr."""
    parser = argparse.ArgumentParser(description="held-out loss and a sample of text")
    parser.add_argument("--spec", type=Path, required=True, help="run spec as JSON")
    parser.add_argument("--data", type=Path, required=True, help="folder of token shards")
    parser.add_argument("--weights", type=Path, required=True, help="flat vector, raw fp32")
    parser.add_argument("--sample", type=int, default=200, help="tokens of text to draw")
    parser.add_argument("--prompt", default="", help="text to go on from")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    try:
        run(parser.parse_args())
    except FarflungError as error:
        print(f"farflung: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
