"""`decide` under random histories of fake peers, then one test for each rule."""

from __future__ import annotations

import pytest
from swarm_driver import Chaos, Driver, driver_spec


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("window", [1, 2])
def test_random_histories_keep_every_promise_and_end(window: int, seed: int) -> None:
    driver = Driver(driver_spec(window=window), trainers=3, keeper=seed % 3 != 0)
    chaos = Chaos(driver, seed)
    for _ in range(250):
        chaos.step()
    for peer in driver.peers.values():
        peer.frozen = False
    driver.run_to_the_end()
    driver.check_end()
