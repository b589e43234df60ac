"""Write reports/reproduction.md: our clean accuracies beside published ones, and what papers claim put to the test.

    python benchmarks/train_zoo.py benchmarks/claims/*.toml --seeds 0,1,2 --out runs    # hours
    more=$(echo benchmarks/claims/claims-protonet-{aq,aq-decay,overreach}.toml)
    python benchmarks/train_zoo.py $more --seeds 3,4,5 --out runs
    for arm in runs/claims-*/; do ckpts="$ckpts --ckpt $arm"; done
    for arm in runs/claims-protonet-standard*/; do standard="$standard --ckpt $arm"; done
    rbm evaluate $ckpts --attacks fgsm,pgd-20,pgd-mt-50 --eps 2/255,8/255 --tasks 20 --no-audit --out RESULTS
    rbm evaluate $ckpts --attacks fgsm --eps 0,8/255 --tasks 30 --no-audit --out RESULTS
    rbm evaluate $standard --attacks pgd-20,pgd-mt-50 --eps 8/255 --tasks 30 --no-audit --out RESULTS
    for arm in runs/claims-protonet-{aq,aq-decay,overreach}{,-seed[1-5]}/; do ours="$ours --ckpt $arm"; done
    rbm evaluate $ours --attacks autoattack --eps 8/255 --tasks 12 --no-audit --out STRONGEST
    for one in {cifar-fs,fc100}-{protonet,fomaml,anil} cifar-fs-r2d2; do clean="$clean --ckpt zoo:$one-standard"; done
    rbm evaluate $clean --attacks fgsm --eps 0 --shots 1 --tasks 600 --no-audit --out RESULTS
    for one in {cifar-fs,fc100}-anil fc100-fomaml; do five="$five --ckpt zoo:$one-standard"; done
    rbm evaluate $five --attacks fgsm --eps 0 --tasks 600 --no-audit --out RESULTS
    rbm leaderboard add RESULTS --board reports/reproduction
    rbm leaderboard add STRONGEST --board reports/reproduction/autoattack
    python benchmarks/reproduction.py [--check]

The committed entries of the two claims-fomaml arms are of 12 tasks, at 2/255 alone.

Numbers of ours come from entries alone, those of reports/reproduction and, for the clean rows, of reports/leaderboard,
too; what is not measured yet is said to be so. references.toml and claims.toml beside the entries say what is asked.
--check exits 1 where the page is not what the entries make.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
from pydantic import Field, ValidationError

from robustbench_meta import catalog, methods, submissions, timing, tracks, train, untrusted
from robustbench_meta.checkpoint import Recipe, first_problem
from robustbench_meta.cli_train import read_recipe
from robustbench_meta.grid import parse_eps
from robustbench_meta.intervals import LEAST_SEEDS, Crossed, arm, crossed, crossed_bootstrap, spanning
from robustbench_meta.methods import Training
from robustbench_meta.outcomes import Board, Entry, Outcome, Results, outcomes
from robustbench_meta.report.markdown import escape, grid
from robustbench_meta.report.naming import steps_text
from robustbench_meta.report.values import NOTHING
from robustbench_meta.submissions import ENTRIES, Strict
from robustbench_meta.types import InputError, Norm

ROOT = Path(__file__).resolve().parents[1]
FOLDER, BOARD, PAGE = (
    ROOT / "reports" / "reproduction",
    ROOT / "reports" / "leaderboard",
    ROOT / "reports" / "reproduction.md",
)
STRONGEST = "autoattack"  # below the folder, a board of its own: on one board all would have to meet it
LARGEST = 2**20  # bytes of a TOML file
_Model = TypeVar("_Model", bound=Strict)


class Claim(Strict):
    """a is above b, a equals b within the margin, or `attack` leaves of a at least `points` more than the worst."""

    text: str
    kind: Literal["above", "equal", "at least"]
    a: str
    b: str | None = None
    attack: str | None = None
    points: float = 0.0
    eps: str
    source: str
    note: str = ""
    without: tuple[str, ...] = Field((), description="attacks that are left out, as those that fewer tasks met")


class Claims(Strict):
    """claims.toml."""

    seeds: int = Field(ge=LEAST_SEEDS)
    margin: float = Field(gt=0, description="in points")
    family: str
    ways: int
    shots: int
    norm: Norm
    recipes: str
    attacks: tuple[str, ...] = Field((), description="that both sides of a claim met at least, where eps is above 0")
    claim: tuple[Claim, ...]


class Reference(Strict):
    """One published clean accuracy in %, with the names of the entries that stand beside it."""

    method: str
    network: str
    family: str
    ways: int = 5
    shots: int
    published: float
    half: float = 0.0
    source: str
    ours: tuple[str, ...]
    reason: str = ""


class References(Strict):
    """references.toml."""

    near: float = Field(gt=0, description="in points")
    row: tuple[Reference, ...]


@dataclass(frozen=True)
class Measured:
    """Entries as tables, how each learner was trained, and its recipe, by weights."""

    results: Results
    known: dict[str, Training]
    recipes: dict[str, Recipe]
    found: list[Outcome]


@dataclass(frozen=True, eq=False)
class Arm:
    """The seeds of one recipe on one board at one eps, by rising seeds; none where it is not measured."""

    name: str
    recipe: Recipe
    seeds: tuple[Outcome, ...]

    def sample(self, tasks: np.ndarray, attack: str | None = None) -> np.ndarray:
        """Return what the worst case, or one attack, left by seed and task [R, n]."""
        if attack is None:
            return np.stack([one.known[np.searchsorted(one.tasks, tasks)] for one in self.seeds])
        runs = [one.runs[attack] for one in self.seeds]
        return np.stack([run.survived[run.at(tasks)].mean(1) for run in runs])


@dataclass(frozen=True, eq=False)
class Test:
    """What came of a claim: accuracies [R, n] of both sides if both were measured, and the verdict."""

    claim: Claim
    sides: tuple[str, ...]
    a: np.ndarray | None
    b: np.ndarray | None
    difference: Crossed | None
    ends: tuple[float, float]
    verdict: str
    attacks: tuple[str, ...] = ()  # whose worst case it is: those that both sides met


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--board", type=Path, default=BOARD)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    try:
        made = page(given.folder, given.board)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    if given.check:
        there = given.page.read_text(encoding="utf-8") if given.page.is_file() else ""
        if there != made:
            raise SystemExit(f"{given.page} is not what its entries make")
        print(f"{given.page} is what its entries make")
        return
    given.page.write_text(made, encoding="utf-8", newline="\n")


def page(folder: Path, board: Path) -> str:
    """Write the page from what the two folders of entries hold."""
    claims, references = _read(folder / "claims.toml", Claims), _read(folder / "references.toml", References)
    claimed = [folder / ENTRIES, folder / STRONGEST / ENTRIES]
    own = entries_in(claimed)
    both = entries_in([*claimed, board / ENTRIES])
    parts = ["# Reproduction", INTRODUCTION, "## Clean references", _about_references(references)]
    parts += [_reference_table(references, measured(both)), "## Claims", _about_claims(claims)]
    tests = tests_of(claims, measured(own))
    parts += [_claim_table(tests), _details(claims, tests)]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = (
    "Ours beside what was published, each with its 95 % interval. A row of three training seeds or more is called a "
    "method, and its interval is over seeds and tasks; fewer are checkpoints, with an interval over tasks alone. "
    "Written by `benchmarks/reproduction.py` from the entries of `reports/reproduction` and `reports/leaderboard`."
)


def entries_in(folders: Iterable[Path]) -> list[submissions.Entry]:
    """Read the entries of several folders, a learner's of one joined with its others; a folder may not be there yet."""
    found: dict[str, submissions.Entry] = {}
    for folder in (folder for folder in folders if folder.is_dir()):
        entries, problems = tracks.read(folder)
        if problems:
            raise InputError(f"entries: {problems[0].text}")
        for entry in entries.values():
            old = found.get(entry.weights)
            found[entry.weights] = entry if old is None else submissions.merged(old, entry)
    return list(found.values())


