"""The zoo: a name means the pinned checkpoint, what is not as pinned is refused, and the manifest is what ships."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_grid import FAMILY, saved

from robustbench_meta import checkpoint, cli_zoo, external, grid, train, zoo
from robustbench_meta.checkpoint import Card, Recipe, Validation
from robustbench_meta.defenses.standard import Standard
from robustbench_meta.types import InputError, Spec

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "checkpoints"
STANDARD, ROBUST = "strokes-protonet-standard", "strokes-protonet-aq"
SMALL = Recipe(family_options=FAMILY, network_options={"width": 4, "depth": 2}, ways=3, shots=2, validate_tasks=9)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that ships two checkpoints."""
    for name in (STANDARD, ROBUST):
        shutil.copytree(SHIPPED / name, tmp_path / "package" / name)
    zoo.pin(tmp_path / "package")
    monkeypatch.setattr(checkpoint, "homes", lambda: (tmp_path / "nowhere", tmp_path / "package"))
    return tmp_path / "package"


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recipe]:
    """An installation that ships one recipe, `tiny`."""
    monkeypatch.setattr(zoo, "recipes", lambda: {"tiny": SMALL})
    return {"tiny": SMALL}


def validated(folder: Path, recipe: Recipe, *, clean: float, robust: float = 0.0, seed: int = 0) -> Path:
    """Save an untrained learner whose card tells of that validation."""
    card = checkpoint.read_card(saved(folder, recipe, seed) / "card.json")
    looks = (Validation(step=1, loss=1.0, clean=clean, robust=robust, seconds=0.0),)
    told = {"history": looks, "criterion": train._criterion(recipe, Standard())}
    checkpoint.save(folder, card.model_copy(update=told), (folder / "weights.safetensors").read_bytes())
    return folder


def change(folder: Path, **fields: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | fields))


def test_the_manifest_is_what_the_folder_makes_and_every_checkpoint_is_of_the_recipe_of_its_name() -> None:
    manifest, _ = zoo.contents(SHIPPED)
    assert (SHIPPED / "zoo.json").read_bytes() == zoo.as_bytes(manifest), "run `rbm zoo pin`"
    assert len(manifest.checkpoints) >= 12
    for name in manifest.checkpoints:
        assert checkpoint.load(SHIPPED / name).card.recipe == zoo.made_by(name)


def test_the_page_shows_what_is_shipped() -> None:
    text = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert cli_zoo.render(text, zoo.entries(SHIPPED)) == text, "run `rbm zoo pin`"


def test_a_zoo_of_more_than_20_megabytes_is_not_pinned(place: Path) -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 20e6
    before = (place / "zoo.json").read_bytes()
    with (place / ROBUST / "curve.svg").open("ab") as file:
        file.truncate(20_000_000)
    with pytest.raises(InputError, match=r"zoo: \S+ holds 20\d{6} bytes of checkpoints, more than 20000000"):
        zoo.pin(place)
    assert (place / "zoo.json").read_bytes() == before


def test_a_name_of_the_zoo_is_the_shipped_checkpoint_whatever_lies_here_under_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for mine in (ROBUST, f"checkpoints/{ROBUST}", f"zoo:{ROBUST}"):
        saved(tmp_path / mine)
    assert zoo.folder(f"zoo:{ROBUST}") == zoo.folder(Path(f"zoo:{ROBUST}/")) == SHIPPED / ROBUST
    assert grid.load_subject(Path(f"zoo:{ROBUST}"), device="cpu").learner.ways == 5
    assert grid.load_subject(Path(ROBUST), device="cpu").learner.ways == 3


def test_a_path_means_itself(tmp_path: Path) -> None:
    assert zoo.folder(tmp_path / "zoo:x") == tmp_path / "zoo:x"
    assert zoo.folder("checkpoints/mine") == Path("checkpoints/mine")


def swap(place: Path) -> None:
    (place / STANDARD).rename(place / "other")
    (place / ROBUST).rename(place / STANDARD)
    (place / "other").rename(place / ROBUST)


def better_numbers(place: Path) -> None:
    seen = json.loads((place / ROBUST / "card.json").read_text())["history"]
    change(place / ROBUST, history=[look | {"robust": 0.9} for look in seen])


