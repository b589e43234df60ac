"""Meta-SGD: one learned rate, of either sign, for every single weight (Li et al., arXiv 1707.09835, equation 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.heads import linear
from robustbench_meta.types import InputError, MetaGradient, Net, Params

RATE = "rate."  # prefix of a weight's name


@dataclass(frozen=True)
class MetaSGD:
    """Move every weight by minus its own rate times the gradient of the support's cross entropy, `steps` times.

    All rates start at one value drawn uniformly from [`lowest`, `highest`]; meta-training moves each on its own. The
    exact meta-gradient teaches the rates; the first-order one would leave them where they started.
    """

    lowest: float = 0.005
    highest: float = 0.1
    steps: int = 1
    test_steps: int = 1
    meta_gradient: MetaGradient = "exact"

    def __post_init__(self) -> None:
        for name in ("steps", "test_steps"):
            if not 1 <= getattr(self, name) <= 1000:
                raise InputError(f"{name}: {getattr(self, name)} is not between 1 and 1000")
        if not 0 < self.lowest <= self.highest < 100:
            raise InputError(f"lowest: {self.lowest} is not above 0 and at most highest ({self.highest}), below 100")

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        head = linear(width, ways, rng)
        rate = self.lowest + (self.highest - self.lowest) * torch.rand((), generator=rng)
        return {**head, **{RATE + name: rate.expand(value.shape).clone() for name, value in (body | head).items()}}

    def start(self, net: Net, params: Params) -> Params:
        return {name: value for name, value in params.items() if RATE + name in params}

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
        def loss(state: Params) -> Tensor:
            return F.cross_entropy(self.predict(net, {**params, **state}, {}, x), y)

        gradient = torch.func.grad(loss)(state)
        return {name: value - params[RATE + name] * gradient[name] for name, value in state.items()}

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        return {}

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        return F.linear(net(params, x), params["head.weight"], params["head.bias"])


PRESETS = {"meta-sgd": MetaSGD()}
