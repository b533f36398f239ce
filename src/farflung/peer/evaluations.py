"""How good the model is: this node measures its newest snapshot when the coordinator asks.

The work is an `Evaluator`'s, a process of its own in earnest: neither the loop nor the trainer
waits for it, and a fault in it costs the evaluation only.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import SnapshotManifest, decode_manifest
from farflung.config.run import RunSpec
from farflung.errors import FarflungError, StorageError
from farflung.events import EvaluationFailed, Event, ModelMeasured
from farflung.network.messages import DrawnText, Evaluate, Measured
from farflung.outer.layout import Layout
from farflung.peer.node import LocalNode
from farflung.peer.pins import Pins
from farflung.peer.retention import Retention
from farflung.tasks import Tasks, nothing_else

MAX_NOTE = 500
NEXT_S = 5.0
"""After an answer the next question may be on its way for so long."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be measured: a whole snapshot on this node's disk."""

    spec: RunSpec
    layout: Layout
    manifest: SnapshotManifest
    blobs: BlobStore


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The figures of one evaluation."""

    nats_per_token: float
    bits_per_byte: float
    tokens: int
    samples: tuple[DrawnText, ...]
    """The texts that were drawn, in the order of the spec's prompts."""


class Evaluator(Protocol):
    """Measures a model; injected, so that the simulator needs none."""

    def can_measure(self, spec: RunSpec) -> bool:
        """Whether it knows how to build the run's model."""

    async def evaluate(self, subject: Subject) -> Scores:
        """Nothing of it is left running when this is cancelled. Raises FarflungError with why
        there are no scores."""


class Evaluations:
    """Of one node, owned by the agent's loop; one at a time, the newest question counts."""

    def __init__(
        self, node: LocalNode, retention: Retention, pins: Pins, evaluator: Evaluator | None
    ) -> None:
        self._node = node
        self._retention = retention
        self._pins = pins
        self._evaluator = evaluator
        self._applied = asyncio.Event()
        self._next_until_s = 0.0
        self._tasks = Tasks(node.world.emit, nothing_else)  # a fault costs that evaluation

    @property
    def able(self) -> bool:
        """Whether the coordinator may ask this node; known when it has the run's spec."""
        return self._evaluator is not None and self._evaluator.can_measure(self._node.follower.spec)

    @property
    def busy(self) -> bool:
        """A question is not answered yet, or the next one may follow at once."""
        return len(self._tasks) > 0 or self._node.world.clock.now() < self._next_until_s

    def applied(self) -> None:
        """This node has applied another round."""
        self._applied.set()

    def on_evaluate(self, message: Evaluate) -> None:
        self._tasks.cancel()
        self._tasks.start(self._answer(message), "evaluate the model")

    async def close(self) -> None:
        await self._tasks.close()

    async def _answer(self, message: Evaluate) -> None:
        started_s = self._node.world.clock.now()
        next_round, scores, note = 0, _NOTHING, ""
        try:
            subject = await self._subject(message.next_round)
            next_round = subject.manifest.next_round
            assert self._evaluator is not None
            scores = await self._evaluator.evaluate(subject)
        except (FarflungError, OSError) as error:
            note = str(error)[:MAX_NOTE] or "it failed"
        took_s = self._node.world.clock.now() - started_s
        self._tell(next_round, scores, note, took_s)
        await self._node.control.send(
            Measured(
                term=message.term,
                serial=message.serial,
                next_round=next_round,
                nats_per_token=scores.nats_per_token,
                bits_per_byte=scores.bits_per_byte,
                tokens=scores.tokens,
                samples=scores.samples,
                took_s=took_s,
                note=note,
            )
        )
        self._next_until_s = self._node.world.clock.now() + NEXT_S

    def _tell(self, next_round: int, scores: Scores, note: str, took_s: float) -> None:
        """This node's owner, too."""
        event: Event = EvaluationFailed(name=self._node.config.name, reason=note)
        if not note:
            bits = scores.bits_per_byte
            event = ModelMeasured(next_round=next_round, bits_per_byte=bits, took_s=took_s)
        self._node.world.emit(event)

    async def _subject(self, wanted: int) -> Subject:
        """A snapshot that holds all rounds below `wanted`. Raises StorageError."""
        follower = self._node.follower
        if not follower.ready or self._evaluator is None:
            raise StorageError("it has no state to measure")
        while follower.state.next_round < wanted:  # the commits are on their way
            self._applied.clear()
            await self._applied.wait()
        pointer = await self._retention.snapshot_since(wanted)
        if pointer is None or pointer.next_round < wanted:  # another node has the room
            raise StorageError("it has no such new snapshot, for lack of room on its disk")
        name = bytes.fromhex(pointer.manifest)
        self._pins.touch(name)  # kept while it is read
        data = await self._node.world.workers.run(lambda: follower.blobs.get(name))
        if data is None:
            raise StorageError("its snapshot is gone")
        return Subject(
            spec=follower.spec,
            layout=follower.state.layout,
            manifest=decode_manifest(data, self._node.config.run),
            blobs=follower.blobs,
        )


_NOTHING = Scores(nats_per_token=0.0, bits_per_byte=0.0, tokens=0, samples=())
