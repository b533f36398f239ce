"""--max-disk: sizes, needs, refusals; and the pace of a replay."""

from __future__ import annotations

import pytest

from farflung.cli.join import progress_line
from farflung.errors import ConfigError
from farflung.events import StateProgress
from farflung.peer.catch_up_rate import CatchUpRate
from farflung.peer.disk_budget import Need, check_limit, parse_size, show_size


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


def test_the_progress_line() -> None:
    event = StateProgress(
        here=round(120.3 * 2**20),
        total=512 * 2**20,
        bytes_per_s=14.2 * 2**20,
        eta_s=28.4,
        sources=3,
    )
    assert progress_line(event) == (
        "fetching state 120.3 of 512.0 MiB, 14.2 MiB/s from 3 peers, ETA 0:28"
    )
