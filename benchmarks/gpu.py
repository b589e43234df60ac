r"""All that is worth knowing about a GPU in one call of under 8 minutes; on a CPU the same at a tiny size.

    python -m pip install --no-index --no-deps --target site wheels/*.whl && PYTHONPATH=$PWD:site \
        python benchmarks/gpu.py --out reports/gpu

This line is for a machine without network that has torch, numpy, scipy, pandas, pillow and safetensors; the folder
`wheels` brings the rest. Fill it elsewhere, for that machine's Python:

    python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_17_x86_64 \
        --constraint constraints.txt --dest wheels pydantic pydantic-core annotated-types typing-inspection \
        typing-extensions foolbox eagerpy GitPython gitdb smmap requests urllib3 idna certifi charset-normalizer \
        pyautoattack

A peer that cannot be imported, or a data set that is not there, is recorded as such and the rest goes on. A section
that fails is recorded with its reason. Both files are written after every section: gpu.json, and gpu.md for people.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product as product_of
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from robustbench_meta import catalog, grid, losses, store, threats, timing
from robustbench_meta.ascent import climb, gradient_of
from robustbench_meta.engine import start_params
from robustbench_meta.timing import CASES, SIZES, Case, NotThereError, Setup, Side, Size, Values
from robustbench_meta.types import BACKENDS, Backend, Params, Spec, Streams, Victim

Row = dict[str, Any]

BUDGET = 460.0
GRACE = 10.0  # how long a measurement may outlast its section
SHARED = ("anil", "protonet", "r2d2")  # whose body all tasks share; to the others `flat` is `vmap`
UNTRAINED = "attack/pgd-20-aq@untrained-fomaml"  # every task with weights of its own; drops no points
# How many times as fast as the peer a step or an attack shall be.
TARGETS = {
    "meta-step/fomaml": 20.0,
    "meta-step/maml": 10.0,
    "meta-step/protonet": 10.0,
    "meta-step/r2d2": 10.0,
    "attack/pgd-20": 30.0,
    "attack/autoattack": 30.0,
    "grid": 50.0,
}
COMPONENTS = ("attack/apgd-ce", "attack/apgd-t", "attack/fab-t", "attack/square")
TOLERANCE = {torch.float64: 1e-8, torch.float32: 0.05}  # of scores and gradients; ReLU and pooling flip in float32
AGREEMENT = 0.99  # of verdicts
CLOSE = 1.05  # a smaller chunk is as good as the best one within this factor


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    size: Size
    check: Size  # of the comparison with the CPU
    chunks: tuple[int, ...]  # tasks at once, the most telling first
    most: int  # tasks under attack and in a grid
    together: int  # tasks in a meta-step
    peer_tasks: int
    iterations: tuple[int, ...]  # AutoAttack's, ours and the peer's
    product: int  # rows and columns of a matrix
    images: int  # in a batch of a convolution
    copied: int  # MiB
    inner: tuple[int, ...]  # steps of the second-order step whose memory is looked at
    grid_tasks: tuple[int, ...]  # how far a grid grows, as time allows
    samples: int
    seconds: float  # each side is timed at least so long
    patience: float  # seconds that one measurement may take
    recast: tuple[str, ...]  # algorithms whose meta-step is recorded and compiled
    compiler: Mapping[str, Any]


TINY = Extent(
    size=SIZES["tiny"],
    check=SIZES["tiny"],
    chunks=(1, 3),
    most=3,
    together=2,
    peer_tasks=1,
    iterations=(3,),
    product=64,
    images=2,
    copied=1,
    inner=(2, 4),
    grid_tasks=(2, 3),
    samples=1,
    seconds=0.0,
    patience=4.0,
    recast=("fomaml",),
    compiler={"backend": "eager"},
)
CHECK = Size((3, 32, 32), 16, 4, Spec(5, 5, 15), 2, 2, 2, 15, 20)
EXTENTS = {
    "full": Extent(
        size=SIZES["full"],
        check=CHECK,
        chunks=(4, 32, 200, 1, 8),
        most=200,
        together=32,
        peer_tasks=2,
        iterations=(20, 100),
        product=8192,
        images=1024,
        copied=2048,
        inner=(5, 10, 20, 40),
        grid_tasks=(2, 32, 200),
        samples=3,
        seconds=0.1,
        patience=4.0,
        recast=("protonet", "fomaml", "maml"),
        compiler={"mode": "reduce-overhead"},
    ),
    "small": replace(
        TINY, size=SIZES["small"], check=replace(CHECK, width=8), most=4, together=4, product=512, images=16, copied=64
    ),
    "tiny": TINY,
}


class OutOfTimeError(BaseException):
    """Ends a section that did not return by itself; no Exception, so that nothing on the way catches it."""


@dataclass
class Run:
    """Where and how much to measure, and until when."""

    extent: Extent
    device: str
    root: Path | None = None
    deadline: float = math.inf

    @property
    def cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def left(self) -> float:
        return self.deadline - time.monotonic()


Section = Callable[[Run], Iterator[Row]]  # one row a measurement, so that time is checked between them


@dataclass
class Report:
    """What a run has found so far."""

    head: Row
    sections: dict[str, Row] = field(default_factory=dict)

    def write(self, out: Path) -> None:
        """Write gpu.json and gpu.md, each whole or not at all."""
        out.mkdir(parents=True, exist_ok=True)
        found = strict({**self.head, "sections": self.sections, "suggested": suggest(self.sections)})
        texts = {"gpu.json": json.dumps(found, indent=1, allow_nan=False) + "\n", "gpu.md": markdown(found)}
        for name, text in texts.items():
            scratch = out / f"{name}.new"
            scratch.write_text(text, encoding="utf-8")
            os.replace(scratch, out / name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--size", default="full", choices=EXTENTS)
    parser.add_argument("--budget", default=BUDGET, type=float, help="seconds")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="names separated by commas")
    parser.add_argument("--data-root", type=Path, default=None)
    given = parser.parse_args(arguments)
    chosen = [name.strip() for name in given.sections.split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in SECTIONS]:
        parser.error(f"--sections: {unknown[0]!r} is unknown; legal: {', '.join(SECTIONS)}")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # foolbox imports GitPython, which refuses to without git
    run = Run(EXTENTS[given.size], grid.choose_device(given.device), given.data_root)
    report = Report({"date": now(), "size": given.size, "budget": given.budget, "device": run.device})
    for name in chosen:
        report.sections[name] = {"about": "", "status": "pending", "reason": "", "seconds": 0.0, "rows": []}
    perform({name: SECTIONS[name] for name in chosen}, run, report, budget=given.budget, out=given.out)
    return int(any(section["status"] == "failed" for section in report.sections.values()))


def perform(
    sections: Mapping[str, tuple[Section, float]], run: Run, report: Report, *, budget: float, out: Path
) -> None:
    """Run sections one after another, each with its share of the time that is left; write after each."""
    report.write(out)
    end = time.monotonic() + budget
    waiting = dict(sections)
    for name, (section, weight) in sections.items():
        left = end - time.monotonic()
        share = left * weight / sum(other for _, other in waiting.values())
        del waiting[name]
        found: Row = {"status": "skipped", "reason": "the budget was spent", "seconds": 0.0, "rows": []}
        if left > 0:
            found = attend(section, run, share)
        report.sections[name] = {"about": section.__doc__ or "", **found}
        report.write(out)
        print(f"{name}: {len(found['rows'])} rows {standing_of(found)}")
        sys.stdout.flush()


def attend(section: Section, run: Run, seconds: float) -> Row:
    """Take a section's rows until its time is over; what goes wrong is recorded with the rows so far."""
    rows: list[Row] = []
    status, reason, started = "done", "", time.monotonic()
    run.deadline = started + seconds
    try:
        with alarm(seconds + GRACE):
            for row in section(run):
                rows.append(row)
                if run.left() <= 0:
                    status, reason = "cut", f"its {seconds:.0f} s were over"
                    break
    except OutOfTimeError:
        status, reason = "cut", f"a measurement did not end within {seconds + GRACE:.0f} s"
    except Exception as error:
        status, reason = "failed", explain(error)
    release()
    return {"status": status, "reason": reason, "seconds": round(time.monotonic() - started, 2), "rows": rows}


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in the main thread after so many seconds, where the system can."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(labels: Row, measure: Callable[[], Row]) -> Row:
    """Add what was measured to its labels, or why nothing was."""
    try:
        return labels | measure()
    except NotThereError as error:
        return labels | {"not there": str(error)}
    except Exception as error:
        reason = explain(error)
    release()  # only here, where no traceback holds what the failed one had
    return labels | {"failed": reason}


