"""Worst cases over attacks, paired differences, ranks and their intervals, from the bits a store holds.

A board is a set of entries met by the same episodes under the same threat; an entry is one row of it: a
checkpoint at one number of adaptation steps. Accuracies are in [0, 1]; `ci95` is the half-width of a 95 %
Student t interval over tasks, `low` and `high` are the ends of a bootstrap's: neither says anything about
other training seeds.
Shapes: n tasks, Q judged queries in a task.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NoReturn, Protocol, TypeVar

import numpy as np
import pandas as pd

from robustbench_meta import flags as signs
from robustbench_meta import intervals
from robustbench_meta.flags import Flag
from robustbench_meta.intervals import bootstrap_interval, interval

_Key = TypeVar("_Key", bound=Hashable)

COLUMNS = (
    *("checkpoint", "algorithm", "defense", "family", "split", "ways", "shots", "queries", "steps", "norm_mode"),
    *("surface", "norm", "eps", "attack", "tasks", "seed", "clean", "clean_ci95", "robust", "robust_ci95"),
    *("status", "flags", "seconds"),
)
ACCURACIES = tuple(f"{name}{end}" for name in ("clean", "robust") for end in ("", "_ci95", "_low", "_high"))
WORST_CASE, ALL_OTHERS = "worst case", "all others"
CONSTANT = "constant predictor"
NOTHING = 1e-9  # a difference below this is rounding
SET = "FromFile(sha256="  # how the fields of an attack begin that gives back another learner's adversarial examples
CLEAR, NOT_AUDITED, AUDIT_FAILED = "none", "not audited", "audit failed"


class Results(Protocol):
    """What a store reads: one row per cell, per cell and task, and per audit and task."""

    @property
    def cells(self) -> pd.DataFrame: ...

    @property
    def tasks(self) -> pd.DataFrame: ...

    @property
    def audits(self) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Board:
    """Which episodes and which threat a set of entries shares, eps apart."""

    surface: str
    track: str  # "inductive" or "transductive"
    family: str
    episodes: str
    split: str
    ways: int
    shots: int
    queries: int
    norm: str
    seed: int

    @property
    def constant(self) -> float:
        """The accuracy, clean and robust, of a predictor that always gives the same class."""
        return 1 / self.ways


@dataclass(frozen=True)
class Entry:
    """One row of a board; `steps` is None where adaptation has none."""

    checkpoint: str
    weights: str
    algorithm: str
    defense: str
    norm_mode: str
    steps: int | None

    @property
    def black_box(self) -> bool:
        return self.algorithm.endswith("(black-box)")


@dataclass(frozen=True, eq=False)
class Bits:
    """The verdicts of one cell, in task order: tasks [n], clean and survived [n, Q], rows sent [n]."""

    tasks: np.ndarray
    clean: np.ndarray
    survived: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray

    def at(self, tasks: np.ndarray) -> np.ndarray:
        """Find the rows of `tasks`; every one of them must be there."""
        return np.searchsorted(self.tasks, tasks)


@dataclass(frozen=True)
class Check:
    """What speaks against an entry's numbers, and whether it was looked for: an audit of `audited` tasks, 0 for none.

    `failure` says why an audit could not run, `lacks` what the audit has not seen of what was run.
    """

    flags: tuple[Flag, ...] = ()
    audited: int = 0
    failure: str = ""
    lacks: str = ""

    @property
    def red(self) -> list[Flag]:
        return signs.red(self.flags)

    @property
    def text(self) -> str:
        """Write the codes, and what an audit lacks: "F3 F6", "none", "none in 3 tasks", "F9, not audited"."""
        state = AUDIT_FAILED if self.failure else self.lacks if self.audited else NOT_AUDITED
        if not self.flags and self.audited and not state:
            few = f"{CLEAR} in {self.audited} task{'s' if self.audited > 1 else ''}"
            return CLEAR if self.audited >= signs.LEAST_TASKS else few
        return ", ".join(filter(None, [signs.codes(self.flags), state]))

    @property
    def reason(self) -> str:
        """Say in numbers why the entry has no rank; empty if nothing here forbids one."""
        failed = [f"{AUDIT_FAILED}: {self.failure}"] if self.failure else []
        return "; ".join(failed + [f"flagged: {flag.text}" for flag in self.red])


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one entry withstood at one eps, on the tasks on which every attack of `runs` ran.

    `clean`, `robust` and `known` are accuracies per task [n]: `robust` is the worst case of our own attacks, `known`
    the best known one, which counts the examples of others, too, on the tasks that they cover; `external` says whose.
    `required` is what any white-box entry of the board met at this eps; `runs` holds the verdicts by attack, `errors`
    (attack, reason). `check` is the entry's flags, with what this eps adds. `transferred` names the attacks that are
    adversarial test sets and of no such claim: nobody needs them, and they are no part of either worst case, or
    whoever met more of them would rank lower.
    """

    board: Board
    entry: Entry
    eps: float
    required: tuple[str, ...]
    runs: dict[str, Bits]
    errors: tuple[tuple[str, str], ...]
    check: Check
    tasks: np.ndarray
    clean: np.ndarray
    robust: np.ndarray
    known: np.ndarray
    transferred: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    claimed: tuple[str, ...] = ()

    @property
    def attacked(self) -> bool:
        """Whether an attack of its own was run, not examples that were brought along alone."""
        return bool({*self.own, *(attack for attack, _ in self.errors)} - {*self.transferred})

    @property
    def ran(self) -> tuple[str, ...]:
        return tuple(sorted(self.runs))

    @property
    def own(self) -> tuple[str, ...]:
        """The attacks that ran on this entry itself: neither transferred nor brought from outside."""
        return tuple(attack for attack in self.ran if attack not in {*self.transferred, *self.claimed})

    @property
    def missing(self) -> tuple[str, ...]:
        """The required attacks that this entry never met."""
        seen = {*self.ran, *(attack for attack, _ in self.errors)}
        return tuple(attack for attack in self.required if attack not in seen)

    @property
    def complete(self) -> bool:
        return not self.missing and not self.errors and len(self.tasks) > 0


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
        return _bootstrap(self.measured.clean)

    @cached_property
    def robust(self) -> tuple[float, float, int]:
        """Best known worst-case accuracy at the eps of the ranking, its half-width and n."""
        return (*interval(self._at_rank("known")), len(self._at_rank("known")))

    @cached_property
    def robust_bootstrap(self) -> tuple[float, float]:
        """The ends of the bootstrap interval of `robust`; NaN where there is none."""
        return _bootstrap(self._at_rank("known"))

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
        return _over_chance(self.robust, self.board.constant)

    @property
    def clean_gain(self) -> tuple[float, float, int]:
        """Clean accuracy over chance."""
        return _over_chance(self.clean, self.board.constant)

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
        tasks = _shared(found)
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


