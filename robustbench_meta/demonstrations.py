"""Few-shot imitation: tasks whose support is a few steps of an expert's demonstrations, and rollouts to attack.

A class is an action. Shapes: T tasks, R rollouts, H steps, W actions, s numbers of a state, O of an observation; a
world is named tensors, of one task without an axis, of rollouts [R,...].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from robustbench_meta.draws import uniform
from robustbench_meta.types import Box, Episodes, InputError, Params, Spec, Split

DRAWN = 64  # places to start from, at a time
FEWEST, MOST, MOST_STEPS = 4, 16, 500  # actions of a task, and steps of each
CELLS = 10  # of a side of the square that is dealt to the splits
DEALT: tuple[Split, ...] = ("train", "train", "val", "train", "test")  # five cells along each column


class Demonstrator(Protocol):
    """A simulator with an expert that knows the world of a task; what it does is the same on every machine."""

    @property
    def name(self) -> str: ...

    @property
    def space(self) -> Box: ...

    @property
    def horizon(self) -> int: ...

    def world(self, split: Split, stream: str) -> Params:
        """Draw the world of one task."""
        ...

    def starts(self, world: Params, stream: str) -> Params:
        """Draw the worlds of 64 rollouts of one task: each [64,...]."""
        ...

    def expert(self, world: Params, state: Tensor, ways: int) -> Tensor:
        """Return the best of `ways` actions in state [R,s]: [R]."""
        ...

    def telling(self, world: Params, states: Tensor) -> Tensor:
        """Say which of states [R,H,s] are worth showing what the expert does there: [R,H]."""
        ...

    def start(self, world: Params) -> Tensor: ...

    def observe(self, world: Params, state: Tensor) -> Tensor: ...

    def advance(self, world: Params, state: Tensor, chosen: Tensor) -> Tensor: ...

    def judge(self, world: Params, states: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Demonstrations:
    """What an expert did in R rollouts: whether it succeeded [R], where it was, what was to be seen, what it did."""

    succeeded: Tensor
    states: Tensor  # [R,H,s]
    observed: Tensor  # [R,H,O]
    actions: Tensor  # [R,H]


def sample(family: Demonstrator, split: Split, spec: Spec, indices: Sequence[int], *, seed: int) -> Episodes:
    """Return tasks as steps of successful demonstrations: observations with the expert's actions, as many of each."""
    check(spec)
    each = {"query": spec.queries, "support": spec.shots, "proxy": spec.proxies}
    streams = [_stream(family, split, spec, index, seed) for index in indices]
    worlds = [family.world(split, stream) for stream in streams]
    x, y = {}, {}
    for part, count in each.items():
        taken = _taken(family, worlds, [f"{stream}/{part}" for stream in streams], spec.ways, count)
        x[part] = taken.float().flatten(1, 2)
        y[part] = torch.arange(spec.ways).repeat_interleave(count).expand(len(indices), -1).contiguous()
    proxies = (x["proxy"], y["proxy"]) if spec.proxies else (None, None)
    return Episodes(x["support"], y["support"], x["query"], y["query"], *proxies)


def trials(family: Demonstrator, split: Split, spec: Spec, indices: Sequence[int], *, seed: int) -> Params:
    """Return the worlds of ways * queries rollouts of each task, which the expert all masters: each [T,R,...]."""
    check(spec)
    made: list[Params] = []
    for index in indices:
        stream, count = _stream(family, split, spec, index, seed), spec.ways * spec.queries
        world, rounds = family.world(split, stream), list[Params]()
        while sum(len(next(iter(one.values()))) for one in rounds) < count:
            drawn = family.starts(world, f"{stream}/trials/{len(rounds)}")
            mastered = demonstrated(family, drawn, spec.ways).succeeded
            rounds.append({name: value[mastered] for name, value in drawn.items()})
        made.append(_joined(rounds, count))
    return {name: torch.stack([one[name] for one in made]).float() for name in made[0]}


def demonstrated(family: Demonstrator, world: Params, ways: int) -> Demonstrations:
    """Let the expert act, which knows the world and observes nothing."""
    states: list[Tensor] = [family.start(world)]
    actions: list[Tensor] = []
    for _ in range(family.horizon):
        actions.append(family.expert(world, states[-1], ways))
        chosen = torch.nn.functional.one_hot(actions[-1], ways).to(states[-1])
        states.append(family.advance(world, states[-1], chosen))
    flown = torch.stack(states, dim=1)
    observed = torch.stack([family.observe(world, state) for state in states[:-1]], dim=1)
    return Demonstrations(
        (family.judge(world, flown)[0] > 0).all(dim=1), flown[:, :-1], observed, torch.stack(actions, dim=1)
    )


