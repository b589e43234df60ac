"""Does adversarial meta-training generalise better? Its learners beside standard ones, in domain and on other data.

    python benchmarks/image_folder.py omniglot --data-root data --out data/omniglot-paper
    python benchmarks/generalisation.py evaluate --data-root data --out generalisation-results   # resumable
    python benchmarks/generalisation.py add generalisation-results --data-root data
    python benchmarks/generalisation.py write       # the page, from reports/generalisation alone; needs no data

A pair is two checkpoints whose cards share family, algorithm, network, spec and seed, and differ in the defense, which
is `standard` in one of them. Every learner of a pair meets the test tasks of its own family and of those in TARGETS.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.special import stdtr, stdtrit

import robustbench_meta
from robustbench_meta import catalog, checkpoint, statistics, submissions, untrusted
from robustbench_meta.checkpoint import Card
from robustbench_meta.episodes import fingerprint
from robustbench_meta.grid import COLOUR_EPS, GREY_EPS
from robustbench_meta.intervals import ALPHA, holm, interval, paired_p
from robustbench_meta.outcomes import eps_text
from robustbench_meta.report import drawing
from robustbench_meta.report.markdown import escape, grid
from robustbench_meta.types import InputError

HERE = Path("reports/generalisation")
SOURCES = "sources.json"  # which episodes are which: what an entry knows by their hash alone
NOISE, ATTACK = "noise-1", "pgd-20"
CLEAN_TASKS, ATTACK_TASKS = 200, 40  # noise at the largest eps meets the clean accuracy of as many, too
SAME = ("family", "family_options", "algorithm", "algorithm_options", "network", "network_options", "norm_mode")
SPEC = ("ways", "shots", "seed")
STAR = "\\*"  # after a difference that Holm leaves


@dataclass(frozen=True)
class Target:
    """Test tasks of one family, what they are called, and whether learners of colour or of grey images meet them."""

    title: str
    family: str
    options: dict[str, Any] = field(default_factory=dict)


OWN = {
    "cifar-fs": Target("CIFAR-FS", "cifar-fs"),
    "omniglot": Target("Omniglot", "omniglot"),
    "strokes": Target("strokes", "strokes"),
}
OTHERS = {
    "cifar-fs": (
        Target("FC100, unseen classes", "fc100", {"unseen_by": "cifar-fs"}),
        Target("Omniglot on paper", "image-folder", {"folder": "omniglot-paper", "size": 32}),
    ),
    "omniglot": (OWN["strokes"],),
    "strokes": (OWN["omniglot"],),
}
BUDGETS = {"cifar-fs": COLOUR_EPS, "omniglot": GREY_EPS, "strokes": GREY_EPS}


def pairs_of(cards: dict[str, Card]) -> list[tuple[str, str]]:
    """Return (standard, defended) names of the checkpoints that differ in nothing but the defense and its training."""
    found: dict[str, list[str]] = {}
    for name, card in sorted(cards.items()):
        recipe = card.recipe.model_dump(mode="json")
        if card.recipe.family in OWN:
            found.setdefault(json.dumps([recipe[one] for one in (*SAME, *SPEC)], sort_keys=True), []).append(name)
    made = []
    for names in found.values():
        standard = [name for name in names if cards[name].recipe.defense == "standard"]
        defended = [name for name in names if cards[name].recipe.defense != "standard"]
        made += [(one, other) for one in standard for other in defended]
    return sorted(made)


def evaluate(folders: Iterable[Path], out: Path, *, root: Path | None) -> None:
    """Measure every learner of a pair on tasks of its own and elsewhere, at home under smaller noise, too."""
    cards = {folder.name: checkpoint.read_card(folder / checkpoint.CARD) for folder in folders}
    paths = {folder.name: folder for folder in folders}
    for name in sorted({name for pair in pairs_of(cards) for name in pair}):
        home = cards[name].recipe.family
        for target in (OWN[home], *OTHERS[home]):
            print(name, "on", target.title, flush=True)
            family = catalog.family(target.family, root=root, **target.options)
            *smaller, largest = BUDGETS[home]
            parts = [(NOISE, largest, CLEAN_TASKS), (ATTACK, largest, ATTACK_TASKS)]
            if target is OWN[home]:
                parts.append((NOISE, smaller, ATTACK_TASKS))
            for attack, eps, tasks in parts:
                given: Any = {"family": family, "attacks": attack, "eps": eps, "tasks": tasks, "out": out}
                robustbench_meta.evaluate(paths[name], data_root=root, audit=False, device="cpu", **given)


def add(results: Path, out: Path, *, root: Path | None) -> None:
    """Put what was measured into `out`: an entry for each learner, and which episodes are which."""
    add_entries(results, out)
    sources = {}
    for target in {one.title: one for group in (OWN.values(), *OTHERS.values()) for one in group}.values():
        family: Any = catalog.family(target.family, root=root, **target.options)
        held = {"title": target.title, "family": target.family, "options": target.options}
        held |= {"classes": len(family.classes("test")), "images": len(family.pool("test").images)}
        sources[fingerprint(family, "test")] = held
    text = json.dumps(sources, indent=1, sort_keys=True, allow_nan=False)
    checkpoint.write(out / SOURCES, text.encode() + b"\n")


def add_entries(results: Path, out: Path) -> None:
    """Put an entry for each learner of a results folder into `out`, joined with what is there.

    These are no entries of a leaderboard, where a family's name stands for one set of episodes.
    """
    about = submissions.read_about(HERE.parent / "leaderboard" / "about.toml")
    known = {entry.weights: entry for entry in entries_in(out)}
    (out / submissions.ENTRIES).mkdir(parents=True, exist_ok=True)
    for entry in submissions.entries_of(results, {}, about, robustbench_meta.__version__):
        made = submissions.merged(known[entry.weights], entry) if entry.weights in known else entry
        checkpoint.write(out / submissions.ENTRIES / made.file, submissions.text(made))


def entries_in(folder: Path) -> list[submissions.Entry]:
    """Read what `add_entries` wrote; raise InputError where a file was changed, or two learners share a name."""
    made = []
    for path in submissions.files_of(folder / submissions.ENTRIES):
        try:
            entry = submissions.parse(untrusted.content(path, submissions.LARGEST_ENTRY))
        except ValueError as error:
            raise InputError(f"entries: {path}: {error}") from None
        if entry.sha256 != entry.digest or entry.card is None:
            raise InputError(f"entries: {path}: it has no card, or was changed by hand; remake it by `add`")
        if entry.name in {other.name for other in made}:
            raise InputError(f"entries: {path}: another learner is called {entry.name!r}; rename its folder")
        made.append(entry)
    return made


@dataclass(frozen=True, eq=False)
class Measured:
    """What one learner got right, each a Series over task numbers: clean, under noise by eps, under ATTACK by eps."""

    clean: pd.Series[float]
    noisy: dict[float, pd.Series[float]]
    robust: dict[float, pd.Series[float]]


@dataclass(frozen=True)
class Difference:
    """A mean difference in [-1, 1], half its 95 % interval and its p-value, before and after Holm."""

    mean: float
    half: float
    p: float
    holm: float = math.nan

    @property
    def verdict(self) -> str:
        return "no difference shown" if self.holm > ALPHA else "higher" if self.mean > 0 else "lower"

    @property
    def text(self) -> str:
        return f"{100 * self.mean:+.1f} ± {100 * self.half:.1f}{STAR if self.holm <= ALPHA else ''}"


@dataclass(frozen=True)
class Case:
    """One pair on one target: defended minus standard, and the same there minus at home (None at home)."""

    standard: str
    defended: str
    home: str
    target: str
    clean: Difference
    robust: Difference
    clean_gap: Difference | None = None
    robust_gap: Difference | None = None


@dataclass(frozen=True, eq=False)
class Study:
    """All that the page is made of: cards and measurements by checkpoint and target's title, and what those are."""

    cards: dict[str, Card]
    measured: dict[tuple[str, str], Measured]
    sources: dict[str, dict[str, Any]]
    cases: tuple[Case, ...]


