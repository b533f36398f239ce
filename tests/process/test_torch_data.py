"""Real processes train a mixture of the host's folder and of a store that fails at times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import Swarm, environment

from farflung.config.load import from_table
from farflung.data.prepare import prepare
from farflung.data.split import Document
from farflung.data.tokenizer import load_tokenizer
from farflung.events import RoundCommitted

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "run"))
from data_servers import RangeServer

pytestmark = pytest.mark.slow

T = 64


def make(folder: Path, word: str) -> Path:
    text = "\n".join(f"{word} {n} of {n * n} went out to sea and came back." for n in range(9000))
    prepare([Document(word, text)], load_tokenizer("bytes"), T, folder, shard_rows=2048)
    return folder


def test_a_mixture_of_a_store_and_the_host_is_trained_and_accounted_for(tmp_path: Path) -> None:
    """Every third answer of the store is a 503; the peers start before the data is there."""
    ships, crews = make(tmp_path / "ships", "ships"), make(tmp_path / "crews", "crews")
    store = RangeServer(ships)
    store.status = lambda _: 503 if sum(store.asked.values()) % 3 == 0 else 0
    spec = from_table(
        {
            "name": "mixed",
            "data": {
                "seq_len": T,
                "tokenizer": "bytes",
                "sources": [
                    {"name": "ships", "source": store.url, "weight": 3},
                    {"name": "crews", "source": str(crews), "weight": 1},
                ],
            },
            "inner": {"batch_rows": 8, "warmup_steps": 5},
            "outer": {"rounds": 4, "inner_steps": 15},
            "swarm": {"start_peers": 2},
        }
    )
    try:
        with Swarm(tmp_path / "swarm", spec) as swarm:
            host = swarm.host()
            swarm.join("a", "--data-cache", "64MiB")
            swarm.join("b")
            assert host.wait(200) == 0, host.text
            losses = [e.loss for e in swarm.events("host", RoundCommitted)]
            assert len(losses) == 4 and losses[-1] < losses[0] - 0.5
            assert swarm.verify().returncode == 0
    finally:
        store.close()
    data = swarm.folder("a") / "data"
    assert not list((data / "ships").glob("train-*.bin"))
    assert (data / "crews").resolve() == crews  # the same machine: used in place
    assert list((data.with_name("chunks")).glob("??/*"))
    shown = subprocess.run(
        [sys.executable, "-m", "farflung", "verify", str(swarm.root), "--data"],
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [line for line in shown.splitlines() if line.startswith("data ")]
    assert len(lines) == 2 and all("duplicated 0, lost 0" in line for line in lines), shown
    assert "ships: " in lines[0] and "crews: " in lines[1]
