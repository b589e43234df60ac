"""The evaluator counts what the learner says about what the attack found, and checks the attack itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from robustbench_meta import catalog
from robustbench_meta.algorithms.maml import MAML
from robustbench_meta.engine import Fitted, Learner, ObjectLearner, start_params
from robustbench_meta.evaluate import Adaptations, CellError, check_learner, run
from robustbench_meta.networks import Conv4
from robustbench_meta.tasks.strokes import Strokes
from robustbench_meta.types import (
    Backend,
    Box,
    Cell,
    Episodes,
    InputError,
    Net,
    Norm,
    Params,
    Spec,
    Streams,
    Surface,
    Threat,
    Victim,
)

STROKES = Strokes(train=4, val=4, test=6, samples=10)
SPEC = Spec(ways=3, shots=2, queries=3)
WEIGHTS = torch.tensor([[2.0, -1.0, 0.5, 0.0], [-1.0, 1.5, 0.0, 1.0]])


@dataclass(frozen=True)
class Line:
    """Two classes of points in the middle of the box, labelled by a linear rule with known margins."""

    space: ClassVar[Box] = Box((4,))

    def sample(self, split: str, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        tasks = [self._task(spec, 1000 * seed + index) for index in indices]
        parts = [torch.stack(column) for column in zip(*tasks, strict=True)]
        return Episodes(*parts)

    def classes(self, split: str) -> list[str]:
        return ["a", "b"]

    def _task(self, spec: Spec, seed: int) -> list[Tensor]:
        rng = torch.Generator().manual_seed(seed)
        x = 0.4 + 0.2 * torch.rand(400, 4, generator=rng)
        y = (x @ WEIGHTS.T).argmax(1)
        parts, used = [], 0
        for count in (spec.shots, spec.queries, spec.proxies):
            rows = torch.cat([(y == k).nonzero().flatten()[used : used + count] for k in range(2)])
            parts += [x[rows], y[rows]]
            used += count
        return parts


class Known:
    """Scores by the rule itself, whatever the support."""

    def adapt(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"weights": WEIGHTS.clone()}

    def predict(self, fitted: dict[str, Tensor], x: Tensor) -> Tensor:
        return x @ fitted["weights"].T


class Centroids:
    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x[y == k].flatten(1).mean(0) for k in range(int(y.max()) + 1)])

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return -torch.cdist(x.flatten(1), fitted)


@dataclass(frozen=True)
class Broken:
    """An attack that does `harm` to x and returns it."""

    harm: Callable[[Victim], Any]

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query", "support")
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Any:
        return self.harm(victim)


def cell(spec: Spec = SPEC, eps: float = 0.1, surface: Surface = "query", **fields: Any) -> Cell:
    return Cell(
        **{
            "checkpoint": "tiny",
            "weights": "w",
            "algorithm": "a",
            "defense": "d",
            "norm_mode": "own",
            "family": "f",
            "episodes": "e",
            "split": "test",
            "spec": spec,
            "steps": None,
            "attack": "x",
            "attack_fields": "X()",
            "threat": Threat("linf", eps, surface),
            "seed": 0,
            **fields,
        }
    )


def conv(algorithm: str = "protonet", **fields: Any) -> Learner:
    made, network = catalog.algorithm(algorithm), Conv4(width=4, depth=2)
    params = start_params(made, network, STROKES.space, 3, torch.Generator().manual_seed(0))
    return Learner(made, network, params, STROKES.space, 3, **fields)


CENTROIDS = ObjectLearner(Centroids(), STROKES.space, 3)
LINE = Spec(ways=2, shots=1, queries=20)
KNOWN = ObjectLearner(Known(), Line.space, 2)


@pytest.mark.parametrize("eps", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("attack", ["fgsm", "pgd-20", "pgd-mt-5"])
def test_survival_on_a_linear_learner_is_what_the_margin_says(attack: str, eps: float) -> None:
    block = run(cell(LINE, eps), KNOWN, Line(), catalog.attack(attack), [0, 1])
    episodes = Line().sample("test", LINE, [0, 1])
    signed = (episodes.query_x @ (WEIGHTS[0] - WEIGHTS[1])) * (1 - 2 * episodes.query_y)
    reach = eps * float((WEIGHTS[0] - WEIGHTS[1]).abs().sum())
    assert [list(record.survived) for record in block.records] == (signed > reach).tolist()
    assert all(all(record.clean) for record in block.records)
    assert all(record.distance == pytest.approx(eps, abs=1e-6) for record in block.records)


def test_a_record_counts_rows_sent_forward_and_backward() -> None:
    (record,) = run(cell(LINE, 0.01), KNOWN, Line(), catalog.attack("fgsm"), [3]).records
    assert (record.task, record.forwards, record.backwards) == (3, 40, 40)


@pytest.mark.parametrize("surface", ["query", "support"])
@pytest.mark.parametrize("learner", [CENTROIDS, conv(), conv("fomaml"), conv(norm_mode="batch")], ids=range(4))
def test_records_do_not_depend_on_how_tasks_are_grouped(learner: Any, surface: Surface) -> None:
    spec = replace(SPEC, proxies=2) if surface == "support" else SPEC
    square = cell(spec, surface=surface, steps=2 if learner.steps else None)
    attack = catalog.attack("pgd-3")
    together = run(square, learner, STROKES, attack, [0, 1, 2, 3]).records
    apart = [run(square, learner, STROKES, attack, [task]).records[0] for task in (3, 1, 0, 2)]
    assert together == sorted(apart, key=lambda record: record.task)


def test_both_backends_give_the_same_verdicts() -> None:
    found = [
        run(cell(), conv(backend=backend), STROKES, catalog.attack("pgd-3"), [0, 1]).records
        for backend in ("loop", "vmap")
    ]
    assert [(r.clean, r.survived) for r in found[0]] == [(r.clean, r.survived) for r in found[1]]


def test_another_cell_draws_other_numbers() -> None:
    noise = catalog.attack("noise-1")
    found = {run(cell(weights=w), CENTROIDS, STROKES, noise, [0]).records[0].distance for w in ("a", "b")}
    assert len(found) == 2


def test_eps_zero_survives_where_clean_is_right() -> None:
    for attack in ("fgsm", "pgd-3", "noise"):
        for record in run(cell(eps=0.0), CENTROIDS, STROKES, catalog.attack(attack), [0, 1]).records:
            assert record.survived == record.clean
            assert record.distance == 0


def test_an_attack_that_claims_success_is_scored_anew() -> None:
    lazy = Broken(lambda victim: victim.x.clone())
    (record,) = run(cell(), CENTROIDS, STROKES, lazy, [0]).records
    assert record.survived == record.clean


def test_a_query_wrong_when_clean_does_not_survive() -> None:
    class Fickle(Known):
        """Wrong about inputs of the test family, right about everything moved."""

        def predict(self, fitted: dict[str, Tensor], x: Tensor) -> Tensor:
            inside = ((x >= 0.4) & (x <= 0.6)).all(dim=1, keepdim=True)
            return torch.where(inside, -(x @ WEIGHTS.T), x @ WEIGHTS.T)

    out = Broken(lambda victim: (victim.x + torch.where(victim.x > 0.5, 0.2, -0.2)).clamp(0, 1))
    (record,) = run(cell(LINE, 0.2), ObjectLearner(Fickle(), Line.space, 2), Line(), out, [0]).records
    assert not any(record.clean)
    assert not any(record.survived)


def test_a_constant_predictor_is_never_right() -> None:
    class Constant(Centroids):
        def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
            return super().predict(fitted, x) * 0

    (record,) = run(cell(), ObjectLearner(Constant(), STROKES.space, 3), STROKES, catalog.attack("fgsm"), [0]).records
    assert not any(record.clean)


def change(victim: Victim) -> Tensor:
    victim.x.add_(0.01)
    return victim.x.clone()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda victim: (victim.x + 0.11).clamp(0, 1), "budget"),
        (lambda victim: victim.x - 0.05, "box"),
        (lambda victim: victim.x.flatten(1), "not (9, 1, 1, 28, 28)"),
        (lambda victim: victim.x.double(), "float64"),
        (lambda victim: victim.x * torch.nan, "NaN"),
        (lambda victim: None, "not a tensor"),
        (change, "changed the inputs"),
    ],
)
def test_an_attack_that_breaks_the_rules_is_an_error_not_a_result(harm: Callable[[Victim], Any], said: str) -> None:
    with pytest.raises(CellError) as refused:
        run(cell(), CENTROIDS, STROKES, Broken(harm), [0])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_attack_that_moves_at_eps_zero_is_an_error() -> None:
    with pytest.raises(CellError, match="eps 0"):
        run(cell(eps=0.0), CENTROIDS, STROKES, Broken(lambda victim: (victim.x - 5e-7).clamp(0, 1)), [0])


def test_an_attack_that_changes_the_learner_is_an_error() -> None:
    fitted: list[dict[str, Tensor]] = []

    class Watched(Known):
        def adapt(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            fitted.append(super().adapt(x, y))
            return fitted[-1]

    def harm(victim: Victim) -> Tensor:
        fitted[-1]["weights"].add_(1)
        return victim.x.clone()

    with pytest.raises(CellError, match="weights"):
        run(cell(LINE), ObjectLearner(Watched(), Line.space, 2), Line(), Broken(harm), [0])


def test_poisoning_is_scored_on_queries_after_a_new_adaptation() -> None:
    # Exchanging the support of classes 0 and 1 exchanges their scores, and leaves class 2 as it was.
    exchange = Broken(lambda victim: victim.x[:, [2, 3, 0, 1, 4, 5]])
    block = run(cell(replace(SPEC, proxies=3), 1.0, "support"), CENTROIDS, STROKES, exchange, range(4))
    for record in block.records:
        assert any(record.clean[:6])
        assert not any(record.survived[:6])
        assert record.survived[6:] == record.clean[6:]
        assert 0 < record.distance <= 1
    assert block.pictures is None


def test_poisoning_finds_more_than_noise() -> None:
    square = cell(replace(SPEC, proxies=3), 0.3, "support")
    left = [
        sum(sum(r.survived) for r in run(square, CENTROIDS, STROKES, catalog.attack(name), range(4)).records)
        for name in ("pgd-10", "noise-10")
    ]
    assert left[0] < left[1]


class Dice(Centroids):
    """Draws from the global generators, as a head that is made anew for each task does."""

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return super().adapt(x, y) + 0.3 * torch.randn(3, 784) + float(np.random.rand())


def test_a_learner_that_draws_has_the_same_clean_bits_under_every_attack_and_grouping() -> None:
    learner = ObjectLearner(Dice(), STROKES.space, 3)
    noise, fgsm = catalog.attack("noise-2"), catalog.attack("fgsm")
    together = run(cell(), learner, STROKES, noise, [0, 1, 2]).records
    assert together == [run(cell(), learner, STROKES, noise, [task]).records[0] for task in range(3)]
    other = run(cell(attack="fgsm"), learner, STROKES, fgsm, [0, 1, 2]).records
    assert [record.clean for record in other] == [record.clean for record in together]


def test_the_callers_generators_and_grad_mode_are_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before = (torch.random.get_rng_state(), np.random.get_state()[1].copy())  # type: ignore[index]
    with torch.no_grad():
        run(cell(), ObjectLearner(Dice(), STROKES.space, 3), STROKES, catalog.attack("pgd-3"), [0])
        assert not torch.is_grad_enabled()
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]


def test_pictures_are_of_the_first_task_and_right_ones_come_first() -> None:
    assert run(cell(), CENTROIDS, STROKES, catalog.attack("fgsm"), [1, 2]).pictures is None
    block = run(cell(), CENTROIDS, STROKES, catalog.attack("fgsm"), [0, 1])
    pictures = block.pictures
    assert pictures is not None
    assert pictures["clean"].shape == pictures["adversarial"].shape == (6, 1, 28, 28)
    assert np.abs(pictures["adversarial"] - pictures["clean"]).max() == pytest.approx(0.1, abs=1e-6)
    right = (pictures["clean_predictions"] == pictures["labels"]).tolist()
    assert right == sorted(right, reverse=True)
    assert sum(right) == min(6, sum(block.records[0].clean))
    assert len(set(pictures["classes"])) == cell().spec.ways
    assert set(pictures["classes"]) <= set(STROKES.classes("test"))
    assert run(cell(), CENTROIDS, STROKES, catalog.attack("noise-1"), [0]).pictures is None


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (lambda x: torch.zeros(len(x), 4), "(9, 4)"),
        (lambda x: torch.zeros(len(x)), "(9,)"),
        (lambda x: torch.full((len(x), 3), torch.nan), "NaN"),
        (lambda x: torch.full((len(x), 3), torch.inf), "infinite"),
    ],
)
def test_scores_that_do_not_fit_are_refused_before_any_attack(scores: Callable[[Tensor], Tensor], said: str) -> None:
    class Odd(Centroids):
        def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
            return scores(x)

    with pytest.raises(InputError) as refused:
        check_learner(ObjectLearner(Odd(), STROKES.space, 3), STROKES, "test", SPEC, None)
    assert said in str(refused.value)


def test_a_family_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"family: inputs of shape \(4,\)"):
        check_learner(conv(), Line(), "test", LINE, None)


def test_adaptations_are_made_once_for_all_attacks_and_step_counts_and_change_no_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = conv("maml")
    cells = [cell(steps=steps, attack=name) for name in ("fgsm", "pgd-3") for steps in (1, 3)]
    apart = [run(one, subject, STROKES, catalog.attack(one.attack), [0, 1]).records for one in cells]
    rollouts: list[list[int]] = []
    rollout = Learner.rollout

    def counted(self: Learner, x: Tensor, y: Tensor, steps: list[int]) -> list[Fitted]:
        rollouts.append(steps)
        return rollout(self, x, y, steps)

    monkeypatch.setattr(Learner, "rollout", counted)
    shared = Adaptations(cells)
    together = [
        run(one, subject, STROKES, catalog.attack(one.attack), [0, 1], adaptations=shared).records for one in cells
    ]
    assert together == apart
    assert rollouts == [[1, 3], [1, 3]]  # once for each task


def test_adaptations_hold_no_more_than_their_limit() -> None:
    shared = Adaptations([cell()], limit=1)
    for _ in range(2):
        run(cell(), conv(), STROKES, catalog.attack("fgsm"), [0, 1, 2], adaptations=shared)
    assert [kept.size for kept in shared.kept.values()] == [shared.held]


def test_nothing_is_kept_after_an_attack_that_failed() -> None:
    shared, subject = Adaptations([cell()]), conv()
    before = run(cell(), subject, STROKES, catalog.attack("fgsm"), [0], adaptations=shared).records
    with pytest.raises(CellError, match="changed the inputs"):
        run(cell(), subject, STROKES, Broken(lambda victim: victim.x.add_(0.01).clone()), [0], adaptations=shared)
    assert not shared.kept
    assert run(cell(), subject, STROKES, catalog.attack("fgsm"), [0], adaptations=shared).records == before


@pytest.mark.parametrize("backend", ["loop", "vmap"])
def test_adaptations_serve_every_step_count_whatever_they_may_hold(backend: Backend) -> None:
    cells = [cell(steps=steps) for steps in (1, 2, 3)]
    shared, subject = Adaptations(cells, limit=1), conv("maml", backend=backend)
    for one in (*cells, *reversed(cells)):
        found = run(one, subject, STROKES, catalog.attack("fgsm"), [0, 1], adaptations=shared).records
        assert found == run(one, subject, STROKES, catalog.attack("fgsm"), [0, 1]).records


def test_a_step_count_that_diverges_fails_its_own_cells_alone() -> None:
    @dataclass(frozen=True)
    class Diverging(MAML):
        def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params:
            return {name: 1e20 * value for name, value in state.items()}

    cells = [cell(steps=steps) for steps in (1, 3)]
    subject = replace(conv("anil"), algorithm=Diverging(adapts="head"))
    alone = run(cells[0], subject, STROKES, catalog.attack("fgsm"), [0]).records
    shared = Adaptations(cells)
    with pytest.raises(CellError, match="NaN or infinite"):
        run(cells[1], subject, STROKES, catalog.attack("fgsm"), [0], adaptations=shared)
    assert run(cells[0], subject, STROKES, catalog.attack("fgsm"), [0], adaptations=shared).records == alone


@pytest.mark.parametrize(
    "other",
    [
        {"spec": replace(SPEC, shots=1)},
        {"weights": "v"},
        {"seed": 1},
        {"norm_mode": "batch"},
        {"split": "val"},
        {"family": "g"},
        {"episodes": "d"},
    ],
)
def test_cells_of_other_tasks_or_learners_share_no_adaptation(other: dict[str, Any]) -> None:
    cells = [cell(), cell(**other)]
    shared = Adaptations(cells)
    for one in cells:
        run(one, conv(), STROKES, catalog.attack("fgsm"), [0], adaptations=shared)
    assert len(shared.kept) == 2
