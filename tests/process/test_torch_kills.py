"""Deaths beside a fault-free twin, with real torch trainers (slow; run by `make test-slow`)."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from torch_runs import Faults, Outcome, play, round_tokens, twin_spec

from farflung.config.run import RunSpec

pytestmark = pytest.mark.slow

ROUNDS = 15
BAND_BITS = 0.25
"""Bits per byte that a small run may differ from its twin. Untrained weights have about 4.5 more
than the twins, whose own spread over seeds is some 0.01; benchmarks/twins.py measures the band."""


def _whole(outcome: Outcome, spec: RunSpec) -> None:
    """No sample lost or twice, every outer step recomputed to the journal's hashes, it learnt."""
    assert (outcome.duplicated, outcome.lost) == (0, 0)
    assert outcome.steps_recomputed == outcome.rounds
    assert 0 <= outcome.tokens - spec.outer.tokens <= round_tokens(spec)
    assert math.isfinite(outcome.loss_last) and math.isfinite(outcome.bits_per_byte)
    assert outcome.loss_last < outcome.loss_first - 0.5


def test_a_run_with_kills_ends_where_its_fault_free_twin_ends(tmp_path: Path) -> None:
    spec = twin_spec(peers=3, rounds=ROUNDS, seed=0, size="tiny", inner_steps=8, rows=4)
    calm = play(tmp_path / "calm", spec)
    _whole(calm, spec)
    # On a busy machine a trainer may be slower than the others for a while, and is given less.
    assert (calm.abandoned, max(calm.contributors)) == (0, 3)
    assert ROUNDS <= calm.rounds <= ROUNDS + 5
    hit = play(tmp_path / "hit", spec, Faults(kill_every=4, host_at=(6,)))
    _whole(hit, spec)
    assert hit.peers_killed >= 2
    assert hit.hosts_killed == 1
    assert min(hit.contributors) < 3 and hit.rounds > ROUNDS
    assert abs(hit.bits_per_byte - calm.bits_per_byte) < BAND_BITS, (hit, calm)
