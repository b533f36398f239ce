"""A run's data from nodes and stores: needed first, checked, resumed, bounded, told by name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from data_servers import Donors, RangeServer, node_of, part_of

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.data.chunk_cache import CHUNKS, ChunkCache
from farflung.data.chunks import ChunkId, SourceChunks
from farflung.data.manifest import decode_manifest
from farflung.data.prepare import prepare
from farflung.data.shards import open_rows, read_manifest
from farflung.data.split import Document
from farflung.data.tokenizer import load_tokenizer
from farflung.data.wanted import WANTED, Wanted, write_wanted
from farflung.errors import ConfigError, CorruptState
from farflung.events import Event, FetchDelayed
from farflung.run import data_fetch
from farflung.run.data_fetch import DataFetch

T = 4096
"""16 rows to a chunk."""


def make(folder: Path, word: str) -> Path:
    """Shards of 40 rows: chunks of 16, 16 and 8."""
    text = "".join(f"{word} {i} " for i in range(60_000))
    prepare([Document(word, text)], load_tokenizer("bytes"), T, folder, shard_rows=40)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("prepared") / "d", "web")


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_fetch, "RETRY_S", 0.01)
    monkeypatch.setattr(data_fetch, "LOOK_S", 0.005)
    monkeypatch.setattr(data_fetch, "GRACE_S", 0.0)


@pytest.fixture
def store(prepared: Path) -> Iterator[RangeServer]:
    server = RangeServer(prepared)
    yield server
    server.close()


def spec_of(*sources: str) -> RunSpec:
    if len(sources) == 1:
        return from_table({"data": {"source": sources[0], "seq_len": T}})
    table = [{"name": f"s{i}", "source": source} for i, source in enumerate(sources)]
    return from_table({"data": {"sources": table, "seq_len": T}})


class Node:
    """One peer's data folder, and the part of an agent that fills it."""

    def __init__(self, home: Path, spec: RunSpec, donors: Donors, *folders: Path) -> None:
        self.data = home / "data"
        self.told: list[Event] = []
        self.node = node_of(spec, donors, self.told)
        genesis: Any = type("G", (), {})()
        names = [p.name for p in spec.data.parts]
        genesis.data = tuple(part_of(n, f) for n, f in zip(names, folders, strict=True))
        self.genesis = genesis
        self.fetch = DataFetch(self.data, cache_bytes=3 * 16 * (T + 1) * 2)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        await self.fetch.provide(self.node, self.genesis)
        task = asyncio.get_running_loop().create_task(self.fetch.serve(self.node))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def cache(self) -> ChunkCache:
        return ChunkCache(self.data.with_name(CHUNKS))

    def chunk(self, name: ChunkId, folder: Path | None = None) -> bytes:
        folder = folder or self.data
        chunks = SourceChunks(folder, decode_manifest(read_manifest(folder)))
        return self.cache.get(chunks.hash(name.shard, name.number)) or b""

    def want(self, *names: ChunkId, waiting: bool = False) -> None:
        wanted = Wanted(missing=names, kept=names, waiting=waiting)
        write_wanted(self.data.with_name(WANTED), wanted)

    @property
    def sentences(self) -> list[str]:
        return [e.sentence for e in self.told if isinstance(e, FetchDelayed)]


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(4):
        while not holds():  # noqa: ASYNC110 - files and lists have no event
            await asyncio.sleep(0.005)


def whole(node: Node, prepared: Path, folder: Path | None = None) -> bool:
    folder = folder or node.data
    return all((folder / p.name).exists() for p in prepared.iterdir())


def expected(prepared: Path, name: ChunkId) -> bytes:
    chunks = SourceChunks(prepared, decode_manifest(read_manifest(prepared)))
    offset, n_bytes = chunks.extent(name.shard, name.number)
    return chunks.path(name.shard).read_bytes()[offset : offset + n_bytes]


# ---- from nodes --------------------------------------------------------------------------------


def test_a_run_starts_with_the_small_files_and_the_rest_follows(
    tmp_path: Path, prepared: Path
) -> None:
    donors = Donors(prepared)
    node = Node(tmp_path, spec_of("elsewhere"), donors, prepared)

    async def main() -> None:
        async with node.serving():
            assert not list(node.data.glob("train-*.bin"))  # and a trainer may start
            open_rows(node.data, verify=False)
            coming = node.fetch.own_bytes
            await until(lambda: whole(node, prepared))
        sizes = [p.stat().st_size for p in node.data.iterdir() if p.name != "manifest.json"]
        assert coming == sum(sizes)

    asyncio.run(main())
    open_rows(node.data)  # every hash is right
    names = {path.name for path in node.node.follower.blobs.served.values()}
    assert {"manifest.json", "train-00000.bin", "train-00000.b3"} <= names
    assert node.sentences == []


