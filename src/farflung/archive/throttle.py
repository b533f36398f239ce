"""At most so many bytes per second, over objects of a few megabytes."""

from __future__ import annotations

import asyncio


class Throttle:
    """`spend` before sending: it waits until the bytes sent so far fit the rate."""

    def __init__(self, bytes_per_s: float) -> None:
        """0: no limit."""
        self._rate = bytes_per_s
        self._free_s = 0.0
        """When what was allowed so far is sent at that rate."""

    async def spend(self, n_bytes: int) -> None:
        if not self._rate:
            return
        now_s = asyncio.get_running_loop().time()
        start_s = max(now_s, self._free_s)
        self._free_s = start_s + n_bytes / self._rate
        await asyncio.sleep(start_s - now_s)
