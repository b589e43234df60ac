"""R-MAML's TRADES variant: clean loss plus divergence (Wang et al., arXiv 2102.10454; TRADES 1901.08573, eq. 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_meta.engine import Learner, craft
from robustbench_meta.losses import cross_entropy, kl_divergence
from robustbench_meta.types import Attack, Episodes, InputError, Streams, Surface, Threat


@dataclass(frozen=True)
class Trades:
    """Minimise L(phi, Q) + beta KL(p(Q) || p(Q')) with phi = adapt(theta, S), at the last inner step only.

    Q' comes from `craft`; TRADES itself climbs the divergence (`pgd-10-kl`).
    """

    craft: Attack
    beta: float = 3.0
    select: Literal["mean"] = "mean"
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise InputError(f"beta: {self.beta} is not a finite number >= 0")

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        x, y = episodes.query_x, episodes.query_y
        fitted = learner.adapt(episodes.support_x, episodes.support_y)
        x_adv = craft(learner, fitted, x, y, attack=self.craft, threat=threat, rng=rng)
        clean = learner.predict(fitted, x)
        divergence = kl_divergence(learner.predict(fitted, x_adv), clean)
        return {"clean": cross_entropy(clean, y).mean(dim=1), "robust": self.beta * divergence.mean(dim=1)}


PRESETS = {"trades": Trades}
