"""`farflung eval`: how good a trained model is, in figures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farflung.cli.loading import ProgressLine, Source, described, load, ready
from farflung.errors import UserError

if TYPE_CHECKING:
    from farflung.evaluate.suite import FamilyScore
    from farflung.evaluate.texts import TextScore
    from farflung.model.llama import Llama
    from farflung.trained.model import TrainedModel


def evaluate(
    run: Source,
    text: Annotated[
        list[Path] | None, typer.Option("--text", help="Also of this UTF-8 file; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of `farflung data prepare` whose held-out rows are read."),
    ] = None,
    held_out: Annotated[bool, typer.Option(help="Bits per byte of held-out rows.")] = True,
    suite: Annotated[bool, typer.Option(help="Answer the questions that ship with it.")] = True,
    lm_eval: Annotated[
        str,
        typer.Option("--lm-eval", help="Tasks of lm-evaluation-harness, by comma (extra [eval])."),
    ] = "",
    tasks_from: Annotated[
        Path | None, typer.Option(help="With --lm-eval: a folder of your own task files.")
    ] = None,
    limit: Annotated[int, typer.Option(help="With --lm-eval: questions of a task; 0: all.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Measure a model: bits per byte of text that it has not seen, and multiple-choice questions
    answered by likelihood.

    Examples:

      farflung eval my-run

      farflung eval my-model --text letter.txt --text novel.txt --no-suite --json

      farflung eval my-run --lm-eval arc_easy,hellaswag --limit 200
    """
    texts = [(path, _read(path)) for path in text or []]
    harness = _harness() if lm_eval else None
    model = load(run)
    llama = ready(model)
    found: dict[str, Any] = {"model": _origin(model), "texts": [], "suite": [], "lm_eval": {}}
    if held_out:
        found["texts"] += _held_out(model, llama, data)
    found["texts"] += [_text(model, llama, name, content) for name, content in texts]
    if suite:
        found["suite"] = _suite(model, llama)
    if harness is not None:
        tasks = [t.strip() for t in lm_eval.split(",") if t.strip()]
        found["lm_eval"] = harness(
            llama, model.need_tokenizer(), tasks, include=tasks_from, limit=limit or None
        )
    if as_json:
        typer.echo(json.dumps(_plain(found), indent=2))
    else:
        _print(model, found)


def _read(path: Path) -> str:
    from farflung.evaluate.texts import read_text

    return read_text(path)


def _harness() -> Any:
    try:
        from farflung.evaluate.harness import run_harness
    except ImportError as error:
        if (error.name or "").split(".")[0] == "farflung":
            raise
        raise UserError(
            "--lm-eval needs lm-evaluation-harness; install it with: pip install 'farflung[eval]'"
        ) from None
    return run_harness


def _origin(model: TrainedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "run": model.run,
        "round": model.round,
        "parameters": model.layout.size,
        "tokens_trained": model.history.tokens,
        "state_root": model.state_root,
    }


def _held_out(model: TrainedModel, llama: Llama, data: Path | None) -> list[TextScore]:
    """Nothing when the run's data is not here: other figures may still be wanted."""
    from farflung.evaluate.texts import held_out_score

    folder = data or model.data
    if folder is None:
        typer.echo(
            "no held-out rows: the run's token shards are not on this machine; name them with "
            "--data FOLDER",
            err=True,
        )
        return []
    return [held_out_score(llama, folder, ProgressLine("held-out rows"))]


def _text(model: TrainedModel, llama: Llama, path: Path, content: str) -> TextScore:
    from farflung.evaluate.texts import text_score

    progress = ProgressLine(path.name)
    return text_score(llama, model.need_tokenizer(), content, str(path), progress)


def _suite(model: TrainedModel, llama: Llama) -> list[FamilyScore]:
    from farflung.evaluate.suite import questions, suite_scores

    if model.tokenizer is None:
        typer.echo(f"no questions: {model.no_tokenizer}", err=True)
        return []
    return suite_scores(llama, model.tokenizer, questions(), ProgressLine("questions"))


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    scores = {name: [dataclasses.asdict(s) for s in found[name]] for name in ("texts", "suite")}
    return {**found, **scores}


def _print(model: TrainedModel, found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(described(model), markup=False)
    if found["texts"]:
        table = Table("text", "bytes", "tokens", "nats/token", "bits/byte")
        for t in found["texts"]:
            figures = (f"{t.n_bytes:,}", f"{t.tokens:,}", f"{t.nats_per_token:.4f}")
            table.add_row(t.name, *figures, f"{t.bits_per_byte:.4f}")
        console.print(table)
    if found["suite"]:
        table = Table("questions", "number", "right", "right per byte", "by chance")
        for s in found["suite"]:
            shares = (f"{100 * v:.0f} %" for v in (s.by_sum, s.by_byte, s.chance))
            table.add_row(s.family, f"{s.questions}", *shares)
        console.print(table)
    if found["lm_eval"]:
        table = Table("task", "metric", "value")
        for task, results in found["lm_eval"].items():
            for metric, value in results.items():
                if isinstance(value, int | float) and "stderr" not in metric:
                    table.add_row(task, metric, f"{value:.4f}")
        console.print(table)
