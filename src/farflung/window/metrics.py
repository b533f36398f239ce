"""`/metrics`: the run as Prometheus reads it (text format 0.0.4). Pure.

Written by hand: two dozen gauges, each set once an answer, need no registry (docs/decisions/0030).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_PEERS = 1000
"""Peers with figures of their own, the largest contributors."""
STATES = ("waiting", "running", "paused", "finished", "stopped")
PEER_STATES = ("joined", "active", "suspect", "gone", "away", "out")

Json = Mapping[str, Any]


class _Metric(NamedTuple):
    name: str
    kind: Literal["gauge", "counter"]
    help: str
    value: Callable[[Json], Any]


def _field(name: str) -> Callable[[Json], Any]:
    return lambda row: row[name]


RUN: tuple[_Metric, ...] = (
    _Metric("round", "gauge", "Newest open or resolved round; -1: none.", _field("round")),
    _Metric("rounds_committed_total", "counter", "Committed rounds.", _field("rounds")),
    _Metric("rounds_wanted", "gauge", "Rounds that the run is to have.", _field("rounds_wanted")),
    _Metric("rounds_abandoned_total", "counter", "Abandoned rounds.", _field("abandoned")),
    _Metric(
        "contributions_rejected_total", "counter", "Rejected contributions.", _field("rejected")
    ),
    _Metric("tokens_total", "counter", "Committed tokens.", _field("tokens")),
    _Metric("tokens_wanted", "gauge", "Tokens that end the run.", _field("tokens_wanted")),
    _Metric("tokens_per_second", "gauge", "Of the swarm, newest rounds.", _field("tokens_per_s")),
    _Metric("eta_seconds", "gauge", "Seconds until the run is complete.", _field("eta_s")),
    _Metric("tflops", "gauge", "Model TFLOP/s of the swarm.", _field("tflops")),
    _Metric("mfu_ratio", "gauge", "Model FLOP/s over the devices' peak, 0..1.", _field("mfu")),
    _Metric(
        "utilisation_ratio", "gauge", "Computing over computing and waiting, 0..1.",
        _field("utilisation"),
    ),
    _Metric("loss", "gauge", "Newest round, nats per token.", _field("loss")),
    _Metric(
        "bits_per_byte", "gauge", "Newest evaluation on held-out text.", _field("bits_per_byte")
    ),
    _Metric("parameters", "gauge", "Of the model.", _field("parameters")),
    _Metric("peers_active", "gauge", "Trainers that take part now.", _field("peers_active")),
    _Metric("peers_seen", "gauge", "Trainers ever admitted.", _field("peers_seen")),
    _Metric("regions", "gauge", "Declared regions of active peers.", _field("regions")),
    _Metric("sent_bytes_total", "counter", "Sent by all peers.", _field("bytes_up")),
    _Metric("received_bytes_total", "counter", "Received by all peers.", _field("bytes_down")),
    _Metric(
        "reduction_ratio", "gauge", "Times fewer bytes than a bf16 all-reduce every step.",
        _field("reduction"),
    ),
    _Metric(
        "state_agreements_total", "counter", "Peers' state roots equal to the journal's.",
        _field("agreements"),
    ),
    _Metric(
        "state_disagreements_total", "counter", "Peers' state roots that differ.",
        _field("disagreements"),
    ),
    _Metric("archived_round", "gauge", "Last archived round; -1: none.", _field("archived")),
    _Metric("term", "gauge", "Of the coordinator; counts its starts.", _field("term")),
)  # fmt: skip

PEER: tuple[_Metric, ...] = (
    _Metric("peer_active", "gauge", "1 while it takes part.", lambda p: p["state"] == "active"),
    _Metric("peer_tokens_total", "counter", "Credited, committed tokens.", _field("tokens")),
    _Metric("peer_rounds_total", "counter", "Rounds contributed to.", _field("rounds")),
    _Metric("peer_strikes_total", "counter", "Rejections, failed edges.", _field("strikes")),
    _Metric("peer_tokens_per_second", "gauge", "While it trains.", _field("tokens_per_s")),
    _Metric("peer_mfu_ratio", "gauge", "0..1, newest round.", _field("mfu")),
    _Metric("peer_utilisation_ratio", "gauge", "0..1, newest rounds.", _field("utilisation")),
    _Metric("peer_loss", "gauge", "Newest round, nats per token.", _field("loss")),
    _Metric("peer_uptime_seconds", "gauge", "Of all its stays.", _field("uptime_s")),
    _Metric("peer_sent_bytes_total", "counter", "Sent.", _field("bytes_up")),
    _Metric("peer_received_bytes_total", "counter", "Received.", _field("bytes_down")),
)

RUN_STATE = "run_state"
NAMES = (*(m.name for m in (*RUN, *PEER)), RUN_STATE)


def metrics_text(head: Json, peers: Sequence[Json]) -> bytes:
    """All metrics; what is not known is left out."""
    run = {"run": head["run"], "name": head["name"]}
    lines = list(_metric(RUN_STATE, "gauge", "1 for the state that the run is in.", (
        ({**run, "state": state}, head["state"] == state) for state in STATES
    )))  # fmt: skip
    for m in RUN:
        lines += _metric(m.name, m.kind, m.help, [(run, m.value(head))])
    shown = peers[:MOST_PEERS]
    for m in PEER:
        told = [
            ({"run": head["run"], "node": p["node"], "name": p["name"]}, m.value(p)) for p in shown
        ]
        lines += _metric(m.name, m.kind, m.help, told)
    return "\n".join([*lines, ""]).encode()


def _metric(
    name: str, kind: str, help_: str, values: Iterable[tuple[Mapping[str, str], Any]]
) -> list[str]:
    known = [(labels, value) for labels, value in values if value is not None]
    if not known:
        return []
    full = f"farflung_{name}"
    told = [f"{full}{{{_labels(labels)}}} {float(value)!r}" for labels, value in known]
    return [f"# HELP {full} {help_}", f"# TYPE {full} {kind}", *told]


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
