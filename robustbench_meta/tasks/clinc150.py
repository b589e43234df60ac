"""CLINC150: what people ask an assistant for, 150 intents of 10 domains with 150 sentences each.

Larson et al. 2019, "An evaluation dataset for intent classification and out-of-scope prediction", EMNLP-IJCNLP; CC BY
3.0. Whole domains are held out. A sentence is a sequence of word vectors of one frozen table, the same for every
learner: of a table of its own a learner could make the steps so long that no budget reaches the next word. The vectors
come from the training domains (words that are rare there have one by their spelling); what may stand in the place of a
word are neighbours that WordNet gives as synonyms (`benchmarks/word_table.py`; wordnet_license.txt is WordNet's).

In Linf the adversary moves vectors, which then are no words any more: no two words lie closer than 0.05, so whoever
looks up the nearest word undoes every eps below 0.025. Robustness there says how smooth an encoder is; in words, what
somebody who writes can do.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from robustbench_meta import episodes, untrusted
from robustbench_meta.downloads import Source, located
from robustbench_meta.episodes import Pool
from robustbench_meta.spelling import steps_of, unit
from robustbench_meta.types import Episodes, InputError, Sentences, Spec, Split

FILE = "clinc150/data_full.json"
PARTS = ("train", "val", "test")  # of the file: each intent's 100, 20 and 30 sentences, pooled here
LARGEST = 1 << 24  # bytes of the file
LONGEST = 20  # words of a sentence that are read; 99.6 % of the sentences have no more
DOMAINS: Mapping[Split, tuple[str, ...]] = {
    "train": ("auto_and_commute", "banking", "kitchen_and_dining", "meta", "utility", "work"),
    "val": ("home", "small_talk"),
    "test": ("credit_cards", "travel"),
}
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
FULL = 2**15 - 1  # what 1.0 is in a pool
VECTORS, WORDS, KNOWN = "clinc150_vectors.bin", "clinc150_words.tsv", "clinc150_known.txt"
TABLE_SHA256 = "03a353dca87bbc9fc21bd6d76edc4cc80ab7bc9200e9c236497709e5d56adcf1"


@dataclass(frozen=True)
class Clinc150:
    """Classes named domain/intent; sentences [20, 64] in [-1, 1], one unit vector a word, then zeros.

    Words are lower case without marks. Sentences that occur twice in one intent are read once.
    """

    root: Path | None = None

    name: ClassVar[str] = "clinc150"
    default_eps: ClassVar[tuple[float, ...]] = (0.005, 0.01)
    default_network: ClassVar[str] = "words-conv"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 128}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://raw.githubusercontent.com/clinc/oos-eval/828f8093932c8fe6ca7936c3d2e52903b1c523de/data/data_full.json",
            path=FILE,
            checksum="sha256:36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
            size=2_495_390,
        ),
    )

    @property
    def space(self) -> Sentences:
        return _space()

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, each fixed by (family, split, seed, ways, number) alone."""
        return episodes.sample(self.pool(split), spec, indices, stream=f"{self.name}/{split}/{seed}")

    def classes(self, split: Split) -> list[str]:
        """Return the names of the classes of `split`, such as travel/book_hotel; needs no data."""
        return [f"{domain}/{intent}" for domain in DOMAINS[split] for intent in _intents()[domain]]

    def pool(self, split: Split) -> Pool:
        """Return every sentence of `split`, read once per process."""
        return _pool(located(self.root, FILE, family=self.name), tuple(self.classes(split)))


@dataclass(frozen=True, eq=False)
class Table:
    """Words, of which number 0 is the padding, their vectors [V,64] and by which words each may be replaced.

    `known` numbers the words whose vectors come from their use; all others have theirs by their spelling.
    """

    words: tuple[str, ...]
    vectors: np.ndarray
    swaps: tuple[tuple[int, ...], ...]
    known: tuple[int, ...]


def words_of(text: str) -> list[str]:
    """Split a sentence into lower-case words and numbers, without accents and marks."""
    plain = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).encode("ascii", "ignore").decode()
    return WORD.findall(plain.lower())


