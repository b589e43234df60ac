"""The curve of a training run: accuracy on validation tasks over its updates, and on training tasks where met.

Robust accuracy that still rises on training tasks while it falls on validation tasks is robust overfitting (Rice, Wong,
Kolter, arXiv 2002.11569).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from robustbench_meta.checkpoint import Card

CLEAN, ROBUST = "#0072B2", "#D55E00"


def draw(card: Card, path: Path) -> None:
    """Write the curve of a card's history as SVG."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    plot(axes, card)
    figure.suptitle(f"{card.recipe.algorithm} · {card.recipe.defense} · {card.recipe.family}", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


def plot(axes: Axes, card: Card) -> None:
    """Draw clean and robust accuracy in %: solid on validation tasks, dashed on training tasks."""
    steps = [seen.step for seen in card.history]
    look: dict[str, Any] = {"markersize": 3}
    robust = f"robust ({card.recipe.validate_attack})"
    axes.plot(steps, [100 * seen.clean for seen in card.history], color=CLEAN, marker="o", label="clean", **look)
    axes.plot(steps, [100 * seen.robust for seen in card.history], color=ROBUST, marker="s", label=robust, **look)
    met = [seen for seen in card.history if seen.train_clean is not None and seen.train_robust is not None]
    if met:
        at, look = [seen.step for seen in met], {"markersize": 3, "linestyle": "--", "markerfacecolor": "white"}
        clean, robust = "clean, training tasks", "robust, training tasks"
        axes.plot(at, [100 * (seen.train_clean or 0) for seen in met], color=CLEAN, marker="o", label=clean, **look)
        axes.plot(at, [100 * (seen.train_robust or 0) for seen in met], color=ROBUST, marker="s", label=robust, **look)
    axes.axhline(100 / card.recipe.ways, color="0.5", linestyle=":", label="constant predictor")
    assert card.selected_step is not None  # as of every learner that was trained here
    axes.axvline(card.selected_step, color="0.8", zorder=0, label="selected")
    axes.set(xlabel="meta-updates", ylabel="validation accuracy (%)", ylim=(0, 100), xlim=(0, 1.02 * steps[-1]))
    axes.spines[["top", "right"]].set_visible(False)
