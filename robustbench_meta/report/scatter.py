"""Two checkpoints task by task: each dot one task, the paired difference above."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustbench_meta.intervals import interval
from robustbench_meta.outcomes import Entry
from robustbench_meta.report import frames
from robustbench_meta.report.drawing import DOTTED, MUTED, PALETTE, short
from robustbench_meta.report.values import Value
from robustbench_meta.statistics import WORST_CASE

CAPTION = (
    "Each dot is a task that both met, the larger the more tasks lie there; above the diagonal the checkpoint of the "
    "vertical axis does better. Δ: by how much, the mean of the paired differences in percentage points, ± the "
    "half-width of its 95 % interval. Dotted: a constant predictor."
)


def draw(rows: pd.DataFrame, a: Entry, b: Entry, title: str) -> Figure:
    """Draw clean and worst-case accuracy of `a` against those of `b`, from the worst cases of `per_task` at one eps."""
    names, parts = frames.labels(rows), dict(frames.by_entry(rows))
    mine, theirs = (parts[one].set_index("task").sort_index() for one in (a, b))
    shared = mine.index.intersection(theirs.index)
    board = frames.board_of(rows)
    at, constant = board.at(float(rows["eps"].iloc[0])), 100 * board.constant
    figure = Figure(figsize=(8.2, 4.6), layout="constrained")
    for axes, column, what in zip(
        figure.subplots(1, 2), ("clean", "robust"), ("clean", f"worst case at {at}"), strict=True
    ):
        y, x = (100 * one.loc[shared, column].to_numpy(float) for one in (mine, theirs))
        difference = Value(*interval((y - x) / 100), len(shared), signed=True)
        _panel(axes, x, y, constant)
        axes.set_title(f"{what}: Δ = {difference.text}", pad=8)
        axes.set_xlabel(f"{short(names[b], 40)}, %")
    figure.axes[0].set_ylabel(f"{short(names[a], 40)}, %")
    figure.suptitle(f"{short(title, 90)}, n = {len(shared)} tasks", x=0.008, ha="left", fontsize=10.5)
    return figure


def worst(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the worst case of what `per_task` returns, not each attack alone."""
    return rows[rows["attack"] == WORST_CASE]


def shared_tasks(rows: pd.DataFrame, a: Entry, b: Entry) -> int:
    """Count the tasks on which both were measured."""
    parts = dict(frames.by_entry(rows))
    return len(set(parts[a]["task"]) & set(parts[b]["task"])) if a in parts and b in parts else 0


def _panel(axes: Axes, x: np.ndarray, y: np.ndarray, constant: float) -> None:
    dots = Counter(zip(x.round(6).tolist(), y.round(6).tolist(), strict=True))
    both = [*x, *y, constant]
    low, high = max(-3.0, min(both) - 6), min(103.0, max(both) + 6)
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1, zorder=1)
    for ruled in (axes.axhline, axes.axvline):
        ruled(constant, color=MUTED, linewidth=1, linestyle=DOTTED, zorder=1)
    places = np.array(list(dots))
    sizes = [24.0 * count for count in dots.values()]
    axes.scatter(
        places[:, 0], places[:, 1], s=sizes, color=PALETTE[0], alpha=0.6, edgecolor="white", linewidth=0.6, zorder=2
    )
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.grid()
    axes.tick_params(length=0)
