"""The numbers of docs/choosing.md: what an eps costs, what a defense costs to train, what stopping early is worth.

    python benchmarks/choosing.py draw --data-root data     # what each eps looks like; needs the data
    python benchmarks/choosing.py write                     # tables and the other figures, from committed results alone

Between `<!-- made: NAME -->` and `<!-- end -->` the page holds what `write` makes of reports/leaderboard,
reports/generalisation and reports/overfitting; the words around it are written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Beside this file, where Python finds it when this one is run.
import generalisation
import matplotlib
import numpy as np
import pandas as pd
import torch
from generalisation import Study
from matplotlib.figure import Figure

from robustbench_meta import catalog, checkpoint, curve, statistics, submissions, tracks
from robustbench_meta.checkpoint import Card
from robustbench_meta.engine import craft
from robustbench_meta.grid import COLOUR_EPS, GREY_EPS, load_subject
from robustbench_meta.intervals import interval, paired_p
from robustbench_meta.outcomes import eps_text
from robustbench_meta.report import drawing, frames
from robustbench_meta.report.gallery import pixels
from robustbench_meta.report.markdown import escape, grid
from robustbench_meta.report.naming import display_names
from robustbench_meta.report.placing import label_points
from robustbench_meta.types import InputError, Spec, Streams, Threat

PAGE, IMAGES = Path("docs/choosing.md"), Path("docs/img")
BOARD, OVERFITTING = Path("reports/leaderboard"), Path("reports/overfitting")
RUNS = ("few-classes", "weak-attack")
ATTACK, SHOWN = "pgd-20-at", 6  # which goes all the way, so that every image has the whole eps; images of a row


@dataclass(frozen=True, eq=False)
class Looks:
    """Images [n,C,H,W] in [0,1]: clean, and by eps what noise and what an attack on a learner make of them."""

    clean: np.ndarray
    noisy: dict[float, np.ndarray]
    attacked: dict[float, np.ndarray]


def looks(folder: Path, budgets: Sequence[float], *, root: Path | None) -> Looks:
    """Move the first queries of the first test task of a checkpoint's family by every eps, in Linf."""
    subject = load_subject(folder, root=root, device="cpu")
    learner: Any = subject.learner
    episodes = subject.family.sample("test", Spec(5, 5, 15), [0]).to("cpu", learner.dtype)
    with torch.no_grad():
        fitted = learner.adapt(episodes.support_x, episodes.support_y)
    rows = [*range(0, 75, 15), 1]  # one of each class, and a second of the first
    made: dict[str, dict[float, np.ndarray]] = {"noise-1": {}, ATTACK: {}}
    for name, found in made.items():
        for eps in budgets:
            given: Any = {"attack": catalog.attack(name), "threat": Threat("linf", eps), "rng": Streams([0])}
            x_adv = craft(learner, fitted, episodes.query_x, episodes.query_y, **given)
            found[eps] = x_adv[0, rows].numpy()
    return Looks(episodes.query_x[0, rows].numpy(), made["noise-1"], made[ATTACK])


