"""AutoAttack (arXiv 2003.01690, section 5), standard version, over all points of all tasks at once.

At most K-1 targets of K classes: the reference asks for 9, and 5 in L1. No DLR loss exists for 2 classes and no
targeted one for 3, so there the ensemble is APGD on the cross entropy, FAB and Square, with untargeted DLR where K = 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_meta.ascent import Ensemble, Member, Search
from robustbench_meta.libraries import check_inputs, check_scores, check_square
from robustbench_meta.types import Norm, Streams, Surface, Threat, Victim


@dataclass(frozen=True)
class AutoAttack:
    """Let the members attack in turn what still stands; points that all of them miss keep their best iterate."""

    ce: Member
    dlr: Member
    targeted: Member
    fab: Member
    square: Member

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    surfaces: ClassVar[tuple[Surface, ...]] = ("query",)
    needs_gradient: ClassVar[bool] = True
    needs_single_points: ClassVar[bool] = True
    paints: ClassVar[bool] = True

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        """Return x_adv [P,1,C,H,W], or [P,1,C,samples]; raise InputError where attacks would fail, or fail silently."""
        check_inputs(victim)
        check_square(victim.space, threat.norm)
        if threat.eps == 0:
            return victim.x.clone()
        with torch.no_grad():
            outputs = victim.forward(victim.x, victim.points)
        each = zip(outputs.squeeze(1).chunk(victim.tasks), victim.y.squeeze(1).chunk(victim.tasks), strict=True)
        for task, (scores, labels) in enumerate(each):
            check_scores(scores, labels, task)
        search = Search(victim)
        search.offer(victim.x, outputs, victim.points)
        Ensemble(self.members(outputs.shape[-1])).extend(search, threat, rng)
        return search.x_adv

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack what still stands in `search`."""
        victim = search.victim
        check_inputs(victim)
        check_square(victim.space, threat.norm)
        with torch.no_grad():
            ways = victim.forward(victim.x[:1], victim.points[:1]).shape[-1]
        Ensemble(self.members(ways)).extend(search, threat, rng)

    def members(self, ways: int) -> tuple[Member, ...]:
        """The members that attack tasks of so many classes, in their order."""
        if ways == 2:
            return self.ce, self.fab, self.square
        if ways == 3:
            return self.ce, self.dlr, self.fab, self.square
        return self.ce, self.targeted, self.fab, self.square


PRESETS: dict[str, object] = {}
ENSEMBLES: dict[str, tuple[type[AutoAttack], Mapping[str, str]]] = {
    "autoattack": (
        AutoAttack,
        {"ce": "apgd-ce", "dlr": "apgd-dlr", "targeted": "apgd-t", "fab": "fab-t", "square": "square"},
    )
}
