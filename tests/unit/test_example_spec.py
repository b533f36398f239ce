"""examples/run.toml shows every setting with its default."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from farflung.config.load import load_spec
from farflung.config.run import RunSpec

EXAMPLE = Path(__file__).parents[2] / "examples" / "run.toml"
HIDDEN = {
    "model": {"program", "parameters", "step_s", "shape"},
    "data": {"rows"},
    "inner": {"rewarm"},
}
"""Settings of custom, quadratic and synthetic runs, which the example does not use, and those that
farflung writes itself."""


def test_the_example_equals_the_defaults() -> None:
    assert load_spec(EXAMPLE) == RunSpec(name="my-run")


def test_the_example_names_every_setting() -> None:
    table = tomllib.loads(EXAMPLE.read_text())
    for section in msgspec.structs.fields(RunSpec):
        if isinstance(table[section.name], dict):
            kind = type(getattr(RunSpec(), section.name))
            names = {f.name for f in msgspec.structs.fields(kind)}
            missing = names - set(table[section.name]) - HIDDEN.get(section.name, set())
            assert not missing, f"[{section.name}] lacks {sorted(missing)}"
