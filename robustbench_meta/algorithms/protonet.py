"""Prototypical networks: the nearest class mean (Snell et al., arXiv 1703.05175, equations 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.types import MetaGradient, Net, Params


@dataclass(frozen=True)
class ProtoNet:
    """Score a query by minus its squared Euclidean distance to each class mean of the support."""

    steps: None = None
    test_steps: None = None
    meta_gradient: MetaGradient = "exact"

    def parameters(self, width: int, ways: int, rng: torch.Generator) -> Params:
        return {}

    def start(self, net: Net, params: Params) -> Params:
        return {}

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
        return state

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        member = F.one_hot(y, ways).to(x.dtype)
        return {"prototypes": (member / member.sum(dim=0)).T @ net(params, x)}

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        # Differences, not the expanded square: that one loses the small distances in float32.
        return -(net(params, x).unsqueeze(1) - fitted["prototypes"]).square().sum(dim=2)


PRESETS = {"protonet": ProtoNet()}
