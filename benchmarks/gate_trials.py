"""How the gate behaves where the truth is known: on identical code, on work made 1.5 times as much, and 1.1 times.

    python benchmarks/gate_trials.py run --trials 10 --out reports/gate/trials.jsonl
    python benchmarks/gate_trials.py report reports/gate/trials.jsonl

Each trial clones this repository's HEAD into a temporary folder, adds one commit, and runs that clone's own
`rbm bench gate --base HEAD~1` on one case, `adapt/protonet` in size `small`: ten tasks, adapted one after another.
The commit appends to engine.py that `Learner.adapt` first adapts again the first half of its tasks (five of ten: 1.5
times the work), or the first tenth (one: 1.1 times), or none of them (identical code, though not an identical file).
`run` goes on where it was stopped; a line of the results is one trial.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parents[1]
CASE = "adapt/protonet"
ARMS = {"identical": 0.0, "planted-1.5": 0.5, "planted-1.1": 0.1}
SAID = {0: "passed", 1: "failed"}
PLANTED = """

_adapt_once = Learner.adapt


def _adapt_more(self: Learner, x: Tensor, y: Tensor, *, steps: int | None = None) -> Fitted:
    again = round({share} * len(x))
    if again:
        _adapt_once(self, x[:again], y[:again], steps=steps)
    return _adapt_once(self, x, y, steps=steps)


Learner.adapt = _adapt_more  # type: ignore[method-assign]
"""


def run(out: Path, *, trials: int, arms: list[str], samples: int) -> None:
    """Run what is missing of every arm, one trial of each arm in turn, so that a slow hour meets all of them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = [(row["arm"], row["trial"]) for row in read(out)]
    for trial in range(trials):
        for arm in arms:
            if (arm, trial) not in done:
                row = {"arm": arm, "trial": trial} | one_trial(ARMS[arm], samples)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row, allow_nan=False) + "\n")
                print(arm, trial, row["said"], *(f"{turn['ratio']:.3f} (p {turn['p']:.1g})" for turn in row["rounds"]))


def one_trial(share: float, samples: int) -> dict[str, Any]:
    """Plant a commit in a clone and ask the clone's gate about it."""
    with tempfile.TemporaryDirectory(prefix="rbm-trial-") as scratch:
        clone = Path(scratch) / "clone"
        git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone))
        git(clone, "checkout", "--quiet", "--detach", git(ROOT, "rev-parse", "HEAD"))
        with (clone / "robustbench_meta" / "engine.py").open("a", encoding="utf-8") as file:
            file.write(PLANTED.format(share=share))
        who = ("-c", "user.name=trial", "-c", "user.email=trial@example.invalid")
        git(clone, *who, "commit", "--quiet", "--all", "--message", f"Adapt {share} of the tasks again")
        verdict = Path(scratch) / "verdict.jsonl"
        command = [sys.executable, "-m", "robustbench_meta", "bench", "gate", "--base", "HEAD~1", "--cases", CASE]
        command += ["--size", "small", "--samples", str(samples), "--json", str(verdict)]
        started = time.monotonic()
        environment = os.environ | {"PYTHONPATH": str(clone)}
        ended = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
        if ended.returncode not in SAID:
            sys.exit(f"the gate ended with {ended.returncode}: {ended.stderr.strip().splitlines()[-1]}")
        (judged,) = read(verdict)
        seconds = round(time.monotonic() - started, 1)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "said": SAID[ended.returncode],
        "rounds": judged["rounds"],
        "samples": samples,
        "seconds": seconds,
        "date": date,
        "commit": git(ROOT, "rev-parse", "HEAD"),
    }


def report(path: Path) -> str:
    """Write a Markdown table: how often the gate failed, with Clopper-Pearson 95 % intervals, and the first ratios."""
    lines = ["| arm | trials | failed | 95 % interval | suspicious in round 1 | first ratio, median (range) |"]
    lines += ["|---|---|---|---|---|---|"]
    for arm in ARMS:
        if not (rows := [row for row in read(path) if row["arm"] == arm]):
            continue
        failed = sum(row["said"] == "failed" for row in rows)
        bounds = binomtest(failed, len(rows)).proportion_ci(0.95, method="exact")
        ratios = sorted(row["rounds"][0]["ratio"] for row in rows)
        twice = sum(len(row["rounds"]) == 2 for row in rows)
        interval = f"{100 * bounds.low:.0f} to {100 * bounds.high:.0f} %"
        spread = f"{ratios[len(ratios) // 2]:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        lines.append(f"| {arm} | {len(rows)} | {failed} | {interval} | {twice} | {spread} |")
    return "\n".join(lines)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    running = parts.add_parser("run")
    running.add_argument("--out", type=Path, default=Path("reports/gate/trials.jsonl"))
    running.add_argument("--trials", type=int, default=10)
    running.add_argument("--samples", type=int, default=12)
    running.add_argument("--arms", default=",".join(ARMS))
    reporting = parts.add_parser("report")
    reporting.add_argument("results", type=Path)
    given = parser.parse_args()
    if given.part == "run":
        run(given.out, trials=given.trials, arms=given.arms.split(","), samples=given.samples)
    else:
        print(report(given.results))


if __name__ == "__main__":
    main()
