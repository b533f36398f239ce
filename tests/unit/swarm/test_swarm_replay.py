"""A restart finds in the journal what the coordinator knew."""

from __future__ import annotations

import msgspec
import pytest
from swarm_driver import Driver, driver_spec, durable
from swarm_samples import genesis, one_of_each, open_journal, run_spec, written

from farflung.checkpoint.blob_store import BlobStore
from farflung.clock import InlineWorkers
from farflung.errors import ConfigError, CorruptState
from farflung.peer.follower import Follower
from farflung.swarm.records import Term
from farflung.swarm.replay import current_spec, genesis_spec, replay


def test_a_journal_that_does_not_begin_with_genesis_is_refused() -> None:
    for records in ([], [Term(term=1)]):
        with pytest.raises(CorruptState, match="does not begin with GENESIS"):
            replay(records, (512, 512), 0.0)


def test_genesis_carries_the_run_spec_unchanged() -> None:
    spec = run_spec(rounds=17)
    assert genesis_spec(genesis(spec)) == spec


def test_a_genesis_with_an_invalid_spec_is_one_sentence() -> None:
    good = genesis()
    for old, new, words in [
        (b'"rounds":8', b'"rounds":0', r"is not valid: outer\.rounds=0 must be at least 1"),
        (b'"rounds":8', b'"laps":8', "is of another version: .*`laps`"),
    ]:
        assert old in good.spec
        changed = msgspec.structs.replace(good, spec=good.spec.replace(old, new))
        words = f"^the spec in GENESIS of run {good.run} {words}"
        with pytest.raises(ConfigError, match=words):
            replay([changed], (512, 512), 0.0)


def test_one_record_of_every_kind_is_replayed_from_a_file() -> None:
    state = replay(open_journal(written()).records(), (512, 512), 5.0)
    node = state.nodes["a" * 40]
    assert (state.term, state.committed, state.next_round, state.finished) == (1, 1, 1, False)
    assert (state.spec.outer.rounds, state.spec.swarm.grace_s) == (16, 5.0)
    assert (node.generation, node.open) == (1, False)
    assert state.tokens == 8 * 16
    assert state.fragment_rounds == (0, -1)
    assert state.ledger.credited == ((0, 8),)
    assert state.ledger.free == ((8, 16),)


def test_open_stays_are_unknown_for_the_restart_grace_and_then_closed() -> None:
    driver = Driver(driver_spec(), trainers=2)
    driver.gather()
    driver.restart()
    until = {n.unknown_until_s for n in driver.state.nodes.values()}
    assert until == {driver.now_s + driver.spec.swarm.restart_grace_s}
    for _ in range(14):
        driver.advance(1.0)
    assert all(n.open for n in driver.state.nodes.values())
    for _ in range(2):
        driver.advance(1.0)
    assert not any(n.open for n in driver.state.nodes.values())


def test_a_restart_in_the_middle_of_a_round_ends_the_run_as_without_it() -> None:
    driver = Driver(driver_spec(window=2, start_peers=2), trainers=2)
    driver.gather()
    driver.work()
    driver.restart()
    driver.run_to_the_end()
    driver.check_end()
    assert driver.state.committed == 8
    assert {n.generation for n in driver.state.nodes.values()} == {1}


def test_replaying_twice_gives_the_same_state() -> None:
    records = one_of_each()
    assert durable(replay(records, (512, 512), 0.0)) == durable(replay(records, (512, 512), 0.0))


def test_a_node_that_reads_its_journal_a_second_time_holds_the_same() -> None:
    """It does so when an older snapshot comes: changes must not count twice."""
    disk = written()
    follower = Follower(
        disk=disk,
        journal=open_journal(disk, writer=False),
        blobs=BlobStore(disk),
        workers=InlineWorkers(),
    )
    looks = []
    for _ in range(2):
        follower.load()
        looks.append((follower.spec, list(follower.mixes), follower.finished, follower.term))
    assert looks[0] == looks[1]
    assert follower.spec == current_spec(one_of_each())
    assert len(follower.mixes) == 1
