"""Tables as plain text, for a terminal and as CSV: nothing in them is a control character or a formula."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pandas as pd

from robustbench_meta.outcomes import Results
from robustbench_meta.report.naming import steps_text, threat_text
from robustbench_meta.report.values import NOTHING, Value
from robustbench_meta.statistics import COLUMNS
from robustbench_meta.untrusted import printable


def csv_text(summary: pd.DataFrame) -> str:
    """Write cells.csv: accuracies in [0, 1], ci95 the half-width."""
    return csv_of(summary[list(COLUMNS)])


def csv_of(table: pd.DataFrame) -> str:
    """Write a table as CSV, what is missing as an empty cell; no text cell can be read as a formula."""
    lines: list[str] = []
    # With "\n" alone as line end Python leaves a bare CR unquoted, and a spreadsheet starts a new row there.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerow(table.columns)
    for row in table.itertuples(index=False, name=None):
        writer.writerow(["" if pd.isna(value) else _harmless(value) for value in row])
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def shown(results: Results, gallery: Sequence[dict[str, Any]]) -> tuple[Results, list[dict[str, Any]]]:
    """Make every text printable before it is shown anywhere, whichever tables and columns there are."""
    given: Any = results
    frames = {one.name: getattr(given, one.name) for one in fields(given) if one.name != "tasks"}  # they hold bits
    made = replace(given, **{name: frame.map(_shown).astype(frame.dtypes) for name, frame in frames.items()})
    return made, [{name: _shown(value) for name, value in item.items()} for item in gallery]


def rich_rows(summary: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows of plain text for a terminal, one row per cell of `summarise`.

    The text holds no control characters, but may look like markup: wrap it in rich.text.Text where it is printed.
    """
    columns = ["checkpoint", "steps", "task", "surface", "attack", "eps", "clean %", "robust %", "n", "seed"]
    columns += ["status", "flags"]
    rows = []
    for cell in summary.to_dict("records"):
        task = f"{cell['family']} {cell['ways']}w{cell['shots']}s"
        eps = threat_text(cell["norm"], cell["eps"])
        clean = _rough(Value(cell["clean"], cell["clean_ci95"], cell["tasks"]))
        robust = _rough(Value(cell["robust"], cell["robust_ci95"], cell["tasks"]))
        row = [str(cell["checkpoint"]), steps_text(cell["steps"]), task, str(cell["surface"]), str(cell["attack"]), eps]
        row += [clean, robust, str(cell["tasks"]), str(cell["seed"]), str(cell["status"]), str(cell["flags"])]
        rows.append(row)
    return columns, [[printable(text) for text in row] for row in rows]


def rank_rows(leaderboard: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows of plain text for a terminal, one row per entry of `leaderboard`."""
    columns = ["rank", "checkpoint", "steps", "task", "surface", "eps", "worst case %", "clean %", "n", "seed", "flags"]
    columns += ["note"]
    rows = []
    for one in leaderboard.to_dict("records"):
        reference = one["reason"] == "reference"
        rank = NOTHING if pd.isna(one["rank"]) else f"{one['rank']}{'=' if one['tied'] else ''}"
        n = NOTHING if pd.isna(one["tasks"]) else str(one["tasks"])
        useless = not reference and not pd.isna(one["robust"]) and not one["better_than_constant"]
        note = "; ".join(filter(None, [one["reason"], "not better than a constant" if useless else ""]))
        task = f"{one['family']} {one['ways']}w{one['shots']}s {one['track']}"
        eps = threat_text(one["norm"], one["rank_eps"])
        worst, clean = (f"{100 * one['robust']:.1f}", f"{100 * one['clean']:.1f}")
        if not reference:
            worst = _rough(Value(one["robust"], one["robust_ci95"], 0))
            clean = _rough(Value(one["clean"], one["clean_ci95"], 0))
        row = [rank, str(one["checkpoint"]), steps_text(one["steps"]), task, str(one["surface"]), eps]
        rows.append([*row, worst, clean, n, str(one["seed"]), one["flags"] or NOTHING, note])
    return columns, [[printable(text) for text in row] for row in rows]


def _rough(value: Value) -> str:
    """Write a value for a terminal, where a first try on one or two tasks wants to see at least their mean."""
    return value.text if value.firm or not value.known else f"{value.percent}, n too small"


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _harmless(value: object) -> object:
    # Also behind a semicolon, where half of Europe's spreadsheets part cells, and full width, as Japan's read it.
    return _FORMULA.sub(r"\1'", value) if isinstance(value, str) else value


_FORMULA = re.compile(r"(^|;\s*)(?=[=+\-@\t\r\n＝＋－＠])")
