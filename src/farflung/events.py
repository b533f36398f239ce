"""Typed events: the one source of logs, status, reports and test assertions.

Each process writes its events to a JSONL file (`EventLog`); monitor/view.py folds them.
Times are seconds of the emitting process's monotonic clock plus, for people only, the wall clock.

A long file for a reason: it is the list of all kinds, which whoever folds, prints or asserts them
reads from top to bottom; a kind is a few fields and a sentence.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from farflung.errors import StorageError
from farflung.lasting import HISTORY_BYTES, LastingLines

EVENT_LOG_VERSION = 1
EVENTS = "events.jsonl"
"""The log's name in a node's folder."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base. `kind` in the log is the class name."""


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    run: str
    name: str
    parameters: int
    term: int
    rounds: int
    descent: str = ""
    """What the run began with, for people; empty: fresh weights."""


@dataclass(frozen=True, kw_only=True)
class PeerJoined(Event):
    node: str
    name: str
    role: str


@dataclass(frozen=True, kw_only=True)
class GenerationOpened(Event):
    node: str
    name: str
    generation: int
    next_round: int


@dataclass(frozen=True, kw_only=True)
class GenerationClosed(Event):
    node: str
    name: str
    generation: int
    reason: str
    returned: int
    """Positions that are free again."""


@dataclass(frozen=True, kw_only=True)
class PeerDescribed(Event):
    """What a node says of itself: when it connects, and when its trainer names another device."""

    node: str
    name: str
    region: str
    """IATA code of an airport (regions.py); empty: not declared."""
    device: str
    """`NVIDIA H200`; empty: not known yet."""
    software: str
    """`farflung 0.1.0`"""


@dataclass(frozen=True, kw_only=True)
class PeerSuspect(Event):
    """A stay goes on, but its node is not heard: until `PeerRecovered` or `GenerationClosed`."""

    node: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class PeerRecovered(Event):
    """A suspect is heard again."""

    node: str
    name: str


@dataclass(frozen=True, kw_only=True)
class RoundOpened(Event):
    round: int
    fragment: int
    peers: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class PeerReady(Event):
    round: int
    node: str
    name: str
    steps: int
    tokens: int
    loss_sum: float
    compute_s: float
    wait_s: float
    note: str


@dataclass(frozen=True, kw_only=True)
class AttemptStarted(Event):
    round: int
    attempt: int
    candidates: int
    owners: int
    reason: str
    shares: tuple[tuple[str, float], ...] = ()
    """(node, share of the fragment) of every owner, in 0..1."""


@dataclass(frozen=True, kw_only=True)
class AttemptFailed(Event):
    round: int
    attempt: int
    reason: str
    without: tuple[str, ...] = ()
    """Nodes that the round's next attempt leaves out: a strike for each."""


@dataclass(frozen=True, kw_only=True)
class EdgeFailed(Event):
    """A link between two nodes that live: the next attempt is planned around it."""

    round: int
    attempt: int
    source: str
    """Name of the node whose bytes did not arrive."""
    target: str
    fault: str
    """`unreachable`: the source said so; `silent`: the target did."""
    source_node: str = ""
    target_node: str = ""


@dataclass(frozen=True, kw_only=True)
class ContributionRejected(Event):
    round: int
    node: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RoundCommitted(Event):
    round: int
    fragment: int
    attempt: int
    contributors: int
    tokens: int
    """Of the newly credited rows, as the trainers' programs counted them."""
    total_tokens: int
    loss: float
    """Mean nats per token over the round's inner steps; NaN when nobody stepped."""
    took_s: float
    holders: int
    replicated: bool
    state_root: str


@dataclass(frozen=True, kw_only=True)
class RoundAbandoned(Event):
    round: int
    fragment: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Paused(Event):
    reason: str


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    reason: str


@dataclass(frozen=True, kw_only=True)
class StateReported(Event):
    """A peer's state after it resolved a round."""

    round: int
    node: str
    name: str
    state_root: str
    agrees: bool
    bytes_up: int
    bytes_down: int


