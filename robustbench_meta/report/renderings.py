"""What became of sentences that learners write anew: how many are right to the last token, how near the rest come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from robustbench_meta.intervals import interval

LIKENESS = ("clean_tokens", "attacked_tokens", "clean_chrf", "attacked_chrf")


@dataclass(frozen=True)
class Renderings:
    """The sentences of one cell: exact matches, tokens that are right and chrF, all in %, over n tasks.

    Each is a mean with its half-width, clean and attacked.
    """

    title: str
    exact: tuple[tuple[float, float], tuple[float, float]]
    tokens: tuple[tuple[float, float], tuple[float, float]]
    chrf: tuple[tuple[float, float], tuple[float, float]]
    n: int

    @property
    def values(self) -> tuple[tuple[float, float], ...]:
        return (*self.exact, *self.tokens, *self.chrf)


def renderings(cells: pd.DataFrame, tasks: pd.DataFrame, titles: dict[str, str]) -> tuple[Renderings, ...]:
    """Gather what the sentences of every cell became, in the order of the cells; `titles` by key."""
    if not set(LIKENESS) <= set(tasks):  # results of one's own need not have it
        return ()
    rows = dict(iter(tasks[tasks["clean_chrf"].notna()].groupby("key")))
    made = []
    for key in cells["key"]:
        if key in rows:
            mine = rows[key]
            bits = [np.array([text.count("1") / len(text) for text in mine[name]]) for name in ("clean", "survived")]
            parts = [interval(100 * part) for part in (*bits, *(mine[name].to_numpy() for name in LIKENESS))]
            pairs = [(parts[at], parts[at + 1]) for at in (0, 2, 4)]
            made.append(Renderings(titles[key], pairs[0], pairs[1], pairs[2], len(mine)))
    return tuple(made)
