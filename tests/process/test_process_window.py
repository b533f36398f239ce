"""The host's window: it comes up, is started again, and goes with its host, however that ends."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from processes import ENDLESS, Running, Swarm, command, quad_spec, until

from farflung.events import RoundCommitted, RunFinished, WindowEnded, WindowOpened

pytestmark = pytest.mark.slow
WINDOW = ("--window", "127.0.0.1:0")


def get(address: str, path: str) -> Any:
    with urllib.request.urlopen(address + path, timeout=10) as answer:
        return json.load(answer)


def opened(swarm: Swarm, number: int = 1) -> str:
    """The address that the host told last, when it has told so many."""
    told = until(
        lambda: e if len(e := swarm.events("host", WindowOpened)) >= number else None,
        f"the window is open for the {number}. time",
    )
    return str(told[-1].address)


def ready_head(address: str) -> Any:
    def head() -> Any:
        try:
            return get(address, "api/v1/head")
        except (urllib.error.URLError, ConnectionError):
            return None

    return until(head, "the window has read the run")


def window_processes(folder: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"farflung.window" in words and os.fsencode(folder) in words:
            found.append(int(path.parent.name))
    return found


def started(swarm: Swarm) -> Running:
    """Like `swarm.host`, with a window."""
    words = [w for w in swarm.hosting if w != "--no-window"]
    return swarm._hosting(swarm.spawn("host", *words, *WINDOW))


def test_a_window_shows_the_run_and_is_started_again_when_it_is_killed(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS)) as swarm:
        host = started(swarm)
        swarm.join("p0")
        swarm.join("p1")
        address = opened(swarm)
        until(lambda: len(swarm.events("host", RoundCommitted)) > 3, "rounds are committed")
        until(lambda: ready_head(address)["rounds"] > 3, "the window shows them")
        assert f"dashboard: {address}" in host.text
        assert {p["name"] for p in get(address, "api/v1/peers")} >= {"p0", "p1"}

        (first,) = window_processes(swarm.folder("host"))
        os.kill(first, signal.SIGKILL)
        assert opened(swarm, 2) == address, "a page that is open finds it again"
        assert len(swarm.events("host", WindowEnded)) == 1
        rounds = len(swarm.events("host", RoundCommitted))
        until(lambda: ready_head(address)["rounds"] > rounds, "the run goes on, and is shown")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_window_ends_with_its_host(tmp_path: Path, number: signal.Signals) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS)) as swarm:
        host = started(swarm)
        opened(swarm)
        assert window_processes(swarm.folder("host"))
        host.signal(number)
        host.wait()
        until(lambda: not window_processes(swarm.folder("host")), "the window is gone")


def test_a_run_that_is_over_can_be_seen_again(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(outer={"rounds": 5})) as swarm:
        host = swarm.host()
        swarm.join("p0")
        swarm.join("p1")
        until(lambda: swarm.events("host", RunFinished), "the run is finished")
        assert host.wait() == 0
        assert "farflung window quad" in host.text
        assert not swarm.events("host", WindowOpened), "it was told to have none"
        for name, run in (("host", "quad"), ("p0", "quad")):
            window = swarm.spawn(name, "window", run, "--bind", "127.0.0.1:0")
            told = until(lambda w=window: w.text if "dashboard: " in w.text else "", "it is open")
            address = told.split("dashboard: ")[1].split()[0]
            head = ready_head(address)
            assert (head["rounds"], head["state"]) == (5, "finished"), name
            window.signal(signal.SIGINT)
            assert window.wait() == 0
            assert "Traceback" not in window.text


def test_a_port_that_is_named_must_be_free(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS)) as swarm:
        started(swarm)
        port = opened(swarm).rstrip("/").rpartition(":")[2]
        refused = command(
            tmp_path / "other", *[w for w in swarm.hosting if w != "--no-window"],
            "--window", f"127.0.0.1:{port}",
        )  # fmt: skip
        assert refused.returncode == 2 and "give another --window" in refused.stderr
        assert not (tmp_path / "other").exists() or not any((tmp_path / "other").rglob("*.bin"))
