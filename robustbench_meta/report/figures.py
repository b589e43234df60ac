"""The figures of a report as files, each drawn as its notebook function in plots.py draws it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from robustbench_meta import statistics
from robustbench_meta.outcomes import Board, Entry, Results
from robustbench_meta.ranking import Standing, rows
from robustbench_meta.report import agreement, curves, frames, gallery, pareto, scatter, strips, surface, trajectories
from robustbench_meta.report.drawing import STYLE, About, Picture, places, save
from robustbench_meta.report.naming import slugs, titles

__all__ = ["About", "Picture", "draw", "save"]


@dataclass(frozen=True)
class Frames:
    """The rows of one board, by what they say."""

    worst: pd.DataFrame
    attacks: pd.DataFrame
    places: pd.DataFrame
    pairs: pd.DataFrame
    tasks: pd.DataFrame


def draw(
    results: Results,
    boards: list[list[Standing]],
    items: Sequence[dict[str, Any]],
    folder: Path,
    mapped: Sequence[trajectories.Map] = (),
    corrupted: Sequence[dict[str, Any]] = (),
) -> list[Picture]:
    """Draw everything there is to draw into `folder` and say what was drawn, in the order of the boards.

    Files are named here alone, by the kind of figure and the slug of what it shows: distinct slugs, distinct files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Picture] = []
    abouts = [one[0].board for one in boards]
    home = dict(zip(abouts, slugs(abouts), strict=True))
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        parts = _frames(results, boards) if boards else {}
        order = places([one.entry for one in board] for board in boards)
        for board, title in zip(boards, titles(abouts), strict=True):
            about = board[0].board
            for kind, figure, said in _of_board(parts[about], board, title, order):
                made.append(save(figure, folder / f"{kind}-{home[about]}", home[about], said))
        groups = surface.groups(pd.concat([parts[about].worst for about in abouts])) if boards else []
        wholes = [whole for whole, _ in groups]
        for (whole, rows), slug, title in zip(groups, slugs(wholes), titles(wholes), strict=True):
            if surface.worth_drawing(rows):
                said = About(surface.caption(rows), f"Accuracy by steps, shots and eps: {title}")
                first = next(about for about in abouts if replace(about, shots=0) == whole)
                made.append(save(surface.draw(rows, title), folder / f"steps-shots-{slug}", home[first], said))
        if gallery.chosen(items):
            made.append(save(gallery.draw(items), folder / "gallery", "", gallery.about(items)))
        if strips.chosen(corrupted):
            made.append(save(strips.draw(corrupted), folder / "corrupted", "", strips.about(corrupted)))
        if mapped:
            made.append(save(trajectories.draw(mapped), folder / "rollouts", "", trajectories.about(mapped)))
    return made


def _frames(results: Results, boards: list[list[Standing]]) -> dict[Board, Frames]:
    """Gather the rows of the boards; task by task only checkpoints, since a method has no task of its own."""
    found = rows(boards)
    worst, attacks = statistics.worst_cases(found), statistics.by_attacks(found)
    places, tasks = frames.measured(statistics.leaderboard(results)), scatter.worst(statistics.per_task(results))
    sources = (worst, attacks, places, statistics.agreements(found), tasks)
    parts = [dict(frames.by_board(frame)) for frame in sources]
    empty = [frame.iloc[:0] for frame in sources]
    return {
        board: Frames(*(part.get(board, none) for part, none in zip(parts, empty, strict=True))) for board in parts[0]
    }


def _of_board(
    rows: Frames, board: list[Standing], title: str, order: Mapping[Entry, int]
) -> Iterator[tuple[str, Figure, About]]:
    """Draw the figures of one board, each entry by its place in `order`: kind, figure and what to say about it."""
    grey, eps = curves.grey(rows.worst), board[0].rank_eps
    met = board[0].board
    reading, what = curves.reading(met), "corruptions" if met.corrupted else "attacks"
    caption = f"Worst case over all {what} against {met.budget}. {curves.about_n(rows.worst)} {reading}{grey}"
    yield "eps", curves.draw(rows.worst, title, order), About(caption, f"Robust accuracy against eps: {title}")
    if len(curves.attacks_of(rows.attacks)) > 1:  # one attack alone is what the figure above shows
        caption = f"The same, attack by attack, each on all tasks (n) that it ran on. {reading}{grey}"
        yield "attacks", curves.draw_attacks(rows.attacks, title, order), About(caption, f"Accuracy by attack: {title}")
    if any(one.robust[2] for one in board):
        caption = f"Clean against worst-case accuracy at {met.at(eps)}. {pareto.CAPTION}"
        about = About(caption, f"Clean against robust accuracy: {title}")
        yield "scatter", pareto.draw(rows.places, title, order), about
    pairs = rows.pairs[rows.pairs["eps"] == eps]
    if len(pairs):
        chosen = agreement.drawn(pairs, rows.worst)
        about = About(agreement.caption(pairs, chosen), f"Which attack fools what the others miss: {title}")
        yield "agreement", agreement.draw(pairs, title, chosen), about
    tasks, first = rows.tasks[rows.tasks["eps"] == eps], [one.entry for one in board if one.rank is not None][:2]
    if len(first) == 2 and scatter.shared_tasks(tasks, first[0], first[1]) > 1:
        caption = f"The two entries with the highest worst case. {scatter.CAPTION}"
        yield "tasks", scatter.draw(tasks, first[0], first[1], title), About(caption, f"Task by task: {title}")
