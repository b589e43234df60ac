"""Do stored numbers hold? Run a seeded sample of them again, and say which do, within what, and why others do not.

On the device, backend and thread count that a task was measured with, alone, its record must come again bit for bit.
Elsewhere at least 99 % of the verdicts agree and the mean moves by at most 0.2 percentage points; a sample is too
small to tell such shares from a single query, so one query may always differ. Of every audit one task is run again too,
or flags could be removed by editing its file.
"""

from __future__ import annotations

import operator
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from robustbench_meta import audit, catalog, checkpoint, flags, grid, store, zoo
from robustbench_meta.episodes import fingerprint
from robustbench_meta.evaluate import AnyLearner, run
from robustbench_meta.flags import Measures
from robustbench_meta.libraries import missing
from robustbench_meta.threats import ABSOLUTE_SLACK, RELATIVE_SLACK
from robustbench_meta.train import validation
from robustbench_meta.transfer import source_of
from robustbench_meta.types import Attack, Audit, Cell, InputError, Record, TaskFamily, Threat

AGREE, MOVED = 0.99, 0.002  # of verdicts, and of the mean: what holds on another device
SAME = 1e-9  # means closer than this are the same number, written down
UNKNOWN_RATE = 2.0  # the same for a learner none of whose tasks was run yet
MARGIN = 1.5  # a task must fit in the time left this many times over, for others may use the machine too
AUDITS = 0.2  # of the time is kept for audits
OVERHEAD = 0.1  # seconds a task takes besides the rows it sends through the network

Status = Literal["holds", "fails", "not verified"]


@dataclass(frozen=True)
class Finding:
    """What became of one claim; `measured` says that a number was computed again."""

    what: str
    status: Status
    detail: str
    measured: bool = False


@dataclass(frozen=True)
class Verification:
    """All findings, and in one line what was not looked at."""

    findings: tuple[Finding, ...]
    coverage: str

    @property
    def fails(self) -> bool:
        return any(one.status == "fails" for one in self.findings)

    @property
    def measured(self) -> bool:
        """Whether any number was computed again."""
        return any(one.measured for one in self.findings)


@dataclass(frozen=True)
class _Ready:
    """A cell that can be run again, with its records and timings by task."""

    job: grid.Job
    records: dict[int, Record]
    timings: dict[int, store.Timing]


@dataclass(frozen=True)
class _Audited:
    """An audit that can be run again, with the measures of the task that was drawn, and how that task ran."""

    audit: Audit
    learner: AnyLearner
    family: TaskFamily
    then: Measures
    timing: store.Timing | None

    @property
    def seconds(self) -> float | None:
        """How long the task took then."""
        return None if self.timing is None else self.timing.seconds / len(self.timing.tasks)


@dataclass
class _Tally:
    """What came of the tasks of a cell that ran again."""

    tasks: int = 0
    queries: int = 0
    differ: int = 0
    moved: int = 0  # robust queries now minus then
    far: float = 0.0  # by how much distances differ
    exact: bool = True
    problems: list[str] = field(default_factory=list)


@dataclass
class _Pace:
    """How long tasks take here: by their timings, or by the rows that their records say were sent."""

    slowdown: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)  # seconds per row, by weights

    def expected(self, one: _Ready, task: int) -> float | None:
        """Predict the seconds of a task; None where nothing is known yet."""
        if task in one.timings:
            timing = one.timings[task]
            return timing.seconds / len(timing.tasks) * (self.slowdown or 1.0)
        rate = self.rates.get(one.job.cell.weights) or UNKNOWN_RATE * max(self.rates.values(), default=0.0)
        return OVERHEAD + rate * _rows(one.records[task]) if rate else None

    def learn(self, one: _Ready, task: int, seconds: float) -> None:
        if task in one.timings:
            timing = one.timings[task]
            self.slowdown = max(self.slowdown, seconds / max(timing.seconds / len(timing.tasks), 1e-6))
        rate = max(seconds - OVERHEAD, 0.1 * seconds) / max(_rows(one.records[task]), 1)
        self.rates[one.job.cell.weights] = max(rate, self.rates.get(one.job.cell.weights, 0.0))


