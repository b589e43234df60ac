"""One JSON per learner: everything that was measured of it, and back to the tables that every page is made from.

An entry holds verdicts, not means, so that a board can be ranked, paired and checked again from its files alone. The
same entry is the same bytes: names sorted, one line for each task. tracks.py says which entries belong on a board.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    model_serializer,
    model_validator,
)

from robustbench_meta import checkpoint, store, untrusted
from robustbench_meta.checkpoint import Card, first_problem
from robustbench_meta.flags import Measures
from robustbench_meta.outcomes import is_object
from robustbench_meta.store import Examination, Run, Timing
from robustbench_meta.types import Audit, Cell, InputError, Norm, Record, Spec, Split, Surface, Threat

_Model = TypeVar("_Model", bound=BaseModel)

SCHEMA = 1
ENTRIES, SCHEMA_FILE, EXTERNAL_FILE = "entries", "entry.schema.json", "external.json"
LARGEST_ENTRY, LARGEST_EXTERNAL = 2**26, 2**24  # bytes
MOST_ENTRIES = 10_000
_ARXIV = r"arXiv:[0-9]{4}\.[0-9]{4,5}(v[0-9]{1,2})?"
_HTTPS = r"https://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?(/[A-Za-z0-9._~:/?#@!$&()*+,;=%-]{0,500})?"
_VISIBLE = r"^[^\x00-\x1f\x7f-\x9f]*$"  # what JSON schema can say of it; isprintable() says it whole
_TASKS = r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"


def _visible(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that no screen shows as they are")
    return text


Sha = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Hex = Annotated[str, Field(pattern="^[0-9a-f]+$", max_length=250_000, description="bits, the first one leftmost")]
Name = Annotated[str, Field(pattern=_VISIBLE, min_length=1, max_length=200), AfterValidator(_visible)]
Text = Annotated[str, Field(pattern=_VISIBLE, max_length=2_000), AfterValidator(_visible)]
Settings = Annotated[str, Field(pattern=_VISIBLE, max_length=20_000), AfterValidator(_visible)]
Person = Annotated[str, Field(pattern=r"^[^@\x00-\x1f\x7f-\x9f]+$", max_length=100), AfterValidator(_visible)]
Link = Annotated[str, Field(pattern=f"^({_HTTPS})?$", max_length=800)]
Paper = Annotated[str, Field(pattern=f"^({_ARXIV}|{_HTTPS})?$", max_length=800)]
License = Annotated[str, Field(pattern="^[A-Za-z0-9.+ ()-]{0,60}$", description="as SPDX writes it, or nothing")]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Small = Annotated[int, Field(ge=1, le=1000)]
Distance = Annotated[float, Field(ge=0)]
TaskRow = tuple[Count, Hex, Hex, Distance, Count, Count]  # task, clean, survived, distance, forwards, backwards
Beside = Literal[
    "clean_return", "attacked_return", "clean_tokens", "attacked_tokens", "clean_chrf", "attacked_chrf"
]  # as Record has them
TimedRow = tuple[
    Annotated[str, Field(pattern=_TASKS, max_length=10_000)], Distance, Name, Small, Name, Small
]  # as Timing has them


class Strict(BaseModel):
    """Nothing is converted, nothing unknown is taken, no number is infinite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Grown(Strict):
    """Leaves `later` fields untold where they have their defaults, so that older entries stay as they are."""

    later: ClassVar[tuple[str, ...]]

    @model_serializer(mode="wrap")
    def _told(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        plain = {name for name in self.later if getattr(self, name) == fields[name].default}
        return {name: value for name, value in written(self).items() if name not in plain}


class SpecFields(Strict):
    ways: int = Field(ge=2, le=1000)
    shots: Small
    queries: Small
    proxies: int = Field(0, ge=0, le=1000)


class ThreatFields(Grown):
    later: ClassVar[tuple[str, ...]] = ("fraction",)

    norm: Norm
    eps: float = Field(ge=0, le=1e6)
    surface: Surface
    fraction: float = Field(1.0, gt=0, le=1, description="of each class of a poisoned support")


class CellFields(Strict):
    """A cell as types.py has it."""

    checkpoint: Name
    weights: Sha
    algorithm: Name
    defense: Name
    norm_mode: Name
    family: Name
    episodes: Sha
    split: Split
    spec: SpecFields
    steps: Small | None
    attack: Annotated[Text, Field(min_length=1)]
    attack_fields: Settings
    threat: ThreatFields
    seed: Count

    def noun(self) -> Cell:
        given = self.model_dump()
        return Cell(**{**given, "spec": Spec(**given["spec"]), "threat": Threat(**given["threat"])})


class AuditFields(Grown):
    """An audit as types.py has it."""

    later: ClassVar[tuple[str, ...]] = ("surface",)

    checkpoint: Name
    weights: Sha
    algorithm: Name
    defense: Name
    norm_mode: Name
    family: Name
    episodes: Sha
    split: Split
    spec: SpecFields
    steps: Small | None
    norm: Norm
    eps: float = Field(ge=0, le=1e6)
    seed: Count
    version: int = Field(ge=1, le=1000)
    surface: Literal["query", "rollout", "sequence"] = "query"

    def noun(self) -> Audit:
        given = self.model_dump()
        return Audit(**{**given, "spec": Spec(**given["spec"])})


class Credit(Strict):
    """Who made the examples of a cell that is not our own attack's, and what they said it leaves."""

    authors: Person
    attack: Name
    paper: Paper = ""
    code: Link = ""
    claimed: float = Field(ge=0, le=1, description="robust accuracy as claimed; the board shows what we measured")
    set_sha256: Sha

    @property
    def text(self) -> str:
        return f"{self.authors}, {self.attack}"


class EntryCell(Grown):
    """A cell with a row for each task, and why it failed where it did."""

    later: ClassVar[tuple[str, ...]] = ("beside",)

    cell: CellFields
    error: Text = ""
    external: Credit | None = None
    ran: tuple[TimedRow, ...] = Field(
        (), max_length=20_000, description="tasks, seconds, device, threads, backend, chunk"
    )
    tasks: tuple[TaskRow, ...] = Field(
        (), max_length=100_000, description="task, clean, survived, distance, forwards, backwards"
    )
    beside: dict[Beside, Annotated[tuple[float | None, ...], Field(max_length=100_000)]] = Field(
        {}, description="of rollouts and sequences, what else was measured of each task"
    )

    @model_validator(mode="after")
    def _of_each_task(self) -> EntryCell:
        for name, values in self.beside.items():
            if len(values) != len(self.tasks):
                raise ValueError(f"beside: {name} has {len(values)} numbers for {len(self.tasks)} tasks")
        return self


class MeasuresFields(Grown):
    """What an audit saw of one task, as flags.py has it."""

    later: ClassVar[tuple[str, ...]] = ("steps",)

    task: Count
    clean: Hex
    predictions: tuple[Count, ...] = Field(max_length=1_000_000)
    survived: dict[Name, Hex] = Field(max_length=100)
    flat: dict[Name, Hex] = Field(max_length=100)
    repeat: Distance
    alone: Distance
    probabilities: bool
    autograd: bool
    steps: tuple[Count, ...] = Field((), max_length=1_000_000)


class EntryAudit(Strict):
    """An audit with what it saw of each task, and why it failed where it did."""

    audit: AuditFields
    error: Text = ""
    ran: tuple[TimedRow, ...] = Field((), max_length=20_000)
    tasks: tuple[MeasuresFields, ...] = Field((), max_length=100_000)


class About(Strict):
    """Who made a learner, and where to read more; no addresses of people."""

    authors: tuple[Person, ...] = Field((), max_length=50)
    paper: Paper = Field("", description="an https address, or arXiv:2010.09670")
    code: Link = Field("", description="an https address")
    license: License = ""


class Entry(Strict):
    """Everything that a board knows of one learner."""

    schema_version: int = Field(SCHEMA, ge=1, le=SCHEMA)
    name: Name
    weights: Sha = Field(description="of the weights and the recipe, as cells know a learner")
    card: Card | None = Field(None, description="a checkpoint's; an object of somebody's program has none")
    about: About = About()
    rbm: Name = Field(description="the version that wrote the newest part")
    cells: tuple[EntryCell, ...] = Field(min_length=1, max_length=10_000)
    audits: tuple[EntryAudit, ...] = Field((), max_length=10_000)
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$", description="of all the rest, as compact sorted JSON")

    @field_serializer("card")
    def _told(self, card: Card | None) -> dict[str, Any] | None:
        """Leave out what is null, so that a field which a later version adds changes no entry that lacks it."""
        return None if card is None else card.model_dump(mode="json", exclude_none=True)

    @property
    def file(self) -> str:
        """The name of its file, which shows the learner and cannot be that of another one."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:60]
        return f"{plain or 'learner'}-{self.weights[:8]}.json"

    @property
    def digest(self) -> str:
        return checkpoint.digest(self.model_dump(mode="json", exclude={"sha256"}))

    @property
    def runs(self) -> list[Run]:
        return [_run(one) for one in self.cells]

    @property
    def examinations(self) -> list[Examination]:
        return [_examination(one) for one in self.audits]


class Claim(Strict):
    """What somebody's own attack is said to leave of a learner, and where its examples lie."""

    weights: Sha
    family: Name
    split: Split
    spec: SpecFields
    steps: Small | None
    norm: Norm
    eps: float = Field(ge=0, le=1e6)
    surface: Literal["query"] = "query"
    seed: Count
    attack: Name
    authors: Person
    paper: Paper = ""
    code: Link = ""
    robust: float = Field(ge=0, le=1, description="robust accuracy over the tasks, rounded up")
    tasks: int = Field(ge=1, le=100_000)
    survived: tuple[Hex, ...] | None = Field(None, max_length=100_000, description="verdicts by task, if told")
    folder: str = Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*){0,8}$", max_length=300)
    set_sha256: Sha


