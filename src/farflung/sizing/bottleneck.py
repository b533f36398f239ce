"""What a plan's speed hangs on, in a sentence, and a remedy that the same formulas confirm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from farflung.config.run import RunSpec
from farflung.errors import ConfigError
from farflung.sizing.exchange import KEEPER
from farflung.sizing.groups import PeerGroup
from farflung.sizing.links import LinkClass
from farflung.sizing.model import sizes_of
from farflung.sizing.plan import RunPlan, make_plan

HIDDEN = 0.05
"""Waiting of this part of a round counts as none."""
WINDOWS = (2, 3, 4, 6, 8)
MOST_STEPS = 500
"""H above this is no remedy: it costs learning."""


def bottleneck(plan: RunPlan, keeper: LinkClass) -> str:
    """For people."""
    waiting = plan.time.waiting
    if waiting <= HIDDEN:
        return (
            f"computing: peers train {100 * (1 - waiting):.0f} % of the time; only more or faster "
            f"devices shorten it"
        )
    what = f"{_what(plan)}: {100 * waiting:.0f} % of a round waits for it"
    return f"{what}; {_remedy(plan, keeper)}"


def _what(plan: RunPlan) -> str:
    transfer, arithmetic = plan.transfer_s, plan.exchanged.arithmetic_s
    rest = plan.sync_s - transfer - arithmetic
    if arithmetic > max(transfer, rest):
        return "encoding, reducing and merging on the peers' CPUs"
    if rest > transfer:
        return "latency and decisions between peers"
    way = "uplink" if plan.exchanged.slowest_up else "downlink"
    if plan.exchanged.slowest == KEEPER:
        return f"the keeper's {way}"
    return f"the {way} of {plan.exchanged.slowest}"


def _remedy(plan: RunPlan, keeper: LinkClass) -> str:
    groups = [g.group for g in plan.groups if g.fits]
    ways = []
    if steps := _enough_steps(plan, groups, keeper):
        ways.append(f"H = {steps} (outer.inner_steps)")
    if window := _enough_window(plan, groups, keeper):
        ways.append(f"window = {window[0]} with fragments = {window[1]}")
    if ways:
        verb = "hides" if len(ways) == 1 else "each hide"
        return f"{' or '.join(ways)} {verb} it"
    if both := _both(plan, groups, keeper):
        return both
    if plan.exchanged.keeper_owns:
        return "let peers be dialled (--bind), so that they average among themselves"
    return f"no H up to {MOST_STEPS} hides it: leave these peers out, or train a smaller model"


def _both(plan: RunPlan, groups: Sequence[PeerGroup], keeper: LinkClass) -> str:
    """Longer rounds and overlap together."""
    for steps in (100, 200, MOST_STEPS):
        for window in (2, 4):
            fragments = max(plan.spec.outer.fragments, 2 * window)
            changes = {"inner_steps": steps, "window": window, "fragments": fragments}
            bigger = steps > plan.spec.outer.inner_steps and window > plan.spec.outer.window
            if bigger and _waiting(plan, groups, keeper, **changes) <= HIDDEN:
                return f"H = {steps} and window = {window} with fragments = {fragments} hide it"
    return ""


def _enough_steps(plan: RunPlan, groups: Sequence[PeerGroup], keeper: LinkClass) -> int:
    """0: none that is reasonable. The sync does not depend on H."""
    now = plan.spec.outer
    wanted = now.inner_steps * plan.sync_s * (1 - HIDDEN) / HIDDEN / plan.time.train_s
    if now.window > 1:
        wanted = now.inner_steps * plan.sync_s / plan.time.train_s / (now.window - 1)
    unit = 5 if wanted < 50 else 10 if wanted < 200 else 50
    for steps in (math.ceil(wanted / unit) * unit, math.ceil(wanted / unit + 1) * unit):
        if steps > MOST_STEPS:
            return 0
        if _waiting(plan, groups, keeper, inner_steps=steps) <= HIDDEN:
            return steps
    return 0


def _enough_window(
    plan: RunPlan, groups: Sequence[PeerGroup], keeper: LinkClass
) -> tuple[int, int] | None:
    for window in WINDOWS:
        if window <= plan.spec.outer.window:
            continue
        fragments = max(plan.spec.outer.fragments, 2 * window)
        if fragments > plan.spec.outer.inner_steps:
            return None
        if _waiting(plan, groups, keeper, window=window, fragments=fragments) <= HIDDEN:
            return window, fragments
    return None


def _waiting(
    plan: RunPlan, groups: Sequence[PeerGroup], keeper: LinkClass, **changes: int
) -> float:
    try:
        spec: RunSpec = msgspec.structs.replace(
            plan.spec, outer=msgspec.structs.replace(plan.spec.outer, **changes)
        )
        sizes = sizes_of(spec, parameters=plan.sizes.parameters)
    except ConfigError:
        return 1.0
    return make_plan(spec, sizes, groups, keeper).time.waiting
