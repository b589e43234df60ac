"""CIFAR-FS and FC100: two few-shot splits of the classes of CIFAR-100, 3x32x32, 600 images a class.

CIFAR-FS: Bertinetto et al. 2019, arXiv 1805.08136 (64/16/20 classes drawn at random). FC100: Oreshkin et al.
2018, arXiv 1805.10123 (60/20/20 classes, split by superclass). Pixels: Krizhevsky 2009.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from robustbench_meta import episodes, untrusted
from robustbench_meta.downloads import Member, Source, located
from robustbench_meta.episodes import Pool
from robustbench_meta.types import Box, Episodes, InputError, Spec, Split

SplitSet = Literal["cifar-fs", "fc100"]
FOLDER = "cifar-100-binary"
FILES, NAMES = ("train.bin", "test.bin"), "fine_label_names.txt"
RECORD = 2 + 3 * 32 * 32  # coarse label, fine label, pixels in channel-height-width order
LABELS, LARGEST_CLASS = 100, 600
LARGEST_NAMES = 1 << 16  # bytes of the list of classes


@dataclass(frozen=True)
class Cifar:
    """CIFAR-100's binary version, split as `split_set` says; a class is its train and its test images together.

    26 pairs of CIFAR-100's images are pixel-identical. 9 lie within one class, so that a task may rarely hold an
    image twice; 15 straddle two parts of CIFAR-FS (7 of them touch test) and 3 straddle two of FC100. They are
    kept, as in the published protocols.

    `unseen_by` names the other split set: every class that it trains or validates on is left out, and so is every
    image that such a class holds too. Both split all 100 classes, so what is left of any split belongs to the
    test classes of the other set: of FC100's test five, all of CIFAR-FS's test.
    """

    split_set: SplitSet
    unseen_by: str = ""
    root: Path | None = None

    space: ClassVar[Box] = Box((3, 32, 32))
    default_network: ClassVar[str] = "conv4"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 32}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            path="cifar-100-binary.tar.gz",
            checksum="sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            size=168_513_733,
            members=(
                Member(
                    f"{FOLDER}/train.bin", "sha256:f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"
                ),
                Member(f"{FOLDER}/test.bin", "sha256:d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
                Member(f"{FOLDER}/{NAMES}"),
            ),
        ),
    )

    duplicates: ClassVar[bool] = True  # CIFAR-100 holds nine images twice in one class

    def __post_init__(self) -> None:
        if not self.unseen_by:
            return
        legal = [name for name in _class_splits() if name != self.split_set]
        if self.unseen_by not in legal:
            raise InputError(f"unseen_by={self.unseen_by!r}: must be empty or {' or '.join(legal)}")

    @property
    def name(self) -> str:
        return self.split_set

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, each fixed by (family, split, seed, ways, number) alone."""
        return episodes.sample(self.pool(split), spec, indices, stream=f"{self.name}/{split}/{seed}")

    def classes(self, split: Split) -> list[str]:
        """Return the class names of `split`, as published, less those that `unseen_by` has seen; needs no data."""
        seen = self._seen()
        return [name for name in _class_splits()[self.split_set][split] if name not in seen]

    def pool(self, split: Split) -> Pool:
        """Return every image of `split`, read once per process."""
        paths = [located(self.root, f"{FOLDER}/{name}", family=self.name) for name in (*FILES, NAMES)]
        folder = paths[0].parent
        return _pool(folder, tuple(self.classes(split)), self._seen())

    def _seen(self) -> tuple[str, ...]:
        """Return the classes that `unseen_by` trains or validates on."""
        parts = _class_splits()[self.unseen_by] if self.unseen_by else {}
        return (*parts.get("train", ()), *parts.get("val", ()))


@lru_cache(maxsize=6)
def _pool(folder: Path, names: tuple[str, ...], seen: tuple[str, ...]) -> Pool:
    """Gather the images of the classes `names`, class by class, less those that a class of `seen` holds too."""
    try:
        every = untrusted.content(folder / NAMES, LARGEST_NAMES).decode("utf-8", "replace").split()
    except ValueError as error:
        raise InputError(f"{folder / NAMES}: {error}") from None
    if len(every) != LABELS or not {*names, *seen} <= set(every):
        raise InputError(f"{folder / NAMES}: not the {LABELS} class names of CIFAR-100")
    files = [_records(folder / name) for name in FILES]
    known = {image.tobytes() for name in seen for image in _of_class(files, every.index(name))}
    classes = [_unknown(_of_class(files, every.index(name)), known) for name in names]
    for name, images in zip(names, classes, strict=True):
        if not 0 < len(images) <= LARGEST_CLASS:
            raise InputError(f"{folder}: {len(images)} images of class {name}, must be from 1 to {LARGEST_CLASS}")
    pixels = np.concatenate([_ordered(images) for images in classes]).reshape(-1, 3, 32, 32)
    starts = np.cumsum([0, *(len(images) for images in classes)])
    return Pool(torch.from_numpy(pixels), tuple(starts.tolist()), names)


def _of_class(files: list[np.ndarray], label: int) -> np.ndarray:
    """Return the pixels of one class: uint8 [n, 3072]."""
    return np.concatenate([rows[rows[:, 1] == label, 2:] for rows in files])


def _unknown(images: np.ndarray, known: set[bytes]) -> np.ndarray:
    """Leave out the images whose bytes are in `known`."""
    return images[[image.tobytes() not in known for image in images]] if known else images


def _records(path: Path) -> np.ndarray:
    """Map a file of records as uint8 [n, 3074], labels checked."""
    size = path.stat().st_size
    if size == 0 or size % RECORD:
        raise InputError(f"{path}: {size} bytes, must be a positive multiple of {RECORD}, the size of a record")
    rows = np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, RECORD)
    if rows[:, 1].max() >= LABELS:
        raise InputError(f"{path}: a label of {rows[:, 1].max()}, must be below {LABELS}")
    return rows


def _ordered(images: np.ndarray) -> np.ndarray:
    """Sort the images of a class by the hash of their pixels.

    Copies of CIFAR-100 keep images in different orders; sorted, they give the same episodes.
    """
    return images[np.argsort([hashlib.sha256(image.tobytes()).digest() for image in images], kind="stable")]


@lru_cache(maxsize=1)
def _class_splits() -> dict[str, dict[str, list[str]]]:
    text = resources.files("robustbench_meta.tasks").joinpath("class_splits.json").read_text(encoding="utf-8")
    splits: dict[str, dict[str, list[str]]] = json.loads(text)
    return splits


PRESETS = {"cifar-fs": Cifar("cifar-fs"), "fc100": Cifar("fc100")}
