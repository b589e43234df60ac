"""What every entry of every board withstood, from the bits a store holds: verdicts per query, and who they belong to.

A board is a set of entries met by the same episodes under the same threat; an entry is one row of it: a
checkpoint at one number of adaptation steps. An outcome is what one entry withstood at one eps.
Shapes: n tasks, Q judged queries in a task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NoReturn, Protocol, TypeVar

import numpy as np
import pandas as pd

from robustbench_meta import flags as signs
from robustbench_meta import untrusted
from robustbench_meta.flags import Flag
from robustbench_meta.intervals import arm, interval, spanning

Kind = Literal["clean", "robust", "known"]
_Key = TypeVar("_Key", bound=Hashable)
SET = "FromFile(sha256="  # how the fields of an attack begin that gives back another learner's adversarial examples
BLACK_BOX = "(black-box)"  # how the algorithm of a learner ends that gradients do not reach
CLEAR, NOT_AUDITED, AUDIT_FAILED = "none", "not audited", "audit failed"


class Results(Protocol):
    """What a store reads: one row per cell, per cell and task, and per audit and task."""

    @property
    def cells(self) -> pd.DataFrame: ...

    @property
    def tasks(self) -> pd.DataFrame: ...

    @property
    def audits(self) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Board:
    """Which episodes and which threat a set of entries shares, eps apart."""

    surface: str
    track: str  # "inductive" or "transductive"
    family: str
    episodes: str
    split: str
    ways: int
    shots: int
    queries: int
    norm: str
    seed: int
    fraction: float = 1.0  # of each class that a poisoner of the support reaches
    whole: bool = False  # whether its learners write, and a query is right by all tokens of its target

    @property
    def constant(self) -> float:
        """The accuracy, clean and robust, of a predictor that always gives one class; 0 where it acts or writes."""
        return 0.0 if self.whole or self.surface == "rollout" else 1 / self.ways

    @property
    def constant_text(self) -> str:
        """How that accuracy is written where it is drawn."""
        return "1/K" if self.constant else "0"

    @property
    def corrupted(self) -> bool:
        """Whether no adversary acts on it, but corruptions of five severities."""
        return is_corruption(self.norm)

    @property
    def budget(self) -> str:
        """What an eps is called here."""
        return "severity" if self.corrupted else "ε"

    def at(self, eps: float) -> str:
        """Write an eps in a sentence: ε = 8/255, severity 5."""
        return f"severity {eps_text(eps)}" if self.corrupted else f"ε = {eps_text(eps)}"


@dataclass(frozen=True)
class Entry:
    """One row of a board; `steps` is None where adaptation has none."""

    checkpoint: str
    weights: str
    algorithm: str
    defense: str
    norm_mode: str
    steps: int | None

    @property
    def black_box(self) -> bool:
        return self.algorithm.endswith(BLACK_BOX)


@dataclass(frozen=True, eq=False)
class Bits:
    """The verdicts of one cell, in task order: tasks [n], clean and survived [n, Q], rows sent [n].

    What survived was right when clean; under a corruption it is whatever is right, so that its mean is the accuracy.
    Those of several training `seeds` stand side by side, Q for each.
    """

    tasks: np.ndarray
    clean: np.ndarray
    survived: np.ndarray
    forwards: np.ndarray
    backwards: np.ndarray
    seeds: int = 1

    def sample(self, kind: Literal["clean", "survived"]) -> np.ndarray:
        """Return accuracies by seed and task [R, n], or their mean [1, n] where seeds are too few for a method."""
        bits: np.ndarray = getattr(self, kind)
        return arm(bits.reshape(len(bits), self.seeds, -1).mean(2).T)

    def accuracy(self, kind: Literal["clean", "survived"] = "survived") -> tuple[float, float]:
        """Return the mean accuracy and its half-width."""
        return spanning(self.sample(kind))

    def at(self, tasks: np.ndarray) -> np.ndarray:
        """Find the rows of `tasks`; every one of them must be there."""
        return np.searchsorted(self.tasks, tasks)


@dataclass(frozen=True)
class Check:
    """What speaks against an entry's numbers, and whether it was looked for: an audit of `audited` tasks, 0 for none.

    `failure` says why an audit could not run, `lacks` what the audit has not seen of what was run, `left_out` what was
    not asked of such learners, and why, and `unasked` names the flags that therefore nothing could have raised.
    """

    flags: tuple[Flag, ...] = ()
    audited: int = 0
    failure: str = ""
    lacks: str = ""
    left_out: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()

    @property
    def red(self) -> list[Flag]:
        return signs.red(self.flags)

    @property
    def text(self) -> str:
        """Write the codes, and what was not looked at: "F3 F6", "none", "none; F13 not asked", "F9, not audited"."""
        state = AUDIT_FAILED if self.failure else self.lacks if self.audited else NOT_AUDITED
        found = signs.codes(self.flags)
        if not found and self.audited and not state:
            few = f"{CLEAR} in {self.audited} task{'s' if self.audited > 1 else ''}"
            found = CLEAR if self.audited >= signs.LEAST_TASKS else few
        text = ", ".join(filter(None, [found, state]))
        return f"{text}; {' '.join(self.unasked)} not asked" if self.audited and self.unasked else text

    @property
    def reason(self) -> str:
        """Say in numbers why the entry has no rank; empty if nothing here forbids one."""
        failed = [f"{AUDIT_FAILED}: {self.failure}"] if self.failure else []
        return "; ".join(failed + [f"flagged: {flag.text}" for flag in self.red])


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one entry withstood at one eps, on the tasks on which every attack of `runs` ran.

    `clean`, `robust` and `known` are accuracies per task [n]: `robust` is the worst case of our own attacks, `known`
    the best known one, which counts the examples of others, too, on the tasks that they cover; `external` says whose.
    `required` is what any white-box entry of the board met at this eps; `runs` holds the verdicts by attack, `errors`
    (attack, reason). `check` is the entry's flags, with what this eps adds. `transferred` names the attacks that are
    adversarial test sets and of no such claim: nobody needs them, and they are no part of either worst case, or
    whoever met more of them would rank lower. `seeds` are the outcomes that this one is the mean of, where training
    seeds of one recipe share a row (see methods.py).
    """

    board: Board
    entry: Entry
    eps: float
    required: tuple[str, ...]
    runs: dict[str, Bits]
    errors: tuple[tuple[str, str], ...]
    check: Check
    tasks: np.ndarray
    clean: np.ndarray
    robust: np.ndarray
    known: np.ndarray
    transferred: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    claimed: tuple[str, ...] = ()
    seeds: tuple[Outcome, ...] = ()

    def by_seed(self, kind: Kind) -> np.ndarray:
        """Return accuracies by training seed and task [R, n]."""
        made: np.ndarray = np.stack(
            [getattr(one, kind)[np.searchsorted(one.tasks, self.tasks)] for one in self.seeds or (self,)]
        )
        return made

    def sample(self, kind: Kind) -> np.ndarray:
        """Return accuracies by seed and task [R, n], or their mean [1, n] where seeds are too few for a method."""
        return arm(self.by_seed(kind))

    def accuracy(self, kind: Kind) -> tuple[float, float]:
        """Return the mean accuracy and its half-width: over tasks, and over training seeds where it is a method's."""
        return spanning(self.sample(kind))

    @property
    def attacked(self) -> bool:
        """Whether an attack of its own was run, not examples that were brought along alone."""
        return bool({*self.own, *(attack for attack, _ in self.errors)} - {*self.transferred})

    @property
    def ran(self) -> tuple[str, ...]:
        return tuple(sorted(self.runs))

    @property
    def own(self) -> tuple[str, ...]:
        """The attacks that ran on this entry itself: neither transferred nor brought from outside."""
        return tuple(attack for attack in self.ran if attack not in {*self.transferred, *self.claimed})

    @property
    def missing(self) -> tuple[str, ...]:
        """The required attacks that this entry never met."""
        seen = {*self.ran, *(attack for attack, _ in self.errors)}
        return tuple(attack for attack in self.required if attack not in seen)

    @property
    def complete(self) -> bool:
        return not self.missing and not self.errors and len(self.tasks) > 0


