"""Word substitutions and label flips, of what the space allows: greedy, with or without a gradient, or all there are.

Greedy replacement of one word after another by whichever hurts most (Kuleshov et al. 2018; Jin et al., arXiv
1907.11932, without their ranking of words, which saves queries alone). With a gradient, only the replacements that
promise most to first order are tried (HotFlip, Ebrahimi et al., arXiv 1712.06751, equation 1). Where sentences have
few words that may be replaced, all combinations can be scored: what then stands is robust, not only found to be. The
labels of a support are a sentence, too, in which every class may stand for every other.
Shapes: P' points, L words of a sentence, n words that may stand in a place, C candidates of all points together.
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
class EveryWording:
    """Score all that at most `eps` replacements make of a sentence, those of fewer words first, until one fools.

    What stands is exactly the robust accuracy. Raise InputError where a sentence has more wordings than `limit`,
    before any is scored: part of a search would be no more than another greedy one.
    """

    limit: int = 10_000

    norms: ClassVar[tuple[Norm, ...]] = ("words",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= 10_000_000:
            raise InputError(f"limit: {self.limit} is not between 1 and 10000000")

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        return from_clean(self, victim, threat, rng)

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack the points that still stand."""
        space, points = threats.sentences(search.victim.space), search.standing()
        x = search.victim.x[points].squeeze(1)
        candidates, most = _candidates(space, x, space.numbers(x)), min(int(threat.eps), x.shape[1])
        wordings = _wordings(candidates, most)
        if bool((wordings > self.limit).any()):
            raise InputError(
                f"eps: {threat.eps:g} replaced words make {float(wordings.max()):.0f} wordings of a sentence, of which"
                f" {self.limit} at most are scored; lower eps, take words-greedy, or an EveryWording of a higher limit"
            )
        for words in range(1, most + 1):
            _judge_all(search, space, x, points, candidates, words=words)


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
    word = candidates[row, place, choice]
    if not len(row):
        return x
    scored = [
        _scored(search, _with(space, x[row[part]], place[part], word[part]), points[row[part]])
        for part in torch.arange(len(row), device=x.device).split(max(1, ROWS // search.victim.y.shape[1]))
    ]
    best = _foremost(row, torch.cat(scored))
    able = row[best]
    replaced = x.index_copy(0, able, _with(space, x[able], place[best], word[best]))
    search.judge(replaced[able].unsqueeze(1), points[able])
    return replaced


def _judge_all(search: Search, space: Sentences, x: Tensor, points: Tensor, candidates: Tensor, *, words: int) -> None:
    """Offer the best of all that exactly `words` replacements by candidates [P',L,n] make of x [P',L,d].

    Each combination is met once, its places from left to right. Points that are fooled meanwhile drop out; no more
    than ROWS sentences are written at once in each of the `words` levels.
    """
    left = torch.isin(points, search.standing())
    x, points, candidates = x[left], points[left], candidates[left]
    if not len(points):
        return
    if words == 0:
        best = _foremost(points, _scored(search, x, points))
        search.judge(x[best].unsqueeze(1), points[best])
        return
    row, place, choice = (candidates > 0).nonzero(as_tuple=True)
    order = torch.arange(x.shape[1], device=x.device).view(1, -1, 1)
    for part in torch.arange(len(row), device=x.device).split(ROWS):
        at, here = row[part], place[part]
        written = _with(space, x[at], here, candidates[at, here, choice[part]])
        behind = candidates[at].masked_fill(order <= here.view(-1, 1, 1), -1)
        _judge_all(search, space, written, points[at], behind, words=words - 1)


def _wordings(candidates: Tensor, words: int) -> Tensor:
    """Count what one to `words` replacements by candidates [P',L,n] make of each sentence: [P'], in float64."""
    counts = candidates.new_zeros(len(candidates), words + 1, dtype=torch.float64)  # by the number of replaced words
    counts[:, 0] = 1
    for choices in (candidates > 0).sum(dim=-1).unbind(dim=1):
        counts[:, 1:] += counts[:, :-1] * choices.unsqueeze(1)
    return counts[:, 1:].sum(dim=1)


def _scored(search: Search, x: Tensor, points: Tensor) -> Tensor:
    """Return of sentences x [C,L,d] what share of their labels is wrong, and the mean margin: [C,2]."""
    with torch.no_grad():
        outputs = search.victim.forward(x.unsqueeze(1), points)
    # A sentence without scores is wrong, as losses.correct says; it must not hide the others when they are ranked.
    found = losses.margin(outputs, search.victim.y[points]).nan_to_num(nan=torch.inf)
    return torch.stack([(found >= 0).to(found.dtype).mean(dim=1), found.mean(dim=1)], dim=1)


def _foremost(row: Tensor, scored: Tensor) -> Tensor:
    """Index in `scored` [C,2] the best of each row [C]: of equal shares the largest margin, of equal ones the first."""
    order = scored[:, 1].argsort(descending=True, stable=True)
    order = order[scored[order, 0].argsort(descending=True, stable=True)]
    order = order[row[order].argsort(stable=True)]
    return order[row[order].diff(prepend=row.new_full((1,), -1)) != 0]


def _with(space: Sentences, x: Tensor, place: Tensor, word: Tensor) -> Tensor:
    """Put one word into each of x [B,L,d]."""
    written = x.clone()
    written[torch.arange(len(x), device=x.device), place] = space.table.to(x)[word]
    return written


PRESETS: dict[str, Words | EveryWording | Flips] = {
    "words-greedy": Words(),
    "words-exhaustive": EveryWording(),
    "words-gradient": Words(tried=2),
    "flips-greedy": Flips(),
}
