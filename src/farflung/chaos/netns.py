"""Bad networks by the kernel: one network namespace per node on one bridge. Needs root and `ip`.

Blocked is a permanent neighbour entry with an address that nobody has: the sender's frames go out
and reach nobody, silently and in one direction. Slow is a token bucket (tbf) on both ends of the
node's cable. Delay needs netem, which not every kernel has. Everything lies in namespaces of its
own, whose names begin with `ffc` and the process id; the machine's own network is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from farflung.chaos.effects import Counts, Effect, Effects, Pair, Place

PORT = 7000
NOBODY = "02:00:00:00:00:01"
BURST_BYTES = 8192
LATENCY = "2000ms"
"""How long tbf lets a packet wait before it drops it."""


def missing() -> str:
    """Why there can be no network namespaces here; "" when there can."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("ip", "tc", "ss"):
        if shutil.which(program) is None:
            return f"needs `{program}` (iproute2)"
    return ""


@dataclass(frozen=True)
class _Cable:
    """One node's end of the network."""

    space: str
    address: str
    port: str
    """Its other end, in the hub."""


class Namespaces:
    """All namespaces of one run. Commands take some milliseconds and are not awaited."""

    def __init__(self, process: int) -> None:
        self._base = f"ffc{process}"
        self._hub = f"{self._base}h"
        self._cables: dict[str, _Cable] = {}
        self._effects = Effects()
        self._blocked: frozenset[Pair] = frozenset()
        self._rates: dict[str, float] = {}
        self._delays: dict[str, float] = {}
        self.counts = Counts()
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "br0", "up")
        self._netem = self._has_netem()

    def _has_netem(self) -> bool:
        tried = ["tc", "-n", self._hub, "qdisc", "replace", "dev", "br0", "root", "netem"]
        if subprocess.run([*tried, "delay", "1ms"], capture_output=True, check=False).returncode:
            return False
        _run("tc", "-n", self._hub, "qdisc", "del", "dev", "br0", "root")
        return True

    async def place(self, node: str, listeners: int = 1) -> Place:
        del listeners  # a namespace has all ports
        if node not in self._cables:
            self._lay(node, len(self._cables) + 1)
        cable = self._cables[node]
        return Place(bind=f"{cable.address}:{PORT}", prefix=("ip", "netns", "exec", cable.space))

    def _lay(self, node: str, number: int) -> None:
        space, port = f"{self._base}n{number}", f"v{number}"
        address = f"10.77.{number // 250}.{number % 250 + 1}"
        _ip("netns", "add", space)
        link = ("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("-n", self._hub, *link)
        _ip("-n", self._hub, "link", "set", port, "master", "br0", "up")
        _ip("-n", space, "addr", "add", f"{address}/16", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", space, "link", "set", "lo", "up")
        self._cables[node] = _Cable(space, address, port)

    # ---- faults ----------------------------------------------------------------------------

    def cannot(self, effect: Effect) -> str:
        return "this kernel has no netem" if effect.delay_s and not self._netem else ""

    def apply(self, effect: Effect) -> int:
        token = self._effects.add(effect)
        self._change()
        return token

    def lift(self, token: int) -> None:
        if self._effects.remove(token):
            self._change()

    def heal(self) -> None:
        self._effects.clear()
        self._change()

    def reset(self, a: str, b: str) -> int:
        """Sockets of either side are destroyed, which sends RST."""
        killed = 0
        for here, there in ((a, b), (b, a)):
            if here in self._cables and there in self._cables:
                listed = _run(
                    *("ip", "netns", "exec", self._cables[here].space),
                    *("ss", "-HKt", "dst", self._cables[there].address),
                )
                killed += len(listed.splitlines())
        self.counts.resets += killed
        return killed

    async def close(self) -> None:
        """Remove all namespaces; processes in them must have ended."""
        for space in [*(c.space for c in self._cables.values()), self._hub]:
            _ip("netns", "del", space)
        self._cables.clear()

    def _change(self) -> None:
        """Bring the kernel to what the effects amount to now."""
        names = sorted(self._cables)
        pairs = [(a, b) for a in names for b in names if a != b]
        blocked = frozenset(p for p in pairs if self._effects.rule(p).blocked)
        for pair in blocked ^ self._blocked:
            self._block(pair, pair in blocked)
        self._blocked = blocked
        for name in names:
            # A cap or a delay strikes all links of a node: it is the cable's.
            rules = [self._effects.rule((name, other)) for other in names if other != name]
            rate = min((r.bytes_per_s for r in rules), default=0.0)
            delay_s = min((r.delay_s for r in rules), default=0.0)
            if (rate, delay_s) != (self._rates.get(name, 0.0), self._delays.get(name, 0.0)):
                self._rates[name], self._delays[name] = rate, delay_s
                self._shape(self._cables[name], rate, delay_s)

    def _block(self, pair: Pair, blocked: bool) -> None:
        here, there = self._cables[pair[0]], self._cables[pair[1]]
        neighbour = ("-n", here.space, "neigh")
        if blocked:
            false = ("lladdr", NOBODY, "dev", "eth0", "nud", "permanent")
            _ip(*neighbour, "replace", there.address, *false)
        else:
            _ip(*neighbour, "del", there.address, "dev", "eth0")

    def _shape(self, cable: _Cable, rate: float, delay_s: float) -> None:
        for space, device in ((cable.space, "eth0"), (self._hub, cable.port)):
            where = ("tc", "-n", space, "qdisc")
            if rate:
                limit = ("rate", f"{int(rate * 8)}bit", "burst", str(BURST_BYTES))
                bucket = ("root", "tbf", *limit, "latency", LATENCY)
                _run(*where, "replace", "dev", device, *bucket)
            elif delay_s:
                _run(*where, "replace", "dev", device, "root", "netem", "delay", f"{delay_s}s")
            else:
                _run(*where, "del", "dev", device, "root")


def _ip(*words: str) -> str:
    return _run("ip", *words)


def _run(*words: str) -> str:
    """Its output. Raises OSError with the first line of what it complained about."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["it failed"])[0]
        raise OSError(f"{' '.join(words)}: {complaint}")
    return done.stdout
