"""Adversarial support: every inner step trains on attacked images, the outer loss stays clean (arXiv 1910.00982).

That paper perturbs the support as an alternative to its own adversarial querying, and finds little robustness in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_meta.engine import Learner, craft, craft_inner
from robustbench_meta.losses import cross_entropy
from robustbench_meta.types import Attack, Episodes, Streams, Surface, Threat


@dataclass(frozen=True)
class AdversarialSupport:
    """Minimise L(phi', Q), where phi' takes every inner step on a support attacked against the parameters at that step.

    A learner without inner steps adapts on a support attacked against adapt(theta, S). With Reptile, whose inner steps
    are all there is to its training, this is adversarial training.
    """

    craft: Attack
    select: Literal["mean"] = "mean"
    surfaces: ClassVar[tuple[Surface, ...]] = ("support",)

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        x, y = episodes.support_x, episodes.support_y
        if learner.steps is None:
            with torch.no_grad():
                clean = learner.adapt(x, y)
            fitted = learner.adapt(craft(learner, clean, x, y, attack=self.craft, threat=threat, rng=rng), y)
        else:
            state, x_adv = learner.start(episodes.tasks), x
            for _ in range(learner.steps):
                x_adv = craft_inner(learner, state, x, y, attack=self.craft, threat=threat, rng=rng)
                state = learner.step(state, x_adv, y)
            fitted = learner.finish(state, x_adv, y)
        outputs = learner.predict(fitted, episodes.query_x)
        return {"clean": cross_entropy(outputs, episodes.query_y).mean(dim=1)}


PRESETS = {"support": AdversarialSupport}
