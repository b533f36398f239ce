"""The learning rate as a function of committed progress. No torch.

Progress is the share of the run's committed tokens, so an abandoned round does not advance the
schedule and every peer, fast or slow, sees the same factor at the same point of the run.
"""

from __future__ import annotations

import math

import msgspec

from farflung.config.run import InnerSpec


def lr_factor(progress: float, inner: InnerSpec, total_steps: float) -> float:
    """Factor on the peak learning rate, in [0, 1].

    `progress` in [0, 1] is clamped; `total_steps` are the inner steps of the whole run of one peer
    at full speed. Warm-up is linear over `inner.warmup_steps` and never 0: the first step of a
    warm-up of n counts 1/n. The smaller of warm-up and decay holds where they overlap. Where a run
    was extended after its rate had begun to fall, the rate rises from there over as many steps.
    """
    progress = min(max(progress, 0.0), 1.0)
    warm = _ramp(progress * total_steps, inner.warmup_steps)
    return min(warm, _decay(progress, inner, total_steps), _rewarmed(progress, inner, total_steps))


def _rewarmed(progress: float, inner: InnerSpec, total_steps: float) -> float:
    """Limit of the factor after an extension: from what it was before, up to 1."""
    if inner.rewarm is msgspec.UNSET:
        return 1.0
    at, was = inner.rewarm
    if progress < at:
        return 1.0  # a round that was planned before it
    steps_before = total_steps * at / was if was > 0 else total_steps
    before = _decay(was, inner, steps_before)
    return before + (1.0 - before) * _ramp((progress - at) * total_steps, inner.warmup_steps)


def join_ramp(step: float, inner: InnerSpec) -> float:
    """Private factor of a peer with fresh optimizer state, `step` own steps after it joined."""
    return _ramp(step, inner.join_warmup_steps)


def _ramp(step: float, length: float) -> float:
    return 1.0 if length <= 0 else min(1.0, (step + 1.0) / length)


def _decay(progress: float, inner: InnerSpec, total_steps: float) -> float:
    if inner.schedule == "constant":
        return 1.0
    if inner.schedule == "wsd":
        start = 1.0 - inner.decay_fraction
        falling = _share(progress, start)
    else:
        start = min(1.0, inner.warmup_steps / max(total_steps, 1.0))
        falling = 0.5 * (1.0 - math.cos(math.pi * _share(progress, start)))
    return 1.0 - (1.0 - inner.final_lr_fraction) * falling


def _share(progress: float, start: float) -> float:
    """How much of [start, 1] lies behind `progress`."""
    if progress <= start:
        return 0.0
    return (progress - start) / (1.0 - start)
