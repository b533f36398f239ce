"""A run on one picture, for a README: headline, loss, held-out text, map, who contributed.

From the same frame as the page (web/src/types.ts), drawn by matplotlib (extra `png`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farflung.disk import storage_errors
from farflung.errors import UserError
from farflung.window.land import land

WIDTH, HEIGHT, DPI = 16.0, 10.0, 110
"""Inches, dots per inch: 1,760 x 1,100 points."""
SMOOTH_SHARE = 0.04
"""Of all points, what a smoothed one is the mean of."""
SHOWN_PEERS = 8
MARGIN = 0.045
FONTS = ("Inter", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans")
SCRIPTS = ("Noto Sans CJK JP", "Noto Sans", "DejaVu Sans")
"""For names in other scripts, where they are installed."""


@dataclass(frozen=True)
class Colours:
    """As the page's (web/src/style.css)."""

    paper: str
    ink: str
    muted: str
    faint: str
    rule: str
    land: str
    accent: str
    second: str
    bar: str


LIGHT = Colours(
    *("#fbfbf9", "#16191d", "#4b5259", "#6d747b", "#e4e4df", "#e6e7e2"),
    *("#0b7a75", "#c9700a", "#d8ecea"),
)
DARK = Colours(
    *("#0f1214", "#e9ebec", "#aab1b7", "#868e95", "#252a2e", "#22272a"),
    *("#4cc2b7", "#e8a13a", "#15393a"),
)


def write_summary(frame: dict[str, Any], path: Path, *, dark: bool = False) -> None:
    """A PNG of the frame. UserError without matplotlib, StorageError when the disk refuses."""
    try:
        import matplotlib.figure as figures
        from matplotlib import rc_context
    except ImportError:
        raise UserError(
            "--png needs a package that is not here: pip install 'farflung[png]'"
        ) from None
    fonts = {"font.family": [*_installed(FONTS), *_installed(SCRIPTS)] or ["sans-serif"]}
    with rc_context({**fonts, "text.parse_math": False, "axes.unicode_minus": False}):
        figure = figures.Figure(figsize=(WIDTH, HEIGHT), dpi=DPI)
        _Summary(figure, frame, DARK if dark else LIGHT).draw()
        with storage_errors(path), warnings.catch_warnings():
            # A character that no font here has is drawn as a box.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(path, format="png", metadata={"Software": "farflung"})


def _installed(names: tuple[str, ...]) -> list[str]:
    from matplotlib.font_manager import fontManager

    there = set(fontManager.get_font_names())
    return [name for name in names if name in there]


