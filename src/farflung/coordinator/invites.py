"""Redeeming invites: who becomes a member of the run, and with which certificate."""

from __future__ import annotations

from collections.abc import Callable

from farflung import regions
from farflung.errors import InviteError
from farflung.events import Emit, InviteRefused, printable
from farflung.ids import Role
from farflung.network.messages import Control, Redeem, Redeemed, Refuse
from farflung.network.tls import RunAuthority
from farflung.swarm.identity import node_id_of
from farflung.swarm.invite import Invite, check_expiry, parse_invite
from farflung.swarm.records import AnyRecord, Join
from farflung.swarm.state import Admitted, Input
from farflung.words import counted

MAX_NAME = 64
_ALSO = {Role.TRAINER: (Role.EVALUATOR,)}
"""What else an invite admits: who may do less harm (docs/trust.md)."""


class InviteDesk:
    """Checks invites against the run and counts their uses from the journal."""

    def __init__(
        self,
        *,
        run: str,
        run_name: str,
        run_key: bytes,
        authority: RunAuthority,
        records: list[AnyRecord],
        wall_now: Callable[[], float],
        emit: Emit,
    ) -> None:
        self._run = run
        self._run_name = run_name
        self._run_key = run_key
        self._authority = authority
        self._wall_now = wall_now
        self._emit = emit
        joins = [r for r in records if isinstance(r, Join)]
        self._members = {j.node for j in joins}
        self._uses: dict[bytes, int] = {}
        for join in joins:
            self._uses[join.invite] = self._uses.get(join.invite, 0) + 1

    def redeem(self, message: Redeem) -> tuple[Control, Input | None]:
        """The answer, and the event that admits a new member. Never raises."""
        try:
            invite = self._check(message)
        except InviteError as error:
            self._emit(InviteRefused(reason=str(error)))
            return Refuse(sentence=str(error)), None
        node = node_id_of(message.public_key)
        role = message.role or invite.role
        certificate = self._authority.issue(message.public_key, node, "peer")
        answer = Redeemed(
            certificate_pem=certificate,
            ca_pem=self._authority.ca_pem,
            run_key=self._run_key,
            run_name=self._run_name,
        )
        if node in self._members:
            return answer, None
        self._members.add(node)
        self._uses[invite.nonce] = self._uses.get(invite.nonce, 0) + 1
        return answer, Admitted(
            node=node,
            name=printable(message.name[:MAX_NAME]),
            region=message.region if regions.known(message.region) else "",
            role=role,
            public_key=message.public_key,
            invite=invite.nonce,
        )

    def _check(self, message: Redeem) -> Invite:
        if len(message.public_key) != 32:
            raise InviteError("a public key has 32 bytes")
        invite = parse_invite(message.invite)
        if invite.run != self._run or invite.run_public_key != self._run_key:
            raise InviteError(
                f"this invite is for run {invite.run}, here is {self._run}; ask its host"
            )
        if node_id_of(message.public_key) in self._members:
            return invite  # a member renews its certificate
        if message.role not in (None, invite.role, *_ALSO.get(invite.role, ())):
            raise InviteError(
                f"this invite is for a {invite.role}, you want to be {message.role}; ask the host "
                "for another"
            )
        check_expiry(invite, self._wall_now())
        if invite.uses and self._uses.get(invite.nonce, 0) >= invite.uses:
            raise InviteError(
                f"this invite was used {counted(invite.uses, 'time')}, its limit; "
                f"ask the host for another"
            )
        return invite
