"""Any folder of images as a task family: one folder a class, or train, val and test folders of class folders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from robustbench_meta import episodes
from robustbench_meta.downloads import Source, data_root
from robustbench_meta.episodes import Pool
from robustbench_meta.types import SPLITS, Box, Episodes, InputError, Spec, Split

KINDS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class ImageFolder:
    """The images below root/folder, turned as their EXIF data say, cut to the middle square, `size` pixels wide.

    Where the folder holds train, val and test they are the splits. Otherwise each class falls into one by the
    hash of its name and `split_seed`, with the probabilities `split`: a class that is added moves no other.
    Transparent pixels are white.
    """

    folder: str = ""  # below the data root, or an absolute path
    size: int = 84
    channels: Literal[1, 3] = 3
    split: tuple[float, float, float] = (0.64, 0.16, 0.2)
    split_seed: int = 0
    root: Path | None = None

    name: ClassVar[str] = "image-folder"
    default_network: ClassVar[str] = "conv4"
    default_network_options: ClassVar[Mapping[str, Any]] = {"width": 32}
    sources: ClassVar[tuple[Source, ...]] = ()
    takes: ClassVar[str] = "a folder of images for each class"

    def __post_init__(self) -> None:
        object.__setattr__(self, "split", tuple(self.split))  # a recipe's list: fields must be hashable
        if self.size < 8:
            raise InputError(f"size={self.size}: must be at least 8 pixels")
        if self.channels not in (1, 3):
            raise InputError(f"channels={self.channels}: must be 1 (grey) or 3 (colour)")
        if len(self.split) != 3 or not all(share >= 0 for share in self.split) or abs(sum(self.split) - 1) > 1e-6:
            raise InputError(f"split={self.split}: must be three shares of train, val and test that sum to 1")

    @property
    def space(self) -> Box:
        return Box((self.channels, self.size, self.size))

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, each fixed by (family, split, seed, ways, number) alone."""
        self._class_folders(split, least=2)
        return episodes.sample(self.pool(split), spec, indices, stream=f"{self.name}/{split}/{seed}")

    def classes(self, split: Split) -> list[str]:
        """Return the sorted names of the class folders of `split`."""
        return sorted(self._class_folders(split))

    def pool(self, split: Split) -> Pool:
        """Return every image of `split`, read once per process."""
        folders = self._class_folders(split)
        return _pool(tuple(sorted(folders.items())), self.size, self.channels)

    def _class_folders(self, split: Split, least: int = 1) -> dict[str, Path]:
        """Find the class folders of `split`, by name; there must be at least `least`."""
        parts = self._parts()
        if len(parts[split]) < least:
            fell = ", ".join(f"{len(parts[part])} {part}" for part in SPLITS)
            raise InputError(
                f"image-folder: {self._place()} has too few classes for {split} ({fell}; a task takes at least 2); make"
                f" train, val and test folders, or change split={self.split} or split_seed={self.split_seed}"
            )
        return parts[split]

    def _parts(self) -> dict[Split, dict[str, Path]]:
        place = self._place()
        tops = _folders(place)
        if set(tops) <= set(SPLITS):
            named = {part: _folders(place / part) if part in tops else [] for part in SPLITS}
            _refuse_shared_classes(named)
            return {part: {name: place / part / name for name in names} for part, names in named.items()}
        return {part: {name: place / name for name in tops if self._split_of(name) == part} for part in SPLITS}

    def _place(self) -> Path:
        absolute = Path(self.folder).is_absolute()
        advice = "the folder that holds a folder for each class"
        place = Path(self.folder) if absolute else data_root(self.root, family=self.name, advice=advice) / self.folder
        if not place.is_dir():
            raise InputError(f"image-folder: {place} is not a folder; name one that holds a folder for each class")
        if not _folders(place):
            raise InputError(f"image-folder: {place} is empty; it must hold a folder for each class")
        return place

    def _split_of(self, name: str) -> Split:
        digest = hashlib.sha256(f"image-folder/{self.split_seed}/{name}".encode()).digest()
        where = int.from_bytes(digest[:6], "big") / 2**48
        train, val, _ = self.split
        return "train" if where < train else "val" if where < train + val else "test"


@lru_cache(maxsize=6)
def _pool(folders: tuple[tuple[str, Path], ...], size: int, channels: int) -> Pool:
    classes = [_read_class(folder, size, channels) for _, folder in folders]
    starts = np.cumsum([0, *(len(images) for images in classes)])
    images = torch.from_numpy(np.concatenate(classes))
    return Pool(images, tuple(starts.tolist()), tuple(name for name, _ in folders))


def _read_class(folder: Path, size: int, channels: int) -> np.ndarray:
    """Read the images of one class in the order of their names: uint8 [n,C,size,size]."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS and path.name[0] != ".")
    if not files:
        raise InputError(f"image-folder: {folder} holds no image; it must hold {', '.join(sorted(KINDS))}")
    return np.stack([_read(path, size, channels) for path in files])


def _read(path: Path, size: int, channels: int) -> np.ndarray:
    """Read one image as uint8 [C,size,size]."""
    try:
        with Image.open(path) as image:
            flat = _flat(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
            pixels = np.asarray(ImageOps.fit(flat, (size, size), Image.Resampling.BILINEAR))
    except Exception as error:  # Pillow's decoders raise what they like on a broken file
        raise InputError(f"image-folder: {path} cannot be read: {' '.join(str(error).split())}") from error
    return np.ascontiguousarray(pixels.reshape(size, size, channels).transpose(2, 0, 1))


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """Convert to grey or colour of 8 bits, on white."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert would cut at 255
        return Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)).convert(mode)
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _folders(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.is_dir() and path.name[0] != ".")


def _refuse_shared_classes(parts: Mapping[Split, list[str]]) -> None:
    seen: dict[str, str] = {}
    for part, names in parts.items():
        for name in names:
            if name in seen:
                raise InputError(f"image-folder: class {name} is in both {seen[name]} and {part}; they must share none")
            seen[name] = part


PRESETS = {"image-folder": ImageFolder()}
