"""Records to and from a results folder: one file per cell, replaced whole, never half-written.

RESULTS/cells/<key>.jsonl     the cell and the schema version, then one line per task in task order
RESULTS/timings/<key>.jsonl   seconds, device and threads of each block: apart, so that cells/ repeats byte for byte
RESULTS/errors/<key>.json     a cell that failed, with its reason; removed when a later run succeeds
RESULTS/gallery/<key>.npz     a few attacked queries to look at
RESULTS/audits/<key>.jsonl    an audit and the schema version, then one line per audited task; .json: why it failed
RESULTS/locks/<key>.lock      held while a cell's files are replaced
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from robustbench_meta.flags import Measures
from robustbench_meta.types import Audit, Cell, InputError, Record, Spec, Threat

SCHEMA = 1
FOLDERS = ("cells", "timings", "errors", "gallery", "audits", "locks")


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
    """Everything a results folder holds: one row per cell, per cell and task, and per audit and task."""

    cells: pd.DataFrame
    tasks: pd.DataFrame
    audits: pd.DataFrame = field(default_factory=lambda: _audit_table([]))


def key(cell: Cell | Audit) -> str:
    """Identify a cell or an audit: SHA-256 of the canonical JSON of its fields, the display name left out.

    So a renamed checkpoint folder finds its results again, and draws the same random numbers.
    """
    fields = asdict(cell)
    del fields["checkpoint"]
    return hashlib.sha256(_dumps(fields).encode()).hexdigest()


def prepare(results: Path) -> None:
    """Make the folders of a store, and raise OSError now if it cannot be written."""
    for folder in FOLDERS:
        (results / folder).mkdir(parents=True, exist_ok=True)
    # A name of its own, since several runs may begin on one store at the same moment.
    with tempfile.NamedTemporaryFile(dir=results / "locks", prefix="probe."):
        pass


def append(results: Path, cell: Cell, records: Iterable[Record], timing: Timing | None = None) -> None:
    """Add tasks to a cell's file; a task that is there already stays as it is. Safe among processes."""
    with _locked(results, cell):
        kept = {record.task: record for record in stored(results, cell)}
        merged = {record.task: record for record in records} | kept
        header = {"schema": SCHEMA, "cell": asdict(_known(results, cell))}
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
            {"schema": SCHEMA, "audit": asdict(header)},
            *(_measures_line(merged[task]) for task in sorted(merged)),
        ]
        _replace(path, _lines(lines))
        if timing is not None:
            _add_timing(results, audit, timing)


def audited(results: Path, audit: Audit) -> list[Measures]:
    """Return the tasks of an audit in order; none if it has not run."""
    path = _path(results, "audits", audit)
    return _read_audit(path)[1] if path.exists() else []


def fail_audit(results: Path, audit: Audit, reason: str) -> None:
    """Record that an audit failed, and why; tasks that ran before stay."""
    with _locked(results, audit):
        line = {"schema": SCHEMA, "audit": asdict(audit), "reason": reason}
        _replace(_path(results, "audits", audit).with_suffix(".json"), _lines([line]))


def clear_audit_failure(results: Path, audit: Audit) -> None:
    """Forget an earlier failure of an audit that has now run."""
    path = _path(results, "audits", audit).with_suffix(".json")
    if path.exists():
        with _locked(results, audit):
            path.unlink(missing_ok=True)


def stored(results: Path, cell: Cell) -> list[Record]:
    """Return the records of a cell in task order; none if it has not run."""
    path = _path(results, "cells", cell)
    return _read_cell(path)[1] if path.exists() else []


def cells(results: Path) -> dict[str, Cell]:
    """Return every cell that has a file, by key; none where there is no store yet."""
    found = {}
    for path in sorted((results / "cells").glob("*.jsonl")):
        with path.open(encoding="utf-8", errors="replace") as file, _naming(path, 1):
            found[path.stem] = _cell(json.loads(file.readline()), path)
    return found


