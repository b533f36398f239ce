"""`farflung join`: redeem, connect, fetch, train. Everything but the printing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from farflung.checkpoint.snapshot import newest
from farflung.clock import LoopClock, ThreadWorkers
from farflung.disk import RealDisk
from farflung.errors import (
    CorruptState,
    FarflungError,
    InviteError,
    LinkDown,
    ProtocolError,
    Refused,
    StorageError,
    UserError,
)
from farflung.events import CertificateNotRenewed, ClockSkewed, Emit, NotDialled
from farflung.failpoints import hit
from farflung.ids import Endpoint, Role, split_endpoint
from farflung.monitor.picture import Picture
from farflung.network.messages import Redeem, Redeemed, Refuse
from farflung.network.tcp import TcpTransport, redeem
from farflung.network.tls import clock_ahead_s, expires_in_s
from farflung.peer.agent import Agent
from farflung.peer.control_link import Absence
from farflung.peer.node import NodeConfig
from farflung.run.assemble import (
    NODE_KEY,
    NodeFiles,
    NodeOptions,
    build_agent,
    open_node,
    read_journal,
    trainer_factory,
)
from farflung.run.contribution import given_by, tell, tell_evaluator
from farflung.run.data_fetch import DataFetch, OnBytes
from farflung.run.evaluator import ProcessEvaluator
from farflung.run.history import picture_of
from farflung.run.home import EVENTS, JOURNAL, LOCK, MEMBERSHIP
from farflung.run.membership import JoinOptions, Membership, load_membership
from farflung.run.ports import check_port
from farflung.run.status import ask_as_peer, why_not_dialled
from farflung.stopping import ignore_hangups, stop_signals
from farflung.swarm.invite import Invite, check_expiry, loopback_only, parse_invite
from farflung.tasks import Tasks, failure, nothing_else
from farflung.words import counted

DEFAULT_BIND = "127.0.0.1:0"
RENEW_BELOW_S = 12 * 3600.0
RENEW_EVERY_S = 1800.0
SKEW_TOLD_S = 60.0
RENEWAL = "renew the certificate"
FIRST_RETRY_S, MAX_RETRY_S = 0.5, 15.0
"""Between two tries of the first contact."""
LOOK_AFTER_S, LOOK_EVERY_S = 20.0, 300.0
"""When a node asks whether others can dial it."""
UNBORN = frozenset({LOCK, EVENTS, JOURNAL, NODE_KEY})
"""What a node's folder holds before it has joined."""


def check_same_run(known: Membership | None, invite_text: str, folder: Path) -> None:
    """UserError when the folder belongs to another run of the same name."""
    if known is None or not invite_text:
        return
    old, new = parse_invite(known.invite), parse_invite(invite_text)
    if old.run != new.run:
        raise UserError(
            f"{folder} belongs to run {old.run}, the invite is for run {new.run} of the same "
            f"name; move the folder away, or set another FARFLUNG_HOME"
        )


def check_same_role(known: Membership | None, role: Role | None, folder: Path) -> None:
    """UserError when the folder's node takes part as something else."""
    if known is not None and role not in (None, known.role):
        raise UserError(
            f"{folder} takes part as {known.role}, not as {role}; a node keeps its role: join as "
            f"{role} with another FARFLUNG_HOME"
        )


def wanted_options(known: Membership | None, given: JoinOptions, invite: str) -> JoinOptions:
    """What this start was told; for the rest what the last one was told, or the defaults.

    A node that is given an address to listen on is no longer outbound only; another invite says
    itself where the coordinator is. A node of a run on other machines that is given no address is
    outbound only: nobody else could dial where it listens by default.
    """
    options = _merged(known, given, invite)
    text = invite or (known.invite if known else "")
    far = bool(text) and not loopback_only(parse_invite(text))
    hidden = options.bind in (None, DEFAULT_BIND) and not options.advertise
    return replace(
        options,
        name=options.name or readable_name(),
        outbound_only=options.outbound_only or (far and hidden),
    )


def readable_name() -> str:
    """For a peer whose owner gives none."""
    from coolname import generate_slug

    return str(generate_slug(2))


def _merged(known: Membership | None, given: JoinOptions, invite: str) -> JoinOptions:
    listens = given.bind is not None or bool(given.advertise)
    if known is None:
        return replace(
            given,
            bind=given.bind or DEFAULT_BIND,
            inner_state=given.inner_state or "fresh",
            ranks=given.ranks or 1,
        )
    moved = known.coordinators if invite in ("", known.invite) else ()
    return JoinOptions(
        name=given.name or known.name,
        region=given.region or known.region,
        bind=given.bind or known.bind,
        advertise=given.advertise or known.advertise,
        outbound_only=given.outbound_only or (known.outbound_only and not listens),
        trainer=given.trainer or known.trainer,
        coordinators=given.coordinators or moved,
        max_disk_bytes=given.max_disk_bytes or known.max_disk_bytes,
        data_cache_bytes=given.data_cache_bytes or known.data_cache_bytes,
        inner_state=given.inner_state or known.inner_state,
        ranks=given.ranks or known.ranks,
        gpus=given.gpus if given.ranks else known.gpus,
        role=known.role,
    )


