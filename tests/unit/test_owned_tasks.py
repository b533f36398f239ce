"""Every task of the source has an owner: only tasks.py starts one by hand."""

from __future__ import annotations

import ast

from source_files import modules

BARE = {"create_task", "ensure_future"}
OWNERS = {"tasks"}


def bare(tree: ast.AST) -> list[int]:
    """Lines that start a task which no TaskGroup and no Tasks owns."""
    groups = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and "TaskGroup" in ast.dump(item.context_expr)
    }
    found = []
    for node in ast.walk(tree):
        name = getattr(node, "attr", getattr(node, "id", getattr(node, "name", "")))
        if isinstance(node, ast.Attribute | ast.Name | ast.alias) and name in BARE:
            owner = node.value if isinstance(node, ast.Attribute) else None
            if not (isinstance(owner, ast.Name) and owner.id in groups):
                found.append(getattr(node, "lineno", 0))
    return found


def test_no_task_is_started_without_an_owner() -> None:
    found = {name for name, tree in modules().items() if bare(tree)}
    assert found - OWNERS == set()


def test_the_rule_sees_every_way_to_start_one() -> None:
    tree = ast.parse(
        "import asyncio\n"
        "from asyncio import ensure_future\n"
        "async def f(loop, w):\n"
        "    asyncio.create_task(w)\n"
        "    loop.create_task(w)\n"
        "    async with asyncio.TaskGroup() as group:\n"
        "        group.create_task(w)\n"
    )
    assert bare(tree) == [2, 4, 5]
