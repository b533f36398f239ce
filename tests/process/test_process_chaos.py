"""`farflung chaos` as people run it: a real storm, a real verdict."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from processes import assert_one_sentence, command

from farflung.chaos.schedule import Kind

SHORT_S = 240.0
ROWS = {"S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "L1", "L2", "L3", "L4", "P1"}


def storm(tmp_path: Path, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """The report of a storm that must pass; its output on failure."""
    report = tmp_path / "report.json"
    done = command(
        tmp_path,
        *("chaos", "--report", str(report), "--keep", str(tmp_path / "kept"), *arguments),
        timeout_s=timeout_s,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    assert found["passed"]
    assert {row["key"] for row in found["rows"]} == ROWS
    for row in found["rows"]:
        assert row["checks"] > 0, row
        assert row["violations"] == 0, row
    return found


def test_twenty_seconds_with_one_of_each_fault_keep_every_promise(tmp_path: Path) -> None:
    found = storm(tmp_path, "--minutes", "0.34", "--seed", "1", timeout_s=SHORT_S)
    faults = found["figures"]["faults"]
    wanted = {Kind.KILL, Kind.KILL_HOST, Kind.STOP, Kind.PARTITION, Kind.JOIN, Kind.DOUBLE}
    assert set(faults) >= {str(kind) for kind in wanted}
    assert found["figures"]["rounds_committed"] >= 6
    assert found["figures"]["relay"]["unmapped"] <= found["figures"]["relay"]["connections"] / 10
    assert (tmp_path / "kept" / "host" / "chaos" / "host" / "journal.bin").exists()


@pytest.mark.slow
def test_four_minutes_hold_forty_kills_six_of_the_host_and_two_hundred_rounds(
    tmp_path: Path,
) -> None:
    found = storm(tmp_path, "--minutes", "4", "--seed", "6", timeout_s=900.0)
    figures = found["figures"]
    assert figures["faults"][str(Kind.KILL)] >= 40
    assert figures["faults"][str(Kind.KILL_HOST)] >= 6
    assert figures["rounds_committed"] >= 200


def test_ctrl_c_ends_the_storm_early_and_judges_what_was(tmp_path: Path) -> None:
    report, kept = tmp_path / "report.json", tmp_path / "kept"
    program = [sys.executable, "-m", "farflung", "chaos", "--minutes", "10", "--peers", "3"]
    process = subprocess.Popen(
        [*program, "--report", str(report), "--keep", str(kept)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        events = kept / "host" / "chaos" / "host" / "events.jsonl"
        end_s = time.monotonic() + SHORT_S
        while not (events.exists() and events.read_bytes().count(b'"RoundCommitted"') >= 6):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end_s
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        text = process.communicate(timeout=SHORT_S)[0]
    finally:
        process.kill()
    assert process.returncode == 130, text
    found = json.loads(report.read_text())
    assert found["interrupted"]
    assert found["verify"]["commits"] >= 6
    assert "interrupted" in text
    assert not [line for line in processes_below(kept) if line]


def processes_below(folder: Path) -> list[str]:
    """Command lines of processes whose FARFLUNG_HOME lies below this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"FARFLUNG_HOME={folder}".encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--peers", "2"), ("--peers 2", "3 to 50")),
        (("--minutes", "0"), ("--minutes 0", "at least")),
        (("--report", "/none/x.json"), ("/none",)),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_one_sentence(command(tmp_path, "chaos", *arguments), *words)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = command(tmp_path, "chaos", "--keep", str(tmp_path))
    assert_one_sentence(done, "is not empty", "--keep")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
