"""The inner optimizers: AdamW, and Muon with AdamW for what is no hidden matrix.

Muon: Jordan et al., https://kellerjordan.github.io/posts/muon/. Per hidden matrix W [R, C]:

    B <- mu B + (1 - mu) G          momentum
    U <- mu B + (1 - mu) G          Nesterov look-ahead
    W <- (1 - lr wd) W - lr sqrt(max(1, R / C)) NS5(U)

NS5 is five Newton-Schulz steps towards the nearest orthogonal matrix. Differs from
`torch.optim.Muon`: equal shapes go as one batch, and on CPUs the iteration is fp32 (bf16 there is
emulated and fifteen times slower).
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from farflung.config.run import InnerSpec
from farflung.errors import ConfigError, MismatchError, UserError

if TYPE_CHECKING:
    from farflung.inner.sharded_muon import ShardedMuon

NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 5
NS_EPS = 1e-7
ADAM_EPS = 1e-8
STACK_ELEMENTS = 1 << 26
"""Of the matrices that are orthogonalised as one batch: enough to keep a GPU busy, and a small part
of its memory beside a model of any size."""

ParamGroup = dict[str, Any]


class HasParamGroups(Protocol):
    """Any torch optimizer, and InnerOptimizer."""

    @property
    def param_groups(self) -> list[ParamGroup]: ...


def take_peaks(optimizer: HasParamGroups) -> None:
    """Notes every group's peak learning rate: `initial_lr` where a torch scheduler has set it (its
    warm-up may have left 0 in `lr`), else `lr`. Says so where a scheduler is replaced.

    Raises UserError for a group that would never learn.
    """
    replaced = False
    for index, group in enumerate(optimizer.param_groups):
        replaced = replaced or ("initial_lr" in group and "base_lr" not in group)
        peak = group["initial_lr"] if "initial_lr" in group else group["lr"]
        base = group.setdefault("base_lr", float(peak))
        if not base > 0 and any(p.requires_grad for p in group.get("params", ())):
            raise UserError(
                f"parameter group {index} of the optimizer has the learning rate {base:g}, which "
                f"is taken as its peak, so it would never learn; give the peak rate, or keep your "
                f"own scheduler with attach(..., schedule='own')"
            )
    if replaced:
        print(
            "farflung: the run's learning-rate schedule (inner.schedule) replaces this program's; "
            "attach(..., schedule='own') keeps it",
            file=sys.stderr,
        )


def set_lr_factor(optimizer: HasParamGroups, factor: float) -> None:
    """Sets every group's lr to its base times `factor`. The first call takes lr as the base."""
    for group in optimizer.param_groups:
        base = group.setdefault("base_lr", float(group["lr"]))
        if isinstance(group["lr"], Tensor):  # a capturable or compiled step reads this tensor
            group["lr"].fill_(base * factor)
        else:
            group["lr"] = base * factor


def orthogonalize(batch_NRC: Tensor) -> Tensor:
    """Newton-Schulz of N wide matrices (R <= C): singular values go to about [0.7, 1.2].

    fp32 on CPUs, bf16 elsewhere; the result has that type. Each matrix is first scaled to
    Frobenius norm 1, so that no singular value exceeds 1.
    """
    a, b, c = NS_COEFFICIENTS
    x = batch_NRC.to(torch.float32 if batch_NRC.device.type == "cpu" else torch.bfloat16)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=NS_EPS)
    for _ in range(NS_STEPS):
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


