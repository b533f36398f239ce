"""`make model`: every search with its deeper bounds, and the mutants that each promise catches."""

from __future__ import annotations

import sys

from model_runs import COMMIT, COMMIT_MUTANTS, Run


def main() -> int:
    failures = [*_table("The rules", COMMIT), *_table("Mutants", COMMIT_MUTANTS)]
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


def _table(title: str, runs: list[Run]) -> list[str]:
    print(f"\n{title}")
    failures = []
    for run in runs:
        found = run.search()
        print(found.line(), flush=True)
        failures.append(run.failure(found))
    return [f for f in failures if f]


if __name__ == "__main__":
    sys.exit(main())
