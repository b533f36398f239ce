"""Where a host's window is shown, and to whom."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from farflung.config.load import check_endpoints
from farflung.errors import UserError
from farflung.ids import Endpoint, split_endpoint
from farflung.run.ports import check_port
from farflung.swarm.invite import is_loopback

DEFAULT_WINDOW = "127.0.0.1:7080"
TRIED_PORTS = 20
"""From the default one on: several hosts on one machine do not disturb each other."""


class WindowSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a host keeps of it."""

    shown: bool = True
    bind: str = DEFAULT_WINDOW
    public: bool = False
    """For everybody; else for browsers on this machine."""
    map: bool = True
    """Regions of peers are shown."""

    @property
    def ports(self) -> int:
        """How many to try: a port that somebody has named is meant."""
        return TRIED_PORTS if self.bind == DEFAULT_WINDOW else 1


@dataclass(frozen=True, kw_only=True)
class WindowChoice:
    """What this start was told of it; None: as before."""

    bind: str | None = None
    public: str | None = None
    """HOST:PORT to expose it at."""
    none: bool = False
    map: bool | None = None


def chosen_window(old: WindowSettings, choice: WindowChoice) -> WindowSettings:
    """The settings with what this start was told. UserError for what does not go together."""
    named = [e for e in (choice.bind, choice.public) if e is not None]
    check_endpoints(named)
    if len(named) + choice.none > 1:
        raise UserError("--window, --public and --no-window exclude each other; give one of them")
    if choice.bind is not None and not is_loopback(Endpoint(choice.bind)):
        raise UserError(
            f"--window {choice.bind} would show the run to other machines; say so with --public "
            f"{choice.bind}, or give a port of 127.0.0.1"
        )
    where = {"bind": named[0], "public": choice.public is not None} if named else {}
    shown = False if choice.none else True if named else old.shown
    shows_map = old.map if choice.map is None else choice.map
    return msgspec.structs.replace(old, shown=shown, map=shows_map, **where)


async def check_window(choice: WindowChoice, bind: str) -> None:
    """UserError, before anything is made, when what was named now cannot be had. `bind`: the
    coordinator's."""
    option, named = (
        ("--window", choice.bind) if choice.public is None else ("--public", choice.public)
    )
    if named is None:
        return
    port = split_endpoint(named)[1]
    if port and port == split_endpoint(bind)[1]:
        raise UserError(f"{option} {named} has the port of --bind {bind}; give another one")
    await check_port(Endpoint(named), f"give another {option}")