async def obtain_membership(
    files: NodeFiles, invite_text: str, options: JoinOptions, *, patient: bool = False
) -> tuple[Membership, Invite]:
    """Redeem the invite (or renew a certificate that ends soon) and remember the outcome.

    `patient`: a host that does not answer is waited for. Raises InviteError, LinkDown, Refused.
    """
    invite = parse_invite(invite_text)
    known = load_membership(files.folder)
    fresh = known is not None and expires_in_s(known.certificate_pem, time.time()) > RENEW_BELOW_S
    if known is not None and fresh and known.invite == invite_text:
        certificate, ca_pem = known.certificate_pem, known.ca_pem
    else:
        redeem_ = _redeem_at_last if patient else _redeem_anywhere
        answer = await redeem_(files, invite, invite_text, options)
        certificate, ca_pem = answer.certificate_pem, answer.ca_pem
        tell_skew(clock_ahead_s(certificate), files.log.emit)
    membership = Membership(
        invite=invite_text,
        name=options.name,
        region=options.region,
        bind=options.bind or DEFAULT_BIND,
        advertise=options.advertise,
        outbound_only=options.outbound_only,
        trainer=options.trainer,
        coordinators=options.coordinators,
        certificate_pem=certificate,
        ca_pem=ca_pem,
        max_disk_bytes=options.max_disk_bytes,
        data_cache_bytes=options.data_cache_bytes,
        inner_state=options.inner_state,
        role=options.role or invite.role,
        ranks=options.ranks or 1,
        gpus=options.gpus,
    )
    files.disk.replace(MEMBERSHIP, msgspec.json.encode(membership))
    return membership, invite


def tell_skew(ahead_s: float, emit: Emit) -> None:
    """No decision compares two machines' clocks; certificates do, a day's difference at most."""
    if abs(ahead_s) > SKEW_TOLD_S:
        emit(ClockSkewed(ahead_s=ahead_s))


async def _redeem_at_last(
    files: NodeFiles, invite: Invite, text: str, options: JoinOptions
) -> Redeemed:
    """Until a coordinator answers: told at once, then now and then. InviteError when nobody
    answers and the invite has expired: it would not be taken either."""
    trouble = Absence(LoopClock(), files.log.emit, FIRST_RETRY_S, MAX_RETRY_S)
    while True:
        try:
            return await _redeem_anywhere(files, invite, text, options)
        except LinkDown as error:
            if load_membership(files.folder) is None:  # a member renews with any invite
                check_expiry(invite, time.time())
            trouble.tell(str(error))
        await asyncio.sleep(random.uniform(0.5, 1.0) * trouble.backoff_s)


async def _redeem_anywhere(
    files: NodeFiles, invite: Invite, text: str, options: JoinOptions
) -> Redeemed:
    failure: Exception | None = None
    for endpoint in options.coordinators or invite.endpoints:
        try:
            answer = await redeem(
                Endpoint(endpoint),
                invite.ca_public_key,
                Redeem(
                    invite=text,
                    public_key=files.identity.public_key,
                    name=options.name,
                    region=options.region,
                    role=options.role,
                ),
                deadline_s=10.0,
            )
        except LinkDown as error:
            failure = error  # it may answer later
            continue
        except ProtocolError as error:
            failure = failure or error
            continue
        if isinstance(answer, Refuse):
            raise Refused(answer.sentence)
        if not isinstance(answer, Redeemed) or answer.run_key != invite.run_public_key:
            raise InviteError("the coordinator answered for another run; ask the host")
        return answer
    raise failure or InviteError("the invite names no coordinator; ask the host for another")


