"""A grid is planned, run once, added to, and says what failed."""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from robustbench_meta import catalog, checkpoint, evaluate, grid, store
from robustbench_meta.checkpoint import Card, Recipe
from robustbench_meta.engine import start_params
from robustbench_meta.grid import Grid, Job, Subject, Watcher
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.types import Attack, InputError, Norm, Streams, Surface, Threat, Victim

FAMILY: Any = {"train": 4, "val": 4, "test": 6, "samples": 10}
STROKES = Strokes(**FAMILY)
RECIPE = Recipe(family_options=FAMILY, network_options={"width": 4, "depth": 2}, ways=3, shots=2)


def saved(folder: Path, recipe: Recipe = RECIPE, seed: int = 0) -> Path:
    """Save an untrained learner as a checkpoint."""
    algorithm = catalog.algorithm(recipe.algorithm, **recipe.algorithm_options)
    network = catalog.network(recipe.network, **recipe.network_options)
    space, rng = catalog.family_of(recipe).space, torch.Generator().manual_seed(seed)
    weights = checkpoint.pack(start_params(algorithm, network, space, recipe.ways, rng), {})
    card = Card(
        schema_version=1,
        recipe=recipe,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        weights_bytes=len(weights),
        recipe_sha256=recipe.sha256,
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
    return folder


class Centroids:
    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x[y == k].flatten(1).mean(0) for k in range(int(y.max()) + 1)])

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return -torch.cdist(x.flatten(1), fitted)


class BlackBox(Centroids):
    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return torch.from_numpy(super().predict(fitted, torch.from_numpy(x.numpy())).numpy())


@dataclass(frozen=True)
class Failing:
    """Returns the clean inputs of the first `good` tasks it meets, then raises."""

    good: int = 0

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False
    met: ClassVar[list[int]] = []

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        self.met.append(victim.tasks)
        if len(self.met) > self.good:
            raise RuntimeError("no more\npatience")
        return victim.x.clone()


@pytest.fixture
def subject() -> Subject:
    return grid.object_subject(Centroids(), "centroids", STROKES, device="cpu", ways=3)


def axes(*names: str, **fields: Any) -> Grid:
    chosen = {"eps": (0.05, 0.1), "shots": (2,), "queries": 3, **fields}
    return Grid(grid.named_attacks(names or ("fgsm", "pgd-3")), **chosen)


def content(results: Path, folder: str = "cells") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results / folder).iterdir()}


def test_a_grid_is_the_product_of_its_axes(subject: Subject, tmp_path: Path) -> None:
    plan = grid.make_plan(axes(norms=("linf", "l2"), shots=(1, 2), surfaces=("query", "support")), [subject], tmp_path)
    assert len(plan.jobs) == 2 * 2 * 2 * 2 * 2
    assert len({job.key for job in plan.jobs}) == len(plan.jobs)
    assert {job.cell.spec.proxies for job in plan.jobs if job.cell.threat.surface == "support"} == {3}
    assert not list(tmp_path.iterdir())


def test_a_run_records_every_task_of_every_cell(subject: Subject, tmp_path: Path) -> None:
    plan = grid.make_plan(axes(), [subject], tmp_path)
    seen: list[grid.Progress] = []
    assert grid.execute(plan, tmp_path, tasks=5, watcher=Watcher(seen.append)) == []
    results = store.read(tmp_path)
    assert results.tasks.groupby("key")["task"].apply(list).tolist() == [[0, 1, 2, 3, 4]] * 4
    assert (results.cells["seconds"] > 0).all()
    assert (seen[-1].done, seen[-1].total, seen[-1].seconds_left) == (20, 20, 0)
    assert [now.done for now in seen] == sorted(now.done for now in seen)


