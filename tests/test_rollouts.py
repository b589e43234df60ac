"""Learners that act: simulators held against steps by hand, rollouts, what attacks do to them, and what is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_report import Page, results
from torch import Tensor

from robustbench_meta import catalog, evaluate, grid, report, rollouts, store
from robustbench_meta.demonstrations import demonstrated
from robustbench_meta.engine import Learner, rollout_victim, start_params
from robustbench_meta.evaluate import replay
from robustbench_meta.networks import MLP
from robustbench_meta.outcomes import Board
from robustbench_meta.report import trajectories
from robustbench_meta.rollouts import noise_space, roll
from robustbench_meta.tasks.navigation import BEACONS, Navigation
from robustbench_meta.tasks.reach import Reach
from robustbench_meta.types import (
    SPLITS,
    Box,
    Cell,
    InputError,
    Params,
    Record,
    Simulator,
    Spec,
    Split,
    Threat,
)

FAMILIES: dict[str, Any] = {"navigation": Navigation(), "reach": Reach()}
SPEC = Spec(ways=8, shots=5, queries=2)


class NearestMean:
    """A policy that takes the action whose demonstrated observations lie nearest on average."""

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x[y == k].flatten(1).mean(0) for k in range(SPEC.ways)])

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        return -20 * torch.cdist(x.flatten(1), fitted).square()


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> Any:
    return FAMILIES[request.param]


def one(**values: Any) -> Params:
    """Make the world of one rollout."""
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}


FREE = [[0.9, 0.9, 0.05]] * 4


def grove(**changed: Any) -> Params:
    return one(**{"start": [0.0, 0.0], "goal": [0.5, 0.0], "turn": 0.0, "obstacles": FREE} | changed)


def test_a_point_moves_by_the_mean_of_its_headings_which_a_hidden_angle_turns() -> None:
    family, state = Navigation(), torch.zeros(1, 2, dtype=torch.float64)
    east = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
    assert family.advance(grove(), state, east).tolist() == [[pytest.approx(0.1), 0.0]]
    turned = family.advance(grove(turn=math.pi / 2), state, east)
    assert turned.tolist() == [[pytest.approx(0.0, abs=1e-12), pytest.approx(0.1)]]
    both = torch.tensor([[0.5, 0.5, 0, 0]], dtype=torch.float64)  # east and north
    assert family.advance(grove(), state, both).tolist() == [[pytest.approx(0.05), pytest.approx(0.05)]]
    assert family.advance(grove(), state + 0.95, east).tolist() == [[1.0, pytest.approx(0.95)]]


def test_a_point_observes_beacons_by_their_distance_and_obstacles_by_its_whiskers() -> None:
    obstacles = [[0.35, 0.0, 0.1], *FREE[1:]]
    seen = Navigation().observe(grove(obstacles=obstacles), torch.zeros(1, 2, dtype=torch.float64))[0]
    beacons = seen[: BEACONS**2].view(BEACONS, BEACONS)
    assert beacons[2, 2] == 1
    assert beacons[3, 2].item() == pytest.approx(math.exp(-((0.5 / 0.35) ** 2) / 2))
    # 0.2 ahead to the east lies 0.05 from the edge of the obstacle; to the west nothing is felt.
    assert seen[BEACONS**2].item() == pytest.approx(0.05 / 0.2)
    assert seen[BEACONS**2 + 6] == 1


def test_a_rollout_of_navigation_succeeds_near_its_goal_if_it_touched_nothing() -> None:
    family, obstacles = Navigation(), [[0.25, 0.3, 0.2], *FREE[1:]]
    way = torch.tensor([[[0.0, 0.0], [0.25, 0.0], [0.4, 0.0]]], dtype=torch.float64)
    margins, returned = family.judge(grove(obstacles=obstacles), way)
    assert margins[0].tolist() == pytest.approx([10 * (0.2 - 0.1), 10 * (0.3 - 0.2)])
    assert returned.item() == pytest.approx(-(0.25**2 + 0.1**2))
    through = way + torch.tensor([[[0.0, 0.0], [0.0, 0.2], [0.0, 0.0]]])
    assert family.judge(grove(obstacles=obstacles), through)[0][0].tolist() == pytest.approx([1.0, 10 * (0.1 - 0.2)])
    assert family.judge(grove(), way[:, :2])[0][0, 0].item() == pytest.approx(10 * (0.2 - 0.25))


def arm(**changed: Any) -> Params:
    made = {"start": [0.0, math.pi / 2], "target": [0.5, 0.6], "links": [0.5, 0.6], "strength": 0.1, "turn": 0.0}
    return one(**made | changed)


def test_an_arm_is_pulled_by_the_mean_of_its_commands_and_keeps_half_of_its_speed() -> None:
    family = Reach()
    state = family.start(arm())
    first = torch.tensor([[0.0, 1, 0, 0, 0]], dtype=torch.float64)
    after = family.advance(arm(), state, first)
    assert after[0].tolist() == pytest.approx([0.1, math.pi / 2, 0.1, 0.0])
    rest = torch.tensor([[1.0, 0, 0, 0, 0]], dtype=torch.float64)
    assert family.advance(arm(), after, rest)[0].tolist() == pytest.approx([0.15, math.pi / 2, 0.05, 0.0])
    turned = family.advance(arm(turn=math.pi / 2), state, first)
    assert turned[0].tolist() == pytest.approx([0.0, math.pi / 2 + 0.1, 0.0, 0.1])
    bent = torch.tensor([[0.0, 2.55, 0.0, 0.2]], dtype=torch.float64)
    assert family.advance(arm(), bent, rest)[0].tolist() == pytest.approx([0.0, 2.6, 0.0, 0.1])


def test_an_arm_sees_its_target_from_its_hand_however_it_is_turned() -> None:
    family = Reach()
    seen = family.observe(arm(), family.start(arm()))[0]
    assert seen[:25].argmax() == 12  # the hand is at (0.5, 0.6), where the target is
    assert seen[12] == 1
    assert seen[25:].tolist() == pytest.approx([0.0, 1.0, 0.0, 0.0], abs=1e-12)
    # 0.6 ahead of the hand, along the forearm, lies the next cell.
    assert family.observe(arm(target=[0.5, 1.2]), family.start(arm()))[0][17] == pytest.approx(1.0)
    turned = arm(start=[math.pi / 2, math.pi / 2], target=[-1.2, 0.5])
    assert family.observe(turned, family.start(turned))[0][17] == pytest.approx(1.0)


def test_a_rollout_of_an_arm_succeeds_where_it_stops_at_its_target() -> None:
    family = Reach()
    states = family.start(arm()).unsqueeze(1).repeat(1, 3, 1)
    assert family.judge(arm(), states)[0][0].tolist() == pytest.approx([10 * 0.15, 10 * 0.1], abs=1e-4)
    fast = states.clone()
    fast[:, -1, 2:] = torch.tensor([0.12, 0.09])
    assert family.judge(arm(), fast)[0][0, 1].item() == pytest.approx(10 * (0.1 - 0.15))
    margins, returned = family.judge(arm(target=[0.5, 0.9]), states)
    assert margins[0, 0].item() == pytest.approx(10 * (0.15 - 0.3))
    assert returned.item() == pytest.approx(-2 * 0.3**2)


def test_the_expert_masters_nearly_all_that_is_drawn_and_all_trials(family: Any) -> None:
    drawn = [family.starts(family.world("test", f"some/{task}"), f"some/{task}") for task in range(12)]
    shares = [demonstrated(family, world, 8).succeeded.double().mean().item() for world in drawn]
    assert sum(shares) / len(shares) > 0.95
    worlds = family.trials("test", SPEC, [0, 1])
    assert all(value.shape[:2] == (2, 16) for value in worlds.values())
    for task in range(2):
        world = {name: value[task].double() for name, value in worlds.items()}
        assert demonstrated(family, world, 8).succeeded.double().mean() >= 15 / 16  # in float32 they were drawn


def test_who_does_one_thing_all_the_time_never_succeeds(family: Any) -> None:
    worlds = {name: value.flatten(0, 1) for name, value in family.trials("test", SPEC, range(6)).items()}
    noise = torch.zeros(96, family.horizon, *family.space.shape)
    for scores in (torch.zeros(8), *(100 * torch.eye(8))):
        flown = roll(family, lambda seen, scores=scores: scores.expand(len(seen), 8), worlds, noise)  # type: ignore[misc]
        assert (flown.scores[:, 1:] >= 0).any(dim=1).all()
    assert Board("rollout", "inductive", family.name, "e", "test", 8, 5, 15, "linf", 0).constant == 0


def test_splits_share_no_goal_and_no_arm(family: Any) -> None:
    field, span = {"navigation": ("goal", (-0.4, 0.4)), "reach": ("links", (0.4, 0.7))}[family.name]
    low, high = span
    cells: dict[Split, set[tuple[int, ...]]] = {}
    for split in SPLITS:
        places = torch.stack([family.world(split, f"s/{task}")[field] for task in range(200)])
        cells[split] = {tuple(at) for at in ((places - low) / (high - low) * 10).long().tolist()}
    assert cells["train"] | cells["val"] | cells["test"] <= {(i, j) for i in range(10) for j in range(10)}
    assert not cells["train"] & cells["val"]
    assert not cells["train"] & cells["test"]
    assert not cells["val"] & cells["test"]


def test_more_rollouts_begin_with_the_fewer_and_do_not_depend_on_the_tasks_beside_them(family: Any) -> None:
    few, many = (family.trials("val", replace(SPEC, queries=queries), [3, 1]) for queries in (1, 12))
    alone = family.trials("val", replace(SPEC, queries=1), [1])
    assert all(few[name].equal(many[name][:, :8]) for name in few)
    assert all(few[name][1:].equal(alone[name]) for name in few)


def acting(family: Any, algorithm: str = "protonet", **fields: Any) -> Learner:
    """An untrained learner in float64."""
    made, network = catalog.algorithm(algorithm), MLP(width=6, depth=1)
    params = start_params(made, network, family.space, 8, torch.Generator().manual_seed(3))
    return Learner(made, network, {name: value.double() for name, value in params.items()}, family.space, 8, **fields)


def adapted(family: Any, learner: Learner, tasks: int = 2) -> tuple[Any, Params]:
    episodes = family.sample("test", SPEC, range(tasks)).to("cpu", torch.float64)
    worlds = {name: value.double() for name, value in family.trials("test", SPEC, range(tasks)).items()}
    return learner.adapt(episodes.support_x, episodes.support_y, steps=1), worlds


@pytest.mark.parametrize("backend", ["loop", "vmap", "flat"])
@pytest.mark.parametrize("algorithm", ["protonet", "r2d2", "anil"])
def test_the_replay_is_what_the_victim_saw(family: Any, algorithm: str, backend: Any) -> None:
    learner = acting(family, algorithm, backend=backend)
    fitted, worlds = adapted(family, learner)
    victim = rollout_victim(learner, fitted, family, worlds)
    noise = 0.1 * torch.rand(victim.x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    seen = victim.forward(noise, victim.points).view(2, 16, 3)
    flight = replay(learner, fitted, family, worlds, noise.view(2, 16, *noise_space(family).shape), ways=8)
    assert torch.allclose(flight.scores.view(2, 16, 3), seen, atol=1e-9)
    some = torch.tensor([20, 3])
    assert torch.allclose(victim.forward(noise[some], some), victim.forward(noise, victim.points)[some], atol=1e-9)
    assert victim.single
    assert not victim.y.any()


def test_the_gradient_of_a_rollout_equals_finite_differences(family: Any) -> None:
    learner = acting(family)
    fitted, worlds = adapted(family, learner, tasks=1)
    victim = rollout_victim(learner, fitted, family, worlds)
    rng = torch.Generator().manual_seed(5)
    noise = -0.02 * torch.rand(victim.x.shape, generator=rng, dtype=torch.float64)  # away from what saturates at 1
    noise.requires_grad_()
    fails = victim.forward(noise, victim.points).logsumexp(dim=2)[:, 0]
    (gradient,) = torch.autograd.grad(fails.sum(), noise)
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()
    direction, step = torch.randn(noise.shape, generator=rng, dtype=torch.float64), 1e-6
    with torch.no_grad():
        sides = (noise + sign * step * direction for sign in (1, -1))
        up, down = (victim.forward(side, victim.points).logsumexp(dim=2)[:, 0] for side in sides)
    along = (gradient * direction).flatten(1).sum(dim=1)
    # Where a step meets a kink (an edge, another obstacle) the two differ; that is seldom.
    close = torch.isclose((up - down) / (2 * step), along, rtol=1e-4, atol=1e-6)
    assert close.sum() >= len(close) - 1


def test_noise_that_the_box_cuts_off_keeps_its_gradient_and_what_is_observed_does_not() -> None:
    observed = torch.tensor([[0.5, 1.0, 1.0, -1.0]], requires_grad=True)
    noise = torch.tensor([[0.1, 0.1, -0.1, -0.1]], requires_grad=True)
    seen = rollouts._Seen.apply(observed, noise, Box((4,), -1.0, 1.0))
    torch.testing.assert_close(seen, torch.tensor([[0.6, 1.0, 0.9, -1.0]]))
    by_observed, by_noise = torch.autograd.grad((seen * torch.arange(1.0, 5.0)).sum(), [observed, noise])
    assert by_noise.tolist() == [[1, 2, 3, 4]]
    assert by_observed.tolist() == [[1, 0, 3, 0]]


def test_a_later_observation_does_not_reach_an_earlier_state(family: Any) -> None:
    learner = acting(family)
    fitted, worlds = adapted(family, learner, tasks=1)
    still = torch.zeros(1, 16, *noise_space(family).shape, dtype=torch.float64)
    late = still.clone()
    late[:, :, 10:] = 0.3
    clean, moved = (replay(learner, fitted, family, worlds, noise, ways=8).states for noise in (still, late))
    assert clean[:, :11].equal(moved[:, :11])
    assert not clean[:, 11:].equal(moved[:, 11:])


def test_observations_stay_in_the_box_however_loud_the_noise(family: Any) -> None:
    seen: list[Tensor] = []

    def policy(observed: Tensor) -> Tensor:
        seen.append(observed)
        return torch.zeros(len(observed), 8)

    worlds = {name: value[0] for name, value in family.trials("test", SPEC, [0]).items()}
    roll(family, policy, worlds, torch.full((16, family.horizon, *family.space.shape), 2.0))
    assert len(seen) == family.horizon
    assert all((part <= family.space.high).all() for part in seen)


def test_acting_is_attacked_in_rollouts_by_default_and_kept_with_its_returns(family: Any, tmp_path: Path) -> None:
    common: dict[str, Any] = {"learner": NearestMean(), "name": "means", "family": family, "ways": 8, "queries": 2}
    common["audit"] = False
    table = evaluate(**common, attacks=["noise-1", "pgd-5"], eps=[0.0, 0.05], tasks=3, out=tmp_path)
    assert set(table["surface"]) == {"rollout"}
    rows = {(row["attack"], row["eps"]): row for row in table.to_dict("records")}
    clean = rows["pgd-5", 0.0]["clean"]
    assert clean > 0.3
    assert all(rows[attack, 0.0]["robust"] == clean for attack in ("noise-1", "pgd-5"))
    assert rows["pgd-5", 0.05]["robust"] < rows["noise-1", 0.05]["robust"] - 0.1
    kept = store.read(tmp_path)
    assert kept.audits.empty
    tasks = kept.tasks.set_index("key")
    for _, cell in kept.cells.iterrows():
        mine = tasks.loc[[cell["key"]]]
        assert (mine["clean_return"] < 0).all()
        if cell["eps"] == 0:
            assert mine["clean_return"].equals(mine["attacked_return"])
    keys = kept.cells.set_index(["attack", "eps"])["key"]
    assert (
        tasks.loc[keys["pgd-5", 0.05], "attacked_return"].mean() < tasks.loc[keys["pgd-5", 0.0], "clean_return"].mean()
    )
    # The same command again measures nothing anew.
    before = {path: path.read_bytes() for path in (tmp_path / "cells").iterdir()}
    evaluate(**common, attacks=["noise-1", "pgd-5"], eps=[0.0, 0.05], tasks=3, out=tmp_path)
    assert before == {path: path.read_bytes() for path in (tmp_path / "cells").iterdir()}


@pytest.mark.parametrize("surface", ["query", "support"])
def test_single_actions_and_demonstrations_can_be_attacked_too(family: Any, surface: str) -> None:
    table = evaluate(
        learner=NearestMean(), family=family, ways=8, queries=2, surface=surface, attacks=["pgd-5"], eps=[0.1], tasks=2
    )
    (row,) = table.to_dict("records")
    assert row["surface"] == surface
    assert row["robust"] < row["clean"]


@pytest.mark.parametrize(
    ("name", "surface", "said"),
    [
        (
            "strokes",
            "rollout",
            "surface: 'rollout' needs learners that act, which strokes has not; legal: query, support",
        ),
        ("navigation", "words", "surface: 'words' is unknown"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused_in_one_line(name: str, surface: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        evaluate(learner=NearestMean(), family=name, ways=8, surface=surface, attacks=["pgd-5"], eps=[0.1], tasks=1)
    assert "\n" not in str(refusal.value)


def test_a_transductive_learner_cannot_act(tmp_path: Path) -> None:
    family = FAMILIES["navigation"]
    learner = acting(family, norm_mode="batch")
    subject = grid.Subject("t", "0" * 64, "protonet", "standard", learner, family, "navigation", 5, None)
    axes = grid.Grid(grid.named_attacks(["pgd-5"]), eps=(0.1,), queries=1)
    with pytest.raises(grid.NothingLeft, match="a policy meets one observation at a time"):
        grid.make_plan(axes, [subject], tmp_path)


def test_fewer_than_four_actions_make_no_task(family: Any) -> None:
    with pytest.raises(InputError, match=r"^ways=3: must be from 4 to 16, the actions of a task$"):
        family.trials("test", Spec(ways=3), [0])


CELL = Cell(
    *("c", "0" * 64, "protonet", "aq", "support", "navigation", "1" * 64, "test"),
    *(Spec(), None, "pgd-20", "PGD()", Threat("linf", 0.05, "rollout"), 0),
)


def test_a_record_without_returns_is_written_as_it_always_was(tmp_path: Path) -> None:
    plain = Record(0, (True, False), (True, False), 0.1, 3, 2)
    acted = replace(plain, task=1, clean_return=-1.5, attacked_return=-2.25)
    store.append(tmp_path, CELL, [plain, acted])
    assert store.stored(tmp_path, CELL) == [plain, acted]
    _, first, second = (tmp_path / "cells" / f"{store.key(CELL)}.jsonl").read_text().splitlines()
    assert first == '{"backwards":2,"clean":"10","distance":0.1,"forwards":3,"survived":"10","task":0}'
    assert '"attacked_return":-2.25' in second
    broken = (tmp_path / "cells" / f"{store.key(CELL)}.jsonl").read_text().replace("-2.25", '"x"')
    (tmp_path / "cells" / f"{store.key(CELL)}.jsonl").write_text(broken)
    with pytest.raises(InputError, match="a return is not a number"):
        store.stored(tmp_path, CELL)


def pictures(**changed: np.ndarray) -> dict[str, Any]:
    """Two rollouts from left to right, of which the attack stops the second."""
    clean = np.stack([np.stack([np.linspace(-0.5, 0.5, 5), np.full(5, y)], axis=1) for y in (0.1, -0.1)])
    attacked = clean.copy()
    attacked[1, 2:, 0] = 0.0
    return {
        "clean": clean,
        "adversarial": attacked,
        "labels": np.array([0, 0]),
        "clean_predictions": np.array([0, 0]),
        "adversarial_predictions": np.array([0, 1]),
        "goal": np.array([[0.5, 0.0, 0.2]] * 2),
        "obstacles": np.array([[[0.0, 0.5, 0.1]]] * 2),
        "bodies": np.zeros((2, 2, 0, 2)),
    } | changed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"bodies": np.zeros((2, 2, 3, 2))}, ""),
        ({"clean": np.zeros((2, 5, 3)), "adversarial": np.zeros((2, 5, 3))}, "its inputs have shapes"),
        ({"goal": np.zeros((2, 2))}, "its inputs have shapes"),
        ({"bodies": np.zeros((2, 1, 3, 2))}, "its inputs have shapes"),
        ({"obstacles": np.zeros((1, 1, 3))}, "obstacles is not what it must be"),
        ({"goal": np.full((2, 3), np.nan)}, "goal is not what it must be"),
    ],
)
def test_a_gallery_file_of_rollouts_is_what_it_must_be(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    store.append(tmp_path, CELL, [])
    store.save_gallery(tmp_path, CELL, pictures(**changed))
    if not said:
        (found,) = store.read_gallery(tmp_path)
        assert all(np.array_equal(found[name], value) for name, value in pictures(**changed).items())
        return
    with pytest.raises(InputError, match=said):
        store.read_gallery(tmp_path)


def test_a_map_tells_what_withstood_and_frames_all_that_it_shows() -> None:
    far = pictures(adversarial=2 * pictures()["adversarial"] + np.array([1.0, 0.0]))
    items = [
        {"title": "a", "attack": "pgd-20", "eps": 0.1, **pictures()},
        {"title": "b", "attack": "x", "eps": 0.2, **far},
    ]
    maps = trajectories.maps([*items, {"title": "image", "attack": "pgd", "eps": 1.0, "labels": np.zeros(1)}])
    assert [one.title for one in maps] == ["b", "a"]
    assert [(one.succeeded, one.withstood) for one in maps[1].courses] == [(True, True), (True, False)]
    assert [one.verdict for one in maps[1].courses] == ["✓ clean, ✓ attacked", "✓ clean, ✗ attacked"]
    assert maps[1].edge == trajectories.EDGE
    assert maps[0].edge == pytest.approx(1.05 * 2.0)
    assert maps[1].courses[0].paths[0].startswith("M-0.500 -0.100L-0.250 -0.100L")
    assert maps[1].courses[0].paths[2] == ""
    first = trajectories.draw(maps).subfigs[0]
    named = {line.get_label(): line.get_linestyle() for line in first.legends[0].get_lines()}
    told = [text.get_text() for text in first.legends[0].get_texts()]
    assert (told, [*named.values()]) == (["clean", "attacked"], ["-", "--"])


def test_a_report_draws_rollouts_and_says_what_they_earned(tmp_path: Path) -> None:
    made = results()
    keys = made.cells["key"].tolist()
    tasks = made.tasks.assign(clean_return=np.nan, attacked_return=np.nan)
    here = tasks["key"] == keys[0]
    tasks.loc[here, "clean_return"], tasks.loc[here, "attacked_return"] = -1.0, -4.0
    item = {"title": "p-aq, pgd-20", "attack": "pgd-20", "eps": 0.05, **pictures()}
    report.write(replace(made, tasks=tasks), [item], tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "## Success and return" in text
    assert "| -1.0 ± 0.0 | -4.0 ± 0.0 |" in text
    assert (tmp_path / "figures" / "rollouts.svg").is_file()
    html = (tmp_path / "leaderboard.html").read_text()
    page = Page(html)
    assert html.count('class="course"') == 2
    assert "✓ clean, ✗ attacked" in html
    assert "#rollouts" in html
    assert page.tags.count("audio") == 0


def test_a_report_without_rollouts_does_not_speak_of_them(tmp_path: Path) -> None:
    report.write(results(), [], tmp_path)
    assert "Success and return" not in (tmp_path / "leaderboard.md").read_text()
    assert 'id="rollouts"' not in (tmp_path / "leaderboard.html").read_text()


def test_both_families_are_simulators_and_no_other_is() -> None:
    acts = {name for name in catalog.names("tasks") if isinstance(catalog.shelf("tasks").presets[name], Simulator)}
    assert acts == set(FAMILIES)


def test_a_board_of_rollouts_names_its_success_rate(rbm: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    common: dict[str, Any] = {"learner": NearestMean(), "name": "means", "family": "navigation", "ways": 8}
    evaluate(**common, queries=1, audit=False, attacks=["pgd-5"], eps=[0.05], tasks=3, out=tmp_path / "r")
    code, _, _ = rbm("report", tmp_path / "r", "--out", tmp_path / "page")
    assert code == 0
    text = (tmp_path / "page" / "leaderboard.md").read_text()
    assert "## Attacked rollouts" in text
    assert "success of rollouts" in text
    assert "Success rates of rollouts, of which a constant predictor has 0" in text
    assert "## Success and return" in text
