r"""Train many recipes in one call: several at a time, until a budget is over, going on where the last call stopped.

    RBM_DATA=data python benchmarks/train_zoo.py cifar-fs-protonet-aq 'cifar-fs-*-full' --out zoo-runs \
        --seeds 0,1,2 --device cuda --workers 3 --budget 55m --copy-to checkpoints

RECIPES are shipped names, patterns of them, or TOML files; they train in that order, every one with the first seed
before any with the second. A run lies in OUT/NAME, or OUT/NAME-seedN for a seed that is not the recipe's own. What is
finished is skipped. When the budget is over, or at Ctrl-C, every worker ends its update or validation, saves and
stops; a worker whose driver was killed does so too. A recipe that fails is told with its reason, and the others go on.
OUT/summary.jsonl holds one line for every run of the call and is written anew whenever one ends. With --copy-to what
is finished enters the zoo and is pinned there; what is better in validation is not replaced, unless --replace is given.

Exit status: 0 all are finished; 1 a run failed, or may not enter the zoo; 2 input; 4 not all are finished yet.
"""

from __future__ import annotations

import argparse
import fcntl
import fnmatch
import json
import multiprocessing
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from robustbench_meta import checkpoint, cli_zoo, grid, train, untrusted, zoo
from robustbench_meta.checkpoint import CARD, Recipe, Validation
from robustbench_meta.cli_train import read_recipe
from robustbench_meta.terminal import INPUT, NEGATIVE, NOTHING, complain, print_table
from robustbench_meta.types import InputError

SUMMARY = "summary.jsonl"
EVERY = 30.0  # seconds between the lines of a worker
LOCK_SECONDS = 120.0  # that a run waits for the worker of a killed driver to save and go
State = Literal["finished", "unfinished", "waiting", "failed"]


@dataclass(frozen=True)
class Job:
    """One run: a recipe with its seed, and the folder that holds it."""

    name: str
    recipe: Recipe
    folder: Path


@dataclass(frozen=True)
class Place:
    """Where runs train: the device, the threads of each, and the data."""

    device: str
    threads: int
    root: Path | None


@dataclass(frozen=True)
class Line:
    """How far a run has come; accuracies in [0, 1] at the step that was kept, or of the last look if unfinished."""

    name: str
    state: State
    step: int
    steps: int
    clean: float | None
    robust: float | None
    validate_tasks: int
    validate_attack: str
    eps: float
    seconds: float  # of training, over all calls
    device: str | None
    detail: str = ""  # why it failed, or what became of it in the zoo


class Stop(Exception):
    """The budget is over, or whoever started this is gone."""


