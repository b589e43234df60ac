"""Sequences: the L tokens that a learner writes for one input, judged as one; right where every token is.

Shapes: n items of L labels each, N classes. Labels and scores of items lie one after another: [..., n*L].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from robustbench_meta import losses


def judged(scores: Tensor, y: Tensor, labels: int) -> tuple[Tensor, Tensor]:
    """Turn scores [...,n*L,N] and labels y [...,n*L] of tokens into those of whole items; of one label they stay.

    Label 0 means that every token is right: its score is 0, the others', [...,n,1+L], by how much each token is wrong.
    What comes behind the end of a target counts too: a sequence that goes on is not the right one.
    """
    if labels == 1:
        return scores, y
    wrong = losses.margin(scores, y).unflatten(-1, (-1, labels))
    found = torch.cat([torch.zeros_like(wrong[..., :1]), wrong], dim=-1)
    return found, torch.zeros(found.shape[:-1], dtype=torch.int64, device=y.device)


def token_accuracy(written: Tensor, y: Tensor) -> Tensor:
    """Return the share of the target's tokens y [...,L] that stand in their place in `written`; 0 ends a target."""
    tokens = y > 0
    return ((written == y) & tokens).sum(dim=-1).double() / tokens.sum(dim=-1).clamp_min(1)


def text(tokens: Sequence[int], words: Sequence[str]) -> str:
    """Write tokens by the words of a task, up to the end, token 0."""
    numbers = list(tokens)
    return " ".join(words[number] for number in numbers[: numbers.index(0) if 0 in numbers else None])


def chrf(written: str, target: str) -> float:
    """Return the chrF of a sentence, from 0 to 1 (Popovic 2015, doi:10.18653/v1/W15-3049), by sacrebleu's defaults."""
    return float(_metric().sentence_score(written, [target]).score) / 100


@cache
def _metric() -> Any:
    from sacrebleu.metrics.chrf import CHRF  # half a second, which only sequences are worth

    return CHRF()
