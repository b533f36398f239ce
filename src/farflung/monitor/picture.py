"""The swarm's picture: a pure fold over the coordinator's events.

Status, the report card and test assertions all read this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from farflung.events import (
    ArchiveExtended,
    AttemptStarted,
    ContributionRejected,
    EdgeFailed,
    Event,
    GenerationClosed,
    GenerationOpened,
    JournalBlocked,
    JournalWritable,
    ModelEvaluated,
    Paused,
    PeerJoined,
    PeerReady,
    PeerSuspect,
    PeerUnreachable,
    Resumed,
    RoundAbandoned,
    RoundCommitted,
    RoundOpened,
    RunAmended,
    RunFinished,
    RunStarted,
    SnapshotUploaded,
    StateReported,
    UploadProgress,
    sentence_of,
)
from farflung.ids import Role
from farflung.words import counted

KEPT_NOTES = 8
KEPT_LOSSES = 4096
KEPT_SCORES = 1024


@dataclass(frozen=True, kw_only=True)
class PeerPicture:
    name: str
    role: str
    state: str = "joined"
    """`joined`, `active`, `suspect`, `gone`, `away` (admitted, and never took part)."""
    generation: int = 0
    rounds: int = 0
    """Rounds for which it was READY."""
    samples: int = 0
    """Credited to it by commits."""
    steps: int = 0
    unreachable: str = ""
    """Why the host cannot dial it where it says that others can."""
    loss: float = math.nan
    """Of its last round, mean nats per token."""
    compute_s: float = 0.0
    wait_s: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True, kw_only=True)
class SourcePicture:
    """What was read of one source."""

    name: str
    weight: int
    """Its present weight, of coprime ones; they stand for samples that are leased from now on."""
    epoch_rows: int
    consumed: int
    """Samples that commits have credited."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    run: str = ""
    name: str = ""
    parameters: int = 0
    term: int = 0
    rounds_wanted: int = 0
    descent: str = ""
    """What the run began with; empty: fresh weights."""
    round: int = -1
    """The newest open round."""
    committed: int = 0
    abandoned: int = 0
    attempts: int = 0
    rejected: int = 0
    tokens: int = 0
    losses: tuple[tuple[int, float], ...] = ()
    """(round, mean nats per token)."""
    scores: tuple[tuple[int, float], ...] = ()
    """(rounds in the measured state, bits per byte of held-out text)."""
    samples: tuple[tuple[str, str], ...] = ()
    """(prompt, text) of the last evaluation."""
    sources: tuple[SourcePicture, ...] = ()
    """In the order of the spec. Told by the journal, by no event."""
    peers: Mapping[str, PeerPicture] = field(default_factory=dict)
    deaths: int = 0
    joins: int = 0
    """Generations that were opened after the first round was."""
    state_root: str = ""
    disagreements: int = 0
    agreements: int = 0
    replicated: bool = True
    paused: str = ""
    blocked: str = ""
    """Why the journal cannot be written."""
    archived: int = -1
    """The last round that the archive leads to; -1: none."""
    uploading: str = ""
    """How far the snapshot is that is on its way there."""
    finished: bool = False
    notes: tuple[str, ...] = ()

    @property
    def loss_first(self) -> float:
        return self.losses[0][1] if self.losses else math.nan

    @property
    def loss_last(self) -> float:
        return self.losses[-1][1] if self.losses else math.nan

    @property
    def active(self) -> list[PeerPicture]:
        return [p for p in self.peers.values() if p.state == "active" and p.role == Role.TRAINER]


def fold(events: Iterable[Event], start: Picture | None = None) -> Picture:
    picture = start or Picture()
    for event in events:
        picture = see(picture, event)
    return picture


def see(picture: Picture, event: Event) -> Picture:
    """The picture after one more event."""
    match event:
        case RunStarted():
            return replace(
                picture,
                run=event.run,
                name=event.name,
                parameters=event.parameters,
                term=event.term,
                rounds_wanted=event.rounds,
                descent=event.descent,
            )
        case RoundOpened():
            return replace(picture, round=event.round, paused="")
        case AttemptStarted():
            return replace(picture, attempts=picture.attempts + 1)
        case RoundCommitted():
            return _committed(picture, event)
        case RoundAbandoned():
            noted = _note(picture, f"round {event.round} abandoned: {event.reason}")
            return replace(noted, abandoned=picture.abandoned + 1)
        case ContributionRejected():
            noted = _note(picture, f"round {event.round}: {event.name} rejected: {event.reason}")
            return replace(noted, rejected=picture.rejected + 1)
        case EdgeFailed():
            return _note(picture, f"link {event.source}->{event.target} dead ({event.kind})")
        case Paused():
            return replace(picture, paused=event.reason)
        case Resumed():
            return replace(picture, paused="")
        case JournalBlocked():
            noted = picture if picture.blocked else _note(picture, f"journal: {event.reason}")
            return replace(noted, blocked=event.reason)
        case JournalWritable():
            return _note(
                replace(picture, blocked=""), f"journal: written again after {event.after_s:.0f} s"
            )
        case ModelEvaluated():
            samples = tuple(zip(event.prompts, event.texts, strict=True))
            return scored(picture, event.next_round, event.bits_per_byte, samples)
        case RunFinished():
            return replace(picture, finished=True)
        case ArchiveExtended() | SnapshotUploaded() | UploadProgress():
            return _archived(picture, event)
        case RunAmended():
            noted = _note(picture, event.sentence)
            return replace(noted, rounds_wanted=event.rounds, finished=False)
        case PeerUnreachable():
            noted = _note(picture, event.sentence)
            return _peer(noted, event.node, name=event.name, unreachable=event.reason)
        case _:
            sentence = sentence_of(event)
            return _note(picture, sentence) if sentence else _see_peer(picture, event)


