"""The geometry of the three norms, against brute force and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from robustbench_meta import threats
from robustbench_meta.types import NORMS, Box, InputError, Norm, Streams, Threat

BOX = Box((1, 2, 3))


def inputs(points: int = 40, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw x [P,1,1,2,3] with many entries on the faces of the box."""
    rng = torch.Generator().manual_seed(seed)
    return (torch.rand(points, 1, *BOX.shape, generator=rng, dtype=dtype) * 1.6 - 0.3).clamp(0, 1)


def far(x: Tensor, *, seed: int = 1, scale: float = 1.0) -> Tensor:
    return x + scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def closest_in_l1_ball_and_box(target: np.ndarray, x: np.ndarray, eps: float) -> np.ndarray:
    """Solve min |x + p - n - target|^2 over p, n >= 0, sum(p + n) <= eps, x + p - n in [0, 1]."""
    size = len(x)

    def objective(split: np.ndarray) -> tuple[float, np.ndarray]:
        gap = x + split[:size] - split[size:] - target
        return float(gap @ gap), np.concatenate([2 * gap, -2 * gap])

    found = minimize(
        objective,
        np.zeros(2 * size),
        jac=True,
        bounds=[(0, 1 - v) for v in x] + [(0, v) for v in x],
        constraints={"type": "ineq", "fun": lambda s: eps - s.sum(), "jac": lambda s: -np.ones(2 * size)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return np.asarray(x + found.x[:size] - found.x[size:])


@pytest.mark.parametrize("eps", [0.05, 0.4, 1.5])
def test_the_l1_projection_is_the_closest_point_of_ball_and_box(eps: float) -> None:
    x = inputs(25)
    target = far(x)
    projected = threats.project(target, x, Threat("l1", eps), BOX)
    for found, clean, wanted in zip(projected, x, target, strict=True):
        best = closest_in_l1_ball_and_box(wanted.flatten().numpy(), clean.flatten().numpy(), eps)
        np.testing.assert_allclose(found.flatten().numpy(), best, atol=2e-6)


def test_the_linf_projection_is_the_closest_point_of_ball_and_box() -> None:
    x = inputs()
    target = far(x)
    projected = threats.project(target, x, Threat("linf", 0.2), BOX)
    closest = target.clamp((x - 0.2).clamp_min(0), (x + 0.2).clamp_max(1))
    torch.testing.assert_close(projected, closest, rtol=0, atol=1e-15)


def test_the_l2_projection_scales_the_perturbation_where_the_box_is_far() -> None:
    x = torch.full((5, 1, *BOX.shape), 0.5, dtype=torch.float64)
    target = far(x)
    projected = threats.project(target, x, Threat("l2", 0.3), BOX)
    direction = (target - x) / (target - x).flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(projected, x + 0.3 * direction)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 0.01, 0.3, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projections_lie_within_budget_and_box(norm: Norm, eps: float, dtype: torch.dtype) -> None:
    x = inputs(200, dtype=dtype)
    projected = threats.project(far(x, scale=3), x, Threat(norm, eps), BOX)
    assert threats.within(projected, x, Threat(norm, eps), BOX)
    assert projected.dtype == dtype


@pytest.mark.parametrize("norm", NORMS)
def test_projections_of_large_images_keep_the_budget_in_float32(norm: Norm) -> None:
    box = Box((3, 32, 32))
    x = torch.rand(20, 1, *box.shape, generator=torch.Generator().manual_seed(0))
    for eps in (8 / 255, 0.5, 12.0):
        projected = threats.project(far(x), x, Threat(norm, eps), box)
        assert threats.within(projected, x, Threat(norm, eps), box)


@pytest.mark.parametrize("norm", NORMS)
def test_projecting_again_changes_nothing(norm: Norm) -> None:
    x = inputs()
    once = threats.project(far(x), x, Threat(norm, 0.3), BOX)
    torch.testing.assert_close(threats.project(once, x, Threat(norm, 0.3), BOX), once, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_points_within_are_projected_onto_themselves(norm: Norm) -> None:
    x = inputs()
    near = (x + 0.01 * (inputs(seed=5) - 0.5)).clamp(0, 1)
    torch.testing.assert_close(threats.project(near, x, Threat(norm, 0.5), BOX), near, rtol=0, atol=1e-15)


@pytest.mark.parametrize("norm", NORMS)
def test_eps_zero_projects_onto_the_clean_input_bit_for_bit(norm: Norm) -> None:
    x = inputs(dtype=torch.float32)
    assert torch.equal(threats.project(far(x), x, Threat(norm, 0.0), BOX), x)


def test_distances_are_the_norms_of_each_item() -> None:
    moved = torch.zeros(2, 3, 1, 2, 2, dtype=torch.float64)
    moved[1, 2] = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    for norm, size in (("linf", 4.0), ("l2", 5.0), ("l1", 7.0)):
        expected = torch.zeros(2, 3, dtype=torch.float64)
        expected[1, 2] = size
        assert torch.equal(threats.distance(moved, norm, 3), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.01, 0.3, 2.0])
def test_random_starts_lie_within_budget_and_box(norm: Norm, eps: float) -> None:
    x = inputs(200, dtype=torch.float32)
    start = threats.random_start(x, Streams([1, 2]), Threat(norm, eps), BOX)
    assert threats.within(start, x, Threat(norm, eps), BOX)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball_uniformly(norm: Norm) -> None:
    # In a ball of D dimensions a share s^D of the volume lies within s times its radius; 4 standard errors allowed.
    points, dims, box = 20_000, 6, Box((1, 2, 3))
    x = torch.full((points, 1, *box.shape), 0.5)
    start = threats.random_start(x, Streams([7]), Threat(norm, 0.1), box)
    radii = threats.distance(start - x, norm, 3).flatten() / 0.1
    for share in (0.6, 0.8, 0.95):
        expected = share**dims
        error = math.sqrt(expected * (1 - expected) / points)
        assert abs(float((radii <= share).float().mean()) - expected) < 4 * error
    moved = (start - x).flatten(1)
    assert float(moved.mean(dim=0).abs().max()) < 4 * float(moved.std(dim=0).max()) / math.sqrt(points)


def test_random_starts_of_a_task_do_not_depend_on_the_tasks_beside_it() -> None:
    x = inputs(6)
    for norm in NORMS:
        both = threats.random_start(x, Streams([3, 4]), Threat(norm, 0.1), BOX)
        alone = threats.random_start(x[3:], Streams([4]), Threat(norm, 0.1), BOX)
        assert torch.equal(both[3:], alone)


def test_the_l1_step_spends_its_length_on_the_largest_gradients_with_room() -> None:
    box = Box((5,))
    x = torch.tensor([[[0.5, 0.9, 0.0, 0.2, 0.5]]], dtype=torch.float64)
    gradient = torch.tensor([[[0.1, 5.0, -4.0, -3.0, 2.0]]], dtype=torch.float64)
    # The second entry has 0.1 of room, the third none in its direction, the fourth 0.2; the rest goes to the fifth.
    stepped = threats.ascend(x, gradient, 0.4, "l1", box)
    torch.testing.assert_close(stepped, torch.tensor([[[0.5, 1.0, 0.0, 0.0, 0.6]]], dtype=torch.float64))


def test_steps_have_their_length_where_the_box_is_far() -> None:
    x = torch.full((10, 1, *BOX.shape), 0.5, dtype=torch.float64)
    gradient = far(torch.zeros_like(x))
    for norm in NORMS:
        stepped = threats.ascend(x, gradient, 0.07, norm, BOX)
        length = threats.distance(stepped - x, norm, 3)
        torch.testing.assert_close(length, torch.full_like(length, 0.07))


@pytest.mark.parametrize("norm", NORMS)
def test_no_step_of_the_same_length_gains_more_on_a_linear_function(norm: Norm) -> None:
    # The L2 step is cut by the box instead of turned along it, so there the box has to be far.
    x = torch.full((40, 1, *BOX.shape), 0.5, dtype=torch.float64) if norm == "l2" else inputs()
    gradient = far(torch.zeros_like(x))
    gain = ((threats.ascend(x, gradient, 0.1, norm, BOX) - x) * gradient).flatten(1).sum(1)
    for seed in range(20):
        other = threats.project(far(x, seed=seed), x, Threat(norm, 0.1), BOX)
        assert (gain >= ((other - x) * gradient).flatten(1).sum(1) - 1e-12).all()


def test_a_zero_gradient_steps_nowhere() -> None:
    x = inputs()
    for norm in NORMS:
        assert torch.equal(threats.ascend(x, torch.zeros_like(x), 0.1, norm, BOX), x)


def test_within_sees_a_budget_or_a_box_that_is_left() -> None:
    x = torch.full((3, 1, *BOX.shape), 0.5)
    for norm in NORMS:
        moved = x.clone()
        moved[1, 0, 0, 0, 0] += 0.1
        assert threats.within(moved, x, Threat(norm, 0.1), BOX)
        assert not threats.within(moved, x, Threat(norm, 0.0999), BOX)
        moved[1, 0, 0, 0, 0] = torch.nan
        assert not threats.within(moved, x, Threat(norm, 0.1), BOX)
        outside = torch.full_like(x, 1.0)
        outside[0, 0, 0, 0, 0] = 1.0000001
        assert not threats.within(outside, outside, Threat(norm, 0.1), BOX)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [-0.1, -1e-9, math.nan, math.inf])
def test_budgets_that_are_no_finite_number_from_zero_are_refused(norm: Norm, eps: float) -> None:
    with pytest.raises(InputError, match=r"^eps: .* is not a finite number >= 0$"):
        threats.check(Threat(norm, eps), BOX)


def test_linf_budgets_above_half_the_box_are_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match=r"did you mean 8/255\?"):
        threats.check(Threat("linf", 8), BOX)
    with pytest.raises(InputError, match="half the box width"):
        threats.check(Threat("linf", 1.01), Box((1,), -1, 1))


