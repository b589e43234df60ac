"""benchmarks/train_again.py on drawn characters: what comes again is told from what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import load
from test_grid import FAMILY

from robustbench_meta import checkpoint, train, zoo
from robustbench_meta.checkpoint import CARD, Recipe
from robustbench_meta.types import InputError

SMALL = Recipe(
    **{"family_options": FAMILY, "network_options": {"width": 4, "depth": 2}, "ways": 3, "shots": 1, "queries": 2},
    **{"steps": 4, "meta_batch": 1, "validate_every": 2, "validate_tasks": 2, "validate_attack": "fgsm", "eps": 0.1},
)


CPU = torch.backends.cpu.get_cpu_capability()


@pytest.fixture
def again() -> Any:
    return load("train_again")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that ships two small trainings."""
    home = tmp_path / "package"
    recipes = {f"small-{seed}": SMALL.model_copy(update={"seed": seed}) for seed in (0, 1)}
    for name, recipe in recipes.items():
        train.train(recipe, home / name)
    monkeypatch.setattr(zoo, "recipes", lambda: recipes)
    monkeypatch.setattr(checkpoint, "homes", lambda: (tmp_path / "nowhere", home))
    zoo.pin(home)
    return home


@pytest.mark.parametrize("how", [(), ("--whole",)])
def test_what_its_recipe_makes_comes_again_and_the_rest_is_named(
    how: tuple[str, ...], again: Any, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert again.main(["small-*", *how]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"2 of 2 come again, with {CPU}"
    # A training of another seed under the name of this one's.
    old, other = (checkpoint.read_card(place / f"small-{seed}" / CARD) for seed in (0, 1))
    foreign = other.model_copy(update={"recipe": old.recipe, "recipe_sha256": old.recipe_sha256})
    checkpoint.save(place / "small-0", foreign, (place / "small-1" / "weights.safetensors").read_bytes())
    zoo.pin(place)
    assert again.main([*how]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("small-0: differs: ")
    assert told[1:] == ["small-1: the same", f"1 of 2 come again, with {CPU}"]


@pytest.mark.parametrize("field", ["loss", "clean", "robust"])
def test_each_number_of_the_first_validation_must_be_the_cards(
    field: str, again: Any, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = checkpoint.read_card(place / "small-0" / CARD)
    first, *rest = card.history
    odd = card.model_copy(
        update={"history": (first.model_copy(update={field: getattr(first, field) / 2 + 0.1}), *rest)}
    )
    checkpoint.save(place / "small-0", odd, (place / "small-0" / "weights.safetensors").read_bytes())
    zoo.pin(place)
    assert again.main(["small-0"]) == 1
    assert capsys.readouterr().out.startswith("small-0: differs: ")


def test_data_that_are_not_there_are_input(again: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> Path:
        raise InputError("cifar-fs: not there")

    monkeypatch.setattr(train, "train", absent)
    assert again.main(["small-0"]) == 2


def test_what_is_known_is_not_trained_again(again: Any, place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    assert checkpoint.read_card(place / "small-0" / CARD).versions["cpu"] == CPU
    assert again.main(["small-0", "--out", str(tmp_path)]) == 0
    monkeypatch.setattr(train, "train", lambda *_, **__: pytest.fail("trained again"))
    assert again.main(["small-0", "--out", str(tmp_path)]) == 0


def test_a_name_that_nothing_has_is_refused(again: Any, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert again.main(["big-*"]) == 2
    assert capsys.readouterr().err == "rbm: names: no checkpoint of the zoo fits 'big-*'; legal: small-0, small-1\n"
