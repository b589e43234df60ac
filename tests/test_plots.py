"""The figures as one-line functions: what they show, what they refuse, and that reports draw the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from many import many as learners
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from test_report import Results, gallery, joined, results

from robustbench_meta import report, store
from robustbench_meta.intervals import interval
from robustbench_meta.outcomes import Entry
from robustbench_meta.ranking import standings
from robustbench_meta.report import figures, frames, pareto, plots
from robustbench_meta.report.drawing import NAMED, PALETTE, look, looks, places, places_of
from robustbench_meta.report.naming import slugs
from robustbench_meta.statistics import agreement, by_attack, leaderboard, per_task, worst_case
from robustbench_meta.types import Cell, InputError, Record, Spec, Threat

ONE = "strokes-test-5w5s-linf-query"
DOCS = Path(__file__).resolve().parents[1] / "docs"


def drawn(figure: Figure) -> list[str]:
    """Return every text of a figure."""
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


def five_shot() -> Results:
    plain = results()
    return Results(plain.cells[plain.cells.shots == 5], plain.tasks)


def many(count: int) -> Results:
    """One board of `count` protonets, no two alike, each a little more robust than the one before."""
    cell = five_shot().cells.iloc[:1]
    cells = pd.concat(
        [cell.assign(key=f"m{i:03d}", checkpoint=f"c{i:03d}", weights=f"w{i:03d}", defense="aq") for i in range(count)]
    )
    rng, rows = np.random.default_rng(0), []
    for i in range(count):
        for task in range(5):
            clean = rng.random(200) < 0.9 - 0.3 * i / count
            survived = clean & (rng.random(200) < 0.3 + 0.5 * i / count)
            bits = {"clean": clean, "survived": survived}
            text: dict[str, Any] = {name: "".join(str(int(bit)) for bit in found) for name, found in bits.items()}
            rows.append({"key": f"m{i:03d}", "task": task, **text, "distance": 0.03, "forwards": 9, "backwards": 9})
    return Results(cells, pd.DataFrame(rows))


def test_a_band_reaches_from_the_lower_to_the_upper_end_of_the_interval() -> None:
    frame = worst_case(five_shot())
    axes = plots.robustness_curves(frame).axes[0]
    row = frame[(frame.checkpoint == "p-aq") & (frame.eps > 0.02)].iloc[0]
    ends = [100 * (row.robust - row.robust_ci95), 100 * (row.robust + row.robust_ci95)]
    bands = [one.get_paths()[0].vertices for one in axes.collections if isinstance(one, PolyCollection)]
    at_eps = [sorted({float(y) for x, y in np.asarray(band) if x == row.eps}) for band in bands]
    assert len(bands) == 4
    assert any(found == pytest.approx(ends) for found in at_eps)


def test_of_fifty_entries_the_best_twelve_are_named_and_the_rest_are_counted() -> None:
    there = many(50)
    frame = worst_case(there)
    found = looks(frame, places_of(frame))
    named = {entry.checkpoint for entry, look in found.items() if look.named}
    table = leaderboard(there).query("reason != 'reference'").sort_values("robust", ascending=False)
    assert named == set(table.checkpoint[:NAMED])
    assert len({(look.colour, look.marker) for look in found.values() if look.named}) == NAMED
    texts = drawn(plots.robustness_curves(worst_case(there)))
    assert "38 more, grey" in texts
    assert {text for text in texts if re.fullmatch(r"c\d\d\d", text)} == named


def entry(name: str, defense: str = "aq", steps: int | None = None) -> Entry:
    return Entry(name, name, "protonet", defense, "support", steps)


def test_no_two_entries_of_a_board_have_one_place_and_places_rest_on_who_is_there_alone() -> None:
    every = [entry(f"l{i:02d}", defense, steps) for i in range(8) for defense in ("aq", "standard") for steps in (1, 5)]
    boards = [every[:20], every[10:], every[::5], every[3:5]]
    found = places(boards)
    assert found.keys() == set(every)
    for board in boards:
        drawn_as = {(one.colour, one.marker) for one in (look(mine, found[mine], named=True) for mine in board)}
        assert len(drawn_as) == len(board)
    assert sorted(found[one] for one in boards[0]) == list(range(20))  # none is left out where none needs to be
    assert found == places([board[::-1] for board in boards[::-1]])
    solid = [found[one] for one in every[:20] if one.defense == "aq"]
    assert max(solid) == len(solid) - 1  # so that a colour met twice is mostly met once solid and once dashed


def test_an_entry_looks_the_same_on_every_board_whatever_it_withstood() -> None:
    there = results()
    # What was lost now stands, what stood is lost: the ranks turn round.
    kept = [
        "".join("1" if c == "1" and s == "0" else "0" for c, s in zip(clean, survived, strict=True))
        for clean, survived in zip(there.tasks.clean, there.tasks.survived, strict=True)
    ]
    turned = Results(there.cells.iloc[::-1], there.tasks.assign(survived=kept))
    seen: dict[Entry, set[tuple[str, str, str]]] = {}
    for one in (there, turned):
        frame, table = worst_case(one), leaderboard(one)
        for _, rows in frames.by_board(frame):
            for who, how in looks(rows, places_of(frame)).items():
                seen.setdefault(who, set()).add((how.colour, how.marker, str(how.line)))
        assert places_of(frames.measured(table)) == places_of(frame)
    assert len(list(frames.by_board(worst_case(there)))) > 1
    assert all(len(ways) == 1 for ways in seen.values())
    assert len(set().union(*seen.values())) == len(seen)


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2, from 1 to 21, of two colours such as #0072b2."""
    parts = [[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in (one, other)]
    linear = [[p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in part] for part in parts]
    low, high = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (high + 0.05) / (low + 0.05)


def test_every_colour_of_an_entry_stands_out_on_paper_and_on_the_page_light_and_dark() -> None:
    style = (Path(report.__file__).parent / "leaderboard.css").read_text(encoding="utf-8")
    tokens = {name: pair for name, *pair in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style)}
    assert [name for name in tokens if re.fullmatch(r"c\d", name)] == [f"c{i}" for i in range(len(PALETTE))]
    for hue, colour in enumerate(PALETTE):
        assert contrast(colour, "#ffffff") >= 3, colour  # what graphics need, by its criterion 1.4.11
        for mode in (0, 1):
            assert contrast(tokens[f"c{hue}"][mode], tokens["raised"][mode]) >= 3, (hue, mode)


