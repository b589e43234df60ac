"""Protocols set every knob as their papers' code does, and what a run or a learner differs in is named."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from test_cli import Run
from test_grid import Centroids, saved

from robustbench_meta import catalog, evaluate, grid, protocols, report, runs, store, zoo
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.executors import Here
from robustbench_meta.grid import Subject
from robustbench_meta.networks import Conv4
from robustbench_meta.outcomes import Board, Entry
from robustbench_meta.protocols import PRESETS, differences
from robustbench_meta.runs import Choice
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.types import InputError

FAMILY: Any = {"train": 5, "val": 5, "test": 5, "samples": 20}
STROKES = Strokes(**FAMILY)
RECIPE = Recipe(family_options=FAMILY, network_options={"width": 4, "depth": 2})
LEVEL = 1 / 255
HERE = Here()

BOARD = Board("query", "inductive", "cifar-fs", "e", "test", 5, 5, 15, "linf", 0)
ENTRY = Entry("mine", "w", "protonet", "aq", "support", None)


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("zoo") / "tiny", RECIPE)


def stepped(folder: Path, **fields: Any) -> Path:
    """Save an untrained learner that takes gradient steps and normalises by the query batch."""
    changes = {"algorithm": "fomaml", "norm_mode": "batch", "shots": 1, **fields}
    return saved(folder, RECIPE.model_copy(update=changes))


def subjects(*folders: Path) -> list[Subject]:
    return [grid.load_subject(folder, device="cpu") for folder in folders]


def axes(run: runs.Run) -> set[tuple[Any, ...]]:
    """Everything that cells of a run fix, and how many tasks each batch goes to."""
    return {
        (
            *(job.cell.attack, round(job.cell.threat.eps * 255, 3), job.cell.threat.norm, job.cell.threat.surface),
            *(job.cell.spec.ways, job.cell.spec.shots, job.cell.spec.queries, job.cell.steps),
            *(job.cell.split, job.cell.seed, batch.tasks),
        )
        for batch in run.batches
        for job in batch.plan.jobs
    }


def test_aq_has_the_knobs_of_its_code() -> None:
    one = PRESETS["aq"]
    assert (one.ways, one.shots, one.queries, one.split, one.surface) == (5, (1, 5), 15, "test", "query")
    assert (one.norm, one.eps, one.grey_eps, one.seed) == ("linf", (8 * LEVEL,), (), 0)
    assert one.norm_modes == ("running",)
    assert (one.steps, one.step_size, one.train_steps, one.train_shots) == (10, 0.01, 5, 15)
    assert [(part.attack, part.tasks, part.gpu_tasks) for part in one.parts] == [("pgd-20-aq", 1000, 1000)]


def test_rmaml_has_the_knobs_of_its_code() -> None:
    one = PRESETS["rmaml"]
    assert (one.ways, one.shots, one.queries, one.split, one.surface) == (5, (1,), 15, "test", "query")
    assert (one.norm, one.eps, one.grey_eps, one.seed) == ("linf", (2 * LEVEL,), (), 0)
    assert (one.norm_modes, one.algorithms) == (("batch",), ("fomaml",))
    assert (one.steps, one.step_size, one.train_steps, one.train_shots) == (10, 0.01, 5, "as tested")
    assert one.backbone is not None
    assert (one.backbone.network, dict(one.backbone.options)) == (
        "conv4",
        {"width": 32, "order": "relu-bn", "bias": True},
    )
    assert [(part.attack, part.tasks, part.gpu_tasks) for part in one.parts] == [("pgd-10-rmaml", 2400, 2400)]


def test_dfsl_has_the_knobs_of_its_code() -> None:
    one = PRESETS["dfsl"]
    assert (one.ways, one.shots, one.queries, one.split, one.surface) == (5, (5,), 15, "test", "query")
    assert (one.norm, one.eps, one.grey_eps, one.seed) == ("linf", (0.01,), (), 0)
    assert (one.norm_modes, one.steps) == (("running",), None)
    assert [(part.attack, part.tasks, part.gpu_tasks) for part in one.parts] == [("pgd-10-dfsl", 5000, 5000)]


def test_maml_2017_has_the_knobs_of_its_code() -> None:
    one = PRESETS["maml-2017"]
    assert (one.ways, one.shots, one.queries, one.split, one.surface) == (5, (1, 5), None, "test", "query")
    assert (one.eps, one.clean_only, one.norm_modes) == ((0.0,), True, ("batch",))
    assert (one.steps, one.step_size, one.train_steps) == (10, 0.01, 5)
    assert [(part.attack, part.tasks) for part in one.parts] == [("clean", 600)]
    there = one.on("omniglot")
    assert (there.step_size, there.train_steps, there.steps) == (0.4, 1, 10)
    assert there.backbone is not None
    assert dict(there.backbone.options) == {"width": 64, "bias": True}
    assert one.on("cifar-fs") == replace(one, variants=())


def test_strict_is_inductive_with_a_strong_and_a_parameter_free_attack() -> None:
    one = PRESETS["strict"]
    assert (one.ways, one.shots, one.queries, one.split, one.surface) == (5, (5,), 15, "test", "query")
    assert one.eps == (2 * LEVEL, 4 * LEVEL, 8 * LEVEL) == grid.COLOUR_EPS
    assert one.grey_eps == (0.05, 0.1) == grid.GREY_EPS
    assert "batch" not in one.norm_modes
    assert {"support", "running"} <= {*one.norm_modes}
    counts = [(part.attack, part.tasks, part.gpu_tasks) for part in one.parts]
    assert counts == [("pgd-mt-50", 1000, 1000), ("autoattack", 100, 1000)]


def test_the_attacks_of_the_papers_are_configured_as_in_their_code() -> None:
    for name, steps, step in (("pgd-20-aq", 20, 2), ("pgd-10-rmaml", 10, 2), ("pgd-10-dfsl", 10, 1)):
        attack: Any = catalog.attack(name)
        assert (attack.steps, attack.step, attack.step_unit) == (steps, step * LEVEL, "input")
        assert (attack.start, attack.objective, attack.keep) == ("random", "cross-entropy", "last")


def test_every_part_names_the_configuration_that_the_catalog_has() -> None:
    parts = [part for one in PRESETS.values() for part in one.parts if part.attack != protocols.CLEAN]
    assert len(parts) == 5
    for part in parts:
        assert part.fields == repr(catalog.attack(part.attack)), part.attack


def test_a_name_means_one_configuration() -> None:
    """A knob that changes takes a new version: then, and only then, this table changes."""
    assert {name: one.label for name, one in PRESETS.items()} == LABELS
    assert all(one.name == name for name, one in PRESETS.items())
    aq = PRESETS["aq"]
    assert replace(aq, eps=(4 * LEVEL,)).sha256 != aq.sha256
    assert replace(aq, parts=(replace(aq.parts[0], tasks=100),)).sha256 != aq.sha256
    assert replace(aq, about="other words").sha256 == aq.sha256


LABELS = {
    "aq": "aq v1 (97e98779)",
    "rmaml": "rmaml v1 (5070df47)",
    "dfsl": "dfsl v1 (68a6d108)",
    "maml-2017": "maml-2017 v1 (d8117895)",
    "strict": "strict v2 (83afde4a)",
}


def test_what_is_taken_where_a_recipe_says_nothing_is_what_the_catalog_has() -> None:
    found = {}
    for name, made in catalog.shelf("algorithms").presets.items():
        if hasattr(made, "step_size"):
            found[name] = (made.step_size, made.steps)
    assert found == protocols.INNER
    made = Conv4()
    assert asdict(made) == protocols.CONV4


def test_families_are_known_as_grey_or_colour_by_their_images() -> None:
    for name in protocols.GREY:
        assert catalog.family(name).space.shape[0] == 1
    for name in protocols.COLOUR:
        assert catalog.family(name).space.shape[0] == 3


def test_an_unknown_protocol_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"protocol: 'stric' is unknown; did you mean 'strict'\? legal: aq, dfsl,"):
        protocols.find("stric")


def met(protocol: str, eps: tuple[float, ...], tasks: int, **changes: Any) -> list[Any]:
    return [
        replace(protocols._Met(part.attack, part.fields, round(one, 9), tasks, ""), **changes)
        for part in PRESETS[protocol].parts
        for one in eps
    ]


COLOURED = (2 * LEVEL, 4 * LEVEL, 8 * LEVEL)


def test_what_is_as_a_protocol_says_differs_in_nothing() -> None:
    assert differences(PRESETS["strict"], BOARD, ENTRY, met("strict", COLOURED, 1000), None) == ()
    recipe = {"ways": 5, "shots": 15, "queries": 6, "network": "r2d2"}
    running = replace(ENTRY, norm_mode="running")
    assert differences(PRESETS["aq"], BOARD, running, met("aq", (8 * LEVEL,), 1000), recipe) == ()
    one, batch = replace(BOARD, shots=1, track="transductive"), replace(ENTRY, algorithm="fomaml", norm_mode="batch")
    network = {"network": "conv4", "network_options": {"width": 32, "order": "relu-bn", "bias": True}}
    recipe = {"ways": 5, "shots": 1, "queries": 15, **network}
    there = met("rmaml", (2 * LEVEL,), 2400)
    assert differences(PRESETS["rmaml"], one, replace(batch, steps=10), there, recipe) == ()


@pytest.mark.parametrize(
    ("board", "entry", "said"),
    [
        ({"surface": "support"}, {}, "attacks the support, not the query"),
        ({"norm": "l2"}, {}, "norm l2, not linf"),
        (
            {"track": "transductive"},
            {"norm_mode": "batch"},
            "transductive, where the protocol is inductive: normalises by the query batch's statistics, not by the"
            " support's statistics or running statistics or means of its own",
        ),
        ({"split": "val"}, {}, "split val, not test"),
        ({"seed": 3}, {}, "seed 3, not 0"),
        ({"ways": 20}, {}, "20-way, not 5-way"),
        ({"shots": 1}, {}, "1-shot, not 5-shot"),
        ({"queries": 5}, {}, "5 queries a class, not 15"),
    ],
)
def test_a_difference_of_the_task_is_named(board: dict[str, Any], entry: dict[str, Any], said: str) -> None:
    there = met("strict", COLOURED, 1000)
    assert differences(PRESETS["strict"], replace(BOARD, **board), replace(ENTRY, **entry), there, None) == (said,)


def test_differences_of_attack_budget_and_tasks_are_named() -> None:
    def of(those: list[Any], family: str = "cifar-fs") -> tuple[str, ...]:
        return differences(PRESETS["strict"], replace(BOARD, family=family), ENTRY, those, None)

    few = met("strict", COLOURED, 20)
    assert of(few) == (
        "pgd-mt-50 on 20 tasks at ε 2/255, 4/255, 8/255, not on 1000",
        "autoattack on 20 tasks at ε 2/255, 4/255, 8/255, not on 100",
    )
    assert of(met("strict", COLOURED[1:], 1000)) == (
        "pgd-mt-50 not run at ε 2/255",
        "autoattack not run at ε 2/255",
    )
    assert of(met("strict", (0.1,), 1000))[0] == "pgd-mt-50 not run at ε 2/255, 4/255, 8/255, but at 0.1"
    full = met("strict", COLOURED, 1000)
    assert of([one for one in full if one.attack == "pgd-mt-50"]) == ("autoattack not run at ε 2/255, 4/255, 8/255",)
    broken = [replace(one, reason="no patience") if one.attack == "autoattack" else one for one in full]
    assert of(broken) == ("autoattack failed at ε 2/255, 4/255, 8/255: no patience",)
    weaker = [replace(one, fields="Other()") if one.attack == "pgd-mt-50" else one for one in full]
    assert of(weaker) == ("pgd-mt-50 not run at ε 2/255, 4/255, 8/255: what ran under that name is Other()",)
    assert of(met("strict", (0.05, 0.1), 1000), "strokes") == ()
    assert of(met("strict", (0.05, 0.1), 1000), "image-folder") == ()
    assert of(full, "image-folder") == ()
    assert of(full, "omniglot")[0] == "pgd-mt-50 not run at ε 0.05, 0.1, but at 2/255, 4/255, 8/255"


AS_RMAML: dict[str, Any] = {
    **{"ways": 5, "shots": 1, "queries": 15, "network": "conv4"},
    "network_options": {"width": 32, "order": "relu-bn", "bias": True},
}


def test_differences_of_training_are_read_off_the_card() -> None:
    rmaml, board = PRESETS["rmaml"], replace(BOARD, shots=1, track="transductive")
    entry = replace(ENTRY, algorithm="fomaml", norm_mode="batch", steps=10)
    there = met("rmaml", (2 * LEVEL,), 2400)
    recipe = {
        **{"ways": 5, "train_ways": 20, "shots": 5, "queries": 6},
        "algorithm_options": {"step_size": 0.05, "steps": 3},
        "network": "conv4",
        "network_options": {"width": 64},
    }
    assert differences(rmaml, board, entry, there, recipe) == (
        "adapts by a rate of 0.05, not by 0.01",
        "trained with 3 inner steps, not 5",
        "trained at 5 shots, not at 1",
        "trained at 6 queries a class, not at 15",
        "trained at 20 ways, not at 5",
        "network conv4 with width 64, order bn-relu, bias False, not conv4 (width 32, ReLU before batch norm, bias)",
    )
    exact: dict[str, Any] = {"algorithm_options": {"steps": 5, "step_size": 0.01}, "meta_gradient": "exact"}
    assert differences(rmaml, board, entry, there, AS_RMAML) == ()
    for change, said in (
        (exact, "trained by the exact meta-gradient, not to first order"),
        (
            {"algorithm_options": {"meta_gradient": "exact"}},
            "trained by the exact meta-gradient, not to first order",
        ),
        ({"algorithm_options": {"adapts": "head"}}, "adapts the head alone, not the whole network"),
        ({"origin": "imported"}, "how it was trained is not known: it was imported"),
        (
            {"network_options": {**AS_RMAML["network_options"], "depth": 2}},
            "network conv4 with depth 2, not conv4 (width 32, ReLU before batch norm, bias)",
        ),
    ):
        assert differences(rmaml, board, entry, there, {**AS_RMAML, **change}) == (said,)
    assert differences(rmaml, board, replace(entry, algorithm="maml", steps=1), there, None) == (
        "1 adaptation steps, not 10",
        "algorithm maml, not fomaml",
        "how it was trained is not known: the results hold no card of it",
    )
    assert "how it was trained is not known: it is an object" in differences(
        rmaml, board, replace(entry, algorithm="custom"), there, None
    )
    sgd = differences(rmaml, board, replace(entry, algorithm="meta-sgd"), there, {**recipe, "algorithm_options": {}})
    assert "adapts by rates of its own, not by 0.01" in sgd


CLOSED = {"ways": 5, "shots": 5, "queries": 15}


def test_a_closed_form_has_no_steps_to_differ_in() -> None:
    found = differences(PRESETS["aq"], BOARD, ENTRY, met("aq", (8 * LEVEL,), 1000), CLOSED)
    assert found == (
        "normalises by the support's statistics, not by running statistics",
        "trained at 5 shots, not at 15",
        "trained at 15 queries a class, not at 6",
    )
    taking = replace(ENTRY, algorithm="fomaml", norm_mode="running", steps=10)
    assert differences(PRESETS["aq"], BOARD, taking, met("aq", (8 * LEVEL,), 1000), CLOSED) == ()


def test_other_data_than_the_papers_are_named() -> None:
    there = met("dfsl", (0.01,), 5000)
    entry = replace(ENTRY, norm_mode="running")
    recipe = {**CLOSED, "network": "conv4", "network_options": {"bias": True}}
    assert differences(PRESETS["dfsl"], BOARD, entry, there, recipe) == ("on cifar-fs, not on miniImageNet",)
    folder = differences(PRESETS["dfsl"], replace(BOARD, family="image-folder"), entry, there, recipe)
    assert folder == ("on image-folder, not on miniImageNet, unless the folder holds it",)


def test_a_protocol_plans_exactly_its_cells(ckpt: Path, tmp_path: Path) -> None:
    def planned(name: str) -> set[tuple[Any, ...]]:
        return axes(runs.make(Choice(), PRESETS[name], subjects(ckpt), tmp_path))

    ends = ("test", 0)
    assert planned("aq") == {("pgd-20-aq", 8, "linf", "query", 5, shots, 15, None, *ends, 1000) for shots in (1, 5)}
    assert planned("rmaml") == {("pgd-10-rmaml", 2, "linf", "query", 5, 1, 15, None, *ends, 2400)}
    assert planned("dfsl") == {("pgd-10-dfsl", 2.55, "linf", "query", 5, 5, 15, None, *ends, 5000)}
    assert planned("maml-2017") == {("fgsm", 0, "linf", "query", 5, k, k, None, *ends, 600) for k in (1, 5)}
    assert planned("strict") == {
        (attack, eps, "linf", "query", 5, 5, 15, None, *ends, tasks)
        for attack, tasks in (("pgd-mt-50", 1000), ("autoattack", 100))
        for eps in (12.75, 25.5)
    }
    assert not list(tmp_path.iterdir())


def test_a_protocol_sets_the_steps_of_a_learner_that_takes_them(tmp_path: Path) -> None:
    learner = stepped(tmp_path / "steps", algorithm_options={"test_steps": 3})
    for name, steps in (("rmaml", 10), ("maml-2017", 10), ("strict", 3)):
        run = runs.make(Choice(), PRESETS[name], subjects(learner), tmp_path / "r")
        assert {job.cell.steps for job in run.plan.jobs} == {steps}


def test_an_option_that_is_given_replaces_the_knob(ckpt: Path, tmp_path: Path) -> None:
    choice = Choice(eps=(0.1,), shots=(2,), queries=3, ways=3, seed=7, split="val", tasks=20)
    run = runs.make(choice, PRESETS["strict"], subjects(ckpt), tmp_path)
    assert axes(run) == {
        (attack, 25.5, "linf", "query", 3, 2, 3, None, "val", 7, 20) for attack in ("pgd-mt-50", "autoattack")
    }
    (verdict,) = runs.foreseen(run)
    assert verdict.differences == (
        "split val, not test",
        "seed 7, not 0",
        "3-way, not 5-way",
        "2-shot, not 5-shot",
        "3 queries a class, not 15",
        "pgd-mt-50 not run at ε 0.05",
        "pgd-mt-50 on 20 tasks at ε 0.1, not on 1000",
        "autoattack not run at ε 0.05",
        "autoattack on 20 tasks at ε 0.1, not on 100",
    )
    other = Choice(attacks=grid.named_attacks(["fgsm", "pgd-3"]), tasks=5)
    run = runs.make(other, PRESETS["strict"], subjects(ckpt), tmp_path)
    assert {(job.cell.attack, batch.tasks) for batch in run.batches for job in batch.plan.jobs} == {
        ("fgsm", 5),
        ("pgd-3", 5),
    }
    (verdict,) = runs.foreseen(run)
    assert verdict.differences == ("pgd-mt-50 not run at ε 0.05, 0.1", "autoattack not run at ε 0.05, 0.1")


def test_a_budget_is_shared_by_the_parts_of_a_protocol(ckpt: Path, tmp_path: Path) -> None:
    run = runs.make(Choice(budget=60.0), PRESETS["strict"], subjects(ckpt), tmp_path)
    assert [(batch.tasks, batch.budget) for batch in run.batches] == [(None, 30.0), (None, 30.0)]
    assert runs.foreseen(run) == []


def test_an_empty_axis_is_refused_and_not_taken_for_the_protocols_own(ckpt: Path, tmp_path: Path) -> None:
    for axis in ("shots", "norms", "surfaces", "eps", "attacks"):
        given: dict[str, Any] = {axis: {} if axis == "attacks" else ()}
        with pytest.raises(InputError, match=f"{axis}: none given"):
            runs.make(Choice(**given), PRESETS["strict"], subjects(ckpt), tmp_path)
    with pytest.raises(InputError, match="shots: none given"):
        runs.make(Choice(shots=()), PRESETS["maml-2017"], subjects(ckpt), tmp_path)


def test_autoattack_is_refused_under_batch_statistics_and_the_rest_of_strict_runs(tmp_path: Path) -> None:
    learner = subjects(stepped(tmp_path / "batch"))
    run = runs.make(Choice(), PRESETS["strict"], learner, tmp_path / "r")
    assert {job.cell.attack for job in run.plan.jobs} == {"pgd-mt-50"}
    assert len(run.refused) == 1
    assert "autoattack on batch: attacks queries one by one, and batch statistics" in run.refused[0]
    (verdict,) = runs.foreseen(run)
    assert verdict.differences[0].startswith("transductive, where the protocol is inductive: normalises by")
    assert "autoattack not run at ε 0.05, 0.1" in verdict.differences
    assert [one.budget for one in runs.make(Choice(budget=9.0), PRESETS["strict"], learner, tmp_path).batches] == [9.0]
    black = Choice(attacks=grid.named_attacks(["autoattack"]))
    with pytest.raises(InputError, match="attacks: nothing is left to run: autoattack on batch"):
        runs.make(black, PRESETS["strict"], learner, tmp_path / "r")


def test_a_transductive_protocol_runs_an_inductive_learner_and_names_the_track(ckpt: Path, tmp_path: Path) -> None:
    run = runs.make(Choice(tasks=2400), PRESETS["rmaml"], subjects(ckpt), tmp_path)
    (verdict,) = runs.foreseen(run)
    assert verdict.board.track == "inductive"
    assert verdict.differences[0].startswith("inductive, where the protocol is transductive: normalises by the support")


@pytest.mark.parametrize("choice", [Choice(eps=(0.1,)), Choice(attacks=grid.named_attacks(["fgsm"]))])
def test_a_clean_protocol_is_attacked_only_by_attacks_and_eps_together(
    choice: Choice, ckpt: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="eps: maml-2017 is clean only; to attack too give both attacks and eps"):
        runs.make(choice, PRESETS["maml-2017"], subjects(ckpt), tmp_path)
    both = Choice(attacks=grid.named_attacks(["fgsm"]), eps=(0.1,))
    assert {a[:2] for a in axes(runs.make(both, PRESETS["maml-2017"], subjects(ckpt), tmp_path))} == {("fgsm", 25.5)}


def test_learners_of_grey_and_colour_images_meet_their_own_budgets(ckpt: Path, tmp_path: Path) -> None:
    (grey,) = subjects(ckpt)
    found = runs._alike(Choice(), PRESETS["strict"], [grey, replace(grey, family=Coloured())])  # type: ignore[arg-type]
    assert {eps: len(those) for _, eps, those in found} == {(0.05, 0.1): 1, COLOURED: 1}


def test_learners_that_act_are_attacked_in_their_rollouts_in_units_of_their_own(tmp_path: Path) -> None:
    act = [zoo.folder(f"zoo:{name}-protonet-aq") for name in ("navigation", "reach")]
    run = runs.make(Choice(tasks=1), PRESETS["strict"], subjects(*act), tmp_path)
    found = {(job.cell.family, job.cell.threat.surface, job.cell.threat.eps) for job in run.plan.jobs}
    wanted = {"navigation": (0.02, 0.05), "reach": (0.01, 0.02)}
    assert found == {(name, "rollout", eps) for name, own in wanted.items() for eps in own}
    assert {(job.cell.spec.ways, job.cell.spec.queries) for job in run.plan.jobs} == {(8, 5)}
    said = [line for one in runs.foreseen(run) for line in one.differences]
    assert said
    assert all("on 1 task" in line for line in said), said


def test_what_strict_asks_of_a_family_is_within_what_the_family_asks_itself() -> None:
    for name, fields in PRESETS["strict"].variants:
        assert {*dict(fields)["eps"]} <= {*catalog.family(name).default_eps}, name  # type: ignore[attr-defined]


class Coloured:
    """A family that is known by its images' shape alone."""

    space = catalog.family("cifar-fs").space


