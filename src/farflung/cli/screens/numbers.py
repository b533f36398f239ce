"""Numbers as people read them at a glance: three digits and a unit. Pure."""

from __future__ import annotations

import math

NONE = "-"
"""What is not known."""


def short(value: float | None) -> str:
    """`812`, `8.1k`, `12.3M`, `1.02B`: three digits."""
    if value is None or not math.isfinite(value):
        return NONE
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * 0.99995:
            return f"{_three(value / unit)}{name}"
    return f"{value:.0f}" if value == round(value) or abs(value) >= 100 else _three(value)


def size(n_bytes: float | None) -> str:
    """`0 MB`, `9.4 MB`, `12 MB`, `1.20 GB`; powers of ten, as networks count."""
    if n_bytes is None or not math.isfinite(n_bytes):
        return NONE
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(n_bytes) >= unit * 0.9995:
            return f"{_three(n_bytes / unit)} {name}"
    return f"{n_bytes:.0f} B"


def span(seconds: float | None) -> str:
    """`8 s`, `3 m`, `2 h 14 m`, `5 d 3 h`: how long, for people."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} m"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} m"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days < 100 else f"{days:,} d"


def percent(share: float | None, digits: int = 0) -> str:
    """`41 %` of 0.41."""
    if share is None or not math.isfinite(share):
        return NONE
    return f"{100 * share:.{digits}f} %"


def fixed(value: float | None, digits: int = 2) -> str:
    """`2.31`; `-` when it is not known."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.{digits}f}" if abs(value) < 1e4 else short(value)


def loss_text(value: float | None) -> str:
    """`2.31`; three digits of what is small."""
    small = value is not None and math.isfinite(value) and 0 < abs(value) < 0.1
    return f"{value:.2g}" if small else fixed(value)


def flops(tera: float) -> str:
    """`17.6 TFLOP/s` of 17.6."""
    for unit, name in ((1e3, "P"), (1.0, "T"), (1e-3, "G")):
        if tera >= unit * 0.9995:
            return f"{_three(tera / unit)} {name}FLOP/s"
    return f"{_three(tera * 1e6)} MFLOP/s"


def parameters(n: int) -> str:
    """`1.23M parameters`; nothing for none."""
    return f"{short(n)} parameters" if n else ""


def _three(value: float) -> str:
    """Three digits: 1.02, 12.3, 123."""
    size = abs(value)
    return f"{value:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}"
