"""Speed of the codecs on one thread, next to a plain torch quantiser in the same run.

    python benchmarks/codecs.py [--elements 16777216] [--repeats 5] [--out benchmarks/codecs.json]

Prints one table, in GB of fp32 input per second, and writes the same numbers as one JSON. Every
codec walks over chunks of 65,536 elements, as a peer does. "torch naive" is the int8 rule (blocks
of 256, absmax / 127) written as whole-tensor torch expressions. Each number is the best of
`repeats`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from farflung.outer.codecs import CODECS, Codec

Float32 = npt.NDArray[np.float32]

CHUNK = 65_536
BLOCK = 256


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def relative_error(values: Float32, x: Float32) -> float:
    """||values - x||^2 / ||x||^2."""
    return float(np.sum((values - x) ** 2, dtype=np.float64) / np.sum(x**2, dtype=np.float64))


def row(
    name: str, x: Float32, n_bytes: int, encode_s: float, decode_s: float, values: Float32
) -> dict[str, Any]:
    return {
        "codec": name,
        "encode_gb_s": x.nbytes / encode_s / 1e9,
        "decode_gb_s": x.nbytes / decode_s / 1e9,
        "bits_per_element": 8 * n_bytes / x.size,
        "relative_squared_error": relative_error(values, x),
    }


def measure_codec(codec: Codec, x: Float32, repeats: int) -> dict[str, Any]:
    cuts = [slice(at, at + CHUNK) for at in range(0, x.size, CHUNK)]
    out = np.zeros_like(x)
    wires = [codec.encode(x[cut]) for cut in cuts]

    def decode() -> None:
        for wire, cut in zip(wires, cuts, strict=True):
            codec.decode(wire, out[cut])

    encode_s = best_seconds(lambda: [codec.encode(x[cut]) for cut in cuts], repeats)
    decode_s = best_seconds(decode, repeats)
    return row(codec.name, x, sum(map(len, wires)), encode_s, decode_s, out)


def measure_torch(x: Float32, repeats: int) -> dict[str, Any]:
    blocks = torch.from_numpy(x).view(-1, BLOCK)

    def encode() -> tuple[torch.Tensor, torch.Tensor]:
        scale = blocks.abs().amax(dim=1, keepdim=True) / 127
        return (blocks / scale.clamp_min(2.0**-126)).round().clamp(-127, 127).to(torch.int8), scale

    codes, scale = encode()
    encode_s = best_seconds(encode, repeats)
    decode_s = best_seconds(lambda: codes.float() * scale, repeats)
    values = (codes.float() * scale).view(-1).numpy()
    return row("torch naive int8", x, codes.nbytes + scale.nbytes, encode_s, decode_s, values)


def print_table(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'codec':18} {'encode GB/s':>12} {'decode GB/s':>12} {'bits/elem':>10} {'rel.err²':>10}"
    )
    for r in rows:
        print(
            f"{r['codec']:18} {r['encode_gb_s']:12.2f} {r['decode_gb_s']:12.2f} "
            f"{r['bits_per_element']:10.3f} {r['relative_squared_error']:10.2e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the codecs, one thread.")
    parser.add_argument("--elements", type=int, default=1 << 24, help="a multiple of 256")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("codecs.json"))
    options = parser.parse_args()
    if options.elements < BLOCK or options.elements % BLOCK:
        parser.error(f"--elements {options.elements} must be a multiple of {BLOCK}")
    torch.set_num_threads(1)
    x = np.random.default_rng(0).standard_normal(options.elements, dtype=np.float32)
    rows = [measure_codec(codec, x, options.repeats) for codec in CODECS.values()]
    rows.append(measure_torch(x, options.repeats))
    print_table(rows)
    report = {
        "elements": options.elements,
        "repeats": options.repeats,
        "machine": platform.machine(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "rows": rows,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
