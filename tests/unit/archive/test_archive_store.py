"""The three stores do the same; retries, limits of time and of rate; addresses; settings."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from archive_samples import WORKERS, run

from farflung.archive.address import open_store
from farflung.archive.folder_store import FolderStore
from farflung.archive.index import ArchivedSnapshot, decode_index, kept_snapshots
from farflung.archive.memory_store import MemoryStore
from farflung.archive.retry import TRIES, RetryingStore
from farflung.archive.settings import UploadChoice, UploadSettings, chosen_upload
from farflung.archive.store import ObjectStore, StoreDenied, StoreError
from farflung.archive.throttle import Throttle
from farflung.errors import ConfigError, CorruptState, UserError

RNG = random.Random(7)


async def pieces() -> AsyncIterator[bytes]:
    for part in (b"ab", b"cd", b"e"):
        yield part


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_store_keeps_what_it_is_given(kind: str, tmp_path: Path) -> None:
    store: ObjectStore = MemoryStore()
    if kind == "folder":
        store = FolderStore(tmp_path / "new" / "folder", WORKERS)

    async def story() -> None:
        assert await store.get("a/b") is None and await store.size("a/b") is None
        assert await store.list("a") == {}
        await store.put("a/b", b"one")
        await store.put("a/b", b"other")
        await store.put_pieces("a/c", 5, pieces)
        with pytest.raises(StoreError, match="5 bytes, not 6"):
            await store.put_pieces("a/d", 6, pieces)
        await store.put("ab/c", b"not below a")
        assert await store.list("a") == {"a/b": 5, "a/c": 5}
        assert (await store.get("a/c"), await store.get_range("a/c", 1, 3)) == (b"abcde", b"bcd")
        with pytest.raises(StoreError, match="ends before byte 7"):
            await store.get_range("a/c", 4, 3)
        await store.delete("a/b")
        await store.delete("a/b")
        assert await store.size("a/b") is None and await store.size("a/c") == 5

    run(story())


def test_a_folder_that_cannot_be_used_is_a_failure_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = FolderStore(tmp_path / "file", WORKERS)
    with pytest.raises(StoreError):
        run(store.put("a", b"b"))


def test_what_fails_is_tried_again_later_each_time() -> None:
    store = MemoryStore({"a": b"b"})
    asked: list[float] = []

    def before(_operation: str, _name: str) -> None:
        asked.append(asyncio.get_running_loop().time())
        if len(asked) < TRIES:
            raise StoreError("503 Slow Down")

    store.before = before
    assert run(RetryingStore(store, RNG).get("a")) == b"b"
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert len(gaps) == TRIES - 1
    for number, gap in enumerate(gaps):
        assert 0.25 * 2**number <= gap <= 0.5 * 2**number


def test_the_last_failure_is_raised_and_a_refusal_at_once() -> None:
    for error, tries in ((StoreError("503"), TRIES), (StoreDenied("403"), 1)):
        store = MemoryStore()

        def before(_operation: str, _name: str, error: StoreError = error) -> None:
            raise error

        store.before = before
        with pytest.raises(type(error), match=str(error)):
            run(RetryingStore(store, RNG).put("a", b""))
        assert len(store.log) == tries


def test_a_store_that_never_answers_is_not_waited_for() -> None:
    store = MemoryStore()
    store.delay_s = 1e6
    with pytest.raises(StoreError, match="no answer in 60 s"):
        run(RetryingStore(store, RNG).size("a"))


def test_a_slow_uplink_has_the_time_that_its_bytes_take() -> None:
    store = MemoryStore()
    store.delay_s = 250.0  # 4 MiB at 17 kB/s
    run(RetryingStore(store, RNG).put("a", bytes(4 << 20)))
    assert len(store.log) == 1


def test_a_piece_that_came_short_is_asked_again() -> None:
    store = MemoryStore({"a": b"abcdef"})
    cuts = iter([2, 5, None])
    store.cut = lambda _name: next(cuts)
    assert run(RetryingStore(store, RNG).get_range("a", 0, 6)) == b"abcdef"


def test_the_rate_holds_over_objects() -> None:
    async def story() -> float:
        throttle = Throttle(1000.0)
        for _ in range(5):
            await throttle.spend(2000)
        return asyncio.get_running_loop().time()

    assert run(story()) == pytest.approx(8.0)  # the fifth is being sent


# ---- addresses and settings ----------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "gs://bucket/x", "s3://", "https://example.org"])
def test_an_address_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match="give s3://BUCKET/PREFIX or a folder"):
        open_store(text, WORKERS, RNG)


def test_folders_are_named_in_three_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in (str(tmp_path / "a b"), f"file://{tmp_path}/a%20b", "~/a b"):
        assert open_store(text, WORKERS, RNG).address == str(tmp_path / "a b")


def test_without_the_extra_s3_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "import random\n"
        "from farflung.archive.address import open_store\n"
        "from farflung.clock import InlineWorkers\n"
        "from farflung.errors import UserError\n"
        "try:\n    open_store('s3://b/p', InlineWorkers(), random.Random(0))\n"
        "except UserError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "s3://b/p needs the library obstore: pip install 'farflung[s3]'"


def test_a_host_remembers_what_it_was_told_until_it_is_told_otherwise(tmp_path: Path) -> None:
    assert chosen_upload(None, UploadChoice()) is None
    first = chosen_upload(None, UploadChoice(address=str(tmp_path), keep=2, bytes_per_s=1e6))
    assert first == UploadSettings(address=str(tmp_path), keep=2, bytes_per_s=1e6)
    assert chosen_upload(first, UploadChoice()) == first
    moved = chosen_upload(first, UploadChoice(address="s3://b/p", data=True))
    assert moved == UploadSettings(address="s3://b/p", keep=2, bytes_per_s=1e6, data=True)
    assert chosen_upload(first, UploadChoice(off=True)) is None
    with pytest.raises(ConfigError, match="--upload s3://"):
        chosen_upload(None, UploadChoice(keep=3))
    with pytest.raises(ConfigError, match="--upload-keep 0"):
        chosen_upload(first, UploadChoice(keep=0))
    with pytest.raises(ConfigError, match="below 0"):
        chosen_upload(first, UploadChoice(keep_days=-1.0))


# ---- the index -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff\xfe", b"[]", b'{"version": 1, "run": "r"}', b"null"]
)
def test_what_is_no_index_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptState, match=r"x/archive\.json"):
        decode_index(data, "x")


def test_the_newest_snapshots_are_kept() -> None:
    snapshots = [
        ArchivedSnapshot(
            name="00" * 32, n_bytes=1, next_round=r, state_bytes=8, tokens=0, written_at=float(r)
        )
        for r in (5, 1, 3)
    ]

    def kept(keep: int, max_age_s: float, now: float) -> list[int]:
        found = kept_snapshots(snapshots, keep=keep, max_age_s=max_age_s, now=now)
        return [s.next_round for s in found]

    assert kept(2, 0.0, 1e9) == [3, 5]
    assert kept(9, 2.0, 6.0) == [5]
    assert kept(9, 4.0, 6.0) == [3, 5]
    assert kept(9, 0.1, 1e9) == [5]
    assert kept(0, 0.0, 0.0) == [5]