def measured(entries: Sequence[submissions.Entry]) -> Measured:
    if not entries:
        return Measured(submissions.tables_of([]), {}, {}, [])
    results = submissions.tables_of(entries)
    recipes = {one.weights: one.card.recipe for one in entries if one.card is not None}
    return Measured(results, methods.trainings(results), recipes, outcomes(results))


def tests_of(claims: Claims, given: Measured) -> list[Test]:
    """Put every claim to the test."""
    return [_test(claims, claim, given) for claim in claims.claim]


def _test(claims: Claims, claim: Claim, given: Measured) -> Test:
    names, eps = [name for name in (claim.a, claim.b) if name], parse_eps(claim.eps)
    arms = [_arm(claims, name, eps, given) for name in names]
    sides = (arms[0].name, arms[1].name) if len(arms) > 1 else (f"{arms[0].name} by {claim.attack}", "its worst case")
    needed = {*(claims.attacks if eps else ()), *([claim.attack] if claim.attack else [])}
    lacking = [why for one in arms if (why := _lacks(one, claims.seeds, needed))]
    if not all(one.seeds for one in arms):
        return _untested(claim, sides, "; ".join(lacking))
    # Under what both sides met alone, or who met more would come out weaker.
    met = set.intersection(*({*one.runs} for side in arms for one in side.seeds)) - {*claim.without}
    if not met:
        return _untested(claim, sides, "no attack that both sides met")
    shared = _under(met, {one.entry.weights for side in arms for one in side.seeds}, given)
    arms = [_arm(claims, name, eps, shared) for name in names]
    tasks = reduce(np.intersect1d, [one.tasks for side in arms for one in side.seeds])
    if claim.attack in met:
        a, b = arms[0].sample(tasks, claim.attack), arms[0].sample(tasks)
        # The same seeds on both sides: what one adds to both is no part of their difference.
        difference, ends = crossed(a - b), crossed_bootstrap(a - b, seed=0)
    else:
        a, b = arms[0].sample(tasks), arms[-1].sample(tasks)
        difference, ends = crossed(a, b), crossed_bootstrap(a, b, seed=0)
    verdict = f"not tested yet: {'; '.join(lacking)}" if lacking else judged(claim, difference, claims.margin)
    flagged = sorted({flag.code for side in arms for one in side.seeds for flag in one.check.red})
    verdict += f"; flagged: {', '.join(flagged)}" if flagged else ""
    return Test(claim, sides, a, b, difference, ends, verdict, tuple(sorted(met)))


