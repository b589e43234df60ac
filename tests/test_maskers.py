"""Each masker hides what a plain attack would find, though it withstands no more than the honest learner."""

from __future__ import annotations

import pytest
import torch

from robustbench_meta import catalog, losses, maskers
from robustbench_meta.engine import ObjectLearner
from robustbench_meta.types import Spec, Streams, Threat

STROKES = catalog.family("strokes")


def accuracies(subject: maskers.Honest, tasks: int = 4) -> tuple[float, float]:
    """Clean accuracy, and what 20 steps of projected ascent on the cross entropy leave of it."""
    episodes = STROKES.sample("test", Spec(5, 5, 5), range(tasks))
    learner = ObjectLearner(subject, STROKES.space, 5)
    torch.manual_seed(0)
    fitted = learner.adapt(episodes.support_x, episodes.support_y)
    clean = losses.correct(learner.predict(fitted, episodes.query_x), episodes.query_y)
    victim = learner.query_victim(fitted, episodes.query_x, episodes.query_y)
    x_adv = catalog.attack("pgd-20")(victim, Threat("linf", 0.1), Streams(range(tasks)))
    attacked = losses.correct(learner.predict(fitted, x_adv.view(episodes.query_x.shape)), episodes.query_y)
    return float(clean.float().mean()), float((clean & attacked).float().mean())


def test_the_honest_learner_is_good_when_clean_and_falls_to_plain_ascent() -> None:
    clean, robust = accuracies(maskers.Honest())
    assert clean > 0.75
    assert robust < 0.15


@pytest.mark.parametrize("name", maskers.MASKERS)
def test_plain_ascent_does_worse_on_a_masker_than_on_the_honest_learner(name: str) -> None:
    clean, robust = accuracies(maskers.MASKERS[name])
    assert clean > 0.4
    assert robust > 0.25
