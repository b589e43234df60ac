"""Any parallel texts as tasks: folders train, val and test of TSV files, each a language pair or a task of rewriting.

A line is `source<TAB>target`, in UTF-8. A task takes one file, and draws its words among those that enough of its
targets hold. Any other word of a target is one token, the last: a learner has to know where one stands, not which. Of
real translations hardly a target is of frequent words alone; of closed languages, as those of rewriting, every one may
be, and `unknown="left-out"` takes the words that most targets hold, and leaves out pairs with others. A source word is
a vector by its spelling alone, from the trigrams it is made of: nothing is loaded, words that are spelled alike lie
close, and every language has one.

Two things may lie beside the three folders. Which files belong together, as near relatives do, groups.tsv says:
`NAME<TAB>group`, a file without a line being alone; a group that the folders part is refused. What may stand for a word
of NAME.tsv, the file synonyms/NAME.tsv says, and for words of all files synonyms.tsv: `word<TAB>other words`, one way
each, a word once. A word that a file of its own lists has those others alone, and a vector of its own, since elsewhere
the same spelling is another word.

Shapes: T tasks, S pairs of a support, L places of a sentence, d entries of a vector.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch

from robustbench_meta import untrusted
from robustbench_meta.downloads import DATA_VARIABLE, Source, data_root
from robustbench_meta.spelling import hashed, steps_of, trigrams, unit
from robustbench_meta.types import SPLITS, Episodes, InputError, Sentences, Spec, Split

ENTRIES = 32  # of a vector, as many as the words of `transduction` have
LARGEST = 1 << 26  # bytes of a file
MOST = 1000  # tokens of a task
GROUPS = "groups.tsv"
SYNONYMS = "synonyms.tsv"
OWN_SYNONYMS = "synonyms"  # a folder, of a file for each language that has one
PARTS = {"support": "shots", "query": "queries", "proxy": "proxies"}
OTHER = "\u2026"  # how the token of all other words is written: one character, of which chrF makes little
PLENTY = 6  # pairs with a word, for each that a part is to have of it, from which on the word may be drawn
TRIES = 20  # draws of a task's words and of the order of its pairs, of which the first that serves is taken

Unknown = Literal["token", "left-out"]
Pair = tuple[tuple[str, ...], tuple[str, ...]]  # words of a source and of its target


@dataclass(frozen=True)
class ParallelText:
    """Classes are the tokens of a target: its end, words of the file, and last what stands for every other word.

    A sentence has up to `places` words, its target one less, for its end. With the 6 places that it has unless told,
    and 9 ways, the learners that `transduction` trained read it as it is. Every task has `serves` pairs of each token
    for each part: no more can be asked for, and a file that has fewer is refused before the first task.
    """

    places: int = 6
    unknown: Unknown = "token"
    serves: int = 5
    root: Path | None = None

    name: ClassVar[str] = "parallel-text"
    default_eps: ClassVar[tuple[float, ...]] = (0.01, 0.02)
    default_network: ClassVar[str] = "encoder-decoder"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 64, "heads": 8}
    sources: ClassVar[tuple[Source, ...]] = ()
    takes: ClassVar[str] = "train, val and test with .tsv files of source<TAB>target"

    def __post_init__(self) -> None:
        if not 2 <= self.places <= 64:
            raise InputError(f"places: {self.places} is not between 2 and 64")
        if self.unknown not in get_args(Unknown):
            raise InputError(f"unknown: {self.unknown!r} is unknown; legal: {', '.join(get_args(Unknown))}")
        if not 1 <= self.serves <= 1000:
            raise InputError(f"serves: {self.serves} is not between 1 and 1000")

    @property
    def tells(self) -> str:
        """Return what reference episodes need not hold: every word, what may stand for it, and every target."""
        lexicon, place = self._lexicon, self._place()
        targets = [_pairs(path) for files in _listed(place).values() for path in files]
        digest = hashlib.sha256(repr(targets).encode()).hexdigest()
        told = f"{lexicon.space.words} {lexicon.space.swaps.tolist()} {digest}"
        own = [one for one in lexicon.numbers if one[0]]
        return f"{told} {own}" if own else told

    @property
    def space(self) -> Sentences:
        """Return the space of all words of the files; without these, of none, for a checkpoint needs no data."""
        return self._lexicon.space

    @property
    def _lexicon(self) -> _Lexicon:
        named = self.root or os.environ.get(DATA_VARIABLE)
        place = Path(named).expanduser() if named else None
        return _lexicon(place if place and (place / "train").is_dir() else None, self.places)

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, each fixed by (family, split, seed, ways, number) alone."""
        self._check(spec)
        self._refuse_small_files(split, spec.ways)
        lexicon, counts = self._lexicon, {part: getattr(spec, name) for part, name in PARTS.items()}
        x: dict[str, list[list[list[int]]]] = {part: [] for part in PARTS}
        y: dict[str, list[list[list[int]]]] = {part: [] for part in PARTS}
        for index in indices:
            task = self._task(split, spec.ways, int(index), seed)
            for part, each in counts.items():
                taken = [pair for row in task.dealt[part] for pair in row[:each]]
                x[part].append([_padded(lexicon.row(task.language, source), self.places) for source, _ in taken])
                y[part].append([_padded(task.tokens(target), self.places) for _, target in taken])
        inputs = {part: lexicon.space.table[torch.tensor(x[part])] for part in PARTS if counts[part]}
        labels = {part: torch.tensor(y[part]).flatten(1) for part in PARTS if counts[part]}
        support, query = ((inputs[part], labels[part]) for part in ("support", "query"))
        return Episodes(*support, *query, inputs.get("proxy"), labels.get("proxy"))

    def deal(self, split: Split) -> str:
        """Say which files a split has, those of a group together."""
        files, groups = self._files(split), _groups(self._place())
        held: dict[tuple[bool, str], list[str]] = {}
        for path in files:
            held.setdefault((path.stem not in groups, groups.get(path.stem, path.stem)), []).append(path.stem)
        told = [name if alone else f"{name} ({', '.join(held[alone, name])})" for alone, name in sorted(held)]
        how = f"in {len(held)} groups" if groups else f"each apart, without {GROUPS}"
        return f"{len(files)} files, {how}: {', '.join(told)}"

    def classes(self, split: Split) -> list[str]:
        """Return every word of every target of `split`, behind the name of its file."""
        return [f"{path.stem}/{word}" for path in self._files(split) for word in _counts(path, self.places)]

    def written(self, split: Split, spec: Spec, index: int, *, seed: int = 0) -> tuple[str, ...]:
        """Return the tokens of one task as words; token 0, the end, is none."""
        return self._task(split, spec.ways, int(index), seed).words

    def stock(self, split: Split, ways: int) -> list[str]:
        """Say of every file what it holds, and what its tasks of so many tokens can be asked for."""
        return [f"{path.stem}: {self._stock(path, ways)}" for path in self._files(split)]

    def _stock(self, path: Path, ways: int) -> str:
        fit, words = _fitting(path, self.places), _drawable(path, self.places, self.serves)
        told = f"{len(_pairs(path))} pairs, {len(fit)} of at most {self.places} words"
        try:
            tasks = [_task(self, path, ways, f"{self.name}/stock/{number}") for number in range(TRIES)]
        except TooFewError as error:
            return f"{told}; too few for ways={ways} serves={self.serves}, {error}"
        used, most = round(sum(task.usable for task in tasks) / TRIES), min(task.most for task in tasks)
        drawn = f"{len(words)} words to draw, " if self.unknown == "token" and len(words) >= ways - 2 else ""
        return f"{told}; {drawn}{used} pairs a task, {most} for each token and part at least"

    def _task(self, split: Split, ways: int, index: int, seed: int) -> _Task:
        stream = f"{self.name}/{split}/{seed}/{ways}/{index}"
        files = self._files(split)
        return _task(self, files[_drawn(f"{stream}/file") % len(files)], ways, stream)

    def _refuse_small_files(self, split: Split, ways: int) -> None:
        """Name all files of a split that cannot serve its tasks, before one of them is met in the midst of a run."""
        small = []
        for path in self._files(split):
            try:
                _likeliest(self, path, ways)
            except TooFewError as error:
                small.append(f"{path.name} ({error})")
        if small:
            raise InputError(
                f"ways={ways}: {split} holds files of too few pairs for serves={self.serves}: {', '.join(small)}; take"
                " them out, or ask for less by the family's options `serves` and `places`"
            )

    def _check(self, spec: Spec) -> None:
        least = 3 if self.unknown == "left-out" else 4
        if not least <= spec.ways <= MOST:
            raise InputError(f"ways={spec.ways}: must be from {least} to {MOST}, the end of a target and its words")
        for name, fewest in (("shots", 1), ("queries", 1), ("proxies", 0)):
            if not fewest <= (value := getattr(spec, name)) <= self.serves:
                raise InputError(
                    f"{name}={value}: must be from {fewest} to {self.serves}, pairs for each token; more where the"
                    " family's option `serves` says so and the files have them (rbm data check)"
                )

    def _place(self) -> Path:
        return data_root(self.root, family=self.name, advice="the folder that holds train, val and test")

    def _files(self, split: Split) -> list[Path]:
        """List the files of a split in the order of their names, which no other split may have, nor their groups."""
        place = self._place()
        found = _listed(place)
        held = {path.stem: part for part in SPLITS if part != split for path in found[part]}
        for path in found[split]:
            if path.stem in held:
                raise InputError(
                    f"parallel-text: {path.stem} is in both {split} and {held[path.stem]}; give it to one, since a name"
                    " is a language"
                )
        _refuse_parted(place, found)
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


