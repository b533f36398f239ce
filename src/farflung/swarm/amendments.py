"""What the operator may change while a run lives, and how a change becomes a record. Pure.

A wish is text, `rounds=+100`, `outer.rounds=150` or `weights=web:5,books:5`. It is resolved against
the run as it is when it is decided; the record holds values only, so that everybody who replays it
gets the same spec (docs/decisions/0025-amendments.md). Weights are a record of their own, MIX,
right before the AMEND that names the request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from farflung.config.run import RunSpec
from farflung.errors import ConfigError, UserError
from farflung.events import RunAmended
from farflung.swarm.mixing import WEIGHTS, shown_weights, wished_mix
from farflung.swarm.records import Amend, Mix
from farflung.swarm.state import Amending, State, Step

AMENDABLE: Mapping[str, tuple[str, ...]] = {
    "outer": ("rounds", "tokens"),
    "inner": ("schedule", "decay_fraction", "final_lr_fraction"),
    "swarm": (
        *("min_peers", "quorum_fraction", "grace_s", "beat_s", "suspect_s", "dead_s"),
        *("progress_s", "attempt_s", "round_s", "restart_grace_s", "norm_band"),
        *("snapshot_every", "keep_rounds"),
    ),
}
"""By section. All else is in the weights, in the ledger, or in how bytes are cut."""
REWARM = "inner.rewarm"
"""Changed with the run's length, never by a wish."""

LARGEST = 2**53
"""What JSON holds exactly."""

Changes = dict[str, Any]
"""`section.name` -> value."""


def take(step: Step, event: Amending) -> None:
    """The records, unless the run has moved on so far that the wish makes no sense any more."""
    try:
        records = granted(step.state, event)
    except UserError:
        return  # who asked looks for the request in the journal, and asks why it is not there
    for record in records:
        step.append(record)
        if isinstance(record, Mix):
            step.state = replace(step.state, mixes=(*step.state.mixes, record))
        else:
            step.state = apply_amend(step.state, record)
    if records:
        told = amended_event(step.state, records)
        step.tell(told)
        step.because(told.sentence)


def granted(state: State, event: Amending) -> tuple[Mix | Amend, ...]:
    """The records that grant the wishes: MIX when weights change, and last AMEND, which names the
    request (with no changes, if weights are all that was wished). Empty when nothing would change,
    or it is granted already.

    Raises UserError in one sentence when they make no sense in this state.
    """
    if event.request in state.amended:
        return ()
    mix = _mix(state, event.wishes)
    changes = _resolve(state, [w for w in event.wishes if not _of_weights(w)])
    if not changes and mix is None:
        return ()
    _check_length(state, amended(state.spec, changes), changes)
    changes |= _rewarmed(state, amended(state.spec, changes))
    amend = Amend(
        term=state.term,
        request=event.request,
        from_round=state.next_round,
        committed=state.committed,
        tokens=state.tokens,
        changes=msgspec.json.encode(changes, order="sorted"),
    )
    return (amend,) if mix is None else (mix, amend)


def apply_amend(state: State, record: Amend) -> State:
    """The state after AMEND: another spec, and a finished run goes on. Raises ConfigError."""
    return replace(
        state,
        spec=amended_by(state.spec, record),
        nodes={name: replace(node, kept=False) for name, node in state.nodes.items()},
        finished=False,
        finished_s=0.0,
        ended=False,
        amended=(*state.amended, record.request),
    )


def amended_by(spec: RunSpec, record: Amend) -> RunSpec:
    """The spec from this record on. Raises ConfigError: it changes what may not change, or this
    version does not know it."""
    try:
        changes = msgspec.json.decode(record.changes, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"an amendment is unreadable: {error}") from None
    for key in changes:
        if key != REWARM and not _amendable(key):
            raise ConfigError(f"an amendment changes {key!r}, which stays as it is for a whole run")
    return amended(spec, changes)


def amended(spec: RunSpec, changes: Changes) -> RunSpec:
    """Raises ConfigError when the values break a rule of the spec."""
    table = msgspec.to_builtins(spec)
    for key, value in changes.items():
        section, _, name = key.partition(".")
        table[section][name] = value
    try:
        return msgspec.convert(table, RunSpec)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the amended settings are not valid: {error}") from None


def same_settings(one: RunSpec, other: RunSpec) -> bool:
    """Whether people wrote the same: what amendments note for themselves does not count."""
    return _written(one) == _written(other)


def differs_in_amendable(one: RunSpec, other: RunSpec) -> bool:
    """Whether two specs are equal but for settings that `--extend` changes."""
    if same_settings(one, other):
        return False
    return same_settings(_reweighted(amended(one, _amendable_values(other)), other), other)


def _reweighted(one: RunSpec, other: RunSpec) -> RunSpec:
    """`one` with the other's weights, when both have the same sources."""
    pairs = list(zip(one.data.sources, other.data.sources, strict=False))
    if [a.name for a, _ in pairs] != [p.name for p in other.data.sources]:
        return one
    sources = tuple(msgspec.structs.replace(a, weight=b.weight) for a, b in pairs)
    return msgspec.structs.replace(one, data=msgspec.structs.replace(one.data, sources=sources))