class External(Strict):
    """external.json: claims about learners of a board, each with an adversarial set beside it."""

    schema_version: int = Field(SCHEMA, ge=1, le=SCHEMA)
    claims: tuple[Claim, ...] = Field(min_length=1, max_length=100)


def schema() -> bytes:
    """Return the JSON schema of an entry, with that of external.json among its definitions."""
    made = Entry.model_json_schema()
    other = External.model_json_schema(ref_template="#/$defs/{model}")
    made["$defs"] |= other.pop("$defs") | {"External": other}
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return f"{json.dumps(made, indent=1, sort_keys=True)}\n".encode()


def entry_of(
    runs: Iterable[Run], examinations: Iterable[Examination], *, card: Card | None, about: About, rbm: str
) -> Entry:
    """Put what was measured of one learner into an entry, digest and all; raise InputError where it cannot be one."""
    runs, examinations = list(runs), list(examinations)
    first = runs[0].cell
    # A display name is no part of what a cell is, and one learner is one row.
    name = untrusted.printable(min(run.cell.checkpoint for run in runs))
    cells = sorted((_entry_cell(run, name) for run in runs), key=lambda one: _place(one.cell.noun()))
    audits = sorted((_entry_audit(one, name) for one in examinations), key=lambda one: _place(one.audit.noun()))
    given = {"name": name, "weights": first.weights, "card": card, "about": about, "rbm": rbm}
    try:
        return sealed(Entry.model_validate({**given, "cells": tuple(cells), "audits": tuple(audits)}))
    except ValidationError as error:
        raise InputError(f"entry: {name}: {first_problem(error)}") from None