def explain(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):  # a device in error says so again at the next measurement
            torch.cuda.empty_cache()


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Allow convolutions and products to round float32 to TF32, or forbid it."""
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = on
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def environment(run: Run) -> Iterator[Row]:
    """Say what decides a time besides the code."""
    found = timing.describe_machine(run.device)
    yield {"what": "device", "value": found["device"]}
    yield {"what": "machine", "value": f"{found['machine']}, {found['threads']} threads"}
    yield {"what": "versions", "value": ", ".join(f"{name} {value}" for name, value in found["versions"].items())}
    yield {"what": "system", "value": platform.platform()}
    yield {"what": "commit", "value": printed("git", "rev-parse", "HEAD") or "unknown"}
    yield {"what": "TF32 in convolutions", "value": torch.backends.cudnn.allow_tf32}
    yield {"what": "TF32 in products", "value": torch.backends.cuda.matmul.allow_tf32}
    yield {"what": "cudnn.benchmark", "value": torch.backends.cudnn.benchmark}
    yield {"what": "cudnn.deterministic", "value": torch.backends.cudnn.deterministic}
    yield {"what": "allocator", "value": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "as torch sets it")}
    if run.cuda:
        own = torch.cuda.get_device_properties(0)
        yield {"what": "capability", "value": f"{own.major}.{own.minor}, {own.multi_processor_count} multiprocessors"}
        yield {"what": "memory", "value": f"{own.total_memory / 2**30:.1f} GiB"}
        yield {"what": "CUDA", "value": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"}
        asked = "driver_version,clocks.max.sm,clocks.max.mem,power.limit"
        yield {"what": "driver, clocks, power", "value": printed("nvidia-smi", f"--query-gpu={asked}", "--format=csv")}


def printed(*command: str) -> str | None:
    """Return what a program prints, on one line; None where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, cwd=Path(__file__).parent)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return "; ".join(done.stdout.split("\n")).strip("; ") if done.returncode == 0 else None


def correctness(run: Run) -> Iterator[Row]:
    """Compare with the CPU's loop in the same precision, TF32 off, where an attack leaves 20 to 80 % standing."""
    with tf32(False):
        for algorithm in timing.ALGORITHMS:
            eps = contested(checked(run, algorithm, "adapt", dtype=torch.float64, device="cpu"))
            for dtype in (torch.float64, torch.float32):
                expected = answers(run, algorithm, "loop", eps=eps, dtype=dtype, device="cpu")
                for backend in backends(algorithm):
                    labels = {"algorithm": algorithm, "backend": backend, "dtype": str(dtype).removeprefix("torch.")}
                    found = partial(answers, run, algorithm, backend, eps=eps, dtype=dtype, device=run.device)
                    yield attempt(labels | {"eps": eps}, partial(agreement, found, expected, dtype))


