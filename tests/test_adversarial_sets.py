"""Kept adversarial examples are exact, known by their content, and score any other learner on the same queries."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file
from test_grid import STROKES, BlackBox, Centroids, axes, content, saved

from robustbench_meta import catalog, evaluate, grid, ranking, report, store, transfer
from robustbench_meta.attacks import from_file
from robustbench_meta.grid import Grid, Subject, Watcher
from robustbench_meta.losses import correct
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.types import Episodes, InputError, Spec

EPS = 0.1
SPEC = Spec(ways=3, shots=2, queries=3)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Subject]:
    """Two untrained protonets of different weights."""
    folder = tmp_path_factory.mktemp("zoo")
    return [grid.load_subject(saved(folder / f"net{seed}", seed=seed), device="cpu") for seed in (0, 1)]


def kept(name: str = "pgd-3", **fields: Any) -> Grid:
    return axes(name, eps=(EPS,), save_adversarial=True, **fields)


def measure(made: Grid, subjects: list[Subject], results: Path, tasks: int = 3) -> list[str]:
    """Run a grid, none of whose cells may fail, and return the lines told."""
    told: list[str] = []
    plan = grid.make_plan(made, subjects, results)
    assert grid.execute(plan, results, tasks=tasks, watcher=Watcher(tell=told.append)) == []
    return told


def sets_of(results: Path) -> list[Path]:
    return sorted((results / store.ADVERSARIAL).iterdir())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewritten(folder: Path, change: Callable[[dict[str, np.ndarray]], None], task: int = 0) -> None:
    """Change the examples of a task, and hash the set anew, as a hostile publisher could."""
    path = folder / f"task-{task:05d}.safetensors"
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path)
    index = json.loads((folder / store.SET).read_text())
    index.pop("sha256")
    index["tasks"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / store.SET).write_text(json.dumps({**index, "sha256": store._digest(index)}))


@pytest.fixture
def made(subjects: list[Subject], tmp_path: Path) -> Path:
    """The set of the first learner, in a results folder of its own."""
    measure(kept(), subjects[:1], tmp_path / "made")
    (folder,) = sets_of(tmp_path / "made")
    return folder


def scores_of(subject: Subject, task: Episodes, x: torch.Tensor) -> torch.Tensor:
    learner: Any = subject.learner
    return learner.predict(learner.adapt(task.support_x, task.support_y, steps=None), x)


def test_the_kept_examples_are_those_whose_verdicts_the_store_holds(subjects: list[Subject], tmp_path: Path) -> None:
    measure(kept(), subjects[:1], tmp_path)
    (folder,) = sets_of(tmp_path)
    held = store.read_set(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "set.json",
        *(f"task-0000{task}.safetensors" for task in range(3)),
    ]
    assert folder.name == store.key(held.cell)
    for record in store.stored(tmp_path, held.cell):
        found = store.read_examples(held, record.task)
        task = STROKES.sample("test", SPEC, [record.task])
        assert np.array_equal(found.query_y, task.query_y[0].numpy())
        assert np.array_equal(found.clean, store.query_digests(task.query_x[0].numpy()))
        moved = np.abs(found.x_adv - task.query_x[0].numpy())
        assert moved.max() == pytest.approx(record.distance)
        still = correct(scores_of(subjects[0], task, torch.from_numpy(found.x_adv)[None]), task.query_y)[0].tolist()
        assert list(record.survived) == [a and b for a, b in zip(still, record.clean, strict=True)]


def test_two_runs_keep_the_same_bytes_and_more_tasks_only_add(subjects: list[Subject], tmp_path: Path) -> None:
    measure(kept(), subjects[:1], tmp_path / "a", tasks=4)
    measure(kept(), subjects[:1], tmp_path / "b", tasks=2)
    (few,) = sets_of(tmp_path / "b")
    before, name = tree(few), store.read_set(few).sha256
    measure(kept(), subjects[:1], tmp_path / "b", tasks=4)
    after = tree(few)
    assert {path: after[path] for path in before if path != store.SET} == {
        path: bytes_ for path, bytes_ in before.items() if path != store.SET
    }
    assert store.read_set(few).sha256 != name
    assert tree(tmp_path / "a" / store.ADVERSARIAL) == tree(tmp_path / "b" / store.ADVERSARIAL)


def test_their_size_is_said_before_and_only_the_query_surface_is_kept(subjects: list[Subject], tmp_path: Path) -> None:
    told = measure(kept("noise-2", surfaces=("query", "support")), subjects[:1], tmp_path)
    size = 3 * 9 * 28 * 28 * 4
    assert told[0] == (f"adversarial examples of 1 cells go to {tmp_path / 'adversarial'}: about {size / 1e6:.3g} MB")
    (folder,) = sets_of(tmp_path)
    files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert size < files < 1.1 * size


def test_a_cell_measured_without_its_examples_runs_again_for_them_alone(
    subjects: list[Subject], tmp_path: Path
) -> None:
    plain = replace(kept(), save_adversarial=False)
    measure(plain, subjects[:1], tmp_path / "late")
    assert not (tmp_path / "late" / store.ADVERSARIAL).exists()
    before = content(tmp_path / "late")
    told = measure(kept(), subjects[:1], tmp_path / "late")
    assert "3 tasks were measured without keeping their examples: they run again, their records stay" in told
    assert content(tmp_path / "late") == before
    measure(kept(), subjects[:1], tmp_path / "early")
    assert tree(tmp_path / "late" / store.ADVERSARIAL) == tree(tmp_path / "early" / store.ADVERSARIAL)


def test_records_that_do_not_come_again_are_told_of(subjects: list[Subject], tmp_path: Path) -> None:
    measure(replace(kept(), save_adversarial=False), subjects[:1], tmp_path)
    (path,) = (tmp_path / "cells").iterdir()
    head, first, *rest = path.read_text().splitlines()
    line = json.loads(first)
    line["survived"] = "".join("10"[int(bit)] for bit in line["survived"])
    path.write_text("\n".join([head, json.dumps(line), *rest]) + "\n")
    told = measure(kept(), subjects[:1], tmp_path)
    assert any("9 verdicts differ from those stored" in text for text in told)


def test_a_set_scores_its_own_source_as_its_attack_did(made: Path, subjects: list[Subject], tmp_path: Path) -> None:
    measure(axes(f"file:{made}", eps=None), subjects[:1], tmp_path)
    (cell,) = store.cells(tmp_path).values()
    mine = [record.survived for record in store.stored(tmp_path, cell)]
    source = store.read_set(made).cell
    assert mine == [record.survived for record in store.stored(tmp_path / "made", source)]
    assert cell.threat == source.threat  # its own eps, where none is given
    assert not all(bit for record in mine for bit in record)


def test_a_set_scores_another_learner_on_exactly_its_examples(
    made: Path, subjects: list[Subject], tmp_path: Path
) -> None:
    measure(axes(f"file:{made}", eps=None), subjects[1:], tmp_path)
    (cell,) = store.cells(tmp_path).values()
    held = store.read_set(made)
    for record in store.stored(tmp_path, cell):
        task = STROKES.sample("test", SPEC, [record.task])
        x_adv = torch.from_numpy(store.read_examples(held, record.task).x_adv)[None]
        right = [correct(scores_of(subjects[1], task, x), task.query_y)[0] for x in (task.query_x, x_adv)]
        assert list(record.survived) == (right[0] & right[1]).tolist()


def test_a_set_serves_a_black_box(made: Path, tmp_path: Path) -> None:
    box = grid.object_subject(BlackBox(), "box", STROKES, device="cpu", ways=3)
    measure(axes(f"file:{made}", eps=None), [box], tmp_path)
    assert len(store.read(tmp_path).tasks) == 3


def test_where_a_set_lies_decides_nothing(made: Path, subjects: list[Subject], tmp_path: Path) -> None:
    measure(axes(f"file:{made}", eps=None), subjects[1:], tmp_path / "r")
    before = content(tmp_path / "r")
    moved = tmp_path / "else+where" / "renamed"
    shutil.copytree(made, moved)
    plan = grid.make_plan(axes(f"file:{moved}", eps=None), subjects[1:], tmp_path / "r")
    assert grid.done(plan, tmp_path / "r", 3) == 1
    assert grid.execute(plan, tmp_path / "r", tasks=3) == []
    assert content(tmp_path / "r") == before
    (cell,) = store.cells(tmp_path / "r").values()
    assert str(tmp_path) not in cell.attack + cell.attack_fields
    assert cell.attack == f"file:net0/pgd-3#{store.read_set(made).sha256[:8]}"
    for field in (store.read_set(made).sha256, "source='net0'", "attack='pgd-3'", "norm='linf'", "eps=0.1"):
        assert field in cell.attack_fields


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"seed": 1}, "seed 1 (the set has 0)"),
        ({"queries": 2}, "queries 2 (the set has 3)"),
        ({"split": "val"}, "split val (the set has test)"),
        ({"eps": (0.05,)}, "its examples moved by up to 0.1, more than eps 0.05 allows"),
        ({"norms": ("l2",), "eps": (1.0,)}, "works in linf, not in l2"),
        ({"surfaces": ("support",)}, "attacks the query, not the support"),
    ],
)
def test_what_differs_from_the_set_is_said_before_anything_runs(
    made: Path, subjects: list[Subject], tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as refused:
        grid.make_plan(axes(f"file:{made}", **{"eps": None, **fields}), subjects, tmp_path)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_family_is_refused_by_its_episodes_whatever_it_is_called(made: Path, tmp_path: Path) -> None:
    other = grid.object_subject(Centroids(), "c", Strokes(train=4, val=4, test=8, samples=10), device="cpu", ways=3)
    with pytest.raises(InputError, match=r"its queries are others: episodes \w{12} \(the set has \w{12}\)"):
        grid.make_plan(axes(f"file:{made}", eps=None), [other], tmp_path)


def test_queries_are_looked_up_by_their_bytes(made: Path, subjects: list[Subject], tmp_path: Path) -> None:
    """The header may claim what it likes: a task that is not in the set fails its cell."""

    def others(arrays: dict[str, np.ndarray]) -> None:
        arrays["clean_sha256"] = arrays["clean_sha256"][::-1].copy()

    rewritten(made, others)
    plan = grid.make_plan(axes(f"file:{made}", eps=None), subjects[1:], tmp_path)
    (failure,) = grid.execute(plan, tmp_path, tasks=3)
    assert "a task's queries are not in file:net0/pgd-3#" in failure.reason
    assert "it holds 3 tasks of strokes test, seed 0, 3-way, 3 queries a class" in failure.reason


def test_examples_that_leave_the_budget_fail_the_cell(made: Path, subjects: list[Subject], tmp_path: Path) -> None:
    def far(arrays: dict[str, np.ndarray]) -> None:
        arrays["x_adv"] = 1 - arrays["x_adv"]

    rewritten(made, far)
    plan = grid.make_plan(axes(f"file:{made}", eps=None), subjects[1:], tmp_path)
    (failure,) = grid.execute(plan, tmp_path, tasks=3)
    assert "the attack left its budget" in failure.reason


def test_more_tasks_than_a_set_holds_are_refused_before_anything_is_written(
    made: Path, subjects: list[Subject], tmp_path: Path
) -> None:
    plan = grid.make_plan(axes(f"file:{made}", eps=None), subjects, tmp_path / "r")
    with pytest.raises(InputError, match=r"^tasks: 4; file:net0/pgd-3#\w{8} holds 3, so give at most 3$"):
        grid.execute(plan, tmp_path / "r", tasks=4)
    assert not (tmp_path / "r").exists()
    assert grid.execute(plan, tmp_path / "r", budget=600) == []
    assert all(len(store.stored(tmp_path / "r", job.cell)) == 3 for job in plan.jobs)


def test_a_changed_set_is_refused(made: Path) -> None:
    path = made / "task-00001.safetensors"
    content, index = bytearray(path.read_bytes()), (made / store.SET).read_text()
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"task-00001.safetensors has SHA-256 \w{12}…, set.json says"):
        catalog.attack(f"file:{made}")
    (made / store.SET).write_text(index.replace('"eps":0.1', '"eps":0.2'))
    with pytest.raises(InputError, match="does not hash to its own sha256"):
        catalog.attack(f"file:{made}")
    (made / store.SET).write_text(index[:-20])
    with pytest.raises(InputError, match=r"set.json, line 1, is broken"):
        catalog.attack(f"file:{made}")
    (made / store.SET).write_text(index.replace("task-00001", "../task-00001"))
    with pytest.raises(InputError, match="its tasks are not files named"):
        catalog.attack(f"file:{made}")


@pytest.mark.parametrize(
    ("field", "value"),
    [("norm", "lots"), ("eps", "0.1"), ("eps", -1), ("eps", True), ("surface", "support"), ("checkpoint", 3)],
)
def test_a_set_of_no_possible_cell_is_refused(made: Path, field: str, value: object) -> None:
    index = json.loads((made / store.SET).read_text())
    index.pop("sha256")
    cell = index["cell"]
    (cell["threat"] if field in cell["threat"] else cell)[field] = value
    (made / store.SET).write_text(json.dumps({**index, "sha256": store._digest(index)}))
    with pytest.raises(
        InputError,
        match=rf"set.json(: {field} is .*, which no cell has|.*{field} = .* is not | holds no attacked queries)",
    ):
        catalog.attack(f"file:{made}")


def test_sizes_are_limited_before_anything_is_read(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LARGEST_TASK", 1000)
    with pytest.raises(InputError, match="more than 1000"):
        catalog.attack(f"file:{made}")
    monkeypatch.setattr(store, "LARGEST_INDEX", 100)
    with pytest.raises(InputError, match="more than 100"):
        catalog.attack(f"file:{made}")


def test_a_folder_of_several_sets_lists_them_and_one_of_one_is_that_set(
    made: Path, subjects: list[Subject], tmp_path: Path
) -> None:
    for place in (made, made.parent, made.parents[1]):
        assert catalog.attack(f"file:{place}") == from_file.load(made)
    measure(kept(), subjects[1:], made.parents[1])
    with pytest.raises(InputError, match=r"holds 2 adversarial sets, name one: .*net0, pgd-3.*; file:.*net1, pgd"):
        catalog.attack(f"file:{made.parent}")
    with pytest.raises(InputError, match="holds no adversarial set"):
        catalog.attack(f"file:{tmp_path / 'nothing'}")


def test_what_a_killed_run_left_unnamed_is_not_part_of_the_set(made: Path) -> None:
    before = from_file.load(made)
    (made / "task-00003.safetensors").write_bytes(b"half")
    assert from_file.load(made) == before
    assert from_file.load(made).tasks == 3


def test_without_a_folder_of_results_there_is_nowhere_to_keep_examples() -> None:
    with pytest.raises(InputError, match="save_adversarial: needs out"):
        evaluate(learner=Centroids(), family=STROKES, save_adversarial=True)


def test_the_command_line_keeps_a_set_and_scores_another_checkpoint_on_it(
    rbm: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    shared = ("--queries", 3, "--tasks", 2, "--device", "cpu", "--out", "r")
    first, second = saved(tmp_path / "first"), saved(tmp_path / "second", seed=1)
    status, _, err = rbm("evaluate", "--ckpt", first, "--attacks", "pgd-3", "--eps", EPS, "--save-adversarial", *shared)
    assert status == 0
    assert "adversarial examples of 1 cells go to r/adversarial" in err
    status, out, err = rbm("evaluate", "--ckpt", second, "--attacks", "file:r/adversarial", *shared)
    assert (status, "file:first/pgd-3#" in out) == (0, True)
    assert "file:PATH" in rbm("list", "attacks")[1]
    status, _, err = rbm("evaluate", "--ckpt", second, "--attacks", "file:r/adversarial", *shared, "--tasks", 9)
    assert status == 2
    assert "rbm: tasks: 9; file:first/pgd-3#" in err
    assert rbm("report", "r", "--out", "page")[0] == 0
    assert "Examples made on" in (tmp_path / "page" / "leaderboard.html").read_text()
    assert len(list((tmp_path / "page" / "figures").glob("transfer-*.svg"))) == 1


def test_a_configuration_that_cannot_be_read_is_left_out_of_the_matrix() -> None:
    given = results([*PAIR[:2], ("b", "file:a/pgd#aa", "FromFile(sha256='aa', eps=", 0.1, ["0111", "1111"])])
    (board,) = ranking.standings(given)
    assert transfer.matrices(given, board) == []


SOURCE = "FromFile(sha256='aa', source='a', source_cell='k0', attack='pgd', norm='linf', eps=0.1)"
Rows = list[tuple[str, str, str, float, list[str]]]


def results(rows: Rows) -> store.Results:
    """Cells k0, k1, ... of (checkpoint, attack, fields, eps, survived bits by task), all right when clean."""
    cells, tasks = [], []
    for number, (name, attack, fields, eps, bits) in enumerate(rows):
        key = f"k{number}"
        cell: dict[str, Any] = {"key": key, "checkpoint": name, "weights": f"w-{name}", "algorithm": "protonet"}
        cell |= {"defense": "standard", "norm_mode": "support", "family": "f", "episodes": "e", "split": "test"}
        cell |= {"ways": 2, "shots": 1, "queries": 2, "steps": pd.NA, "attack": attack, "attack_fields": fields}
        cell |= {"surface": "query", "norm": "linf", "eps": eps, "seed": 0, "status": "ok", "reason": ""}
        cells.append(cell | {"seconds": 1.0, "fraction": 1.0, "whole": False})
        for task, survived in enumerate(bits):
            row = {"key": key, "task": task, "clean": "1" * len(survived), "survived": survived}
            tasks.append(row | {"distance": eps, "forwards": 8, "backwards": 4})
    return store.Results(pd.DataFrame(cells).astype({"steps": "Int64"}), pd.DataFrame(tasks))


PAIR: Rows = [
    ("a", "pgd", "PGD()", 0.1, ["1000", "0000", "1100", "1100"]),
    ("b", "pgd", "PGD()", 0.1, ["1111", "1110", "1111", "1111"]),
    ("b", "file:a/pgd#aa", SOURCE, 0.1, ["0111", "1111"]),
]


def test_transferred_examples_are_no_part_of_the_worst_case_and_nobody_needs_them() -> None:
    (board,) = ranking.standings(results(PAIR))
    outcome = {one.entry.checkpoint: one.outcomes[0.1] for one in board}
    assert outcome["b"].robust.tolist() == [1.0, 0.75, 1.0, 1.0]
    assert outcome["a"].missing == outcome["b"].missing == ()
    assert all(one.rank for one in board)


def test_an_entry_that_met_nothing_but_transferred_examples_is_not_ranked() -> None:
    (board,) = ranking.standings(results([PAIR[0], PAIR[2]]))
    (b,) = (one for one in board if one.entry.checkpoint == "b")
    assert (b.rank, b.reason) == (None, "lacks pgd at 0.1")
    (board,) = ranking.standings(results([PAIR[2]]))
    assert board[0].rank is None
    assert board[0].reason == "met nothing but other learners' adversarial examples at 0.1"


def test_a_larger_eps_met_by_transferred_examples_alone_does_not_become_the_one_of_the_ranking() -> None:
    (board,) = ranking.standings(results([*PAIR, ("b", "file:a/pgd#aa", SOURCE, 0.2, ["0000", "0000"])]))
    assert board[0].rank_eps == 0.1


def test_the_matrix_has_the_source_under_its_own_attack_on_the_diagonal() -> None:
    given = results(PAIR)
    (board,) = ranking.standings(given)
    (matrix,) = transfer.matrices(given, board)
    (source,) = matrix.sources
    assert source == transfer.Source("a", "pgd", 0.1, "k0")
    scores = {entry.checkpoint: matrix.scores[source, entry] for entry in matrix.targets}
    assert (scores["a"].mean, scores["a"].n, scores["a"].own) == (5 / 16, 4, True)
    assert (scores["b"].mean, scores["b"].n, scores["b"].own) == (7 / 8, 2, False)
    assert [matrix.clean[entry].mean for entry in matrix.targets] == [1.0, 1.0]
    (plain,) = ranking.standings(results(PAIR[:2]))
    assert transfer.matrices(results(PAIR[:2]), plain) == []


def test_of_a_set_that_grew_the_larger_one_is_shown() -> None:
    grown = ("b", "file:a/pgd#bb", SOURCE.replace("'aa'", "'bb'"), 0.1, ["0111", "1111", "0011"])
    given = results([*PAIR, grown])
    (board,) = ranking.standings(given)
    (matrix,) = transfer.matrices(given, board)
    assert [score.n for (_, entry), score in matrix.scores.items() if entry.checkpoint == "b"] == [3]


def test_the_report_prints_every_number_of_the_matrix(tmp_path: Path) -> None:
    name = "<i>|a"
    hostile: Rows = [
        (name, *PAIR[0][1:]),
        PAIR[1],
        ("b", "file:x", SOURCE.replace("'a'", repr(name)), 0.1, ["0111", "1111", "1111", "1111"]),
    ]
    report.write(results(hostile), [], tmp_path / "one")
    report.write(results(hostile), [], tmp_path / "two")
    text, page = ((tmp_path / "one" / f"leaderboard.{kind}").read_text() for kind in ("md", "html"))
    table = text.partition("<summary>Transfer")[2].partition("</details>")[0]
    assert "| &lt;i&gt;\\|a | pgd | 93.8 ± 19.9 | **31.2 ± 38.1** |" in table
    assert all(f"{number}</td>" in page for number in ("93.8 ± 19.9", "31.2 ± 38.1"))
    assert "<i>" not in text + page
    svg = (tmp_path / "one" / "figures" / "transfer-f-test-2w1s-linf-query.svg").read_bytes()
    assert svg == (tmp_path / "two" / "figures" / "transfer-f-test-2w1s-linf-query.svg").read_bytes()
    assert not list((tmp_path / "one" / "figures").glob("attacks-*"))  # which one attack of one's own does not need
