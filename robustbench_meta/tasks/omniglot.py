"""Omniglot: 1623 handwritten characters of 50 alphabets by 20 writers, 28x28, ink 1 on paper 0.

Lake, Salakhutdinov, Tenenbaum 2015, Science 350, 1332-1338. Read from the publisher's zips, whichever are there;
a character that lies in two of them counts once.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from robustbench_meta import episodes
from robustbench_meta.downloads import Source, data_root
from robustbench_meta.episodes import Pool
from robustbench_meta.types import Box, Episodes, InputError, Spec, Split

ADDRESS = "https://github.com/brendenlake/omniglot/raw/master/python"
EVALUATION = "images_evaluation.zip"
# Alphabets of the background set that are never trained on, whichever zips are there.
TEST = {"Japanese_(katakana)", "Sanskrit", "Tagalog"}
VAL = {"Early_Aramaic", "Futurama", "Gujarati", "Hebrew", "Tifinagh"}
PAGE, SIDE = 105, 28
LARGEST_IMAGE = 1 << 16  # bytes of one PNG
MOST_FILES = 50_000  # in an archive; the publisher has 19 280 drawings in the larger one


@dataclass(frozen=True)
class Omniglot:
    """Characters named Alphabet/character, split by alphabet, by a rule that does not depend on what is there.

    test: the 20 alphabets of images_evaluation.zip, with katakana, Sanskrit and Tagalog; val: Early_Aramaic,
    Futurama, Gujarati, Hebrew and Tifinagh; train: every other. So the two small sets alone serve all three
    splits, and no checkpoint has met a test alphabet, whichever zips it was trained on. This is not the random
    1200/423 split of earlier papers. The 20-way runs of all_runs.zip name no alphabets and are not read.
    """

    root: Path | None = None

    name: ClassVar[str] = "omniglot"
    space: ClassVar[Box] = Box((1, SIDE, SIDE))
    default_network: ClassVar[str] = "conv4"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 64}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url=f"{ADDRESS}/images_background.zip",
            path="omniglot/images_background.zip",
            checksum="md5:68d2efa1b9178cc56df9314c21c6e718",
        ),
        Source(
            url=f"{ADDRESS}/{EVALUATION}",
            path=f"omniglot/{EVALUATION}",
            checksum="md5:6b91aef0f799c5bb55b94e3f2daec811",
        ),
        Source(
            url=f"{ADDRESS}/images_background_small1.zip",
            path="omniglot/images_background_small1.zip",
            checksum="sha256:f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
            size=1_319_022,
            optional=True,
        ),
        Source(
            url=f"{ADDRESS}/images_background_small2.zip",
            path="omniglot/images_background_small2.zip",
            checksum="sha256:3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
            size=1_580_917,
            optional=True,
        ),
    )

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, each fixed by (family, split, seed, ways, number) alone."""
        return episodes.sample(self.pool(split), spec, indices, stream=f"{self.name}/{split}/{seed}")

    def classes(self, split: Split) -> list[str]:
        """Return the names, such as Greek/character01, of the characters of `split` that are there."""
        return list(self.pool(split).names)

    def pool(self, split: Split) -> Pool:
        """Return every image of `split`, read once per process."""
        root = data_root(self.root, family=self.name)
        zips = tuple(path for source in self.sources if (path := root / source.path).is_file())
        if not zips:
            wanted = ", ".join(Path(source.path).name for source in self.sources)
            raise InputError(f"omniglot: {root / 'omniglot'} holds none of {wanted}; run: rbm data get omniglot")
        return _pool(zips, split)


@lru_cache(maxsize=6)
def _pool(zips: tuple[Path, ...], split: Split) -> Pool:
    characters: dict[str, np.ndarray] = {}
    for path in zips:
        try:
            with zipfile.ZipFile(path) as archive:
                for name, files in _listed(archive, path.name, split).items():
                    if name not in characters:
                        characters[name] = _shrunk(np.stack([_read(archive, file) for file in sorted(files)]))
        except Exception as error:  # zipfile, zlib and Pillow raise what they like on a broken file
            raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not characters:
        raise InputError(f"omniglot: no alphabet of split {split} in {', '.join(path.name for path in zips)}")
    names = tuple(sorted(characters))
    starts = np.cumsum([0, *(len(characters[name]) for name in names)])
    images = torch.from_numpy(np.concatenate([characters[name] for name in names]))
    return Pool(images, tuple(starts.tolist()), names)


def _listed(archive: zipfile.ZipFile, zip_name: str, split: Split) -> dict[str, list[str]]:
    """List the PNG files of every character of `split`, by its name; a path is set/alphabet/character/file."""
    listed: dict[str, list[str]] = {}
    if len(archive.namelist()) > MOST_FILES:
        raise ValueError(f"{len(archive.namelist())} files, more than {MOST_FILES}")
    for file in archive.namelist():
        parts = file.split("/")
        if len(parts) == 4 and parts[3].endswith(".png") and _split_of(parts[1], zip_name) == split:
            listed.setdefault(f"{parts[1]}/{parts[2]}", []).append(file)
    return listed


def _split_of(alphabet: str, zip_name: str) -> Split:
    if zip_name == EVALUATION or alphabet in TEST:
        return "test"
    return "val" if alphabet in VAL else "train"


def _read(archive: zipfile.ZipFile, file: str) -> np.ndarray:
    """Read one PNG as ink: float32 [105,105] of 0 and 1."""
    if archive.getinfo(file).file_size > LARGEST_IMAGE:
        raise ValueError(f"{file} has more than {LARGEST_IMAGE} bytes")
    with Image.open(io.BytesIO(archive.read(file)), formats=["PNG"]) as image:
        if image.size != (PAGE, PAGE):
            raise ValueError(f"{file} has {image.width}x{image.height} pixels, must have {PAGE}x{PAGE}")
        ink: np.ndarray = 1 - np.asarray(image.convert("1"), dtype=np.float32)
    return ink


def _shrunk(ink: np.ndarray) -> np.ndarray:
    """Average ink [n,105,105] over 28x28 equal squares of 3.75 pixels: uint8 [n,1,28,28], 255 full ink."""
    # In quarters of a pixel every overlap is a whole number, so the sums are exact in any order of addition.
    edges = 15 * np.arange(SIDE)[:, None]
    pixel = 4 * np.arange(PAGE)[None]
    overlap = np.clip(np.minimum(edges + 15, pixel + 4) - np.maximum(edges, pixel), 0, 4).astype(np.float32)
    area = overlap @ ink @ overlap.T
    shrunk: np.ndarray = np.rint(area * 255 / 225).astype(np.uint8)[:, None]
    return shrunk


PRESETS = {"omniglot": Omniglot()}
