"""A grid to cells: plan them, skip what is done, measure the rest, keep every task as it comes."""

from __future__ import annotations

import difflib
import math
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch

from robustbench_meta import catalog, checkpoint, environments, poisoning, store, threats, untrusted, zoo
from robustbench_meta.attacks.from_file import FromFile
from robustbench_meta.engine import Learner, ObjectLearner, has_gradient
from robustbench_meta.environments import Environment, acts
from robustbench_meta.episodes import drawn, fingerprint
from robustbench_meta.evaluate import Adaptations, AnyLearner, Block, CellError, check_learner, run
from robustbench_meta.executors import Executor, InProcess, Outcome
from robustbench_meta.libraries import fits_square, missing, painted
from robustbench_meta.rollouts import Acting, noise_space
from robustbench_meta.types import (
    NORMS,
    SEVERITIES,
    SPLITS,
    SURFACES,
    THREATS,
    Attack,
    Backend,
    Box,
    Cell,
    InputError,
    Norm,
    Record,
    Sentences,
    Spec,
    Split,
    Surface,
    TaskFamily,
    Threat,
    served_as,
)

ATTACKS = ("fgsm", "pgd-20", "pgd-mt-50")
DISCRETE_ATTACKS: dict[Norm, tuple[str, ...]] = {"words": ("words-greedy",), "labels": ("flips-greedy",)}
COLOUR_EPS, GREY_EPS = (2 / 255, 4 / 255, 8 / 255), (0.05, 0.1)
REPLACED_EPS: dict[Norm, tuple[float, ...]] = {"words": (1.0, 2.0, 4.0), "labels": (1.0, 2.0, 5.0)}
TASKS, PROBE_TASKS, MOST_TASKS = 100, 2, 10_000
BLOCK_SECONDS, LARGEST_BLOCK = 15.0, 200  # a kill loses one block of each worker
SHORTEST_BLOCK = 0.5  # seconds, below which sending a block would cost more than it helps
MEMORY_SHARE = 0.8  # of what is free on a GPU
BUDGET_SHARE = 0.95  # of the time left, since later tasks may be slower than the first ones


@dataclass(frozen=True)
class Grid:
    """The axes of a grid; None takes each learner's own value.

    These are the training shots and ways, the algorithm's test steps, and in linf the family's budgets: 2, 4
    and 8/255 for colour images, 0.05 and 0.1 for grey ones; of corruptions all severities; where all attacks are
    adversarial test sets, their own eps.
    Learners that act are attacked in their rollouts, others on their queries, those that write by whole sequences.
    `save_adversarial` keeps every attacked query.
    """

    attacks: Mapping[str, Attack]
    norms: tuple[Norm, ...] = ("linf",)
    eps: tuple[float, ...] | None = None
    surfaces: tuple[Surface, ...] | None = None
    fraction: float = 1.0  # of each class of a poisoned support
    shots: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    ways: int | None = None
    queries: int = 15
    split: Split = "test"
    seed: int = 0
    save_adversarial: bool = False


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
    card: str = ""  # as one line of JSON; an object has none


@dataclass(frozen=True)
class Job:
    """A cell with the objects it needs; `examples` says that every attacked query is kept."""

    cell: Cell
    key: str
    learner: AnyLearner
    family: TaskFamily
    attack: Attack
    examples: bool = False


@dataclass(frozen=True)
class Plan:
    """The cells of a grid; `refused` says in one line each which combinations no attack can serve.

    `cards` holds what is kept beside the results of every checkpoint, by its weights.
    """

    jobs: tuple[Job, ...]
    refused: tuple[str, ...]
    cards: Mapping[str, str] = field(default_factory=dict)


class NothingLeft(InputError):
    """None of the attacks asked for can serve any of the learners; `refused` says why not."""

    def __init__(self, refused: Sequence[str]):
        super().__init__(f"attacks: nothing is left to run: {refused[0]}")
        self.refused = tuple(dict.fromkeys(refused))


