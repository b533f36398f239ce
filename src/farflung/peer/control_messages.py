"""What the coordinator's messages mean for this node."""

from __future__ import annotations

from farflung import __version__
from farflung.config.run import ARITHMETIC_VERSION, PROTOCOL_VERSION
from farflung.errors import ProtocolError
from farflung.network.messages import (
    Attempt,
    Control,
    Donors,
    Evaluate,
    Hello,
    JournalFrames,
    Plan,
    Verdict,
    Welcome,
)
from farflung.peer.applier import Applier
from farflung.peer.control_link import check_welcome
from farflung.peer.evaluations import Evaluations
from farflung.peer.generations import Generations
from farflung.peer.node import LocalNode
from farflung.peer.standing import Standing
from farflung.swarm.records import AnyRecord, Close, Gen


class ControlMessages:
    """Handles one node's control link (`control_link.Handler`). Owned by the agent's loop."""

    def __init__(
        self,
        node: LocalNode,
        standing: Standing,
        generations: Generations,
        applier: Applier,
        evaluations: Evaluations,
    ) -> None:
        self._node = node
        self._standing = standing
        self._generations = generations
        self._applier = applier
        self._evaluations = evaluations

    def hello(self) -> Hello:
        config, follower, standing = self._node.config, self._node.follower, self._standing
        return Hello(
            protocol=PROTOCOL_VERSION,
            arithmetic=ARITHMETIC_VERSION,
            run=config.run,
            name=config.name,
            region=config.region,
            role=config.role,
            endpoints=self._node.mesh.endpoints,
            term=follower.term,
            journal_length=follower.journal.length,
            journal_head=follower.journal.head,
            session=standing.session,
            generation=standing.number,
            device=self._node.measures.device,
            software=f"farflung {__version__}",
        )

    def on_welcome(self, welcome: Welcome) -> None:
        """Raises MismatchError, ProtocolError."""
        check_welcome(welcome, self._node.follower.term)
        self._standing.welcomed(welcome.term, welcome.journal_length)
        if self._generations.current is not None:
            self._generations.current.averager.new_term(welcome.term)

    def on_message(self, message: Control) -> None:
        """Raises ProtocolError, StorageError (the journal's replica)."""
        match message:
            case JournalFrames():
                self._on_journal(message)
            case Donors():
                self._node.mesh.know(message.members)
                self._node.donors.know(m.node for m in message.members)
            case Plan():
                self._on_plan(message)
            case Attempt() | Verdict():
                self._on_attempt(message)
            case Evaluate() if message.term == self._standing.term:
                self._evaluations.on_evaluate(message)
            case Evaluate():
                pass  # a former coordinator's: the present one asks itself
            case _:
                raise ProtocolError(f"{type(message).__name__} does not come from a coordinator")

    def on_down(self) -> None:
        self._standing.news.set()

    def shown(self, index: int) -> bytes:
        """A record of my journal, as it stands in the file."""
        return self._node.follower.journal.frame(index)

    # ---- by kind ---------------------------------------------------------------------------

    def _on_journal(self, message: JournalFrames) -> None:
        follower = self._node.follower
        at = follower.journal.length
        for i, record in enumerate(follower.extend(message.first, message.frames), at):
            self._on_record(record, new=i >= self._standing.journal_target)
        self._standing.news.set()

    def _on_record(self, record: AnyRecord, *, new: bool) -> None:
        """`new`: since this link's Hello; an older GEN was a former process's."""
        me, standing = self._node.config.node, self._standing
        match record:
            case Gen(node=node, generation=generation) if new and node == me:
                if standing.number not in (0, generation):
                    self._generations.end()  # its CLOSE was lost with a disk error
                standing.opened(generation)
                self._applier.count_bytes_from_now()
            case Close(node=node, generation=generation):
                if node == me and generation == standing.number:
                    self._generations.end()
            case _:
                pass

    def _on_plan(self, plan: Plan) -> None:
        generation = self._generations.current
        runner = None if generation is None else generation.runner
        if runner is not None and plan.generation == self._standing.number:
            self._standing.answered()
            runner.on_plan(plan)

    def _on_attempt(self, message: Attempt | Verdict) -> None:
        generation = self._generations.current
        if generation is None or message.term != self._standing.term:
            return
        if isinstance(message, Verdict):
            generation.averager.on_verdict(message)
            return
        if self._standing.number:
            self._standing.answered()
        generation.averager.on_attempt(message)
