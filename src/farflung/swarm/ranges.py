"""Half-open ranges of integers: pure functions on tuples of (start, stop).

`normalise`, `union`, `subtract` and `intersect` give sorted, disjoint, merged ranges; `take`
keeps the order that it is given.
"""

from __future__ import annotations

from collections.abc import Iterable

Ranges = tuple[tuple[int, int], ...]


def normalise(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, disjoint, touching ranges merged, empty ones dropped."""
    out: list[tuple[int, int]] = []
    for start, stop in sorted(r for r in ranges if r[0] < r[1]):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], stop))
        else:
            out.append((start, stop))
    return tuple(out)


def union(a: Iterable[tuple[int, int]], b: Iterable[tuple[int, int]]) -> Ranges:
    return normalise([*a, *b])


def intersect(a: Iterable[tuple[int, int]], b: Iterable[tuple[int, int]]) -> Ranges:
    left, right = normalise(a), normalise(b)
    out: list[tuple[int, int]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        start = max(left[i][0], right[j][0])
        stop = min(left[i][1], right[j][1])
        if start < stop:
            out.append((start, stop))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(out)


def subtract(a: Iterable[tuple[int, int]], b: Iterable[tuple[int, int]]) -> Ranges:
    """`a` without `b`, each range of `a` in its place: the order of `a` is kept."""
    holes = normalise(b)
    out: list[tuple[int, int]] = []
    for start, stop in a:
        at = start
        for low, high in holes:
            if high <= at or low >= stop:
                continue
            if low > at:
                out.append((at, low))
            at = max(at, high)
        if at < stop:
            out.append((at, stop))
    return tuple(out)


def count(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(stop - start for start, stop in ranges)


def contains(outer: Iterable[tuple[int, int]], inner: Iterable[tuple[int, int]]) -> bool:
    return not subtract(normalise(inner), outer)


def take(ranges: Iterable[tuple[int, int]], n: int) -> tuple[Ranges, Ranges]:
    """The first n positions in the given order, and the rest."""
    first: list[tuple[int, int]] = []
    rest: list[tuple[int, int]] = []
    for start, stop in ranges:
        cut = min(stop, start + max(0, n))
        if start < cut:
            first.append((start, cut))
        if cut < stop:
            rest.append((cut, stop))
        n -= cut - start
    return tuple(first), tuple(rest)
