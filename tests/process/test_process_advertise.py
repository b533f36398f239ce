"""Listening on every address, dialled where --advertise says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from processes import Swarm, assert_one_sentence, quad_spec

from farflung.run.host import keeper_endpoints


def _free_pair() -> int:
    """A port whose successor is free too."""
    for _ in range(50):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no two free ports in a row")


def test_peers_reach_a_host_on_the_wildcard_address(tmp_path: Path) -> None:
    port = _free_pair()
    with Swarm(tmp_path, quad_spec()) as swarm:
        arguments = ["--bind", f"0.0.0.0:{port}", "--advertise", f"localhost:{port}"]
        host = swarm.host(*arguments)
        for name in ("a", "b"):
            swarm.join(name)
        assert host.wait() == 0
        assert swarm.verify().returncode == 0


@pytest.mark.parametrize("command", ["host", "join"])
def test_a_wildcard_without_an_address_to_dial_is_refused(command: str, tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec()) as swarm:
        if command == "join":
            swarm.host()
            done = swarm.run("a", "join", swarm.invite, "--bind", "0.0.0.0:0")
        else:
            spec = ("--spec-json", str(tmp_path / "spec.json"))
            done = swarm.run("h", "host", *spec, "--bind", "0.0.0.0:7000")
        assert_one_sentence(done, "--advertise")


def test_the_keeper_listens_beside_the_coordinator() -> None:
    assert keeper_endpoints("127.0.0.1:7000", ()) == ("127.0.0.1:0", ())  # type: ignore[arg-type]
    bind, dialled = keeper_endpoints("0.0.0.0:7000", ("a.example:7000",))  # type: ignore[arg-type]
    assert (bind, dialled) == ("0.0.0.0:7001", ("a.example:7001",))
