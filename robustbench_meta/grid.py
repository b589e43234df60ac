"""A grid to cells: plan them, skip what is done, measure the rest, keep every task as it comes."""

from __future__ import annotations

import difflib
import math
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch

from robustbench_meta import catalog, checkpoint, store, threats
from robustbench_meta.engine import Learner, ObjectLearner, has_gradient
from robustbench_meta.episodes import fingerprint
from robustbench_meta.evaluate import Adaptations, AnyLearner, Block, CellError, check_learner, run
from robustbench_meta.libraries import missing
from robustbench_meta.types import (
    NORMS,
    SPLITS,
    SURFACES,
    Attack,
    Cell,
    InputError,
    Norm,
    Spec,
    Split,
    Surface,
    TaskFamily,
    Threat,
)

ATTACKS = ("fgsm", "pgd-20", "pgd-mt-50")
COLOUR_EPS, GREY_EPS = (2 / 255, 4 / 255, 8 / 255), (0.05, 0.1)
TASKS, PROBE_TASKS, MOST_TASKS = 100, 2, 10_000
BLOCK_SECONDS, LARGEST_BLOCK = 15.0, 200  # a kill loses one block
MEMORY_SHARE = 0.8  # of what is free on a GPU
BUDGET_SHARE = 0.95  # of the time left, since later tasks may be slower than the first ones


@dataclass(frozen=True)
class Grid:
    """The axes of a grid; None takes each learner's own value.

    These are the training shots and ways, the algorithm's test steps, and in linf the family's budgets: 2, 4
    and 8/255 for colour images, 0.05 and 0.1 for grey ones.
    """

    attacks: Mapping[str, Attack]
    norms: tuple[Norm, ...] = ("linf",)
    eps: tuple[float, ...] | None = None
    surfaces: tuple[Surface, ...] = ("query",)
    shots: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    ways: int | None = None
    queries: int = 15
    split: Split = "test"
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    """A learner to evaluate, what it is called, and the family whose tasks it meets."""

    name: str
    weights: str
    algorithm: str
    defense: str
    learner: AnyLearner
    family: TaskFamily
    family_name: str
    shots: int
    test_steps: int | None


@dataclass(frozen=True)
class Job:
    """A cell with the objects it needs."""

    cell: Cell
    key: str
    learner: AnyLearner
    family: TaskFamily
    attack: Attack


