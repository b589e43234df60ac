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


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("meta-sgd", {"steps": 0}),
        ("meta-sgd", {"lowest": 0.2}),
        ("transfer", {"metric": "manhattan"}),
        ("transfer", {"scale": 0.0}),
    ],
)
def test_options_that_an_algorithm_cannot_have_are_refused_by_name(name: str, bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^{next(iter(bad))}: "):
        catalog.algorithm(name, **bad)
