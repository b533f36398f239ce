"""Text and numbers on their way into JSON: strangers chose the text, and NaN is no JSON."""

from __future__ import annotations

import math

from farflung.events import printable

NAME_LENGTH = 64
TEXT_LENGTH = 500
"""Of a sentence."""
SAMPLE_LENGTH = 4000
"""Of a prompt, or of a drawn text."""


def name(text: str) -> str:
    """A name on one line, without control or bidi characters, of 64 characters at most."""
    return _cut(_line(text[: 4 * NAME_LENGTH]), NAME_LENGTH)


def sentence(text: str) -> str:
    """A sentence of 500 characters at most on one line."""
    return _cut(_line(text[: 4 * TEXT_LENGTH]), TEXT_LENGTH)


def sample(text: str) -> str:
    """A text of 4,000 characters at most that keeps its line breaks."""
    return _cut(printable(text[: SAMPLE_LENGTH + 1], keep="\n"), SAMPLE_LENGTH)


def _line(text: str) -> str:
    return " ".join((text if text.isprintable() else printable(text)).split())


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def number(value: float, digits: int = 6) -> float | None:
    """`value` with so many significant digits; None for what is not finite."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def seconds(value: float | None) -> float | None:
    """A wall time with milliseconds; None when it is not known."""
    return None if value is None or not math.isfinite(value) else round(value, 3)


def of_series(values: list[float], digits: int = 6) -> list[float | None]:
    """`number` of each."""
    return [number(value, digits) for value in values]


def of_counts(values: list[float]) -> list[int | None]:
    """Whole numbers; None for what is not finite."""
    return [round(value) if math.isfinite(value) else None for value in values]
