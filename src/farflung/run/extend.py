"""`farflung host --extend` while the host runs: the change is handed over to it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path

from farflung.errors import LinkDown, ProtocolError, UserError
from farflung.network.messages import Extend, Extended, Refuse
from farflung.run.status import talk_as_host

ANSWER_S = 20.0


async def extend_running(folder: Path, process: int, wishes: Sequence[str]) -> str:
    """The host's answer. Raises UserError: it refuses, or does not answer (yet, or any more)."""
    question = Extend(request=secrets.token_hex(8), wishes=tuple(wishes))
    try:
        async with asyncio.timeout(ANSWER_S):
            answer = await talk_as_host(folder, question)
    except (LinkDown, TimeoutError) as error:
        raise UserError(
            f"the host (process {process}) does not answer ({error or 'no answer in time'}): it "
            "starts or ends just now; look at `farflung status` and ask again"
        ) from None
    if isinstance(answer, Refuse):
        raise UserError(answer.sentence)
    if not isinstance(answer, Extended):
        raise ProtocolError("the coordinator did not say whether it changed the run")
    return answer.sentence
