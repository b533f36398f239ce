"""The window's questions: what a path and its query ask of the view, and the answer's bytes.

Pure: no socket, no clock. The shapes are those of web/src/types.ts (docs/api.md for people).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from farflung.errors import ProtocolError
from farflung.monitor.view import View
from farflung.window.export import rounds_csv
from farflung.window.metrics import METRICS_TYPE, metrics_text

JSON = "application/json; charset=utf-8"
CSV = "text/csv; charset=utf-8"

MOST_POINTS = 4000
MOST_PEERS = 1024
"""In one answer about rounds or links."""
MOST_TIMELINES = 64
MOST_LINES = 500
LONGEST_WORD = 100
LARGEST = 1 << 53
LINE_KINDS = ("round", "peer", "trouble", "state", "evaluation", "note")

Query = Mapping[str, str]
Answer = Callable[[View, float], bytes | None]
"""The body at this wall clock; None: there is no such thing."""


class QuestionRefused(ProtocolError):
    """One sentence for whoever asked: what the value must be."""


@dataclass(frozen=True)
class Asked:
    """What one GET asks. Equal keys have equal answers while the view stands still."""

    key: str
    content_type: str
    answer: Answer


def question(path: str, query: Query) -> Asked | None:
    """The question of a path below the window's root; None for a path that asks nothing.

    Raises QuestionRefused for a query with a value that cannot be.
    """
    if path.startswith(_PEER):
        node = path.removeprefix(_PEER)
        if not _NODE.fullmatch(node):
            return None
        return _asked(path, lambda v, now: _or_none(v.peer_page(node, now)))
    found = _QUESTIONS.get(path)
    return None if found is None else found(path, query)


def encoded(value: Any) -> bytes:
    """JSON; what is not finite becomes null."""
    return msgspec.json.encode(value)


def _or_none(value: Any) -> bytes | None:
    return None if value is None else encoded(value)


def _asked(key: str, answer: Answer, content_type: str = JSON) -> Asked:
    return Asked(key, content_type, answer)


def _plain(value: Callable[[View, float], Any]) -> Callable[[str, Query], Asked]:
    """A question without a query: all that is in one is passed over."""
    return lambda path, _: _asked(path, lambda view, now: encoded(value(view, now)))


def _rounds(path: str, query: Query) -> Asked:
    first, stop = _span(query)
    points = _number(query, "points", 1000, 1, MOST_POINTS)
    key = f"{path} {first} {stop} {points}"
    return _asked(key, lambda v, _: encoded(v.rounds(first, stop, points)))


def _timeline(path: str, query: Query) -> Asked:
    first, stop = _span(query)
    if stop is None or stop <= first:
        stop = first + 1
    if stop - first > MOST_TIMELINES:
        raise QuestionRefused(f"at most {MOST_TIMELINES} rounds at once: to={stop} is too far")
    peers = _number(query, "peers", 64, 1, MOST_PEERS)
    end = stop
    return _asked(
        f"{path} {first} {end} {peers}", lambda v, _: encoded(v.timelines(first, end, peers))
    )


def _links(path: str, query: Query) -> Asked:
    most = _number(query, "peers", 64, 2, MOST_PEERS)
    return _asked(f"{path} {most}", lambda v, _: encoded(v.links(most)))


def _lines(path: str, query: Query) -> Asked:
    before = _number(query, "before", -1, 0, LARGEST)
    limit = _number(query, "limit", 200, 1, MOST_LINES)
    kind, words = query.get("kind", ""), query.get("q", "")
    if kind and kind not in LINE_KINDS:
        raise QuestionRefused(f"kind={kind[:20]!r} is none of {', '.join(LINE_KINDS)}")
    if len(words) > LONGEST_WORD:
        raise QuestionRefused(
            f"q has {len(words)} characters; at most {LONGEST_WORD} are looked for"
        )
    earlier = None if before < 0 else before
    key = f"{path} {before} {limit} {kind} {words}"
    return _asked(key, lambda v, _: encoded(v.lines(earlier, limit, kind, words)))


def _span(query: Query) -> tuple[int, int | None]:
    first = _number(query, "from", 0, 0, LARGEST)
    stop = _number(query, "to", -1, 0, LARGEST)
    return first, None if stop < 0 else stop


def _number(query: Query, name: str, default: int, least: int, most: int) -> int:
    """Of the query, or the default."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise QuestionRefused(f"{name}={text[:20]!r} must be a whole number from {least} to {most}")
    return int(text)


_ROOT = "api/v1/"
_NODE = re.compile("[0-9a-f]{1,64}")
_PEER = f"{_ROOT}peers/"
_QUESTIONS: dict[str, Callable[[str, Query], Asked]] = {
    f"{_ROOT}head": _plain(lambda v, now: v.head(now)),
    f"{_ROOT}frame": _plain(lambda v, now: v.frame(now)),
    f"{_ROOT}evaluations": _plain(lambda v, _: v.evaluations()),
    f"{_ROOT}peers": _plain(lambda v, now: v.peers(now)),
    f"{_ROOT}regions": _plain(lambda v, _: v.regions()),
    f"{_ROOT}rounds": _rounds,
    f"{_ROOT}rounds.csv": lambda path, _: _asked(path, lambda v, _: rounds_csv(v).encode(), CSV),
    f"{_ROOT}timeline": _timeline,
    f"{_ROOT}links": _links,
    f"{_ROOT}lines": _lines,
    "metrics": lambda path, _: _asked(
        path, lambda v, now: metrics_text(v.head(now), v.peers(now)), METRICS_TYPE
    ),
}
