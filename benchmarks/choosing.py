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
from generalisation import Study, grid
from matplotlib.figure import Figure

from robustbench_meta import catalog, checkpoint, curve, statistics, submissions, tracks
from robustbench_meta.checkpoint import Card
from robustbench_meta.engine import craft
from robustbench_meta.grid import COLOUR_EPS, GREY_EPS, load_subject
from robustbench_meta.intervals import interval, paired_p
from robustbench_meta.outcomes import eps_text
from robustbench_meta.report import drawing, frames
from robustbench_meta.report.gallery import pixels
from robustbench_meta.report.markdown import escape
from robustbench_meta.report.placing import spread
from robustbench_meta.report.tables import display_names
from robustbench_meta.types import InputError, Spec, Streams, Threat

PAGE, IMAGES = Path("docs/choosing.md"), Path("docs/img")
BOARD, OVERFITTING = Path("reports/leaderboard"), Path("reports/overfitting")
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
    episodes = subject.family.sample("test", Spec(5, 5, 15), [0]).to("cpu", subject.learner.dtype)  # type: ignore[attr-defined]
    with torch.no_grad():
        fitted: Any = subject.learner.adapt(episodes.support_x, episodes.support_y)
    rows = [*range(0, 75, 15), 1]  # one of each class, and a second of the first
    made: dict[str, dict[float, np.ndarray]] = {"noise-1": {}, ATTACK: {}}
    for name, found in made.items():
        for eps in budgets:
            given: Any = {"attack": catalog.attack(name), "threat": Threat("linf", eps), "rng": Streams([0])}
            learner: Any = subject.learner
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
class Known:
    """What the blocks are made of: the board's frames and cards, the study of generalisation, the overfitted pair."""

    worst: pd.DataFrame
    ranked: pd.DataFrame
    cards: dict[str, Card]  # by weights
    study: Study
    best: tuple[Card, generalisation.Measured]
    last: tuple[Card, generalisation.Measured]


def read() -> Known:
    """Read the committed results; raise InputError where something is lacking."""
    entries, problems = tracks.read(BOARD / submissions.ENTRIES)
    if problems:
        raise InputError(problems[0].text)
    results = submissions.tables_of(entries.values())
    cards = {one.weights: one.card for one in entries.values() if one.card is not None}
    worst, ranked = statistics.worst_case(results), statistics.leaderboard(results)
    pair = _overfitted(OVERFITTING)
    study = generalisation.read(generalisation.HERE)
    return Known(_one_threat(worst), _one_threat(ranked), cards, study, best=pair[0], last=pair[1])