def draw_looks(found: Looks) -> Figure:
    """Draw a row of clean images, and below it for every eps a row of noise and one under attack."""
    rows = [("clean", found.clean)]
    for eps in sorted(found.noisy):
        rows += [(f"noise\n{eps_text(eps)}", found.noisy[eps]), (f"attack\n{eps_text(eps)}", found.attacked[eps])]
    figure = Figure(figsize=(SHOWN + 0.9, len(rows)))
    cells = figure.subplots(len(rows), SHOWN, squeeze=False)
    figure.subplots_adjust(left=0.9 / (SHOWN + 0.9), right=1, top=1, bottom=0, wspace=0.04, hspace=0.04)
    for line, (name, images) in zip(cells, rows, strict=True):
        for axes, image in zip(line, pixels(images), strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="none")
            axes.set_axis_off()
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        line[0].annotate(name, (0, 0.5), (-8, 0), ha="right", va="center", fontsize=9.5, **place)
    return figure


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of one step of a run: their card, and what they got right on each test task, clean and by attack."""

    card: Card
    clean: pd.Series[float]
    robust: dict[str, pd.Series[float]]


@dataclass(frozen=True, eq=False)
class Known:
    """What the blocks are made of: the board's worst cases and cards, the study of generalisation, and RUNS.

    Of each run there are the weights that validation chose, then the last ones.
    """

    worst: pd.DataFrame
    cards: dict[str, Card]  # by weights
    study: Study
    runs: dict[str, tuple[Weights, Weights]]


def read() -> Known:
    """Read the committed results; raise InputError where something is lacking."""
    entries, problems = tracks.read(BOARD / submissions.ENTRIES)
    if problems:
        raise InputError(problems[0].text)
    results = submissions.tables_of(entries.values())
    cards = {one.weights: one.card for one in entries.values() if one.card is not None}
    worst = _one_threat(statistics.worst_case(results))
    runs = {name: read_run(OVERFITTING / name) for name in RUNS}
    return Known(worst, cards, generalisation.read(generalisation.HERE), runs)


def _one_threat(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the boards that the page speaks of: inductive, attacked queries, Linf, 5-way 5-shot test tasks."""
    wanted = {"surface": "query", "track": "inductive", "norm": "linf", "split": "test", "ways": 5, "shots": 5}
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    return rows


def read_run(folder: Path) -> tuple[Weights, Weights]:
    """Read what was measured of a run's best and of its last weights."""
    entries = generalisation.entries_in(folder)
    if len(entries) != 2:
        raise InputError(f"entries: {folder} must hold the best and the last weights of one run")
    table = statistics.per_task(submissions.tables_of(entries))
    found = []
    for entry in entries:
        mine = table[(table["weights"] == entry.weights) & (table["attack"] != statistics.WORST_CASE)].set_index("task")
        robust = {str(attack): rows["robust"] for attack, rows in mine.groupby("attack")}
        assert entry.card is not None  # entries_in has seen it
        found.append(Weights(entry.card, mine[mine["attack"] == generalisation.ATTACK]["clean"], robust))
    best, last = sorted(found, key=lambda one: one.card.selected_step)
    return best, last


def blocks(known: Known) -> dict[str, str]:
    """Return what stands between the marks of the page, by name."""
    names = sorted(set(known.worst["family"]))
    families = {f"eps-{family}": eps_table(known, family) for family in names}
    budgets = {f"budget-{family}": budget_table(known, family) for family in names}
    return families | budgets | {name: run_text(name, *pair) for name, pair in known.runs.items()}


def eps_table(known: Known, family: str) -> str:
    """Tabulate clean accuracy, and by eps what random noise costs and what the worst attack leaves."""
    rows = known.worst[known.worst["family"] == family]
    names, budgets = display_names(rows), sorted(set(rows["eps"]))
    given_up = {case.defended: case.clean for case in known.study.cases if case.target == case.home}
    header = ["learner", "clean, %", "given up, points"]
    header += [
        text for eps in map(eps_text, budgets) for text in (f"noise of {eps}, points", f"worst case at {eps}, %")
    ]
    lines = []
    for entry, mine in frames.by_entry(rows):
        at = {row["eps"]: row for row in frames.records(mine)}
        home = generalisation.OWN.get(family)  # families that the study does not hold have no measured noise
        own = known.study.measured.get((entry.checkpoint, home.title)) if home else None
        first = at[min(at)]
        clean = _percent(*interval(own.clean.to_numpy())) if own else _percent(first["clean"], first["clean_ci95"])
        less = given_up.get(entry.checkpoint)
        line = [f"`{escape(names[entry.checkpoint, entry.weights])}`", clean, less.text if less else "–"]
        for eps in budgets:
            noisy = own.noisy.get(eps) if own else None
            cost = None if own is None or noisy is None else (noisy - own.clean).dropna().to_numpy()
            line.append("–" if cost is None else _points(*interval(cost)))
            line.append(_percent(at[eps]["robust"], at[eps]["robust_ci95"]) if eps in at else "–")
        lines.append(line)
    return grid(header, lines)


