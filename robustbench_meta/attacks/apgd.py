"""Auto-PGD (arXiv 2003.01690, algorithm 1) and its sparse form for L1 (arXiv 2103.01208, section 3).

Where the papers leave a choice, the authors' code decides: the step is halved also where a count just meets its
threshold, random starts lie on the sphere, and momentum begins with the second step. But as in the paper the first
gain is one over the start, where that code compares with 0. Fooled points leave the climb, which changes no verdict
because points do not interact.

Shapes: x [P,M,*X]; P' points still in a climb; M items a point; L labels; N classes; D entries of one item.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_meta import losses, threats
from robustbench_meta.ascent import Objective, Search, from_clean
from robustbench_meta.types import InputError, Norm, Streams, Surface, Threat, Victim

Loss = Literal["cross-entropy", "dlr", "targeted-dlr"]


@dataclass(frozen=True)
class APGD:
    """Climb a loss by steps whose length shrinks where progress stalls, going on from the best iterate then.

    The targeted loss climbs once per wrong class and restart, likeliest class first, for at most `targets` classes.
    In L1 a climb passes through balls of `l1_radii` times eps, and restarts and targets have numbers of their own, as
    in the standard AutoAttack.
    """

    steps: int = 100
    restarts: int = 1
    loss: Loss = "cross-entropy"
    targets: int | None = None
    l1_restarts: int = 5
    l1_targets: int | None = None
    l1_radii: tuple[float, ...] = (3.0, 2.0, 1.0)

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    surfaces: ClassVar[tuple[Surface, ...]] = ("query", "support")
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 100_000:
            raise InputError(f"steps: {self.steps} is not between 1 and 100000")
        for name in ("restarts", "l1_restarts"):
            if not 1 <= getattr(self, name) <= 100:
                raise InputError(f"{name}: {getattr(self, name)} is not between 1 and 100")
        for name in ("targets", "l1_targets"):
            given, targeted = getattr(self, name), self.loss == "targeted-dlr"
            if (given is not None) != targeted or (targeted and given < 1):
                legal = "at least 1" if targeted else "None"
                raise InputError(f"{name}: {given} does not fit loss {self.loss!r}, which takes {legal}")
        if not self.l1_radii or self.l1_radii[-1] != 1 or min(self.l1_radii) < 1:
            raise InputError(f"l1_radii: {self.l1_radii} must each be at least 1 and end with 1")

    @property
    def least_classes(self) -> int:
        """Below these many its loss is not defined."""
        return {"cross-entropy": 2, "dlr": 3, "targeted-dlr": 4}[self.loss]

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        return from_clean(self, victim, threat, rng)

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack what still stands in `search`, which keeps what is found; eps must be above 0."""
        if not len(search.standing()):
            return
        sparse = threat.norm == "l1"
        restarts = self.l1_restarts if sparse else self.restarts
        objectives = self._objectives(search, self.l1_targets if sparse else self.targets)
        runs = [objective for objective in objectives for _ in range(restarts)]
        # A climb that no point is left for draws nothing, and must not shift the draws of the others.
        for objective, stream in zip(runs, rng.split(len(runs)), strict=True):
            self._run(search, threat, objective, stream)

    def _objectives(self, search: Search, targets: int | None) -> list[Objective]:
        y = search.victim.y
        if self.loss == "cross-entropy":
            return [lambda outputs, points: losses.cross_entropy(outputs, y[points]).mean(dim=1)]
        if self.loss == "dlr":
            return [lambda outputs, points: losses.dlr(outputs, y[points]).mean(dim=1)]
        return [_towards(y, target) for target in _likeliest(search, targets)]

    def _run(self, search: Search, threat: Threat, objective: Objective, rng: Streams) -> None:
        points = search.standing()
        if not len(points):
            return
        radii = self.l1_radii if threat.norm == "l1" else (1.0,)
        share = 0.2 if len(radii) == 1 else None
        x = _start(search.victim, points, replace(threat, eps=radii[0] * threat.eps), rng)
        for ball, (radius, steps) in enumerate(zip(radii, phases(self.steps, len(radii)), strict=True), start=1):
            inside = replace(threat, eps=radius * threat.eps)
            x = threats.project(x, search.victim.x[points], inside, search.victim.space)
            if steps:
                x = _Climb(search, inside, objective, steps, counts=ball == len(radii), share=share)(points, x)


