"""Checkpoints: what is broken, foreign or hostile is refused in one line."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustbench_meta import catalog, checkpoint
from robustbench_meta.checkpoint import Card, Recipe
from robustbench_meta.engine import start_params
from robustbench_meta.types import InputError, Params

RECIPE = Recipe(network_options={"width": 2})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    space = catalog.family_of(RECIPE).space
    network = catalog.network("conv4", width=2)
    params = start_params(catalog.algorithm("protonet"), network, space, 5, torch.Generator().manual_seed(0))
    store(tmp_path / "good", params)
    return tmp_path / "good"


def store(folder: Path, params: Params) -> None:
    weights = checkpoint.pack(params, {})
    card = Card(
        schema_version=1,
        recipe=RECIPE,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        recipe_sha256=RECIPE.sha256,
        episodes_sha256={},
        versions={},
        device="cpu",
        threads=1,
        train_seconds=0.0,
        selected_step=1,
        criterion="none",
        history=(),
    )
    checkpoint.save(folder, card, weights)


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


def change_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    card.update(changes)
    (folder / "card.json").write_text(json.dumps(card))


def change_weights(folder: Path, content: bytes) -> None:
    (folder / "weights.safetensors").write_bytes(content)
    change_card(folder, weights_sha256=hashlib.sha256(content).hexdigest())


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "weights.safetensors").write_bytes(content)


def with_tensors(folder: Path, changes: Params) -> None:
    params = {**checkpoint.load(folder).params, **changes}
    save_file(params, folder / "raw")
    change_weights(folder, (folder / "raw").read_bytes())


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no card": (lambda f: (f / "card.json").unlink(), "card.json is missing"),
    "no weights": (lambda f: (f / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "empty": (lambda f: change_weights(f, b""), "is empty"),
    "truncated": (lambda f: change_weights(f, (f / "weights.safetensors").read_bytes()[:200]), "not a safetensors"),
    "bit flip": (flip_a_bit, "SHA-256"),
    "web page": (lambda f: change_weights(f, b"<!DOCTYPE html><html></html>"), "is not a safetensors file"),
    "pickle": (lambda f: change_weights(f, pickle.dumps(Bomb())), "is not a safetensors file"),
    "card is no JSON": (lambda f: (f / "card.json").write_text("{"), "card.json"),
    "card with NaN": (lambda f: change_card(f, train_seconds=float("nan")), "train_seconds"),
    "newer card": (lambda f: change_card(f, schema_version=99), "schema_version"),
    "another defense": (
        lambda f: change_card(f, recipe=RECIPE.model_copy(update={"defense": "trades"}).model_dump(mode="json")),
        "the recipe is not the one whose SHA-256",
    ),
    "unknown field": (lambda f: change_card(f, surprise=1), "surprise"),
    "NaN": (lambda f: with_tensors(f, {"conv0.gamma": torch.full((2,), torch.nan)}), "NaN or Inf"),
    "integers": (lambda f: with_tensors(f, {"conv0.gamma": torch.ones(2, dtype=torch.int64)}), "not floating point"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_checkpoint_is_refused_in_one_line(folder: Path, broken: str) -> None:
    spoil, said = BROKEN[broken]
    spoil(folder)
    with pytest.raises(InputError, match=said) as raised:
        checkpoint.load(folder)
    assert "\n" not in str(raised.value)
    assert not Path("exploded").exists()


def test_a_pickle_file_is_pointed_to_the_folder_that_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a checkpoint is a folder with weights"):
        checkpoint.load(tmp_path / "model.pt")
    with pytest.raises(InputError, match="is not a folder"):
        checkpoint.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conv0.gamma": torch.ones(3)}, r"conv0.gamma has shape \(3,\), not \(2,\)"),
        ({"surprise": torch.ones(1)}, "unknown tensor 'surprise'"),
    ],
)
def test_tensors_that_do_not_fit_the_recipe_are_refused(folder: Path, changes: Params, said: str) -> None:
    with_tensors(folder, changes)
    with pytest.raises(InputError, match=said):
        catalog.learner(checkpoint.load(folder))


def test_running_statistics_that_do_not_fit_are_refused(folder: Path) -> None:
    recipe = RECIPE.model_copy(update={"norm_mode": "running"})
    change_card(folder, recipe=recipe.model_dump(mode="json"), recipe_sha256=recipe.sha256)
    with pytest.raises(InputError, match=r"needs statistics that fit: conv0.mean"):
        catalog.learner(checkpoint.load(folder))


def test_the_same_tensors_give_the_same_bytes_and_come_back(folder: Path) -> None:
    found = checkpoint.load(folder)
    again = checkpoint.pack(dict(reversed(found.params.items())), {"conv0.mean": torch.ones(2)})
    params, running = checkpoint.split(checkpoint.unpack(again, folder))
    assert running.keys() == {"conv0.mean"}
    assert all(torch.equal(params[name], value) for name, value in found.params.items())
    assert checkpoint.pack(found.params, {}) == (folder / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("field", [{"steps": 0}, {"ways": 1}, {"average": 1.0}, {"norm": "l3"}, {"stepz": 3}])
def test_a_recipe_refuses_what_is_not_legal(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))) as raised:
        Recipe(**field)
    assert checkpoint.first_problem(raised.value).startswith(f"{next(iter(field))}:")  # type: ignore[arg-type]
