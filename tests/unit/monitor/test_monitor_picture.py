"""The picture is a pure fold over events; the report counts from it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from farflung.events import (
    Applied,
    AttemptStarted,
    ContributionRejected,
    Event,
    GenerationClosed,
    GenerationOpened,
    Paused,
    PeerJoined,
    PeerReady,
    PeerSuspect,
    Resumed,
    RoundAbandoned,
    RoundCommitted,
    RoundOpened,
    RunFinished,
    RunStarted,
    StateReported,
    Warned,
)
from farflung.monitor.fold import KEPT_NOTES
from farflung.monitor.picture import Picture
from farflung.monitor.report import Timed, build_report, time_lost, utilisation
from farflung.monitor.ring import ddp_bytes
from farflung.monitor.view import View


def fold(events: list[Event]) -> Picture:
    view = View()
    for event in events:
        view.event(None, event)
    return view.picture()


def joined(node: str = "a", role: str = "trainer") -> Event:
    return PeerJoined(node=node, name=f"name-{node}", role=role)


def opened(node: str = "a", generation: int = 1) -> Event:
    return GenerationOpened(node=node, name=f"name-{node}", generation=generation, next_round=0)


def closed(reason: str, node: str = "a") -> Event:
    return GenerationClosed(node=node, name=f"name-{node}", generation=1, reason=reason, returned=4)


def ready(node: str = "a", **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "round": 0,
        "node": node,
        "name": f"name-{node}",
        "steps": 5,
        "tokens": 80,
        "loss_sum": 10.0,
        "compute_s": 3.0,
        "wait_s": 1.0,
        "note": "",
    }
    return PeerReady(**{**fields, **changes})


def committed(round_: int = 0, **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "round": round_,
        "fragment": 0,
        "attempt": 1,
        "contributors": 2,
        "tokens": 160,
        "total_tokens": 160 * (round_ + 1),
        "loss": 2.0 - round_ / 10,
        "took_s": 1.0,
        "holders": 2,
        "replicated": True,
        "state_root": f"root {round_}",
    }
    return RoundCommitted(**{**fields, **changes})


def reported(agrees: bool) -> Event:
    return StateReported(
        round=0, node="a", name="x", state_root="", agrees=agrees, bytes_up=10, bytes_down=20
    )


def test_a_run_is_told_from_its_start_to_its_end() -> None:
    picture = fold(
        [
            RunStarted(run="r", name="tiny", parameters=7, term=2, rounds=9),
            joined(),
            opened(),
            RoundOpened(round=0, fragment=0, peers=1, rows=8),
            ready(),
            AttemptStarted(round=0, attempt=1, candidates=1, owners=1, reason="all"),
            committed(0),
            committed(1),
            RunFinished(rounds=2, tokens=320, state_root="root 1"),
        ]
    )
    assert (picture.name, picture.parameters, picture.term) == ("tiny", 7, 2)
    assert (picture.rounds_wanted, picture.committed, picture.attempts) == (9, 2, 1)
    assert picture.tokens == 320
    assert (picture.loss_first, picture.loss_last) == (2.0, 1.9)
    assert picture.state_root == "root 1"
    assert picture.finished
    assert [p.name for p in picture.active] == ["name-a"]


def test_a_picture_stays_as_it_was_when_more_is_told() -> None:
    view = View()
    view.event(None, joined())
    before = view.picture()
    view.event(None, opened())
    assert before == fold([joined()]) != view.picture()


@pytest.mark.parametrize(("reason", "deaths"), [("left: done", 0), ("no beat for 6.0 s", 1)])
def test_a_death_is_a_stay_that_ended_without_leaving(reason: str, deaths: int) -> None:
    picture = fold([joined(), opened(), closed(reason)])
    assert picture.deaths == deaths
    assert picture.peers["a"].state == "gone"
    assert picture.active == []


def test_a_join_is_a_trainers_stay_that_began_after_the_first_round() -> None:
    start = [joined("a"), joined("k", "keeper"), opened("a")]
    first = RoundOpened(round=0, fragment=0, peers=1, rows=8)
    picture = fold([*start, first, opened("k"), joined("b"), opened("b"), opened("a", 2)])
    assert picture.joins == 2  # b, and a's second stay; keepers do not count


def test_a_suspect_peer_is_active_again_when_it_is_ready() -> None:
    silent = [joined(), opened(), PeerSuspect(node="a", name="name-a", reason="silent")]
    assert fold(silent).peers["a"].state == "suspect"
    assert fold([*silent, ready()]).peers["a"].state == "active"


def test_work_and_traffic_of_a_peer_add_up() -> None:
    picture = fold([joined(), ready(), ready(loss_sum=5.0), reported(True), reported(False)])
    peer = picture.peers["a"]
    assert (peer.rounds, peer.steps, peer.loss) == (2, 10, 1.0)
    assert (peer.compute_s, peer.wait_s) == (6.0, 2.0)
    assert (peer.bytes_up, peer.bytes_down) == (20, 40)
    assert (picture.agreements, picture.disagreements) == (1, 1)


def test_a_peer_without_a_step_keeps_its_last_loss() -> None:
    picture = fold([joined(), ready(), ready(steps=0, loss_sum=0.0)])
    assert picture.peers["a"].loss == 2.0


def test_a_round_without_loss_adds_no_point_to_the_curve() -> None:
    assert fold([committed(0, loss=math.nan)]).losses == ()


def test_pauses_end_with_resume_or_with_a_round() -> None:
    paused: list[Event] = [Paused(reason="paused: 0 of min 1 peer")]
    assert fold(paused).paused == "paused: 0 of min 1 peer"
    assert fold([*paused, Resumed(reason="1 trainers")]).paused == ""
    assert fold([*paused, RoundOpened(round=1, fragment=0, peers=1, rows=8)]).paused == ""


def test_notes_keep_the_newest_sentences() -> None:
    picture = fold([Warned(sentence=f"s{i}") for i in range(20)])
    assert picture.notes == tuple(f"s{i}" for i in range(20 - KEPT_NOTES, 20))
    other = fold(
        [
            RoundAbandoned(round=3, fragment=0, reason="nobody"),
            ContributionRejected(round=4, node="a", name="amber", reason="non-finite values"),
            ready(note="non-finite loss"),
        ]
    )
    assert other.notes == (
        "round 3 abandoned: nobody",
        "round 4: amber rejected: non-finite values",
        "name-a: non-finite loss",
    )
    assert (other.abandoned, other.rejected) == (1, 1)


def test_an_agents_own_events_leave_the_picture_alone() -> None:
    event = Applied(
        round=0, fragment=0, attempt=1, fragment_hash="", state_root="", contributed=True
    )
    assert fold([event]) == fold([])


# ---- the report ----------------------------------------------------------------------------


def test_data_parallel_training_sends_a_bf16_ring_every_step() -> None:
    assert ddp_bytes(1000, 10, 2) == 2 * 1000 * 10
    assert ddp_bytes(1000, 10, 4) == 3 * 1000 * 10
    assert ddp_bytes(1000, 10, 1) == 0


def test_the_time_lost_to_a_death_is_what_its_round_took_beyond_the_median() -> None:
    rounds = [Timed(round=r, at_s=float(r), took_s=t) for r, t in enumerate([1.0, 1.0, 4.0, 1.0])]
    assert time_lost(rounds, 2) == 3.0
    assert time_lost(rounds, 1) == 0.0
    assert time_lost(rounds, None) == time_lost([], 2) == time_lost(rounds, 99) == 0.0


def test_utilisation_is_computing_over_all_time_of_trainers() -> None:
    assert utilisation(fold([joined(), ready()])) == 0.75
    assert math.isnan(utilisation(Picture()))
    assert math.isnan(utilisation(fold([joined("k", "keeper")])))


def test_the_report_says_what_the_picture_says() -> None:
    picture = fold([joined(), opened(), ready(), reported(True), committed(0)])
    report = build_report(
        picture=picture,
        peers=2,
        steps_per_peer=5,
        rounds=[],
        kill_round=None,
        hashes_equal=True,
        duplicated=0,
        lost=0,
        partial=0,
        evaluation={"bits_per_byte": 2.5, "sample": "text"},
        solo={},
        solo_steps=10,
        seconds=9.0,
        swarm_seconds=8.0,
    )
    assert report["rounds_committed"] == 1
    assert (report["bpb_last"], report["sample"]) == (2.5, "text")
    assert (report["bytes_up_per_peer"], report["bytes_down_per_peer"]) == (10, 20)
    assert report["utilisation"] == 0.75
    assert report["solo_bpb"] is None
