"""The command line: one line for what is wrong, an exit status for scripts, nothing heavy before it is needed."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from test_grid import FAMILY, RECIPE, Failing, saved

from robustbench_meta import audit, catalog, cli, executors, store, zoo
from robustbench_meta.cli_train import read_recipe

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ("--eps", "0.05", "--queries", "3", "--tasks", "2", "--device", "cpu", "--no-audit")
TINY = [f"family_options.{field}={value}" for field, value in FAMILY.items()]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("zoo") / "tiny")


@pytest.fixture
def failing() -> Iterator[str]:
    """A plug-in attack that raises."""
    presets = catalog.shelf("attacks").presets
    presets["failing"] = Failing()
    yield "failing"
    del presets["failing"]


def test_help_answers_within_two_seconds_and_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['rbm', '--help']\n"
        "from robustbench_meta.cli import app\n"
        "try: app()\n"
        "finally: print('loaded', [m for m in ('torch', 'numpy', 'pandas', 'pydantic') if m in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        seconds.append(time.perf_counter() - started)
    assert done.returncode == 0
    assert "loaded []" in done.stdout
    assert all(command in done.stdout for command in ("demo", "train", "evaluate", "report", "data", "list"))
    assert min(seconds) < 2


def test_every_command_explains_itself(rbm: Run) -> None:
    commands = ("demo", "train", "evaluate", "report", "compare", "verify", "doctor", "list")
    for command in (*commands, "data", "data get", "data check"):
        status, out, err = rbm(*command.split(), "--help")
        assert (status, err) == (0, "")
        assert "Usage" in out
    assert rbm()[0] == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", rbm("--version")[1])


def test_evaluate_prints_a_table_and_run_again_does_nothing(rbm: Run, ckpt: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", "--ckpt", ckpt, "--attacks", "fgsm,pgd-3", *OPTIONS, "--out", "r")
    status, out, err = rbm(*arguments)
    assert status == 0
    assert "2 cells of 2 tasks, 0 done, 2 to run" in err
    assert [line.split()[0] for line in out.splitlines()] == ["checkpoint", "tiny", "tiny", "steps"]
    assert out.splitlines()[-1] == "steps –, task strokes 3w2s, surface query, n 2, seed 0"
    before = {path: path.read_bytes() for path in (tmp_path / "r" / "cells").iterdir()}
    status, again, err = rbm(*arguments)
    assert (status, again) == (0, out)
    assert "2 done, 0 to run" in err
    assert {path: path.read_bytes() for path in (tmp_path / "r" / "cells").iterdir()} == before


def test_evaluate_takes_lists_norms_and_a_second_checkpoint(rbm: Run, ckpt: Path, tmp_path: Path) -> None:
    other = saved(tmp_path / "other", RECIPE.model_copy(update={"algorithm": "anil"}), seed=1)
    lists = ("--shots", "1,2", "--steps", "1, 2", "--attacks", "fgsm", "--norm", "linf,l2", "--eps", "8/255")
    status, _, err = rbm(
        "evaluate",
        "--ckpt",
        ckpt,
        "--ckpt",
        other,
        *lists,
        "--queries",
        3,
        "--tasks",
        1,
        "--device",
        "cpu",
        "--no-audit",
    )
    assert status == 0
    assert f"{2 * 2 + 2 * 2 * 2} cells" in err
    assert len(list((tmp_path / "results" / "cells").iterdir())) == 12


def test_evaluate_on_another_family_where_the_space_fits(rbm: Run, ckpt: Path) -> None:
    fitting = ("--family", "strokes", "--family-option", "test=6", "--family-option", "samples=8")
    assert rbm("evaluate", "--ckpt", ckpt, "--attacks", "fgsm", *fitting, *OPTIONS)[0] == 0


def test_a_budget_takes_the_place_of_tasks(rbm: Run, ckpt: Path) -> None:
    arguments = (
        "evaluate",
        "--ckpt",
        ckpt,
        "--attacks",
        "fgsm",
        "--eps",
        "0.1",
        "--queries",
        3,
        "--device",
        "cpu",
        "--no-audit",
    )
    status, _, err = rbm(*arguments, "--budget", "1s")
    assert status == 0
    assert re.search(r"budget: \d+ tasks for each cell", err)


@dataclass(frozen=True)
class Pair:
    """A place that takes two units at once."""

    @contextmanager
    def open(self, cargo: executors.Cargo) -> Iterator[executors.Executor]:
        yield executors.InProcess(cargo, slots=2)


@pytest.mark.usefixtures("slow_tasks")
def test_an_estimate_by_earlier_runs_holds_the_audit_and_counts_the_workers(
    rbm: Run, ckpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "DRAWS", 64)
    arguments = ("evaluate", "--ckpt", ckpt, "--attacks", "fgsm", *OPTIONS[:-1])
    assert "earlier runs" not in rbm(*arguments)[2]
    monkeypatch.setattr(executors, "choose_place", lambda *_: Pair())
    # A task more of one cell and of its audit, 100 s each.
    assert "estimated by earlier runs: 2 min, of which the audit 50 s" in rbm(*arguments, "--tasks", 3)[2]


def test_a_failed_cell_ends_in_status_one_and_the_rest_is_there(
    rbm: Run, ckpt: Path, failing: str, tmp_path: Path
) -> None:
    status, out, err = rbm("evaluate", "--ckpt", ckpt, "--attacks", f"{failing},fgsm", *OPTIONS)
    assert status == 1
    assert err.splitlines()[-1] == "rbm: 1 of 2 cells failed; their reasons are in results/errors"
    assert [line.split()[-3:] for line in out.splitlines()[1:3]] == [[one, "not", "audited"] for one in ("error", "ok")]
    (recorded,) = (tmp_path / "results" / "errors").iterdir()
    assert json.loads(recorded.read_text())["reason"] == "RuntimeError: no more patience"


BAD = [
    ("", "ckpt: none given"),
    ("--ckpt nowhere", "ckpt: nowhere is not a folder"),
    ("--ckpt {ckpt} --attacks pdg-20", "attack: 'pdg-20' is unknown; did you mean 'pgd-20'?"),
    ("--ckpt {ckpt} --attacks pgd-0", "steps: 0 is not between"),
    ("--ckpt {ckpt} --attacks ,", "attacks: ',' names nothing"),
    ("--ckpt {ckpt} --eps -1/255", "eps: -1/255 is not a finite number >= 0"),
    ("--ckpt {ckpt} --eps nan", "eps: nan is not a finite number"),
    ("--ckpt {ckpt} --eps inf", "eps: inf is not a finite number"),
    ("--ckpt {ckpt} --eps eight", "eps: 'eight' is not a number such as 8/255 or 0.03"),
    ("--ckpt {ckpt} --eps 8", "did you mean 8/255?"),
    ("--ckpt {ckpt} --norm linf2", "norm: 'linf2' is unknown; did you mean 'linf'?"),
    ("--ckpt {ckpt} --norm l2", "eps: l2 has no default"),
    ("--ckpt {ckpt} --surface suport", "did you mean 'support'?"),
    ("--ckpt {ckpt} --split tset", "did you mean 'test'?"),
    ("--ckpt {ckpt} --shots five", "shots: 'five' is not a whole number"),
    ("--ckpt {ckpt} --shots 0", "shots: 0 is not a whole number >= 1"),
    ("--ckpt {ckpt} --ways 1", "ways: 1 is not a whole number >= 2"),
    ("--ckpt {ckpt} --ways 7", "ways=7: must be from 2 to 6"),
    ("--ckpt {ckpt} --shots 9", "at most 10"),
    ("--ckpt {ckpt} --steps 0", "steps: 0 is not"),
    ("--ckpt {ckpt} --tasks 0 --queries 3", "tasks: 0 is not a whole number >= 1"),
    ("--ckpt {ckpt} --tasks 2 --budget 1m --queries 3", "budget: picks the number of tasks itself"),
    ("--ckpt {ckpt} --budget soon", "budget: 'soon' is not a time"),
    ("--ckpt {ckpt} --device tpu", "device: 'tpu' is not one of auto, cpu, cuda"),
    ("--ckpt {ckpt} --family strikes", "family: 'strikes' is unknown; did you mean 'strokes'?"),
    ("--ckpt {ckpt} --family cifar-fs", "no data root; give --data-root or set RBM_DATA"),
    ("--ckpt {ckpt} --family cifar-fs --data-root nowhere", "is missing"),
    ("--ckpt {ckpt} --family-option folder=x", "family-option: 'folder=x' needs a family"),
    ("--ckpt {ckpt} --family strokes --family-option x", "family-option: 'x' is not of the form key=value"),
    ("--ckpt {ckpt} --family strokes --family-option tset=6", "family_options: 'tset' is unknown"),
    ("--ckpt {ckpt} --ckpt {ckpt} --queries 3", "given twice"),
    ("--ckpt {ckpt} --tasks many", "Invalid value for '--tasks'"),
    ("--cpkt {ckpt}", "No such option"),
    ("--ckpt {ckpt} --workers 0", "workers: 0 is not a whole number from 1 to 1024"),
    ("--ckpt {ckpt} --workers 1.5", "Invalid value for '--workers'"),
    ("--ckpt {ckpt} --workers 100000", "workers: 100000 is not a whole number"),
    ("--ckpt {ckpt} --executor dask", "executor: 'dask' is not one of local, ray"),
    ("--ckpt {ckpt} --executor ray --workers 2", "workers: 2; with executor 'ray' the cluster has as many"),
    ("--ckpt {ckpt} --address 127.0.0.1:1", "address: '127.0.0.1:1' belongs to executor 'ray'"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_bad_input_is_one_line_status_two_and_nothing_written(
    rbm: Run, ckpt: Path, tmp_path: Path, arguments: str, said: str
) -> None:
    status, out, err = rbm("evaluate", *(word.format(ckpt=ckpt) for word in arguments.split()))
    assert (status, out) == (2, "")
    assert said in err
    assert err.startswith("rbm: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_gpu_that_is_named_and_not_there_is_refused(rbm: Run, ckpt: Path) -> None:
    assert rbm("evaluate", "--ckpt", ckpt, "--device", "cuda")[0] == 2


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


def no_card(folder: Path) -> None:
    (folder / "card.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def cut(folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def flip(folder: Path) -> None:
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def page(folder: Path) -> None:
    (folder / "weights.safetensors").write_text("<html>not found</html>")


def pickled(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(pickle.dumps(Bomb()))


def foreign(folder: Path) -> None:
    (folder / "card.json").write_text('{"model": "resnet"}')


def newer(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "schema_version": 99}))


@pytest.mark.parametrize("spoil", [no_card, no_weights, cut, flip, page, pickled, foreign, newer])
def test_a_checkpoint_that_is_broken_or_foreign_is_refused(
    rbm: Run, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    folder = saved(tmp_path / "ckpt")
    spoil(folder)
    status, _, err = rbm("evaluate", "--ckpt", folder)
    assert (status, err.count("\n")) == (2, 1)
    assert "ckpt: " in err
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt"]


def test_a_store_that_cannot_be_written_is_status_three(rbm: Run, ckpt: Path) -> None:
    status, _, err = rbm("evaluate", "--ckpt", ckpt, "--attacks", "fgsm", *OPTIONS, "--out", "/proc/results")
    assert status == 3
    assert err.splitlines()[-1].startswith("rbm: environment: ")


def test_a_file_where_a_folder_is_needed_is_status_two_and_kept(rbm: Run, ckpt: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    evaluated = rbm("evaluate", "--ckpt", ckpt, "--attacks", "fgsm", *OPTIONS, "--out", "file")
    assert evaluated[0] == rbm("train", "strokes-protonet-aq", "--set", "steps=1", "--out", "file/mine")[0] == 2
    assert "a file stands where a folder is needed" in evaluated[2].splitlines()[-1]
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_learner_without_steps_says_that_the_steps_axis_is_not_its(rbm: Run, ckpt: Path) -> None:
    _, _, err = rbm("evaluate", "--ckpt", ckpt, "--attacks", "fgsm", *OPTIONS, "--steps", "1,5")
    assert "tiny: adaptation has no steps; it runs once for the whole steps axis" in err
    assert "1 cells of" in err


def test_training_needs_a_recipe_or_an_algorithm(rbm: Run, tmp_path: Path) -> None:
    status, _, err = rbm("train", "--out", "mine")
    assert (status, err.count("\n")) == (2, 1)
    assert "rbm: recipe: none given" in err
    assert not list(tmp_path.iterdir())


def test_unknown_attacks_are_answered_with_names_and_patterns(rbm: Run, ckpt: Path) -> None:
    assert "pgd-N" in rbm("evaluate", "--ckpt", ckpt, "--attacks", "pdg-20")[2]


def test_report_writes_what_evaluate_left(rbm: Run, ckpt: Path, tmp_path: Path) -> None:
    rbm("evaluate", "--ckpt", ckpt, "--attacks", "fgsm", *OPTIONS)
    status, out, _ = rbm("report", "results", "--out", "pages")
    assert status == 0
    told = {"leaderboard.md", "leaderboard.html", "cells.csv", "report.sha256"}
    assert told <= {Path(line).name for line in out.splitlines()}
    assert all(Path(line).is_file() for line in out.splitlines())


def test_report_of_nothing_says_so(rbm: Run, ckpt: Path, failing: str) -> None:
    assert rbm("report", "nowhere")[0] == 2
    rbm("evaluate", "--ckpt", ckpt, "--attacks", failing, *OPTIONS)
    status, _, err = rbm("report", "results")
    assert (status, err) == (4, "rbm: results: no task was measured in results\n")


def test_train_makes_a_checkpoint_that_evaluate_takes(rbm: Run, tmp_path: Path) -> None:
    small = [f"--set={change}" for change in (*TINY, "network_options.width=4", "network_options.depth=2")]
    small += [f"--set={change}" for change in ("steps=2", "ways=3", "shots=1", "queries=2", "validate_tasks=2")]
    status, _, err = rbm("train", "--algorithm", "protonet", "--defense", "aq", "--family", "strokes", *small)
    assert status == 0
    folder = tmp_path / "checkpoints" / "strokes-protonet-aq"
    recipe = json.loads((folder / "card.json").read_text())["recipe"]
    assert (recipe["defense"], recipe["steps"], recipe["network_options"]["width"]) == ("aq", 2, 4)
    assert "rbm evaluate --ckpt checkpoints/strokes-protonet-aq" in err
    assert rbm("evaluate", "--ckpt", folder, "--attacks", "fgsm", *OPTIONS)[0] == 0


def test_a_recipe_file_is_read_and_changed_by_options(rbm: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('# Mine.\nalgorithm = "anil"\neps = "4/255"\n[network_options]\nwidth = 8\n')
    recipe = read_recipe(str(path), {"defense": "aq"}, ["steps=7", "network_options.depth=3", "norm=l2"], None)
    assert (recipe.algorithm, recipe.defense, recipe.steps, recipe.norm) == ("anil", "aq", 7, "l2")
    assert recipe.eps == 4 / 255
    assert recipe.network_options == {"width": 8, "depth": 3}


def test_without_a_recipe_the_shipped_one_of_that_name_is_the_base() -> None:
    named = {"family": "cifar-fs", "algorithm": "fomaml", "defense": "aq"}
    shipped = read_recipe("cifar-fs-fomaml-aq", {}, [], None)
    assert read_recipe(None, named, [], None) == shipped
    assert read_recipe(None, named, ["steps=9"], None) == shipped.model_copy(update={"steps": 9})
    undefended = {"family": "cifar-fs", "algorithm": "fomaml"}
    assert read_recipe(None, undefended, [], None) == read_recipe("cifar-fs-fomaml-standard", {}, [], None)
    assert read_recipe(None, {"algorithm": "r2d2"}, [], None).steps == 800  # strokes-r2d2-standard
    other = read_recipe(None, {"algorithm": "anil"}, [], None)
    assert (other.family, other.network_options) == ("strokes", {"width": 32})  # the family's own network


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--algorithm protnet", "algorithm: 'protnet' is unknown; did you mean 'protonet'?"),
        ("--defense qa", "defense: 'qa' is unknown"),
        ("--family strikes", "did you mean 'strokes'?"),
        ("--set step=5", "recipe: 'step' is unknown; did you mean 'steps'?"),
        ("--set steps=many", "steps: 'many'"),
        ("--set steps=0", "greater than or equal to 1"),
        ("--set steps", "set: 'steps' is not of the form key=value"),
        ("--set steps.more=1 --set steps=2 --set steps.more=1", "steps holds no options"),
        ("--set eps=9", "did you mean 9/255?"),
        ("--set network_options.width=-4", "width: -4"),
        ("--set network_options.with=4", "'with' is unknown"),
        ("--family cifar-fs", "no data root"),
        ("nowhere.toml", "recipe: nowhere.toml is not a file"),
        ("no-such-recipe", "recipe: 'no-such-recipe' is unknown"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(rbm: Run, tmp_path: Path, arguments: str, said: str) -> None:
    named = ("--algorithm", "protonet") if arguments.startswith("--") and "--algorithm" not in arguments else ()
    status, _, err = rbm("train", *named, *arguments.split(), "--device", "cpu", "--out", "x")
    assert status == 2
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_every_shipped_recipe_is_valid_and_described(rbm: Run) -> None:
    status, out, _ = rbm("list", "recipes")
    assert status == 0
    for path in sorted(zoo.RECIPES.glob("*.toml")):
        recipe = read_recipe(path.stem, {}, [], None)
        assert re.search(rf"^{re.escape(path.stem)} +\S", out, re.MULTILINE)
        catalog.defense(recipe.defense, craft=recipe.craft, **recipe.defense_options)
        catalog.algorithm(recipe.algorithm, **recipe.algorithm_options)


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_list_shows_every_name(rbm: Run, kind: catalog.Kind) -> None:
    status, out, _ = rbm("list", kind)
    assert status == 0
    assert {line.split()[0] for line in out.splitlines() if not line.startswith(" ")} >= set(catalog.names(kind))


def test_a_wrong_word_after_list_or_rbm_is_refused(rbm: Run) -> None:
    assert "did you mean 'attacks'?" in rbm("list", "atacks")[2]
    for arguments in (["evalute"], ["list"], ["report", "a", "b"], ["data", "fetch"]):
        status, _, err = rbm(*arguments)
        assert (status, err.count("\n")) == (2, 1)


def test_data_check_says_what_is_there(rbm: Run, tmp_path: Path) -> None:
    status, out, _ = rbm("data", "check", "strokes")
    assert (status, "strokes: ready" in out) == (0, True)
    status, out, _ = rbm("data", "check", "cifar-fs", "--data-root", tmp_path)
    assert (status, "missing" in out) == (1, True)
    assert "cifar-fs: not ready: " in out
    status, out, _ = rbm("data", "check", "--data-root", tmp_path)
    assert status == 0
    assert {line.partition(":")[0] for line in out.splitlines()} == set(catalog.names("tasks"))
    for name, holds in (
        ("image-folder", "a folder of images for each class"),
        ("parallel-text", "train, val and test"),
    ):
        assert f"{name}: takes your own folder, which holds {holds}" in out
        assert f": rbm data check {name} --data-root FOLDER\n" in out
        assert f"{name}: not ready" not in out
        status, out_of_one, _ = rbm("data", "check", name, "--data-root", tmp_path)
        assert (status, out_of_one.startswith(f"{name}: not ready: {tmp_path}")) == (1, True)
    (tmp_path / "train").mkdir()
    out = rbm("data", "check", "--data-root", tmp_path)[1]
    for name in ("image-folder", "parallel-text"):  # what is wrong with a folder that is there is said
        assert f"{name}: not ready: " in out
    assert "takes your own folder" not in out


def test_data_check_of_real_data(cifar_root: Path, rbm: Run) -> None:
    status, out, _ = rbm("data", "check", "cifar-fs", "--data-root", cifar_root)
    assert status == 0
    assert "cifar-fs: ready, 64 train, 16 val, 20 test classes" in out


def test_data_get_needs_a_root_and_a_name_that_is_known(rbm: Run) -> None:
    assert rbm("data", "get", "strokes")[:2] == (0, "strokes: nothing to download\n")
    status, _, err = rbm("data", "get", "cifar-fs")
    assert (status, "no data root" in err) == (2, True)
    assert "did you mean 'cifar-fs'?" in rbm("data", "get", "cifar-sf")[2]


def test_the_demo_evaluates_both_checkpoints_and_writes_a_report(rbm: Run, tmp_path: Path) -> None:
    status, out, err = rbm("demo", "--tasks", 1, "--out", "d")
    assert status == 0
    assert (tmp_path / "d" / "report" / "leaderboard.html").is_file()
    assert str(tmp_path / "d" / "report") in err
    for name in cli.DEMO:
        assert name in out
    assert set(store.read(tmp_path / "d" / "results").audits["checkpoint"]) == set(cli.DEMO)
    cells = store.read(tmp_path / "d" / "results").cells
    assert set(cells["attack"]) == {"fgsm", "pgd-20", "autoattack"}
    assert set(cells["queries"] * cells["ways"]) == {25}
