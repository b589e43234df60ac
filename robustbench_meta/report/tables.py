"""Rows of text for every place that shows a table: leaderboards, attacks, differences, cells.csv, a terminal."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pandas as pd

from robustbench_meta.statistics import (
    COLUMNS,
    CONSTANT,
    WORST_CASE,
    Board,
    Entry,
    Outcome,
    Results,
    Standing,
    attack_fields,
    better_than_constant,
    eps_text,
    interval,
    paired_differences,
    standings,
)

NOTHING = "\N{EN DASH}"
LACKING, CONSTANT_MARK = "†", "‡"
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True)
class Value:
    """A mean in [0, 1] (or a difference) with its half-width and n; `mark` refers to a footnote."""

    mean: float
    half: float
    n: int
    mark: str = ""
    signed: bool = False

    @property
    def known(self) -> bool:
        return not math.isnan(self.mean)

    @property
    def text(self) -> str:
        """Write "38.2 ± 1.1", in percent or percentage points."""
        if not self.known:
            return NOTHING
        mean = f"{100 * self.mean:+.1f}" if self.signed else f"{100 * self.mean:.1f}"
        half = "n/a" if math.isnan(self.half) else f"{100 * self.half:.1f}"
        return f"{mean} ± {half}{self.mark}"

    @property
    def decided(self) -> bool:
        """Whether a difference's interval leaves out 0."""
        return abs(self.mean) > self.half


@dataclass(frozen=True)
class AttackRow:
    """What one attack left of an entry: one value per eps column, and rows sent per query at the first of them."""

    attack: str
    values: list[Value]
    passes: str


@dataclass(frozen=True)
class Row:
    """One line of a leaderboard; `kind` is "ranked", "unranked" or "reference"."""

    kind: str
    rank: str
    name: str
    algorithm: str
    defense: str
    norm_mode: str
    steps: str
    worst: list[Value]
    clean: Value
    n: str
    reason: str
    attacks: list[AttackRow]


@dataclass(frozen=True)
class Difference:
    """One entry minus its reference: a clean value, and per attack one value per eps column."""

    name: str
    steps: str
    reference: str
    clean: Value
    rows: list[AttackRow]


@dataclass(frozen=True)
class Table:
    """A board ready to be written down; `eps` labels the columns, the one of the ranking first."""

    slug: str
    section: str
    title: str
    criterion: str
    constant: float
    seed: int
    eps: list[str]
    rows: list[Row]
    differences: list[Difference]

    @property
    def lead(self) -> Row | None:
        """The best ranked row."""
        return next((row for row in self.rows if row.kind == "ranked"), None)


@dataclass(frozen=True)
class Report:
    """Everything the pages show, figures apart."""

    tables: list[Table]
    attacks: dict[str, str]
    episodes: dict[str, str]
    footnotes: list[tuple[str, str]]


def tables(results: Results, boards: list[list[Standing]] | None = None) -> Report:
    """Turn results into tables of text, one per board."""
    boards = standings(results) if boards is None else boards
    names, differences = display_names(results.cells), paired_differences(results)
    made: list[Table] = []
    for board, slug in zip(boards, slugs([one[0].board for one in boards]), strict=True):
        made.append(_table(board, slug, names, differences))
    episodes = {f"{one[0].board.family} {one[0].board.split}": one[0].board.episodes for one in boards}
    return Report(made, attack_fields(results), dict(sorted(episodes.items())), _footnotes(boards, names))


