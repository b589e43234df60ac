"""Adversarial querying: adapt on clean support, learn from attacked queries (arXiv 1910.00982, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_meta.engine import Learner, craft
from robustbench_meta.losses import cross_entropy
from robustbench_meta.types import Attack, Episodes, Streams, Surface, Threat


@dataclass(frozen=True)
class AdversarialQuerying:
    """Minimise L(phi, Q') with phi = adapt(theta, S) and Q' crafted against phi; no clean term."""

    craft: Attack
    select: Literal["mean"] = "mean"
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        x, y = episodes.query_x, episodes.query_y
        fitted = learner.adapt(episodes.support_x, episodes.support_y)
        x_adv = craft(learner, fitted, x, y, attack=self.craft, threat=threat, rng=rng)
        return {"robust": cross_entropy(learner.predict(fitted, x_adv), y).mean(dim=1)}


PRESETS = {"aq": AdversarialQuerying}