def _written(spec: RunSpec) -> RunSpec:
    inner = msgspec.structs.replace(spec.inner, rewarm=msgspec.UNSET)
    return msgspec.structs.replace(spec, inner=inner)


def amended_event(state: State, records: Sequence[Mix | Amend]) -> RunAmended:
    """For people, about records that were granted together; `state` is that after them."""
    outer, from_round = state.spec.outer, state.next_round
    words: list[str] = []
    for record in records:
        if isinstance(record, Mix):
            words.append(shown_weights([p.name for p in state.spec.data.parts], record.weights))
        else:
            from_round = record.from_round
            changes = msgspec.json.decode(record.changes, type=dict[str, Any])
            words += [f"{k}={v}" for k, v in sorted(changes.items()) if k != REWARM]
    return RunAmended(
        rounds=outer.rounds, tokens=outer.tokens, from_round=from_round, changes=", ".join(words)
    )


# ---- wishes --------------------------------------------------------------------------------


def _resolve(state: State, wishes: Sequence[str]) -> Changes:
    """What is to change, with the new values. Raises UserError."""
    changes: Changes = {}
    for wish in wishes:
        key, value = _read(state.spec, wish)
        changes[key] = value
    return {k: v for k, v in changes.items() if v != _value(state.spec, k)}


def _mix(state: State, wishes: Sequence[str]) -> Mix | None:
    """The record of the last wish for other weights. Raises UserError."""
    wished = [wish for wish in wishes if _of_weights(wish)]
    return wished_mix(state, wished[-1]) if wished else None


def _of_weights(wish: str) -> bool:
    return wish.partition("=")[0].strip() in WEIGHTS


def _read(spec: RunSpec, wish: str) -> tuple[str, Any]:
    name, equals, text = (part.strip() for part in wish.partition("="))
    if not equals or not name or not text:
        raise UserError(f"--extend {wish!r} must look like rounds=+100 or grace_s=5")
    key = _key(name)
    known = _value(spec, key)
    if isinstance(known, str):
        return key, text
    number = _number(wish, text)
    if text[0] in "+-":
        if key == "outer.tokens" and not known:
            raise UserError(
                f"--extend {wish!r}: this run ends after outer.rounds={spec.outer.rounds}, not by "
                "tokens; give rounds=+N"
            )
        number += known
    if isinstance(known, int) and number != int(number):
        raise UserError(f"--extend {wish!r}: {key} is a whole number")
    return key, type(known)(number)


def _key(name: str) -> str:
    """The full name of a setting that may change. UserError names those."""
    for section, names in AMENDABLE.items():
        for known in names:
            if name in (known, f"{section}.{known}"):
                return f"{section}.{known}"
    every = ", ".join([*(n for names in AMENDABLE.values() for n in names), WEIGHTS[0]])
    raise UserError(f"--extend cannot change {name!r} of a run that is there; it can: {every}")


def _number(wish: str, text: str) -> float:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if abs(number) <= LARGEST:  # not for nan either
            return number
    raise UserError(f"--extend {wish!r}: {text!r} is no number; give rounds=150 or rounds=+100")


def _check_length(state: State, spec: RunSpec, changes: Changes) -> None:
    """The run's new end lies before it, and is counted as it was. Raises UserError."""
    counted, other = ("tokens", "rounds") if state.spec.outer.tokens else ("rounds", "tokens")
    if f"outer.{other}" in changes:
        raise UserError(
            f"this run ends by outer.{counted}={getattr(state.spec.outer, counted)}, and "
            f"outer.{other} would change nothing; extend {counted}=+N"
        )
    if counted == "tokens":
        there, rest = state.tokens, 0
    else:
        there, rest = state.committed, len(state.rounds)
    least = there + max(1, rest)
    value = getattr(spec.outer, counted)
    if value >= least:
        return
    if f"outer.{counted}" in changes:
        raise UserError(
            f"outer.{counted}={value} must be at least {least}: {there} are committed"
            + (f" and {rest} rounds are open" if rest else "")
        )
    raise UserError(
        f"the run is finished after {there} {counted}; open it again with {counted}=+N too"
    )


def _rewarmed(state: State, spec: RunSpec) -> Changes:
    """Where on the new course the learning rate may rise again, and where it was on the old one."""
    if _total(spec) == _total(state.spec):
        return {}
    done = state.tokens if spec.outer.tokens else state.committed
    was, at = done / _total(state.spec), done / _total(spec)
    return {REWARM: (min(1.0, at), min(1.0, was))}


def _total(spec: RunSpec) -> int:
    return spec.outer.tokens or spec.outer.rounds


# ---- settings by name ----------------------------------------------------------------------


def _amendable(key: str) -> bool:
    section, _, name = key.partition(".")
    return name in AMENDABLE.get(section, ())


def _amendable_values(spec: RunSpec) -> Changes:
    names = [f"{section}.{name}" for section, names in AMENDABLE.items() for name in names]
    return {key: _value(spec, key) for key in names}


def _value(spec: RunSpec, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(spec, section), name)
