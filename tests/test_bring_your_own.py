"""docs/bring-your-own.md does what it says: its examples are run as they stand, section by section."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from robustbench_meta import checkpoint, cli, evaluate, store
from robustbench_meta.episodes import drawn
from robustbench_meta.statistics import summarise
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.types import InputError, Spec

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "bring-your-own.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}

Run = Callable[[str], str]
Walk = Callable[[str], dict[str, Any]]


@pytest.fixture
def rbm(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; give what it says, or raise AssertionError with that where its status is not 0."""

    def run(line: str) -> str:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.app()
        said = "".join(capfd.readouterr())
        assert left.value.code == 0, said
        return said

    return run


@pytest.fixture
def walk(rbm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Walk:
    """Run the blocks of a section in an empty folder beside the shipped checkpoints; give what its Python named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")

    def run(section: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        for kind, block in re.findall(r"```(python|sh)\n(.*?)```", SECTIONS[section], re.DOTALL):
            if kind == "python":
                exec(compile(block, section, "exec"), names)
            else:
                names["said"] = [rbm(line) for line in block.replace("\\\n", "").splitlines()]
        return names

    return run


def verdicts(results: Path) -> pd.DataFrame:
    tasks = store.read(results).tasks
    assert len(tasks) == 4
    return tasks[["task", "clean", "survived"]].sort_values("task").reset_index(drop=True)


def same_as_shipped(name: str, attack: str, eps: str, root: Path | None = None) -> None:
    given: dict[str, Any] = {
        "attacks": attack,
        "eps": eps,
        "tasks": 4,
        "audit": False,
        "out": "shipped",
        "data_root": root,
    }
    table = evaluate(f"checkpoints/{name}", **given)
    assert 0.4 < table["clean"].iloc[0] < 1
    pd.testing.assert_frame_equal(verdicts(Path("results")), verdicts(Path("shipped")))


def test_an_imported_maml_has_the_accuracies_of_the_learner_whose_weights_it_has(walk: Walk, cifar_root: Path) -> None:
    said = walk("MAML and ANIL, as learn2learn saves them")["said"]
    assert "module.features.0.normalize.weight  conv0.gamma   (32,)" in said[0]
    assert "taken for: CNN4 or ConvBase with max_pool=True" in said[0]
    same_as_shipped("cifar-fs-fomaml-standard", "fgsm", "8/255", cifar_root)


def test_an_imported_protonet_has_the_accuracies_of_the_learner_whose_weights_it_has(walk: Walk) -> None:
    walk("A ProtoNet, as easyfsl holds its backbone")
    assert checkpoint.load("imported/protonet").card.recipe.defense == "aq"
    same_as_shipped("strokes-protonet-aq", "pgd-20", "0.1")


def test_a_network_of_ones_own_is_evaluated_where_it_is_trusted_and_nowhere_else(walk: Walk, rbm: Run) -> None:
    said = walk("A network of your own")["said"]
    assert "Now try: rbm evaluate --ckpt imported/strided --trust mynets:strided" in said[0]
    assert len(verdicts(Path("results"))) == 4
    with pytest.raises(
        AssertionError, match="nothing of it was run; where you trust that code: --trust mynets:strided"
    ):
        rbm("rbm evaluate --ckpt imported/strided --attacks fgsm --tasks 4 --out other")
    again = "--attacks fgsm --eps 0.1 --tasks 4 --no-audit --workers 2 --out workers"
    rbm(f"rbm evaluate --ckpt imported/strided --trust mynets:strided {again}")
    pd.testing.assert_frame_equal(verdicts(Path("workers")), verdicts(Path("results")))
    given: dict[str, Any] = {"attacks": "fgsm", "eps": 0.1, "tasks": 4, "audit": False, "out": "python"}
    evaluate("imported/strided", trust="mynets:strided", **given)
    pd.testing.assert_frame_equal(verdicts(Path("python")), verdicts(Path("results")))
    with pytest.raises(InputError, match="nothing of it was run"):
        evaluate("imported/strided", **given)
    with pytest.raises(AssertionError, match=r"not verified .*nothing of it was run"):
        rbm("rbm verify results --ckpt imported/strided --seconds 0")


def test_a_scikit_learn_learner_is_a_black_box_with_its_own_accuracy(walk: Walk) -> None:
    names = walk("A learner that is no network: scikit-learn")
    table = names["table"]
    assert set(table["algorithm"]) == {"custom (black-box)"}
    assert list(table["attack"]) == ["noise-100", "square"]
    episodes = drawn(Strokes(), "test", Spec(5, 5, 3), [0, 1])
    right = []
    for task in range(2):
        model = names["Logistic"]().adapt(episodes.support_x[task], episodes.support_y[task])
        found = torch.from_numpy(model.predict(episodes.query_x[task].flatten(1).numpy()))
        right.append((found == episodes.query_y[task]).float().mean())
    assert table["clean"].tolist() == pytest.approx([float(torch.stack(right).mean())] * 2)
    assert (table["robust"] <= table["clean"]).all()
    assert table["robust"].iloc[1] < table["clean"].iloc[1]


def test_an_environment_by_its_name_is_attacked_with_recorded_demonstrations(walk: Walk) -> None:
    walk("An environment of Gymnasium's")
    assert Path("data/gym/CartPole-v1.npz").is_file()
    table = summarise(store.read("cart-results"))
    assert set(table["surface"]) == {"rollout"}
    robust = {(row["attack"], row["eps"]): row["robust"] for row in table.to_dict("records")}
    assert robust["noise-1", 0.1] == table["clean"].min() > 0.9
    assert robust["fgsm", 0.1] > 0.8
    assert robust["fgsm", 1.0] < 0.1 < 0.7 < robust["noise-1", 1.0]
