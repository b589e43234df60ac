"""Figures as SVG and PNG: accuracy against eps, steps by shots, clean against robust, and a gallery.

Two runs write the same bytes: ids come from a fixed salt and no date is kept. Colours are Okabe and Ito's
(2008), told apart by marker too; names stand beside what they name.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from robustbench_meta.intervals import interval
from robustbench_meta.report.tables import (
    CONSTANT_MARK,
    LACKING,
    NOTHING,
    columns_of_eps,
    entry_label,
    norm_text,
    robust_value,
    slugs,
    steps_text,
    titles,
)
from robustbench_meta.statistics import Entry, Outcome, Standing, eps_text

INK, MUTED, RULE, SHADE = "#1b1f24", "#626b75", "#d5d9de", "#ececea"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#a8508a", "#8c6d00", "#3a9bd9", "#5b5b5b", "#b3002d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
RIGHT, WRONG = "#0072b2", "#d55e00"
STYLE: Any = {
    "svg.hashsalt": "robustbench_meta",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Picture:
    """One figure on disk, as SVG and PNG; `board` is the slug of the board it belongs to, if it has one."""

    name: str
    board: str
    caption: str
    alt: str
    svg: Path
    png: Path


@dataclass(frozen=True)
class About:
    """What a page says of a figure: below it, and instead of it."""

    caption: str
    alt: str


@dataclass(frozen=True)
class Look:
    """How one entry is drawn, the same in every figure of a board."""

    colour: str
    marker: str
    dashed: bool


def draw(
    boards: list[list[Standing]], names: dict[tuple[str, str], str], gallery: Sequence[dict[str, Any]], folder: Path
) -> list[Picture]:
    """Draw everything there is to draw into `folder` and say what was drawn, in the order of the boards.

    Files are named here alone, by the kind of figure and the slug of what it shows: distinct slugs, distinct files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Picture] = []
    abouts, groups = [one[0].board for one in boards], _without_shots(boards)
    wholes = [replace(group[0][0].board, shots=0) for group in groups]
    home = dict(zip(abouts, slugs(abouts), strict=True))
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        for board, slug, title in zip(boards, slugs(abouts), titles(abouts), strict=True):
            for kind, figure, about in _of_board(board, names, title):
                made.append(save(figure, folder / f"{kind}-{slug}", slug, about))
        for group, slug, title in zip(groups, slugs(wholes), titles(wholes), strict=True):
            about = About(_about_strips(group), f"Robust accuracy by steps and shots: {title}")
            where = home[group[0][0].board]
            made.append(save(_steps_shots(group, names, title), folder / f"steps-shots-{slug}", where, about))
        pictures, about = _gallery(gallery)
        if pictures is not None:
            made.append(save(pictures, folder / "gallery", "", about))
    return made


def _of_board(
    board: list[Standing], names: dict[tuple[str, str], str], title: str
) -> Iterator[tuple[str, Figure, About]]:
    """Draw the figures of one board: kind, figure and what to say about it."""
    caption = f"Worst case over all attacks against ε. {_on_tasks(board)} {_READING}"
    yield "eps", _against_eps(board, names, title), About(caption, f"Robust accuracy against eps: {title}")
    # Adversarial test sets have a figure of their own, the transfer matrix.
    attacks = sorted({name for one in board for o in one.outcomes.values() for name in {*o.runs} - {*o.transferred}})
    if len(attacks) > 1:  # one attack alone is what the figure above shows
        caption = f"The same, attack by attack, each on all tasks (n) that it ran on. {_READING}"
        yield "attacks", _by_attack(board, attacks, names, title), About(caption, f"Accuracy by attack: {title}")
    if any(one.robust[2] for one in board):
        caption = (
            f"Clean against worst-case accuracy at ε = {eps_text(board[0].rank_eps)}. Shaded: robust accuracy no "
            "better than a predictor that always gives the same class. Dotted: robust as high as clean, where "
            "attacks cost nothing. Hollow: an attack that others met is missing. Bars: 95 % intervals over tasks."
        )
        yield "scatter", _scatter(board, names, title), About(caption, f"Clean against robust accuracy: {title}")


