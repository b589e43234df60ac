"""Statistics against numbers worked out by hand."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_meta import outcomes, ranking, statistics
from robustbench_meta.statistics import leaderboard, paired_difference, paired_differences, worst_case

STANDARD: dict[str, Any] = {
    "checkpoint": "a",
    "weights": "w",
    "algorithm": "protonet",
    "defense": "standard",
    "norm_mode": "support",
    "family": "strokes",
    "episodes": "e",
    "split": "test",
    "ways": 2,
    "shots": 1,
    "queries": 2,
    "steps": None,
    "attack": "pgd",
    "attack_fields": "PGD()",
    "surface": "query",
    "fraction": 1.0,
    "whole": False,
    "norm": "linf",
    "eps": 0.1,
    "seed": 0,
    "status": "ok",
    "reason": "",
    "seconds": 1.0,
}


@dataclass(frozen=True)
class Results:
    cells: pd.DataFrame
    tasks: pd.DataFrame
    audits: pd.DataFrame = field(default_factory=pd.DataFrame)


def results(*cells: tuple[dict[str, Any], list[tuple[str, str]]]) -> Results:
    """Build results from (fields that differ, [(clean bits, survived bits) of task 0, 1, ...])."""
    rows, tasks = [], []
    for number, (fields, bits) in enumerate(cells):
        key = f"k{number:03d}"
        rows.append({"key": key, **STANDARD, **fields})
        for task, (clean, survived) in enumerate(bits):
            row = {"key": key, "task": task, "clean": clean, "survived": survived, "distance": 0.1}
            tasks.append({**row, "forwards": 8, "backwards": 4})
    columns = ["key", "task", "clean", "survived", "distance", "forwards", "backwards"]
    return Results(pd.DataFrame(rows).astype({"steps": "Int64"}), pd.DataFrame(tasks, columns=columns))


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"),
        (0.0314, "0.0314"),
        (0.01, "0.01"),
        (0.5, "0.5"),
        (1.0, "1"),
        (0.0, "0"),
        (0.2, "0.2"),
        (52 / 255, "52/255"),
    ],
)
def test_eps_reads_as_in_papers(eps: float, text: str) -> None:
    assert outcomes.eps_text(eps) == text


def test_a_summary_has_the_columns_of_cells_csv_and_the_key() -> None:
    table = statistics.summarise(results(({}, [("1110", "1000"), ("1111", "1110")])))
    assert tuple(table.columns) == (*statistics.COLUMNS, "key")
    row = table.iloc[0]
    assert (row.clean, row.robust, row.tasks) == (0.875, 0.5, 2)
    # Two values 0.25 and 0.75: standard error 0.25, t(1, 0.975) = 12.7062.
    assert row.robust_ci95 == pytest.approx(0.25 * 12.706205, rel=1e-6)
    assert pd.isna(row.steps)


def test_a_failed_cell_has_no_accuracy_even_if_some_of_its_tasks_ran() -> None:
    table = statistics.summarise(results(({"status": "error", "reason": "NaN"}, [("1111", "1111")])))
    assert table.loc[0, ["clean", "clean_ci95", "robust", "robust_ci95"]].isna().all()
    assert (table.status[0], table.tasks[0]) == ("error", 1)


def test_a_query_that_is_wrong_when_clean_is_never_robust() -> None:
    assert statistics.summarise(results(({}, [("1100", "1111")]))).robust[0] == 0.5


def test_the_worst_case_is_the_and_over_attacks_per_query() -> None:
    found = worst_case(results(({"attack": "a"}, [("1111", "1100")]), ({"attack": "b"}, [("1111", "1010")])))
    assert (found.robust[0], found.clean[0]) == (0.25, 1.0)
    assert (found.attacks[0], bool(found.complete[0])) == ("a, b", True)


def test_a_query_fooled_at_a_smaller_eps_is_fooled_at_a_larger() -> None:
    found = worst_case(results(({"eps": 0.1}, [("1111", "0111")]), ({"eps": 0.2}, [("1111", "1100")])))
    assert dict(zip(found.eps, found.robust, strict=True)) == {0.1: 0.75, 0.2: 0.25}


def test_another_norm_or_surface_does_not_count() -> None:
    other = [("1111", "0000")]
    found = worst_case(results(({}, [("1111", "1111")]), ({"norm": "l2"}, other), ({"surface": "support"}, other)))
    mine = found[(found.norm == "linf") & (found.surface == "query")]
    assert list(mine.robust) == [1.0]


def test_only_tasks_on_which_every_attack_ran_count() -> None:
    long = [("1111", "1111"), ("1111", "0000"), ("1111", "0000")]
    found = worst_case(results(({"attack": "a"}, long), ({"attack": "b"}, [("1111", "1110")])))
    assert (found.tasks[0], found.robust[0]) == (1, 0.75)


def test_an_error_or_a_missing_attack_leaves_an_entry_without_rank_and_says_why() -> None:
    bits = [("1111", "1110"), ("1111", "1100")]
    both = [({"attack": "a"}, bits), ({"attack": "b"}, bits)]
    lacking = ({"attack": "a", "checkpoint": "lacking"}, bits)
    broken = [
        ({"attack": "a", "checkpoint": "broken"}, bits),
        ({"attack": "b", "checkpoint": "broken", "status": "error", "reason": "logits are NaN"}, []),
    ]
    table = leaderboard(results(*both, lacking, *broken)).set_index("checkpoint")
    assert table["rank"].dropna().to_dict() == {"a": 1}
    assert table.reason["lacking"] == "lacks b at 0.1"
    assert table.reason["broken"] == "error in b at 0.1: logits are NaN"


def test_an_attack_that_only_failed_is_required_all_the_same() -> None:
    bits = [("1111", "1110")]
    failed: tuple[dict[str, Any], list[tuple[str, str]]]
    failed = ({"checkpoint": "x", "attack": "b", "status": "error", "reason": "out of memory"}, [])
    table = leaderboard(results(({}, bits), failed)).set_index("checkpoint")
    assert table.reason["a"] == "lacks b at 0.1"


def wrong(*counts: int) -> list[tuple[str, str]]:
    """Give the bits of tasks of ten queries, all right when clean, of which an attack fools so many."""
    return [("1" * 10, "0" * count + "1" * (10 - count)) for count in counts]


def test_a_rank_is_one_more_than_the_number_of_entries_that_are_significantly_better() -> None:
    """On 12 tasks b differs from a by +0.1 and -0.1 in turn; c is 0.5 below a on every task: p = 2^-11, times 3."""
    a = ({"checkpoint": "a"}, wrong(*[2, 3] * 6))
    b = ({"checkpoint": "b"}, wrong(*[3, 2] * 6))
    c = ({"checkpoint": "c"}, wrong(*[7, 8] * 6))
    table = leaderboard(results(a, b, c)).set_index("checkpoint").drop(statistics.CONSTANT)
    assert table["rank"].to_dict() == table.rank_low.to_dict() == {"a": 1, "b": 1, "c": 3}
    assert table.rank_high.to_dict() == {"a": 2, "b": 2, "c": 3}
    assert table.tied.to_dict() == {"a": True, "b": True, "c": False}


def test_entries_that_their_tasks_cannot_separate_all_share_rank_one() -> None:
    """Of three signs none is surer than p = 0.25, however far the entries lie apart."""
    cells = [({"checkpoint": name}, wrong(*[count] * 3)) for name, count in zip("abc", (1, 4, 9), strict=True)]
    board = ranking.standings(results(*cells))[0]
    assert [(one.entry.checkpoint, one.rank, one.rank_high) for one in board] == [("a", 1, 3), ("b", 1, 3), ("c", 1, 3)]
    assert ranking.separation(board).text == (
        "On n = 3 tasks, no difference can be told apart (95 %, all 3 pairs at once); "
        "the first two differ by 30 points, for which about 7 tasks would be needed."
    )


def test_many_comparisons_need_more_evidence_than_one() -> None:
    """Student's p of a - b is 0.02 (t = 2.71 on 12 tasks): enough for one pair, and not for the three of a board."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 12)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    counts = np.clip(np.round(50 + 10 * 2.71 / math.sqrt(12) + 10 * noise), 0, 100).astype(int)
    a = ({"checkpoint": "a"}, [("1" * 100, "1" * k + "0" * (100 - k)) for k in counts])
    b = ({"checkpoint": "b"}, [("1" * 100, "1" * 50 + "0" * 50)] * 12)
    c = ({"checkpoint": "c"}, [("1" * 100, "1" * k + "0" * (100 - k)) for k in counts[::-1]])
    assert leaderboard(results(a, b))["rank"].dropna().tolist() == [1, 2]
    assert leaderboard(results(a, b, c))["rank"].dropna().tolist() == [1, 1, 1]


