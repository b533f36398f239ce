"""The ranks of one peer meet: every step boundary, every landing, every answer. No torch.

Rank 0 leads: it alone reads what the agent asks and hands it on, so all ranks do the same things at
the same step. A meeting is one message from each rank to the leader and one back to all, over the
sockets that came with AcceptAttach: some ten microseconds, no collective and no GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence

import msgspec

from farflung.errors import LinkDown, ProtocolError
from farflung.inner.channel import FRAME_CAP, LENGTH
from farflung.inner.shards import RankPlace

MEETING_S = 900.0
"""How long a rank waits for the others; the agent ends a group that hangs long before."""
ORPHAN_S = 5.0
"""A rank without its agent ends by itself in this time, whatever it is waiting for."""
_PR_SET_PDEATHSIG = 1


class Voice(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What one rank brings to a meeting."""

    number: int
    """Of the meeting, counted by each rank."""
    place: str
    """Where in the program: `step`, `wait` or the name of an answer."""
    loss: float = 0.0
    tokens: int = 0
    ok: bool = True
    """False: this rank's share of the work failed or is not finite."""
    note: str = ""
    """Why not."""
    written: int = 0
    """Serial of the SaveInner whose part this rank has written."""
    written_note: str = ""
    orders: tuple[bytes, ...] = ()
    """Of the leader: bodies of the agent's messages, in order."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Voice]] = msgspec.msgpack.Decoder(list[Voice])


class RankCircle:
    """The sockets between the ranks of a peer: a star around the leader. One thread."""

    def __init__(self, place: RankPlace, others: Sequence[socket.socket]) -> None:
        """`others`: of the leader one per other rank, in their order; else the leader's alone."""
        self.place = place
        self._others = list(others)
        self._meetings = 0
        for end in self._others:
            end.settimeout(MEETING_S)

    @classmethod
    def of_descriptors(cls, place: RankPlace, descriptors: Sequence[int]) -> RankCircle:
        """Takes them over. Raises ProtocolError when they are too few or too many."""
        wanted = place.world - 1 if place.leads else 1
        if len(descriptors) != wanted:
            raise ProtocolError(f"the agent gave {len(descriptors)} sockets for {wanted} ranks")
        return cls(place, [socket.socket(fileno=fd) for fd in descriptors])

    @property
    def next_number(self) -> int:
        return self._meetings + 1

    def meet(self, mine: Voice) -> list[Voice]:
        """Everybody's voice, in the order of ranks. Raises LinkDown when a rank is gone.

        Raises ProtocolError when the ranks are at different places of their programs.
        """
        self._meetings += 1
        try:
            if self.place.leads:
                voices = [mine, *(_read(end)[0] for end in self._others)]
                frame = _frame(voices)
                for end in self._others:
                    end.sendall(frame)
            else:
                self._others[0].sendall(_frame([mine]))
                voices = _read(self._others[0])
        except TimeoutError:
            raise LinkDown(f"another rank did not come to {mine.place!r}") from None
        except OSError as error:
            raise LinkDown(f"another rank is gone: {error.strerror}") from None
        for rank, voice in enumerate(voices):
            if (voice.number, voice.place) != (mine.number, mine.place):
                raise ProtocolError(
                    f"rank {rank} is at {voice.place!r} ({voice.number}) where rank "
                    f"{self.place.rank} is at {mine.place!r} ({mine.number}): all ranks must take "
                    f"the same batches and call peer.step() for each"
                )
        return voices

    def close(self) -> None:
        for end in self._others:
            end.close()


def _frame(voices: list[Voice]) -> bytes:
    body = _encoder.encode(voices)
    return LENGTH.pack(len(body)) + body


def _read(end: socket.socket) -> list[Voice]:
    (length,) = LENGTH.unpack(_exactly(end, LENGTH.size))
    if length > 2 * FRAME_CAP:
        raise ProtocolError(f"a rank sent a frame of {length} bytes")
    try:
        return _decoder.decode(_exactly(end, length))
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a rank sent a malformed message: {error}") from None


def _exactly(end: socket.socket, n_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < n_bytes:
        part = end.recv(n_bytes - len(data))
        if not part:
            raise LinkDown("another rank is gone")
        data += part
    return bytes(data)


def die_with_parent() -> None:
    """Linux: SIGKILL to this process when the one that started it ends."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def die_with_agent(agent: socket.socket) -> threading.Thread:
    """Ends this process when the agent hangs up and the loop does not end by itself.

    A rank may be stuck in a collective that nobody else will join. Reads nothing.
    """
    watched = os.dup(agent.fileno())
    thread = threading.Thread(target=_watch, args=(watched,), name="agent-watch", daemon=True)
    thread.start()
    return thread


def _watch(descriptor: int) -> None:
    poller = select.poll()
    poller.register(descriptor, getattr(select, "POLLRDHUP", 0) | select.POLLHUP)
    poller.poll()
    time.sleep(ORPHAN_S)
    os._exit(1)