def test_run_again_it_does_nothing(subject: Subject, tmp_path: Path) -> None:
    plan = grid.make_plan(axes(), [subject], tmp_path)
    grid.execute(plan, tmp_path, tasks=3)
    before = content(tmp_path) | content(tmp_path, "timings")
    assert (grid.done(plan, tmp_path, 3), grid.estimate(plan, tmp_path, 3)) == (4, 0)
    grid.execute(plan, tmp_path, tasks=3)
    grid.execute(plan, tmp_path, tasks=2)
    assert content(tmp_path) | content(tmp_path, "timings") == before


def test_more_tasks_attacks_and_eps_only_add(subject: Subject, tmp_path: Path) -> None:
    grid.execute(grid.make_plan(axes(), [subject], tmp_path), tmp_path, tasks=3)
    before = content(tmp_path)
    grid.execute(
        grid.make_plan(axes("fgsm", "pgd-3", "noise-2", eps=(0.1, 0.05, 0.2)), [subject], tmp_path), tmp_path, tasks=5
    )
    after = content(tmp_path)
    assert len(after) == 9
    assert all(after[name].startswith(text) and len(after[name]) > len(text) for name, text in before.items())


def test_results_do_not_depend_on_blocks_order_or_what_ran_before(subject: Subject, tmp_path: Path) -> None:
    plan = grid.make_plan(axes("noise-3", "pgd-3"), [subject], tmp_path)
    for count in (1, 2, 7):
        grid.execute(plan, tmp_path / "steps", tasks=count)
    grid.execute(replace(plan, jobs=plan.jobs[::-1]), tmp_path / "whole", tasks=7)
    assert content(tmp_path / "steps") == content(tmp_path / "whole")


def test_a_failed_cell_is_recorded_and_the_rest_goes_on(subject: Subject, tmp_path: Path) -> None:
    attacks: dict[str, Attack] = {"failing": Failing(), **grid.named_attacks(["fgsm"])}
    plan = grid.make_plan(replace(axes(), attacks=attacks, eps=(0.1,)), [subject], tmp_path)
    told: list[str] = []
    (failure,) = grid.execute(plan, tmp_path, tasks=3, watcher=Watcher(tell=told.append))
    assert (failure.cell.attack, failure.reason) == ("failing", "RuntimeError: no more patience")
    cells = store.read(tmp_path).cells.set_index("attack")
    assert cells["status"].to_dict() == {"failing": "error", "fgsm": "ok"}
    assert cells.loc["failing", "reason"] == failure.reason
    assert any("failing linf 0.1 failed: RuntimeError" in line for line in told)


def test_a_changed_object_under_an_old_name_is_refused(subject: Subject, tmp_path: Path) -> None:
    class Other(Centroids):
        def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
            return super().predict(fitted, x).roll(1, dims=1)

    plan = grid.make_plan(axes("fgsm"), [subject], tmp_path)
    grid.execute(plan, tmp_path, tasks=2)
    grid.execute(plan, tmp_path, tasks=3)  # the same one goes on
    before = content(tmp_path)
    other = grid.object_subject(Other(), "centroids", STROKES, device="cpu", ways=3)
    changed = grid.make_plan(axes("fgsm"), [other], tmp_path)
    with pytest.raises(InputError, match="gives other verdicts on task 0 than those stored under this name"):
        grid.execute(changed, tmp_path, tasks=4)
    assert content(tmp_path) == before


def test_a_failure_is_forgotten_once_the_cell_has_run(subject: Subject, tmp_path: Path) -> None:
    Failing.met.clear()
    plan = grid.make_plan(replace(axes(eps=(0.1,)), attacks={"failing": Failing(good=4)}), [subject], tmp_path)
    assert len(grid.execute(plan, tmp_path, tasks=5)) == 1
    assert store.read(tmp_path).cells["status"].tolist() == ["error"]
    assert len(store.stored(tmp_path, plan.jobs[0].cell)) == 2  # the block that was whole
    Failing.met.clear()
    assert grid.execute(plan, tmp_path, tasks=5) == []
    assert store.read(tmp_path).cells["status"].tolist() == ["ok"]


