"""The performance gate: two revisions on one machine, alternating, each sample a process of its own.

Both sides run the timing.py of the head by its path (`python -P`), so that nothing but the package differs, which
PYTHONPATH picks; and both read the head's checkpoints. A sample says which package it measured, and that is checked.
The head is the checkout that this file lies in, with whatever is not committed. Pairs run head first and base first
in turn (ABBA), so that a machine that grows slower slows both.
"""

from __future__ import annotations

import json
import os
import signal
import statistics as numbers
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robustbench_meta.intervals import mann_whitney
from robustbench_meta.types import InputError

LEAST_SAMPLES, SAMPLES, RATIO, LEVEL = 12, 12, 1.25, 0.002
STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
TIMING = Path(__file__).resolve().parent / "timing.py"
Row = dict[str, Any]  # one sample, as timing.py prints it
Take = Callable[[str, str], Row]  # side, case -> sample


@dataclass(frozen=True)
class Options:
    """How a sample is taken: arguments of timing.py."""

    size: str = "small"
    device: str = "cpu"
    threads: int = 1
    data_root: Path | None = None


@dataclass(frozen=True)
class Judged:
    """One round of one case: medians in seconds, how many times as long the head takes, and the one-sided p."""

    case: str
    base: float
    head: float
    p: float
    threshold: float

    @property
    def ratio(self) -> float:
        return self.head / self.base

    @property
    def suspicious(self) -> bool:
        return self.p < LEVEL and self.ratio > self.threshold


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one case: its rounds (two where the first was suspicious), or why there are none."""

    case: str
    rounds: tuple[Judged, ...] = ()
    note: str = ""
    lost: bool = False  # the base can run it, the head cannot

    @property
    def slower(self) -> bool:
        return len(self.rounds) == 2 and all(one.suspicious for one in self.rounds)


class SampleError(RuntimeError):
    """A process that was to take a sample failed; its last line says why."""


def check(samples: int, threshold: float) -> None:
    """Refuse a gate that could not tell what it is for."""
    if samples < LEAST_SAMPLES:
        raise InputError(f"samples: {samples} is below {LEAST_SAMPLES}, with which the gate is sure enough")
    if not 1 < threshold < 100:
        raise InputError(f"threshold: {threshold} is not a ratio between 1 and 100")


def judge(case: str, base: Sequence[float], head: Sequence[float], threshold: float = RATIO) -> Judged:
    """Compare seconds of base and head: a Mann-Whitney test that the head is slower, and the ratio of medians."""
    p = mann_whitney(head, base, "greater")
    return Judged(case, numbers.median(base), numbers.median(head), p, threshold)


def decide(
    cases: Sequence[str],
    take: Take,
    *,
    samples: int = SAMPLES,
    threshold: float = RATIO,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """Judge every case by `samples` pairs, and those that look slower once more by as many new ones."""
    check(samples, threshold)
    verdicts: dict[str, Verdict] = {}
    runnable = []
    for case in cases:
        # This first pair also compiles and caches, and belongs to no round.
        base, head = take("base", case), take("head", case)
        verdicts[case] = _verdict_without_rounds(case, base, head)
        if not verdicts[case].note or verdicts[case].note.startswith("work"):
            runnable.append(case)
        tell(f"{case}: {verdicts[case].note or 'both sides run it'}")
    for turn in (1, 2):
        judged = _round(runnable, take, samples, threshold)
        for one in judged:
            before = verdicts[one.case]
            verdicts[one.case] = Verdict(one.case, (*before.rounds, one), before.note)
            tell(f"{one.case}: head takes {one.ratio:.3f} times as long, p = {one.p:.2g}, round {turn}")
        runnable = [one.case for one in judged if one.suspicious]
    return list(verdicts.values())


COLUMNS = ("case", "base", "head", "ratio", "p", "second ratio", "second p", "verdict")


def table(verdicts: Sequence[Verdict]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the columns and rows that show verdicts; medians are of the first round."""
    return COLUMNS, [_table_row(one) for one in verdicts]


def lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return one JSON object a case, with every round."""
    return [
        json.dumps(
            {
                "case": one.case,
                "slower": one.slower,
                "lost": one.lost,
                "note": one.note,
                "rounds": [asdict(turn) | {"ratio": turn.ratio} for turn in one.rounds],
            },
            allow_nan=False,
        )
        for one in verdicts
    ]


def sampler(base: Path, head: Path, options: Options) -> Take:
    """Return what takes one sample of a side in a fresh process."""
    roots = {"base": base.resolve(), "head": head.resolve()}

    def take(side: str, case: str) -> Row:
        row = _sample(roots[side], case, options)
        found = Path(row["package"]).resolve().parent
        if found != roots[side]:
            raise SampleError(f"{case}: the {side} is in {roots[side]}, but {found} was measured")
        return row

    return take


def head_checkout() -> Path:
    """Return the git checkout that this package runs from; raise OSError where it was installed without one."""
    root = TIMING.parents[1]
    top = _git(root, "rev-parse", "--show-toplevel")
    if Path(top).resolve() != root:
        raise OSError(f"{root} is not a git checkout of robustbench_meta; run the gate from one")
    return root


def resolve(root: Path, revision: str) -> str:
    """Return the commit that `revision` names; raise InputError where there is none."""
    done = _run(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if done.returncode:
        raise InputError(f"base: {revision!r} is no commit of {root}; name one that was fetched (CI: fetch-depth 0)")
    return done.stdout.strip()


def commit_of(root: Path) -> tuple[str, bool]:
    """Return the commit checked out in `root`, and whether files differ from it; ("", False) outside of git."""
    try:
        return _git(root, "rev-parse", "HEAD"), bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except OSError:
        return "", False


@contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """Check `commit` out into a temporary worktree, and remove it whatever happens; SIGTERM, SIGHUP are as Ctrl-C."""
    with _terminable(), tempfile.TemporaryDirectory(prefix="rbm-bench-") as scratch:
        folder = Path(scratch) / "base"
        try:
            _git(root, "worktree", "add", "--detach", str(folder), commit)
            yield folder
        finally:
            with _undisturbed():
                _run(root, "worktree", "remove", "--force", str(folder))


def _table_row(one: Verdict) -> tuple[str, ...]:
    if not one.rounds:
        return (one.case, *[""] * (len(COLUMNS) - 2), one.note)
    first = one.rounds[0]
    cells = [f"{1000 * first.base:.4g} ms", f"{1000 * first.head:.4g} ms"]
    cells += [text for turn in one.rounds for text in (f"{turn.ratio:.3f}", f"{turn.p:.2g}")]
    cells += [""] * (len(COLUMNS) - 2 - len(cells))
    verdict = "SLOWER" if one.slower else "not slower"
    return (one.case, *cells, f"{verdict}; {one.note}" if one.note else verdict)


def _round(cases: Sequence[str], take: Take, samples: int, threshold: float) -> list[Judged]:
    times: dict[tuple[str, str], list[float]] = {}
    for pair in range(samples):
        for case in cases:
            for side in ("base", "head") if pair % 2 == 0 else ("head", "base"):
                row = take(side, case)
                if "missing" in row:
                    raise SampleError(f"{case}: the {side} ran it once, and then: {row['missing']}")
                times.setdefault((case, side), []).append(row["median"])
    return [judge(case, times[case, "base"], times[case, "head"], threshold) for case in cases]


def _verdict_without_rounds(case: str, base: Mapping[str, Any], head: Mapping[str, Any]) -> Verdict:
    if "missing" in head:
        lost = "missing" not in base
        return Verdict(case, note=f"not there{' any more' if lost else ''}: {head['missing']}", lost=lost)
    if "missing" in base:
        return Verdict(case, note=f"new: the base cannot run it ({base['missing']})")
    counted = [(side["forwards"], side["backwards"]) for side in (base, head)]
    if counted[0] != counted[1]:
        return Verdict(case, note=f"work differs: rows forward, backward {counted[0]} to {counted[1]}")
    return Verdict(case)


def _sample(package: Path, case: str, options: Options) -> Row:
    command = [sys.executable, "-P", str(TIMING), "--case", case, "--size", options.size]
    command += ["--device", options.device, "--threads", str(options.threads)]
    if options.data_root is not None:
        command += ["--data-root", str(options.data_root.resolve())]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads))
    environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tempfile.gettempdir())
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        # A revision that lacks what the harness imports, or fails at the case, has nothing to compare.
        return {"package": str(package / "robustbench_meta"), "missing": f"exit {done.returncode}: {last[:200]}"}
    row: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def _git(root: Path, *arguments: str) -> str:
    done = _run(root, *arguments)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"git {arguments[0]} failed in {root}: {said}")
    return done.stdout.strip()


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "-C", str(root), *arguments]
    # A hook that runs the gate has git's variables set, which would win over -C.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # In a session of its own, so that Ctrl-C does not stop git half-way.
    return subprocess.run(command, capture_output=True, text=True, start_new_session=True, env=environment)


@contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a second Ctrl-C wait until the worktree is gone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *STOPPING)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
