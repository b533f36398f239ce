"""What this machine has: its GPU as the trainer's torch sees it, CPU, memory, disk.

Torch is asked in a process of its own: agents do not load it, and a GPU that torch cannot use
trains nothing, whatever the driver says.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from farflung.inner.channel import ENV_THREADS
from farflung.inner.flops import peak_flops
from farflung.inner.options import options_from
from farflung.sizing.devices import CPU_FLOPS, DeviceClass

PROBE_S = 120.0
"""A cold start of torch from a slow disk."""
PROBE = """
import json, torch
gpu = torch.cuda.is_available()
free, total = torch.cuda.mem_get_info() if gpu else (0, 0)
name = torch.cuda.get_device_name() if gpu else ""
print(json.dumps({"name": name, "free": free, "total": total}))
"""
THREAD_GAIN = 0.8
"""t threads are t ** 0.8 as fast as one: assumed."""


class _Probed(msgspec.Struct, frozen=True):
    name: str = ""
    free: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Bytes; 0: not known."""

    device: DeviceClass
    description: str
    host_bytes: int
    free_disk_bytes: int


def this_machine(folder: Path) -> Machine:
    """`folder`: on the disk that the node would use; it need not exist. Takes seconds."""
    found = _probe()
    share = options_from().gpu_share
    if found.total:
        usable = int(min(found.total * share, found.free))
        device = DeviceClass(name=found.name, peak=peak_flops(found.name), memory_bytes=usable)
        what = f"{found.name}, {usable / 2**30:.1f} of {found.total / 2**30:.1f} GiB free"
    else:
        device, what = _cpu(os.environ.get(ENV_THREADS, ""))
    there = next(p for p in (folder, *folder.parents) if p.exists())
    return Machine(
        device=device,
        description=what,
        host_bytes=_memory(_read("/proc/meminfo")),
        free_disk_bytes=shutil.disk_usage(there).free,
    )


def _probe() -> _Probed:
    with contextlib.suppress(OSError, subprocess.SubprocessError, msgspec.DecodeError, IndexError):
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            timeout=PROBE_S,
            check=True,
        )
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=_Probed)
    return _Probed()


def _cpu(threads_text: str) -> tuple[DeviceClass, str]:
    threads = max(1, int(threads_text)) if threads_text.isdecimal() else 1
    kind, name = cpu_kind(_read("/proc/cpuinfo"))
    rate = CPU_FLOPS[kind] * threads**THREAD_GAIN
    device = DeviceClass(name=kind, peak=0.0, memory_bytes=0, flops=rate)
    return device, f"{name}, {threads} thread{'s' if threads > 1 else ''} (no GPU for torch)"


def cpu_kind(cpuinfo: str) -> tuple[str, str]:
    """(name in CPU_FLOPS, the model's name) from /proc/cpuinfo's text."""
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())
    }
    kind = "cpu-avx512" if "avx512f" in fields.get("flags", "").split() else "cpu"
    return kind, fields.get("model name", "a CPU")


def _memory(meminfo: str) -> int:
    """MemAvailable in bytes; 0 when the text has none."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""
