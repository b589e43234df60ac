"""Records to and from a results folder: one file per cell, replaced whole, never half-written.

RESULTS/cells/<key>.jsonl     the cell and the schema version, then one line per task in task order
RESULTS/timings/<key>.jsonl   seconds, device and threads of each block: apart, so that cells/ repeats byte for byte
RESULTS/errors/<key>.json     a cell that failed, with its reason; removed when a later run succeeds
RESULTS/gallery/<key>.npz     a few attacked queries to look at
RESULTS/adversarial/<key>/    every attacked query of a cell, where they were asked for: set.json and a file per task
RESULTS/learners/<weights>.json   the card of a checkpoint that was evaluated, as one line
RESULTS/audits/<key>.jsonl    an audit and the schema version, then one line per audited task; .json: why it failed
RESULTS/locks/<key>.lock      held while a cell's files are replaced
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from robustbench_meta import checkpoint, untrusted
from robustbench_meta.flags import Measures
from robustbench_meta.types import SPLITS, SURFACES, THREATS, Audit, Cell, InputError, Record, Spec, Threat

_About = TypeVar("_About", Cell, Audit)
_Row = TypeVar("_Row", Record, Measures)

SCHEMA = 1
IMAGES = ("clean", "adversarial")
ANSWERS = ("labels", "clean_predictions", "adversarial_predictions")
PICTURES = (*IMAGES, *ANSWERS)  # of a gallery file
SCENE = ("goal", "obstacles", "bodies")  # what is drawn besides the ways, in the gallery file of rollouts
WRITTEN = ("targets", "written", "written_attacked")  # texts, in the gallery file of sequences
CLASSES = "classes"  # what the labels of a gallery file are called, where they have names
RETURNS = ("clean_return", "attacked_return")  # of rollouts
LIKENESS = ("clean_tokens", "attacked_tokens", "clean_chrf", "attacked_chrf")  # of sequences
RATE, LARGEST_RATE = "rate", 2**20  # samples a second, in the gallery file of sounds
FOLDERS = ("cells", "timings", "errors", "gallery", "audits", "learners", "locks")
LEARNER_COLUMNS = ("weights", "card", "authors", "paper", "code", "license")
ADVERSARIAL, SET = "adversarial", "set.json"
LARGEST_INDEX, LARGEST_TASK = 2**24, 2**28  # bytes that set.json and the examples of one task may have
LARGEST_FAILURE = 2**20
PROBE = 2**14  # bytes that must fit before a run begins
LARGEST_GALLERY, LARGEST_UNPACKED = 2**26, 2**28  # bytes of a file, and of what it unpacks to


class NewerSchema(OSError):
    """The results folder was written by a newer version than this one."""


@dataclass(frozen=True)
class Timing:
    """How one block of tasks ran: nothing in it may change a verdict."""

    tasks: tuple[int, ...]
    seconds: float
    device: str
    threads: int
    backend: str = "loop"
    chunk: int = 1  # tasks adapted and attacked at once


@dataclass(frozen=True)
class Results:
    """Everything a results folder holds: one row per cell, per cell and task, per audit and task, and per learner.

    A learner's `card` is one line of JSON, or nothing; its authors, paper, code and license are told by submissions.
    """

    cells: pd.DataFrame
    tasks: pd.DataFrame
    audits: pd.DataFrame = field(default_factory=lambda: _audit_table([]))
    learners: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(LEARNER_COLUMNS), dtype="object"))


@dataclass(frozen=True)
class Run:
    """A cell and what came of it; `reason` says why it failed, `external` who claims it where we do not."""

    cell: Cell
    records: tuple[Record, ...] = ()
    reason: str = ""
    ran: tuple[Timing, ...] = ()
    external: str = ""


@dataclass(frozen=True)
class Examination:
    """An audit and what came of it; `reason` says why it failed."""

    audit: Audit
    measures: tuple[Measures, ...] = ()
    reason: str = ""
    ran: tuple[Timing, ...] = ()


@dataclass(frozen=True, eq=False)
class Examples:
    """The attacked queries of one task: x_adv [Q,*X] exact, query_y [Q], and the digest of each clean query [Q,32]."""

    task: int
    x_adv: np.ndarray
    query_y: np.ndarray
    clean: np.ndarray


@dataclass(frozen=True)
class ExampleSet:
    """A fixed adversarial test set: the cell it was made for, and the SHA-256 of each task's file by task."""

    folder: Path
    cell: Cell
    sha256: str
    tasks: dict[int, str]


