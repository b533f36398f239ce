"""What an invite admits."""

from __future__ import annotations

from functools import lru_cache

import pytest

from farflung.coordinator.invites import InviteDesk
from farflung.events import Event, InviteRefused
from farflung.ids import Endpoint, Role, RunId
from farflung.network.messages import Redeem, Redeemed, Refuse
from farflung.network.tls import RunAuthority
from farflung.swarm.identity import Identity
from farflung.swarm.invite import make_invite
from farflung.swarm.state import Admitted

RUN = RunId("ab" * 8)
RUN_KEY = Identity.from_seed(bytes(range(32)))
AUTHORITY = RunAuthority.create(RUN)


def desk(told: list[Event]) -> InviteDesk:
    return InviteDesk(
        run=RUN,
        run_name="books",
        run_key=RUN_KEY.public_key,
        authority=AUTHORITY,
        records=[],
        wall_now=lambda: 1_000_000.0,
        emit=told.append,
    )


@lru_cache
def invite(role: Role) -> str:
    """One text, however often it is used."""
    return make_invite(
        RUN_KEY,
        run=RUN,
        run_name="books",
        ca_public_key=AUTHORITY.public_key,
        endpoints=[Endpoint("train.example.org:7000")],
        role=role,
        expires_at=2_000_000,
        uses=2,
    )


def redeem(invited: Role, wanted: Role | None, key: int = 1) -> Redeem:
    return Redeem(invite=invite(invited), public_key=bytes([key] * 32), name="ann", role=wanted)


@pytest.mark.parametrize(
    ("invited", "wanted", "role"),
    [
        (Role.TRAINER, None, Role.TRAINER),
        (Role.TRAINER, Role.TRAINER, Role.TRAINER),
        (Role.TRAINER, Role.EVALUATOR, Role.EVALUATOR),
        (Role.KEEPER, None, Role.KEEPER),
    ],
)
def test_an_invite_admits_its_role_and_one_for_trainers_an_evaluator_too(
    invited: Role, wanted: Role | None, role: Role
) -> None:
    answer, event = desk([]).redeem(redeem(invited, wanted))
    assert isinstance(answer, Redeemed)
    assert isinstance(event, Admitted) and event.role == role


@pytest.mark.parametrize(
    ("invited", "wanted"),
    [
        (Role.TRAINER, Role.KEEPER),
        (Role.TRAINER, Role.SOURCE),
        (Role.KEEPER, Role.TRAINER),
        (Role.KEEPER, Role.EVALUATOR),
    ],
)
def test_an_invite_admits_no_role_that_its_host_did_not_mean(invited: Role, wanted: Role) -> None:
    told: list[Event] = []
    answer, event = desk(told).redeem(redeem(invited, wanted))
    assert event is None and isinstance(answer, Refuse)
    assert f"for a {invited}, you want to be {wanted}" in answer.sentence
    assert [e.reason for e in told if isinstance(e, InviteRefused)] == [answer.sentence]


def test_an_evaluator_uses_an_invite_up_like_anybody() -> None:
    here = desk([])
    for key in (1, 2):
        assert here.redeem(redeem(Role.TRAINER, Role.EVALUATOR, key))[1] is not None
    again, event = here.redeem(redeem(Role.TRAINER, Role.EVALUATOR, 1))
    assert isinstance(again, Redeemed) and event is None, "a member renews"
    refused, _ = here.redeem(redeem(Role.TRAINER, None, 3))
    assert isinstance(refused, Refuse) and "its limit" in refused.sentence
