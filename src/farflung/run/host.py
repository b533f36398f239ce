"""`farflung host`: coordinator and keeper in one process. Everything but the printing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from farflung.clock import LoopClock, ThreadWorkers
from farflung.config.run import RunSpec, spec_hash
from farflung.disk import RealDisk
from farflung.errors import InviteError, MismatchError, StorageError, UserError
from farflung.events import Emit, EventLog, Warned
from farflung.hashing import digest
from farflung.ids import Endpoint, RunId, split_endpoint
from farflung.monitor.picture import Picture, see, to_json
from farflung.network.tcp import TcpTransport
from farflung.network.tls import RunAuthority
from farflung.outer.fragments import make_fragments, size
from farflung.outer.layout import Layout
from farflung.run.admission import Gate
from farflung.run.agent import Agent
from farflung.run.assemble import build_agent, open_journal, open_node, verify_vote
from farflung.run.coordinator import Coordinator
from farflung.run.genesis import Material, describe, genesis_record, make_weights
from farflung.run.home import EVENTS
from farflung.swarm.identity import Identity
from farflung.swarm.index import Index
from farflung.swarm.invite import loopback_only, make_invite, parse_invite
from farflung.swarm.journal import Journal
from farflung.swarm.records import AnyRecord, Genesis
from farflung.swarm.replay import genesis_spec
from farflung.swarm.state import Admitted

SETTINGS = "host.json"
INVITE = "invite.txt"
INDEX = "index.sqlite"
INVITE_DAYS = 30
RENEW_EVERY_S = 3600.0

Say = Callable[[str], None]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a host keeps so that `host` without arguments continues."""

    run: str
    bind: str
    advertise: tuple[str, ...]
    keeper: bool
    max_disk_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class HostOptions:
    bind: str = "127.0.0.1:7000"
    advertise: tuple[str, ...] = ()
    keeper: bool = True
    max_disk_bytes: int = 0


