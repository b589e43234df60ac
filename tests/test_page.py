"""What the page is given beyond its tables: numbers that come back exactly, commands that repeat them, a bound."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hostile import HOSTILE
from many import Results, many, page, pictures
from scipy.special import stdtrit
from test_grid import saved

from robustbench_meta import cli, store
from robustbench_meta.grid import parse_eps
from robustbench_meta.outcomes import cells_behind
from robustbench_meta.ranking import standings
from robustbench_meta.report import album, charts, data, drawing, lines, plain, tables
from robustbench_meta.report import page as pages
from robustbench_meta.report.lines import Run
from robustbench_meta.report.values import Value


def block(results: Any) -> dict[str, Any]:
    """The data of a page, as a browser reads it."""
    text = page(results)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    read: dict[str, Any] = json.loads(found.group(1))
    return read


@pytest.mark.parametrize("queries", [1, 35, 36, 75, 1295, 1296])
def test_counts_come_back_from_base_36(queries: int) -> None:
    counts = np.array([0, 1, queries // 2, queries])
    text = data._counts(counts / queries, queries)
    width = len(text) // 4
    assert width == (1 if queries < 36 else 2 if queries < 1296 else 3)
    assert [int(text[i : i + width], 36) for i in range(0, len(text), width)] == counts.tolist()


@pytest.mark.parametrize(("tasks", "text"), [([], ""), ([4], "4"), ([0, 1, 2, 5, 7, 8], "0-2,5,7-8")])
def test_tasks_are_written_as_ranges(tasks: list[int], text: str) -> None:
    assert data._ranges(np.array(tasks, int)) == text


def test_the_page_is_given_students_t_for_few_tasks() -> None:
    given = block(many(2, tasks=3))["quantiles"]
    assert given == [float(stdtrit(degrees, 0.975)) for degrees in range(1, 31)]


def test_every_entry_holds_its_accuracy_of_every_task() -> None:
    results = many(3, tasks=4)
    given = block(results)["boards"][0]
    for one, entry in zip(standings(results)[0], given["entries"], strict=True):
        assert entry["name"] == one.entry.checkpoint
        for outcome in entry["outcomes"]:
            mine = one.outcomes[given["budgets"][outcome["eps"]]]
            width = len(outcome["worst"]) // 4
            counts = [int(outcome["worst"][i : i + width], 36) for i in range(0, 4 * width, width)]
            assert [count / outcome["queries"] for count in counts] == mine.known.tolist()
            assert ("clean" in outcome) == (mine.eps == one.rank_eps)


def test_examples_from_outside_that_fool_more_are_named_where_the_number_stands() -> None:
    results = many(2, tasks=4, eps=(8 / 255,))
    first = results.cells.iloc[[0]]
    theirs = first.assign(key="theirs", attack="file:x", attack_fields="FromFile(sha256='x')", external="A. <b> 2027")
    bits = results.tasks[results.tasks.key == first.key.iloc[0]].assign(key="theirs", survived="0" * 25)
    both = Results(pd.concat([results.cells, theirs]), pd.concat([results.tasks, bits]))
    assert "best known, by A. &lt;b&gt; 2027" in page(both)
    beaten = next(one for one in block(both)["boards"][0]["entries"] if one["name"] == first.checkpoint.iloc[0])
    assert set(beaten["outcomes"][0]["worst"]) == {"0"}
    assert "best known, by" not in page(results)


def test_no_text_can_end_the_element_that_holds_the_data() -> None:
    results = many(2, tasks=2)
    texts = list(HOSTILE.values())
    results.cells["checkpoint"] = [texts[int(weights, 16) + 14] for weights in results.cells["weights"]]
    shown, _ = plain.shown(results, [])
    boards = standings(shown)
    made = pages.make(shown, boards, tables.tables(shown, boards), {}, pages.Shown(album.Album()))
    assert "<" not in made.json
    names = {entry["name"] for board in json.loads(made.json)["boards"] for entry in board["entries"]}
    assert names == {shown.cells["checkpoint"].iloc[0], shown.cells["checkpoint"].iloc[-1]}
    assert any("</script>" in name for name in names)


def test_a_page_of_fifty_checkpoints_with_its_pictures_stays_below_a_megabyte() -> None:
    eps, attacks = (2 / 255, 4 / 255, 8 / 255), ("fgsm", "pgd-20", "pgd-mt-50", "autoattack")
    text = page(many(50, tasks=100, queries=15, attacks=attacks, eps=eps), pictures())
    assert text.count('class="chart"') == 2
    assert text.count("data:image/png") > 20
    assert len(text.encode()) < 1_000_000


def test_an_entry_is_drawn_alike_on_all_boards_and_as_the_figures_draw_it() -> None:
    boards = tuple({"shots": shots, "surface": surface} for surface in ("query", "support") for shots in (1, 5))
    results = many(11, tasks=5, boards=boards)
    order = drawing.places([one.entry for one in board] for board in standings(results))
    looks = {lines.entry_id(entry): drawing.look(entry, place, named=True) for entry, place in order.items()}
    lines_of = re.findall(r'<g class="line (\w+)" data-entry="(\w+)">(.*?)</g>', page(results))
    first = {tuple(one.entry for one in board[:8]) for board in standings(results)}
    assert len(first) == 4  # the boards do not rank alike, so a colour by rank would differ
    assert len(lines_of) == 11 * 2 * 4
    assert sum(hue == "rest" for hue, *_ in lines_of) == 3 * 2 * 4
    for hue, name, inside in lines_of:
        corners = {len(points.split()) for points in re.findall(r'points="(.*?)"', inside)} or {0}
        if hue != "rest":
            assert hue == f"c{looks[name].hue}"
            assert corners == {len(charts.SHAPES[looks[name].shape])}
    given = {entry["id"]: entry["look"] for board in block(results)["boards"] for entry in board["entries"]}
    assert given == {name: [one.hue, one.shape, one.dashed] for name, one in looks.items()}


def test_no_two_marks_are_alike() -> None:
    assert len(set(charts.SHAPES)) == len(charts.SHAPES) == len(drawing.MARKERS)


def test_pictures_never_take_more_room_than_they_may() -> None:
    for size in (32, 84, 224):
        made = album.album(pictures(size=size))
        shots = [shot for block in made.blocks for shot in block.shots]
        assert sum(len(shot.clean) + len(shot.moved) + len(shot.adversarial) for shot in shots) <= album.LARGEST
        assert made.left == 8 - len(made.blocks)
    assert not album.album(pictures(size=224)).blocks


def test_the_album_shows_where_nothing_moved() -> None:
    item = pictures(sets=1, size=4)[0]
    item["adversarial"] = item["clean"]
    assert {shot.moved for block in album.album([item]).blocks for shot in block.shots} == {""}


def test_seconds_are_those_of_a_gpu_where_all_ran_on_one() -> None:
    def spent(*runs: tuple[float, str]) -> str:
        value = Value(0.5, 0.1, 2)
        return lines.spent_text([Run("a", 0.1, value, 1, 1, seconds, device, "k") for seconds, device in runs])

    assert spent((1.25, "cuda:0"), (2.0, "cuda:0")) == "3.25 GPU-s on cuda:0"
    assert spent((1234.5, "cpu")) == "1,234 s on cpu"
    assert spent((1.0, "cpu"), (1.0, "cuda:0")) == "2 s on cpu, cuda:0"
    assert spent((float("nan"), "")) == "–"
    assert spent((1.0, "")) == "1 s"


def test_a_command_repeats_the_numbers_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    saved(tmp_path / "checkpoints" / "mine")
    for attacks, eps, tasks in (("fgsm", "8/255,0.1", "2"), ("pgd-10", "0.1", "1")):
        words = [
            "--attacks",
            attacks,
            "--eps",
            eps,
            "--queries",
            "3",
            "--tasks",
            tasks,
            "--seed",
            "5",
            "--split",
            "val",
        ]
        run(monkeypatch, ["rbm", "evaluate", "--ckpt", "checkpoints/mine", *words, "--no-audit", "--out", "first"])
    results = store.read(tmp_path / "first")
    standing = standings(results)[0][0]
    known = lines.learners(results)
    commands, left_out = lines.commands(standing, cells_behind(results), known[standing.entry.weights])
    assert len(commands) == 2
    assert not left_out
    for command in commands:
        run(monkeypatch, [*shlex.split(command), "--no-audit", "--out", "again"])
    first = {path.name: path.read_bytes() for path in (tmp_path / "first" / "cells").iterdir()}
    again = {path.name: path.read_bytes() for path in (tmp_path / "again" / "cells").iterdir()}
    assert first == again
    assert len(first) == 3


def run(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as left:
        cli.app()
    assert left.value.code in (0, None)


def test_a_command_quotes_what_a_shell_would_obey() -> None:
    results = many(1, tasks=2)
    for text in ("$(id)", "a; id", "`id`", "it's"):
        results.cells["checkpoint"] = text
        (command,), _ = lines.commands(standings(results)[0][0], cells_behind(results), None)
        assert shlex.split(command)[3] == f"checkpoints/{text}"


def test_no_command_names_settings_without_a_name_of_their_own() -> None:
    results = many(1, tasks=2, eps=(0.1,))
    other = results.cells[results.cells.attack == "fgsm"].assign(key="other", attack_fields="fgsm(x=1)")
    file = other.assign(key="file", attack="file:abc", attack_fields="FromFile(sha256='abc')")
    tasks = results.tasks[results.tasks.key == results.cells.key.iloc[0]]
    cells = pd.concat([results.cells, other, file])
    both = Results(cells, pd.concat([results.tasks, tasks.assign(key="other"), tasks.assign(key="file")]))
    (command,), left_out = lines.commands(standings(both)[0][0], cells_behind(both), None)
    assert "--attacks pgd-20 " in command
    assert re.fullmatch(r"fgsm #\w{6}, fgsm #\w{6}, file:abc", left_out)


@pytest.mark.parametrize("card", ["", "not json", "[1]", '{"recipe": 3}', '{"recipe": {"a": NaN}}', "[" * 100_000])
def test_a_card_that_is_none_says_nothing(card: str) -> None:
    results = many(1, tasks=2)
    results.learners["card"] = card
    found = lines.learners(results)["0" * 64]
    assert (found.recipe, found.facts) == ((), ())
    assert ("license", "MIT") in found.published


def test_a_card_tells_its_recipe_and_what_training_took() -> None:
    found = lines.learners(many(1, tasks=2))["0" * 64]
    assert dict(found.recipe)["network_options.width"] == "64"
    assert dict(found.recipe)["augment"] == "flip, crop"
    assert dict(found.facts)["Training"] == "5,536 s on cpu"


def test_a_surface_has_a_square_for_every_step_count_and_number_of_shots() -> None:
    where = tuple({"shots": shots, "steps": steps} for shots in (1, 5) for steps in (1, 10))
    results = many(2, tasks=3, boards=where)
    made = pages.make(
        results, (boards := standings(results)), tables.tables(results, boards), {}, pages.Shown(album.Album())
    )
    surface, nothing = (leaf.surface for leaf in made.leaves)
    assert nothing is None
    assert surface is not None
    assert surface.shots == (1, 5)
    assert [[steps for steps, _ in strip] for _, strip in surface.strips] == [["1", "10"], ["1", "10"]]
    for place, shots in enumerate((1, 5)):
        board = boards[place]
        assert board[0].board.shots == shots
        for name, strip in surface.strips:
            for steps, squares in strip:
                square = squares[place]
                assert square is not None
                mine = next(s for s in board if (s.entry.checkpoint, str(s.entry.steps)) == (name, steps))
                assert (square.value.mean, square.entry) == (mine.robust[0], lines.entry_id(mine.entry))


def test_boards_of_one_row_and_one_column_have_no_surface() -> None:
    results = many(3, tasks=3)
    made = pages.make(
        results, (boards := standings(results)), tables.tables(results, boards), {}, pages.Shown(album.Album())
    )
    assert [leaf.surface for leaf in made.leaves] == [None]


def test_the_front_holds_what_none_has_more_of_both_than() -> None:
    assert charts._pareto([(0.5, 0.3), (0.6, 0.2), (0.55, 0.2), (0.4, 0.3), (0.7, 0.1)]) == [
        (0.5, 0.3),
        (0.6, 0.2),
        (0.7, 0.1),
    ]


def test_names_beside_lines_never_overlap() -> None:
    ends = [(300.0, 100.0 + i, f"n{i}", "c0") for i in range(9)]
    drawn = charts._beside(ends, 310)
    places = sorted(float(y) for one in drawn for y in re.findall(r'<text class="name c0" x="\S+" y="(\S+)"', str(one)))
    assert len(places) == 9
    assert min(b - a for a, b in pairwise(places)) >= charts.LINE
    assert max(places) <= charts.FLOOR + 4


def test_ticks_are_whole_and_few() -> None:
    for low, high in ((0, 0.83), (0, 0.31), (0.42, 0.71), (0, 1)):
        ticks = charts.Scale(low, high, 0, 100).ticks()
        assert 2 <= len(ticks) <= 7
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
        assert all(abs(100 * tick / 5 - round(100 * tick / 5)) < 1e-9 for tick in ticks)


@pytest.mark.parametrize("eps", [8 / 255, 0.05, 0.0123456789, 1.5])
def test_a_budget_in_a_command_is_read_back_as_the_same_number(eps: float) -> None:
    assert round(parse_eps(lines._exact(eps)), 9) == round(eps, 9)
