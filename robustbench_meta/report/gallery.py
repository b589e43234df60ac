"""A gallery: clean images, perturbations and adversarial images, with what the learner says of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustbench_meta.report.drawing import RIGHT, RULE, WRONG, About, short

BLOCKS, QUERIES = 6, 6  # items that are drawn, and queries of each


def draw(items: Sequence[dict[str, Any]]) -> Figure:
    """Draw a block for each of the items that `chosen` returns."""
    shown = chosen(items)
    columns = max(min(QUERIES, len(item["labels"])) for item in shown)
    figure = Figure(figsize=(1.15 * columns + 1.3, 3.95 * len(shown)))
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, item in zip(parts, shown, strict=True):
        _block(part, item, columns)
    return figure


def chosen(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose the items to draw: those that hold a query, the largest eps first."""
    order = sorted(items, key=lambda item: (-float(item["eps"]), str(item["attack"]), str(item["title"])))
    return [item for item in order if len(item["labels"])][:BLOCKS]


def about(items: Sequence[dict[str, Any]]) -> About:
    """Say what the figure of these items shows."""
    caption = (
        "Clean image, perturbation (amplified by the factor beside it, grey is no change) and adversarial image. Under "
        "each image the predicted class: ✓ and a solid frame if it is right, ✗ and a dashed frame if it is wrong. "
        "Withstood: the attack found nothing that fools the learner, and hands back the clean image."
    )
    left = len([item for item in items if len(item["labels"])]) - len(chosen(items))
    caption += f" {left} more sets are not drawn." if left else ""
    return About(caption, "Clean images, perturbations and adversarial images with predictions")


def _block(part: Any, item: dict[str, Any], columns: int) -> None:
    clean, adversarial = pixels(item["clean"]), pixels(item["adversarial"])
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


def pixels(values: Any) -> np.ndarray:
    """Return [n, H, W, 3] or [n, H, W] in [0, 1] from [n, C, H, W] or [n, H, W], floats or bytes."""
    array = np.asarray(values)
    array = array / 255.0 if array.dtype == np.uint8 else array.astype(float)
    if array.ndim == 4:
        array = array[:, 0] if array.shape[1] != 3 else array.transpose(0, 2, 3, 1)
    return array
