"""The steps by shots by eps surface: one row a checkpoint and step count, one group of columns an eps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from robustbench_meta.outcomes import Board
from robustbench_meta.report import frames
from robustbench_meta.report.drawing import INK, MUTED, NAMED, RULE, heat, short
from robustbench_meta.report.naming import display_names, steps_text
from robustbench_meta.report.values import CONSTANT_MARK, LACKING, NONE, NOTHING, Value

SQUARES = 18  # that a line of the figure holds at most
WIDE, HIGH, BETWEEN = 0.66, 0.42, 0.3  # inches: a square, and the gap between groups (of its width) and checkpoints


@dataclass(frozen=True)
class Line:
    """One line of squares: a checkpoint at one number of steps, its values by (eps, shots)."""

    name: str
    steps: int | None
    values: dict[tuple[float, int], Value | None]


@dataclass(frozen=True)
class Columns:
    """What stands in the columns: every eps, 0 for clean, and below it the shots."""

    eps: list[float]
    shots: list[int]

    def x(self, eps: float, shots: int) -> float:
        group = self.eps.index(eps) * (len(self.shots) + BETWEEN)
        return group + self.shots.index(shots)

    @property
    def width(self) -> float:
        return len(self.eps) * (len(self.shots) + BETWEEN) - BETWEEN


def groups(frame: pd.DataFrame) -> list[tuple[Board, pd.DataFrame]]:
    """Gather boards that differ in shots alone, in the order of the frame; such a board has 0 shots."""
    found: dict[Board, list[pd.DataFrame]] = {}
    for board, rows in frames.by_board(frame):
        found.setdefault(replace(board, shots=0), []).append(rows)
    return [(board, pd.concat(parts)) for board, parts in found.items()]


def worth_drawing(rows: pd.DataFrame) -> bool:
    """Say whether steps or shots vary; where neither does, the curves against eps show everything."""
    return rows["shots"].nunique() > 1 or bool((rows.groupby(["checkpoint", "weights"])["steps"].nunique() > 1).any())


def draw(rows: pd.DataFrame, title: str) -> Figure:
    """Draw all of a group of boards that differ in shots alone, from rows of `worst_case`."""
    lines, columns = _lines(rows), _columns(rows)
    names = list(dict.fromkeys(line.name for line in lines))[:NAMED]
    drawn = [line for line in lines if line.name in names]
    top = max([0.3, *(value.mean for line in drawn for value in line.values.values() if value and value.known)])
    height = len(drawn) + BETWEEN * (len(names) - 1)
    figure = Figure(figsize=(WIDE * columns.width, HIGH * height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.5, columns.width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    for number, line in enumerate(drawn):
        y = number + BETWEEN * names.index(line.name)
        for (eps, shots), value in line.values.items():
            if eps in columns.eps:
                _square(axes, (columns.x(eps, shots), y), value, top)
        _beside(axes, y, steps_text(line.steps), -6, MUTED)
    _margins(axes, drawn, names, columns, title, frames.board_of(rows))
    left = len({line.name for line in lines}) - len(names)
    if left:
        _note(axes, f"{left} more checkpoints, each with a lower worst case, are not drawn", height)
    return figure


def caption(rows: pd.DataFrame) -> str:
    """Say what the squares mean, and which marks there are."""
    values = [value for line in _lines(rows) for value in line.values.values() if value is not None]
    marks = "".join(value.mark for value in values)
    parts = [
        f"Accuracy in %, clean and in the worst case at every {frames.board_of(rows).budget}, ± the 95 % half-width, "
        "by adaptation steps (rows) and shots (columns). The darker the more accurate, on one scale."
    ]
    if rows["steps"].isna().any():
        parts.append(f"An algorithm without steps has one row, {NOTHING}.")
    if CONSTANT_MARK in marks:
        parts.append("Hatched: the interval does not lie above what a constant predictor has.")
    if LACKING in marks:
        parts.append(f"{LACKING}: an attack that others met is missing, so the number may flatter.")
    known = {value.n for value in values if value.n}
    parts.append(f"{frames.range_of_n(sorted(known))} tasks." if known else "")
    return " ".join(filter(None, parts))


def _lines(rows: pd.DataFrame) -> list[Line]:
    """Return the lines, checkpoints from the highest worst case down and each by its steps."""
    names, made = display_names(rows), dict[tuple[str, int | None], dict[tuple[float, int], Value | None]]()
    place = {board.shots: frames.ranking_eps(part) for board, part in frames.by_board(rows)}
    score: dict[str, float] = {}
    for board, part in frames.by_board(rows):
        for entry, mine in frames.by_entry(part):
            name, found = names[entry.checkpoint, entry.weights], frames.records(mine)
            values: dict[tuple[float, int], Value | None] = {
                (row["eps"], board.shots): frames.value_of(row, board.constant) for row in found if row["eps"] > 0
            }
            values[0.0, board.shots] = frames.clean_of(found, place[board.shots])
            made.setdefault((name, entry.steps), {}).update(values)
            best = values.get((place[board.shots], board.shots)) or NONE
            score[name] = max(score.get(name, -1.0), best.mean if best.known else -1.0)
    order = sorted(made, key=lambda one: (-score[one[0]], one[0], -1 if one[1] is None else one[1]))
    cells = [(eps, shots) for eps in sorted({0.0, *rows["eps"]}) for shots in sorted(set(rows["shots"]))]
    return [Line(name, steps, {cell: made[name, steps].get(cell) for cell in cells}) for name, steps in order]


def _columns(rows: pd.DataFrame) -> Columns:
    """Choose the eps that fit: clean, the smallest, the largest and those between them at even distances."""
    eps, shots = sorted({0.0, *map(float, rows["eps"])}), sorted({int(one) for one in rows["shots"]})
    room = max(3, SQUARES // len(shots))
    if len(eps) > room:
        eps = [eps[round(i * (len(eps) - 1) / (room - 1))] for i in range(room)]
    return Columns(eps, shots)


def _square(axes: Axes, at: tuple[float, float], value: Value | None, top: float) -> None:
    """Fill one square: the darker the more accurate, hatched where it is not shown to beat a constant."""
    (x, y), place = at, (at[0] - 0.48, at[1] - 0.46)
    centre: dict[str, Any] = {"ha": "center", "va": "center"}
    if value is None or not value.known:
        axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor="none", edgecolor=RULE, linewidth=0.8))
        axes.text(x, y, "not run" if value is None else "error", color=MUTED, fontsize=7.5, **centre)
        return
    useless = CONSTANT_MARK in value.mark
    face, ink = ("#f4f4f2", INK) if useless else heat(value.mean / top)
    hatch = "////" if useless else None
    axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor=face, linewidth=0, hatch=hatch))
    box = {"facecolor": face, "edgecolor": "none", "pad": 0.8} if useless else None
    if not value.firm:
        axes.text(x, y, f"n = {value.n}\ntoo small", color=ink, fontsize=6.5, bbox=box, **centre)
        return
    mark = f" {LACKING}" if LACKING in value.mark else ""
    axes.text(x, y - 0.14, value.percent + mark, color=ink, fontsize=9.5, bbox=box, **centre)
    axes.text(x, y + 0.24, f"± {100 * value.half:.1f}", color=ink, fontsize=6.5, bbox=box, **centre)


def _margins(
    axes: Axes, lines: Sequence[Line], names: Sequence[str], columns: Columns, title: str, about: Board
) -> None:
    """Write names and steps at the left, eps and shots above, and the title over them."""
    for name in names:
        mine = [number for number, line in enumerate(lines) if line.name == name]
        y = sum(mine) / len(mine) + BETWEEN * names.index(name)
        _beside(axes, y, short(name, 36), -40, INK)
    above: dict[str, Any] = {"textcoords": "offset points", "xycoords": "data", "va": "bottom"}
    for eps in columns.eps:
        x = (columns.x(eps, columns.shots[0]) + columns.x(eps, columns.shots[-1])) / 2
        text = "clean" if eps == 0 else about.at(eps)
        axes.annotate(text, (x, -0.5), (0, 19), ha="center", fontsize=10, **above)
        for shots in columns.shots:
            at = (columns.x(eps, shots), -0.5)
            axes.annotate(f"{shots}-shot", at, (0, 5), ha="center", color=MUTED, fontsize=8.5, **above)
    axes.annotate("steps", (-0.5, -0.5), (-6, 5), ha="right", color=MUTED, fontsize=8.5, **above)
    axes.annotate(short(title, 90), (-0.5, -0.5), (0, 42), ha="left", fontsize=10.5, **above)


def _beside(axes: Axes, y: float, text: str, left: float, colour: str) -> None:
    near: dict[str, Any] = {"textcoords": "offset points", "xycoords": "data", "ha": "right", "va": "center"}
    axes.annotate(text, (-0.5, y), (left, 0), color=colour, fontsize=9.5, **near)


def _note(axes: Axes, text: str, height: float) -> None:
    below: dict[str, Any] = {"textcoords": "offset points", "xycoords": "data", "ha": "left", "va": "top"}
    axes.annotate(text, (-0.5, height - 0.5), (0, -7), color=MUTED, fontsize=8.5, **below)
