"""From a recipe to a checkpoint: sample tasks, adapt, attack, average the tasks' gradients, update.

A run is a function of its recipe: episodes and attacks are seeded by the step, so that a run that was
killed goes on to the weights it would have had.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from robustbench_meta import catalog, curve, threats, untrusted
from robustbench_meta.batches import AUGMENTATIONS, classes_of, generator, seed, tasks_of
from robustbench_meta.checkpoint import (
    CARD,
    CURVE,
    HIGHEST_CLEAN,
    RUNNING,
    SCHEMA,
    Card,
    Recipe,
    Validation,
    pack,
    read_card,
    save,
    split,
    write,
)
from robustbench_meta.descent import Apart, descend, rates
from robustbench_meta.engine import Fitted, Learner, craft, start_params
from robustbench_meta.episodes import drawn, fingerprint
from robustbench_meta.losses import correct
from robustbench_meta.sequences import judged
from robustbench_meta.types import (
    Algorithm,
    Defense,
    Episodes,
    InputError,
    Params,
    Pretrained,
    Spec,
    Streams,
    TaskFamily,
    Threat,
)

RESUME = "resume.safetensors"
SAVE_EVERY = 30.0  # seconds between resumable states
BASE = "base."  # prefix of the parameters that serve training alone
LAST = "-last"  # ends the name of the folder, inside a checkpoint's, that holds the weights of the last step
MOMENTUM = 0.1  # of running statistics, as torch.nn.BatchNorm2d's


@dataclass(frozen=True)
class Progress:
    """Where a run stands: what a progress bar shows."""

    step: int
    steps: int
    loss: float
    validation: Validation | None
    seconds: float  # of training so far, over all sittings
    eta: float  # seconds left at the pace of this sitting


@dataclass
class _Run:
    """All that changes while training; `save` and `resume` carry it over a kill."""

    params: Params  # leaves that the optimiser moves
    running: Params
    optimizers: dict[
        str, torch.optim.Adam
    ]  # of the whole loss under "", of terms with one of their own under their names
    average: Params
    best: Params = field(default_factory=dict)
    best_step: int = -1
    best_value: float = -1.0
    step: int = 0
    chunk: int = 0  # tasks that go backward together; 0 before the first step of a sitting
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)  # since the last validation
    history: list[Validation] = field(default_factory=list)


def train(
    recipe: Recipe,
    out: Path,
    *,
    root: Path | None = None,
    device: str = "cpu",
    progress: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Meta-train by `recipe` into the folder `out`, going on where an earlier run was stopped.

    Raise InputError where the recipe cannot be run, or where `out` holds another recipe's checkpoint. A
    finished checkpoint of the same recipe is left as it is. A kill loses at most `SAVE_EVERY` seconds, and a stop by an
    exception from `progress`, which is called after every update and validation, loses nothing.
    """
    defense, learner, family, threat = _prepare(recipe, root, device)
    if (out / CARD).exists() or (out / RESUME).exists():
        _same_recipe(recipe, out)
    if (out / CARD).exists():
        return out
    episodes_sha256 = {part: fingerprint(family, part) for part in ("train", "val")}
    _rehearse(recipe, learner, defense, family, threat)
    run = _start(recipe, learner, defense)
    if (out / RESUME).exists():
        _resume(run, out / RESUME)
    out.mkdir(parents=True, exist_ok=True)
    started = saved = time.monotonic()
    first, before = run.step, run.seconds
    while not (stopped := _collapse(run, recipe, defense)) and (run.step < recipe.steps or _due(run, recipe)):
        if _due(run, recipe):
            # Saved first, since a validation may take longer than a kill may lose.
            _save_run(run, recipe, out / RESUME)
            _validate(run, recipe, learner, defense, family, threat)
        else:
            _meta_step(run, recipe, learner, defense, family, threat)
        now = time.monotonic()
        run.seconds = before + now - started
        pace = (now - started) / max(run.step - first, 1)
        last = run.history[-1] if run.history else None
        loss = run.losses[-1] if run.losses else math.nan if last is None else last.loss
        try:
            progress(Progress(run.step, recipe.steps, loss, last, run.seconds, pace * (recipe.steps - run.step)))
        except BaseException:
            _save_run(run, recipe, out / RESUME)
            raise
        if now - saved > SAVE_EVERY:
            _save_run(run, recipe, out / RESUME)
            saved = now
    _finish(run, recipe, defense, out, episodes_sha256, device, stopped)
    return out


