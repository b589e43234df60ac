"""A leaderboard's folder: entries/, and the pages that are made of them and of nothing else.

BOARD/entries/*.json     one learner each
BOARD/entry.schema.json  what an entry may be
BOARD/leaderboard.html, leaderboard.md, cells.csv, figures/
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robustbench_meta import __version__, checkpoint, report, store, submissions, tracks
from robustbench_meta.external import Judged
from robustbench_meta.submissions import ENTRIES, SCHEMA_FILE, About, Entry, EntryCell
from robustbench_meta.types import InputError

FIGURES = "figures"
PAGE = "leaderboard.html"


@dataclass(frozen=True)
class Added:
    """What became of each entry: "new", "grown" or "as it was"; or why nothing was written."""

    entries: dict[str, str]
    problems: tuple[tracks.Problem, ...]


def add(
    board: Path,
    found: Iterable[Entry],
    *,
    about: About | None = None,
    judged: Sequence[Judged] = (),
    known: tracks.Known = lambda family, split: None,
) -> Added:
    """Write entries into a board, joined with what it holds of the same learners; nothing is lost.

    Nothing is written where one of them does not belong, alone or beside the others.
    """
    entries, problems = tracks.read(board / ENTRIES) if (board / ENTRIES).is_dir() else ({}, [])
    if problems:
        return Added({}, tuple(problems))
    before = dict(entries)
    mine = {entry.weights: entry for entry in entries.values()}
    for entry in found:
        old = mine.get(entry.weights)
        mine[entry.weights] = entry if old is None else submissions.merged(old, entry, about=about)
    for one in judged:
        if one.claim.weights not in mine:
            raise InputError(f"external: {board} has no entry of {one.claim.weights[:12]}…; add its results first")
        mine[one.claim.weights] = claimed(mine[one.claim.weights], one)
    after = {entry.file: entry for entry in mine.values()}
    # Those that were there come first: where two disagree, they are right.
    order = [*(file for file in before if file in after), *(file for file in after if file not in before)]
    changed = {file: after[file] for file in order if before.get(file) != after[file]}
    problems = [problem for file, entry in changed.items() for problem in tracks.of_entry(file, entry)]
    problems += tracks.among({file: after[file] for file in order}) + tracks.drawn(changed, known)
    if problems:
        return Added({}, tuple(problems))
    (board / ENTRIES).mkdir(parents=True, exist_ok=True)
    for file, entry in changed.items():
        checkpoint.write(board / ENTRIES / file, submissions.text(entry))
    states = {file: "as it was" if file not in changed else "grown" if file in before else "new" for file in order}
    return Added(states, ())


def claimed(entry: Entry, judged: Judged) -> Entry:
    """Put a claim's cell into an entry, with the verdicts that were found here."""
    if judged.run is None or not judged.accepted:
        raise InputError(f"external: {judged.credit.text} is refused: {'; '.join(judged.problems)}")
    run = replace(judged.run, cell=replace(judged.run.cell, checkpoint=entry.name))
    made = submissions.entry_of([run], [], card=entry.card, about=entry.about, rbm=__version__)
    credited: EntryCell = made.cells[0].model_copy(update={"external": judged.credit})
    return submissions.merged(entry, submissions.sealed(made.model_copy(update={"cells": (credited,)})))


def build(board: Path) -> list[Path]:
    """Make the pages of a board from its entries alone; figures that are not drawn any more go."""
    results = tracks.results_of(board / ENTRIES)
    with tempfile.TemporaryDirectory() as scratch:
        made = _made(results, Path(scratch))
        for name, content in made.items():
            (board / name).parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write(board / name, content)
    for stale in set(_figures(board)) - made.keys():
        (board / stale).unlink()
    return [board / name for name in made]


def differences(board: Path) -> list[str]:
    """Say in one line each which file of a board is not what `build` makes of its entries.

    The bytes of a drawing depend on the libraries that drew it. So figures are compared by their names, the page
    without what is drawn in it, and every other text by its bytes.
    """
    results = tracks.results_of(board / ENTRIES)
    with tempfile.TemporaryDirectory() as scratch:
        made = _made(results, Path(scratch))
    found = []
    for name, right in made.items():
        path = board / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif not name.startswith(f"{FIGURES}/") and (odd := _first_difference(name, path.read_bytes(), right)):
            found.append(odd)
    return found + [f"{name} is drawn no more" for name in sorted(set(_figures(board)) - made.keys())]


def without_drawings(page: str) -> str:
    """Take out of a page what matplotlib drew."""
    page = re.sub(r"<svg\b.*?</svg>", "<svg/>", page, flags=re.DOTALL)
    return re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]*", "data:,", page)


def _made(results: store.Results, folder: Path) -> dict[str, bytes]:
    """Write a report and give its files by their names in it, with the schema."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in report.write(results, [], folder)}
    return {SCHEMA_FILE: submissions.schema(), **files}


def _figures(board: Path) -> list[str]:
    return [f"{FIGURES}/{path.name}" for kind in ("svg", "png") for path in (board / FIGURES).glob(f"*.{kind}")]


def _first_difference(name: str, there: bytes, right: bytes) -> str:
    """Say where a text first differs; nothing where it does not."""
    mine, theirs = (text.decode("utf-8", "replace") for text in (there, right))
    if name == PAGE:
        mine, theirs = without_drawings(mine), without_drawings(theirs)
    if mine == theirs:
        return ""
    lines = list(zip(mine.splitlines(), theirs.splitlines(), strict=False))
    at = next((number for number, (a, b) in enumerate(lines, 1) if a != b), len(lines) + 1)
    return f"{name} differs from line {at} on"
