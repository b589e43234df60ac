"""What one evaluation runs: the cells of a grid, or those of a protocol, whose parts have task counts of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustbench_meta import audit as audits
from robustbench_meta import grid, protocols, store
from robustbench_meta.executors import Place
from robustbench_meta.grid import Failure, Grid, Plan, Subject, Watcher
from robustbench_meta.outcomes import Board, Entry
from robustbench_meta.protocols import CLEAN, Protocol, Verdict
from robustbench_meta.types import Attack, InputError, Norm, Split, Surface

PLAIN_QUERIES = 15
SILENT = "fgsm"  # at eps 0 it gives the inputs back and costs nothing


@dataclass(frozen=True)
class Choice:
    """What a user asks for; None leaves a knob to the protocol, or to what `Grid` and the learners have."""

    attacks: Mapping[str, Attack] | None = None
    norms: tuple[Norm, ...] | None = None
    eps: tuple[float, ...] | None = None
    surfaces: tuple[Surface, ...] | None = None
    fraction: float | None = None
    shots: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    ways: int | None = None
    queries: int | None = None
    split: Split | None = None
    seed: int | None = None
    tasks: int | None = None
    budget: float | None = None  # seconds
    save_adversarial: bool = False


@dataclass(frozen=True)
class Batch:
    """A plan and how far it goes: so many tasks, or as many as fit in `budget` seconds."""

    plan: Plan
    tasks: int | None
    budget: float | None
    steps_asked: bool


@dataclass(frozen=True)
class Run:
    """The batches of one evaluation in their order, and what no attack can serve."""

    batches: tuple[Batch, ...]
    refused: tuple[str, ...]
    protocol: Protocol | None = None

    @property
    def plan(self) -> Plan:
        """All cells at once, for reading their results."""
        cards = {weights: card for batch in self.batches for weights, card in batch.plan.cards.items()}
        return Plan(tuple(job for batch in self.batches for job in batch.plan.jobs), self.refused, cards)

    @property
    def without_steps(self) -> list[str]:
        """Who has no adaptation steps, where steps were asked for; each runs once for the whole axis."""
        jobs = [job for batch in self.batches if batch.steps_asked for job in batch.plan.jobs]
        return list(dict.fromkeys(job.cell.checkpoint for job in jobs if job.cell.steps is None))


def make(choice: Choice, protocol: Protocol | None, subjects: Sequence[Subject], results: Path) -> Run:
    """Plan an evaluation; nothing is written. Raises InputError where something cannot be used, or nothing is left."""
    grid.check_count(choice.tasks, choice.budget)
    if protocol is None:
        given: dict[str, Any] = {"norms": choice.norms, "surfaces": choice.surfaces, "fraction": choice.fraction}
        given |= {"split": choice.split, "seed": choice.seed}
        axes = Grid(
            attacks=grid.usual_attacks(choice.norms or ("linf",), subjects)
            if choice.attacks is None
            else choice.attacks,
            eps=choice.eps,
            shots=choice.shots,
            steps=choice.steps,
            ways=choice.ways,
            queries=PLAIN_QUERIES if choice.queries is None else choice.queries,
            save_adversarial=choice.save_adversarial,
            **_given(given),
        )
        plan = grid.make_plan(axes, subjects, results)
        return Run((Batch(plan, choice.tasks, choice.budget, steps_asked=bool(axes.steps)),), plan.refused)
    return _of_protocol(choice, protocol, subjects, results)


def execute(
    run: Run,
    results: Path,
    *,
    place: Place,
    audit: bool,
    watcher: Watcher | None = None,
    begin: Callable[[Batch, int], None] = lambda batch, slots: None,
) -> tuple[list[Failure], list[audits.AuditFailure]]:
    """Run what is missing, batch by batch, and then its audits where `audit` asks for them.

    `begin` is told of each batch, and how many units run at once, when its place is open, for a place that cannot be
    used is to be told in one line.
    """
    failures: list[Failure] = []
    lost: list[audits.AuditFailure] = []
    for batch in run.batches:
        with place.open(grid.kit(batch.plan)) as executor:
            begin(batch, executor.slots)
            given: Any = {"tasks": batch.tasks, "budget": batch.budget, "watcher": watcher, "executor": executor}
            if audit:
                found = audits.execute(batch.plan, results, **given)
                failures, lost = failures + found[0], lost + found[1]
            else:
                failures += grid.execute(batch.plan, results, **given)
    return failures, lost


def foreseen(run: Run) -> list[Verdict]:
    """Say in what the rows of a run by a protocol will differ from it; nothing where a budget picks the tasks."""
    if run.protocol is None or any(batch.budget is not None for batch in run.batches):
        return []
    planned = {job.key: batch.tasks or 0 for batch in run.batches for job in batch.plan.jobs}
    return protocols.verdicts(_planned(run), _recipes(run), run.protocol, planned)


def reached(run: Run, results: Path) -> list[Verdict]:
    """Say in what the rows of a run by a protocol differ from it, by all that is stored of them."""
    if run.protocol is None:
        return []
    mine = {_row(one) for one in protocols.verdicts(_planned(run), {}, run.protocol)}
    found = protocols.verdicts(store.read(results), _recipes(run), run.protocol)
    return [one for one in found if _row(one) in mine]


def _row(verdict: Verdict) -> tuple[Board, Entry]:
    """Name the row of a verdict; that its learners write is known when they have written, and not before."""
    return replace(verdict.board, whole=False), verdict.entry


def _planned(run: Run) -> store.Results:
    return store.tables([store.Run(job.cell) for job in run.plan.jobs], [])


def _recipes(run: Run) -> dict[str, dict[str, Any]]:
    cards = [{"weights": weights, "card": card} for weights, card in run.plan.cards.items()]
    return protocols.recipes(store.tables([], [], cards))


def _of_protocol(choice: Choice, protocol: Protocol, subjects: Sequence[Subject], results: Path) -> Run:
    """Make one plan for each part of a protocol and each number of queries; parts that cannot run are refused."""
    plans: list[tuple[Plan, Grid, int]] = []
    refused: list[str] = []
    last: grid.NothingLeft | None = None
    for axes, chosen, tasks in _grids(choice, protocol, subjects):
        try:
            plans.append((grid.make_plan(axes, chosen, results), axes, tasks))
            refused += plans[-1][0].refused
        except grid.NothingLeft as error:
            refused, last = [*refused, *error.refused], error
    if last is not None and not plans:
        raise last
    share = None if choice.budget is None else choice.budget / len(plans)
    batches = (
        Batch(plan, tasks if share is None else None, share, steps_asked=bool(axes.steps))
        for plan, axes, tasks in plans
    )
    return Run(tuple(batches), tuple(dict.fromkeys(refused)), protocol)


def _grids(choice: Choice, protocol: Protocol, subjects: Sequence[Subject]) -> list[tuple[Grid, list[Subject], int]]:
    """List the grids of a protocol with who meets them and on how many tasks; what was chosen replaces its knobs."""
    if not subjects:
        raise InputError("ckpt: none given; give at least one checkpoint folder")
    shots = protocol.shots if choice.shots is None else choice.shots
    if not shots:
        raise InputError("shots: none given; give at least one")
    return [
        (
            Grid(attacks, eps=eps, shots=some, queries=some[0] if queries is None else queries, **_axes(choice, one)),
            chosen,
            tasks if choice.tasks is None else choice.tasks,
        )
        for one, eps, chosen in _alike(choice, protocol, subjects)
        for queries in [one.queries if choice.queries is None else choice.queries]
        for attacks, tasks in _parts(choice, one, subjects)
        for some in ([shots] if queries is not None else [(each,) for each in shots])
    ]


def _axes(choice: Choice, protocol: Protocol) -> dict[str, Any]:
    """Return what does not differ between the grids of a protocol on one family."""
    own: dict[str, Any] = {"norms": (protocol.norm,), "surfaces": (protocol.surface,), "ways": protocol.ways}
    own |= {"split": protocol.split, "seed": protocol.seed, "save_adversarial": choice.save_adversarial}
    own["steps"] = None if protocol.steps is None else (protocol.steps,)
    own["fraction"] = 1.0
    return own | _given({name: getattr(choice, name) for name in own})


def _alike(
    choice: Choice, protocol: Protocol, subjects: Sequence[Subject]
) -> list[tuple[Protocol, tuple[float, ...], list[Subject]]]:
    """Group learners by what the protocol is on their family, and by the eps they meet: those chosen, else its own."""
    if protocol.clean_only and (choice.eps is None) != (choice.attacks is None):
        raise InputError(f"eps: {protocol.name} is clean only; to attack too give both attacks and eps")
    found: dict[tuple[Protocol, tuple[float, ...]], list[Subject]] = {}
    for subject in subjects:
        one, shape = protocol.on(subject.family_name), subject.family.space.shape
        colour = len(shape) == 3 and shape[0] == 3
        own = one.eps if colour or not one.grey_eps else one.grey_eps
        found.setdefault((one, own if choice.eps is None else choice.eps), []).append(subject)
    return [(*key, those) for key, those in found.items()]


def _parts(choice: Choice, protocol: Protocol, subjects: Sequence[Subject]) -> list[tuple[Mapping[str, Attack], int]]:
    """List the attacks of a protocol, each with its number of tasks here; attacks that were chosen meet the most."""
    gpu = any(subject.learner.device.type == "cuda" for subject in subjects)
    counts = [part.gpu_tasks if gpu else part.tasks for part in protocol.parts]
    if choice.attacks is not None:
        return [(choice.attacks, max(counts))]
    names = [SILENT if part.attack == CLEAN else part.attack for part in protocol.parts]
    return [(grid.named_attacks([name]), count) for name, count in zip(names, counts, strict=True)]


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def sole(axes: Grid, subjects: Sequence[Subject], results: Path, tasks: int) -> Run:
    """Plan one grid on so many tasks."""
    plan = grid.make_plan(axes, subjects, results)
    return Run((Batch(plan, tasks, None, steps_asked=bool(axes.steps)),), plan.refused)
