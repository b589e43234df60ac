"""Every defense's loss is its paper's, on one case worked out in float64 numpy without our code.

The learner is a linear softmax classifier that takes one gradient step (MAML on the identity network);
the crafting attack is FGSM, whose step is eps times the sign of the input gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Identity, blobs, learner

from robustbench_meta import catalog
from robustbench_meta.algorithms.maml import MAML
from robustbench_meta.types import Box, Defense, Episodes, Streams, Threat

EPS, RATE, WAYS = 0.07, 0.5, 3
SPACE = Box((1, 2, 2))
Array = np.ndarray[Any, np.dtype[np.float64]]
Theta = tuple[Array, Array]


def softmax(z: Array) -> Array:
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def logits(theta: Theta, x: Array) -> Array:
    return x @ theta[0].T + theta[1]


def entropy(theta: Theta, x: Array, y: Array) -> float:
    return float(-np.log(softmax(logits(theta, x))[np.arange(len(y)), y]).mean())


def adapted(theta: Theta, x: Array, y: Array) -> Theta:
    error = (softmax(logits(theta, x)) - np.eye(WAYS)[y]) / len(y)
    return theta[0] - RATE * error.T @ x, theta[1] - RATE * error.sum(axis=0)


def fgsm(theta: Theta, x: Array, y: Array) -> Array:
    gradient = (softmax(logits(theta, x)) - np.eye(WAYS)[y]) @ theta[0]
    return np.clip(x + EPS * np.sign(gradient), 0, 1)


def standard(theta: Theta, s: Array, sy: Array, q: Array, qy: Array) -> float:
    return entropy(adapted(theta, s, sy), q, qy)


def aq(theta: Theta, s: Array, sy: Array, q: Array, qy: Array) -> float:
    phi = adapted(theta, s, sy)
    return entropy(phi, fgsm(phi, q, qy), qy)


def mixed(theta: Theta, s: Array, sy: Array, q: Array, qy: Array) -> float:
    s_adv = fgsm(adapted(theta, s, sy), s, sy)
    phi = adapted(theta, np.concatenate([s, s_adv]), np.concatenate([sy, sy]))
    return 0.5 * (entropy(phi, q, qy) + entropy(phi, fgsm(phi, q, qy), qy))


def adml(theta: Theta, s: Array, sy: Array, q: Array, qy: Array) -> float:
    clean, adversarial = adapted(theta, s, sy), adapted(theta, fgsm(theta, s, sy), sy)
    return 0.5 * (entropy(clean, fgsm(clean, q, qy), qy) + entropy(adversarial, q, qy))


def trades(theta: Theta, s: Array, sy: Array, q: Array, qy: Array) -> float:
    phi = adapted(theta, s, sy)
    p, p_adv = softmax(logits(phi, q)), softmax(logits(phi, fgsm(phi, q, qy)))
    return entropy(phi, q, qy) + 3.0 * float((p * np.log(p / p_adv)).sum(axis=1).mean())


BY_HAND: dict[str, Callable[..., float]] = {
    "standard": standard,
    "aq": aq,
    "mixed": mixed,
    "adml": adml,
    "trades": trades,
}


def case() -> Episodes:
    return blobs(tasks=2, ways=WAYS, shots=2, queries=2, box=SPACE, noise=0.2)


def loss_of(defense: Defense, episodes: Episodes, eps: float = EPS) -> list[float]:
    subject = learner(MAML(step_size=RATE, steps=1), network=Identity(), space=SPACE, ways=WAYS)
    subject = replace(subject, algorithm=_HeadOnly(step_size=RATE, steps=1))
    terms = defense.loss(subject, episodes, Threat("linf", eps), Streams([5, 6]))
    return torch.stack(list(terms.values())).sum(dim=0).tolist()


class _HeadOnly(MAML):
    def start(self, net: Any, params: Any) -> Any:
        return {name: value for name, value in params.items() if name.startswith("head.")}


def test_the_hand_worked_cases_cover_the_catalog() -> None:
    assert sorted(BY_HAND) == catalog.names("defenses")


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_its_loss_is_the_papers_on_a_case_computed_by_hand(name: str) -> None:
    episodes = case()
    params = learner(MAML(), network=Identity(), space=SPACE, ways=WAYS).params
    theta = (params["head.weight"].numpy(), params["head.bias"].numpy())
    arrays = [
        (s.flatten(1).numpy(), sy.numpy(), q.flatten(1).numpy(), qy.numpy())
        for s, sy, q, qy in zip(episodes.support_x, episodes.support_y, episodes.query_x, episodes.query_y, strict=True)
    ]
    expected = [BY_HAND[name](theta, *task) for task in arrays]
    found = loss_of(catalog.defense(name, craft="fgsm"), episodes)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(BY_HAND) - {"standard"}))
def test_a_larger_budget_makes_the_loss_larger(name: str) -> None:
    defense = catalog.defense(name, craft="fgsm")
    none, some = loss_of(defense, case(), eps=0.0), loss_of(defense, case())
    assert sum(some) > sum(none) + 1e-3


@pytest.mark.parametrize("craft", ["noise", "fgsm-rs", "pgd-3", "pgd-7-aq", "pgd-2-kl", "pgd-mt-2"])
@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_it_trains_every_algorithm_with_any_crafting_attack(name: str, craft: str) -> None:
    defense = catalog.defense(name, craft=craft)
    episodes = blobs(tasks=1, shots=1, queries=1)
    for algorithm in catalog.names("algorithms"):
        subject = learner(algorithm)
        params = {key: value.requires_grad_() for key, value in subject.params.items()}
        terms = defense.loss(subject, episodes, Threat("linf", 0.05), Streams([3]))
        assert all(value.shape == (1,) for value in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert params["conv0.weight"].grad is not None
        assert params["conv0.weight"].grad.abs().sum() > 0
