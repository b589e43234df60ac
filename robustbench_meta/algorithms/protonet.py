"""Prototypical networks: the nearest class mean (Snell et al., arXiv 1703.05175, equations 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_meta.heads import class_means, distances
from robustbench_meta.types import MetaGradient, Net, Params


@dataclass(frozen=True)
class ProtoNet:
    """Score a query by minus its squared Euclidean distance to each class mean of the support."""

    steps: None = None
    test_steps: None = None
    meta_gradient: MetaGradient = "exact"

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        return {}

    def start(self, net: Net, params: Params) -> Params:
        return {}

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
        return state

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        return {"prototypes": class_means(net(params, x), y, ways)}

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        return -distances(net(params, x), fitted["prototypes"])


PRESETS = {"protonet": ProtoNet()}