def chosen(actions: np.ndarray, spec: Spec, stream: str) -> dict[str, np.ndarray]:
    """Choose steps of recorded demonstrations with actions [n]: rows [W,k] of queries, support and proxies of one task.

    Queries come first in a drawn order, the support after them, proxies from the end, so that fewer are the first of
    more. Raise InputError where an action was not done often enough.
    """
    order = np.argsort(uniform(f"{stream}/order", actions.shape), kind="stable")
    rows = [order[actions[order] == way] for way in range(spec.ways)]
    asked = spec.queries + spec.shots + spec.proxies
    if asked > (most := min(map(len, rows))):
        told = f"shots={spec.shots} queries={spec.queries}" + (f" proxies={spec.proxies}" if spec.proxies else "")
        raise InputError(f"{told}: together at most {most}, the demonstrated steps with one action")
    ahead = spec.queries + spec.shots
    return {
        "query": np.stack([one[: spec.queries] for one in rows]),
        "support": np.stack([one[spec.queries : ahead] for one in rows]),
        "proxy": np.stack([one[::-1][: spec.proxies] for one in rows]),
    }


def episodes_of(observed: Tensor, rows: Sequence[dict[str, np.ndarray]]) -> Episodes:
    """Gather the steps that were chosen for every task from what was observed in all [n,*X]."""
    x, y = {}, {}
    for part in rows[0]:
        taken = torch.from_numpy(np.stack([one[part] for one in rows]))  # [T,W,k]
        x[part] = observed[taken.flatten(1)].float()
        y[part] = torch.arange(taken.shape[1]).repeat_interleave(taken.shape[2]).expand(len(rows), -1).contiguous()
    proxies = (x["proxy"], y["proxy"]) if rows[0]["proxy"].size else (None, None)
    return Episodes(x["support"], y["support"], x["query"], y["query"], *proxies)


def dealt(split: Split, place: np.ndarray) -> tuple[float, float]:
    """Turn three draws [3] from [-1, 1) into a place of the unit square, in the cells that are dealt to `split`."""
    cells = [at for at in range(CELLS * CELLS) if DEALT[(at % CELLS + 2 * (at // CELLS)) % len(DEALT)] == split]
    which, x, y = (place + 1) / 2
    column, row = divmod(cells[int(which * len(cells))], CELLS)
    return (column + x) / CELLS, (row + y) / CELLS


def classes(split: Split, what: str) -> list[str]:
    """Name the most actions that a task may have; those of each split act in worlds of its own."""
    return [f"{split}-{what}-{n:02d}" for n in range(MOST)]


def _taken(family: Demonstrator, worlds: list[Params], streams: list[str], ways: int, count: int) -> Tensor:
    """Take `count` steps of demonstrations for every action of every task: observations [T,W,count,O].

    Demonstrations come in rounds, and the steps of each round in a drawn order, so that fewer are the first of more.
    """
    found = torch.empty(len(worlds), ways, count, *family.space.shape, dtype=torch.float64)
    have = np.zeros((len(worlds), ways), dtype=np.int64)
    turn = 0
    while lacking := [task for task in range(len(worlds)) if (have[task] < count).any()]:
        drawn = [family.starts(worlds[task], f"{streams[task]}/{turn}") for task in lacking]
        together = _joined(drawn, DRAWN * len(drawn))
        shown = demonstrated(family, together, ways)
        useful = shown.succeeded.unsqueeze(1) & family.telling(together, shown.states)
        for place, task in enumerate(lacking):
            rows = slice(place * DRAWN, (place + 1) * DRAWN)
            observed, actions = shown.observed[rows].flatten(0, 1), shown.actions[rows].flatten().numpy()
            order = np.argsort(uniform(f"{streams[task]}/{turn}/order", actions.shape), kind="stable")
            order = order[useful[rows].flatten().numpy()[order]]
            for way in range(ways):
                new = order[actions[order] == way][: count - have[task, way]]
                found[task, way, have[task, way] : have[task, way] + len(new)] = observed[new]
                have[task, way] += len(new)
        turn += 1
    return found


def _joined(worlds: list[Params], count: int) -> Params:
    return {name: torch.cat([one[name] for one in worlds])[:count] for name in worlds[0]}


def _stream(family: Demonstrator, split: Split, spec: Spec, index: int, seed: int) -> str:
    return f"{family.name}/{split}/{seed}/{spec.ways}/{int(index)}"


def check(spec: Spec) -> None:
    """Refuse numbers of actions and of steps that no task has."""
    if not FEWEST <= spec.ways <= MOST:
        raise InputError(f"ways={spec.ways}: must be from {FEWEST} to {MOST}, the actions of a task")
    for name, least in (("shots", 1), ("queries", 1), ("proxies", 0)):
        if not least <= (value := getattr(spec, name)) <= MOST_STEPS:
            raise InputError(f"{name}={value}: must be from {least} to {MOST_STEPS}, steps with one action")
