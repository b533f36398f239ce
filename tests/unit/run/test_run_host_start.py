"""A host that dies while it creates its run creates it, or goes on with it, at the next start."""

from __future__ import annotations

import contextvars
import itertools
from pathlib import Path

import pytest

from farflung.config.load import from_table
from farflung.data.prepare import prepare
from farflung.data.split import Document
from farflung.data.tokenizer import load_tokenizer
from farflung.errors import ConfigError
from farflung.failpoints import EVERY, Killed, arm
from farflung.run.host import HostOptions, open_host

SPEC = from_table(
    {
        "name": "start",
        "model": {"preset": "quadratic", "parameters": 2048},
        "data": {"source": "synthetic", "rows": 1000, "seq_len": 16},
        "outer": {"chunk_elements": 256},
    }
)


def die() -> None:
    raise Killed


def create(folder: Path, bind: str = "127.0.0.1:7000") -> tuple[str, str, str]:
    """(run in the settings, run in the journal, bind)."""
    host = open_host(folder, SPEC, HostOptions(bind=bind), say=lambda _: None)
    if host.index is not None:
        host.index.close()
    host.log.close()
    return host.settings.run, host.genesis.run, host.settings.bind


def dies(folder: Path, at: int) -> bool:
    """Create, and die at this failpoint; False when there are fewer."""
    arm(EVERY, at, die)
    try:
        create(folder)
    except Killed:
        return True
    return False


def test_a_run_is_created_whenever_an_earlier_start_died(tmp_path: Path) -> None:
    for at in itertools.count(1):
        folder = tmp_path / str(at) / "host"
        died = contextvars.copy_context().run(dies, folder, at)
        settings, journal, _ = create(folder)
        assert settings == journal, f"death at failpoint {at}"
        left = [p.name for p in folder.rglob("*.tmp")]
        assert not left, f"death at failpoint {at} left {left}"
        if not died:
            break
    assert at > 8


def test_a_start_that_made_no_run_does_not_decide_where_the_next_one_listens(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "host"
    assert contextvars.copy_context().run(dies, folder, 6)
    assert create(folder, "127.0.0.1:7100")[2] == "127.0.0.1:7100"


@pytest.mark.parametrize("again", [SPEC, None])
@pytest.mark.parametrize("bind", [None, "127.0.0.1:7100"])
def test_a_run_keeps_its_address_until_it_is_told_another(
    tmp_path: Path, again: object, bind: str | None
) -> None:
    folder = tmp_path / "host"
    create(folder)
    spec = SPEC if again else None
    host = open_host(folder, spec, HostOptions(bind=bind), say=lambda _: None)
    assert host.settings.bind == (bind or "127.0.0.1:7000")
    host.log.close()
    if host.index is not None:
        host.index.close()


@pytest.mark.parametrize("born", [False, True])
def test_a_limit_that_is_refused_is_not_remembered(tmp_path: Path, born: bool) -> None:
    """Before the invite is shown: the next start, without a limit, works."""
    folder = tmp_path / "quad" / "host"
    if born:
        create(folder)
    small, spec = HostOptions(max_disk_bytes=1000), None if born else SPEC
    with pytest.raises(ConfigError, match=r"--max-disk 1000 bytes is below the 44\.1 KiB"):
        open_host(folder, spec, small, say=lambda _: None)
    assert folder.exists() == born  # a birth that is refused leaves nothing
    create(folder)


def test_a_wrong_row_length_names_the_folder_that_its_owner_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = [Document("a", "words " * 200)]
    prepare(text, load_tokenizer("bytes"), 32, Path("mine"), held_out_fraction=0.0)
    data = {"source": "mine", "tokenizer": "bytes", "seq_len": 16}
    spec = from_table({"model": {"preset": "demo"}, "data": data})
    told = "data.seq_len=16, but mine holds rows of 32 tokens; set data.seq_len = 32, or prepare"
    with pytest.raises(ConfigError, match=told):
        open_host(tmp_path / "home" / "run" / "host", spec, HostOptions(), say=lambda _: None)
    assert not (tmp_path / "home" / "run").exists()