def key(cell: Cell | Audit) -> str:
    """Identify a cell or an audit: SHA-256 of the canonical JSON of its fields, the display name left out.

    So a renamed checkpoint folder finds its results again, and draws the same random numbers.
    """
    named = _told(cell)
    del named["checkpoint"]
    return _digest(named)


def _told(cell: Cell | Audit) -> dict[str, Any]:
    """Write the fields of a cell without a fraction of 1, and of an audit of queries without its surface.

    So those from before there were others keep their names.
    """
    told = asdict(cell)
    if isinstance(cell, Cell) and cell.threat.fraction == 1:
        del told["threat"]["fraction"]
    if isinstance(cell, Audit) and cell.surface == "query":
        del told["surface"]
    return told


def prepare(results: Path) -> None:
    """Make the folders of a store, and raise OSError now if it cannot be written."""
    for folder in FOLDERS:
        (results / folder).mkdir(parents=True, exist_ok=True)
    # A name of its own, since several runs may begin on one store at the same moment.
    with _named(results), tempfile.NamedTemporaryFile(dir=results / "locks", prefix="probe.") as probe:
        probe.write(bytes(PROBE))  # on a full disk an empty file may still be made
        probe.flush()
        os.fsync(probe.fileno())


def append(results: Path, cell: Cell, records: Iterable[Record], timing: Timing | None = None) -> None:
    """Add tasks to a cell's file; a task that is there already stays as it is. Safe among processes."""
    with _locked(results, cell):
        kept = {record.task: record for record in stored(results, cell)}
        merged = {record.task: record for record in records} | kept
        header = {"schema": SCHEMA, "cell": _told(_known(results, cell))}
        lines = [header, *(_line(merged[task]) for task in sorted(merged))]
        _replace(_path(results, "cells", cell), _lines(lines))
        if timing is not None:
            _add_timing(results, cell, timing)


def append_audit(results: Path, audit: Audit, measures: Iterable[Measures], timing: Timing | None = None) -> None:
    """Add tasks to an audit's file, as `append` does to a cell's."""
    with _locked(results, audit):
        path = _path(results, "audits", audit)
        header, before = _read_audit(path) if path.exists() else (audit, [])
        merged = {one.task: one for one in measures} | {one.task: one for one in before}
        lines = [
            {"schema": SCHEMA, "audit": _told(header)},
            *(_measures_line(merged[task]) for task in sorted(merged)),
        ]
        _replace(path, _lines(lines))
        if timing is not None:
            _add_timing(results, audit, timing)


def audited(results: Path, audit: Audit) -> list[Measures]:
    """Return the tasks of an audit in order; none if it has not run."""
    path = _path(results, "audits", audit)
    return _read_audit(path)[1] if path.exists() else []


def failed(results: Path, about: Cell | Audit) -> bool:
    """Say whether it is recorded that a cell or an audit failed."""
    return _failure(results, about).exists()


def audits(results: Path) -> dict[str, Audit]:
    """Return every audit that has a file of measures, by key."""
    return _headers(results / "audits", _audit)


def fail_audit(results: Path, audit: Audit, reason: str) -> None:
    """Record that an audit failed, and why; tasks that ran before stay."""
    with _locked(results, audit):
        line = {"schema": SCHEMA, "audit": _told(audit), "reason": reason}
        _replace(_failure(results, audit), _lines([line]))


def stored(results: Path, cell: Cell) -> list[Record]:
    """Return the records of a cell in task order; none if it has not run."""
    path = _path(results, "cells", cell)
    return _read_cell(path)[1] if path.exists() else []


def cells(results: Path) -> dict[str, Cell]:
    """Return every cell that has a file, by key; none where there is no store yet."""
    return _headers(results / "cells", _cell)


def fail(results: Path, cell: Cell, reason: str) -> None:
    """Record that a cell failed, and why; tasks that ran before stay."""
    with _locked(results, cell):
        line = {"schema": SCHEMA, "cell": _told(cell), "reason": reason}
        _replace(_failure(results, cell), _lines([line]))


