"""Intervals, paired differences, the worst case over attacks and tied ranks, from the bits a store holds.

A board is a set of entries met by the same episodes under the same threat; an entry is one row of it: a
checkpoint at one number of adaptation steps. Accuracies are in [0, 1]; every interval is the half-width of a
95 % Student t interval over tasks, so it says nothing about other training seeds.
Shapes: n tasks, Q judged queries in a task.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from robustbench_meta import flags as signs
from robustbench_meta.flags import Flag

COLUMNS = (
    *("checkpoint", "algorithm", "defense", "family", "split", "ways", "shots", "queries", "steps", "norm_mode"),
    *("surface", "norm", "eps", "attack", "tasks", "seed", "clean", "clean_ci95", "robust", "robust_ci95"),
    *("status", "flags", "seconds"),
)
WORST_CASE, ALL_OTHERS = "worst case", "all others"
CONSTANT = "constant predictor"
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

    `clean` and `robust` are accuracies per task [n]; `robust` is the worst case. `required` is what any
    white-box entry of the board met at this eps; `runs` holds the verdicts by attack, `errors` (attack, reason).
    `check` is the entry's flags, with what this eps adds. `transferred` names the attacks that are adversarial test
    sets: nobody needs them, and they are no part of the worst case, or whoever met more of them would rank lower.
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
    transferred: tuple[str, ...] = ()

    @property
    def attacked(self) -> bool:
        """Whether an attack of its own was run, not another learner's examples alone."""
        return bool({*self.ran, *(attack for attack, _ in self.errors)} - {*self.transferred})

    @property
    def ran(self) -> tuple[str, ...]:
        return tuple(sorted(self.runs))

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

    `check` holds the flags of all its cells and of its audit, and of its accuracy at the eps of the ranking.
    """

    board: Board
    entry: Entry
    rank_eps: float
    rank: int | None
    tied: bool
    reason: str
    outcomes: dict[float, Outcome]

    @property
    def check(self) -> Check:
        return self.outcomes.get(self.rank_eps, next(iter(self.outcomes.values()))).check

    @cached_property
    def clean(self) -> tuple[float, float, int]:
        """Clean accuracy, its half-width and n, on the tasks of the ranking where there are any."""
        here = self.outcomes.get(self.rank_eps)
        if here is None or not len(here.tasks):
            here = max(self.outcomes.values(), key=lambda outcome: len(outcome.tasks))
        return (*interval(here.clean), len(here.clean))

    @cached_property
    def robust(self) -> tuple[float, float, int]:
        """Worst-case accuracy at the eps of the ranking, its half-width and n."""
        here = self.outcomes.get(self.rank_eps)
        values = np.empty(0) if here is None else here.robust
        return (*interval(values), len(values))


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % t interval; NaN where too few values give none."""
    n = len(values)
    if n == 0:
        return math.nan, math.nan
    mean = float(np.mean(values))
    if n == 1:
        return mean, math.nan
    return mean, float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n))


def mann_whitney(
    x: Sequence[float], y: Sequence[float], alternative: Literal["greater", "two-sided"] = "two-sided"
) -> float:
    """Return the p-value of a Mann-Whitney test that x is greater, or other, than y: exact, but for ties."""
    from scipy.stats import mannwhitneyu

    tied = len({*x, *y}) < len(x) + len(y)
    found = mannwhitneyu(x, y, alternative=alternative, method="asymptotic" if tied else "exact")
    return float(found.pvalue)


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
    for board in sorted({_board(cell) for cell in cells}, key=_board_order):
        here = [cell for cell in cells if _board(cell) == board]
        required: dict[float, set[str]] = {}
        for cell in here:
            if not _entry(cell).black_box and not is_set(cell["attack_fields"]):
                required.setdefault(cell["eps"], set()).add(cell["attack"])
        for entry in sorted({_entry(cell) for cell in here}, key=_entry_order):
            mine = [cell for cell in here if _entry(cell) == entry]
            check = _check(board, entry, mine, bits, results.audits)
            for eps in sorted({cell["eps"] for cell in mine}):
                needed = tuple(sorted(required.get(eps, set())))
                found.append(_outcome(board, entry, eps, needed, mine, bits, check))
    return found


