"""foolbox's gradient attacks (Rauber et al. 2020, JOSS 5(53) 2607) by foolbox's own names, every knob set.

foolbox's defaults are not conventions: its LinfPGD travels 1.33 eps in a ball 2 eps wide. Iterative attacks here
take 20 steps of 2.5 eps / 20, as `pgd-20` does. Not offered, because on a linear model they miss points well inside
the budget: the L1 attacks, L2AdamPGD, NewtonFoolAttack, and LInfFMNAttack, which stalls where rounding makes a tie of
the boundary. Nor L2FMNAttack, whose projection divides a norm by itself (3.3.4) and so never projects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustbench_meta.libraries import Classifier, attack_tasks
from robustbench_meta.types import InputError, Norm, Streams, Surface, Threat, Victim

Knob = float | int | bool | str | None


@dataclass(frozen=True)
class Foolbox:
    """Run `foolbox.attacks.<name>` on each task at one budget.

    Attacks with a fixed budget return their last iterate. Attacks that minimise the distance return the clean
    input where what they found, shrunk to eps, fools nobody.
    """

    name: str
    norms: tuple[Norm, ...]  # the one norm that the attack bounds or minimises
    knobs: tuple[tuple[str, Knob], ...]  # every argument of its constructor

    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = True

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        """Return x_adv [P,1,*X]; raise InputError where the threat's norm is not the attack's own."""
        if threat.norm not in self.norms:
            raise InputError(f"norm: foolbox:{self.name} works in {', '.join(self.norms)}, not in {threat.norm}")

        def craft(classifier: Classifier, images: Tensor, labels: Tensor, seed: int) -> Tensor:
            return self._run(classifier, images, labels, threat.eps)

        return attack_tasks(victim, threat, rng, craft)

    def _run(self, classifier: Classifier, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Return x_adv [Q,*X] of one task."""
        from foolbox import attacks
        from foolbox.models.pytorch import PyTorchModel

        space = classifier.victim.space
        model = PyTorchModel(classifier, bounds=(space.low, space.high), device=x.device)
        attack = getattr(attacks, self.name)(**dict(self.knobs))
        _, clipped, fooled = attack(model, x, y, epsilons=eps)
        if isinstance(attack, attacks.base.FixedEpsilonAttack):
            return clipped
        return clipped.where(fooled.view(-1, *[1] * (x.ndim - 1)), x)


def _preset(name: str, norm: Norm, **knobs: Knob) -> tuple[str, Foolbox]:
    return f"foolbox:{name}", Foolbox(name, (norm,), tuple(knobs.items()))


_STEPS: dict[str, Knob] = {"rel_stepsize": 2.5 / 20, "abs_stepsize": None, "steps": 20}
_DEEPFOOL: dict[str, Knob] = {"steps": 50, "candidates": None, "overshoot": 0.02, "loss": "logits"}

PRESETS: dict[str, object] = dict(
    [
        _preset("FGSM", "linf", random_start=False),
        _preset("FGM", "l2", random_start=False),
        _preset("LinfPGD", "linf", **_STEPS, random_start=True),
        _preset("L2PGD", "l2", **_STEPS, random_start=True),
        _preset("LinfBasicIterativeAttack", "linf", **_STEPS, random_start=False),
        _preset("L2BasicIterativeAttack", "l2", **_STEPS, random_start=False),
        _preset("MIFGSM", "linf", **_STEPS, random_start=False, momentum=1.0),
        _preset("L2MomentumIterativeFastGradientMethod", "l2", **_STEPS, random_start=False, momentum=1.0),
        _preset("LinfDeepFoolAttack", "linf", **_DEEPFOOL),
        _preset("L2DeepFoolAttack", "l2", **_DEEPFOOL),
        _preset("DDNAttack", "l2", init_epsilon=1.0, steps=100, gamma=0.05),
        _preset(
            "L2CarliniWagnerAttack",
            "l2",
            binary_search_steps=9,
            steps=200,
            stepsize=0.01,
            confidence=0,
            initial_const=0.001,
            abort_early=True,
        ),
    ]
)