def eps_text(eps: float) -> str:
    """Write a budget the way papers do: 8/255 where it is a whole number of grey levels, else decimals.

    0.2, which is 51/255, too, is not meant as so many levels: what one decimal says is written by one.
    """
    levels = eps * 255
    if 0 < eps < 1 and abs(levels - round(levels)) < 1e-4 and round(levels) and abs(10 * eps - round(10 * eps)) > 1e-6:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def cards(results: Results) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Give what is kept of each learner with its card, where that is JSON that holds a recipe."""
    table = getattr(results, "learners", None)  # what was made by hand may have none
    for row in [] if table is None else table.to_dict("records"):
        try:
            card = untrusted.parse(row["card"]) if isinstance(row.get("card"), str) and row["card"] else {}
        except ValueError:
            continue
        if isinstance(card, dict) and isinstance(card.get("recipe"), dict):
            yield row, card


def outcomes(results: Results) -> list[Outcome]:
    """Return the worst case of every entry at every eps it met, board by board."""
    bits, found = bits_by_key(results), []
    # 8/255 and what a division elsewhere made of it are one budget.
    cells = [{**cell, "eps": round(cell["eps"], 9)} for cell in name_attacks(records(results.cells))]
    audits = _grouped(records(results.audits), _audit_identity)
    for board, here in sorted(_grouped(cells, board_of).items(), key=lambda item: board_order(item[0])):
        required: dict[float, set[str]] = {}
        for cell in here:
            if not entry_of(cell).black_box and _is_own(cell):
                required.setdefault(cell["eps"], set()).add(cell["attack"])
        for entry, mine in sorted(_grouped(here, entry_of).items(), key=lambda item: entry_order(item[0])):
            rows = audits.get(_identity(board, entry), []) if board.surface != "support" else []
            check = _check(board, entry, mine, bits, rows)
            for eps in sorted({cell["eps"] for cell in mine}):
                needed = tuple(sorted(required.get(eps, set())))
                found.append(_outcome(board, entry, eps, needed, mine, bits, check))
    return found


def is_object(algorithm: str) -> bool:
    """Say whether a learner is an object of somebody's program, of which there is no checkpoint and no card."""
    return algorithm in ("custom", f"custom {BLACK_BOX}")