def worst_case(results: Results) -> pd.DataFrame:
    """Return the worst case over attacks of every entry and eps.

    A query counts as robust if it is right when clean and survives every attack run on it at this eps and at
    every smaller eps of the same norm and surface; tasks are those on which every attack of this eps ran.
    """
    rows = []
    for one in outcomes(results):
        row: dict[str, Any] = {**_named(one.board), **_named(one.entry), "eps": one.eps}
        row |= {"attacks": ", ".join(one.ran), "missing": ", ".join(one.missing)}
        row |= {"errors": "; ".join(f"{attack}: {reason}" for attack, reason in one.errors), "tasks": len(one.tasks)}
        row["clean"], row["clean_ci95"] = interval(one.clean)
        row["robust"], row["robust_ci95"] = interval(one.robust)
        rows.append(row | {"complete": one.complete, "flags": one.check.text})
    columns = [*_names(Board), *_names(Entry), "eps", "attacks", "missing", "errors", "tasks"]
    columns += ["clean", "clean_ci95", "robust", "robust_ci95", "complete", "flags"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64"})


def by_attack(results: Results) -> pd.DataFrame:
    """Return what each attack left of every entry at every eps, and the worst case as one more attack.

    One row per attack that ran, on all tasks that it ran on, clean accuracy on the same; `transferred` marks
    adversarial test sets, which are no part of the worst case.
    """
    rows = []
    for one in outcomes(results):
        about: dict[str, Any] = {**_named(one.board), **_named(one.entry), "eps": one.eps}
        found = {attack: (run.clean.mean(1), run.survived.mean(1)) for attack, run in sorted(one.runs.items())}
        for attack, (clean, robust) in ({WORST_CASE: (one.clean, one.robust)} | found).items():
            row = {**about, "attack": attack, "transferred": attack in one.transferred, "tasks": len(robust)}
            row["clean"], row["clean_ci95"] = interval(clean)
            row["robust"], row["robust_ci95"] = interval(robust)
            rows.append(row | {"complete": one.complete if attack == WORST_CASE else True})
    columns = [*_names(Board), *_names(Entry), "eps", "attack", "transferred", "tasks"]
    columns += ["clean", "clean_ci95", "robust", "robust_ci95", "complete"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64"})


def per_task(results: Results) -> pd.DataFrame:
    """Return one row per entry, eps, attack and task: `clean` and `robust`, the shares of its queries in [0, 1].

    The attack "worst case" has the tasks on which every attack of the eps ran, where nothing required is lacking.
    """
    parts = []
    for one in outcomes(results):
        found = {attack: (run.tasks, run.clean.mean(1), run.survived.mean(1)) for attack, run in one.runs.items()}
        worst = {WORST_CASE: (one.tasks, one.clean, one.robust)} if one.complete else {}
        for attack, (tasks, clean, robust) in (worst | dict(sorted(found.items()))).items():
            named = {**_named(one.board), **_named(one.entry), "eps": one.eps, "attack": attack, "task": tasks}
            parts.append(pd.DataFrame(named).assign(clean=clean, robust=robust).astype({"steps": "Int64"}))
    columns = [*_names(Board), *_names(Entry), "eps", "attack", "task", "clean", "robust"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def agreement(results: Results) -> pd.DataFrame:
    """Return how far attacks agree: which queries of an entry one attack fools at an eps and another does not.

    `correct` are those right when clean on the tasks that both ran on, `fooled` and `fooled_by_other` how many of
    them each fools, `only` how many `attack` fools and `other` does not. Where `other` is "all others" the tasks are
    those that every attack ran on. Adversarial test sets are left out: they were made on another learner.
    """
    rows = []
    for one in outcomes(results):
        about: dict[str, Any] = {**_named(one.board), **_named(one.entry), "eps": one.eps}
        runs = {attack: one.runs[attack] for attack in one.ran if attack not in one.transferred}
        for attack, run in runs.items():
            others = [(other, [theirs]) for other, theirs in runs.items() if other != attack]
            if others:
                others.append((ALL_OTHERS, [theirs for _, (theirs,) in others]))
            rows += [{**about, "attack": attack, "other": other, **_fooled(run, theirs)} for other, theirs in others]
    columns = [*_names(Board), *_names(Entry), "eps", "attack", "other", "correct", "fooled", "fooled_by_other", "only"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64"})


def standings(results: Results) -> list[list[Standing]]:
    """Rank every board: ranked entries first, best first, then those shown without a rank and why."""
    boards: dict[Board, dict[Entry, dict[float, Outcome]]] = {}
    for one in outcomes(results):
        boards.setdefault(one.board, {}).setdefault(one.entry, {})[one.eps] = one
    return [_rank(board, entries) for board, entries in boards.items()]


def leaderboard(results: Results) -> pd.DataFrame:
    """Return the ranked table, one row per entry, with a constant predictor as unranked reference.

    Entries are ordered by the worst case at `rank_eps`, the largest eps at which the most white-box entries of
    the board were evaluated. They share a rank where the paired difference's interval to that rank's leader
    includes 0. Entries that cannot be ranked come last, with the `reason`.
    """
    rows = []
    for board in standings(results):
        reference: dict[str, Any] = {**_named(board[0].board), "checkpoint": CONSTANT, "rank_eps": board[0].rank_eps}
        constant = board[0].board.constant
        reference |= {"clean": constant, "clean_ci95": 0.0, "robust": constant, "robust_ci95": 0.0}
        reference |= {"tied": False, "better_than_constant": False, "flags": "", "reason": "reference"}
        placed = [_standing_row(one) for one in board]
        above = sum(row["rank"] is not None and row["robust"] > constant for row in placed)
        rows += [*placed[:above], reference, *placed[above:]]
    columns = [*_names(Board), "rank_eps", "rank", "tied", *_names(Entry), "attacks", "tasks"]
    columns += ["clean", "clean_ci95", "robust", "robust_ci95", "better_than_constant", "flags", "reason"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"rank": "Int64", "steps": "Int64", "tasks": "Int64"})


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


def is_set(attack_fields: str) -> bool:
    """Say whether an attack, by its configuration, gives back an adversarial test set."""
    return attack_fields.startswith(SET)


def attack_fields(results: Results) -> dict[str, str]:
    """Say how every attack was configured, by the name it has on the boards."""
    cells = _name_attacks(_records(results.cells))
    return dict(sorted({(cell["attack"], cell["attack_fields"]) for cell in cells}))


def _fooled(run: Bits, others: Sequence[Bits]) -> dict[str, int]:
    """Count the clean-correct queries that a run fools, that any of the others fools, and that the run alone fools."""
    tasks = run.tasks
    for other in others:
        tasks = np.intersect1d(tasks, other.tasks)
    mine, stood = run.at(tasks), _stand(others, tasks)
    clean = run.clean[mine]
    fooled, theirs = clean & ~run.survived[mine], clean & ~stood
    counts = {"correct": clean, "fooled": fooled, "fooled_by_other": theirs, "only": fooled & ~theirs}
    return {name: int(found.sum()) for name, found in counts.items()}


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
    errors = tuple((cell["attack"], str(cell["reason"])) for cell in here if cell["status"] == "error")
    tasks, clean, robust = np.empty(0, int), np.empty(0), np.empty(0)
    if ran:
        whole = [cell for cell in ran if not is_set(cell["attack_fields"])] or ran
        tasks = bits[whole[0]["key"]].tasks
        for cell in whole[1:]:
            tasks = np.intersect1d(tasks, bits[cell["key"]].tasks)
        own = [cell for cell in mine if not is_set(cell["attack_fields"]) or cell in whole]
        lower = [bits[cell["key"]] for cell in own if cell["eps"] <= eps and cell["key"] in bits]
        survived = _stand(lower, tasks)
        first = bits[whole[0]["key"]]
        clean, robust = first.clean[first.at(tasks)].mean(1), survived.mean(1)
    runs = {cell["attack"]: bits[cell["key"]] for cell in ran}
    collapsed = signs.at_chance(*interval(robust), board.constant, len(robust))
    check = replace(check, flags=signs.merge([*check.flags, *collapsed]))
    transferred = tuple(sorted(cell["attack"] for cell in here if is_set(cell["attack_fields"])))
    return Outcome(board, entry, eps, required, runs, errors, check, tasks, clean, robust, transferred)


def _check(
    board: Board, entry: Entry, mine: list[dict[str, Any]], bits: dict[str, Bits], audits: pd.DataFrame
) -> Check:
    """Gather the flags of an entry's cells and of its audit, the one at the largest eps if there are several."""
    runs = {(cell["attack"], cell["eps"]): bits[cell["key"]] for cell in mine if cell["key"] in bits}
    found = list(signs.of_cells(runs))
    rows = [row for row in _records(audits) if board.surface == "query" and _is_of(row, board, entry)]
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


def _is_of(row: dict[str, Any], board: Board, entry: Entry) -> bool:
    """Say whether an audit is one of this entry, whatever the display name was."""
    here = {**_named(board), **_named(entry)}
    return all(row[name] == value for name, value in here.items() if name not in ("surface", "checkpoint"))


def _stand(runs: Iterable[Bits], tasks: np.ndarray) -> np.ndarray:
    """Return which queries survive every run [n, Q]; a run without a task says nothing about it."""
    standing: np.ndarray | None = None
    for run in runs:
        rows = np.isin(tasks, run.tasks)
        if standing is None:
            standing = np.ones((len(tasks), run.survived.shape[1]), bool)
        if run.survived.shape[1] != standing.shape[1]:
            _refuse(f"results: one entry has {standing.shape[1]} and {run.survived.shape[1]} judged queries in a task")
        standing[rows] &= run.survived[run.at(tasks[rows])]
    assert standing is not None
    return standing


def _rank(board: Board, entries: dict[Entry, dict[float, Outcome]]) -> list[Standing]:
    eps = _rank_eps(entries)
    reasons = {entry: _reason(entry, found, eps) for entry, found in entries.items()}
    ranked = [entry for entry in entries if not reasons[entry]]
    shared = _shared([entries[entry][eps] for entry in ranked])
    ranked.sort(key=lambda entry: -_mean_on(entries[entry][eps], shared))
    places: dict[Entry, int] = {}
    leader: Entry | None = None
    for place, entry in enumerate(ranked, start=1):
        if leader is None or not _tied(entries[leader][eps], entries[entry][eps]):
            leader = entry
            places[entry] = place
        else:
            places[entry] = places[leader]
    sizes = Counter(places.values())
    rest = sorted((entry for entry in entries if reasons[entry]), key=lambda entry: entry.black_box)
    return [
        Standing(board, e, eps, places.get(e), sizes[places.get(e, 0)] > 1, reasons[e], entries[e])
        for e in (*ranked, *rest)
    ]


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


def _tied(leader: Outcome, other: Outcome) -> bool:
    mean, half, _ = _paired(leader.tasks, leader.robust, other.tasks, other.robust)
    return not abs(mean) > half  # too few shared tasks (NaN) cannot tell two entries apart


def _shared(found: Sequence[Outcome]) -> np.ndarray:
    """Return the tasks that all of them met, so that none is placed by easier tasks of its own."""
    tasks = found[0].tasks if found else np.empty(0, int)
    for one in found[1:]:
        tasks = np.intersect1d(tasks, one.tasks)
    return tasks


def _mean_on(one: Outcome, tasks: np.ndarray) -> float:
    return float(one.robust[np.isin(one.tasks, tasks)].mean()) if len(tasks) else float(one.robust.mean())


def _paired(a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> tuple[float, float, int]:
    """Return mean, half-width and n of x - y over the tasks that `a` and `b`, both sorted, share."""
    shared = np.intersect1d(a, b)
    return (*interval(x[np.searchsorted(a, shared)] - y[np.searchsorted(b, shared)]), len(shared))


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
            add(WORST_CASE, eps, a.tasks, a.robust, b.tasks, b.robust)
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
    row |= {**_named(one.entry), "flags": one.check.text, "reason": one.reason}
    row["clean"], row["clean_ci95"], _ = one.clean
    row["robust"], row["robust_ci95"], row["tasks"] = one.robust
    row["better_than_constant"] = better_than_constant(row["robust"], row["robust_ci95"], one.board.constant)
    here = one.outcomes.get(one.rank_eps)
    return row | {"attacks": "" if here is None else ", ".join(here.ran)}


def _records(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the cells as dictionaries, `steps` an int or None."""
    rows: list[dict[str, Any]] = []
    for row in cells.to_dict("records"):
        cell = {str(name): value for name, value in row.items()}
        cell["steps"] = None if pd.isna(cell["steps"]) else int(cell["steps"])
        cell["track"] = "transductive" if cell["norm_mode"] == "batch" else "inductive"
        rows.append(cell)
    return rows


def _bits(tasks: pd.DataFrame) -> dict[str, Bits]:
    """Turn bit strings into arrays, by cell key; a query that is wrong when clean never counts as robust."""
    found = {}
    for key, rows in tasks.groupby("key", sort=False):
        rows = rows.sort_values("task")
        clean, survived = (_matrix(rows["clean"], str(key)), _matrix(rows["survived"], str(key)))
        if clean.shape != survived.shape:
            _refuse(f"results: cell {key}: clean and survived bits differ in length")
        sent = (rows["forwards"].to_numpy(), rows["backwards"].to_numpy())
        found[str(key)] = Bits(rows["task"].to_numpy(), clean, clean & survived, *sent)
    return found


def _matrix(strings: pd.Series, key: str) -> np.ndarray:
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
