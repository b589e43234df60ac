"""Losses and verdicts on class scores: outputs [..., N] and labels [...] give [...]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.types import InputError

_DLR_FLOOR = 1e-12  # of the denominators, for scores that tie


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


def dlr(outputs: Tensor, y: Tensor) -> Tensor:
    """The margin over the gap between the best score and the third (arXiv 2003.01690, equation 6).

    Neither a shift nor a scale of the scores changes it. Raise InputError with fewer than 3 classes.
    """
    top = _top(outputs, 3, "the DLR loss")
    return margin(outputs, y) / (top[..., 0] - top[..., 2] + _DLR_FLOOR)


def targeted_dlr(outputs: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The margin of class `target` [...] over a gap that ranks 1, 3 and 4 decide (arXiv 2003.01690, equation 7).

    Raise InputError with fewer than 4 classes.
    """
    top = _top(outputs, 4, "the targeted DLR loss")
    return targeted_margin(outputs, y, target) / (top[..., 0] - (top[..., 2] + top[..., 3]) / 2 + _DLR_FLOOR)


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


def _top(outputs: Tensor, count: int, what: str) -> Tensor:
    ways = outputs.shape[-1]
    if ways < count:
        raise InputError(f"ways: {ways} classes; {what} needs at least {count}")
    return outputs.topk(count, dim=-1).values


def _without(outputs: Tensor, y: Tensor) -> Tensor:
    return outputs.scatter(-1, y.unsqueeze(-1), -torch.inf)
