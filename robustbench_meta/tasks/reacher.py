"""Reacher: MuJoCo's arm of two links, as Gymnasium steps it, whose motors are hidden, after a few demonstrated steps.

Reacher-v5 of Gymnasium (arXiv 2407.17032), unchanged: its physics, rewards, starts and targets. What a task hides is
how its commands act: by what angle those to both motors are mixed, and how hard the motors pull.

What arms met was recorded once (`benchmarks/reacher_states.py`; reacher_states.npz), with an expert that in one step
of five did something at random. A demonstrated step is what the expert, who knows the task's motors, does there. So
episodes are the same on every machine and need no MuJoCo; rollouts do, and may differ in the last bits of its physics.

Shapes: R rollouts, H steps, W actions, of which the first is to do nothing; a state [10] is what Reacher-v5 shows:
cosines, sines, target, speeds, way from target to fingertip, two numbers each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_meta import demonstrations
from robustbench_meta.demonstrations import dealt
from robustbench_meta.downloads import Source
from robustbench_meta.draws import uniform
from robustbench_meta.environments import SEEDS, Pool, Stage, rounded
from robustbench_meta.types import Box, Episodes, Params, Scene, Spec, Split

ENVIRONMENT = "Reacher-v5"
LINKS = 0.1, 0.11  # from shoulder to elbow, and from there to the fingertip, in metres
WEAKEST, STRONGEST = 0.14, 0.2  # the torque of a command, as a share of what the motors can
GAIN = 4.0  # by how many radians a second a full torque changes a speed in one step, without friction
STIFFNESS, FASTEST = 8.0, 6.0  # of the expert: speed by distance, in 1/s, and the most of it, in radians a second
FOLDED = 2.9  # the largest angle of the elbow that the expert aims at; the joint stops at 3
NEAR, LAST = 0.04, 5  # metres from the target, within which a rollout succeeds that spends its last steps there
STATES, FULL = "reacher_states.npz", 2**15 - 1  # what was observed, and what 1 is there
RANGES = (1.0, 1.0, 1.0, 1.0, 0.2, 0.2, 8.0, 8.0, 0.4, 0.4)  # of a state; beyond them nothing is observed
MARGIN = 100.0  # what scores are in, so that a centimetre is 1


@dataclass(frozen=True)
class Reacher:
    """Classes are W commands to the motors: none, and W-1 equally far apart, all turned by the task's hidden angle.

    An observation [10] is what Reacher-v5 shows, over 1 for cosines and sines, 0.2 m for the target, 8 radians a second
    for speeds and 0.4 m for the way from the target, at most 1, in steps of 2**-20. A rollout succeeds if in its last 5
    steps the fingertip stays within 4 cm of the target; its return is the sum of the rewards of Reacher-v5. Angle and
    strength of different splits lie in different cells of a chequered square, and so do those of the arms that were
    recorded for it.
    """

    root: Path | None = None  # not read: there is nothing to load

    name: ClassVar[str] = "reacher"
    space: ClassVar[Box] = Box((len(RANGES),), -1.0, 1.0)
    horizon: ClassVar[int] = 50
    default_eps: ClassVar[tuple[float, ...]] = (0.02, 0.05)
    default_network: ClassVar[str] = "mlp"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 64, "depth": 3}
    sources: ClassVar[tuple[Source, ...]] = ()
    needs_packages: ClassVar[tuple[str, ...]] = ("gymnasium", "mujoco")  # of rollouts

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, as steps of demonstrations: observations with the expert's commands."""
        demonstrations.check(spec)
        observed, torques = recorded(split)
        rows = []
        for index in indices:
            stream = self._stream(split, spec, index, seed)
            world = {name: value.unsqueeze(0) for name, value in self.world(split, stream).items()}
            rows.append(demonstrations.chosen(_nearest(world, torques, spec.ways).numpy(), spec, stream))
        return demonstrations.episodes_of(observed, rows)

    def trials(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Params:
        """Return the worlds of ways * queries rollouts of each task: each [T,R]."""
        demonstrations.check(spec)
        made: list[Params] = []
        for index in indices:
            stream = self._stream(split, spec, index, seed)
            made.append(self.starts(self.world(split, stream), f"{stream}/trials", spec.ways * spec.queries))
        return {name: torch.stack([one[name] for one in made]).float() for name in made[0]}

    def classes(self, split: Split) -> list[str]:
        """Return the most commands that a task may have; those of each split move motors of their own."""
        return demonstrations.classes(split, "torque")

    def world(self, split: Split, stream: str) -> Params:
        """Draw the turn [] and the strength [] of one task."""
        turn, strength = dealt(split, uniform(f"{stream}/motors", (3,)))
        drawn = {"turn": 2 * math.pi * turn, "strength": WEAKEST + (STRONGEST - WEAKEST) * strength}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in drawn.items()}

    def starts(self, world: Params, stream: str, count: int) -> Params:
        """Draw the seeds [count] that Reacher-v5 is reset with, which are its start and its target."""
        seeds = ((uniform(f"{stream}/seeds", (count,)) + 1) / 2 * SEEDS).astype(np.int64)
        each = {name: value.expand(count, *value.shape) for name, value in world.items()}
        return {"seed": torch.from_numpy(seeds).double()} | each

    def enter(self, world: Params, ways: int, pool: Pool) -> AbstractContextManager[Stage]:
        return pool.lend(ENVIRONMENT, world["seed"], list(_commands(world, ways).cpu().numpy()))

    def expert(self, world: Params, states: Tensor, ways: int) -> Tensor:
        """Choose the command next to what brings both joints to the angles that reach the target: [R]."""
        return _nearest(world, _torques(states), ways)

    def observe(self, states: Tensor) -> Tensor:
        """Return states [R,10] over their ranges: [R,10]."""
        return rounded(states / torch.tensor(RANGES, dtype=states.dtype), self.space)

    def judge(self, world: Params, states: Tensor, returns: Tensor) -> Tensor:
        """Return of states [R,H+1,10] by how many centimetres the last ones lie within 4 cm of the target: [R,1]."""
        return MARGIN * (NEAR - states[:, -LAST:, 8:].norm(dim=-1).amax(dim=1, keepdim=True))

    def scene(self, world: Params, states: Tensor) -> Scene:
        """Return what is drawn of states [R,H+1,10], 0.2 m as 1: the ways of the fingertips, targets, and the arms."""
        scale = 1 / RANGES[4]
        target = scale * states[:, 0, 4:6]
        goal = torch.cat([target, torch.full_like(target[:, :1], scale * NEAR)], dim=1)
        angles = torch.atan2(states[:, -1, 2:4], states[:, -1, 0:2]).cumsum(dim=1)
        bones = scale * torch.tensor(LINKS).to(angles)[:, None] * torch.stack([angles.cos(), angles.sin()], dim=2)
        body = torch.cat([torch.zeros_like(bones[:, :1]), bones.cumsum(dim=1)], dim=1)
        return Scene(scale * (states[..., 4:6] + states[..., 8:]), goal, goal.new_zeros(len(goal), 0, 3), body)

    def _stream(self, split: Split, spec: Spec, index: int, seed: int) -> str:
        return f"{self.name}/{split}/{seed}/{spec.ways}/{int(index)}"


