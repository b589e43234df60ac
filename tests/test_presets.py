"""What a preset's name promises: its literal settings, the rows it sends, and the iterates a victim sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor

from robustbench_meta import catalog, threats
from robustbench_meta.attacks.noise import Noise
from robustbench_meta.attacks.pgd import PGD, MultiTargetedPGD
from robustbench_meta.linear import Linear, linear, of
from robustbench_meta.types import Attack, Norm, Streams, Threat, Victim

POINTS, WAYS = 8, 3
THREAT = Threat("linf", 0.05)
ALL: tuple[Norm, ...] = ("linf", "l2", "l1")


def never_fooled() -> Linear:
    """Class 0 wins everywhere in the ball; its cross entropy and both margins rise with the first pixel."""
    weights = torch.tensor([[[5.0, 5.0, 5.0], [6.0, 0.0, 0.0], [7.0, 0.0, 0.0]]], dtype=torch.float64)
    x = torch.full((POINTS, 1, 3), 0.5, dtype=torch.float64)
    return of(weights, x, torch.zeros(POINTS, dtype=torch.int64), (3,))


def seen_by(attack: Attack, seed: int = 3) -> tuple[Linear, list[Tensor], Tensor]:
    """Attack the victim that nothing fools: its first pixel [P] at every forward, and of x_adv."""
    victims, seen = never_fooled(), []

    def forward(x: Tensor, points: Tensor) -> Tensor:
        seen.append(x.detach()[:, 0, 0].clone())
        return victims.victim.forward(x, points)

    victim: Victim = replace(victims.victim, forward=forward)
    x_adv = attack(victim, THREAT, Streams([seed]))
    assert victims.survives(victims.victim.x).all()
    assert victims.survives(x_adv).all()
    victims.victim.cost.forwards.sub_(2 * POINTS)  # the two verdicts above
    return victims, seen, x_adv[:, 0, 0]


def start(seed: int = 3) -> Tensor:
    """The first pixel of the random start that seed gives: [P]."""
    victim = never_fooled().victim
    return threats.random_start(victim.x, Streams([seed]), THREAT, victim.space)[:, 0, 0]


def steps_of(length: float, count: int) -> list[Tensor]:
    """Where `count` steps of `length` lead from the random start, none beyond the ball."""
    return [(start() + step * length).clamp(max=0.5 + THREAT.eps) for step in range(count + 1)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("noise", Noise(draws=20)),
        ("noise-7", Noise(draws=7)),
        ("fgsm", PGD(1, 1.0, "eps", "clean", "cross-entropy", "last", ALL)),
        ("fgsm-rs", PGD(1, 1.25, "eps", "random", "cross-entropy", "last", ALL)),
        ("pgd-20", PGD(20, 0.125, "eps", "random", "cross-entropy", "best", ALL)),
        ("pgd-5", PGD(5, 0.5, "eps", "random", "cross-entropy", "best", ALL)),
        ("pgd-20-aq", PGD(20, 2 / 255, "input", "random", "cross-entropy", "last", ("linf",))),
        ("pgd-7-aq", PGD(7, 2 / 255, "input", "random", "cross-entropy", "last", ("linf",))),
        ("pgd-3-aq", PGD(3, 2 / 255, "input", "random", "cross-entropy", "last", ("linf",))),
        ("pgd-3-at", PGD(3, 2.5 / 3, "eps", "random", "cross-entropy", "last", ALL)),
        ("pgd-10-kl", PGD(10, 0.25, "eps", "random", "divergence", "last", ALL)),
        ("pgd-5-kl", PGD(5, 0.5, "eps", "random", "divergence", "last", ALL)),
        ("pgd-mt-50", MultiTargetedPGD(50, 0.05, restarts=2)),
        ("pgd-mt-5", MultiTargetedPGD(5, 0.5, restarts=2)),
    ],
)
def test_a_preset_is_what_its_name_says(name: str, expected: object) -> None:
    assert catalog.attack(name) == expected


@pytest.mark.parametrize(("name", "draws"), [("noise", 20), ("noise-1", 1), ("noise-7", 7)])
def test_noise_scores_each_of_its_draws_once(name: str, draws: int) -> None:
    victims, seen, _ = seen_by(catalog.attack(name))
    assert victims.victim.cost.forwards.tolist() == [draws * POINTS]
    assert victims.victim.cost.backwards.tolist() == [0]
    assert len({tuple(draw.tolist()) for draw in seen}) == draws


@pytest.mark.parametrize(("name", "steps"), [("pgd-20", 20), ("pgd-4", 4)])
def test_pgd_takes_n_steps_of_two_and_a_half_eps_over_n_and_judges_every_iterate(name: str, steps: int) -> None:
    victims, seen, x_adv = seen_by(catalog.attack(name))
    torch.testing.assert_close(seen, steps_of(2.5 * THREAT.eps / steps, steps))
    torch.testing.assert_close(x_adv, torch.full_like(x_adv, 0.5 + THREAT.eps))
    assert victims.victim.cost.forwards.tolist() == [(steps + 1) * POINTS]
    assert victims.victim.cost.backwards.tolist() == [steps * POINTS]


@pytest.mark.parametrize(
    ("name", "length", "steps"),
    [
        ("fgsm-rs", 1.25 * THREAT.eps, 1),
        ("pgd-7-aq", 2 / 255, 7),
        ("pgd-20-aq", 2 / 255, 20),
    ],
)
def test_a_training_attack_returns_its_last_iterate_unjudged(name: str, length: float, steps: int) -> None:
    victims, seen, x_adv = seen_by(catalog.attack(name))
    *judged, last = steps_of(length, steps)
    torch.testing.assert_close(seen, judged)
    torch.testing.assert_close(x_adv, last)
    assert victims.victim.cost.forwards.tolist() == [steps * POINTS]
    assert victims.victim.cost.backwards.tolist() == [steps * POINTS]


def test_fgsm_takes_one_step_of_eps_from_the_clean_point() -> None:
    _, seen, x_adv = seen_by(catalog.attack("fgsm"))
    assert [pixel.tolist() for pixel in seen] == [[0.5] * POINTS]
    torch.testing.assert_close(x_adv, torch.full_like(x_adv, 0.5 + THREAT.eps))


@pytest.mark.parametrize("steps", [3, 50])
def test_multi_targeted_pgd_climbs_every_objective_in_two_restarts_the_first_from_the_clean_point(steps: int) -> None:
    victims, seen, _ = seen_by(catalog.attack(f"pgd-mt-{steps}"))
    objectives = 1 + (WAYS - 1)
    assert victims.victim.cost.backwards.tolist() == [2 * objectives * steps * POINTS]
    assert victims.victim.cost.forwards.tolist() == [(1 + 2 * objectives * (steps + 1)) * POINTS]
    climbs = [seen[1 + climb * (steps + 1) :][: steps + 1] for climb in range(2 * objectives)]
    from_clean = [bool((climb[0] == 0.5).all()) for climb in climbs]
    assert from_clean == [True] * objectives + [False] * objectives
    assert len({tuple(climb[0].tolist()) for climb in climbs[objectives:]}) == objectives
    for climb in climbs:
        torch.testing.assert_close(climb[1], (climb[0] + 2.5 * THREAT.eps / steps).clamp(max=0.5 + THREAT.eps))


def test_the_reference_autoattack_hands_each_task_the_seed_its_stream_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed: list[int] = []

    class Recorded(pyautoattack.AutoAttack):
        """The library up to the point where it would attack."""

        def __init__(self, *args: Any, **fields: Any):
            super().__init__(*args, **fields)
            handed.append(self.seed)

        def run_standard_evaluation(self, x: Tensor, y: Tensor, **fields: Any) -> tuple[Tensor, Tensor]:
            return x, y

    monkeypatch.setattr(pyautoattack, "AutoAttack", Recorded)
    victims = linear(tasks=2, queries=4)
    for seeds in ([1, 2], [1, 3]):
        catalog.attack("autoattack-reference")(victims.victim, Threat("linf", 0.01), Streams(seeds))
    first, second, again, third = handed
    assert first == again
    assert len({first, second, third}) == 3
    assert [first, second] == Streams([1, 2]).seeds()
