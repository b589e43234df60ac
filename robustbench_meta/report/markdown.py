"""The leaderboard as Markdown that reads well on GitHub and in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from robustbench_meta.report.figures import Picture
from robustbench_meta.report.renderings import Renderings
from robustbench_meta.report.sentences import Sheet
from robustbench_meta.report.sounds import Sound, ratio_text
from robustbench_meta.report.tables import Corrupted, CorruptedRow, ProtocolTable, Report, Row, Table, Transfer
from robustbench_meta.report.trajectories import Outings
from robustbench_meta.report.values import CONSTANT_MARK, LACKING, NOTHING, Value, share, with_n

SOUNDS = "Signal to noise: the power of the recording over that of what was added to it, as far as it sounds."
SENTENCES = (
    "Words that the attack put in are bold, behind those they stand for. Sentences that fooled the learner, read as "
    "their class before the attack and as another after it, come first."
)
ROLLOUTS = (
    "Success rate in %, and return, the mean over the rollouts of a task; ± the half-width of the 95 % interval over n "
    "tasks. What is attacked is what the policy observes at every step; both are of a replay."
)
RENDERINGS = (
    "In %, ± the half-width of the 95 % interval over n tasks. Exact: every token is the target's, the end included, "
    "and under attack it was so without, too. Tokens: of the targets' tokens, those that stand in their place. chrF: "
    "the mean of sentences' character n-gram F-scores (Popović 2015), by sacrebleu."
)
INTRODUCTION = (
    "Accuracy in %, ± the half-width of the 95 % interval over tasks; n tasks. Higher is better. A constant "
    "predictor has 1/K, K the number of ways, or 0 where learners act or write, clean and at every ε: it is the line "
    "below which a number means nothing."
)

BY_ATTACK = "Each attack on all tasks that it ran on (n); clean accuracy on those, at the ε with the most of them."
FLAGS = (
    "Signs that an attack was hindered and a number not earned. A red flag takes the rank away, an amber one is shown. "
    "They are raised from the verdicts above and from an audit: raw runs of FGSM, PGD, blind search and noise on 5 % "
    "of the tasks and at least 20, or all of a shorter run. Counts of queries need at least 3 of them. “not audited”: "
    "only the verdicts above were looked at, as always where the support is attacked, words are replaced or queries "
    "are corrupted; “none”: nothing was found; “not asked”: nothing could have raised these of the row."
)
LEFT_OUT = "What was not asked, and why:"
DIFFERENCES = (
    "Percentage points, paired task by task on the n tasks both ran; bold where the 95 % interval leaves out 0. A "
    "constant predictor loses nothing to any attack: its difference between clean and robust is 0."
)

PROTOCOLS = (
    "Where a row met an attack of a protocol, what was run and what the learner is are held against every knob of it. "
    "The name, its version and the start of its hash stand for one configuration."
)

TRANSFER = (
    "Accuracy in % of each learner (columns) on adversarial examples that an attack made on another (rows): how far "
    "they transfer. Bold: the learner that they were made on, under that attack. A constant predictor keeps all. "
    "What transferred examples leave is an upper bound on robust accuracy: an attack of one's own may find more."
)

CORRUPTED = (
    "Accuracy in % on corrupted queries, counted as clean accuracy is. Mean: over all corruptions and severities. "
    "Drop: clean minus mean, paired task by task. Difference: of two means, paired too, bold where the 95 % interval "
    "leaves out 0. Worst case: right when clean and under every corruption up to the highest severity. All on the same "
    "n tasks, one draw of each corruption, the same for every learner."
)

SAME = "nothing: as the protocol says"

INLINE = ("eps-", "scatter-")  # the figures of a board that need no click
MARKS = (
    f"{LACKING}: an attack that others met is missing. "
    f"{CONSTANT_MARK}: the interval does not lie above what a constant predictor has. "
    "=: a shared rank. "
    "The notes at the end say what each column means."
)


def render(
    report: Report,
    pictures: Sequence[Picture],
    heard: Sequence[Sound] = (),
    read: Sequence[Sheet] = (),
    earned: Sequence[Outings] = (),
    rendered: Sequence[Renderings] = (),
) -> str:
    """Write the whole leaderboard: of every board the main table first, details folded away below it."""
    parts = ["# Few-shot robustness leaderboard", INTRODUCTION, escape(MARKS) if report.tables else ""]
    section = ""
    for table in report.tables:
        if table.section != section:
            section = table.section
            parts.append(f"## {escape(section)}")
        parts += _board(table, report, [one for one in pictures if one.board == table.slug])
    if not report.tables:
        parts.append("Nothing has been measured yet.")
    rest = [one for one in pictures if not one.board]
    if rest:
        parts += ["## Gallery", *(_figure(one) for one in rest)]
    if heard:
        parts += ["## To listen to", SOUNDS, _sounds(heard)]
    if read:
        parts += ["## To read", SENTENCES, *(part for one in read for part in _sentences(one))]
    if earned:
        parts += ["## Success and return", ROLLOUTS, _outings(earned)]
    if rendered:
        parts += ["## Exact match, tokens and chrF", RENDERINGS, _renderings(rendered)]
    parts += _ends(report)
    return "\n\n".join(filter(None, parts)) + "\n"


def _sounds(heard: Sequence[Sound]) -> str:
    header = ["Of", "Class", "Signal to noise", "Clean", "Heard as", "Attacked", "Heard as"]
    rows = [
        [
            *(escape(one.title), escape(one.label), ratio_text(one.ratio)),
            *(f"[WAV](sounds/{one.clean.name})", escape(one.says)),
            *(f"[WAV](sounds/{one.adversarial.name})", escape(one.says_attacked)),
        ]
        for one in heard
    ]
    return grid(header, rows)


def _outings(earned: Sequence[Outings]) -> str:
    rows = [
        [escape(one.title), *(share(each, one.n) for each in one.success), *map(_pair, one.earned), str(one.n)]
        for one in earned
    ]
    return grid(["Of", "Success, clean", "Attacked", "Return, clean", "Attacked", "n"], rows)


def _renderings(rendered: Sequence[Renderings]) -> str:
    rows = [[escape(one.title), *(share(each, one.n) for each in one.values), str(one.n)] for one in rendered]
    return grid(["Of", "Exact, clean", "Attacked", "Tokens, clean", "Attacked", "chrF, clean", "Attacked", "n"], rows)


def _pair(value: tuple[float, float]) -> str:
    return "{:.1f} ± {:.1f}".format(*value)


def _sentences(sheet: Sheet) -> list[str]:
    rows = [
        [escape(one.label), " ".join(map(_word, one.words)), escape(one.says), escape(one.says_attacked)]
        for one in sheet.readings
    ]
    header = ["Target" if sheet.rendered else "Class", "Sentence", "Read as", "After the attack"]
    return [f"**{escape(sheet.title)}**", grid(header, rows)]


def _word(pair: tuple[str, str]) -> str:
    clean, adversarial = map(escape, pair)
    return clean if clean == adversarial else f"{clean} → **{adversarial}**"


def _ends(report: Report) -> list[str]:
    """Write what all boards share: flags, attacks, episodes, what is missing, notes."""
    parts = []
    if report.tables:
        raised = sorted({one.about.code for one in report.flags if one.raised}, key=lambda code: int(code[1:]))
        which = ", ".join(raised) or "none raised"
        parts += ["## Flags", FLAGS, _folded(f"What each flag means ({which})", [_flags(report)])]
        if report.left_out:
            lines = [f"- {escape(what)}. Of {escape(', '.join(names))}." for what, names in report.left_out]
            parts += [LEFT_OUT, "\n".join(lines)]
    if report.protocols:
        parts += ["## Protocols", PROTOCOLS, *(_protocol(one) for one in report.protocols)]
        parts += (
            [f"Not judged, since no row met an attack of theirs (for maml-2017, ε 0): {', '.join(report.unmet)}."]
            if report.unmet
            else []
        )
    if report.attacks:
        rows = [[escape(name), escape(fields)] for name, fields in report.attacks.items()]
        parts += ["## Attacks as configured", _folded("Settings", [grid(["Attack", "Settings"], rows)])]
    if report.episodes:
        rows = [[escape(name), f"`{_code(digest)}`"] for name, digest in report.episodes.items()]
        parts += ["## Episodes", grid(["Split", "SHA-256 of its reference episodes"], rows)]
    if report.missing:
        parts += ["## Missing here", "\n".join(f"- {escape(text)}" for text in report.missing)]
    notes = "\n".join(f"- **{escape(term)}** {escape(text)}" for term, text in report.footnotes)
    return [*parts, "## Notes", _folded("What columns and marks mean", [notes])]


def _folded(summary: str, parts: Sequence[str]) -> str:
    """Fold parts away below a line; GitHub reads Markdown inside where blank lines surround it."""
    return "\n\n".join([f"<details>\n<summary>{escape(summary)}</summary>", *parts, "</details>"])


def escape(text: object) -> str:
    """Make any text show as itself: no markup, no HTML, no link, one line."""
    line = re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in str(text))).strip()
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]|~#!$])", r"\\\1", line)
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)
    # GitHub links bare addresses by itself.
    line = re.sub(r"(?i)\b([a-z][a-z0-9+.-]*):(?=//)|\b(javascript|vbscript|data|mailto):", _without_colon, line)
    return re.sub(r"(?i)\bwww\.", "www&#46;", line).replace("@", "&#64;")


def _without_colon(match: re.Match[str]) -> str:
    return f"{match.group(1) or match.group(2)}&#58;"


def _code(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text)


def _board(table: Table, report: Report, pictures: Sequence[Picture]) -> list[str]:
    eps = [escape(one) for one in table.eps]
    header = [
        "Rank",
        "Checkpoint",
        *(["Seeds"] if table.several else []),
        "Clean",
        f"Worst case, {table.budget} {eps[0]}",
    ]
    header += [*(f"{table.budget} {one}" for one in eps[1:]), table.n_label(row.n for row in table.rows), "Flags"]
    parts = [
        f"### {escape(table.title)}",
        escape(table.headline[:1].upper() + table.headline[1:]),
        grid(header, [_row(row, table) for row in table.rows]),
    ]
    if table.slug in report.corrupted:
        parts += _corrupted(report.corrupted[table.slug])
    reasons = [f"- **{escape(_full_name(row))}**: {escape(row.reason)}" for row in table.rows if row.reason]
    if reasons:
        parts += ["Shown without a rank:", "\n".join(reasons)]
    if known := [f"- **{escape(_full_name(row))}**: {escape(row.known)}" for row in table.rows if row.known]:
        parts += ["Best known by examples of others, scored again here:", "\n".join(known)]
    if shared := [f"- **{escape(_full_name(row))}**: {escape(row.spread)}" for row in table.rows if row.spread]:
        parts += ["Training seeds that share a row:", "\n".join(shared)]
    parts.append(escape(table.criterion))
    parts += [_figure(one) for one in pictures if one.name.startswith(INLINE)]
    parts.append(_folded("Settings of each entry", [_settings(table)]))
    parts.append(_folded("By attack", [BY_ATTACK, _attacks(table)]))
    if table.differences:
        parts.append(_folded("Paired differences", [DIFFERENCES, _differences(table)]))
    matrices = report.transfers.get(table.slug, [])
    if matrices:
        parts.append(_folded("Transfer: whose adversarial examples fool whom", _transfers(matrices)))
    more = [_figure(one) for one in pictures if not one.name.startswith(INLINE)]
    return [*parts, _folded("More figures", more) if more else ""]


def _corrupted(one: Corrupted) -> list[str]:
    """Write what corruptions leave: the means beside the worst case, and each corruption folded away."""
    header = ["Checkpoint", "Clean", "Mean", "Drop", *(f"Mean, severity {severity}" for severity in one.severities)]
    header += [f"Worst case, severity {one.severities[-1]}", "Difference of means", "n"]
    rows = [
        [
            *(escape(_full_name(row)), row.clean.text, f"**{row.mean.text}**", row.drop.text),
            *(*(value.text for value in row.severities), row.worst.text),
            *(_bold(row.difference, escape(row.against)), row.n),
        ]
        for row in one.rows
    ]
    lacking = [
        f"- **{escape(_full_name(row))}** lacks {row.missing} that others met" for row in one.rows if row.missing
    ]
    each = [[escape(_full_name(row)), *(value.text for value in row.kinds), row.n] for row in one.rows]
    parts = ["**Mean corruption accuracy**", CORRUPTED, grid(header, rows)]
    parts += ["No mean, for it would be of other corruptions:", "\n".join(lacking)] if lacking else []
    parts.append(_folded("By corruption", [grid(["Checkpoint", *map(escape, one.kinds), "n"], each)]))
    return parts


def _settings(table: Table) -> str:
    header = ["Checkpoint", "Steps", "Algorithm", "Defense", "Normalisation", "Seed"]
    rows = [
        [_name(row), row.steps, escape(row.algorithm), escape(row.defense), escape(row.norm_mode), str(table.seed)]
        for row in table.rows
    ]
    return grid(header, rows)


def _transfers(matrices: Sequence[Transfer]) -> list[str]:
    """Write the transfer matrices of a board."""
    parts = [TRANSFER]
    for one in matrices:
        header = ["Examples made on", "by", *(f"on {escape(name)}" for name in one.columns)]
        rows = [
            [
                *(escape(row.source), escape(row.attack)),
                *(_own(with_n(value, one.n), own=at == row.own) for at, value in enumerate(row.values)),
            ]
            for row in one.rows
        ]
        parts += [f"ε {escape(one.eps)}, n = {one.n} tasks:", grid(header, rows)]
    return parts


def _own(text: str, *, own: bool) -> str:
    return f"**{text}**" if own and text != NOTHING else text


def _flags(report: Report) -> str:
    rows = []
    for one in report.flags:
        about = one.about
        raised = [f"**{escape(name)}**: {escape(found)}" for name, found in one.raised] or ["not raised"]
        rows.append(
            [about.code, escape(about.title), escape(about.colour), escape(about.sentence), escape(about.limit)]
        )
        rows[-1].append("; ".join(filter(None, [*raised, one.unasked])))
    return grid(["Flag", "Name", "Colour", "What it means", "Raised from", "Here"], rows)


def _protocol(one: ProtocolTable) -> str:
    """Write how rows stand to one protocol, folded away."""
    rows = [
        [escape(row.board), escape(", ".join(row.entries)), escape("; ".join(row.differences)) or SAME]
        for row in one.rows
    ]
    parts = [f"{escape(one.about)}.", grid(["Board", "Checkpoint", "Differs in"], rows)]
    if one.beyond:
        parts.append("What no run here does as its paper's code:\n\n" + "\n".join(f"- {escape(x)}" for x in one.beyond))
    return _folded(one.label, parts)


def _attacks(table: Table) -> str:
    n = table.n_label(one.n for row in table.rows for one in row.attacks)
    header = ["Checkpoint", "Steps", "Attack", *(f"{table.budget} {escape(one)}" for one in table.eps), "Clean", n]
    header += ["Passes a query", "Seed"]
    rows = [
        [
            *(_name(row), row.steps, escape(one.attack), *_values(one.values), with_n(one.clean, one.n)),
            *(one.n, one.passes, str(table.seed)),
        ]
        for row in table.rows
        for one in row.attacks
    ]
    constant = [f"{100 * table.constant:.1f} ± 0.0"] * (len(table.eps) + 1)
    rows.append(["*constant predictor*", NOTHING, "any", *constant, NOTHING, NOTHING, str(table.seed)])
    return grid(header, rows)


def _differences(table: Table) -> str:
    n = table.n_label(line.n for one in table.differences for line in one.rows)
    header = ["Checkpoint", "Steps", "Minus", "Attack", *(f"{table.budget} {escape(one)}" for one in table.eps)]
    header += ["Clean", n, "Seed"]
    rows = [
        [
            *(escape(one.name), one.steps, escape(one.reference), escape(line.attack), *_values(line.values)),
            *(_bold(one.clean, with_n(one.clean, line.n)) if number == 0 else "", line.n, str(table.seed)),
        ]
        for one in table.differences
        for number, line in enumerate(one.rows)
    ]
    return grid(header, rows)


def _row(row: Row, table: Table) -> list[str]:
    first = row.worst[0]
    bold = row.kind == "ranked" and first.firm and CONSTANT_MARK not in first.mark
    worst = [f"**{first.text}**" if bold else first.text, *_values(row.worst[1:])]
    rank = f"{row.rank} ({row.between})" if row.between else row.rank
    name = f"*{escape(row.name)}*" if row.kind == "reference" else escape(_full_name(row))
    seeds = [row.seeds or (NOTHING if row.kind == "reference" else "1")] if table.several else []
    return [rank, name, *seeds, with_n(row.clean, row.n), *worst, row.n, escape(row.flags)]


def _full_name(row: Row | CorruptedRow) -> str:
    """Name an entry with its steps, which tell it from its like."""
    return row.name if row.steps == NOTHING else f"{row.name}, {row.steps} step{'' if row.steps == '1' else 's'}"


def _name(row: Row) -> str:
    return f"*{escape(row.name)}*" if row.kind == "reference" else escape(row.name)


def _values(values: Iterable[Value]) -> list[str]:
    return [_bold(value) if value.signed else value.text for value in values]


def _bold(value: Value, text: str = "") -> str:
    text = text or value.text
    return f"**{text}**" if value.known and value.decided else text


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; cells must be escaped already where others wrote them."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(one: Picture) -> str:
    return f"![{escape(one.alt)}](figures/{one.svg.name})\n\n*{escape(one.caption)}*"
