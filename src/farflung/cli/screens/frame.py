"""What the screens are made from: the window's JSON (web/src/types.ts, `Frame`), checked and inert.

A coordinator of another version may leave fields out or send others; a stranger's host may send
anything. Here every text becomes harmless, once, and every field gets the type that screens count
on. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from farflung.cli.screens.text import inert

Json = dict[str, Any]

_UNKNOWN = None
HEAD: Json = {
    **dict.fromkeys(("run", "name", "descent", "reason", "state_root"), ""),
    **dict.fromkeys(("uploading", "keeper_disk"), ""),
    **dict.fromkeys(("parameters", "term", "rounds", "rounds_wanted", "abandoned", "rejected"), 0),
    **dict.fromkeys(("tokens", "peers_active", "peers_seen", "regions", "bytes_up"), 0),
    **dict.fromkeys(("bytes_down", "agreements", "disagreements"), 0),
    **dict.fromkeys(("at", "since", "started", "tokens_wanted", "eta_s", "tokens_per_s"), _UNKNOWN),
    **dict.fromkeys(("tflops", "mfu", "utilisation", "loss", "bits_per_byte"), _UNKNOWN),
    "reduction": _UNKNOWN,
    "state": "running",
    "round": -1,
    "archived": -1,
    "settings": {},
    "sources": [],
    "drift": [],
}
PEER: Json = {
    **dict.fromkeys(("node", "name", "why", "region", "device", "software"), ""),
    "role": "trainer",
    "state": "joined",
    **dict.fromkeys(("rounds", "steps", "samples", "tokens", "share", "strikes", "uptime_s"), 0),
    **dict.fromkeys(("bytes_up", "bytes_down"), 0),
    **dict.fromkeys(("joined", "loss", "tokens_per_s", "mfu", "utilisation"), _UNKNOWN),
    **dict.fromkeys(("grad_norm", "memory_bytes"), _UNKNOWN),
}
LINE: Json = {
    "serial": 0,
    "at": _UNKNOWN,
    "kind": "note",
    "round": _UNKNOWN,
    "name": "",
    "text": "",
}
SOURCE: Json = {"name": "", "share": 0, "samples": 0, "epochs": 0}
EVALUATION: Json = {"round": 0, "at": _UNKNOWN, "bits_per_byte": _UNKNOWN, "by": "", "samples": []}
SAMPLE: Json = {"prompt": "", "text": ""}
TIMELINE: Json = {
    "round": -1,
    "opened": _UNKNOWN,
    "resolved": _UNKNOWN,
    "outcome": "open",
    "phases": [],
    "peers": [],
}
TRACK: Json = {"node": "", "name": "", "spans": [], "ready": _UNKNOWN, "left_out": ""}
_COLUMNS = ("round", "loss", "tokens_per_s", "at")


def frame_of(answer: Mapping[str, Any]) -> Json:
    """The checked frame of what a coordinator or a fold has answered."""
    rounds = answer.get("rounds")
    peers = [_checked(PEER, p) for p in _list(answer.get("peers"))]
    total = _checked({"peers_total": 0}, answer)["peers_total"]
    return {
        "head": _head(answer.get("head")),
        "peers": peers,
        "peers_total": max(len(peers), int(total)),
        "rounds": {key: _numbers(_table(rounds).get(key)) for key in _COLUMNS},
        "evaluations": [_evaluation(e) for e in _list(answer.get("evaluations"))],
        "timelines": [_timeline(t) for t in _list(answer.get("timelines"))],
        "lines": [_checked(LINE, line) for line in _list(answer.get("lines"))],
    }


def _head(raw: object) -> Json:
    head = _checked(HEAD, raw)
    head["sources"] = [_checked(SOURCE, s) for s in _list(head["sources"])]
    head["settings"] = {inert(str(k)): inert(str(v)) for k, v in head["settings"].items()}
    return head


def _evaluation(raw: object) -> Json:
    found = _checked(EVALUATION, raw)
    found["samples"] = [_sample(s) for s in _list(found["samples"])]
    return found


def _sample(raw: object) -> Json:
    """What the model wrote goes on where the prompt ends, perhaps with a space."""
    found, text = _checked(SAMPLE, raw), _table(raw).get("text")
    apart = isinstance(text, str) and text[:1].isspace()
    return {**found, "text": " " * apart + found["text"]}


def _timeline(raw: object) -> Json:
    found = _checked(TIMELINE, raw)
    found["phases"] = [inert(str(p)) for p in found["phases"]]
    found["peers"] = [
        {**track, "spans": [v or 0.0 for v in _numbers(track["spans"])]}
        for track in (_checked(TRACK, t) for t in _list(found["peers"]))
    ]
    return found


def _checked(shape: Json, raw: object) -> Json:
    """The fields of a shape: texts inert, numbers finite, all else as the shape says."""
    given = _table(raw)
    return {key: _like(default, given.get(key, default)) for key, default in shape.items()}


def _like(default: object, value: object) -> Any:
    if isinstance(default, str):
        return inert(value) if isinstance(value, str) else default
    if isinstance(default, (list, dict)):
        return value if isinstance(value, type(default)) else default
    return value if _is_number(value) else default


def _is_number(value: object) -> bool:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    return fits and math.isfinite(value)  # type: ignore[arg-type]


def _numbers(raw: object) -> list[float | None]:
    return [v if _is_number(v) else None for v in _list(raw)]


def _list(raw: object) -> list[Any]:
    return raw if isinstance(raw, list) else []


def _table(raw: object) -> Mapping[str, Any]:
    return raw if isinstance(raw, Mapping) else {}
