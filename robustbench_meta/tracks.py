"""What belongs on a board, and what is refused: one line for each problem, with the file, the field and what is legal.

A board ranks learners that met the same episodes under the same threat. So every entry declares its track, and what
would stand beside it without being comparable, or cannot have been measured, is refused before any table is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from robustbench_meta import catalog, poisoning, store, submissions, threats, untrusted
from robustbench_meta.audit import VERSION
from robustbench_meta.episodes import fingerprint
from robustbench_meta.outcomes import BLACK_BOX, is_object, is_set
from robustbench_meta.submissions import AuditFields, CellFields, Entry, EntryAudit, EntryCell
from robustbench_meta.transfer import source_of
from robustbench_meta.types import Box, InputError, Norm, Split, Threat, served_as

SHOWN = 80  # characters of a value
MOST_RUNS = 100  # of one task, where examples were made again or a run was killed
Known = Callable[[str, Split], str | None]  # the episodes of a family's split, None where they cannot be drawn here


@dataclass(frozen=True)
class Problem:
    """Why something does not belong: where it stands, what stands there, and what may.

    Without a value the field's text says it, as a schema's errors do.
    """

    file: str
    field: str
    value: object
    legal: str

    @property
    def text(self) -> str:
        if self.value is None:
            return untrusted.printable(f"{self.file}: {self.field}; {self.legal}")
        value = repr(self.value) if isinstance(self.value, str) else str(self.value)
        value = value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
        return untrusted.printable(f"{self.file}: {self.field}: {value}; {self.legal}")


def read(folder: Path) -> tuple[dict[str, Entry], list[Problem]]:
    """Read every entry of a folder by its file, and say what is wrong with each by itself and beside the others."""
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for path in submissions.files_of(folder):
        entry, found = read_one(path)
        problems += found
        if entry is not None and path.name != entry.file:
            problems.append(Problem(path.name, "file", path.name, f"this entry's file is called {entry.file}"))
        if entry is not None and not found:
            entries[path.name] = entry
    return entries, problems + among(entries)


def read_one(path: Path) -> tuple[Entry | None, list[Problem]]:
    """Read an entry, and say what is wrong with it by itself."""
    try:
        content = untrusted.content(path, submissions.LARGEST_ENTRY)
        entry = submissions.parse(content)
    except ValueError as error:
        return None, [Problem(path.name, str(error), None, "legal is what entry.schema.json says")]
    found = [*_of_bytes(path.name, entry, content), *of_entry(path.name, entry)]
    return entry, found


def results_of(folder: Path) -> store.Results:
    """Read a folder of entries as the tables that reports are made from; raise InputError where one does not belong."""
    entries, problems = read(folder)
    if problems:
        more = f" (and {len(problems) - 1} more: `rbm leaderboard check`)" if len(problems) > 1 else ""
        raise InputError(f"entries: {problems[0].text}{more}")
    if not entries:
        raise InputError(f"entries: {folder} holds none; `rbm leaderboard add` writes them")
    return submissions.tables_of(entries.values())


def of_entry(file: str, entry: Entry) -> list[Problem]:
    """Say what is wrong with an entry by itself."""
    found = [*_of_card(file, entry), *_of_keys(file, entry)]
    for number, one in enumerate(entry.cells):
        where = f"cells.{number}"
        found += _of_learner(file, where, entry, one.cell)
        found += _of_threat(file, where, entry, one.cell.family, one.cell.threat.norm, one.cell.threat.eps)
        found += [*_of_attack(file, where, one), *_of_tasks(file, where, one)]
    for number, audit in enumerate(entry.audits):
        where = f"audits.{number}"
        found += _of_learner(file, where, entry, audit.audit)
        found += _of_threat(file, where, entry, audit.audit.family, audit.audit.norm, audit.audit.eps)
        found += _of_audit(file, where, audit)
    return found


def drawn(entries: Mapping[str, Entry], known: Known) -> list[Problem]:
    """Say where an entry's episodes are not those that a family of the catalog draws here."""
    found = []
    for file, entry in entries.items():
        for (family, split), episodes in sorted(_episodes(entry).items()):
            right = known(family, cast(Split, split))
            for one in sorted(episodes - {right}) if right else []:
                legal = f"{family} {split} draws {right}; evaluate with --family {family}"
                found.append(Problem(file, "episodes", one, legal))
    return found


