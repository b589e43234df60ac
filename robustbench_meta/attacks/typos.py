"""Typing errors as a corruption: letters swapped, dropped, inserted or missed on the keyboard.

The four edits of Pruthi, Dhingra and Lipton 2019, arXiv 1905.11268: of words of four letters or more, never at the
first or the last letter. Here they are drawn, not searched for. A severity is the share of such words that get one:
10 to 50 %, our choice. A misspelt word has the vector that the table's own rule gives to words never seen in use
(spelling.py); where the error makes another word of the table, it has that word's.
Shapes: B sentences x [B,L,d] of L words.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_meta import spelling
from robustbench_meta.types import Box, InputError, Inputs, Norm, Sentences, Streams, Surface, Threat, Victim

Way = Literal["swap", "drop", "insert", "replace"]
SHORTEST = 4  # letters of a word that gets an error
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True)
class Typos:
    """Misspell every word with the probability that belongs to the severity, drawn once."""

    way: Way
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)  # of severities 1 to 5

    norms: ClassVar[tuple[Norm, ...]] = ("corruption",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False
    needs_inputs: ClassVar[Inputs] = "sentences"
    misspells: ClassVar[bool] = True

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        if threat.eps == 0:
            return victim.x.clone()
        space, share = _sentences(victim.space), self.shares[int(threat.eps) - 1]
        x = victim.x.flatten(0, 1)
        chance, place, letter = (rng.uniform(x[..., 0]).tolist() for _ in range(3))
        made, numbers = x.clone(), space.numbers(x).tolist()
        for sentence, row in enumerate(numbers):
            for at, number in enumerate(row):
                if number > 0 and chance[sentence][at] < share:
                    word = space.words[number]
                    written = misspelt(word, self.way, place[sentence][at], letter[sentence][at])
                    if written != word:
                        made[sentence, at] = _row(space, written).to(x)
        return made.clamp(space.low, space.high).view(victim.x.shape)


def misspelt(word: str, way: Way, place: float, letter: float) -> str:
    """Make one error in a word, by two draws from [0, 1); a word that is too short or no word stays as it is."""
    if len(word) < SHORTEST or not word.isalpha():
        return word
    inside: Sequence[int] = range(1, len(word) - 1)
    if way == "swap":  # with the next one, both inside the word
        inside = [at for at in inside[:-1] if word[at] != word[at + 1]]
    if not inside:
        return word
    at = inside[int(place * len(inside))]
    if way == "swap":
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if way == "drop":
        return word[:at] + word[at + 1 :]
    choice = string.ascii_lowercase if way == "insert" else beside(word[at])
    struck = choice[int(letter * len(choice))]
    return word[:at] + struck + (word[at:] if way == "insert" else word[at + 1 :])


def beside(letter: str) -> str:
    """Return the letters whose keys touch that of `letter`, each row half a key to the right of the one above."""
    row, column = next((r, keys.index(letter)) for r, keys in enumerate(ROWS) if letter in keys)
    touching = ((row, -1), (row, 1), (row - 1, 0), (row - 1, 1), (row + 1, -1), (row + 1, 0))
    found = [(r, column + by) for r, by in touching if 0 <= r < len(ROWS)]
    return "".join(ROWS[r][c] for r, c in found if 0 <= c < len(ROWS[r]))


def _sentences(box: Box) -> Sentences:
    if not isinstance(box, Sentences):
        raise InputError(f"attack: corrupts sentences; these inputs are {box.inputs}")
    return box


def _row(space: Sentences, word: str) -> Tensor:
    """Return the vector [d] of a word, of the table or by its spelling."""
    number = _numbers(space).get(word)
    return torch.from_numpy(spelling.spelled(space, word)) if number is None else space.table[number]


@lru_cache(maxsize=2)
def _numbers(space: Sentences) -> dict[str, int]:
    return {word: number for number, word in enumerate(space.words)}


PRESETS: dict[str, Typos] = {
    "typo-swap": Typos("swap"),
    "typo-drop": Typos("drop"),
    "typo-insert": Typos("insert"),
    "typo-replace": Typos("replace"),
}
