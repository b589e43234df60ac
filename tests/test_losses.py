"""Losses and verdicts by literals."""

from __future__ import annotations

import math

import torch

from robustbench_meta import losses

Z = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 3.0]], dtype=torch.float64)
Y = torch.tensor([0, 1])


def test_the_margin_is_the_best_wrong_score_minus_the_true_one() -> None:
    assert losses.margin(Z, Y).tolist() == [-1.0, 0.0]


def test_a_tie_counts_as_wrong_and_so_does_nan() -> None:
    assert losses.correct(Z, Y).tolist() == [True, False]
    assert not losses.correct(torch.full((1, 3), torch.nan), Y[:1]).any()


def test_cross_entropy_is_in_nats() -> None:
    expected = math.log(math.exp(2) + math.exp(1) + 1) - 2
    assert math.isclose(losses.cross_entropy(Z, Y)[0].item(), expected, rel_tol=1e-12)


def test_targets_are_ranked_from_the_likeliest_and_leave_the_truth_out() -> None:
    assert losses.ranked_targets(Z, Y).tolist() == [[1, 2], [2, 0]]
    assert losses.targeted_margin(Z, Y, torch.tensor([2, 0])).tolist() == [-2.0, -3.0]


def test_divergence_is_zero_from_itself_and_as_computed_by_hand_otherwise() -> None:
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    assert losses.kl_divergence(p, p).item() == 0
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert math.isclose(losses.kl_divergence(q, p).item(), expected, rel_tol=1e-5)
