"""farflung: train one language model on computers that are far apart.

    import farflung
    peer = farflung.attach(model, optimizer)

`farflung.attach` is loaded on first use: importing farflung imports no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "attach":
        return importlib.import_module("farflung.attach")
    raise AttributeError(f"module 'farflung' has no attribute {name!r}")
