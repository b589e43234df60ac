"""How well adversarial examples made on one learner fool another: one matrix for each board and eps.

Papernot, McDaniel and Goodfellow (2016, arXiv 1605.07277) read such a matrix row by row: whose examples, on whom.
Shapes: n tasks, Q judged queries in a task.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from robustbench_meta.intervals import interval
from robustbench_meta.outcomes import Bits, Board, Entry, Results, attack_fields, is_set
from robustbench_meta.ranking import Standing


@dataclass(frozen=True, order=True)
class Source:
    """Where the examples of a row come from: a learner, the attack on it, and how far that moved its queries."""

    learner: str
    attack: str
    eps: float
    cell: str  # key of the cell they were kept of


@dataclass(frozen=True)
class Score:
    """What a learner gets on one set: mean accuracy, half-width of its 95 % interval, and n tasks.

    `own` marks the learner on which the examples were made.
    """

    mean: float
    half: float
    n: int
    own: bool


@dataclass(frozen=True)
class Matrix:
    """The accuracies of `targets` on the sets of `sources` at one eps of a board; a pair that never met is absent.

    `clean` is what a target has without an attack, on the most tasks that it met in this matrix.
    """

    board: Board
    eps: float
    sources: tuple[Source, ...]
    targets: tuple[Entry, ...]
    scores: dict[tuple[Source, Entry], Score]
    clean: dict[Entry, Score]


def matrices(results: Results, board: list[Standing]) -> list[Matrix]:
    """Return the matrices of a board, the largest eps first; none where no adversarial test set was scored.

    On the diagonal stands the source itself under its own attack, where these results hold that cell.
    """
    met = {eps for one in board for eps, found in one.outcomes.items() if {*found.transferred} & {*found.runs}}
    made = [_matrix(results, board, eps) for eps in sorted(met, reverse=True)]
    return [one for one in made if one.sources]


def source_of(attack_fields: str) -> Source | None:
    """Read which set an attack gives back from how it was configured; None where that cannot be read."""
    try:
        call: Any = ast.parse(attack_fields, mode="eval").body
        given = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
        texts = [str(given[name]) for name in ("source", "attack", "source_cell")]
        return Source(texts[0], texts[1], float(given["eps"]), texts[2])
    except (SyntaxError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _matrix(results: Results, board: list[Standing], eps: float) -> Matrix:
    configured = attack_fields(results)
    cells = {str(row["key"]): row for row in results.cells.to_dict("records")}
    met: dict[tuple[Source, Entry], Bits] = {}
    for one in board:
        runs = one.outcomes[eps].runs if eps in one.outcomes else {}
        for attack in (name for name in runs if is_set(configured[name])):
            if (source := source_of(configured[attack])) is None:
                continue
            pair = (source, one.entry)
            # Of a set that grew, the larger one.
            if pair not in met or len(runs[attack].tasks) > len(met[pair].tasks):
                met[pair] = runs[attack]
    sources = tuple(sorted({source for source, _ in met}))
    own: set[tuple[Source, Entry]] = set()
    for source, one in product(sources, board):
        row = cells.get(source.cell)
        if row is not None and _made_on(one, row):
            own.add((source, one.entry))
            if run := _run(one, row, configured):
                met[source, one.entry] = run
    scores = {pair: _score(run.survived, own=pair in own) for pair, run in met.items()}
    targets = tuple(one.entry for one in board if any(target == one.entry for _, target in met))
    clean = {}
    for target in targets:
        longest = max((run for (_, other), run in met.items() if other == target), key=lambda run: len(run.tasks))
        clean[target] = _score(longest.clean, own=False)
    # Rows in the order of the columns, so that the learners' own scores lie on the diagonal.
    place = {source: at for source, target in own for at, entry in enumerate(targets) if entry == target}
    rows = tuple(sorted(sources, key=lambda source: (place.get(source, len(targets)), source)))
    return Matrix(board[0].board, eps, rows, targets, scores, clean)


def _run(one: Standing, row: dict[Any, Any], configured: dict[str, str]) -> Bits | None:
    """Find the verdicts of the source's own cell among those of its entry."""
    outcome = one.outcomes.get(round(float(row["eps"]), 9))
    for name, run in outcome.runs.items() if outcome else ():
        # On a board, attacks that share a name and not their settings have a hash after it.
        if name.split(" #")[0] == row["attack"] and configured[name] == row["attack_fields"]:
            return run
    return None


def _made_on(one: Standing, row: dict[Any, Any]) -> bool:
    """Say whether the cell `row` is one of this entry on this board."""
    steps = None if pd.isna(row["steps"]) else int(row["steps"])
    mine = {**vars(one.board), **vars(one.entry)}
    named = set(mine) - {"track", "checkpoint", "steps"}  # which a row has in another form
    return mine["steps"] == steps and all(mine[name] == row[name] for name in named)


def _score(right: np.ndarray, *, own: bool) -> Score:
    """Summarise verdicts [n, Q]."""
    return Score(*interval(right.mean(1)), len(right), own)
