"""Runs a command's coroutine on the fastest loop there is."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """uvloop where it is installed, asyncio's own loop elsewhere. As many descriptors as the system
    allows: every peer costs some, and the usual 1,024 end a large run's host."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
