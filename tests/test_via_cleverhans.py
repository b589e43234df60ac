"""cleverhans' attacks: every knob set, imported only when run, no side effects.

What needs the library is skipped without it; `make agreement-tests` runs it where it is installed.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_meta import catalog
from robustbench_meta.attacks.via_cleverhans import PRESETS, CleverHans
from robustbench_meta.libraries import missing
from robustbench_meta.linear import linear
from robustbench_meta.types import Box, InputError, Norm, Streams, Threat

NAMES = sorted(PRESETS)


def preset(name: str) -> CleverHans:
    found = PRESETS[name]
    assert isinstance(found, CleverHans)
    return found


def test_listing_attacks_imports_neither_torchattacks_nor_cleverhans() -> None:
    code = (
        "import sys\n"
        "from robustbench_meta import catalog\n"
        "names = catalog.names('attacks')\n"
        "assert 'cleverhans:projected_gradient_descent' in names and 'torchattacks:PGD' in names\n"
        "print([name for name in ('torchattacks', 'cleverhans', 'foolbox') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not missing("cleverhans"), reason="cleverhans is installed")
@pytest.mark.parametrize("name", NAMES)
def test_without_cleverhans_one_line_says_how_to_install_it(name: str) -> None:
    victims = linear(tasks=1)
    with pytest.raises(InputError, match=r"^attack: needs cleverhans, .*`make agreement-tests`.*pip install") as raised:
        catalog.attack(name)(victims.victim, Threat("linf", 0.01), victims.streams())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "start"), [("", True), ("-clean", False)])
def test_projected_gradient_descent_travels_as_far_as_pgd_20(name: str, start: bool) -> None:
    attack = preset(f"cleverhans:projected_gradient_descent{name}")
    assert attack.step == 2.5 / 20
    assert dict(attack.knobs)["nb_iter"] == 20
    assert dict(attack.knobs)["rand_init"] is start


@pytest.mark.parametrize("name", NAMES)
def test_every_knob_of_cleverhans_is_set(name: str, cleverhans: Callable[[str], Any]) -> None:
    attack = preset(name)
    fixed = {"model_fn", "x", "y", "eps", "norm", "clip_min", "clip_max"}
    given = {*fixed, *(name for name, _ in attack.knobs), *(["eps_iter"] if attack.step else [])}
    assert given == set(inspect.signature(cleverhans(attack.name)).parameters)


@pytest.mark.parametrize(("norm", "order", "eps"), [("linf", float("inf"), 0.01), ("l2", 2, 0.05)])
def test_it_returns_what_cleverhans_called_directly_with_the_same_seed_returns(
    norm: Norm, order: float, eps: float, cleverhans: Callable[[str], Any]
) -> None:
    victims = linear(tasks=1)
    x, y, right = victims.victim.x.squeeze(1), victims.victim.y.squeeze(1), victims.survives(victims.victim.x)

    def model(x: Tensor) -> Tensor:
        return (victims.weights[0] * x.flatten(1).unsqueeze(1)).sum(-1)

    with torch.random.fork_rng():
        torch.manual_seed(Streams([11]).seeds()[0])
        direct = cleverhans("projected_gradient_descent")
        expected = direct(model, x[right], eps, eps / 8, 20, order, clip_min=0, clip_max=1, y=y[right]).detach()
    attack = preset("cleverhans:projected_gradient_descent")
    found = attack(victims.victim, Threat(norm, eps), Streams([11])).squeeze(1)
    torch.testing.assert_close(found[right], expected, rtol=0, atol=1e-6)  # what rounding took out of the ball is back
    assert torch.equal(found[~right], x[~right])


@pytest.mark.usefixtures("cleverhans")
def test_cleverhans_takes_inputs_of_any_shape_and_box() -> None:
    victims = linear(ways=2, tasks=1, shape=(12,))
    wide = replace(victims.victim, space=Box((12,), -1.0, 1.0))
    eps = victims.eps("linf")
    x_adv = preset("cleverhans:projected_gradient_descent")(wide, Threat("linf", eps), victims.streams())
    assert torch.equal(victims.survives(x_adv), victims.distances("linf") > eps)


@pytest.mark.usefixtures("cleverhans")
def test_cleverhans_in_another_norm_or_precision_is_refused() -> None:
    victims, attack = linear(tasks=1), preset("cleverhans:fast_gradient_method")
    with pytest.raises(InputError, match="norm: cleverhans:fast_gradient_method works in linf, l2, not in l1"):
        attack(victims.victim, Threat("l1", 0.1), victims.streams())
    double = linear(tasks=1, dtype=torch.float64)
    with pytest.raises(InputError, match=r"dtype: torch.float64; cleverhans computes in torch.float32 alone"):
        attack(double.victim, Threat("linf", 0.1), double.streams())
