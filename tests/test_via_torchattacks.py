"""torchattacks' attacks: every knob set, imported only when run, no side effects.

What needs the library is skipped without it; `make agreement-tests` runs it where it is installed.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_meta import catalog
from robustbench_meta.attacks.via_torchattacks import PRESETS, TorchAttacks
from robustbench_meta.libraries import missing
from robustbench_meta.linear import linear
from robustbench_meta.types import Box, InputError, Streams, Threat

NAMES = sorted(PRESETS)


def preset(name: str) -> TorchAttacks:
    found = PRESETS[name]
    assert isinstance(found, TorchAttacks)
    return found


@pytest.mark.skipif(not missing("torchattacks"), reason="torchattacks is installed")
@pytest.mark.parametrize("name", NAMES)
def test_without_torchattacks_one_line_says_how_to_install_it(name: str) -> None:
    victims = linear(tasks=1)
    with pytest.raises(
        InputError, match=r"^attack: needs torchattacks, .*`make agreement-tests`.*pip install"
    ) as raised:
        catalog.attack(name)(victims.victim, Threat("linf", 0.01), victims.streams())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FGSM", TorchAttacks("FGSM", ("linf",), None, ())),
        ("BIM", TorchAttacks("BIM", ("linf",), 0.125, (("steps", 20),))),
        ("PGD", TorchAttacks("PGD", ("linf",), 0.125, (("steps", 20), ("random_start", True)))),
        ("PGD-clean", TorchAttacks("PGD", ("linf",), 0.125, (("steps", 20), ("random_start", False)))),
    ],
)
def test_a_preset_travels_as_far_as_pgd_20(name: str, expected: TorchAttacks) -> None:
    assert catalog.attack(f"torchattacks:{name}") == expected


def test_its_autoattack_is_not_offered() -> None:
    assert not any("autoattack" in name.lower() for name in PRESETS)


@pytest.mark.parametrize("name", NAMES)
def test_every_knob_of_torchattacks_is_set(name: str, torchattacks: Any) -> None:
    attack = preset(name)
    given = {"model", "eps", *(name for name, _ in attack.knobs), *(["alpha"] if attack.step else [])}
    assert given == set(inspect.signature(getattr(torchattacks, attack.name)).parameters)


@pytest.mark.parametrize(("name", "eps"), [("PGD", 0.01), ("PGDL2", 0.05)])
def test_it_returns_what_torchattacks_called_directly_with_the_same_seed_returns(
    name: str, eps: float, torchattacks: Any
) -> None:
    victims = linear(tasks=1)
    x, y, right = victims.victim.x.squeeze(1), victims.victim.y.squeeze(1), victims.survives(victims.victim.x)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(victims.weights[0])

        def forward(self, x: Tensor) -> Tensor:
            return (self.weights * x.flatten(1).unsqueeze(1)).sum(-1)

    with torch.random.fork_rng():
        torch.manual_seed(Streams([11]).seeds()[0])
        direct = getattr(torchattacks, name)(Model().eval(), eps=eps, alpha=eps / 8, steps=20, random_start=True)
        expected = direct(x[right], y[right])
    attack = catalog.attack(f"torchattacks:{name}")
    found = attack(victims.victim, Threat(attack.norms[0], eps), Streams([11])).squeeze(1)
    torch.testing.assert_close(found[right], expected, rtol=0, atol=1e-6)  # what rounding took out of the ball is back
    assert torch.equal(found[~right], x[~right])


@pytest.mark.parametrize("name", NAMES)
def test_torchattacks_prints_nothing(name: str, torchattacks: Any, capfd: pytest.CaptureFixture[str]) -> None:
    victims, attack = linear(tasks=1, queries=3), preset(name)
    attack(victims.victim, Threat(attack.norms[0], 0.01), victims.streams())
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("torchattacks")
def test_torchattacks_in_another_norm_or_box_is_refused() -> None:
    victims, attack = linear(tasks=1), preset("torchattacks:PGD")
    with pytest.raises(InputError, match="norm: torchattacks:PGD works in linf, not in l2"):
        attack(victims.victim, Threat("l2", 0.1), victims.streams())
    for box in (Box((1, 6, 6), -1.0, 1.0), Box((36,))):
        with pytest.raises(InputError, match=r"torchattacks takes \(C, H, W\) in \[0, 1\]"):
            attack(replace(victims.victim, space=box), Threat("linf", 0.1), victims.streams())
