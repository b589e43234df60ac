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

from robustbench_meta import draws
from robustbench_meta.environments import Environment
from robustbench_meta.types import Episodes, InputError, Simulator, Spec, Split, TaskFamily

REFERENCE_TASKS = 20
# The first of these that a split's classes are large enough for is the one its fingerprint is taken with.
REFERENCE_SHAPES = ((5, 15), (5, 10), (5, 5), (1, 5), (1, 1))


@dataclass(frozen=True)
class Pool:
    """All items of one split, class by class: class c is images[starts[c]:starts[c + 1]], whole numbers [n,*X].

    `full` is the number that stands for 1: 255 for pixels in uint8, 2**15 for sound in int16.
    """

    images: Tensor
    starts: tuple[int, ...]
    names: tuple[str, ...]
    full: int = 255

    @property
    def smallest(self) -> int:
        """The number of images of the smallest class."""
        return min(end - start for start, end in zip(self.starts, self.starts[1:], strict=False))


def sample(pool: Pool, spec: Spec, indices: Sequence[int], *, stream: str) -> Episodes:
    """Return the tasks numbered `indices`, each fixed by (stream, ways, number) alone.

    Each class has one permutation of its images: queries come first, support after them, proxies from the
    end backwards. So the k-shot support is the first k of a larger one, and neither more shots nor more
    proxies move anything else. Inputs are float32, whole numbers over `pool.full`; items are ordered by class.
    Raises InputError where `spec` asks for more than the pool holds.
    """
    _check(pool, spec)
    rows = np.empty((len(indices), spec.ways, spec.queries + spec.shots + spec.proxies), dtype=np.int64)
    for task, index in enumerate(indices):
        rows[task] = _draw(pool, spec, f"{stream}/{spec.ways}/{int(index)}")
    found = np.searchsorted(pool.starts, rows[:, :, 0], side="right") - 1
    query, support, proxy = np.split(rows, [spec.queries, spec.queries + spec.shots], axis=2)
    return Episodes(
        support_x=_inputs(pool, support),
        support_y=_labels(support),
        query_x=_inputs(pool, query),
        query_y=_labels(query),
        proxy_x=_inputs(pool, proxy) if spec.proxies else None,
        proxy_y=_labels(proxy) if spec.proxies else None,
        classes=tuple(tuple(pool.names[one] for one in task) for task in found.tolist()),
    )


def batch(pool: Pool, count: int, *, stream: str) -> tuple[Tensor, Tensor]:
    """Draw `count` different images, or all that there are, fixed by `stream`: x [n,*X], class numbers [n]."""
    bits = draws.bits(stream)
    rows = torch.from_numpy(_permutation(bits, len(pool.images))[:count])
    return pool.images[rows].float() / pool.full, torch.bucketize(rows, torch.tensor(pool.starts[1:]), right=True)


