"""Projected gradient ascent and its one-step forms (FGSM 1412.6572; PGD 1706.06083; FGSM-RS 2001.03994).

`pgd-N` keeps the best iterate; `pgd-N-aq`, `pgd-N-at`, `fgsm-rs` and `pgd-N-kl` are training attacks as their
papers run them and return the last one, and so do `pgd-N-rmaml` and `pgd-N-dfsl`, the test attacks of R-MAML's and
DFSL's code (arXiv 2102.10454, 1911.06968). `pgd-mt-N`, our strong default, climbs K-1 targeted margins besides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_meta import losses, threats
from robustbench_meta.ascent import Objective, Search, ascend
from robustbench_meta.types import InputError, Norm, Streams, Surface, Threat, Victim


@dataclass(frozen=True)
class PGD:
    """Climb the loss by steepest steps inside the ball.

    `step` is in multiples of eps, or in input units where `step_unit` is "input". `objective` is the cross
    entropy, or the divergence from the clean prediction (TRADES, arXiv 1901.08573 equation 5).
    """

    steps: int
    step: float
    step_unit: Literal["eps", "input"] = "eps"
    start: Literal["random", "clean"] = "random"
    objective: Literal["cross-entropy", "divergence"] = "cross-entropy"
    keep: Literal["best", "last"] = "best"
    norms: tuple[Norm, ...] = ("linf", "l2", "l1")

    surfaces: ClassVar[tuple[Surface, ...]] = ("query", "support")
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        if threat.eps == 0:
            return victim.x.clone()
        if self.keep == "last":
            start, length = self._start(victim, threat, rng), self._length(threat)
            return ascend(victim, threat, start, self._objective(victim), steps=self.steps, length=length)
        search = Search(victim)
        self.extend(search, threat, rng)
        return search.x_adv

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack what still stands in `search`, which keeps the best iterate."""
        victim, length = search.victim, self._length(threat)
        start = self._start(victim, threat, rng)
        search.run(threat, start, self._objective(victim), steps=self.steps, length=length)

    def _start(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        if self.start == "clean":
            return victim.x
        return threats.random_start(victim.x, rng, threat, victim.space)

    def _length(self, threat: Threat) -> float:
        length = self.step * (threat.eps if self.step_unit == "eps" else 1)
        if self.steps * length < threat.eps * (1 - 1e-6):
            raise InputError(f"eps: {threat.eps:g} is out of reach of {self.steps} steps of {length:.4g} ({self!r})")
        return length

    def _objective(self, victim: Victim) -> Objective:
        return _cross_entropy(victim) if self.objective == "cross-entropy" else _divergence(victim)


@dataclass(frozen=True)
class MultiTargetedPGD:
    """Climb the cross entropy, then the margin of each wrong class, likeliest first (arXiv 1910.09338).

    One restart begins at the clean point, the others at random ones. Margins keep a gradient where the
    cross entropy's vanishes in float32, as it does at the distances of a ProtoNet.
    """

    steps: int
    step: float  # in multiples of eps
    restarts: int = 2

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    surfaces: ClassVar[tuple[Surface, ...]] = ("query", "support")
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        if not 1 <= self.restarts <= 100:
            raise InputError(f"restarts: {self.restarts} is not between 1 and 100")

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        if threat.eps == 0:
            return victim.x.clone()
        search = Search(victim)
        outputs = search.judge(victim.x, victim.points)
        self._run(search, threat, rng, losses.ranked_targets(outputs, victim.y))
        return search.x_adv

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack what still stands in `search`, which keeps the best iterate."""
        victim = search.victim
        with torch.no_grad():
            outputs = victim.forward(victim.x, victim.points)
        self._run(search, threat, rng, losses.ranked_targets(outputs, victim.y))

    def _run(self, search: Search, threat: Threat, rng: Streams, targets: Tensor) -> None:
        victim = search.victim
        for restart in range(self.restarts):
            for objective in _objectives(victim, targets):
                start = victim.x
                if restart:
                    start = threats.random_start(victim.x, rng, threat, victim.space)
                search.run(threat, start, objective, steps=self.steps, length=self.step * threat.eps)


def _objectives(victim: Victim, targets: Tensor) -> Iterator[Objective]:
    yield _cross_entropy(victim)
    for rank in range(targets.shape[-1]):
        yield _targeted(victim, targets[..., rank])


def _cross_entropy(victim: Victim) -> Objective:
    return lambda outputs, points: losses.cross_entropy(outputs, victim.y[points]).mean(dim=1)


def _targeted(victim: Victim, target: Tensor) -> Objective:
    return lambda outputs, points: losses.targeted_margin(outputs, victim.y[points], target[points]).mean(dim=1)


def _divergence(victim: Victim) -> Objective:
    with torch.no_grad():
        reference = victim.forward(victim.x, victim.points)
    return lambda outputs, points: losses.kl_divergence(outputs, reference[points]).mean(dim=1)


def _check_steps(steps: int) -> None:
    if not 1 <= steps <= 100_000:
        raise InputError(f"steps: {steps} is not between 1 and 100000")


def _pgd(steps: int) -> PGD:
    _check_steps(steps)
    return PGD(steps, step=2.5 / steps)


def _multi_targeted(steps: int) -> MultiTargetedPGD:
    _check_steps(steps)
    return MultiTargetedPGD(steps, step=2.5 / steps)


def _levels(steps: int, levels: int) -> PGD:
    # Steps of so few grey levels are too short for the budgets of L2 and L1.
    return PGD(steps, step=levels / 255, step_unit="input", keep="last", norms=("linf",))


def _training(steps: int) -> PGD:
    _check_steps(steps)
    return PGD(steps, step=2.5 / steps, keep="last")


def _trades(steps: int) -> PGD:
    _check_steps(steps)
    return PGD(steps, step=2.5 / steps, objective="divergence", keep="last")


PRESETS: dict[str, PGD | MultiTargetedPGD] = {
    "fgsm": PGD(1, step=1.0, start="clean", keep="last"),
    "fgsm-rs": PGD(1, step=1.25, keep="last"),
    "pgd-20": _pgd(20),
    "pgd-20-aq": _levels(20, 2),
    "pgd-7-aq": _levels(7, 2),
    "pgd-3-at": _training(3),
    "pgd-10-kl": _trades(10),
    "pgd-mt-50": _multi_targeted(50),
}
PATTERNS: dict[str, Callable[[re.Match[str]], PGD | MultiTargetedPGD]] = {
    r"pgd-(\d+)": lambda m: _pgd(int(m[1])),
    r"pgd-(\d+)-aq": lambda m: _levels(int(m[1]), 2),
    r"pgd-(\d+)-rmaml": lambda m: _levels(int(m[1]), 2),
    r"pgd-(\d+)-dfsl": lambda m: _levels(int(m[1]), 1),
    r"pgd-(\d+)-at": lambda m: _training(int(m[1])),
    r"pgd-(\d+)-kl": lambda m: _trades(int(m[1])),
    r"pgd-mt-(\d+)": lambda m: _multi_targeted(int(m[1])),
}
