"""The heads against problems worked out by hand, and the support vector machine against another solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.func import vmap

from robustbench_meta.heads import BARRIER, class_means, distances, ridge, svm

Array = np.ndarray[Any, np.dtype[np.float64]]


def features(items: int = 9, width: int = 4, ways: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random features whose classes overlap, in float64."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(ways).repeat_interleave(items // ways)
    return 2 * torch.rand(items, width, generator=rng, dtype=torch.float64) + 0.5 * torch.eye(ways, width)[y], y


def primal(x: Array, y: Array, ways: int, bound: float) -> Array:
    """Weights [W,N] of least 1/2 |w|^2 + bound sum(slack), under w_y x - w_k x >= 1 - slack, by scipy's SLSQP."""
    width, items = x.shape[1], len(x)

    def parted(v: Array) -> tuple[Array, Array]:
        return v[: width * ways].reshape(width, ways), v[width * ways :]

    def objective(v: Array) -> float:
        weights, slack = parted(v)
        return float(0.5 * (weights**2).sum() / max(bound, 1) + min(bound, 1) * slack.sum())

    def margins(v: Array) -> Array:
        weights, slack = parted(v)
        scores = x @ weights
        gaps = scores[np.arange(items), y][:, None] - scores - 1 + slack[:, None]
        return np.concatenate([np.delete(row, label) for row, label in zip(gaps, y, strict=True)])

    start = np.concatenate([np.zeros(width * ways), np.ones(items)])
    constraints = [{"type": "ineq", "fun": margins}, {"type": "ineq", "fun": lambda v: v[width * ways :]}]
    solved = minimize(
        objective, start, method="SLSQP", constraints=constraints, options={"ftol": 1e-12, "maxiter": 500}
    )
    assert solved.success
    return parted(solved.x)[0]


@pytest.mark.parametrize(("bound", "weight"), [(0.1, 0.2), (0.25, 0.5), (10.0, 0.5)])
def test_the_machine_of_two_opposite_points_is_known(bound: float, weight: float) -> None:
    # Multipliers at their bound give w_0 = bound (x_0 - x_1); from bound = 1/4 on, both margins are met exactly.
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    found = svm(x, torch.tensor([0, 1]), 2, bound=bound, iterations=40)
    expected = torch.tensor([[weight, -weight], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(found.weights, expected, rtol=0, atol=1e-4 if bound == 0.25 else 1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bound", [0.1, 1.0, 5.0])
def test_the_machine_is_that_of_another_solver(bound: float, seed: int) -> None:
    x, y = features(seed=seed)
    expected = primal(x.numpy(), y.numpy(), 3, bound)
    found = svm(x, y, 3, bound=bound, iterations=40)
    np.testing.assert_allclose(found.weights.numpy(), expected, atol=2e-5)
    assert found.residual < 1e-10


@pytest.mark.parametrize("bound", [0.1, 1.0, 5.0])
def test_the_weights_of_the_machine_cost_no_more_than_the_barrier_above_the_least(bound: float) -> None:
    x, y = features()

    def cost(weights: Tensor) -> float:
        scores = x @ weights
        gaps = 1 - torch.eye(3)[y] + scores - scores.gather(1, y.unsqueeze(1))
        return float(0.5 * weights.square().sum() + bound * gaps.amax(dim=1).sum())

    least = cost(torch.from_numpy(primal(x.numpy(), y.numpy(), 3, bound)))
    assert cost(svm(x, y, 3, bound=bound, iterations=40).weights) <= least + 1.01 * x.shape[0] * 3 * BARRIER + 1e-9


@pytest.mark.parametrize("bound", [0.1, 1.0, 5.0])
def test_the_gradient_of_the_machine_equals_finite_differences(bound: float) -> None:
    x, y = features()
    probe = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value(x: Tensor) -> Tensor:
        return (probe * svm(x, y, 3, bound=bound, iterations=40).weights).sum()

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    assert gradient.abs().max() > 0.01
    for seed in range(4):
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
        difference = (value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-6)


def test_machines_of_several_tasks_are_solved_at_once_to_the_same_weights() -> None:
    tasks = [features(seed=seed) for seed in range(3)]
    alone = torch.stack([svm(x, y, 3, bound=0.1, iterations=25).weights for x, y in tasks])

    def weights(x: Tensor, y: Tensor) -> Tensor:
        return svm(x, y, 3, bound=0.1, iterations=25).weights

    together = vmap(weights)(torch.stack([x for x, _ in tasks]), torch.stack([y for _, y in tasks]))
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_a_machine_in_single_precision_is_solved_in_double() -> None:
    x, y = features()
    single, double = (svm(x.to(dtype), y, 3, bound=0.1, iterations=25) for dtype in (torch.float32, torch.float64))
    assert single.weights.dtype == torch.float32
    assert single.residual < 1e-9
    torch.testing.assert_close(single.weights.double(), double.weights, rtol=1e-5, atol=1e-6)


def test_too_few_iterations_leave_a_residual() -> None:
    x, y = features()
    residuals = [float(svm(x, y, 3, bound=1.0, iterations=count).residual) for count in (2, 6, 40)]
    assert residuals[0] > 1e-2 > residuals[1] > 1e-6 > residuals[2]


def test_ridge_regression_solves_the_normal_equations() -> None:
    x, y = features()
    design, labels = x.numpy(), np.eye(3)[y.numpy()]
    expected = np.linalg.solve(design.T @ design + 0.7 * np.eye(4), design.T @ labels)
    np.testing.assert_allclose(ridge(x, y, 3, 0.7).numpy(), expected, rtol=1e-9)


def test_class_means_and_distances_on_three_points() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 3.0]])
    means = class_means(x, torch.tensor([1, 1, 0]), 2)
    assert means.tolist() == [[4, 3], [1, 0]]
    assert distances(torch.zeros(1, 2), means).tolist() == [[25, 1]]
