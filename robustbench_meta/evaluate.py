"""One cell to records: sample, adapt, attack, and check what the attack claims on a path of its own.

T tasks, S support, Q queries, P points, M items in a point, N classes, X the shape of one input. Of rollouts a query
is the noise [H,*X] on what one of them observes in H steps; class 0, success, is all their label, the others are the
ways to fail. Of sequences a query has L labels, its tokens; class 0, all of them right, is what they are judged by.
Where no gradient passes the world, the adversary is greedy: it attacks one observation after another (arXiv
1702.02284), so that the policy does what it would do last (1712.03632).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from robustbench_meta import losses, poisoning, store, threats
from robustbench_meta.engine import Fitted, Learner, ObjectLearner, policy_victim, rollout_victim
from robustbench_meta.environments import SHARED, Adversary, Environment, Played, Pool, play, recorded
from robustbench_meta.episodes import drawn
from robustbench_meta.rollouts import Flight, noise_space, roll
from robustbench_meta.sequences import chrf, judged, text, token_accuracy
from robustbench_meta.types import (
    SEVERITIES,
    Attack,
    Cell,
    Cost,
    Episodes,
    InputError,
    Params,
    Record,
    Sentences,
    Simulator,
    Spec,
    Split,
    Streams,
    TaskFamily,
    Threat,
    Transducer,
    Victim,
)

AnyLearner = Learner | ObjectLearner
PICTURES = 6  # queries of task 0 kept to look at


class CellError(RuntimeError):
    """A cell cannot be measured: what the learner or the attack did wrong, in one line."""


@dataclass(frozen=True)
class Block:
    """What some tasks of a cell gave; `pictures` holds a few attacked queries where task 0 is among them.

    `examples` holds every attacked query, where they were asked for.
    """

    records: list[Record]
    pictures: dict[str, np.ndarray] | None
    examples: tuple[store.Examples, ...] = ()


@dataclass(frozen=True)
class _Scored:
    """Scores [T,Q,N] with labels [T,Q]; of rollouts how they went, all tasks together, of sequences tokens [T,Q,L]."""

    scores: Tensor
    y: Tensor
    flight: Flight | None = None
    written: Tensor | None = None
    played: Played | None = None  # where they went through an environment

    @property
    def correct(self) -> Tensor:
        return losses.correct(self.scores, self.y)


@dataclass(frozen=True)
class _Attacked:
    """One attack, re-scored: tasks, inputs, scores before and after, and the distance of each task [T]."""

    episodes: Episodes
    x_adv: Tensor  # [T,Q,*X]; where the support is attacked, what is within reach, or its labels
    clean: _Scored
    attacked: _Scored
    distance: Tensor
    cost: Cost
    worlds: Params
    words: tuple[tuple[str, ...], ...] = ()  # of sequences, how the tokens of each task are written


@dataclass(frozen=True)
class _Adapted:
    """Tasks and the learners adapted to them; `worlds` are those of rollouts, each [T,Q,...]."""

    episodes: Episodes
    fitted: Any
    worlds: Params = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes held, those of the episodes included, which step counts share."""
        parts = [*self.episodes.tensors.values(), *_tensors(self.fitted), *self.worlds.values()]
        return sum(part.nbytes for part in parts)