def verify_results(
    results: Path,
    checkpoints: Sequence[Path] = (),
    *,
    seconds: float = 45.0,
    seed: int = 0,
    root: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Run a seeded sample of a results folder again, as much as fits in `seconds` but at least one task.

    Learners are found by their hash among `checkpoints` and the shipped ones. Nothing is written.
    """
    started = time.monotonic()
    cells = store.cells(results)
    if not cells:
        what = "holds no cells (no folder cells/, or an empty one)" if results.is_dir() else "is not a folder"
        raise InputError(f"results: {results} {what}")
    shelf, rng = _Shelf(learners(checkpoints), root), random.Random(seed)
    ready, findings = _prepared(results, cells, shelf)
    order = _order(ready, rng)
    audited, unlike = _audits(results, shelf, rng)
    share = seconds * (1 - AUDITS if audited else 1)
    pace, tallies = _Pace(), {one.job.key: _Tally() for one in ready}
    for one, task in order:
        expected, left = pace.expected(one, task), share - (time.monotonic() - started)
        first = not any(tally.tasks for tally in tallies.values())
        if not first and (expected is None or MARGIN * expected > left):
            continue
        begun = time.monotonic()
        _again(one, task, tallies[one.job.key])
        pace.learn(one, task, time.monotonic() - begun)
        tell(f"{grid.label(one.job.cell)}, task {task}")
    findings += [_judged(one, tallies[one.job.key]) for one in ready if tallies[one.job.key].tasks]
    findings += _together([tally for tally in tallies.values() if tally.tasks and not tally.exact])
    examined = _examined(audited, lambda: seconds - (time.monotonic() - started), pace.slowdown, tell)
    findings += [*examined, *unlike]
    coverage = f"{_coverage(len(cells), ready, tallies)}, drawn by seed {seed}, in {time.monotonic() - started:.0f} s"
    out = Counter(one.job.cell.attack for one in ready if not tallies[one.job.key].tasks)
    if out:
        listed = ", ".join(f"{name} {count}" for name, count in sorted(out.items()))
        coverage += f"; no time for {out.total()} cells ({listed}): give more --seconds"
    again = sum(one.measured for one in examined)
    coverage += f"; {again} of {len(audited) + len(unlike)} audits were looked at, one task of each; not checked are"
    coverage += " errors/, audits that failed, and rows that say “not audited”"
    return Verification(tuple(findings), coverage)


def _coverage(cells: int, ready: Sequence[_Ready], tallies: dict[str, _Tally]) -> str:
    looked, tasks = (sum(bool(tally.tasks) for tally in tallies.values()), sum(t.tasks for t in tallies.values()))
    whole = sum(len(one.records) for one in ready)
    return f"{looked} of {cells} cells and {tasks} of {whole} tasks of those that can be run here were run again"


def verify_card(path: Path, *, seconds: float = 45.0, root: Path | None = None) -> Verification:
    """Check a checkpoint's hashes, and measure its validation accuracies again.

    `path` is its folder or its card.json. Raise InputError where there is no checkpoint to check.
    """
    folder = path.parent if path.name == checkpoint.CARD else path
    for name in (checkpoint.CARD, checkpoint.WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"ckpt: {folder / name} is missing")
    try:
        loaded = checkpoint.load(folder)
    except InputError as error:
        return Verification((Finding("weights and recipe", "fails", str(error)),), "nothing else was looked at")
    findings = [Finding("weights and recipe", "holds", "SHA-256 as in the card")]
    try:
        family = catalog.family_of(loaded.card.recipe, root)
        found = {part: fingerprint(family, part) for part in ("train", "val")}
    except InputError as error:
        findings.append(Finding("episodes", "not verified", str(error)))
        return Verification(tuple(findings), "no accuracy was measured again, for want of data")
    for part, digest in found.items():
        card = loaded.card.episodes_sha256.get(part)
        if card is None:
            findings.append(Finding(f"{part} episodes", "not verified", "the card has no hash of them"))
        else:
            same = card == digest
            detail = "SHA-256 as in the card" if same else f"SHA-256 {digest[:12]}…, the card says {card[:12]}…"
            findings.append(Finding(f"{part} episodes", "holds" if same else "fails", detail))
    measured, coverage = _validated(loaded, family, seconds, root)
    return Verification((*findings, *measured), coverage)


def _validated(
    loaded: checkpoint.Checkpoint, family: TaskFamily, seconds: float, root: Path | None
) -> tuple[list[Finding], str]:
    """Measure the validation tasks again, and compare with what the card says of the selected step."""
    card, recipe, started = loaded.card, loaded.card.recipe, time.monotonic()
    then = card.chosen
    if then is None or card.threads is None:
        why = f"no history of step {card.selected_step}"
        if card.imported is not None:
            code = f", and its network is code, {recipe.network}, which is not run here"
            why = "an imported learner has no history" + (code if card.imported.code_sha256 else "")
        return [Finding("validation", "not verified", why)], "no accuracy"
    device = _device(card.device)
    made = catalog.learner(loaded, device=device, root=root)
    seen: list[tuple[float, float]] = []
    with _threads(card.threads):
        for accuracies in validation(recipe, made, family, Threat(recipe.norm, recipe.eps)):
            seen.append(accuracies)
            if time.monotonic() - started > seconds and len(seen) < recipe.validate_tasks:
                break
    coverage = (
        f"{len(seen)} of {recipe.validate_tasks} validation tasks in {time.monotonic() - started:.0f} s on {device}"
    )
    clean, robust = (sum(column) / len(seen) for column in zip(*seen, strict=True))
    findings = []
    for name, now, before in (("clean", clean, then.clean), ("robust", robust, then.robust)):
        if len(seen) < recipe.validate_tasks:
            # The tasks not met may hold anything: what the recorded mean leaves for them must be possible.
            rest = (before * recipe.validate_tasks - now * len(seen)) / (recipe.validate_tasks - len(seen))
            possible = -1e-6 <= rest <= 1 + 1e-6
            detail = f"{100 * now:.2f} % on the first {len(seen)}; the card says {100 * before:.2f} % on all"
            if possible:
                findings.append(Finding(f"validation, {name}", "not verified", f"{detail}: give more --seconds"))
            else:
                findings.append(Finding(f"validation, {name}", "fails", detail, measured=True))
            continue
        detail = f"{100 * now:.3f} %, the card says {100 * before:.3f} %"
        far = abs(now - before)
        detail += ": the same" if far < SAME else f": {100 * far:.3f} points apart, at most {100 * MOVED:g} allowed"
        findings.append(Finding(f"validation, {name}", "holds" if far <= MOVED else "fails", detail, True))
    return findings, coverage


def _prepared(results: Path, cells: dict[str, Cell], shelf: _Shelf) -> tuple[list[_Ready], list[Finding]]:
    """Part the cells into those that can run again, and findings about the others, one for each reason."""
    ready: list[_Ready] = []
    problems: dict[tuple[str, str, Status], int] = {}
    for key, cell in cells.items():
        records = {record.task: record for record in store.stored(results, cell)}
        if not records:
            continue
        timings = store.timings(results, cell)
        device = _device(next(iter(timings.values())).device if timings else "cpu")
        try:
            attack = _attack(results, cell)
            subject = shelf.subject(cell, device)
        except _Unlike as no:
            problems[no.what, no.why, no.status] = problems.get((no.what, no.why, no.status), 0) + 1
            continue
        made = grid.with_ways(subject, cell.spec.ways)
        ready.append(_Ready(grid.Job(cell, key, made, subject.family, attack), records, timings))
    findings = [
        Finding(what, status, f"{why} ({count} cell{'' if count == 1 else 's'})")
        for (what, why, status), count in problems.items()
    ]
    return ready, findings


class _Unlike(Exception):
    """A cell cannot run again: what is in the way, and whether that means that it does not hold."""

    def __init__(self, what: str, why: str, status: Status = "not verified"):
        self.what, self.why, self.status = what, why, status


def learners(checkpoints: Sequence[Path]) -> dict[str, Path]:
    """Find checkpoint folders by the hash that cells know them by."""
    found = {}
    for folder in (*checkpoint.shipped(), *map(zoo.folder, checkpoints)):
        found[checkpoint.read_card(folder / checkpoint.CARD).learner] = folder
    return found


@dataclass
class _Shelf:
    """The checkpoints at hand by their hash, and what was loaded of them so far."""

    learners: dict[str, Path]
    root: Path | None
    loaded: dict[tuple[Any, ...], grid.Subject] = field(default_factory=dict)

    def subject(self, about: Cell | Audit, device: str) -> grid.Subject:
        """Find the learner and the family of a cell or an audit; raise _Unlike where they are not here."""
        folder = _known(self.learners, about)
        key = (folder, about.family, about.split, about.episodes, device)
        if key not in self.loaded:
            self.loaded[key] = _subject(folder, about, self.root, device)
        return self.loaded[key]


def _known(learners: dict[str, Path], cell: Cell | Audit) -> Path:
    if cell.weights in learners:
        return learners[cell.weights]
    why = "is no checkpoint, but an object of somebody's program"
    if not cell.algorithm.startswith("custom"):
        why = f"no checkpoint with these weights and recipe ({cell.weights[:12]}…) is shipped or given; give --ckpt"
    raise _Unlike(cell.checkpoint, why)


def _attack(results: Path, cell: Cell) -> Attack:
    """Configure the attack of a cell as it was then."""
    if cell.attack.startswith(catalog.FILE):
        return _set(results, cell)
    try:
        attack = catalog.attack(cell.attack)
    except InputError as error:
        raise _Unlike(cell.attack, str(error)) from None
    if (now := repr(attack)) != cell.attack_fields:
        why = f"cannot hold: {cell.attack} meant {cell.attack_fields} then, and means {now} now"
        raise _Unlike(cell.attack, why, "fails")
    if (package := getattr(attack, "needs_package", "")) and (reason := missing(package)):
        raise _Unlike(cell.attack, reason)
    return attack


def _set(results: Path, cell: Cell) -> Attack:
    """Load the adversarial test set of a cell, where its source's results are in the same folder."""
    source = source_of(cell.attack_fields)
    folder = results / store.ADVERSARIAL / (source.cell if source else "unknown")
    if not folder.is_dir():
        raise _Unlike(cell.attack, f"its examples are not in {folder.parent}; --save-adversarial makes them again")
    try:
        attack = catalog.attack(f"{catalog.FILE}{folder}")
    except InputError as error:
        raise _Unlike(cell.attack, str(error)) from None
    if repr(attack) != cell.attack_fields:
        raise _Unlike(cell.attack, f"the examples in {folder} are others by now, as where the set has grown")
    return attack


def _subject(folder: Path, cell: Cell | Audit, root: Path | None, device: str) -> grid.Subject:
    """Load a learner, and the family whose episodes a cell met."""
    try:
        own = checkpoint.read_card(folder / checkpoint.CARD).recipe.family == cell.family
        subject = grid.load_subject(
            folder, family=None if own else grid.choose_family(cell.family, root), root=root, device=device
        )
        found = fingerprint(subject.family, cell.split)
    except InputError as error:
        raise _Unlike(cell.checkpoint, str(error)) from None
    if found != cell.episodes:
        why = f"its episodes were others ({cell.episodes[:12]}…) than this family draws here ({found[:12]}…)"
        raise _Unlike(f"{cell.family} {cell.split}", why, "fails")
    return subject


def _order(ready: Sequence[_Ready], rng: random.Random) -> Iterator[tuple[_Ready, int]]:
    """Draw tasks in rounds, one of every cell in each, the cells in a random order; the cheapest task comes first."""
    left = {one.job.key: rng.sample(sorted(one.records), len(one.records)) for one in ready}
    cells = rng.sample(list(ready), len(ready))
    if cells:
        cheap = min(cells, key=lambda one: _rows(one.records[left[one.job.key][0]]))
        yield cheap, left[cheap.job.key].pop(0)
    while any(left.values()):
        for one in cells:
            if left[one.job.key]:
                yield one, left[one.job.key].pop(0)


def _rows(record: Record) -> int:
    return record.forwards + 2 * record.backwards


def _again(one: _Ready, task: int, tally: _Tally) -> None:
    """Run one task again and add what came of it."""
    job, then, timing = one.job, one.records[task], one.timings.get(task)
    here = (str(job.learner.device), job.learner.backend, 1)
    # Tasks that were run together may have met other kernels than one that runs alone.
    same = timing is not None and (timing.device, timing.backend, timing.chunk) == here
    tally.tasks += 1
    tally.exact &= same
    tally.queries += len(then.survived)
    try:
        with _threads(timing.threads if timing else torch.get_num_threads()):
            (now,) = run(job.cell, job.learner, job.family, job.attack, [task]).records
    except Exception as error:
        tally.problems.append(f"task {task} failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return
    if len(now.survived) != len(then.survived):
        tally.problems.append(f"task {task} has {len(now.survived)} queries, stored are {len(then.survived)}")
        return
    differ = sum(map(operator.ne, (*now.survived, *now.clean), (*then.survived, *then.clean)))
    tally.differ += differ
    tally.moved += sum(now.survived) - sum(then.survived)
    tally.far = max(tally.far, abs(now.distance - then.distance))
    if same and now != then:
        other = [name for name in ("distance", "forwards", "backwards") if getattr(now, name) != getattr(then, name)]
        what = [f"{differ} verdicts differ"] * bool(differ) + [f"{name} differs" for name in other]
        tally.problems.append(f"task {task}: {', '.join(what)}")
    if then.distance > job.cell.threat.eps * (1 + RELATIVE_SLACK) + ABSOLUTE_SLACK:
        tally.problems.append(f"task {task}: the stored distance {then.distance:.6g} is above eps")


def _judged(one: _Ready, tally: _Tally) -> Finding:
    """Say whether the tasks of a cell that ran again hold."""
    what = grid.label(one.job.cell)
    count = f"{tally.tasks} task{'' if tally.tasks == 1 else 's'}, {tally.queries} queries"
    if tally.problems:
        return Finding(what, "fails", f"{count}: {'; '.join(tally.problems[:3])}", True)
    if tally.exact:
        return Finding(what, "holds", f"{count}: bit for bit", True)
    apart = f", distances up to {tally.far:.2g} apart" if tally.far else ""
    if not tally.differ:
        return Finding(what, "holds", f"{count}: every verdict the same{apart}", True)
    detail = f"{count}: {tally.differ} verdicts differ, mean {100 * tally.moved / tally.queries:+.2f} points{apart}"
    allowed = max(1.0, (1 - AGREE) * tally.queries)
    return Finding(what, "holds" if tally.differ <= allowed else "fails", detail, True)


def _together(tallies: Sequence[_Tally]) -> list[Finding]:
    """Judge all tasks that may have been measured on another device."""
    queries, differ = sum(tally.queries for tally in tallies), sum(tally.differ for tally in tallies)
    if not queries:
        return []
    moved = abs(sum(tally.moved for tally in tallies))
    holds = differ <= max(1.0, (1 - AGREE) * queries) and moved <= max(1.0, MOVED * queries)
    detail = (
        f"{100 * (1 - differ / queries):.2f} % of {queries} verdicts agree (at least {100 * AGREE:g} %), mean moved"
    )
    detail += f" by {100 * moved / queries:.3f} points (at most {100 * MOVED:g})"
    what = "all tasks without timings of this device"
    return [Finding(what, "holds" if holds else "fails", detail, True)]


def _audits(results: Path, shelf: _Shelf, rng: random.Random) -> tuple[list[_Audited], list[Finding]]:
    """Draw a task of every audit that can run again, the cheapest first, then by chance; say why others cannot."""
    drawn: list[_Audited] = []
    findings = []
    for about in store.audits(results).values():
        held, timings = store.audited(results, about), store.timings(results, about)
        try:
            if about.version != audit.VERSION:
                raise _Unlike("", f"version {about.version} of the audit, this is {audit.VERSION}")
            if not held:
                raise _Unlike("", "holds no tasks")
            then = rng.choice(held)
            timing = timings.get(then.task)
            subject = shelf.subject(about, _device(timing.device if timing else "cpu"))
            made = _same_learner(about, subject)
        except _Unlike as no:
            findings.append(Finding(_named(about), no.status, no.why))
            continue
        drawn.append(_Audited(about, made, subject.family, then, timing))
    rng.shuffle(drawn)
    if timed := [one for one in drawn if one.seconds is not None]:
        cheap = min(timed, key=lambda one: one.seconds or 0.0)
        drawn.sort(key=lambda one: one is not cheap)
    return drawn, findings


def _same_learner(about: Audit, subject: grid.Subject) -> AnyLearner:
    """Let a learner tell the classes of an audit apart, if it is described there as it is."""
    try:
        made = grid.with_ways(subject, about.spec.ways)
    except InputError as error:
        raise _Unlike("", str(error), "fails") from None
    here = {"algorithm": subject.algorithm, "defense": subject.defense, "norm_mode": made.norm_mode}
    for name, value in here.items():
        if getattr(about, name) != value:
            why = f"cannot hold: {name} is {getattr(about, name)} there, and these weights have {value}"
            raise _Unlike("", why, "fails")
    return made


def _examined(
    audited: Sequence[_Audited], left: Callable[[], float], slowdown: float, tell: Callable[[str], None]
) -> list[Finding]:
    """Run audits again, at least one and those others that fit in the seconds left."""
    findings: list[Finding] = []
    longest = 0.0
    for one in audited:
        expected = longest if one.seconds is None else one.seconds * (slowdown or 1.0)
        if any(found.measured for found in findings) and MARGIN * expected > left():
            findings.append(Finding(_named(one.audit), "not verified", "no time for it: give more --seconds"))
            continue
        begun = time.monotonic()
        findings.append(_examine(one))
        took = time.monotonic() - begun
        longest = max(longest, took)
        if one.seconds is not None:
            slowdown = max(slowdown, took / max(one.seconds, 1e-6))
        tell(f"{_named(one.audit)}, task {one.then.task}")
    return findings


def _examine(one: _Audited) -> Finding:
    """Run one task of an audit again and compare all that it measured."""
    then, timing, what = one.then, one.timing, _named(one.audit)
    here = (str(one.learner.device), one.learner.backend, 1)
    same = timing is not None and (timing.device, timing.backend, timing.chunk) == here
    count = f"task {then.task}, {len(then.clean)} queries"
    try:
        with _threads(timing.threads if timing else torch.get_num_threads()):
            (now,) = audit.examine(one.audit, one.learner, one.family, [then.task])
    except Exception as error:
        return Finding(what, "fails", f"{count}: failed: {grid.reason_of(error)}", True)
    wrong, agree = _compared(now, then, exact=same)
    if wrong:
        return Finding(what, "fails", f"{count}: {', '.join(wrong[:4])}", True)
    return Finding(what, "holds", f"{count}: {'bit for bit' if same else agree}", True)


def _compared(now: Measures, then: Measures, *, exact: bool) -> tuple[list[str], str]:
    """Say what of a task's measures does not hold, and which share of verdicts agrees."""
    a, b = _verdicts(now), _verdicts(then)
    if {name: len(row) for name, row in a.items()} != {name: len(row) for name, row in b.items()}:
        return ["it holds other runs or queries than are measured here"], ""
    differ = {name: sum(map(operator.ne, a[name], b[name])) for name in a}
    total, every = sum(differ.values()), sum(map(len, a.values()))
    allowed = 0.0 if exact else max(1.0, (1 - AGREE) * every)
    wrong = [f"{number} of {name} differ" for name, number in differ.items() if number and total > allowed]
    # Elsewhere rounding makes other differences of scores, but none that raises a flag or takes one back.
    for name, limit in (("repeat", 0.0), ("alone", flags.ALONE)):
        here, there = getattr(now, name), getattr(then, name)
        if (repr(here) != repr(there)) if exact else ((here > limit) != (there > limit)):
            wrong.append(f"{name} is {here:.3g}, stored is {there:.3g}")
    wrong += [f"{name} differs" for name in ("probabilities", "autograd") if getattr(now, name) != getattr(then, name)]
    return wrong, f"{100 * (1 - total / every):.2f} % of {every} verdicts agree"


def _verdicts(one: Measures) -> dict[str, tuple[int, ...]]:
    """All that a task of an audit says of its queries, by name."""
    nested = {f"{part} {run}": bits for part in ("survived", "flat") for run, bits in getattr(one, part).items()}
    return {"clean": one.clean, "predictions": one.predictions, "steps": one.steps, **nested}


def _named(about: Audit) -> str:
    return f"audit of {audit.label(about)}"


def _device(recorded: str) -> str:
    """Choose the device of the record if it is there."""
    return "cuda" if recorded.startswith("cuda") and torch.cuda.is_available() else "cpu"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
