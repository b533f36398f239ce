"""Do the tests bite? Plants one bug at a time and demands that its named test fails.

    python tests/teeth/bite.py                   all patches, prints the matrix
    python tests/teeth/bite.py --rotate 4        four of them, chosen by the commit
    python tests/teeth/bite.py no-fsync one-vote some by name

Each `NN-name.patch` begins with `Bug:` (one sentence) and `Caught by:` (pytest ids, the narrowest
that see it). The tests must pass on the sources as they are and fail on the patched copy; errors
of collection do not count. Exit code 1: a tooth is loose.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LIMIT_S = 600.0
FAILED = 1
"""pytest's exit code when tests ran and some failed."""


@dataclass(frozen=True)
class Tooth:
    path: Path
    bug: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem.partition("-")[2]


def read_tooth(path: Path) -> Tooth:
    """A patch with its header. ValueError when a line is missing."""
    fields: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").split("--- a/", 1)[0].splitlines():
        key, colon, value = line.partition(": ")
        if colon:
            fields[key] = value
    if not {"Bug", "Caught by"} <= fields.keys():
        raise ValueError(f"{path.name} needs the lines 'Bug: ...' and 'Caught by: ...'")
    return Tooth(path, fields["Bug"], tuple(fields["Caught by"].split()))


def all_teeth() -> list[Tooth]:
    return [read_tooth(path) for path in sorted(HERE.glob("*.patch"))]


def choose(teeth: list[Tooth], names: list[str], rotate: int) -> list[Tooth]:
    """By name, or `rotate` in a row from a place that the commit decides."""
    if names:
        unknown = set(names) - {t.name for t in teeth}
        if unknown:
            sys.exit(f"no such tooth: {', '.join(sorted(unknown))}; see {HERE}")
        return [t for t in teeth if t.name in names]
    if not rotate:
        return teeth
    start = _commit_number() % len(teeth)
    return [teeth[(start + i) % len(teeth)] for i in range(min(rotate, len(teeth)))]


def _commit_number() -> int:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return int(done.stdout[:12], 16) if done.returncode == 0 else date.today().toordinal()


def copy_of_sources(folder: Path) -> Path:
    skip = shutil.ignore_patterns("__pycache__", ".*cache", "*.patch")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def apply(tooth: Tooth, folder: Path) -> None:
    subprocess.run(["git", "apply", str(tooth.path)], cwd=folder, check=True)


def run_tests(folder: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder / "src"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def bite(tooth: Tooth) -> tuple[bool, float, str]:
    """(caught, seconds, last line of pytest)."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="farflung-tooth-") as name:
        folder = copy_of_sources(Path(name))
        apply(tooth, folder)
        done = run_tests(folder, tooth.tests)
    lines = done.stdout.strip().splitlines() or ["no output"]
    return done.returncode == FAILED, time.monotonic() - started_s, lines[-1]


def check_sound(teeth: list[Tooth]) -> None:
    """Every named test passes on the sources as they are, or a catch would say nothing."""
    tests = tuple(dict.fromkeys(test for tooth in teeth for test in tooth.tests))
    with tempfile.TemporaryDirectory(prefix="farflung-tooth-") as name:
        done = run_tests(copy_of_sources(Path(name)), tests)
    if done.returncode != 0:
        sys.exit(f"the tests fail without any planted bug:\n{done.stdout[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rotate", type=int, default=0)
    options = parser.parse_args()
    if shutil.which("git") is None:
        sys.exit("git is needed to apply patches: apt-get install git")
    teeth = choose(all_teeth(), options.names, options.rotate)
    check_sound(teeth)
    loose = 0
    for tooth in teeth:
        caught, seconds, last = bite(tooth)
        loose += not caught
        word = "caught" if caught else "LOOSE "
        print(f"{word} {seconds:5.1f} s  {tooth.name:28s} {tooth.tests[0]}", flush=True)
        if not caught:
            print(f"        {tooth.bug}\n        {last}", flush=True)
    print(f"{len(teeth) - loose} of {len(teeth)} planted bugs caught")
    sys.exit(1 if loose else 0)


if __name__ == "__main__":
    main()
