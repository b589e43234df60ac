"""What attack libraries need of a victim: one task at a time as a plain classifier, global state left alone.

Shapes: P points, T tasks, Q queries of one task, b images of one task, N classes, X the shape of one input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from robustbench_meta.losses import correct
from robustbench_meta.threats import ABSOLUTE_SLACK, RELATIVE_SLACK, distance, project
from robustbench_meta.types import Box, InputError, Norm, Streams, Threat, Victim

Craft = Callable[["Classifier", Tensor, Tensor, int], Tensor]


def attack_tasks(victim: Victim, threat: Threat, rng: Streams, craft: Craft) -> Tensor:
    """Run `craft(classifier, images [b,*X], labels [b], seed)` task by task: x_adv [P,1,*X] in budget and box.

    Images are those that are classified correctly; the others come back clean. Torch's global generators end as
    they began. Errors of the library propagate. Raise InputError where libraries fail silently: points of several
    items, inputs outside the box, labels out of range, scores that are not finite.
    """
    check_inputs(victim)
    x_adv = victim.x.clone()
    if threat.eps == 0:
        return x_adv
    each = len(victim.x) // victim.tasks
    for task, seed in enumerate(rng.seeds()):
        points = victim.points[task * each : (task + 1) * each]
        images, labels = victim.x[points].squeeze(1), victim.y[points].squeeze(1)
        classifier = Classifier(victim, task * each)
        scores = classifier(images)
        check_scores(scores, labels, task)
        # By our rule, under which a tie is wrong: Square fails in L2 and L1 where only ties are left.
        standing = correct(scores.detach(), labels)
        if standing.any():
            with _seeded(seed):
                crafted = craft(classifier, images[standing], labels[standing], seed).detach()
            x_adv[points[standing]] = _settle(crafted, images[standing], threat, victim.space).unsqueeze(1)
    return x_adv


def missing(package: str) -> str:
    """Say in one line how to install an optional library that is not there; empty if it is."""
    if find_spec(package):
        return ""
    return (
        f"needs {package}, which is not installed; its pins clash with ours, so give it an environment of its own:"
        f" `make agreement-tests` makes one in a clone, else pip install --no-deps {package}"
    )


def require(package: str) -> None:
    if reason := missing(package):
        raise InputError(f"attack: {reason}")


class Classifier(torch.nn.Module):
    """Score images x [b,*X] of one task: [b,N]. Backward reaches x alone, never the learner's weights.

    Libraries pass batches of images without saying which; all queries of a task share one adapted learner, so
    any one `point` of the task stands for each of them.
    """

    def __init__(self, victim: Victim, point: int):
        super().__init__()
        self.victim, self.point = victim, point
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _Isolated.apply(x, self._scores)
        with torch.no_grad():
            return self._scores(x)

    def _scores(self, x: Tensor) -> Tensor:
        points = torch.full((len(x),), self.point, device=x.device)
        return self.victim.forward(x.unsqueeze(1), points).squeeze(1)


class _Isolated(torch.autograd.Function):
    """A function of x whose graph stops at x: libraries call backward(), which would fill `.grad` of the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.scores = function(ctx.x)
        return ctx.scores.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        # Retained because FAB goes backward through one forward once per class.
        (gradient,) = torch.autograd.grad(ctx.scores, ctx.x, upstream[0], retain_graph=True)
        # Our learners compute in channels-last order; torchattacks and others take views of a gradient.
        return gradient.contiguous(), None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # A generator on a GPU that was never used holds no state worth saving, and asking for it would start CUDA.
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=gpus), torch.enable_grad():
        torch.manual_seed(seed)
        yield


def _settle(crafted: Tensor, x: Tensor, threat: Threat, box: Box) -> Tensor:
    """Move only what a library left outside the box or the budget by rounding (L1 steps are not clamped)."""
    clamped = crafted.clamp(box.low, box.high)
    moved = distance(clamped - x, threat.norm, len(box.shape))
    inside = moved <= threat.eps * (1 + RELATIVE_SLACK) + ABSOLUTE_SLACK
    return torch.where(inside.view(-1, *[1] * len(box.shape)), clamped, project(clamped, x, threat, box))


def check_inputs(victim: Victim) -> None:
    """Refuse points of several items or labels, and inputs outside the box."""
    if not victim.single:
        raise InputError(
            f"points: {tuple(victim.x.shape[1:2])} items and {tuple(victim.y.shape[1:])} labels each; libraries and"
            " AutoAttack take one of both: the query surface, without batch statistics"
        )
    low, high = float(victim.x.min()), float(victim.x.max())
    if not (victim.space.low <= low and high <= victim.space.high):
        raise InputError(
            f"x: inputs in [{low:g}, {high:g}] leave the box [{victim.space.low:g}, {victim.space.high:g}]"
        )


def fits_square(space: Box, norm: Norm) -> bool:
    """Say whether our Square can attack such inputs: images, and in Linf sounds."""
    return len(space.shape) == 3 or (len(space.shape) == 2 and norm == "linf")


def check_square(space: Box, norm: Norm) -> None:
    """Refuse what our Square, the last member of AutoAttack, cannot attack, even where no point is left for it."""
    if not fits_square(space, norm):
        raise InputError(f"inputs: {painted(space, norm)}")


def painted(space: Box, norm: Norm) -> str:
    """Say which inputs are painted on, and what is here."""
    return (
        f"shape {space.shape} in {norm}; AutoAttack and Square take images (C, H, W) and, in linf, sounds (C, samples)"
    )


def check_images(space: Box) -> None:
    """Refuse what the reference AutoAttack cannot attack."""
    if len(space.shape) != 3:
        raise InputError(f"inputs: shape {space.shape}; AutoAttack takes images (C, H, W)")


def check_scores(scores: Tensor, labels: Tensor, task: int) -> None:
    """Refuse scores [b,N] of a task that are not finite, and labels [b] out of range."""
    if not scores.isfinite().all():
        raise InputError(f"scores: task {task} of the chunk has scores that are NaN or infinite; they must be finite")
    ways = scores.shape[-1]
    if not ((labels >= 0) & (labels < ways)).all():
        raise InputError(f"y: labels {int(labels.min())} to {int(labels.max())}; {ways} classes allow 0 to {ways - 1}")