PHASES = ("train", "wait", "encode", "send", "reduce", "receive", "vote", "merge")
"""What a peer does in a round; spans name a phase by its place here.

train    inner steps
wait     for others, or for its own earlier round
encode   the departing fragment's pseudo-gradient, encoded
send     contributions to owners, an owner's results to all
reduce   an owner: statistics and sum
receive  bytes arrive: an owner's contributions, everybody's results
vote     store the result, step ahead, vote; until the commit is known
merge    the commit is applied
"""


@dataclass(frozen=True, kw_only=True)
class PeerMeasured(Event):
    """What a peer did in a resolved round, as it says itself: shown, never decided by.

    0 stands for what was not measured. Checked by coordinator/measures.py.
    """

    round: int
    node: str
    name: str
    spans: tuple[float, ...]
    """Flat: (index into PHASES, start, stop) for each; seconds since 1970 of the coordinator's
    clock, by order of start. `wait` overlaps nothing."""
    lr: float
    """Factor of the peak learning rates at the last step."""
    grad_norm: float
    """Mean global norm before clipping."""
    tokens_per_s: float
    """While it computed."""
    mfu: float
    """Model FLOPs over the device's peak, in 0..1."""
    data_wait_s: float
    copy_s: float
    memory_bytes: int
    device: str
    flops: float = 0.0
    """Model FLOPs of a token, forward and backward."""


@dataclass(frozen=True, kw_only=True)
class LinkMeasured(Event):
    """What one node sent to another in a resolved round, as the sender measured it.

    Not of every pair in every round where there are many: coordinator/measures.py chooses.
    """

    round: int
    source: str
    target: str
    bytes: int
    bytes_per_s: float
    """While bytes were on their way; 0: not known."""
    rtt_s: float
    """0: not known."""
    loss: float
    """Retransmitted share of the round's segments, in 0..1; -1: not known."""


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    rounds: int
    tokens: int
    state_root: str


@dataclass(frozen=True, kw_only=True)
class RunAmended(Event):
    """The operator changed settings of the run; a finished one is open again."""

    rounds: int
    """Wanted from now on."""
    tokens: int
    from_round: int
    changes: str
    """`outer.rounds=150, swarm.grace_s=5.0`"""

    @property
    def sentence(self) -> str:
        return f"amended from round {self.from_round} on: {self.changes}"


@dataclass(frozen=True, kw_only=True)
class JournalBlocked(Event):
    """The coordinator's disk refuses records: nothing is committed, the rest is served."""

    reason: str
    for_s: float


@dataclass(frozen=True, kw_only=True)
class JournalWritable(Event):
    """The disk takes records again."""

    after_s: float


@dataclass(frozen=True, kw_only=True)
class ForkDetected(Event):
    """Two coordinators have signed different records: the coordinator that says this has halted,
    a node that says this stays with the journal that it has."""

    index: int
    """The record in dispute."""
    mine: str
    theirs: str
    sentence: str


# ---- what went wrong and is survived -------------------------------------------------------


@runtime_checkable
class Readable(Protocol):
    """An event that an operator should read."""

    @property
    def sentence(self) -> str:
        """One line, without what `kind` and the log's stamp say."""


def sentence_of(event: Event) -> str:
    """What to print of an event that an operator should read; empty for all others.

    Everything that tells people of trouble (terminals, status, reports) takes it from here. Parts
    of it may be a stranger's words.
    """
    return printable(event.sentence) if isinstance(event, Readable) else ""


def printable(text: str, keep: str = "") -> str:
    """Text of strangers, without anything that a terminal would obey: spaces instead."""
    return "".join(c if c.isprintable() or c in keep else " " for c in text)


def inert(text: str, most: int = 256) -> str:
    """Words that a node sent, as they may stand in an event: one line, cut, and printable."""
    return printable(text[:most]).strip()


@dataclass(frozen=True, kw_only=True)
class Trouble(Event):
    """Base of what this program met and went on with; each kind has a `sentence`."""


