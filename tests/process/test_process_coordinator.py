"""The coordinator's hard days: killed at any moment, keys and journal lost, told otherwise."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from processes import ENDLESS, Swarm, assert_one_sentence, quad_spec

from farflung.swarm.recovery import parse_recovery


def test_the_recovery_key_is_shown_once_and_kept_private(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS)) as swarm:
        first = swarm.host()
        path = swarm.folder("host") / "recovery.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().strip() in first.text
        assert parse_recovery(path.read_text()).run_name == swarm.spec.name
        first.kill()
        assert "ffr1" not in swarm.host_again().text


def test_the_recovery_key_goes_to_a_file_when_one_is_named(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS)) as swarm:
        backup = tmp_path / "backup.key"
        host = swarm.host("--recovery-file", str(backup))
        assert "ffr1" not in host.text
        assert backup.read_text() == (swarm.folder("host") / "recovery.key").read_text()
        host.kill()
        backup.write_text("something else")
        done = swarm.run("host", "host", "--recovery-file", str(backup))
        assert_one_sentence(done, str(backup), "name another file")


@pytest.mark.parametrize("place", ["keys", "authority", "genesis"])
def test_a_host_that_is_killed_at_its_birth_is_born_again(tmp_path: Path, place: str) -> None:
    """Between its first key and its settings nothing is worth keeping except a whole GENESIS."""
    patches = {
        "keys": "farflung.run.birth.RunAuthority.create = die",
        "authority": "farflung.run.birth.make_material = die",
        "genesis": "farflung.run.birth.save_settings = die",
    }
    patch = f"import os, farflung.run.birth\ndef die(*a, **k): os._exit(137)\n{patches[place]}"
    with Swarm(tmp_path, quad_spec(outer={"rounds": 3}, swarm={"start_peers": 1})) as swarm:
        born = swarm.spawn(
            "host", "host", "--spec-json", str(tmp_path / "spec.json"), "--bind", "127.0.0.1:0",
            patch=patch,
        )  # fmt: skip
        assert born.wait() == 137
        host = swarm.host()
        swarm.join("a")
        assert host.wait() == 0
        assert swarm.verify().returncode == 0


@pytest.mark.parametrize("name", ["run.key", "ca.pem", "journal.bin"])
def test_a_host_that_lost_a_file_does_not_make_another(tmp_path: Path, name: str) -> None:
    with Swarm(tmp_path, quad_spec()) as swarm:
        swarm.host().kill()
        path = swarm.folder("host") / name
        path.unlink()
        for arguments in (["host"], ["host", "--spec-json", str(tmp_path / "spec.json")]):
            done = swarm.run("host", *arguments)
            assert_one_sentence(done, "lost its", "--restore-from")
            assert not path.exists() or path.stat().st_size <= 12  # at most an empty journal


def test_a_continued_host_listens_where_it_is_told_this_time(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS)) as swarm:
        swarm.host().kill()
        first = swarm.endpoint
        again = swarm.again("--bind", "127.0.0.1:0", "--advertise", "localhost:1")
        assert swarm.endpoint != first
        again.kill()
        second = swarm.endpoint
        swarm.host_again().kill()
        assert swarm.endpoint == second
