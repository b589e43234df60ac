"""Verify finds what was changed in a store or a checkpoint, and says what it could not try."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_grid import FAMILY, axes, saved

from robustbench_meta import audit, catalog, checkpoint, grid, store, train, verify
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.types import InputError, Record

TASKS = 3


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("zoo") / "net")


@pytest.fixture(scope="module")
def measured(ckpt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells of three tasks."""
    results = tmp_path_factory.mktemp("results")
    plan = grid.make_plan(axes("pgd-3", "noise-2", eps=(0.1,)), [grid.load_subject(ckpt, device="cpu")], results)
    assert grid.execute(plan, results, tasks=TASKS) == []
    return results


@pytest.fixture
def results(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "results"))


def cell_file(results: Path, attack: str) -> Path:
    (key,) = (key for key, cell in store.cells(results).items() if cell.attack == attack)
    return results / "cells" / f"{key}.jsonl"


def change(path: Path, task: int, field: str, into: Callable[[Any], Any]) -> None:
    """Change one field of one record, as a store that was tampered with would have it."""
    head, *lines = path.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        if row["task"] == task:
            row[field] = into(row[field])
    path.write_text("\n".join([head, *(json.dumps(row, sort_keys=True, separators=(",", ":")) for row in rows)]) + "\n")


def flipped(bits: str) -> str:
    at = bits.index("1")
    return f"{bits[:at]}0{bits[at + 1 :]}"


def flipped_first(bits: str) -> str:
    return f"{1 - int(bits[0])}{bits[1:]}"


def by_name(found: verify.Verification) -> dict[str, verify.Finding]:
    return {re.sub(r".*: (\S+) .*", r"\1", one.what): one for one in found.findings}


def test_what_was_measured_here_comes_again_bit_for_bit(results: Path, ckpt: Path) -> None:
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    found = verify.verify_results(results, [ckpt], seconds=60)
    assert [(one.status, one.detail) for one in found.findings] == 2 * [("holds", "3 tasks, 27 queries: bit for bit")]
    assert found.coverage.startswith("2 of 2 cells and 6 of 6 tasks")
    assert (found.fails, found.measured) == (False, True)
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("field", ["survived", "clean"])
def test_a_single_flipped_bit_is_caught(results: Path, ckpt: Path, field: str) -> None:
    change(cell_file(results, "pgd-3"), 1, field, flipped)
    found = by_name(verify.verify_results(results, [ckpt], seconds=60))
    assert (found["pgd-3"].status, found["noise-2"].status) == ("fails", "holds")
    assert found["pgd-3"].detail == "3 tasks, 27 queries: task 1: 1 verdicts differ"


@pytest.mark.parametrize(
    ("field", "into", "says"),
    [
        ("distance", lambda value: value * 0.999, "task 1: distance differs"),
        ("distance", lambda value: 0.2, "task 1: the stored distance 0.2 is above eps"),
        ("backwards", lambda value: value + 1, "task 1: backwards differs"),
    ],
)
def test_a_changed_distance_or_cost_is_caught(
    results: Path, ckpt: Path, field: str, into: Callable[[Any], Any], says: str
) -> None:
    change(cell_file(results, "pgd-3"), 1, field, into)
    assert says in by_name(verify.verify_results(results, [ckpt], seconds=60))["pgd-3"].detail


def test_without_timings_of_this_device_a_stated_tolerance_holds(results: Path, ckpt: Path) -> None:
    """One query of 27 may differ, for such a sample cannot tell 1 % from one query; two may not."""
    shutil.rmtree(results / "timings")
    path = cell_file(results, "pgd-3")
    change(path, 1, "survived", flipped)
    found = by_name(verify.verify_results(results, [ckpt], seconds=60))
    assert found["pgd-3"].status == "holds"
    assert "1 verdicts differ, mean +3.70 points" in found["pgd-3"].detail
    (together,) = (one for name, one in found.items() if name.startswith("all tasks"))
    assert (together.status, "98.15 % of 54 verdicts agree" in together.detail) == ("holds", True)
    change(path, 2, "survived", flipped)
    found = by_name(verify.verify_results(results, [ckpt], seconds=60))
    assert found["pgd-3"].status == "fails"
    (together,) = (one for name, one in found.items() if name.startswith("all tasks"))
    assert together.status == "fails"


def test_elsewhere_distances_are_compared_and_must_keep_to_eps(results: Path, ckpt: Path) -> None:
    shutil.rmtree(results / "timings")
    path = cell_file(results, "pgd-3")
    change(path, 1, "distance", lambda value: value - 0.01)
    found = by_name(verify.verify_results(results, [ckpt], seconds=60))["pgd-3"]
    assert (found.status, "every verdict the same, distances up to 0.01 apart" in found.detail) == ("holds", True)
    change(path, 1, "distance", lambda value: value + 0.02)
    found = by_name(verify.verify_results(results, [ckpt], seconds=60))["pgd-3"]
    assert (found.status, "is above eps" in found.detail) == ("fails", True)


