"""Claims about outer/merge.py and outer/gradient.py."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from outer_samples import Float32, sample

from farflung.hashing import digest, merkle_root
from farflung.outer.codecs import get_codec
from farflung.outer.gradient import all_finite, commitment, encode_departure, pseudo_gradient
from farflung.outer.merge import Mode, Operation, difference, land, operation_of, reads_anchor

N = 70_000


@pytest.fixture
def local() -> Float32:
    return sample(N, 1)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_contributor_merges_by_the_runs_mode_and_others_rebase(mode: Mode) -> None:
    assert operation_of(mode, contributed=True, fresh=False) == mode
    assert operation_of(mode, contributed=False, fresh=False) == "rebase"
    assert operation_of(mode, contributed=False, fresh=True) == "overwrite"
    assert operation_of(mode, contributed=True, fresh=True) == "overwrite"


def test_every_operation_reads_the_anchor_or_adds_a_difference() -> None:
    assert set(get_args(Operation)) == {*get_args(Mode), "rebase"}
    assert [op for op in get_args(Operation) if reads_anchor(op)] == ["overwrite", "blend"]


def test_overwrite_and_alpha_zero_are_the_anchor(local: Float32) -> None:
    new, other = sample(N, 2), local.copy()
    other[0] = np.nan
    land(local, "overwrite", new, 0.5)
    land(other, "blend", new, 0.0)
    np.testing.assert_array_equal(local, new)
    np.testing.assert_array_equal(other, new)
    assert not np.shares_memory(local, new)


def test_alpha_one_changes_no_bit(local: Float32) -> None:
    before = local.tobytes()
    land(local, "blend", np.full(N, np.nan, np.float32), 1.0)
    assert local.tobytes() == before


def test_blend_weighs_the_local_parameters_with_alpha(local: Float32) -> None:
    new = sample(N, 2)
    expected = np.float32(0.25) * local + np.float32(0.75) * new
    land(local, "blend", new, 0.25)
    np.testing.assert_array_equal(local, expected)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_the_unit_interval_is_refused(local: Float32, alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        land(local, "blend", local, alpha)


def test_carry_leaves_exactly_the_progress_since_departure(local: Float32) -> None:
    sent, new = sample(N, 2), sample(N, 3)
    progress, addend = local - sent, np.empty_like(local)
    difference(new, sent, addend)
    land(local, "carry", addend)
    np.testing.assert_allclose(local - new, progress, rtol=0, atol=1e-5)


def test_rebase_keeps_the_pseudo_gradient(local: Float32) -> None:
    old, new = sample(N, 2), sample(N, 3)
    before, after, addend = np.empty_like(local), np.empty_like(local), old.copy()
    pseudo_gradient(old, local, before)
    difference(new, addend, addend)
    land(local, "rebase", addend)
    pseudo_gradient(new, local, after)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_carry_and_rebase_land_as_the_same_addition(local: Float32) -> None:
    addend, other = sample(N, 2), local.copy()
    land(local, "carry", addend)
    land(other, "rebase", addend)
    assert local.tobytes() == other.tobytes()


@pytest.mark.parametrize("operation", get_args(Operation))
def test_a_vector_of_one_element_is_not_broadcast(local: Float32, operation: Operation) -> None:
    with pytest.raises(ValueError, match="one length"):
        land(local, operation, sample(1, 1), 0.5)
    with pytest.raises(ValueError, match="one length"):
        difference(local, sample(1, 1), local)


def test_pseudo_gradient_is_anchor_minus_local_also_in_place(local: Float32) -> None:
    anchor = sample(N, 2)
    out = anchor.copy()
    pseudo_gradient(out, local, out)
    np.testing.assert_array_equal(out, anchor - local)
    with pytest.raises(ValueError, match="differ"):
        pseudo_gradient(anchor, local[:1], out)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 65_536, N - 1])
def test_one_bad_value_anywhere_is_found(local: Float32, bad: float, at: int) -> None:
    assert all_finite(local)
    local[at] = bad
    assert not all_finite(local)


def test_a_diverged_worker_raises_no_warning() -> None:
    infinite, out = np.full(3, np.inf, np.float32), np.empty(3, np.float32)
    pseudo_gradient(infinite, infinite, out)
    assert not all_finite(out)
    assert all_finite(np.empty(0, np.float32))


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "int8-sigma"])
def test_a_departure_is_the_encoded_pseudo_gradient_chunk_by_chunk(
    local: Float32, name: str
) -> None:
    anchor = local[::-1].copy()
    codec, delta = get_codec(name), anchor - local
    encoded = encode_departure(anchor, local, codec, 32_768)
    assert encoded is not None
    chunks, hashes = encoded
    assert chunks == [codec.encode(delta[a : a + 32_768]) for a in (0, 32_768, 65_536)]
    assert [len(c) for c in chunks] == [codec.encoded_size(n) for n in (32_768, 32_768, 4464)]
    assert hashes == [digest(c) for c in chunks]
    assert commitment(hashes) == merkle_root(hashes)
    assert encode_departure(local[:0], local[:0], codec, 32_768) == ([], [])
    with pytest.raises(ValueError, match="differ"):
        encode_departure(anchor, local[:-1], codec, 32_768)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 65_536, N - 1])
def test_a_diverged_worker_departs_with_nothing(local: Float32, bad: float, at: int) -> None:
    anchor = local.copy()
    local[at] = bad
    assert encode_departure(anchor, local, get_codec("int8"), 32_768) is None
