"""Ranks of a board and their intervals, and what its tasks can tell apart: every pair tested on the tasks it shares.

An entry's rank is one more than the number of entries shown to be better, with Holm's correction for all pairs of
the board (see intervals.py). Training seeds of one recipe share a row (see methods.py), whose tests are over seeds and
tasks. Accuracies are in [0, 1]. Shapes: n tasks, Q judged queries in a task, R training seeds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from statistics import median_low

import numpy as np

from robustbench_meta import intervals, methods
from robustbench_meta.intervals import ALPHA, Crossed, Pairs, bootstrap_interval, crossed, crossed_bootstrap, spanning
from robustbench_meta.methods import Training
from robustbench_meta.outcomes import (
    Board,
    Check,
    Entry,
    Kind,
    Outcome,
    Results,
    board_order,
    entry_order,
    eps_text,
    outcomes,
)

NOTHING = 1e-9  # a difference below this is rounding


@dataclass(frozen=True, eq=False)
class Standing:
    """One entry of a board with its rank, if it has one, or the reason why not; `outcomes` by eps.

    The rank is one more than the number of ranked entries that are significantly better, all pairs of the board tested
    at once; with 95 % confidence, for all entries together, the true rank lies from `rank_low` to `rank_high`.
    `check` holds the flags of all its cells and of its audit, and of its accuracy at the eps of the ranking. `curve`
    holds the eps over which the areas of this board are taken. `members` are the checkpoints that share this row, each
    as it would stand alone but for a rank, `trained` their training seeds; a row of one checkpoint has none. `outside`
    are the seeds of the same recipe that are on the board and have no part in this row.
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
    members: tuple[Standing, ...] = ()
    trained: tuple[int, ...] = ()
    outside: tuple[int, ...] = ()

    @property
    def seeds(self) -> int:
        return len(self.members) or 1

    @property
    def word(self) -> str:
        """Whether its numbers speak of a method, or of a checkpoint or two."""
        return methods.word(self.seeds)

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
        return (*self.measured.accuracy("clean"), len(self.measured.clean))

    @cached_property
    def clean_bootstrap(self) -> tuple[float, float]:
        """The ends of the bootstrap interval of clean accuracy; NaN where there is none."""
        return bootstrapped(self.measured.sample("clean"))

    @cached_property
    def robust(self) -> tuple[float, float, int]:
        """Best known worst-case accuracy at the eps of the ranking, its half-width and n."""
        return self._at_rank("known")

    @cached_property
    def robust_bootstrap(self) -> tuple[float, float]:
        """The ends of the bootstrap interval of `robust`; NaN where there is none."""
        here = self.outcomes.get(self.rank_eps)
        return (math.nan, math.nan) if here is None else bootstrapped(here.sample("known"))

    @cached_property
    def ours(self) -> tuple[float, float, int]:
        """What our own attacks alone left at the eps of the ranking, its half-width and n."""
        return self._at_rank("robust")

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
        heights = [first.sample("clean")[:, np.isin(first.tasks, tasks)]]
        heights += [one.sample("known")[:, np.isin(one.tasks, tasks)] for one in found]
        return (*spanning(intervals.trapezoids([0.0, *self.curve], heights)), len(tasks))

    def spread(self, kind: Kind) -> tuple[float, float]:
        """Return the least and the most of the means of its training seeds, on the tasks of the ranking."""
        here = self.measured if kind == "clean" else self.outcomes.get(self.rank_eps)
        if here is None or not len(here.tasks):
            return math.nan, math.nan
        means = here.by_seed(kind).mean(1)
        return float(means.min()), float(means.max())

    def _at_rank(self, kind: Kind) -> tuple[float, float, int]:
        here = self.outcomes.get(self.rank_eps)
        return (math.nan, math.nan, 0) if here is None else (*here.accuracy(kind), len(here.tasks))


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


def bootstrapped(sample: np.ndarray) -> tuple[float, float]:
    """Keep the ends of the bootstrap interval of accuracies [R, n] within what an accuracy can be."""
    low, high = bootstrap_interval(sample[0], seed=0) if len(sample) == 1 else crossed_bootstrap(sample, seed=0)
    return (low, high) if math.isnan(low) else (max(0.0, low), min(1.0, high))


def over_chance(found: tuple[float, float, int], constant: float) -> tuple[float, float, int]:
    mean, half, n = found
    return (mean - constant) / (1 - constant), half / (1 - constant), n


