"""What changed between two runs or two checkpoints, by how much, and whether it is more than noise.

    compare.runs(store.read(before), store.read(after)).rows

Everything is paired task by task on the same episodes. Two families of tests are each corrected for their own number
(Holm): worst cases with clean accuracies, and single attacks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from robustbench_meta import checkpoint, zoo
from robustbench_meta.intervals import ALPHA, holm, interval, paired_p, surest
from robustbench_meta.outcomes import Bits, Board, Outcome, Results, attack_fields, eps_text, outcomes, stand
from robustbench_meta.report.naming import steps_text, threat_text, titles
from robustbench_meta.report.values import Value
from robustbench_meta.statistics import WORST_CASE
from robustbench_meta.types import InputError
from robustbench_meta.untrusted import printable

Verdict = Literal["identical", "higher", "lower", "no difference shown"]
CLEAN = "clean"

_Attack = tuple[str, str]  # its name and its settings: only the same of both are compared
_Runs = dict[tuple[_Attack, float], Bits]
_Place = tuple[Board, str, int | None]  # the board, what the entry is called in both, its steps


@dataclass(frozen=True)
class Row:
    """One accuracy of A and of B in [0, 1] on the `tasks` that both met, and B minus A with its half-width.

    `p` is corrected for the rows of its family; `drop` says that B is lower by more than was tolerated, and that this
    is more than noise, all worst cases and clean accuracies at once.
    """

    board: str
    checkpoint: str
    steps: int | None
    attack: str
    norm: str
    eps: float
    tasks: int
    a: float
    b: float
    difference: float
    ci95: float
    p: float
    verdict: Verdict
    drop: bool


@dataclass(frozen=True)
class Comparison:
    """What was compared; `lost` names what A has and B lacks, `raised` new red flags, `notes` what else differs."""

    rows: tuple[Row, ...]
    lost: tuple[str, ...]
    raised: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def drops(self) -> list[str]:
        """Say in a line each where B is worse than A; empty if nowhere."""
        lower = [
            f"{_what(row)}: {100 * row.difference:+.1f} ± {100 * row.ci95:.1f} points" for row in self.rows if row.drop
        ]
        return [*lower, *self.lost, *self.raised]

    @property
    def summary(self) -> str:
        """Count the verdicts in one sentence."""
        count = Counter(row.verdict for row in self.rows)
        verdicts = ", ".join(f"{count[verdict]} {verdict}" for verdict in get_args(Verdict) if count[verdict])
        return f"{len(self.rows)} compared: {verdicts}. B is worse in {len(self.drops)}."

    @property
    def blind(self) -> str:
        """Say that no drop could be shown on so few tasks, however large; empty where one could."""
        chief = [row for row in self.rows if row.attack in (CLEAN, WORST_CASE)]
        most = max((row.tasks for row in chief), default=0)
        if not chief or len(chief) * surest(most) <= ALPHA or all(row.verdict == "identical" for row in chief):
            return ""
        counted = f"{len(chief)} accuracies at once" if len(chief) > 1 else "an accuracy"
        return f"n = {most} tasks cannot show that {counted} dropped, however far; evaluate more tasks"

    @property
    def json(self) -> dict[str, Any]:
        """Everything as plain data, NaN as None."""
        return {**_plain(asdict(self)), "drops": self.drops}


@dataclass(frozen=True)
class _Part:
    """What of some results is of one learner."""

    cells: pd.DataFrame
    tasks: pd.DataFrame
    audits: pd.DataFrame


@dataclass(frozen=True)
class _Side:
    """One of the two: its outcomes, by place and eps, with attacks named by what they are."""

    found: dict[_Place, dict[float, Outcome]]
    attacks: dict[str, _Attack]

    def runs(self, place: _Place, wanted: Callable[[Outcome], Iterable[str]]) -> _Runs:
        """Return the verdicts of those attacks at every eps that `wanted` names of an outcome."""
        found = self.found[place].items()
        return {(self.attacks[a], eps): one.runs[a] for eps, one in found for a in wanted(one) if a in one.runs}

    def failures(self, place: _Place) -> dict[tuple[_Attack, float], str]:
        """Return why an attack failed at an eps, where one did."""
        found = self.found[place].items()
        return {(self.attacks[attack], eps): reason for eps, one in found for attack, reason in one.errors}


@dataclass(frozen=True, eq=False)
class _Pair:
    """Accuracies of A and B [n] on the same tasks, and whether every single verdict is the same."""

    place: _Place
    attack: str
    eps: float
    a: np.ndarray
    b: np.ndarray
    identical: bool

    @property
    def difference(self) -> np.ndarray:
        return self.b - self.a


def runs(a: Results, b: Results, tolerance: float = 0.0) -> Comparison:
    """Compare two results folders: every checkpoint by its name, on every board, eps and attack that both hold.

    A name that stands for several learners in one of them is told apart by its weights. `tolerance` in [0, 1) is what
    B may be lower by. Nothing comparable gives a comparison without rows.
    """
    several = _several(a) | _several(b)

    def label(name: str, weights: str) -> str:
        return f"{name}@{weights[:8]}" if name in several else name

    return _compare(_side(a, label), _side(b, label), tolerance)


def checkpoints(results: Results, a: str, b: str, tolerance: float = 0.0) -> Comparison:
    """Compare two checkpoints of one results folder on every board and step count that both have.

    Each is a name, or a checkpoint folder, whose weights and recipe identify it. Raises InputError for one that the
    results do not hold, or a name that several learners have.
    """
    first, second = _weights(results, a), _weights(results, b)
    if first == second:
        raise InputError(f"compare: {a!r} and {b!r} are the same learner")
    label = f"{_name(results, first)} and {_name(results, second)}"
    one, other = (_side(_only(results, weights), lambda *_: label) for weights in (first, second))
    return _compare(one, other, tolerance)


def table(found: Comparison) -> tuple[list[str], list[list[str]], str]:
    """Return column names, rows of printable text and a line of what is the same in every row."""
    columns = ["checkpoint", "steps", "board", "attack", "eps", "A %", "B %", "B - A", "n", "p (Holm)", "verdict"]
    rows = []
    for one in found.rows:
        eps = "" if one.attack == CLEAN else threat_text(one.norm, one.eps)
        difference = Value(one.difference, one.ci95, one.tasks, signed=True)
        row = [one.checkpoint, steps_text(one.steps), one.board, one.attack, eps]
        row += [f"{100 * one.a:.1f}", f"{100 * one.b:.1f}", difference.text if difference.firm else difference.percent]
        verdict = f"{one.verdict}, a drop" if one.drop else one.verdict
        rows.append([printable(text) for text in (*row, str(one.tasks), _p_text(one.p), verdict)])
    shared = [at for at in (0, 1, 2, 8) if len({row[at] for row in rows}) == 1]
    kept = [at for at in range(len(columns)) if at not in shared]
    line = ", ".join(f"{columns[at]} {rows[0][at]}" for at in shared)
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows], line


def _compare(a: _Side, b: _Side, tolerance: float) -> Comparison:
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance: {100 * tolerance:g} points is not from 0 to below 100")
    places = list(dict.fromkeys([*a.found, *b.found]))
    boards = list(dict.fromkeys(board for board, _, _ in places))
    headings = dict(zip(boards, titles(boards), strict=True))
    pairs: list[_Pair] = []
    said: dict[str, list[str]] = {"lost": [], "raised": [], "notes": []}
    for place in places:
        board, label, steps = place
        title = f"{label}{'' if steps is None else f', {steps} steps'}, {headings[board]}"
        if place not in b.found:
            said["lost"].append(f"{title}: {_why_absent(place, b)}")
        elif place not in a.found:
            said["notes"].append(f"{title}: only in B")
        else:
            pairs += _pairs(place, a, b)
            for kind, lines in (("lost", _lost), ("raised", _raised), ("notes", _notes)):
                said[kind] += [f"{title}: {line}" for line in lines(place, a, b)]
    shown = {kind: tuple(map(printable, lines)) for kind, lines in said.items()}
    return Comparison(tuple(_rows(pairs, headings, tolerance)), **shown)


def _pairs(place: _Place, a: _Side, b: _Side) -> Iterator[_Pair]:
    """Give clean accuracy, then at each eps the worst case over the attacks that both met, then each of these."""
    first, second = a.runs(place, lambda one: one.ran), b.runs(place, lambda one: one.ran)
    both = {at: _on_shared(first[at], second[at]) for at in sorted(first.keys() & second.keys())}
    both = {at: pair for at, pair in both.items() if len(pair[0].tasks)}
    # Other learners' examples are no part of a worst case.
    aside = {*a.runs(place, lambda one: one.transferred), *b.runs(place, lambda one: one.transferred)}
    names = {attack: name for name, attack in a.attacks.items()}
    if both:
        x, y = max(both.values(), key=lambda pair: len(pair[0].tasks))
        yield _pair(place, CLEAN, 0.0, x.clean, y.clean)
    for eps in sorted({eps for _, eps in both}):
        lower = {at: pair for at, pair in both.items() if at[1] <= eps and at not in aside}
        here = [pair[0].tasks for at, pair in lower.items() if at[1] == eps]
        if here and len(tasks := reduce(np.intersect1d, here)):
            left, right = (stand([pair[side] for pair in lower.values()], tasks) for side in (0, 1))
            yield _pair(place, WORST_CASE, eps, left, right)
        for (attack, at), (one, other) in both.items():
            if at == eps:
                yield _pair(place, names[attack], eps, one.survived, other.survived)


def _pair(place: _Place, attack: str, eps: float, a: np.ndarray, b: np.ndarray) -> _Pair:
    return _Pair(place, attack, eps, a.mean(1), b.mean(1), np.array_equal(a, b))


def _on_shared(one: Bits, other: Bits) -> tuple[Bits, Bits]:
    tasks = np.intersect1d(one.tasks, other.tasks)
    kept = []
    for run in (one, other):
        at = run.at(tasks)
        kept.append(Bits(tasks, run.clean[at], run.survived[at], run.forwards[at], run.backwards[at]))
    return kept[0], kept[1]


def _rows(pairs: Sequence[_Pair], headings: dict[Board, str], tolerance: float) -> Iterator[Row]:
    chief = np.array([pair.attack in (CLEAN, WORST_CASE) for pair in pairs], bool)
    p, sunk = np.ones(len(pairs)), np.ones(len(pairs))
    for family in (chief, ~chief):
        p[family] = holm([paired_p(pair.difference) for pair, mine in zip(pairs, family, strict=True) if mine])
    sunk[chief] = holm([_p_below(pair, tolerance) for pair, mine in zip(pairs, chief, strict=True) if mine])
    for pair, sure, drop in zip(pairs, p, sunk <= ALPHA, strict=True):
        board, label, steps = pair.place
        mean, half = interval(pair.difference)
        verdict: Verdict = "no difference shown"
        if pair.identical:
            verdict = "identical"
        elif sure <= ALPHA:
            verdict = "higher" if mean > 0 else "lower"
        yield Row(
            board=printable(headings[board]),
            checkpoint=printable(label),
            steps=steps,
            attack=printable(pair.attack),
            norm=board.norm,
            eps=pair.eps,
            tasks=len(pair.a),
            a=float(pair.a.mean()),
            b=float(pair.b.mean()),
            difference=mean,
            ci95=half,
            p=float(sure),
            verdict=verdict,
            drop=bool(drop),
        )


def _p_below(pair: _Pair, tolerance: float) -> float:
    """Test whether B is lower than A by more than is tolerated; 1 where it is not even on these tasks."""
    further = pair.difference + tolerance
    return paired_p(further) if further.mean() < 0 else 1.0


def _why_absent(place: _Place, b: _Side) -> str:
    """Say what B has instead of an entry of A on its board."""
    board, label, steps = place
    theirs = [other for other in b.found if other[1] == label]
    if not theirs:
        return "not in B"
    if counts := sorted({steps_text(other[2]) for other in theirs if other[0] == board}):
        return f"steps {steps_text(steps)} in A, {', '.join(counts)} in B"
    mine = asdict(board)
    near = min((asdict(other[0]) for other in theirs), key=lambda one: sum(one[name] != mine[name] for name in mine))
    apart = [f"{name} {str(mine[name])[:12]} and {str(near[name])[:12]}" for name in mine if near[name] != mine[name]]
    return f"not in B on these tasks: {', '.join(apart)}"


def _lost(place: _Place, a: _Side, b: _Side) -> Iterator[str]:
    """Name what of A's own attacks B lacks, and why."""
    mine, theirs = a.runs(place, lambda one: one.own), b.runs(place, lambda one: one.ran)
    failed = b.failures(place)
    for attack, eps in sorted(mine):
        what, twin = f"{attack[0]} at {eps_text(eps)}", theirs.get((attack, eps))
        if twin is not None:
            if not len(np.intersect1d(mine[attack, eps].tasks, twin.tasks)):
                yield f"{what} shares no task with A"
        elif (attack, eps) in failed:
            yield f"{what} failed in B: {failed[attack, eps]}"
        elif any(other[0] == attack[0] and at == eps for other, at in theirs):
            yield f"{what} has other settings in B"
        else:
            yield f"{what} was not run in B"


