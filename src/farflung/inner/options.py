"""What a peer chooses for its own steps: switches of this machine, not of the run. No torch.

They travel in the environment, so that they reach the built-in trainer wherever it is started:
`farflung join --no-compile --profile` sets them, and so may anybody by hand.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from farflung.errors import ConfigError

ENV_COMPILE = "FARFLUNG_COMPILE"
ENV_FLOAT8 = "FARFLUNG_FLOAT8"
ENV_PROFILE = "FARFLUNG_PROFILE"
ENV_GPU_SHARE = "FARFLUNG_GPU_SHARE"
ENV_NODE = "FARFLUNG_NODE"

_WORDS = {"on": True, "1": True, "off": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Bits between peers need not be equal in the inner step, so each may choose."""

    compile: bool = True
    """Compile the blocks where there is an accelerator. CPUs never compile."""
    float8: bool = False
    """Products of the blocks in fp8 with tensorwise scales (torchao), on GPUs that have it."""
    profile: bool = False
    """Write a torch trace of a few steps."""
    gpu_share: float = 1.0
    """Part of the GPU's memory that this trainer may take."""
    node: Path | None = None
    """The node's folder, for what is remembered and for traces; None: nothing is written."""


def options_from(environment: Mapping[str, str] = os.environ) -> StepOptions:
    """Raises ConfigError with the variable, its value and what it may be."""
    node = environment.get(ENV_NODE)
    return StepOptions(
        compile=_switch(environment, ENV_COMPILE, default=True),
        float8=_switch(environment, ENV_FLOAT8, default=False),
        profile=_switch(environment, ENV_PROFILE, default=False),
        gpu_share=_share(environment.get(ENV_GPU_SHARE) or "1"),
        node=Path(node) if node else None,
    )


def _switch(environment: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environment.get(name) or ("on" if default else "off")
    if text.lower() not in _WORDS:
        raise ConfigError(f"{name}={text!r} must be on or off")
    return _WORDS[text.lower()]


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(
            f"{ENV_GPU_SHARE}={text!r} must be above 0 and at most 1; try 0.5 for two peers on "
            f"one GPU"
        )
    return share
