"""What checkpoints, rows, boards, cells and threats are called, in every place that shows them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from robustbench_meta.outcomes import Board, Entry, eps_text, is_corruption
from robustbench_meta.ranking import Standing
from robustbench_meta.report.values import NOTHING

NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "corruption": "common corruptions"}


def display_names(cells: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Name every (checkpoint, weights); two sets of weights under one name are told apart by their hash."""
    pairs = sorted(set(zip(cells["checkpoint"], cells["weights"], strict=True)))
    count = pd.Series([name for name, _ in pairs], dtype=object).value_counts()
    return {(name, weights): f"{name}@{weights[:8]}" if count[name] > 1 else name for name, weights in pairs}


def row_names(cells: pd.DataFrame, boards: list[list[Standing]]) -> dict[tuple[str, str], str]:
    """Name every checkpoint, and every row that training seeds share, by the name and weights of its entry."""
    names = display_names(cells)
    for one in (one for board in boards for one in board if one.members):
        entry = one.entry
        twins = {weights for name, weights in names if name == entry.checkpoint}
        apart = twins - {entry.weights, *(member.entry.weights for member in one.members)}
        names[entry.checkpoint, entry.weights] = entry.checkpoint + (f"@{entry.weights[:8]}" if apart else "")
    return names


def slugs(boards: Sequence[Board]) -> list[str]:
    """Name every board for files and anchors: lower case letters, digits and hyphens, no two the same.

    A board with 0 shots stands for a board at any number of them.
    """
    made: list[str] = []
    for board, apart in zip(boards, _told_apart(boards), strict=True):
        shots = f"{board.shots}s" if board.shots else ""
        words = f"{board.family} {board.split} {board.ways}w{shots} {board.norm} {board.surface}"
        words += "" if board.fraction == 1 else f" {board.fraction:.4g}"
        words += " transductive" if board.track == "transductive" else ""
        slug = "-".join([_plain(words)[:80], *(_plain(f"{value}{name[:1]}") for name, value in apart.items())])
        number = next(i for i in range(1, len(boards) + 1) if (slug if i == 1 else f"{slug}-{i}") not in made)
        made.append(slug if number == 1 else f"{slug}-{number}")
    return made


def titles(boards: Sequence[Board]) -> list[str]:
    """Describe every board in one line, no two the same: where nothing else differs, by queries, seed or episodes."""
    words = {"queries": "{} queries a class", "seed": "seed {}", "episodes": "episodes {}"}
    return [
        ", ".join([_title(board), *(words[name].format(value) for name, value in apart.items())])
        for board, apart in zip(boards, _told_apart(boards), strict=True)
    ]


def _told_apart(boards: Sequence[Board]) -> list[dict[str, int | str]]:
    """Return by board those of queries, seed and episodes in which it differs from one that is the same otherwise."""
    made = []
    for board in boards:
        queries, seed, episodes = board.queries, board.seed, board.episodes
        twins = [one for one in boards if replace(one, queries=queries, seed=seed, episodes=episodes) == board]
        own: dict[str, int | str] = {"queries": queries, "seed": seed, "episodes": episodes[:8]}
        made.append({name: own[name] for name in own if len({getattr(one, name) for one in twins}) > 1})
    return made


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _title(board: Board) -> str:
    shots = f" {board.shots}-shot" if board.shots else ""
    return f"{board.family} ({board.split}), {board.ways}-way{shots}, {norm_text(board)}{_special(board)}"


def _special(board: Board) -> str:
    if board.surface == "rollout":
        return ", success of rollouts"
    if board.surface == "sequence":
        return ", whole sequences" + (", transductive" if board.track == "transductive" else "")
    if board.surface == "support":
        part = "" if board.fraction == 1 else f" ({board.fraction:.4g} of each class)"
        return f", poisoned support{part}" + (", transductive" if board.track == "transductive" else "")
    return ", transductive" if board.track == "transductive" else ""


def norm_text(board: Board) -> str:
    """Write a board's norm the way papers do."""
    return NORMS.get(board.norm, board.norm)


def steps_text(steps: int | None) -> str:
    """Show a number of adaptation steps; an algorithm without steps has none to show."""
    return NOTHING if steps is None or pd.isna(steps) else str(int(steps))


def threat_text(norm: str, eps: float) -> str:
    """Write a norm and a budget as everywhere: L∞ 8/255, severity 5."""
    return f"severity {eps_text(eps)}" if is_corruption(norm) else f"{NORMS.get(norm, norm)} {eps_text(eps)}"


def titled(gallery: Sequence[dict[str, Any]], cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Title each item of a gallery by the cell that its `key` names; without one it keeps its own title."""
    titles, known = cell_titles(cells), {cell["key"]: cell for cell in cells.to_dict("records")}
    made, details = [], []
    for item in gallery:
        cell = known.get(item.get("key", ""))
        if cell is None:
            made.append(item)
            details.append("")
            continue
        made.append(item | {"title": titles[cell["key"]]})
        details.append(f", {cell['queries']} queries a class, seed {cell['seed']}")
    count = Counter(item["title"] for item in made)
    return [
        item | {"title": item["title"] + more} if count[item["title"]] > 1 else item
        for item, more in zip(made, details, strict=True)
    ]


def cell_titles(cells: pd.DataFrame) -> dict[str, str]:
    """Title every cell by its key: who was attacked, after how many shots and steps, by what."""
    names, made = display_names(cells), {}
    for cell in cells.to_dict("records"):
        steps = "" if pd.isna(cell["steps"]) else f", {steps_text(cell['steps'])} steps"
        about = f"{names[cell['checkpoint'], cell['weights']]}, {cell['shots']}-shot{steps}"
        made[cell["key"]] = f"{about}: {cell['attack']}, {threat_text(cell['norm'], cell['eps'])}"
    return made


def entry_label(entry: Entry, names: dict[tuple[str, str], str]) -> str:
    """Name an entry in a figure: the checkpoint, and its steps where it has any."""
    name = names[entry.checkpoint, entry.weights]
    return name if entry.steps is None else f"{name}, {entry.steps} step{'' if entry.steps == 1 else 's'}"
