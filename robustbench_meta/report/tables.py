"""Rows of text for every place that shows a table: leaderboards, attacks, differences, cells.csv, a terminal."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace
from typing import Any

import pandas as pd

from robustbench_meta.flags import ABOUT, WIDEST, About, Flag
from robustbench_meta.intervals import LEAST_SEEDS
from robustbench_meta.outcomes import (
    Board,
    Entry,
    Outcome,
    Results,
    attack_fields,
    eps_text,
    field_names,
    is_corruption,
)
from robustbench_meta.ranking import Standing, better_than_constant, separation, standings
from robustbench_meta.report import units
from robustbench_meta.statistics import COLUMNS, CONSTANT, WORST_CASE, paired_differences
from robustbench_meta.untrusted import printable

NOTHING = "\N{EN DASH}"
LACKING, CONSTANT_MARK = "†", "‡"
FEW = f"fewer than {LEAST_SEEDS} seeds speak of no method"
SEEDS = (
    "Training seeds of one recipe share a row, whose numbers are means over them on the tasks that all of them met. "
    f"From {LEAST_SEEDS} seeds on the row is a method: its intervals and tests are over seeds and tasks, each part "
    "with its own Student t, added in quadrature. Fewer are checkpoints, with intervals over tasks alone. A red flag "
    "of one seed takes the rank of the row away."
)
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "corruption": "common corruptions"}


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
        """Write "38.2 ± 1.1", in percent or percentage points, or that n is too small for a number."""
        if not self.known:
            return NOTHING
        if not self.firm:
            return f"n = {self.n} too small{self.mark}"
        return f"{self.percent} ± {100 * self.half:.1f}{self.mark}"

    @property
    def percent(self) -> str:
        return f"{100 * self.mean:+.1f}" if self.signed else f"{100 * self.mean:.1f}"

    @property
    def firm(self) -> bool:
        """Whether there is an interval, and one narrow enough to be worth a number."""
        return self.half <= WIDEST

    @property
    def decided(self) -> bool:
        """Whether a difference's interval leaves out 0."""
        return self.firm and abs(self.mean) > self.half


NONE = Value(math.nan, math.nan, 0)


@dataclass(frozen=True)
class AttackRow:
    """What one attack left of an entry: one value per eps column, and rows sent per query at the first of them.

    `clean` is measured on the most tasks that the attack ran on at one eps.
    """

    attack: str
    values: list[Value]
    clean: Value
    passes: str

    @property
    def n(self) -> str:
        return counts(self.values)


@dataclass(frozen=True)
class Row:
    """One line of a leaderboard; `kind` is "ranked", "unranked" or "reference".

    `between` is the interval of the rank, as "1–3", where there is one.
    """

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
    flags: str
    reason: str
    raised: list[Flag]
    attacks: list[AttackRow]
    between: str = ""
    known: str = ""  # whose examples lowered which number, and what our attacks had left
    seeds: str = ""  # training seeds of one recipe that share this row, as "3, a method"
    spread: str = ""  # how far their means lie apart
    left_out: tuple[str, ...] = ()  # what was not asked of it, and why
    unasked: tuple[str, ...] = ()  # the flags that nothing could have raised


@dataclass(frozen=True)
class Difference:
    """One entry minus its reference: a clean value, and per attack one value per eps column."""

    name: str
    steps: str
    reference: str
    clean: Value
    rows: list[AttackRow]


@dataclass(frozen=True)
class TransferRow:
    """One adversarial test set, one value per column; `own` is the column of the learner that it was made on."""

    source: str
    attack: str
    values: list[Value]
    own: int | None


