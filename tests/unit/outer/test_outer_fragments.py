"""Claims about outer/fragments.py: a partition, strided by layer, balanced, deterministic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.errors import ConfigError
from farflung.outer.fragments import Fragments, gather, make_fragments, scatter, size
from farflung.outer.layout import Layout

LAYERED = st.builds(
    lambda layers, dim, vocab, prefix: Layout.from_entries(
        [("embed.weight", (vocab, dim))]
        + [
            (f"{prefix}layers.{i}.{part}", shape)
            for i in range(layers)
            for part, shape in (("norm", (dim,)), ("w", (dim, dim)))
        ]
        + [("norm.weight", (dim,)), ("head.weight", (vocab, dim))]
    ),
    st.integers(1, 9), st.integers(1, 6), st.integers(1, 40), st.sampled_from(["", "model."]),
)  # fmt: skip
NAMELESS = st.lists(st.integers(0, 30), min_size=1, max_size=8).map(
    lambda sizes: Layout.from_entries([(f"t{i}", (n,)) for i, n in enumerate(sizes)])
)


def llama(layers: int) -> Layout:
    rest = [("norm.weight", (64,)), ("lm_head.weight", (500, 64))]
    blocks = [(f"model.layers.{i}.mlp", (64, 256)) for i in range(layers)]
    return Layout.from_entries([("embed.weight", (500, 64)), *blocks, *rest])


def covered(fragments: Fragments, n: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How often each element of the flat vector is in a fragment."""
    count = np.zeros(n, np.int64)
    for fragment in fragments:
        for first, stop in fragment:
            assert first < stop or n == 0
            count[first:stop] += 1
    return count


@settings(max_examples=50, deadline=None)
@given(LAYERED | NAMELESS, st.integers(1, 7))
def test_fragments_cover_every_element_exactly_once(layout: Layout, parts: int) -> None:
    if parts > max(1, layout.size):
        with pytest.raises(ConfigError):
            make_fragments(layout, parts)
        return
    fragments = make_fragments(layout, parts)
    assert len(fragments) == parts
    assert (covered(fragments, layout.size) == 1).all()
    assert all(size(fragment) for fragment in fragments) or layout.size == 0
    assert fragments == make_fragments(Layout.from_json(layout.to_json()), parts)


@settings(max_examples=30, deadline=None)
@given(LAYERED | NAMELESS, st.integers(1, 5))
def test_scatter_of_gather_rebuilds_the_vector(layout: Layout, parts: int) -> None:
    flat = np.arange(layout.size, dtype=np.float32)
    rebuilt = np.full(layout.size, -1, np.float32)
    for fragment in make_fragments(layout, min(parts, max(1, layout.size))):
        scatter(gather(flat, fragment), rebuilt, fragment)
    np.testing.assert_array_equal(rebuilt, flat)


def test_layer_i_is_whole_in_fragment_i_mod_p() -> None:
    layout = llama(8)
    fragments = make_fragments(layout, 3)
    for entry in layout.entries[1:9]:
        layer = int(entry.name.split(".")[2])
        inside = [any(a <= entry.offset < b for a, b in f) for f in fragments]
        assert inside == [p == layer % 3 for p in range(3)]


def test_the_rest_goes_where_it_keeps_the_sizes_even() -> None:
    sizes = [size(f) for f in make_fragments(llama(8), 4)]
    assert sizes == [64 * 256 * 2 + n for n in (32_000, 32_000, 64, 0)]


def test_neighbouring_entries_are_one_range() -> None:
    assert make_fragments(llama(4), 1) == (((0, llama(4).size),),)
    layout = Layout.from_entries([(f"layers.0.{k}", (4,)) for k in "abc"] + [("layers.1.a", (4,))])
    assert make_fragments(layout, 2) == (((0, 12),), ((12, 16),))


def test_a_layout_without_layers_is_cut_at_the_nearest_boundaries() -> None:
    layout = Layout.from_entries([("a", (10,)), ("b", (1,)), ("c", (9,)), ("d", (10,))])
    assert make_fragments(layout, 3) == (((0, 10),), ((10, 20),), ((20, 30),))


def test_more_fragments_than_entries_split_entries() -> None:
    layout = Layout.from_entries([("vector", (10,))])
    assert make_fragments(layout, 3) == (((0, 3),), ((3, 6),), ((6, 10),))


def test_more_fragments_than_layers_leaves_none_empty() -> None:
    fragments = make_fragments(llama(2), 6)
    assert (covered(fragments, llama(2).size) == 1).all()
    assert min(size(f) for f in fragments) > 0


@pytest.mark.parametrize("parts", [0, -1, 11])
def test_impossible_counts_are_refused(parts: int) -> None:
    with pytest.raises(ConfigError, match=r"outer\.fragments"):
        make_fragments(Layout.from_entries([("a", (10,))]), parts)


def test_gather_copies_and_wrong_lengths_are_refused() -> None:
    flat = np.zeros(10, np.float32)
    whole = ((0, 10),)
    gather(flat, whole)[:] = 1
    assert not flat.any()
    out = np.empty(10, np.float32)
    assert gather(flat, whole, out) is out
    with pytest.raises(ValueError, match="does not fit"):
        gather(flat, whole, np.empty(9, np.float32))
    with pytest.raises(ValueError, match="does not fit"):
        scatter(np.ones(1, np.float32), flat, whole)
