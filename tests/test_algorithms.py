"""Each algorithm against its paper's arithmetic, done by hand in float64 numpy on the identity network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Identity, blobs, learner

from robustbench_meta import catalog
from robustbench_meta.algorithms.meta_sgd import MetaSGD
from robustbench_meta.algorithms.metaopt import MetaOpt
from robustbench_meta.algorithms.transfer import Transfer
from robustbench_meta.engine import Learner
from robustbench_meta.types import Box, Episodes, InputError

WAYS, SPACE = 3, Box((1, 2, 2))
Array = np.ndarray[Any, np.dtype[np.float64]]


def case() -> Episodes:
    return blobs(tasks=1, ways=WAYS, shots=2, queries=2, box=SPACE, noise=0.2)


def arrays(episodes: Episodes) -> tuple[Array, Array, Array]:
    """The support [S,D], its labels and the queries [Q,D] of the first task."""
    x, query = (part[0].flatten(1).numpy() for part in (episodes.support_x, episodes.query_x))
    return x, episodes.support_y[0].numpy(), query


def found(subject: Learner, episodes: Episodes) -> Array:
    scores: Array = subject.predict(subject.adapt(episodes.support_x, episodes.support_y), episodes.query_x)[0].numpy()
    return scores


def on_pixels(algorithm: Any) -> Learner:
    return learner(algorithm, network=Identity(), space=SPACE, ways=WAYS)


def test_meta_sgd_moves_every_weight_by_its_own_rate_some_of_them_uphill() -> None:
    subject, episodes = on_pixels(MetaSGD(steps=2)), case()
    rng = torch.Generator().manual_seed(4)
    rates = {
        name: torch.randn(value.shape, generator=rng).double()
        for name, value in subject.params.items()
        if name.startswith("rate.")
    }
    rates["rate.scale"] *= 0.1
    subject = replace(subject, params={**subject.params, **rates})
    x, y, query = arrays(episodes)
    weight, bias, scale = (subject.params[name].numpy() for name in ("head.weight", "head.bias", "scale"))
    by_weight, by_bias, by_scale = (rates[f"rate.{name}"].numpy() for name in ("head.weight", "head.bias", "scale"))
    assert (by_weight < 0).any()
    for _ in range(2):
        logits = scale * x @ weight.T + bias
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error = (softmax - np.eye(WAYS)[y]) / len(y)
        slopes = error.T @ (scale * x), error.sum(axis=0), (error * (x @ weight.T)).sum()
        weight, bias, scale = weight - by_weight * slopes[0], bias - by_bias * slopes[1], scale - by_scale * slopes[2]
    np.testing.assert_allclose(found(subject, episodes), scale * query @ weight.T + bias, rtol=1e-9)


def test_the_rates_of_meta_sgd_start_at_one_value_of_its_range_for_every_weight_of_body_and_head() -> None:
    starts = []
    for seed in range(40):
        body = {"conv": torch.zeros(3, 2)}
        made = MetaSGD().parameters(body, 4, WAYS, torch.Generator().manual_seed(seed))
        rates = {name: value for name, value in made.items() if name.startswith("rate.")}
        assert {name: value.shape for name, value in rates.items()} == {
            "rate.conv": (3, 2),
            "rate.head.weight": (WAYS, 4),
            "rate.head.bias": (WAYS,),
        }
        (start,) = torch.cat([value.flatten() for value in rates.values()]).unique().tolist()
        starts.append(start)
    assert 0.005 <= min(starts) < 0.02
    assert 0.085 < max(starts) <= 0.1


def test_transfer_compares_with_class_means_by_squared_distance() -> None:
    x, y, query = arrays(case())
    means = np.stack([x[y == k].mean(axis=0) for k in range(WAYS)])
    expected = -((query[:, None] - means[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(found(on_pixels(Transfer()), case()), expected, rtol=1e-9)


def test_cosine_transfer_compares_with_the_mean_direction_of_each_class() -> None:
    x, y, query = arrays(case())
    x[::2] *= 5  # a longer feature counts no more than a short one
    episodes = replace(case(), support_x=torch.from_numpy(x).view(1, -1, *SPACE.shape))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([unit[y == k].mean(axis=0) for k in range(WAYS)])
    expected = 7 * query @ means.T / np.outer(np.linalg.norm(query, axis=1), np.linalg.norm(means, axis=1))
    np.testing.assert_allclose(found(on_pixels(Transfer("cosine", scale=7.0)), episodes), expected, rtol=1e-9)


def test_metaopt_ridge_solves_the_normal_equations_with_a_fixed_lambda_and_scales_the_scores() -> None:
    subject = on_pixels(MetaOpt(head="ridge", regularisation=2.0))
    subject = replace(subject, params={**subject.params, "head.scale": torch.tensor(3.0, dtype=torch.float64)})
    x, y, query = arrays(case())
    weights = np.linalg.solve(x.T @ x + 2 * np.eye(4), x.T @ np.eye(WAYS)[y])
    np.testing.assert_allclose(found(subject, case()), 3 * query @ weights, rtol=1e-9)


def test_the_machine_of_metaopt_between_two_classes_of_one_item_is_known() -> None:
    subject = learner(MetaOpt(bound=0.1), network=Identity(), space=Box((2,)), ways=2)
    subject = replace(subject, params={**subject.params, "head.scale": torch.tensor(5.0, dtype=torch.float64)})
    support, y = torch.tensor([[[0.9, 0.0], [0.1, 0.0]]]).double(), torch.tensor([[0, 1]])
    # At the bound, class 0 has the weights 0.1 (x_0 - x_1) = (0.08, 0), class 1 minus these.
    scores = subject.predict(subject.adapt(support, y), torch.tensor([[[0.5, 0.7]]]).double())
    np.testing.assert_allclose(scores[0].numpy(), [[0.2, -0.2]], atol=1e-6)


@pytest.mark.parametrize("backend", ["loop", "vmap", "flat"])
@pytest.mark.parametrize("spoilt", ["too few iterations", "not a number"])
def test_a_machine_that_is_not_solved_is_refused_wherever_it_is_adapted(spoilt: str, backend: Any) -> None:
    few = spoilt == "too few iterations"
    episodes, subject = blobs(), learner(MetaOpt(iterations=3 if few else 25), backend=backend)
    if not few:
        episodes.support_x[0] *= torch.nan
    with pytest.raises(InputError, match=r"^iterations: \d+ leave a support vector machine .* from its optimum"):
        subject.adapt(episodes.support_x, episodes.support_y)
    victim = subject.support_victim(episodes)
    with pytest.raises(InputError, match=r"^iterations: "):
        victim.forward(victim.x, victim.points)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("meta-sgd", {"steps": 0}),
        ("meta-sgd", {"lowest": 0.2}),
        ("transfer", {"metric": "manhattan"}),
        ("transfer", {"scale": 0.0}),
        ("metaopt-svm", {"head": "tree"}),
        ("metaopt-svm", {"bound": 0.0}),
        ("metaopt-svm", {"iterations": 0}),
        ("metaopt-ridge", {"regularisation": -1.0}),
    ],
)
def test_options_that_an_algorithm_cannot_have_are_refused_by_name(name: str, bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^{next(iter(bad))}: "):
        catalog.algorithm(name, **bad)