class Adaptations:
    """The learners adapted last, for cells that differ in attack or threat alone.

    One rollout serves every step count of `cells` at once. Adapted again or taken from here, records are the same.
    """

    def __init__(self, cells: Iterable[Cell] = (), limit: int = 2**29) -> None:
        self.limit, self.held = limit, 0  # in bytes
        self.kept: OrderedDict[tuple[Any, ...], _Adapted] = OrderedDict()
        self.steps: dict[tuple[Any, ...], set[int]] = {}
        for cell in cells:
            if cell.steps is not None:
                self.steps.setdefault(_tasks_of(cell), set()).add(cell.steps)

    def of(self, cell: Cell, learner: AnyLearner, family: TaskFamily, tasks: Sequence[int]) -> _Adapted:
        """Return what the cell's tasks need before they are attacked."""
        if not isinstance(learner, Learner):  # an object may keep what it likes in what it returns
            return _adapted(learner, *_sampled(cell, learner, family, tasks), [cell.steps])[0]
        wanted = (*_tasks_of(cell), *tasks)
        if (*wanted, cell.steps) not in self.kept:
            alike = self.steps.get(_tasks_of(cell), set())
            counts = [None] if cell.steps is None else sorted(alike | {cell.steps})
            made = dict(zip(counts, _adapted(learner, *_sampled(cell, learner, family, tasks), counts), strict=True))
            # What is asked for comes last, so that it is the last to be dropped.
            for count in sorted(made, key=lambda count: count == cell.steps):
                self._keep((*wanted, count), made[count])
        self.kept.move_to_end((*wanted, cell.steps))
        return self.kept[*wanted, cell.steps]

    def forget(self) -> None:
        """Drop everything, as after an attack that changed what it was given."""
        self.kept.clear()
        self.held = 0

    def _keep(self, name: tuple[Any, ...], found: _Adapted) -> None:
        before = self.kept.pop(name, None)
        self.held += found.size - (0 if before is None else before.size)
        self.kept[name] = found
        while self.held > self.limit and len(self.kept) > 1:
            self.held -= self.kept.popitem(last=False)[1].size


def run(
    cell: Cell,
    learner: AnyLearner,
    family: TaskFamily,
    attack: Attack,
    tasks: Sequence[int],
    *,
    adaptations: Adaptations | None = None,
    examples: bool = False,
) -> Block:
    """Measure the tasks numbered `tasks` of a cell; with `examples`, return every attacked query too.

    Every random number depends on (cell, task) alone, so records do not depend on how tasks are grouped.
    Raises CellError where scores or x_adv are not what they must be; whatever the attack raises passes through.
    """
    # Where the engine loops over tasks anyway, one at a time costs nothing and needs the least memory.
    together = learner.backend != "loop"
    adaptations = adaptations or Adaptations()
    groups = [list(tasks)] if together else [[task] for task in tasks]
    records: list[Record] = []
    pictures, kept = None, []
    for group in groups:
        try:
            found = _attack(cell, learner, family, attack, group, adaptations)
        except BaseException:
            adaptations.forget()
            raise
        records += _records(found, group, cell.threat)
        if group[0] == 0 and _to_look_at(cell, attack):
            pictures = _pictures(found, cell.threat, family)
        if examples:
            kept += _examples(found, group)
    return Block(records, pictures, tuple(kept))


def _to_look_at(cell: Cell, attack: Attack) -> bool:
    """Say whether queries of a cell are kept to look at; of corruptions those of the highest severity."""
    if cell.threat.norm == "corruption":
        return cell.threat.eps == SEVERITIES[-1]
    return cell.threat.surface != "support" and (attack.needs_gradient or cell.threat.norm == "words")


def check_learner(learner: AnyLearner, family: TaskFamily, split: Split, spec: Spec, steps: int | None) -> None:
    """Adapt to one task and predict, so that data or scores that do not fit are refused before any attack."""
    if learner.space.shape != family.space.shape:
        raise InputError(f"family: inputs of shape {family.space.shape}; the learner takes {learner.space.shape}")
    if learner.space.labels != family.space.labels:
        raise InputError(f"family: {family.space.labels} labels an input; the learner gives {learner.space.labels}")
    episodes = drawn(family, split, spec, [0]).to(learner.device, learner.dtype)
    with own_randomness(0), grad_mode(learner):
        fitted = learner.adapt(episodes.support_x, episodes.support_y, steps=steps)
        try:
            scores_of(learner, fitted, episodes.query_x, spec.ways)
        except CellError as error:
            raise InputError(f"learner: {error}") from None