def sentences(path: Path) -> dict[str, list[str]]:
    """Read the sentences of every intent, each once, in the order of the file."""
    try:
        parts = untrusted.parse(untrusted.content(path, LARGEST))
        found: dict[str, dict[str, None]] = {}
        for part in PARTS:
            if part not in parts:
                raise ValueError(f"no part {part}, must hold {', '.join(PARTS)}")
            for text, intent in parts[part]:
                if not isinstance(text, str) or not isinstance(intent, str):
                    raise ValueError(f"{part} holds {[text, intent]!r}, must hold [sentence, intent]")
                found.setdefault(intent, {})[text] = None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the data of CLINC150: {' '.join(str(error).split())[:100]}") from None
    return {intent: list(texts) for intent, texts in found.items()}


@lru_cache(maxsize=6)
def _pool(path: Path, names: tuple[str, ...]) -> Pool:
    held, given = table(), sentences(path)
    number = {word: n for n, word in enumerate(held.words)}
    steps = torch.from_numpy(np.rint(held.vectors * FULL).astype(np.int16))
    rows: list[list[list[int]]] = []
    for name in names:
        of = given.get(name.split("/")[1], [])
        try:
            numbered = [[number[word] for word in words_of(text)[:LONGEST]] for text in of]
        except KeyError as error:
            raise InputError(f"{path}: the word {error} of {name} is not in the table of CLINC150's words") from None
        # Two texts may be one sequence of words; an empty one says nothing.
        rows.append([list(row) for row in dict.fromkeys(tuple(one) for one in numbered if one)])
        if not rows[-1]:
            raise InputError(f"{path}: no sentence of {name}")
    starts = np.cumsum([0, *map(len, rows)])
    padded = torch.tensor([row + [0] * (LONGEST - len(row)) for of in rows for row in of])
    return Pool(steps[padded], tuple(starts.tolist()), names, full=FULL)


@cache
def _space() -> Sentences:
    held = table()
    widest = max(map(len, held.swaps))
    swaps = torch.tensor([[*row, *[-1] * (widest - len(row))] for row in held.swaps])
    vectors = torch.from_numpy(np.rint(held.vectors * FULL)).float() / FULL
    about: Any = {"words": held.words, "table": vectors, "swaps": swaps, "known": held.known}
    return Sentences((LONGEST, vectors.shape[1]), -1.0, 1.0, **about)


@cache
def table() -> Table:
    """Return the committed table; refuse it where its files are not those that were committed."""
    folder = resources.files("robustbench_meta.tasks")
    words, vectors, known = (folder.joinpath(name).read_bytes() for name in (WORDS, VECTORS, KNOWN))
    if (found := hashlib.sha256(words + vectors + known).hexdigest()) != TABLE_SHA256:
        raise InputError(f"clinc150: the word table has SHA-256 {found[:12]}…, must be {TABLE_SHA256[:12]}…")
    return parsed(words, vectors, known)


def parsed(words: bytes, vectors: bytes, known: bytes) -> Table:
    lines = [line.split("\t") for line in words.decode().splitlines()]
    names = ("", *(line[0] for line in lines))
    number = {word: n for n, word in enumerate(names)}
    swaps = ((), *(tuple(number[word] for word in line[1].split()) for line in lines))
    steps = np.frombuffer(vectors, np.int8).reshape(len(lines), -1)
    matrix = np.concatenate([np.zeros((1, steps.shape[1]), np.float32), unit(steps)])
    return Table(names, matrix, swaps, tuple(number[word] for word in known.decode().split()))


def written(held: Table) -> tuple[bytes, bytes, bytes]:
    """Write a table as its three files: a line for each word with its swaps, bytes of steps, and the known words."""
    lines = [
        f"{word}\t{' '.join(held.words[n] for n in row)}\n" for word, row in zip(held.words, held.swaps, strict=True)
    ]
    known = "".join(f"{held.words[number]}\n" for number in held.known)
    return "".join(lines[1:]).encode(), steps_of(held.vectors[1:]).tobytes(), known.encode()


@cache
def _intents() -> dict[str, list[str]]:
    text = resources.files("robustbench_meta.tasks").joinpath("clinc150_domains.json").read_text(encoding="utf-8")
    found: dict[str, list[str]] = json.loads(text)
    return found


@cache
def stop_words() -> frozenset[str]:
    """Return words that are never replaced: they carry the form of a sentence, or turn its meaning round."""
    text = resources.files("robustbench_meta.tasks").joinpath("stop_words.txt").read_text(encoding="utf-8")
    return frozenset(text.split())


PRESETS = {"clinc150": Clinc150()}