def phases(steps: int, count: int) -> list[int]:
    """Split the steps over the balls: 3/10 to each of 3 but the last, which takes the rest; else evenly."""
    each = 3 * steps // 10 if count == 3 else steps // count
    return [each] * (count - 1) + [steps - each * (count - 1)]


def checkpoints(steps: int, norm: Norm) -> dict[int, int]:
    """After how many steps progress is judged, and over how many: 22, 41, 57, 70, ... of 100; in L1 every 4th."""
    if norm == "l1":
        every = max(int(0.04 * steps), 1)
        return dict.fromkeys(range(every, steps, every), every)
    window, least, shorter = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    marks, mark = {}, window
    while mark < steps:
        marks[mark] = window
        window = max(window - shorter, least)
        mark += window
    return marks


@dataclass
class _State:
    """What is known of each point still in a climb: one row per point in every field."""

    points: Tensor  # [P']
    limits: tuple[Tensor, ...]  # the least and the largest x of the ball in Linf, else the clean x: [P',M,*X]
    x: Tensor  # [P',M,*X]
    before: Tensor  # x one step ago
    gradient: Tensor
    loss: Tensor  # of x: [P']
    best_x: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step: Tensor  # the length of a step: [P',1,...]
    gains: Tensor  # how often the loss has risen since the last checkpoint
    past_best: Tensor  # best_loss at the last checkpoint
    past_shrunk: Tensor  # whether the step shrank there
    share: Tensor  # of the entries that a step moves, in L1: [P',M]
    moved: Tensor  # how many entries best_x had moved at the last checkpoint, in L1

    def take(self, rows: Tensor) -> None:
        """Leave the points at `rows` alone in the climb."""
        for field in fields(self):
            value = getattr(self, field.name)
            taken = tuple(part[rows] for part in value) if isinstance(value, tuple) else value[rows]
            setattr(self, field.name, taken)

    def learn(self, loss: Tensor) -> None:
        """Take note of the loss of x, and of x where none was higher."""
        self.gains += loss > self.loss
        better = loss > self.best_loss
        chosen = _like(better, self.x)
        self.loss, self.best_loss = loss, torch.where(better, loss, self.best_loss)
        self.best_x = torch.where(chosen, self.x, self.best_x)
        self.best_gradient = torch.where(chosen, self.gradient, self.best_gradient)

    def resize(self, step: Tensor, back: Tensor) -> None:
        """Set the step and go on from the best iterate where `back` [P'] holds."""
        chosen = _like(back, self.x)
        self.step, self.gains = step, torch.zeros_like(self.gains)
        self.x = torch.where(chosen, self.best_x, self.x)
        self.gradient = torch.where(chosen, self.best_gradient, self.gradient)


