"""Claims about swarm/invite.py: only what the run signed parses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farflung.errors import InviteError
from farflung.ids import Endpoint, RunId
from farflung.swarm.identity import Identity
from farflung.swarm.invite import (
    MAX_CHARACTERS,
    Invite,
    check_expiry,
    loopback_only,
    make_invite,
    parse_invite,
    tidy,
)

RUN_KEY = Identity.from_seed(bytes(32))
GOLDEN = Path(__file__).parents[2] / "golden" / "network_invite.txt"


def invite_text(
    endpoints: tuple[str, ...] = ("train.example.org:7070",),
    *,
    name: str = "quiet-otter",
    role: str = "trainer",
    uses: int = 3,
) -> str:
    return make_invite(
        RUN_KEY,
        run=RunId("0123456789abcdef"),
        run_name=name,
        ca_public_key=bytes(range(32)),
        endpoints=[Endpoint(e) for e in endpoints],
        role=role,
        expires_at=1_800_000_000,
        uses=uses,
        nonce=bytes(16),
    )


TEXT = invite_text()


def test_the_text_of_an_invite_is_pinned() -> None:
    assert GOLDEN.read_text() == TEXT + "\n"


@settings(max_examples=30, deadline=None)
@given(
    name=st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True),
    hosts=st.lists(st.from_regex(r"[a-z0-9.]{1,20}:[0-9]{1,4}", fullmatch=True), min_size=1),
    uses=st.integers(1, 10_000),
    role=st.sampled_from(["trainer", "keeper"]),
)
def test_what_is_made_parses_to_the_same(name: str, hosts: list[str], uses: int, role: str) -> None:
    invite = parse_invite(invite_text(tuple(hosts[:8]), name=name, role=role, uses=uses))
    assert invite.run_name == name
    assert list(invite.endpoints) == hosts[:8]
    assert (invite.uses, invite.role) == (uses, role)
    assert invite.run_public_key == RUN_KEY.public_key


@pytest.mark.parametrize("name", ["", "../up", "a/b", "..", "a b", "x" * 65, "a\n"])
def test_a_run_name_that_is_no_folders_name_is_refused(name: str) -> None:
    with pytest.raises(InviteError, match="run name"):
        invite_text(name=name)


@pytest.mark.parametrize(
    "pasted",
    [
        TEXT,
        f"farflung join {TEXT}",
        f"  farflung join {TEXT}\n",
        f"$ farflung join {TEXT}",
        f'"{TEXT}"',
        f"'farflung join {TEXT}'",
        f"`{TEXT}`",
        f"<{TEXT}>",
        f"\ufeff{TEXT}\r\n",
        f"\u201c{TEXT}\u201d",
        "\n".join(TEXT[i : i + 40] for i in range(0, len(TEXT), 40)),
        "\r\n> ".join(TEXT[i : i + 72] for i in range(0, len(TEXT), 72)),
        " \\\n  ".join(TEXT[i : i + 60] for i in range(0, len(TEXT), 60)),
        "\u200b".join(TEXT[i : i + 50] for i in range(0, len(TEXT), 50)),
    ],
)
def test_what_people_paste_is_understood(pasted: str) -> None:
    assert tidy(pasted) == TEXT


def test_tidying_changes_no_character_of_an_invite() -> None:
    for wrong in (TEXT[:-1], TEXT[:50] + "!" + TEXT[51:], TEXT.upper(), "hello"):
        assert tidy(wrong) == wrong
        with pytest.raises(InviteError):
            parse_invite(tidy(wrong))


def test_every_single_bit_flip_of_the_text_is_refused() -> None:
    raw = TEXT.encode()
    for i in range(len(raw)):
        for bit in range(8):
            flipped = bytearray(raw)
            flipped[i] ^= 1 << bit
            with pytest.raises(InviteError):
                parse_invite(flipped.decode("latin-1"))


def test_every_truncation_is_refused_and_a_long_one_says_so() -> None:
    for length in range(len(TEXT)):
        with pytest.raises(InviteError):
            parse_invite(TEXT[:length])
    with pytest.raises(InviteError, match="cut off"):
        parse_invite(TEXT[:-20])


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200))
def test_arbitrary_text_is_an_invite_error(text: str) -> None:
    for candidate in (text, "ff1" + text):
        with pytest.raises(InviteError):
            parse_invite(candidate)


def test_wrapped_lines_and_spaces_are_the_same_invite() -> None:
    wrapped = "  " + TEXT[:70] + "\r\n  " + TEXT[70:140] + "\n" + TEXT[140:] + " \n"
    assert parse_invite(wrapped) == parse_invite(TEXT)


def test_each_damage_has_its_sentence() -> None:
    with pytest.raises(InviteError, match="begins with ff1"):
        parse_invite("https://example.org")
    swapped = TEXT[:50] + ("a" if TEXT[50] != "a" else "b") + TEXT[51:]
    with pytest.raises(InviteError, match="checksum"):
        parse_invite(swapped)
    with pytest.raises(InviteError, match="does not belong"):
        parse_invite(TEXT[:50] + "!" + TEXT[51:])
    with pytest.raises(InviteError, match="checksum"):
        parse_invite(TEXT + "aaaaaaaa")


def test_an_altered_payload_with_a_fresh_checksum_has_a_bad_signature() -> None:
    from farflung.swarm import invite as module

    signed = module._from_text(TEXT)
    altered = signed.replace(b"train.example.org", b"evil_.example.org")
    with pytest.raises(InviteError, match="signature"):
        parse_invite(module._to_text(altered))


def test_another_key_cannot_sign_for_this_run_key() -> None:
    from farflung.swarm import invite as module

    payload = module._from_text(TEXT)[:-64]
    forged = payload + Identity.generate().sign(b"invite", payload)
    with pytest.raises(InviteError, match="signature"):
        parse_invite(module._to_text(forged))


def test_expiry_is_judged_to_the_second_and_says_how_late() -> None:
    invite = parse_invite(TEXT)
    check_expiry(invite, 1_799_999_999.0)
    with pytest.raises(InviteError, match="expired 0 s ago"):
        check_expiry(invite, 1_800_000_000.0)
    with pytest.raises(InviteError, match="expired 3 days ago"):
        check_expiry(invite, 1_800_000_000.0 + 3 * 86_400)


@pytest.mark.parametrize(
    ("endpoints", "alone"),
    [
        (("127.0.0.1:1", "localhost:2", "[::1]:3", "127.8.0.1:4"), True),
        (("127.0.0.1:1", "192.168.1.4:2"), False),
        (("train.example.org:7070",), False),
        (("0.0.0.0:7070",), False),
    ],
)
def test_loopback_only_means_every_endpoint(endpoints: tuple[str, ...], alone: bool) -> None:
    assert loopback_only(parse_invite(invite_text(endpoints))) is alone


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"role": "admin"}, "role 'admin'"),
        ({"uses": 0}, "at least one"),
        ({"endpoints": ()}, "--advertise"),
        ({"endpoints": ("nowhere",)}, "HOST:PORT"),
        ({"endpoints": tuple(f"host-{i}.example.org:7070" for i in range(99))}, "fewer endpoints"),
    ],
)
def test_an_invite_that_breaks_a_rule_is_not_made(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(InviteError, match=sentence):
        invite_text(**change)  # type: ignore[arg-type]


def test_an_invite_is_short_enough_for_a_stranger_to_send() -> None:
    assert len(TEXT) < 500
    assert MAX_CHARACTERS < 4096 - 512
    assert isinstance(parse_invite(TEXT), Invite)
