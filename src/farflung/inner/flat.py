"""A module's parameters as ranges of the run's flat fp32 vector.

Shape suffix: F elements of one fragment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, TypeGuard, cast

import torch
from blake3 import blake3
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from farflung.errors import MismatchError, UserError
from farflung.inner.channel import Entry, check_layout
from farflung.inner.seam import Float32
from farflung.inner.shards import ALONE, RankPlace, held_pieces, shard_range
from farflung.outer import merge
from farflung.outer.merge import Operation

WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""What torch.compile, activation checkpointing and FSDP put into names."""

AVERAGED = (torch.float32, torch.bfloat16, torch.float16)
"""Types that fp32 holds exactly."""
HASH_BYTES = 1 << 24
"""Of a frozen parameter, brought to the host at a time."""

Ranges = Sequence[tuple[int, int]]


class FlatParameters:
    """Live trainable parameters in the order of a layout. Buffers stay outside; tied weights count
    once, under their first name. Frozen parameters are known by their hashes only.

    Of a parameter that FSDP2 has sharded over the ranks this process reads and writes its own
    shard, never a gathered copy. The shards are taken here: later the module may hold gathered
    parameters for a while.
    """

    def __init__(
        self,
        model: nn.Module,
        layout_names: Mapping[str, str] | None = None,
        place: RankPlace = ALONE,
    ) -> None:
        """`layout_names` maps names of this module to names of the run.

        Raises MismatchError for parameters that cannot be averaged and for two with one name.
        With several ranks all must come here: hashes of sharded frozen parameters are joint work.
        """
        self._place = place
        self._gathering = [m for m in model.modules() if _may_gather(m)]
        self._named: dict[str, nn.Parameter] = {}
        self._frozen: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            plain = _plain_name(name)
            plain = (layout_names or {}).get(plain, plain)
            _check_kind(plain, parameter, place)
            if plain in self._named or plain in self._frozen:
                raise MismatchError(f"two parameters have the name {plain!r}; rename one")
            group = self._named if parameter.requires_grad else self._frozen
            group[plain] = parameter
        if not self._named:
            raise MismatchError("the model has no parameter with requires_grad=True to train")
        self.frozen = tuple(
            (name, tuple(p.shape), content_hash(p)) for name, p in self._frozen.items()
        )
        """(name, shape, hash of the values) of those that do not require gradients."""
        self._order([(name, tuple(p.shape)) for name, p in self._named.items()])

    @property
    def entries(self) -> tuple[Entry, ...]:
        """(name, shape) in layout order."""
        return self._entries

    def check_frozen(self) -> None:
        """Raises UserError when a parameter that was frozen at attach is trained by now: nobody
        would average it."""
        for name, parameter in self._frozen.items():
            if parameter.requires_grad:
                raise UserError(
                    f"parameter {name!r} was frozen when attach was called and requires gradients "
                    f"now, but nobody averages it; set requires_grad before attach"
                )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """In layout order."""
        return self._parameters

    @property
    def size(self) -> int:
        return self._offsets[-1]

    def adopt(self, layout: Sequence[Entry]) -> None:
        """Take the run's order. MismatchError names the first difference."""
        check_layout({n: tuple(p.shape) for n, p in self._named.items()}, dict(layout))
        self._order(layout)

    def _order(self, layout: Sequence[Entry]) -> None:
        self._entries = tuple((name, tuple(shape)) for name, shape in layout)
        self._parameters = [self._named[name] for name, _ in self._entries]
        sizes = [p.numel() for p in self._parameters]
        self._offsets = [0, *accumulate(sizes)]
        self._held = [held_range(p) for p in self._parameters]
        self._writes = [self._place.leads if h is None else h.writes for h in self._held]
        self._spans = [
            (0, size) if h is None else h.span for h, size in zip(self._held, sizes, strict=True)
        ]

    def span(self, index: int) -> tuple[int, int]:
        """[first, stop) of the flat elements that are here of the parameter at this place."""
        return self._spans[index]

    def is_written_here(self, index: int) -> bool:
        """Whether this rank is the one that hands these elements on: replicas do not."""
        return self._writes[index]

    @property
    def device(self) -> torch.device:
        return self._parameters[0].device

    @torch.no_grad()
    def read(self, ranges: Ranges, out_F: Float32) -> None:
        """Local parameters of the ranges, as fp32, into `out_F`: of several ranks each its own."""
        target = torch.from_numpy(out_F)
        for index, start, stop, at in self._pieces(ranges):
            if self._writes[index]:
                piece = shard_of(self._parameters[index]).reshape(-1)[start:stop]
                target[at : at + stop - start].copy_(piece)

    @torch.no_grad()
    def read_pinned(self, ranges: Ranges, out_F: Float32) -> bool:
        """`read` on an accelerator into registered memory; whether all of this rank's are finite.

        The copies run beside the stream that trains and begin after its last optimizer step; they
        have ended when this returns, so the next step may change the parameters.
        """
        target = torch.from_numpy(out_F)
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            finite = torch.ones((), dtype=torch.bool, device=self.device)
            for index, start, stop, at in self._pieces(ranges):
                piece = shard_of(self._parameters[index]).reshape(-1)[start:stop]
                finite &= piece.isfinite().all()
                if self._writes[index]:
                    wide = piece.float()  # a copy of its own only below fp32
                    target[at : at + stop - start].copy_(wide, non_blocking=True)
        side.synchronize()
        return bool(finite)

    @torch.no_grad()
    def land(
        self, ranges: Ranges, operation: Operation, values_F: Float32, alpha: float = 0.0
    ) -> None:
        """Merge a fragment as outer/merge.py says; `values_F`: the new anchor, or the addend."""
        source = torch.from_numpy(values_F)
        self.gather_nothing()
        for index, start, stop, at in self._pieces(ranges):
            with _Window(shard_of(self._parameters[index]), start, stop) as local:
                land_tensor(local, operation, source[at : at + stop - start], alpha)

    def gather_nothing(self) -> None:
        """Gathered copies of sharded parameters are dropped. A forward without backward leaves
        them, and the next one would use them instead of what has landed in the shards."""
        for module in self._gathering:
            module.reshard()

    def here(self, ranges: Ranges) -> list[tuple[int, int]]:
        """[first, stop) inside the fragment's own vector of what this process holds of it."""
        return [(at, at + stop - start) for _, start, stop, at in self._pieces(ranges)]

    def _pieces(self, ranges: Ranges) -> Iterator[tuple[int, int, int, int]]:
        """(place of the parameter, start and stop inside what is here of it, offset inside the
        fragment)."""
        for piece in held_pieces(ranges, self._offsets, self._spans):
            yield piece.parameter, piece.first, piece.stop, piece.at


