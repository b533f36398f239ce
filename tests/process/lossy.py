"""A wide-area network on one machine: network namespaces joined by a program that delays, loses
and shapes IP packets. Needs root, `ip` and /dev/net/tun; `missing()` says what is not there.

    python tests/process/lossy.py PREFIX NODES DELAY_S LOSS UP_BYTES_PER_S...

is the program itself (one thread, one heap); `Wan` starts and stops it.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from processes import DEADLINE_S, Running, Swarm, until

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000
MTU = 1500
QUEUE_S = 0.5
"""A shaped uplink holds this much; what does not fit is dropped, as a router does."""
ANY_RATE = 1e12


def missing() -> str:
    """Why no such network can be made here; empty: it can."""
    if os.geteuid() != 0:
        return "no root"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun"
    return "" if shutil.which("ip") else "no `ip` command"


def address(node: int) -> str:
    return f"10.78.0.{node + 1}"


class Wan:
    """`with Wan(5, delay_s=0.1, loss=0.01) as wan`: node i lives in namespace wan.names[i]."""

    def __init__(
        self, nodes: int, *, delay_s: float, loss: float, up: Sequence[float] = ()
    ) -> None:
        """`delay_s` one way; `loss` of every packet; `up` in bytes/s by node, 0 is any."""
        self.names = [f"ff{os.getpid()}-{i}" for i in range(nodes)]
        rates = [*up, *[0.0] * (nodes - len(up))]
        self._arguments = [str(delay_s), str(loss), *(str(r or ANY_RATE) for r in rates)]
        self._router: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        for name in self.names:
            _ip("netns", "add", name)
        self._router = subprocess.Popen(
            [sys.executable, __file__, ",".join(self.names), *self._arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._router.stdout is not None
        assert self._router.stdout.readline() == "up\n"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._router is not None:
            self._router.kill()
            self._router.communicate()
        for name in self.names:
            _ip("netns", "delete", name)


class WanSwarm(Swarm):
    """Node 0 is the host, peers take the next namespaces in the order in which they start."""

    def __init__(self, root: Path, spec: Any, wan: Wan) -> None:
        super().__init__(root, spec)
        self._wan = wan
        self._places = {"host": 0}

    def place(self, name: str) -> list[str]:
        place = self._places.setdefault(name, len(self._places))
        return ["ip", "netns", "exec", self._wan.names[place]]

    @property
    def hosting(self) -> tuple[str, ...]:
        bind = f"{address(0)}:7000"
        return ("host", "--spec-json", str(self._spec_file), "--bind", bind)

    def join(self, name: str, *arguments: str, patch: str = "") -> Running:
        place = self._places.setdefault(name, len(self._places))
        options = ("--name", name, "--bind", f"{address(place)}:7100", *arguments)
        return self.spawn(name, "join", self.invite, *options, patch=patch)

    def gathered(self, peers: int, deadline_s: float = DEADLINE_S) -> None:
        """Wait until every peer has contributed to one commit."""

        def all_in() -> bool:
            return any(len(c.contributors) == peers for c in self.commits())

        until(all_in, f"{peers} peers contribute", deadline_s)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


# ---- the program ---------------------------------------------------------------------------


def open_node(name: str, node: int) -> int:
    """A tunnel device inside the namespace; its packets are read and written here."""
    device = f"{name[-11:]}t"
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH14x", device.encode(), IFF_TUN | IFF_NO_PI))
    _ip("link", "set", device, "netns", name)
    for words in (
        f"addr add {address(node)}/24 dev {device}",
        f"link set {device} mtu {MTU} txqueuelen 2000 up",
        "link set lo up",
    ):
        _ip("-n", name, *words.split())
    return tun


def route(tuns: list[int], delay_s: float, loss: float, up: list[float]) -> None:
    """For ever: a packet waits for its uplink, is perhaps lost, and arrives after the delay."""
    by_address = {bytes(map(int, address(i).split("."))): tun for i, tun in enumerate(tuns)}
    node_of = {tun: i for i, tun in enumerate(tuns)}
    free_s = [0.0] * len(tuns)
    rng, now = random.Random(1), time.monotonic
    heap: list[tuple[float, int, int, bytes]] = []
    serial = 0
    poll = select.epoll()
    for tun in tuns:
        poll.register(tun, select.EPOLLIN)
    while True:
        wait_s = min(0.5, max(0.0, heap[0][0] - now())) if heap else 0.5
        for tun, _ in poll.poll(wait_s):
            for packet in packets(tun):
                target = by_address.get(packet[16:20])
                node = node_of[tun]
                start = max(free_s[node], now())
                if target is None or start - now() > QUEUE_S:
                    continue
                free_s[node] = start + len(packet) / up[node]
                if rng.random() >= loss:
                    serial += 1
                    heapq.heappush(heap, (free_s[node] + delay_s, serial, target, packet))
        deliver(heap, now)


def packets(tun: int) -> list[bytes]:
    found: list[bytes] = []
    try:
        while len(found) < 64:
            found.append(os.read(tun, 65536))
    except BlockingIOError:
        pass
    return found


def deliver(heap: list[tuple[float, int, int, bytes]], now: Callable[[], float]) -> None:
    while heap and heap[0][0] <= now():
        _, _, tun, packet = heapq.heappop(heap)
        try:
            os.write(tun, packet)
        except OSError:
            continue  # the receiver's queue is full: one more lost packet


def main() -> None:
    names = sys.argv[1].split(",")
    delay_s, loss, *up = map(float, sys.argv[2:])
    tuns = [open_node(name, i) for i, name in enumerate(names)]
    print("up", flush=True)
    route(tuns, delay_s, loss, up)


if __name__ == "__main__":
    main()
