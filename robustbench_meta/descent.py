"""Which way one update goes: the gradient of a defense's loss, or Reptile's displacement of the parameters.

T tasks, S support, Q query, N classes, X the shape of one input.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustbench_meta.engine import Learner, craft_inner
from robustbench_meta.losses import cross_entropy
from robustbench_meta.types import Defense, Episodes, Params, Streams, Threat

Apart = dict[str, Params]  # gradients of the terms that an optimiser of their own follows


def descend(
    learner: Learner, defense: Defense, episodes: Episodes, threat: Threat, rng: Streams, *, among: int
) -> tuple[float, Apart]:
    """Add the gradient of the tasks' loss, as their share of `among` tasks, to that of the parameters.

    Return that share of the loss, and the gradients of the terms that the defense has optimised apart.
    """
    if learner.meta_gradient == "displacement":
        return _displace(learner, defense, episodes, threat, rng, among=among), {}
    terms = defense.loss(learner, episodes, threat, rng)
    apart = {name: _gradient(terms[name].sum() / among, learner.params) for name in rates(defense)}
    loss = torch.stack([value for name, value in terms.items() if name not in apart]).sum() / among
    loss.backward()
    return loss.item() + sum(terms[name].sum().item() / among for name in apart), apart


def rates(defense: Defense) -> dict[str, float]:
    """Name the terms with an optimiser of their own, each with its share of the recipe's learning rate."""
    found: dict[str, float] = getattr(defense, "rates", {})
    return found


def _gradient(loss: Tensor, params: Params) -> Params:
    found = torch.autograd.grad(loss, list(params.values()), retain_graph=True, allow_unused=True)
    return {name: grad for name, grad in zip(params, found, strict=True) if grad is not None}


def _displace(
    learner: Learner, defense: Defense, episodes: Episodes, threat: Threat, rng: Streams, *, among: int
) -> float:
    """Add theta - phi, phi being where the inner steps end on parts of the task in turn (arXiv 1803.02999, section 2).

    Support and queries are one set of images to Reptile. A defense that attacks the support attacks each part, against
    the parameters that are about to step on it. Return the loss of phi on the last part.
    """
    state = learner.start(episodes.tasks)
    for x, y in _parts(episodes, learner):
        if defense.craft is not None:
            x = craft_inner(learner, state, x, y, attack=defense.craft, threat=threat, rng=rng)
        with torch.no_grad():
            state = learner.step(state, x, y)
    with torch.no_grad():
        outputs = learner.predict(learner.finish(state, x, y), x)
        for name, value in state.items():
            param = learner.params[name]
            moved = (param - value).sum(dim=0) / among
            param.grad = moved if param.grad is None else param.grad + moved
        return cross_entropy(outputs, y).mean(dim=1).sum().item() / among


def _parts(episodes: Episodes, learner: Learner) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut the images of every task into one part for each inner step, all classes alike: x [T,n,*X], y [T,n].

    Where a class has fewer images than there are steps, they come around again.
    """

    def by_class(support: Tensor, queries: Tensor, *each: int) -> Tensor:
        return torch.cat([part.unflatten(1, (learner.ways, -1, *each)) for part in (support, queries)], dim=2)

    x = by_class(episodes.support_x, episodes.query_x)
    y = by_class(episodes.support_y, episodes.query_y, learner.space.labels)
    steps, images = learner.algorithm.steps or 0, x.shape[2]
    each = max(images // steps, 1)
    for step in range(steps):
        rows = (step * each + torch.arange(each, device=x.device)) % images
        yield x[:, :, rows].flatten(1, 2), y[:, :, rows].flatten(1)
