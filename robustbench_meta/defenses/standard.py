"""No defense: the query loss of the adapted learner (arXiv 1703.03400, equation 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from robustbench_meta.engine import Learner
from robustbench_meta.losses import cross_entropy
from robustbench_meta.types import Episodes, Streams, Surface, Threat


@dataclass(frozen=True)
class Standard:
    """Minimise L(adapt(theta, S), Q)."""

    craft: None = None
    select: Literal["clean"] = "clean"
    surfaces: ClassVar[tuple[Surface, ...]] = ()

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        fitted = learner.adapt(episodes.support_x, episodes.support_y)
        outputs = learner.predict(fitted, episodes.query_x)
        return {"clean": cross_entropy(outputs, episodes.query_y).mean(dim=1)}


PRESETS = {"standard": Standard()}
