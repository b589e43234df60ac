"""The gallery of the page: small pictures of attacked queries as PNG data, never more bytes than a page can bear."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from robustbench_meta.report.gallery import pixels

LARGEST = 150_000  # characters of all pictures together
BLOCKS, QUERIES = 4, 5
STILL = 1e-6  # pixels that moved less did not move


@dataclass(frozen=True)
class Shot:
    """One attacked query: three pictures as data addresses, and what the learner says of two of them."""

    clean: str
    moved: str  # "" where nothing moved
    adversarial: str
    label: int
    says: int
    says_attacked: int


@dataclass(frozen=True)
class Block:
    """Some queries of one cell; `factor` is how many times the perturbation is amplified."""

    title: str
    factor: int
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Album:
    """The blocks that are shown, and how many sets there are besides."""

    blocks: tuple[Block, ...] = ()
    left: int = 0


def album(items: Sequence[dict[str, Any]]) -> Album:
    """Show the sets of the largest eps, as many as there is room for."""
    full = [item for item in items if len(item["labels"])]
    order = sorted(full, key=lambda item: (-float(item["eps"]), str(item["attack"]), str(item["title"])))
    blocks: list[Block] = []
    size = 0
    for item in order:
        if len(blocks) == BLOCKS:
            break
        block = _block(item, LARGEST - size)
        if block.shots:
            blocks.append(block)
            size += sum(len(shot.clean) + len(shot.moved) + len(shot.adversarial) for shot in block.shots)
    return Album(tuple(blocks), len(full) - len(blocks))


def _block(item: dict[str, Any], room: int) -> Block:
    clean, adversarial = pixels(item["clean"]), pixels(item["adversarial"])
    moved = adversarial - clean
    largest = float(np.abs(moved).max())
    factor = max(1, math.floor(0.5 / largest)) if largest > STILL else 1
    shots: list[Shot] = []
    for i in range(min(QUERIES, len(item["labels"]))):
        still = np.abs(moved[i]).max() <= STILL
        pictures = [_png(clean[i]), "" if still else _png(0.5 + factor * moved[i]), _png(adversarial[i])]
        room -= sum(map(len, pictures))
        if room < 0:
            break
        label, says, says_attacked = (
            int(item[name][i]) for name in ("labels", "clean_predictions", "adversarial_predictions")
        )
        shots.append(Shot(pictures[0], pictures[1], pictures[2], label, says, says_attacked))
    return Block(str(item["title"]), factor, tuple(shots))


def _png(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
