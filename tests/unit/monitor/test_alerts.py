"""When an alert is raised, raised again, and ended."""

from __future__ import annotations

from typing import Any

from farflung.monitor.alerts import REMIND_S, WARM_ROUNDS, Alert, AlertRules, Sight


def head(state: str = "running", **others: Any) -> dict[str, Any]:
    return {
        "name": "books",
        "state": state,
        "reason": "2 of 3 peers are here.",
        "since": 0.0,
        "rounds": 7,
        "tokens": 7000,
        "disagreements": 0,
        "drift": [],
    } | others


def peer(state: str, why: str = "", node: str = "n1") -> dict[str, Any]:
    return {"node": node, "name": "amber", "state": state, "why": why}


def row(number: int, loss: float | None) -> dict[str, Any]:
    return {"round": number, "loss": loss}


def sentences(alerts: list[Alert]) -> list[str]:
    return [a.sentence for a in alerts]


def test_a_pause_is_told_after_its_patience_again_later_and_when_it_ends() -> None:
    watch, paused = AlertRules(patience_s=60), Sight(head=head("paused", since=100.0))
    assert watch.see(paused, 100.0) == []
    assert watch.see(paused, 159.0) == []
    assert sentences(watch.see(paused, 160.0)) == ["books is paused: 2 of 3 peers are here."]
    assert watch.see(paused, 160.0 + REMIND_S - 1) == []
    assert len(watch.see(paused, 160.0 + REMIND_S)) == 1
    assert watch.see(paused, 160.0 + 2 * REMIND_S) == []  # the pause between them doubles
    (ended,) = watch.see(Sight(head=head()), 5000.0)
    assert ended == Alert(kind="paused", sentence="books goes on", at=5000.0, ended=True)


def test_a_short_pause_is_no_alert_and_has_no_end() -> None:
    watch = AlertRules(patience_s=60)
    assert watch.see(Sight(head=head("paused", since=100.0)), 110.0) == []
    assert watch.see(Sight(head=head()), 130.0) == []


def test_a_pause_that_was_there_before_counts_from_its_own_start() -> None:
    paused = Sight(head=head("paused", since=0.0))
    assert len(AlertRules(patience_s=60).see(paused, 1000.0)) == 1


def test_a_peer_that_dies_is_lost_and_one_that_leaves_is_not() -> None:
    watch = AlertRules()
    for node, why in (("a", "silent for 6 s"), ("b", "left: done for today")):
        assert watch.see(Sight(peers=[peer("active", node=node)]), 1.0) == []
        found = watch.see(Sight(peers=[peer("gone", why, node)]), 2.0)
        lost = ["amber is lost: silent for 6 s"] if node == "a" else []
        assert sentences(found) == lost
        assert watch.see(Sight(peers=[peer("gone", why, node)]), 3.0) == []


def test_a_peer_that_was_gone_when_it_began_is_not_lost() -> None:
    assert AlertRules().see(Sight(peers=[peer("gone", "silent for 6 s")]), 1.0) == []


def test_a_loss_spike_is_told_once_and_ends() -> None:
    watch = AlertRules()
    usual = [row(i, 3.0 - 0.001 * i + (0.01 if i % 2 else 0.0)) for i in range(60)]
    assert watch.see(Sight(rounds=usual), 1.0) == []
    (spike,) = watch.see(Sight(rounds=[row(60, 4.5), row(61, 4.6)]), 2.0)
    assert spike.kind == "loss" and spike.sentence.startswith("loss 4.500 in round 60, lately 2.9")
    (ended,) = watch.see(Sight(rounds=[row(62, 2.95)]), 3.0)
    assert ended.ended and "round 62" in ended.sentence


def test_the_first_rounds_and_rounds_without_steps_are_no_spikes() -> None:
    wild = [row(i, 11.0 - i * 9 / WARM_ROUNDS) for i in range(WARM_ROUNDS)]
    watch = AlertRules()
    assert watch.see(Sight(rounds=[*wild, row(WARM_ROUNDS, None)]), 1.0) == []


def test_a_low_disk_is_told_by_size_and_share() -> None:
    gib, watch = 1 << 30, AlertRules()
    assert watch.see(Sight(free_bytes=3 * gib, disk_bytes=1000 * gib), 1.0) == []
    (low,) = watch.see(Sight(free_bytes=gib, disk_bytes=1000 * gib), 2.0)
    assert low.sentence == "only 1.0 GiB are free on the disk of the run's folder"
    (ended,) = watch.see(Sight(free_bytes=9 * gib, disk_bytes=1000 * gib), 3.0)
    assert ended.ended
    assert AlertRules().see(Sight(free_bytes=gib, disk_bytes=10 * gib), 1.0) == []  # 10 % of it


def test_drift_and_the_end_are_told_once() -> None:
    watch = AlertRules()
    assert watch.see(Sight(head=head(disagreements=2)), 1.0) == []  # history
    drift = head(disagreements=3, drift=[{"round": 4, "name": "amber"}])
    expected = ["books: amber reported a state that is not the journal's"]
    assert sentences(watch.see(Sight(head=drift), 2.0)) == expected
    assert watch.see(Sight(head=drift), 3.0) == []
    done = Sight(head=drift | {"state": "finished"})
    assert sentences(watch.see(done, 4.0)) == ["books is complete: 7 rounds, 7,000 tokens"]
    assert watch.see(done, 5.0) == []


def test_only_kinds_that_were_asked_for_are_told() -> None:
    watch = AlertRules(kinds=frozenset({"lost"}), patience_s=0)
    assert watch.see(Sight(head=head("paused")), 100.0) == []
