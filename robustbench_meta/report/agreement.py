"""Attack agreement: which attack fools what the others miss, as one matrix an entry."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from robustbench_meta.outcomes import Entry
from robustbench_meta.report import frames
from robustbench_meta.report.drawing import INK, MUTED, RULE, heat, short
from robustbench_meta.statistics import ALL_OTHERS

PANELS = 9  # entries that are drawn, the best first
WIDE, HIGH = 0.5, 0.36  # inches: a square
CAPTION = (
    "Share in % of an entry's queries that are right when clean (their number stands above) which the attack of the "
    "row fools and the attack of the column does not, on the tasks that both ran on; the darker, the more. Last "
    "column: what it alone fools; framed, all that it fools, both on the tasks that every attack ran on. An attack "
    "that fools nothing alone adds nothing to the worst case there."
)
LEFT_OUT = " {} more entries are not drawn."


def drawn(rows: pd.DataFrame, worst: pd.DataFrame | None = None) -> list[Entry]:
    """Choose the entries to draw: by name, or the best of `worst` (rows of `worst_case`) first where it is given."""
    every = [entry for entry, _ in frames.by_entry(rows)]
    if worst is None:
        return every[:PANELS]
    first = [entry for entry in frames.best(worst, len(every)) if entry in every]
    return [*first, *(entry for entry in every if entry not in first)][:PANELS]  # some have no worst case


def draw(rows: pd.DataFrame, title: str, chosen: list[Entry]) -> Figure:
    """Draw a panel for each of the entries `chosen`, from rows of `agreement` at one eps."""
    attacks, names = sorted(set(rows["attack"])), frames.labels(rows)
    panels = [(entry, mine) for entry, mine in frames.by_entry(rows) if entry in chosen]
    panels.sort(key=lambda pair: chosen.index(pair[0]))
    top = max(0.05, *(_share(row) for row in frames.records(rows)))
    wide, high = WIDE * (len(attacks) + 1), HIGH * len(attacks)
    columns = max(1, min(len(panels), 3, int(9.5 / (wide + 0.35))))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(columns * (wide + 0.35) - 0.35, lines * (high + 0.75) - 0.75))
    grid = figure.subplots(lines, columns, squeeze=False, gridspec_kw={"wspace": 0.35 / wide, "hspace": 0.75 / high})
    figure.subplots_adjust(left=0, right=1, top=1, bottom=0)
    for axes, (entry, mine) in zip(grid.flat, panels, strict=False):
        _panel(axes, mine, attacks, names[entry], top)
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(attacks)), [f"{short(name, 34)}  {i}" for i, name in enumerate(attacks, 1)])
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    head = f"{short(title, 90)}, {frames.board_of(rows).at(float(rows['eps'].iloc[0]))}"
    grid[0, 0].annotate(head, (0, 1), (0, 50), xycoords="axes fraction", textcoords="offset points", fontsize=10.5)
    return figure


def caption(rows: pd.DataFrame, chosen: list[Entry]) -> str:
    """Say what the squares mean, and how many entries are not drawn."""
    left = len(frames.by_entry(rows)) - len(chosen)
    return CAPTION + (LEFT_OUT.format(left) if left else "")


def _panel(axes: Axes, mine: pd.DataFrame, attacks: list[str], name: str, top: float) -> None:
    found = {(row["attack"], row["other"]): row for row in frames.records(mine)}
    others = [*attacks, ALL_OTHERS]
    for y, attack in enumerate(attacks):
        for x, other in enumerate(others):
            _square(axes, (x, y), found.get((attack, other)), top)
        _diagonal(axes, y, found.get((attack, ALL_OTHERS)))
    axes.set_xlim(-0.5, len(others) - 0.5)
    axes.set_ylim(len(attacks) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(others)), [*(str(i) for i in range(1, len(others))), "alone"], fontsize=8.5)
    axes.set_yticks(range(len(attacks)), [str(i) for i in range(1, len(others))], fontsize=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    counts = sorted({int(row["correct"]) for row in found.values()})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    axes.set_title(f"{short(name, 34)}\n{number} queries", fontsize=8.5, pad=5)


def _square(axes: Axes, at: tuple[int, int], row: dict[str, Any] | None, top: float) -> None:
    (x, y), place = at, (at[0] - 0.48, at[1] - 0.46)
    if row is None or not row["correct"]:
        axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor="none", edgecolor=RULE, linewidth=0.8))
        return
    face, ink = heat(_share(row) / top) if row["only"] else ("#f7f7f5", MUTED)
    axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor=face, linewidth=0))
    text = f"{100 * _share(row):.1f}" if row["only"] else "0"
    axes.text(x, y, text, color=ink, fontsize=8.5, ha="center", va="center")


def _diagonal(axes: Axes, at: int, row: dict[str, Any] | None) -> None:
    """Frame what the attack fools in all; nothing where it was not run."""
    if row is None or not row["correct"]:
        return
    axes.add_patch(Rectangle((at - 0.47, at - 0.45), 0.94, 0.9, facecolor="white", edgecolor=INK, linewidth=1.2))
    text = f"{100 * row['fooled'] / row['correct']:.0f}"
    axes.text(at, at, text, fontsize=8.5, fontweight="bold", ha="center", va="center")


def _share(row: dict[str, Any]) -> float:
    return float(row["only"] / row["correct"]) if row["correct"] else 0.0
