"""The study of generalisation: who is a pair, how differences are tested, what is said; its page is up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scripts import ROOT, load

from robustbench_meta import untrusted
from robustbench_meta.checkpoint import Card, Recipe
from robustbench_meta.episodes import fingerprint
from robustbench_meta.tasks.image_folder import ImageFolder
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.train import train
from robustbench_meta.types import InputError


@pytest.fixture
def study() -> Any:
    return load("generalisation")


def card(**changes: Any) -> Card:
    recipe = Recipe(**changes)
    given: dict[str, Any] = {"recipe": recipe, "recipe_sha256": recipe.sha256, "weights_sha256": "0" * 64}
    given |= {"episodes_sha256": {}, "versions": {}, "device": "cpu", "threads": 1, "train_seconds": 1.0}
    return Card(**given, selected_step=1, criterion="", history=())


def test_a_pair_differs_in_the_defense_and_its_training_alone(study: Any) -> None:
    cards = {
        "plain": card(),
        "longer-aq": card(defense="aq", steps=9000, learning_rate=0.01, augment=("flip",)),
        "mixed": card(defense="mixed"),
        "wide-aq": card(defense="aq", network_options={"width": 64}),
        "other-seed-aq": card(defense="aq", seed=1),
        "one-shot-aq": card(defense="aq", shots=1),
        "ridge": card(algorithm="r2d2"),
        "ridge-aq": card(algorithm="r2d2", defense="aq"),
        "birds": card(family="image-folder"),
        "birds-aq": card(family="image-folder", defense="aq"),
    }
    assert study.pairs_of(cards) == [("plain", "longer-aq"), ("plain", "mixed"), ("ridge", "ridge-aq")]


def test_means_over_different_tasks_differ_by_welchs_test(study: Any) -> None:
    rng = np.random.default_rng(0)
    there, here = rng.normal(0.1, 0.3, 40), rng.normal(0, 0.1, 12)
    found, known = study.apart(there, here), stats.ttest_ind(there, here, equal_var=False)
    assert found.mean == pytest.approx(there.mean() - here.mean())
    assert found.p == pytest.approx(known.pvalue)
    assert found.half == pytest.approx((known.confidence_interval().high - known.confidence_interval().low) / 2)
    assert (study.apart(np.ones(3), np.ones(3)).p, study.apart(np.ones(3), np.zeros(3)).p) == (1, 0)


def measured(study: Any, clean: list[float], robust: list[float]) -> Any:
    return study.Measured(pd.Series(clean), {0.1: pd.Series(clean)}, {0.1: pd.Series(robust)})


def test_cases_are_paired_on_shared_tasks_and_the_gap_is_elsewhere_less_home(study: Any) -> None:
    cards = {"plain": card(), "aq": card(defense="aq")}
    found = {
        ("plain", "strokes"): measured(study, [1.0, 0.8, 0.9, 0.2], [0.0, 0.1]),
        ("aq", "strokes"): measured(study, [0.8, 0.6, 0.7], [0.5, 0.6]),
        ("plain", "Omniglot"): measured(study, [0.5, 0.6], [0.0, 0.2]),
        ("aq", "Omniglot"): measured(study, [0.6, 0.7], [0.3, 0.2]),
    }
    home, away = study.compare(cards, found)
    assert (home.home, home.target, home.clean_gap) == ("strokes", "strokes", None)
    assert (home.clean.mean, home.robust.mean) == pytest.approx((-0.2, 0.5))
    assert (away.clean.mean, away.robust.mean) == pytest.approx((0.1, 0.15))
    assert (away.clean_gap.mean, away.robust_gap.mean) == pytest.approx((0.3, -0.35))
    p = [one.p for one in (home.clean, home.robust, away.clean, away.robust, away.clean_gap, away.robust_gap)]
    assert min(p) * 6 == pytest.approx(min(one.holm for one in (home.clean, home.robust, away.clean_gap)))


def case(study: Any, clean: float, robust: float, gap: float = 0.0, target: str = "Omniglot") -> Any:
    clean_, robust_, gap_ = (
        study.Difference(mean, 0.01, 0.5, 0.5 if not mean else 0.01) for mean in (clean, robust, gap)
    )
    return study.Case("plain", "aq", "strokes", target, clean_, robust_, gap_, gap_)


@pytest.mark.parametrize(
    ("clean", "robust", "said"),
    [
        (
            (0.1, 0.1),
            (0.3, 0.3),
            "Robustness carries over, and generalisation, as clean accuracy on other data, improves",
        ),
        ((0.1, 0.0), (0.3, 0.0), "improves in 1 of 2 cases and harms it in none: the idea holds."),
        ((-0.1, 0.0), (0.3, 0.3), "does not improve in any case and is worse in 1: the idea is contradicted."),
        ((0.1, -0.1), (0.3, 0.0), "in part; generalisation, as clean accuracy on other data, improves in 1 case and"),
        (
            (0.0, 0.0),
            (0.0, -0.2),
            "not shown to carry over; generalisation is not shown to change: the idea is neither",
        ),
    ],
)
def test_the_verdict_falls_as_the_differences_do(
    study: Any, clean: tuple[float, float], robust: tuple[float, float], said: str
) -> None:
    cases = [case(study, *pair) for pair in zip(clean, robust, strict=True)]
    at_home = study.Case("plain", "aq", "strokes", "strokes", cases[0].clean, cases[0].robust)
    lines = study.verdict([at_home, *cases])
    assert said in lines[0]
    assert lines[0].startswith("Over 2 cases")
    assert f", by {100 * min(clean):+.1f} to {100 * max(clean):+.1f} points." in lines[0]
    assert "strokes → Omniglot" in lines[1]


def test_a_direction_says_how_many_pairs_are_higher_lower_and_open(study: Any) -> None:
    cases = [case(study, 0.1, 0.3, -0.1), case(study, -0.1, 0.3), case(study, 0.0, 0.3)]
    (line,) = study.verdict(cases)[1].splitlines()
    (alone,) = study.verdict(cases[:1])[1].splitlines()
    assert "(1 pair): clean accuracy is higher, robust accuracy higher. Measured against home, the clean" in alone
    assert "(3 pairs): clean accuracy is higher in 1, lower in 1, not shown to differ in 1, robust" in line
    assert "robust accuracy higher in all 3. Measured against home, the clean difference is lower in 1, not" in line


TINY: dict[str, Any] = {"network_options": {"width": 4}, "steps": 1, "validate_tasks": 2, "validate_attack": "noise-1"}


def test_evaluating_adding_and_writing_make_the_same_page_twice(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "CLEAN_TASKS", 3)
    monkeypatch.setattr(study, "ATTACK_TASKS", 2)
    load("image_folder").write(Strokes(train=2, val=2, test=6, samples=20), tmp_path / "paper")
    options = {"folder": str(tmp_path / "paper"), "size": 28, "channels": 1}
    few = study.Target("few | strokes", "image-folder", options)
    monkeypatch.setattr(study, "OWN", {"strokes": study.OWN["strokes"], "cifar-fs": few})
    monkeypatch.setattr(study, "OTHERS", {"strokes": (few,), "cifar-fs": (few,)})
    folders = []
    for name, defense in (("plain", "standard"), ("defended", "aq")):
        recipe = Recipe(**TINY, defense=defense, craft="fgsm-rs", eps=0.1)
        folders.append(train(recipe, tmp_path / name))
    study.evaluate(folders, tmp_path / "results", root=None)
    for out in (tmp_path / "one", tmp_path / "two"):
        study.add(tmp_path / "results", out, root=None)
        study.write(out)
    one, two = (
        {path.name: path.read_bytes() for path in out.rglob("*.*")} for out in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    assert {"generalisation.md", "differences.svg", "differences.png", "sources.json"} < one.keys()
    text = one["generalisation.md"].decode()
    assert "| `plain` | 1 × 4 | strokes |" in text
    assert "few \\| strokes" in text
    found = study.read(tmp_path / "one")
    mine = found.measured["defended", "few | strokes"]
    assert (len(mine.clean), len(mine.robust[0.1]), list(mine.noisy)) == (3, 2, [0.1])
    assert len(found.measured["defended", "strokes"].noisy) == 2


def test_the_committed_page_is_what_its_entries_make(study: Any) -> None:
    folder = ROOT / "reports" / "generalisation"
    assert study.page(study.read(folder)) == (folder / "generalisation.md").read_text(encoding="utf-8")
    assert all((folder / f"differences.{kind}").is_file() for kind in ("svg", "png"))


def test_the_sources_of_the_committed_page_are_what_the_families_draw(study: Any, cifar_root: Path) -> None:
    known = untrusted.parse((ROOT / "reports" / "generalisation" / "sources.json").read_text())
    targets = {one.title: one for one in (*study.OWN.values(), *study.OTHERS["cifar-fs"])}
    for episodes, held in known.items():
        target = targets[held["title"]]
        assert (held["family"], held["options"]) == (target.family, target.options)
        if target.family in ("cifar-fs", "fc100", "strokes"):
            family = study.catalog.family(target.family, root=cifar_root, **target.options)
            assert fingerprint(family, "test") == episodes


def test_a_family_written_as_an_image_folder_is_read_back_dark_on_white(tmp_path: Path) -> None:
    family = Strokes(train=2, val=2, test=3, samples=4)
    digest = load("image_folder").write(family, tmp_path / "paper")
    pool = ImageFolder(folder=str(tmp_path / "paper"), size=28).pool("test")
    assert pool.names == tuple(family.classes("test"))
    assert pool.images.equal(255 - family.pool("test").images.expand(-1, 3, -1, -1))
    with pytest.raises(InputError, match="is there already"):
        load("image_folder").write(family, tmp_path / "paper")
    assert digest == load("image_folder").write(family, tmp_path / "again")
