"""Workloads by name and how they are timed: what `rbm bench` runs and what its gate compares.

This file is also a script, `python -P timing.py --case NAME`, that measures whichever robustbench_meta PYTHONPATH
puts first: so the gate times two revisions by one and the same code. Hence it keeps to what every revision offers:
names of the catalog, `Learner.adapt`, `.predict` and `.query_victim`, `Defense.loss`, and `grid.execute`.
Shapes: T tasks, S support, Q query, X the shape of one input.
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import gc
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import torch
from torch import Tensor

from robustbench_meta import catalog, grid, store
from robustbench_meta.engine import Learner, start_params
from robustbench_meta.losses import correct
from robustbench_meta.types import (
    Attack,
    Backend,
    Box,
    Episodes,
    InputError,
    Norm,
    Params,
    Spec,
    Streams,
    TaskFamily,
    Threat,
)

Kind = Literal["meta-step", "adapt", "attack", "grid"]
Values = dict[str, Tensor]  # what a side computed: gradients by parameter, or x_adv [T,Q,*X]

ALGORITHMS = ("maml", "fomaml", "anil", "protonet", "r2d2")
ATTACKS = ("fgsm", "pgd-20", "pgd-mt-50", "apgd-ce", "apgd-t", "fab-t", "square", "autoattack")
HEAVY = ("apgd-ce", "apgd-t", "fab-t", "square", "autoattack")  # these attack `Size.heavy` tasks
QUERYING = "pgd-7-aq"
SEED = 20
# Where between 20 and 80 % of the points survive a strong attack; elsewhere speed says little.
THREATS: dict[str, tuple[Norm, float]] = {
    "strokes-protonet-aq": ("linf", 0.1),
    "strokes-protonet-standard": ("linf", 0.03),
    "cifar-fs-protonet-aq": ("linf", 8 / 255),
    "cifar-fs-protonet-standard": ("linf", 1 / 255),
    "cifar-fs-fomaml-aq": ("linf", 8 / 255),
    "cifar-fs-r2d2-aq": ("linf", 8 / 255),
}
DEFAULT = "strokes-protonet-aq"
GRIDS = (DEFAULT, "strokes-protonet-standard", "cifar-fs-fomaml-aq")
GRID_ATTACKS, GRID_STEPS = ("fgsm", "pgd-20", "pgd-mt-50"), (1, 5, 10)
SAMPLE_SECONDS = 0.05  # a sample repeats a shorter call
CALLS, CALL_SECONDS = 3, 0.6  # at least so many calls, and so long, in each process of the gate


class NotThereError(Exception):
    """A case that this revision, or this machine's data, cannot run; the reason in one line."""


@dataclass(frozen=True)
class Size:
    """How large the cases are. `longest` cuts the iterations of every attack, None leaves them."""

    shape: tuple[int, ...]  # of random images
    width: int  # of the four-block network
    depth: int
    spec: Spec  # of random tasks
    tasks: int  # in a meta-step
    adapted: int  # tasks in an adaptation
    attacked: int  # tasks under attack
    queries: int  # per class under attack
    longest: int | None
    shots: tuple[int, ...] = (1, 5)  # of a grid
    eps: tuple[float, ...] = (0.75, 1.0, 1.25)  # of a grid, in shares of the budget of an attack
    heavy: int = 1  # tasks under an attack that takes long


SIZES = {
    "full": Size((3, 32, 32), 32, 4, Spec(5, 5, 15), 4, 4, 2, 15, None),
    # For the gate: the networks of `full`, as little of everything else as still looks like it.
    "small": Size((3, 32, 32), 32, 4, Spec(5, 5, 5), 2, 10, 1, 5, 30),
    "tiny": Size((3, 8, 8), 4, 2, Spec(3, 2, 2), 2, 2, 1, 2, 3, shots=(1,), eps=(1.0,)),
}


