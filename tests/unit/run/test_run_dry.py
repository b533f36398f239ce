"""`farflung join --dry-run`: what a run would need of this machine, and what cannot work."""

from __future__ import annotations

from farflung.cli.dry_run import dry_run_lines
from farflung.config.load import from_table
from farflung.run.dry_run import Outlook, outlook
from farflung.run.machine import Machine, cpu_kind
from farflung.sizing.devices import DEVICES
from farflung.sizing.model import sizes_of

SPEC = from_table(
    {
        "model": {"preset": "1b"},
        "data": {"source": "synthetic", "seq_len": 8192},
        "inner": {"batch_rows": 4},
    }
)
SIZES = sizes_of(SPEC)


def seen(device: str, *, host: int = 256 << 30, disk: int = 1 << 40, most: int = 0) -> Outlook:
    machine = Machine(
        device=DEVICES[device],
        description=f"a {device}",
        host_bytes=host,
        free_disk_bytes=disk,
    )
    return outlook(SPEC, SIZES, machine, dialable=False, max_disk_bytes=most)


def test_a_machine_that_can_is_not_refused() -> None:
    found = seen("h200")
    assert found.refusals == ()
    assert found.up_bytes == SIZES.fragment_bytes
    text = "\n".join(dry_run_lines(SPEC, SIZES, found))
    for word in ("micro-batch  4 of 4 rows", "GPU memory", "host memory", "disk", "MFU", "a day"):
        assert word in text


def test_what_cannot_work_is_said_with_both_values() -> None:
    (gpu,) = seen("5080").refusals
    assert gpu.startswith("needs 19.")
    assert "this GPU has 15.5 GiB" in gpu
    (memory,) = seen("h200", host=8 << 30).refusals
    assert "this machine has 8.0 GiB free" in memory
    (disk,) = seen("h200", most=10 << 30).refusals
    assert "there are 10.0 GiB" in disk
    assert "--max-disk" in disk


def test_a_cpu_is_known_by_its_flags() -> None:
    text = "model name\t: Some CPU\nflags\t\t: fpu avx2 {}\n"
    assert cpu_kind(text.format("")) == ("cpu", "Some CPU")
    assert cpu_kind(text.format("avx512f")) == ("cpu-avx512", "Some CPU")
    assert cpu_kind("") == ("cpu", "a CPU")
