"""A model as it came out of a run: weights, shape, tokenizer, and where they are from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from farflung.config.run import RunSpec
from farflung.data.tokenizer import Tokenizer
from farflung.errors import ConfigError, UserError
from farflung.model.hf_names import layout_entries
from farflung.model.presets import LlamaConfig, config_of_spec
from farflung.outer.layout import Layout
from farflung.trained.history import TrainingHistory

if TYPE_CHECKING:
    from farflung.model.llama import Llama

Float32 = npt.NDArray[np.float32]
EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """One moment of a run."""

    name: str
    """The run's, or the folder's."""
    source: str
    """Where it was read, for people."""
    layout: Layout
    weights: Float32
    """The flat vector, fp32, in the layout's order."""
    config: LlamaConfig | None
    """None: a program of somebody's own, whose architecture only that program knows."""
    tokenizer: Tokenizer | None
    """None: trained without text, or the tokenizer is not here (`no_tokenizer` says why)."""
    no_tokenizer: str = ""
    spec: RunSpec | None = None
    """None: the folder does not tell."""
    run: str = ""
    round: int = -1
    """The last round that the weights hold; -1: the initial weights."""
    state_root: str = ""
    """Hash of anchor and momentum after that round, as the journal has it."""
    history: TrainingHistory = field(default_factory=TrainingHistory)
    data: Path | None = None
    """The run's folder of token shards, if it is on this machine."""
    provenance: str = ""
    """What the data's manifest says of its origin."""

    @property
    def seq_len(self) -> int:
        """Tokens of the rows that it was trained on; 0: nobody says."""
        if self.config is not None:
            return self.config.seq_len
        return 0 if self.spec is None else self.spec.data.seq_len

    def tensors(self) -> Iterator[tuple[str, Float32]]:
        """Views of the flat vector by name, in the layout's order."""
        for entry in self.layout.entries:
            part = self.weights[entry.offset : entry.offset + entry.size]
            yield entry.name, part.reshape(entry.shape)

    def need_config(self) -> LlamaConfig:
        """Raises UserError for a program of somebody's own."""
        if self.config is None:
            raise UserError(
                f"{self.name} was trained by a program of your own, whose architecture farflung "
                f"does not know; `farflung export {self.name} --hf DIR` writes its tensors by name"
            )
        return self.config

    def need_tokenizer(self) -> Tokenizer:
        """Raises UserError when text cannot be told from token ids."""
        if self.tokenizer is None:
            raise UserError(
                f"{self.name} cannot read or write text: "
                f"{self.no_tokenizer or 'it has no tokenizer'}"
            )
        return self.tokenizer

    def llama(self, *, attention: str = "sdpa") -> Llama:
        """The model in torch, fp32, on the GPU if there is one. On the CPU it shares `weights`.

        Raises UserError as `need_config`.
        """
        import torch

        from farflung.model.llama import Llama, rope_table

        config = self.need_config()
        with torch.device("meta"):  # nothing is drawn that would be replaced at once
            model = Llama(config, attention="eager" if attention == "eager" else "sdpa")
        state = {name: torch.from_numpy(values) for name, values in self.tensors()}
        model.load_state_dict(state, assign=True)
        model.model.cos, model.model.sin = rope_table(config)
        model.requires_grad_(False)
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def config_of(spec: RunSpec, layout: Layout) -> LlamaConfig | None:
    """The built-in model's shape, as the run's layout confirms it; None for other programs.

    Raises UserError for a test function, ConfigError when this version has another shape.
    """
    if spec.model.preset == "custom":
        return None
    if spec.model.preset == "quadratic":
        raise UserError(
            f"run {spec.name} trains a quadratic test function: there is no language model to take"
        )
    shapes = {entry.name: entry.shape for entry in layout.entries}
    vocab = shapes.get(EMBEDDING, (0,))[0]
    config = config_of_spec(spec.model, vocab=vocab, seq_len=spec.data.seq_len)
    if [(e.name, e.shape) for e in layout.entries] != layout_entries(config):
        raise ConfigError(
            f"the run's tensors are not those of model.preset={spec.model.preset!r} in this "
            f"farflung; use the version that trained it"
        )
    return config