def _tasks_of(cell: Cell) -> tuple[Any, ...]:
    rolled = cell.threat.surface == "rollout"
    return (cell.weights, cell.norm_mode, cell.family, cell.episodes, cell.split, cell.spec, cell.seed, rolled)


def _sampled(cell: Cell, learner: AnyLearner, family: TaskFamily, tasks: Sequence[int]) -> tuple[Episodes, Params]:
    """Draw tasks; for rollouts put zeros, no noise, in place of their queries, and draw the worlds, too."""
    try:
        episodes = drawn(family, cell.split, cell.spec, tasks, seed=cell.seed).to(learner.device, learner.dtype)
        if cell.threat.surface != "rollout":
            return episodes, {}
        worlds = _acting(family).trials(cell.split, cell.spec, tasks, seed=cell.seed)
    except InputError as error:
        raise CellError(str(error)) from None
    noise = episodes.query_x.new_zeros(*episodes.query_y.shape, *noise_space(_acting(family)).shape)
    episodes = replace(episodes, query_x=noise, query_y=torch.zeros_like(episodes.query_y))
    return episodes, {name: value.to(learner.device, learner.dtype) for name, value in worlds.items()}


def _simulator(family: TaskFamily) -> Simulator:
    return cast(Simulator, family)


def _acting(family: TaskFamily) -> Simulator | Environment:
    return cast(Simulator | Environment, family)


def _adapted(learner: AnyLearner, episodes: Episodes, worlds: Params, counts: Sequence[int | None]) -> list[_Adapted]:
    """Adapt to the tasks with every number of steps in `counts`."""
    with grad_mode(learner), full_precision():
        if isinstance(learner, Learner):
            fits: list[Any] = learner.rollout(episodes.support_x, episodes.support_y, [count or 0 for count in counts])
        else:
            fits = [learner.adapt(episodes.support_x, episodes.support_y, steps=count) for count in counts]
        return [_Adapted(episodes, fitted, worlds) for fitted in fits]


def _attack(
    cell: Cell,
    learner: AnyLearner,
    family: TaskFamily,
    attack: Attack,
    tasks: Sequence[int],
    adaptations: Adaptations,
) -> _Attacked:
    rng = Streams([seed_of(_stream(cell), task) for task in tasks])
    # What a user's object draws itself must not differ between attacks, or clean accuracy would.
    with own_randomness(seed_of(f"learner {cell.seed}", tasks[0])):
        adapted = adaptations.of(cell, learner, family, tasks)
        episodes, fitted = adapted.episodes, adapted.fitted
        # Scored for each cell, so that a step count that diverges fails its own cells alone.
        clean = _scored(cell, learner, family, adapted, episodes.query_x)
        # Kept or made afresh, learners must leave an attack the same random numbers.
        torch.manual_seed(seed_of(f"attack {store.key(cell)}", tasks[0]))
        weights = [tensor.detach().clone() for tensor in _weights(learner, fitted)]
        found = _crafted(cell, learner, family, attack, adapted, rng)
        if not all(map(torch.equal, weights, (tensor.detach() for tensor in _weights(learner, fitted)))):
            raise CellError("the attack changed the learner's weights")
        x_adv = found.x_adv if cell.threat.surface == "support" else found.x_adv.view(episodes.query_x.shape)
        attacked = _rescored(cell, learner, family, adapted, x_adv)
        if found.played is not None and attacked.played is not None and not _alike(found.played, attacked.played):
            raise CellError("a replay is not what the adversary met: the environment does not depend on its seed alone")
    far = found.moved.view(len(tasks), -1).amax(1)
    words = _words(cell, family, tasks)
    return _Attacked(episodes, x_adv, clean, attacked, far, found.cost, adapted.worlds, words)


@dataclass(frozen=True)
class _Crafted:
    """What an attack found, inside budget and box: x_adv [P,M,*X], by how much each item was moved, and at what cost.

    Of rollouts through an environment also how they went.
    """

    x_adv: Tensor
    moved: Tensor
    cost: Cost
    played: Played | None = None


