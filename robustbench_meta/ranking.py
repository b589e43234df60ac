"""Ranks of a board and their intervals, and what its tasks can tell apart: every pair tested on the tasks it shares.

An entry's rank is one more than the number of entries shown to be better, with Holm's correction for all pairs of
the board (see intervals.py). Accuracies are in [0, 1]. Shapes: n tasks, Q judged queries in a task.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from statistics import median_low
from typing import Literal

import numpy as np

from robustbench_meta import intervals
from robustbench_meta.intervals import ALPHA, bootstrap_interval, interval
from robustbench_meta.outcomes import Board, Check, Entry, Outcome, Results, eps_text, outcomes

NOTHING = 1e-9  # a difference below this is rounding


@dataclass(frozen=True, eq=False)
class Standing:
    """One entry of a board with its rank, if it has one, or the reason why not; `outcomes` by eps.

    The rank is one more than the number of ranked entries that are significantly better, all pairs of the board tested
    at once; with 95 % confidence, for all entries together, the true rank lies from `rank_low` to `rank_high`.
    `check` holds the flags of all its cells and of its audit, and of its accuracy at the eps of the ranking. `curve`
    holds the eps over which the areas of this board are taken.
    """

    board: Board
    entry: Entry
    rank_eps: float
    rank: int | None
    rank_high: int | None
    tied: bool
    reason: str
    outcomes: dict[float, Outcome]
    curve: tuple[float, ...]

    @property
    def rank_low(self) -> int | None:
        return self.rank

    @property
    def check(self) -> Check:
        return self.outcomes.get(self.rank_eps, next(iter(self.outcomes.values()))).check

    @cached_property
    def measured(self) -> Outcome:
        """The outcome that clean accuracy is read from: at the eps of the ranking if it has tasks, else the longest."""
        here = self.outcomes.get(self.rank_eps)
        if here is None or not len(here.tasks):
            here = max(self.outcomes.values(), key=lambda outcome: len(outcome.tasks))
        return here

    @cached_property
    def clean(self) -> tuple[float, float, int]:
        """Clean accuracy, its half-width and n, on the tasks of the ranking where there are any."""
        return (*interval(self.measured.clean), len(self.measured.clean))

    @cached_property
    def clean_bootstrap(self) -> tuple[float, float]:
        """The ends of the bootstrap interval of clean accuracy; NaN where there is none."""
        return bootstrapped(self.measured.clean)

    @cached_property
    def robust(self) -> tuple[float, float, int]:
        """Best known worst-case accuracy at the eps of the ranking, its half-width and n."""
        return (*interval(self._at_rank("known")), len(self._at_rank("known")))

    @cached_property
    def robust_bootstrap(self) -> tuple[float, float]:
        """The ends of the bootstrap interval of `robust`; NaN where there is none."""
        return bootstrapped(self._at_rank("known"))

    @cached_property
    def ours(self) -> tuple[float, float, int]:
        """What our own attacks alone left at the eps of the ranking, its half-width and n."""
        return (*interval(self._at_rank("robust")), len(self._at_rank("robust")))

    @property
    def external(self) -> tuple[str, ...]:
        """Whose examples count in `robust` beside our attacks."""
        here = self.outcomes.get(self.rank_eps)
        return () if here is None else here.external

    @property
    def gain(self) -> tuple[float, float, int]:
        """Robust accuracy over chance: 0 for a constant predictor, 1 for perfection."""
        return over_chance(self.robust, self.board.constant)

    @property
    def clean_gain(self) -> tuple[float, float, int]:
        """Clean accuracy over chance."""
        return over_chance(self.clean, self.board.constant)

    @cached_property
    def area(self) -> tuple[float, float, int]:
        """The mean height in [0, 1] of the worst-case accuracy over eps, from clean at 0 on, its half-width and n.

        By trapezoids, task by task, on the tasks of every eps of `curve`, which are those that most ranked entries of
        the board met. NaN for an entry that lacks one of them, since areas over other ranges do not compare.
        """
        there = [self.outcomes.get(eps) for eps in self.curve]
        found = [one for one in there if one is not None and one.complete]
        if not found or len(found) < len(there):
            return math.nan, math.nan, 0
        tasks = shared_tasks(found)
        first = found[0]
        heights = [first.clean[np.isin(first.tasks, tasks)], *(one.known[np.isin(one.tasks, tasks)] for one in found)]
        return (*interval(intervals.trapezoids([0.0, *self.curve], heights)), len(tasks))

    def _at_rank(self, kind: Literal["known", "robust"]) -> np.ndarray:
        here = self.outcomes.get(self.rank_eps)
        values: np.ndarray = np.empty(0) if here is None else getattr(here, kind)
        return values


@dataclass(frozen=True)
class Separation:
    """What the tasks of a board can tell apart: the smallest difference, all `pairs` of ranked entries at once.

    `fewest` and `most` tasks are shared by two entries; `smallest` is NaN where nothing can be told apart. The first
    two entries differ by `difference`, are `apart` or not, and would need `needed` tasks (None: no number helps).
    """

    fewest: int
    most: int
    pairs: int
    smallest: float
    difference: float
    apart: bool
    needed: int | None

    @property
    def text(self) -> str:
        """Say it in one sentence; empty where there are no two entries to compare."""
        if not self.pairs:
            return ""
        n = f"{self.fewest}" if self.fewest == self.most else f"{self.fewest} to {self.most}"
        sure = "95 %" if self.pairs == 1 else f"95 %, all {self.pairs:,} pairs at once"
        what = f"differences below about {_points(self.smallest)} are mostly not told apart"
        if math.isnan(self.smallest):
            what = "no difference can be told apart"
        elif self.smallest < NOTHING:
            what = "differences do not change from task to task, and any can be told apart"
        return f"On n = {n} tasks, {what} ({sure}); {self._first_two}."

    @property
    def _first_two(self) -> str:
        if abs(self.difference) < NOTHING:
            return "the first two do not differ"
        found = f"the first two differ by {_points(self.difference)}"
        if self.apart:
            return f"{found} and are told apart"
        if self.needed is None or self.needed <= self.most:
            return f"{found} and are not told apart"
        return f"{found}, for which about {int(float(f'{self.needed:.2g}')):,} tasks would be needed"


def _points(difference: float) -> str:
    points = 100 * abs(difference)
    return f"{points:.2g} points" if points < 10 else f"{points:.0f} points"


def bootstrapped(values: np.ndarray) -> tuple[float, float]:
    """Keep the ends of an accuracy's bootstrap interval within what an accuracy can be."""
    low, high = bootstrap_interval(values, seed=0)
    return (low, high) if math.isnan(low) else (max(0.0, low), min(1.0, high))


