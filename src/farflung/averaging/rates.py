"""How fast this node's network is, measured on the transfers it makes anyway. Pure.

Only saturated windows say anything: one in which bytes waited to leave at both ends, or one with
arrivals before, during and after it. A transfer that fits into buffers is never measured; then the
rate is unknown (0), which means "fast enough not to matter".
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_S = 0.5
"""Between two samples."""
FOLD_WINDOWS = 8
"""A long transfer counts as a new one after this many windows, so that a change is seen."""
RISE, FALL = 0.5, 0.2
"""Weight of the newest transfer in the moving average. A transfer may be slow because the other
side is; a fast one proves what this side can do."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Byte counters of all open data links."""

    left: int
    """Sent and acknowledged by the other side's machine."""
    waiting: int
    """Handed over and not acknowledged yet; above 0 is what matters."""
    arrived: int


class RateMeter:
    """Feed it `sample` every WINDOW_S during exchanges. Rates in bytes/s, 0 is unknown."""

    def __init__(self) -> None:
        self.up = 0.0
        self.down = 0.0
        self._last: tuple[float, Traffic] | None = None
        self._best_up = 0.0
        self._best_down = 0.0
        self._windows = 0
        self._arrivals: list[float] = []
        """Rates of the last windows in a row with arrivals."""

    def sample(self, now_s: float, traffic: Traffic) -> None:
        last = self._last
        if last is not None and now_s - last[0] < WINDOW_S / 2:
            return  # two exchanges at a time: one of them samples
        self._last = (now_s, traffic)
        if last is None:
            return
        seconds, before = now_s - last[0], last[1]
        left, arrived = traffic.left - before.left, traffic.arrived - before.arrived
        if left < 0 or arrived < 0 or seconds > 2 * WINDOW_S:
            # A link was closed and its counters are gone, or nobody looked: another transfer.
            self._fold()
            self._arrivals = []
            return
        up, down = left / seconds, arrived / seconds
        # What passes in a window is no more than the rate: it also proves that a link which was
        # slow is not so slow any more, when nothing has to wait on it.
        if (before.waiting > 0 and traffic.waiting > 0) or up > self.up > 0:
            self._best_up = max(self._best_up, up)
        self._arrivals = [*self._arrivals[-2:], down] if arrived else []
        if len(self._arrivals) == 3:
            self._best_down = max(self._best_down, self._arrivals[1])
        elif down > self.down > 0:
            self._best_down = max(self._best_down, down)
        self._windows += 1
        if self._windows >= FOLD_WINDOWS or not (traffic.waiting or arrived):
            self._fold()

    def _fold(self) -> None:
        self.up = _mixed(self.up, self._best_up)
        self.down = _mixed(self.down, self._best_down)
        self._best_up = self._best_down = 0.0
        self._windows = 0


def _mixed(old: float, new: float) -> float:
    if not new:
        return old
    return new if not old else old + (RISE if new > old else FALL) * (new - old)