def drawn(family: TaskFamily, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
    """Sample tasks from a family of anyone's, and refuse those on which no accuracy could be believed."""
    made = family.sample(split, spec, indices, seed=seed)
    check(made, family, spec, indices)
    return made


def check(episodes: Episodes, family: TaskFamily, spec: Spec, indices: Sequence[int]) -> None:
    """Refuse inputs outside the family's box, labels that are not the task's, and queries that stand in the support.

    Such a query is answered by memory. A family whose source holds honest copies says so: `duplicates = True`.
    """
    parts = {"support": (episodes.support_x, episodes.support_y), "query": (episodes.query_x, episodes.query_y)}
    if spec.proxies and episodes.proxy_x is not None and episodes.proxy_y is not None:
        parts["proxy"] = (episodes.proxy_x, episodes.proxy_y)
    for part, (x, y) in parts.items():
        each = {"support": spec.shots, "query": spec.queries, "proxy": spec.proxies}[part]
        _check_inputs(x, family, part, (len(indices), spec.ways * each, *family.space.shape))
        _check_labels(y, spec, part, (len(x), x.shape[1] * family.space.labels))
    if getattr(family, "duplicates", False):
        return
    for row, index in enumerate(indices):
        held = {item.tobytes() for item in episodes.support_x[row].numpy()}
        for part in parts.keys() - {"support"}:
            for number, item in enumerate(parts[part][0][row].numpy()):
                if item.tobytes() in held:
                    raise InputError(
                        f"family: {part} item {number} of task {index} is in its support too; they must share no image"
                        " (a family whose source holds copies says so by duplicates = True)"
                    )


def _check_inputs(x: Tensor, family: TaskFamily, part: str, shape: tuple[int, ...]) -> None:
    box = family.space
    if tuple(x.shape) != shape or not x.dtype.is_floating_point:
        raise InputError(f"family: {part}_x is {tuple(x.shape)} {x.dtype}, must be {shape} floating point")
    low, high = (float(bound) for bound in x.aminmax())
    if not (low >= box.low and high <= box.high) and not bool(((x >= box.low) & (x <= box.high)).all()):
        raise InputError(
            f"family: {part}_x has values from {low:g} to {high:g}, must lie in [{box.low:g}, {box.high:g}]"
        )


def _check_labels(y: Tensor, spec: Spec, part: str, shape: tuple[int, ...]) -> None:
    if y.shape != shape or y.dtype != torch.int64:
        raise InputError(f"family: {part}_y is {tuple(y.shape)} {y.dtype}, must be {tuple(shape)} int64")
    low, high = (int(bound) for bound in y.aminmax())
    if low < 0 or high >= spec.ways:
        raise InputError(f"family: {part}_y has labels from {low} to {high}, must be from 0 to {spec.ways - 1}")
    if part == "support" and (lacking := set(range(spec.ways)) - set.intersection(*map(set, y.tolist()))):
        raise InputError(f"family: support_y has no item of class {min(lacking)} in some task, must have every class")


def fingerprint(family: TaskFamily, split: Split) -> str:
    """Return the SHA-256 of a split's reference episodes: seed 0, the first 20 tasks, 5-way 5-shot, 15 queries.

    A split of fewer classes or smaller ones is hashed at the largest spec of REFERENCE_SHAPES that it allows.
    Hashed are the spec, then pixels in steps of 1/255 of the box, then labels: the same on every machine. Of learners
    that act also the worlds of their rollouts, in steps of 2**-12; and what a family `tells` beside its episodes.
    """
    ways = min(5, len(family.classes(split)))
    spec, episodes = _reference(family, split, ways)
    check(episodes, family, spec, range(REFERENCE_TASKS))
    digest = hashlib.sha256(f"{spec.ways}-way {spec.shots}-shot {spec.queries} queries".encode())
    for x, y in ((episodes.support_x, episodes.support_y), (episodes.query_x, episodes.query_y)):
        steps = (x.double() - family.space.low) * (255 / family.space.width)
        digest.update(steps.round().to(torch.uint8).numpy().tobytes())
        digest.update(y.numpy().astype("<i8").tobytes())
    if isinstance(family, (Simulator, Environment)):
        digest.update(f"{family.horizon} steps".encode())
        for _, value in sorted(family.trials(split, spec, range(REFERENCE_TASKS), seed=0).items()):
            digest.update((value.double() * 2**12).round().numpy().astype("<i8").tobytes())
    digest.update(getattr(family, "tells", "").encode())
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
    # Raw words and a stable sort: the methods of Generator (permutation, choice) may change between versions of numpy.
    bits = draws.bits(stream)
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


def _inputs(pool: Pool, rows: np.ndarray) -> Tensor:
    """Gather rows [T,W,k] as float32 [T, W·k, *X]."""
    taken = pool.images[torch.from_numpy(rows.reshape(-1))]
    tasks, ways, each = rows.shape
    return (taken.float() / pool.full).view(tasks, ways * each, *pool.images.shape[1:])


def _labels(rows: np.ndarray) -> Tensor:
    tasks, ways, each = rows.shape
    return torch.arange(ways).repeat_interleave(each).expand(tasks, -1).contiguous()
