"""The planted bugs of tests/teeth still fit the sources, and their tests exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "teeth"))

from bite import Tooth, all_teeth  # noqa: E402

TEETH = all_teeth()


def test_there_are_at_least_twenty() -> None:
    assert len(TEETH) >= 20


@pytest.mark.parametrize("tooth", TEETH, ids=lambda t: t.name)
def test_a_patch_fits_and_names_tests_that_exist(tooth: Tooth) -> None:
    done = subprocess.run(
        ["git", "apply", "--check", str(tooth.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for test in tooth.tests:
        path, _, function = test.partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {function.partition('[')[0]}" in text, test
