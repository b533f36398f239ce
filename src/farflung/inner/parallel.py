"""The built-in model over several ranks: FSDP2 with fp32 master shards. Imports torch.distributed,
so only what runs in several ranks imports this.

Source: FSDP2 (torch.distributed.fsdp.fully_shard), one group per block and one for what is left:
embedding, last norm and head, tied or not.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from farflung.errors import UserError
from farflung.inner.channel import ENV_STORE
from farflung.inner.shards import RankPlace
from farflung.model.llama import Llama, rope_table
from farflung.model.presets import LlamaConfig

COLLECTIVE_S = 300.0
"""A collective that takes longer has failed; the agent ends a group that hangs long before."""
KEEP_GRADIENTS = 0.15
"""Share of the accelerator's memory that whole fp32 gradients may take between micro-batches;
above it each micro-batch is reduced by itself."""

KEEP_GATHERED = 0.05
"""Share of the accelerator's memory that the bf16 parameters of all blocks may take between the
forward and the backward pass."""


def start_ranks(place: RankPlace) -> torch.device:
    """Meet the other ranks; this rank's device. Raises UserError when it has none."""
    gpu = torch.cuda.is_available()
    if gpu and place.local >= torch.cuda.device_count():
        raise UserError(
            f"rank {place.rank} has no GPU: {torch.cuda.device_count()} are visible; give as many "
            f"as there are ranks"
        )
    device = torch.device("cuda", place.local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # ranks of a peer are on one machine
    store = os.environ.get(ENV_STORE)
    dist.init_process_group(
        "nccl" if gpu else "gloo",
        init_method=f"file://{store}" if store else "env://",
        rank=place.rank,
        world_size=place.world,
        timeout=timedelta(seconds=COLLECTIVE_S),
        device_id=device if gpu else None,
    )
    return device


def stop_ranks() -> None:
    """After the last collective of all ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank_mesh(device: torch.device, world: int) -> DeviceMesh:
    return init_device_mesh(device.type, (world,), mesh_dim_names=("shard",))


def sharded_model(
    config: LlamaConfig,
    device: torch.device,
    world: int,
    *,
    narrow: bool = True,
) -> Llama:
    """A model whose parameters nobody has filled: `attach` puts the anchor there.

    Never holds a whole model: it is made without memory, cut, and each rank gets its shards.
    `narrow`: products in bf16 on accelerators.
    """
    with torch.device("meta"):
        model = Llama(config)
    shard(model, rank_mesh(device, world), narrow=narrow)
    model.to_empty(device=device)
    with torch.no_grad():
        cos_TE, sin_TE = rope_table(config)
        model.model.cos.copy_(cos_TE)
        model.model.sin.copy_(sin_TE)
        for parameter in model.parameters():
            parameter.zero_()
    return model


def shard(model: Llama, mesh: DeviceMesh, *, narrow: bool = True) -> None:
    """fully_shard per block and root: bf16 products on accelerators, fp32 gradients and masters.

    The rotary tables go into the blocks as fp32, so inputs are not cast.
    """
    policy = MixedPrecisionPolicy()
    if narrow and mesh.device_type != "cpu":
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    again = not _stays_gathered(model, mesh)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=again)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _stays_gathered(model: Llama, mesh: DeviceMesh) -> bool:
    """Whether all blocks in bf16 are so small that the backward pass need not gather them again."""
    if mesh.device_type == "cpu":
        return False
    gathered = 2 * sum(p.numel() for p in model.parameters())
    return gathered <= KEEP_GATHERED * torch.cuda.get_device_properties().total_memory


class LastReduces:
    """Gradients of a step's micro-batches add up on each rank and are reduced once, by the last.

    Counts the forwards of the root: `begin` says how many make a step.
    """

    def __init__(self, model: nn.Module) -> None:
        self._root = model if isinstance(model, FSDPModule) else None
        self._left = 0
        self.keeps = _fits_whole(model)
        """Whether whole gradients are kept between micro-batches."""
        model.register_forward_pre_hook(self._forward)

    def begin(self, micro_batches: int) -> None:
        self._left = micro_batches

    def _forward(self, *_: object) -> None:
        if self._root is None or not torch.is_grad_enabled():
            return
        self._left -= 1
        last = self._left <= 0 or not self.keeps
        self._root.set_requires_gradient_sync(last)


def _fits_whole(model: nn.Module) -> bool:
    """Whether a rank has room for the gradients of all parameters."""
    parameter = next(model.parameters())
    if parameter.device.type == "cpu":
        return True
    whole = 4 * sum(p.numel() for p in model.parameters())
    return whole <= KEEP_GRADIENTS * torch.cuda.get_device_properties(parameter.device).total_memory


def largest(value: int, device: torch.device) -> int:
    """Over all ranks."""
    shared = torch.tensor(value, device=device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared)
