"""Networks as pure functions of their weights, with normalisation handed in by the engine.

`network(weights, x [B,*X], norm) -> [B, width]`. `norm` is either given statistics, a dict
{"<block>.mean": [C], "<block>.var": [C]}, or a function (block, h, gamma, beta) -> h that normalises by the
batch it is fed. Given statistics make batch norm affine, so that it folds into the convolution before it:
the same function at a fraction of the cost, differentiable in weights and statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.types import InputError, Params

EPSILON = 1e-5  # added to variances, as torch.nn.BatchNorm2d does

BatchNorm = Callable[[str, Tensor, Tensor, Tensor], Tensor]
Order = Literal["bn-relu", "relu-bn"]


@dataclass(frozen=True)
class Conv4:
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling (Vinyals et al., arXiv 1606.04080).

    `relu-bn` with a bias is the block of the code of AQ and R-MAML; it cannot fold.
    """

    width: int = 64
    depth: int = 4
    order: Order = "bn-relu"
    bias: bool = False

    def __post_init__(self) -> None:
        _positive(width=self.width, depth=self.depth)
        if self.order not in ("bn-relu", "relu-bn"):
            raise InputError(f"order: {self.order!r} is not bn-relu or relu-bn")

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        """Draw weights for inputs of `shape` (C, H, W)."""
        self.features(shape)
        return _convolutions([shape[0]] + [self.width] * self.depth, self.bias, rng)

    def features(self, shape: tuple[int, ...]) -> int:
        """Count the features of one embedding."""
        side = min(shape[1:]) >> self.depth
        if len(shape) != 3 or side < 1:
            raise InputError(f"depth: {self.depth} poolings leave nothing of an input of shape {shape}")
        return self.width * (shape[1] >> self.depth) * (shape[2] >> self.depth)

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        for block in range(self.depth):
            x = _block(weights, f"conv{block}", x, norm, order=self.order, slope=0.0)
        return x.flatten(1)


@dataclass(frozen=True)
class R2D2Net:
    """The 96-192-384-512 network of Bertinetto et al. (arXiv 1805.08136), without its dropout.

    The embedding joins the outputs of the last two blocks; the last one pools with stride 1 and keeps no
    activation. Leaky ReLU has slope 0.1.
    """

    widths: tuple[int, ...] = (96, 192, 384, 512)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if len(self.widths) < 2:
            raise InputError(f"widths: {self.widths} has fewer than the 2 blocks that the embedding joins")
        _positive(**{f"widths[{i}]": width for i, width in enumerate(self.widths)})

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        """Draw weights for inputs of `shape` (C, H, W)."""
        self.features(shape)
        return _convolutions([shape[0], *self.widths], False, rng)

    def features(self, shape: tuple[int, ...]) -> int:
        """Count the features of one embedding."""
        pooled = len(self.widths) - 1
        height, width = (side >> pooled for side in shape[1:])
        if min(height, width) < 2:
            raise InputError(f"network: r2d2 needs inputs of at least {2 << pooled} pixels a side, not {shape}")
        return self.widths[-2] * height * width + self.widths[-1] * (height - 1) * (width - 1)

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        last = len(self.widths) - 1
        for block in range(last):
            x = _block(weights, f"conv{block}", x, norm, order="bn-relu", slope=0.1)
        top = _block(weights, f"conv{last}", x, norm, order="bn-relu", slope=1.0, stride=1)
        return torch.cat([x.flatten(1), top.flatten(1)], dim=1)


def _block(
    weights: Params, name: str, x: Tensor, norm: Params | BatchNorm, *, order: Order, slope: float, stride: int = 2
) -> Tensor:
    kernel, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    gamma, beta = weights[f"{name}.gamma"], weights[f"{name}.beta"]
    if order == "relu-bn":
        x = _leaky(F.conv2d(x, kernel, bias, padding=1), slope)
        return _pool(_normalise(name, x, gamma, beta, norm), stride)
    if isinstance(norm, dict):
        scale, shift = _affine(name, gamma, beta, norm)
        shift = shift if bias is None else shift + scale * bias
        x = F.conv2d(x, kernel * scale.view(-1, 1, 1, 1), shift, padding=1)
    else:
        x = norm(name, F.conv2d(x, kernel, bias, padding=1), gamma, beta)
    # ReLU is monotone, so it may follow the pooling, on a quarter of the entries.
    return _leaky(_pool(x, stride), slope)


def _pool(x: Tensor, stride: int) -> Tensor:
    """Take the maximum over 2x2 windows; without a gradient by pairs, up to 16 times as fast on a CPU."""
    if stride != 2 or x.requires_grad:
        return F.max_pool2d(x, 2, stride)
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _normalise(name: str, x: Tensor, gamma: Tensor, beta: Tensor, norm: Params | BatchNorm) -> Tensor:
    if not isinstance(norm, dict):
        return norm(name, x, gamma, beta)
    scale, shift = _affine(name, gamma, beta, norm)
    return torch.addcmul(shift.view(-1, 1, 1), x, scale.view(-1, 1, 1))


def _affine(name: str, gamma: Tensor, beta: Tensor, norm: Params) -> tuple[Tensor, Tensor]:
    scale = gamma * torch.rsqrt(norm[f"{name}.var"] + EPSILON)
    return scale, beta - norm[f"{name}.mean"] * scale


def _leaky(x: Tensor, slope: float) -> Tensor:
    if slope == 0:
        return F.relu(x)
    return x if slope == 1 else F.leaky_relu(x, slope)


def _convolutions(widths: list[int], bias: bool, rng: torch.Generator) -> Params:
    weights: Params = {}
    for block, (into, out) in enumerate(pairwise(widths)):
        name = f"conv{block}"
        weights[f"{name}.weight"] = torch.randn(out, into, 3, 3, generator=rng) * (2 / (9 * into)) ** 0.5
        if bias:
            weights[f"{name}.bias"] = torch.zeros(out)
        weights[f"{name}.gamma"] = torch.ones(out)
        weights[f"{name}.beta"] = torch.zeros(out)
    return weights


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if not 1 <= size <= 4096:
            raise InputError(f"{name}: {size} is not between 1 and 4096")


PRESETS = {"conv4": Conv4(), "r2d2": R2D2Net()}
