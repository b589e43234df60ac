"""Reptile's displacement against inner steps taken by hand in float64 numpy, on parts of the task in turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Identity, blobs, learner

from robustbench_meta import catalog
from robustbench_meta.algorithms.maml import MAML
from robustbench_meta.descent import descend
from robustbench_meta.types import Box, Episodes, Streams, Threat

EPS, RATE, WAYS = 0.07, 0.5, 3
SPACE = Box((1, 2, 2))
Array = np.ndarray[Any, np.dtype[np.float64]]


def softmax(z: Array) -> Array:
    odds: Array = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return odds


def parts(episodes: Episodes, task: int, each: int, steps: int) -> list[tuple[Array, Array]]:
    """What every step is fed: `each` images of every class, support first, then queries, then from the front again."""
    images: list[list[Array]] = [[] for _ in range(WAYS)]
    for x, y in ((episodes.support_x, episodes.support_y), (episodes.query_x, episodes.query_y)):
        for image, label in zip(x[task].flatten(1).numpy(), y[task].tolist(), strict=True):
            images[label].append(image)
    count, found = len(images[0]), []
    for step in range(steps):
        rows = [images[label][(step * each + n) % count] for label in range(WAYS) for n in range(each)]
        found.append((np.stack(rows), np.repeat(range(WAYS), each)))
    return found


def displaced(
    theta: dict[str, Array], fed: list[tuple[Array, Array]], attacked: bool
) -> tuple[dict[str, Array], float]:
    """Theta minus where gradient descent ends, and the loss there on the last part."""
    weight, bias, scale = theta["head.weight"], theta["head.bias"], theta["scale"]

    def error(x: Array, y: Array) -> Array:
        return softmax(scale * x @ weight.T + bias) - np.eye(WAYS)[y]

    for clean, y in fed:
        x = np.clip(clean + EPS * np.sign(error(clean, y) @ weight), 0, 1) if attacked else clean
        slope = error(x, y) / len(y)
        by_scale = (slope * (x @ weight.T)).sum()
        weight, bias = weight - RATE * slope.T @ (scale * x), bias - RATE * slope.sum(axis=0)
        scale = scale - RATE * by_scale
    phi = {"head.weight": weight, "head.bias": bias, "scale": scale}
    loss = -np.log(softmax(scale * x @ weight.T + bias)[np.arange(len(y)), y]).mean()
    return {name: theta[name] - phi[name] for name in theta}, float(loss)


@pytest.mark.parametrize("backend", ["loop", "vmap", "flat"])
@pytest.mark.parametrize("defense", ["standard", "support"])
@pytest.mark.parametrize(("steps", "each"), [(3, 2), (2, 3), (4, 1), (9, 1)])
def test_reptile_moves_by_the_mean_displacement_over_disjoint_parts_of_the_tasks(
    steps: int, each: int, defense: str, backend: Any
) -> None:
    episodes = blobs(tasks=2, ways=WAYS, shots=2, queries=4, box=SPACE, noise=0.2)
    made = learner(MAML(step_size=RATE, steps=steps, meta_gradient="displacement"), Identity(), SPACE, WAYS)
    params = {name: value.clone().requires_grad_() for name, value in made.params.items()}
    subject = replace(made, params=params, meta_gradient="displacement", backend=backend)
    theta = {name: value.numpy() for name, value in made.params.items()}
    by_task = [displaced(theta, parts(episodes, t, each, steps), defense == "support") for t in range(2)]
    crafting = catalog.defense(defense, craft="fgsm")
    loss, apart = descend(subject, crafting, episodes, Threat("linf", EPS), Streams([1, 2]), among=2)
    assert loss == pytest.approx(np.mean([loss for _, loss in by_task]), rel=1e-9)
    assert not apart
    for name, value in params.items():
        assert value.grad is not None
        expected = np.mean([moved[name] for moved, _ in by_task], axis=0)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(value.grad.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_chunks_of_tasks_add_up_to_the_same_displacement() -> None:
    episodes = blobs(tasks=2, ways=WAYS, shots=2, queries=4, box=SPACE)
    made = learner("reptile", Identity(), SPACE, WAYS)
    halves = [
        Episodes(episodes.support_x[t], episodes.support_y[t], episodes.query_x[t], episodes.query_y[t])
        for t in (slice(1), slice(1, 2))
    ]
    found = []
    for chunks in ([episodes], halves):
        params = {name: value.clone().requires_grad_() for name, value in made.params.items()}
        subject = replace(made, params=params, meta_gradient="displacement")
        standard = catalog.defense("standard", craft="")
        losses = [descend(subject, standard, part, Threat("linf", EPS), Streams([1]), among=2)[0] for part in chunks]
        found.append((sum(losses), params["head.weight"].grad))
    assert found[0][0] == pytest.approx(found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-12, atol=0)
