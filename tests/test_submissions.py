"""Entries hold everything that was measured, are the same bytes each time, and what does not belong is refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import jsonschema
import pandas as pd
import pytest
from hostile import HOSTILE
from pydantic import ValidationError
from test_grid import BlackBox, Centroids, Failing, axes, saved

from robustbench_meta import audit, board, catalog, checkpoint, grid, report, store, submissions, tracks
from robustbench_meta.checkpoint import Card, Recipe
from robustbench_meta.store import Timing
from robustbench_meta.submissions import About, CellFields, Entry
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.types import Audit, Cell, InputError

ROOT = Path(__file__).resolve().parents[1]
ABOUT = About(authors=("A. Author", "B. Maker"), paper="arXiv:2010.09670", code="https://example.org/x", license="MIT")
TASKS = 3
Run = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Tiny(Strokes):
    """Six classes to test on, as a family of its own name."""

    train: int = 4
    val: int = 4
    test: int = 6
    samples: int = 20

    name: ClassVar[str] = "tiny"


@pytest.fixture(scope="module", autouse=True)
def offered() -> Iterator[None]:
    """A family and an attack that fails, in the catalog."""
    tasks, attacks = catalog.shelf("tasks").presets, catalog.shelf("attacks").presets
    tasks["tiny"], attacks["failing"] = Tiny(), Failing()
    yield
    del tasks["tiny"], attacks["failing"]


def recipe(**fields: Any) -> Recipe:
    return Recipe(family="tiny", network_options={"width": 4, "depth": 2}, ways=3, shots=2, **fields)


def measure(
    results: Path, *subjects: grid.Subject, attacks: tuple[str, ...], tasks: int = TASKS, **fields: Any
) -> None:
    plan = grid.make_plan(axes(*attacks, **{"eps": (0.1,), **fields}), subjects, results)
    grid.execute(plan, results, tasks=tasks)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A protonet with an audit and a failed cell, an anil with steps on a poisoned support, and two objects."""
    folder = tmp_path_factory.mktemp("measured")
    net = grid.load_subject(saved(folder / "net", recipe()), device="cpu")
    anil = grid.load_subject(saved(folder / "anil", recipe(algorithm="anil"), seed=1), device="cpu")
    box = grid.object_subject(BlackBox(), "box", Tiny(), device="cpu", ways=3)
    mine = grid.object_subject(Centroids(), "mine", Tiny(), device="cpu", ways=3)
    results = folder / "results"
    plan = grid.make_plan(axes("fgsm", "noise-2"), [net], results)
    audit.execute(plan, results, tasks=TASKS)
    measure(results, anil, attacks=("fgsm",), surfaces=("query", "support"), steps=(1, 2))
    measure(results, box, mine, attacks=("noise-2",))
    measure(results, net, attacks=("failing",))
    measure(results, anil, attacks=("failing",), steps=(1,))  # one of three alone may not have met it
    return results


def entries_of(results: Path) -> dict[str, Entry]:
    return {entry.name: entry for entry in submissions.entries_of(results, {}, ABOUT, "1.2.3")}


@pytest.fixture
def entries(measured: Path, tmp_path: Path) -> Path:
    """A folder of the four entries."""
    folder = tmp_path / "entries"
    folder.mkdir()
    for entry in entries_of(measured).values():
        (folder / entry.file).write_bytes(submissions.text(entry))
    return folder


def file_of(folder: Path, name: str) -> Path:
    (path,) = folder.glob(f"{name}-*.json")
    return path


def rewritten(path: Path, change: Callable[[Any], Any]) -> None:
    """Change an entry and hash it anew, as somebody who wants to be believed would."""
    content = json.loads(path.read_text())
    change(content)
    del content["sha256"]
    try:
        path.write_bytes(submissions.text(submissions.sealed(Entry.model_validate_json(json.dumps(content)))))
    except ValidationError:
        path.write_text(json.dumps({**content, "sha256": checkpoint.digest(content)}))


def said(folder: Path) -> list[str]:
    return [one.text for one in tracks.read(folder)[1]]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_come_back_from_entries_bit_for_bit(measured: Path, entries: Path) -> None:
    given, found = store.read(measured), tracks.results_of(entries)
    for name in ("cells", "tasks", "audits"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(given, name), check_exact=True)
    cards = {row["weights"]: row["card"] for row in found.learners.to_dict("records") if row["card"]}
    assert cards == dict(zip(given.learners["weights"], given.learners["card"], strict=True))
    assert set(found.cells["status"]) == {"ok", "error"}
    assert set(found.cells["surface"]) == {"query", "support"}


