"""Networks as pure functions of their weights, with normalisation handed in by the engine.

`network(weights, x [B,*X], norm) -> [B, width]`. `norm` is either given statistics, a dict
{"<block>.mean": [C], "<block>.var": [C]}, or a function (block, h, gamma, beta) -> h that normalises by the
batch it is fed. Given statistics make batch norm affine, so that it folds into the convolution before it:
the same function at a fraction of the cost, differentiable in weights and statistics. `freeze(weights, norm)`
folds once and for all: a function of x alone, whose gradient goes to x alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.attention import EncoderDecoder
from robustbench_meta.kernels import convolve, scale_and_shift
from robustbench_meta.types import InputError, Params

BatchNorm = Callable[[str, Tensor, Tensor, Tensor], Tensor]
Embed = Callable[[Tensor], Tensor]  # x [B,*X] -> [B, width]
Order = Literal["bn-relu", "relu-bn"]


@dataclass(frozen=True)
class Conv4:
    """Blocks of 3x3 convolution, batch norm, ReLU and 2x2 max pooling (Vinyals et al., arXiv 1606.04080).

    `relu-bn` with a bias is the block of the code of AQ and R-MAML; it cannot fold. The code of MAML-Pytorch pads no
    convolution, and its last pooling has stride 1.
    """

    width: int = 64
    depth: int = 4
    order: Order = "bn-relu"
    bias: bool = False
    padding: int = 1
    last_stride: int = 2

    def __post_init__(self) -> None:
        _positive(width=self.width, depth=self.depth)
        if self.order not in ("bn-relu", "relu-bn"):
            raise InputError(f"order: {self.order!r} is not bn-relu or relu-bn")
        for name, legal in (("padding", (0, 1)), ("last_stride", (1, 2))):
            if getattr(self, name) not in legal:
                raise InputError(f"{name}: {getattr(self, name)} is not {legal[0]} or {legal[1]}")

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        """Draw weights for inputs of `shape` (C, H, W)."""
        self.features(shape)
        return _convolutions([shape[0]] + [self.width] * self.depth, self.bias, rng)

    def features(self, shape: tuple[int, ...]) -> int:
        """Count the features of one embedding."""
        height, width = (self._left(side) for side in shape[1:]) if len(shape) == 3 else (0, 0)
        if not (height and width):
            raise InputError(f"depth: {self.depth} poolings leave nothing of an input of shape {shape}")
        return self.width * height * width

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        return self._run(self._blocks(weights, norm), x)

    def freeze(self, weights: Params, norm: Params) -> Embed:
        """Return the embedding by constant weights and statistics."""
        return partial(self._run, [block.freeze() for block in self._blocks(weights, norm)])

    def _left(self, side: int) -> int:
        """Count the pixels that are left of a side; 0 where a pooling has none to take."""
        for block in range(self.depth):
            side = max((side + 2 * self.padding - 4) // self._stride(block) + 1, 0)
        return side

    def _stride(self, block: int) -> int:
        return self.last_stride if block == self.depth - 1 else 2

    def _blocks(self, weights: Params, norm: Params | BatchNorm) -> list[_Block]:
        blocks = [
            _block(weights, f"conv{block}", norm, order=self.order, slope=0.0, stride=self._stride(block))
            for block in range(self.depth)
        ]
        return [replace(block, padding=self.padding) for block in blocks]

    def _run(self, blocks: Sequence[_Block], x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x)
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
        return self._run(self._blocks(weights, norm), x)

    def freeze(self, weights: Params, norm: Params) -> Embed:
        """Return the embedding by constant weights and statistics."""
        return partial(self._run, [block.freeze() for block in self._blocks(weights, norm)])

    def _blocks(self, weights: Params, norm: Params | BatchNorm) -> list[_Block]:
        last = len(self.widths) - 1
        blocks = [_block(weights, f"conv{block}", norm, order="bn-relu", slope=0.1) for block in range(last)]
        return [*blocks, _block(weights, f"conv{last}", norm, order="bn-relu", slope=1.0, stride=1)]

    def _run(self, blocks: Sequence[_Block], x: Tensor) -> Tensor:
        for block in blocks[:-1]:
            x = block(x)
        return torch.cat([x.flatten(1), blocks[-1](x).flatten(1)], dim=1)


@dataclass(frozen=True)
class ResNet12:
    """Four residual blocks of three convolutions, as in TADAM and MetaOptNet (arXiv 1805.10123, 1904.03758).

    A block adds a normalised 1x1 convolution of its input, then comes leaky ReLU of slope 0.1 and 2x2 max pooling. The
    embedding is all that is left, as in MetaOptNet, or its mean over places. Their DropBlock is left out.
    """

    widths: tuple[int, ...] = (64, 160, 320, 640)
    pooling: Literal["none", "mean"] = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if not self.widths:
            raise InputError("widths: () names no block")
        _positive(**{f"widths[{i}]": width for i, width in enumerate(self.widths)})
        if self.pooling not in ("none", "mean"):
            raise InputError(f"pooling: {self.pooling!r} is not none or mean")

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        """Draw weights for inputs of `shape` (C, H, W)."""
        self.features(shape)
        weights: Params = {}
        for block, (into, out) in enumerate(pairwise([shape[0], *self.widths])):
            made = _convolutions([into, out, out, out], False, rng) | _convolution(
                "shortcut", into, out, rng, size=(1, 1)
            )
            weights |= {f"block{block}.{name}": value for name, value in made.items()}
        return weights

    def features(self, shape: tuple[int, ...]) -> int:
        """Count the features of one embedding."""
        height, width = (side >> len(self.widths) for side in shape[1:])
        if min(height, width) < 1:
            raise InputError(f"widths: {len(self.widths)} poolings leave nothing of an input of shape {shape}")
        return self.widths[-1] * (height * width if self.pooling == "none" else 1)

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        return self._run(self._blocks(weights, norm), x)

    def freeze(self, weights: Params, norm: Params) -> Embed:
        """Return the embedding by constant weights and statistics."""
        return partial(self._run, [[layer.freeze() for layer in block] for block in self._blocks(weights, norm)])

    def _blocks(self, weights: Params, norm: Params | BatchNorm) -> list[list[_Block]]:
        """List the layers of each block: its convolutions, of which the last is not activated, then its shortcut."""
        layers = {"conv0": 0.1, "conv1": 0.1, "conv2": 1.0, "shortcut": 1.0}
        return [
            [
                _block(weights, f"block{block}.{name}", norm, order="bn-relu", slope=slope, stride=0)
                for name, slope in layers.items()
            ]
            for block in range(len(self.widths))
        ]

    def _run(self, blocks: Sequence[Sequence[_Block]], x: Tensor) -> Tensor:
        for *convolutions, shortcut in blocks:
            h = x
            for convolution in convolutions:
                h = convolution(h)
            x = _leaky(_pool(h + shortcut(x), 2), 0.1)
        return x.flatten(1) if self.pooling == "none" else x.mean(dim=(2, 3))


@dataclass(frozen=True)
class LogMelConv4:
    """The logarithm of a mel spectrogram, computed from the waveform, under Conv4; differentiable down to the samples.

    Hann windows of `window` samples every `hop`; power through `mels` triangles between 0 and `rate` / 2, equally far
    apart on the mel scale 2595 log10(1 + f / 700) (O'Shaughnessy 1987); then log(1 + power / floor), which is 0 in
    silence. Power is scaled so that a steady sine of amplitude a at the frequency of a bin has a^2 / 4 there.
    """

    width: int = 32
    depth: int = 4
    rate: int = 8000  # samples a second
    window: int = 256
    hop: int = 128
    mels: int = 32
    floor: float = 1e-6

    def __post_init__(self) -> None:
        _positive(rate=self.rate // 100, window=self.window, hop=self.hop, mels=self.mels)
        if not 0 < self.floor <= 1:
            raise InputError(f"floor: {self.floor} is not above 0 and at most 1")
        if not (_triangles(self.rate, self.window, self.mels) > 0).any(dim=0).all():
            raise InputError(f"mels: {self.mels} are more than a window of {self.window} samples can tell apart")

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        """Draw weights for inputs of `shape` (1, samples)."""
        return self._conv4.parameters(self._pictures(shape), rng)

    def features(self, shape: tuple[int, ...]) -> int:
        """Count the features of one embedding."""
        return self._conv4.features(self._pictures(shape))

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        return self._conv4(weights, self.spectrogram(x), norm)

    def freeze(self, weights: Params, norm: Params) -> Embed:
        """Return the embedding by constant weights and statistics."""
        embed = self._conv4.freeze(weights, norm)
        return lambda x: embed(self.spectrogram(x))

    def spectrogram(self, x: Tensor) -> Tensor:
        """Return the log-mel spectrograms of x [B,1,samples]: [B,1,frames,mels]."""
        hann = torch.hann_window(self.window, dtype=x.dtype, device=x.device)
        spectrum = torch.fft.rfft(x.unfold(-1, self.window, self.hop) * (hann / hann.sum()))
        power = spectrum.real.square() + spectrum.imag.square()
        triangles = _triangles(self.rate, self.window, self.mels).to(x.device, x.dtype)
        return torch.log1p(power @ triangles / self.floor)

    @property
    def _conv4(self) -> Conv4:
        return Conv4(self.width, self.depth)

    def _pictures(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) != 2 or shape[0] != 1 or shape[1] < self.window:
            raise InputError(f"network: logmel-conv4 takes waveforms (1, {self.window} samples or more), not {shape}")
        return 1, (shape[1] - self.window) // self.hop + 1, self.mels


@dataclass(frozen=True)
class WordsConv:
    """Convolutions over three words each, batch norm and ReLU, then the maximum over places (Kim, arXiv 1408.5882).

    Takes sequences of word vectors (words, entries), each of length one. What is shorter than half of that is padding
    and read as none, so that nobody writes where a sentence has no word.
    """

    width: int = 128
    depth: int = 2

    def __post_init__(self) -> None:
        _positive(width=self.width, depth=self.depth)

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        """Draw weights for inputs of `shape` (words, entries of a vector)."""
        self.features(shape)
        return _convolutions([shape[1]] + [self.width] * self.depth, False, rng, size=(3, 1))

    def features(self, shape: tuple[int, ...]) -> int:
        """Count the features of one embedding."""
        if len(shape) != 2:
            raise InputError(f"network: words-conv takes word vectors (words, entries), not {shape}")
        return self.width

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        return self._run(self._blocks(weights, norm), x)

    def freeze(self, weights: Params, norm: Params) -> Embed:
        """Return the embedding by constant weights and statistics."""
        return partial(self._run, [block.freeze() for block in self._blocks(weights, norm)])

    def _blocks(self, weights: Params, norm: Params | BatchNorm) -> list[_Block]:
        blocks = [_block(weights, f"conv{n}", norm, order="bn-relu", slope=0.0, stride=0) for n in range(self.depth)]
        return [replace(block, padding=(1, 0)) for block in blocks]

    def _run(self, blocks: Sequence[_Block], x: Tensor) -> Tensor:
        words = x * (x.norm(dim=-1, keepdim=True) >= 0.5)
        h = words.transpose(1, 2).unsqueeze(3)  # words become places, entries channels
        for block in blocks:
            h = block(h)
        return h.amax(dim=(2, 3))


@dataclass(frozen=True)
class MLP:
    """Linear layers, each with batch norm and ReLU, on vectors of numbers."""

    width: int = 64
    depth: int = 2

    def __post_init__(self) -> None:
        _positive(width=self.width, depth=self.depth)

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        """Draw weights for inputs of `shape` (numbers,)."""
        self.features(shape)
        return _convolutions([shape[0]] + [self.width] * self.depth, False, rng, name="linear", size=(1, 1))

    def features(self, shape: tuple[int, ...]) -> int:
        """Count the features of one embedding."""
        if len(shape) != 1:
            raise InputError(f"network: mlp takes vectors (numbers,), not {shape}")
        return self.width

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        return self._run(self._blocks(weights, norm), x)

    def freeze(self, weights: Params, norm: Params) -> Embed:
        """Return the embedding by constant weights and statistics."""
        return partial(self._run, [block.freeze() for block in self._blocks(weights, norm)])

    def _blocks(self, weights: Params, norm: Params | BatchNorm) -> list[_Block]:
        # A linear layer is a convolution of one place.
        return [_block(weights, f"linear{n}", norm, order="bn-relu", slope=0.0, stride=0) for n in range(self.depth)]

    def _run(self, blocks: Sequence[_Block], x: Tensor) -> Tensor:
        h = x[..., None, None]
        for block in blocks:
            h = block(h)
        return h.flatten(1)


@cache
def _triangles(rate: int, window: int, mels: int) -> Tensor:
    """Return the weights of the frequencies of a window in each mel band: float64 [window // 2 + 1, mels]."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    hertz = torch.linspace(0, rate / 2, window // 2 + 1, dtype=torch.float64).unsqueeze(1)
    return torch.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)).clamp_min(0)