def better_than_constant(mean: float, half: float, constant: float) -> bool:
    """Say whether an accuracy's whole interval lies above what a constant predictor reaches."""
    return mean - half > constant


def standings(results: Results) -> list[list[Standing]]:
    """Rank every board: ranked entries first, best first, then those shown without a rank and why.

    Training seeds of one recipe share a row.
    """
    return _standings(results, methods.trainings(results))


def checkpoints(results: Results) -> list[list[Standing]]:
    """Rank every board with a row for each checkpoint, whatever recipe it is of."""
    return _standings(results, {})


def apart(board: Iterable[Standing]) -> list[Standing]:
    """Give the checkpoints of a board one by one, those that share a row as they would stand alone."""
    return [member for one in board for member in one.members or (one,)]


def rows(boards: Iterable[Iterable[Standing]]) -> list[Outcome]:
    """Return the outcomes of the rows of boards as `outcomes` orders those of checkpoints."""
    found = [outcome for board in boards for one in board for outcome in one.outcomes.values()]
    return sorted(found, key=lambda one: (board_order(one.board), entry_order(one.entry), one.eps))


def _standings(results: Results, known: Mapping[str, Training]) -> list[list[Standing]]:
    boards: dict[Board, dict[Entry, dict[float, Outcome]]] = {}
    for one in outcomes(results):
        boards.setdefault(one.board, {}).setdefault(one.entry, {})[one.eps] = one
    return [_rank(board, entries, known) for board, entries in boards.items()]


def separation(board: list[Standing]) -> Separation:
    """Say which differences the tasks of a board can separate, and what telling the first two apart would take.

    The smallest is that of a pair of median spread, each pair tested at 0.05 over the number of pairs (Bonferroni),
    which is what the first rank has to pass.
    """
    ranked = [one for one in board if one.rank is not None]
    if len(ranked) < 2:
        return Separation(0, 0, 0, math.nan, 0.0, apart=False, needed=None)
    judged = [one.outcomes[one.rank_eps] for one in ranked]
    found = _pairs(judged)
    above, number = found.above, len(found.above[0])
    n = found.n[above]
    each = [_smallest(judged, found, pair, number) for pair in zip(*above, strict=True)]
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
        needed=None
        if _over_seeds(judged[:2])
        else intervals.tasks_needed(float(found.mean[0, 1]), float(found.spread[0, 1]), number),
    )


def _smallest(judged: Sequence[Outcome], found: Pairs, pair: tuple[int, int], number: int) -> float:
    """Return the difference that the tasks of a pair, and its seeds if any, just separate as one of `number` pairs."""
    two, n = [judged[at] for at in pair], int(found.n[pair])
    if not _over_seeds(two):
        return intervals.smallest_separable(float(found.spread[pair]), n, number)
    level = ALPHA / number
    return _crossed(*two).half(level) if intervals.surest(n) <= level else math.nan


def _pairs(judged: Sequence[Outcome]) -> Pairs:
    """Compare every two outcomes on the tasks that both met, over seeds too where one of them is a method's."""
    found = intervals.pairs(_known(judged))
    for a, b in zip(*found.above, strict=True):
        if _over_seeds([judged[a], judged[b]]):
            found.p[a, b] = found.p[b, a] = _crossed(judged[a], judged[b]).p
    return found


def _over_seeds(judged: Iterable[Outcome]) -> bool:
    return any(methods.word(len(one.seeds)) == "method" for one in judged)


def _crossed(a: Outcome, b: Outcome) -> Crossed:
    tasks = np.intersect1d(a.tasks, b.tasks)
    x, y = (one.sample("known")[:, np.searchsorted(one.tasks, tasks)] for one in (a, b))
    return crossed(x, y)


