"""Make the word table of the family clinc150: one vector a word, and the words that may stand in its place.

    python benchmarks/word_table.py --data-root data [--check]

Vectors come from the sentences of the training domains alone. A word's row of positive pointwise mutual information
with the words around it, up to WINDOW away, is brought to WIDTH dimensions by a singular value decomposition, with
the square roots of the singular values and smoothed contexts (Levy, Goldberg and Dagan 2015, "Improving distributional
similarity with lessons learned from word embeddings", TACL 3). A word that those sentences hold fewer than LEAST times
takes the mean of the words most of whose letter trigrams it shares, and a part of its own. Vectors have length one, and
directions that whole numbers up to 127 can give.

What may stand in a word's place are its nearest words of the training domains, at most MOST: at least CLOSEST by
cosine, met in the same intents (cosine of their counts by intent at least SHARED), neither stop words nor numbers, and
with its ending (-s, -ed, -ing, -ly), which keeps the part of speech more often than not. A decomposition differs in
its last digits between machines, so the table is committed; --check says how far one that is made here lies from it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustbench_meta.tasks import clinc150
from robustbench_meta.tasks.clinc150 import Clinc150, Table

WIDTH, WINDOW, LEAST = 64, 2, 3
CLOSEST, SHARED, MOST = 0.5, 0.4, 8
SMOOTHED = 0.75  # the power that context frequencies are raised to
ENDINGS = ("ing", "ed", "ly", "s")
NEAREST, OWN = 5, 0.3  # words that a rare one is the mean of, and the share of a part of its own
FOLDER = Path(clinc150.__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--check", action="store_true", help="compare with the committed table, and write nothing")
    args = parser.parse_args(argv)
    made = build(args.data_root / clinc150.FILE)
    if not args.check:
        words, vectors = clinc150.written(made)
        (FOLDER / clinc150.WORDS).write_bytes(words)
        (FOLDER / clinc150.VECTORS).write_bytes(vectors)
        print(f"TABLE_SHA256 = {hashlib.sha256(words + vectors).hexdigest()!r}")
        swappable = [len(row) for row in made.swaps if row]
        print(f"{len(made.words)} words, {len(swappable)} of which may be replaced, by {np.mean(swappable):.1f} each")
        return 0
    held = clinc150.table()
    if made.words != held.words:
        print("the words differ")
        return 1
    cosine = np.sum(made.vectors * held.vectors, axis=1)[1:]
    same = np.mean([set(a) == set(b) for a, b in zip(made.swaps, held.swaps, strict=True)])
    print(f"least cosine of a word with its committed self {cosine.min():.4f}; {100 * same:.1f} % have the same swaps")
    return 0 if cosine.min() > 0.99 else 1


def build(path: Path) -> Table:
    """Make the table from the publisher's file."""
    sentences = clinc150.sentences(path)
    every = Counter(word for of in sentences.values() for text in of for word in clinc150.words_of(text))
    words = sorted(every)
    base = [clinc150.words_of(text) for name in Clinc150().classes("train") for text in sentences[name.split("/")[1]]]
    seen = Counter(word for sentence in base for word in sentence)
    known = [word for word in words if seen[word] >= LEAST]
    vectors = dict(zip(known, _decomposed(base, known), strict=True))
    spelled = _spelled([word for word in words if word not in vectors], vectors)
    every_vector = np.stack([vectors[word] if word in vectors else spelled[word] for word in words])
    matrix = clinc150.unit(clinc150.steps_of(every_vector))
    if len(np.unique(matrix, axis=0)) != len(words):
        raise SystemExit("two words have the same vector")
    swaps = _swaps(words, known, matrix, _by_intent(sentences, known))
    return Table(("", *words), np.concatenate([np.zeros((1, WIDTH), np.float32), matrix]), swaps)


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


def _spelled(rare: list[str], vectors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give words that were not met the mean of those that are spelled like them."""
    parts = {word: _trigrams(word) for word in vectors}
    made = {}
    for word in rare:
        own = _trigrams(word)
        alike = {other: len(own & held) / len(own | held) for other, held in parts.items() if own & held}
        best = sorted(alike, key=lambda other: (-alike[other], other))[:NEAREST] or sorted(vectors)[:NEAREST]
        mean = np.sum([alike.get(other, 1.0) * vectors[other] for other in best], axis=0)
        # A part of its own, drawn from its letters, so that no two words are one.
        own_part = np.random.default_rng(list(word.encode())).normal(size=WIDTH)
        made[word] = mean / np.linalg.norm(mean) + OWN * own_part / np.linalg.norm(own_part)
    return made


def _trigrams(word: str) -> set[str]:
    framed = f"<{word}>"
    return {framed[i : i + 3] for i in range(len(framed) - 2)}


def _by_intent(sentences: dict[str, list[str]], known: list[str]) -> dict[str, np.ndarray]:
    """Count how often each word is met in every training intent, scaled to length 1."""
    names = [name.split("/")[1] for name in Clinc150().classes("train")]
    counts = {word: np.zeros(len(names)) for word in known}
    for number, name in enumerate(names):
        for text in sentences[name]:
            for word in clinc150.words_of(text):
                if word in counts:
                    counts[word][number] += 1
    return {word: count / np.linalg.norm(count) for word, count in counts.items()}


def _swaps(
    words: list[str], known: list[str], matrix: np.ndarray, met: dict[str, np.ndarray]
) -> tuple[tuple[int, ...], ...]:
    """List for the padding and for every word the numbers of those that may replace it."""
    place = {word: number for number, word in enumerate(words)}
    legal = [word for word in known if _replaceable(word)]
    candidates = np.array([place[word] for word in legal])
    made: list[tuple[int, ...]] = [()] * (len(words) + 1)
    for word in legal:
        cosine = matrix[candidates] @ matrix[place[word]]
        near = [candidates[i] for i in np.argsort(-cosine, kind="stable") if cosine[i] >= CLOSEST]
        alike = [
            number
            for number in near
            if words[number] != word
            and _ending(words[number]) == _ending(word)
            and met[words[number]] @ met[word] >= SHARED
        ]
        made[place[word] + 1] = tuple(int(number) + 1 for number in alike[:MOST])
    return tuple(made)


def _replaceable(word: str) -> bool:
    return word not in clinc150.stop_words() and len(word) > 2 and word.isalpha()


def _ending(word: str) -> str:
    return next((ending for ending in ENDINGS if word.endswith(ending) and not word.endswith("ss")), "")


if __name__ == "__main__":
    sys.exit(main())
