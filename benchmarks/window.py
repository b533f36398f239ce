"""The window under load, as real processes on this machine.

    python benchmarks/window.py start --rounds 100000        # reading a long history
    python benchmarks/window.py viewers --viewers 100 --peers 1000
    python benchmarks/window.py crowd --connections 10000    # beside a run that commits rounds

`viewers`: a made-up run goes on at one round in `--every` seconds; what is measured is the time
from the line in the event log to the last byte of the `round` event at a viewer, and what the
window's process takes meanwhile. `crowd`: a real host with two NumPy peers; times of rounds before,
with, and after the connections. The crowd's own process shares the processors with the run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "window"), str(ROOT / "tests" / "process")]

from synthetic import Options, write_folder  # noqa: E402

from farflung.events import EVENTS, RoundCommitted, RoundOpened, WindowOpened  # noqa: E402
from farflung.swarm.journal import HEADER, JOURNAL, frame_at, record_of  # noqa: E402
from farflung.swarm.records import Abandon, Commit  # noqa: E402
from farflung.window.tail import told_in  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")


class Window:
    """The process, and what it takes."""

    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-m", "farflung.window", "--folder", str(folder), "--lead"]
        self.process = subprocess.Popen(
            [*words, "--bind", "127.0.0.1:0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.port = int(json.loads(self.process.stdout.readline())["port"])

    def ready(self) -> tuple[float, float]:
        """Seconds until it shows the run, and the longest that it took to say "not yet"."""
        began, longest = time.monotonic(), 0.0
        while True:
            asked = time.monotonic()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=60).read()
                return time.monotonic() - began, longest
            except urllib.error.HTTPError:
                longest = max(longest, time.monotonic() - asked)
            time.sleep(0.05)

    def fetch(self, path: str) -> tuple[float, int]:
        """Seconds and bytes of an answer that nobody has asked for before."""
        began = time.monotonic()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=60) as answer:
            size = len(answer.read())
        return time.monotonic() - began, size

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    return 0.0


def start(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    write_folder(Options(peers=given.peers or 8, rounds=given.rounds, contributors=8), folder)
    sizes = {p.name: round(p.stat().st_size / 1e6) for p in (folder / JOURNAL, folder / EVENTS)}
    window = Window(folder)
    took_s, longest_s = window.ready()
    frame_s, frame_bytes = window.fetch("api/v1/frame")
    found = {
        "rounds": given.rounds,
        "load_average": os.getloadavg()[0],
        "files_mb": sizes,
        "ready_s": took_s,
        "longest_not_yet_s": longest_s,
        "cpu_s": cpu_s(window.process.pid),
        "memory_mb": memory_mb(window.process.pid),
        "frame_s": frame_s,
        "frame_bytes": frame_bytes,
    }
    window.end()
    return found


# ---- viewers -------------------------------------------------------------------------------


def pieces(folder: Path) -> Iterator[tuple[int, bytes, bytes]]:
    """(round, journal, events) of a made-up run, a round at a time; -1: what comes before."""
    journal, lines = (
        (folder / JOURNAL).read_bytes(),
        (folder / EVENTS).read_bytes().splitlines(True),
    )
    at, frames, told, number = len(HEADER), HEADER, b"", -1
    for line in lines:
        one = told_in(line)
        if one is not None and isinstance(one.event, RoundOpened):
            yield number, frames, told
            frames, told, number = b"", b"", one.event.round
            while (frame := frame_at(journal, at)) is not None:
                frames, at = frames + frame, at + len(frame)
                record = record_of(frame)
                if isinstance(record, Commit | Abandon) and record.round >= number:
                    break
        told += line
    yield number, frames + journal[at:], told


async def watch(port: int, heard: dict[int, list[float]]) -> None:
    """One viewer: when it had the whole of each round's event."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    writer.write(b"GET /api/v1/stream HTTP/1.0\r\nHost: localhost\r\n\r\n")
    try:
        while True:
            message = await reader.readuntil(b"\n\n")
            if b"event: round\n" in message:
                number = int(json.loads(message.partition(b"data: ")[2])["round"])
                heard.setdefault(number, []).append(time.monotonic())
    finally:
        writer.close()


