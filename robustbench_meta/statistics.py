"""Tables of accuracies, ranks and paired differences for pages and notebooks, each a DataFrame.

Accuracies are in [0, 1]; every interval is the half-width of a 95 % Student t interval over tasks, so it says nothing
about other training seeds. Only `leaderboard` and `paired_differences` have rows of several seeds, whose intervals are
over seeds and tasks from three seeds on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from robustbench_meta import intervals
from robustbench_meta.intervals import interval, spanning
from robustbench_meta.outcomes import (
    Bits,
    Board,
    Entry,
    Outcome,
    Results,
    bits_by_key,
    board_of,
    entry_of,
    entry_order,
    field_names,
    fields_of,
    outcomes,
    records,
    stand,
)
from robustbench_meta.ranking import (
    Standing,
    better_than_constant,
    bootstrapped,
    checkpoints,
    on_shared,
    over_chance,
    paired,
    shared_tasks,
    standings,
)

COLUMNS = (
    *("checkpoint", "algorithm", "defense", "family", "split", "ways", "shots", "queries", "steps", "norm_mode"),
    *("surface", "fraction", "norm", "eps", "attack", "tasks", "seed", "clean", "clean_ci95", "robust", "robust_ci95"),
    *("status", "flags", "seconds"),
)
ACCURACIES = tuple(f"{name}{end}" for name in ("clean", "robust") for end in ("", "_ci95", "_low", "_high"))
WORST_CASE, ALL_OTHERS, MEAN = "worst case", "all others", "mean"
CONSTANT = "constant predictor"


def summarise(results: Results) -> pd.DataFrame:
    """Return one row per cell with the columns of cells.csv, and `key`; a failed cell's accuracies are NaN."""
    bits, rows = bits_by_key(results), []
    checks = {(one.board, one.entry): one.check for board in checkpoints(results) for one in board}
    for cell in records(results.cells):
        mine, check = bits.get(cell["key"]), checks[board_of(cell), entry_of(cell)]
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


def worst_case(results: Results) -> pd.DataFrame:
    """Return the worst case over attacks of every entry and eps.

    A query counts as robust if it is right when clean and survives every attack run on it at this eps and at
    every smaller eps of the same norm and surface; tasks are those on which every attack of this eps ran. `robust` is
    the best known, which counts the examples of `external` evaluations too; `ours` is what our own attacks left.
    `low` and `high` are the ends of a bootstrap interval, `gain` is accuracy over chance.
    """
    return worst_cases(outcomes(results))