def fail(results: Path, cell: Cell, reason: str) -> None:
    """Record that a cell failed, and why; tasks that ran before stay."""
    with _locked(results, cell):
        line = {"schema": SCHEMA, "cell": asdict(cell), "reason": reason}
        _replace(_path(results, "errors", cell), _lines([line]))


def clear_failure(results: Path, cell: Cell) -> None:
    """Forget an earlier failure of a cell that has now run."""
    if _path(results, "errors", cell).exists():
        with _locked(results, cell):
            _path(results, "errors", cell).unlink(missing_ok=True)


def save_gallery(results: Path, cell: Cell, arrays: dict[str, np.ndarray]) -> None:
    """Keep a few attacked queries of a cell: clean, adversarial, labels and the two predictions."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    with _locked(results, cell):
        _replace(_path(results, "gallery", cell), buffer.getvalue())


def read(results: Path) -> Results:
    """Read a whole results folder into three tables, ordered by what the cells are; one without audits has none.

    Raises InputError naming the file and line that cannot be read, NewerSchema for a later version's store.
    """
    if not (results / "cells").is_dir():
        raise InputError(f"results: {results} holds no results (no folder cells/); `rbm evaluate --out` makes one")
    failures = {path.stem: _read_failure(path) for path in sorted((results / "errors").glob("*.json"))}
    cells = {name: cell for name, (cell, _) in failures.items()}
    rows: list[dict[str, Any]] = []
    for path in sorted((results / "cells").glob("*.jsonl")):
        cells[path.stem], records = _read_cell(path)
        rows += [_task_row(path.stem, record) for record in records]
    table = [
        _cell_row(name, cell, failures[name][1] if name in failures else "", _seconds(results, name))
        for name, cell in sorted(cells.items(), key=lambda item: (_order(item[1]), item[0]))
    ]
    frame = pd.DataFrame(table, columns=list(_CELL_COLUMNS)).astype(_CELL_COLUMNS)
    tasks = pd.DataFrame(rows, columns=list(_TASK_COLUMNS)).astype(_TASK_COLUMNS)
    return Results(frame, tasks, _audit_table(_audit_rows(results)))


def read_gallery(results: Path) -> list[dict[str, Any]]:
    """Read every saved picture set: the file's arrays, with the key, title, attack and eps of its cell."""
    known, found = cells(results), []
    for path in sorted((results / "gallery").glob("*.npz")):
        if (cell := known.get(path.stem)) is None:
            continue
        steps = "" if cell.steps is None else f", {cell.steps} steps"
        threat = f"{cell.attack}, {cell.threat.norm} {cell.threat.eps:.4g}"
        about = {"title": f"{cell.checkpoint}, {cell.spec.shots}-shot{steps}: {threat}", "attack": cell.attack}
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found.append({"key": path.stem, **about, "eps": cell.threat.eps, **arrays})
        except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as broken:
            raise InputError(f"results: {path} is not a readable gallery file ({broken})") from None
    return found


def seconds_per_task(results: Path) -> dict[str, float]:
    """Say what one task of each timed cell took, by key."""
    found = {}
    for path in sorted((results / "timings").glob("*.jsonl")):
        lines = _timings(path)
        tasks = sum(len(line["tasks"]) for line in lines)
        if tasks:
            found[path.stem] = sum(line["seconds"] for line in lines) / tasks
    return found


_CELL_COLUMNS = {
    **dict.fromkeys(
        ("key", "checkpoint", "weights", "algorithm", "defense", "norm_mode", "family", "episodes", "split"), "object"
    ),
    **dict.fromkeys(("ways", "shots", "queries"), "int64"),
    "steps": "Int64",
    **dict.fromkeys(("attack", "attack_fields", "surface", "norm"), "object"),
    "eps": "float64",
    "seed": "int64",
    "status": "object",
    "reason": "object",
    "seconds": "float64",
}
_TASK_COLUMNS = {
    "key": "object",
    "task": "int64",
    "clean": "object",
    "survived": "object",
    "distance": "float64",
    "forwards": "int64",
    "backwards": "int64",
}
_AUDIT_COLUMNS = {
    **{name: kind for name, kind in _CELL_COLUMNS.items() if name not in ("attack", "attack_fields", "surface")},
    "version": "int64",
    "task": "Int64",
    "measures": "object",
}
del _AUDIT_COLUMNS["seconds"]


