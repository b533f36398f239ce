"""--max-disk: sizes, needs, refusals; and the pace of a replay."""

from __future__ import annotations

import pytest

from farflung.config.run import OuterSpec
from farflung.errors import ConfigError
from farflung.outer.layout import Layout
from farflung.peer.catch_up_rate import CatchUpRate
from farflung.peer.disk_budget import (
    Keep,
    Need,
    check_limit,
    forecast,
    parse_keep,
    parse_size,
    result_bytes,
    show_size,
    usage,
    usual_limit,
)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("20GiB", 20 * 2**30),
        ("500MB", 500 * 10**6),
        ("1.5 gb", 1_500_000_000),
        ("4096", 4096),
        ("3 KiB", 3072),
    ],
)
def test_sizes_have_binary_and_decimal_units(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GiB", "20 parsecs", "-3GB", "1,5GB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="give a number with a unit"):
        parse_size(text)


def test_a_limit_below_the_need_names_the_need() -> None:
    need = Need(snapshot=80 * 2**20, genesis=0, results=10 * 2**20, cache=2**20)
    check_limit(0, need)
    check_limit(need.total, need)
    with pytest.raises(ConfigError) as refused:
        check_limit(need.total - 1, need)
    sentence = str(refused.value)
    assert "171.0 MiB" in sentence and "two snapshots of 80.0 MiB" in sentence
    assert sentence.endswith("give --max-disk 171MiB or more")


def test_sizes_are_shown_in_their_largest_unit() -> None:
    assert [show_size(n) for n in (5, 2048, 3 * 2**30)] == ["5 bytes", "2.0 KiB", "3.0 GiB"]


def pace(**changed: float) -> CatchUpRate:
    usual = {
        "since_s": 30.0,
        "rounds": 5,
        "grown_bytes": 30 * 2**20,
        "fetched_bytes": 60 * 2**20,
        "busy_s": 30.0,
    }
    return CatchUpRate(**{**usual, **changed})  # type: ignore[arg-type]


def test_a_download_of_twice_the_growth_is_enough() -> None:
    assert pace().refusal() == ""
    assert pace(fetched_bytes=59 * 2**20).refusal().startswith("the run's log grows by 1.0 MiB/s")


@pytest.mark.parametrize("early", [{"since_s": 19.0}, {"rounds": 2}, {"busy_s": 0.0}])
def test_nothing_is_judged_too_early(early: dict[str, float]) -> None:
    assert pace(fetched_bytes=0, **early).refusal() == ""


def test_delays_of_a_tiny_log_are_no_lack_of_bandwidth() -> None:
    assert pace(grown_bytes=30 * 60_000, fetched_bytes=1000).refusal() == ""


# ---- the usual limit, and what a keeper will store -------------------------------------------

NEED = Need(snapshot=100, genesis=50, results=10, cache=0)


def test_without_an_option_half_of_used_and_free_is_the_limit() -> None:
    assert usual_limit(0, 10_000, NEED) == 5000
    assert usual_limit(0, 100, NEED) == NEED.total, "what the run needs comes first"
    limits = [usual_limit(used, 10_000 - used, NEED) for used in range(0, 5001, 500)]
    assert set(limits) == {5000}, "restarts do not creep up on the disk"


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("1000", Keep(rounds=1000)),
        ("36h", Keep(age_s=36 * 3600)),
        (" 7 D ", Keep(age_s=7 * 86400)),
    ],
)
def test_results_are_kept_by_count_or_age(text: str, keep: Keep) -> None:
    assert parse_keep(text) == keep


@pytest.mark.parametrize("text", ["", "0", "0d", "-3", "7 weeks", "1.5h", "d"])
def test_what_is_neither_count_nor_age_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="36h, 7d"):
        parse_keep(text)


@pytest.mark.parametrize(("codec", "per_element"), [("fp32", 4.0), ("bf16", 2.0), ("int8", 1.03)])
@pytest.mark.parametrize("fragments", [1, 4])
def test_a_rounds_result_has_the_bytes_of_its_codec(
    codec: str, per_element: float, fragments: int
) -> None:
    layout = Layout.from_entries([(f"layers.{i}.w", (1 << 14,)) for i in range(8)])
    outer = OuterSpec(codec=codec, fragments=fragments)  # type: ignore[arg-type]
    got = result_bytes(layout, outer) * fragments / layout.size
    assert got == pytest.approx(per_element, rel=0.02)


def test_the_forecast_says_what_the_limit_will_cost() -> None:
    gib = 2.0**30
    assert forecast(gib, 10, 0, 100 * 2**30) == (
        "1.0 GiB a round, 10.0 GiB for 10 rounds; limit 50.0 GiB (half of what is free; "
        "--max-disk changes it)"
    )
    assert "then the oldest go" in forecast(gib, 1000, 20 * 2**30, 0)


def test_usage_says_when_the_limit_comes() -> None:
    gib = 2**30
    assert usage(gib, 10 * gib, 0.0, 0.0) == "1.0 GiB of 10.0 GiB"
    assert usage(gib, 10 * gib, 3.0 * gib, 99.0 * gib).endswith("full in 3 days")
    assert usage(gib, 10 * gib, 3.0 * gib, 5.0 * gib).endswith("enough for the rest of the run")
    assert usage(10 * gib, 10 * gib, 3.0 * gib, gib).endswith("full: the oldest go")
