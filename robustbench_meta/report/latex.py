"""Leaderboards as booktabs tables, one a board, in plain ASCII that any LaTeX compiles."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from robustbench_meta.intervals import LEAST_SEEDS
from robustbench_meta.outcomes import NOT_AUDITED, Outcome, Results, eps_text
from robustbench_meta.ranking import Standing, standings
from robustbench_meta.report.naming import NORMS
from robustbench_meta.report.tables import Row, Table, columns_of_eps, tables
from robustbench_meta.report.values import CONSTANT_MARK, LACKING, NOTHING, Value

LONGEST = 60  # characters of a name, so that no line grows beyond what TeX can measure
ROWS = 40  # that fit on a page; longer tables break over pages
NORM = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$", "corruption": "common corruptions"}
ACCENTS = {
    **{"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": "."},
    **{"\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c"},
}
SPECIAL = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\texttt{\char34}",
    "`": r"\`{}",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "…": r"\ldots{}",
    "–": "--",
    "±": r"$\pm$",
    "ε": r"$\varepsilon$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "∞": r"$\infty$",
    "“": "``",
    "”": "''",
}


def render(results: Results) -> str:
    """Write a table for every board; the texts in `results` may be any."""
    boards = standings(results)
    report = tables(results, boards)
    parts = ["% Needs \\usepackage{booktabs}, and \\usepackage{longtable} for a longtable."]
    parts += [_table(board, table) for board, table in zip(boards, report.tables, strict=True)]
    return "\n\n".join(parts) + "\n"


def escape(text: object) -> str:
    """Make any text show as itself, in ASCII: what has no LaTeX of its own becomes its code point, as [U+6F22]."""
    line = " ".join(str(text).split())
    # Fonts make one sign of two hyphens, apostrophes or commas.
    apart = {two: f"{two[0]}{{}}" for two in ("--", "''", ",,")}
    return "".join(apart.get(line[i : i + 2]) or _character(c) for i, c in enumerate(line))


def _character(c: str) -> str:
    if c in SPECIAL:
        return SPECIAL[c]
    if " " <= c <= "~":
        return c
    parts = unicodedata.normalize("NFD", c)
    base, marks = parts[0], parts[1:]
    if len(marks) == 1 and marks[0] in ACCENTS and base.isascii() and base.isalpha():
        letter = {"i": r"\i", "j": r"\j"}.get(base, base)
        return f"\\{ACCENTS[marks[0]]}{{{letter}}}"
    return rf"\texttt{{[U+{ord(c):04X}]}}"


def short(text: str) -> str:
    """Escape a name, cut to what fits a table."""
    return escape(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…")


def _table(board: list[Standing], table: Table) -> str:
    eps = columns_of_eps(board)
    order = sorted(range(len(eps)), key=lambda i: eps[i])
    steps = any(row.steps != NOTHING for row in table.rows)
    n = ", ".join(eps_text(eps[i]) for i in order) if any("," in row.n for row in table.rows) else ""
    head = ["Rank", "Checkpoint", *(["Steps"] if steps else []), "Algorithm", "Defense"]
    head += [f"$n$ at {n}" if n else "$n$", "Clean", *(_at(board, eps[i]) for i in order)]
    form = "r" + "l" + ("r" if steps else "") + "ll" + "r" * (2 + len(eps))
    body = [_line(row, order, steps=steps, best=_alone(row, board)) for row in table.rows if row.kind != "reference"]
    constant = next(row for row in table.rows if row.kind == "reference")
    body += [r"\midrule", _line(constant, order, steps=steps, best=False)]
    rows = [r"\toprule", " & ".join(head) + r" \\", r"\midrule", *body, r"\bottomrule"]
    title = rf"\caption{{{_caption(board, table)}}}\label{{tab:{table.slug}}}"
    if len(body) > ROWS:
        inside = [rows[0], rows[1], rows[2] + r"\endhead", *rows[3:]]
        lines = [rf"\begin{{longtable}}{{{form}}}", title + r"\\", *inside, r"\end{longtable}"]
        return "\n".join([r"{\footnotesize", *lines, "}"])
    lines = [r"\begin{table}", r"\centering", r"\footnotesize", title, r"\smallskip", rf"\begin{{tabular}}{{{form}}}"]
    return "\n".join([*lines, *rows, r"\end{tabular}", r"\end{table}"])


def _budget(board: list[Standing]) -> str:
    return board[0].board.budget if board[0].board.corrupted else r"$\varepsilon$"


def _at(board: list[Standing], eps: float) -> str:
    return board[0].board.at(eps) if board[0].board.corrupted else rf"$\varepsilon = {eps_text(eps)}$"


def _alone(row: Row, board: Sequence[Standing]) -> bool:
    """Say whether a row is shown to be better than all others, not only first by its mean."""
    return row.kind == "ranked" and row.between == "1" and len([one for one in board if one.rank is not None]) > 1


def _line(row: Row, order: Sequence[int], *, steps: bool, best: bool) -> str:
    n = row.n.split(", ") if "," in row.n else [row.n]
    counted = ", ".join(n[i] for i in order) if len(n) > 1 else row.n
    name = rf"\emph{{{short(row.name)}}}" if row.kind == "reference" else short(row.name)
    rank = f"{row.rank} ({row.between})" if row.between else row.rank
    cells = [escape(rank), name, *([escape(row.steps)] if steps else [])]
    algorithm = NOTHING if row.kind == "reference" else row.algorithm
    cells += [short(algorithm), short(row.defense), escape(counted), _value(row.clean, best=False)]
    cells += [_value(row.worst[i], best=best and i == 0) for i in order]
    return " & ".join(cells) + r" \\"


def _value(value: Value, *, best: bool) -> str:
    """Write a value, its half-width small beside it."""
    if not value.known or not value.firm:
        return escape(value.text)
    marks = "".join(
        rf"$^{{{name}}}$" for mark, name in ((LACKING, r"\dagger"), (CONSTANT_MARK, r"\ddagger")) if mark in value.mark
    )
    mean = rf"\textbf{{{value.percent}}}" if best else value.percent
    return rf"{mean} {{\scriptsize$\pm${100 * value.half:.1f}}}{marks}"


def _caption(board: list[Standing], table: Table) -> str:
    """Say what the numbers are: protocol, attacks, n, seed, interval, and what the marks mean."""
    about = board[0].board
    title = escape(table.title)
    for norm, shown in NORMS.items():
        title = title.replace(escape(shown), NORM[norm])
    surface = {
        "query": "queries",
        "support": "the support, judged on fresh queries",
        "rollout": "what is observed in rollouts, judged by their success",
        "sequence": "source sentences, judged by every token of their targets",
    }[about.surface]
    acts = "corruptions of" if about.corrupted else "attacks on"
    parts = [
        rf"Clean and worst-case accuracy in \% on {title}; {acts} {surface}, {escape(about.track)} learners, "
        rf"{about.queries} queries a class, seed {about.seed}.",
        "A query counts as robust if it is right when clean and "
        f"{'under every corruption' if about.corrupted else 'withstands every attack'} that was run at its "
        rf"{_budget(board)} ({_attacks(board)}) and at smaller ones.",
        r"$\pm$: half-width of the 95\,\% Student $t$ interval over $n$ tasks; it says nothing about other training "
        "seeds" + _of_methods(board) + ".",
        rf"Ranked by the worst case at {_at(board, board[0].rank_eps)}: one more than the number of entries that are "
        r"better by a paired $t$ test, corrected for all pairs (Holm); in brackets the 95\,\% interval of the rank; =: "
        "shared.",
        "Bold: better than every other entry by these tests.",
    ]
    values = [value for row in table.rows if row.kind != "reference" for value in row.worst]
    if any(LACKING in value.mark for value in values):
        parts.append(r"$^\dagger$: an attack that others met is missing.")
    if any(CONSTANT_MARK in value.mark for value in values):
        parts.append(
            rf"$^\ddagger$: the interval does not lie above the {100 * about.constant:.1f}\,\% of a constant predictor."
        )
    if any(row.kind == "unranked" for row in table.rows):
        parts.append("--: shown without a rank, as the report explains.")
    if bare := [short(row.name) for row in table.rows if NOT_AUDITED in row.flags]:
        parts.append(f"Not audited for masked gradients: {', '.join(bare)}.")
    return " ".join(parts)


def _of_methods(board: list[Standing]) -> str:
    """Say which rows are of several training seeds, and what their interval is over."""
    shared = [one for one in board if one.members]
    if not shared:
        return ""
    rows = ", ".join(f"{short(one.entry.checkpoint)} ({one.seeds} seeds)" for one in shared)
    return f", but where there are {LEAST_SEEDS} or more, which it is over, too. Means over seeds: {rows}"


def _attacks(board: list[Standing]) -> str:
    """List the attacks by eps, eps that met the same ones together."""
    met: dict[tuple[str, ...], list[float]] = {}
    for eps in sorted(columns_of_eps(board)):
        found: list[Outcome] = [one.outcomes[eps] for one in board if eps in one.outcomes]
        met.setdefault(found[0].required, []).append(eps)
    listed = {names: ", ".join(eps_text(eps) for eps in those) for names, those in met.items()}
    texts = {names: ", ".join(short(name) for name in names) or "no white-box attack" for names in listed}
    if len(met) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"at {listed[names]}: {texts[names]}" for names in listed)
