"""Robustness curves: accuracy against eps, the worst case over attacks and attack by attack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustbench_meta.flags import WIDEST
from robustbench_meta.outcomes import Board, Entry, eps_text
from robustbench_meta.report import frames
from robustbench_meta.report.drawing import DOTTED, MUTED, NAMED, REST, Look, looks, rest_text, short
from robustbench_meta.report.naming import norm_text
from robustbench_meta.report.placing import labels_right, width
from robustbench_meta.report.values import LACKING, Value
from robustbench_meta.statistics import WORST_CASE

READING = (
    "Bands and bars: 95 % intervals over tasks; none where n is too small for one. Dashed "
    "lines: standard training. Hollow: an attack that others met is missing. Dotted: 1/K, a predictor that always "
    "gives the same class; 0 where learners act or write."
)
GREY = " Grey: the entries with a lower worst case in the ranking, without intervals."


def reading(board: Board) -> str:
    """Say what the axis, the bands and the lines are."""
    return f"{'Severity' if board.corrupted else 'ε ='} 0 is clean accuracy. {READING}"


def draw(rows: pd.DataFrame, title: str, order: Mapping[Entry, int]) -> Figure:
    """Draw the worst case of every entry of one board against eps, from rows of `worst_case`."""
    found, names, eps = looks(rows, order), frames.labels(rows), frames.ranking_eps(rows)
    named = sum(look.named for look in found.values())
    figure = Figure(figsize=(7.4, max(3.9, 0.24 * named + 1.2)))
    axes, ends, rest = figure.add_subplot(), list[tuple[float, float, str, str]](), list[tuple[float, float]]()
    seen, band = dict[float, list[int]](), shade_of(found)
    for entry, mine in frames.by_entry(rows):
        points = _points(mine, eps, frames.board_of(rows).constant)
        for at, value in points.items():
            seen.setdefault(at, []).append(value.n)
        end = line(axes, points, found[entry], band)
        if end is not None and found[entry].named:
            ends.append((*end, names[entry], found[entry].colour))
        elif end is not None:
            rest.append(end)
    frame(axes, rows, {at: f"{eps_text(at)}\n{frames.range_of_n(counts)}" for at, counts in seen.items()})
    board = frames.board_of(rows)
    axes.set_xlabel(f"{board.budget} ({norm_text(board)}), n tasks")
    axes.set_ylabel("worst-case accuracy, %")
    ends.append((axes.get_xlim()[1], 100 * board.constant, _constant(rows), MUTED))
    if rest:
        middle = sorted(rest, key=lambda end: end[1])[len(rest) // 2]
        ends.append((*middle, f"{rest_text(found)}, grey", REST))
    labels_right(axes, ends)
    axes.set_title(short(title, 90), pad=12)
    return figure


def draw_attacks(rows: pd.DataFrame, title: str, order: Mapping[Entry, int]) -> Figure:
    """Draw a panel for each attack on one board, from rows of `by_attack`."""
    worst = rows[rows["attack"] == WORST_CASE]
    found, names = looks(worst, order), frames.labels(worst)
    attacks = attacks_of(rows)
    columns = 2 if len(attacks) in (2, 4) else 3
    lines = math.ceil(len(attacks) / columns)
    figure = Figure(figsize=(3.1 * columns + 0.4, 2.75 * lines + 0.5), layout="constrained")
    figure.suptitle(short(title, 90), x=0.01, ha="left", fontsize=10.5)
    grid = figure.subplots(lines, columns, squeeze=False)
    drawn: dict[str, Any] = {}
    for axes, attack in zip(grid.flat, attacks, strict=False):
        _panel(axes, rows, attack, found, names, drawn)
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy, %")
    for axes in grid.flat[len(attacks) :]:
        axes.set_axis_off()
    shown = {names[entry]: drawn[names[entry]] for entry in frames.best(worst, len(found)) if names[entry] in drawn}
    shown |= {rest: drawn[rest] for rest in [rest_text(found)] if rest in drawn}
    shown |= {_constant(rows): grid[0, 0].lines[-1]}
    _legend(figure, grid.flat[-1] if len(attacks) < grid.size else None, shown)
    return figure


def attacks_of(rows: pd.DataFrame) -> list[str]:
    """Return the attacks of a frame by name, the worst case and adversarial test sets apart."""
    own = rows[~rows["transferred"].astype(bool)]
    return sorted(set(own["attack"]) - {WORST_CASE})


def about_n(rows: pd.DataFrame) -> str:
    """Say whether the points of a line rest on the same tasks."""
    seen = set(rows["tasks"][rows["tasks"] > 0])
    if len(seen) > 1:
        return "Where n differs, points rest on different tasks, so a line may bend for that alone."
    return f"Every point rests on n = {seen.pop()} tasks." if seen else ""


def _panel(
    axes: Axes,
    rows: pd.DataFrame,
    attack: str,
    found: dict[Entry, Look],
    names: dict[Entry, str],
    drawn: dict[str, Any],
) -> None:
    here, seen = rows[rows["attack"] == attack], dict[float, list[int]]()
    for entry, mine in frames.by_entry(here):
        longest = float(mine.sort_values("tasks", kind="stable")["eps"].iloc[-1])
        points = _points(mine, longest, frames.board_of(rows).constant)
        for at, value in points.items():
            if at > 0:
                seen.setdefault(at, []).append(value.n)
        if line(axes, points, found[entry], shade_of(found)):
            drawn.setdefault(names[entry] if found[entry].named else rest_text(found), axes.lines[-1])
    frame(axes, rows, _ticks_of_n(seen))
    axes.set_title(f"{short(attack, 26)}, {frames.range_of_n([n for counts in seen.values() for n in counts])}", pad=6)
    axes.set_xlabel(frames.board_of(rows).budget)


def shade_of(found: dict[Entry, Look]) -> float:
    """Return how opaque a band is: the less, the more of them there are, so that lines stay to be seen."""
    return min(0.14, 0.8 / max(1, sum(look.named for look in found.values())))


def line(axes: Axes, points: dict[float, Value], look: Look, band: float) -> tuple[float, float] | None:
    """Draw one entry from clean (eps 0) on; return where its line ends, None if there is nothing to draw."""
    at = sorted(points)
    if not at:
        return None
    mean = [100 * points[eps].mean for eps in at]
    if not look.named:
        axes.plot(at, mean, color=REST, linewidth=0.8, linestyle=look.line, zorder=1.6)
        return at[-1], mean[-1]
    # An interval that says nothing is not drawn: a band from floor to ceiling would hide those that do.
    half = [100 * points[eps].half if points[eps].firm else math.nan for eps in at]
    low, high = [m - h for m, h in zip(mean, half, strict=True)], [m + h for m, h in zip(mean, half, strict=True)]
    axes.fill_between(at, low, high, color=look.colour, alpha=band, linewidth=0, zorder=1.7)
    axes.errorbar(at, mean, half, fmt="none", ecolor=look.colour, elinewidth=1.1, capsize=0, alpha=0.6)
    hollow = [i for i, eps in enumerate(at) if LACKING in points[eps].mark]
    full = [i for i in range(len(at)) if i not in hollow]
    shared: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 5.5}
    shared |= {"linestyle": look.line, "linewidth": 1.7}
    axes.plot(at, mean, markevery=hollow, markerfacecolor="white", zorder=2.4, **{**shared, "linestyle": "none"})
    axes.plot(at, mean, markevery=full, markeredgecolor="white", markeredgewidth=0.6, **shared)
    return at[-1], mean[-1]


def frame(axes: Axes, rows: pd.DataFrame, ticks: dict[float, str]) -> None:
    """Give every panel of a board the same ranges, and ticks where something was measured."""
    constant, largest = frames.board_of(rows).constant, float(rows["eps"].max()) or 1.0
    inches = 0.1 + 0.07 * max((len(part) for label in ticks.values() for part in label.split("\n")), default=0)
    axes.set_xticks(sorted(ticks), _with_room(ticks, inches / width(axes) * largest))
    axes.set_xlim(-0.03 * largest, 1.04 * largest)
    half = rows["clean_ci95"].where(rows["clean_ci95"] <= WIDEST, 0)
    top = max([constant + 0.05, *(rows["clean"] + half).dropna()])
    # Room below zero so that a marker on the floor is whole.
    axes.set_ylim(-1.5, min(102, 100 * top + 4))
    axes.grid(axis="y")
    axes.tick_params(length=0, labelsize=8.5)
    axes.spines["left"].set_visible(False)
    axes.axhline(100 * constant, color=MUTED, linewidth=1.1, linestyle=DOTTED, zorder=1.5)


def _constant(rows: pd.DataFrame) -> str:
    return f"{frames.board_of(rows).constant_text}: constant predictor"


def _points(mine: pd.DataFrame, eps: float, constant: float) -> dict[float, Value]:
    """Return an entry's values by eps, that at 0 the clean accuracy on the tasks of `eps`."""
    rows = frames.records(mine)
    values = {row["eps"]: frames.value_of(row, constant) for row in rows if row["eps"] > 0}
    return {at: value for at, value in ({0.0: frames.clean_of(rows, eps)} | values).items() if value.known}


