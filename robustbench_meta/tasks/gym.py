"""Any environment of Gymnasium by its name, gym:NAME, after a few steps of demonstrations that the user recorded.

Arrays are flat: n steps, A numbers of an action, R rollouts, H steps of one, W actions, s numbers of an observation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_meta import demonstrations, untrusted
from robustbench_meta.downloads import Source, data_root
from robustbench_meta.draws import uniform
from robustbench_meta.environments import SEEDS, SLACK, Pool, Stage, known, make, numbers, rounded
from robustbench_meta.types import Box, Episodes, InputError, Params, Scene, Spec, Split

SHARES: Mapping[Split, tuple[float, float]] = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}  # of steps
LARGEST = 1 << 28  # bytes of a file
LONGEST = 10_000  # steps of one recorded rollout


@dataclass(frozen=True)
class Gym:
    """Classes are the W actions of an environment, numbered anew in each task: which does what, its support tells.

    Demonstrated steps are those of the file gym/NAME.npz below the data root ("/" of a name as "-"), which `record`
    writes: `observations` [n,s], `actions` [n] from 0, `low` and `high` [s], to which -1 and 1 of the box belong, and
    for actions that are no numbers `commands` [W,A]. The first three fifths of the steps are for training, the next for
    validation, the last for testing. A rollout succeeds whose return reaches `threshold`, and ends after `steps`; both
    are the environment's own unless they are given. There is nothing to draw.
    """

    environment: str = "CartPole-v1"
    steps: int = 0  # 0: as many as the environment allows
    threshold: float | None = None
    root: Path | None = None

    default_eps: ClassVar[tuple[float, ...]] = (0.05, 0.1)
    default_network: ClassVar[str] = "mlp"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 64, "depth": 3}
    sources: ClassVar[tuple[Source, ...]] = ()
    needs_packages: ClassVar[tuple[str, ...]] = ("gymnasium",)  # of rollouts

    def __post_init__(self) -> None:
        # No module:NAME, which Gymnasium would import: a checkpoint's recipe runs nobody's code.
        if not re.fullmatch(r"([\w-]+/)?[\w-]+", self.environment):
            raise InputError(f"family: gym:{self.environment}: must be gym:NAME, a name that Gymnasium has registered")

    @property
    def name(self) -> str:
        return f"gym:{self.environment}"

    @property
    def space(self) -> Box:
        return Box((len(self._shown.low),), -1.0, 1.0)

    @property
    def horizon(self) -> int:
        most = known(self.environment).max_episode_steps
        if not 1 <= (steps := self.steps or most or 0) <= (most or steps):
            legal = f"from 1 to {most}" if most else "given, for the environment has no limit of its own"
            raise InputError(f"family_options: steps = {self.steps} of {self.name}: must be {legal}")
        return steps

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, as demonstrated steps: observations with the expert's actions."""
        shown, rows = self._shown, []
        observed, actions = shown.part(split)
        for index in indices:
            order, stream = self._order(split, spec, index, seed)
            # What the environment calls order[k] is action k of the task.
            rows.append(demonstrations.chosen(np.argsort(order)[actions], spec, stream))
        return demonstrations.episodes_of(self.observe(torch.from_numpy(observed)), rows)

    def trials(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Params:
        """Return the worlds of ways * queries rollouts of each task: seeds [T,R] and what each action is [T,R,W]."""
        each, seeds, orders = spec.ways * spec.queries, [], []
        for index in indices:
            order, stream = self._order(split, spec, index, seed)
            seeds.append(((uniform(f"{stream}/trials", (each,)) + 1) / 2 * SEEDS).astype(np.int64))
            orders.append(np.broadcast_to(order, (each, spec.ways)))
        return {name: torch.from_numpy(np.stack(v)).float() for name, v in (("seed", seeds), ("order", orders))}

    def classes(self, split: Split) -> list[str]:
        """Return the actions; those of each split are told by steps of its own."""
        return [f"{split}-action-{n:02d}" for n in range(self._shown.ways)]

    def enter(self, world: Params, ways: int, pool: Pool) -> AbstractContextManager[Stage]:
        shown, own = self._shown, known(self.environment)
        if (own.observed, own.actions) != (len(shown.low), shown.kind):
            told = f"observations of {own.observed} numbers and {own.actions}"
            raise InputError(
                f"{self.name}: {shown.path} holds observations of {len(shown.low)} and {shown.kind}; it has {told}"
            )
        commands = list(range(ways)) if shown.commands is None else list(shown.commands)
        orders = world["order"].long().tolist()
        return pool.lend(self.environment, world["seed"], [[commands[one] for one in order] for order in orders])

    def observe(self, states: Tensor) -> Tensor:
        """Return states [R,s] between what the file calls low and high, as -1 and 1: [R,s]."""
        low, high = (torch.from_numpy(bound) for bound in (self._shown.low, self._shown.high))
        return rounded((2 * states - low - high) / (high - low), self.space)

    def judge(self, world: Params, states: Tensor, returns: Tensor) -> Tensor:
        """Return by how much returns [R] exceed the threshold: [R,1]."""
        return returns.unsqueeze(1) - self._least + SLACK

    def scene(self, world: Params, states: Tensor) -> Scene | None:
        return None

    def _order(self, split: Split, spec: Spec, index: int, seed: int) -> tuple[np.ndarray, str]:
        """Return which action of the environment each of a task is, and the name of the task's stream."""
        if spec.ways != (actions := self._shown.ways):
            raise InputError(f"ways={spec.ways}: must be {actions}, the actions of {self.name}")
        for name, least in (("shots", 1), ("queries", 1), ("proxies", 0)):
            if (value := getattr(spec, name)) < least:
                raise InputError(f"{name}={value}: must be at least {least}")
        stream = f"{self.name}/{split}/{seed}/{spec.ways}/{int(index)}"
        return np.argsort(uniform(f"{stream}/actions", (actions,)), kind="stable"), stream

    @property
    def tells(self) -> str:
        return f"a return of {self._least}"

    @property
    def _least(self) -> float:
        threshold = known(self.environment).reward_threshold if self.threshold is None else self.threshold
        if threshold is None:
            raise InputError(f"family_options: {self.name} has no threshold of its own; give one, a return")
        return threshold

    @property
    def _shown(self) -> Shown:
        path = data_root(self.root, family=self.name) / "gym" / f"{self.environment.replace('/', '-')}.npz"
        if not path.is_file():
            raise InputError(
                f"{self.name}: {path} is missing; robustbench_meta.tasks.gym.record writes it from an expert of yours"
            )
        return _read(path)


@dataclass(frozen=True, eq=False)
class Shown:
    """What a file of demonstrations holds."""

    path: Path
    observations: np.ndarray  # [n,s]
    actions: np.ndarray  # [n]
    low: np.ndarray  # [s]
    high: np.ndarray
    commands: np.ndarray | None  # [W,A]

    @property
    def ways(self) -> int:
        return int(self.actions.max()) + 1 if self.commands is None else len(self.commands)

    @property
    def kind(self) -> str:
        """Say what actions are to the environment, as `known` says it."""
        return f"{self.ways} actions" if self.commands is None else f"actions of {self.commands.shape[1]} numbers"

    def part(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(*(int(share * len(self.actions)) for share in SHARES[split]))
        return self.observations[rows], self.actions[rows]


def record(
    environment: str,
    expert: Callable[[np.ndarray], int],
    root: Path | str,
    *,
    episodes: int = 50,
    commands: Sequence[Sequence[float]] | None = None,
    strays: float = 0.2,
) -> Path:
    """Write the demonstrations of an expert, a function of an observation [s] that returns the number of an action.

    With `commands` [W,A] it chooses among these. In a share `strays` of the steps an action is done at random, so that
    what leads back is shown, too; what is kept is always what the expert would do. The box is what was observed.
    """
    known(environment)  # what no policy could act in is refused
    done = make(environment)
    kind = done.action_space
    ways = len(commands) if commands is not None else int(getattr(kind, "n", 0))
    if not ways:
        raise InputError(f"commands: the actions of {environment} are {kind}; give a list of those to choose from")
    observations, actions = list[np.ndarray](), list[int]()
    for episode in range(episodes):
        observed, over, step = numbers(done.reset(seed=episode)[0]), False, 0
        draws = uniform(f"{environment}/recorded/{episode}", (2, LONGEST))
        while not over and step < LONGEST:
            observations.append(observed)
            actions.append(_action(expert(observed), ways, environment))
            stray, drawn = (draws[:, step] + 1) / 2
            number = int(drawn * ways) if stray < strays else actions[-1]
            shown, _, ended, cut, _ = done.step(number if commands is None else np.array(commands[number]))
            observed, over, step = numbers(shown), bool(ended or cut), step + 1
    done.close()
    path = Path(root).expanduser() / "gym" / f"{environment.replace('/', '-')}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    every = np.stack(observations)
    low, high = every.min(axis=0), every.max(axis=0)
    alike = low == high  # what never changed, such as a constant
    parts = {"observations": every, "actions": np.array(actions), "low": low - alike, "high": high + alike}
    if commands is not None:
        parts["commands"] = np.array(commands, dtype=np.float64)
    np.savez_compressed(path, **parts)
    return path


def _action(given: Any, ways: int, environment: str) -> int:
    """Return the number of the action that an expert gave; raise InputError where it is none."""
    try:
        number = int(given)
        legal = number == given and 0 <= number < ways
    except (TypeError, ValueError):
        legal = False
    if not legal:
        raise InputError(f"expert: gave {given!r}; the actions of {environment} are the whole numbers 0 to {ways - 1}")
    return number


@lru_cache(maxsize=4)
def _read(path: Path) -> Shown:
    """Read a file of demonstrations and refuse one that is not what it must be."""
    try:
        parts = untrusted.arrays(path, ("observations", "actions", "low", "high"), ("commands",), limit=LARGEST)
        observations, low, high = (parts[name].astype(np.float64) for name in ("observations", "low", "high"))
        actions, commands = parts["actions"], parts.get("commands")
        if observations.ndim != 2 or not np.isfinite(observations).all():
            raise ValueError("observations must be finite numbers [n,s]")
        if actions.shape != observations.shape[:1] or actions.dtype.kind not in "iu" or not len(actions):
            raise ValueError("actions must be whole numbers [n]")
        if (
            low.shape != high.shape
            or low.shape != observations.shape[1:]
            or not (low < high).all()
            or not np.isfinite(high - low).all()
        ):
            raise ValueError("low and high must be numbers [s], low below high")
        if commands is not None and (commands.ndim != 2 or not np.isfinite(commands).all()):
            raise ValueError("commands must be finite numbers [W,A]")
        made = Shown(path, observations, actions.astype(np.int64), low, high, commands)
        if made.actions.min() < 0 or made.actions.max() >= made.ways or made.ways < 2:
            raise ValueError(f"actions must be from 0 to {made.ways - 1}, of 2 at least")
    except ValueError as error:
        raise InputError(f"gym: {path} {error}") from None
    return made


def _apart(low: np.ndarray, high: np.ndarray) -> bool:
    return bool((np.isfinite(low) & np.isfinite(high) & (low < high)).all())


PRESETS: dict[str, Gym] = {}
PATTERNS: dict[str, Callable[[re.Match[str]], Gym]] = {r"gym:(.+)": lambda m: Gym(m[1])}
