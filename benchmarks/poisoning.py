"""What a poisoned support costs: inputs moved, adversarial queries reused, labels flipped; with and without defense.

    python benchmarks/poisoning.py run --data-root data --out RESULTS     # resumable
    python benchmarks/poisoning.py write RESULTS                          # reports/poisoning.md

The adversary sees 15 labelled items of each class beside the support; learners are scored on fresh queries, as many
sets of 15 as the families have items for. Both learners of a pair meet the same test tasks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import robustbench_meta
from robustbench_meta import store
from robustbench_meta.intervals import interval, paired_p
from robustbench_meta.report.markdown import grid
from robustbench_meta.report.naming import threat_text

TASKS, FLIPS = 20, 5.0
PAGE = Path(__file__).resolve().parents[1] / "reports" / "poisoning.md"
FIFTH = 0.2  # of each class: one item of five


@dataclass(frozen=True)
class Case:
    """A pair of learners, a budget in Linf, and how many fresh queries of a class score them."""

    pair: str
    eps: float
    queries: int

    @property
    def learners(self) -> list[str]:
        return [f"{self.pair}-{defense}" for defense in ("standard", "aq")]


@dataclass(frozen=True)
class Poison:
    """A column of the table: an attack with its norm and the part of the support it reaches."""

    title: str
    attack: str
    norm: str = "linf"
    fraction: float = 1.0


CASES = (
    Case("strokes-protonet", 0.1, 20),
    Case("cifar-fs-protonet", 8 / 255, 60),
    Case("spoken-digits-protonet", 0.005, 30),
    Case("clinc150-protonet", 0.01, 60),
)
POISONS = (
    Poison("Noise", "noise-1"),
    Poison("Moved", "pgd-20"),
    Poison("Reused", "reused-pgd-20"),
    Poison("Reused, a fifth", "reused-pgd-20", fraction=FIFTH),
    Poison("Random flips", "noise-1", "labels"),
    Poison("Flips", "flips-greedy", "labels"),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running, writing = commands.add_parser("run"), commands.add_parser("write")
    running.add_argument("--data-root", type=Path)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--tasks", type=int, default=TASKS)
    writing.add_argument("results", type=Path)
    args = parser.parse_args(argv)
    if args.command == "write":
        PAGE.write_text(page(args.results), encoding="utf-8")
        print(PAGE)
        return 0
    for case in CASES:
        run(case, args.data_root, args.out, args.tasks)
        print(f"{case.pair}: done", flush=True)
    return 0


def run(case: Case, data_root: Path | None, out: Path, tasks: int) -> None:
    """Measure a pair under every poison."""
    given: dict[str, Any] = {"surface": "support", "queries": case.queries, "tasks": tasks, "data_root": data_root}
    for poison in POISONS:
        threat = {"norm": poison.norm, "eps": [_eps(case, poison)], "fraction": poison.fraction}
        robustbench_meta.evaluate(
            [f"zoo:{name}" for name in case.learners], attacks=[poison.attack], out=out, audit=False, **threat, **given
        )


def page(results: Path) -> str:
    read = store.read(results)
    tasks = dict(iter(read.tasks.groupby("key")))
    rows, verdicts = [], []
    for case in CASES:
        found = [_of(case, name, read.cells, tasks) for name in case.learners]
        for name, one in zip(case.learners, found, strict=True):
            shown = ["{:.1f} ± {:.1f}".format(*interval(values)) for values in one.values()]
            rows.append([name, threat_text("linf", case.eps), *shown, str(len(one["Clean"]))])
        verdicts.append(_verdict(case, *found))
    header = ["Learner", "Budget", "Clean", *(poison.title for poison in POISONS), "n"]
    told = [
        "Made by `python benchmarks/poisoning.py run --out RESULTS` and `write RESULTS`: test tasks of 5 ways and 5 "
        "shots, seed 0, one training seed each; accuracy in % on fresh, clean queries, ± the half-width of the 95 % "
        f"interval over n tasks. Queries of a class: {', '.join(f'{case.pair} {case.queries}' for case in CASES)}.",
        "- **Noise**: one random draw of the budget on each item of the support. **Moved**: `pgd-20` on the whole "
        "support at once, through adaptation, against 15 labelled items of each class. **Reused**: `reused-pgd-20`, "
        "each item an adversarial query of a learner that adapted to those items; **a fifth**: one item of five.\n"
        f"- **Random flips**: {FLIPS:g} of the 25 labels drawn at random. **Flips**: `flips-greedy`, as many chosen.\n"
        "- A query counts where it is right with the clean support and with the poisoned one.",
    ]
    parts = ["# What a poisoned support costs", *told, grid(header, rows), "## What training adversarially changes"]
    return "\n\n".join([*parts, "\n".join(verdicts)]) + "\n"


def _of(case: Case, name: str, cells: pd.DataFrame, tasks: dict[str, pd.DataFrame]) -> dict[str, list[float]]:
    """Return accuracies in % by task: clean, then under every poison."""
    mine = cells[(cells["checkpoint"] == name) & (cells["queries"] == case.queries)]
    made: dict[str, list[float]] = {"Clean": []}
    for poison in POISONS:
        at = (mine["attack"] == poison.attack) & (mine["norm"] == poison.norm) & (mine["fraction"] == poison.fraction)
        rows = tasks[mine[at & (mine["eps"] == _eps(case, poison))]["key"].item()]
        made[poison.title] = [100 * bits.count("1") / len(bits) for bits in rows["survived"]]
        made["Clean"] = [100 * bits.count("1") / len(bits) for bits in rows["clean"]]
    return made


def _eps(case: Case, poison: Poison) -> float:
    return FLIPS if poison.norm == "labels" else case.eps


def _verdict(case: Case, standard: dict[str, list[float]], robust: dict[str, list[float]]) -> str:
    said = []
    for title in ("Moved", "Reused", "Flips"):
        gained = [one - other for one, other in zip(robust[title], standard[title], strict=True)]
        mean, half = interval(gained)
        said.append(f"{title.lower()} {mean:+.1f} ± {half:.1f} (p = {paired_p(gained):.1g})")
    return f"- `{case.pair}`, aq less standard, in points: {', '.join(said)}."


if __name__ == "__main__":
    sys.exit(main())
