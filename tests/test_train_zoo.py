"""benchmarks/train_zoo.py on drawn characters: many runs in one call; stopped, killed, failed, and gone on with."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from robustbench_meta import checkpoint, train, zoo
from robustbench_meta.checkpoint import Recipe
from robustbench_meta.types import InputError

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "train_zoo.py"
TINY = """# Tiny.
family = "strokes"
family_options = { train = 4, val = 4, test = 6, samples = 10 }
algorithm = "ALGORITHM"
network = "conv4"
network_options = { width = 4, depth = 2 }
ways = 3
shots = 1
queries = 2
steps = STEPS
meta_batch = 1
validate_every = 4
validate_tasks = 2
validate_attack = "fgsm"
eps = 0.1
"""


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("rbm_train_zoo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


def recipe(folder: Path, name: str, *, algorithm: str = "protonet", steps: int = 8, **fields: str) -> Path:
    text = TINY.replace("ALGORITHM", algorithm).replace("STEPS", str(steps))
    path = folder / f"{name}.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in fields.items()) + text)
    return path


def called(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments), "--device", "cpu"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(called(*arguments), capture_output=True, text=True, env=environment(), timeout=300)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def summary(out: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "summary.jsonl").read_text().splitlines()]
    return {line["name"]: line for line in lines}


def weights(folder: Path) -> bytes:
    return (folder / "weights.safetensors").read_bytes()


def test_one_call_trains_all_skips_what_is_finished_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    good, bad, out = recipe(tmp_path, "good"), recipe(tmp_path, "bad", augment="['zoom']"), tmp_path / "runs"
    ran = run(bad, good, "--out", out, "--seeds", "0,3", "--workers", 2)
    assert ran.returncode == 1, ran.stderr
    found = summary(out)
    states = {name: line["state"] for name, line in found.items()}
    assert list(states.items()) == [
        *(("bad", "failed"), ("good", "finished")),
        *(("bad-seed3", "failed"), ("good-seed3", "finished")),
    ]
    assert "augment: 'zoom' is not one of" in found["bad"]["detail"]
    assert ran.stderr.splitlines()[-1] == "rbm: zoo: failed: bad, bad-seed3"
    for name, line in found.items():
        if line["state"] == "finished":
            card = checkpoint.load(out / name).card
            assert card.recipe.seed == (3 if name.endswith("seed3") else 0)
            assert card.chosen is not None
            assert (line["clean"], line["robust"]) == (card.chosen.clean, card.chosen.robust)
            assert (line["step"], line["seconds"], line["device"]) == (8, card.train_seconds, "cpu")
            row = next(row for row in ran.stdout.splitlines() if row.split()[:2] == [name, "finished"])
            assert f"{100 * card.chosen.clean:.1f}" in row
    before = weights(out / "good")
    again = run(good, "--out", out)
    assert again.returncode == 0
    assert "begins" not in again.stdout
    assert weights(out / "good") == before


def test_a_budget_stops_what_runs_and_begins_nothing_more(tmp_path: Path) -> None:
    path, out = recipe(tmp_path, "tiny", steps=100_000), tmp_path / "runs"
    ran = run(path, "--out", out, "--seeds", "0,1", "--budget", "8s")
    assert ran.returncode == 4, ran.stderr
    assert "2 of 2 are not finished; the same command goes on" in ran.stderr
    stopped = summary(out)
    assert stopped["tiny"]["state"] == "unfinished"
    assert stopped["tiny"]["step"] > 0
    assert stopped["tiny-seed1"]["state"] == "waiting"
    assert not (out / "tiny-seed1").exists()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_driver_takes_its_workers_along_and_nothing_is_lost(
    script: Any, sign: signal.Signals, tmp_path: Path
) -> None:
    path, out = recipe(tmp_path, "tiny", steps=20_000), tmp_path / "runs"
    # Into a file: a worker that outlives its driver would hold a pipe open.
    with (tmp_path / "said").open("w") as said:
        driver = subprocess.Popen(called(path, "--out", out), env=environment(), stdout=said, stderr=said)
    resume, deadline = out / "tiny" / "resume.safetensors", time.monotonic() + 300
    while not resume.exists() and time.monotonic() < deadline:  # written before the first validation
        time.sleep(0.1)
    driver.send_signal(sign)
    assert driver.wait(120) == (4 if sign == signal.SIGTERM else -sign)
    with script.locked(out / "tiny", time.time() + 120):  # which the worker gives up where it ends
        pass
    step, _, seen = script.so_far(resume)
    assert step >= 4
    assert seen is not None  # after the first state that it had saved

    def stop(now: train.Progress) -> None:
        assert step <= now.step <= step + 1  # a validation that was due comes before the next step
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train.train(Recipe.model_validate(zoo.fields_of(path)), out / "tiny", progress=stop)


def test_a_run_is_trained_by_one_process_at_a_time(script: Any, tmp_path: Path) -> None:
    with (
        script.locked(tmp_path / "run", time.time() + 5),
        pytest.raises(InputError, match=f"another process trains {tmp_path}/run"),
        script.locked(tmp_path / "run", time.time()),
    ):
        pytest.fail("it was let in")
    with script.locked(tmp_path / "run", time.time()):
        pass


def test_what_is_finished_enters_the_zoo_and_what_is_no_better_stays_outside(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Recipe.model_validate(zoo.fields_of(recipe(tmp_path, "tiny")))
    monkeypatch.setattr(zoo, "recipes", lambda: {"tiny": made})
    shelf = tmp_path / "zoo"
    train.train(made, tmp_path / "runs" / "tiny")
    ours = checkpoint.load(tmp_path / "runs" / "tiny").card
    words = [str(tmp_path / "tiny.toml"), "--device", "cpu", "--copy-to", str(shelf), "--page", str(tmp_path / "none")]
    assert script.main([*words, "--out", str(tmp_path / "runs")]) == 0
    assert zoo.read_manifest(shelf / "zoo.json").checkpoints == {"tiny": zoo.pin_of(ours)}
    assert summary(tmp_path / "runs")["tiny"]["detail"] == f"added in {shelf}"
    assert script.main([*words, "--out", str(tmp_path / "runs")]) == 0
    assert summary(tmp_path / "runs")["tiny"]["detail"] == f"same in {shelf}"
    looks = tuple(look.model_copy(update={"clean": look.clean - 0.01}) for look in ours.history)
    checkpoint.save(tmp_path / "worse" / "tiny", ours.model_copy(update={"history": looks}), weights(shelf / "tiny"))
    assert script.main([*words, "--out", str(tmp_path / "worse")]) == 1
    assert "stays: its validation accuracy is" in summary(tmp_path / "worse")["tiny"]["detail"]
    assert "may enter the zoo" in capsys.readouterr().err
    assert checkpoint.load(shelf / "tiny").card == ours
    assert script.main([*words, "--out", str(tmp_path / "worse"), "--replace"]) == 0
    assert checkpoint.load(shelf / "tiny").card.history == looks


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such"], "recipe: 'no-such' is unknown"),
        (["strokes-*-nothing"], "recipe: 'strokes-*-nothing' matches none of cifar-fs-"),
        (["strokes-protonet-aq", "--seeds", "0,x"], "seeds: 'x' is not a whole number"),
        (["strokes-protonet-aq", "--budget", "soon"], "budget: 'soon' is not a time"),
        (["strokes-protonet-aq", "a/strokes-protonet-aq.toml"], "recipe: a/strokes-protonet-aq.toml is not a file"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    script: Any, arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([*arguments, "--out", str(tmp_path / "runs"), "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "runs").exists()


def test_patterns_mean_shipped_names_and_the_first_seed_of_all_comes_before_the_second_of_any(
    script: Any, tmp_path: Path
) -> None:
    jobs = script.plan(["strokes-protonet-standard", "strokes-*", "omniglot-protonet-aq"], "0,7", tmp_path, None)
    strokes = sorted(name for name in zoo.recipes() if name.startswith("strokes-") and not name.endswith("standard"))
    names = [job.name for job in jobs]
    assert names[0] == "strokes-protonet-standard"
    assert set(strokes) <= set(names)
    half = len(names) // 2
    assert names[half - 1] == "omniglot-protonet-aq"
    assert names[half:] == [f"{name}-seed7" for name in names[:half]]
    assert all(zoo.made_by(job.name) == job.recipe for job in jobs)
