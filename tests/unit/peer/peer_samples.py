"""What tests of the peer's parts are made of."""

from __future__ import annotations

import random
from collections.abc import Callable

from farflung.clock import InlineWorkers, LoopClock
from farflung.disk import MemoryDisk
from farflung.events import Emit
from farflung.network.link import Transport
from farflung.network.messages import Control, Hello, Welcome
from farflung.world import World

HELLO = Hello(
    protocol=1,
    arithmetic=1,
    run="run",
    name="ann",
    region="",
    role="trainer",
    endpoints=(),
    term=3,
    journal_length=7,
    journal_head=bytes(range(32)),
    session="s",
    generation=0,
)


def world(transport: Transport, emit: Emit) -> World:
    return World(
        transport=transport,
        disk=MemoryDisk(),
        clock=LoopClock(),
        workers=InlineWorkers(),
        rng=random.Random(1),
        emit=emit,
        sign=lambda body: body,
    )


class Handler:
    """A node that says hello and hears."""

    def __init__(self, heard: Callable[[Control], None]) -> None:
        self.on_message = heard

    def hello(self) -> Hello:
        return HELLO

    def on_welcome(self, welcome: Welcome) -> None: ...

    def on_down(self) -> None: ...

    def shown(self, index: int) -> bytes:
        return b"record %d" % index
