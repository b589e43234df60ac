"""Runs survive what happens to them: kills, several at once, no memory, no disk; and leave the caller's state alone.

Processes are really killed, memory is really limited and writes really fail. What is killed here are forks of a
process that has imported everything, so that twenty kills do not cost twenty imports of torch.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from test_grid import FAMILY, RECIPE, STROKES, Centroids, content, saved
from test_store import CELL, record
from torch import Tensor

from robustbench_meta import catalog, cli, evaluate, executors, grid, store
from robustbench_meta.executors import Executor, OnRay, Place, Processes
from robustbench_meta.train import train
from robustbench_meta.types import Attack, InputError, Norm, Streams, Surface, Threat, Victim

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pytest", "pandas", "rich.progress", *(f"robustbench_meta.{name}" for name in ("cli", "train", "statistics"))]
)
LOG, TRAP, PAUSE, MEET = "RBM_TEST_LOG", "RBM_TEST_TRAP", "RBM_TEST_PAUSE", "RBM_TEST_MEET"
KILLS, KILLS_OF_WORKERS = 20, 2
# 12 cells of 6 tasks, each in a block of 2 and one of 4, unless a kill comes between.
GRID = ("--attacks", "logged,logged-2", "--eps", "0.02,0.04,0.06,0.08,0.1,0.12", "--tasks", "6")
FIXED = ("--queries", "2", "--device", "cpu", "--out", "r")


@dataclass(frozen=True)
class Logged:
    """PGD that appends a line to the file RBM_TEST_LOG for every task it meets, and rests RBM_TEST_PAUSE seconds.

    Then it waits, a minute at most, until as many processes as RBM_TEST_MEET says have written there.
    """

    steps: int = 2

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = False

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        if path := os.environ.get(LOG):
            task = sha256(victim.x.numpy().tobytes()).hexdigest()[:12]
            with open(path, "a") as log:
                log.write(f"{os.getpid()} {self.steps}/{threat.eps} {task}\n")
            until = time.monotonic() + 60
            while len(processes(Path(path))) < int(os.environ.get(MEET, 1)) and time.monotonic() < until:
                time.sleep(0.05)
        time.sleep(float(os.environ.get(PAUSE, 0)))
        return catalog.attack(f"pgd-{self.steps}")(victim, threat, rng)


@dataclass(frozen=True)
class Deadly(Logged):
    """Kills the process it runs in: once where RBM_TEST_TRAP is not there yet, or every time where it is a folder."""

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        if trap := os.environ.get(TRAP):
            if os.path.isdir(trap):
                os.kill(os.getpid(), signal.SIGKILL)
            if victim.tasks and not os.path.exists(trap):
                with open(trap, "x"):
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(victim, threat, rng)


@dataclass(frozen=True)
class Hungry(Logged):
    """Really takes `megabytes` for each task that it meets at once."""

    megabytes: int = 100

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        torch.empty(victim.tasks * self.megabytes * 2**20, dtype=torch.uint8)
        return victim.x.clone()


def rbm(folder: Path, arguments: tuple[str, ...], environment: dict[str, str], nobody: bool = False) -> None:
    """Be the command `rbm` in `folder`, its output in files there; as the user nobody, if asked for."""
    os.environ.update(environment)
    os.chdir(folder)
    for name, stream in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    catalog.shelf("attacks").presets.update({"logged": Logged(), "logged-2": Logged(3)})
    if nobody and os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    sys.argv = ["rbm", *arguments]
    cli.app()


def started(
    folder: Path, *arguments: str, log: Path | None = None, pause: float = 0.0, meet: int = 1, nobody: bool = False
) -> Any:
    folder.mkdir(exist_ok=True)
    environment = {PAUSE: str(pause), MEET: str(meet), **({} if log is None else {LOG: str(log)})}
    process = FORKS.Process(target=rbm, args=(folder, arguments, environment, nobody))
    process.start()
    return process


def status(process: Any) -> int:
    process.join(120)
    return cast(int, process.exitcode)


def said(folder: Path) -> str:
    return (folder / "err").read_text()


def runs(pid: int) -> bool:
    """Whether a process is there that is more than a zombie, as orphans may stay where nobody waits for them."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def processes(log: Path) -> set[str]:
    """The processes that have written to the log."""
    return {line.split()[0] for line in lines(log)}


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("zoo") / "tiny")


