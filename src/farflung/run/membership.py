"""What a node keeps of its membership, and what its owner may say of it at a start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from farflung.errors import UserError
from farflung.ids import Role
from farflung.run.home import MEMBERSHIP


class Membership(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node keeps so that `join` without arguments continues."""

    invite: str
    name: str
    region: str
    bind: str
    advertise: tuple[str, ...]
    outbound_only: bool
    trainer: tuple[str, ...]
    certificate_pem: str
    ca_pem: str
    coordinators: tuple[str, ...] = ()
    """Where the coordinator moved to; empty: where the invite says."""
    max_disk_bytes: int = 0
    data_cache_bytes: int = 0
    inner_state: str = "fresh"
    role: Role = Role.TRAINER
    ranks: int = 1
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    name: str = ""
    region: str = ""
    bind: str | None = None
    advertise: tuple[str, ...] = ()
    outbound_only: bool = False
    trainer: tuple[str, ...] = ()
    coordinators: tuple[str, ...] = ()
    max_disk_bytes: int = 0
    """0: a share of what is free."""
    data_cache_bytes: int = 0
    """0: a share of what is free."""
    inner_state: str = ""
    ranks: int = 0
    """Processes that train together; 0: as before, at first one."""
    gpus: tuple[str, ...] = ()
    """Which GPUs they use, one each; empty: as before, at first whatever is visible."""
    role: Role | None = None
    """None: as before, at first what the invite says."""


def load_membership(folder: Path) -> Membership | None:
    path = folder / MEMBERSHIP
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Membership)
    except msgspec.DecodeError as error:
        raise UserError(f"{path} is damaged ({error}); join again with the invite") from None