def test_an_attack_out_of_memory_goes_on_with_smaller_blocks(subject: Subject, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Greedy(Failing):
        def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
            self.met.append(victim.tasks)
            if len(self.met) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return victim.x.clone()

    Failing.met.clear()
    plan = grid.make_plan(replace(axes(eps=(0.1,)), attacks={"greedy": Greedy()}), [subject], tmp_path)
    assert grid.execute(plan, tmp_path, tasks=4) == []
    assert len(store.read(tmp_path).tasks) == 4


@pytest.mark.parametrize(
    ("attack", "fields", "said"),
    [
        ("foolbox:LinfPGD", {"norms": ("l2",)}, "works in linf, not in l2"),
        ("autoattack", {"surfaces": ("support",)}, "attacks the query, not the support"),
        ("apgd-t", {}, "needs scores of 4 classes or more, and here it meets 3"),
        ("pgd-2+apgd-t", {}, "needs scores of 4 classes or more, and here it meets 3"),
    ],
)
def test_what_an_attack_cannot_serve_is_listed_and_not_run(
    subject: Subject, tmp_path: Path, attack: str, fields: dict[str, Any], said: str
) -> None:
    plan = grid.make_plan(axes("pgd-3", attack, **fields), [subject], tmp_path)
    assert {job.cell.attack for job in plan.jobs} == {"pgd-3"}
    assert plan.refused == (f"{attack} on centroids: {said}",)
    with pytest.raises(InputError, match="nothing is left to run"):
        grid.make_plan(axes(attack, **fields), [subject], tmp_path)


def test_threats_of_several_kinds_have_attacks_of_their_own_and_none_is_said_to_lack(
    subject: Subject, tmp_path: Path
) -> None:
    plan = grid.make_plan(axes("fgsm", "brightness", eps=None, norms=("linf", "corruption")), [subject], tmp_path)
    met = {(job.cell.threat.norm, job.cell.attack) for job in plan.jobs}
    assert met == {("linf", "fgsm"), ("corruption", "brightness")}
    assert plan.refused == ()
    lacking = grid.make_plan(axes("fgsm", norms=("linf", "corruption"), eps=(0.0,)), [subject], tmp_path)
    assert lacking.refused == ("fgsm on centroids: works in linf, l2, l1, not in corruption",)


def test_an_attack_whose_library_is_not_installed_is_refused_at_planning(subject: Subject, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Elsewhere(Failing):
        needs_package: ClassVar[str] = "not_a_package"

    plan = grid.make_plan(
        replace(axes("pgd-3"), attacks={**axes("pgd-3").attacks, "far": Elsewhere()}), [subject], tmp_path
    )
    assert {job.cell.attack for job in plan.jobs} == {"pgd-3"}
    assert len(plan.refused) == 1
    assert plan.refused[0].startswith("far on centroids: needs not_a_package, which is not installed")


def test_batch_statistics_rule_out_attacks_on_single_queries(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"norm_mode": "batch"})
    loaded = grid.load_subject(saved(tmp_path / "ckpt", recipe), device="cpu")
    plan = grid.make_plan(axes("autoattack", "pgd-3"), [loaded], tmp_path / "r")
    assert {job.cell.attack for job in plan.jobs} == {"pgd-3"}
    assert "transductive" in plan.refused[0]


def test_a_learner_without_gradients_meets_score_based_attacks_only(tmp_path: Path) -> None:
    black = grid.object_subject(BlackBox(), "black", STROKES, device="cpu", ways=3)
    assert black.algorithm == "custom (black-box)"
    plan = grid.make_plan(axes("fgsm", "noise-2"), [black], tmp_path)
    assert {job.cell.attack for job in plan.jobs} == {"noise-2"}
    assert "needs gradients" in plan.refused[0]
    assert grid.execute(plan, tmp_path, tasks=2) == []


def test_algorithms_without_steps_run_once_for_the_whole_steps_axis(tmp_path: Path) -> None:
    loaded = [
        grid.load_subject(saved(tmp_path / name, RECIPE.model_copy(update={"algorithm": name})), device="cpu")
        for name in ("protonet", "fomaml")
    ]
    plan = grid.make_plan(axes("fgsm", eps=(0.1,), steps=(1, 3)), loaded, tmp_path / "r")
    assert [(job.cell.algorithm, job.cell.steps) for job in plan.jobs] == [
        ("protonet", None),
        ("fomaml", 1),
        ("fomaml", 3),
    ]
    default = grid.make_plan(axes("fgsm", eps=(0.1,)), loaded, tmp_path / "r")
    assert [job.cell.steps for job in default.jobs] == [None, 10]


def test_defaults_are_the_checkpoints_own(tmp_path: Path) -> None:
    loaded = grid.load_subject(saved(tmp_path / "ckpt"), device="cpu")
    plan = grid.make_plan(Grid(grid.named_attacks(grid.ATTACKS), queries=3), [loaded], tmp_path / "r")
    assert {(job.cell.spec.ways, job.cell.spec.shots, job.cell.family) for job in plan.jobs} == {(3, 2, "strokes")}
    assert [job.cell.threat.eps for job in plan.jobs[::3]] == [0.05, 0.1]
    assert [job.cell.attack for job in plan.jobs[:3]] == ["fgsm", "pgd-20", "pgd-mt-50"]


def test_other_ways_need_a_learner_without_a_head_of_its_own(tmp_path: Path) -> None:
    found = {}
    for name in ("protonet", "r2d2", "fomaml"):
        recipe = RECIPE.model_copy(update={"algorithm": name})
        found[name] = grid.load_subject(saved(tmp_path / name, recipe), device="cpu")
    for name in ("protonet", "r2d2"):
        plan = grid.make_plan(axes("fgsm", eps=(0.1,), ways=4), [found[name]], tmp_path / "r")
        assert grid.execute(plan, tmp_path / "r", tasks=1) == []
    with pytest.raises(InputError, match="ways: 4; fomaml has one head for 3 classes"):
        grid.make_plan(axes("fgsm", ways=4), [found["fomaml"]], tmp_path / "r")


def test_a_renamed_checkpoint_finds_its_results_under_their_name(tmp_path: Path) -> None:
    old = grid.load_subject(saved(tmp_path / "old"), device="cpu")
    grid.execute(grid.make_plan(axes("fgsm"), [old], tmp_path / "r"), tmp_path / "r", tasks=2)
    new = grid.load_subject((tmp_path / "old").rename(tmp_path / "new"), device="cpu")
    plan = grid.make_plan(axes("fgsm", "pgd-3"), [new], tmp_path / "r")
    assert {job.cell.checkpoint for job in plan.jobs} == {"old"}
    assert grid.done(plan, tmp_path / "r", 2) == 2


def test_another_recipe_with_the_same_weights_is_another_learner(tmp_path: Path) -> None:
    options = RECIPE.model_copy(update={"algorithm": "fomaml", "algorithm_options": {"step_size": 0.2}})
    recipes = [RECIPE.model_copy(update={"algorithm": "fomaml"}), options]
    loaded = [grid.load_subject(saved(tmp_path / str(i), recipe), device="cpu") for i, recipe in enumerate(recipes)]
    assert loaded[0].weights != loaded[1].weights
    with pytest.raises(InputError, match="given twice"):
        grid.make_plan(axes("fgsm"), [loaded[0], loaded[0]], tmp_path / "r")


def test_a_budget_picks_the_same_number_of_tasks_for_every_cell(subject: Subject, tmp_path: Path) -> None:
    plan = grid.make_plan(axes(), [subject], tmp_path)
    told: list[str] = []
    started = time.monotonic()
    assert grid.execute(plan, tmp_path, budget=3.0, watcher=Watcher(tell=told.append)) == []
    assert time.monotonic() - started < 20
    counts = store.read(tmp_path).tasks.groupby("key").size()
    assert counts.nunique() == 1
    assert counts.iloc[0] >= 2
    assert f"budget: {counts.iloc[0]} tasks for each cell" in told


def test_a_budget_too_small_for_anything_still_gives_two_tasks(subject: Subject, tmp_path: Path) -> None:
    plan = grid.make_plan(axes(), [subject], tmp_path)
    grid.execute(plan, tmp_path, budget=1e-6)
    assert store.read(tmp_path).tasks.groupby("key").size().tolist() == [2] * 4


def test_an_estimate_comes_from_like_cells(subject: Subject, tmp_path: Path) -> None:
    plan = grid.make_plan(axes("fgsm", eps=(0.1,)), [subject], tmp_path)
    assert grid.estimate(plan, tmp_path, 10) is None
    grid.execute(plan, tmp_path, tasks=2)
    (pace,) = store.seconds_per_task(tmp_path).values()
    more = grid.make_plan(axes("fgsm", eps=(0.1, 0.2)), [subject], tmp_path)
    assert grid.estimate(more, tmp_path, 10) == pytest.approx(18 * pace)


def test_pictures_are_kept_of_gradient_attacks(subject: Subject, tmp_path: Path) -> None:
    grid.execute(grid.make_plan(axes("fgsm", "noise-2", eps=(0.1,)), [subject], tmp_path), tmp_path, tasks=1)
    (found,) = store.read_gallery(tmp_path)
    assert (found["attack"], found["clean"].shape) == ("fgsm", (6, 1, 28, 28))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"eps": (-0.1,)}, "eps: -0.1 is not a finite number >= 0"),
        ({"eps": (float("nan"),)}, "eps: nan is not"),
        ({"eps": (8.0,)}, "did you mean 8/255?"),
        ({"eps": None, "norms": ("l2",)}, "eps: l2 has no default"),
        ({"norms": ("linv",)}, "norm: 'linv' is unknown; did you mean 'linf'?"),
        ({"surfaces": ("querry",)}, "surface: 'querry' is unknown; did you mean 'query'?"),
        ({"split": "tests"}, "split: 'tests' is unknown; did you mean 'test'?"),
        ({"ways": 1}, "ways: 1 is not a whole number >= 2"),
        ({"ways": 60}, "ways=60: must be from 2 to 6"),
        ({"shots": (0,)}, "shots: 0 is not a whole number >= 1"),
        ({"shots": (8,)}, "together at most 10"),
        ({"queries": 0}, "queries: 0 is not"),
        ({"steps": (0,)}, "steps: 0 is not"),
        ({"steps": (1001,)}, "steps: 1001 is not between 1 and 1000"),
        ({"seed": -1}, "seed: -1 is not"),
        ({"eps": ()}, "eps: none given"),
    ],
)
def test_axes_that_cannot_be_used_are_refused_in_one_line(
    subject: Subject, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as refused:
        grid.make_plan(axes(**fields), [subject], tmp_path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "eps"), [("8/255", 8 / 255), ("0.03", 0.03), (0.5, 0.5), ("1e-2", 0.01), ("0", 0.0)])