def _raised(place: _Place, a: _Side, b: _Side) -> Iterator[str]:
    """Name the red flags that B has and A has not, and an audit that failed only in B."""
    checks = [[one.check for one in side.found[place].values()] for side in (a, b)]
    before = {flag.code for check in checks[0] for flag in check.red}
    new = {flag.code: flag.text for check in checks[1] for flag in check.red if flag.code not in before}
    yield from (f"red flag {new[code]}" for code in sorted(new))
    failures = [next((check.failure for check in side if check.failure), "") for side in checks]
    if failures[1] and not failures[0]:
        yield f"the audit failed in B: {failures[1]}"


def _notes(place: _Place, a: _Side, b: _Side) -> Iterator[str]:
    """Name what could not be compared, or not on all tasks of A, and is no fault of B."""
    before, after = (all(one.check.audited for one in side.found[place].values()) for side in (a, b))
    if before and not after:
        yield "audited in A and not in B, where no flag of an audit could be new"
    first, second = a.runs(place, lambda one: one.ran), b.runs(place, lambda one: one.ran)
    failed = a.failures(place)
    for attack, eps in sorted(second.keys() - first.keys()):
        why = f"failed in A: {failed[attack, eps]}" if (attack, eps) in failed else "only in B"
        yield f"{attack[0]} at {eps_text(eps)} {why}"
    for attack, eps in sorted(first.keys() & second.keys()):
        run, shared = first[attack, eps], np.intersect1d(first[attack, eps].tasks, second[attack, eps].tasks)
        if 0 < len(shared) < len(run.tasks):
            yield f"{attack[0]} at {eps_text(eps)} on {len(shared)} of the {len(run.tasks)} tasks of A"


