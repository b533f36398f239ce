"""FARFLUNG_HOME: one process per folder, and a disk that refuses."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from farflung.errors import UserError
from farflung.run.home import locked, running_process


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No byte may be written to any file by this process. Only inside of the test: pytest's own
    output may go to a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_folder_is_locked_by_one_process_that_is_named(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert running_process(tmp_path) is not None
        with pytest.raises(UserError, match="is in use by process"), locked(tmp_path):
            pass
    assert running_process(tmp_path) is None
    with locked(tmp_path):
        pass


def test_a_full_disk_is_one_sentence_and_leaves_the_folder_unlocked(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"cannot write to .*; free space there"),
        full_disk(),
        locked(tmp_path),
    ):
        pytest.fail("the folder was locked")
    assert running_process(tmp_path) is None