def scored(
    picture: Picture, next_round: int, bits_per_byte: float, samples: tuple[tuple[str, str], ...]
) -> Picture:
    """The picture after one more evaluation."""
    scores = (*picture.scores, (next_round, bits_per_byte))[-KEPT_SCORES:]
    return replace(picture, scores=scores, samples=samples)


def _see_peer(picture: Picture, event: Event) -> Picture:
    match event:
        case PeerJoined():
            peer = PeerPicture(name=event.name, role=event.role)
            return replace(picture, peers={**picture.peers, event.node: peer})
        case GenerationOpened():
            late = picture.round >= 0 and _role(picture, event.node) == Role.TRAINER
            opened = _peer(
                picture, event.node, state="active", generation=event.generation, name=event.name
            )
            return replace(opened, joins=picture.joins + late)
        case GenerationClosed():
            left = event.reason.startswith("left")
            back = f"; {counted(event.returned, 'sample')} returned" if event.returned else ""
            noted = _note(
                _peer(picture, event.node, state="gone", name=event.name),
                f"{event.name} is out: {event.reason}{back}",
            )
            return replace(noted, deaths=picture.deaths + (not left))
        case PeerSuspect():
            return _peer(picture, event.node, state="suspect", name=event.name)
        case PeerReady():
            return _ready(picture, event)
        case StateReported():
            return _reported(picture, event)
        case _:
            return picture


def _archived(
    picture: Picture, event: ArchiveExtended | SnapshotUploaded | UploadProgress
) -> Picture:
    match event:
        case ArchiveExtended():
            return replace(picture, archived=max(picture.archived, event.round))
        case SnapshotUploaded():
            reached = max(picture.archived, event.next_round - 1)
            return replace(picture, archived=reached, uploading="")
        case UploadProgress():
            share = event.here / max(1, event.total)
            rest = f", {event.eta_s / 60:.0f} min left" if event.eta_s >= 0 else ""
            return replace(picture, uploading=f"round {event.next_round}: {share:.0%}{rest}")


def _committed(picture: Picture, event: RoundCommitted) -> Picture:
    losses = picture.losses
    if math.isfinite(event.loss):
        losses = (*losses, (event.round, event.loss))[-KEPT_LOSSES:]
    return replace(
        picture,
        committed=picture.committed + 1,
        tokens=event.total_tokens,
        losses=losses,
        state_root=event.state_root,
        replicated=event.replicated,
    )


def _ready(picture: Picture, event: PeerReady) -> Picture:
    peer = picture.peers.get(event.node) or PeerPicture(name=event.name, role=Role.TRAINER)
    loss = event.loss_sum / event.steps if event.steps else peer.loss
    noted = _note(picture, f"{event.name}: {event.note}") if event.note else picture
    return _peer(
        noted,
        event.node,
        state="active",
        name=event.name,
        rounds=peer.rounds + 1,
        steps=peer.steps + event.steps,
        loss=loss,
        compute_s=peer.compute_s + event.compute_s,
        wait_s=peer.wait_s + event.wait_s,
    )


def _reported(picture: Picture, event: StateReported) -> Picture:
    peer = picture.peers.get(event.node) or PeerPicture(name=event.name, role=Role.TRAINER)
    counted = replace(
        picture,
        agreements=picture.agreements + event.agrees,
        disagreements=picture.disagreements + (not event.agrees),
    )
    return _peer(
        counted,
        event.node,
        name=event.name,
        bytes_up=peer.bytes_up + event.bytes_up,
        bytes_down=peer.bytes_down + event.bytes_down,
    )


def _peer(picture: Picture, node: str, **changes: Any) -> Picture:
    peer = picture.peers.get(node) or PeerPicture(name=changes["name"], role=Role.TRAINER)
    return replace(picture, peers={**picture.peers, node: replace(peer, **changes)})


def _role(picture: Picture, node: str) -> str:
    peer = picture.peers.get(node)
    return peer.role if peer else Role.TRAINER


def _note(picture: Picture, sentence: str) -> Picture:
    """The newest notes, each once: what is said again moves to the end."""
    others = tuple(n for n in picture.notes if n != sentence)
    return replace(picture, notes=(*others, sentence)[-KEPT_NOTES:])


def to_json(picture: Picture) -> dict[str, Any]:
    """For `farflung status`: plain values, NaN as None."""
    plain = asdict(picture)
    plain["losses"] = [list(pair) for pair in picture.losses[-64:]]
    plain["scores"] = [list(pair) for pair in picture.scores[-64:]]
    plain["samples"] = [list(pair) for pair in picture.samples]
    plain["loss_last"] = _number(picture.loss_last)
    plain["loss_first"] = _number(picture.loss_first)
    for peer in plain["peers"].values():
        peer["loss"] = _number(peer["loss"])
    return plain


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