@dataclass
class Driver:
    """The runs of a call, those that train now, and what is known of the others."""

    jobs: Sequence[Job]
    place: Place
    out: Path
    until: float  # seconds since the epoch
    shelf: Path | None  # the zoo that takes what is finished
    replace: bool
    stop: Event = field(default_factory=multiprocessing.get_context("spawn").Event)
    running: dict[str, tuple[BaseProcess, Connection]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    entered: dict[str, str] = field(default_factory=dict)
    refused: bool = False

    def run(self, workers: int) -> None:
        """Train what is not finished, `workers` at a time, until all is or the time is over."""
        waiting = deque(job for job in self.jobs if line_of(job).state != "finished")
        for job in self.jobs:
            self.settle(job)
        self.write()
        while self.running or (waiting and not self.over):
            while waiting and len(self.running) < workers and not self.over:
                self.start(waiting.popleft())
            pipes = {pipe: name for name, (_, pipe) in self.running.items()}
            for pipe in wait(list(pipes), timeout=1.0):
                self.hear(pipes[pipe])  # type: ignore[index]

    @property
    def over(self) -> bool:
        return self.stop.is_set() or time.time() > self.until

    def start(self, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(job, self.place, self.until, self.stop, theirs))
        process.start()
        theirs.close()
        self.running[job.name] = (process, mine)
        print(f"{job.name}: begins", flush=True)

    def hear(self, name: str) -> None:
        """Take what a worker says: a line of progress, why it failed, or, by hanging up, that it is gone."""
        process, pipe = self.running[name]
        try:
            kind, text = pipe.recv()
        except EOFError:
            process.join()
            del self.running[name]
            if process.exitcode and name not in self.failed:
                self.failed[name] = f"its process ended with status {process.exitcode}"
            self.settle(next(job for job in self.jobs if job.name == name))
            self.write()
            return
        if kind == "failed":
            self.failed[name] = text
        print(f"{name}: {untrusted.printable(text)}", flush=True)

    def settle(self, job: Job) -> None:
        """Bring a finished run into the zoo, where one is given."""
        if self.shelf is None or line_of(job).state != "finished":
            return
        try:
            self.entered[job.name] = f"{zoo.add(job.folder, self.shelf, replace=self.replace)} in {self.shelf}"
        except InputError as error:
            self.entered[job.name], self.refused = str(error), True

    def lines(self) -> list[Line]:
        return [line_of(job, self.failed.get(job.name, ""), self.entered.get(job.name, "")) for job in self.jobs]

    def write(self) -> None:
        text = "".join(f"{json.dumps(asdict(line), allow_nan=False)}\n" for line in self.lines())
        checkpoint.write(self.out / SUMMARY, text.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    try:
        jobs = plan(given.recipes, given.seeds, given.out, given.data_root)
        until = time.time() + (grid.parse_budget(given.budget) if given.budget else float("inf"))
        place = Place(grid.choose_device(given.device), given.threads, given.data_root)
    except InputError as error:
        return complain(str(error), INPUT)
    given.out.mkdir(parents=True, exist_ok=True)
    driver = Driver(jobs, place, given.out, until, given.copy_to, given.replace)
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: driver.stop.set())
    driver.run(given.workers)
    lines = driver.lines()
    print_table(*table(lines))
    if driver.entered and given.page.is_file():
        cli_zoo.write_page(given.copy_to, given.page)
    unfinished = [line.name for line in lines if line.state != "finished"]
    if driver.failed:
        return complain(f"zoo: failed: {', '.join(sorted(driver.failed))}", NEGATIVE)
    if driver.refused:
        return complain("zoo: not all that is finished may enter the zoo; the table says why", NEGATIVE)
    if unfinished:
        return complain(f"zoo: {len(unfinished)} of {len(lines)} are not finished; the same command goes on", NOTHING)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("recipes", nargs="+", help="shipped names, patterns of them, or TOML files")
    made.add_argument("--out", type=Path, required=True, help="folder of the runs")
    made.add_argument("--seeds", default="", help="as 0,1,2; default: each recipe's own")
    made.add_argument("--budget", default="", help="time for this call, as 55m; default: as long as it takes")
    made.add_argument("--device", default="auto", help="auto, cpu or cuda")
    made.add_argument("--workers", type=count, default=1, help="runs at a time, all on the same device")
    made.add_argument("--threads", type=count, default=1, help="CPU threads of each run")
    made.add_argument("--data-root", type=Path, help="folder that holds the data; else RBM_DATA")
    made.add_argument("--copy-to", type=Path, help="the zoo that takes what is finished, as checkpoints")
    made.add_argument("--replace", action="store_true", help="also where validation does not say that it is better")
    made.add_argument("--page", type=Path, default=cli_zoo.PAGE, help="page that shows the zoo, where it is there")
    return made


def count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"{value} is not between 1 and 1024")
    return value


def chosen(words: Sequence[str]) -> list[str]:
    """Return the shipped names that patterns mean, and other words as they are: each once, in the order given."""
    found: dict[str, None] = {}
    for word in words:
        known = fnmatch.filter(sorted(zoo.recipes()), word) if any(one in word for one in "*?[") else [word]
        if not known:
            raise InputError(f"recipe: {word!r} matches none of {', '.join(sorted(zoo.recipes()))}")
        found.update(dict.fromkeys(known))
    return list(found)


def plan(words: Sequence[str], seeds: str, out: Path, root: Path | None) -> list[Job]:
    """List the runs in the order in which they begin; every recipe is read before the first."""
    recipes = {Path(word).stem: read_recipe(word, {}, [], root) for word in chosen(words)}
    if len(recipes) < len(chosen(words)):
        raise InputError("recipe: two of these files have the same name, and so would their folders")
    numbers = [one.strip() for one in seeds.split(",") if one.strip()]
    if odd := [one for one in numbers if not (one.isdecimal() and int(one) < 2**31)]:
        raise InputError(f"seeds: {odd[0]!r} is not a whole number below {2**31}; give values such as 0,1,2")
    jobs = {}
    for seed in map(int, numbers) if numbers else [None]:
        for name, recipe in recipes.items():
            made = recipe if seed is None else recipe.model_copy(update={"seed": seed})
            called = name if made == recipe else f"{name}-seed{seed}"
            jobs[called] = Job(called, made, out / called)
    return list(jobs.values())


