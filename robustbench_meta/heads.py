"""Classifiers on an embedded support: features [S,W] and labels y [S] of N classes give a head.

The closed forms are differentiable in the features, map over tasks, and do not mind the order of the support.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.types import Params


def linear(width: int, ways: int, rng: torch.Generator, *, name: str = "head") -> Params:
    """Draw the weights [N,W] of a linear layer, with a bias of zeros."""
    return {f"{name}.weight": torch.randn(ways, width, generator=rng) * width**-0.5, f"{name}.bias": torch.zeros(ways)}


def class_means(features: Tensor, y: Tensor, ways: int) -> Tensor:
    """Average the features of each class: [N,W]."""
    member = F.one_hot(y, ways).to(features.dtype)
    return (member / member.sum(dim=0)).T @ features


def distances(features: Tensor, means: Tensor) -> Tensor:
    """Return the squared Euclidean distance of features [Q,W] to each of means [N,W]: [Q,N]."""
    # Differences, not the expanded square: that one loses the small distances in float32.
    return (features.unsqueeze(1) - means).square().sum(dim=2)


def ridge(features: Tensor, y: Tensor, ways: int, regularisation: Tensor | float) -> Tensor:
    """Solve ridge regression on one-hot labels (arXiv 1805.08136, equations 4 to 6): weights [W,N]."""
    # Woodbury: an S by S system where the features outnumber the support.
    gram = features @ features.T + regularisation * torch.eye(len(features)).to(features)
    return features.T @ torch.linalg.solve(gram, F.one_hot(y, ways).to(features.dtype))
