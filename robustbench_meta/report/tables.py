"""What a report says of each board, as text in rows: ranks, attacks, differences, flags, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from robustbench_meta.flags import ABOUT, About, Flag
from robustbench_meta.outcomes import Board, Results, attack_fields, eps_text, field_names
from robustbench_meta.ranking import Standing, separation, standings
from robustbench_meta.report import units
from robustbench_meta.report.footnotes import FEW, footnotes
from robustbench_meta.report.naming import row_names, slugs, steps_text, titles
from robustbench_meta.report.values import CONSTANT_MARK, NONE, NOTHING, Value, counts, robust_value
from robustbench_meta.statistics import CONSTANT, WORST_CASE, paired_differences


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
    return Report(made, attack_fields(results), shown, footnotes(boards), flags, missing, left_out=_left_out(made))


def columns_of_eps(board: list[Standing]) -> list[float]:
    """Order the budgets of a board: the one of the ranking first, then the others from large to small."""
    ranked = board[0].rank_eps
    every = {eps for one in board for eps in one.outcomes}
    return [ranked, *sorted(every - {ranked}, reverse=True)]


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
