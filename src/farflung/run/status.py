"""Asking a coordinator about its run, with the certificate that this machine has."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec

from farflung.disk import RealDisk
from farflung.errors import LinkDown, ProtocolError, UserError
from farflung.ids import Endpoint, RunId, split_endpoint
from farflung.network.link import Received
from farflung.network.messages import Control, Status, StatusRequest
from farflung.network.tcp import TcpTransport
from farflung.network.tls import RunAuthority
from farflung.run.home import SETTINGS
from farflung.run.host_folder import Settings
from farflung.run.membership import load_membership
from farflung.swarm.identity import Identity
from farflung.swarm.invite import parse_invite

DIAL_S = 5.0
ANSWER_S = 8.0
"""For one endpoint, dialling included."""


async def ask_as_host(folder: Path) -> dict[str, Any]:
    """From the host's own folder. Raises LinkDown when it does not run."""
    return _picture(await talk_as_host(folder, StatusRequest()))


async def talk_as_host(folder: Path, question: Control) -> Received:
    """One question with the run's own key, and its answer. Raises LinkDown when nobody listens."""
    settings = msgspec.json.decode((folder / SETTINGS).read_bytes(), type=Settings)
    disk = RealDisk(folder)
    authority = RunAuthority.load(disk, "ca.pem", RunId(settings.run))
    identity = Identity.load(disk, "run.key")
    if authority is None or identity is None:
        raise UserError(f"{folder} holds no keys; is it a host's folder?")
    certificate = authority.issue(identity.public_key, identity.node_id, "peer")
    host, port = split_endpoint(settings.bind)
    where = f"127.0.0.1:{port}" if host in ("0.0.0.0", "::") else settings.bind
    return await _talk((where,), identity.private_pem, certificate, authority.ca_pem, question)


async def ask_as_peer(folder: Path) -> dict[str, Any]:
    """From a peer's folder. Raises LinkDown when the coordinator does not answer."""
    membership = load_membership(folder)
    identity = Identity.load(RealDisk(folder), "node.key")
    if membership is None or identity is None:
        raise UserError(f"{folder} holds no membership; join a run first")
    invite = parse_invite(membership.invite)
    answer = await _talk(
        membership.coordinators or tuple(invite.endpoints),
        identity.private_pem,
        membership.certificate_pem,
        membership.ca_pem,
        StatusRequest(),
    )
    return _picture(answer)


def why_not_dialled(picture: dict[str, Any], node: str) -> str:
    """Why the host cannot dial an active node where that says it can be; empty: it can."""
    for peer in picture["peers"]:
        if peer["node"] == node and peer["state"] == "active":
            return str(peer["why"])
    return ""


async def _talk(
    endpoints: tuple[str, ...], key_pem: bytes, certificate_pem: str, ca_pem: str, question: Control
) -> Received:
    """From the first endpoint that answers. Raises LinkDown when none does."""
    transport = TcpTransport.for_node(
        key_pem=key_pem, certificate_pem=certificate_pem, ca_pem=ca_pem
    )
    failure: Exception = LinkDown("no coordinator endpoint is known")
    try:
        for endpoint in endpoints:
            try:
                return await _talk_to(transport, Endpoint(endpoint), question)
            except (LinkDown, ProtocolError) as error:
                failure = error
    finally:
        await transport.close()
    raise failure


async def _talk_to(transport: TcpTransport, endpoint: Endpoint, question: Control) -> Received:
    try:
        async with asyncio.timeout(ANSWER_S):
            link = await transport.dial(endpoint, expect=None, deadline_s=DIAL_S)
            await link.send(question)
            return await link.receive()
    except TimeoutError:
        raise LinkDown(f"{endpoint} did not answer in {ANSWER_S:g} s") from None


def _picture(answer: Received) -> dict[str, Any]:
    if not isinstance(answer, Status):
        raise ProtocolError("the coordinator did not answer with a status")
    picture: dict[str, Any] = json.loads(answer.json)
    return picture
