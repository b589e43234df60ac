"""Word substitutions and label flips: greedy search, with or without a gradient, by words that the space allows.

Greedy replacement of one word after another by whichever hurts most (Kuleshov et al. 2018; Jin et al., arXiv
1907.11932, without their ranking of words, which saves queries alone). With a gradient, only the replacements that
promise most to first order are tried (HotFlip, Ebrahimi et al., arXiv 1712.06751, equation 1). The labels of a support
are a sentence, too, in which every class may stand for every other.
Shapes: P' points, L words of a sentence, n words that may stand in a place, C candidates of a point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_meta import losses, threats
from robustbench_meta.ascent import Search, from_clean, gradient_of
from robustbench_meta.types import InputError, Norm, Sentences, Streams, Surface, Threat, Victim

ROWS = 8192  # labels that are judged at once


@dataclass(frozen=True)
class Words:
    """Replace `eps` words, each time by the replacement that raises the margin most.

    `tried` limits what is scored to the replacements of a sentence that promise most by the margin's gradient; None:
    all that are legal are scored.
    """

    tried: int | None = None

    norms: ClassVar[tuple[Norm, ...]] = ("words",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_single_points: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.tried is not None and not 1 <= self.tried <= 10_000:
            raise InputError(f"tried: {self.tried} is not between 1 and 10000")

    @property
    def needs_gradient(self) -> bool:
        return self.tried is not None

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        return from_clean(self, victim, threat, rng)

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack the points that still stand."""
        _replace(search, threat, self.tried)


@dataclass(frozen=True)
class Flips:
    """Flip `eps` labels of a task's support, each time the one after which most proxies are wrong.

    Where several are equal, the one that raises the mean margin most. All labels of the task count as one item.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("labels",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("support",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        return from_clean(self, victim, threat, rng)

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack the tasks that still have a proxy to lose."""
        _replace(search, threat, tried=None)


def _replace(search: Search, threat: Threat, tried: int | None) -> None:
    victim, points = search.victim, search.standing()
    space = threats.sentences(victim.space)
    x, original = victim.x[points].squeeze(1), space.numbers(victim.x[points].squeeze(1))
    for _ in range(int(threat.eps)):
        if not len(points):
            return
        candidates = _candidates(space, x, original)
        if tried is not None:
            candidates = _promising(victim, space, x, points, candidates, tried)
        x = _best(search, space, x, points, candidates)
        left = torch.isin(points, search.standing())
        points, x, original = points[left], x[left], original[left]


def _candidates(space: Sentences, x: Tensor, original: Tensor) -> Tensor:
    """Return which word may stand in each place of x [P',L,d] next, -1 for none: [P',L,n].

    A place that was filled anew is done with.
    """
    untouched = (space.table.to(x)[original.clamp_min(0)] == x).all(dim=-1)
    swaps: Tensor = space.swaps.to(x.device)[original.clamp_min(0)]
    return swaps.masked_fill(~untouched.unsqueeze(-1), -1)


def _promising(victim: Victim, space: Sentences, x: Tensor, points: Tensor, candidates: Tensor, tried: int) -> Tensor:
    """Keep of the candidates [P',L,n] the `tried` of each point whose first-order gain is largest."""
    _, gradient = gradient_of(victim, x.unsqueeze(1), points, lambda outputs, at: losses.margin(outputs, victim.y[at]))
    moves = space.table.to(x)[candidates.clamp_min(0)] - x.unsqueeze(2)
    gain = (moves * gradient.squeeze(1).unsqueeze(2)).sum(dim=-1).masked_fill(candidates < 0, -torch.inf).flatten(1)
    least = gain.topk(min(tried, gain.shape[1]), dim=1).values[:, -1:]
    return candidates.masked_fill((gain < least).view_as(candidates), -1)


def _best(search: Search, space: Sentences, x: Tensor, points: Tensor, candidates: Tensor) -> Tensor:
    """Score every candidate, offer each point's best, and return the sentences with it; those without stay."""
    row, place, choice = (candidates > 0).nonzero(as_tuple=True)
    margins = x.new_full((len(x), candidates[0].numel()), -torch.inf)
    wrong = torch.full_like(margins, -1)
    labels = search.victim.y.shape[1]
    for part in range(0, len(row), at_once := max(1, ROWS // labels)):
        here = slice(part, part + at_once)
        tried = _with(space, x[row[here]], place[here], candidates[row[here], place[here], choice[here]])
        with torch.no_grad():
            outputs = search.victim.forward(tried.unsqueeze(1), points[row[here]])
        # A sentence without scores is wrong, as losses.correct says; it must not hide the others from argmax.
        found = losses.margin(outputs, search.victim.y[points[row[here]]]).nan_to_num(nan=torch.inf)
        at = (row[here], place[here] * candidates.shape[2] + choice[here])
        wrong[at], margins[at] = (found >= 0).to(wrong.dtype).mean(dim=1), found.mean(dim=1)
    best = margins.masked_fill(wrong < wrong.amax(dim=1, keepdim=True), -torch.inf).argmax(dim=1)
    able = (margins.gather(1, best.unsqueeze(1)).squeeze(1) > -torch.inf).nonzero().squeeze(1)
    place, choice = best[able] // candidates.shape[2], best[able] % candidates.shape[2]
    replaced = x.index_copy(0, able, _with(space, x[able], place, candidates[able, place, choice]))
    if len(able):
        search.judge(replaced[able].unsqueeze(1), points[able])
    return replaced


def _with(space: Sentences, x: Tensor, place: Tensor, word: Tensor) -> Tensor:
    """Put one word into each of x [B,L,d]."""
    written = x.clone()
    written[torch.arange(len(x), device=x.device), place] = space.table.to(x)[word]
    return written


PRESETS: dict[str, Words | Flips] = {
    "words-greedy": Words(),
    "words-gradient": Words(tried=2),
    "flips-greedy": Flips(),
}
