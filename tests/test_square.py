"""Square: the reference's proposals from the same random numbers, its schedule, and what no proposal may break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from pyautoattack import AutoAttack
from pyautoattack.square import L1_projection, SquareAttack
from test_attack_contract import CONV_EPS, convolutional
from torch import Tensor

from robustbench_meta import catalog, losses, threats
from robustbench_meta.ascent import Search
from robustbench_meta.attacks.square import PRESETS, Canvas, Square, Tape, canvas_of, rounds
from robustbench_meta.linear import linear
from robustbench_meta.types import NORMS, Box, Cost, InputError, Norm, Streams, Threat, Victim

THEIRS: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}


class Heard(Streams):
    """Streams of one task that write down every number they give to its one point."""

    def __init__(self, seeds: list[int]):
        super().__init__(seeds)
        self.numbers: list[float] = []
        self.parts: list[Heard] = []

    def uniform(self, like: Tensor) -> Tensor:
        drawn = super().uniform(like)
        self.numbers += drawn.flatten().tolist()
        return drawn

    def split(self, count: int) -> list[Streams]:
        self.parts = [Heard(self.seeds()) for _ in range(count)]
        return list(self.parts)


class Fed(SquareAttack):
    """The reference, but its random numbers are given, and a corner may be at the last place where a window fits.

    The paper says so (Algorithms 2 and 3); the reference leaves that row and that column out.
    """

    def __init__(self, numbers: list[float], predict: Callable[[Tensor], Tensor], **options: object):
        super().__init__(predict, device="cpu", **options)
        self.numbers = iter(numbers)

    def random_int(self, low: int = 0, high: int = 1, shape: object = None) -> Tensor:
        return torch.tensor([int(next(self.numbers) * (high + 1))])

    def random_choice(self, shape: list[int]) -> Tensor:
        count = int(torch.Size(shape).numel())
        return torch.tensor([1.0 if next(self.numbers) >= 0.5 else -1.0 for _ in range(count)]).view(*shape)

    def eta(self, s: int) -> Tensor:
        upper, lower = self.eta_rectangles(s // 2, s), self.eta_rectangles(s - s // 2, s)
        pattern = torch.cat((upper, -lower))
        pattern = pattern / (pattern.norm() if self.norm == "L2" else pattern.abs().sum())
        return pattern.T if next(self.numbers) > 0.5 else pattern


@dataclass
class Spy:
    """A victim's forward that keeps every image it is asked about."""

    victim: Victim
    seen: list[Tensor] = field(default_factory=list)

    def forward(self, x: Tensor, points: Tensor) -> Tensor:
        self.seen.append(x.squeeze(1).clone())
        return self.victim.forward(x, points)

    @property
    def watched(self) -> Victim:
        return replace(self.victim, forward=self.forward)


def confident(shape: tuple[int, int, int]) -> Victim:
    """One point of a smooth nonlinear model, so sure of its class that no budget changes it."""
    rng = torch.Generator().manual_seed(1)
    size = int(torch.Size(shape).numel())
    weights = torch.randn(3, size, generator=rng)
    x = torch.rand(1, 1, *shape, generator=rng)

    def forward(x: Tensor, points: Tensor) -> Tensor:
        scores = (weights * x.flatten(1).unsqueeze(1)).sum(-1)
        return torch.stack((scores[:, 0].sin() + 9, scores[:, 1].sin(), scores[:, 2].cos()), dim=-1).unsqueeze(1)

    cost = Cost(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    return Victim(forward, x, torch.zeros(1, 1, dtype=torch.int64), Box(shape), 1, cost)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("shape", "eps"), [((3, 11, 11), 0.3), ((1, 6, 6), 1.0), ((2, 28, 28), 2.0)])
def test_every_proposal_is_the_reference_s_from_the_same_numbers(
    norm: Norm, shape: tuple[int, int, int], eps: float
) -> None:
    threat = Threat(norm, {"linf": eps / 10, "l2": eps, "l1": 10 * eps}[norm])
    victim = confident(shape)
    if norm == "l1":
        # Here the two may part for a proposal: rounding of (x + moved) - x that is alone in a window passes for what
        # it held, and is scaled up to unit length. Black images leave the least of it.
        victim = replace(victim, x=torch.zeros_like(victim.x))
    ours, theirs, heard = Spy(victim), Spy(victim), Heard([3])
    Square(queries=200, schedule=200).extend(Search(ours.watched), threat, heard)

    def predict(images: Tensor) -> Tensor:
        return theirs.forward(images.unsqueeze(1), torch.zeros(1, dtype=torch.int64)).squeeze(1)

    numbers = [number for part in heard.parts for number in part.numbers]
    reference = Fed(numbers, predict, norm=THEIRS[norm], eps=threat.eps, n_queries=200)
    reference.init_hyperparam(victim.x.squeeze(1))
    reference.attack_single_run(victim.x.squeeze(1), victim.y.squeeze(1))
    assert len(ours.seen) == len(theirs.seen) == 201
    apart = torch.stack([(a - b).abs().max() for a, b in zip(ours.seen, theirs.seen, strict=True)])
    assert apart[: 50 if norm == "l1" else None].max() < 1e-5
    assert float((apart > 1e-5).float().mean()) < 0.1
    assert next(reference.numbers, None) is None


