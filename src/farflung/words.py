"""How numbers are said to people."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str = "") -> str:
    """`1 peer`, `1,200 peers`; `plural` where it is not the noun with an s."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"
