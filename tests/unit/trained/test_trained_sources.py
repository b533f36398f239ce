"""What a person names, and the newest state that it holds, read beside whoever writes."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from trained_samples import Played, dump, llama_spec, play

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.round_log import FOLDER as RESULTS
from farflung.checkpoint.snapshot import POINTER, SnapshotPointer, newest, write_snapshot
from farflung.config.load import from_table
from farflung.disk import MemoryDisk, RealDisk
from farflung.errors import CorruptState, UserError
from farflung.events import RoundCommitted
from farflung.run.assemble import read_journal
from farflung.sim.loop import run_virtual
from farflung.sim.world import JOURNAL, RUN, SimSwarm, verify_record
from farflung.swarm.journal import Journal
from farflung.swarm.records import Commit, Genesis
from farflung.trained import history
from farflung.trained.history import last_loss
from farflung.trained.run_folders import node_folders, read_run
from farflung.trained.run_state import newest_state
from farflung.trained.sources import resolve

ROUNDS = 4


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Played:
    spec = llama_spec(outer={"fragments": 2, "window": 2, "inner_steps": 4, "rounds": 50})
    return play(tmp_path_factory.mktemp("run"), spec, ROUNDS)


@pytest.fixture
def run(original: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    monkeypatch.setenv("FARFLUNG_HOME", str(tmp_path / "home"))
    root = original.home.parent
    shutil.copytree(root, tmp_path, symlinks=True, dirs_exist_ok=True)
    return Played(**{**vars(original), "home": tmp_path / "home", "peer": tmp_path / "elsewhere"})


def keeper(run: Played) -> Path:
    return run.home / "llama" / "keeper"


def peer(run: Played) -> Path:
    return run.peer / "llama" / "peer"


def files(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "name",
    ["llama", "home", "home/llama", "home/llama/host", "home/llama/keeper"],
)
def test_a_host_is_found_by_name_and_by_each_of_its_folders(
    run: Played, name: str, tmp_path: Path
) -> None:
    model = resolve(name if name == "llama" else str(tmp_path / name))
    assert (model.round, model.state_root) == (run.round, run.root)
    assert np.array_equal(model.weights, run.anchor)
    assert model.tokenizer is not None
    if name != "home/llama/keeper":
        assert model.history.loss is not None


@pytest.mark.parametrize("depth", ["elsewhere", "elsewhere/llama", "elsewhere/llama/peer"])
def test_a_peer_needs_no_host(run: Played, depth: str, tmp_path: Path) -> None:
    shutil.rmtree(run.home)
    model = resolve(str(tmp_path / depth))
    assert (model.round, model.state_root) == (run.round, run.root)
    assert np.array_equal(model.weights, run.anchor)
    assert model.data is not None and model.provenance == "a fox"


def test_a_peers_run_is_found_by_name(run: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARFLUNG_HOME", str(run.peer))
    assert resolve("llama").round == run.round


def test_the_history_counts_the_rounds_that_the_weights_hold(run: Played) -> None:
    model = resolve("llama")
    spec = llama_spec()
    journal = read_journal(run.home / "llama" / "host" / "journal.bin")
    commits = [r for r in journal.records() if isinstance(r, Commit) and r.round <= run.round]
    told = model.history
    assert told.rounds == len(commits) >= ROUNDS
    assert {c.name for c in told.contributors} == {"p0", "p1"}
    rows = sum(b - a for c in commits for p in c.contributors for a, b in p.credited)
    assert told.tokens == rows * spec.data.seq_len == sum(c.tokens for c in told.contributors)
    assert told.tokens > 0


def test_the_loss_is_that_of_the_last_round_in_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [committed(round_, 9.0 - round_) for round_ in range(6)]
    (tmp_path / "events.1.jsonl").write_text("".join(lines[:3]))
    (tmp_path / "events.jsonl").write_text(lines[3] + committed(4, math.nan) + lines[5][:40])
    assert last_loss([tmp_path], 100) == 6.0
    assert last_loss([tmp_path], 2) == 8.0
    assert last_loss([tmp_path], 0) is None
    assert last_loss([tmp_path / "elsewhere"], 100) is None
    monkeypatch.setattr(history, "TAIL_BYTES", len(lines[0]) + 10)
    assert last_loss([tmp_path], 3) == 7.0  # found in the last lines of the older log
    assert last_loss([tmp_path], 2) is None


def committed(round_: int, loss: float) -> str:
    event = RoundCommitted(
        round=round_,
        fragment=0,
        attempt=1,
        contributors=1,
        tokens=10,
        total_tokens=10,
        loss=loss,
        took_s=1.0,
        holders=1,
        replicated=True,
        state_root="",
    )
    return json.dumps({"kind": "RoundCommitted", **dataclasses.asdict(event)}) + "\n"


def test_the_snapshot_is_older_than_what_is_read(run: Played) -> None:
    """Else the tests above would not have replayed anything."""
    pointer = newest(RealDisk(keeper(run)))
    assert pointer is not None and pointer.next_round == 0 < run.round


def test_a_missing_result_gives_the_state_before_it(run: Played) -> None:
    shutil.rmtree(run.peer)
    journal = read_journal(keeper(run) / "journal.bin")
    commit = next(r for r in journal.records() if isinstance(r, Commit) and r.round == 2)
    (keeper(run) / RESULTS / commit.bytes_root.hex()).unlink()
    model = resolve("llama")
    assert model.round == 1 and model.history.rounds == 2
    before = next(r for r in journal.records() if isinstance(r, Commit) and r.round == 1)
    assert model.state_root == before.state_root.hex()


def test_results_may_come_from_another_node_of_the_run(run: Played) -> None:
    shutil.rmtree(keeper(run) / RESULTS)
    assert read_run([keeper(run)]).round == -1
    assert read_run([keeper(run), peer(run)]).round == run.round


def test_reading_changes_nothing_and_asks_for_no_lock(run: Played, tmp_path: Path) -> None:
    before = files(tmp_path)
    resolve("llama")
    resolve(str(peer(run)))
    assert files(tmp_path) == before


def test_a_torn_tail_of_a_journal_in_use_is_left_alone(run: Played) -> None:
    path = peer(run) / "journal.bin"
    torn = path.read_bytes() + b"\x40\x01\x00\x00torn"
    path.write_bytes(torn)
    assert resolve(str(peer(run))).round == run.round
    assert path.read_bytes() == torn


def newer_snapshot(folder: Path) -> SnapshotPointer:
    """Write the state that the folder's log leads to as its snapshot, as a node does."""
    state = newest_state([folder]).state
    fragments = [
        (state.rounds[f], state.anchor_of(f), state.momentum_of(f))
        for f in range(len(state.fragments))
    ]
    disk = RealDisk(folder)
    return write_snapshot(disk, BlobStore(disk), RUN, state.next_round, fragments)


