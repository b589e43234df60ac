"""FAB, targeted: the nearest misclassified point, by projections on linearised boundaries (arXiv 1907.02044, Alg. 1).

The projections onto a hyperplane inside the box are exact, and found without sorting in Linf and L2.
Shapes: P' points under attack, x [P',1,*X]; rows [2,P',D] hold the iterate and the clean input of D entries each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_meta import losses, threats
from robustbench_meta.ascent import Search, from_clean, gradient_of
from robustbench_meta.types import Box, InputError, Norm, Streams, Surface, Threat, Victim


@dataclass(frozen=True)
class TargetedFAB:
    """Walk along the boundary to each of the likeliest wrong classes, pulled towards the clean input.

    A point is done with its first misclassified iterate within eps: no later one would change the verdict. The
    first restart begins at the clean input, the others at random points up to eps / 2 away.
    """

    steps: int = 100
    restarts: int = 1
    targets: int = 9
    pull: float = 0.1  # at most this share of a step belongs to the clean input's projection; the paper's alpha_max
    overshoot: float = 1.05  # beyond the linearised boundary; eta
    retreat: float = 0.9  # a misclassified iterate comes back to this share of its way; beta

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "targets"):
            if not 1 <= (value := getattr(self, name)) <= 100_000:
                raise InputError(f"{name}: {value} is not between 1 and 100000")

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        return from_clean(self, victim, threat, rng)

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack the points that still stand, target after target, likeliest first."""
        victim, points = search.victim, search.standing()
        if not len(points):
            return
        with torch.no_grad():
            outputs = victim.forward(victim.x[points], points)
        likeliest = losses.ranked_targets(outputs, victim.y[points])[..., : self.targets]
        ranked = victim.y.unsqueeze(-1).repeat(1, 1, likeliest.shape[-1])
        ranked[points] = likeliest
        parts = iter(rng.split(likeliest.shape[-1] * (self.restarts - 1)))
        for target in ranked.unbind(-1):
            for restart in range(self.restarts):
                start = _random_start(victim, threat, next(parts)) if restart else victim.x
                self._walk(search, threat, start, target)

    def _walk(self, search: Search, threat: Threat, start: Tensor, target: Tensor) -> None:
        """Take the steps towards class `target` [P,1] from `start` [P,1,*X], offering what fools within eps."""
        victim, points = search.victim, search.standing()

        def gap_to(outputs: Tensor, points: Tensor) -> Tensor:
            return losses.targeted_margin(outputs, victim.y[points], target[points]).squeeze(1)

        x, clean = start[points], victim.x[points]
        for _ in range(self.steps):
            if not len(points):
                return
            outputs, gradient = gradient_of(victim, x, points, gap_to)
            x = self._step(x, clean, gradient, gap_to(outputs, points), threat.norm, victim.space)
            with torch.no_grad():
                outputs = victim.forward(x, points)
            wrong = ~losses.correct(outputs, victim.y[points]).squeeze(1)
            near = threats.distance(x - clean, threat.norm, len(victim.space.shape)).squeeze(1) <= threat.eps
            if (fooled := wrong & near).any():
                search.offer(x[fooled], outputs[fooled], points[fooled])
                x, clean, points, wrong = (t[~fooled] for t in (x, clean, points, wrong))
            x = torch.lerp(clean, x, _per_point(torch.where(wrong, self.retreat, 1.0).to(x), x))

    def _step(self, x: Tensor, clean: Tensor, gradient: Tensor, gap: Tensor, norm: Norm, box: Box) -> Tensor:
        """Combine the projections of iterate and clean input onto the plane where the linearised gap is 0."""
        rows = torch.stack((x, clean)).flatten(2)
        normal = gradient.flatten(1)
        missing = torch.stack((-gap, ((rows[0] - rows[1]) * normal).sum(dim=-1) - gap))
        moved = to_plane(rows, normal, missing, norm, box)
        size = threats.geometry(norm).distance(moved.flatten(0, 1)).view(2, -1).clamp_min(1e-8)
        share = (size[0] / size.sum(dim=0)).clamp_max(self.pull).unsqueeze(1)
        beyond = rows.add(moved, alpha=self.overshoot)
        return torch.lerp(beyond[0], beyond[1], share).clamp_(box.low, box.high).view(x.shape)


def to_plane(rows: Tensor, normal: Tensor, missing: Tensor, norm: Norm, box: Box) -> Tensor:
    """Return the least moves of rows [K,B,D], within the box, that add `missing` [K,B] to <normal [B,D], rows>.

    Where the box does not let them add that much they go as far as it lets them.
    """
    direction = (missing.sign().unsqueeze(-1) * normal).sign()
    middle, half = (box.low + box.high) / 2, rows.new_tensor(box.width / 2)
    room = torch.addcmul(half, direction, rows - middle, value=-1).clamp_min_(0)
    fill = _fill_costliest if norm == "l1" else _fill_evenly
    return fill(normal.abs(), room, missing.abs(), norm).mul_(direction)


def _fill_evenly(cost: Tensor, room: Tensor, need: Tensor, norm: Norm) -> Tensor:
    """Return sizes min(room, level * pace) with sum(cost * sizes) = need; the pace is 1 in Linf and `cost` in L2.

    That sum is concave and piecewise linear in the level, so Newton's method climbs to it without overshooting and
    is exact as soon as no further entry meets its room: after about four steps.
    """
    tiny, huge = torch.finfo(cost.dtype).tiny, torch.finfo(cost.dtype).max
    pace = torch.ones_like(cost) if norm == "linf" else cost
    gain, full, reach = cost * pace, cost * room, room / pace.clamp_min(tiny)
    level, mask = torch.zeros_like(need), torch.empty_like(room)
    while True:
        # Masks of floats: comparisons into bool and torch.where are several times slower on a CPU.
        fixed = torch.le(reach, level.unsqueeze(-1), out=mask).mul_(full).sum(dim=-1)
        slope = torch.gt(reach, level.unsqueeze(-1), out=mask).mul_(gain).sum(dim=-1)
        further = ((need - fixed) / slope.clamp_min(tiny)).clamp_max(huge)
        if not bool((further > level).any()):
            return torch.minimum(room, level.unsqueeze(-1) * pace, out=mask)
        level = torch.maximum(level, further)


def _fill_costliest(cost: Tensor, room: Tensor, need: Tensor, norm: Norm) -> Tensor:
    """Return sizes that fill the rooms of the costliest entries, in order, until sum(cost * sizes) = need: L1."""
    ordered, order = cost.sort(dim=-1, descending=True, stable=True)
    order = order.expand_as(room)
    rooms = room.gather(-1, order)
    spent = ordered * rooms
    left = need.unsqueeze(-1) - (spent.cumsum(dim=-1) - spent)
    sizes = torch.minimum(rooms, left.clamp_min_(0) / ordered.clamp_min(torch.finfo(cost.dtype).tiny))
    return torch.empty_like(room).scatter_(-1, order, sizes)


def _random_start(victim: Victim, threat: Threat, rng: Streams) -> Tensor:
    """Draw a direction for every point and go eps / 2 along it, in the norm of the threat."""
    direction = 2 * rng.uniform(victim.x) - 1 if threat.norm == "linf" else rng.normal(victim.x)
    size = threats.distance(direction, threat.norm, len(victim.space.shape)).squeeze(1)
    start = victim.x + threat.eps / 2 * direction / _per_point(size, victim.x)
    return start.clamp(victim.space.low, victim.space.high)


def _per_point(values: Tensor, x: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x.dim() - 1))


PRESETS: dict[str, TargetedFAB] = {"fab-t": TargetedFAB()}