def test_the_same_report_is_made_of_entries_as_of_results(measured: Path, entries: Path, tmp_path: Path) -> None:
    report.write(store.read(measured), [], tmp_path / "a")
    report.write(tracks.results_of(entries), [], tmp_path / "b")
    texts = ("leaderboard.md", "cells.csv")
    assert [(tmp_path / "a" / name).read_text() for name in texts] == [
        (tmp_path / "b" / name).read_text() for name in texts
    ]


def test_an_entry_is_a_results_folder_again(measured: Path, tmp_path: Path) -> None:
    for entry in entries_of(measured).values():
        submissions.as_results(entry, tmp_path)
    for kind in ("cells", "errors", "audits"):
        assert tree(tmp_path / kind) == tree(measured / kind)


def test_who_made_a_learner_stands_in_the_table_of_learners(entries: Path) -> None:
    (row,) = (row for row in tracks.results_of(entries).learners.to_dict("records") if "anil" in row["card"])
    assert (row["authors"], row["paper"]) == ("A. Author, B. Maker", "https://arxiv.org/abs/2010.09670")
    assert (row["code"], row["license"]) == ("https://example.org/x", "MIT")


def test_an_object_has_no_card_and_every_failed_cell_is_kept(measured: Path) -> None:
    found = entries_of(measured)
    assert found["box"].card is None
    assert found["box"].cells[0].cell.algorithm == "custom (black-box)"
    (failed,) = (one for one in found["net"].cells if one.error)
    assert (failed.cell.attack, failed.error) == ("failing", "RuntimeError: no more patience")


def test_the_fields_of_cells_and_audits_are_all_there() -> None:
    assert set(CellFields.model_fields) == set(Cell.__dataclass_fields__)
    assert set(submissions.AuditFields.model_fields) == set(Audit.__dataclass_fields__)
    assert len(submissions.TimedRow.__args__) == len(Timing.__dataclass_fields__)  # type: ignore[attr-defined]


def test_returns_and_likeness_come_back_and_what_was_not_measured_is_not_told(measured: Path) -> None:
    assert set(get_args(submissions.Beside)) == {*store.RETURNS, *store.LIKENESS}
    run = next(one for one in store.runs(measured) if one.records)
    first, second, *_ = run.records
    told = replace(second, clean_return=-1.5, attacked_return=0.25)
    entry = submissions.entry_of([replace(run, records=(first, told))], [], card=None, about=ABOUT, rbm="1")
    text = submissions.text(entry)
    assert b'"beside":{"attacked_return":[null,0.25],"clean_return":[null,-1.5]}' in text.replace(b": ", b":")
    assert submissions.parse(text).runs[0].records == (first, told)
    plain = submissions.entry_of([run], [], card=None, about=ABOUT, rbm="1")
    assert b"beside" not in submissions.text(plain)
    with pytest.raises(ValueError, match="beside: clean_return has 1 numbers for 2 tasks"):
        submissions.parse(text.replace(b"[null,-1.5]", b"[-1.5]"))


def test_an_entry_is_the_same_bytes_each_time_one_line_for_each_task(measured: Path) -> None:
    once, again = entries_of(measured), entries_of(measured)
    for name, entry in once.items():
        text = submissions.text(entry)
        assert text == submissions.text(again[name])
        assert submissions.parse(text) == entry
        lines = text.decode().splitlines()
        rows = sum(len(cell.tasks) for cell in entry.cells)
        assert sum(line.strip().startswith('[0,"') for line in lines) == sum(bool(one.tasks) for one in entry.cells)
        assert len(lines) > rows
        assert all(line.isascii() for line in lines)


