"""The engine: equal backends, honest victims, first order as a property of training alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Identity, blobs, learner
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from robustbench_meta import catalog, evaluate
from robustbench_meta.engine import Fitted, Learner, ObjectLearner, craft, has_gradient
from robustbench_meta.losses import cross_entropy
from robustbench_meta.networks import BatchNorm, Conv4
from robustbench_meta.types import Box, InputError, MetaGradient, Net, Params, Streams, Threat

EVERY = ["protonet", "r2d2", "maml", "anil"]


@pytest.mark.parametrize("backend", ["loop", "vmap", "flat"])
@pytest.mark.parametrize("name", EVERY)
def test_a_victim_scores_any_subset_of_points_as_predict_does(name: str, backend: str) -> None:
    subject, episodes = learner(name, backend=backend), blobs(tasks=3)
    fitted = subject.adapt(episodes.support_x, episodes.support_y)
    victim = subject.query_victim(fitted, episodes.query_x, episodes.query_y)
    expected = subject.predict(fitted, episodes.query_x).flatten(0, 1)
    points = torch.tensor([20, 3, 4, 26, 0, 5])  # out of order, and nothing of the second task
    scores = victim.forward(victim.x[points], points)
    assert scores.shape == (6, 1, 3)
    torch.testing.assert_close(scores.squeeze(1), expected[points], rtol=1e-10, atol=1e-10)


def test_a_victim_counts_the_rows_that_go_forward_and_come_back_task_by_task() -> None:
    subject, episodes = learner("protonet"), blobs(tasks=2)
    victim = subject.query_victim(
        subject.adapt(episodes.support_x, episodes.support_y), episodes.query_x, episodes.query_y
    )
    points = torch.tensor([0, 1, 2, 9])
    x = victim.x[points].requires_grad_()
    torch.autograd.grad(victim.forward(x, points).sum(), x)
    victim.forward(victim.x, victim.points)
    assert victim.cost.forwards.tolist() == [3 + 9, 1 + 9]
    assert victim.cost.backwards.tolist() == [3, 1]


def test_under_batch_statistics_a_whole_query_set_is_one_point() -> None:
    subject, episodes = learner("protonet", norm_mode="batch"), blobs(tasks=2)
    victim = subject.query_victim(
        subject.adapt(episodes.support_x, episodes.support_y), episodes.query_x, episodes.query_y
    )
    assert victim.x.shape == (2, 9, 1, 8, 8)
    assert victim.y.shape == (2, 9)
    assert victim.forward(victim.x[1:], victim.points[1:]).shape == (1, 9, 3)


@pytest.mark.parametrize("name", ["fomaml", "maml", "protonet", "r2d2"])
def test_poisoning_differentiates_through_adaptation_itself(name: str) -> None:
    subject = learner(name, meta_gradient=catalog.algorithm(name).meta_gradient)
    episodes = blobs(tasks=2)
    victim = subject.support_victim(episodes, steps=2)
    x = victim.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(victim.forward(x, victim.points), victim.y).sum(), x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)

    def loss(x: Tensor) -> Tensor:
        return cross_entropy(victim.forward(x, victim.points), victim.y).sum()

    with torch.no_grad():
        difference = (loss(x + 1e-6 * direction) - loss(x - 1e-6 * direction)) / 2e-6
    assert difference.abs() > 1e-6
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-8)


def test_the_first_order_meta_gradient_is_the_query_gradient_at_the_adapted_weights() -> None:
    subject = learner("fomaml", network=Identity(), meta_gradient="first-order")
    params = {name: value.requires_grad_() for name, value in subject.params.items()}
    episodes = blobs(tasks=1)
    fitted = subject.adapt(episodes.support_x, episodes.support_y, steps=2)
    loss = cross_entropy(subject.predict(fitted, episodes.query_x), episodes.query_y).mean()
    found = torch.autograd.grad(loss, [params["head.weight"], params["head.bias"]])
    weight = fitted.state["head.weight"][0].detach().numpy()
    bias = fitted.state["head.bias"][0].detach().numpy()
    scale = fitted.state["scale"][0].item()
    x, y = scale * episodes.query_x[0].flatten(1).numpy(), episodes.query_y[0].numpy()
    logits = x @ weight.T + bias
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = (probability - np.eye(3)[y]) / len(y)
    np.testing.assert_allclose(found[0].numpy(), error.T @ x, rtol=1e-8)
    np.testing.assert_allclose(found[1].numpy(), error.sum(axis=0), rtol=1e-8)
    assert not np.allclose(weight, params["head.weight"].detach().numpy())


def test_more_inner_steps_continue_the_fewer() -> None:
    subject, episodes = learner("maml"), blobs()
    two = subject.adapt(episodes.support_x, episodes.support_y, steps=2)
    onwards = replace(subject, params={name: value[0] for name, value in two.state.items()})
    four = subject.adapt(episodes.support_x, episodes.support_y, steps=4)
    again = onwards.adapt(episodes.support_x[:1], episodes.support_y[:1], steps=2)
    for name in four.state:
        torch.testing.assert_close(again.state[name][0], four.state[name][0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_folded_normalisation_equals_batch_norm_on_the_support_itself(name: str) -> None:
    """On the support, the support's own statistics must give what batch normalisation of it gives."""
    subject, episodes = learner(name), blobs(tasks=1)
    fitted = subject.adapt(episodes.support_x, episodes.support_y, steps=1)
    by_support = subject.predict(fitted, episodes.support_x)
    by_batch = replace(subject, norm_mode="batch").predict(fitted, episodes.support_x)
    torch.testing.assert_close(by_support, by_batch, rtol=1e-9, atol=1e-9)