def _joined(
    entries: dict[Entry, dict[float, Outcome]], eps: float, known: Mapping[str, Training]
) -> tuple[dict[Entry, dict[float, Outcome]], dict[Entry, tuple[Entry, ...]]]:
    """Let training seeds of one recipe share a row, and say which checkpoints share one.

    Only those join that nothing but a flag keeps from a rank of their own; the others stand alone, with the reason.
    """
    able = [entry for entry, found in entries.items() if not _lack(entry, found, eps)]
    few = _too_few({entry: len(entries[entry][eps].tasks) for entry in able}, eps)
    made, members = dict(entries), dict[Entry, tuple[Entry, ...]]()
    groups = methods.together((entry for entry in able if entry not in few), known)
    for mine in (part for group in groups for part in methods.alike(group, {one: entries[one][eps] for one in group})):
        if len(mine) > 1:
            row = methods.shared_entry(mine, known)
            each = [made.pop(entry) for entry in mine]
            made[row] = {
                at: methods.joined(row, [one[at] for one in each]) for at in sorted(set.intersection(*map(set, each)))
            }
            members[row] = mine
    return dict(sorted(made.items(), key=lambda item: entry_order(item[0]))), members


def _rank(board: Board, entries: dict[Entry, dict[float, Outcome]], known: Mapping[str, Training]) -> list[Standing]:
    eps = _rank_eps(entries, known)
    alone, (entries, members) = entries, _joined(entries, eps, known)
    reasons = {entry: _reason(entry, found, eps) for entry, found in entries.items()}
    reasons |= _too_few({entry: len(entries[entry][eps].tasks) for entry, why in reasons.items() if not why}, eps)
    ranked = [entry for entry in entries if not reasons[entry]]
    places: dict[Entry, tuple[int, int]] = {}
    if ranked:
        values = _known([entries[entry][eps] for entry in ranked])
        wins = intervals.better(_pairs([entries[entry][eps] for entry in ranked]))
        low, high = intervals.rank_intervals(wins)
        # On the tasks that all met, so that none is placed by easier tasks of its own.
        shared = values[:, ~np.isnan(values).any(0)]
        means = shared.mean(1) if shared.size else np.nanmean(values, 1)
        order = np.lexsort((-means, low))
        places = {ranked[at]: (int(low[at]), int(high[at])) for at in order}
    sizes = Counter(place for place, _ in places.values())
    rest = sorted((entry for entry in entries if reasons[entry]), key=lambda entry: entry.black_box)
    curve = _curve([entries[entry] for entry in ranked])
    each = {
        entry: Standing(board, entry, eps, None, None, tied=False, reason="", outcomes=found, curve=curve)
        for entry, found in alone.items()
    }
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
            members=tuple(each[one] for one in members.get(entry, ())),
            trained=tuple(known[one.weights].seed for one in members.get(entry, ())),
            outside=methods.outside(members.get(entry, ()), alone, known),
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


def _rank_eps(entries: dict[Entry, dict[float, Outcome]], known: Mapping[str, Training]) -> float:
    """Choose the largest eps at which the most white-box entries were evaluated."""
    judged = {entry: found for entry, found in entries.items() if not entry.black_box} or entries
    # Recipes, not rows: one that was run at many numbers of steps, or trained with many seeds, has one voice.
    voice = {
        entry: (known[entry.weights].method, known[entry.weights].authors)
        if entry.weights in known
        else (entry.checkpoint, entry.weights)
        for entry in judged
    }
    attacked = {(eps, voice[entry]) for entry, found in judged.items() for eps, one in found.items() if one.attacked}
    met = {(eps, voice[entry]) for entry, found in judged.items() for eps in found}
    counts = Counter(eps for eps, _ in attacked or met)
    return max(counts, key=lambda eps: (eps > 0, counts[eps], eps))


def _reason(entry: Entry, found: dict[float, Outcome], eps: float) -> str:
    """Say why an entry has no rank; empty if it has one."""
    lack = _lack(entry, found, eps)
    if entry.black_box:
        return lack
    check = found[eps].check if eps in found else next(iter(found.values())).check
    return "; ".join(filter(None, [lack, check.reason]))


def _lack(entry: Entry, found: dict[float, Outcome], eps: float) -> str:
    """Say why an entry has no rank, flags apart; empty if nothing else forbids one."""
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
    return "; ".join(reasons)


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
    """Return mean, half-width and n of samples x [R, n] - y [R', n'] over the tasks that `a` and `b` share."""
    shared = np.intersect1d(a, b)
    one, other = x[:, np.searchsorted(a, shared)], y[:, np.searchsorted(b, shared)]
    return (*spanning(one, other), len(shared))


def on_shared(a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return x - y on the tasks that `a` and `b`, both sorted, share."""
    shared = np.intersect1d(a, b)
    difference: np.ndarray = x[np.searchsorted(a, shared)] - y[np.searchsorted(b, shared)]
    return difference
