"""Raw, unskipped runs on a few tasks of every learner, from which flags.py tells whether attacks were hindered.

One attack, steepest ascent of the margin from the clean point (PGD, arXiv 1706.06083), is run again and again with one
thing changed: its budget, or its iterations. It draws no random number, so whatever differs was changed by that. FGSM
stands beside it, and Square (arXiv 1912.00049) and noise try what it and a multi-targeted PGD (1910.09338) left. Of
learners that act it is the cross entropy that is climbed.

Rollouts through a simulator are audited as they are attacked: what is moved is the noise on all that a policy observes,
and a search by stretches of steps is blind in Square's place. In environments that no gradient passes whole rollouts
would tell nothing: an adversary that does better in each step need not in the end. There the queries are observations
of clean rollouts, one of each, and what the policy does is their class. Sequences are right as wholes, as in runs.
Shapes: T tasks, Q queries, P points, M items in a point, N classes, X the shape of one input; H steps of a rollout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.variable import Variable

from robustbench_meta import flags, grid, losses, store, threats
from robustbench_meta.ascent import Member, Objective, Search
from robustbench_meta.attacks.noise import Noise
from robustbench_meta.attacks.pgd import PGD, MultiTargetedPGD
from robustbench_meta.attacks.square import Square
from robustbench_meta.attacks.stretches import Stretches
from robustbench_meta.engine import ObjectLearner, has_gradient, policy_victim, rollout_victim
from robustbench_meta.environments import SHARED, Environment
from robustbench_meta.episodes import drawn
from robustbench_meta.evaluate import (
    AnyLearner,
    CellError,
    act,
    full_precision,
    grad_mode,
    own_randomness,
    replay,
    scores_of,
    seed_of,
)
from robustbench_meta.executors import Executor, InProcess, Outcome
from robustbench_meta.flags import Flag, Measures
from robustbench_meta.libraries import fits_square
from robustbench_meta.rollouts import still
from robustbench_meta.sequences import judged
from robustbench_meta.types import (
    NORMS,
    Audit,
    Cell,
    Episodes,
    InputError,
    Params,
    Simulator,
    Spec,
    Streams,
    TaskFamily,
    Threat,
    Victim,
)

VERSION = 2
STEPS, DRAWS = 40, 1000
TARGETED_STEPS = 20
SEARCHED = 8  # queries of a task that Square and noise meet: those that gradients left with the least margin
COPIES = 8  # of each of these that noise meets at once, with DRAWS / COPIES draws each
FORWARDS = 5
AUDIT_SHARE = 0.2  # of a budget
ALL = slice(None)
ALONE = 5  # queries of a task that are also scored without the others
ASIDE = 0.1  # of the budget, by which an ascent begins beside a query where gradients are 0 by symmetry
GPU_NOISE = 1e-5  # of the scores' range: what the order of sums on a GPU may change between two forwards
BLOCK_SECONDS, FIRST_BLOCK, LARGEST_BLOCK = 15.0, 2, 20  # a kill loses one block of tasks


@dataclass(frozen=True)
class AuditJob:
    """An audit, the results that it vouches for, and the number of the plan's job that has the objects it needs."""

    audit: Audit
    key: str
    cells: tuple[Cell, ...]
    index: int


@dataclass(frozen=True)
class AuditFailure:
    audit: Audit
    reason: str


@dataclass(frozen=True)
class Examined:
    """What came of a block of an audit: measures, or why there are none; and how it ran."""

    measures: list[Measures]
    reason: str
    out_of_memory: bool
    timing: store.Timing


