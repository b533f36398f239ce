"""`status`, `verify` and `resume` name a run as `export` and `generate` do."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from farflung.cli.main import app
from farflung.config.load import from_table
from farflung.errors import UserError
from farflung.run.host import HostOptions, open_host

NOBODY = "127.0.0.1:1"


def host(home: Path, name: str) -> Path:
    """A run that was born and does not run."""
    table = {
        "name": name,
        "model": {"preset": "quadratic", "parameters": 2048},
        "data": {"source": "synthetic", "rows": 1000, "seq_len": 16},
    }
    folder = home / name / "host"
    made = open_host(folder, from_table(table), HostOptions(bind=NOBODY), say=lambda _: None)
    made.log.close()
    if made.index is not None:
        made.index.close()
    return folder


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FARFLUNG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_run_is_named_by_its_name_or_any_folder_above_it(home: Path) -> None:
    folder = host(home, "one")
    for words in (["one"], ["--run", "one"], [folder], [home / "one"], [home], []):
        said = call("status", *words)
        assert said.exit_code == 0, (words, said.output, said.exception)
        assert "\none (" in said.output and "not running" in said.output
    by_name, by_folder = call("verify", "one"), call("verify", home / "one")
    assert str(by_name.exception) == str(by_folder.exception)  # it has nothing to verify yet
    assert "no genesis snapshot" in str(by_name.exception)
    for verb in ("status", "verify", "resume"):
        assert "two" in str(call(verb, "two").exception)
    both = call("status", "one", "--run", "two")
    assert isinstance(both.exception, UserError) and "leave one of them out" in str(both.exception)


def test_a_folder_of_several_runs_needs_a_choice(home: Path) -> None:
    host(home, "one"), host(home, "two")
    said = call("status", home)
    assert isinstance(said.exception, UserError)
    assert "several runs" in str(said.exception) and "two" in str(said.exception)


@pytest.mark.parametrize("verb", ["demo", "sim", "chaos"])
def test_a_report_that_cannot_be_written_is_told_before_the_work(verb: str, home: Path) -> None:
    for path, why in ((home / "no" / "r.json", "there is no folder"), (home.parent, "is a folder")):
        said = call(verb, "--report", path)
        assert isinstance(said.exception, UserError) and why in str(said.exception)
