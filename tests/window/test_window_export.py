"""`farflung report`: files that open from a disk, the same ones every time."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from synthetic import Options, view_of, write_folder
from typer.testing import CliRunner

from farflung.cli.main import app
from farflung.errors import UserError
from farflung.monitor.view import View
from farflung.window import export
from farflung.window.export import check_out, moments_for, script_json
from farflung.window.reading import events_of, records_of, resolved_rounds

OPTIONS = Options(peers=12, rounds=60, seed=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("run") / "host"
    write_folder(OPTIONS, found)
    return found


def report(*words: object) -> str:
    done = CliRunner().invoke(app, ["report", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def called(path: Path, function: str) -> list[Any]:
    """The arguments of the one call that a data file is."""
    text = path.read_text(encoding="ascii")
    found = re.fullmatch(rf"{function}\((.*)\);\n", text, re.DOTALL)
    assert found is not None
    assert not set("<>&") & set(text)
    return json.loads(f"[{found[1]}]")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_folder_that_is_read_is_the_run_that_was_written(folder: Path) -> None:
    view = View()
    view.take(records_of(folder), events_of(folder))
    assert view.frame(0.0) == view_of(OPTIONS).frame(0.0)
    assert resolved_rounds(folder) == OPTIONS.rounds


def test_a_report_replays_the_run(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    said = report(folder, "--html", out)
    assert "60 moments" in said and str(out / "index.html") in said
    page = (out / "index.html").read_text()
    assert 'content="replay"' in page and "http" not in re.sub(r"<!--.*?-->", "", page)
    (replay,) = called(out / "data" / "run.js", "farflung")
    assert replay["version"] == 1
    assert replay["frame"]["head"]["state"] == "stopped"
    moments = replay["moments"]
    assert [m["round"] for m in moments] == list(range(60))
    tokens = replay["frame"]["rounds"]["tokens"]
    for index, place in enumerate(moments):
        number, moment = called(out / place["file"], "farflung_moment")
        assert number == index
        assert moment["head"]["at"] == place["at"]
        assert moment["head"]["tokens"] == tokens[index]
        assert moment["timelines"]
        assert [line["serial"] for line in moment["lines"]] == sorted(
            (line["serial"] for line in moment["lines"]), reverse=True
        )
    assert [m["at"] for m in moments] == sorted(m["at"] for m in moments)


def test_the_same_run_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    report(folder, "--html", tmp_path / "a")
    before = digests(tmp_path / "a")
    report(folder, "--html", tmp_path / "a")  # over itself
    report(folder, "--html", tmp_path / "b")
    assert digests(tmp_path / "a") == before == digests(tmp_path / "b")


def test_a_log_that_is_being_written_is_read_as_far_as_it_is_whole(
    folder: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "run"
    torn.mkdir()
    for name, cut in (("journal.bin", 40), ("events.jsonl", 33), ("host.json", 0)):
        data = (folder / name).read_bytes()
        (torn / name).write_bytes(data[: len(data) - cut])
    lines = (torn / "events.jsonl").read_bytes().split(b"\n")
    lines[5:5] = [b'{"kind": "RoundCommi', b"\x00\xff", b'{"kind": "Martian", "x": 1}', b"[]"]
    (torn / "events.jsonl").write_bytes(b"\n".join(lines))
    report(torn, "--json", tmp_path / "frame.json")
    frame = json.loads((tmp_path / "frame.json").read_text())
    assert frame["head"]["rounds"] == view_of(OPTIONS).head(0.0)["rounds"]


def test_rounds_as_csv_and_the_frame_as_json(folder: Path, tmp_path: Path) -> None:
    report(folder, "--csv", tmp_path / "rounds.csv", "--json", tmp_path / "frame.json")
    rows = list(csv.DictReader((tmp_path / "rounds.csv").read_text().splitlines()))
    frame = json.loads((tmp_path / "frame.json").read_text())
    assert [int(row["round"]) for row in rows] == list(range(60))
    losses = [None if row["loss"] == "" else float(row["loss"]) for row in rows]
    assert losses == frame["rounds"]["loss"]


def test_what_is_no_tag_and_no_line_in_a_script_is_still_the_same_text() -> None:
    value = {"</script>": ["<!--", "]]>", "\u2028\u2029", "&lt;", "名前\U0001f9a6"]}
    text = script_json(value)
    assert text.isascii() and not set("<>&\n") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON compliant"):
        script_json(float("nan"))


@pytest.mark.parametrize(("rounds", "peers"), [(1, 1), (60, 8), (100_000, 8), (100_000, 1000)])
def test_large_runs_get_fewer_moments_and_small_ones_one_a_round(rounds: int, peers: int) -> None:
    count = moments_for(rounds, peers)
    assert count == rounds if rounds <= 60 else 60 <= count <= 240
    assert moments_for(rounds, 8) >= count


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "nothing is asked for; give --html FOLDER, --png FILE, --csv FILE or --json FILE"),
        (["--csv", "nowhere/x.csv"], "name a file in a folder that is there"),
        (["--html", "full"], "holds other files; give --html an empty folder"),
        (["--html", "file"], "is a file; give a folder"),
    ],
)
def test_mistakes_are_one_sentence(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=re.escape(sentence)):
        report(folder, *words)
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"


def test_a_package_without_its_page_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "STATIC", tmp_path / "none")
    with pytest.raises(UserError, match="comes without its web page"):
        report(folder, "--html", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_no_such_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARFLUNG_HOME", str(tmp_path))
    with pytest.raises(UserError, match="holds no run named 'nothing'"):
        report("nothing", "--html", tmp_path / "page")


def test_an_earlier_report_may_be_written_over(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "run.js").write_text("farflung({});\n")
    check_out(tmp_path)
    check_out(tmp_path / "not there yet")