@pytest.fixture(scope="module")
def ran(ckpt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of `strict` with few tasks, and of `maml-2017`."""
    out = tmp_path_factory.mktemp("ran")
    small = Choice(eps=(0.1,), queries=2, tasks=2)
    for choice, name in ((small, "strict"), (Choice(tasks=2), "maml-2017")):
        run = runs.make(choice, PRESETS[name], subjects(ckpt), out)
        assert runs.execute(run, out, place=HERE, audit=False) == ([], [])
    return out


def test_what_ran_is_judged_by_what_is_stored_whichever_command_ran_it(ckpt: Path, ran: Path) -> None:
    results = store.read(ran)
    found = protocols.verdicts(results, protocols.recipes(results))
    assert [(one.protocol.name, one.board.shots, one.board.queries) for one in found] == [
        ("maml-2017", 1, 1),
        ("maml-2017", 5, 5),
        ("strict", 5, 2),
    ]
    assert "clean accuracy on 2 tasks, not on 600" in found[0].differences
    assert found[2].differences == (
        "2 queries a class, not 15",
        "pgd-mt-50 not run at ε 0.05",
        "pgd-mt-50 on 2 tasks at ε 0.1, not on 1000",
        "autoattack not run at ε 0.05",
        "autoattack on 2 tasks at ε 0.1, not on 100",
    )


def test_a_report_names_the_differences_and_what_was_not_run(ran: Path, tmp_path: Path) -> None:
    report.write(store.read(ran), [], tmp_path)
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    part = text[text.index("## Protocols") : text.index("## Attacks as configured")]
    assert f"<summary>{PRESETS['strict'].label}</summary>" in part
    assert "| 2 queries a class, not 15; pgd-mt-50 not run at ε 0.05; pgd-mt-50 on 2 tasks" in part
    assert "Not judged, since no row met an attack of theirs (for maml-2017, ε 0): aq, rmaml, dfsl." in part
    assert "network conv4 with width 4" in part
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert '<a href="#protocols">Protocols</a>' in page
    assert "pgd-mt-50 not run at ε 0.05" in page


def test_a_recipe_of_a_stranger_is_shown_and_never_obeyed(ran: Path, tmp_path: Path) -> None:
    results = store.read(ran)
    evil = "<img src=x onerror=alert(1)>|[x](javascript:1)"
    results.learners["card"] = f'{{"recipe": {{"shots": "{evil}", "network": "{evil}\\u202e"}}}}'
    report.write(results, [], tmp_path)
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "&lt;img src=x onerror=alert(1)&gt;" in text
        assert "<img src=x" not in text
        assert "\u202e" not in text
    assert "](javascript:" not in (tmp_path / "leaderboard.md").read_text(encoding="utf-8").replace("\\](", "")


def test_results_that_met_no_protocol_have_no_word_of_them(ckpt: Path, tmp_path: Path) -> None:
    plain = Choice(attacks=grid.named_attacks(["fgsm"]), eps=(0.1,), shots=(2,), queries=2, tasks=2)
    run = runs.make(plain, None, subjects(ckpt), tmp_path / "r")
    runs.execute(run, tmp_path / "r", place=HERE, audit=False)
    report.write(store.read(tmp_path / "r"), [], tmp_path)
    assert "Protocols" not in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert 'id="protocols"' not in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")


def test_the_command_runs_a_protocol_and_says_in_what_it_differs(rbm: Run, ckpt: Path, tmp_path: Path) -> None:
    few = ("--tasks", 1, "--queries", 2, "--device", "cpu", "--no-audit", "--out", "r")
    status, out, err = rbm("evaluate", "--ckpt", ckpt, "--protocol", "aq", *few)
    assert status == 0
    assert f"protocol {PRESETS['aq'].label}: Adversarial Querying" in err
    said = [line for line in err.splitlines() if "differs from aq" in line]
    assert [line.split(": differs")[0] for line in said] == ["tiny, 1-shot", "tiny, 5-shot"]  # once, before it runs
    assert "pgd-20-aq on 1 task at ε 8/255, not on 1000" in " ".join(err.split())
    assert len(out.splitlines()) == 4
    cells = store.cells(tmp_path / "r").values()
    assert {(cell.attack, cell.spec.shots, cell.seed) for cell in cells} == {("pgd-20-aq", 1, 0), ("pgd-20-aq", 5, 0)}
    status, _, err = rbm("evaluate", "--ckpt", ckpt, "--protocol", "aq", "--budget", "1s", *few[2:])
    assert status == 0
    assert "differs from aq" in err  # once it has run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--protocol stric", "protocol: 'stric' is unknown; did you mean 'strict'?"),
        ("--protocol strict", "ckpt: none given"),
        ("--ckpt {ckpt} --protocol strict --tasks 0", "tasks: 0 is not a whole number >= 1"),
        ("--ckpt {ckpt} --protocol strict --tasks 2 --budget 1m", "budget: picks the number of tasks itself"),
        ("--ckpt {ckpt} --protocol aq --norm l2", "pgd-20-aq on tiny: works in linf, not in l2"),
        ("--ckpt {ckpt} --protocol maml-2017 --eps 0.1", "eps: maml-2017 is clean only"),
    ],
)
def test_what_a_protocol_cannot_run_is_one_line_and_nothing_written(
    rbm: Run,
    ckpt: Path,
    tmp_path: Path,
    words: str,
    said: str,
) -> None:
    status, out, err = rbm("evaluate", *words.format(ckpt=ckpt).split())
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not list(tmp_path.iterdir())


def test_list_says_each_protocol_in_one_line(rbm: Run) -> None:
    status, out, _ = rbm("list", "protocols")
    assert status == 0
    lines = [line for line in out.splitlines() if line.strip()]
    assert [line.split()[0] for line in lines] == list(PRESETS)
    for line, one in zip(lines, PRESETS.values(), strict=True):
        assert f"v{one.version} ({one.sha256[:8]}): {one.about}" in line


def test_from_python_a_protocol_is_a_name_and_the_table_holds_its_differences(ckpt: Path) -> None:
    few: dict[str, Any] = {"queries": 2, "tasks": 2, "audit": False, "device": "cpu"}
    table = evaluate(ckpt, protocol="aq", **few)
    assert table[["attack", "shots", "queries", "seed"]].values.tolist() == [
        ["pgd-20-aq", 1, 2, 0],
        ["pgd-20-aq", 5, 2, 0],
    ]
    assert table.attrs["protocol"] == PRESETS["aq"].label
    assert len(table.attrs["differences"]) == 2
    assert table.attrs["differences"][0].startswith("tiny, 1-shot: differs from aq: normalises by the support's")
    mine = evaluate(learner=Centroids(), family=STROKES, protocol="dfsl", **few)
    assert mine["attack"].tolist() == ["pgd-10-dfsl"]
    assert "how it was trained is not known: it is an object" in mine.attrs["differences"][0]


def test_every_knob_of_every_preset_stands_in_the_page_on_protocols() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8")
    for name, one in PRESETS.items():
        assert one.label in text
        for part in one.parts:
            assert part.attack in text, (name, part.attack)
    for number in ("2400", "5000", "600", "1000", "0.01", "2/255", "8/255", "0.05, 0.1"):
        assert number in text
