"""Common corruptions of images at five severities: noise, blur, weather and what cameras and files do.

Hendrycks and Dietterich 2019, arXiv 1903.12261, by the constants of their CIFAR-10-C, which are for 32 x 32 pixels.
Lengths in pixels grow with the shorter side of larger images, and stay as published for smaller ones. Fourteen of
their fifteen: frost is a photograph laid over the image, and we ship none. Ours are computed in floats, with linear
interpolation, where theirs round to grey levels in between; glass blur exchanges pixels, as the paper says, where
their code copies one over the other.
Shapes: B images x [B,C,H,W] with entries in [0, 1], C 1 or 3.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustbench_meta import filters
from robustbench_meta.types import Box, InputError, Inputs, Norm, Streams, Surface, Threat, Victim

Way = Literal[
    "gaussian noise",
    "shot noise",
    "impulse noise",
    "defocus blur",
    "glass blur",
    "motion blur",
    "zoom blur",
    "snow",
    "fog",
    "brightness",
    "contrast",
    "elastic",
    "pixelate",
    "jpeg",
]
MADE_FOR = 32  # pixels, of which the constants speak
ZOOMS = 0.01  # from one zoom to the next


@dataclass(frozen=True)
class ImageCorruption:
    """Corrupt every image in one way, drawn once, by the constants that belong to the severity."""

    way: Way
    constants: tuple[tuple[float, ...], ...]  # of severities 1 to 5

    norms: ClassVar[tuple[Norm, ...]] = ("corruption",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False
    needs_inputs: ClassVar[Inputs] = "images"

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        if threat.eps == 0:
            return victim.x.clone()
        box = _images(victim.space)
        x = (victim.x.flatten(0, 1) - box.low) / box.width
        made = WAYS[self.way](x, rng, *self.constants[int(threat.eps) - 1]).clamp(0, 1)
        return (box.low + box.width * made).clamp(box.low, box.high).view(victim.x.shape)


def _images(box: Box) -> Box:
    if box.inputs != "images":
        raise InputError(f"attack: corrupts images; these inputs are {box.inputs}")
    return box


def _larger(x: Tensor) -> float:
    """Say by how much images are larger than those that the constants are for; 1 where they are not."""
    return max(1.0, min(x.shape[-2:]) / MADE_FOR)


def _gaussian_noise(x: Tensor, rng: Streams, deviation: float) -> Tensor:
    return x + deviation * rng.normal(x)


def _shot_noise(x: Tensor, rng: Streams, photons: float) -> Tensor:
    """Count photons, of which white has `photons`."""
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: Tensor, rng: Streams, share: float) -> Tensor:
    """Set a share of all entries to black or white."""
    hit, white = rng.uniform(x) < share, rng.uniform(x) < 0.5
    return torch.where(hit, white.to(x), x)


def _defocus_blur(x: Tensor, rng: Streams, radius: float, softness: float) -> Tensor:
    return filters.blurred(x, filters.disc(radius * _larger(x), softness * _larger(x)))


def _glass_blur(x: Tensor, rng: Streams, sigma: float, reach: float, rounds: float) -> Tensor:
    """Exchange every pixel, from the last to the first, with one at most `reach` before it, between two blurs."""
    sigma, near, turns = sigma * _larger(x), round(reach * _larger(x)), int(rounds)
    height, width = x.shape[-2:]
    steps = (2 * near * rng.uniform(x.new_empty(len(x), turns, height, width, 2))).floor().long() - near
    pixels = filters.smoothed(x, sigma).flatten(2)
    for turn in range(turns):
        for row in range(height - 1 - near, near - 1, -1):
            for column in range(width - 1 - near, near - 1, -1):
                here, step = row * width + column, steps[:, turn, row, column]
                there = (here + step[:, 0] * width + step[:, 1]).view(-1, 1, 1).expand(-1, x.shape[1], 1)
                held = pixels[:, :, here : here + 1].clone()
                pixels[:, :, here : here + 1] = pixels.gather(2, there)
                pixels.scatter_(2, there, held)
    return filters.smoothed(pixels.view(x.shape), sigma)


def _motion_blur(x: Tensor, rng: Streams, radius: float, sigma: float) -> Tensor:
    angles = math.pi / 4 * (2 * rng.uniform(x[:, 0, 0, 0]) - 1)
    return filters.trailed(x, angles, math.ceil(radius * _larger(x)), sigma * _larger(x))


def _zoom_blur(x: Tensor, rng: Streams, largest: float) -> Tensor:
    """Take the mean of an image and of its zooms from 1 to the largest."""
    factors = [1 + ZOOMS * step for step in range(round((largest - 1) / ZOOMS) + 1)]
    return torch.stack([x, *(filters.zoomed(x, factor) for factor in factors)]).mean(dim=0)


def _snow(
    x: Tensor,
    rng: Streams,
    mean: float,
    deviation: float,
    zoom: float,
    least: float,
    radius: float,
    sigma: float,
    kept: float,
) -> Tensor:
    """Lay flakes over a paler image: noise above `least`, enlarged and blown down, and the same upside down."""
    flakes = filters.zoomed(mean + deviation * rng.normal(x[:, :1]), zoom * _larger(x))
    flakes = flakes.masked_fill(flakes < least, 0.0).clamp(0, 1)
    angles = -math.pi / 4 * (1 + 2 * rng.uniform(x[:, 0, 0, 0]))
    flakes = filters.trailed(flakes, angles, math.ceil(radius * _larger(x)), sigma * _larger(x))
    pale = torch.maximum(x, 1.5 * filters.grey(x) + 0.5)
    return kept * x + (1 - kept) * pale + flakes + flakes.flip(-1, -2)


def _fog(x: Tensor, rng: Streams, thickness: float, decay: float) -> Tensor:
    """Add clouds, and darken the whole by as much as they brighten its brightest entry."""
    height, width = x.shape[-2:]
    size = 1 << (max(height, width) - 1).bit_length()
    haze = filters.clouds(2 * rng.uniform(x.new_empty(len(x), size, size)) - 1, decay)[:, None, :height, :width]
    most = x.amax(dim=(1, 2, 3), keepdim=True)
    return (x + thickness * haze) * most / (most + thickness)


def _brightness(x: Tensor, rng: Streams, more: float) -> Tensor:
    """Raise the value of hue, saturation and value; black, which has no hue, becomes grey."""
    value = x.amax(dim=1, keepdim=True)
    raised = (value + more).clamp_max(1)
    return torch.where(value > 0, x / value.clamp_min(torch.finfo(x.dtype).tiny) * raised, raised)


def _contrast(x: Tensor, rng: Streams, share: float) -> Tensor:
    """Leave a share of how far every entry lies from the mean of its channel."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + share * (x - mean)


