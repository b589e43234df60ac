"""The files of benchmarks/ run, so that they cannot rot: every case once at the smallest size, the trials' table."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_meta import engine, timing

ROOT = Path(__file__).resolve().parents[1]


def test_every_benchmark_runs_once_with_its_peer(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", str(ROOT / "benchmarks"), "--bench-size", "tiny", "-q", "-k"]
    command += ["not standard and not cifar", "-p", "no:cacheprovider", "--color=no"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|skipped)", done.stdout)}
    there = 0
    for name in timing.RUN_CASES:
        try:
            timing.set_up(timing.CASES[name], timing.SIZES["tiny"])
            there += 2
        except timing.NotThereError:
            continue
    assert counts["passed"] == there
    assert there + counts.get("skipped", 0) == 2 * len(timing.RUN_CASES)


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def trials() -> Any:
    return load("gate_trials")


def test_the_table_of_trials_counts_failures_with_exact_intervals(trials: Any, tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    rows = [
        {"arm": arm, "trial": trial, "said": said, "rounds": [{"ratio": ratio}] * (2 if said == "failed" else 1)}
        for arm, said, ratio in (("identical", "passed", 1.0), ("planted-1.5", "failed", 1.5))
        for trial in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = trials.report(path)
    # 1 - 0.025 ** (1/10) is the end of the exact interval of 0 of 10.
    assert "| identical | 10 | 0 | 0 to 31 % | 0 | 1.000 (1.000 to 1.000) |" in table
    assert "| planted-1.5 | 10 | 10 | 69 to 100 % | 10 | 1.500 (1.500 to 1.500) |" in table
    assert "planted-1.1" not in table


@pytest.mark.parametrize(("arm", "expected"), [("identical", 250), ("planted-1.1", 275), ("planted-1.5", 375)])
def test_a_planted_commit_makes_exactly_as_much_more_work_as_its_name_says(
    trials: Any, monkeypatch: pytest.MonkeyPatch, arm: str, expected: int
) -> None:
    monkeypatch.setattr(engine.Learner, "adapt", engine.Learner.adapt)  # put back afterwards
    exec(trials.PLANTED.format(share=trials.ARMS[arm]), dict(vars(engine)))
    meter = timing.Meter()
    timing.ours(timing.set_up(timing.CASES[trials.CASE], timing.SIZES["small"]))(meter)
    assert meter.forwards == expected


def test_parity_counts_verdicts_that_differ_in_either_direction_among_the_clean_correct() -> None:
    parity = load("parity")
    one = pd.DataFrame(
        {"task": [0, 1], "clean": [[1, 1, 1, 0], [1, 1, 1, 1]], "survived": [[1, 0, 0, 0], [1, 1, 0, 0]]}
    )
    other = pd.DataFrame({"task": [1, 0], "clean": [[1] * 4, [1, 1, 1, 0]], "survived": [[0, 0, 0, 0], [1, 1, 1, 0]]})
    found = parity.difference(one, other)
    assert (found["tasks"], found["differ"], found["clean_correct"]) == (2, 4, 7)
    assert found["share"] == pytest.approx(4 / 7)
    assert found["mean_difference"] == pytest.approx(0)  # task 0 loses two of four, task 1 gains two
    assert found["low"] < 4 / 7 < found["high"]
