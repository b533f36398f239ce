"""Archives of real processes: every machine is lost, and the run goes on from its archive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import (
    ENDLESS,
    Running,
    Swarm,
    assert_one_sentence,
    command,
    quad_spec,
    records_of,
    until,
)

from farflung.archive.index import INDEX
from farflung.events import SnapshotUploaded, UploadProgress
from farflung.swarm.identity import Identity
from farflung.swarm.ledger import audit
from farflung.swarm.records import Commit
from farflung.swarm.recovery import parse_recovery

pytestmark = pytest.mark.slow
OFTEN = {"swarm": {"snapshot_every": 8}}
SURE = "--old-host-is-stopped"


def key_of(swarm: Swarm) -> str:
    return (swarm.folder("host") / "recovery.key").read_text().strip()


def archived(swarm: Swarm, archive: Path, rounds: int = 20) -> str:
    """A run with two peers that has uploaded; all killed. Its recovery key."""
    swarm.host("--upload", str(archive))
    swarm.join("a")
    swarm.join("b")
    uploads = lambda: [e for e in swarm.events("host", SnapshotUploaded) if e.next_round]  # noqa: E731
    until(lambda: uploads() and swarm.n_committed() >= rounds, "a snapshot is archived")
    key = key_of(swarm)
    swarm.kill_all()
    return key


def listed(archive: Path, *arguments: str) -> Any:
    done = command(archive.parent, "snapshots", str(archive), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def resumed(swarm: Swarm, source: Path, key: str, *arguments: str) -> Running:
    """The run hosted again in the host's home."""
    running = swarm.spawn(
        "host", "resume", str(source), "--recovery-key", key, SURE, "--bind", "127.0.0.1:0",
        *arguments,
    )  # fmt: skip
    until(lambda: "farflung join ff1" in running.text or running.process.poll() is not None, "up")
    assert running.process.poll() is None, running.text
    return running


