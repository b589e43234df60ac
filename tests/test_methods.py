"""Training seeds of one recipe share a row, with what they vary by in every interval and test."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hostile import HOSTILE
from many import SHARED, Results, page

from robustbench_meta import intervals, methods, ranking, statistics
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.intervals import crossed, interval
from robustbench_meta.outcomes import Check, entry_order
from robustbench_meta.ranking import Standing, standings
from robustbench_meta.report import formats, markdown, tables

TASKS, QUERIES = 20, 5
ATTACKS = ("fgsm", "pgd-20")


def learner(name: str, seed: int, level: float, **fields: Any) -> dict[str, Any]:
    """Describe a learner whose `level` of 25 queries in each task, and a little more or less, withstand."""
    about = {"name": name, "recipe": {"algorithm": "protonet", "defense": "aq"}, "seed": seed, "level": level}
    return {**about, "authors": "A. Author", "file": f"{name} {seed}", "attacks": ATTACKS, "steps": None, **fields}


def measured(*learners: dict[str, Any], tasks: int = TASKS) -> Results:
    """Evaluate learners on the same tasks, whose difficulty they share."""
    cells: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    cards: list[dict[str, Any]] = []
    hard = np.random.default_rng(0).normal(0, 0.08, (tasks, 1))
    for number, one in enumerate(learners):
        weights = f"{number:064x}"
        rng = np.random.default_rng(one.get("draw", number) + 1)
        strength = rng.random((tasks, 5 * QUERIES)) + hard
        clean = strength < 0.9
        for place, attack in enumerate(one["attacks"]):
            key = f"{len(cells):064x}"
            about = {**SHARED, "key": key, "checkpoint": one["name"], "weights": weights, "steps": one["steps"]}
            about |= {"algorithm": "protonet", "defense": "aq", "queries": QUERIES, "eps": 8 / 255}
            cells.append(about | {"attack": attack, "attack_fields": f"{attack}()"})
            left = clean & (strength < one["level"] * (1 - 0.02 * place))
            rows += [
                {"key": key, "task": task, "clean": _bits(clean[task]), "survived": _bits(left[task])}
                | {"distance": 0.03, "forwards": 100, "backwards": 50}
                for task in one.get("tasks", range(tasks))
            ]
        card = {"recipe": {**one["recipe"], "seed": one["seed"]}, "weights_sha256": one["file"]}
        cards.append({"weights": weights, "card": json.dumps(card), "authors": one["authors"], "paper": ""})
    columns = pd.DataFrame(cards).assign(code="", license="")
    return Results(pd.DataFrame(cells).astype({"steps": "Int64"}), pd.DataFrame(rows), learners=columns)


def _bits(values: np.ndarray) -> str:
    return "".join("01"[value] for value in values.astype(int))


def seeds(*levels: float, name: str = "x-aq", **fields: Any) -> list[dict[str, Any]]:
    """Describe seeds of one recipe; the first has the recipe's name, as shipped checkpoints do."""
    return [
        learner(name if seed == 0 else f"{name}-s{seed}", seed, level, **fields) for seed, level in enumerate(levels)
    ]


def board(*learners: dict[str, Any], **fields: Any) -> list[Standing]:
    (made,) = standings(measured(*learners, **fields))
    return made


def test_a_method_is_a_recipe_but_for_its_seed() -> None:
    recipe = Recipe(defense="aq", network_options={"width": 32, "depth": 4}, average=0.998)
    assert recipe.method == recipe.model_copy(update={"seed": 7}).method
    assert recipe.method != recipe.model_copy(update={"steps": 7}).method
    # As it is read of a card, without pydantic.
    assert methods.method_of(json.loads(recipe.model_dump_json())) == recipe.method


def test_three_seeds_share_a_row_that_is_their_mean() -> None:
    other = learner("y", 0, 0.2, recipe={"algorithm": "r2d2"})
    found = board(*seeds(0.5, 0.6, 0.7), other)
    assert [(one.entry.checkpoint, one.seeds, one.word, one.trained) for one in found] == [
        ("x-aq", 3, "method", (0, 1, 2)),
        ("y", 1, "checkpoint", ()),
    ]
    alone = [one.outcomes[one.rank_eps].known for one in found[0].members]
    here = found[0].outcomes[found[0].rank_eps]
    assert here.known == pytest.approx(np.mean(alone, axis=0))
    assert found[0].spread("known") == (alone[0].mean(), alone[2].mean())
    exact = crossed(np.stack(alone))
    assert found[0].robust == (exact.mean, exact.half(), TASKS)
    assert exact.half() > 2 * interval(here.known)[1]
    # Every attack, too: 3 times 25 queries a task.
    run = here.runs["pgd-20"]
    assert run.survived.shape == (TASKS, 75)
    each = [one.outcomes[one.rank_eps].runs["pgd-20"].survived.mean(1) for one in found[0].members]
    assert run.accuracy() == pytest.approx((np.mean(each), crossed(np.stack(each)).half()))
    assert run.forwards.sum() == 3 * 100 * TASKS