def _one_threat(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the boards that the page speaks of: inductive, attacked queries, Linf, 5-way 5-shot test tasks."""
    wanted = {"surface": "query", "track": "inductive", "norm": "linf", "split": "test", "ways": 5, "shots": 5}
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    return frames.measured(rows)


def _overfitted(folder: Path) -> list[tuple[Card, generalisation.Measured]]:
    """Return the card and the measurements of the weights that validation chose and of the last ones."""
    entries, problems = tracks.read(folder / submissions.ENTRIES)
    if problems or len(entries) != 2:
        raise InputError(problems[0].text if problems else f"entries: {folder} must hold the best and the last weights")
    table = statistics.per_task(submissions.tables_of(entries.values()))
    found = []
    for entry in entries.values():
        if entry.card is None:
            raise InputError(f"entries: {entry.name} has no card")
        found.append((entry.card, generalisation.measured_of(table[table["weights"] == entry.weights])))
    return sorted(found, key=lambda one: one[0].selected_step)


def blocks(known: Known) -> dict[str, str]:
    """Return what stands between the marks of the page, by name."""
    families = {f"eps-{family}": eps_table(known, family) for family in sorted(set(known.worst["family"]))}
    budgets = {f"budget-{family}": budget_table(known, family) for family in sorted(set(known.ranked["family"]))}
    return families | budgets | {"overfitting": overfitting_text(known)}


def eps_table(known: Known, family: str) -> str:
    """Tabulate clean accuracy, and by eps what random noise leaves and what the worst attack leaves."""
    rows = known.worst[known.worst["family"] == family]
    names, budgets = display_names(rows), sorted(set(rows["eps"]))
    given_up = {case.defended: case.clean for case in known.study.cases if case.target == case.home}
    header = ["learner", "clean, %", "given up, points"]
    header += [f"{kind} {eps_text(eps)}" for eps in budgets for kind in ("noise", "worst case")]
    lines = []
    for entry, mine in frames.by_entry(rows.sort_values(["robust"], ascending=False, kind="stable")):
        at = {row["eps"]: row for row in frames.records(mine)}
        own = known.study.measured.get((entry.checkpoint, generalisation.OWN[family].title))
        first = at[min(at)]
        clean = _percent(*interval(own.clean.to_numpy())) if own else _percent(first["clean"], first["clean_ci95"])
        cost = given_up.get(entry.checkpoint)
        line = [f"`{escape(names[entry.checkpoint, entry.weights])}`", clean, cost.text if cost else "–"]
        for eps in budgets:
            noisy = own.noisy.get(eps) if own else None
            line.append("–" if noisy is None else _percent(*interval(noisy.to_numpy())))
            line.append(_percent(at[eps]["robust"], at[eps]["robust_ci95"]) if eps in at else "–")
        lines.append(line)
    return grid(header, lines)


def budget_table(known: Known, family: str) -> str:
    """Tabulate what training took and what the worst attack leaves, the cheapest learner first, beside its figure."""
    rows = _by_cost(known, family)
    names = display_names(known.ranked)
    lines = []
    for card, row in rows:
        recipe = card.recipe
        craft_name = "–" if recipe.defense in ("standard", "fast") else f"`{escape(recipe.craft)}`"
        name = f"`{escape(names[row['checkpoint'], row['weights']])}`"
        accuracies = [_percent(row[name], row[f"{name}_ci95"]) for name in ("clean", "robust")]
        rank = "–" if pd.isna(row["rank_low"]) else f"{row['rank_low']} to {row['rank_high']}"
        lines.append([_minutes(card), name, f"`{escape(recipe.defense)}`", craft_name, *accuracies, rank])
    eps = eps_text(float(rows[0][1]["rank_eps"]))
    header = ["training", "learner", "defense", "attack in training", "clean, %", f"worst case at {eps}, %", "rank"]
    alt = f"Worst-case accuracy at {eps} against training time"
    return f"![{alt}](img/budget-{family}.svg)\n\n{grid(header, lines)}"


def _by_cost(known: Known, family: str) -> list[tuple[Card, dict[str, Any]]]:
    rows = frames.records(known.ranked[known.ranked["family"] == family])
    found = [(known.cards[row["weights"]], row) for row in rows if row["weights"] in known.cards]
    return sorted(found, key=lambda one: (one[0].device, one[0].train_seconds))


def _minutes(card: Card) -> str:
    unit = "GPU-min" if card.device.startswith("cuda") else "min"
    return f"{card.train_seconds / 60:.0f} {unit}"


def draw_budget(known: Known, family: str) -> Figure:
    """Draw worst-case against clean accuracy's training time: a column of two points for each learner."""
    rows, names = _by_cost(known, family), display_names(known.ranked)
    figure = Figure(figsize=(7.4, 4.2))
    axes = figure.add_subplot()
    every = sorted({card.recipe.defense for card, _ in rows}, key=lambda name: (name != "standard", name))
    for card, row in rows:
        at, place = card.train_seconds / 60, every.index(card.recipe.defense)
        colour, marker = (part[place % len(part)] for part in (drawing.PALETTE, drawing.MARKERS))
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 6}
        face = "white" if card.device.startswith("cuda") else colour
        axes.errorbar(at, 100 * row["robust"], 100 * row["robust_ci95"], markerfacecolor=face, **look)
    axes.set_xscale("log")
    axes.set_xticks(ticks := [5, 10, 20, 40, 80, 160], [f"{tick} min" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training on one core of a busy CPU; hollow: on a GPU")
    axes.set_ylabel(f"worst case at {eps_text(float(rows[0][1]['rank_eps']))}, %")
    axes.axhline(100 / 5, color=drawing.MUTED, linestyle=drawing.DOTTED, linewidth=1.1)
    axes.grid(axis="y")
    right = axes.get_xlim()[1]
    points = sorted((100 * row["robust"], names[row["checkpoint"], row["weights"]]) for _, row in rows)
    low, high = axes.get_ylim()
    for (y, name), place in zip(points, spread([y for y, _ in points], 0.05 * (high - low), low), strict=True):
        look = {"color": drawing.MUTED, "linewidth": 0.6, "clip_on": False}
        axes.plot([right, right * 1.08], [y, place], **look)
        axes.text(right * 1.1, place, drawing.short(name, 40), va="center", fontsize=8.5)
    return figure


def overfitting_text(known: Known) -> str:
    """Say what the weights that validation chose have over the last ones, on training, validation and test tasks."""
    (best, chosen), (last, final) = known.best, known.last
    history = {seen.step: seen for seen in best.history}
    rows = []
    for name, card, found in (("chosen by validation", best, chosen), ("last", last, final)):
        seen, eps = history[card.selected_step], max(found.robust)
        shares = [seen.train_clean, seen.train_robust, seen.clean, seen.robust]
        cells = ["–" if share is None else f"{100 * share:.1f}" for share in shares]
        tests = [_percent(*interval(one.to_numpy())) for one in (found.clean, found.robust[eps])]
        rows.append([name, f"{card.selected_step:,}", *cells, *tests])
    header = ["weights", "updates", "training: clean", "robust", "validation: clean", "robust", "test: clean", "robust"]
    eps = max(chosen.robust)
    pairs = [(chosen.clean - final.clean), (chosen.robust[eps] - final.robust[eps])]
    worth = [_points(one := pair.dropna().to_numpy()) + f" (p {_p_text(paired_p(one))})" for pair in pairs]
    tasks = len(pairs[1].dropna())
    said = (
        f"On {tasks} test tasks, paired, stopping there is worth {worth[1]} points of robust accuracy and {worth[0]} of"
    )
    said += (
        f" clean accuracy. The attack is `{generalisation.ATTACK}` on test tasks and `{best.recipe.validate_attack}`"
    )
    said += f" on the others, at {eps_text(eps)}; all numbers are in %."
    return f"![Accuracy over updates](img/overfitting.svg)\n\n{grid(header, rows)}\n\n{said}"


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def _points(differences: np.ndarray) -> str:
    mean, half = interval(differences)
    return f"{100 * mean:+.1f} ± {100 * half:.1f}"


def draw_overfitting(known: Known) -> Figure:
    """Draw accuracy on training and validation tasks over the updates of the overfitted run."""
    figure = Figure(figsize=(7.4, 3.9), layout="constrained")
    axes = figure.add_subplot()
    curve.plot(axes, known.best[0])
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
    checkpoint.write(page, filled(page.read_text(encoding="utf-8"), blocks(known)).encode())
    families = sorted(set(known.ranked["family"]))
    figures = {f"budget-{family}": lambda family=family: draw_budget(known, family) for family in families}
    for name, draw in {**figures, "overfitting": lambda: draw_overfitting(known)}.items():
        with matplotlib.rc_context(drawing.STYLE):
            drawing.save(draw(), images / name, "", drawing.About("", ""))


LOOKS = {"eps-colour": ("cifar-fs-protonet-aq", COLOUR_EPS), "eps-grey": ("omniglot-protonet-aq", GREY_EPS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    drawing_, adding, _ = (parts.add_parser(name) for name in ("draw", "add", "write"))
    drawing_.add_argument("--data-root", type=Path, default=None)
    adding.add_argument("results", type=Path, help="of the best and the last weights of an overfitted run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if given.part == "draw":
            for name, (learner, budgets) in LOOKS.items():
                figure = draw_looks(looks(Path("checkpoints") / learner, budgets, root=given.data_root))
                figure.savefig(IMAGES / f"{name}.png", dpi=96, metadata={"Software": None})
        elif given.part == "add":
            generalisation.add_entries(given.results, OVERFITTING)
        else:
            write(PAGE, IMAGES)
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