def _crafted(
    cell: Cell, learner: AnyLearner, family: TaskFamily, attack: Attack, adapted: _Adapted, rng: Streams
) -> _Crafted:
    episodes, fitted = adapted.episodes, adapted.fitted
    if cell.threat.surface == "support":
        victim = learner.support_victim(episodes, cell.threat, steps=cell.steps)
    elif cell.threat.surface != "rollout":
        victim = learner.query_victim(fitted, episodes.query_x, episodes.query_y)
    elif isinstance(family, Environment):
        return _greedy(cell, learner, family, attack, adapted, rng)
    else:
        victim = rollout_victim(learner, fitted, _simulator(family), adapted.worlds)
    x_adv = _attacked_by(attack, victim, cell.threat, rng)
    return _Crafted(x_adv, threats.distance(x_adv - victim.x, cell.threat.norm, len(victim.space.shape)), victim.cost)


def _attacked_by(attack: Attack, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
    """Run an attack, and return x_adv [P,M,*X] if it is what the threat allows and the victim was left as it was."""
    x, y = victim.x.clone(), victim.y.clone()
    with torch.enable_grad(), full_precision():
        x_adv = _checked(attack(victim, threat, rng), x, threat, victim)
    if not (torch.equal(victim.x, x) and torch.equal(victim.y, y)):
        raise CellError("the attack changed the inputs or labels it was given")
    return x_adv


def _greedy(
    cell: Cell, learner: AnyLearner, family: Environment, attack: Attack, adapted: _Adapted, rng: Streams
) -> _Crafted:
    """Roll out the policies of T tasks while each observation is attacked as it comes.

    Budget and box are checked in every step. The noise that was added is what counts: by it the policy acts.
    """
    shape, ways = adapted.episodes.query_y.shape, cell.spec.ways
    cost = Cost(*(torch.zeros(shape[0], dtype=torch.int64, device=learner.device) for _ in range(2)))

    def adversary(observed: Tensor) -> Tensor:
        x = observed.unflatten(0, shape)
        victim = policy_victim(learner, adapted.fitted, x, scores_of(learner, adapted.fitted, x, ways), cost)
        return (_attacked_by(attack, victim, cell.threat, rng) - victim.x).view(observed.shape)

    with grad_mode(learner), full_precision():
        played = act(learner, adapted.fitted, family, adapted.worlds, adversary, ways=ways, pool=SHARED)
    moved = threats.distance(played.noise, cell.threat.norm, played.noise.dim() - 1)
    if moved.max() > cell.threat.eps * (1 + threats.RELATIVE_SLACK) + threats.ABSOLUTE_SLACK:
        raise CellError(
            f"the noise of a rollout left its budget: distance {moved.max():.6g}, eps {cell.threat.eps:.6g}"
        )
    return _Crafted(played.noise, moved, cost, played)


def _alike(one: Played, other: Played) -> bool:
    pairs = [(one.actions, other.actions), (one.noise, other.noise)]
    pairs += [(getattr(one.flight, part), getattr(other.flight, part)) for part in ("states", "scores", "returns")]
    return all(a.equal(b) for a, b in pairs)


def _stream(cell: Cell) -> str:
    """Name what an attack draws by: its cell; but all learners meet the same corrupted queries, as in a data set."""
    if cell.threat.norm == "corruption":
        cell = replace(cell, weights="", algorithm="", defense="", norm_mode="", steps=None)
    return store.key(cell)


def _checked(x_adv: Any, x: Tensor, threat: Threat, victim: Victim) -> Tensor:
    """Return x_adv [P,M,*X] if it is what the threat allows."""
    if not isinstance(x_adv, Tensor):
        raise CellError(f"the attack returned {type(x_adv).__name__}, not a tensor")
    x_adv = x_adv.detach()
    if x_adv.shape != x.shape or x_adv.dtype != x.dtype:
        raise CellError(f"the attack returned {tuple(x_adv.shape)} {x_adv.dtype}, not {tuple(x.shape)} {x.dtype}")
    if not x_adv.isfinite().all():
        raise CellError("the attack returned NaN or infinite inputs")
    if not threats.within(x_adv, x, threat, victim.space):
        far = threats.distance(x_adv - x, threat.norm, len(victim.space.shape)).max()
        raise CellError(
            f"the attack left its budget or the box: {threat.norm} distance {far:.6g}, eps {threat.eps:.6g},"
            f" inputs in [{x_adv.min():.6g}, {x_adv.max():.6g}]"
        )
    if threat.eps == 0 and not torch.equal(x_adv, x):
        raise CellError("the attack moved inputs at eps 0")
    return x_adv


def _rescored(cell: Cell, learner: AnyLearner, family: TaskFamily, adapted: _Adapted, x_adv: Tensor) -> _Scored:
    """Score what the attack found through `adapt` and `predict`, not through the victim it saw."""
    episodes = adapted.episodes
    if cell.threat.surface != "support":
        with closing(Pool()) as own:  # environments that nobody has been in
            return _scored(cell, learner, family, adapted, x_adv, pool=own)
    with grad_mode(learner), full_precision():
        items = poisoning.reached(episodes, cell.threat.fraction, cell.spec.ways)
        support = poisoning.poisoned((episodes.support_x, episodes.support_y), x_adv, items, cell.threat)
        poisoned = learner.adapt(*support, steps=cell.steps)
    return _scored(cell, learner, family, replace(adapted, fitted=poisoned), episodes.query_x)


def _scored(
    cell: Cell, learner: AnyLearner, family: TaskFamily, adapted: _Adapted, x: Tensor, *, pool: Pool = SHARED
) -> _Scored:
    """Score queries x [T,Q,*X] by `predict`, or replay the rollouts that observe the noise x [T,Q,H,*X]."""
    with grad_mode(learner), full_precision():
        if cell.threat.surface != "rollout":
            scores, y = scores_of(learner, adapted.fitted, x, cell.spec.ways), adapted.episodes.query_y
            if (labels := learner.space.labels) == 1:
                return _Scored(scores, y)
            return _Scored(*judged(scores, y, labels), written=scores.argmax(-1).unflatten(1, (-1, labels)))
        played = None
        if isinstance(family, Environment):
            noise = recorded(x.flatten(0, 1))
            played = act(learner, adapted.fitted, family, adapted.worlds, noise, ways=cell.spec.ways, pool=pool)
            flight = played.flight
        else:
            flight = replay(learner, adapted.fitted, _simulator(family), adapted.worlds, x, ways=cell.spec.ways)
    if not (flight.scores.isfinite().all() and flight.returns.isfinite().all()):
        raise CellError("a rollout's margin or return is NaN or infinite")
    return _Scored(flight.scores.unflatten(0, x.shape[:2]), adapted.episodes.query_y, flight, played=played)


def replay(
    learner: AnyLearner, fitted: Any, simulator: Simulator, worlds: Params, noise: Tensor, *, ways: int
) -> Flight:
    """Roll out the policies of T tasks by `predict`, not through a victim: worlds [T,R,...], noise [T,R,H,*X]."""
    shape = noise.shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in worlds.items()}

    def policy(seen: Tensor) -> Tensor:
        return scores_of(learner, fitted, seen.unflatten(0, shape), ways).flatten(0, 1)

    return roll(simulator, policy, flat, noise.flatten(0, 1))