def clear_failure(results: Path, about: Cell | Audit) -> None:
    """Forget an earlier failure of a cell or an audit that has now run."""
    if failed(results, about):
        with _locked(results, about):
            _failure(results, about).unlink(missing_ok=True)


def save_gallery(results: Path, cell: Cell, arrays: dict[str, np.ndarray]) -> None:
    """Keep a few attacked queries of a cell: clean, adversarial, labels and the two predictions.

    Of sounds the rate, too, and where classes have names what they are called.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    with _locked(results, cell):
        _replace(_path(results, "gallery", cell), buffer.getvalue())


def save_examples(results: Path, cell: Cell, examples: Iterable[Examples]) -> None:
    """Keep every attacked query of some tasks; tasks that are there already stay as they are.

    A task's file is written whole before set.json names it, so that what set.json names can be trusted.
    """
    with _locked(results, cell):
        folder = results / ADVERSARIAL / key(cell)
        folder.mkdir(parents=True, exist_ok=True)
        before = read_set(folder) if (folder / SET).exists() else None
        known = {} if before is None else dict(before.tasks)
        for one in examples:
            if one.task in known and _task_file(folder, one.task).is_file():
                continue
            arrays = {"x_adv": one.x_adv, "query_y": one.query_y.astype("<i8"), "clean_sha256": one.clean}
            content = save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()})
            _replace(_task_file(folder, one.task), content)
            known[one.task] = hashlib.sha256(content).hexdigest()
        about = _told(_known(results, cell) if before is None else before.cell)
        index = {"schema": SCHEMA, "cell": about, "tasks": {_task_name(task): known[task] for task in sorted(known)}}
        _replace(folder / SET, _lines([{**index, "sha256": _digest(index)}]))


def kept_examples(results: Path, cell: Cell) -> set[int]:
    """Return the tasks of a cell whose examples were kept."""
    folder = results / ADVERSARIAL / key(cell)
    found = read_set(folder).tasks if (folder / SET).exists() else {}
    return {task for task in found if _task_file(folder, task).is_file()}


def read_set(folder: Path) -> ExampleSet:
    """Read what a set holds; raise InputError where set.json is not what it was written as."""
    path = folder / SET
    if not path.is_file():
        raise InputError(f"adversarial set: {path} is missing; `rbm evaluate --save-adversarial` makes one")
    content = _bounded(path, LARGEST_INDEX)
    with _naming(path, 1):
        line = untrusted.parse(content)
        cell, sha256 = _built(line, path), line.pop("sha256")
        named = {re.fullmatch(r"task-(\d{5,9})\.safetensors", name): digest for name, digest in line["tasks"].items()}
        if None in named or not named:
            raise ValueError("its tasks are not files named task-00042.safetensors")
        tasks = {int(match[1]): str(digest) for match, digest in named.items() if match}
    if _digest(line) != sha256:
        raise InputError(f"adversarial set: {path} does not hash to its own sha256 {str(sha256)[:12]}…; it was changed")
    return ExampleSet(folder, cell, sha256, tasks)


def read_examples(held: ExampleSet, task: int) -> Examples:
    """Read the examples of one task, which must hash to what set.json says."""
    path = _task_file(held.folder, task)
    if not path.is_file():
        raise InputError(f"adversarial set: {path} is missing")
    content = _bounded(path, LARGEST_TASK)
    found = hashlib.sha256(content).hexdigest()
    if found != held.tasks[task]:
        raise InputError(f"adversarial set: {path} has SHA-256 {found[:12]}…, {SET} says {held.tasks[task][:12]}…")
    try:
        arrays = load_arrays(content)
        x_adv, y, clean = (arrays[name] for name in ("x_adv", "query_y", "clean_sha256"))
    except (SafetensorError, ValueError, KeyError) as broken:
        raise InputError(f"adversarial set: {path} holds no examples ({str(broken).splitlines()[0][:80]})") from None
    if x_adv.dtype.kind != "f" or (y.shape, clean.shape) != ((len(x_adv),), (len(x_adv), 32)) or y.dtype.kind != "i":
        raise InputError(f"adversarial set: {path}: x_adv {x_adv.shape}, query_y {y.shape}, digests {clean.shape}")
    return Examples(task, x_adv, y, clean)


def _bounded(path: Path, limit: int) -> bytes:
    try:
        return untrusted.content(path, limit)
    except ValueError as problem:
        raise InputError(f"adversarial set: {path} {problem}") from None


def query_digests(x: np.ndarray) -> np.ndarray:
    """Name each of x [Q,*X] by the SHA-256 of its bytes as little-endian float32: uint8 [Q,32]."""
    rows = (hashlib.sha256(np.ascontiguousarray(query, "<f4").tobytes()).digest() for query in x)
    return np.stack([np.frombuffer(row, np.uint8) for row in rows])


def read(results: str | Path) -> Results:
    """Read a whole results folder into its tables, ordered by what the cells are; one without audits has none.

    Raises InputError naming the file and line that cannot be read, NewerSchema for a later version's store.
    """
    results = Path(results)
    cards = [{"weights": weights, "card": card} for weights, card in cards_of(results).items()]
    return tables(runs(results), examinations(results), cards)


def tables(
    runs: Iterable[Run], examinations: Iterable[Examination], learners: Iterable[dict[str, str]] = ()
) -> Results:
    """Put what was measured into tables, ordered by what the cells are; learners are rows of LEARNER_COLUMNS."""
    made = {key(run.cell): run for run in runs}
    order = sorted(made, key=lambda name: (_order(made[name].cell), name))
    writing = {
        run.cell.family for run in made.values() if any(record.clean_tokens is not None for record in run.records)
    }
    cells = [_cell_row(name, made[name], writing) for name in order]
    frame = pd.DataFrame(cells, columns=list(_CELL_COLUMNS))
    rows = [{"key": name, **_line(record)} for name in sorted(made) for record in made[name].records]
    tasks = pd.DataFrame(rows, columns=list(_TASK_COLUMNS)).astype(_TASK_COLUMNS)
    about = sorted((dict.fromkeys(LEARNER_COLUMNS, "") | one for one in learners), key=lambda one: one["weights"])
    learned = pd.DataFrame(about, columns=list(LEARNER_COLUMNS), dtype="object")
    return Results(frame.astype(_CELL_COLUMNS), tasks, _audit_table(_audit_rows(examinations)), learned)


def runs(results: Path) -> list[Run]:
    """Read every cell of a results folder with all that became of it."""
    if not (results / "cells").is_dir():
        raise InputError(f"results: {results} holds no results (no folder cells/); `rbm evaluate --out` makes one")
    failures = {path.stem: _read_failure(path) for path in sorted((results / "errors").glob("*.json"))}
    found = {path.stem: _read_cell(path) for path in sorted((results / "cells").glob("*.jsonl"))}
    made = []
    for name in sorted(failures.keys() | found.keys()):
        cell, records = found[name] if name in found else (failures[name][0], [])
        reason = failures[name][1] if name in failures else ""
        made.append(Run(cell, tuple(records), reason, _ran(results, name)))
    return made


def examinations(results: Path) -> list[Examination]:
    """Read every audit of a results folder with all that became of it."""
    made = {}
    for path in sorted((results / "audits").glob("*.jsonl")):
        audit, found = _read_audit(path)
        made[path.stem] = Examination(audit, tuple(found), "", _ran(results, path.stem))
    for path in sorted((results / "audits").glob("*.json")):
        with _naming(path, 1):
            failure = untrusted.parse(untrusted.content(path, LARGEST_FAILURE))
            audit, reason = _audit(failure, path), str(failure["reason"])
            made[path.stem] = replace(made.get(path.stem, Examination(audit)), reason=reason)
    return [made[name] for name in sorted(made)]


def cards_of(results: Path) -> dict[str, str]:
    """Read the cards of the checkpoints that were evaluated, by their weights; an older store keeps none."""
    found = {}
    for path in sorted((results / "learners").glob("*.json")):
        with _naming(path, 1):
            card = checkpoint.parse_card(untrusted.content(path, checkpoint.LARGEST_CARD))
            if card.learner != path.stem:
                raise ValueError("the card in it does not belong to the file's name")
            found[path.stem] = checkpoint.card_line(card)
    return found


def save_card(results: Path, weights: str, card: str) -> None:
    """Keep the card of a checkpoint, once: it belongs to these weights and cannot change."""
    path = results / "learners" / f"{weights}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _named(path):
            checkpoint.write(path, f"{card}\n".encode())


def read_gallery(results: str | Path) -> list[dict[str, Any]]:
    """Read every saved picture set: the file's arrays, with the key, title, attack, norm and eps of its cell."""
    results = Path(results)
    known, found = cells(results), []
    for path in sorted((results / "gallery").glob("*.npz")):
        if (cell := known.get(path.stem)) is None:
            continue
        steps = "" if cell.steps is None else f", {cell.steps} steps"
        threat = f"{cell.attack}, {cell.threat.norm} {cell.threat.eps:.4g}"
        about = {"title": f"{cell.checkpoint}, {cell.spec.shots}-shot{steps}: {threat}", "attack": cell.attack}
        about |= {"norm": cell.threat.norm}
        try:
            found.append({"key": path.stem, **about, "eps": cell.threat.eps, **_pictures(path)})
        except (ValueError, EOFError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as broken:
            raise InputError(f"results: {path} is not a readable gallery file ({broken})") from None
    return found


def seconds_per_task(results: Path) -> dict[str, float]:
    """Say what one task of each timed cell took, by key."""
    found = {}
    for path in sorted((results / "timings").glob("*.jsonl")):
        timings = _timings(path)
        tasks = sum(len(line["tasks"]) for line in timings)
        if tasks:
            found[path.stem] = sum(line["seconds"] for line in timings) / tasks
    return found


def timings(results: Path, cell: Cell | Audit) -> dict[int, Timing]:
    """Say how each task of a cell or an audit ran, by task; nothing of tasks that were not timed."""
    path = _path(results, "timings", cell)
    found: dict[int, Timing] = {}
    for line in _timings(path) if path.exists() else []:
        with _naming(path, 1):
            timing = Timing(**{**line, "tasks": tuple(line["tasks"])})
            # What ran first is what the records hold.
            found = dict.fromkeys(timing.tasks, timing) | found
    return found


_CELL_COLUMNS = {
    **dict.fromkeys(
        ("key", "checkpoint", "weights", "algorithm", "defense", "norm_mode", "family", "episodes", "split"), "object"
    ),
    **dict.fromkeys(("ways", "shots", "queries"), "int64"),
    "steps": "Int64",
    **dict.fromkeys(("attack", "attack_fields", "surface", "norm"), "object"),
    **dict.fromkeys(("fraction", "eps"), "float64"),
    "whole": "bool",
    "seed": "int64",
    "status": "object",
    "reason": "object",
    "seconds": "float64",
    "device": "object",
    "external": "object",
}
_TASK_COLUMNS = {
    "key": "object",
    "task": "int64",
    "clean": "object",
    "survived": "object",
    "distance": "float64",
    "forwards": "int64",
    "backwards": "int64",
    **dict.fromkeys((*RETURNS, *LIKENESS), "float64"),
}
_OF_ATTACKS = ("attack", "attack_fields", "fraction", "whole", "seconds", "device", "external")
_AUDIT_COLUMNS = {
    **{name: kind for name, kind in _CELL_COLUMNS.items() if name not in _OF_ATTACKS},
    "version": "int64",
    "task": "Int64",
    "measures": "object",
}


def _audit_rows(examinations: Iterable[Examination]) -> list[dict[str, Any]]:
    """Give a row for every audited task, and after them all one without a task for every audit that failed."""
    each = sorted(((key(one.audit), one) for one in examinations), key=lambda pair: pair[0])
    rows = [_audit_row(name, one.audit) | {"task": m.task, "measures": m} for name, one in each for m in one.measures]
    failed = [(name, one) for name, one in each if one.reason]
    return rows + [_audit_row(name, one.audit) | {"status": "error", "reason": one.reason} for name, one in failed]


def _audit_row(name: str, audit: Audit) -> dict[str, Any]:
    fields = asdict(audit)
    row = {"key": name, **fields.pop("spec"), **fields, "status": "ok", "reason": "", "task": pd.NA, "measures": None}
    row["steps"] = pd.NA if audit.steps is None else audit.steps
    return {column: row[column] for column in _AUDIT_COLUMNS}


def _audit_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(_AUDIT_COLUMNS)).astype(_AUDIT_COLUMNS)


