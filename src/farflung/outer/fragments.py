"""Fragments: fixed sets of ranges of the flat vector, synchronised together.

Layer i belongs to fragment i mod P (strided: Streaming DiLoCo, arXiv 2501.18512, found it slightly
better than consecutive layers); what belongs to no layer goes where the fewest bytes are.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from farflung.outer.layout import Entry, Layout

# legend: N = elements of the flat vector, F = elements of one fragment
Float32 = npt.NDArray[np.float32]
Range = tuple[int, int]
Fragment = tuple[Range, ...]
Fragments = tuple[Fragment, ...]

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def make_fragments(layout: Layout, count: int) -> Fragments:
    """`count` fragments that cover the vector exactly once; deterministic."""
    if count == 1:
        return (((0, layout.size),),)
    layers = [_layer_of(e) for e in layout.entries]
    if len({layer for layer in layers if layer is not None}) < count:
        return _even(layout.size, count)
    owned: list[list[Range]] = [[] for _ in range(count)]
    loose: list[Entry] = []
    for entry, layer in zip(layout.entries, layers, strict=True):
        if layer is None:
            loose.append(entry)
        else:
            owned[layer % count].append((entry.offset, entry.offset + entry.size))
    for entry in sorted(loose, key=lambda e: (-e.size, e.offset)):
        lightest = min(range(count), key=lambda f: (size(tuple(owned[f])), f))
        owned[lightest].append((entry.offset, entry.offset + entry.size))
    return tuple(_merge(ranges) for ranges in owned)


def _layer_of(entry: Entry) -> int | None:
    found = _LAYER.search(f".{entry.name}")
    return int(found[1]) if found else None


def _even(n: int, count: int) -> Fragments:
    cuts = [n * i // count for i in range(count + 1)]
    return tuple(((cuts[i], cuts[i + 1]),) for i in range(count))


def _merge(ranges: list[Range]) -> Fragment:
    out: list[Range] = []
    for start, stop in sorted(ranges):
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], stop)
        elif start < stop:
            out.append((start, stop))
    return tuple(out)


def size(fragment: Fragment) -> int:
    """F."""
    return sum(stop - start for start, stop in fragment)


def gather(flat_N: Float32, fragment: Fragment, out: Float32 | None = None) -> Float32:
    """A copy of a fragment's values, its ranges one after the other. float32 [F]."""
    out_F = np.empty(size(fragment), np.float32) if out is None else out
    at = 0
    for start, stop in fragment:
        out_F[at : at + stop - start] = flat_N[start:stop]
        at += stop - start
    return out_F


def scatter(values_F: Float32, flat_N: Float32, fragment: Fragment) -> None:
    """Write a fragment's values back into the flat vector."""
    at = 0
    for start, stop in fragment:
        flat_N[start:stop] = values_F[at : at + stop - start]
        at += stop - start
