"""Sample sentences whose words an attack replaced, for people to read: does the intent stay what it was?

    rbm evaluate --ckpt zoo:clinc150-protonet-standard --ckpt zoo:clinc150-protonet-aq --attacks words-greedy \\
        --norm words --eps 2 --tasks 20 --no-audit --save-adversarial --out RESULTS
    python benchmarks/substitutions.py sample RESULTS --data-root data   # then fill in the last column: yes or no
    python benchmarks/substitutions.py count

Only sentences that fool a learner are sampled, each once, SAMPLED of them by seed 0, since these are what lowers an
accuracy. reports/substitutions.tsv holds the intent, both sentences, and whether one of us, who read them beside each
other, finds the intent kept. Sentences share pairs of words, so their number says less than it would of others: no
interval is given.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from robustbench_meta import store
from robustbench_meta.tasks.clinc150 import Clinc150
from robustbench_meta.types import Split

SAMPLED = 50
PAGE = Path(__file__).resolve().parents[1] / "reports" / "substitutions.tsv"
COLUMNS = ("replaced", "intent", "sentence", "attacked", "kept")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    sampling = commands.add_parser("sample")
    sampling.add_argument("results", type=Path)
    sampling.add_argument("--data-root", type=Path)
    commands.add_parser("count")
    args = parser.parse_args(argv)
    if args.command == "count":
        print(counted(read()))
        return 0
    found = sorted(set(fooling(args.results, Clinc150(root=args.data_root))))
    drawn = np.random.default_rng(0).permutation(len(found))[:SAMPLED]
    with PAGE.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows((*found[i], "") for i in sorted(drawn))
    print(f"{len(drawn)} of {len(found)} sentences that fool the learner: {PAGE}")
    return 0


def fooling(results: Path, family: Clinc150) -> Iterator[tuple[int, str, str, str]]:
    """Give every sentence that fools a learner: how many words are replaced, its intent, and the sentence twice."""
    space, tasks = family.space, store.read(results).tasks
    for folder in sorted((results / store.ADVERSARIAL).iterdir()):
        held = store.read_set(folder)
        cell = held.cell
        intents = intents_of(family, cell.split)
        here = tasks[tasks["key"] == store.key(cell)].set_index("task")
        for task in sorted(held.tasks):
            clean = family.sample(cell.split, cell.spec, [task], seed=cell.seed).query_x[0]
            attacked = torch.from_numpy(store.read_examples(held, task).x_adv)
            texts = zip(space.text(clean), space.text(attacked), strict=True)
            verdicts = zip(here.at[task, "clean"], here.at[task, "survived"], strict=True)
            for replaced, (before, after), (right, survived) in zip(
                space.replaced(attacked, clean).tolist(), texts, verdicts, strict=True
            ):
                if right == "1" and survived == "0":
                    yield replaced, intents[before], before, after


def intents_of(family: Clinc150, split: Split) -> dict[str, str]:
    """Return the intent of every sentence of a split, as it is read."""
    pool, found = family.pool(split), {}
    for label, name in enumerate(pool.names):
        rows = pool.images[pool.starts[label] : pool.starts[label + 1]].float() / pool.full
        found |= dict.fromkeys(family.space.text(rows), name)
    return found


def read() -> list[dict[str, str]]:
    with PAGE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def counted(rows: Sequence[dict[str, str]]) -> str:
    """Say how many of the sentences keep their intent, by words replaced."""
    lines = []
    for words in (None, *sorted({row["replaced"] for row in rows})):
        judged = [row["kept"] for row in rows if words in (None, row["replaced"])]
        if set(judged) - {"yes", "no"}:
            raise SystemExit("the column kept holds something else than yes and no")
        which = "all" if words is None else f"{words} replaced"
        lines.append(f"{which}: {judged.count('yes')} of {len(judged)} keep their intent")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