def _cell_row(name: str, run: Run, writing: Container[str]) -> dict[str, Any]:
    """Give the row of a cell; `writing`: families whose learners write, also where a cell of them failed."""
    rest = asdict(run.cell)
    spec, threat = rest.pop("spec"), rest.pop("threat")
    seconds = sum(timing.seconds for timing in run.ran) if run.ran else float("nan")
    device = ", ".join(sorted({timing.device for timing in run.ran}))
    row = {"key": name, **rest, **spec, **threat, "seconds": seconds, "device": device, "external": run.external}
    row["whole"] = threat["surface"] == "sequence" or run.cell.family in writing
    row["steps"] = pd.NA if run.cell.steps is None else run.cell.steps
    row["status"], row["reason"] = ("error", run.reason) if run.reason else ("ok", "")
    return {column: row[column] for column in _CELL_COLUMNS}


def _order(cell: Cell) -> tuple[Any, ...]:
    steps = -1 if cell.steps is None else cell.steps
    place = (cell.family, cell.split, cell.spec.ways, cell.spec.shots, cell.spec.queries, steps)
    threat = (cell.threat.surface, cell.threat.fraction, cell.threat.norm, cell.threat.eps)
    return (cell.checkpoint, *place, *threat, cell.attack, cell.seed)


def _line(record: Record) -> dict[str, Any]:
    given = {name: value for name, value in asdict(record).items() if value is not None}  # as returns of rollouts
    return {**given, "clean": _bits(record.clean), "survived": _bits(record.survived)}


