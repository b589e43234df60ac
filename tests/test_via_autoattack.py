"""The reference AutoAttack: few classes, robust models, silent failures and side effects."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack, checks
from torch import Tensor

from robustbench_meta.attacks.via_autoattack import PRESETS, ReferenceAutoAttack
from robustbench_meta.linear import Linear, linear, of
from robustbench_meta.types import Box, InputError, Norm, Streams, Threat

ATTACK = ReferenceAutoAttack()


def with_forward(victims: Linear, change: Any) -> Linear:
    """Pass every output of the victim's forward through `change`."""
    forward = victims.victim.forward
    return replace(victims, victim=replace(victims.victim, forward=lambda x, points: change(forward(x, points))))


def all_fooled(victims: Linear) -> Threat:
    return Threat("linf", 1.2 * float(victims.distances("linf").max()))


def test_the_preset_is_the_standard_version() -> None:
    assert PRESETS == {"autoattack-reference": ATTACK}


@pytest.mark.parametrize("ways", [2, 3, 4, 5, 10, 12])
def test_robust_points_neither_crash_it_nor_hide_the_exact_answer(ways: int) -> None:
    victims = linear(ways=ways, tasks=1, queries=8)
    distances, eps = victims.distances("linf"), victims.eps("linf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x_adv = ATTACK(victims.victim, Threat("linf", eps), victims.streams())
    survived = victims.survives(x_adv)
    assert 0 < int(survived.sum()) < len(survived)
    assert torch.equal(survived, distances > eps)
    assert torch.equal(x_adv[survived], victims.victim.x[survived])


def test_a_model_that_nothing_fools_comes_back_clean() -> None:
    victims = linear(ways=3, tasks=1, queries=6)
    clean = victims.survives(victims.victim.x)
    eps = 0.5 * float(victims.distances("linf")[clean].min())
    x_adv = ATTACK(victims.victim, Threat("linf", eps), victims.streams())
    assert torch.equal(x_adv, victims.victim.x)


def test_it_returns_what_a_direct_call_with_the_same_seed_returns() -> None:
    victims = linear(ways=10, tasks=1, queries=6)
    eps, x, y = victims.eps("linf"), victims.victim.x.squeeze(1), victims.victim.y.squeeze(1)
    found = ATTACK(victims.victim, Threat("linf", eps), Streams([11]))

    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (victims.weights[0] * x.flatten(1).unsqueeze(1)).sum(-1)

    with torch.random.fork_rng():
        direct = AutoAttack(Model(), norm="Linf", eps=eps, seed=Streams([11]).seeds()[0])
        expected, _ = direct.run_standard_evaluation(x, y)
    assert torch.equal(found.squeeze(1), expected)


def test_each_task_is_attacked_with_its_own_classifier() -> None:
    victims = linear(ways=5, tasks=3, queries=6)
    threat = all_fooled(victims)
    together = ATTACK(victims.victim, threat, Streams([1, 2, 3]))
    assert not victims.survives(together).any()
    last = of(victims.weights[2:], victims.victim.x[12:], victims.victim.y[12:, 0], victims.victim.space.shape)
    assert torch.equal(ATTACK(last.victim, threat, Streams([3])), together[12:])


def test_an_error_of_the_model_is_not_taken_for_robustness() -> None:
    def fail(scores: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise ArithmeticError("planted")
        return scores

    victims = with_forward(linear(tasks=1), fail)
    before = sys.gettrace()
    with pytest.raises(ArithmeticError, match="planted"):
        ATTACK(victims.victim, all_fooled(victims), victims.streams())
    assert sys.gettrace() is before
    assert not logging.getLogger("auto-attack").handlers


def test_scores_that_are_not_numbers_are_refused() -> None:
    victims = linear(tasks=2)
    threat = all_fooled(victims)
    for planted in (torch.nan, torch.inf):
        spoilt = with_forward(victims, lambda scores, planted=planted: scores + planted)
        with pytest.raises(InputError, match=r"^scores: task 0 "):
            ATTACK(spoilt.victim, threat, victims.streams())


@pytest.mark.parametrize("label", [-100, -1, 5])
def test_labels_out_of_range_are_refused(label: int) -> None:
    victims = linear(ways=5, tasks=1)
    y = victims.victim.y.clone()
    y[2] = label
    with pytest.raises(InputError, match=r"^y: labels .*5 classes allow 0 to 4"):
        ATTACK(replace(victims.victim, y=y), Threat("linf", 0.1), victims.streams())


def test_pixels_outside_the_box_are_refused() -> None:
    victims = linear(tasks=1)
    for planted in (1.01, -0.01, torch.nan):
        x = victims.victim.x.clone()
        x[0, 0, 0, 0, 0] = planted
        with pytest.raises(InputError, match=r"^x: "):
            ATTACK(replace(victims.victim, x=x), Threat("linf", 0.1), victims.streams())


def test_inputs_the_library_cannot_take_are_refused() -> None:
    victim, streams = linear(tasks=1).victim, linear(tasks=1).streams()
    for box, said in ((Box((1, 6, 6), -1.0, 1.0), r"takes \[0, 1\]"), (Box((36,)), r"takes images \(C, H, W\)")):
        with pytest.raises(InputError, match=said):
            ATTACK(replace(victim, space=box), Threat("linf", 0.1), streams)
    with pytest.raises(InputError, match="float32"):
        ATTACK(linear(tasks=1, dtype=torch.float64).victim, Threat("linf", 0.1), streams)
    small = linear(tasks=1, shape=(1, 4, 4))
    with pytest.raises(InputError, match="5 x 5"):
        ATTACK(small.victim, Threat("l2", 0.1), streams)
    joint = replace(victim, x=victim.x.view(1, 8, 1, 6, 6), y=victim.y.view(1, 8))
    with pytest.raises(InputError, match="query surface"):
        ATTACK(joint, Threat("linf", 0.1), streams)


def test_the_tracer_and_the_counters_of_dynamic_models_are_put_back() -> None:
    def tracer(frame: FrameType, event: str, argument: object) -> None:
        return None

    victims = linear(tasks=1)
    counted, before = dict(checks.funcs), sys.gettrace()
    checks.funcs["grad"] = 3  # as another dynamic model would have left it
    try:
        sys.settrace(tracer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ATTACK(victims.victim, all_fooled(victims), victims.streams())
        assert sys.gettrace() is tracer
        assert checks.funcs["grad"] == 3
    finally:
        sys.settrace(before)
        checks.funcs.update(counted)


def test_warnings_of_the_library_reach_the_caller() -> None:
    victims = with_forward(linear(tasks=2), lambda scores: scores + 0.01 * torch.randn_like(scores))
    with pytest.warns(UserWarning, match=r"^AutoAttack, 2 times in 2 tasks: .*randomized defense"):
        ATTACK(victims.victim, all_fooled(victims), victims.streams())


def test_a_model_that_cannot_tell_classes_apart_is_no_error() -> None:
    victims = linear(tasks=1, ways=3)
    blind = of(0 * victims.weights, victims.victim.x, victims.victim.y[:, 0], victims.victim.space.shape)
    x_adv = ATTACK(blind.victim, Threat("l2", 0.1), victims.streams())
    assert torch.equal(x_adv, blind.victim.x)
    assert not blind.survives(x_adv).any()


@pytest.mark.parametrize(("norm", "ways"), [("l2", 3), ("l1", 10)])
def test_the_other_norms_give_the_exact_answer_too(norm: Norm, ways: int) -> None:
    victims = linear(ways=ways, tasks=1, queries=8, seed=1)
    eps = victims.eps(norm)
    x_adv = ATTACK(victims.victim, Threat(norm, eps), victims.streams())
    assert torch.equal(victims.survives(x_adv), victims.distances(norm) > eps)