@pytest.mark.parametrize("bits", ["1", "0001", "10110", "0" * 75, "1" * 76])
def test_bits_are_packed_and_unpacked(bits: str) -> None:
    given = tuple(bit == "1" for bit in bits)
    packed = submissions.to_hex(given)
    assert len(packed) == -(-len(bits) // 4)
    assert submissions.from_hex(packed, len(bits)) == given


def test_hex_digits_mean_their_bits_leftmost_first() -> None:
    assert submissions.to_hex((True, False, False, False, True)) == "88"
    with pytest.raises(ValueError, match="is not 5 bits"):
        submissions.from_hex("84", 5)  # a sixth bit
    with pytest.raises(ValueError, match="is not 5 bits"):
        submissions.from_hex("888", 5)


def test_task_numbers_are_written_as_ranges() -> None:
    timing = Timing((0, 1, 2, 5, 7, 8), 1.5, "cpu", 1)
    row = submissions._timed(timing)
    assert row[0] == "0-2,5,7-8"
    assert submissions._timing(row) == timing
    with pytest.raises(ValueError, match="no range"):
        submissions.numbers("0-99999999")


# What is done to the entry of net, and what is said of it: file and field, value, what is legal.
Change = Callable[[Any], Any]


def cell(at: int, **fields: Any) -> Change:
    return lambda entry: entry["cells"][at]["cell"].update(fields)


def threat(eps: float) -> Change:
    return lambda entry: entry["cells"][0]["cell"]["threat"].update(eps=eps)


def row(column: int, value: Any, task: int = 1) -> Change:
    return lambda entry: entry["cells"][1]["tasks"][task].__setitem__(column, value)


def measures(**fields: Any) -> Change:
    return lambda entry: entry["audits"][0]["tasks"][0].update(fields)


REFUSED: dict[str, tuple[Change, str]] = {
    "a field that is unknown": (lambda e: e.update(extra=1), "extra: '1': extra inputs are not permitted"),
    "a field that is missing": (lambda e: e.pop("weights"), "weights: field required"),
    "a number as text": (cell(0, seed="0"), "cells.0.cell.seed: '0': input should be a valid integer"),
    "a later schema": (lambda e: e.update(schema_version=2), "schema_version: '2': input should be less than or equal"),
    "a name too long": (lambda e: e.update(name="x" * 201), "name: 'xxx"),
    "an invisible name": (lambda e: e.update(name="net\u202e"), "holds characters that no screen shows"),
    "a control character": (lambda e: e["cells"][2].update(error="\x1b[2J"), "cells.2.error: '\\x1b[2J'"),
    "an address without https": (lambda e: e["about"].update(code="http://a.b/"), "about.code: 'http://a.b/'"),
    "a script as address": (lambda e: e["about"].update(paper="javascript:x"), "about.paper: 'javascript:x'"),
    "a quote in an address": (lambda e: e["about"].update(code='https://a.b/"x'), "about.code: 'https://a.b/\"x'"),
    "a person's address": (lambda e: e["about"].update(authors=["a@b.c"]), "about.authors.0: 'a@b.c'"),
    "no cells": (lambda e: e.update(cells=[]), "cells: '[]': tuple should have at least 1 item"),
    "another norm": (lambda e: e["cells"][0]["cell"]["threat"].update(norm="l3"), "cells.0.cell.threat.norm: 'l3'"),
    "a negative distance": (row(3, -1.0), "cells.1.tasks.1.3: '-1.0'"),
    "no card": (
        lambda e: e.update(card=None),
        "card: 'none'; every learner but an object has one, and",
    ),
    "a recipe changed": (
        lambda e: e["card"]["recipe"].update(seed=5),
        "the recipe hashes to ",
    ),
    "weights of another card": (
        lambda e: e["card"].update(weights_sha256="0" * 64),
        "weights and recipe of the card hash to ",
    ),
    "other weights in a cell": (cell(0, weights="0" * 64), "cells.0.weights: '0000"),
    "another name in a cell": (cell(1, checkpoint="other"), "cells.1.checkpoint: 'other'; this entry has 'net'"),
    "an algorithm the card lacks": (
        cell(0, algorithm="r2d2"),
        "cells.0.algorithm: 'r2d2'; the card's recipe has",
    ),
    "a defense the card lacks": (cell(0, defense="aq"), "cells.0.defense: 'aq'; the card's recipe has 'standard'"),
    "transductive where the recipe is not": (
        cell(0, norm_mode="batch"),
        "cells.0.norm_mode: 'batch'; the card's recipe has 'support'",
    ),
    "steps of what has none": (cell(0, steps=3), "cells.0.steps: 3; adaptation has no steps"),
    "a family that is not in the catalog": (cell(0, family="mnist"), "cells.0.family: 'mnist'; legal: "),
    "a family of other inputs": (
        cell(0, family="cifar-fs"),
        "cells.0.family: 'cifar-fs'; its inputs are (3, 32, 32), the learner takes (1, 28, 28)",
    ),
    "an eps above half the box": (threat(0.9), "cells.0.eps: 0.9; 0.9 is above half the box width (0.5) in linf"),
    "proxies on the query surface": (
        lambda e: e["cells"][0]["cell"]["spec"].update(proxies=3),
        "cells.0.spec.proxies: 3; legal: 0",
    ),
    "an attack nobody knows": (cell(0, attack="magic"), "cells.0.attack: 'magic'; "),
    "an attack that means something else": (
        cell(1, attack_fields="PGD(steps=1)"),
        "cells.1.attack_fields: 'PGD(steps=1)'; ",
    ),
    "a set that is none": (
        cell(0, attack="file:/etc/passwd"),
        "cells.0.attack: 'file:/etc/passwd'; an adversarial set has",
    ),
    "credit for what is ours": (
        lambda e: e["cells"][0].update(
            external={"authors": "X", "attack": "y", "claimed": 0.1, "set_sha256": "0" * 64, "paper": "", "code": ""}
        ),
        "cells.0.external: 'X, y'; ",
    ),
    "too few bits": (row(1, "ff"), "cells.1.tasks.1.clean: 'ff'; 'ff' is not 9 bits in 3 digits (ways times queries)"),
    "too many bits": (row(2, "fff"), "cells.1.tasks.1.survived: 'fff'; 'fff' is not 9 bits"),
    "robust though wrong": (
        lambda e: e["cells"][1]["tasks"].__setitem__(0, [0, "000", "800", 0.1, 9, 9]),
        "cells.1.tasks.0.survived: '800'; only what is right when clean (000) can survive",
    ),
    "further than eps": (row(3, 0.11), "cells.1.tasks.1.distance: 0.11; at most eps 0.05"),
    "a little further than eps": (row(3, 0.0505), "cells.1.tasks.1.distance: 0.0505; at most eps 0.05"),
    "a support that the attack cannot reach": (
        lambda e: e["cells"][1]["cell"].update(
            attack="square",
            attack_fields=repr(catalog.attack("square")),
            threat={"norm": "linf", "eps": 0.1, "surface": "support"},
        ),
        "cells.1.threat.surface: 'support'; square attacks query",
    ),
    "a task left out": (
        lambda e: e["cells"][1]["tasks"].pop(1),
        "cells.1.tasks: '2 at place 1'; tasks go from",
    ),
    "not from the first task on": (lambda e: e["cells"][1]["tasks"].pop(0), "cells.1.tasks: '1 at place 0'; tasks go"),
    "neither tasks nor an error": (
        lambda e: e["cells"][1].update(tasks=[], ran=[]),
        "cells.1.tasks: 'none'; tasks, or an error that says why there are none",
    ),
    "a cell twice": (lambda e: e["cells"].append(e["cells"][0]), "cells.5: '"),
    "the time of tasks it lacks": (
        lambda e: e["cells"][1]["ran"].append(["7-9", 1.0, "cpu", 1, "loop", 1]),
        "'7-9'; only tasks that it holds, each",
    ),
    "the time of more runs than can have been": (
        lambda e: e["cells"][1].update(ran=[["0-2", 1.0, "cpu", 1, "loop", 1]] * 101),
        "cells.1.ran.100: '0-2'; only tasks that it holds, each at most 100 times",
    ),
    "an audit of a version to come": (
        lambda e: e["audits"][0]["audit"].update(version=99),
        "audits.0.version: 99; this version of rbm knows 2",
    ),
    "an audit of other bits": (measures(clean="f"), "audits.0.tasks.0.clean: 'f'; 'f' is not 9 bits"),
    "predictions of classes there are not": (
        measures(predictions=[7] * 9),
        "audits.0.tasks.0.predictions: '9 up to 7'; ",
    ),
    "an audit of another learner": (
        lambda e: e["audits"][0]["audit"].update(defense="aq"),
        "audits.0.defense: 'aq'; the card's recipe has 'standard'",
    ),
    "an audit task without a run": (
        lambda e: e["audits"][0]["tasks"][1]["survived"].pop("pgd"),
        "every task of an audit has the same runs",
    ),
    "another seed on the board": (
        lambda e: [one["cell"].update(seed=1) for one in (*e["cells"],)],
        "seed: 1; the others of tiny test (linf, inductive) have 0",
    ),
    "other episodes": (
        lambda e: [one["cell"].update(episodes="0" * 64) for one in e["cells"]],
        "the others of tiny test met ",
    ),
}


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_belong_is_refused_in_one_line_with_the_reason(entries: Path, change: Change, says: str) -> None:
    assert said(entries) == []
    path = file_of(entries, "net")
    rewritten(path, change)
    lines = said(entries)
    assert any(says in line and line.startswith(path.name) for line in lines), lines
    assert all(line.isprintable() for line in lines)
    with pytest.raises(InputError, match=r"^entries: .*net-") as refused:
        tracks.results_of(entries)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "invalid JSON"),
        (b"[]", "input should be an object"),
        (b'{"name": NaN}', "name"),
        (b"\xff\xfe", "invalid"),
        (b"[" * 100_000, "recursion limit exceeded"),
    ],
)
def test_files_that_are_no_entries_are_refused_by_name(entries: Path, content: bytes, says: str) -> None:
    (entries / "odd.json").write_bytes(content)
    (line,) = said(entries)
    assert line.startswith("odd.json: ")
    assert says in line