def test_a_shipped_checkpoint_holds() -> None:
    (folder,) = (path for path in checkpoint.shipped() if path.name == "strokes-protonet-standard")
    found = verify.verify_card(folder, seconds=300)
    assert [one.status for one in found.findings] == 5 * ["holds"]


def test_at_least_one_task_is_tried_and_what_was_left_out_is_said(results: Path, ckpt: Path) -> None:
    found = verify.verify_results(results, [ckpt], seconds=0)
    assert len(found.findings) == 1
    assert found.findings[0].detail == "1 task, 9 queries: bit for bit"
    assert "1 of 2 cells and 1 of 6 tasks" in found.coverage
    assert re.search(r"no time for 1 cells \((pgd-3|noise-2) 1\): give more --seconds", found.coverage)


def test_the_seed_draws_the_sample(results: Path, ckpt: Path) -> None:
    shelf = verify._Shelf(verify.learners([ckpt]), None)
    ready, _ = verify._prepared(results, store.cells(results), shelf)

    def drawn(seed: int) -> list[tuple[str, int]]:
        return [(one.job.cell.attack, task) for one, task in verify._order(ready, random.Random(seed))]

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(8)}) > 1
    assert all(sorted(drawn(seed)) == sorted(drawn(0)) and len(set(drawn(seed))) == 6 for seed in range(3))


def test_timings_or_rows_sent_say_what_fits() -> None:
    cell: Any = type("Cell", (), {"weights": "w"})
    job: Any = type("Job", (), {"cell": cell})
    cheap, dear = (Record(0, (True,), (True,), 0.1, rows, 0) for rows in (1000, 50_000))
    one = verify._Ready(job, {0: cheap, 1: replace(dear, task=1)}, {})
    pace = verify._Pace()
    assert pace.expected(one, 0) is None
    pace.learn(one, 0, 0.1 + 1.0)
    assert pace.expected(one, 1) == pytest.approx(0.1 + 50.0)
    timed = verify._Ready(job, one.records, {1: store.Timing((1, 2), 8.0, "cpu", 1)})
    assert verify._Pace().expected(timed, 1) == 4.0
    pace.learn(timed, 1, 12.0)
    assert pace.expected(timed, 1) == 12.0


def test_a_learner_that_is_not_there_is_named_and_nothing_is_claimed(results: Path) -> None:
    found = verify.verify_results(results, seconds=60)
    assert (found.fails, found.measured) == (False, False)
    (one,) = found.findings
    assert (one.what, one.status) == ("net", "not verified")
    assert re.search(r"no checkpoint with these weights .* is shipped or given; give --ckpt \(2 cells\)", one.detail)


def test_an_attack_that_meant_something_else_then_cannot_hold(results: Path, ckpt: Path) -> None:
    path = cell_file(results, "pgd-3")
    cell = store.cells(results)[path.stem]
    older = replace(cell, attack_fields=cell.attack_fields.replace("steps=3", "steps=4"))
    store.append(results, older, store.stored(results, cell))
    path.unlink()
    found = by_name(verify.verify_results(results, [ckpt], seconds=60))
    assert found["pgd-3"].status == "fails"
    assert re.match(r"cannot hold: pgd-3 meant PGD\(steps=4.* then, and means PGD\(steps=3", found["pgd-3"].detail)


def test_other_episodes_do_not_hold(results: Path, ckpt: Path) -> None:
    path = cell_file(results, "pgd-3")
    cell = store.cells(results)[path.stem]
    store.append(results, replace(cell, episodes="ab" * 32), store.stored(results, cell))
    found = by_name(verify.verify_results(results, [ckpt], seconds=60))
    assert found["strokes test"].status == "fails"
    assert "its episodes were others (abababababab…)" in found["strokes test"].detail


def test_scores_on_an_adversarial_set_are_verified_with_the_set_that_was_kept(ckpt: Path, tmp_path: Path) -> None:
    subject = grid.load_subject(ckpt, device="cpu")
    for made in (axes("pgd-3", eps=(0.1,), save_adversarial=True), None):
        chosen = made or axes(f"file:{tmp_path / 'adversarial'}", eps=None)
        assert grid.execute(grid.make_plan(chosen, [subject], tmp_path), tmp_path, tasks=2) == []
    found = verify.verify_results(tmp_path, [ckpt], seconds=60)
    assert [one.status for one in found.findings] == ["holds", "holds"]
    grown = axes("pgd-3", eps=(0.1,), save_adversarial=True)
    assert grid.execute(grid.make_plan(grown, [subject], tmp_path), tmp_path, tasks=3) == []
    for says in ("are others by now, as where the set has grown", "--save-adversarial makes them again"):
        found = verify.verify_results(tmp_path, [ckpt], seconds=60)
        assert sorted(one.status for one in found.findings) == ["holds", "not verified"]
        assert says in found.findings[0].detail
        shutil.rmtree(tmp_path / "adversarial", ignore_errors=True)


