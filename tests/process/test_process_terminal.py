"""The screens on a real pseudo-terminal: nothing wraps, nothing is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ENDLESS, Swarm, quad_spec, until
from pty_screen import OnTerminal

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("terminal")]

SIZES = [(80, 24), (120, 40)]


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A run of two peers; stopped by whoever is last."""
    root = tmp_path_factory.mktemp("terminal")
    with Swarm(root, quad_spec(**ENDLESS)) as swarm:
        swarm.host()
        swarm.join("a")
        swarm.join("b")
        swarm.committed(12)
        yield swarm


@pytest.mark.parametrize(("columns", "rows"), SIZES)
@pytest.mark.parametrize("who", ["host", "a"])
def test_status_is_one_calm_screen(swarm: Swarm, who: str, columns: int, rows: int) -> None:
    with OnTerminal(swarm.home(who), "status", columns=columns, rows=rows) as terminal:
        assert terminal.ended() == 0
        shown = terminal.lines
        assert any(line.startswith("quad (") and line.endswith("● running") for line in shown)
        assert any(line.startswith("peer ") for line in shown) and "keeper" in terminal.text
        assert len([line for line in shown if line]) <= rows
        assert terminal.widest <= columns
        assert terminal.left_as_found() and b"\x1b[" in terminal.raw, "in colours"


@pytest.mark.parametrize(("columns", "rows"), SIZES)
@pytest.mark.parametrize("leave", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_watch_lives_and_leaves_nothing_behind(
    swarm: Swarm, columns: int, rows: int, leave: bytes
) -> None:
    with OnTerminal(swarm.home("host"), "watch", columns=columns, rows=rows) as terminal:
        terminal.shows("loss", "peer ", "q quits", "● running")
        assert b"\x1b[?1049h" in terminal.raw and terminal.cursor_hidden
        first = next(line for line in terminal.lines if line.startswith("round "))
        until(lambda: first not in terminal.text, "it goes on by itself")
        assert len(terminal.lines) == rows and terminal.lines[-1].endswith("q quits")
        assert terminal.widest <= columns
        terminal.type(leave)
        assert terminal.ended() == 0
        assert terminal.left_as_found()
        assert b"Traceback" not in terminal.raw and b"KeyboardInterrupt" not in terminal.raw


def test_watch_follows_the_size_of_the_window(swarm: Swarm) -> None:
    with OnTerminal(swarm.home("a"), "watch", columns=120, rows=40) as terminal:
        terminal.shows("q quits", "peer ")
        for columns, rows in ((60, 16), (100, 30), (80, 24)):
            terminal.resize(columns, rows)
            until(
                lambda r=rows: (
                    terminal.lines[r - 1].endswith("q quits")  # type: ignore[misc]
                    and terminal.lines[0].endswith("running")
                ),
                f"it is drawn anew for {columns} columns",
            )
            terminal.forget()  # a picture of the former size may have been under way
            until(lambda: terminal.widest, "the next picture")
            terminal.settled()
            assert terminal.widest <= columns
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.ended() == 0 and terminal.left_as_found()


def test_one_picture_and_a_pipe(swarm: Swarm) -> None:
    with OnTerminal(swarm.home("host"), "watch", "--once") as terminal:
        assert terminal.ended() == 0
        assert b"\x1b[?1049h" not in terminal.raw and "round " in terminal.text
        assert terminal.widest <= 80
    done = swarm.run("host", "watch", "--once")
    assert done.returncode == 0 and "\x1b" not in done.stdout and "quad (" in done.stdout


@pytest.mark.parametrize(
    ("variables", "colour", "ascii"),
    [
        ({"NO_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
        ({"LC_ALL": "C"}, True, True),
        ({"TERM": "linux"}, True, True),
    ],
    ids=str,
)
def test_what_the_terminal_lacks_is_not_sent(
    swarm: Swarm, variables: dict[str, str], colour: bool, ascii: bool
) -> None:
    with OnTerminal(swarm.home("host"), "status", **variables) as terminal:
        assert terminal.ended() == 0 and "quad (" in terminal.text
        assert (
            b"\x1b[" in terminal.raw.replace(b"\x1b[1m", b"").replace(b"\x1b[0m", b"")
        ) is colour
        assert terminal.raw.isascii() is ascii
        assert terminal.widest <= 80


@pytest.mark.parametrize(("columns", "rows"), SIZES)
def test_joining_is_one_live_line(swarm: Swarm, columns: int, rows: int) -> None:
    home = swarm.home(f"live-{columns}")
    joining = ("join", swarm.invite, "--name", "live")
    with OnTerminal(home, *joining, columns=columns, rows=rows) as terminal:
        terminal.shows("live joins run quad of", "peers", "tok/s")

        def live() -> str:
            lines = [line for line in terminal.lines if line]
            return lines[-1]

        until(lambda: live().startswith("round "), "the live line")
        first = live()
        until(lambda: live() != first and live().startswith("round "), "it goes on")
        assert len([line for line in terminal.lines if " tok/s" in line]) == 1
        assert terminal.widest < columns
        terminal.type(b"\x03")
        assert terminal.ended() == 0
        said = [line for line in terminal.lines if line]
        assert "live: left; `farflung join` continues" in said[-1], "and no live line below"
        assert not any(line.startswith("round ") and "tok/s" in line for line in said)
        assert terminal.left_as_found()


def test_waiting_for_a_host_is_told_in_a_sentence(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS)) as swarm:
        swarm.host().kill()
        with OnTerminal(swarm.home("early"), "join", swarm.invite, columns=80) as terminal:
            terminal.shows("waiting for the host", "cannot reach", "Ctrl-C leaves")
            until(lambda: "for 3 s" in terminal.text, "the live line counts")
            terminal.type(b"\x03")
            assert terminal.ended() == 130
            assert "for 3 s" not in terminal.text, "the live line is gone"
            assert "Ctrl-C leaves" in terminal.text, "the sentence stays"
            assert terminal.widest <= 80
            assert terminal.left_as_found()


def test_hosting_has_a_live_line_below_its_news(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(**ENDLESS)) as swarm:
        hosting = swarm.hosting
        with OnTerminal(swarm.home("host"), *hosting, columns=80, rows=40) as terminal:
            terminal.shows("Invite", "waiting for peers")
            swarm.join("a")
            swarm.join("b")
            terminal.shows("+ a takes part", "+ b takes part")

            def live() -> str:
                return [line for line in terminal.lines if line][-1]

            until(lambda: live().startswith("round ") and "2 peers" in live(), "the live line")
            assert " tok/s" in live() or until(lambda: " tok/s" in live(), "with its speed")
            terminal.type(b"\x03")
            assert terminal.ended() == 0
            assert live() == "run stopped; `farflung host` continues"
            assert terminal.left_as_found()
            if pictures := os.environ.get("FARFLUNG_PICTURES"):
                (Path(pictures) / "host.raw").write_bytes(terminal.raw)
