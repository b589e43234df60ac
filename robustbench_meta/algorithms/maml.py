"""MAML and its kin: gradient descent on the support (Finn et al., arXiv 1703.03400, algorithm 2).

`anil` adapts the head alone (Raghu et al., arXiv 1909.09157). `fomaml` is `maml` meta-trained with the
first-order gradient of section 5.2, `reptile` by the displacement of the parameters over 8 steps, on 10 images each
at 5 ways, 5 shots and 15 queries (Nichol et al., arXiv 1803.02999, section 2; by SGD, where the authors take Adam);
adaptation itself is the same and always differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.heads import linear
from robustbench_meta.types import InputError, MetaGradient, Net, Params


@dataclass(frozen=True)
class MAML:
    """Take `steps` gradient steps of `step_size` on the support's cross entropy."""

    step_size: float = 0.01
    steps: int = 5
    test_steps: int = 10
    adapts: Literal["all", "head"] = "all"
    meta_gradient: MetaGradient = "exact"  # what meta-training uses unless the recipe says otherwise

    def __post_init__(self) -> None:
        for name in ("steps", "test_steps"):
            if not 1 <= getattr(self, name) <= 1000:
                raise InputError(f"{name}: {getattr(self, name)} is not between 1 and 1000")
        if not 0 < self.step_size < 100:
            raise InputError(f"step_size: {self.step_size} is not between 0 and 100")
        if self.adapts not in ("all", "head"):
            raise InputError(f"adapts: {self.adapts!r} is not all or head")

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        return linear(width, ways, rng)

    def start(self, net: Net, params: Params) -> Params:
        return {name: value for name, value in params.items() if self.adapts == "all" or name.startswith("head.")}

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
        def loss(state: Params) -> Tensor:
            return F.cross_entropy(self.predict(net, {**params, **state}, {}, x), y)

        gradient = torch.func.grad(loss)(state)
        return {name: value - self.step_size * gradient[name] for name, value in state.items()}

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        return {}

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        return F.linear(net(params, x), params["head.weight"], params["head.bias"])


PRESETS = {
    "maml": MAML(),
    "fomaml": MAML(meta_gradient="first-order"),
    "anil": MAML(adapts="head", step_size=0.1),
    "reptile": MAML(step_size=0.1, steps=8, test_steps=20, meta_gradient="displacement"),
}
