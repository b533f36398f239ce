"""Many seeds over several processes, some of them twice, and what they checked in all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from farflung.errors import FarflungError
from farflung.sim.checks import BrokenInvariant
from farflung.sim.seeds import run_seed

CHUNK = 40
"""Seeds per child process: enough to outweigh its start."""


@dataclass
class Total:
    """Sums over the seeds that were played."""

    seeds: int = 0
    twice: int = 0
    faults: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)

    def add(self, line: dict[str, Any]) -> None:
        """One seed's outcome; a seed seen before must have the same digest."""
        seed = line["seed"]
        if "broken" in line:
            self.broken.append(line["broken"])
            return
        if seed in self.digests:
            self.twice += 1
            if self.digests[seed] != line["digest"]:
                self.broken.append(f"seed {seed}: another history under another PYTHONHASHSEED")
            return
        self.digests[seed] = line["digest"]
        self.seeds += 1
        self.faults += len(line["faults"])
        self.kinds.update(kind_of(f) for f in line["faults"])
        self.counts.update(line["counts"])

    def to_json(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "twice": self.twice,
            "faults": self.faults,
            "kinds": dict(self.kinds),
            "counts": dict(self.counts),
            "broken": self.broken,
        }


def kind_of(fault: str) -> str:
    """'kill p0 at frame 3' -> 'kill peer'."""
    words = fault.split()
    if words[0] == "kill" and len(words) > 1:
        return f"kill {words[1] if words[1] in ('coordinator', 'keeper') else 'peer'}"
    return " ".join(words[:2]) if words[0] in ("full", "slow", "lose", "double") else words[0]


def play(seeds: Sequence[int], faults: int) -> Iterator[dict[str, Any]]:
    """Play seeds here; one plain table per seed."""
    for seed in seeds:
        try:
            outcome = run_seed(seed, faults)
        except BrokenInvariant as broken:
            yield {"seed": seed, "broken": str(broken)}
        else:
            yield {
                "seed": seed,
                "faults": outcome.faults,
                "counts": dict(outcome.counts),
                "digest": outcome.digest,
            }


def play_all(
    seeds: Sequence[int],
    *,
    faults: int,
    jobs: int,
    twice: int,
    on_seed: Callable[[Total], None],
) -> Total:
    """Play all seeds in `jobs` processes, and a sample of `twice` of them again under another
    PYTHONHASHSEED. Raises FarflungError when a child process fails."""
    every = max(1, len(seeds) // twice) if twice else 0
    sample = list(seeds[::every])[:twice] if every else []
    total, lock = Total(), threading.Lock()
    children = _Children()

    def one(chunk: Sequence[int], hash_seed: str) -> None:
        for line in children.lines(chunk, faults, hash_seed):
            with lock:
                total.add(line)
                on_seed(total)

    for group, hash_seed in ((list(seeds), "1"), (sample, "2")):
        with ThreadPoolExecutor(jobs) as pool:
            chunks = [group[i : i + CHUNK] for i in range(0, len(group), CHUNK)]
            try:
                for done in as_completed([pool.submit(one, chunk, hash_seed) for chunk in chunks]):
                    done.result()
            except BaseException:  # Ctrl-C as well: what is not wanted any more is not waited for
                pool.shutdown(wait=False, cancel_futures=True)
                children.end()
                raise
    return total


class _Children:
    """Processes that play chunks of seeds. They are in sessions of their own: a Ctrl-C is for who
    started them."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False
        self._lock = threading.Lock()

    def lines(self, chunk: Sequence[int], faults: int, hash_seed: str) -> Iterator[dict[str, Any]]:
        """What one child prints. Raises FarflungError when it fails; nothing after `end`."""
        command = [sys.executable, "-m", "farflung.sim.batch", str(faults), *map(str, chunk)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        with self._lock:
            if self._ended:
                return
            child = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
            self._running.add(child)
        with child:
            assert child.stdout is not None
            for line in child.stdout:
                yield json.loads(line)
        self._running.discard(child)
        if child.returncode and not self._ended:
            raise FarflungError(f"the process for seeds from {chunk[0]} on ended with an error")

    def end(self) -> None:
        """Now, in the middle of a seed."""
        with self._lock:
            self._ended = True
            for child in self._running:
                child.kill()


def main(arguments: Sequence[str]) -> None:
    """A child: FAULTS SEED..., one JSON line per seed."""
    for line in play([int(a) for a in arguments[1:]], int(arguments[0])):
        try:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # who wanted to know is gone
            os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
