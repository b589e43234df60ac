"""benchmarks/gpu.py at its smallest on a CPU: every section runs, and what it writes makes sense."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_meta import timing
from robustbench_meta.timing import NotThereError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def gpu() -> Any:
    spec = importlib.util.spec_from_file_location("rbm_gpu", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(gpu: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RBM_DATA", raising=False)
        assert gpu.main(["--out", str(out), "--device", "cpu", "--size", "tiny"]) == 0
    return out


@pytest.fixture(scope="module")
def found(written: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report: dict[str, Any] = json.loads((written / "gpu.json").read_text(), parse_constant=refuse)
    return report


def test_every_section_is_done_and_no_measurement_failed(gpu: Any, found: dict[str, Any]) -> None:
    assert list(found["sections"]) == list(gpu.SECTIONS)
    for name, section in found["sections"].items():
        assert section["status"] == "done", (name, section["reason"])
        assert section["rows"]
        assert not [row for row in section["rows"] if "failed" in row]


def test_every_algorithm_and_backend_says_on_the_device_what_the_loop_says_on_the_cpu(
    gpu: Any, found: dict[str, Any]
) -> None:
    rows = found["sections"]["correctness"]["rows"]
    assert {(row["algorithm"], row["backend"]) for row in rows} == {
        (name, backend) for name in timing.ALGORITHMS for backend in gpu.backends(name)
    }
    for row in rows:
        assert row["ok"]
        assert row["pgd-20"] >= 0.99
        assert row["apgd-ce"] >= 0.99
        limit = 1e-8 if row["dtype"] == "float64" else 1e-3
        assert max(row["scores"], row["gradient"], row.get("recomputed", 0)) <= limit
    assert any(0 < row["pgd-20 survived"] < 1 for row in rows)
    assert {row["algorithm"] for row in rows if "recomputed" in row} == {"maml", "anil"}


def test_times_ratios_and_shares_are_positive_and_scaled_by_the_task(found: dict[str, Any]) -> None:
    rows = [row for name in ("chunks", "peers", "grids") for row in found["sections"][name]["rows"]]
    timed = [row for row in rows if "not there" not in row]
    assert all(row["ms_per_task"] > 0 for row in timed)
    for row in found["sections"]["peers"]["rows"]:
        assert row["ratio"] == pytest.approx(row["peer_ms_per_task"] / row["ms_per_task"])
    cells = {row["checkpoint"]: row["cells"] for row in timed if "cells" in row}
    # Three attacks at one budget and shot; steps are an axis only where adaptation has them.
    assert cells == {"strokes-protonet-aq": 3, "strokes-fomaml-untrained": 9, "strokes-protonet-standard": 3}
    work = [row for row in found["sections"]["roofline"]["rows"] if "gflop" in row]
    assert len(work) == 5
    assert all(min(row["share of product"], row["share of copy"]) > 0 for row in work)


def test_equal_work_is_seen_on_both_sides_of_a_meta_step(found: dict[str, Any]) -> None:
    rows = {row["case"]: row for row in found["sections"]["peers"]["rows"]}
    for name in ("meta-step/maml", "meta-step/fomaml", "meta-step/protonet", "meta-step/r2d2"):
        assert rows[name]["forwards_per_task"] == rows[name]["peer_forwards_per_task"]


def test_variants_say_the_same_or_why_they_are_not_there(found: dict[str, Any]) -> None:
    for row in found["sections"]["variants"]["rows"]:
        if row["variant"] in ("compiled", "plain predict"):
            assert row.get("verdicts equal", 1) >= 0.99
            assert row.get("apart", 0) <= 1e-3
        elif row["variant"] != "as it is":
            assert row["not there"] == "needs a GPU"


def test_the_page_begins_with_the_device_and_ends_with_defaults(written: Path) -> None:
    text = (written / "gpu.md").read_text()
    assert text.startswith("# cpu\n")
    assert f"torch {torch.__version__}" in text[:300]
    last = text.split("\n## ")[-1]
    assert last.startswith("CUDA defaults that these figures suggest\n\nNone: this was no GPU.")


def chunk_rows(name: str, times: dict[str, dict[int, float]]) -> list[dict[str, Any]]:
    return [
        {"case": name, "backend": backend, "tasks": tasks, "ms_per_task": ms}
        for backend, by_tasks in times.items()
        for tasks, ms in by_tasks.items()
    ]


def test_the_fastest_backend_is_suggested_with_the_least_chunk_that_is_nearly_as_fast(gpu: Any) -> None:
    protonet = {"loop": {1: 8.0, 32: 8.0}, "vmap": {1: 9.0, 32: 2.0}, "flat": {1: 9.0, 8: 1.04, 32: 1.0}}
    maml = {"loop": {1: 4.0, 4: 4.0}, "vmap": {1: 9.0, 4: 8.0}}
    rows = chunk_rows("meta-step/protonet", protonet) + chunk_rows("meta-step/maml", maml)
    rows.append({"case": "meta-step/maml", "backend": "vmap", "tasks": 32, "failed": "OutOfMemoryError"})
    sections = {"chunks": {"rows": rows}}
    first, second = gpu.suggest(sections)
    assert (first["backend"], first["chunk"], first["times as fast as the default"]) == ("flat", 8, 1.0)
    assert (second["backend"], second["chunk"], second["default"]) == ("loop", 1, "vmap")
    assert second["times as fast as the default"] == 2.0
    assert gpu.overall(sections, "flat") == pytest.approx(math.sqrt(1 * 2))
    assert gpu.overall(sections, "loop") == pytest.approx(math.sqrt(8 * 1))
    assert any("`loop` is 2.00x as fast as the default `vmap`" in line for line in gpu.conclusions(sections))


def test_conclusions_name_missed_targets_and_wrong_answers(gpu: Any) -> None:
    sections = {
        "peers": {
            "rows": [
                {"case": "attack/pgd-20", "tasks": 200, "ratio": 31.0, "target": 30.0},
                {"case": "meta-step/maml", "tasks": 32, "ratio": 9.0, "target": 10.0},
            ]
        },
        "correctness": {"rows": [{"algorithm": "r2d2", "backend": "flat", "dtype": "float64", "ok": False}]},
    }
    lines = gpu.conclusions(sections)
    assert "- attack/pgd-20 at 200 tasks: 31.0x its peer, 30 met." in lines
    assert "- meta-step/maml at 32 tasks: 9.0x its peer, 10 missed." in lines
    assert "- WRONG: r2d2, flat, float64: see correctness." in lines


def test_a_section_that_fails_keeps_its_rows_and_does_not_stop_the_others(gpu: Any, tmp_path: Path) -> None:
    def failing(run: Any) -> Iterator[dict[str, Any]]:
        yield {"what": "before"}
        raise ValueError("a planted error")

    def missing(run: Any) -> Iterator[dict[str, Any]]:
        def raises() -> dict[str, Any]:
            raise NotThereError("no such library")

        yield gpu.attempt({"what": "peer"}, raises)
        yield gpu.attempt({"what": "division"}, lambda: {"value": 1 / 0})
        yield {"what": "infinite", "value": math.inf}

    run = gpu.Run(gpu.TINY, "cpu")
    report = gpu.Report({"date": "today", "size": "tiny", "budget": 9.0, "device": "cpu"})
    gpu.perform({"first": (failing, 1), "second": (missing, 1)}, run, report, budget=9.0, out=tmp_path)
    found = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert (found["first"]["status"], found["first"]["reason"]) == ("failed", "ValueError: a planted error")
    assert found["first"]["rows"] == [{"what": "before"}]
    assert found["second"]["status"] == "done"
    peer, division, infinite = found["second"]["rows"]
    assert peer["not there"] == "no such library"
    assert division["failed"].startswith("ZeroDivisionError")
    assert infinite["value"] is None


def test_a_section_ends_when_its_time_is_over_even_inside_a_measurement(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def endless(run: Any) -> Iterator[dict[str, Any]]:
        while True:
            time.sleep(0.01)
            yield {"what": "row"}

    def stuck(run: Any) -> Iterator[dict[str, Any]]:
        yield {"what": "row"}
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # what a library that catches everything would do
                continue

    monkeypatch.setattr(gpu, "GRACE", 4.0)
    run = gpu.Run(gpu.TINY, "cpu")
    report = gpu.Report({"date": "today", "size": "tiny", "budget": 4.0, "device": "cpu"})
    sections = {"endless": (endless, 1), "stuck": (stuck, 1), "late": (endless, 1)}
    started = time.monotonic()
    gpu.perform(sections, run, report, budget=4.0, out=tmp_path)
    assert time.monotonic() - started < 60
    assert [section["status"] for section in report.sections.values()] == ["cut", "cut", "skipped"]
    assert len(report.sections["endless"]["rows"]) > 1
    assert report.sections["stuck"]["rows"] == [{"what": "row"}]


def test_an_unknown_section_is_refused_by_name(gpu: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path), "--sections", "speed"])
    assert "'speed' is unknown; legal: environment, correctness" in capsys.readouterr().err


def test_a_compared_peer_of_fewer_tasks_is_scaled_by_the_task() -> None:
    sizes = [timing.at_tasks(timing.SIZES["tiny"], tasks) for tasks in (4, 1)]
    found = timing.compare(timing.CASES["attack/square"], sizes[0], samples=1, peer_size=sizes[1])
    assert found.ours is not None
    assert found.peer is not None
    assert found.share == 0.25
    assert found.ratio == found.peer.median / found.ours.median * 4


def test_a_library_that_cannot_be_imported_leaves_our_side_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foolbox", None)
    found = timing.compare(timing.CASES["attack/fgsm"], timing.SIZES["tiny"], samples=1)
    assert found.ours is not None
    assert found.peer is None
    assert found.note.startswith("no peer: foolbox cannot be imported")
