"""Training on batches of all classes against multinomial regression by hand; what the checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tiny import Identity, learner

from robustbench_meta import catalog, checkpoint, episodes
from robustbench_meta.algorithms.transfer import Transfer
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.engine import Learner
from robustbench_meta.episodes import Pool
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.train import _meta_step, _start, train
from robustbench_meta.types import Box, Episodes, InputError, Spec, Split, Threat

EPS, CLASSES = 0.07, 4
SPACE = Box((1, 2, 2))
RECIPE = Recipe(algorithm="transfer", ways=2, shots=1, queries=3, steps=5, meta_batch=3, clip=1e6, validate_tasks=2)


@dataclass(frozen=True)
class Few:
    """Twenty-four random images of four classes of unequal size: as many as three tasks hold."""

    space: ClassVar[Box] = SPACE
    asked: list[str] = field(default_factory=list)

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        raise AssertionError("training on classes draws no tasks")

    def classes(self, split: Split) -> list[str]:
        return list("abcd")

    def pool(self, split: Split) -> Pool:
        self.asked.append(split)
        images = torch.randint(60, 196, (24, *SPACE.shape), generator=torch.Generator().manual_seed(1))
        return Pool(images.to(torch.uint8), (0, 3, 10, 12, 24), tuple("abcd"))


def subject() -> Learner:
    made = learner(Transfer(), network=Identity(), space=SPACE, ways=2)
    rng = torch.Generator().manual_seed(2)
    base = {"base.weight": 5 * torch.randn(CLASSES, 4, generator=rng), "base.bias": torch.randn(CLASSES, generator=rng)}
    return replace(made, params={**made.params, **{name: value.double() for name, value in base.items()}})


@pytest.mark.parametrize("backend", ["loop", "vmap", "flat"])
@pytest.mark.parametrize("defense", ["standard", "aq"])
def test_an_update_is_multinomial_regression_on_all_classes_attacked_where_the_defense_says_so(
    defense: str, backend: Any
) -> None:
    family, made = Few(), subject()
    weight, bias = (made.params[name].numpy() for name in ("base.weight", "base.bias"))
    x = family.pool("train").images.flatten(1).double().numpy() / 255
    y = np.repeat(np.arange(CLASSES), [3, 7, 2, 12])

    def error(x: Any) -> Any:
        odds = np.exp(x @ weight.T + bias)
        return odds / odds.sum(axis=1, keepdims=True) - np.eye(CLASSES)[y]

    if defense == "aq":
        x = x + EPS * np.sign(error(x) @ weight)
    crafting = catalog.defense(defense, craft="fgsm")
    run = _start(RECIPE, made, crafting)
    _meta_step(run, RECIPE, replace(made, backend=backend), crafting, family, Threat("linf", EPS))
    odds = np.exp(x @ weight.T + bias)
    expected = -np.log((odds / odds.sum(axis=1, keepdims=True))[np.arange(24), y]).mean()
    assert run.losses == [pytest.approx(expected, rel=1e-6)]
    slopes = {name: value.grad for name, value in run.params.items()}
    assert slopes["base.weight"] is not None
    assert slopes["base.bias"] is not None
    np.testing.assert_allclose(slopes["base.weight"].numpy(), error(x).T @ x / 24, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(slopes["base.bias"].numpy(), error(x).mean(axis=0), rtol=1e-5, atol=1e-8)
    assert set(family.asked) == {"train"}


def test_a_batch_holds_different_images_with_their_classes_and_another_stream_holds_others() -> None:
    pool = Few().pool("train")
    x, y = episodes.batch(pool, 9, stream="one")
    by_pixels = {image.numpy().tobytes(): row for row, image in enumerate(pool.images)}
    rows = [by_pixels[(255 * image).round().to(torch.uint8).numpy().tobytes()] for image in x]
    assert len(set(rows)) == 9
    assert y.tolist() == [int(np.searchsorted(pool.starts, row, side="right")) - 1 for row in rows]
    assert torch.equal(x, episodes.batch(pool, 9, stream="one")[0])
    assert not torch.equal(x, episodes.batch(pool, 9, stream="two")[0])
    assert sorted(episodes.batch(pool, 99, stream="one")[1].tolist()) == sorted(np.repeat(range(4), [3, 7, 2, 12]))


TINY = Recipe(
    algorithm="transfer",
    family_options={"train": 8, "val": 6, "test": 6, "samples": 12},
    network_options={"width": 4},
    norm_mode="running",
    ways=3,
    shots=2,
    queries=3,
    meta_batch=2,
    steps=4,
    validate_every=2,
    validate_tasks=2,
    validate_attack="pgd-2",
    eps=0.1,
)


def test_the_checkpoint_holds_the_network_and_its_statistics_without_the_classifier(tmp_path: Path) -> None:
    found = checkpoint.load(train(TINY, tmp_path / "one"))
    assert not [name for name in found.params if not name.startswith("conv")]
    made = catalog.learner(found)
    assert made.norm_mode == "running"
    assert len(made.running) == 8


def test_running_statistics_are_those_of_the_images_trained_on(tmp_path: Path) -> None:
    recipe = TINY.model_copy(update={"steps": 1, "learning_rate": 1e-9, "network_options": {"width": 4, "depth": 1}})
    found = checkpoint.load(train(recipe, tmp_path / "one"))
    x, _ = episodes.batch(Strokes(8, 6, 6, 12).pool("train"), 30, stream=f"strokes/classes/{recipe.seed}/0")
    h = torch.nn.functional.conv2d(x, found.params["conv0.weight"], padding=1)
    torch.testing.assert_close(found.running["conv0.mean"], h.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.running["conv0.var"], h.var(dim=(0, 2, 3), correction=0), rtol=1e-3, atol=1e-6)


@dataclass(frozen=True)
class Tasks:
    """Strokes that give tasks alone."""

    made: Strokes = field(default_factory=lambda: Strokes(8, 6, 6, 12))

    @property
    def space(self) -> Box:
        return self.made.space

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        return self.made.sample(split, spec, indices, seed=seed)

    def classes(self, split: Split) -> list[str]:
        return self.made.classes(split)


def test_a_family_without_a_pool_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "family_of", lambda recipe, root=None: Tasks())
    with pytest.raises(InputError, match=r"^family: strokes gives tasks alone; transfer trains on images by class"):
        train(TINY, tmp_path / "never")
    assert not (tmp_path / "never").exists()