def _bits(values: Sequence[bool]) -> str:
    return "".join("1" if value else "0" for value in values)


def _measures_line(one: Measures) -> dict[str, Any]:
    bits = {name: {run: _bits(values) for run, values in getattr(one, name).items()} for name in ("survived", "flat")}
    told = {**asdict(one), "clean": _bits(one.clean), **bits}
    if not one.steps:  # as all had none once
        del told["steps"]
    return told


def _measures(line: dict[str, Any]) -> Measures:
    every = [line["clean"], *line["survived"].values(), *line["flat"].values()]
    steps, count = line.get("steps", ()), len(line["clean"])
    lengths = {len(part) for part in (*every, line["predictions"] or line["clean"], steps or line["clean"])}
    if not count or lengths != {count} or set("".join(every)) - {*"01"}:
        raise ValueError("clean, survived, flat, predictions and steps are not of one length, or not bits")
    if not all(isinstance(value, int) and value >= 0 for value in (line["task"], *line["predictions"], *steps)):
        raise ValueError("task, predictions and steps are not whole numbers")
    if not all(isinstance(line[name], float) for name in ("repeat", "alone")):
        raise ValueError("repeat and alone are not numbers")
    bits = {
        name: {run: tuple(bit == "1" for bit in text) for run, text in line[name].items()}
        for name in ("survived", "flat")
    }
    clean = tuple(bit == "1" for bit in line["clean"])
    numbers = {"predictions": tuple(line["predictions"]), "steps": tuple(steps)}
    return Measures(**{**line, **bits, "clean": clean, **numbers})


