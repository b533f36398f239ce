"""Curves out of characters: a sparkline, a bar, a chart in braille. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character: four rows of two dots."""
BRAILLE = 0x2800


def buckets(values: Sequence[float | None], width: int) -> list[float | None]:
    """At most `width` values: the mean of each bucket; None where nothing is known."""
    n = len(values)
    if n <= width:
        return list(values)
    out: list[float | None] = []
    for i in range(width):
        part = values[i * n // width : (i + 1) * n // width]
        known = [v for v in part if v is not None and math.isfinite(v)]
        out.append(sum(known) / len(known) if known else None)
    return out


def sparkline(values: Sequence[float | None], width: int) -> str:
    """One block per bucket, from the lowest to the highest; a space where nothing is known."""
    shown = buckets(values, width)
    known = [v for v in shown if v is not None and math.isfinite(v)]
    if not known:
        return ""
    low, high = min(known), max(known)
    top = len(BLOCKS) - 1

    def block(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return " "
        return BLOCKS[round((value - low) / (high - low) * top) if high > low else top // 2]

    return "".join(map(block, shown))


def bar(share: float, width: int) -> tuple[str, str]:
    """(done, left) in `width` cells together."""
    done = min(width, max(0, round(share * width)))
    if share < 1:
        done = min(done, width - 1)
    return "━" * done, "─" * (width - done)


def plotted(
    values: Sequence[float | None], width: int, height: int, *, braille: bool = True
) -> tuple[list[str], float, float]:
    """(`height` lines of `width` cells, value at the bottom, value at the top).

    Neighbours are joined. Without `braille` a `*` per column. The range is that of the values, but
    the highest twentieth is left out of sight when it is far off: a spike must not flatten the
    rest; such values are drawn at the top.
    """
    across, down = (2, 4) if braille else (1, 1)
    shown = buckets(values, width * across)
    known = sorted(v for v in shown if v is not None and math.isfinite(v))
    if not known:
        return [" " * width] * height, math.nan, math.nan
    low, high = known[0], _without_spikes(known)
    rows = height * down

    def level(value: float | None) -> int | None:
        """Row of dots from the top."""
        if value is None or not math.isfinite(value):
            return None
        share = (min(value, high) - low) / (high - low) if high > low else 0.5
        return round((1 - share) * (rows - 1))

    levels = _stretched([level(v) for v in shown], width * across)
    dots = _joined(levels)
    lines = [_line(dots, row, width, braille) for row in range(height)]
    return lines, low, high


def _stretched(levels: list[int | None], width: int) -> list[int | None]:
    """Few values reach over the whole width: between two of them goes a straight line."""
    n = len(levels)
    if n >= width or n < 2:
        return levels
    out: list[int | None] = []
    for i in range(width):
        at = i * (n - 1) / (width - 1)
        a, b = levels[int(at)], levels[min(n - 1, int(at) + 1)]
        near = a if at - int(at) < 0.5 else b
        both = a is not None and b is not None
        out.append(round(a + (b - a) * (at - int(at))) if both else near)  # type: ignore[operator]
    return out


def _without_spikes(known: Sequence[float]) -> float:
    highest, most = known[-1], known[min(len(known) - 1, math.ceil(0.95 * len(known)))]
    spread = most - known[0]
    return most if len(known) >= 20 and spread > 0 and highest - most > spread else highest


def _joined(levels: Sequence[int | None]) -> set[tuple[int, int]]:
    """(column, row) of dots; a jump between neighbours is filled in the later column."""
    dots: set[tuple[int, int]] = set()
    before: int | None = None
    for x, y in enumerate(levels):
        if y is not None:
            start = y if before is None or before == y else before + (1 if y > before else -1)
            dots |= {(x, row) for row in range(min(start, y), max(start, y) + 1)}
        before = y
    return dots


def _line(dots: set[tuple[int, int]], row: int, width: int, braille: bool) -> str:
    if not braille:
        return "".join("*" if (x, row) in dots else " " for x in range(width))
    cells = []
    for x in range(width):
        bits = sum(
            _DOTS[dy][dx]
            for dy in range(4)
            for dx in range(2)
            if (2 * x + dx, 4 * row + dy) in dots
        )
        cells.append(chr(BRAILLE + bits) if bits else " ")
    return "".join(cells)
