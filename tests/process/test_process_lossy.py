"""Real processes over a delaying, losing, slow network: nobody who lives is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from lossy import Wan, WanSwarm, missing
from processes import ENDLESS, quad_spec

from farflung.events import AttemptFailed, GenerationClosed, PeerSuspect, RoundAbandoned
from farflung.swarm.uplinks import CLEAR_ROUNDS

TESTS = 2
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"{TESTS} tests not run: {missing()}"),
]
FALSE = (GenerationClosed, AttemptFailed, RoundAbandoned)


def test_one_per_cent_of_loss_at_200_ms_evicts_nobody(tmp_path: Path) -> None:
    """benchmarks/false_evictions.py runs it for minutes."""
    spec = quad_spec(**ENDLESS, swarm={"start_peers": 3})
    with Wan(4, delay_s=0.1, loss=0.01) as wan, WanSwarm(tmp_path, spec, wan) as swarm:
        swarm.host()
        for name in "abc":
            swarm.join(name)
        swarm.gathered(3, 120)
        swarm.more(25, 180)
        assert [e for kind in FALSE for e in swarm.events("host", kind)] == []


def test_a_peer_that_fills_its_two_megabit_uplink_is_never_suspect(tmp_path: Path) -> None:
    """Beats share the uplink with a bulk transfer that takes twice `dead_s`."""
    spec = quad_spec(
        **ENDLESS,
        model={"preset": "quadratic", "parameters": 2_000_000},
        swarm={"start_peers": 3, "min_peers": 3},  # nobody can be done without
    )
    rates = [0.0, 250_000.0]
    with Wan(4, delay_s=0.02, loss=0.0, up=rates) as wan, WanSwarm(tmp_path, spec, wan) as swarm:
        swarm.host()
        for name in "abc":
            swarm.join(name)
        swarm.gathered(3, 240)
        swarm.more(1 + CLEAR_ROUNDS, 240)  # measured in the first, settled after the others
        assert [e for kind in FALSE for e in swarm.events("host", kind)] == []
        assert [e for e in swarm.events("host", PeerSuspect) if "no beat" in e.reason] == []
        slow = swarm.events("a")[0].node
        owned = [
            sum(s.stop - s.first for s in c.slices if s.owner == slow) for c in swarm.commits()
        ]
        assert owned[-1] < owned[0]  # its measured rate left it a smaller slice
