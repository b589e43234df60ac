"""Reach: grasp a target with a planar arm whose links and motors are hidden, after a few steps of demonstrations.

The arm has two links, as MuJoCo's Reacher has, and a camera in its hand. Each task has links of its own, and motors of
its own: how hard they pull, and by what hidden angle the commands to both are mixed.

Shapes: R rollouts, H steps, W actions, of which the first is to do nothing; a state [4] is two angles and two speeds.
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

SHORTEST, LONGEST = 0.4, 0.7  # a link
WEAKEST, STRONGEST = 0.07, 0.1  # by what the motors change the speed in one step, in radians a step
LAG = 0.5  # the share of its speed that a joint keeps
FOLDED, STRETCHED = 0.4, 2.6  # between which the elbow bends, in radians
NEAR, SLOW = 0.15, 0.1  # of the target, and in radians a step: where a rollout succeeds that ends there
CELLS, FIELD, FADE = 5, 1.2, 0.4  # of the camera along a side, how far it sees, how wide each cell
MARGIN = 10.0  # what scores are in tenths of, so that a tenth of a length is 1
APART, TURNED = 0.4, 1.5  # from its target the hand starts at least so far, and the shoulder so many radians at most


@dataclass(frozen=True)
class Reach:
    """Classes are W commands to the motors: none, and W-1 equally far apart, all turned by the task's hidden angle.

    An observation [29] is how strongly the target excites 25 cells of the hand's camera, exp(-(d / 0.4)^2 / 2) at
    distance d in the frame of the forearm, then cosine and sine of the elbow, and both speeds times 4. A rollout
    succeeds if it ends with the hand within 0.15 of the target and slower than 0.1 radians a step; its return is minus
    the squared distance from the target, summed over the steps. The lengths of the links of different splits lie in
    different cells of a chequered square.
    """

    root: Path | None = None  # not read: there is nothing to load

    name: ClassVar[str] = "reach"
    space: ClassVar[Box] = Box((CELLS**2 + 4,), -1.0, 1.0)
    horizon: ClassVar[int] = 24
    default_eps: ClassVar[tuple[float, ...]] = (0.01, 0.02)
    default_network: ClassVar[str] = "mlp"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 64, "depth": 3}
    sources: ClassVar[tuple[Source, ...]] = ()

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, as steps of demonstrations: observations with the expert's commands."""
        return demonstrations.sample(self, split, spec, indices, seed=seed)

    def trials(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Params:
        """Return the worlds of ways * queries rollouts of each task, which the expert all masters: each [T,R,...]."""
        return demonstrations.trials(self, split, spec, indices, seed=seed)

    def classes(self, split: Split) -> list[str]:
        """Return the most commands that a task may have; those of each split move arms of its own."""
        return demonstrations.classes(split, "command")

    def world(self, split: Split, stream: str) -> Params:
        """Draw the links [2], the strength [] and the turn [] of one task."""
        *place, strength, turn = uniform(f"{stream}/arm", (5,))
        links = SHORTEST + (LONGEST - SHORTEST) * np.array(dealt(split, np.array(place)))
        return {
            "links": torch.from_numpy(links),
            "strength": torch.tensor(WEAKEST + (STRONGEST - WEAKEST) * (strength + 1) / 2, dtype=torch.float64),
            "turn": torch.tensor(math.pi * (turn + 1), dtype=torch.float64),
        }

    def starts(self, world: Params, stream: str) -> Params:
        """Draw 64 resting arms [64,2], and targets [64,2] that they can reach but do not start at."""
        links = world["links"].expand(4 * DRAWN, 2)
        found: dict[str, list[Tensor]] = {"start": [], "target": []}
        turn = 0
        while sum(map(len, found["start"])) < DRAWN:
            draws = uniform(f"{stream}/starts/{turn}", (4 * DRAWN, 2, 2))
            bent = FOLDED + 0.2 + (STRETCHED - FOLDED - 0.4) * (draws[:, :, 1] + 1) / 2
            shoulder = math.pi * draws[:, 1, 0]
            turned = np.stack([shoulder + TURNED * draws[:, 0, 0], shoulder], axis=1)
            start, aim = torch.from_numpy(np.stack([turned, bent], axis=-1)).unbind(dim=1)
            target = _joints(links, aim)[:, 2]
            apart = (_joints(links, start)[:, 2] - target).square().sum(dim=1).sqrt() > APART
            found["start"].append(start[apart])
            found["target"].append(target[apart])
            turn += 1
        each = {name: value.expand(DRAWN, *value.shape) for name, value in world.items()}
        return {name: torch.cat(parts)[:DRAWN] for name, parts in found.items()} | each

    def expert(self, world: Params, state: Tensor, ways: int) -> Tensor:
        """Choose the command after which the hand, left alone, would come to rest nearest to the target."""
        speeds = LAG * state[:, None, 2:] + _commands(world, ways)
        # What is left of a speed s after each step is s * LAG: together s / (1 - LAG).
        rest = (state[:, None, :2] + speeds / (1 - LAG)).flatten(0, 1)
        links = world["links"].repeat_interleave(ways, dim=0)
        hands = _joints(links, _bounded(rest))[:, 2].unflatten(0, (-1, ways))
        return (hands - world["target"].unsqueeze(1)).square().sum(dim=-1).argmin(dim=1)

    def telling(self, world: Params, states: Tensor) -> Tensor:
        """Say that every step of a demonstration is worth showing."""
        return torch.ones(states.shape[:2], dtype=torch.bool)

    def start(self, world: Params) -> Tensor:
        return torch.cat([world["start"], torch.zeros_like(world["start"])], dim=1)

    def observe(self, world: Params, state: Tensor) -> Tensor:
        """Return what the arm in state [R,4] observes, without noise: [R,29]."""
        hand, facing = _joints(world["links"], state)[:, 2], state[:, 0] + state[:, 1]
        (across, up), cos, sin = (world["target"] - hand).unbind(dim=1), facing.cos(), facing.sin()
        seen = torch.stack([cos * across + sin * up, cos * up - sin * across], dim=1)
        line = torch.linspace(-FIELD, FIELD, CELLS, dtype=state.dtype, device=state.device)
        away = seen.unsqueeze(1) - torch.cartesian_prod(line, line)
        excited = (-away.square().sum(dim=-1) / (2 * FADE**2)).exp()
        elbow = torch.stack([state[:, 1].cos(), state[:, 1].sin()], dim=1)
        return torch.cat([excited, elbow, (4 * state[:, 2:]).clamp(-1, 1)], dim=1)

    def advance(self, world: Params, state: Tensor, chosen: Tensor) -> Tensor:
        """Pull at the joints [R,4] by the mean of the commands under chosen [R,W]; the elbow stops at its ends."""
        speeds = LAG * state[:, 2:] + torch.einsum("rw,rwc->rc", chosen, _commands(world, chosen.shape[1]))
        return torch.cat([_bounded(state[:, :2] + speeds), speeds], dim=1)

    def judge(self, world: Params, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return of states [R,H+1,4] by how much each arrived and slowed down, times ten [R,2], and the returns [R]."""
        away = self._hands(world, states) - world["target"].unsqueeze(1)
        arrived = NEAR - away[:, -1].square().sum(dim=-1).clamp_min(1e-12).sqrt()
        slowed = SLOW - states[:, -1, 2:].square().sum(dim=-1).clamp_min(1e-12).sqrt()
        return MARGIN * torch.stack([arrived, slowed], dim=1), -away[:, 1:].square().sum(dim=(1, 2))

    def scene(self, world: Params, states: Tensor) -> Scene:
        """Return what is drawn of states [R,H+1,4]: the ways of the hands, the targets, and the arms at the end."""
        goal = torch.cat([world["target"], torch.full_like(world["target"][:, :1], NEAR)], dim=1)
        ways = self._hands(world, states)
        return Scene(ways, goal, goal.new_zeros(len(goal), 0, 3), _joints(world["links"], states[:, -1]))

    def _hands(self, world: Params, states: Tensor) -> Tensor:
        links = world["links"].repeat_interleave(states.shape[1], dim=0)
        return _joints(links, states.flatten(0, 1))[:, 2].unflatten(0, states.shape[:2])


def _commands(world: Params, ways: int) -> Tensor:
    """Return by what each action changes the speeds of both joints: [R,W,2], the first by nothing."""
    turn = world["turn"]
    angles = turn.unsqueeze(1) + torch.arange(ways - 1, dtype=turn.dtype, device=turn.device) * (
        2 * math.pi / (ways - 1)
    )
    pulls = world["strength"][:, None, None] * torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([torch.zeros_like(pulls[:, :1]), pulls], dim=1)


def _joints(links: Tensor, angles: Tensor) -> Tensor:
    """Return where shoulder, elbow and hand of arms with links [R,2] are at the angles [R,2 or more]: [R,3,2]."""
    along = torch.stack([angles[:, 0], angles[:, 0] + angles[:, 1]], dim=1)
    parts = links.unsqueeze(2) * torch.stack([along.cos(), along.sin()], dim=2)
    return torch.cat([torch.zeros_like(parts[:, :1]), parts.cumsum(dim=1)], dim=1)


def _bounded(angles: Tensor) -> Tensor:
    """Keep the elbow of angles [R,2] between its ends; the shoulder turns freely."""
    return torch.stack([angles[:, 0], angles[:, 1].clamp(FOLDED, STRETCHED)], dim=1)


PRESETS = {"reach": Reach()}
