"""Any parallel texts as tasks: folders train, val and test of TSV files, each a language pair or a task of rewriting.

A line is `source<TAB>target`, in UTF-8. A task takes one file, and of its targets the words that most sentences hold;
pairs with other words in their target, or with longer sentences, are left out, and `left_out` counts them. A source
word is a vector by its spelling alone, from the trigrams it is made of: nothing is loaded, words that are spelled alike
lie close, and every language has one. What may stand for a word, the file synonyms.tsv says beside the three folders,
where there is one: `word<TAB>other words`, one way each.

Shapes: T tasks, S pairs of a support, L places of a sentence, d entries of a vector.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from robustbench_meta import untrusted
from robustbench_meta.downloads import DATA_VARIABLE, Source, data_root
from robustbench_meta.spelling import hashed, steps_of, trigrams, unit
from robustbench_meta.types import SPLITS, Episodes, InputError, Sentences, Spec, Split

ENTRIES = 32  # of a vector, as many as the words of `transduction` have
LARGEST = 1 << 26  # bytes of a file
MOST = 1000  # tokens of a task
SYNONYMS = "synonyms.tsv"
PARTS = ("support", "query", "proxy")
WORD = re.compile(r"\w+(?:['\u2019]\w+)*")

Pair = tuple[tuple[str, ...], tuple[str, ...]]  # words of a source and of its target


@dataclass(frozen=True)
class ParallelText:
    """Classes are the tokens of a target: its end, and the ways - 1 words that most targets of the file hold.

    A sentence has up to `places` words, its target one less, for its end. With the 6 places that it has unless told,
    and 9 ways, the learners that `transduction` trained read it as it is.
    """

    places: int = 6
    root: Path | None = None

    name: ClassVar[str] = "parallel-text"
    default_eps: ClassVar[tuple[float, ...]] = (0.01, 0.02)
    default_network: ClassVar[str] = "encoder-decoder"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 64, "heads": 8}
    sources: ClassVar[tuple[Source, ...]] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.places <= 64:
            raise InputError(f"places: {self.places} is not between 2 and 64")

    @property
    def tells(self) -> str:
        space = self.space
        return f"{space.words} {space.swaps.tolist()}"

    @property
    def space(self) -> Sentences:
        """Return the space of all words of the files; without these, of none, for a checkpoint needs no data."""
        named = self.root or os.environ.get(DATA_VARIABLE)
        place = Path(named).expanduser() if named else None
        return _space(place if place and (place / "train").is_dir() else None, self.places)

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, each fixed by (family, split, seed, ways, number) alone."""
        self._check(spec)
        space, counts = self.space, dict(zip(PARTS, (spec.shots, spec.queries, spec.proxies), strict=True))
        number = {word: row for row, word in enumerate(space.words)}
        x: dict[str, list[list[list[int]]]] = {part: [] for part in PARTS}
        y: dict[str, list[list[list[int]]]] = {part: [] for part in PARTS}
        for index in indices:
            stream = f"{self.name}/{split}/{seed}/{spec.ways}/{int(index)}"
            path = self._file(split, stream)
            words, pairs = _vocabulary(path, spec.ways, self.places)
            token = {word: at for at, word in enumerate(words)}
            for part in PARTS:
                taken = _taken(pairs, words, f"{stream}/order", part, counts[part], path)
                x[part].append([_padded([number[word] for word in source], self.places) for source, _ in taken])
                y[part].append([_padded([token[word] for word in target], self.places) for _, target in taken])
        inputs = {part: space.table[torch.tensor(x[part])] for part in PARTS if counts[part]}
        labels = {part: torch.tensor(y[part]).flatten(1) for part in PARTS if counts[part]}
        support, query = ((inputs[part], labels[part]) for part in PARTS[:2])
        return Episodes(*support, *query, inputs.get("proxy"), labels.get("proxy"))

    def classes(self, split: Split) -> list[str]:
        """Return every word of every target of `split`, behind the name of its file."""
        return [f"{path.stem}/{word}" for path in self._files(split) for word in _frequent(path, self.places)]

    def written(self, split: Split, spec: Spec, index: int, *, seed: int = 0) -> tuple[str, ...]:
        """Return the tokens of one task as words; token 0, the end, is none."""
        path = self._file(split, f"{self.name}/{split}/{seed}/{spec.ways}/{int(index)}")
        return _vocabulary(path, spec.ways, self.places)[0]

    def left_out(self, split: Split, ways: int) -> dict[str, int]:
        """Count by file the pairs that a task of so many tokens does not use."""
        return {
            path.stem: len(_pairs(path)) - len(_vocabulary(path, ways, self.places)[1]) for path in self._files(split)
        }

    def _check(self, spec: Spec) -> None:
        if not 3 <= spec.ways <= MOST:
            raise InputError(f"ways={spec.ways}: must be from 3 to {MOST}, the end of a target and its words")
        for name, least in (("shots", 1), ("queries", 1), ("proxies", 0)):
            if (value := getattr(spec, name)) < least:
                raise InputError(f"{name}={value}: must be at least {least}, pairs for each token")

    def _place(self) -> Path:
        return data_root(self.root, family=self.name, advice="the folder that holds train, val and test")

    def _file(self, split: Split, stream: str) -> Path:
        files = self._files(split)
        return files[_drawn(f"{stream}/file") % len(files)]

    def _files(self, split: Split) -> list[Path]:
        """List the files of a split in the order of their names, which no other split may have."""
        found = _listed(self._place())
        held = {path.stem: part for part in SPLITS if part != split for path in found[part]}
        for path in found[split]:
            if path.stem in held:
                raise InputError(
                    f"parallel-text: {path.stem} is in both {split} and {held[path.stem]}; give it to one, since a name"
                    " is a language"
                )
        return found[split]


