"""One meta-update and one validation against arithmetic done by hand; a whole run's tasks by their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from tiny import Identity, learner
from torch import Tensor

from robustbench_meta import catalog, checkpoint
from robustbench_meta.algorithms.protonet import ProtoNet
from robustbench_meta.checkpoint import Recipe, Validation
from robustbench_meta.defenses.standard import Standard
from robustbench_meta.engine import Learner
from robustbench_meta.networks import BatchNorm, Embed
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.train import _collapse, _meta_step, _Run, _start, _validate, train
from robustbench_meta.types import Box, Defense, Episodes, Net, Params, Spec, Split, Streams, Threat

BOX = Box((2, 2, 2))
THREAT = Threat("linf", 0.1)
STEPS, BATCH, CLIP, RATE = 6, 2, 1.0, 0.2
RECIPE = Recipe(
    ways=3, shots=2, queries=2, steps=STEPS, meta_batch=BATCH, clip=CLIP, learning_rate=RATE, seed=5, validate_tasks=2
)


@dataclass(frozen=True)
class Rough:
    """Random pixels whose contrast grows with the task's number; remembers what it was asked for."""

    space: ClassVar[Box] = BOX
    asked: list[tuple[str, Spec, list[int], int]] = field(default_factory=list)

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        self.asked.append((split, spec, list(indices), seed))
        parts: list[Tensor] = []
        for part, count in enumerate((spec.shots, spec.queries)):
            x = torch.stack([self._items(index, 100 * seed + part, spec.ways * count) for index in indices])
            parts += [x, torch.arange(spec.ways).repeat_interleave(count).expand(len(indices), -1).contiguous()]
        return Episodes(*parts)

    def classes(self, split: Split) -> list[str]:
        return ["a", "b", "c"]

    def _items(self, index: int, seed: int, count: int) -> Tensor:
        rng = torch.Generator().manual_seed(1000 * index + seed)
        return (0.1 + 0.08 * index) * torch.rand(count, *BOX.shape, generator=rng)


def meta_step(run: _Run, recipe: Recipe, subject: Learner, family: Rough) -> float:
    """Make one update and return the loss it noted."""
    _meta_step(run, recipe, subject, Standard(), family, THREAT)
    return run.losses[-1]


def loss_and_slope(scale: float, number: int) -> tuple[float, float]:
    """The cross entropy of a ProtoNet on `scale` times the pixels of one task, and its derivative by hand."""
    episodes = Rough().sample("train", Spec(3, 2, 2), [number], seed=RECIPE.seed)
    support, queries = (part[0].flatten(1).double().numpy() for part in (episodes.support_x, episodes.query_x))
    y, mine = episodes.support_y[0].numpy(), episodes.query_y[0].numpy()
    means = np.stack([support[y == k].mean(axis=0) for k in range(3)])
    squares = ((queries[:, None] - means[None]) ** 2).sum(axis=2)
    weights = np.exp(-(scale**2) * squares)
    own = squares[np.arange(len(mine)), mine]
    loss = scale**2 * own + np.log(weights.sum(axis=1))
    expected = (weights * squares).sum(axis=1) / weights.sum(axis=1)
    return float(loss.mean()), float(2 * scale * (own - expected).mean())


@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_meta_steps_are_adam_on_the_clipped_mean_gradient_with_an_annealed_rate(backend: Any) -> None:
    subject = replace(learner("protonet", network=Identity(), space=BOX), backend=backend)
    subject = replace(subject, params={"scale": torch.tensor(6.0, dtype=torch.float64)})
    run, family = _start(RECIPE, subject, Standard()), Rough()
    scale, first, second, clipped = 6.0, 0.0, 0.0, []
    for step in range(STEPS):
        noted = meta_step(run, RECIPE, subject, family)
        rows = [loss_and_slope(scale, number) for number in range(step * BATCH, (step + 1) * BATCH)]
        loss, slope = np.mean(rows, axis=0)
        assert noted == pytest.approx(loss, rel=1e-6)
        clipped.append(abs(slope) > CLIP)
        slope = np.clip(slope, -CLIP, CLIP)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        corrected, spread = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        rate = RATE * (1 + np.cos(np.pi * step / STEPS)) / 2
        scale -= rate * corrected / (np.sqrt(spread) + 1e-8)
        assert run.params["scale"].item() == pytest.approx(scale, rel=1e-6)
    assert {bool(one) for one in clipped} == {True, False}
    assert family.asked == [("train", Spec(3, 2, 2), [2 * step, 2 * step + 1], RECIPE.seed) for step in range(STEPS)]


