"""The gallery of the page: attacked queries as PNG and WAV data, never more bytes than a page can bear."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from robustbench_meta.report import sounds, strips
from robustbench_meta.report.gallery import views
from robustbench_meta.report.sentences import ANSWERS

LARGEST = 250_000  # characters of all pictures and sounds together, and of all corrupted ones
BLOCKS, QUERIES = 4, 5
COLUMNS = 4  # queries of a corruption


@dataclass(frozen=True)
class Shot:
    """One attacked query: three pictures as data addresses, and what the learner says of two of them.

    A recording has two sounds as data addresses, too, and a signal-to-noise ratio.
    """

    clean: str
    moved: str  # "" where nothing moved
    adversarial: str
    label: str
    says: str
    says_attacked: str
    heard: tuple[str, str] | None = None  # clean and adversarial
    ratio: str = ""


@dataclass(frozen=True)
class Block:
    """Some queries of one cell; `told` says what is shown of the perturbation."""

    title: str
    told: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Album:
    """The blocks that are shown, and how many sets there are besides."""

    blocks: tuple[Block, ...] = ()
    left: int = 0


@dataclass(frozen=True)
class Seen:
    """One query under a corruption as a data address, and what the learner says of it."""

    picture: str
    label: str
    says: str


@dataclass(frozen=True)
class Strip:
    """Rows of the same queries, clean and under each corruption, by name."""

    about: str = ""
    rows: tuple[tuple[str, tuple[Seen, ...]], ...] = ()


def strip(items: Sequence[dict[str, Any]]) -> Strip:
    """Show as many queries of every corruption as there is room for; none where not even one has."""
    rows = strips.rows(items)
    if not rows:
        return Strip()
    queries = min(COLUMNS, *(len(row.labels) for row in rows))
    made = [
        (row.name, tuple(Seen(_png(row.pictures[i]), row.labels[i], row.says[i]) for i in range(queries)))
        for row in rows
    ]
    sizes = [sum(len(seen[i].picture) for _, seen in made) for i in range(queries)]
    room = sum(size <= LARGEST for size in itertools.accumulate(sizes))
    return Strip(strips.about(items).caption, tuple((name, seen[:room]) for name, seen in made)) if room else Strip()


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
            size += sum(map(_size, block.shots))
    return Album(tuple(blocks), len(full) - len(blocks))


def _block(item: dict[str, Any], room: int) -> Block:
    seen = views(item)
    shots: list[Shot] = []
    for i in range(min(QUERIES, len(item["labels"]))):
        moved = "" if seen.still[i] else _png(seen.moved[i])
        label, says, says_attacked = (str(item[name][i]) for name in ANSWERS)
        shot = Shot(_png(seen.clean[i]), moved, _png(seen.adversarial[i]), label, says, says_attacked, *_sound(item, i))
        room -= _size(shot)
        if room < 0:
            break
        shots.append(shot)
    return Block(str(item["title"]), seen.told, tuple(shots))


def _sound(item: dict[str, Any], i: int) -> tuple[tuple[str, str] | None, str]:
    if not sounds.is_sound(item):
        return None, ""
    clean, adversarial = item["clean"][i], item["adversarial"][i]
    heard = tuple(
        f"data:audio/wav;base64,{base64.b64encode(sounds.wav(part, int(item['rate'][i]))).decode()}"
        for part in (clean, adversarial)
    )
    return (heard[0], heard[1]), sounds.ratio_text(sounds.ratio(clean, adversarial))


def _size(shot: Shot) -> int:
    return sum(map(len, (shot.clean, shot.moved, shot.adversarial, *(shot.heard or ()))))


def _png(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