def _listed(place: Path) -> dict[Split, list[Path]]:
    found: dict[Split, list[Path]] = {}
    for split in SPLITS:
        folder = place / split
        if not folder.is_dir():
            raise InputError(f"parallel-text: {folder} is not a folder; it must hold .tsv files of source<TAB>target")
        found[split] = sorted(path for path in folder.glob("*.tsv") if path.name[0] != ".")
        if not found[split]:
            raise InputError(f"parallel-text: {folder} holds no .tsv file; each is a task, source<TAB>target a line")
    return found


@lru_cache(maxsize=64)
def _pairs(path: Path) -> tuple[Pair, ...]:
    """Read the pairs of a file, each source once, the first one counting; in lower case, without marks."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row, line in _rows(path):
        parts = line.split("\t")
        if len(parts) != 2:
            raise InputError(
                f"parallel-text: {path}, line {row}: {len(parts) - 1} tabs, must be one: source<TAB>target"
            )
        source, target = (tuple(WORD.findall(part.lower())) for part in parts)
        if not source or not target:
            raise InputError(f"parallel-text: {path}, line {row}: a {'target' if source else 'source'} without a word")
        found.setdefault(source, target)
    return tuple(found.items())


def _rows(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a file that are not empty, with their numbers."""
    try:
        text = untrusted.content(path, LARGEST).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"parallel-text: {path} is not UTF-8: byte {error.start} does not fit") from None
    except ValueError as error:
        raise InputError(f"parallel-text: {path} {error}") from None
    lines = enumerate(text.removeprefix("\ufeff").split("\n"), 1)
    return [(row, line.rstrip("\r")) for row, line in lines if line.strip()]


def _frequent(path: Path, places: int) -> list[str]:
    """List the words of the targets of pairs that fit, those that most of them hold first."""
    counts = Counter(word for source, target in _pairs(path) if _fits(source, target, places) for word in set(target))
    return sorted(counts, key=lambda word: (-counts[word], word))


