"""Where a peer says that it is: a fixed list of cities, each under its airport's IATA code.

A region is for people: a point on a map, given by whoever joins. Nothing checks that it is true.
The table (regions.tsv, 7,000 airports) is text that is searched, never parsed as a whole, so that a
coordinator pays for it with one read.
"""

from __future__ import annotations

import difflib
import functools
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from farflung.errors import UserError

TABLE = Path(__file__).with_name("regions.tsv")
OTHERS = "# others\n"
"""Before it stand the main airports of large cities."""
SAME_KM = 150.0
"""Airports of one city are no further apart."""
MOST_SHOWN = 6


@dataclass(frozen=True)
class Region:
    """One line of the table."""

    code: str
    """IATA, three capitals or digits."""
    city: str
    division: str
    """State or province; may be empty."""
    country: str
    """ISO 3166, two letters."""
    lat: float
    """Degrees north."""
    lon: float
    """Degrees east."""

    @property
    def words(self) -> str:
        """`PDX (Portland, Oregon, US)`"""
        return (
            f"{self.code} ({', '.join(p for p in (self.city, self.division, self.country) if p)})"
        )


@functools.cache
def table() -> str:
    """The whole list; the main airports of large cities come first."""
    return TABLE.read_text(encoding="utf-8")


def known(code: str) -> bool:
    """Whether this is a code of the list, exactly as it stands there."""
    return region(code) is not None


def region(code: str) -> Region | None:
    """The place with this code."""
    if len(code) != 3 or not code.isascii() or not code.isalnum():
        return None
    text = table()
    at = text.find(f"\n{code}\t") + 1
    return _parsed(text[at : text.index("\n", at)]) if at else None


def resolve(words: str) -> str:
    """The code of `FRA`, `Frankfurt`, `Portland, Oregon` or `London, GB`. Raises UserError."""
    place = region(words.strip().upper())
    if place is not None:
        return place.code
    city, *rest = (_plain(part) for part in words.split(","))
    every = [(_plain(r.city), r) for r in _regions()]
    found = [r for name, r in every if name == city and _in(r, rest)] or [
        r for name, r in every if name.startswith((f"{city} ", f"{city}-")) and _in(r, rest)
    ]  # `frankfurt` is `Frankfurt am Main`
    if not city or not found:
        raise UserError(_unknown(words, city, every))
    return _choose(words, found, len(rest) > 0).code


def _choose(words: str, found: Sequence[Region], told_where: bool) -> Region:
    """Cities of one name: the table's first when it is a main one or all are one place."""
    first = found[0]
    if _is_main(first) or all(_distance_km(first, r) <= SAME_KM for r in found):
        return first
    which = ", ".join(r.words for r in found[:MOST_SHOWN])
    more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
    how = "its code" if told_where else "its code, or the country after a comma"
    raise UserError(f"region {words!r} is ambiguous: {which}{more}; give {how}")


def _unknown(words: str, city: str, every: Sequence[tuple[str, Region]]) -> str:
    names = {  # of one name, the first one stays
        alias: place for name, place in reversed(every) for alias in (name, name.split(" ")[0])
    }
    close = difflib.get_close_matches(city, names, n=3, cutoff=0.75) if city else []
    hint = (
        f"; did you mean {', '.join(dict.fromkeys(names[c].words for c in close))}?"
        if close
        else ""
    )
    return (
        f"region {words[:64]!r} is not in the list; give a city or the IATA code of its airport, "
        f"like Frankfurt or FRA{hint}"
    )


def _in(place: Region, rest: Sequence[str]) -> bool:
    here = {_plain(place.division), _plain(place.country)}
    return all(part in here for part in rest)


def _is_main(place: Region) -> bool:
    text = table()
    return text.index(f"\n{place.code}\t") < text.index(OTHERS)


def _plain(words: str) -> str:
    """Without case, accents and outer blanks."""
    parts = unicodedata.normalize("NFKD", words.casefold())
    return "".join(c for c in parts if not unicodedata.combining(c)).strip()


def _regions() -> Iterator[Region]:
    return (_parsed(line) for line in table().splitlines() if not line.startswith("#"))


def _parsed(line: str) -> Region:
    code, city, division, country, lat, lon = line.split("\t")
    return Region(code, city, division, country, float(lat), float(lon))


def _distance_km(a: Region, b: Region) -> float:
    """Along the surface (haversine)."""
    lat_a, lat_b = math.radians(a.lat), math.radians(b.lat)
    half = math.sin((lat_b - lat_a) / 2) ** 2
    turn = math.sin(math.radians(b.lon - a.lon) / 2) ** 2
    return 12_742 * math.asin(math.sqrt(half + math.cos(lat_a) * math.cos(lat_b) * turn))
