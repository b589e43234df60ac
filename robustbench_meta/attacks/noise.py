"""Random draws from the ball, or of words and labels: what chance alone finds, the floor under every attack."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustbench_meta import threats
from robustbench_meta.ascent import Search
from robustbench_meta.types import InputError, Norm, Streams, Surface, Threat, Victim


@dataclass(frozen=True)
class Noise:
    """Keep the most harmful of `draws` uniform draws from the ball, or of words or labels to replace."""

    draws: int = 20

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1", "words", "labels")
    surfaces: ClassVar[tuple[Surface, ...]] = ("query", "support")
    needs_gradient: ClassVar[bool] = False
    needs_single_points: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= 100_000:
            raise InputError(f"draws: {self.draws} is not between 1 and 100000")

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        if threat.eps == 0:
            return victim.x.clone()
        search = Search(victim)
        self.extend(search, threat, rng)
        return search.x_adv

    def extend(self, search: Search, threat: Threat, rng: Streams) -> None:
        """Attack what still stands in `search`, which keeps the most harmful draw."""
        victim = search.victim
        for _ in range(self.draws):
            # Drawn for all points, so that what one point meets does not depend on which others still stand.
            x = threats.random_start(victim.x, rng, threat, victim.space)
            points = search.standing()
            if not len(points):
                break
            search.judge(x[points], points)


PRESETS: dict[str, Noise] = {"noise": Noise()}
PATTERNS: dict[str, Callable[[re.Match[str]], Noise]] = {r"noise-(\d+)": lambda m: Noise(draws=int(m[1]))}
