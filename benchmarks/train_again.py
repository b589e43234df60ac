"""Do shipped checkpoints come again? Train each by its recipe, up to its first validation, beside what its card says.

    RBM_DATA=data OMP_NUM_THREADS=1 python benchmarks/train_again.py 'cifar-fs-*' strokes-r2d2-aq [--whole] [--out DIR]

Loss, clean and robust accuracy of the first validation must be the card's, to the last digit; --whole trains to the
end and compares the SHA-256 of the weights. Bits may differ with other versions or another number of threads than the
card names, and with the instructions of the processor (`versions.cpu`, which early cards lack):
ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 before the command lets a newer one compute as older ones do. Without
names, all of the zoo. --out keeps a line of JSON for each; what it holds already is not trained again.

Exit status: 0 all come again; 1 some do not; 2 input.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from robustbench_meta import checkpoint, train, zoo
from robustbench_meta.checkpoint import CARD, Card, Validation
from robustbench_meta.terminal import INPUT, NEGATIVE, complain
from robustbench_meta.types import InputError

KEPT = "again.jsonl"


class _Seen(Exception):
    """The first validation is over."""

    def __init__(self, validation: Validation) -> None:
        self.validation = validation


@dataclass(frozen=True)
class Again:
    """What a card says of a training, and what came of it here."""

    name: str
    weights: str  # of the card, SHA-256
    whole: bool
    cpu: str  # the instructions that torch used here
    wanted: str
    found: str

    @property
    def same(self) -> bool:
        return self.wanted == self.found

    @property
    def text(self) -> str:
        return f"{self.name}: " + (
            "the same" if self.same else f"differs: {self.found} here, {self.wanted} in the card"
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", default=["*"])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    try:
        return compare(args)
    except InputError as error:
        return complain(str(error), INPUT)


def compare(args: argparse.Namespace) -> int:
    """Train what is asked for again, saying of each whether it is the same; return the exit status."""
    cards = chosen(args.names)
    kept = [] if args.out is None else before(args.out / KEPT)
    cpu = torch.backends.cpu.get_cpu_capability()
    found = []
    for name, card in cards.items():
        asked = (name, card.weights_sha256, args.whole, cpu)
        known = [one for one in kept if (one.name, one.weights, one.whole, one.cpu) == asked]
        one = known[-1] if known else Again(*asked, *again(name, card, args.data_root, whole=args.whole))
        if args.out is not None and not known:
            args.out.mkdir(parents=True, exist_ok=True)
            with (args.out / KEPT).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(one)) + "\n")
        print(one.text, flush=True)
        found.append(one)
    print(f"{sum(one.same for one in found)} of {len(found)} come again, with {cpu}")
    return 0 if all(one.same for one in found) else NEGATIVE


def chosen(patterns: Sequence[str]) -> dict[str, Card]:
    """Return the cards of the zoo's checkpoints whose names fit any of the patterns."""
    cards = {entry.name: entry.card for entry in zoo.entries(zoo.home()) if entry.card is not None}
    for pattern in patterns:
        if not fnmatch.filter(cards, pattern):
            raise InputError(f"names: no checkpoint of the zoo fits {pattern!r}; legal: {', '.join(cards)}")
    return {name: card for name, card in cards.items() if any(fnmatch.fnmatch(name, one) for one in patterns)}


def before(path: Path) -> list[Again]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [Again(**json.loads(line)) for line in lines]


def again(name: str, card: Card, root: Path | None, *, whole: bool) -> tuple[str, str]:
    """Train by the card's recipe into a folder that is thrown away; return what it says, and what came."""

    def stop(progress: train.Progress) -> None:
        if progress.validation is not None and not whole:
            raise _Seen(progress.validation)

    with tempfile.TemporaryDirectory() as scratch:
        try:
            made = checkpoint.read_card(train.train(card.recipe, Path(scratch) / name, root=root, progress=stop) / CARD)
        except _Seen as seen:
            return told(card.history[0]), told(seen.validation)
    return card.weights_sha256, made.weights_sha256


def told(one: Validation) -> str:
    return f"loss {one.loss!r}, clean {one.clean!r}, robust {one.robust!r} after {one.step} updates"


if __name__ == "__main__":
    sys.exit(main())
