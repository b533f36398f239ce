"""Resources of processes, from /proc: open files, resident memory, threads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One process at one time (monotonic seconds)."""

    at_s: float
    fds: int
    rss: int
    """Bytes."""
    threads: int


def sample(pid: int, now_s: float) -> Sample | None:
    """None when the process is gone."""
    try:
        fds = _entries(f"/proc/{pid}/fd")
        threads = _entries(f"/proc/{pid}/task")
        rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return None
    return Sample(at_s=now_s, fds=fds, rss=rss, threads=threads)


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


@dataclass
class ResourceMeter:
    """Samples by process."""

    samples: dict[tuple[str, int], list[Sample]] = field(default_factory=dict)
    """(name, pid) -> by time."""

    def look(self, processes: Mapping[str, int], now_s: float) -> None:
        for name, pid in processes.items():
            one = sample(pid, now_s)
            if one is not None:
                self.samples.setdefault((name, pid), []).append(one)