def test_eps_is_read_as_a_fraction_or_a_number(text: str | float, eps: float) -> None:
    assert grid.parse_eps(text) == eps


@pytest.mark.parametrize("text", ["", "x", "8/0", "-8/255", "nan", "inf", "8/255/2", "1/nan"])
def test_what_is_no_eps_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="eps: "):
        grid.parse_eps(text)


@pytest.mark.parametrize(("text", "seconds"), [("20m", 1200), ("90s", 90), ("1h30m", 5400), ("600", 600), ("2h", 7200)])
def test_a_budget_is_read_as_a_time(text: str, seconds: float) -> None:
    assert grid.parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "20x", "soon", "1.5h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="budget: "):
        grid.parse_budget(text)


@pytest.mark.parametrize(
    "call",
    [
        lambda plan, out: grid.execute(plan, out, tasks=0),
        lambda plan, out: grid.execute(plan, out, tasks=5, budget=60.0),
    ],
)
def test_a_count_that_cannot_be_run_is_refused_before_anything_is_written(
    subject: Subject, tmp_path: Path, call: Callable[[grid.Plan, Path], Any]
) -> None:
    plan = grid.make_plan(axes(), [subject], tmp_path)
    with pytest.raises(InputError):
        call(plan, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="cuda is not there"):
        grid.choose_device("cuda")
    assert grid.choose_device("auto") == "cpu"
    with pytest.raises(InputError, match="'gpu' is not one of"):
        grid.choose_device("gpu")


