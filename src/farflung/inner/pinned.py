"""Host memory that an accelerator copies to and from directly: the shared block's buffers.

Measured on an H200: 50 GB/s registered, 13 GB/s pageable. Registering takes half a second per
GiB of pages that nobody has touched yet, a tenth of that for others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray


def register(buffers: Iterable[NDArray[np.float32]], device: torch.device) -> bool:
    """Pin these buffers for this process; True when copies may go on without waiting.

    Where the system refuses, copies stay pageable, which is told once.
    """
    if device.type != "cuda":
        return False
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    for buffer in buffers:
        if not buffer.nbytes:
            continue
        status = int(runtime.cudaHostRegister(buffer.ctypes.data, buffer.nbytes, 0))
        if status != 0:
            print(
                f"farflung: the buffers between GPU and agent cannot be pinned (CUDA error "
                f"{status}); copies are slower, training is the same",
                file=sys.stderr,
            )
            return False
    return True