@lru_cache(maxsize=16)
def _groups(place: Path) -> Mapping[str, str]:
    """Read by name which group a file belongs to, of those that groups.tsv names."""
    path = place / GROUPS
    found: dict[str, str] = {}
    names = {file.stem for files in _listed(place).values() for file in files}
    for row, line in _rows(path) if path.exists() else []:
        name, _, group = (part.strip() for part in line.partition("\t"))
        if not name or not group or "\t" in group:
            raise InputError(f"parallel-text: {path}, line {row}: must be NAME<TAB>group, of a file NAME.tsv")
        if name not in names:
            raise InputError(f"parallel-text: {path}, line {row}: no {name}.tsv is in train, val or test")
        if found.setdefault(name, group) != group:
            raise InputError(
                f"parallel-text: {path}, line {row}: {name!r} is of {group}, on a line above of {found[name]}; legal:"
                " one group"
            )
    return found


def _refuse_parted(place: Path, found: Mapping[Split, Sequence[Path]]) -> None:
    held: dict[str, dict[Split, list[str]]] = {}
    for split, files in found.items():
        for path in files:
            if group := _groups(place).get(path.stem):
                held.setdefault(group, {}).setdefault(split, []).append(path.stem)
    for group, parts in held.items():
        if len(parts) > 1:
            where = " and ".join(f"{split} ({', '.join(names)})" for split, names in parts.items())
            raise InputError(f"parallel-text: {place / GROUPS}: {group} is in {where}; legal: all of a group in one")


