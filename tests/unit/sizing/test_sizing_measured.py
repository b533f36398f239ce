"""Every estimate lies within a stated band of what was measured (docs/sizing.md)."""

from __future__ import annotations

from pathlib import Path

import measured
import pytest

DOCS = Path(__file__).parents[3] / "docs" / "sizing.md"


@pytest.mark.parametrize("row", measured.steps()[0], ids=lambda r: r.what)
def test_tokens_per_second_within_a_twentieth(row: measured.Comparison) -> None:
    assert 0.95 <= row.ratio <= 1.05


@pytest.mark.parametrize("row", measured.steps()[1], ids=lambda r: r.what)
def test_gpu_memory_is_never_promised_too_small(row: measured.Comparison) -> None:
    assert 1.0 <= row.ratio <= 1.25


@pytest.mark.parametrize(
    "row", [measured.averaging(row) for row in measured.LINK_ROWS], ids=lambda r: r.what
)
def test_averaging_within_a_third(row: measured.Comparison) -> None:
    assert 0.67 <= row.ratio <= 1.33


def test_averaging_among_more_peers_than_cores_is_not_foreseen() -> None:
    assert measured.averaging(measured.CROWDED).ratio < 0.5


@pytest.mark.parametrize(
    "row", [*measured.shares(), *measured.swarms(), *measured.overlaps()], ids=lambda r: r.what
)
def test_swarms_within_an_eighth(row: measured.Comparison) -> None:
    assert 0.875 <= row.ratio <= 1.125


def test_the_trainer_took_these_micro_batches() -> None:
    """The rows of docs/speed.md with a memory limit: the same arithmetic chooses the same size."""
    taken = {}
    for name, preset, seq_len, rows, optimizer, cap, *_ in measured.STEPS:
        spec = measured.spec_of(preset, seq_len, rows, optimizer)
        speed = measured.speed_of(spec, measured.sizes_of(spec), measured.h200(cap))
        taken[name] = (speed.fit.size.micro_rows, speed.fit.size.checkpointed)
    assert taken["1b, Muon, 32 rows"] == (8, 0)
    assert taken["1b, Muon, 24 GB"] == (1, 16)
    assert taken["150m, Muon, 256 rows"] == (256, 0)
    assert taken["150m, 8 GB"] == (8, 0)


def test_the_page_shows_this_comparison() -> None:
    assert measured.table(measured.everything()) in DOCS.read_text("utf-8")