@dataclass(frozen=True)
class Kit:
    """What the units of a plan share, wherever they run: its jobs, and the learners that were adapted there last."""

    jobs: tuple[Job, ...]
    adaptations: Adaptations
    kind: str  # of device that the learners' backends were chosen for

    def packed(self) -> Kit:
        """Return it without anything adapted, its learners on the CPU; objects of a user's stay where they are."""
        return replace(self, jobs=_moved(self.jobs, "cpu"), adaptations=_adaptations(self.jobs))

    def unpacked(self, device: str) -> Kit:
        """Return it with its learners on `device`, whose backend they get where its kind is another one.

        Each family draws a task, so that no cell is charged with the time that reading data takes.
        """
        kind = torch.device(device).type
        jobs = _moved(self.jobs, device, None if kind == self.kind else catalog.default_backend(device))
        for job in {(id(job.family), job.cell.split): job for job in jobs}.values():
            job.family.sample(job.cell.split, job.cell.spec, [0], seed=job.cell.seed)
        return replace(self, jobs=jobs, kind=kind)


@dataclass(frozen=True)
class Measured:
    """What came of a block: its records, or why there are none; and how it ran."""

    block: Block | None
    reason: str
    out_of_memory: bool
    fitting: int | None  # tasks that the memory of a GPU allows at once, where that is known
    warned: tuple[str, ...]
    timing: store.Timing


@dataclass(frozen=True)
class Failure:
    cell: Cell
    reason: str


@dataclass(frozen=True)
class Progress:
    """Where a run stands, in tasks over all cells; `seconds_left`, its audit included, is None before all are timed."""

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
    """Look up attacks by name, in the order given; an adversarial test set has a name of its own, wherever it lies."""
    found = {name: catalog.attack(name) for name in names}
    return {attack.name if isinstance(attack, FromFile) else name: attack for name, attack in found.items()}


def usual_attacks(norms: Sequence[Norm], subjects: Sequence[Subject]) -> dict[str, Attack]:
    """Return the attacks of an evaluation that names none; of corruptions, all that serve one of the families."""
    ours = [name for norm in norms if norm != "corruption" for name in DISCRETE_ATTACKS.get(norm, ATTACKS)]
    found = named_attacks(dict.fromkeys(ours)) if ours else {}
    if "corruption" in norms:
        served = {name: one for subject in subjects for name, one in _corruptions(subject.family).items()}
        found |= dict(sorted(served.items()))
    if not found and subjects:
        raise InputError(f"norm: {_uncorrupted(', '.join(sorted({one.family_name for one in subjects})))}")
    return found


def _corruptions(family: TaskFamily) -> dict[str, Attack]:
    presets = catalog.shelf("attacks").presets.items()
    return {
        name: attack
        for name, attack in presets
        if "corruption" in attack.norms and hasattr(attack, "needs_inputs") and not _lacking(attack, family.space, "")
    }


def _lacking(attack: Attack, space: Box, family: str) -> str:
    """Say what an attack needs of inputs and what a family's have instead; empty where they have that."""
    if (needed := getattr(attack, "needs_inputs", "")) and needed != space.inputs:
        return f"corrupts {needed}; {family} has {space.inputs if space.inputs != 'other' else 'other inputs'}"
    if getattr(attack, "misspells", False) and not (isinstance(space, Sentences) and space.known):
        return f"misspells words that are known by their use; {family} has none"
    return ""


def _uncorrupted(families: str) -> str:
    some = [name for name, family in sorted(catalog.shelf("tasks").presets.items()) if _corruptions(family)]
    return f"no corruption serves {families}; families that have some: {', '.join(some)}"


def choose_family(name: str, root: Path | None = None, **options: Any) -> TaskFamily:
    """Look up a task family that reads its data under `root`."""
    return catalog.family(name, root=root, **options)


def load_subject(
    path: Path,
    *,
    family: TaskFamily | None = None,
    root: Path | None = None,
    device: str = "auto",
    trust: Collection[str] = (),
) -> Subject:
    """Load a checkpoint, a folder or zoo:NAME, to be evaluated on `family`, or on the one it was trained on.

    `trust` names the code that may run where a checkpoint's network is somebody's own, as module:function.
    """
    loaded = checkpoint.load(zoo.folder(path))
    card, recipe = loaded.card, loaded.card.recipe
    made = catalog.learner(loaded, device=choose_device(device), root=root, trust=trust)
    return Subject(
        name=untrusted.printable(loaded.name),
        weights=card.learner,
        algorithm=recipe.algorithm,
        defense=recipe.defense,
        learner=made,
        family=family or catalog.family_of(recipe, root),
        family_name=getattr(family, "name", type(family).__name__) if family else recipe.family,
        shots=recipe.shots,
        test_steps=made.algorithm.test_steps,
        card=checkpoint.card_line(card),
    )


