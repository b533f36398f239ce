"""Whether this machine can listen somewhere, asked before anything is made or told."""

from __future__ import annotations

from farflung.errors import LinkDown, UserError
from farflung.ids import Endpoint
from farflung.network.sockets import listening_socket


async def check_port(endpoint: Endpoint, remedy: str) -> None:
    """UserError, which ends with `remedy`, when this machine cannot listen there."""
    try:
        sock, _ = await listening_socket(endpoint)
    except LinkDown as error:
        raise UserError(f"{error}; {remedy}") from None
    sock.close()