def other_recipe(place: Path) -> None:
    recipe = checkpoint.read_card(place / ROBUST / "card.json").recipe.model_copy(update={"eps": 0.2})
    change(place / ROBUST, recipe=recipe.model_dump(mode="json"), recipe_sha256=recipe.sha256)


def no_card(place: Path) -> None:
    (place / ROBUST / "card.json").unlink()


def assert_listed_as_damaged(rbm: Run, said: str) -> None:
    status, out, err = rbm("list", "zoo")
    assert status == 0
    assert any(line.split()[:2] == [ROBUST, "damaged"] for line in out.splitlines())
    assert any(line.startswith(f"{ROBUST}: ") and said in line for line in err.splitlines())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (swap, "the weights of"),
        (better_numbers, "the card of"),
        (other_recipe, "the recipe of"),
        (no_card, "card.json is missing"),
    ],
)
def test_what_is_not_as_pinned_is_refused_and_shown(
    spoil: Callable[[Path], None], said: str, place: Path, rbm: Run
) -> None:
    assert zoo.folder(f"zoo:{ROBUST}") == place / ROBUST
    assert zoo.problems() == []
    spoil(place)
    status, _, err = rbm("evaluate", "--ckpt", f"zoo:{ROBUST}", "--attacks", "fgsm", "--tasks", 2, "--no-audit")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(f"rbm: ckpt: zoo:{ROBUST}: ")
    assert said in err
    assert any(said in text for text in zoo.problems())
    assert_listed_as_damaged(rbm, said)
    assert rbm("doctor")[0] == 3


def test_weights_that_are_not_those_of_the_card_are_refused_and_shown(place: Path, rbm: Run) -> None:
    content = bytearray((place / ROBUST / "weights.safetensors").read_bytes())
    content[-5] ^= 1
    (place / ROBUST / "weights.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="has SHA-256"):
        grid.load_subject(Path(f"zoo:{ROBUST}"))
    assert_listed_as_damaged(rbm, "has SHA-256")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("strokes-protonet-aqq", f"'zoo:strokes-protonet-aqq' is unknown; did you mean zoo:{ROBUST}, zoo:{STANDARD}? "),
        ("??", "'zoo:??' is unknown; `rbm list zoo` shows all"),
        (f"../package/{ROBUST}", f"'zoo:../package/{ROBUST}' is unknown; did you mean zoo:{ROBUST}"),
        ("", "'zoo:' is unknown; `rbm list zoo` shows all"),
        (
            "cifar-fs-r2d2-aq-seed3",
            "zoo:cifar-fs-r2d2-aq-seed3 has a recipe and no weights;"
            " `rbm train cifar-fs-r2d2-aq --set seed=3 --out checkpoints/cifar-fs-r2d2-aq-seed3` makes them",
        ),
    ],
)
def test_a_name_that_is_not_shipped_is_answered_in_one_line(name: str, said: str, place: Path, rbm: Run) -> None:
    status, _, err = rbm("evaluate", "--ckpt", f"zoo:{name}")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(f"rbm: ckpt: {said}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"checkpoints": {}, "checkpoints": {}}', "'checkpoints' stands twice in an object"),
        ('{"checkpoints": {"../x": {}}}', "should match pattern"),
        ('{"checkpoints": {}, "schema_version": 2}', "schema_version: '2': input should be less than or equal to 1"),
        ("", "is not JSON|Expecting value"),
    ],
)
def test_a_manifest_that_is_none_is_refused_in_one_line(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "zoo.json").write_text(content)
    with pytest.raises(InputError, match=said) as refused:
        zoo.read_manifest(tmp_path / "zoo.json")
    assert "\n" not in str(refused.value)