async def viewers(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    whole = folder / "whole"
    write_folder(Options(peers=given.peers or 1000, rounds=given.rounds), whole)
    parts = list(pieces(whole))
    live = folder / "live"
    live.mkdir()
    before = parts[: len(parts) - given.live]
    (live / JOURNAL).write_bytes(b"".join(j for _, j, _ in before))
    (live / EVENTS).write_bytes(b"".join(e for _, _, e in before))
    window = Window(live)
    ready_s, _ = window.ready()
    frame_s, frame_bytes = window.fetch("api/v1/frame")
    heard: dict[int, list[float]] = {}
    watching = [asyncio.ensure_future(watch(window.port, heard)) for _ in range(given.viewers)]
    await asyncio.sleep(3)
    heard.clear()
    began, began_cpu = time.monotonic(), cpu_s(window.process.pid)
    told: dict[int, float] = {}
    for number, frames, events in parts[len(before) :]:
        with (live / JOURNAL).open("ab") as journal, (live / EVENTS).open("ab") as log:
            journal.write(frames)
            journal.flush()
            log.write(events)
        told[number] = time.monotonic()
        await asyncio.sleep(given.every)
    took, cpu = time.monotonic() - began, cpu_s(window.process.pid) - began_cpu
    load = os.getloadavg()[0]
    await asyncio.sleep(2)
    late = [t - told[n] for n, times in heard.items() if n in told for t in times if t > told[n]]
    found = {
        "viewers": given.viewers,
        "peers": given.peers or 1000,
        "ready_s": ready_s,
        "frame_s": frame_s,
        "frame_bytes": frame_bytes,
        "heard": len(late),
        "expected": given.viewers * given.live,
        "event_to_viewer_s": quantiles(late),
        "cpu_share": cpu / took,
        "cpu_s_a_round": cpu / given.live,
        "load_average": load,
        "memory_mb": memory_mb(window.process.pid),
    }
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    window.end()
    return found


def quantiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100)
    return {"median": cuts[49], "p95": cuts[94], "max": max(values)}


# ---- a crowd -------------------------------------------------------------------------------


async def crowd_process(port: int, connections: int) -> None:
    """Opens streams, reads what comes, prints how many are open; ends with its input."""
    _all_descriptors()
    taken = 0

    class Viewer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.write(  # type: ignore[attr-defined]
                b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n"
            )

        def data_received(self, data: bytes) -> None:
            nonlocal taken
            taken += len(data)

        def connection_lost(self, _: Exception | None) -> None:
            nonlocal opened
            opened -= 1

    loop, opened = asyncio.get_running_loop(), 0
    for _ in range(connections):
        try:
            await loop.create_connection(Viewer, "127.0.0.1", port)
        except OSError:
            break
        opened += 1
    while True:
        print(json.dumps({"open": opened, "bytes": taken}), flush=True)
        await asyncio.sleep(1)


def _all_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def crowd(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from processes import ENDLESS, Swarm, quad_spec, until

    with Swarm(folder, quad_spec(**ENDLESS)) as swarm:
        words = [w for w in swarm.hosting if w != "--no-window"]
        swarm._hosting(swarm.spawn("host", *words, "--window", "127.0.0.1:0"))
        swarm.join("p0")
        swarm.join("p1")
        told = until(lambda: swarm.events("host", WindowOpened), "the window is open")
        port = int(told[-1].address.rstrip("/").rpartition(":")[2])
        pid = _window_pid(swarm.folder("host"))
        until(lambda: len(swarm.events("host", RoundCommitted)) > 20, "rounds are committed", 120)
        alone = _rounds(swarm, given.seconds)
        many = ("--connections", str(given.connections))
        people = subprocess.Popen(
            [sys.executable, __file__, "people", *("--port", str(port)), *many],
            stdout=subprocess.PIPE,
            preexec_fn=lambda: os.nice(19),
        )
        assert people.stdout is not None
        began = time.monotonic()
        opened = json.loads(people.stdout.readline())["open"]
        opening_s, cpu = time.monotonic() - began, cpu_s(pid)
        crowded = _rounds(swarm, given.seconds)
        found = {
            "connections": opened,
            "load_average": os.getloadavg()[0],
            "opening_s": opening_s,
            "window_cpu_share": (cpu_s(pid) - cpu) / given.seconds,
            "window_memory_mb": memory_mb(pid),
        }
        people.kill()
        people.wait()
        time.sleep(3)
        after = _rounds(swarm, given.seconds)
        return {**found, "round_s": {"alone": alone, "crowded": crowded, "after": after}}


def _window_pid(folder: Path) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"farflung.window" in words and os.fsencode(folder) in words:
                return int(path.parent.name)
    raise AssertionError("no window")


def _rounds(swarm: Any, seconds: float) -> dict[str, float]:
    """Of the rounds that were committed meanwhile."""
    known = len(swarm.events("host", RoundCommitted))
    time.sleep(seconds)
    took = [e.took_s for e in swarm.events("host", RoundCommitted)[known:]]
    return {"rounds": len(took), **quantiles(took)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("what", choices=("start", "viewers", "crowd", "people"))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--peers", type=int, default=0)
    parser.add_argument("--viewers", type=int, default=100)
    parser.add_argument("--live", type=int, default=15, help="Rounds that happen while we look.")
    parser.add_argument("--every", type=float, default=2.0, help="Seconds a round.")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    if given.what == "people":
        asyncio.run(crowd_process(given.port, given.connections))
        return
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        if given.what == "viewers":
            found = asyncio.run(viewers(given, folder))
        else:
            found = (start if given.what == "start" else crowd)(given, folder)
    print(json.dumps(found, indent=1, default=float))


if __name__ == "__main__":
    main()