def _audit_rows(results: Path) -> list[dict[str, Any]]:
    """Give a row for every audited task, and one without a task for every audit that failed."""
    rows = []
    for path in sorted((results / "audits").glob("*.jsonl")):
        audit, found = _read_audit(path)
        rows += [_audit_row(path.stem, audit) | {"task": one.task, "measures": one} for one in found]
    for path in sorted((results / "audits").glob("*.json")):
        with _naming(path, 1):
            line = json.loads(path.read_text(encoding="utf-8", errors="replace"))
            rows.append(_audit_row(path.stem, _audit(line, path)) | {"status": "error", "reason": str(line["reason"])})
    return rows


def _audit_row(name: str, audit: Audit) -> dict[str, Any]:
    fields = asdict(audit)
    row = {"key": name, **fields.pop("spec"), **fields, "status": "ok", "reason": "", "task": pd.NA, "measures": None}
    row["steps"] = pd.NA if audit.steps is None else audit.steps
    return {column: row[column] for column in _AUDIT_COLUMNS}


def _audit_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(_AUDIT_COLUMNS)).astype(_AUDIT_COLUMNS)


def _cell_row(name: str, cell: Cell, reason: str, seconds: float) -> dict[str, Any]:
    fields = asdict(cell)
    spec, threat = fields.pop("spec"), fields.pop("threat")
    row = {"key": name, **fields, **spec, **threat, "seconds": seconds}
    row["steps"] = pd.NA if cell.steps is None else cell.steps
    row["status"], row["reason"] = ("error", reason) if reason else ("ok", "")
    return {column: row[column] for column in _CELL_COLUMNS}


def _order(cell: Cell) -> tuple[Any, ...]:
    steps = -1 if cell.steps is None else cell.steps
    place = (cell.family, cell.split, cell.spec.ways, cell.spec.shots, cell.spec.queries, steps)
    return (cell.checkpoint, *place, cell.threat.surface, cell.threat.norm, cell.threat.eps, cell.attack, cell.seed)


def _task_row(name: str, record: Record) -> dict[str, Any]:
    return {"key": name, **_line(record)}


def _line(record: Record) -> dict[str, Any]:
    return {**asdict(record), "clean": _bits(record.clean), "survived": _bits(record.survived)}


def _bits(values: Sequence[bool]) -> str:
    return "".join("1" if value else "0" for value in values)


def _measures_line(one: Measures) -> dict[str, Any]:
    bits = {name: {run: _bits(values) for run, values in getattr(one, name).items()} for name in ("survived", "flat")}
    return {**asdict(one), "clean": _bits(one.clean), **bits}


def _measures(line: dict[str, Any]) -> Measures:
    every = [line["clean"], *line["survived"].values(), *line["flat"].values()]
    if (
        not line["clean"]
        or {len(bits) for bits in every} != {len(line["predictions"])}
        or set("".join(every)) - {*"01"}
    ):
        raise ValueError("clean, survived, flat and predictions are not of one length, or not bits")
    if not all(isinstance(value, int) and value >= 0 for value in (line["task"], *line["predictions"])):
        raise ValueError("task and predictions are not whole numbers")
    if not all(isinstance(line[name], float) for name in ("repeat", "alone")):
        raise ValueError("repeat and alone are not numbers")
    bits = {
        name: {run: tuple(bit == "1" for bit in text) for run, text in line[name].items()}
        for name in ("survived", "flat")
    }
    clean = tuple(bit == "1" for bit in line["clean"])
    return Measures(**{**line, **bits, "clean": clean, "predictions": tuple(line["predictions"])})


