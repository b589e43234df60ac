"""Audits of the honest learner and of the maskers, their files, and what tables make of them."""

from __future__ import annotations

import math
import pickle
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from test_environments import COMMON, Climber, Line, Push, rising
from test_grid import Failing
from torch import Tensor

from robustbench_meta import (
    audit,
    catalog,
    compare,
    evaluate,
    executors,
    flags,
    grid,
    linear,
    maskers,
    report,
    statistics,
    store,
    submissions,
    tracks,
    verify,
)
from robustbench_meta.engine import Learner, ObjectLearner
from robustbench_meta.report import formats
from robustbench_meta.rollouts import noise_space
from robustbench_meta.types import (
    NORMS,
    Box,
    Episodes,
    InputError,
    Norm,
    Params,
    Scene,
    Sounds,
    Spec,
    Split,
    Streams,
    Surface,
    Threat,
    Victim,
)

STROKES = catalog.family("strokes")
SPEC, THREAT = Spec(5, 5, 1), Threat("linf", 0.1)
CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


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


class Waits(maskers.Honest):
    """Takes 5 ms to predict."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        time.sleep(0.005)
        return super().predict(fitted, x)


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


def planned(subject: Any, results: Path, name: str = "") -> grid.Plan:
    """Plan one cell of one object, of a query a class."""
    made = grid.object_subject(subject, name or type(subject).__name__, STROKES, device="cpu", ways=5)
    return grid.make_plan(grid.Grid(grid.named_attacks(["fgsm"]), eps=(0.1,), queries=1), [made], results)


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


def test_the_time_of_an_audit_is_estimated_by_like_ones_and_only_for_tasks_that_it_lacks(tmp_path: Path) -> None:
    plan, (job,) = ran(maskers.Honest(), tmp_path)
    assert audit.estimate(plan, tmp_path, 100) is None
    (seen,) = audit.examine(job.audit, plan.jobs[0].learner, STROKES, [0])
    store.append_audit(tmp_path, job.audit, [seen], store.Timing((0,), 30.0, "cpu", 1))
    assert audit.estimate(plan, tmp_path, 100) == pytest.approx(19 * 30)
    assert audit.estimate(plan, tmp_path, 1) == 0
    made = grid.object_subject(maskers.Honest(), "Honest", STROKES, device="cpu", ways=5)
    attacks = grid.named_attacks(["fgsm"])
    other, unlike = (
        grid.make_plan(grid.Grid(attacks, eps=(0.2,), queries=queries), [made], tmp_path) for queries in (2, 3)
    )
    assert audit.estimate(other, tmp_path, 3) == pytest.approx(3 * 30)
    assert audit.estimate(unlike, tmp_path, 3) is None


def test_the_time_of_an_audit_counts_the_tasks_that_are_stored_where_a_run_asks_for_fewer(tmp_path: Path) -> None:
    plan, (job,) = ran(maskers.Honest(), tmp_path, tasks=3)
    (seen,) = audit.examine(job.audit, plan.jobs[0].learner, STROKES, [0])
    store.append_audit(tmp_path, job.audit, [seen], store.Timing((0,), 30.0, "cpu", 1))
    assert audit.estimate(plan, tmp_path, 1) == pytest.approx(2 * 30)


def test_the_time_of_an_audit_is_not_foreseen_by_that_of_another_learner(tmp_path: Path) -> None:
    plan, unlike = (planned(maskers.Honest(), tmp_path, name) for name in ("one", "other"))
    (job,) = audit.audits(plan)
    (seen,) = audit.examine(job.audit, plan.jobs[0].learner, STROKES, [0])
    store.append_audit(tmp_path, job.audit, [seen], store.Timing((0,), 30.0, "cpu", 1))
    assert audit.estimate(plan, tmp_path, 3) == pytest.approx(2 * 30)
    assert audit.estimate(unlike, tmp_path, 3) is None


@pytest.mark.usefixtures("few_draws")
def test_a_run_estimates_its_audit_with_its_cells_and_says_at_its_end_what_the_audit_took(tmp_path: Path) -> None:
    plan = planned(Waits(), tmp_path)
    (job,) = audit.audits(plan)
    told: list[str] = []
    seen: list[grid.Progress] = []

    def tell(line: str) -> None:
        told.append(line)
        held = [len(store.stored(tmp_path, plan.jobs[0].cell)), len(store.audited(tmp_path, job.audit))]
        if line.startswith("estimated"):
            assert held == [2, 2]

    watcher = grid.Watcher(seen.append, tell)
    assert audit.execute(plan, tmp_path, tasks=3, watcher=watcher) == ([], [])
    assert len(store.audited(tmp_path, job.audit)) == 3
    (estimated,) = (line for line in told if line.startswith("estimated"))
    assert re.fullmatch(r"estimated from here: \d+ s, of which the audit \d+ s", estimated)
    assert re.fullmatch(r"the audit took \d+ s", told[-1])
    # A cell takes a few forwards, an audit hundreds: what is left after the last task of the cell is the audit's.
    assert seen[-1].done == seen[-1].total == 3
    assert 0 < (seen[-1].seconds_left or 0) < int(told[-1].split()[-2]) + 1
    told.clear()
    assert audit.execute(plan, tmp_path, tasks=3, watcher=watcher) == ([], [])
    assert told == []


@pytest.mark.usefixtures("few_draws", "slow_tasks")
def test_what_is_said_of_an_audit_counts_that_two_blocks_run_at_once(tmp_path: Path) -> None:
    plan = planned(maskers.Honest(), tmp_path)
    told: list[str] = []
    executor = executors.InProcess(grid.kit(plan), slots=2)
    assert audit.execute(plan, tmp_path, tasks=10, watcher=grid.Watcher(tell=told.append), executor=executor)[1] == []
    # 8 tasks of the cell and 8 of the audit, 2 at once
    assert "estimated from here: 14 min, of which the audit 7 min" in told
    assert [line for line in told if re.search(r": about 4 min more$", line)]  # 4 tasks, beside the 4 under way


@pytest.mark.usefixtures("few_draws", "slow_tasks")
def test_an_audit_is_timed_on_its_first_block_alone_however_many_tasks_are_stored(tmp_path: Path) -> None:
    plan = planned(maskers.Honest(), tmp_path)
    (job,) = audit.audits(plan)
    assert not grid.execute(plan, tmp_path, tasks=5)
    held: list[list[int]] = []

    def progress(now: grid.Progress) -> None:
        held.append([one.task for one in store.audited(tmp_path, job.audit)])

    assert audit.execute(plan, tmp_path, tasks=6, watcher=grid.Watcher(progress)) == ([], [])
    assert held[0] == [0, 1]


@pytest.mark.usefixtures("few_draws", "slow_tasks")
def test_what_is_left_of_a_budget_holds_the_audit(tmp_path: Path) -> None:
    plan = planned(maskers.Honest(), tmp_path)
    seen: list[grid.Progress] = []
    told: list[str] = []
    watcher = grid.Watcher(seen.append, told.append)
    assert audit.execute(plan, tmp_path, budget=100.0, watcher=watcher) == ([], [])
    assert "estimated from here: 20 s, of which the audit 20 s" in told
    assert (seen[-1].done, seen[-1].total, seen[-1].seconds_left) == (2, 2, 20)
    told.clear()
    assert audit.execute(plan, tmp_path, budget=100.0, watcher=watcher) == ([], [])
    assert told == ["budget: 2 tasks for each cell"]  # the audit has seen both


def test_an_audit_that_failed_is_not_timed_again(tmp_path: Path) -> None:
    plan = planned(Crashes(), tmp_path)
    told: list[str] = []
    for tasks in (3, 4):
        failures, lost = audit.execute(plan, tmp_path, tasks=tasks, watcher=grid.Watcher(tell=told.append))
        assert (len(failures), len(lost)) == (0, 1)
    assert told.count("timing the audit on its first tasks") == 1
    assert audit.estimate(plan, tmp_path, 5) == 0


def test_an_audit_whose_cells_all_failed_is_not_timed(tmp_path: Path) -> None:
    plan = planned(maskers.Honest(), tmp_path)
    plan = replace(plan, jobs=tuple(replace(job, attack=Failing()) for job in plan.jobs))
    told: list[str] = []
    failures, lost = audit.execute(plan, tmp_path, tasks=3, watcher=grid.Watcher(tell=told.append))
    assert (len(failures), len(lost)) == (1, 0)
    assert "timing the audit on its first tasks" not in told
    assert audit.estimate(plan, tmp_path, 5) == 0


def test_an_audit_that_cannot_be_timed_is_no_part_of_an_estimate_and_the_estimate_says_so() -> None:
    assert grid.foreseen(60, 0) == "60 s"
    assert grid.foreseen(60, 1200) == "21 min, of which the audit 20 min"
    assert grid.foreseen(60, None) == "60 s, and the audit, which was not timed yet"


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chance draw less: what is planted here it finds at once."""
    monkeypatch.setattr(audit, "DRAWS", 64)