def budget_table(known: Known, family: str) -> str:
    """Tabulate what training took and what the worst attack leaves, the cheapest learner first, beside its figure."""
    rows, names = _by_cost(known, family), display_names(known.worst)
    lines = []
    for card, row in rows:
        recipe = card.recipe
        crafted = "–" if recipe.defense in ("standard", "fast") else f"`{escape(recipe.craft)}`"
        about = f"{recipe.network_options.get('width', '–')}, {recipe.steps:,} × {recipe.meta_batch}"
        name, defense = f"`{escape(names[row['checkpoint'], row['weights']])}`", f"`{escape(recipe.defense)}`"
        accuracies = [_percent(row[name], row[f"{name}_ci95"]) for name in ("clean", "robust")]
        lines.append([_minutes(card), name, defense, crafted, about, *accuracies, str(row["tasks"])])
    eps = eps_text(float(rows[0][1]["eps"]))
    header = ["training", "learner", "defense", "attack in training", "width, updates × tasks", "clean, %"]
    header += [f"worst case at {eps}, %", "test tasks"]
    alt = f"Worst-case accuracy at {eps} against training time"
    return f"![{alt}](img/budget-{family}.svg)\n\n{grid(header, lines)}"


def _by_cost(known: Known, family: str) -> list[tuple[Card, dict[str, Any]]]:
    """Give the learners of a family with their worst case at the eps of the ranking, the cheapest first."""
    rows = known.worst[known.worst["family"] == family]
    at = rows[(rows["eps"] == frames.ranking_eps(rows)) & rows["complete"]]
    found = [(known.cards[row["weights"]], row) for row in frames.records(at) if row["weights"] in known.cards]
    return sorted(found, key=lambda one: (one[0].device, one[0].train_seconds, one[1]["checkpoint"]))


def _minutes(card: Card) -> str:
    unit = "GPU-min" if card.device.startswith("cuda") else "min"
    return f"{card.train_seconds / 60:.0f} {unit}"


