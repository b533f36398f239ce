"""A closing terminal stops a program as SIGTERM does, and not under nohup."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from farflung.sim.batch import Total, play_all

PROGRAM = """
import signal, sys, time
if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
from farflung.stopping import interrupt_on_stop_signals
interrupt_on_stop_signals()
try:
    print("ready", flush=True)
    sys.stdin.readline()
    print("went on")
except KeyboardInterrupt:
    print("begins to end", flush=True)
    sys.stdin.readline()
    print("ended politely")
"""


def run(how: str, *signals: signal.Signals) -> str:
    """What it says after these signals, one after the other."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        for index, number in enumerate(signals):
            process.send_signal(number)
            if how == "plain" and not index:
                assert process.stdout.readline() == "begins to end\n"
        process.stdin.write("\n")
        process.stdin.close()
        return process.stdout.read().strip()


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_whatever_asks_to_stop_lets_every_finally_run(first: signal.Signals) -> None:
    assert run("plain", first) == "ended politely"


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM])
def test_a_terminal_that_closes_tells_it_twice(first: signal.Signals) -> None:
    assert run("plain", first, signal.SIGHUP, signal.SIGHUP) == "ended politely"


def test_under_nohup_it_goes_on() -> None:
    assert run("nohup", signal.SIGHUP) == "went on"


WHILE_LOADING = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from farflung.__main__ import main
main()
"""


def test_ctrl_c_while_modules_are_loaded_is_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHILE_LOADING], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr, done.stdout) == (130, "stopped\n", "")


def test_ctrl_c_ends_a_simulation_and_its_processes() -> None:
    def stop(_: Total) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play_all(range(100_000, 110_000), faults=2, jobs=2, twice=0, on_seed=stop)
    mine = Path("/proc/self/task").glob("*/children")
    assert "".join(p.read_text() for p in mine).split() == []


HOLDS = """
import signal, sys
from farflung.stopping import held_back, interrupt_on_stop_signals
interrupt_on_stop_signals()
known = []
try:
    with held_back():
        signal.raise_signal(getattr(signal, sys.argv[1]))
        signal.raise_signal(signal.SIGTERM)
        known.append("the process that was being started")
    print("went on")
except KeyboardInterrupt:
    print("ends", *known)
with held_back():
    pass
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_process_that_is_being_started_is_known_before_the_stop(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDS, name], capture_output=True, text=True, check=True
    )
    assert done.stdout == "ends the process that was being started\nTrue\n"
