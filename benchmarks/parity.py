"""Does our AutoAttack say what the reference says? Verdicts per query, beside the reference against itself.

    python benchmarks/parity.py run --out reports/parity/arms      # hours on one core; goes on where it was stopped
    python benchmarks/parity.py report reports/parity/arms --out reports/parity

Each cell is a shipped checkpoint at a budget that 20 to 80 % of its clean-correct queries survive: elsewhere any two
attacks agree. An arm is one attack with one seed on the same episodes; a line of the results is one task of one arm.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from robustbench_meta import catalog, grid
from robustbench_meta.intervals import interval
from robustbench_meta.losses import correct
from robustbench_meta.types import Norm, Spec, Streams, Threat

TASKS = 20
ARMS = {
    "reference-0": ("autoattack-reference", 0),
    "reference-1": ("autoattack-reference", 1),
    "ours-0": ("autoattack", 0),
    "ours-1": ("autoattack", 1),
}


@dataclass(frozen=True)
class ParityCell:
    checkpoint: str
    norm: Norm
    eps: float
    queries: int  # per class, of which there are 5, as there are shots

    @property
    def name(self) -> str:
        return f"{self.checkpoint}-{self.norm}-{self.eps:.4g}"


CELLS = (
    ParityCell("strokes-protonet-standard", "linf", 0.03, 5),
    ParityCell("strokes-protonet-standard", "l2", 0.4, 5),
    ParityCell("strokes-protonet-aq", "linf", 0.1, 5),
    ParityCell("strokes-protonet-aq", "l2", 1.0, 5),
    ParityCell("cifar-fs-protonet-standard", "linf", 1 / 255, 3),
    ParityCell("cifar-fs-protonet-standard", "l2", 0.1, 3),
    ParityCell("cifar-fs-protonet-aq", "linf", 8 / 255, 3),
    ParityCell("cifar-fs-protonet-aq", "l2", 1.0, 3),
)


def run(cell: ParityCell, arm: str, out: Path, *, tasks: int, root: Path | None) -> None:
    """Attack the tasks of a cell that the arm has not met yet, one line of verdicts a task."""
    attack, seed = ARMS[arm]
    subject = grid.load_subject(Path("checkpoints") / cell.checkpoint, root=root, device="cpu")
    path = out / f"{cell.name}.{arm}.jsonl"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    for task in range(done, tasks):
        episodes = subject.family.sample("test", Spec(5, 5, cell.queries), [task]).to("cpu", subject.learner.dtype)
        with torch.no_grad():
            fitted = subject.learner.adapt(episodes.support_x, episodes.support_y)
            clean = correct(subject.learner.predict(fitted, episodes.query_x), episodes.query_y)
        victim = subject.learner.query_victim(fitted, episodes.query_x, episodes.query_y)
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x_adv = catalog.attack(attack)(victim, Threat(cell.norm, cell.eps), Streams([1000 * seed + task]))
        seconds = time.perf_counter() - started
        with torch.no_grad():
            stands = correct(subject.learner.predict(fitted, x_adv.view(episodes.query_x.shape)), episodes.query_y)
        line = {"task": task, "clean": clean[0].int().tolist(), "survived": (clean & stands)[0].int().tolist()}
        line |= {"seconds": round(seconds, 3), "forwards": victim.cost.forwards.tolist()[0]}
        line |= {"backwards": victim.cost.backwards.tolist()[0]}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")


PAIRS = (
    ("reference-0", "reference-1"),
    ("ours-0", "reference-0"),
    ("ours-0", "reference-1"),
    ("ours-1", "reference-0"),
    ("ours-1", "reference-1"),
    ("ours-0", "ours-1"),
)


def read(path: Path) -> pd.DataFrame:
    """Read the lines of one arm in one cell."""
    return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])


def compare(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return robust accuracy by cell and arm, and for every pair of arms how many clean-correct queries differ."""
    arms, pairs = [], []
    for cell in CELLS:
        found = {arm: path for arm in ARMS if (path := results / f"{cell.name}.{arm}.jsonl").exists()}
        runs = {arm: read(path) for arm, path in found.items()}
        about = {"checkpoint": cell.checkpoint, "norm": cell.norm, "eps": cell.eps}
        for arm, run in runs.items():
            clean, survived = (np.array(run[name].tolist(), bool) for name in ("clean", "survived"))
            robust, half = interval(survived.mean(axis=1))
            row = {"arm": arm, "tasks": len(run), "clean_correct": int(clean.sum())}
            row |= {"clean": clean.mean(), "robust": robust, "ci95": half, "survive": survived.sum() / clean.sum()}
            row |= {"forwards": int(run["forwards"].sum()), "backwards": int(run["backwards"].sum())}
            arms.append(about | row)
        for one, other in PAIRS:
            if one in runs and other in runs:
                pairs.append(about | {"one": one, "other": other} | difference(runs[one], runs[other]))
    return pd.DataFrame(arms), pd.DataFrame(pairs)


