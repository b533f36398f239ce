"""What the coordinator's events add to the fold: times, losses, phases, links, devices, sentences.

Without a journal (a log alone) they tell the rest as well. A peer's own log tells of one peer.
"""

from __future__ import annotations

import math

from farflung.events import (
    AgentStarted,
    Applied,
    ArchiveExtended,
    AttemptFailed,
    AttemptStarted,
    ContributionRejected,
    EdgeFailed,
    Event,
    GenerationClosed,
    GenerationOpened,
    JournalBlocked,
    JournalWritable,
    LinkMeasured,
    ModelEvaluated,
    Paused,
    PeerDescribed,
    PeerJoined,
    PeerMeasured,
    PeerReady,
    PeerRecovered,
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
    Trained,
    UploadProgress,
)
from farflung.ids import Role
from farflung.monitor import inert
from farflung.monitor.columns import ABANDONED, COMMITTED
from farflung.monitor.evaluations import Score
from farflung.monitor.fold import KEPT_DRIFT, Fold
from farflung.monitor.lines import line_of, noted
from farflung.monitor.link_table import Measure
from farflung.monitor.peer_rows import OVER
from farflung.monitor.timelines import EVENTS, WHOLE_ROUNDS

FREQUENT = (PeerReady, StateReported, PeerMeasured, LinkMeasured)
"""Some for every peer and round."""


def take_event(fold: Fold, wall: float, event: Event) -> None:
    """`wall`: unix seconds, NaN when not known."""
    fold.seen(wall)
    _say(fold, wall, event)
    if isinstance(event, FREQUENT):
        _figures(fold, wall, event)
        return
    match event:
        case RoundOpened() | AttemptStarted() | RoundCommitted() | RoundAbandoned():
            _round(fold, wall, event)
        case PeerJoined() | PeerDescribed():
            _introduced(fold, wall, event)
        case PeerSuspect() | PeerRecovered() | PeerUnreachable():
            _heard(fold, event)
        case GenerationOpened() | GenerationClosed():
            _stay(fold, wall, event)
        case ContributionRejected() | EdgeFailed() | AttemptFailed():
            _strike(fold, event)
        case ModelEvaluated():
            _evaluated(fold, wall, event)
        case ArchiveExtended() | SnapshotUploaded() | UploadProgress():
            _archived(fold, event)
        case AgentStarted() | Trained() | Applied():
            _own(fold, wall, event)
        case _:
            _state(fold, wall, event)


def _say(fold: Fold, wall: float, event: Event) -> None:
    told = line_of(event)
    again = isinstance(event, JournalBlocked) and fold.standing.blocked  # every few seconds
    if told is not None and not again:
        if fold.standing.over and isinstance(event, PeerSuspect | GenerationClosed):
            told = told._replace(kind="peer")  # who goes home is no trouble
        fold.say(wall, told)
        if noted(event, told):
            fold.note(told.text)


def _state(fold: Fold, wall: float, event: Event) -> None:
    standing = fold.standing
    match event:
        case RunStarted():
            _started(fold, event)
            standing.blocked = ""
            if not standing.finished:
                standing.running_at = wall
        case Paused():
            standing.pause(inert.sentence(event.reason), wall)
        case Resumed():
            standing.run(wall)
        case JournalBlocked():
            standing.block(inert.sentence(event.reason), wall)
        case JournalWritable():
            standing.unblock(wall)
        case RunFinished():
            standing.finished_at = wall
            standing.finished = standing.finished or not fold.journalled
        case RunAmended():
            if not fold.journalled:
                fold.rounds_wanted = event.rounds
                standing.reopen(wall)
            standing.running_at, standing.finished_at = wall, math.nan
        case _:
            pass


def _started(fold: Fold, event: RunStarted) -> None:
    for row in fold.peers.values():
        row.expected = False
        row.suspect = ""
    if not fold.journalled:
        fold.run, fold.name, fold.term = event.run, inert.name(event.name), event.term
        fold.parameters, fold.rounds_wanted = event.parameters, event.rounds
        fold.descent = inert.sentence(event.descent)


def _round(
    fold: Fold, wall: float, event: RoundOpened | AttemptStarted | RoundCommitted | RoundAbandoned
) -> None:
    match event:
        case RoundOpened():
            found = fold.round(event.round)
            _opened(fold, wall, event.round)
            if found is not None:
                found.opened, found.fragment = wall, event.fragment
            fold.standing.run(wall)
        case AttemptStarted():
            fold.attempts += 1
            found = fold.round(event.round)
            if found is not None:
                found.attempts = max(found.attempts, event.attempt)
            if event.shares:
                fold.links.own(event.round, event.shares)
                fold.links.step = fold.step
        case RoundCommitted():
            _committed(fold, wall, event)
        case RoundAbandoned():
            fold.resolve(event.round, ABANDONED, EVENTS, wall)
            opened = fold.columns.get("opened", event.round)
            if 0 <= event.round < fold.columns.length:
                fold.columns.set(event.round, took_s=wall - opened)