def _side(results: Results, label: Callable[[str, str], str]) -> _Side:
    configured = {name: (name.split(" #")[0], given) for name, given in attack_fields(results).items()}
    found: dict[_Place, dict[float, Outcome]] = {}
    for one in outcomes(results):
        place = (one.board, label(one.entry.checkpoint, one.entry.weights), one.entry.steps)
        if found.setdefault(place, {}).setdefault(one.eps, one) is not one:
            raise InputError(f"compare: two learners called {place[1]!r} with the same weights cannot be told apart")
    return _Side(found, configured)


def _several(results: Results) -> set[str]:
    """Return the names that stand for more than one learner."""
    seen = results.cells[["checkpoint", "weights"]].drop_duplicates()["checkpoint"]
    return set(seen[seen.duplicated()])


def _weights(results: Results, text: str) -> str:
    """Find the learner that a name or a checkpoint folder means."""
    cells = results.cells
    named = sorted(set(cells.loc[cells["checkpoint"] == text, "weights"]))
    if len(named) == 1:
        return str(named[0])
    card = zoo.folder(text) / checkpoint.CARD
    if card.is_file():
        weights = checkpoint.read_card(card).learner
        if weights in set(cells["weights"]):
            return weights
        raise InputError(f"compare: the learner in {text} was not evaluated in these results")
    if named:
        raise InputError(f"compare: {len(named)} learners are called {text!r} in these results; give its folder")
    names = ", ".join(sorted(set(cells["checkpoint"]))[:20]) or "none"
    raise InputError(f"compare: {text!r} is neither a checkpoint of these results ({names}) nor a checkpoint folder")


def _only(results: Results, weights: str) -> _Part:
    """Keep what is of one learner."""
    cells, audits = results.cells[results.cells["weights"] == weights], results.audits
    tasks = results.tasks[results.tasks["key"].isin(cells["key"])]
    return _Part(cells, tasks, audits[audits["weights"] == weights] if len(audits) else audits)


def _name(results: Results, weights: str) -> str:
    return str(min(results.cells.loc[results.cells["weights"] == weights, "checkpoint"]))


def _what(row: Row) -> str:
    """Name what a row compares, in a line of its own."""
    steps = "" if row.steps is None else f", {row.steps} steps"
    at = "" if row.attack == CLEAN else f" at {eps_text(row.eps)}"
    return f"{row.checkpoint}{steps}, {row.board}: {row.attack}{at}"


def _p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