def work(job: Job, place: Place, until: float, stop: Event, driver: Connection) -> None:
    """Train one run in a process of its own until it is finished or has to stop."""
    for sign in (signal.SIGINT, signal.SIGTERM):  # meant for the driver, which says when to stop
        signal.signal(sign, signal.SIG_IGN)
    torch.set_num_threads(place.threads)
    parent, told = multiprocessing.parent_process(), time.monotonic()

    def gone() -> bool:
        return parent is None or not parent.is_alive()

    def watch(now: train.Progress) -> None:
        nonlocal told
        if time.monotonic() - told > EVERY and not gone():
            told = time.monotonic()
            driver.send(("progress", progress_text(now)))
        if stop.is_set() or time.time() > until or gone():
            raise Stop

    try:
        with locked(job.folder, until):
            train.train(job.recipe, job.folder, root=place.root, device=place.device, progress=watch)
            driver.send(("ended", "finished"))
    except Stop:
        if not gone():
            driver.send(("ended", "stopped, to be gone on with"))
    except Exception as error:
        if not isinstance(error, InputError):
            traceback.print_exc()
        if not gone():
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            driver.send(("failed", " ".join(f"{kind}{error}".split())[:500]))
        sys.exit(NEGATIVE)


@contextmanager
def locked(folder: Path, until: float) -> Iterator[None]:
    """Keep other workers from a run; the one of a killed driver is waited for until it has saved."""
    patience = min(until, time.time() + LOCK_SECONDS)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.time() > patience:
                    raise InputError(f"out: another process trains {folder}") from None
                time.sleep(0.2)
        yield


def progress_text(now: train.Progress) -> str:
    seen = now.validation
    looked = "" if seen is None else f", clean {100 * seen.clean:.1f} %, robust {100 * seen.robust:.1f} %"
    return f"{now.step} of {now.steps}, {grid.duration(now.eta)} left, loss {now.loss:.3f}{looked}"


def line_of(job: Job, failed: str = "", detail: str = "") -> Line:
    """Read from its folder how far a run has come."""
    recipe, device = job.recipe, None
    state: State = "waiting"
    step, seconds, seen = 0, 0.0, None
    if (job.folder / CARD).is_file():
        card = checkpoint.read_card(job.folder / CARD)
        state, step, seconds, seen, device = "finished", recipe.steps, card.train_seconds, card.chosen, card.device
        if card.stopped and card.history:
            step, detail = card.history[-1].step, "; ".join(filter(None, (card.stopped, detail)))
    elif (job.folder / train.RESUME).is_file():
        state, (step, seconds, seen) = "unfinished", so_far(job.folder / train.RESUME)
    return Line(
        name=job.name,
        state="failed" if failed else state,
        step=step,
        steps=recipe.steps,
        clean=None if seen is None else seen.clean,
        robust=None if seen is None else seen.robust,
        validate_tasks=recipe.validate_tasks,
        validate_attack=recipe.validate_attack,
        eps=recipe.eps,
        seconds=round(seconds, 1),
        device=device,
        detail=failed or detail,
    )


def so_far(path: Path) -> tuple[int, float, Validation | None]:
    """Read step, seconds and the last look of a stopped run; what cannot be read is told when it goes on."""
    try:
        with safe_open(path, "pt") as file:
            plain: dict[str, Any] = untrusted.parse(file.metadata()["run"])
        looks = plain["history"]
        return plain["step"], plain["seconds"], Validation(**looks[-1]) if looks else None
    except (SafetensorError, ValueError, KeyError, TypeError):
        return 0, 0.0, None


def table(lines: Sequence[Line]) -> tuple[Sequence[str], list[Sequence[str]]]:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f}"

    columns = ("run", "state", "step", "clean %", "robust %", "n", "minutes", "")
    rows = [
        (
            *(one.name, one.state, f"{one.step} of {one.steps}", percent(one.clean), percent(one.robust)),
            *(str(one.validate_tasks), f"{one.seconds / 60:.1f}", one.detail),
        )
        for one in lines
    ]
    return columns, rows


if __name__ == "__main__":
    sys.exit(main())
