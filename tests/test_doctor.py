"""The doctor says what is there, and of every trap what to do about it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from robustbench_meta import checkpoint, doctor, downloads
from robustbench_meta.doctor import Check

Run = Callable[..., tuple[int, str, str]]


def found(checks: list[Check]) -> dict[str, Check]:
    return {one.name: one for one in checks}


def test_one_screen_tells_versions_machine_data_and_checkpoints(rbm: Run) -> None:
    started = time.process_time()
    status, out, err = rbm("doctor")
    assert time.process_time() - started < 10
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert 15 < len(lines) < 30
    assert any(line.split()[1:3] == ["no", "download"] and "navigation, reach" in line for line in lines)
    names = [line.split()[1] for line in lines if line.strip() and not line.startswith(" ")]
    assert {"versions", "ray", "processor", "memory", "threads", "gpu", "checkpoints", "disk", "browser"} <= {*names}
    assert f"torch {torch.__version__}" in out
    assert "pyautoattack" in out
    assert f"{len(checkpoint.shipped())} in " in out
    assert "data omniglot" in out


def test_the_json_holds_the_same_checks(rbm: Run, tmp_path: Path) -> None:
    status, out, _ = rbm("doctor", "--json")
    assert status == 0
    rows = json.loads(out)
    assert {tuple(row) for row in rows} == {("name", "state", "text")}
    assert {row["state"] for row in rows} <= {"ok", "optional", "warning"}
    assert [row["name"] for row in rows] == [one.name for one in doctor.examine(tmp_path / "results")]
    assert all("\n" not in row["text"] for row in rows)


def test_a_broken_shipped_checkpoint_ends_with_status_3(
    rbm: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    copy = Path(shutil.copytree(checkpoint.shipped()[0], tmp_path / "shipped"))
    monkeypatch.setattr(checkpoint, "shipped", lambda: [copy])
    assert found(doctor.examine(tmp_path))["checkpoints"].state == "ok"
    weights = copy / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    status, out, err = rbm("doctor")
    assert (status, err) == (3, "rbm: doctor: broken: checkpoints\n")
    assert "has SHA-256" in out
    monkeypatch.setattr(checkpoint, "shipped", list)
    assert found(doctor.examine(tmp_path))["checkpoints"].state == "broken"


def test_old_torch_and_a_missing_package_are_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name in ("pyautoattack", "ray") else version(name))
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    monkeypatch.setattr(doctor, "find_spec", lambda name: SimpleNamespace() if name == "autoattack" else None)
    checks = found(doctor.examine(tmp_path))
    assert (checks["torch"].state, "use 2.10" in checks["torch"].text) == ("broken", True)
    assert (checks["packages"].state, "pyautoattack" in checks["packages"].text) == ("broken", True)
    assert checks["autoattack"].state == "warning"
    assert (checks["ray"].state, "pip install" in checks["ray"].text) == ("optional", True)


def test_threads_unset_and_too_many_are_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    text = "8 on 2 cores wait for one another: OMP_NUM_THREADS=2"
    assert found(doctor.examine(tmp_path))["threads"] == Check("threads", "warning", text)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS is unset" in found(doctor.examine(tmp_path))["threads"].text
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert found(doctor.examine(tmp_path))["threads"].state == "ok"


def test_memory_disk_and_the_store_are_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_memory", lambda: 1.0e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1.5e9))
    cells = tmp_path / "results" / "cells"
    cells.mkdir(parents=True)
    (cells / f"{'ab' * 32}.jsonl").write_text('{"schema": 99, "cell": {}}\n')
    checks = found(doctor.examine(tmp_path / "results"))
    assert checks["memory"].text.startswith("1.0 GB free; ")
    assert checks["disk"].text == f"1.5 GB free at {tmp_path / 'results'}; make room"
    assert (checks["store"].state, "schema version 99" in checks["store"].text) == ("warning", True)


def test_places_that_cannot_be_written_are_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A superuser may write everywhere, so the refusal itself is the test's.
    monkeypatch.setattr(doctor, "_writable", lambda folder: False)
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    checks = found(doctor.examine(tmp_path))
    assert (checks["temporary"].state, "set TMPDIR" in checks["temporary"].text) == ("broken", True)
    assert (checks["home"].state, "set MPLCONFIGDIR" in checks["home"].text) == ("warning", True)
    assert (checks["results"].state, "--out" in checks["results"].text) == ("warning", True)
    (tmp_path / "file").write_text("")
    assert found(doctor.examine(tmp_path / "file" / "results"))["results"].state == "broken"


def test_data_that_are_not_there_are_named_with_the_command_that_brings_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(downloads.DATA_VARIABLE, raising=False)
    assert found(doctor.examine(tmp_path))["data root"].state == "warning"
    checks = found(doctor.examine(tmp_path, tmp_path))
    assert checks["data root"] == Check("data root", "ok", str(tmp_path))
    assert checks["data cifar-fs"].state == "optional"
    assert "rbm data get cifar-fs" in checks["data cifar-fs"].text
    assert "rbm data check parallel-text --data-root FOLDER" in checks["data parallel-text"].text
    assert checks["no download"].state == "ok"
    assert {"strokes", "reach", "transduction"} <= {
        *checks["no download"].text.removeprefix("ready as they are: ").split(", ")
    }


def test_a_gpu_that_torch_cannot_use_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "_smi", lambda: ["NVIDIA X, 100 MiB, 550.1"])
    check = found(doctor.examine(tmp_path))["gpu"]
    assert (check.state, "install a CUDA build" in check.text) == ("warning", True)


def test_a_part_that_cannot_be_looked_at_hides_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def failing() -> int:
        raise RuntimeError("no such\nfile")

    monkeypatch.setattr(doctor, "_cores", failing)
    checks = found(doctor.examine(tmp_path))
    assert checks["processor"] == Check("processor", "broken", "RuntimeError: no such file")
    assert checks["versions"].state == checks["checkpoints"].state == "ok"
