"""What this machine offers, and what on it would go wrong: one line each, with what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from robustbench_meta import catalog, checkpoint, downloads, store, zoo
from robustbench_meta.episodes import drawn
from robustbench_meta.types import SPLITS, InputError, Spec, Split, TaskFamily

State = Literal["ok", "optional", "warning", "broken"]
LEAST_TORCH, LEAST_PYTHON = (2, 10), (3, 11)
WAYS = 5  # of the tasks that are drawn to see whether data are there
REQUIRED = ("torch", "numpy", "foolbox", "pyautoattack", "safetensors", "pandas", "matplotlib", "pydantic")
OPTIONAL = {
    "ray": "runs on a cluster: pip install 'robustbench_meta[ray]'",
    "gymnasium": "environments of others, such as MuJoCo's Reacher: pip install 'robustbench_meta[control]'",
    "torchattacks": "its attacks, beside ours: make agreement",
    "cleverhans": "its attacks, beside ours: make agreement",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LITTLE_DISK, LITTLE_MEMORY = 2e9, 2e9  # bytes
SMI_SECONDS = 5


@dataclass(frozen=True)
class Check:
    """One thing looked at; unless it is ok, the text says what to do. Only "broken" keeps anything from running."""

    name: str
    state: State
    text: str


def examine(results: Path, root: Path | None = None) -> list[Check]:
    """Look at everything; nothing is changed. A part that cannot be looked at is reported as broken."""
    parts: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("versions", _versions),
        ("processor", _processor),
        ("gpu", _gpus),
        ("data", lambda: _data(root)),
        ("checkpoints", _checkpoints),
        ("results", lambda: _results(results)),
        ("places", _places),
    ]
    made: list[Check] = []
    for name, look in parts:
        try:
            made += look()
        except Exception as error:
            made.append(Check(name, "broken", f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"))
    return made


def readiness(family: TaskFamily, splits: Sequence[Split] = SPLITS, ways: int | None = None) -> str:
    """Draw one task of each split, and say how many classes there are; raise InputError where data are missing.

    It has `ways` classes; None: WAYS, or as many as there are.
    """
    for split in splits:
        drawn(family, split, Spec(ways or min(WAYS, len(family.classes(split))), 1, 1), [0])
    return f"ready, {', '.join(f'{len(family.classes(split))} {split}' for split in SPLITS)} classes"


def wanted(family: TaskFamily) -> str:
    """Say of a family that reads a folder of the user's own what it holds and how it is named.

    Empty of all others, and where the data root is such a folder: then what is there counts.
    """
    takes, name = getattr(family, "takes", ""), getattr(family, "name", "")
    root = getattr(family, "root", None) or os.environ.get(downloads.DATA_VARIABLE)
    if root and (Path(root).expanduser() / "train").is_dir():
        return ""
    return takes and f"takes your own folder, which holds {takes}: rbm data check {name} --data-root FOLDER"


def stock(family: TaskFamily, ways: int | None) -> list[str]:
    """Say how a family's files are dealt, and what each serves at so many classes; nothing where it does not tell."""
    told: Any = family
    if not hasattr(family, "stock"):
        return []
    dealt = [f"{split}: {told.deal(split)}" for split in SPLITS]
    return dealt + [f"{split}/{line}" for split in SPLITS for line in told.stock(split, ways or WAYS)]


