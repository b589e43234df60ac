"""A cell's fields reach what they name: split, seed, steps and task number; and two heads equal their formulas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import pytest
import torch
from tiny import Identity, blobs, learner
from torch import Tensor

from robustbench_meta import catalog
from robustbench_meta.algorithms.maml import MAML
from robustbench_meta.engine import Learner
from robustbench_meta.evaluate import run
from robustbench_meta.types import Box, Cell, Episodes, Norm, Spec, Split, Streams, Surface, Threat, Victim

SPEC = Spec(ways=2, shots=2, queries=3, proxies=2)
BOX = Box((6,), -1.0, 1.0)


@dataclass(frozen=True)
class Middle:
    """Two classes near the middle of the box, so that no draw meets a face; remembers what it was asked for."""

    space: ClassVar[Box] = BOX
    asked: list[tuple[str, list[int], int]] = field(default_factory=list)

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        self.asked.append((split, list(indices), seed))
        parts: list[Tensor] = []
        for part, count in enumerate((spec.shots, spec.queries, spec.proxies)):
            y = torch.arange(spec.ways).repeat_interleave(count)
            rows = [self._items(f"{split}{seed}{part}", index, y) for index in indices]
            parts += [torch.stack(rows), y.expand(len(indices), -1).contiguous()]
        return Episodes(*parts)

    def classes(self, split: Split) -> list[str]:
        return ["left", "right"]

    def _items(self, stream: str, index: int, y: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(crc32(f"{stream}/{index}".encode()))
        shift = (y - 0.5).unsqueeze(1) * torch.linspace(-0.8, 0.8, 6)
        return shift + 0.02 * (torch.rand(len(y), 6, generator=rng) - 0.5)


@dataclass(frozen=True)
class Probe:
    """An attack that moves nothing and keeps the scores its victim gave."""

    scores: list[Tensor] = field(default_factory=list)

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query", "support")
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        with torch.no_grad():
            self.scores.append(victim.forward(victim.x, victim.points))
        return victim.x.clone()


@dataclass(frozen=True)
class Swap:
    """A poisoner that turns every support item into its mirror image, which looks like the other class."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("support",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        return -victim.x


def cell(eps: float = 0.1, surface: Surface = "query", **fields: Any) -> Cell:
    plain = dict.fromkeys(("checkpoint", "weights", "algorithm", "defense", "family", "episodes", "attack"), "x")
    given = {"norm_mode": "support", "attack_fields": "X()", "split": "test", "spec": SPEC, "steps": None, "seed": 0}
    return Cell(**{**plain, **given, "threat": Threat("linf", eps, surface), **fields})


def nearest(**fields: Any) -> Learner:
    return learner("protonet", network=Identity(), space=BOX, ways=2, **fields)


def descending() -> Learner:
    """MAML whose head starts wrong about everything, and whose default of 5 steps mends it."""
    made = learner(MAML(step_size=2.0, adapts="head"), network=Identity(), space=BOX, ways=2)
    wrong = torch.linspace(-0.2, 0.2, 6, dtype=torch.float64)
    return replace(made, params={**made.params, "head.weight": torch.stack([wrong, -wrong])})


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("seed", [0, 3])
def test_a_cell_is_measured_on_the_tasks_of_its_own_split_and_seed(split: Split, seed: int) -> None:
    family = Middle()
    run(cell(split=split, seed=seed), nearest(), family, catalog.attack("noise-1"), [4, 2])
    assert family.asked == [(split, [4], seed), (split, [2], seed)]
    together = Middle()
    run(cell(split=split, seed=seed), nearest(backend="vmap"), together, catalog.attack("noise-1"), [4, 2])
    assert together.asked == [(split, [4, 2], seed)]


