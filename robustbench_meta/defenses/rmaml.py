"""R-MAML: clean loss plus robust loss, outside alone or inside too (Wang et al., arXiv 2102.10454, section 3).

`rmaml` attacks the queries of the last inner step's model alone (R-MAML_out, which the paper finds to be enough);
`rmaml-both` attacks the support at every inner step besides (R-MAML_both). In the authors' code the robust term has an
Adam of its own at a fifth of the rate, 2e-4 of 1e-3, since a weight in front of a loss means nothing to Adam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_meta.engine import Fitted, Learner, craft, craft_inner
from robustbench_meta.losses import cross_entropy
from robustbench_meta.types import Attack, Episodes, InputError, Params, Streams, Surface, Threat


@dataclass(frozen=True)
class RMAML:
    """Minimise L(phi, Q) and L(phi, Q') with phi = adapt(theta, S), each term by an Adam of its own.

    `robust_rate` is the share of the learning rate that the robust term's Adam has.
    """

    craft: Attack
    robust_rate: float = 0.2
    select: Literal["mean"] = "mean"
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)

    def __post_init__(self) -> None:
        _check(robust_rate=self.robust_rate)

    @property
    def rates(self) -> dict[str, float]:
        return {"robust": self.robust_rate}

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        fitted = learner.adapt(episodes.support_x, episodes.support_y)
        return _terms(learner, fitted, episodes, self.craft, threat, rng)


@dataclass(frozen=True)
class RMAMLBoth:
    """Minimise L(phi', Q) and L(phi', Q'), where every inner step of phi' descends L(S) + `inner_weight` L(S').

    S' is attacked anew against the parameters at each step. A learner without inner steps adapts on S and S' alike,
    S' attacked against adapt(theta, S).
    """

    craft: Attack
    inner_weight: float = 0.2
    robust_rate: float = 0.2
    select: Literal["mean"] = "mean"
    surfaces: ClassVar[tuple[Surface, ...]] = ("support", "query")

    def __post_init__(self) -> None:
        _check(inner_weight=self.inner_weight, robust_rate=self.robust_rate)

    @property
    def rates(self) -> dict[str, float]:
        return {"robust": self.robust_rate}

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        x, y = episodes.support_x, episodes.support_y
        if learner.steps is None:
            with torch.no_grad():
                clean = learner.adapt(x, y)
            x_adv = craft(learner, clean, x, y, attack=self.craft, threat=threat, rng=rng)
            fitted = learner.adapt(torch.cat([x, x_adv], dim=1), torch.cat([y, y], dim=1))
        else:
            state = learner.start(episodes.tasks)
            for _ in range(learner.steps):
                x_adv = craft_inner(learner, state, x, y, attack=self.craft, threat=threat, rng=rng)
                state = self._joined(state, learner.step(state, x, y), learner.step(state, x_adv, y))
            fitted = learner.finish(state, x, y)
        return _terms(learner, fitted, episodes, self.craft, threat, rng)

    def _joined(self, state: Params, clean: Params, robust: Params) -> Params:
        """Take both steps from `state`; gradient steps add up."""
        return {name: clean[name] + self.inner_weight * (robust[name] - value) for name, value in state.items()}


def _terms(
    learner: Learner, fitted: Fitted, episodes: Episodes, attack: Attack, threat: Threat, rng: Streams
) -> dict[str, Tensor]:
    x, y = episodes.query_x, episodes.query_y
    x_adv = craft(learner, fitted, x, y, attack=attack, threat=threat, rng=rng)
    clean, robust = learner.predict(fitted, x), learner.predict(fitted, x_adv)
    return {"clean": cross_entropy(clean, y).mean(dim=1), "robust": cross_entropy(robust, y).mean(dim=1)}


def _check(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name}: {value} is not a finite number above 0")


PRESETS = {"rmaml": RMAML, "rmaml-both": RMAMLBoth}