class Host:
    """A run's control plane with its keeper, on this machine."""

    def __init__(
        self,
        *,
        folder: Path,
        settings: Settings,
        journal: Journal,
        run_key: Identity,
        authority: RunAuthority,
        log: EventLog,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.journal = journal
        self.run_key = run_key
        self.authority = authority
        self.log = log
        self.picture = Picture()
        genesis = next(journal.records())
        assert isinstance(genesis, Genesis)
        self.genesis = genesis
        self.spec: RunSpec = genesis_spec(genesis)
        self._certified: list[tuple[TcpTransport, Identity, str]] = []
        self.invite = ""
        self.index = self._open_index(journal)
        self.coordinator: Coordinator | None = None
        self.keeper: Agent | None = None
        log.listen(self._see)

    def _see(self, event: object) -> None:
        self.picture = see(self.picture, event)  # type: ignore[arg-type]

    def _open_index(self, journal: Journal) -> Index | None:
        try:
            index = Index(self.folder / INDEX)
            index.catch_up(journal.records, journal.length)
        except (StorageError, sqlite3.Error, OSError) as error:
            self.log.emit(Warned(sentence=f"no index this time: {error}"))
            return None
        return index

    def _add_to_index(self, first: int, records: list[AnyRecord]) -> None:
        """The index is disposable: a disk that refuses it does not stop the run."""
        if self.index is None:
            return
        try:
            self.index.add(first, records)
        except (StorageError, sqlite3.Error, OSError) as error:
            self.index = None
            self.log.emit(Warned(sentence=f"the index waits for the next start: {error}"))

    # ---- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen, admit the keeper, make the invite. LinkDown when the port is taken."""
        gate = Gate(
            run=self.settings.run,
            run_name=self.spec.name,
            run_key=self.run_key.public_key,
            authority=self.authority,
            records=list(self.journal.records()),
            wall_now=time.time,
            emit=self.log.emit,
        )
        layout = Layout.from_json(self.genesis.layout)
        fragments = make_fragments(layout, self.spec.outer.fragments)
        self.coordinator = Coordinator(
            transport=self._transport("coordinator", self.run_key),
            clock=LoopClock(),
            workers=ThreadWorkers(1),
            emit=self.log.emit,
            journal=self.journal,
            fragment_elements=tuple(size(f) for f in fragments),
            admission=gate.redeem,
            check_vote=verify_vote,
            status=lambda: json.dumps(to_json(self.picture)),
            on_append=self._add_to_index,
        )
        endpoint = await self.coordinator.start(Endpoint(self.settings.bind))
        self._remember(endpoint)
        self.invite = self._make_invite(endpoint)
        self.keeper = self._build_keeper(endpoint)

    async def run(self) -> str:
        """Until the run is finished ("finished") or this is cancelled."""
        assert self.coordinator is not None and self.keeper is not None
        keeping = asyncio.create_task(self.keeper.run())
        coordinating = asyncio.create_task(self.coordinator.run())
        renewing = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({keeping, coordinating}, return_when=asyncio.FIRST_EXCEPTION)
            for task in (t for t in (keeping, coordinating) if t.done()):
                task.result()
            return "finished"
        finally:
            renewing.cancel()
            self.keeper.leave("the host stops")
            with contextlib.suppress(TimeoutError, Exception):
                await asyncio.wait_for(keeping, 5)
            coordinating.cancel()
            await asyncio.gather(coordinating, return_exceptions=True)
            await self.coordinator.close()
            if self.index is not None:
                self.index.close()

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

    async def _renew(self) -> None:
        """Certificates last a day; the coordinator's and the keeper's are replaced in time."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            for transport, identity, role in self._certified:
                transport.credentials.renew(
                    self.authority.issue(identity.public_key, identity.node_id, role)
                )

    def _build_keeper(self, endpoint: Endpoint) -> Agent:
        """The keeper dials the coordinator like everybody else."""
        assert self.coordinator is not None
        files = open_node(self.folder.parent / "keeper")
        role = "keeper" if self.settings.keeper else "source"
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
        keeper = build_agent(
            files=files,
            transport=self._transport("peer", files.identity),
            run=self.settings.run,
            name=role,
            region="",
            role=role,
            coordinators=(_local(host, port),),
            bind=bind,
            advertise=advertise,
            make_trainer=None,
            provision=None,
            max_disk_bytes=self.settings.max_disk_bytes,
        )
        if self.genesis.data:
            from farflung.data.shards import blobs

            for name, path in blobs(self.folder / "data").items():
                keeper.blobs.add_file(name, path)
        return keeper

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
            role="trainer",
            expires_at=int(time.time()) + INVITE_DAYS * 86_400,
            uses=1000,
        )
        RealDisk(self.folder).replace(INVITE, text.encode())
        return text

    def _remember(self, endpoint: Endpoint) -> None:
        """The next start listens on the same port, so that invites stay valid."""
        self.settings = msgspec.structs.replace(self.settings, bind=str(endpoint))
        RealDisk(self.folder).replace(SETTINGS, msgspec.json.encode(self.settings))

    @property
    def only_local(self) -> bool:
        return loopback_only(parse_invite(self.invite))


def open_host(
    folder: Path, spec: RunSpec | None, options: HostOptions, say: Say, emit: Emit | None = None
) -> Host:
    """Create a run in `folder`, or continue the one that is there.

    Raises UserError, StorageError, CorruptState.
    """
    disk = RealDisk(folder)
    run_key = Identity.load_or_create(disk, "run.key")
    known = _load_settings(folder)
    run = known.run if known else secrets.token_hex(8)
    authority = RunAuthority.load_or_create(disk, "ca.pem", RunId(run))
    journal = open_journal(disk, run_key)
    if journal.cut_bytes:
        say(f"the journal's torn tail of {journal.cut_bytes} bytes was cut")
    if journal.length == 0:
        if spec is None:
            raise UserError(f"{folder} holds no run yet; give a run spec: farflung host run.toml")
        _create(folder, run, run_key, spec, journal, say)
    elif spec is not None:
        _check_same(journal, spec)
    settings = known or Settings(
        run=run, bind=options.bind, advertise=options.advertise, keeper=options.keeper
    )
    if options.max_disk_bytes:
        settings = msgspec.structs.replace(settings, max_disk_bytes=options.max_disk_bytes)
    disk.replace(SETTINGS, msgspec.json.encode(settings))
    log = EventLog(folder / EVENTS, "coordinator", time.monotonic)
    if emit is not None:
        log.listen(emit)
    return Host(
        folder=folder,
        settings=settings,
        journal=journal,
        run_key=run_key,
        authority=authority,
        log=log,
    )


def _load_settings(folder: Path) -> Settings | None:
    path = folder / SETTINGS
    return msgspec.json.decode(path.read_bytes(), type=Settings) if path.exists() else None


def _check_same(journal: Journal, spec: RunSpec) -> None:
    genesis = next(journal.records())
    assert isinstance(genesis, Genesis)
    old, new = digest(genesis.spec).hex()[:12], spec_hash(spec).hex()[:12]
    if old != new:
        raise MismatchError(
            f"the run here has spec {old}, yours is {new}; a run's spec cannot change: continue "
            f"with `farflung host` alone, or choose another name"
        )


def _create(
    folder: Path, run: str, run_key: Identity, spec: RunSpec, journal: Journal, say: Say
) -> None:
    """Data, initial weights, GENESIS."""
    material, data = _material(folder, spec, say)
    say("making the initial weights ...")
    weights = make_weights(spec, data)
    say(describe(weights.layout))
    record = genesis_record(
        run=run,
        run_key=run_key.public_key,
        spec=spec,
        weights=weights,
        material=material,
        disk=RealDisk(folder.parent / "keeper"),
    )
    journal.append(record)


def _material(folder: Path, spec: RunSpec, say: Say) -> tuple[Material, Path | None]:
    if spec.data.source == "synthetic":
        return Material(rows=spec.data.rows), None
    from farflung.data.ensure import shipped_folder  # tokenizers are slow to import
    from farflung.data.shards import open_rows

    data = folder / "data"
    if spec.data.source == "shakespeare":
        if not (data / "manifest.json").exists():
            say("preparing the shipped text ...")
        made = shipped_folder(spec.data, folder / "cache")
    else:
        made = Path(spec.data.source)
    if not data.exists():
        data.symlink_to(made.resolve(), target_is_directory=True)
    rows = open_rows(data)
    manifest = (data / "manifest.json").read_bytes()
    tokenizer = data / "tokenizer.json"
    content = tokenizer.read_bytes() if tokenizer.exists() else b""
    return (
        Material(
            rows=len(rows.train),
            data=digest(manifest),
            data_bytes=len(manifest),
            tokenizer=digest(content) if content else b"",
            tokenizer_bytes=len(content),
        ),
        data,
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