@dataclass(frozen=True)
class Plan:
    """The cells of a grid; `refused` says in one line each which combinations no attack can serve."""

    jobs: tuple[Job, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    cell: Cell
    reason: str


@dataclass(frozen=True)
class Progress:
    """Where a run stands, in tasks over all cells; `seconds_left` is None before anything was timed."""

    done: int
    total: int
    seconds_left: float | None
    cell: Cell


@dataclass(frozen=True)
class Watcher:
    """Who is told how a run goes: progress after every block, and lines worth reading."""

    progress: Callable[[Progress], None] = lambda _: None
    tell: Callable[[str], None] = lambda _: None


def named_attacks(names: Iterable[str]) -> dict[str, Attack]:
    """Look up attacks by name, in the order given."""
    return {name: catalog.attack(name) for name in names}


def choose_family(name: str, root: Path | None = None, **options: Any) -> TaskFamily:
    """Look up a task family that reads its data under `root`."""
    return catalog.family(name, root=root, **options)


def load_subject(
    path: Path, *, family: TaskFamily | None = None, root: Path | None = None, device: str = "auto"
) -> Subject:
    """Load a checkpoint folder to be evaluated on `family`, or on the one it was trained on."""
    loaded = checkpoint.load(path)
    card, recipe = loaded.card, loaded.card.recipe
    made = catalog.learner(loaded, device=choose_device(device))
    return Subject(
        name=loaded.name,
        # The recipe holds what adaptation does with the weights (step size, ridge), so both identify a learner.
        weights=checkpoint.digest([card.weights_sha256, recipe.sha256]),
        algorithm=recipe.algorithm,
        defense=recipe.defense,
        learner=made,
        family=family or catalog.family_of(recipe, root),
        family_name=getattr(family, "name", type(family).__name__) if family else recipe.family,
        shots=recipe.shots,
        test_steps=made.algorithm.test_steps,
    )


def object_subject(subject: Any, name: str, family: TaskFamily | None, *, device: str, ways: int) -> Subject:
    """Wrap a user's object; whether its scores carry gradients is tried on one task of `family`."""
    if not (callable(getattr(subject, "adapt", None)) and callable(getattr(subject, "predict", None))):
        raise InputError(f"learner: {type(subject).__name__} lacks adapt(x, y) or predict(fitted, x)")
    if family is None:
        raise InputError("family: a learner of one's own needs it named, for one family='strokes'")
    where = torch.device("cpu" if device == "auto" else choose_device(device))
    learner = ObjectLearner(subject, family.space, ways, device=where)
    episodes = family.sample("val", Spec(ways, 1, 1), [0]).to(where, learner.dtype)
    learner = replace(learner, differentiable=has_gradient(learner, episodes))
    return Subject(
        name=name,
        weights=checkpoint.digest(f"object {name}"),
        algorithm="custom" if learner.differentiable else "custom (black-box)",
        defense="custom",
        learner=learner,
        family=family,
        family_name=getattr(family, "name", type(family).__name__),
        shots=5,
        test_steps=None,
    )


def choose_device(name: str) -> str:
    """Turn auto, cpu or cuda into a device that is there."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: {name!r} is not one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda is not there (torch sees no GPU); use auto or cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def make_plan(grid: Grid, subjects: Sequence[Subject], results: Path) -> Plan:
    """List the cells of a grid after trying each learner on one task without an attack; nothing is written.

    A combination that an attack cannot serve is listed as refused. Raises InputError where something cannot be
    used, or where nothing is left.
    """
    _check_axes(grid)
    if not subjects:
        raise InputError("ckpt: none given; give at least one checkpoint folder")
    stored = store.cells(results)
    names = {cell.weights: cell.checkpoint for cell in stored.values()}
    jobs: dict[str, Job] = {}
    refused: list[str] = []
    for subject in subjects:
        # Results stay under the name they have: one learner must not become two rows of a table.
        subject = replace(subject, name=names.setdefault(subject.weights, subject.name))
        for job, reason in _cells(grid, subject):
            if reason:
                refused.append(reason)
            elif job.key in jobs:
                raise InputError(f"ckpt: {subject.name} is given twice (the same weights and recipe)")
            else:
                jobs[job.key] = job
    if not jobs:
        raise InputError(f"attacks: nothing is left to run: {refused[0]}")
    return Plan(tuple(jobs.values()), tuple(dict.fromkeys(refused)))


def estimate(plan: Plan, results: Path, tasks: int) -> float | None:
    """Say how many seconds the missing tasks will take by the timings of like cells; None if one was never timed."""
    stored, paces = store.cells(results), store.seconds_per_task(results)
    alike = {_alike(stored[key]): pace for key, pace in paces.items() if key in stored}
    total = 0.0
    for job in plan.jobs:
        missing = _missing(results, job, tasks)
        pace = paces.get(job.key, alike.get(_alike(job.cell)))
        if missing and pace is None:
            return None
        total += missing * (pace or 0)
    return total


def done(plan: Plan, results: Path, tasks: int) -> int:
    """Count the cells that have all of the first `tasks` tasks."""
    return sum(not _missing(results, job, tasks) for job in plan.jobs)


def execute(
    plan: Plan, results: Path, *, tasks: int | None = None, budget: float | None = None, watcher: Watcher | None = None
) -> list[Failure]:
    """Run what is missing of every cell, up to `tasks` tasks or as many as fit in `budget` seconds.

    The first tasks of every cell come first, so that the rest can be timed. A cell that fails is recorded with
    its reason, and the others go on. Raises OSError where results cannot be written.
    """
    count = check_count(tasks, budget)
    store.prepare(results)
    have = {job.key: {record.task for record in store.stored(results, job.cell)} for job in plan.jobs}
    probed = count if budget is None else PROBE_TASKS
    adaptations = Adaptations(job.cell for job in plan.jobs)
    work = _Work(results, plan, watcher or Watcher(), probed, store.seconds_per_task(results), have, adaptations)
    started = time.monotonic()
    for job in plan.jobs:
        if job.key not in work.pace:
            work.advance(job, min(PROBE_TASKS, count))
    if budget is not None:
        work.tasks = _affordable(work, (budget - (time.monotonic() - started)) * BUDGET_SHARE)
        work.watcher.tell(f"budget: {work.tasks} tasks for each cell")
    if (left := work.seconds_left()) and left > 1:
        work.watcher.tell(f"estimated: {duration(left)}")
    for job in work.alive():
        work.advance(job, work.tasks)
    for job in work.alive():
        store.clear_failure(results, job.cell)
    return list(work.failures.values())


def check_count(tasks: int | None, budget: float | None) -> int:
    """Return the number of tasks to run, which a budget in seconds replaces later; refuse what cannot be run."""
    if tasks is not None and budget is not None:
        raise InputError("budget: picks the number of tasks itself; give either tasks or budget")
    if budget is not None and not 0 < budget < math.inf:
        raise InputError(f"budget: {budget} is not a time above 0")
    count = TASKS if tasks is None else tasks
    _at_least(1, tasks=count)
    return count


def results_of(plan: Plan, results: Path) -> store.Results:
    """Read the results of the plan's own cells."""
    keys = [job.key for job in plan.jobs]
    found = store.read(results)
    cells, tasks = found.cells, found.tasks
    return store.Results(
        cells[cells["key"].isin(keys)].reset_index(drop=True),
        tasks[tasks["key"].isin(keys)].reset_index(drop=True),
        found.audits,
    )


def parse_eps(value: float | str) -> float:
    """Read a budget such as 8/255 or 0.03; what is legal depends on norm and box, and is checked there."""
    top, slash, bottom = str(value).partition("/")
    try:
        eps = float(top) / (float(bottom) if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"eps: {str(value)!r} is not a number such as 8/255 or 0.03") from None
    if not math.isfinite(eps) or eps < 0:
        raise InputError(f"eps: {value} is not a finite number >= 0, such as 8/255 or 0.03")
    return eps


def parse_budget(text: str) -> float:
    """Read a time such as 20m, 90s, 1h30m or 600 (seconds)."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text.strip())
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if not seconds:
        raise InputError(f"budget: {text!r} is not a time such as 20m, 90s or 1h30m")
    return float(seconds)


def duration(seconds: float) -> str:
    """Write seconds for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def label(cell: Cell) -> str:
    """Name a cell in one line."""
    steps = "" if cell.steps is None else f", {cell.steps} steps"
    where = "" if cell.threat.surface == "query" else f" on the {cell.threat.surface}"
    threat = f"{cell.threat.norm} {cell.threat.eps:.4g}"
    return f"{cell.checkpoint}, {cell.spec.shots}-shot{steps}: {cell.attack} {threat}{where}"


@dataclass
class _Work:
    """What changes while a plan runs; keys are cells' keys."""

    results: Path
    plan: Plan
    watcher: Watcher
    tasks: int
    pace: dict[str, float]  # seconds per task
    have: dict[str, set[int]]  # tasks in the store
    adaptations: Adaptations
    failures: dict[str, Failure] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)  # block sizes that memory allows
    told: set[str] = field(default_factory=set)

    def advance(self, job: Job, tasks: int) -> None:
        """Run the missing ones of the first `tasks` tasks of a cell, block by block."""
        missing = sorted(set(range(tasks)) - self.have[job.key])
        while missing and job.key not in self.failures:
            block = missing[: self.block(job)]
            started = time.monotonic()
            if found := self.attempt(job, block):
                self.keep(job, found, time.monotonic() - started)
                missing = missing[len(block) :]
                self.watcher.progress(self.standing(job))

    def attempt(self, job: Job, block: list[int]) -> Block | None:
        """Measure a block; on failure record why, and where memory lacked have the next one half as long."""
        found, device = None, job.learner.device
        before = _memory(device)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            warnings.simplefilter("ignore", DeprecationWarning)  # of libraries: nothing that a user could mend
            try:
                found = run(job.cell, job.learner, job.family, job.attack, block, adaptations=self.adaptations)
            except torch.OutOfMemoryError as error:
                self.largest[job.key] = len(block) // 2
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                if len(block) == 1:
                    self.fail(job, error)
            except Exception as error:
                self.fail(job, error)
        if found and before is not None and job.learner.backend != "loop":
            # What one task takes at its peak says how many fit.
            each = (torch.cuda.max_memory_allocated(device) - before) / len(block)
            room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - before
            fitting = max(int(MEMORY_SHARE * room / max(each, 1)), 1)
            self.largest[job.key] = min(fitting, self.largest.get(job.key, fitting))
        for message in dict.fromkeys(f"{label(job.cell)}: {warning.message}" for warning in caught):
            if message not in self.told:
                self.told.add(message)
                self.watcher.tell(message)
        return found

    def keep(self, job: Job, found: Block, seconds: float) -> None:
        tasks = tuple(record.task for record in found.records)
        learner = job.learner
        chunk = 1 if learner.backend == "loop" else len(tasks)
        timing = store.Timing(tasks, seconds, str(learner.device), torch.get_num_threads(), learner.backend, chunk)
        store.append(self.results, job.cell, found.records, timing)
        if found.pictures is not None:
            store.save_gallery(self.results, job.cell, found.pictures)
        self.have[job.key].update(tasks)
        self.pace[job.key] = seconds / len(tasks)

    def fail(self, job: Job, error: Exception) -> None:
        text = " ".join(str(error).split())[:300] or "no message"
        reason = text if isinstance(error, CellError) else f"{type(error).__name__}: {text}"
        store.fail(self.results, job.cell, reason)
        self.failures[job.key] = Failure(job.cell, reason)
        self.watcher.tell(f"{label(job.cell)} failed: {reason}")

    def block(self, job: Job) -> int:
        pace = self.pace.get(job.key)
        fitting = PROBE_TASKS if pace is None else int(BLOCK_SECONDS / max(pace, 1e-3))
        return max(1, min(fitting, LARGEST_BLOCK, self.largest.get(job.key, LARGEST_BLOCK)))

    def missing(self, job: Job) -> int:
        return self.tasks - sum(task < self.tasks for task in self.have[job.key])

    def alive(self) -> list[Job]:
        return [job for job in self.plan.jobs if job.key not in self.failures]

    def seconds_left(self) -> float | None:
        """Estimate the time for the missing tasks; None where a cell was not timed yet."""
        jobs = [(self.missing(job), self.pace.get(job.key)) for job in self.alive()]
        if any(missing and pace is None for missing, pace in jobs):
            return None
        return sum(missing * (pace or 0) for missing, pace in jobs)

    def standing(self, job: Job) -> Progress:
        alive = self.alive()
        total = self.tasks * len(alive)
        return Progress(total - sum(map(self.missing, alive)), total, self.seconds_left(), job.cell)