def test_a_snapshot_that_is_replaced_while_it_is_read_is_read_anew(run: Played) -> None:
    folder = peer(run)
    old = {p.name for p in (folder / "blobs").iterdir()}
    swapped: list[int] = []

    def swap(done: int, _: int) -> None:
        if not swapped:
            swapped.append(done)
            newer_snapshot(folder)
            for name in old:
                (folder / "blobs" / name).unlink(missing_ok=True)
            shutil.rmtree(folder / RESULTS)

    found = newest_state([folder], swap)
    assert swapped and found.round == run.round
    assert found.state.root.hex() == run.root


def test_a_damaged_chunk_is_never_weights(run: Played) -> None:
    newer_snapshot(peer(run))
    pointer = newest(RealDisk(peer(run)))
    assert pointer is not None
    for blob in (peer(run) / "blobs").iterdir():
        if blob.name != pointer.manifest:
            data = bytearray(blob.read_bytes())
            data[100] ^= 1
            blob.write_bytes(data)
    with pytest.raises(CorruptState, match="does not match its manifest"):
        newest_state([peer(run)])
    assert newest_state([peer(run), keeper(run)]).round == run.round


def test_a_snapshot_of_another_state_is_refused(run: Played) -> None:
    state = newest_state([peer(run)]).state
    wrong = [(r, state.anchor_of(f) + 1, state.momentum_of(f)) for f, r in enumerate(state.rounds)]
    disk = RealDisk(peer(run))
    write_snapshot(disk, BlobStore(disk), RUN, state.next_round, wrong)
    with pytest.raises(CorruptState, match="differs from the journal"):
        newest_state([peer(run)])