@pytest.fixture(scope="module")
def whole(ckpt: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The cells of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    assert status(started(folder, "evaluate", "--ckpt", str(ckpt), *GRID, *FIXED)) == 0, said(folder)
    return content(folder / "r")


def killed_again_and_again(
    folder: Path, command: tuple[str, ...], whole: dict[str, bytes], *, kills: int, seed: int
) -> list[int]:
    """Start the command and kill it after a random number of tasks, `kills` times; the tasks that each kill lost.

    A run that was done before its kill came, as on a fast machine the last ones may be, has to hold what `whole` does;
    then its results are deleted, so that the next kill finds work.
    """
    moments, done = random.Random(seed), 0
    lost: list[int] = []
    while len(lost) < kills:
        log = folder / "log"
        log.unlink(missing_ok=True)
        process = started(folder, *command, log=log)
        wanted = moments.randrange(8)
        while len(lines(log)) < wanted and process.exitcode is None:
            time.sleep(0.002)
        time.sleep(moments.random() * (0.03 if wanted else 0.3))
        process.kill()
        if status(process) == -signal.SIGKILL:
            lost.append(len(lines(log)) - sum(newly_stored(folder)))
        else:
            done += 1
            assert process.exitcode == 0, said(folder)
            assert done < kills, "no kill was in time"
            assert content(folder / "r") == whole
            shutil.rmtree(folder / "r")
            for seen in folder.glob("*.seen"):
                seen.unlink()
    return lost


def newly_stored(folder: Path) -> Iterator[int]:
    """How many tasks each cell's file has gained since the last look."""
    for path in sorted((folder / "r" / "cells").glob("*.jsonl")):
        seen, now = folder / f"{path.name}.seen", path.read_bytes().count(b"\n") - 1
        yield now - (int(seen.read_text()) if seen.exists() else 0)
        seen.write_text(str(now))


def test_killed_at_twenty_random_moments_a_run_ends_in_the_same_bytes(
    ckpt: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    command = ("evaluate", "--ckpt", str(ckpt), *GRID, *FIXED)
    lost = killed_again_and_again(tmp_path, command, whole, kills=KILLS, seed=0)
    assert all(0 <= tasks <= 4 for tasks in lost), lost  # a block: the largest holds 4 tasks
    assert status(started(tmp_path, *command)) == 0, said(tmp_path)
    assert content(tmp_path / "r") == whole
    # What a kill in the middle of a write leaves has a name that nothing reads, and the next write there takes it.
    strays = {path.suffix for path in (tmp_path / "r").rglob("*") if path.name.startswith(".")}
    assert strays <= {".new"}
    assert len(store.read(tmp_path / "r").tasks) == 72


def test_a_run_with_workers_survives_kills_and_leaves_no_worker_behind(
    ckpt: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    command = ("evaluate", "--ckpt", str(ckpt), *GRID, *FIXED, "--workers", "2")
    for kill in range(KILLS_OF_WORKERS):
        log = tmp_path / f"log{kill}"
        process = started(tmp_path, *command, log=log, pause=0.05, meet=2)
        while len(workers := {int(line.split()[0]) for line in lines(log)}) < 2 and process.exitcode is None:
            time.sleep(0.002)
        time.sleep(random.Random(kill).random() * 0.3)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"ended before kill {kill}: {said(tmp_path)}"
        deadline = time.monotonic() + 10
        while any(map(runs, workers)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not any(map(runs, workers))
        assert 0 <= len(lines(log)) - sum(newly_stored(tmp_path)) <= 2 * 4  # a block of each worker
    assert status(started(tmp_path, *command)) == 0, said(tmp_path)
    assert content(tmp_path / "r") == whole


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_a_run_in_one_line_and_keeps_what_was_finished(ckpt: Path, tmp_path: Path, workers: str) -> None:
    log = tmp_path / "log"
    command = ("evaluate", "--ckpt", str(ckpt), *GRID[:-1], "400", *FIXED, "--workers", workers)
    process = started(tmp_path, *command, log=log)
    while len(lines(log)) < 40 and process.exitcode is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    assert status(process) == 130
    assert said(tmp_path).splitlines()[-1] == "rbm: stopped; what was finished is kept, and the same command goes on"
    assert "Traceback" not in said(tmp_path)
    assert len(store.read(tmp_path / "r").tasks) >= 20


def test_four_commands_on_one_grid_at_once_end_in_the_same_bytes(
    ckpt: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    folders = [tmp_path / str(number) for number in range(4)]
    command = ("evaluate", "--ckpt", str(ckpt), *GRID, *FIXED[:-1], str(tmp_path / "r"))
    running = [started(folder, *command) for folder in folders]
    assert [status(process) for process in running] == [0] * 4
    assert content(tmp_path / "r") == whole


def write_cells(results: Path, task: int) -> None:
    for seed in range(200):
        store.append(results, replace(CELL, seed=seed), [record(task)])


def test_four_processes_of_200_cells_each_keep_800_records(tmp_path: Path) -> None:
    running = [FORKS.Process(target=write_cells, args=(tmp_path, task)) for task in range(4)]
    for process in running:
        process.start()
    assert [status(process) for process in running] == [0] * 4
    found = store.read(tmp_path)
    assert (len(found.cells), len(found.tasks)) == (200, 800)
    assert all(store.stored(tmp_path, cell) == [record(i) for i in range(4)] for cell in store.cells(tmp_path).values())


def plan_of(attacks: dict[str, Attack], results: Path, learner: Any = None, **axes: Any) -> grid.Plan:
    subject = grid.object_subject(learner or Centroids(), "centroids", STROKES, device="cpu", ways=3)
    return grid.make_plan(
        grid.Grid(attacks, **{"eps": (0.05, 0.1), "shots": (2,), "queries": 3, **axes}), [subject], results
    )


def run_at(place: Place, plan: grid.Plan, results: Path, tasks: int) -> list[grid.Failure]:
    with place.open(grid.kit(plan)) as executor:
        return grid.execute(plan, results, tasks=tasks, executor=executor)


def test_four_workers_in_another_order_and_more_tasks_later_give_the_bytes_of_one(tmp_path: Path) -> None:
    plan = plan_of({"logged": Logged(), **grid.named_attacks(["noise-3", "pgd-3"])}, tmp_path)
    assert run_at(executors.Here(), plan, tmp_path / "one", 9) == []
    shuffled = replace(plan, jobs=tuple(random.Random(1).sample(plan.jobs, len(plan.jobs))))
    with Processes(4).open(grid.kit(shuffled)) as executor:
        for count in (3, 9):
            assert grid.execute(shuffled, tmp_path / "four", tasks=count, executor=executor) == []
    assert content(tmp_path / "one") == content(tmp_path / "four")
    assert len(content(tmp_path / "four")) == 6


def pid_and(cargo: grid.Kit, value: int, meeting: Path) -> tuple[int, int, int]:
    """Wait until two processes have met in a folder, so that neither does all the work before the other has begun."""
    (meeting / str(os.getpid())).touch()
    until = time.monotonic() + 60
    while len(list(meeting.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    return os.getpid(), value, len(cargo.jobs)


def unsendable(cargo: grid.Kit) -> Any:
    return lambda: cargo


def raising(cargo: grid.Kit) -> None:
    raise KeyError("gone")


def answers(executor: Executor, count: int) -> dict[int, executors.Outcome]:
    return {outcome.ticket: outcome for outcome in (executor.wait() for _ in range(count))}


def test_any_function_can_be_sent_and_what_it_raises_comes_back_as_a_line(tmp_path: Path) -> None:
    plan, meeting = plan_of({"logged": Logged()}, tmp_path), tmp_path / "meeting"
    meeting.mkdir()
    with Processes(2).open(grid.kit(plan)) as executor:
        tickets = [executor.submit(pid_and, value, meeting) for value in range(8)]
        found = answers(executor, 8)
        assert [found[ticket].value[1:] for ticket in tickets] == [(value, 2) for value in range(8)]
        assert len({found[ticket].value[0] for ticket in tickets} - {os.getpid()}) == 2
        bad = [executor.submit(raising), executor.submit(unsendable)]
        errors = answers(executor, 2)
    assert errors[bad[0]].error == "KeyError: 'gone'"
    assert errors[bad[1]].error.startswith("what it returned cannot be sent back")


def test_a_worker_that_is_killed_is_replaced_and_its_block_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of({"deadly": Deadly()}, tmp_path)
    assert run_at(executors.Here(), plan, tmp_path / "alive", 4) == []
    monkeypatch.setenv(TRAP, str(tmp_path / "trap"))
    assert run_at(Processes(2), plan, tmp_path / "killed", 4) == []
    assert (tmp_path / "trap").exists()
    assert content(tmp_path / "alive") == content(tmp_path / "killed")


def test_a_block_that_kills_every_worker_makes_its_cell_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of({"deadly": Deadly(), "logged": Logged()}, tmp_path, eps=(0.1,))
    monkeypatch.setenv(TRAP, str(tmp_path))
    assert executors.RETRIES == 3
    monkeypatch.setattr(executors, "RETRIES", 1)  # each is a process that imports torch
    (failure,) = run_at(Processes(1), plan, tmp_path / "r", 2)
    assert failure.cell.attack == "deadly"
    assert failure.reason == "a worker process was killed (SIGKILL) while it ran this, 2 times"
    assert store.read(tmp_path / "r").cells["status"].tolist() == ["error", "ok"]


def test_what_cannot_be_sent_to_workers_is_refused_in_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Local(Logged): ...

    plan = plan_of({"local": Local()}, tmp_path)
    with pytest.raises(InputError, match=r"^workers: the plan cannot be sent to another process .*Local.*--workers 1$"):
        run_at(Processes(2), plan, tmp_path / "r", 2)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"workers": 0}, "workers: 0 is not a whole number from 1 to 1024"),
        ({"workers": -1}, "workers: -1 is not a whole number from 1 to 1024"),
        ({"workers": 1.5}, "workers: 1.5 is not a whole number from 1 to 1024"),
        ({"workers": True}, "workers: True is not a whole number from 1 to 1024"),
        ({"workers": 100_000}, "workers: 100000 is not a whole number from 1 to 1024"),
        ({"executor": "dask"}, "executor: 'dask' is not one of local, ray"),
        ({"address": "127.0.0.1:1"}, "address: '127.0.0.1:1' belongs to executor 'ray'; give that too"),
    ],
)
def test_places_that_cannot_be_are_refused_in_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as refused:
        evaluate(learner=Centroids(), family=STROKES, **options)
    assert str(refused.value) == line


def test_a_script_without_a_guard_is_told_about_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_grid import STROKES, Centroids\n"
        "from robustbench_meta import evaluate\n"
        "evaluate(learner=Centroids(), family=STROKES, ways=3, shots=2, queries=3, eps=.1, tasks=2, workers=2)\n"
    )
    command = [sys.executable, str(script), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "keeps its calls below `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]


def limit(megabytes: int) -> None:
    """Let this process take so many megabytes more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20,) * 2)


def within(megabytes: int, ckpt: Path, results: Path, each: int) -> None:
    """Run two cells of 20 tasks in a process that may take so many megabytes more than it has."""
    torch.set_num_threads(1)
    loaded = grid.load_subject(ckpt, device="cpu")
    loaded = replace(loaded, learner=replace(loaded.learner, backend="vmap"))
    axes = grid.Grid({"hungry": Hungry(megabytes=each), "fgsm": catalog.attack("fgsm")}, eps=(0.1,), queries=2)
    plan = grid.make_plan(axes, [loaded], results)
    grid.execute(plan, results, tasks=2)
    limit(megabytes)
    grid.execute(plan, results, tasks=20)


@pytest.mark.parametrize("each", [100, 200])
def test_out_of_memory_the_block_halves_and_what_ran_is_in_the_timings(ckpt: Path, tmp_path: Path, each: int) -> None:
    process = FORKS.Process(target=within, args=(900, ckpt, tmp_path, each))
    process.start()
    assert status(process) == 0
    found = store.read(tmp_path)
    assert found.cells["status"].tolist() == ["ok", "ok"]
    assert found.tasks.groupby("key").size().tolist() == [20, 20]
    (name,) = found.cells.loc[found.cells["attack"] == "hungry", "key"]
    chunks = [line["chunk"] for line in store._timings(tmp_path / "timings" / f"{name}.jsonl")]
    fitting = 900 // each
    assert chunks[0] == 2  # as before memory was short
    assert max(chunks[1:]) <= fitting
    assert max(chunks[1:]) > fitting / 2 - 1
    assert sum(chunks) == 20


def test_where_one_task_does_not_fit_the_cell_is_an_error(ckpt: Path, tmp_path: Path) -> None:
    store.prepare(tmp_path)
    process = FORKS.Process(target=starved, args=(ckpt, tmp_path))
    process.start()
    assert status(process) == 0
    cells = store.read(tmp_path).cells.set_index("attack")
    assert cells["status"].to_dict() == {"hungry": "error", "fgsm": "ok"}
    assert "DefaultCPUAllocator" in str(cells.loc["hungry", "reason"])


def starved(ckpt: Path, results: Path) -> None:
    limit(900)
    loaded = grid.load_subject(ckpt, device="cpu")
    attacks: dict[str, Attack] = {"hungry": Hungry(megabytes=2000), "fgsm": catalog.attack("fgsm")}
    grid.execute(grid.make_plan(grid.Grid(attacks, eps=(0.1,), queries=2), [loaded], results), results, tasks=3)


SMALL = ("--attacks", "fgsm", "--eps", "0.05", "--tasks")


@pytest.mark.parametrize("folder", ["cells", "timings"])
def test_a_full_disk_is_status_three_in_one_line_and_keeps_what_was_stored(
    ckpt: Path, tmp_path: Path, folder: str
) -> None:
    command = ("evaluate", "--ckpt", str(ckpt), *SMALL)
    assert status(started(tmp_path, *command, "2", *FIXED)) == 0, said(tmp_path)
    before = content(tmp_path / "r")
    (path,) = (tmp_path / "r" / "cells").iterdir()
    (tmp_path / "r" / folder / f".{path.name}.new").symlink_to("/dev/full")  # a write there fails as on a full disk
    assert status(started(tmp_path, *command, "4", *FIXED)) == 3
    line = f"rbm: environment: [Errno 28] No space left on device: 'r/{folder}/{path.name}'"
    assert said(tmp_path).splitlines()[-1] == line
    assert "Traceback" not in said(tmp_path)
    if folder == "cells":
        assert content(tmp_path / "r") == before
    assert len(store.read(tmp_path / "r").tasks) == (2 if folder == "cells" else 4)
    assert status(started(tmp_path, *command, "4", *FIXED)) == 0, said(tmp_path)
    assert len(store.read(tmp_path / "r").tasks) == 4


def training(folder: Path, victim: str) -> None:
    (folder / "c").mkdir()
    (folder / "c" / f".{victim}.{os.getpid()}.partial").symlink_to("/dev/full")
    options = (*FAMILY.items(), ("width", 4), ("depth", 2))
    changes = [
        f"--set={'network' if name in ('width', 'depth') else 'family'}_options.{name}={v}" for name, v in options
    ]
    changes += [f"--set={change}" for change in ("steps=1", "ways=3", "shots=1", "queries=2", "validate_tasks=2")]
    rbm(folder, ("train", "--algorithm", "protonet", "--defense", "standard", *changes, "--out", "c"), {})


@pytest.mark.parametrize("victim", ["resume.safetensors", "weights.safetensors", "card.json"])
def test_a_disk_full_while_training_is_status_three_in_one_line(tmp_path: Path, victim: str) -> None:
    process = FORKS.Process(target=training, args=(tmp_path, victim))
    process.start()
    assert status(process) == 3
    assert said(tmp_path).splitlines()[-1] == "rbm: environment: [Errno 28] No space left on device"
    assert "Traceback" not in said(tmp_path)
    assert not (tmp_path / "c" / "card.json").exists()


def test_a_store_that_is_read_only_is_status_three_in_one_line(ckpt: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    saved(shared / "tiny")
    command = ("evaluate", "--ckpt", "tiny", *SMALL)
    assert status(started(shared, *command, "2", *FIXED)) == 0, said(shared)
    before = content(shared / "r")
    for path in (shared, *shared.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert status(started(shared, *command, "4", *FIXED, nobody=True)) == 3, said(shared)
    assert said(shared).splitlines()[-1].startswith("rbm: environment: [Errno 13] Permission denied: ")
    assert "Traceback" not in said(shared)
    assert content(shared / "r") == before
    shared.chmod(0o755)


def test_a_store_of_a_newer_version_is_status_three_and_left_alone(ckpt: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", "--ckpt", str(ckpt), *SMALL, "2", *FIXED)
    assert status(started(tmp_path, *arguments)) == 0
    (path,) = (tmp_path / "r" / "cells").iterdir()
    path.write_text(path.read_text().replace('"schema":1', '"schema":2'))
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    for command in (arguments, (*arguments, "--workers", "2"), ("report", "r")):
        assert status(started(tmp_path, *command)) == 3
        assert said(tmp_path).count("\n") == 1
        assert "schema version 2" in said(tmp_path)
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before


class Trainable(Centroids):
    """Embeds by a frozen linear layer in train mode, on which the caller left a gradient."""

    def __init__(self) -> None:
        linear = torch.nn.Linear(784, 784, bias=False)
        self.layer, self.weight = torch.nn.Sequential(torch.nn.Dropout(0.0), linear), linear.weight
        self.weight.grad = torch.ones(784, 784)
        self.weight.requires_grad_(False)

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return super().adapt(self.layer(x.flatten(1)), y)

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, self.layer(x.flatten(1)))


def trace(frame: Any, event: str, argument: Any) -> None: ...


def state() -> list[Any]:
    python, drawn = random.getstate(), np.random.get_state()
    modes = [
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.backends.cudnn.allow_tf32,
        torch.get_default_dtype(),
    ]
    return [torch.get_rng_state().tolist(), [str(part) for part in drawn], python, sys.gettrace(), os.getcwd(), *modes]


AXES: dict[str, Any] = {"family": STROKES, "ways": 3, "shots": 2, "queries": 3, "eps": 0.1, "tasks": 2}
PUBLIC: dict[str, Callable[[Any, Path], Any]] = {
    "evaluate": lambda mine, folder: evaluate(learner=mine, attacks=("fgsm", "noise-2", "square"), **AXES),
    "evaluate with workers": lambda mine, folder: evaluate(learner=mine, attacks="fgsm", workers=2, **AXES),
    "evaluate a checkpoint": lambda mine, folder: evaluate(
        saved(folder / "c"), queries=3, eps=0.1, tasks=1, attacks=("pgd-3", "autoattack-reference"), device="cpu"
    ),
    "train": lambda mine, folder: train(
        RECIPE.model_copy(update={"steps": 2, "queries": 2, "validate_tasks": 2, "defense": "aq"}), folder / "t"
    ),
}


@pytest.mark.parametrize("call", PUBLIC)
def test_global_state_and_what_the_caller_gave_are_as_before(tmp_path: Path, call: str) -> None:
    mine, traced, grad = Trainable(), sys.gettrace(), call != "evaluate"
    weight = mine.weight
    before = weight.clone()
    try:
        with torch.set_grad_enabled(grad):
            sys.settrace(trace)
            seen = state()
            PUBLIC[call](mine, tmp_path)
            assert state() == seen
    finally:
        sys.settrace(traced)
    assert mine.layer.training
    assert not weight.requires_grad
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert torch.equal(weight, before)


def test_without_ray_the_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"'ray' needs Ray, .* `pip install robustbench_meta\[ray\]`"):
        executors.choose_place(executor="ray")


def test_a_cluster_that_does_not_answer_is_one_line_within_seconds(ckpt: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    ray = ("--executor", "ray", "--address", "127.0.0.1:1")
    assert status(started(tmp_path, "evaluate", "--ckpt", str(ckpt), *SMALL, "2", *FIXED, *ray)) == 2
    assert said(tmp_path).startswith("rbm: address: no Ray cluster answers at '127.0.0.1:1'")
    assert said(tmp_path).count("\n") == 1
    assert time.monotonic() - began < 20
    assert not (tmp_path / "r").exists()


def test_a_cluster_of_two_nodes_that_loses_a_worker_gives_the_bytes_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    plan = plan_of({"deadly": Deadly(), "logged": Logged()}, tmp_path)
    assert run_at(executors.Here(), plan, tmp_path / "here", 6) == []
    monkeypatch.setenv(TRAP, str(tmp_path / "trap"))
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    monkeypatch.setenv(MEET, "2")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        seen: list[grid.Progress] = []
        with OnRay(cluster.address, "cpu").open(grid.kit(plan)) as executor:
            assert executor.slots == 2
            assert (
                grid.execute(plan, tmp_path / "ray", tasks=6, watcher=grid.Watcher(seen.append), executor=executor)
                == []
            )
    finally:
        cluster.shutdown()
    assert (tmp_path / "trap").exists()
    assert (seen[-1].done, seen[-1].total) == (24, 24)
    assert len(processes(tmp_path / "log")) >= 2
    assert str(os.getpid()) not in processes(tmp_path / "log")
    assert content(tmp_path / "here") == content(tmp_path / "ray")