@dataclass(frozen=True)
class Case:
    """A workload by name: `meta-step/maml+aq`, `adapt/maml`, `attack/pgd-20@CHECKPOINT`, `grid@CHECKPOINT`."""

    kind: Kind
    subject: str = ""  # the algorithm or the attack
    querying: bool = False  # a meta-step that trains on attacked queries
    checkpoint: str = DEFAULT

    @property
    def name(self) -> str:
        subject = f"/{self.subject}" if self.subject else ""
        where = "" if self.checkpoint == DEFAULT else f"@{self.checkpoint}"
        return f"{self.kind}{subject}{'+aq' if self.querying else ''}{where}"


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        *(Case("meta-step", name, querying) for querying in (False, True) for name in ALGORITHMS),
        *(Case("adapt", name) for name in ALGORITHMS),
        *(Case("attack", name, checkpoint=checkpoint) for checkpoint in THREATS for name in ATTACKS),
        *(Case("grid", checkpoint=checkpoint) for checkpoint in GRIDS),
    )
}
# What a run looks at unless told: all that needs no data, on the robust checkpoint.
RUN_CASES = tuple(name for name in CASES if "@" not in name)
# What the gate looks at unless told, each a second or so: the loop backend's steps, attacks and a small grid. It does
# not see the mapped backends, L2 and L1, poisoning, or what a process waits for.
GATE_CASES = (
    *("meta-step/maml", "meta-step/fomaml", "meta-step/anil", "meta-step/protonet", "meta-step/r2d2"),
    *("meta-step/fomaml+aq", "adapt/maml", "adapt/protonet", "attack/fgsm", "attack/pgd-20", "attack/pgd-mt-50"),
    *("attack/apgd-ce", "attack/apgd-t", "attack/fab-t", "attack/square", "grid"),
)


@dataclass(eq=False)
class Meter:
    """Rows sent forward through a network, and rows whose gradient came back to its output."""

    forwards: int = 0
    backwards: int = 0

    def see(self, out: Tensor) -> Tensor:
        """Count the rows of a network's output, and count them again whenever a gradient comes back to it."""
        self.forwards += len(out)
        return cast(Tensor, _Seen.apply(out, self))


Side = Callable[[Meter | None], Values]  # does the work once; counts it where a meter is given


@dataclass(frozen=True)
class Setup:
    """What both sides of a case start from: the same weights, tasks, budget and seeds."""

    case: Case
    size: Size
    learner: Learner
    family: TaskFamily | None
    episodes: Episodes
    threat: Threat
    attacks: dict[str, Attack]
    axes: grid.Grid | None
    subject: grid.Subject | None
    steps: int | None  # of adaptation before an attack

    @property
    def seeds(self) -> list[int]:
        return [SEED + task for task in range(self.episodes.tasks)]


@dataclass(frozen=True)
class Measured:
    """One side of a case: seconds a call by the clock that counts, wall seconds, and the work of one call."""

    seconds: tuple[float, ...]
    wall: tuple[float, ...]
    forwards: int  # 0 where nobody counted
    backwards: int
    peak_mib: float | None  # over what was held before; None where the system does not tell
    survived: float | None  # share of the clean-correct points that an attack leaves standing

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Comparison:
    """A case beside its peer; `note` says why one of them is missing, `share` how many of our tasks the peer did."""

    case: str
    ours: Measured | None
    peer: Measured | None
    note: str = ""
    share: float = 1.0

    @property
    def ratio(self) -> float | None:
        """How many times as long the peer takes for as many tasks."""
        return self.peer.median / self.ours.median / self.share if self.ours and self.peer else None