@dataclass(frozen=True)
class Transfer:
    """A transfer matrix at one eps: `columns` are the learners scored, the first row their clean accuracy."""

    eps: str
    columns: list[str]
    rows: list[TransferRow]

    @property
    def n(self) -> str:
        """The number of tasks that most values rest on; others carry their own."""
        known = Counter(value.n for row in self.rows for value in row.values if value.known)
        return str(known.most_common(1)[0][0]) if known else NOTHING


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
    budget: str = "ε"  # what an eps is called
    foremost: str = ""  # what is said before the worst case

    @property
    def several(self) -> bool:
        """Whether training seeds share a row, so that a column says how many."""
        return any(row.seeds for row in self.rows)

    @property
    def headline(self) -> str:
        """Name the best ranked row, and what its number is worth; empty if nothing is ranked."""
        return "; ".join(filter(None, [self.foremost, self._best]))

    @property
    def _best(self) -> str:
        ranked = [row for row in self.rows if row.kind == "ranked"]
        lead = max(ranked, key=lambda row: row.worst[0].mean, default=None)
        if lead is None:
            return ""
        best, constant = lead.worst[0], f"a constant predictor has {100 * self.constant:.1f} %"
        first = f"{self.budget} = {self.eps[0]}" if self.budget == "ε" else f"{self.budget} {self.eps[0]}"
        found = f"highest worst case at {first}: {lead.name}, "
        if not best.firm:
            return f"{found}but n = {best.n} is too small to say how robust it is"
        found += f"{best.percent} ± {100 * best.half:.1f} %, n = {best.n}"
        if CONSTANT_MARK not in best.mark:
            return f"{found} ({constant})"
        if not self.constant and not best.mean:
            return f"{found}: no learner keeps any ({constant})"
        if best.mean + best.half < self.constant:
            return f"{found}; worth nothing, {constant}"
        return f"{found}; not shown to be better than nothing, {constant} and the interval reaches that"

    def n_label(self, counted: Iterable[str]) -> str:
        """Head a column of n: where rows differ between the eps columns, say which n is whose."""
        return f"n at {self.budget} {', '.join(self.eps)}" if any("," in one for one in counted) else "n"


@dataclass(frozen=True)
class CorruptedRow:
    """What corruptions leave of one entry: accuracies, and `difference`, its mean minus that of `reference`, if any.

    `severities` and `kinds` are in the order of the columns; `missing` counts what others met and this entry did not.
    """

    name: str
    steps: str
    clean: Value
    mean: Value
    drop: Value
    worst: Value
    reference: str
    difference: Value
    severities: list[Value]
    kinds: list[Value]
    missing: int

    @property
    def n(self) -> str:
        return str(self.clean.n)

    @property
    def against(self) -> str:
        """Write the difference and from whom."""
        return f"{self.difference.text} (minus {self.reference})" if self.difference.known else NOTHING


@dataclass(frozen=True)
class Corrupted:
    """Accuracy under common corruptions: a column for each severity, and one for each of `kinds`."""

    severities: list[int]
    kinds: list[str]
    rows: list[CorruptedRow]


@dataclass(frozen=True)
class FlagRow:
    """A flag explained, with (entry, what was found) wherever it was raised, and of how many rows it was not asked."""

    about: About
    raised: list[tuple[str, str]]
    unasked: str = ""


@dataclass(frozen=True)
class ProtocolRow:
    """Entries of a board that differ from a protocol in the same things; in nothing where there are no lines."""

    board: str
    entries: list[str]
    differences: tuple[str, ...]


@dataclass(frozen=True)
class ProtocolTable:
    """How rows stand to one protocol; `beyond` says what no run here does as the paper's code."""

    label: str
    about: str
    beyond: tuple[str, ...]
    rows: list[ProtocolRow]


@dataclass(frozen=True)
class Report:
    """Everything the pages show, figures apart."""

    tables: list[Table]
    attacks: dict[str, str]
    episodes: dict[str, str]
    footnotes: list[tuple[str, str]]
    flags: list[FlagRow]
    missing: list[str]
    transfers: dict[str, list[Transfer]] = field(default_factory=dict)  # by slug of the board
    corrupted: dict[str, Corrupted] = field(default_factory=dict)  # by slug of the board
    protocols: list[ProtocolTable] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)  # protocols of which no attack was run
    left_out: list[tuple[str, list[str]]] = field(default_factory=list)  # what audits did not ask, and of which rows


def tables(
    results: Results, boards: list[list[Standing]] | None = None, gallery: Sequence[dict[str, Any]] = ()
) -> Report:
    """Turn results into tables of text, one per board, and say what the results do not hold."""
    boards = standings(results) if boards is None else boards
    names, differences = row_names(results.cells, boards), paired_differences(results)
    abouts = [one[0].board for one in boards]
    made = [
        _table(board, slug, heading, names, differences)
        for board, slug, heading in zip(boards, slugs(abouts), titles(abouts), strict=True)
    ]
    episodes: dict[str, list[str]] = {}
    for about in abouts:
        hashes = episodes.setdefault(f"{about.family} {about.split}", [])
        hashes += [about.episodes] if about.episodes not in hashes else []
    shown = {name: ", ".join(hashes) for name, hashes in sorted(episodes.items())}
    flags, missing = _flags(made), _missing(results, gallery)
    return Report(made, attack_fields(results), shown, _footnotes(boards), flags, missing, left_out=_left_out(made))