def test_a_name_twice_in_an_object_is_refused(entries: Path) -> None:
    path = file_of(entries, "net")
    path.write_text(path.read_text().replace('"rbm": "1.2.3"', '"rbm": "1.2.3",\n "rbm": "1.2.3"'))
    assert "'rbm' stands twice in an object" in said(entries)[0]


def test_an_entry_is_not_read_where_it_is_too_large(entries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "LARGEST_ENTRY", 100)
    assert all("more than 100" in line for line in said(entries))


def test_what_was_changed_by_hand_is_noticed(entries: Path) -> None:
    path = file_of(entries, "net")
    before = path.read_text()
    path.write_text(before.replace("A. Author", "E. Ve"))
    assert "sha256: " in said(entries)[0]
    path.write_text(before.replace("\n ", "\n  "))
    assert "layout: " in said(entries)[0]
    path.rename(path.with_name("net.json"))
    (entries / "net.json").write_text(before)
    assert said(entries) == [f"net.json: file: 'net.json'; this entry's file is called {path.name}"]


def test_two_entries_of_one_learner_or_of_one_name_are_refused(entries: Path) -> None:
    first, second = (tracks.read_one(file_of(entries, name))[0] for name in ("net", "anil"))
    assert first
    assert second
    twin = first.model_copy(update={"name": "twin"})
    assert [one.text for one in tracks.among({"a": first, "b": twin})] == [
        f"b: weights: '{first.weights}'; a has it too; legal is one entry for one learner"
    ]
    other = second.model_copy(update={"name": "net"})
    assert [one.text for one in tracks.among({"a": first, "b": other})] == [
        "b: name: 'net'; a has it too; legal is a name of its own"
    ]