def test_one_call_from_python_gives_a_table(tmp_path: Path) -> None:
    folder = saved(tmp_path / "ckpt")
    found = evaluate(
        folder, attacks="fgsm", eps=["8/255", 0.1], shots=[1, 2], queries=3, tasks=2, device="cpu", audit=False
    )
    assert found[["checkpoint", "shots", "eps", "tasks", "status"]].values.tolist() == [
        ["ckpt", 1, 8 / 255, 2, "ok"],
        ["ckpt", 1, 0.1, 2, "ok"],
        ["ckpt", 2, 8 / 255, 2, "ok"],
        ["ckpt", 2, 0.1, 2, "ok"],
    ]
    assert found["robust"].between(0, found["clean"]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


def test_an_object_of_ones_own_is_evaluated_from_python(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "family": STROKES,
        "ways": 3,
        "shots": 2,
        "queries": 3,
        "eps": 0.1,
        "tasks": 2,
        "audit": False,
    }
    white = evaluate(learner=Centroids(), attacks=["fgsm"], name="mine", out=tmp_path, **options)
    assert white[["checkpoint", "algorithm", "attack"]].values.tolist() == [["mine", "custom", "fgsm"]]
    with pytest.warns(UserWarning, match="not run: fgsm on theirs: needs gradients"):
        black = evaluate(learner=BlackBox(), attacks=["fgsm", "noise-2"], name="theirs", out=tmp_path, **options)
    assert black[["checkpoint", "algorithm", "attack"]].values.tolist() == [["theirs", "custom (black-box)", "noise-2"]]
    assert len(store.read(tmp_path).cells) == 2


def test_a_cell_that_fails_from_python_is_a_row_and_a_warning() -> None:
    attacks: dict[str, Attack] = {"failing": Failing()}
    options: dict[str, Any] = {
        "family": STROKES,
        "ways": 3,
        "shots": 2,
        "queries": 3,
        "eps": 0.1,
        "tasks": 2,
        "audit": False,
    }
    with pytest.warns(UserWarning, match="RuntimeError: no more patience"):
        found = evaluate(learner=Centroids(), attacks=attacks, **options)
    assert found["status"].tolist() == ["error"]
    assert found["robust"].isna().all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "ckpt: none given"),
        ({"learner": Centroids()}, "family: a learner of one's own needs it named"),
        ({"learner": object(), "family": STROKES}, "learner: object lacks adapt"),
        ({"checkpoints": "nowhere"}, "ckpt: nowhere is not a folder"),
        ({"learner": Centroids(), "family": "strikes"}, "family: 'strikes' is unknown; did you mean 'strokes'?"),
        ({"learner": Centroids(), "family": STROKES, "attacks": "pdg-20"}, "did you mean 'pgd-20'?"),
    ],
)
def test_bad_input_from_python_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        evaluate(**options)
    assert said in str(refused.value)


def test_the_public_call_is_a_function_whatever_was_imported_before() -> None:
    importlib.import_module("robustbench_meta.evaluate")
    package = importlib.reload(importlib.import_module("robustbench_meta"))
    assert package.evaluate.__module__ == "robustbench_meta"


def test_a_cell_is_named_in_one_line(subject: Subject, tmp_path: Path) -> None:
    job: Job = grid.make_plan(axes("fgsm"), [subject], tmp_path).jobs[0]
    assert grid.label(job.cell) == "centroids, 2-shot: fgsm linf 0.05"
    assert grid.label(replace(job.cell, steps=5)) == "centroids, 2-shot, 5 steps: fgsm linf 0.05"
    assert [grid.duration(s) for s in (3.2, 300, 12_000)] == ["4 s", "5 min", "3 h 20 min"]
