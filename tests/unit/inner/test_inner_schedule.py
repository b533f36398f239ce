from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.config.run import InnerSpec
from farflung.inner.schedule import join_ramp, lr_factor

WSD = InnerSpec(warmup_steps=30, decay_fraction=0.3)


def test_warm_up_rises_by_one_thirtieth_a_step_and_never_starts_at_zero() -> None:
    factors = [lr_factor(step / 1000, WSD, 1000) for step in range(32)]
    assert factors[:30] == pytest.approx([(step + 1) / 30 for step in range(30)])
    assert factors[30:] == [1.0, 1.0]


def test_wsd_is_stable_until_its_decay_and_then_linear() -> None:
    assert lr_factor(0.69, WSD, 1000) == 1.0
    assert lr_factor(0.85, WSD, 1000) == pytest.approx(0.5)
    assert lr_factor(1.0, WSD, 1000) == pytest.approx(0.0)


def test_decays_end_at_the_final_fraction() -> None:
    for schedule in ("wsd", "cosine"):
        inner = InnerSpec(schedule=schedule, final_lr_fraction=0.1)
        assert lr_factor(1.0, inner, 1000) == pytest.approx(0.1)


def test_cosine_is_halfway_in_the_middle_of_what_follows_the_warm_up() -> None:
    inner = InnerSpec(schedule="cosine", warmup_steps=200)
    assert lr_factor(0.2, inner, 1000) == pytest.approx(1.0)
    assert lr_factor(0.6, inner, 1000) == pytest.approx(0.5)


def test_constant_has_a_warm_up_and_no_decay() -> None:
    inner = InnerSpec(schedule="constant", warmup_steps=10)
    assert lr_factor(0.0, inner, 100) == pytest.approx(0.1)
    assert lr_factor(1.0, inner, 100) == 1.0


def test_progress_outside_the_run_counts_as_its_ends() -> None:
    assert lr_factor(-0.5, WSD, 1000) == lr_factor(0.0, WSD, 1000)
    assert lr_factor(1.5, WSD, 1000) == lr_factor(1.0, WSD, 1000)


def test_an_extended_run_rises_again_from_where_its_rate_had_fallen_to() -> None:
    """50 rounds of 20 steps, extended at round 45 to 150: half of the decay was done."""
    inner = msgspec.structs.replace(WSD, rewarm=(45 / 150, 45 / 50))
    before = lr_factor(45 / 50, WSD, 1000)
    assert before == pytest.approx(1 / 3)
    steps = [lr_factor(45 / 150 + step / 3000, inner, 3000) for step in range(32)]
    assert steps[0] == pytest.approx(before + (1 - before) / 30)
    assert steps == sorted(steps) and steps[30:] == [1.0, 1.0]
    assert lr_factor(0.85, inner, 3000) == pytest.approx(0.5), "the new end has its own decay"


def test_a_run_that_is_extended_before_its_decay_goes_on_as_if_nothing_was() -> None:
    inner = msgspec.structs.replace(WSD, rewarm=(0.2, 0.4))
    assert [lr_factor(0.2 + step / 2000, inner, 2000) for step in range(5)] == [1.0] * 5
    cosine = InnerSpec(schedule="cosine", warmup_steps=100)
    extended = msgspec.structs.replace(cosine, rewarm=(0.25, 0.5))
    before, after = lr_factor(0.5, cosine, 1000), lr_factor(0.25, extended, 2000)
    assert before < after < before + (1 - before) / 50


def test_a_run_that_had_ended_rises_from_its_last_rate() -> None:
    inner = msgspec.structs.replace(WSD, final_lr_fraction=0.1, rewarm=(1 / 3, 1.0))
    assert lr_factor(1 / 3, inner, 3000) == pytest.approx(0.1 + 0.9 / 30)


def test_the_join_ramp_ends_after_its_steps() -> None:
    inner = InnerSpec(join_warmup_steps=20)
    assert join_ramp(0, inner) == pytest.approx(0.05)
    assert join_ramp(19, inner) == join_ramp(10_000, inner) == 1.0
    assert join_ramp(0, InnerSpec(join_warmup_steps=0)) == 1.0


@settings(max_examples=50, deadline=None)
@given(
    progress=st.floats(0, 1),
    schedule=st.sampled_from(["wsd", "cosine", "constant"]),
    warmup=st.integers(0, 2000),
    decay=st.floats(0, 1),
    final=st.floats(0, 1),
    total=st.floats(1, 1e6),
)
def test_the_factor_stays_between_zero_and_one(
    progress: float, schedule: str, warmup: int, decay: float, final: float, total: float
) -> None:
    inner = InnerSpec(
        schedule=schedule,  # type: ignore[arg-type]
        warmup_steps=warmup,
        decay_fraction=decay,
        final_lr_fraction=final,
    )
    assert 0.0 <= lr_factor(progress, inner, total) <= 1.0