def test_episodes_that_the_family_does_not_draw_are_refused_where_it_can_be_drawn(entries: Path) -> None:
    found, _ = tracks.read(entries)
    assert tracks.drawn(found, tracks.known_episodes(None)) == []
    lines = [one.text for one in tracks.drawn(found, lambda family, split: "f" * 64)]
    assert len(lines) == 4
    assert all("; tiny test draws ffff" in line and "evaluate with --family tiny" in line for line in lines)
    assert tracks.drawn(found, lambda family, split: None) == []


def test_of_two_that_disagree_the_more_common_one_is_right(entries: Path) -> None:
    found, _ = tracks.read(entries)
    net, anil, box = (next(one for one in found.values() if one.name == name) for name in ("net", "anil", "box"))

    def seeded(entry: Entry, seed: int) -> Entry:
        mine = [one.model_copy(update={"cell": one.cell.model_copy(update={"seed": seed})}) for one in entry.cells]
        return entry.model_copy(update={"cells": tuple(mine)})

    odd = tracks.among({"a": seeded(net, 4), "b": box, "c": anil})
    assert {one.file for one in odd} == {"a"}
    odd = tracks.among({"a": seeded(net, 4), "b": box})
    assert {one.file for one in odd} == {"b"}  # of one against one the earlier