@cache
def recorded(split: Split) -> tuple[Tensor, Tensor]:
    """Return what the arms of a split observed, and the torques that the expert wants there: float64 [n,10], [n,2]."""
    with (
        resources.files("robustbench_meta.tasks").joinpath(STATES).open("rb") as file,
        np.load(file, allow_pickle=False) as found,
    ):
        observed = torch.from_numpy(found[split].astype(np.float64)) / FULL
    return observed, _torques(observed * torch.tensor(RANGES, dtype=observed.dtype))


def _nearest(world: Params, torques: Tensor, ways: int) -> Tensor:
    """Return the command next to each of torques [R,2], of the arms of R worlds or of one: [R]."""
    return (_commands(world, ways) - torques.unsqueeze(1)).square().sum(dim=-1).argmin(dim=1)


def _torques(states: Tensor) -> Tensor:
    """Return what brings both joints of arms in states [R,10] to the angles that reach their targets: [R,2]."""
    cos, sin, target, speeds, _ = states.unflatten(1, (5, 2)).unbind(dim=1)
    away = _angles(target) - torch.atan2(sin, cos)
    # The shoulder turns the shorter way round, the elbow not through its stop.
    shoulder = torch.remainder(away[:, :1] + math.pi, 2 * math.pi) - math.pi
    aim = STIFFNESS * torch.cat([shoulder, away[:, 1:]], dim=1)
    aim = aim * (FASTEST / aim.norm(dim=1, keepdim=True).clamp_min(1e-9)).clamp_max(1)
    return (aim - speeds) / GAIN


def _commands(world: Params, ways: int) -> Tensor:
    """Return what torques each action asks of both motors: [R,W,2], the first of none."""
    turn = world["turn"].double()
    angles = turn.unsqueeze(1) + torch.arange(ways - 1, dtype=turn.dtype, device=turn.device) * (
        2 * math.pi / (ways - 1)
    )
    pulls = world["strength"].double()[:, None, None] * torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.cat([torch.zeros_like(pulls[:, :1]), pulls], dim=1)


def _angles(target: Tensor) -> Tensor:
    """Return at which angles, the elbow to the left, the fingertip is on target [R,2], or as near as it gets: [R,2]."""
    first, second = LINKS
    cosine = (target.square().sum(dim=1) - first**2 - second**2) / (2 * first * second)
    elbow = cosine.clamp(math.cos(FOLDED), 1).acos()
    shoulder = torch.atan2(target[:, 1], target[:, 0]) - torch.atan2(second * elbow.sin(), first + second * elbow.cos())
    return torch.stack([shoulder, elbow], dim=1)


PRESETS = {"reacher": Reacher()}
