"""The transfer matrix: as tables for the pages, and as one heat map for each board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from robustbench_meta.outcomes import Results, eps_text
from robustbench_meta.ranking import Standing, apart
from robustbench_meta.report.drawing import INK, MUTED, RULE, STYLE, About, Picture, save, short
from robustbench_meta.report.naming import display_names, entry_label, slugs
from robustbench_meta.report.tables import Report, Transfer, TransferRow
from robustbench_meta.report.values import NONE, NOTHING, Value
from robustbench_meta.transfer import Matrix, Score, matrices

CLEAN = "clean queries"


def tables(results: Results, boards: list[list[Standing]]) -> dict[str, list[Transfer]]:
    """Turn the matrices into text, by the slug of their board; boards without one are left out."""
    names = display_names(results.cells)
    abouts = [one[0].board for one in boards]
    made = {
        slug: [_table(one, names) for one in matrices(results, apart(board))]
        for board, slug in zip(boards, slugs(abouts), strict=True)
    }
    return {slug: those for slug, those in made.items() if those}


def draw(report: Report, folder: Path) -> list[Picture]:
    """Draw one heat map for every board that has a matrix."""
    made = []
    titles = {table.slug: table.title for table in report.tables}
    with matplotlib.rc_context(STYLE):
        for slug, those in report.transfers.items():
            about = About(_CAPTION, f"Transfer of adversarial examples: {titles[slug]}")
            made.append(save(_heat_map(those, titles[slug]), folder / f"transfer-{slug}", slug, about))
    return made


_CAPTION = (
    "Accuracy in % of the learner named above on the examples named at the left, ± the half-width of the 95 % interval "
    "over tasks; the darker the more accurate. Framed: the learner that the examples were made on, under that attack."
)


def _table(matrix: Matrix, names: dict[tuple[str, str], str]) -> Transfer:
    rows = [TransferRow(CLEAN, NOTHING, [_value(matrix.clean[target]) for target in matrix.targets], None)]
    for source in matrix.sources:
        scores = [matrix.scores.get((source, target)) for target in matrix.targets]
        own = next((at for at, score in enumerate(scores) if score is not None and score.own), None)
        attack = source.attack
        if eps_text(source.eps) != eps_text(matrix.eps):
            attack += f" at {eps_text(source.eps)}"
        rows.append(TransferRow(source.learner, attack, [_value(score) for score in scores], own))
    return Transfer(eps_text(matrix.eps), [entry_label(target, names) for target in matrix.targets], rows)


def _value(score: Score | None) -> Value:
    return NONE if score is None else Value(score.mean, score.half, score.n)


def _heat_map(those: list[Transfer], title: str) -> Figure:
    """Draw a panel for each eps, one below the other."""
    rows = [len(one.rows) for one in those]
    columns = max(len(one.columns) for one in those)
    figure = Figure(figsize=(1.25 * columns, 0.55 * sum(rows) + 1.9 * (len(those) - 1)))
    shape = {"height_ratios": rows, "hspace": 1.9 * len(those) / (0.55 * sum(rows))}
    panels = figure.subplots(len(those), 1, squeeze=False, gridspec_kw=shape)[:, 0]
    figure.subplots_adjust(left=0, right=1, top=1, bottom=0)
    for axes, one in zip(panels, those, strict=True):
        _panel(axes, one)
    above = 26 + 2.4 * max(len(short(name, 34)) for name in those[0].columns)  # the slanted names
    panels[0].annotate(
        f"{short(title, 90)}, {_heading(those)}",
        (0, 1),
        (-150, above),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=10.5,
    )
    return figure


def _heading(those: list[Transfer]) -> str:
    return f"ε = {those[0].eps}, n = {those[0].n} tasks" if len(those) == 1 else "by ε"


def _panel(axes: Axes, one: Transfer) -> None:
    for y, row in enumerate(one.rows):
        for x, value in enumerate(row.values):
            _square(axes, (x, y), value, framed=x == row.own)
    axes.set_xlim(-0.5, len(one.columns) - 0.5)
    axes.set_ylim(len(one.rows) - 0.5, -0.5)
    labels = [row.source if row.attack == NOTHING else f"{short(row.source, 34)}\n{row.attack}" for row in one.rows]
    axes.set_yticks(range(len(one.rows)), labels, fontsize=8.5)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(one.columns)), [short(name, 34) for name in one.columns], fontsize=8.5)
    for label in axes.get_xticklabels():
        label.set(rotation=28, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.annotate(
        f"ε {one.eps}: examples made on ↓, scored on →",
        (0, 0),
        (-6, -14),
        xycoords="axes fraction",
        textcoords="offset points",
        color=MUTED,
        fontsize=8.5,
    )


def _square(axes: Axes, at: tuple[int, int], value: Value, *, framed: bool) -> None:
    """Fill one square and write its number in it."""
    x, y = at
    place: tuple[float, float] = (x - 0.48, y - 0.46)
    centre: dict[str, Any] = {"ha": "center", "va": "center"}
    if not value.known:
        axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor="none", edgecolor=RULE, linewidth=0.8))
        axes.text(x, y, "not run", color=MUTED, fontsize=8.5, **centre)
        return
    shade = 0.06 + 0.8 * value.mean
    face = matplotlib.colors.to_hex(matplotlib.colormaps["Blues"](shade))
    line: dict[str, Any] = {"edgecolor": INK, "linewidth": 2.2} if framed else {"edgecolor": "none", "linewidth": 0}
    axes.add_patch(Rectangle(place, 0.96, 0.92, facecolor=face, **line))
    ink = "#ffffff" if shade > 0.7 else "#11151a"
    axes.text(x, y, value.text, color=ink, fontsize=9 if value.firm else 7.5, **centre)
