"""What the measures of a round cost (decision 0029), in processor time and bytes.

Per round and node: the book (phases entered and left, the message made and encoded) and the look
at the system's counters of real TLS links. Per message at the coordinator: decoding, checking, the
log's lines. Then bytes on the wire and on disk per round, with and without. Every part is repeated
and the processor time of this process counts, so that a busy machine changes little. Shares are of
a round of ROUND_S seconds.

    ROUND_S=10 python benchmarks/measures.py
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from farflung.coordinator.measures import MeasureBook
from farflung.events import Event, EventLog, LinkMeasured, PeerMeasured
from farflung.inner.channel import StepFigures, WorkReport
from farflung.network import sockets
from farflung.network.frames import HEADER_BYTES, decode_control, encode_control
from farflung.network.messages import LinkFigures, Moved, RoundMeasures
from farflung.peer.measures import RoundBook
from farflung.swarm.state import State
from farflung.transfer.link_meter import MAX_LINKS, figures

ROUND_S = float(os.environ.get("ROUND_S", "10"))
SWARMS = (5, 65)
"""Nodes, the keeper included."""


def per_call_us(work: Callable[[], object], repeats: int) -> float:
    """Processor time of this process."""
    work()
    start = time.process_time()
    for _ in range(repeats):
        work()
    return 1e6 * (time.process_time() - start) / repeats


def links(nodes: int, me: int) -> tuple[LinkFigures, ...]:
    others = [f"{i:040x}" for i in range(nodes) if i != me][:MAX_LINKS]
    return tuple(
        LinkFigures(node=n, bytes=10**6 + i, bytes_per_s=1.1e7, rtt_s=0.081, loss=0.0012)
        for i, n in enumerate(others)
    )


REPORT = WorkReport(
    round=0,
    rows=800,
    steps=100,
    tokens=819_200,
    loss_sum=250.0,
    finite_steps=100,
    finite=True,
    compute_s=8.0,
    wait_s=0.5,
    note="",
    figures=StepFigures(
        lr=0.73,
        grad_norm=1.27,
        data_wait_s=0.031,
        copy_s=0.012,
        flops=9.31e8,
        mfu=0.412,
        memory_bytes=81_234_567_890,
        device="NVIDIA H200",
    ),
)


class Minute:
    """A clock on which every look is some milliseconds later."""

    def __init__(self) -> None:
        self.s = 0.0

    def now(self) -> float:
        self.s += 0.07
        return self.s


def one_round(book: RoundBook, number: int, nodes: int) -> RoundMeasures:
    """As a trainer that owns a slice lives it."""
    book.begin(number)
    with book.during(number, "train"):
        pass
    book.trained(number, REPORT)
    with book.during(number, "encode"):
        pass
    with book.during(number, "send"):
        pass
    for phase in ("receive", "reduce", "reduce", "send"):
        with book.during(number, phase):
            pass
    for _ in range(nodes - 2):  # slices arrive side by side
        book.enter(number, "receive")
    for _ in range(nodes - 2):
        book.leave(number, "receive")
    book.enter(number, "vote")
    book.interrupt(number, "vote")
    with book.during(number, "merge"):
        pass
    told = book.close(number, links(nodes, 0))
    assert told is not None
    return told


def book_us(nodes: int) -> float:
    book, numbers = RoundBook(Minute().now), iter(range(10**9))
    alone = per_call_us(lambda: links(nodes, 0), 300)  # the links are not the book's
    whole = per_call_us(lambda: encode_control(one_round(book, next(numbers), nodes), 0), 300)
    return whole - alone


async def counters_us(pairs: int) -> float:
    """A look at the system's counters of as many real sockets, figures included."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    writers = [(await asyncio.open_connection(host, port))[1] for _ in range(pairs)]
    socks = [w.get_extra_info("socket") for w in writers]

    def look() -> None:
        for i, sock in enumerate(socks):
            counts = sockets.counts(sock)
            assert counts is not None
            figures(str(i), 10**6, [counts.minus(counts)])

    cost = per_call_us(look, 200)
    for writer in writers:
        writer.close()
    server.close()
    return cost


def state(nodes: int, next_round: int) -> State:
    """Of a State only what the book looks at."""
    known = {f"{i:040x}": SimpleNamespace(name=f"peer-{i}") for i in range(nodes)}
    return cast(State, SimpleNamespace(nodes=known, next_round=next_round))


def coordinator(nodes: int, rounds: int) -> dict[str, float]:
    """Rounds of ROUND_S seconds of a whole swarm, on a log in a file."""
    with tempfile.TemporaryDirectory(prefix="farflung-measures-") as folder:
        path = Path(folder) / "events.jsonl"
        log = EventLog(path, "host", time.monotonic)
        told: list[Event] = []
        log.listen(told.append)
        now = SimpleNamespace(s=0.0)
        book = MeasureBook(log.emit, lambda: now.s, lambda: 1.8e9 + now.s)
        frames = [
            [encode_control(one_message(r, nodes), 0) for _ in range(nodes)] for r in range(rounds)
        ]
        seen = [state(nodes, r + 1) for r in range(rounds)]
        start = time.process_time()
        for number in range(rounds):
            now.s += ROUND_S
            for i, frame in enumerate(frames[number]):
                message = decode_control(frame[HEADER_BYTES:])
                assert isinstance(message, RoundMeasures)
                book.heard(seen[number], f"{i:040x}", message)
        cost = time.process_time() - start
        log.close()
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        size = sum(len(json.dumps(x)) + 1 for x in lines if x["kind"] != "log")
        return {
            "us_per_message": 1e6 * cost / (nodes * rounds),
            "peer_lines": sum(isinstance(e, PeerMeasured) for e in told) / rounds,
            "link_lines": sum(isinstance(e, LinkMeasured) for e in told) / rounds,
            "bytes_per_round": size / rounds,
        }


def one_message(number: int, nodes: int) -> RoundMeasures:
    return one_round(RoundBook(Minute().now), number, nodes)


def main() -> None:
    moved = Moved(round=9, bytes_up=10**8, bytes_down=10**8, state_root=bytes(32))
    rows: dict[str, Any] = {}
    for nodes in SWARMS:
        frame = encode_control(one_message(9, nodes), 0)
        agent_us = book_us(nodes) + asyncio.run(counters_us(min(MAX_LINKS, nodes - 1)))
        host = coordinator(nodes, 60 if nodes < 20 else 30)
        rows[str(nodes)] = row = {
            "agent_us_per_round": agent_us,
            "agent_share": agent_us / 1e6 / ROUND_S,
            "host_us_per_message": host["us_per_message"],
            "host_share": host["us_per_message"] * nodes / 1e6 / ROUND_S,
            "wire_bytes_per_message": len(frame),
            "moved_bytes": len(encode_control(moved, 0)),
            "disk_bytes_per_round": host["bytes_per_round"],
            "lines_per_round": (host["peer_lines"], host["link_lines"]),
        }
        print(f"{nodes - 1} peers and a keeper, rounds of {ROUND_S:g} s")
        print(
            f"  agent        {agent_us:8.0f} us a round      {100 * row['agent_share']:.4f} %\n"
            f"  coordinator  {row['host_us_per_message']:8.0f} us a message    "
            f"{100 * row['host_share']:.4f} %\n"
            f"  wire         {len(frame):8,} bytes a message (Moved: {row['moved_bytes']})\n"
            f"  disk         {row['disk_bytes_per_round']:8,.0f} bytes a round: "
            f"{host['peer_lines']:.0f} peers, {host['link_lines']:.1f} of "
            f"{nodes * (nodes - 1)} links"
        )
    Path("measures.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
