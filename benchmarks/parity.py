"""Does our AutoAttack say what the reference says? Verdicts per query, beside the reference against itself.

    python benchmarks/parity.py run --out parity-results      # hours on one core; goes on where it was stopped
    python benchmarks/parity.py report parity-results --out reports/parity

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

import torch

from robustbench_meta import catalog, grid
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    running = parts.add_parser("run")
    running.add_argument("--out", type=Path, default=Path("parity-results"))
    running.add_argument("--arms", default=",".join(ARMS))
    running.add_argument("--cells", default="", help="only cells whose name holds this")
    running.add_argument("--tasks", type=int, default=TASKS)
    running.add_argument("--data-root", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    for cell in CELLS:
        for arm in given.arms.split(","):
            if given.cells in cell.name:
                print(arm, cell.name, flush=True)
                run(cell, arm, given.out, tasks=given.tasks, root=given.data_root)


if __name__ == "__main__":
    main()
