"""Environments of others: the same from the same seed, observed through noise, attacked step by step, replayed."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scripts import load
from torch import Tensor

from robustbench_meta import catalog, environments, evaluate, store, verify
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.engine import ObjectLearner, policy_victim
from robustbench_meta.environments import Environment, Pool, Stage, play, recorded
from robustbench_meta.grid import NothingLeft
from robustbench_meta.tasks import gym
from robustbench_meta.tasks.gym import Gym
from robustbench_meta.tasks.reacher import Reacher
from robustbench_meta.train import train
from robustbench_meta.types import (
    SPLITS,
    Box,
    Episodes,
    InputError,
    Norm,
    Params,
    Scene,
    Simulator,
    Spec,
    Split,
    Streams,
    Surface,
    Threat,
    Victim,
)

SPEC = Spec(ways=8, shots=5, queries=1)
reacher_states: Any = load("reacher_states")


class Walk:
    """A place on a line, which begins at 0 and moves by 0.1 up or down; it is paid where it is, and ends at -0.3."""

    def __init__(self, drift: Iterator[float] | None = None) -> None:
        self.drift = drift

    def step(self, action: float) -> tuple[list[float], float, bool, bool, dict[str, Any]]:
        self.at += action + (next(self.drift) if self.drift else 0.0)
        return [self.at], self.at, self.at < -0.25, False, {}

    def reset(self, *, seed: int) -> tuple[list[float], dict[str, Any]]:
        self.at = 0.0
        return [self.at], {}


def rising(spec: Spec, tasks: int, *, width: int) -> Episodes:
    """Return tasks of two classes, whose inputs are numbers that rise: of the support from 0, of queries from 0.5."""

    def part(count: int, first: float) -> tuple[Tensor, Tensor]:
        x = torch.linspace(first, first + 0.1, 2 * count * width).view(1, -1, width).expand(tasks, -1, -1)
        return x, torch.arange(2).repeat_interleave(count).expand(tasks, -1)

    return Episodes(*part(spec.shots, 0.0), *part(spec.queries, 0.5))


@dataclass(frozen=True)
class Line:
    """Two actions, up and down; a rollout of three steps succeeds above 0.25."""

    name: str = "line"
    drift: Iterator[float] | None = None
    horizon: int = 3
    space: ClassVar[Box] = Box((1,), -1.0, 1.0)
    default_network: ClassVar[str] = "mlp"
    default_network_options: ClassVar[Mapping[str, Any]] = {}

    def classes(self, split: Split) -> list[str]:
        return [f"{split}-up", f"{split}-down"]

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        return rising(spec, len(indices), width=1)

    def trials(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Params:
        return {"seed": torch.zeros(len(indices), spec.ways * spec.queries)}

    @contextmanager
    def enter(self, world: Params, ways: int, pool: Pool) -> Iterator[Stage]:
        walks = [Walk(self.drift) for _ in world["seed"]]
        yield Stage(walks, [[0.1, -0.1]] * len(walks), [environments.numbers(one.reset(seed=0)[0]) for one in walks])

    def observe(self, states: Tensor) -> Tensor:
        return environments.rounded(states, self.space)

    def judge(self, world: Params, states: Tensor, returns: Tensor) -> Tensor:
        return states[:, -1] - 0.25

    def scene(self, world: Params, states: Tensor) -> Scene | None:
        return None


class Climber:
    """A policy that goes up where it sees itself above -0.05, else down."""

    def adapt(self, x: Tensor, y: Tensor) -> None:
        return None

    def predict(self, fitted: None, x: Tensor) -> Tensor:
        return 10 * torch.cat([x + 0.05, -x - 0.05], dim=1)


@dataclass(frozen=True)
class Push:
    """Takes `by` from all that is observed, in the step number `late` and later twice as much."""

    by: float
    late: int = 100
    steps: list[int] = field(default_factory=list, compare=False, repr=False)
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        self.steps.append(1)
        return victim.x - self.by * (2 if len(self.steps) > self.late else 1)


COMMON: dict[str, Any] = {
    "learner": Climber(),
    "name": "climber",
    "family": Line(),
    "ways": 2,
    "queries": 2,
    "tasks": 1,
}


def climbed(adversary: environments.Adversary) -> environments.Played:
    def policy(seen: Tensor) -> Tensor:
        return Climber().predict(None, seen)

    return play(Line(), {"seed": torch.zeros(2)}, policy, adversary, ways=2)


def test_a_policy_does_the_action_of_its_highest_score_at_every_step() -> None:
    found = climbed(torch.zeros_like)
    assert found.actions.tolist() == [[0, 0, 0]] * 2
    assert found.flight.states[0, :, 0].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert found.flight.returns.tolist() == pytest.approx([0.6, 0.6])
    assert found.flight.scores.tolist() == [[0.0, pytest.approx(-0.05)]] * 2


def test_a_rollout_that_has_ended_is_left_alone() -> None:
    seen: list[Tensor] = []

    def adversary(observed: Tensor) -> Tensor:
        seen.append(observed)
        return torch.tensor([[-0.5], [0.0]])

    longer = replace(Line(), horizon=5)
    found = play(longer, {"seed": torch.zeros(2)}, lambda x: Climber().predict(None, x), adversary, ways=2)
    assert found.actions.tolist() == [[1, 1, 1, -1, -1], [0] * 5]
    assert found.noise[:, :, 0].tolist() == [[-0.5, -0.5, -0.5, 0.0, 0.0], [0.0] * 5]
    assert found.flight.states[0, :, 0].tolist() == pytest.approx([0.0, -0.1, -0.2, -0.3, -0.3, -0.3])
    assert found.flight.returns[0].item() == pytest.approx(-0.6)
    # An adversary sees what is observed now, and not what comes.
    assert [one[1, 0].item() for one in seen] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=1e-6)


def test_what_is_observed_stays_in_the_box_and_in_whole_steps() -> None:
    seen: list[Tensor] = []

    def policy(observed: Tensor) -> Tensor:
        seen.append(observed)
        return Climber().predict(None, observed)

    play(Line(), {"seed": torch.zeros(2)}, policy, lambda observed: torch.full_like(observed, 3.0), ways=2)
    assert all((one == 1).all() for one in seen)
    shown = Line().observe(torch.tensor([[0.3 + 1e-9], [0.3], [7.0]], dtype=torch.float64))
    assert shown[0] == shown[1]
    assert shown[2] == 1


def test_recorded_noise_is_added_to_what_is_observed_there() -> None:
    found = climbed(lambda observed: torch.full_like(observed, -0.06))
    assert found.actions[0].tolist() == [1, 1, 1]
    again = climbed(recorded(found.noise))
    assert again.flight.states.equal(found.flight.states)
    # Under other noise the same steps lead elsewhere.
    assert not climbed(recorded(0.5 * found.noise)).flight.states.equal(found.flight.states)


@pytest.mark.parametrize(("eps", "left"), [(0.0, 1.0), (0.04, 1.0), (0.06, 0.0)])
def test_a_climber_withstands_what_does_not_reach_its_threshold(eps: float, left: float, tmp_path: Path) -> None:
    table = evaluate(**COMMON, attacks=["fgsm", "pgd-3"], eps=[eps], out=tmp_path)
    assert set(table["surface"]) == {"rollout"}
    assert table["clean"].tolist() == [1.0, 1.0]
    assert table["robust"].tolist() == [left, left]
    for row in store.read(tmp_path).tasks.to_dict("records"):
        assert row["clean_return"] == pytest.approx(0.6)
        # Down, where it would climb; up from -0.1, where it would go on down; and down again.
        assert row["attacked_return"] == pytest.approx(0.6 if left else -0.2)
        assert row["distance"] <= eps + 1e-6
        assert (row["backwards"] > 0) == (eps > 0)


def test_an_attack_is_at_least_as_harmful_as_noise() -> None:
    table = evaluate(**COMMON, attacks=["noise-1", "fgsm", "pgd-3"], eps=[0.06])
    robust = dict(zip(table["attack"], table["robust"], strict=True))
    assert robust["pgd-3"] == robust["fgsm"] == 0 < robust["noise-1"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (Push(0.03), ""),
        (Push(0.06), "left its budget or the box"),
        (Push(0.03, late=2), "left its budget or the box: linf distance 0.06, eps 0.05"),
    ],
)
def test_the_budget_is_checked_at_every_step(attack: Push, said: str, tmp_path: Path) -> None:
    evaluate(**COMMON, attacks={"push": attack}, eps=[0.05], out=tmp_path)
    (row,) = store.read(tmp_path).cells.to_dict("records")
    assert (row["status"] == "error") == bool(said)
    assert said in str(row["reason"])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_environment_that_its_seed_does_not_fix_gives_no_number(tmp_path: Path) -> None:
    drifting = Line(drift=iter(np.linspace(0.0, 0.01, 10_000).tolist()))
    evaluate(**COMMON | {"family": drifting}, attacks=["fgsm"], eps=[0.02], out=tmp_path)
    (row,) = store.read(tmp_path).cells.to_dict("records")
    assert row["status"] == "error"
    assert "a replay is not what the adversary met" in row["reason"]


def test_in_other_norms_steps_are_no_rollout_and_are_refused_in_one_line() -> None:
    with pytest.raises(NothingLeft, match="each step of line has a budget of its own") as refusal:
        evaluate(**COMMON, attacks=["pgd-3"], norm="l2", eps=[0.05])
    assert str(refusal.value).count("each step of") == 1


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("apgd-dlr", "needs scores of 3 classes or more, and here it meets 2"),
        ("square", "take images"),
        ("autoattack", "take images"),
        ("pgd-2+square", "take images"),
    ],
)
def test_what_cannot_attack_a_step_is_refused_at_planning(attack: str, said: str) -> None:
    with pytest.raises(NothingLeft, match=f"{re.escape(attack)} on .*{said}"):
        evaluate(**COMMON, attacks=[attack], eps=[0.05])


def test_a_policy_is_led_to_the_action_that_it_likes_least() -> None:
    class Table:
        def adapt(self, x: Tensor, y: Tensor) -> None:
            return None

        def predict(self, fitted: None, x: Tensor) -> Tensor:
            return torch.cat([x, 2 * x, -x], dim=1)

    learner = ObjectLearner(Table(), Box((1,), -1.0, 1.0), ways=3)
    x = torch.tensor([[[0.5], [-0.25]]])
    victim = policy_victim(learner, [None], x, learner.predict([None], x))
    assert not victim.y.any()
    outputs = victim.forward(victim.x, victim.points)
    rows = [[math.log(math.exp(0.5) + math.exp(1.0)), -0.5], [math.log(math.exp(-0.25) + math.exp(0.25)), -0.5]]
    assert outputs[:, 0].tolist() == [pytest.approx(row) for row in rows]
    # The action is what was least liked before the attack, whatever is now.
    other = victim.forward(-victim.x, victim.points)[:, 0, 1]
    assert other.tolist() == pytest.approx([0.5, 0.5])


def test_a_line_is_an_environment_and_no_simulator() -> None:
    assert isinstance(Line(), Environment)
    assert not isinstance(Line(), Simulator)
    assert isinstance(Reacher(), Environment)
    assert not isinstance(Reacher(), Simulator)
    assert not environments.acts(catalog.family("strokes"))


# Reacher


def one(**values: Any) -> Params:
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}


def shown(first: float, second: float, target: tuple[float, float], speeds: tuple[float, float] = (0, 0)) -> Tensor:
    """Return what Reacher-v5 shows of an arm at these angles: [1,10]."""
    tip = np.array([0.1 * math.cos(first) + 0.11 * math.cos(first + second)] * 2)
    tip[1] = 0.1 * math.sin(first) + 0.11 * math.sin(first + second)
    angles = [math.cos(first), math.cos(second), math.sin(first), math.sin(second)]
    return torch.tensor([[*angles, *target, *speeds, *(tip - np.array(target))]], dtype=torch.float64)


def test_the_expert_asks_for_the_torque_that_a_task_turned() -> None:
    state = shown(0.0, 1.0, (0.1, 0.11), (0.0, 0.0))  # there both angles are 0 and pi / 2: the elbow is to turn left
    assert Reacher().expert(one(turn=0.0, strength=0.2), state, 9).tolist() == [3]  # 0: none, 1: first motor, 3: second
    assert Reacher().expert(one(turn=math.pi / 2, strength=0.2), state, 9).tolist() == [1]
    still = shown(0.0, math.pi / 2, (0.1, 0.11))
    assert Reacher().expert(one(turn=0.0, strength=0.2), still, 9).tolist() == [0]
    fast = shown(0.0, math.pi / 2, (0.1, 0.11), (1.0, 0.0))
    assert Reacher().expert(one(turn=0.0, strength=0.2), fast, 9).tolist() == [5]  # against the first motor


def test_an_arm_succeeds_that_stays_at_its_target_in_its_last_steps() -> None:
    family = Reacher()
    there, near, away = (shown(0.0, 0.0, target) for target in ((0.21, 0.0), (0.18, 0.0), (0.16, 0.0)))
    flown = torch.stack([there, *[near] * 5], dim=1)
    assert family.judge({}, flown, torch.zeros(1)).tolist() == [[pytest.approx(1.0)]]
    through = torch.stack([there, away, near, near, near, near], dim=1)
    assert family.judge({}, through, torch.zeros(1)).tolist() == [[pytest.approx(-1.0)]]
    early = torch.stack([away, near, near, near, near, near], dim=1)
    assert family.judge({}, early, torch.zeros(1)).tolist() == [[pytest.approx(1.0)]]


def test_the_way_of_a_fingertip_is_drawn_with_its_target_and_its_arm() -> None:
    flown = torch.stack([shown(0.0, 0.0, (0.1, 0.0)), shown(math.pi / 2, -math.pi / 2, (0.1, 0.0))], dim=1)
    scene = Reacher().scene({}, flown)
    assert scene.path[0].tolist() == [[pytest.approx(1.05), 0.0], pytest.approx([0.55, 0.5])]
    assert scene.goal.tolist() == [pytest.approx([0.5, 0.0, 0.2])]
    assert scene.body[0].flatten().tolist() == pytest.approx([0.0, 0.0, 0.0, 0.5, 0.55, 0.5], abs=1e-6)


def test_what_reacher_shows_is_observed_over_its_range() -> None:
    state = shown(0.0, math.pi / 2, (0.1, -0.05), (4.0, -16.0))
    expected = [1.0, 0.0, 0.0, 1.0, 0.5, -0.25, 0.5, -1.0, 0.0, 0.4]
    assert Reacher().observe(state)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_splits_share_no_motors() -> None:
    cells: dict[str, set[tuple[int, int]]] = {}
    for split in SPLITS:
        worlds = [Reacher().world(split, f"s/{task}") for task in range(200)]
        places = [(one["turn"] / (2 * math.pi), (one["strength"] - 0.14) / 0.06) for one in worlds]
        cells[split] = {(int(10 * turn), int(10 * strength)) for turn, strength in places}
    assert not (cells["train"] & cells["val"]) | (cells["train"] & cells["test"]) | (cells["val"] & cells["test"])


def test_more_rollouts_of_reacher_begin_with_the_fewer() -> None:
    few, many = (Reacher().trials("val", replace(SPEC, queries=queries), [3, 1]) for queries in (1, 4))
    assert all(few[name].equal(many[name][:, :8]) for name in few)
    assert (many["seed"] == many["seed"].double().round()).all()
    assert len(set(many["seed"].flatten().tolist())) == 64


def test_reacher_is_the_same_from_the_same_seed_in_used_and_in_fresh_environments() -> None:
    family = Reacher()
    world = {name: value[0] for name, value in family.trials("test", SPEC, [0]).items()}

    def turns(observed: Tensor) -> Tensor:
        return torch.stack([observed[:, 0] * k for k in range(8)], dim=1)

    used = [play(family, world, turns, torch.zeros_like, ways=8) for _ in range(2)]
    with closing(Pool()) as own:
        fresh = play(family, world, turns, torch.zeros_like, ways=8, pool=own)
    for other in (used[1], fresh):
        assert other.flight.states.equal(used[0].flight.states)
        assert other.flight.returns.equal(used[0].flight.returns)
    assert used[0].flight.states.shape == (8, 51, 10)
    assert (used[0].flight.states[:, 0] - used[0].flight.states[:, -1]).abs().amax() > 0.1


def test_the_expert_of_reacher_masters_its_trials_and_one_who_does_one_thing_does_not() -> None:
    family, successes = Reacher(), []
    for task in range(2):
        world = {name: value[0].double() for name, value in family.trials("test", SPEC, [task]).items()}
        with family.enter(world, 8, environments.SHARED) as stage:
            states = [stage.states]
            for _ in range(family.horizon):
                stage.step(family.expert(world, stage.states, 8))
                states.append(stage.states)
        successes.append(family.judge(world, torch.stack(states, dim=1), stage.returns) > 0)
        assert (stage.returns < 0).all()
        for action in range(8):
            scores = torch.eye(8)[action].expand(8, 8)
            idle = play(family, world, lambda seen, scores=scores: scores, torch.zeros_like, ways=8)  # type: ignore[misc]
            assert (idle.flight.scores[:, 1] >= 0).float().mean() > 0.8
    assert torch.cat(successes).all()


def test_what_is_recorded_of_reacher_can_be_recorded_again() -> None:
    found = reacher_states.record("test", 1)
    kept = np.load(reacher_states.FILE)["test"][: len(found)]
    assert len(found) > 100
    # Another machine's physics may differ in its last bits, and by a step of 2**-15 after rounding.
    assert np.abs(found.astype(int) - kept).max() <= 2


def test_reacher_is_attacked_step_by_step_and_drawn(tmp_path: Path) -> None:
    common: dict[str, Any] = {"queries": 1, "tasks": 1, "audit": False, "out": tmp_path}
    table = evaluate("zoo:reacher-protonet-standard", attacks=["noise-1", "fgsm"], eps=[0.1], **common)
    robust = dict(zip(table["attack"], table["robust"], strict=True))
    assert table["clean"].min() > 0.4
    assert robust["fgsm"] <= robust["noise-1"] - 0.3
    (item,) = store.read_gallery(tmp_path)
    assert item["clean"].shape == item["adversarial"].shape == (6, 51, 2)
    assert np.abs(item["clean"] - item["adversarial"]).max() > 0.1
    assert item["bodies"].shape == (6, 2, 3, 2)
    before = {path: path.read_bytes() for path in (tmp_path / "cells").iterdir()}
    again = tmp_path / "again"
    evaluate("zoo:reacher-protonet-standard", attacks=["noise-1", "fgsm"], eps=[0.1], **common | {"out": again})
    assert before == {tmp_path / "cells" / path.name: path.read_bytes() for path in (again / "cells").iterdir()}


def test_without_the_extra_reacher_has_episodes_and_its_rollouts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "find_spec", lambda name: None)
    family = Reacher()
    assert family.sample("test", SPEC, [0]).support_x.shape == (1, 40, 10)
    world = {name: value[0] for name, value in family.trials("test", SPEC, [0]).items()}
    with (
        pytest.raises(InputError, match=r"pip install 'robustbench_meta\[control\]'") as refusal,
        closing(Pool()) as own,
    ):
        play(family, world, lambda seen: seen[:, :8], torch.zeros_like, ways=8, pool=own)
    assert "\n" not in str(refusal.value)


# any environment by its name


def balance(observed: np.ndarray) -> int:
    """Push the cart to where the pole falls."""
    return int(observed @ np.array([0.05, 0.2, 3.0, 0.8]) > 0)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not importlib.util.find_spec("gymnasium"):
        pytest.skip("needs the extra control")
    root = tmp_path_factory.mktemp("demonstrations")
    gym.record("CartPole-v1", balance, root, episodes=3)
    return root


class Balancer:
    """A policy that reads from its support which action pushes to the right."""

    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        lean = x @ torch.tensor([0.05, 0.2, 0.3, 0.8])
        return lean[y == 1].mean() - lean[y == 0].mean()

    def predict(self, fitted: Tensor, x: Tensor) -> Tensor:
        right = fitted.sign() * (x @ torch.tensor([0.04, 0.16, 0.3, 0.9]))
        return torch.stack([-right, right], dim=1)


def test_any_environment_is_a_family_by_its_name(cartpole: Path, tmp_path: Path) -> None:
    family = catalog.family("gym:CartPole-v1", root=cartpole, steps=40, threshold=40.0)
    assert family.name == "gym:CartPole-v1"  # type: ignore[attr-defined]
    assert family.space.shape == (4,)
    common: dict[str, Any] = {"learner": Balancer(), "family": family, "ways": 2, "queries": 2, "tasks": 2}
    table = evaluate(**common, attacks=["noise-1", "fgsm"], eps=[0.05, 1.0], out=tmp_path)
    robust = {(row["attack"], row["eps"]): row["robust"] for row in table.to_dict("records")}
    assert table["clean"].min() > 0.9
    assert robust["noise-1", 0.05] == table["clean"].min()
    assert robust["fgsm", 1.0] == 0
    assert not list((tmp_path / "gallery").iterdir())  # there is nothing to draw
    assert set(store.read(tmp_path).cells["family"]) == {"gym:CartPole-v1"}


def test_tasks_number_the_actions_anew_and_worlds_tell_how(cartpole: Path) -> None:
    family, spec = Gym(root=cartpole), Spec(ways=2, shots=3, queries=1)
    episodes, worlds = family.sample("train", spec, range(12)), family.trials("train", spec, range(12))
    assert worlds["order"].shape == (12, 2, 2)
    orders = worlds["order"][:, 0, 0].tolist()
    assert set(orders) == {0.0, 1.0}
    lean = episodes.support_x @ torch.tensor([0.05, 0.2, 0.3, 0.8])
    pushes = lean.view(12, 2, 3).mean(dim=2).argmax(dim=1)  # which of the task's actions the expert does leaning right
    assert pushes.tolist() == [1 - int(order) for order in orders]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"environment": "no.module:Thing-v0"}, "must be gym:NAME"),
        ({"environment": "Acrobot-v1"}, "Acrobot-v1.npz is missing; robustbench_meta.tasks.gym.record writes it"),
        ({"steps": 501}, "steps = 501 of gym:CartPole-v1: must be from 1 to 500"),
    ],
)
def test_what_is_no_environment_is_refused_in_one_line(cartpole: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        print(Gym(**{"root": cartpole} | changed).horizon, Gym(**{"root": cartpole} | changed).space)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"actions": None}, "lacks actions"),
        ({"actions": np.zeros(3, dtype=int)}, r"actions must be whole numbers \[n\]"),
        ({"actions": np.zeros(20, dtype=int)}, "actions must be from 0 to 0, of 2 at least"),
        ({"observations": np.full((20, 4), np.nan)}, "observations must be finite"),
        ({"observations": np.array(["x"] * 20)}, "no numbers"),
        ({"low": np.ones(4)}, "low below high"),
        ({"commands": np.zeros((1, 2))}, "actions must be from 0 to 0"),
    ],
)
def test_a_file_of_demonstrations_is_what_it_must_be(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    parts = {"observations": np.zeros((20, 4)), "actions": np.arange(20) % 2, "low": -np.ones(4), "high": np.ones(4)}
    (tmp_path / "gym").mkdir()
    kept = {name: value for name, value in (parts | changed).items() if value is not None}
    np.savez(tmp_path / "gym" / "CartPole-v1.npz", **kept)
    with pytest.raises(InputError, match=said) as refusal:
        Gym(root=tmp_path).classes("test")
    assert "\n" not in str(refusal.value)
    (tmp_path / "gym" / "CartPole-v1.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"is not a readable \.npz file"):
        gym._read.__wrapped__(tmp_path / "gym" / "CartPole-v1.npz")


def test_demonstrations_of_another_environment_are_refused(cartpole: Path) -> None:
    (cartpole / "gym" / "MountainCar-v0.npz").write_bytes((cartpole / "gym" / "CartPole-v1.npz").read_bytes())
    other, spec = Gym("MountainCar-v0", root=cartpole), Spec(ways=2, shots=1, queries=1)
    world = {name: value[0] for name, value in other.trials("test", spec, [0]).items()}
    with pytest.raises(InputError, match="holds observations of 4 and 2 actions; it has observations of 2"):
        play(other, world, lambda seen: seen[:, :2], torch.zeros_like, ways=2)
    with pytest.raises(InputError, match="ways=5: must be 2, the actions of gym:MountainCar-v0"):
        other.sample("test", Spec(), [0])


def test_commands_make_actions_of_numbers(tmp_path: Path) -> None:
    commands = [[0.5], [-0.5], [0.0]]
    with pytest.raises(InputError, match="commands: the actions of InvertedPendulum-v5 are Box"):
        gym.record("InvertedPendulum-v5", lambda seen: 0, tmp_path, episodes=1)
    gym.record("InvertedPendulum-v5", lambda seen: int(seen[1] > 0), tmp_path, episodes=20, commands=commands)
    family = Gym("InvertedPendulum-v5", steps=3, threshold=3.0, root=tmp_path)
    world = {"seed": torch.zeros(2), "order": torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 2.0]])}
    found = play(family, world, lambda seen: torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3), torch.zeros_like, ways=3)
    first, second = found.flight.states[:, 1, 0]
    assert first > 0 > second  # the same action of two tasks pushes either way


@pytest.mark.parametrize(
    ("environment", "answer", "said"),
    [
        ("CartPole-v1", 2, "expert: gave 2; the actions of CartPole-v1 are the whole numbers 0 to 1"),
        ("CartPole-v1", "left", "expert: gave 'left'; the actions"),
        ("CartPole-v1", 0.5, "expert: gave 0.5; the actions"),
        ("CartPole-v1", None, "expert: gave None; the actions"),
        ("FrozenLake-v1", 0, r"FrozenLake-v1 shows Discrete\(16\); only numbers"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_nothing_is_written(
    cartpole: Path, tmp_path: Path, environment: str, answer: Any, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        gym.record(environment, lambda seen: answer, tmp_path, episodes=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [bool, np.bool_, float, np.float32, np.int64])
def test_what_equals_the_number_of_an_action_is_one(cartpole: Path, tmp_path: Path, kind: Any) -> None:
    path = gym.record("CartPole-v1", lambda seen: kind(balance(seen)), tmp_path, episodes=3)
    with np.load(path) as told, np.load(cartpole / "gym" / "CartPole-v1.npz") as known:
        assert np.array_equal(told["actions"], known["actions"])


def test_a_checkpoint_of_an_environment_finds_its_demonstrations_under_the_root_that_is_given(
    cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RBM_DATA", raising=False)
    recipe = Recipe(
        **{"family": "gym:CartPole-v1", "algorithm": "protonet", "network": "mlp", "network_options": {"width": 8}},
        **{"steps": 1, "meta_batch": 1, "ways": 2, "shots": 2, "queries": 2, "validate_tasks": 2, "eps": 0.05},
    )
    train(recipe, tmp_path / "cart", root=cartpole)
    table = evaluate(tmp_path / "cart", attacks="fgsm", eps=[0.1], queries=1, tasks=1, data_root=cartpole)
    assert len(table) == 1
    assert verify.verify_card(tmp_path / "cart", root=cartpole).findings[0].status == "holds"
    with pytest.raises(InputError, match="no data root"):
        evaluate(tmp_path / "cart", attacks="fgsm", eps=[0.1], queries=1, tasks=1)
