"""Our AutoAttack: who attacks when, exact answers for every number of classes, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from robustbench_meta import catalog
from robustbench_meta.ascent import Member, Search
from robustbench_meta.attacks.autoattack import AutoAttack
from robustbench_meta.linear import Linear, linear, of
from robustbench_meta.types import NORMS, Box, InputError, Norm, Streams, Surface, Threat

MEMBERS = ("ce", "dlr", "targeted", "fab", "square")


Call = tuple[str, list[int], float]  # a member, the points it met, and what it drew


@dataclass(frozen=True)
class Draws:
    """A member that moves every standing point by one draw, and writes down who was called and what was drawn."""

    name: str
    calls: list[Call]
    extra: int = 0  # draws that nothing is done with

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        points = search.standing()
        drawn = rng.uniform(search.victim.x)
        for _ in range(self.extra):
            rng.uniform(search.victim.x)
        self.calls.append((self.name, points.tolist(), float(drawn.sum())))
        if self.name == "ce":
            fooled = points[:2]  # the other members must not meet these two
            search.wrong[fooled] = 1.0


def ensemble(calls: list[Call], extra: int = 0) -> AutoAttack:
    return AutoAttack(**{name: Draws(name, calls, extra if name == "ce" else 0) for name in MEMBERS})


def theirs() -> AutoAttack:
    made = catalog.attack("autoattack")
    assert isinstance(made, AutoAttack)
    return made


def quick() -> AutoAttack:
    """The preset, but with 100 queries for Square, which finds nothing on a linear model that APGD has not found.

    The contract tests run the preset itself.
    """
    return replace(theirs(), square=member("square-100"))


def member(name: str) -> Member:
    made = catalog.attack(name)
    assert isinstance(made, Member)
    return made


@pytest.mark.parametrize(
    ("ways", "order"),
    [
        (2, ["ce", "fab", "square"]),
        (3, ["ce", "dlr", "fab", "square"]),
        (4, ["ce", "targeted", "fab", "square"]),
        (12, ["ce", "targeted", "fab", "square"]),
    ],
)
def test_members_attack_in_turn_what_the_ones_before_have_left(ways: int, order: list[str]) -> None:
    victims, calls = linear(ways=ways, tasks=1, queries=5), list[Call]()
    ensemble(calls)(victims.victim, Threat("linf", 0.01), victims.streams())
    assert [name for name, _, _ in calls] == order
    assert calls[0][1] == [0, 1, 2, 3]  # the last query is wrong already
    assert all(points == [2, 3] for _, points, _ in calls[1:])


def test_how_much_one_member_draws_shifts_nothing_in_the_next() -> None:
    victims, few, many = linear(tasks=2), list[Call](), list[Call]()
    ensemble(few)(victims.victim, Threat("linf", 0.01), victims.streams())
    ensemble(many, extra=3)(victims.victim, Threat("linf", 0.01), victims.streams())
    assert few == many
    assert len({drawn for _, _, drawn in few}) == len(few)


def test_the_preset_is_made_of_the_standard_members() -> None:
    assert theirs() == AutoAttack(
        ce=member("apgd-ce"),
        dlr=member("apgd-dlr"),
        targeted=member("apgd-t"),
        fab=member("fab-t"),
        square=member("square"),
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("ways", range(2, 13))
def test_every_number_of_classes_gives_the_exact_answer(ways: int, norm: Norm) -> None:
    victims = linear(ways=ways, tasks=1, queries=8, seed=1)
    eps = victims.eps(norm)
    x_adv = quick()(victims.victim, Threat(norm, eps), victims.streams())
    survived = victims.survives(x_adv)
    assert 0 < int(survived.sum()) < len(survived)
    assert torch.equal(survived, victims.distances(norm) > eps)


@pytest.mark.parametrize("ways", [2, 3, 5])
def test_the_ensemble_fools_whatever_a_member_fools(ways: int) -> None:
    victims = linear(ways=ways, tasks=2, queries=8, seed=2)
    threat = Threat("l2", victims.eps("l2"))
    together = victims.survives(quick()(victims.victim, threat, victims.streams()))
    members = quick().members(ways)
    parts = victims.streams().split(len(members))
    for member, part in zip(members, parts, strict=True):
        search = Search(victims.victim)
        search.judge(victims.victim.x, victims.victim.points)
        member.extend(search, threat, part)
        alone = victims.survives(search.x_adv)
        # In the ensemble it meets each point that is left as it does alone, with the same draws.
        assert not (together & ~alone).any()


def with_forward(victims: Linear, change: Any) -> Linear:
    """Pass every output of the victim's forward through `change`."""
    forward = victims.victim.forward
    return replace(victims, victim=replace(victims.victim, forward=lambda x, points: change(forward(x, points))))


