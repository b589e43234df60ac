"""What every algorithm of the catalog keeps to; a new one is tested by being in its folder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import Identity, blobs, learner
from torch import Tensor

from robustbench_meta import catalog
from robustbench_meta.engine import Learner
from robustbench_meta.losses import correct, cross_entropy
from robustbench_meta.types import Episodes, NormMode

ALGORITHMS = catalog.names("algorithms")
STEPS = 3


def scores(subject: Learner, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    return subject.predict(subject.adapt(support_x, support_y, steps=STEPS), query_x)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_separates_blobs_and_does_not_when_the_support_is_shuffled(name: str) -> None:
    subject = learner(name, network=Identity(), ways=5)
    episodes = blobs(tasks=6, ways=5, queries=5, noise=0.15)
    wrong = episodes.support_y[:, torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    right = subject.predict(subject.adapt(episodes.support_x, episodes.support_y, steps=150), episodes.query_x)
    shuffled = subject.predict(subject.adapt(episodes.support_x, wrong, steps=150), episodes.query_x)
    assert correct(right, episodes.query_y).float().mean() > 0.9
    assert correct(shuffled, episodes.query_y).float().mean() < 0.4


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_order_of_the_support_is_irrelevant(name: str) -> None:
    subject, episodes = learner(name), blobs()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    x, y = episodes.support_x[:, order], episodes.support_y[:, order]
    torch.testing.assert_close(
        scores(subject, x, y, episodes.query_x),
        scores(subject, episodes.support_x, episodes.support_y, episodes.query_x),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("norm_mode", ["support", "running"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_query_is_independent_of_its_batch_mates(name: str, norm_mode: NormMode) -> None:
    subject, episodes = learner(name), blobs()
    statistics = {k: v[0] for k, v in subject.adapt(episodes.support_x, episodes.support_y).norm.items()}
    subject = replace(subject, norm_mode=norm_mode, running=statistics)
    fitted = subject.adapt(episodes.support_x, episodes.support_y)
    together = subject.predict(fitted, episodes.query_x)
    alone = torch.cat([subject.predict(fitted, episodes.query_x[:, q : q + 1]) for q in range(9)], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_under_batch_statistics_a_query_does_depend_on_its_batch_mates(name: str) -> None:
    subject, episodes = learner(name, norm_mode="batch"), blobs()
    fitted = subject.adapt(episodes.support_x, episodes.support_y)
    together = subject.predict(fitted, episodes.query_x)
    fewer = subject.predict(fitted, episodes.query_x[:, :4])
    assert (together[:, :4] - fewer).abs().max() > 1e-4


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_to_the_support_equals_finite_differences(name: str) -> None:
    subject, episodes = learner(name), blobs(tasks=1)

    def loss(support_x: Tensor) -> Tensor:
        outputs = scores(subject, support_x, episodes.support_y, episodes.query_x)
        return cross_entropy(outputs, episodes.query_y).mean()

    x = episodes.support_x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    assert gradient.abs().sum() > 0
    rng = torch.Generator().manual_seed(3)
    for _ in range(3):
        direction = torch.randn(x.shape, generator=rng, dtype=x.dtype)
        with torch.no_grad():
            difference = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-8)


def meta_step(subject: Learner, episodes: Episodes) -> list[Tensor]:
    """Scores of the queries, then the gradient of their mean loss by the support and by every parameter it reaches."""
    params = {name: value.clone().requires_grad_() for name, value in subject.params.items()}
    x = episodes.support_x.clone().requires_grad_()
    outputs = scores(replace(subject, params=params), x, episodes.support_y, episodes.query_x)
    loss = cross_entropy(outputs, episodes.query_y).mean()
    gradients = torch.autograd.grad(loss, [x, *params.values()], allow_unused=True)
    return [outputs.detach(), *(torch.zeros(()) if g is None else g for g in gradients)]


def running(subject: Learner, episodes: Episodes) -> Learner:
    """The learner with running statistics such as meta-training would have gathered."""
    norm = replace(subject, norm_mode="support").adapt(episodes.support_x, episodes.support_y).norm
    return replace(subject, running={name: value.mean(dim=0).detach() for name, value in norm.items()})


@pytest.mark.parametrize("norm_mode", ["support", "batch", "running"])
@pytest.mark.parametrize("meta_gradient", ["exact", "first-order"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_backends_are_equal(name: str, meta_gradient: str, norm_mode: str) -> None:
    episodes = blobs(tasks=3)
    subject = running(learner(name, meta_gradient=meta_gradient, norm_mode=norm_mode), episodes)
    looped = meta_step(subject, episodes)
    for backend in ("vmap", "flat"):
        found = meta_step(replace(subject, backend=backend), episodes)
        for one, other in zip(looped, found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", ["loop", "vmap", "flat"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_recomputed_meta_gradient_is_the_exact_one(name: str, backend: str) -> None:
    episodes = blobs(tasks=2)
    exact = meta_step(learner(name, backend=backend), episodes)
    found = meta_step(learner(name, backend=backend, meta_gradient="recomputed"), episodes)
    assert exact[1].abs().sum() > 0
    for one, other in zip(exact, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["loop", "vmap", "flat"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_rollout_gives_the_learners_of_every_step_count(name: str, backend: str) -> None:
    subject, episodes = learner(name, backend=backend), blobs()
    for count, fitted in zip(
        (0, 1, 3), subject.rollout(episodes.support_x, episodes.support_y, [0, 1, 3]), strict=True
    ):
        alone = subject.adapt(episodes.support_x, episodes.support_y, steps=count)
        assert torch.equal(subject.predict(fitted, episodes.query_x), subject.predict(alone, episodes.query_x))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_adaptation_leaves_its_inputs_and_the_meta_parameters_alone(name: str) -> None:
    subject, episodes = learner(name), blobs()
    before = [value.clone() for value in [*subject.params.values(), episodes.support_x, episodes.support_y]]
    scores(subject, episodes.support_x, episodes.support_y, episodes.query_x)
    for old, new in zip(before, [*subject.params.values(), episodes.support_x, episodes.support_y], strict=True):
        assert torch.equal(old, new)
