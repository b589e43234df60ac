"""What every attack of the catalog promises, in every norm it claims.

The linear victims have closed-form answers; the convolutional one has inputs on the faces of the box, a kink, and
weights that require a gradient. Attacks of libraries that we do not depend on (torchattacks, cleverhans) are skipped
where these are not installed; `make agreement-tests` installs both and fails if one of their promises is skipped.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta import catalog, threats
from robustbench_meta.linear import Linear, linear, of
from robustbench_meta.types import NORMS, Attack, Box, Cost, Norm, Streams, Threat, Victim

NUMBERED = ("noise-5", "pgd-3", "pgd-10-aq", "pgd-10-rmaml", "pgd-20-dfsl", "pgd-mt-20")
NAMES = sorted({*catalog.names("attacks"), *NUMBERED, "fgsm+apgd-ce"})
# Words that are replaced have closed forms of their own, in test_words.py; what attacks a support alone is tested in
# test_poisoning.py, and corruptions in test_corruptions.py.
ON_QUERIES = [name for name in NAMES if "query" in catalog.attack(name).surfaces]
CLAIMS = [(name, norm) for name in ON_QUERIES for norm in catalog.attack(name).norms if norm in NORMS]
GRADIENT_CLAIMS = [(name, norm) for name, norm in CLAIMS if catalog.attack(name).needs_gradient]
OWN_CLAIMS = [(name, norm) for name, norm in CLAIMS if ".via_" not in type(catalog.attack(name)).__module__]

# Made to train with, as their papers define them; the definition itself keeps each from a linear model's optimum.
FOR_TRAINING = {
    "fgsm-rs": "a random start and one step of 1.25 eps end inside the ball",
    "pgd-10-kl": "leaves the clean prediction in either direction, also towards confidence",
}
OPTIMAL_CLAIMS = [(name, norm) for name, norm in GRADIENT_CLAIMS if name not in FOR_TRAINING]
# These look for every wrong class, so they reach the closed form with any number of classes.
EVERY_CLASS = (
    "apgd-t",
    "autoattack",
    "autoattack-reference",
    "fab-t",
    "foolbox:L2DeepFoolAttack",
    "foolbox:LinfDeepFoolAttack",
    "pgd-mt-20",
    "pgd-mt-50",
)
# No DLR loss exists for fewer classes; elsewhere two are asked for, where each attack has but one class to look for.
LEAST_WAYS = {"apgd-dlr": 3, "apgd-t": 4}
CONV_EPS: dict[Norm, float] = {"linf": 0.05, "l2": 1.0, "l1": 8.0}


@pytest.fixture(autouse=True)
def _its_library_is_there(request: pytest.FixtureRequest, optional: Callable[[str], None]) -> None:
    if package := getattr(attack(request.node.callspec.params["name"]), "needs_package", ""):
        optional(package)


def attack(name: str) -> Attack:
    return catalog.attack(name)


def convolutional(tasks: int = 2, queries: int = 3, ways: int = 3) -> tuple[Victim, list[Tensor]]:
    """Build T small networks on 2 x 6 x 6 images, and return their weights too, which require a gradient."""
    rng = torch.Generator().manual_seed(0)
    box = Box((2, 6, 6))
    x = (torch.rand(tasks * queries, 1, *box.shape, generator=rng) * 1.4 - 0.2).clamp(0, 1)
    kernels = (torch.randn(tasks, 4, 2, 3, 3, generator=rng) / 4).requires_grad_()
    heads = (torch.randn(tasks, ways, 16, generator=rng) / 4).requires_grad_()
    cost = Cost(torch.zeros(tasks, dtype=torch.int64), torch.zeros(tasks, dtype=torch.int64))

    def forward(x: Tensor, points: Tensor) -> Tensor:
        scores = x.new_zeros(len(x), ways)
        for task in range(tasks):
            rows = (points // queries == task).nonzero().squeeze(1)
            hidden = F.max_pool2d(F.conv2d(x[rows].squeeze(1), kernels[task]).relu(), 2).flatten(1)
            scores = scores.index_put((rows,), hidden @ heads[task].T)
        return scores.unsqueeze(1)

    with torch.no_grad():
        y = forward(x, torch.arange(len(x))).argmax(-1)
    return Victim(forward, x, y, box, tasks, cost), [kernels, heads]


@cache
def generous() -> Linear:
    return linear(ways=5, tasks=2, queries=10)


def generous_threat(norm: Norm) -> Threat:
    """A budget that lets an attack which looks for every class fool every point."""
    return Threat(norm, 1.5 * float(generous().distances(norm).max()))


@cache
def crafted(name: str, norm: Norm) -> Tensor:
    return attack(name)(generous().victim, generous_threat(norm), generous().streams())


def global_state() -> tuple[object, ...]:
    generator = np.random.get_state(legacy=False)["state"]
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        generator["pos"],
        generator["key"].tolist(),
        torch.is_grad_enabled(),
        sys.gettrace(),
    )


@pytest.mark.parametrize(("name", "norm"), CLAIMS)
def test_x_adv_keeps_budget_box_shape_and_dtype(name: str, norm: Norm) -> None:
    victim = generous().victim
    x_adv = crafted(name, norm)
    assert threats.within(x_adv, victim.x, generous_threat(norm), victim.space)
    assert (x_adv.shape, x_adv.dtype, x_adv.requires_grad) == (victim.x.shape, victim.x.dtype, False)


@pytest.mark.parametrize(("name", "norm"), CLAIMS)
def test_inputs_weights_and_global_state_are_untouched(name: str, norm: Norm) -> None:
    victim, weights = convolutional(ways=max(LEAST_WAYS.get(name, 2), 3))
    before = [t.detach().clone() for t in (victim.x, victim.y, *weights)]
    with torch.no_grad():
        state = global_state()
        x_adv = attack(name)(victim, Threat(norm, CONV_EPS[norm]), Streams([5, 6]))
        assert global_state() == state
    assert all(torch.equal(was, now) for was, now in zip(before, (victim.x, victim.y, *weights), strict=True))
    assert all(weight.requires_grad and weight.grad is None for weight in weights)
    assert not victim.x.requires_grad
    assert x_adv.data_ptr() != victim.x.data_ptr()
    assert threats.within(x_adv, victim.x, Threat(norm, CONV_EPS[norm]), victim.space)


@pytest.mark.parametrize(("name", "norm"), CLAIMS)
def test_the_same_seed_gives_the_same_bytes(name: str, norm: Norm) -> None:
    torch.rand(3)  # whatever the global generator is at
    state = global_state()
    again = attack(name)(generous().victim, generous_threat(norm), generous().streams())
    assert global_state() == state
    assert torch.equal(again, crafted(name, norm))


@pytest.mark.parametrize(("name", "norm"), CLAIMS)
def test_eps_zero_is_the_identity_bit_for_bit(name: str, norm: Norm) -> None:
    victim = generous().victim
    x_adv = attack(name)(victim, Threat(norm, 0.0), generous().streams())
    assert torch.equal(x_adv, victim.x)
    assert x_adv.data_ptr() != victim.x.data_ptr()


@pytest.mark.parametrize(("name", "norm"), OPTIMAL_CLAIMS)
def test_a_gradient_attack_beats_noise(name: str, norm: Norm) -> None:
    survivors = int(generous().survives(crafted(name, norm)).sum())
    assert survivors < int(generous().survives(crafted("noise", norm)).sum())


@pytest.mark.parametrize(("name", "norm"), [claim for claim in CLAIMS if claim not in OPTIMAL_CLAIMS])
def test_nothing_is_fooled_beyond_its_closed_form_distance(name: str, norm: Norm) -> None:
    victims = linear(ways=LEAST_WAYS.get(name, 2), tasks=1, queries=12, seed=1)
    eps = 0.9 * float(victims.distances(norm)[victims.distances(norm) > 0].min())
    x_adv = attack(name)(victims.victim, Threat(norm, eps), victims.streams())
    assert torch.equal(victims.survives(x_adv), victims.distances(norm) > 0)


@pytest.mark.parametrize(("name", "norm"), OPTIMAL_CLAIMS)
def test_a_gradient_attack_reaches_the_closed_form_optimum_of_the_fewest_classes(name: str, norm: Norm) -> None:
    assert_optimal(name, norm, linear(ways=LEAST_WAYS.get(name, 2), tasks=1, queries=20, seed=2))


@pytest.mark.parametrize(("name", "norm"), [claim for claim in OPTIMAL_CLAIMS if claim[0] in EVERY_CLASS])
def test_an_attack_on_every_class_reaches_the_closed_form_optimum_of_five(name: str, norm: Norm) -> None:
    assert_optimal(name, norm, linear(ways=5, tasks=1, queries=20, seed=3))


def assert_optimal(name: str, norm: Norm, victims: Linear) -> None:
    """The verdict is the closed form's wherever the distance is not within 5 % below eps."""
    distances, eps = victims.distances(norm), victims.eps(norm)
    survived = victims.survives(attack(name)(victims.victim, Threat(norm, eps), victims.streams()))
    assert not survived[distances < 0.95 * eps].any()
    assert survived[distances > eps * (1 + 1e-4)].all()


