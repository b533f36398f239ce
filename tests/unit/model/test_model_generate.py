from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from farflung.errors import ConfigError
from farflung.model.cache import KeyValueCache
from farflung.model.generate import Decoding, Sampling, draw, sample, stream
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


@pytest.mark.parametrize(("prompt", "n"), [([], 1), ([1], -1)])
def test_an_impossible_sample_is_refused(model: Llama, prompt: list[int], n: int) -> None:
    with pytest.raises(ConfigError, match="a sample needs"):
        sample(model, prompt, n)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("temperature", -0.5), ("temperature", math.nan), ("top_k", -1), ("top_p", 0), ("top_p", 1.1)],
)
def test_a_setting_outside_its_range_is_refused(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{setting}={value}"):
        Sampling(**{setting: value})  # type: ignore[arg-type]


def test_the_nucleus_holds_the_likeliest_tokens_that_reach_the_share() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.05, 0.35]))
    generator = torch.Generator().manual_seed(0)

    def drawn(top_p: float) -> set[int]:
        sampling = Sampling(temperature=1.0, top_p=top_p)
        return {draw(logits, sampling, generator) for _ in range(200)}

    assert drawn(0.4) == {1}
    assert drawn(0.6) == {1, 3}
    assert drawn(0.9) == {0, 1, 3}
    assert drawn(1.0) == {0, 1, 2, 3}


# ---- the cache -----------------------------------------------------------------------------

WIDE = LlamaConfig(
    vocab=61, dim=48, layers=3, heads=6, kv_heads=2, ff=80, seq_len=24, qk_norm=True, tied=False
)


@pytest.fixture(params=["sdpa", "eager"])
def wide(request: pytest.FixtureRequest) -> Llama:
    model = Llama(WIDE, attention=request.param)
    init_weights(model, 1)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(30)
        model.lm_head.weight.mul_(30)
    return model.eval()


@pytest.mark.parametrize("cuts", [[24], [1] * 24, [10, 1, 1, 7, 5], [3, 21]])
@torch.no_grad()
def test_cached_logits_are_those_of_the_whole_row(wide: Llama, cuts: list[int]) -> None:
    tokens = torch.randint(0, 61, (2, 24), generator=torch.Generator().manual_seed(2))
    cache = KeyValueCache(WIDE)
    parts = [wide(piece, cache=cache) for piece in tokens.split(cuts, dim=1)]
    assert cache.length == 24
    torch.testing.assert_close(torch.cat(parts, 1), wide(tokens), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_cache_takes_no_more_than_the_row(wide: Llama) -> None:
    cache = KeyValueCache(WIDE)
    wide(torch.zeros(1, 20, dtype=torch.int64), cache=cache)
    with pytest.raises(ConfigError, match="25 tokens exceeds the model's seq_len=24"):
        wide(torch.zeros(1, 5, dtype=torch.int64), cache=cache)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_cache_changes_no_token_also_far_beyond_the_row(
    wide: Llama, temperature: float
) -> None:
    sampling = Sampling(temperature=temperature, top_p=0.9, seed=5)
    cached, plain = (
        list(islice(stream(wide, [4, 5, 6], sampling, cached=c), 100)) for c in (True, False)
    )
    assert cached == plain
    assert len(set(cached)) > 5


def test_a_full_row_goes_on_with_its_newer_half(wide: Llama) -> None:
    tokens = [int(t) for t in torch.randint(0, 61, (25,), generator=torch.Generator())]
    reading, fresh = Decoding(wide), Decoding(wide)
    reading.read(tokens[:24])
    torch.testing.assert_close(reading.read(tokens[24:]), fresh.read(tokens[-12:]))