def test_legal_budgets_pass_unchanged() -> None:
    for threat in (Threat("linf", 0.0), Threat("linf", 0.5), Threat("l2", 3.0), Threat("l1", 12.0)):
        assert threats.check(threat, BOX) is threat


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(InputError, match="linf, l2, l1"):
        threats.check(Threat("l0", 1.0), BOX)  # type: ignore[arg-type]


def test_the_l1_projection_spends_the_budget_on_any_mix_of_sparse_moves_and_narrow_rooms() -> None:
    rng = torch.Generator().manual_seed(0)
    for trial in range(60):
        x = (torch.rand(8, 50, generator=rng, dtype=torch.float64) * 1.4 - 0.2).clamp(0, 1)
        moved = torch.randn(8, 50, generator=rng, dtype=torch.float64) * 10 ** (trial % 4 - 2)
        moved *= torch.rand(8, 50, generator=rng) < torch.rand(8, 1, generator=rng)
        eps = (0.01, 0.1, 3.0)[trial % 3]
        size, room = moved.abs(), torch.where(moved >= 0, 1 - x, x)
        low, high = torch.zeros(8, 1, dtype=torch.float64), size.amax(dim=1, keepdim=True)
        for _ in range(60):
            cut = (low + high) / 2
            over = torch.minimum((size - cut).clamp_min(0), room).sum(dim=1, keepdim=True) > eps
            low, high = torch.where(over, cut, low), torch.where(over, high, cut)
        expected = x + moved.sign() * torch.minimum((size - high).clamp_min(0), room)
        projected = threats.project(x + moved, x, Threat("l1", eps), Box((50,)))
        torch.testing.assert_close(projected, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("scale", [1e-25, 1e-37, 1.0, 1e30])
def test_the_l2_step_has_its_length_however_small_or_large_the_gradient(scale: float) -> None:
    box = Box((3, 4, 4))
    gradient = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x = torch.full_like(gradient, 0.5)
    step = threats.ascend(x, gradient * scale, 0.01, "l2", box) - x
    torch.testing.assert_close(step, threats.ascend(x, gradient, 0.01, "l2", box) - x, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(step.flatten(1).norm(dim=1), torch.full((2,), 0.01), rtol=1e-4, atol=0)
    assert torch.equal(threats.ascend(x, 0 * gradient, 0.01, "l2", box), x)
