"""Random search by stretches of steps, on scores alone: what no gradient is needed for where inputs have no picture.

What a policy observes at every step is moved by the same signs for a while, in some of its entries, and a change is
kept where it raises the margin of the last one, as the Square Attack keeps its windows (arXiv 1912.00049, Alg. 1); how
many steps and entries a change covers is drawn anew each time. The paper's windows need neighbours among the entries,
which observations do not have. All that is ours.
Shapes: P' points under attack, whose items are H steps of D entries: the first axis of [H,*X], or one step of [X].
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_meta import losses, threats
from robustbench_meta.ascent import Search, from_clean
from robustbench_meta.types import Box, InputError, Norm, Streams, Surface, Threat, Victim


@dataclass(frozen=True)
class Stretches:
    """Move a stretch of steps and keep the change where it raises the margin: `queries` times, each from the best."""

    queries: int = 1000

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.queries <= 1_000_000:
            raise InputError(f"queries: {self.queries} is not between 1 and 1000000")

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        return from_clean(self, victim, threat, rng)

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack what still stands in `search`, from the clean point."""
        victim = search.victim
        steps, entries = _layout(victim.space)
        best = victim.x.clone()
        margin = victim.x.new_full((len(victim.x),), -torch.inf)
        for _ in range(self.queries):
            # Drawn for all points, so that what one point meets does not depend on which others still stand.
            draws = rng.uniform(victim.x.new_empty(len(victim.x), 3 + 2 * entries))
            points = search.standing()
            if not len(points):
                return
            x, clean = best[points], victim.x[points]
            painted = torch.where(
                _stretch(draws[points], steps).view_as(x), clean + _signs(draws[points], steps, threat).view_as(x), x
            )
            x = threats.project(painted, clean, threat, victim.space)
            found = losses.margin(search.judge(x, points), victim.y[points]).squeeze(1)
            better = found > margin[points]
            kept = points[better]
            best[kept], margin[kept] = x[better], found[better]


def _layout(space: Box) -> tuple[int, int]:
    """Say how many steps an item has, and of how many entries each."""
    steps = space.shape[0] if len(space.shape) > 1 else 1
    return steps, math.prod(space.shape) // steps


def _stretch(draws: Tensor, steps: int) -> Tensor:
    """Say which entries change, from draws [P',3+2D]: [P',H,D]; lengths and shares are uniform in their logarithms."""
    entries = (draws.shape[1] - 3) // 2
    place, length, share, chance = draws[:, :1], draws[:, 1:2], draws[:, 2:3], draws[:, 3 : 3 + entries]
    window = (steps**length).round()
    first = (place * (steps - window + 1)).floor()
    at = torch.arange(steps, device=draws.device)
    inside = (at >= first) & (at < first + window)
    # Of all entries at least the one that chance likes best.
    chosen = (chance < entries**-share) | (chance == chance.amin(dim=1, keepdim=True))
    return inside.unsqueeze(2) & chosen.unsqueeze(1)


def _signs(draws: Tensor, steps: int, threat: Threat) -> Tensor:
    """Return to which side entries move, the same at every step: [P',H,D] of -eps and eps."""
    entries = (draws.shape[1] - 3) // 2
    signs = draws[:, 3 + entries :].ge(0.5).to(draws) * 2 - 1
    return threat.eps * signs.unsqueeze(1).expand(-1, steps, -1)


PRESETS: dict[str, Stretches] = {"stretches": Stretches()}
PATTERNS: dict[str, Callable[[re.Match[str]], Stretches]] = {r"stretches-(\d+)": lambda m: Stretches(queries=int(m[1]))}
