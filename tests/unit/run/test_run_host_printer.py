"""What a host's terminal says of events: peers choose names and reasons, not what it obeys."""

from __future__ import annotations

import pytest

from farflung.cli.host_lines import HostLines
from farflung.events import GenerationClosed, NodeRefused, RunAmended


def test_a_peers_words_cannot_steer_the_hosts_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    printer = HostLines()
    printer.see(
        GenerationClosed(
            node="ab", name="x\x1b[2J", generation=1, reason="bye\r\nround 9\x07", returned=3
        )
    )
    printer.see(NodeRefused(name="\x9b31m", reason="no\x1b]0;t\x07"))
    seen = capsys.readouterr()
    assert seen.out == "- x [2J: bye round 9 ; 3 samples returned\n"
    assert seen.err == "! refused 31m: no ]0;t\n"


def test_a_change_that_the_operator_asked_for_is_no_trouble(
    capsys: pytest.CaptureFixture[str],
) -> None:
    HostLines().see(RunAmended(rounds=9, tokens=0, from_round=4, changes="outer.rounds=9"))
    assert capsys.readouterr() == ("  amended from round 4 on: outer.rounds=9\n", "")
