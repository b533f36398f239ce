"""Claims about the way of text to the tokenizer: it is cut where the text says, however read."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.data import batches as batches_module
from farflung.data import split as split_module
from farflung.data.batches import TextPart, batches, parts, parts_of
from farflung.data.split import Document, Piece, split

TEXTS = st.lists(st.text(alphabet="ab \n,", max_size=200), max_size=6)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "PART_CHARS", 16)
    monkeypatch.setattr(batches_module, "WINDOW_CHARS", 6)
    monkeypatch.setattr(batches_module, "BATCH_CHARS", 50)
    monkeypatch.setattr(split_module, "BLOCK_CHARS", 20)
    monkeypatch.setattr(split_module, "SNAP_CHARS", 5)


def divided(texts: list[str], sizes: list[int]) -> list[Document]:
    """Documents in parts of these sizes, again and again."""
    found: list[Document] = []
    for text in texts:
        at = 0
        while at < len(text):
            size = sizes[len(found) % len(sizes)]
            found.append(Document("d", text[at : at + size], at + size < len(text)))
            at += size
    return found


def joined(found: Iterable[Piece | TextPart]) -> list[tuple[str, bool]]:
    out: list[tuple[str, bool]] = []
    more = False
    for part in found:
        if more:
            assert out[-1][1] == part.held_out
            out[-1] = (out[-1][0] + part.text, part.held_out)
        else:
            out.append((part.text, part.held_out))
        more = part.more
    assert not more
    return out


@settings(max_examples=300, deadline=None)
@given(texts=TEXTS, sizes=SIZES, fraction=st.sampled_from([0, 0.1, 0.3, 0.5]))
def test_the_cuts_do_not_depend_on_how_a_document_is_read(
    texts: list[str], sizes: list[int], fraction: float
) -> None:
    whole = [Document("d", t) for t in texts]
    apart = divided(texts, sizes)
    assert joined(split(apart, fraction)) == joined(split(whole, fraction))
    once, again = list(parts(split(whole, fraction))), list(parts(split(apart, fraction)))
    assert once == again
    assert joined(once) == joined(split(whole, fraction))
    assert [b.key for b in batches(split(whole, fraction))] == [
        b.key for b in batches(split(apart, fraction))
    ]


@settings(max_examples=200, deadline=None)
@given(texts=TEXTS)
def test_parts_are_bounded_and_end_with_a_word(texts: list[str]) -> None:
    pieces = [Piece(t, False) for t in texts if t]
    for part in parts(pieces):
        assert 0 < len(part.text) <= 16 + 6
        if part.more and len(part.text) > 16:
            assert part.text[-1].isalpha()


@settings(max_examples=100, deadline=None)
@given(texts=TEXTS)
def test_batches_hold_all_parts_in_order(texts: list[str]) -> None:
    pieces = [Piece(t, False) for t in texts if t]
    made = list(batches(pieces))
    assert [p for b in made for p in parts_of(b)] == list(parts(pieces))
    assert [b.number for b in made] == list(range(len(made)))
    assert sum(b.text_bytes for b in made) == sum(len(t) for t in texts)
    assert all(50 <= b.text_bytes < 50 + 23 for b in made[:-1])
