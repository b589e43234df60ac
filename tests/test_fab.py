"""FAB: its projections are the least moves in every norm, its iterates the reference's, its answers exact."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from pyautoattack.fab_pt import FABAttack_PT
from scipy.optimize import linprog, minimize
from test_attack_contract import CONV_EPS, convolutional
from torch import Tensor

from robustbench_meta import losses, threats
from robustbench_meta.ascent import Search
from robustbench_meta.attacks.fab import PRESETS, TargetedFAB, to_plane
from robustbench_meta.libraries import Classifier
from robustbench_meta.linear import linear, of
from robustbench_meta.types import NORMS, Box, InputError, Norm, Streams, Threat, Victim

THEIRS: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}
BOX = Box((12,), -1.0, 2.0)


def planes(share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw rows [2,6,12] with entries on the faces of BOX, normals [6,12] with zeros, a share of what is in reach."""
    rng = torch.Generator().manual_seed(0)
    rows = (4 * torch.rand(2, 6, 12, generator=rng, dtype=torch.float64) - 1.5).clamp(BOX.low, BOX.high)
    normal = torch.randn(6, 12, generator=rng, dtype=torch.float64)
    normal[:, ::5] = 0
    up = (normal * (torch.where(normal > 0, BOX.high, BOX.low) - rows)).sum(-1)
    down = (normal * (torch.where(normal > 0, BOX.low, BOX.high) - rows)).sum(-1)
    return rows, normal, share * torch.stack((up[0], down[1]))


