"""Frames as a coordinator would answer them (web/src/types.ts), for tests of the screens."""

from __future__ import annotations

import math
import random
from typing import Any

Json = dict[str, Any]

NOW = 1_800_000_000.0
PHASES = ["train", "wait", "encode", "send", "reduce", "receive", "vote", "merge"]
DEVICES = ["NVIDIA H200", "NVIDIA GeForce RTX 4090", "Xeon Gold 6430, 8 threads", "Apple M3 Max"]
NAMES = ["kitchen", "basement-gpu", "lab-07", "quiet-otter", "north-hall", "spare-laptop"]


def peer(number: int, *, name: str = "", state: str = "active", role: str = "trainer") -> Json:
    trains = role == "trainer"
    return {
        "node": f"{number:040x}",
        "name": name or NAMES[number % len(NAMES)] + ("" if number < 6 else f"-{number}"),
        "role": role,
        "state": state,
        "why": "",
        "region": "FRA",
        "device": DEVICES[number % 4] if trains else "",
        "software": "farflung 0.1.0",
        "joined": NOW - 8000,
        "uptime_s": 7900.0,
        "rounds": 212 - 7 * number if trains else 0,
        "steps": 50 * (212 - 7 * number) if trains else 0,
        "samples": 1600 * (212 - 7 * number) if trains else 0,
        "tokens": 12_100_000 - 900_000 * number if trains else 0,
        "share": 0.25 / (1 + number / 4) if trains else 0,
        "strikes": 0,
        "loss": 2.31 + number / 100 if trains else None,
        "tokens_per_s": 8123.0 / (1 + number / 3) if trains else None,
        "mfu": 0.41 - number / 50 if trains else None,
        "utilisation": 0.94 - number / 30 if trains else None,
        "grad_norm": 0.8,
        "memory_bytes": 61 << 30,
        "bytes_up": 320_400_000 - 1_000_000 * number,
        "bytes_down": 310_000_000,
        "agrees": True,
    }


def rounds(n: int = 212) -> Json:
    draw = random.Random(5)
    loss = [4.02 * math.exp(-r / 60) * 0.4 + 2.25 + draw.gauss(0, 0.035) for r in range(n)]
    loss[n // 3] = 3.9  # a spike
    return {
        "from": 0,
        "to": n,
        "stride": 1,
        "round": list(range(n)),
        "loss": loss,
        "tokens_per_s": [
            21_000 + draw.gauss(0, 600) - (9000 if 80 < r < 95 else 0) for r in range(n)
        ],
        "at": [NOW - 10 * (n - r) for r in range(n)],
    }


def timeline(round_: int, peers: list[Json], *, outcome: str = "committed") -> Json:
    tracks = []
    for i, p in enumerate(p for p in peers if p["role"] == "trainer"):
        train = 6.1 + 0.9 * (i % 4)
        spans: list[float] = [0, 0.0, train, 2, train, train + 0.3]
        spans += [3, train + 0.3, train + 0.9, 1, train + 0.9, 9.4, 4, 9.4, 9.9]
        spans += [5, 9.9, 10.5, 6, 10.5, 10.9, 7, 10.9, 11.2]
        ready = train + 0.9
        if outcome == "open":
            spans, ready = [], None if i % 2 else ready
        tracks.append(
            {"node": p["node"], "name": p["name"], "spans": spans, "ready": ready, "left_out": ""}
        )
    return {
        "round": round_,
        "fragment": 1,
        "opened": NOW - 12,
        "resolved": None if outcome == "open" else NOW - 1,
        "outcome": outcome,
        "attempts": 1,
        "phases": PHASES,
        "peers": tracks,
        "more": 0,
    }


def head(**changes: Any) -> Json:
    return {
        "version": 1,
        "at": NOW,
        "run": "9f86d081884c7d65",
        "name": "books",
        "descent": "",
        "parameters": 124_300_000,
        "term": 1,
        "state": "running",
        "reason": "",
        "since": NOW - 840,
        "started": NOW - 8000,
        "round": 212,
        "rounds": 212,
        "rounds_wanted": 1000,
        "abandoned": 3,
        "rejected": 1,
        "tokens": 48_200_000,
        "tokens_wanted": None,
        "eta_s": 8040.0,
        "tokens_per_s": 21_300.0,
        "tflops": 17.6,
        "mfu": 0.41,
        "utilisation": 0.94,
        "loss": 2.3127,
        "bits_per_byte": 1.452,
        "peers_active": 4,
        "peers_seen": 6,
        "regions": 3,
        "bytes_up": 1_260_000_000,
        "bytes_down": 1_310_000_000,
        "reduction": 412.3,
        "state_root": "9f3ad1c0ffee" * 5 + "0000",
        "agreements": 840,
        "disagreements": 0,
        "drift": [],
        "archived": 200,
        "uploading": "round 210: 40 %, 2 min left",
        "keeper_disk": "1.2 GiB of 20.0 GiB; 3.1 GiB a day, full in 6 days",
        "settings": {"steps": 50},
        "sources": [],
        "map": True,
        **changes,
    }


def frame(peers: list[Json] | None = None, **changes: Any) -> Json:
    """A run of six peers and a keeper, in its 213th round."""
    everybody = [peer(i) for i in range(4)] if peers is None else peers
    if peers is None:
        everybody += [peer(4, state="gone"), peer(5, state="suspect")]
        everybody.append(peer(9, name="keeper", role="keeper"))
    return {
        "head": head(**changes),
        "rounds": rounds(),
        "evaluations": [
            {
                "round": 50 * (i + 1),
                "at": NOW - 600,
                "bits_per_byte": 2.1 - 0.2 * i + 0.03 * i * i,
                "nats_per_token": 2.2,
                "by": "quiet-otter",
                "samples": [
                    {"prompt": "What say you", "text": ", my lord? The king is come to thee."},
                ],
            }
            for i in range(4)
        ],
        "peers": everybody,
        "regions": [],
        "timelines": [timeline(211, everybody), timeline(212, everybody, outcome="open")],
        "links": {},
        "lines": [
            line(9, "round", "round 211 committed: loss 2.3127, 4 peers, 11.2 s", 11),
            line(8, "trouble", "north-hall is out: silent for 20 s; 1,600 samples returned", 140),
            line(7, "evaluation", "1.452 bits per byte of held-out text after 200 rounds", 600),
            line(6, "trouble", "link lab-07->kitchen dead (silent)", 4000),
            line(5, "peer", "quiet-otter takes part from round 120", 4600),
            line(4, "round", "round 119 committed: loss 2.71, 3 peers, 10.8 s", 4620),
        ],
    }


def line(serial: int, kind: str, text: str, ago_s: float) -> Json:
    at = NOW - ago_s
    return {"serial": serial, "at": at, "kind": kind, "round": 1, "name": "", "text": text}
