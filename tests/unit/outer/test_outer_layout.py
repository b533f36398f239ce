"""Claims about outer/layout.py: one canonical form, one hash, nothing malformed gets in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.errors import ConfigError
from farflung.hashing import digest
from farflung.outer.layout import MAX_JSON_BYTES, Entry, Layout

SHAPES = st.lists(st.integers(0, 50), max_size=3)
PAIRS = st.dictionaries(st.text(min_size=1, max_size=9), SHAPES, max_size=9).map(
    lambda d: list(d.items())
)


@settings(max_examples=50, deadline=None)
@given(PAIRS)
def test_json_round_trip_gives_the_same_layout_and_hash(pairs: list[tuple[str, list[int]]]) -> None:
    layout = Layout.from_entries(pairs)
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert again.hash == layout.hash == digest(layout.to_json())


def test_json_is_compact_and_offsets_are_running_sums() -> None:
    layout = Layout.from_entries([("a", (2, 3)), ("b", ()), ("c.ü", [4])])
    assert layout.to_json() == '[["a",[2,3]],["b",[]],["c.ü",[4]]]'.encode()
    assert [entry.offset for entry in layout.entries] == [0, 6, 7]
    assert layout.size == 11


def test_white_space_does_not_change_the_hash() -> None:
    spaced = json.dumps([["a", [2, 3]]], indent=1).encode()
    assert Layout.from_json(spaced).hash == Layout.from_entries([("a", (2, 3))]).hash


@pytest.mark.parametrize(
    "pairs",
    [
        [("a", (1,)), ("a", (2,))],
        [("a", (-1,))],
        [("a", (2, -3))],
        [("", (1,))],
        [("x" * 513, (1,))],
        [("a", (1 << 22, 1 << 22))],
    ],
)
def test_broken_entries_are_refused(pairs: list[tuple[str, tuple[int, ...]]]) -> None:
    with pytest.raises(ConfigError):
        Layout.from_entries(pairs)


def test_a_gap_between_entries_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected 2"):
        Layout((Entry("a", (2,), 0), Entry("b", (1,), 3)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[[1,[2]]]",
        b'[["a",[2.5]]]',
        b'[["a",[true]]]',
        b'[["a",["2"]]]',
        b'[["a",[2],3]]',
        b'[["a",[-2]]]',
        b'[["a",[9999999999999999999999]]]',
        b'[["\xff",[2]]]',
        b'[["a",[' + b"1," * 16 + b"1]]]",
        b" " * (MAX_JSON_BYTES + 1),
    ],
)
def test_anything_but_a_layout_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        Layout.from_json(data)
