"""Classifiers on an embedded support: features [S,W] and labels y [S] of N classes give a head.

The closed forms are differentiable in the features, map over tasks, and do not mind the order of the support.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.types import Params


def linear(width: int, ways: int, rng: torch.Generator, *, name: str = "head") -> Params:
    """Draw the weights [N,W] of a linear layer, with a bias of zeros."""
    return {f"{name}.weight": torch.randn(ways, width, generator=rng) * width**-0.5, f"{name}.bias": torch.zeros(ways)}


def class_means(features: Tensor, y: Tensor, ways: int) -> Tensor:
    """Average the features of each class: [N,W]; of one that flipped labels left without an item, zeros."""
    member = F.one_hot(y, ways).to(features.dtype)
    return (member / member.sum(dim=0).clamp_min(1)).T @ features


def distances(features: Tensor, means: Tensor) -> Tensor:
    """Return the squared Euclidean distance of features [Q,W] to each of means [N,W]: [Q,N]."""
    # Differences, not the expanded square: that one loses the small distances in float32.
    return (features.unsqueeze(1) - means).square().sum(dim=2)


def ridge(features: Tensor, y: Tensor, ways: int, regularisation: Tensor | float) -> Tensor:
    """Solve ridge regression on one-hot labels (arXiv 1805.08136, equations 4 to 6): weights [W,N]."""
    # Woodbury: an S by S system where the features outnumber the support.
    gram = features @ features.T + regularisation * torch.eye(len(features)).to(features)
    return features.T @ torch.linalg.solve(gram, F.one_hot(y, ways).to(features.dtype))


BARRIER = 1e-8  # product of a variable and its multiplier where the interior-point method ends
SHRINK = 0.1  # of that product in one iteration
KEEP = 0.99  # of the way to the boundary that an iteration may go


@dataclass(frozen=True)
class Machine:
    """A solved support vector machine: its weights [W,N], and the largest violation of its optimality conditions."""

    weights: Tensor
    residual: Tensor


def svm(features: Tensor, y: Tensor, ways: int, *, bound: float, iterations: int) -> Machine:
    """Solve the dual of the support vector machine of Crammer and Singer (arXiv 1904.03758, equations 9 to 11).

    With one-hot labels Y, K the inner products of the features, and bound Y - b for the paper's alpha: minimise
    1/2 tr(alpha' K alpha) - sum(Y alpha) over b >= 0 whose rows sum to `bound`; the weights are features' alpha.
    An interior-point method takes exactly `iterations` Newton steps, in double precision, to the point where b times
    its multipliers is BARRIER, whose objective is S N BARRIER above the least. It is smooth in the features: one more
    step, differentiated, gives its gradient by the implicit function theorem; it can be differentiated once.
    """
    doubled, target = features.double(), F.one_hot(y, ways).double()
    kernel = doubled @ doubled.T
    with torch.no_grad():
        constant = kernel.detach()
        found = _central_path(constant, target, bound, iterations)
        residual = found.residual(constant, target, bound)
    step, _ = _newton(found, constant, -found.slope(kernel, target, bound), bound - found.b.sum(dim=1))
    weights = doubled.T @ (bound * target - found.b - step)
    return Machine(weights.to(features.dtype), residual.to(features.dtype))


@dataclass(frozen=True)
class _Point:
    """Positive b and its multipliers z, both [S,N], and the multipliers of the sums [S,1]."""

    b: Tensor
    z: Tensor
    level: Tensor

    def slope(self, kernel: Tensor, target: Tensor, bound: float) -> Tensor:
        return kernel @ (self.b - bound * target) + target - self.z - self.level

    def residual(self, kernel: Tensor, target: Tensor, bound: float) -> Tensor:
        missing, product = self.b.sum(dim=1) - bound, self.b * self.z - BARRIER
        parts = (self.slope(kernel, target, bound), missing, product)
        return torch.stack([part.abs().amax() for part in parts]).amax()


def _central_path(kernel: Tensor, target: Tensor, bound: float, iterations: int) -> _Point:
    b = torch.full_like(target, bound / target.shape[1])
    slope = kernel @ (b - bound * target) + target
    level = slope.amin(dim=1, keepdim=True) - 1
    at = _Point(b, slope - level, level)
    for _ in range(iterations):
        goal = (SHRINK * (at.b * at.z).mean()).clamp_min(BARRIER)
        rest = goal / at.b - at.z - at.slope(kernel, target, bound)
        by_b, by_level = _newton(at, kernel, rest, bound - at.b.sum(dim=1))
        by_z = (goal - at.z * by_b) / at.b - at.z
        length = torch.minimum(_room(at.b, by_b), _room(at.z, by_z))
        at = _Point(at.b + length * by_b, at.z + length * by_z, at.level + length * by_level)
    return at


def _newton(at: _Point, kernel: Tensor, rest: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """Solve (K + diag(z / b)) by_b - by_level = rest, class by class, where rows of by_b sum to `missing` [S]."""
    inverse = torch.linalg.inv(kernel + torch.diag_embed((at.z / at.b).T))  # [N,S,S]
    alone = (inverse @ rest.T.unsqueeze(2)).squeeze(2)  # [N,S]
    level = torch.linalg.solve(inverse.sum(dim=0), missing - alone.sum(dim=0))
    return (alone + inverse @ level).T, level.unsqueeze(1)


def _room(at: Tensor, step: Tensor) -> Tensor:
    """How much of `step`, at most all of it, leaves `at` positive."""
    return (KEEP * torch.where(step < 0, -at / step, torch.inf).amin()).clamp_max(1.0)
