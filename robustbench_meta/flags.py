"""Signs that an attack was hindered and its number not earned (Carlini et al. 2019, arXiv 1902.06705, section 4).

After the checks of AutoAttack (arXiv 2003.01690), of Tramèr et al. 2020 (arXiv 2002.08347) and Pintor et al. 2022
(arXiv 2106.09947). A red flag takes the rank away; an amber one is shown beside it. Everything here is computed from
verdicts that a run stored, never from a model.
Shapes: n tasks, Q judged queries in a task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np

Colour = Literal["red", "amber"]
Runs = Mapping[tuple[str, float], "Verdicts"]  # by attack and eps

# A share alone would flag two queries of a run of ten; nothing is concluded from fewer than this.
LEAST = 3
SHARE, LEAST_TASKS = 0.05, 20  # of a run's tasks that are audited
FGSM_ONLY, MONOTONE, NEW, FLAT, TWICE = 0.01, 0.005, 0.002, 0.01, 0.005
WIDEST = 0.5  # A half-width above this says nothing, as two tasks soon have.
ABOVE_CHANCE, REFERENCE, ALONE, MOVED, DISAGREE, ONE_CLASS = 0.02, 0.05, 1e-4, 0.002, 0.01, 0.6
BOX = "box"  # the run in Linf of half the box's width

STRETCHES = "stretches"  # the blind search of rollouts, in the place of Square
# From verdicts on rollouts in an environment nothing of these follows: who does better in a step need not in the end.
GREEDY = frozenset({"F1", "F2", "F3", "F9"})
BY_AUDITS = frozenset({"F4", "F5", "F6", "F7", "F8", "F10", "F11"})  # verdicts of runs alone raise none of these

_FGSM, _SQUARE = re.compile(r"fgsm\b(?!-)"), re.compile(r"(square|stretches)(-\d+)?( #\w+)?$")
_PGD = re.compile(r"pgd-(mt-)?\d+( #\w+)?$")
_WHITE = re.compile(r"(pgd-(mt-)?\d+|apgd[\w-]*|fab[\w-]*|autoattack(-reference)?)( #\w+)?$")
_BY_GRADIENTS = re.compile(r"(pgd-(mt-)?\d+|apgd[\w-]*|fab[\w-]*)( #\w+)?$")  # alone: AutoAttack searches blindly, too
_OWN, _AUTOATTACK = re.compile(r"pgd-mt-\d+( #\w+)?$"), re.compile(r"autoattack(-reference)?( #\w+)?$")


class Verdicts(Protocol):
    """What one attack left of one entry: tasks [n] in order, clean and survived [n, Q]."""

    @property
    def tasks(self) -> np.ndarray: ...

    @property
    def clean(self) -> np.ndarray: ...

    @property
    def survived(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Flag:
    """One sign: its measured value, the limit that it passed, over n queries, and a sentence with the numbers."""

    code: str
    colour: Colour
    value: float
    limit: float
    n: int
    detail: str

    @property
    def text(self) -> str:
        return f"{self.code} {self.detail}"


@dataclass(frozen=True)
class About:
    """What a flag means to a reader, and the limit from which on it is raised."""

    code: str
    title: str
    colour: str
    sentence: str
    limit: str


@dataclass(frozen=True)
class Measures:
    """What an audit saw of one task: bits over its queries, and the largest of what it measured of the scores.

    `survived` holds right verdicts after each run, `flat` whether the gradient of a loss by the query is exactly 0.
    `repeat` and `alone` are differences of scores over their range: between forwards, and without batch-mates.

    What rolls through a simulator or writes is right as a whole, and has no `predictions`. Of rollouts in an
    environment, which no gradient passes, single observations are the queries: one of each clean rollout, met in the
    step that `steps` says, and right while the policy does what it does there.
    """

    task: int
    clean: tuple[bool, ...]
    predictions: tuple[int, ...]
    survived: dict[str, tuple[bool, ...]]
    flat: dict[str, tuple[bool, ...]]
    repeat: float
    alone: float
    probabilities: bool
    autograd: bool
    steps: tuple[int, ...] = ()


ABOUT: tuple[About, ...] = (
    About(
        "F1",
        "One step beats many",
        "red",
        "A single step of gradient ascent fools queries that many steps do not, so the many steps got stuck. In an "
        "environment, where each step of a rollout is attacked as it comes, this is asked of single steps, as are F2 "
        "and F3.",
        "more than 1 % of queries",
    ),
    About(
        "F2",
        "More room, less success",
        "red",
        "The same attack succeeds less often with a larger budget, though it may do all that it could with a smaller.",
        "more than 0.5 percentage points",
    ),
    About(
        "F3",
        "Blind search beats gradients",
        "red",
        "Square, or of rollouts a search by stretches of steps, which see scores only, fool queries that every "
        "attack by gradients left, in the audit and in the run: the gradients mislead.",
        "more than 0.2 percentage points",
    ),
    About(
        "F4",
        "Noise beats gradients",
        "red",
        "Random draws from the ball fool queries that every attack by gradients left, in the audit and in the run: the "
        "gradients mislead.",
        "more than 0.2 percentage points",
    ),
    About(
        "F5",
        "A budget without bounds leaves survivors",
        "red",
        "With half the box to move in, all inputs can be made the same; whoever is still right was not attacked.",
        "more than 2 percentage points above 1/K; of rollouts and sequences, above 0; of steps, above the share of the "
        "action that is done most",
    ),
    About(
        "F6",
        "Scores without a gradient",
        "red",
        "The margin or the cross entropy has an input gradient of exactly 0, or scores are probabilities, whose "
        "gradients die out: attacks that climb them cannot start. In a query of equal numbers, as silence is, power "
        "is stationary by itself, so that the gradient must be 0 beside it, too.",
        "more than 1 % of queries; any probabilities",
    ),
    About(
        "F7",
        "The attack had not finished",
        "amber",
        "Twice the iterations change the accuracy, so the attack stops before it has found what it could.",
        "more than 0.5 percentage points",
    ),
    About(
        "F8",
        "Scores are random",
        "red",
        "The same queries get other scores the next time, so an attack that failed may have failed by chance.",
        "any difference among five forwards (on a GPU, more than 1e-5 of the range)",
    ),
    About(
        "F9",
        "AutoAttack finds much more",
        "amber",
        "AutoAttack leaves far less than our multi-targeted PGD, which a sound gradient does not explain.",
        "more than 5 percentage points",
    ),
    About(
        "F10",
        "Queries are judged together",
        "red; amber in the transductive track",
        "A query scores differently by itself than among its batch, so it was not attacked as it is judged; the "
        "transductive track declares this and is ranked apart.",
        "more than 1e-4 of the scores' range",
    ),
    About(
        "F11",
        "The forward optimises",
        "red",
        "Predicting runs autograd inside, as defences that adapt to the query do: attacks that differentiate the "
        "scores do not see through it.",
        "any call",
    ),
    About(
        "F12",
        "Clean accuracy is not reproduced",
        "red",
        "The same clean queries got other verdicts in another run of the same learner.",
        "accuracy moves by more than 0.2 percentage points, or more than 1 % of verdicts differ",
    ),
    About(
        "F13",
        "Collapsed",
        "red where one class takes the predictions and nothing was learned; amber otherwise",
        "One class takes most clean predictions; or the interval of robust accuracy holds 1/K, what a constant "
        "predictor has. An accuracy wholly below 1/K is an honest result, marked ‡ and not flagged; so is 0 of "
        "rollouts and sequences, of which a constant predictor has 0, and no class takes them.",
        "more than 60 % of predictions (red if clean accuracy is within 2 standard errors of 1/K); or 1/K inside",
    ),
)


def red(found: Iterable[Flag]) -> list[Flag]:
    """Pick the flags that take the rank away."""
    return [flag for flag in found if flag.colour == "red"]


def codes(found: Iterable[Flag]) -> str:
    """Write the codes once each: F3 F6."""
    return " ".join(by_number({flag.code for flag in found}))


def by_number(found: Iterable[str]) -> tuple[str, ...]:
    """Put codes in their order."""
    return tuple(sorted(found, key=_number))


def merge(found: Iterable[Flag]) -> tuple[Flag, ...]:
    """Keep one flag of each code and colour, the one furthest past its limit, in the order of the codes."""
    worst: dict[tuple[str, str], Flag] = {}
    for flag in found:
        other = worst.setdefault((flag.code, flag.colour), flag)
        if flag.value - flag.limit > other.value - other.limit:
            worst[flag.code, flag.colour] = flag
    return tuple(sorted(worst.values(), key=lambda flag: (_number(flag.code), flag.colour != "red")))


def of_cells(runs: Runs) -> tuple[Flag, ...]:
    """Raise what the stored verdicts of one entry show, over its attacks and budgets: F1, F2, F3, F9 and F12."""
    found = [flag for eps in sorted({eps for _, eps in runs}) for flag in _at_one_eps(runs, eps)]
    found += [flag for attack in sorted({attack for attack, _ in runs}) for flag in _over_eps(runs, attack)]
    first, *others = (runs[name] for name in sorted(runs)) if runs else (None,)
    if first is not None:
        found += [flag for other in others for flag in reproduced(first, other)]
    return merge(found)


def reproduced(a: Verdicts, b: Verdicts) -> list[Flag]:
    """Raise F12 where two runs of one learner judged the same clean queries otherwise."""
    tasks = np.intersect1d(a.tasks, b.tasks)
    x, y = a.clean[np.isin(a.tasks, tasks)], b.clean[np.isin(b.tasks, tasks)]
    if not x.size or x.shape != y.shape:
        return []
    differ, moved = int((x != y).sum()), abs(float(x.mean() - y.mean()))
    if differ < LEAST or not (moved > MOVED or differ / x.size > DISAGREE):
        return []
    detail = f"{differ} of {x.size} clean verdicts differ between two runs ({_percent(x.mean())}, {_percent(y.mean())})"
    return [Flag("F12", "red", differ / x.size, DISAGREE, x.size, detail)]


def at_chance(mean: float, half: float, constant: float, n: int) -> list[Flag]:
    """Raise F13 where an interval contains what a constant predictor has; too few tasks for one raise nothing.

    Nothing is less than 0, so where a constant has that, to have as much is an honest result.
    """
    if constant == 0 or math.isnan(half) or half > WIDEST or abs(mean - constant) > half:
        return []
    detail = (
        f"the worst case, {_percent(mean)} ± {100 * half:.1f}, may be the {_percent(constant)} of a constant predictor"
    )
    return [Flag("F13", "amber", mean, constant, n, detail)]


def audited_tasks(ran: int) -> int:
    """Say how many tasks of a run are audited: 5 % and at least 20, or all of a shorter run."""
    return min(ran, max(math.ceil(SHARE * ran), LEAST_TASKS))


def of_audit(
    tasks: Sequence[Measures],
    *,
    ways: int,
    surface: str = "query",
    transductive: bool = False,
    runs: Mapping[str, Verdicts] | None = None,
) -> tuple[Flag, ...]:
    """Raise what an audit shows; `transductive` says that queries are judged together by declaration.

    `runs` are the attacks that met the same queries at the audit's eps: what those by gradients fool, blind search and
    noise (F3, F4) did not find alone. Steps of rollouts are no queries of theirs.
    """
    if not tasks:
        return ()
    fooled = [] if tasks[0].steps else [run for name, run in (runs or {}).items() if _BY_GRADIENTS.match(name)]
    found = [*_of_attacks(tasks, _constant(tasks, ways, surface), fooled), *_of_gradients(tasks)]
    found += _of_scores(tasks, transductive=transductive)
    return merge(found + (_collapsed(tasks, ways) if surface == "query" else []))


def left_out(tasks: Sequence[Measures], *, surface: str) -> tuple[str, ...]:
    """Name what an audit did not ask, and why: one sentence each; of verdicts alone, without one, there may be more."""
    if not tasks and surface == "rollout":
        return ("F1, F2, F3, F9 of verdicts: before an audit nobody knows whether gradients pass a rollout's world",)
    if not tasks:
        return ()
    runs, found = tasks[0].survived, []
    if not runs:
        found.append("F1 to F5, F7 and gradients (F6): none reaches the inputs, to attack with or to compare with")
    elif STRETCHES in runs:
        found.append("Square (F3): stretches of steps, made for what is observed one after another, stand in its place")
    elif "square" not in runs:
        found.append("Square (F3): paints single images, and single sounds or sentences in Linf alone")
    if tasks[0].steps:
        found.append("whole rollouts (F1, F2, F3, F9): who does better in each step need not in the end")
        found.append(
            "its clean verdicts against those of runs (F12, of runs alone): of rollouts those, and these of steps"
        )
        found.append("one class (F13): which action is done most, the world decides")
    elif surface == "rollout":
        found.append("one class (F13): a rollout succeeds or fails, and is taken for no class")
    elif surface == "sequence":
        found.append("one class (F13): many places of a target are its end, and a sequence is taken for no class")
    return tuple(found)


def unasked(tasks: Sequence[Measures], *, surface: str) -> tuple[str, ...]:
    """Name the flags that nothing could have raised, where an audit saw `tasks`, or where there was none."""
    never = {"F13"} if surface in ("rollout", "sequence") else set()
    if not tasks:
        return by_number(never | BY_AUDITS | (GREEDY if surface == "rollout" else set()))
    runs = tasks[0].survived
    if not runs:
        never |= {"F1", "F2", "F3", "F4", "F5", "F7", "F9"}
    elif "square" not in runs and STRETCHES not in runs:
        never |= {"F3"}
    if tasks[0].steps:
        never |= {"F9"}
    return by_number(never)


def concluded(found: Iterable[Flag], tasks: Sequence[Measures], *, surface: str) -> list[Flag]:
    """Keep what may be concluded from stored verdicts, where an audit saw `tasks`.

    Of rollouts the audit has to say first that gradients pass their world.
    """
    whole = surface != "rollout" or (bool(tasks) and not tasks[0].steps)
    return [flag for flag in found if whole or flag.code not in GREEDY]


def _constant(tasks: Sequence[Measures], ways: int, surface: str) -> float:
    """Say what may be left right where all inputs are the same."""
    if tasks[0].steps:  # whatever the policy then does, it did in so many of them
        return _most(tasks)
    return 1 / ways if surface == "query" else 0.0


def _most(tasks: Sequence[Measures]) -> float:
    return float(np.mean([np.bincount(task.predictions).max() / len(task.predictions) for task in tasks]))


def _collapsed(tasks: Sequence[Measures], ways: int) -> list[Flag]:
    """Raise F13 where one class takes most of a task's predictions."""
    most = _most(tasks)
    if most > ONE_CLASS:
        n = sum(len(task.predictions) for task in tasks)
        # Of two classes a poor but honest learner may prefer one; it has learned something if it beats a constant.
        each = [float(np.mean(task.clean)) for task in tasks]
        error = float(np.std(each, ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else math.inf
        learned = float(np.mean(each)) - 2 * error > 1 / ways
        detail = f"one class takes {_percent(most)} of a task's clean predictions"
        return [Flag("F13", "amber" if learned else "red", most, ONE_CLASS, n, detail)]
    return []


def _at_one_eps(runs: Runs, eps: float) -> list[Flag]:
    here = {attack: run for (attack, at), run in sorted(runs.items()) if at == eps}
    pgd, white = ([run for name, run in here.items() if kind.match(name)] for kind in (_PGD, _WHITE))
    found: list[Flag | None] = []
    for name, run in here.items():
        if _FGSM.match(name) and pgd:
            new, n = _new(run, pgd)
            found.append(_count("F1", new, n, FGSM_ONLY, f"{name} fools {{}} that every PGD misses"))
        if _SQUARE.match(name) and white:
            new, n = _new(run, white)
            found.append(_count("F3", new, n, NEW, f"{name} fools {{}} that attacks with gradients miss"))
        found += [_weaker(name, run, *other) for other in here.items() if _OWN.match(name)]
    return [flag for flag in found if flag]


def _weaker(name: str, own: Verdicts, reference: str, other: Verdicts) -> Flag | None:
    """Raise F9 where AutoAttack leaves much less than our own attack on the tasks of both."""
    tasks = np.intersect1d(own.tasks, other.tasks)
    if not _AUTOATTACK.match(reference) or not len(tasks):
        return None
    ours, theirs = own.survived[np.isin(own.tasks, tasks)], other.survived[np.isin(other.tasks, tasks)]
    gap = (int(ours.sum()) - int(theirs.sum())) / ours.size
    detail = f"{reference} leaves {_percent(theirs.mean())} where {name} leaves {_percent(ours.mean())}"
    return Flag("F9", "amber", gap, REFERENCE, ours.size, detail) if gap > REFERENCE else None


def _over_eps(runs: Runs, attack: str) -> list[Flag]:
    """Raise F2 where an attack of many steps succeeds less often with a larger budget."""
    if not _WHITE.match(attack):
        return []
    budgets, found = sorted(eps for name, eps in runs if name == attack), []
    for small, large in pairwise(budgets):
        a, b = runs[attack, small], runs[attack, large]
        tasks = np.intersect1d(a.tasks, b.tasks)
        if len(tasks):
            x, y = a.survived[np.isin(a.tasks, tasks)], b.survived[np.isin(b.tasks, tasks)]
            found.append(_less(int(x.sum()), int(y.sum()), x.size, attack, (f"{small:.4g}", f"{large:.4g}")))
    return [flag for flag in found if flag]


def _less(small: int, large: int, n: int, attack: str, eps: tuple[str, str]) -> Flag | None:
    lost = large - small
    text = f"{attack} leaves {_percent(small / n)} at ε {eps[0]} and {_percent(large / n)} at ε {eps[1]}"
    return _count("F2", lost, n, MONOTONE, text)


def _new(run: Verdicts, others: Sequence[Verdicts]) -> tuple[int, int]:
    """Count the queries that `run` fools and none of the others do, and those that all of them met."""
    tasks = run.tasks
    for other in others:
        tasks = np.intersect1d(tasks, other.tasks)
    if not len(tasks):
        return 0, 0
    rows = np.isin(run.tasks, tasks)
    new = run.clean[rows] & ~run.survived[rows]
    for other in others:
        new &= other.survived[np.isin(other.tasks, tasks)]
    return int(new.sum()), new.size


def _of_attacks(tasks: Sequence[Measures], constant: float, others: Sequence[Verdicts]) -> list[Flag]:
    """Raise F1 to F5 and F7 from the runs of an audit, each of which met every query from its clean point.

    F3 and F4 leave out what `others` fool, attacks by gradients on the same queries.
    """
    clean = np.array([task.clean for task in tasks])
    left = {name: clean & [task.survived[name] for task in tasks] for name in tasks[0].survived}
    found: list[Flag | None] = []
    if "pgd" in left:
        n, standing = clean.size, left["pgd"] & left["pgd-twice"]
        texts = {"fgsm": "FGSM fools {} that PGD misses", "square": "Square fools {} that PGD misses"}
        texts |= {STRETCHES: "blind search fools {} that PGD misses", "noise": "random draws fool {} that PGD misses"}
        limits = {"fgsm": ("F1", FGSM_ONLY), "square": ("F3", NEW), STRETCHES: ("F3", NEW), "noise": ("F4", NEW)}
        never = standing & np.array([_left(task, others) for task in tasks])
        hard = {"fgsm": standing} | dict.fromkeys(("square", STRETCHES, "noise"), never)
        fooled = {name: int((clean & hard[name] & ~left[name]).sum()) for name in texts if name in left}
        found += [_count(limits[name][0], new, n, limits[name][1], texts[name]) for name, new in fooled.items()]
        counts = (int(left["pgd-half"].sum()), int(left["pgd"].sum()))
        found.append(_less(*counts, n, "PGD", ("/ 2", "itself")))
        rest, limit = float(left[BOX].mean()), constant + ABOVE_CHANCE
        if rest > limit:
            detail = f"{_percent(rest)} survive PGD with half the box to move in; at most {_percent(limit)} may"
            found.append(Flag("F5", "red", rest, limit, n, detail))
        changed = abs(int(left["pgd"].sum()) - int(left["pgd-twice"].sum()))
        found.append(_count("F7", changed, n, TWICE, "twice the iterations change the verdict of {}", "amber"))
    return [flag for flag in found if flag]


def _left(task: Measures, runs: Sequence[Verdicts]) -> np.ndarray:
    """Say which queries of an audited task withstood every one of `runs` that met it: [Q]."""
    met = [row for run in runs for row in run.survived[run.tasks == task.task] if len(row) == len(task.clean)]
    return np.all([np.ones(len(task.clean), bool), *met], axis=0)


def _of_gradients(tasks: Sequence[Measures]) -> list[Flag]:
    """Raise F6 once, with every reason that there is for it."""
    n, reasons, worst = sum(len(task.clean) for task in tasks), [], 0.0
    for loss in tasks[0].flat:
        flat = sum(sum(task.flat[loss]) for task in tasks)
        if flag := _count("F6", flat, n, FLAT, f"the {loss} has no gradient at {{}}"):
            reasons.append(flag.detail)
            worst = max(worst, flag.value)
    if all(task.probabilities for task in tasks):
        reasons.append("scores are probabilities (rows in [0, 1] that sum to 1); return what enters the softmax")
        worst = 1.0
    return [Flag("F6", "red", worst, FLAT, n, "; ".join(reasons))] if reasons else []


def _of_scores(tasks: Sequence[Measures], *, transductive: bool) -> list[Flag]:
    n, found = sum(len(task.clean) for task in tasks), []
    repeat, alone = (max(getattr(task, name) for task in tasks) for name in ("repeat", "alone"))
    if repeat > 0:
        detail = f"scores of one batch differ by {repeat:.2g} of their range among five forwards"
        found.append(Flag("F8", "red", repeat, 0.0, n, detail))
    if alone > ALONE:
        declared = " (transductive by declaration)" if transductive else ""
        detail = f"a query scores differently by itself, by {alone:.2g} of the range{declared}"
        found.append(Flag("F10", "amber" if transductive else "red", alone, ALONE, n, detail))
    if any(task.autograd for task in tasks):
        found.append(Flag("F11", "red", 1.0, 0.0, n, "predicting runs autograd inside"))
    return found


def _count(code: str, queries: int, n: int, limit: float, text: str, colour: Colour = "red") -> Flag | None:
    """Raise a flag where a share of queries passes its limit, and is not just one or two of them."""
    if queries < LEAST or not queries > limit * n:
        return None
    return Flag(code, colour, queries / n, limit, n, text.format(f"{queries} of {n} queries ({_percent(queries / n)})"))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _number(code: str) -> int:
    return int(code[1:])
