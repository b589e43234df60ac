"""Meta-gradients of five algorithms, ours and the peer's: `pytest benchmarks --benchmark-enable`."""

from __future__ import annotations

import pytest
from conftest import Race, clock

from robustbench_meta import timing

NAMES = [case.name for case in timing.CASES.values() if case.kind == "meta-step"]


@pytest.mark.benchmark(timer=clock)
@pytest.mark.parametrize("side", ["ours", "peer"])
@pytest.mark.parametrize("name", NAMES)
def test_speed_of_meta_steps(race: Race, name: str, side: str) -> None:
    race(name, side)