def execute(
    plan: grid.Plan,
    results: Path,
    *,
    tasks: int | None = None,
    budget: float | None = None,
    watcher: grid.Watcher | None = None,
    executor: Executor | None = None,
) -> tuple[list[grid.Failure], list[AuditFailure]]:
    """Run a plan as `grid.execute` does, then its audits, which get a fifth of a budget (seconds).

    Without a budget, and where none like them was timed, the first block of every audit runs right after the first
    tasks of the cells, so that the estimate of the run holds its audits too. With one it holds a fifth, or less where
    they are known to take less.
    """
    grid.check_count(tasks, budget)
    spent, share = 0.0, AUDIT_SHARE * (budget or 0)
    watcher, executor = watcher or grid.Watcher(), executor or InProcess(grid.kit(plan))

    def examined(teller: grid.Watcher, limit: float | None) -> list[AuditFailure]:
        nonlocal spent
        started = time.monotonic()
        lost = run_audits(plan, results, watcher=teller, executor=executor, budget=limit)
        spent += time.monotonic() - started
        return lost

    def foreseen(count: int) -> float | None:
        if budget is None and estimate(plan, results, count) is None:
            watcher.tell("timing the audit on its first tasks")
            examined(grid.Watcher(), 0.0)
        seconds = estimate(plan, results, count, slots=executor.slots)
        return seconds if budget is None else min(share, share if seconds is None else seconds)

    given: dict[str, Any] = {"watcher": watcher, "executor": executor, "audit": foreseen}
    if budget is None:
        failures = grid.execute(plan, results, tasks=tasks, **given)
        lost = examined(watcher, None)
    else:
        until = time.monotonic() + budget
        failures = grid.execute(plan, results, budget=budget - share, **given)
        lost = examined(watcher, until - time.monotonic())
    if spent > 1:
        watcher.tell(f"the audit took {grid.duration(spent)}")
    return failures, lost


def estimate(plan: grid.Plan, results: Path, tasks: int, *, slots: int = 1) -> float | None:
    """Say how many seconds the audits of a run of `tasks` tasks will still take; None if none like one was timed.

    Their blocks run in `slots` places at once. What failed before is not taken to get further now.
    """
    stored, paces = store.audits(results), store.seconds_per_task(results)
    alike = {_alike(stored[key]): pace for key, pace in paces.items() if key in stored}
    total = 0.0
    for job in audits(plan):
        planned = 0 if all(store.failed(results, cell) for cell in job.cells) else tasks
        missing = len(_due(results, job, planned).difference(one.task for one in store.audited(results, job.audit)))
        pace = paces.get(job.key, alike.get(_alike(job.audit)))
        if missing and pace is None and not store.failed(results, job.audit):
            return None
        total += missing * (pace or 0)
    return total / slots


def audits(plan: grid.Plan) -> tuple[AuditJob, ...]:
    """List the audits of a plan: one for each row of a board that is moved in a ball, at the largest eps.

    Poisoned supports have none.
    """
    together: dict[Audit, list[int]] = {}
    for index, job in enumerate(plan.jobs):
        threat = job.cell.threat
        if threat.surface != "support" and threat.norm in NORMS and threat.eps > 0:
            together.setdefault(_audit(job.cell, 0.0), []).append(index)
    found = []
    for about, jobs in together.items():
        cells = tuple(plan.jobs[index].cell for index in jobs)
        audit = replace(about, eps=max(cell.threat.eps for cell in cells))
        found.append(AuditJob(audit, store.key(audit), cells, jobs[0]))
    return tuple(found)


def run_audits(
    plan: grid.Plan,
    results: Path,
    *,
    tasks: Sequence[int] | None = None,
    watcher: grid.Watcher | None = None,
    executor: Executor | None = None,
    budget: float | None = None,
) -> list[AuditFailure]:
    """Run what is missing of every audit and store it; one that fails is recorded with its reason.

    Unless given, tasks are the first of those that the audit's cells hold: 5 % of them and at least 20, if there are
    so many. Blocks run where `executor` runs them, opened with `grid.kit(plan)`; after `budget` seconds none begins
    but the first of each audit.
    """
    jobs, watcher = audits(plan), watcher or grid.Watcher()
    until = math.inf if budget is None else time.monotonic() + budget
    work = _Work(results, {job.key: job for job in jobs}, executor or InProcess(grid.kit(plan)), watcher, until)
    for job in jobs:
        wanted = _due(results, job) if tasks is None else set(tasks)
        work.waiting[job.key] = sorted(wanted.difference(one.task for one in store.audited(results, job.audit)))
        if work.waiting[job.key]:
            watcher.tell(f"audit of {label(job.audit)}: {len(wanted)} tasks")
    work.run()
    for failure in work.failures.values():
        watcher.tell(f"audit of {label(failure.audit)} failed: {failure.reason}")
    for job in jobs:
        if job.key not in work.failures:
            store.clear_failure(results, job.audit)
    return list(work.failures.values())