class HeldShard(NamedTuple):
    """What this rank has of a sharded parameter."""

    span: tuple[int, int]
    """[first, stop) of its flat elements."""
    writes: bool
    """False: another replica hands these elements on."""


def shard_of(tensor: Tensor) -> Tensor:
    """What is on this device of a parameter or of an optimizer's state: all of it, or a shard."""
    here: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return here.detach()


def held_range(parameter: Tensor) -> HeldShard | None:
    """None: the whole parameter is here."""
    if not hasattr(parameter, "to_local"):
        return None
    sharded = cast("Any", parameter)
    mesh = sharded.device_mesh
    span = shard_range(
        tuple(sharded.shape), mesh.get_local_rank(mesh.ndim - 1), mesh.size(mesh.ndim - 1)
    )
    replica = mesh.get_local_rank(0) if mesh.ndim == 2 else 0
    return HeldShard(span, replica == 0)


def _may_gather(module: Any) -> TypeGuard[_Gathers]:
    return hasattr(module, "reshard") and hasattr(module, "unshard")


class _Gathers(Protocol):
    """An FSDPModule, without importing it."""

    def reshard(self) -> None: ...


def land_tensor(local: Tensor, operation: Operation, value: Tensor, alpha: float) -> None:
    """`merge.land` on vectors of torch, in place; `value` is fp32 on the CPU."""
    if local.device.type == "cpu" and local.dtype == torch.float32:
        merge.land(local.numpy(), operation, value.numpy(), alpha)
    else:
        land_elsewhere(local, operation, value.to(local.device), alpha)


