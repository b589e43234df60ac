"""What corruptions of images are made of: blurs, shifts and zooms, and clouds.

Shapes: B images x [B,C,H,W]; lengths in pixels, angles in radians. What lies beyond the edge is as the edge is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue are (ITU-R BT.601)


def gaussian(sigma: float, reach: int) -> Tensor:
    """Return the weights of a Gaussian at -reach..reach, which sum to 1: [2 reach + 1]."""
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-(steps**2) / (2 * sigma**2)) if sigma > 0 else (steps == 0).double()
    return weights / weights.sum()


def disc(radius: float, softness: float) -> Tensor:
    """Return the kernel of a lens out of focus: a disc of `radius`, softened by a Gaussian; it sums to 1."""
    reach, soft = math.floor(radius), max(1, round(2 * softness))
    steps = torch.arange(-reach - soft, reach + soft + 1, dtype=torch.float64)
    inside = (steps[:, None] ** 2 + steps[None, :] ** 2 <= radius**2).double()
    row = gaussian(softness, soft)
    kernel = F.conv2d(inside[None, None], torch.outer(row, row)[None, None], padding=soft)[0, 0]
    return kernel / kernel.sum()


def blurred(x: Tensor, kernel: Tensor) -> Tensor:
    """Blur every channel by a symmetric kernel [k,k], k odd."""
    tall, wide = (size // 2 for size in kernel.shape)
    padded = F.pad(x, (wide, wide, tall, tall), mode="replicate").flatten(0, 1).unsqueeze(1)
    return F.conv2d(padded, kernel.to(x)[None, None]).view(x.shape)


def smoothed(x: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian, cut off at three deviations."""
    row = gaussian(sigma, max(1, round(3 * sigma))).unsqueeze(0)
    return blurred(blurred(x, row), row.T)


def places(x: Tensor) -> Tensor:
    """Return the place (column, row) of every pixel: [1,H,W,2]."""
    rows, columns = (torch.arange(size, device=x.device, dtype=x.dtype) for size in x.shape[-2:])
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).unsqueeze(0)


def sampled(x: Tensor, at: Tensor, padding: str = "border") -> Tensor:
    """Read x at places `at` [B,H,W,2] in pixels (column, row), between pixels linearly."""
    sizes = torch.tensor([x.shape[-1], x.shape[-2]], device=x.device, dtype=x.dtype)
    grid = 2 * at / (sizes - 1).clamp_min(1) - 1
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), padding_mode=padding, align_corners=True)


def trailed(x: Tensor, angles: Tensor, reach: int, sigma: float) -> Tensor:
    """Blur along a line behind every pixel: 2 reach + 1 pixels weighted by half a Gaussian; angles [B]."""
    weights = gaussian(sigma, 2 * reach)[2 * reach :]
    back = torch.stack([angles.cos(), angles.sin()], dim=-1).view(-1, 1, 1, 2)
    at, made = places(x), torch.zeros_like(x)
    for step, weight in enumerate((weights / weights.sum()).tolist()):
        made += weight * sampled(x, at - step * back)
    return made


def zoomed(x: Tensor, factor: float) -> Tensor:
    """Enlarge about the centre and keep the size."""
    centre = torch.tensor([(x.shape[-1] - 1) / 2, (x.shape[-2] - 1) / 2], device=x.device, dtype=x.dtype)
    return sampled(x, centre + (places(x) - centre) / factor)


def averaging(size: int, into: int) -> Tensor:
    """Return how each of `into` pixels is the mean of those of `size` that it covers, or the nearest: [into,size]."""
    scale = size / into
    centres = (torch.arange(into, dtype=torch.float64) + 0.5) * scale
    away = (torch.arange(size, dtype=torch.float64) + 0.5 - centres.unsqueeze(1)) / max(scale, 1.0)
    covered = ((away > -0.5) & (away <= 0.5)).double()
    return covered / covered.sum(dim=1, keepdim=True)


def clouds(draws: Tensor, decay: float) -> Tensor:
    """Make a map in [0, 1] by the diamond-square algorithm from draws [B,n,n] in [-1, 1], n a power of two.

    Midpoints are the mean of their four neighbours, opposite edges joined, and a draw of a size that falls by decay
    squared from one halving to the next (Fournier, Fussell and Carpenter 1982, Communications of the ACM 25).
    """
    height, span, size = torch.zeros_like(draws), draws.shape[-1], 1.0
    while span > 1:
        on, off = slice(0, None, span), slice(span // 2, None, span)
        corners = height[:, on, on]
        across = corners + corners.roll(-1, 2)
        height[:, off, off] = (across + across.roll(-1, 1)) / 4 + size * draws[:, off, off]
        centres = height[:, off, off]
        height[:, on, off] = (across + centres + centres.roll(1, 1)) / 4 + size * draws[:, on, off]
        down = corners + corners.roll(-1, 1)
        height[:, off, on] = (down + centres + centres.roll(1, 2)) / 4 + size * draws[:, off, on]
        span, size = span // 2, size / decay**2
    lowest = height.amin(dim=(1, 2), keepdim=True)
    return (height - lowest) / (height.amax(dim=(1, 2), keepdim=True) - lowest).clamp_min(1e-12)


def grey(x: Tensor) -> Tensor:
    """Return how bright every pixel is: [B,1,H,W]."""
    if x.shape[1] == 1:
        return x
    return (x * torch.tensor(LUMA, device=x.device, dtype=x.dtype).view(3, 1, 1)).sum(dim=1, keepdim=True)
