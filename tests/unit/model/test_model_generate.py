from __future__ import annotations

import pytest
import torch

from farflung.errors import ConfigError
from farflung.model.generate import sample
from farflung.model.llama import Llama, init_weights
from farflung.model.presets import LlamaConfig

CONFIG = LlamaConfig(vocab=32, dim=16, layers=1, heads=2, kv_heads=1, ff=24, seq_len=8)


@pytest.fixture
def model() -> Llama:
    model = Llama(CONFIG)
    init_weights(model, 0)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20)
    return model


def test_a_sample_has_n_new_tokens_of_the_vocabulary(model: Llama) -> None:
    text = sample(model, [1, 2, 3], 20)
    assert len(text) == 20
    assert all(0 <= token < CONFIG.vocab for token in text)


def test_the_seed_decides_the_sample(model: Llama) -> None:
    torch.manual_seed(0)
    first = sample(model, [1], 16, temperature=1.0, seed=3)
    torch.manual_seed(1)
    assert first == sample(model, [1], 16, temperature=1.0, seed=3)
    assert first != sample(model, [1], 16, temperature=1.0, seed=4)


def test_temperature_zero_and_top_one_both_take_the_likeliest(model: Llama) -> None:
    prompt = [4, 5]
    greedy = sample(model, prompt, 12, temperature=0.0, seed=1)
    assert greedy == sample(model, prompt, 12, temperature=1.0, top_k=1, seed=2)
    likeliest = model(torch.tensor([prompt]))[0, -1].argmax()
    assert greedy[0] == int(likeliest)


def test_top_k_larger_than_the_vocabulary_keeps_all(model: Llama) -> None:
    assert sample(model, [1], 8, top_k=99) == sample(model, [1], 8, top_k=0)


def test_a_long_prompt_is_seen_by_its_last_tokens(model: Llama) -> None:
    tail = [3, 1, 4, 1, 5, 9, 2, 6]
    assert sample(model, [7] * 30 + tail, 1, seed=1) == sample(model, tail, 1, seed=1)


@pytest.mark.parametrize(
    ("prompt", "n", "temperature"), [([], 1, 1.0), ([1], -1, 1.0), ([1], 1, -0.5)]
)
def test_an_impossible_sample_is_refused(
    model: Llama, prompt: list[int], n: int, temperature: float
) -> None:
    with pytest.raises(ConfigError, match="a sample needs"):
        sample(model, prompt, n, temperature=temperature)
