"""Attacked sentences to read: which words were replaced, and what the learner says of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SETS, QUERIES = 6, 4  # items that are shown, and queries of each
ANSWERS = ("labels", "clean_predictions", "adversarial_predictions")
WRITTEN = ("targets", "written", "written_attacked")


@dataclass(frozen=True)
class Reading:
    """One attacked sentence as pairs of words, clean and adversarial, and the classes or texts it is taken for."""

    words: tuple[tuple[str, str], ...]
    label: str
    says: str
    says_attacked: str

    @property
    def fooled(self) -> bool:
        return self.says == self.label != self.says_attacked


@dataclass(frozen=True)
class Sheet:
    """Some sentences of one cell."""

    title: str
    readings: tuple[Reading, ...]
    rendered: bool = False  # whether they are written anew, and not taken for a class


def is_text(item: dict[str, Any]) -> bool:
    return bool(np.asarray(item["clean"]).dtype.kind == "U")


def sheets(items: Sequence[dict[str, Any]]) -> tuple[Sheet, ...]:
    """Choose what is shown: attacks before noise, and the fewest replaced words, which are the easiest to judge."""
    found = [item for item in items if is_text(item) and len(item["labels"])]

    def rank(item: dict[str, Any]) -> tuple[bool, float, str, str]:
        return str(item["attack"]).startswith("noise"), float(item["eps"]), str(item["attack"]), str(item["title"])

    return tuple(_sheet(item) for item in sorted(found, key=rank)[:SETS])


def _sheet(item: dict[str, Any]) -> Sheet:
    made, rendered = [], WRITTEN[0] in item
    for i in range(len(item["labels"])):
        words = zip(str(item["clean"][i]).split(" "), str(item["adversarial"][i]).split(" "), strict=True)
        label, says, says_attacked = (str(item[name][i]) for name in (WRITTEN if rendered else ANSWERS))
        made.append(Reading(tuple(words), label, says, says_attacked))
    return Sheet(str(item["title"]), tuple(sorted(made, key=lambda one: not one.fooled)[:QUERIES]), rendered)