def test_what_a_board_separates_is_said_with_numbers() -> None:
    rng = np.random.default_rng(0)
    cells = [({"checkpoint": name}, wrong(*rng.binomial(10, 0.5, 40))) for name in "ab"]
    cells.append(({"checkpoint": "c"}, wrong(*rng.binomial(10, 0.95, 40))))
    board = ranking.standings(results(*cells))[0]
    found = ranking.separation(board)
    differences = board[0].outcomes[0.1].known - board[1].outcomes[0.1].known
    assert (found.fewest, found.most, found.pairs) == (40, 40, 3)
    assert found.difference == pytest.approx(differences.mean())
    needed = (2.394 * differences.std(ddof=1) / differences.mean()) ** 2  # the normal quantile of 1 - 0.025 / 3
    assert found.needed == pytest.approx(needed, rel=0.02)
    assert not found.apart
    assert found.text.startswith(
        f"On n = 40 tasks, differences below about {100 * found.smallest:.2g} points are mostly not"
    )
    assert f"about {int(float(f'{found.needed:.2g}')):,} tasks would be needed." in found.text


def test_an_entry_that_ran_on_less_than_half_of_the_usual_tasks_has_no_rank() -> None:
    """On two tasks nobody could be shown to be better, so it would share the first rank."""
    cells = [({"checkpoint": name}, wrong(*[count] * 12)) for name, count in (("a", 1), ("b", 4))]
    few, enough = ({"checkpoint": "c"}, wrong(9, 9)), ({"checkpoint": "c"}, wrong(*[9] * 7))
    last = ranking.standings(results(*cells, few))[0][-1]
    assert (last.entry.checkpoint, last.rank) == ("c", None)
    assert last.reason == "n = 2 at 0.1: the entries of this board have 12 (lower median), and a rank needs 7"
    assert ranking.standings(results(*cells, enough))[0][-1].rank is not None
    assert all(one.rank is not None for one in ranking.standings(results(cells[0], few))[0])  # two have no usual


