"""Where names stand in a figure: beside what they name, and on nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from robustbench_meta.report.drawing import MUTED, short


def labels_right(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the name of each line (x, y, name, colour) beside its end, moved apart where names would overlap."""
    low, high = axes.get_ylim()
    height = axes.figure.get_size_inches()[1] * 0.77  # type: ignore[union-attr]
    gap = (high - low) * 0.165 / height
    ends = sorted(ends, key=lambda end: (end[1], end[2]))
    wanted = spread([end[1] for end in ends], gap, low + gap / 3)
    edge = axes.get_xlim()[1]
    for (x, y, text, colour), place in zip(ends, wanted, strict=True):
        to = edge * 1.035
        axes.plot([x + 0.012 * edge, to], [y, place], color=colour, linewidth=0.7, clip_on=False, alpha=0.8)
        axes.text(to + 0.008 * edge, place, short(text, 44), va="center", fontsize=9)


def width(axes: Axes) -> float:
    """Return the width of the axes in inches."""
    return float(axes.get_position().width * axes.figure.get_size_inches()[0])  # type: ignore[union-attr]


def spread(wanted: list[float], gap: float, low: float) -> list[float]:
    """Move sorted places apart to at least `gap`, none below `low`, each cluster about where it wanted to be."""
    groups: list[list[float]] = []  # centre, count
    for place in wanted:
        groups.append([max(place, low), 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            (b, m), (a, n) = groups.pop(), groups.pop()
            centre = max((a * n + b * m) / (n + m), low + gap * (n + m - 1) / 2)
            groups.append([centre, n + m])
    return [centre + gap * (i - (count - 1) / 2) for centre, count in groups for i in range(int(count))]


def diagonal(axes: Axes, bars: Sequence[tuple[float, ...]], text: str) -> list[tuple[float, ...]]:
    """Name the line of equal values where it meets no bar; return boxes along line and name."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    start, end = max(left, low), min(right, high)
    (x0, y0), (x1, y1) = axes.transData.transform([(start, start), (end, end)])
    look: dict[str, Any] = {"rotation": math.degrees(math.atan2(y1 - y0, x1 - x0)), "rotation_mode": "anchor"}
    look |= {"textcoords": "offset points", "ha": "right", "va": "top", "color": MUTED, "fontsize": 8.5}
    taken = []
    for part in (1, 0.85, 0.7, 0.55, 0.4):
        at = start + part * (end - start)
        name = axes.annotate(text, (at, at), (-4, -5), **look)
        taken.append((sum(_overlap(extent(axes, name), bar) for bar in bars), -part, name))
    taken.sort(key=lambda one: one[:2])
    for *_, name in taken[1:]:
        name.remove()
    step = (end - start) / 60
    along = [start + step * i for i in range(60)]
    return [extent(axes, taken[0][2]), *((at, at, at + step, at + step) for at in along)]


def extent(axes: Axes, text: Text) -> tuple[float, ...]:
    """Return where a text stands, in data units (x0, y0, x1, y1)."""
    box = Text.get_window_extent(text, FigureCanvasAgg(cast(Figure, axes.figure)).get_renderer())
    return tuple(axes.transData.inverted().transform([(box.x0, box.y0), (box.x1, box.y1)]).ravel())


def label_points(
    axes: Axes, points: Sequence[tuple[float, float, str, str]], bars: Sequence[tuple[float, ...]]
) -> None:
    """Name points (x, y, name, colour) beside them, at the nearest place where a name covers nothing else.

    `bars` are boxes in data units (x0, y0, x1, y1); a name that had to move away gets a line to its point.
    """
    renderer = FigureCanvasAgg(cast(Figure, axes.figure)).get_renderer()
    frame = axes.get_window_extent(renderer)
    box, names = (frame.x0, frame.y0, frame.x1, frame.y1), list[tuple[float, ...]]()
    taken: list[tuple[float, ...]] = []
    for x, y, *_ in points:
        at = axes.transData.transform((x, y))
        taken.append((at[0] - 7, at[1] - 7, at[0] + 7, at[1] + 7))
    for x0, y0, x1, y1 in bars:
        (left, low), (right, high) = axes.transData.transform([(x0, y0), (x1, y1)])
        taken.append((left - 2, low - 2, right + 2, high + 2))
    for x, y, text, colour in sorted(points, key=lambda point: (-point[1], point[0])):
        best: tuple[float, Any, tuple[float, ...]] | None = None
        for dx, dy in _AROUND:
            note = _note(axes, text, (x, y), (dx, dy), colour)
            note.update_positions(renderer)
            area = Text.get_window_extent(note, renderer)
            here = (area.x0, area.y0, area.x1, area.y1)
            cost = sum(_overlap(here, other) for other in taken) + 40 * _outside(here, box) + 2 * max(0, abs(dy) - 15)
            cost += 100 * sum(_overlap(one, other) for one in _leader(axes, (x, y), here, dy) for other in names)
            if best is not None and cost >= best[0] - 1e-9:
                note.remove()
                continue
            if best is not None:
                best[1].remove()
            best = (cost, note, here)
        assert best is not None
        names.append(best[2])
        taken += [best[2], *_leader(axes, (x, y), best[2], best[1].xyann[1])]


def _note(axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], colour: str) -> Any:
    arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 5}
    look: dict[str, Any] = {"ha": "left" if offset[0] > 0 else "right", "va": "center", "fontsize": 8.5}
    look |= {"textcoords": "offset points", "arrowprops": arrow if abs(offset[1]) > _NEAR else None}
    return axes.annotate(short(text, 40), at, offset, **look)


def _leader(axes: Axes, at: tuple[float, float], name: tuple[float, ...], dy: float) -> list[tuple[float, ...]]:
    """Return small boxes along the line from a name to its point; none for a name that stands beside it."""
    if abs(dy) <= _NEAR:
        return []
    (x, y), centre = axes.transData.transform(at), ((name[0] + name[2]) / 2, (name[1] + name[3]) / 2)
    made: list[tuple[float, ...]] = []
    for part in range(1, 12):
        share = part / 12
        px, py = x + share * (centre[0] - x), y + share * (centre[1] - y)
        if not (name[0] <= px <= name[2] and name[1] <= py <= name[3]):
            made.append((px - 2, py - 2, px + 2, py + 2))
    return made


def _outside(here: tuple[float, ...], box: tuple[float, ...]) -> float:
    """Return by how many pixels a name leaves the axes."""
    return sum(max(0.0, gap) for gap in (box[0] - here[0], here[2] - box[2], box[1] - here[1], here[3] - box[3]))


_NEAR = 15  # points up or down from which on a name has a line to its point
# Offsets in points at which a name may stand, near ones first.
_AROUND = [(side * dx, dy) for dx, dy in ((10, 8), (10, -8), (12, 0)) for side in (1, -1)]
_AROUND += [(side * 16, dy) for dy in (20, -20, 32, -32, 44, -44, 56, 68, 80) for side in (1, -1)]


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
