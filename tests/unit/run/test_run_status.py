"""What this machine makes of a coordinator's answer about its run."""

from __future__ import annotations

import pytest

from farflung.errors import ProtocolError, UserError
from farflung.network.messages import Extended, Status
from farflung.run.join import not_dialled
from farflung.run.status import frame_in


@pytest.mark.parametrize("old", ['{"run": "9f86", "committed": 3, "peers": {}}', '{"head": 3}'])
def test_an_older_hosts_answer_is_one_sentence_with_what_to_do(old: str) -> None:
    with pytest.raises(UserError, match=r"older farflung.*install the same version") as caught:
        frame_in(Status(json=old))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "nan", "[" * 100_000])
def test_what_is_no_answer_is_the_hosts_mistake(text: str) -> None:
    with pytest.raises(ProtocolError):
        frame_in(Status(json=text))
    with pytest.raises(ProtocolError):
        frame_in(Extended(sentence=text))


def test_a_frame_is_taken_as_it_is() -> None:
    assert frame_in(Status(json='{"head": {"x": 1}, "more": []}')) == {"head": {"x": 1}, "more": []}


def test_a_peer_reads_in_its_own_row_that_nobody_can_dial_it() -> None:
    rows = [
        {"node": "a", "state": "active", "why": "cannot be dialled: no answer in 3 s"},
        {"node": "b", "state": "active", "why": ""},
        {"node": "c", "state": "suspect", "why": "silent"},
        "junk",
    ]
    told = {node: not_dialled({"peers": rows}, node) for node in "abcd"}
    assert told == {"a": "no answer in 3 s", "b": "", "c": "", "d": ""}
    assert not_dialled({"peers": {"a": 1}}, "a") == not_dialled({}, "a") == ""