def _memory(device: torch.device) -> int | None:
    """Start measuring a GPU's peak, from the bytes in use now; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _affordable(work: _Work, seconds: float) -> int:
    """Find the largest number of tasks, the same for every cell, whose missing ones fit in `seconds`; at least 2."""
    low, high = PROBE_TASKS, MOST_TASKS
    while low < high:
        work.tasks = (low + high + 1) // 2
        left = work.seconds_left()
        low, high = (work.tasks, high) if left is not None and left <= seconds else (low, work.tasks - 1)
    return low


def _cells(grid: Grid, subject: Subject) -> Iterable[tuple[Job, str]]:
    """Give every cell of a subject, with the reason why it cannot run or an empty string."""
    ways = grid.ways or subject.learner.ways
    learner = _with_ways(subject, ways)
    family, episodes = subject.family, fingerprint(subject.family, grid.split)
    steps: Sequence[int | None] = (None,)
    if learner.steps is not None:
        steps = grid.steps or (subject.test_steps,)
    for norm, surface in product(grid.norms, grid.surfaces):
        budgets = [threats.check(Threat(norm, eps, surface), family.space) for eps in _budgets(grid, family, norm)]
        for shots, count in product(grid.shots or (subject.shots,), steps):
            spec = Spec(ways, shots, grid.queries, grid.queries if surface == "support" else 0)
            check_learner(learner, family, grid.split, spec, count)
            for threat, (name, attack) in product(budgets, grid.attacks.items()):
                cell = Cell(
                    checkpoint=subject.name,
                    weights=subject.weights,
                    algorithm=subject.algorithm,
                    defense=subject.defense,
                    norm_mode=learner.norm_mode,
                    family=subject.family_name,
                    episodes=episodes,
                    split=grid.split,
                    spec=spec,
                    steps=count,
                    attack=name,
                    attack_fields=repr(attack),
                    threat=threat,
                    seed=grid.seed,
                )
                yield Job(cell, store.key(cell), learner, family, attack), _refusal(cell, learner, attack)


def _refusal(cell: Cell, learner: AnyLearner, attack: Attack) -> str:
    """Say why an attack cannot serve a cell, in one line; empty if it can."""
    name, threat = f"{cell.attack} on {cell.checkpoint}", cell.threat
    if (package := getattr(attack, "needs_package", "")) and (reason := missing(package)):
        return f"{name}: {reason}"
    if threat.norm not in attack.norms:
        return f"{name}: works in {', '.join(attack.norms)}, not in {threat.norm}"
    if threat.surface not in attack.surfaces:
        return f"{name}: attacks the {' or '.join(attack.surfaces)}, not the {threat.surface}"
    if attack.needs_gradient and not learner.differentiable:
        return f"{name}: needs gradients, and the learner's scores carry none to its inputs (try noise or square)"
    if attack.needs_single_points and learner.norm_mode == "batch":
        return f"{name}: attacks queries one by one, and batch statistics (transductive) bind them together"
    return ""


def _with_ways(subject: Subject, ways: int) -> AnyLearner:
    """Let a learner tell `ways` classes apart, if none of its parameters belongs to a class."""
    learner = subject.learner
    if isinstance(learner, Learner) and ways != learner.ways:
        shapes = [
            {name: value.shape for name, value in learner.algorithm.parameters(4, n, torch.Generator()).items()}
            for n in (ways, learner.ways)
        ]
        if shapes[0] != shapes[1]:
            raise InputError(f"ways: {ways}; {subject.name} has one head for {learner.ways} classes")
    return replace(learner, ways=ways)


def _budgets(grid: Grid, family: TaskFamily, norm: Norm) -> tuple[float, ...]:
    if grid.eps is not None:
        return grid.eps
    if norm != "linf":
        raise InputError(f"eps: {norm} has no default; give it, for one 0.5")
    shape = family.space.shape
    default = COLOUR_EPS if len(shape) == 3 and shape[0] == 3 else GREY_EPS
    return cast(tuple[float, ...], getattr(family, "default_eps", default))


def _check_axes(grid: Grid) -> None:
    _at_least(1, queries=grid.queries, shots=min(grid.shots or (1,)), steps=min(grid.steps or (1,)))
    _at_least(2, ways=2 if grid.ways is None else grid.ways)
    _at_least(0, seed=grid.seed)
    if grid.steps and max(grid.steps) > 1000:
        raise InputError(f"steps: {max(grid.steps)} is not between 1 and 1000")
    closed = (("norm", grid.norms, NORMS), ("surface", grid.surfaces, SURFACES), ("split", (grid.split,), SPLITS))
    for axis, values, legal in closed:
        for value in values:
            if value not in legal:
                near = difflib.get_close_matches(str(value), legal, n=1, cutoff=0.3)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise InputError(f"{axis}: {value!r} is unknown; {hint}legal: {', '.join(legal)}")
    for axis in ("attacks", "norms", "eps", "surfaces", "shots", "steps"):
        values = getattr(grid, axis)
        if values is not None and not values:
            raise InputError(f"{axis}: none given; give at least one")


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name}: {value} is not a whole number >= {least}")


def _missing(results: Path, job: Job, tasks: int) -> int:
    return tasks - sum(record.task < tasks for record in store.stored(results, job.cell))


def _alike(cell: Cell) -> tuple[Any, ...]:
    """Name what decides how long a task takes; cells that share it share a first estimate."""
    return (cell.weights, cell.family, cell.spec, cell.steps, cell.attack_fields, cell.threat.surface)