@dataclass
class _Work:
    """What changes while audits run; keys are audits' keys."""

    results: Path
    jobs: dict[str, AuditJob]
    executor: Executor
    watcher: grid.Watcher
    until: float  # on the monotonic clock
    waiting: dict[str, list[int]] = field(default_factory=dict)  # tasks
    size: dict[str, int] = field(default_factory=dict)  # of the next block
    failures: dict[str, AuditFailure] = field(default_factory=dict)

    def run(self) -> None:
        flying: dict[int, tuple[str, list[int]]] = {}
        while True:
            while len(flying) < self.executor.slots and (key := self.next_key()):
                size = self.size.setdefault(key, FIRST_BLOCK)
                block, self.waiting[key] = self.waiting[key][:size], self.waiting[key][size:]
                job = self.jobs[key]
                flying[self.executor.submit(examine_block, job.index, job.audit, block)] = (key, block)
            if not flying:
                return
            outcome = self.executor.wait()
            key, block = flying.pop(outcome.ticket)
            self.settle(key, block, outcome)

    def next_key(self) -> str | None:
        late = time.monotonic() > self.until
        keys = (key for key, tasks in self.waiting.items() if tasks and key not in self.failures)
        return next((key for key in keys if not (late and key in self.size)), None)

    def settle(self, key: str, block: list[int], outcome: Outcome) -> None:
        """Store what came of a block; where memory lacked, put its tasks back for smaller ones."""
        found: Examined | None = outcome.value
        if found is not None and found.measures:
            store.append_audit(self.results, self.jobs[key].audit, found.measures, found.timing)
            each = max(found.timing.seconds, 1e-3) / len(block)
            left = each * len(self.waiting[key]) / self.executor.slots
            if len(block) == FIRST_BLOCK and left > 2:
                self.watcher.tell(f"audit of {label(self.jobs[key].audit)}: about {grid.duration(left)} more")
            self.size[key] = max(1, min(LARGEST_BLOCK, int(BLOCK_SECONDS / each), 4 * len(block)))
        elif found is not None and found.out_of_memory and len(block) > 1:
            self.size[key] = len(block) // 2
            self.waiting[key] = sorted(block + self.waiting[key])
        elif key not in self.failures:
            reason = outcome.error if found is None else found.reason
            store.fail_audit(self.results, self.jobs[key].audit, reason)
            self.failures[key] = AuditFailure(self.jobs[key].audit, reason)


def examine_block(kit: grid.Kit, index: int, audit: Audit, tasks: Sequence[int]) -> Examined:
    """Examine some tasks with the objects of the job of that index, and never raise: an executor's unit of work."""
    job, started, found, reason, lacked = kit.jobs[index], time.monotonic(), [], "", False
    try:
        found = examine(audit, job.learner, job.family, tasks)
    except Exception as error:
        lacked, reason = grid.out_of_memory(error), grid.reason_of(error)
    return Examined(found, reason, lacked, grid.timed(job.learner, tasks, started))


def examine(audit: Audit, learner: AnyLearner, family: TaskFamily, tasks: Sequence[int]) -> list[Measures]:
    """Measure what flags are raised from, task by task.

    Every random number depends on (audit, task) alone, so measures do not depend on how tasks are grouped. Raises
    CellError where scores are not what they must be; whatever a learner raises passes through.
    """
    groups = [list(tasks)] if learner.backend != "loop" else [[task] for task in tasks]
    return [one for group in groups for one in _examine(audit, learner, family, group)]


def examine_object(
    subject: Any, family: TaskFamily, *, threat: Threat, spec: Spec, tasks: int, seed: int = 0
) -> tuple[Flag, ...]:
    """Return the flags of an object with adapt(x, y) and predict(fitted, x), on `tasks` tasks of the test split.

    What is audited is the threat's surface: queries, rollouts or sequences.
    An object whose scores carry no gradient gets F6 too, unless its attribute `differentiable` is False.
    """
    learner = ObjectLearner(subject, family.space, spec.ways)
    reached = has_gradient(learner, family.sample("val", spec, [0]))
    learner = replace(learner, differentiable=reached)
    name = type(subject).__name__
    audit = Audit(
        checkpoint=name,
        weights=name,
        algorithm="custom",
        defense="custom",
        norm_mode=learner.norm_mode,
        family=type(family).__name__,
        episodes="",
        split="test",
        spec=spec,
        steps=None,
        norm=threat.norm,
        eps=threat.eps,
        seed=seed,
        version=VERSION,
        surface=threat.surface,
    )
    found = list(flags.of_audit(examine(audit, learner, family, range(tasks)), ways=spec.ways, surface=audit.surface))
    if not reached and getattr(subject, "differentiable", True):
        n = tasks * spec.ways * spec.queries
        found.append(Flag("F6", "red", 1.0, flags.FLAT, n, "no gradient reaches the queries"))
    return flags.merge(found)


