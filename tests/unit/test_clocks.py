"""Decisions never look at the wall clock: it steps, and two machines' differ."""

from __future__ import annotations

import ast

from source_files import modules

WALL = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime"}
ALLOWED = {
    "events": {"time.time"},  # shown to people, next to the monotonic clock
    "network.tls": {"time.time", "datetime"},  # certificates
    "run.host": {"time.time"},  # certificates and the expiry of invites
    "run.join": {"time.time"},  # renewal of certificates
    "run.remote_folder": {"datetime"},  # a length of time, as obstore wants it
    "cli.answers": {"time.time"},  # how old a run's news is
    "cli.status": {"time.time"},  # the same
    "cli.watch": {"time.time"},  # the same
    "cli.follow": {"time.time"},  # when alerts are due, and their stamps
    "inner.parallel": {"datetime"},  # a length of time, as torch wants it
    "cli.snapshots": {"time.time"},  # how old a snapshot is
    "window.process": {"time.time"},  # ages and lengths of time, shown to people
    "run.upload": {"time.time"},  # how old an archived snapshot is, in days
}


def wall_clocks(tree: ast.Module) -> set[str]:
    """Names of the wall clock that a module uses; a bare import of one counts."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {f"{node.value.id}.{node.attr}"} & WALL
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{alias.name}" for alias in node.names} & WALL
        elif isinstance(node, ast.ImportFrom) and node.module == "datetime":
            found.add("datetime")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & {"datetime"}
    return found


def test_only_certificates_and_displays_read_the_wall_clock() -> None:
    used = {name: wall_clocks(tree) for name, tree in modules().items()}
    assert {name: clocks for name, clocks in used.items() if clocks} == ALLOWED


def test_the_check_sees_every_way_to_read_it() -> None:
    for source in (
        "import time\ntime.time()",
        "from time import time",
        "from datetime import UTC",
        "import datetime",
        "import time\nclock = time.time_ns",
    ):
        assert wall_clocks(ast.parse(source)), source
    assert not wall_clocks(ast.parse("import time\ntime.monotonic()"))
