"""A trainer's line to its agent: of a process alone, or of a rank among others. No torch.

`Peer` (attach.py) is the same program in every rank. What differs is here: who reads and answers
the agent, and that the ranks agree before an answer goes out.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from farflung.errors import LinkDown
from farflung.inner.channel import (
    LENGTH,
    FromAgent,
    FromTrainer,
    Shutdown,
    TrainerChannel,
    decode_from_agent,
    encode,
)
from farflung.inner.ranks import RankCircle, Voice, die_with_agent
from farflung.inner.shards import ALONE, RankPlace

BEAT_S = 2.0
"""How often the leader meets the other ranks while it waits for work."""


class AgentLine(Protocol):
    """What `Peer` needs."""

    place: RankPlace

    def boundary(self, tokens: int) -> int:
        """A step has ended, and what the agent has asked is here: the peer's tokens."""

    def mean(self, loss: float) -> float:
        """Of all ranks: the peer's loss of a step."""

    def arrived(self) -> Iterator[FromAgent]:
        """What the agent has asked meanwhile. Raises LinkDown."""

    def wait(self) -> Iterator[FromAgent]:
        """Blocks until the agent has asked something. Raises LinkDown."""

    def agree(self, _place: str, /, ok: bool, note: str = "") -> tuple[bool, str]:
        """Returns when every rank has come here: whether all are ok, and the first note."""

    def send(self, message: FromTrainer) -> None:
        """To the agent; of the other ranks nothing goes out. Raises LinkDown."""

    def close(self) -> None: ...


class SoloLine:
    """Of a trainer that is one process."""

    place = ALONE

    def __init__(self, channel: TrainerChannel) -> None:
        self.channel = channel
        self.send = channel.send
        self.close = channel.close

    def boundary(self, tokens: int) -> int:
        return tokens

    def mean(self, loss: float) -> float:
        return loss

    def arrived(self) -> Iterator[FromAgent]:
        while (message := self.channel.poll()) is not None:
            yield message

    def wait(self) -> Iterator[FromAgent]:
        yield self.channel.receive()

    def agree(self, _place: str, /, ok: bool, note: str = "") -> tuple[bool, str]:
        return ok, note


class RankLine:
    """Of one rank among several. Not thread-safe, except `part_written`."""

    def __init__(self, channel: TrainerChannel, circle: RankCircle) -> None:
        self.place = circle.place
        self.on_written: Callable[[int, str], None] = lambda _serial, _note: None
        """All parts of an inner state are written; (serial of the SaveInner, first note)."""
        self._channel = channel
        self._circle = circle
        self._inbox: deque[FromAgent] = deque()
        self._gone = False
        """Of the leader: the agent is."""
        self._written: tuple[int, str] = (0, "")
        die_with_agent(channel.end)

    def boundary(self, tokens: int) -> int:
        voices = self._meet("step", tokens=int(tokens), orders=self._orders(0.0))
        return sum(v.tokens for v in voices)

    def mean(self, loss: float) -> float:
        voices = self._meet("loss", loss=loss)
        return sum(v.loss for v in voices) / len(voices)

    def arrived(self) -> Iterator[FromAgent]:
        while self._inbox:
            yield self._inbox.popleft()

    def wait(self) -> Iterator[FromAgent]:
        while not self._inbox:
            self._meet("wait", orders=self._orders(BEAT_S))
        return self.arrived()

    def agree(self, place: str, /, ok: bool, note: str = "") -> tuple[bool, str]:
        voices = self._meet(place, ok=ok, note=note)
        return all(v.ok for v in voices), next((v.note for v in voices if v.note), "")

    def send(self, message: FromTrainer) -> None:
        if not self.place.leads or self._gone:
            return
        try:
            self._channel.send(message)
        except LinkDown as error:
            self._lost(error)

    def part_written(self, serial: int, note: str) -> None:
        """This rank has done its part of an inner state; from any thread."""
        self._written = (serial, note)

    def close(self) -> None:
        self._circle.close()
        self._channel.close()

    def _orders(self, seconds: float) -> tuple[bytes, ...]:
        """What the agent has asked, for all ranks; the leader waits at most so long for it."""
        if not self.place.leads:
            return ()
        found: list[FromAgent] = []
        try:
            if seconds and not self._gone and (message := self._channel.poll(seconds)) is not None:
                found.append(message)
            while not self._gone and (message := self._channel.poll()) is not None:
                found.append(message)
        except LinkDown as error:
            self._lost(error)
        if self._gone:
            found.append(Shutdown())
        return tuple(encode(message)[LENGTH.size :] for message in found)

    def _lost(self, error: LinkDown) -> None:
        """Nobody can use what this peer would train: all ranks end at their next meeting."""
        if not self._gone:
            print(f"farflung: {error}; the trainer ends", file=sys.stderr)
        self._gone = True

    def _meet(
        self,
        place: str,
        *,
        loss: float = 0.0,
        tokens: int = 0,
        ok: bool = True,
        note: str = "",
        orders: tuple[bytes, ...] = (),
    ) -> list[Voice]:
        serial, why = self._written
        mine = Voice(
            number=self._circle.next_number,
            place=place,
            loss=loss,
            tokens=tokens,
            ok=ok,
            note=note,
            written=serial,
            written_note=why,
            orders=orders,
        )
        voices = self._circle.meet(mine)
        self._inbox.extend(decode_from_agent(body) for body in voices[0].orders)
        if serial and all(v.written == serial for v in voices):
            self._written = (0, "")
            self.on_written(serial, next((v.written_note for v in voices if v.written_note), ""))
        return voices
