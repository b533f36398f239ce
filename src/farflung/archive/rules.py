"""What an upload keeps and how fast it may be."""

from __future__ import annotations

from dataclasses import dataclass

KEEP = 4
"""Snapshots that stay in an archive unless the operator says otherwise."""


@dataclass(frozen=True, kw_only=True)
class UploadRules:
    """What the operator chose."""

    keep: int = KEEP
    max_age_s: float = 0.0
    """0: any age."""
    bytes_per_s: float = 0.0
    """0: as fast as it goes."""
