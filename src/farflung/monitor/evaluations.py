"""Measurements of the model, with the texts that it wrote.

4,096 measurements are kept, 96 of them with their texts, spread evenly over the run: at most
96 x 8 prompts x 8 KB = 6 MB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from farflung.monitor import inert

KEPT = 4096
KEPT_TEXTS = 96
NEWEST_TEXTS = 24
"""Never thinned."""


@dataclass(slots=True)
class Score:
    serial: int
    round: int
    bits_per_byte: float
    nats_per_token: float
    by: str
    samples: tuple[tuple[str, str], ...]
    at: float = math.nan
    step: int = 0

    def table(self) -> dict[str, Any]:
        """Evaluation of web/src/types.ts."""
        return {
            "round": self.round,
            "at": inert.seconds(self.at),
            "bits_per_byte": inert.number(self.bits_per_byte),
            "nats_per_token": inert.number(self.nats_per_token),
            "by": self.by,
            "samples": [{"prompt": prompt, "text": text} for prompt, text in self.samples],
        }


class ScoreBook:
    def __init__(self) -> None:
        self._by_serial: dict[int, Score] = {}

    def add(self, told: Score) -> Score:
        """What journal and event log say of one measurement becomes one."""
        known = self._by_serial.get(told.serial)
        if known is None:
            self._by_serial[told.serial] = known = told
            self._thin()
        if math.isfinite(told.at):
            known.at = told.at
        known.step = told.step
        return known

    def _thin(self) -> None:
        if len(self._by_serial) > KEPT:
            older = list(self._by_serial)[: KEPT // 2]
            for serial in older[1::2]:
                del self._by_serial[serial]
        with_texts = [m for m in self._by_serial.values() if m.samples]
        if len(with_texts) > KEPT_TEXTS:
            for measured in with_texts[1:-NEWEST_TEXTS:2]:
                measured.samples = ()

    @property
    def newest(self) -> Score | None:
        return next(reversed(self._by_serial.values()), None)

    def tables(self, most: int) -> list[dict[str, Any]]:
        """Oldest first; of more than `most` every n-th, and the newest."""
        known = list(self._by_serial.values())
        stride = -(-len(known) // most) or 1
        return [m.table() for m in known[(len(known) - 1) % stride :: stride]] if known else []

    def scores(self, most: int) -> tuple[tuple[int, float], ...]:
        """(rounds in the measured state, bits per byte) of the newest ones."""
        known = list(self._by_serial.values())[-most:]
        return tuple((m.round, m.bits_per_byte) for m in known)

    def changed(self, since: int) -> list[dict[str, Any]]:
        return [m.table() for m in self._by_serial.values() if m.step > since]
