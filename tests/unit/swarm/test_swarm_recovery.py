"""The recovery key: one line that gives back the two keys of a run, or a sentence."""

from __future__ import annotations

import pytest

from farflung.errors import UserError
from farflung.ids import RunId
from farflung.swarm.recovery import Recovery, parse_recovery, recovery_text

KEY = Recovery(
    run=RunId("5eed5eed5eed5eed"), run_name="quad", run_seed=bytes(range(32)), ca_seed=b"\x07" * 32
)
GOLDEN = (
    "ffr1ssydkzlfmq2wkzlegvswkzbvmvswjjdrovqwjrbaaaaqeayeaudaocajbifqydiob4ibceqtcqkr"
    "mfyydenbwha5dyp4iiaha4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha4dqobyha5ehvmnq"
)


def test_the_text_is_the_golden_one() -> None:
    assert recovery_text(KEY) == GOLDEN


def test_the_text_gives_the_keys_back() -> None:
    assert parse_recovery(recovery_text(KEY)) == KEY
    wrapped = "\n  ".join(recovery_text(KEY)[i : i + 40] for i in range(0, 200, 40)) + "\n"
    assert parse_recovery(wrapped) == KEY


def test_no_damage_of_one_character_is_taken() -> None:
    text = recovery_text(KEY)
    for at in range(4, len(text)):
        changed = text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :]
        with pytest.raises(UserError, match="cut off or mistyped"):
            parse_recovery(changed)


@pytest.mark.parametrize("cut", [5, 50, 100, -1, -2, -8])
def test_a_cut_key_is_refused(cut: int) -> None:
    with pytest.raises(UserError, match="cut off or mistyped"):
        parse_recovery(recovery_text(KEY)[:cut])


def test_an_invite_is_no_recovery_key() -> None:
    with pytest.raises(UserError, match="begins with ffr1"):
        parse_recovery("ff1abc")


def test_the_keys_do_not_reach_a_log() -> None:
    assert "07" not in repr(KEY) and "\\x07" not in repr(KEY)