@lru_cache(maxsize=256)
def _pairs(path: Path) -> tuple[Pair, ...]:
    """Read the pairs of a file, each source once, the first one counting; in lower case, without marks."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row, line in _rows(path):
        parts = line.split("\t")
        if len(parts) != 2:
            raise InputError(
                f"parallel-text: {path}, line {row}: {len(parts) - 1} tabs, must be one: source<TAB>target"
            )
        source, target = (words_of(part) for part in parts)
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


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case, each letter with its marks, as the vowels of Hindi are."""
    return tuple(_word().findall(unicodedata.normalize("NFC", text.lower())))


@cache
def _word() -> re.Pattern[str]:
    # To re, marks are no part of words. What joins letters without a width stands within words of Persian.
    marks = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(rf"[\w{marks}]+(?:['\u2019\u200c\u200d]+[\w{marks}]+)*")


class TooFewError(InputError):
    """A file has too few pairs for a task; the message says how many it has."""


@dataclass(frozen=True)
class _Task:
    """Tokens as words, the end first; how many pairs may be used; of each part and token those dealt, in rounds."""

    language: str
    words: tuple[str, ...]
    usable: int
    dealt: Mapping[str, list[list[Pair]]]

    @property
    def most(self) -> int:
        return min(len(row) for rows in self.dealt.values() for row in rows)

    def tokens(self, target: Sequence[str]) -> list[int]:
        number = {word: token for token, word in enumerate(self.words)}
        return [number.get(word, len(self.words) - 1) for word in target]