@dataclass(frozen=True, kw_only=True)
class Warned(Trouble):
    """For people's eyes only: no code, test of a fault or dashboard asks for its kind.

    Whatever must be told apart gets a kind of its own below.
    """

    sentence: str


@dataclass(frozen=True, kw_only=True)
class ModelMeasured(Event):
    """This node has measured its newest snapshot, and answers."""

    next_round: int
    bits_per_byte: float
    took_s: float


@dataclass(frozen=True, kw_only=True)
class ModelEvaluated(Event):
    """How good the model is, as one node measured it."""

    serial: int
    node: str
    name: str
    next_round: int
    """The state that was measured holds all commits below."""
    nats_per_token: float
    bits_per_byte: float
    tokens: int
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    """What the model wrote after each prompt."""
    took_s: float


@dataclass(frozen=True, kw_only=True)
class EvaluationFailed(Trouble):
    """A node did not measure the model when asked; another one is."""

    name: str
    reason: str

    @property
    def sentence(self) -> str:
        return f"{self.name} did not evaluate the model: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class NodeRefused(Trouble):
    """The coordinator turned an admitted node away."""

    name: str
    reason: str

    @property
    def sentence(self) -> str:
        return f"refused {self.name}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class InviteRefused(Trouble):
    """A stranger's invite was not taken."""

    reason: str

    @property
    def sentence(self) -> str:
        return f"refused an invite: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class LinkClosed(Trouble):
    """The other end broke the protocol, so its link was closed."""

    plane: Literal["control", "data"]
    name: str
    """Of the other end; where only its id is known, the first digits of that."""
    reason: str

    @property
    def sentence(self) -> str:
        return f"{self.plane} link to {self.name} closed: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class SessionsClosed(Trouble):
    """The coordinator journalled a decision that it could not send: every node asks again."""

    reason: str

    @property
    def sentence(self) -> str:
        return f"every node connects again: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class StateRejected(Trouble):
    """A node asked to take part with a state that is not the journal's."""

    node: str
    name: str

    @property
    def sentence(self) -> str:
        return f"{self.name} claims another state after the same rounds"


@dataclass(frozen=True, kw_only=True)
class LastRoundAwaited(Trouble):
    """The run is finished; the coordinator stays until the last round is everywhere."""

    names: tuple[str, ...]
    """Who lacks it; empty: whoever connects again, after a restart."""
    up_to_s: float

    @property
    def sentence(self) -> str:
        if not self.names:
            who = f"{self.up_to_s:g} s whoever missed its last rounds"
            return f"the run is finished; serving for {who}"
        wait = f"up to {self.up_to_s:g} s for the last round to reach {', '.join(self.names)}"
        return f"the run is finished; waiting {wait}"


@dataclass(frozen=True, kw_only=True)
class LastRoundLacking(Trouble):
    """The run ends although some nodes have not said that they hold the last round."""

    names: tuple[str, ...]

    @property
    def sentence(self) -> str:
        return f"the run ends without the last round at {', '.join(self.names)}"


@dataclass(frozen=True, kw_only=True)
class AttemptLeft(Trouble):
    """This node gave up its part in an attempt; the others go on without it."""

    round: int
    reason: str

    @property
    def sentence(self) -> str:
        return f"out of round {self.round}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class VoteWithheld(Trouble):
    """This node holds no durable result, so it does not vote."""

    round: int
    reason: str

    @property
    def sentence(self) -> str:
        return f"no vote for round {self.round}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Abstained(Trouble):
    """This peer's weights are not finite: it contributes nothing and starts anew."""

    round: int
    reason: str

    @property
    def sentence(self) -> str:
        return f"abstaining from round {self.round}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class InputsNotKept(Trouble):
    """`record = "all"`: contributions that this node reduced are not on its disk."""

    round: int
    reason: str

    @property
    def sentence(self) -> str:
        return f"inputs of round {self.round} not kept: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class ResultNotKept(Trouble):
    """A fetched result was applied without being on this disk."""

    round: int
    reason: str

    @property
    def sentence(self) -> str:
        return f"result of round {self.round} not kept: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class SnapshotSkipped(Trouble):
    """No snapshot was written this time."""

    reason: str

    @property
    def sentence(self) -> str:
        return f"snapshot skipped: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class SnapshotUnusable(Trouble):
    """A snapshot cannot be used; another one is taken."""

    own: bool
    """This node's own, from its disk; else a donor's, which cannot be completed."""
    reason: str

    @property
    def sentence(self) -> str:
        if self.own:
            return f"my own snapshot is unusable ({self.reason}); fetching one"
        return f"{self.reason}; taking a newer snapshot"


