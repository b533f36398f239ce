"""MB/s of text per core of `farflung data prepare` by format, beside what others would pick.

    python benchmarks/data_prepare.py [--mb 20] [--runs 5] [--text FILE ...] [--vocab 32768]

Text: the shipped corpus, cut into documents of some kilobytes and written again and again until
there are `--mb` megabytes, with words drawn from a long tail put in, so that a cache of words has
new ones to learn all the time (`--tail` of all words; real web text has 3 to 5 % that it has not
met before). Or `--text`: your own .jsonl.

Everything runs on one core (sched_setaffinity), one process, no threads; processor time, not
wall-clock, and the best of `--runs`: other programs may share the machine. Peers, in the same run:

- tokenizers: `encode_batch_fast` of the documents, already in memory: the library's upper bound,
  with the ids taken out of it;
- datasets: `load_dataset` of the same file, `map` with the same tokenizer (batched, 1 process).

Goal: 10 MB/s.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import gzip
import json
import lzma
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from farflung.data.corpus import documents
from farflung.data.prepare import prepare_inputs
from farflung.data.reading import FileList, Reading
from farflung.data.tokenizer import Tokenizer, load_tokenizer
from farflung.data.train_tokenizer import END_OF_TEXT, train

GOAL = 10.0
FORMATS = ("txt", "jsonl", "jsonl.gz", "jsonl.zst", "jsonl.bz2", "jsonl.xz", "csv", "parquet")


def made_up(rng: random.Random) -> str:
    """A word that hardly comes twice."""
    return "".join(rng.choice(("ba", "ke", "lo", "mi", "nur", "sta", "tre")) for _ in range(5))


def texts(mb: int, tail: float) -> Iterator[str]:
    rng, size = random.Random(0), 0
    while True:
        for work in documents():
            for start in range(0, len(work.text), 4000):
                words = work.text[start : start + 4000].split(" ")
                for _ in range(int(len(words) * tail)):
                    words[rng.randrange(len(words))] = made_up(rng)
                text = " ".join(words)
                yield text
                size += len(text)
                if size > mb * 1e6:
                    return


def write_all(folder: Path, found: list[str]) -> dict[str, Path]:
    import pyarrow as pa
    import zstandard
    from pyarrow import parquet

    lines = "".join(json.dumps({"text": t}) + "\n" for t in found).encode()
    contents: dict[str, Callable[[], bytes]] = {
        "txt": lambda: "".join(found).encode(),
        "jsonl": lambda: lines,
        "jsonl.gz": lambda: gzip.compress(lines),
        "jsonl.zst": lambda: zstandard.ZstdCompressor().compress(lines),
        "jsonl.bz2": lambda: bz2.compress(lines),
        "jsonl.xz": lambda: lzma.compress(lines, preset=1),
    }
    paths = {name: folder / f"text.{name}" for name in FORMATS}
    for name, content in contents.items():
        paths[name].write_bytes(content())
    with paths["csv"].open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([t] for t in found)
    parquet.write_table(pa.table({"text": found}), paths["parquet"])
    return paths


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def ours(path: Path, tokenizer: Callable[[], Tokenizer], folder: Path) -> float:
    out = Path(tempfile.mkdtemp(dir=folder))
    chosen = tokenizer()  # with an empty cache
    reading = Reading(inputs=[FileList([str(path)])])
    return seconds(
        lambda: prepare_inputs(
            reading, chosen, 1024, out, say=lambda _: None, progress=lambda _: None
        )
    )


def plain(found: list[str], content: bytes) -> float:
    """The library alone."""
    from tokenizers import Tokenizer as Engine

    engine = Engine.from_str(content.decode())

    def encode() -> None:
        for start in range(0, len(found), 256):
            for e in engine.encode_batch_fast(found[start : start + 256]):
                len(e.ids)

    return seconds(encode)


def mapped(path: Path, content: bytes, folder: Path) -> float:
    import datasets
    from tokenizers import Tokenizer as Engine

    engine = Engine.from_str(content.decode())
    builder = {"txt": "text", "csv": "csv", "parquet": "parquet"}.get(path.suffix[1:], "json")

    def encode(rows: dict[str, list[str]]) -> dict[str, Any]:
        return {"ids": [e.ids for e in engine.encode_batch_fast(rows["text"])]}

    def work() -> None:
        rows = datasets.load_dataset(
            builder, data_files=str(path), split="train", cache_dir=tempfile.mkdtemp(dir=folder)
        )
        rows.map(encode, batched=True, remove_columns=["text"])

    return seconds(work)


def run(options: argparse.Namespace) -> dict[str, Any]:
    if options.text:
        found = [json.loads(line)["text"] for p in options.text for line in p.open()]
    else:
        found = list(texts(options.mb, options.tail))
    size_mb = sum(len(t.encode()) for t in found) / 1e6
    print(f"{size_mb:.0f} MB in {len(found):,} documents; a tokenizer of {options.vocab:,}")
    content = train(found[::4], options.vocab, END_OF_TEXT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_all(folder, found)
        trained = folder / "t.json"
        trained.write_bytes(content)
        jsonl, named = paths["jsonl"], f"{options.vocab:,}"

        def mine(path: Path, tokenizer: str) -> Callable[[], float]:
            return lambda: ours(path, partial(load_tokenizer, tokenizer), folder)

        works = {f"farflung {named} {f}": mine(paths[f], str(trained)) for f in FORMATS}
        works["farflung 1,024 jsonl"] = mine(jsonl, "bpe-1024")
        works["farflung bytes jsonl"] = mine(jsonl, "bytes")
        works[f"tokenizers {named}, from memory"] = partial(plain, found, content)
        for form in ("jsonl", "jsonl.zst", "csv", "parquet"):
            works[f"datasets.map {named} {form}"] = partial(mapped, paths[form], content, folder)
        best = dict.fromkeys(works, float("inf"))
        for _ in range(options.runs):  # round by round: each one meets every load of the machine
            for what, work in works.items():
                best[what] = min(best[what], work())
    for what, took in best.items():
        print(f"{what:36s} {size_mb / took:6.1f} MB/s")
    return {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "mb": size_mb,
        "goal_mb_per_s": GOAL,
        "rows": [{"what": w, "mb_per_s": size_mb / took} for w, took in best.items()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tail", type=float, default=0.03)
    parser.add_argument("--text", type=Path, nargs="*", default=[])
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data_prepare.json"))
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when the libraries begin to work
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    result = run(options)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
