"""The agent's end of the channel to a trainer process, after the greeting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from farflung.errors import ProtocolError
from farflung.inner.channel import (
    Done,
    FrameBuffer,
    FromAgent,
    FromTrainer,
    InnerLoaded,
    InnerSaved,
    Land,
    Landed,
    LoadInner,
    Progress,
    Reset,
    ResetDone,
    SaveInner,
    StartWork,
    decode_from_trainer,
    encode,
)
from farflung.trainers.port import TrainerDied

READY = 0
"""Serial of the ResetDone that comes unasked after Welcome."""


class TrainerLink(asyncio.Protocol):
    """The agent's end of the channel: questions with serials, answers as futures."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self.lost = asyncio.Event()
        self.broken = ""
        """What the trainer did wrong, when that ended the connection."""
        self._on_progress = on_progress
        self._transport: asyncio.Transport | None = None
        self._buffer = FrameBuffer()
        self._serial = READY
        self._waiting: dict[int, asyncio.Future[FromTrainer]] = {}
        self._prompt: set[int] = set()
        """Serials of questions that are answered between two steps."""
        self._failure: TrainerDied | None = None

    @property
    def busy(self) -> bool:
        """A question is not answered yet."""
        return any(not future.done() for future in self._waiting.values())

    @property
    def failed(self) -> bool:
        return self._failure is not None

    @property
    def owes(self) -> bool:
        """An answer is due at the next step boundary, not after some reading or writing."""
        return bool(self._prompt)

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def expect(self, serial: int) -> asyncio.Future[FromTrainer]:
        """The answer to come. A link that failed raises at once."""
        return self._waiting.setdefault(serial, asyncio.get_running_loop().create_future())

    async def ask(self, question: StartWork | Land | Reset | SaveInner | LoadInner) -> FromTrainer:
        """Raises TrainerDied. When cancelled the answer is ignored."""
        if self._failure is not None:
            raise self._failure
        answer = self.expect(question.serial)
        if isinstance(question, StartWork | Land | Reset):
            self._prompt.add(question.serial)
        self.send(question)
        try:
            return await answer
        finally:
            self._prompt.discard(question.serial)
            self._waiting.pop(question.serial, None)

    def send(self, message: FromAgent) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message))

    def fail(self, failure: TrainerDied) -> None:
        """Everyone who waits gets `failure`, and everyone who asks from now on."""
        self._failure = failure
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(failure)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # ---- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by type

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._buffer.feed(data):
                self._received(decode_from_trainer(body))
        except ProtocolError as error:
            self.broken = str(error)
            self.close()

    def _received(self, message: FromTrainer) -> None:
        match message:
            case Progress():
                self._on_progress(message)
            case Done() | Landed() | ResetDone() | InnerSaved() | InnerLoaded():
                if message.serial == READY:
                    self.expect(READY)
                waiting = self._waiting.get(message.serial)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            case _:
                raise ProtocolError(f"the trainer sent {type(message).__name__} out of place")

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not isinstance(exc, OSError):  # a fault of ours, in here
            self.broken = self.broken or f"its channel failed: {type(exc).__name__}: {exc}"
        self.lost.set()
