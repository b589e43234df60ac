"""The networks against torch's own modules, in both orders and both ways of normalising."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_meta.kernels import batch_norm
from robustbench_meta.networks import MLP, Conv4, LogMelConv4, R2D2Net, ResNet12, WordsConv
from robustbench_meta.types import InputError, Params


def by_batch(name: str, h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return batch_norm(h, gamma, beta)[0]


def reference(
    weights: Params, blocks: int, order: str, slope: float, bias: bool
) -> tuple[nn.Sequential, list[nn.BatchNorm2d]]:
    layers: list[nn.Module] = []
    norms: list[nn.BatchNorm2d] = []
    for block in range(blocks):
        kernel = weights[f"conv{block}.weight"]
        conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, bias=bias)
        norm = nn.BatchNorm2d(kernel.shape[0])
        with torch.no_grad():
            conv.weight.copy_(kernel)
            if conv.bias is not None:
                conv.bias.copy_(weights[f"conv{block}.bias"])
            norm.weight.copy_(weights[f"conv{block}.gamma"])
            norm.bias.copy_(weights[f"conv{block}.beta"])
        act = nn.LeakyReLU(slope)
        middle = [norm, act] if order == "bn-relu" else [act, norm]
        layers += [conv, *middle, nn.MaxPool2d(2)]
        norms.append(norm)
    return nn.Sequential(*layers).double(), norms


def random_weights(network: Conv4 | R2D2Net | ResNet12, shape: tuple[int, ...]) -> Params:
    rng = torch.Generator().manual_seed(0)
    weights = network.parameters(shape, rng)
    noise = {name: 0.3 * torch.randn(value.shape, generator=rng) for name, value in weights.items()}
    return {name: (value + noise[name]).double() for name, value in weights.items()}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("order", ["bn-relu", "relu-bn"])
def test_conv4_equals_the_module_that_torch_users_write(order: str, bias: bool) -> None:
    network = Conv4(width=5, depth=3, order=order, bias=bias)  # type: ignore[arg-type]
    weights = random_weights(network, (3, 17, 16))
    module, norms = reference(weights, 3, order, 0.0, bias)
    x = torch.rand(6, 3, 17, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = network(weights, x, by_batch)
    torch.testing.assert_close(found, module(x).flatten(1), rtol=1e-9, atol=1e-9)
    assert found.shape == (6, network.features((3, 17, 16)))
    module.eval()  # now by the running statistics that the call above left behind
    statistics: Params = {}
    for block, norm in enumerate(norms):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        statistics |= {f"conv{block}.mean": norm.running_mean, f"conv{block}.var": norm.running_var}
    torch.testing.assert_close(network(weights, x, statistics), module(x).flatten(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", ["bn-relu", "relu-bn"])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_conv4_without_padding_and_with_a_last_pooling_of_stride_1_is_maml_pytorchs(
    padding: int, last_stride: int, order: str
) -> None:
    network = Conv4(3, 3, order, True, padding, last_stride)  # type: ignore[arg-type]
    shape = (2, 40, 41) if padding else (2, 54, 55)
    weights = random_weights(network, shape)
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(2, *shape, dtype=torch.float64, generator=rng)
    norm: Params = {}
    h = x
    for block in range(3):
        name = f"conv{block}"
        norm |= {f"{name}.mean": torch.randn(3, generator=rng).double(), f"{name}.var": torch.ones(3).double() + block}
        mean, var, gamma, beta = (
            norm[f"{name}.mean"],
            norm[f"{name}.var"],
            *(weights[f"{name}.{p}"] for p in ("gamma", "beta")),
        )
        h = F.conv2d(h, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)
        h = (
            F.batch_norm(F.relu(h), mean, var, gamma, beta)
            if order == "relu-bn"
            else F.relu(F.batch_norm(h, mean, var, gamma, beta))
        )
        h = F.max_pool2d(h, 2, last_stride if block == 2 else 2)
    torch.testing.assert_close(network(weights, x, norm), h.flatten(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network.freeze(weights, norm)(x.requires_grad_()), h.flatten(1), rtol=1e-9, atol=1e-9)
    assert network.features(shape) == h[0].numel()


def test_the_r2d2_embedding_joins_its_last_two_blocks() -> None:
    network = R2D2Net((4, 5, 6, 7))
    weights = random_weights(network, (3, 32, 32))
    module, _ = reference({k: v for k, v in weights.items() if "conv3" not in k}, 3, "bn-relu", 0.1, False)
    x = torch.rand(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    third = module(x)

    def last(h: Tensor) -> Tensor:
        h = F.conv2d(h, weights["conv3.weight"], padding=1)
        h = F.batch_norm(h, None, None, weights["conv3.gamma"], weights["conv3.beta"], training=True)
        return F.max_pool2d(h, 2, stride=1)

    expected = torch.cat([third.flatten(1), last(third).flatten(1)], dim=1)
    found = network(weights, x, by_batch)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found.shape[1] == network.features((3, 32, 32)) == 6 * 16 + 7 * 9


class Residual(nn.Module):
    """A block as torch users write it, with the weights of ours."""

    def __init__(self, weights: Params, block: int) -> None:
        super().__init__()
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for name in ("conv0", "conv1", "conv2", "shortcut"):
            kernel = weights[f"block{block}.{name}.weight"]
            conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2], padding="same", bias=False)
            norm = nn.BatchNorm2d(len(kernel))
            with torch.no_grad():
                conv.weight.copy_(kernel)
                norm.weight.copy_(weights[f"block{block}.{name}.gamma"])
                norm.bias.copy_(weights[f"block{block}.{name}.beta"])
            self.convolutions.append(conv)
            self.norms.append(norm)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, shortcut = (
            (lambda h, c=c, n=n: n(c(h))) for c, n in zip(self.convolutions, self.norms, strict=True)
        )
        h = third(F.leaky_relu(second(F.leaky_relu(first(x), 0.1)), 0.1))
        return F.max_pool2d(F.leaky_relu(h + shortcut(x), 0.1), 2)

    def statistics(self, block: int) -> Params:
        found: Params = {}
        for name, norm in zip(("conv0", "conv1", "conv2", "shortcut"), self.norms, strict=True):
            found |= {f"block{block}.{name}.mean": norm.running_mean, f"block{block}.{name}.var": norm.running_var}  # type: ignore[dict-item]
        return found


@pytest.mark.parametrize("pooling", ["none", "mean"])
def test_resnet12_equals_the_module_that_torch_users_write(pooling: str) -> None:
    network = ResNet12((4, 5, 6), pooling)  # type: ignore[arg-type]
    weights = random_weights(network, (3, 17, 16))
    blocks = [Residual(weights, block) for block in range(3)]
    module = nn.Sequential(*blocks)
    x = torch.rand(6, 3, 17, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def expected() -> Tensor:
        h = module(x)
        return h.flatten(1) if pooling == "none" else h.mean(dim=(2, 3))

    found = network(weights, x, by_batch)
    torch.testing.assert_close(found, expected(), rtol=1e-9, atol=1e-9)
    assert found.shape == (6, network.features((3, 17, 16)))
    module.eval()  # now by the running statistics that the call above left behind
    statistics = {
        name: value for number, block in enumerate(blocks) for name, value in block.statistics(number).items()
    }
    torch.testing.assert_close(network(weights, x, statistics), expected(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network.freeze(weights, statistics)(x), expected(), rtol=1e-9, atol=1e-9)


def test_resnet12_of_the_papers_has_their_size() -> None:
    weights = ResNet12().parameters((3, 32, 32), torch.Generator())
    kernels = sum(value.numel() for name, value in weights.items() if name.endswith("weight"))
    by_hand = sum(
        9 * into * out + 2 * 9 * out * out + into * out for into, out in ((3, 64), (64, 160), (160, 320), (320, 640))
    )
    assert kernels == by_hand
    assert ResNet12().features((3, 32, 32)) == 2560
    assert ResNet12(pooling="mean").features((3, 84, 84)) == 640


@pytest.mark.parametrize("bad", [{"widths": ()}, {"widths": (64, 0)}, {"pooling": "max"}])
def test_resnet12_refuses_options_it_cannot_have(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        ResNet12(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="4 poolings leave nothing"):
        ResNet12().parameters((3, 8, 8), torch.Generator())


@pytest.mark.parametrize(
    "bad", [{"width": 0}, {"depth": 0}, {"order": "relu"}, {"width": 10_000}, {"padding": 2}, {"last_stride": 0}]
)
def test_conv4_refuses_options_it_cannot_have(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        Conv4(**bad)  # type: ignore[arg-type]


def test_too_deep_a_network_for_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="depth"):
        Conv4(depth=5).parameters((1, 28, 28), torch.Generator())


def test_a_steady_sine_has_a_quarter_of_its_squared_amplitude_in_its_mel_band() -> None:
    network = LogMelConv4()
    hertz, amplitude = 1000.0, 0.5  # the 32nd of 129 bins, 31.25 Hz apart
    x = amplitude * torch.sin(2 * torch.pi * hertz * torch.arange(6144, dtype=torch.float64) / 8000).view(1, 1, -1)
    power = (network.spectrogram(x)[0, 0, 20].exp() - 1) * network.floor
    # A Hann window leaks a quarter of the amplitude at a bin into each of its neighbours, half of it.
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 34) / 2595) - 1)
    wanted = np.zeros(32)
    for bin_hertz, share in ((hertz - 31.25, 0.25), (hertz, 1.0), (hertz + 31.25, 0.25)):
        for band in range(32):
            low, middle, high = corners[band : band + 3]
            weight = max(0.0, min((bin_hertz - low) / (middle - low), (high - bin_hertz) / (high - middle)))
            wanted[band] += weight * share * amplitude**2 / 4
    np.testing.assert_allclose(power.numpy(), wanted, atol=1e-9)
    assert wanted.sum() > 0.06


def test_a_log_mel_network_is_conv4_on_its_spectrogram_and_silence_is_zero() -> None:
    network, shape = LogMelConv4(width=4, window=64, hop=32, mels=16, depth=2), (1, 1024)
    weights = {name: value.double() for name, value in network.parameters(shape, torch.Generator()).items()}
    x = 0.1 * torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pictures = network.spectrogram(x)
    assert pictures.shape == (3, 1, 31, 16)
    assert torch.equal(network(weights, x, by_batch), Conv4(4, 2)(weights, pictures, by_batch))
    assert network.features(shape) == 4 * 7 * 4
    assert not network.spectrogram(torch.zeros(1, *shape)).any()
    assert torch.autograd.gradcheck(network.spectrogram, x[:1, :, :160].clone().requires_grad_())


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"mels": 200}, "mels: 200 are more than a window of 256 samples can tell apart"),
        ({"floor": 0.0}, "floor: 0.0 is not above 0"),
        ({"hop": 0}, "hop: 0 is not between"),
    ],
)
def test_a_log_mel_network_refuses_options_it_cannot_have(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        LogMelConv4(**bad)


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 6144), (1, 255)])
def test_a_log_mel_network_takes_waveforms_alone(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"^network: logmel-conv4 takes waveforms"):
        LogMelConv4().features(shape)


def test_mlp_is_linear_layers_with_batch_norm_and_relu() -> None:
    network = MLP(width=3, depth=2)
    weights = network.parameters((5,), torch.Generator().manual_seed(0))
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    h = x
    for layer in range(2):
        h = h @ weights[f"linear{layer}.weight"][..., 0, 0].T
        h = ((h - h.mean(dim=0)) / (h.var(dim=0, correction=0) + 1e-5).sqrt()).relu()
    assert torch.allclose(network(weights, x, by_batch), h, atol=1e-5)
    assert network.features((5,)) == 3
    norm = {f"linear{n}.{kind}": torch.rand(3) + 0.5 for n in range(2) for kind in ("mean", "var")}
    assert torch.allclose(network.freeze(weights, norm)(x), network(weights, x, norm), atol=1e-5)
    with pytest.raises(InputError, match=r"^network: mlp takes vectors \(numbers,\), not \(3, 32, 32\)$"):
        network.features((3, 32, 32))


def test_words_conv_reads_three_words_at_a_time_and_keeps_the_strongest() -> None:
    network = WordsConv(width=2, depth=1)
    weights = network.parameters((4, 3), torch.Generator().manual_seed(0))
    x = F.normalize(torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    padded = torch.cat([torch.zeros(5, 1, 3), x, torch.zeros(5, 1, 3)], dim=1)
    kernel = weights["conv0.weight"][..., 0]  # [2, 3, 3]: filters, entries, words
    raw = torch.stack([torch.einsum("nwe,few->nf", padded[:, at : at + 3], kernel) for at in range(4)], dim=2)
    mean, spread = raw.mean(dim=(0, 2), keepdim=True), raw.var(dim=(0, 2), keepdim=True, correction=0)
    expected = ((raw - mean) / (spread + 1e-5).sqrt()).relu().amax(dim=2)
    assert torch.allclose(network(weights, x, by_batch), expected, atol=1e-5)
    assert network.features((4, 3)) == 2
    short = torch.cat([x, 0.49 * F.normalize(torch.randn(5, 2, 3), dim=-1)], dim=1)
    none = torch.cat([x, torch.zeros(5, 2, 3)], dim=1)
    assert network(weights, short, by_batch).equal(network(weights, none, by_batch))
    with pytest.raises(InputError, match=r"^network: words-conv takes word vectors \(words, entries\)"):
        network.features((3, 8, 8))
