"""No bytes from a stranger are ever run: no pickle, no eval, no unsafe loading."""

from __future__ import annotations

import ast

import pytest
from source_files import imports, modules

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "yaml"}
NAMES = {"eval", "exec", "__import__", "compile"}
ATTRIBUTES = {
    ("torch", "load"),
    ("torch", "save"),
    ("os", "system"),
    ("os", "popen"),
    ("np", "load"),
    ("numpy", "load"),
    ("builtins", "eval"),
    ("builtins", "exec"),
}
KEYWORDS = {"allow_pickle", "shell"}


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def forbidden(call: ast.Call) -> str:
    """What is wrong with a call; empty when nothing is."""
    function = call.func
    if isinstance(function, ast.Name) and function.id in NAMES:
        return function.id
    if isinstance(function, ast.Attribute):
        owner = function.value.id if isinstance(function.value, ast.Name) else ""
        if (owner, function.attr) in ATTRIBUTES:
            return f"{owner}.{function.attr}"
    for keyword in call.keywords:
        value = keyword.value
        if keyword.arg in KEYWORDS and isinstance(value, ast.Constant) and value.value is True:
            return f"{keyword.arg}=True"
    return ""


@pytest.mark.parametrize("name", list(modules()))
def test_a_module_loads_nothing_that_can_run_a_strangers_code(name: str) -> None:
    tree = modules()[name]
    assert not {n.split(".")[0] for n in imports(tree)} & MODULES
    assert [w for c in calls(tree) if (w := forbidden(c))] == []


@pytest.mark.parametrize(
    "code",
    ["eval(x)", "torch.load(p)", "np.load(p)", "f(x, allow_pickle=True)", "run(c, shell=True)"],
)
def test_the_check_itself_sees_what_it_forbids(code: str) -> None:
    assert [w for c in calls(ast.parse(code)) if (w := forbidden(c))]