def test_their_projection_onto_the_l1_ball_and_box_is_ours() -> None:
    rng = torch.Generator().manual_seed(0)
    x, moved = torch.rand(20, 1, 6, 6, generator=rng), torch.randn(20, 1, 6, 6, generator=rng)
    for eps in (0.1, 2.0, 8.0, 100.0):
        ours = threats.project(x + moved, x, Threat("l1", eps), Box((1, 6, 6)))
        torch.testing.assert_close(x + moved + L1_projection(x, moved, eps), ours, atol=1e-5, rtol=0)


def test_the_share_of_the_image_is_halved_as_the_reference_halves_it() -> None:
    standard = AutoAttack(torch.nn.Identity(), norm="Linf", eps=0.1).square
    assert (standard.rescale_schedule, standard.n_queries, standard.p_init) == (False, 5000, 0.8)
    for queries, attack, reference in (
        (100, Square(100, schedule=100), SquareAttack(None, n_queries=100)),
        (10_000, Square(10_000), SquareAttack(None, n_queries=10_000)),
        (5000, catalog.attack("square"), standard),
    ):
        assert isinstance(attack, Square)
        for step in range(queries):
            share = reference.p_selection(step)
            assert attack.window(step, Box((3, 32, 32)), "linf") == max(round(share**0.5 * 32), 1)


def test_windows_are_odd_outside_linf_and_fit_into_the_image() -> None:
    def sides(shape: tuple[int, ...], norm: Norm) -> list[int]:
        return sorted({Square(10_000).window(step, Box(shape), norm) for step in range(10_000)})

    assert sides((3, 32, 32), "linf") == [1, 2, 3, 4, 5, 7, 10, 14, 20, 29]
    assert sides((3, 32, 32), "l2") == sides((1, 32, 32), "l1") == [3, 5, 7, 11, 15, 21, 29]
    assert sides((1, 6, 9), "linf") == [1, 2, 3, 5, 6]
    assert sides((1, 2, 9), "l2") == [2]