def _record(line: dict[str, Any]) -> Record:
    clean, survived = line["clean"], line["survived"]
    if not clean or len(clean) != len(survived) or set(clean + survived) - {"0", "1"}:
        raise ValueError("clean and survived are not bits of one length")
    if not all(isinstance(line[name], int) for name in ("task", "forwards", "backwards")):
        raise ValueError("task, forwards and backwards are not whole numbers")
    if not all(isinstance(line.get(name, 0.0), (int, float)) for name in ("distance", *RETURNS, *LIKENESS)):
        raise ValueError("distance, a likeness or a return is not a number")
    bits = {"clean": tuple(bit == "1" for bit in clean), "survived": tuple(bit == "1" for bit in survived)}
    return Record(**{**line, **bits})


def _headers(folder: Path, about: Callable[[Any, Path], _About]) -> dict[str, _About]:
    """Read the first line of every file, by key."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        _, header = next(_parsed(path), (1, {}))
        with _naming(path, 1):
            found[path.stem] = about(header, path)
    return found


def _read_cell(path: Path) -> tuple[Cell, list[Record]]:
    return _read(path, _cell, _record)


def _read_audit(path: Path) -> tuple[Audit, list[Measures]]:
    return _read(path, _audit, _measures)


def _read(path: Path, about: Callable[[Any, Path], _About], row: Callable[[Any], _Row]) -> tuple[_About, list[_Row]]:
    """Read a header, then a line for each task in order."""
    lines, found = _parsed(path), []
    _, first = next(lines, (1, {}))
    with _naming(path, 1):
        header = about(first, path)
    for number, line in lines:
        with _naming(path, number):
            found.append(row(line))
    if [one.task for one in found] != sorted({one.task for one in found}):
        raise InputError(f"results: {path} does not hold each task once and in order; remove it and run again")
    return header, found


def _audit(line: dict[str, Any], path: Path) -> Audit:
    _check_schema(line, path)
    audit = Audit(**{**line["audit"], "spec": Spec(**line["audit"]["spec"])})
    _check_types(audit, audit.spec)
    if key(audit) != path.stem:
        raise ValueError("the audit in it does not belong to the file's name")
    return audit


def _check_schema(line: dict[str, Any], path: Path) -> None:
    if line["schema"] > SCHEMA:
        raise NewerSchema(
            f"results: {path} has schema version {line['schema']}; this version reads up to {SCHEMA}: upgrade it"
        )


def _read_failure(path: Path) -> tuple[Cell, str]:
    with _naming(path, 1):
        line = untrusted.parse(untrusted.content(path, LARGEST_FAILURE))
        return _cell(line, path), str(line["reason"])


def _cell(line: dict[str, Any], path: Path) -> Cell:
    cell = _built(line, path)
    if key(cell) != path.stem:
        raise ValueError("the cell in it does not belong to the file's name")
    return cell


def _built(line: dict[str, Any], path: Path) -> Cell:
    _check_schema(line, path)
    given = dict(line["cell"])
    cell = Cell(**{**given, "spec": Spec(**given["spec"]), "threat": Threat(**given["threat"])})
    _check_types(cell, cell.spec, cell.threat)
    return cell


def _check_types(*nouns: Any) -> None:
    """Refuse a field that is not of its type or out of its closed set, since reports rely on both."""
    for noun in nouns:
        for one in fields(noun):
            value, legal = getattr(noun, one.name), _KINDS.get(str(one.type))
            if legal and (not isinstance(value, legal) or isinstance(value, bool)):
                raise ValueError(f"{one.name} = {value!r} is not {one.type}")
            if one.name in _CLOSED and value not in _CLOSED[one.name]:
                raise ValueError(f"{one.name} = {value!r} is not one of {', '.join(_CLOSED[one.name])}")


_CLOSED: dict[str, tuple[str, ...]] = {"norm": THREATS, "surface": SURFACES, "split": SPLITS}
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, type(None)),
}


def _known(results: Path, cell: Cell) -> Cell:
    """Keep the header that a cell's file has, so that adding tasks leaves every earlier byte in place."""
    path = _path(results, "cells", cell)
    return _read_cell(path)[0] if path.exists() else cell


