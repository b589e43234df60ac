"""A number with its interval and n as every table writes it, and the marks that refer to a footnote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_meta.flags import WIDEST
from robustbench_meta.outcomes import Outcome
from robustbench_meta.ranking import better_than_constant

NOTHING = "\N{EN DASH}"
LACKING, CONSTANT_MARK = "†", "‡"


@dataclass(frozen=True)
class Value:
    """A mean in [0, 1] (or a difference) with its half-width and n; `mark` refers to a footnote."""

    mean: float
    half: float
    n: int
    mark: str = ""
    signed: bool = False

    @property
    def known(self) -> bool:
        return not math.isnan(self.mean)

    @property
    def text(self) -> str:
        """Write "38.2 ± 1.1", in percent or percentage points, or that n is too small for a number."""
        if not self.known:
            return NOTHING
        if not self.firm:
            return f"n = {self.n} too small{self.mark}"
        return f"{self.percent} ± {100 * self.half:.1f}{self.mark}"

    @property
    def percent(self) -> str:
        return f"{100 * self.mean:+.1f}" if self.signed else f"{100 * self.mean:.1f}"

    @property
    def firm(self) -> bool:
        """Whether there is an interval, and one narrow enough to be worth a number."""
        return self.half <= WIDEST

    @property
    def decided(self) -> bool:
        """Whether a difference's interval leaves out 0."""
        return self.firm and abs(self.mean) > self.half


NONE = Value(math.nan, math.nan, 0)


def robust_value(outcome: Outcome | None) -> Value:
    """Return an entry's best known worst case at one eps, marked where footnotes apply."""
    if outcome is None or not len(outcome.known):
        return Value(math.nan, math.nan, 0)
    mean, half = outcome.accuracy("known")
    useless = not better_than_constant(mean, half, outcome.board.constant)
    mark = (LACKING if not outcome.complete else "") + (CONSTANT_MARK if useless else "")
    return Value(mean, half, len(outcome.known), mark)


def counts(values: Sequence[Value]) -> str:
    """Write n, once if it is the same at every eps where there is one."""
    each = [str(value.n) if value.known and value.n else NOTHING for value in values]
    known = set(each) - {NOTHING}
    return ", ".join(each) if len(known) > 1 else next(iter(known), NOTHING)


def with_n(value: Value, n: str) -> str:
    """Write a value, with its n where the row's `n` is not that one number."""
    return f"{value.text} (n = {value.n})" if value.n and value.firm and n != str(value.n) else value.text


def share(percents: tuple[float, float], n: int) -> str:
    """Write a mean and half-width in % over n tasks as a Value is written."""
    return Value(percents[0] / 100, percents[1] / 100, n).text
