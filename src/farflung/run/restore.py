"""`farflung host --restore-from`: a lost host's folder, made again from nodes' copies.

What the nodes hold is the journal, signed record by record; what the recovery key holds are the
two keys that sign. The longest valid chain among the sources is the run. The sources are asked
twice: a journal that grows between the two proves that the old coordinator still runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from farflung.config.run import PROTOCOL_VERSION
from farflung.disk import MemoryDisk, RealDisk
from farflung.errors import CorruptState, FarflungError, LinkDown, ProtocolError, UserError
from farflung.ids import Endpoint, split_endpoint
from farflung.network.messages import DataHello, FetchJournal, JournalFrames
from farflung.network.tcp import TcpTransport
from farflung.network.tls import RunAuthority
from farflung.run.home import JOURNAL
from farflung.run.host_folder import (
    DATA,
    HostOptions,
    Say,
    genesis_of,
    install_keys,
    make_material,
    remove_tree,
    save_settings,
    wanted_settings,
)
from farflung.run.sources import archived_journal, is_archive
from farflung.swarm.identity import Identity, verify_record
from farflung.swarm.journal import Journal
from farflung.swarm.records import Commit, Genesis, Term
from farflung.swarm.recovery import Recovery, parse_recovery
from farflung.swarm.replay import genesis_spec

DIAL_S = 10.0
PAGE_S = 30.0
WATCH_S = 3.0
"""Between the two looks at the sources."""


@dataclass(frozen=True)
class Copy:
    """One source's journal, checked from its first byte to its last, in memory."""

    source: str
    journal: Journal
    disk: MemoryDisk

    @property
    def term(self) -> int:
        return max((r.term for r in self.journal.records() if isinstance(r, Term)), default=0)

    def describe(self) -> str:
        committed = sum(isinstance(r, Commit) for r in self.journal.records())
        return (
            f"{self.source}: {self.journal.length} records, term {self.term}, "
            f"{committed} rounds committed, head {self.journal.head.hex()[:16]}"
        )


