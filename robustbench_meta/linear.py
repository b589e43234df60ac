"""Linear classifiers and learners whose minimal adversarial distances are known in closed form.

Scores are linear in x, inputs lie near the middle of the box and every distance is smaller than the room there, so
the box is inactive: r = min_j (z_y - z_j) / ||w_y - w_j||_dual.
Shapes: T tasks, S support, Q queries, P = T * Q points, N classes, D entries of one input, X = (C, H, W) one input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import prod

import torch
from torch import Tensor

from robustbench_meta import episodes
from robustbench_meta.kernels import scale_and_shift
from robustbench_meta.losses import correct
from robustbench_meta.networks import BatchNorm, Embed
from robustbench_meta.types import Box, Cost, Episodes, Norm, Params, Spec, Split, Streams, Victim

DUAL: dict[Norm, float] = {"linf": 1, "l2": 2, "l1": float("inf")}


@dataclass(frozen=True)
class Linear:
    """T linear classifiers with Q labelled queries each; `victim` is what an attack sees of them."""

    weights: Tensor  # [T, N, D]
    victim: Victim

    def distances(self, norm: Norm) -> Tensor:
        """The least norm that changes each point's verdict: [P], 0 where it is wrong already."""
        each = self.weights.detach().repeat_interleave(len(self.victim.x) // len(self.weights), dim=0).double()
        scores = (each * self.victim.x.flatten(1).unsqueeze(1).double()).sum(-1)
        y = self.victim.y
        gaps = scores.gather(1, y) - scores
        rows = torch.arange(len(y)).unsqueeze(1)
        ratios = gaps / (each[rows, y] - each).norm(p=DUAL[norm], dim=-1)
        return ratios.scatter(1, y, torch.inf).amin(dim=1).clamp_min(0)

    def eps(self, norm: Norm, share: float = 0.5) -> float:
        """A budget that fools about `share` of the points, in the middle of the widest gap between distances there."""
        found = self.distances(norm).sort().values
        middle = int(share * len(found))
        window = found[max(middle - 2, 0) : middle + 3]
        widest = int(window.diff().argmax())
        return float(window[widest : widest + 2].mean())

    def survives(self, x_adv: Tensor) -> Tensor:
        """Whether the classifiers are right about each point of x_adv: [P]."""
        with torch.no_grad():
            return correct(self.victim.forward(x_adv, self.victim.points), self.victim.y).squeeze(1)

    def streams(self, seed: int = 0) -> Streams:
        return Streams([1000 * seed + task for task in range(len(self.weights))])


def linear(
    *,
    tasks: int = 2,
    queries: int = 8,
    ways: int = 5,
    shape: tuple[int, ...] = (1, 6, 6),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Linear:
    """Draw weights and inputs; labels are what the classifiers say, and the last query of each task has a wrong one."""
    rng = torch.Generator().manual_seed(seed)
    weights = torch.randn(tasks, ways, prod(shape), generator=rng, dtype=dtype)
    x = 0.4 + 0.2 * torch.rand(tasks * queries, 1, *shape, generator=rng, dtype=dtype)
    # Labels come from the middle of the box outwards, where the mean brightness says nothing.
    weights = weights - weights.mean(dim=-1, keepdim=True)
    labels = (weights.repeat_interleave(queries, dim=0) * x.flatten(1).unsqueeze(1)).sum(-1).argmax(-1)
    labels[queries - 1 :: queries] = (labels[queries - 1 :: queries] + 1) % ways
    return of(weights, x, labels, shape)


def of(weights: Tensor, x: Tensor, labels: Tensor, shape: tuple[int, ...]) -> Linear:
    """Wrap weights [T,N,D], inputs [P,1,*shape] and labels [P]."""
    cost = Cost(torch.zeros(len(weights), dtype=torch.int64), torch.zeros(len(weights), dtype=torch.int64))
    queries = len(x) // len(weights)

    def forward(x: Tensor, points: Tensor) -> Tensor:
        task = points // queries
        rows = torch.bincount(task, minlength=len(weights))
        cost.forwards.add_(rows)
        # Sums of products, not a matrix product: rounding must not depend on how many points are scored at once.
        scores = (weights[task] * x.flatten(1).unsqueeze(1)).sum(-1).unsqueeze(1)

        def count(_: Tensor) -> None:
            cost.backwards.add_(rows)

        if scores.requires_grad:
            scores.register_hook(count)
        return scores

    return Linear(weights, Victim(forward, x, labels.unsqueeze(1), Box(shape), len(weights), cost))


@dataclass(frozen=True)
class Pixels:
    """A network whose embedding is the image itself, normalised channel by channel as the engine says."""

    scale: float = 1.0

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        return {"pixels.gamma": torch.full((shape[0],), self.scale), "pixels.beta": torch.zeros(shape[0])}

    def features(self, shape: tuple[int, ...]) -> int:
        return prod(shape)

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        gamma, beta = weights["pixels.gamma"], weights["pixels.beta"]
        if not isinstance(norm, dict):
            return norm("pixels", x, gamma, beta).flatten(1)
        scale, shift = scale_and_shift(gamma, beta, norm["pixels.mean"], norm["pixels.var"])
        return torch.addcmul(shift.view(-1, 1, 1), x, scale.view(-1, 1, 1)).flatten(1)

    def freeze(self, weights: Params, norm: Params) -> Embed:
        return partial(self, weights, norm=norm)


@dataclass(frozen=True)
class Blobs:
    """Images around one centre per class, drawn by code: grey, with `spread` between and `noise` within classes.

    The first channel varies three times as much within a class, so that whoever does not normalise errs. Classes
    without spread look all alike.
    """

    shape: tuple[int, ...] = (3, 5, 5)
    spread: float = 0.016
    noise: float = 0.02
    images: int = 30  # of each class
    name: str = "blobs"

    @property
    def space(self) -> Box:
        return Box(self.shape)

    @property
    def duplicates(self) -> bool:
        return self.noise == 0

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        return episodes.sample(_pool(self), spec, indices, stream=f"blobs/{split}/{seed}")

    def classes(self, split: Split) -> list[str]:
        return list(_pool(self).names)


def prototype_distances(tasks: Episodes, ways: int, norm: Norm) -> Tensor:
    """The least norm that changes the verdict of a ProtoNet on Pixels about each query: [T,Q]; negative if it is wrong.

    Minus the squared distance to a class mean is linear in x but for a term that all classes share. Items lie class by
    class; labels are not read. Neither the network's scale nor its weights otherwise change a distance.
    """
    support, query = tasks.support_x.double(), tasks.query_x.double()
    mean, var = support.mean(dim=(1, 3, 4), keepdim=True), support.var(dim=(1, 3, 4), keepdim=True, correction=0)
    slope = 1 / (var + 1e-5).sqrt()  # [T,1,C,1,1], as batch norm has it
    prototypes = ((support - mean) * slope).unflatten(1, (ways, -1)).mean(dim=2)
    away = (((query - mean) * slope).unsqueeze(2) - prototypes.unsqueeze(1)).flatten(3).square().sum(dim=3)
    y = torch.arange(ways).repeat_interleave(query.shape[1] // ways)
    gaps = away - away[:, torch.arange(len(y)), y].unsqueeze(2)  # [T,Q,N]
    weights = 2 * slope.unsqueeze(1) * (prototypes[:, y].unsqueeze(2) - prototypes.unsqueeze(1))
    ratios = gaps / weights.flatten(3).norm(p=DUAL[norm], dim=3)
    return ratios.scatter(2, y.expand(len(query), -1).unsqueeze(2), torch.inf).amin(dim=2)


@cache
def _pool(family: Blobs) -> episodes.Pool:
    rng, classes = torch.Generator().manual_seed(0), 12
    centres = 0.5 + family.spread * torch.randn(classes, 1, *family.shape, generator=rng)
    within = family.noise * torch.randn(classes, family.images, *family.shape, generator=rng)
    within[:, :, 0] *= 3
    images = (255 * (centres + within).clamp(0, 1)).round().to(torch.uint8).flatten(0, 1)
    starts = tuple(range(0, len(images) + 1, family.images))
    return episodes.Pool(images, starts, tuple(f"blob {number}" for number in range(classes)))


def box_distances(gaps: Tensor, weights: Tensor, x: Tensor, norm: Norm, box: Box) -> Tensor:
    """The least norm that closes gaps [..., N], each linear in x [..., D] with weights [..., N, D], inside the box.

    The best way to spend a budget moves entry d by min(budget, room), in L2 by min(t |w_d|, room) for the t that uses
    the budget up, and in L1 fills the entries from the largest weight down. A gap below 0 has distance 0.
    """
    room = torch.where(weights > 0, x.unsqueeze(-2) - box.low, box.high - x.unsqueeze(-2))
    size = weights.abs()
    order = size.argsort(dim=-1, descending=True)
    ahead = room.gather(-1, order).cumsum(-1) - room.gather(-1, order)
    before = torch.zeros_like(room).scatter(-1, order, ahead)

    def moved(t: Tensor) -> Tensor:
        spent: dict[Norm, Tensor] = {"linf": t.expand_as(room), "l2": t * size, "l1": (t - before).clamp_min(0)}
        return torch.minimum(spent[norm], room)

    low = torch.zeros_like(gaps).unsqueeze(-1)
    high = torch.full_like(low, 1e6)
    for _ in range(100):
        middle = (low + high) / 2
        short = (size * moved(middle)).sum(-1, keepdim=True) < gaps.unsqueeze(-1)
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    closed = (size * moved(high)).sum(-1) >= gaps * (1 - 1e-9)
    order_of_norm: dict[Norm, float] = {"linf": torch.inf, "l2": 2, "l1": 1}
    return moved(high).norm(p=order_of_norm[norm], dim=-1).where(closed, torch.inf)
