"""Llama in PyTorch, with Hugging Face's parameter names and, in eager mode, its exact bits.

Shape suffixes: B rows, T tokens, S tokens with those before them, D model width, V vocabulary,
H query heads, K key heads, E width of a head. Sources: Llama 3 (arXiv 2407.21783), RoPE
(2104.09864), GQA (2305.13245), SwiGLU (2002.05202); query and key norm as in Qwen3 (2505.09388).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu, softmax
from torch.utils.checkpoint import checkpoint

from farflung.errors import ConfigError
from farflung.model.cache import KeyValueCache, LayerCache
from farflung.model.presets import Llama3Rope, LlamaConfig

Attention = Literal["sdpa", "eager"]
"""`eager` does transformers' operations in transformers' order, for the parity test."""

Head = Callable[[Tensor, Tensor], Tensor]
"""(hidden_BTD, weight_VD) -> anything; runs inside the root's forward."""

INIT_STD = 0.02


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, statistics in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        # torch's rms_norm orders the operations differently and is no faster at these sizes.
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rope_table(config: LlamaConfig) -> tuple[Tensor, Tensor]:
    """cos and sin [T, E] fp32, the frequencies of the first half repeated in the second."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / (config.rope_theta**exponents)
    if config.rope is not None:
        frequencies = stretched(frequencies, config.rope)
    angles = torch.arange(config.seq_len).float()[:, None] * frequencies[None, :]
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def stretched(frequencies: Tensor, rope: Llama3Rope) -> Tensor:
    """Llama 3.1's frequencies, with transformers' operations in its order."""
    low_wavelength = rope.original_len / rope.low_freq_factor
    high_wavelength = rope.original_len / rope.high_freq_factor
    wavelength = 2 * math.pi / frequencies
    slow = torch.where(wavelength > low_wavelength, frequencies / rope.factor, frequencies)
    smooth = (rope.original_len / wavelength - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    smoothed = (1 - smooth) * slow / rope.factor + smooth * slow
    between = ~(wavelength < high_wavelength) * ~(wavelength > low_wavelength)
    return torch.where(between, smoothed, slow)


def rotate(x_BTHE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Half-rotation RoPE: the pair of element i is i + E/2."""
    first, second = x_BTHE.chunk(2, dim=-1)
    turned_BTHE = torch.cat((-second, first), dim=-1)
    return x_BTHE * cos_TE[:, None] + turned_BTHE * sin_TE[:, None]


def eager_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
    """Causal attention with every operation of transformers' eager form, in its order.

    The last query belongs to the last key: S > T when keys of earlier tokens come from a cache.
    """
    group = q_BHTE.shape[1] // k_BKSE.shape[1]
    k_BHSE = k_BKSE.repeat_interleave(group, dim=1)
    v_BHSE = v_BKSE.repeat_interleave(group, dim=1)
    scores_BHTS = torch.matmul(q_BHTE, k_BHSE.transpose(2, 3)) * q_BHTE.shape[-1] ** -0.5
    before = k_BHSE.shape[2] - q_BHTE.shape[2]
    hidden = torch.full_like(scores_BHTS[0, 0], torch.finfo(scores_BHTS.dtype).min)
    scores_BHTS = scores_BHTS + hidden.triu(1 + before)
    weights_BHTS = softmax(scores_BHTS, dim=-1, dtype=torch.float32)
    return torch.matmul(weights_BHTS.to(q_BHTE.dtype), v_BHSE)


def fast_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor) -> Tensor:
    """The same by torch's own kernels, which know a causal mask for S = T only."""
    length, seen = q_BHTE.shape[2], k_BKSE.shape[2]
    visible = None
    if 1 < length < seen:
        visible = q_BHTE.new_ones((length, seen), dtype=torch.bool).tril(seen - length)
    return scaled_dot_product_attention(
        q_BHTE,
        k_BKSE,
        v_BKSE,
        attn_mask=visible,
        is_causal=length == seen,
        enable_gqa=q_BHTE.shape[1] != k_BKSE.shape[1],
    )


class SelfAttention(nn.Module):
    def __init__(self, config: LlamaConfig, attention: Attention) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.attention = attention
        self.q_proj = nn.Linear(config.dim, config.q_dim, bias=False)
        self.k_proj = nn.Linear(config.dim, config.kv_dim, bias=False)
        self.v_proj = nn.Linear(config.dim, config.kv_dim, bias=False)
        self.o_proj = nn.Linear(config.q_dim, config.dim, bias=False)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(
        self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, past: LayerCache | None = None
    ) -> Tensor:
        split = (*x_BTD.shape[:-1], -1, self.head_dim)
        q_BTHE = self.q_proj(x_BTD).view(split)
        k_BTKE = self.k_proj(x_BTD).view(split)
        v_BKTE = self.v_proj(x_BTD).view(split).transpose(1, 2)
        if self.qk_norm:
            q_BTHE, k_BTKE = self.q_norm(q_BTHE), self.k_norm(k_BTKE)
        # The table is fp32; under autocast the rotated heads go back to the narrow type. Rotated
        # before the heads come forward: attention's results and gradients then lie as the
        # projections want them, and nothing is transposed in memory.
        q_BHTE = rotate(q_BTHE, cos_TE, sin_TE).to(v_BKTE.dtype).transpose(1, 2)
        k_BKTE = rotate(k_BTKE, cos_TE, sin_TE).to(v_BKTE.dtype).transpose(1, 2)
        k_BKSE, v_BKSE = (k_BKTE, v_BKTE) if past is None else past.extend(k_BKTE, v_BKTE)
        attend = eager_attention if self.attention == "eager" else fast_attention
        out_BHTE = attend(q_BHTE, k_BKSE, v_BKSE)
        out: Tensor = self.o_proj(out_BHTE.transpose(1, 2).reshape(*x_BTD.shape[:-1], -1))
        return out


