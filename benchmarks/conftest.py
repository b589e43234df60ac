"""pytest-benchmark over the cases of timing.py, each beside its peer; `--bench-size` and `--bench-device` pick what."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_meta import timing

Race = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-size", default="full", choices=timing.SIZES)
    parser.addoption("--bench-device", default="cpu", choices=("cpu", "cuda"))
    parser.addoption("--bench-rounds", default=5, type=int)
    parser.addoption("--bench-data-root", default=None, type=Path)


@pytest.fixture(autouse=True)
def steady() -> None:
    torch.set_num_threads(1)
    timing.steady_allocator()


@pytest.fixture
def race(request: pytest.FixtureRequest, benchmark: Any) -> Race:
    """Time one side of a case by the case's own clock, and note what a time says nothing about."""
    option = request.config.getoption

    def run(name: str, side: str) -> None:
        device, size = option("--bench-device"), timing.SIZES[option("--bench-size")]
        try:
            setup = timing.set_up(timing.CASES[name], size, device=device, root=option("--bench-data-root"))
            call = timing.ours(setup) if side == "ours" else timing.peers().peer(setup)  # type: ignore[union-attr]
        except timing.NotThereError as error:
            pytest.skip(f"not there: {error}")
        first = timing.first_calls(setup, call)
        benchmark.group = name
        benchmark.extra_info.update(timing.describe_machine(device), case=name, side=side, size=option("--bench-size"))
        benchmark.extra_info.update(forwards=first.meter.forwards, backwards=first.meter.backwards)
        benchmark.extra_info.update(peak_mib=first.peak_mib, survived=first.survived)
        if device == "cuda":
            rounds = [timing.timed(call, device).seconds for _ in range(option("--bench-rounds"))]
            benchmark.extra_info.update(event_seconds=rounds)
        benchmark.pedantic(call, args=(None,), rounds=option("--bench-rounds"), iterations=1, warmup_rounds=0)
        assert first.meter.forwards > 0

    return run


def clock() -> float:
    """The CPU time of this process; where CUDA is in use, the wall after what was queued has run."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()