def test_a_frontier_of_fifty_names_only_the_front() -> None:
    board = leaderboard(many(50))
    best = {place.entry.checkpoint for place in pareto.front(pareto.places(board))}
    texts = drawn(plots.pareto(board))
    assert {text for text in texts if re.fullmatch(r"c\d\d\d", text)} == best
    assert 1 < len(best) < 25
    assert "constant predictor (1/K, 1/K)" in texts


def place(name: str, x: float, y: float, bar: float = 1.0, ranked: bool = True) -> pareto.Place:
    return pareto.Place(Entry(name, name, "protonet", "aq", "support", None), x, y, bar, bar, ranked)


def test_the_front_holds_the_ranked_entries_that_no_other_equals_or_beats_in_both() -> None:
    found = [place("a", 70, 0), place("b", 60, 30), place("c", 60, 20), place("d", 50, 30), place("e", 50, 40)]
    found += [place("flagged", 90, 90, ranked=False), place("twin of e", 50, 40)]
    assert [one.entry.checkpoint for one in pareto.front(found)] == ["e", "twin of e", "b", "a"]


@pytest.mark.parametrize(
    ("x", "y", "is_beaten"),
    [(58.5, 28.5, True), (58.7, 28.5, False), (58.5, 28.7, False), (60, 20, False), (40, 31, False)],
)
def test_an_entry_is_beaten_only_where_both_gaps_exceed_the_intervals_of_the_differences(
    x: float, y: float, is_beaten: bool
) -> None:
    # The half-width of a difference of two means with half-widths of 1 is the root of 2, so 1.414.
    found = [place("a", 60, 30), place("b", x, y)]
    assert pareto.beaten(found[1], found) is is_beaten
    assert not pareto.beaten(found[1], [replace(found[0], ranked=False), found[1]])
    assert not pareto.beaten(found[1], [replace(found[0], bar_x=float("inf")), found[1]])  # of one task


