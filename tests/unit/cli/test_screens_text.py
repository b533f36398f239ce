"""Strangers' text in columns: inert, and as wide as it is counted."""

from __future__ import annotations

import unicodedata

import pytest
from rich.cells import cell_len

from farflung.cli.screens.text import ascii_only, fit, inert, left, right, wrapped

HOSTILE = {
    "ansi": "\x1b[31mred\x1b[2J\x1b]0;title\x07",
    "c1": "\x9b31m\x85next",
    "lines": "one\r\ntwo\u2028three\x0bfour",
    "bidi": "\u202egnp.exe\u202c\u2066x\u2069",
    "zero-width": "a\u200bb\u200dc\ufeffd\u2060e",
    "zalgo": "e" + "\u0301" * 500,
    "leading mark": "\u0301\u0302x",
    "emoji": "👩\u200d🚀👍🏽❤\ufe0f🇩🇪",
    "cjk": "深層学習ノード" * 40,
    "tags": "\U000e0041\U000e0042x",
    "blank": "\u3164\u2800\u115f",
    "html": "<script>alert(1)</script>&amp;",
    "markup": "[bold red]x[/] :smile:",
    "long": "x" * 10_000,
    "surrogate": "a\ud800b",
    "private": "\ue000x",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = inert(text)
    for char in shown:
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"), repr(char)
    assert shown == " ".join(shown.split(" ")) and "\n" not in shown
    assert inert(shown) == shown


def test_what_is_harmless_stays_as_it_is() -> None:
    for text in ("küche", "peer-1 (FRA)", "<b>&amp;", "[bold]x[/]", "東京", "naïve", "שלום"):
        assert inert(text) == text


def test_a_flood_of_marks_stays_on_its_line() -> None:
    assert len(inert("e" + "\u0316" * 500)) <= 4
    assert inert("\u0301\u0302x") == "x", "a mark needs something to stand on"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("width", [1, 2, 7, 24])
def test_columns_are_exactly_as_wide_as_they_say(text: str, width: int) -> None:
    shown = inert(text)
    assert cell_len(fit(shown, width)) <= width
    assert cell_len(left(shown, width)) == cell_len(right(shown, width)) == width
    assert cell_len(ascii_only(left(shown, width))) == width
    assert ascii_only(left(shown, width)).isascii()
    assert all(cell_len(line) <= width for line in wrapped(shown, width))


def test_a_sentence_is_broken_between_words_and_its_end_is_marked() -> None:
    text = "north-hall is out: silent for twenty seconds; 1,600 samples returned"
    assert wrapped(text, 40) == [
        "north-hall is out: silent for twenty",
        "seconds; 1,600 samples returned",
    ]
    assert wrapped(text, 30)[-1].endswith("…")
    assert wrapped("", 30) == [] and wrapped("short", 30) == ["short"]
    assert len(wrapped("x" * 100, 30, 2)) == 2