def contested(setup: Setup) -> float:
    """Find a budget that 20 to 80 % of the right queries survive: elsewhere any two attacks agree."""
    low, high = 1e-5, 0.5
    for _ in range(12):
        eps = math.sqrt(low * high)
        attacked = replace(attacking(setup, "pgd-20"), threat=replace(setup.threat, eps=eps))
        survived = timing.survival(attacked, timing.ours(attacked)(None))
        if survived is not None and 0.2 <= survived <= 0.8:
            break
        low, high = (eps, high) if survived is not None and survived > 0.8 else (low, eps)
    return eps


def backends(algorithm: str) -> tuple[Backend, ...]:
    return tuple(backend for backend in BACKENDS if backend != "flat" or algorithm in SHARED)


@dataclass(frozen=True)
class Answers:
    """What one way of computing says; `recomputed` is None where the meta-gradient has no second order."""

    scores: Tensor
    gradient: Values
    recomputed: Values | None
    verdicts: dict[str, Tensor]  # by attack: which queries are right, and which stay right


def checked(run: Run, algorithm: str, kind: str, *, dtype: torch.dtype, device: str) -> Setup:
    return timing.set_up(CASES[f"{kind}/{algorithm}"], run.extent.check, device=device, dtype=dtype)


def answers(run: Run, algorithm: str, backend: Backend, *, eps: float, dtype: torch.dtype, device: str) -> Answers:
    adapting, step = (
        timing.on_backend(checked(run, algorithm, kind, dtype=dtype, device=device), backend)
        for kind in ("adapt", "meta-step")
    )
    verdicts = {}
    for name in ("pgd-20", "apgd-ce"):
        setup = replace(attacking(adapting, name), threat=replace(adapting.threat, eps=eps))
        verdicts[name] = torch.stack(timing.verdicts(setup, timing.ours(setup)(None)["x_adv"])).cpu()
    with torch.no_grad():
        fitted = adapting.learner.adapt(adapting.episodes.support_x, adapting.episodes.support_y)
        scores = adapting.learner.predict(fitted, adapting.episodes.query_x)
    again = None
    if step.learner.meta_gradient == "exact" and step.steps is not None:
        again = host(timing.ours(replace(step, learner=replace(step.learner, meta_gradient="recomputed")))(None))
    return Answers(scores.cpu(), host(timing.ours(step)(None)), again, verdicts)


def host(values: Values) -> Values:
    return {name: value.cpu() for name, value in values.items()}


def attacking(setup: Setup, name: str) -> Setup:
    """Let the learner and the tasks of another case be attacked."""
    attack = timing.shortened(catalog.attack(name), setup.size.longest)
    return replace(setup, case=Case("attack", name), attacks={name: attack})


def agreement(answered: Callable[[], Answers], expected: Answers, dtype: torch.dtype) -> Row:
    found = answered()
    row: Row = {"scores": relative(found.scores, expected.scores)}
    row["gradient"] = gradients_apart(found.gradient, expected.gradient)
    if found.recomputed is not None:
        row["recomputed"] = gradients_apart(found.recomputed, found.gradient)
    row["ok"] = all(value <= TOLERANCE[dtype] for value in row.values())
    for name, (clean, stands) in found.verdicts.items():
        row[name] = float((stands == expected.verdicts[name][1]).double().mean())
        row[f"{name} survived"] = float(stands.sum() / clean.sum().clamp_min(1))
        row["ok"] &= row[name] >= AGREEMENT
    return row


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).double().norm() / expected.double().norm().clamp_min(1e-30))


def gradients_apart(found: Values, expected: Values) -> float:
    """Return the largest relative distance of one parameter's gradient; next to nothing is measured by the largest."""
    largest = max(float(value.norm()) for value in expected.values())
    return max(
        float((found[name] - value).norm()) / max(float(value.norm()), 1e-3 * largest, 1e-30)
        for name, value in expected.items()
    )


def chunks(run: Run) -> Iterator[Row]:
    """Time our side on every backend by the number of tasks at once."""
    paces: dict[tuple[str, str], float] = {}  # seconds a task
    names = [name for name, case in CASES.items() if case.kind in ("meta-step", "adapt")]
    for tasks in run.extent.chunks:
        for name in (*names, "attack/pgd-20", UNTRAINED):
            if tasks > run.extent.together and not name.startswith("attack/"):
                continue
            for backend in backends(algorithm_of(name)):
                labels = {"case": name, "backend": backend, "tasks": tasks}
                guess = paces.get((name, backend), 0.0) * tasks
                # The loop is linear in the tasks, so that a long call tells nothing new; others gain by more tasks.
                if guess > run.extent.patience / (4 if backend == "loop" else 1) or guess > run.left():
                    yield labels | {"skipped": f"a call would take up to {guess:.1f} s"}
                    continue
                row = attempt(labels, partial(pace, run, name, backend, tasks=tasks))
                if "ms_per_task" in row:
                    paces[name, backend] = row["ms_per_task"] / 1000
                yield row


def algorithm_of(name: str) -> str:
    """Name the algorithm of a case, for an attack that of the learner under attack."""
    kind, _, subject = name.partition("/")
    if kind == "attack":
        return subject.partition("untrained-")[2] or "protonet"
    return subject.removesuffix("+aq")


