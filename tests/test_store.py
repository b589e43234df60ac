"""The store keeps every record once, whole, and only what it can prove belongs to a cell."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from test_grid import Centroids, axes, saved

from robustbench_meta import checkpoint, grid, store
from robustbench_meta.report import plain
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.types import Cell, InputError, Record, Spec, Threat

FORK = multiprocessing.get_context("fork")
CELL = Cell(
    checkpoint="small",
    weights="ab" * 32,
    algorithm="protonet",
    defense="standard",
    norm_mode="support",
    family="strokes",
    episodes="cd" * 32,
    split="test",
    spec=Spec(ways=3, shots=1, queries=2),
    steps=None,
    attack="pgd-2",
    attack_fields="PGD(steps=2)",
    threat=Threat("linf", 8 / 255),
    seed=0,
)


def record(task: int) -> Record:
    clean = tuple((task + i) % 3 > 0 for i in range(6))
    return Record(task, clean, tuple(c and i % 2 == 0 for i, c in enumerate(clean)), 8 / 255, 100 + task, 50)


def content(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results / "cells").iterdir()}


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    store.append(tmp_path, CELL, [record(0), record(1)], store.Timing((0, 1), 1.5, "cpu", 1))
    assert store.stored(tmp_path, CELL) == [record(0), record(1)]
    results = store.read(tmp_path)
    (row,) = results.cells.to_dict("records")
    assert (row["key"], row["status"], row["eps"], row["seconds"]) == (store.key(CELL), "ok", 8 / 255, 1.5)
    assert results.cells["steps"].isna().all()
    assert str(results.cells["steps"].dtype) == "Int64"
    assert results.tasks["clean"].tolist() == ["011011", "110110"]
    assert results.tasks["survived"].tolist() == ["001010", "100010"]


def test_a_cell_without_steps_is_another_cell_than_one_with_steps() -> None:
    keys = {store.key(replace(CELL, steps=steps)) for steps in (None, 1, 5)}
    assert len(keys) == 3


def test_every_field_but_the_display_name_is_part_of_the_key() -> None:
    other = {
        "weights": "x",
        "algorithm": "x",
        "defense": "x",
        "norm_mode": "batch",
        "family": "x",
        "episodes": "x",
        "split": "val",
        "spec": Spec(ways=4),
        "steps": 3,
        "attack": "x",
        "attack_fields": "x",
        "threat": Threat("l2", 8 / 255),
        "seed": 1,
    }
    assert set(other) | {"checkpoint"} == set(CELL.__dataclass_fields__)
    keys = {store.key(replace(CELL, **{name: value})) for name, value in other.items()}  # type: ignore[arg-type]
    assert len(keys | {store.key(CELL)}) == len(other) + 1
    assert store.key(replace(CELL, checkpoint="renamed")) == store.key(CELL)


def test_more_tasks_only_add_bytes(tmp_path: Path) -> None:
    store.append(tmp_path, CELL, [record(0), record(1)])
    (before,) = content(tmp_path).values()
    store.append(tmp_path, CELL, [record(2)])
    (after,) = content(tmp_path).values()
    assert after.startswith(before)
    assert after.count(b"\n") == 4


def test_the_file_is_in_task_order_whatever_the_order_of_writing(tmp_path: Path) -> None:
    store.append(tmp_path / "a", CELL, [record(0), record(1), record(2)])
    for task in (2, 0, 1):
        store.append(tmp_path / "b", CELL, [record(task)])
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_task_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    store.append(tmp_path, CELL, [record(0)])
    store.append(tmp_path, CELL, [replace(record(0), forwards=7), record(1)])
    assert store.stored(tmp_path, CELL) == [record(0), record(1)]


def write_quarter(results: Path, number: int) -> None:
    for i in range(25):
        store.append(results, CELL, [record(4 * i + number)])


def test_four_processes_on_one_cell_lose_nothing(tmp_path: Path) -> None:
    running = [FORK.Process(target=write_quarter, args=(tmp_path, number)) for number in range(4)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * 4
    assert store.stored(tmp_path, CELL) == [record(task) for task in range(100)]


def write_on(results: Path, written: Connection) -> None:
    for task in range(100_000):
        store.append(results, CELL, [record(task)])
        written.send(task)


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    for wanted in (1, 4, 9, 20):
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=write_on, args=(tmp_path, theirs))
        process.start()
        while ours.recv() < wanted:
            pass
        process.kill()
        process.join()
        tasks = [r.task for r in store.stored(tmp_path, CELL)]
        assert len(tasks) > wanted
        assert tasks == list(range(len(tasks)))
    store.append(tmp_path, CELL, [record(task) for task in range(200)])
    assert [path.suffix for path in (tmp_path / "cells").iterdir()] == [".jsonl"]


def test_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.append(tmp_path, CELL, [replace(record(0), distance=float("nan"))])
    assert not content(tmp_path)


@pytest.mark.parametrize(
    "line", ["", "{", "[]", '{"task": 1}', '{"schema": "x"}', "\x00", '{"distance": NaN}'], ids=repr
)
def test_a_broken_line_is_refused_naming_file_and_line(tmp_path: Path, line: str) -> None:
    store.append(tmp_path, CELL, [record(0)])
    path = tmp_path / "cells" / f"{store.key(CELL)}.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=f"{path.name}, line 3") as refused:
        store.read(tmp_path)
    assert "\n" not in str(refused.value)


def test_an_empty_file_or_another_cells_file_is_refused(tmp_path: Path) -> None:
    store.append(tmp_path, CELL, [record(0)])
    path = tmp_path / "cells" / f"{store.key(CELL)}.jsonl"
    path.with_name(f"{'0' * 64}.jsonl").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="does not belong"):
        store.read(tmp_path)
    path.with_name(f"{'0' * 64}.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match="line 1"):
        store.read(tmp_path)


def test_a_task_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    store.append(tmp_path, CELL, [record(0)])
    path = tmp_path / "cells" / f"{store.key(CELL)}.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(InputError, match="once and in order"):
        store.read(tmp_path)


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    store.append(tmp_path, CELL, [record(0)])
    path = tmp_path / "cells" / f"{store.key(CELL)}.jsonl"
    header, task = path.read_text().splitlines()
    path.write_text(json.dumps({**json.loads(header), "schema": store.SCHEMA + 1}) + "\n" + task + "\n")
    before = path.read_bytes()
    for act in (lambda: store.read(tmp_path), lambda: store.append(tmp_path, CELL, [record(1)])):
        with pytest.raises(store.NewerSchema, match="schema version 2"):
            act()
    assert path.read_bytes() == before


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        store.read(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_failure_shows_until_the_cell_runs(tmp_path: Path) -> None:
    store.fail(tmp_path, CELL, "RuntimeError: no memory")
    (row,) = store.read(tmp_path).cells.to_dict("records")
    assert (row["status"], row["reason"]) == ("error", "RuntimeError: no memory")
    store.append(tmp_path, CELL, [record(0)])
    store.clear_failure(tmp_path, CELL)
    (row,) = store.read(tmp_path).cells.to_dict("records")
    assert (row["status"], row["reason"]) == ("ok", "")


def test_timings_add_up_and_stay_out_of_the_cells(tmp_path: Path) -> None:
    store.append(tmp_path, CELL, [record(0), record(1)], store.Timing((0, 1), 3.0, "cpu", 1))
    store.append(tmp_path, CELL, [record(2)], store.Timing((2,), 1.5, "cpu", 2))
    assert store.seconds_per_task(tmp_path) == {store.key(CELL): 1.5}
    assert b"seconds" not in b"".join(content(tmp_path).values())


def test_pictures_come_back_with_the_key_of_their_cell(tmp_path: Path) -> None:
    arrays = {name: np.zeros((2, 1, 3, 3), np.float32) for name in store.IMAGES}
    arrays |= {name: np.array([0, 1]) for name in store.PICTURES if name not in arrays}
    store.append(tmp_path, CELL, [record(0)])
    store.save_gallery(tmp_path, CELL, arrays)
    (found,) = store.read_gallery(tmp_path)
    about = (found["key"], found["title"], found["attack"], found["eps"])
    assert about == (store.key(CELL), "small, 1-shot: pgd-2, linf 0.03137", "pgd-2", 8 / 255)
    assert all(np.array_equal(found[name], value) for name, value in arrays.items())
    (tmp_path / "gallery" / f"{store.key(CELL)}.npz").write_bytes(b"PK not really")
    with pytest.raises(InputError, match=r"[.]npz is not a readable"):
        store.read_gallery(tmp_path)


@pytest.mark.parametrize(
    ("classes", "legal"),
    [
        (np.array(["fox", "bear"]), True),
        (np.array(["fox", "bear", "elm"]), True),
        (np.array(["fox"]), False),
        (np.array([["fox", "bear"]]), False),
        (np.array(["fox", "fox"]), False),
        (np.array([0, 1]), False),
    ],
)
def test_names_of_classes_are_kept_where_each_has_one(tmp_path: Path, classes: np.ndarray, legal: bool) -> None:
    arrays = {name: np.zeros((2, 1, 3, 3), np.float32) for name in store.IMAGES}
    arrays |= {name: np.array([0, 1]) for name in store.PICTURES if name not in arrays}
    store.append(tmp_path, CELL, [record(0)])
    store.save_gallery(tmp_path, CELL, arrays | {store.CLASSES: classes})
    if legal:
        (found,) = store.read_gallery(tmp_path)
        assert found[store.CLASSES].tolist() == classes.tolist()
    else:
        with pytest.raises(InputError, match="classes does not name every class up to 1"):
            store.read_gallery(tmp_path)


def test_a_store_that_cannot_be_written_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((NotADirectoryError, FileExistsError)):
        store.prepare(tmp_path / "file")


def test_many_runs_may_begin_on_one_store_at_the_same_moment(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            list(pool.map(store.prepare, [tmp_path] * 8))
    assert not list((tmp_path / "locks").iterdir())


def evaluated(results: Path, *subjects: grid.Subject) -> None:
    plan = grid.make_plan(axes("noise-2", eps=(0.1,)), subjects, results)
    assert grid.execute(plan, results, tasks=1) == []


def test_the_card_of_a_checkpoint_is_kept_beside_its_results_and_an_object_has_none(tmp_path: Path) -> None:
    ckpt, out = saved(tmp_path / "net"), tmp_path / "r"
    loaded = grid.load_subject(ckpt, device="cpu")
    objects = Strokes(train=4, val=4, test=6, samples=10)
    evaluated(out, loaded, grid.object_subject(Centroids(), "mine", objects, device="cpu", ways=3))
    (path,) = (out / "learners").iterdir()
    assert path.name == f"{loaded.weights}.json"
    assert checkpoint.read_card(path) == checkpoint.read_card(ckpt / "card.json")
    found = store.read(out).learners
    assert list(found.columns) == ["weights", "card", "authors", "paper", "code", "license"]
    assert found.to_dict("records") == [
        {"weights": loaded.weights, "card": path.read_text().strip(), "authors": "", "paper": "", "code": ""}
        | {"license": ""}
    ]


def test_a_card_is_written_once(tmp_path: Path) -> None:
    loaded = grid.load_subject(saved(tmp_path / "net"), device="cpu")
    evaluated(tmp_path / "r", loaded)
    (path,) = (tmp_path / "r" / "learners").iterdir()
    before = path.stat().st_mtime_ns
    evaluated(tmp_path / "r", loaded)
    assert path.stat().st_mtime_ns == before


def test_a_store_without_cards_has_none(tmp_path: Path) -> None:
    store.append(tmp_path, CELL, [record(0)])
    (tmp_path / "learners").rmdir()
    assert store.read(tmp_path).learners.empty


def test_a_card_under_another_name_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated(tmp_path / "r", grid.load_subject(saved(tmp_path / "net"), device="cpu"))
    (path,) = (tmp_path / "r" / "learners").iterdir()
    monkeypatch.setattr(checkpoint, "LARGEST_CARD", 10)
    with pytest.raises(InputError, match="more than 10"):
        store.read(tmp_path / "r")
    monkeypatch.undo()
    path.rename(path.with_name(f"{'0' * 64}.json"))
    with pytest.raises(InputError, match="the card in it does not belong to the file's name"):
        store.read(tmp_path / "r")


def test_a_card_stays_json_where_texts_are_made_printable(tmp_path: Path) -> None:
    ckpt = saved(tmp_path / "net")
    card = checkpoint.read_card(ckpt / "card.json").model_copy(update={"criterion": "\x1b[2J\x7f\u202e\n漢"})
    line = checkpoint.card_line(card)
    assert line.isprintable()
    assert line.isascii()
    store.append(tmp_path / "r", CELL, [record(0)])
    store.save_card(tmp_path / "r", card.learner, line)
    shown, _ = plain.shown(store.read(tmp_path / "r"), [])
    (found,) = shown.learners["card"]  # type: ignore[attr-defined]
    assert checkpoint.parse_card(found.encode()) == card
