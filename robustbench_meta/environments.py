"""Environments of others: real ones, stepped through Gymnasium, which no gradient passes (arXiv 2407.17032).

A policy observes them through noise and does the action of its highest score. R rollouts, H steps, W actions, F
conditions of success, s numbers of an observation as the environment gives it, X the shape of one in the family's box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from robustbench_meta.rollouts import Flight, Policy
from robustbench_meta.types import Box, InputError, Params, Scene, Simulator, Spec, Split

Adversary = Callable[[Tensor], Tensor]  # what is observed in one step [R,*X] -> the noise on it [R,*X]
SEEDS = 2**24  # how many an environment is reset with: float32 holds each of them
SLACK = 1e-6  # by which a return that equals its threshold lies above it
STEPS = 2.0**-20  # what observations are rounded to, so that the last bits of physics reach no one


@dataclass
class Stage:
    """R environments at their start, in which one action each is done at a time; those that ended stay as they are."""

    environments: Sequence[Any]
    commands: Sequence[Sequence[Any]]  # what each action of each rollout means to its environment: [R][W]
    shown: list[np.ndarray]
    paid: list[float] = field(init=False)
    ended: list[bool] = field(init=False)

    def __post_init__(self) -> None:
        self.paid, self.ended = [0.0] * len(self.shown), [False] * len(self.shown)

    @property
    def states(self) -> Tensor:
        """What the environments show: [R,s]."""
        return torch.from_numpy(np.stack(self.shown))

    @property
    def returns(self) -> Tensor:
        """The sum of the rewards so far: [R]."""
        return torch.tensor(self.paid, dtype=torch.float64)

    @property
    def over(self) -> Tensor:
        """Which have ended: [R]."""
        return torch.tensor(self.ended)

    def step(self, actions: Tensor) -> None:
        """Do actions [R], numbers of commands."""
        for row, action in enumerate(actions.tolist()):
            if not self.ended[row]:
                shown, paid, ended, cut, _ = self.environments[row].step(self.commands[row][action])
                self.shown[row] = numbers(shown)
                self.paid[row] += float(paid)
                self.ended[row] = bool(ended or cut)


@dataclass
class Pool:
    """Environments that nobody is using, by name: making one takes as long as dozens of steps."""

    resting: dict[str, list[Any]] = field(default_factory=dict)

    @contextmanager
    def lend(self, name: str, seeds: Tensor, commands: Sequence[Sequence[Any]]) -> Iterator[Stage]:
        """Reset as many environments of that name as there are seeds [R]."""
        resting = self.resting.setdefault(name, [])
        while len(resting) < len(seeds):
            resting.append(make(name))
        used = [resting.pop() for _ in range(len(seeds))]
        try:
            shown = [numbers(one.reset(seed=int(seed))[0]) for one, seed in zip(used, seeds, strict=True)]
            yield Stage(used, commands, shown)
        finally:
            resting += used

    def close(self) -> None:
        for one in (one for resting in self.resting.values() for one in resting):
            one.close()
        self.resting.clear()


SHARED = Pool()


@runtime_checkable
class Environment(Protocol):
    """What a TaskFamily has besides where its learners act in a world that is not ours, one action at a time.

    Classes are actions. A world is named tensors [R,...], among them `seed`; it stands for all that happens there.
    """

    @property
    def space(self) -> Box: ...

    @property
    def horizon(self) -> int: ...

    def trials(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Params:
        """Return the worlds of ways * queries rollouts of each task that `sample` returns: each [T,R,...]."""
        ...

    def enter(self, world: Params, ways: int, pool: Pool) -> AbstractContextManager[Stage]:
        """Begin every rollout, in environments of `pool`, with `ways` actions."""
        ...

    def observe(self, states: Tensor) -> Tensor:
        """Return what is observed where the environment shows states [R,s], inside the box: [R,*X]."""
        ...

    def judge(self, world: Params, states: Tensor, returns: Tensor) -> Tensor:
        """Return of states [R,H+1,s] and returns [R] the margins [R,F] of success, each above 0 where it is met."""
        ...

    def scene(self, world: Params, states: Tensor) -> Scene | None:
        """Return what is to be drawn of states [R,H+1,s], None if there is nothing."""
        ...


@dataclass(frozen=True)
class Played:
    """How rollouts went, the noise that was on what was observed [R,H,*X], and what was done [R,H], -1 for nothing."""

    flight: Flight
    noise: Tensor
    actions: Tensor


def acts(family: object) -> bool:
    """Say whether a family's learners act, so that their rollouts can be attacked."""
    return isinstance(family, (Simulator, Environment))