def pace(run: Run, name: str, backend: Backend, *, tasks: int) -> Row:
    setup = timing.on_backend(prepared(run, name, tasks), backend)
    found = timing.observe(setup, timing.ours(setup), calls=run.extent.samples, seconds=run.extent.seconds)
    row = {"ms_per_task": 1000 * found.median / tasks, "peak_mib": found.peak_mib, "calls": len(found.seconds)}
    return row if found.survived is None else row | {"survived": found.survived}


def prepared(run: Run, name: str, tasks: int) -> Setup:
    size = timing.at_tasks(run.extent.size, tasks)
    if name in CASES:
        return timing.set_up(CASES[name], size, device=run.device, root=run.root)
    attack, _, algorithm = name.removeprefix("attack/").partition("@untrained-")
    if algorithm:
        return attacking(timing.set_up(CASES[f"adapt/{algorithm}"], size, device=run.device), attack)
    return timing.set_up(Case("attack", attack), size, device=run.device)


def peers(run: Run) -> Iterator[Row]:
    """Time ours beside the peers; the peer takes few of the tasks, one after another, and is scaled by the task."""
    few, many, length = run.extent.together, run.extent.most, run.extent.size.longest
    for name in (*(f"meta-step/{name}" for name in timing.ALGORITHMS), "adapt/maml", "adapt/protonet"):
        yield from ladder(run, name, [(few, length)])
    yield from ladder(run, "attack/pgd-20", [(few, length), (many, length)])
    short, *longer = run.extent.iterations
    rungs = [(few, short), (many, short), *((many, length) for length in longer)]
    yield from ladder(run, "attack/autoattack", rungs)
    for name in COMPONENTS:
        yield from ladder(run, name, [(few, short)])


def ladder(run: Run, name: str, rungs: Sequence[tuple[int, int | None]]) -> Iterator[Row]:
    """Go on to more tasks and iterations while what was seen says that there is time."""
    guess = 0.0
    for at, (tasks, longest) in enumerate(rungs):
        labels = {"case": name, "tasks": tasks, "iterations": longest}
        if guess > run.left():
            yield labels | {"skipped": f"would take up to {guess:.0f} s"}
            return
        started = time.monotonic()
        row = attempt(labels, partial(beside, run, name, tasks, longest=longest))
        yield row
        guess = time.monotonic() - started
        if at + 1 < len(rungs):
            more, longer = rungs[at + 1]
            ours = row.get("ms_per_task", 0.0) / 1000 * (2 + row.get("samples", 0))
            guess = (guess + ours * (more - tasks)) * ((longer or 1) / (longest or 1))


def beside(run: Run, name: str, tasks: int, *, longest: int | None) -> Row:
    heavy = CASES[name].subject in timing.HEAVY
    size, few = replace(run.extent.size, longest=longest), 1 if heavy else min(run.extent.peer_tasks, tasks)
    samples = 1 if heavy else run.extent.samples
    sizes = [timing.at_tasks(size, count) for count in (tasks, few)]
    found = timing.compare(CASES[name], sizes[0], samples=samples, device=run.device, root=run.root, peer_size=sizes[1])
    if found.ours is None:
        raise NotThereError(found.note)
    row: Row = {"ms_per_task": 1000 * found.ours.median / tasks, "forwards_per_task": found.ours.forwards / tasks}
    row |= {"peak_mib": found.ours.peak_mib, "survived": found.ours.survived, "samples": samples}
    if found.peer is None:
        return row | {"note": found.note}
    row |= {"peer_tasks": few, "peer_ms_per_task": 1000 * found.peer.median / few, "ratio": found.ratio}
    return row | {"peer_forwards_per_task": found.peer.forwards / few, "target": TARGETS.get(name)}


def roofline(run: Run) -> Iterator[Row]:
    """Measure what the device can do, then how much of it our work gets."""
    peaks: Row = {}
    kinds = {"fp32": (torch.float32, False), "tf32": (torch.float32, True), "bf16": (torch.bfloat16, True)}
    for kind, (dtype, rounded) in kinds.items():
        for what in (product, convolution):
            row = attempt({"what": what.__name__, "precision": kind}, partial(what, run, dtype, rounded))
            peaks[f"{what.__name__} {kind}"] = row.get("tflops")
            yield row
    row = attempt({"what": "copy"}, partial(bandwidth, run))
    peaks["copy"] = row.get("gb_per_s")
    yield row
    for name in ("meta-step/maml", "meta-step/fomaml", "meta-step/protonet", "meta-step/r2d2", "attack/pgd-20"):
        tasks = run.extent.most if name.startswith("attack") else run.extent.together
        for kind in ("fp32", "tf32") if run.cuda else ("fp32",):
            labels = {"what": name, "precision": kind, "tasks": tasks}
            yield attempt(labels, partial(share, run, peaks, name, tasks=tasks, kind=kind))


def product(run: Run, dtype: torch.dtype, rounded: bool) -> Row:
    if rounded and dtype == torch.float32 and not run.cuda:
        raise NotThereError("TF32 is a GPU's")
    side = run.extent.product
    a, b = (torch.randn(side, side, device=run.device).to(dtype) for _ in range(2))
    with tf32(rounded):
        return {"tflops": 2 * side**3 / steady(run, lambda: a @ b) / 1e12}


