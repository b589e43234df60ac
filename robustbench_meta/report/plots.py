"""One line from a DataFrame to a figure, for notebooks; the report draws its figures through the same files.

    from robustbench_meta import statistics, store
    from robustbench_meta.report import plots
    results = store.read(Path("results"))
    plots.robustness_curves(statistics.worst_case(results))

Every function returns a matplotlib Figure, which a notebook shows and `save` writes. A figure shows one board, since
tracks are never mixed: of a frame with several, `board` names one of `boards(frame)`. What cannot be drawn raises
InputError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from robustbench_meta.outcomes import Entry, eps_text
from robustbench_meta.report import agreement as agreements
from robustbench_meta.report import curves, drawing, frames, scatter
from robustbench_meta.report import gallery as galleries
from robustbench_meta.report import pareto as fronts
from robustbench_meta.report import surface as surfaces
from robustbench_meta.report.naming import slugs

WORST = ("eps", "tasks", "clean", "clean_ci95", "robust", "robust_ci95", "complete")
ITEM = ("title", "attack", "eps", "clean", "adversarial", "labels", "clean_predictions", "adversarial_predictions")


def boards(frame: pd.DataFrame) -> list[str]:
    """Name the boards of a frame, as `board` takes them."""
    frames.need(frame, (), "statistics.worst_case")
    return slugs([board for board, _ in frames.by_board(frame)])


def robustness_curves(worst_case: pd.DataFrame, board: str | None = None) -> Figure:
    """Draw worst-case accuracy against eps, with bands, from `statistics.worst_case(results)`."""
    rows, title = frames.one_board(worst_case, board, WORST, "statistics.worst_case")
    with _style():
        return curves.draw(rows, title, drawing.places_of(worst_case))


def attack_curves(by_attack: pd.DataFrame, board: str | None = None) -> Figure:
    """Draw accuracy against eps, a panel for each attack, from `statistics.by_attack(results)`."""
    columns = (*WORST, "attack", "transferred")
    rows, title = frames.one_board(by_attack, board, columns, "statistics.by_attack")
    if not curves.attacks_of(rows):
        frames.refuse("frame: holds adversarial test sets alone; legal: rows of at least one attack of one's own")
    with _style():
        return curves.draw_attacks(rows, title, drawing.places_of(by_attack))


def surface(worst_case: pd.DataFrame, board: str | None = None) -> Figure:
    """Draw accuracy by steps, shots and eps from `statistics.worst_case(results)`; shots are no matter of the board.

    `board` is the slug of a board without its shots, as the error names it.
    """
    frames.need(worst_case, WORST, "statistics.worst_case")
    rows, title = frames.choose(surfaces.groups(worst_case), board)
    with _style():
        return surfaces.draw(rows, title)


def pareto(leaderboard: pd.DataFrame, board: str | None = None) -> Figure:
    """Draw clean against robust accuracy and the front of both, from `statistics.leaderboard(results)`."""
    columns = ("rank", "rank_eps", "clean", "clean_ci95", "robust", "robust_ci95")
    entries = _entries_alone(leaderboard)
    rows, title = frames.one_board(entries, board, columns, "statistics.leaderboard")
    if not fronts.places(rows):
        frames.refuse("frame: no entry was measured at the eps of the ranking; legal: a board with at least one")
    with _style():
        return fronts.draw(rows, title, drawing.places_of(entries))


def attack_agreement(agreement: pd.DataFrame, board: str | None = None, eps: float | None = None) -> Figure:
    """Draw which attack fools what the others miss, from `statistics.agreement(results)`, at the largest eps."""
    columns = ("eps", "attack", "other", "correct", "fooled", "only")
    rows, title = frames.one_board(agreement, board, columns, "statistics.agreement")
    rows = _at(rows, eps)
    with _style():
        return agreements.draw(rows, title, agreements.drawn(rows))


def task_scatter(per_task: pd.DataFrame, a: str, b: str, board: str | None = None, eps: float | None = None) -> Figure:
    """Draw checkpoint `a` against `b` task by task, from `statistics.per_task(results)`, at the largest eps."""
    columns = ("eps", "attack", "task", "clean", "robust")
    rows, title = frames.one_board(per_task, board, columns, "statistics.per_task")
    rows = scatter.worst(rows)
    if rows.empty:
        frames.refuse("frame: no entry met every attack that its board requires; legal: rows of attack 'worst case'")
    rows = _at(rows, eps)
    first, second = _named(rows, a, "a"), _named(rows, b, "b")
    if not scatter.shared_tasks(rows, first, second):
        frames.refuse(f"a, b: {a!r} and {b!r} share no task; legal: two entries measured on the same tasks")
    with _style():
        return scatter.draw(rows, first, second, title)


def gallery(items: Sequence[dict[str, Any]]) -> Figure:
    """Draw clean and adversarial images with predictions, from `store.read_gallery(folder)`."""
    for item in items:
        lacking = [name for name in ITEM if name not in item]
        if lacking:
            frames.refuse(f"gallery: an item lacks {', '.join(lacking)}; legal: what store.read_gallery returns")
    items = [galleries.named(item) for item in items]
    if not galleries.chosen(items):
        frames.refuse("gallery: no picture in it; legal: what store.read_gallery returns of an attacked run")
    with _style():
        return galleries.draw(items)


def save(figure: Figure, path: str | Path) -> tuple[Path, Path]:
    """Write a figure as PATH.svg and PATH.png, the same bytes every time; return both."""
    made = drawing.save(figure, Path(path), "", drawing.About("", ""))
    return made.svg, made.png


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(drawing.STYLE):
        yield


def _entries_alone(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """Leave out the rows of the constant predictor, so that a board of nothing else is refused as empty."""
    return frames.measured(leaderboard) if {"weights", "checkpoint"} <= set(leaderboard) else leaderboard


def _at(rows: pd.DataFrame, eps: float | None) -> pd.DataFrame:
    """Return the rows at one eps, the largest at which the most entries were measured unless it is given."""
    counts = {float(at): len(frames.by_entry(rows[rows["eps"] == at])) for at in rows["eps"].unique()}
    chosen = max(counts, key=lambda at: (at > 0, counts[at], at)) if eps is None else round(eps, 9)
    if chosen not in counts:
        frames.refuse(f"eps: {eps} is not in the frame; legal: {', '.join(map(eps_text, sorted(counts)))}")
    return rows[rows["eps"] == chosen]


def _named(rows: pd.DataFrame, name: str, which: str) -> Entry:
    """Find the entry that figures call `name`."""
    every = frames.labels(rows)
    found = [entry for entry, label in every.items() if label == name]
    if len(found) != 1:
        refused = "is not in the frame" if not found else "names several entries"
        frames.refuse(f"{which}: {name!r} {refused}; legal: {', '.join(sorted(every.values()))}")
    return found[0]