def test_an_interval_that_says_nothing_is_not_drawn_as_a_band() -> None:
    there = five_shot()
    few = there.tasks[there.tasks.task < 2].copy()
    few["survived"] = ["1111111110" if task else "0000000000" for task in few.task]
    axes = plots.robustness_curves(worst_case(Results(there.cells, few))).axes[0]
    heights = [y for one in axes.collections for path in one.get_paths() for y in np.asarray(path.vertices)[:, 1]]
    assert max(heights, default=0) <= 100
    assert pareto.places(leaderboard(Results(there.cells, few)))[0].bars[1] == 0


def test_the_surface_shows_every_eps_step_and_shot() -> None:
    frame = worst_case(results())
    texts = drawn(plots.surface(frame))
    assert [text for text in texts if text.startswith("ε") or text == "clean"] == ["clean", "ε = 2/255", "ε = 8/255"]
    assert (texts.count("1-shot"), texts.count("5-shot")) == (3, 3)
    shown = {text for text in texts if re.fullmatch(r"\d+\.\d", text)}
    values = {f"{100 * value:.1f}" for value in [*frame.robust, *frame.clean]}
    assert shown == values
    assert texts.count("5") == texts.count("1") == 1  # the steps of f-aq, each on one line
    assert texts.count("–") == 2  # of the closed forms


def test_a_surface_says_what_was_not_run_and_how_many_checkpoints_it_leaves_out() -> None:
    plain = results()
    some = plain.cells[(plain.cells.checkpoint != "p-std") | (plain.cells.shots == 1)]
    assert drawn(plots.surface(worst_case(Results(some, plain.tasks)))).count("not run") == 3
    assert "38 more checkpoints, each with a lower worst case, are not drawn" in drawn(
        plots.surface(worst_case(many(50)))
    )


def bits(key: str, clean: str, survived: str) -> dict[str, Any]:
    return {"key": key, "task": 0, "clean": clean, "survived": survived, "distance": 0, "forwards": 1, "backwards": 1}


def three_attacks() -> Results:
    """Ten queries, eight right when clean: a fools four of them, b two of those and one more, c nothing."""
    cell = five_shot().cells.iloc[:1]
    cells = pd.concat([cell.assign(key=name, attack=name, attack_fields=name) for name in "abc"])
    clean = "1111111100"
    rows = [bits("a", clean, "0000111100"), bits("b", clean, "0011011100"), bits("c", clean, clean)]
    return Results(cells, pd.DataFrame(rows))


def test_agreement_counts_the_queries_that_one_attack_fools_and_another_does_not() -> None:
    columns = ["attack", "other", "correct", "fooled", "fooled_by_other", "only"]
    assert agreement(three_attacks())[columns].to_numpy().tolist() == [
        ["a", "b", 8, 4, 3, 2],
        ["a", "c", 8, 4, 0, 4],
        ["a", "all others", 8, 4, 3, 2],
        ["b", "a", 8, 3, 4, 1],
        ["b", "c", 8, 3, 0, 3],
        ["b", "all others", 8, 3, 4, 1],
        ["c", "a", 8, 0, 4, 0],
        ["c", "b", 8, 0, 3, 0],
        ["c", "all others", 8, 0, 5, 0],
    ]


def test_agreement_counts_on_the_tasks_that_the_attacks_share() -> None:
    there = three_attacks()
    more = pd.DataFrame([bits("a", "1" * 10, "0" * 10)]).assign(task=1)
    table = agreement(Results(there.cells, pd.concat([there.tasks, more]))).set_index(["attack", "other"])
    assert set(table.correct) == {8}


def test_the_agreement_figure_writes_shares_and_frames_what_each_attack_fools() -> None:
    figure = plots.attack_agreement(agreement(three_attacks()))
    texts = [text.get_text() for text in figure.axes[0].texts][:-1]  # the last is the title
    # Row by row: what each fools and the two others do not, what it alone fools, all that it fools; of eight.
    assert texts == ["25.0", "50.0", "25.0", "50", "12.5", "37.5", "12.5", "38", "0", "0", "0", "0"]
    assert any("8 queries" in text for text in drawn(figure))


