"""Clean against robust accuracy, with the front of entries that no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustbench_meta.flags import WIDEST
from robustbench_meta.outcomes import Entry
from robustbench_meta.report import frames
from robustbench_meta.report.drawing import DOTTED, INK, MUTED, REST, SHADE, Look, looks, rest_text, short
from robustbench_meta.report.placing import diagonal, extent, label_points

PALE = 0.35
CAPTION = (
    "Dotted diagonal: robust as high as clean, where attacks cost nothing. Shaded: no better than a predictor that "
    "always gives the same class. Line: the Pareto front of the means, the ranked entries that no other equals or "
    "beats in both. Pale: some other entry is significantly better in both, by 95 % intervals taken as if unpaired, "
    "which errs towards not pale; no correction for the number of pairs. Hollow: without a rank, so no part of the "
    "front. Bars: 95 % intervals over tasks; none where n is too small for one."
)


@dataclass(frozen=True)
class Place:
    """Where an entry stands, in percent with half-widths, infinite for one task; `ranked` entries make the front."""

    entry: Entry
    x: float
    y: float
    bar_x: float
    bar_y: float
    ranked: bool

    @property
    def bars(self) -> tuple[float, float]:
        """The half-widths as drawn: 0 where they are too wide to say anything."""
        return (self.bar_x if self.bar_x <= 100 * WIDEST else 0, self.bar_y if self.bar_y <= 100 * WIDEST else 0)


def places(rows: pd.DataFrame) -> list[Place]:
    """Return every entry that was measured at the eps of the ranking, from rows of `leaderboard`."""
    made = []
    for entry, mine in frames.by_entry(rows):
        row = frames.records(mine)[0]
        if not pd.isna(row["robust"]) and not pd.isna(row["clean"]):
            bars = [math.inf if pd.isna(row[name]) else 100 * row[name] for name in ("clean_ci95", "robust_ci95")]
            ranked = not pd.isna(row["rank"])
            made.append(Place(entry, 100 * row["clean"], 100 * row["robust"], bars[0], bars[1], ranked))
    return made


def front(found: list[Place]) -> list[Place]:
    """Return the ranked places that no other ranked one equals or beats in both, from left to right.

    Of places that are equal in both, all are on the front.
    """
    ranked = [one for one in found if one.ranked]
    keep = [
        one for one in ranked if not any(o.x >= one.x and o.y >= one.y and (o.x, o.y) != (one.x, one.y) for o in ranked)
    ]
    return sorted(keep, key=lambda one: (one.x, -one.y))


def beaten(one: Place, found: list[Place]) -> bool:
    """Say whether some ranked place is better in both by more than the intervals of the differences.

    The half-width of a difference is taken as that of unpaired samples, which is too wide where tasks are shared and
    entries find the same ones hard.
    """
    return any(
        other.x - one.x > math.hypot(other.bar_x, one.bar_x) and other.y - one.y > math.hypot(other.bar_y, one.bar_y)
        for other in found
        if other.ranked
    )


def draw(rows: pd.DataFrame, title: str, order: Mapping[Entry, int]) -> Figure:
    """Draw one board, from rows of `leaderboard`; `order` holds the place of each entry among colours and markers."""
    found, all_looks, names = places(rows), looks(rows, order), frames.labels(rows)
    board, figure = frames.board_of(rows), Figure(figsize=(7.0, 4.8))
    constant, constant_text = 100 * board.constant, board.constant_text
    axes = figure.add_subplot()
    _field(axes, found, constant)
    floor = axes.text(axes.get_xlim()[1], constant - 0.8, "no better than a constant ", ha="right", va="top")
    floor.set(color=MUTED, fontsize=8.5)
    axes.plot([constant], [constant], marker="*", markersize=12, color=INK, linestyle="none", zorder=4)
    points = [(constant, constant, f"constant predictor ({constant_text}, {constant_text})", INK)]
    best = front(found)
    boxes = _line(axes, best)
    for one in found:
        look = all_looks[one.entry]
        colour = look.colour if look.named or one not in best else INK
        _mark(axes, one, look, colour, pale=beaten(one, found))
        if look.named or one in best:
            (x, y), (wide, high) = (one.x, one.y), one.bars
            boxes += [(x - wide, y, x + wide, y), (x, y - high, x, y + high)]
        if one in best or len(found) <= len([each for each in all_looks.values() if each.named]):
            points.append((one.x, one.y, names[one.entry], colour))
    axes.set_xlabel("clean accuracy, %")
    axes.set_ylabel(f"worst-case accuracy at {board.at(frames.ranking_eps(rows))}, %")
    axes.tick_params(length=0)
    axes.grid()
    rest = rest_text(all_looks)
    axes.set_title(short(title, 90) + (f"; named: the front of {len(found)}" if rest else ""), pad=12)
    figure.tight_layout()
    boxes.append(extent(axes, floor))
    label_points(axes, points, [*boxes, *diagonal(axes, boxes, "robust = clean")])
    return figure


def _field(axes: Axes, found: list[Place], constant: float) -> None:
    """Set the ranges, shade what a constant predictor reaches and draw the line of equal values."""
    right = max([constant, *(one.x + one.bars[0] for one in found)]) + 6
    high = max([constant, *(one.y + one.bars[1] for one in found)]) + 8
    left = min([constant, *(one.x for one in found)]) - 5
    axes.set_xlim(max(0, left), min(102, right))
    axes.set_ylim(-2, min(102, high))
    axes.axhspan(-2, constant, color=SHADE, zorder=0, linewidth=0)
    axes.plot([0, 102], [0, 102], color=MUTED, linewidth=1, linestyle=DOTTED)


def _line(axes: Axes, best: list[Place]) -> list[tuple[float, ...]]:
    """Draw the front as the edge of what its entries dominate, out to the axes; return boxes along it and its name."""
    if not best:
        return []
    (left, _), (low, _) = axes.get_xlim(), axes.get_ylim()
    corners = [(left, best[0].y)]
    for one in best:
        corners += [(corners[-1][0], one.y), (one.x, one.y)]
    corners.append((best[-1].x, low))
    axes.plot(*zip(*corners, strict=True), color=INK, linewidth=1.1, alpha=0.75, zorder=1.8)
    look: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": "left",
        "va": "bottom",
        "color": MUTED,
        "fontsize": 8.5,
    }
    name = axes.annotate("front", (left, best[0].y), (5, 2), **look)
    sides = [(min(a, c), min(b, d), max(a, c), max(b, d)) for (a, b), (c, d) in pairwise(corners)]
    return [*sides, extent(axes, name)]


def _mark(axes: Axes, one: Place, look: Look, colour: str, *, pale: bool) -> None:
    face = colour if one.ranked else "white"
    style: dict[str, Any] = {"fmt": look.marker if look.named else "o", "color": colour}
    style |= {"markerfacecolor": face, "markeredgecolor": "white" if one.ranked else colour}
    style |= {"markeredgewidth": 0.6 if one.ranked else 1.2, "markersize": 6.5 if colour != REST else 4.5}
    bars = one.bars if colour != REST else (None, None)
    axes.errorbar(
        *(one.x, one.y),
        xerr=bars[0],
        yerr=bars[1],
        elinewidth=1.1,
        capsize=3 if colour != REST else 0,
        alpha=PALE if pale else 1,
        zorder=3 if colour != REST else 2,
        **style,
    )