def test_copies_of_one_training_are_no_seeds_whatever_their_files_say() -> None:
    """Files that differ in their metadata alone have hashes of their own."""
    found = board(*seeds(0.5, 0.5, 0.5, draw=4))
    assert [(one.seeds, one.word) for one in found] == [(1, "checkpoint")] * 3
    assert {one.members for one in found} == {()}


def test_a_row_names_the_seeds_of_its_recipe_that_have_no_part_in_it() -> None:
    mine = seeds(0.6, 0.62, 0.64, 0.3)
    mine[3] |= {"tasks": range(4)}  # one that is worse was evaluated less
    found = {one.entry.checkpoint: one for one in board(*mine, learner("y", 0, 0.5, recipe={"algorithm": "r2d2"}))}
    assert (found["x-aq"].trained, found["x-aq"].outside) == ((0, 1, 2), (3,))
    assert tables._spread(found["x-aq"]).endswith("; of this recipe, not in this row: training seed 3")
    assert (found["x-aq-s3"].outside, found["y"].outside) == ((), ())


def test_seeds_that_share_few_tasks_stand_alone_so_that_none_loses_its_rank() -> None:
    parts = [range(12), range(8, 20), range(20)]
    mine = [learner(f"x-s{seed}", seed, 0.5, tasks=part) for seed, part in enumerate(parts)]
    others = [learner(name, 0, 0.3, recipe={"algorithm": name}) for name in ("p", "q", "r")]
    found = {one.entry.checkpoint: one for one in board(*mine, *others)}
    assert sorted(found) == ["p", "q", "r", "x", "x-s1"]
    assert (found["x"].trained, found["x-s1"].seeds) == ((0, 2), 1)
    assert all(one.rank is not None for one in found.values())
    assert len(found["x"].outcomes[found["x"].rank_eps].tasks) == 12


def test_two_seeds_are_checkpoints_whose_interval_is_over_tasks_alone() -> None:
    found = board(*seeds(0.5, 0.7))
    assert (len(found), found[0].seeds, found[0].word) == (1, 2, "checkpoint")
    assert found[0].robust[:2] == pytest.approx(interval(found[0].outcomes[found[0].rank_eps].known))


@pytest.mark.parametrize(
    "differs",
    [
        {"seed": 0},
        {"file": "x-aq 0"},
        {"authors": "B. Other"},
        {"recipe": {"algorithm": "protonet", "defense": "aq", "steps": 9}},
        {"steps": 5},
    ],
)
def test_what_is_no_further_training_of_the_recipe_has_a_row_of_its_own(differs: dict[str, Any]) -> None:
    first, second = seeds(0.5, 0.6)
    assert [one.seeds for one in board(first, second | differs)] == [1, 1]


def test_a_seed_that_lacks_an_attack_stands_alone_and_says_why() -> None:
    *three, fourth = seeds(0.5, 0.55, 0.6, 0.65)
    found = board(*three, fourth | {"attacks": ("fgsm",)})
    assert [(one.seeds, one.rank) for one in found] == [(3, 1), (1, None)]
    assert "lacks pgd-20" in found[1].reason


def test_a_red_flag_of_one_seed_takes_the_rank_of_the_row_away() -> None:
    results = measured(*seeds(0.5, 0.6, 0.7))
    # FGSM, the first attack, fools in the last learner what PGD, the second, does not.
    last = results.cells[(results.cells["checkpoint"] == "x-aq-s2") & (results.cells["attack"] == "fgsm")]["key"].iloc[
        0
    ]
    tasks = results.tasks.copy()
    tasks.loc[tasks["key"] == last, "survived"] = "0" * 25
    (found,) = standings(replace(results, tasks=tasks))
    assert [(one.seeds, one.rank) for one in found] == [(3, None)]
    assert "F1" in found[0].reason


def test_a_lead_that_seeds_do_not_support_is_no_rank_ahead() -> None:
    """Means 10 points apart on the same tasks, but the seeds of one lie 40 points apart."""
    steady = learner("y", 0, 0.4, recipe={"algorithm": "r2d2"})
    scattered = board(*seeds(0.3, 0.5, 0.7), steady)
    assert [one.rank for one in scattered] == [1, 1]
    close = board(*seeds(0.49, 0.5, 0.51), steady)
    assert [one.rank for one in close] == [1, 2]
    # The same two rows would be told apart if the seeds were forgotten.
    means = np.stack([one.outcomes[one.rank_eps].known for one in scattered])
    assert intervals.better(intervals.pairs(means)).any()


def test_what_tasks_tell_apart_counts_the_seeds() -> None:
    steady = learner("y", 0, 0.4, recipe={"algorithm": "r2d2"})
    scattered, close = (ranking.separation(board(*seeds(*levels), steady)) for levels in ((0.3, 0.5, 0.7), (0.5,) * 3))
    assert scattered.smallest > 3 * close.smallest
    assert (scattered.apart, scattered.needed) == (False, None)
    assert "are not told apart" in scattered.text