@dataclass(frozen=True, kw_only=True)
class LogTrimmedByLimit(Trouble):
    """Told once: a keeper's disk limit drops results that `verify` would need."""

    limit_bytes: int
    from_round: int

    @property
    def sentence(self) -> str:
        return (
            f"the limit of {self.limit_bytes / 2**20:,.1f} MiB on this disk drops results "
            f"from round {self.from_round} on; `verify` cannot recompute the run from its start: "
            f"give --max-disk more, or record = 'none' to expect it"
        )


@dataclass(frozen=True, kw_only=True)
class FetchDelayed(Trouble):
    """Something that this node needs cannot be fetched now; it asks again."""

    what: str
    reason: str

    @property
    def sentence(self) -> str:
        return f"{self.what} is not here yet: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class DiskAwaited(Trouble):
    """The disk refuses what cannot be done without: it is tried again until it works."""

    what: str
    """Which part of this process waits."""
    reason: str

    @property
    def sentence(self) -> str:
        return f"{self.what} waits for the disk: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class IndexUnavailable(Trouble):
    """The host goes on without `index.sqlite`, which the next start makes anew."""

    reason: str

    @property
    def sentence(self) -> str:
        return f"no index until the next start: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class InnerStateSkipped(Trouble):
    """The trainer's optimizer state was not saved, or not taken: it may start fresh."""

    doing: Literal["saving", "reading", "loading", "fetching"]
    reason: str

    @property
    def sentence(self) -> str:
        match self.doing:
            case "saving":
                return f"the inner optimizer's state is not saved: {self.reason}"
            case "reading":
                return f"my saved inner state is unusable: {self.reason}"
            case "loading":
                return f"the inner state is not loaded ({self.reason}); the optimizer starts fresh"
            case "fetching":
                return f"no donor's inner state ({self.reason}); the optimizer starts fresh"


@dataclass(frozen=True, kw_only=True)
class UploadDelayed(Trouble):
    """The archive cannot be brought up to date now; it is tried again, later each time."""

    address: str
    reason: str

    @property
    def sentence(self) -> str:
        return f"the archive {self.address} waits, and the run goes on without: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class UploadStopped(Trouble):
    """The archive at this address is not this run's: nothing is uploaded until the next start."""

    reason: str

    @property
    def sentence(self) -> str:
        return f"nothing is uploaded: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class CertificateNotRenewed(Trouble):
    """Tried again in an hour; certificates last a day."""

    reason: str

    @property
    def sentence(self) -> str:
        return f"certificate not renewed yet: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class ClockSkewed(Trouble):
    """This machine's wall clock is not the coordinator's."""

    ahead_s: float
    """Negative: behind."""

    @property
    def sentence(self) -> str:
        side = "ahead of" if self.ahead_s > 0 else "behind"
        return (
            f"this machine's clock is {abs(self.ahead_s):,.0f} s {side} the coordinator's; "
            "training does not mind, but a day's difference ends connections: set one of them"
        )