class _Summary:
    def __init__(self, figure: Any, frame: dict[str, Any], colours: Colours) -> None:
        self._figure, self._frame, self._colours = figure, frame, colours
        self._head: dict[str, Any] = frame["head"]

    def draw(self) -> None:
        self._figure.set_facecolor(self._colours.paper)
        self._title()
        self._numbers()
        self._loss()
        self._map()
        self._leaders()

    def _text(self, x: float, y: float, text: str, size: float, **how: Any) -> None:
        how = {"color": self._colours.ink, "va": "baseline"} | how
        self._figure.text(x, y, text, fontsize=size, **how)

    def _title(self) -> None:
        head = self._head
        self._text(MARGIN, 0.925, _cut(head["name"] or "a run", 40), 30, weight="bold")
        size = f"{_si(head['parameters'])} parameters" if head["parameters"] else ""
        state = {"finished": "complete", "stopped": "as it stands"}.get(
            head["state"], head["state"]
        )
        rounds = f"round {head['rounds']:,} of {head['rounds_wanted']:,}"
        line = "  ·  ".join(part for part in (size, state, rounds) if part)
        self._text(MARGIN, 0.888, line, 13, color=self._colours.muted)
        self._text(
            *(1 - MARGIN, 0.925, "trained with farflung", 13),
            color=self._colours.faint,
            ha="right",
        )

    def _numbers(self) -> None:
        head = self._head
        regions = head["regions"]
        places = f"in {regions} place{'' if regions == 1 else 's'}" if regions else ""
        shown = (
            ("tokens", _si(head["tokens"]), ""),
            ("tokens per second", _si(head["tokens_per_s"]), ""),
            ("peers", f"{head['peers_seen']:,}", places),
            ("computing", _percent(head["utilisation"]), "of the time"),
            ("loss", _plain(head["loss"]), "nats per token"),
            ("held-out text", _plain(head["bits_per_byte"]), "bits per byte"),
            ("traffic", _times(head["reduction"]), "less than data-parallel"),
        )
        step = (1 - 2 * MARGIN) / len(shown)
        for index, (label, value, unit) in enumerate(shown):
            x = MARGIN + index * step
            self._text(x, 0.835, label, 10.5, color=self._colours.faint)
            self._text(x, 0.787, value, 22)
            self._text(x, 0.763, unit, 9.5, color=self._colours.faint)

    def _loss(self) -> None:
        rounds, colours = self._frame["rounds"], self._colours
        axes = self._axes((MARGIN + 0.02, 0.40, 1 - 2 * MARGIN - 0.05, 0.30))
        known = [
            (x, y) for x, y in zip(rounds["round"], rounds["loss"], strict=True) if y is not None
        ]
        self._text(MARGIN, 0.722, "Loss and held-out text, by round", 12.5)
        if not known:
            self._nothing(axes, "no round yet")
            return
        x, y = [a for a, _ in known], [b for _, b in known]
        axes.plot(x, y, color=colours.accent, alpha=0.25, linewidth=0.9)
        axes.plot(x, _smoothed(y), color=colours.accent, linewidth=2.2)
        axes.annotate(
            *("loss, nats per token", (x[-1], _smoothed(y)[-1])),
            xytext=(0, 9),
            textcoords="offset points",
            ha="right",
            color=colours.accent,
            fontsize=10,
        )
        scores = self._frame["evaluations"]
        axes.set_xlim(x[0], max(x[-1], x[0] + 1, *(one["round"] for one in scores)))
        if scores:
            self._scores(axes, scores)

    def _scores(self, axes: Any, scores: list[dict[str, Any]]) -> None:
        colours = self._colours
        other = axes.twinx()
        self._tidy(other)
        other.grid(visible=False)
        x = [one["round"] for one in scores]
        y = [one["bits_per_byte"] for one in scores]
        other.plot(x, y, color=colours.second, linewidth=1.6, marker="o", markersize=3.5)
        other.annotate(
            *("held-out, bits per byte", (x[-1], y[-1])),
            xytext=(0, -16),
            textcoords="offset points",
            ha="right",
            color=colours.second,
            fontsize=10,
        )
        low, high = min(y), max(y)
        room = 0.25 * (high - low or 0.1)
        other.set_ylim(low - 2 * room, high + room)

    def _map(self) -> None:
        axes = self._axes((MARGIN, 0.045, 0.53, 0.285), bare=True)
        self._text(MARGIN, 0.335, "Where it was trained", 12.5)
        for ring in land():
            axes.fill(
                *zip(*(_projected(lon, lat) for lon, lat in ring), strict=True),
                color=self._colours.land,
                linewidth=0,
            )
        axes.set_aspect("equal", anchor="W")
        axes.set_xlim(-2.72, 2.72)
        axes.set_ylim(-1.06, 1.37)
        places = {region["key"]: region for region in self._frame["regions"]}
        tokens: dict[str, int] = {}
        for peer in self._frame["peers"]:
            if peer["region"] in places:
                tokens[peer["region"]] = tokens.get(peer["region"], 0) + peer["tokens"]
        if not tokens:
            what = "nobody said where" if self._head["map"] else "kept private by the host"
            axes.text(0, 0.1, what, ha="center", fontsize=11, color=self._colours.faint)
            return
        most = max(tokens.values()) or 1
        for key, done in sorted(tokens.items(), key=lambda item: -item[1]):
            x, y = _projected(places[key]["lon"], places[key]["lat"])
            axes.scatter(
                *([x], [y]),
                s=18 + 320 * done / most,
                color=self._colours.accent,
                alpha=0.55,
                linewidth=0.8,
                edgecolor=self._colours.paper,
                zorder=3,
            )

    def _leaders(self) -> None:
        colours, left, right = self._colours, 0.53, 1 - MARGIN
        self._text(left, 0.335, "Who contributed", 12.5)
        trainers = [p for p in self._frame["peers"] if p["role"] == "trainer"]
        axes = self._axes((left, 0.045, right - left, 0.275), bare=True)
        axes.set_xlim(0, 1)
        axes.set_ylim(SHOWN_PEERS + 0.6, 0)
        most = max((p["share"] for p in trainers), default=0.0) or 1.0
        for index, peer in enumerate(trainers[:SHOWN_PEERS]):
            y = index + 0.5
            axes.barh(y, 0.38 * peer["share"] / most, left=0.42, height=0.5, color=colours.bar)
            axes.text(0, y, _cut(peer["name"], 26), fontsize=10.5, va="center", color=colours.ink)
            axes.text(
                *(0.432, y, _cut(peer["device"], 30)),
                fontsize=8.5,
                va="center",
                color=colours.muted,
            )
            axes.text(
                *(1, y, f"{_si(peer['tokens'])}  {peer['share']:.0%}"),
                fontsize=10.5,
                ha="right",
                va="center",
                color=colours.ink,
            )
        if len(trainers) > SHOWN_PEERS:
            more = f"and {len(trainers) - SHOWN_PEERS:,} more"
            axes.text(0, SHOWN_PEERS + 0.35, more, fontsize=9.5, va="center", color=colours.faint)

    # ---- axes ------------------------------------------------------------------------------

    def _axes(self, place: tuple[float, float, float, float], *, bare: bool = False) -> Any:
        axes = self._figure.add_axes(place)
        if bare:
            axes.set_axis_off()
        else:
            self._tidy(axes)
        return axes

    def _tidy(self, axes: Any) -> None:
        axes.set_facecolor("none")
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.grid(axis="y", color=self._colours.rule, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, colors=self._colours.faint, labelsize=9.5, pad=6)

    def _nothing(self, axes: Any, sentence: str) -> None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, sentence, ha="center", fontsize=12, color=self._colours.faint)


def _smoothed(values: list[float]) -> list[float]:
    """Mean of what lies around each; the window shrinks towards both ends, so nothing lags."""
    reach, found = max(1, round(SMOOTH_SHARE * len(values) / 2)), []
    for index in range(len(values)):
        near = min(reach, index, len(values) - 1 - index)
        part = values[index - near : index + near + 1]
        found.append(sum(part) / len(part))
    return found


def _projected(lon: float, lat: float) -> tuple[float, float]:
    """Equal Earth (Savric, Patterson, Jenny 2018), radius 1."""
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    root = math.sqrt(3) / 2
    t = math.asin(root * math.sin(math.radians(lat)))
    t2 = t * t
    t6 = t2**3
    slope = a1 + 3 * a2 * t2 + t6 * (7 * a3 + 9 * a4 * t2)
    x = math.radians(lon) * math.cos(t) / (root * slope)
    return x, t * (a1 + a2 * t2 + t6 * (a3 + a4 * t2))


def _known(form: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: "–" if value is None else form(value)


def _scaled(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


_si = _known(_scaled)
_percent = _known(lambda value: f"{value:.0%}")
_plain = _known(lambda value: f"{value:.3f}")
_times = _known(lambda value: f"{value:,.0f} ×")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
