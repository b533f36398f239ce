"""`--help` that reads well: examples stay as they are written, names of types are words."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

KEEP = "\b\n"
"""In front of a paragraph that click is not to fill."""


class Command(TyperCommand):
    """A command whose help keeps its examples whole."""

    def __init__(self, *args: Any, help: str | None = None, **options: Any) -> None:
        super().__init__(*args, help=whole_examples(help), **options)
        for param in self.params:
            if getattr(param, "multiple", False):
                param.metavar = param.metavar or "<str>"  # not `<list[str]>`


def whole_examples(text: str | None) -> str | None:
    """Indented paragraphs are commands to copy: none is filled or cut."""
    if text is None:
        return None
    paragraphs = text.split("\n\n")
    return "\n\n".join(KEEP + p if p.startswith("  ") else p for p in paragraphs)