def difference(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, float]:
    """Compare two arms on the tasks both have: differing verdicts among the clean-correct, and the mean."""
    tasks = sorted(set(one["task"]) & set(other["task"]))
    a, b = (np.array(run.set_index("task").loc[tasks, "survived"].tolist(), bool) for run in (one, other))
    clean = np.array(one.set_index("task").loc[tasks, "clean"].tolist(), bool)
    differ, judged = int((a != b).sum()), int(clean.sum())
    low, high = binomtest(differ, judged).proportion_ci()
    mean, half = interval(a.mean(axis=1) - b.mean(axis=1))
    counts = {"tasks": len(tasks), "clean_correct": judged, "differ": differ, "share": differ / judged}
    return counts | {"low": low, "high": high, "mean_difference": mean, "mean_ci95": half}


def report(results: Path, out: Path) -> Path:
    """Write parity.md and the two tables as CSV."""
    arms, pairs = compare(results)
    if arms.empty:
        raise SystemExit(f"results: {results} holds no lines of an arm; `parity.py run --out` writes them")
    out.mkdir(parents=True, exist_ok=True)
    arms.to_csv(out / "arms.csv", index=False)
    pairs.to_csv(out / "pairs.csv", index=False)
    lines = ["# Our AutoAttack beside the reference", "", *INTRODUCTION.splitlines(), ""]
    lines += [
        "| checkpoint | norm, eps | arm | n tasks | clean-correct | robust, % | survive, % | rows forward / back |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in arms.to_dict("records"):
        where = f"| {row['checkpoint']} | {row['norm']} {row['eps']:.4g} | {row['arm']} | {row['tasks']} "
        robust = f"{100 * row['robust']:.1f} ± {100 * row['ci95']:.1f}"
        rows = f"{row['forwards']:,} / {row['backwards']:,}"
        lines.append(where + f"| {row['clean_correct']} | {robust} | {100 * row['survive']:.0f} | {rows} |")
    lines += ["", "| checkpoint | norm, eps | pair | differ | share, % (95 %) | mean difference, points |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in pairs.to_dict("records"):
        share = f"{100 * row['share']:.2f} ({100 * row['low']:.2f} to {100 * row['high']:.2f})"
        mean = f"{100 * row['mean_difference']:+.2f} ± {100 * row['mean_ci95']:.2f}"
        where = f"| {row['checkpoint']} | {row['norm']} {row['eps']:.4g} | {row['one']} − {row['other']} "
        lines.append(where + f"| {row['differ']} of {row['clean_correct']} | {share} | {mean} |")
    lines += ["", *together(pairs)]
    (out / "parity.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out / "parity.md"


def together(pairs: pd.DataFrame) -> list[str]:
    """Add the cells up, in one line a pair."""
    lines = ["All cells together:", ""]
    for (one, other), rows in pairs.groupby(["one", "other"], sort=False):
        differ, judged = int(rows["differ"].sum()), int(rows["clean_correct"].sum())
        low, high = binomtest(differ, judged).proportion_ci()
        share = f"{100 * differ / judged:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
        mean = 100 * (rows["mean_difference"] * rows["tasks"]).sum() / rows["tasks"].sum()
        lines.append(f"- {one} and {other}: {differ} of {judged} verdicts differ, {share}; mean {mean:+.2f} points")
    return lines


INTRODUCTION = """\
Both attack the same adapted learners on the same test tasks (5-way 5-shot, episode seed 0); an arm is one attack with
one seed of its own. `reference` is pyautoattack with K-1 targets, `ours` the package's `autoattack`. "Differ" counts
clean-correct queries whose verdicts differ, "survive" is their share that withstands; intervals of shares are exact
(Clopper-Pearson), those of means are over tasks. Made by

    python benchmarks/parity.py run --out reports/parity/arms
    python benchmarks/parity.py report reports/parity/arms --out reports/parity
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    running = parts.add_parser("run")
    running.add_argument("--out", type=Path, default=Path("reports/parity/arms"))
    running.add_argument("--arms", default=",".join(ARMS))
    running.add_argument("--cells", default="", help="only cells whose name holds this")
    running.add_argument("--tasks", type=int, default=TASKS)
    running.add_argument("--data-root", type=Path, default=None)
    reporting = parts.add_parser("report")
    reporting.add_argument("results", type=Path)
    reporting.add_argument("--out", type=Path, default=Path("reports/parity"))
    given = parser.parse_args()
    if given.part == "report":
        print(report(given.results, given.out))
        return
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    for cell in CELLS:
        for arm in given.arms.split(","):
            if given.cells in cell.name:
                print(arm, cell.name, flush=True)
                run(cell, arm, given.out, tasks=given.tasks, root=given.data_root)


if __name__ == "__main__":
    main()