@pytest.mark.parametrize("planted", [torch.nan, torch.inf])
def test_scores_that_are_not_numbers_are_refused_with_their_task(planted: float) -> None:
    def spoil(scores: Tensor) -> Tensor:
        return torch.cat([scores[:8], scores[8:] + planted])

    victims = linear(tasks=2)
    with pytest.raises(InputError, match=r"^scores: task 1 "):
        theirs()(with_forward(victims, spoil).victim, Threat("linf", 0.1), victims.streams())


@pytest.mark.parametrize("label", [-100, -1, 5])
def test_labels_out_of_range_are_refused(label: int) -> None:
    victims = linear(ways=5, tasks=1)
    y = victims.victim.y.clone()
    y[2] = label
    with pytest.raises(InputError, match=r"^y: labels .*5 classes allow 0 to 4"):
        theirs()(replace(victims.victim, y=y), Threat("linf", 0.1), victims.streams())


def test_inputs_that_it_cannot_attack_are_refused_before_any_work() -> None:
    victim, streams, threat = linear(tasks=1).victim, linear(tasks=1).streams(), Threat("linf", 0.1)
    with pytest.raises(InputError, match=r"take images \(C, H, W\)"):
        theirs()(replace(victim, x=victim.x.flatten(2), space=Box((36,))), threat, streams)
    joint = replace(victim, x=victim.x.view(1, 8, 1, 6, 6), y=victim.y.view(1, 8))
    with pytest.raises(InputError, match="query surface"):
        theirs()(joint, threat, streams)
    for planted in (1.01, -0.01, torch.nan):
        x = victim.x.clone()
        x[0, 0, 0, 0, 0] = planted
        with pytest.raises(InputError, match=r"^x: "):
            theirs()(replace(victim, x=x), threat, streams)
    assert victim.cost.forwards.tolist() == [0]


@pytest.mark.parametrize("norm", NORMS)
def test_small_images_other_boxes_and_float64_are_attacked_too(norm: Norm) -> None:
    victims = linear(ways=3, tasks=1, queries=6, shape=(2, 3, 4), dtype=torch.float64)
    # The same classifiers on inputs of twice the size, in a box that is not [0, 1].
    wide = replace(of(victims.weights, 2 * victims.victim.x - 1, victims.victim.y[:, 0], (2, 3, 4)).victim)
    wide = replace(wide, space=Box((2, 3, 4), -1.0, 1.0))
    eps = victims.eps(norm)
    survived = victims.survives(quick()(victims.victim, Threat(norm, eps), victims.streams()))
    assert torch.equal(survived, victims.distances(norm) > eps)
    shifted = quick()(wide, Threat(norm, 2 * eps), victims.streams())
    with torch.no_grad():
        outputs = victims.victim.forward((shifted + 1) / 2, victims.victim.points)
    assert torch.equal(outputs.argmax(-1).eq(victims.victim.y).squeeze(1), victims.distances(norm) > eps)


def test_a_model_that_cannot_tell_classes_apart_is_no_error() -> None:
    victims = linear(tasks=1, ways=3)
    blind = of(0 * victims.weights, victims.victim.x, victims.victim.y[:, 0], victims.victim.space.shape)
    x_adv = theirs()(blind.victim, Threat("l2", 0.1), victims.streams())
    assert torch.equal(x_adv, blind.victim.x)
    assert blind.victim.cost.backwards.tolist() == [0]


def test_an_error_of_the_model_is_not_taken_for_robustness() -> None:
    def fail(scores: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise ArithmeticError("planted")
        return scores

    victims = linear(tasks=1)
    with pytest.raises(ArithmeticError, match="planted"):
        theirs()(with_forward(victims, fail).victim, Threat("linf", 0.05), victims.streams())