class Muon(Optimizer):
    """Muon over whole 2-D matrices. State: `momentum_buffer` per parameter.

    Raises ConfigError for another shape or for a shard: the iteration needs the whole matrix.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        for parameter in (p for group in self.param_groups for p in group["params"]):
            _require_whole_matrix(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; takes no closure."""
        assert closure is None, "Muon.step takes no closure"
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)

    def _update(self, params: list[Tensor], group: ParamGroup) -> None:
        lr, decay = group["lr"], group["weight_decay"]
        torch._foreach_mul_(params, 1.0 - lr * decay)
        for stack in _stacks(params):
            looked_ahead = self._momentum(stack, group["momentum"])
            wide = torch.stack([_wide(matrix) for matrix in looked_ahead])
            for parameter, direction in zip(stack, orthogonalize(wide), strict=True):
                rows, columns = parameter.shape
                scale = math.sqrt(max(1.0, rows / columns))
                turned = direction if parameter.shape == direction.shape else direction.mT
                parameter.add_(turned, alpha=-lr * scale)

    def _momentum(self, params: list[Tensor], momentum: float) -> list[Tensor]:
        grads = [p.grad for p in params if p.grad is not None]
        buffers = [self._buffer(p) for p in params]
        torch._foreach_lerp_(buffers, grads, 1.0 - momentum)
        return list(torch._foreach_lerp(grads, buffers, momentum))

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def _require_whole_matrix(parameter: Tensor) -> None:
    shape = tuple(parameter.shape)
    if parameter.ndim != 2:
        raise ConfigError(f"muon needs matrices, not a parameter of shape {shape}; use adamw")
    if hasattr(parameter, "to_local"):
        raise ConfigError(
            f"muon needs whole matrices, but {shape} is sharded; set inner.optimizer='adamw'"
        )


def _stacks(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices of equal wide shapes together, as many as STACK_ELEMENTS hold, at least one."""
    batches: defaultdict[tuple[int, int], list[Tensor]] = defaultdict(list)
    for matrix in matrices:
        rows, columns = matrix.shape
        batches[min(rows, columns), max(rows, columns)].append(matrix)
    for (rows, columns), members in batches.items():
        many = max(1, STACK_ELEMENTS // (rows * columns))
        for first in range(0, len(members), many):
            yield members[first : first + many]


def _wide(matrix: Tensor) -> Tensor:
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


class InnerOptimizer:
    """One or two torch optimizers that step together; used like a single one."""

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts
        for group in self.param_groups:
            group.setdefault("base_lr", float(group["lr"]))

    @property
    def param_groups(self) -> list[ParamGroup]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def set_lr_factor(self, factor: float) -> None:
        set_lr_factor(self, factor)

    def reset(self) -> None:
        """Forgets all momenta, as a peer with fresh inner state has none."""
        for part in self.parts:
            part.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """Refers to the live tensors, as torch's does: copy it before the next step."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises MismatchError when the state is another kind of optimizer's."""
        parts = state["parts"]
        if len(parts) != len(self.parts):
            raise MismatchError(
                f"the saved inner optimizer has {len(parts)} parts, this one {len(self.parts)}; "
                f"start with fresh inner state or the same inner.optimizer"
            )
        for part, saved in zip(self.parts, parts, strict=True):
            part.load_state_dict(saved)


def build_optimizer(model: nn.Module, inner: InnerSpec) -> InnerOptimizer:
    """The optimizer of `inner` over the trainable parameters of `model`.

    Norms and biases (fewer than two dimensions) are not decayed. With `muon`, the matrices of
    the hidden layers go to Muon, all others (embedding, head, norms) to AdamW with `inner.lr`.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if inner.optimizer == "adamw":
        return InnerOptimizer([_adamw([p for _, p in named], inner)])
    hidden = [p for name, p in named if _is_hidden_matrix(name, p)]
    other = [p for name, p in named if not _is_hidden_matrix(name, p)]
    parts: list[Optimizer] = []
    if hidden:
        parts.append(
            _muon_of(hidden)(
                hidden,
                lr=inner.muon_lr,
                momentum=inner.muon_momentum,
                weight_decay=inner.weight_decay,
            )
        )
    if other:
        parts.append(_adamw(other, inner))
    return InnerOptimizer(parts)


def _muon_of(params: list[nn.Parameter]) -> type[Muon] | type[ShardedMuon]:
    if not hasattr(params[0], "to_local"):
        return Muon
    from farflung.inner.sharded_muon import ShardedMuon  # torch.distributed, for ranks only

    return ShardedMuon


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and "embed" not in name and "lm_head" not in name


def _adamw(params: list[nn.Parameter], inner: InnerSpec) -> AdamW:
    decayed = {"params": [p for p in params if p.ndim >= 2], "weight_decay": inner.weight_decay}
    plain = {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0}
    return AdamW(
        [group for group in (decayed, plain) if group["params"]],
        lr=inner.lr,
        betas=(inner.beta1, inner.beta2),
        eps=ADAM_EPS,
        fused=True,
    )
