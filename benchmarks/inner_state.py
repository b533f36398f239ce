"""What a joiner's first rounds cost: fresh inner state against a donor's. No swarm, one process.

    python benchmarks/inner_state.py [--steps 200] [--joins 5] [--size tiny] [--out FILE.json]

One peer trains alone on the demo's corpus. At several points its weights are handed to joiners,
which train the same next H = 20 steps on the same rows: with the state of the donor's optimizer,
saved and loaded as in a run; fresh, with the ramp of `inner.join_warmup_steps`; fresh without a
ramp. Compared with the donor itself: held-out loss after H steps, and the cosine between the
joiner's and the donor's change of the weights. Also: how long training stands still for a save
(the copy), and the file's size.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from farflung.cli.demo import demo_spec
from farflung.data.ensure import shipped_folder
from farflung.inner.built_in import BuiltIn, build, use_threads
from farflung.inner.channel import SaveInner
from farflung.inner.flat import FlatParameters
from farflung.inner.loss import evaluate
from farflung.inner.optimizer import set_lr_factor
from farflung.inner.optimizer_state import OptimizerStateIo, install
from farflung.inner.schedule import join_ramp
from farflung.inner.step import inner_step

WAYS = ("donor", "fresh with ramp", "fresh without ramp")
H = 20
HELD_OUT_ROWS = 64


class Run:
    """One peer that trains alone, and the joiners that branch off."""

    def __init__(self, size: str, folder: Path) -> None:
        self.folder = folder
        spec = demo_spec(2, 50, size, 0, "results")
        self._data = shipped_folder(spec.data, folder / "cache")
        self.donor = build(spec, self._data, fresh=True)
        self.position = 0

    def train(self, built: BuiltIn, steps: int, ramp: int | None = None) -> None:
        """Peak rate, or from `ramp` on the joiner's ramp. Rows follow from `self.position`."""
        inner = built.spec.inner
        for i in range(steps):
            set_lr_factor(built.optimizer, 1.0 if ramp is None else join_ramp(ramp + i, inner))
            first = self.position + i * inner.batch_rows
            tokens_BT, targets_BT = built.batch(range(first, first + inner.batch_rows))
            rows = inner.batch_rows
            inner_step(built.model, built.optimizer, tokens_BT, targets_BT, inner, rows)

    def skip(self, steps: int) -> None:
        self.position += steps * self.donor.spec.inner.batch_rows

    def joiner(self) -> BuiltIn:
        """The donor's weights under an optimizer of its own."""
        made = build(self.donor.spec, self._data, fresh=False)
        made.model.load_state_dict(self.donor.model.state_dict())
        return made

    def held_out(self, built: BuiltIn) -> float:
        """Nats per token."""
        assert built.rows is not None
        table = built.rows.held_out
        rows = (table[i] for i in range(min(HELD_OUT_ROWS, len(table))))
        return evaluate(built.model, rows, table.text_bytes)[0]


def weights(built: BuiltIn) -> np.ndarray[Any, np.dtype[np.float32]]:
    flat = FlatParameters(built.model)
    out = np.empty(flat.size, np.float32)
    flat.read([(0, flat.size)], out)
    return out


def cosine(a: Any, b: Any) -> float:
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def save(run: Run) -> tuple[Path, float]:
    """(file, seconds for which the training thread was held up)."""
    path, notes = run.folder / "donor.state", list[str]()
    donor = run.donor
    state_io = OptimizerStateIo(
        FlatParameters(donor.model), donor.optimizer, lambda answer: notes.append(answer.note)
    )
    state_io.ask(SaveInner(serial=1, path=str(path)))
    began = time.perf_counter()
    state_io.serve(0)
    held_up = time.perf_counter() - began
    while not notes:
        time.sleep(0.01)
    assert notes == [""], notes
    return path, held_up


def one_join(run: Run) -> dict[str, Any]:
    """Branch the three joiners off, then let the donor train the same steps."""
    path, held_up = save(run)
    start = weights(run.donor)
    ends: dict[str, tuple[float, Any]] = {}
    for way in WAYS:
        joiner = run.joiner()
        if way == "donor":
            install(FlatParameters(joiner.model), joiner.optimizer, path)
        run.train(joiner, H, ramp=0 if way == "fresh with ramp" else None)
        ends[way] = (run.held_out(joiner), weights(joiner) - start)
    run.train(run.donor, H)
    run.skip(H)
    reference, moved = run.held_out(run.donor), weights(run.donor) - start
    return {
        "held_up_s": held_up,
        "file_bytes": path.stat().st_size,
        "donor_loss": reference,
        "ways": {
            way: {"excess": loss - reference, "cosine": cosine(change, moved)}
            for way, (loss, change) in ends.items()
        },
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    use_threads()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(options.size, Path(folder))
        joins: list[dict[str, Any]] = []
        for _ in range(options.joins):
            run.train(run.donor, options.steps // options.joins)
            run.skip(options.steps // options.joins)
            joins.append(one_join(run))
    return {
        "machine": f"{platform.machine()}, torch {torch.__version__}",
        "preset": options.size,
        "inner_steps": H,
        "joins": joins,
        "held_up_s": statistics.median(j["held_up_s"] for j in joins),
        "file_bytes": joins[0]["file_bytes"],
        "ways": {
            way: {
                key: statistics.fmean(j["ways"][way][key] for j in joins)
                for key in ("excess", "cosine")
            }
            for way in WAYS
        },
    }


def show(result: dict[str, Any]) -> None:
    print(f"after H = {H} steps, mean of {len(result['joins'])} joins:")
    print(f"{'':20s} {'held-out excess, nats/token':>28s} {'cosine with donor':>18s}")
    for way, row in result["ways"].items():
        print(f"{way:20s} {row['excess']:28.4f} {row['cosine']:18.4f}")
    print(
        f"a save holds training up for {1000 * result['held_up_s']:.1f} ms "
        f"and writes {result['file_bytes'] / 2**20:.1f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--steps", type=int, default=200, help="of the donor, before the last join")
    parser.add_argument("--joins", type=int, default=5)
    parser.add_argument("--size", default="tiny", help="model preset")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/inner_state.json"))
    options = parser.parse_args()
    result = measure(options)
    show(result)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