def read(folder: Path) -> Study:
    """Read a folder that `add` wrote and compare every pair; raise InputError where something is lacking."""
    entries = entries_in(folder)
    if not entries:
        raise InputError(f"entries: {folder} holds none; `add` writes them")
    known: Any = untrusted.parse(untrusted.content(folder / SOURCES, 2**20))
    cards = {one.name: one.card for one in entries if one.card is not None}
    table = statistics.per_task(submissions.tables_of(entries))
    measured = {
        (str(name), str(known[episodes]["title"])): measured_of(rows)
        for (name, episodes), rows in table.groupby(["checkpoint", "episodes"])
    }
    return Study(cards, measured, {one["title"]: one for one in known.values()}, tuple(compare(cards, measured)))


def measured_of(rows: pd.DataFrame) -> Measured:
    """Gather what one learner got right on one source of tasks, from rows of `statistics.per_task`."""
    by_attack: dict[str, dict[float, pd.DataFrame]] = {NOISE: {}, ATTACK: {}}
    for (attack, eps), mine in rows.groupby(["attack", "eps"]):
        by_attack.setdefault(str(attack), {})[float(eps)] = mine.set_index("task")
    longest = max((mine for runs in by_attack.values() for mine in runs.values()), key=len)
    noisy, robust = ({eps: mine["robust"] for eps, mine in by_attack[name].items()} for name in (NOISE, ATTACK))
    return Measured(longest["clean"], noisy, robust)