def first_update(recipe: Recipe, watched: Callable[[Learner], Learner], *, root: Path | None = None) -> None:
    """Take the gradient of the first meta-update with what `watched` makes of its learner, and keep nothing."""
    defense, learner, family, threat = _prepare(recipe, root, "cpu")
    run = _start(recipe, learner, defense)
    learner, episodes, seeds = _batch(recipe, replace(watched(learner), params=run.params), family, 0)
    run.chunk = 1
    _accumulate(run, recipe, learner, defense, episodes, threat, seeds)


def _prepare(recipe: Recipe, root: Path | None, device: str) -> tuple[Defense, Learner, TaskFamily, Threat]:
    if recipe.origin is not None:
        raise InputError(f"origin: {recipe.origin!r} marks what was trained elsewhere; legal to train: none")
    algorithm = catalog.algorithm(recipe.algorithm, **recipe.algorithm_options)
    defense = catalog.defense(recipe.defense, craft=recipe.craft, **recipe.defense_options)
    network = catalog.network(recipe.network, **recipe.network_options)
    family = catalog.family_of(recipe, root)
    for name in recipe.augment:
        if name not in AUGMENTATIONS:
            raise InputError(f"augment: {name!r} is not one of {', '.join(AUGMENTATIONS)}")
        if len(family.space.shape) != 3:
            raise InputError(f"augment: {name!r} is of images; legal for {recipe.family}: none")
    validating = catalog.attack(recipe.validate_attack)
    if getattr(defense, "guard", 0.0) and not (validating.needs_gradient and getattr(validating, "steps", 2) > 1):
        raise InputError(
            f"validate_attack: {recipe.validate_attack!r} does not show what {recipe.defense} guards against; legal:"
            " an attack of several gradient steps, as pgd-10"
        )
    _check_meta_gradient(recipe, algorithm, defense)
    threat = threats.check(Threat(recipe.norm, recipe.eps), family.space)
    if defense.craft is not None and recipe.eps == 0:
        raise InputError(f"eps: 0 leaves the defense {recipe.defense!r} nothing to train against")
    params = start_params(algorithm, network, family.space, recipe.ways, generator(recipe, "weights"))
    if isinstance(algorithm, Pretrained):
        _check_pretrained(recipe, defense, family)
        width, classes = network.features(family.space.shape), len(family.classes("train"))
        params |= algorithm.base.parameters(params, width, classes, generator(recipe, "base"))
    if recipe.train_ways not in (None, recipe.ways):
        wider = start_params(algorithm, network, family.space, recipe.ways + 1, torch.Generator())
        if any(value.shape != params[name].shape for name, value in wider.items()):
            raise InputError(
                f"train_ways: {recipe.train_ways} does not fit {recipe.algorithm}'s {recipe.ways}-way head"
            )
    learner = Learner(
        algorithm,
        network,
        {name: value.to(device) for name, value in params.items()},
        family.space,
        recipe.ways,
        # Running statistics are gathered while each batch is normalised by its own, as batch norm always did.
        norm_mode="batch" if recipe.norm_mode == "running" else recipe.norm_mode,
        backend=catalog.default_backend(device),
        meta_gradient=recipe.meta_gradient or algorithm.meta_gradient,
    )
    return defense, learner, family, threat


def _check_meta_gradient(recipe: Recipe, algorithm: Algorithm, defense: Defense) -> None:
    """Refuse a meta-gradient that the algorithm has not, or that the defense's loss is not for."""
    named = {"first-order": "is first order by name", "displacement": "is displaced by name"}
    if recipe.meta_gradient not in (None, algorithm.meta_gradient):
        why = f"{named[algorithm.meta_gradient]}; maml has the choice" if algorithm.meta_gradient in named else ""
        why = "adapts without inner steps" if algorithm.steps is None else why
        if why:
            raise InputError(f"meta_gradient: {recipe.meta_gradient!r} does not fit: {recipe.algorithm} {why}")
    if (recipe.meta_gradient or algorithm.meta_gradient) == "displacement" and "query" in defense.surfaces:
        raise InputError(
            f"defense: {recipe.defense!r} attacks the query loss, which a displacement ({recipe.algorithm}) has not;"
            " legal: what attacks the support alone, as support does, or nothing"
        )


