"""Derivatives written by hand against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta import kernels
from robustbench_meta.kernels import batch_norm, convolve


def inputs(layout: torch.memory_format = torch.contiguous_format) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    h = torch.randn(3, 4, 5, 5, generator=rng, dtype=torch.float64).contiguous(memory_format=layout)
    gamma, beta = torch.rand(4, generator=rng, dtype=torch.float64) + 0.5, torch.randn(4, generator=rng).double()
    gamma[1] = 0  # a channel that batch norm switches off
    return h.requires_grad_(), gamma.requires_grad_(), beta.requires_grad_()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_has_the_derivatives_of_both_orders(layout: torch.memory_format) -> None:
    assert torch.autograd.gradcheck(batch_norm, inputs(layout))
    assert torch.autograd.gradgradcheck(batch_norm, inputs(layout))


def test_batch_norm_equals_torchs_and_names_the_statistics_behind_it() -> None:
    h, gamma, beta = inputs()
    normalised, mean, var = batch_norm(h, gamma, beta)
    torch.testing.assert_close(normalised, F.batch_norm(h, None, None, gamma, beta, training=True, eps=kernels.EPSILON))
    torch.testing.assert_close(mean, h.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(var, h.var(dim=(0, 2, 3), correction=0))


def test_batch_norm_is_differentiated_under_torch_func_and_again_outside_of_it() -> None:
    h, gamma, beta = inputs()

    def second(normalise: object) -> Tensor:
        inner = torch.func.grad(lambda g: normalise(h, g, beta).pow(3).sum())(gamma)  # type: ignore[operator]
        return torch.autograd.grad(inner.square().sum(), h)[0]

    own = second(lambda *given: batch_norm(*given)[0])
    native = second(lambda h, g, b: F.batch_norm(h, None, None, g, b, training=True, eps=kernels.EPSILON))
    assert native.abs().max() > 1e-3
    torch.testing.assert_close(own, native, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 3, kernels.THIN, kernels.THIN + 1])
@pytest.mark.parametrize("biased", [False, True])
def test_a_convolution_by_constant_kernels_equals_torchs_with_its_input_gradient(channels: int, biased: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, 5, 7, generator=rng, dtype=torch.float64).requires_grad_()
    kernel = torch.randn(6, channels, 3, 3, generator=rng, dtype=torch.float64)
    bias = torch.randn(6, generator=rng, dtype=torch.float64) if biased else None
    ours, torchs = convolve(x, kernel, bias), F.conv2d(x, kernel, bias, padding=1)
    above = torch.randn(ours.shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(ours, torchs)
    found = torch.autograd.grad(ours, x, above)[0]
    torch.testing.assert_close(found, torch.autograd.grad(torchs, x, above)[0], rtol=1e-12, atol=1e-12)