def test_every_command_that_takes_a_checkpoint_takes_a_name_of_the_zoo(rbm: Run, tmp_path: Path) -> None:
    named = [word for name in (STANDARD, ROBUST) for word in ("--ckpt", f"zoo:{name}")]
    small = ("--attacks", "fgsm", "--eps", "0.1", "--queries", "2", "--tasks", "20", "--device", "cpu", "--no-audit")
    assert rbm("evaluate", *named, *small)[0] == 0
    status, out, _ = rbm("compare", f"zoo:{STANDARD}", f"zoo:{ROBUST}", "--results", "results")
    assert (status, "fgsm" in out) == (0, True)
    assert rbm("verify", "results", *named, "--seconds", "0")[0] == 0
    assert rbm("leaderboard", "add", "results", "--board", "board", *named)[0] == 0
    assert len(list((tmp_path / "board" / "entries").iterdir())) == 2
    assert rbm("submit-check", f"zoo:{ROBUST}")[0] == 0
    assert rbm("verify", f"zoo:{ROBUST}", "--seconds", "0")[0] == 4  # no accuracy to its end in no time
    family = grid.choose_family("strokes")
    x = family.sample("test", Spec(5, 5, 15), [0]).query_x[0].numpy()
    given: Any = {"attack": "none", "authors": "us", "eps": 0.1, "robust": 1.0}
    claim = external.write_external("claim", f"zoo:{ROBUST}", {0: x}, **given)
    assert claim.is_file()


def test_the_list_shows_what_is_shipped_with_its_validation_and_what_has_only_a_recipe(rbm: Run) -> None:
    status, out, _ = rbm("list", "zoo")
    assert status == 0
    lines = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert list(lines) == sorted(lines)
    assert set(lines) >= set(zoo.recipes())
    card = checkpoint.load(SHIPPED / ROBUST).card
    assert card.chosen is not None
    assert card.train_seconds is not None
    expected = (
        f"shipped strokes protonet aq conv4 width 16 30 {100 * card.chosen.clean:.1f} {100 * card.chosen.robust:.1f}"
        f" pgd-10 linf 0.1 40 {card.train_seconds / 60:.0f} {card.weights_sha256[:12]}"
    )
    assert " ".join(lines[ROBUST].split()[1:]) == expected
    waiting = [entry.name for entry in zoo.entries(SHIPPED) if entry.state == "recipe only"]
    assert all("recipe only" in lines[name] for name in waiting)


def test_a_checkpoint_of_no_shipped_recipe_is_left_out_and_one_of_another_recipe_is_refused(
    tmp_path: Path, recipes: dict[str, Recipe], rbm: Run
) -> None:
    saved(tmp_path / "zoo" / "mine", SMALL)
    saved(tmp_path / "zoo" / "tiny-seed2", SMALL.model_copy(update={"seed": 2}))
    status, out, _ = rbm("zoo", "pin", "zoo")
    assert status == 0
    assert out.splitlines() == [
        "tiny-seed2: added",
        "mine: not pinned, since no shipped recipe makes it",
        "zoo/zoo.json: 1 checkpoints",
    ]
    saved(tmp_path / "zoo" / "tiny", SMALL.model_copy(update={"steps": 7}))
    status, _, err = rbm("zoo", "pin", "zoo")
    assert (status, err) == (2, "rbm: zoo: tiny was made with steps = 7, the shipped recipe says 2000\n")


def test_pinning_says_what_became_of_every_name(tmp_path: Path, recipes: dict[str, Recipe]) -> None:
    saved(tmp_path / "tiny", SMALL)
    saved(tmp_path / "tiny-seed1", SMALL.model_copy(update={"seed": 1}))
    assert zoo.pin(tmp_path) == {"tiny": "added", "tiny-seed1": "added"}
    assert zoo.pin(tmp_path) == {"tiny": "same", "tiny-seed1": "same"}
    shutil.rmtree(tmp_path / "tiny")
    saved(tmp_path / "tiny-seed1", SMALL.model_copy(update={"seed": 1}), seed=5)
    assert zoo.pin(tmp_path) == {"tiny": "removed", "tiny-seed1": "changed"}


