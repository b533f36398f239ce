"""The real `decide` takes the model's steps, and no others; nothing that is due is left undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from model_histories import SHORT, Short, events, spec_of
from model_lockstep import Differs, Lockstep
from swarm_driver import Chaos, Peer, stale_messages

from farflung.swarm import blame, membership, planning, resolve, trial
from farflung.swarm.ledger import Ledger
from farflung.swarm.state import State, Step

ALL_KINDS = {
    *("join", "gen", "close", "lease", "attempt", "fail", "verdict", "commit", "abandon"),
    *("return", "admin", "restart"),
}
"""Steps of the model."""


@pytest.mark.parametrize("short", SHORT, ids=lambda s: s.name)
def test_every_short_history_is_one_of_the_model(short: Short) -> None:
    moments, steps, _ = short.run()
    print(f"{short.name}: {moments} moments, {steps} steps")
    assert steps >= short.at_least


class Weather(Chaos):
    """Stale words go through the lockstep as well."""

    def _stale(self, peer: Peer) -> None:
        if peer.linked:
            for message in stale_messages(self.driver.state):
                self.driver.say(peer, message)


def storm(window: int, fragments: int, seed: int, *, keeper: bool) -> Lockstep:
    """A long random history, then everybody comes back and the run must end."""
    spec = spec_of(window=window, fragments=fragments, rounds=8)
    swarm = Lockstep(spec, trainers=3, keeper=keeper)
    chaos = Weather(swarm, seed)
    for _ in range(200):
        chaos.step()
    for peer in swarm.peers.values():
        peer.frozen = False
    swarm.run_to_the_end()
    return swarm


def test_long_random_histories_are_histories_of_the_model_and_take_all_its_steps() -> None:
    kinds: set[str] = set()
    for seed in range(6):
        for window, fragments in ((1, 1), (1, 2), (2, 2), (3, 4)):
            kinds |= storm(window, fragments, seed, keeper=seed % 3 != 0).kinds
    assert kinds == ALL_KINDS


class Swarm(RuleBasedStateMachine):
    """Hypothesis chooses the events, and shrinks a history in which the two differ."""

    swarm: Lockstep

    @initialize(window=st.sampled_from([1, 2]), keeper=st.booleans())
    def begin(self, window: int, keeper: bool) -> None:
        spec = spec_of(window=window, fragments=window, rounds=3, start_peers=2)
        self.swarm = Lockstep(spec, 2, keeper=keeper)

    @rule(choice=st.integers(0, 31))
    def happens(self, choice: int) -> None:
        self._do(choice, coarse=False)

    @rule(choice=st.integers(0, 31))
    def gets_on(self, choice: int) -> None:
        self._do(choice, coarse=True)

    def _do(self, choice: int, *, coarse: bool) -> None:
        possible = list(events(self.swarm, coarse=coarse))
        label, event = possible[choice % len(possible)]
        event(self.swarm)
        self.swarm.history = (*self.swarm.history, label)

    def teardown(self) -> None:
        if hasattr(self, "swarm"):
            self.swarm.run_to_the_end()


Swarm.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestSwarm = Swarm.TestCase


# ---- a comparison that could not fail would say nothing ------------------------------------


def one_vote(_: State, try_: Any) -> Any:
    """COMMIT with a single vote."""
    signed = [resolve._signed(n, v) for n, v in sorted(try_.votes.items())]
    complete = try_.verdict and len(try_.results) == len(try_.message.slices)
    return tuple(signed[:1]) if signed and complete else None


def unfenced(step: Step, message: Any) -> Any:
    """Messages of older attempts count."""
    round_ = step.state.rounds.get(message.round)
    return round_ if round_ and round_.trial else None


def eager(_: Step, round_: Any) -> str:
    """The attempt starts with the first READY."""
    return "somebody is ready" if round_.ready else ""


def release_at_once(self: Ledger, node: str, generation: int) -> Any:
    """A closed stay gives up claims that an attempt uses."""
    what = self.held.get((node, generation), ())
    return self._release((node, generation), what), what


def forgetful_thaw(step: Step, number: int) -> None:
    """Ranges become free without RETURN."""
    step.state = replace(step.state, ledger=step.state.ledger.thaw(number)[0])


def lenient_train(self: Ledger, node: str, generation: int, round_: int, trained: Any) -> Ledger:
    """Claims need not be a prefix of the lease."""
    claims = {**self.claims, (node, generation): ((round_, tuple(trained)),)}
    return replace(self, claims=claims)


def wide_window(state: State) -> int:
    """Two rounds of one fragment at once."""
    return min(2, state.spec.outer.rounds - state.committed)


def never(*_: Any) -> None:
    """Nobody is ever declared dead."""


def keep_attempting(*_: Any) -> str:
    """An attempt that has lost somebody goes on for ever."""
    return ""


MUTANTS: list[tuple[str, Any, str, Callable[..., Any]]] = [
    ("one vote is enough", resolve, "agreed", one_vote),
    ("votes are not fenced", trial, "current", unfenced),
    ("attempts start early", planning, "may_start", eager),
    ("death returns claims in an attempt", Ledger, "close", release_at_once),
    ("RETURN is not journalled", trial, "thaw", forgetful_thaw),
    ("claims need be no prefix", Ledger, "train", lenient_train),
    ("two rounds of one fragment", planning, "_window", wide_window),
    ("nobody dies", membership, "watch", never),
    ("failed attempts stay", blame, "judge", keep_attempting),
]


@pytest.mark.parametrize(
    ("where", "what", "mutant"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS]
)
def test_a_changed_decide_differs_from_the_model(
    where: Any, what: str, mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, what, mutant)
    with pytest.raises(Differs):
        some_storms()


def some_storms() -> None:
    for seed in range(20):
        storm(1 + seed % 2, 1 + seed % 2, seed, keeper=True)