def worst_cases(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """Return the columns of `worst_case` for outcomes at hand, as those of `ranking.rows`."""
    rows = []
    for one in outcomes:
        row: dict[str, Any] = {**fields_of(one.board), **fields_of(one.entry), "eps": one.eps}
        row |= {"attacks": ", ".join(one.ran), "missing": ", ".join(one.missing)}
        row |= {"errors": "; ".join(f"{attack}: {reason}" for attack, reason in one.errors), "tasks": len(one.tasks)}
        row |= _accuracies("clean", one.sample("clean")) | _accuracies("robust", one.sample("known"))
        row["gain"], row["gain_ci95"], _ = over_chance((*one.accuracy("known"), 0), one.board.constant)
        row |= {"ours": one.accuracy("robust")[0], "external": "; ".join(one.external)}
        rows.append(row | {"complete": one.complete, "flags": one.check.text})
    columns = [*field_names(Board), *field_names(Entry), "eps", "attacks", "missing", "errors", "tasks"]
    columns += [*ACCURACIES, "gain", "gain_ci95", "ours", "external", "complete", "flags"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64"})


def _accuracies(name: str, sample: np.ndarray) -> dict[str, float]:
    mean, half = spanning(sample)
    low, high = bootstrapped(sample)
    return {name: mean, f"{name}_ci95": half, f"{name}_low": low, f"{name}_high": high}


def by_attack(results: Results) -> pd.DataFrame:
    """Return what each attack left of every entry at every eps, and the best known worst case as one more attack.

    One row per attack that ran, on all tasks that it ran on, clean accuracy on the same; `transferred` marks
    adversarial test sets, which are no part of the worst case.
    """
    return by_attacks(outcomes(results))


def by_attacks(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """Return the columns of `by_attack` for outcomes at hand."""
    rows = []
    for one in outcomes:
        about: dict[str, Any] = {**fields_of(one.board), **fields_of(one.entry), "eps": one.eps}
        found = {attack: (run.sample("clean"), run.sample("survived")) for attack, run in sorted(one.runs.items())}
        for attack, (clean, robust) in ({WORST_CASE: (one.sample("clean"), one.sample("known"))} | found).items():
            row = {**about, "attack": attack, "transferred": attack in one.transferred, "tasks": robust.shape[1]}
            row["clean"], row["clean_ci95"] = spanning(clean)
            row["robust"], row["robust_ci95"] = spanning(robust)
            rows.append(row | {"complete": one.complete if attack == WORST_CASE else True})
    columns = [*field_names(Board), *field_names(Entry), "eps", "attack", "transferred", "tasks"]
    columns += ["clean", "clean_ci95", "robust", "robust_ci95", "complete"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64"})


def leaderboard(results: Results) -> pd.DataFrame:
    """Return the ranked table, one row per entry, with a constant predictor as unranked reference.

    Compared is the best known worst case at `rank_eps`, the largest eps at which the most white-box entries of the
    board were evaluated. `rank`, or `rank_low`, is one more than the number of ranked entries that are significantly
    better in a paired test on the tasks that both met, corrected for all pairs (Holm); `rank_high` counts those that
    are not significantly worse. Entries of one rank are `tied`, and ordered by their mean. `area` is the mean height of
    the curve over eps, `gain` robust and `clean_gain` clean accuracy over chance. Entries that cannot be ranked come
    last, with the `reason`. Training seeds of one recipe share a row: `seeds` says how many, `robust_min` and
    `robust_max` how far they lie apart, and from three on every interval and test is over seeds and tasks.
    """
    rows = []
    for board in standings(results):
        constant = board[0].board.constant
        reference: dict[str, Any] = {**fields_of(board[0].board), "checkpoint": CONSTANT, "rank_eps": board[0].rank_eps}
        reference |= {name: 0.0 if name.endswith("ci95") else constant for name in (*ACCURACIES, "area", "area_ci95")}
        reference |= {"gain": 0.0, "gain_ci95": 0.0, "clean_gain": 0.0, "clean_gain_ci95": 0.0, "ours": constant}
        reference |= {"tied": False, "better_than_constant": False, "external": "", "flags": "", "reason": "reference"}
        reference |= {"robust_min": constant, "robust_max": constant}
        placed = [_standing_row(one) for one in board]
        above = sum(row["rank"] is not None and row["robust"] > constant for row in placed)
        rows += [*placed[:above], reference, *placed[above:]]
    columns = [
        *field_names(Board),
        "rank_eps",
        "rank",
        "rank_low",
        "rank_high",
        "tied",
        *field_names(Entry),
        "attacks",
        "tasks",
    ]
    columns += [*ACCURACIES, "better_than_constant", "area", "area_ci95", "gain", "gain_ci95", "clean_gain"]
    columns += ["clean_gain_ci95", "ours", "seeds", "robust_min", "robust_max", "external", "flags", "reason"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype(dict.fromkeys(("rank", "rank_low", "rank_high", "steps", "seeds", "tasks"), "Int64"))


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
    for board in checkpoints(results):
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
    for board in checkpoints(results):
        mine: list[dict[str, Any]] = []
        for named, counts in _by_steps(board):
            for one, following in pairwise(counts):
                for attack, eps, before, after in _step_pairs(one, following):
                    difference = on_shared(*after, *before)
                    mean, half = interval(difference)
                    row = {**named, "steps": one.entry.steps, "next_steps": following.entry.steps, "attack": attack}
                    row |= {"eps": eps, "tasks": len(difference), "difference": mean, "ci95": half}
                    mine.append(row | {"p": intervals.paired_p(difference)})
        corrected = intervals.holm([row["p"] for row in mine])
        rows += [row | {"p": p} for row, p in zip(mine, corrected, strict=True)]
    columns = [
        *field_names(Board),
        *field_names(Entry),
        "next_steps",
        "attack",
        "eps",
        "tasks",
        "difference",
        "ci95",
        "p",
    ]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64", "next_steps": "Int64"})


def step_areas(results: Results) -> pd.DataFrame:
    """Return the mean height of each checkpoint's accuracy over its adaptation steps, by trapezoids task by task.

    One row for clean accuracy and one per eps for the worst case; `steps` lists the step counts, as "1, 5, 10", of
    which only like compare. A worst case is there where every step count met every required attack.
    """
    rows = []
    for board in checkpoints(results):
        for named, counts in _by_steps(board):
            found = [one.measured for one in counts]
            curves = [("clean", 0.0, found, [one.clean for one in found])]
            for eps in sorted(set.intersection(*(set(one.outcomes) for one in counts))):
                found = [one.outcomes[eps] for one in counts]
                if all(one.complete for one in found):
                    curves.append((WORST_CASE, eps, found, [one.known for one in found]))
            steps = [one.entry.steps or 0 for one in counts]
            for attack, eps, found, values in curves:
                tasks = shared_tasks(found)
                heights = [x[np.isin(one.tasks, tasks)] for one, x in zip(found, values, strict=True)]
                row = {**named, "steps": ", ".join(map(str, steps)), "attack": attack, "eps": eps, "tasks": len(tasks)}
                row["area"], row["area_ci95"] = interval(intervals.trapezoids(steps, heights))
                rows.append(row)
    return pd.DataFrame(
        rows, columns=[*field_names(Board), *field_names(Entry), "attack", "eps", "tasks", "area", "area_ci95"]
    )


def _by_steps(board: list[Standing]) -> list[tuple[dict[str, Any], list[Standing]]]:
    """Give each checkpoint of a board that was met at several step counts, with its standings by rising steps."""
    found: dict[tuple[Any, ...], list[Standing]] = {}
    for one in board:
        if one.entry.steps is not None:
            found.setdefault(entry_order(one.entry)[:-1], []).append(one)
    made = []
    for _, mine in sorted(found.items()):
        named = {**fields_of(mine[0].board), **fields_of(mine[0].entry)}
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


def corruptions(results: Results) -> pd.DataFrame:
    """Return accuracy under common corruptions, one row for each part of it, of every entry of boards of corruptions.

    `part` is "clean", "mean" (over all corruptions and severities that the board's entries met), a corruption (mean
    over its severities) or "worst case"; with a `severity`, the same at that one alone. All on the tasks that an entry
    met everywhere. `accuracy` counts every query that is right, as clean accuracy does; the worst case those that are
    right when clean and under everything up to its severity. `drop` is clean minus it, paired task by task. An entry
    that lacks a corruption at some severity has no means; `missing` says how many.
    """
    return corrupted(standings(results))


def corrupted(boards: Iterable[list[Standing]]) -> pd.DataFrame:
    """Return the columns of `corruptions` for boards at hand."""
    rows = []
    for board in (one for one in boards if one[0].board.corrupted):
        met = {one.entry: _met(one) for one in board}
        needed = set().union(*met.values())
        for one in board:
            named = {**fields_of(one.board), **fields_of(one.entry), "missing": len(needed - met[one.entry].keys())}
            clean, parts, n = _parts_of(one, met[one.entry], complete=not named["missing"])
            for (part, severity), sample in parts.items():
                row = {**named, "part": part, "severity": severity, "tasks": n}
                row["accuracy"], row["ci95"] = spanning(sample)
                row["drop"], row["drop_ci95"] = spanning(clean - sample)
                rows.append(row)
    columns = [*field_names(Board), *field_names(Entry), "missing", "part", "severity", "tasks"]
    columns += ["accuracy", "ci95", "drop", "drop_ci95"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64", "severity": "Int64"})


def mean_corruption(one: Standing) -> tuple[np.ndarray, np.ndarray]:
    """Return the tasks [n] that an entry met under all its corruptions, and its accuracy by seed and task [R, n]."""
    met = _met(one)
    _, parts, _ = _parts_of(one, met, complete=True)
    return _everywhere(met), parts.get((MEAN, None), np.empty((1, 0)))


def mean_difference(one: Standing, board: list[Standing]) -> tuple[Entry | None, tuple[float, float, int]]:
    """Return the reference of an entry, and mean, half-width and n of its mean accuracy minus that of the reference.

    Paired task by task; nothing (None, NaN) where there is no reference, or the two met other corruptions.
    """
    reference = _reference(one, board)
    if reference is not None and _met(one).keys() == _met(reference).keys():
        found = paired(*mean_corruption(one), *mean_corruption(reference))
        if found[2]:
            return reference.entry, found
    return None, (float("nan"), float("nan"), 0)


_Runs = dict[tuple[str, int], Bits]  # by corruption and severity


def _met(one: Standing) -> _Runs:
    found = ((outcome, attack, int(eps)) for eps, outcome in one.outcomes.items() if eps for attack in outcome.own)
    return {(attack, severity): outcome.runs[attack] for outcome, attack, severity in found}


def _everywhere(met: _Runs) -> np.ndarray:
    tasks = [run.tasks for run in met.values()]
    return reduce(np.intersect1d, tasks) if tasks else np.empty(0, int)


def _parts_of(
    one: Standing, met: _Runs, *, complete: bool
) -> tuple[np.ndarray, dict[tuple[str, int | None], np.ndarray], int]:
    """Give clean accuracy, and every part of the accuracy under corruptions, by seed and task [R, n]; and n."""
    tasks = _everywhere(met)
    if not len(tasks):
        return np.empty((1, 0)), {}, 0
    cells = {name: run.sample("survived")[:, run.at(tasks)] for name, run in met.items()}
    first = next(iter(met.values()))
    clean = first.sample("clean")[:, first.at(tasks)]
    names, severities = sorted({name for name, _ in cells}), sorted({severity for _, severity in cells})
    made: dict[tuple[str, int | None], np.ndarray] = {("clean", None): clean}
    if complete:
        made[MEAN, None] = np.mean(list(cells.values()), axis=0)
        for severity in severities:
            made[MEAN, severity] = np.mean([x for (_, at), x in cells.items() if at == severity], axis=0)
        for name in names:
            made[name, None] = np.mean([x for (of, _), x in cells.items() if of == name], axis=0)
    for (name, severity), sample in cells.items():
        made[name, severity] = sample
    for severity in severities:
        outcome = one.outcomes[float(severity)]
        if outcome.complete:
            made[WORST_CASE, severity] = outcome.sample("known")[:, np.searchsorted(outcome.tasks, tasks)]
    return clean, made, len(tasks)


def per_task(results: Results) -> pd.DataFrame:
    """Return one row per entry, eps, attack and task: `clean` and `robust`, the shares of its queries in [0, 1].

    The attack "worst case" is the best known one, on the tasks on which every attack of the eps ran; it is there
    only where nothing that the board requires is lacking or failed.
    """
    heads, parts = [], []
    for one in outcomes(results):
        named = {**fields_of(one.board), **fields_of(one.entry), "eps": one.eps}
        worst = [(WORST_CASE, one.tasks, one.clean, one.known)] if one.complete else []
        every = [(attack, run.tasks, run.clean.mean(1), run.survived.mean(1)) for attack, run in one.runs.items()]
        for attack, *columns in (*worst, *sorted(every, key=lambda row: row[0])):
            heads.append({**named, "attack": attack})
            parts.append(columns)
    table = pd.DataFrame(heads, columns=[*field_names(Board), *field_names(Entry), "eps", "attack"])
    table = table.loc[np.repeat(table.index, [len(tasks) for tasks, _, _ in parts])].reset_index(drop=True)
    tasks, clean, robust = (np.concatenate([part[i] for part in parts] or [np.empty(0)]) for i in range(3))
    return table.assign(task=tasks.astype(int), clean=clean, robust=robust).astype({"steps": "Int64"})


def agreement(results: Results) -> pd.DataFrame:
    """Return which attack fools what another misses, as counts of queries, for every entry and eps.

    One row per attack and `other` attack, also "all others": `correct` are right when clean and were met by both;
    `fooled` by the attack, `fooled_by_other` by the other or any of them, `only` by the attack and not by the other.
    Other learners' examples are left out, those of an external evaluation are not.
    """
    return agreements(outcomes(results))


def agreements(outcomes: Iterable[Outcome]) -> pd.DataFrame:
    """Return the columns of `agreement` for outcomes at hand."""
    rows = []
    for one in outcomes:
        names = [attack for attack in one.ran if attack not in one.transferred]
        named = {**fields_of(one.board), **fields_of(one.entry), "eps": one.eps}
        for attack in names if len(names) > 1 else ():
            others = [name for name in names if name != attack]
            for label, group in (*((name, [name]) for name in others), (ALL_OTHERS, others)):
                counted = _overlap(one.runs[attack], [one.runs[name] for name in group])
                rows.append({**named, "attack": attack, "other": label, **counted})
    columns = [
        *field_names(Board),
        *field_names(Entry),
        "eps",
        "attack",
        "other",
        "correct",
        "fooled",
        "fooled_by_other",
        "only",
    ]
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
    names: dict[str, Any] = {**fields_of(one.board), "checkpoint": one.entry.checkpoint, "weights": one.entry.weights}
    names |= {"steps": one.entry.steps, "reference": reference.entry.checkpoint}
    names |= {"reference_weights": reference.entry.weights, "reference_steps": reference.entry.steps}
    rows = []

    def add(attack: str, eps: float, a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> None:
        mean, half, n = paired(a, x, b, y)
        if n:
            rows.append({**names, "attack": attack, "eps": eps, "tasks": n, "difference": mean, "ci95": half})

    for eps in sorted(set(one.outcomes) & set(reference.outcomes)):
        a, b = one.outcomes[eps], reference.outcomes[eps]
        if eps == one.rank_eps:
            add("clean", 0.0, a.tasks, a.sample("clean"), b.tasks, b.sample("clean"))
        if a.complete and b.complete:
            add(WORST_CASE, eps, a.tasks, a.sample("known"), b.tasks, b.sample("known"))
        for attack in sorted(set(a.runs) & set(b.runs)):
            x, y = a.runs[attack], b.runs[attack]
            add(attack, eps, x.tasks, x.sample("survived"), y.tasks, y.sample("survived"))
    return rows


def _difference_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = [
        *field_names(Board),
        "checkpoint",
        "weights",
        "steps",
        "reference",
        "reference_weights",
        "reference_steps",
    ]
    columns += ["attack", "eps", "tasks", "difference", "ci95"]
    return pd.DataFrame(rows, columns=columns).astype({"steps": "Int64", "reference_steps": "Int64"})


def _standing_row(one: Standing) -> dict[str, Any]:
    row: dict[str, Any] = {**fields_of(one.board), "rank_eps": one.rank_eps, "rank": one.rank, "tied": one.tied}
    row |= {"rank_low": one.rank_low, "rank_high": one.rank_high}
    row |= {**fields_of(one.entry), "flags": one.check.text, "reason": one.reason}
    row["clean"], row["clean_ci95"], _ = one.clean
    row["clean_low"], row["clean_high"] = one.clean_bootstrap
    row["robust"], row["robust_ci95"], row["tasks"] = one.robust
    row["robust_low"], row["robust_high"] = one.robust_bootstrap
    row["better_than_constant"] = better_than_constant(row["robust"], row["robust_ci95"], one.board.constant)
    for name in ("area", "gain", "clean_gain"):
        row[name], row[f"{name}_ci95"], _ = getattr(one, name)
    row |= {"ours": one.ours[0], "external": "; ".join(one.external), "seeds": one.seeds}
    row["robust_min"], row["robust_max"] = one.spread("known")
    here = one.outcomes.get(one.rank_eps)
    return row | {"attacks": "" if here is None else ", ".join(here.ran)}
