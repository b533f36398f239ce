"""`make model`: every search with its deeper bounds, every mutant with the promise that it breaks,
and the longer histories in lockstep with the real `decide`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "swarm"))

from model_histories import LONG, SHORT, Short
from model_runs import COMMIT, COMMIT_MUTANTS, ROUNDS, ROUNDS_MUTANTS, Run


def main() -> int:
    begun = time.perf_counter()
    failures = _rules("One round at a time", COMMIT) + _rules("Many rounds", ROUNDS)
    failures += _mutants(COMMIT_MUTANTS + ROUNDS_MUTANTS)
    failures += _lockstep([*SHORT, *LONG])
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"\n{time.perf_counter() - begun:.0f} s, {len(failures)} failures")
    return 1 if failures else 0


def _rules(title: str, runs: list[Run]) -> list[str]:
    print(f"\n{title}\n{'bounds':<42} {'states':>8} {'steps':>9} {'depth':>5} {'s':>6}")
    failures = []
    for run in runs:
        found = run.search()
        size = f"{found.states:>8} {found.steps:>9} {found.depth:>5} {found.seconds:>6.1f}"
        print(f"{run.name:<42} {size}  {found.wrong or 'holds'}", flush=True)
        failures.append(run.failure(found))
    return [f for f in failures if f]


def _mutants(runs: list[Run]) -> list[str]:
    print(f"\nMutants\n{'without the rule':<42} {'states':>8} {'in steps':>8} {'s':>6}  breaks")
    failures = []
    for run in runs:
        found = run.search()
        size = f"{found.states:>8} {len(found.trace):>8} {found.seconds:>6.1f}"
        print(f"{run.name:<42} {size}  {found.wrong or 'NOTHING: not caught'}", flush=True)
        failures.append(run.failure(found))
    return [f for f in failures if f]


def _lockstep(runs: list[Short]) -> list[str]:
    print(f"\nIn step with decide\n{'histories':<52} {'moments':>8} {'steps':>8} {'s':>6}")
    failures = []
    for short in runs:
        begun = time.perf_counter()
        moments, steps, _ = short.run()
        spent = time.perf_counter() - begun
        print(f"{short.name:<52} {moments:>8} {steps:>8} {spent:>6.1f}", flush=True)
        if steps < short.at_least:
            failures.append(f"{short.name}: {steps} steps, at least {short.at_least} expected")
    return failures


if __name__ == "__main__":
    sys.exit(main())
