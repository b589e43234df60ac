"""APGD: its losses and its schedule by hand, its iterates beside those of the authors' code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from robustbench_meta import losses, threats
from robustbench_meta.attacks.apgd import APGD, PRESETS, Loss, checkpoints, phases
from robustbench_meta.linear import DUAL, linear
from robustbench_meta.types import NORMS, Box, Cost, InputError, Norm, Streams, Threat, Victim

BOX = Box((2, 6, 6))
# Powers of two, because the reference keeps step sizes in float32 even where the model computes in float64.
EPS: dict[Norm, float] = {"linf": 1 / 32, "l2": 0.25, "l1": 1.0}
THEIR_NORMS: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}
LOSSES = {
    "ce": APGD(l1_restarts=1),
    "dlr": APGD(loss="dlr", l1_restarts=1),
    "dlr-targeted": APGD(loss="targeted-dlr", targets=1, l1_targets=1, l1_restarts=1),
}


@dataclass
class Watched:
    """A victim, and the (points, x) that it was asked to score, call by call."""

    victim: Victim
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def watched(score: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, box: Box) -> Watched:
    """Watch a victim of one task whose points x [P,M,*X] are scored by `score`, in float64."""
    calls: list[tuple[Tensor, Tensor]] = []

    def forward(x: Tensor, points: Tensor) -> Tensor:
        calls.append((points, x.detach().clone()))
        return score(x)

    cost = Cost(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    return Watched(Victim(forward, x, y, box, 1, cost), calls)


class Net(torch.nn.Module):
    """A small convolutional net with smooth units, so that no entry of its gradient is exactly 0."""

    def __init__(self, ways: int = 5):
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.kernel = torch.randn(4, 2, 3, 3, generator=rng)
        self.head = torch.randn(64, ways, generator=rng) / 8
        self.calls: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(x.detach().clone())
        return F.softplus(F.conv2d(x, self.kernel)).flatten(1) @ self.head


def convolutional(queries: int = 10) -> tuple[Watched, Net]:
    net, rng = Net(), torch.Generator().manual_seed(2)
    # Some entries lie on the faces of the box.
    x = (torch.rand(queries, 1, *BOX.shape, generator=rng) * 1.2 - 0.1).clamp(0, 1)
    y = net(x.squeeze(1)).argmax(-1, keepdim=True)
    return watched(lambda x: net(x.squeeze(1)).unsqueeze(1), x, y, BOX), net


@pytest.fixture
def float64() -> Iterator[None]:
    """The reference makes its tensors in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def reference(loss: str, norm: Norm, subject: Watched, net: Net, start: Tensor) -> list[Tensor]:
    """Let the authors' code climb from `start` [P,*X] and return its iterates."""
    x, y = subject.victim.x.squeeze(1), subject.victim.y.squeeze(1)
    common: dict[str, Any] = {"norm": THEIR_NORMS[norm], "eps": EPS[norm], "device": "cpu"}
    if loss == "dlr-targeted":
        attack = APGDAttack_targeted(net, logger=logging.getLogger(__name__), **common)
        attack.y_target = net(x).argsort(dim=1)[:, -2]
    else:
        attack = APGDAttack(net, loss=loss, logger=logging.getLogger(__name__), **common)
    attack.init_hyperparam(x)
    net.calls.clear()
    attack.attack_single_run(x, y, x_init=start)
    return net.calls


def climbed(loss: str, norm: Norm) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """Climb with ours, then with the reference from the same start: (points, x) and x per iterate."""
    subject, net = convolutional()
    # Given a start, theirs takes it for one that comes from a larger ball, as here the second hundred does.
    ours = replace(LOSSES[loss], steps=200, l1_radii=(1.0, 1.0)) if norm == "l1" else LOSSES[loss]
    ours(subject.victim, Threat(norm, EPS[norm]), Streams([3]))
    iterates = subject.calls[
        2 if loss == "dlr-targeted" else 1 :
    ]  # the clean x is judged first, and then ranks targets
    return iterates, reference(loss, norm, subject, net, iterates[0][1].squeeze(1))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_iterate_is_the_one_of_the_authors_code(loss: str, norm: Norm) -> None:
    # At the first checkpoint theirs compares the first loss with a 0 where ours takes the start's; here both rise
    # often enough. In float32 the two part where a loss has converged up to rounding.
    ours, theirs = climbed(loss, norm)
    assert len(ours) == len(theirs) == 101
    assert len(ours[0][0]) == 10
    assert 2 <= len(ours[-1][0]) < 10  # fooled points leave
    for (points, x), expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.squeeze(1), expected[points], rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_sparse_iterates_are_those_of_the_authors_code_until_it_counts_entries(loss: str) -> None:
    # Theirs returns to x by adding and subtracting, and so counts as moved what rounding has moved by an ulp.
    # Its projection is in float32, whatever the model computes in.
    ours, theirs = climbed(loss, "l1")
    assert next(iter(checkpoints(100, "l1"))) == 4
    for (points, x), expected in zip(ours[:5], theirs[:5], strict=True):
        torch.testing.assert_close(x.squeeze(1), expected[points], rtol=0, atol=3e-6)