def entries_of(results: Path, cards: Mapping[str, Card], about: About, rbm: str) -> list[Entry]:
    """Make an entry of every learner in a results folder; `cards` adds what an older folder did not keep.

    Raises InputError where a checkpoint's card is neither kept nor given.
    """
    kept = {weights: checkpoint.parse_card(text.encode()) for weights, text in store.cards_of(results).items()}
    cards = {**cards, **kept}
    runs, examinations = store.runs(results), store.examinations(results)
    made = []
    for weights in sorted({run.cell.weights for run in runs}):
        mine = [run for run in runs if run.cell.weights == weights]
        card = cards.get(weights)
        if card is None and not is_object(mine[0].cell.algorithm):
            raise InputError(
                f"ckpt: {mine[0].cell.checkpoint} has no card in {results}/learners; give its folder by --ckpt"
            )
        own = [one for one in examinations if one.audit.weights == weights]
        made.append(entry_of(mine, own, card=card, about=about, rbm=rbm))
    return made


def merged(old: Entry, new: Entry, *, about: About | None = None) -> Entry:
    """Add to an entry what another one of the same learner holds; what is there stays, and is not lost.

    A cell that failed and has run since is no failure any more. The older name stays.
    """
    runs = {store.key(run.cell): run for run in old.runs}
    credits = {store.key(one.cell.noun()): one for one in (*old.cells, *new.cells)}
    for run in new.runs:
        key = store.key(run.cell)
        runs[key] = _both(runs[key], run) if key in runs else run
    audits = {store.key(one.audit): one for one in old.examinations}
    for examination in new.examinations:
        key = store.key(examination.audit)
        audits[key] = _both_audits(audits[key], examination) if key in audits else examination
    cells = [
        _entry_cell(run, old.name).model_copy(update={"external": credits[key].external}) for key, run in runs.items()
    ]
    examined = [_entry_audit(one, old.name) for one in audits.values()]
    changes = {
        "card": old.card or new.card,
        "about": about or old.about,
        "cells": tuple(sorted(cells, key=lambda one: _place(one.cell.noun()))),
        "audits": tuple(sorted(examined, key=lambda one: _place(one.audit.noun()))),
    }
    made = old.model_copy(update=changes)
    return old if made == old else sealed(made.model_copy(update={"rbm": new.rbm}))