def known_episodes(root: Path | None) -> Known:
    """Give the hash of the episodes of a family of the catalog, as far as its data are here."""

    @cache
    def known(family: str, split: Split) -> str | None:
        try:
            return fingerprint(catalog.family(family, root=root), split)
        except InputError:
            return None

    return known


def among(entries: Mapping[str, Entry]) -> list[Problem]:
    """Say which entries cannot stand beside the others; where two disagree, the more common or the earlier is right."""
    found = [*_twice(entries, "weights", "one entry for one learner"), *_twice(entries, "name", "a name of its own")]
    found += _odd(entries, "episodes", _episodes, lambda at: f"the others of {at[0]} {at[1]} met")
    found += _odd(entries, "seed", _seeds, lambda at: f"the others of {at[0]} {at[1]} ({at[6]}, {at[7]}) have")
    return found + _met_by_few(entries)


def _met_by_few(entries: Mapping[str, Entry]) -> list[Problem]:
    """Find the attacks that less than half of a board's entries met: for the want of them all others had no rank."""
    met = {file: _attacks(entry) for file, entry in entries.items()}
    found = []
    for place in sorted({place for mine in met.values() for place in mine}, key=str):
        here = {file: mine[place] for file, mine in met.items() if place in mine}
        counts = Counter(attack for attacks in here.values() for attack in attacks)
        usual = ", ".join(sorted(attack for attack, count in counts.items() if 2 * count >= len(here)))
        where = f"at {place[-1]:.4g} most others of {place[0]} {place[1]} met {usual or 'no attack in common'}"
        found += [
            Problem(file, "attack", attack, f"{where}; let all of them meet it, or hand its examples in as external")
            for file, attacks in here.items()
            for attack in sorted(attacks)
            if 2 * counts[attack] < len(here)
        ]
    return found


def _twice(entries: Mapping[str, Entry], field: str, legal: str) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for file, entry in entries.items():
        value = getattr(entry, field)
        if value in first:
            yield Problem(file, field, value, f"{first[value]} has it too; legal is {legal}")
        first.setdefault(value, file)


def _odd(
    entries: Mapping[str, Entry],
    field: str,
    values: Callable[[Entry], dict[Any, set[Any]]],
    others: Callable[[Any], str],
) -> list[Problem]:
    """Find the entries whose value at some place is not the one that most have there."""
    each = {file: values(entry) for file, entry in entries.items()}
    found = []
    for place in sorted({place for mine in each.values() for place in mine}, key=str):
        # Counters keep the order of the first sight, and of equal counts give the first.
        counts = Counter(value for mine in each.values() for value in sorted(mine.get(place, ())))
        ((right, _),) = counts.most_common(1)
        for file, mine in each.items():
            found += [
                Problem(file, field, v, f"{others(place)} {right}") for v in sorted(mine.get(place, set()) - {right})
            ]
    return found


def _episodes(entry: Entry) -> dict[Any, set[Any]]:
    found: dict[Any, set[Any]] = {}
    nouns: list[CellFields | AuditFields] = [*(one.cell for one in entry.cells), *(one.audit for one in entry.audits)]
    for one in nouns:
        found.setdefault((one.family, one.split), set()).add(one.episodes)
    return found


def _attacks(entry: Entry) -> dict[Any, set[str]]:
    """Give the attacks of its own that the entry met, by board and eps."""
    found: dict[Any, set[str]] = {}
    own = (one.cell for one in entry.cells if one.external is None and not is_set(one.cell.attack_fields))
    for one in (cell for cell in own if not cell.algorithm.endswith(BLACK_BOX)):
        found.setdefault((*_board(one), round(one.threat.eps, 9)), set()).add(one.attack)
    return found