def _check_pretrained(recipe: Recipe, defense: Defense, family: TaskFamily) -> None:
    """Refuse what training on batches of all classes has no use for."""
    if "support" in defense.surfaces:
        raise InputError(
            f"defense: {recipe.defense!r} attacks the support, and {recipe.algorithm} trains without one; legal:"
            " what attacks queries alone, as aq and trades do, or nothing"
        )
    if recipe.train_ways is not None:
        raise InputError(
            f"train_ways: {recipe.train_ways} has no meaning where {recipe.algorithm} trains on all classes"
        )
    if not hasattr(family, "pool"):
        raise InputError(
            f"family: {recipe.family} gives tasks alone; {recipe.algorithm} trains on images by class, pool(split)"
        )


def _rehearse(recipe: Recipe, learner: Learner, defense: Defense, family: TaskFamily, threat: Threat) -> None:
    """Try one task of training and one of validation, so that what cannot run is refused before anything is kept."""
    if not isinstance(learner.algorithm, Pretrained):
        wide = Spec(recipe.train_ways or recipe.ways, recipe.shots, recipe.queries)
        drawn(family, "train", wide, [0], seed=recipe.seed)
    trained, episodes, _ = _batch(recipe, learner, family, 0)
    params = {name: value.clone().requires_grad_() for name, value in learner.params.items()}
    descend(replace(trained, params=params), defense, _tasks(episodes, slice(1)), threat, Streams([0]), among=1)
    if idle := sorted(name for name, value in params.items() if value.grad is None):
        raise InputError(f"meta_gradient: {learner.meta_gradient!r} never moves {idle[0]} of {recipe.algorithm}")
    spec = Spec(recipe.ways, recipe.shots, recipe.queries)
    if recipe.train_tasks:
        drawn(family, "train", spec, [0], seed=recipe.seed)
    task = drawn(family, "val", spec, [0]).to(learner.device, learner.dtype)
    if recipe.norm_mode == "running":
        learner = replace(learner, norm_mode="support")
    fitted = learner.adapt(task.support_x, task.support_y)
    _survival(learner, fitted, task, recipe.validate_attack, threat, Streams([0]))


def _due(run: _Run, recipe: Recipe) -> bool:
    seen = run.history[-1].step if run.history else 0
    return run.step > seen and (run.step % recipe.validate_every == 0 or run.step == recipe.steps)


def _start(recipe: Recipe, learner: Learner, defense: Defense) -> _Run:
    params = {name: value.clone().requires_grad_() for name, value in learner.params.items()}
    optimizers = {"": torch.optim.Adam(params.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)}
    for term, share in rates(defense).items():
        optimizers[term] = torch.optim.Adam(params.values(), lr=share * recipe.learning_rate)
    return _Run(params, {}, optimizers, {name: value.clone() for name, value in learner.params.items()})


def _meta_step(
    run: _Run, recipe: Recipe, learner: Learner, defense: Defense, family: TaskFamily, threat: Threat
) -> None:
    """Make one meta-update; its loss, averaged over the tasks, joins `run.losses`."""
    learner, episodes, seeds = _batch(recipe, replace(learner, params=run.params), family, run.step)
    if not run.chunk:
        # A loop goes backward task by task, so that only one task's graph is ever alive.
        run.chunk = 1 if learner.backend == "loop" else episodes.tasks
    run.optimizers[""].zero_grad()
    try:
        total, apart, statistics = _accumulate(run, recipe, learner, defense, episodes, threat, seeds)
    except torch.OutOfMemoryError:
        if run.chunk == 1:
            raise
        run.chunk = (run.chunk + 1) // 2
        return
    if not math.isfinite(total):
        raise InputError(f"loss: {total} at step {run.step}; lower learning_rate ({recipe.learning_rate:g})")
    if recipe.norm_mode == "running":
        _follow(run.running, statistics)
    _step(run, recipe, rates(defense), apart)
    run.step += 1
    # The average forgets its start faster in the first steps (as in Polyak averaging with a warm-up).
    decay = min(recipe.average, (1 + run.step) / (10 + run.step))
    for name, value in run.params.items():
        run.average[name].lerp_(value.detach(), 1 - decay)
    run.losses.append(total)