def label(audit: Audit) -> str:
    """Name an audit in one line."""
    steps = "" if audit.steps is None else f", {audit.steps} steps"
    surface = "" if audit.surface == "query" else f" on {audit.surface}s"
    return f"{audit.checkpoint}, {audit.spec.shots}-shot{steps}: {audit.norm} {audit.eps:.4g}{surface}"


def _due(results: Path, job: AuditJob, planned: int = 0) -> set[int]:
    """Choose the tasks to audit, of those that the audit's cells hold and of the first `planned`, which they will."""
    held = {record.task for cell in job.cells for record in store.stored(results, cell)}
    ran = sorted(held.union(range(planned)))
    return set(ran[: flags.audited_tasks(len(ran))])


def _alike(audit: Audit) -> Audit:
    """Leave out what does not decide how long a task takes."""
    return replace(audit, checkpoint="", eps=0.0, seed=0)


def _audit(cell: Cell, eps: float) -> Audit:
    shared = ("checkpoint", "weights", "algorithm", "defense", "norm_mode", "family", "episodes", "split", "spec")
    fields: dict[str, Any] = {name: getattr(cell, name) for name in (*shared, "steps", "seed")}
    return Audit(**fields, norm=cell.threat.norm, eps=eps, version=VERSION, surface=cell.threat.surface)


@dataclass(frozen=True)
class Subject:
    """What is audited of T tasks: Q queries each, sequences, rollouts, or observations of rollouts.

    `score(x, some)` judges those `some` of the queries x [T,q,*X] by `predict`, not through a victim, in one row of
    numbers each; `right` turns those of all queries [T,Q,N] into verdicts [T,Q]; `told` are the learner's own scores,
    [T,n,W], worked out from the clean ones.
    """

    x: Tensor  # [T,Q,*X], clean
    score: Callable[[Tensor, slice], Tensor]
    right: Callable[[Tensor], Tensor]
    told: Callable[[Tensor], Tensor]
    victim: Callable[[], Victim]  # of the runs
    climbed: Callable[[Victim, Tensor], Victim]  # from that and the clean scores: whose gradients cells need
    loss: Callable[[Tensor, Tensor], Tensor] = losses.margin  # what ascents climb
    classified: bool = True  # whether a row of scores has a class
    steps: Tensor | None = None  # [T,Q], of observations


def _examine(audit: Audit, learner: AnyLearner, family: TaskFamily, tasks: list[int]) -> list[Measures]:
    with own_randomness(seed_of(f"audit {store.key(audit)}", tasks[0])):
        episodes = drawn(family, audit.split, audit.spec, tasks, seed=audit.seed).to(learner.device, learner.dtype)
        with grad_mode(learner), full_precision():
            fitted: Any = learner.adapt(episodes.support_x, episodes.support_y, steps=audit.steps)
            subject = _subject(audit, learner, family, tasks, (episodes, fitted))
            with _watched() as calls:
                clean = subject.score(subject.x, ALL)
                repeat, alone = _differences(subject, clean)
        victim = subject.victim()
        survived: dict[str, Tensor] = {}
        flat: dict[str, Tensor] = {}
        if learner.differentiable:
            with torch.enable_grad(), full_precision():
                flat, origins = _gradients(audit, victim, subject.climbed(victim, clean), tasks)
                attacked = _attacked(audit, victim, Ascent(STEPS, origins, subject.loss), tasks)
            with grad_mode(learner), full_precision():
                for name, x_adv in attacked.items():
                    survived[name] = subject.right(subject.score(x_adv.view(subject.x.shape), ALL))
        with grad_mode(learner), full_precision():
            right, told = subject.right(clean), subject.told(clean)
    return [
        Measures(
            task=task,
            clean=_bits(right[row]),
            predictions=tuple(clean[row].argmax(-1).tolist()) if subject.classified else (),
            survived={name: _bits(verdicts[row]) for name, verdicts in survived.items()},
            flat={name: _bits(zero[row]) for name, zero in flat.items()},
            repeat=float(repeat[row]),
            alone=float(alone[row]),
            probabilities=_probabilities(told[row]),
            autograd=bool(calls),
            steps=() if subject.steps is None else tuple(subject.steps[row].tolist()),
        )
        for row, task in enumerate(tasks)
    ]


