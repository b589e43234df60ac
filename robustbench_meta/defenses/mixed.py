"""Clean and adversarial samples, in adaptation and in the outer loss: the method this project starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_meta.engine import Learner, craft
from robustbench_meta.losses import cross_entropy
from robustbench_meta.types import Attack, Episodes, InputError, Streams, Surface, Threat


@dataclass(frozen=True)
class Mixed:
    """Minimise 1/2 [L(phi', Q) + L(phi', Q')] with phi' = adapt(theta, S and S').

    S' is crafted against phi = adapt(theta, S), Q' against phi' itself. At validation and at test the learner
    adapts on the clean support alone, as every other, so that boards compare like with like.
    """

    craft: Attack
    clean_weight: float = 0.5
    robust_weight: float = 0.5
    select: Literal["mean"] = "mean"
    surfaces: ClassVar[tuple[Surface, ...]] = ("support", "query")

    def __post_init__(self) -> None:
        for name in ("clean_weight", "robust_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}: {getattr(self, name)} is not a finite number >= 0")

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        support_x, support_y = episodes.support_x, episodes.support_y
        query_x, query_y = episodes.query_x, episodes.query_y
        with torch.no_grad():
            first = learner.adapt(support_x, support_y)
        support_adv = craft(learner, first, support_x, support_y, attack=self.craft, threat=threat, rng=rng)
        both_x = torch.cat([support_x, support_adv], dim=1)
        fitted = learner.adapt(both_x, torch.cat([support_y, support_y], dim=1))
        query_adv = craft(learner, fitted, query_x, query_y, attack=self.craft, threat=threat, rng=rng)
        clean = cross_entropy(learner.predict(fitted, query_x), query_y).mean(dim=1)
        robust = cross_entropy(learner.predict(fitted, query_adv), query_y).mean(dim=1)
        return {"clean": self.clean_weight * clean, "robust": self.robust_weight * robust}


PRESETS = {"mixed": Mixed}
