"""Record what arms of Reacher-v5 meet, of which tasks of the family `reacher` show what their expert does.

python benchmarks/reacher_states.py            # robustbench_meta/tasks/reacher_states.npz; --split test: says how
                                               # far what is recorded now lies from what is kept there
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from robustbench_meta.draws import uniform
from robustbench_meta.environments import SHARED
from robustbench_meta.tasks import reacher
from robustbench_meta.tasks.reacher import FULL, Reacher
from robustbench_meta.types import SPLITS, Split

FILE = Path(reacher.__file__).with_name(reacher.STATES)
ARMS, EACH, WAYS = 80, 4, 8  # motors of a split, rollouts of each, and commands
STRAYS = 0.2  # the share of steps in which something is done at random, so that what leads back is shown, too
AWAY, STILL = 0.01, 0.5  # metres and radians a second: below both an arm rests, and one step is like the other


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--split", choices=SPLITS)
    parser.add_argument("--arms", type=int, default=ARMS)
    args = parser.parse_args(argv)
    if args.split:
        found, kept = record(args.split, args.arms), np.load(FILE)[args.split]
        same = min(len(found), len(kept))
        print(f"{np.abs(found[:same].astype(int) - kept[:same]).max()} steps of 1/{FULL} apart, of {same} states")
        return 0
    np.savez_compressed(FILE, **{split: record(split, ARMS) for split in SPLITS})  # type: ignore[arg-type]
    print(FILE)
    return 0


def record(split: Split, arms: int) -> np.ndarray:
    """Return what the first `arms` arms of a split observed where they were not at rest: int16 [n,10]."""
    family, parts = Reacher(), []
    for arm in range(arms):
        stream = f"reacher/{split}/recorded/{arm}"
        world = family.starts(family.world(split, stream), stream, EACH)
        strays = uniform(f"{stream}/strays", (family.horizon, EACH, 2))
        with family.enter(world, WAYS, SHARED) as stage:
            for step in range(family.horizon):
                states = stage.states
                away, speeds = (states[:, part].norm(dim=1) for part in (slice(8, 10), slice(6, 8)))
                moves = (away > AWAY) | (speeds > STILL)
                parts.append(family.observe(states[moves]))
                stray = torch.from_numpy((strays[step] + 1) / 2)
                drawn = (stray[:, 1] * WAYS).long()
                stage.step(torch.where(stray[:, 0] < STRAYS, drawn, family.expert(world, states, WAYS)))
    return (torch.cat(parts) * FULL).round().numpy().astype(np.int16)


if __name__ == "__main__":
    sys.exit(main())