def _batch(recipe: Recipe, learner: Learner, family: TaskFamily, step: int) -> tuple[Learner, Episodes, list[int]]:
    """Return what update number `step` is made of: who is trained, on which tasks, with which seeds of attacks."""
    if isinstance(learner.algorithm, Pretrained):
        classes = len(family.classes("train"))
        # A batch of all classes has no support to normalise by.
        learner = replace(learner, algorithm=learner.algorithm.base, ways=classes, norm_mode="batch")
        episodes, seeds = classes_of(recipe, family, step)
    else:
        learner = replace(learner, ways=recipe.train_ways or recipe.ways)
        episodes, seeds = tasks_of(recipe, family, step)
    return learner, episodes.to(learner.device, learner.dtype), seeds


def _accumulate(
    run: _Run, recipe: Recipe, learner: Learner, defense: Defense, episodes: Episodes, threat: Threat, seeds: list[int]
) -> tuple[float, Apart, list[Params]]:
    """Add up the gradient of the mean loss over the tasks, chunk by chunk; return what is not in the parameters."""
    total, statistics = 0.0, []
    apart: Apart = {}
    for at in range(0, episodes.tasks, run.chunk):
        part = _tasks(episodes, slice(at, at + run.chunk))
        rng = Streams(seeds[at : at + run.chunk])
        loss, found = descend(learner, defense, part, threat, rng, among=episodes.tasks)
        total += loss
        for term, gradient in found.items():
            known = apart.setdefault(term, {})
            known.update({name: known[name] + value if name in known else value for name, value in gradient.items()})
        if recipe.norm_mode == "running":
            statistics.append(_statistics(learner, part))
    return total, apart, statistics


def _step(run: _Run, recipe: Recipe, shares: dict[str, float], apart: Apart) -> None:
    """Let every optimiser follow its own gradient, clipped, all taken at the same parameters."""
    annealed = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * run.step / recipe.steps))
    for term, optimizer in run.optimizers.items():
        if term:
            for name, value in run.params.items():
                value.grad = apart[term].get(name)
        for group in optimizer.param_groups:
            group["lr"] = annealed * shares.get(term, 1.0)
        size = torch.nn.utils.clip_grad_norm_(run.params.values(), recipe.clip)
        if not size.isfinite():
            raise InputError(f"gradient: not finite at step {run.step}; lower learning_rate ({recipe.learning_rate:g})")
        optimizer.step()


@torch.no_grad()
def _statistics(learner: Learner, episodes: Episodes) -> Params:
    """Return the statistics of every task's support, or of its queries where it has none: each [T,C]."""
    x, y = episodes.support_x, episodes.support_y
    if not x.shape[1]:
        x, y = episodes.query_x, episodes.query_y
    return replace(learner, norm_mode="support").adapt(x, y).norm


def _follow(running: Params, statistics: list[Params]) -> None:
    """Move the running statistics towards the mean over all tasks, however these were cut into chunks."""
    for name in statistics[0]:
        now = torch.cat([one[name] for one in statistics]).mean(dim=0)
        running[name] = torch.lerp(running[name], now, MOMENTUM) if name in running else now


def _validate(
    run: _Run, recipe: Recipe, learner: Learner, defense: Defense, family: TaskFamily, threat: Threat
) -> None:
    """Measure accuracy on the validation tasks and keep the weights if they are the best so far."""
    params = _trained(run, recipe)
    learner = replace(
        learner, params=params, norm_mode=recipe.norm_mode, running=dict(run.running), meta_gradient="exact"
    )
    clean, robust = _means(validation(recipe, learner, family, threat))
    seen = Validation(
        step=run.step,
        loss=sum(run.losses) / max(len(run.losses), 1),
        clean=clean,
        robust=robust,
        seconds=round(run.seconds, 1),
    )
    if recipe.train_tasks:
        clean, robust = _means(_on_tasks(recipe, learner, family, threat, "train", recipe.train_tasks))
        seen = seen.model_copy(update={"train_clean": clean, "train_robust": robust})
    run.history.append(seen)
    run.losses = []
    value = seen.clean if defense.select == "clean" else (seen.clean + seen.robust) / 2
    if value > run.best_value:
        run.best_value, run.best_step = value, run.step
        run.best = _kept(params, run.running)


