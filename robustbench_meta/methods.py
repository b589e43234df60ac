"""Which learners are training seeds of one recipe, and what they withstood together.

A method is a recipe of which at least three training seeds were measured; fewer are checkpoints, whose numbers say
nothing of another seed. Seeds share a row where their cards hold the same recipe but for its seed, made by the same
authors, with a seed and weights of their own: the same weights under two seeds would count as two trainings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from os.path import commonprefix
from typing import Any

import numpy as np

from robustbench_meta import flags as signs
from robustbench_meta.intervals import LEAST_SEEDS
from robustbench_meta.outcomes import Bits, Check, Entry, Outcome, Results, cards


@dataclass(frozen=True)
class Training:
    """What a card says of how weights came about: the recipe but for its seed, by whom, the seed, the weights' file."""

    method: str
    authors: str
    seed: int
    file: str


def trainings(results: Results) -> dict[str, Training]:
    """Read the training of every learner by its weights; a learner without a whole card has none."""
    read = {str(row["weights"]): _training(row, card) for row, card in cards(results)}
    return {weights: one for weights, one in read.items() if one is not None}


def method_of(recipe: Mapping[str, Any]) -> str:
    """Identify a recipe but for its seed, as `Recipe.method` does of one that is read."""
    kept = {name: value for name, value in recipe.items() if name != "seed" and value is not None}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def word(seeds: int) -> str:
    """Say what so many training seeds speak of."""
    return "method" if seeds >= LEAST_SEEDS else "checkpoint"