def test_a_learner_at_many_numbers_of_steps_does_not_choose_the_eps_of_the_ranking() -> None:
    many = [({"checkpoint": "c", "weights": "c", "eps": 0.4, "steps": steps}, wrong(9, 9)) for steps in range(1, 6)]
    board = ranking.standings(results(*[({"checkpoint": name, "weights": name}, wrong(1, 2)) for name in "ab"], *many))[
        0
    ]
    assert board[0].rank_eps == 0.1
    assert [one.entry.checkpoint for one in board if one.rank is not None] == ["a", "b"]


def test_the_first_two_may_be_told_apart_or_not_differ_at_all() -> None:
    far = [({"checkpoint": name}, wrong(*[count] * 10)) for name, count in (("a", 1), ("b", 8))]  # 0.9 - 0.2 is not 0.7
    assert ranking.separation(ranking.standings(results(*far))[0]).text == (
        "On n = 10 tasks, differences do not change from task to task, and any can be told apart (95 %); "
        "the first two differ by 70 points and are told apart."
    )
    same = [({"checkpoint": name}, wrong(*[3, 4] * 5)) for name in "ab"]
    text = ranking.separation(ranking.standings(results(*same))[0]).text
    assert text.endswith("the first two do not differ.")
    assert ranking.separation(ranking.standings(results(far[0]))[0]).text == ""


def test_an_external_evaluation_that_fools_more_lowers_the_rank_and_one_that_fools_fewer_does_not() -> None:
    a, b = ({"checkpoint": "a"}, wrong(*[2, 3] * 6)), ({"checkpoint": "b"}, wrong(*[5, 6] * 6))
    for bits, order in ((wrong(*[8, 9] * 6), ["b", "a"]), (wrong(*[1] * 12), ["a", "b"]), ([], ["a", "b"])):
        table = leaderboard(results(a, b, ({**EXTERNAL, "checkpoint": "a"}, bits)))
        ranked = table[table["rank"].notna()].set_index("checkpoint")
        assert ranked["rank"].to_dict() == dict(zip(order, (1, 2), strict=True))
        assert ranked.ours["a"] == pytest.approx(0.75)
        assert ranked.robust["a"] == pytest.approx(0.15 if order[0] == "b" else 0.75)
        assert ranked.better_than_constant["a"] == (order[0] == "a")
        assert ranked.external.to_dict() == {"a": EXTERNAL["external"] if order[0] == "b" else "", "b": ""}


