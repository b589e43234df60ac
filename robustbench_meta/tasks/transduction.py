"""Text to text: languages made by code, learned from a few pairs of sentences; nothing to load.

The smallest stand-in for translation and summarisation: every task is a language of its own. `transduction` has a
lexicon and a word order; `compression` has a lexicon and a class of words that the target leaves out, and closes up.
No source word of a test task occurs in training. Word orders are shared by the splits, for there are few: what is
learned from the pairs is the lexicon, and which order or class it is.

A word is the vector of one frozen table, the same for every learner. Every meaning has three words with vectors close
to one another; which of them a sentence holds changes nothing in its target, so that who replaces words by these may
not change the answer.

Shapes: T tasks, S pairs of a support, L places of a sentence, d entries of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from robustbench_meta.downloads import Source
from robustbench_meta.draws import bits
from robustbench_meta.spelling import hashed, steps_of, unit
from robustbench_meta.types import SPLITS, Episodes, InputError, Sentences, Spec, Split

PLACES, ENTRIES = 6, 32  # of a sentence, of which the last one is empty; and of a vector
SHORTEST, LONGEST = 3, 5  # words of a source
MEANINGS: Mapping[Split, int] = {"train": 120, "val": 48, "test": 60}
SYNONYMS, APART = 3, 0.7  # words of a meaning, and the length of what each has of its own beside what they share
CLASSES, MARK = 3, 0.7  # of words, and the length of what shows in a vector to which a word belongs
FEWEST, MOST = 5, 41  # tokens of a task, of which the first ends a target
PARTS = ("support", "query", "proxy")
ORDERS: Mapping[str, Callable[[list[int]], list[int]]] = {
    "as it is": lambda words: words,
    "reversed": lambda words: words[::-1],
    "first word last": lambda words: words[1:] + words[:1],
    "last word first": lambda words: words[-1:] + words[:-1],
    "neighbours swapped": lambda words: [words[i ^ 1] if i ^ 1 < len(words) else words[i] for i in range(len(words))],
    "odd places first": lambda words: words[::2] + words[1::2],
}
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


@dataclass(frozen=True)
class Transduction:
    """Classes are the tokens of a target: its end, which fills what is left of it, and ways - 1 words.

    A sentence [6,32] in [-1, 1] is 3 to 5 unit vectors, then zeros; its labels are the 6 tokens of its target. Items
    lie class by class as everywhere: the shots of a word are sentences whose targets hold it, among others.
    """

    name: str = "transduction"
    orders: tuple[str, ...] = tuple(ORDERS)  # of which a task has one
    fillers: int = 0  # meanings of a task that its target leaves out
    root: Path | None = None  # not read: there is nothing to load

    default_eps: ClassVar[tuple[float, ...]] = (0.01, 0.02)
    default_network: ClassVar[str] = "encoder-decoder"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 64, "heads": 8}
    sources: ClassVar[tuple[Source, ...]] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "orders", tuple(self.orders))  # a recipe's list: fields must be hashable
        if unknown := [order for order in self.orders if order not in ORDERS]:
            raise InputError(f"orders: {unknown[0]!r} is unknown; legal: {', '.join(ORDERS)}")
        if not self.orders:
            raise InputError(f"orders: none given; legal: {', '.join(ORDERS)}")
        if not 0 <= self.fillers <= 8:
            raise InputError(f"fillers: {self.fillers} is not between 0 and 8")

    @property
    def space(self) -> Sentences:
        return _space()

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, each fixed by (family, split, seed, ways, number) alone."""
        self._check(spec)
        counts = dict(zip(PARTS, (spec.shots, spec.queries, spec.proxies), strict=True))
        numbers: dict[str, list[list[list[int]]]] = {part: [] for part in PARTS}
        tokens: dict[str, list[list[list[int]]]] = {part: [] for part in PARTS}
        for index in indices:
            language = self._language(split, spec.ways, int(index), seed)
            for part in PARTS:
                pairs = language.pairs(part, counts[part])
                numbers[part].append([source for source, _ in pairs])
                tokens[part].append([target for _, target in pairs])
        table = _space().table
        x = {part: table[torch.tensor(numbers[part])] for part in PARTS if counts[part]}
        y = {part: torch.tensor(tokens[part]).flatten(1) for part in PARTS if counts[part]}
        return Episodes(x["support"], y["support"], x["query"], y["query"], x.get("proxy"), y.get("proxy"))

    def classes(self, split: Split) -> list[str]:
        """Return a word for every meaning that a source of `split` may have; targets are of other words."""
        return [_space().words[row[0]] for row in _vocabulary()[split]]

    def written(self, split: Split, spec: Spec, index: int, *, seed: int = 0) -> tuple[str, ...]:
        """Return the tokens of one task as words; token 0, the end, is none."""
        return self._language(split, spec.ways, index, seed).words

    def _language(self, split: Split, ways: int, index: int, seed: int) -> _Language:
        stream = f"{self.name}/{split}/{seed}/{ways}/{index}"
        draw = _Draws(f"{stream}/language")
        order = self.orders[draw.below(len(self.orders))]
        # The meanings of a class are every third one.
        dropped = draw.below(CLASSES)
        shuffled = draw.order(MEANINGS[split])
        fillers = [number for number in shuffled if number % CLASSES == dropped][: self.fillers]
        kept = [number for number in shuffled if not self.fillers or number % CLASSES != dropped][: ways - 1]
        meanings = [_vocabulary()[split][number] for number in kept + fillers]
        words = ("", *(_spelled(number, 3) for number in draw.order(400)[: ways - 1]))
        return _Language(stream, tuple(meanings), ways - 1, order, words)

    def _check(self, spec: Spec) -> None:
        most = min(MOST, 1 + (MEANINGS["val"] * (CLASSES - 1) // CLASSES if self.fillers else MOST))
        if not FEWEST <= spec.ways <= most:
            raise InputError(f"ways={spec.ways}: must be from {FEWEST} to {most}, the tokens of a task")
        most = _different(spec.ways) // (2 * len(PARTS) * spec.ways)
        for name, least in (("shots", 1), ("queries", 1), ("proxies", 0)):
            if not least <= (value := getattr(spec, name)) <= most:
                raise InputError(f"{name}={value}: must be from {least} to {most}, sentences with one token")


@dataclass(frozen=True)
class _Language:
    """A lexicon, whose meanings from number `kept` on a target leaves out, and the order that its words have there."""

    stream: str
    meanings: tuple[tuple[int, ...], ...]
    kept: int
    order: str
    words: tuple[str, ...]

    def pairs(self, part: str, each: int) -> list[tuple[list[int], list[int]]]:
        """Draw pairs of word numbers and tokens, `each` for every token, which stands in their targets.

        Which part a sequence of meanings may occur in is drawn for itself, so that parts share none, however large they
        are; within a part each occurs once. Sentences are drawn in rounds, so that fewer are the first of more.
        """
        draw, deal = _Draws(f"{self.stream}/{part}"), _Draws(f"{self.stream}/parts")
        dealt = [[deal.raw() for _ in self.meanings] for _ in range(PLACES)]
        seen: set[tuple[int, ...]] = set()
        found: list[list[tuple[list[int], list[int]]]] = [[] for _ in range(self.kept + 1)]
        for _ in range(each):
            for token, row in enumerate(found):
                while True:
                    sentence = self._sentence(draw, token)
                    mixed = 0
                    for place, meaning in enumerate(sentence):
                        mixed ^= dealt[place][meaning]
                    if mixed % len(PARTS) == PARTS.index(part) and sentence not in seen:
                        break
                seen.add(sentence)
                source = [self.meanings[meaning][draw.below(SYNONYMS)] for meaning in sentence]
                row.append((_padded(source), _padded(self.target(sentence))))
        return [pair for row in found for pair in row]

    def target(self, sentence: Sequence[int]) -> list[int]:
        """Return the tokens of a sentence of meanings."""
        return ORDERS[self.order]([1 + meaning for meaning in sentence if meaning < self.kept])

    def _sentence(self, draw: _Draws, token: int) -> tuple[int, ...]:
        """Draw meanings, that of `token` among them, and where the language has fillers one or two of these."""
        extra = 1 + draw.below(2) if len(self.meanings) > self.kept else 0
        length = SHORTEST + draw.below(LONGEST - SHORTEST + 1) - extra
        length = max(length, 2 if extra else SHORTEST)
        words = [draw.below(self.kept) for _ in range(length)]
        if token and token - 1 not in words:
            words[draw.below(length)] = token - 1
        for _ in range(extra):
            words.insert(draw.below(len(words) + 1), self.kept + draw.below(len(self.meanings) - self.kept))
        return tuple(words)


class _Draws:
    """Whole numbers that belong to a name."""

    def __init__(self, stream: str) -> None:
        self.bits = bits(stream)

    def raw(self) -> int:
        return int(self.bits.random_raw())

    def below(self, count: int) -> int:
        return (self.raw() >> 11) % count

    def order(self, count: int) -> list[int]:
        found: list[int] = np.argsort(self.bits.random_raw(count), kind="stable").tolist()
        return found


def _padded(numbers: list[int]) -> list[int]:
    return numbers + [0] * (PLACES - len(numbers))


def _different(ways: int) -> int:
    """Count the sentences of meanings that have a token."""
    return sum((ways - 1) ** length for length in range(SHORTEST, LONGEST + 1))


@cache
def _vocabulary() -> dict[Split, tuple[tuple[int, ...], ...]]:
    """Number the words of every meaning of every split in the table; 0 is the padding."""
    found: dict[Split, tuple[tuple[int, ...], ...]] = {}
    first = 1
    for split in SPLITS:
        starts = range(first, first + SYNONYMS * MEANINGS[split], SYNONYMS)
        found[split] = tuple(tuple(range(start, start + SYNONYMS)) for start in starts)
        first = starts.stop
    return found


@cache
def _space() -> Sentences:
    rows, swaps, names = [np.zeros((1, ENTRIES), np.float32)], [[-1] * (SYNONYMS - 1)], [""]
    for split in SPLITS:
        for number, own in enumerate(_vocabulary()[split]):
            parts = [_direction(f"{split}/{number}"), *(_direction(f"{split}/{number}/{word}") for word in own)]
            shared = parts[0] + MARK * _direction(f"class {number % CLASSES}")
            rows.append(unit(steps_of(np.stack([shared + APART * part for part in parts[1:]]))))
            swaps += [[other for other in own if other != word] for word in own]
            names += [_spelled(word, 4) for word in own]
    vectors = torch.from_numpy(np.concatenate(rows))
    about: Any = {"words": tuple(names), "table": vectors, "swaps": torch.tensor(swaps)}
    return Sentences((PLACES, ENTRIES), -1.0, 1.0, labels=PLACES, **about)


def _direction(name: str) -> np.ndarray:
    return hashed(f"transduction/{name}", ENTRIES)


def _spelled(number: int, syllables: int) -> str:
    """Spell a number as a word of syllables, no two alike below 70 to the power of their count."""
    found, rest = "", (number * 41_161 + 7) % 70**syllables  # a factor prime to 70, so that neighbours look unlike
    for _ in range(syllables):
        rest, syllable = divmod(rest, 70)
        found += CONSONANTS[syllable // 5] + VOWELS[syllable % 5]
    return found


PRESETS = {
    "transduction": Transduction(),
    "compression": Transduction("compression", orders=("as it is",), fillers=4),
}
