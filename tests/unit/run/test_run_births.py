"""A birth that fails leaves nothing, and a host's folder can be moved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.data.prepare import prepare
from farflung.data.shards import open_rows
from farflung.data.split import Document
from farflung.data.tokenizer import load_tokenizer
from farflung.errors import ConfigError, StorageError, UserError
from farflung.run import host_data, host_folder
from farflung.run.home import locked
from farflung.run.host import Host, HostOptions, open_host


def corpus(folder: Path, word: str) -> Path:
    documents = [Document(str(i), f"{word} {i} " * 60) for i in range(40)]
    prepare(documents, load_tokenizer("bytes"), 16, folder, held_out_fraction=0.2)
    return folder


def spec_of(source: object) -> RunSpec:
    return from_table(
        {
            "name": "born",
            "model": {"preset": "quadratic", "parameters": 2048},
            "data": {"source": str(source), "rows": 1000, "seq_len": 16, "tokenizer": "bytes"},
            "outer": {"chunk_elements": 256},
        }
    )


def start(folder: Path, spec: RunSpec | None, **options: object) -> Host:
    """As `farflung host` does it, without serving."""
    with locked(folder):
        host = open_host(folder, spec, HostOptions(**options), say=lambda _: None)  # type: ignore[arg-type]
    host.log.close()
    if host.index is not None:
        host.index.close()
    return host


def raiser(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "step", ["place_sources", "make_weights", "genesis_record", "open_journal"]
)
@pytest.mark.parametrize(
    "error", [UserError("a mistake"), StorageError("full"), KeyboardInterrupt(), OSError("why")]
)
def test_a_birth_that_fails_leaves_nothing_and_the_next_one_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    home, wrong, right = tmp_path / "home", corpus(tmp_path / "w", "w"), corpus(tmp_path / "r", "r")
    with monkeypatch.context() as patch:
        patch.setattr(host_folder, step, raiser(error))
        with pytest.raises(type(error)):
            start(home / "born" / "host", spec_of(wrong))
    assert list(home.iterdir()) == []
    host = start(home / "born" / "host", spec_of(right))
    assert host.genesis.data[0].manifest == host_folder.digest(
        (right / "manifest.json").read_bytes()
    )


def test_a_killed_births_data_gives_way_to_that_of_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "born" / "host"
    corpus(folder / "data", "left over")
    (tmp_path / "born" / "keeper" / "blobs").mkdir(parents=True)
    right = corpus(tmp_path / "right", "right")
    start(folder, spec_of(right))
    assert open_rows(folder / "data").manifest == open_rows(right).manifest


@pytest.mark.parametrize("what", ["missing", "file", "empty"])
def test_a_source_without_shards_is_refused_at_once(tmp_path: Path, what: str) -> None:
    source = tmp_path / "source"
    if what == "file":
        source.write_text("text")
    if what == "empty":
        source.mkdir()
    with pytest.raises((UserError, ConfigError), match=r"farflung data prepare"):
        start(tmp_path / "home" / "born" / "host", spec_of(source))
    assert not list((tmp_path / "home").glob("*"))


def test_nothing_that_was_there_before_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "born" / "host"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError):
        start(folder, spec_of(tmp_path / "nowhere"))
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_keeper_that_holds_a_run_is_not_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "born" / "host"
    start(folder, spec_of("synthetic"))
    keeper = tmp_path / "born" / "keeper"
    shutil.copy(folder / "journal.bin", keeper / "journal.bin")
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="--restore-from"):
        start(folder, spec_of("synthetic"))
    assert (keeper / "journal.bin").exists()
    assert not folder.exists()


@pytest.mark.parametrize("linked", [True, False])
def test_a_moved_host_goes_on_with_its_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    source = corpus(tmp_path / "source", "word")
    if not linked:
        monkeypatch.setattr(host_data.os, "link", raiser(OSError("another disk")))
    start(tmp_path / "home" / "born" / "host", spec_of(source))
    rows = len(open_rows(source).train)
    shutil.rmtree(source)
    moved = (tmp_path / "home").rename(tmp_path / "moved") / "born"
    start(moved / "host", None)
    assert len(open_rows(moved / "host" / "data").train) == rows
    for path in moved.rglob("*"):
        assert not path.is_symlink()
        told = path.is_file() and str(tmp_path / "home").encode() in path.read_bytes()
        assert not told, f"{path} names the folder in which it was made"


def test_a_copy_that_does_not_fit_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = corpus(tmp_path / "source", "word")
    monkeypatch.setattr(host_data.os, "link", raiser(OSError("another disk")))
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr(host_data.shutil, "disk_usage", lambda _: full)
    with pytest.raises(UserError, match="free some"):
        start(tmp_path / "home" / "born" / "host", spec_of(source))
    assert not list((tmp_path / "home").glob("*"))


def test_a_link_of_an_earlier_version_that_leads_nowhere_gives_way(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.symlink_to(tmp_path / "gone")
    host_data.forget_broken_link(data)
    assert not data.is_symlink()
    data.symlink_to(corpus(tmp_path / "here", "word"))
    host_data.forget_broken_link(data)
    assert data.is_symlink()
