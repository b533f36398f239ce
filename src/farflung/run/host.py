"""`farflung host`: coordinator and keeper in one process. Everything but the printing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import sqlite3
import time
from pathlib import Path

import msgspec

from farflung.clock import LoopClock, ThreadWorkers
from farflung.config.run import RunSpec
from farflung.coordinator.coordinator import Coordinator, CoordinatorOptions
from farflung.coordinator.invites import InviteDesk
from farflung.coordinator.sessions import Door
from farflung.data.manifest import MANIFEST_FILE
from farflung.data.shards import blobs, source_folders
from farflung.disk import RealDisk
from farflung.errors import (
    FarflungError,
    Forked,
    InviteError,
    StorageError,
    UserError,
)
from farflung.events import DiskAwaited, Emit, Event, EventLog, IndexUnavailable
from farflung.failpoints import hit
from farflung.ids import Endpoint, Role, RunId, split_endpoint
from farflung.monitor.answers import Answers
from farflung.network.tcp import TcpTransport
from farflung.outer.layout import Layout
from farflung.peer.agent import Agent
from farflung.peer.disk_budget import DAY_S, Keep, forecast, result_bytes, usage
from farflung.peer.node import NodeConfig
from farflung.peer.patience import Patience
from farflung.run.assemble import (
    NodeFiles,
    NodeOptions,
    assemble_coordinator,
    build_agent,
    open_node,
)
from farflung.run.certificates import Certified, keep_certified
from farflung.run.data_fetch import DataFetch
from farflung.run.history import view_of
from farflung.run.home import EVENTS
from farflung.run.host_folder import (
    HostFiles,
    HostOptions,
    Say,
    Settings,
    genesis_of,
    open_folder,
    save_settings,
)
from farflung.run.ports import check_port
from farflung.run.reachability import Prober
from farflung.run.upload import KeeperUpload, check_upload
from farflung.run.window_process import WindowProcess
from farflung.swarm.identity import RECORD, Identity, verify_vote
from farflung.swarm.index import Index
from farflung.swarm.invite import loopback_only, make_invite, parse_invite
from farflung.swarm.journal import Journal
from farflung.swarm.lineage import descent
from farflung.swarm.records import AnyRecord
from farflung.swarm.replay import genesis_spec
from farflung.swarm.state import Admitted, Amending
from farflung.tasks import Tasks, nothing_else
from farflung.world import World

INVITE = "invite.txt"
INDEX = "index.sqlite"
INVITE_DAYS = 30
KEEPER_RETRY_S = 5.0
MAX_PORT = 65535
POLITE_S = 5.0
"""How long the keeper may take to leave when the host stops."""


class Host:
    """A run's control plane with its keeper, on this machine."""

    def __init__(
        self,
        *,
        folder: Path,
        files: HostFiles,
        log: EventLog,
        extend: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        self.settings = files.settings
        self.journal = files.journal
        self.run_key = files.run_key
        self.authority = files.authority
        self.log = log
        self.genesis = genesis_of(self.journal)
        self.view = view_of(self.journal.records(), map_shown=self.settings.window.map)
        self._answers = Answers(self.view)
        self.spec: RunSpec = genesis_spec(self.genesis)
        self._extend = extend
        layout = Layout.from_json(self.genesis.layout)
        self.bytes_per_round = result_bytes(layout, self.spec.outer)
        """Of results on the keeper's disk."""
        self._started_s, self._committed_before = time.monotonic(), self.view.committed
        self._certified: list[Certified] = []
        self.invite = ""
        self.index = self._open_index(self.journal)
        self.coordinator: Coordinator | None = None
        self.keeper: Agent | None = None
        self._keeper_files: NodeFiles | None = None
        self._upload = self._make_upload()
        log.listen(self._see)

    def _see(self, event: Event) -> None:
        self.view.event(time.time(), event)

    def _open_index(self, journal: Journal) -> Index | None:
        try:
            index = Index(self.folder / INDEX)
            index.catch_up(journal.records, journal.length)
        except (StorageError, sqlite3.Error, OSError) as error:
            self.log.emit(IndexUnavailable(reason=str(error)))
            return None
        return index

    def _journalled(self, first: int, records: list[AnyRecord]) -> None:
        for record in records:
            self.view.record(record)
        self._add_to_index(first, records)

    def _status(self, asker: str) -> str:
        """JSON for `farflung status`."""
        self.view.tell_disk(self._keeper_disk())
        return self._answers.to(asker, at_s=time.monotonic(), now=time.time())

    def _keeper_disk(self) -> str:
        """For people; empty while there is nothing to say."""
        if self.keeper is None:
            return ""
        used, limit = self.keeper.applier.disk
        took_s = time.monotonic() - self._started_s
        rounds = self.view.committed - self._committed_before
        per_day = rounds * self.bytes_per_round / took_s * DAY_S if rounds and took_s else 0.0
        left = self.view.rounds_wanted - self.view.committed
        return usage(used, limit, per_day, left * self.bytes_per_round) if limit else ""

    def forecast(self) -> str:
        """What the keeper will store, in a sentence; empty without one."""
        if not self.settings.keeper:
            return ""
        rounds, limit = self.view.rounds_wanted, self.settings.max_disk_bytes
        free = RealDisk(self.folder).free_bytes()
        return forecast(self.bytes_per_round, rounds, limit, free)

    def _add_to_index(self, first: int, records: list[AnyRecord]) -> None:
        """The index is disposable: a disk that refuses it does not stop the run."""
        if self.index is None:
            return
        try:
            self.index.add(first, records)
            hit("index.written")
        except (StorageError, sqlite3.Error, OSError) as error:
            self.index = None
            self.log.emit(IndexUnavailable(reason=str(error)))

    # ---- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, admit the keeper, make the invite. LinkDown when the port is taken."""
        gate = InviteDesk(
            run=self.settings.run,
            run_name=self.spec.name,
            run_key=self.run_key.public_key,
            authority=self.authority,
            records=list(self.journal.records()),
            wall_now=time.time,
            emit=self.log.emit,
        )
        world = World(
            transport=self._transport("coordinator", self.run_key),
            disk=RealDisk(self.folder),
            clock=LoopClock(),
            workers=ThreadWorkers(1),
            rng=random.Random(secrets.randbits(64)),
            emit=self.log.emit,
            sign=lambda record: self.run_key.sign(RECORD, record),
        )
        door = Door(
            admission=gate.redeem,
            check_vote=verify_vote,
            status=self._status,
            operator=self.run_key.node_id,
            alone_since=self.settings.alone_since,
        )
        wanted = Amending(request=secrets.token_hex(8), wishes=self._extend)
        options = CoordinatorOptions(
            incarnation=secrets.token_hex(8),
            on_append=self._journalled,
            descent=descent(self.genesis.ancestors),
            wall_now=time.time,
            amending=wanted if self._extend else None,
        )
        self.coordinator = assemble_coordinator(world, self.journal, door, options)
        endpoint = await self.coordinator.start(Endpoint(self.settings.bind))
        self._remember(endpoint)
        self.invite = self._make_invite(endpoint)
        self.keeper = self._build_keeper(endpoint)

    async def run(self) -> str:
        """Until the run is finished ("finished") or this is cancelled."""
        assert self.coordinator is not None and self.keeper is not None
        tasks = Tasks(self.log.emit, nothing_else)  # the first that fails ends this, see below
        keeping = tasks.start(self._keep(), "keep", expects=(FarflungError,))
        # Whatever ends it, it has told.
        coordinating = tasks.start(self.coordinator.run(), "coordinate", expects=(Exception,))
        tasks.start(
            Prober(self.coordinator, self._probing, self.log.emit).run(),
            "dial peers",
            on_failure=nothing_else,
        )
        renewing = tasks.start(
            keep_certified(self.authority, self._certified, self.log.emit), "renew certificates"
        )
        window = Tasks(self.log.emit, nothing_else)  # nor does one in there touch the run
        if self.settings.window.shown:
            shown = WindowProcess(
                self.folder, self.settings.window, self.log.emit, self._keeper_disk
            )
            window.start(shown.run(), "keep the window open")
        uploads = Tasks(self.log.emit, nothing_else)  # a fault in there costs the archive only
        if self._upload is not None:
            uploads.start(self._upload.run(), "upload to the archive")
        try:
            done, _ = await asyncio.wait(
                [keeping, coordinating, renewing], return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                task.result()
            await coordinating  # it ends last; the keeper serves until then
            if self._upload is not None:
                await uploads.close()
                await self._upload.finish()
            return "finished"
        except Forked as fork:
            # A supervisor that starts this host again must not bring the second coordinator back.
            with contextlib.suppress(StorageError):
                self._save(msgspec.structs.replace(self.settings, halted=str(fork)))
            raise
        finally:
            await uploads.close()
            self.keeper.leave("the host stops")
            await asyncio.wait([keeping], timeout=POLITE_S)
            await tasks.close()
            await self.coordinator.close()
            await window.close()
            if self.index is not None:
                self.index.close()

    async def _keep(self) -> None:
        """The keeper until the run is finished; one that its disk stopped starts again."""
        assert self.keeper is not None
        patience = Patience(LoopClock())
        while True:
            try:
                await self.keeper.run()
                return
            except StorageError as error:
                if patience.failed():
                    self.log.emit(DiskAwaited(what="the keeper", reason=str(error)))
            await self._replace_keeper()

    async def _replace_keeper(self) -> None:
        while True:
            await asyncio.sleep(KEEPER_RETRY_S)
            if self._keeper_files is not None:
                self._keeper_files.close()
            with contextlib.suppress(StorageError):
                self.keeper = self._build_keeper(Endpoint(self.settings.bind))
                return

    # ---- parts -----------------------------------------------------------------------------

    def _transport(self, role: str, identity: Identity) -> TcpTransport:
        certificate = self.authority.issue(identity.public_key, identity.node_id, role)
        transport = TcpTransport.for_node(
            key_pem=identity.private_pem,
            certificate_pem=certificate,
            ca_pem=self.authority.ca_pem,
        )
        self._certified.append((transport, identity, role))
        return transport

    def _build_keeper(self, endpoint: Endpoint) -> Agent:
        """The keeper dials the coordinator like everybody else."""
        assert self.coordinator is not None
        files = self._keeper_files = open_node(self.folder.parent / "keeper")
        role = Role.KEEPER if self.settings.keeper else Role.SOURCE
        self.coordinator.submit(
            Admitted(
                node=files.identity.node_id,
                name=role,
                region="",
                role=role,
                public_key=files.identity.public_key,
                invite=b"",
            )
        )
        host, port = split_endpoint(endpoint)
        bind, advertise = keeper_endpoints(endpoint, self.settings.advertise)
        data = self.folder / "data"
        folders = source_folders(data, self.spec.data)
        # A restored host's keeper fetches from peers what is not here.
        here = self.spec.data.synthetic or all((f / MANIFEST_FILE).exists() for f in folders)
        config = NodeConfig(
            node=files.identity.node_id,
            run=self.settings.run,
            name=role,
            region="",
            role=role,
            coordinators=(_local(host, port),),
            bind=bind,
            advertise=advertise,
            max_disk_bytes=self.settings.max_disk_bytes,
            keep=Keep(rounds=self.settings.keep_rounds, age_s=self.settings.keep_age_s),
        )
        options = NodeOptions(make_trainer=None, data=None if here else DataFetch(data))
        self._probing = self._transport("peer", files.identity)
        keeper = build_agent(files, self._probing, config, options)
        for folder in folders if here and not self.spec.data.synthetic else ():
            for name, path in blobs(folder).items():
                keeper.node.follower.blobs.add_file(name, path)
        return keeper

    def _make_upload(self) -> KeeperUpload | None:
        """UserError as `check_upload`."""
        check_upload(self.settings.upload, keeper=self.settings.keeper)
        if self.settings.upload is None:
            return None
        return KeeperUpload(
            self.settings.upload,
            self._the_keeper,
            run_name=self.spec.name,
            data=self.folder / "data",
            folders=self._source_folders(),
            emit=self.log.emit,
        )

    def _source_folders(self) -> list[Path]:
        data = self.spec.data
        return [] if data.synthetic else source_folders(self.folder / "data", data)

    def _the_keeper(self) -> Agent:
        assert self.keeper is not None
        return self.keeper

    def _make_invite(self, endpoint: Endpoint) -> str:
        """The same text again as long as it names the same endpoints and lasts a day."""
        wanted = tuple(Endpoint(e) for e in self.settings.advertise) or (endpoint,)
        path = self.folder / INVITE
        if path.exists():
            with contextlib.suppress(InviteError):
                old = parse_invite(path.read_text())
                if old.endpoints == wanted and old.expires_at > time.time() + 86_400:
                    return path.read_text()
        text = make_invite(
            self.run_key,
            run=RunId(self.settings.run),
            run_name=self.spec.name,
            ca_public_key=self.authority.public_key,
            endpoints=wanted,
            role=Role.TRAINER,
            expires_at=int(time.time()) + INVITE_DAYS * 86_400,
            uses=1000,
        )
        RealDisk(self.folder).replace(INVITE, text.encode())
        return text

    def _remember(self, endpoint: Endpoint) -> None:
        """The next start listens on the same port, so that invites stay valid."""
        self._save(msgspec.structs.replace(self.settings, bind=str(endpoint)))

    def _save(self, settings: Settings) -> None:
        self.settings = settings
        save_settings(self.folder, settings)

    @property
    def only_local(self) -> bool:
        return loopback_only(parse_invite(self.invite))


def open_host(
    folder: Path, spec: RunSpec | None, options: HostOptions, say: Say, emit: Emit | None = None
) -> Host:
    """Create a run in `folder`, or continue the one that is there.

    Raises UserError, StorageError, CorruptState.
    """
    files = open_folder(folder, spec, options, say)
    log = EventLog(folder / EVENTS, "coordinator", time.monotonic)
    if emit is not None:
        log.listen(emit)
    return Host(folder=folder, files=files, log=log, extend=options.extend)


async def check_ports(bind: str, advertise: tuple[str, ...]) -> None:
    """UserError, before anything is made or printed, when this machine cannot listen there."""
    await check_port(Endpoint(bind), "give another --bind")
    port = split_endpoint(bind)[1]
    if not (advertise and port):
        return
    if port == MAX_PORT:
        raise UserError(
            f"--bind {bind} leaves no port for the keeper, which listens on the next one; give a "
            f"port below {MAX_PORT}"
        )
    keeper, _ = keeper_endpoints(Endpoint(bind), advertise)
    await check_port(
        keeper,
        f"the keeper listens on the port after --bind {bind}: free it, or give another --bind",
    )


def keeper_endpoints(
    coordinator: Endpoint, advertise: tuple[str, ...]
) -> tuple[Endpoint, tuple[str, ...]]:
    """Where the keeper listens and what others dial.

    On one machine any free port does; with --advertise it is the port after the coordinator's, so
    that one rule of a firewall covers both.
    """
    host, port = split_endpoint(coordinator)
    if not advertise:
        return Endpoint(f"{_bracket(host)}:0"), ()
    hosts = dict.fromkeys(split_endpoint(e)[0] for e in advertise)
    return (
        Endpoint(f"{_bracket(host)}:{port + 1}"),
        tuple(f"{_bracket(h)}:{port + 1}" for h in hosts),
    )


def _local(host: str, port: int) -> str:
    """Where this machine reaches its own listener."""
    if host in ("0.0.0.0", "::", ""):
        return f"127.0.0.1:{port}"
    return f"{_bracket(host)}:{port}"


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host