def _bootstrap(values: np.ndarray) -> tuple[float, float]:
    """Keep the ends of an accuracy's bootstrap interval within what an accuracy can be."""
    low, high = bootstrap_interval(values, seed=0)
    return (low, high) if math.isnan(low) else (max(0.0, low), min(1.0, high))


def _over_chance(found: tuple[float, float, int], constant: float) -> tuple[float, float, int]:
    mean, half, n = found
    return (mean - constant) / (1 - constant), half / (1 - constant), n


def better_than_constant(mean: float, half: float, constant: float) -> bool:
    """Say whether an accuracy's whole interval lies above what a constant predictor reaches."""
    return mean - half > constant


def eps_text(eps: float) -> str:
    """Write a budget the way papers do: 8/255 where it is a whole number of grey levels, else decimals."""
    levels = eps * 255
    if 0 < eps < 1 and abs(levels - round(levels)) < 1e-4 and round(levels):
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def summarise(results: Results) -> pd.DataFrame:
    """Return one row per cell with the columns of cells.csv, and `key`; a failed cell's accuracies are NaN."""
    bits, rows = _bits(results.tasks), []
    checks = {(one.board, one.entry): one.check for board in standings(results) for one in board}
    for cell in _records(results.cells):
        mine, check = bits.get(cell["key"]), checks[_board(cell), _entry(cell)]
        clean = robust = np.empty(0)
        if mine is not None and cell["status"] != "error":
            clean, robust = mine.clean.mean(1), mine.survived.mean(1)
        row = {**cell, "tasks": 0 if mine is None else len(mine.tasks)}
        row["clean"], row["clean_ci95"] = interval(clean)
        row["robust"], row["robust_ci95"] = interval(robust)
        row["flags"] = check.text
        if row["status"] == "ok" and check.red:
            row["status"] = "flagged"
        rows.append({column: row[column] for column in (*COLUMNS, "key")})
    table = pd.DataFrame(rows, columns=[*COLUMNS, "key"])
    apart = {"clean", "clean_ci95", "robust", "robust_ci95", "tasks", "status", "flags", "seconds"}
    order = [c for c in COLUMNS if c not in apart]
    table = table.astype({"steps": "Int64"}).sort_values([*order, "key"], na_position="first", kind="stable")
    return table.reset_index(drop=True)


def outcomes(results: Results) -> list[Outcome]:
    """Return the worst case of every entry at every eps it met, board by board."""
    bits, found = _bits(results.tasks), []
    # 8/255 and what a division elsewhere made of it are one budget.
    cells = [{**cell, "eps": round(cell["eps"], 9)} for cell in _name_attacks(_records(results.cells))]
    audits = _grouped(_records(results.audits), _audit_identity)
    for board, here in sorted(_grouped(cells, _board).items(), key=lambda item: _board_order(item[0])):
        required: dict[float, set[str]] = {}
        for cell in here:
            if not _entry(cell).black_box and _is_own(cell):
                required.setdefault(cell["eps"], set()).add(cell["attack"])
        for entry, mine in sorted(_grouped(here, _entry).items(), key=lambda item: _entry_order(item[0])):
            rows = audits.get(_identity(board, entry), []) if board.surface == "query" else []
            check = _check(board, entry, mine, bits, rows)
            for eps in sorted({cell["eps"] for cell in mine}):
                needed = tuple(sorted(required.get(eps, set())))
                found.append(_outcome(board, entry, eps, needed, mine, bits, check))
    return found