@pytest.fixture(scope="module")
def audited_here(measured: Path, ckpt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two cells, and the audit of two of their tasks."""
    results = Path(shutil.copytree(measured, tmp_path_factory.mktemp("audited") / "results"))
    plan = grid.make_plan(axes("pgd-3", "noise-2", eps=(0.1,)), [grid.load_subject(ckpt, device="cpu")], results)
    assert audit.run_audits(plan, results, tasks=[0, 1]) == []
    return results


@pytest.fixture
def audited(audited_here: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(audited_here, tmp_path / "audited"))


def audit_file(results: Path) -> Path:
    (path,) = (results / "audits").glob("*.jsonl")
    return path


def of_audit(results: Path, ckpt: Path, seconds: float = 0) -> verify.Finding:
    found = verify.verify_results(results, [ckpt], seconds=seconds)
    (one,) = (one for one in found.findings if one.what.startswith("audit of "))
    return one


def test_an_honest_audit_comes_again_even_without_time_and_what_is_not_checked_is_said(
    audited: Path, ckpt: Path
) -> None:
    before = {path: path.read_bytes() for path in audited.rglob("*") if path.is_file()}
    found = verify.verify_results(audited, [ckpt], seconds=0)
    one = found.findings[-1]
    assert (one.what, one.status, one.measured) == ("audit of net, 2-shot: linf 0.1", "holds", True)
    assert re.fullmatch(r"task [01], 9 queries: bit for bit", one.detail)
    assert "1 of 1 audits were looked at, one task of each; not checked are errors/" in found.coverage
    assert found.coverage.endswith("audits that failed, and rows that say “not audited”")
    assert {path: path.read_bytes() for path in audited.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("field", "into", "says"),
    [
        ("survived", lambda runs: {**runs, "pgd": flipped_first(runs["pgd"])}, "1 of survived pgd differ"),
        ("survived", lambda runs: {name: runs[name] for name in runs if name != "noise"}, "it holds other runs"),
        ("flat", lambda runs: {**runs, "margin": flipped_first(runs["margin"])}, "1 of flat margin differ"),
        ("predictions", lambda classes: [(classes[0] + 1) % 3, *classes[1:]], "1 of predictions differ"),
        ("alone", lambda value: value + 1e-9, "alone is"),
        ("repeat", lambda value: value + 0.5, "repeat is 0, stored is 0.5"),
        ("autograd", lambda value: not value, "autograd differs"),
    ],
)
def test_an_audit_whose_measures_were_edited_is_noticed(
    audited: Path, ckpt: Path, field: str, into: Callable[[Any], Any], says: str
) -> None:
    for task in (0, 1):
        change(audit_file(audited), task, field, into)
    one = of_audit(audited, ckpt)
    assert (one.status, says in one.detail) == ("fails", True), one.detail


def test_elsewhere_an_audit_holds_within_a_stated_tolerance(audited: Path, ckpt: Path) -> None:
    """One verdict may differ and scores by rounding; whatever raises a flag, or two verdicts, may not."""
    (audited / "timings" / audit_file(audited).name).unlink()
    for task in (0, 1):
        change(audit_file(audited), task, "clean", flipped_first)
        change(audit_file(audited), task, "alone", lambda value: value + 1e-7)
    one = of_audit(audited, ckpt)
    assert (one.status, "9 queries: 98.99 % of 99 verdicts agree" in one.detail) == ("holds", True), one.detail
    for task in (0, 1):
        change(audit_file(audited), task, "alone", lambda value: value + 1e-3)
    assert "alone is" in of_audit(audited, ckpt).detail
    for task in (0, 1):
        change(audit_file(audited), task, "alone", lambda value: 0.0)
        change(audit_file(audited), task, "survived", lambda runs: {**runs, "pgd": flipped_first(runs["pgd"])})
    one = of_audit(audited, ckpt)
    assert (one.status, "1 of clean differ, 1 of survived pgd differ" in one.detail) == ("fails", True)


def test_an_audit_of_another_version_or_learner_is_not_verified_and_one_of_another_norm_mode_fails(
    audited: Path, ckpt: Path
) -> None:
    (about,) = store.audits(audited).values()
    held = store.audited(audited, about)
    for other, status, says in (
        (replace(about, version=1), "not verified", f"version 1 of the audit, this is {audit.VERSION}"),
        (replace(about, weights="ab" * 32), "not verified", "no checkpoint with these weights"),
        (replace(about, norm_mode="own"), "fails", "cannot hold: norm_mode is own there"),
    ):
        shutil.rmtree(audited / "audits")
        (audited / "audits").mkdir()
        store.append_audit(audited, other, held)
        one = of_audit(audited, ckpt)
        assert (one.status, says in one.detail, one.measured) == (status, True, False), one.detail


def test_one_audit_is_run_again_whatever_the_time_and_others_are_named(audited: Path, ckpt: Path) -> None:
    (about,) = store.audits(audited).values()
    store.append_audit(audited, replace(about, eps=0.05), store.audited(audited, about))
    found = [one for one in verify.verify_results(audited, [ckpt], seconds=0).findings if "audit of" in one.what]
    assert [(one.status, one.measured) for one in found] == [("holds", True), ("not verified", False)]
    assert found[1].detail == "no time for it: give more --seconds"


def test_results_that_hold_nothing_are_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no cells"):
        verify.verify_results(tmp_path)


TINY = Recipe(
    family_options={**FAMILY, "train": 6},
    network_options={"width": 4, "depth": 2},
    ways=3,
    shots=2,
    queries=3,
    meta_batch=2,
    steps=4,
    validate_every=2,
    validate_tasks=4,
    validate_attack="pgd-2",
    eps=0.1,
)


@pytest.fixture(scope="module")
def trained_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.train(TINY, tmp_path_factory.mktemp("trained") / "net")


@pytest.fixture
def trained(trained_here: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_here, tmp_path / "net"))


def edited(folder: Path, into: Callable[[dict[str, Any]], None]) -> None:
    card = json.loads((folder / checkpoint.CARD).read_text())
    into(card)
    (folder / checkpoint.CARD).write_text(json.dumps(card))


def test_a_card_holds_where_its_accuracies_come_again(trained: Path) -> None:
    for path in (trained, trained / checkpoint.CARD):
        found = verify.verify_card(path)
        assert [one.status for one in found.findings] == 5 * ["holds"]
        assert all(one.detail.endswith("the same") for one in found.findings if one.measured)
        assert found.coverage.startswith("4 of 4 validation tasks")


@pytest.mark.parametrize(("which", "by", "status"), [("clean", 0.003, "fails"), ("robust", 0.001, "holds")])
def test_a_card_with_another_accuracy_fails_beyond_the_tolerance(
    trained: Path, which: str, by: float, status: str
) -> None:
    def better(card: dict[str, Any]) -> None:
        for seen in card["history"]:
            seen[which] += by

    edited(trained, better)
    found = {one.what: one for one in verify.verify_card(trained).findings}
    assert found[f"validation, {which}"].status == status
    assert f"{100 * by:.3f} points apart, at most 0.2 allowed" in found[f"validation, {which}"].detail


def test_other_weights_recipe_or_episodes_fail(trained: Path) -> None:
    edited(trained, lambda card: card["episodes_sha256"].update(val="ab" * 32))
    found = {one.what: one for one in verify.verify_card(trained).findings}
    assert found["val episodes"].status == "fails"
    edited(trained, lambda card: card["recipe"].update(seed=7))
    (one,) = verify.verify_card(trained).findings
    assert (one.status, "the recipe is not the one whose SHA-256" in one.detail) == ("fails", True)
    edited(trained, lambda card: card["recipe"].update(seed=0))
    weights = trained / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    (one,) = verify.verify_card(trained).findings
    assert (one.status, "has SHA-256" in one.detail) == ("fails", True)


def test_a_card_without_time_or_data_claims_nothing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = verify.verify_card(trained, seconds=0)
    assert not found.measured
    assert "% on the first 1; the card says" in found.findings[-1].detail

    def away(recipe: Recipe, root: Path | None = None) -> Any:
        if root is not None:
            raise InputError("strokes: no data root")
        return original(recipe)

    original = catalog.family_of
    monkeypatch.setattr(catalog, "family_of", away)
    found = verify.verify_card(trained, root=Path("nowhere"))
    assert [one.status for one in found.findings] == ["holds", "not verified"]
    assert not found.measured


def test_the_exit_status_says_what_became_of_it(
    results: Path,
    ckpt: Path,
    trained: Path,
    rbm: Callable[..., tuple[int, str, str]],
) -> None:
    status, out, _ = rbm("verify", results, "--ckpt", ckpt)
    assert (status, out.count("holds"), "2 of 2 cells" in out) == (0, 2, True)
    assert rbm("verify", trained)[0] == 0
    status, _, err = rbm("verify", results)
    assert (status, "no number of" in err) == (4, True)
    change(cell_file(results, "noise-2"), 0, "survived", flipped)
    status, out, err = rbm("verify", results, "--ckpt", ckpt)
    assert (status, "does not hold" in err) == (1, True)
    assert rbm("verify", results.parent / "nothing")[0] == 2
