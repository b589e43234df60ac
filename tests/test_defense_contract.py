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
from robustbench_meta.types import Box, Defense, Episodes, InputError, Streams, Threat

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


def fgsm(theta: Theta, x: Array, y: Array, eps: float = EPS) -> Array:
    gradient = (softmax(logits(theta, x)) - np.eye(WAYS)[y]) @ theta[0]
    return np.clip(x + eps * np.sign(gradient), 0, 1)


def standard(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    return entropy(adapted(theta, s, sy), q, qy)


def aq(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    phi = adapted(theta, s, sy)
    return entropy(phi, fgsm(phi, q, qy), qy)


def mixed(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    s_adv = fgsm(adapted(theta, s, sy), s, sy)
    phi = adapted(theta, np.concatenate([s, s_adv]), np.concatenate([sy, sy]))
    return 0.5 * (entropy(phi, q, qy) + entropy(phi, fgsm(phi, q, qy), qy))


def adml(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    clean, adversarial = adapted(theta, s, sy), adapted(theta, fgsm(theta, s, sy), sy)
    return 0.5 * (entropy(clean, fgsm(clean, q, qy), qy) + entropy(adversarial, q, qy))


def trades(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    phi = adapted(theta, s, sy)
    p, p_adv = softmax(logits(phi, q)), softmax(logits(phi, fgsm(phi, q, qy)))
    return entropy(phi, q, qy) + 3.0 * float((p * np.log(p / p_adv)).sum(axis=1).mean())


def fast(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    phi = adapted(theta, s, sy)
    start = np.clip(q + EPS * (2 * draws - 1), 0, 1)
    slope = (softmax(logits(phi, start)) - np.eye(WAYS)[qy]) @ phi[0]
    stepped = start + 1.25 * EPS * np.sign(slope)
    return entropy(phi, np.clip(np.clip(stepped, q - EPS, q + EPS), 0, 1), qy)


def overreach(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    phi = adapted(theta, s, sy)
    return entropy(phi, fgsm(phi, q, qy, 1.5 * EPS), qy)


def support(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    return entropy(adapted(theta, fgsm(theta, s, sy), sy), q, qy)


def support_twice(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    return support(adapted(theta, fgsm(theta, s, sy), sy), s, sy, q, qy, draws)


def rmaml(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    phi = adapted(theta, s, sy)
    return entropy(phi, q, qy) + entropy(phi, fgsm(phi, q, qy), qy)


def both(theta: Theta, s: Array, sy: Array) -> Theta:
    clean, robust = adapted(theta, s, sy), adapted(theta, fgsm(theta, s, sy), sy)
    return clean[0] + 0.2 * (robust[0] - theta[0]), clean[1] + 0.2 * (robust[1] - theta[1])


def rmaml_both(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    phi = both(theta, s, sy)
    return entropy(phi, q, qy) + entropy(phi, fgsm(phi, q, qy), qy)


def rmaml_both_twice(theta: Theta, s: Array, sy: Array, q: Array, qy: Array, draws: Array) -> float:
    return rmaml_both(both(theta, s, sy), s, sy, q, qy, draws)


BY_HAND: dict[str, Callable[..., float]] = {
    "standard": standard,
    "aq": aq,
    "mixed": mixed,
    "adml": adml,
    "trades": trades,
    "fast": fast,
    "overreach": overreach,
    "support": support,
    "rmaml": rmaml,
    "rmaml-both": rmaml_both,
}


def case() -> Episodes:
    return blobs(tasks=2, ways=WAYS, shots=2, queries=2, box=SPACE, noise=0.2)


def loss_of(defense: Defense, episodes: Episodes, eps: float = EPS, steps: int = 1) -> list[float]:
    subject = learner(MAML(step_size=RATE, steps=1), network=Identity(), space=SPACE, ways=WAYS)
    subject = replace(subject, algorithm=_HeadOnly(step_size=RATE, steps=steps))
    terms = defense.loss(subject, episodes, Threat("linf", eps), Streams([5, 6]))
    return torch.stack(list(terms.values())).sum(dim=0).tolist()


def by_hand(loss: Callable[..., float], episodes: Episodes) -> list[float]:
    params = learner(MAML(), network=Identity(), space=SPACE, ways=WAYS).params
    theta = (params["head.weight"].numpy(), params["head.bias"].numpy())
    found = []
    for task in range(episodes.tasks):
        s, sy, q, qy = (
            part[task].numpy() for part in (episodes.support_x, episodes.support_y, episodes.query_x, episodes.query_y)
        )
        s, q = s.reshape(len(s), -1), q.reshape(len(q), -1)
        draws = torch.rand(q.shape, generator=torch.Generator().manual_seed(5 + task)).double().numpy()
        found.append(loss(theta, s, sy, q, qy, draws))
    return found


class _HeadOnly(MAML):
    def start(self, net: Any, params: Any) -> Any:
        return {name: value for name, value in params.items() if name.startswith("head.")}


def test_the_hand_worked_cases_cover_the_catalog() -> None:
    assert sorted(BY_HAND) == catalog.names("defenses")


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_its_loss_is_the_papers_on_a_case_computed_by_hand(name: str) -> None:
    expected = by_hand(BY_HAND[name], case())
    assert loss_of(catalog.defense(name, craft="fgsm"), case()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("name", "twice"), [("support", support_twice), ("rmaml-both", rmaml_both_twice)])
def test_the_support_is_attacked_anew_at_every_inner_step(name: str, twice: Callable[..., float]) -> None:
    found = loss_of(catalog.defense(name, craft="fgsm"), case(), steps=2)
    assert found == pytest.approx(by_hand(twice, case()), rel=1e-9)


ATTACKING_QUERIES = [name for name in sorted(BY_HAND) if "query" in catalog.defense(name, craft="fgsm").surfaces]


@pytest.mark.parametrize("name", ATTACKING_QUERIES)
def test_a_larger_budget_makes_the_loss_on_attacked_queries_larger(name: str) -> None:
    defense = catalog.defense(name, craft="fgsm")
    none, some = loss_of(defense, case(), eps=0.0), loss_of(defense, case())
    assert sum(some) > sum(none) + 1e-3


def test_a_reach_beyond_the_box_is_refused() -> None:
    with pytest.raises(InputError, match="eps"):
        loss_of(catalog.defense("overreach", craft="fgsm", reach=8.0), case())
    with pytest.raises(InputError, match=r"reach: 0\.9 "):
        catalog.defense("overreach", craft="fgsm", reach=0.9)


@pytest.mark.parametrize("craft", ["noise", "fgsm-rs", "pgd-3", "pgd-7-aq", "pgd-2-kl", "pgd-mt-2"])
@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_it_trains_every_algorithm_with_any_crafting_attack(name: str, craft: str) -> None:
    defense = catalog.defense(name, craft=craft)
    episodes = blobs(tasks=1, shots=1, queries=1)
    for algorithm in catalog.names("algorithms"):
        subject = learner(algorithm)
        params = {key: value.requires_grad_() for key, value in subject.params.items()}
        terms = defense.loss(subject, episodes, Threat("linf", 0.03), Streams([3]))
        assert all(value.shape == (1,) for value in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert params["conv0.weight"].grad is not None
        assert params["conv0.weight"].grad.abs().sum() > 0