def test_crafting_leaves_no_trace_in_the_graph_or_the_parameters() -> None:
    subject, episodes = learner("protonet"), blobs()
    params = {name: value.requires_grad_() for name, value in subject.params.items()}
    fitted = subject.adapt(episodes.support_x, episodes.support_y)
    threat = Threat("linf", 0.05)
    x_adv = craft(
        subject,
        fitted,
        episodes.query_x,
        episodes.query_y,
        attack=catalog.attack("pgd-7-aq"),
        threat=threat,
        rng=Streams([1, 2]),
    )
    assert not x_adv.requires_grad
    assert all(value.grad is None for value in params.values())
    assert (x_adv - episodes.query_x).abs().max() <= 0.05 + 1e-6
    cross_entropy(subject.predict(fitted, x_adv), episodes.query_y).mean().backward()  # the graph is still whole
    assert params["conv0.weight"].grad is not None


class NearestMean:
    """The learner a researcher tries first: class means of the pixels."""

    def __init__(self, differentiable: bool):
        self.differentiable = differentiable

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x[y == label].flatten(1).mean(dim=0) for label in range(int(y.max()) + 1)])

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        if not self.differentiable:
            return torch.from_numpy(-np.linalg.norm(rows.numpy()[:, None] - fitted.numpy(), axis=2))
        return -torch.cdist(rows, fitted)


class NormalisedByItsBatch(NearestMean):
    """What a network left in training mode does."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, x - x.mean(dim=0))


def test_a_users_object_that_looks_at_the_whole_batch_is_flagged_and_not_refused() -> None:
    run: dict[str, Any] = {"family": "strokes", "attacks": "fgsm", "eps": 0.05, "queries": 1, "tasks": 1}
    alone = evaluate(learner=NearestMean(True), name="alone", **run)
    together = evaluate(learner=NormalisedByItsBatch(True), name="transductive", **run)
    assert alone["status"].tolist() == ["ok"]
    assert together["status"].tolist() == ["flagged"]
    assert "F10" in together["flags"][0]


def test_crafting_refuses_an_attack_that_does_not_serve_the_threat() -> None:
    subject, episodes = learner("protonet"), blobs()
    fitted = subject.adapt(episodes.support_x, episodes.support_y)
    with pytest.raises(InputError, match=r"norm: 'l2' is not served by PGD\(steps=7.*legal: linf"):
        craft(
            subject,
            fitted,
            episodes.query_x,
            episodes.query_y,
            attack=catalog.attack("pgd-7-aq"),
            threat=Threat("l2", 0.1),
            rng=Streams([1, 2]),
        )


def test_mapped_code_pays_for_the_tasks_that_have_points_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, episodes = learner("protonet", backend="vmap"), blobs(tasks=4)
    fitted = subject.adapt(episodes.support_x, episodes.support_y)
    victim = subject.query_victim(fitted, episodes.query_x, episodes.query_y)
    shapes, predict = [], Learner.predict

    def recorded(self: Learner, fitted: Fitted, x: Tensor) -> Tensor:
        shapes.append(x.shape[:2])
        return predict(self, fitted, x)

    monkeypatch.setattr(Learner, "predict", recorded)
    victim.forward(victim.x[9:13], victim.points[9:13])  # four queries of the second task
    assert shapes == [(1, 4)]


@pytest.mark.parametrize("differentiable", [True, False])
def test_a_users_object_is_probed_for_its_gradient(differentiable: bool) -> None:
    subject = ObjectLearner(NearestMean(differentiable), Box((1, 8, 8)), ways=3, dtype=torch.float64)
    episodes = blobs()
    assert has_gradient(subject, episodes) is differentiable
    subject = replace(subject, differentiable=differentiable)
    fitted = subject.adapt(episodes.support_x, episodes.support_y)
    victim = subject.query_victim(fitted, episodes.query_x, episodes.query_y)
    expected = subject.predict(fitted, episodes.query_x).flatten(0, 1)
    points = torch.tensor([10, 2, 17])
    torch.testing.assert_close(victim.forward(victim.x[points], points).squeeze(1), expected[points])
    assert victim.differentiable is differentiable


class Allocations(TorchDispatchMode):
    """Remembers every storage that an operation made, without keeping it."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple) else (found,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return found

    def alive(self) -> int:
        """Sum the bytes of the storages that something still holds."""
        return sum(size for reference, size in self.storages.values() if not reference.expired())


