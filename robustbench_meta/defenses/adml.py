"""ADML: clean and adversarial crossed between the loops (Yin et al., arXiv 1806.03316, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_meta.engine import Learner, craft
from robustbench_meta.losses import cross_entropy
from robustbench_meta.types import Attack, Episodes, Streams, Surface, Threat


@dataclass(frozen=True)
class ADML:
    """Minimise 1/2 [L(phi, Q') + L(phi', Q)] with phi = adapt(theta, S), phi' = adapt(theta, S').

    S' is crafted against theta before adaptation (a learner without inner steps has no such model, there
    it is phi), Q' against phi, the learner that meets it. The paper takes two updates in turn; as in the
    code of arXiv 1910.00982, one update takes the mean of both.
    """

    craft: Attack
    select: Literal["mean"] = "mean"
    surfaces: ClassVar[tuple[Surface, ...]] = ("support", "query")

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        support_x, support_y = episodes.support_x, episodes.support_y
        query_x, query_y = episodes.query_x, episodes.query_y
        with torch.no_grad():
            unadapted = learner.adapt(support_x, support_y, steps=0)
        support_adv = craft(learner, unadapted, support_x, support_y, attack=self.craft, threat=threat, rng=rng)
        from_clean = learner.adapt(support_x, support_y)
        from_adversarial = learner.adapt(support_adv, support_y)
        query_adv = craft(learner, from_clean, query_x, query_y, attack=self.craft, threat=threat, rng=rng)
        robust = cross_entropy(learner.predict(from_clean, query_adv), query_y).mean(dim=1)
        clean = cross_entropy(learner.predict(from_adversarial, query_x), query_y).mean(dim=1)
        return {"clean": 0.5 * clean, "robust": 0.5 * robust}


PRESETS = {"adml": ADML}
