"""Strokes: characters drawn by code, 28x28 grey, with as many classes as asked for and nothing to download.

An alphabet owns a few strokes (cubic Bezier curves); each of its characters puts some of them together, so
that characters of one alphabet are easily confused. A sample is one writer's version: another slant and size,
shaken control points, another pen.

Shapes: C classes, N samples a class, K strokes a character, 4 control points, 2 coordinates in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from robustbench_meta import episodes
from robustbench_meta.downloads import Source
from robustbench_meta.draws import uniform
from robustbench_meta.episodes import Pool
from robustbench_meta.types import Box, Episodes, InputError, Spec, Split

SIDE = 28
ALPHABET = 20  # characters of one alphabet
OWNED, USED = 8, 3  # strokes an alphabet owns, strokes a character uses
SHARE = 100  # classes drawn at a time
CURVE = 48  # points along a stroke, less than a pixel apart
PAD = 6  # margin around the canvas into which strokes that leave it are drawn, then cut off


@dataclass(frozen=True)
class Strokes:
    """Characters by the class number: train, val and test draw from seeds of their own, so they share no class.

    `train`, `val` and `test` are numbers of classes; more classes or samples change none that is there.
    """

    train: int = 400
    val: int = 100
    test: int = 200
    samples: int = 40  # per class
    root: Path | None = None  # not read: there is nothing to load

    name: ClassVar[str] = "strokes"
    space: ClassVar[Box] = Box((1, SIDE, SIDE))
    default_network: ClassVar[str] = "conv4"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 32}
    sources: ClassVar[tuple[Source, ...]] = ()

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, each fixed by (family, split, seed, ways, number) alone."""
        return episodes.sample(self.pool(split), spec, indices, stream=f"{self.name}/{split}/{seed}")

    def classes(self, split: Split) -> list[str]:
        """Return names such as test-3-07: split, alphabet, character."""
        return [f"{split}-{c // ALPHABET}-{c % ALPHABET:02d}" for c in range(self._count(split))]

    def pool(self, split: Split) -> Pool:
        """Return every image of `split`, drawn once per process."""
        return _pool(split, self._count(split), self.samples, tuple(self.classes(split)))

    def _count(self, split: Split) -> int:
        count: int = getattr(self, split)
        for field, value in ((split, count), ("samples", self.samples)):
            if value < 2:
                raise InputError(f"{field}={value}: must be at least 2")
        return count


@lru_cache(maxsize=6)
def _pool(split: Split, classes: int, samples: int, names: tuple[str, ...]) -> Pool:
    shares = [_drawn(split, range(first, min(first + SHARE, classes)), samples) for first in range(0, classes, SHARE)]
    images = torch.from_numpy(np.concatenate(shares)).view(-1, 1, SIDE, SIDE)
    return Pool(images, tuple(range(0, classes * samples + 1, samples)), names)


def _drawn(split: Split, numbers: range, samples: int) -> np.ndarray:
    """Draw the classes `numbers`: uint8 [C·N, 28, 28]."""
    alphabets = {number // ALPHABET: _alphabet(split, number // ALPHABET) for number in numbers}
    characters = np.stack([alphabets[number // ALPHABET][number % ALPHABET] for number in numbers])
    draws = np.stack([uniform(f"strokes/{split}/class/{number}", (samples, DRAWS)) for number in numbers])
    curves, radius, ink = _written(characters[:, None], draws)
    return _rastered(curves.reshape(-1, USED, 4, 2), radius.reshape(-1, 1), ink.reshape(-1, 1, 1))


def _alphabet(split: Split, alphabet: int) -> np.ndarray:
    """Make the characters of one alphabet: control points [ALPHABET, K, 4, 2] around the origin."""
    owned = 11 * uniform(f"strokes/{split}/alphabet/{alphabet}", (OWNED, 4, 2))
    order = np.argsort(uniform(f"strokes/{split}/order/{alphabet}", (len(CHARACTERS),)), kind="stable")
    moved = 3 * uniform(f"strokes/{split}/place/{alphabet}", (ALPHABET, USED, 1, 2))
    made: np.ndarray = owned[CHARACTERS[order[:ALPHABET]]] + moved
    return made


CHARACTERS = np.array(list(combinations(range(OWNED), USED)))
DRAWS = 4 + 2 + 2 * USED + 8 * USED + 2


def _written(characters: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give each sample its writer: control points [C,N,K,4,2] in pixels, pen radius [C,N], ink [C,N]."""
    matrix, shift, apart, shaken, pen = np.split(draws, np.cumsum([4, 2, 2 * USED, 8 * USED]), axis=-1)
    apart, shaken = (apart.reshape(*draws.shape[:2], USED, 1, 2), shaken.reshape(*draws.shape[:2], USED, 4, 2))
    loose = characters + 1.7 * apart + 2.2 * shaken
    a, b, c, d = np.moveaxis(0.3 * matrix, -1, 0)[..., None, None]
    x = (1 + a) * loose[..., 0] + b * loose[..., 1] + 2.5 * shift[..., 0, None, None]
    y = c * loose[..., 0] + (1 + d) * loose[..., 1] + 2.5 * shift[..., 1, None, None]
    middle = (SIDE - 1) / 2
    return (np.stack([x, y], axis=-1) + middle, 0.95 + 0.35 * pen[..., 0], 0.75 + 0.25 * pen[..., 1])


def _rastered(curves: np.ndarray, radius: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Draw each row of curves [n,K,4,2] with a round, anti-aliased pen: uint8 [n,28,28]."""
    # Sums, products and square roots only, each rounded alike everywhere: no sine, no matrix product.
    wide = SIDE + 2 * PAD
    canvas = np.zeros((len(curves), wide * wide), dtype=np.float32)
    row = np.arange(len(curves))[:, None]
    dy, dx = (step.reshape(1, -1) for step in np.mgrid[-2:3, -2:3])
    for t in np.arange(CURVE) / (CURVE - 1):
        s = 1 - t
        for p in np.moveaxis(curves, 1, 0):
            point = s * s * s * p[:, 0] + 3 * s * s * t * p[:, 1] + 3 * s * t * t * p[:, 2] + t * t * t * p[:, 3]
            point = np.clip(point, -3, SIDE + 2).astype(np.float32)
            near = np.rint(point).astype(np.int64)
            across, down = near[:, :1] + dx, near[:, 1:] + dy
            off = np.sqrt((across - point[:, :1]) ** 2 + (down - point[:, 1:]) ** 2)
            at = (down + PAD) * wide + across + PAD
            canvas[row, at] = np.maximum(canvas[row, at], np.clip(radius + 0.5 - off, 0, 1))
    inside = canvas.reshape(-1, wide, wide)[:, PAD:-PAD, PAD:-PAD]
    return np.rint(255 * ink * inside).astype(np.uint8)


PRESETS = {"strokes": Strokes()}