def _add_timing(results: Path, cell: Cell | Audit, timing: Timing) -> None:
    path = _path(results, "timings", cell)
    before = path.read_bytes() if path.exists() else b""
    _replace(path, before + _lines([asdict(timing)]))


def _timings(path: Path) -> list[dict[str, Any]]:
    made = []
    for number, line in _parsed(path):
        with _naming(path, number):
            if not isinstance(line["tasks"], list) or not isinstance(line["seconds"], (int, float)):
                raise ValueError("tasks is not a list, or seconds is not a number")
            made.append(line)
    return made


def _parsed(path: Path) -> Iterator[tuple[int, Any]]:
    """Give every line with its number; one that is too long or not strict JSON is refused naming both."""
    lines, number = untrusted.lines(path), 0
    while True:
        number += 1
        with _naming(path, number):
            if (line := next(lines, None)) is None:
                return
            value = untrusted.parse(line)
        yield number, value


def _pictures(path: Path) -> dict[str, np.ndarray]:
    """Read a gallery file whose arrays are what `save_gallery` was given, and no larger than they may be."""
    packed = io.BytesIO(untrusted.content(path, LARGEST_GALLERY))
    with zipfile.ZipFile(packed) as archive:
        if (size := sum(entry.file_size for entry in archive.infolist())) > LARGEST_UNPACKED:
            raise ValueError(f"it unpacks to {size} bytes, more than {LARGEST_UNPACKED}")
    with np.load(packed, allow_pickle=False) as opened:
        arrays = {name: opened[name] for name in (*PICTURES, *({RATE, CLASSES, *SCENE, *WRITTEN} & set(opened.files)))}
    classes = arrays.pop(CLASSES, None)
    clean, adversarial, rate = arrays["clean"], arrays["adversarial"], arrays.get(RATE)
    if SCENE[0] in arrays:
        shapes = [arrays[name].shape[1:] for name in ("clean", *SCENE)]
        fits = [len(shape) for shape in shapes] == [2, 1, 2, 3] and [shape[-1] for shape in shapes] == [2, 3, 3, 2]
        fits = fits and shapes[3][0] == 2
    elif clean.dtype.kind == "U":
        fits = clean.ndim == 1 and adversarial.dtype.kind == "U"
    elif rate is not None:
        fits = clean.ndim == 3 and clean.shape[1] == 1
    else:
        fits = clean.ndim == 4 and clean.shape[1] in (1, 3)
    if not fits or clean.shape != adversarial.shape:
        raise ValueError(f"its inputs have shapes {clean.shape} and {adversarial.shape}")
    if rate is not None and not ((rate >= 1) & (rate <= LARGEST_RATE)).all():
        raise ValueError(f"{RATE} is not between 1 and {LARGEST_RATE} samples a second")
    for name, array in arrays.items():
        wanted = "fU" if name in IMAGES else "f" if name in SCENE else "U" if name in WRITTEN else "iu"
        odd = array.dtype.kind == "f" and not np.isfinite(array).all()
        if array.dtype.kind not in wanted or len(array) != len(clean) or odd:
            raise ValueError(f"{name} is not what it must be: finite, one for each input")
        if name not in (*IMAGES, *SCENE) and array.ndim != 1:
            raise ValueError(f"{name} has {array.ndim} axes, must have 1")
    if classes is None:
        return arrays
    numbers = np.concatenate([arrays[name] for name in ANSWERS])
    lowest, highest = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    if classes.dtype.kind != "U" or classes.ndim != 1 or not 0 <= lowest <= highest < len(set(classes.tolist())):
        raise ValueError(f"{CLASSES} does not name every class up to {highest}, each in its own way")
    return arrays | {CLASSES: classes}