def act(
    learner: AnyLearner,
    fitted: Any,
    environment: Environment,
    worlds: Params,
    adversary: Adversary,
    *,
    ways: int,
    pool: Pool,
) -> Played:
    """Let the policies of T tasks act by `predict` in an environment: worlds [T,R,...]; the adversary sees [T*R,*X]."""
    shape = next(iter(worlds.values())).shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in worlds.items()}

    def policy(seen: Tensor) -> Tensor:
        return scores_of(learner, fitted, seen.unflatten(0, shape), ways).flatten(0, 1)

    return play(environment, flat, policy, adversary, ways=ways, pool=pool)


def scores_of(learner: AnyLearner, fitted: Any, x: Tensor, ways: int) -> Tensor:
    """Predict x [T,Q,*X] and refuse scores that are not finite numbers of shape [T,Q,N], or [T,Q*L,N] of sequences."""
    scores: Tensor = learner.predict(fitted, x).detach()
    shape = (len(x), x.shape[1] * learner.space.labels, ways)
    if scores.shape != shape:
        what = "queries" if learner.space.labels == 1 else "tokens"
        raise CellError(f"scores of shape {tuple(scores.shape)}, not {shape} (tasks, {what}, ways)")
    if not scores.isfinite().all():
        raise CellError("scores are NaN or infinite")
    return scores