@dataclass(frozen=True, kw_only=True)
class UploadProgress(Event):
    """How far the upload of a snapshot is; every few seconds."""

    next_round: int
    here: int
    """Bytes of it in the archive."""
    total: int
    bytes_per_s: float
    eta_s: float
    """-1 while nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class SnapshotUploaded(Event):
    """The archive names a new snapshot."""

    next_round: int
    bytes: int
    """Sent for it: chunks, results, journal."""
    reused: int
    """Bytes of it that were in the archive already."""
    took_s: float
    removed: int
    """Objects that no kept snapshot needs any more."""
    address: str


@dataclass(frozen=True, kw_only=True)
class ArchiveExtended(Event):
    """Results and journal up to this round are in the archive, beside its newest snapshot."""

    round: int


@dataclass(frozen=True, kw_only=True)
class PeerUnreachable(Trouble):
    """The host cannot dial a node where it says that others can: exchanges with it fail until a
    plan goes round it."""

    node: str
    name: str
    reason: str

    @property
    def sentence(self) -> str:
        return f"{self.name} cannot be dialled: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class NotDialled(Trouble):
    """This node has heard from its host that it cannot be dialled."""

    reason: str

    @property
    def sentence(self) -> str:
        return (
            f"others cannot dial this peer ({self.reason}), so part of its work is lost: open the "
            f"port, correct --bind and --advertise, or join again with --outbound-only"
        )


@dataclass(frozen=True, kw_only=True)
class ConnectionsNotAccepted(Trouble):
    """The system gives this process no further connection: told at once, then now and then."""

    reason: str

    @property
    def sentence(self) -> str:
        return (
            f"connections cannot be accepted: {self.reason}; those that are open go on (raise "
            f"`ulimit -n`)"
        )


@dataclass(frozen=True, kw_only=True)
class WindowOpened(Event):
    """The host's dashboard can be seen."""

    address: str
    """URL, for a browser on this machine."""
    public: bool
    """Other machines see it too."""
    taken: int
    """The port that was wanted, when another program has it; 0: it was free."""


@dataclass(frozen=True, kw_only=True)
class WindowEnded(Trouble):
    """The dashboard's process has ended; the run does not mind."""

    reason: str
    again_s: float
    """Until it is started again."""

    @property
    def sentence(self) -> str:
        return f"the dashboard starts again in {self.again_s:g} s: {self.reason}"


# ---- an agent's own ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AgentStarted(Event):
    run: str
    node: str
    name: str
    role: str


@dataclass(frozen=True, kw_only=True)
class RunKnown(Event):
    """A node has read what it takes part in."""

    name: str
    model: str
    parameters: int
    rounds: int
    finished: bool


@dataclass(frozen=True, kw_only=True)
class StateProgress(Event):
    """How far the download of a snapshot is; about twice a second."""

    here: int
    """Bytes on this disk, those of an interrupted download included."""
    total: int
    bytes_per_s: float
    eta_s: float
    """-1 while nothing is measured."""
    sources: int
    """Peers that something is asked of."""


@dataclass(frozen=True, kw_only=True)
class BadBlob(Event):
    """A source sent bytes that do not match their hash; after three it is not asked again."""

    node: str
    what: str
    strikes: int
    sentence: str


@dataclass(frozen=True, kw_only=True)
class SnapshotFetched(Event):
    next_round: int
    bytes: int
    """Moved by this process."""
    took_s: float
    reused: int = 0
    """Bytes of it that were on this disk already."""
    sources: int = 1
    """Peers that delivered."""


@dataclass(frozen=True, kw_only=True)
class InnerStateLoaded(Event):
    """The trainer's optimizer goes on with the state of `round`."""

    source: str
    """`own`, or the donor's node."""
    round: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Applied(Event):
    """This agent's anchor moved to the state after `round`."""

    round: int
    fragment: int
    attempt: int
    fragment_hash: str
    state_root: str
    contributed: bool


@dataclass(frozen=True, kw_only=True)
class Skipped(Event):
    """A journalled abandon was taken note of."""

    round: int


@dataclass(frozen=True, kw_only=True)
class Trained(Event):
    round: int
    steps: int
    tokens: int
    loss: float
    compute_s: float
    wait_s: float
    mfu: float = 0.0
    """Model FLOPs over the device's peak, in 0..1; 0: not measured."""


@dataclass(frozen=True, kw_only=True)
class Voted(Event):
    term: int
    round: int
    attempt: int
    bytes_root: str
    fragment_hash: str


@dataclass(frozen=True, kw_only=True)
class TrainerRestarted(Event):
    reason: str


