"""Batches read and encoded by processes of their own, handed out in order.

One process reads, `jobs` encode. What they made comes through the spool's files, so this process
moves text and waits; it may be killed at any time, and its children end with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import msgspec

import farflung
from farflung.data.batches import TextBatch
from farflung.data.reading import ReadBatch, ReadEnd, Reading, ReadNote, read
from farflung.data.spool import EncodedBatch, Spool, encode_batch
from farflung.data.tokenizer import Tokenizer
from farflung.data.worker import (
    EncodedReply,
    EncoderMessage,
    EncoderSetup,
    FailedReply,
    ReaderMessage,
    ReaderSetup,
)
from farflung.errors import StorageError

WINDOW = 4
"""Batches in flight per encoder: read, being encoded, or done and not yet packed."""

Step = tuple[ReadBatch, EncodedBatch] | ReadNote | ReadEnd
"""Batches come with what the tokenizer made of them."""


def encoded_here(
    reading: Reading, tokenizer: Tokenizer, spool: Spool
) -> Generator[Step, None, None]:
    """In this process. Raises ConfigError and StorageError."""
    for event in read(reading):
        if not isinstance(event, ReadBatch):
            yield event
            continue
        encoded = spool.load(event.batch)
        if encoded is None:
            encoded = encode_batch(event.batch, tokenizer)
            spool.save(event.batch, encoded)
        yield event, encoded


def encoded_apart(
    reading: Reading, tokenizer: Tokenizer, spool: Spool, jobs: int
) -> Generator[Step, None, None]:
    """The same, by other processes. StorageError too when one of them ends."""
    with contextlib.ExitStack() as stack:
        reader = _Child(ReaderSetup(reading))
        stack.callback(reader.end)
        setup = EncoderSetup(tokenizer.json(), tokenizer.eos, str(spool.folder))
        encoders = []
        for _ in range(jobs):
            encoders.append(_Child(setup))
            stack.callback(encoders[-1].end)
        yield from _Pool(reader, encoders, spool).steps()


@dataclass
class _InFlight:
    event: ReadBatch
    encoded: EncodedBatch | None = None
    done: bool = False


class _Pool:
    def __init__(self, reader: _Child, encoders: list[_Child], spool: Spool) -> None:
        self._reader = reader
        self._encoders = encoders
        self._spool = spool
        self._idle = list(encoders)
        self._waiting: deque[_InFlight] = deque()
        """In order; the first ones may be done."""
        self._to_send: deque[TextBatch] = deque()
        self._events: deque[ReadNote | ReadEnd] = deque()
        self._from_reader = msgspec.msgpack.Decoder(ReaderMessage)
        self._from_encoder = msgspec.msgpack.Decoder(EncoderMessage)
        self._reading = True

    def steps(self) -> Generator[Step, None, None]:
        while self._reading or self._waiting or self._events:
            while self._events and isinstance(self._events[0], ReadNote):
                yield self._events.popleft()
            while self._waiting and self._waiting[0].done:
                yield self._finished(self._waiting.popleft())
            if not self._waiting and not self._reading:
                yield from self._events
                return
            self._wait()

    def _finished(self, first: _InFlight) -> Step:
        encoded = first.encoded or self._spool.load(first.event.batch)
        if encoded is None:
            raise StorageError(f"{self._spool.folder}: a file of it has gone or is torn")
        return first.event, encoded

    def _wait(self) -> None:
        busy = [e for e in self._encoders if e not in self._idle]
        room = self._reading and len(self._waiting) < WINDOW * len(self._encoders)
        children = {c.connection: c for c in ([self._reader] if room else []) + busy}
        for ready in wait(list(children)):
            assert isinstance(ready, Connection)
            child = children[ready]
            if child is self._reader:
                self._read()
            else:
                self._encoded(child)
        while self._to_send and self._idle:
            self._idle.pop().send(msgspec.msgpack.encode(self._to_send.popleft()))

    def _read(self) -> None:
        event = self._from_reader.decode(self._reader.receive())
        if isinstance(event, FailedReply):
            raise event.error()
        if not isinstance(event, ReadBatch):
            self._events.append(event)
            self._reading = not isinstance(event, ReadEnd)
            return
        encoded = self._spool.load(event.batch)
        self._waiting.append(_InFlight(event, encoded, encoded is not None))
        if encoded is None:
            self._to_send.append(event.batch)

    def _encoded(self, child: _Child) -> None:
        reply = self._from_encoder.decode(child.receive())
        if isinstance(reply, FailedReply):
            raise reply.error()
        assert isinstance(reply, EncodedReply)
        for flight in self._waiting:
            if flight.event.batch.number == reply.number:
                flight.done = True
        self._idle.append(child)


class _Child:
    """A process of `farflung.data.worker` and the socket to it."""

    def __init__(self, setup: ReaderSetup | EncoderSetup) -> None:
        ours, theirs = socket.socketpair()
        here = str(Path(farflung.__file__).parents[1])
        path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                # -P: a file of the working folder must not pose as a library.
                [sys.executable, "-P", "-m", "farflung.data.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the parent
                env={**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
            )
        self.connection = Connection(ours.detach())
        self.send(msgspec.msgpack.encode(setup))

    def send(self, content: bytes) -> None:
        try:
            self.connection.send_bytes(content)
        except OSError:
            raise self._gone() from None

    def receive(self) -> bytes:
        try:
            return self.connection.recv_bytes()
        except (EOFError, OSError):  # OSError: it ended within a message
            raise self._gone() from None

    def end(self) -> None:
        self.connection.close()
        self._process.terminate()
        self._process.wait()

    def _gone(self) -> StorageError:
        code = self._process.wait()
        return StorageError(
            f"a process that prepares data ended with code {code}"
            f"{', killed, perhaps for its memory' if code == -9 else ''}; run the same command "
            f"again, with fewer --jobs when memory is short: it goes on from here"
        )