@pytest.mark.parametrize(("loss", "norm"), [("cross-entropy", "linf"), ("dlr", "l2")])
def test_a_tent_in_one_dimension_is_climbed_as_worked_out_by_hand(loss: Loss, norm: Norm) -> None:
    """The tent peaks at 7/16, the ball is 1/2 ± 3/8 and steps begin with 3/4: every number is a binary fraction."""

    def tent(x: Tensor) -> Tensor:
        height = -(x.flatten(1) - 7 / 16).abs() - 1
        return torch.stack([torch.zeros_like(height), height, torch.full_like(height, -9.0)], dim=-1)

    middle = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    subject = watched(tent, middle, torch.zeros(1, 1, dtype=torch.int64), Box((1,)))
    # A seed under which the start is the upper end of the ball.
    APGD(10, loss=loss)(subject.victim, Threat(norm, 3 / 8), Streams([1]))
    iterates = [x.item() for _, x in subject.calls[1:8]]
    assert iterates == [
        7 / 8,  # the start
        1 / 8,  # the whole first step, without momentum
        1 / 2,  # 1/8 + 3/4 (7/8 - 1/8) + 1/4 (1/8 - 7/8); two gains of two: the step stays
        5 / 16,  # no gain: half the step, and back to 1/2
        7 / 32,  # 1/2 + 3/4 (1/8 - 1/2), no momentum after the return; no gain: a quarter of the step, back to 1/2
        23 / 64,  # 1/2 + 3/4 (5/16 - 1/2); a gain over 7/32: the step stays
        119 / 256,  # 23/64 + 3/4 (3/16) + 1/4 (23/64 - 1/2)
    ]


def test_checkpoints_follow_the_paper() -> None:
    assert list(checkpoints(100, "linf").items()) == [
        (22, 22),
        (41, 19),
        (57, 16),
        (70, 13),
        (80, 10),
        (87, 7),
        (93, 6),
        (99, 6),
    ]
    assert list(checkpoints(100, "l1")) == list(range(4, 100, 4))
    assert checkpoints(1, "l2") == {}


def test_the_larger_balls_of_l1_take_three_tenths_of_the_steps_each() -> None:
    assert phases(100, 3) == [30, 30, 40]
    assert phases(7, 3) == [2, 2, 3]
    assert phases(100, 1) == [100]


def test_the_losses_are_those_of_the_paper() -> None:
    outputs = np.array([[[3.0, -1.0, 0.5, 2.0, 1.0]], [[0.25, 4.0, -2.0, 1.5, 3.5]]])
    y, target = np.array([[0], [4]]), np.array([[2], [1]])
    for row, label, wanted in ((0, 0, 2), (1, 4, 1)):
        z = outputs[row, 0]
        best = np.sort(z)[::-1]
        dlr = -(z[label] - np.delete(z, label).max()) / (best[0] - best[2])
        targeted = -(z[label] - z[wanted]) / (best[0] - 0.5 * (best[2] + best[3]))
        given = torch.from_numpy(outputs), torch.from_numpy(y)
        assert losses.dlr(*given)[row].item() == pytest.approx(dlr, rel=1e-9)
        assert losses.targeted_dlr(*given, torch.from_numpy(target))[row].item() == pytest.approx(targeted, rel=1e-9)
    moved = 7 * torch.from_numpy(outputs) + 100
    torch.testing.assert_close(losses.dlr(moved, given[1]), losses.dlr(*given))


