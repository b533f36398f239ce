"""Rows come by long checked reads, ahead of need; what is missing is asked for, and named."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farflung.data.chunk_cache import CHUNKS, ChunkCache
from farflung.data.chunks import ChunkId, SourceChunks
from farflung.data.manifest import decode_manifest
from farflung.data.order import Order
from farflung.data.prepare import prepare
from farflung.data.row_reader import Place, RowReader
from farflung.data.shards import open_rows, read_manifest
from farflung.data.split import Document
from farflung.data.tokenizer import ByteTokenizer
from farflung.data.wanted import WANTED, Wanted, read_wanted, write_wanted
from farflung.errors import CorruptState
from farflung.hashing import digest

T = 4096
"""16 rows to a chunk."""
CHUNK_ROWS = 16


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 rows in shards of 40: chunks of 16, 16 and 8 rows."""
    folder = tmp_path_factory.mktemp("prepared")
    text = "".join(chr(97 + i % 26) + str(i) for i in range(130_000))
    prepare([Document("x", text)], ByteTokenizer(), T, folder, held_out_fraction=0.0, shard_rows=40)
    return folder


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    """A node's data folder with links to the files."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in prepared.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def chunks_of(folder: Path) -> SourceChunks:
    return SourceChunks(folder, decode_manifest(read_manifest(folder)))


def reader(data: Path, **options: Any) -> RowReader:
    return RowReader(data, [chunks_of(data)], window_blocks=4, **options)


def places(rows: Sequence[int]) -> list[Place]:
    return [(0, row) for row in rows]


def bytes_of(folder: Path, name: ChunkId) -> bytes:
    chunks = chunks_of(folder)
    offset, n_bytes = chunks.extent(name.shard, name.number)
    return chunks.path(name.shard).read_bytes()[offset : offset + n_bytes]


def damage(data: Path, file: str, at: int) -> None:
    """In a copy: the fixture's file is shared."""
    content = bytearray((data / file).read_bytes())
    content[at] ^= 1
    (data / file).unlink()
    (data / file).write_bytes(content)


def all_chunks(folder: Path) -> Iterator[ChunkId]:
    chunks = chunks_of(folder)
    for shard in range(len(chunks.manifest.train)):
        yield from (ChunkId(0, shard, n) for n in range(chunks.count(shard)))


def fill(data: Path, source: Path, names: Sequence[ChunkId], limit: int = 1 << 30) -> ChunkCache:
    cache = ChunkCache(data.with_name(CHUNKS), limit)
    for name in names:
        cache.put(chunks_of(data).hash(name.shard, name.number), bytes_of(source, name))
    return cache


def test_rows_are_those_of_the_mapped_shards(data: Path) -> None:
    table = open_rows(data).train
    rows = np.random.default_rng(0).permutation(len(table)).tolist()
    np.testing.assert_array_equal(reader(data).gather(places(rows)), table.gather(rows))
    with pytest.raises(IndexError):
        reader(data).gather(places([len(table)]))


def test_an_order_by_blocks_reads_each_chunk_once(data: Path) -> None:
    table = open_rows(data).train
    order = Order(len(table), 1, block_rows=CHUNK_ROWS, window_blocks=4)
    rows = order.rows_of([(0, len(table))])
    one = reader(data)
    for i in range(0, len(rows), 8):
        np.testing.assert_array_equal(
            one.gather(places(rows[i : i + 8])), table.gather(rows[i : i + 8])
        )
    assert one.reads == len(list(all_chunks(data)))


def test_expected_rows_are_read_before_they_are_gathered(data: Path) -> None:
    one = reader(data)
    one.expect(places(range(64)))
    deadline = time.monotonic() + 30
    while one.reads < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert one.reads == 5  # rows 0 to 63: three chunks of the first shard, two of the second
    one.gather(places(range(64)))
    assert one.reads == 5
    one.expect(places(range(100, 110)))  # another lease
    one.gather(places(range(100, 110)))
    one.close()


