"""Which rank orthogonalises which matrix. No torch, no clock: every rank computes the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

BUCKET_ELEMENTS = 1 << 28
"""Elements of the matrices that are on their way to their owners at a time: 512 MiB of bf16."""

Shape = tuple[int, int]


def buckets(shapes: Sequence[Shape], limit: int = BUCKET_ELEMENTS) -> Iterator[list[int]]:
    """Indices in order, in groups of at most `limit` elements; a larger matrix goes alone."""
    group: list[int] = []
    elements = 0
    for index, (rows, columns) in enumerate(shapes):
        if group and elements + rows * columns > limit:
            yield group
            group, elements = [], 0
        group.append(index)
        elements += rows * columns
    if group:
        yield group


def assign_owners(shapes: Sequence[Shape], world: int) -> list[int]:
    """The owner of each matrix: the costliest first, always to the rank with the least work.

    A Newton-Schulz step of R x C costs R C min(R, C). Ties go to the lower index and rank.
    """
    costs = [rows * columns * min(rows, columns) for rows, columns in shapes]
    load = [0] * world
    owners = [0] * len(shapes)
    for index in sorted(range(len(shapes)), key=lambda i: (-costs[i], i)):
        owner = load.index(min(load))
        owners[index] = owner
        load[owner] += costs[index]
    return owners