def choose_cases(text: str | None, default: Sequence[str]) -> list[Case]:
    """Read names and patterns such as `meta-step/*` separated by commas; refuse one that fits no case."""
    chosen: dict[str, Case] = {}
    for pattern in [word.strip() for word in text.split(",") if word.strip()] if text is not None else default:
        found = [name for name in CASES if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise InputError(f"cases: {pattern!r} is unknown; legal: {', '.join(CASES)}, or patterns as meta-step/*")
        chosen |= {name: CASES[name] for name in found}
    if not chosen:
        raise InputError(f"cases: {text!r} names nothing; give names separated by commas")
    return list(chosen.values())


def choose_size(name: str) -> Size:
    if name not in SIZES:
        raise InputError(f"size: {name!r} is not one of {', '.join(SIZES)}")
    return SIZES[name]


def at_tasks(size: Size, tasks: int) -> Size:
    """Let every kind of case have `tasks` tasks."""
    return replace(size, tasks=tasks, adapted=tasks, attacked=tasks, heavy=tasks)


def on_backend(setup: Setup, backend: Backend) -> Setup:
    """Let our side of a case run on `backend` instead of its device's own."""
    subject = setup.subject and replace(setup.subject, learner=replace(setup.learner, backend=backend))
    return replace(setup, learner=replace(setup.learner, backend=backend), subject=subject)


def set_up(
    case: Case, size: Size, *, device: str = "cpu", dtype: torch.dtype = torch.float32, root: Path | None = None
) -> Setup:
    """Make a case ready from fixed seeds; raise NotThereError where this revision or its data cannot."""
    try:
        if case.kind in ("meta-step", "adapt"):
            return _random_tasks(case, size, device, dtype)
        return _attacked_tasks(case, size, device, dtype, root)
    except InputError as error:
        raise NotThereError(str(error).partition("; did you mean")[0].partition("; legal")[0]) from None


def ours(setup: Setup) -> Side:
    """Return our side of a case, adapted as far as the case does not time adaptation."""
    sides = {"meta-step": _meta_step, "adapt": _adapt, "attack": _attack, "grid": _grid}
    return sides[setup.case.kind](setup)


def peers() -> ModuleType | None:
    """Load benchmarks/peers.py of a source checkout; None where the package was installed without it."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "peers.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("rbm_peers", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.get(spec.name) or importlib.util.module_from_spec(spec)
    if spec.name not in sys.modules:
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module


def compare(
    case: Case,
    size: Size,
    *,
    samples: int,
    device: str = "cpu",
    root: Path | None = None,
    peer_size: Size | None = None,
) -> Comparison:
    """Time a case and its peer in this process, alternating: ours, peer, peer, ours, and so on.

    A `peer_size` of fewer tasks spares time where the peer, which takes one task after another, would need too much.
    """
    reference, note = peers(), ""
    try:
        setups = [set_up(case, one, device=device, root=root) for one in (size, peer_size or size)]
    except NotThereError as error:
        return Comparison(case.name, None, None, f"not there: {error}")
    sides: list[Side] = [ours(setups[0])]
    if reference is None:
        note = "no peers: benchmarks/ is part of a source checkout alone"
    else:
        try:
            sides.append(reference.peer(setups[1]))
        except NotThereError as error:
            note = f"no peer: {error}"
    metered = [first_calls(setup, side) for setup, side in zip(setups, sides, strict=False)]
    times: list[list[Elapsed]] = [[] for _ in sides]
    numbers = [1 + int(SAMPLE_SECONDS / max(first.seconds, 1e-6)) for first in metered]
    for sample in range(samples):
        order = list(range(len(sides)))
        for side in order if sample % 2 == 0 else reversed(order):
            times[side].append(timed(sides[side], device, number=numbers[side]))
    found = [_measured(first, elapsed) for first, elapsed in zip(metered, times, strict=True)]
    share = setups[1].episodes.tasks / setups[0].episodes.tasks
    return Comparison(case.name, found[0], found[1] if len(found) > 1 else None, note, share)


@dataclass(frozen=True)
class Elapsed:
    """Seconds of one call: by the clock that counts (CPU time, or CUDA's events) and on the wall."""

    seconds: float
    wall: float


def timed(side: Side, device: str, *, number: int = 1) -> Elapsed:
    """Time `number` calls: on a CPU by the process's CPU time, with several threads by the wall; on CUDA by events."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(number):
        side(None)
    if cuda:
        end.record()
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    seconds = begin.elapsed_time(end) / 1000 if cuda else cpu if torch.get_num_threads() == 1 else wall
    return Elapsed(seconds / number, wall / number)


def peak_mib(call: Callable[[], Any], device: str) -> float | None:
    """Run `call` and say how much memory it held at most beyond what was held before it, in MiB."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        # Give back what the allocator keeps, then have Linux forget the peak so far.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        call()
        return None
    held = _status("VmRSS")
    call()
    return (_status("VmHWM") - held) / 1024


def steady_allocator() -> None:
    """Have glibc keep the memory that it frees; elsewhere do nothing.

    By default it maps and faults every large tensor anew, at a cost that was seen to differ threefold from one
    process to the next, more than any change of code that is looked for. Both sides of a comparison get this.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim, pad, mmap = -1, -2, -3
        for option, value in ((trim, 2**30), (pad, 2**26), (mmap, 2**30)):
            libc.mallopt(option, value)


def describe_machine(device: str) -> dict[str, Any]:
    """Name what decides a time besides the code: processor, cores, threads, device and versions."""
    import importlib.metadata
    import os
    import platform

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
        model = next((value.strip() for key, _, value in lines if key.strip() == "model name"), model)
    versions = {}
    for name in ("torch", "numpy", "foolbox", "pyautoattack"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not there"
    return {
        "machine": f"{platform.system()} {platform.machine()}, {model}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **versions},
    }


def measure(case: Case, size: Size, *, device: str, root: Path | None) -> Measured:
    """Time our side of a case alone, as each process of the gate does: at least 3 calls and 0.6 seconds."""
    setup = set_up(case, size, device=device, root=root)
    side = ours(setup)
    return _observed(first_calls(setup, side), side, device, calls=CALLS, seconds=CALL_SECONDS)


def observe(setup: Setup, side: Side, *, calls: int, seconds: float) -> Measured:
    """Time a side alone and uncounted: warmed up by two calls, then at least `calls` calls and `seconds` seconds."""
    return _observed(_warmed(setup, side, None), side, setup.learner.device.type, calls=calls, seconds=seconds)


def _observed(first: First, side: Side, device: str, *, calls: int, seconds: float) -> Measured:
    elapsed: list[Elapsed] = []
    while len(elapsed) < calls or sum(one.wall for one in elapsed) < seconds:
        elapsed.append(timed(side, device))
    return _measured(first, elapsed)


def main() -> None:
    """Print one line of JSON on one case: what `measure` found, or why there is nothing to find."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True, choices=CASES)
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    steady_allocator()
    line: dict[str, Any] = {"package": str(Path(grid.__file__).parent)}
    try:
        found = measure(CASES[given.case], SIZES[given.size], device=given.device, root=given.data_root)
        line |= asdict(found) | {"median": found.median}
    except NotThereError as error:
        line["missing"] = str(error)
    print(json.dumps(line, allow_nan=False))


def _random_tasks(case: Case, size: Size, device: str, dtype: torch.dtype) -> Setup:
    """An untrained learner and random images: what a meta-step or an adaptation costs depends on neither."""
    algorithm, network = catalog.algorithm(case.subject), catalog.network("conv4", width=size.width, depth=size.depth)
    space, rng = Box(size.shape), torch.Generator().manual_seed(SEED)
    params = start_params(algorithm, network, space, size.spec.ways, rng)
    count = size.tasks if case.kind == "meta-step" else size.adapted
    learner = Learner(
        algorithm,
        network,
        {name: value.to(device, dtype) for name, value in params.items()},
        space,
        size.spec.ways,
        # The peers' batch norm knows no other statistics than those of the batch it is fed.
        norm_mode="batch" if case.kind == "meta-step" else "support",
        backend=catalog.default_backend(device),
        meta_gradient=algorithm.meta_gradient,
    )
    centres = torch.rand(count, size.spec.ways, 1, *size.shape, generator=rng)

    def part(each: int) -> tuple[Tensor, Tensor]:
        x = (centres + 0.1 * torch.randn(count, size.spec.ways, each, *size.shape, generator=rng)).clamp(0, 1)
        return x.flatten(1, 2), torch.arange(size.spec.ways).repeat_interleave(each).expand(count, -1).contiguous()

    episodes = Episodes(*part(size.spec.shots), *part(size.spec.queries)).to(device, dtype)
    attacks = {QUERYING: catalog.attack(QUERYING)} if case.querying else {}
    return Setup(case, size, learner, None, episodes, Threat("linf", 8 / 255), attacks, None, None, algorithm.steps)


def _attacked_tasks(case: Case, size: Size, device: str, dtype: torch.dtype, root: Path | None) -> Setup:
    """A shipped checkpoint and test tasks of the family it was trained on."""
    folder = _checkpoint(case.checkpoint)
    names = (case.subject,) if case.kind == "attack" else GRID_ATTACKS
    attacks = {name: shortened(catalog.attack(name), size.longest) for name in names}
    family = catalog.family("strokes", test=20, samples=20) if case.checkpoint.startswith("strokes") else None
    subject = grid.load_subject(folder, family=family, root=root, device=device)
    learner = cast(Learner, subject.learner)
    learner = replace(learner, params={name: value.to(dtype) for name, value in learner.params.items()})
    spec = Spec(learner.ways, subject.shots, size.queries)
    count = size.heavy if case.subject in HEAVY else size.attacked
    episodes = subject.family.sample("test", spec, range(count)).to(device, dtype)
    norm, eps = THREATS[case.checkpoint]
    axes = None
    if case.kind == "grid":
        axes = grid.Grid(
            attacks,
            eps=tuple(eps * share for share in size.eps),
            shots=size.shots,
            steps=None if learner.steps is None else GRID_STEPS,
            queries=size.queries,
        )
    threat, steps = Threat(norm, eps), subject.test_steps
    return Setup(case, size, learner, subject.family, episodes, threat, attacks, axes, subject, steps)


def shortened(attack: Attack, longest: int | None) -> Attack:
    """Cut an attack, and those it is made of, to `longest` iterations; steps given as shares of eps grow to match."""
    if longest is None or not is_dataclass(attack):
        return attack
    found: Any = attack
    changes: dict[str, Any] = {}
    for field in fields(found):
        value = getattr(found, field.name)
        if field.name in ("steps", "iterations", "queries") and isinstance(value, int):
            changes[field.name] = min(value, longest)
        elif is_dataclass(value):
            changes[field.name] = shortened(cast(Attack, value), longest)
        elif isinstance(value, tuple) and any(map(is_dataclass, value)):
            changes[field.name] = tuple(shortened(one, longest) for one in value)
    if not changes:
        raise NotThereError(f"{found!r} cannot be cut to {longest} iterations")
    if "steps" in changes and hasattr(found, "step"):
        changes["step"] = found.step * found.steps / changes["steps"]
    return cast(Attack, replace(found, **changes))


def _meta_step(setup: Setup) -> Side:
    craft = QUERYING if setup.case.querying else "fgsm"
    defense = catalog.defense("aq" if setup.case.querying else "standard", craft=craft)

    def call(meter: Meter | None) -> Values:
        params = {name: value.clone().requires_grad_() for name, value in setup.learner.params.items()}
        learner = replace(metered(setup.learner, meter), params=params)
        tasks, episodes = setup.episodes.tasks, setup.episodes
        # As training does it: a loop goes backward task by task, so that only one task's graph is ever alive.
        together = 1 if learner.backend == "loop" else tasks
        for at in range(0, tasks, together):
            rows = slice(at, at + together)
            part = Episodes(
                episodes.support_x[rows], episodes.support_y[rows], episodes.query_x[rows], episodes.query_y[rows]
            )
            terms = defense.loss(learner, part, setup.threat, Streams(setup.seeds[rows]))
            (torch.stack(list(terms.values())).sum() / tasks).backward()
        return {name: cast(Tensor, value.grad) for name, value in params.items()}

    return call


def _adapt(setup: Setup) -> Side:
    @torch.no_grad()
    def call(meter: Meter | None) -> Values:
        fitted = metered(setup.learner, meter).adapt(setup.episodes.support_x, setup.episodes.support_y)
        return {**fitted.state, **fitted.extra}

    return call


def _attack(setup: Setup) -> Side:
    episodes, (attack,) = setup.episodes, setup.attacks.values()
    with torch.no_grad():
        fitted = setup.learner.adapt(episodes.support_x, episodes.support_y, steps=setup.steps)

    def call(meter: Meter | None) -> Values:
        victim = setup.learner.query_victim(fitted, episodes.query_x, episodes.query_y)
        x_adv = attack(victim, setup.threat, Streams(setup.seeds))
        if meter:
            meter.forwards += int(victim.cost.forwards.sum())
            meter.backwards += int(victim.cost.backwards.sum())
        return {"x_adv": x_adv.detach().view(episodes.query_x.shape)}

    return call


def _grid(setup: Setup) -> Side:
    axes, subject = cast(grid.Grid, setup.axes), cast(grid.Subject, setup.subject)
    with tempfile.TemporaryDirectory() as scratch:
        plan = grid.make_plan(axes, [subject], Path(scratch))

    def call(meter: Meter | None) -> Values:
        with tempfile.TemporaryDirectory() as scratch:
            if failures := grid.execute(plan, Path(scratch), tasks=setup.size.attacked):
                raise RuntimeError(f"a cell failed: {failures[0].reason}")
            if meter is None:
                return {}
            records = [record for job in plan.jobs for record in store.stored(Path(scratch), job.cell)]
        meter.forwards += sum(record.forwards for record in records)
        meter.backwards += sum(record.backwards for record in records)
        return {
            "clean": torch.tensor([record.clean for record in records]),
            "survived": torch.tensor([record.survived for record in records]),
        }

    return call


@dataclass(frozen=True)
class _Counted:
    """A network that counts the rows it is fed."""

    network: Any
    meter: Meter

    def __call__(self, weights: Params, x: Tensor, norm: Any) -> Tensor:
        return self.meter.see(self.network(weights, x, norm))

    def freeze(self, *arguments: Any) -> Callable[[Tensor], Tensor]:
        embed = self.network.freeze(*arguments)
        return lambda x: self.meter.see(embed(x))

    def __getattr__(self, name: str) -> Any:  # whatever else this revision's networks offer
        return getattr(self.network, name)


class _Seen(torch.autograd.Function):
    """The identity. Not a hook: under torch.func.grad those miss the pass of the outer gradient."""

    @staticmethod
    def forward(out: Tensor, meter: Meter) -> Tensor:
        return out.view_as(out)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.meter = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.meter.backwards += len(gradients[0])
        return gradients[0], None


def metered(learner: Learner, meter: Meter | None) -> Learner:
    """Return the learner with a network that counts its rows, where there is a meter."""
    # Counted in the loop, to which all backends are equal: mapped code runs once for all tasks.
    return replace(learner, network=_Counted(learner.network, meter), backend="loop") if meter else learner


@dataclass(frozen=True)
class First:
    """What the first two calls of a side tell: the work, then memory and about how long a call takes."""

    meter: Meter
    peak_mib: float | None
    seconds: float
    survived: float | None


def first_calls(setup: Setup, side: Side) -> First:
    """Call a side twice, which also warms it up: once counted, once with an eye on memory."""
    return _warmed(setup, side, Meter())


def _warmed(setup: Setup, side: Side, meter: Meter | None) -> First:
    device = setup.learner.device.type
    values = side(meter)
    survived = survival(setup, values)
    elapsed: list[Elapsed] = []
    peak = peak_mib(lambda: elapsed.append(timed(side, device)), device)
    return First(meter or Meter(), peak, elapsed[0].seconds, survived)


def survival(setup: Setup, values: Values) -> float | None:
    """Return the share of clean-correct points that withstood an attack, judged by our learner; None without one."""
    if "survived" in values:
        return float(values["survived"].sum() / values["clean"].sum().clamp_min(1))
    if "x_adv" not in values:
        return None
    clean, stands = verdicts(setup, values["x_adv"])
    return float(stands.sum() / clean.sum().clamp_min(1))


@torch.no_grad()
def verdicts(setup: Setup, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """Judge by our learner which queries are right, and which of these stay right at x_adv: two of [T,Q]."""
    episodes, learner = setup.episodes, setup.learner
    fitted = learner.adapt(episodes.support_x, episodes.support_y, steps=setup.steps)
    clean = correct(learner.predict(fitted, episodes.query_x), episodes.query_y)
    return clean, clean & correct(learner.predict(fitted, x_adv), episodes.query_y)


def _measured(first: First, elapsed: Sequence[Elapsed]) -> Measured:
    return Measured(
        seconds=tuple(one.seconds for one in elapsed),
        wall=tuple(one.wall for one in elapsed),
        forwards=first.meter.forwards,
        backwards=first.meter.backwards,
        peak_mib=None if first.peak_mib is None else round(first.peak_mib, 1),
        survived=None if first.survived is None else round(first.survived, 4),
    )


def _checkpoint(name: str) -> Path:
    """Find a checkpoint beside this file: in a source checkout, or in an installed package."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "checkpoints", here / "checkpoints"):
        if (folder / name).is_dir():
            return folder / name
    raise NotThereError(f"checkpoint {name} is not part of this installation")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


if __name__ == "__main__":
    main()