def _record(line: dict[str, Any]) -> Record:
    clean, survived = line["clean"], line["survived"]
    if not clean or len(clean) != len(survived) or set(clean + survived) - {"0", "1"}:
        raise ValueError("clean and survived are not bits of one length")
    if not all(isinstance(line[name], int) for name in ("task", "forwards", "backwards")):
        raise ValueError("task, forwards and backwards are not whole numbers")
    bits = {"clean": tuple(bit == "1" for bit in clean), "survived": tuple(bit == "1" for bit in survived)}
    return Record(**{**line, **bits})


def _read_cell(path: Path) -> tuple[Cell, list[Record]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    with _naming(path, 1):
        cell = _cell(json.loads(lines[0]), path)
    records = []
    for number, line in enumerate(lines[1:], start=2):
        with _naming(path, number):
            records.append(_record(json.loads(line, parse_constant=_no_constant)))
    if [r.task for r in records] != sorted({r.task for r in records}):
        raise InputError(f"results: {path} does not hold each task once and in order; remove it and run again")
    return cell, records


def _read_audit(path: Path) -> tuple[Audit, list[Measures]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    with _naming(path, 1):
        audit = _audit(json.loads(lines[0]), path)
    found = []
    for number, line in enumerate(lines[1:], start=2):
        with _naming(path, number):
            found.append(_measures(json.loads(line, parse_constant=_no_constant)))
    if [one.task for one in found] != sorted({one.task for one in found}):
        raise InputError(f"results: {path} does not hold each task once and in order; remove it and run again")
    return audit, found


def _audit(line: dict[str, Any], path: Path) -> Audit:
    _check_schema(line, path)
    audit = Audit(**{**line["audit"], "spec": Spec(**line["audit"]["spec"])})
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
        line = json.loads(path.read_text(encoding="utf-8", errors="replace"))
        return _cell(line, path), str(line["reason"])


def _cell(line: dict[str, Any], path: Path) -> Cell:
    _check_schema(line, path)
    fields = dict(line["cell"])
    cell = Cell(**{**fields, "spec": Spec(**fields["spec"]), "threat": Threat(**fields["threat"])})
    if key(cell) != path.stem:
        raise ValueError("the cell in it does not belong to the file's name")
    return cell


def _known(results: Path, cell: Cell) -> Cell:
    """Keep the header that a cell's file has, so that adding tasks leaves every earlier byte in place."""
    path = _path(results, "cells", cell)
    return _read_cell(path)[0] if path.exists() else cell


def _add_timing(results: Path, cell: Cell | Audit, timing: Timing) -> None:
    path = _path(results, "timings", cell)
    before = path.read_bytes() if path.exists() else b""
    _replace(path, before + _lines([asdict(timing)]))


def _timings(path: Path) -> list[dict[str, Any]]:
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        with _naming(path, number):
            lines.append(json.loads(line))
    return lines


def _seconds(results: Path, name: str) -> float:
    path = results / "timings" / f"{name}.jsonl"
    return sum(line["seconds"] for line in _timings(path)) if path.exists() else float("nan")


@contextmanager
def _naming(path: Path, number: int) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as broken:
        reason = f"{type(broken).__name__}: {broken}".splitlines()[0][:120]
        raise InputError(f"results: {path}, line {number}, is broken ({reason}); remove it and run again") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _path(results: Path, folder: str, cell: Cell | Audit) -> Path:
    return results / folder / f"{key(cell)}{_SUFFIXES[folder]}"


_SUFFIXES = {"cells": ".jsonl", "timings": ".jsonl", "errors": ".json", "gallery": ".npz"}
_SUFFIXES |= {"audits": ".jsonl", "locks": ".lock"}


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
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def _dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def _lines(values: Sequence[Any]) -> bytes:
    return "".join(f"{_dumps(value)}\n" for value in values).encode()