def land_elsewhere(local: Tensor, operation: Operation, value: Tensor, alpha: float) -> None:
    """The same arithmetic where NumPy does not reach: other devices and types.

    In fp32 it gives the bits of `merge.land`. A type below fp32 is rounded once, at the end.
    """
    if not merge.reads_anchor(operation):
        local.add_(value)
    elif (keep := merge.kept_share(operation, alpha)) == 0:
        local.copy_(value)
    elif keep < 1:
        wide = torch.promote_types(local.dtype, value.dtype)
        local.copy_(local.to(wide) * keep + value * (1 - keep))


def content_hash(parameter: Tensor) -> str:
    """Hex BLAKE3 of type and values, in row-major order, as they are in memory."""
    whole = cast("Any", parameter).full_tensor() if hasattr(parameter, "to_local") else parameter
    values = whole.detach().contiguous().reshape(-1)
    hasher = blake3(str(parameter.dtype).encode())
    step = max(1, HASH_BYTES // max(1, values.element_size()))
    for first in range(0, values.numel(), step):
        piece = values[first : first + step].cpu()
        hasher.update(piece.view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def check_sharding(name: str, parameter: Tensor, place: RankPlace) -> None:
    """MismatchError for a way of sharding that is not FSDP2's or HSDP's over all ranks."""
    sharded = cast("Any", parameter)
    kinds = [type(p).__name__ for p in sharded.placements]
    mesh = sharded.device_mesh
    names = mesh.mesh_dim_names or ()
    fsdp = kinds in (["Shard"], ["Replicate", "Shard"]) and sharded.placements[-1].dim == 0
    if not fsdp or any("tp" in n or "cp" in n or "pp" in n for n in names):
        raise MismatchError(
            f"parameter {name!r} is placed as {list(sharded.placements)} on {list(names) or mesh}; "
            f"attach takes parameters that fully_shard has cut along their first dimension (FSDP2 "
            f"or HSDP), without tensor, context or pipeline parallelism"
        )
    if mesh.size() != place.world:
        raise MismatchError(
            f"parameter {name!r} is sharded over {mesh.size()} of {place.world} ranks; shard over "
            f"all of them"
        )
    first, stop = shard_range(
        tuple(sharded.shape), mesh.get_local_rank(mesh.ndim - 1), mesh.size(mesh.ndim - 1)
    )
    if shard_of(sharded).numel() != stop - first:
        raise MismatchError(
            f"parameter {name!r} has {shard_of(sharded).numel()} elements on this rank where "
            f"fully_shard puts {stop - first}; leave shard_placement_fn out"
        )


def _check_kind(name: str, parameter: nn.Parameter, place: RankPlace) -> None:
    """MismatchError for what neither the flat vector nor a hash can stand for."""
    if hasattr(parameter, "to_local"):
        check_sharding(name, parameter, place)
    if is_lazy(parameter) or parameter.is_meta:
        raise MismatchError(
            f"parameter {name!r} has no values yet (lazy or on the meta device); build it before "
            f"attach, for example by one forward pass or to_empty()"
        )
    if parameter.layout != torch.strided or parameter.is_quantized:
        raise MismatchError(
            f"parameter {name!r} is {'quantised' if parameter.is_quantized else 'sparse'}, which "
            f"the run cannot average; make it a plain dense tensor"
        )
    if parameter.requires_grad and parameter.dtype not in AVERAGED:
        raise MismatchError(
            f"parameter {name!r} is {parameter.dtype}, which the run's fp32 vector cannot hold; "
            f"make it float32, bfloat16 or float16, or freeze it"
        )


class _Window:
    """`parameter.view(-1)[start:stop]` to change in place, whatever the memory format."""

    def __init__(self, parameter: Tensor, start: int, stop: int) -> None:
        self._parameter = parameter.detach()
        self._flat = self._parameter.reshape(-1)
        self._part = self._flat[start:stop]

    def __enter__(self) -> Tensor:
        return self._part

    def __exit__(self, *_: object) -> None:
        if not self._parameter.is_contiguous():  # reshape made a copy: bring it back
            self._parameter.copy_(self._flat.view(self._parameter.shape))


def _plain_name(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
