"""A process that reads or encodes for `farflung data prepare`: python -m farflung.data.worker FD

It speaks msgpack over an inherited socket and ends with it: when the parent is gone, in whatever
way, so is the process.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from farflung.data.batches import TextBatch
from farflung.data.reading import ReadEvent, Reading, read
from farflung.data.spool import Spool, encode_batch
from farflung.data.tokenizer import Tokenizer, tokenizer_from_bytes
from farflung.errors import ConfigError, FarflungError, StorageError


class ReaderSetup(msgspec.Struct, frozen=True, tag="reader"):
    reading: Reading


class EncoderSetup(msgspec.Struct, frozen=True, tag="encoder"):
    tokenizer: bytes
    eos: int
    spool: str

    def open(self) -> tuple[Tokenizer, Spool]:
        tokenizer = tokenizer_from_bytes(self.tokenizer, eos=self.eos)
        return tokenizer, Spool.of(Path(self.spool), tokenizer)


class EncodedReply(msgspec.Struct, frozen=True, tag="encoded"):
    number: int


class FailedReply(msgspec.Struct, frozen=True, tag="failed"):
    """An error of the tree, to be raised by the parent."""

    kind: str
    sentence: str

    def error(self) -> FarflungError:
        kinds: dict[str, type[FarflungError]] = {"StorageError": StorageError}
        return kinds.get(self.kind, ConfigError)(self.sentence)


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    try:
        setup = msgspec.msgpack.decode(_receive(connection), type=ReaderSetup | EncoderSetup)
        try:
            if isinstance(setup, ReaderSetup):
                _read(setup, connection)
            else:
                _encode(setup, connection)
        except FarflungError as error:
            failed = FailedReply(type(error).__name__, str(error))
            connection.send_bytes(msgspec.msgpack.encode(failed))
    except (EOFError, ConnectionError):
        pass  # the parent has gone, or has seen enough


def _receive(connection: Connection) -> bytes:
    """Raises EOFError when the parent has gone, within a message too."""
    try:
        return connection.recv_bytes()
    except OSError:
        raise EOFError from None


def _read(setup: ReaderSetup, connection: Connection) -> None:
    encoder = msgspec.msgpack.Encoder()
    for event in read(setup.reading):
        connection.send_bytes(encoder.encode(event))


def _encode(setup: EncoderSetup, connection: Connection) -> None:
    tokenizer, spool = setup.open()
    decoder = msgspec.msgpack.Decoder(TextBatch)
    while True:
        batch = decoder.decode(_receive(connection))
        spool.save(batch, encode_batch(batch, tokenizer))
        connection.send_bytes(msgspec.msgpack.encode(EncodedReply(batch.number)))


ReaderMessage = ReadEvent | FailedReply
EncoderMessage = EncodedReply | FailedReply

if __name__ == "__main__":
    main()