@dataclass(frozen=True)
class Twofold(Standard):
    """The same loss twice, the second time five times over and by an optimiser of its own."""

    rates: ClassVar[dict[str, float]] = {"again": 0.3}

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        (loss,) = super().loss(learner, episodes, threat, rng).values()
        return {"first": loss, "again": 5 * loss}


@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_a_term_with_an_optimiser_of_its_own_is_clipped_and_followed_by_that_one_alone(backend: Any) -> None:
    subject = replace(learner("protonet", network=Identity(), space=BOX), backend=backend)
    subject = replace(subject, params={"scale": torch.tensor(6.0, dtype=torch.float64)})
    run, family, scale = _start(RECIPE, subject, Twofold()), Rough(), 6.0
    moments = np.zeros((2, 2))  # first and second, of each optimiser
    for step in range(STEPS):
        _meta_step(run, RECIPE, subject, Twofold(), family, THREAT)
        rows = [loss_and_slope(scale, number) for number in range(step * BATCH, (step + 1) * BATCH)]
        loss, slope = np.mean(rows, axis=0)
        assert run.losses[-1] == pytest.approx(6 * loss, rel=1e-6)
        slopes = np.clip(np.array([1, 5]) * slope, -CLIP, CLIP)
        moments = np.stack([0.9 * moments[0] + 0.1 * slopes, 0.999 * moments[1] + 0.001 * slopes**2])
        corrected, spread = moments[0] / (1 - 0.9 ** (step + 1)), moments[1] / (1 - 0.999 ** (step + 1))
        rates = RATE * np.array([1, 0.3]) * (1 + np.cos(np.pi * step / STEPS)) / 2
        scale -= float((rates * corrected / (np.sqrt(spread) + 1e-8)).sum())
        assert run.params["scale"].item() == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize(
    ("robust", "collapsed"),
    [
        ([0.4, 0.6, 0.31], False),
        ([0.4, 0.6, 0.29], True),
        ([0.4, 0.29], False),
        ([0.33, 0.0], False),  # what is at or below chance, 1/3, is no accuracy to fall from
        ([0.4, 0.6, 0.29, 0.5], False),  # it is looked at after every validation
        ([0.1], False),
        ([], False),
    ],
)
def test_a_guard_ends_training_where_robust_accuracy_falls_below_its_share_of_the_best(
    robust: list[float], collapsed: bool
) -> None:
    subject, fast = learner("protonet", network=Identity(), space=BOX), catalog.defense("fast", craft="fgsm")
    run = _start(RECIPE, subject, fast)
    run.step = 4
    run.history = [Validation(step=n, loss=1.0, clean=0.9, robust=value, seconds=0) for n, value in enumerate(robust)]
    said = _collapse(run, RECIPE, fast)
    assert bool(said) == collapsed
    assert not collapsed or "under pgd-10 fell from 60.0% to 29.0% at step 4 of 6" in said
    assert _collapse(run, RECIPE, Standard()) == ""


