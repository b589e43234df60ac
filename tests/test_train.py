"""Training: same recipe, same weights; a kill loses nothing that matters; nothing foreign is overwritten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from robustbench_meta import catalog, checkpoint, curve
from robustbench_meta.batches import augment
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.train import Progress, train
from robustbench_meta.types import InputError, Spec

TINY = Recipe(
    family="strokes",
    network_options={"width": 4},
    queries=3,
    shots=2,
    meta_batch=2,
    steps=6,
    validate_every=3,
    validate_tasks=2,
    validate_attack="pgd-2",
    eps=0.1,
)


class Interrupted(Exception):
    pass


def stop_at(step: int) -> object:
    def progress(seen: Progress) -> None:
        if seen.step == step:
            raise Interrupted

    return progress


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_mode": "running", "average": 0.9, "train_ways": 8},
        {"algorithm": "fomaml", "defense": "aq", "craft": "fgsm-rs", "augment": ("flip", "crop")},
        {"algorithm": "transfer", "defense": "aq", "craft": "fgsm-rs", "norm_mode": "running", "augment": ("flip",)},
        {"algorithm": "meta-sgd", "average": 0.9},
        {"algorithm": "fomaml", "defense": "rmaml", "craft": "fgsm-rs"},
        {"algorithm": "reptile", "defense": "support", "craft": "fgsm-rs"},
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_weights(
    tmp_path: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TINY.model_copy(update=changes)
    train(recipe, tmp_path / "whole")
    monkeypatch.setattr("robustbench_meta.train.SAVE_EVERY", 0.0)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "cut", progress=stop_at(5))  # type: ignore[arg-type]
    assert not (tmp_path / "cut" / checkpoint.CARD).exists()
    train(recipe, tmp_path / "cut")
    whole, cut = (tmp_path / name / checkpoint.WEIGHTS for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    cards = [checkpoint.read_card(tmp_path / name / checkpoint.CARD) for name in ("whole", "cut")]
    whole_history, cut_history = ([(seen.clean, seen.robust) for seen in card.history] for card in cards)
    assert whole_history == cut_history
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["card.json", "curve.svg", "weights.safetensors"]


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    recipe = TINY.model_copy(update={"steps": 40, "validate_every": 20})
    train(recipe, tmp_path / "whole")
    program = (
        "import sys, robustbench_meta.train as t; from pathlib import Path; t.SAVE_EVERY = 0.0; "
        "t.torch.set_num_threads(int(sys.argv[3])); "
        "t.train(t.Recipe.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-c", program, recipe.model_dump_json(), str(tmp_path / "killed"), threads]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed" / "resume.safetensors").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / checkpoint.CARD).exists()
    subprocess.run(command, check=True, env=os.environ)
    whole, killed = (tmp_path / name / checkpoint.WEIGHTS for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()


def test_a_guarded_run_that_collapses_ends_there_keeps_its_best_weights_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"defense": "fast", "defense_options": {"guard": 0.97}, "steps": 60, "validate_every": 2, "shots": 5}
    recipe = TINY.model_copy(update=changes | {"learning_rate": 5e-3, "eps": 0.005})
    found = checkpoint.load(train(recipe, tmp_path / "whole")).card
    accuracies = [seen.robust for seen in found.history]
    assert found.history[-1].step < 60
    assert accuracies[-1] < 0.97 * max(accuracies[:-1])
    assert found.stopped
    assert found.stopped.startswith(f"catastrophic overfitting: accuracy under pgd-2 fell from {max(accuracies):.1%}")
    best = max(found.history, key=lambda seen: (seen.clean + seen.robust, -seen.step))
    assert found.selected_step == best.step
    monkeypatch.setattr("robustbench_meta.train.SAVE_EVERY", 0.0)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "cut", progress=stop_at(found.history[-1].step))  # type: ignore[arg-type]
    cut = checkpoint.load(train(recipe, tmp_path / "cut")).card
    assert (cut.stopped, cut.weights_sha256) == (found.stopped, found.weights_sha256)


def test_a_run_that_watches_training_tasks_measures_them_and_keeps_its_last_weights_beside_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TINY.model_copy(update={"train_tasks": 2, "seed": 3})
    watched = checkpoint.load(train(recipe, tmp_path / "watched"))
    plain = checkpoint.load(train(recipe.model_copy(update={"train_tasks": None}), tmp_path / "plain"))
    # Watching moves nothing, and looks at the tasks that training began with.
    assert watched.card.weights_sha256 == plain.card.weights_sha256
    assert [(seen.clean, seen.robust) for seen in watched.card.history] == [
        (seen.clean, seen.robust) for seen in plain.card.history
    ]
    assert [(seen.train_clean, seen.train_robust) for seen in plain.card.history] == [(None, None)] * 2
    last = checkpoint.load(tmp_path / "watched" / "watched-last")
    assert (last.card.selected_step, last.card.criterion) == (6, "the last step")
    assert (last.card.weights_sha256 == watched.card.weights_sha256) == (watched.card.selected_step == 6)
    tasks = catalog.family_of(recipe).sample("train", Spec(5, 2, 3), [0, 1], seed=3)
    learner = catalog.learner(last)
    fitted = learner.adapt(tasks.support_x, tasks.support_y)
    right = learner.predict(fitted, tasks.query_x).argmax(-1) == tasks.query_y
    assert watched.card.history[-1].train_clean == pytest.approx(right.float().mean().item())
    assert (watched.card.history[-1].train_robust or 0) <= right.float().mean().item()
    assert not (tmp_path / "plain" / "plain-last").exists()
    monkeypatch.setattr("robustbench_meta.train.SAVE_EVERY", 0.0)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "cut", progress=stop_at(5))  # type: ignore[arg-type]
    assert not (tmp_path / "cut" / "cut-last").exists()
    train(recipe, tmp_path / "cut")
    cut = checkpoint.load(tmp_path / "cut" / "cut-last").card
    assert cut.weights_sha256 == last.card.weights_sha256
    assert [seen.train_robust for seen in cut.history] == [seen.train_robust for seen in last.card.history]


def test_the_curve_shows_training_tasks_where_they_were_met(tmp_path: Path) -> None:
    drawn = {}
    for name, tasks in (("with", 2), ("without", None)):
        card = checkpoint.read_card(
            train(TINY.model_copy(update={"train_tasks": tasks}), tmp_path / name) / "card.json"
        )
        axes = Figure().add_subplot()
        curve.plot(axes, card)
        drawn[name] = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
    robust = [100 * (seen.train_robust or 0) for seen in checkpoint.read_card(tmp_path / "with" / "card.json").history]
    assert drawn["with"].pop("robust, training tasks") == robust
    assert drawn["with"].pop("clean, training tasks")
    assert drawn["with"].keys() == drawn["without"].keys()


def test_training_makes_a_learner_better(tmp_path: Path) -> None:
    recipe = TINY.model_copy(
        update={"network_options": {"width": 8}, "shots": 5, "queries": 5, "steps": 60, "validate_every": 60}
    )
    recipe = recipe.model_copy(update={"validate_tasks": 20, "learning_rate": 3e-3, "validate_attack": "noise-1"})
    started = train(recipe.model_copy(update={"steps": 1, "learning_rate": 1e-9}), tmp_path / "untrained")
    trained = train(recipe, tmp_path / "trained")
    before, after = (checkpoint.load(path).card.history[-1].clean for path in (started, trained))
    assert after > before + 0.05


def test_the_checkpoint_rebuilds_its_learner_and_names_its_criterion(tmp_path: Path) -> None:
    found = checkpoint.load(train(TINY.model_copy(update={"norm_mode": "running"}), tmp_path / "one"))
    learner = catalog.learner(found)
    assert learner.norm_mode == "running"
    assert {name.rsplit(".", 1)[0] for name in learner.running} == {f"conv{block}" for block in range(4)}
    assert found.card.criterion == "highest clean accuracy on 2 validation tasks"
    assert found.card.selected_step in (3, 6)


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(tmp_path: Path) -> None:
    out = train(TINY, tmp_path / "one")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    train(TINY, out)
    with pytest.raises(InputError, match=r"steps = 6, not 7"):
        train(TINY.model_copy(update={"steps": 7}), out)
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": "protonets"}, "did you mean 'protonet'"),
        ({"craft": "pdg-7", "defense": "aq"}, "attack: 'pdg-7' is unknown"),
        ({"algorithm_options": {"stepsize": 1}, "algorithm": "maml"}, "legal: step_size"),
        ({"network_options": {"width": "wide"}}, "width = 'wide' is not of type int"),
        ({"augment": ("mirror",)}, "augment: 'mirror'"),
        ({"eps": 8.0}, "did you mean 8/255"),
        ({"eps": 0.0, "defense": "aq"}, "nothing to train against"),
        ({"validate_attack": "pgdd"}, "attack: 'pgdd'"),
        ({"defense": "aq", "norm": "l2", "eps": 1.0}, "norm: 'l2' is not served by"),
        ({"defense": "aq", "craft": "pgd-7-aq", "eps": 0.2}, "eps: 0.2 is out of reach of 7 steps"),
        ({"validate_attack": "foolbox:FGM"}, "norm: 'linf' is not served by"),
        ({"norm_mode": "batch", "defense": "aq", "craft": "foolbox:LinfPGD"}, "judges queries together"),
        ({"shots": 1000}, "shots"),
        ({"ways": 999}, "ways"),
        ({"defense": "trades", "craft": "fgsm", "defense_options": {"beta": -3.0}}, "beta: -3.0"),
        ({"defense": "mixed", "craft": "fgsm", "defense_options": {"clean_weight": -1.0}}, "clean_weight: -1.0"),
        ({"train_ways": 8, "algorithm": "fomaml"}, "train_ways: 8 does not fit fomaml's 5-way head"),
        ({"train_ways": 8, "algorithm": "transfer"}, "train_ways: 8 has no meaning where transfer trains"),
        ({"algorithm": "transfer", "defense": "mixed", "craft": "fgsm"}, "defense: 'mixed' attacks the support"),
        (
            {"algorithm": "reptile", "defense": "aq", "craft": "fgsm"},
            "defense: 'aq' attacks the query loss, which a disp",
        ),
        (
            {"algorithm": "anil", "meta_gradient": "displacement"},
            "meta_gradient: 'displacement' never moves conv0.beta",
        ),
        ({"defense": "fast", "validate_attack": "fgsm"}, "validate_attack: 'fgsm' does not show what fast guards"),
        ({"defense": "fast", "defense_options": {"guard": 1.0}}, "guard: 1.0 is not from 0 to below 1"),
        ({"defense": "rmaml", "craft": "fgsm", "defense_options": {"robust_rate": 0.0}}, "robust_rate: 0.0"),
        ({"algorithm": "meta-sgd", "meta_gradient": "first-order"}, "meta_gradient: 'first-order' never moves rate"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said) as raised:
        train(TINY.model_copy(update=changes), tmp_path / "never")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "never").exists()


def test_augmentation_mirrors_and_moves_whole_images() -> None:
    images = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mirrored = augment(images, ("flip",), torch.Generator().manual_seed(1))
    flipped = torch.tensor([torch.equal(new, old.flip(2)) for new, old in zip(mirrored, images, strict=True)])
    same = torch.tensor([torch.equal(new, old) for new, old in zip(mirrored, images, strict=True)])
    assert (flipped ^ same).all()
    assert 16 < flipped.sum() < 48
    moved = augment(images, ("crop",), torch.Generator().manual_seed(1))
    for new, old in zip(moved, images, strict=True):
        offsets = [
            (r, c)
            for r in range(5)
            for c in range(5)
            if torch.equal(new[:, 2:-2, 2:-2], old[:, r : r + 12, c : c + 12])
        ]
        assert len(offsets) == 1


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ("fomaml", "is first order by name"),
        ("reptile", "is displaced by name"),
        ("protonet", "adapts without inner steps"),
    ],
)
def test_a_meta_gradient_that_does_not_fit_the_algorithm_is_refused(algorithm: str, said: str, tmp_path: Path) -> None:
    recipe = Recipe(algorithm=algorithm, meta_gradient="recomputed", steps=1, meta_batch=1)
    with pytest.raises(InputError, match=rf"^meta_gradient: 'recomputed' does not fit: {algorithm} {said}"):
        train(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
