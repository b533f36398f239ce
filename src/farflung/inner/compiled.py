"""What makes the built-in model fast on an accelerator: compiled blocks and kernels, attention by
the vendor's library, fp8. Nothing of it changes a parameter's name, shape or type.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn.attention import SDPBackend, sdpa_kernel

from farflung.errors import UserError
from farflung.inner.loss import Softmax, softmax_gradient
from farflung.model.llama import Llama

ENV_CACHE = "TORCHINDUCTOR_CACHE_DIR"
ATTENTION = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
"""In order of preference where cuDNN has kernels of its own (Hopper and later)."""
HOPPER = (9, 0)


def keep_compiled(node: Path | None) -> None:
    """Compiled code goes to the node's folder, so that a restart finds it; the variable of torch
    itself wins. Call it before anything is compiled."""
    if node is not None:
        os.environ.setdefault(ENV_CACHE, str(node / "compiled"))


def compile_blocks(model: Llama) -> None:
    """Every block for itself: one compilation serves all, names stay, and FSDP may wrap them."""
    for part in [*model.model.layers, model.model.norm]:
        part.compile(dynamic=False)


def undo_compile(model: Llama, error: Exception) -> None:
    """Back to eager, and say so in one sentence."""
    for part in model.modules():
        part._compiled_call_impl = None
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    print(
        f"farflung: the blocks are not compiled here, training goes on without ({reason}); "
        f"FARFLUNG_COMPILE=off does not try",
        file=sys.stderr,
    )


def is_compiled(model: Llama) -> bool:
    return model.model.norm._compiled_call_impl is not None


def softmax_kernel(*, compiled: bool) -> Softmax:
    """The loss's arithmetic on the logits; torch's own operations where there is no Triton."""
    if compiled:
        with contextlib.suppress(ImportError):
            from farflung.inner import kernels

            return kernels.softmax_gradient
    return softmax_gradient


@contextlib.contextmanager
def fast_attention(device: torch.device) -> Iterator[None]:
    """cuDNN's kernels where they are the fastest; elsewhere torch's own choice."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < HOPPER:
        yield
        return
    with sdpa_kernel(list(ATTENTION), set_priority=True):
        yield


def use_float8(model: Llama) -> None:
    """The blocks' products in fp8 with one scale per tensor; parameters stay as they are.

    Raises UserError without torchao or a GPU that has fp8.
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        raise UserError(
            "float8 needs a GPU of compute capability 8.9 or later (Ada, Hopper, Blackwell); "
            "leave FARFLUNG_FLOAT8 off"
        )
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise UserError("float8 needs torchao: pip install 'farflung[gpu]'") from None
    config = Float8LinearConfig.from_recipe_name("tensorwise")
    convert_to_float8_training(model, config=config, module_filter_fn=_in_a_block)


def _in_a_block(module: nn.Module, name: str) -> bool:
    wide = isinstance(module, nn.Linear) and not (
        module.in_features % 16 or module.out_features % 16
    )
    return wide and ".layers." in name


COMPILE_ERRORS = (TorchDynamoException,)
"""What torch raises when it cannot compile: no compiler, an unknown GPU, a fault of its own."""