@pytest.mark.parametrize(("name", "ways"), [("apgd-dlr", 2), ("apgd-t", 3)])
def test_too_few_classes_for_a_loss_are_refused(name: str, ways: int) -> None:
    victims = linear(ways=ways, tasks=1)
    with pytest.raises(InputError, match=rf"^ways: {ways} classes; the .*DLR loss needs at least {ways + 1}"):
        PRESETS[name](victims.victim, Threat("linf", 0.1), victims.streams())


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"steps": 0}, "steps: 0"),
        ({"restarts": 0}, "restarts: 0"),
        ({"l1_restarts": 101}, "l1_restarts: 101"),
        ({"targets": 3}, "targets: 3"),
        ({"loss": "targeted-dlr", "targets": 9}, "l1_targets: None"),
        ({"loss": "targeted-dlr", "targets": 0, "l1_targets": 5}, "targets: 0"),
        ({"l1_radii": (3.0, 2.0)}, "l1_radii"),
        ({"l1_radii": (0.5, 1.0)}, "l1_radii"),
    ],
)
def test_fields_out_of_range_are_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"^{named}"):
        APGD(**fields)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_spend_what_the_standard_version_spends(name: str, norm: Norm) -> None:
    victims = linear(ways=12, tasks=1, queries=2)
    eps = 0.1 * float(victims.distances(norm)[0])  # the first query withstands everything, the last is wrong already
    PRESETS[name](victims.victim, Threat(norm, eps), victims.streams())
    runs = {"apgd-t": 5 if norm == "l1" else 9}.get(name, 5 if norm == "l1" else 1)
    restated = 3 if norm == "l1" else 1  # every ball has a start of its own
    assert victims.victim.cost.backwards.tolist() == [runs * (100 - restated + restated)]
    clean = 2 + (name == "apgd-t")  # both points are judged first, and the targets of the first are ranked
    assert victims.victim.cost.forwards.tolist() == [clean + runs * (100 + restated)]


def test_the_search_in_l1_passes_through_larger_balls_and_keeps_nothing_from_there() -> None:
    subject, _ = convolutional()
    threat = Threat("l1", EPS["l1"])
    x_adv = replace(PRESETS["apgd-ce"], l1_restarts=1)(subject.victim, threat, Streams([0]))
    assert threats.within(x_adv, subject.victim.x, threat, BOX)
    reached = [
        float(threats.distance(x - subject.victim.x[points], "l1", 3).max()) / threat.eps
        for points, x in subject.calls[1:]
    ]
    balls = [3.0] * 31 + [2.0] * 31 + [1.0] * 41
    assert len(reached) == len(balls)
    assert all(now <= ball + 1e-5 for now, ball in zip(reached, balls, strict=True))
    assert reached[30] > 2.5
    assert reached[61] > 1.5


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", PRESETS)
def test_points_that_leave_shift_no_draw_of_those_that_stay(name: str, norm: Norm) -> None:
    subject, _ = convolutional()
    threat = Threat(norm, EPS[norm])
    y = subject.victim.y.clone()
    y[:4] = (y[:4] + 1) % 5  # wrong from the start, and so never attacked
    few = PRESETS[name](replace(subject.victim, y=y), threat, Streams([5]))
    every = PRESETS[name](subject.victim, threat, Streams([5]))
    # Convolutions of batches of different sizes may round differently.
    with torch.no_grad():
        verdicts = [
            losses.correct(subject.victim.forward(x, subject.victim.points), subject.victim.y) for x in (few, every)
        ]
    assert torch.equal(few[:4], subject.victim.x[:4])
    assert torch.equal(verdicts[0][4:], verdicts[1][4:])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("name", "ways"), [("apgd-ce", 2), ("apgd-dlr", 3), ("apgd-t", 4)])
def test_points_of_several_items_and_labels_are_fooled_from_their_closed_form_budget_on(
    name: str, ways: int, norm: Norm
) -> None:
    """Scores add up over 3 items, of which each may move by eps; both labels fall together."""
    rng = torch.Generator().manual_seed(0)
    weights = torch.randn(ways, 3, 32, generator=rng, dtype=torch.float64)
    x = 0.5 + 0.01 * torch.rand(6, 3, 32, generator=rng, dtype=torch.float64)

    def score(x: Tensor) -> Tensor:
        return torch.einsum("pmd,nmd->pn", x - 0.5, weights).unsqueeze(1).expand(-1, 2, -1)

    y = score(x).argmax(-1)
    gaps = score(x)[:, 0].gather(1, y[:, :1]) - score(x)[:, 0]
    rates = (weights[y[:, 0]].unsqueeze(1) - weights).norm(p=DUAL[norm], dim=-1).sum(-1)
    budgets = (gaps / rates).scatter(1, y[:, :1], torch.inf).amin(dim=1)
    eps = 1.02 * float(budgets.sort().values[3])
    threat, subject = Threat(norm, eps), watched(score, x, y, Box((32,)))
    x_adv = PRESETS[name](subject.victim, threat, Streams([0]))
    assert threats.within(x_adv, x, threat, Box((32,)))
    survived = losses.correct(score(x_adv), y)
    assert not survived[budgets < 0.95 * eps].any()
    assert not survived.all()
    assert survived[budgets > eps].all()
    assert survived.any()
