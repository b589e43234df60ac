r"""How long would a recipe train on a GPU that is not here? Count its work on the CPU and divide by stated speeds.

    RBM_DATA=data python benchmarks/size_recipes.py 'cifar-fs-*-full'

One update of one task runs on the CPU, by the backend that a GPU would use. Its floating-point operations are
multiplied by the tasks of an update; its kernels are not, since there the tasks run together. To these come what the
CPU does for every update (draw and augment its tasks) and validation, task by task. All are added up, as if none
overlapped. The speeds are assumptions, not measurements: an H200 whose convolutions reach so many TFLOP/s (TF32), and
whose host starts a kernel every so many microseconds. `benchmarks/gpu.py` measures what a GPU really does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from train_zoo import chosen

from robustbench_meta import train
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.cli_train import read_recipe
from robustbench_meta.terminal import print_table

TFLOPS = {"conv4": 20.0, "r2d2": 40.0, "resnet12": 60.0}  # wider convolutions fill the tensor cores better
LAUNCH = 15e-6  # seconds a kernel


class Kernels(TorchDispatchMode):
    """Count operations that are no views: on a GPU each starts a kernel at least."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not getattr(func, "is_view", False)
        return func(*args, **(kwargs or {}))


@dataclass
class Work:
    """What was done inside `counted`."""

    flops: float = 0.0
    kernels: int = 0


@dataclass(frozen=True)
class Size:
    """The parts of one recipe's training."""

    step: Work  # of one update, all tasks
    look: Work  # of one validation task
    drawing: float  # CPU seconds for the tasks of an update

    def seconds(self, recipe: Recipe, tflops: float, launch: float) -> tuple[float, float]:
        """Return the seconds of all updates and of all validations."""

        def cost(work: Work) -> float:
            return work.flops / (1e12 * tflops) + launch * work.kernels

        looks = -(-recipe.steps // recipe.validate_every) * recipe.validate_tasks
        return recipe.steps * (cost(self.step) + self.drawing), looks * cost(self.look)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipes", nargs="+", help="shipped names, patterns of them, or TOML files")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--tflops", type=float, help=f"default: {TFLOPS}")
    parser.add_argument("--launch", type=float, default=1e6 * LAUNCH, help="microseconds a kernel")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in chosen(given.recipes):
        recipe = read_recipe(name, {}, [], given.data_root)
        size = measured(recipe, given.data_root)
        tflops = given.tflops or TFLOPS[recipe.network]
        updates, looks = size.seconds(recipe, tflops, given.launch / 1e6)
        cells = (f"{size.step.flops / 1e12:.3f}", str(size.step.kernels), f"{1000 * size.drawing:.1f}", f"{tflops:g}")
        each = f"{1000 * updates / recipe.steps:.0f}"
        rows.append((name, *cells, each, str(recipe.steps), f"{updates / 60:.0f}", f"{looks / 60:.0f}"))
        print(*rows[-1], flush=True)
    columns = ("recipe", "TFLOP/update", "kernels", "drawing ms", "TFLOP/s", "ms/update", "updates")
    print_table((*columns, "minutes", "and validation"), rows)


def measured(recipe: Recipe, root: Path | None) -> Size:
    """Run one update of one task and one validation task; draw the tasks of a few updates."""
    defense, learner, family, threat = train._prepare(recipe, root, "cpu")
    learner = replace(learner, backend="flat")
    single = recipe.model_copy(update={"meta_batch": 1})
    run = train._start(single, learner, defense)
    with counted() as step:
        train._meta_step(run, single, learner, defense, family, threat)
    step.flops *= recipe.meta_batch
    validating = replace(learner, params=run.average, norm_mode=recipe.norm_mode, running=run.running)
    with counted() as look:
        next(train.validation(recipe, replace(validating, meta_gradient="exact"), family, threat))
    spent = []
    for number in range(5):
        before = time.process_time()
        train._batch(recipe, learner, family, number)
        spent.append(time.process_time() - before)
    return Size(step, look, min(spent))


@contextmanager
def counted() -> Iterator[Work]:
    work = Work()
    with FlopCounterMode(display=False) as flops, Kernels() as kernels:
        yield work
    work.flops, work.kernels = float(flops.get_total_flops()), kernels.count


if __name__ == "__main__":
    main()
