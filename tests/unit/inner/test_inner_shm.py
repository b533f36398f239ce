"""The shared block needs no room in /dev/shm: containers give it 64 MB."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

BLOCK = """
import os, shutil
from farflung.inner.seam import SharedState
assert shutil.disk_usage("/dev/shm").total == 64 << 20
n = 12 << 20
block = SharedState.create(n, (((0, n // 2),), ((n // 2, n),)), 2, memfd=True)
block.anchor[:] = 1.0
for slot in range(2):
    for fragment in range(2):
        block.sent(slot, fragment)[:] = 2.0
other = SharedState.open(os.dup(block.fd), n, block.fragments, 2)
assert float(other.anchor.sum()) == n and float(other.sent(1, 1)[-1]) == 2.0
assert os.fstat(block.fd).st_size > 64 << 20
assert shutil.disk_usage("/dev/shm").used == 0
other.close()
block.close()
print("fits")
"""
UNSHARE = shutil.which("unshare")


@pytest.mark.skipif(
    UNSHARE is None or os.geteuid() != 0, reason="a small /dev/shm needs root and unshare"
)
def test_a_block_of_more_than_64_mb_needs_no_room_in_dev_shm() -> None:
    mounted = 'mount -t tmpfs -o size=64m tmpfs /dev/shm || exit 77; exec "$0" -c "$1"'
    done = subprocess.run(
        [str(UNSHARE), "-m", "sh", "-c", mounted, sys.executable, BLOCK],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this container may not mount")
    assert (done.returncode, done.stdout) == (0, "fits\n"), done.stderr
