"""Results of any number of learners, made quickly: what a page must bear and a reader must find his way in."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

ALGORITHMS = ("protonet", "r2d2", "maml", "anil", "fomaml", "meta-sgd", "metaopt", "transfer")
DEFENSES = ("standard", "aq", "mixed", "trades", "adml")
SHARED: dict[str, Any] = {
    **{"norm_mode": "support", "family": "cifar-fs", "episodes": "ab" * 32, "split": "test", "ways": 5, "seed": 0},
    **{"shots": 5, "surface": "query", "fraction": 1.0, "norm": "linf", "status": "ok", "reason": "", "seconds": 12.25},
    **{"whole": False, "device": "cuda:0", "steps": None, "external": ""},
}


@dataclass(frozen=True)
class Results:
    cells: pd.DataFrame
    tasks: pd.DataFrame
    audits: pd.DataFrame = field(default_factory=pd.DataFrame)
    learners: pd.DataFrame = field(default_factory=pd.DataFrame)


def many(
    entries: int,
    *,
    tasks: int = 20,
    queries: int = 5,
    attacks: tuple[str, ...] = ("fgsm", "pgd-20"),
    eps: tuple[float, ...] = (2 / 255, 8 / 255),
    boards: tuple[dict[str, Any], ...] = ({},),
) -> Results:
    """Evaluate `entries` made-up learners on every one of `boards`, fields that differ from SHARED."""
    rng = np.random.default_rng(0)
    cells: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number in range(entries):
        algorithm, defense = ALGORITHMS[number % 8], DEFENSES[number % 5]
        name = {"checkpoint": f"{algorithm}-{defense}-{number}", "weights": f"{number:064x}"}
        level = rng.uniform(0.2, 0.95)
        for board in boards:
            clean = rng.random((tasks, 5 * queries)) < rng.uniform(0.6, 0.9)
            strength = rng.random((tasks, 5 * queries)) + rng.normal(0, 0.08, (tasks, 1))
            for budget in eps:
                for place, attack in enumerate(attacks):
                    key = f"{len(cells):064x}"
                    about = {"key": key, **SHARED, **name, "algorithm": algorithm, "defense": defense, **board}
                    about |= {"queries": queries, "attack": attack, "attack_fields": f"{attack}()", "eps": budget}
                    cells.append(about)
                    left = strength < level * (1 - 8 * budget) * (1 - 0.05 * place)
                    rows += _rows(key, clean, clean & left)
    table = pd.DataFrame(cells).astype({"steps": "Int64"})
    return Results(table, pd.DataFrame(rows), learners=_learners(table))


def _rows(key: str, clean: np.ndarray, survived: np.ndarray) -> list[dict[str, Any]]:
    counts = {"distance": 0.03, "forwards": 5000, "backwards": 2500}
    return [
        {"key": key, "task": task, "clean": _bits(clean[task]), "survived": _bits(survived[task]), **counts}
        for task in range(len(clean))
    ]


def _bits(values: np.ndarray) -> str:
    return (values.astype(np.uint8) + 48).tobytes().decode()


def _learners(cells: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for number, one in enumerate(cells.drop_duplicates("weights").to_dict("records")):
        recipe = {
            "algorithm": one["algorithm"],
            "defense": one["defense"],
            "family": "cifar-fs",
            "learning_rate": 0.003,
        }
        recipe |= {"seed": number, "network_options": {"width": 64}, "augment": ["flip", "crop"]}
        card = {"recipe": recipe, "train_seconds": 5535.8, "device": "cpu", "weights_sha256": "cd" * 32}
        published = {
            "authors": f"A. Author {number}",
            "paper": "https://example.org/paper",
            "code": "",
            "license": "MIT",
        }
        rows.append({"weights": one["weights"], "card": json.dumps(card, indent=1), **published})
    return pd.DataFrame(rows)


def pictures(sets: int = 8, size: int = 32) -> list[dict[str, Any]]:
    """A gallery as a store gives it: noise, which no PNG makes smaller."""
    rng = np.random.default_rng(1)
    return [
        {
            "title": f"learner {number}, pgd-20",
            "clean": rng.random((6, 3, size, size)),
            "adversarial": rng.random((6, 3, size, size)),
            "labels": np.arange(6),
            "clean_predictions": np.arange(6),
            "adversarial_predictions": np.zeros(6, int),
            "attack": "pgd-20",
            "eps": 8 / 255,
        }
        for number in range(sets)
    ]


def page(results: Any, gallery: list[dict[str, Any]] | None = None) -> str:
    """Write the HTML page alone; figures for papers take their time and are tested elsewhere."""
    from robustbench_meta.ranking import standings
    from robustbench_meta.report import album, html, lines, plain, tables
    from robustbench_meta.report import page as pages

    known = lines.learners(results)
    results, shown = plain.shown(results, gallery or [])
    boards = standings(results)
    report = tables.tables(results, boards, shown)
    return html.render(report, pages.make(results, boards, report, known, pages.Shown(album.album(shown))))
