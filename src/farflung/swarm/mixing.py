"""Other weights of the sources in a running run: the record of a change, and what came of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from farflung.data.mixture import Change
from farflung.data.samples import mixture_of
from farflung.errors import ConfigError
from farflung.swarm.records import AnyRecord, Mix
from farflung.swarm.state import Remixing, State, Step


def changes(records: Iterable[AnyRecord]) -> tuple[Change, ...]:
    """The journal's changes of the mixture, in the order in which they were decided."""
    return tuple(
        Change(start=r.start_row, parts=r.weights, bases=r.bases)
        for r in records
        if isinstance(r, Mix)
    )


def mix_record(state: State, weights: Sequence[int | float]) -> Mix:
    """The change to these weights, above all that is leased. Raises ConfigError."""
    timeline = mixture_of(state.spec, changes(state.mixes))
    change = timeline.change(weights, state.ledger.frontier)
    return Mix(term=state.term, start_row=change.start, weights=change.parts, bases=change.bases)


def remix(step: Step, event: Remixing) -> None:
    """Journal the change, unless the weights are those that hold already or cannot be mixed."""
    state = step.state
    try:
        record = mix_record(state, event.weights)
    except ConfigError as error:
        step.because(f"the mixture stays: {error}")
        return
    timeline = mixture_of(state.spec, changes(state.mixes))
    if timeline.at(record.start_row).parts == record.weights:
        return
    step.append(record)
    step.state = replace(state, mixes=(*state.mixes, record))
    step.because(f"the mixture is {list(record.weights)} from sample {record.start_row} on")
