"""Adversarial queries reused as support: items that would fool a learner as queries, given to it to learn from.

Oldewage et al., "Adversarial attacks are a surprisingly strong baseline for poisoning few-shot meta-learners", arXiv
2211.12990. No gradient goes through adaptation, so a step costs what it costs on queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustbench_meta import losses, threats
from robustbench_meta.ascent import ascend
from robustbench_meta.types import InputError, Norm, Streams, Surface, Threat, Victim


@dataclass(frozen=True)
class Reused:
    """Attack the support's items as queries of a learner that adapted to the proxies, by PGD from a random start.

    `steps` steps of `step` times eps; the last iterate stands, since an item that just fools teaches little.
    """

    steps: int = 20
    step: float = 0.25

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    surfaces: ClassVar[tuple[Surface, ...]] = ("support",)
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 100_000:
            raise InputError(f"steps: {self.steps} is not between 1 and 100000")
        if not 0 < self.step <= 10:
            raise InputError(f"step: {self.step} is not above 0 and at most 10")

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        if threat.eps == 0:
            return victim.x.clone()
        if victim.as_queries is None:
            raise InputError("surface: only the inputs of a support can be reused; legal: support")
        queries = victim.as_queries()
        start = threats.random_start(queries.x, rng, threat, queries.space)

        def objective(outputs: Tensor, points: Tensor) -> Tensor:
            return losses.cross_entropy(outputs, queries.y[points]).mean(dim=1)

        found = ascend(queries, threat, start, objective, steps=self.steps, length=self.step * threat.eps)
        return found.view(victim.x.shape)


PRESETS: dict[str, Reused] = {"reused-pgd-20": Reused()}