def worst_case(results: Results) -> pd.DataFrame:
    """Return the worst case over attacks of every entry and eps.

    A query counts as robust if it is right when clean and survives every attack run on it at this eps and at
    every smaller eps of the same norm and surface; tasks are those on which every attack of this eps ran. `robust` is
    the best known, which counts the examples of `external` evaluations too; `ours` is what our own attacks left.
    `low` and `high` are the ends of a bootstrap interval, `gain` is accuracy over chance.
    """
    rows = []
    for one in outcomes(results):
        row: dict[str, Any] = {**_named(one.board), **_named(one.entry), "eps": one.eps}
        row |= {"attacks": ", ".join(one.ran), "missing": ", ".join(one.missing)}
        row |= {"errors": "; ".join(f"{attack}: {reason}" for attack, reason in one.errors), "tasks": len(one.tasks)}
        row |= _accuracies("clean", one.clean) | _accuracies("robust", one.known)
        row["gain"], row["gain_ci95"], _ = _over_chance((*interval(one.known), 0), one.board.constant)
        row |= {"ours": interval(one.robust)[0], "external": "; ".join(one.external)}
        rows.append(row | {"complete": one.complete, "flags": one.check.text})
    columns = [*_names(Board), *_names(Entry), "eps", "attacks", "missing", "errors", "tasks"]
    columns += [*ACCURACIES, "gain", "gain_ci95", "ours", "external", "complete", "flags"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64"})


def _accuracies(name: str, values: np.ndarray) -> dict[str, float]:
    mean, half = interval(values)
    low, high = _bootstrap(values)
    return {name: mean, f"{name}_ci95": half, f"{name}_low": low, f"{name}_high": high}


def by_attack(results: Results) -> pd.DataFrame:
    """Return what each attack left of every entry at every eps, and the best known worst case as one more attack.

    One row per attack that ran, on all tasks that it ran on, clean accuracy on the same; `transferred` marks
    adversarial test sets, which are no part of the worst case.
    """
    rows = []
    for one in outcomes(results):
        about: dict[str, Any] = {**_named(one.board), **_named(one.entry), "eps": one.eps}
        found = {attack: (run.clean.mean(1), run.survived.mean(1)) for attack, run in sorted(one.runs.items())}
        for attack, (clean, robust) in ({WORST_CASE: (one.clean, one.known)} | found).items():
            row = {**about, "attack": attack, "transferred": attack in one.transferred, "tasks": len(robust)}
            row["clean"], row["clean_ci95"] = interval(clean)
            row["robust"], row["robust_ci95"] = interval(robust)
            rows.append(row | {"complete": one.complete if attack == WORST_CASE else True})
    columns = [*_names(Board), *_names(Entry), "eps", "attack", "transferred", "tasks"]
    columns += ["clean", "clean_ci95", "robust", "robust_ci95", "complete"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64"})


def standings(results: Results) -> list[list[Standing]]:
    """Rank every board: ranked entries first, best first, then those shown without a rank and why."""
    boards: dict[Board, dict[Entry, dict[float, Outcome]]] = {}
    for one in outcomes(results):
        boards.setdefault(one.board, {}).setdefault(one.entry, {})[one.eps] = one
    return [_rank(board, entries) for board, entries in boards.items()]


def leaderboard(results: Results) -> pd.DataFrame:
    """Return the ranked table, one row per entry, with a constant predictor as unranked reference.

    Compared is the best known worst case at `rank_eps`, the largest eps at which the most white-box entries of the
    board were evaluated. `rank`, or `rank_low`, is one more than the number of ranked entries that are significantly
    better in a paired test on the tasks that both met, corrected for all pairs (Holm); `rank_high` counts those that
    are not significantly worse. Entries of one rank are `tied`, and ordered by their mean. `area` is the mean height of
    the curve over eps, `gain` robust and `clean_gain` clean accuracy over chance. Entries that cannot be ranked come
    last, with the `reason`.
    """
    rows = []
    for board in standings(results):
        constant = board[0].board.constant
        reference: dict[str, Any] = {**_named(board[0].board), "checkpoint": CONSTANT, "rank_eps": board[0].rank_eps}
        reference |= {name: 0.0 if name.endswith("ci95") else constant for name in (*ACCURACIES, "area", "area_ci95")}
        reference |= {"gain": 0.0, "gain_ci95": 0.0, "clean_gain": 0.0, "clean_gain_ci95": 0.0, "ours": constant}
        reference |= {"tied": False, "better_than_constant": False, "external": "", "flags": "", "reason": "reference"}
        placed = [_standing_row(one) for one in board]
        above = sum(row["rank"] is not None and row["robust"] > constant for row in placed)
        rows += [*placed[:above], reference, *placed[above:]]
    columns = [*_names(Board), "rank_eps", "rank", "rank_low", "rank_high", "tied", *_names(Entry), "attacks", "tasks"]
    columns += [*ACCURACIES, "better_than_constant", "area", "area_ci95", "gain", "gain_ci95", "clean_gain"]
    columns += ["clean_gain_ci95", "ours", "external", "flags", "reason"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype(dict.fromkeys(("rank", "rank_low", "rank_high", "steps", "tasks"), "Int64"))


def separation(board: list[Standing]) -> Separation:
    """Say which differences the tasks of a board can separate, and what telling the first two apart would take.

    The smallest is that of a pair of median spread, each pair tested at 0.05 over the number of pairs (Bonferroni),
    which is what the first rank has to pass.
    """
    ranked = [one for one in board if one.rank is not None]
    if len(ranked) < 2:
        return Separation(0, 0, 0, math.nan, 0.0, apart=False, needed=None)
    found = intervals.pairs(_known([one.outcomes[one.rank_eps] for one in ranked]))
    above, count = found.above, len(found.above[0])
    n = found.n[above]
    each = [intervals.smallest_separable(s, k, count) for s, k in zip(found.spread[above], n, strict=True)]
    told = [one for one in each if not math.isnan(one)]
    return Separation(
        fewest=int(n.min()),
        most=int(n.max()),
        pairs=count,
        smallest=float(np.median(told)) if told else math.nan,
        difference=float(np.nan_to_num(found.mean[0, 1])),
        apart=bool(intervals.better(found)[[0, 1], [1, 0]].any()),
        needed=intervals.tasks_needed(float(found.mean[0, 1]), float(found.spread[0, 1]), count),
    )


def paired_differences(results: Results) -> pd.DataFrame:
    """Return how entries of one board differ on the tasks they share: entry minus reference, per-task paired.

    A defended entry is compared with the standard one of the same algorithm and steps, where there is one; every
    other with the best of its board. One row for clean accuracy, one per eps for the worst case and each attack.
    """
    rows = []
    for board in standings(results):
        for one in board:
            reference = _reference(one, board)
            if reference is not None:
                rows += _compare(one, reference)
    return _difference_table(rows)


def paired_difference(results: Results, a: str, b: str) -> pd.DataFrame:
    """Return checkpoint `a` minus checkpoint `b` on every board and step count that both were evaluated on."""
    rows = []
    for board in standings(results):
        for one in (s for s in board if s.entry.checkpoint == a):
            for other in (s for s in board if s.entry.checkpoint == b and s.entry.steps == one.entry.steps):
                rows += _compare(one, other)
    return _difference_table(rows)


def step_costs(results: Results) -> pd.DataFrame:
    """Return what more adaptation steps cost: accuracy at `next_steps` minus that at `steps`, paired task by task.

    One row for clean accuracy and one per eps for the worst case, for consecutive step counts of one checkpoint on one
    board. `p` is corrected for all rows of the board (Holm). A worst case is there where both step counts met every
    required attack.
    """
    rows: list[dict[str, Any]] = []
    for board in standings(results):
        mine: list[dict[str, Any]] = []
        for named, counts in _by_steps(board):
            for one, following in pairwise(counts):
                for attack, eps, before, after in _step_pairs(one, following):
                    difference = _on_shared(*after, *before)
                    mean, half = interval(difference)
                    row = {**named, "steps": one.entry.steps, "next_steps": following.entry.steps, "attack": attack}
                    row |= {"eps": eps, "tasks": len(difference), "difference": mean, "ci95": half}
                    mine.append(row | {"p": intervals.paired_p(difference)})
        corrected = intervals.holm([row["p"] for row in mine])
        rows += [row | {"p": p} for row, p in zip(mine, corrected, strict=True)]
    columns = [*_names(Board), *_names(Entry), "next_steps", "attack", "eps", "tasks", "difference", "ci95", "p"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64", "next_steps": "Int64"})


def step_areas(results: Results) -> pd.DataFrame:
    """Return the mean height of each checkpoint's accuracy over its adaptation steps, by trapezoids task by task.

    One row for clean accuracy and one per eps for the worst case; `steps` lists the step counts, as "1, 5, 10", of
    which only like compare. A worst case is there where every step count met every required attack.
    """
    rows = []
    for board in standings(results):
        for named, counts in _by_steps(board):
            found = [one.measured for one in counts]
            curves = [("clean", 0.0, found, [one.clean for one in found])]
            for eps in sorted(set.intersection(*(set(one.outcomes) for one in counts))):
                found = [one.outcomes[eps] for one in counts]
                if all(one.complete for one in found):
                    curves.append((WORST_CASE, eps, found, [one.known for one in found]))
            steps = [one.entry.steps or 0 for one in counts]
            for attack, eps, found, values in curves:
                tasks = _shared(found)
                heights = [x[np.isin(one.tasks, tasks)] for one, x in zip(found, values, strict=True)]
                row = {**named, "steps": ", ".join(map(str, steps)), "attack": attack, "eps": eps, "tasks": len(tasks)}
                row["area"], row["area_ci95"] = interval(intervals.trapezoids(steps, heights))
                rows.append(row)
    return pd.DataFrame(rows, columns=[*_names(Board), *_names(Entry), "attack", "eps", "tasks", "area", "area_ci95"])


def _by_steps(board: list[Standing]) -> list[tuple[dict[str, Any], list[Standing]]]:
    """Give each checkpoint of a board that was met at several step counts, with its standings by rising steps."""
    found: dict[tuple[Any, ...], list[Standing]] = {}
    for one in board:
        if one.entry.steps is not None:
            found.setdefault(_entry_order(one.entry)[:-1], []).append(one)
    made = []
    for _, mine in sorted(found.items()):
        named = {**_named(mine[0].board), **_named(mine[0].entry)}
        if len(mine) > 1:
            made.append((named, sorted(mine, key=lambda one: one.entry.steps or 0)))
    return made


_Curve = tuple[np.ndarray, np.ndarray]  # tasks [n] and an accuracy for each


def _step_pairs(one: Standing, other: Standing) -> Iterator[tuple[str, float, _Curve, _Curve]]:
    """Give what can be compared of two step counts: clean accuracy, and the worst case at every eps of both."""
    a, b = one.measured, other.measured
    yield "clean", 0.0, (a.tasks, a.clean), (b.tasks, b.clean)
    for eps in sorted(set(one.outcomes) & set(other.outcomes)):
        a, b = one.outcomes[eps], other.outcomes[eps]
        if a.complete and b.complete:
            yield WORST_CASE, eps, (a.tasks, a.known), (b.tasks, b.known)


def per_task(results: Results) -> pd.DataFrame:
    """Return one row per entry, eps, attack and task: `clean` and `robust`, the shares of its queries in [0, 1].

    The attack "worst case" is the best known one, on the tasks on which every attack of the eps ran; it is there
    only where nothing that the board requires is lacking or failed.
    """
    heads, parts = [], []
    for one in outcomes(results):
        named = {**_named(one.board), **_named(one.entry), "eps": one.eps}
        worst = [(WORST_CASE, one.tasks, one.clean, one.known)] if one.complete else []
        every = [(attack, run.tasks, run.clean.mean(1), run.survived.mean(1)) for attack, run in one.runs.items()]
        for attack, *columns in (*worst, *sorted(every, key=lambda row: row[0])):
            heads.append({**named, "attack": attack})
            parts.append(columns)
    table = pd.DataFrame(heads, columns=[*_names(Board), *_names(Entry), "eps", "attack"])
    table = table.loc[np.repeat(table.index, [len(tasks) for tasks, _, _ in parts])].reset_index(drop=True)
    tasks, clean, robust = (np.concatenate([part[i] for part in parts] or [np.empty(0)]) for i in range(3))
    return table.assign(task=tasks.astype(int), clean=clean, robust=robust).astype({"steps": "Int64"})


def agreement(results: Results) -> pd.DataFrame:
    """Return which attack fools what another misses, as counts of queries, for every entry and eps.

    One row per attack and `other` attack, also "all others": `correct` are right when clean and were met by both;
    `fooled` by the attack, `fooled_by_other` by the other or any of them, `only` by the attack and not by the other.
    Other learners' examples are left out, those of an external evaluation are not.
    """
    rows = []
    for one in outcomes(results):
        names = [attack for attack in one.ran if attack not in one.transferred]
        named = {**_named(one.board), **_named(one.entry), "eps": one.eps}
        for attack in names if len(names) > 1 else ():
            others = [name for name in names if name != attack]
            for label, group in (*((name, [name]) for name in others), (ALL_OTHERS, others)):
                counted = _overlap(one.runs[attack], [one.runs[name] for name in group])
                rows.append({**named, "attack": attack, "other": label, **counted})
    columns = [*_names(Board), *_names(Entry), "eps", "attack", "other", "correct", "fooled", "fooled_by_other", "only"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64"})


def _overlap(run: Bits, others: list[Bits]) -> dict[str, int]:
    """Count the clean-correct queries that all met, and those fooled by `run`, by any other, and by `run` alone."""
    tasks = run.tasks
    for one in others:
        tasks = np.intersect1d(tasks, one.tasks)
    right = np.logical_and.reduce([one.clean[one.at(tasks)] for one in (run, *others)])
    mine = right & ~run.survived[run.at(tasks)]
    theirs = right & ~stand(others, tasks)
    return {
        "correct": int(right.sum()),
        "fooled": int(mine.sum()),
        "fooled_by_other": int(theirs.sum()),
        "only": int((mine & ~theirs).sum()),
    }


def is_set(attack_fields: str) -> bool:
    """Say whether an attack, by its configuration, gives back an adversarial test set."""
    return attack_fields.startswith(SET)


def attack_fields(results: Results) -> dict[str, str]:
    """Say how every attack was configured, by the name it has on the boards."""
    cells = _name_attacks(_records(results.cells))
    return dict(sorted({(cell["attack"], cell["attack_fields"]) for cell in cells}))


def cells_behind(results: Results) -> dict[tuple[Board, Entry, float, str], dict[str, Any]]:
    """Return the cell of every run, by board, entry, eps and the name that its attack has on the boards."""
    cells = _records(results.cells)
    return {
        (_board(cell), _entry(cell), round(cell["eps"], 9), named["attack"]): cell
        for cell, named in zip(cells, _name_attacks(cells), strict=True)
    }


def _outcome(
    board: Board,
    entry: Entry,
    eps: float,
    required: tuple[str, ...],
    mine: list[dict[str, Any]],
    bits: dict[str, Bits],
    check: Check,
) -> Outcome:
    here = [cell for cell in mine if cell["eps"] == eps]
    ran = [cell for cell in here if cell["status"] != "error" and cell["key"] in bits]
    # A cell without a single record has not run: it neither counts as an attack survived nor as an error.
    errors = tuple(
        (cell["attack"], str(cell["reason"])) for cell in here if cell["status"] == "error" and not cell["external"]
    )
    tasks = np.empty(0, int)
    clean = robust = known = np.empty(0)
    claims: list[dict[str, Any]] = []
    if ran:
        whole = [cell for cell in ran if _is_own(cell)] or [cell for cell in ran if not cell["external"]] or ran
        tasks = bits[whole[0]["key"]].tasks
        for cell in whole[1:]:
            tasks = np.intersect1d(tasks, bits[cell["key"]].tasks)
        lower = [cell for cell in mine if cell["eps"] <= eps and cell["key"] in bits]
        own = [bits[c["key"]] for c in lower if _is_own(c) or (c in whole and not c["external"])]
        claims = [c for c in lower if c["external"] and np.isin(tasks, bits[c["key"]].tasks).any()]
        first = bits[whole[0]["key"]]
        clean = first.clean[first.at(tasks)].mean(1)
        robust = stand(own, tasks).mean(1) if own else np.full(len(tasks), np.nan)
        known = stand([*own, *(bits[cell["key"]] for cell in claims)], tasks).mean(1)
    runs = {cell["attack"]: bits[cell["key"]] for cell in ran}
    collapsed = signs.at_chance(*interval(known), board.constant, len(known))
    check = replace(check, flags=signs.merge([*check.flags, *collapsed]))
    return Outcome(
        board=board,
        entry=entry,
        eps=eps,
        required=required,
        runs=runs,
        errors=errors,
        check=check,
        tasks=tasks,
        clean=clean,
        robust=robust,
        known=known,
        transferred=tuple(sorted(c["attack"] for c in here if is_set(c["attack_fields"]) and not c["external"])),
        external=tuple(sorted({cell["external"] for cell in claims})),
        claimed=tuple(sorted(cell["attack"] for cell in here if cell["external"])),
    )


def _check(
    board: Board, entry: Entry, mine: list[dict[str, Any]], bits: dict[str, Bits], rows: list[dict[str, Any]]
) -> Check:
    """Gather the flags of an entry's cells and of its audit, the one at the largest eps if there are several."""
    runs = {(cell["attack"], cell["eps"]): bits[cell["key"]] for cell in mine if cell["key"] in bits}
    found = list(signs.of_cells(runs))
    if not rows:
        return Check(tuple(found))
    latest = max(rows, key=lambda row: (row["eps"], row["version"], row["key"]))
    last = latest["key"]
    measures = [row["measures"] for row in rows if row["key"] == last and row["measures"] is not None]
    failure = next((str(row["reason"]) for row in rows if row["key"] == last and row["status"] == "error"), "")
    found += signs.of_audit(measures, ways=board.ways, transductive=entry.norm_mode == "batch")
    if measures:
        audited = _Audited(*(np.array([getattr(one, name) for one in measures]) for name in ("task", "clean")))
        found += [flag for run in runs.values() for flag in signs.reproduced(run, audited)]
        eps, seen = max(cell["eps"] for cell in mine), set().union(*(run.tasks.tolist() for run in runs.values()))
        lacks = f"audited up to {eps_text(latest['eps'])}" if round(latest["eps"], 9) < eps else ""
        if len(measures) < signs.audited_tasks(len(seen)):
            lacks = f"{len(measures)} of {signs.audited_tasks(len(seen))} tasks audited"
        return Check(signs.merge(found), len(measures), failure, lacks)
    return Check(signs.merge(found), 0, failure)


@dataclass(frozen=True, eq=False)
class _Audited:
    """The clean verdicts of an audit, in task order: tasks [n], clean [n, Q]."""

    tasks: np.ndarray
    clean: np.ndarray

    @property
    def survived(self) -> np.ndarray:
        return self.clean


def _identity(board: Board, entry: Entry) -> tuple[Any, ...]:
    """Say what an audit and its entry share, whatever the display name was."""
    here = {**_named(board), **_named(entry)}
    return tuple(value for name, value in here.items() if name not in ("surface", "checkpoint"))


def _audit_identity(row: dict[str, Any]) -> tuple[Any, ...]:
    names = [*_names(Board), *_names(Entry)]
    return tuple(row[name] for name in names if name not in ("surface", "checkpoint"))


def _grouped(rows: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], _Key]) -> dict[_Key, list[dict[str, Any]]]:
    found: dict[_Key, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _is_own(cell: dict[str, Any]) -> bool:
    """Say whether a cell is an attack on its own learner by us, one that every entry of a board has to meet."""
    return not cell["external"] and not is_set(cell["attack_fields"])


def stand(runs: Iterable[Bits], tasks: np.ndarray) -> np.ndarray:
    """Return which queries survive every run [n, Q]; a run without a task says nothing about it."""
    standing: np.ndarray | None = None
    for run in runs:
        at = np.minimum(run.at(tasks), len(run.tasks) - 1)
        rows = run.tasks[at] == tasks
        if standing is None:
            standing = np.ones((len(tasks), run.survived.shape[1]), bool)
        if run.survived.shape[1] != standing.shape[1]:
            _refuse(f"results: one entry has {standing.shape[1]} and {run.survived.shape[1]} judged queries in a task")
        standing[rows] &= run.survived[at[rows]]
    assert standing is not None
    return standing


def _rank(board: Board, entries: dict[Entry, dict[float, Outcome]]) -> list[Standing]:
    eps = _rank_eps(entries)
    reasons = {entry: _reason(entry, found, eps) for entry, found in entries.items()}
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
    judged = [found for entry, found in entries.items() if not entry.black_box] or list(entries.values())
    counts = Counter(eps for found in judged for eps, one in found.items() if one.attacked)
    counts = counts or Counter(eps for found in judged for eps in found)
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


def _shared(found: Sequence[Outcome]) -> np.ndarray:
    """Return the tasks that all of them met."""
    tasks = found[0].tasks if found else np.empty(0, int)
    for one in found[1:]:
        tasks = np.intersect1d(tasks, one.tasks)
    return tasks


def _paired(a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> tuple[float, float, int]:
    """Return mean, half-width and n of x - y over the tasks that `a` and `b` share."""
    difference = _on_shared(a, x, b, y)
    return (*interval(difference), len(difference))


def _on_shared(a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return x - y on the tasks that `a` and `b`, both sorted, share."""
    shared = np.intersect1d(a, b)
    difference: np.ndarray = x[np.searchsorted(a, shared)] - y[np.searchsorted(b, shared)]
    return difference


def _reference(one: Standing, board: list[Standing]) -> Standing | None:
    """Choose what an entry is compared with; None for the best itself and for standards that serve others."""
    me = one.entry
    if me.black_box:
        return None

    def standard(other: Standing, of: Entry) -> bool:
        theirs = other.entry
        same = (theirs.algorithm, theirs.norm_mode, theirs.steps) == (of.algorithm, of.norm_mode, of.steps)
        return same and theirs.defense == "standard" != of.defense

    mine = [other for other in board if standard(other, me)]
    if mine:
        return mine[0]
    if any(standard(one, other.entry) for other in board) or one is board[0] or board[0].rank is None:
        return None
    return board[0]


def _compare(one: Standing, reference: Standing) -> list[dict[str, Any]]:
    names: dict[str, Any] = {**_named(one.board), "checkpoint": one.entry.checkpoint, "weights": one.entry.weights}
    names |= {"steps": one.entry.steps, "reference": reference.entry.checkpoint}
    names |= {"reference_weights": reference.entry.weights, "reference_steps": reference.entry.steps}
    rows = []

    def add(attack: str, eps: float, a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
        mean, half, n = _paired(a, x, b, y)
        if n:
            rows.append({**names, "attack": attack, "eps": eps, "tasks": n, "difference": mean, "ci95": half})

    for eps in sorted(set(one.outcomes) & set(reference.outcomes)):
        a, b = one.outcomes[eps], reference.outcomes[eps]
        if eps == one.rank_eps:
            add("clean", 0.0, a.tasks, a.clean, b.tasks, b.clean)
        if a.complete and b.complete:
            add(WORST_CASE, eps, a.tasks, a.known, b.tasks, b.known)
        for attack in sorted(set(a.runs) & set(b.runs)):
            x, y = a.runs[attack], b.runs[attack]
            add(attack, eps, x.tasks, x.survived.mean(1), y.tasks, y.survived.mean(1))
    return rows


def _difference_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = [*_names(Board), "checkpoint", "weights", "steps", "reference", "reference_weights", "reference_steps"]
    columns += ["attack", "eps", "tasks", "difference", "ci95"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64", "reference_steps": "Int64"})


def _standing_row(one: Standing) -> dict[str, Any]:
    row: dict[str, Any] = {**_named(one.board), "rank_eps": one.rank_eps, "rank": one.rank, "tied": one.tied}
    row |= {"rank_low": one.rank_low, "rank_high": one.rank_high}
    row |= {**_named(one.entry), "flags": one.check.text, "reason": one.reason}
    row["clean"], row["clean_ci95"], _ = one.clean
    row["clean_low"], row["clean_high"] = one.clean_bootstrap
    row["robust"], row["robust_ci95"], row["tasks"] = one.robust
    row["robust_low"], row["robust_high"] = one.robust_bootstrap
    row["better_than_constant"] = better_than_constant(row["robust"], row["robust_ci95"], one.board.constant)
    for name in ("area", "gain", "clean_gain"):
        row[name], row[f"{name}_ci95"], _ = getattr(one, name)
    row |= {"ours": one.ours[0], "external": "; ".join(one.external)}
    here = one.outcomes.get(one.rank_eps)
    return row | {"attacks": "" if here is None else ", ".join(here.ran)}


def _records(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the cells as dictionaries, `steps` an int or None."""
    rows: list[dict[str, Any]] = []
    for row in cells.to_dict("records"):
        cell = {str(name): value for name, value in row.items()}
        cell["steps"] = None if pd.isna(cell["steps"]) else int(cell["steps"])
        claim = cell.get("external")  # whose examples these are; a store that knows of none has no such column
        cell["external"] = claim if isinstance(claim, str) else ""
        cell["track"] = "transductive" if cell["norm_mode"] == "batch" else "inductive"
        rows.append(cell)
    return rows


def _bits(tasks: pd.DataFrame) -> dict[str, Bits]:
    """Turn bit strings into arrays, by cell key; a query that is wrong when clean never counts as robust."""
    found = {}
    # Plain lists and arrays, since a frame of its own for each of thousands of cells takes seconds.
    columns = {name: tasks[name].to_numpy() for name in ("task", "clean", "survived", "forwards", "backwards")}
    for key, places in tasks.groupby("key", sort=False).indices.items():
        rows = np.asarray(places)[np.argsort(columns["task"][places], kind="stable")]
        clean, survived = (_matrix(columns[name][rows].tolist(), str(key)) for name in ("clean", "survived"))
        if clean.shape != survived.shape:
            _refuse(f"results: cell {key}: clean and survived bits differ in length")
        sent = (columns["forwards"][rows], columns["backwards"][rows])
        found[str(key)] = Bits(columns["task"][rows], clean, clean & survived, *sent)
    return found


def _matrix(strings: list[str], key: str) -> np.ndarray:
    lengths = {len(text) for text in strings}
    joined = np.frombuffer("".join(strings).encode(), np.uint8)
    if len(lengths) != 1 or not joined.size or not np.isin(joined, (48, 49)).all():
        _refuse(f"results: cell {key}: verdicts are not bits of one length")
    return joined.reshape(len(strings), -1) == 49


def _name_attacks(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tell apart attacks that share a name and not their settings, by a hash of the settings."""
    settings: dict[str, set[str]] = {}
    for cell in cells:
        settings.setdefault(cell["attack"], set()).add(cell["attack_fields"])

    def name(cell: dict[str, Any]) -> str:
        if len(settings[cell["attack"]]) == 1:
            return str(cell["attack"])
        fields = cell["attack_fields"].encode("utf-8", "backslashreplace")
        return f"{cell['attack']} #{hashlib.sha256(fields).hexdigest()[:6]}"

    return [{**cell, "attack": name(cell)} for cell in cells]


def _board(cell: dict[str, Any]) -> Board:
    return Board(**{name: cell[name] for name in _names(Board)})


def _entry(cell: dict[str, Any]) -> Entry:
    return Entry(**{name: cell[name] for name in _names(Entry)})


def _board_order(board: Board) -> tuple[Any, ...]:
    return (board.surface != "query", board.track, *asdict(board).values())


def _entry_order(entry: Entry) -> tuple[Any, ...]:
    steps = -1 if entry.steps is None else entry.steps
    return (entry.checkpoint, entry.weights, entry.algorithm, entry.defense, entry.norm_mode, steps)


def _named(noun: Board | Entry) -> dict[str, Any]:
    return {name: getattr(noun, name) for name in _names(type(noun))}


def _names(noun: type[Board | Entry]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(noun))


def _refuse(message: str) -> NoReturn:
    # Imported here because the vocabulary needs torch, which a report otherwise does without.
    from robustbench_meta.types import InputError

    raise InputError(message)
