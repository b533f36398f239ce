"""How the source is built, in figures: `make report`. It judges nothing and exits with 0.

A limit on lines shapes files; a list of the longest shows where to look.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "unit"))

from source_files import modules, path_of

SHOWN = 12
Function = ast.FunctionDef | ast.AsyncFunctionDef
BROAD = {"Exception", "BaseException"}


def main() -> None:
    lines = {name: len(path_of(name).read_text().splitlines()) for name in modules()}
    rooms(lines)
    table("Longest files", Counter({f"{n}": c for n, c in lines.items()}), "lines")
    table("Longest functions", functions(), "lines")
    table("Constructors by parameters", constructors(), "parameters")
    table("Classes by instance attributes", attributes(), "attributes")
    places("Tasks without an owner (bare create_task)", bare_tasks())
    places("Broad excepts", broad_excepts())


def rooms(lines: dict[str, int]) -> None:
    total = sum(lines.values())
    sizes: Counter[str] = Counter()
    for name, count in lines.items():
        sizes[name.split(".")[0] if "." in name else "(top)"] += count
    print(f"Rooms: {total:,} lines in {len(lines)} files\n")
    for room, count in sizes.most_common():
        print(f"{count:8,}  {count / total:5.1%}  {room}")


def table(title: str, found: Counter[str], unit: str) -> None:
    values = sorted(found.values())
    middle = values[len(values) // 2] if values else 0
    print(f"\n{title} (of {len(values)}, median {middle} {unit})\n")
    for name, count in found.most_common(SHOWN):
        print(f"{count:8,}  {name}")


def places(title: str, found: Iterable[str]) -> None:
    listed = list(found)
    print(f"\n{title}: {len(listed)}\n")
    for place in listed:
        print(f"          {place}")


# ---- what is counted -----------------------------------------------------------------------


def classes() -> Iterable[tuple[str, ast.ClassDef]]:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield f"{name}.{node.name}", node


def functions() -> Counter[str]:
    """Decorators and docstrings included."""
    found: Counter[str] = Counter()
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                found[f"{module}:{first} {node.name}"] = (node.end_lineno or first) - first + 1
    return found


def constructors() -> Counter[str]:
    """Written ones: a dataclass's fields are no parameter list."""
    found: Counter[str] = Counter()
    for name, node in classes():
        for inner in node.body:
            if isinstance(inner, Function) and inner.name == "__init__":
                given = inner.args
                found[name] = len(given.posonlyargs + given.args + given.kwonlyargs) - 1
    return found


def attributes() -> Counter[str]:
    """Names that any method assigns on `self`."""
    found: Counter[str] = Counter()
    for name, node in classes():
        stored = {
            inner.attr
            for inner in ast.walk(node)
            if isinstance(inner, ast.Attribute)
            and isinstance(inner.ctx, ast.Store)
            and isinstance(inner.value, ast.Name)
            and inner.value.id == "self"
        }
        if stored:
            found[name] = len(stored)
    return found


def bare_tasks() -> Iterable[str]:
    """`asyncio.create_task`, not that of a TaskGroup: nobody is told when such a task fails."""
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.create_task":
                yield f"{module}:{node.lineno}"


def broad_excepts() -> Iterable[str]:
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            kinds = (
                {"bare"}
                if node.type is None
                else set(ast.unparse(node.type).strip("()").split(", "))
            )
            if kinds & (BROAD | {"bare"}):
                yield f"{module}:{node.lineno} {', '.join(sorted(kinds))}"


if __name__ == "__main__":
    main()
