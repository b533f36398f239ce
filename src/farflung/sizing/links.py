"""Links by class, or in numbers: `home`, `1gbit`, `200/20mbit,40ms,nat`."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from farflung.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LinkClass:
    """A peer's way to the internet. Rates in bytes/s."""

    name: str
    up: float
    down: float
    rtt_s: float
    """Round trip to another peer."""
    dialable: bool = True
    """Others can connect to it; a peer behind a home router only dials out."""


def _link(name: str, down: float, up: float, rtt_ms: float, *, dialable: bool = True) -> LinkClass:
    """Rates in Mb/s."""
    mega = 1e6 / 8
    return LinkClass(
        name=name, up=up * mega, down=down * mega, rtt_s=rtt_ms / 1e3, dialable=dialable
    )


LINKS: dict[str, LinkClass] = {
    link.name: link
    for link in (
        _link("home", 200, 20, 30, dialable=False),
        _link("fibre", 1000, 500, 20, dialable=False),
        _link("mobile", 50, 10, 60, dialable=False),
        _link("office", 300, 300, 25, dialable=False),
        _link("100mbit", 100, 100, 30),
        _link("1gbit", 1000, 1000, 20),
        _link("10gbit", 10_000, 10_000, 20),
        _link("datacenter", 10_000, 10_000, 2),
    )
}
_RATES = re.compile(r"(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?))?(k|m|g)(?:bit|b/s|bps)(?:/s)?")
_DELAY = re.compile(r"(\d+(?:\.\d+)?)ms")
USUAL_RTT_MS = 40.0
_MEGA = {"k": 1e-3, "m": 1.0, "g": 1e3}


def link_of(text: str) -> LinkClass:
    """A class by name, or DOWN/UP with a unit, then a round trip and `nat`. UserError."""
    words = [w.strip() for w in text.lower().split(",")]
    known = LINKS.get(words[0])
    rates = _RATES.fullmatch(words[0])
    if known is None and rates is None:
        near = difflib.get_close_matches(words[0], LINKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(LINKS)}"
        raise UserError(f"--peers: unknown link {text!r}; {hint}, or numbers: 200/20mbit,40ms")
    if known is not None:
        down, up, rtt_ms = known.down * 8 / 1e6, known.up * 8 / 1e6, known.rtt_s * 1e3
        dialable = known.dialable
    else:
        assert rates is not None
        unit = _MEGA[rates[3]]
        down = float(rates[1]) * unit
        up, rtt_ms, dialable = float(rates[2] or rates[1]) * unit, USUAL_RTT_MS, True
    for word in words[1:]:
        delay = _DELAY.fullmatch(word)
        if delay:
            rtt_ms = float(delay[1])
        elif word in ("nat", "open"):
            dialable = word == "open"
        else:
            raise UserError(f"--peers: {word!r} of the link {text!r} is no round trip; try 40ms")
    if min(down, up) <= 0:
        raise UserError(f"--peers: the link {text!r} must be faster than 0")
    return _link(text, down, up, rtt_ms, dialable=dialable)
