"""A tiny swarm for algorithm tests: M workers, SGD on noisy least squares, the outer room's parts.

`Streaming` is Streaming DiLoCo (arXiv 2501.18512, algorithm 2) out of the room's functions;
`plain_diloco` is DiLoCo (arXiv 2311.08105, algorithm 1) written down once more without them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from farflung.outer.codecs import get_codec
from farflung.outer.fragments import gather, make_fragments, scatter
from farflung.outer.gradient import pseudo_gradient
from farflung.outer.layout import Layout
from farflung.outer.merge import difference, land
from farflung.outer.nesterov import bits_of, outer_step

Float32 = npt.NDArray[np.float32]

LAYOUT = Layout.from_entries(
    [("embed", (7, 3))] + [(f"model.layers.{i}.w", (4, 3)) for i in range(4)] + [("norm", (3,))]
)
INNER_LR = np.float32(0.05)


@dataclass(frozen=True)
class Problem:
    """Worker w at step t sees the target `center + noise(w, t)`; loss = curvature/2 * distance²."""

    same_data: bool = False

    def gradient(self, theta_N: Float32, worker: int, step: int) -> Float32:
        seed = 1000 * step + (0 if self.same_data else worker)
        noise_N = np.random.default_rng(seed).standard_normal(theta_N.size).astype(np.float32)
        curvature_N = np.linspace(0.2, 2.0, theta_N.size, dtype=np.float32)
        return curvature_N * (theta_N - np.float32(1) - np.float32(0.3) * noise_N)

    def inner_step(self, theta_N: Float32, worker: int, step: int) -> None:
        theta_N -= INNER_LR * self.gradient(theta_N, worker, step)


def start() -> Float32:
    return np.random.default_rng(7).standard_normal(LAYOUT.size).astype(np.float32)


def mean(vectors: list[Float32]) -> Float32:
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total / np.float32(len(vectors))


def plain_diloco(
    problem: Problem, workers: int, inner_steps: int, rounds: int, lr: float, mu: float
) -> Float32:
    """The anchor after `rounds` rounds."""
    anchor_N, momentum_N = start(), np.zeros(LAYOUT.size, np.float32)
    for r in range(rounds):
        deltas = []
        for w in range(workers):
            theta_N = anchor_N.copy()
            for step in range(r * inner_steps, (r + 1) * inner_steps):
                problem.inner_step(theta_N, w, step)
            deltas.append(anchor_N - theta_N)
        delta_N = mean(deltas)
        momentum_N = np.float32(mu) * momentum_N + delta_N
        anchor_N = anchor_N - np.float32(lr) * (delta_N + np.float32(mu) * momentum_N)
    return anchor_N


@dataclass
class Streaming:
    """Fragment p departs when (t - p * H/P) % H == 0 and lands `overlap` steps later."""

    problem: Problem = field(default_factory=Problem)
    workers: int = 3
    inner_steps: int = 4
    fragments: int = 1
    overlap: int = 0
    alpha: float = 0.0
    lr: float = 0.7
    mu: float = 0.9
    codec: str = "fp32"
    carried: bool = False

    def __post_init__(self) -> None:
        self.parts = make_fragments(LAYOUT, self.fragments)
        self.anchor = start()
        self.momentum = np.zeros(LAYOUT.size, np.float32)
        self.local = [self.anchor.copy() for _ in range(self.workers)]
        self.step = 0
        self.flying: dict[int, tuple[int, list[Float32], Float32]] = {}
        """fragment -> (landing step, what each worker sent, averaged pseudo-gradient)."""

    def run(self, steps: int) -> list[int]:
        """Train; returns the fragments that landed at the last step."""
        landed: list[int] = []
        for _ in range(steps):
            for w, theta in enumerate(self.local):
                self.problem.inner_step(theta, w, self.step)
            self.step += 1
            for p in range(self.fragments):
                if (self.step - p * self.inner_steps // self.fragments) % self.inner_steps == 0:
                    self._depart(p)
            landed = [p for p, flight in self.flying.items() if flight[0] == self.step]
            for p in landed:
                self._land(p)
        return landed

    def _depart(self, p: int) -> None:
        anchor_F = gather(self.anchor, self.parts[p])
        sent, deltas = [gather(theta, self.parts[p]) for theta in self.local], []
        codec = get_codec(self.codec)
        for local_F in sent:
            delta_F = np.empty_like(local_F)
            pseudo_gradient(anchor_F, local_F, delta_F)
            codec.decode(codec.encode(delta_F), delta_F)
            deltas.append(delta_F)
        self.flying[p] = (self.step + self.overlap, sent, mean(deltas))

    def _land(self, p: int) -> None:
        _, sent, delta_F = self.flying.pop(p)
        new_F, momentum_F = gather(self.anchor, self.parts[p]), gather(self.momentum, self.parts[p])
        outer_step(
            new_F, momentum_F, delta_F, bits_of(self.lr), bits_of(self.mu),
            out_anchor=new_F, out_momentum=momentum_F,
        )  # fmt: skip
        scatter(new_F, self.anchor, self.parts[p])
        scatter(momentum_F, self.momentum, self.parts[p])
        for theta, sent_F in zip(self.local, sent, strict=True):
            local_F = gather(theta, self.parts[p])
            if self.carried:
                addend_F = np.empty_like(new_F)
                difference(new_F, sent_F, addend_F)
                land(local_F, "carry", addend_F)
            else:
                land(local_F, "blend", new_F, self.alpha)
            scatter(local_F, theta, self.parts[p])
