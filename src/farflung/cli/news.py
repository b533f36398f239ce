"""What a terminal says of trouble: one line each, and not again and again."""

from __future__ import annotations

import re
from collections.abc import Callable

from farflung.events import Event, sentence_of

REPEAT_S, LONGEST_S = 10.0, 600.0
"""What fails is often tried twice a second; the log has every time. The pause doubles."""
_NUMBER = re.compile(r"(?<![\w-])(?:\d[\d,.]*|[0-9a-f]{12,})(?![\w-])")
"""Numbers, and the hashes that name files and nodes."""


class News:
    """Sentences that have not been said lately; two are the same when numbers and hashes differ."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._said: dict[str, tuple[float, float]] = {}
        """What was said: when, and how long it is not said again."""

    def of(self, event: Event) -> str:
        """The line to print; empty when there is nothing to say of it, or not again yet."""
        sentence = " ".join(sentence_of(event).split())
        if not sentence:
            return ""
        now_s, key = self._now(), _NUMBER.sub("#", sentence)
        # Forgotten after twice its pause: what comes back then is news.
        self._said = {k: s for k, s in self._said.items() if now_s - s[0] < 2 * s[1]}
        at_s, pause_s = self._said.get(key, (-LONGEST_S, REPEAT_S / 2))
        if key in self._said and now_s - at_s < pause_s:
            return ""
        self._said[key] = now_s, min(LONGEST_S, 2 * pause_s)
        return sentence
