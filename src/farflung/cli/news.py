"""What a terminal says of trouble: one line each, and not again and again."""

from __future__ import annotations

import re
from collections.abc import Callable

from farflung.events import Event, sentence_of

REPEAT_S = 10.0
"""What fails is often tried twice a second; the log has every time."""
_NUMBER = re.compile(r"(?<![\w-])\d[\d,.]*(?![\w-])")


class News:
    """Sentences that have not been said lately. Two that differ in numbers only are the same."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._said: dict[str, float] = {}

    def of(self, event: Event) -> str:
        """The line to print; empty when there is nothing to say of it, or not again yet."""
        sentence = " ".join(sentence_of(event).split())
        now_s = self._now()
        self._said = {k: at_s for k, at_s in self._said.items() if now_s - at_s < REPEAT_S}
        key = _NUMBER.sub("#", sentence)
        if not sentence or key in self._said:
            return ""
        self._said[key] = now_s
        return sentence
