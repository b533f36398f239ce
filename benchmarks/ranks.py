"""A peer of several GPUs: steps, copies of fragments, and a rank that is killed.

    python benchmarks/ranks.py --out ranks.json                # all parts, on two GPUs
    python benchmarks/ranks.py --parts 1b,10b --gpus 2
    python benchmarks/ranks.py --tiny                          # the same code on CPUs, over Gloo

    1b      tokens/s of one and of all GPUs for the same batch, and copies of a fragment
    10b     steps of INTELLECT-1's size, as many blocks recomputed as memory asks for
    kill    a real swarm of two peers, one of them in ranks: SIGKILL to one rank, and the seconds
            until that peer contributes again; afterwards all state hashes must be equal

A case runs in processes of its own. One that runs out of memory is started again, as an agent
would, and takes the next smaller step. MFU counts 6 N + 12 L d T over the bf16 peak of all GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from farflung.config.run import InnerSpec
from farflung.inner.channel import ENV_STORE
from farflung.inner.feed import Feed
from farflung.inner.flat import FlatParameters, shard_of
from farflung.inner.flops import utilisation
from farflung.inner.late import LateValue
from farflung.inner.meter import device_name, memory_bytes
from farflung.inner.optimizer import build_optimizer
from farflung.inner.options import StepOptions
from farflung.inner.pinned import register
from farflung.inner.seam import SharedState
from farflung.inner.shards import RankPlace, place_from_environment
from farflung.inner.step import Stepper
from farflung.model.llama import Llama
from farflung.model.presets import flops_per_token, preset
from farflung.outer.fragments import make_fragments
from farflung.outer.layout import Layout

WARM_STEPS = 3
TRIES = 3
CASE_S = 200.0


@dataclass(frozen=True, kw_only=True)
class RankCase:
    preset: str
    seq_len: int
    rows: int
    """Of a step, all ranks together."""
    steps: int
    optimizer: str = "adamw"
    fragments: int = 4
    copies: bool = False


CASES = {
    "1b": RankCase(preset="1b", seq_len=8192, rows=16, steps=8, copies=True),
    "1b-32": RankCase(preset="1b", seq_len=8192, rows=32, steps=5),
    "1b-muon": RankCase(preset="1b", seq_len=8192, rows=32, steps=4, optimizer="muon"),
    "10b": RankCase(preset="10b", seq_len=8192, rows=8, steps=3),
    "tiny": RankCase(preset="demo", seq_len=64, rows=8, steps=3, fragments=2, copies=True),
    "tiny-muon": RankCase(preset="demo", seq_len=64, rows=8, steps=3, optimizer="muon"),
}


# ---- one rank ------------------------------------------------------------------------------


def work(name: str, node: Path) -> dict[str, Any]:
    """Of one rank; only the leader's answer counts."""
    case, place = CASES[name], place_from_environment()
    config = preset(case.preset, seq_len=case.seq_len)
    inner = InnerSpec(optimizer=case.optimizer, batch_rows=case.rows, lr=1e-4, muon_lr=0.01)  # type: ignore[arg-type]
    options = StepOptions(node=node)
    model, stepper, optimizer, device = _built(place, config, inner, options)
    feed = Feed(lambda positions: _rows(positions, config.vocab, case.seq_len), device)
    loss, started_s = LateValue(0.0), time.perf_counter()
    first_s = 0.0
    for step in range(WARM_STEPS + case.steps):
        batch = place.part(range(step * case.rows, (step + 1) * case.rows))
        outcome = stepper(*feed.take(batch))
        loss.read()
        loss = LateValue(outcome.loss)
        if step == 0:
            _wait(device)
            first_s = time.perf_counter() - started_s
        if step == WARM_STEPS - 1:
            _wait(device)
            started_s = time.perf_counter()
    _wait(device)
    step_s = (time.perf_counter() - started_s) / case.steps
    tokens = case.rows * case.seq_len
    flops, gpu = flops_per_token(config), device_name(device)
    found = {
        "case": name,
        "ranks": place.world,
        "device": gpu,
        "rows": case.rows,
        "micro_rows": stepper.size.micro_rows,
        "recomputed": stepper.size.checkpointed,
        "tokens_per_s": tokens / step_s,
        "mfu": utilisation(flops, tokens // place.world, step_s, gpu),
        "step_s": step_s,
        "first_step_s": first_s,
        "memory_gib": memory_bytes(device) / 2**30,
        "loss": loss.read(),
    }
    if case.copies:
        found |= _copies(model, place, device, case.fragments)
    del optimizer
    return found


def _built(place: RankPlace, config: Any, inner: InnerSpec, options: StepOptions) -> Any:
    if place.world == 1:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with torch.device(device):
            model = Llama(config)
    else:
        from farflung.inner.parallel import sharded_model, start_ranks
        from farflung.inner.rank_step import RankStepper

        device = start_ranks(place)
        model = sharded_model(config, device, place.world)
    torch.manual_seed(place.rank)
    with torch.no_grad():  # products of zeros would be faster than real ones
        for parameter in model.parameters():
            here = shard_of(parameter)
            here.normal_(0.0, 0.02) if parameter.ndim > 1 else here.fill_(1.0)
    optimizer = build_optimizer(model, inner)
    if place.world == 1:
        return model, Stepper(model, optimizer, inner, options, device), optimizer, device
    return model, RankStepper(model, optimizer, inner, options, device), optimizer, device


def _rows(positions: Sequence[int], vocab: int, length: int) -> np.ndarray:
    drawn = [np.random.default_rng(p).integers(vocab, size=16, dtype=np.int64) for p in positions]
    return np.stack([np.resize(phrase, length + 1) for phrase in drawn])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if place_from_environment().world > 1:
        torch.distributed.barrier()


def _copies(
    model: Llama, place: RankPlace, device: torch.device, fragments: int
) -> dict[str, float]:
    """GB/s of all ranks together, the best of five: one fragment out and in, and one plain pinned
    copy of the same bytes."""
    flat = FlatParameters(model, place=place)
    layout = Layout.from_entries(flat.entries)
    cut = make_fragments(layout, fragments)
    shared = SharedState.create(flat.size, cut, 1, memfd=True)
    started_s = time.perf_counter()
    pinned = register(shared.buffers, device)
    register_s = time.perf_counter() - started_s
    n_bytes = 4 * shared.elements(0)
    mine = sum(b - a for a, b in flat.here(cut[0]))
    source = torch.empty(mine, device=device).normal_()
    target = torch.from_numpy(shared.sent(0, 0))[:mine]

    def out() -> None:
        if pinned:
            flat.read_pinned(cut[0], shared.sent(0, 0))
        else:
            flat.read(cut[0], shared.sent(0, 0))

    def back() -> None:
        flat.land(cut[0], "carry", shared.land(0, 0))

    def ceiling() -> None:
        target.copy_(source, non_blocking=True)

    timed = {"out": _best(out, device), "in": _best(back, device), "pinned": _best(ceiling, device)}
    return {
        "fragment_gib": n_bytes / 2**30,
        "register_s": register_s,
        **{f"{key}_gb_per_s": n_bytes / seconds / 1e9 for key, seconds in timed.items()},
    }


def _best(act: Any, device: torch.device) -> float:
    taken = []
    for _ in range(5):
        _wait(device)
        started_s = time.perf_counter()
        act()
        _wait(device)
        taken.append(time.perf_counter() - started_s)
    return min(taken)


def rank_main(name: str, node: Path) -> None:
    try:
        found = work(name, node)
    except torch.OutOfMemoryError as error:
        print(str(error).splitlines()[0], file=sys.stderr, flush=True)
        os._exit(3)  # the other ranks are in a collective
    if place_from_environment().leads:
        (node / f"{name}.json").write_text(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


# ---- cases ---------------------------------------------------------------------------------


def play(name: str, ranks: int, node: Path) -> dict[str, Any]:
    """Start the ranks of a case, again while it runs out of memory and knows a smaller size."""
    for attempt in range(TRIES):
        codes = _ranks_of(name, ranks, node, attempt)
        if codes == [0] * ranks:
            return dict(json.loads((node / f"{name}.json").read_text()), tries=attempt + 1)
        if 3 not in codes:
            break
    log = "\n".join((node / f"{name}.{r}.log").read_text()[-1500:] for r in range(ranks))
    return {"case": name, "ranks": ranks, "failed": codes, "log": log}


def _ranks_of(name: str, ranks: int, node: Path, attempt: int) -> list[int]:
    started = []
    for rank in range(ranks):
        log = (node / f"{name}.{rank}.log").open("wb")
        of_rank = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            ENV_STORE: str(node / f"store-{name}-{attempt}"),
        }
        started.append(
            subprocess.Popen(
                [sys.executable, __file__, "--rank-of", name, "--node", str(node)],
                env=os.environ | (of_rank if ranks > 1 else {}),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        )
    end_s = time.monotonic() + CASE_S
    while any(p.poll() is None for p in started) and time.monotonic() < end_s:
        if any(p.returncode for p in started):
            time.sleep(1.0)  # others may tell the same
            break
        time.sleep(0.2)
    for process in started:
        process.kill()
    return [process.wait() for process in started]


# ---- a rank is killed ----------------------------------------------------------------------


def kill(root: Path, ranks: int, *, tiny: bool) -> dict[str, Any]:
    """Two peers, the first in ranks: kill one, and see when its peer contributes again."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "process"))
    from processes import Swarm, until

    from farflung.config.load import from_table
    from farflung.events import Applied

    spec = from_table(
        {
            "name": "kill",
            "model": {"preset": "demo" if tiny else "150m"},
            "data": {"source": "synthetic", "rows": 1_000_000, "seq_len": 64 if tiny else 1024},
            "inner": {"batch_rows": 8 if tiny else 64},
            "outer": {
                "rounds": 100_000,
                "inner_steps": 10,
                "merge": "carry",
                "fragments": 2,
                "window": 2,
            },
            "swarm": {"start_peers": 2, "snapshot_every": 5},
        }
    )
    several = ("--ranks", str(ranks))
    single: tuple[str, ...] = ()
    if not tiny:
        several, single = ("--gpus", ",".join(map(str, range(ranks)))), ("--gpus", str(ranks - 1))
        os.environ["FARFLUNG_GPU_SHARE"] = "0.45"

    def applied(name: str) -> list[tuple[float, dict[str, Any]]]:
        path = swarm.folder(name) / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines if '"Applied"' in line]
        return [(e["wall"], e) for e in found if e["contributed"]]

    with Swarm(root, spec) as swarm:
        swarm.host()
        swarm.join("a", *several)
        swarm.join("b", *single)
        until(lambda: len(applied("a")) >= 4, "a contributes in four rounds", 240)
        victim = _rank_of(swarm.home("a"), ranks - 1)
        killed = time.time()
        os.kill(victim, signal.SIGKILL)
        restarted = b'"kind": "TrainerRestarted"'
        until(lambda: swarm.counted("a", restarted), "a's trainer is started again", 60)
        told = time.time()
        until(lambda: applied("a")[-1][0] > told, "a contributes again", 240)
        again = next(wall for wall, _ in applied("a") if wall > told)
        swarm.more(2, 120)
        swarm.kill_all()
        roots = [{e.round: e.state_root for e in swarm.events(n, Applied)} for n in ("a", "b")]
        shared = set(roots[0]) & set(roots[1])
        return {
            "case": "kill",
            "ranks": ranks,
            "noticed_s": told - killed,
            "contributes_again_s": again - killed,
            "rounds": len(shared),
            "hashes_equal": all(roots[0][r] == roots[1][r] for r in shared),
        }


def _rank_of(home: Path, rank: int) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                env = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"RANK={rank}".encode() in env and f"FARFLUNG_HOME={home}".encode() in env:
                return int(entry.name)
    raise SystemExit(f"no rank {rank} of {home} runs")


# ---- all -----------------------------------------------------------------------------------


def show(found: dict[str, Any]) -> None:
    shown = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in found.items() if k != "log"}
    print("  ".join(f"{k}={v}" for k, v in shown.items()), flush=True)
    if "log" in found:
        print(found["log"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="1b,10b,kill", help="of 1b, 1b-32, 1b-muon, 10b, kill")
    parser.add_argument("--gpus", type=int, default=2, help="ranks of the larger peer")
    parser.add_argument("--tiny", action="store_true", help="on CPUs, over Gloo")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--rank-of", default="", help=argparse.SUPPRESS)
    parser.add_argument("--node", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_of:
        rank_main(args.rank_of, args.node)
    parts = ["tiny", "tiny-muon", "kill"] if args.tiny else args.parts.split(",")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="farflung-ranks-") as text:
        for part in parts:
            worlds = (args.gpus,) if part in ("kill", "10b") else (1, args.gpus)
            for ranks in worlds:
                node = Path(text) / f"{part}-{ranks}"
                node.mkdir()
                try:
                    if part == "kill":
                        found = kill(node, ranks, tiny=args.tiny)
                    else:
                        found = play(part, ranks, node)
                except Exception as error:
                    notes = "\n".join(getattr(error, "__notes__", ()))
                    found = {"case": part, "failed": repr(error), "log": notes[-3000:]}
                results.append(found)
                show(found)
                if args.out:
                    args.out.write_text(json.dumps(results, indent=1) + "\n")
    rates = {(f["case"], f["ranks"]): f["tokens_per_s"] for f in results if "tokens_per_s" in f}
    for (case, ranks), rate in rates.items():
        if ranks > 1 and (case, 1) in rates:
            print(f"{case}: {ranks} GPUs give {rate / rates[case, 1]:.3f} x one")


if __name__ == "__main__":
    main()
