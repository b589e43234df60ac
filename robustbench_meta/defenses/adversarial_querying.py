"""Adversarial querying: adapt on clean support, learn from attacked queries (arXiv 1910.00982, algorithm 1).

`fast` attacks them by one step of 1.25 eps from a random start, with a guard (Wong et al., arXiv 2001.03994, section
5.4): one-step training may collapse at once, right under its own attack and at nothing under one of several steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_meta.attacks.pgd import PGD
from robustbench_meta.engine import Learner, craft
from robustbench_meta.losses import cross_entropy
from robustbench_meta.types import Attack, Episodes, InputError, Streams, Surface, Threat


@dataclass(frozen=True)
class AdversarialQuerying:
    """Minimise L(phi, Q') with phi = adapt(theta, S) and Q' crafted against phi; no clean term.

    Training ends where accuracy under the validation attack falls below `guard` times its best so far; 0: never.
    """

    craft: Attack
    guard: float = 0.0
    select: Literal["mean"] = "mean"
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)

    def __post_init__(self) -> None:
        if not 0 <= self.guard < 1:
            raise InputError(f"guard: {self.guard} is not from 0 to below 1")

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        x, y = episodes.query_x, episodes.query_y
        fitted = learner.adapt(episodes.support_x, episodes.support_y)
        x_adv = craft(learner, fitted, x, y, attack=self.craft, threat=threat, rng=rng)
        return {"robust": cross_entropy(learner.predict(fitted, x_adv), y).mean(dim=1)}


PRESETS = {"aq": AdversarialQuerying, "fast": AdversarialQuerying(PGD(1, step=1.25, keep="last"), guard=0.5)}
