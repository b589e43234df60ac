"""The page that asks of every family whether it is a task, and the sample of sentences that people read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts import load

from robustbench_meta import catalog, evaluate
from robustbench_meta.tasks.clinc150 import Clinc150
from robustbench_meta.types import Simulator, Spec

families: Any = load("families")
substitutions: Any = load("substitutions")


def test_a_foreign_support_is_another_tasks_and_a_shuffled_one_keeps_its_inputs_and_label_counts() -> None:
    family, spec = catalog.family("strokes"), Spec(ways=5, shots=2, queries=3)
    own = family.sample("test", spec, [0, 1])
    foreign = families.Misled(family, "foreign").sample("test", spec, [0, 1])
    shuffled = families.Misled(family, "shuffled").sample("test", spec, [0, 1])
    assert foreign.query_x.equal(own.query_x)
    assert not foreign.support_x.equal(own.support_x)
    assert foreign.support_x.equal(family.sample("test", spec, [1_000_000, 1_000_001]).support_x)
    assert shuffled.support_x.equal(own.support_x)
    assert not shuffled.support_y.equal(own.support_y)
    assert shuffled.support_y.sort(dim=1).values.equal(own.support_y)
    assert not shuffled.support_y[0].equal(shuffled.support_y[1])


def test_a_learner_that_needs_its_support_is_at_chance_where_that_misleads_it() -> None:
    class NearestMean:
        def adapt(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.stack([x[y == k].flatten(1).mean(0) for k in range(5)])

        def predict(self, fitted: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return -torch.cdist(x.flatten(1), fitted)

    family = catalog.family("strokes")
    common: dict[str, Any] = {
        "learner": NearestMean(),
        "attacks": ["noise-1"],
        "eps": [0.0],
        "tasks": 30,
        "audit": False,
    }
    straight = evaluate(family=family, **common)["clean"].item()
    for how in ("foreign", "shuffled"):
        row = evaluate(family=families.Misled(family, how), **common).iloc[0]
        assert abs(row["clean"] - 0.2) < 2 * row["clean_ci95"] < 0.3
        assert straight > row["clean"] + 0.2


@pytest.mark.parametrize(
    ("mean", "half", "said"), [(5.0, 1.0, "yes"), (3.5, 1.0, "undecided"), (1.0, 1.0, "**no**"), (4.0, 1.0, "yes")]
)
def test_an_answer_is_told_by_the_ends_of_an_interval(mean: float, half: float, said: str) -> None:
    assert families._above(mean, half, 3.0) == said


@pytest.mark.parametrize("name", ["navigation", "reach"])
def test_tasks_are_alike_whose_hidden_angles_are(name: str) -> None:
    family: Any = catalog.family(name)
    indices = list(range(40))
    told = families.alike(name, indices, 8)
    for index, close in zip(indices, told, strict=True):
        own, other = (
            family.trials("test", Spec(ways=8, queries=1), [at])["turn"][0, 0].item()
            for at in (index, index + 1_000_000)
        )
        assert close == (math.cos(own - other) >= 0.5)
    assert 0 < sum(told) < 30  # a third of all angles, by chance


def results(**changed: list[float]) -> dict[str, list[float]]:
    parts = {"foreign": 20.0, "shuffled": 20.0, "clean": 90.0, "noise": 89.0, "attack": 1.0}
    return {name: [value - 1, value, value + 1] for name, value in parts.items()} | changed


def test_a_verdict_answers_four_questions_and_gives_the_paired_difference() -> None:
    case = families.Case("strokes", "protonet", 0.1)
    told = families._verdict(case, results(), results(attack=[50.0, 51.0, 52.0], clean=[79.0, 80.0, 81.0]))
    assert told.count("yes") == 4
    assert "Adversarial training: +50.0 ± 0.0 points under attack" in told
    assert "-10.0 ± 0.0 clean" in told
    assert "the support is needed: **no**" in families._verdict(case, results(foreign=[29.0, 30.0, 31.0]), results())
    assert "it is enough: **no**" in families._verdict(case, results(clean=[29.0, 30.0, 31.0]), results())
    assert "an attack matters: **no**" in families._verdict(case, results(attack=[79.0, 80.0, 81.0]), results())
    assert "noise does not do it: **no**" in families._verdict(case, results(noise=[59.0, 60.0, 61.0]), results())


def test_an_attack_matters_where_half_of_what_is_above_chance_is_lost_whatever_that_is() -> None:
    case = families.Case("strokes", "protonet", 0.1)  # chance is 20 %, so that 30 points of 50 are above it

    def told(attack: list[float]) -> str:
        said: str = families._verdict(case, results(clean=[49.0, 50.0, 51.0], attack=attack), results())
        return said.partition("an attack matters: ")[2].partition(";")[0]

    # Of each task half of what it has: 14.5, 15 and 15.5, here exactly 1 point more, or less.
    assert told([33.5, 34.0, 34.5]) == "yes (16.0 ± 1.2 points lost, +1.0 ± 0.0 beyond half of what is above chance)"
    assert told([35.5, 36.0, 36.5]).startswith("**no** (14.0 ± 1.2 points lost, -1.0 ± 0.0 beyond")
    assert told([30.5, 34.0, 37.5]).startswith("undecided (16.0 ± 6.2 points lost, +1.0 ± 7.5 beyond")


def test_noise_does_not_do_it_where_it_costs_a_tenth_of_what_the_attack_costs_the_same_tasks() -> None:
    case = families.Case("strokes", "protonet", 0.1)

    def told(noise: list[float], attack: list[float]) -> str:
        given = results(clean=[90.0, 90.0, 90.0], noise=noise, attack=attack)
        return str(families._verdict(case, given, results())).partition("noise does not do it: ")[2].partition(")")[0]

    left = "left of a tenth of the attack's"
    # The attack costs 80, 50 and 20, and noise 6, 3 and 0; then 90, 50 and 10, and 4 each; then 80, 50, 20 and 9, 6, 3.
    assert told([84.0, 87.0, 90.0], [10.0, 40.0, 70.0]) == f"yes (3.0 ± 7.5 points lost, +2.0 ± 0.0 {left}"
    assert told([86.0, 86.0, 86.0], [0.0, 40.0, 80.0]) == f"undecided (4.0 ± 0.0 points lost, +1.0 ± 9.9 {left}"
    assert told([81.0, 84.0, 87.0], [10.0, 40.0, 70.0]) == f"**no** (6.0 ± 7.5 points lost, -1.0 ± 0.0 {left}"


def acted(**changed: list[float]) -> dict[str, list[float]]:
    return results(alike=[70.0, 90.0], unlike=[1.0, 3.0], **changed)


def test_of_learners_that_act_the_support_is_needed_where_few_rollouts_succeed_without() -> None:
    case = families.Case("navigation", "protonet", 0.05)
    assert (case.chance, families.Case("strokes", "protonet", 0.1).chance) == (0.0, 20.0)
    told = families._verdict(case, acted(foreign=[1.0, 2.0, 3.0], shuffled=[7.0, 8.0, 9.0]), acted())
    assert "the support is needed: yes (at most 8.0 ± 2.5 % succeed without; with the support of" in told
    assert "within 60° 80.0 ± 127.1 % of 2, with others 2.0 ± 12.7 % of 2); it is" in told
    narrow = families._verdict(case, acted(shuffled=[0.0, 8.0, 16.0], clean=[90.0, 90.0, 90.0]), acted())
    assert "it is enough: yes (90.0 ± 0.0 %)" in narrow
    assert "the support is needed: **no**" in families._verdict(case, acted(shuffled=[39.0, 40.0, 41.0]), acted())


def test_of_learners_that_write_the_support_is_needed_where_few_sentences_are_right_without() -> None:
    case = families.Case("transduction", "r2d2", 0.02)
    assert (case.writes, case.chance, families.Case("clinc150", "protonet", 0.01).writes) == (True, 0.0, False)
    told = families._verdict(case, results(foreign=[0.0, 0.0, 0.0], shuffled=[0.0, 1.0, 2.0]), results())
    assert "the support is needed: yes (at most 1.0 ± 2.5 % succeed without)" in told
    assert "the support is needed: **no**" in families._verdict(case, results(shuffled=[39.0, 40.0, 41.0]), results())


def test_a_misled_family_writes_as_its_own_does() -> None:
    family, spec = catalog.family("compression"), Spec(ways=5, shots=2, queries=1)
    misled = families.Misled(family, "shuffled")
    own, shuffled = family.sample("test", spec, [0]), misled.sample("test", spec, [0])
    assert shuffled.support_y.sort().values.equal(own.support_y.sort().values)
    assert not shuffled.support_y.equal(own.support_y)
    assert misled.written("test", spec, 0) == family.written("test", spec, 0)  # type: ignore[attr-defined]


def test_a_misled_family_acts_as_its_own_does() -> None:
    family: Any = catalog.family("reach")
    spec = Spec(ways=5, shots=2, queries=1)
    misled = families.Misled(family, "foreign")
    assert isinstance(misled, Simulator)
    worlds, own = misled.trials("test", spec, [0]), family.trials("test", spec, [0])
    assert all(worlds[name].equal(own[name]) for name in own)
    assert not hasattr(families.Misled(catalog.family("strokes"), "foreign"), "trials")


def test_a_page_keeps_the_lines_of_what_was_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = families.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(families, "PAGE", tmp_path / "families.md")
    (tmp_path / "families.md").write_text(before, encoding="utf-8")
    (tmp_path / "cells").mkdir()
    rows = [line for line in before.splitlines() if line.startswith(("| ", "- `"))]
    assert [line for line in families.page(tmp_path).splitlines() if line.startswith(("| ", "- `"))] == rows


def test_the_sentences_that_were_read_are_counted_by_words_replaced() -> None:
    rows = [{"replaced": r, "kept": k} for r, k in (("1", "yes"), ("1", "yes"), ("1", "no"), ("2", "no"))]
    lines = substitutions.counted(rows).splitlines()
    assert [line.partition(" keep")[0] for line in lines] == ["all: 2 of 4", "1 replaced: 2 of 3", "2 replaced: 0 of 1"]
    with pytest.raises(SystemExit, match="something else than yes and no"):
        substitutions.counted([{"replaced": "1", "kept": ""}])


def test_every_sampled_sentence_is_a_legal_replacement_and_was_read() -> None:
    space = Clinc150().space
    number = {word: n for n, word in enumerate(space.words)}
    rows = substitutions.read()
    assert len(rows) == substitutions.SAMPLED
    for row in rows:
        pairs = list(zip(row["sentence"].split(), row["attacked"].split(), strict=True))
        changed = [(number[a], number[b]) for a, b in pairs if a != b]
        assert len(changed) == int(row["replaced"])
        assert all(new in space.swaps[old] for old, new in changed)
        assert row["kept"] in ("yes", "no")
    assert Path(substitutions.PAGE).is_file()