def _untested(claim: Claim, sides: tuple[str, ...], why: str) -> Test:
    return Test(claim, sides, None, None, None, (math.nan, math.nan), f"not tested yet: {why}")


def _under(attacks: set[str], weights: set[str], given: Measured) -> Measured:
    """Return what some learners left of these attacks alone."""
    cells = given.results.cells
    mine = cells["weights"].isin(weights) & cells["attack"].isin(attacks)
    results = replace(cast(Any, given.results), cells=cells[mine])
    return replace(given, results=results, found=outcomes(results))


def judged(claim: Claim, found: Crossed, margin: float) -> str:
    """Say whether the whole interval of a difference, in points, lies where the claim has it."""
    mean, half = 100 * found.mean, 100 * found.half()
    low, high = mean - half, mean + half
    if claim.kind == "equal":
        if -margin <= low and high <= margin:
            return "holds"
        return "does not hold" if low > margin or high < -margin else f"undecided at n = {found.n}"
    if low > claim.points or (claim.kind == "at least" and low >= claim.points):
        return "holds"
    return "does not hold" if high < claim.points else f"undecided at n = {found.n}"


def _lacks(side: Arm, seeds: int, needed: set[str]) -> str:
    if len(side.seeds) < seeds:
        return f"{side.name} has {len(side.seeds)} of {seeds} training seeds"
    lacking = {name for one in side.seeds for name in (*(needed - {*one.runs}), *(failed for failed, _ in one.errors))}
    return f"{side.name} lacks {', '.join(sorted(lacking))}" if lacking else ""


def _arm(claims: Claims, name: str, eps: float, given: Measured) -> Arm:
    """Find the checkpoints of a recipe on the board of the claims; of several boards, on the one with most of them."""
    recipe = read_recipe(str(ROOT / claims.recipes / f"{name}.toml"), {}, [], None)
    steps = catalog.algorithm(recipe.algorithm, **recipe.algorithm_options).test_steps
    about = ("test", claims.family, claims.ways, claims.shots, claims.norm, "query")
    by_board: dict[Board, dict[Entry, Outcome]] = {}
    for one in given.found:
        training, board = given.known.get(one.entry.weights), one.board
        here = (board.split, board.family, board.ways, board.shots, board.norm, board.surface)
        mine = training is not None and training.method == recipe.method
        if mine and here == about and one.entry.steps == steps and one.eps == round(eps, 9) and len(one.tasks):
            by_board.setdefault(board, {})[one.entry] = one
    groups = [
        tuple(found[entry] for entry in group)
        for found in by_board.values()
        for group in methods.together(found, given.known)
    ]
    return Arm(name, recipe, max(groups, key=len, default=()))


