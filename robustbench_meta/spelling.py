"""Vectors by spelling: what a table gives a word that it has never seen in use.

A mean of the known words that share most of its letter trigrams, and a part of its own, so that no two words are one.
By this rule `benchmarks/word_table.py` gives rare words their vectors, and attacks/typos.py misspelt ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from robustbench_meta import draws
from robustbench_meta.types import Sentences

NEAREST, OWN = 5, 0.3  # known words that a new one is the mean of, and the share of a part of its own


@dataclass(frozen=True, eq=False)
class Speller:
    """Known words in alphabetical order with their vectors [V,d], and in which of them each trigram occurs."""

    words: tuple[str, ...]
    vectors: np.ndarray
    holding: dict[str, list[int]] = field(init=False, default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for number, word in enumerate(self.words):
            for part in trigrams(word):
                self.holding[part].append(number)

    def vector(self, word: str) -> np.ndarray:
        """Return a vector [d] for a word that is not known."""
        own = trigrams(word)
        shared = Counter(number for part in own for number in self.holding.get(part, ()))
        alike = {n: count / (len(own) + len(trigrams(self.words[n])) - count) for n, count in shared.items()}
        best = sorted(alike, key=lambda n: (-alike[n], n))[:NEAREST] or list(range(min(NEAREST, len(self.words))))
        mean = np.sum([alike.get(n, 1.0) * self.vectors[n] for n in best], axis=0)
        drawn = np.random.default_rng(list(word.encode())).normal(size=self.vectors.shape[1])
        made: np.ndarray = mean / np.linalg.norm(mean) + OWN * drawn / np.linalg.norm(drawn)
        return made


def trigrams(word: str) -> frozenset[str]:
    framed = f"<{word}>"
    return frozenset(framed[i : i + 3] for i in range(len(framed) - 2))


@lru_cache(maxsize=2)
def speller(space: Sentences) -> Speller:
    """Return the speller of a space, by the words that it knows in use."""
    known = sorted(space.known, key=lambda number: space.words[number])
    return Speller(tuple(space.words[number] for number in known), space.table[known].double().numpy())


@lru_cache(maxsize=100_000)
def spelled(space: Sentences, word: str) -> np.ndarray:
    """Return the row [d] of a word that the table does not hold: a direction that its steps give, of length one."""
    return unit(steps_of(speller(space).vector(word)[None]))[0]


def hashed(name: str, entries: int) -> np.ndarray:
    """Return a direction of length one that belongs to a name: float64 [d], the same everywhere but for rounding."""
    drawn = draws.uniform(name, (entries,))
    found: np.ndarray = drawn / np.sqrt((drawn**2).sum())
    return found


def steps_of(vectors: np.ndarray) -> np.ndarray:
    """Round vectors [V,d] to whole numbers, 127 for the largest entry of each."""
    return np.rint(127 * vectors / np.abs(vectors).max(axis=1, keepdims=True)).astype(np.int8)


def unit(steps: np.ndarray) -> np.ndarray:
    """Scale rows of whole numbers to length 1; the squares add up exactly, so the same everywhere."""
    lengths = np.sqrt(np.sum(steps.astype(np.int64) ** 2, axis=1, keepdims=True))
    return (steps / lengths).astype(np.float32)