def test_the_scatter_has_a_dot_for_every_task_and_the_paired_difference_above() -> None:
    frame = per_task(five_shot())
    figure = plots.task_scatter(frame, "p-aq", "p-std", eps=8 / 255)
    mine = frame[(frame.attack == "worst case") & (frame.eps > 0.02)].set_index("task")
    gaps = (mine[mine.checkpoint == "p-aq"].robust - mine[mine.checkpoint == "p-std"].robust).to_numpy()
    mean, half = interval(gaps)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[1] == f"worst case at ε = 8/255: Δ = {100 * mean:+.1f} ± {100 * half:.1f}"
    assert titles[0] == "clean: Δ = +0.0 ± 0.0"
    assert dots(figure.axes[0]) == {(90.0, 90.0): 6 * 24.0}  # six tasks on one another
    assert sum(dots(figure.axes[1]).values()) == 6 * 24.0


def dots(axes: Axes) -> dict[tuple[float, float], float]:
    """Return where dots lie and how large they are."""
    (cloud,) = [one for one in axes.collections if isinstance(one, PathCollection)]
    places = np.ma.getdata(cloud.get_offsets()).tolist()
    return {(x, y): size for (x, y), size in zip(places, cloud.get_sizes(), strict=True)}


def test_per_task_leaves_out_the_worst_case_of_an_entry_that_lacks_an_attack() -> None:
    there = five_shot()
    cells = there.cells[(there.cells.checkpoint != "p-aq") | (there.cells.attack == "fgsm")]
    frame = per_task(Results(cells, there.tasks))
    assert "p-aq" not in set(frame.checkpoint[frame.attack == "worst case"])
    assert "p-aq" in set(frame.checkpoint[frame.attack == "fgsm"])


def test_by_attack_holds_every_attack_and_the_worst_case() -> None:
    frame = by_attack(five_shot())
    worst = frame[frame.attack == "worst case"].reset_index(drop=True)
    assert worst.robust.tolist() == worst_case(five_shot()).robust.tolist()
    assert set(frame.attack) == {"worst case", "fgsm", "pgd-20"}


