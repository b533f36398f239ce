"""Rooms know only what they may know, and none is a smear."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter

import pytest
from source_files import imports, modules, path_of

VOCABULARY = {"ids", "errors", "events", "clock", "disk", "hashing", "failpoints"}
VOCABULARY |= {"lasting", "regions", "stopping", "tasks", "words"}
SHARED = VOCABULARY | {"config"}
ROOMS: dict[str, set[str]] = {
    "model": set(),
    "data": set(),
    "outer": set(),
    "network": set(),
    "monitor": {"swarm", "outer", "model", "data"},
    "averaging": {"network"},
    "swarm": {"network", "averaging", "data"},
    "inner": {"model", "data", "outer", "attach"},  # the built-in trainer joins like any other
    "checkpoint": {"model", "network", "outer"},
    "archive": {"averaging", "outer", "checkpoint", "swarm"},
}
ROOMS |= {
    "transfer": {"network", "averaging"},
    "trainers": {"world", "network", "outer", "inner"},
    "coordinator": {"world", "network", "swarm"},
    "peer": {
        *("world", "network", "averaging", "outer", "checkpoint", "swarm", "transfer", "trainers")
    },
}
ROOMS["sizing"] = {"model", "outer", "averaging", "inner", "swarm", "peer"}
ROOMS["window"] = {"monitor", "swarm"}
ROOMS["run"] = {*ROOMS, "world", "attach"}
ROOMS["integrations"] = {"attach", "inner", "data"}
ROOMS["sim"] = {*ROOMS, "world", "attach"}
ROOMS["chaos"] = {"run", "swarm"}
ROOMS["trained"] = {
    *("model", "data", "outer", "checkpoint", "network", "swarm", "peer", "run"),
}
ROOMS["export"] = {"model", "data", "trained"}
ROOMS["evaluate"] = {"model", "data", "inner", "trained"}
ROOMS["cli"] = {*ROOMS, "attach", "web"}

ENTRIES: dict[str, set[str]] = {
    "": {"attach"},  # loads attach on first use, by name
    "__main__": {"cli"},
    "attach": {"inner"},
    "world": {"network"},
    "config": set(),
}
"""Modules outside the rooms, and what they may import besides vocabulary and config."""

AGENT_ROOMS = {
    *("network", "averaging", "swarm", "outer", "checkpoint", "transfer", "trainers"),
    *("archive", "world", "coordinator", "peer", "run"),
    *SHARED,
}
AGENT_MODULES = {
    "inner.seam",
    "inner.channel",
    "inner.options",
    "inner.shards",
    "inner.state_file",
    "data.order",
    "data.mixture",
    "data.samples",
    "data.chunks",
    "data.chunk_cache",
    "data.wanted",
    "data.shards",
    "window.tail",
    "sizing.memory",
    "sizing.speed",
}
HEAVY = {"torch", "pydantic", "rich", "typer", "transformers", "tokenizers", "safetensors"}
HEAVY |= {"obstore", "aiohttp"}
STANDARD = set(sys.stdlib_module_names) | {"blake3"}

BIGGEST_ROOM = 0.15
"""Of the lines of the source."""


def room(name: str) -> str:
    return name.split(".")[0]


def rooms_of(names: set[str]) -> set[str]:
    return {n.split(".")[1] for n in names if n.startswith("farflung.")} - {"__version__"}


@pytest.mark.parametrize("name", [n for n in modules() if room(n) in ROOMS])
def test_a_module_imports_only_the_rooms_that_its_room_may_know(name: str) -> None:
    allowed = ROOMS[room(name)] | SHARED | {room(name)}
    assert rooms_of(imports(modules()[name])) <= allowed


@pytest.mark.parametrize("name", [n for n in modules() if room(n) in ENTRIES])
def test_an_entry_imports_only_what_it_may_know(name: str) -> None:
    allowed = ENTRIES[room(name)] | SHARED
    assert rooms_of(imports(modules()[name])) <= allowed


def test_every_module_is_in_a_room_with_rules() -> None:
    assert {room(n) for n in modules()} <= {*ROOMS, *ENTRIES, *VOCABULARY}


@pytest.mark.parametrize("name", sorted(VOCABULARY & set(modules())))
def test_the_vocabulary_needs_the_standard_library_only(name: str) -> None:
    found = imports(modules()[name])
    assert rooms_of(found) <= VOCABULARY
    outside = {n.split(".")[0] for n in found} - STANDARD - {"farflung"}
    assert not outside


def agent_side() -> list[str]:
    return [n for n in modules() if room(n) in AGENT_ROOMS or n in AGENT_MODULES]


@pytest.mark.parametrize("name", agent_side())
def test_the_agents_side_loads_no_heavy_library(name: str) -> None:
    found = {n.split(".")[0] for n in imports(modules()[name], at_load=True)}
    assert not found & HEAVY


def test_a_started_agent_and_coordinator_hold_no_heavy_library() -> None:
    """What is really loaded, through every import of imports."""
    code = (
        "import sys, farflung.peer.agent, farflung.coordinator.coordinator\n"
        "import farflung.run.assemble\n"
        f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["outer", "network", "averaging", "swarm"])
def test_rooms_without_tensors_never_import_torch(name: str) -> None:
    for module, tree in modules().items():
        if room(module) == name:
            assert "torch" not in {n.split(".")[0] for n in imports(tree)}, module


PURE = [
    "swarm.state",
    "swarm.decide",
    "swarm.membership",
    "swarm.planning",
    "swarm.trial",
    "swarm.resolve",
    "swarm.ending",
    "swarm.amendments",
    "swarm.course",
    "swarm.replay",
    "swarm.ledger",
    "swarm.mixing",
    "data.order",
    "data.mixture",
    "data.samples",
    "swarm.ranges",
    "averaging.plan",
]


@pytest.mark.parametrize("name", PURE)
def test_decisions_have_no_clock_socket_or_randomness_inside(name: str) -> None:
    impure = {"time", "random", "secrets", "asyncio", "socket", "os", "datetime", "threading"}
    found = {n.split(".")[0] for n in imports(modules()[name])}
    assert not found & impure
    assert not rooms_of(imports(modules()[name])) & {"clock", "disk"}


def test_nothing_but_the_package_itself_imports_by_name() -> None:
    """A name that is computed would pass all the rules above unseen."""
    found = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name | ast.alias)
        and getattr(node, "attr", getattr(node, "id", getattr(node, "name", "")))
        in {"import_module", "__import__"}
    }
    assert found == {""}


def test_all_imports_are_absolute() -> None:
    relative = [
        f"{name}:{node.lineno}"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_every_module_has_a_docstring() -> None:
    bare = [n for n, tree in modules().items() if tree.body and ast.get_docstring(tree) is None]
    assert not bare


def test_no_room_holds_more_than_its_share() -> None:
    lines = Counter[str]()
    for name in modules():
        lines[room(name)] += len(path_of(name).read_text(encoding="utf-8").splitlines())
    total = sum(lines.values())
    assert not {n: k for n, k in lines.items() if k > BIGGEST_ROOM * total}


def test_the_command_line_is_there_before_anything_heavy_is() -> None:
    """`farflung --help` and every mistake in an option answer at once."""
    code = (
        "import sys, farflung.cli.main\n"
        f"print(sorted(set(sys.modules) & {HEAVY - {'typer', 'rich'} | {'numpy'}!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
