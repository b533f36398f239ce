"""The table of `farflung plan`, in 80 columns. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from farflung.cli.screens.line import ScreenLine
from farflung.cli.screens.numbers import NONE, percent, short, size, span
from farflung.cli.screens.text import left, right, wrapped
from farflung.sizing.plan import GroupPlan, RunPlan
from farflung.words import counted

HEADS = ("GPU", "rows", "host", "disk", "tok/s", "MFU", "up", "a day", "busy")
WIDTHS = (8, 7, 8, 8, 7, 5, 8, 8, 5)
NAMES = 16
WIDTH = 80


def plan_lines(plan: RunPlan, bottleneck: str) -> list[ScreenLine]:
    """One row per group, totals, the bottleneck in one sentence."""
    lines: list[ScreenLine] = [
        [("plan of ", ""), (plan.spec.name, "name"), (" · estimates (docs/sizing.md)", "dim")],
        *[[(line, "")] for line in wrapped(_model(plan), WIDTH)],
        *[[(line, "")] for line in wrapped(_outer(plan), WIDTH)],
        [],
        [(left("one peer of", NAMES) + _row(HEADS), "dim")],
    ]
    for group in plan.groups:
        lines += _group_lines(group)
    lines.append([])
    lines += [[(line, "")] for text in _totals(plan) for line in wrapped(text, WIDTH, 2)]
    lines.append([])
    for index, line in enumerate(wrapped(f"bottleneck: {bottleneck}", WIDTH, 4)):
        head = "bottleneck:" if index == 0 else ""
        lines.append([(head, "strong"), (line.removeprefix(head) if head else line, "")])
    return lines


def _row(cells: Sequence[str]) -> str:
    return "".join(right(text, width) for text, width in zip(cells, WIDTHS, strict=True))


def _group_lines(group: GroupPlan) -> list[ScreenLine]:
    name = f"{group.group.count}x{group.group.name}"
    # a long name has a line of its own: nothing of it is lost
    lines: list[ScreenLine] = [] if len(name) < NAMES else [[(name, "name")]]
    shown = left(name, NAMES) if not lines else " " * NAMES
    if not group.fits:
        needed, has = size(group.gpu_bytes), size(group.group.device.memory_bytes)
        text = f" cannot train: a step needs {needed} of GPU memory, it has {has}"
        return [*lines, [(shown, "name"), (text, "bad")]]
    rows = f"{group.micro_rows}" + (f" r{group.recomputed}" if group.recomputed else "")
    cells = (
        size(group.gpu_bytes) if group.gpu_bytes else NONE,
        rows,
        size(group.host_bytes),
        size(group.disk_bytes),
        short(_three_digits(group.tokens_per_s)),
        percent(group.mfu) if group.mfu else NONE,
        size(group.up_bytes),
        size(group.bytes_a_day),
        percent(group.utilisation),
    )
    return [*lines, [(shown, "name"), (_row(cells), "")]]


def _three_digits(value: float) -> float:
    return round(value, 2 - math.floor(math.log10(value))) if value > 0 else 0.0


def _model(plan: RunPlan) -> str:
    config, spec = plan.sizes.config, plan.spec
    return (
        f"{spec.model.preset}: {short(plan.sizes.parameters)} parameters (vocabulary "
        f"{config.vocab:,}), rows of {config.seq_len:,} tokens, {spec.inner.optimizer}"
    )


def _outer(plan: RunPlan) -> str:
    outer = plan.spec.outer
    return (
        f"H = {outer.inner_steps} steps of {plan.spec.inner_batch_tokens:,} tokens, "
        f"fragments = {outer.fragments}, window = {outer.window}, {outer.codec}"
    )


def _totals(plan: RunPlan) -> list[str]:
    time = plan.time
    owners = plan.exchanged.owners
    by = "the keeper" if plan.exchanged.keeper_owns else counted(owners, "peer")
    return [
        f"a round: {seconds(time.round_s)} = training {seconds(time.train_s)}, averaging "
        f"{seconds(plan.sync_s)} (links {seconds(plan.transfer_s)}), by {by}",
        f"the keeper sends {size(plan.keeper_up_bytes)} a round",
        f"the swarm: {short(_three_digits(plan.tokens_per_s))} tokens/s; "
        f"{counted(round(plan.rounds), 'round')}, "
        f"{short(plan.rounds * time.tokens)} tokens in {span(plan.eta_s)}",
    ]


def seconds(value: float) -> str:
    """`0.42 s`, `8.1 s`, `3 m`."""
    if value < 90:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    return span(value)
