"""`farflung data prepare`: text files to a folder of token shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from farflung.errors import ConfigError

if TYPE_CHECKING:  # every command loads this module: the agent's start must stay fast
    from farflung.data.manifest import DataManifest
    from farflung.data.split import Document

app = typer.Typer(help="Prepare text for training.", no_args_is_help=True)


class _PrepareLine(msgspec.Struct):
    text: str


@app.callback()
def root() -> None:
    """Prepare text for training."""


@app.command("prepare")
def prepare_command(
    inputs: Annotated[
        list[Path],
        typer.Argument(help='Text files, .jsonl files with "text" fields, or folders of them.'),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; must not hold data yet.")],
    tokenizer: Annotated[
        str, typer.Option(help="bytes, bpe-1024, or the path of a tokenizer.json.")
    ] = "bpe-1024",
    seq_len: Annotated[int, typer.Option(help="Tokens of a row that the model sees.")] = 128,
    held_out: Annotated[float, typer.Option(help="Share of the text kept for evaluation.")] = 0.02,
) -> None:
    """Tokenize, split and pack text into rows; the same input gives the same bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from farflung.data.prepare import prepare
    from farflung.data.tokenizer import load_tokenizer

    paths = find_files(inputs)
    chosen = load_tokenizer(tokenizer)
    names = ", ".join(p.name for p in paths[:5]) + (", ..." if len(paths) > 5 else "")
    console = Console(stderr=True)
    with Progress(
        TextColumn("preparing"), BarColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("", total=sum(p.stat().st_size for p in paths))
        manifest = prepare(
            read_documents(paths),
            chosen,
            seq_len,
            out,
            held_out_fraction=held_out,
            provenance=names,
            progress=lambda done: bar.update(task, completed=done),
        )
    typer.echo(_summary(manifest, out))


def find_files(inputs: list[Path]) -> list[Path]:
    """Files in a fixed order. Raises ConfigError for a missing path or when nothing is found."""
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix in (".txt", ".jsonl"))
            found += sorted(p for p in inside if p.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"there is no file or folder {path}; check the name")
    if not found:
        raise ConfigError(f"no .txt or .jsonl file in {', '.join(map(str, inputs))}; give one")
    return found


def read_documents(paths: list[Path]) -> Iterator[Document]:
    """One document per text file, one per line of .jsonl; ConfigError names file and line."""
    from farflung.data.split import Document

    for path in paths:
        try:
            if path.suffix == ".jsonl":
                yield from _json_lines(path)
            else:
                yield Document(path.name, _decode(path.read_bytes(), str(path)))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def _json_lines(path: Path) -> Iterator[Document]:
    from farflung.data.split import Document

    decoder = msgspec.json.Decoder(_PrepareLine)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = decoder.decode(line).text
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f'{path} line {number} is no JSON object with a "text" string: {error}'
                ) from None
            yield Document(f"{path.name}:{number}", text)


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{name} is not UTF-8 text (byte {error.start}); convert it, for example with iconv"
        ) from None


def _summary(manifest: DataManifest, out: Path) -> str:
    train, held_out = manifest.train_rows, manifest.held_out_rows
    targets = (train + held_out) * manifest.seq_len
    text = sum(s.text_bytes for s in (*manifest.train, *manifest.held_out))
    return (
        f"{out}: {train} training rows and {held_out} held-out rows of {manifest.seq_len} tokens, "
        f"{text / targets:.2f} bytes per token"
    )
