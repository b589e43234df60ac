"""Learners, families and attacks with a planted outcome, for `rbm selftest` to find.

Corners are the binarisation test of Zimmermann et al. 2022 (arXiv 2206.13991, section 3) as a few-shot task: the
support holds random points of the ball and one of its corners, the query is its centre.
Shapes: T tasks, S support, Q queries, N classes, D entries or features, X = (C, H, W) one input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta.linear import Blobs
from robustbench_meta.types import (
    NORMS,
    SURFACES,
    Box,
    Episodes,
    MetaGradient,
    Net,
    Norm,
    Params,
    Spec,
    Split,
    Streams,
    Surface,
    TaskFamily,
    Threat,
    Victim,
)

GREY = Box((1, 8, 8))


@dataclass(frozen=True)
class Corners:
    """A random image and one corner of its ball, each its class's query; as support the image and random points inside.

    The support of the second class holds the corner alone, as often as there are shots.
    """

    eps: float = 0.2

    duplicates: ClassVar[bool] = True  # what the support says of the queries is the point of the test

    @property
    def space(self) -> Box:
        return GREY

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        tasks = [self._task(spec, torch.Generator().manual_seed(1000 * seed + index)) for index in indices]
        support, query = (torch.stack(part) for part in zip(*tasks, strict=True))
        labels = [torch.arange(2).repeat_interleave(each).repeat(len(tasks), 1) for each in (spec.shots, spec.queries)]
        return Episodes(support, labels[0], query, labels[1])

    def classes(self, split: Split) -> list[str]:
        return ["inside", "corner"]

    def _task(self, spec: Spec, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        x = 0.3 + 0.4 * torch.rand(1, *GREY.shape, generator=rng)
        inside = x + self.eps * (2 * torch.rand(spec.shots - 1, *GREY.shape, generator=rng) - 1)
        corner = x + self.eps * (torch.rand(1, *GREY.shape, generator=rng) - 0.5).sign()
        support, query = ([one.expand(each, -1, -1, -1) for one in (x, corner)] for each in (spec.shots, spec.queries))
        return torch.cat([x, inside, support[1]]), torch.cat(query)


@dataclass(frozen=True)
class Readout:
    """Separate the one image of class 1 from those of class 0 by a linear discriminant of their features.

    The threshold lies between the former and the nearest of the others, at `reach` of the way.
    """

    reach: float = 0.3
    steps: None = None
    test_steps: None = None
    meta_gradient: MetaGradient = "exact"

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        return {}

    def start(self, net: Net, params: Params) -> Params:
        return {}

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
        return state

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        features = net(params, x)
        inside, (corner, *_) = features.chunk(2)  # no masks, which vmap forbids: items lie class by class
        others = inside - inside.mean(dim=0)
        towards = corner - inside.mean(dim=0)
        spread = others.T @ others / len(others)
        ridge = 0.01 * spread.diagonal().mean() * torch.eye(len(spread)).to(spread)
        direction = torch.linalg.solve(spread + ridge, towards)
        direction = direction / (direction @ towards)
        reached = corner @ direction
        return {"direction": direction, "threshold": reached - self.reach * (reached - (inside @ direction).amax())}

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        margin = net(params, x) @ fitted["direction"] - fitted["threshold"]
        return torch.stack([-margin, margin], dim=1)


@dataclass(frozen=True)
class Lanes:
    """Grey images moved along a pattern of signs: class 0 between bands of class 1 that are `period` apart.

    In Linf, images of class 0 are an odd number and 0.3 strides of pgd-mt-50 away from the middle of the nearest band:
    within `eps`, but where it starts from the clean image, the last of its 50 iterates has stepped over the band.
    """

    eps: float = 0.1
    period: float = 0.18

    duplicates: ClassVar[bool] = True  # the middle of a band is one image

    @property
    def space(self) -> Box:
        return GREY

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        parts = [self._task(spec, torch.Generator().manual_seed(1000 * seed + index)) for index in indices]
        support, query = (torch.stack(part) for part in zip(*parts, strict=True))
        labels = [torch.arange(2).repeat_interleave(each).repeat(len(parts), 1) for each in (spec.shots, spec.queries)]
        return Episodes(support, labels[0], query, labels[1])

    def classes(self, split: Split) -> list[str]:
        return ["between", "band"]

    def _task(self, spec: Spec, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        pattern = (torch.rand(GREY.shape, generator=rng) - 0.5).sign()
        away = (2 * torch.randint(4, 9, (spec.queries,), generator=rng) + 1.3) * self.eps / 20
        at = [torch.full((spec.shots,), self.period / 2), torch.zeros(spec.shots), away, torch.zeros(spec.queries)]
        support, query = (0.5 + torch.cat(part).view(-1, 1, 1, 1) * pattern for part in (at[:2], at[2:]))
        return support, query


@dataclass(frozen=True)
class Bands:
    """Tell class 1 by the distance to the nearest band along the pattern: thin bands, slopes that lead to them.

    `half` is half the width of a band; pgd-mt-50 steps over it at an eps of more than 40 times that.
    """

    half: float = 0.003
    period: float = 0.18

    def adapt(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the middle of a band [X] and the pattern [X]."""
        middle = x[y == 1].mean(dim=0)
        return middle, (x[y == 0].mean(dim=0) - middle).sign()

    def predict(self, fitted: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        middle, pattern = fitted
        along = ((x - middle) * pattern).flatten(1).mean(dim=1) / self.period
        away = self.period * (along - along.detach().round()).abs()
        return torch.stack([away, torch.full_like(away, self.half)], dim=1)


@dataclass(frozen=True)
class Stairs:
    """Recognise class 0 whatever moves, up to a height along a pattern; stairs without a slope lead there.

    In Linf that height is `share` of the way that `eps` allows. Near another class's mean all scores are alike.
    """

    eps: float
    share: float = 0.3

    def adapt(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means [N,D] and the pattern [D]."""
        means = torch.stack([x[y == label].mean(dim=0) for label in range(int(y.max()) + 1)]).flatten(1)
        return means, (torch.rand(means.shape[1], generator=torch.Generator().manual_seed(0)) - 0.5).sign()

    def predict(self, fitted: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        means, pattern = fitted
        rows = x.flatten(1)
        with torch.no_grad():
            nearest = torch.cdist(rows, means).argmin(dim=1)
            along = (rows - means[nearest]) @ pattern / len(pattern)
            stairs = (10 * (1 - along / (self.share * self.eps))).ceil() - 0.5  # never a tie
            scores = F.pad(torch.where(nearest == 0, stairs, 0.0).unsqueeze(1), (0, len(means) - 1))
        return scores + 0 * rows[:, :1]  # a gradient of 0


@dataclass(frozen=True)
class Means:
    """Score by minus half the squared distance to each class mean, less the part that all classes share: linear."""

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the means [N,D]."""
        return torch.stack([x[y == label].mean(dim=0) for label in range(int(y.max()) + 1)]).flatten(1)

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        # Products summed entry by entry, since small gaps are told apart.
        return ((x.flatten(1).unsqueeze(1) - fitted / 2) * fitted).sum(dim=2)


@dataclass(frozen=True)
class Constant:
    """The same score for every class."""

    ways: int

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros(self.ways)

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return fitted + 0 * x.flatten(1).sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Coin:
    """Class 0 up to a plane through the images that it learned from, class 1 beyond."""

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return x[0]

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        beyond = (x - fitted).flatten(1).sum(dim=1)
        return torch.stack([torch.full_like(beyond, 1e-6), beyond], dim=1)


@dataclass(frozen=True)
class Rearranged:
    """A family's tasks with their queries in another order, or with other names for their classes."""

    family: TaskFamily
    order: tuple[int, ...] | None = None
    labels: tuple[int, ...] | None = None

    @property
    def space(self) -> Box:
        return self.family.space

    @property
    def duplicates(self) -> bool:
        return getattr(self.family, "duplicates", False)

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        tasks = self.family.sample(split, spec, indices, seed=seed)
        support_y, query_x, query_y = tasks.support_y, tasks.query_x, tasks.query_y
        if self.order is not None:
            query_x, query_y = query_x[:, self.order], query_y[:, self.order]
        if self.labels is not None:
            names = torch.tensor(self.labels)
            support_y, query_y = names[support_y], names[query_y]
        return Episodes(tasks.support_x, support_y, query_x, query_y)

    def classes(self, split: Split) -> list[str]:
        return self.family.classes(split)


@dataclass(frozen=True)
class Misbehaving:
    """An attack that does something to the victim, or to what it knows, and gives back the clean inputs."""

    name: str
    deed: Callable[[Victim], None] = field(repr=False, compare=False)

    norms: ClassVar[tuple[Norm, ...]] = NORMS
    surfaces: ClassVar[tuple[Surface, ...]] = SURFACES
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        self.deed(victim)
        return victim.x.clone()


def throw(victim: Victim) -> None:
    raise RuntimeError("planted")


def scribble(victim: Victim) -> None:
    """Write into the inputs under attack."""
    victim.x[0] += 0.001


ALIKE = Blobs((3, 8, 8), spread=0.0)  # classes that nothing tells apart
FLAT = Blobs(GREY.shape, spread=0.0, noise=0.0)  # one image
MIDDLES = Blobs(GREY.shape, spread=0.1, noise=0.0)  # one image a class
EDGES = Blobs((3, 5, 5), spread=0.25, noise=0.1)  # many entries at the edge of the box
COLOUR = Blobs((3, 8, 8), spread=0.12, noise=0.1)
