"""Tiny learners and episodes whose answers are known: the identity network, blobs, and a small conv net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustbench_meta import catalog
from robustbench_meta.engine import Learner, Network, start_params
from robustbench_meta.networks import BatchNorm, Conv4, Embed
from robustbench_meta.types import Algorithm, Box, Episodes, Params


@dataclass(frozen=True)
class Identity:
    """A network that embeds x as itself, times a weight of one."""

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        return {"scale": torch.ones(())}

    def features(self, shape: tuple[int, ...]) -> int:
        return int(torch.Size(shape).numel())

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        return weights["scale"] * x.flatten(1)

    def freeze(self, weights: Params, norm: Params) -> Embed:
        return lambda x: self(weights, x, norm)


SMALL = Conv4(width=4, depth=2)
IMAGE = Box((1, 8, 8))


def learner(
    algorithm: str | Algorithm, network: Network = SMALL, space: Box = IMAGE, ways: int = 3, **fields: Any
) -> Learner:
    """Build an untrained learner in float64."""
    made = catalog.algorithm(algorithm) if isinstance(algorithm, str) else algorithm
    params = start_params(made, network, space, ways, torch.Generator().manual_seed(7))
    return Learner(made, network, {name: value.double() for name, value in params.items()}, space, ways, **fields)


def blobs(
    tasks: int = 2,
    ways: int = 3,
    shots: int = 4,
    queries: int = 3,
    box: Box = IMAGE,
    noise: float = 0.05,
    seed: int = 0,
) -> Episodes:
    """Make tasks whose classes are well-separated random images with a little noise, in float64."""
    rng = torch.Generator().manual_seed(0)
    centres = torch.rand(tasks, ways, 1, *box.shape, generator=rng, dtype=torch.float64)

    def items(count: int) -> Tensor:
        jitter = torch.randn(tasks, ways, count, *box.shape, generator=rng, dtype=torch.float64)
        return (centres + noise * jitter).clamp(box.low, box.high).flatten(1, 2)

    def labels(count: int) -> Tensor:
        return torch.arange(ways).repeat_interleave(count).expand(tasks, -1).contiguous()

    support, query, proxy = items(shots), items(queries), items(queries)
    return Episodes(support, labels(shots), query, labels(queries), proxy, labels(queries))