def least(row: Tensor, normal: Tensor, missing: float, norm: Norm) -> float:
    """Solve for the least norm of a move: a linear program in Linf and L1, a quadratic one in L2."""
    size = len(row)
    low, high, a = (BOX.low - row).numpy(), (BOX.high - row).numpy(), normal.numpy()
    if norm == "l2":
        found = minimize(
            lambda d: d @ d / 2,
            (low + high) / 2,
            jac=lambda d: d,
            bounds=list(zip(low, high, strict=True)),
            constraints={"type": "eq", "fun": lambda d: a @ d - missing, "jac": lambda d: a},
            options={"maxiter": 500, "ftol": 1e-14},
        )
        assert found.success
        return float((2 * found.fun) ** 0.5)
    # Variables: the move, then what bounds its entries: one for each (L1) or one for all (Linf).
    bounds = torch.eye(size) if norm == "l1" else torch.ones(size, 1)
    count = bounds.shape[1]
    move = torch.eye(size)
    found = linprog(
        [0.0] * size + [1.0] * count,
        A_ub=torch.cat((torch.cat((move, -bounds), 1), torch.cat((-move, -bounds), 1))).numpy(),
        b_ub=[0.0] * 2 * size,
        A_eq=[[*a.tolist(), *[0.0] * count]],
        b_eq=[missing],
        bounds=[*zip(low, high, strict=True), *[(0, None)] * count],
    )
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_a_projection_is_the_least_move_onto_the_plane_inside_the_box(norm: Norm, share: float) -> None:
    rows, normal, missing = planes(share)
    moved = to_plane(rows, normal, missing, norm, BOX)
    assert ((normal * moved).sum(-1) - missing).abs().max() < 1e-9
    assert (rows + moved).min() >= BOX.low - 1e-12
    assert (rows + moved).max() <= BOX.high + 1e-12
    sizes = moved.norm(p={"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=-1)
    for k in range(2):
        for b in range(6):
            expected = least(rows[k, b], normal[b], float(missing[k, b]), norm)
            assert float(sizes[k, b]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_where_the_box_misses_the_plane_the_move_ends_in_the_nearest_corner(norm: Norm) -> None:
    rows, normal, missing = planes(1.5)
    upwards = (missing.unsqueeze(-1) * normal).sign()
    corner = torch.where(upwards > 0, BOX.high, torch.where(upwards < 0, BOX.low, rows))
    torch.testing.assert_close(rows + to_plane(rows, normal, missing, norm, BOX), corner)


@pytest.mark.parametrize("norm", NORMS)
def test_no_gap_and_no_gradient_mean_no_move(norm: Norm) -> None:
    rows, normal, missing = planes(0.5)
    assert not to_plane(rows, normal, 0 * missing, norm, BOX).any()
    assert not to_plane(rows, 0 * normal, missing, norm, BOX).any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("ways", [2, 3, 5, 10, 12])
def test_on_a_linear_model_the_verdicts_are_exact_for_any_number_of_classes(norm: Norm, ways: int) -> None:
    victims = linear(ways=ways, tasks=2, queries=10, seed=ways)
    distances, eps = victims.distances(norm), victims.eps(norm)
    attack = replace(PRESETS["fab-t"], targets=ways - 1)
    survived = victims.survives(attack(victims.victim, Threat(norm, eps), victims.streams()))
    assert 0 < int(survived.sum()) < len(survived)
    assert torch.equal(survived, distances > eps)


def test_the_preset_takes_the_standard_settings() -> None:
    assert PRESETS["fab-t"] == TargetedFAB(100, restarts=1, targets=9, pull=0.1, overshoot=1.05, retreat=0.9)


@dataclass
class Recorder:
    """Lists the inputs that a classifier is asked about: ours as a victim, theirs as a function of images."""

    victim: Victim
    seen: list[Tensor]

    def forward(self, x: Tensor, points: Tensor) -> Tensor:
        self.seen.append(x.detach().squeeze(1).clone())
        return self.victim.forward(x, points)

    def __call__(self, images: Tensor) -> Tensor:
        return self.forward(images.unsqueeze(1), self.victim.points).squeeze(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rank", [0, 1])
def test_every_iterate_is_the_reference_s(norm: Norm, rank: int) -> None:
    victim, _ = convolutional(tasks=1, queries=8)
    ours, theirs = Recorder(victim, []), Recorder(victim, [])
    search = Search(replace(victim, forward=ours.forward))
    attack = TargetedFAB(steps=30, targets=2)
    target = losses.ranked_targets(search.judge(victim.x, victim.points), victim.y)[..., rank]
    attack._walk(search, Threat(norm, 1e-9), victim.x, target)
    reference = FABAttack_PT(theirs, norm=THEIRS[norm], n_iter=30, targeted=True, device="cpu")
    reference.target_class = rank + 2
    with torch.no_grad():
        reference.attack_single_run(victim.x.squeeze(1), victim.y.squeeze(1), is_targeted=True)
    # Ours asked once for the clean scores, theirs twice.
    assert len(ours.seen) - 1 == len(theirs.seen) - 2 == 60
    for one, other in zip(ours.seen[1:], theirs.seen[2:], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("share", [0.1, 0.3])
def test_verdicts_are_the_reference_s(norm: Norm, share: float) -> None:
    victim, _ = convolutional(tasks=1, queries=40)
    threat = Threat(norm, share * CONV_EPS[norm])
    theirs = FABAttack_PT(
        Classifier(victim, 0), norm=THEIRS[norm], eps=threat.eps, targeted=True, device="cpu", n_target_classes=2
    )
    expected = theirs.perturb(victim.x.squeeze(1), victim.y.squeeze(1)).unsqueeze(1)
    found = TargetedFAB(targets=2)(victim, threat, Streams([0]))

    def survivors(x: Tensor) -> Tensor:
        with torch.no_grad():
            return losses.correct(victim.forward(x, victim.points), victim.y).squeeze(1)

    assert 0 < int(survivors(found).sum()) < 40
    assert torch.equal(survivors(found), survivors(expected))


def test_it_goes_on_from_a_search_and_leaves_what_it_has_fooled_alone() -> None:
    victims = linear(ways=5, tasks=2, queries=10)
    threat = Threat("l2", 1.5 * float(victims.distances("l2").max()))
    search = Search(victims.victim)
    search.judge(victims.victim.x, victims.victim.points)
    standing = search.standing()
    assert 0 < len(standing) < 20
    before, forwards = search.x_adv.clone(), victims.victim.cost.forwards.clone()
    PRESETS["fab-t"].extend(search, threat, victims.streams())
    assert not len(search.standing())
    fooled = torch.ones(20, dtype=torch.bool).index_fill(0, standing, False)
    assert torch.equal(search.x_adv[fooled], before[fooled])
    # The clean scores, and one step on a linear model: a forward for its gradient and one for its verdict.
    assert int((victims.victim.cost.forwards - forwards).sum()) == 3 * len(standing)


@pytest.mark.parametrize("norm", NORMS)
def test_the_first_restart_begins_at_the_clean_input_and_the_others_half_of_eps_away(norm: Norm) -> None:
    victims = linear(tasks=2, queries=4)
    victim, eps = victims.victim, 0.1 * victims.eps(norm)
    spy = Recorder(victim, [])
    search = Search(replace(victim, forward=spy.forward))
    TargetedFAB(steps=1, targets=1, restarts=3).extend(search, Threat(norm, eps), Streams([0, 1]))
    first, second, third = (spy.seen[1 + 2 * restart] for restart in range(3))
    assert torch.equal(first, victim.x[:, 0])
    assert not torch.equal(second, third)
    for start in (second, third):
        away = threats.distance(start - first, norm, 3)
        torch.testing.assert_close(away, torch.full_like(away, eps / 2), rtol=1e-4, atol=1e-6)


def test_counts_below_one_are_refused() -> None:
    for field in ("steps", "restarts", "targets"):
        with pytest.raises(InputError, match=rf"^{field}: 0 is not between"):
            TargetedFAB(**{field: 0})


@pytest.mark.parametrize("norm", NORMS)
def test_every_target_is_walked_to_for_the_likeliest_class_need_not_be_the_nearest(norm: Norm) -> None:
    # Class 1 scores -0.18, but takes a move of 0.5 in Linf; class 2 scores -0.9 and takes one of 0.026.
    checkers = torch.tensor([0.9, -1.0]).repeat(18)
    weights = torch.stack([torch.zeros(36), torch.full((36,), -0.01), checkers]).unsqueeze(0)
    one = of(weights, torch.full((1, 1, 1, 6, 6), 0.5), torch.tensor([0]), (1, 6, 6))
    eps = 1.2 * float(one.distances(norm))
    outputs = one.victim.forward(one.victim.x, one.victim.points)
    assert losses.ranked_targets(outputs, one.victim.y)[0, 0].tolist() == [1, 2]
    assert not one.survives(PRESETS["fab-t"](one.victim, Threat(norm, eps), one.streams())).any()