@lru_cache(maxsize=512)
def _task(family: ParallelText, path: Path, ways: int, stream: str) -> _Task:
    """Make the task of a file that a stream draws; raise TooFewError where the file has not enough for any."""
    likeliest = _likeliest(family, path, ways)
    wanted = ways - 1 if family.unknown == "left-out" else ways - 2
    drawable = [] if family.unknown == "left-out" else _drawable(path, family.places, family.serves)
    for attempt in range(TRIES):
        words = sorted(drawable, key=lambda word: _drawn(f"{stream}/words/{attempt}/{word}"))
        words = words[:wanted] if len(words) >= wanted else _frequent(path, family.places)[:wanted]
        made = _dealt(family, path, words, f"{stream}/order/{attempt}")
        if made.most >= family.serves:
            return made
    return likeliest


@lru_cache(maxsize=512)
def _likeliest(family: ParallelText, path: Path, ways: int) -> _Task:
    """Make a task of the words that most targets of a file hold, the same for every stream: what can be had if any."""
    wanted = ways - 1 if family.unknown == "left-out" else ways - 2
    if len(words := _frequent(path, family.places)[:wanted]) < wanted:
        raise TooFewError(f"{len(words)} words in targets that fit")
    made = [_dealt(family, path, words, f"{path.stem}/{attempt}") for attempt in range(TRIES)]
    best = max(made, key=lambda task: task.most)
    if best.most < family.serves:
        raise TooFewError(f"{best.most} for each token and part")
    return best


def _dealt(family: ParallelText, path: Path, chosen: Sequence[str], stream: str) -> _Task:
    """Deal the pairs of a file to parts and tokens in rounds, each to one, so that fewer are the first of more.

    A pair of a word holds it in its target; any pair has the end. Who has least to choose from chooses first.
    """
    pairs, known = _fitting(path, family.places), set(chosen)
    words = ("", *chosen) if family.unknown == "left-out" else ("", *chosen, OTHER)
    if family.unknown == "left-out":
        usable = [pair for pair in pairs if known.issuperset(pair[1])]
    else:  # a pair of no known word would say nothing of any
        usable = [pair for pair in pairs if not known.isdisjoint(pair[1])]
    usable.sort(key=lambda pair: _drawn(f"{stream}/{' '.join(pair[0])}"))
    holding = [usable, *([pair for pair in usable if word in pair[1]] for word in chosen)]
    if family.unknown == "token":
        holding.append([pair for pair in usable if not known.issuperset(pair[1])])
    order = sorted(range(len(words)), key=lambda token: len(holding[token]))
    left, taken = [iter(row) for row in holding], set[Pair]()
    dealt: dict[str, list[list[Pair]]] = {part: [[] for _ in words] for part in PARTS}
    while True:
        for part in PARTS:
            for token in order:
                pair = next((one for one in left[token] if one not in taken), None)
                if pair is None:
                    return _Task(path.stem, words, len(usable), dealt)
                taken.add(pair)
                dealt[part][token].append(pair)


@lru_cache(maxsize=256)
def _fitting(path: Path, places: int) -> tuple[Pair, ...]:
    """Return the pairs of a file whose sentences have a place for each word, and for the end of the target."""
    return tuple(pair for pair in _pairs(path) if len(pair[0]) <= places and len(pair[1]) < places)


@lru_cache(maxsize=256)
def _counts(path: Path, places: int) -> dict[str, int]:
    """Count by word the pairs that fit whose target holds it."""
    return dict(Counter(word for _, target in _fitting(path, places) for word in sorted(set(target))))


def _frequent(path: Path, places: int) -> list[str]:
    """List the words of targets that fit, those that most of them hold first."""
    counts = _counts(path, places)
    return sorted(counts, key=lambda word: (-counts[word], word))


def _drawable(path: Path, places: int, serves: int) -> list[str]:
    """List the words that so many targets hold that a task may draw them."""
    counts = _counts(path, places)
    return sorted(word for word in counts if counts[word] >= PLENTY * serves)