def test_the_area_under_the_curve_is_its_mean_height_over_the_range_of_eps() -> None:
    """Clean 1, then 0.8 at 0.1 and 0.4 at 0.4 on every task: 0.9 over a quarter of the range, 0.6 over the rest."""
    cells = [({"eps": 0.1}, wrong(2, 2)), ({"eps": 0.4}, wrong(6, 6, 6))]
    (one,) = ranking.standings(results(*cells))[0]
    assert one.area == pytest.approx((0.25 * 0.9 + 0.75 * 0.6, 0, 2))
    table = leaderboard(results(*cells)).set_index("checkpoint")
    assert table.area["a"] == one.area[0]
    assert (table.area[statistics.CONSTANT], table.area_ci95[statistics.CONSTANT]) == (0.5, 0.0)


def test_an_entry_that_lacks_an_eps_of_most_others_has_no_area_and_an_odd_one_takes_none_away() -> None:
    cells = [({"checkpoint": name, "eps": eps}, wrong(2, 3)) for name in "ab" for eps in (0.1, 0.2)]
    cells += [({"checkpoint": "c", "eps": 0.2}, wrong(2, 3)), ({"checkpoint": "a", "eps": 0.05}, wrong(1, 1))]
    area = leaderboard(results(*cells)).set_index("checkpoint").area
    assert area[["a", "b"]].notna().all()
    assert area["a"] == area["b"]
    assert np.isnan(area["c"])


def test_gain_over_chance_is_nothing_for_a_constant_and_all_for_perfection() -> None:
    """Of two classes 0.75 is half of the way from chance; the interval grows by the same factor of two."""
    (one,) = ranking.standings(results(({}, wrong(2, 3))))[0]
    assert one.gain == pytest.approx((0.5, 2 * one.robust[1], 2))
    assert one.clean_gain == pytest.approx((1, 0, 2))
    table = leaderboard(results(({}, wrong(2, 3)))).set_index("checkpoint")
    assert (table.gain["a"], table.clean_gain["a"], table.gain[statistics.CONSTANT]) == (pytest.approx(0.5), 1, 0)


def test_bootstrap_intervals_stand_beside_those_of_student_and_inside_what_an_accuracy_can_be() -> None:
    counts = np.random.default_rng(0).binomial(10, 0.03, 40)
    table = leaderboard(results(({}, wrong(*counts)))).set_index("checkpoint").loc["a"]
    assert 0.9 < table.robust_low < table.robust < table.robust_high <= 1
    assert (table.clean_low, table.clean_high) == (1, 1)
    worst = worst_case(results(({}, wrong(*counts)))).iloc[0]
    assert (worst.robust_low, worst.robust_high) == (table.robust_low, table.robust_high)


def test_what_another_step_costs_is_paired_and_corrected_for_all_steps() -> None:
    one = ({"steps": 1}, [("1" * 10, "1" * 6 + "0" * 4)] * 8)
    two = ({"steps": 2}, [("1" * 9 + "0", "1" * 4 + "0" * 6)] * 8)
    five = ({"steps": 5}, [("1" * 9 + "0", "1" * 4 + "0" * 6)] * 8)
    table = statistics.step_costs(results(five, one, two))
    rows = table[["steps", "next_steps", "attack", "eps", "tasks", "difference", "ci95", "p"]].to_numpy().tolist()
    sure = 4 * 2**-7  # the smallest p of 8 signs, the first of four comparisons; the second may not be smaller
    assert rows == [
        [1, 2, "clean", 0.0, 8, pytest.approx(-0.1), pytest.approx(0, abs=1e-12), sure],
        [1, 2, "worst case", 0.1, 8, pytest.approx(-0.2), pytest.approx(0, abs=1e-12), sure],
        [2, 5, "clean", 0.0, 8, 0, 0, 1.0],
        [2, 5, "worst case", 0.1, 8, 0, 0, 1.0],
    ]


def test_areas_over_steps_weigh_each_stretch_by_its_steps() -> None:
    cells = [({"steps": steps}, wrong(*[count] * 3)) for steps, count in ((1, 2), (2, 4), (5, 4))]
    table = statistics.step_areas(results(*cells, ({"checkpoint": "b", "steps": 1}, wrong(1, 1, 1))))
    rows = table[["checkpoint", "steps", "attack", "eps", "tasks", "area"]].to_numpy().tolist()
    expected = (0.7 * 1 + 0.6 * 3) / 4
    assert rows == [
        ["a", "1, 2, 5", "clean", 0.0, 3, 1.0],
        ["a", "1, 2, 5", "worst case", 0.1, 3, pytest.approx(expected)],
    ]


