"""The peers compute what ours computes: the same meta-gradients, classifiers, attacks and cells, so ratios compare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from robustbench_meta import threats, timing
from robustbench_meta.attacks.pgd import PGD, MultiTargetedPGD
from robustbench_meta.losses import correct
from robustbench_meta.timing import CASES, SIZES, Case, Meter, Setup
from robustbench_meta.types import Streams

PEERS = cast(Any, timing.peers())
TINY = SIZES["tiny"]
META_STEPS = [name for name, case in CASES.items() if case.kind == "meta-step"]


def ready(name: str) -> Setup:
    return timing.set_up(CASES[name], TINY, dtype=torch.float64)


def verdicts(setup: Setup, x_adv: Tensor) -> Tensor:
    episodes = setup.episodes
    with torch.no_grad():
        fitted = setup.learner.adapt(episodes.support_x, episodes.support_y, steps=setup.steps)
        return correct(setup.learner.predict(fitted, x_adv), episodes.query_y)


@pytest.mark.parametrize("name", META_STEPS)
def test_the_loop_of_a_peer_has_our_meta_gradient_and_sends_the_same_rows_back(name: str) -> None:
    setup = ready(name)

    def start(task: int, x: Tensor, eps: float) -> Tensor:
        return threats.random_start(x[None], Streams([setup.seeds[task]]), setup.threat, setup.learner.space)[0]

    mine, theirs = Meter(), Meter()
    ours, peers = timing.ours(setup)(mine), PEERS.meta_step(setup, start)(theirs)
    assert ours.keys() == peers.keys()
    largest = max(float(value.abs().max()) for value in ours.values())
    assert largest > 1e-4
    for key, value in ours.items():
        torch.testing.assert_close(value, peers[key], rtol=1e-9, atol=1e-11 * largest)
    if "anil" not in name:  # whose peer embeds the support once for all inner steps
        assert mine.backwards == theirs.backwards


@pytest.mark.parametrize("algorithm", timing.ALGORITHMS)
def test_the_frozen_classifier_of_a_peer_scores_queries_as_ours(algorithm: str) -> None:
    setup = ready(f"adapt/{algorithm}")
    x, y, queries, _ = (part[0] for part in setup.episodes.tensors.values())
    classifier = PEERS.adapted(setup, x, y, steps=setup.steps)
    fitted = setup.learner.adapt(x[None], y[None], steps=setup.steps)
    expected = setup.learner.predict(fitted, queries[None])[0].detach()
    torch.testing.assert_close(classifier(queries), expected, rtol=1e-9, atol=1e-9)
    assert not any(value.requires_grad for value in classifier.parameters())


@pytest.mark.parametrize("attack", [PGD(1, 1.0, start="clean", keep="last"), PGD(6, 0.25, start="clean", keep="last")])
def test_foolbox_finds_the_very_images_that_ours_finds_from_the_same_start(attack: PGD) -> None:
    setup = replace(ready("attack/pgd-20"), attacks={"fgsm" if attack.steps == 1 else "pgd-6": attack})
    mine, theirs = Meter(), Meter()
    ours, peers = timing.ours(setup)(mine)["x_adv"], PEERS.attack(setup)(theirs)["x_adv"]
    assert (ours - setup.episodes.query_x).abs().max() > 0.9 * setup.threat.eps
    torch.testing.assert_close(ours, peers, rtol=0, atol=1e-9)
    assert mine.backwards == theirs.backwards == attack.steps * setup.episodes.query_y.numel()


def test_a_multi_targeted_peer_fools_the_same_queries_at_the_rows_of_an_attack_that_drops_none() -> None:
    attack = MultiTargetedPGD(steps=6, step=0.25, restarts=1)
    setup = replace(ready("attack/pgd-mt-50"), attacks={"pgd-mt-6": attack})
    meter = Meter()
    ours, peers = timing.ours(setup)(None)["x_adv"], PEERS.attack(setup)(meter)["x_adv"]
    clean, stand = verdicts(setup, setup.episodes.query_x), verdicts(setup, ours)
    assert torch.equal(stand, verdicts(setup, peers))
    assert 0 < (clean & stand).sum() < clean.sum()
    points, ways = setup.episodes.query_y.numel(), 5
    assert (meter.forwards, meter.backwards) == (points * (1 + ways * 7), points * ways * 6)


@pytest.mark.parametrize("part", ["apgd-ce", "apgd-t", "fab-t", "square", None])
def test_pyautoattack_and_its_parts_find_images_within_the_budget(part: str | None) -> None:
    setup = timing.set_up(CASES["attack/pgd-20"], TINY)
    x, y, queries, labels = (part[0] for part in setup.episodes.tensors.values())
    classifier = PEERS.adapted(setup, x, y, steps=setup.steps)
    x_adv = PEERS.autoattack(part, 10)(classifier, queries, labels, setup.threat)
    assert threats.within(x_adv, queries, setup.threat, setup.learner.space)
    right = classifier(queries).argmax(-1) == labels
    fooled = right & (classifier(x_adv).argmax(-1) != labels)
    assert fooled.any() or part == "square"  # 10 queries are few for it
    assert fooled.sum() < right.sum()


def test_pyautoattack_runs_its_standard_settings_against_all_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyautoattack

    seen: list[Any] = []

    def note(self: Any, x: Tensor, y: Tensor, *, batch_size: int) -> tuple[Tensor, Tensor]:
        seen.append(self)
        return x, y

    monkeypatch.setattr(pyautoattack.AutoAttack, "run_standard_evaluation", note)
    setup = timing.set_up(CASES["attack/pgd-20"], TINY)
    x, y, queries, labels = (part[0] for part in setup.episodes.tensors.values())
    PEERS.autoattack(None, None)(PEERS.adapted(setup, x, y, steps=None), queries, labels, setup.threat)
    (made,) = seen
    assert made.attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert (made.apgd_targeted.n_target_classes, made.fab.n_target_classes) == (4, 4)
    assert (made.apgd.n_iter, made.apgd_targeted.n_iter, made.fab.n_iter, made.square.n_queries) == (
        100,
        100,
        100,
        5000,
    )
    assert (made.apgd.n_restarts, made.apgd_targeted.n_restarts, made.fab.n_restarts) == (1, 1, 1)


def test_the_cells_of_a_grid_one_by_one_are_the_cells_of_ours() -> None:
    setup = timing.set_up(Case("grid"), replace(TINY, queries=3, shots=(1, 5), eps=(0.8, 1.0)))
    ours, peers = timing.ours(setup)(Meter()), PEERS.grid(setup)(Meter())
    attacks = len(timing.GRID_ATTACKS)
    assert ours["clean"].shape == (2 * 2 * attacks, 15)
    assert torch.equal(ours["clean"], peers["clean"].view(ours["clean"].shape))
    same = ours["survived"] == peers["survived"].view(ours["survived"].shape)
    assert same[timing.GRID_ATTACKS.index("fgsm") :: attacks].all()
    # Random starts differ: a verdict may, but seldom does.
    assert same.float().mean() >= 0.9