def test_an_attack_that_one_of_three_met_is_refused_since_the_others_would_lose_their_ranks(entries: Path) -> None:
    """Two of three may: the third then lacks it."""
    found, _ = tracks.read(entries)
    net = next(one for one in found.values() if one.name == "net")

    def met(entry: Entry, attack: str) -> Entry:
        mine = [one.model_copy(update={"cell": one.cell.model_copy(update={"attack": attack})}) for one in entry.cells]
        return entry.model_copy(update={"cells": (*entry.cells, *mine)})

    def twin(name: str) -> Entry:
        return net.model_copy(update={"name": name, "weights": name})

    lone = tracks.among({"a": met(net, "square"), "b": twin("b"), "c": twin("c")})
    assert {(one.file, one.field, one.value) for one in lone} == {("a", "attack", "square")}
    assert "most others of tiny test met" in lone[0].text
    assert tracks.among({"a": met(net, "square"), "b": met(twin("b"), "square"), "c": twin("c")}) == []


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_texts_are_refused_or_harmless(what: str, measured: Path, tmp_path: Path) -> None:
    """A reason and a name come from strangers: what is not visible is escaped in an entry, the rest in the page."""
    results, text = tmp_path / "r", HOSTILE[what].encode("utf-8", "replace").decode()
    for run in store.runs(measured):
        if run.cell.algorithm == "custom":
            store.append(
                results, replace(run.cell, checkpoint=text[:150].encode("utf-8", "replace").decode()), run.records
            )
            failed = replace(run.cell, attack="fgsm", attack_fields=repr(catalog.attack("fgsm")))
            store.fail(results, failed, text)
    (entry,) = submissions.entries_of(results, {}, ABOUT, "1")
    written = submissions.text(entry)
    assert written.isascii()
    assert written.decode().replace("\n", "").isprintable()
    assert board.add(tmp_path / "b", [entry]).problems == ()
    assert Path(entry.file).name == entry.file
    assert list((tmp_path / "b" / "entries").iterdir()) == [tmp_path / "b" / "entries" / entry.file]
    with pytest.raises(ValidationError):
        About.model_validate({"code": text})


def test_more_tasks_and_cells_only_add_and_failures_that_passed_go(measured: Path, tmp_path: Path) -> None:
    loaded = grid.load_subject(measured.parent / "net", device="cpu")
    measure(tmp_path / "r", loaded, attacks=("fgsm", "pgd-3"), tasks=5, eps=(0.1,))
    (more,) = submissions.entries_of(tmp_path / "r", {}, About(), "2.0")
    old = entries_of(measured)["net"]
    found = submissions.merged(old, more)
    assert (found.name, found.about, found.rbm) == ("net", ABOUT, "2.0")
    runs = {(run.cell.attack, run.cell.threat.eps): run for run in found.runs}
    assert {name: len(run.records) for name, run in runs.items()} == {
        ("failing", 0.1): 0,
        ("fgsm", 0.05): 3,
        ("fgsm", 0.1): 5,
        ("noise-2", 0.05): 3,
        ("noise-2", 0.1): 3,
        ("pgd-3", 0.1): 5,
    }
    assert tracks.of_entry(found.file, found) == []
    assert found.examinations == old.examinations
    assert submissions.merged(found, more) == found
    assert submissions.merged(found, old) == found
    passed = next(one for one in old.runs if one.reason)
    ran = submissions.entry_of(
        [replace(passed, reason="", records=runs["fgsm", 0.1].records)], [], card=old.card, about=ABOUT, rbm="3"
    )
    assert not any(run.reason for run in submissions.merged(found, ran).runs)
    assert not any(run.reason for run in submissions.merged(ran, old).runs)  # the older failure does not come back


def test_the_schema_that_is_shipped_is_the_one_that_the_models_make() -> None:
    shipped = ROOT / "reports" / "leaderboard" / submissions.SCHEMA_FILE
    assert shipped.read_bytes() == submissions.schema(), "run `rbm leaderboard build`"


