"""Square Attack: random search by square windows, on scores alone (arXiv 1912.00049, Alg. 1 to 3; L1: 2103.01208).

Every point draws windows of its own, so that dropping one shifts no other's. Of sounds a window is a stretch of time,
and its colour a square wave of a frequency drawn at random: the paper's constant colour would shift the mean, which no
spectrogram hears. That part is ours.
Shapes: P' points under attack; rows [P',D] are images of D = C * H * W entries, where a window is s x s in every
channel, or sounds of D = C * samples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta import losses, threats
from robustbench_meta.ascent import Search, from_clean
from robustbench_meta.libraries import check_square
from robustbench_meta.types import Box, InputError, Norm, Streams, Surface, Threat, Victim

# The windows' share of the image is halved after each of these proposals of 10000 (the paper's schedule).
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Square:
    """Change a window and keep the change where it raises the margin: `queries` times, from a start of its own.

    With `schedule` = 10000, as in AutoAttack, windows shrink as in the paper's run of 10000 queries, of which a shorter
    one sees the beginning; `schedule` = `queries` squeezes the whole of it into the run.
    """

    queries: int = 5000
    share: float = 0.8  # of the image that the first windows cover; the paper's p
    schedule: int = 10_000

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = True
    paints: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("queries", "schedule"):
            if not 1 <= getattr(self, name) <= 1_000_000:
                raise InputError(f"{name}: {getattr(self, name)} is not between 1 and 1000000")
        if not 0 < self.share <= 1:
            raise InputError(f"share: {self.share} is not above 0 and at most 1")

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        return from_clean(self, victim, threat, rng)

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack the points that still stand; raise InputError where inputs are neither images nor, in Linf, sounds."""
        victim, points = search.victim, search.standing()
        canvas = canvas_of(victim.space, threat)
        if not len(points):
            return
        first, rest = rng.split(2)
        with torch.no_grad():
            best = _start(victim, canvas, points, draws=first.uniform(victim.x.new_empty(len(victim.x), canvas.begins)))
            for steps in rounds(self.queries):
                # Drawn for all points and for many steps at a time: a call per task costs more than the numbers.
                draws = rest.uniform(victim.x.new_empty(len(victim.x), len(steps), canvas.draws))[best.points]
                for stroke in canvas.strokes(draws, [self.window(step, victim.space, threat.norm) for step in steps]):
                    best = _improve(victim, canvas, best, stroke)
                best = _drop_fooled(search, best)
                if not len(best.points):
                    return
        search.offer(best.rows.view(-1, *victim.x.shape[1:]), best.outputs, best.points)

    def window(self, step: int, space: Box, norm: Norm) -> int:
        """Return the side of the window at `step`: the root of its share; odd and at least 3 but in Linf.

        Of sounds it is the share of the samples.
        """
        halvings = sum(int(step / self.schedule * 10_000) > limit for limit in HALVED_AFTER)
        share = self.share / 2**halvings
        if len(space.shape) == 2:
            return max(round(share * space.shape[1]), 1)
        _, height, width = space.shape
        side = max(round(math.sqrt(share * height * width)), 1 if norm == "linf" else 3)
        if norm != "linf" and side % 2 == 0:
            side += 1
        return min(side, height, width)


@dataclass(frozen=True)
class Best:
    """The best proposal of each point that was still standing when last looked at."""

    points: Tensor  # [P']
    y: Tensor  # [P',1]
    clean: Tensor  # rows
    rows: Tensor
    outputs: Tensor  # [P',1,N]
    margin: Tensor  # [P']


