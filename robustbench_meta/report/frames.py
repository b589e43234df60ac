"""What every figure asks of a DataFrame: one board, the columns it needs, entries with their names and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, NoReturn

import pandas as pd

from robustbench_meta.outcomes import Board, Entry
from robustbench_meta.ranking import better_than_constant
from robustbench_meta.report.naming import display_names, entry_label, slugs, titles
from robustbench_meta.report.values import CONSTANT_MARK, LACKING, NONE, NOTHING, Value
from robustbench_meta.statistics import CONSTANT

BOARD = tuple(field.name for field in fields(Board))
ENTRY = tuple(field.name for field in fields(Entry))


def one_board(frame: pd.DataFrame, board: str | None, columns: Sequence[str], source: str) -> tuple[pd.DataFrame, str]:
    """Return the rows of one board and its title; `board` is its slug, needed where the frame holds several.

    Raises InputError where columns are missing, where there are no rows, and where it is not said which board.
    """
    need(frame, columns, source)
    return choose(list(by_board(frame)), board)


def choose(parts: Sequence[tuple[Board, pd.DataFrame]], board: str | None) -> tuple[pd.DataFrame, str]:
    """Return the rows and the title of the board whose slug is `board`, or of the only one there is."""
    abouts = [about for about, _ in parts]
    named = dict(zip(slugs(abouts), zip(titles(abouts), parts, strict=True), strict=True))
    if board is None and len(parts) > 1:
        refuse(f"board: the frame holds {len(parts)} boards, which no figure mixes; legal: {', '.join(named)}")
    if board is not None and board not in named:
        refuse(f"board: {board!r} is not in the frame; legal: {', '.join(named)}")
    title, (_, rows) = named[board if board is not None else next(iter(named))]
    return rows, title


def need(frame: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    """Raise InputError unless the frame has rows, the columns of a board and an entry, and `columns`."""
    lacking = [name for name in (*BOARD, *ENTRY, *columns) if name not in frame]
    if lacking:
        refuse(f"frame: lacks the columns {', '.join(lacking)}; legal: what {source} returns")
    if frame.empty:
        refuse(f"frame: has no rows; legal: what {source} returns of results that hold measured cells")


def by_board(frame: pd.DataFrame) -> Iterator[tuple[Board, pd.DataFrame]]:
    """Give every board with its rows, in the order of the frame."""
    key: Any
    for key, rows in frame.groupby(list(BOARD), sort=False, dropna=False):
        yield Board(*key), rows


def board_of(rows: pd.DataFrame) -> Board:
    return Board(**{str(name): value for name, value in rows.iloc[0][list(BOARD)].items()})


def by_entry(rows: pd.DataFrame) -> list[tuple[Entry, pd.DataFrame]]:
    """Return every entry with its rows, by name; the constant predictor is none."""
    found = [(_entry(mine.iloc[0]), mine) for _, mine in measured(rows).groupby(list(ENTRY), sort=False, dropna=False)]
    return sorted(found, key=lambda pair: by_name(pair[0]))


def by_name(entry: Entry) -> tuple[str, str, int, str]:
    """Order entries by name, then by steps."""
    return entry.checkpoint, entry.weights, entry.steps or 0, repr(entry)


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out the constant predictor's row, which a leaderboard holds beside its entries."""
    return rows[rows["weights"].notna()] if CONSTANT in set(rows["checkpoint"]) else rows


def labels(rows: pd.DataFrame) -> dict[Entry, str]:
    """Name every entry as figures do."""
    names = display_names(measured(rows))
    return {entry: entry_label(entry, names) for entry, _ in by_entry(rows)}


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def value_of(row: dict[str, Any], constant: float) -> Value:
    """Return a row's robust accuracy, marked where an attack is missing or a constant predictor has as much."""
    if pd.isna(row["robust"]):
        return NONE
    mark = "" if row.get("complete", True) else LACKING
    mark += "" if better_than_constant(row["robust"], row["robust_ci95"], constant) else CONSTANT_MARK
    return Value(row["robust"], row["robust_ci95"], int(row["tasks"]), mark)


def clean_of(rows: list[dict[str, Any]], eps: float) -> Value:
    """Return an entry's clean accuracy on the tasks of the ranking, or the most there are at one eps."""
    known = [row for row in rows if row["tasks"]]
    if not known:
        return NONE
    here = next((row for row in known if row["eps"] == eps), None) or max(known, key=lambda row: row["tasks"])
    return Value(here["clean"], here["clean_ci95"], int(here["tasks"]))


def ranking_eps(rows: pd.DataFrame) -> float:
    """Choose the largest eps at which the most entries that gradients reach were measured, as the ranking does."""
    if "rank_eps" in rows:
        return float(rows["rank_eps"].iloc[0])
    white = rows[~rows["algorithm"].astype(str).str.endswith("(black-box)")]
    for known in (white[white["tasks"] > 0], rows[rows["tasks"] > 0], rows):
        if len(known):
            counts = known.groupby("eps")["checkpoint"].size()
            return float(max(counts.index, key=lambda eps: (eps > 0, counts[eps], eps)))
    raise AssertionError("a board has rows")


def best(rows: pd.DataFrame, count: int) -> list[Entry]:
    """Return the `count` entries with the highest worst case at the eps of the ranking, best first."""
    eps, found = ranking_eps(rows), []
    for entry, mine in by_entry(rows):
        here = mine if "rank_eps" in mine else mine[mine["eps"] == eps]
        robust = here["robust"].iloc[0] if len(here) else float("nan")
        found.append((-1.0 if pd.isna(robust) else float(robust), entry))
    found.sort(key=lambda pair: -pair[0])
    return [entry for _, entry in found[:count]]


def range_of_n(counts: Sequence[int]) -> str:
    """Write "n = 10", or "n = 10 to 20" where numbers of tasks differ."""
    known = sorted({int(count) for count in counts if count})
    if not known:
        return f"n = {NOTHING}"
    return f"n = {known[0]}" if len(known) == 1 else f"n = {known[0]} to {known[-1]}"


def refuse(message: str) -> NoReturn:
    # Imported here because the vocabulary needs torch, which a report otherwise does without.
    from robustbench_meta.types import InputError

    raise InputError(message)


def _entry(row: pd.Series) -> Entry:
    made = {name: row[name] for name in ENTRY}
    made["steps"] = None if pd.isna(made["steps"]) else int(made["steps"])
    return Entry(**made)