def _subject(
    audit: Audit, learner: AnyLearner, family: TaskFamily, tasks: list[int], made: tuple[Episodes, Any]
) -> Subject:
    episodes, fitted = made
    if audit.surface != "rollout":
        return _queries(learner, fitted, episodes.query_x, episodes.query_y, ways=audit.spec.ways)
    if not isinstance(family, (Simulator, Environment)):
        raise InputError(f"surface: 'rollout' needs learners that act, which {audit.family} has not")
    drawn_worlds = family.trials(audit.split, audit.spec, tasks, seed=audit.seed)
    worlds = {name: value.to(learner.device, learner.dtype) for name, value in drawn_worlds.items()}
    if isinstance(family, Simulator):
        return _rollouts(learner, fitted, family, worlds, ways=audit.spec.ways)
    return _observations(learner, fitted, family, worlds, ways=audit.spec.ways)


def _queries(learner: AnyLearner, fitted: Any, x: Tensor, y: Tensor, *, ways: int) -> Subject:
    """Audit queries x [T,Q,*X], y [T,Q], or sequences of L labels, y [T,Q*L], each right as a whole."""
    labels = learner.space.labels

    def score(x: Tensor, some: slice) -> Tensor:
        return scores_of(learner, fitted, x, ways).unflatten(1, (-1, labels)).flatten(2)

    def told(scores: Tensor) -> Tensor:
        return scores.unflatten(2, (labels, -1)).flatten(1, 2)

    def right(scores: Tensor) -> Tensor:
        return losses.correct(*judged(told(scores), y, labels))

    def victim() -> Victim:
        return learner.query_victim(fitted, x, y)

    return Subject(x, score, right, told, victim, lambda victim, scores: victim, classified=labels == 1)


def _rollouts(learner: AnyLearner, fitted: Any, simulator: Simulator, worlds: Params, *, ways: int) -> Subject:
    """Audit rollouts in worlds, each [T,R,...]: what is moved is the noise [T,R,H,*X] on all that is observed."""
    tasks, each = next(iter(worlds.values())).shape[:2]

    def score(noise: Tensor, some: slice) -> Tensor:
        here = {name: value[:, some] for name, value in worlds.items()}
        flight = replay(learner, fitted, simulator, here, noise, ways=ways)
        if not flight.scores.isfinite().all():
            raise CellError("a rollout's margin is NaN or infinite")
        return flight.scores.unflatten(0, noise.shape[:2])

    def told(scores: Tensor) -> Tensor:
        flat = {name: value.flatten(0, 1) for name, value in worlds.items()}
        seen = simulator.observe(flat, simulator.start(flat)).unflatten(0, (tasks, each))
        return scores_of(learner, fitted, seen, ways)

    return Subject(
        x=still(simulator, tasks, each).to(learner.device, learner.dtype),
        score=score,
        right=lambda scores: losses.correct(scores, scores.new_zeros(scores.shape[:2], dtype=torch.int64)),
        told=told,
        victim=lambda: rollout_victim(learner, fitted, simulator, worlds),
        climbed=lambda victim, scores: victim,
        loss=losses.cross_entropy,
        classified=False,
    )


def _observations(learner: AnyLearner, fitted: Any, family: Environment, worlds: Params, *, ways: int) -> Subject:
    """Audit what policies observe in clean rollouts in worlds, each [T,R,...]: one observation of each, [T,R,*X].

    They are spread over the steps before a rollout ended: early ones of the first, late ones of the last. A policy is
    right where it does what it does without an attack. Cells climb towards what it likes least, so that is what has to
    have a gradient.
    """
    shape = next(iter(worlds.values())).shape[:2]
    played = act(learner, fitted, family, worlds, torch.zeros_like, ways=ways, pool=SHARED)
    lengths = (played.actions >= 0).sum(dim=1).view(shape)
    places = (torch.arange(shape[1]) + 0.5) / shape[1]
    steps = (lengths * places).long()
    states = played.flight.states[torch.arange(shape.numel()), steps.flatten()]
    x = family.observe(states).to(learner.device, learner.dtype).unflatten(0, shape)
    done = scores_of(learner, fitted, x, ways).argmax(dim=-1)
    queries = _queries(learner, fitted, x, done, ways=ways)

    def climbed(victim: Victim, scores: Tensor) -> Victim:
        return policy_victim(learner, fitted, x, scores, victim.cost)

    return replace(queries, climbed=climbed, loss=losses.cross_entropy, steps=steps)