_READING = (
    "ε = 0 is clean accuracy. Bars: 95 % intervals over tasks. Dashed lines: standard training. Hollow: an attack "
    "that others met is missing. Dotted: 1/K, a predictor that always gives the same class."
)


def _on_tasks(board: list[Standing]) -> str:
    """Say whether the points of a line rest on the same tasks."""
    seen = {len(o.known) for one in board for o in one.outcomes.values() if len(o.known)}
    seen |= {one.clean[2] for one in board if one.clean[2]}
    if len(seen) > 1:
        return "Where n differs, points rest on different tasks, so a line may bend for that alone."
    return f"Every point rests on n = {seen.pop()} tasks." if seen else ""


def save(figure: Figure, path: Path, board: str, about: About) -> Picture:
    """Write a figure as SVG and PNG; `board` is the slug of the board it belongs to."""
    svg, png = path.with_name(f"{path.name}.svg"), path.with_name(f"{path.name}.png")
    figure.savefig(svg, metadata={"Date": None, "Creator": None}, bbox_inches="tight", pad_inches=0.08)
    figure.savefig(png, dpi=200, metadata={"Software": None}, facecolor="white", bbox_inches="tight", pad_inches=0.08)
    return Picture(path.name, board, about.caption, about.alt, svg, png)


def _looks(board: list[Standing]) -> dict[Entry, Look]:
    entries = sorted((one.entry for one in board), key=lambda e: (e.checkpoint, e.weights, e.steps or 0))
    return {
        entry: Look(PALETTE[i % len(PALETTE)], MARKERS[(i + i // 8) % len(MARKERS)], entry.defense == "standard")
        for i, entry in enumerate(entries)
    }


def _against_eps(board: list[Standing], names: dict[tuple[str, str], str], title: str) -> Figure:
    figure = Figure(figsize=(7.4, max(3.9, 0.24 * len(board) + 1.2)))
    axes = figure.add_subplot()
    looks, ends = _looks(board), []
    for one in board:
        values = {eps: (*interval(o.known), o.complete) for eps, o in one.outcomes.items() if len(o.known)}
        end = _line(axes, one.clean, values, looks[one.entry])
        if end is not None:
            ends.append((end[0], end[1], entry_label(one.entry, names), looks[one.entry].colour))
    n: dict[float, list[int]] = {0.0: [one.clean[2] for one in board]}
    for eps in columns_of_eps(board):
        if eps > 0:
            n[eps] = [len(one.outcomes[eps].known) for one in board if eps in one.outcomes]
    _eps_axes(axes, board, {eps: f"{eps_text(eps)}\n{_range_of_n(counts)}" for eps, counts in n.items()})
    axes.set_xlabel(f"ε ({norm_text(board[0].board)}), n tasks")
    axes.set_ylabel("worst-case accuracy, %")
    ends.append((axes.get_xlim()[1], 100 * board[0].board.constant, "1/K: constant predictor", MUTED))
    _labels_right(axes, ends)
    axes.set_title(short(title, 90), pad=12)
    return figure


def _by_attack(board: list[Standing], attacks: list[str], names: dict[tuple[str, str], str], title: str) -> Figure:
    """Draw a panel for each attack."""
    columns = 2 if len(attacks) in (2, 4) else 3
    rows = math.ceil(len(attacks) / columns)
    figure = Figure(figsize=(3.1 * columns + 0.4, 2.75 * rows + 0.5), layout="constrained")
    figure.suptitle(short(title, 90), x=0.01, ha="left", fontsize=10.5)
    looks = _looks(board)
    grid = figure.subplots(rows, columns, squeeze=False)
    drawn: dict[str, Any] = {}
    for axes, attack in zip(grid.flat, attacks, strict=False):
        seen: dict[float, list[int]] = {}
        for one in board:
            runs = {eps: o.runs[attack] for eps, o in one.outcomes.items() if attack in o.runs}
            if runs:
                for eps, run in runs.items():
                    seen.setdefault(eps, []).append(len(run.tasks))
                values = {eps: (*interval(run.survived.mean(1)), True) for eps, run in runs.items()}
                longest = max(runs.values(), key=lambda run: len(run.tasks))
                clean = (*interval(longest.clean.mean(1)), len(longest.tasks))
                _line(axes, clean, values, looks[one.entry])
                drawn.setdefault(entry_label(one.entry, names), axes.lines[-1])
        _eps_axes(axes, board, _ticks_of_n(seen))
        axes.set_title(f"{short(attack, 26)}, {_range_of_n(n for counts in seen.values() for n in counts)}", pad=6)
        axes.set_xlabel("ε")
    for axes in grid[:, 0]:
        axes.set_ylabel("accuracy, %")
    for axes in grid.flat[len(attacks) :]:
        axes.set_axis_off()
    drawn["1/K: constant predictor"] = grid[0, 0].lines[-1]
    _legend(figure, grid.flat[-1] if len(attacks) < grid.size else None, drawn)
    return figure


def _legend(figure: Figure, empty: Axes | None, drawn: dict[str, Any]) -> None:
    """Name the lines in the empty panel if there is one and the names fit there, else below."""
    labels = [short(label, 40) for label in drawn]
    look: dict[str, Any] = {"frameon": False, "handlelength": 3.2, "fontsize": 9}
    if empty is not None and len(labels) <= 8 and max(map(len, labels)) <= 30:
        empty.legend(drawn.values(), labels, loc="center left", bbox_to_anchor=(-0.05, 0.5), **look)
        return
    wide = max(map(len, labels)) > 30 or figure.get_size_inches()[0] < 8
    figure.legend(drawn.values(), labels, loc="outside lower left", ncols=2 if wide else 3, **look)


def _range_of_n(counts: Iterable[int]) -> str:
    """Write "n = 10", or "n = 10 to 20" where numbers of tasks differ."""
    known = sorted({count for count in counts if count})
    if not known:
        return f"n = {NOTHING}"
    return f"n = {known[0]}" if len(known) == 1 else f"n = {known[0]} to {known[-1]}"


def _ticks_of_n(seen: dict[float, list[int]]) -> dict[float, str]:
    """Label the budgets that an attack was run at, with n where it is not the same at all of them."""
    differs = len({n for counts in seen.values() for n in counts}) > 1
    labels = {eps: eps_text(eps) + (f"\n{_range_of_n(seen[eps])}" if differs else "") for eps in seen}
    return {0.0: eps_text(0.0)} | labels


def _line(
    axes: Axes, clean: tuple[float, float, int], values: dict[float, tuple[float, float, bool]], look: Look
) -> tuple[float, float] | None:
    """Draw one entry from clean (eps 0) on; return where its line ends, None if there is nothing to draw."""
    points = {0.0: (clean[0], clean[1], True)} if clean[2] else {}
    points |= {eps: value for eps, value in values.items() if eps > 0}
    if not points:
        return None
    at = sorted(points)
    mean = [100 * points[eps][0] for eps in at]
    bars = [100 * np.nan_to_num(points[eps][1]) for eps in at]
    axes.errorbar(at, mean, bars, fmt="none", ecolor=look.colour, elinewidth=1.2, capsize=0, alpha=0.55)
    hollow = [i for i, eps in enumerate(at) if not points[eps][2]]
    full = [i for i in range(len(at)) if i not in hollow]
    shared: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 5.5}
    shared |= {"linestyle": (0, (5, 2)) if look.dashed else "-", "linewidth": 1.7}
    axes.plot(at, mean, markevery=hollow, markerfacecolor="white", zorder=2.4, **{**shared, "linestyle": "none"})
    axes.plot(at, mean, markevery=full, markeredgecolor="white", markeredgewidth=0.6, **shared)
    return at[-1], mean[-1]


def _eps_axes(axes: Axes, board: list[Standing], ticks: dict[float, str]) -> None:
    """Give every panel of a board the same ranges, and ticks where something was measured."""
    largest = max(columns_of_eps(board)) or 1.0
    inches = 0.1 + 0.07 * max(len(line) for label in ticks.values() for line in label.split("\n"))
    axes.set_xticks(sorted(ticks), _with_room(ticks, inches / (axes.get_position().width * _width(axes)) * largest))
    axes.set_xlim(-0.03 * largest, 1.04 * largest)
    known = [one.clean[0] + np.nan_to_num(one.clean[1]) for one in board if one.clean[2]]
    top = max([*known, board[0].board.constant + 0.05])
    # Room below zero so that a marker on the floor is whole.
    axes.set_ylim(-1.5, min(102, 100 * top + 4))
    axes.grid(axis="y")
    axes.tick_params(length=0, labelsize=8.5)
    axes.spines["left"].set_visible(False)
    axes.axhline(100 * board[0].board.constant, color=MUTED, linewidth=1.1, linestyle=(0, (1, 1.6)), zorder=1.5)


def _width(axes: Axes) -> float:
    return float(axes.figure.get_size_inches()[0])  # type: ignore[union-attr]


def _with_room(ticks: dict[float, str], gap: float) -> list[str]:
    """Return the labels from the largest budget down, empty where one would touch its neighbour."""
    shown: list[float] = []
    for at in sorted(ticks, reverse=True):
        if not shown or shown[-1] - at >= gap:
            shown.append(at)
    return [ticks[at] if at in shown else "" for at in sorted(ticks)]


def _labels_right(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's name beside its end, moved apart where names would overlap."""
    low, high = axes.get_ylim()
    height = axes.figure.get_size_inches()[1] * 0.77  # type: ignore[union-attr]
    gap = (high - low) * 0.165 / height
    ends = sorted(ends, key=lambda end: (end[1], end[2]))
    wanted = _spread([end[1] for end in ends], gap, low + gap / 3)
    edge = axes.get_xlim()[1]
    for (x, y, text, colour), place in zip(ends, wanted, strict=True):
        to = edge * 1.035
        axes.plot([x + 0.012 * edge, to], [y, place], color=colour, linewidth=0.7, clip_on=False, alpha=0.8)
        axes.text(to + 0.008 * edge, place, short(text, 44), va="center", fontsize=9)


def _spread(wanted: list[float], gap: float, low: float) -> list[float]:
    """Move sorted places apart to at least `gap`, none below `low`, each cluster about where it wanted to be."""
    groups: list[list[float]] = []  # centre, count
    for place in wanted:
        groups.append([max(place, low), 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            (b, m), (a, n) = groups.pop(), groups.pop()
            centre = max((a * n + b * m) / (n + m), low + gap * (n + m - 1) / 2)
            groups.append([centre, n + m])
    return [centre + gap * (i - (count - 1) / 2) for centre, count in groups for i in range(int(count))]


def _scatter(board: list[Standing], names: dict[tuple[str, str], str], title: str) -> Figure:
    known = [one for one in board if one.robust[2]]
    figure = Figure(figsize=(7.0, 4.6))
    axes, constant, looks = figure.add_subplot(), 100 * board[0].board.constant, _looks(board)
    right = max(constant, *(100 * (one.clean[0] + np.nan_to_num(one.clean[1])) for one in known)) + 6
    high = max(constant, *(100 * (one.robust[0] + np.nan_to_num(one.robust[1])) for one in known)) + 8
    left = min(constant, *(100 * one.clean[0] for one in known)) - 5
    axes.set_xlim(max(0, left), min(102, right))
    axes.set_ylim(-2, min(102, high))
    axes.axhspan(-2, constant, color=SHADE, zorder=0, linewidth=0)
    floor = axes.text(min(102, right), constant - 0.8, "no better than a constant ", ha="right", va="top", color=MUTED)
    floor.set_fontsize(8.5)
    axes.plot([0, 102], [0, 102], color=MUTED, linewidth=1, linestyle=(0, (1, 1.6)))
    axes.plot([constant], [constant], marker="*", markersize=12, color=INK, linestyle="none", zorder=4)
    points, boxes = [(constant, constant, "constant predictor (1/K, 1/K)", INK)], list[tuple[float, ...]]()
    for one in known:
        look, (x, a, _), (y, b, _) = looks[one.entry], one.clean, one.robust
        complete = one.outcomes[one.rank_eps].complete
        bars = {"xerr": 100 * np.nan_to_num(a), "yerr": 100 * np.nan_to_num(b)}
        axes.errorbar(
            100 * x,
            100 * y,
            **bars,
            fmt=look.marker,
            color=look.colour,
            elinewidth=1.2,
            capsize=3.5,
            markersize=6.5,
            markeredgecolor=look.colour if not complete else "white",
            markeredgewidth=1.2 if not complete else 0.6,
            markerfacecolor=look.colour if complete else "white",
            zorder=3,
        )
        boxes.append((100 * x - bars["xerr"], 100 * y, 100 * x + bars["xerr"], 100 * y))
        boxes.append((100 * x, 100 * y - bars["yerr"], 100 * x, 100 * y + bars["yerr"]))
        points.append((100 * x, 100 * y, entry_label(one.entry, names), look.colour))
    axes.set_xlabel("clean accuracy, %")
    axes.set_ylabel(f"worst-case accuracy at ε = {eps_text(board[0].rank_eps)}, %")
    axes.tick_params(length=0)
    axes.grid()
    axes.set_title(short(title, 90), pad=12)
    figure.tight_layout()
    boxes.append(_extent(axes, floor))
    _label_points(axes, points, [*boxes, *_diagonal(axes, boxes)])
    return figure


def _diagonal(axes: Axes, bars: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Name the line on which robust equals clean where it meets no bar; return boxes along line and name."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    start, end = max(left, low), min(right, high)
    (x0, y0), (x1, y1) = axes.transData.transform([(start, start), (end, end)])
    look: dict[str, Any] = {"rotation": math.degrees(math.atan2(y1 - y0, x1 - x0)), "rotation_mode": "anchor"}
    look |= {"textcoords": "offset points", "ha": "right", "va": "top", "color": MUTED, "fontsize": 8.5}
    taken = []
    for part in (1, 0.85, 0.7, 0.55, 0.4):
        at = start + part * (end - start)
        name = axes.annotate("robust = clean", (at, at), (-4, -5), **look)
        taken.append((sum(_overlap(_extent(axes, name), bar) for bar in bars), -part, name))
    taken.sort(key=lambda one: one[:2])
    for *_, name in taken[1:]:
        name.remove()
    step = (end - start) / 60
    along = [start + step * i for i in range(60)]
    return [_extent(axes, taken[0][2]), *((at, at, at + step, at + step) for at in along)]


def _extent(axes: Axes, text: Text) -> tuple[float, ...]:
    """Return where a text stands, in data units (x0, y0, x1, y1)."""
    box = Text.get_window_extent(text, FigureCanvasAgg(cast(Figure, axes.figure)).get_renderer())
    return tuple(axes.transData.inverted().transform([(box.x0, box.y0), (box.x1, box.y1)]).ravel())


def _label_points(axes: Axes, points: list[tuple[float, float, str, str]], bars: Sequence[tuple[float, ...]]) -> None:
    """Name points beside them, at the nearest place where a name covers neither point nor bar nor name.

    `bars` are boxes in data units (x0, y0, x1, y1); a name that had to move away gets a line to its point.
    """
    renderer = FigureCanvasAgg(cast(Figure, axes.figure)).get_renderer()
    box = axes.get_window_extent(renderer)
    centres = [axes.transData.transform(point[:2]) for point in points]
    taken: list[tuple[float, ...]] = [(x - 7, y - 7, x + 7, y + 7) for x, y in centres]
    for x0, y0, x1, y1 in bars:
        (left, low), (right, high) = axes.transData.transform([(x0, y0), (x1, y1)])
        taken.append((left - 1, low - 1, right + 1, high + 1))
    for x, y, text, colour in sorted(points, key=lambda point: (-point[1], point[0])):
        best: tuple[float, Any, tuple[float, ...]] | None = None
        for dx, dy in _AROUND:
            arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 5}
            note = axes.annotate(
                short(text, 40),
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right",
                va="center",
                fontsize=8.5,
                arrowprops=arrow if abs(dy) > 15 else None,
            )
            note.update_positions(renderer)
            extent = Text.get_window_extent(note, renderer)
            here = (extent.x0, extent.y0, extent.x1, extent.y1)
            outside = max(0.0, box.x0 - here[0]) + max(0.0, here[2] - box.x1) + max(0.0, box.y0 - here[1])
            outside += max(0.0, here[3] - box.y1)
            cost = sum(_overlap(here, other) for other in taken) + 40 * outside + 2 * max(0, abs(dy) - 15)
            if best is not None and cost >= best[0] - 1e-9:
                note.remove()
                continue
            if best is not None:
                best[1].remove()
            best = (cost, note, here)
        assert best is not None
        taken.append(best[2])


# Offsets in points at which a name may stand, near ones first.
_AROUND = [(side * dx, dy) for dx, dy in ((10, 8), (10, -8), (12, 0)) for side in (1, -1)]
_AROUND += [(side * 16, dy) for dy in (20, -20, 32, -32, 44, -44, 56, 68, 80) for side in (1, -1)]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _without_shots(boards: list[list[Standing]]) -> list[list[list[Standing]]]:
    """Gather boards that differ in shots alone, in the order of the shots."""
    groups: dict[tuple[Any, ...], list[list[Standing]]] = {}
    for board in boards:
        b = board[0].board
        where = (b.surface, b.track, b.family, b.episodes, b.split, b.ways, b.queries, b.norm, b.seed)
        groups.setdefault(where, []).append(board)
    return [sorted(group, key=lambda board: board[0].board.shots) for group in groups.values()]


def _about_strips(group: list[list[Standing]]) -> str:
    shown = [one.outcomes.get(_eps_of(group)) for board in group for one in board]
    marks = "".join(robust_value(outcome).mark for outcome in shown)
    parts = ["Worst-case accuracy in % by adaptation steps (rows) and shots (columns), ± the 95 % half-width."]
    if any(one.entry.steps is None for board in group for one in board):
        parts.append(f"An algorithm without steps has one row, {NOTHING}.")
    if CONSTANT_MARK in marks:
        parts.append("Hatched: the interval reaches 1/K, what a constant predictor has.")
    if LACKING in marks:
        parts.append(f"{LACKING}: an attack that others met is missing, so the number may flatter.")
    return " ".join(parts)


def _eps_of(group: list[list[Standing]]) -> float:
    """Choose one eps for a whole figure: the largest at which the most squares are filled."""
    seen = [eps for board in group for one in board for eps in one.outcomes]
    return max(set(seen), key=lambda value: (value > 0, seen.count(value), value))


def _steps_shots(group: list[list[Standing]], names: dict[tuple[str, str], str], title: str) -> Figure:
    """Draw one strip per checkpoint: rows are its step counts, columns the shots."""
    shots, eps = [board[0].board.shots for board in group], _eps_of(group)
    squares: dict[str, dict[int | None, dict[int, Outcome | None]]] = {}
    for board in group:
        for one in board:
            name = names[one.entry.checkpoint, one.entry.weights]
            strip = squares.setdefault(name, {}).setdefault(one.entry.steps, {})
            strip[board[0].board.shots] = one.outcomes.get(eps)
    squares = dict(sorted(squares.items()))
    rows = [len(strip) for strip in squares.values()]
    height, gap = 0.4 * sum(rows), 0.13 * (len(rows) - 1)
    figure = Figure(figsize=(1.35 * len(shots) + 0.4, height + gap))
    known = [o.known for s in squares.values() for r in s.values() for o in r.values() if o is not None]
    top = max([0.3, *(float(np.mean(robust)) for robust in known if len(robust))])
    space = gap / (len(rows) - 1) / (height / len(rows)) if len(rows) > 1 else 0
    shape = {"height_ratios": rows, "hspace": space}
    panels = figure.subplots(len(rows), 1, squeeze=False, gridspec_kw=shape)[:, 0]
    figure.subplots_adjust(left=0, right=1, top=1, bottom=0)
    for axes, by_steps in zip(panels, squares.values(), strict=True):
        _strip(axes, by_steps, shots, top)
    panels[0].xaxis.tick_top()
    panels[0].set_xticks(range(len(shots)), [f"{k}-shot" for k in shots])
    _margin(figure, panels, [short(name, 36) for name in squares], f"{short(title, 90)}, ε = {eps_text(eps)}")
    return figure


def _margin(figure: Figure, panels: Any, names: list[str], title: str) -> None:
    """Write names and title from one left edge, as far out as the longest name needs."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    near: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    notes = [
        axes.annotate(name, (0, 0.5), (0, 0), va="center", **near) for axes, name in zip(panels, names, strict=True)
    ]
    widest = max(Text.get_window_extent(note, renderer).width for note in notes) * 72 / figure.dpi
    left = -44 - widest
    for note in notes:
        note.set_position((left, 0))
    panels[0].annotate("steps", (0, 1), (-8, 7), ha="right", color=MUTED, fontsize=8.5, **near)
    panels[0].annotate(title, (0, 1), (left, 28), fontsize=10.5, **near)


def _strip(axes: Axes, rows: dict[int | None, dict[int, Outcome | None]], shots: list[int], top: float) -> None:
    steps = sorted(rows, key=lambda value: -1 if value is None else value)
    for y, step in enumerate(steps):
        for x, shot in enumerate(shots):
            _square(axes, (x, y), rows[step].get(shot), top)
    axes.set_xlim(-0.5, len(shots) - 0.5)
    axes.set_ylim(len(steps) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(range(len(steps)), [steps_text(step) for step in steps])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _square(axes: Axes, at: tuple[int, int], outcome: Outcome | None, top: float) -> None:
    """Fill one square: the darker the more accurate, hatched where the interval reaches 1/K."""
    (x, y), value = at, robust_value(outcome)
    place: tuple[float, float] = (x - 0.48, y - 0.46)
    centre: dict[str, Any] = {"ha": "center", "va": "center"}
    if not value.known:
        axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor="none", edgecolor=RULE, linewidth=0.8))
        axes.text(x, y, "not run" if outcome is None else "error", color=MUTED, fontsize=8.5, **centre)
        return
    useless = CONSTANT_MARK in value.mark
    shade = 0.08 + 0.77 * value.mean / top
    hatch: dict[str, Any] = {"hatch": "////", "edgecolor": "#b9bec5"} if useless else {"edgecolor": "none"}
    face = "#f4f4f2" if useless else matplotlib.colors.to_hex(matplotlib.colormaps["Blues"](shade))
    axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor=face, linewidth=0, **hatch))
    ink = "#ffffff" if shade > 0.55 and not useless else "#11151a"
    box = {"facecolor": "#f4f4f2", "edgecolor": "none", "pad": 1.2} if useless else None
    text = replace(value, mark=f" {LACKING}" if LACKING in value.mark else "").text
    axes.text(x, y, text, color=ink, fontsize=9 if value.firm else 8, bbox=box, **centre)


def _gallery(items: Sequence[dict[str, Any]], *, blocks: int = 6, queries: int = 6) -> tuple[Figure | None, About]:
    """Draw up to `blocks` items of up to `queries` queries each, the largest eps first."""
    order = sorted(items, key=lambda item: (-float(item["eps"]), str(item["attack"]), str(item["title"])))
    shown = [item for item in order if len(item["labels"])][:blocks]
    if not shown:
        return None, About("", "")
    columns = max(min(queries, len(item["labels"])) for item in shown)
    figure = Figure(figsize=(1.15 * columns + 1.3, 3.95 * len(shown)))
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, item in zip(parts, shown, strict=True):
        _block(part, item, columns)
    left = len([item for item in items if len(item["labels"])]) - len(shown)
    caption = (
        "Clean image, perturbation (amplified by the factor beside it, grey is no change) and adversarial image. Under "
        "each image the predicted class: ✓ and a solid frame if it is right, ✗ and a dashed frame if it is wrong. "
        "Withstood: the attack found nothing that fools the learner, and hands back the clean image."
    )
    caption += f" {left} more sets are not drawn." if left else ""
    return figure, About(caption, "Clean images, perturbations and adversarial images with predictions")


def _block(part: Any, item: dict[str, Any], columns: int) -> None:
    clean, adversarial = _images(item["clean"]), _images(item["adversarial"])
    moved = adversarial - clean
    largest = float(np.abs(moved).max())
    factor = max(1, math.floor(0.5 / largest)) if largest > 1e-6 else 1
    grid = part.subplots(3, columns, squeeze=False)
    part.subplots_adjust(left=1.15 / (1.15 * columns + 1.3), right=0.99, top=0.9, bottom=0.05, hspace=0.28, wspace=0.08)
    part.suptitle(short(str(item["title"]), 30 + 12 * columns), x=0.012, y=0.965, ha="left", fontsize=10.5)
    for axes in grid.flat:
        axes.set_axis_off()
    for i in range(min(columns, len(item["labels"]))):
        label = int(item["labels"][i])
        rows: list[tuple[np.ndarray, int | None]] = [
            (clean[i], int(item["clean_predictions"][i])),
            (np.clip(0.5 + factor * moved[i], 0, 1), None),
            (adversarial[i], int(item["adversarial_predictions"][i])),
        ]
        if np.abs(moved[i]).max() <= 1e-6:
            word = "withstood" if int(item["adversarial_predictions"][i]) == label else "wrong\nas it is"
            place: dict[str, Any] = {"transform": grid[1, i].transAxes, "ha": "center", "va": "center"}
            grid[1, i].text(0.5, 0.5, word, color="#ffffff", fontsize=9, **place)
        for axes, (image, says) in zip(grid[:, i], rows, strict=True):
            _image(axes, image, says, label)
    for axes, text in zip(
        grid[:, 0], ("clean", f"perturbation\n\N{MULTIPLICATION SIGN} {factor}", "adversarial"), strict=True
    ):
        axes.annotate(
            text,
            (0, 0.5),
            (-12, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
        )


def _image(axes: Axes, image: np.ndarray, says: int | None, label: int) -> None:
    axes.set_axis_on()
    # "none" keeps the pixels as they are in the file; a viewer enlarges them.
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="none")
    axes.set_xticks([])
    axes.set_yticks([])
    right = says == label
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(RULE if says is None else RIGHT if right else WRONG)
        spine.set_linewidth(0.6 if says is None else 1.8)
        spine.set_linestyle("-" if says is None or right else (0, (3, 1.5)))
    if says is not None:
        axes.set_xlabel(f"✓ {says}" if right else f"✗ {says}, is {label}", fontsize=9, labelpad=3)


def _images(values: Any) -> np.ndarray:
    """Return [n, H, W, 3] or [n, H, W] in [0, 1] from [n, C, H, W] or [n, H, W], floats or bytes."""
    array = np.asarray(values)
    array = array / 255.0 if array.dtype == np.uint8 else array.astype(float)
    if array.ndim == 4:
        array = array[:, 0] if array.shape[1] != 3 else array.transpose(0, 2, 3, 1)
    return array


def short(text: str, length: int) -> str:
    """Make a name fit to be drawn: no control characters, no more than `length` characters."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean if len(clean) <= length else f"{clean[: length - 1]}…"
