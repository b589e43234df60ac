"""The one batched ascent loop that every gradient attack shares, the memory of its best iterates, and ensembles.

Shapes: x [P,M,*X]; a subset of points is given by its indices [P'].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from robustbench_meta import losses, threats
from robustbench_meta.types import SURFACES, THREATS, Norm, Streams, Surface, Threat, Victim

Objective = Callable[[Tensor, Tensor], Tensor]  # outputs [P',L,N], points [P'] -> what to maximise [P']


class Search:
    """The best iterate of every point so far: by the share of its labels that are wrong, then by margin.

    A point all of whose labels are wrong has lost; it is left out from then on, which changes no verdict.
    """

    def __init__(self, victim: Victim):
        self.victim = victim
        self.x_adv = victim.x.clone()
        self.wrong = victim.x.new_full((len(victim.x),), -1.0)
        self.margin = torch.full_like(self.wrong, -torch.inf)

    def standing(self) -> Tensor:
        """Index the points that still have a label to lose: [P']."""
        return (self.wrong < 1).nonzero().squeeze(1)

    def judge(self, x: Tensor, points: Tensor) -> Tensor:
        """Score x [P',M,*X] without a gradient, offer it, and return the outputs [P',L,N]."""
        with torch.no_grad():
            outputs = self.victim.forward(x, points)
        self.offer(x, outputs, points)
        return outputs

    def offer(self, x: Tensor, outputs: Tensor, points: Tensor) -> None:
        """Keep the iterate of every point for which it is the best so far."""
        margins = losses.margin(outputs, self.victim.y[points])
        wrong = 1 - (margins < 0).to(self.wrong.dtype).mean(dim=1)  # as losses.correct says, NaN included
        margin = margins.mean(dim=1).to(self.margin.dtype)
        past = self.wrong[points]
        better = (wrong > past) | ((wrong == past) & (margin > self.margin[points]))
        rows = better.nonzero().squeeze(1)  # once, because a GPU waits wherever a mask becomes indices
        kept = points[rows]
        self.x_adv[kept] = x[rows]
        self.wrong[kept], self.margin[kept] = wrong[rows], margin[rows]

    def run(self, threat: Threat, start: Tensor, objective: Objective, *, steps: int, length: float) -> None:
        """Climb from `start` [P,M,*X] by `steps` steepest steps of `length`, judging every iterate and the last."""
        points = self.standing()
        x = start[points]
        for step in range(steps + 1):
            if not len(points):
                return
            if step == steps:
                self.judge(x, points)
                return
            outputs, gradient = gradient_of(self.victim, x, points, objective)
            self.offer(x, outputs, points)
            left = self.wrong[points] < 1
            points, x, gradient = points[left], x[left], gradient[left]
            x = climb(self.victim, threat, x, gradient, points=points, length=length)


@runtime_checkable
class Member(Protocol):
    """An attack that can go on from what others found."""

    @property
    def norms(self) -> tuple[Norm, ...]: ...

    @property
    def surfaces(self) -> tuple[Surface, ...]: ...

    @property
    def needs_gradient(self) -> bool: ...

    @property
    def needs_single_points(self) -> bool: ...

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack what still stands in `search`, and leave there what is found; eps is above 0."""
        ...


def from_clean(member: Member, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
    """Run one member by itself: judge the clean inputs, then attack those that stand; return x_adv [P,M,*X]."""
    if threat.eps == 0:
        return victim.x.clone()
    search = Search(victim)
    search.judge(victim.x, victim.points)
    member.extend(search, threat, rng)
    return search.x_adv


@dataclass(frozen=True)
class Ensemble:
    """Let the members attack in turn, each only what still stands: their worst case, at less than their cost."""

    members: tuple[Member, ...]

    @property
    def norms(self) -> tuple[Norm, ...]:
        return tuple(norm for norm in THREATS if all(norm in member.norms for member in self.members))

    @property
    def surfaces(self) -> tuple[Surface, ...]:
        return tuple(surface for surface in SURFACES if all(surface in member.surfaces for member in self.members))

    @property
    def needs_gradient(self) -> bool:
        return any(member.needs_gradient for member in self.members)

    @property
    def needs_single_points(self) -> bool:
        return any(member.needs_single_points for member in self.members)

    @property
    def least_classes(self) -> int:
        return max(getattr(member, "least_classes", 2) for member in self.members)

    @property
    def paints(self) -> bool:
        return any(getattr(member, "paints", False) for member in self.members)

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        return from_clean(self, victim, threat, rng)

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        for member, stream in zip(self.members, rng.split(len(self.members)), strict=True):
            member.extend(search, threat, stream)


def ascend(victim: Victim, threat: Threat, start: Tensor, objective: Objective, *, steps: int, length: float) -> Tensor:
    """Climb from `start` [P,M,*X] and return the last iterate, as training attacks and most papers do."""
    x, points = start, victim.points
    for _ in range(steps):
        _, gradient = gradient_of(victim, x, points, objective)
        x = climb(victim, threat, x, gradient, points=points, length=length)
    return x


def gradient_of(victim: Victim, x: Tensor, points: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """Score x and differentiate the summed objective: outputs [P',L,N] and gradient [P',M,*X]."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        outputs = victim.forward(x, points)
        (gradient,) = torch.autograd.grad(objective(outputs, points).sum(), x)
    # A network in channels-last order hands back such a gradient, which would slow down every operation with x.
    return outputs.detach(), gradient.contiguous()


def climb(victim: Victim, threat: Threat, x: Tensor, gradient: Tensor, *, points: Tensor, length: float) -> Tensor:
    """Take one steepest step and come back into the ball and the box."""
    stepped = threats.ascend(x, gradient, length, threat.norm, victim.space)
    return threats.project(stepped, victim.x[points], threat, victim.space)
