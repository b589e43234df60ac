"""Files that nobody vouches for: read up to a limit, parsed strictly, refused in one line that names them."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from test_store import CELL, record

from robustbench_meta import store, train, untrusted, zoo
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.cli_train import read_recipe
from robustbench_meta.report import speed
from robustbench_meta.types import Cell, InputError, Spec, Threat


def test_a_file_is_read_up_to_its_limit_and_not_a_byte_beyond(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert untrusted.content(path, 5) == b"12345"
    with pytest.raises(ValueError, match="has 5 bytes, more than 4"):
        untrusted.content(path, 4)
    os.truncate(path, 2**40)  # a terabyte, of which nothing is on the disk
    with pytest.raises(ValueError, match=f"has {2**40} bytes, more than {2**30}"):
        untrusted.content(path, 2**30)


@pytest.mark.parametrize("read", [lambda path: untrusted.content(path, 9), lambda path: list(untrusted.lines(path))])
def test_a_pipe_is_not_waited_for(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not a file"):
        read(tmp_path / "pipe")


def test_lines_end_where_one_or_all_are_too_long(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\r\ntwo\nthree")
    assert list(untrusted.lines(path, longest=5)) == ["one", "two", "three"]
    with pytest.raises(ValueError, match="a line of more than 4 bytes"):
        list(untrusted.lines(path, longest=4))
    with pytest.raises(ValueError, match="more than 13 bytes"):
        list(untrusted.lines(path, longest=5, limit=13))
    path.write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match="utf-8"):
        list(untrusted.lines(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("1e999", "1e999 is not JSON"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        ("{'a': 1}", "double quotes"),
        ("[1,]", "Expecting|Illegal"),
        (b"\xff", "utf-8"),
    ],
)
def test_json_that_is_not_strict_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        untrusted.parse(text)


def test_strict_json_is_read_as_it_is() -> None:
    value = {"a": [1, 2.5, -0.0, "é\u2028\x1b", None, True], "b": {"a": 10**300}}
    assert untrusted.parse(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pgd-20, L∞ ≤ 8/255 · 漢字 😀", "pgd-20, L∞ ≤ 8/255 · 漢字 😀"),
        ("\x1b[31m\x00\n\t", r"\x1b[31m\x00\n\t"),
        ("\u202e\udcff\u200b", r"\u202e\udcff\u200b"),
        (r"\x1b", r"\x1b"),
        (7, "7"),
    ],
)
def test_text_shows_as_what_it_is(text: object, shown: str) -> None:
    assert untrusted.printable(text) == shown


def changed(**changes: Any) -> Callable[[Path], None]:
    """Write a cell whose fields are of another kind, under the name that its content calls for."""

    def spoil(results: Path) -> None:
        cell = replace(CELL, **changes)
        store._path(results, "cells", CELL).unlink()
        store._path(results, "cells", cell).write_bytes(store._lines([{"schema": 1, "cell": asdict(cell)}]))

    return spoil


def rewritten(folder: str, content: bytes) -> Callable[[Path], None]:
    def spoil(results: Path) -> None:
        store._path(results, folder, CELL).write_bytes(content)

    return spoil


def grown(folder: str, size: int) -> Callable[[Path], None]:
    def spoil(results: Path) -> None:
        path = store._path(results, folder, CELL)
        path.touch()
        os.truncate(path, size)

    return spoil


def packed(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


IMAGES = {name: np.zeros((2, 1, 2, 2), np.float32) for name in store.IMAGES}
PICTURES = IMAGES | {name: np.zeros(2, np.int64) for name in store.PICTURES if name not in IMAGES}
STORES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a line of a gigabyte": (grown("cells", 2**30), "a line of more than"),
    "a failure of a gigabyte": (grown("errors", 2**30), f"more than {store.LARGEST_FAILURE}"),
    "timings of gigabytes": (grown("timings", 2**32), "a line of more than"),
    "pictures of gigabytes": (grown("gallery", 2**32), f"more than {store.LARGEST_GALLERY}"),
    "a name that is a number": (changed(attack=7), "attack = 7 is not str"),
    "ways that are text": (changed(spec=Spec(ways="3")), "ways = '3' is not int"),  # type: ignore[arg-type]
    "an unknown norm": (changed(threat=Threat("l7", 0.1)), "norm = 'l7' is not one of linf"),  # type: ignore[arg-type]
    "an unknown split": (changed(split="<b>"), "split = '<b>' is not one of train"),
    "timings without tasks": (rewritten("timings", b'{"seconds": 1}\n'), "KeyError: 'tasks'"),
    "timings of text": (rewritten("timings", b'{"seconds": "long", "tasks": []}\n'), "seconds is not a number"),
    "pictures that are pickled": (rewritten("gallery", packed(**PICTURES | {"labels": np.array([{}, {}])})), "pickle"),
    "pictures that are lacking": (rewritten("gallery", packed(**IMAGES)), "labels is not a file"),
    "labels of another length": (rewritten("gallery", packed(**PICTURES | {"labels": np.arange(3)})), "labels is not"),
    "pictures that are NaN": (
        rewritten("gallery", packed(**PICTURES | {"clean": PICTURES["clean"] * np.nan})),
        "clean is not what it must be: finite",
    ),
}


def read_all(results: Path) -> None:
    store.read(results)
    store.read_gallery(results)


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_nobody_vouches_for_is_refused_naming_the_file(name: str, tmp_path: Path) -> None:
    spoil, said = STORES[name]
    store.append(tmp_path, CELL, [record(0)], store.Timing((0,), 1.0, "cpu", 1))
    store.save_gallery(tmp_path, CELL, PICTURES)
    spoil(tmp_path)
    with pytest.raises(InputError, match=said) as refused:
        read_all(tmp_path)
    assert str(refused.value).startswith(f"results: {tmp_path}")
    assert "\n" not in str(refused.value)


def test_a_cell_of_the_right_kinds_is_read() -> None:
    cells: list[Cell] = [CELL, replace(CELL, steps=3), replace(CELL, threat=Threat("l2", 1))]
    for cell in cells:
        store._check_types(cell)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = " + b"[" * 5000, "is not a recipe in TOML"),
        (b"a = 1\na = 2\n", "is not a recipe in TOML"),
        (b"\xff", "is not a recipe in TOML"),
        (b"#" * (zoo.LARGEST_RECIPE + 1), f"more than {zoo.LARGEST_RECIPE}"),
        (b'algorithm = "protonet"\nlearning_rate = nan\n', "learning_rate: 'nan': input should be a finite number"),
    ],
)
def test_a_recipe_that_is_none_is_refused_naming_the_file(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        read_recipe(str(path), {}, [], None)
    assert "\n" not in str(refused.value)


def test_what_a_stopped_training_left_is_refused_where_it_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / train.RESUME).write_bytes(b"not tensors")
    with pytest.raises(InputError, match=r"out: \S+ cannot be read .*; remove it to begin again"):
        train._same_recipe(Recipe(), tmp_path)
    assert (tmp_path / train.RESUME).read_bytes() == b"not tensors"


def test_a_history_of_gigabytes_is_refused(tmp_path: Path) -> None:
    def refuse(problem: str) -> NoReturn:
        raise InputError(problem)

    (tmp_path / "history").touch()
    os.truncate(tmp_path / "history", 2**32)
    with pytest.raises(InputError, match=r"history: \S+ cannot be read \(a line of more than"):
        speed.read(tmp_path / "history", refuse)