def _trained(run: _Run, recipe: Recipe) -> Params:
    """Return the parameters as they are measured and kept: their average, where the recipe has one."""
    return run.average if recipe.average else {name: value.detach().clone() for name, value in run.params.items()}


def _kept(params: Params, running: Params) -> Params:
    """Copy what a checkpoint holds, named as in its file: without what serves training alone."""
    kept = {name: value.detach().clone() for name, value in params.items() if not name.startswith(BASE)}
    return kept | {f"{RUNNING}{name}": value.clone() for name, value in running.items()}


def _means(found: Iterator[tuple[float, float]]) -> tuple[float, float]:
    clean, robust = zip(*found, strict=True)
    return sum(clean) / len(clean), sum(robust) / len(robust)


def _collapse(run: _Run, recipe: Recipe, defense: Defense) -> str:
    """Say that robust accuracy has fallen below what the defense's guard allows; empty where it has not.

    What is at or below chance is no accuracy to fall from.
    """
    *before, last = [seen.robust for seen in run.history] or [0.0]
    best = max((robust for robust in before if robust > 1 / recipe.ways), default=0.0)
    if last >= getattr(defense, "guard", 0.0) * best:
        return ""
    return (
        f"catastrophic overfitting: accuracy under {recipe.validate_attack} fell from {best:.1%} to {last:.1%}"
        f" at step {run.step} of {recipe.steps}"
    )


def validation(recipe: Recipe, learner: Learner, family: TaskFamily, threat: Threat) -> Iterator[tuple[float, float]]:
    """Give clean and robust accuracy on one validation task after the other, as the recipe says."""
    return _on_tasks(recipe, learner, family, threat, "val", recipe.validate_tasks)


def _on_tasks(
    recipe: Recipe, learner: Learner, family: TaskFamily, threat: Threat, split: Literal["train", "val"], tasks: int
) -> Iterator[tuple[float, float]]:
    """Give clean and robust accuracy on the first tasks of a split: of `train` on those that training began with."""
    spec, stream = Spec(recipe.ways, recipe.shots, recipe.queries), recipe.seed if split == "train" else 0
    for number in range(tasks):
        episodes = family.sample(split, spec, [number], seed=stream).to(learner.device, learner.dtype)
        with torch.no_grad():
            fitted = learner.adapt(episodes.support_x, episodes.support_y, steps=learner.algorithm.test_steps)
            right = _right(learner, fitted, episodes.query_x, episodes.query_y)
        rng = Streams([seed(recipe, "validation", number)])
        stands = _survival(learner, fitted, episodes, recipe.validate_attack, threat, rng)
        yield right.float().mean().item(), (right & stands).float().mean().item()


def _survival(
    learner: Learner, fitted: Fitted, episodes: Episodes, attack: str, threat: Threat, rng: Streams
) -> Tensor:
    """Say which queries are right under an attack: [T,Q]."""
    x, y = episodes.query_x, episodes.query_y
    x_adv = craft(learner, fitted, x, y, attack=catalog.attack(attack), threat=threat, rng=rng)
    with torch.no_grad():
        return _right(learner, fitted, x_adv, y)


def _right(learner: Learner, fitted: Fitted, x: Tensor, y: Tensor) -> Tensor:
    return correct(*judged(learner.predict(fitted, x), y, learner.space.labels))


def _tasks(episodes: Episodes, rows: slice) -> Episodes:
    e = episodes
    return Episodes(e.support_x[rows], e.support_y[rows], e.query_x[rows], e.query_y[rows])


def _finish(
    run: _Run, recipe: Recipe, defense: Defense, out: Path, episodes_sha256: dict[str, str], device: str, stopped: str
) -> None:
    weights = pack(*split(run.best))
    best = Card(
        schema_version=SCHEMA,
        recipe=recipe,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        weights_bytes=len(weights),
        recipe_sha256=recipe.sha256,
        episodes_sha256=episodes_sha256,
        versions=_versions(),
        device=device,
        threads=torch.get_num_threads(),
        chunk=max(run.chunk, 1),
        train_seconds=round(run.seconds, 1),
        selected_step=run.best_step,
        criterion=_criterion(recipe, defense),
        stopped=stopped or None,
        history=tuple(run.history),
    )
    if recipe.train_tasks:
        # Before the best: a folder with a card is whole.
        _save_last(run, best, out / f"{out.name}{LAST}")
    curve.draw(best, out / CURVE)
    save(out, best, weights)
    (out / RESUME).unlink(missing_ok=True)


