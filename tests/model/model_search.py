"""Breadth-first search over the states of a model. Deterministic: same model, same counts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

State = TypeVar("State")


class Model(Protocol[State]):
    """What a search needs. States are immutable and hashable."""

    @property
    def name(self) -> str: ...

    def initial(self) -> State: ...

    def steps(self, state: State) -> Iterable[tuple[str, State]]:
        """Every step that may follow, with its name."""
        ...

    def canonical(self, state: State) -> State:
        """One of the states that behave like this one, the same for as many as is cheap."""
        ...

    def wrong(self, state: State) -> str:
        """The broken promise, in a few words; empty when all hold."""
        ...

    def done(self, state: State) -> bool:
        """Whether everything that the model wants has happened."""
        ...


@dataclass(frozen=True)
class Found(Generic[State]):
    """What a search saw."""

    model: str
    states: int
    steps: int
    """Edges, those to known states included."""
    depth: int
    complete: bool
    """False: the limit of states ended the search."""
    seconds: float
    wrong: str = ""
    trace: tuple[str, ...] = ()
    """Shortest way to the broken promise."""

    def line(self) -> str:
        end = f"{self.wrong}: {' > '.join(self.trace)}" if self.wrong else "holds"
        size = f"{self.states:>8} states {self.steps:>9} steps depth {self.depth:>3}"
        return f"{self.model:<42} {size} {self.seconds:>6.1f} s  {end}"


class _Explored(Generic[State]):
    """Known states in the order of discovery, with the way to each."""

    def __init__(self, first: State) -> None:
        self.number: dict[State, int] = {first: 0}
        self.parents: list[tuple[int, str]] = [(-1, "")]
        self.depths = [0]
        self.edges: list[list[int]] = []

    def trace(self, number: int) -> tuple[str, ...]:
        way: list[str] = []
        while number > 0:
            number, label = self.parents[number]
            way.append(label)
        return tuple(reversed(way))


def search(
    model: Model[State],
    *,
    limit: int = 2_000_000,
    live: bool = False,
) -> Found[State]:
    """All states within the model's bounds, up to the first broken promise.

    `live` checks as well that from every state some way leads to a state that is `done`.
    """
    begun = time.perf_counter()
    first = model.canonical(model.initial())
    known = _Explored(first)
    queue = deque([first])
    done: list[int] = []
    edges = 0

    def found(number: int, wrong: str, complete: bool) -> Found[State]:
        seconds = time.perf_counter() - begun
        way = known.trace(number) if wrong else ()
        size, depth = len(known.number), max(known.depths)
        return Found(model.name, size, edges, depth, complete, seconds, wrong, way)

    while queue:
        state = queue.popleft()
        here = known.number[state]
        wrong = model.wrong(state)
        if wrong:
            return found(here, wrong, complete=True)
        if live and model.done(state):
            done.append(here)
        after: list[int] = []
        for label, raw in model.steps(state):
            edges += 1
            following = model.canonical(raw)
            number = known.number.setdefault(following, len(known.parents))
            if number == len(known.parents):
                known.parents.append((here, label))
                known.depths.append(known.depths[here] + 1)
                queue.append(following)
            after.append(number)
        if live:
            known.edges.append(after)
        if len(known.number) > limit:
            return found(0, "", complete=False)
    if live:
        stuck = _cannot_reach(known.edges, done)
        if stuck is not None:
            return found(stuck, "no way leads to the end", complete=True)
    return found(0, "", complete=True)


def _cannot_reach(edges: list[list[int]], goals: list[int]) -> int | None:
    """The first state from which no goal can be reached."""
    before: list[list[int]] = [[] for _ in edges]
    for source, targets in enumerate(edges):
        for target in targets:
            before[target].append(source)
    reached = set(goals)
    queue = deque(goals)
    while queue:
        for source in before[queue.popleft()]:
            if source not in reached:
                reached.add(source)
                queue.append(source)
    return next((n for n in range(len(edges)) if n not in reached), None)
