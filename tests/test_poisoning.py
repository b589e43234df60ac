"""A poisoned support: what is within reach, flipped labels, adversarial queries reused, and how a cell counts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import load
from tiny import IMAGE, Identity, blobs, learner
from torch import Tensor

from robustbench_meta import catalog, evaluate, losses, poisoning, store, submissions, threats
from robustbench_meta.attacks.reused import Reused
from robustbench_meta.engine import ObjectLearner
from robustbench_meta.types import Cell, Episodes, InputError, Record, Spec, Streams, Threat

STROKES = Path(__file__).parents[1] / "checkpoints" / "strokes-protonet-standard"


class Centroids:
    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x[y == k].flatten(1).mean(0) for k in range(3)])

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return -torch.cdist(x.flatten(1), fitted)


def proxies(episodes: Episodes) -> tuple[Tensor, Tensor]:
    assert episodes.proxy_x is not None
    assert episodes.proxy_y is not None
    return episodes.proxy_x, episodes.proxy_y


def near() -> Episodes:
    """Tasks so hard that one flipped label costs something."""
    return blobs(tasks=2, shots=3, noise=0.9)


def accuracy(subject: Any, episodes: Episodes, y: Tensor) -> Tensor:
    """What is right of the proxies after adapting to the support with labels y [T,S]: [T]."""
    x, truth = proxies(episodes)
    scores = subject.predict(subject.adapt(episodes.support_x, y), x)
    return losses.correct(scores, truth).double().mean(dim=1)


@pytest.mark.parametrize("subject", [learner("protonet"), learner("fomaml"), ObjectLearner(Centroids(), IMAGE, 3)])
def test_of_a_fraction_the_first_items_of_each_class_are_moved_and_the_others_stay(subject: Any) -> None:
    episodes, threat = blobs(), Threat("linf", 0.1, "support", 0.5)
    victim = subject.support_victim(episodes, threat)
    held = [0, 1, 4, 5, 8, 9]  # of 3 classes with 4 items each
    assert victim.x.equal(episodes.support_x[:, held])
    moved = episodes.support_x.clone()
    moved[:, held] = 1 - moved[:, held]
    expected = subject.predict(subject.adapt(moved, episodes.support_y), proxies(episodes)[0])
    torch.testing.assert_close(victim.forward(1 - victim.x, victim.points), expected)
    clean = subject.predict(subject.adapt(episodes.support_x, episodes.support_y), proxies(episodes)[0])
    assert not torch.allclose(clean, expected)
    torch.testing.assert_close(victim.forward(victim.x, victim.points), clean)


@pytest.mark.parametrize("subject", [learner("protonet"), learner("r2d2"), ObjectLearner(Centroids(), IMAGE, 3)])
def test_flipped_labels_are_what_the_learner_adapts_to(subject: Any) -> None:
    episodes = blobs(shots=2)
    victim = subject.support_victim(episodes, Threat("labels", 2, "support"))
    assert victim.x.shape == (2, 1, 6, 3)
    assert not victim.differentiable
    labels = episodes.support_y.clone()
    labels[1, 0], labels[1, 4] = 2, 0
    flipped = victim.x.clone()
    flipped[1, 0, [0, 4]] = torch.eye(3, dtype=flipped.dtype)[[2, 0]]
    scores = subject.predict(subject.adapt(episodes.support_x, labels), proxies(episodes)[0])
    torch.testing.assert_close(victim.forward(flipped, victim.points), scores)
    for budget, allowed in ((2, True), (1, False)):
        assert threats.within(flipped, victim.x, Threat("labels", budget, "support"), victim.space) is allowed
    assert threats.distance(flipped - victim.x, "labels", 2).tolist() == [[0], [2]]
    for bad in (flipped.roll(1, dims=-1) * 0.5, torch.zeros_like(flipped)):
        assert not threats.within(bad, victim.x, Threat("labels", 6, "support"), victim.space)


@pytest.mark.parametrize("name", ["protonet", "r2d2"])
def test_one_flip_by_greedy_search_is_the_worst_of_all_single_flips(name: str) -> None:
    subject, episodes = learner(name, network=Identity()), near()
    victim = subject.support_victim(episodes, Threat("labels", 1, "support"))
    found = catalog.attack("flips-greedy")(victim, Threat("labels", 1, "support"), Streams([0, 1]))
    every = []
    for item, other in product(range(9), range(3)):
        y = episodes.support_y.clone()
        y[:, item] = other
        every.append(accuracy(subject, episodes, y))
    worst = torch.stack(every).amin(dim=0)
    assert (worst < accuracy(subject, episodes, episodes.support_y)).all()
    torch.testing.assert_close(accuracy(subject, episodes, found.squeeze(1).argmax(-1)), worst)


def test_two_flips_by_greedy_search_come_near_the_worst_pair_and_beat_chance() -> None:
    subject, episodes = learner("protonet", network=Identity()), near()
    threat = Threat("labels", 2, "support")
    victim = subject.support_victim(episodes, threat)
    left = {
        name: accuracy(subject, episodes, catalog.attack(name)(victim, threat, Streams([0, 1])).squeeze(1).argmax(-1))
        for name in ("flips-greedy", "noise-1")
    }
    pairs = []
    for (a, b), (to, too) in product(combinations(range(9), 2), product(range(3), repeat=2)):
        y = episodes.support_y.clone()
        y[:, a], y[:, b] = to, too
        pairs.append(accuracy(subject, episodes, y))
    worst, before = torch.stack(pairs).amin(dim=0), accuracy(subject, episodes, episodes.support_y)
    assert (left["flips-greedy"] >= worst).all()
    assert (left["flips-greedy"] < left["noise-1"]).all()
    assert (before - left["flips-greedy"] >= 0.75 * (before - worst)).all()


@pytest.mark.parametrize("name", ["flips-greedy", "noise-3"])
@pytest.mark.parametrize("flips", [0, 1, 3])
def test_flips_keep_to_their_number_and_to_what_is_within_reach(name: str, flips: int) -> None:
    subject, threat = learner("protonet", network=Identity()), Threat("labels", flips, "support", 1 / 3)
    victim = subject.support_victim(near(), threat)
    assert victim.x.shape == (2, 1, 3, 3)
    found = catalog.attack(name)(victim, threat, Streams([0, 1]))
    assert threats.within(found, victim.x, threat, victim.space)
    assert (found != victim.x).any(dim=-1).sum(dim=-1).max() <= flips
    assert found.equal(catalog.attack(name)(victim, threat, Streams([0, 1])))


def test_a_task_meets_the_same_flips_alone_and_beside_another() -> None:
    subject, episodes, threat = learner("protonet", network=Identity()), near(), Threat("labels", 2, "support")
    both = subject.support_victim(episodes, threat)
    second = replace(episodes, **{name: value[1:] for name, value in episodes.tensors.items()})  # type: ignore[arg-type]
    for name in ("flips-greedy", "noise-3"):
        together = catalog.attack(name)(both, threat, Streams([4, 5]))
        assert together[1:].equal(catalog.attack(name)(subject.support_victim(second, threat), threat, Streams([5])))


@pytest.mark.parametrize("norm_mode", ["support", "batch"])
def test_reused_queries_are_adversarial_for_a_learner_of_the_proxies(norm_mode: Any) -> None:
    subject, episodes = learner("protonet", norm_mode=norm_mode), near()
    x, y = proxies(episodes)
    victim = subject.support_victim(episodes)
    threat = Threat("linf", 0.1, "support")
    found = Reused(steps=10)(victim, threat, Streams([0, 1]))
    assert found.shape == episodes.support_x.shape
    assert threats.within(found, victim.x, threat, victim.space)
    fitted = subject.adapt(x, y)
    before, after = (
        losses.cross_entropy(subject.predict(fitted, items), episodes.support_y).mean()
        for items in (episodes.support_x, found)
    )
    assert after > 1.2 * before
    assert victim.cost.backwards.tolist() == [10 * 9] * 2  # 10 steps of 9 items, which adaptation is not part of


def test_reused_queries_of_a_linear_learner_end_on_the_faces_of_the_ball_or_the_box() -> None:
    # One step of size eps from a clean start would be the sign of the gradient; from a random one it ends on a face.
    subject, episodes = learner("protonet", network=Identity()), blobs(noise=0.2)
    victim, threat = subject.support_victim(episodes), Threat("linf", 0.05, "support")
    found = Reused(steps=40, step=0.1)(victim, threat, Streams([0, 1]))
    moved = (found - episodes.support_x).abs()
    on_a_face = (moved > 0.0499) | (found == 0) | (found == 1)
    assert on_a_face.double().mean() > 0.9


def test_reused_queries_need_a_support() -> None:
    subject, episodes = learner("protonet"), blobs()
    fitted = subject.adapt(episodes.support_x, episodes.support_y)
    victim = subject.query_victim(fitted, episodes.query_x, episodes.query_y)
    with pytest.raises(InputError, match=r"^surface: only the inputs of a support can be reused"):
        Reused()(victim, Threat("linf", 0.1), Streams([0, 1]))
    with pytest.raises(InputError, match=r"^steps: 0 is not between"):
        Reused(steps=0)
    with pytest.raises(InputError, match=r"^step: 0.0 is not above 0"):
        Reused(step=0.0)


def test_every_poisoner_costs_a_trained_learner_more_than_chance_does() -> None:
    given: dict[str, Any] = {"surface": "support", "tasks": 4, "audit": False}
    table = evaluate(STROKES, attacks=["noise-1", "pgd-20", "reused-pgd-20"], eps=0.1, **given)
    left = dict(zip(table["attack"], table["robust"], strict=True))
    assert left["pgd-20"] < left["noise-1"] - 0.3
    assert left["reused-pgd-20"] < left["noise-1"] - 0.3
    part = evaluate(STROKES, attacks="reused-pgd-20", eps=0.1, fraction=0.2, **given)
    assert left["reused-pgd-20"] + 0.1 < part["robust"].item() < part["clean"].item()
    assert part["fraction"].item() == 0.2
    given |= {"norm": "labels", "eps": 2, "shots": 2, "queries": 5}
    flips = evaluate(STROKES, attacks=["noise-1", "flips-greedy"], **given)
    left = dict(zip(flips["attack"], flips["robust"], strict=True))
    assert left["flips-greedy"] < left["noise-1"] <= flips["clean"].max()


@pytest.mark.parametrize("name", ["protonet", "r2d2", "anil", "metaopt-ridge", "metaopt-svm", "meta-sgd", "transfer"])
def test_a_class_that_flipped_labels_left_without_an_item_still_has_scores(name: str) -> None:
    subject, episodes = learner(name), blobs(shots=1)
    victim = subject.support_victim(episodes, Threat("labels", 1, "support"))
    emptied = victim.x.clone()
    emptied[:, 0, 0] = emptied[:, 0, 1]
    assert victim.forward(emptied, victim.points).isfinite().all()


def test_a_poisoner_looks_at_no_more_than_one_usual_set_of_queries() -> None:
    from robustbench_meta import grid

    subject = grid.load_subject(STROKES)
    for queries, looked_at in ((5, 5), (15, 15), (20, 15)):
        axes = grid.Grid(grid.named_attacks(["noise-1"]), eps=(0.1,), surfaces=("support",), queries=queries)
        (job,) = grid.make_plan(axes, [subject], Path("results")).jobs
        assert (job.cell.spec.queries, job.cell.spec.proxies) == (queries, looked_at)


def test_of_the_usual_numbers_of_labels_only_those_within_reach_are_flipped() -> None:
    from robustbench_meta import grid

    axes = grid.Grid(grid.named_attacks(["flips-greedy"]), ("labels",), surfaces=("support",), shots=(1, 2), queries=2)
    plan = grid.make_plan(replace(axes, ways=3), [grid.load_subject(STROKES)], Path("results"))
    met = [(job.cell.spec.shots, job.cell.threat.eps) for job in plan.jobs]
    assert met == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 5)]
    with pytest.raises(InputError, match=r"^fraction: nan is not above 0"):
        grid.make_plan(replace(axes, fraction=float("nan")), [grid.load_subject(STROKES)], Path("results"))


SPEC = Spec(5, 5, 15, 15)


@pytest.mark.parametrize(
    ("threat", "says"),
    [
        (
            Threat("linf", 0.1, "support", 0.5),
            "fraction: 0.5 of 5 shots is no whole number; legal: 0.2, 0.4, 0.6, 0.8, 1",
        ),
        (Threat("linf", 0.1, "support", 0.0), "fraction: 0 is not above 0 and at most 1"),
        (Threat("linf", 0.1, "support", float("nan")), "fraction: nan is not above 0"),
        (Threat("linf", 0.1, "support", 1.2), "fraction: 1.2 is not above 0 and at most 1"),
        (Threat("linf", 0.1, "query", 0.2), "fraction: 0.2 is of a poisoned support; give it with --surface support"),
        (Threat("linf", 0.1, "rollout", 0.2), "fraction: 0.2 is of a poisoned support; give it with --surface support"),
        (Threat("labels", 6, "support", 0.2), "eps: 6 labels; a poisoner reaches 5 of the support"),
    ],
)
def test_what_a_poisoner_cannot_have_is_refused_by_name(threat: Threat, says: str) -> None:
    with pytest.raises(InputError) as caught:
        poisoning.check(threat, SPEC)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("--norm labels --eps 1", "norm: 'labels' flips labels of the support; give it with --surface support"),
        ("--norm labels --surface support --eps 1.5", "eps: 1.5 is not a whole number, of labels that may be replaced"),
        ("--norm labels --surface support --eps 26", "eps: 26 labels; a poisoner reaches 25 of the support"),
        ("--surface support --fraction 0.3", "fraction: 0.3 of 5 shots is no whole number"),
        ("--fraction 0.2", "fraction: 0.2 is of a poisoned support; give it with --surface support"),
        (
            "--norm labels --surface support --attacks pgd-20",
            "pgd-20 on strokes-protonet-standard: works in linf, l2, l1",
        ),
        ("--attacks reused-pgd-20", "attacks the support, not the query"),
        (
            "--surface support --save-adversarial",
            "save_adversarial: keeps attacked queries, of which the surface support",
        ),
    ],
)
def test_the_command_refuses_it_in_one_line(rbm: Callable[..., tuple[int, str, str]], given: str, says: str) -> None:
    command = ("evaluate", "--ckpt", STROKES, *given.split(), "--tasks", 2, "--out", "out")
    status, _, told = rbm(*command)
    assert status == 2
    assert says in " ".join(told.split())
    assert not Path("out").exists()


@pytest.mark.parametrize("norm", ["words", "labels"])
def test_who_names_no_attack_gets_one_that_serves_the_norm(norm: Any) -> None:
    from robustbench_meta import grid

    assert list(grid.usual_attacks((norm,), [])) == [{"words": "words-greedy", "labels": "flips-greedy"}[norm]]
    assert list(grid.usual_attacks(("linf", norm), []))[:3] == list(grid.ATTACKS)


def cell(**fields: Any) -> Cell:
    threat = Threat("linf", 0.1, "support", **fields)
    return Cell("c", "w", "a", "d", "own", "f", "e", "test", SPEC, None, "x", "X()", threat, 0)


def test_a_fraction_of_one_leaves_the_identity_of_a_cell_as_it_was(tmp_path: Path) -> None:
    # Of the fields as they were before there was a fraction, in sorted JSON.
    assert store.key(cell()) == "78cdadd4c7e93c408f7b7f4dea3fa3790ba35445f3328825cc702b55d5f55b2e"
    assert len({store.key(cell(fraction=part)) for part in (0.2, 0.4, 1.0)}) == 3
    for part in (0.2, 1.0):
        store.append(tmp_path, cell(fraction=part), [])
    told = {run.cell.threat.fraction: run for run in store.runs(tmp_path)}
    assert sorted(told) == [0.2, 1.0]
    texts = [path.read_text() for path in sorted((tmp_path / "cells").glob("*.jsonl"))]
    assert sorted("fraction" in text for text in texts) == [False, True]


@pytest.mark.parametrize("part", [0.2, 1.0])
def test_an_entry_tells_the_fraction_where_it_is_not_one(part: float) -> None:
    from dataclasses import asdict

    given = cell(fraction=part)
    fields = submissions.CellFields.model_validate({**asdict(given), "weights": "a" * 64, "episodes": "b" * 64})
    told = fields.model_dump(mode="json")["threat"]
    assert told.get("fraction") == (None if part == 1 else 0.2)
    assert fields.noun().threat == given.threat
    again = submissions.CellFields.model_validate_json(fields.model_dump_json())
    assert again == fields


def test_fractions_stand_on_boards_of_their_own(tmp_path: Path) -> None:
    from robustbench_meta.ranking import standings
    from robustbench_meta.report import naming

    for part in (0.2, 1.0):
        common: dict[str, Any] = {"surface": "support", "tasks": 2, "audit": False, "out": tmp_path, "queries": 2}
        evaluate(STROKES, attacks="noise-1", eps=0.1, fraction=part, **common)
    boards = [board[0].board for board in standings(store.read(tmp_path))]
    assert [board.fraction for board in boards] == [0.2, 1.0]
    assert [title.split(", ")[-1] for title in naming.titles(boards)] == [
        "poisoned support (0.2 of each class)",
        "poisoned support",
    ]
    assert len(set(naming.slugs(boards))) == 2


def test_the_page_gives_what_each_poison_leaves_and_the_paired_difference(tmp_path: Path) -> None:
    script: Any = load("poisoning")
    pair = script.Case("strokes-protonet", 0.1, 4)
    left = {"Noise": 3, "Moved": 1, "Reused": 1, "Reused, a fifth": 2, "Random flips": 3, "Flips": 2}  # of 4, standard
    for more, name in enumerate(pair.learners):
        for poison in script.POISONS:
            eps = script.FLIPS if poison.norm == "labels" else pair.eps
            threat = Threat(poison.norm, eps, "support", poison.fraction)
            spec = Spec(5, 5, pair.queries, 4)
            fields: Any = ("own", "strokes", "e", "test", spec, None, poison.attack, "X()", threat, 0)
            made = Cell(name, name, "protonet", "d", *fields)
            right = left[poison.title] + more
            bits = [tuple(place < right for place in range(4)), (True,) * 4]
            records = [Record(task, (True,) * 4, one, 0.1, 1, 1) for task, one in enumerate(bits)]
            store.append(tmp_path, made, records)
    rows = {name: script._of(pair, name, *read(tmp_path)) for name in pair.learners}
    assert rows["strokes-protonet-standard"]["Moved"] == [25, 100]
    assert rows["strokes-protonet-standard"]["Reused, a fifth"] == [50, 100]
    assert rows["strokes-protonet-standard"]["Flips"] == [50, 100]
    assert rows["strokes-protonet-aq"]["Random flips"] == [100, 100]
    assert rows["strokes-protonet-aq"]["Clean"] == [100, 100]
    assert "moved +12.5 ± 158.8" in script._verdict(pair, *rows.values())  # 25 and 0 points; t of one degree is 12.7


def read(results: Path) -> tuple[Any, dict[str, Any]]:
    found = store.read(results)
    return found.cells, {str(key): rows for key, rows in found.tasks.groupby("key")}