def convolution(run: Run, dtype: torch.dtype, rounded: bool) -> Row:
    """Take the larger of the two memory formats."""
    if rounded and dtype == torch.float32 and not run.cuda:
        raise NotThereError("TF32 is a GPU's")
    images, channels, side = run.extent.images, 64, 32
    x = torch.randn(images, channels, side, side, device=run.device).to(dtype)
    kernel = torch.randn(channels, channels, 3, 3, device=run.device).to(dtype)
    work = 2 * images * channels**2 * 9 * side**2
    with tf32(rounded):
        times = []
        for layout in (torch.contiguous_format, torch.channels_last):
            a, b = (part.contiguous(memory_format=layout) for part in (x, kernel))
            times.append(steady(run, partial(F.conv2d, a, b, padding=1)))
    return {"tflops": work / min(times) / 1e12}


def bandwidth(run: Run) -> Row:
    source = torch.zeros(run.extent.copied * 2**18, device=run.device)
    target = torch.empty_like(source)
    return {"gb_per_s": 2 * source.nbytes / steady(run, lambda: target.copy_(source)) / 1e9}


def steady(run: Run, call: Callable[[], Any]) -> float:
    """Return the median of the seconds that a call takes once warm, many in a row."""

    def side(_: timing.Meter | None) -> Values:
        call()
        return {}

    first = min(timing.timed(side, run.device).seconds for _ in range(3))
    number = max(1, min(100, int(timing.SAMPLE_SECONDS / max(first, 1e-6))))
    return statistics.median(timing.timed(side, run.device, number=number).seconds for _ in range(3))


class Traffic(TorchDispatchMode):
    """Bytes that operations read and write, were each to start from memory; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            tensors = tree_leaves((args, kwargs, out))
            self.bytes += sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
        return out


def share(run: Run, peaks: Row, name: str, *, tasks: int, kind: str) -> Row:
    """Say which share of the peaks a case reaches: FLOPs are those of the loop, the work that has to be done."""
    one = timing.on_backend(prepared(run, name, 1), "loop")
    with FlopCounterMode(display=False) as counted:
        timing.ours(one)(None)
    flops = counted.get_total_flops() * tasks
    with tf32(kind == "tf32"):
        setup = prepared(run, name, tasks)
        side = timing.ours(setup)
        with Traffic() as traffic:
            side(None)
        found = timing.observe(setup, side, calls=run.extent.samples, seconds=run.extent.seconds)
    row: Row = {"ms": 1000 * found.median, "gflop": flops / 1e9, "tflops": flops / found.median / 1e12}
    row |= {"gb_moved": traffic.bytes / 1e9, "gb_per_s": traffic.bytes / found.median / 1e9}
    for what, reached in (("product", "tflops"), ("convolution", "tflops"), ("copy", "gb_per_s")):
        if peak := peaks.get(what if what == "copy" else f"{what} {kind}"):
            row[f"share of {what}"] = row[reached] / peak
    return row


def memory(run: Run) -> Iterator[Row]:
    """Look at the peak of the second-order step by inner steps; a growth of 1 means that steps cost no memory."""
    eager: tuple[Backend, ...] = ("loop", "vmap")
    for backend, mode in product_of(eager, ("exact", "recomputed")):
        tasks = 1 if backend == "loop" else min(run.extent.together, 8)  # a loop holds one task's graph at a time
        first: float | None = None
        for steps in run.extent.inner:
            labels = {"backend": backend, "meta_gradient": mode, "steps": steps, "tasks": tasks}
            row = attempt(labels, partial(peak, run, backend, mode, steps=steps, tasks=tasks))
            first = first or row.get("peak_mib")
            if first and row.get("peak_mib"):
                row["growth"] = row["peak_mib"] / first
            yield row


def peak(run: Run, backend: Backend, mode: Any, *, steps: int, tasks: int) -> Row:
    setup = timing.on_backend(prepared(run, "meta-step/maml", tasks), backend)
    algorithm: Any = replace(setup.learner.algorithm, steps=steps)  # type: ignore[type-var]
    setup = replace(setup, learner=replace(setup.learner, algorithm=algorithm, meta_gradient=mode))
    found = timing.observe(setup, timing.ours(setup), calls=1, seconds=0.0)
    return {"peak_mib": found.peak_mib, "ms": 1000 * found.median}


def grids(run: Run) -> Iterator[Row]:
    """Run whole grids for as many tasks as there is time for, beside the peers' cells of one task, scaled."""
    for name in (timing.DEFAULT, "cifar-fs-fomaml-aq", "strokes-protonet-standard"):
        ready = partial(timing.set_up, size=timing.at_tasks(run.extent.size, 1), device=run.device, root=run.root)
        try:
            setup = ready(Case("grid", checkpoint=name))
        except NotThereError as error:
            yield {"checkpoint": name, "not there": str(error)}
            if name.startswith("strokes"):
                continue
            setup = untrained(ready(Case("grid")))
        try:
            yield from growing(run, setup)
        except Exception as error:
            yield {"checkpoint": setup.case.checkpoint, "failed": explain(error)}


def untrained(setup: Setup) -> Setup:
    """Put a learner with inner steps in a grid's place, untrained, at budgets that it neither survives nor falls to."""
    algorithm, made, family = catalog.algorithm("fomaml"), setup.learner, setup.family
    assert family is not None
    assert setup.axes is not None
    assert setup.subject is not None
    rng = torch.Generator().manual_seed(timing.SEED)
    params = start_params(algorithm, made.network, family.space, made.ways, rng)
    params = {name: value.to(made.device, made.dtype) for name, value in params.items()}
    setup = replace(setup, learner=replace(made, algorithm=algorithm, params=params), steps=algorithm.steps)
    eps = contested(setup)
    name = "strokes-fomaml-untrained"
    subject = replace(setup.subject, name=name, weights=name, algorithm="fomaml", defense="standard")
    subject = replace(subject, learner=setup.learner, test_steps=algorithm.test_steps)
    axes = replace(setup.axes, steps=timing.GRID_STEPS, eps=tuple(eps * one for one in setup.size.eps))
    case = replace(setup.case, checkpoint=name)
    return replace(setup, case=case, axes=axes, subject=subject, threat=replace(setup.threat, eps=eps))