class SwiGLU(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.ff, bias=False)
        self.up_proj = nn.Linear(config.dim, config.ff, bias=False)
        self.down_proj = nn.Linear(config.ff, config.dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out


class Layer(nn.Module):
    def __init__(self, config: LlamaConfig, attention: Attention) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config, attention)
        self.mlp = SwiGLU(config)
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)

    def forward(
        self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, past: LayerCache | None = None
    ) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TE, sin_TE, past)
        out: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out


class Trunk(nn.Module):
    """Everything below the head; Hugging Face calls it `model`."""

    cos: Tensor
    sin: Tensor
    checkpointed: int = 0
    """Layers, evenly spread, that keep their input only and are computed again backwards."""

    def __init__(self, config: LlamaConfig, attention: Attention) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab, config.dim)
        self.layers = nn.ModuleList(Layer(config, attention) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        cos_TE, sin_TE = rope_table(config)
        self.register_buffer("cos", cos_TE, persistent=False)
        self.register_buffer("sin", sin_TE, persistent=False)

    def forward(self, tokens_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        first = 0 if cache is None else cache.length
        stop = first + tokens_BT.shape[1]
        if stop > self.cos.shape[0]:
            raise ConfigError(
                f"a row of {stop} tokens exceeds the model's seq_len={self.cos.shape[0]}; "
                f"make the model with seq_len={stop}"
            )
        cos_TE, sin_TE = self.cos[first:stop], self.sin[first:stop]
        x_BTD: Tensor = self.embed_tokens(tokens_BT)
        if torch.is_autocast_enabled(x_BTD.device.type):  # the residual stream is narrow, too
            x_BTD = x_BTD.to(torch.get_autocast_dtype(x_BTD.device.type))
        if cache is None:
            for index, layer in enumerate(self.layers):
                if self._recomputes(index):
                    x_BTD = checkpoint(
                        layer, x_BTD, cos_TE, sin_TE, use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    x_BTD = layer(x_BTD, cos_TE, sin_TE)
        else:
            for layer, past in zip(self.layers, cache.layers, strict=True):
                x_BTD = layer(x_BTD, cos_TE, sin_TE, past)
        out_BTD: Tensor = self.norm(x_BTD)
        return out_BTD

    def _recomputes(self, layer: int) -> bool:
        some, of = self.checkpointed, len(self.layers)
        return torch.is_grad_enabled() and (layer + 1) * some // of > layer * some // of


class Llama(nn.Module):
    """The built-in model. `dict(model.named_parameters())` is `layout_entries`, in order."""

    def __init__(self, config: LlamaConfig, *, attention: Attention = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config, attention)
        if not config.tied:
            self.lm_head = nn.Linear(config.dim, config.vocab, bias=False)

    @property
    def head_weight(self) -> Tensor:
        """[V, D]; the embedding matrix when tied."""
        return self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight

    def hidden(self, tokens_BT: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """The final normed activations [B, T, D] of int64 tokens."""
        out_BTD: Tensor = self.model(tokens_BT) if cache is None else self.model(tokens_BT, cache)
        return out_BTD

    def forward(
        self, tokens_BT: Tensor, head: Head = linear, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Logits [B, T, V] by default. With a cache the tokens follow those that it holds.

        `head` replaces the last product, e.g. by a loss that never holds all logits. It runs in
        here because a sharded root gathers the head's weight only for its own forward.
        Raises ConfigError when the rows are longer than the model's seq_len.
        """
        return head(self.hidden(tokens_BT, cache), self.head_weight)


@torch.no_grad()
def init_weights(model: Llama, seed: int) -> None:
    """Fills all parameters in place: the same seed gives the same bits on any thread count.

    Normal with deviation 0.02; projections back into the residual stream are divided by
    sqrt(2 * layers) (GPT-2); norms are 1. Drawn on the CPU in layout order, then copied.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    residual_std = INIT_STD / math.sqrt(2 * model.config.layers)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        drawn = torch.empty(parameter.shape, dtype=torch.float32)
        drawn.normal_(0.0, residual_std if residual else INIT_STD, generator=generator)
        parameter.copy_(drawn)