@dataclass(frozen=True)
class Ramp:
    """A place on a line that begins at 0 and moves by 0.1 up or down; a rollout of four steps succeeds above 0.15."""

    name: str = "ramp"
    horizon: int = 4
    space: ClassVar[Box] = Box((2,), -1.0, 1.0)
    default_network: ClassVar[str] = "mlp"
    default_network_options: ClassVar[Mapping[str, Any]] = {}

    def classes(self, split: Split) -> list[str]:
        return [f"{split}-up", f"{split}-down"]

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        return rising(spec, len(indices), width=2)

    def trials(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Params:
        return {"start": torch.linspace(0, 0.02, spec.ways * spec.queries).expand(len(indices), -1)}

    def start(self, world: Params) -> Tensor:
        return world["start"].unsqueeze(1)

    def observe(self, world: Params, state: Tensor) -> Tensor:
        return torch.cat([state, torch.full_like(state, 0.3)], dim=1)

    def advance(self, world: Params, state: Tensor, chosen: Tensor) -> Tensor:
        return state + 0.1 * (chosen[:, :1] - chosen[:, 1:])

    def judge(self, world: Params, states: Tensor) -> tuple[Tensor, Tensor]:
        return 10 * (states[:, -1] - 0.15), states[:, -1, 0]

    def scene(self, world: Params, states: Tensor) -> Scene:
        nothing = states.new_zeros(len(states), 0, 2)
        return Scene(states.expand(-1, -1, 2), states.new_zeros(len(states), 3), nothing.new_zeros(0, 3), nothing)


class Climbs:
    """A policy that goes up where it sees itself above -0.05, else down."""

    def adapt(self, x: Tensor, y: Tensor) -> None:
        return None

    def predict(self, fitted: None, x: Tensor) -> Tensor:
        return 20 * torch.cat([x[:, :1] + 0.05, -x[:, :1] - 0.05], dim=1)


class Rounds(Climbs):
    """Observes in steps of a quarter: a gradient of exactly 0, and noise of more than an eighth breaks it."""

    def predict(self, fitted: None, x: Tensor) -> Tensor:
        return super().predict(fitted, (4 * x).round() / 4)


class Saturates(Climbs):
    """Is so sure of its action that the softmax of its scores has no slope."""

    def predict(self, fitted: None, x: Tensor) -> Tensor:
        return 1e5 * super().predict(fitted, x)


class Cuts(Climbs):
    def predict(self, fitted: None, x: Tensor) -> Tensor:
        return super().predict(fitted, x.detach()) + 0 * x.sum(dim=1, keepdim=True)


class Wavers(Climbs):
    def predict(self, fitted: None, x: Tensor) -> Tensor:
        return super().predict(fitted, x + 0.1 * torch.randn_like(x))


class Likely(Climbs):
    def predict(self, fitted: None, x: Tensor) -> Tensor:
        return super().predict(fitted, x).softmax(dim=1)


class Compares(Climbs):
    """Sees where it is among the others."""

    def predict(self, fitted: None, x: Tensor) -> Tensor:
        return super().predict(fitted, 0.05 + x - x.mean(dim=0))


class Purifies(Climbs):
    def predict(self, fitted: None, x: Tensor) -> Tensor:
        with torch.enable_grad():
            inside = x.detach().clone().requires_grad_()
            super().predict(fitted, inside).sum().backward()
        return super().predict(fitted, x)


def of_rollouts(policy: Any, family: Any, eps: float) -> tuple[flags.Flag, ...]:
    return audit.examine_object(policy, family, threat=Threat("linf", eps, "rollout"), spec=Spec(2, 3, 4), tasks=1)


@pytest.mark.parametrize("eps", [0.1, 0.2])
@pytest.mark.usefixtures("few_draws")
def test_an_honest_policy_raises_nothing_through_a_simulator_or_step_by_step(eps: float) -> None:
    assert of_rollouts(Climbs(), Ramp(), eps) == ()
    assert of_rollouts(Climber(), Line(), eps) == ()


@pytest.mark.parametrize(
    ("policy", "through", "by_steps"),
    [
        (Rounds(), {"F3", "F4", "F5", "F6"}, {"F6"}),
        (Saturates(), {"F3", "F4", "F5", "F6"}, {"F6"}),
        (Cuts(), {"F3", "F4", "F5", "F6"}, {"F3", "F4", "F6"}),
        (Wavers(), {"F8"}, {"F8"}),
        (Likely(), {"F6"}, {"F6"}),
        (Compares(), {"F10"}, {"F10"}),
        (Purifies(), {"F11"}, {"F11"}),
    ],
)
@pytest.mark.usefixtures("few_draws")
def test_policies_that_mask_are_flagged_red_through_a_simulator_and_step_by_step(
    policy: Climbs, through: set[str], by_steps: set[str]
) -> None:
    assert through <= {flag.code for flag in flags.red(of_rollouts(policy, Ramp(), 0.2))}
    assert by_steps <= {flag.code for flag in flags.red(of_rollouts(policy, Line(), 0.2))}


@dataclass(frozen=True)
class Idle:
    """Leaves everything as it is."""

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        return victim.x.clone()


@pytest.mark.usefixtures("few_draws")
def test_that_one_step_beats_many_is_concluded_of_rollouts_only_where_gradients_pass_and_the_audit_says_so(
    tmp_path: Path,
) -> None:
    attacks = {"fgsm": Push(0.2), "pgd-3": Idle()}
    common = {**COMMON, "queries": 4, "attacks": attacks, "eps": [0.2]}
    learners = {"through": (Climbs(), Ramp()), "by-steps": (Climber(), Line())}
    for name, (learner, family) in learners.items():
        given = {**common, "learner": learner, "name": name, "family": family}
        evaluate(**given, out=tmp_path / "bare" / name, audit=False)
        assert set(evaluate(**given, out=tmp_path / name)["robust"]) == {0.0, 1.0}
    raised = [
        set(statistics.summarise(store.read(tmp_path / folder))["flags"])
        for folder in ("through", "by-steps", "bare/through", "bare/by-steps")
    ]
    assert "F1" in raised[0].pop()
    assert [codes.pop() for codes in raised[1:]] == [
        "none in 1 task; F9 F13 not asked",
        "not audited",
        "not audited",
    ]
    audited, bare = (store.read(tmp_path / folder / "through") for folder in (".", "bare"))
    report.write(bare, [], tmp_path / "report")
    for name, wanted in (
        ("leaderboard.md", "not raised; not asked of 1 of 1 rows"),
        ("leaderboard.html", "Not asked of 1"),
    ):
        page = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert wanted in page
        assert "F1, F2, F3, F9 of verdicts: before an audit nobody knows whether gradients pass" in page
    assert "Not audited for masked gradients: through." in formats.render(bare, "latex")
    assert "Not audited" not in formats.render(audited, "latex")
    said = "audited in A and not in B, where no flag of an audit could be new"
    assert any(note.endswith(said) for note in compare.runs(audited, bare).notes)
    assert not any("audited" in note for note in compare.runs(audited, audited).notes)


@pytest.mark.usefixtures("few_draws")
def test_what_an_audit_of_rollouts_leaves_out_is_named_and_its_files_come_back(tmp_path: Path) -> None:
    attacks, common = {"fgsm": Push(0.2)}, {**COMMON, "queries": 4, "eps": [0.2], "out": tmp_path}
    evaluate(**{**common, "learner": Climbs(), "name": "through", "family": Ramp(), "attacks": attacks})
    evaluate(**{**common, "learner": Climber(), "name": "by-steps", "family": Line(), "attacks": attacks})
    results = store.read(tmp_path)
    held = {one.audit.checkpoint: one for one in store.examinations(tmp_path)}
    ((through,), (steps,)) = (held[name].measures for name in ("through", "by-steps"))
    assert (through.predictions, through.steps) == ((), ())
    assert set(through.survived) == {"fgsm", "pgd-half", "pgd", "pgd-twice", "box", "noise", "stretches"}
    # Of eight clean rollouts of three steps one observation each: from the first to the last.
    assert steps.steps == (0, 0, 0, 1, 1, 2, 2, 2)
    assert steps.predictions == (0,) * 8
    report.write(results, [], tmp_path / "report")
    for name in ("leaderboard.md", "leaderboard.html"):
        page = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert "one class (F13): a rollout succeeds or fails, and is taken for no class. Of through" in page
        assert "whole rollouts (F1, F2, F3, F9): who does better in each step need not in the end. Of by-steps" in page
        assert "Square (F3): stretches of steps, made for what is observed one after another" in page
    for name, one in held.items():
        entry = submissions._entry_audit(one, name)
        assert submissions._examination(entry) == one
        assert submissions.EntryAudit.model_validate_json(entry.model_dump_json()) == entry
        assert list(tracks._of_audit("a", "b", entry)) == []
        other = {"through": "query", "by-steps": "sequence"}[name]
        odd = entry.model_copy(update={"audit": entry.audit.model_copy(update={"surface": other})})
        assert list(tracks._of_audit("a", "b", odd))


def test_an_audit_of_queries_is_written_as_before_there_were_surfaces(tmp_path: Path) -> None:
    plan, (job,) = ran(maskers.Honest(), tmp_path)
    audit.run_audits(plan, tmp_path)
    text = (tmp_path / "audits" / f"{job.key}.jsonl").read_text(encoding="utf-8")
    assert "surface" not in text
    assert 'steps":(' not in text
    assert '"autograd":false' in text.splitlines()[1]
    assert text.count('"steps"') == 1  # of adaptation, in the header
    assert store.key(job.audit) != store.key(replace(job.audit, surface="rollout"))
    entry = submissions._entry_audit(store.Examination(job.audit, tuple(store.audited(tmp_path, job.audit))), "h")
    assert "surface" not in entry.model_dump()["audit"]
    assert "steps" not in entry.model_dump()["tasks"][0]


class Cut:
    """A network that no gradient passes, though it claims so by a path of weight 0."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __call__(self, weights: Params, x: Tensor, norm: Any) -> Tensor:
        return through_nothing(lambda x: self.inner(weights, x, norm), x)

    def freeze(self, weights: Params, norm: Params) -> Callable[[Tensor], Tensor]:
        embed = self.inner.freeze(weights, norm)
        return lambda x: through_nothing(embed, x)


def through_nothing(embed: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return embed(x.detach()) + 0 * x.sum()


@pytest.mark.parametrize(
    ("name", "eps", "surface"),
    [("navigation-protonet-standard", 0.05, "rollout"), ("transduction-r2d2-standard", 0.02, "sequence")],
)
@pytest.mark.usefixtures("few_draws")
def test_a_shipped_learner_that_acts_or_writes_raises_nothing_and_cut_from_its_gradients_it_does(
    name: str, eps: float, surface: Surface, tmp_path: Path
) -> None:
    made = grid.load_subject(CHECKPOINTS / name, device="cpu")
    axes = grid.Grid(grid.named_attacks(["fgsm"]), eps=(eps,), queries=1)
    plan = grid.make_plan(axes, [made], tmp_path)
    (job,) = audit.audits(plan)
    assert job.audit.surface == surface
    (cell,) = grid.kit(plan).jobs
    assert isinstance(cell.learner, Learner)
    (honest,) = audit.examine(job.audit, cell.learner, cell.family, [0])
    about: dict[str, Any] = {"ways": job.audit.spec.ways, "surface": surface}
    assert flags.of_audit([honest], **about) == ()
    assert sum(honest.clean) > len(honest.clean) / 2
    network: Any = Cut(cell.learner.network)
    (masked,) = audit.examine(job.audit, replace(cell.learner, network=network), cell.family, [0])
    assert {"F5", "F6"} <= {flag.code for flag in flags.red(flags.of_audit([masked], **about))}
    assert masked.clean == honest.clean
    assert verify._compared(honest, honest, exact=True)[0] == []


@dataclass(frozen=True)
class Waves:
    """Tones of one frequency a class; the first query of each class is silent."""

    name: str = "waves"
    space: ClassVar[Box] = Sounds((1, 64), -1.0, 1.0, rate=64)
    duplicates: ClassVar[bool] = True

    def classes(self, split: Split) -> list[str]:
        return [f"{split}-{number}" for number in range(3)]

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        def part(count: int, first: int) -> tuple[Tensor, Tensor]:
            y = torch.arange(spec.ways).repeat_interleave(count)
            phase = torch.arange(first, first + len(y)).view(-1, 1)
            tones = 0.3 * torch.sin(2 * math.pi * 3 * (y.view(-1, 1) + 1) * torch.arange(64) / 64 + phase)
            return tones.unsqueeze(1).expand(len(indices), -1, -1, -1), y.expand(len(indices), -1)

        query_x, query_y = part(spec.queries, 1000)
        silent = torch.arange(query_x.shape[1]) % spec.queries == 0
        return Episodes(*part(spec.shots, 0), query_x.masked_fill(silent.view(1, -1, 1, 1), 0.0), query_y)


class Hears(NearestMean):
    """Scores by the logarithm of power, as log-mel networks hear."""

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return super().adapt(heard(x), y)

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, heard(x))


class HearsSteps(Hears):
    """Hears sounds in a hundred steps: silence and a little beside it are the same."""

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return super().predict(fitted, (50 * x).round() / 50)


def heard(x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(x)
    return torch.log1p((spectrum.real.square() + spectrum.imag.square()) / 0.1)


def test_silence_in_which_power_has_no_slope_is_no_masking_and_steps_that_have_none_beside_it_are() -> None:
    spec, threat = Spec(3, 5, 2), Threat("linf", 0.05)
    learner = ObjectLearner(Hears(), Waves().space, 3)
    episodes = Waves().sample("test", spec, [0])
    victim = learner.query_victim(
        learner.adapt(episodes.support_x, episodes.support_y), episodes.query_x, episodes.query_y
    )
    assert audit._flat(victim, victim.x)["margin"].flatten().tolist() == [True, False] * 3
    common: dict[str, Any] = {"threat": threat, "spec": spec, "tasks": 1}
    # Silence itself is of no class, so that one class takes more than its share.
    assert flags.codes(audit.examine_object(Hears(), Waves(), **common)) == "F13"
    assert "F6" in {flag.code for flag in flags.red(audit.examine_object(HearsSteps(), Waves(), **common))}


def test_noise_on_rollouts_is_all_zeros_and_no_silence() -> None:
    family = Ramp()
    assert audit._constant(torch.zeros(3, 1, *noise_space(family).shape)).all()
    found = of_rollouts(Rounds(), family, 0.2)
    assert next(flag.value for flag in found if flag.code == "F6") == 1.0
