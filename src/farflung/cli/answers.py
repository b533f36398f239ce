"""What is known of a run right now: the coordinator's answer, or the journal here without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from farflung.errors import LinkDown
from farflung.run.home import JOURNAL


async def answer_of(role: str, folder: Path) -> tuple[dict[str, Any], str]:
    """(answer, why it is the journal's; empty: the coordinator's own).

    Raises LinkDown when neither is to be had, CorruptState, StorageError, UserError.
    """
    from farflung.run.status import ask_as_host, ask_as_peer, offline

    try:
        ask = ask_as_host if role == "host" else ask_as_peer
        return await ask(folder), ""
    except LinkDown as error:
        if not (folder / JOURNAL).exists():
            raise LinkDown(f"the coordinator does not answer ({error}); is the host up?") from None
        return offline(folder), str(error)