Draw = Callable[[Results], Figure]
FUNCTIONS: dict[str, tuple[Callable[[Results], pd.DataFrame], Callable[..., Figure]]] = {
    "robustness_curves": (worst_case, plots.robustness_curves),
    "attack_curves": (by_attack, plots.attack_curves),
    "surface": (worst_case, plots.surface),
    "pareto": (leaderboard, plots.pareto),
    "attack_agreement": (agreement, plots.attack_agreement),
    "task_scatter": (per_task, lambda frame, **where: plots.task_scatter(frame, "p-aq", "p-std", **where)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_cannot_be_drawn_is_refused_in_one_line(name: str) -> None:
    table, draw = FUNCTIONS[name]
    # The surface takes boards that differ in shots, so it needs another norm to hold several.
    both = table(joined(results(), results(norm="l2")))
    slug = "strokes-test-5w-linf-query" if name == "surface" else ONE
    for frame, where, said in (
        (both, {}, "boards, which no figure mixes; legal: "),
        (both, {}, slug),
        (both, {"board": "no such"}, "board: 'no such' is not in the frame; legal: "),
        (table(five_shot()).iloc[:0], {}, "frame: has no rows; legal: what statistics."),
        (
            table(five_shot()).drop(columns=["robust" if "agreement" not in name else "only"]),
            {},
            "frame: lacks the col",
        ),
        (table(five_shot()).drop(columns=["weights"]), {}, "frame: lacks the columns weights; legal: what"),
    ):
        with pytest.raises(InputError) as raised:
            draw(frame, **where)
        assert said in str(raised.value)
        assert "\n" not in str(raised.value)


def test_an_entry_or_eps_that_is_not_there_is_refused_with_those_that_are() -> None:
    frame = per_task(five_shot())
    with pytest.raises(
        InputError, match=r"b: 'x' is not in the frame; legal: f-aq, 1 step, f-aq, 5 steps, p-aq, p-std"
    ):
        plots.task_scatter(frame, "p-aq", "x")
    with pytest.raises(InputError, match=r"eps: 0\.5 is not in the frame; legal: 2/255, 8/255"):
        plots.task_scatter(frame, "p-aq", "p-std", eps=0.5)
    apart = frame[(frame.checkpoint != "p-aq") | (frame.task < 3)]
    apart = apart[(apart.checkpoint != "p-std") | (apart.task >= 3)]
    with pytest.raises(InputError, match="'p-aq' and 'p-std' share no task"):
        plots.task_scatter(apart, "p-aq", "p-std")


def test_a_gallery_without_pictures_or_with_a_broken_item_is_refused() -> None:
    with pytest.raises(InputError, match="gallery: no picture"):
        plots.gallery([])
    with pytest.raises(InputError, match="gallery: an item lacks labels"):
        plots.gallery([{name: value for name, value in gallery()[0].items() if name != "labels"}])


def test_the_report_draws_what_the_notebook_functions_draw(tmp_path: Path) -> None:
    there = results()
    report.write(there, gallery(), tmp_path)
    tables = {name: table(there) for name, (table, _) in FUNCTIONS.items()}
    drawn_here = {f"{kind}-{ONE}": FUNCTIONS[name][1](tables[name], board=ONE) for kind, name in KINDS.items()}
    drawn_here["steps-shots-strokes-test-5w-linf-query"] = plots.surface(tables["surface"])
    drawn_here["gallery"] = plots.gallery(gallery())
    for name, figure in drawn_here.items():
        for path in plots.save(figure, tmp_path / "again"):
            assert path.read_bytes() == (tmp_path / "figures" / f"{name}{path.suffix}").read_bytes(), name


def test_the_report_draws_every_entry_by_its_place_among_all_boards_and_not_by_its_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = learners(6, tasks=5, boards=({"shots": 1}, {"shots": 5}))
    kept = (every.cells.shots == 1) | (every.cells.checkpoint != min(every.cells.checkpoint))
    there = Results(every.cells[kept], every.tasks)
    boards, made = standings(there), dict[str, Figure]()
    order = [places([[one.entry for one in board]]) for board in boards]
    assert [len(board) for board in boards] == [6, 5]
    assert all(order[0][one] != place for one, place in order[1].items())  # alone, the second would look otherwise
    monkeypatch.setattr(figures, "save", lambda figure, path, *_: made.setdefault(path.name, figure))
    figures.draw(there, boards, [], tmp_path)
    for slug in slugs([board[0].board for board in boards]):
        for kind, name in KINDS.items():
            table, draw = FUNCTIONS[name]
            assert marks(made[f"{kind}-{slug}"]) == marks(draw(table(there), board=slug)), (kind, slug)


def marks(figure: Figure) -> list[Any]:
    """Return where and how every line of a figure is drawn."""
    found = [one for one in figure.findobj(Line2D) if isinstance(one, Line2D)]
    return [
        (np.asarray(one.get_xydata()).tolist(), one.get_color(), one.get_marker(), one.get_linestyle()) for one in found
    ]


KINDS = {"eps": "robustness_curves", "attacks": "attack_curves", "scatter": "pareto"}


def test_the_examples_of_the_notebook_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, level in (("protonet-aq", 4), ("protonet-standard", 2)):
        for attack in ("fgsm", "pgd-20"):
            fill(tmp_path / "results", name, attack, level)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "notebooks.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "notebooks.md", "exec"), names)
    assert (tmp_path / "pareto.svg").is_file()
    shown = "".join(blocks)
    public = {name for name, one in vars(plots).items() if callable(one) and one.__module__ == plots.__name__}
    assert {name for name in public if not name.startswith("_") and f"plots.{name}(" not in shown} == set()


def fill(folder: Path, name: str, attack: str, level: int) -> None:
    """Store three tasks of six queries, of which the attack leaves `level`, and a picture."""
    cell = Cell(
        checkpoint=name,
        weights=name[-2:] * 32,
        algorithm="protonet",
        defense=name.split("-")[1],
        norm_mode="support",
        family="strokes",
        episodes="cd" * 32,
        split="test",
        spec=Spec(ways=3, shots=1, queries=2),
        steps=None,
        attack=attack,
        attack_fields=f"{attack}()",
        threat=Threat("linf", 8 / 255),
        seed=0,
    )
    survived = tuple(i < level for i in range(6))
    store.append(folder, cell, [Record(task, (True,) * 6, survived, 8 / 255, 9, 9) for task in range(3)])
    images = {one: np.zeros((1, 1, 4, 4), np.float32) for one in store.IMAGES}
    store.save_gallery(
        folder, cell, images | {one: np.zeros(1, np.int64) for one in store.PICTURES if one not in images}
    )
