"""`--help` of every command: an example to copy, whole, in a window of 80 columns."""

from __future__ import annotations

import pytest
import typer.main
from typer.testing import CliRunner

from farflung.cli.main import app

NAMES = [[c] for c in typer.main.get_command(app).commands]  # type: ignore[attr-defined]
NAMES += [["data", n] for n in ("prepare", "train-tokenizer", "inspect", "verify")]


def helped(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], terminal_width=80)
    assert done.exit_code == 0
    return done.output


def examples(command: list[str]) -> list[str]:
    """The lines of the indented paragraphs of the function's docstring."""
    found = typer.main.get_command(app)
    for word in command:
        found = found.commands[word]  # type: ignore[attr-defined]
    paragraphs = (found.help or "").split("\n\n")
    kept = [p.removeprefix("\b\n") for p in paragraphs if p.startswith("\b\n")]
    return [line.strip() for p in kept for line in p.splitlines()]


@pytest.mark.parametrize("command", NAMES, ids=" ".join)
def test_every_command_has_examples_that_can_be_copied(command: list[str]) -> None:
    text = helped(*command)
    shown = [line.strip() for line in text.splitlines()]
    wanted = examples(command)
    assert any(line.startswith(f"farflung {command[0]}") for line in wanted)
    assert set(wanted) <= set(shown)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("group", [[], ["data"]], ids=["farflung", "data"])
def test_no_line_of_the_list_is_cut(group: list[str]) -> None:
    listed = helped(*group).partition("Commands:")[2].splitlines()
    assert [line for line in listed if "..." in line] == []
