"""Measure what workers and Ray cost a cell, beside the same cells in this process.

python benchmarks/overhead.py --rounds 7

Each place has one slot here, so that it does the same work one cell after another: what it takes beyond this process
is the price of sending a block away and its records back. The places take turns within each round. What they cost
once, before the first cell, is timed apart. Needs Ray, of which it starts a cluster of one CPU on this machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from robustbench_meta import executors, grid
from robustbench_meta.executors import Executor, Place

CKPT = Path(__file__).resolve().parents[1] / "checkpoints" / "strokes-protonet-standard"
UNITS = 100
SIZES = {  # attack, tasks, cells
    "a unit that does nothing": ("fgsm", 0, UNITS),
    "small: fgsm, 2 tasks": ("fgsm", 2, 40),
    "ordinary: pgd-20, 20 tasks": ("pgd-20", 20, 2),
}


def plan_of(attack: str, cells: int) -> grid.Plan:
    subject = grid.load_subject(CKPT, device="cpu")
    budgets = tuple(round(0.001 * (i + 1), 3) for i in range(cells))
    return grid.make_plan(grid.Grid(grid.named_attacks([attack]), eps=budgets, queries=5), [subject], Path("none"))


def nothing(cargo: grid.Kit) -> None: ...


def opened(stack: ExitStack, place: Place, plan: grid.Plan) -> tuple[Executor, float]:
    """Open a place and have it do nothing once; the seconds that took."""
    started = time.perf_counter()
    executor = stack.enter_context(place.open(grid.kit(plan)))
    executor.submit(nothing)
    executor.wait()
    return executor, time.perf_counter() - started


def seconds_per_cell(plan: grid.Plan, executor: Executor, tasks: int) -> float:
    if not tasks:
        started = time.perf_counter()
        for _ in range(UNITS):
            executor.submit(nothing)
            executor.wait()
        return (time.perf_counter() - started) / UNITS
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        if failures := grid.execute(plan, Path(scratch), tasks=tasks, executor=executor):
            raise SystemExit(f"overhead: {failures[0].reason}")
        return (time.perf_counter() - started) / len(plan.jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", default="", help="only those that begin with one of these, parted by commas")
    given = parser.parse_args()
    rounds, sizes = given.rounds, tuple(given.sizes.split(","))
    from ray.cluster_utils import Cluster

    torch.set_num_threads(1)
    # A pool of one is what `workers=1` never makes, since this process does the same without it.
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    places: dict[str, Place] = {
        "this process": executors.Here(),
        "a worker process": executors.Processes(1),
        "a Ray worker": executors.OnRay(cluster.address, "cpu"),
    }
    print("| cells, rounds x cells | where | s per cell, median [least, most] | more, s | ratio | once, s |")
    print("|---|---|---|---|---|---|")
    for size, (attack, tasks, cells) in SIZES.items():
        if not size.startswith(sizes):
            continue
        plan = plan_of(attack, cells if tasks else 1)
        with ExitStack() as stack:
            ready = {name: opened(stack, place, plan) for name, place in places.items()}
            took: dict[str, list[float]] = {name: [] for name in places}
            for _ in range(rounds):
                for name, (executor, _) in ready.items():
                    took[name].append(seconds_per_cell(plan, executor, tasks))
        here = took["this process"]
        for name, seconds in took.items():
            # Round by round, so that a slow spell of the machine falls on both sides.
            more = statistics.median(theirs - ours for theirs, ours in zip(seconds, here, strict=True))
            ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds, here, strict=True))
            spread = f"{statistics.median(seconds):.5f} [{min(seconds):.5f}, {max(seconds):.5f}]"
            row = (
                f"{size}, {rounds} x {cells}",
                name,
                spread,
                f"{more:.5f}",
                f"{ratio:.2f}" if tasks else "–",
                f"{ready[name][1]:.1f}",
            )
            print(f"| {' | '.join(row)} |", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
