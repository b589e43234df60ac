"""What common corruptions leave: a table of means for every board of them, beside its worst case."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from robustbench_meta.outcomes import Results
from robustbench_meta.ranking import Standing
from robustbench_meta.report.naming import row_names, slugs, steps_text
from robustbench_meta.report.tables import Corrupted, CorruptedRow, Report
from robustbench_meta.report.values import NONE, Value
from robustbench_meta.statistics import MEAN, WORST_CASE, corrupted, mean_difference


@dataclass(frozen=True)
class _Parts:
    """The rows of one entry, by part and severity (0: over all)."""

    rows: dict[tuple[str, int], dict[Hashable, Any]]

    def accuracy(self, part: str, severity: int = 0) -> Value:
        row = self.rows.get((part, severity))
        return NONE if row is None else Value(row["accuracy"], row["ci95"], row["tasks"])

    def drop(self, part: str) -> Value:
        row = self.rows.get((part, 0))
        return NONE if row is None else Value(row["drop"], row["drop_ci95"], row["tasks"])


def tables(results: Results, boards: list[list[Standing]]) -> dict[str, Corrupted]:
    """Turn the means of boards of corruptions into text, by the slug of their board."""
    names, found = row_names(results.cells, boards), dict[str, Corrupted]()
    for board, slug in zip(boards, slugs([one[0].board for one in boards]), strict=True):
        if board[0].board.corrupted:
            made = _table(board, names)
            found |= {slug: made} if made.rows else {}
    return found


def shown(report: Report, found: dict[str, Corrupted]) -> Report:
    """Put the tables of corruptions into a report, and the highest mean before the highest worst case."""
    made = [replace(one, foremost=_foremost(found[one.slug])) if one.slug in found else one for one in report.tables]
    return replace(report, tables=made, corrupted=found)


def _foremost(one: Corrupted) -> str:
    best = max((row for row in one.rows if row.mean.firm), key=lambda row: row.mean.mean, default=None)
    if best is None:
        return ""
    return f"highest mean corruption accuracy: {best.name}, {best.mean.text} %, n = {best.n}"


def _table(board: list[Standing], names: dict[tuple[str, str], str]) -> Corrupted:
    rows = corrupted([board])
    severities = sorted({int(one) for one in rows["severity"].dropna()})
    kinds = sorted(set(rows["part"]) - {"clean", MEAN, WORST_CASE})
    made = []
    for one in board:
        entry = one.entry
        mine = rows[(rows["weights"] == entry.weights) & (rows["checkpoint"] == entry.checkpoint)]
        mine = mine[mine["steps"].isna() if entry.steps is None else mine["steps"] == entry.steps]
        if mine.empty:
            continue
        parts = _Parts(
            {(row["part"], 0 if pd.isna(row["severity"]) else row["severity"]): row for row in mine.to_dict("records")}
        )
        reference, difference = mean_difference(one, board)
        made.append(
            CorruptedRow(
                name=names[entry.checkpoint, entry.weights],
                steps=steps_text(entry.steps),
                clean=parts.accuracy("clean"),
                mean=parts.accuracy(MEAN),
                drop=parts.drop(MEAN),
                worst=parts.accuracy(WORST_CASE, severities[-1]),
                reference="" if reference is None else names[reference.checkpoint, reference.weights],
                difference=Value(*difference, signed=True),
                severities=[parts.accuracy(MEAN, severity) for severity in severities],
                kinds=[parts.accuracy(kind) for kind in kinds],
                missing=int(mine["missing"].iloc[0]),
            )
        )
    return Corrupted(severities, kinds, made)
