"""The data that the page's script works with, as plain values for JSON.

Counts of right queries per task are written in base 36 at a fixed width and tasks as ranges, so that a page of fifty
learners stays below 1 MB and any two rows of a table can still be compared task by task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from robustbench_meta.intervals import crossed
from robustbench_meta.outcomes import Entry, Kind, Outcome, eps_text
from robustbench_meta.ranking import Standing
from robustbench_meta.report.charts import SHAPES
from robustbench_meta.report.drawing import look
from robustbench_meta.report.lines import Learner, Line, Run, spent_text
from robustbench_meta.report.naming import norm_text
from robustbench_meta.report.tables import Report, Table, columns_of_eps
from robustbench_meta.report.values import Value

EXACT = 30  # degrees of freedom up to which the page is given Student's t; beyond, a series is exact enough
KINDS: dict[str, Kind] = {"worst": "known", "clean": "clean"}
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Keys:
    """What the numbers in an entry stand for: places in lists of budgets, attacks, weights, colours and marks."""

    budgets: list[float]
    attacks: list[str]
    weights: list[str]
    order: Mapping[Entry, int]


def block(
    boards: Sequence[tuple[list[Standing], Table, list[Line]]],
    report: Report,
    known: dict[str, Learner],
    order: Mapping[Entry, int],
) -> dict[str, Any]:
    """Gather everything that the script needs, board by board; `order` as in charts.of_board."""
    weights = sorted({line.weights for *_, lines in boards for line in lines})
    return {
        "quantiles": [float(stdtrit(degrees, 0.975)) for degrees in range(1, EXACT + 1)],
        "flags": {row.about.code: [row.about.title, row.about.sentence, row.about.limit] for row in report.flags},
        "shapes": SHAPES,
        "learners": [_learner(known.get(one, Learner())) for one in weights],
        "boards": [_board(board, table, lines, weights, order) for board, table, lines in boards],
    }


def _board(
    board: list[Standing], table: Table, lines: list[Line], weights: list[str], order: Mapping[Entry, int]
) -> dict[str, Any]:
    about = board[0].board
    keys = Keys(columns_of_eps(board), sorted({run.attack for line in lines for run in line.runs}), weights, order)
    names = [row.name for row in table.rows if row.kind != "reference"]
    return {
        "slug": table.slug,
        "title": table.title,
        "facets": {
            "surface": about.surface,
            "setting": about.track,
            "norm": norm_text(about),
            "family": about.family,
            "split": about.split,
            "ways": about.ways,
            "shots": about.shots,
        },
        "chance": about.constant,
        "chanceText": about.constant_text,
        "episodes": about.episodes,
        "budget": about.budget,
        "budgets": keys.budgets,
        "eps": [eps_text(eps) for eps in keys.budgets],
        "attacks": keys.attacks,
        "entries": [_entry(one, line, name, keys) for one, line, name in zip(board, lines, names, strict=True)],
    }


def _entry(one: Standing, line: Line, name: str, keys: Keys) -> dict[str, Any]:
    entry, budgets = one.entry, keys.budgets
    mine = look(entry, keys.order[entry], named=True)
    return {
        "id": line.id,
        "name": name,
        "algorithm": entry.algorithm,
        "defense": entry.defense,
        "mode": entry.norm_mode,
        "steps": entry.steps,
        "look": [mine.hue, mine.shape, mine.dashed],
        "learner": keys.weights.index(line.weights),
        "clean": _numbers(Value(*one.clean)),
        "flags": [[flag.code, flag.colour, flag.detail] for flag in one.check.flags],
        "audit": one.check.text,
        "spent": spent_text(line.runs),
        "runs": [_run(run, keys) for run in line.runs],
        "outcomes": [
            _outcome(budgets.index(eps), outcome, ranked=eps == one.rank_eps)
            for eps, outcome in sorted(one.outcomes.items())
            if len(outcome.tasks)
        ],
    }


def _run(run: Run, keys: Keys) -> list[Any]:
    places = keys.attacks.index(run.attack), keys.budgets.index(run.eps)
    return [*places, *_numbers(run.left), run.forwards, run.backwards, run.key]


def _outcome(place: int, outcome: Outcome, *, ranked: bool) -> dict[str, Any]:
    queries = next(iter(outcome.runs.values())).survived.shape[1]
    made: dict[str, Any] = {"eps": place, "complete": outcome.complete, "queries": queries}
    made |= {"tasks": _ranges(outcome.tasks), "worst": _counts(outcome.known, queries)}
    between = {name: _between(outcome.sample(kind)) for name, kind in KINDS.items() if ranked or name == "worst"}
    made |= {"between": between} if any(between.values()) else {}
    return made | ({"clean": _counts(outcome.clean, queries)} if ranked else {})


def _between(sample: np.ndarray) -> list[float]:
    """Give the variance that a mean owes to its training seeds, and its degrees of freedom; nothing of a checkpoint."""
    return [] if len(sample) == 1 else [crossed(sample).seeds, len(sample) - 1]


def _counts(accuracy: np.ndarray, queries: int) -> str:
    """Write how many of `queries` were right in each task, in base 36, every count as wide as the largest needs."""
    width = 1
    while 36**width <= queries:
        width += 1
    return "".join(_base36(round(share * queries), width) for share in accuracy.tolist())


def _base36(number: int, width: int) -> str:
    text = ""
    for _ in range(width):
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
    return text


def _ranges(tasks: np.ndarray) -> str:
    """Write sorted task numbers as "0-49,60"."""
    parts: list[list[int]] = []
    for task in tasks.tolist():
        if parts and parts[-1][1] == task - 1:
            parts[-1][1] = task
        else:
            parts.append([task, task])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def _numbers(value: Value) -> list[float | int | None]:
    return [_known(value.mean, 5), _known(value.half, 5), value.n]


def _known(number: float, digits: int) -> float | None:
    return None if math.isnan(number) else round(number, digits)


def _learner(one: Learner) -> dict[str, Any]:
    return {"facts": one.facts, "recipe": one.recipe, "published": one.published}
