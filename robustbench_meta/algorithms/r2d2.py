"""R2-D2: ridge regression on the embedded support (Bertinetto et al., arXiv 1805.08136, equations 4 to 6)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_meta.heads import ridge
from robustbench_meta.types import InputError, MetaGradient, Net, Params


@dataclass(frozen=True)
class R2D2:
    """Solve for the head in closed form; its regularisation, scale and offset are meta-learned."""

    regularisation: float = 1.0  # where the meta-learned lambda starts
    steps: None = None
    test_steps: None = None
    meta_gradient: MetaGradient = "exact"

    def __post_init__(self) -> None:
        if not 0 < self.regularisation < 1e6:
            raise InputError(f"regularisation: {self.regularisation} is not between 0 and 1e6")

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        log_lambda = torch.tensor(float(self.regularisation)).log()  # the logarithm keeps lambda positive
        return {"ridge.log_lambda": log_lambda, "ridge.scale": torch.ones(()), "ridge.offset": torch.zeros(())}

    def start(self, net: Net, params: Params) -> Params:
        return {}

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
        return state

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        return {"head": ridge(net(params, x), y, ways, params["ridge.log_lambda"].exp())}

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        return params["ridge.scale"] * (net(params, x) @ fitted["head"]) + params["ridge.offset"]


PRESETS = {"r2d2": R2D2()}