def passes(recipe: Recipe) -> tuple[int, int]:
    """Count the rows that the first update of a recipe sends forward and backward, on strokes, which need no data."""
    meter = timing.Meter()
    drawn = recipe.model_copy(update={"family": "strokes", "family_options": {}, "augment": ()})
    train.first_update(drawn, lambda learner: timing.metered(learner, meter))
    return meter.forwards, meter.backwards


def ours(row: Reference, given: Measured) -> tuple[np.ndarray, Outcome, int] | None:
    """Return clean accuracies by seed and task [R, n] of the entries of a row, one of their outcomes, and the seeds."""
    longest: dict[Board, dict[Entry, Any]] = {}
    for one in given.found:
        about, board = (row.family, "test", row.ways, row.shots, "query"), one.board
        if one.entry.checkpoint not in row.ours or about != (
            *(board.family, board.split, board.ways, board.shots, board.surface),
        ):
            continue
        recipe = given.recipes.get(one.entry.weights)
        if recipe and one.entry.steps != catalog.algorithm(recipe.algorithm, **recipe.algorithm_options).test_steps:
            continue
        for run in one.runs.values():
            old = longest.setdefault(board, {}).get(one.entry)
            if old is None or len(run.tasks) > len(old[0].tasks):
                longest[board][one.entry] = (run, one)
    if not longest:
        return None
    found = max(longest.values(), key=lambda each: (len(each), sum(len(run.tasks) for run, _ in each.values())))
    groups = methods.together(found, given.known)
    if len(groups) > 1:
        raise InputError(f"ours: {', '.join(row.ours)} are not training seeds of one recipe")
    runs = [found[entry][0] for entry in groups[0]]
    tasks = reduce(np.intersect1d, [run.tasks for run in runs])
    values = np.stack([run.clean[run.at(tasks)].mean(1) for run in runs])
    return values, found[groups[0][0]][1], len(runs)


def compared(row: Reference, mean: float, half: float, near: float) -> str:
    """Say whether a clean accuracy, all in %, is what was published."""
    gap = row.published - mean
    if gap <= near and mean + half >= row.published - row.half:
        return "reproduced"
    if gap <= near:
        return f"within {math.ceil(10 * gap) / 10:.1f} points"
    return f"not, because {row.reason}" if row.reason else f"not: {gap:.1f} points below, for no known reason"


def _reference_table(references: References, given: Measured) -> str:
    head = ["Method", "Task", "Published, %", "Ours, %", "n", "Entry", "How ours was trained", "Verdict"]
    rows = []
    for row in references.row:
        published = f"{row.published:.1f}" + (f" ± {row.half:.1f}" if row.half else "")
        task = f"{row.family} {row.ways}-way {row.shots}-shot"
        line = [f"{row.method}, {row.network}", task, published]
        if (found := ours(row, given)) is None:
            rows.append([*line, NOTHING, NOTHING, ", ".join(row.ours), NOTHING, "not measured yet"])
            continue
        values, outcome, seeds = found
        mean, half = (100 * number for number in spanning(arm(values)))
        entry = f"{outcome.entry.checkpoint}, {methods.word(seeds)}" + (f" of {seeds} seeds" if seeds > 1 else "")
        if outcome.entry.steps is not None:
            entry += f", {steps_text(outcome.entry.steps)} steps"
        trained = _trained(given.recipes.get(outcome.entry.weights))
        verdict = compared(row, mean, half, references.near)
        rows.append([*line, f"{mean:.1f} ± {half:.1f}", str(values.shape[1]), entry, trained, verdict])
    return _escaped(head, rows)


def _trained(recipe: Recipe | None) -> str:
    if recipe is None:
        return NOTHING
    options = ", ".join(f"{name} {value}" for name, value in recipe.network_options.items())
    ways = f"{recipe.train_ways or recipe.ways}-way {recipe.shots}-shot"
    return f"{recipe.network} {options}; {recipe.steps:,} updates of {recipe.meta_batch} {ways} tasks".replace(
        "  ", " "
    )


