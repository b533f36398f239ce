"""`farflung plan`: peers as people write them, bytes, rounds, the bottleneck and its remedy."""

from __future__ import annotations

import json

import msgspec
import pytest
from typer.testing import CliRunner

from farflung.cli.main import app
from farflung.cli.screens.line import cells, plain
from farflung.cli.screens.plan_screen import plan_lines
from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.errors import UserError
from farflung.model.presets import PRESETS
from farflung.sizing.bottleneck import bottleneck
from farflung.sizing.exchange import KEEPER, exchange
from farflung.sizing.groups import parse_groups
from farflung.sizing.links import LINKS, link_of
from farflung.sizing.memory import host_bytes
from farflung.sizing.model import sizes_of, state_floats
from farflung.sizing.plan import RunPlan, make_plan

KEEPS = LINKS["1gbit"]


def spec_of(preset: str = "150m", **outer: int) -> RunSpec:
    data = {"source": "synthetic", "seq_len": 1024}
    table = {"model": {"preset": preset}, "data": data, "inner": {"batch_rows": 64}}
    return from_table({**table, "outer": outer})


def plan_of(peers: str, preset: str = "150m", **outer: int) -> RunPlan:
    spec = spec_of(preset, **outer)
    return make_plan(spec, sizes_of(spec), parse_groups(peers), KEEPS)


def test_groups_as_people_write_them() -> None:
    groups = parse_groups("20x4090@home, 2 x RTX4090@home,h100@200/20mbit,40ms,nat,3xcpu@1gbit")
    assert [(g.count, g.name) for g in groups] == [
        (22, "4090@home"),
        (1, "h100@200/20mbit,40ms,nat"),
        (3, "cpu@1gbit"),
    ]
    link = groups[1].link
    assert (link.down, link.up, link.rtt_s, link.dialable) == (25e6, 2.5e6, 0.04, False)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("3x4909@home", "did you mean '4090'?"),
        ("3x4090@hoem", "did you mean 'home'?"),
        ("3x4090", "must be COUNTxDEVICE@LINK"),
        ("0x4090@home", "at least 1 peer"),
        ("2000x4090@home", "at most 1,000"),
        ("4090@100mbit,soon", "no round trip"),
        ("4090@0mbit", "faster than 0"),
        ("", "is empty"),
    ],
)
def test_a_mistake_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        parse_groups(text)


def test_equal_peers_send_as_the_formula_says() -> None:
    """D (1 - w + w (M - 1)) with w = 1/4 and M = 4 trainers and the keeper."""
    done = exchange(parse_groups("4xcpu@1gbit"), KEEPS, 100e6, 1e6)
    traffic = done.traffic["cpu@1gbit"]
    assert traffic.up == pytest.approx(100e6 * (1 - 0.25 + 0.25 * 4))
    assert traffic.down == pytest.approx(100e6 * (0.25 * 3 + 0.75))
    assert done.transfer_s == pytest.approx(1.75 * 0.8)
    assert done.traffic[KEEPER].up == 0


def test_peers_behind_routers_average_at_the_keeper() -> None:
    done = exchange(parse_groups("3xcpu@home"), KEEPS, 30e6, 1e6)
    assert done.keeper_owns
    assert done.traffic["cpu@home"].up == 30e6
    assert done.traffic[KEEPER].up == 90e6


def test_a_slow_uplink_is_named_with_a_remedy_that_holds() -> None:
    plan = plan_of("2x4090@home,2xh100@1gbit", inner_steps=20)
    sentence = bottleneck(plan, KEEPS)
    assert sentence.startswith("the uplink of 4090@home: ")
    assert "H = 200 and window = 4 with fragments = 8 hide it" in sentence
    better = plan_of("2x4090@home,2xh100@1gbit", inner_steps=200, window=4, fragments=8)
    assert better.time.waiting <= 0.05
    assert bottleneck(better, KEEPS).startswith("computing: ")


def test_a_window_hides_the_averaging() -> None:
    blocking = plan_of("4x4090@1gbit", inner_steps=100)
    overlapped = plan_of("4x4090@1gbit", inner_steps=100, window=2, fragments=4)
    assert blocking.time.waiting > 0.02
    assert overlapped.time.waiting == 0
    assert overlapped.tokens_per_s > blocking.tokens_per_s


def test_slower_peers_do_fewer_steps_and_delay_nobody() -> None:
    plan = plan_of("1xh100@1gbit,1x4090@1gbit")
    fast, slow = plan.groups
    assert fast.steps == 20
    assert 2 < slow.steps < 6
    assert slow.utilisation == pytest.approx(fast.utilisation)


def test_what_does_not_fit_is_left_out_or_refused() -> None:
    plan = plan_of("2xh100@1gbit,1x5080@1gbit", preset="1b")
    assert [g.group.name for g in plan.left_out] == ["5080@1gbit"]
    with pytest.raises(UserError, match=r"needs .* GiB of GPU memory, 5080 has 15\.5"):
        plan_of("1x5080@1gbit", preset="1b")


def test_tokens_end_a_run_that_counts_tokens() -> None:
    plan = plan_of("1xh100@1gbit", tokens=10**9)
    assert plan.rounds == -(-(10**9) // plan.time.tokens)
    assert plan.eta_s == pytest.approx(plan.rounds * plan.time.round_s)


def test_an_agent_holds_slots_for_each_round_in_flight() -> None:
    spec = spec_of(fragments=4, window=1)
    wide = msgspec.structs.replace(spec, outer=msgspec.structs.replace(spec.outer, window=2))
    sizes = sizes_of(spec)
    more = host_bytes(wide, sizes, gpu=True) - host_bytes(spec, sizes, gpu=True)
    assert more == pytest.approx(16 * sizes.largest_fragment + 2 * sizes.fragment_bytes, abs=2)


def test_muon_keeps_one_value_for_hidden_matrices() -> None:
    config = PRESETS["150m"]
    assert state_floats(config, "adamw") == 2
    assert 1.1 < state_floats(config, "muon") < 1.3


@pytest.mark.parametrize("peers", ["20x4090@home,2xh100@1gbit", "3xcpu@200/20mbit,40ms,nat"])
def test_the_table_has_80_columns(peers: str) -> None:
    plan = plan_of(peers)
    lines = plan_lines(plan, bottleneck(plan, KEEPS))
    assert max(map(cells, lines)) <= 80
    text = "\n".join(map(plain, lines))
    assert "estimates" in text
    assert "bottleneck: " in text


def test_json_and_its_mistakes() -> None:
    run = ["plan", "--set", 'data.source="synthetic"', "--json", "--peers"]
    done = CliRunner().invoke(app, [*run, "2xcpu@1gbit"])
    told = json.loads(done.output)
    assert (told["estimate"], told["groups"][0]["count"]) == (True, 2)
    wrong = CliRunner().invoke(app, [*run, "2xcpu@1gbi"])
    assert wrong.exit_code == 2
    assert "did you mean '1gbit'?" in json.loads(wrong.output)["error"]


def test_custom_programs_are_not_guessed() -> None:
    spec = from_table({"model": {"preset": "custom", "program": ["x"]}})
    with pytest.raises(UserError, match="cannot be estimated"):
        sizes_of(spec)


def test_explicit_links_default_to_being_reachable() -> None:
    assert link_of("1gbit").up == 125e6
    assert link_of("1gbit,5ms").rtt_s == 0.005
    assert link_of("50mbit").dialable