def draw_budget(known: Known, family: str) -> Figure:
    """Draw worst-case accuracy against training time, a look for each defense."""
    rows, names = _by_cost(known, family), display_names(known.worst)
    figure = Figure(figsize=(7.4, 4.4))
    axes = figure.add_subplot()
    minutes = [card.train_seconds / 60 for card, _ in rows]
    ticks = [tick for tick in TICKS if min(minutes) / 2 <= tick <= 2 * max(minutes)]
    axes.set_xscale("log")
    axes.set_xlim(min(minutes) / 1.5, 1.5 * max(minutes))
    axes.set_xticks(ticks, [f"{tick} min" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(-4, 100 * max(row["robust"] + row["robust_ci95"] for _, row in rows) + 5)
    every = sorted({card.recipe.defense for card, _ in rows}, key=lambda name: (name != "standard", name))
    points, bars = [], []
    for at, (card, row) in zip(minutes, rows, strict=True):
        place, y, half = every.index(card.recipe.defense), 100 * row["robust"], 100 * row["robust_ci95"]
        colour, marker = (part[place % len(part)] for part in (drawing.PALETTE, drawing.MARKERS))
        face = "white" if card.device.startswith("cuda") else colour
        axes.errorbar(at, y, half, color=colour, marker=marker, markersize=6, markerfacecolor=face)
        points.append((at, y, names[row["checkpoint"], row["weights"]], colour))
        bars.append((at, y - half, at, y + half))
    axes.set_xlabel("training on one core of a busy CPU (hollow: on a GPU)")
    axes.set_ylabel(f"worst case at {eps_text(float(rows[0][1]['eps']))}, %")
    axes.axhline(20, color=drawing.MUTED, linestyle=drawing.DOTTED, linewidth=1.1)
    axes.grid(axis="y")
    figure.tight_layout()
    label_points(axes, points, bars)
    return figure


TICKS = (1, 2, 5, 10, 20, 40, 80, 160, 320)


def run_text(name: str, best: Weights, last: Weights) -> str:
    """Say what the weights that validation chose have over the last ones, on training, validation and test tasks."""
    recipe, strong = best.card.recipe, generalisation.ATTACK
    history = {seen.step: seen for seen in best.card.history}
    rows = []
    for title, one in (("chosen by validation", best), ("last", last)):
        seen = history[one.card.selected_step]
        shares = (seen.train_clean, seen.train_robust, seen.clean, seen.robust)
        cells = ["–" if share is None else f"{100 * share:.1f}" for share in shares]
        tests = [_percent(*interval(x.to_numpy())) for x in (one.clean, one.robust[recipe.craft], one.robust[strong])]
        rows.append([title, f"{one.card.selected_step:,}", *cells, *tests])
    header = ["weights", "updates", "training tasks: clean", f"`{recipe.validate_attack}`", "validation: clean"]
    header += [f"`{recipe.validate_attack}`", "test: clean", f"`{recipe.craft}` (as in training)", f"`{strong}`"]
    clean, robust = best.clean - last.clean, best.robust[strong] - last.robust[strong]
    worth = f"{_tested(robust)} under `{strong}`, {_tested(clean)} clean"
    said = (
        f"All in %, at eps {eps_text(recipe.eps)}. Chosen weights less last ones, on {len(robust)} test tasks: {worth}."
    )
    return f"![Accuracy over updates](img/{name}.svg)\n\n{grid(header, rows)}\n\n{said}"


def _tested(differences: pd.Series[float]) -> str:
    given = differences.to_numpy()
    p = paired_p(given)
    return f"{_points(*interval(given))} points (p {'< 0.001' if p < 0.001 else f'= {p:.2g}'})"


def _points(mean: float, half: float) -> str:
    return f"{round(100 * mean, 1) + 0.0:+.1f} ± {100 * half:.1f}"  # + 0.0: no minus before nothing


def draw_run(best: Weights) -> Figure:
    """Draw accuracy on training and validation tasks over the updates of a run."""
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    curve.plot(axes, best.card)
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _percent(mean: float, half: float) -> str:
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def filled(page: str, made: dict[str, str]) -> str:
    """Put every block between its marks; raise InputError where the page lacks one or has one that nobody makes."""
    found = re.findall(r"<!-- made: ([a-z0-9-]+) -->", page)
    if sorted(found) != sorted(made):
        raise InputError(f"page: it has {', '.join(sorted(found))}; made are {', '.join(sorted(made))}, each once")
    pattern = re.compile(r"(<!-- made: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{made[match[2]]}\n{match[3]}", page)


def write(page: Path, images: Path) -> None:
    """Bring the blocks of a page and the figures beside it up to date."""
    known = read()
    with matplotlib.rc_context(drawing.STYLE):
        figures = {f"budget-{family}": draw_budget(known, family) for family in sorted(set(known.worst["family"]))}
        figures |= {name: draw_run(best) for name, (best, _) in known.runs.items()}
        for name, figure in figures.items():
            drawing.save(figure, images / name, "", drawing.About("", ""))
    checkpoint.write(page, filled(page.read_text(encoding="utf-8"), blocks(known)).encode())


LOOKS = {"eps-colour": ("cifar-fs-protonet-aq", COLOUR_EPS), "eps-grey": ("omniglot-protonet-aq", GREY_EPS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    drawing_, adding, _ = (parts.add_parser(name) for name in ("draw", "add", "write"))
    drawing_.add_argument("--data-root", type=Path, default=None)
    adding.add_argument("results", type=Path, help="of the best and the last weights of a run")
    adding.add_argument("run", choices=RUNS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if given.part == "draw":
            for name, (learner, budgets) in LOOKS.items():
                figure = draw_looks(looks(Path("checkpoints") / learner, budgets, root=given.data_root))
                figure.savefig(IMAGES / f"{name}.png", dpi=96, metadata={"Software": None})
        elif given.part == "add":
            generalisation.add_entries(given.results, OVERFITTING / given.run)
        else:
            write(PAGE, IMAGES)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