def _seeds(entry: Entry) -> dict[Any, set[Any]]:
    """Give the seeds of each board that the entry stands on."""
    found: dict[Any, set[Any]] = {}
    for one in (cell.cell for cell in entry.cells):
        found.setdefault(_board(one), set()).add(one.seed)
    return found


def _board(one: CellFields) -> tuple[Any, ...]:
    """Name the board that a cell stands on, its episodes and seed apart."""
    track = "transductive" if one.norm_mode == "batch" else "inductive"
    board = (one.family, one.split, one.spec.ways, one.spec.shots, one.spec.queries, one.threat.surface)
    return (*board, one.threat.norm, track, one.threat.fraction)


def _of_bytes(file: str, entry: Entry, content: bytes) -> Iterator[Problem]:
    legal = "`rbm leaderboard add` writes it; nothing is changed by hand"
    if entry.sha256 != entry.digest:
        yield Problem(file, "sha256", entry.sha256, f"the content hashes to {entry.digest}; {legal}")
    elif submissions.text(entry) != content:
        yield Problem(file, "layout", f"{len(content)} bytes", legal)


def _of_card(file: str, entry: Entry) -> Iterator[Problem]:
    card = entry.card
    if card is None:
        if odd := sorted({one.cell.algorithm for one in entry.cells if not is_object(one.cell.algorithm)}):
            yield Problem(file, "card", "none", f"every learner but an object has one, and this is a {odd[0]}")
        return
    if card.recipe.sha256 != card.recipe_sha256:
        yield Problem(file, "card.recipe_sha256", card.recipe_sha256, f"the recipe hashes to {card.recipe.sha256}")
    if card.learner != entry.weights:
        yield Problem(file, "weights", entry.weights, f"weights and recipe of the card hash to {card.learner}")
    for kind, name in (("algorithms", card.recipe.algorithm), ("tasks", card.recipe.family)):
        if name not in (names := catalog.names(cast(Any, kind))):
            yield Problem(file, f"card.recipe: {kind}", name, f"legal: {', '.join(names)}")


def _of_keys(file: str, entry: Entry) -> Iterator[Problem]:
    keys = {
        "cells": [store.key(one.cell.noun()) for one in entry.cells],
        "audits": [store.key(one.audit.noun()) for one in entry.audits],
    }
    for field, found in keys.items():
        seen: set[str] = set()
        for number, key in enumerate(found):
            if key in seen:
                yield Problem(file, f"{field}.{number}", key, "each stands once")
            seen.add(key)


def _of_learner(file: str, where: str, entry: Entry, one: CellFields | AuditFields) -> Iterator[Problem]:
    """Refuse what is said of a learner that its card does not say."""
    legal: dict[str, Any] = {"checkpoint": entry.name, "weights": entry.weights}
    card = entry.card
    if card is None and is_object(one.algorithm):
        # Its scores may depend on the batch; audits look for that (F10), for nothing declares it.
        legal |= {"defense": "custom", "norm_mode": "own"}
    elif card is not None:
        legal |= {name: getattr(card.recipe, name) for name in ("algorithm", "defense", "norm_mode")}
    for name, right in legal.items():
        if (value := getattr(one, name)) != right:
            whose = (
                "the card's recipe has" if card and name in ("algorithm", "defense", "norm_mode") else "this entry has"
            )
            yield Problem(file, f"{where}.{name}", value, f"{whose} {right!r}")
    steps = _has_steps(entry)
    if steps is not None and (one.steps is None) == steps:
        value = "none" if one.steps is None else one.steps
        yield Problem(file, f"{where}.steps", value, f"adaptation has {'steps' if steps else 'no steps'}")
    if one.family not in (names := catalog.names("tasks")):
        yield Problem(file, f"{where}.family", one.family, f"legal: {', '.join(names)}")
    elif (mine := _space(entry, None)) and (theirs := _space(entry, one.family)) and mine.shape != theirs.shape:
        yield Problem(
            file, f"{where}.family", one.family, f"its inputs are {theirs.shape}, the learner takes {mine.shape}"
        )
    if (spec := one.spec).proxies not in (legal_proxies := _proxies(one)):
        yield Problem(file, f"{where}.spec.proxies", spec.proxies, f"legal: {legal_proxies[0]}")


