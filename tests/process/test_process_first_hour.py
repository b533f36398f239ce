"""What a new user meets in the first hour: terminals that close, hosts that are late, a run that is
finished, folders that move."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from processes import (
    ENDLESS,
    Swarm,
    command,
    environment,
    number,
    program,
    quad_spec,
    until,
)

from farflung.data.prepare import prepare
from farflung.data.split import Document
from farflung.data.tokenizer import load_tokenizer
from farflung.events import GenerationClosed, PeerUnreachable

ALONE = {"start_peers": 1, "beat_s": 0.3}


class Nohup(Swarm):
    """Peers of this swarm were started under `nohup`."""

    def place(self, name: str) -> list[str]:
        return [] if name == "host" else ["nohup"]


def test_a_terminal_that_closes_hands_the_lease_back(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS, swarm=ALONE)) as swarm:
        host = swarm.host()
        peer = swarm.join("a")
        swarm.committed(2)
        peer.signal(signal.SIGHUP)
        peer.signal(signal.SIGHUP)  # the kernel and the shell both send it
        assert peer.wait() == 0
        assert "a: left" in peer.text and "a contributed to" in peer.text
        until(lambda: swarm.events("host", GenerationClosed), "the host hears of it")
        (closed,) = swarm.events("host", GenerationClosed)
        assert closed.reason == "left: its terminal closed"
        host.signal(signal.SIGHUP)
        assert host.wait() == 0 and "run stopped" in host.text


def test_under_nohup_it_goes_on(tmp_path: Path) -> None:
    with Nohup(tmp_path, quad_spec(**ENDLESS, swarm=ALONE)) as swarm:
        swarm.host()
        peer = swarm.join("a")
        swarm.committed(2)
        peer.signal(signal.SIGHUP)
        swarm.more(3)
        assert peer.process.poll() is None
        peer.signal(signal.SIGTERM)
        assert peer.wait() == 0


def test_a_joiner_waits_for_a_host_that_is_late_and_says_so_once(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS, swarm=ALONE)) as swarm:
        swarm.host().kill()
        early, gone = swarm.join("early"), swarm.join("gone")
        for each in (early, gone):
            until(lambda e=each: "waiting for the host" in e.text, "it says that it waits")
        gone.signal(signal.SIGINT)
        assert gone.wait() == 130
        assert not list(swarm.home("gone").glob("*")), "a join that never was leaves nothing"
        swarm.host_again()
        swarm.committed(2)
        lines = early.text.splitlines()
        assert f"cannot reach {swarm.endpoint}" in lines[0]
        assert lines[1].startswith(f"early joins run quad of {swarm.endpoint}: quadratic, 100,000")
        assert early.text.count("waiting for the host") == 1
        assert "!" not in early.text


def test_a_finished_run_says_so_and_where_its_weights_are(tmp_path: Path) -> None:
    spec = quad_spec(outer={"rounds": 6}, swarm={**ALONE, "restart_grace_s": 5.0})
    with Swarm(tmp_path, spec) as swarm:
        host, peer = swarm.host(), swarm.join("a")
        assert (peer.wait(), host.wait()) == (0, 0)
        assert "run quad is finished: 6 rounds" in peer.text
        done = swarm.run("a", "join")
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()
        assert line.startswith("run quad is finished: 6 rounds") and str(swarm.folder("a")) in line
        # A newcomer, while the host serves those who missed the end.
        host = swarm.host_again()
        late = swarm.join("late")
        assert (late.wait(), host.wait()) == (0, 0)
        assert "the run is finished; fetching its last state" in late.text
        assert "run quad is finished: 6 rounds" in late.text
        assert "!" not in late.text


def test_status_counts_from_the_journal_and_says_who_is_away(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS, swarm=ALONE)) as swarm:
        host, peer = swarm.host(), swarm.join("a")
        swarm.committed(4)
        peer.signal(signal.SIGTERM)
        peer.wait()
        host.signal(signal.SIGTERM)
        host.wait()
        off = swarm.run("host", "status", "--json")
        picture = json.loads(off.stdout)
        assert off.returncode == 0 and picture["running"] is False
        before = picture["head"]["rounds"]
        assert before == len(swarm.commits()) >= 4
        assert {"name": "a", "state": "gone"}.items() <= _peer(picture, "a").items()
        said = swarm.run("a", "status").stdout
        assert "not running" in said and number(r"round (\d+) of", said) >= before - 1
        swarm.host_again()
        swarm.join_again("a")
        swarm.more(1)
        picture = json.loads(swarm.run("host", "status", "--json").stdout)
        assert picture["running"] is True and picture["head"]["rounds"] > before
        assert _peer(picture, "a")["rounds"] > before
        assert _peer(picture, "a")["samples"] > 0
        assert "MiB" in picture["head"]["keeper_disk"]
        path = swarm.folder("a") / "membership.json"
        moved = {"coordinators": ["127.0.0.1:1", swarm.endpoint]}
        path.write_text(json.dumps({**json.loads(path.read_text()), **moved}))
        asked = json.loads(swarm.run("a", "status", "--json").stdout)
        assert asked["running"] is True, "the second endpoint answers"


def _peer(picture: dict[str, dict[str, dict[str, object]]], name: str) -> dict[str, object]:
    return next(p for p in picture["peers"] if p["name"] == name)


def test_a_moved_home_goes_on(tmp_path: Path) -> None:
    """Host and peer, with data: neither needs the place where it was made, nor the source."""
    source = tmp_path / "source"
    documents = [Document(str(i), f"word {i} " * 200) for i in range(40)]
    prepare(documents, load_tokenizer("bytes"), 16, source, held_out_fraction=0.2)
    data = {"source": str(source), "tokenizer": "bytes", "seq_len": 16}
    with Swarm(tmp_path / "here", quad_spec(**ENDLESS, data=data, swarm=ALONE)) as swarm:
        host, peer = swarm.host(), swarm.join("a")
        swarm.committed(2)
        for each in (peer, host):
            each.signal(signal.SIGTERM)
            each.wait()
    shutil.rmtree(source)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = Swarm(tmp_path / "there", swarm.spec)
    with moved:
        host, peer = moved.host_again(), moved.join_again("a")
        moved.committed(moved.n_committed() + 2)
        assert "waits for the disk" not in host.text and "not here yet" not in peer.text


def test_a_peer_that_nobody_can_dial_is_told(tmp_path: Path) -> None:
    """It advertises a port at which nobody listens."""
    patch = "import farflung.run.join as j; j.LOOK_AFTER_S = j.LOOK_EVERY_S = 0.5\n"
    quick = "import farflung.run.reachability as r; r.LOOK_S = r.AGAIN_S = 0.1\n"
    with Swarm(tmp_path, quad_spec(**ENDLESS, swarm=ALONE)) as swarm:
        swarm.host().kill()
        host = swarm.host_again(patch=quick)
        arguments = ("join", swarm.invite, "--name", "a", "--advertise", "127.0.0.1:9")
        peer = swarm.spawn("a", *arguments, patch=patch)
        reached = swarm.join("b")
        until(lambda: "others cannot dial this peer" in peer.text, "its owner is told")
        assert "a cannot be dialled: cannot reach 127.0.0.1:9" in host.text
        swarm.more(2)
        assert peer.text.count("others cannot dial") == 1
        assert [e.name for e in swarm.events("host", PeerUnreachable)] == ["a"]
        assert "others cannot dial" not in reached.text


def processes_of(folder: Path) -> list[int]:
    """Processes that were started for a home below this folder."""
    wanted, found = f"FARFLUNG_HOME={folder}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.slow
def test_a_demo_whose_terminal_closes_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("demo", "--size", "tiny", "--rounds", "1000", "--out", str(out), "--no-solo")
    with (tmp_path / "log").open("wb") as log:
        demo = subprocess.Popen(
            program(arguments),
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: len(processes_of(out)) >= 4, "host and peers run")
        demo.send_signal(signal.SIGHUP)
        demo.send_signal(signal.SIGHUP)
        assert demo.wait(40) == 130
        until(lambda: not processes_of(out), "all have ended", 20)
    finally:
        demo.kill()
        for pid in processes_of(out):
            os.kill(pid, signal.SIGKILL)


def test_help_needs_no_home(tmp_path: Path) -> None:
    patch = "import pathlib\ndef no(*_): raise RuntimeError('no home')\npathlib.Path.home = no"
    done = command(tmp_path, "data", "--help", patch=patch)
    assert done.returncode == 0 and "prepare" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("who", ["host", "a"])
def test_rounds_end_while_descriptors_run_out(tmp_path: Path, who: str) -> None:
    """The process gets no further one: open links go on, newcomers wait, and it is told once."""
    with Swarm(tmp_path, quad_spec(**ENDLESS, swarm={"start_peers": 2})) as swarm:
        started = {"host": swarm.host(), "a": swarm.join("a"), "b": swarm.join("b")}
        swarm.committed(5)
        starved = started[who]
        soft, hard = resource.prlimit(starved.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(starved.process.pid, resource.RLIMIT_NOFILE, (3, hard))
        late = swarm.join("late")
        swarm.more(10)
        if who == "host":
            until(lambda: "connections cannot be accepted" in starved.text, "it is told")
        resource.prlimit(starved.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        until(lambda: "contributed" in late.text, "the newcomer is in")
        swarm.more(5)
        assert starved.text.count("connections cannot be accepted") <= 1
        assert "cannot be dialled" not in started["host"].text
        for each in started.values():
            assert each.process.poll() is None