def _elastic(x: Tensor, rng: Streams, strength: float, smoothness: float, tilt: float) -> Tensor:
    """Move three points of a square at random and the image with them, then every pixel by a smooth field.

    All in shares of the shorter side: as far as the field, its Gaussian and the points move.
    """
    side = min(x.shape[-2:])
    field = 2 * rng.uniform(x[:, :1].expand(-1, 2, -1, -1)) - 1
    field = strength * side * filters.smoothed(field, smoothness * side) if strength else torch.zeros_like(field)
    right, below = (size // 2 for size in (x.shape[-1], x.shape[-2]))
    square = side // 3
    corners = [(right + square, below + square), (right + square, below - square), (right - square, below - square)]
    before = torch.tensor(corners, device=x.device, dtype=x.dtype).expand(len(x), 3, 2)
    after = before + tilt * side * (2 * rng.uniform(before) - 1)
    ones = torch.ones_like(after[..., :1])
    back = torch.linalg.solve(torch.cat([after, ones], dim=-1), before)  # from (column, row, 1) to where it came from
    at = (filters.places(x) + field.permute(0, 2, 3, 1)).flatten(1, 2)
    at = torch.cat([at, torch.ones_like(at[..., :1])], dim=-1) @ back
    return filters.sampled(x, at.view(len(x), *x.shape[-2:], 2), padding="reflection")


def _pixelate(x: Tensor, rng: Streams, share: float) -> Tensor:
    """Shrink to a share of the size by the mean of what each pixel covers, and enlarge by the nearest."""
    for axis in (-2, -1):
        size = x.shape[axis]
        small = max(1, int(size * share))
        both = filters.averaging(small, size) @ filters.averaging(size, small)
        x = (x.transpose(axis, -1) @ both.T.to(x)).transpose(axis, -1)
    return x


def _jpeg(x: Tensor, rng: Streams, quality: float) -> Tensor:
    """Write and read a JPEG of 8 bits."""
    levels = (255 * x).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    made = np.stack([_through_jpeg(image, int(quality)) for image in levels])
    return torch.from_numpy(made).to(x).permute(0, 3, 1, 2) / 255


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Compress one image [H,W,C] of 8 bits and read it again."""
    with io.BytesIO() as file:
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(file, "JPEG", quality=quality)
        return np.array(Image.open(file)).reshape(image.shape)


# x [B,C,H,W], rng and the constants of one severity -> [B,C,H,W]
WAYS: dict[Way, Callable[..., Tensor]] = {
    "gaussian noise": _gaussian_noise,
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "defocus blur": _defocus_blur,
    "glass blur": _glass_blur,
    "motion blur": _motion_blur,
    "zoom blur": _zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}


def _preset(way: Way, *constants: float | tuple[float, ...]) -> ImageCorruption:
    return ImageCorruption(way, tuple(one if isinstance(one, tuple) else (one,) for one in constants))


PRESETS: dict[str, ImageCorruption] = {
    "gaussian-noise": _preset("gaussian noise", 0.04, 0.06, 0.08, 0.09, 0.10),
    "shot-noise": _preset("shot noise", 500, 250, 100, 75, 50),
    "impulse-noise": _preset("impulse noise", 0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus-blur": _preset("defocus blur", (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
    "glass-blur": _preset("glass blur", (0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion-blur": _preset("motion blur", (6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
    "zoom-blur": _preset("zoom blur", 1.05, 1.10, 1.15, 1.20, 1.25),
    "snow": _preset(
        "snow",
        (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "fog": _preset("fog", (0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
    "brightness": _preset("brightness", 0.05, 0.1, 0.15, 0.2, 0.3),
    "contrast": _preset("contrast", 0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic": _preset(
        "elastic", (0.0, 0.0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)
    ),
    "pixelate": _preset("pixelate", 0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg": _preset("jpeg", 80, 65, 58, 50, 40),
}