@dataclass(frozen=True)
class Ascent:
    """Climb a loss from `origins` by `steps` steps of 2.5 eps / steps, and keep the best iterate.

    The margin, because it neither underflows with large scores nor asks for one run a class, as targets do; but of
    rollouts the cross entropy. They have several ways to fail, and actions neighbours on both sides: the margin knows
    the nearest one alone, such as an obstacle that it cannot quite reach.
    """

    steps: int
    origins: Tensor  # [P,M,*X]
    loss: Callable[[Tensor, Tensor], Tensor] = losses.margin

    def __call__(self, victim: Victim, threat: Threat) -> Search:
        search = Search(victim)
        length = 2.5 * threat.eps / self.steps
        search.run(threat, self.origins, self._objective(victim), steps=self.steps, length=length)
        return search

    def _objective(self, victim: Victim) -> Objective:
        return lambda outputs, points: self.loss(outputs, victim.y[points]).mean(dim=1)


def _attacked(audit: Audit, victim: Victim, ascent: Ascent, tasks: list[int]) -> dict[str, Tensor]:
    """Run every attack of an audit: x_adv [P,M,*X] by name."""
    full = Threat(audit.norm, audit.eps)
    searches = {
        "pgd-half": ascent(victim, replace(full, eps=audit.eps / 2)),
        "pgd": ascent(victim, full),
        "pgd-twice": replace(ascent, steps=2 * STEPS)(victim, full),
        flags.BOX: ascent(victim, Threat("linf", victim.space.width / 2)),
    }
    found = {name: search.x_adv for name, search in searches.items()}
    fgsm = PGD(1, step=1.0, start="clean", keep="last")
    found["fgsm"] = fgsm(victim, full, _streams(audit, "fgsm", tasks))
    chosen = _nearest(victim, [searches["pgd"], searches["pgd-twice"]])
    known = [found[name] for name in ("pgd", "pgd-twice", "fgsm")]
    near = _some(victim, chosen)
    # One climb is not all that gradients can do: what chance finds is news only where targets failed too.
    targeted = MultiTargetedPGD(TARGETED_STEPS, step=2.5 / TARGETED_STEPS)
    strongest = victim.x.clone()
    strongest[chosen] = targeted(near, full, _streams(audit, "targeted", tasks))
    known.append(strongest)
    hunts: dict[str, tuple[Member, int]] = {"noise": (Noise(DRAWS // COPIES), COPIES)}
    if audit.surface == "rollout":
        hunts[flags.STRETCHES] = (Stretches(DRAWS), 1)
    elif victim.single and fits_square(victim.space, audit.norm):
        hunts["square"] = (Square(DRAWS, schedule=DRAWS), 1)
    for name, (attack, copies) in hunts.items():
        met = chosen.repeat_interleave(copies)
        search = Search(_some(victim, met))
        for x_adv in (victim.x, *known):
            search.judge(x_adv[met], search.victim.points)
        found[name] = victim.x.clone()
        where, x_adv = _news(search, attack, full, _streams(audit, name, tasks))
        found[name][met[where]] = x_adv
    return found


def _nearest(victim: Victim, searches: Sequence[Search]) -> Tensor:
    """Choose of each task the points with the least margin among those that every search missed: their indices.

    So the cost of chance does not grow with the number of queries: what it can find lies there, and a masked learner
    has more of them than a flag needs.
    """
    wrong, margin = (torch.stack([getattr(one, name) for one in searches]).amax(0) for name in ("wrong", "margin"))
    order = (margin.double().clamp(-1e6, 1e6) - 1e9 * wrong.double()).view(victim.tasks, -1)
    nearest = order.topk(min(SEARCHED, order.shape[1]), dim=1).indices
    return (nearest + order.shape[1] * torch.arange(victim.tasks, device=order.device)[:, None]).flatten()


def _some(victim: Victim, points: Tensor) -> Victim:
    """Show an attack some points alone, of each task as many; a point may come several times."""
    return replace(
        victim, forward=lambda x, some: victim.forward(x, points[some]), x=victim.x[points], y=victim.y[points]
    )


def _news(search: Search, attack: Member, threat: Threat, rng: Streams) -> tuple[Tensor, Tensor]:
    """Let `attack` begin again at the clean points that stand: which of them it fools, and with what."""
    before = search.wrong.clone()
    attack.extend(search, threat, rng)
    where = (search.wrong > before).nonzero().squeeze(1)
    return where, search.x_adv[where]


def _gradients(audit: Audit, victim: Victim, climbed: Victim, tasks: list[int]) -> tuple[dict[str, Tensor], Tensor]:
    """Say where the gradients of `climbed` are 0, [T,Q] by loss, and where ascents of `victim` begin: [P,M,*X].

    Ascents begin at the clean point. But power, like every even function, is stationary in silence, and so in any query
    of equal numbers gradients may be 0 through no masking. There they are asked for again, and begin, a little aside.
    """
    zero, same = _flat(climbed, victim.x), _constant(victim.x)
    stuck = torch.stack(list(zero.values())).any(dim=0) & same
    if audit.surface != "query" or not stuck.any():  # without noise the queries of rollouts are all zeros
        return {name: bits.view(len(tasks), -1) for name, bits in zero.items()}, victim.x
    near = Threat(audit.norm, ASIDE * audit.eps)
    aside = threats.random_start(victim.x, _streams(audit, "aside", tasks), near, victim.space)
    origins = torch.where(stuck.view(*stuck.shape, *[1] * len(victim.space.shape)), aside, victim.x)
    beside = _flat(climbed, origins)
    return {name: (bits & beside[name]).view(len(tasks), -1) for name, bits in zero.items()}, origins


def _constant(x: Tensor) -> Tensor:
    """Say which items of x [P,M,*X] hold one number many times: [P,M]."""
    rows = x.flatten(2)
    return (rows == rows[..., :1]).all(dim=-1) & (rows.shape[-1] > 1)


def _flat(victim: Victim, x: Tensor) -> dict[str, Tensor]:
    """Say where the gradients of margin and cross entropy by x [P,M,*X] are 0, or no numbers: [P,M] each."""
    x = x.detach().clone().requires_grad_()
    outputs = victim.forward(x, victim.points)
    each = {"margin": losses.margin, "cross entropy": losses.cross_entropy}
    found = {}
    for name, loss in each.items():
        gradient = None
        if outputs.requires_grad:
            total = loss(outputs, victim.y).sum()
            (gradient,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
        largest = x.new_zeros(x.shape[:2]) if gradient is None else gradient.flatten(2).abs().amax(-1)
        found[name] = ~(largest > 0)
    return found


def _differences(subject: Subject, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Score again, whole and query by query: the largest differences over the scores' range, [T] each."""
    x = subject.x
    span = (clean.amax((1, 2)) - clean.amin((1, 2))).clamp_min(torch.finfo(clean.dtype).tiny)
    again = torch.stack([subject.score(x, ALL) for _ in range(FORWARDS - 1)])
    repeat = (again - clean).abs().amax((0, 2, 3)) / span
    chosen = torch.linspace(0, x.shape[1] - 1, min(ALONE, x.shape[1])).round().long().unique().tolist()
    parts = [slice(query, query + 1) for query in chosen]
    single = torch.cat([subject.score(x[:, part], part) for part in parts], dim=1)
    alone = (single - clean[:, chosen]).abs().amax((1, 2)) / span
    if x.device.type != "cpu":
        repeat = torch.where(repeat > GPU_NOISE, repeat, 0.0)
    # Random scores say nothing about batch-mates.
    return repeat, torch.where(repeat > flags.ALONE, 0.0, alone)


def _probabilities(scores: Tensor) -> bool:
    """Say whether scores [n,W] are probabilities."""
    return bool(((scores >= 0) & (scores <= 1)).all() and ((scores.sum(-1) - 1).abs() < 1e-4).all())


def _streams(audit: Audit, run: str, tasks: Sequence[int]) -> Streams:
    return Streams([seed_of(f"{store.key(audit)}/{run}", task) for task in tasks])


def _bits(verdicts: Tensor) -> tuple[bool, ...]:
    return tuple(verdicts.tolist())


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Note every backward pass begun meanwhile: torch.autograd, Tensor.backward and torch.func share an engine."""
    engine, calls = Variable._execution_engine, []

    class Watching:
        def run_backward(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return engine.run_backward(*args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

    Variable._execution_engine = cast(Any, Watching())
    try:
        yield calls
    finally:
        Variable._execution_engine = engine