def _proxies(one: CellFields | AuditFields) -> tuple[int, ...]:
    """Say how many labelled items a poisoner may look at: as many as queries, and no more than 15."""
    surface = one.threat.surface if isinstance(one, CellFields) else "query"
    return (min(one.spec.queries, poisoning.PROXIES),) if surface == "support" else (0,)


def _has_steps(entry: Entry) -> bool | None:
    """Say whether a learner's adaptation has steps; None where its algorithm is not known."""
    if entry.card is None:
        return False
    recipe = entry.card.recipe
    try:
        return catalog.algorithm(recipe.algorithm, **recipe.algorithm_options).steps is not None
    except InputError:
        return None


def _space(entry: Entry, family: str | None) -> Box | None:
    """Return what inputs of a family may be, or those that a learner was trained on; None where that is not known."""
    try:
        if family is not None:
            return catalog.family(family).space
        return None if entry.card is None else catalog.family_of(entry.card.recipe).space
    except InputError:
        return None


def _of_threat(file: str, where: str, entry: Entry, family: str, norm: Norm, eps: float) -> Iterator[Problem]:
    if family in catalog.names("tasks") and (space := _space(entry, family)):
        try:
            threats.check(Threat(norm, eps), space)
        except InputError as error:
            yield Problem(file, f"{where}.eps", eps, str(error).removeprefix("eps: "))


def _of_attack(file: str, where: str, one: EntryCell) -> Iterator[Problem]:
    """Refuse an attack whose name means something else here, and credit where it is not due."""
    name, settings = one.cell.attack, one.cell.attack_fields
    if name.startswith(catalog.FILE) or is_set(settings):
        source = source_of(settings)
        if source is None or not (name.startswith(catalog.FILE) and is_set(settings)):
            yield Problem(file, f"{where}.attack", name, "an adversarial set has a name and settings that say so")
        elif one.external is not None and f"sha256='{one.external.set_sha256}'" not in settings:
            legal = "the hash of the set whose examples the cell holds"
            yield Problem(file, f"{where}.external.set_sha256", one.external.set_sha256, legal)
        return
    if one.external is not None:
        yield Problem(file, f"{where}.external", one.external.text, f"{name} is ours, and no examples of somebody's")
    try:
        now = repr(catalog.attack(name))
    except InputError as error:
        yield Problem(file, f"{where}.attack", name, str(error).partition("; ")[2] or "see `rbm list attacks`")
        return
    if now != settings:
        yield Problem(file, f"{where}.attack_fields", settings, f"{name} means {now}")
    serves: Any = catalog.attack(name)
    if served_as(one.cell.threat.surface) not in serves.surfaces:
        yield Problem(
            file, f"{where}.threat.surface", one.cell.threat.surface, f"{name} attacks {', '.join(serves.surfaces)}"
        )
    if one.cell.threat.norm not in serves.norms:
        yield Problem(file, f"{where}.threat.norm", one.cell.threat.norm, f"{name} has {', '.join(serves.norms)}")
    needed, family = getattr(serves, "needs_inputs", ""), one.cell.family
    if needed and family in catalog.names("tasks") and catalog.family(family).space.inputs != needed:
        yield Problem(file, f"{where}.attack", name, f"it corrupts {needed}, which {family} has none of")


