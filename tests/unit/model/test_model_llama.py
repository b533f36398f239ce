from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from farflung.errors import ConfigError
from farflung.model.hf_names import hf_config, layout_entries
from farflung.model.llama import Llama, init_weights
from farflung.model.presets import PRESETS, Llama3Rope, LlamaConfig, preset

SMALL = LlamaConfig(vocab=61, dim=48, layers=2, heads=6, kv_heads=2, ff=80, seq_len=40)


def variant(**change: Any) -> LlamaConfig:
    return LlamaConfig(**{**vars(SMALL), **change})


def made(config: LlamaConfig, seed: int = 0, **options: Any) -> Llama:
    model = Llama(config, **options)
    init_weights(model, seed)
    return model


def rows(config: LlamaConfig, batch: int = 3, length: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = (batch, length or config.seq_len)
    return torch.randint(0, config.vocab, size, generator=generator)


def hugging_face_twin(model: Llama) -> Any:
    """transformers' model with our weights; every name must match."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
    table = hf_config(model.config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.for_model(**table)
        twin = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    assert type(twin).__name__ == table["architectures"][0]
    mine = dict(model.named_parameters())
    assert list(mine) == [name for name, _ in twin.named_parameters()]
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(mine[name])
    return twin.eval()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CONFIGS = {
    "grouped": SMALL,
    "full heads, untied": variant(kv_heads=6, tied=False),
    "one key head, theta 5e5": variant(kv_heads=1, rope_theta=5e5, norm_eps=1e-6),
    "query and key norm": variant(qk_norm=True),
    "heads wider than the model": variant(qk_norm=True, head_size=12, kv_heads=3),
    "stretched frequencies": variant(rope_theta=100.0, rope=Llama3Rope(8.0, 1.0, 4.0, 32)),
    "demo": preset("demo"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_eager_logits_equal_transformers_bit_by_bit(name: str) -> None:
    model = made(CONFIGS[name], attention="eager")
    with torch.no_grad():  # norms other than 1, so that their place in the order matters
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))
    tokens = rows(model.config)
    with torch.no_grad():
        theirs = hugging_face_twin(model)(tokens).logits
        ours = model(tokens)
    assert float((ours - theirs).abs().max()) == 0.0


@pytest.mark.parametrize("name", CONFIGS)
def test_default_attention_agrees_with_eager(name: str) -> None:
    eager = made(CONFIGS[name], attention="eager")
    fast = made(CONFIGS[name])
    tokens = rows(eager.config)
    torch.testing.assert_close(fast(tokens), eager(tokens), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*CONFIGS, *PRESETS])
def test_parameters_are_the_layout_in_order(name: str) -> None:
    config = CONFIGS.get(name) or preset(name)
    with torch.device("meta"):
        model = Llama(config)
    entries = [(n, tuple(p.shape)) for n, p in model.named_parameters()]
    assert entries == layout_entries(config)


def test_the_state_holds_no_buffers() -> None:
    model = Llama(SMALL)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_a_token_does_not_see_the_future() -> None:
    model = made(SMALL)
    tokens = rows(SMALL)
    changed = tokens.clone()
    changed[:, 20] = (changed[:, 20] + 1) % SMALL.vocab
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20], rtol=1e-5, atol=1e-6)
    assert not torch.equal(before[:, 20], after[:, 20])


def test_a_shorter_row_gives_the_same_logits() -> None:
    model = made(SMALL)
    tokens = rows(SMALL)
    torch.testing.assert_close(model(tokens)[:, :7], model(tokens[:, :7]), rtol=1e-4, atol=1e-6)


def test_a_row_longer_than_seq_len_is_refused() -> None:
    with pytest.raises(ConfigError, match="41 tokens exceeds the model's seq_len=40"):
        Llama(SMALL)(torch.zeros(1, 41, dtype=torch.int64))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_initial_weights_depend_on_the_seed_alone(threads: int) -> None:
    reference = made(SMALL, seed=5).state_dict()
    torch.set_num_threads(threads)
    torch.manual_seed(threads)
    again, other = made(SMALL, seed=5).state_dict(), made(SMALL, seed=6).state_dict()
    assert all(torch.equal(reference[name], again[name]) for name in reference)
    matrix = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(reference[matrix], other[matrix])


def test_initial_weights_have_the_documented_deviation() -> None:
    state = made(preset("demo")).state_dict()
    expected = {
        "model.embed_tokens.weight": 0.02,
        "model.layers.1.self_attn.q_proj.weight": 0.02,
        "model.layers.1.self_attn.o_proj.weight": 0.02 / 6**0.5,
        "model.layers.1.mlp.down_proj.weight": 0.02 / 6**0.5,
    }
    for name, deviation in expected.items():
        assert float(state[name].std()) == pytest.approx(deviation, rel=0.05)
    assert bool((state["model.norm.weight"] == 1).all())


def test_a_head_replaces_the_logits_and_sees_the_tied_weight() -> None:
    model = made(SMALL)
    tokens = rows(SMALL)
    hidden, weight = model(tokens, lambda *inputs: inputs)
    assert weight is model.model.embed_tokens.weight
    assert torch.equal(hidden, model.hidden(tokens))


@torch.no_grad()
def test_bf16_autocast_stays_near_fp32() -> None:
    model = made(preset("demo"))
    tokens = rows(model.config, batch=1)
    exact = model(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = model(tokens)
    assert narrow.dtype == torch.bfloat16
    assert float((narrow - exact).abs().max()) < 0.05 * float(exact.abs().max())
