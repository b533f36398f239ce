"""The newest state of a run by its invite, from whoever serves it, without taking part.

A reader redeems the invite (its key then stands in the journal as a member's, and one use of the
invite is spent), follows the journal and copies the newest snapshot and the results after it, as a
joiner does. It trains nothing, never asks to take part, serves nobody, and leaves. What it copied
stays in a folder of its own, so that the next time only what is new is fetched.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from farflung.errors import CorruptState, LinkDown, StorageError
from farflung.events import Event, StateProgress
from farflung.ids import Hash, Role
from farflung.network.tcp import TcpTransport
from farflung.peer.agent import Agent
from farflung.peer.node import NodeConfig
from farflung.run.assemble import NodeFiles, NodeOptions, build_agent, open_node
from farflung.run.home import JOURNAL, locked, role_folder
from farflung.run.join import obtain_membership
from farflung.run.membership import JoinOptions
from farflung.swarm.invite import parse_invite
from farflung.tasks import first_ended
from farflung.trained.run_state import OnBytes, genesis_of_file

READER = "reader"
LOOK_S = 0.05
STALL_S = 60.0
"""Without a record, a chunk or a round for so long it gives up."""


def folder_of_invite(text: str, home: Path, on_bytes: OnBytes | None = None) -> Path:
    """A node's folder with the run's state: the peer's that has joined from this home, or the
    reader's, brought up to date.

    Raises InviteError, LinkDown (nobody answers), Refused, StorageError, CorruptState.
    """
    invite = parse_invite(text)
    joined = role_folder(home, invite.run_name, "peer")
    if _run_in(joined) == invite.run:
        return joined
    folder = role_folder(home, invite.run_name, f"{READER}-{invite.run}")
    with locked(folder):
        asyncio.run(_bring_up_to_date(folder, text, on_bytes))
    return folder


def _run_in(folder: Path) -> str:
    if not (folder / JOURNAL).is_file():
        return ""
    try:
        genesis = genesis_of_file(folder / JOURNAL)
    except (CorruptState, StorageError):
        return ""
    return "" if genesis is None else genesis.run


async def _bring_up_to_date(folder: Path, text: str, on_bytes: OnBytes | None) -> None:
    files = open_node(folder)
    try:
        agent = await _agent(files, text)
        visit = _Visit(agent, on_bytes)
        files.log.listen(visit.see)
        await first_ended(agent.run(), visit.watch())
    finally:
        files.close()


async def _agent(files: NodeFiles, text: str) -> Agent:
    options = JoinOptions(name=READER, outbound_only=True)
    membership, invite = await obtain_membership(files, text, options)
    transport = TcpTransport.for_node(
        key_pem=files.identity.private_pem,
        certificate_pem=membership.certificate_pem,
        ca_pem=membership.ca_pem,
    )
    config = NodeConfig(
        node=files.identity.node_id,
        run=invite.run,
        name=READER,
        region="",
        role=Role.SOURCE,  # the role that never asks to take part
        coordinators=invite.endpoints,
        bind=None,
    )
    return build_agent(files, transport, config, NodeOptions(make_trainer=None))


class _Visit:
    """Watches a reader until it holds what the journal resolves, then lets it leave."""

    def __init__(self, agent: Agent, on_bytes: OnBytes | None) -> None:
        self._agent = agent
        self._on_bytes = on_bytes
        self._moved_s = time.monotonic()
        self._seen: tuple[int, int, int] = (0, 0, 0)

    def see(self, event: Event) -> None:
        if isinstance(event, StateProgress) and self._on_bytes is not None:
            self._on_bytes(event.here, event.total)

    async def watch(self) -> None:
        """Ends only by an error: whoever has it all makes the agent end. Raises LinkDown."""
        while not (self._caught_up() and await self._can_speak()):
            self._check_moving()
            await asyncio.sleep(LOOK_S)
        self._agent.leave("it has read the newest state")
        await asyncio.Event().wait()

    def _caught_up(self) -> bool:
        follower, standing = self._agent.node.follower, self._agent.standing
        welcomed = 0 < standing.journal_target <= follower.journal.length
        return welcomed and follower.ready and not follower.next_resolution()[0]

    async def _can_speak(self) -> bool:
        """Tokenizer and the manifest that says what ends a document are kept as blobs: the token
        shards are not wanted. Asks once for each."""
        genesis = self._agent.node.follower.genesis
        if genesis is None:
            return False
        first = genesis.data[0]
        files = (
            (genesis.tokenizer, genesis.tokenizer_bytes),
            (first.manifest, first.manifest_bytes),
        )
        return all([await self._has(Hash(name), n) for name, n in files if genesis.tokenizer])

    async def _has(self, name: Hash, n_bytes: int) -> bool:
        node = self._agent.node
        blobs = node.follower.blobs
        if blobs.has(name):
            return True
        try:
            data = await node.mesh.blobs.fetch(node.donors(), name, n_bytes)
        except (LinkDown, CorruptState):
            return False
        await node.world.workers.run(lambda: blobs.put(data))
        return True

    def _check_moving(self) -> None:
        follower, mesh = self._agent.node.follower, self._agent.node.mesh
        rounds = follower.state.next_round if follower.ready else -1
        seen = (follower.journal.length, mesh.received_bytes(), rounds)
        now_s = time.monotonic()
        if seen != self._seen:
            self._seen, self._moved_s = seen, now_s
        if now_s - self._moved_s > STALL_S:
            raise LinkDown(
                f"nobody of the run has sent anything for {STALL_S:g} s; is the host up? a peer's "
                f"folder or an exported model needs nobody"
            )
