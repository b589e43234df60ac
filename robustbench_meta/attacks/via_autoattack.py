"""AutoAttack as its authors' code runs it (Croce & Hein, arXiv 2003.01690), through the package pyautoattack.

Standard version with at most N-1 targets: it asks for 9 (5 in L1), and with fewer wrong classes it would crash on
the points that withstand them all. With 2 classes no DLR loss exists and with 3 no targeted one, so there the
ensemble is APGD-CE, FAB-T and Square, with APGD-DLR where N = 3.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_meta.libraries import Classifier, attack_tasks, check_images
from robustbench_meta.types import InputError, Norm, Streams, Surface, Threat, Victim

_THEIR_NORMS: dict[Norm, str] = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_FEW_WAYS = {2: ["apgd-ce", "fab-t", "square"], 3: ["apgd-ce", "apgd-dlr", "fab-t", "square"]}


@dataclass(frozen=True)
class ReferenceAutoAttack:
    """Attack each task with the reference AutoAttack; points it cannot fool come back clean.

    The images found depend on batch_size and on the order of the queries. The library's own warnings (random or
    dynamic model, zero gradients, Square beating the rest) are given as Python warnings, with how often.
    """

    batch_size: int = 250  # images per call of the library, which attacks all queries of a task at once below it

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = True

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        """Return x_adv [P,1,C,H,W]; raise InputError where inputs are not float32 images in [0, 1]."""
        _check(victim, threat)

        def craft(classifier: Classifier, images: Tensor, labels: Tensor, seed: int) -> Tensor:
            return _run(classifier, images, labels, seed=seed, threat=threat, batch_size=self.batch_size)

        with _contained() as messages:
            x_adv = attack_tasks(victim, threat, rng, craft)
        for message, times in Counter(messages).items():
            warnings.warn(f"AutoAttack, {times} times in {victim.tasks} tasks: {message}", stacklevel=2)
        return x_adv


def _run(classifier: Classifier, x: Tensor, y: Tensor, *, seed: int, threat: Threat, batch_size: int) -> Tensor:
    """Return x_adv [Q,C,H,W] of one task."""
    from pyautoattack import AutoAttack

    with torch.no_grad():
        ways = classifier(x[:1]).shape[-1]
    norm = _THEIR_NORMS[threat.norm]
    attack = AutoAttack(classifier, norm=norm, eps=threat.eps, version="standard", seed=seed, device=x.device)
    # The standard settings first, so that the ensembles for few ways keep their restarts and L1 schedule.
    attack.attacks_to_run = _FEW_WAYS.get(ways, attack.attacks_to_run)
    for part in (attack.apgd_targeted, attack.fab):
        part.n_target_classes = min(part.n_target_classes, ways - 1)
    x_adv, _ = attack.run_standard_evaluation(x.contiguous(), y, batch_size=batch_size)
    return x_adv


@contextmanager
def _contained() -> Iterator[list[str]]:
    """Collect the library's warnings; put back the tracer it removes and the counters it never resets."""
    from pyautoattack import checks

    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    # It counts APGD-DLR as if it were targeted, and so warns of 3 classes, which the ensemble already heeds.
    handler.addFilter(lambda record: "with only 3 classes" not in record.getMessage())
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("auto-attack")
    counted, tracer = dict(checks.funcs), sys.gettrace()
    checks.funcs.update(dict.fromkeys(counted, 0))
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        checks.funcs.update(counted)
        sys.settrace(tracer)


def _check(victim: Victim, threat: Threat) -> None:
    space = victim.space
    check_images(space)
    if (space.low, space.high) != (0.0, 1.0):
        raise InputError(f"inputs: in [{space.low:g}, {space.high:g}]; the reference AutoAttack takes [0, 1]")
    if threat.norm != "linf" and min(space.shape[1:]) < 5:
        raise InputError(f"inputs: shape {space.shape}; the reference Square needs 5 x 5 pixels in {threat.norm}")
    if victim.x.dtype != torch.float32:
        raise InputError(f"dtype: {victim.x.dtype}; the reference AutoAttack computes in torch.float32 alone")


PRESETS: dict[str, object] = {"autoattack-reference": ReferenceAutoAttack()}
