"""`--peers 20x4090@home,2xh100@1gbit`: groups of equal peers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from farflung.errors import UserError
from farflung.sizing.devices import DeviceClass, device_of
from farflung.sizing.links import LinkClass, link_of

MOST_PEERS = 1000
_GROUP = re.compile(r"(?:(\d+)\s*x\s*)?([A-Za-z0-9_ -]+)@(.+)", re.IGNORECASE)
_COUNT = re.compile(r"(\d+)\s*x\s*(?=[A-Za-z0-9])", re.IGNORECASE)
_EXAMPLE = "20x4090@home,2xh100@1gbit"


@dataclass(frozen=True, kw_only=True)
class PeerGroup:
    """So many equal peers."""

    name: str
    """`4090@home`, unique in a plan."""
    count: int
    device: DeviceClass
    link: LinkClass


def parse_groups(text: str) -> tuple[PeerGroup, ...]:
    """In the order given; equal groups add up. UserError with the rule that is broken."""
    found: dict[str, PeerGroup] = {}
    for part in _parts(text):
        match = _GROUP.fullmatch(part)
        if match is None:
            raise UserError(f"--peers {part!r} must be COUNTxDEVICE@LINK; for example {_EXAMPLE}")
        count = int(match[1] or 1)
        if count < 1:
            raise UserError(f"--peers {part!r} must have at least 1 peer")
        device, link = device_of(match[2]), link_of(match[3])
        name = f"{device.name}@{link.name}"
        before = found[name].count if name in found else 0
        found[name] = PeerGroup(name=name, count=before + count, device=device, link=link)
    total = sum(g.count for g in found.values())
    if not found:
        raise UserError(f"--peers is empty; for example {_EXAMPLE}")
    if total > MOST_PEERS:
        raise UserError(f"--peers names {total:,} peers; a plan takes at most {MOST_PEERS:,}")
    return tuple(found.values())


def _parts(text: str) -> list[str]:
    """Commas separate groups, and the numbers of a link: a group has an @."""
    parts: list[str] = []
    for word in (w.strip() for w in text.split(",")):
        if not word:
            continue
        if "@" in word or _COUNT.match(word) or not parts:
            parts.append(word)
        else:
            parts[-1] += f",{word}"
    return parts
