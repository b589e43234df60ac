"""What one update of training is made of: tasks, or images of all training classes; drawn and augmented by its number.

Everything is seeded by (recipe, purpose, number) alone, so that a run that was killed goes on to the same batches.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from robustbench_meta import episodes
from robustbench_meta.checkpoint import Recipe, digest
from robustbench_meta.types import Episodes, Spec, TaskFamily

AUGMENTATIONS = ("flip", "crop")
CROP_PADDING = 1 / 8  # of a side


def tasks_of(recipe: Recipe, family: TaskFamily, step: int) -> tuple[Episodes, list[int]]:
    """Draw the `meta_batch` training tasks of update number `step`, and a seed for what attacks each of them."""
    numbers = range(step * recipe.meta_batch, (step + 1) * recipe.meta_batch)
    spec = Spec(recipe.train_ways or recipe.ways, recipe.shots, recipe.queries)
    drawn = family.sample("train", spec, numbers, seed=recipe.seed)
    if recipe.augment:
        rngs = [generator(recipe, "augment", number) for number in numbers]
        drawn = replace(
            drawn,
            support_x=torch.stack([augment(x, recipe.augment, g) for x, g in zip(drawn.support_x, rngs, strict=True)]),
            query_x=torch.stack([augment(x, recipe.augment, g) for x, g in zip(drawn.query_x, rngs, strict=True)]),
        )
    return drawn, [seed(recipe, "attack", number) for number in numbers]


def classes_of(recipe: Recipe, family: TaskFamily, step: int) -> tuple[Episodes, list[int]]:
    """Draw as many images of all training classes as `meta_batch` tasks hold: queries of one task without a support."""
    pool: episodes.Pool = family.pool("train")  # type: ignore[attr-defined]
    count = recipe.meta_batch * recipe.ways * (recipe.shots + recipe.queries)
    x, y = episodes.batch(pool, count, stream=f"{recipe.family}/classes/{recipe.seed}/{step}")
    x = augment(x, recipe.augment, generator(recipe, "augment", step))
    none_x, none_y = x.new_empty(1, 0, *x.shape[1:]), y.new_empty(1, 0)
    return Episodes(none_x, none_y, x.unsqueeze(0), y.unsqueeze(0)), [seed(recipe, "attack", step)]


def augment(images: Tensor, names: tuple[str, ...], rng: torch.Generator) -> Tensor:
    """Mirror each of images [n,C,H,W] with probability 1/2 (flip), move it by up to 1/8 of a side (crop)."""
    if "flip" in names:
        mirrored = torch.rand(len(images), generator=rng) < 0.5
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    if "crop" in names:
        count, _, height, width = images.shape
        pad = round(CROP_PADDING * min(height, width))
        padded = torch.nn.functional.pad(images, (pad, pad, pad, pad), mode="reflect")
        corner = torch.randint(2 * pad + 1, (count, 2), generator=rng)
        rows = (corner[:, :1] + torch.arange(height)).view(count, 1, height, 1)
        columns = (corner[:, 1:] + torch.arange(width)).view(count, 1, 1, width)
        images = padded[
            torch.arange(count).view(-1, 1, 1, 1), torch.arange(images.shape[1]).view(1, -1, 1, 1), rows, columns
        ]
    return images


def seed(recipe: Recipe, purpose: str, number: int) -> int:
    return int(digest([recipe.seed, purpose, number])[:15], 16)


def generator(recipe: Recipe, purpose: str, number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed(recipe, purpose, number))
