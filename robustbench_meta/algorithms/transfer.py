"""Transfer: features of a network that was trained to tell all base classes apart, then frozen (arXiv 1904.04232).

A task is learned by its class means alone: no episode is seen in training. `transfer` trains a linear classifier and
compares by squared Euclidean distance; `transfer-cosine` trains a cosine classifier, Baseline++ of that paper's
section 3.2, and compares by cosine. Baseline++ then fits the class vectors of a task by gradient descent; here they
are the means of the unit features, in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.heads import class_means, distances, linear
from robustbench_meta.types import InputError, MetaGradient, Net, Params

Metric = Literal["euclidean", "cosine"]


@dataclass(frozen=True)
class Classifier:
    """Tells the base classes apart by one layer, linear or cosine times `scale`; learns nothing from a support."""

    metric: Metric = "euclidean"
    scale: float = 10.0
    steps: None = None
    test_steps: None = None
    meta_gradient: MetaGradient = "exact"

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        made = linear(width, ways, rng, name="base")
        return made if self.metric == "euclidean" else {"base.weight": made["base.weight"]}

    def start(self, net: Net, params: Params) -> Params:
        return {}

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
        return state

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        return {}

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        features = net(params, x)
        if self.metric == "cosine":
            return self.scale * F.normalize(features, dim=1) @ F.normalize(params["base.weight"], dim=1).T
        return F.linear(features, params["base.weight"], params["base.bias"])


@dataclass(frozen=True)
class Transfer:
    """Score a query by its nearness to each class mean of the support, in the features of the `base` classifier.

    `scale` multiplies cosines alone, for which 10 is what the code of arXiv 1904.04232 takes above 200 classes.
    """

    metric: Metric = "euclidean"
    scale: float = 10.0
    steps: None = None
    test_steps: None = None
    meta_gradient: MetaGradient = "exact"

    def __post_init__(self) -> None:
        if self.metric not in ("euclidean", "cosine"):
            raise InputError(f"metric: {self.metric!r} is not euclidean or cosine")
        if not 0 < self.scale < 1e6:
            raise InputError(f"scale: {self.scale} is not between 0 and 1e6")

    @property
    def base(self) -> Classifier:
        return Classifier(self.metric, self.scale)

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        return {}

    def start(self, net: Net, params: Params) -> Params:
        return {}

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
        return state

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        features = net(params, x)
        return {"means": class_means(F.normalize(features, dim=1) if self._cosine else features, y, ways)}

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        features, means = net(params, x), fitted["means"]
        if self._cosine:
            return self.scale * F.normalize(features, dim=1) @ F.normalize(means, dim=1).T
        return -distances(features, means)

    @property
    def _cosine(self) -> bool:
        return self.metric == "cosine"


PRESETS = {"transfer": Transfer(), "transfer-cosine": Transfer(metric="cosine")}