@dataclass(frozen=True, kw_only=True)
class NoCoordinator(Event):
    """No coordinator takes this node: told at once, then every minute."""

    reason: str
    tries: int
    for_s: float


@dataclass(frozen=True, kw_only=True)
class Reconnected(Event):
    after_s: float
    term: int


@dataclass(frozen=True, kw_only=True)
class Resynced(Event):
    """This agent replaced its own state because it did not match the journal."""

    round: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class TaskFailed(Trouble):
    """A background task ended by an exception that nobody expected: a fault of this program, or
    of the machine. What the task belonged to (a link, a stay, this process) ends with it."""

    task: str
    error: str
    """Type and message."""
    where: str
    """File and line of the innermost frame."""

    @property
    def sentence(self) -> str:
        """For people, as a warning's."""
        where = f" ({self.where})" if self.where else ""
        return f"a fault ended the task `{self.task}`: {self.error}{where}"


def failure(name: str, error: BaseException) -> TaskFailed:
    """The event of an exception that nobody expected."""
    cause = root_cause(error)
    frames = traceback.extract_tb(cause.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return TaskFailed(task=name, error=f"{type(cause).__name__}: {cause}", where=where)


def root_cause(error: BaseException) -> BaseException:
    """Of a group of failures the first, without its wrapping."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


Emit = Callable[[Event], None]


LOG_BYTES = 256 << 20
"""Two files hold all of some 40,000 rounds of four peers, 5,000 of sixty-four (decisions/0029)."""


def older_log(path: Path) -> Path:
    """Where the events before those in `path` are."""
    return path.with_name(f"{path.stem}.1{path.suffix}")


def history_of(path: Path) -> Path:
    """Where what lasts of the events before those in `older_log` is."""
    return path.with_name(f"{path.stem}.0{path.suffix}")


LASTING: tuple[type[Event], ...] = (
    *(RunStarted, RunAmended, RunFinished, Paused, Resumed),
    *(PeerDescribed, GenerationOpened, GenerationClosed),
    *(RoundCommitted, RoundAbandoned, ModelEvaluated),
)
"""What a run's curves and totals are drawn from for ever: a few lines a round at most, however
many peers there are."""

_COPIED = object()
STEPS = 512
"""Parts of a log after each of which a slice of the older one is copied: twice as fast as it is
written, so that the copy is whole, and on the disk, long before it is needed."""


class EventLog:
    """Appends events as JSON lines; also keeps none in memory.

    A file of `most_bytes` becomes `older_log`, whose own content goes, but for lines of the
    `LASTING` kinds: those are in `history_of` by then (lasting.py). Three files at most.
    """

    def __init__(
        self,
        path: Path,
        node: str,
        monotonic: Callable[[], float],
        *,
        most_bytes: int = LOG_BYTES,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        """Raises StorageError when the file cannot be opened."""
        self._path, self._node, self._most_bytes = path, node, most_bytes
        self._lasting = LastingLines(
            older_log(path),
            history_of(path),
            frozenset(kind.__name__ for kind in LASTING),
            frozenset((RoundCommitted.__name__,)),
            most_bytes=history_bytes,
        )
        self._copying: Iterator[None] | None = self._lasting.steps()
        """Of what lasts of the older log; None: all of it is in the history."""
        self._copy_at = 0
        """Size of the log at which the next slice is due."""
        self._refused = False
        """The disk did not take the copy when asked last."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._torn = _ends_torn(path)
            self._open()
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from error
        self._monotonic = monotonic
        self._listeners: list[Emit] = []
        self._faults: set[str] = set()
        """Of listeners, each told once: one that fails may fail at every event."""
        self.dropped = 0
        """Events that the disk did not take."""
        self._begin()

    def _open(self) -> None:
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._size = self._path.stat().st_size

    def _begin(self) -> None:
        self._write({"kind": "log", "version": EVENT_LOG_VERSION, "node": self._node})

    def _turn(self) -> None:
        """After a line: a slice of the older log is copied, or the file is full."""
        full = self._size > self._most_bytes
        if self._copying is not None and self._size >= self._copy_at:
            self._copy(full)
        hopeless = self._refused and self._size > 2 * self._most_bytes
        if full and (self._copying is None or hopeless):
            self._rotate()

    def _copy(self, full: bool) -> None:
        """A full file waits for the copy, which is whole some hundred lines later. A disk that
        refuses it is asked again later on, until the log is twice its size."""
        assert self._copying is not None
        wait = 0 if full else self._most_bytes // STEPS
        try:
            if next(self._copying, _COPIED) is _COPIED:
                self._copying, self._refused = None, False
        except OSError:
            self._refused = True
            self._copying = self._lasting.steps()
            wait = self._most_bytes // 64
        self._copy_at = self._size + wait

    def _rotate(self) -> None:
        """A disk that refuses lets the file grow, and is asked again after as much more."""
        full = self._file
        try:
            if self._path.exists():  # else only the new file was refused, the last time
                self._path.replace(older_log(self._path))
            self._open()
        except OSError:
            self._size = self._copy_at = 0
            return
        full.close()
        self._copying, self._copy_at = self._lasting.steps(), 0
        self._begin()

    def listen(self, listener: Emit) -> None:
        self._listeners.append(listener)

    def emit(self, event: Event) -> None:
        self._keep(event)
        for listener in self._listeners:
            try:
                listener(event)
            except OSError:
                pass  # a terminal that went away, a log on a full disk
            except Exception as error:  # who emits is not to end by it
                self._tell_fault(listener, error)

    def _tell_fault(self, broken: Emit, error: Exception) -> None:
        event = failure("listen to events", error)
        if event.error in self._faults:
            return
        self._faults.add(event.error)
        self._keep(event)
        for listener in self._listeners:
            if listener is not broken:
                with contextlib.suppress(Exception):  # if this one fails, its own turn tells
                    listener(event)

    def close(self) -> None:
        self._copying = None  # the next start copies again
        self._file.close()

    def _keep(self, event: Event) -> None:
        self._write({"kind": type(event).__name__, **vars(event)})

    def _write(self, fields: dict[str, Any]) -> None:
        stamp = {"t": round(self._monotonic(), 6), "wall": round(time.time(), 3)}
        start = "\n" if self._torn else ""  # a half line must not swallow the next whole one
        line = start + json.dumps(stamp | fields) + "\n"
        try:
            self._file.write(line)
            self._torn = False
            self._size += len(line)
        except OSError:
            # A full disk must not end the process that would report it; listeners still hear.
            self._torn = True
            self.dropped += 1
        else:
            self._turn()


def read_events(lines: Iterable[bytes]) -> Iterator[tuple[float, Event]]:
    """(seconds, event) of every line that can be read; `t` of its own process.

    Left out: headers, kinds of other versions, and half lines, which processes that were killed
    and full disks leave behind.
    """
    for line in lines:
        fields = read_line(line)
        event = None if fields is None else parse_event(fields)
        if fields is not None and event is not None:
            yield float(fields.get("t", 0.0)), event


def read_line(line: bytes) -> dict[str, Any] | None:
    """The fields of one line of a log; None for half a line, and for what is no object."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def parse_event(fields: dict[str, Any]) -> Event | None:
    """The event of one log line; None for headers, and for kinds that this version does not know or
    knows with other fields."""
    kind = _KINDS.get(str(fields.get("kind", "")))
    if kind is None:
        return None
    values = {k: v for k, v in fields.items() if k in kind.__dataclass_fields__}
    try:
        return kind(**{k: _frozen(v) for k, v in values.items()})
    except TypeError:  # a field that the line lacks
        return None


def _frozen(value: Any) -> Any:
    """Lists of JSON as the tuples that they were, inner ones too."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _ends_torn(path: Path) -> bool:
    """Whether a file's last line has no end: who wrote it was killed."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _kinds(base: type[Event]) -> dict[str, type[Event]]:
    found = {base.__name__: base}
    for kind in base.__subclasses__():
        found |= _kinds(kind)
    return found


_KINDS = _kinds(Event)