def is_corruption(norm: str) -> bool:
    """Say whether a threat has no adversary: its eps is a severity, and what is right counts as it does when clean."""
    return norm == "corruption"


def is_set(attack_fields: str) -> bool:
    """Say whether an attack, by its configuration, gives back an adversarial test set."""
    return attack_fields.startswith(SET)


def attack_fields(results: Results) -> dict[str, str]:
    """Say how every attack was configured, by the name it has on the boards."""
    cells = name_attacks(records(results.cells))
    return dict(sorted({(cell["attack"], cell["attack_fields"]) for cell in cells}))


def cells_behind(results: Results) -> dict[tuple[Board, Entry, float, str], dict[str, Any]]:
    """Return the cell of every run, by board, entry, eps and the name that its attack has on the boards."""
    cells = records(results.cells)
    return {
        (board_of(cell), entry_of(cell), round(cell["eps"], 9), named["attack"]): cell
        for cell, named in zip(cells, name_attacks(cells), strict=True)
    }


def _outcome(
    board: Board,
    entry: Entry,
    eps: float,
    required: tuple[str, ...],
    mine: list[dict[str, Any]],
    bits: dict[str, Bits],
    check: Check,
) -> Outcome:
    here = [cell for cell in mine if cell["eps"] == eps]
    ran = [cell for cell in here if cell["status"] != "error" and cell["key"] in bits]
    # A cell without a single record has not run: it neither counts as an attack survived nor as an error.
    errors = tuple(
        (cell["attack"], str(cell["reason"])) for cell in here if cell["status"] == "error" and not cell["external"]
    )
    tasks = np.empty(0, int)
    clean = robust = known = np.empty(0)
    claims: list[dict[str, Any]] = []
    if ran:
        whole = [cell for cell in ran if _is_own(cell)] or [cell for cell in ran if not cell["external"]] or ran
        tasks = bits[whole[0]["key"]].tasks
        for cell in whole[1:]:
            tasks = np.intersect1d(tasks, bits[cell["key"]].tasks)
        lower = [cell for cell in mine if cell["eps"] <= eps and cell["key"] in bits]
        own = [bits[c["key"]] for c in lower if _is_own(c) or (c in whole and not c["external"])]
        claims = [c for c in lower if c["external"] and np.isin(tasks, bits[c["key"]].tasks).any()]
        first = bits[whole[0]["key"]]
        clean = first.clean[first.at(tasks)].mean(1)
        robust = stand(own, tasks).mean(1) if own else np.full(len(tasks), np.nan)
        known = stand([*own, *(bits[cell["key"]] for cell in claims)], tasks).mean(1)
        # Credit is due where examples fool what our attacks at this eps leave.
        claims = [cell for cell in claims if not own or _fools_more(bits[cell["key"]], own, tasks)]
    runs = {cell["attack"]: bits[cell["key"]] for cell in ran}
    collapsed = signs.at_chance(*interval(known), board.constant, len(known))
    check = replace(check, flags=signs.merge([*check.flags, *collapsed]))
    return Outcome(
        board=board,
        entry=entry,
        eps=eps,
        required=required,
        runs=runs,
        errors=errors,
        check=check,
        tasks=tasks,
        clean=clean,
        robust=robust,
        known=known,
        transferred=tuple(sorted(c["attack"] for c in here if is_set(c["attack_fields"]) and not c["external"])),
        external=tuple(sorted({cell["external"] for cell in claims})),
        claimed=tuple(sorted(cell["attack"] for cell in here if cell["external"])),
    )


