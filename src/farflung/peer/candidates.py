"""Outer steps that were computed for a vote and are kept for the commit.

Owner: the agent's apply loop. A kept step is used only for the commit of the very attempt that it
was voted in, with the hash that was voted, on the fragment that it was computed from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from farflung.ids import Hash
from farflung.outer.candidate import Stepped
from farflung.swarm.records import Commit

AttemptKey = tuple[int, int, int]
"""(term, round, attempt)."""


@dataclass(frozen=True, kw_only=True)
class KeptStep:
    """What a commit of this attempt makes of its fragment."""

    key: AttemptKey
    fragment: int
    base: Hash
    """Hash of the fragment that it was computed from."""
    bytes_root: Hash
    stepped: Stepped

    def fits(self, commit: Commit, now: Hash) -> bool:
        """Whether the commit, applied to a fragment whose hash is `now`, gives just this."""
        return (
            self.key == (commit.term, commit.round, commit.attempt)
            and self.fragment == commit.fragment
            and self.base == now
            and self.bytes_root == commit.bytes_root
            and self.stepped.hash == commit.fragment_hash
        )


class Candidates:
    """Kept steps, at most one for each attempt; several rounds may be in flight."""

    def __init__(self) -> None:
        self._kept: dict[AttemptKey, KeptStep] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, candidate: KeptStep) -> None:
        self._kept[candidate.key] = candidate

    def take(self, commit: Commit, now: Hash) -> Stepped | None:
        """The step to copy in, once; None when there is none that fits."""
        kept = self._kept.pop((commit.term, commit.round, commit.attempt), None)
        return kept.stepped if kept is not None and kept.fits(commit, now) else None

    def drop(self, over: Callable[[AttemptKey], bool]) -> None:
        """Forget those of attempts that are over."""
        self._kept = {key: kept for key, kept in self._kept.items() if not over(key)}
