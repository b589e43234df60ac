"""foolbox's attacks: every knob set, one budget and one stream at a time, no side effects."""

from __future__ import annotations

import inspect
from dataclasses import replace

import foolbox.attacks
import pytest
import torch
from foolbox.models.pytorch import PyTorchModel
from torch import Tensor

from robustbench_meta import catalog
from robustbench_meta.attacks.via_foolbox import PRESETS, Foolbox
from robustbench_meta.linear import linear, of
from robustbench_meta.types import Box, InputError, Streams, Threat

LINF_PGD = catalog.attack("foolbox:LinfPGD")


def presets() -> list[Foolbox]:
    return [preset for preset in PRESETS.values() if isinstance(preset, Foolbox)]


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_every_knob_of_a_preset_is_set_and_its_norm_is_the_librarys(preset: Foolbox) -> None:
    constructor = getattr(foolbox.attacks, preset.name)
    assert {name for name, _ in preset.knobs} == set(inspect.signature(constructor).parameters)
    assert preset.norms == ({"inf": "linf", "2": "l2"}[str(constructor.distance.p).removesuffix(".0")],)


def test_presets_are_named_as_foolbox_names_them() -> None:
    assert {f"foolbox:{preset.name}" for preset in presets()} == set(PRESETS)
    assert not any("L1" in name for name in PRESETS)


def test_it_returns_what_a_direct_call_with_the_same_seed_returns() -> None:
    victims = linear(tasks=1)
    x, y, right = victims.victim.x.squeeze(1), victims.victim.y.squeeze(1), victims.survives(victims.victim.x)

    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (victims.weights[0] * x.flatten(1).unsqueeze(1)).sum(-1)

    model = PyTorchModel(Model().eval(), bounds=(0, 1), device="cpu")
    direct = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / 20, abs_stepsize=None, steps=20, random_start=True)
    with torch.random.fork_rng():
        torch.manual_seed(Streams([11]).seeds()[0])
        _, expected, _ = direct(model, x[right], y[right], epsilons=0.01)
    found = LINF_PGD(victims.victim, Threat("linf", 0.01), Streams([11])).squeeze(1)
    assert torch.equal(found[right], expected)
    assert torch.equal(found[~right], x[~right])


def test_a_task_is_attacked_with_its_own_stream_whatever_lies_beside_it() -> None:
    both = linear(tasks=2, queries=5)
    second = of(both.weights[1:], both.victim.x[5:], both.victim.y[5:, 0], both.victim.space.shape)
    threat = Threat("linf", 0.01)
    together = LINF_PGD(both.victim, threat, Streams([1, 2]))
    assert torch.equal(together[5:], LINF_PGD(second.victim, threat, Streams([2])))


def test_fgsm_moves_every_pixel_of_correct_queries_by_eps_along_the_sign_of_the_gradient() -> None:
    victims = linear(ways=2, tasks=1)
    y = victims.victim.y.squeeze(1)
    sign = (victims.weights[0][1 - y] - victims.weights[0][y]).sign().view_as(victims.victim.x)
    x_adv = catalog.attack("foolbox:FGSM")(victims.victim, Threat("linf", 0.01), victims.streams())
    right = victims.survives(victims.victim.x)
    torch.testing.assert_close(x_adv[right], (victims.victim.x + 0.01 * sign)[right])


@pytest.mark.parametrize("name", ["foolbox:L2DeepFoolAttack", "foolbox:DDNAttack", "foolbox:L2CarliniWagnerAttack"])
def test_an_attack_that_minimises_leaves_points_beyond_eps_clean(name: str) -> None:
    victims = linear(ways=2, tasks=1, queries=10)
    eps = victims.eps("l2")
    x_adv = catalog.attack(name)(victims.victim, Threat("l2", eps), victims.streams())
    survived = victims.survives(x_adv)
    assert torch.equal(survived, victims.distances("l2") > eps)
    assert torch.equal(x_adv[survived], victims.victim.x[survived])


def test_inputs_of_any_shape_and_box_are_taken() -> None:
    victims = linear(ways=2, tasks=1, shape=(12,))
    wide = replace(victims.victim, space=Box((12,), -1.0, 1.0))
    eps = victims.eps("linf")
    x_adv = LINF_PGD(wide, Threat("linf", eps), victims.streams())
    assert torch.equal(victims.survives(x_adv), victims.distances("linf") > eps)


def test_double_precision_stays_double() -> None:
    victims = linear(tasks=1, dtype=torch.float64)
    assert LINF_PGD(victims.victim, Threat("linf", 0.01), victims.streams()).dtype == torch.float64


def test_another_norm_is_refused() -> None:
    victims = linear(tasks=1)
    with pytest.raises(InputError, match="norm: foolbox:LinfPGD works in linf, not in l2"):
        LINF_PGD(victims.victim, Threat("l2", 0.1), victims.streams())


def test_the_label_that_foolbox_takes_for_success_is_refused() -> None:
    victims = linear(ways=5, tasks=1)
    with pytest.raises(InputError, match=r"^y: labels -100 to -100"):
        LINF_PGD(replace(victims.victim, y=torch.full_like(victims.victim.y, -100)), Threat("linf", 0.1), Streams([0]))


def test_pixels_outside_the_box_are_refused_by_name() -> None:
    victims = linear(tasks=1)
    with pytest.raises(InputError, match=r"^x: inputs in .* leave the box \[0, 1\]"):
        LINF_PGD(replace(victims.victim, x=victims.victim.x + 1), Threat("linf", 0.1), victims.streams())