def _fools_more(run: Bits, own: list[Bits], tasks: np.ndarray) -> bool:
    return bool((stand([*own, run], tasks) != stand(own, tasks)).any())


def _check(
    board: Board, entry: Entry, mine: list[dict[str, Any]], bits: dict[str, Bits], rows: list[dict[str, Any]]
) -> Check:
    """Gather the flags of an entry's cells and of its audit, the one at the largest eps if there are several."""
    runs = {(cell["attack"], cell["eps"]): bits[cell["key"]] for cell in mine if cell["key"] in bits}
    found = signs.of_cells(runs)
    bare = Check(
        tuple(signs.concluded(found, (), surface=board.surface)),
        left_out=signs.left_out((), surface=board.surface),
        unasked=signs.unasked((), surface=board.surface),
    )
    if not rows:
        return bare
    latest = max(rows, key=lambda row: (row["eps"], row["version"], row["key"]))
    last = latest["key"]
    measures = [row["measures"] for row in rows if row["key"] == last and row["measures"] is not None]
    failure = next((str(row["reason"]) for row in rows if row["key"] == last and row["status"] == "error"), "")
    raised = signs.concluded(found, measures, surface=board.surface)
    beside = {name: run for (name, at), run in runs.items() if round(at - latest["eps"], 9) == 0}
    about: dict[str, Any] = {"ways": board.ways, "surface": board.surface, "runs": beside}
    raised += signs.of_audit(measures, transductive=entry.norm_mode == "batch", **about)
    if measures:
        audited = _Audited(*(np.array([getattr(one, name) for one in measures]) for name in ("task", "clean")))
        if not measures[0].steps:
            raised += [flag for run in runs.values() for flag in signs.reproduced(run, audited)]
        eps, seen = max(cell["eps"] for cell in mine), set().union(*(run.tasks.tolist() for run in runs.values()))
        lacks = f"audited up to {eps_text(latest['eps'])}" if round(latest["eps"], 9) < eps else ""
        if len(measures) < signs.audited_tasks(len(seen)):
            lacks = f"{len(measures)} of {signs.audited_tasks(len(seen))} tasks audited"
        left_out = signs.left_out(measures, surface=board.surface)
        unasked = signs.unasked(measures, surface=board.surface)
        return Check(signs.merge(raised), len(measures), failure, lacks, left_out, unasked)
    return replace(bare, failure=failure)


@dataclass(frozen=True, eq=False)
class _Audited:
    """The clean verdicts of an audit, in task order: tasks [n], clean [n, Q]."""

    tasks: np.ndarray
    clean: np.ndarray

    @property
    def survived(self) -> np.ndarray:
        return self.clean


def _identity(board: Board, entry: Entry) -> tuple[Any, ...]:
    """Say what an audit and its entry share, whatever the display name was."""
    here = {**fields_of(board), **fields_of(entry)}
    return tuple(value for name, value in here.items() if name not in _NOT_OF_AUDITS)


def _audit_identity(row: dict[str, Any]) -> tuple[Any, ...]:
    names = [*field_names(Board), *field_names(Entry)]
    return tuple(row[name] for name in names if name not in _NOT_OF_AUDITS)


_NOT_OF_AUDITS = ("fraction", "whole", "checkpoint")