def test_a_snapshot_of_several_moments_needs_the_rounds_between(run: Played) -> None:
    """A node that wrote it while commits went on holds a fragment that is ahead."""
    state = newest_state([peer(run)]).state
    early = newest_state([keeper(run)]).genesis
    genesis_only = run.home / "genesis"
    shutil.copytree(keeper(run), genesis_only)
    shutil.rmtree(genesis_only / RESULTS)
    first = newest_state([genesis_only]).state
    assert early.run == RUN and first.next_round == 0
    ahead = max(range(2), key=lambda f: state.rounds[f])
    mixed = [
        (state.rounds[f], state.anchor_of(f), state.momentum_of(f))
        if f == ahead
        else (-1, first.anchor_of(f), first.momentum_of(f))
        for f in range(2)
    ]
    disk = RealDisk(peer(run))
    write_snapshot(disk, BlobStore(disk), RUN, 0, mixed)
    assert newest_state([peer(run)]).state.root.hex() == run.root
    shutil.rmtree(peer(run) / RESULTS)
    with pytest.raises(CorruptState, match="written while rounds went on"):
        newest_state([peer(run)])


def test_a_folder_without_a_snapshot_says_so(run: Played) -> None:
    (peer(run) / POINTER).unlink()
    with pytest.raises(UserError, match=r"there is no snapshot in .* yet"):
        resolve(str(peer(run)))


@pytest.mark.usefixtures("run")
def test_nothing_there_names_what_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither a folder nor a run in .*runs there: llama"):
        resolve("lama")
    with pytest.raises(UserError, match=r"'' is neither .*runs there: llama"):
        resolve("")
    with pytest.raises(UserError, match=r"cannot look for 'gg1aaaa.*File name too long"):
        resolve("gg1" + 500 * "a")
    cut = "ff1" + 500 * "a"
    (tmp_path / "invite.txt").write_text(f"farflung join {cut[:90]}\n {cut[90:]}\n")
    for named in (cut, f"farflung join {cut[:60]}\n  {cut[60:]}", str(tmp_path / "invite.txt")):
        with pytest.raises(UserError, match="the invite"):  # damaged, and taken for one
            resolve(named)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither a run .* nor an exported model"):
        resolve(str(tmp_path / "empty"))


@pytest.mark.usefixtures("run")
def test_several_runs_below_one_folder_are_a_choice(tmp_path: Path) -> None:
    other = tmp_path / "home" / "other" / "peer"
    run_virtual(_quadratic_run(other, "0" * 16))
    with pytest.raises(UserError, match="holds 2 runs; name one"):
        resolve(str(tmp_path / "home"))
    assert node_folders(other) == [other]


async def _quadratic_run(folder: Path, run: str) -> None:
    """A run of a test function; `run` replaces the one identifier that the simulator has."""
    spec = from_table(
        {
            "name": "quad",
            "model": {"preset": "quadratic", "parameters": 512},
            "data": {"source": "synthetic", "seq_len": 16, "rows": 1000},
            "outer": {"chunk_elements": 256, "rounds": 2},
        }
    )
    swarm = await SimSwarm.start(spec, peers=1, seed=5)
    await swarm.committed(1)
    dump(swarm.nodes["keeper"].disk, folder, [])
    disk = MemoryDisk()
    journal = Journal.open(disk, JOURNAL, verifier=verify_record, sign=swarm._sign_record)
    for record in swarm.records():
        genesis = isinstance(record, Genesis)
        journal.append(msgspec.structs.replace(record, run=run) if genesis else record)
    (folder / JOURNAL).write_bytes(disk.read(JOURNAL) or b"")
    await swarm.stop()


def test_a_test_function_is_no_model(tmp_path: Path) -> None:
    run_virtual(_quadratic_run(tmp_path / "peer", RUN))
    with pytest.raises(UserError, match="run quad trains a quadratic test function"):
        resolve(str(tmp_path / "peer"))
