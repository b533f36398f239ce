"""`farflung export`: a model leaves its run, as files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farflung.cli.loading import ProgressLine, Source, described, load, ready
from farflung.errors import UserError

if TYPE_CHECKING:
    from farflung.export.hf import Dtype
    from farflung.trained.model import TrainedModel


def export(
    run: Source,
    hf: Annotated[
        Path | None,
        typer.Option("--hf", help="A new folder for transformers: safetensors, config, card."),
    ] = None,
    gguf: Annotated[
        Path | None, typer.Option("--gguf", help="A new file for llama.cpp (extra [gguf]).")
    ] = None,
    dtype: Annotated[str, typer.Option(help="fp32 (the run's own bits) or bf16 (half).")] = "fp32",
    licence: Annotated[
        str, typer.Option("--license", help="For the card: an identifier such as apache-2.0.")
    ] = "unknown",
    measure: Annotated[
        bool, typer.Option(help="Measure bits per byte of held-out text for the card.")
    ] = False,
) -> None:
    """Write the newest state of a run as a model folder of Hugging Face's form, as a GGUF file, or
    both. The run may go on meanwhile; a peer's folder is enough.

    Examples:

      farflung export my-run --hf my-model

      farflung export ~/.farflung/my-run/peer --hf my-model --dtype bf16

      farflung export my-model --gguf my-model.gguf
    """
    if hf is None and gguf is None:
        raise UserError("say what to write: --hf DIR, --gguf FILE, or both")
    kind = _dtype(dtype)
    model = load(run)
    if hf is not None:
        _write_hf(model, hf, kind, licence, measure)
    if gguf is not None:
        _write_gguf(model, gguf, kind, licence)


def _dtype(text: str) -> Dtype:
    if text == "fp32":
        return "fp32"
    if text == "bf16":
        return "bf16"
    raise UserError(f"--dtype {text} must be fp32 or bf16")


def _write_hf(model: TrainedModel, folder: Path, dtype: Dtype, licence: str, measure: bool) -> None:
    from farflung.export.hf import HfOptions, write_hf

    bits = _measured(model) if measure else None
    options = HfOptions(dtype=dtype, licence=licence, bits_per_byte=bits)
    files = write_hf(model, folder, options, ProgressLine("writing the weights", in_bytes=True))
    _say(model, folder, sum(f.stat().st_size for f in files), dtype)
    if model.config is None:
        typer.echo("the tensors are those of a program of your own: config.json is yours to bring")
    elif model.tokenizer is None:
        typer.echo(f"without tokenizer files: {model.no_tokenizer}")


def _write_gguf(model: TrainedModel, path: Path, dtype: Dtype, licence: str) -> None:
    from farflung.export.gguf_file import write_gguf

    write_gguf(model, path, dtype, licence, ProgressLine("writing the weights", in_bytes=True))
    _say(model, path, path.stat().st_size, dtype)


def _measured(model: TrainedModel) -> float:
    from farflung.evaluate.texts import held_out_score

    model.need_config()
    if model.data is None:
        raise UserError("--measure needs the run's token shards, which are not on this machine")
    return held_out_score(ready(model), model.data, ProgressLine("measuring")).bits_per_byte


def _say(model: TrainedModel, where: Path, n_bytes: int, dtype: str) -> None:
    typer.echo(f"{where}: {described(model)}, {dtype}, {n_bytes / 1e6:,.1f} MB")