def _save_last(run: _Run, best: Card, folder: Path) -> None:
    """Keep the weights of the last step as a checkpoint of their own, so that they can be evaluated like the best."""
    weights = pack(*split(_kept(_trained(run, best.recipe), run.running)))
    changes = {"weights_sha256": hashlib.sha256(weights).hexdigest(), "weights_bytes": len(weights)}
    card = best.model_copy(update={**changes, "selected_step": run.step, "criterion": "the last step"})
    folder.mkdir(parents=True, exist_ok=True)
    curve.draw(card, folder / CURVE)
    save(folder, card, weights)


def _criterion(recipe: Recipe, defense: Defense) -> str:
    tasks = f"on {recipe.validate_tasks} validation tasks"
    if defense.select == "clean":
        return f"{HIGHEST_CLEAN} {tasks}"
    threat = f"{recipe.validate_attack}, {recipe.norm} {recipe.eps:.4g}"
    return f"highest mean of clean and robust accuracy ({threat}) {tasks}"


def _versions() -> dict[str, str]:
    """Name what the bits of weights depend on besides the recipe; `cpu` is the instructions that torch then uses."""
    packages = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {"python": platform.python_version(), **packages, "cpu": torch.backends.cpu.get_cpu_capability()}


def _same_recipe(recipe: Recipe, out: Path) -> None:
    if (out / CARD).exists():
        known = read_card(out / CARD).recipe
    else:
        with _opened(out / RESUME) as file:
            known = Recipe.model_validate_json(file.metadata()["recipe"])
    for name in Recipe.model_fields:
        before, now = getattr(known, name), getattr(recipe, name)
        if before != now:
            raise InputError(f"out: {out} holds a run with {name} = {before!r}, not {now!r}; choose another folder")


def _save_run(run: _Run, recipe: Recipe, path: Path) -> None:
    tensors = {f"params/{name}": value.detach() for name, value in run.params.items()}
    for part in ("running", "average", "best"):
        tensors.update({f"{part}/{name}": value for name, value in getattr(run, part).items()})
    for term, optimizer in run.optimizers.items():
        for name, value in run.params.items():
            state = optimizer.state[value]
            tensors.update({f"{_adam(term)}/{name}/{key}": moment for key, moment in state.items()})
    plain: dict[str, Any] = {
        name: getattr(run, name) for name in ("step", "seconds", "losses", "best_step", "best_value")
    }
    plain["history"] = [seen.model_dump() for seen in run.history]
    metadata = {"recipe": recipe.model_dump_json(), "run": json.dumps(plain, allow_nan=False)}
    write(path, save_tensors({name: value.cpu().contiguous() for name, value in tensors.items()}, metadata))


def _adam(term: str) -> str:
    return f"adam.{term}" if term else "adam"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open what a stopped run left; what cannot be read is refused and left alone."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0][:80]
        raise InputError(f"out: {path} cannot be read ({reason}); remove it to begin again") from None


def _resume(run: _Run, path: Path) -> None:
    with _opened(path) as file:
        plain = untrusted.parse(file.metadata()["run"])
        tensors: Params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    history = [Validation(**seen) for seen in plain.pop("history")]
    run.history = history
    for name, value in plain.items():
        setattr(run, name, value)
    for part in ("running", "average", "best"):
        getattr(run, part).update(
            {name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")}
        )
    with torch.no_grad():
        for name, value in run.params.items():
            value.copy_(tensors[f"params/{name}"])
            device = value.device
            for term, optimizer in run.optimizers.items():
                kept = f"{_adam(term)}/{name}"
                optimizer.state[value] = {
                    # Adam keeps its step count on the CPU.
                    key: tensors[f"{kept}/{key}"].to("cpu" if key == "step" else device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"{kept}/{key}" in tensors
                }
            run.average[name] = run.average[name].to(device)
    run.running.update({name: value.to(next(iter(run.params.values())).device) for name, value in run.running.items()})
