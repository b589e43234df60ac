"""cleverhans' gradient attacks (Papernot et al. 2018, arXiv 1610.00768) by cleverhans' own names, every knob set.

`projected_gradient_descent` takes 20 steps of 2.5 eps / 20, as `pgd-20` does; `-clean` begins at the clean image. The
library is optional and imported when an attack runs. It divides an L2 gradient by at least 1e-6, so where the batch's
mean cross entropy is flatter its steps are shorter than asked for; its L2 start lies on the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_meta.libraries import Classifier, attack_tasks, require
from robustbench_meta.types import InputError, Norm, Streams, Surface, Threat, Victim

Knob = float | int | bool | None
_THEIR_NORMS: dict[Norm, float] = {"linf": float("inf"), "l2": 2}


@dataclass(frozen=True)
class CleverHans:
    """Run `cleverhans.torch.attacks.<name>` on each task at one budget; it returns its last iterate.

    Labels are the true ones and images are clipped to the box, neither of which the library does by itself.
    """

    name: str
    step: float | None  # its `eps_iter`, in multiples of eps; None where it takes none
    knobs: tuple[tuple[str, Knob], ...]  # every other argument, the input's own (x, y, eps, norm, the box) apart

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = True
    needs_package: ClassVar[str] = "cleverhans"

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        """Return x_adv [P,1,*X]; raise InputError without cleverhans, or for what it casts silently."""
        require(self.needs_package)
        if threat.norm not in self.norms:
            raise InputError(f"norm: cleverhans:{self.name} works in {', '.join(self.norms)}, not in {threat.norm}")
        if victim.x.dtype != torch.float32:
            raise InputError(f"dtype: {victim.x.dtype}; cleverhans computes in torch.float32 alone")
        space, run = victim.space, getattr(import_module(f"cleverhans.torch.attacks.{self.name}"), self.name)
        fixed = {"eps": threat.eps, "norm": _THEIR_NORMS[threat.norm], "clip_min": space.low, "clip_max": space.high}
        if self.step is not None:
            fixed["eps_iter"] = self.step * threat.eps

        def craft(classifier: Classifier, images: Tensor, labels: Tensor, seed: int) -> Tensor:
            found: Tensor = run(classifier, images, y=labels, **fixed, **dict(self.knobs))
            return found

        return attack_tasks(victim, threat, rng, craft)


def _descent(start: bool) -> CleverHans:
    # Its sanity checks need NumPy to read a GPU's tensors; what they look at, attack_tasks checks for every library.
    knobs: dict[str, Knob] = {"nb_iter": 20, "rand_init": start, "rand_minmax": None}
    knobs |= {"targeted": False, "sanity_checks": False}
    return CleverHans("projected_gradient_descent", 2.5 / 20, tuple(knobs.items()))


PRESETS: dict[str, object] = {
    "cleverhans:fast_gradient_method": CleverHans(
        "fast_gradient_method", None, (("targeted", False), ("sanity_checks", False))
    ),
    "cleverhans:projected_gradient_descent": _descent(start=True),
    "cleverhans:projected_gradient_descent-clean": _descent(start=False),
}
