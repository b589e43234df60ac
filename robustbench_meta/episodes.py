"""Class pools to seeded, nested, paired episodes, and the hash by which a split's episodes are known.

Shapes: n images of a pool, T tasks, W ways, S = W·shots support, Q = W·queries, P = W·proxies, X one input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustbench_meta.types import Episodes, InputError, Spec, Split, TaskFamily

REFERENCE_TASKS = 20
# The first of these that a split's classes are large enough for is the one its fingerprint is taken with.
REFERENCE_SHAPES = ((5, 15), (5, 10), (5, 5), (1, 5), (1, 1))


@dataclass(frozen=True)
class Pool:
    """All images of one split, class by class: class c is images[starts[c]:starts[c + 1]], uint8 [n,*X]."""

    images: Tensor
    starts: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def smallest(self) -> int:
        """The number of images of the smallest class."""
        return min(end - start for start, end in zip(self.starts, self.starts[1:], strict=False))


def sample(pool: Pool, spec: Spec, indices: Sequence[int], *, stream: str) -> Episodes:
    """Return the tasks numbered `indices`, each fixed by (stream, ways, number) alone.

    Each class has one permutation of its images: queries come first, support after them, proxies from the
    end backwards. So the k-shot support is the first k of a larger one, and neither more shots nor more
    proxies move anything else. Pixels are float32 in [0,1]; items are ordered by class.
    Raises InputError where `spec` asks for more than the pool holds.
    """
    _check(pool, spec)
    rows = np.empty((len(indices), spec.ways, spec.queries + spec.shots + spec.proxies), dtype=np.int64)
    for task, index in enumerate(indices):
        rows[task] = _draw(pool, spec, f"{stream}/{spec.ways}/{int(index)}")
    query, support, proxy = np.split(rows, [spec.queries, spec.queries + spec.shots], axis=2)
    return Episodes(
        support_x=_pixels(pool, support),
        support_y=_labels(support),
        query_x=_pixels(pool, query),
        query_y=_labels(query),
        proxy_x=_pixels(pool, proxy) if spec.proxies else None,
        proxy_y=_labels(proxy) if spec.proxies else None,
    )


def fingerprint(family: TaskFamily, split: Split) -> str:
    """Return the SHA-256 of a split's reference episodes: seed 0, the first 20 tasks, 5-way 5-shot, 15 queries.

    A split of fewer classes or smaller ones is hashed at the largest spec of REFERENCE_SHAPES that it allows.
    Hashed are the spec, then pixels in steps of 1/255 of the box, then labels: the same on every machine.
    """
    ways = min(5, len(family.classes(split)))
    spec, episodes = _reference(family, split, ways)
    digest = hashlib.sha256(f"{spec.ways}-way {spec.shots}-shot {spec.queries} queries".encode())
    for x, y in ((episodes.support_x, episodes.support_y), (episodes.query_x, episodes.query_y)):
        steps = (x.double() - family.space.low) * (255 / family.space.width)
        digest.update(steps.round().to(torch.uint8).numpy().tobytes())
        digest.update(y.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _reference(family: TaskFamily, split: Split, ways: int) -> tuple[Spec, Episodes]:
    for shots, queries in REFERENCE_SHAPES:
        spec = Spec(ways=ways, shots=shots, queries=queries)
        try:
            return spec, family.sample(split, spec, range(REFERENCE_TASKS), seed=0)
        except InputError as error:
            refusal = error
    raise refusal


def _check(pool: Pool, spec: Spec) -> None:
    """Refuse a spec that the pool cannot serve, judged by its smallest class whichever classes are drawn."""
    classes, smallest = len(pool.names), pool.smallest
    if classes < 2:
        raise InputError(f"classes: this split has {classes}; a task takes at least 2")
    if not 2 <= spec.ways <= classes:
        raise InputError(f"ways={spec.ways}: must be from 2 to {classes}, the number of classes of this split")
    for name, value, least in (("shots", spec.shots, 1), ("queries", spec.queries, 1), ("proxies", spec.proxies, 0)):
        if value < least:
            raise InputError(f"{name}={value}: must be at least {least}")
    if spec.queries + spec.shots + spec.proxies > smallest:
        asked = f"shots={spec.shots} queries={spec.queries}" + (f" proxies={spec.proxies}" if spec.proxies else "")
        raise InputError(f"{asked}: together at most {smallest}, the number of images of the smallest class")


def _draw(pool: Pool, spec: Spec, stream: str) -> np.ndarray:
    """Choose the classes of one task and the rows of their items: int64 [W, queries + shots + proxies]."""
    # Raw 64-bit words and a stable sort: numpy promises that the words of PCG64 never change, but lets the
    # methods of Generator (permutation, choice) change between versions.
    bits = np.random.PCG64(int.from_bytes(hashlib.sha256(stream.encode()).digest(), "big"))
    chosen = _permutation(bits, len(pool.names))[: spec.ways]
    ahead = spec.queries + spec.shots
    rows = np.empty((spec.ways, ahead + spec.proxies), dtype=np.int64)
    for way, label in enumerate(chosen):
        start, end = pool.starts[label], pool.starts[label + 1]
        order = start + _permutation(bits, end - start)
        rows[way, :ahead] = order[:ahead]
        rows[way, ahead:] = order[::-1][: spec.proxies]
    return rows


def _permutation(bits: np.random.PCG64, length: int) -> np.ndarray:
    return np.argsort(bits.random_raw(length), kind="stable")


def _pixels(pool: Pool, rows: np.ndarray) -> Tensor:
    """Gather rows [T,W,k] as float32 [T, W·k, *X] in [0,1]."""
    taken = pool.images[torch.from_numpy(rows.reshape(-1))]
    tasks, ways, each = rows.shape
    return (taken.float() / 255).view(tasks, ways * each, *pool.images.shape[1:])


def _labels(rows: np.ndarray) -> Tensor:
    tasks, ways, each = rows.shape
    return torch.arange(ways).repeat_interleave(each).expand(tasks, -1).contiguous()
