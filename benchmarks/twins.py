"""Do deaths cost loss? A torch run with kills beside fault-free twins at equal credited tokens.

    python benchmarks/twins.py [--rounds 50] [--peers 3] [--seeds 5] [--kill-every 4]
                               [--faulty 1] [--device auto] [--jobs 1] [--report twins.json]

The demo's model and corpus. Twins differ in the seed of weights and sample order. The faulty run
has a seed of its own: every few rounds one peer is killed (SIGKILL, in turn) and started again one
commit later, and once, half way, coordinator and keeper. All runs end at the same number of
credited tokens (`outer.tokens`, to within one round), are recomputed by `verify`, and are judged
by bits per byte of the final weights on all held-out text.

The band is the 95 % prediction interval for one more fault-free run, from n twins of mean m and
standard deviation s: m +- t(0.975, n - 1) s sqrt(1 + 1/n). A faulty run inside it cannot be told
from a fault-free one. Exit code 1: outside, or samples duplicated or lost.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "process"))

from torch_runs import Faults, Outcome, play, round_tokens, twin_spec

from farflung.config.run import RunSpec

T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)
"""97.5 % quantile of Student's t for 1, 2, ... degrees of freedom."""


def band(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % prediction interval for one more observation. Takes 2 to 21 values."""
    n = len(values)
    half = T_975[n - 2] * statistics.stdev(values) * math.sqrt(1 + 1 / n)
    mean = statistics.fmean(values)
    return mean - half, mean + half


def plans(options: argparse.Namespace) -> list[tuple[RunSpec, Faults | None]]:
    """The faulty runs first: they last longest."""

    def spec(seed: int) -> RunSpec:
        return twin_spec(
            peers=options.peers,
            rounds=options.rounds,
            seed=seed,
            size=options.size,
            inner_steps=options.inner_steps,
            rows=options.batch_rows,
        )

    host_at = (options.rounds // 2,) if options.host_kill else ()
    faulty: list[tuple[RunSpec, Faults | None]] = [
        (spec(s), Faults(kill_every=options.kill_every, host_at=host_at, seed=s))
        for s in range(options.seeds, options.seeds + options.faulty)
    ]
    return faulty + [(spec(s), None) for s in range(options.seeds)]


def run(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Play all runs, `--jobs` at a time."""
    began_s = time.monotonic()

    def one(plan: tuple[RunSpec, Faults | None]) -> Outcome:
        spec, faults = plan
        kind = "faulty" if faults else "twin"
        outcome = play(root / f"{kind}-{spec.seed}", spec, faults)
        print(f"{kind:6s} {line(outcome)}", flush=True)
        return outcome

    planned = plans(options)
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = list(pool.map(one, planned))
    faulty, twins = outcomes[: options.faulty], outcomes[options.faulty :]
    low, high = band([o.bits_per_byte for o in twins])
    spec = planned[0][0]
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device_name(options.device)}",
        "preset": options.size,
        "peers": options.peers,
        "target_tokens": spec.outer.tokens,
        "round_tokens": round_tokens(spec),
        "inner_steps": spec.outer.inner_steps,
        "batch_rows": spec.inner.batch_rows,
        "kill_every": options.kill_every,
        "mean_bpb": statistics.fmean(o.bits_per_byte for o in twins),
        "stdev_bpb": statistics.stdev(o.bits_per_byte for o in twins),
        "band_95": [low, high],
        "faulty_bpb": [o.bits_per_byte for o in faulty],
        "inside": [low <= o.bits_per_byte <= high for o in faulty],
        "equal_tokens": all(
            0 <= o.tokens - spec.outer.tokens <= round_tokens(spec) for o in outcomes
        ),
        "duplicated": sum(o.duplicated for o in outcomes),
        "lost": sum(o.lost for o in outcomes),
        "all_steps_recomputed": all(o.steps_recomputed == o.rounds for o in outcomes),
        "seconds": time.monotonic() - began_s,
        "faulty": [dataclasses.asdict(o) for o in faulty],
        "twins": [dataclasses.asdict(o) for o in twins],
    }


def line(o: Outcome) -> str:
    present = statistics.fmean(o.contributors)
    return (
        f"seed {o.seed:2d}  bits/byte {o.bits_per_byte:.4f}  tokens {o.tokens:,}  "
        f"rounds {o.rounds} ({o.abandoned} abandoned)  contributors {present:.2f}  "
        f"killed {o.peers_killed} peers {o.hosts_killed} hosts  {o.seconds:.0f} s"
    )


def show(result: dict[str, Any]) -> None:
    low, high = result["band_95"]
    print(
        f"twins: mean {result['mean_bpb']:.4f}, standard deviation {result['stdev_bpb']:.4f}, "
        f"95 % band [{low:.4f}, {high:.4f}] bits/byte"
    )
    for value, inside in zip(result["faulty_bpb"], result["inside"], strict=True):
        print(f"faulty: {value:.4f}, {'inside' if inside else 'OUTSIDE'} the band")
    print(
        f"tokens equal to one round: {'yes' if result['equal_tokens'] else 'NO'}; duplicated "
        f"{result['duplicated']}, lost {result['lost']}; all steps recomputed: "
        f"{'yes' if result['all_steps_recomputed'] else 'NO'}; {result['seconds']:.0f} s"
    )


def device_name(device: str) -> str:
    """Where the trainers run. SystemExit when it was asked for and is not there."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    if device == "cuda":
        raise SystemExit("--device cuda, but torch finds no GPU here; use --device cpu")
    return "cpu"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=50, help="full rounds' worth of tokens")
    parser.add_argument("--peers", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5, help="fault-free twins, 2 to 21")
    parser.add_argument("--faulty", type=int, default=1, help="runs with kills, each its own seed")
    parser.add_argument("--kill-every", type=int, default=4, help="rounds between peer kills")
    parser.add_argument("--host-kill", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--size", default="demo", help="model preset")
    parser.add_argument("--inner-steps", type=int, default=0, help="H; 0: the demo's")
    parser.add_argument("--batch-rows", type=int, default=0, help="0: the demo's")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, help="keep all state and logs below this folder")
    parser.add_argument("--report", type=Path, help="write everything as JSON to this file")
    options = parser.parse_args()
    if not 2 <= options.seeds <= len(T_975) + 1 or min(options.peers, options.rounds) < 2:
        parser.error("--seeds must be 2 to 21, --peers and --rounds at least 2")
    if min(options.faulty, options.kill_every, options.jobs) < 1:
        parser.error("--faulty, --kill-every and --jobs must be at least 1")
    return options


def main() -> int:
    options = parse()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    device_name(options.device)
    if options.out is not None:
        result = run(options, options.out)
    else:
        with tempfile.TemporaryDirectory(prefix="farflung-twins-") as folder:
            result = run(options, Path(folder))
    show(result)
    if options.report is not None:
        options.report.write_text(json.dumps(result, indent=2) + "\n")
    good = all(result["inside"]) and result["equal_tokens"] and result["all_steps_recomputed"]
    return 0 if good and not result["duplicated"] and not result["lost"] else 1


if __name__ == "__main__":
    sys.exit(main())