def growing(run: Run, setup: Setup) -> Iterator[Row]:
    """Grow one store of a grid's results from few tasks to many, while the last stretch says that there is time."""
    assert setup.axes is not None
    assert setup.subject is not None
    peer = attempt({}, partial(peer_grid, run, setup))
    seconds, before, guess = 0.0, 0, peer.get("peer_ms_per_task", 0.0) / 1000
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch)
        plan = grid.make_plan(setup.axes, [setup.subject], results)
        for tasks in run.extent.grid_tasks:
            labels = {"checkpoint": setup.case.checkpoint, "cells": len(plan.jobs), "tasks": tasks}
            if guess > run.left():
                yield labels | {"skipped": f"would take up to {guess:.0f} s"}
                return
            spent = executed(run, plan, results, tasks=tasks)
            # Whole blocks cost a GPU little more than small ones; a loop's time grows with the tasks.
            growth = 2.0 if run.cuda else tasks / max(tasks - before, 1)
            seconds, before, guess = seconds + spent, tasks, growth * spent
            yield labels | standing(plan, results, tasks, seconds) | beside_cells(peer, seconds / tasks)


def executed(run: Run, plan: grid.Plan, results: Path, *, tasks: int) -> float:
    """Return the seconds on the wall that the missing ones of the first `tasks` tasks took."""

    def execute(_: timing.Meter | None) -> Values:
        if failures := grid.execute(plan, results, tasks=tasks):
            raise RuntimeError(f"a cell failed: {failures[0].reason}")
        return {}

    return timing.timed(execute, run.device).wall


def standing(plan: grid.Plan, results: Path, tasks: int, seconds: float) -> Row:
    """Describe a grid's results: seconds of all of its tasks, the largest chunk, the share that survived."""
    records = [record for job in plan.jobs for record in store.stored(results, job.cell)]
    clean, survived = (sum(sum(getattr(record, name)) for record in records) for name in ("clean", "survived"))
    lines = [json.loads(line) for path in (results / "timings").glob("*.jsonl") for line in path.open()]
    row: Row = {
        "seconds": seconds,
        "chunk": max(line.get("chunk", 1) for line in lines),
        "survived": survived / max(clean, 1),
    }
    return row | {"ms_per_task": 1000 * seconds / tasks}


