"""A run and a list of peers become a plan: one row per group, totals, and the bottleneck."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from farflung.config.run import RunSpec
from farflung.errors import UserError
from farflung.peer.disk_budget import DAY_S
from farflung.sizing.exchange import KEEPER, Exchanged, exchange
from farflung.sizing.groups import PeerGroup
from farflung.sizing.links import LinkClass
from farflung.sizing.memory import disk_bytes, host_bytes
from farflung.sizing.model import ModelSizes
from farflung.sizing.schedule import RoundTime, round_time
from farflung.sizing.speed import PeerSpeed, speed_of


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """What one peer of a group will see."""

    group: PeerGroup
    fits: bool
    gpu_bytes: int
    """0 on a CPU."""
    micro_rows: int
    recomputed: int
    """Blocks that are computed again in the backward pass."""
    host_bytes: int
    disk_bytes: int
    tokens_per_s: float
    """While it trains."""
    mfu: float
    steps: float
    """Of a round; 0 where the model does not fit."""
    up_bytes: float
    """Of a round."""
    down_bytes: float
    bytes_a_day: float
    """Up and down."""
    utilisation: float
    """Part of the time in which it trains."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Estimates only; docs/sizing.md has formulas, sources and what was measured beside them."""

    spec: RunSpec
    sizes: ModelSizes
    groups: tuple[GroupPlan, ...]
    keeper_up_bytes: float
    sync_s: float
    transfer_s: float
    """The part of it that links take."""
    time: RoundTime
    exchanged: Exchanged
    tokens_per_s: float
    """Of the swarm, waiting included."""
    rounds: float
    """Until the run is complete."""
    eta_s: float

    @property
    def left_out(self) -> tuple[GroupPlan, ...]:
        """Groups whose GPUs cannot hold the model."""
        return tuple(g for g in self.groups if not g.fits)


def make_plan(
    spec: RunSpec, sizes: ModelSizes, groups: Sequence[PeerGroup], keeper: LinkClass
) -> RunPlan:
    """UserError when no group can train."""
    speeds = {g.name: speed_of(spec, sizes, g.device) for g in groups}
    able = [g for g in groups if speeds[g.name].fit.fits]
    if not able:
        raise UserError(_nobody(groups, speeds))
    elements = sizes.parameters / spec.outer.fragments
    exchanged = exchange(able, keeper, sizes.fragment_bytes, elements)
    time = round_time(spec, able, speeds, exchanged.seconds)
    rounds = _rounds(spec, time.tokens)
    return RunPlan(
        spec=spec,
        sizes=sizes,
        groups=tuple(_group(spec, sizes, g, speeds[g.name], exchanged, time) for g in groups),
        keeper_up_bytes=exchanged.traffic[KEEPER].up,
        sync_s=exchanged.seconds,
        transfer_s=exchanged.transfer_s,
        time=time,
        exchanged=exchanged,
        tokens_per_s=time.tokens / time.round_s,
        rounds=rounds,
        eta_s=rounds * time.round_s,
    )


def _rounds(spec: RunSpec, tokens: float) -> float:
    return math.ceil(spec.outer.tokens / tokens) if spec.outer.tokens else spec.outer.rounds


def _group(
    spec: RunSpec,
    sizes: ModelSizes,
    group: PeerGroup,
    speed: PeerSpeed,
    exchanged: Exchanged,
    time: RoundTime,
) -> GroupPlan:
    takes_part = group.name in time.work
    traffic, work = exchanged.traffic.get(group.name), time.work.get(group.name)
    up, down = (traffic.up, traffic.down) if traffic else (0.0, 0.0)
    return GroupPlan(
        group=group,
        fits=takes_part,
        gpu_bytes=speed.fit.bytes,
        micro_rows=speed.fit.size.micro_rows,
        recomputed=speed.fit.size.checkpointed,
        host_bytes=host_bytes(spec, sizes, gpu=group.device.is_gpu),
        disk_bytes=disk_bytes(spec, sizes),
        tokens_per_s=speed.tokens_per_s if takes_part else 0.0,
        mfu=speed.mfu if takes_part else 0.0,
        steps=work.steps if work else 0.0,
        up_bytes=up,
        down_bytes=down,
        bytes_a_day=(up + down) * DAY_S / time.round_s,
        utilisation=work.seconds / time.round_s if work else 0.0,
    )


def _nobody(groups: Sequence[PeerGroup], speeds: dict[str, PeerSpeed]) -> str:
    largest = max(groups, key=lambda g: g.device.memory_bytes)
    needed = speeds[largest.name].fit.bytes / 2**30
    return (
        f"no device of --peers can train this: it needs {needed:.1f} GiB of GPU memory, "
        f"{largest.device.name} has {largest.device.memory_bytes / 2**30:.1f}; take larger GPUs, a "
        f"smaller model.preset, or a shorter data.seq_len"
    )