@pytest.mark.parametrize(("name", "norm"), OWN_CLAIMS)
def test_what_a_task_meets_does_not_depend_on_the_tasks_beside_it(name: str, norm: Norm) -> None:
    both = generous()
    half = len(both.victim.x) // 2
    second = of(both.weights[1:], both.victim.x[half:], both.victim.y[half:, 0], both.victim.space.shape)
    alone = attack(name)(second.victim, generous_threat(norm), Streams([1]))
    assert torch.equal(alone, crafted(name, norm)[half:])


# Not for the ensemble, since its members are here one by one.
@pytest.mark.parametrize(
    ("name", "norm"), [claim for claim in OWN_CLAIMS if claim in OPTIMAL_CLAIMS and claim[0] != "autoattack"]
)
def test_permuting_queries_permutes_results(name: str, norm: Norm) -> None:
    # Random starts stay with the place of a query, so bytes differ; away from the boundary verdicts may not.
    one = linear(ways=LEAST_WAYS.get(name, 2), tasks=1, queries=20, seed=4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = of(one.weights, one.victim.x[order], one.victim.y[order, 0], one.victim.space.shape)
    threat = Threat(norm, one.eps(norm))
    straight = one.survives(attack(name)(one.victim, threat, one.streams()))
    permuted = shuffled.survives(attack(name)(shuffled.victim, threat, shuffled.streams()))
    ratio = one.distances(norm)[order] / threat.eps
    clear = (ratio < 0.95) | (ratio > 1.0001)
    assert torch.equal(straight[order][clear], permuted[clear])