def test_500_entries_are_ranked_in_seconds() -> None:
    rng = np.random.default_rng(0)
    made = results(*[({"checkpoint": f"{i:03d}"}, wrong(*rng.binomial(10, 0.5, 150))) for i in range(500)])
    started = time.perf_counter()
    board = ranking.standings(made)[0]
    assert time.perf_counter() - started < 15
    assert len(board) == 500


def test_one_shared_task_cannot_tell_two_entries_apart() -> None:
    table = leaderboard(results(({}, [("1111", "1111")]), ({"checkpoint": "b"}, [("1111", "0000")])))
    assert table["rank"].dropna().tolist() == [1, 1]


def test_the_constant_predictor_stands_where_its_accuracy_puts_it() -> None:
    good = ({"checkpoint": "good"}, [("1111", "1111"), ("1111", "1111")])
    bad = ({"checkpoint": "bad"}, [("1111", "1000"), ("1111", "1000")])
    table = leaderboard(results(good, bad))
    assert table.checkpoint.tolist() == ["good", statistics.CONSTANT, "bad"]
    assert (table.clean[1], table.robust[1], table.reason[1]) == (0.5, 0.5, "reference")
    assert table.better_than_constant.tolist() == [True, False, False]


def test_an_interval_that_reaches_the_constant_is_not_better() -> None:
    assert not ranking.better_than_constant(0.25, 0.05, 0.2)
    assert ranking.better_than_constant(0.26, 0.05, 0.2)
    assert not ranking.better_than_constant(0.9, math.nan, 0.2)


def test_an_entry_is_not_placed_by_easier_tasks_of_its_own() -> None:
    """On the two shared tasks `a` withstands more; its mean is lower only because it met two harder tasks as well."""
    hard = ("11", "00")
    found = leaderboard(
        results(({}, [("11", "11"), ("11", "10"), hard, hard]), ({"checkpoint": "b"}, [("11", "10"), ("11", "10")]))
    )
    ranked = found[found["rank"].notna()]
    assert ranked["checkpoint"].tolist() == ["a", "b"]
    assert ranked["robust"].tolist() == [0.375, 0.5]


def test_the_ranking_uses_the_largest_eps_that_most_entries_met() -> None:
    bits = [("1111", "1110"), ("1111", "1100")]
    cells = [({"checkpoint": name, "eps": eps}, bits) for name in "ab" for eps in (0.1, 0.2)]
    table = leaderboard(results(*cells, ({"checkpoint": "a", "eps": 0.3}, bits)))
    assert set(table.rank_eps) == {0.2}
    assert table["rank"].dropna().tolist() == [1, 1]


def test_transductive_entries_and_poisoning_have_boards_of_their_own() -> None:
    bits = [("1111", "1110"), ("1111", "1100")]
    cells = [({}, bits), ({"norm_mode": "batch", "checkpoint": "b"}, bits), ({"surface": "support"}, bits)]
    table = leaderboard(results(*cells))
    boards = table.groupby(["surface", "track"]).checkpoint.apply(
        lambda names: sorted({*names} - {statistics.CONSTANT})
    )
    assert boards.to_dict() == {
        ("query", "inductive"): ["a"],
        ("query", "transductive"): ["b"],
        ("support", "inductive"): ["a"],
    }


def test_a_black_box_learner_has_no_rank_and_obliges_nobody() -> None:
    bits = [("1111", "1110"), ("1111", "1100")]
    box = {"checkpoint": "svm", "algorithm": "svm (black-box)", "attack": "square"}
    table = leaderboard(results(({}, bits), (box, [("1111", "1111")] * 2))).set_index("checkpoint")
    assert table["rank"]["a"] == 1
    assert pd.isna(table["rank"]["svm"])
    assert "black-box" in table.reason["svm"]


def test_every_step_count_is_an_entry_and_no_steps_is_one_too() -> None:
    bits = [("1111", "1110"), ("1111", "1100")]
    table = leaderboard(results(*[({"steps": steps}, bits) for steps in (None, 1, 5)]))
    ranked = table[table.checkpoint == "a"]
    assert ranked.steps.isna().sum() == 1
    assert sorted(ranked.steps.dropna()) == [1, 5]