@lru_cache(maxsize=64)
def _vocabulary(path: Path, ways: int, places: int) -> tuple[tuple[str, ...], tuple[Pair, ...]]:
    """Return the tokens of a task on a file, the first of them the end, and the pairs that need no other."""
    words = _frequent(path, places)[: ways - 1]
    if len(words) < ways - 1:
        raise InputError(
            f"ways={ways}: {path} has {len(words)} words in targets that fit; legal: up to {len(words) + 1}"
        )
    known = set(words)
    kept = [pair for pair in _pairs(path) if _fits(*pair, places) and known.issuperset(pair[1])]
    return ("", *words), tuple(kept)


def _fits(source: tuple[str, ...], target: tuple[str, ...], places: int) -> bool:
    return len(source) <= places and len(target) < places


def _taken(
    pairs: tuple[Pair, ...], words: tuple[str, ...], stream: str, part: str, each: int, path: Path
) -> list[Pair]:
    """Take `each` pairs for every token, which stands in their targets; any pair has the end.

    Which part a pair may serve is drawn for itself, so that parts share none, however many are taken of another. They
    are taken in rounds, so that fewer are the first of more.
    """
    drawn = {pair: _drawn(f"{stream}/{' '.join(pair[0])}") for pair in pairs}
    mine = sorted((pair for pair in pairs if drawn[pair] % len(PARTS) == PARTS.index(part)), key=lambda p: drawn[p])
    found: list[list[Pair]] = [[] for _ in words]
    left = dict.fromkeys(mine)
    for _ in range(each):
        # The end comes last, which every pair has.
        for token in (*range(1, len(words)), 0):
            pair = next((one for one in left if not token or words[token] in one[1]), None)
            if pair is None:
                named = {"support": "shots", "query": "queries", "proxy": "proxies"}[part]
                lacks = f"too few pairs with {words[token]!r}" if token else "too few pairs"
                raise InputError(f"{named}={each}: {path} has {lacks}, {len(mine)} of {len(pairs)} serve the {part}")
            del left[pair]
            found[token].append(pair)
    return [pair for row in found for pair in row]


@lru_cache(maxsize=4)
def _space(place: Path | None, places: int) -> Sentences:
    """Make the table of all source words, in alphabetical order, and of the synonyms that a file names."""
    listed = _listed(place) if place else {}
    named = _synonyms(place / SYNONYMS) if place and (place / SYNONYMS).exists() else {}
    texts = {word for files in listed.values() for path in files for source, _ in _pairs(path) for word in source}
    words = ("", *sorted(texts.union(*named.values())))
    number = {word: row for row, word in enumerate(words)}
    widest = max(map(len, named.values()), default=0) or 1
    swaps = torch.full((len(words), widest), -1)
    for word in named.keys() & texts:
        others = [number[other] for other in named[word] if other != word]
        swaps[number[word], : len(others)] = torch.tensor(others)
    vectors = np.stack([np.zeros(ENTRIES), *map(_vector, words[1:])]).astype(np.float32)
    about: Any = {"words": words, "table": torch.from_numpy(vectors), "swaps": swaps}
    return Sentences((places, ENTRIES), -1.0, 1.0, labels=places, **about)


def _synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """Read which words may stand for which."""
    found: dict[str, tuple[str, ...]] = {}
    for row, line in _rows(path):
        word, tab, others = line.lower().partition("\t")
        if not tab or len(WORD.findall(word)) != 1 or not WORD.findall(others):
            raise InputError(f"parallel-text: {path}, line {row}: must be word<TAB>other words")
        found[WORD.findall(word)[0]] = tuple(dict.fromkeys(WORD.findall(others)))
    return found


@lru_cache(maxsize=100_000)
def _vector(word: str) -> np.ndarray:
    """Return the vector of a word: the sum of those of its trigrams, and one of its own, of length one: [32]."""
    parts = [hashed(f"trigram {part}", ENTRIES) for part in sorted(trigrams(word))]
    made = np.sum(parts, axis=0) / len(parts) ** 0.5 + hashed(f"word {word}", ENTRIES)
    return unit(steps_of(made[None]))[0]


def _padded(numbers: list[int], places: int) -> list[int]:
    return numbers + [0] * (places - len(numbers))


def _drawn(stream: str) -> int:
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big")


PRESETS = {"parallel-text": ParallelText()}
