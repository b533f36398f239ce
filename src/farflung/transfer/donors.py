"""Who has state and blobs for others, as the coordinator says it."""

from __future__ import annotations

from collections.abc import Iterable


class DonorList:
    """Keepers first: they have everything and train nothing. Used from one event loop."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._nodes: list[str] = []

    def know(self, nodes: Iterable[str]) -> None:
        self._nodes = [n for n in nodes if n != self._me]

    def __call__(self) -> list[str]:
        """Everybody else who serves, in the order in which to ask."""
        return list(self._nodes)
