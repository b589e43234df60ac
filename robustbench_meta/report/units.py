"""What a budget is in the units of a field: for sound, the least ratio of signal to noise that it leaves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from robustbench_meta.outcomes import Board, eps_text

# The root mean square to which a family scales all its recordings; tests hold it against the family's own.
LEVELS = {"spoken-digits": 0.05, "spoken-new-digits": 0.05}


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two powers in decibels; infinite without noise."""
    return 10 * math.log10(signal / noise) if noise and signal else math.copysign(math.inf, signal - noise)


def budgets(board: Board, eps: Sequence[float]) -> str:
    """Say what every eps means for the recordings of a board; empty where nothing is known of its family."""
    level = LEVELS.get(board.family)
    if level is None or board.norm != "linf":
        return ""
    told = [
        f"{eps_text(one)} leaves {decibels(level**2, one**2):.1f} dB" for one in sorted(eps, reverse=True) if one > 0
    ]
    return f"Signal to noise: recordings have a root mean square of {level:g}, so ε = {', '.join(told)} at the least."