def sealed(entry: Entry) -> Entry:
    """Write an entry's own digest into it."""
    return entry.model_copy(update={"sha256": entry.digest})


def text(entry: Entry) -> bytes:
    """Write an entry for people and version control: sorted names, one line for each task, cell and setting."""
    return f"{_written('', entry.model_dump(mode='json'), 0)}\n".encode()


def parse(content: bytes) -> Entry:
    """Read an entry; raise ValueError in one line that goes on from where it lay."""
    return _validated(Entry, content)


def read_external(folder: Path) -> External:
    """Read the external.json of a folder; raise InputError where it is none."""
    path = folder / EXTERNAL_FILE
    try:
        return _validated(External, untrusted.content(path, LARGEST_EXTERNAL))
    except ValueError as error:
        raise InputError(f"external: {path}: {error}") from None


def read_about(path: Path) -> About:
    """Read who made a learner from TOML or JSON."""
    import tomllib

    try:
        content = untrusted.content(path, 2**20)
        given = tomllib.loads(content.decode()) if path.suffix == ".toml" else untrusted.parse(content)
        return About.model_validate_json(json.dumps(given))
    except ValidationError as error:
        raise InputError(f"about: {path}: {first_problem(error)}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"about: {path} is not {path.suffix.lstrip('.').upper() or 'JSON'} ({error})") from None


def files_of(folder: Path) -> list[Path]:
    """List the files of entries in a folder, hidden ones apart, in the order of their names."""
    found = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if len(found) > MOST_ENTRIES:
        raise InputError(f"entries: {folder} holds {len(found)} files, more than {MOST_ENTRIES}")
    return found


def tables_of(entries: Iterable[Entry]) -> store.Results:
    """Give what entries hold as the tables that a store gives, and who made each learner."""
    entries = list(entries)
    learners = [
        {
            "weights": one.weights,
            "card": "" if one.card is None else checkpoint.card_line(one.card),
            "authors": ", ".join(one.about.authors),
            "paper": address(one.about.paper),
            "code": one.about.code,
            "license": one.about.license,
        }
        for one in entries
    ]
    runs = [run for one in entries for run in one.runs]
    return store.tables(runs, [audit for one in entries for audit in one.examinations], learners)


def as_results(entry: Entry, folder: Path) -> None:
    """Write an entry as a results folder, so that whatever reads one can judge it."""
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    for run in entry.runs:
        if run.records:
            store.append(folder, run.cell, run.records)
        for timing in run.ran:
            store.append(folder, run.cell, (), timing)
        if run.reason:
            store.fail(folder, run.cell, run.reason)
    for one in entry.examinations:
        if one.measures:
            store.append_audit(folder, one.audit, one.measures)
        for timing in one.ran:
            store.append_audit(folder, one.audit, (), timing)
        if one.reason:
            store.fail_audit(folder, one.audit, one.reason)


def address(paper: str) -> str:
    """Return where a paper is found: arXiv:2010.09670 has an address too."""
    return f"https://arxiv.org/abs/{paper.removeprefix('arXiv:')}" if paper.startswith("arXiv:") else paper


def to_hex(bits: Sequence[bool]) -> str:
    """Pack bits, the first one leftmost, the last digit filled up with zeros."""
    digits = -(-len(bits) // 4)
    return f"{int(''.join('01'[bit] for bit in bits).ljust(4 * digits, '0'), 2):0{digits}x}"


def from_hex(packed: str, count: int) -> tuple[bool, ...]:
    """Unpack `count` bits; raise ValueError where the digits do not hold exactly as many."""
    digits = -(-count // 4)
    bits = f"{int(packed, 16):0{4 * len(packed)}b}"
    if len(packed) != digits or "1" in bits[count:]:
        raise ValueError(f"{packed[:20]!r} is not {count} bits in {digits} digits")
    return tuple(bit == "1" for bit in bits[:count])


def _validated(model: type[_Model], content: bytes) -> _Model:
    try:
        made = model.model_validate_json(content)
        untrusted.parse(content)  # pydantic's parser takes the last of two values under one name
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    except ValueError as error:
        raise ValueError(f"is not JSON as RFC 8259 has it ({error})") from None
    return made


# Written over several lines: these, and the items of lists.
_OPEN = {"", "about", "audits", "card", "cells", "history", "item", "ran", "tasks"}


def _written(name: str, value: Any, depth: int) -> str:
    """Write a value at its place; only what _OPEN names is broken over lines."""
    if name not in _OPEN or not value or not isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    gap = " " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{gap}{json.dumps(key)}: {_written(key, value[key], depth + 1)}" for key in sorted(value)]
        return "{\n" + ",\n".join(lines) + f"\n{' ' * depth}}}"
    inner = "item" if name in ("cells", "audits") else "row"
    return "[\n" + ",\n".join(f"{gap}{_written(inner, one, depth + 1)}" for one in value) + f"\n{' ' * depth}]"


def _place(noun: Cell | Audit) -> tuple[Any, ...]:
    """Order cells and audits by what they are, then by their keys."""
    steps = -1 if noun.steps is None else noun.steps
    threat = (noun.norm, noun.eps) if isinstance(noun, Audit) else (noun.threat.norm, noun.threat.eps, noun.attack)
    return (noun.family, noun.split, noun.spec.ways, noun.spec.shots, steps, *threat, store.key(noun))


def _run(one: EntryCell) -> Run:
    cell = one.cell.noun()
    count = cell.spec.ways * cell.spec.queries
    records = [
        Record(task, from_hex(clean, count), from_hex(survived, count), distance, forwards, backwards)
        for task, clean, survived, distance, forwards, backwards in one.tasks
    ]
    for at, record in enumerate(records):
        measured: dict[str, Any] = {part: values[at] for part, values in one.beside.items()}
        records[at] = replace(record, **measured)
    external = "" if one.external is None else one.external.text
    return Run(cell, tuple(records), one.error, tuple(map(_timing, one.ran)), external)


def _entry_cell(run: Run, name: str) -> EntryCell:
    rows = tuple(
        (one.task, to_hex(one.clean), to_hex(one.survived), float(one.distance), one.forwards, one.backwards)
        for one in run.records
    )
    fields = CellFields.model_validate({**asdict(run.cell), "checkpoint": name})
    measured = {part: tuple(getattr(one, part) for one in run.records) for part in get_args(Beside)}
    beside = {part: values for part, values in measured.items() if set(values) - {None}}
    return EntryCell(cell=fields, error=_said(run.reason), ran=tuple(map(_timed, run.ran)), tasks=rows, beside=beside)


def _examination(one: EntryAudit) -> Examination:
    audit = one.audit.noun()
    count = audit.spec.ways * audit.spec.queries
    measures = []
    for row in one.tasks:
        survived, flat = (
            {run: from_hex(packed, count) for run, packed in part.items()} for part in (row.survived, row.flat)
        )
        given = {**dict(row), "clean": from_hex(row.clean, count), "survived": survived, "flat": flat}
        measures.append(Measures(**given))
    return Examination(audit, tuple(measures), one.error, tuple(map(_timing, one.ran)))


def _entry_audit(one: Examination, name: str) -> EntryAudit:
    rows = []
    for measures in one.measures:
        survived, flat = (
            {run: to_hex(bits) for run, bits in part.items()} for part in (measures.survived, measures.flat)
        )
        given = {**asdict(measures), "clean": to_hex(measures.clean), "survived": survived, "flat": flat}
        rows.append(MeasuresFields.model_validate(given))
    fields = AuditFields.model_validate({**asdict(one.audit), "checkpoint": name})
    return EntryAudit(audit=fields, error=_said(one.reason), ran=tuple(map(_timed, one.ran)), tasks=tuple(rows))


def _said(reason: str) -> str:
    return untrusted.printable(reason)[:2_000]


def _timed(timing: Timing) -> TimedRow:
    tasks = _ranges(timing.tasks)
    return (tasks, float(timing.seconds), timing.device, timing.threads, timing.backend, timing.chunk)


def _timing(row: TimedRow) -> Timing:
    tasks, seconds, device, threads, backend, chunk = row
    return Timing(numbers(tasks), seconds, device, threads, backend, chunk)


def _ranges(tasks: Sequence[int]) -> str:
    """Write task numbers in short, as 0-9,12."""
    starts = [0, *(at + 1 for at, (a, b) in enumerate(pairwise(tasks)) if b != a + 1), len(tasks)]
    parts = [(tasks[start], tasks[end - 1]) for start, end in pairwise(starts) if end > start]
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def numbers(ranges: str) -> tuple[int, ...]:
    """Read task numbers that were written in short; raise ValueError for more than there can be."""
    found: list[int] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        start, end = int(first), int(last or first)
        if not start <= end < start + 100_000 or len(found) > 100_000:
            raise ValueError(f"{part!r} is no range of tasks")
        found += range(start, end + 1)
    return tuple(found)


def _both(old: Run, new: Run) -> Run:
    """Add to a cell the tasks that it lacks, and how they ran."""
    have = {record.task for record in old.records}
    records = [*old.records, *(record for record in new.records if record.task not in have)]
    # Of two runs the longer one says whether the cell fails, of two as long the one that did not.
    reason = max((len(one.records), not one.reason, one.reason) for one in (old, new))[-1]
    return replace(
        old,
        records=tuple(sorted(records, key=lambda one: one.task)),
        reason=reason,
        ran=_both_ran(old.ran, new.ran),
    )


def _both_audits(old: Examination, new: Examination) -> Examination:
    have = {one.task for one in old.measures}
    measures = [*old.measures, *(one for one in new.measures if one.task not in have)]
    reason = max((len(one.measures), not one.reason, one.reason) for one in (old, new))[-1]
    return replace(
        old,
        measures=tuple(sorted(measures, key=lambda one: one.task)),
        reason=reason,
        ran=_both_ran(old.ran, new.ran),
    )


def _both_ran(old: tuple[Timing, ...], new: tuple[Timing, ...]) -> tuple[Timing, ...]:
    # Only blocks with tasks of their own: the others measured what is there already.
    timed = {task for block in old for task in block.tasks}
    return old + tuple(block for block in new if not timed.issuperset(block.tasks))