@dataclass(frozen=True)
class _Block:
    """Convolution, normalisation, activation and pooling (none where `stride` is 0) with their weights."""

    kernel: Tensor
    bias: Tensor | None
    normalise: Callable[[Tensor], Tensor] | None  # None where it is folded into the convolution
    order: Order
    slope: float
    stride: int
    padding: int | tuple[int, int] | None = None  # of the convolution; None: what keeps the size
    frozen: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        same = self.kernel.shape[-1] // 2
        padding = same if self.padding is None else self.padding
        if self.frozen and same == padding == 1:
            h = convolve(x, self.kernel, self.bias)
        else:
            h = F.conv2d(x, self.kernel, self.bias, padding=padding)
        if self.order == "relu-bn":
            h = _leaky(h, self.slope)
        if self.normalise is not None:
            h = self.normalise(h)
        # ReLU is monotone, so it may follow the pooling, on a quarter of the entries.
        h = _pool(h, self.stride)
        return h if self.order == "relu-bn" else _leaky(h, self.slope)

    def freeze(self) -> _Block:
        """Take the weights as constants, laid out for a CPU."""
        kernel = self.kernel.detach().contiguous(memory_format=torch.channels_last)
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, kernel=kernel, bias=bias, frozen=True)


def _block(
    weights: Params, name: str, norm: Params | BatchNorm, *, order: Order, slope: float, stride: int = 2
) -> _Block:
    kernel, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    gamma, beta = weights[f"{name}.gamma"], weights[f"{name}.beta"]
    normalise: Callable[[Tensor], Tensor] | None = None
    if not isinstance(norm, dict):
        normalise = partial(_by_batch, norm, name, gamma, beta)
    else:
        scale, shift = scale_and_shift(gamma, beta, norm[f"{name}.mean"], norm[f"{name}.var"])
        if order == "relu-bn":
            normalise = partial(torch.addcmul, shift.view(-1, 1, 1), tensor2=scale.view(-1, 1, 1))
        else:
            kernel = kernel * scale.view(-1, 1, 1, 1)
            bias = shift if bias is None else shift + scale * bias
    return _Block(kernel, bias, normalise, order, slope, stride)