def kept_bytes(meta_gradient: MetaGradient, steps: int) -> int:
    """Count what one adaptation keeps for its way back, in bytes."""
    subject, episodes = learner("maml", meta_gradient=meta_gradient), blobs(tasks=1)
    subject = replace(subject, params={name: value.requires_grad_() for name, value in subject.params.items()})
    with Allocations() as allocations:
        fitted = subject.adapt(episodes.support_x, episodes.support_y, steps=steps)
        assert fitted.state
        return allocations.alive()


def test_the_recomputed_gradient_keeps_nothing_of_a_step_but_the_parameters_after_it() -> None:
    weights = sum(value.nbytes for value in learner("maml").params.values())
    growth = [kept_bytes("recomputed", steps) - kept_bytes("recomputed", 2) for steps in (4, 8)]
    assert growth == [2 * weights, 6 * weights]
    assert kept_bytes("exact", 4) - kept_bytes("exact", 2) > 20 * weights


def test_a_rollout_refuses_counts_that_fall() -> None:
    subject, episodes = learner("maml"), blobs()
    with pytest.raises(InputError, match=r"^steps: \[3, 1\] is not a list .* in ascending order"):
        subject.rollout(episodes.support_x, episodes.support_y, [3, 1])


@pytest.mark.parametrize("name", ["anil", "protonet"])
def test_a_body_that_all_tasks_share_embeds_their_supports_once_and_together(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    embed = Conv4.__call__

    def counted(self: Conv4, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        rows.append(len(x))
        return embed(self, weights, x, norm)

    monkeypatch.setattr(Conv4, "__call__", counted)
    episodes = blobs(tasks=3)
    learner(name, backend="flat").adapt(episodes.support_x, episodes.support_y, steps=4)
    assert rows == [3 * 12]
    rows.clear()
    learner(name, backend="loop").adapt(episodes.support_x, episodes.support_y, steps=4)
    assert rows == [12, 12, 12]


@dataclass(frozen=True)
class Modulated:
    """Adapts a factor on the first scale of the body, and hands the network weights of its own making."""

    steps: int = 2
    test_steps: int = 2
    meta_gradient: MetaGradient = "exact"

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        return {"head": torch.randn(ways, width, generator=rng), "factor": torch.ones(4)}

    def start(self, net: Net, params: Params) -> Params:
        return {"factor": params["factor"]}

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
        def loss(state: Params) -> Tensor:
            return cross_entropy(self.predict(net, {**params, **state}, {}, x), y).mean()

        return {"factor": state["factor"] - 0.5 * torch.func.grad(loss)(state)["factor"]}

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        return {}

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        return net({**params, "conv0.gamma": params["conv0.gamma"] * params["factor"]}, x) @ params["head"].T


def test_an_algorithm_that_makes_weights_of_its_own_is_neither_frozen_nor_embedded_beforehand() -> None:
    episodes = blobs(tasks=2)
    looped, mapped, flat = (learner(Modulated(), backend=backend) for backend in ("loop", "vmap", "flat"))
    fits = [one.adapt(episodes.support_x, episodes.support_y) for one in (looped, mapped)]
    assert (fits[0].state["factor"] - 1).abs().max() > 1e-3  # it has learned
    torch.testing.assert_close(fits[0].state["factor"], fits[1].state["factor"])
    victim = looped.query_victim(fits[0], episodes.query_x, episodes.query_y)
    scores = looped.predict(fits[0], episodes.query_x)
    torch.testing.assert_close(scores, mapped.predict(fits[1], episodes.query_x))
    torch.testing.assert_close(victim.forward(victim.x, victim.points).view_as(scores), scores)
    with pytest.raises(InputError, match=r"^backend: 'flat' embeds by the network's own weights"):
        flat.predict(flat.adapt(episodes.support_x, episodes.support_y), episodes.query_x)


def test_poisoning_climbs_what_the_learner_says_of_the_proxies_once_it_has_adapted_to_the_poison() -> None:
    made, tasks = learner("protonet"), blobs()
    assert tasks.proxy_x is not None
    assert tasks.proxy_y is not None
    order = torch.randperm(len(tasks.proxy_y[0]), generator=torch.Generator().manual_seed(0))
    tasks = replace(tasks, proxy_x=tasks.proxy_x[:, order], proxy_y=tasks.proxy_y[:, order])
    victim = made.support_victim(tasks)
    poison = (tasks.support_x + 0.1 * torch.rand_like(tasks.support_x)).clamp(0, 1)
    assert tasks.proxy_x is not None
    expected = made.predict(made.adapt(poison, tasks.support_y), tasks.proxy_x)
    assert torch.equal(victim.y, torch.arange(3).repeat_interleave(3)[order].expand(2, -1))
    torch.testing.assert_close(victim.forward(poison, victim.points), expected)