def _claim_table(tests: Sequence[Test]) -> str:
    head = ["", "Claim", "A, %", "B, %", "A − B, points", "by bootstrap", "seeds", "n", "Verdict"]
    rows = []
    for number, one in enumerate(tests, 1):
        line = [str(number), one.claim.text]
        if one.a is None or one.b is None or one.difference is None:
            rows.append([*line, *[NOTHING] * 6, one.verdict])
            continue
        sides = [spanning(arm(side)) for side in (one.a, one.b)]
        difference = f"{100 * one.difference.mean:+.1f} ± {100 * one.difference.half():.1f}"
        ends = " to ".join(f"{100 * end:+.1f}" for end in one.ends)
        seeds = f"{len(one.a)}, {len(one.b)}" if one.claim.b else f"{len(one.a)}"
        values = [f"{100 * mean:.1f} ± {100 * half:.1f}" for mean, half in sides]
        rows.append([*line, *values, difference, ends, seeds, str(one.difference.n), one.verdict])
    return _escaped(head, rows)


def _details(claims: Claims, tests: Sequence[Test]) -> str:
    """Say of each claim what its arms are, what they cost and who claims it."""
    names = sorted({name for one in claims.claim for name in (one.a, one.b) if name})
    lines = ["### What each arm is", _arms(claims, names), "### What each claim compares"]
    for number, one in enumerate(tests, 1):
        words = {"above": "A above B", "equal": f"A equals B within {claims.margin:g} points"}
        asked = words.get(one.claim.kind, f"A at least {one.claim.points:g} points above B")
        by = f", worst case of {', '.join(one.attacks)}" if one.attacks and parse_eps(one.claim.eps) else ""
        text = f"A: {one.sides[0]}; B: {one.sides[1]}; ε {one.claim.eps}{by}. Asked: {asked}."
        text += f" Source: {one.claim.source}."
        lines.append(f"{number}. {escape(text)} {escape(one.claim.note)}".strip())
    return "\n\n".join(lines)


def _arms(claims: Claims, names: Sequence[str]) -> str:
    head = ["Arm", "Learner and defense", "Updates", "Rows forward / backward an update", "in all, millions"]
    rows = []
    for name in names:
        recipe = read_recipe(str(ROOT / claims.recipes / f"{name}.toml"), {}, [], None)
        forward, backward = passes(recipe)
        about = f"{recipe.algorithm}, {recipe.defense}" + (
            f" by {recipe.craft}" if recipe.defense != "standard" else ""
        )
        total = [f"{rows * recipe.steps / 1e6:.2f}" for rows in (forward, backward)]
        rows.append([name, about, f"{recipe.steps:,}", f"{forward:,} / {backward:,}", " / ".join(total)])
    return _escaped(head, rows)


def _about_references(references: References) -> str:
    return (
        "Published means are from secondary tables that quote the papers. “reproduced”: ours is above, or the "
        f"intervals overlap and ours is at most {references.near:g} points lower, so that measuring little reproduces "
        f"nothing; “within x points”: ours is at most {references.near:g} points lower; otherwise the reason. A "
        "published interval is over tasks, too; where none was told, the mean alone is compared."
    )


def _about_claims(claims: Claims) -> str:
    return (
        f"Worst-case accuracy on {claims.family}, {claims.ways}-way {claims.shots}-shot, paired task by task, of the "
        "attacks that both sides met. Each arm "
        f"is one recipe with at least {claims.seeds} training seeds, stated before any was trained, but for what a "
        "note says; the interval of a difference is over seeds and tasks (`intervals.Crossed`), the percentile "
        "bootstrap beside it is known to be too narrow on few seeds. A claim of equality holds where the whole "
        "interval lies within "
        f"{claims.margin:g} points. Each verdict is at 95 % by itself, not all of them at once."
    )


def _escaped(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return grid(head, [[escape(text) for text in row] for row in rows])


def _read(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate_json(json.dumps(tomllib.loads(untrusted.content(path, LARGEST).decode())))
    except ValidationError as error:
        raise InputError(f"{path.name}: {first_problem(error)}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name}: {error}") from None


if __name__ == "__main__":
    main()
