"""`farflung join`: redeem, connect, fetch, train. Everything but the printing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from farflung.errors import FarflungError, InviteError, LinkDown, ProtocolError, Refused, UserError
from farflung.events import CertificateNotRenewed, ClockSkewed, Emit
from farflung.failpoints import hit
from farflung.ids import Endpoint, short
from farflung.network.messages import Redeem, Redeemed, Refuse
from farflung.network.tcp import TcpTransport, redeem
from farflung.network.tls import clock_ahead_s, expires_in_s
from farflung.peer.agent import Agent
from farflung.peer.node import NodeConfig
from farflung.run.assemble import NodeFiles, NodeOptions, build_agent, open_node, trainer_factory
from farflung.run.data_fetch import DataFetch, OnBytes
from farflung.stopping import ignore_hangups, stop_signals
from farflung.swarm.invite import Invite, parse_invite
from farflung.tasks import Tasks, failure

MEMBERSHIP = "membership.json"
DEFAULT_BIND = "127.0.0.1:0"
RENEW_BELOW_S = 12 * 3600.0
RENEW_EVERY_S = 1800.0
SKEW_TOLD_S = 60.0
RENEWAL = "renew the certificate"


class Membership(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node keeps so that `join` without arguments continues."""

    invite: str
    name: str
    region: str
    bind: str
    advertise: tuple[str, ...]
    outbound_only: bool
    trainer: tuple[str, ...]
    certificate_pem: str
    ca_pem: str
    coordinators: tuple[str, ...] = ()
    """Where the coordinator moved to; empty: where the invite says."""
    max_disk_bytes: int = 0
    data_cache_bytes: int = 0
    inner_state: str = "fresh"


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    name: str = ""
    region: str = ""
    bind: str | None = None
    advertise: tuple[str, ...] = ()
    outbound_only: bool = False
    trainer: tuple[str, ...] = ()
    coordinators: tuple[str, ...] = ()
    max_disk_bytes: int = 0
    """0: a share of what is free."""
    data_cache_bytes: int = 0
    """0: a share of what is free."""
    inner_state: str = ""


def wanted_options(known: Membership | None, given: JoinOptions, invite: str) -> JoinOptions:
    """What this start was told; for the rest what the last one was told, or the defaults.

    A node that is given an address to listen on is no longer outbound only; another invite says
    itself where the coordinator is.
    """
    listens = given.bind is not None or bool(given.advertise)
    if known is None:
        return replace(
            given, bind=given.bind or DEFAULT_BIND, inner_state=given.inner_state or "fresh"
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
    )


def load_membership(folder: Path) -> Membership | None:
    path = folder / MEMBERSHIP
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Membership)
    except msgspec.DecodeError as error:
        raise UserError(f"{path} is damaged ({error}); join again with the invite") from None


async def obtain_membership(
    files: NodeFiles, invite_text: str, options: JoinOptions
) -> tuple[Membership, Invite]:
    """Redeem the invite (or renew a certificate that ends soon) and remember the outcome.

    Raises InviteError, LinkDown, Refused.
    """
    invite = parse_invite(invite_text)
    known = load_membership(files.folder)
    fresh = known is not None and expires_in_s(known.certificate_pem, time.time()) > RENEW_BELOW_S
    if known is not None and fresh and known.invite == invite_text:
        certificate, ca_pem = known.certificate_pem, known.ca_pem
    else:
        answer = await _redeem_anywhere(files, invite, invite_text, options)
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
    )
    files.disk.replace(MEMBERSHIP, msgspec.json.encode(membership))
    return membership, invite


def tell_skew(ahead_s: float, emit: Emit) -> None:
    """No decision compares two machines' clocks; certificates do, a day's difference at most."""
    if abs(ahead_s) > SKEW_TOLD_S:
        emit(ClockSkewed(ahead_s=ahead_s))


async def _redeem_anywhere(
    files: NodeFiles, invite: Invite, text: str, options: JoinOptions
) -> Redeemed:
    failure: Exception = InviteError("the invite names no coordinator; ask the host for another")
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
                ),
                deadline_s=10.0,
            )
        except (LinkDown, ProtocolError) as error:
            failure = error
            continue
        if isinstance(answer, Refuse):
            raise Refused(answer.sentence)
        if not isinstance(answer, Redeemed) or answer.run_key != invite.run_public_key:
            raise InviteError("the coordinator answered for another run; ask the host")
        return answer
    raise failure


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

    async def run(self) -> str:
        """Until the run is finished or a signal asks to leave."""
        tasks = Tasks(self.files.log.emit, self._without_renewal)
        tasks.start(self._keep_renewing(), RENEWAL)
        try:
            with leaving_on_signals(self.agent.leave):
                return await self.agent.run()
        finally:
            await tasks.close()

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
    files = open_node(folder)
    if see is not None:
        files.log.listen(see)
    if not options.name:
        options = _named(options, files)
    membership, invite = await obtain_membership(files, invite_text, options)
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
        role=invite.role,
        coordinators=options.coordinators or invite.endpoints,
        bind=None if options.outbound_only else Endpoint(options.bind or DEFAULT_BIND),
        advertise=options.advertise,
        max_disk_bytes=options.max_disk_bytes,
    )
    equipment = NodeOptions(
        make_trainer=trainer_factory(folder, data, options.trainer or None, files.log.emit),
        data=DataFetch(data, on_bytes, cache_bytes=options.data_cache_bytes),
        inner_state=options.inner_state,
    )
    agent = build_agent(files, transport, config, equipment)
    return Joined(files, agent, membership, options, transport)


def _named(options: JoinOptions, files: NodeFiles) -> JoinOptions:
    """A readable name that stays the same for this node."""
    known = load_membership(files.folder)
    if known is not None and known.name:
        name = known.name
    else:
        from coolname import generate_slug

        name = generate_slug(2) or short(files.identity.node_id)
    return replace(options, name=name)


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