def _records(found: _Attacked, tasks: Sequence[int], threat: Threat) -> list[Record]:
    both = (found.clean, found.attacked)
    clean, survived = (one.correct for one in both)
    if threat.norm != "corruption":  # whose accuracy counts what is right by chance too, as clean accuracy does
        survived &= clean
    columns = [clean, survived, found.distance, found.cost.forwards, found.cost.backwards]
    columns += [one.flight.returns.view(clean.shape).mean(1) for one in both if one.flight]
    rows = zip(tasks, *(column.tolist() for column in columns), strict=True)
    records = [Record(task, tuple(before), tuple(after), *rest) for task, before, after, *rest in rows]
    return [replace(record, **_likeness(found, row)) for row, record in enumerate(records)] if found.words else records


def _likeness(found: _Attacked, row: int) -> dict[str, Any]:
    """Say how near what was written comes to the targets of one task: the means of its queries."""
    made: dict[str, Any] = {}
    targets = _targets(found)[row]
    for name, one in (("clean", found.clean), ("attacked", found.attacked)):
        written = cast(Tensor, one.written)[row]
        made[f"{name}_tokens"] = token_accuracy(written, targets).mean().item()
        pairs = [[text(line, found.words[row]) for line in part.tolist()] for part in (written, targets)]
        made[f"{name}_chrf"] = float(np.mean([chrf(*pair) for pair in zip(*pairs, strict=True)]))
    return made


def _targets(found: _Attacked) -> Tensor:
    """Return the tokens of all targets: [T,Q,L]."""
    return found.episodes.query_y.view(cast(Tensor, found.clean.written).shape)


