"""Operations whose derivatives are written by hand where torch's own are slow on a CPU.

Shapes: h and x [B,C,H,W], n = B*H*W entries a channel, per-channel values [C]. The first two are not for mapped code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-5  # added to variances, as torch.nn.BatchNorm2d does
THIN = 4  # input channels up to which the input gradient of a convolution is a product and nine shifted sums


def batch_norm(h: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise h by its own statistics (arXiv 1502.03167, algorithm 1); return also its mean and biased variance.

    Differentiable twice in everything. torch differentiates its own backward pass through a dozen products and
    channel sums, the largest part of a second-order meta-step; written out, it takes two native backward passes.
    """
    normalised, mean, inverse = _BatchNorm.apply(h, gamma, beta)
    return normalised, mean, inverse.square().reciprocal() - EPSILON


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x with constant kernels [O,C,3,3], padded by one; with few channels its input gradient is cheap."""
    if x.requires_grad and x.device.type == "cpu" and x.shape[1] <= THIN:
        return _ThinConvolution.apply(x, kernel, bias)
    return F.conv2d(x, kernel, bias, padding=1)


def scale_and_shift(gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Turn batch norm by given statistics into h * scale + shift; every tensor [...,C]."""
    scale = gamma * torch.rsqrt(var + EPSILON)
    return scale, beta - mean * scale


class _BatchNorm(torch.autograd.Function):
    """(h, gamma, beta) -> normalised h, mean, 1 / sqrt(variance + EPSILON)."""

    @staticmethod
    def forward(h: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(h, gamma, beta, None, None, True, 0.0, EPSILON)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        h, gamma, _ = inputs
        _, mean, inverse = output
        ctx.save_for_backward(h, gamma, mean, inverse)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        h, gamma, mean, inverse = ctx.saved_tensors
        above, to_mean, to_inverse = upstream
        grads: tuple[Tensor | None, ...] = (None, None, None)
        if above is not None:
            grads = _BatchNormBackward.apply(above, h, gamma, mean, inverse)
        if to_mean is None and to_inverse is None:
            return grads
        # d mean / dh = 1 / n and d inverse / dh = -inverse^3 (h - mean) / n.
        n = h.numel() // h.shape[1]
        slope = torch.zeros_like(mean) if to_inverse is None else -to_inverse * inverse**3 / n
        level = (0 if to_mean is None else to_mean / n) - slope * mean
        moments = _affine(h, slope, level)
        return (moments if grads[0] is None else grads[0] + moments, *grads[1:])


class _BatchNormBackward(torch.autograd.Function):
    """(gradient of the normalised h, h, gamma, mean, inverse) -> gradients of h, gamma and beta.

    With z = (h - mean) inverse and P[v] = v - mean(v) - z mean(v z), they are gamma inverse P[g], sum(g z) and
    sum(g). What `mean` and `inverse` owe to h is counted in the derivative by h.
    """

    @staticmethod
    def forward(above: Tensor, h: Tensor, gamma: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, ...]:
        return _native_backward(above, h, gamma, mean, inverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        above, h, gamma, mean, inverse = ctx.saved_tensors
        u, to_gamma, to_beta = upstream
        ones, n = torch.ones_like(gamma), h.numel() // h.shape[1]
        a, b = (0 * ones if part is None else part for part in (to_gamma, to_beta))
        projected, above_z, above_sum = _native_backward(above, h, ones, mean, inverse)  # inverse P[g], sum g z, sum g
        by_above = _affine(h, a * inverse, b - a * inverse * mean)
        if u is None:
            return by_above, projected * _rows(a), None, None, None
        u_projected, u_z, u_sum = _native_backward(u, h, ones, mean, inverse)
        by_above.addcmul_(u_projected, _rows(gamma))
        inner = _channel_sum(u, above) - (u_sum * above_sum + u_z * above_z) / n  # sum u P[g]
        # The derivative by h through inverse is `tail`; z's cotangent is -scale/n above_z u + (a - scale/n u_z) g.
        scale = gamma * inverse
        tail = -scale * inverse**2 * inner / n
        by_h = _affine(h, tail, -tail * mean)
        by_h.addcmul_(u_projected, _rows(-scale * above_z / n)).addcmul_(projected, _rows(a - scale * u_z / n))
        return by_above, by_h, inverse * inner, None, None


class _ThinConvolution(torch.autograd.Function):
    """x, kernel [O,C,3,3], bias -> convolution; its gradient goes to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(kernel)
        return F.conv2d(x, kernel, bias, padding=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (above,), (kernel,) = upstream, ctx.saved_tensors
        count, wide, height, width = above.shape
        thin = kernel.shape[1]
        # One product for all nine taps, each of which is then added where it came from.
        taps = kernel.permute(1, 2, 3, 0).reshape(-1, wide) @ above.permute(0, 2, 3, 1).reshape(-1, wide).T
        taps = taps.view(thin, 3, 3, count, height, width)
        padded = above.new_zeros(thin, count, height + 2, width + 2)
        for row in range(3):
            for column in range(3):
                padded[:, :, row : row + height, column : column + width] += taps[:, row, column]
        return padded[:, :, 1:-1, 1:-1].transpose(0, 1), None, None


def _native_backward(above: Tensor, h: Tensor, gamma: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, ...]:
    native = torch.ops.aten.native_batch_norm_backward
    return native(above, h, gamma, None, None, mean, inverse, True, EPSILON, [True, True, True])


def _affine(h: Tensor, slope: Tensor, level: Tensor) -> Tensor:
    return torch.addcmul(_rows(level), h, _rows(slope))


def _rows(channels: Tensor) -> Tensor:
    return channels.view(-1, 1, 1)


def _channel_sum(a: Tensor, b: Tensor) -> Tensor:
    """Sum a * b over all but the channels, as a product with ones where memory is channels-last."""
    rows = (a * b).permute(0, 2, 3, 1)
    if not rows.is_contiguous():
        return rows.sum(dim=(0, 1, 2))
    rows = rows.reshape(-1, rows.shape[-1])
    return rows.new_ones(len(rows)) @ rows