def test_two_settings_under_one_attack_name_are_two_attacks() -> None:
    bits = [("1111", "1110")]
    found = worst_case(results(({}, bits), ({"checkpoint": "b", "attack_fields": "PGD(steps=1)"}, bits)))
    assert found.missing.str.startswith("pgd #").all()


def test_the_defended_entry_is_compared_with_the_standard_one_of_its_algorithm() -> None:
    standard = ({"checkpoint": "s"}, [("1111", "0000"), ("1111", "1000"), ("1111", "0000")])
    defended = ({"checkpoint": "d", "defense": "aq"}, [("1110", "1100"), ("1110", "1110"), ("1110", "1000")])
    table = paired_differences(results(standard, defended))
    assert set(zip(table.checkpoint, table.reference, strict=True)) == {("d", "s")}
    worst = table[table.attack == statistics.WORST_CASE].iloc[0]
    # 0.5, 0.5 and 0.25: mean 5/12, standard deviation 0.25/sqrt(3).
    assert (worst.difference, worst.ci95) == pytest.approx((5 / 12, 4.302653 * 0.25 / 3), rel=1e-6)
    clean = table[table.attack == "clean"].iloc[0]
    assert (clean.difference, clean.ci95, clean.tasks) == (-0.25, 0.0, 3)


def test_an_entry_without_a_standard_counterpart_is_compared_with_the_best() -> None:
    best = ({"checkpoint": "best", "algorithm": "r2d2"}, [("1111", "1111"), ("1111", "1110")])
    other = ({"checkpoint": "other", "defense": "aq"}, [("1111", "1000"), ("1111", "1000")])
    table = paired_differences(results(best, other))
    assert set(zip(table.checkpoint, table.reference, strict=True)) == {("other", "best")}


def test_differences_use_only_the_tasks_that_both_ran() -> None:
    a = ({"checkpoint": "x"}, [("1111", "1111"), ("1111", "1100"), ("1111", "0000")])
    b = ({"checkpoint": "y"}, [("1111", "1110"), ("1111", "1000")])
    table = paired_difference(results(a, b), "x", "y")
    worst = table[table.attack == statistics.WORST_CASE].iloc[0]
    assert (worst.tasks, worst.difference) == (2, 0.25)


def test_per_task_rows_hold_every_attack_and_the_worst_case() -> None:
    a = ({"attack": "a"}, [("1111", "1100"), ("1110", "1110")])
    b = ({"attack": "b"}, [("1111", "1010")])
    table = statistics.per_task(results(a, b))
    rows = table[["attack", "eps", "task", "clean", "robust"]].to_numpy().tolist()
    assert rows == [
        ["worst case", 0.1, 0, 1.0, 0.25],
        ["a", 0.1, 0, 1.0, 0.5],
        ["a", 0.1, 1, 0.75, 0.75],
        ["b", 0.1, 0, 1.0, 0.5],
    ]
    names = ["surface", "track", "family", "episodes", "split", "ways", "shots", "queries", "norm", "seed", "fraction"]
    names += ["whole", "checkpoint", "weights", "algorithm", "defense", "norm_mode", "steps", "eps", "attack", "task"]
    assert table.columns.tolist() == [*names, "clean", "robust"]


def test_per_task_rows_give_no_worst_case_where_an_attack_is_lacking() -> None:
    bits = [("1111", "1100")]
    table = statistics.per_task(results(({}, bits), ({"checkpoint": "b"}, bits), ({"attack": "x"}, bits)))
    assert set(table.checkpoint[table.attack == statistics.WORST_CASE]) == {"a"}


def test_agreement_counts_what_one_attack_fools_and_another_does_not() -> None:
    """Of four clean-correct queries x fools the first two, y the second and third, z the last; x alone: the first."""
    found = statistics.agreement(
        results(
            ({"attack": "x"}, [("11110", "00111"), ("11111", "00000")]),
            ({"attack": "y"}, [("11110", "10011")]),
            ({"attack": "z"}, [("11110", "11101")]),
        )
    )
    counts = {
        (row.attack, row.other): (row.correct, row.fooled, row.fooled_by_other, row.only) for row in found.itertuples()
    }
    assert counts["x", "y"] == (4, 2, 2, 1)
    assert counts["y", "x"] == (4, 2, 2, 1)
    assert counts["z", "x"] == (4, 1, 2, 1)
    assert counts["x", "all others"] == (4, 2, 3, 1)
    assert counts["y", "all others"] == (4, 2, 3, 1)
    assert len(counts) == 3 * 3