@dataclass(frozen=True)
class _Climb:
    """One climb inside one ball."""

    search: Search
    threat: Threat  # the ball
    objective: Objective
    steps: int
    counts: bool  # whether this is the adversary's own ball, whose iterates the search may keep
    share: float | None  # of the entries that the first steps move in L1; None: 2/3 of those that the start has moved

    def __call__(self, points: Tensor, x: Tensor) -> Tensor:
        """Climb from x [P',M,*X]; return the iterates of highest loss, where `counts` only of points not fooled."""
        state = self._begin(points, x)
        marks, norm = checkpoints(self.steps, self.threat.norm), self.threat.norm
        for step in range(1, self.steps + 1):
            if self.counts:
                left = (self.search.wrong[state.points] < 1).nonzero().squeeze(1)
                if len(left) < len(state.points):
                    state.take(left)
                if not len(left):
                    break
            state.before, state.x = state.x, self._move(state, momentum=0.0 if step == 1 else MOMENTUM[norm])
            if step == self.steps:
                with torch.no_grad():
                    state.learn(self._look(state.points, state.x))
                break
            loss, state.gradient = self._differentiate(state.points, state.x)
            state.learn(loss)
            if step in marks:
                _thin(state, self.threat.eps) if norm == "l1" else _halve(state, marks[step])
        return state.best_x

    def _begin(self, points: Tensor, x: Tensor) -> _State:
        victim, eps = self.search.victim, self.threat.eps
        clean = victim.x[points]
        limits: tuple[Tensor, ...] = (clean,)
        if self.threat.norm == "linf":
            limits = (clean - eps).clamp_min(victim.space.low), (clean + eps).clamp_max(victim.space.high)
        loss, gradient = self._differentiate(points, x)
        entries = x[0, 0].numel()
        moved = (x != clean).flatten(2).sum(dim=2)
        share, known = moved / entries / SPREAD, moved.sum(dim=1)
        if self.share is not None:
            share, known = torch.full_like(share, self.share), torch.full_like(known, entries * x.shape[1])
        length = eps * (1 if self.threat.norm == "l1" else 2)
        return _State(
            points=points,
            limits=limits,
            x=x,
            before=x,
            gradient=gradient,
            loss=loss,
            best_x=x,
            best_gradient=gradient,
            best_loss=loss,
            step=_like(torch.full_like(loss, length, dtype=x.dtype), x),
            gains=torch.zeros_like(points),
            past_best=loss,
            past_shrunk=torch.ones_like(points, dtype=torch.bool),
            share=share,
            moved=known,
        )

    def _look(self, points: Tensor, x: Tensor) -> Tensor:
        """Return the loss of x, and offer x to the search."""
        outputs = self.search.victim.forward(x, points)
        if self.counts:
            self.search.offer(x.detach(), outputs.detach(), points)
        return self.objective(outputs, points)

    def _differentiate(self, points: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            loss = self._look(points, x)
            (gradient,) = torch.autograd.grad(loss.sum(), x)
        # A network in channels-last order hands back such a gradient, which would slow down every operation with x.
        return loss.detach(), gradient.contiguous()

    def _move(self, state: _State, momentum: float) -> Tensor:
        """Step uphill into the ball, then go that way in part and on as before in part (equation 2 of 2003.01690)."""
        x = self._project(_STEEPEST[self.threat.norm](state), state)
        if not momentum:
            return x
        # x + (1 - momentum) (z - x) + momentum (x - before), in place of z.
        x.mul_(1 - momentum).add_(state.x, alpha=2 * momentum).sub_(state.before, alpha=momentum)
        return self._project(x, state)

    def _project(self, x: Tensor, state: _State) -> Tensor:
        """Bring x, which may be overwritten, into the ball and the box."""
        space, eps = self.search.victim.space, self.threat.eps
        if self.threat.norm == "linf":
            return x.clamp_(*state.limits)
        (clean,) = state.limits
        if self.threat.norm == "l1":
            return threats.project(x, clean, self.threat, space)
        x.sub_(clean)
        return x.mul_(eps / _length(x).clamp_min(eps)).add_(clean).clamp_(space.low, space.high)


RISES = 0.75  # of the steps between two checkpoints must have raised the loss
MOMENTUM: dict[Norm, float] = {"linf": 0.25, "l2": 0.25, "l1": 0.0}
SPREAD = 1.5  # L1: by how much fewer entries a step moves than the best iterate has moved


def _halve(state: _State, window: int) -> None:
    """Halve the step where the loss rose too rarely, or where neither step nor best loss has changed since."""
    idle = ~state.past_shrunk & (state.past_best >= state.best_loss)
    shrunk = (state.gains <= RISES * window) | idle
    state.resize(torch.where(_like(shrunk, state.x), state.step / 2, state.step), shrunk)
    state.past_shrunk, state.past_best = shrunk, state.best_loss


def _thin(state: _State, eps: float) -> None:
    """Start afresh with long steps where the best iterate has grown sparser by 5 %; elsewhere shorten them."""
    moved = (state.best_x != state.limits[0]).flatten(2)
    count = moved.sum(dim=(1, 2))
    sparser = count < 0.95 * state.moved
    shorter = (state.step / 1.5).clamp_min(eps / 10)
    state.resize(torch.where(_like(sparser, state.x), eps, shorter), sparser)
    state.share, state.moved = moved.sum(dim=2) / moved.shape[2] / SPREAD, count


def _sign_step(state: _State) -> Tensor:
    return torch.addcmul(state.x, state.gradient.sign(), state.step)


def _unit_step(state: _State) -> Tensor:
    shortest = torch.finfo(state.x.dtype).tiny
    return torch.addcmul(state.x, state.gradient, state.step / _length(state.gradient).clamp_min(shortest))


def _sparse_step(state: _State) -> Tensor:
    """Move the entries of largest gradient, all by the same amount."""
    size = state.gradient.abs().flatten(2)
    entries = size.shape[2]
    rank = ((1 - state.share) * entries).clamp(0, entries - 1).long()
    least = size.sort(dim=2).values.gather(2, rank.unsqueeze(2))
    direction = (size >= least) * state.gradient.flatten(2).sign()
    direction /= direction.abs().sum(dim=2, keepdim=True).clamp_min(1)
    return torch.addcmul(state.x, direction.view_as(state.x), state.step)


_STEEPEST: dict[Norm, Callable[[_State], Tensor]] = {"linf": _sign_step, "l2": _unit_step, "l1": _sparse_step}


def _start(victim: Victim, points: Tensor, threat: Threat, rng: Streams) -> Tensor:
    """Draw a start [P',M,*X] for every point: on the sphere in Linf and L2, in L1 inside the ball.

    Starts of the points that have left the search are drawn as well, and not used.
    """
    if threat.norm == "linf":
        drawn = (2 * rng.uniform(victim.x) - 1)[points]
        moved = threat.eps * drawn / _like(drawn.abs().flatten(2).amax(dim=2), drawn)
    else:
        drawn = rng.normal(victim.x)[points]
        moved = threat.eps * drawn / _length(drawn) if threat.norm == "l2" else victim.space.width * drawn
    return victim.x[points] + moved


def _likeliest(search: Search, at_most: int | None) -> tuple[Tensor, ...]:
    """Rank the wrong classes of the clean inputs: one [P,L] per rank, of which only standing points are filled."""
    victim, points = search.victim, search.standing()
    with torch.no_grad():
        outputs = victim.forward(victim.x[points], points)
    ranked = losses.ranked_targets(outputs, victim.y[points])[..., :at_most]
    targets = victim.y.unsqueeze(-1).repeat(1, 1, ranked.shape[-1])
    targets[points] = ranked
    return targets.unbind(dim=-1)


def _towards(y: Tensor, target: Tensor) -> Objective:
    return lambda outputs, points: losses.targeted_dlr(outputs, y[points], target[points]).mean(dim=1)


def _length(x: Tensor) -> Tensor:
    """The L2 norm of each item: [P',M,1,...]."""
    return _like(x.flatten(2).norm(dim=2), x)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """View [P'] or [P',M] so that it spreads over x [P',M,*X]."""
    return rows.view(*rows.shape, *[1] * (x.dim() - rows.dim()))


PRESETS: dict[str, APGD] = {
    "apgd-ce": APGD(),
    "apgd-dlr": APGD(loss="dlr"),
    "apgd-t": APGD(loss="targeted-dlr", targets=9, l1_restarts=1, l1_targets=5),
}
