"""One line of the judge's table."""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN = 20
"""Violations that are told in words."""


@dataclass
class Row:
    """A promise. It passes when something was checked and nothing was found."""

    key: str
    promise: str
    checks: int = 0
    violations: int = 0
    first: list[str] = field(default_factory=list)
    """The first violations in words."""
    note: str = ""

    def check(self, holds: object, sentence: str) -> None:
        self.checks += 1
        if not holds:
            self.violations += 1
            if len(self.first) < SHOWN:
                self.first.append(sentence)

    @property
    def passed(self) -> bool:
        return self.checks > 0 and self.violations == 0