@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_each_task_meets_the_noise_of_its_own_number(backend: Any) -> None:
    noise, subject = catalog.attack("noise-1"), nearest(backend=backend)
    together = run(cell(), subject, Middle(), noise, [0, 1, 2, 3]).records
    assert len({round(record.distance, 9) for record in together}) == 4
    for tasks in ([3, 1], [2], [1, 0]):
        again = run(cell(), subject, Middle(), noise, tasks).records
        assert [r.distance for r in again] == pytest.approx([together[task].distance for task in tasks], abs=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_the_learner_takes_the_steps_that_the_cell_names(steps: int) -> None:
    """Without a step the head is wrong about everything, after one it is right."""
    records = run(cell(steps=steps), descending(), Middle(), Probe(), [0, 1]).records
    assert [record.clean for record in records] == [(steps > 0,) * 6] * 2
    assert [record.survived for record in records] == [(steps > 0,) * 6] * 2


@pytest.mark.parametrize("surface", ["query", "support"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_the_victim_is_the_learner_after_the_steps_that_the_cell_names(surface: Surface, steps: int) -> None:
    probe, subject = Probe(), descending()
    run(cell(steps=steps, surface=surface), subject, Middle(), probe, [0])
    episodes = Middle().sample("test", SPEC, [0]).to("cpu", torch.float64)
    judged = episodes.query_x if surface == "query" else episodes.proxy_x
    assert judged is not None
    with torch.no_grad():
        fitted = subject.adapt(episodes.support_x, episodes.support_y, steps=steps)
        expected = subject.predict(fitted, judged)
        default = subject.predict(subject.adapt(episodes.support_x, episodes.support_y), judged)
    torch.testing.assert_close(probe.scores[0].view(expected.shape), expected)
    assert not torch.allclose(default, expected)


def test_a_poisoned_support_is_learned_in_the_steps_that_the_cell_names() -> None:
    """A head that starts right stays right without a step, and is turned round by steps on the mirrored support."""
    mended = descending()
    right = replace(mended, params={**mended.params, "head.weight": -mended.params["head.weight"]})
    for steps, survives in ((0, True), (5, False)):
        (record,) = run(cell(1.0, "support", steps=steps), right, Middle(), Swap(), [0]).records
        assert record.clean == (True,) * 6
        assert record.survived == (survives,) * 6


@pytest.mark.parametrize(("regularisation", "scale", "offset"), [(1.0, 1.0, 0.0), (0.03, 2.5, -0.7), (50.0, 0.4, 3.0)])
@pytest.mark.parametrize("shots", [2, 8])
def test_the_ridge_head_is_the_primal_solution(regularisation: float, scale: float, offset: float, shots: int) -> None:
    """Both with fewer items than features and with more."""
    space = Box((1, 3, 3))
    made = learner("r2d2", network=Identity(), space=space, ways=3)
    learned = {"log_lambda": np.log(regularisation), "scale": scale, "offset": offset}
    given = {f"ridge.{name}": torch.tensor(value, dtype=torch.float64) for name, value in learned.items()}
    subject = replace(made, params={**made.params, **given})
    episodes = blobs(ways=3, shots=shots, box=space, noise=0.2)
    with torch.no_grad():
        found = subject.predict(subject.adapt(episodes.support_x, episodes.support_y), episodes.query_x)
    for task in range(episodes.tasks):
        x, queries = (part[task].flatten(1).numpy() for part in (episodes.support_x, episodes.query_x))
        one_hot = np.eye(3)[episodes.support_y[task].numpy()]
        head = np.linalg.solve(x.T @ x + regularisation * np.eye(9), x.T @ one_hot)
        np.testing.assert_allclose(found[task].numpy(), scale * queries @ head + offset, rtol=1e-9, atol=1e-9)


def test_protonet_scores_are_minus_squared_distances_to_the_class_means() -> None:
    subject, episodes = learner("protonet", network=Identity()), blobs(noise=0.2)
    with torch.no_grad():
        found = subject.predict(subject.adapt(episodes.support_x, episodes.support_y), episodes.query_x)
    for task in range(episodes.tasks):
        x, queries = (part[task].flatten(1).numpy() for part in (episodes.support_x, episodes.query_x))
        y = episodes.support_y[task].numpy()
        means = np.stack([x[y == k].mean(axis=0) for k in range(3)])
        expected = -((queries[:, None] - means[None]) ** 2).sum(axis=2)
        np.testing.assert_allclose(found[task].numpy(), expected, rtol=1e-9, atol=1e-12)