def _legend(figure: Figure, empty: Axes | None, drawn: dict[str, Any]) -> None:
    """Name the lines in the empty panel if there is one and the names fit there, else below."""
    texts = [short(label, 40) for label in drawn]
    look: dict[str, Any] = {"frameon": False, "handlelength": 3.2, "fontsize": 9}
    if empty is not None and len(texts) <= 8 and max(map(len, texts)) <= 30:
        empty.legend(drawn.values(), texts, loc="center left", bbox_to_anchor=(-0.05, 0.5), **look)
        return
    wide = max(map(len, texts)) > 30 or figure.get_size_inches()[0] < 8
    figure.legend(drawn.values(), texts, loc="outside lower left", ncols=2 if wide else 3, **look)


def _ticks_of_n(seen: dict[float, list[int]]) -> dict[float, str]:
    """Label the budgets that an attack was run at, with n where it is not the same at all of them."""
    differs = len({n for counts in seen.values() for n in counts}) > 1
    made = {eps: eps_text(eps) + (f"\n{frames.range_of_n(seen[eps])}" if differs else "") for eps in seen}
    return {0.0: eps_text(0.0)} | made


def _with_room(ticks: dict[float, str], gap: float) -> list[str]:
    """Return the labels from the largest budget down, empty where one would touch its neighbour."""
    shown: list[float] = []
    for at in sorted(ticks, reverse=True):
        if not shown or shown[-1] - at >= gap:
            shown.append(at)
    return [ticks[at] if at in shown else "" for at in sorted(ticks)]


def grey(rows: pd.DataFrame) -> str:
    """Explain the grey lines in a caption, where there are any."""
    return GREY if len(frames.by_entry(rows)) > NAMED else ""
