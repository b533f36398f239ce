"""The kernel's namespaces do what the relays do. Needs root: skipped loudly without."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from farflung.chaos.effects import Effect
from farflung.chaos.netns import Namespaces, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"network namespaces skipped: {missing()}")

WAIT_S = 30.0
HELD_S = 0.5

LISTEN = """
import socket, sys
listener = socket.create_server((sys.argv[1], 7000))
print("ready", flush=True)
link = listener.accept()[0]
try:
    while data := link.recv(65536):
        link.sendall(data)
except ConnectionResetError:
    print("reset", flush=True)
"""
DIAL = """
import socket, sys
link = socket.create_connection((sys.argv[1], 7000))
try:
    for line in sys.stdin:
        size = int(line)
        link.sendall(bytes(size))
        while size:
            data = link.recv(size)
            if not data:
                raise ConnectionResetError
            size -= len(data)
        print("back", flush=True)
except ConnectionResetError:
    print("reset", flush=True)
"""


@dataclass
class Pair:
    """`a` dials `b`, which echoes."""

    net: Namespaces
    listener: subprocess.Popen[str]
    dialler: subprocess.Popen[str]

    def send(self, size: int) -> None:
        assert self.dialler.stdin is not None
        self.dialler.stdin.write(f"{size}\n")
        self.dialler.stdin.flush()

    def answer(self) -> str:
        assert self.dialler.stdout is not None
        return self.dialler.stdout.readline().strip()


@pytest.fixture
def pair() -> Iterator[Pair]:
    net = Namespaces(os.getpid())
    started: list[subprocess.Popen[str]] = []

    def start(code: str, node: str, host: str) -> subprocess.Popen[str]:
        place = asyncio.run(net.place(node))
        process = subprocess.Popen(
            [*place.prefix, sys.executable, "-c", code, host],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    try:
        host = asyncio.run(net.place("b")).bind.rpartition(":")[0]
        listener = start(LISTEN, "b", host)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        dialler = start(DIAL, "a", host)
        found = Pair(net, listener, dialler)
        found.send(1)
        assert found.answer() == "back"
        yield found
    finally:
        for process in started:
            process.kill()
            process.communicate()
        asyncio.run(net.close())
        spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True)
        assert f"ffc{os.getpid()}" not in spaces.stdout


@pytest.mark.parametrize("direction", [("a", "b"), ("b", "a")])
def test_one_direction_is_held_and_what_was_sent_comes_later(
    pair: Pair, direction: tuple[str, str]
) -> None:
    token = pair.net.apply(Effect(pairs=frozenset({direction}), blocked=True))
    pair.send(1)
    time.sleep(HELD_S)
    os.set_blocking(pair.dialler.stdout.fileno(), False)  # type: ignore[union-attr]
    assert pair.answer() == ""
    os.set_blocking(pair.dialler.stdout.fileno(), True)  # type: ignore[union-attr]
    pair.net.lift(token)
    assert pair.answer() == "back"


def test_a_cap_takes_its_time(pair: Pair) -> None:
    both = frozenset({("a", "b"), ("b", "a")})
    pair.net.apply(Effect(pairs=both, bytes_per_s=50_000.0))
    started_s = time.monotonic()
    pair.send(60_000)
    assert pair.answer() == "back"
    assert time.monotonic() - started_s >= 0.8
    pair.net.heal()
    pair.send(60_000)
    assert pair.answer() == "back"


def test_a_reset_reaches_both_ends(pair: Pair) -> None:
    assert pair.net.reset("a", "b") >= 1
    pair.send(1)
    assert pair.answer() in ("reset", "")
    assert pair.net.reset("a", "b") == 0


def test_what_the_kernel_cannot_do_is_said(pair: Pair) -> None:
    reason = pair.net.cannot(Effect(pairs=frozenset({("a", "b")}), delay_s=0.1))
    assert reason in ("", "this kernel has no netem")
    assert pair.net.cannot(Effect(pairs=frozenset({("a", "b")}), blocked=True)) == ""
