"""Navigation: steer a point to a hidden goal past obstacles, after a few steps of an expert's demonstrations.

The 2-D navigation of the MAML paper (arXiv 1703.03400, section 5.3), in which each task hides another goal, made harder
by what real robots have: obstacles, sensors instead of coordinates, and an action map that is turned by a hidden angle.

Shapes: R rollouts, H steps, W headings, 4 obstacles, 2 coordinates in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_meta import demonstrations
from robustbench_meta.demonstrations import DRAWN, dealt
from robustbench_meta.downloads import Source
from robustbench_meta.draws import uniform
from robustbench_meta.types import Box, Episodes, Params, Scene, Spec, Split

SPEED = 0.1  # the way of one step along a heading
NEAR = 0.2  # of the goal, where a rollout succeeds that ends there
OBSTACLES, SMALLEST, LARGEST = 4, 0.1, 0.18  # their number and radii
BEACONS, FADE = 5, 0.35  # along each side of the square, and the distance over which a signal fades
WHISKERS, REACH = 12, 0.2  # sensors around the point, and how far ahead each feels
BERTH, PUSH = 0.2, 0.6  # distance from an obstacle at which the expert begins to mind it, and how much
MARGIN = 10.0  # what scores are in tenths of, so that a tenth of a length is 1
GOALS, APART = 0.4, 0.5  # the square that goals lie in, and how far from its goal a rollout starts at least


@dataclass(frozen=True)
class Navigation:
    """Classes are W headings, equally far apart, all turned by the task's hidden angle.

    An observation [37] is how strongly 25 beacons are received, exp(-(d / 0.35)^2 / 2) at distance d, and 12 whiskers:
    what lies between the place 0.2 ahead in each direction and the nearest obstacle, over 0.2, at most 1 and negative
    inside. A rollout succeeds if it ends within 0.2 of the goal and touches no obstacle; its return is minus the
    squared distance from the goal, summed over the steps. Goals of different splits lie in different cells of a
    chequered square.
    """

    root: Path | None = None  # not read: there is nothing to load

    name: ClassVar[str] = "navigation"
    space: ClassVar[Box] = Box((BEACONS**2 + WHISKERS,), -1.0, 1.0)
    horizon: ClassVar[int] = 24
    default_eps: ClassVar[tuple[float, ...]] = (0.02, 0.05)
    default_network: ClassVar[str] = "mlp"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 64, "depth": 3}
    sources: ClassVar[tuple[Source, ...]] = ()

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, as steps of demonstrations: observations with the expert's headings."""
        return demonstrations.sample(self, split, spec, indices, seed=seed)

    def trials(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Params:
        """Return the worlds of ways * queries rollouts of each task, which the expert all masters: each [T,R,...]."""
        return demonstrations.trials(self, split, spec, indices, seed=seed)

    def classes(self, split: Split) -> list[str]:
        """Return the most headings that a task may have; those of each split lead to goals of its own."""
        return demonstrations.classes(split, "heading")

    def world(self, split: Split, stream: str) -> Params:
        """Draw the goal [2], the turn [] and the obstacles [4,3] (centre and radius) of one task."""
        *place, turn = uniform(f"{stream}/goal", (4,))
        goal = (2 * np.array(dealt(split, np.array(place))) - 1) * GOALS
        draws = uniform(f"{stream}/obstacles", (64, 3))
        radii = SMALLEST + (LARGEST - SMALLEST) * (draws[:, 2:] + 1) / 2
        circles = np.concatenate([0.85 * draws[:, :2], radii], axis=1)
        clear = np.sqrt(((circles[:, :2] - goal) ** 2).sum(axis=1)) > circles[:, 2] + NEAR + BERTH / 2
        return {
            "goal": torch.from_numpy(goal),
            "turn": torch.tensor(math.pi * (turn + 1), dtype=torch.float64),
            "obstacles": torch.from_numpy(circles[clear][:OBSTACLES]),
        }

    def starts(self, world: Params, stream: str) -> Params:
        """Draw 64 places that touch nothing, apart from the goal and in all directions from it alike."""
        obstacles, goal, found, turn = world["obstacles"].numpy(), world["goal"].numpy(), np.empty((0, 2)), 0
        while len(found) < DRAWN:
            direction, far = uniform(f"{stream}/starts/{turn}", (2, 4 * DRAWN))
            away = APART + (1 - APART) * (far + 1) / 2
            places = goal + (away * np.stack([np.cos(math.pi * direction), np.sin(math.pi * direction)])).T
            gaps = np.sqrt(((places[:, None] - obstacles[:, :2]) ** 2).sum(axis=-1)) - obstacles[:, 2]
            free = (gaps > SPEED / 2).all(axis=1) & (np.abs(places) < 0.95).all(axis=1)
            found, turn = np.concatenate([found, places[free]]), turn + 1
        each = {name: value.expand(DRAWN, *value.shape) for name, value in world.items()}
        return {"start": torch.from_numpy(found[:DRAWN])} | each

    def expert(self, world: Params, state: Tensor, ways: int) -> Tensor:
        """Choose the heading that leads lowest in a potential: distance to the goal, and hills around obstacles."""
        ahead = state.unsqueeze(1) + SPEED * _headings(world, ways)
        away = (ahead - world["goal"].unsqueeze(1)).square().sum(dim=-1).sqrt()
        hills = (1 - _clearance(world, ahead) / BERTH).clamp_min(0).square().sum(dim=-1)
        return (away + PUSH * hills).argmin(dim=1)

    def telling(self, world: Params, states: Tensor) -> Tensor:
        """Say where the goal is still a step away; nearer, the expert dithers."""
        return (states - world["goal"].unsqueeze(1)).square().sum(dim=-1).sqrt() > SPEED

    def start(self, world: Params) -> Tensor:
        return world["start"]

    def observe(self, world: Params, state: Tensor) -> Tensor:
        """Return what the point at state [R,2] observes, without noise: [R,37]."""
        line = torch.linspace(-1, 1, BEACONS, dtype=state.dtype, device=state.device)
        away = state.unsqueeze(1) - torch.cartesian_prod(line, line)
        received = (-away.square().sum(dim=-1) / (2 * FADE**2)).exp()
        angles = torch.arange(WHISKERS, dtype=state.dtype, device=state.device) * (2 * math.pi / WHISKERS)
        ahead = state.unsqueeze(1) + REACH * torch.stack([angles.cos(), angles.sin()], dim=1)
        free = _clearance(world, ahead).amin(dim=-1)
        return torch.cat([received, (free / REACH).clamp(-1, 1)], dim=1)

    def advance(self, world: Params, state: Tensor, chosen: Tensor) -> Tensor:
        """Move the point [R,2] by the mean of the headings under chosen [R,W]; the square's edge holds it."""
        return (state + SPEED * torch.einsum("rw,rwc->rc", chosen, _headings(world, chosen.shape[1]))).clamp(-1, 1)

    def judge(self, world: Params, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return of states [R,H+1,2] by how much each arrived and kept clear, times ten [R,2], and the returns [R]."""
        away = states - world["goal"].unsqueeze(1)
        arrived = NEAR - away[:, -1].square().sum(dim=-1).clamp_min(1e-12).sqrt()
        clear = _clearance(world, states[:, 1:]).amin(dim=(1, 2))
        return MARGIN * torch.stack([arrived, clear], dim=1), -away[:, 1:].square().sum(dim=(1, 2))

    def scene(self, world: Params, states: Tensor) -> Scene:
        """Return what is drawn of states [R,H+1,2]: the ways, the goals and the obstacles; a point has no body."""
        goal = torch.cat([world["goal"], torch.full_like(world["goal"][:, :1], NEAR)], dim=1)
        return Scene(states, goal, world["obstacles"], states[:, :0])


def _headings(world: Params, ways: int) -> Tensor:
    """Return where each action of each rollout leads: [R,W,2] of length one."""
    turn = world["turn"]
    angles = turn.unsqueeze(1) + torch.arange(ways, dtype=turn.dtype, device=turn.device) * (2 * math.pi / ways)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def _clearance(world: Params, places: Tensor) -> Tensor:
    """Return the distance of places [R,n,2] from the edge of each obstacle, negative inside: [R,n,4]."""
    centres, radii = world["obstacles"][..., :2], world["obstacles"][..., 2]
    away = places.unsqueeze(2) - centres.unsqueeze(1)
    return away.square().sum(dim=-1).clamp_min(1e-12).sqrt() - radii.unsqueeze(1)


PRESETS = {"navigation": Navigation()}
