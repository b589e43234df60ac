"""torchattacks' gradient attacks (Kim 2020, arXiv 2010.01950) by torchattacks' own names, every knob set.

Iterative attacks take 20 steps of 2.5 eps / 20, as `pgd-20` does; `-clean` begins at the clean image. The library is
optional and imported when an attack runs. Not offered: its AutoAttack, whose APGD takes 10 iterations where the
authors' takes 100; MIFGSM, which divides by the gradient's mean size and so makes a vanished gradient NaN. PGDL2 draws
the radius of its start evenly, so starts crowd the middle of the ball.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_meta.libraries import Classifier, attack_tasks, require
from robustbench_meta.types import Box, InputError, Norm, Streams, Surface, Threat, Victim

Knob = float | int | bool


@dataclass(frozen=True)
class TorchAttacks:
    """Run `torchattacks.<name>` on each task at one budget; it returns its last iterate."""

    name: str
    norms: tuple[Norm, ...]  # the one norm of the attack's ball
    step: float | None  # its `alpha`, in multiples of eps; None where it takes none
    knobs: tuple[tuple[str, Knob], ...]  # every other argument of its constructor, model and eps apart

    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = True
    needs_package: ClassVar[str] = "torchattacks"

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        """Return x_adv [P,1,C,H,W]; raise InputError without torchattacks, or where it would fail silently."""
        require(self.needs_package)
        if threat.norm not in self.norms:
            raise InputError(f"norm: torchattacks:{self.name} works in {', '.join(self.norms)}, not in {threat.norm}")
        _check(victim.space)

        def craft(classifier: Classifier, images: Tensor, labels: Tensor, seed: int) -> Tensor:
            return self._run(classifier, images, labels, threat.eps)

        return attack_tasks(victim, threat, rng, craft)

    def _run(self, classifier: Classifier, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Return x_adv [Q,C,H,W] of one task."""
        import torchattacks

        step = {} if self.step is None else {"alpha": self.step * eps}
        attack = getattr(torchattacks, self.name)(_Placed(classifier, x), eps=eps, **step, **dict(self.knobs))
        found: Tensor = attack(x, y)
        return found


class _Placed(torch.nn.Module):
    """A classifier that says where it lives: torchattacks moves images to the device of the first parameter."""

    def __init__(self, classifier: Classifier, x: Tensor):
        super().__init__()
        self.classifier, self.place = classifier, torch.nn.Parameter(x.new_zeros(()), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.classifier(x)
        return scores


def _check(space: Box) -> None:
    # It clamps to [0, 1] whatever the box, and in L2 takes images to have three axes.
    if len(space.shape) != 3 or (space.low, space.high) != (0.0, 1.0):
        raise InputError(
            f"inputs: shape {space.shape} in [{space.low:g}, {space.high:g}]; torchattacks takes (C, H, W) in [0, 1]"
        )


def _presets() -> Iterator[tuple[str, TorchAttacks]]:
    yield "FGSM", TorchAttacks("FGSM", ("linf",), None, ())
    yield "BIM", TorchAttacks("BIM", ("linf",), 2.5 / 20, (("steps", 20),))
    for suffix, start in (("", True), ("-clean", False)):
        knobs: tuple[tuple[str, Knob], ...] = (("steps", 20), ("random_start", start))
        yield f"PGD{suffix}", TorchAttacks("PGD", ("linf",), 2.5 / 20, knobs)
        yield f"PGDL2{suffix}", TorchAttacks("PGDL2", ("l2",), 2.5 / 20, (*knobs, ("eps_for_division", 1e-10)))


PRESETS: dict[str, object] = {f"torchattacks:{name}": preset for name, preset in _presets()}