def _of_tasks(file: str, where: str, one: EntryCell) -> Iterator[Problem]:
    if not one.tasks and not one.error:
        yield Problem(file, f"{where}.tasks", "none", "tasks, or an error that says why there are none")
    yield from _numbered(file, where, [row[0] for row in one.tasks])
    count = one.cell.spec.ways * one.cell.spec.queries
    limit = one.cell.threat.eps * (1 + threats.RELATIVE_SLACK) + threats.ABSOLUTE_SLACK
    for task, clean, survived, distance, _, _ in one.tasks:
        at = f"{where}.tasks.{task}"
        bits = []
        for name, packed in (("clean", clean), ("survived", survived)):
            try:
                bits.append(submissions.from_hex(packed, count))
            except ValueError as error:
                yield Problem(file, f"{at}.{name}", packed, f"{error} (ways times queries)")
        lucky = len(bits) == 2 and any(after and not before for before, after in zip(*bits, strict=True))
        if lucky and one.cell.threat.norm != "corruption":
            yield Problem(file, f"{at}.survived", survived, f"only what is right when clean ({clean}) can survive")
        if distance > limit:
            yield Problem(file, f"{at}.distance", distance, f"at most eps {one.cell.threat.eps:g}")
    yield from _timed(file, where, one.ran, {row[0] for row in one.tasks})


def _of_audit(file: str, where: str, one: EntryAudit) -> Iterator[Problem]:
    if not one.tasks and not one.error:
        yield Problem(file, f"{where}.tasks", "none", "tasks, or an error that says why there are none")
    if one.audit.version > VERSION:
        yield Problem(file, f"{where}.version", one.audit.version, f"this version of rbm knows {VERSION}")
    yield from _numbered(file, where, [row.task for row in one.tasks])
    count, ways = one.audit.spec.ways * one.audit.spec.queries, one.audit.spec.ways
    for row in one.tasks:
        at = f"{where}.tasks.{row.task}"
        packed = {"clean": row.clean}
        for part in ("survived", "flat"):
            packed |= {f"{part}.{run}": bits for run, bits in getattr(row, part).items()}
        for name, bits in packed.items():
            try:
                submissions.from_hex(bits, count)
            except ValueError as error:
                yield Problem(file, f"{at}.{name}", bits, f"{error} (ways times queries)")
        predicted = count if one.audit.surface == "query" or row.steps else 0
        if len(row.predictions) != predicted or any(value >= ways for value in row.predictions):
            legal = f"{predicted} classes from 0 to {ways - 1}"
            yield Problem(
                file, f"{at}.predictions", f"{len(row.predictions)} up to {max(row.predictions, default=0)}", legal
            )
        if row.steps and (one.audit.surface != "rollout" or len(row.steps) != count):
            legal = f"none, or of rollouts in an environment {count}"
            yield Problem(file, f"{at}.steps", f"{len(row.steps)} of surface {one.audit.surface}", legal)
        if bool(row.steps) != bool(one.tasks[0].steps):
            yield Problem(file, f"{at}.steps", len(row.steps), "every task of an audit is judged in the same way")
        if {*row.survived} != {*one.tasks[0].survived} or {*row.flat} != {*one.tasks[0].flat}:
            yield Problem(file, f"{at}.survived", ", ".join(row.survived), "every task of an audit has the same runs")
    yield from _timed(file, where, one.ran, {row.task for row in one.tasks})


def _numbered(file: str, where: str, tasks: list[int]) -> Iterator[Problem]:
    if tasks != list(range(len(tasks))):
        odd = next(at for at, task in enumerate(tasks) if task != at)
        yield Problem(file, f"{where}.tasks", f"{tasks[odd]} at place {odd}", "tasks go from 0 on without a gap")


def _timed(file: str, where: str, ran: Iterable[submissions.TimedRow], tasks: set[int]) -> Iterator[Problem]:
    """Refuse times of tasks that are not there, and more of them than runs could have made."""
    total = 0
    for number, row in enumerate(ran):
        try:
            found = submissions.numbers(row[0])
        except ValueError as error:
            yield Problem(file, f"{where}.ran.{number}", row[0], str(error))
            return
        total += len(found)
        if not tasks.issuperset(found) or total > MOST_RUNS * len(tasks):
            legal = f"only tasks that it holds, each at most {MOST_RUNS} times"
            yield Problem(file, f"{where}.ran.{number}", row[0], legal)
            return