def display_names(cells: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Name every (checkpoint, weights); two sets of weights under one name are told apart by their hash."""
    pairs = sorted(set(zip(cells["checkpoint"], cells["weights"], strict=True)))
    count = pd.Series([name for name, _ in pairs], dtype=object).value_counts()
    return {(name, weights): f"{name}@{weights[:8]}" if count[name] > 1 else name for name, weights in pairs}


def slugs(boards: Sequence[Board]) -> list[str]:
    """Name every board for files and anchors: lower case letters, digits and hyphens, no two the same."""
    made: list[str] = []
    for board in boards:
        words = f"{board.family} {board.split} {board.ways}w{board.shots}s {board.norm} {board.surface}"
        words += " transductive" if board.track == "transductive" else ""
        slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:80]
        count = sum(other == slug or re.fullmatch(rf"{slug}-\d+", other) is not None for other in made)
        made.append(f"{slug}-{count + 1}" if count else slug)
    return made


def title(board: Board) -> str:
    """Describe a board in one line."""
    return f"{board.family} ({board.split}), {board.ways}-way {board.shots}-shot, {norm_text(board)}{_special(board)}"


def _special(board: Board) -> str:
    if board.surface == "support":
        return ", poisoned support" + (", transductive" if board.track == "transductive" else "")
    return ", transductive" if board.track == "transductive" else ""


def norm_text(board: Board) -> str:
    """Write a board's norm the way papers do."""
    return NORMS.get(board.norm, board.norm)


def steps_text(steps: int | None) -> str:
    """Show a number of adaptation steps; an algorithm without steps has none to show."""
    return NOTHING if steps is None or pd.isna(steps) else str(int(steps))


def robust_value(outcome: Outcome | None) -> Value:
    """Return an entry's worst case at one eps, marked where footnotes apply."""
    if outcome is None or not len(outcome.robust):
        return Value(math.nan, math.nan, 0)
    mean, half = interval(outcome.robust)
    useless = not better_than_constant(mean, half, outcome.board.constant)
    mark = (LACKING if not outcome.complete else "") + (CONSTANT_MARK if useless else "")
    return Value(mean, half, len(outcome.robust), mark)


def columns_of_eps(board: list[Standing]) -> list[float]:
    """Order the budgets of a board: the one of the ranking first, then the others from large to small."""
    ranked = board[0].rank_eps
    every = {eps for one in board for eps in one.outcomes}
    return [ranked, *sorted(every - {ranked}, reverse=True)]


def csv_text(summary: pd.DataFrame) -> str:
    """Write cells.csv: accuracies in [0, 1], ci95 the half-width; no text cell can be read as a formula."""
    lines: list[str] = []
    # With "\n" alone as line end Python leaves a bare CR unquoted, and a spreadsheet starts a new row there.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in summary[list(COLUMNS)].itertuples(index=False, name=None):
        writer.writerow(["" if pd.isna(value) else _harmless(value) for value in row])
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def rich_rows(summary: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows of plain text for a terminal, one row per cell of `summarise`.

    The text is not escaped: wrap it in rich.text.Text where it is printed.
    """
    columns = ["checkpoint", "steps", "task", "surface", "attack", "eps", "clean %", "robust %", "n", "seed", "status"]
    rows = []
    for cell in summary.to_dict("records"):
        task = f"{cell['family']} {cell['ways']}w{cell['shots']}s"
        eps = f"{NORMS.get(cell['norm'], cell['norm'])} {eps_text(cell['eps'])}"
        clean = Value(cell["clean"], cell["clean_ci95"], cell["tasks"])
        robust = Value(cell["robust"], cell["robust_ci95"], cell["tasks"])
        row = [str(cell["checkpoint"]), steps_text(cell["steps"]), task, str(cell["surface"]), str(cell["attack"]), eps]
        rows.append([*row, clean.text, robust.text, str(cell["tasks"]), str(cell["seed"]), str(cell["status"])])
    return columns, rows


def rank_rows(leaderboard: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows of plain text for a terminal, one row per entry of `leaderboard`."""
    columns = ["rank", "checkpoint", "steps", "task", "surface", "eps", "worst case %", "clean %", "n", "seed", "note"]
    rows = []
    for one in leaderboard.to_dict("records"):
        reference = one["reason"] == "reference"
        rank = NOTHING if pd.isna(one["rank"]) else f"{one['rank']}{'=' if one['tied'] else ''}"
        n = NOTHING if pd.isna(one["tasks"]) else str(one["tasks"])
        useless = not reference and not pd.isna(one["robust"]) and not one["better_than_constant"]
        note = "; ".join(filter(None, [one["reason"], "not better than a constant" if useless else ""]))
        task = f"{one['family']} {one['ways']}w{one['shots']}s {one['track']}"
        eps = f"{NORMS.get(one['norm'], one['norm'])} {eps_text(one['rank_eps'])}"
        worst, clean = (f"{100 * one['robust']:.1f}", f"{100 * one['clean']:.1f}")
        if not reference:
            worst = Value(one["robust"], one["robust_ci95"], 0).text
            clean = Value(one["clean"], one["clean_ci95"], 0).text
        row = [rank, str(one["checkpoint"]), steps_text(one["steps"]), task, str(one["surface"]), eps]
        rows.append([*row, worst, clean, n, str(one["seed"]), note])
    return columns, rows


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def _table(board: list[Standing], slug: str, names: dict[tuple[str, str], str], differences: pd.DataFrame) -> Table:
    about, eps = board[0].board, columns_of_eps(board)
    rows = [_row(one, eps, names) for one in board]
    above = sum(row.kind == "ranked" and row.worst[0].mean > about.constant for row in rows)
    rows.insert(above, _constant_row(about, eps))
    mine = differences
    for name in ("family", "episodes", "split", "ways", "shots", "queries", "surface", "norm", "seed", "track"):
        mine = mine[mine[name] == getattr(about, name)]
    return Table(
        slug=slug,
        section=_section(about),
        title=title(about),
        criterion=_criterion(board),
        constant=about.constant,
        seed=about.seed,
        eps=[eps_text(one) for one in eps],
        rows=rows,
        differences=_differences(mine, eps, names),
    )


def _section(board: Board) -> str:
    if board.surface == "support":
        return "Poisoned support"
    return "Attacked queries, transductive" if board.track == "transductive" else "Attacked queries"


def _criterion(board: list[Standing]) -> str:
    about, eps = board[0].board, board[0].rank_eps
    required = next((one.outcomes[eps].required for one in board if eps in one.outcomes), ())
    what = "query" if about.surface == "query" else "fresh query"
    attacks = ", ".join(required) or "no white-box attack"
    return (
        f"Ranked by worst-case accuracy at ε = {eps_text(eps)}, the largest ε that most entries were run at: a {what} "
        f"counts only if it is right when clean and withstands every attack run at this ε ({attacks}) and at every "
        f"smaller one, on the tasks on which all of them ran (n). {about.queries} queries a class, seed {about.seed}."
    )


def _row(one: Standing, eps: list[float], names: dict[tuple[str, str], str]) -> Row:
    entry = one.entry
    flags = [flag for outcome in one.outcomes.values() for flag in outcome.flags]
    n = one.robust[2] or one.clean[2]
    return Row(
        kind="unranked" if one.rank is None else "ranked",
        rank=NOTHING if one.rank is None else f"{one.rank}{'=' if one.tied else ''}",
        name=names[entry.checkpoint, entry.weights],
        algorithm=entry.algorithm,
        defense=entry.defense,
        norm_mode=entry.norm_mode,
        steps=steps_text(entry.steps),
        worst=[robust_value(one.outcomes.get(value)) for value in eps],
        clean=Value(*one.clean),
        n=str(n),
        reason="; ".join(filter(None, [one.reason, *(f"flagged: {flag}" for flag in flags)])),
        attacks=_attack_rows(one, eps),
    )


def _constant_row(board: Board, eps: list[float]) -> Row:
    value = Value(board.constant, 0.0, 0)
    return Row(
        kind="reference",
        rank=NOTHING,
        name=CONSTANT,
        algorithm="always the same class",
        defense=NOTHING,
        norm_mode=NOTHING,
        steps=NOTHING,
        worst=[value for _ in eps],
        clean=value,
        n=NOTHING,
        reason="",
        attacks=[],
    )


def _attack_rows(one: Standing, eps: list[float]) -> list[AttackRow]:
    rows = []
    for attack in sorted({name for outcome in one.outcomes.values() for name in outcome.runs}):
        values, passes = [], ""
        for at in eps:
            run = one.outcomes[at].runs.get(attack) if at in one.outcomes else None
            if run is None:
                values.append(Value(math.nan, math.nan, 0))
                continue
            values.append(Value(*interval(run.survived.mean(1)), len(run.tasks)))
            queries = run.survived.size
            passes = passes or f"{run.forwards.sum() / queries:,.0f} / {run.backwards.sum() / queries:,.0f}"
        rows.append(AttackRow(attack, values, passes))
    return rows


def _differences(rows: pd.DataFrame, eps: list[float], names: dict[tuple[str, str], str]) -> list[Difference]:
    columns = ["checkpoint", "weights", "steps", "reference", "reference_weights", "reference_steps"]
    made = []
    for _, mine in rows.groupby(columns, sort=False, dropna=False):
        first = mine.iloc[0]
        values = {
            (str(row["attack"]), float(row["eps"])): Value(row["difference"], row["ci95"], row["tasks"], signed=True)
            for row in mine.to_dict("records")
        }
        none = Value(math.nan, math.nan, 0)
        attacks = sorted({attack for attack, _ in values if attack != "clean"}, key=lambda a: (a != WORST_CASE, a))
        steps, theirs = steps_text(first["steps"]), steps_text(first["reference_steps"])
        reference = names[first["reference"], first["reference_weights"]]
        made.append(
            Difference(
                name=names[first["checkpoint"], first["weights"]],
                steps=steps,
                reference=reference if theirs == steps else f"{reference}, {theirs} steps",
                clean=values.get(("clean", 0.0), none),
                rows=[AttackRow(a, [values.get((a, at), none) for at in eps], "") for a in attacks],
            )
        )
    return made


def _footnotes(boards: list[list[Standing]], names: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
    tracks = {one[0].board.track for one in boards}
    notes = [
        (LACKING, "Not every required attack ran on this entry at this ε, so the number may flatter it; no rank."),
        (
            CONSTANT_MARK,
            "Not better than a constant: the 95 % interval reaches 1/K. A model that always gives the same class "
            "has that accuracy at every ε, so such a number is worth nothing.",
        ),
        (
            "±",
            "Half-width of a 95 % Student t interval over tasks. It says how well these tasks measure this checkpoint, "
            "not how another training seed would do. Where every task gives the same value it is 0 and says little "
            "if n is small; with one task there is none (n/a).",
        ),
        ("=", "Shared rank: the 95 % interval of the paired difference to the first of the rank includes 0."),
        ("ε", "In units of the inputs: pixels in [0, 1], normalisation inside the model."),
        (
            "autoattack",
            "With K-1 target classes, K the number of ways: all there are for K ≤ 10, so nothing is weakened.",
        ),
    ]
    if "inductive" in tracks:
        text = "Inductive: each query is judged alone; normalisation by the support set or by running statistics."
        notes.append(("inductive", text))
    if "transductive" in tracks:
        text = (
            "Transductive: the query batch itself normalises, so one query's perturbation moves its neighbours and "
            "the number depends on the batch. Such entries have tables of their own."
        )
        notes.append(("transductive", text))
    if any(one[0].board.surface == "support" for one in boards):
        text = "Poisoned support: the adversary moves the support images; judged on fresh, clean queries."
        notes.append(("support", text))
    return notes


def entry_label(entry: Entry, names: dict[tuple[str, str], str]) -> str:
    """Name an entry in a figure: the checkpoint, and its steps where it has any."""
    name = names[entry.checkpoint, entry.weights]
    return name if entry.steps is None else f"{name}, {entry.steps} step{'' if entry.steps == 1 else 's'}"
