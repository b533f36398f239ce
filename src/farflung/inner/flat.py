"""A module's parameters as ranges of the run's flat fp32 vector.

Shape suffix: F elements of one fragment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from farflung.errors import MismatchError
from farflung.inner.channel import Entry, check_layout
from farflung.inner.seam import Float32

WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""What torch.compile, activation checkpointing and FSDP put into names."""

Ranges = Sequence[tuple[int, int]]


class FlatParameters:
    """Live floating-point parameters in the order of a layout. Buffers stay outside; tied weights
    count once, under their first name."""

    def __init__(self, model: nn.Module, layout_names: Mapping[str, str] | None = None) -> None:
        """`layout_names` maps names of this module to names of the run.

        Raises MismatchError for sharded parameters and for two with one name.
        """
        self._named: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            if hasattr(parameter, "to_local"):
                raise MismatchError(
                    f"parameter {name!r} is sharded over ranks, which this version cannot "
                    f"attach; run the trainer on one device"
                )
            plain = _plain_name(name)
            plain = (layout_names or {}).get(plain, plain)
            if plain in self._named:
                raise MismatchError(f"two parameters have the name {plain!r}; rename one")
            self._named[plain] = parameter
        self._order([(name, tuple(p.shape)) for name, p in self._named.items()])

    @property
    def entries(self) -> tuple[Entry, ...]:
        """(name, shape) in layout order."""
        return self._entries

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

    @torch.no_grad()
    def read(self, ranges: Ranges, out_F: Float32) -> None:
        """Local parameters of the ranges, as fp32, into `out_F`."""
        target = torch.from_numpy(out_F)
        for parameter, start, stop, at in self._pieces(ranges):
            piece = parameter.detach().reshape(-1)[start:stop]
            target[at : at + stop - start].copy_(piece)

    @torch.no_grad()
    def replace(self, ranges: Ranges, values_F: Float32) -> None:
        """local := values."""
        source = torch.from_numpy(values_F)
        for parameter, start, stop, at in self._pieces(ranges):
            with _Window(parameter, start, stop) as local:
                local.copy_(source[at : at + stop - start])

    @torch.no_grad()
    def add(self, ranges: Ranges, addend_F: Float32) -> None:
        """local := local + addend."""
        source = torch.from_numpy(addend_F)
        for parameter, start, stop, at in self._pieces(ranges):
            with _Window(parameter, start, stop) as local:
                local.add_(source[at : at + stop - start].to(local.device))

    @torch.no_grad()
    def blend(self, ranges: Ranges, anchor_F: Float32, alpha: float) -> None:
        """local := alpha * local + (1 - alpha) * anchor (Streaming DiLoCo, arXiv 2501.18512)."""
        source = torch.from_numpy(anchor_F)
        for parameter, start, stop, at in self._pieces(ranges):
            with _Window(parameter, start, stop) as local:
                theirs = source[at : at + stop - start].to(local.device)
                local.mul_(alpha).add_(theirs * (1.0 - alpha))

    def _pieces(self, ranges: Ranges) -> Iterator[tuple[nn.Parameter, int, int, int]]:
        """(parameter, start and stop inside it, offset inside the fragment)."""
        at = 0
        for first, last in ranges:
            index = bisect_right(self._offsets, first) - 1
            while first < last:
                base, end = self._offsets[index], min(last, self._offsets[index + 1])
                if first < end:
                    yield self._parameters[index], first - base, end - base, at
                    at += end - first
                    first = end
                index += 1


class _Window:
    """`parameter.view(-1)[start:stop]` to change in place, whatever the memory format."""

    def __init__(self, parameter: nn.Parameter, start: int, stop: int) -> None:
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