def test_only_a_better_validated_checkpoint_takes_the_place_of_another(
    tmp_path: Path, recipes: dict[str, Recipe], rbm: Run
) -> None:
    shipped = tmp_path / "zoo"
    old = validated(tmp_path / "old" / "tiny", SMALL, clean=0.6, robust=0.1)
    worse = validated(tmp_path / "worse" / "tiny", SMALL, clean=0.5, robust=0.9, seed=1)
    better = validated(tmp_path / "better" / "tiny", SMALL, clean=0.7, seed=2)
    assert zoo.add(old, shipped) == "added"
    assert zoo.add(old, shipped) == "same"
    status, _, err = rbm("zoo", "add", worse, "--place", shipped)
    assert status == 2
    assert f"{shipped}/tiny stays: its validation accuracy is 60.00%, that of the new one 50.00%; only --replace" in err
    assert checkpoint.load(shipped / "tiny").card == checkpoint.load(old).card
    assert zoo.add(better, shipped) == "changed"
    assert checkpoint.load(shipped / "tiny").card == checkpoint.load(better).card
    assert rbm("zoo", "add", worse, "--place", shipped, "--replace")[0] == 0
    assert zoo.read_manifest(shipped / "zoo.json").checkpoints["tiny"] == zoo.pin_of(checkpoint.load(worse).card)


def test_checkpoints_that_were_not_validated_alike_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = SMALL.model_copy(update={"validate_tasks": 10})
    monkeypatch.setattr(zoo, "recipes", lambda: {"tiny": SMALL})
    zoo.add(validated(tmp_path / "old" / "tiny", SMALL, clean=0.6), tmp_path / "zoo")
    monkeypatch.setattr(zoo, "recipes", lambda: {"tiny": more})
    new = validated(tmp_path / "new" / "tiny", more, clean=0.9)
    card = checkpoint.read_card(new / "card.json")
    with pytest.raises(InputError, match="stays: chosen by the highest clean accuracy on 9 validation tasks, the new"):
        zoo.add(new, tmp_path / "zoo")
    change(new, criterion=card.criterion.replace("10", "9"))
    with pytest.raises(InputError, match="stays: validated with validate_tasks 9, the new one with 10"):
        zoo.add(new, tmp_path / "zoo")
    assert checkpoint.read_card(tmp_path / "zoo" / "tiny" / "card.json").recipe == SMALL


def test_what_no_shipped_recipe_makes_does_not_enter_the_zoo(tmp_path: Path, recipes: dict[str, Recipe]) -> None:
    with pytest.raises(InputError, match="no shipped recipe makes 'mine'"):
        zoo.add(saved(tmp_path / "mine", SMALL), tmp_path / "zoo")
    with pytest.raises(InputError, match="tiny-seed1 was made with seed = 0, the shipped recipe says 1"):
        zoo.add(saved(tmp_path / "tiny-seed1", SMALL), tmp_path / "zoo")
    assert not (tmp_path / "zoo").exists()


def test_the_accuracy_that_chose_a_checkpoint_is_the_one_its_criterion_names() -> None:
    for name in (STANDARD, ROBUST):
        card: Card = checkpoint.load(SHIPPED / name).card
        values = {seen.step: card.model_copy(update={"selected_step": seen.step}) for seen in card.history}
        assert max(values, key=lambda step: zoo.value(values[step])) == card.selected_step
    assert zoo.value(card) != zoo.value(card.model_copy(update={"criterion": "highest clean accuracy"}))


def test_an_installed_package_finds_the_zoo_that_it_brings(tmp_path: Path) -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for package in build["packages"]:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for source, target in build["force-include"].items():
        shutil.copytree(ROOT / source, tmp_path / target, dirs_exist_ok=True)
    code = f"from robustbench_meta import zoo; print(zoo.folder('zoo:{ROBUST}')); print(len(zoo.entries(zoo.home())))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    folder = tmp_path / "robustbench_meta" / "checkpoints" / ROBUST
    assert ran.stdout.splitlines() == [str(folder), str(len(zoo.entries(SHIPPED)))], ran.stderr


@pytest.mark.parametrize("text", ["", cli_zoo.BEGIN, cli_zoo.END + cli_zoo.BEGIN, 2 * (cli_zoo.BEGIN + cli_zoo.END)])
def test_a_page_without_its_marks_is_not_written(text: str) -> None:
    with pytest.raises(InputError, match="page: needs"):
        cli_zoo.render(text, [])