def over_chance(found: tuple[float, float, int], constant: float) -> tuple[float, float, int]:
    mean, half, n = found
    return (mean - constant) / (1 - constant), half / (1 - constant), n


def better_than_constant(mean: float, half: float, constant: float) -> bool:
    """Say whether an accuracy's whole interval lies above what a constant predictor reaches."""
    return mean - half > constant


def standings(results: Results) -> list[list[Standing]]:
    """Rank every board: ranked entries first, best first, then those shown without a rank and why."""
    boards: dict[Board, dict[Entry, dict[float, Outcome]]] = {}
    for one in outcomes(results):
        boards.setdefault(one.board, {}).setdefault(one.entry, {})[one.eps] = one
    return [_rank(board, entries) for board, entries in boards.items()]


def separation(board: list[Standing]) -> Separation:
    """Say which differences the tasks of a board can separate, and what telling the first two apart would take.

    The smallest is that of a pair of median spread, each pair tested at 0.05 over the number of pairs (Bonferroni),
    which is what the first rank has to pass.
    """
    ranked = [one for one in board if one.rank is not None]
    if len(ranked) < 2:
        return Separation(0, 0, 0, math.nan, 0.0, apart=False, needed=None)
    found = intervals.pairs(_known([one.outcomes[one.rank_eps] for one in ranked]))
    above, number = found.above, len(found.above[0])
    n = found.n[above]
    each = [intervals.smallest_separable(s, k, number) for s, k in zip(found.spread[above], n, strict=True)]
    # Two that fail every query on every task say nothing of what differences take.
    moved = [one for one, s in zip(each, found.spread[above], strict=True) if s > 0] or each
    told = moved if not any(map(math.isnan, moved)) else []
    return Separation(
        fewest=int(n.min()),
        most=int(n.max()),
        pairs=number,
        smallest=float(np.median(told)) if told else math.nan,
        difference=float(np.nan_to_num(found.mean[0, 1])),
        apart=bool(intervals.better(found)[[0, 1], [1, 0]].any()),
        needed=intervals.tasks_needed(float(found.mean[0, 1]), float(found.spread[0, 1]), number),
    )


def _rank(board: Board, entries: dict[Entry, dict[float, Outcome]]) -> list[Standing]:
    eps = _rank_eps(entries)
    reasons = {entry: _reason(entry, found, eps) for entry, found in entries.items()}
    reasons |= _too_few({entry: len(entries[entry][eps].tasks) for entry, why in reasons.items() if not why}, eps)
    ranked = [entry for entry in entries if not reasons[entry]]
    places: dict[Entry, tuple[int, int]] = {}
    if ranked:
        values = _known([entries[entry][eps] for entry in ranked])
        wins = intervals.better(intervals.pairs(values))
        low, high = intervals.rank_intervals(wins)
        # On the tasks that all met, so that none is placed by easier tasks of its own.
        shared = values[:, ~np.isnan(values).any(0)]
        means = shared.mean(1) if shared.size else np.nanmean(values, 1)
        order = np.lexsort((-means, low))
        places = {ranked[at]: (int(low[at]), int(high[at])) for at in order}
    sizes = Counter(place for place, _ in places.values())
    rest = sorted((entry for entry in entries if reasons[entry]), key=lambda entry: entry.black_box)
    curve = _curve([entries[entry] for entry in ranked])
    return [
        Standing(
            board=board,
            entry=entry,
            rank_eps=eps,
            rank=places[entry][0] if entry in places else None,
            rank_high=places[entry][1] if entry in places else None,
            tied=entry in places and sizes[places[entry][0]] > 1,
            reason=reasons[entry],
            outcomes=entries[entry],
            curve=curve,
        )
        for entry in (*places, *rest)
    ]