def rounds(queries: int) -> Iterator[range]:
    """Cut the steps into rounds of an eighth of what came before, 1 to 32 steps: fooled points leave between them."""
    begin = 0
    while begin < queries:
        end = min(begin + min(max(begin // 8, 1), 32), queries)
        yield range(begin, end)
        begin = end


@dataclass(frozen=True)
class Stroke:
    """Where and how every point is painted over in one step: from one window in Linf, from two else."""

    window: int
    corners: Tensor  # [P',1 or 2], the index of a window's first pixel
    flips: Tensor  # [P'], 1 where the pattern is transposed
    signs: Tensor  # [P',C,1], -1 or 1


def _start(victim: Victim, canvas: Canvas | Tape, points: Tensor, *, draws: Tensor) -> Best:
    clean, y = victim.x[points].flatten(1), victim.y[points]
    rows = canvas.start(clean, draws[points])
    outputs = victim.forward(rows.view(-1, *victim.x.shape[1:]), points)
    return Best(points, y, clean, rows, outputs, losses.margin(outputs, y).squeeze(1))


def _improve(victim: Victim, canvas: Canvas | Tape, best: Best, stroke: Any) -> Best:
    """Keep what the stroke makes of every point whose margin it raises."""
    rows = canvas.paint(best.clean, best.rows, stroke)
    outputs = victim.forward(rows.view(-1, *victim.x.shape[1:]), best.points)
    margin = losses.margin(outputs, best.y).squeeze(1)
    better = margin > best.margin
    # An interpolation by 0 or 1 is exact, and several times faster than torch.where on a CPU.
    rows = torch.lerp(best.rows, rows, better.to(rows).unsqueeze(1))
    outputs = torch.where(better.view(-1, 1, 1), outputs, best.outputs)
    return Best(best.points, best.y, best.clean, rows, outputs, torch.where(better, margin, best.margin))


def canvas_of(space: Box, threat: Threat) -> Canvas | Tape:
    """Return what is painted on; raise InputError where inputs are neither images nor, in Linf, sounds."""
    check_square(space, threat.norm)
    return Canvas(space, threat) if len(space.shape) == 3 else Tape(space, threat)


def _drop_fooled(search: Search, best: Best) -> Best:
    left = best.margin < 0
    if left.all():
        return best
    rows, shape = best.rows[~left], search.victim.x.shape[1:]
    search.offer(rows.view(-1, *shape), best.outputs[~left], best.points[~left])
    return Best(*(getattr(best, field.name)[left] for field in fields(best)))


@dataclass(frozen=True)
class Canvas:
    """Where windows lie and what is painted into them, from uniform numbers in [0, 1).

    A start takes `begins` numbers a point, a stroke `draws`: the corners of one window (Linf) or two, whether the
    pattern is transposed (L2, L1), and a sign for each channel.
    """

    space: Box
    threat: Threat

    @property
    def begins(self) -> int:
        channels, height, width = self.space.shape
        side = _tile(self.space)
        return channels * width if self.threat.norm == "linf" else (height // side) * (width // side) * (1 + channels)

    @property
    def draws(self) -> int:
        return self.space.shape[0] + (2 if self.threat.norm == "linf" else 5)

    def start(self, clean: Tensor, draws: Tensor) -> Tensor:
        """Return the first rows: vertical stripes in Linf, a grid of patterns else."""
        channels, height, width = self.space.shape
        eps, norm = self.threat.eps, self.threat.norm
        if norm == "linf":
            stripes = _signs(draws).view(-1, channels, 1, width).expand(-1, -1, height, -1)
            return (clean + eps * stripes.flatten(1)).clamp_(self.space.low, self.space.high)
        grid = self._grid(draws, clean)
        if norm == "l2":
            grid *= eps / grid.norm(dim=1, keepdim=True)
        return self._within(clean, grid)

    def strokes(self, draws: Tensor, windows: list[int]) -> Iterator[Stroke]:
        """Turn draws [P',K,...] into K strokes; corners are uniform over all places where the window fits."""
        channels, height, width = self.space.shape
        corners, signs = draws[..., : 2 if self.threat.norm == "linf" else 4], _signs(draws[..., -channels:])
        flips = (draws[..., -channels - 1] > 0.5).long()  # of no use in Linf
        sides = torch.tensor(windows, device=draws.device).unsqueeze(1)
        row = (corners[..., ::2] * (height - sides + 1)).long()
        column = (corners[..., 1::2] * (width - sides + 1)).long()
        parts = ((row * width + column).unbind(1), flips.unbind(1), signs.unsqueeze(-1).unbind(1))
        return (Stroke(*stroke) for stroke in zip(windows, *parts, strict=True))

    def paint(self, clean: Tensor, rows: Tensor, stroke: Stroke) -> Tensor:
        """Return rows with a new window: in Linf one colour a channel, at the edge of the ball; else a pattern."""
        cells = self._cells(stroke.corners[:, 0], stroke.window)
        if self.threat.norm == "linf":
            held = clean.gather(1, cells).view(len(clean), self.space.shape[0], -1)
            colour = held.add_(stroke.signs, alpha=self.threat.eps).clamp_(self.space.low, self.space.high)
            return rows.scatter(1, cells, colour.flatten(1))
        emptied = self._cells(stroke.corners[:, 1], stroke.window)
        return self._within(clean, self._repaint(rows - clean, cells, emptied, stroke))

    def _grid(self, draws: Tensor, like: Tensor) -> Tensor:
        """Tile the image, but for its margins, with patterns that are transposed and signed at random: rows."""
        channels, height, width = self.space.shape
        side = _tile(self.space)
        high, wide = height // side, width // side
        flips, signs = draws.view(-1, high, wide, 1 + channels).split((1, channels), dim=-1)
        tiles = _signs(signs)[..., None, None] * _patterns(side, self.threat.norm, like)[(flips > 0.5).long()]
        grid = tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, high * side, wide * side)
        left, top = (width - wide * side) // 2, (height - high * side) // 2
        return F.pad(grid, (left, width - wide * side - left, top, height - high * side - top)).flatten(1)

    def _repaint(self, moved: Tensor, cells: Tensor, emptied: Tensor, stroke: Stroke) -> Tensor:
        """Move the mass of both windows, and what the budget has left, into a pattern at `cells`."""
        channels, power = self.space.shape[0], 2 if self.threat.norm == "l2" else 1
        unused = (self.threat.eps**power - moved.norm(p=power, dim=1) ** power).unsqueeze(1)
        inside = moved.gather(1, cells).view(len(moved), channels, -1)
        other = moved.scatter_(1, cells, 0.0).gather(1, emptied).view_as(inside)
        held = inside.norm(p=power, dim=2)
        mass = held**power + other.norm(p=power, dim=2) ** power
        if power == 2:
            # Signed, so that what rounding left above the budget is taken back.
            length = (unused / channels + mass).clamp_min_(0).sqrt_()
        else:
            # In L1 every channel gets what all of them may hold; the projection cuts what is too much.
            length = unused.clamp_min(0) + channels * mass
        pattern = _patterns(stroke.window, self.threat.norm, moved)[stroke.flips].flatten(1).unsqueeze(1)
        paint = stroke.signs * pattern + inside / (held + 1e-12).unsqueeze(2)
        paint *= (length / (paint.norm(p=power, dim=2) + 1e-12)).unsqueeze(2)
        return moved.scatter_(1, emptied, 0.0).scatter_(1, cells, paint.flatten(1))

    def _within(self, clean: Tensor, moved: Tensor) -> Tensor:
        low, high = self.space.low, self.space.high
        if self.threat.norm == "l1":
            room = torch.where(moved >= 0, high - clean, clean - low)
            # Just inside the ball, so that rounding does not carry it out.
            moved = threats.geometry("l1").shrink(moved, room, self.threat.eps * (1 - 1e-6))
        return moved.add_(clean).clamp_(low, high)

    def _cells(self, corner: Tensor, window: int) -> Tensor:
        """Index the entries of the windows at `corner` [P']: [P', C * s * s]."""
        return corner.unsqueeze(1) + _offsets(self.space.shape, window, corner.device)


@dataclass(frozen=True)
class Beat:
    """Which samples of every point are painted over in one step, and how: each [P', samples of the window]."""

    times: Tensor
    signs: Tensor


@dataclass(frozen=True)
class Tape:
    """Where stretches of a sound lie and what is painted into them, from uniform numbers in [0, 1); in Linf.

    A start takes a sign for every sample, a stroke three numbers: where the stretch begins, frequency and phase of its
    square wave, the same in every channel.
    """

    space: Box
    threat: Threat

    draws: ClassVar[int] = 3

    @property
    def begins(self) -> int:
        return math.prod(self.space.shape)

    def start(self, clean: Tensor, draws: Tensor) -> Tensor:
        """Return the first rows: noise at the edge of the ball."""
        return self._at_edge(clean, _signs(draws))

    def strokes(self, draws: Tensor, windows: list[int]) -> Iterator[Beat]:
        """Turn draws [P',K,3] into K strokes; places are uniform, frequencies below half the sampling rate."""
        for (begin, frequency, phase), window in zip(draws.permute(1, 2, 0), windows, strict=True):
            first = (begin * (self.space.shape[1] - window + 1)).long()
            steps = torch.arange(window, device=draws.device)
            turns = 0.5 * frequency.unsqueeze(1) * steps + phase.unsqueeze(1)
            yield Beat(first.unsqueeze(1) + steps, 1 - 2 * ((2 * turns).floor() % 2))

    def paint(self, clean: Tensor, rows: Tensor, stroke: Beat) -> Tensor:
        """Return rows with a new stretch, at the edge of the ball."""
        channels, samples = self.space.shape
        starts = samples * torch.arange(channels, device=clean.device).view(-1, 1)
        cells = (stroke.times.unsqueeze(1) + starts).flatten(1)
        return rows.scatter(1, cells, self._at_edge(clean.gather(1, cells), stroke.signs.repeat(1, channels)))

    def _at_edge(self, clean: Tensor, signs: Tensor) -> Tensor:
        return torch.add(clean, signs, alpha=self.threat.eps).clamp_(self.space.low, self.space.high)


@cache
def _offsets(shape: tuple[int, ...], window: int, device: torch.device) -> Tensor:
    every = torch.arange(math.prod(shape), device=device).view(shape)
    return every[:, :window, :window].flatten()


def _patterns(side: int, norm: Norm, like: Tensor) -> Tensor:
    """Return the pattern of L2 or L1 and its transpose: [2,side,side], of norm 1."""
    return _both_patterns(side, norm, like.dtype, like.device)


@cache
def _both_patterns(side: int, norm: Norm, dtype: torch.dtype, device: torch.device) -> Tensor:
    power = 2 if norm == "l2" else 1
    upper, lower = (_pyramid(rows, side, power) for rows in (side // 2, side - side // 2))
    pattern = torch.cat((upper, -lower))
    pattern /= pattern.norm(p=power)
    return torch.stack((pattern, pattern.T)).to(device, dtype)


def _pyramid(height: int, width: int, power: int) -> Tensor:
    """Add up rectangles that grow about the middle, the k-th as high as 1 / k^2 (L2) or 1 / k^4 (L1): norm 1."""
    levels = max(height // 2, width // 2) + 1
    heights = torch.arange(1, levels + 1, dtype=torch.float64) ** (-2 if power == 2 else -4)
    above = heights.flip(0).cumsum(0).flip(0)
    rows, columns = (torch.arange(n) - n // 2 for n in (height, width))
    pyramid = above[torch.maximum(rows.abs().unsqueeze(1), columns.abs().unsqueeze(0))]
    return pyramid / pyramid.norm(p=power) if height else pyramid


def _signs(uniform: Tensor) -> Tensor:
    return uniform.ge(0.5).to(uniform) * 2 - 1


def _tile(space: Box) -> int:
    """Return the side of the start's patterns, five to the shorter side of the image."""
    return max(min(space.shape[1:]) // 5, 1)


PRESETS: dict[str, Square] = {"square": Square()}
PATTERNS: dict[str, Callable[[re.Match[str]], Square]] = {r"square-(\d+)": lambda m: Square(queries=int(m[1]))}
