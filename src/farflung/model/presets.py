"""Sizes of the built-in model: a Llama (RMSNorm, RoPE, GQA, SwiGLU) by name. No torch.

`demo` is measured (0.39 M parameters, a whole step of 8 x 128 tokens in well under 100 ms on one
CPU thread). `35m` and `90m` have the widths and depths of the DiLoCo scaling laws (Charles et al.,
arXiv 2503.09799), `150m` those of DiLoCo (Douillard et al., arXiv 2311.08105), each with a SwiGLU
of as many parameters. `1b` is Llama 3.2 1B without its RoPE scaling, `10b` is INTELLECT-1
(arXiv 2412.01152), `70b` is Llama 3 70B (arXiv 2407.21783).
"""

from __future__ import annotations

import difflib
from dataclasses import astuple, dataclass, replace

import msgspec

from farflung.config.run import ModelSpec, ShapeSpec
from farflung.errors import ConfigError


@dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's stretched rotary frequencies (transformers' `rope_type` llama3)."""

    factor: float
    """Slow frequencies are divided by it."""
    low_freq_factor: float
    high_freq_factor: float
    """Between original_len / low and original_len / high tokens of wavelength both are mixed."""
    original_len: int
    """Row length that the model was first trained on, in tokens."""


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Shape of one model. Raises ConfigError when the numbers do not fit together."""

    vocab: int
    """Rows of the embedding; at least the tokenizer's size."""
    dim: int
    """Width of the residual stream."""
    layers: int
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads; each serves heads / kv_heads query heads (GQA)."""
    ff: int
    """Inner width of the SwiGLU."""
    seq_len: int
    """Longest row in tokens; the rotary table is made for it."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tied: bool = True
    """The output head is the embedding matrix."""
    qk_norm: bool = False
    """RMSNorm over each query and key head before RoPE, as Qwen3 has it."""
    head_size: int = 0
    """Width of a head where it is not dim / heads, as in Qwen3; 0: it is."""
    rope: Llama3Rope | None = None
    """None: plain rotary frequencies."""

    def __post_init__(self) -> None:
        for name in ("vocab", "dim", "layers", "heads", "kv_heads", "ff", "seq_len"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be at least 1")
        if self.head_size and (self.head_size < 2 or self.head_size % 2):
            raise ConfigError(f"model.head_size={self.head_size} must be an even number, or 0")
        whole = self.head_size or not (self.dim % self.heads or (self.dim // self.heads) % 2)
        if not whole:
            raise ConfigError(
                f"model.dim={self.dim} must be model.heads={self.heads} times an even head size; "
                f"try {self.heads * 2 * max(1, round(self.dim / self.heads / 2))}"
            )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"model.kv_heads={self.kv_heads} must divide model.heads={self.heads}; try 1"
            )

    @property
    def head_dim(self) -> int:
        return self.head_size or self.dim // self.heads

    @property
    def q_dim(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.kv_heads * self.head_dim


def _llama3(dim: int, layers: int, heads: int, ff: int, *, tied: bool = False) -> LlamaConfig:
    return LlamaConfig(
        vocab=128_256,
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=8,
        ff=ff,
        seq_len=8192,
        rope_theta=500_000.0,
        tied=tied,
    )


PRESETS: dict[str, LlamaConfig] = {
    "demo": LlamaConfig(vocab=1024, dim=96, layers=3, heads=3, kv_heads=1, ff=256, seq_len=128),
    "tiny": LlamaConfig(vocab=1024, dim=192, layers=5, heads=6, kv_heads=2, ff=512, seq_len=256),
    "35m": LlamaConfig(vocab=32_768, dim=512, layers=6, heads=8, kv_heads=8, ff=1376, seq_len=1024),
    "90m": LlamaConfig(
        vocab=32_768, dim=768, layers=9, heads=12, kv_heads=12, ff=2048, seq_len=1024
    ),
    "150m": LlamaConfig(
        vocab=32_768, dim=896, layers=12, heads=14, kv_heads=14, ff=2560, seq_len=1024
    ),
    "1b": _llama3(dim=2048, layers=16, heads=32, ff=8192, tied=True),
    "10b": _llama3(dim=4096, layers=42, heads=32, ff=14_336),
    "70b": _llama3(dim=8192, layers=80, heads=64, ff=28_672),
}


def preset(name: str, *, vocab: int | None = None, seq_len: int | None = None) -> LlamaConfig:
    """The named configuration, with the tokenizer's size and the run's row length if given.

    Raises ConfigError with the nearest known name.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name.lower(), PRESETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(PRESETS)}"
        raise ConfigError(f"unknown model.preset={name!r}; {hint}")
    known = PRESETS[name]
    return replace(
        known,
        vocab=known.vocab if vocab is None else vocab,
        seq_len=known.seq_len if seq_len is None else seq_len,
    )


def config_of_spec(model: ModelSpec, *, vocab: int | None, seq_len: int) -> LlamaConfig:
    """The built-in model of a run. `vocab`: the tokenizer's size; None: there is none.

    Raises ConfigError for an unknown preset, and when tokenizer or rows do not fit into the shape.
    """
    shape = model.shape
    if shape is msgspec.UNSET:
        return preset(model.preset, vocab=vocab, seq_len=seq_len)
    if vocab is not None and vocab > shape.vocab:
        raise ConfigError(
            f"the data's tokenizer has {vocab} ids, the model {shape.vocab} (model.shape.vocab); "
            f"prepare the data with the model's own tokenizer"
        )
    if seq_len > shape.max_len:
        raise ConfigError(
            f"data.seq_len={seq_len} is longer than the model's rows of {shape.max_len} tokens "
            f"(model.shape.max_len); use shorter rows"
        )
    return LlamaConfig(
        vocab=shape.vocab,
        dim=shape.dim,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        ff=shape.ff,
        seq_len=seq_len,
        rope_theta=shape.rope_theta,
        norm_eps=shape.norm_eps,
        tied=shape.tied,
        qk_norm=shape.qk_norm,
        head_size=shape.head_size,
        rope=None if shape.rope is msgspec.UNSET else Llama3Rope(*shape.rope),
    )


def spec_of_config(config: LlamaConfig) -> ModelSpec:
    """The part of a run spec that builds this model again; rows of up to `config.seq_len`."""
    rope = msgspec.UNSET if config.rope is None else astuple(config.rope)
    shape = ShapeSpec(
        vocab=config.vocab,
        dim=config.dim,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.kv_heads,
        ff=config.ff,
        max_len=config.seq_len,
        head_size=config.head_size,
        rope_theta=config.rope_theta,
        rope=rope,
        norm_eps=config.norm_eps,
        tied=config.tied,
        qk_norm=config.qk_norm,
    )
    return ModelSpec(preset="shape", shape=shape)


def _layer_matrices(config: LlamaConfig) -> int:
    attention = 2 * config.dim * config.q_dim + 2 * config.dim * config.kv_dim
    return attention + 3 * config.dim * config.ff


def parameter_count(config: LlamaConfig) -> int:
    """All trained numbers; a tied head counts once."""
    norms = 2 * config.dim + (2 * config.head_dim if config.qk_norm else 0)
    embeddings = config.vocab * config.dim * (1 if config.tied else 2)
    return config.layers * (_layer_matrices(config) + norms) + embeddings + config.dim


def flops_per_token(config: LlamaConfig, *, causal: bool = False) -> float:
    """Forward and backward FLOPs of one token in a row of `seq_len`; recomputation never counts.

    6 per weight that is multiplied (the head, not the look-up) plus 12 * L * d * T of attention
    (PaLM, arXiv 2204.02311, appendix B); `causal` counts only the half below the diagonal.
    """
    weights = config.layers * _layer_matrices(config) + config.vocab * config.dim
    attention = 12 * config.layers * config.q_dim * config.seq_len
    return 6.0 * weights + (attention / 2 if causal else attention)
