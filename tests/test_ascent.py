"""The climb's memory: a point is judged at every iterate and at the last, and the best one is kept.

Scores depend on one pixel p: class 0 is true, class 1 wins only inside a thin band, class 2 never wins but
is all that a gradient sees, and it pulls p upwards.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustbench_meta import catalog
from robustbench_meta.ascent import Search
from robustbench_meta.attacks.pgd import PGD
from robustbench_meta.linear import linear
from robustbench_meta.types import NORMS, Box, Cost, InputError, Norm, Streams, Threat, Victim

THREAT = Threat("linf", 0.6)
START = 0.1


def band(labels: int = 1) -> Victim:
    """One point whose first label is wrong where 0.35 < p < 0.45; the others never are."""
    first = torch.tensor([1.0] + [0.0] * (labels - 1), dtype=torch.float64)

    def forward(x: Tensor, points: Tensor) -> Tensor:
        p = x.view(-1, 1).expand(-1, labels)
        inside = ((p > 0.35) & (p < 0.45)) * first
        return torch.stack([torch.zeros_like(p), 2.0 * inside - 1, p - 5], dim=-1)

    return victim(forward, labels)


def victim(forward: object, labels: int = 1) -> Victim:
    x = torch.full((1, 1, 1), START, dtype=torch.float64)
    cost = Cost(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    return Victim(forward, x, torch.zeros(1, labels, dtype=torch.int64), Box((1,)), 1, cost)  # type: ignore[arg-type]


def climbed(subject: Victim, steps: int) -> Search:
    """Climb from 0.1 by steps of 0.1."""
    search = Search(subject)
    search.run(THREAT, subject.x, lambda outputs, _: outputs[..., 2].mean(dim=1), steps=steps, length=0.1)
    return search


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("steps", [4, 5, 6])
def test_the_iterate_inside_a_band_that_the_climb_passes_through_is_kept(steps: int, labels: int) -> None:
    search = climbed(band(labels), steps)
    assert search.x_adv.item() == pytest.approx(0.4)
    assert search.wrong.item() == 1 / labels


@pytest.mark.parametrize("labels", [1, 2])
def test_the_last_iterate_is_judged_too(labels: int) -> None:
    search = climbed(band(labels), steps=3)
    assert search.x_adv.item() == pytest.approx(0.4)
    assert search.wrong.item() == 1 / labels


def test_a_climb_that_stops_before_the_band_fools_nothing() -> None:
    assert climbed(band(), steps=2).wrong.item() == 0


@pytest.mark.parametrize("labels", [1, 2])
def test_pgd_returns_the_best_iterate_or_the_last_as_it_is_told(labels: int) -> None:
    def found(steps: int, keep: str) -> float:
        attack = PGD(steps, step=0.1, step_unit="input", start="clean", keep=keep)  # type: ignore[arg-type]
        return attack(band(labels), Threat("linf", 0.1 * steps), Streams([0])).item()

    assert found(5, "best") == pytest.approx(0.4)
    assert found(3, "best") == pytest.approx(0.4)
    assert found(5, "last") == pytest.approx(0.6)


def test_among_iterates_that_fool_nothing_the_largest_margin_is_kept() -> None:
    def forward(x: Tensor, points: Tensor) -> Tensor:
        p = x.view(-1, 1)
        nearer = ((p > 0.25) & (p < 0.35)).to(p)
        return torch.stack([torch.zeros_like(p), nearer - 2, p - 5], dim=-1)

    search = climbed(victim(forward), steps=5)
    assert search.x_adv.item() == pytest.approx(0.3)
    assert (search.wrong.item(), search.margin.item()) == (0, -1)


def test_a_later_climb_cannot_take_back_what_an_earlier_one_found() -> None:
    subject = band(labels=2)
    search = climbed(subject, steps=4)
    search.run(THREAT, subject.x, lambda outputs, _: -outputs[..., 2].mean(dim=1), steps=2, length=0.05)
    assert search.x_adv.item() == pytest.approx(0.4)


def test_an_ensemble_keeps_what_any_member_finds_and_sends_only_what_stands_to_the_next() -> None:
    victims = linear(ways=5, tasks=2, queries=10)
    threat = Threat("linf", victims.eps("linf", share=0.7))
    alone = {
        name: victims.survives(catalog.attack(name)(victims.victim, threat, victims.streams()))
        for name in ("fgsm", "pgd-mt-20")
    }
    cost = victims.victim.cost
    cost.backwards.zero_()
    both = victims.survives(catalog.attack("fgsm+pgd-mt-20")(victims.victim, threat, victims.streams()))
    assert torch.equal(both, alone["fgsm"] & alone["pgd-mt-20"])
    # One row back for each clean-correct point by FGSM; only those that withstand it are climbed on.
    spent, stood = int(cost.backwards.sum()), int(alone["fgsm"].sum())
    assert spent - int(victims.survives(victims.victim.x).sum()) <= stood * 2 * 5 * 20


def test_ensembles_are_refused_whose_members_cannot_go_on_or_share_no_norm() -> None:
    with pytest.raises(InputError, match=r"^attack: foolbox:FGSM cannot go on"):
        catalog.attack("pgd-20+foolbox:FGSM")
    with pytest.raises(InputError, match=r"^attack: 'pdg-20' is unknown"):
        catalog.attack("fgsm+pdg-20")


@pytest.mark.parametrize("norm", NORMS)
def test_noise_moves_what_it_attacks(norm: Norm) -> None:
    made = linear(ways=5, tasks=2, queries=10)
    threat = Threat(norm, 1.5 * float(made.distances(norm).max()))
    x_adv = catalog.attack("noise")(made.victim, threat, made.streams())
    moved = (x_adv != made.victim.x).flatten(1).any(dim=1)
    assert moved.double().mean() > 0.5