def _words(cell: Cell, family: TaskFamily, tasks: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """Return how the tokens of each task are written, where its learners write: by number where nothing says how."""
    if family.space.labels == 1:
        return ()
    if not isinstance(family, Transducer):
        return (("", *map(str, range(1, cell.spec.ways))),) * len(tasks)
    return tuple(family.written(cell.split, cell.spec, task, seed=cell.seed) for task in tasks)


def _examples(found: _Attacked, tasks: Sequence[int]) -> list[store.Examples]:
    x_adv, y, x = (part.cpu().numpy() for part in (found.x_adv, found.episodes.query_y, found.episodes.query_x))
    return [store.Examples(task, x_adv[i], y[i], store.query_digests(x[i])) for i, task in enumerate(tasks)]


def _pictures(found: _Attacked, threat: Threat, family: TaskFamily) -> dict[str, np.ndarray] | None:
    """Keep queries of the first task, clean-correct ones first, with labels and predictions.

    They are images, sounds or sentences; of rollouts the ways are kept, and what they led past.
    """
    x, y, space = found.episodes.query_x[0], found.clean.y[0], family.space
    clean, attacked, rate = found.clean.scores[0], found.attacked.scores[0], getattr(family, "rate", None)
    images, told = x.dim() == 4, threat.norm == "words"
    if not (images or told or rate or found.clean.flight):
        return None
    right = losses.correct(clean, y)
    # Spread over the classes, whose queries lie one class after another.
    spread = torch.linspace(0, len(y) - 1, min(PICTURES, len(y))).round().long().to(y.device)
    first = torch.cat([spread[right[spread]], right.nonzero().flatten(), spread, (~right).nonzero().flatten()])
    if told:  # most sentences stand, and what fools is what is to be read
        first = torch.cat([(right & ~losses.correct(attacked, y)).nonzero().flatten(), first])
    chosen = list(dict.fromkeys(first.tolist()))[:PICTURES]
    pictures = {
        "clean": x[chosen],
        "adversarial": found.x_adv[0, chosen],
        "labels": y[chosen],
        "clean_predictions": clean[chosen].argmax(-1),
        "adversarial_predictions": attacked[chosen].argmax(-1),
    }
    if found.clean.flight and found.attacked.flight:
        scenes = _scenes(family, found.worlds, (found.clean.flight, found.attacked.flight), chosen)
        if scenes is None:
            return None
        pictures |= scenes
    made = {name: value.cpu().numpy() for name, value in pictures.items()}
    if found.episodes.classes:
        made[store.CLASSES] = np.array(found.episodes.classes[0], dtype=np.str_)
    if isinstance(space, Sentences):
        texts = {name: np.array(space.text(pictures[name]), dtype=np.str_) for name in store.IMAGES}
        return made | texts | (_renderings(found, chosen) if found.words else {})
    return made | ({} if rate is None else {store.RATE: np.full(len(chosen), rate)})


def _renderings(found: _Attacked, chosen: list[int]) -> dict[str, np.ndarray]:
    """Return what some queries of the first task should have become and what they became, as texts."""
    parts = (_targets(found), cast(Tensor, found.clean.written), cast(Tensor, found.attacked.written))
    lines = ([text(part[0, query].tolist(), found.words[0]) for query in chosen] for part in parts)
    return {name: np.array(line, dtype=np.str_) for name, line in zip(store.WRITTEN, lines, strict=True)}


def _scenes(family: TaskFamily, worlds: Params, flights: tuple[Flight, Flight], chosen: list[int]) -> Params | None:
    """Return what is drawn of some rollouts of the first task, clean and attacked; None if there is nothing."""
    world = {name: value[0, chosen] for name, value in worlds.items()}
    clean, attacked = (_acting(family).scene(world, flight.states[chosen]) for flight in flights)
    if clean is None or attacked is None:
        return None
    bodies = torch.stack([clean.body, attacked.body], dim=1)
    ways = {"clean": clean.path, "adversarial": attacked.path}
    return ways | {"goal": clean.goal, "obstacles": clean.obstacles, "bodies": bodies}


def _weights(learner: AnyLearner, fitted: Any) -> list[Tensor]:
    if isinstance(learner, Learner):
        return [*learner.params.values(), *learner.running.values(), *_tensors(fitted)]
    return _tensors([learner.subject, fitted])


def _tensors(value: Any) -> list[Tensor]:
    """Find the tensors in what `adapt` returned, as far as it is made of tensors, modules and containers."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, torch.nn.Module):  # buffers may change in every forward, as batch norm's do
        return list(value.parameters())
    if isinstance(value, Fitted):
        return _tensors([value.state, value.extra, value.norm])
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, (list, tuple)) else []


def seed_of(stream: str, task: int) -> int:
    digest = hashlib.sha256(f"{stream}/{task}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch's and numpy's global generators, and put them back afterwards."""
    before = np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep convolutions in float32 where a GPU would round them to TF32, so that verdicts found by a hair hold."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def grad_mode(learner: AnyLearner) -> torch.set_grad_enabled:
    # A user's object may train in `adapt`; our own algorithms take their gradients by torch.func.
    return torch.set_grad_enabled(isinstance(learner, ObjectLearner))
