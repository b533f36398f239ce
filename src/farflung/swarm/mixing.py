"""Other weights of the sources in a running run: the wish, the record of it, and what came of them.

Pure. A wish names every source: `weights=web:5,books:5`. Weights are shares of a whole, so one that
is left out would have to be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from farflung.data.mixture import Change, MixtureTimeline
from farflung.data.samples import mixture_of
from farflung.errors import ConfigError, UserError
from farflung.swarm.records import AnyRecord, Mix
from farflung.swarm.state import State

WEIGHTS = ("weights", "data.weights")
"""How a wish for other weights begins."""


def changes(records: Iterable[AnyRecord]) -> tuple[Change, ...]:
    """The journal's changes of the mixture, in the order in which they were decided."""
    return tuple(
        Change(start=r.start_row, parts=r.weights, bases=r.bases)
        for r in records
        if isinstance(r, Mix)
    )


def mix_record(state: State, weights: Sequence[int | float]) -> Mix | None:
    """The change to these weights, above all that is leased; None when they hold already.

    Raises ConfigError when they cannot be mixed.
    """
    timeline = _mixture(state)
    change = timeline.change(weights, state.ledger.frontier)
    if timeline.newest.parts == change.parts:
        return None
    return Mix(term=state.term, start_row=change.start, weights=change.parts, bases=change.bases)


def wished_mix(state: State, wish: str) -> Mix | None:
    """As `mix_record`, for `weights=web:5,books:5`. Raises UserError in one sentence."""
    names = [part.name for part in state.spec.data.parts]
    if len(names) == 1:
        raise UserError(
            f"--extend {wish!r}: this run has one source, {names[0]!r}; weights are for runs with "
            "several [[data.sources]]"
        )
    weights = _read(wish, names, _mixture(state).newest.parts)
    try:
        return mix_record(state, weights)
    except ConfigError as error:
        raise UserError(f"--extend {wish!r}: {error}") from None


def shown_weights(names: Sequence[str], weights: Sequence[int | float]) -> str:
    """`weights=web:5,books:5`, as a wish says it."""
    return "weights=" + ",".join(f"{n}:{w}" for n, w in zip(names, weights, strict=True))


def _mixture(state: State) -> MixtureTimeline:
    return mixture_of(state.spec, changes(state.mixes))


def _read(wish: str, names: Sequence[str], present: Sequence[int]) -> list[int | float]:
    """In the order of the sources. Raises UserError."""
    found: dict[str, int | float] = {}
    for part in wish.partition("=")[2].split(","):
        name, _, text = (t.strip() for t in part.partition(":"))
        weight = _number(text)
        if not name or weight is None:
            raise UserError(
                f"--extend {wish!r} must give every source its weight, as in "
                f"{shown_weights(names, present)}"
            )
        if name not in names:
            raise UserError(
                f"--extend {wish!r}: the run has no source {name!r}; it has: {', '.join(names)}"
            )
        if name in found:
            raise UserError(f"--extend {wish!r} gives {name!r} two weights; give it one")
        found[name] = weight
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(
            f"--extend {wish!r} leaves out {', '.join(missing)}; weights are shares, so name every "
            f"source (now {shown_weights(names, present)})"
        )
    return [found[name] for name in names]


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
