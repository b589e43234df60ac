"""Losses and verdicts on class scores: outputs [..., N] and labels [...] give [...]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """Cross entropy per label, in nats."""
    return F.cross_entropy(outputs.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)


def margin(outputs: Tensor, y: Tensor) -> Tensor:
    """The best wrong score minus the true one: the point is misclassified where this is >= 0."""
    true = outputs.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return _without(outputs, y).amax(dim=-1) - true


def targeted_margin(outputs: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The score of class `target` [...] minus the true one."""
    return (outputs.gather(-1, target.unsqueeze(-1)) - outputs.gather(-1, y.unsqueeze(-1))).squeeze(-1)


def correct(outputs: Tensor, y: Tensor) -> Tensor:
    """Whether the true class alone has the highest score; a tie counts as wrong."""
    return margin(outputs, y) < 0


def ranked_targets(outputs: Tensor, y: Tensor) -> Tensor:
    """The wrong classes from the most to the least likely: [..., N-1]."""
    return _without(outputs, y).argsort(dim=-1, descending=True, stable=True)[..., :-1]


def kl_divergence(outputs: Tensor, reference: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(outputs)) per label, in nats; both [..., N]."""
    expected = F.log_softmax(reference, dim=-1)
    return (expected.exp() * (expected - F.log_softmax(outputs, dim=-1))).sum(dim=-1)


def _without(outputs: Tensor, y: Tensor) -> Tensor:
    return outputs.scatter(-1, y.unsqueeze(-1), -torch.inf)