def read_recovery(text_or_file: str) -> Recovery:
    """From the text itself or a file that holds it. UserError when it is neither."""
    if text_or_file.startswith("ffr1"):
        return parse_recovery(text_or_file)
    try:
        return parse_recovery(Path(text_or_file).read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(
            f"cannot read the recovery key {text_or_file}: {reason}; give its file or its text"
        ) from None


async def restore(
    folder: Path, sources: Sequence[str], recovery: Recovery, options: HostOptions, say: Say
) -> None:
    """Make the host's folder again. Raises UserError, StorageError; then nothing was written."""
    refuse_used_folder(folder)
    reader = _Reader(recovery)
    await reader.refuse_live_coordinator(options.advertise or ())
    copies = [await reader.read(source) for source in sources]
    for copy in copies:
        say(copy.describe())
    chosen = longest(copies)
    await asyncio.sleep(WATCH_S)
    for copy in copies:
        again = await reader.read(copy.source)
        if again.journal.head != copy.journal.head:
            raise UserError(
                f"the journal of {copy.source} went on from {copy.journal.length} to "
                f"{again.journal.length} records: the old host still runs; stop it first"
            )
    say(f"the run goes on after record {chosen.journal.length - 1}, from {chosen.source}")
    _write(folder, chosen, recovery, options, say)


def refuse_used_folder(folder: Path) -> None:
    """UserError when a run lives here already."""
    if (RealDisk(folder).size(JOURNAL) or 0) > 0:
        raise UserError(
            f"{folder} holds a journal: continue it with `farflung host`, or move the folder away"
        )


def longest(copies: Sequence[Copy]) -> Copy:
    """The longest chain; UserError with both hashes when two of them differ at one index."""
    chosen = max(copies, key=lambda copy: copy.journal.length)
    for copy in copies:
        index = first_difference(chosen.journal, copy.journal)
        if index is not None:
            raise UserError(
                f"{chosen.source} and {copy.source} hold different signed records at index "
                f"{index}: {chosen.journal.hash_at(index + 1).hex()} and "
                f"{copy.journal.hash_at(index + 1).hex()}; two coordinators have continued this "
                f"run: choose one and name only sources that follow it"
            )
    return chosen


def first_difference(one: Journal, other: Journal) -> int | None:
    """The lowest index at which both have a record and not the same one."""
    common = min(one.length, other.length)
    if one.hash_at(common) == other.hash_at(common):
        return None
    low, high = 0, common  # equal after `low` records, different after `high`
    while high - low > 1:
        middle = (low + high) // 2
        if one.hash_at(middle) == other.hash_at(middle):
            low = middle
        else:
            high = middle
    return low


class _Reader:
    """Reads sources with a certificate that the recovery key's authority issues to itself."""

    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery
        self._run_key = Identity.from_seed(recovery.run_seed).public_key
        self._authority = RunAuthority.create(recovery.run, seed=recovery.ca_seed)

    def _transport(self) -> TcpTransport:
        me = Identity.generate()
        return TcpTransport.for_node(
            key_pem=me.private_pem,
            certificate_pem=self._authority.issue(me.public_key, me.node_id, "peer"),
            ca_pem=self._authority.ca_pem,
        )

    async def refuse_live_coordinator(self, endpoints: Sequence[str]) -> None:
        """UserError when a coordinator of the run answers where the new one is to be dialled."""
        transport = self._transport()
        try:
            for endpoint in endpoints:
                try:
                    await transport.dial(Endpoint(endpoint), expect=None, deadline_s=DIAL_S)
                except (LinkDown, ProtocolError):
                    continue
                raise UserError(f"a coordinator of this run answers at {endpoint}; stop it first")
        finally:
            await transport.close()

    async def read(self, source: str) -> Copy:
        """UserError when this source cannot be read, is damaged, or is of another run."""
        disk = MemoryDisk()
        try:
            if is_archive(source):
                disk = MemoryDisk({JOURNAL: await archived_journal(source)})
                journal = Journal.open(disk, JOURNAL, verifier=verify_record, sign=None)
            elif Path(source).exists():
                disk = MemoryDisk({JOURNAL: _journal_bytes(Path(source))})
                journal = Journal.open(disk, JOURNAL, verifier=verify_record, sign=None)
            else:
                journal = Journal.open(disk, JOURNAL, verifier=verify_record, sign=None)
                await self._fetch(source, journal)
        except (FarflungError, OSError) as error:
            raise UserError(
                f"cannot use {source}: {error}; leave it out if it is lost for good"
            ) from None
        self._check_run(source, journal)
        return Copy(source, journal, disk)

    async def _fetch(self, source: str, journal: Journal) -> None:
        try:
            split_endpoint(source)
        except ValueError:
            raise UserError("it is no folder here and no HOST:PORT of a node's data port") from None
        transport = self._transport()
        try:
            link = await transport.dial_member(Endpoint(source), deadline_s=DIAL_S)
            await link.send(DataHello(protocol=PROTOCOL_VERSION, run=self._recovery.run))
            while True:
                async with asyncio.timeout(PAGE_S):
                    await link.send(FetchJournal(first=journal.length))
                    page = await link.receive()
                if not isinstance(page, JournalFrames) or page.first != journal.length:
                    raise ProtocolError("it did not answer with its journal")
                if not page.frames:
                    return
                for frame in page.frames:
                    journal.extend(frame, sync=False)
        except TimeoutError:
            raise LinkDown(f"it sent no records in {PAGE_S:g} s") from None
        finally:
            await transport.close()

    def _check_run(self, source: str, journal: Journal) -> None:
        if not journal.length:
            raise UserError(f"the journal of {source} is empty; leave it out")
        genesis = genesis_of(journal)
        if genesis.run != self._recovery.run or genesis.run_key != self._run_key:
            raise UserError(
                f"{source} is a copy of run {genesis.run}, the recovery key is of run "
                f"{self._recovery.run}; leave it out, or give that run's key"
            )


def _journal_bytes(path: Path) -> bytes:
    file = path / JOURNAL if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"it holds no {JOURNAL}; give a node's folder (host, keeper or peer)")
    return file.read_bytes()


def _write(folder: Path, chosen: Copy, recovery: Recovery, options: HostOptions, say: Say) -> None:
    """Keys, data, settings; the journal last: before it is there, restoring may begin anew."""
    install_keys(folder, recovery)
    genesis = genesis_of(chosen.journal)
    _find_data(folder, genesis, say)
    alone = chosen.term + 1  # the term that the restored coordinator begins
    settings = wanted_settings(None, options, recovery.run, alone_since=alone)
    save_settings(folder, settings)
    data = chosen.disk.read(JOURNAL)
    if data is None:
        raise CorruptState("the chosen journal is gone")
    RealDisk(folder).replace(JOURNAL, data)


def _find_data(folder: Path, genesis: Genesis, say: Say) -> None:
    """The token shards where the spec says; elsewhere the keeper fetches them from the peers."""
    if not any(part.manifest for part in genesis.data):
        return
    spec = genesis_spec(genesis)
    try:
        material, _ = make_material(folder, spec, say)
        if material.data == genesis.data:
            return
        reason = "they are not those of the run"
    except (FarflungError, OSError) as error:
        reason = str(error)
    remove_tree(folder / DATA)
    say(f"token shards are not on this machine ({reason}); the keeper fetches them from the peers")