def play(
    environment: Environment, world: Params, policy: Policy, adversary: Adversary, *, ways: int, pool: Pool = SHARED
) -> Played:
    """Let a policy act, which at every step observes the environment plus what the adversary adds, kept in the box.

    The adversary sees what is to be observed now, and nothing of what comes. The policy does the first of its actions
    of the highest score. Where a rollout has ended nothing is done, and the noise is 0.
    """
    box, like = environment.space, next(iter(world.values()))
    with environment.enter(world, ways, pool) as stage:
        states, noises, actions = [stage.states], list[Tensor](), list[Tensor]()
        for _ in range(environment.horizon):
            observed = environment.observe(stage.states).to(like)
            noise, done = torch.zeros_like(observed), torch.full((len(observed),), -1)
            if not stage.over.all():
                alive = ~stage.over.to(like.device)
                noise = adversary(observed) * alive.view(-1, *[1] * len(box.shape))
                chosen = policy((observed + noise).clamp(box.low, box.high)).argmax(dim=1).cpu()
                done = torch.where(stage.over, done, chosen)
                stage.step(done)
            noises.append(noise)
            actions.append(done)
            states.append(stage.states)
    flown = torch.stack(states, dim=1)
    margins = environment.judge(world, flown, stage.returns)
    scores = torch.cat([torch.zeros_like(margins[:, :1]), -margins], dim=1)
    flight = Flight(flown, scores.to(like), stage.returns)
    return Played(flight, torch.stack(noises, dim=1), torch.stack(actions, dim=1))


def recorded(noise: Tensor) -> Adversary:
    """Return the adversary that adds noise [R,H,*X] step by step, whatever it meets."""
    steps = iter(noise.unbind(dim=1))
    return lambda observed: next(steps)


@dataclass(frozen=True)
class Known:
    """What an environment says of itself: how many numbers are observed, what its actions are, and its own limits."""

    observed: int
    actions: str  # "2 actions" or "actions of 2 numbers"
    max_episode_steps: int | None
    reward_threshold: float | None


@cache
def known(name: str) -> Known:
    """Ask an environment what it is; refuse in one line what no policy of ours could act in."""
    made = make(name)
    import gymnasium

    seen, actions = made.observation_space, made.action_space
    if not isinstance(seen, gymnasium.spaces.Box):
        raise InputError(f"family: {name} shows {seen}; only numbers (Box) can be observed through noise")
    if not isinstance(actions, (gymnasium.spaces.Discrete, gymnasium.spaces.Box)):
        raise InputError(f"family: {name} takes {actions}; only Discrete and Box can be acted in")
    told = f"{actions.n} actions" if isinstance(actions, gymnasium.spaces.Discrete) else ""
    told = told or f"actions of {int(np.prod(actions.shape or ()))} numbers"
    made.close()
    return Known(int(np.prod(seen.shape)), told, made.spec.max_episode_steps, made.spec.reward_threshold)


def make(name: str) -> Any:
    """Make an environment of Gymnasium by its name; refuse in one line what is not there."""
    if find_spec("gymnasium") is None:
        raise InputError(f"family: {name} needs gymnasium: pip install 'robustbench_meta[control]'")
    import gymnasium

    try:
        return gymnasium.make(name, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        raise InputError(f"family: {name} cannot be made: {' '.join(str(error).split())}") from None


def missing(family: object) -> str:
    """Say in one line what a family's rollouts need that is not installed; empty if it is all there."""
    absent = [package for package in getattr(family, "needs_packages", ()) if find_spec(package) is None]
    return f"needs {' and '.join(absent)}: pip install 'robustbench_meta[control]'" if absent else ""


def rounded(observed: Tensor, box: Box) -> Tensor:
    """Keep observations in the box, in whole steps, so that the last bits of an environment's physics are cut off."""
    return ((observed / STEPS).round() * STEPS).clamp(box.low, box.high)


def numbers(shown: Any) -> np.ndarray:
    """Return what an environment shows as numbers [s] of our own."""
    return np.array(shown, dtype=np.float64).reshape(-1)
