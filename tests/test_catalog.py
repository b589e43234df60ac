"""Names and what they mean."""

from __future__ import annotations

import dataclasses

import pytest

from robustbench_meta import catalog
from robustbench_meta.attacks.pgd import PGD
from robustbench_meta.types import InputError


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_every_plug_in_is_a_frozen_dataclass_that_prints_its_fields(kind: catalog.Kind) -> None:
    assert catalog.names(kind)
    for name, plugin in catalog.shelf(kind).presets.items():
        made = plugin if not isinstance(plugin, type) else plugin(craft=None)
        assert dataclasses.is_dataclass(made), name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, next((field.name for field in dataclasses.fields(made)), "anything"), 1)
        assert type(made).__name__ in repr(made)


def test_a_name_with_a_number_is_one_exact_configuration() -> None:
    assert catalog.attack("pgd-20") == PGD(steps=20, step=2.5 / 20)
    assert catalog.attack("pgd-37") == PGD(steps=37, step=2.5 / 37)
    assert catalog.attack("pgd-20-aq") == PGD(steps=20, step=2 / 255, step_unit="input", keep="last", norms=("linf",))


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("pgd20", "pgd-20"), ("FGSM", "fgsm"), ("auto-attack", "autoattack"), ("pgd-0", None)]
)
def test_an_unknown_attack_gets_the_nearest_legal_one(wrong: str, nearest: str | None) -> None:
    with pytest.raises(InputError) as raised:
        catalog.attack(wrong)
    assert nearest is None or f"did you mean {nearest!r}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_options_change_one_field_and_unknown_ones_are_refused() -> None:
    assert catalog.algorithm("maml", step_size=0.5) == dataclasses.replace(
        catalog.algorithm("maml"),  # type: ignore[type-var]
        step_size=0.5,
    )
    with pytest.raises(InputError, match="'stepsize' is unknown; legal: step_size"):
        catalog.algorithm("maml", stepsize=0.5)
    with pytest.raises(InputError, match="is not of type"):
        catalog.algorithm("maml", steps="many")


def test_a_family_that_lacks_what_training_asks_for_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True)
    class Bare:
        space: object = None

    monkeypatch.setitem(catalog.shelf("tasks").presets, "bare", Bare())
    with pytest.raises(InputError, match=r"'bare' lacks name, default_network, .*, sample, classes, which"):
        catalog.family("bare")
