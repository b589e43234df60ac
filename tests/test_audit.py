"""Audits of the honest learner and of the maskers, their files, and what tables make of them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_meta import audit, catalog, flags, grid, linear, maskers, report, statistics, store, tracks
from robustbench_meta.types import NORMS, InputError, Norm, Spec, Threat

STROKES = catalog.family("strokes")
SPEC, THREAT = Spec(5, 5, 1), Threat("linf", 0.1)


class Adapts(maskers.Honest):
    """Takes a gradient while it predicts, as purification does."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        with torch.enable_grad():
            inside = x.detach().clone().requires_grad_()
            super().predict(fitted, inside).sum().backward()
        return super().predict(fitted, x)


class NearestMean:
    """Scores by the squared distance to the mean of each class."""

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x[y == label].mean(0) for label in range(int(y.max()) + 1)]).flatten(1)

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return -(x.flatten(1).unsqueeze(1) - fitted).square().sum(-1)


class Crashes(maskers.Honest):
    """Refuses a query that comes alone."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise RuntimeError("one is not enough")
        return super().predict(fitted, x)


def raised(subject: Any, tasks: int = 1) -> str:
    return flags.codes(audit.examine_object(subject, STROKES, threat=THREAT, spec=SPEC, tasks=tasks))


def ran(subject: Any, results: Path, tasks: int = 1) -> tuple[grid.Plan, tuple[audit.AuditJob, ...]]:
    """Run the cells of one object, and return its plan and audits."""
    made = grid.object_subject(subject, type(subject).__name__, STROKES, device="cpu", ways=5)
    axes = grid.Grid(grid.named_attacks(["fgsm"]), eps=(0.05, 0.1), queries=2)
    plan = grid.make_plan(axes, [made], results)
    assert not grid.execute(plan, results, tasks=tasks)
    return plan, audit.audits(plan)


def test_the_honest_learner_raises_nothing() -> None:
    assert raised(maskers.Honest(), tasks=2) == ""


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("logits x 10000", "F6"),
        ("quantised", "F6"),
        ("detached", "F6"),
        ("noisy", "F8"),
        ("softmax", "F6"),
        ("saturated sigmoid", "F6"),
        ("batch statistics", "F10"),
    ],
)
def test_every_masker_is_flagged_red(name: str, code: str) -> None:
    found = audit.examine_object(maskers.MASKERS[name], STROKES, threat=THREAT, spec=SPEC, tasks=1)
    assert code in flags.codes(flags.red(found)).split()


@pytest.mark.parametrize("norm", NORMS)
def test_waveforms_are_audited_in_every_norm_also_where_square_cannot_paint(norm: Norm) -> None:
    sounds = linear.Blobs(shape=(1, 48), spread=0.2)
    found = audit.examine_object(NearestMean(), sounds, threat=Threat(norm, 0.02), spec=Spec(3, 5, 2), tasks=1)
    assert found == ()


def test_a_forward_that_takes_gradients_is_flagged_and_the_engine_is_put_back() -> None:
    before = torch.autograd.Variable._execution_engine
    assert raised(Adapts()) == "F11"
    assert torch.autograd.Variable._execution_engine is before


def test_an_audit_vouches_for_all_cells_of_a_row_at_the_largest_eps_and_can_be_sent_to_a_process(
    tmp_path: Path,
) -> None:
    _, (job,) = ran(maskers.Honest(), tmp_path)
    assert (job.audit.eps, [cell.threat.eps for cell in job.cells]) == (0.1, [0.05, 0.1])
    assert pickle.loads(pickle.dumps(job)).audit == job.audit


@pytest.mark.parametrize(("tasks", "audited"), [(0, 0), (3, 3), (20, 20), (100, 20), (401, 21), (1000, 50)])
def test_a_twentieth_of_the_tasks_is_audited_and_at_least_twenty(tasks: int, audited: int) -> None:
    assert flags.audited_tasks(tasks) == audited


def test_an_audit_repeats_byte_for_byte_is_not_run_again_and_only_grows(tmp_path: Path) -> None:
    plan, jobs = ran(maskers.Honest(), tmp_path, tasks=2)
    assert audit.run_audits(plan, tmp_path, tasks=[0]) == []
    path = tmp_path / "audits" / f"{jobs[0].key}.jsonl"
    first, timed = path.read_bytes(), (tmp_path / "timings" / path.name).read_bytes()
    assert audit.run_audits(plan, tmp_path, tasks=[0]) == []
    assert (tmp_path / "timings" / path.name).read_bytes() == timed
    assert audit.run_audits(plan, tmp_path) == []
    assert path.read_bytes().startswith(first)
    assert [one.task for one in store.audited(tmp_path, jobs[0].audit)] == [0, 1]
    assert audit.run_audits(plan, tmp_path / "again", tasks=[0, 1]) == []
    assert (tmp_path / "again" / "audits" / path.name).read_bytes() == path.read_bytes()
    assert len(store.read(tmp_path).audits) == 2


def test_a_broken_audit_file_is_named(tmp_path: Path) -> None:
    plan, (job,) = ran(maskers.Honest(), tmp_path)
    audit.run_audits(plan, tmp_path)
    path = tmp_path / "audits" / f"{job.key}.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"task":0', '"task":-1'), encoding="utf-8")
    with pytest.raises(InputError, match="line 2, is broken"):
        store.read(tmp_path)


def test_an_audit_that_fails_is_shown_and_takes_the_rank_away_until_it_runs(tmp_path: Path) -> None:
    plan, _ = ran(Crashes(), tmp_path)
    (failure,) = audit.run_audits(plan, tmp_path)
    assert failure.reason == "RuntimeError: one is not enough"
    table = statistics.leaderboard(grid.results_of(plan, tmp_path))
    row = table[table.checkpoint == "Crashes"].iloc[0]
    assert row["flags"] == "audit failed"
    assert row["reason"] == "audit failed: RuntimeError: one is not enough"
    honest = (replace(job, learner=replace(job.learner, subject=maskers.Honest())) for job in plan.jobs)  # type: ignore[arg-type]
    assert audit.run_audits(replace(plan, jobs=tuple(honest)), tmp_path) == []
    assert set(statistics.summarise(store.read(tmp_path))["flags"].astype(str)) == {"none in 1 task"}


def test_a_red_flag_takes_the_rank_away_and_every_table_says_so(tmp_path: Path) -> None:
    plan, _ = ran(maskers.MASKERS["quantised"], tmp_path)
    ran(maskers.Honest(), tmp_path)
    assert statistics.summarise(store.read(tmp_path))["flags"].tolist() == ["not audited"] * 4
    assert audit.run_audits(plan, tmp_path) == []
    results = store.read(tmp_path)
    summary = statistics.summarise(results)
    assert sorted(set(zip(summary["checkpoint"], summary["status"], strict=True))) == [
        ("Honest", "ok"),
        ("Quantised", "flagged"),
    ]
    table = statistics.leaderboard(results).set_index("checkpoint")
    assert table["rank"].to_dict()["Honest"] == 1
    assert table["rank"].isna()["Quantised"]
    assert "flagged: F6 the" in table["reason"]["Quantised"]
    assert "F6" in statistics.worst_case(results).set_index("checkpoint")["flags"]["Quantised"].iloc[0].split()
    report.write(results, [], tmp_path / "report")
    for name in ("leaderboard.md", "leaderboard.html", "cells.csv"):
        text = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert "F6" in text
        assert "not audited" in text
    page = (tmp_path / "report" / "leaderboard.html").read_text(encoding="utf-8")
    assert all(about.title in page and f'id="flag-{about.code}"' in page for about in flags.ABOUT)


def test_results_without_audits_are_read_and_ranked_as_before() -> None:
    whole = tracks.results_of(Path(__file__).parents[1] / "reports" / "leaderboard" / "entries")
    table = statistics.leaderboard(replace(whole, audits=whole.audits.iloc[:0]))
    mine = table[table["checkpoint"] != statistics.CONSTANT]
    assert mine["flags"].str.contains("not audited").all()
    assert mine["rank"].notna().all()


def test_an_audit_that_saw_less_than_what_is_ranked_says_so(tmp_path: Path) -> None:
    plan, _ = ran(maskers.Honest(), tmp_path, tasks=2)
    audit.run_audits(plan, tmp_path, tasks=[0])
    table = statistics.leaderboard(store.read(tmp_path))
    assert table[table.checkpoint == "Honest"].iloc[0]["flags"] == "1 of 2 tasks audited"
    audit.run_audits(plan, tmp_path)
    made = grid.object_subject(maskers.Honest(), "Honest", STROKES, device="cpu", ways=5)
    wider = grid.make_plan(grid.Grid(grid.named_attacks(["fgsm"]), eps=(0.2,), queries=2), [made], tmp_path)
    assert not grid.execute(wider, tmp_path, tasks=2)
    table = statistics.leaderboard(store.read(tmp_path))
    assert table[table.checkpoint == "Honest"].iloc[0]["flags"] == "audited up to 0.1"


def test_a_budget_that_is_spent_leaves_the_first_block_of_an_audit(tmp_path: Path) -> None:
    plan, (job,) = ran(maskers.Honest(), tmp_path, tasks=3)
    assert audit.run_audits(plan, tmp_path, budget=0.0) == []
    assert [one.task for one in store.audited(tmp_path, job.audit)] == [0, 1]
