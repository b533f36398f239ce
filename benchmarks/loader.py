"""Tokens per second of the loader against a local folder: order by blocks, single rows, DataLoader.

    python benchmarks/loader.py                  # 1 GiB of rows of 8,192 tokens
    python benchmarks/loader.py --gib 8 --folder /data/bench

Every arm reads the same number of batches from the same files, once with a cold page cache (where
the system lets it go) and once with a warm one. A loader does nothing but load: a trainer computes
meanwhile. "as trained" leaves the loop 20 ms per batch, as if it computed, and counts how long it
waited for rows beyond that.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from farflung.config.load import from_table
from farflung.config.run import RunSpec, rows_of_block
from farflung.data.manifest import MANIFEST_FILE, DataManifest, File, Shard, encode_manifest
from farflung.data.order import permute, round_keys
from farflung.data.row_reader import RowReader
from farflung.data.samples import Places, SampleOrder
from farflung.data.shards import RowTable, open_rows
from farflung.hashing import digest

SEQ_LEN = 8192
BATCH = 32
SHARD_ROWS = 4096
COMPUTE_S = 0.02


def make_folder(folder: Path, rows: int) -> None:
    """Random token ids in the format of `farflung data prepare`."""
    rng, shards = np.random.default_rng(0), []
    chunk = rows_of_block(SEQ_LEN)
    for number, first in enumerate(range(0, rows, SHARD_ROWS)):
        n = min(SHARD_ROWS, rows - first)
        tokens = rng.integers(0, 1 << 15, (n, SEQ_LEN + 1), np.uint16)
        hashes = [digest(tokens[i : i + chunk].tobytes()) for i in range(0, n, chunk)]
        stem = f"train-{number:05d}"
        shards.append(
            Shard(
                rows=n,
                text_bytes=0,
                tokens=_write(folder / f"{stem}.bin", tokens.tobytes()),
                lengths=_write(folder / f"{stem}.len", bytes(4 * n)),
                chunks=_write(folder / f"{stem}.b3", b"".join(hashes)),
            )
        )
    manifest = DataManifest(
        seq_len=SEQ_LEN,
        vocab=1 << 15,
        eos=0,
        dtype="uint16",
        chunk_rows=chunk,
        train=tuple(shards),
        held_out=(),
        tokenizer=None,
        held_out_fraction=0.0,
        provenance="random",
    )
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))


def _write(path: Path, data: bytes) -> File:
    path.write_bytes(data)
    return File(file=path.name, hash=digest(data).hex(), n_bytes=len(data))


def drop_cache(folder: Path) -> None:
    """Ask the system to forget the pages of all files."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


# ---- arms ------------------------------------------------------------------------------------


def by_blocks(folder: Path, spec: RunSpec, batches: int) -> Iterator[object]:
    """What farflung's trainer does."""
    rows = open_rows(folder, verify=False)
    order = SampleOrder(spec, [len(rows.train)])
    reader = RowReader(folder, rows.chunks, window_blocks=spec.data.window_blocks)
    reader.expect(Places(order, range(batches * BATCH)))
    for first in range(0, batches * BATCH, BATCH):
        yield reader.gather([order.locate(p) for p in range(first, first + BATCH)])
    reader.close()


def single_rows(folder: Path, _: RunSpec, batches: int) -> Iterator[object]:
    """The order before blocks: one permutation of all rows, read from the map."""
    table = open_rows(folder, verify=False).train
    keys = round_keys("single", 0, 0)
    for first in range(0, batches * BATCH, BATCH):
        places = range(first, first + BATCH)
        yield table.gather([permute(p, len(table), keys) for p in places])


class _Mapped(Dataset[torch.Tensor]):
    def __init__(self, table: RowTable, rows: Sequence[int]) -> None:
        self._table, self._rows = table, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self._table[self._rows[index]])


def torch_loader(workers: int) -> Callable[[Path, RunSpec, int], Iterator[object]]:
    def arm(folder: Path, _: RunSpec, batches: int) -> Iterator[object]:
        """Random rows of the same map."""
        table = open_rows(folder, verify=False).train
        rows = np.random.default_rng(1).permutation(len(table))[: batches * BATCH].tolist()
        yield from DataLoader(_Mapped(table, rows), batch_size=BATCH, num_workers=workers)

    return arm


ARMS: dict[str, Callable[[Path, RunSpec, int], Iterator[object]]] = {
    "order by blocks": by_blocks,
    "single rows": single_rows,
    "DataLoader": torch_loader(0),
    "DataLoader, 2 workers": torch_loader(2),
}


def measure(arm: Iterator[object], batches: int) -> float:
    """Tokens per second."""
    began_s = time.perf_counter()
    assert sum(1 for _ in arm) == batches
    return batches * BATCH * SEQ_LEN / (time.perf_counter() - began_s)


def waited(arm: Iterator[object]) -> float:
    """Milliseconds per batch that a loop which computes waits for rows, without the first batch."""
    next(arm)
    total, n = 0.0, 0
    while True:
        time.sleep(COMPUTE_S)
        began_s = time.perf_counter()
        if next(arm, None) is None:
            return 1000 * total / max(1, n)
        total += time.perf_counter() - began_s
        n += 1


def run(folder: Path, rows: int) -> None:
    print(f"{rows:,} rows of {SEQ_LEN:,} tokens, {rows * (SEQ_LEN + 1) * 2 / 2**30:.2f} GiB")
    if not (folder / MANIFEST_FILE).exists():
        make_folder(folder, rows)
    spec = from_table({"data": {"source": "bench", "seq_len": SEQ_LEN}})
    batches = min(rows // BATCH, 1024) // 2
    print(f"{'':24}{'cold tok/s':>14}{'warm tok/s':>14}{'as trained, cold: waits':>26}")
    for name, arm in ARMS.items():
        drop_cache(folder)
        cold = measure(arm(folder, spec, batches), batches)
        measure(arm(folder, spec, batches), batches)
        warm = measure(arm(folder, spec, batches), batches)
        drop_cache(folder)
        late = waited(arm(folder, spec, min(batches, 200)))
        print(f"{name:24}{cold:14,.0f}{warm:14,.0f}{late:20.2f} ms/batch", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=1.0, help="size of the token files")
    parser.add_argument("--folder", type=Path, help="keep the files here and use them again")
    args = parser.parse_args()
    rows = max(4 * BATCH, int(args.gib * 2**30) // (2 * (SEQ_LEN + 1)))
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
        run(args.folder, rows)
        return
    with tempfile.TemporaryDirectory(prefix="farflung-loader-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        run(data, rows)


if __name__ == "__main__":
    main()
