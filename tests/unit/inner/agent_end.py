"""The agent's end of a trainer's channel, in a thread of the test: attach() runs in the test itself
or in a program that the test starts.

It grants leases as the ledger would: whatever was granted and not trained comes first in the next
lease, and after a reset somebody else has it.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pytest
from torch import nn

from farflung.config.run import RunSpec, spec_bytes
from farflung.errors import ProtocolError
from farflung.inner import channel as ch
from farflung.inner.flat import FlatParameters
from farflung.inner.seam import SharedState

WAIT_S = 300.0
"""For a program to attach and to train: a busy machine loads torch slowly."""


class AgentEnd:
    """`with AgentEnd(...) as agent:` then attach() and train; `agent.reports` are the answers."""

    def __init__(
        self,
        folder: Path,
        spec: RunSpec,
        model: nn.Module | None,
        monkeypatch: pytest.MonkeyPatch,
        *,
        leases: int,
        steps: int,
        stop: int = -1,
    ) -> None:
        """Grants `leases` leases of `steps` batches, then says Shutdown. Without a model the anchor
        has the layout of whoever attaches, and small random values. Lease `stop` ends early."""
        self.spec = spec
        self.reports: list[ch.WorkReport] = []
        self.trained: list[int] = []
        """Positions that the answers count, in order."""
        self.granted: list[int] = []
        """Of the running lease."""
        self.inbox: list[ch.FromTrainer] = []
        self._shared: SharedState | None = None
        if model is not None:
            flat = FlatParameters(model)
            self._shared = _shared(flat.size)
            flat.read([(0, flat.size)], self.shared.anchor)
        self._leases, self._steps, self._stop = leases, steps, stop
        self._frontier, self._serial = 0, 0
        self._left: list[int] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(folder / "agent"))
        self._socket.listen(1)
        self._socket.settimeout(WAIT_S)
        monkeypatch.setenv(ch.ENV_SOCKET, str(folder / "agent"))
        monkeypatch.delenv(ch.ENV_GENESIS, raising=False)
        self._connection: socket.socket | None = None
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for end in (self._socket, self._connection):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if self._connection is not None:
            self._connection.close()
        if self._shared is not None:
            self._shared.close()
        if kind is None and self.failure is not None:
            raise self.failure

    @property
    def shared(self) -> SharedState:
        assert self._shared is not None
        return self._shared

    # ---- told by the test ------------------------------------------------------------------

    def stop_early(self) -> None:
        self._send(ch.StopEarly(serial=self._serial))

    def reset(self) -> None:
        """The stay is over: what was granted belongs to others, a new lease comes."""
        self._left, self.granted = [], []
        self._send(ch.Reset(serial=1000 + self._serial))

    # ---- the agent -------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._connection, _ = self._socket.accept()
            self._connection.settimeout(WAIT_S)
            for message in self._messages():
                self._answer(message)
        except TimeoutError as error:
            self.failure = error
        except OSError:
            pass  # the trainer is gone
        except BaseException as error:
            self.failure = error

    def _messages(self) -> Iterator[ch.FromTrainer]:
        assert self._connection is not None
        buffer = ch.FrameBuffer()
        while data := self._connection.recv(65_536):
            for body in buffer.feed(data):
                yield ch.decode_from_trainer(body)

    def _answer(self, message: ch.FromTrainer) -> None:
        match message:
            case ch.Attach():
                self._greet(message)
            case ch.ResetDone():
                self._grant()
            case ch.Done():
                self._count(message)
                self._grant()
            case ch.Progress():
                pass
            case _:
                raise ProtocolError(f"unexpected {message!r}")
        self.inbox.append(message)

    def _greet(self, attach: ch.Attach) -> None:
        assert self._connection is not None
        if self._shared is None:
            self._shared = _shared(sum(math.prod(shape) for _, shape in attach.layout))
            random = np.random.Generator(np.random.PCG64(1))
            self.shared.anchor[:] = 0.02 * random.standard_normal(self.shared.n, np.float32)
        frame = ch.encode(
            ch.AcceptAttach(
                version=ch.TRAINER_PROTOCOL_VERSION,
                spec=spec_bytes(self.spec),
                layout=attach.layout,
                fragments=self.shared.fragments,
                slots=1,
                data_dir="",
            )
        )
        socket.send_fds(self._connection, [frame[:4]], [self.shared.fd])
        self._connection.sendall(frame[4:])

    def _count(self, done: ch.Done) -> None:
        assert done.serial == self._serial
        self.reports.append(done.trained)
        self.trained += self.granted[: done.trained.rows]
        self._left = self.granted[done.trained.rows :]

    def _grant(self) -> None:
        if self._serial == self._leases:
            self._send(ch.Shutdown())
            return
        wanted = self._steps * self.spec.inner.batch_rows
        new = wanted - len(self._left)
        self.granted = [*self._left, *range(self._frontier, self._frontier + new)]
        self._frontier += new
        self._serial += 1
        work = ch.Work(
            round=self._serial - 1,
            fragment=0,
            generation=1,
            ranges=tuple((p, p + 1) for p in self.granted),
            steps=self._steps,
            progress_start=(self._serial - 1) / self._leases,
            progress_end=self._serial / self._leases,
            slot=0,
        )
        self._send(ch.StartWork(serial=self._serial, lease=work))
        if work.round == self._stop:
            self.stop_early()

    def _send(self, message: ch.FromAgent) -> None:
        assert self._connection is not None
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(ch.encode(message))

    def sent(self) -> np.ndarray:
        """The last departure."""
        return self.shared.sent(0, 0).copy()


def _shared(size: int) -> SharedState:
    return SharedState.create(size, (((0, size),),), 1, memfd=True)