def display_names(cells: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Name every (checkpoint, weights); two sets of weights under one name are told apart by their hash."""
    pairs = sorted(set(zip(cells["checkpoint"], cells["weights"], strict=True)))
    count = pd.Series([name for name, _ in pairs], dtype=object).value_counts()
    return {(name, weights): f"{name}@{weights[:8]}" if count[name] > 1 else name for name, weights in pairs}


def row_names(cells: pd.DataFrame, boards: list[list[Standing]]) -> dict[tuple[str, str], str]:
    """Name every checkpoint, and every row that training seeds share, by the name and weights of its entry."""
    names = display_names(cells)
    for one in (one for board in boards for one in board if one.members):
        entry = one.entry
        twins = {weights for name, weights in names if name == entry.checkpoint}
        apart = twins - {entry.weights, *(member.entry.weights for member in one.members)}
        names[entry.checkpoint, entry.weights] = entry.checkpoint + (f"@{entry.weights[:8]}" if apart else "")
    return names


def slugs(boards: Sequence[Board]) -> list[str]:
    """Name every board for files and anchors: lower case letters, digits and hyphens, no two the same.

    A board with 0 shots stands for a board at any number of them.
    """
    made: list[str] = []
    for board, apart in zip(boards, _told_apart(boards), strict=True):
        shots = f"{board.shots}s" if board.shots else ""
        words = f"{board.family} {board.split} {board.ways}w{shots} {board.norm} {board.surface}"
        words += "" if board.fraction == 1 else f" {board.fraction:.4g}"
        words += " transductive" if board.track == "transductive" else ""
        slug = "-".join([_plain(words)[:80], *(_plain(f"{value}{name[:1]}") for name, value in apart.items())])
        number = next(i for i in range(1, len(boards) + 1) if (slug if i == 1 else f"{slug}-{i}") not in made)
        made.append(slug if number == 1 else f"{slug}-{number}")
    return made


def titles(boards: Sequence[Board]) -> list[str]:
    """Describe every board in one line, no two the same: where nothing else differs, by queries, seed or episodes."""
    words = {"queries": "{} queries a class", "seed": "seed {}", "episodes": "episodes {}"}
    return [
        ", ".join([_title(board), *(words[name].format(value) for name, value in apart.items())])
        for board, apart in zip(boards, _told_apart(boards), strict=True)
    ]


def _told_apart(boards: Sequence[Board]) -> list[dict[str, int | str]]:
    """Return by board those of queries, seed and episodes in which it differs from one that is the same otherwise."""
    made = []
    for board in boards:
        queries, seed, episodes = board.queries, board.seed, board.episodes
        twins = [one for one in boards if replace(one, queries=queries, seed=seed, episodes=episodes) == board]
        own: dict[str, int | str] = {"queries": queries, "seed": seed, "episodes": episodes[:8]}
        made.append({name: own[name] for name in own if len({getattr(one, name) for one in twins}) > 1})
    return made


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _title(board: Board) -> str:
    shots = f" {board.shots}-shot" if board.shots else ""
    return f"{board.family} ({board.split}), {board.ways}-way{shots}, {norm_text(board)}{_special(board)}"


def _special(board: Board) -> str:
    if board.surface == "rollout":
        return ", success of rollouts"
    if board.surface == "sequence":
        return ", whole sequences" + (", transductive" if board.track == "transductive" else "")
    if board.surface == "support":
        part = "" if board.fraction == 1 else f" ({board.fraction:.4g} of each class)"
        return f", poisoned support{part}" + (", transductive" if board.track == "transductive" else "")
    return ", transductive" if board.track == "transductive" else ""


def norm_text(board: Board) -> str:
    """Write a board's norm the way papers do."""
    return NORMS.get(board.norm, board.norm)


def steps_text(steps: int | None) -> str:
    """Show a number of adaptation steps; an algorithm without steps has none to show."""
    return NOTHING if steps is None or pd.isna(steps) else str(int(steps))


def robust_value(outcome: Outcome | None) -> Value:
    """Return an entry's best known worst case at one eps, marked where footnotes apply."""
    if outcome is None or not len(outcome.known):
        return Value(math.nan, math.nan, 0)
    mean, half = outcome.accuracy("known")
    useless = not better_than_constant(mean, half, outcome.board.constant)
    mark = (LACKING if not outcome.complete else "") + (CONSTANT_MARK if useless else "")
    return Value(mean, half, len(outcome.known), mark)


def counts(values: Sequence[Value]) -> str:
    """Write n, once if it is the same at every eps where there is one."""
    each = [str(value.n) if value.known and value.n else NOTHING for value in values]
    known = set(each) - {NOTHING}
    return ", ".join(each) if len(known) > 1 else next(iter(known), NOTHING)


def with_n(value: Value, n: str) -> str:
    """Write a value, with its n where the row's `n` is not that one number."""
    return f"{value.text} (n = {value.n})" if value.n and value.firm and n != str(value.n) else value.text


def threat_text(norm: str, eps: float) -> str:
    """Write a norm and a budget as everywhere: L∞ 8/255, severity 5."""
    return f"severity {eps_text(eps)}" if is_corruption(norm) else f"{NORMS.get(norm, norm)} {eps_text(eps)}"


def titled(gallery: Sequence[dict[str, Any]], cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Title each item of a gallery by the cell that its `key` names; without one it keeps its own title."""
    titles, known = cell_titles(cells), {cell["key"]: cell for cell in cells.to_dict("records")}
    made, details = [], []
    for item in gallery:
        cell = known.get(item.get("key", ""))
        if cell is None:
            made.append(item)
            details.append("")
            continue
        made.append(item | {"title": titles[cell["key"]]})
        details.append(f", {cell['queries']} queries a class, seed {cell['seed']}")
    count = Counter(item["title"] for item in made)
    return [
        item | {"title": item["title"] + more} if count[item["title"]] > 1 else item
        for item, more in zip(made, details, strict=True)
    ]


def cell_titles(cells: pd.DataFrame) -> dict[str, str]:
    """Title every cell by its key: who was attacked, after how many shots and steps, by what."""
    names, made = display_names(cells), {}
    for cell in cells.to_dict("records"):
        steps = "" if pd.isna(cell["steps"]) else f", {steps_text(cell['steps'])} steps"
        about = f"{names[cell['checkpoint'], cell['weights']]}, {cell['shots']}-shot{steps}"
        made[cell["key"]] = f"{about}: {cell['attack']}, {threat_text(cell['norm'], cell['eps'])}"
    return made


def columns_of_eps(board: list[Standing]) -> list[float]:
    """Order the budgets of a board: the one of the ranking first, then the others from large to small."""
    ranked = board[0].rank_eps
    every = {eps for one in board for eps in one.outcomes}
    return [ranked, *sorted(every - {ranked}, reverse=True)]


def csv_text(summary: pd.DataFrame) -> str:
    """Write cells.csv: accuracies in [0, 1], ci95 the half-width."""
    return csv_of(summary[list(COLUMNS)])


def csv_of(table: pd.DataFrame) -> str:
    """Write a table as CSV, what is missing as an empty cell; no text cell can be read as a formula."""
    lines: list[str] = []
    # With "\n" alone as line end Python leaves a bare CR unquoted, and a spreadsheet starts a new row there.
    writer = csv.writer(SimpleNamespace(write=lines.append), lineterminator="\r\n")
    writer.writerow(table.columns)
    for row in table.itertuples(index=False, name=None):
        writer.writerow(["" if pd.isna(value) else _harmless(value) for value in row])
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def shown(results: Results, gallery: Sequence[dict[str, Any]]) -> tuple[Results, list[dict[str, Any]]]:
    """Make every text printable before it is shown anywhere, whichever tables and columns there are."""
    given: Any = results
    frames = {one.name: getattr(given, one.name) for one in fields(given) if one.name != "tasks"}  # they hold bits
    made = replace(given, **{name: frame.map(_shown).astype(frame.dtypes) for name, frame in frames.items()})
    return made, [{name: _shown(value) for name, value in item.items()} for item in gallery]


def rich_rows(summary: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows of plain text for a terminal, one row per cell of `summarise`.

    The text holds no control characters, but may look like markup: wrap it in rich.text.Text where it is printed.
    """
    columns = ["checkpoint", "steps", "task", "surface", "attack", "eps", "clean %", "robust %", "n", "seed"]
    columns += ["status", "flags"]
    rows = []
    for cell in summary.to_dict("records"):
        task = f"{cell['family']} {cell['ways']}w{cell['shots']}s"
        eps = threat_text(cell["norm"], cell["eps"])
        clean = _rough(Value(cell["clean"], cell["clean_ci95"], cell["tasks"]))
        robust = _rough(Value(cell["robust"], cell["robust_ci95"], cell["tasks"]))
        row = [str(cell["checkpoint"]), steps_text(cell["steps"]), task, str(cell["surface"]), str(cell["attack"]), eps]
        row += [clean, robust, str(cell["tasks"]), str(cell["seed"]), str(cell["status"]), str(cell["flags"])]
        rows.append(row)
    return columns, [[printable(text) for text in row] for row in rows]


def rank_rows(leaderboard: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows of plain text for a terminal, one row per entry of `leaderboard`."""
    columns = ["rank", "checkpoint", "steps", "task", "surface", "eps", "worst case %", "clean %", "n", "seed", "flags"]
    columns += ["note"]
    rows = []
    for one in leaderboard.to_dict("records"):
        reference = one["reason"] == "reference"
        rank = NOTHING if pd.isna(one["rank"]) else f"{one['rank']}{'=' if one['tied'] else ''}"
        n = NOTHING if pd.isna(one["tasks"]) else str(one["tasks"])
        useless = not reference and not pd.isna(one["robust"]) and not one["better_than_constant"]
        note = "; ".join(filter(None, [one["reason"], "not better than a constant" if useless else ""]))
        task = f"{one['family']} {one['ways']}w{one['shots']}s {one['track']}"
        eps = threat_text(one["norm"], one["rank_eps"])
        worst, clean = (f"{100 * one['robust']:.1f}", f"{100 * one['clean']:.1f}")
        if not reference:
            worst = _rough(Value(one["robust"], one["robust_ci95"], 0))
            clean = _rough(Value(one["clean"], one["clean_ci95"], 0))
        row = [rank, str(one["checkpoint"]), steps_text(one["steps"]), task, str(one["surface"]), eps]
        rows.append([*row, worst, clean, n, str(one["seed"]), one["flags"] or NOTHING, note])
    return columns, [[printable(text) for text in row] for row in rows]


def share(percents: tuple[float, float], n: int) -> str:
    """Write a mean and half-width in % over n tasks as a Value is written."""
    return Value(percents[0] / 100, percents[1] / 100, n).text


def _rough(value: Value) -> str:
    """Write a value for a terminal, where a first try on one or two tasks wants to see at least their mean."""
    return value.text if value.firm or not value.known else f"{value.percent}, n too small"


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def _harmless(value: object) -> object:
    # Also behind a semicolon, where half of Europe's spreadsheets part cells, and full width, as Japan's read it.
    return _FORMULA.sub(r"\1'", value) if isinstance(value, str) else value


_FORMULA = re.compile(r"(^|;\s*)(?=[=+\-@\t\r\n＝＋－＠])")


def _table(
    board: list[Standing], slug: str, heading: str, names: dict[tuple[str, str], str], differences: pd.DataFrame
) -> Table:
    about, eps = board[0].board, columns_of_eps(board)
    rows = [_row(one, eps, names) for one in board]
    above = sum(row.kind == "ranked" and row.worst[0].mean > about.constant for row in rows)
    rows.insert(above, _constant_row(about, eps))
    mine = differences
    for name in field_names(Board):
        mine = mine[mine[name] == getattr(about, name)]
    return Table(
        slug=slug,
        section=_section(about),
        title=heading,
        criterion=_criterion(board),
        constant=about.constant,
        seed=about.seed,
        eps=[eps_text(one) for one in eps],
        rows=rows,
        differences=_differences(mine, eps, names),
        budget=about.budget,
    )


def _flags(made: list[Table]) -> list[FlagRow]:
    """Explain every flag, also those that were not raised: that is what "none" means."""
    rows = [(table, row) for table in made for row in table.rows]
    learners = [row for _, row in rows if row.kind != "reference"]
    unasked = Counter(code for row in learners for code in row.unasked)
    return [
        FlagRow(
            about,
            [
                (_where(table, row, len(made)), f"{flag.colour}: {flag.detail}")
                for table, row in rows
                for flag in row.raised
                if flag.code == about.code
            ],
            f"not asked of {unasked[about.code]} of {len(learners)} rows" if unasked[about.code] else "",
        )
        for about in ABOUT
    ]


def _left_out(made: list[Table]) -> list[tuple[str, list[str]]]:
    """Say what audits did not ask of which rows."""
    found: dict[str, list[str]] = {}
    for table in made:
        for row in table.rows:
            for what in row.left_out:
                found.setdefault(what, []).append(_where(table, row, len(made)))
    return sorted(found.items())


def _where(table: Table, row: Row, boards: int) -> str:
    steps = "" if row.steps == NOTHING else f", {row.steps} steps"
    return f"{row.name}{steps}" + (f" ({table.title})" if boards > 1 else "")


def _section(board: Board) -> str:
    if board.surface == "rollout":
        return "Attacked rollouts"
    if board.surface == "sequence":
        return "Attacked sequences"
    if board.surface == "support":
        return "Poisoned support"
    what = "Corrupted queries" if board.corrupted else "Attacked queries"
    return f"{what}, transductive" if board.track == "transductive" else what


def _criterion(board: list[Standing]) -> str:
    about, eps = board[0].board, columns_of_eps(board)
    what = {"support": "fresh query"}.get(about.surface, about.surface)
    met = {at: ", ".join(_required(board, at)) or "no white-box attack" for at in eps}
    acts = "under every corruption" if about.corrupted else "withstands every attack"
    each, budget = ("corruptions" if about.corrupted else "attacks"), about.budget
    text = (
        f"Ranked by worst-case accuracy at {about.at(eps[0])}, the largest {budget} that most entries were run at: a "
        f"{what} counts only if it is right when clean and {acts} run at this {budget} ({met[eps[0]]}) and "
        f"every one that was run on its task at a smaller {budget}. n: the tasks on which all {each} of this {budget} "
        "ran."
    )
    others: dict[str, list[str]] = {}
    for at in eps[1:]:
        others.setdefault(met[at], []).append(eps_text(at))
    if others:
        listed = "; ".join(f"{', '.join(those)}: {attacks}" for attacks, those in others.items())
        own = f"by the same {each}" if list(others) == [met[eps[0]]] else f"by the {each} run there ({listed})"
        text += f" The other columns are the same at their own {budget}, {own}, each on its own n tasks."
    if about.surface == "rollout":
        text = f"Success rates of rollouts, of which a constant predictor has 0: right means that one succeeds. {text}"
    if about.whole:
        text = (
            "Exact match: right means every token of the target. A constant predictor, one token all the time, has 0; "
            f"always writing the support's commonest target may have more. {text}"
        )
    parts = (
        f"{text} {about.queries} queries a class, seed {about.seed}.",
        separation(board).text,
        units.budgets(about, eps),
    )
    return " ".join(filter(None, parts))


def _required(board: list[Standing], eps: float) -> tuple[str, ...]:
    return next((one.outcomes[eps].required for one in board if eps in one.outcomes), ())


def _row(one: Standing, eps: list[float], names: dict[tuple[str, str], str]) -> Row:
    entry = one.entry
    worst, clean = [robust_value(one.outcomes.get(value)) for value in eps], Value(*one.clean)
    n = counts(worst)
    return Row(
        kind="unranked" if one.rank is None else "ranked",
        rank=NOTHING if one.rank is None else f"{one.rank}{'=' if one.tied else ''}",
        name=names[entry.checkpoint, entry.weights],
        algorithm=entry.algorithm,
        defense=entry.defense,
        norm_mode=entry.norm_mode,
        steps=steps_text(entry.steps),
        worst=worst,
        clean=clean,
        n=str(clean.n) if n == NOTHING and clean.n else n,
        flags=one.check.text,
        reason=one.reason,
        known=_credit(one, eps),
        raised=list(one.check.flags),
        left_out=one.check.left_out,
        unasked=one.check.unasked,
        attacks=_attack_rows(one, eps),
        between=rank_interval(one),
        seeds=f"{one.seeds}, a {one.word}" if one.members else "",
        spread=_spread(one),
    )


def _spread(one: Standing) -> str:
    """Say which training seeds share a row, and how far apart they lie."""
    if not one.members:
        return ""
    trained = ", ".join(map(str, one.trained))
    (low, high), (least, most) = one.spread("known"), one.spread("clean")
    what = "interval over seeds and tasks" if one.word == "method" else f"interval over tasks alone: {FEW}"
    left = ", ".join(map(str, one.outside))
    rest = (
        f"; of this recipe, not in this row: training seed{'s' if len(one.outside) > 1 else ''} {left}" if left else ""
    )
    return (
        f"training seeds {trained}; worst case at {one.board.budget} {eps_text(one.rank_eps)} from {100 * low:.1f} to "
        f"{100 * high:.1f}, clean from {100 * least:.1f} to {100 * most:.1f} %; {what}{rest}"
    )


def rank_interval(one: Standing) -> str:
    """Write the interval of a rank, as "1–3"; empty where there is none."""
    if one.rank_low is None or one.rank_high is None:
        return ""
    return f"{one.rank_low}" if one.rank_low == one.rank_high else f"{one.rank_low}{NOTHING}{one.rank_high}"


def _credit(one: Standing, eps: list[float]) -> str:
    """Say whose examples lowered which worst case, and what our own attacks left there."""
    found = [(at, one.outcomes[at]) for at in eps if at in one.outcomes and one.outcomes[at].external]
    ours = {at: Value(*outcome.accuracy("robust"), len(outcome.robust)).text for at, outcome in found}
    return "; ".join(
        f"ε {eps_text(at)} by {', '.join(outcome.external)} (our attacks leave {ours[at]})" for at, outcome in found
    )


def _constant_row(board: Board, eps: list[float]) -> Row:
    value = Value(board.constant, 0.0, 0)
    return Row(
        kind="reference",
        rank=NOTHING,
        name=CONSTANT,
        algorithm=f"always the same {'token' if board.whole else 'action' if board.surface == 'rollout' else 'class'}",
        defense=NOTHING,
        norm_mode=NOTHING,
        steps=NOTHING,
        worst=[value for _ in eps],
        clean=value,
        n=NOTHING,
        flags=NOTHING,
        reason="",
        raised=[],
        attacks=[],
    )


def _attack_rows(one: Standing, eps: list[float]) -> list[AttackRow]:
    rows = []
    for attack in sorted({name for outcome in one.outcomes.values() for name in outcome.runs}):
        runs = [one.outcomes[at].runs.get(attack) if at in one.outcomes else None for at in eps]
        values = [NONE if run is None else Value(*run.accuracy(), len(run.tasks)) for run in runs]
        ran = [run for run in runs if run is not None]
        longest, queries = max(ran, key=lambda run: len(run.tasks)), ran[0].survived.size
        clean = Value(*longest.accuracy("clean"), len(longest.tasks))
        passes = f"{ran[0].forwards.sum() / queries:,.0f} / {ran[0].backwards.sum() / queries:,.0f}"
        rows.append(AttackRow(attack, values, clean, passes))
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
        attacks = sorted({attack for attack, _ in values if attack != "clean"}, key=lambda a: (a != WORST_CASE, a))
        steps, theirs = steps_text(first["steps"]), steps_text(first["reference_steps"])
        reference = names[first["reference"], first["reference_weights"]]
        made.append(
            Difference(
                name=names[first["checkpoint"], first["weights"]],
                steps=steps,
                reference=reference if theirs == steps else f"{reference}, {theirs} steps",
                clean=values.get(("clean", 0.0), NONE),
                rows=[AttackRow(a, [values.get((a, at), NONE) for at in eps], NONE, "") for a in attacks],
            )
        )
    return made


def _missing(results: Results, gallery: Sequence[dict[str, Any]]) -> list[str]:
    """Say which parts of a report these results cannot give, so that their absence is not taken for a choice."""
    cells, made = results.cells[results.cells["status"] != "error"], []
    untimed = int(cells["seconds"].isna().sum())
    if not gallery and (cells["surface"] != "support").any():  # of a poisoned support no query moved
        made.append("The gallery: these results hold no pictures of attacked queries (no folder gallery/).")
    if len(cells) and untimed:
        which = "all" if untimed == len(cells) else f"{untimed} of {len(cells)}"
        made.append(
            f"Seconds in cells.csv, for {which} cells: these results hold no timings of them (folder timings/)."
        )
    return made


def _footnotes(boards: list[list[Standing]]) -> list[tuple[str, str]]:
    tracks = {one[0].board.track for one in boards}
    notes = [
        (LACKING, "Not every required attack ran on this entry at this ε, so the number may flatter it; no rank."),
        (
            CONSTANT_MARK,
            "Not shown to be better than a constant: the 95 % interval does not lie above what it has, 1/K, or 0 where "
            "learners act or write. A model that always gives the same class has that accuracy at every ε, so such a "
            "number is worth nothing.",
        ),
        (
            "±",
            "Half-width of a 95 % Student t interval over tasks. It says how well these tasks measure this checkpoint, "
            "not how another training seed would do. Where every task gives the same value it is 0 and says little "
            f"if n is small. One task has no interval, and two or three often one beyond ± {100 * WIDEST:.0f} points: "
            "then the table says that n is too small, and cells.csv keeps the numbers.",
        ),
        (
            "Rank",
            "One more than the number of ranked entries that are shown to be better: by a paired t test on the tasks "
            "that the two met, its p-value no smaller than the signs of n differences allow, 2^(1-n), and corrected "
            "for all pairs of the table (Holm's method), so that with 95 % confidence no ranked entry is placed behind "
            "one that it equals or beats. Few tasks show nothing, however far the means lie apart.",
        ),
        ("=", "Shared rank: equally many entries are shown to be better than each; they are ordered by their mean."),
        (
            "ε",
            "In units of the inputs: pixels lie in [0, 1], sound in [-1, 1]; normalisation is inside the model. "
            "Of words and labels, how many are replaced.",
        ),
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
    if any(outcome.transferred for board in boards for one in board for outcome in one.outcomes.values()):
        text = (
            "Adversarial examples kept of an attack on the learner it names. They are no part of the worst case, "
            "or whoever was scored on more of them would rank lower; no entry needs them for a rank."
        )
        notes.append(("file:", text))
    if any(one.members for board in boards for one in board):
        notes.append(("Seeds", SEEDS))
    if any(one[0].board.surface == "support" for one in boards):
        text = (
            "Poisoned support: the adversary moves the support's inputs or flips its labels, all or of each class the "
            "fraction that the title names, judging by labelled items of its own; scored on fresh, clean queries."
        )
        notes.append(("support", text))
    if any(one[0].board.corrupted for one in boards):
        text = (
            "A corruption has no adversary: one draw, the same for every learner, of a strength that its severity "
            "names, 1 to 5 (Hendrycks and Dietterich, arXiv 1903.12261). What each leaves, and their mean, is plain "
            "accuracy on the corrupted queries, also those that were wrong when clean; the worst case counts a query "
            "that is right when clean and under every corruption up to its severity."
        )
        notes.append(("severity", text))
    if any(one[0].board.surface == "rollout" for one in boards):
        text = (
            "Success rates: the adversary adds to what a policy observes at every step of a rollout; whether it "
            "succeeds is judged on a replay. A constant predictor does one thing all the time and never succeeds."
        )
        notes.append(("rollouts", text))
    if any(one[0].board.whole for one in boards):
        text = (
            "Exact match: a sentence is right where every token that the learner writes is the target's, the end "
            "included. The adversary, who attacks the source sentence or the support, makes one of them wrong. A "
            "constant predictor writes one token all the time, which is no target, so its 0 is no measure of what a "
            "task gives away: who always writes the commonest target of the support, whatever the source says, may "
            "have more. benchmarks/writing.py measures how much; a learner that has no more than that has not learned "
            "to read."
        )
        notes.append(("sequences", text))
    return notes


def entry_label(entry: Entry, names: dict[tuple[str, str], str]) -> str:
    """Name an entry in a figure: the checkpoint, and its steps where it has any."""
    name = names[entry.checkpoint, entry.weights]
    return name if entry.steps is None else f"{name}, {entry.steps} step{'' if entry.steps == 1 else 's'}"
