"""Two runs and two checkpoints side by side, from frames made by hand and through the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_cli import Run
from test_grid import saved
from test_statistics import EXTERNAL, Results, results, wrong

from robustbench_meta import checkpoint, compare, store
from robustbench_meta.compare import Comparison, Row
from robustbench_meta.types import Cell, InputError, Record, Spec, Threat

HALF = wrong(*[4, 6] * 6)  # 12 tasks of ten queries: robust accuracy 0.5
WORSE = wrong(*[6, 8] * 6)  # 0.2 lower on every task: p = 2^-11 at least
Cells = tuple[dict[str, Any], list[tuple[str, str]]]


def found(rows: Comparison) -> dict[str, Row]:
    return {row.attack: row for row in rows.rows}


def test_a_run_is_identical_to_itself() -> None:
    made = results(({}, HALF), ({"eps": 0.2}, WORSE))
    same = compare.runs(made, made)
    assert [(row.attack, row.eps) for row in same.rows] == [
        ("clean", 0.0),
        ("worst case", 0.1),
        ("pgd", 0.1),
        ("worst case", 0.2),
        ("pgd", 0.2),
    ]
    assert {row.verdict for row in same.rows} == {"identical"}
    assert not same.drops
    assert same.summary == "5 compared: 5 identical. B is worse in 0."


def test_a_drop_is_paired_corrected_and_named() -> None:
    made = compare.runs(results(({}, HALF)), results(({}, WORSE)))
    row = found(made)["worst case"]
    assert [row.a, row.b, row.tasks, row.difference, row.ci95] == pytest.approx([0.5, 0.3, 12, -0.2, 0])
    assert row.p == 2 * 2**-11  # the smallest of 12 signs, for two: clean accuracy is the other
    assert (row.verdict, row.drop) == ("lower", True)
    assert (found(made)["pgd"].verdict, found(made)["pgd"].drop) == ("lower", False)
    assert found(made)["clean"].verdict == "identical"
    assert made.drops == ["a, strokes (test), 2-way 1-shot, L∞: worst case at 0.1: -20.0 ± 0.0 points"]


def test_a_rise_is_no_drop() -> None:
    made = compare.runs(results(({}, WORSE)), results(({}, HALF)))
    assert found(made)["worst case"].verdict == "higher"
    assert not made.drops


def test_what_noise_may_be_is_no_difference_shown() -> None:
    """The same mean on every second task, 0.1 lower on the others by turns: five of twelve signs point up."""
    other = wrong(*[5, 5, 3, 7, 5, 6, 4, 5, 5, 6, 5, 5])
    made = compare.runs(results(({}, HALF)), results(({}, other)))
    assert found(made)["worst case"].verdict == "no difference shown"
    assert not made.drops


def test_a_difference_on_too_few_tasks_is_not_shown() -> None:
    made = compare.runs(results(({}, HALF[:3])), results(({}, WORSE[:3])))
    assert found(made)["worst case"].verdict == "no difference shown"
    assert found(made)["worst case"].p == 0.5  # twice 2^-2
    assert made.blind == "n = 3 tasks cannot show that 2 accuracies at once dropped, however far; evaluate more tasks"
    assert compare.runs(results(({}, HALF[:3])), results(({}, HALF[:3]))).blind == ""
    enough = compare.runs(results(({}, HALF[:7])), results(({}, WORSE[:7])))
    assert enough.blind == ""  # twice 2^-6 is below 0.05
    assert enough.drops


@pytest.mark.parametrize(("tolerance", "dropped"), [(0.0, True), (0.15, True), (0.25, False)])
def test_a_drop_within_the_tolerance_is_none(tolerance: float, dropped: bool) -> None:
    made = compare.runs(results(({}, HALF)), results(({}, WORSE)), tolerance)
    assert found(made)["worst case"].drop == dropped
    assert found(made)["worst case"].verdict == "lower"


@pytest.mark.parametrize("tolerance", [-0.01, 1.0, float("nan")])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: float) -> None:
    with pytest.raises(InputError, match="tolerance"):
        compare.runs(results(({}, HALF)), results(({}, HALF)), tolerance)


def test_a_drop_of_clean_accuracy_counts() -> None:
    sunk = [("1" * 8 + "0" * 2, "1" * 4 + "0" * 6)] * 12
    kept = [("1" * 10, "1" * 4 + "0" * 6)] * 12
    made = compare.runs(results(({}, kept)), results(({}, sunk)))
    assert (found(made)["clean"].verdict, found(made)["clean"].drop) == ("lower", True)
    assert found(made)["worst case"].verdict == "identical"


def test_many_comparisons_are_corrected_for() -> None:
    """One attack of ten is 0.1 lower on seven tasks: p = 1/64 alone, but not among the worst cases of ten eps."""
    one = [({"eps": 0.1}, wrong(*[4] * 7))]
    ten = [({"checkpoint": f"{i}"}, wrong(*[4] * 7)) for i in range(10)]
    lower = [({"eps": 0.1}, wrong(*[5] * 7))]
    assert compare.runs(results(*one), results(*lower)).rows[1].drop
    assert not compare.runs(results(*one, *ten), results(*lower, *ten)).drops


def test_only_tasks_that_both_met_count_and_a_note_says_how_many() -> None:
    made = compare.runs(results(({}, [*HALF, *wrong(10, 10)])), results(({}, HALF)))
    assert found(made)["worst case"].tasks == 12
    assert found(made)["worst case"].verdict == "identical"
    assert made.notes == ("a, strokes (test), 2-way 1-shot, L∞: pgd at 0.1 on 12 of the 14 tasks of A",)
    assert not made.drops


def test_the_worst_case_is_over_the_attacks_that_both_met() -> None:
    """A stronger attack that only one of them met must not look like a change of the learner."""
    more = ({"attack": "square"}, wrong(*[9] * 12))
    made = compare.runs(results(({}, HALF)), results(({}, HALF), more))
    assert found(made)["worst case"].verdict == "identical"
    assert made.notes == ("a, strokes (test), 2-way 1-shot, L∞: square at 0.1 only in B",)
    assert not made.drops
    back = compare.runs(results(({}, HALF), more), results(({}, HALF)))
    assert found(back)["worst case"].verdict == "identical"
    assert back.drops == ["a, strokes (test), 2-way 1-shot, L∞: square at 0.1 was not run in B"]


def test_examples_of_other_learners_are_no_part_of_the_worst_case() -> None:
    theirs: Cells = ({"attack": "file:x", "attack_fields": "FromFile(sha256='0')"}, wrong(*[9] * 12))
    made = compare.runs(results(({}, HALF), theirs), results(({}, HALF), theirs))
    assert found(made)["worst case"].a == pytest.approx(0.5)
    assert found(made)["file:x"].a == pytest.approx(0.1)


def test_clean_accuracy_is_that_of_the_most_tasks() -> None:
    long: Cells = ({"attack": "fgsm"}, wrong(*[1] * 14))
    made = compare.runs(results(({}, HALF), long), results(({}, HALF), long))
    assert found(made)["clean"].tasks == 14


def test_a_query_fooled_at_a_smaller_eps_counts_in_the_worst_case_of_both() -> None:
    small, large = ({"eps": 0.1}, wrong(3, 3)), ({"eps": 0.2}, [("1" * 10, "1" * 7 + "0" * 3)] * 2)
    made = compare.runs(results(small, large), results(small, large))
    rows = {(row.attack, row.eps): row.a for row in made.rows}
    assert [rows["worst case", 0.2], rows["pgd", 0.2]] == pytest.approx([0.4, 0.7])


def test_an_attack_that_failed_in_b_is_a_drop_with_its_reason_and_one_that_failed_in_a_is_a_note() -> None:
    both = [({}, HALF), ({"attack": "square"}, HALF)]
    failed: Cells = ({"attack": "square", "status": "error", "reason": "logits are NaN"}, [])
    made = compare.runs(results(*both), results(both[0], failed))
    assert made.drops == ["a, strokes (test), 2-way 1-shot, L∞: square at 0.1 failed in B: logits are NaN"]
    made = compare.runs(results(both[0], failed), results(*both))
    assert made.notes == ("a, strokes (test), 2-way 1-shot, L∞: square at 0.1 failed in A: logits are NaN",)
    assert not made.drops


def test_an_attack_with_other_settings_is_another_attack() -> None:
    made = compare.runs(results(({}, HALF)), results(({"attack_fields": "PGD(steps=1)"}, WORSE)))
    assert not made.rows
    assert made.lost == ("a, strokes (test), 2-way 1-shot, L∞: pgd at 0.1 has other settings in B",)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seed": 1}, "not in B on these tasks: seed 0 and 1"),
        ({"episodes": "f" * 64}, f"not in B on these tasks: episodes e and {'f' * 12}"),
        ({"queries": 5}, "not in B on these tasks: queries 2 and 5"),
        ({"steps": 5}, "steps – in A, 5 in B"),
        ({"checkpoint": "b"}, "not in B"),
    ],
)
def test_an_entry_that_b_lacks_is_a_drop_and_what_b_has_instead_is_said(changes: dict[str, Any], why: str) -> None:
    made = compare.runs(results(({}, HALF)), results((changes, HALF)))
    assert not made.rows
    (lost,) = made.lost
    assert lost.startswith("a, strokes (test), 2-way 1-shot, L∞")
    assert lost.endswith(f": {why}")
    assert len(made.notes) == 1
    assert made.notes[0].endswith("only in B")


def test_a_name_of_several_learners_is_told_apart_by_weights() -> None:
    two = [({"weights": "v" * 9}, HALF), ({"weights": "w" * 9}, WORSE)]
    made = compare.runs(results(*two), results(two[1]))
    assert {row.checkpoint for row in made.rows} == {"a@wwwwwwww"}
    assert [line.partition(",")[0] for line in made.lost] == ["a@vvvvvvvv"]


def test_one_name_with_other_weights_is_the_same_learner_trained_again() -> None:
    made = compare.runs(results(({}, HALF)), results(({"weights": "again"}, WORSE)))
    assert found(made)["worst case"].drop


def test_an_external_evaluation_counts_only_where_both_met_it() -> None:
    with_it, without = results(({}, HALF), (EXTERNAL, wrong(*[9] * 12))), results(({}, HALF))
    for one, other in ((with_it, without), (without, with_it)):
        made = compare.runs(one, other)
        assert found(made)["worst case"].a == pytest.approx(0.5)
        assert not made.drops
    both = compare.runs(with_it, with_it)
    assert found(both)["worst case"].a == pytest.approx(0.1)


def test_a_new_red_flag_is_a_drop() -> None:
    """Square fools a quarter of what gradients leave standing: F3."""
    calm = [({"attack": "pgd-20"}, HALF), ({"attack": "square"}, HALF)]
    masked = [calm[0], ({"attack": "square"}, wrong(*[9] * 12))]
    made = compare.runs(results(*calm), results(*masked))
    assert [line for line in made.drops if "red flag F3" in line]
    assert not compare.runs(results(*masked), results(*masked)).drops


def test_two_checkpoints_of_one_run_are_compared_where_both_were_met() -> None:
    cells = [
        ({"checkpoint": name, "weights": name, "steps": steps}, bits)
        for name, steps, bits in (
            ("x", 1, HALF),
            ("x", 5, HALF),
            ("y", 1, WORSE),
        )
    ]
    made = compare.checkpoints(results(*cells), "x", "y")
    assert {(row.checkpoint, row.steps) for row in made.rows} == {("x and y", 1)}
    assert found(made)["worst case"].difference == pytest.approx(-0.2)
    assert made.lost == ("x and y, 5 steps, strokes (test), 2-way 1-shot, L∞: steps 5 in A, 1 in B",)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ("x", "x", "are the same learner"),
        ("x", "nobody", "'nobody' is neither a checkpoint of these results (twice, x) nor"),
        ("x", "twice", "2 learners are called 'twice' in these results; give its folder"),
    ],
)
def test_a_checkpoint_that_is_not_one_of_the_results_is_refused(a: str, b: str, said: str) -> None:
    cells = [({"checkpoint": "x"}, HALF), *(({"checkpoint": "twice", "weights": w}, HALF) for w in "12")]
    with pytest.raises(InputError) as refused:
        compare.checkpoints(results(*cells), a, b)
    assert said in str(refused.value)


def test_a_comparison_is_plain_data() -> None:
    made = compare.runs(results(({}, HALF[:1])), results(({}, WORSE[:1]))).json
    assert made["rows"][0]["ci95"] is None
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def write(folder: Path, name: str, survived: list[int], **fields: Any) -> Path:
    """Put one cell into a store: 12 or so tasks of ten queries, as many of them surviving."""
    cell = Cell(
        checkpoint=name,
        weights=fields.pop("weights", "w" * 64),
        algorithm="protonet",
        defense="standard",
        norm_mode="support",
        family="strokes",
        episodes="e" * 64,
        split="test",
        spec=Spec(5, 1, 2),
        steps=None,
        attack="pgd-20",
        attack_fields="PGD()",
        threat=Threat("linf", 0.1, "query"),
        seed=0,
    )
    rows = [
        Record(task, (True,) * 10, tuple(query < count for query in range(10)), 0.1, 20, 10)
        for task, count in enumerate(survived)
    ]
    store.append(folder, replace(cell, **fields), rows)
    return folder


def test_the_command_prints_the_table_and_fails_on_a_drop_only_if_asked(rbm: Run, tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", "x", [6] * 12), write(tmp_path / "b", "x", [4] * 12)
    status, out, err = rbm("compare", a, b, "--json", "c.json")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["attack", "eps", "A", "%", "B", "%", "B", "-", "A", "p", "(Holm)", "verdict"]
    assert " ".join(lines[2].split()) == "worst case L∞ 0.1 60.0 40.0 -20.0 ± 0.0 <0.001 lower, a drop"
    assert lines[4] == "checkpoint x, steps –, board strokes (test), 5-way 1-shot, L∞, n 12"
    assert lines[5] == "3 compared: 1 identical, 2 lower. B is worse in 1."
    assert json.loads((tmp_path / "c.json").read_text())["rows"][1]["drop"] is True
    status, again, err = rbm("compare", a, b, "--fail-on-drop")
    assert (status, again) == (1, out)
    assert err == f"rbm: compare: {b} is worse than {a} in 1 of these\n"
    assert rbm("compare", a, b, "--fail-on-drop", "--tolerance", 25)[0] == 0
    assert rbm("compare", b, a, "--fail-on-drop")[0] == 0
    assert rbm("compare", a, a, "--fail-on-drop")[0] == 0
    few = [write(tmp_path / f"few-{name}", "x", each) for name, each in (("a", [9] * 3), ("b", [1] * 3))]
    assert rbm("compare", *few)[0] == 0
    status, _, err = rbm("compare", *few, "--fail-on-drop")
    assert status == 4
    assert "evaluate more tasks" in err


def test_the_command_compares_two_checkpoints_by_name_and_by_folder(rbm: Run, tmp_path: Path) -> None:
    folder = saved(tmp_path / "mine")
    card = json.loads((folder / "card.json").read_text())
    weights = checkpoint.digest([card["weights_sha256"], card["recipe_sha256"]])
    write(tmp_path / "r", "x", [6] * 12)
    write(tmp_path / "r", "old name", [4] * 12, weights=weights)
    for second in (folder, "old name"):
        status, out, _ = rbm("compare", "x", second, "--results", tmp_path / "r", "--fail-on-drop")
        assert status == 1
        assert "checkpoint x and old name, steps –" in out
    status, _, err = rbm("compare", "x", saved(tmp_path / "other", seed=1), "--results", tmp_path / "r")
    assert (status, err.startswith("rbm: compare: the learner in")) == (2, True)


def test_nothing_comparable_is_status_four_and_bad_input_two(rbm: Run, tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", "x", [6] * 3), write(tmp_path / "b", "x", [6] * 3, seed=1)
    status, out, err = rbm("compare", a, b, "--fail-on-drop")
    assert status == 4
    assert out.splitlines()[0] == (
        "lost: x, strokes (test), 5-way 1-shot, L∞, seed 0: not in B on these tasks: seed 0 and 1"
    )
    assert err == f"rbm: compare: nothing that is in both {a} and {b} can be compared\n"
    for arguments in ((a, tmp_path), (a, "nowhere"), (a, a, "--tolerance", -1), (a, a, "--tolerance", "nan")):
        status, _, err = rbm("compare", *arguments)
        assert (status, err.count("\n")) == (2, 1)


def test_a_hostile_name_is_printed_without_control_characters(rbm: Run, tmp_path: Path) -> None:
    name = "[red]\x1b[31m=1+1"
    a = write(tmp_path / "a", name, [6] * 3)
    status, out, _ = rbm("compare", a, a)
    assert status == 0
    assert "\x1b" not in out
    assert "[red]" in out


def test_results_without_rows_compare_to_nothing() -> None:
    empty = Results(results(({}, HALF)).cells.iloc[:0], pd.DataFrame(columns=results(({}, HALF)).tasks.columns))
    made = compare.runs(empty, empty)
    assert (made.rows, made.lost, made.notes) == ((), (), ())
