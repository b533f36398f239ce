"""`farflung data`: text to token shards, tokenizers, and a look at what was made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farflung.cli.help import Command, whole_examples
from farflung.cli.loading import harmless
from farflung.errors import ConfigError
from farflung.events import printable
from farflung.words import counted

if TYPE_CHECKING:  # every command loads this module: the agent's start must stay fast
    from farflung.data.manifest import DataManifest
    from farflung.data.reading import Reading

app = typer.Typer(
    help=whole_examples(
        "Prepare text for training.\n\n"
        "Example:\n\n"
        "  farflung data train-tokenizer texts/ --out tokenizer.json\n"
        "  farflung data prepare texts/ --tokenizer tokenizer.json --out my-data"
    ),
    no_args_is_help=True,
)

SMALL_INPUT = 24 << 20
"""Bytes of files for which processes do not pay their start."""

Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders of them, or hf:NAME for a Hugging Face dataset. Kinds: .txt .md "
        ".jsonl .ndjson .json .csv .parquet, each plain or with .gz .zst .bz2 .xz."
    ),
]
TextField = Annotated[
    str, typer.Option("--text-field", help="Field or column that holds the text of a record.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out and count bad records and files.")
]
HeldOut = Annotated[float, typer.Option(help="Share of the text kept for evaluation.")]
HfConfig = Annotated[
    str | None, typer.Option("--hf-config", help="Configuration of a Hugging Face dataset.")
]
HfSplitName = Annotated[str, typer.Option("--hf-split", help="Split of a Hugging Face dataset.")]


@app.command("prepare", cls=Command, short_help="Tokenize, split and pack text into rows.")
def prepare_command(
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="Folder to write; must not hold data yet.")],
    tokenizer: Annotated[
        str, typer.Option(help="bytes, bpe-1024, or the path of a tokenizer.json.")
    ] = "bpe-1024",
    eos: Annotated[
        str | None, typer.Option("--eos", help="Token of a tokenizer.json that ends a document.")
    ] = None,
    seq_len: Annotated[int, typer.Option(help="Tokens of a row that the model sees.")] = 128,
    held_out: HeldOut = 0.02,
    text_field: TextField = "text",
    skip_bad: SkipBad = False,
    jobs: Annotated[int, typer.Option(min=0, help="Processes that encode; 0: one per core.")] = 0,
    hf_config: HfConfig = None,
    hf_split: HfSplitName = "train",
) -> None:
    """Tokenize, split and pack text into rows. The same input gives the same bytes, whatever the
    number of processes. After Ctrl-C or a kill the same command goes on from where it was.

    Examples:

      farflung data prepare texts/ --out my-data

      farflung data prepare a.jsonl.zst b.parquet --text-field body --out my-data

      farflung data prepare texts/ --tokenizer t.json --eos "</s>" --out my-data

      farflung data prepare hf:org/name --hf-config en --out my-data
    """
    from farflung.cli.data_progress import ReadProgress
    from farflung.data.prepare import check_target, prepare_inputs
    from farflung.data.reading import Reading, inputs_of
    from farflung.data.split import check_fraction
    from farflung.data.tokenizer import load_tokenizer

    check_target(out, seq_len)  # what is wrong with the command itself is told before any reading
    check_fraction(held_out)
    chosen = load_tokenizer(tokenizer, eos)
    reading = Reading(
        inputs=inputs_of(inputs, _say, out=out, hf_config=hf_config, hf_split=hf_split),
        text_field=text_field,
        skip_bad=skip_bad,
        held_out_fraction=held_out,
    )
    with ReadProgress("preparing", reading.total_bytes) as bar:
        try:
            manifest, end = prepare_inputs(
                reading,
                chosen,
                seq_len,
                out,
                jobs=_jobs(jobs, reading),
                say=bar.say,
                progress=lambda step: bar.update(step.read_bytes, step.text_bytes),
            )
        except KeyboardInterrupt:
            bar.say("stopped; the same command goes on from here")
            raise
    _tell_bad(end.bad)
    typer.echo(_summary(manifest, out))


@app.command("train-tokenizer", cls=Command, short_help="Train a byte-level BPE on text.")
def train_tokenizer_command(
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="The tokenizer.json to write.")] = Path(
        "tokenizer.json"
    ),
    vocab: Annotated[
        int, typer.Option(help="Tokens; the presets 35m and above expect 32768.")
    ] = 32768,
    eos: Annotated[str, typer.Option("--eos", help="Name of the token that ends a document.")] = (
        "<|endoftext|>"
    ),
    sample_mb: Annotated[
        int, typer.Option(min=1, help="Characters, in millions, that training sees at most.")
    ] = 200,
    held_out: HeldOut = 0.02,
    text_field: TextField = "text",
    skip_bad: SkipBad = False,
    hf_config: HfConfig = None,
    hf_split: HfSplitName = "train",
) -> None:
    """Train a byte-level BPE on text. Of more text than the sample, evenly spread pieces are
    taken; held-out text is never seen. The same input gives the same file.

    Examples:

      farflung data train-tokenizer texts/ --vocab 32768 --out tokenizer.json

      farflung data train-tokenizer a.jsonl.zst --vocab 65536 --out t.json
    """
    import sys

    from farflung.cli.data_progress import ReadProgress
    from farflung.data.reading import Reading, inputs_of
    from farflung.data.split import check_fraction
    from farflung.data.train_tokenizer import check_wish, read_sample, train, write

    if out.exists():
        raise ConfigError(f"{out} exists; remove it or choose another name with --out")
    check_wish(vocab, eos)
    check_fraction(held_out)
    reading = Reading(
        inputs=inputs_of(inputs, _say, out=out, hf_config=hf_config, hf_split=hf_split),
        text_field=text_field,
        skip_bad=skip_bad,
        held_out_fraction=held_out,
    )
    with ReadProgress("reading", reading.total_bytes) as bar:
        sample = read_sample(reading, sample_mb * 1_000_000, bar.say, bar.update)
    _tell_bad(sample.bad)
    typer.echo(f"training on {sample.chars / 1e6:,.1f} M characters ...", err=True)
    content = train(sample.texts, vocab, eos, show_progress=sys.stderr.isatty())
    write(out, content)
    typer.echo(f"{out}: {vocab:,} tokens, {eos!r} ends a document")


@app.command(
    "inspect", cls=Command, short_help="What a prepared folder holds, and its first documents."
)
def inspect_command(
    folder: Annotated[Path, typer.Argument(help="A folder that `data prepare` wrote.")],
    documents: Annotated[int, typer.Option(min=0, help="Documents to show.")] = 3,
    chars: Annotated[int, typer.Option(min=1, help="Characters to show of each.")] = 300,
) -> None:
    """What a prepared folder holds, and its first documents as the model will read them.

    Example:

      farflung data inspect my-data --documents 5
    """
    from farflung.data.folder_report import SideSums, first_documents
    from farflung.data.manifest import decode_manifest
    from farflung.data.shards import read_manifest
    from farflung.hashing import digest

    content = read_manifest(folder)
    manifest = decode_manifest(content)
    typer.echo(f"{folder}: prepared from {printable(manifest.provenance) or 'unnamed text'}")
    typer.echo(f"manifest   {digest(content).hex()}")
    kind = "bytes" if manifest.tokenizer is None else f"tokenizer.json {manifest.tokenizer.hash}"
    typer.echo(f"tokenizer  {kind}")
    typer.echo(f"vocabulary {manifest.vocab:,}, stored as {manifest.dtype}")
    typer.echo(f"end token  {manifest.eos}")
    typer.echo(f"rows of    {manifest.seq_len:,} tokens and the one after")
    for name, shards in (("training", manifest.train), ("held out", manifest.held_out)):
        sums = SideSums.of(shards)
        tokens = sums.rows * manifest.seq_len
        ratio = f", {sums.text_bytes / tokens:.3f} bytes per token" if tokens else ""
        typer.echo(
            f"{name:10} {counted(sums.shards, 'shard')}, {counted(sums.rows, 'row')}, "
            f"{tokens:,} tokens, {sums.text_bytes:,} bytes of text{ratio}"
        )
    for number, text in enumerate(first_documents(folder, documents) if documents else [], 1):
        cut = text[:chars] + (" ..." if len(text) > chars else "")
        typer.echo(f"--- document {number}\n{harmless(cut)}")


@app.command(
    "verify", cls=Command, short_help="Compare every file of a prepared folder with its hash."
)
def verify_command(
    folder: Annotated[Path, typer.Argument(help="A folder that `data prepare` wrote.")],
) -> None:
    """Read every file of a prepared folder and compare its hash with the manifest. Damaged and
    missing ones are named; then the exit code is 1.

    Example:

      farflung data verify my-data
    """
    from farflung.cli.data_progress import ReadProgress
    from farflung.data.folder_report import check_files
    from farflung.data.manifest import decode_manifest
    from farflung.data.shards import read_manifest

    manifest = decode_manifest(read_manifest(folder))
    faults, done = list[str](), 0
    with ReadProgress("verifying", sum(f.n_bytes for f in manifest.files)) as bar:
        for check in check_files(folder, manifest):
            done += check.file.n_bytes
            bar.update(done, done)
            if check.fault:
                faults.append(f"{folder / check.file.file}: {check.fault}")
    for fault in faults:
        typer.echo(fault)
    if faults:
        typer.echo(
            f"{folder}: {len(faults)} of {len(manifest.files)} files are not whole; {REMEDY}"
        )
        raise typer.Exit(1)
    typer.echo(f"{folder}: all {len(manifest.files)} files are whole")


REMEDY = "copy them again, or remove the folder and prepare it again"


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _jobs(wanted: int, reading: Reading) -> int:
    total = reading.total_bytes
    if total is not None and total < SMALL_INPUT:
        return 1
    return wanted or len(os.sched_getaffinity(0))


def _tell_bad(bad: dict[str, int]) -> None:
    """How much `--skip-bad` left out."""
    from farflung.data.records import BAD_SHOWN

    if sum(bad.values()) > BAD_SHOWN:  # else each one was named
        for file, count in list(bad.items())[:MOST_FILES]:
            _say(f"left out {count:,} of {file}")
    if bad:
        _say(
            f"left out in all: {counted(sum(bad.values()), 'bad record')} in "
            f"{counted(len(bad), 'file')}"
        )


MOST_FILES = 20


def _summary(manifest: DataManifest, out: Path) -> str:
    train, held_out = manifest.train_rows, manifest.held_out_rows
    targets = (train + held_out) * manifest.seq_len
    text = sum(s.text_bytes for s in (*manifest.train, *manifest.held_out))
    return (
        f"{out}: {train} training rows and {held_out} held-out rows of {manifest.seq_len} tokens, "
        f"{text / targets:.2f} bytes per token"
    )
