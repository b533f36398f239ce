"""AMEND: what an operator may change of a run, and that everybody changes it alike."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import pytest
from swarm_driver import Chaos, Driver, driver_spec
from swarm_samples import genesis, run_spec

from farflung.config.run import InnerSpec, spec_from_bytes
from farflung.errors import ConfigError, ProtocolError, UserError
from farflung.network.messages import Moved
from farflung.swarm.amendments import (
    AMENDABLE,
    apply_amend,
    differs_in_amendable,
    granted,
    same_settings,
)
from farflung.swarm.course import check_course
from farflung.swarm.decide import decide
from farflung.swarm.records import Abandon, Admin, Amend, AnyRecord, Commit, Lease
from farflung.swarm.replay import current_spec, replay
from farflung.swarm.state import Amending, State, Tell, Tick


def wanted(*wishes: str, request: str = "r1") -> Amending:
    return Amending(request=request, wishes=wishes)


def amendment(state: State, event: Amending) -> Amend | None:
    """Of a run with one source: AMEND is all that there can be."""
    records = granted(state, event)
    assert len(records) <= 1
    return next((r for r in records if isinstance(r, Amend)), None)


def after_wish(state: State, *wishes: str) -> State:
    record = amendment(state, wanted(*wishes))
    assert record is not None
    return apply_amend(state, record)


def new_run(**outer: object) -> State:
    return replay([genesis(run_spec(**outer))], (512, 512), 0.0)


def after(committed: int) -> State:
    return replace(new_run(), committed=committed, next_round=committed)


def refusal(state: State, *wishes: str) -> str:
    with pytest.raises(UserError) as caught:
        amendment(state, wanted(*wishes))
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence
    return sentence


# ---- wishes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "key", "value"),
    [
        ("rounds=+100", ("outer", "rounds"), 108),
        ("rounds=-2", ("outer", "rounds"), 6),
        ("outer.rounds=150", ("outer", "rounds"), 150),
        (" rounds = 1_000 ", ("outer", "rounds"), 1000),
        ("grace_s=5", ("swarm", "grace_s"), 5.0),
        ("grace_s=+0.5", ("swarm", "grace_s"), 3.5),
        ("min_peers=2", ("swarm", "min_peers"), 2),
        ("schedule=constant", ("inner", "schedule"), "constant"),
        ("final_lr_fraction=0.1", ("inner", "final_lr_fraction"), 0.1),
    ],
)
def test_a_wish_names_a_setting_and_a_value_or_a_difference(
    wish: str, key: tuple[str, str], value: object
) -> None:
    spec = after_wish(new_run(), wish).spec
    found = getattr(getattr(spec, key[0]), key[1])
    assert (found, type(found)) == (value, type(value))


def test_every_setting_that_may_change_is_one_of_the_spec() -> None:
    spec = run_spec()
    for section, names in AMENDABLE.items():
        assert all(hasattr(getattr(spec, section), name) for name in names)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("rounds", "must look like rounds=+100"),
        ("=5", "must look like"),
        ("rounds=", "must look like"),
        ("rounds=many", "'many' is no number"),
        ("rounds=1.5", "outer.rounds is a whole number"),
        ("rounds=nan", "is no number"),
        ("rounds=inf", "is no number"),
        (f"rounds={10**30}", "is no number"),
        ("rounds=3", "outer.rounds=3 must be at least 5: 4 are committed"),
        ("rounds=-5", "outer.rounds=3 must be at least 5"),
        ("tokens=+100", "ends after outer.rounds=8, not by tokens"),
        ("tokens=100", "ends by outer.rounds=8, and outer.tokens would change nothing"),
        ("lr=0.1", "cannot change 'lr' of a run that is there; it can: rounds, tokens"),
        ("model.preset=1b", "cannot change 'model.preset'"),
        ("grace_s=-10", "swarm.grace_s=-7.0 must be 0 or above"),
        ("dead_s=1", "must hold"),
        ("schedule=linear", "Invalid enum value 'linear'"),
    ],
)
def test_a_wish_that_makes_no_sense_is_one_sentence(wish: str, words: str) -> None:
    assert words in refusal(after(4), wish)


def test_a_run_that_counts_tokens_is_extended_by_tokens() -> None:
    state = replace(new_run(tokens=1000), committed=3, next_round=3, tokens=900)
    assert after_wish(state, "tokens=+500").spec.outer.tokens == 1500
    assert "ends by outer.tokens=1000" in refusal(state, "rounds=+5")
    assert "outer.tokens=900 must be at least 901" in refusal(state, "tokens=900")


def test_open_rounds_are_not_cut_off() -> None:
    driver = Driver(driver_spec(window=2, start_peers=2), trainers=2)
    driver.gather()
    assert len(driver.state.rounds) == 2
    assert "at least 2: 0 are committed and 2 rounds are open" in refusal(driver.state, "rounds=1")
    driver.feed(wanted("rounds=2"))
    driver.run_to_the_end()
    assert driver.state.committed == 2


def test_what_is_so_already_is_not_written() -> None:
    assert amendment(new_run(), wanted("rounds=8", "grace_s=3.0")) is None
    state = after_wish(new_run(), "rounds=+8")
    assert amendment(state, wanted("rounds=+8")) is None, "the same request, asked twice"
    assert amendment(state, wanted("rounds=+8", request="r2")) is not None


def test_a_finished_run_is_opened_by_more_rounds_only() -> None:
    done = replace(after(8), finished=True, ended=True, finished_s=5.0)
    sentence = refusal(done, "min_peers=2")
    assert sentence == "the run is finished after 8 rounds; open it again with rounds=+N too"
    state = after_wish(done, "rounds=+4", "min_peers=2")
    assert (state.finished, state.ended, state.finished_s) == (False, False, 0.0)
    assert (state.spec.outer.rounds, state.spec.swarm.min_peers) == (12, 2)


def test_the_length_notes_where_the_rate_may_rise_again() -> None:
    spec = after_wish(after(6), "rounds=+8").spec
    assert spec.inner.rewarm == (6 / 16, 6 / 8)
    assert spec_from_bytes(msgspec.json.encode(spec, order="sorted")) == spec
    assert after_wish(after(6), "grace_s=1").spec.inner.rewarm is msgspec.UNSET
    twice = after_wish(replace(after(9), spec=spec), "rounds=20").spec
    assert twice.inner.rewarm == (9 / 20, 9 / 16)


@pytest.mark.parametrize(
    "changes", [b'{"outer.lr":0.1}', b'{"name":"x"}', b"[]", b"{", b'{"a.b":1}']
)
def test_a_record_cannot_change_what_a_run_stands_on(changes: bytes) -> None:
    record = amendment(new_run(), wanted("rounds=9"))
    assert record is not None
    with pytest.raises(ConfigError):
        apply_amend(new_run(), msgspec.structs.replace(record, changes=changes))


def test_spec_files_are_compared_by_what_people_wrote() -> None:
    born = run_spec()
    now = after_wish(after(3), "rounds=20").spec
    written = run_spec(rounds=20)
    assert same_settings(now, written) and not same_settings(born, written)
    assert differs_in_amendable(born, written) and not differs_in_amendable(now, written)
    other = msgspec.structs.replace(written, inner=InnerSpec(batch_rows=8))
    assert not differs_in_amendable(born, other)


# ---- in a history --------------------------------------------------------------------------


def actions(driver: Driver) -> list[str]:
    names = {Admin: lambda r: r.action, Amend: lambda _: "amend"}
    return [names[type(r)](r) for r in driver.records if type(r) in names]


def take_the_last_round(driver: Driver) -> None:
    last = max(driver.state.roots)
    for peer in driver.peers.values():
        root = driver.state.roots[last]
        driver.say(peer, Moved(round=last, bytes_up=0, bytes_down=0, state_root=root))
        peer.kept = True
        driver.beat(peer)


def test_a_finished_run_goes_on_and_ends_a_second_time() -> None:
    driver = Driver(driver_spec(start_peers=2, rounds=3), trainers=2)
    driver.gather()
    driver.run_to_the_end()
    take_the_last_round(driver)
    driver.feed(wanted("rounds=+2"))
    assert not driver.state.finished
    driver.run_to_the_end()
    assert driver.state.committed == 5
    assert actions(driver) == ["finish", "end", "amend", "finish"], "kept was said of round 2"
    take_the_last_round(driver)
    assert actions(driver)[-1] == "end"
    assert check_course(driver.records) == 1
    driver.check_end()


def test_a_round_that_is_open_when_the_tokens_are_reached_waits_for_an_extension() -> None:
    """Else the state that was announced as the final one would not be it."""
    driver = Driver(driver_spec(window=2, start_peers=2, tokens=1000), trainers=2)
    driver.gather()
    driver.run_to_the_end()
    final, (left,) = driver.state.fragment_hashes, driver.state.rounds
    for _ in range(5):
        for peer in driver.peers.values():
            while peer.plans:
                driver.train(peer)
        driver.work()
        driver.advance(1.0)
    assert driver.state.fragment_hashes == final
    driver.feed(wanted("tokens=+600"))
    driver.run_to_the_end()
    resolved = [r.round for r in driver.records if isinstance(r, Commit | Abandon)]
    assert left in resolved and resolved == sorted(resolved)
    assert driver.state.tokens >= 1600
    driver.check_end()


def test_a_restart_finds_the_amended_run() -> None:
    driver = Driver(driver_spec(window=2, start_peers=2), trainers=2)
    driver.gather()
    driver.work()
    driver.feed(wanted("rounds=+3", "min_peers=2"))
    driver.restart()
    assert (driver.state.spec.outer.rounds, driver.state.spec.swarm.min_peers) == (11, 2)
    assert current_spec(driver.records) == driver.state.spec
    driver.run_to_the_end()
    assert driver.state.committed == 11


def test_an_amendment_that_comes_too_late_changes_nothing() -> None:
    state = after(7)
    moved_on = replace(state, committed=8, next_round=8, finished=True, ended=True)
    assert amendment(state, wanted("rounds=8", "grace_s=1")) is not None
    late, told, _ = decide(moved_on, wanted("rounds=8", "grace_s=1"), 1.0)
    assert late == moved_on and not [a for a in told if not isinstance(a, Tell)]


@pytest.mark.parametrize("seed", range(6))
def test_random_histories_with_amendments_replay_to_the_same_state(seed: int) -> None:
    """The driver compares with a replay after every record."""
    driver = Driver(driver_spec(window=2, fragments=2, rounds=6), trainers=3, keeper=seed % 2 == 0)
    chaos, rng = Chaos(driver, seed), random.Random(seed)
    for step in range(300):
        chaos.step()
        if rng.random() < 0.02:
            wish = rng.choice(["rounds=+2", "rounds=-1", "grace_s=+1", "keep_rounds=9"])
            driver.feed(wanted(wish, request=f"{seed} {step}"))
    for peer in driver.peers.values():
        peer.frozen = False
    driver.run_to_the_end()
    driver.check_end()
    amends = [r for r in driver.records if isinstance(r, Amend)]
    assert amends and check_course(driver.records) == len(amends)
    assert driver.state.committed == driver.state.spec.outer.rounds
    assert current_spec(driver.records) == driver.state.spec


# ---- the checker ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def history() -> list[AnyRecord]:
    driver = Driver(driver_spec(start_peers=2, rounds=3), trainers=2)
    driver.gather()
    driver.work()
    driver.feed(wanted("rounds=4"))
    driver.run_to_the_end()
    driver.feed(Tick())
    driver.feed(wanted("rounds=+1", request="r2"))
    driver.run_to_the_end()
    assert check_course(driver.records) == 2
    return driver.records


def place(records: list[AnyRecord], kind: type[AnyRecord], nth: int = 0) -> int:
    return [i for i, r in enumerate(records) if isinstance(r, kind)][nth]


def broken(records: list[AnyRecord], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        check_course(records)


def test_an_amendment_at_another_place_is_seen(history: list[AnyRecord]) -> None:
    for nth in (0, 1):
        records = list(history)
        amend = records.pop(place(records, Amend, nth))
        records.insert(place(records, Commit, 2 - nth) + 1, amend)
        broken(records, "its place is term")


def test_a_missing_or_repeated_amendment_is_seen(history: list[AnyRecord]) -> None:
    at = place(history, Amend, 1)
    broken([*history[:at], *history[at + 1 :]], "was opened in a finished run")
    first = place(history, Amend)
    broken([*history[: first + 1], history[first], *history[first + 1 :]], "journalled twice")


def test_a_run_that_was_finished_before_its_end_is_seen(history: list[AnyRecord]) -> None:
    at = place(history, Lease, 1)
    finish = Admin(action="finish", who="", reason="complete", from_round=1)
    broken([*history[:at], finish, *history[at:]], "finished at . of ")


def test_an_amendment_of_what_may_not_change_is_seen(history: list[AnyRecord]) -> None:
    records = list(history)
    at = place(records, Amend)
    amend = records[at]
    assert isinstance(amend, Amend)
    records[at] = msgspec.structs.replace(amend, changes=b'{"outer.lr":0.5}')
    broken(records, "'outer.lr', which stays as it is")
