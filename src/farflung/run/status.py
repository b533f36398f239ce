"""Asking a coordinator for its picture, with the certificate that this machine has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from farflung.disk import RealDisk
from farflung.errors import ProtocolError, UserError
from farflung.ids import Endpoint, RunId, split_endpoint
from farflung.network.messages import Status, StatusRequest
from farflung.network.tcp import TcpTransport
from farflung.network.tls import RunAuthority
from farflung.run.assemble import read_journal
from farflung.run.home import JOURNAL
from farflung.run.host import INDEX
from farflung.run.host_folder import SETTINGS, Settings
from farflung.run.join import load_membership
from farflung.swarm.identity import Identity
from farflung.swarm.index import Index
from farflung.swarm.invite import parse_invite


@dataclass(frozen=True, kw_only=True)
class Offline:
    run: str
    committed: int
    abandoned: int
    rows: int
    state_root: str
    members: list[tuple[str, str, int, int]]
    """(name, role, rounds contributed, rows credited)."""
    sources: list[tuple[str, int, int]]
    """(name, rows credited, rows of an epoch)."""


async def ask_as_host(folder: Path) -> dict[str, Any]:
    """From the host's own folder. Raises LinkDown when it does not run."""
    settings = msgspec.json.decode((folder / SETTINGS).read_bytes(), type=Settings)
    disk = RealDisk(folder)
    authority = RunAuthority.load(disk, "ca.pem", RunId(settings.run))
    identity = Identity.load(disk, "run.key")
    if authority is None or identity is None:
        raise UserError(f"{folder} holds no keys; is it a host's folder?")
    certificate = authority.issue(identity.public_key, identity.node_id, "peer")
    host, port = split_endpoint(settings.bind)
    where = f"127.0.0.1:{port}" if host in ("0.0.0.0", "::") else settings.bind
    return await _ask((where,), identity.private_pem, certificate, authority.ca_pem)


def offline(folder: Path) -> Offline:
    """What the journal of a host that does not run says, through its index."""
    settings = msgspec.json.decode((folder / SETTINGS).read_bytes(), type=Settings)
    journal = read_journal(folder / JOURNAL)
    index = Index(folder / INDEX)
    try:
        index.catch_up(journal.records, journal.length)
        committed, abandoned, rows, root = index.totals()
        return Offline(
            run=settings.run,
            committed=committed,
            abandoned=abandoned,
            rows=rows,
            state_root=root,
            members=index.credited(),
            sources=index.sources(),
        )
    finally:
        index.close()


async def ask_as_peer(folder: Path) -> dict[str, Any]:
    """From a peer's folder. Raises LinkDown when the coordinator does not answer."""
    membership = load_membership(folder)
    identity = Identity.load(RealDisk(folder), "node.key")
    if membership is None or identity is None:
        raise UserError(f"{folder} holds no membership; join a run first")
    invite = parse_invite(membership.invite)
    return await _ask(
        membership.coordinators or tuple(invite.endpoints),
        identity.private_pem,
        membership.certificate_pem,
        membership.ca_pem,
    )


async def _ask(
    endpoints: tuple[str, ...], key_pem: bytes, certificate_pem: str, ca_pem: str
) -> dict[str, Any]:
    transport = TcpTransport.for_node(
        key_pem=key_pem, certificate_pem=certificate_pem, ca_pem=ca_pem
    )
    try:
        link = await transport.dial(Endpoint(endpoints[0]), expect=None, deadline_s=5.0)
        await link.send(StatusRequest())
        answer = await link.receive()
    finally:
        await transport.close()
    if not isinstance(answer, Status):
        raise ProtocolError("the coordinator did not answer with a status")
    picture: dict[str, Any] = json.loads(answer.json)
    return picture
