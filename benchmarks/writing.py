"""What learners that write have of their support: beside copying from it, and without it.

    python benchmarks/writing.py parallel-text --data-root pairs --ckpt own --queries 5 --tasks 30
    python benchmarks/writing.py transduction --tasks 30

Shares in % of test sentences of which every token is right, seed 0, with 95 % intervals over tasks. Two learners need
no training and no gradient: `nearest` writes the target of the support's sentence that is most like the source, by the
cosine of the sums of their word vectors; `commonest` always writes the target that most pairs of the support have. Of
checkpoints also what they write with another task's pairs, and with the support's tokens dealt anew.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from families import NOISE, Misled
from torch import Tensor

from robustbench_meta import catalog, evaluate
from robustbench_meta.report.markdown import grid

Pairs = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Nearest:
    """Copies the target [L] of the pair of the support x [S,L,d], y [S*L] whose source is most like a query's."""

    ways: int

    def adapt(self, x: Tensor, y: Tensor) -> Pairs:
        return F.normalize(x.sum(dim=1), dim=1), y.view(len(x), -1)

    def predict(self, fitted: Pairs, x: Tensor) -> Tensor:
        """Return scores [Q*L,N] of queries x [Q,L,d]."""
        sums, targets = fitted
        near = (F.normalize(x.sum(dim=1), dim=1) @ sums.T).argmax(dim=1)
        return F.one_hot(targets[near].flatten(), self.ways).to(x)


@dataclass(frozen=True)
class Commonest:
    """Writes the target that most pairs of the support have, of several the first."""

    ways: int

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        (target, _), *_ = Counter(tuple(row) for row in y.view(len(x), -1).tolist()).most_common()
        return F.one_hot(torch.tensor(target), self.ways).to(x)

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return fitted.repeat(len(x), 1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("family")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--ckpt", action="append", default=[])
    parser.add_argument("--ways", type=int, default=9)
    parser.add_argument("--queries", type=int, default=15)
    parser.add_argument("--tasks", type=int, default=30)
    args = parser.parse_args(argv)
    family = catalog.family(args.family, root=args.data_root)
    common = {"ways": args.ways, "queries": args.queries, "tasks": args.tasks}
    rows = [
        [name, right(family, learner=made(args.ways), name=name, **common), "", ""]
        for name, made in (("nearest", Nearest), ("commonest", Commonest))
    ]
    for ckpt in args.ckpt:
        supports = (family, Misled(family, "foreign"), Misled(family, "shuffled"))
        rows.append([ckpt, *(right(one, ckpt, **common) for one in supports)])
    print(grid(["Learner", "Clean", "Another task's pairs", "Tokens shuffled"], rows))
    return 0


def right(family: Any, *ckpt: str, **options: Any) -> str:
    """Return the share of whole sentences that are right, in %."""
    row = evaluate(*ckpt, family=family, attacks=[NOISE], eps=[0.0], audit=False, **options).iloc[0]
    return f"{100 * row['clean']:.1f} ± {100 * row['clean_ci95']:.1f}"


if __name__ == "__main__":
    sys.exit(main())