def test_shipped_entries_are_valid_by_the_schema_for_an_independent_validator(entries: Path) -> None:
    schema = json.loads(submissions.schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    shipped = submissions.files_of(ROOT / "reports" / "leaderboard" / "entries")
    assert len(shipped) >= 7
    for path in (*shipped, *submissions.files_of(entries)):
        validator.validate(json.loads(path.read_text()))
    odd = json.loads(shipped[0].read_text())
    for change in (
        lambda e: e.update(extra=1),
        lambda e: e["cells"][0]["tasks"][0].append(1),
        lambda e: e["cells"][0]["tasks"][0].__setitem__(1, "xyz"),
        lambda e: e["cells"][0]["cell"]["threat"].update(norm="l3"),
        lambda e: e["about"].update(code="http://a.b"),
        lambda e: e.update(name="a\nb"),
    ):
        copy = json.loads(json.dumps(odd))
        change(copy)
        assert not validator.is_valid(copy)


def test_a_board_is_written_whole_and_twice_gives_the_same_bytes(measured: Path, tmp_path: Path) -> None:
    made = list(entries_of(measured).values())
    assert set(board.add(tmp_path, made).entries.values()) == {"new"}
    before = tree(tmp_path)
    assert set(board.add(tmp_path, made).entries.values()) == {"as it was"}
    assert tree(tmp_path) == before


def test_nothing_is_written_where_one_entry_is_refused(measured: Path, tmp_path: Path) -> None:
    good, bad, *_ = entries_of(measured).values()
    odd = submissions.sealed(bad.model_copy(update={"name": good.name}))
    added = board.add(tmp_path, [good, odd])
    assert added.problems
    assert not (tmp_path / "entries").exists()


def test_a_kill_half_way_leaves_the_entry_that_was_there(measured: Path, tmp_path: Path) -> None:
    entry = entries_of(measured)["net"]
    board.add(tmp_path, [entry])
    before = tree(tmp_path)
    child = os.fork()
    if child == 0:  # killed between the last byte and the name
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        board.add(tmp_path, [submissions.sealed(entry.model_copy(update={"about": About()}))], about=About(license="X"))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    left = tree(tmp_path)
    assert {name: left[name] for name in before} == before
    assert len(left) == len(before) + 1
    found, problems = tracks.read(tmp_path / "entries")
    assert (list(found), problems) == ([entry.file], [])
    assert board.add(tmp_path, [entry], about=About(license="X")).entries == {entry.file: "grown"}


def test_a_card_that_was_not_kept_is_asked_for(measured: Path, tmp_path: Path) -> None:
    for run in store.runs(measured):
        store.append(tmp_path, run.cell, run.records)
    with pytest.raises(InputError, match=r"^ckpt: (net|anil) has no card in .*; give its folder by --ckpt$"):
        submissions.entries_of(tmp_path, {}, ABOUT, "1")
    cards = {card.learner: card for card in (checkpoint.read_card(path) for path in (measured / "learners").iterdir())}
    assert len(submissions.entries_of(tmp_path, cards, ABOUT, "1")) == 4


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "authors = ['x@y.z']", "authors.0"),
        ("a.toml", "author = 'x'", "author"),
        ("a.toml", "authors = ", "is not TOML"),
        ("a.json", "[1", "is not JSON"),
        ("a.json", '{"paper": "ftp://x"}', "paper"),
    ],
)
def test_what_is_said_about_a_learner_is_checked(name: str, text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"^about: .*{says}"):
        submissions.read_about(tmp_path / name)


