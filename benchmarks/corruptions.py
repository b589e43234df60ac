"""What common corruptions leave of learners: those trained as usual, and those trained against an adversary.

    python benchmarks/corruptions.py --data-root data --results RESULTS [--tasks 30]

One command, resumable: it measures what is missing in RESULTS and writes reports/corruptions.md. A pair of shipped
learners stands for each family, without defense and adversarially trained. Both meet the same test tasks, and the same
corrupted queries, which do not depend on the learner.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

import robustbench_meta
from robustbench_meta import statistics, store
from robustbench_meta.intervals import interval
from robustbench_meta.ranking import Standing, on_shared, standings
from robustbench_meta.report.markdown import grid

TASKS = 30
FAMILIES = ("cifar-fs", "omniglot", "strokes", "spoken-digits", "clinc150")
ALGORITHM, DEFENSES = "protonet", ("standard", "aq")
HARDEST = 5.0
PAGE = Path(__file__).resolve().parents[1] / "reports" / "corruptions.md"
TOLD = (
    "Test tasks of 5 ways and 5 shots, 15 queries a class, seed 0, one training seed each; accuracy in %, ± the "
    "half-width of the 95 % interval over n tasks. **Mean**: mean corruption accuracy, over all corruptions that serve "
    "the family and severities 1 to 5, counted as clean accuracy is. **Drop**: clean minus mean, paired task by task. "
    "**Worst case**: right when clean and under every corruption up to severity 5; a constant predictor has 20. One "
    "draw of each corruption, the same for every learner."
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--families", default=",".join(FAMILIES), help="what to measure of them; all are written")
    args = parser.parse_args(argv)
    for family in args.families.split(","):
        run(family, args.data_root, args.results / family, args.tasks)
        print(f"{family}: done", flush=True)
    PAGE.write_text(page(args.results), encoding="utf-8")
    print(PAGE)
    return 0


def run(family: str, data_root: Path | None, results: Path, tasks: int) -> None:
    """Measure every corruption at every severity on both learners of a family."""
    learners = [f"zoo:{family}-{ALGORITHM}-{defense}" for defense in DEFENSES]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a cell that failed would be left out of every mean
        robustbench_meta.evaluate(
            learners, norm="corruption", tasks=tasks, audit=False, out=results, data_root=data_root
        )


def page(results: Path) -> str:
    """Write what was measured of every family that is there."""
    there = [family for family in FAMILIES if (results / family).is_dir()]
    boards = {family: _board(store.read(results / family)) for family in there}
    header = ["Learner", "Corruptions", "Clean", "Mean", "Drop", "Worst case", "n"]
    rows = [_row(one) for board in boards.values() for one in board]
    parts = [
        "# What common corruptions leave",
        "Made by `python benchmarks/corruptions.py --data-root data --results RESULTS`; one learner by hand: "
        "`rbm evaluate --ckpt zoo:NAME --norm corruption --tasks 30`.",
        TOLD,
        grid(header, rows),
        "## Adversarially trained minus trained as usual",
        "Percentage points, paired task by task; the verdict is whether the interval leaves out 0.",
        grid(
            ["Family", "Clean", "Mean", "Worst case", "Verdict on the mean", "n"],
            [_pair(family, *board) for family, board in boards.items()],
        ),
        "## By severity",
        grid(["Learner", *(f"Severity {severity}" for severity in range(1, 6)), "n"], _severities(boards)),
        "## By corruption",
        "The mean over severities 1 to 5, and the paired difference.",
        *(_kinds(family, board) for family, board in boards.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _board(results: store.Results) -> tuple[Standing, Standing]:
    """Return the learner trained as usual, and the one trained against an adversary."""
    ((one, other),) = standings(results)
    return (one, other) if one.entry.defense == DEFENSES[0] else (other, one)


def _parts(one: Standing) -> pd.DataFrame:
    rows = statistics.corrupted([[one]])
    return rows.set_index(["part", rows["severity"].fillna(0).astype(int)])


def _text(row: pd.Series, name: str = "accuracy") -> str:
    half = row["ci95"] if name == "accuracy" else row[f"{name}_ci95"]
    return f"{100 * row[name]:.1f} ± {100 * half:.1f}"


def _row(one: Standing) -> list[str]:
    parts = _parts(one)
    mean = parts.loc[(statistics.MEAN, 0)]
    return [
        f"`{one.entry.checkpoint}`",
        str(len(_names(parts))),
        _text(parts.loc[("clean", 0)]),
        f"**{_text(mean)}**",
        _text(mean, "drop"),
        _text(parts.loc[(statistics.WORST_CASE, int(HARDEST))]),
        str(mean["tasks"]),
    ]


def _names(parts: pd.DataFrame) -> list[str]:
    return sorted({name for name, _ in parts.index} - {"clean", statistics.MEAN, statistics.WORST_CASE})


def _pair(family: str, usual: Standing, robust: Standing) -> list[str]:
    a, b = robust.outcomes[HARDEST], usual.outcomes[HARDEST]
    clean, worst = (on_shared(a.tasks, x, b.tasks, y) for x, y in ((a.clean, b.clean), (a.known, b.known)))
    (tasks, x), (others, y) = statistics.mean_corruption(robust), statistics.mean_corruption(usual)
    found = on_shared(tasks, x[0], others, y[0])
    mean, half = interval(found)
    verdict = "higher" if mean > half else "lower" if mean < -half else "undecided"
    return [f"`{family}`", _signed(clean), f"**{_signed(found)}**", _signed(worst), verdict, str(len(found))]


def _signed(values: np.ndarray) -> str:
    mean, half = interval(values)
    return f"{100 * mean:+.1f} ± {100 * half:.1f}"


def _severities(boards: dict[str, tuple[Standing, Standing]]) -> list[list[str]]:
    rows = []
    for one in (one for board in boards.values() for one in board):
        parts = _parts(one)
        each = [parts.loc[(statistics.MEAN, severity)] for severity in range(1, 6)]
        rows.append([f"`{one.entry.checkpoint}`", *map(_text, each), str(each[0]["tasks"])])
    return rows


def _kinds(family: str, board: tuple[Standing, Standing]) -> str:
    usual, robust = map(_parts, board)
    rows = []
    for name in _names(usual):
        (tasks, a), (others, b) = (_over_severities(one, name) for one in board)
        difference = _signed(on_shared(others, b, tasks, a))
        rows.append([name, _text(usual.loc[(name, 0)]), _text(robust.loc[(name, 0)]), difference])
    return grid([f"`{family}`, n = {usual['tasks'].iloc[0]}", *DEFENSES, "Difference"], rows)


def _over_severities(one: Standing, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the tasks that met a corruption at every severity, and the mean accuracy in each."""
    runs = [outcome.runs[name] for outcome in one.outcomes.values()]
    tasks = reduce(np.intersect1d, [run.tasks for run in runs])
    return tasks, np.mean([run.survived[run.at(tasks)].mean(1) for run in runs], axis=0)


if __name__ == "__main__":
    sys.exit(main())
