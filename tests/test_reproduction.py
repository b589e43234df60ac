"""The reproduction table: its verdicts by hand, learners trained here in a moment, and the committed page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_benchmarks import ROOT, load

from robustbench_meta import board, checkpoint, grid, store, submissions, train
from robustbench_meta.cli_train import read_recipe
from robustbench_meta.intervals import Crossed, crossed, spanning
from robustbench_meta.outcomes import outcomes
from robustbench_meta.types import InputError

RECIPE = """family = "strokes"
algorithm = "protonet"
network_options = { width = 4, depth = 2 }
ways = 2
shots = 1
queries = 3
eps = 0.1
steps = 2
validate_every = 2
validate_tasks = 2
"""
ARMS = {"arm-aq": 'defense = "aq"\ncraft = "fgsm-rs"\n', "arm-standard": ""}
CLAIMS = """seeds = 3
margin = 2
family = "strokes"
ways = 2
shots = 1
norm = "linf"
recipes = "{recipes}"
"""
CLAIM = """
[[claim]]
text = "{text}"
kind = "{kind}"
a = "arm-aq"
{more}
eps = "0.1"
source = "none"
"""
TASKS = 12


@pytest.fixture(scope="module")
def reproduction() -> Any:
    return load("reproduction")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of two arms on strokes, trained for two updates and attacked; results, a board and what it asks."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "recipes").mkdir()
    paths = []
    for name, more in ARMS.items():
        (folder / "recipes" / f"{name}.toml").write_text(RECIPE + more)
        for seed in range(3):
            recipe = read_recipe(str(folder / "recipes" / f"{name}.toml"), {}, [f"seed={seed}"], None)
            paths.append(train.train(recipe, folder / "checkpoints" / f"{name}-seed{seed}"))
    plan = grid.make_plan(
        grid.Grid(grid.named_attacks(["fgsm", "pgd-10"]), eps=(0.1,), queries=3),
        [grid.load_subject(path, device="cpu") for path in paths],
        folder / "results",
    )
    assert not grid.execute(plan, folder / "results", tasks=TASKS)
    cards = {card.learner: card for card in (checkpoint.load(path).card for path in paths)}
    entries = submissions.entries_of(folder / "results", cards, submissions.About(), "0")
    assert not board.add(folder / "board", entries).problems
    claims = CLAIM.format(text="AQ | above <b>none</b>", kind="above", more='b = "arm-standard"')
    claims += CLAIM.format(text="AQ equals none", kind="equal", more='b = "arm-standard"')
    claims += CLAIM.format(text="FGSM overstates", kind="at least", more='attack = "fgsm"\npoints = 20.0')
    (folder / "board" / "claims.toml").write_text(CLAIMS.format(recipes=folder / "recipes") + claims)
    reference = '[[row]]\nmethod = "ProtoNet"\nnetwork = "Conv4"\nfamily = "strokes"\nways = 2\nshots = 1\n'
    names = json.dumps([f"arm-standard-seed{seed}" for seed in range(3)])
    text = f'near = 5\n{reference}published = 1.0\nhalf = 0.5\nsource = "s"\nours = {names}\n'
    text += f'{reference}published = 99.9\nsource = "s"\nours = ["arm-aq-seed1"]\nreason = "it has two updates"\n'
    text += f'{reference}published = 50.0\nsource = "s"\nours = ["nobody"]\n'
    (folder / "board" / "references.toml").write_text(text)
    return folder


def verdicts(folder: Path, name: str) -> np.ndarray:
    """Read the worst case of every seed of an arm from the store itself [R, n]."""
    made = []
    for seed in range(3):
        runs = [run for run in store.runs(folder / "results") if run.cell.checkpoint == f"{name}-seed{seed}"]
        bits = [
            np.array([one.survived for one in run.records]) & np.array([one.clean for one in run.records])
            for run in runs
        ]
        made.append(np.logical_and.reduce(bits).mean(1))
    return np.stack(made)


def row(page: str, start: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_committed_page_is_what_the_entries_make(reproduction: Any) -> None:
    assert reproduction.PAGE.read_text(encoding="utf-8") == reproduction.page(reproduction.FOLDER, reproduction.BOARD)


def test_a_claim_is_tested_over_the_seeds_and_tasks_of_both_arms(reproduction: Any, measured: Path) -> None:
    page = reproduction.page(measured / "board", measured / "nothing")
    a, b = verdicts(measured, "arm-aq"), verdicts(measured, "arm-standard")
    found = crossed(a, b)
    number, claim, left, right, difference, _, seeds, n, verdict = row(page, "1")
    assert claim == r"AQ \| above &lt;b&gt;none&lt;/b&gt;"
    assert left == "{:.1f} ± {:.1f}".format(*(100 * value for value in spanning(a)))
    assert right == "{:.1f} ± {:.1f}".format(*(100 * value for value in spanning(b)))
    assert difference == f"{100 * found.mean:+.1f} ± {100 * found.half():.1f}"
    assert (seeds, n) == ("3, 3", str(TASKS))
    assert verdict.startswith(("holds", "does not hold", "undecided at n = 12"))
    assert number == "1"


def test_an_attack_is_compared_with_the_worst_case_of_the_same_seeds(reproduction: Any, measured: Path) -> None:
    claims = reproduction._read(measured / "board" / "claims.toml", reproduction.Claims)
    given = reproduction.measured(reproduction.entries_in([measured / "board" / "entries"]))
    test = reproduction.tests_of(claims, given)[2]
    assert test.difference == crossed(test.a - test.b)
    assert (test.a >= test.b).all()
    assert test.b == pytest.approx(verdicts(measured, "arm-aq"))


def test_an_attack_that_one_side_alone_met_has_no_part_in_a_claim(reproduction: Any, measured: Path) -> None:
    claims = reproduction._read(measured / "board" / "claims.toml", reproduction.Claims)
    given = reproduction.measured(reproduction.entries_in([measured / "board" / "entries"]))
    cells = given.results.cells
    kept = cells[~(cells["checkpoint"].str.startswith("arm-standard") & (cells["attack"] == "pgd-10"))]
    results = replace(given.results, cells=kept)
    less = replace(given, results=results, found=outcomes(results))
    whole, part = (reproduction.tests_of(claims, one)[0] for one in (given, less))
    assert (whole.attacks, part.attacks) == (("fgsm", "pgd-10"), ("fgsm",))
    assert part.a.mean() > whole.a.mean()  # two updates withstand little
    apart = cells[(cells["attack"] == "fgsm") == cells["checkpoint"].str.startswith("arm-aq")]
    nothing = replace(
        given, results=replace(given.results, cells=apart), found=outcomes(replace(given.results, cells=apart))
    )
    assert reproduction.tests_of(claims, nothing)[0].verdict == "not tested yet: no attack that both sides met"
    asked = claims.model_copy(update={"attacks": ("fgsm", "pgd-10")})
    assert reproduction.tests_of(asked, less)[0].verdict == "not tested yet: arm-standard lacks pgd-10"
    assert reproduction.tests_of(asked, given)[0].verdict == whole.verdict


def test_clean_rows_say_what_was_published_and_what_ours_is(reproduction: Any, measured: Path) -> None:
    page = reproduction.page(measured / "board", measured / "nothing")
    lines = [line for line in page.splitlines() if line.startswith("| ProtoNet")]
    assert "arm-standard-seed0, method of 3 seeds" in lines[0]
    assert lines[0].endswith("| reproduced |")
    assert "1.0 ± 0.5" in lines[0]
    assert "| arm-aq-seed1, checkpoint |" in lines[1]
    assert lines[1].endswith("| not, because it has two updates |")
    assert lines[2].endswith("| not measured yet |")


def test_a_missing_seed_leaves_a_claim_untested(reproduction: Any, measured: Path, tmp_path: Path) -> None:
    (tmp_path / "entries").mkdir()
    for path in (measured / "board" / "entries").glob("*.json"):
        if "arm-standard-seed2" not in path.name:
            (tmp_path / "entries" / path.name).write_bytes(path.read_bytes())
    for name in ("claims.toml", "references.toml"):
        (tmp_path / name).write_bytes((measured / "board" / name).read_bytes())
    page = reproduction.page(tmp_path, measured / "nothing")
    assert row(page, "1")[-1] == "not tested yet: arm-standard has 2 of 3 training seeds"
    assert row(page, "1")[6] == "3, 2"
    assert not row(page, "3")[-1].startswith("not tested yet")
    assert "arm-standard-seed0, checkpoint of 2 seeds" in page


def test_entries_of_different_recipes_are_no_one_row(reproduction: Any, measured: Path, tmp_path: Path) -> None:
    given = reproduction.measured(reproduction.entries_in([measured / "board" / "entries"]))
    asked = {"method": "m", "network": "n", "family": "strokes", "ways": 2, "shots": 1, "published": 1.0, "source": "s"}
    mixed = reproduction.Reference(**asked, ours=("arm-aq-seed0", "arm-standard-seed0"))
    with pytest.raises(InputError, match="are not training seeds of one recipe"):
        reproduction.ours(mixed, given)


def difference(mean: float, half: float) -> Crossed:
    """Make a difference in points whose half-width is as given, of 100 tasks."""
    unit = crossed(np.linspace(-0.5, 0.5, 100)[None])
    return Crossed(mean / 100, 0.0, 0.0, unit.tasks * (half / 100 / unit.half()) ** 2, 100, 100)


@pytest.mark.parametrize(
    ("kind", "points", "mean", "half", "verdict"),
    [
        ("above", 0, 3, 2, "holds"),
        ("above", 0, -3, 2, "does not hold"),
        ("above", 0, 1, 2, "undecided at n = 100"),
        ("equal", 0, 0.5, 1, "holds"),
        ("equal", 0, -0.5, 1, "holds"),
        ("equal", 0, 1.5, 1, "undecided at n = 100"),
        ("equal", 0, 4, 1, "does not hold"),
        ("equal", 0, -4, 1, "does not hold"),
        ("equal", 0, 0, 3, "undecided at n = 100"),
        ("at least", 20, 25, 4, "holds"),
        ("at least", 20, 22, 4, "undecided at n = 100"),
        ("at least", 20, 10, 4, "does not hold"),
    ],
)
def test_a_verdict_falls_whichever_way_the_whole_interval_lies(
    reproduction: Any, kind: str, points: float, mean: float, half: float, verdict: str
) -> None:
    claim = reproduction.Claim(text="t", kind=kind, a="a", points=float(points), eps="0.1", source="s")
    assert reproduction.judged(claim, difference(mean, half), 2.0) == verdict


@pytest.mark.parametrize(
    ("mean", "half", "reason", "verdict"),
    [
        (75.0, 1.0, "", "reproduced"),
        (70.0, 1.5, "", "reproduced"),
        (69.0, 1.0, "", "within 3.0 points"),
        (66.95, 1.0, "", "within 5.1 points"),
        (60.0, 1.0, "x", "not, because x"),
        (60.0, 1.0, "", "not: 12.0 points below, for no known reason"),
    ],
)
def test_a_clean_accuracy_is_reproduced_where_intervals_meet(
    reproduction: Any, mean: float, half: float, reason: str, verdict: str
) -> None:
    asked: dict[str, Any] = {"method": "m", "network": "n", "family": "f", "shots": 5, "source": "s", "ours": ("o",)}
    row = reproduction.Reference(**asked, published=72.0, half=0.6, reason=reason)
    assert reproduction.compared(row, mean, half, 5.05) == verdict


def recipes() -> Iterator[Path]:
    return iter(sorted((ROOT / "benchmarks" / "claims").glob("*.toml")))


def test_the_passes_of_an_update_are_counted(reproduction: Any) -> None:
    """By hand, for 2 tasks of 25 support and 75 query images."""
    counted = {
        path.stem: reproduction.passes(read_recipe(str(path), {}, [], None))
        for path in recipes()
        if path.stem.removeprefix("claims-protonet-") in ("standard", "aq", "support", "overreach")
    }
    assert counted["claims-protonet-standard"] == (2 * 100, 2 * 100)
    # The query attack: one more pass of the queries. The support attack: adapts on the clean support first.
    assert counted["claims-protonet-aq"] == (2 * 175, 2 * 175)
    assert counted["claims-protonet-support"] == (2 * 150, 2 * 125)
    # One 10-way task has as many images as two 5-way ones: overreach and aq are compared at equal passes.
    assert counted["claims-protonet-overreach"] == counted["claims-protonet-aq"]


def test_a_wide_interval_reproduces_nothing(reproduction: Any) -> None:
    row = reproduction.Reference(
        method="m", network="n", family="f", shots=5, published=72.0, half=0.6, source="s", ours=()
    )
    assert reproduction.compared(row, 45.0, 28.0, 5.0) == "not: 27.0 points below, for no known reason"
    assert reproduction.compared(row, 70.0, 1.5, 5.0) == "reproduced"
    assert reproduction.compared(row, 70.0, 1.0, 5.0) == "within 2.0 points"
    assert reproduction.compared(row, 73.0, 0.1, 5.0) == "reproduced"


def test_arms_of_one_claim_differ_in_nothing_but_what_it_asks(reproduction: Any) -> None:
    claims = reproduction._read(reproduction.FOLDER / "claims.toml", reproduction.Claims)
    may = {"defense", "craft", "steps"}
    for claim in claims.claim:
        arms = [
            read_recipe(str(ROOT / claims.recipes / f"{name}.toml"), {}, [], None).model_dump()
            for name in (claim.a, claim.b)
            if name
        ]
        apart = {field for field in arms[0] if arms[0][field] != arms[-1][field]}
        more = {"algorithm", "norm_mode"} if "transfer" in str(claim.b) else set()
        if "overreach" in claim.a:  # a defense with its training: wide tasks and weight decay
            more = {"train_ways", "meta_batch", "weight_decay"}
            assert arms[0]["steps"] == arms[-1]["steps"]
        if claim.a.endswith("-decay"):
            assert apart == {"weight_decay"}
        else:
            assert apart <= may | more, claim.text


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("seeds = 3", "seeds = 1", "claims.toml: seeds: '1': "),
        ('kind = "above"', 'kind = "below"', "claims.toml: claim.0.kind: 'below': "),
        ("seeds = 3", "seeds =", "claims.toml: "),
    ],
)
def test_a_bad_declaration_is_refused_in_one_line(
    reproduction: Any, measured: Path, tmp_path: Path, old: str, new: str, problem: str
) -> None:
    text = (measured / "board" / "claims.toml").read_text()
    (tmp_path / "claims.toml").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=f"^{re.escape(problem)}") as caught:
        reproduction._read(tmp_path / "claims.toml", reproduction.Claims)
    assert "\n" not in str(caught.value)
