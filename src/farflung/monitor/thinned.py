"""A series that stays short however long it grows: one peer's rounds."""

from __future__ import annotations

from array import array
from typing import Any

from farflung.monitor import inert

CAPACITY = 256
"""Points; when they are reached, neighbours are merged and each point stands for twice as much."""


class Thinned:
    """Columns of round, loss, tokens/s, seconds of waiting, bytes sent: means of `stride` entries.

    256 points of 5 numbers take 10 KB at most.
    """

    COLUMNS = ("loss", "tokens_per_s", "wait_s", "bytes_up")

    def __init__(self) -> None:
        self.stride = 1
        self._filled = 0
        """Entries in the last point."""
        self._round = array("q")
        self._sums = {name: array("d") for name in self.COLUMNS}
        self._counts = {name: array("H") for name in self.COLUMNS}

    def add(self, round_: int, **values: float) -> None:
        """One round more, or more of the newest; what comes late is counted to the newest."""
        if not self._round or round_ > self._round[-1]:
            self._begin(round_)
        for name, value in values.items():
            if value == value:
                self._sums[name][-1] += value
                self._counts[name][-1] = min(65535, self._counts[name][-1] + 1)

    def _begin(self, round_: int) -> None:
        if self._round and self._filled < self.stride:
            self._round[-1] = round_
            self._filled += 1
            return
        if len(self._round) >= CAPACITY:
            self._halve()
        self._round.append(round_)
        for name in self.COLUMNS:
            self._sums[name].append(0.0)
            self._counts[name].append(0)
        self._filled = 1

    def _halve(self) -> None:
        self._round = self._round[1::2]
        for name in self.COLUMNS:
            sums, counts = self._sums[name], self._counts[name]
            self._sums[name] = array("d", (a + b for a, b in _pairs(sums)))
            self._counts[name] = array("H", (min(65535, a + b) for a, b in _pairs(counts)))
        self.stride *= 2

    def table(self) -> dict[str, Any]:
        """PeerPage.rounds of web/src/types.ts."""
        return {"round": list(self._round)} | {
            name: [
                inert.number(total / count) if count else None
                for total, count in zip(self._sums[name], self._counts[name], strict=True)
            ]
            for name in self.COLUMNS
        }


def _pairs(values: Any) -> Any:
    return zip(values[::2], values[1::2], strict=True)