def _versions() -> Iterator[Check]:
    found = {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    python = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        yield Check("python", "broken", f"{python}; 3.11 or later is needed")
    absent = [name for name in REQUIRED if not found[name]]
    if absent:
        yield Check("packages", "broken", f"not installed: {', '.join(absent)}; pip install --upgrade robustbench_meta")
    listed = ", ".join(f"{name} {found[name]}" for name in REQUIRED[:4] if found[name])
    yield Check("versions", "ok", f"python {python}, robustbench_meta {_version('robustbench_meta')}, {listed}")
    if tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < LEAST_TORCH:
        yield Check(
            "torch", "broken", f"{torch.__version__} can run code hidden in .pt files (CVE-2026-24747): use 2.10"
        )
    if find_spec("autoattack"):
        yield Check("autoattack", "warning", "a module autoattack is there; ours is pyautoattack, and never calls it")
    for name, why in OPTIONAL.items():
        yield Check(name, "ok" if found[name] else "optional", found[name] or f"not installed; {why}")


def _processor() -> Iterator[Check]:
    cores, threads, memory = _cores(), torch.get_num_threads(), _memory()
    yield Check("processor", "ok", f"{_model()}, {cores} usable cores, {threads} threads, {platform.system()}")
    if memory is not None:
        low = memory < LITTLE_MEMORY
        then = "; close other programs, or take fewer tasks at once" if low else ""
        yield Check("memory", "warning" if low else "ok", f"{memory / 1e9:.1f} GB free{then}")
    named = os.environ.get("OMP_NUM_THREADS")
    if threads > cores:
        yield Check("threads", "warning", f"{threads} on {cores} cores wait for one another: OMP_NUM_THREADS={cores}")
    elif named is None and cores > 1:
        text = f"OMP_NUM_THREADS is unset, so each run takes {threads} threads: set it to 1 for runs side by side"
        yield Check("threads", "warning", text)
    else:
        yield Check("threads", "ok", f"OMP_NUM_THREADS={named}" if named else "one core")


def _gpus() -> Iterator[Check]:
    seen = _smi()
    if not torch.cuda.is_available():
        if seen:
            text = f"{seen[0]}: there, but this torch ({torch.__version__}) cannot use it; install a CUDA build"
            yield Check("gpu", "warning", text)
        else:
            yield Check("gpu", "optional", "none; everything runs on the processor")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, whole = torch.cuda.mem_get_info(number)
        driver = f", driver {seen[number].rpartition(', ')[2]}" if number < len(seen) else ""
        name = torch.cuda.get_device_name(number)
        yield Check(f"gpu {number}", "ok", f"{name}, {free / 1e9:.1f} of {whole / 1e9:.1f} GB free{driver}")
    if torch.backends.cuda.matmul.allow_tf32:
        yield Check("tf32", "warning", "products are rounded to TF32, which moves verdicts: unset what allows it")
    else:
        yield Check("tf32", "ok", "off in products; evaluations switch it off in convolutions")


def _data(root: Path | None) -> Iterator[Check]:
    named = root if root is not None else os.environ.get(downloads.DATA_VARIABLE)
    if not named:
        text = f"{downloads.DATA_VARIABLE} is unset: set it, or give --data-root, for anything but strokes"
        yield Check("data root", "warning", text)
    elif not Path(named).expanduser().is_dir():
        yield Check("data root", "warning", f"{named} is not a folder; rbm data get NAME makes it")
    else:
        yield Check("data root", "ok", str(named))
    made: list[str] = []
    for name in catalog.names("tasks"):
        family: Any = catalog.family(name, root=root)
        if told := wanted(family):
            yield Check(f"data {name}", "optional", told)
            continue
        try:
            # One split tells whether the data are there; rbm data check reads every one.
            ready = readiness(family, ("test",))
            if family.sources:
                yield Check(f"data {name}", "ok", ready)
            else:
                made.append(name)
        except InputError as error:
            yield Check(f"data {name}", "optional", f"not ready: {str(error).removeprefix(f'{name}: ')}")
    yield Check("no download", "ok", f"ready as they are: {', '.join(made)}")


def _checkpoints() -> Iterator[Check]:
    folders, odd = checkpoint.shipped(), []
    for folder in folders:
        try:
            checkpoint.load(folder)
        except InputError as error:
            odd.append(str(error))
    odd += [text for text in zoo.problems() if folders]
    for text in odd:
        yield Check("checkpoints", "broken", f"{text}; install again")
    if not folders:
        yield Check(
            "checkpoints", "broken", "none is shipped with this installation, so rbm demo cannot run: install again"
        )
    elif not odd:
        yield Check("checkpoints", "ok", f"{len(folders)} in {folders[0].parent}, weights and recipes as hashed")


def _results(results: Path) -> Iterator[Check]:
    near = next(place for place in (results.absolute(), *results.absolute().parents) if place.exists())
    free = shutil.disk_usage(near).free
    if not near.is_dir():
        yield Check("results", "broken", f"{near} is a file where a folder is needed; choose another with --out")
        return
    if not _writable(near):
        yield Check("results", "warning", f"{near} cannot be written; choose another place with --out")
    few = free < LITTLE_DISK
    yield Check("disk", "warning" if few else "ok", f"{free / 1e9:.1f} GB free at {near}{'; make room' if few else ''}")
    if not (results / "cells").is_dir():
        yield Check("store", "optional", f"{results} holds no results yet (schema {store.SCHEMA} will be written)")
        return
    try:
        count = len(store.cells(results))
        yield Check("store", "ok", f"{results}: {count} cells, schema up to {store.SCHEMA}")
    except (store.NewerSchema, InputError) as error:
        yield Check("store", "warning", str(error))


def find_browser() -> str | None:
    """Return the path of a browser in which pages can be opened and tested; None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _places() -> Iterator[Check]:
    browser = find_browser()
    text = browser or "no chromium; only the tests that open a report in a browser need it"
    yield Check("browser", "ok" if browser else "optional", text)
    try:
        temporary = Path(tempfile.gettempdir())
        written = _writable(temporary)
    except OSError:
        written = False
        temporary = Path("TMPDIR")
    text = str(temporary) if written else f"{temporary} cannot be written: set TMPDIR to a folder that can"
    yield Check("temporary", "ok" if written else "broken", text)
    home = Path.home()
    if _writable(home) or os.environ.get("MPLCONFIGDIR"):
        yield Check("home", "ok", str(home))
    else:
        yield Check("home", "warning", f"{home} cannot be written: set MPLCONFIGDIR, or figures begin slowly")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor() or platform.machine())


def _cores() -> int:
    """Count the cores that this process may use: fewer than there are, in a container or under taskset."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    words = quota.read_text().split() if quota.is_file() else ["max"]
    return count if words[0] == "max" else max(1, min(count, int(words[0]) // int(words[1])))


def _memory() -> float | None:
    """Return the bytes that are free, by the system or by the container's limit; None where neither says."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        return None
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
    free = float(lines["MemAvailable"].split()[0]) * 1024
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        free = min(free, float(most) - float(used.read_text()))
    return free


def _smi() -> list[str]:
    """Ask the driver for "name, memory, driver version" of every GPU; none where there is no driver."""
    if not shutil.which("nvidia-smi"):
        return []
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        found: Any = subprocess.run(asked, capture_output=True, text=True, timeout=SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return str(found.stdout).strip().splitlines()


def _writable(folder: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            return True
    except OSError:
        return False