def together(entries: Iterable[Entry], known: Mapping[str, Training]) -> list[tuple[Entry, ...]]:
    """Group entries that are seeds of one recipe, each group by rising seeds; an entry that has no like is alone."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in sorted(entries, key=lambda one: (_seed(one, known), one.checkpoint, one.weights)):
        about = known.get(entry.weights)
        settings = (entry.algorithm, entry.defense, entry.norm_mode, entry.steps)
        if about is None:
            groups[entry.weights, entry.checkpoint, settings] = [entry]
            continue
        mine = groups.setdefault((about.method, about.authors, settings), [])
        others = [known[one.weights] for one in mine]
        if any(about.seed == other.seed or about.file == other.file for other in others):
            groups[entry.weights, entry.checkpoint, settings] = [entry]
        else:
            mine.append(entry)
    return [tuple(mine) for mine in groups.values()]


def alike(mine: Sequence[Entry], found: Mapping[Entry, Outcome]) -> list[tuple[Entry, ...]]:
    """Part seeds of one recipe into those that can share a row at one eps, and each of the others alone.

    A seed whose every verdict is that of another is a copy of it, whatever its file's hash. One that would leave the
    row less than half of the tasks of any of its seeds could cost them all their rank.
    """
    kept: list[Entry] = []
    shared = found[mine[0]].tasks
    for entry in mine:
        left = np.intersect1d(shared, found[entry].tasks)
        most = max(len(found[one].tasks) for one in (*kept, entry))
        if 2 * len(left) >= most and not any(_copies(found[entry], found[one]) for one in kept):
            kept.append(entry)
            shared = left
    return [tuple(kept), *((entry,) for entry in mine if entry not in kept)]


def outside(mine: Sequence[Entry], entries: Iterable[Entry], known: Mapping[str, Training]) -> tuple[int, ...]:
    """Name the seeds of the same recipe, by the same authors and at the same steps, that share no row with `mine`."""
    if not mine:
        return ()
    about = known[mine[0].weights]
    others = (
        known[one.weights] for one in entries if one not in mine and one.steps == mine[0].steps and one.weights in known
    )
    return tuple(sorted(one.seed for one in others if (one.method, one.authors) == (about.method, about.authors)))


def _copies(one: Outcome, other: Outcome) -> bool:
    names = one.runs.keys() & other.runs.keys()
    return bool(names) and all(_same(one.runs[name], other.runs[name]) for name in names)


def _same(one: Bits, other: Bits) -> bool:
    tasks = np.intersect1d(one.tasks, other.tasks)
    at, there = one.at(tasks), other.at(tasks)
    same_clean = np.array_equal(one.clean[at], other.clean[there])
    return len(tasks) > 0 and same_clean and np.array_equal(one.survived[at], other.survived[there])


def shared_entry(entries: Sequence[Entry], known: Mapping[str, Training]) -> Entry:
    """Name the row that seeds share, by what their names have in common."""
    return replace(entries[0], checkpoint=_name([one.checkpoint for one in entries]), weights=_identity(entries, known))


def joined(entry: Entry, found: Sequence[Outcome]) -> Outcome:
    """Return the mean over seeds of outcomes at one eps of a board, on the tasks that all of them met.

    An attack that one of them lacks is missing, an error or a flag of one is that of all.
    """
    tasks = reduce(np.intersect1d, [one.tasks for one in found])
    clean, robust, known = (
        np.mean([getattr(one, kind)[np.searchsorted(one.tasks, tasks)] for one in found], axis=0)
        for kind in ("clean", "robust", "known")
    )
    names = [name for name in found[0].runs if all(name in one.runs for one in found)]
    runs = {name: run for name in names if len((run := _beside([one.runs[name] for one in found])).tasks)}
    return replace(
        found[0],
        entry=entry,
        runs=runs,
        errors=tuple(dict.fromkeys(error for one in found for error in one.errors)),
        check=_check([one.check for one in found]),
        tasks=tasks,
        clean=clean,
        robust=robust,
        known=known,
        transferred=_union(one.transferred for one in found),
        external=_union(one.external for one in found),
        claimed=_union(one.claimed for one in found),
        seeds=tuple(found),
    )


def _training(row: Mapping[str, Any], card: Mapping[str, Any]) -> Training | None:
    recipe = card["recipe"]
    if not isinstance(recipe.get("seed"), int):
        return None
    authors = row.get("authors")
    file = str(card.get("weights_sha256", ""))
    return Training(method_of(recipe), authors if isinstance(authors, str) else "", recipe["seed"], file)


def _seed(entry: Entry, known: Mapping[str, Training]) -> int:
    return known[entry.weights].seed if entry.weights in known else 0


def _identity(entries: Sequence[Entry], known: Mapping[str, Training]) -> str:
    about = known[entries[0].weights]
    return hashlib.sha256(json.dumps([about.method, about.authors]).encode()).hexdigest()


def _name(names: Sequence[str]) -> str:
    """Name seeds by the words that all their names begin with, a seed's own mark left out; by the first without any."""
    plain = [re.sub(r"[-_. ]+(seed|s)[-_. ]*[0-9]+$", "", name) for name in names]
    # Letter by letter is meant: these are no paths.
    shared = commonprefix(plain)  # noqa: RUF071
    if shared and shared not in plain:
        shared = re.sub(r"[-_. ]*[^-_. ]*$", "", shared)  # no word is cut in two
    return shared or names[0]


def _check(checks: Sequence[Check]) -> Check:
    """Gather what speaks against any of the seeds."""
    return Check(
        flags=signs.merge(flag for one in checks for flag in one.flags),
        audited=min(one.audited for one in checks),
        failure=next((one.failure for one in checks if one.failure), ""),
        lacks=next((one.lacks for one in checks if one.lacks), ""),
        left_out=tuple(dict.fromkeys(what for one in checks for what in one.left_out)),
        unasked=signs.by_number({code for one in checks for code in one.unasked}),
    )


def _beside(runs: Sequence[Bits]) -> Bits:
    """Put the verdicts of seeds side by side, on the tasks of all."""
    tasks = reduce(np.intersect1d, [run.tasks for run in runs])
    at = [run.at(tasks) for run in runs]
    return Bits(
        tasks=tasks,
        clean=np.concatenate([run.clean[rows] for run, rows in zip(runs, at, strict=True)], axis=1),
        survived=np.concatenate([run.survived[rows] for run, rows in zip(runs, at, strict=True)], axis=1),
        forwards=np.sum([run.forwards[rows] for run, rows in zip(runs, at, strict=True)], axis=0),
        backwards=np.sum([run.backwards[rows] for run, rows in zip(runs, at, strict=True)], axis=0),
        seeds=len(runs),
    )


def _union(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({name for part in parts for name in part}))
