"""Every shipped recipe runs: its first updates, or for those of a GPU a rehearsal with one image a class."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from real import FOLDERS

from robustbench_meta import catalog, train, zoo
from robustbench_meta.checkpoint import Recipe

FULL = sorted(name for name in zoo.recipes() if name.endswith("-full"))
SMALL = sorted(zoo.recipes().keys() - set(FULL))


@pytest.fixture
def root(real_data: Callable[[str], Path]) -> Callable[[Recipe], Path | None]:
    """Says where the data of a recipe are; None where it needs none."""
    return lambda recipe: real_data(FOLDERS[recipe.family]) if recipe.family in FOLDERS else None


@pytest.mark.parametrize("name", SMALL)
def test_the_first_updates_and_the_first_validation_of_a_recipe_run(
    name: str, root: Callable[[Recipe], Path | None], tmp_path: Path
) -> None:
    few = {"steps": 2, "queries": 2, "validate_every": 2, "validate_tasks": 2, "validate_attack": "pgd-2"}
    recipe = zoo.recipes()[name].model_copy(update=few)
    losses: list[float] = []
    folder = train.train(recipe, tmp_path, root=root(recipe), progress=lambda now: losses.append(now.loss))
    assert len(losses) == 3  # two updates and a look
    assert (folder / "card.json").is_file()


@pytest.mark.parametrize("name", FULL)
def test_a_recipe_for_a_gpu_is_rehearsed(name: str, root: Callable[[Recipe], Path | None]) -> None:
    few = {"shots": 1, "queries": 1, "meta_batch": 1, "validate_attack": "fgsm"}
    recipe = zoo.recipes()[name].model_copy(update=few)
    defense, learner, family, threat = train._prepare(recipe, root(recipe), "cpu")
    train._rehearse(recipe, replace(learner, backend="flat"), defense, family, threat)


@pytest.mark.parametrize("name", FULL)
def test_a_recipe_for_a_gpu_crafts_and_batches_as_adversarial_querying_was_published(name: str) -> None:
    recipe = zoo.recipes()[name]
    assert (recipe.family, recipe.meta_batch, recipe.ways, recipe.shots) == ("cifar-fs", 8, 5, 5)
    assert (recipe.defense, recipe.craft, recipe.eps) in {
        ("standard", "pgd-7-aq", 8 / 255),
        ("aq", "pgd-7-aq", 8 / 255),
    }
    assert name == "-".join(
        [
            recipe.family,
            recipe.algorithm,
            recipe.defense,
            *(["resnet12"] if recipe.network == "resnet12" else []),
            "full",
        ]
    )
    network = catalog.network(recipe.network, **recipe.network_options)
    assert network == catalog.network(recipe.network)  # Conv4-64 and ResNet-12 are the defaults
    text = " ".join((zoo.RECIPES / f"{name}.toml").read_text().replace("#", " ").split())
    assert "Never run on a GPU" in text
    told = re.search(r": ([\d,]+) updates of [\d.]+ TFLOP and [\d,]+ kernels take (\d+) minutes", text)
    assert told is not None
    assert int(told[1].replace(",", "")) == recipe.steps
    assert int(told[2]) < 60


def test_every_algorithm_of_a_gpu_hour_has_a_defended_recipe_for_each_undefended_one() -> None:
    pairs = {name.replace("-standard-", "-DEFENSE-").replace("-aq-", "-DEFENSE-") for name in FULL}
    assert {"protonet", "r2d2", "anil", "metaopt-svm", "meta-sgd", "transfer"} == {
        zoo.recipes()[name].algorithm for name in FULL
    }
    assert len(FULL) == 2 * len(pairs)
    assert any("resnet12" in pair for pair in pairs)
