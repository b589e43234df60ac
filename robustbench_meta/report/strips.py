"""What corruptions look like: one row for each at the highest severity, with what the learner says of every input.

Images are shown as they are, recordings as spectrograms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from robustbench_meta.outcomes import is_corruption
from robustbench_meta.report import gallery, sounds
from robustbench_meta.report.drawing import About, short
from robustbench_meta.report.gallery import QUERIES

CAPTION = (
    "The same queries clean and under each corruption at severity {severity}, as {learner} takes them: ✓ and a solid "
    "frame if the class is right, ✗ and a dashed frame if it is wrong."
)


@dataclass(frozen=True)
class Row:
    """Some queries under one corruption, or none: pictures [n,H,W] or [n,H,W,3] in [0, 1]."""

    name: str
    pictures: np.ndarray
    says: tuple[str, ...]
    labels: tuple[str, ...]


def apart(items: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tell what was attacked from what was corrupted."""
    return [item for item in items if not _is_corrupted(item)], [item for item in items if _is_corrupted(item)]


def _is_corrupted(item: dict[str, Any]) -> bool:
    return is_corruption(str(item.get("norm", "")))


def chosen(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose the corruptions that are drawn: those that one learner met, the first by name, at the highest severity."""
    found = sorted((item for item in items if len(item["labels"])), key=_order)
    return [item for item in found if _learner(item) == _learner(found[0]) and item["eps"] == found[0]["eps"]]


def draw(items: Sequence[dict[str, Any]]) -> Figure:
    """Draw the items that `chosen` returns, clean inputs first."""
    shown = chosen(items)
    queries = min(QUERIES, len(shown[0]["labels"]))
    figure = Figure(figsize=(1.15 * queries + 1.9, 1.42 * (len(shown) + 1)))
    axes = figure.subplots(len(shown) + 1, queries, squeeze=False)
    figure.subplots_adjust(left=1.75 / (1.15 * queries + 1.9), right=0.99, top=0.99, bottom=0.03, hspace=0.4)
    for line, row in zip(axes, rows(items), strict=True):
        for i, one in enumerate(line):
            gallery.show(one, row.pictures[i], row.says[i], row.labels[i])
        gallery.beside(line[0], short(row.name, 20))
    return figure


def rows(items: Sequence[dict[str, Any]]) -> list[Row]:
    """Return what `chosen` returns as rows of pictures, clean inputs first."""
    shown = chosen(items)
    named = [("clean", item, "clean") for item in shown[:1]]
    named += [(str(item["attack"]).replace("-", " "), item, "adversarial") for item in shown]
    return [
        Row(name, _pictures(item, kind), *(tuple(map(str, item[part])) for part in (f"{kind}_predictions", "labels")))
        for name, item, kind in named
    ]


def about(items: Sequence[dict[str, Any]]) -> About:
    """Say what the figure of these items shows."""
    shown = chosen(items)
    caption = CAPTION.format(severity=f"{shown[0]['eps']:.0f}", learner=_learner(shown[0]))
    others = {_learner(item) for item in items} - {_learner(shown[0])}
    caption += f" Not shown: {len(others)} that met them, too." if others else ""
    return About(caption, f"Queries under {len(shown)} corruptions, with predictions")


def _pictures(item: dict[str, Any], kind: str) -> np.ndarray:
    if not sounds.is_sound(item):
        return gallery.pixels(item[kind])
    return sounds.spectrograms(item[kind], sounds.spectrograms(item["clean"])[1])[0]


def _learner(item: dict[str, Any]) -> str:
    """Return a title without what its learner met."""
    return str(item["title"]).rpartition(": ")[0]


def _order(item: dict[str, Any]) -> tuple[float, str, str]:
    return -float(item["eps"]), _learner(item), str(item["attack"])