def _ran(results: Path, name: str) -> tuple[Timing, ...]:
    """Say how the blocks of a cell or an audit ran, as they were timed."""
    path = results / "timings" / f"{name}.jsonl"
    if not path.exists():
        return ()
    found = _timings(path)
    with _naming(path, 1):
        return tuple(Timing(**{**line, "tasks": tuple(line["tasks"])}) for line in found)


@contextmanager
def _naming(path: Path, number: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as broken:
        reason = f"{type(broken).__name__}: {broken}".splitlines()[0][:120]
        raise InputError(f"results: {path}, line {number}, is broken ({reason}); remove it and run again") from None


def _path(results: Path, folder: str, cell: Cell | Audit) -> Path:
    return results / folder / f"{key(cell)}{_SUFFIXES[folder]}"


def _failure(results: Path, about: Cell | Audit) -> Path:
    """Say where a failure is told: an audit's beside its measures."""
    if isinstance(about, Cell):
        return _path(results, "errors", about)
    return _path(results, "audits", about).with_suffix(".json")


_SUFFIXES = {"cells": ".jsonl", "timings": ".jsonl", "errors": ".json", "gallery": ".npz"}
_SUFFIXES |= {"audits": ".jsonl", "locks": ".lock"}


def _task_name(task: int) -> str:
    return f"task-{task:05d}.safetensors"


def _task_file(folder: Path, task: int) -> Path:
    return folder / _task_name(task)


def _digest(value: Any) -> str:
    return hashlib.sha256(_dumps(value).encode()).hexdigest()


@contextmanager
def _locked(results: Path, cell: Cell | Audit) -> Iterator[None]:
    for folder in FOLDERS:
        (results / folder).mkdir(parents=True, exist_ok=True)
    with _path(results, "locks", cell).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when the process dies
        yield


def _replace(path: Path, content: bytes) -> None:
    # One fixed name under the cell's lock: what a killed run leaves behind is overwritten by the next.
    temporary = path.with_name(f".{path.name}.new")
    try:
        with _named(path), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have what a full disk raises say where it was; a write's own error names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def _lines(values: Sequence[Any]) -> bytes:
    return "".join(f"{_dumps(value)}\n" for value in values).encode()
