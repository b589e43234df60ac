"""A linear victim whose minimal adversarial distances are known in closed form.

Scores are z = W x per task, inputs lie near the middle of the box and every distance is smaller than the room
there, so the box is inactive: r = min_j (z_y - z_j) / ||w_y - w_j||_dual.
Shapes: T tasks, Q queries, P = T * Q points, N classes, D entries of one input.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from robustbench_meta.losses import correct
from robustbench_meta.types import Box, Cost, Norm, Streams, Victim

DUAL: dict[Norm, float] = {"linf": 1, "l2": 2, "l1": float("inf")}


@dataclass(frozen=True)
class Linear:
    """T linear classifiers with Q labelled queries each; `victim` is what an attack sees of them."""

    weights: Tensor  # [T, N, D]
    victim: Victim

    def distances(self, norm: Norm) -> Tensor:
        """The least norm that changes each point's verdict: [P], 0 where it is wrong already."""
        each = self.weights.detach().repeat_interleave(len(self.victim.x) // len(self.weights), dim=0).double()
        scores = (each * self.victim.x.flatten(1).unsqueeze(1).double()).sum(-1)
        y = self.victim.y
        gaps = scores.gather(1, y) - scores
        rows = torch.arange(len(y)).unsqueeze(1)
        ratios = gaps / (each[rows, y] - each).norm(p=DUAL[norm], dim=-1)
        return ratios.scatter(1, y, torch.inf).amin(dim=1).clamp_min(0)

    def eps(self, norm: Norm, share: float = 0.5) -> float:
        """A budget that fools about `share` of the points, in the middle of the widest gap between distances there."""
        found = self.distances(norm).sort().values
        middle = int(share * len(found))
        window = found[max(middle - 2, 0) : middle + 3]
        widest = int(window.diff().argmax())
        return float(window[widest : widest + 2].mean())

    def survives(self, x_adv: Tensor) -> Tensor:
        """Whether the classifiers are right about each point of x_adv: [P]."""
        with torch.no_grad():
            return correct(self.victim.forward(x_adv, self.victim.points), self.victim.y).squeeze(1)

    def streams(self, seed: int = 0) -> Streams:
        return Streams([1000 * seed + task for task in range(len(self.weights))])


def linear(
    *,
    tasks: int = 2,
    queries: int = 8,
    ways: int = 5,
    shape: tuple[int, ...] = (1, 6, 6),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Linear:
    """Draw weights and inputs; labels are what the classifiers say, and the last query of each task has a wrong one."""
    rng = torch.Generator().manual_seed(seed)
    weights = torch.randn(tasks, ways, prod(shape), generator=rng, dtype=dtype)
    x = 0.4 + 0.2 * torch.rand(tasks * queries, 1, *shape, generator=rng, dtype=dtype)
    # Labels come from the middle of the box outwards, where the mean brightness says nothing.
    weights = weights - weights.mean(dim=-1, keepdim=True)
    labels = (weights.repeat_interleave(queries, dim=0) * x.flatten(1).unsqueeze(1)).sum(-1).argmax(-1)
    labels[queries - 1 :: queries] = (labels[queries - 1 :: queries] + 1) % ways
    return of(weights, x, labels, shape)


def of(weights: Tensor, x: Tensor, labels: Tensor, shape: tuple[int, ...]) -> Linear:
    """Wrap weights [T,N,D], inputs [P,1,*shape] and labels [P]."""
    cost = Cost(torch.zeros(len(weights), dtype=torch.int64), torch.zeros(len(weights), dtype=torch.int64))
    queries = len(x) // len(weights)

    def forward(x: Tensor, points: Tensor) -> Tensor:
        task = points // queries
        rows = torch.bincount(task, minlength=len(weights))
        cost.forwards.add_(rows)
        # Sums of products, not a matrix product: rounding must not depend on how many points are scored at once.
        scores = (weights[task] * x.flatten(1).unsqueeze(1)).sum(-1).unsqueeze(1)

        def count(_: Tensor) -> None:
            cost.backwards.add_(rows)

        if scores.requires_grad:
            scores.register_hook(count)
        return scores

    return Linear(weights, Victim(forward, x, labels.unsqueeze(1), Box(shape), len(weights), cost))