def test_what_is_said_about_a_learner_is_read_from_toml_and_json(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('authors = ["A. Author", "B. Maker"]\npaper = "arXiv:2010.09670"\n')
    (tmp_path / "a.json").write_text('{"authors": ["A. Author", "B. Maker"], "paper": "arXiv:2010.09670"}')
    assert submissions.read_about(tmp_path / "a.toml") == submissions.read_about(tmp_path / "a.json")


def test_the_command_line_adds_builds_and_checks(
    measured: Path,
    tmp_path: Path,
    rbm: Run,
) -> None:
    status, out, _ = rbm("leaderboard", "add", measured, "--board", "b")
    assert (status, out.count(": new")) == (0, 4)
    status, _, err = rbm("leaderboard", "check", "b")
    assert status == 1
    assert "leaderboard.html is missing" in err
    status, out, _ = rbm("leaderboard", "build", "b")
    assert status == 0
    assert {"b/leaderboard.html", "b/leaderboard.md", "b/cells.csv", "b/entry.schema.json"} < set(out.split())
    before = tree(tmp_path / "b")
    status, out, _ = rbm("leaderboard", "check", "b")
    assert (status, "not checked" in out) == (0, False)
    assert rbm("leaderboard", "add", measured, "--board", "b")[1].count(": as it was") == 4
    rbm("leaderboard", "build", "b")
    assert tree(tmp_path / "b") == before


@pytest.fixture
def built(measured: Path, tmp_path: Path) -> Path:
    """A board of one entry, with its pages."""
    board.add(tmp_path / "board", [entries_of(measured)["net"]])
    board.build(tmp_path / "board")
    return tmp_path / "board"


def test_every_text_that_was_changed_is_named(built: Path, rbm: Run) -> None:
    names = ("entry.schema.json", "leaderboard.md", "leaderboard.html", "cells.csv")
    for name in names:
        text = (built / name).read_text()
        at = text.rindex("\n", 0, -20)  # in no drawing
        (built / name).write_text(f"{text[:at]} {text[at:]}")
    status, _, err = rbm("leaderboard", "check", built)
    assert status == 1
    *lines, last = err.splitlines()
    assert [line.partition(" differs from line ")[0] for line in lines] == [f"rbm: {name}" for name in names]
    assert last.endswith(f"is not what its entries make: `rbm leaderboard build {built}`")


def test_drawings_are_compared_by_their_names_alone(built: Path) -> None:
    (first, second, *_) = sorted((built / "figures").glob("*.svg"))
    first.write_text(first.read_text().replace("<path", "<path "))
    page = built / "leaderboard.html"
    page.write_text(page.read_text().replace("<path", "<path "))
    second.rename(second.with_name("old.svg"))
    assert board.differences(built) == [f"figures/{second.name} is missing", "figures/old.svg is drawn no more"]
    board.build(built)
    assert board.differences(built) == []
    assert not (built / "figures" / "old.svg").exists()


def test_what_cannot_be_added_is_said_in_one_line(measured: Path, tmp_path: Path, rbm: Run) -> None:
    assert rbm("leaderboard", "add")[0] == 2
    assert rbm("leaderboard", "add", tmp_path / "nothing")[0] == 2
    status, _, err = rbm("leaderboard", "build", "nowhere")
    assert (status, err) == (2, "rbm: entries: nowhere/entries holds none; `rbm leaderboard add` writes them\n")
    assert rbm("leaderboard", "add", measured, "--board", "b")[0] == 0
    rewritten(file_of(tmp_path / "b" / "entries", "net"), cell(0, seed=3))
    status, _, err = rbm("leaderboard", "add", measured, "--board", "b")
    assert status == 1
    assert err.endswith("rbm: leaderboard: nothing was added to b\n")


def submit(rbm: Run, *arguments: object) -> tuple[int, str, str]:
    return rbm("submit-check", *arguments, "--board", "none", "--seconds", 2)


def test_a_checkpoint_is_loaded_and_lets_itself_be_used(measured: Path, tmp_path: Path, rbm: Run) -> None:
    ckpt = measured.parent / "anil"
    status, out, _ = submit(rbm, ckpt)
    assert status == 0
    assert "adapts, and predicts with finite scores" in out
    assert "the card lacks hashes of its episodes, versions, its history" in " ".join(out.split())
    weights = (ckpt / "weights.safetensors").read_bytes()
    broken = saved(tmp_path / "broken", recipe(algorithm="anil"), seed=1)
    (broken / "weights.safetensors").write_bytes(weights[:-1] + b"\0")
    status, out, err = submit(rbm, broken)
    assert (status, err) == (1, f"rbm: submit-check: {broken} is refused\n")
    assert "has SHA-256" in out
    card = json.loads((ckpt / "card.json").read_text())
    (broken / "weights.safetensors").write_bytes(weights)
    given: dict[str, Any] = {"episodes_sha256": {"val": "0" * 64}, "weights_bytes": len(weights) - 1}
    checkpoint.save(broken, Card.model_validate({**card, **given}), weights)
    status, out, _ = submit(rbm, broken)
    assert status == 1
    assert "val episodes" in out
    assert "bytes, the file has" in out


def test_an_entry_is_run_again_where_its_checkpoint_is_here(measured: Path, entries: Path, rbm: Run) -> None:
    for path in entries.iterdir():
        if not path.name.startswith("net-"):
            path.unlink()
    status, out, _ = submit(rbm, entries)
    assert status == 0
    assert "its checkpoint is not here" in out
    status, out, _ = submit(rbm, entries, "--ckpt", measured.parent / "net")
    assert status == 0
    assert "bit for bit" in out
    path = file_of(entries, "net")
    rewritten(
        path, lambda e: [one.update(tasks=[[t[0], t[1], t[1], *t[3:]] for t in one["tasks"]]) for one in e["cells"]]
    )
    status, out, _ = submit(rbm, entries, "--ckpt", measured.parent / "net")
    assert status == 1
    assert "verdicts differ" in out


def test_a_folder_without_a_submission_is_no_refusal_but_an_error(tmp_path: Path, rbm: Run) -> None:
    assert submit(rbm, tmp_path)[0] == 2
    assert submit(rbm, tmp_path / "nothing")[0] == 2
    (tmp_path / "external.json").write_text("{}")
    status, _, err = submit(rbm, tmp_path)
    assert (status, err.startswith("rbm: external: ")) == (2, True)


def test_episodes_that_cannot_be_drawn_here_are_said_not_to_be_checked(rbm: Run) -> None:
    status, out, err = rbm("leaderboard", "check", ROOT / "reports" / "leaderboard", "--data-root", "nowhere")
    assert (status, err) == (0, "")
    assert "not checked: the episodes of cifar-fs test, whose data are not here" in out
