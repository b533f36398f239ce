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
    raw = answer if "head" in answer else _of_picture(answer)
    rounds = raw.get("rounds")
    return {
        "head": _head(raw.get("head")),
        "peers": [_checked(PEER, p) for p in _list(raw.get("peers"))],
        "rounds": {key: _numbers(_table(rounds).get(key)) for key in _COLUMNS},
        "evaluations": [_evaluation(e) for e in _list(raw.get("evaluations"))],
        "timelines": [_timeline(t) for t in _list(raw.get("timelines"))],
        "lines": [_checked(LINE, line) for line in _list(raw.get("lines"))],
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


# ---- coordinators that answer with the older picture ---------------------------------------


def _of_picture(old: Mapping[str, Any]) -> Json:
    """The same in the window's words; times and speeds are not in it."""
    peers = [_old_peer(node, p) for node, p in _table(old.get("peers")).items()]
    losses, scores = _pairs(old.get("losses")), _pairs(old.get("scores"))
    samples = [{"prompt": p, "text": t} for p, t in _pairs(old.get("samples"))]
    evaluations: list[Json] = [{"round": r, "bits_per_byte": b} for r, b in scores]
    if evaluations:
        evaluations[-1]["samples"] = samples
    peers.sort(key=lambda p: -(p["samples"] if _is_number(p["samples"]) else 0))
    trainers = [p for p in peers if p["role"] == "trainer"]
    head = {
        **{k: old.get(k) for k in HEAD},
        "state": _old_state(old),
        "reason": old.get("blocked") or old.get("paused") or "",
        "rounds": old.get("committed"),
        "loss": losses[-1][1] if losses else None,
        "bits_per_byte": scores[-1][1] if scores else None,
        "peers_active": sum(p["state"] == "active" for p in trainers),
        "peers_seen": len(trainers),
        "bytes_up": sum(p["bytes_up"] for p in peers),
        "bytes_down": sum(p["bytes_down"] for p in peers),
        "sources": _old_sources(old.get("sources")),
        "utilisation": _old_utilisation(_table(old.get("peers"))),
    }
    lines = [{"kind": "trouble", "text": note} for note in reversed(_list(old.get("notes")))]
    rounds = {"round": [r for r, _ in losses], "loss": [v for _, v in losses]}
    return {
        "head": head,
        "peers": peers,
        "evaluations": evaluations,
        "lines": lines,
        "rounds": rounds,
        "timelines": [],
    }


def _old_state(old: Mapping[str, Any]) -> str:
    if old.get("finished"):
        return "finished"
    if not old.get("running"):
        return "stopped"
    if old.get("paused") or old.get("blocked"):
        first = not old.get("committed") and not old.get("blocked")
        return "waiting" if first else "paused"
    return "running"


def _old_peer(node: object, raw: object) -> Json:
    peer = _table(raw)
    computing, waiting = peer.get("compute_s"), peer.get("wait_s")
    return {
        **{k: peer.get(k) for k in PEER},
        "node": node,
        "why": peer.get("unreachable"),
        "role": str(peer.get("role", "")),
        **{k: peer[k] if _is_number(peer.get(k)) else 0 for k in ("bytes_up", "bytes_down")},
        "utilisation": _share(computing, waiting),
    }


def _old_utilisation(peers: Mapping[str, Any]) -> float | None:
    tables = [_table(p) for p in peers.values()]
    sums = [
        sum(p[key] for p in tables if _is_number(p.get(key))) for key in ("compute_s", "wait_s")
    ]
    return _share(*sums)


def _share(part: Any, rest: Any) -> float | None:
    if not (_is_number(part) and _is_number(rest)) or part + rest <= 0:
        return None
    return float(part / (part + rest))


def _old_sources(raw: object) -> list[Json]:
    sources = [s for s in _list(raw) if isinstance(s, Mapping)]
    total = sum(s["weight"] for s in sources if _is_number(s.get("weight"))) or 1
    return [
        {
            "name": s.get("name"),
            "share": s["weight"] / total if _is_number(s.get("weight")) else 0,
            "samples": s.get("consumed"),
            "epochs": s["consumed"] / max(1, s["epoch_rows"])
            if _is_number(s.get("consumed")) and _is_number(s.get("epoch_rows"))
            else 0,
        }
        for s in sources
    ]


def _pairs(raw: object) -> list[tuple[Any, Any]]:
    return [(p[0], p[1]) for p in _list(raw) if isinstance(p, (list, tuple)) and len(p) == 2]
