"""Write the images of a task family as PNG files in folders of classes, as the family `image-folder` reads them.

    python benchmarks/image_folder.py omniglot --data-root data --out data/omniglot-paper

Grey images become dark on white, and every image gets three channels: so a learner of colour images meets characters
as they look on paper. Below --out lie train, val and test, in each a folder for a class.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from robustbench_meta import catalog
from robustbench_meta.types import SPLITS, InputError, TaskFamily


def write(family: TaskFamily, out: Path) -> str:
    """Write every image of `family`; return the SHA-256 of all file names and pixels, the same on every machine.

    Raise InputError where `out` exists, or where the family gives no images by class.
    """
    if not hasattr(family, "pool"):
        raise InputError(f"family: {family!r} gives tasks alone; legal: a family with pool(split), as omniglot")
    if out.exists():
        raise InputError(f"out: {out} is there already; remove it, or name another folder")
    digest = hashlib.sha256()
    for split in SPLITS:
        pool = family.pool(split)
        for name, start, end in zip(pool.names, pool.starts, pool.starts[1:], strict=False):
            folder = out / split / name.replace("/", "-")
            folder.mkdir(parents=True)
            for number, image in enumerate(pool.images[start:end].numpy()):
                pixels = on_paper(image)
                Image.fromarray(pixels).save(folder / f"{number:04d}.png")
                digest.update(f"{split}/{folder.name}/{number:04d}\n".encode() + pixels.tobytes())
    return digest.hexdigest()


def on_paper(image: np.ndarray) -> np.ndarray:
    """Turn uint8 [C,H,W] into [H,W,3]; ink, 255 where C is 1, becomes black on white."""
    rows = image.transpose(1, 2, 0)
    return np.repeat(255 - rows, 3, axis=2) if rows.shape[2] == 1 else rows.copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, default=None)
    given = parser.parse_args()
    try:
        print(write(catalog.family(given.family, root=given.data_root), given.out))
    except InputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