def object_subject(subject: Any, name: str, family: TaskFamily | None, *, device: str, ways: int) -> Subject:
    """Wrap a user's object; whether its scores carry gradients is tried on one task of `family`."""
    if not (callable(getattr(subject, "adapt", None)) and callable(getattr(subject, "predict", None))):
        raise InputError(f"learner: {type(subject).__name__} lacks adapt(x, y) or predict(fitted, x)")
    if family is None:
        raise InputError("family: a learner of one's own needs it named, for one family='strokes'")
    where = torch.device("cpu" if device == "auto" else choose_device(device))
    learner = ObjectLearner(subject, family.space, ways, device=where)
    episodes = drawn(family, "val", Spec(ways, 1, 1), [0]).to(where, learner.dtype)
    learner = replace(learner, differentiable=has_gradient(learner, episodes))
    return Subject(
        name=untrusted.printable(name),
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
        for job, reason in _cells_told(grid, subject, several=len(subjects) > 1):
            if reason:
                refused.append(reason)
            elif job.key in jobs:
                raise InputError(f"ckpt: {subject.name} is given twice (the same weights and recipe)")
            else:
                jobs[job.key] = job
    if not jobs:
        raise NothingLeft(refused)
    cards = {subject.weights: subject.card for subject in subjects if subject.card}
    return Plan(tuple(jobs.values()), tuple(dict.fromkeys(refused)), cards)


def estimate(plan: Plan, results: Path, tasks: int, *, slots: int = 1) -> float | None:
    """Say how many seconds the missing tasks will take by the timings of like cells; None if one was never timed.

    They run in `slots` places at once.
    """
    stored, paces = store.cells(results), store.seconds_per_task(results)
    alike = {_alike(stored[key]): pace for key, pace in paces.items() if key in stored}
    total = 0.0
    for job in plan.jobs:
        missing = _missing(results, job, tasks)
        pace = paces.get(job.key, alike.get(_alike(job.cell)))
        if missing and pace is None:
            return None
        total += missing * (pace or 0)
    return total / slots


def done(plan: Plan, results: Path, tasks: int) -> int:
    """Count the cells that have all of the first `tasks` tasks."""
    return sum(not _missing(results, job, tasks) for job in plan.jobs)


def kit(plan: Plan) -> Kit:
    """Gather what an executor needs to run the units of a plan."""
    learners = [job.learner for job in plan.jobs]
    return Kit(plan.jobs, _adaptations(plan.jobs), learners[0].device.type if learners else "cpu")


def execute(
    plan: Plan,
    results: Path,
    *,
    tasks: int | None = None,
    budget: float | None = None,
    watcher: Watcher | None = None,
    executor: Executor | None = None,
    audit: Callable[[int], float | None] = lambda tasks: 0.0,
) -> list[Failure]:
    """Run what is missing of every cell, up to `tasks` tasks or as many as fit in `budget` seconds.

    The first tasks of every cell come first, so that the rest can be timed; then `audit` says how many seconds an
    audit will take after a run of so many tasks, None where that is unknown. A cell that fails is recorded with its
    reason, and the others go on. Blocks of tasks run where `executor` runs them, opened with `kit(plan)`; this process
    alone writes to the store. Raises OSError where results cannot be written.
    """
    count = check_count(tasks, budget)
    most = _most_tasks(plan, count if budget is None else PROBE_TASKS)
    store.prepare(results)
    _check_objects(plan, results)
    for weights, card in plan.cards.items():
        store.save_card(results, weights, card)
    have = {job.key: _stored(results, job) for job in plan.jobs}
    probed = count if budget is None else PROBE_TASKS
    pace = store.seconds_per_task(results)
    work = _Work(results, plan, watcher or Watcher(), probed, pace, have, executor or InProcess(kit(plan)))
    for line in _about_examples(plan, results, None if budget else count):
        work.watcher.tell(line)
    started = time.monotonic()
    work.advance([job for job in plan.jobs if job.key not in pace], min(PROBE_TASKS, count))
    if budget is not None:
        work.tasks = min(_affordable(work, (budget - (time.monotonic() - started)) * BUDGET_SHARE), most)
        work.watcher.tell(f"budget: {work.tasks} tasks for each cell")
    work.audit = audit(work.tasks)
    if work.audit:
        work.watcher.progress(work.standing(plan.jobs[-1]))  # there may be no block after this one
    if (left := work.seconds_left()) is not None and left + (work.audit or 0) > 1:
        work.watcher.tell(f"estimated from here: {foreseen(left, work.audit)}")
    work.advance(work.alive(), work.tasks)
    for job in work.alive():
        store.clear_failure(results, job.cell)
    return list(work.failures.values())


def _check_objects(plan: Plan, results: Path) -> None:
    """Refuse an object whose verdicts are not those that were stored under its name: one task of each is run again."""
    seen: set[int] = set()
    for job in plan.jobs:
        known = store.stored(results, job.cell)[:1]
        if not known or not isinstance(job.learner, ObjectLearner) or id(job.learner) in seen:
            continue
        seen.add(id(job.learner))
        try:
            found = run(job.cell, job.learner, job.family, job.attack, [known[0].task]).records
        except Exception:  # which the cell itself will say
            continue
        if (found[0].clean, found[0].survived) != (known[0].clean, known[0].survived):
            raise InputError(
                f"learner: {job.cell.checkpoint} gives other verdicts on task {known[0].task} than those stored under"
                f" this name in {results}; give a learner that was changed another name, or another folder"
            )


def measure(kit: Kit, index: int, tasks: Sequence[int]) -> Measured:
    """Run some tasks of the job of that index, and never raise: the unit of work that an executor is given."""
    job, found, reason, lacked = kit.jobs[index], None, "", False
    device, started = job.learner.device, time.monotonic()
    before = _memory(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", DeprecationWarning)  # of libraries: nothing that a user could mend
        try:
            found = run(
                *(job.cell, job.learner, job.family, job.attack, tasks),
                adaptations=kit.adaptations,
                examples=job.examples,
            )
        except Exception as error:
            lacked, reason = out_of_memory(error), reason_of(error)
    if lacked and device.type == "cuda":
        torch.cuda.empty_cache()
    fitting = None
    if found and before is not None and job.learner.backend != "loop":
        # What one task takes at its peak says how many fit.
        each = (torch.cuda.max_memory_allocated(device) - before) / len(tasks)
        room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - before
        fitting = max(int(MEMORY_SHARE * room / max(each, 1)), 1)
    said = (untrusted.printable(" ".join(str(warning.message).split())) for warning in caught)
    warned = tuple(dict.fromkeys(said))
    return Measured(found, reason, lacked, fitting, warned, timed(job.learner, tasks, started))


def timed(learner: AnyLearner, tasks: Sequence[int], started: float) -> store.Timing:
    """Say how a block ran that began at `started` on the monotonic clock and ends now."""
    chunk = 1 if learner.backend == "loop" else len(tasks)
    how = (str(learner.device), torch.get_num_threads(), learner.backend, chunk)
    return store.Timing(tuple(tasks), time.monotonic() - started, *how)


def reason_of(error: Exception) -> str:
    """Say in one line why a block could not be measured."""
    text = untrusted.printable(" ".join(str(error).split())[:300]) or "no message"
    return text if isinstance(error, CellError) else f"{type(error).__name__}: {text}"


def out_of_memory(error: Exception) -> bool:
    """Say whether memory lacked."""
    # A CPU's allocator raises what any operation raises; numpy and the standard library have an error of their own.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


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
    return replace(
        found,
        cells=cells[cells["key"].isin(keys)].reset_index(drop=True),
        tasks=tasks[tasks["key"].isin(keys)].reset_index(drop=True),
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


def foreseen(cells: float, audit: float | None) -> str:
    """Write how long cells and then their audit will take, in seconds; None where that of the audit is unknown."""
    if audit is None:
        return f"{duration(cells)}, and the audit, which was not timed yet"
    return f"{duration(cells + audit)}" + (f", of which the audit {duration(audit)}" if audit else "")


def label(cell: Cell) -> str:
    """Name a cell in one line."""
    steps = "" if cell.steps is None else f", {cell.steps} steps"
    where = "" if cell.threat.surface == "query" else f" on the {cell.threat.surface}"
    where += "" if cell.threat.fraction == 1 else f" (fraction {cell.threat.fraction:.4g})"
    threat = f"{cell.threat.norm} {cell.threat.eps:.4g}"
    return untrusted.printable(f"{cell.checkpoint}, {cell.spec.shots}-shot{steps}: {cell.attack} {threat}{where}")


@dataclass
class _Work:
    """What changes while a plan runs; keys are cells' keys."""

    results: Path
    plan: Plan
    watcher: Watcher
    tasks: int
    pace: dict[str, float]  # seconds per task
    have: dict[str, set[int]]  # tasks in the store
    executor: Executor
    failures: dict[str, Failure] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)  # block sizes that memory allows
    audit: float | None = 0.0  # seconds that it takes afterwards
    told: set[str] = field(default_factory=set)

    def advance(self, jobs: Sequence[Job], tasks: int) -> None:
        """Run the missing ones of the first `tasks` tasks of some cells, a block in every slot of the executor."""
        index = {job.key: number for number, job in enumerate(self.plan.jobs)}
        waiting = {job.key: sorted(set(range(tasks)) - self.have[job.key]) for job in jobs}
        flying: dict[int, tuple[Job, list[int]]] = {}
        while True:
            while len(flying) < self.executor.slots and (job := self.pick(jobs, waiting)):
                size = self.block(job, waiting)
                block, waiting[job.key] = waiting[job.key][:size], waiting[job.key][size:]
                flying[self.executor.submit(measure, index[job.key], block)] = (job, block)
            if not flying:
                return
            outcome = self.executor.wait()
            job, block = flying.pop(outcome.ticket)
            if not self.settle(job, outcome):
                waiting[job.key] = sorted(block + waiting[job.key])

    def pick(self, jobs: Sequence[Job], waiting: dict[str, list[int]]) -> Job | None:
        return next((job for job in jobs if waiting[job.key] and job.key not in self.failures), None)

    def settle(self, job: Job, outcome: Outcome) -> bool:
        """Keep what came of a block, or record why nothing did; False where it is to go again in smaller ones."""
        found: Measured | None = outcome.value
        if found is None:
            self.fail(job, outcome.error)
            return True
        for message in (f"{label(job.cell)}: {text}" for text in found.warned):
            if message not in self.told:
                self.told.add(message)
                self.watcher.tell(message)
        if found.fitting is not None:
            self.largest[job.key] = min(found.fitting, self.largest.get(job.key, found.fitting))
        if found.block is not None:
            self.keep(job, found.block, found.timing)
            self.watcher.progress(self.standing(job))
            return True
        size = len(found.timing.tasks)
        if found.out_of_memory and size > 1:
            self.largest[job.key] = min(size // 2, self.largest.get(job.key, size))
            return False
        self.fail(job, found.reason)
        return True

    def keep(self, job: Job, found: Block, timing: store.Timing) -> None:
        if found.examples:
            if odd := _unlike(store.stored(self.results, job.cell), found.records):
                self.watcher.tell(f"{label(job.cell)}: {odd}")
            store.save_examples(self.results, job.cell, found.examples)
        store.append(self.results, job.cell, found.records, timing)
        if found.pictures is not None:
            store.save_gallery(self.results, job.cell, found.pictures)
        self.have[job.key].update(timing.tasks)
        self.pace[job.key] = timing.seconds / len(timing.tasks)

    def fail(self, job: Job, reason: str) -> None:
        if job.key in self.failures:  # another block of it was under way
            return
        store.fail(self.results, job.cell, reason)
        self.failures[job.key] = Failure(job.cell, reason)
        self.watcher.tell(f"{label(job.cell)} failed: {reason}")

    def block(self, job: Job, waiting: dict[str, list[int]]) -> int:
        """Say how many tasks of a cell to run next: some seconds' worth, less towards the end where slots share it."""
        pace, seconds = self.pace.get(job.key), BLOCK_SECONDS
        if self.executor.slots > 1:
            left = sum(len(tasks) * self.pace.get(key, 0.0) for key, tasks in waiting.items())
            seconds = min(seconds, max(SHORTEST_BLOCK, left / self.executor.slots))
        fitting = PROBE_TASKS if pace is None else int(seconds / max(pace, 1e-3))
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
        return sum(missing * (pace or 0) for missing, pace in jobs) / self.executor.slots

    def standing(self, job: Job) -> Progress:
        alive = self.alive()
        total = self.tasks * len(alive)
        left = self.seconds_left()
        left = None if left is None else left + (self.audit or 0)
        return Progress(total - sum(map(self.missing, alive)), total, left, job.cell)


def _memory(device: torch.device) -> int | None:
    """Start measuring a GPU's peak, from the bytes in use now; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _adaptations(jobs: Iterable[Job]) -> Adaptations:
    return Adaptations(job.cell for job in jobs)


def _moved(jobs: Sequence[Job], device: str, backend: Backend | None = None) -> tuple[Job, ...]:
    """Move each learner of ours once, however many jobs share it."""
    moved: dict[int, AnyLearner] = {}
    for job in jobs:
        if id(job.learner) not in moved:
            learner = job.learner
            if isinstance(learner, Learner):
                learner = learner.to(device)
                learner = learner if backend is None else replace(learner, backend=backend)
            moved[id(job.learner)] = learner
    return tuple(replace(job, learner=moved[id(job.learner)]) for job in jobs)


def _affordable(work: _Work, seconds: float) -> int:
    """Find the largest number of tasks, the same for every cell, whose missing ones fit in `seconds`; at least 2."""
    low, high = PROBE_TASKS, MOST_TASKS
    while low < high:
        work.tasks = (low + high + 1) // 2
        left = work.seconds_left()
        low, high = (work.tasks, high) if left is not None and left <= seconds else (low, work.tasks - 1)
    return low


def _cells_told(grid: Grid, subject: Subject, *, several: bool) -> Iterable[tuple[Job, str]]:
    """Give the cells of a subject; what cannot be used of it is told with its name, where there are others."""
    try:
        yield from _cells(grid, subject)
    except InputError as error:
        raise InputError(f"{error} ({untrusted.printable(subject.name)})" if several else str(error)) from None


def _cells(grid: Grid, subject: Subject) -> Iterable[tuple[Job, str]]:
    """Give every cell of a subject, with the reason why it cannot run or an empty string."""
    ways = grid.ways or subject.learner.ways
    learner = with_ways(subject, ways)
    family, episodes = subject.family, fingerprint(subject.family, grid.split)
    steps: Sequence[int | None] = (None,)
    if learner.steps is not None:
        steps = grid.steps or (subject.test_steps,)
    own = grid.eps is None and all(isinstance(attack, FromFile) for attack in grid.attacks.values())
    for norm, surface in product(grid.norms, _surfaces(grid, subject)):
        poisoners = [Threat(norm, eps, surface, grid.fraction) for eps in _budgets(grid, family, norm)]
        budgets = [threats.check(threat, family.space) for threat in poisoners]
        for shots, count in product(grid.shots or (subject.shots,), steps):
            spec = Spec(ways, shots, grid.queries, min(grid.queries, poisoning.PROXIES) if surface == "support" else 0)
            # Nobody asked for more labels than there are, where nobody named an eps.
            met = [threat for threat in budgets if grid.eps is not None or poisoning.reaches(threat, spec)]
            for threat in met:
                poisoning.check(threat, spec)
            check_learner(learner, family, grid.split, spec, count)
            for threat, (name, attack) in product(met, grid.attacks.items()):
                if own and norm in attack.norms and threat.eps != cast(FromFile, attack).eps:
                    continue
                if _of_another(attack, norm, grid):
                    continue
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
                examples = grid.save_adversarial and surface == "query" and not isinstance(attack, FromFile)
                job = Job(cell, store.key(cell), learner, family, attack, examples)
                yield job, _refusal(cell, learner, attack, family)


def _of_another(attack: Attack, norm: Norm, grid: Grid) -> bool:
    """Say whether an attack belongs to another kind of threat, and both kinds have what was asked for.

    The kinds are balls, words, labels and corruptions. An attack that leaves a norm without any is told as refused.
    """
    served = set(attack.norms) & set(grid.norms)
    met = any(norm in other.norms for other in grid.attacks.values())
    return bool(served) and met and norm not in attack.norms and (norm not in NORMS or served.isdisjoint(NORMS))


def _refusal(cell: Cell, learner: AnyLearner, attack: Attack, family: TaskFamily) -> str:
    """Say why an attack cannot serve a cell, in one line; empty if it can."""
    name, threat = untrusted.printable(f"{cell.attack} on {cell.checkpoint}"), cell.threat
    if (package := getattr(attack, "needs_package", "")) and (reason := missing(package)):
        return f"{name}: {reason}"
    if threat.norm not in attack.norms:
        return f"{name}: works in {', '.join(attack.norms)}, not in {threat.norm}"
    if threat.surface == "rollout" and learner.norm_mode == "batch":
        return f"{name}: a policy meets one observation at a time, and batch statistics (transductive) need many"
    if threat.surface in ("rollout", "sequence") and isinstance(attack, FromFile):
        return f"{name}: holds attacked queries, and no {threat.surface}s"
    if threat.surface == "rollout" and (reason := environments.missing(family)):
        return f"{name}: {cell.family} {reason}"
    if threat.surface == "rollout" and isinstance(family, Environment) and threat.norm != "linf":
        return f"{name}: each step of {cell.family} has a budget of its own, which only in linf is that of the rollout"
    if served_as(threat.surface) not in attack.surfaces:
        return f"{name}: attacks the {' or '.join(attack.surfaces)}, not the {threat.surface}"
    if reason := _lacking(attack, learner.space, cell.family):
        return f"{name}: {reason}" + ("" if _corruptions(family) else f"; {_uncorrupted(cell.family)}")
    classes, space = _attacked(cell, learner, family)
    if classes is not None and classes < (least := getattr(attack, "least_classes", 2)):
        return f"{name}: needs scores of {least} classes or more, and here it meets {classes}"
    if getattr(attack, "paints", False) and not fits_square(space, threat.norm):
        return f"{name}: {painted(space, threat.norm)}"
    if attack.needs_gradient and not learner.differentiable:
        return f"{name}: needs gradients, and the learner's scores carry none to its inputs (try noise or square)"
    if attack.needs_single_points and learner.norm_mode == "batch":
        return f"{name}: attacks queries one by one, and batch statistics (transductive) bind them together"
    if isinstance(attack, FromFile) and (reason := attack.refusal(cell)):
        return f"{name}: {reason}"
    return ""


def _attacked(cell: Cell, learner: AnyLearner, family: TaskFamily) -> tuple[int | None, Box]:
    """Say how many classes an attack on a cell tells apart, None where a rollout says it, and what box it moves in."""
    if cell.threat.surface != "rollout":
        return cell.spec.ways if learner.space.labels == 1 else 1 + learner.space.labels, learner.space
    if isinstance(family, Environment):
        return 2, learner.space  # the action that the policy likes least, and all others
    return None, noise_space(cast(Acting, family))


def with_ways(subject: Subject, ways: int) -> AnyLearner:
    """Let a learner tell `ways` classes apart, if none of its parameters belongs to a class.

    Its space becomes that of the family at hand, if it fits: of words that a user's files bring, no checkpoint knows.
    """
    learner, space = subject.learner, subject.family.space
    if (space.shape, space.labels) == (learner.space.shape, learner.space.labels):
        learner = replace(learner, space=space)
    if isinstance(learner, Learner) and ways != learner.ways:
        shapes = [
            {name: value.shape for name, value in learner.algorithm.parameters({}, 4, n, torch.Generator()).items()}
            for n in (ways, learner.ways)
        ]
        if shapes[0] != shapes[1]:
            raise InputError(f"ways: {ways}; {subject.name} has one head for {learner.ways} classes")
    return replace(learner, ways=ways)


def _surfaces(grid: Grid, subject: Subject) -> tuple[Surface, ...]:
    acting = acts(subject.family)
    if grid.surfaces and "rollout" in grid.surfaces and not acting:
        raise InputError(
            f"surface: 'rollout' needs learners that act, which {subject.family_name} has not; legal: query, support"
        )
    writes = subject.family.space.labels > 1
    odd = {"query"} if writes else {"sequence"}
    if grid.surfaces and (given := odd.intersection(grid.surfaces)):
        what, legal = ("answers by sequences", "sequence, support") if writes else ("writes none", "query, support")
        raise InputError(f"surface: {given.pop()!r} does not fit: {subject.family_name} {what}; legal: {legal}")
    surfaces = grid.surfaces or (("rollout",) if acting else ("sequence",) if writes else ("query",))
    if grid.save_adversarial and "query" not in surfaces:
        raise InputError(f"save_adversarial: keeps attacked queries, of which the surface {surfaces[0]} has none")
    return surfaces


def _budgets(grid: Grid, family: TaskFamily, norm: Norm) -> tuple[float, ...]:
    if grid.eps is not None:
        return grid.eps
    if all(isinstance(attack, FromFile) for attack in grid.attacks.values()):
        sets = [attack for attack in grid.attacks.values() if isinstance(attack, FromFile)]
        return tuple(sorted({one.eps for one in sets if one.norm == norm} or {one.eps for one in sets}))
    if norm in REPLACED_EPS:
        return REPLACED_EPS[norm]
    if norm == "corruption":
        return tuple(map(float, SEVERITIES))
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
    closed = (
        ("norm", grid.norms, THREATS),
        ("surface", grid.surfaces or (), SURFACES),
        ("split", (grid.split,), SPLITS),
    )
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
    return tasks - sum(task < tasks for task in _stored(results, job))


def _stored(results: Path, job: Job) -> set[int]:
    """Return the tasks that need not run: measured, and with their examples where those are asked for.

    Examples that were not kept are made again, for the attack draws the same numbers again; records stay as they are.
    """
    tasks = {record.task for record in store.stored(results, job.cell)}
    return tasks & store.kept_examples(results, job.cell) if job.examples else tasks


def _most_tasks(plan: Plan, count: int) -> int:
    """Return how many tasks every adversarial test set of a plan holds; refuse to run `count` where that is more."""
    sets = [job.attack for job in plan.jobs if isinstance(job.attack, FromFile)]
    if not sets:
        return MOST_TASKS
    least = min(sets, key=lambda one: one.tasks)
    if count > least.tasks:
        raise InputError(f"tasks: {count}; {least.name} holds {least.tasks}, so give at most {least.tasks}")
    return least.tasks


def _about_examples(plan: Plan, results: Path, tasks: int | None) -> list[str]:
    """Say how much the examples will take on disk, and which tasks run again for them alone."""
    jobs = [job for job in plan.jobs if job.examples]
    if not jobs:
        return []
    each = sum(
        job.cell.spec.ways * job.cell.spec.queries * math.prod(job.learner.space.shape) * job.learner.dtype.itemsize
        for job in jobs
    )
    many = f"{each / 1e6:.3g} MB for each task of the grid" if tasks is None else f"{each * tasks / 1e6:.3g} MB"
    lines = [f"adversarial examples of {len(jobs)} cells go to {results / store.ADVERSARIAL}: about {many}"]
    again = 0
    for job in jobs:
        measured = {record.task for record in store.stored(results, job.cell) if tasks is None or record.task < tasks}
        again += len(measured - store.kept_examples(results, job.cell))
    if again:
        lines.append(f"{again} tasks were measured without keeping their examples: they run again, their records stay")
    return lines


def _unlike(stored: Iterable[Record], again: Iterable[Record]) -> str:
    """Say where tasks that ran again for their examples were judged otherwise than before; else nothing."""
    before = {record.task: record for record in stored}
    bits = [(new.survived, before[new.task].survived) for new in again if new.task in before]
    count = sum(x != y for mine, theirs in bits for x, y in zip(mine, theirs, strict=True))
    if not count:
        return ""
    return f"{count} verdicts differ from those stored, as on another device; the examples kept are today's"


def _alike(cell: Cell) -> tuple[Any, ...]:
    """Name what decides how long a task takes; cells that share it share a first estimate."""
    return (cell.weights, cell.family, cell.spec, cell.steps, cell.attack_fields, cell.threat.surface)
