"""One word, one meaning: class names and errors over the whole source."""

from __future__ import annotations

import ast
import builtins
from collections import defaultdict

from source_files import modules

from farflung import errors

REASONED = {
    "errors.FarflungError": "the root",
    "sim.loop.Deadlock": "a fault of a test's story, which nothing may catch as an error of a run",
    "failpoints.Killed": "stands for SIGKILL: no `except Exception` may survive it",
}


def classes() -> list[tuple[str, ast.ClassDef]]:
    """(module, class) of all classes at the top of a module."""
    found = []
    for name, tree in modules().items():
        found += [(name, node) for node in tree.body if isinstance(node, ast.ClassDef)]
    return found


def bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(b).split("[")[0].split(".")[-1] for b in node.bases}


def is_exception(name: str) -> bool:
    kind = getattr(builtins, name, None)
    return isinstance(kind, type) and issubclass(kind, BaseException)


def test_no_public_class_name_is_used_twice() -> None:
    places = defaultdict(list)
    for module, node in classes():
        if not node.name.startswith("_"):
            places[node.name].append(module)
    assert {n: p for n, p in places.items() if len(p) > 1} == {}


def test_every_exception_belongs_to_the_tree() -> None:
    bare = {f"{m}.{n.name}" for m, n in classes() if any(map(is_exception, bases(n)))}
    assert bare == set(REASONED)


def test_the_tree_names_every_error() -> None:
    known, found = {"FarflungError"}, True
    while found:
        found = {n.name for _, n in classes() if bases(n) & known} - known
        known |= found
    assert len(known) > 15
    named = set((errors.__doc__ or "").replace("├", " ").replace("└", " ").split())
    assert known - named == set()
