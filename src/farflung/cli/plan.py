"""`farflung plan`: what a run would need and how fast it would be, before anybody joins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farflung.config.load import load_spec
from farflung.config.run import RunSpec
from farflung.errors import FarflungError, UserError

if TYPE_CHECKING:
    from farflung.sizing.plan import RunPlan


def plan(
    spec_file: Annotated[
        Path | None, typer.Argument(metavar="[RUN.TOML]", help="The run's spec; else defaults.")
    ] = None,
    peers: Annotated[
        str,
        typer.Option(
            help="COUNTxDEVICE@LINK, separated by commas. Links: home, fibre, office, mobile, "
            "100mbit, 1gbit, 10gbit, datacenter, or DOWN/UP: 200/20mbit,40ms,nat."
        ),
    ] = "",
    keeper: Annotated[str, typer.Option(help="Link of the host's keeper.")] = "1gbit",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the spec: outer.window=2 (repeatable)."),
    ] = None,
    vocab: Annotated[
        int, typer.Option(help="Size of the vocabulary. Default: data.tokenizer's.")
    ] = 0,
    as_json: Annotated[
        bool,
        typer.Option("--json", help='Print it as JSON; mistakes too, as {"error": ...}.'),
    ] = False,
) -> None:
    """Estimate a run: memory, speed, bytes, time, and what it hangs on. Nothing is started.

    Examples:

      farflung plan run.toml --peers 20x4090@home,2xh100@1gbit

      farflung plan run.toml --peers 4xh100@datacenter --set outer.window=2

      farflung plan --peers 3xcpu@200/20mbit,40ms --json
    """
    if as_json:
        _print_json(spec_file, peers, keeper, overrides or [], vocab)
        return
    from farflung.cli.screens.plan_screen import plan_lines
    from farflung.cli.screens.terminal import show, this_terminal

    made, sentence = _made(spec_file, peers, keeper, overrides or [], vocab)
    show(plan_lines(made, sentence), this_terminal())


def _made(
    spec_file: Path | None, peers: str, keeper: str, overrides: list[str], vocab: int
) -> tuple[RunPlan, str]:
    from farflung.sizing.bottleneck import bottleneck
    from farflung.sizing.groups import parse_groups
    from farflung.sizing.links import link_of
    from farflung.sizing.model import sizes_of
    from farflung.sizing.plan import make_plan

    if vocab < 0:
        raise UserError(f"--vocab {vocab} must be at least 1; leave it out for the tokenizer's")
    if not peers:
        raise UserError("--peers is missing; say who trains: --peers 20x4090@home,2xh100@1gbit")
    groups, link = parse_groups(peers), link_of(keeper)
    spec = load_spec(spec_file, overrides)
    made = make_plan(spec, sizes_of(spec, vocab=vocab or _vocab(spec)), groups, link)
    return made, bottleneck(made, link)


def _vocab(spec: RunSpec) -> int | None:
    from farflung.data.tokenizer import load_tokenizer

    if spec.data.synthetic or spec.model.preset in ("custom", "quadratic"):
        return None
    return load_tokenizer(spec.data.tokenizer).vocab_size


def _print_json(
    spec_file: Path | None, peers: str, keeper: str, overrides: list[str], vocab: int
) -> None:
    try:
        made, sentence = _made(spec_file, peers, keeper, overrides, vocab)
    except FarflungError as error:
        typer.echo(json.dumps({"error": str(error)}))
        raise typer.Exit(2) from None
    typer.echo(json.dumps(plan_json(made, sentence), indent=2))


def plan_json(made: RunPlan, sentence: str) -> dict[str, Any]:
    """Plain values: bytes, seconds, tokens/s, shares in [0, 1]."""
    return {
        "estimate": True,
        "name": made.spec.name,
        "parameters": made.sizes.parameters,
        "flops_per_token": made.sizes.flops,
        "fragment_bytes": made.sizes.fragment_bytes,
        "groups": [
            {
                "peers": group.group.name,
                "count": group.group.count,
                "fits": group.fits,
                "gpu_bytes": group.gpu_bytes,
                "micro_rows": group.micro_rows,
                "recomputed_blocks": group.recomputed,
                "host_bytes": group.host_bytes,
                "disk_bytes": group.disk_bytes,
                "tokens_per_s": group.tokens_per_s,
                "mfu": group.mfu or None,
                "steps_per_round": group.steps,
                "up_bytes_per_round": group.up_bytes,
                "down_bytes_per_round": group.down_bytes,
                "bytes_a_day": group.bytes_a_day,
                "utilisation": group.utilisation,
            }
            for group in made.groups
        ],
        "keeper_up_bytes_per_round": made.keeper_up_bytes,
        "sync_s": made.sync_s,
        "train_s": made.time.train_s,
        "round_s": made.time.round_s,
        "waiting": made.time.waiting,
        "tokens_per_s": made.tokens_per_s,
        "rounds": made.rounds,
        "eta_s": made.eta_s,
        "bottleneck": sentence,
    }