def test_a_run_whose_machines_are_all_lost_goes_on_with_more_peers(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with Swarm(tmp_path / "swarm", quad_spec(outer={"rounds": 90}, **OFTEN)) as swarm:
        key = archived(swarm, archive)
        secrets = parse_recovery(key)
        content = b"".join(p.read_bytes() for p in archive.rglob("*") if p.is_file())
        run_key = Identity.from_seed(secrets.run_seed)
        for secret in (b"PRIVATE KEY", secrets.run_seed, secrets.ca_seed, run_key.private_pem):
            assert secret not in content
        found = listed(archive, "--verify")
        newest = found["snapshots"][-1]
        assert newest["damage"] == "" and newest["round"] > 0 and newest["reaches"] >= 7
        before = [r for r in swarm.commits() if r.round <= newest["reaches"]]
        for name in ("host", "a", "b"):
            shutil.rmtree(swarm.home(name))
        host = resumed(swarm, archive, key, "--upload", str(archive), "--upload-keep", "2")
        assert f"results up to round {newest['reaches']}" in host.text
        for name in ("c", "d", "e"):
            swarm.join(name)
        assert host.wait() == 0, host.text
        commits = swarm.commits()
        assert commits[: len(before)] == before and commits[-1].round >= 89
        assert max(len(c.contributors) for c in commits[len(before) :]) == 3
        result = audit(swarm.records())
        assert (result.duplicated, result.lost) == (0, 0)
        after = listed(archive, "--verify")["snapshots"]
        assert after[-1]["reaches"] == commits[-1].round and len(after) == 3
        assert (archive / INDEX).is_file() and not list(archive.rglob(".*.tmp"))


def test_a_host_that_is_killed_while_it_uploads_leaves_a_whole_archive(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    spec = quad_spec(model={"preset": "quadratic", "parameters": 1_000_000}, **ENDLESS, **OFTEN)
    with Swarm(tmp_path / "swarm", spec) as swarm:
        swarm.host("--upload", str(archive), "--upload-rate", "10MB/s")
        for name in ("a", "b"):
            swarm.join(name)
        blobs = archive / "blobs"
        for _ in range(2):
            seen = len(swarm.events("host", SnapshotUploaded))
            until(lambda seen=seen: len(swarm.events("host", SnapshotUploaded)) > seen, "one more")
            there = len(list(blobs.iterdir()))
            until(lambda n=there: len(list(blobs.iterdir())) > n, "the next one is on its way")
            next(each for each in reversed(swarm.started) if each.name == "host").kill()
            assert all(not s["damage"] for s in listed(archive, "--verify")["snapshots"])
            swarm.host_again()
        assert not [e for e in swarm.events("host", UploadProgress) if e.here > e.total]


def test_a_nodes_folder_is_resumed_from_and_what_could_fork_is_refused(tmp_path: Path) -> None:
    with Swarm(tmp_path / "swarm", quad_spec(**ENDLESS, **OFTEN)) as swarm:
        key = archived(swarm, tmp_path / "archive")
        backup = tmp_path / "backup"
        shutil.copytree(swarm.folder("a"), backup)
        commits = [
            r for r in records_of((backup / "journal.bin").read_bytes()) if type(r) is Commit
        ]
        new, where = tmp_path / "new", str(backup)
        done = command(new, "resume", where, "--recovery-key", key)
        assert_one_sentence(done, "two coordinators would fork the run", SURE)
        assert_one_sentence(command(new, "resume", where, SURE), "needs the recovery key")
        done = command(new, "resume", "nowhere", "--recovery-key", key, SURE)
        assert_one_sentence(done, "nowhere is no folder here", "s3://")
        done = command(new, "resume", str(tmp_path), "--recovery-key", key, SURE)
        assert_one_sentence(done, "holds no snapshot")
        done = command(swarm.home("host"), "resume", where, "--recovery-key", key, SURE)
        assert_one_sentence(done, "holds a journal", "move the folder away")
        assert not list(new.rglob("journal.bin"))
        shutil.rmtree(swarm.home("host"))
        resumed(swarm, backup, key)
        for name in ("a", "c"):
            swarm.join(name)
        before = len(commits)
        until(lambda: len(swarm.commits()) >= before + 5, "the run goes on")
        assert swarm.commits()[:before] == commits


def test_a_damaged_archive_is_named_and_other_mistakes_are_one_sentence(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with Swarm(tmp_path / "swarm", quad_spec(**ENDLESS, **OFTEN)) as swarm:
        key = archived(swarm, archive)
    rows = listed(archive)["snapshots"]
    victim = archive / "blobs" / rows[-1]["manifest"]
    victim.write_bytes(b"{}")
    done = command(tmp_path, "snapshots", str(archive))
    assert done.returncode == 1 and f"DAMAGED: {victim} is damaged" in done.stderr
    assert "DAMAGED" in done.stdout.splitlines()[-1]
    done = command(
        tmp_path / "new", "resume", str(archive), "--recovery-key", key, SURE, "--fetch-only"
    )
    assert done.returncode == 0 and "an older one is taken" in done.stdout, done.stderr
    assert (tmp_path / "new" / "quad" / "host" / "journal.bin").exists()
    done = command(tmp_path, "host", "--upload", "gs://x/y")
    assert done.returncode == 2
    spec = tmp_path / "swarm" / "spec.json"
    for arguments, words in (
        (["--upload", "gs://x/y"], ["gs://x/y", "s3://BUCKET/PREFIX"]),
        (["--upload-keep", "3"], ["nothing is uploaded", "--upload"]),
        (["--upload", str(archive), "--no-keeper"], ["--no-keeper"]),
        (["--upload", str(archive), "--upload-rate", "fast"], ["--upload-rate 'fast'"]),
    ):
        done = command(tmp_path / "other", "host", "--spec-json", str(spec), *arguments)
        assert_one_sentence(done, *words)