@dataclass(frozen=True)
class _Lexicon:
    """The words of all files, and by language and word their numbers; of words that all languages share, by ""."""

    space: Sentences
    numbers: Mapping[tuple[str, str], int]

    def row(self, language: str, words: Sequence[str]) -> list[int]:
        return [self.numbers.get((language, word)) or self.numbers["", word] for word in words]


@lru_cache(maxsize=4)
def _lexicon(place: Path | None, places: int) -> _Lexicon:
    """Make the table of all source words that fit, in alphabetical order, and of the synonyms that files name."""
    listed = [path for files in _listed(place).values() for path in files] if place else []
    named = _all_synonyms(place, {path.stem for path in listed}) if place else {}

    def owned(language: str, word: str) -> tuple[str, str]:
        return (language if word in named.get(language, {}) else "", word)

    pairs = ((path.stem, pair) for path in listed for pair in _fitting(path, places))
    texts = {owned(language, word) for language, (source, _) in pairs for word in source}
    others = {
        owned(language, word): [owned(language, other) for other in several if other != word]
        for language, lists in named.items()
        for word, several in lists.items()
    }
    words = sorted(texts.union(*others.values()))  # those that all languages share come first, by ""
    numbers = {("", ""): 0} | {word: row for row, word in enumerate(words, 1)}
    swaps = torch.full((len(numbers), max(map(len, others.values()), default=0) or 1), -1)
    for word in others.keys() & texts:
        swaps[numbers[word], : len(others[word])] = torch.tensor([numbers[other] for other in others[word]])
    vectors = np.stack([np.zeros(ENTRIES), *(_vector(*word) for word in words)]).astype(np.float32)
    about: Any = {"words": tuple(word for _, word in numbers), "table": torch.from_numpy(vectors), "swaps": swaps}
    return _Lexicon(Sentences((places, ENTRIES), -1.0, 1.0, labels=places, **about), numbers)


def _all_synonyms(place: Path, languages: set[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Read by language which words may stand for which; by "" those of synonyms.tsv."""
    found = {"": _synonyms(place / SYNONYMS)} if (place / SYNONYMS).exists() else {}
    for path in sorted(path for path in (place / OWN_SYNONYMS).glob("*.tsv") if path.name[0] != "."):
        if path.stem not in languages:
            raise InputError(
                f"parallel-text: {path} is for no file of train, val or test; legal: a name of one of"
                f" {', '.join(f'{name}.tsv' for name in sorted(languages))}"
            )
        found[path.stem] = _synonyms(path)
    return found


def _synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """Read which words may stand for which; a word that is repeated must have the words that it had."""
    found: dict[str, tuple[str, ...]] = {}
    for row, line in _rows(path):
        word, tab, others = line.partition("\t")
        one, several = words_of(word), tuple(dict.fromkeys(words_of(others)))
        if not tab or len(one) != 1 or not several:
            raise InputError(f"parallel-text: {path}, line {row}: must be word<TAB>other words")
        before = found.setdefault(one[0], several)
        if set(before) != set(several):
            raise InputError(
                f"parallel-text: {path}, line {row}: {one[0]!r} has the words {' '.join(several)}, on a line above"
                f" {' '.join(before)}; legal: one line for a word, or the same words again"
            )
    return found


@lru_cache(maxsize=100_000)
def _vector(language: str, word: str) -> np.ndarray:
    """Return the vector of a word: the sum of those of its trigrams, and one of its own, of length one: [32].

    The one of its own belongs to the language where there is one, and so differs from that of the same spelling.
    """
    parts = [_trigram(part) for part in sorted(trigrams(word))]
    own = hashed(f"word {language}/{word}" if language else f"word {word}", ENTRIES)
    return unit(steps_of((np.sum(parts, axis=0) / len(parts) ** 0.5 + own)[None]))[0]


@lru_cache(maxsize=200_000)
def _trigram(part: str) -> np.ndarray:
    return hashed(f"trigram {part}", ENTRIES)


def _padded(numbers: list[int], places: int) -> list[int]:
    return numbers + [0] * (places - len(numbers))


def _drawn(stream: str) -> int:
    return int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big")


PRESETS = {"parallel-text": ParallelText()}