def test_rows_that_are_needed_come_first(tmp_path: Path, prepared: Path) -> None:
    donors = Donors(prepared)
    node = Node(tmp_path, spec_of("elsewhere"), donors, prepared)
    wanted = (ChunkId(0, 2, 1), ChunkId(0, 0, 2))

    async def main() -> None:
        async with node.serving():
            node.want(*wanted, waiting=True)
            await until(lambda: node.fetch.waiting)
            await until(lambda: all(node.chunk(n) for n in wanted))
            assert [node.chunk(n) for n in wanted] == [expected(prepared, n) for n in wanted]
            node.want()
            await until(lambda: not node.fetch.waiting)
            await until(lambda: whole(node, prepared))
            await until(lambda: node.cache.stored_bytes == 0)  # whole files make it superfluous

    asyncio.run(main())
    order = [file for file, _ in donors.asked if file.endswith(".bin") and file.startswith("train")]
    assert order.index("train-00002.bin") < len(order) / 2
    pieces = [ask for ask in donors.asked if ask[0] == "train-00002.bin"]
    assert len(pieces) == len(set(pieces))  # what was wanted before is not fetched again


def test_a_download_that_was_interrupted_goes_on_and_damage_is_mended(
    tmp_path: Path, prepared: Path
) -> None:
    donors = Donors(prepared)
    node = Node(tmp_path, spec_of("elsewhere"), donors, prepared)
    chunk = 16 * (T + 1) * 2

    def run() -> list[tuple[str, int]]:
        donors.asked.clear()

        async def main() -> None:
            again = Node(tmp_path, spec_of("elsewhere"), donors, prepared)
            async with again.serving():
                await until(lambda: again.fetch._complete)

        asyncio.run(main())
        open_rows(node.data)
        return [
            ask for ask in donors.asked if ask[0].startswith("train") and ask[0].endswith("bin")
        ]

    run()
    file = node.data / "train-00001.bin"
    content = file.read_bytes()
    file.unlink()
    file.with_name("train-00001.bin.part").write_bytes(content[: chunk + 100])  # torn
    assert run() == [("train-00001.bin", chunk), ("train-00001.bin", 2 * chunk)]
    for damaged in (content[:-1], b"x" + content[1:]):
        file.write_bytes(damaged)
        assert len(run()) == 3
    assert run() == []


def test_bad_bytes_are_asked_for_again_and_named(tmp_path: Path, prepared: Path) -> None:
    donors = Donors(prepared)
    node = Node(tmp_path, spec_of("elsewhere"), donors, prepared)
    bad = iter([True, False, True])
    donors.spoil = lambda data: b"?" * len(data) if next(bad, False) else data

    async def main() -> None:
        async with node.serving():
            await until(lambda: whole(node, prepared))

    asyncio.run(main())
    open_rows(node.data)
    assert any("damaged" in sentence and ".b3" in sentence for sentence in node.sentences)


def test_every_source_of_a_mixture_is_fetched(tmp_path: Path, prepared: Path) -> None:
    other = make(tmp_path / "other", "books")
    donors = Donors(prepared, other)
    node = Node(tmp_path / "home", spec_of("a", "b"), donors, prepared, other)

    async def main() -> None:
        async with node.serving():
            node.want(ChunkId(1, 0, 1))
            await until(lambda: node.chunk(ChunkId(1, 0, 1), node.data / "s1"))
            await until(lambda: whole(node, prepared, node.data / "s0"))
            await until(lambda: whole(node, other, node.data / "s1"))

    asyncio.run(main())
    assert (node.data / "s1" / "train-00000.bin").read_bytes() == (
        other / "train-00000.bin"
    ).read_bytes()


def test_a_program_of_its_own_finds_everything_before_it_starts(
    tmp_path: Path, prepared: Path
) -> None:
    spec = from_table(
        {
            "model": {"preset": "custom", "program": ["python", "x.py"]},
            "data": {"source": "elsewhere", "seq_len": T},
        }
    )
    node = Node(tmp_path, spec, Donors(prepared), prepared)
    asyncio.run(node.fetch.provide(node.node, node.genesis))
    open_rows(node.data)


def test_a_folder_that_this_machine_has_is_used_in_place_and_never_changed(
    tmp_path: Path, prepared: Path
) -> None:
    own = make(tmp_path / "own", "web")
    donors = Donors(prepared)
    node = Node(tmp_path / "home", spec_of(str(own)), donors, prepared)
    asyncio.run(node.fetch.provide(node.node, node.genesis))
    assert node.data.resolve() == own and donors.asked == [] and node.fetch.own_bytes == 0
    (own / "train-00000.b3").write_bytes(b"damaged")
    again = Node(tmp_path / "home", spec_of(str(own)), donors, prepared)
    with pytest.raises(CorruptState, match=r"train-00000\.b3 is damaged or missing"):
        asyncio.run(again.fetch.provide(again.node, again.genesis))
    assert (own / "train-00000.b3").read_bytes() == b"damaged"