def test_tasks_that_do_not_fit_in_memory_together_go_backward_in_smaller_chunks_to_the_same_weights() -> None:
    @dataclass(frozen=True)
    class Greedy(Standard):
        def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
            if episodes.tasks > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().loss(learner, episodes, threat, rng)

    subject = learner("protonet", network=Identity(), space=BOX, backend="vmap")
    cramped, roomy = _start(RECIPE, subject, Standard()), _start(RECIPE, subject, Standard())
    _meta_step(cramped, RECIPE, subject, Greedy(), Rough(), THREAT)
    assert (cramped.step, cramped.chunk) == (0, 1)  # nothing was learned, and the next try is smaller
    for _ in range(2):
        _meta_step(cramped, RECIPE, subject, Greedy(), Rough(), THREAT)
        _meta_step(roomy, RECIPE, subject, Standard(), Rough(), THREAT)
    assert (roomy.step, roomy.chunk) == (2, BATCH)
    torch.testing.assert_close(cramped.params["scale"], roomy.params["scale"], rtol=1e-12, atol=0)
    with pytest.raises(torch.OutOfMemoryError):  # a single task that does not fit is an error
        _meta_step(cramped, RECIPE, subject, Failing(), Rough(), THREAT)


@dataclass(frozen=True)
class Failing(Standard):
    """Never has enough memory."""

    def loss(self, learner: Learner, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")


@dataclass(frozen=True)
class Normed:
    """A network that is nothing but one batch norm, so that its statistics are those of the pixels."""

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        return {"gamma": torch.ones(shape[0]), "beta": torch.zeros(shape[0])}

    def features(self, shape: tuple[int, ...]) -> int:
        return int(torch.Size(shape).numel())

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        assert not isinstance(norm, dict)
        return norm("one", x, weights["gamma"], weights["beta"]).flatten(1)

    def freeze(self, weights: Params, norm: Params) -> Embed:
        return lambda x: self(weights, x, norm)


def test_running_statistics_follow_the_supports_by_a_tenth_and_start_at_the_first_batch() -> None:
    recipe = RECIPE.model_copy(update={"norm_mode": "running"})
    subject = learner("protonet", network=Normed(), space=BOX, norm_mode="batch")
    run = _start(recipe, subject, Standard())
    means: list[np.ndarray] = []
    variances: list[np.ndarray] = []
    for step in range(3):
        meta_step(run, recipe, subject, Rough())
        numbers = range(step * BATCH, (step + 1) * BATCH)
        pixels = Rough().sample("train", Spec(3, 2, 2), numbers, seed=RECIPE.seed).support_x.double().numpy()
        mean = np.mean([task.mean(axis=(0, 2, 3)) for task in pixels], axis=0)
        variance = np.mean([task.var(axis=(0, 2, 3)) for task in pixels], axis=0)
        means.append(mean if not means else 0.9 * means[-1] + 0.1 * mean)
        variances.append(variance if not variances else 0.9 * variances[-1] + 0.1 * variance)
        np.testing.assert_allclose(run.running["one.mean"].numpy(), means[-1], rtol=1e-9)
        np.testing.assert_allclose(run.running["one.var"].numpy(), variances[-1], rtol=1e-9)
    assert len({mean.tobytes() for mean in means}) == 3


@dataclass(frozen=True)
class Level(ProtoNet):
    """Right about a query of class 0 where the pixel that `weights` looks at is below one half."""

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        return {"weights": torch.zeros(width)}

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        return {"none": torch.zeros(1).to(x)}

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        return torch.stack([0.5 - net(params, x) @ params["weights"], torch.zeros(len(x)).to(x)], dim=1)


@dataclass(frozen=True)
class Five:
    """Five queries of class 0: pixel 0 says 4 of 5, all within 0.1 of one half; pixel 1 says 3 of 5, all far.

    Pixel 2 says 1 of 5. Only the validation classes are like that: of others every pixel is wrong.
    """

    space: ClassVar[Box] = Box((3,))
    asked: list[tuple[str, list[int], int]] = field(default_factory=list)

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        self.asked.append((split, list(indices), seed))
        near, far = [0.45, 0.45, 0.45, 0.45, 0.9], [0.1, 0.1, 0.1, 0.9, 0.9]
        queries = torch.tensor([near, far, [0.1, 0.9, 0.9, 0.9, 0.9]]).T
        x = queries if split == "val" else torch.full((5, 3), 0.9)
        count, labels = len(indices), torch.zeros(5, dtype=torch.int64)
        support = torch.full((count, 2, 3), 0.5)
        return Episodes(
            support,
            torch.arange(2).repeat(count, 1),
            x.repeat(count, 1, 1),
            labels.repeat(count, 1),
        )

    def classes(self, split: Split) -> list[str]:
        return ["a", "b"]


ACCURACIES = {0: (0.8, 0.0), 1: (0.6, 0.6), 2: (0.2, 0.2)}  # clean and robust, by the pixel looked at


def validated(pixels: Sequence[int], defense: Defense) -> tuple[_Run, Five]:
    """Validate once for every pixel, with weights that look at it alone."""
    recipe = RECIPE.model_copy(update={"ways": 2, "validate_attack": "fgsm", "validate_tasks": 3})
    subject = learner(Level(), network=Identity(), space=Five.space, ways=2)
    run, family = _start(recipe, subject, Standard()), Five()
    for step, pixel in enumerate(pixels, start=1):
        with torch.no_grad():
            run.params["weights"].copy_(torch.eye(3)[pixel])
        run.step, run.losses = step, [1.0, 2.0]
        _validate(run, recipe, subject, defense, family, THREAT)
    return run, family


def test_a_validation_counts_clean_and_attacked_queries_of_the_validation_classes() -> None:
    run, family = validated([0, 1, 2], Standard())
    for seen, (clean, robust) in zip(run.history, ACCURACIES.values(), strict=True):
        assert [seen.clean, seen.robust] == pytest.approx([clean, robust])
        assert seen.loss == 1.5
    assert {split for split, _, _ in family.asked} == {"val"}
    numbers = [number for _, indices, _ in family.asked for number in indices]
    assert numbers == 3 * [0, 1, 2]
    assert {seed for _, _, seed in family.asked} == {0}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize(("select", "chosen"), [("clean", 0), ("mean", 1)])
def test_the_checkpoint_with_the_best_value_of_the_defense_s_own_criterion_is_kept(
    order: tuple[int, ...], select: Literal["clean", "mean"], chosen: int
) -> None:
    defense = Standard() if select == "clean" else catalog.defense("aq", craft="fgsm")
    run, _ = validated(order, defense)
    assert defense.select == select
    assert run.best_step == order.index(chosen) + 1
    assert run.best["weights"].tolist() == torch.eye(3)[chosen].tolist()


def test_the_first_of_equally_good_checkpoints_is_kept_and_later_training_does_not_move_it() -> None:
    run, _ = validated([2, 1, 1, 2], Standard())
    assert run.best_step == 2
    assert run.best["weights"].tolist() == [0, 1, 0]


@dataclass(frozen=True)
class Remembering(Strokes):
    """Strokes that remembers the tasks it was asked for, of one spec."""

    asked: list[tuple[str, list[int], int]] = field(default_factory=list)

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        if spec == Spec(2, 1, 2):  # not the reference episodes, which are fingerprinted
            self.asked.append((split, list(indices), seed))
        return super().sample(split, spec, indices, seed=seed)


def test_a_run_trains_on_fresh_tasks_every_step_and_validates_on_the_same_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = Remembering(train=4, val=4, test=4, samples=20)
    monkeypatch.setattr(catalog, "family_of", lambda recipe, root=None: family)
    recipe = Recipe(ways=2, shots=1, queries=2, steps=4, meta_batch=3, validate_every=2, validate_tasks=2, seed=9)
    recipe = recipe.model_copy(update={"network_options": {"width": 2}, "validate_attack": "fgsm"})
    card = checkpoint.read_card(train(recipe, tmp_path / "run") / checkpoint.CARD)
    look = [("val", [0], 0), ("val", [1], 0)]
    steps = [("train", [3 * step, 3 * step + 1, 3 * step + 2], 9) for step in range(4)]
    expected = [*steps[:2], *look, *steps[2:], *look]
    assert family.asked[-len(expected) :] == expected  # a rehearsal may come before
    assert [seen.step for seen in card.history] == [2, 4]
    assert card.selected_step == max(card.history, key=lambda seen: (seen.clean, -seen.step)).step
