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
FROM = {f"{owner}.{name}" for owner, name in ATTRIBUTES if owner != "np"}
"""`from torch import load` would give the call a harmless name."""


def loads(tree: ast.AST) -> set[str]:
    """Forbidden modules and functions that a tree imports, at any depth of their package."""
    found = imports(tree)
    modules_ = {n for n in found if n.split(".")[0] in MODULES}
    return modules_ | {n for n in found if f"{n.split('.')[0]}.{n.split('.')[-1]}" in FROM}


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
    assert loads(tree) == set()
    assert [w for c in calls(tree) if (w := forbidden(c))] == []


@pytest.mark.parametrize(
    "code",
    ["eval(x)", "torch.load(p)", "np.load(p)", "f(x, allow_pickle=True)", "run(c, shell=True)"],
)
def test_the_check_itself_sees_what_it_forbids(code: str) -> None:
    assert [w for c in calls(ast.parse(code)) if (w := forbidden(c))]


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "from torch import load",
        "from torch.serialization import load as harmless",
        "from numpy import load",
        "from os import system",
    ],
)
def test_the_check_itself_sees_the_imports_that_it_forbids(code: str) -> None:
    assert loads(ast.parse(code))


def test_reading_arrays_and_texts_stays_allowed() -> None:
    code = "import numpy as np, json, os\nfrom numpy import memmap\nnp.frombuffer(json.loads(x))"
    assert not loads(ast.parse(code))
    assert not [w for c in calls(ast.parse(code)) if (w := forbidden(c))]
