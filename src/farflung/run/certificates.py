"""Keeps the certificates of a host's own nodes valid."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from farflung.errors import FarflungError
from farflung.events import CertificateNotRenewed, Emit
from farflung.failpoints import hit
from farflung.network.tcp import TcpTransport
from farflung.network.tls import RunAuthority
from farflung.swarm.identity import Identity
from farflung.tasks import failure

RENEW_EVERY_S = 3600.0

Certified = tuple[TcpTransport, Identity, str]
"""A transport, whose key it uses, in which role."""


async def keep_certified(
    authority: RunAuthority, certified: Sequence[Certified], emit: Emit
) -> None:
    """Certificates last a day; these are replaced in time. Until cancelled."""
    while True:
        await asyncio.sleep(RENEW_EVERY_S)
        for transport, identity, role in certified:
            try:
                certificate = authority.issue(identity.public_key, identity.node_id, role)
                transport.credentials.renew(certificate)
                hit("certificate.renewed")
            except (FarflungError, OSError) as error:
                emit(CertificateNotRenewed(reason=str(error)))
            except Exception as error:  # told; there is time for some dozens of tries
                emit(failure("renew a certificate", error))