def compare(cards: dict[str, Card], measured: dict[tuple[str, str], Measured]) -> list[Case]:
    """Compare every pair on every target that both met, its own first; Holm over all p-values together."""
    cases = []
    for one, other in pairs_of(cards):
        home = OWN[cards[one].recipe.family].title
        titles = [home, *(target.title for target in OTHERS[cards[one].recipe.family])]
        pairs = {title: _differences(measured[one, title], measured[other, title]) for title in titles}
        for title, (clean, robust) in pairs.items():
            gaps: tuple[Difference | None, ...] = (None, None)
            if title != home:
                gaps = tuple(apart(there, here) for there, here in zip(pairs[title], pairs[home], strict=True))
            cases.append(Case(one, other, home, title, paired(clean), paired(robust), *gaps))
    return _corrected(cases)


def _differences(standard: Measured, defended: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Return defended minus standard, clean [n] and robust [m] at the largest eps that both met, task by task."""
    eps = max(standard.robust.keys() & defended.robust.keys())
    clean, robust = (
        (other - one).dropna().to_numpy()
        for one, other in ((standard.clean, defended.clean), (standard.robust[eps], defended.robust[eps]))
    )
    return clean, robust


def paired(differences: np.ndarray) -> Difference:
    return Difference(*interval(differences), paired_p(differences))


def apart(there: np.ndarray, here: np.ndarray) -> Difference:
    """Compare two means over different tasks (Welch's t)."""
    shares = [float(np.var(one, ddof=1)) / len(one) for one in (there, here)]
    error, mean = math.sqrt(sum(shares)), float(there.mean() - here.mean())
    if not error:
        return Difference(mean, 0.0, 1.0 if not mean else 0.0)
    freedom = sum(shares) ** 2 / sum(s**2 / (len(one) - 1) for s, one in zip(shares, (there, here), strict=True))
    half = float(stdtrit(freedom, 1 - ALPHA / 2)) * error
    return Difference(mean, half, float(2 * stdtr(freedom, -abs(mean) / error)))


def _corrected(cases: Sequence[Case]) -> list[Case]:
    names = ("clean", "robust", "clean_gap", "robust_gap")
    places = [(at, name) for at, case in enumerate(cases) for name in names if getattr(case, name) is not None]
    adjusted = holm([getattr(cases[at], name).p for at, name in places])
    made: list[dict[str, Any]] = [dict(vars(case)) for case in cases]
    for (at, name), p in zip(places, adjusted, strict=True):
        made[at][name] = Difference(made[at][name].mean, made[at][name].half, made[at][name].p, float(p))
    return [Case(**one) for one in made]


PAGE, FIGURE = "generalisation.md", "differences"


def write(folder: Path) -> Path:
    """Write the page and its figure from what `add` left in `folder`, and from nothing else."""
    study = read(folder)
    with matplotlib.rc_context(drawing.STYLE):
        drawing.save(drawn(study.cases), folder / FIGURE, "", drawing.About("", ""))
    checkpoint.write(folder / PAGE, page(study).encode())
    return folder / PAGE


def page(study: Study) -> str:
    """Return the page in Markdown."""
    parts = [INTRODUCTION, "## Verdict", *verdict(study.cases), f"![Differences]({FIGURE}.svg)"]
    parts += ["## Which tasks", sources_text(study), "## Accuracies", accuracies(study)]
    parts += ["## Defended minus standard", differences(study.cases), "## From home to elsewhere", gaps(study.cases)]
    return "\n\n".join([*parts, "## How these numbers are made", COMMANDS]) + "\n"


INTRODUCTION = f"""\
# Does adversarial meta-training generalise better?

The idea is that adversarial meta-training improves generalisation as well as robustness. Below, each learner that a
defense trained stands beside the undefended one of the same family, algorithm, network, spec and seed, on test tasks
of its own family ("home") and on tasks from elsewhere. Clean accuracy is over {CLEAN_TASKS} tasks, robust accuracy over
the first {ATTACK_TASKS} of them under `{ATTACK}`, in Linf at 8/255 for colour and 0.1 for grey images; 5-way 5-shot, 15
queries a class, episode seed 0. `{ATTACK}` alone makes an upper bound, which stands a few points above AutoAttack's at
home (the leaderboard has both), and learners were not audited abroad. Both learners of a pair meet the same tasks, so
differences are paired task by task; those between home and elsewhere are over different tasks (Welch). ± is half a
95 % interval, over tasks and not over training seeds; {STAR} marks what is shown at 95 % with all the p-values of this
page corrected together (Holm). Each learner is one checkpoint of one seed, and a defended one was usually trained for
more updates than its standard partner (see the table): what is compared is checkpoints, not methods."""

COMMANDS = """\
```sh
export RBM_DATA=data OMP_NUM_THREADS=1
python benchmarks/image_folder.py omniglot --out data/omniglot-paper
python benchmarks/generalisation.py evaluate --out generalisation-results   # every pair of checkpoints/; resumable
python benchmarks/generalisation.py add generalisation-results
python benchmarks/generalisation.py write                                   # this page, from entries/ alone
```

`entries/` holds the verdicts, query by query, in the format of the leaderboard's entries; `sources.json` says which
episodes are which."""


def verdict(cases: Sequence[Case]) -> list[str]:
    """Say in words what the cases show, per direction and over all."""
    abroad = [case for case in cases if case.clean_gap is not None]
    if not abroad:
        return ["No pair was measured away from home: nothing can be said."]
    clean, robust = (_count([getattr(case, name) for case in abroad]) for name in ("clean", "robust"))
    n, means = len(abroad), sorted(100 * case.clean.mean for case in abroad)
    whole = f"Over {_several(n, 'case')} (a pair of learners on tasks from elsewhere), defended against standard:"
    whole += f" robust accuracy is {_said(robust, n)}; clean accuracy is {_said(clean, n)}, by {means[0]:+.1f} to"
    whole += f" {means[-1]:+.1f} points. {_idea(clean, robust, n)}"
    bullets = []
    for home, target in dict.fromkeys((case.home, case.target) for case in abroad):
        mine = [case for case in abroad if (case.home, case.target) == (home, target)]
        found = {name: _count([getattr(case, name) for case in mine]) for name in ("clean", "robust", "clean_gap")}
        bullet = f"- **{escape(home)} → {escape(target)}** ({_several(len(mine), 'pair')}): clean accuracy is"
        bullet += f" {_said(found['clean'], len(mine))}, robust accuracy {_said(found['robust'], len(mine))}. Measured"
        bullet += f" against home, the clean difference is {_said(found['clean_gap'], len(mine))}."
        bullets.append(bullet)
    return [whole, "\n".join(bullets)]


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _count(found: Sequence[Difference]) -> tuple[int, int]:
    """Return how many are higher and how many lower."""
    verdicts = [one.verdict for one in found]
    return verdicts.count("higher"), verdicts.count("lower")


def _said(counts: tuple[int, int], n: int) -> str:
    """Say of n how many are higher, how many lower, and how many not shown to be either."""
    found = list(zip((*WORDS, "not shown to differ"), (*counts, n - sum(counts)), strict=True))
    if n == 1:
        return next(word for word, count in found if count)
    return ", ".join(f"{word} in {'all ' if count == n else ''}{count}" for word, count in found if count)


WORDS = ("higher", "lower")


def _idea(clean: tuple[int, int], robust: tuple[int, int], n: int) -> str:
    """Say what that means for the idea, whichever way it falls."""
    robustly = "Robustness carries over" if robust[0] == n else "Robustness carries over in part" if robust[0] else ""
    robustly = robustly or "Robustness is not shown to carry over"
    if clean[0] and not clean[1]:
        better = "in every case" if clean[0] == n else f"in {clean[0]} of {n} cases and harms it in none"
        return f"{robustly}, and generalisation, as clean accuracy on other data, improves {better}: the idea holds."
    if clean[1] and not clean[0]:
        said = f"does not improve in any case and is worse in {clean[1]}"
        return f"{robustly}; generalisation, as clean accuracy on other data, {said}: the idea is contradicted."
    if clean[0]:
        return (
            f"{robustly}; generalisation, as clean accuracy on other data, improves in {_several(clean[0], 'case')} and"
            f" is worse in {clean[1]}: the idea holds in some and is contradicted in others."
        )
    return f"{robustly}; generalisation is not shown to change: the idea is neither confirmed nor contradicted."


def sources_text(study: Study) -> str:
    """Say which tasks each name stands for."""
    rows = []
    for title, one in sorted(study.sources.items()):
        options = ", ".join(f"{name} = {value}" for name, value in sorted(one["options"].items())) or "–"
        rows.append([escape(title), f"`{one['family']}`", escape(options), str(one["classes"]), f"{one['images']:,}"])
    table = grid(["tasks", "family", "options", "test classes", "images"], rows)
    fc100, own = (study.sources.get(one.title) for one in (OTHERS["cifar-fs"][0], OWN["cifar-fs"]))
    if fc100 is None or own is None:
        return table
    names = catalog.family("fc100", unseen_by="cifar-fs").classes("test")
    whole, home = catalog.family("fc100").classes("test"), set(catalog.family("cifar-fs").classes("test"))
    inside = "all" if set(names) <= home else str(len(home & set(names)))
    lost = 600 * len(names) - fc100["images"]
    return f"""{table}

CIFAR-FS and FC100 are splits of the same 100 classes. Of FC100's {len(whole)} test classes {len(names)} remain after
every class that CIFAR-FS trains or validates on is left out: {", ".join(names)}; and of their images all but
{lost}, which a class seen in training holds too. So every task has {"these same" if len(names) == 5 else "5 of these"}
{len(names)} classes, and {inside} of them are test classes of CIFAR-FS as well. This is not another domain but a part
of the same one, and its intervals do not speak for other classes. The characters of Omniglot, black on white and in
three channels, share nothing with CIFAR-FS."""


def accuracies(study: Study) -> str:
    """Tabulate every learner on every source of tasks that it met."""
    rows = []
    for (name, title), one in sorted(study.measured.items(), key=lambda item: (item[0][0], _place(*item, study))):
        recipe, eps = study.cards[name].recipe, max(one.robust)
        updates = f"{recipe.steps:,} × {recipe.meta_batch}"
        means = [_mean(one.clean), _mean(one.noisy[eps]), _mean(one.robust[eps])]
        rows.append([f"`{escape(name)}`", updates, escape(title), *means, eps_text(eps)])
    return grid(
        ["checkpoint", "updates × tasks", "tasks from", "clean, %", f"`{NOISE}`, %", f"`{ATTACK}`, %", "eps"], rows
    )


def _place(at: tuple[str, str], one: Measured, study: Study) -> tuple[bool, str]:
    """Order home before elsewhere."""
    return at[1] != OWN[study.cards[at[0]].recipe.family].title, at[1]


def differences(cases: Sequence[Case]) -> str:
    """Tabulate defended minus standard in points."""
    rows = [
        [_pair(case), escape(case.target), case.clean.text, case.clean.verdict, case.robust.text, case.robust.verdict]
        for case in cases
    ]
    return grid(["pair", "tasks from", "clean, points", "", "robust, points", ""], rows)


def gaps(cases: Sequence[Case]) -> str:
    """Tabulate how much more or less a defended learner keeps of its accuracy away from home than a standard one."""
    rows = [
        [_pair(case), escape(case.target), case.clean_gap.text, case.robust_gap.text]
        for case in cases
        if case.clean_gap is not None and case.robust_gap is not None
    ]
    table = grid(["pair", "to tasks from", "clean, points", "robust, points"], rows)
    return f"{ABOUT_GAPS}\n\n{table}"


ABOUT_GAPS = """\
The gap of a learner is its accuracy at home less that elsewhere. Given is by how many points the standard learner's gap
is larger than the defended one's: what defending changes elsewhere less what it changes at home. Above 0 the defended
learner loses less on the way. But who has less to lose loses less: a robust accuracy of 0 at home cannot fall, and a
clean accuracy nearer to a constant predictor's has a shorter way down. So read this beside the accuracies."""


def _pair(case: Case) -> str:
    return f"`{escape(case.defended)}` − `{escape(case.standard)}`"


def _mean(values: pd.Series[float]) -> str:
    mean, half = interval(values.to_numpy())
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def drawn(cases: Sequence[Case]) -> Figure:
    """Draw every difference with its interval: a row for each pair, a block for each source of tasks."""
    figure = Figure(figsize=(7.6, 0.27 * len(cases) + 1.3), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = list(dict.fromkeys((case.home, case.target) for case in cases))
    order = [case for title in titles for case in cases if (case.home, case.target) == title]
    for axes, name in zip(panels, ("clean", "robust"), strict=True):
        for row, case in enumerate(order):
            one = getattr(case, name)
            shown = drawing.MUTED if one.holm > ALPHA else drawing.PALETTE[0] if one.mean > 0 else drawing.PALETTE[1]
            look = {"color": shown, "markersize": 4.5, "markerfacecolor": "white" if case.clean_gap is None else shown}
            axes.errorbar(100 * one.mean, row, xerr=100 * one.half, fmt="o", **look)
        axes.axvline(0, color=drawing.MUTED, linewidth=1)
        axes.set_xlabel(f"{name} accuracy, points")
        axes.grid(axis="x")
    labels = [f"{drawing.short(case.defended, 30)} on {case.target}" for case in order]
    panels[0].set_yticks(range(len(order)), labels, fontsize=8)
    panels[0].set_ylim(len(order) - 0.5, -0.5)
    title = "Defended − standard. Hollow: at home. Blue: higher, orange: lower, grey: not shown to differ (Holm)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    measuring, adding, writing = (parts.add_parser(name) for name in ("evaluate", "add", "write"))
    measuring.add_argument("--ckpt", type=Path, action="append", help="default: all of checkpoints/")
    measuring.add_argument("--out", type=Path, required=True)
    adding.add_argument("results", type=Path)
    for part in (measuring, adding):
        part.add_argument("--data-root", type=Path, default=None)
    for part in (adding, writing):
        part.add_argument("--to", type=Path, default=HERE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if given.part == "evaluate":
            every = [card.parent for card in sorted(Path("checkpoints").glob(f"*/{checkpoint.CARD}"))]
            evaluate(given.ckpt or every, given.out, root=given.data_root)
        elif given.part == "add":
            add(given.results, given.to, root=given.data_root)
        else:
            print(write(given.to))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
