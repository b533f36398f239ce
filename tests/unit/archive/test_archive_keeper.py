"""The host's background upload beside a simulated run: slow stores, failing ones, pins."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from archive_samples import ROUNDS, spec, surveyed

from farflung.archive.index import INDEX, decode_index
from farflung.archive.memory_store import MemoryStore
from farflung.archive.settings import UploadSettings
from farflung.archive.store import StoreError
from farflung.archive.survey import Survey
from farflung.clock import InlineWorkers
from farflung.config.run import DataSpec, SourceSpec
from farflung.data.prepare import prepare
from farflung.data.shards import source_folders
from farflung.data.split import Document
from farflung.data.tokenizer import ByteTokenizer
from farflung.events import (
    ArchiveExtended,
    Event,
    SnapshotUploaded,
    TaskFailed,
    UploadDelayed,
    UploadProgress,
    UploadStopped,
    sentence_of,
)
from farflung.monitor.picture import Picture
from farflung.monitor.view import View
from farflung.peer.agent import Agent
from farflung.run.upload import KeeperUpload
from farflung.sim.loop import run_virtual
from farflung.sim.world import KEEPER, SimSwarm
from farflung.tasks import Tasks, nothing_else

Story = Callable[[SimSwarm], Awaitable[None]]


def picture_of(events: list[Event]) -> Picture:
    view = View()
    for event in events:
        view.event(None, event)
    return view.picture()


def play(store: MemoryStore, story: Story, rounds: int = ROUNDS) -> tuple[list[Event], Survey]:
    """A run with a keeper that uploads to `store`; what it told, and what a reader then finds."""
    events: list[Event] = []
    agents: list[Agent] = []

    async def main() -> Survey:
        swarm = await SimSwarm.start(spec(rounds), peers=3)
        tasks = Tasks(events.append, nothing_else)

        def keeper() -> Agent:
            agent = swarm.nodes[KEEPER].agent
            if agent is not None:  # None: killed, and not there again yet
                agents.append(agent)
            return agents[-1]

        upload = KeeperUpload(
            UploadSettings(address="memory"), keeper, run_name="archived", data=Path(),
            folders=[], emit=events.append, store=store, workers=InlineWorkers(),
        )  # fmt: skip
        try:
            tasks.start(upload.run(), "upload")
            await story(swarm)
            await swarm.finished()
            await tasks.close()
            await upload.finish()
        finally:
            await tasks.close()
            await swarm.stop()
        store.before = lambda _operation, _name: None
        store.delay_s = 0.0
        return await surveyed(store)

    found = run_virtual(main())
    assert not [e for e in events if isinstance(e, TaskFailed)]
    return events, found


async def undisturbed(_: SimSwarm) -> None: ...


def of(events: list[Event], kind: type[Event]) -> list[Event]:
    return [e for e in events if isinstance(e, kind)]


def test_the_archive_of_a_finished_run_leads_to_its_last_round() -> None:
    events, found = play(MemoryStore(), undisturbed)
    assert found.rows[-1].place.next_round == ROUNDS and found.rows[-1].reaches == ROUNDS - 1
    assert all(not row.damage for row in found.rows)
    assert len(of(events, SnapshotUploaded)) >= 2
    assert not of(events, UploadDelayed)
    assert picture_of(events).archived == ROUNDS - 1


def test_a_snapshot_that_takes_long_to_upload_stays_until_it_is_there() -> None:
    """Several snapshots come and would go meanwhile: without the pin none would ever arrive."""
    store = MemoryStore()
    store.delay_s = 0.5
    events, found = play(store, undisturbed, rounds=60)
    assert all(not row.damage for row in found.rows)
    assert not of(events, UploadDelayed)
    assert of(events, UploadProgress) and picture_of(events).uploading == ""
    rounds = [e.next_round for e in events if isinstance(e, SnapshotUploaded)]
    assert rounds[-1] == 60 and 2 <= len(rounds) < 8  # of twenty; the others were passed over


@pytest.mark.parametrize("operations", [("put",), ("get", "list"), ("put", "delete", "list")])
def test_a_store_that_is_out_is_told_once_and_caught_up_with(operations: tuple[str, ...]) -> None:
    store = MemoryStore()

    def before(operation: str, name: str) -> None:
        if operation in operations:
            raise StoreError(f"{name}: 503 Slow Down")

    async def out_for_a_while(swarm: SimSwarm) -> None:
        store.before = before
        await swarm.committed(ROUNDS - 2)
        store.before = lambda _operation, _name: None

    events, found = play(store, out_for_a_while)
    assert len(of(events, UploadDelayed)) == 1
    assert "503 Slow Down" in picture_of(events).notes[0]
    assert found.rows[-1].reaches == ROUNDS - 1 and not found.rows[-1].damage


def test_a_store_that_is_never_back_ends_no_run() -> None:
    store = MemoryStore()

    async def out(_: SimSwarm) -> None:
        def before(operation: str, name: str) -> None:
            if operation == "put" and name == INDEX:
                raise StoreError("403")

        store.before = before

    with pytest.raises(Exception, match=INDEX):  # nobody takes that for an archive
        play(store, out)


def test_another_runs_archive_is_left_alone_and_the_run_goes_on() -> None:
    store = MemoryStore()
    play(store, undisturbed)
    index = store.objects[INDEX].replace(b"5eed5eed5eed5eed", b"0123456789abcdef")
    store.objects[INDEX] = index
    before = dict(store.objects)
    events, _ = play(store, undisturbed)
    assert store.objects == before
    stopped = of(events, UploadStopped)
    assert len(stopped) == 1 and "0123456789abcdef" in sentence_of(stopped[0])


def test_a_keeper_that_starts_again_goes_on_with_its_archive() -> None:
    store = MemoryStore()

    async def restarted(swarm: SimSwarm) -> None:
        await swarm.committed(5)
        await swarm.kill(KEEPER)
        swarm.spawn(KEEPER)

    events, found = play(store, restarted)
    assert found.rows[-1].reaches == ROUNDS - 1 and not of(events, UploadStopped)
    puts = [n for o, n in store.log if o == "put" and n != INDEX]
    assert len(puts) == len(set(puts))  # nothing twice
    assert of(events, ArchiveExtended) or of(events, SnapshotUploaded)
    assert decode_index(store.objects[INDEX], "").run_name == "archived"


def test_a_tight_disk_does_not_take_the_snapshot_that_is_being_uploaded() -> None:
    """The older of two snapshots goes first at the limit; newer ones are skipped meanwhile."""
    store = MemoryStore()
    store.delay_s = 0.5

    async def tight(swarm: SimSwarm) -> None:
        await swarm.committed(1)
        await swarm.kill(KEEPER)
        swarm.nodes[KEEPER].max_disk_bytes = 110_000  # two snapshots, initial weights, two results
        swarm.spawn(KEEPER)

    events, found = play(store, tight, rounds=40)
    assert not of(events, UploadDelayed)
    assert found.rows[-1].place.next_round == 40 and not found.rows[-1].damage


@pytest.mark.parametrize("names", [(), ("data",), ("one", "two")])
def test_files_of_the_data_folder_keep_their_places(tmp_path: Path, names: tuple[str, ...]) -> None:
    """A mixture of a single source has a folder for it, too."""
    sources = tuple(SourceSpec(name=n, source="here") for n in names)
    folders = source_folders(tmp_path, DataSpec(sources=sources))
    for folder in folders:
        prepare([Document("a", "to be or not " * 50)], ByteTokenizer(), 16, folder)
    upload = KeeperUpload(
        UploadSettings(address="memory", data=True), lambda: None,  # type: ignore[arg-type]
        run_name="archived", data=tmp_path, folders=folders, emit=lambda _: None,
        store=MemoryStore(), workers=InlineWorkers(),
    )  # fmt: skip
    listed = {tmp_path / file.file: file for file in upload._files()}
    assert set(listed) == {p for p in tmp_path.rglob("*") if p.is_file()}
    assert all(path.stat().st_size == file.n_bytes for path, file in listed.items())


def test_a_finished_run_does_not_wait_for_ever_for_an_archive_that_is_ahead_of_it() -> None:
    """As when the archive has gone on from another host: this keeper's journal stays shorter."""
    store, events = MemoryStore(), list[Event]()
    play(store, undisturbed)
    left: list[float] = []

    async def main() -> None:
        swarm = await SimSwarm.start(spec(ROUNDS), peers=3)
        await swarm.committed(1)
        agent = swarm.nodes[KEEPER].agent
        assert agent is not None
        upload = KeeperUpload(
            UploadSettings(address="memory"), lambda: agent, run_name="archived", data=Path(),
            folders=[], emit=events.append, store=store, workers=InlineWorkers(),
        )  # fmt: skip
        await swarm.kill(KEEPER)
        async with asyncio.timeout(3600):
            await upload.finish()
        left.append(asyncio.get_running_loop().time())
        await swarm.stop()

    run_virtual(main())
    assert left and not of(events, SnapshotUploaded)
