"""benchmarks/writing.py: learners that copy from their support, on a support made by hand."""

from __future__ import annotations

from typing import Any

import torch
from scripts import load

load("families")
writing: Any = load("writing")

X = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.1, 1.0]]])  # S=3, L=2, d=2
Y = torch.tensor([1, 2, 2, 0, 2, 0])


def written(scores: torch.Tensor) -> list[list[int]]:
    return scores.argmax(dim=1).view(-1, 2).tolist()


def test_nearest_writes_the_target_of_the_source_that_is_most_like() -> None:
    learner = writing.Nearest(3)
    queries = torch.tensor([[[0.9, 0.2], [0.5, 0.0]], [[0.0, 0.5], [0.0, 0.5]]])
    assert written(learner.predict(learner.adapt(X, Y), queries)) == [[1, 2], [2, 0]]


def test_commonest_writes_one_target_whatever_it_reads() -> None:
    learner = writing.Commonest(3)
    assert written(learner.predict(learner.adapt(X, Y), X[:2])) == [[2, 0], [2, 0]]
