"""Overreach, our own: adversarial querying (arXiv 1910.00982, algorithm 1) beyond the budget that is defended.

Robustness to eps on the classes of training falls short of eps on classes never seen. Training at `reach` eps is meant
to make up for that, at a price in clean accuracy; whether it does stands in reports/reproduction.md, claims 9 to 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_meta import threats
from robustbench_meta.engine import Learner, craft
from robustbench_meta.losses import cross_entropy
from robustbench_meta.types import Attack, Episodes, InputError, Streams, Surface, Threat


@dataclass(frozen=True)
class Overreach:
    """Minimise L(phi, Q') with phi = adapt(theta, S) and Q' crafted against phi within `reach` times eps.

    Raise InputError where that is more than the box allows.
    """

    craft: Attack
    reach: float = 1.5
    select: Literal["mean"] = "mean"
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)

    def __post_init__(self) -> None:
        if not 1 <= self.reach < math.inf:
            raise InputError(f"reach: {self.reach} is not a finite number >= 1")

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        x, y = episodes.query_x, episodes.query_y
        beyond = threats.check(replace(threat, eps=self.reach * threat.eps), learner.space)
        fitted = learner.adapt(episodes.support_x, episodes.support_y)
        x_adv = craft(learner, fitted, x, y, attack=self.craft, threat=beyond, rng=rng)
        return {"robust": cross_entropy(learner.predict(fitted, x_adv), y).mean(dim=1)}


PRESETS = {"overreach": Overreach}
