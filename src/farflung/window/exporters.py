"""A run's figures to the trackers that people have: Weights & Biases, trackio, TensorBoard.

An exporter is handed what the window shows (web/src/types.ts), round by round; it is told nothing
twice, so a process that starts again goes on where the last one stopped (follow.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from farflung.errors import UserError

KINDS = ("wandb", "trackio", "tensorboard")
ROUND_FIGURES = {
    "loss": "train/loss",
    "lr": "train/lr_factor",
    "grad_norm": "train/grad_norm",
    "tokens": "train/tokens",
    "tokens_per_s": "speed/tokens_per_s",
    "took_s": "speed/round_s",
    "utilisation": "speed/utilisation",
    "peers": "swarm/peers",
    "bytes_up": "swarm/bytes_up_of_a_peer",
    "abandoned": "swarm/abandoned",
}
HEAD_FIGURES = {
    "mfu": "speed/mfu",
    "tflops": "speed/tflops",
    "peers_active": "swarm/peers_active",
    "reduction": "swarm/times_fewer_bytes",
    "disagreements": "swarm/disagreements",
}
OWN_FIGURES = {
    "loss": "mine/loss",
    "tokens": "mine/tokens",
    "share": "mine/share",
    "tokens_per_s": "mine/tokens_per_s",
    "mfu": "mine/mfu",
    "utilisation": "mine/utilisation",
    "grad_norm": "mine/grad_norm",
    "memory_bytes": "mine/memory_bytes",
    "bytes_up": "mine/bytes_up",
    "bytes_down": "mine/bytes_down",
    "strikes": "mine/strikes",
}


class Exporter(Protocol):
    """One tracker. Blocking calls: for a process of its own."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of a round (`step`)."""

    def text(self, step: int, name: str, text: str) -> None:
        """What the model wrote."""

    def close(self) -> None:
        """Everything is delivered, as far as the tracker lets it be known."""


def figures(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """The known ones of `names` in a row, head or peer, under their exported names."""
    return {
        shown: float(row[field])
        for field, shown in names.items()
        if isinstance(row.get(field), int | float)
    }


def check_target(target: str) -> tuple[str, str]:
    """(kind, where) of `wandb:PROJECT`, `trackio:PROJECT` or `tensorboard:FOLDER`. UserError."""
    kind, _, where = target.partition(":")
    if kind not in KINDS or not where:
        raise UserError(
            f"--export {target!r} must be wandb:PROJECT, wandb:ENTITY/PROJECT, trackio:PROJECT or "
            f"tensorboard:FOLDER"
        )
    return kind, where


def open_exporter(target: str, run_id: str, run_name: str, settings: Mapping[str, Any]) -> Exporter:
    """`run_id`: the same for every start, so that a tracker goes on with what it has.

    UserError for an unknown kind, a missing package, or a tracker that refuses.
    """
    kind, where = check_target(target)
    made: dict[str, Callable[..., Exporter]] = {
        "wandb": _Wandb,
        "trackio": _Trackio,
        "tensorboard": _TensorBoard,
    }
    try:
        return made[kind](where, run_id, run_name, dict(settings))
    except ImportError:
        raise UserError(
            f"--export {target} needs a package that is not here: pip install 'farflung[{kind}]'"
        ) from None
    except UserError:
        raise
    except Exception as error:  # whatever a tracker's client raises, people need its sentence
        raise UserError(f"--export {target}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _Wandb:
    """Online, offline (`WANDB_MODE=offline`) or off, as its own environment says."""

    def __init__(self, where: str, run_id: str, run_name: str, settings: dict[str, Any]) -> None:
        import wandb

        entity, _, project = where.rpartition("/")
        os.environ.setdefault("WANDB_SILENT", "true")
        self._wandb = wandb
        self._run = wandb.init(
            entity=entity or None,
            project=project,
            name=run_name,
            id=run_id,
            resume="allow",
            config=settings,
        )
        self._run.define_metric("round")
        self._run.define_metric("*", step_metric="round")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"round": step, **values})

    def text(self, step: int, name: str, text: str) -> None:
        # Plain text in a table: as HTML a stranger's words would be markup.
        table = self._wandb.Table(columns=["round", "name", "text"], data=[[step, name, text]])
        self._run.log({"round": step, f"samples/{name}": table})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    """Its own folder on this disk, or a Space that its environment names."""

    def __init__(self, where: str, run_id: str, run_name: str, settings: dict[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        with contextlib.redirect_stdout(None):
            trackio.init(
                project=where,
                name=f"{run_name}-{run_id[:8]}",
                config=settings,
                resume="allow",
                embed=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._trackio.log(dict(values), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._trackio.log({f"samples/{name}": text}, step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(None):
            self._trackio.finish()


class _TensorBoard:
    """Event files in a folder; a process that starts again adds a file."""

    def __init__(self, where: str, run_id: str, run_name: str, settings: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        folder = Path(where).expanduser() / f"{run_name}-{run_id[:8]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}") from None
        self._writer = SummaryWriter(str(folder))
        rows = "".join(f"    {name} = {value}\n" for name, value in settings.items())
        self._writer.add_text("settings", rows, 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        # TensorBoard renders Markdown: an indented block is shown as it is.
        self._writer.add_text(f"samples/{name}", _block(text), step)

    def close(self) -> None:
        self._writer.close()


def _block(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())
