"""A gallery: clean inputs, perturbations and adversarial inputs, with what the learner says of them.

Images are shown as they are, recordings as spectrograms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustbench_meta.report import sounds
from robustbench_meta.report.drawing import INK, RIGHT, RULE, WRONG, About, short
from robustbench_meta.report.sentences import ANSWERS

BLOCKS, QUERIES = 6, 6  # items that are drawn, and queries of each
LONGEST_NAME = 13  # of a class, in letters
STILL = 1e-6  # inputs that moved less did not move


@dataclass(frozen=True)
class Views:
    """The pictures of one item, each [n,H,W] or [n,H,W,3] in [0, 1]: clean, what was added, adversarial."""

    clean: np.ndarray
    moved: np.ndarray
    adversarial: np.ndarray
    still: tuple[bool, ...]  # nothing was added
    told: str  # of what was added


def views(item: dict[str, Any]) -> Views:
    """Make the pictures of one item; what was added is amplified in images, and on the recordings' scale in sounds."""
    still = tuple(np.abs(item["adversarial"] - item["clean"]).reshape(len(item["labels"]), -1).max(axis=1) <= STILL)
    if sounds.is_sound(item):
        clean, loudest = sounds.spectrograms(item["clean"])
        moved, adversarial = (
            sounds.spectrograms(waves, loudest)[0]
            for waves in (item["adversarial"] - item["clean"], item["adversarial"])
        )
        return Views(clean, moved, adversarial, still, "perturbation")
    clean, adversarial = pixels(item["clean"]), pixels(item["adversarial"])
    largest = float(np.abs(adversarial - clean).max())
    factor = max(1, math.floor(0.5 / largest)) if largest > STILL else 1
    told = f"perturbation \N{MULTIPLICATION SIGN} {factor}"
    return Views(clean, np.clip(0.5 + factor * (adversarial - clean), 0, 1), adversarial, still, told)


def draw(items: Sequence[dict[str, Any]]) -> Figure:
    """Draw a block for each of the items that `chosen` returns."""
    shown = chosen(items)
    columns = max(min(QUERIES, len(item["labels"])) for item in shown)
    figure = Figure(figsize=(1.15 * columns + 1.3, 4.2 * len(shown)))
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
    if any(map(sounds.is_sound, chosen(items))):
        caption += (
            " Recordings are spectrograms, time to the right, frequency upwards, black as loud as the clean ones get,"
            f" white {sounds.DEEPEST:.0f} dB below, also of what was added."
        )
    left = len([item for item in items if len(item["labels"])]) - len(chosen(items))
    caption += f" Sets not drawn: {left}." if left else ""
    return About(caption, "Clean images, perturbations and adversarial images with predictions")


def _block(part: Any, item: dict[str, Any], columns: int) -> None:
    seen = views(item)
    grid = part.subplots(3, columns, squeeze=False)
    part.subplots_adjust(left=1.15 / (1.15 * columns + 1.3), right=0.99, top=0.9, bottom=0.07, hspace=0.38, wspace=0.08)
    part.suptitle(short(str(item["title"]), 30 + 12 * columns), x=0.012, y=0.965, ha="left", fontsize=10.5)
    for axes in grid.flat:
        axes.set_axis_off()
    for i in range(min(columns, len(item["labels"]))):
        label, says, says_attacked = (str(item[part][i]) for part in ANSWERS)
        rows: list[tuple[np.ndarray, str]] = [
            (seen.clean[i], says),
            (seen.moved[i], ""),
            (seen.adversarial[i], says_attacked),
        ]
        if seen.still[i]:
            word = "withstood" if says_attacked == label else "wrong\nas it is"
            place: dict[str, Any] = {"transform": grid[1, i].transAxes, "ha": "center", "va": "center"}
            ink = INK if sounds.is_sound(item) else "#ffffff"
            grid[1, i].text(0.5, 0.5, word, color=ink, fontsize=9, **place)
        for axes, (image, says) in zip(grid[:, i], rows, strict=True):
            show(axes, image, says, label)
    for axes, text in zip(grid[:, 0], ("clean", seen.told.replace(" ", "\n", 1), "adversarial"), strict=True):
        beside(axes, text)


def named(item: dict[str, Any]) -> dict[str, Any]:
    """Call the classes of an item by their names, if it has them: labels and predictions become texts."""
    if "classes" not in item:
        return item
    names = np.asarray(item["classes"])
    return item | {part: names[item[part]] for part in ANSWERS}


def beside(axes: Axes, text: str) -> None:
    """Write what a row shows to its left."""
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(text, (0, 0.5), (-12, 0), ha="right", va="center", fontsize=9, **place)


def show(axes: Axes, image: np.ndarray, says: str, label: str) -> None:
    """Draw one picture [H,W] or [H,W,3], framed by whether what the learner says of it, if anything, is right."""
    axes.set_axis_on()
    # "none" keeps the pixels as they are in the file; a viewer enlarges them.
    square = image.shape[0] == image.shape[1]  # a spectrogram has no shape of its own
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="none", aspect="equal" if square else "auto")
    axes.set_xticks([])
    axes.set_yticks([])
    right = says == label
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(RULE if not says else RIGHT if right else WRONG)
        spine.set_linewidth(0.6 if not says else 1.8)
        spine.set_linestyle("-" if not says or right else (0, (3, 1.5)))
    if says:
        gap = " " if max(len(says), len(label)) <= 3 else "\n"
        says, label = short(says, LONGEST_NAME), short(label, LONGEST_NAME)
        axes.set_xlabel(f"✓ {says}" if right else f"✗ {says},{gap}is {label}", fontsize=9, labelpad=3)


def pixels(values: Any) -> np.ndarray:
    """Return [n, H, W, 3] or [n, H, W] in [0, 1] from [n, C, H, W] or [n, H, W], floats or bytes."""
    array = np.asarray(values)
    array = array / 255.0 if array.dtype == np.uint8 else array.astype(float)
    if array.ndim == 4:
        array = array[:, 0] if array.shape[1] != 3 else array.transpose(0, 2, 3, 1)
    return array
