"""Fragments: fixed sets of ranges of the flat vector that are synchronised together.

Source: Streaming DiLoCo (arXiv 2501.18512), section 2: whole layers, strided (layer i belongs to
fragment i mod P). Differs from the paper: embedding, head and norms have no fragment of their
own but go where they keep the fragments balanced, so that no round sends much more than another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from farflung.errors import ConfigError
from farflung.outer.layout import Entry, Layout

# legend: F = elements of one fragment, N = elements of the whole flat vector
Float32 = npt.NDArray[np.float32]
Range = tuple[int, int]
"""Half-open [first, stop) of the flat vector."""
Fragment = tuple[Range, ...]
Fragments = tuple[Fragment, ...]

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def make_fragments(layout: Layout, fragments: int) -> Fragments:
    """`fragments` parts (P) that cover the flat vector exactly once; a pure function of both.

    None is empty. Raises ConfigError when P is below 1 or above the number of elements.
    """
    if fragments == 1:
        return (((0, layout.size),),)
    if not 1 <= fragments <= layout.size:
        raise ConfigError(
            f"outer.fragments={fragments} must be in 1..{layout.size}, the model's elements"
        )
    entries = [entry for entry in layout.entries if entry.size]
    parts = _strided(entries, fragments)
    if parts is not None:
        return parts
    if len(entries) >= fragments:
        return _on_boundaries(entries, layout.size, fragments)
    return _even(layout.size, fragments)


def size(fragment: Fragment) -> int:
    """Elements of a fragment."""
    return sum(stop - first for first, stop in fragment)


def offsets(fragment: Fragment) -> list[int]:
    """Where each range begins in the fragment's own order."""
    return list(accumulate((stop - first for first, stop in fragment[:-1]), initial=0))


def places(fragment: Fragment) -> Iterator[tuple[slice, slice]]:
    """(place in the flat vector, place in the fragment's own vector) of each range, in order."""
    at = 0
    for first, stop in fragment:
        yield slice(first, stop), slice(at, at + stop - first)
        at += stop - first


def view_or_gather(flat_N: Float32, fragment: Fragment) -> Float32:
    """The fragment's elements, float32[F]: a view when it is one range, else a copy.

    Whoever holds it sees later writes to the flat vector, or does not: only for reading while
    nobody writes.
    """
    if len(fragment) == 1:
        first, stop = fragment[0]
        return flat_N[first:stop]
    return gather(flat_N, fragment)


def cut(fragment: Fragment, first: int, stop: int) -> Fragment:
    """The ranges that hold the elements [first, stop) of the fragment's own vector."""
    parts: list[Range] = []
    for there, here in places(fragment):
        begin, end = max(first, here.start), min(stop, here.stop)
        if begin < end:
            shift = there.start - here.start
            parts.append((begin + shift, end + shift))
    return tuple(parts)


def gather(flat_N: Float32, fragment: Fragment, out: Float32 | None = None) -> Float32:
    """A copy of the fragment's elements, float32[F], in the order of its ranges.

    Raises ValueError when `out` has another length.
    """
    out_F = np.empty(size(fragment), np.float32) if out is None else out
    _check_length(out_F, fragment)
    at = 0
    for first, stop in fragment:
        out_F[at : at + stop - first] = flat_N[first:stop]
        at += stop - first
    return out_F


def scatter(values_F: Float32, flat_N: Float32, fragment: Fragment) -> None:
    """The inverse of `gather`: write the fragment's elements into the flat vector, in place.

    Raises ValueError when `values_F` has another length.
    """
    _check_length(values_F, fragment)
    at = 0
    for first, stop in fragment:
        flat_N[first:stop] = values_F[at : at + stop - first]
        at += stop - first


def _check_length(values_F: Float32, fragment: Fragment) -> None:
    if values_F.shape != (size(fragment),):
        raise ValueError(f"shape {values_F.shape} does not fit a fragment of {size(fragment)}")


def _strided(entries: Sequence[Entry], fragments: int) -> Fragments | None:
    """Layer i in fragment i mod P, the rest by size; None when a fragment would stay empty."""
    members: list[list[Entry]] = [[] for _ in range(fragments)]
    weights = [0] * fragments
    rest: list[Entry] = []
    for entry in entries:
        layer = _LAYER.search(entry.name)
        if layer is None:
            rest.append(entry)
            continue
        part = int(layer[1]) % fragments
        members[part].append(entry)
        weights[part] += entry.size
    if len(rest) == len(entries):
        return None
    for entry in sorted(rest, key=lambda e: (-e.size, e.offset)):
        part = weights.index(min(weights))
        members[part].append(entry)
        weights[part] += entry.size
    return tuple(_joined(part) for part in members) if all(members) else None


def _joined(entries: Iterable[Entry]) -> Fragment:
    """The entries' ranges in order of offset, neighbours joined."""
    ranges: list[Range] = []
    for entry in sorted(entries, key=lambda e: e.offset):
        first, stop = entry.offset, entry.offset + entry.size
        if ranges and ranges[-1][1] == first:
            first = ranges.pop()[0]
        ranges.append((first, stop))
    return tuple(ranges)


def _on_boundaries(entries: Sequence[Entry], elements: int, fragments: int) -> Fragments:
    """Contiguous parts, cut at the entry boundary nearest to each even cut."""
    bounds = [entry.offset for entry in entries] + [elements]
    cuts = [0]
    for k in range(1, fragments):
        target = elements * k // fragments
        choices = range(cuts[-1] + 1, len(entries) - (fragments - k) + 1)
        cuts.append(min(choices, key=lambda i: (abs(bounds[i] - target), i)))
    cuts.append(len(entries))
    return tuple(((bounds[a], bounds[b]),) for a, b in pairwise(cuts))


def _even(elements: int, fragments: int) -> Fragments:
    """Contiguous parts of equal length (to one element), wherever that cuts."""
    cuts = [elements * k // fragments for k in range(fragments + 1)]
    return tuple(((a, b),) for a, b in pairwise(cuts))
