"""The relays do what they say: pass, hold, cap, delay, reset, and tell pairs apart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest

from farflung.chaos.effects import Effect
from farflung.chaos.links import LinkPorts, Net
from farflung.chaos.owners import dialler, socket_inode

WAIT_S = 20.0
HELD_S = 0.3
"""Long enough that a byte that may pass has passed."""


class Echo:
    """A listener that answers what it gets, behind a relay; two named diallers."""

    def __init__(self, net: Net, port: int) -> None:
        self.net = net
        self.port = port
        self.got = bytearray()
        self.ended = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.got += data
                writer.write(data)
                await writer.drain()
        self.ended.set()
        writer.close()

    async def dial(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        link = socket.socket()
        link.bind(("127.0.0.1", 0))
        link.setblocking(False)
        ME[link.getsockname()[1]] = name  # known before the relay accepts
        await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=link)
        self.writers.append(writer)
        return reader, writer


ME: dict[int, str] = {}
"""Source port -> who dialled, as the tests say."""


def who(source: int, _: int) -> str:
    return ME.get(source, "")


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[Echo]:
    ports = LinkPorts(next=21_000 + os.getpid() % 5_000)
    inner, outer = ports.take(), ports.take()
    net = Net(who, print)
    echo = Echo(net, outer)
    server = await asyncio.start_server(echo.serve, "127.0.0.1", inner)
    await net.relay("b", outer, inner)
    try:
        yield echo
    finally:
        await net.close()
        for writer in echo.writers:
            writer.close()
        server.close()
        await asyncio.sleep(0)


async def exact(reader: asyncio.StreamReader, n: int) -> bytes:
    async with asyncio.timeout(WAIT_S):
        return await reader.readexactly(n)


async def silent(reader: asyncio.StreamReader) -> bool:
    """Nothing arrives for a while."""
    try:
        async with asyncio.timeout(HELD_S):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


def test_bytes_pass_unchanged_and_so_does_the_end() -> None:
    async def main() -> None:
        async with echoing() as echo:
            reader, writer = await echo.dial("a")
            data = os.urandom(3_000_000)
            writer.write(data)
            assert await exact(reader, len(data)) == data
            writer.write_eof()
            async with asyncio.timeout(WAIT_S):
                assert await reader.read() == b""
                await echo.ended.wait()

    asyncio.run(main())


@pytest.mark.parametrize("back", [False, True])
def test_one_direction_is_held_while_the_other_passes_and_nothing_is_lost(back: bool) -> None:
    async def main() -> None:
        async with echoing() as echo:
            reader, writer = await echo.dial("a")
            writer.write(b"1")
            assert await exact(reader, 1) == b"1"
            pair = ("b", "a") if back else ("a", "b")
            token = echo.net.apply(Effect(pairs=frozenset({pair}), blocked=True))
            writer.write(b"2")
            assert await silent(reader)
            assert bytes(echo.got) == (b"12" if back else b"1")
            echo.net.lift(token)
            assert await exact(reader, 1) == b"2"

    asyncio.run(main())


def test_a_new_connection_hangs_while_its_pair_is_blocked_and_the_end_is_held_too() -> None:
    async def main() -> None:
        async with echoing() as echo:
            old, old_writer = await echo.dial("a")
            old_writer.write(b"o")
            assert await exact(old, 1) == b"o"
            both = frozenset({("a", "b"), ("b", "a")})
            token = echo.net.apply(Effect(pairs=both, blocked=True))
            reader, writer = await echo.dial("a")
            writer.write(b"x")
            old_writer.close()
            assert await silent(reader)
            assert not echo.ended.is_set()
            echo.net.lift(token)
            assert await exact(reader, 1) == b"x"
            async with asyncio.timeout(WAIT_S):
                await echo.ended.wait()

    asyncio.run(main())


def test_effects_strike_their_pair_alone() -> None:
    async def main() -> None:
        async with echoing() as echo:
            struck, struck_writer = await echo.dial("a")
            other, other_writer = await echo.dial("c")
            for reader, writer in ((struck, struck_writer), (other, other_writer)):
                writer.write(b"1")
                assert await exact(reader, 1) == b"1"
            echo.net.apply(Effect(pairs=frozenset({("a", "b")}), blocked=True))
            struck_writer.write(b"2")
            other_writer.write(b"2")
            assert await exact(other, 1) == b"2"
            assert await silent(struck)
            assert echo.net.counts.unmapped == 0

    asyncio.run(main())


def test_an_unknown_dialler_suffers_what_its_listener_suffers() -> None:
    async def main() -> None:
        async with echoing() as echo:
            reader, writer = await asyncio.open_connection("127.0.0.1", echo.port)
            echo.writers.append(writer)
            writer.write(b"1")
            assert await exact(reader, 1) == b"1"
            assert echo.net.counts.unmapped == 1
            echo.net.apply(Effect(pairs=frozenset({("a", "b")}), blocked=True))
            writer.write(b"2")
            assert await silent(reader)
            echo.net.heal()
            assert await exact(reader, 1) == b"2"

    asyncio.run(main())


def test_a_reset_ends_both_sides_with_rst_and_spares_others() -> None:
    async def main() -> None:
        async with echoing() as echo:
            struck, struck_writer = await echo.dial("a")
            other, other_writer = await echo.dial("c")
            for reader, writer in ((struck, struck_writer), (other, other_writer)):
                writer.write(b"1")
                assert await exact(reader, 1) == b"1"
            assert echo.net.reset("b", "a") == 1
            async with asyncio.timeout(WAIT_S):
                with pytest.raises(ConnectionResetError):
                    await struck.read()
                await echo.ended.wait()
            other_writer.write(b"2")
            assert await exact(other, 1) == b"2"
            assert echo.net.reset("b", "a") == 0

    asyncio.run(main())


def test_a_capped_direction_takes_its_time_and_the_other_does_not() -> None:
    async def main() -> None:
        async with echoing() as echo:
            reader, writer = await echo.dial("a")
            writer.write(b"1")
            assert await exact(reader, 1) == b"1"
            echo.net.apply(Effect(pairs=frozenset({("a", "b")}), bytes_per_s=20_000.0))
            started_s = time.monotonic()
            writer.write(bytes(20_000))
            await exact(reader, 20_000)
            assert time.monotonic() - started_s >= 0.9

    asyncio.run(main())


def test_connections_of_a_pair_share_its_cap() -> None:
    async def main() -> None:
        async with echoing() as echo:
            ends = [await echo.dial("a") for _ in range(2)]
            for reader, writer in ends:
                writer.write(b"1")
                await exact(reader, 1)
            echo.net.apply(Effect(pairs=frozenset({("a", "b")}), bytes_per_s=20_000.0))
            started_s = time.monotonic()
            for _, writer in ends:
                writer.write(bytes(10_000))
            for reader, _ in ends:
                await exact(reader, 10_000)
            assert time.monotonic() - started_s >= 0.9

    asyncio.run(main())


def test_a_delayed_pair_answers_later_by_both_ways() -> None:
    async def main() -> None:
        async with echoing() as echo:
            reader, writer = await echo.dial("a")
            writer.write(b"1")
            assert await exact(reader, 1) == b"1"
            both = frozenset({("a", "b"), ("b", "a")})
            echo.net.apply(Effect(pairs=both, delay_s=0.2))
            started_s = time.monotonic()
            writer.write(b"2")
            await exact(reader, 1)
            assert time.monotonic() - started_s >= 0.4

    asyncio.run(main())


def test_a_listener_that_is_gone_refuses() -> None:
    async def main() -> None:
        ports = LinkPorts(next=26_000 + os.getpid() % 3_000)
        dead, outer = ports.take(), ports.take()
        net = Net(who, print)
        await net.relay("b", outer, dead)
        reader, writer = await asyncio.open_connection("127.0.0.1", outer)
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        writer.close()
        await net.close()

    asyncio.run(main())


def test_two_effects_on_a_pair_add_up_and_end_one_by_one() -> None:
    net = Net(who, print)
    pair = ("a", "b")
    slow = net.apply(Effect(pairs=frozenset({pair}), bytes_per_s=5.0))
    cut = net.apply(Effect(pairs=frozenset({pair}), blocked=True, bytes_per_s=9.0))
    rule = net.rule(pair)
    assert (rule.blocked, rule.bytes_per_s) == (True, 5.0)
    net.lift(cut)
    assert not net.rule(pair).blocked
    net.lift(slow)
    assert net.rule(pair).bytes_per_s == 0.0
    assert not net.rule(("b", "a")).blocked


DIAL = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(link.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_the_process_that_dialled_is_found_by_its_ports() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        children = {}
        for name in "ab":
            children[name] = subprocess.Popen(
                [sys.executable, "-c", DIAL, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        try:
            pids = {name: child.pid for name, child in children.items()}
            for name, child in children.items():
                assert child.stdout is not None
                source = int(child.stdout.readline())
                assert dialler(source, ("127.0.0.1", port), pids) == name
                assert dialler(source, ("127.0.0.1", port), {"x": os.getpid()}) == ""
                assert dialler(source, ("127.0.0.2", port), pids) == ""
        finally:
            for child in children.values():
                child.communicate()
        assert socket_inode(1, ("127.0.0.1", port)) == 0