def _known(found: Sequence[Outcome]) -> np.ndarray:
    """Return the best known worst cases of m outcomes on every task that one of them met [m, n]; NaN where not met."""
    tasks = np.unique(np.concatenate([one.tasks for one in found]))
    values = np.full((len(found), len(tasks)), np.nan)
    for row, one in zip(values, found, strict=True):
        row[np.searchsorted(tasks, one.tasks)] = one.known
    return values


def _curve(ranked: Sequence[dict[float, Outcome]]) -> tuple[float, ...]:
    """Choose the eps that areas are taken over: those that more than half of the ranked entries met in full."""
    met = Counter(eps for found in ranked for eps, one in found.items() if one.complete and eps > 0)
    return tuple(sorted(eps for eps, count in met.items() if 2 * count > len(ranked)))


def _rank_eps(entries: dict[Entry, dict[float, Outcome]]) -> float:
    """Choose the largest eps at which the most white-box entries were evaluated."""
    judged = {entry: found for entry, found in entries.items() if not entry.black_box} or entries
    # Learners, not rows: one that was run at many numbers of steps has one voice.
    attacked = {
        (eps, entry.checkpoint, entry.weights)
        for entry, found in judged.items()
        for eps, one in found.items()
        if one.attacked
    }
    met = {(eps, entry.checkpoint, entry.weights) for entry, found in judged.items() for eps in found}
    counts = Counter(eps for eps, *_ in attacked or met)
    return max(counts, key=lambda eps: (eps > 0, counts[eps], eps))


def _reason(entry: Entry, found: dict[float, Outcome], eps: float) -> str:
    """Say why an entry has no rank; empty if it has one."""
    if entry.black_box:
        return "black-box only: gradients do not reach it, so white-box attacks could not run"
    failed: dict[tuple[float, str], list[str]] = {}
    for at, outcome in sorted(found.items()):
        for attack, reason in outcome.errors:
            failed.setdefault((at, reason), []).append(attack)
    reasons = [f"error in {', '.join(names)} at {eps_text(at)}: {reason}" for (at, reason), names in failed.items()]
    if eps not in found:
        reasons.append(f"not run at {eps_text(eps)}")
    elif found[eps].missing:
        reasons.append(f"lacks {', '.join(found[eps].missing)} at {eps_text(eps)}")
    elif not reasons and not found[eps].attacked:
        reasons.append(f"met nothing but other learners' adversarial examples at {eps_text(eps)}")
    elif not reasons and not len(found[eps].tasks):
        reasons.append(f"no task on which every attack ran at {eps_text(eps)}")
    check = found[eps].check if eps in found else next(iter(found.values())).check
    return "; ".join(filter(None, [*reasons, check.reason]))


def _too_few(tasks: dict[Entry, int], eps: float) -> dict[Entry, str]:
    """Say which entries ran on too few tasks for a rank: none could be shown to be better, and all would come first.

    A rank needs half of what the board's entries have (lower median), and enough to be told apart from the others
    wherever that many are.
    """
    usual = median_low(tasks.values()) if tasks else 0
    half, pairs = (usual + 1) // 2, len(tasks) * (len(tasks) - 1) / 2
    telling = next(n for n in count(1) if intervals.surest(n) * pairs <= ALPHA)
    least = max(half, telling) if telling <= usual else half
    legal = f"the entries of this board have {usual} (lower median), and a rank needs {least}"
    return {entry: f"n = {n} at {eps_text(eps)}: {legal}" for entry, n in tasks.items() if n < least}


def shared_tasks(found: Sequence[Outcome]) -> np.ndarray:
    """Return the tasks that all of them met."""
    tasks = found[0].tasks if found else np.empty(0, int)
    for one in found[1:]:
        tasks = np.intersect1d(tasks, one.tasks)
    return tasks


def paired(a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> tuple[float, float, int]:
    """Return mean, half-width and n of x - y over the tasks that `a` and `b` share."""
    difference = on_shared(a, x, b, y)
    return (*interval(difference), len(difference))


def on_shared(a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return x - y on the tasks that `a` and `b`, both sorted, share."""
    shared = np.intersect1d(a, b)
    difference: np.ndarray = x[np.searchsorted(a, shared)] - y[np.searchsorted(b, shared)]
    return difference
