"""What a poisoner of the support may touch, and the support that a learner then adapts to.

Shapes: T tasks, S support items ordered by class, A of them within reach, N classes, X the shape of one input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.types import Episodes, InputError, Sentences, Spec, Threat

PROXIES = 15  # a class, at most: what a poisoner may look at is no more than one usual set of queries


def check(threat: Threat, spec: Spec) -> Threat:
    """Refuse what `reaches` refuses, and more labels than are within reach."""
    if not reaches(threat, spec):
        raise InputError(f"eps: {threat.eps:g} labels; a poisoner reaches {_labels(threat, spec)} of the support")
    return threat


def reaches(threat: Threat, spec: Spec) -> bool:
    """Say whether there are as many labels within reach as may be flipped.

    Raise InputError where the fraction is no whole number of each class's shots.
    """
    if not 0 < threat.fraction <= 1:
        raise InputError(f"fraction: {threat.fraction:g} is not above 0 and at most 1")
    if threat.surface != "support" and threat.fraction != 1:
        raise InputError(f"fraction: {threat.fraction:g} is of a poisoned support; give it with --surface support")
    if abs(threat.fraction * spec.shots - round(threat.fraction * spec.shots)) > 1e-6:
        legal = ", ".join(f"{count / spec.shots:.4g}" for count in range(1, spec.shots + 1))
        raise InputError(f"fraction: {threat.fraction:g} of {spec.shots} shots is no whole number; legal: {legal}")
    return threat.norm != "labels" or threat.eps <= _labels(threat, spec)


def _labels(threat: Threat, spec: Spec) -> int:
    return spec.ways * round(threat.fraction * spec.shots)


def reached(episodes: Episodes, fraction: float, ways: int) -> Tensor:
    """Index the items that a poisoner reaches, the first of each class, which lie in a random order: [A]."""
    items = torch.arange(episodes.support_x.shape[1], device=episodes.support_y.device).view(ways, -1)
    return items[:, : round(fraction * items.shape[1])].flatten()


def labels_of(episodes: Episodes, items: Tensor, ways: int) -> Tensor:
    """Write the labels of `items` as the sequence that is attacked, one-hot: [T,1,A,N]."""
    return F.one_hot(episodes.support_y[:, items], ways).to(episodes.support_x.dtype).unsqueeze(1)


def alphabet(items: int, ways: int) -> Sentences:
    """Return the space of label sequences [A,N], in which every class may stand for every other."""
    others = torch.tensor([[other + 1 for other in range(ways) if other != own] for own in range(ways)])
    return Sentences(
        (items, ways),
        words=("", *map(str, range(ways))),
        table=torch.cat([torch.zeros(1, ways), torch.eye(ways)]),
        swaps=torch.cat([torch.full((1, ways - 1), -1), others]),
    )


def poisoned(support: tuple[Tensor, Tensor], x_adv: Tensor, items: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
    """Put what an attack found, inputs [T,A,*X] or labels [T,1,A,N], into supports x [T,S,*X], y [T,S]."""
    x, y = support
    if threat.norm == "labels":
        return x, y.index_copy(1, items, x_adv.squeeze(1).argmax(dim=-1))
    return x.index_copy(1, items, x_adv), y