def peer_grid(run: Run, setup: Setup) -> Row:
    """Time the peers' cells one by one at one task and one of the budgets, which all take equally long."""
    reference = timing.peers()
    if reference is None or setup.axes is None:
        raise NotThereError("benchmarks/ is part of a source checkout alone")
    reference.foolbox("LinfPGD")
    middle = setup.axes.eps[len(setup.axes.eps) // 2]
    side = reference.grid(replace(setup, axes=replace(setup.axes, eps=(middle,))))
    seconds = timing.timed(side, run.device).wall * len(setup.axes.eps)
    return {"peer_tasks": 1, "peer_ms_per_task": 1000 * seconds, "target": TARGETS["grid"]}


def beside_cells(peer: Row, seconds: float) -> Row:
    if "peer_ms_per_task" not in peer:
        return peer
    return peer | {"ratio": peer["peer_ms_per_task"] / 1000 / seconds}


def variants(run: Run) -> Iterator[Row]:
    """Try what may speed up launch-bound work: cuDNN's search, TF32, CUDA graphs; torch.compile last, it takes long."""
    counts = list(dict.fromkeys((min(4, run.extent.together), run.extent.together)))
    names = [f"meta-step/{name}" for name in run.extent.recast]
    settings = {"cudnn.benchmark": searched, "TF32 off": partial(rounding, on=False)}
    settings["TF32 everywhere"] = partial(rounding, on=True)
    for tasks in counts:
        yield from gains(run, "attack/pgd-20-aq", tasks, settings | {"plain predict": direct, "graph": graphed_attack})
        for name in names:
            yield from gains(run, name, tasks, settings | {"graph": graphed_step})
    for tasks in counts:
        yield from gains(run, "attack/pgd-20-aq", tasks, {"compiled": compiled_attack})
        for name in names:
            yield from gains(run, name, tasks, {"compiled": compiled_step})


Variant = Callable[[Run, Setup], Side]


def gains(run: Run, name: str, tasks: int, made: Mapping[str, Variant]) -> Iterator[Row]:
    """Time variants of one case beside what it is by default, and check that they say the same."""
    try:
        setup = timing.on_backend(prepared(run, name, tasks), catalog.default_backend("cuda"))
        plain = timing.ours(setup)
        expected = plain(None)
        base = timing.observe(setup, plain, calls=run.extent.samples, seconds=run.extent.seconds)
    except Exception as error:
        yield {"work": name, "tasks": tasks, "variant": "as it is", "failed": explain(error)}
        return
    labels = {"work": name, "tasks": tasks}
    yield labels | {"variant": "as it is", "ms": 1000 * base.median, "peak_mib": base.peak_mib, "gain": 1.0}
    for variant, make in made.items():

        def measure(make: Variant = make) -> Row:
            side = make(run, setup)
            apart = difference(setup, side(None), expected)
            found = timing.observe(setup, side, calls=run.extent.samples, seconds=run.extent.seconds)
            return {"ms": 1000 * found.median, "peak_mib": found.peak_mib, "gain": base.median / found.median, **apart}

        yield attempt(labels | {"variant": variant}, measure)


def difference(setup: Setup, found: Values, expected: Values) -> Row:
    if "x_adv" not in found:
        return {"apart": gradients_apart(found, expected)}
    verdicts = [timing.verdicts(setup, values["x_adv"])[1] for values in (found, expected)]
    return {"verdicts equal": float((verdicts[0] == verdicts[1]).double().mean())}


def needs_cuda(run: Run) -> None:
    if not run.cuda:
        raise NotThereError("needs a GPU")


def searched(run: Run, setup: Setup) -> Side:
    needs_cuda(run)
    side = timing.ours(setup)

    def call(meter: timing.Meter | None) -> Values:
        torch.backends.cudnn.benchmark = True
        try:
            return side(meter)
        finally:
            torch.backends.cudnn.benchmark = False

    return call


def rounding(run: Run, setup: Setup, *, on: bool) -> Side:
    needs_cuda(run)
    side = timing.ours(setup)

    def call(meter: timing.Meter | None) -> Values:
        with tf32(on):
            return side(meter)

    return call


@dataclass(frozen=True)
class Inner:
    """An attack that drops no points, on learners adapted once: its scores are one call of a fixed shape."""

    setup: Setup
    fitted: Any

    def scores(self, x: Tensor) -> Tensor:
        """Score all points x [P,1,*X]: [P,1,N]."""
        rows = self.setup.learner.predict(self.fitted, x.view(self.setup.episodes.query_x.shape))
        return rows.flatten(0, 1).unsqueeze(1)

    def victim(self, scores: Callable[[Tensor], Tensor]) -> Victim:
        episodes = self.setup.episodes
        victim = self.setup.learner.query_victim(self.fitted, episodes.query_x, episodes.query_y)
        return replace(victim, forward=lambda x, points: scores(x))

    def attack(self, scores: Callable[[Tensor], Tensor]) -> Values:
        (attack,) = self.setup.attacks.values()
        x_adv = attack(self.victim(scores), self.setup.threat, Streams(self.setup.seeds))
        return {"x_adv": x_adv.detach().view(self.setup.episodes.query_x.shape)}


@torch.no_grad()
def inner(setup: Setup) -> Inner:
    setup = replace(setup, learner=setup.learner.detach())
    episodes = setup.episodes
    return Inner(setup, setup.learner.adapt(episodes.support_x, episodes.support_y, steps=setup.steps).detach())


def direct(run: Run, setup: Setup) -> Side:
    """Leave out the engine's book of points and tasks, to see what it costs."""
    made = inner(setup)
    return lambda meter: made.attack(made.scores)


def compiled_attack(run: Run, setup: Setup) -> Side:
    made = inner(setup)
    fast = compiled(run, made.scores)

    def scores(x: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return fast(x)

    return lambda meter: made.attack(scores)


def graphed_attack(run: Run, setup: Setup) -> Side:
    """Record one iteration of the attack as a CUDA graph and replay it."""
    needs_cuda(run)
    made, ((attack,), threat) = inner(setup), (setup.attacks.values(), setup.threat)
    knobs: Any = attack
    victim = made.victim(made.scores)
    x, points = victim.x.clone(), victim.points
    length = knobs.step * (threat.eps if knobs.step_unit == "eps" else 1)

    def objective(outputs: Tensor, points: Tensor) -> Tensor:
        return losses.cross_entropy(outputs, victim.y).mean(dim=1)

    def iterate() -> None:
        _, gradient = gradient_of(victim, x, points, objective)
        x.copy_(climb(victim, threat, x, gradient, points=points, length=length))

    graph = recorded(iterate)

    def call(meter: timing.Meter | None) -> Values:
        x.copy_(threats.random_start(victim.x, Streams(setup.seeds), threat, victim.space))
        for _ in range(knobs.steps):
            graph.replay()
        return {"x_adv": x.clone().view(setup.episodes.query_x.shape)}

    return call


def graphed_step(run: Run, setup: Setup) -> Side:
    """Record a whole meta-step, gradients included, as a CUDA graph; its weights and tasks stay where they are."""
    needs_cuda(run)
    side = timing.ours(setup)
    found: Values = {}
    graph = recorded(lambda: found.update(side(None)))

    def call(meter: timing.Meter | None) -> Values:
        graph.replay()
        return found

    return call


def recorded(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """Record what a call does on the GPU, after three calls on a stream of their own, as recording asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def compiled_step(run: Run, setup: Setup) -> Side:
    """Compile the loss of an undefended meta-step over all tasks."""
    episodes = setup.episodes

    def loss(params: Params, support_x: Tensor, query_x: Tensor) -> Tensor:
        learner = replace(setup.learner, params=params)
        fitted = learner.adapt(support_x, episodes.support_y)
        return losses.cross_entropy(learner.predict(fitted, query_x), episodes.query_y).mean()

    fast = compiled(run, loss)

    def call(meter: timing.Meter | None) -> Values:
        params = {name: value.clone().requires_grad_() for name, value in setup.learner.params.items()}
        torch.compiler.cudagraph_mark_step_begin()
        fast(params, episodes.support_x, episodes.query_x).backward()
        # A replay overwrites what an earlier one returned.
        return {name: value.grad.clone() for name, value in params.items() if value.grad is not None}

    return call


def compiled(run: Run, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    torch.compiler.reset()
    return torch.compile(function, **run.extent.compiler)


SECTIONS: dict[str, tuple[Section, float]] = {  # with their shares of the time
    "environment": (environment, 1),
    "correctness": (correctness, 12),
    "roofline": (roofline, 5),
    "chunks": (chunks, 22),
    "peers": (peers, 22),
    "memory": (memory, 4),
    "grids": (grids, 22),
    "variants": (variants, 12),
}


def suggest(sections: Mapping[str, Row]) -> list[Row]:
    """Read CUDA's defaults off the figures: per case the fastest backend, and the least chunk nearly as fast."""
    found: list[Row] = []
    rows = [row for row in rows_of(sections, "chunks") if row.get("ms_per_task")]
    for name in dict.fromkeys(row["case"] for row in rows):
        here = [row for row in rows if row["case"] == name]
        best = min(here, key=lambda row: row["ms_per_task"])
        near = [row for row in here if row["backend"] == best["backend"]]
        near = [row for row in near if row["ms_per_task"] <= CLOSE * best["ms_per_task"]]
        chunk = min(row["tasks"] for row in near)
        now, own = catalog.default_backend("cuda"), algorithm_of(name)
        now = now if now in backends(own) else "vmap"
        current = min((row["ms_per_task"] for row in here if row["backend"] == now), default=None)
        found.append(
            {
                "case": name,
                "backend": best["backend"],
                "chunk": chunk,
                "ms_per_task": best["ms_per_task"],
                "default": now,
                "times as fast as the default": current and current / best["ms_per_task"],
            }
        )
    return found


def conclusions(sections: Mapping[str, Row]) -> list[str]:
    """Say in words where the default backend loses, what variants gain and which targets are missed."""
    lines = []
    costs = {backend: overall(sections, backend) for backend in BACKENDS}
    if known := {backend: cost for backend, cost in costs.items() if cost}:
        said = ", ".join(f"`{backend}` {cost:.2f}x" for backend, cost in known.items())
        lines.append(f"- One backend for all, by its time over the fastest one's (geometric mean over cases): {said}.")
    for row in suggest(sections):
        gain = row["times as fast as the default"]
        if gain and gain > 1.1:
            said = f"`{row['backend']}` is {gain:.2f}x as fast as the default `{row['default']}`"
            lines.append(f"- {row['case']}: {said}.")
    for row in rows_of(sections, "variants"):
        if row.get("gain", 0) > 1.1:
            lines.append(f"- {row['work']} at {row['tasks']} tasks: {row['variant']} gains {row['gain']:.2f}x.")
    for row in (*rows_of(sections, "peers"), *rows_of(sections, "grids")):
        if row.get("ratio") and row.get("target"):
            word = "met" if row["ratio"] >= row["target"] else "missed"
            what = row.get("case") or f"grid of {row['checkpoint']}"
            lines.append(f"- {what} at {row['tasks']} tasks: {row['ratio']:.1f}x its peer, {row['target']:g} {word}.")
    wrong = [row for row in rows_of(sections, "correctness") if not row.get("ok")]
    return lines + [f"- WRONG: {row['algorithm']}, {row['backend']}, {row['dtype']}: see correctness." for row in wrong]


def overall(sections: Mapping[str, Row], backend: Backend) -> float | None:
    """Return how many times as long as the fastest backend this one takes; where bodies differ, flat is vmap."""
    found = []
    for best in suggest(sections):
        name = best["case"]
        own = backend if backend in backends(algorithm_of(name)) else "vmap"
        rows = [row for row in rows_of(sections, "chunks") if row["case"] == name and row["backend"] == own]
        times = [row["ms_per_task"] for row in rows if row.get("ms_per_task")]
        if not times:
            return None
        found.append(min(times) / best["ms_per_task"])
    return statistics.geometric_mean(found) if found else None


def rows_of(sections: Mapping[str, Row], name: str) -> list[Row]:
    return list(sections.get(name, {}).get("rows", []))


def markdown(found: Row) -> str:
    """Write a report's tables: device, versions and date first, what they suggest last."""
    known = {row["what"]: row["value"] for row in rows_of(found["sections"], "environment")}
    lines = [f"# {known.get('device', found['device'])}", ""]
    how = f"{found['date']}, size `{found['size']}`, budget {found['budget']:g} s"
    lines += [f"{how}. {known.get('versions', '')}", ""]
    for name, section in found["sections"].items():
        lines += [
            f"## {name}",
            "",
            f"{section['about']} {standing_of(section)}".strip(),
            "",
        ]
        lines += table(section["rows"])
    lines += ["## CUDA defaults that these figures suggest", ""]
    if found["device"] != "cuda":
        lines += ["None: this was no GPU. The table shows what would be read off.", ""]
    lines += [*table(found["suggested"]), *conclusions(found["sections"]), ""]
    return "\n".join(lines)


def standing_of(section: Row) -> str:
    reason = f": {section['reason']}" if section["reason"] else ""
    return f"({section['status']} in {section['seconds']:.1f} s{reason})"


def table(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if not columns:
        return []
    body = ["| " + " | ".join(shown(row.get(column)) for column in columns) + " |" for row in rows]
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *body, ""]


def shown(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def strict(value: Any) -> Any:
    """Turn what JSON has no word for, NaN and infinities, into None."""
    if isinstance(value, Mapping):
        return {str(key): strict(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


if __name__ == "__main__":
    sys.exit(main())
