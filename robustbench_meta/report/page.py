"""What the HTML page has and the Markdown has not: lines for its rows, charts, the steps x shots surface, data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from robustbench_meta.outcomes import Board, Results, cells_behind
from robustbench_meta.ranking import Standing
from robustbench_meta.report import charts, data
from robustbench_meta.report.album import Album, Strip
from robustbench_meta.report.charts import Chart
from robustbench_meta.report.drawing import places
from robustbench_meta.report.lines import Learner, Line, entry_id, line_of_standing
from robustbench_meta.report.naming import row_names, slugs, steps_text, titles
from robustbench_meta.report.renderings import Renderings
from robustbench_meta.report.sentences import Sheet
from robustbench_meta.report.tables import Report
from robustbench_meta.report.trajectories import Map, Outings
from robustbench_meta.report.values import CONSTANT_MARK, Value, robust_value

SHADES = 10


@dataclass(frozen=True)
class Square:
    """One cell of the surface: shade 0 to 9, or -1 where there is no number; `useless` if no better than 1/K."""

    value: Value
    shade: int
    useless: bool
    board: str
    entry: str


@dataclass(frozen=True)
class Surface:
    """Robust accuracy by steps (rows, under each checkpoint) and shots (columns) at one eps."""

    title: str
    at: str
    shots: tuple[int, ...]
    strips: tuple[tuple[str, tuple[tuple[str, tuple[Square | None, ...]], ...]], ...]


@dataclass(frozen=True)
class Leaf:
    """One board of the page: a line for each row of its table (None for a reference), charts, and a surface."""

    lines: tuple[Line | None, ...]
    charts: tuple[Chart, ...]
    surface: Surface | None


@dataclass(frozen=True)
class Shown:
    """What there is to see besides numbers: pictures and sounds, sentences, rollouts and what these earned.

    `rendered` says of sentences that are written anew how near they come to their targets.
    """

    album: Album
    read: tuple[Sheet, ...] = ()
    mapped: tuple[Map, ...] = ()
    earned: tuple[Outings, ...] = ()
    rendered: tuple[Renderings, ...] = ()
    strip: Strip = field(default_factory=Strip)


@dataclass(frozen=True)
class Page:
    """Everything that the HTML page has and the Markdown has not."""

    leaves: tuple[Leaf, ...]
    shown: Shown
    data: dict[str, Any]

    @property
    def json(self) -> str:
        """Write the data for a script element: nothing in it can end the element."""
        text = json.dumps(self.data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.replace("<", r"\u003c")


def make(
    results: Results,
    boards: list[list[Standing]],
    report: Report,
    known: dict[str, Learner],
    shown: Shown,
) -> Page:
    """Gather the page; `boards` and the tables of `report` are the same boards in the same order."""
    cells, names = cells_behind(results), row_names(results.cells, boards)
    surfaces, leaves, made = _surfaces(boards, names), [], []
    order = places([one.entry for one in board] for board in boards)
    for board, table in zip(boards, report.tables, strict=True):
        lines = [line_of_standing(one, cells, known) for one in board]
        ids = {one.entry: line.id for one, line in zip(board, lines, strict=True)}
        rows = iter(lines)
        aligned = tuple(None if row.kind == "reference" else next(rows) for row in table.rows)
        drawn = charts.of_board(board, ids, names, order)
        leaves.append(Leaf(aligned, drawn, surfaces.get(table.slug)))
        made.append((board, table, lines))
    return Page(tuple(leaves), shown, data.block(made, report, known, order))


def _surfaces(boards: list[list[Standing]], names: dict[tuple[str, str], str]) -> dict[str, Surface]:
    """Return a surface for every group of boards that differ in shots alone, by the slug of the first of them."""
    groups: dict[Board, list[list[Standing]]] = {}
    for board in boards:
        groups.setdefault(replace(board[0].board, shots=0), []).append(board)
    home = dict(zip((one[0].board for one in boards), slugs([one[0].board for one in boards]), strict=True))
    made = {}
    for (_, group), title in zip(groups.items(), titles(list(groups)), strict=True):
        group.sort(key=lambda board: board[0].board.shots)
        surface = _surface(group, title, names, home)
        rows = [row for _, strip in surface.strips for row in strip]
        if len(surface.shots) > 1 or len(rows) > len(surface.strips):
            made[home[group[0][0].board]] = surface
    return made


def _surface(
    group: list[list[Standing]], title: str, names: dict[tuple[str, str], str], home: dict[Board, str]
) -> Surface:
    seen = [eps for board in group for one in board for eps in one.outcomes]
    eps = max(set(seen), key=lambda value: (value > 0, seen.count(value), value))
    shots = tuple(board[0].board.shots for board in group)
    known = [value.mean for board in group for one in board if (value := robust_value(one.outcomes.get(eps))).known]
    top = max([0.3, *known])
    found: dict[str, dict[int | None, dict[int, Square]]] = {}
    for board in group:
        for one in board:
            about, value = one.board, robust_value(one.outcomes.get(eps))
            shade = min(SHADES - 1, int(SHADES * value.mean / top)) if value.known else -1
            square = Square(value, shade, CONSTANT_MARK in value.mark, home[about], entry_id(one.entry))
            strip = found.setdefault(names[one.entry.checkpoint, one.entry.weights], {})
            strip.setdefault(one.entry.steps, {})[about.shots] = square
    strips = tuple(
        (
            name,
            tuple(
                (steps_text(steps), tuple(strip[steps].get(k) for k in shots))
                for steps in sorted(strip, key=lambda value: -1 if value is None else value)
            ),
        )
        for name, strip in sorted(found.items())
    )
    return Surface(title, group[0][0].board.at(eps), shots, strips)
