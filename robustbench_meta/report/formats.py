"""A leaderboard for papers and programs: LaTeX, BibTeX, CSV and JSON, each as one text.

docs/formats.md says what stands in each of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import pandas as pd

from robustbench_meta.outcomes import Board, Outcome, Results, attack_fields
from robustbench_meta.ranking import Standing, standings
from robustbench_meta.report import latex
from robustbench_meta.report.naming import row_names, slugs, titles
from robustbench_meta.report.plain import csv_of, shown
from robustbench_meta.report.references import bibliography, papers
from robustbench_meta.report.tables import columns_of_eps
from robustbench_meta.statistics import leaderboard

SCHEMA = 1
# Units in the names of columns, since a CSV has no other place for them.
FRACTIONS, INPUTS = ("clean", "clean_ci95", "robust", "robust_ci95"), ("rank_eps",)


def render(results: Results, name: str) -> str:
    """Write results in one of FORMATS."""
    return FORMATS[name](results)


def to_latex(results: Results) -> str:
    return latex.render(shown(results, [])[0])


def to_bibtex(results: Results) -> str:
    """Write the papers behind every algorithm, defense, attack and dataset that the results name, and this benchmark.

    A comment lists the names that no paper is known for.
    """
    keys: set[str] = set()
    without: set[str] = set()
    for row in results.cells.to_dict("records"):
        for kind, name in (
            ("algorithms", row["algorithm"]),
            ("defenses", row["defense"]),
            ("attacks", row["attack"]),
            ("tasks", row["family"]),
        ):
            found = papers(kind, str(name), str(row["norm"]))  # type: ignore[arg-type]
            keys |= set(found or ())
            without |= set() if found else {latex.short(str(name))}
    # Braces and an at sign would begin an entry even in what BibTeX takes for a comment.
    plain = sorted("".join(c for c in name if c not in "@{}\\") for name in without)
    head = f"% No paper stands behind: {', '.join(plain)}\n\n" if plain else ""
    return head + bibliography(keys)


def to_csv(results: Results) -> str:
    """Write the leaderboard, one row an entry; accuracies are fractions, no text can be read as a formula."""
    table = leaderboard(shown(results, [])[0])
    units = {name: f"{name}_fraction" for name in FRACTIONS} | {name: f"{name}_input_units" for name in INPUTS}
    return csv_of(table.rename(columns=units))


def to_json(results: Results) -> str:
    """Write everything of the leaderboard for programs, in ASCII; a number that is not there is null."""
    boards, settings = standings(results), attack_fields(results)
    names, abouts = row_names(results.cells, boards), [one[0].board for one in boards]
    made = {
        "kind": "robustbench_meta leaderboard",
        "schema": SCHEMA,
        "boards": [
            {"slug": slug, "title": title, **_board(board, names, settings)}
            for board, slug, title in zip(boards, slugs(abouts), titles(abouts), strict=True)
        ],
    }
    return json.dumps(made, indent=1, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Results], str]] = {
    "latex": to_latex,
    "bibtex": to_bibtex,
    "csv": to_csv,
    "json": to_json,
}


def _board(board: list[Standing], names: dict[tuple[str, str], str], settings: dict[str, str]) -> dict[str, Any]:
    about = board[0].board
    found = {field.name: _plain(getattr(about, field.name)) for field in fields(Board)}
    entries = [_entry(one, names[one.entry.checkpoint, one.entry.weights], settings) for one in board]
    eps = sorted(columns_of_eps(board))
    return {**found, "constant": about.constant, "rank_eps": board[0].rank_eps, "eps": eps, "entries": entries}


def _entry(one: Standing, name: str, settings: dict[str, str]) -> dict[str, Any]:
    check = one.check
    found: dict[str, Any] = {"name": name, **{key: _plain(value) for key, value in asdict(one.entry).items()}}
    found |= {
        "rank": one.rank,
        "tied": one.tied,
        "rank_low": one.rank_low,
        "rank_high": one.rank_high,
        "reason": one.reason,
    }
    found["flags"] = [{"code": flag.code, "colour": flag.colour, "detail": flag.detail} for flag in check.flags]
    found |= {"audited_tasks": check.audited, "audit": check.text, "left_out": list(check.left_out)}
    found["clean"] = _number(*one.clean)
    found |= {"area": _number(*one.area), "gain": _number(*one.gain)}
    if one.members:
        low, high = one.spread("known")
        found["seeds"] = {"trained": list(one.trained), "word": one.word, "least": _plain(low), "most": _plain(high)}
    return found | {"worst_case": [_outcome(one.outcomes[eps], settings) for eps in sorted(one.outcomes)]}


def _outcome(outcome: Outcome, settings: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"eps": outcome.eps, **_number(*outcome.accuracy("known"), len(outcome.known))}
    found |= {"ours": _number(*outcome.accuracy("robust"), len(outcome.robust)), "external": list(outcome.external)}
    found |= {"complete": outcome.complete, "missing": list(outcome.missing)}
    found["errors"] = [{"attack": attack, "reason": reason} for attack, reason in outcome.errors]
    attacks = []
    for attack, run in sorted(outcome.runs.items()):
        queries = run.survived.size
        row = {"attack": attack, "settings": settings[attack], "transferred": attack in outcome.transferred}
        row |= _number(*run.accuracy(), len(run.tasks))
        row["clean"] = _number(*run.accuracy("clean"), len(run.tasks))
        row["forwards_a_query"] = float(run.forwards.sum() / queries)
        row["backwards_a_query"] = float(run.backwards.sum() / queries)
        attacks.append(row)
    return found | {"attacks": attacks}


def _number(mean: float, half: float, n: int) -> dict[str, Any]:
    return {"mean": _plain(mean), "ci95": _plain(half), "n": int(n)}


def _plain(value: Any) -> Any:
    """Return what JSON can say; a NaN is null."""
    value = value.item() if hasattr(value, "item") else value
    return None if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NA else value