def test_agreement_leaves_out_other_learners_examples() -> None:
    theirs = {"attack": "file:x", "attack_fields": "FromFile(sha256='0')"}
    assert not len(statistics.agreement(results(({}, [("11", "10")]), (theirs, [("11", "01")]))))


EXTERNAL = {"attack": "file:adaptive", "attack_fields": "FromFile(sha256='1')", "external": "A. Author 2027"}


def test_an_external_evaluation_that_fools_more_is_the_best_known_on_the_tasks_it_covers() -> None:
    ours = [("1111", "1110"), ("1111", "1100"), ("1111", "1000")]
    one = outcomes.outcomes(results(({}, ours), (EXTERNAL, [("1111", "0011"), ("1111", "1100")])))[0]
    assert one.robust.tolist() == [0.75, 0.5, 0.25]
    assert one.known.tolist() == [0.25, 0.5, 0.25]
    assert (one.external, one.required, one.transferred) == (("A. Author 2027",), ("pgd",), ())


def test_an_external_evaluation_that_fools_fewer_or_met_no_task_changes_no_number() -> None:
    ours = [("1111", "1110"), ("1111", "1100")]
    for bits in ([("1111", "1111")] * 2, [("1111", "1110"), ("1111", "1101")], []):
        one = outcomes.outcomes(results(({}, ours), (EXTERNAL, bits)))[0]
        assert one.known.tolist() == one.robust.tolist() == [0.75, 0.5]
        assert one.complete
        assert one.external == ()  # credit is for what it fools beyond ours


def test_an_external_evaluation_that_failed_costs_no_rank() -> None:
    failed: tuple[dict[str, Any], list[tuple[str, str]]]
    failed = ({**EXTERNAL, "status": "error", "reason": "no such file"}, [])
    table = leaderboard(results(({}, [("11", "10"), ("11", "11")]), failed)).set_index("checkpoint")
    assert table["rank"]["a"] == 1


def test_examples_from_outside_without_attacks_of_ours_are_not_ranked_nor_ours() -> None:
    bits = [("11", "10"), ("11", "11")]
    (one,) = outcomes.outcomes(results((EXTERNAL, bits)))
    assert not one.attacked
    assert np.isnan(one.robust).all()
    assert one.known.tolist() == [0.5, 1.0]


def test_an_external_evaluation_at_a_smaller_eps_counts_at_a_larger() -> None:
    ours = [({"eps": eps}, [("11", "11")]) for eps in (0.1, 0.2)]
    small, large = outcomes.outcomes(results(*ours, ({**EXTERNAL, "eps": 0.1}, [("11", "01")])))
    assert (small.known.tolist(), large.known.tolist(), large.robust.tolist()) == ([0.5], [0.5], [1.0])


def test_no_results_give_empty_tables_with_their_columns() -> None:
    empty = results(({}, []))
    empty = Results(empty.cells.iloc[:0], empty.tasks)
    made = [statistics.summarise, worst_case, leaderboard, paired_differences, statistics.per_task]
    made += [statistics.step_costs, statistics.step_areas]
    for table in (one(empty) for one in (*made, statistics.agreement)):
        assert len(table) == 0
        assert "checkpoint" in table.columns


def test_verdicts_that_are_no_bits_are_refused_by_cell() -> None:
    with pytest.raises(ValueError, match=r"k000.*bits"):
        statistics.summarise(results(({}, [("11x1", "1111")])))
    with pytest.raises(ValueError, match=r"k000.*bits"):
        statistics.summarise(results(({}, [("1111", "1111"), ("111", "111")])))


def test_the_order_of_the_rows_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    cells = [
        ({"checkpoint": name, "eps": eps}, [("1111", "".join(rng.choice(["0", "1"], 4))) for _ in range(6)])
        for name in "abc"
        for eps in (0.1, 0.2)
    ]
    there = results(*cells)
    back = Results(there.cells.iloc[::-1], there.tasks.iloc[::-1])
    pd.testing.assert_frame_equal(leaderboard(there), leaderboard(back))
    pd.testing.assert_frame_equal(statistics.summarise(there), statistics.summarise(back))


def test_statistics_and_report_do_without_torch() -> None:
    code = "import sys, robustbench_meta.statistics, robustbench_meta.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
