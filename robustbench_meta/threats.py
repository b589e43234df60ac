"""One row per norm: how far an item moved, back into the ball, the steepest step, a random start.

Words and labels that are replaced have no ball: how many there are, and which at random, is all that is asked of them.
Nor have corruptions, whose `eps` is a severity: of what they return, only the box is asked.

Every function works on items: tensors [..., *X] whose last `dims` axes are one item. `Threat.eps` is in the
units of the inputs (8/255 for pixels in [0, 1]).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_meta.types import SEVERITIES, THREATS, Box, InputError, Norm, Sentences, Sounds, Streams, Threat

# Float32 rounding may carry an item this far past eps; nothing beyond it is accepted.
RELATIVE_SLACK, ABSOLUTE_SLACK = 1e-5, 1e-6
REPLACED: tuple[Norm, ...] = ("words", "labels")  # rows that are replaced, not moved


@dataclass(frozen=True)
class Geometry:
    """The four operations of one norm, on items flattened to rows [B, D]."""

    distance: Callable[[Tensor], Tensor]  # moved [B,D] -> [B]
    shrink: Callable[[Tensor, Tensor, float], Tensor]  # moved [B,D], room [B,D], eps -> moved inside
    steepest: Callable[[Tensor, Tensor, float], Tensor]  # gradient, room, length -> step of that length
    random: Callable[[Tensor, Streams, float], Tensor]  # like [P,M,D], rng, eps -> moved


def distance(moved: Tensor, norm: Norm, dims: int) -> Tensor:
    """Measure how far each item moved: [..., *X] -> [...]; in words and labels the rows that changed.

    Of a corruption, the share of its entries that changed: 0 where nothing did, and in any box at most 1, the least
    severity. No distance bounds a severity; how large noise or a blur is, its configuration says.
    """
    if norm == "corruption":
        return (moved != 0).flatten(-dims).to(moved.dtype).mean(dim=-1)
    if norm in REPLACED:
        return (moved != 0).any(dim=-1).flatten(1 - dims).sum(dim=-1).to(moved.dtype)
    return geometry(norm).distance(moved.flatten(-dims).flatten(0, -2)).view(moved.shape[:-dims])


def project(x_adv: Tensor, x: Tensor, threat: Threat, box: Box) -> Tensor:
    """Bring x_adv into the intersection of the eps-ball around x and the box; both exactly."""
    moved, rows = _rows(x_adv - x, box)
    # How far each entry may move before it meets the box, in the direction in which it moves.
    room = torch.where(moved >= 0, box.high - rows(x), rows(x) - box.low)
    inside = geometry(threat.norm).shrink(moved, room, threat.eps).view(x.shape)
    return (x + inside).clamp(box.low, box.high)


def ascend(x_adv: Tensor, gradient: Tensor, length: float, norm: Norm, box: Box) -> Tensor:
    """Step from x_adv along the steepest ascent direction of `norm`, by `length`, staying in the box."""
    flat, rows = _rows(gradient, box)
    room = torch.where(flat >= 0, box.high - rows(x_adv), rows(x_adv) - box.low)
    step = geometry(norm).steepest(flat, room, length).view(x_adv.shape)
    return (x_adv + step).clamp(box.low, box.high)


def random_start(x: Tensor, rng: Streams, threat: Threat, box: Box) -> Tensor:
    """Draw a start for every item of x [P,M,*X] from the ball of `threat`, then project it; or replace rows of it."""
    if threat.norm in REPLACED:
        return _random_words(x, rng, threat, box)
    moved = geometry(threat.norm).random(x.flatten(2), rng, threat.eps).view(x.shape)
    return project(x + moved, x, threat, box)


def within(x_adv: Tensor, x: Tensor, threat: Threat, box: Box) -> bool:
    """Say whether every item keeps to the budget (up to float rounding) and, exactly, to the box and its words.

    A corruption has no budget that its result could be held against: it must be finite, and keep to the box.
    """
    if threat.norm in REPLACED:
        replaced = sentences(box).replaced(x_adv, x)
        return bool(((replaced >= 0) & (replaced <= threat.eps)).all())
    if threat.norm == "corruption":
        return bool(x_adv.isfinite().all() and (x_adv >= box.low).all() and (x_adv <= box.high).all())
    moved = distance(x_adv - x, threat.norm, len(box.shape))
    limit = threat.eps * (1 + RELATIVE_SLACK) + ABSOLUTE_SLACK
    return bool((moved <= limit).all() and (x_adv >= box.low).all() and (x_adv <= box.high).all())


def check(threat: Threat, box: Box) -> Threat:
    """Refuse a budget that is not a finite number >= 0, or that covers more than half of the box in Linf.

    A severity is a whole number from 0 to 5.
    """
    if threat.norm not in THREATS:
        raise InputError(f"norm: {threat.norm!r} is not one of {', '.join(THREATS)}")
    if not math.isfinite(threat.eps) or threat.eps < 0:
        raise InputError(f"eps: {threat.eps} is not a finite number >= 0")
    if threat.norm == "corruption" and threat.eps not in (0, *SEVERITIES):
        raise InputError(f"eps: {threat.eps:g} is not the severity of a corruption; legal: 0, 1, 2, 3, 4, 5")
    if threat.norm == "words" and bool((sentences(box).swaps < 0).all()):
        raise InputError("norm: 'words' replaces words, and the family names none that may stand for another")
    if threat.norm == "labels" and threat.surface != "support":
        raise InputError("norm: 'labels' flips labels of the support; give it with --surface support")
    if threat.norm == "labels" and box.labels > 1:
        raise InputError("norm: 'labels' flips one label an item; these have sequences, legal: linf, l2, l1, words")
    if threat.norm in REPLACED and threat.eps != int(threat.eps):
        raise InputError(f"eps: {threat.eps:g} is not a whole number, of {threat.norm} that may be replaced")
    if threat.norm == "linf" and threat.eps > box.width / 2:
        raise InputError(
            f"eps: {threat.eps:g} is above half the box width ({box.width / 2:g}) in linf;"
            f" inputs lie in [{box.low:g}, {box.high:g}], did you mean {threat.eps:g}/255?"
        )
    return threat


def sentences(box: Box) -> Sentences:
    """Return a space of sentences; refuse any other, in which no word can be replaced."""
    if not isinstance(box, Sentences):
        raise InputError(
            "norm: 'words' replaces words; these inputs are not sentences, legal: linf, l2, l1, corruption"
        )
    return box


def sounds(box: Box) -> Sounds:
    """Return a space of sounds; refuse any other, which has no samples a second."""
    if not isinstance(box, Sounds):
        raise InputError(f"attack: corrupts sounds; these inputs are {box.inputs}")
    return box


def _random_words(x: Tensor, rng: Streams, threat: Threat, box: Box) -> Tensor:
    """Replace `eps` words of every item of x [P,M,L,d], or all that can be, each by one drawn from its swaps."""
    space = sentences(box)
    order, choice = rng.uniform(x[..., 0]), rng.uniform(x[..., 0])
    swaps = space.swaps.to(x.device)[space.numbers(x).clamp_min(0)]  # [P,M,L,n]
    legal = (swaps > 0).sum(dim=-1)
    rank = order.masked_fill(legal == 0, -1).argsort(dim=-1, descending=True).argsort(dim=-1)
    chosen = (rank < threat.eps) & (legal > 0)
    new = swaps.gather(-1, (choice * legal).long().clamp_max(swaps.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
    return torch.where(chosen.unsqueeze(-1), space.table.to(x)[new.clamp_min(0)], x)


def geometry(norm: Norm) -> Geometry:
    return _GEOMETRIES[norm]


def _rows(tensor: Tensor, box: Box) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    def rows(t: Tensor) -> Tensor:
        return t.flatten(-len(box.shape)).flatten(0, -2)

    return rows(tensor), rows


def _unit(rows: Tensor) -> Tensor:
    # Scaled by a power of two first, which is exact: the squares of gradients below 1e-19 would be lost in float32.
    _, exponent = torch.frexp(rows.abs().amax(dim=1, keepdim=True))
    rows = torch.ldexp(rows, -exponent.clamp_min(-120))
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _l2_random(like: Tensor, rng: Streams, eps: float) -> Tensor:
    radius = rng.uniform(like[..., :1]) ** (1 / like.shape[-1])
    direction = rng.normal(like)
    return eps * radius * direction / direction.norm(dim=-1, keepdim=True)


def _l1_random(like: Tensor, rng: Streams, eps: float) -> Tensor:
    # Uniform in the L1 ball: signed exponentials over the sum of D+1 of them (Barthe et al. 2005).
    spacing = -torch.log1p(-rng.uniform(torch.cat([like, like[..., :1]], dim=-1)))
    sign = rng.uniform(like).sub(0.5).sign()
    return eps * sign * spacing[..., :-1] / spacing.sum(dim=-1, keepdim=True)


def _l1_shrink(moved: Tensor, room: Tensor, eps: float) -> Tensor:
    """Project onto the L1 ball intersected with the box (arXiv 2103.01208, Prop. 2.1).

    The projection is sign(u) clip(|u| - cut, 0, room) with the least cut >= 0 that meets the budget, found by Newton's
    method, or by halving its bracket where a step would leave it: mostly in five to ten passes, up to rounding.
    """
    size = moved.abs()
    cut, low, high = torch.zeros_like(size[:, :1]), torch.zeros_like(size[:, :1]), size.amax(dim=1, keepdim=True)
    above, below, rounding = torch.empty_like(size), torch.empty_like(size), torch.finfo(size.dtype).eps
    for step in range(64):
        kept = torch.minimum((size - cut).clamp_min_(0), room)
        over = kept.sum(dim=1, keepdim=True) - eps
        # Masks of floats: comparisons into bool are several times slower on a CPU.
        free = torch.gt(kept, 0, out=above).mul_(torch.lt(kept, room, out=below)).sum(dim=1, keepdim=True)
        settled = (over.abs() <= 4 * rounding * (eps + cut * free)) | ((over <= 0) & (cut == 0))
        if bool(settled.all()):
            break
        low, high = torch.where(over > 0, cut, low), torch.where(over > 0, high, cut)
        newton = cut + over / free
        trusted = (newton > low) & (newton < high) & (step < 24)  # else halving reaches any cut
        cut = torch.where(settled, cut, torch.where(trusted, newton, (low + high) / 2))
    total = kept.sum(dim=1, keepdim=True).clamp_min(max(eps, torch.finfo(size.dtype).tiny))
    return moved.sign() * kept * (eps / total)


def _l1_steepest(gradient: Tensor, room: Tensor, length: float) -> Tensor:
    """Spend the step on the entries of largest gradient that the box still lets move."""
    order = gradient.abs().argsort(dim=1, descending=True, stable=True)
    ordered = room.gather(1, order)
    left = (length - (ordered.cumsum(dim=1) - ordered)).clamp_min(0)
    size = torch.empty_like(room).scatter_(1, order, torch.minimum(ordered, left))
    return gradient.sign() * size


_GEOMETRIES: dict[Norm, Geometry] = {
    "linf": Geometry(
        distance=lambda moved: moved.abs().amax(dim=1),
        shrink=lambda moved, room, eps: moved.clamp(-eps, eps),
        steepest=lambda gradient, room, length: length * gradient.sign(),
        random=lambda like, rng, eps: eps * (2 * rng.uniform(like) - 1),
    ),
    "l2": Geometry(
        distance=lambda moved: moved.norm(dim=1),
        shrink=lambda moved, room, eps: moved * (eps / moved.norm(dim=1, keepdim=True).clamp_min(eps or 1)),
        steepest=lambda gradient, room, length: length * _unit(gradient),
        random=_l2_random,
    ),
    "l1": Geometry(
        distance=lambda moved: moved.abs().sum(dim=1), shrink=_l1_shrink, steepest=_l1_steepest, random=_l1_random
    ),
}