def test_memory_is_bounded_and_rows_stay_right(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farflung.data.row_reader.LEAST_MEMORY", 0)
    monkeypatch.setattr("farflung.data.row_reader.MOST_MEMORY", 3 * CHUNK_ROWS * (T + 1) * 2)
    table = open_rows(data).train
    one = reader(data)
    rows = np.random.default_rng(1).integers(0, len(table), 300).tolist()
    one.expect(places(rows))
    for i in range(0, 300, 10):
        np.testing.assert_array_equal(
            one.gather(places(rows[i : i + 10])), table.gather(rows[i : i + 10])
        )
        assert one._held <= 3 * CHUNK_ROWS * (T + 1) * 2
    one.close()


# ---- missing and damaged ----------------------------------------------------------------------


def test_what_is_missing_without_an_agent_is_named(data: Path) -> None:
    (data / "train-00001.bin").unlink()
    reader(data).gather(places([0, 39]))
    with pytest.raises(
        CorruptState, match=r"chunk 1 of .*train-00001\.bin: it is not on this machine"
    ):
        reader(data).gather(places([60]))


def test_chunks_of_the_cache_are_as_good_as_whole_files(data: Path, prepared: Path) -> None:
    table = open_rows(prepared).train
    for path in data.glob("*.bin"):
        path.unlink()
    fill(data, prepared, list(all_chunks(prepared)))
    rows = [149, 3, 77, 41]
    np.testing.assert_array_equal(reader(data).gather(places(rows)), table.gather(rows))


def test_a_damaged_chunk_of_a_file_is_asked_for_and_read_from_the_cache(
    data: Path, prepared: Path
) -> None:
    damage(data, "train-00000.bin", 17 * (T + 1) * 2)  # row 17, in chunk 1
    with pytest.raises(CorruptState, match=r"chunk 1 of .*train-00000\.bin"):
        reader(data).gather(places([0, 17]))
    assert read_wanted(data.with_name(WANTED)).missing == (ChunkId(0, 0, 1),)
    fill(data, prepared, [ChunkId(0, 0, 1)])
    table = open_rows(prepared).train
    np.testing.assert_array_equal(reader(data).gather(places([17])), table.gather([17]))


def test_a_damaged_chunk_of_the_cache_is_dropped(data: Path, prepared: Path) -> None:
    (data / "train-00000.bin").unlink()
    cache = fill(data, prepared, [ChunkId(0, 0, 0)])
    (path,) = data.with_name(CHUNKS).glob("??/*")
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(CorruptState, match="chunk 0 of"):
        reader(data).gather(places([3]))
    assert not path.exists() and not cache.has(chunks_of(data).hash(0, 0))


def test_damaged_hashes_are_named(data: Path) -> None:
    damage(data, "train-00002.b3", 5)
    with pytest.raises(CorruptState, match=r"train-00002\.b3 has hash"):
        reader(data).gather(places([90]))


def test_training_waits_for_the_chunks_that_an_agent_fetches_in_order(
    data: Path, prepared: Path
) -> None:
    """The agent's side is played by a thread that brings what is wanted, one by one."""
    for path in data.glob("*.bin"):
        path.unlink()
    rows = [120, 5, 44, 121, 6]
    asked: list[ChunkId] = []
    over = threading.Event()
    waited = threading.Event()

    def agent() -> None:
        while not over.is_set():
            wanted = read_wanted(data.with_name(WANTED))
            if wanted.waiting:
                waited.set()
            for name in wanted.missing:
                if name not in asked and waited.is_set():
                    asked.append(name)
                    fill(data, prepared, [name])
            time.sleep(0.005)

    thread = threading.Thread(target=agent)
    thread.start()
    one = reader(data, alive=lambda: None)
    try:
        one.expect(places(rows))
        found = one.gather(places(rows))
    finally:
        over.set()
        thread.join()
        one.close()
    np.testing.assert_array_equal(found, open_rows(prepared).train.gather(rows))
    assert asked == [ChunkId(0, 3, 0), ChunkId(0, 0, 0), ChunkId(0, 1, 0)]
    last = read_wanted(data.with_name(WANTED))
    assert not last.waiting
    assert set(last.kept) <= set(asked)


# ---- the cache -----------------------------------------------------------------------------------


def test_the_cache_drops_what_was_used_longest_ago_and_never_what_is_needed(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "c", 10_000)
    data = {digest(bytes([i]) * 3000): bytes([i]) * 3000 for i in range(5)}
    a, b, c, d, e = data
    for name in (a, b, c):
        cache.put(name, data[name])
        time.sleep(0.01)  # the file system's clock is coarse
    assert cache.get(a) == data[a]  # now b is the oldest
    cache.put(d, data[d])
    assert [cache.has(n) for n in (a, b, c, d)] == [True, False, True, True]
    cache.put(e, data[e], keep=[a, c, d])
    assert [cache.has(n) for n in (a, c, d, e)] == [True] * 4
    assert cache.stored_bytes == 12_000
    again = ChunkCache(tmp_path / "c", 10_000)
    assert again.stored_bytes == 12_000 and again.get(e) == data[e]
    again.clear()
    assert again.stored_bytes == 0 and list((tmp_path / "c").iterdir()) == []


def test_a_torn_write_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 1000)
    cache.put(digest(b"x"), b"x")
    (path,) = tmp_path.glob("??/*")
    path.with_suffix(".part").write_bytes(b"half")
    again = ChunkCache(tmp_path, 1000)
    assert again.stored_bytes == 1
    assert [p.name for p in tmp_path.glob("??/*")] == [path.name]


def test_wishes_of_a_trainer_that_died_are_forgotten_and_lost_ones_are_repeated(
    data: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farflung.data.row_reader.ASK_AGAIN_S", 0.05)
    (data / "train-00000.bin").unlink()
    wanted = data.with_name(WANTED)
    write_wanted(wanted, Wanted(missing=(ChunkId(0, 3, 0),), waiting=True))
    reader(data)  # an evaluation beside a trainer changes nothing
    assert read_wanted(wanted).waiting
    one = reader(data, alive=lambda: None)
    assert not wanted.exists()
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(one.gather(places([3]))))
    thread.start()
    for _ in range(2):
        deadline = time.monotonic() + 30
        while not wanted.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert read_wanted(wanted).missing[0] == ChunkId(0, 0, 0)
        wanted.unlink()
    fill(data, prepared, [ChunkId(0, 0, 0)])
    thread.join()
    np.testing.assert_array_equal(done[0], open_rows(prepared).train.gather([3]))