def _opened(fold: Fold, wall: float, round_: int) -> None:
    if 0 <= round_ < fold.columns.length:
        fold.columns.set(round_, opened=wall)
    if math.isfinite(wall):
        fold.started = wall if math.isnan(fold.started) else min(wall, fold.started)


def _committed(fold: Fold, wall: float, event: RoundCommitted) -> None:
    found = fold.resolve(event.round, COMMITTED, EVENTS, wall)
    if not 0 <= event.round < fold.columns.length:
        return
    fold.columns.set(event.round, loss=event.loss, took_s=event.took_s)
    if math.isnan(fold.columns.get("opened", event.round)):  # an old log keeps the end alone
        _opened(fold, wall - event.took_s, event.round)
    if fold.journalled:
        return
    fold.columns.set(event.round, tokens=event.tokens, peers=event.contributors)
    fold.tokens, fold.state_root = event.total_tokens, event.state_root
    fold.replicated = event.replicated
    if found is not None:
        found.contributors = event.contributors


def _figures(
    fold: Fold, wall: float, event: PeerReady | StateReported | PeerMeasured | LinkMeasured
) -> None:
    match event:
        case PeerReady():
            _ready(fold, wall, event)
        case StateReported():
            _reported(fold, event)
        case PeerMeasured():
            _measured(fold, event)
        case LinkMeasured():
            measured = Measure(event.round, event.bytes, event.bytes_per_s, event.rtt_s, event.loss)
            fold.links.measure(event.source, event.target, measured)
            fold.links.step = fold.step


def _ready(fold: Fold, wall: float, event: PeerReady) -> None:
    row = fold.peer(event.node, event.name)
    row.suspect = ""
    loss = event.loss_sum / event.steps if event.steps else math.nan
    speed = event.tokens / event.compute_s if event.compute_s > 0 else math.nan
    row.loss = loss if math.isfinite(loss) else row.loss
    row.tokens_per_s = speed if math.isfinite(speed) else row.tokens_per_s
    row.compute_s += event.compute_s
    row.wait_s += event.wait_s
    row.remember(event.round, loss=loss, tokens_per_s=speed, wait_s=event.wait_s)
    if not fold.journalled:
        row.rounds += 1
        row.steps += event.steps
        row.tokens += event.tokens
    found = fold.round(event.round)
    if 0 <= event.round < fold.columns.length:
        fold.columns.add(event.round, "compute_s", event.compute_s)
        fold.columns.add(event.round, "wait_s", event.wait_s)
    part = found.part(event.node) if found is not None else None
    if part is not None:
        part.ready, part.loss, part.steps = wall, loss, event.steps
        part.compute_s, part.wait_s = event.compute_s, event.wait_s


def _reported(fold: Fold, event: StateReported) -> None:
    row = fold.peer(event.node, event.name)
    row.suspect = ""
    row.bytes_up += event.bytes_up
    row.bytes_down += event.bytes_down
    row.agrees = event.agrees
    fold.agreements += event.agrees
    fold.disagreements += not event.agrees
    if not event.agrees:
        fold.drift = [(event.round, row.name), *fold.drift][:KEPT_DRIFT]
    fold.round(event.round)
    if 0 <= event.round < fold.columns.length:
        if row.role == Role.TRAINER:
            fold.columns.raise_to(event.round, "bytes_up", event.bytes_up)
            row.remember(event.round, bytes_up=event.bytes_up)
        fold.count_bytes(event.round, event.node, event.bytes_up, event.bytes_down)


def _measured(fold: Fold, event: PeerMeasured) -> None:
    """Zeros stand for what was not measured."""
    row = fold.peer(event.node, event.name)
    if event.device and event.device != row.device:
        row.device = inert.name(event.device)
    row.mfu = event.mfu if event.mfu > 0 else row.mfu
    row.grad_norm = event.grad_norm if event.grad_norm > 0 else row.grad_norm
    row.tokens_per_s = event.tokens_per_s if event.tokens_per_s > 0 else row.tokens_per_s
    row.memory_bytes = event.memory_bytes or row.memory_bytes
    if event.flops > 0 and not math.isfinite(fold.flops):
        fold.flops = event.flops
    found = fold.round(event.round)
    part = found.part(event.node) if found is not None else None
    if found is None or part is None:
        return
    part.lr = event.lr if event.lr > 0 else math.nan
    part.grad_norm = event.grad_norm if event.grad_norm > 0 else math.nan
    part.spans = event.spans
    fold.loose.add(event.round)
    if len(fold.loose) > WHOLE_ROUNDS // 2:  # before their peers are thinned
        fold.settle()


