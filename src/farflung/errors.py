"""Everything that farflung raises on purpose.

FarflungError
├── UserError            a person's mistake: one sentence, exit code 2, state untouched
│   ├── ConfigError      a value of the run or peer spec
│   │   └── Unreadable   a file that cannot be read on         (data/byte_streams.py)
│   ├── InviteError      wrong, expired or foreign invite
│   ├── ArchiveRefused   an archive that is not this run's               (archive/upload.py)
│   └── MismatchError    two sides disagree on a version or a hash; names both values
├── ProtocolError        a stranger's or a peer's mistake: the connection is closed and counted
│   ├── QuestionRefused  a value in a viewer's query that cannot be      (window/api.py)
│   ├── FrameError       bytes that are no frame, or too large a frame
│   └── Refused          the other side declined, with its sentence
├── LinkDown             a connection ended or a deadline passed; the caller goes on without it
├── StorageError         the disk refused (full, read-only, torn); nothing was acknowledged
│   ├── SnapshotOvertaken  it is not on this disk any more               (archive/upload.py)
│   └── SnapshotGone     its state went away while it was written    (peer/snapshot_writer.py)
├── StoreError           an archive's store did not answer, or not well   (archive/store.py)
│   └── StoreDenied      it refuses this user, or has no such bucket
├── Forked               another coordinator has continued this run; this one stops
├── CorruptState         bytes on disk or from a donor do not match their hash
├── Unservable           every source has said that it lacks a blob    (transfer/download_plan.py)
├── LogTrimmed           nobody keeps a result that I need; a snapshot does     (peer/replay.py)
├── ProgressLost         local parameters are not finite; they start again      (peer/round.py)
├── TrainerDied          the trainer is gone; it is started again            (trainers/port.py)
├── EvaluationDied       an evaluation ended without figures            (run/evaluator.py)
├── GenerationFailed     a task of a stay failed; the next stay is prepared (peer/generation.py)
├── RunReopened          a finished run that I came to was extended             (peer/agent.py)
├── IllegalMove          a phase entered out of turn                         (peer/standing.py)
├── DecisionFault        nothing could be decided about a message (coordinator/coordinator.py)
├── NotReady             a run's history is being read, or cannot be   (window/reader.py)
├── Busy                 more different questions than the window answers now
├── Violation            `verify` found a broken promise                        (run/verify.py)
└── BrokenInvariant      the simulator found one                               (sim/checks.py)

Those with a file stand beside the code that raises them. tests/unit/test_names.py lists the two
exceptions outside the tree, which nothing may catch.
"""

from __future__ import annotations


class FarflungError(Exception):
    """Root of the tree."""


class UserError(FarflungError):
    """A person's mistake. The message is one sentence: value, rule, remedy."""


class ConfigError(UserError):
    """A value in a run or peer spec breaks a rule."""


class InviteError(UserError):
    """The invite is malformed, expired, foreign or used up."""


class MismatchError(UserError):
    """Two sides disagree on a version or a hash."""


class ProtocolError(FarflungError):
    """A remote party broke the protocol."""


class FrameError(ProtocolError):
    """Malformed or oversized bytes on a connection."""


class Refused(ProtocolError):
    """The remote party declined; the message is its sentence."""


class LinkDown(FarflungError):
    """A connection ended or a deadline passed."""


class StorageError(FarflungError):
    """The disk refused an operation; nothing was acknowledged."""


class Forked(FarflungError):
    """Proof of a second coordinator. `index`: the record in dispute; `mine`, `theirs`: journal
    heads, 32 bytes each."""

    def __init__(self, sentence: str, *, index: int, mine: bytes, theirs: bytes) -> None:
        super().__init__(sentence)
        self.index, self.mine, self.theirs = index, mine, theirs


class CorruptState(FarflungError):
    """Bytes do not match the hash that names them."""
