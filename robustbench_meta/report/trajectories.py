"""Attacked rollouts to look at: the ways that a learner took, clean and attacked, and what they earned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from robustbench_meta.intervals import interval
from robustbench_meta.report.drawing import INK, REST, RIGHT, RULE, WRONG, About, short

BLOCKS, SHOTS = 4, 5  # items that are drawn, and rollouts of each
EDGE = 1.05  # of what is drawn at least, around the origin


@dataclass(frozen=True)
class Course:
    """One rollout: its ways [H+1,2], circles of centre and radius, and where a body is at both ends [2,J,2]."""

    clean: np.ndarray
    attacked: np.ndarray
    goal: np.ndarray
    obstacles: np.ndarray
    bodies: np.ndarray
    succeeded: bool
    withstood: bool  # it succeeded under the attack

    @property
    def paths(self) -> tuple[str, str, str, str]:
        """Write both ways, and both bodies, as the d of an SVG path, y downwards."""
        return _path(self.clean), _path(self.attacked), _path(self.bodies[0]), _path(self.bodies[1])

    @property
    def verdict(self) -> str:
        """Say how it ended, without and with the attack."""
        return f"{_mark(self.succeeded)} clean, {_mark(self.withstood)} attacked"


@dataclass(frozen=True)
class Map:
    """Some rollouts of one cell, drawn from -edge to edge."""

    title: str
    courses: tuple[Course, ...]
    edge: float


@dataclass(frozen=True)
class Outings:
    """What the rollouts of one cell earned: success in % and return, mean and half-width, over n tasks."""

    title: str
    success: tuple[tuple[float, float], tuple[float, float]]  # clean, attacked
    earned: tuple[tuple[float, float], tuple[float, float]]
    n: int


def is_course(item: dict[str, Any]) -> bool:
    return "goal" in item


def maps(items: Sequence[dict[str, Any]]) -> tuple[Map, ...]:
    """Choose what is drawn: the largest eps first."""
    found = [item for item in items if is_course(item) and len(item["labels"])]
    order = sorted(found, key=lambda item: (-float(item["eps"]), str(item["attack"]), str(item["title"])))
    return tuple(_map(item) for item in order[:BLOCKS])


def outings(cells: pd.DataFrame, tasks: pd.DataFrame, titles: dict[str, str]) -> tuple[Outings, ...]:
    """Gather success and return of every cell of rollouts, in the order of the cells; `titles` by key."""
    if "clean_return" not in tasks:  # results of one's own need not have it
        return ()
    rows = dict(iter(tasks[tasks["clean_return"].notna()].groupby("key")))
    made = []
    for key in cells["key"]:
        if key in rows:
            mine = rows[key]
            bits = [100 * np.array([text.count("1") / len(text) for text in mine[name]]) for name in VERDICTS]
            returns = [mine[name].to_numpy() for name in ("clean_return", "attacked_return")]
            parts = [interval(values) for values in (*bits, *returns)]
            made.append(Outings(titles[key], (parts[0], parts[1]), (parts[2], parts[3]), len(mine)))
    return tuple(made)


VERDICTS = ("clean", "survived")


def draw(shown: Sequence[Map]) -> Figure:
    """Draw a row of rollouts for each map."""
    columns = max(len(one.courses) for one in shown)
    figure = Figure(figsize=(1.75 * columns, 2.25 * len(shown)))
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, one in zip(parts, shown, strict=True):
        axes = part.subplots(1, columns, squeeze=False)[0]
        part.subplots_adjust(left=0.01, right=0.99, top=0.84, bottom=0.1, wspace=0.06)
        part.suptitle(short(one.title, 20 + 14 * columns), x=0.012, y=0.97, ha="left", fontsize=10.5)
        for place in axes:
            place.set_axis_off()
        for place, course in zip(axes, one.courses, strict=False):
            ways = _draw(place, course, one.edge)
    parts[0].legend(
        *(ways, ("clean", "attacked")),
        loc="upper right",
        bbox_to_anchor=(0.995, 1.0),
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    return figure


def about(shown: Sequence[Map]) -> About:
    """Say what the figure of these maps shows."""
    caption = (
        "Rollouts from the dot to the ring: solid the way without an attack, dashed the way under attack. It succeeds "
        "whose square, where it ends, lies in the ring, and who touched no obstacle and, of arms, has come to rest. "
        "Discs are obstacles; lines from the origin are the arm at the end. ✓: the rollout succeeded, ✗: it did not. "
        "An attack ends where a rollout fails; where it fails to, it gives back what led nearest to failure. In "
        "environments of others it goes on from step to step, whatever comes of it."
    )
    return About(caption, f"Clean and attacked trajectories of {len(shown)} sets of rollouts")


def _map(item: dict[str, Any]) -> Map:
    made = tuple(
        Course(
            clean=item["clean"][i],
            attacked=item["adversarial"][i],
            goal=item["goal"][i],
            obstacles=item["obstacles"][i],
            bodies=item["bodies"][i],
            succeeded=int(item["clean_predictions"][i]) == int(item["labels"][i]),
            withstood=int(item["adversarial_predictions"][i]) == int(item["labels"][i]),
        )
        for i in range(min(SHOTS, len(item["labels"])))
    )
    places = [np.abs(part).max(initial=0.0) for one in made for part in (one.clean, one.attacked, one.bodies)]
    return Map(str(item["title"]), made, max(EDGE, *(1.05 * float(place) for place in places)))


def _draw(axes: Axes, course: Course, edge: float) -> list[Line2D]:
    """Draw one rollout, and return the lines of its ways, without and with the attack."""
    axes.set_axis_on()
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge), xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE, linewidth=0.6)
    for x, y, radius in course.obstacles:
        axes.add_patch(Circle((x, y), radius, facecolor=REST, edgecolor="none"))
    axes.add_patch(Circle(tuple(course.goal[:2]), course.goal[2], facecolor="none", edgecolor=INK, linewidth=1.0))
    for body, colour in zip(course.bodies, (RIGHT, WRONG), strict=True):
        axes.plot(*body.T, color=colour, linewidth=2.4, alpha=0.35, solid_capstyle="round")
    ways = axes.plot(*course.clean.T, color=RIGHT, linewidth=1.3)
    ways += axes.plot(*course.attacked.T, color=WRONG, linewidth=1.3, linestyle=(0, (3, 1.5)))
    axes.plot(*course.clean[0], "o", color=INK, markersize=3)
    for way, colour in ((course.clean, RIGHT), (course.attacked, WRONG)):
        axes.plot(*way[-1], "s", color=colour, markersize=3)
    axes.set_xlabel(course.verdict, fontsize=8, labelpad=3)
    return ways


def _mark(good: bool) -> str:
    return "✓" if good else "✗"


def _path(way: np.ndarray) -> str:
    return "M" + "L".join(f"{x:.3f} {-y:.3f}" for x, y in way) if len(way) else ""
