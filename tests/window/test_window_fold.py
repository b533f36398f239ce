"""The fold that the window shows: what it counts, and what it does not depend on."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from synthetic import HOSTILE, Options, Story, Told, view_of

from farflung.events import Event, LinkMeasured, PeerMeasured, PeerSuspect, RoundCommitted
from farflung.monitor.view import View
from farflung.swarm.records import Abandon, AnyRecord, Commit, Evaluation

SMALL = Options(peers=9, rounds=80, seed=3)


def told(options: Options = SMALL) -> list[Told]:
    return list(Story(options).tell())


def records(story: list[Told]) -> list[AnyRecord]:
    return [one for one in story if not isinstance(one, tuple)]


def events(story: list[Told]) -> list[tuple[float, Event]]:
    return [one for one in story if isinstance(one, tuple)]


def framed(view: View) -> dict[str, Any]:
    return json.loads(json.dumps(view.frame(view.newest or 0.0), allow_nan=False))


def feed(view: View, story: list[Told]) -> None:
    for one in story:
        if isinstance(one, tuple):
            view.event(*one)
        else:
            view.record(one)


def test_rounds_credit_and_tokens_are_the_journals() -> None:
    story = told()
    frame = framed(view_of(SMALL))
    commits = [r for r in records(story) if isinstance(r, Commit)]
    tokens = sum(c.tokens for commit in commits for c in commit.contributors)
    assert frame["head"]["rounds"] == len(commits)
    assert frame["head"]["abandoned"] == sum(isinstance(r, Abandon) for r in records(story))
    assert frame["head"]["tokens"] == tokens == sum(p["tokens"] for p in frame["peers"])
    assert sum(p["share"] for p in frame["peers"]) == pytest.approx(1.0, abs=1e-4)
    for peer in frame["peers"]:
        mine = [c for commit in commits for c in commit.contributors if c.node == peer["node"]]
        assert peer["rounds"] == len(mine)
        assert peer["samples"] == sum(stop - start for c in mine for start, stop in c.credited)
    assert frame["rounds"]["tokens"][-1] == tokens
    assert frame["head"]["sources"][0]["samples"] * 1024 == tokens


def test_losses_and_times_are_the_events() -> None:
    story = told()
    rounds = framed(view_of(SMALL))["rounds"]
    for wall, event in events(story):
        if isinstance(event, RoundCommitted):
            at = rounds["round"].index(event.round)
            assert rounds["loss"][at] == pytest.approx(event.loss, rel=1e-5)
            assert (rounds["at"][at], rounds["peers"][at]) == (wall, event.contributors)


@pytest.mark.parametrize("cut", [0, 1, 40, 700, -30])
def test_a_fold_that_is_cut_anywhere_goes_on_as_if_it_was_not(cut: int) -> None:
    story = told()
    view = View()
    feed(view, story[:cut])
    framed(view)  # asking changes nothing
    view.changes(0, 0.0)
    feed(view, story[cut:])
    assert framed(view) == framed(view_of(SMALL))


def test_journal_and_events_may_come_one_after_the_other() -> None:
    """A reader that starts late has the whole journal first."""
    story = told()
    want = framed(view_of(SMALL))
    late = View()
    feed(late, [*records(story), *events(story)])
    woven = View()
    woven.take(records(story), iter(events(story)))
    for view in (late, woven):
        got = framed(view)
        for part in ("rounds", "evaluations", "regions", "lines"):
            assert got[part] == want[part], part
        for key in want["head"].keys() - {"rejected", "started"}:
            assert got["head"][key] == want["head"][key], key
        assert [p | {"strikes": 0} for p in got["peers"]] == [
            p | {"strikes": 0} for p in want["peers"]
        ]
        assert got["timelines"] == want["timelines"]


def test_a_restarted_host_without_its_log_keeps_what_the_journal_knows() -> None:
    story = told()
    whole, journal = framed(view_of(SMALL)), View()
    journal.take(records(story), ())
    frame = framed(journal)
    for key in ("rounds", "abandoned", "tokens", "state_root", "parameters", "rounds_wanted"):
        assert frame["head"][key] == whole["head"][key], key
    assert frame["rounds"]["tokens"] == whole["rounds"]["tokens"]
    assert set(frame["rounds"]["loss"]) == {None} == set(frame["rounds"]["at"])
    assert [p["tokens"] for p in frame["peers"]] == [p["tokens"] for p in whole["peers"]]
    assert len(frame["evaluations"]) == sum(isinstance(r, Evaluation) for r in records(story))
    assert frame["evaluations"][-1]["samples"]
    assert frame["timelines"] == frame["lines"] == []


def test_an_event_log_from_before_there_were_measures_gives_a_useful_page() -> None:
    frame = framed(view_of(Options(peers=5, rounds=30, seed=1, measures=False)))
    assert frame["head"]["loss"] is not None
    assert frame["head"]["utilisation"] > 0.5
    assert frame["head"]["tflops"] > 0  # from the spec
    assert frame["links"]["owners"]  # from the journal
    spans = [p["spans"] for t in frame["timelines"] for p in t["peers"] if p["ready"] is not None]
    assert spans and all(len(s) >= 3 for s in spans)
    assert set(frame["rounds"]["grad_norm"]) == {None}


def test_an_event_log_alone_is_folded_too() -> None:
    view = View()
    for wall, event in events(told()):
        view.event(wall, event)
    head, whole = framed(view)["head"], framed(view_of(SMALL))["head"]
    for key in ("run", "name", "rounds", "abandoned", "tokens", "state_root", "loss", "state"):
        assert head[key] == whole[key], key


def test_medians_are_of_the_peers_that_told() -> None:
    story = told()
    of: dict[int, list[float]] = {}
    for _, event in events(story):
        if isinstance(event, PeerMeasured):
            of.setdefault(event.round, []).append(event.grad_norm)
    rounds = framed(view_of(SMALL))["rounds"]
    for number, norms in of.items():
        norms.sort()
        middle = len(norms) // 2
        want = norms[middle] if len(norms) % 2 else (norms[middle - 1] + norms[middle]) / 2
        assert rounds["grad_norm"][rounds["round"].index(number)] == pytest.approx(want, rel=1e-5)


def test_changes_bring_a_reader_up_to_date() -> None:
    """A page that starts with a frame and takes changes now and then ends with the frame."""
    story, view, rng = told(), View(), random.Random(5)
    rows: dict[int, Any] = {}
    peers: dict[str, Any] = {}
    lines: list[Any] = []
    mark = at = 0
    while at < len(story):
        step = rng.randrange(1, 400)
        feed(view, story[at : at + step])
        at += step
        found = view.changes(mark, 0.0)
        mark = found["step"]
        rows |= {row["round"]: row for row in found["rounds"]}
        peers |= {peer["node"]: peer for peer in found["peers"]}
        lines += found["lines"]
    assert view.changes(mark, 0.0) == {
        "step": mark,
        "head": None,
        "links": None,
        **{k: [] for k in ("rounds", "evaluations", "peers", "timelines", "lines")},
    }
    table = view.rounds(points=10_000)
    assert sorted(rows) == table["round"]
    for index, number in enumerate(table["round"]):
        assert rows[number] == view.row(number)
        assert rows[number]["loss"] == table["loss"][index]
    assert {n: p["tokens"] for n, p in peers.items()} == {
        p["node"]: p["tokens"] for p in view.peers(0.0)
    }
    assert lines[::-1] == view.lines(limit=100_000)


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [s for k, v in value.items() for s in [*strings(k), *strings(v)]]
    return [s for v in value for s in strings(v)] if isinstance(value, list) else []


def test_hostile_text_is_inert_in_every_string() -> None:
    options = Options(peers=60, rounds=30, seed=2)
    story = Story(options)
    assert set(HOSTILE) & {p.name for p in story.peers}
    view = view_of(options)
    pages = [view.peer_page(p["node"], 0.0) for p in view.peers(0.0)]
    answers = [framed(view), json.loads(json.dumps(pages))]
    for text in strings(answers):
        assert all(c.isprintable() or c == "\n" for c in text), repr(text)
        assert len(text) <= 4000
    assert all(len(p["name"]) <= 64 for p in view.peers(0.0))


def test_regions_stay_with_a_host_that_keeps_them_to_itself() -> None:
    shown, hidden = view_of(SMALL), view_of(SMALL, map_shown=False)
    assert shown.regions() and {p["region"] for p in shown.peers(0.0)} > {""}
    frame = framed(hidden)
    assert frame["regions"] == [] and frame["head"]["map"] is False
    assert frame["head"]["regions"] == 0
    assert {p["region"] for p in frame["peers"]} == {""}
    assert {n["region"] for n in frame["links"]["nodes"]} == {""}


def test_states_say_what_they_wait_for() -> None:
    story = told(Options(peers=4, rounds=20, seed=1, finished=True))
    view, seen = View(), {}
    for one in story:
        feed(view, [one])
        head = view.head(0.0)
        seen.setdefault(head["state"], head["reason"])
    assert set(seen) == {"waiting", "running", "paused", "finished"}
    assert "by itself" in seen["paused"] and seen["finished"].startswith("Complete: ")
    view = view_of(SMALL)
    view.serve(False, 7.0)
    head = view.head(9.0)
    assert (head["state"], head["since"]) == ("stopped", 7.0)
    assert "`farflung host`" in head["reason"]
    assert head["peers_active"] == 0 and head["mfu"] > 0


def test_what_grows_is_bounded() -> None:
    view = view_of(Options(peers=300, rounds=12, seed=1))
    kept = list(view._fold.timelines)
    assert max(len(r.parts) for r in kept[9:]) <= 128
    (oldest,) = view.timelines(0, 1, most=5)
    parts, rest = oldest["peers"], oldest["more"]
    assert len(parts) == 5 and len(parts) + rest > 100
    for at in range(70_000):
        source, target = divmod(at, 300)
        event = LinkMeasured(
            round=1, source=f"s{source}", target=f"t{target}", bytes=1, bytes_per_s=1.0, rtt_s=0.0,
            loss=-1.0,
        )  # fmt: skip
        view.event(1.0, event)
    assert len(view._fold.links._pairs) == 20_000
    links = view.links(16)
    assert len(links["nodes"]) == 16 and links["more"] > 300
    assert all(p["rtt_s"] is None and p["loss"] is None for p in links["pairs"] if p["bytes"] == 1)


def test_a_round_number_that_cannot_be_one_is_left_out() -> None:
    view = View()
    feed(view, told())
    before = framed(view)
    for number in (-1, 1 << 40):
        event = RoundCommitted(
            round=number, fragment=0, attempt=1, contributors=1, tokens=1, total_tokens=1,
            loss=math.nan, took_s=1.0, holders=1, replicated=True, state_root="",
        )  # fmt: skip
        view.event(None, event)
    assert framed(view) == before


def test_who_goes_home_after_the_end_is_no_trouble() -> None:
    view = view_of(Options(peers=4, rounds=20, seed=1, finished=True))
    here = [p for p in view.peers(0.0) if p["state"] == "active"]
    before = len(view.lines(kind="trouble"))
    for peer in here:
        gone = PeerSuspect(node=peer["node"], name=peer["name"], reason="closed by the other side")
        view.event(1.8e9, gone)
    after = {p["node"]: (p["state"], p["why"]) for p in view.peers(0.0)}
    assert here and {after[p["node"]] for p in here} == {("gone", "the run is complete")}
    assert len(view.lines(kind="trouble")) == before


def test_few_nodes_are_linked_as_in_the_whole_table() -> None:
    """However few are asked for, their links are those that the whole table has among them."""
    view = view_of(Options(peers=40, rounds=30, seed=5))
    whole, some = view.links(1000), view.links(6)
    assert some["nodes"] == whole["nodes"][:6] and some["more"] == len(whole["nodes"]) - 6 > 0

    def named(links: dict[str, Any]) -> dict[tuple[str, str], Any]:
        nodes = [n["node"] for n in links["nodes"]]
        return {
            (nodes[p["from"]], nodes[p["to"]]): {k: p[k] for k in p if k not in ("from", "to")}
            for p in links["pairs"]
        }

    shown = {n["node"] for n in some["nodes"]}
    among = {pair: v for pair, v in named(whole).items() if shown.issuperset(pair)}
    assert named(some) == among and list(named(some)) == list(among)
    assert len(view._fold.links._pairs) > 36