def test_seeds_have_one_voice_in_which_budget_ranks() -> None:
    results = measured(*seeds(0.5, 0.6, 0.7), *seeds(0.4, name="y", recipe={"algorithm": "r2d2"}))
    cells = results.cells.copy()
    cells.loc[cells["checkpoint"].str.startswith("x-aq"), "eps"] = 2 / 255
    (found,) = standings(replace(results, cells=cells))
    # One recipe at each budget: the larger one; four learners would have chosen the smaller.
    assert found[0].rank_eps == pytest.approx(8 / 255)


def test_without_several_seeds_nothing_changes() -> None:
    results = measured(learner("x", 0, 0.5), learner("y", 1, 0.6, recipe={"algorithm": "r2d2"}))
    without = replace(results, learners=pd.DataFrame())
    assert markdown.render(tables.tables(results), []) == markdown.render(tables.tables(without), [])
    assert formats.to_json(results) == formats.to_json(without)
    assert "Seeds" not in page(results)


def test_rows_are_named_by_what_their_seeds_have_in_common() -> None:
    assert methods._name(["x-aq", "x-aq-s1", "x-aq-s2"]) == "x-aq"
    assert methods._name(["claims-aq-s1", "claims-aq-s12", "claims-aq-s13"]) == "claims-aq"
    assert methods._name(["aq-seed-0", "aq-seed-1"]) == "aq"
    assert methods._name(["conv4-32-0", "conv4-32-1"]) == "conv4-32"
    assert methods._name(["conv4-32-10", "conv4-32-11"]) == "conv4-32"
    assert methods._name(["x-aq", "x-aq2"]) == "x-aq"
    assert methods._name(["one", "two"]) == "one"


def test_a_row_of_seeds_is_told_from_another_learner_of_its_name() -> None:
    found = [*seeds(0.5, 0.6), learner("x-aq", 0, 0.4, recipe={"algorithm": "r2d2"})]
    names = sorted(row.name for row in tables.tables(measured(*found)).tables[0].rows if row.kind != "reference")
    assert len({*names}) == 2
    assert all(name.startswith("x-aq@") for name in names)


def test_the_tables_say_how_many_seeds_and_how_far_apart() -> None:
    results = measured(*seeds(0.5, 0.6, 0.7), learner("y", 0, 0.2, recipe={"algorithm": "r2d2"}))
    text = markdown.render(tables.tables(results), [])
    assert "| Rank | Checkpoint | Seeds | Clean |" in text
    assert "| x-aq | 3, a method |" in text
    assert "| y | 1 |" in text
    (found,) = standings(results)
    low, high = (f"{100 * end:.1f}" for end in found[0].spread("known"))
    assert f"training seeds 0, 1, 2; worst case at ε 8/255 from {low} to {high}" in text
    row = statistics.leaderboard(results).iloc[0]
    assert (row.seeds, row.robust_min, row.robust_max) == (3, *found[0].spread("known"))
    told = json.loads(formats.to_json(results))["boards"][0]["entries"][0]["seeds"]
    assert (told["trained"], told["word"]) == ([0, 1, 2], "method")
    assert "x-aq (3 seeds)" in formats.to_latex(results)


def test_the_page_names_every_seed_and_carries_what_they_add() -> None:
    html = page(measured(*seeds(0.5, 0.6, 0.7), learner("y", 0, 0.2, recipe={"algorithm": "r2d2"})))
    assert html.count("<td>3, a method") == 1
    assert "seed 2: x-aq-s2, worst case" in html
    data = json.loads(html.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    first, second = data["boards"][0]["entries"]
    (found,) = standings(measured(*seeds(0.5, 0.6, 0.7)))
    exact = crossed(found[0].outcomes[found[0].rank_eps].sample("known"))
    assert first["outcomes"][0]["between"]["worst"] == pytest.approx([exact.seeds, 2])
    assert "between" not in second["outcomes"][0]
    for member in ("x-aq", "x-aq-s1", "x-aq-s2"):
        assert f"--ckpt checkpoints/{member} " in html


def test_hostile_names_of_seeds_show_as_text() -> None:
    hostile = [text for text in HOSTILE if text][:12]
    for text in hostile:
        shown = page(measured(*seeds(0.5, 0.6, 0.7, name=text)))
        assert "<script>alert" not in shown
        assert "<img src=x" not in shown


def test_cells_stay_those_of_checkpoints() -> None:
    results = measured(*seeds(0.5, 0.6, 0.7))
    assert set(statistics.summarise(results)["checkpoint"]) == {"x-aq", "x-aq-s1", "x-aq-s2"}
    (apart,) = ranking.checkpoints(results)
    (shared,) = standings(results)
    each = sorted((one.entry for one in ranking.apart(shared)), key=entry_order)
    assert each == sorted((one.entry for one in apart), key=entry_order)
    difference = statistics.paired_difference(results, "x-aq-s2", "x-aq")
    assert (difference["difference"] != 0).any()


def test_a_row_is_audited_as_little_as_its_least_audited_seed() -> None:
    assert methods._check([Check(audited=20), Check(audited=3)]).audited == 3