class Joined:
    """A node that is a member and ready to run."""

    def __init__(
        self,
        files: NodeFiles,
        agent: Agent,
        membership: Membership,
        options: JoinOptions,
        transport: TcpTransport,
    ) -> None:
        self.options = options
        self.transport = transport
        self.files = files
        self.agent = agent
        self.membership = membership
        self._started_s, self._had = time.monotonic(), agent.node.follower.journal.length

    async def run(self) -> str:
        """Until the run is finished or a signal asks to leave."""
        tasks = Tasks(self.files.log.emit, self._without_renewal)
        tasks.start(self._keep_renewing(), RENEWAL)
        if self.agent.config.bind is not None:
            tasks.start(self._look(), "ask who can dial me", on_failure=nothing_else)
        try:
            with leaving_on_signals(self.agent.leave):
                return await self.agent.run()
        finally:
            await tasks.close()

    def contribution(self) -> str:
        """What this process has given to the run, in a line; empty when there is no run yet."""
        node = self.agent.node
        if node.follower.genesis is None:
            return ""
        me, seq_len, journal = (
            node.config.node,
            node.follower.spec.data.seq_len,
            node.follower.journal,
        )
        shown = tell_evaluator if node.config.role == Role.EVALUATOR else tell
        return shown(
            given_by(me, journal.records(self._had), seq_len),
            given_by(me, journal.records(), seq_len),
            (time.monotonic() - self._started_s) / 3600,
            node.mesh.sent_bytes() + node.control.sent_bytes,
            node.mesh.received_bytes() + node.control.received_bytes,
        )

    async def _look(self) -> None:
        """Tell my owner, once, when the host has found that nobody can dial me."""
        await asyncio.sleep(LOOK_AFTER_S)
        while True:
            with contextlib.suppress(FarflungError, OSError):
                seen = await ask_as_peer(self.files.folder)
                if reason := why_not_dialled(seen, self.agent.config.node):
                    self.files.log.emit(NotDialled(reason=reason))
                    return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _keep_renewing(self) -> None:
        """A certificate lasts a day; a run lasts longer. Open connections are not touched."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            try:
                await self._renew()
            except (FarflungError, OSError) as error:
                self.files.log.emit(CertificateNotRenewed(reason=str(error)))
            except Exception as error:  # told; there is time for some dozens of tries
                self.files.log.emit(failure(RENEWAL, error))

    async def _renew(self) -> None:
        self.membership, _ = await obtain_membership(
            self.files, self.membership.invite, self.options
        )
        hit("certificate.renewed")
        self.transport.credentials.renew(self.membership.certificate_pem)

    def _without_renewal(self, error: Exception) -> None:
        """In a day nobody would talk to this node any more: it hands its work back now."""
        self.agent.leave(f"its certificate is not renewed: {error}")


async def prepare(
    folder: Path,
    invite_text: str,
    options: JoinOptions,
    on_bytes: OnBytes | None = None,
    see: Emit | None = None,
) -> Joined:
    """Everything before the first round; `see` gets every event. Raises UserError, LinkDown,
    Refused."""
    bind = None if options.outbound_only else Endpoint(options.bind or DEFAULT_BIND)
    if bind is not None and split_endpoint(bind)[1]:
        await check_port(bind, "give another --bind")
    files = open_node(folder)
    if see is not None:
        files.log.listen(see)
    membership, invite = await obtain_membership(files, invite_text, options, patient=True)
    transport = TcpTransport.for_node(
        key_pem=files.identity.private_pem,
        certificate_pem=membership.certificate_pem,
        ca_pem=membership.ca_pem,
    )
    data = folder / "data"
    config = NodeConfig(
        node=files.identity.node_id,
        run=invite.run,
        name=options.name,
        region=options.region,
        role=membership.role,
        coordinators=options.coordinators or invite.endpoints,
        bind=bind,
        advertise=options.advertise,
        max_disk_bytes=options.max_disk_bytes,
    )
    trains = membership.role != Role.EVALUATOR
    program = options.trainer or None
    make = trainer_factory(
        folder, data, program, files.log.emit, ranks=options.ranks or 1, gpus=options.gpus
    )
    equipment = NodeOptions(
        make_trainer=make if trains else None,
        data=DataFetch(data, on_bytes, cache_bytes=options.data_cache_bytes),
        inner_state=options.inner_state,
        evaluator=None if options.trainer else ProcessEvaluator(folder, data, ThreadWorkers(1)),
    )
    agent = build_agent(files, transport, config, equipment)
    return Joined(files, agent, membership, options, transport)


async def finished_before(folder: Path) -> str:
    """A sentence when this node has taken part to the end of a run and no host says that it goes
    on; else, or when something is missing here, an empty one."""
    path = folder / JOURNAL
    if not path.exists():
        return ""
    picture = picture_of(read_journal(path, check=False).records())
    if not picture.finished or not _holds_all(folder, picture):
        return ""
    try:
        if not (await ask_as_peer(folder))["finished"]:
            return ""
    except LinkDown:
        pass  # nobody says otherwise
    except (FarflungError, OSError):
        return ""
    return the_end(folder, picture)


def _holds_all(folder: Path, picture: Picture) -> bool:
    try:
        pointer = newest(RealDisk(folder))
    except (CorruptState, StorageError):
        return False
    return pointer is not None and pointer.next_round > picture.round


def the_end(folder: Path, picture: Picture) -> str:
    """Where to find what the run has made."""
    return (
        f"run {picture.name} is finished: {counted(picture.committed, 'round')}, "
        f"{counted(picture.tokens, 'token')}; "
        f"the final weights are here: farflung export {folder} --hf MODEL"
    )


_WHY = {signal.SIGINT: "Ctrl-C", signal.SIGHUP: "its terminal closed"}


@contextlib.contextmanager
def leaving_on_signals(leave: Callable[[str], None]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP leaves politely; the second ends at once."""
    loop = asyncio.get_running_loop()
    signals = stop_signals()

    def polite(number: signal.Signals) -> None:
        for each in signals:
            loop.remove_signal_handler(each)
        ignore_hangups()
        leave(_WHY.get(number, "asked to stop"))

    for number in signals:
        loop.add_signal_handler(number, polite, number)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
