"""MetaOptNet: a convex problem solved on the embedded support (Lee et al., arXiv 1904.03758, equations 9 to 11).

`metaopt-svm` is its multi-class support vector machine, `metaopt-ridge` its ridge regression. That one differs from
R2-D2's in what is learned: a fixed regularisation and no offset here, both meta-learned there; the solver is shared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustbench_meta.heads import ridge, svm
from robustbench_meta.types import InputError, MetaGradient, Net, Params

TOLERANCE = 1e-6  # of the optimality conditions, whose margins are of order one


@dataclass(frozen=True)
class MetaOpt:
    """Score a query by the learned `head` times a meta-learned scale, which starts at 1 as in the authors' code.

    `bound` is the C of the support vector machine, `regularisation` the lambda of ridge regression, both the authors'.
    A machine that `iterations` leave above TOLERANCE is refused, in training, at attack and at score alike; they are
    the same everywhere. The authors' code adds an identity to the machine's kernel, which equation 11 has not.
    """

    head: Literal["svm", "ridge"] = "svm"
    bound: float = 0.1
    iterations: int = 25
    regularisation: float = 50.0
    steps: None = None
    test_steps: None = None
    meta_gradient: MetaGradient = "exact"

    def __post_init__(self) -> None:
        if self.head not in ("svm", "ridge"):
            raise InputError(f"head: {self.head!r} is not svm or ridge")
        for name in ("bound", "regularisation"):
            if not 0 < getattr(self, name) < 1e6:
                raise InputError(f"{name}: {getattr(self, name)} is not between 0 and 1e6")
        if not 1 <= self.iterations <= 1000:
            raise InputError(f"iterations: {self.iterations} is not between 1 and 1000")

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        return {"head.scale": torch.ones(())}

    def start(self, net: Net, params: Params) -> Params:
        return {}

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
        return state

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        features = net(params, x)
        if self.head == "ridge":
            return {"head": ridge(features, y, ways, self.regularisation)}
        machine = svm(features, y, ways, bound=self.bound, iterations=self.iterations)
        return {"head": machine.weights, "residual": machine.residual}

    def check(self, fitted: Params) -> None:
        """Raise InputError where a machine is not solved."""
        residual = float(fitted["residual"].max()) if "residual" in fitted else 0.0
        if not residual <= TOLERANCE:
            raise InputError(
                f"iterations: {self.iterations} leave a support vector machine {residual:.2g} from its optimum, above"
                f" {TOLERANCE:g}; raise iterations, or lower the scale of the features"
            )

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        return params["head.scale"] * (net(params, x) @ fitted["head"])


PRESETS = {"metaopt-svm": MetaOpt(), "metaopt-ridge": MetaOpt(head="ridge")}
