"""Rollouts: a policy acts in a simulated world that it observes through noise; differentiable from noise to verdict.

R rollouts, H steps, W actions, F conditions of success, s numbers of a state, O of an observation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from robustbench_meta.types import Box, Params, Simulator

Policy = Callable[[Tensor], Tensor]  # observations [R,O] -> scores of the actions [R,W]


@dataclass(frozen=True)
class Flight:
    """What R rollouts came to: states [R,H+1,s], scores [R,1+F] for success and each way to fail, returns [R]."""

    states: Tensor
    scores: Tensor
    returns: Tensor


def roll(simulator: Simulator, policy: Policy, world: Params, noise: Tensor) -> Flight:
    """Let a policy act, which at every step observes the world plus its row of noise [R,H,O], kept in the box.

    It acts by the mean of the actions under the softmax of its scores, so that what an adversary adds at one step
    reaches all later ones. Label 0 means success: its score is 0, the others' by how much each condition is not met. So
    an attack on scores has as many targets as there are ways to fail, and its gradient does not see one of them alone.
    """
    box, state = simulator.space, simulator.start(world)
    states = [state]
    for step in range(noise.shape[1]):
        seen: Tensor = _Seen.apply(simulator.observe(world, state), noise[:, step], box)
        state = simulator.advance(world, state, policy(seen).softmax(dim=-1))
        states.append(state)
    flown = torch.stack(states, dim=1)
    margins, returns = simulator.judge(world, flown)
    return Flight(flown, torch.cat([torch.zeros_like(margins[:, :1]), -margins], dim=1), returns)


class _Seen(torch.autograd.Function):
    """What is observed plus noise, kept in the box; the gradient goes on to the noise where the box cuts it off.

    Cut off, too, an entry that noise once pushed against the box would have no gradient ever after, and no attack
    would bring it back. Projection keeps the gradient of attacked queries in the same way.
    """

    @staticmethod
    def forward(ctx: Any, observed: Tensor, noise: Tensor, box: Box) -> Tensor:
        moved = observed + noise
        ctx.save_for_backward((moved >= box.low) & (moved <= box.high))
        return moved.clamp(box.low, box.high)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        (inside,) = ctx.saved_tensors
        return upstream[0] * inside, upstream[0], None


def still(simulator: Simulator, tasks: int, each: int) -> Tensor:
    """Return no noise for `each` rollouts of every task: [T,R,H,*X]."""
    return torch.zeros(tasks, each, *noise_space(simulator).shape)


class Acting(Protocol):
    """What can be acted in, for some steps, by what is observed."""

    @property
    def space(self) -> Box: ...

    @property
    def horizon(self) -> int: ...


def noise_space(simulator: Acting) -> Box:
    """Return what an adversary of rollouts moves: zeros [H,O], by as much as two observations can lie apart."""
    box = simulator.space
    return Box((simulator.horizon, *box.shape), -box.width, box.width)
