"""A fixed adversarial test set: what another learner's attack found, given back query by query.

Examples that fool one model often fool another (Papernot et al. 2016, arXiv 1605.07277), so they measure a learner
without its gradients, and the same examples for everyone. Shapes: P points, T tasks, Q queries, X one input.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from robustbench_meta import store
from robustbench_meta.types import Cell, InputError, Norm, Streams, Surface, Threat, Victim


@dataclass(frozen=True)
class FromFile:
    """Look up each task by its clean queries, and return what the source's attack made of them.

    The fields name the set by its content, so where it lies decides nothing; `source` is the learner it was made on.
    """

    sha256: str
    source: str
    source_cell: str
    attack: str
    norm: Norm
    eps: float
    held: store.ExampleSet = field(repr=False, compare=False)
    index: Mapping[str, int] = field(repr=False, compare=False)  # tasks of the set, by their queries

    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = True

    @property
    def norms(self) -> tuple[Norm, ...]:
        return (self.norm,)

    @property
    def name(self) -> str:
        """What tables call it: its source, and enough of its hash to mean one set."""
        return f"file:{self.source}/{self.attack}#{self.sha256[:8]}"

    @property
    def tasks(self) -> int:
        """The number of tasks from 0 on that the set holds without a gap."""
        return next(task for task in range(len(self.held.tasks) + 1) if task not in self.held.tasks)

    def refusal(self, cell: Cell) -> str:
        """Say in what a cell differs from the one the set was made for, so that it cannot be scored; else nothing."""
        mine = self.held.cell
        if cell.threat.eps < self.eps * (1 - 1e-9):
            return f"its examples moved by up to {self.eps:.4g}, more than eps {cell.threat.eps:.4g} allows"
        pairs = {
            "family": (mine.family, cell.family),
            "split": (mine.split, cell.split),
            "seed": (mine.seed, cell.seed),
            "ways": (mine.spec.ways, cell.spec.ways),
            "queries": (mine.spec.queries, cell.spec.queries),
            "episodes": (mine.episodes[:12], cell.episodes[:12]),
        }
        # What a family is called does not matter where its episodes are the same.
        pairs = {name: pair for name, pair in pairs.items() if name != "family" or mine.episodes != cell.episodes}
        differ = [f"{name} {theirs} (the set has {own})" for name, (own, theirs) in pairs.items() if own != theirs]
        return f"its queries are others: {', '.join(differ)}" if differ else ""

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        """Return the set's x_adv [P,1,*X]; raise InputError where a task is not in the set."""
        each = len(victim.x) // victim.tasks
        parts = zip(victim.x.squeeze(1).split(each), victim.y.squeeze(1).split(each), strict=True)
        return torch.cat([self._task(x, y) for x, y in parts]).unsqueeze(1)

    def _task(self, x: Tensor, y: Tensor) -> Tensor:
        """Find x_adv [Q,*X] for the queries x [Q,*X] of one task."""
        task = self.index.get(_task_digest(store.query_digests(x.detach().cpu().numpy()), y.cpu().numpy()))
        if task is None:
            made = self.held.cell
            raise InputError(
                f"a task's queries are not in {self.name}: it holds {self.tasks} tasks of {made.family} {made.split},"
                f" seed {made.seed}, {made.spec.ways}-way, {made.spec.queries} queries a class"
            )
        found = torch.from_numpy(store.read_examples(self.held, task).x_adv).to(x)
        if found.shape != x.shape:
            raise InputError(f"{self.name}: task {task} holds x_adv {tuple(found.shape)}, not {tuple(x.shape)}")
        return found


def load(path: Path) -> FromFile:
    """Read a set from its folder, or from a folder of sets or results that holds exactly one; check every hash."""
    held = store.read_set(_folder(path))
    index: dict[str, int] = {}
    for task in sorted(held.tasks, reverse=True):  # of two tasks with the same queries the first one counts
        examples = store.read_examples(held, task)
        index[_task_digest(examples.clean, examples.query_y)] = task
    cell = held.cell
    _check(cell, held.folder / store.SET)
    steps = "" if cell.steps is None else f", {cell.steps} steps"
    return FromFile(
        sha256=held.sha256,
        source=f"{cell.checkpoint}{steps}",
        source_cell=store.key(cell),
        attack=cell.attack,
        norm=cell.threat.norm,
        eps=cell.threat.eps,
        held=held,
        index=index,
    )


def _check(cell: Cell, path: Path) -> None:
    """Refuse a set whose cell is none that was ever run, for anybody may have written it."""
    if not 0 <= cell.threat.eps < math.inf:
        raise InputError(f"adversarial set: {path}: eps is {cell.threat.eps!r}, which no cell has")
    if cell.threat.surface != "query":
        raise InputError(f"adversarial set: {path} holds no attacked queries, but the {cell.threat.surface}'s")


def _folder(path: Path) -> Path:
    """Return the folder of the one set that lies at `path` or below it."""
    if (path / store.SET).is_file():
        return path
    sets = sorted(found.parent for found in (*path.glob(f"*/{store.SET}"), *path.glob(f"adversarial/*/{store.SET}")))
    if len(sets) == 1:
        return sets[0]
    if not sets:
        raise InputError(
            f"attack: file:{path} holds no adversarial set ({store.SET}); `rbm evaluate --save-adversarial` makes one"
        )
    named = "; ".join(f"file:{one} ({_about(store.read_set(one).cell)})" for one in sets[:8])
    more = f"; and {len(sets) - 8} more" if len(sets) > 8 else ""
    raise InputError(f"attack: file:{path} holds {len(sets)} adversarial sets, name one: {named}{more}")


def _about(cell: Cell) -> str:
    return f"{cell.checkpoint}, {cell.attack}, {cell.threat.norm} {cell.threat.eps:.4g}"


def _task_digest(clean: np.ndarray, y: np.ndarray) -> str:
    return hashlib.sha256(clean.tobytes() + y.astype("<i8").tobytes()).hexdigest()


PRESETS: dict[str, Any] = {}