def _by_batch(norm: BatchNorm, name: str, gamma: Tensor, beta: Tensor, h: Tensor) -> Tensor:
    return norm(name, h, gamma, beta)


def _pool(x: Tensor, stride: int) -> Tensor:
    """Take the maximum over 2x2 windows; without a gradient by pairs, up to 16 times as fast on a CPU."""
    if stride == 0:
        return x
    if stride != 2 or x.requires_grad:
        return F.max_pool2d(x, 2, stride)
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _leaky(x: Tensor, slope: float) -> Tensor:
    if slope == 0:
        return F.relu(x)
    return x if slope == 1 else F.leaky_relu(x, slope)


def _convolutions(
    widths: list[int], bias: bool, rng: torch.Generator, *, name: str = "conv", size: tuple[int, int] = (3, 3)
) -> Params:
    weights: Params = {}
    for block, (into, out) in enumerate(pairwise(widths)):
        weights |= _convolution(f"{name}{block}", into, out, rng, size=size)
        if bias:
            weights[f"{name}{block}.bias"] = torch.zeros(out)
    return weights


def _convolution(name: str, into: int, out: int, rng: torch.Generator, *, size: tuple[int, int] = (3, 3)) -> Params:
    kernel = torch.randn(out, into, *size, generator=rng) * (2 / (math.prod(size) * into)) ** 0.5
    return {f"{name}.weight": kernel, f"{name}.gamma": torch.ones(out), f"{name}.beta": torch.zeros(out)}


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if not 1 <= size <= 4096:
            raise InputError(f"{name}: {size} is not between 1 and 4096")


PRESETS = {
    "conv4": Conv4(),
    "r2d2": R2D2Net(),
    "resnet12": ResNet12(),
    "logmel-conv4": LogMelConv4(),
    "words-conv": WordsConv(),
    "mlp": MLP(),
    "encoder-decoder": EncoderDecoder(),
}