@pytest.mark.parametrize("queries", [1, 7, 50, 5000])
def test_rounds_cover_every_query_once_and_never_outgrow_an_eighth_of_what_came_before(queries: int) -> None:
    cut = list(rounds(queries))
    assert [step for steps in cut for step in steps] == list(range(queries))
    assert all(len(steps) <= max(steps.start // 8, 1) and len(steps) <= 32 for steps in cut)


@pytest.mark.parametrize("norm", ["linf", "l2"])  # in L1 the projection cuts the window's own corners
def test_corners_reach_every_place_where_a_window_fits(norm: Norm) -> None:
    canvas = Canvas(Box((2, 5, 7)), Threat(norm, 0.1))
    rng = torch.Generator().manual_seed(0)
    clean = torch.full((400, 70), 0.5)
    draws = torch.rand(400, 1, canvas.draws, generator=rng)
    if norm != "linf":
        draws[..., 2:4] = draws[..., :2]
    (stroke,) = canvas.strokes(draws, [3])
    changed = (canvas.paint(clean, clean, stroke) != clean).view(400, 2, 5, 7).any(dim=1)
    # The first and last rows and columns that changed are those of a window of 3 x 3.
    rows, columns = changed.any(dim=2).long(), changed.any(dim=1).long()
    assert {(int(r.argmax()), int(c.argmax())) for r, c in zip(rows, columns, strict=True)} == {
        (r, c) for r in range(3) for c in range(5)
    }
    assert (changed.sum(dim=(1, 2)) <= 9).all()


@pytest.mark.parametrize("norm", NORMS)
def test_it_never_leaves_budget_and_box_and_its_margin_never_falls(norm: Norm) -> None:
    victim, _ = convolutional(tasks=2, queries=6)
    threat = Threat(norm, CONV_EPS[norm] / 4)
    margins: list[Tensor] = []
    highest = torch.full((12,), -torch.inf)

    def forward(x: Tensor, points: Tensor) -> Tensor:
        assert threats.within(x, victim.x[points], threat, victim.space)
        outputs = victim.forward(x, points)
        margin = losses.margin(outputs, victim.y[points]).squeeze(1)
        if len(margins):  # the first are the clean inputs, where Square does not begin
            highest[points] = torch.maximum(highest[points], margin.detach())
        margins.append(margin)
        return outputs

    search = Search(replace(victim, forward=forward))
    search.judge(victim.x, victim.points)
    clean = search.margin.clone()
    Square(queries=300).extend(search, threat, Streams([1, 2]))
    assert len(margins) == 302
    standing = search.standing()
    assert 0 < len(standing) < 12
    assert torch.equal(search.margin[standing], torch.maximum(highest, clean)[standing])
    assert (search.margin >= clean).all()


@pytest.mark.parametrize("ways", [2, 5, 10])
def test_in_linf_a_linear_model_s_exact_verdicts_are_found(ways: int) -> None:
    victims = linear(ways=ways, tasks=2, queries=10, seed=ways)
    distances, eps = victims.distances("linf"), victims.eps("linf")
    survived = victims.survives(Square(queries=2000)(victims.victim, Threat("linf", eps), victims.streams()))
    assert 0 < int(survived.sum()) < 20
    assert torch.equal(survived, distances > eps)


def test_a_fooled_point_costs_no_more_queries_and_keeps_its_first_proposal() -> None:
    victims = linear(tasks=2, queries=10)
    victim = victims.victim
    Square()(victim, Threat("linf", 3 * float(victims.distances("linf").max())), victims.streams())
    assert int(victim.cost.forwards.sum()) < 20 * 100


def test_it_goes_on_from_a_search_and_leaves_what_it_has_fooled_alone() -> None:
    victims = linear(tasks=2, queries=10)
    search = Search(victims.victim)
    search.judge(victims.victim.x, victims.victim.points)
    before, standing = search.x_adv.clone(), search.standing()
    assert 0 < len(standing) < 20
    Square(queries=20).extend(search, Threat("linf", 0.1), victims.streams())
    fooled = torch.ones(20, dtype=torch.bool).index_fill(0, standing, False)
    assert torch.equal(search.x_adv[fooled], before[fooled])
    assert not torch.equal(search.x_adv[standing], before[standing])


@pytest.mark.parametrize("norm", NORMS)
def test_images_that_are_not_square_or_very_small_are_attacked_too(norm: Norm) -> None:
    for shape in ((1, 1, 3), (2, 4, 9), (1, 13, 8)):
        victim = confident(shape)
        threat = Threat(norm, 0.2)
        x_adv = Square(queries=50)(victim, threat, Streams([0]))
        assert threats.within(x_adv, victim.x, threat, victim.space)
        assert not torch.equal(x_adv, victim.x)


def test_a_sound_is_painted_over_by_stretches_of_square_waves_at_the_edge_of_the_ball() -> None:
    space, threat = Box((2, 60), -1.0, 1.0), Threat("linf", 0.1)
    tape = canvas_of(space, threat)
    assert isinstance(tape, Tape)
    clean = torch.linspace(-0.95, 0.95, 120).expand(3, -1).contiguous()
    draws = torch.rand(3, 200, tape.draws, generator=torch.Generator().manual_seed(0))
    begun: set[int] = set()
    for stroke in tape.strokes(draws, [7] * 200):
        painted = tape.paint(clean, clean, stroke)
        moved = (painted - clean).view(3, 2, 60)
        for row in moved:
            where = row[0].nonzero().flatten()
            assert where.tolist() == list(range(int(where[0]), int(where[0]) + 7))
            assert torch.equal(row[1].nonzero().flatten(), where)
            begun.add(int(where[0]))
        assert threats.within(painted.view(3, 1, 2, 60), clean.view(3, 1, 2, 60), threat, space)
    assert begun == set(range(54))
    slow, fast = next(iter(tape.strokes(torch.tensor([[[0, 0, 0.3]], [[0, 0.999, 0.1]]]), [8]))).signs
    assert slow.tolist() == [1] * 8
    assert fast.tolist() == [1, -1] * 4


def test_windows_of_sounds_are_the_paper_s_share_of_their_samples() -> None:
    space = Box((1, 1000), -1.0, 1.0)
    sides = [Square().window(step, space, "linf") for step in (0, 11, 51, 9999)]
    assert sides == [800, 400, 200, 2]


def test_a_sound_falls_to_square_as_a_linear_model_must() -> None:
    victims = linear(shape=(1, 36), tasks=2, queries=10)
    distances, eps = victims.distances("linf"), victims.eps("linf")
    survived = victims.survives(Square(queries=3000)(victims.victim, Threat("linf", eps), victims.streams()))
    assert 0 < int(survived.sum()) < 20
    assert bool((survived >= (distances > eps)).all())
    assert int((survived & (distances <= 0.9 * eps)).sum()) == 0
    with pytest.raises(InputError, match=r"shape \(1, 36\) in l2"):
        Square()(victims.victim, Threat("l2", 0.1), victims.streams())


def test_names_say_how_many_queries() -> None:
    assert PRESETS["square"] == Square(queries=5000, share=0.8, schedule=10_000)
    assert catalog.attack("square-250") == Square(queries=250)


def test_what_it_cannot_take_is_refused() -> None:
    victim = linear(shape=(36,)).victim
    with pytest.raises(
        InputError, match=r"^inputs: shape \(36,\) in linf; AutoAttack and Square take images \(C, H, W\) and"
    ):
        Square()(victim, Threat("linf", 0.1), Streams([0, 1]))
    with pytest.raises(InputError, match=r"^queries: 0 is not between"):
        Square(queries=0)
    with pytest.raises(InputError, match=r"^share: 0\.0 is not above 0"):
        Square(share=0.0)