def _grouped(rows: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], _Key]) -> dict[_Key, list[dict[str, Any]]]:
    found: dict[_Key, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _is_own(cell: dict[str, Any]) -> bool:
    """Say whether a cell is an attack on its own learner by us, one that every entry of a board has to meet."""
    return not cell["external"] and not is_set(cell["attack_fields"])


def stand(runs: Iterable[Bits], tasks: np.ndarray) -> np.ndarray:
    """Return which queries are right when clean and in every run [n, Q]; a run without a task says nothing about it."""
    standing: np.ndarray | None = None
    for run in runs:
        at = np.minimum(run.at(tasks), len(run.tasks) - 1)
        rows = run.tasks[at] == tasks
        if standing is None:
            standing = np.ones((len(tasks), run.survived.shape[1]), bool)
        if run.survived.shape[1] != standing.shape[1]:
            _refuse(f"results: one entry has {standing.shape[1]} and {run.survived.shape[1]} judged queries in a task")
        standing[rows] &= run.clean[at[rows]] & run.survived[at[rows]]
    assert standing is not None
    return standing


def records(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the cells as dictionaries, `steps` an int or None."""
    rows: list[dict[str, Any]] = []
    for row in cells.to_dict("records"):
        cell = {str(name): value for name, value in row.items()}
        cell["steps"] = None if pd.isna(cell["steps"]) else int(cell["steps"])
        claim = cell.get("external")  # whose examples these are; a store that knows of none has no such column
        cell["external"] = claim if isinstance(claim, str) else ""
        cell["track"] = "transductive" if cell["norm_mode"] == "batch" else "inductive"
        rows.append(cell)
    return rows


def bits_by_key(results: Results) -> dict[str, Bits]:
    """Turn bit strings into arrays, by cell key; a query that is wrong when clean never counts as robust.

    Under a corruption it may be right all the same, and counts as right there, as in the literature.
    """
    found, tasks = {}, results.tasks
    corrupted = {
        cell["key"] for cell in results.cells[["key", "norm"]].to_dict("records") if is_corruption(cell["norm"])
    }
    # Plain lists and arrays, since a frame of its own for each of thousands of cells takes seconds.
    columns = {name: tasks[name].to_numpy() for name in ("task", "clean", "survived", "forwards", "backwards")}
    for key, places in tasks.groupby("key", sort=False).indices.items():
        rows = np.asarray(places)[np.argsort(columns["task"][places], kind="stable")]
        clean, survived = (_matrix(columns[name][rows].tolist(), str(key)) for name in ("clean", "survived"))
        if clean.shape != survived.shape:
            _refuse(f"results: cell {key}: clean and survived bits differ in length")
        sent = (columns["forwards"][rows], columns["backwards"][rows])
        survived = survived if key in corrupted else clean & survived
        found[str(key)] = Bits(columns["task"][rows], clean, survived, *sent)
    return found


def _matrix(strings: list[str], key: str) -> np.ndarray:
    lengths = {len(text) for text in strings}
    joined = np.frombuffer("".join(strings).encode(), np.uint8)
    if len(lengths) != 1 or not joined.size or not np.isin(joined, (48, 49)).all():
        _refuse(f"results: cell {key}: verdicts are not bits of one length")
    return joined.reshape(len(strings), -1) == 49


def name_attacks(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tell apart attacks that share a name and not their settings, by a hash of the settings."""
    settings: dict[str, set[str]] = {}
    for cell in cells:
        settings.setdefault(cell["attack"], set()).add(cell["attack_fields"])

    def name(cell: dict[str, Any]) -> str:
        if len(settings[cell["attack"]]) == 1:
            return str(cell["attack"])
        fields = cell["attack_fields"].encode("utf-8", "backslashreplace")
        return f"{cell['attack']} #{hashlib.sha256(fields).hexdigest()[:6]}"

    return [{**cell, "attack": name(cell)} for cell in cells]


def board_of(cell: dict[str, Any]) -> Board:
    return Board(**{name: cell[name] for name in field_names(Board)})


def entry_of(cell: dict[str, Any]) -> Entry:
    return Entry(**{name: cell[name] for name in field_names(Entry)})


def board_order(board: Board) -> tuple[Any, ...]:
    return (board.surface != "query", board.corrupted, board.track, *asdict(board).values())


def entry_order(entry: Entry) -> tuple[Any, ...]:
    steps = -1 if entry.steps is None else entry.steps
    return (entry.checkpoint, entry.weights, entry.algorithm, entry.defense, entry.norm_mode, steps)


def fields_of(noun: Board | Entry) -> dict[str, Any]:
    return {name: getattr(noun, name) for name in field_names(type(noun))}


def field_names(noun: type[Board | Entry]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(noun))


def _refuse(message: str) -> NoReturn:
    # Imported here because the vocabulary needs torch, which a report otherwise does without.
    from robustbench_meta.types import InputError

    raise InputError(message)
