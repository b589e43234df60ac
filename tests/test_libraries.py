"""What stands between a victim and an attack library."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustbench_meta import threats
from robustbench_meta.algorithms.protonet import ProtoNet
from robustbench_meta.engine import Learner, start_params
from robustbench_meta.libraries import Classifier, attack_tasks
from robustbench_meta.linear import linear
from robustbench_meta.networks import Conv4
from robustbench_meta.types import NORMS, Box, Norm, Threat


@pytest.mark.parametrize("norm", NORMS)
def test_what_a_library_leaves_outside_is_brought_back_and_the_rest_is_kept(norm: Norm) -> None:
    victims, threat = linear(tasks=1, queries=6), Threat(norm, 0.3)

    def craft(classifier: Classifier, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        inside = images + 0.001
        return torch.where(torch.arange(len(images)).view(-1, 1, 1, 1) < 2, images + 5, inside)

    x_adv = attack_tasks(victims.victim, threat, victims.streams(), craft)
    assert threats.within(x_adv, victims.victim.x, threat, victims.victim.space)
    assert torch.equal(x_adv[2:5], victims.victim.x[2:5] + 0.001)
    assert not torch.equal(x_adv[:2], victims.victim.x[:2])


def test_libraries_see_only_queries_that_are_classified_correctly() -> None:
    victims = linear(tasks=2, queries=6)
    seen = []

    def craft(classifier: Classifier, images: Tensor, labels: Tensor, seed: int) -> Tensor:
        seen.append(classifier(images).argmax(-1).eq(labels).tolist())
        return images + 0.01

    x_adv = attack_tasks(victims.victim, Threat("linf", 0.1), victims.streams(), craft)
    assert seen == [[True] * 5, [True] * 5]  # the sixth query of a task has a wrong label
    assert (x_adv != victims.victim.x).flatten(1).any(1).tolist() == [*[True] * 5, False] * 2


def test_backward_through_a_classifier_reaches_the_image_and_not_the_weights() -> None:
    victims = linear(tasks=2, queries=3, ways=4)
    victims.weights.requires_grad_()
    image = victims.victim.x[3].clone().requires_grad_()
    Classifier(victims.victim, 3)(image)[0, 2].backward()
    assert image.grad is not None
    torch.testing.assert_close(image.grad.flatten(), victims.weights[1, 2].detach())
    assert victims.weights.grad is None
    assert victims.victim.cost.forwards.tolist() == [0, 1]
    assert victims.victim.cost.backwards.tolist() == [0, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_libraries_may_take_views_of_a_gradient(channels: int) -> None:
    space = Box((channels, 8, 8))
    params = start_params(ProtoNet(), Conv4(width=4, depth=2), space, 2, torch.Generator().manual_seed(0))
    learner = Learner(ProtoNet(), Conv4(width=4, depth=2), params, space, 2)
    x, y = torch.rand(1, 4, *space.shape), torch.tensor([[0, 0, 1, 1]])
    victim = learner.query_victim(learner.adapt(x, y), x, y)
    images = victim.x.squeeze(1).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Classifier(victim, 0)(images).sum(), images)
    assert gradient.is_contiguous()
