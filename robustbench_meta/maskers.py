"""An honest learner and seven that mask their gradients: what the flags must tell apart.

Masking makes attacks fail, not inputs harmless (Athalye et al. 2018, arXiv 1802.00420). Each masker wraps the honest
prototypes and changes one thing; none of them withstands more than those do.
Shapes: S support, Q queries, N classes, D features, X one input [C,H,W].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FILTERS, SIDE, SEED = 8, 5, 0


@dataclass(frozen=True)
class Honest:
    """Nearest prototype in a smooth feature space that nobody trained: random filters, tanh, squares, means.

    `scale` turns squared distances of unit features into scores that cross entropy can still differentiate.
    """

    scale: float = 40.0

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the prototypes [N,D] of x [S,*X], y [S]."""
        embedded = features(x)
        return torch.stack([embedded[y == label].mean(0) for label in range(int(y.max()) + 1)])

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        """Score x [Q,*X] by minus the scaled squared distances to the prototypes: [Q,N]."""
        return self.score(fitted, features(x))

    def score(self, fitted: Tensor, embedded: Tensor) -> Tensor:
        """Score features [Q,D]: [Q,N]."""
        return -self.scale * (embedded.unsqueeze(1) - fitted).square().sum(-1)


@dataclass(frozen=True)
class Scaled(Honest):
    """Scores times 10000: the cross entropy of whatever is right, and with it its gradient, underflows to 0."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return 1e4 * super().predict(fitted, x)


@dataclass(frozen=True)
class Quantised(Honest):
    """Pixels rounded to five levels: a gradient of exactly 0 everywhere."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, (4 * x).round() / 4)


@dataclass(frozen=True)
class Detached(Honest):
    """Scores cut from their inputs, which claim to be differentiable by a path of weight 0."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, x.detach()) + 0 * x.flatten(1).sum(1, keepdim=True)


@dataclass(frozen=True)
class Noisy(Honest):
    """Fresh noise on the pixels in every forward: a verdict and the next one differ."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, x + 0.3 * torch.randn_like(x))


@dataclass(frozen=True)
class Softmaxed(Honest):
    """Probabilities where scores are expected, so sharp that most of them are 0 or 1 to the last bit."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return (100 * super().predict(fitted, x)).softmax(dim=-1)


@dataclass(frozen=True)
class Saturated(Honest):
    """Scores through a steep sigmoid about their mean, on whose plateaus nothing has a slope."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        scores = super().predict(fitted, x)
        middle = scores.topk(2, dim=-1).values.mean(-1, keepdim=True)
        return torch.sigmoid(1e3 * (scores - middle))


@dataclass(frozen=True)
class BatchStatistics(Honest):
    """Features centred and scaled by the queries that come together: no query is judged alone."""

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        embedded = _standardised(features(x))
        return torch.stack([embedded[y == label].mean(0) for label in range(int(y.max()) + 1)])

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return self.score(fitted, _standardised(features(x)))


def features(x: Tensor) -> Tensor:
    """Embed x [B,*X] as unit vectors [B,D]: how strongly each filter answers in each part of the image."""
    rng = torch.Generator().manual_seed(SEED)
    filters = torch.randn(FILTERS, x.shape[1], SIDE, SIDE, generator=rng).to(x)
    filters = filters - filters.mean(dim=(1, 2, 3), keepdim=True)
    filters = filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    answers = torch.tanh(F.conv2d(x, filters, stride=2, padding=SIDE // 2))
    return F.normalize(F.avg_pool2d(answers.square(), 2).flatten(1), dim=1)


def _standardised(embedded: Tensor) -> Tensor:
    centred = embedded - embedded.mean(dim=0)
    return F.normalize(centred / (centred.square().mean(dim=0) + 1e-6).sqrt(), dim=1)


# By what tables call them.
MASKERS: dict[str, Honest] = {
    "logits x 10000": Scaled(),
    "quantised": Quantised(),
    "detached": Detached(),
    "noisy": Noisy(),
    "softmax": Softmaxed(),
    "saturated sigmoid": Saturated(),
    "batch statistics": BatchStatistics(),
}
