"""A torch trace of a few steps, for `farflung join --profile`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from farflung.inner.options import StepOptions
from farflung.inner.shards import RankPlace

FIRST = 10
"""Steps before the trace: compiling and warming up lie behind."""
STEPS = 3
FOLDER = "profile"


class Trace:
    """Call `step` after every step. Writes one file, says where, and is done."""

    def __init__(self, node: Path | None, *, wanted: bool, first: int = FIRST) -> None:
        self._folder = (node or Path()) / FOLDER
        self._left = first if wanted else -1
        self._profile: profile | None = None

    @classmethod
    def of_options(cls, options: StepOptions, place: RankPlace) -> Trace:
        """Of several ranks only the leader's steps are traced: they share one folder."""
        return cls(options.node, wanted=options.profile and place.leads)

    def step(self) -> None:
        if self._left < 0:
            return
        self._left -= 1
        if self._left > 0:
            return
        if self._profile is None:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.start()
            self._left = STEPS
            return
        self._profile.stop()
        self._write(self._profile)
        self._profile, self._left = None, -1

    def _write(self, done: profile) -> None:
        path = self._folder / "steps.json.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            done.export_chrome_trace(str(path))
        except OSError as error:
            print(f"farflung: cannot write the trace {path}: {error.strerror}", file=sys.stderr)
            return
        print(
            f"farflung: a trace of {STEPS} steps is in {path}; open it in ui.perfetto.dev",
            file=sys.stderr,
        )