@pytest.mark.parametrize("names", [[(0, 99, 0)], [(7, 0, 0)], [(0, 0, 3)], [(-1, 0, 0)]])
def test_a_wish_for_what_does_not_exist_harms_nobody(
    tmp_path: Path, prepared: Path, names: Sequence[tuple[int, int, int]]
) -> None:
    node = Node(tmp_path, spec_of("elsewhere"), Donors(prepared), prepared)

    async def main() -> None:
        async with node.serving():
            node.want(*(ChunkId(*n) for n in names), ChunkId(0, 0, 0))
            await until(lambda: node.chunk(ChunkId(0, 0, 0)) or whole(node, prepared))

    asyncio.run(main())


# ---- from a store ------------------------------------------------------------------------------


def fetched(node: Node, *names: ChunkId) -> list[bytes]:
    """What the cache holds when all of these have come."""

    async def main() -> None:
        async with node.serving():
            node.want(*names, waiting=True)
            await until(lambda: all(node.chunk(n) for n in names))

    asyncio.run(main())
    return [node.chunk(n) for n in names]


WISHES = (ChunkId(0, 1, 0), ChunkId(0, 1, 2), ChunkId(0, 0, 1))


def test_a_store_is_read_by_ranges_and_only_what_is_trained(
    tmp_path: Path, prepared: Path, store: RangeServer
) -> None:
    node = Node(tmp_path, spec_of(store.url), Donors(prepared), prepared)
    assert fetched(node, *WISHES) == [expected(prepared, n) for n in WISHES]
    assert store.asked["train-00001.bin"] == 2 and store.asked["train-00000.bin"] == 1
    assert "train-00002.bin" not in store.asked
    assert not list(node.data.glob("train-*.bin"))
    tokens = sum(p.stat().st_size for p in prepared.glob("train-*.bin"))
    assert store.bytes_sent < tokens / 2
    assert node.sentences == []


def test_the_cache_of_a_store_stays_within_its_limit(
    tmp_path: Path, prepared: Path, store: RangeServer
) -> None:
    """Three chunks fit; many are read one after the other."""
    node = Node(tmp_path, spec_of(store.url), Donors(prepared), prepared)
    names = [ChunkId(0, shard, number) for shard in range(3) for number in range(3)]

    async def main() -> None:
        async with node.serving():
            for name in names:
                node.want(name)
                await until(lambda name=name: node.chunk(name))  # type: ignore[misc]
                assert node.cache.stored_bytes <= 3 * 16 * (T + 1) * 2

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["503", "truncated", "damaged", "slow", "gone"])
def test_a_store_that_misbehaves_delays_and_is_named(
    tmp_path: Path, prepared: Path, store: RangeServer, fault: str
) -> None:
    """Each token file fails some times at first."""

    def again(name: str) -> bool:
        return name.startswith("train") and name.endswith(".bin") and store.asked[name] <= 6

    if fault == "503":
        store.status = lambda name: 503 if again(name) else 0
    elif fault == "gone":
        store.status = lambda name: 404 if again(name) else 0
    elif fault == "truncated":
        store.truncate = again
    elif fault == "damaged":
        store.spoil = lambda name, data: b"?" * len(data) if again(name) else data
    else:
        store.delay_s = 0.2
    node = Node(tmp_path, spec_of(store.url), Donors(), prepared)
    node.node.mesh.blobs = Donors(prepared)
    node.node.mesh.blobs._files = {
        name: path
        for name, path in node.node.mesh.blobs._files.items()
        if not path.name.endswith(".bin")  # nodes of such a run hold no token files
    }
    assert fetched(node, *WISHES) == [expected(prepared, n) for n in WISHES]
    if fault in ("damaged", "gone"):
        assert any("chunk" in s and "train-0000" in s for s in node.sentences)
    if fault == "damaged":
        assert any(f"damaged from {store.url}" in s for s in node.sentences)


def test_a_store_that_is_down_is_replaced_by_nodes_that_hold_the_files(
    tmp_path: Path, prepared: Path, store: RangeServer
) -> None:
    store.status = lambda _: 404
    node = Node(tmp_path, spec_of(store.url), Donors(prepared), prepared)
    assert fetched(node, *WISHES) == [expected(prepared, n) for n in WISHES]


def test_plain_http_beyond_this_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not encrypted; use https"):
        spec_of("http://example.org/data")
    with pytest.raises(ConfigError, match="is not encrypted; use https"):
        spec_of("http://example.org/data", "b")
    spec_of("https://example.org/data")
    spec_of("s3://bucket/data")