def _introduced(fold: Fold, wall: float, event: PeerJoined | PeerDescribed) -> None:
    row = fold.peer(event.node, event.name)
    row.expected = True
    match event:
        case PeerJoined():
            row.joined = wall
            if not fold.journalled:
                row.role = event.role
        case PeerDescribed():
            row.region = fold.region(event.region) or row.region
            row.device = inert.name(event.device) or row.device
            row.software = inert.name(event.software)
            row.unreachable = ""


def _heard(fold: Fold, event: PeerSuspect | PeerRecovered | PeerUnreachable) -> None:
    row = fold.peer(event.node, event.name)
    match event:
        case PeerSuspect():
            row.suspect = OVER if fold.standing.over else inert.sentence(event.reason)
        case PeerRecovered():
            row.suspect = ""
        case PeerUnreachable():
            row.unreachable = f"cannot be dialled: {inert.sentence(event.reason)}"


def _stay(fold: Fold, wall: float, event: GenerationOpened | GenerationClosed) -> None:
    row = fold.peer(event.node, event.name)
    known = fold.columns.length > 0
    match event:
        case GenerationOpened():
            row.suspect = ""
            row.stay(event.generation).start = wall
            fold.joins += known and row.role == Role.TRAINER
        case GenerationClosed():
            stay = row.stay(event.generation)
            stay.open, stay.stop, stay.why = False, wall, inert.sentence(event.reason)
            row.suspect = ""
            fold.deaths += not event.reason.startswith("left")
            _left_out(fold, event.node, stay.why)


def _left_out(fold: Fold, node: str, why: str) -> None:
    """Of open rounds: a peer that has gone before it was ready."""
    for number in fold.open_rounds():
        found = fold.timelines.known(number)
        part = found.parts.get(node) if found is not None else None
        if found is None or part is None or not math.isfinite(found.opened):
            continue  # not opened by then
        if not math.isfinite(part.ready):
            part.left_out = why
            found.step = fold.step


def _strike(fold: Fold, event: ContributionRejected | EdgeFailed | AttemptFailed) -> None:
    match event:
        case ContributionRejected():
            row = fold.peer(event.node, event.name)
            if not fold.journalled:
                row.strikes += 1
                fold.rejected += 1
            found = fold.round(event.round)
            part = found.part(event.node) if found is not None else None
            if part is not None:
                part.left_out = inert.sentence(event.reason)
        case EdgeFailed():
            # `silent` is said by the target, of the source; `unreachable` the other way round.
            silent = event.fault == "silent"
            node = event.source_node if silent else event.target_node
            node = node or fold.by_name.get(event.source if silent else event.target, "")
            if node in fold.peers:
                fold.peer(node).strikes += 1
        case AttemptFailed():
            for node in event.without:
                fold.peer(node).strikes += 1


def _evaluated(fold: Fold, wall: float, event: ModelEvaluated) -> None:
    pairs = zip(event.prompts, event.texts, strict=False)
    measured = Score(
        serial=event.serial,
        round=event.next_round,
        bits_per_byte=event.bits_per_byte,
        nats_per_token=event.nats_per_token,
        by=inert.name(event.name),
        samples=tuple((inert.sample(prompt), inert.sample(text)) for prompt, text in pairs),
        at=wall,
        step=fold.step,
    )
    fold.evaluations.add(measured)


def _archived(fold: Fold, event: ArchiveExtended | SnapshotUploaded | UploadProgress) -> None:
    match event:
        case ArchiveExtended():
            fold.archived = max(fold.archived, event.round)
        case SnapshotUploaded():
            fold.archived = max(fold.archived, event.next_round - 1)
            fold.uploading = ""
        case UploadProgress():
            share = event.here / max(1, event.total)
            rest = f", {event.eta_s / 60:.0f} min left" if event.eta_s >= 0 else ""
            fold.uploading = f"round {event.next_round}: {share:.0%}{rest}"


def _own(fold: Fold, wall: float, event: AgentStarted | Trained | Applied) -> None:
    """A peer's own log: when it saw what the journal tells, and what its own steps were like."""
    match event:
        case AgentStarted():
            fold.own = event.node
            fold.peer(event.node, event.name)
        case Applied():
            if fold.columns.get("outcome", event.round) and fold.own:
                fold.columns.set(event.round, at=wall, step=fold.step)
        case Trained() if fold.own:
            fold.round(event.round)
            row = fold.peer(fold.own)
            speed = event.tokens / event.compute_s if event.compute_s > 0 else math.nan
            row.loss, row.tokens_per_s = event.loss, speed
            row.compute_s += event.compute_s
            row.wait_s += event.wait_s
            row.remember(event.round, loss=event.loss, tokens_per_s=speed, wait_s=event.wait_s)
            if 0 <= event.round < fold.columns.length:
                fold.columns.set(event.round, loss=event.loss)
                fold.columns.add(event.round, "compute_s", event.compute_s)
                fold.columns.add(event.round, "wait_s", event.wait_s)
        case _:
            pass
