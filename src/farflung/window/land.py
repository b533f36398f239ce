"""Land of the page's map as rings of longitude and latitude, for pictures without a browser.

static/world.json is TopoJSON of Natural Earth (public domain) with its arcs as delta-coded text:
zigzag, five bits a character, as in encoded polylines; web/map/world.mjs writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

Ring = list[tuple[float, float]]
"""(longitude, latitude) in degrees, closed."""

WORLD = Path(__file__).with_name("static") / "world.json"


def land() -> list[Ring]:
    """Outlines of all land; empty for a package without the page."""
    try:
        packed = json.loads(WORLD.read_text(encoding="utf-8"))
    except OSError:
        return []
    scale, shift = packed["transform"]["scale"], packed["transform"]["translate"]
    arcs = [_arc(text, scale, shift) for text in packed["arcs"].split(" ")]
    rings = (_ring(ring, arcs) for ring in _rings(packed["objects"]["land"]))
    return [part for ring in rings for part in _cut(ring)]


def _cut(ring: Ring) -> list[Ring]:
    """A ring that crosses the 180th meridian in two, one on each side of the picture."""
    turns, unwrapped = 0, ring[:1]
    for (before, _), (lon, lat) in pairwise(ring):
        turns += (lon - before < -180) - (lon - before > 180)
        unwrapped.append((lon + 360 * turns, lat))
    least, most = min(lon for lon, _ in unwrapped), max(lon for lon, _ in unwrapped)
    if most <= 180 and least >= -180:
        return [unwrapped]
    shift = 360 if most > 180 else -360
    side = 180 if most > 180 else -180
    inside = [(min(lon, side) if side > 0 else max(lon, side), lat) for lon, lat in unwrapped]
    over = [(lon - shift, lat) for lon, lat in unwrapped]
    return [inside, [(max(lon, -180) if side > 0 else min(lon, 180), lat) for lon, lat in over]]


def _rings(shape: dict[str, Any]) -> Iterator[list[int]]:
    if shape["type"] == "GeometryCollection":
        for part in shape["geometries"]:
            yield from _rings(part)
    elif shape["type"] == "MultiPolygon":
        for polygon in shape["arcs"]:
            yield from polygon
    elif shape["type"] == "Polygon":
        yield from shape["arcs"]


def _ring(numbers: list[int], arcs: list[Ring]) -> Ring:
    points: Ring = []
    for number in numbers:
        arc = arcs[number] if number >= 0 else arcs[~number][::-1]
        points += arc[1:] if points else arc
    return points


def _arc(text: str, scale: list[float], shift: list[float]) -> Ring:
    points: Ring = []
    x = y = 0
    values = _values(text)
    for dx, dy in zip(values, values, strict=False):
        x, y = x + dx, y + dy
        points.append((x * scale[0] + shift[0], y * scale[1] + shift[1]))
    return points


def _values(text: str) -> Iterator[int]:
    value = bits_read = 0
    for character in text:
        bits = ord(character) - 63
        value |= (bits & 31) << bits_read
        if bits >= 32:
            bits_read += 5
            continue
        yield -((value + 1) >> 1) if value & 1 else value >> 1
        value = bits_read = 0
