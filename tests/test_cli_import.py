"""`rbm import` at the command line: what it says, its exit status, and that a refusal writes nothing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import foreign
import pytest
import torch
from test_imports import Payload, state

from robustbench_meta import checkpoint, statedicts

Run = Callable[..., tuple[int, str, str]]
ASKED = ("--out", "out", "--algorithm", "protonet", "--family", "cifar-fs", "--layout", "protonet")


def test_an_import_says_where_every_tensor_went_and_what_it_assumed(rbm: Run) -> None:
    torch.save({"epoch": 3, "net": state(**{"fc.weight": torch.ones(2)})}, "net.pt")
    status, out, err = rbm("import", "net.pt", *ASKED, "--entry", "net", "--drop", "^fc", "--norm-mode", "support")
    lines = [line.split() for line in out.splitlines()]
    assert status == 0
    assert lines[0] == ["in", "the", "file", "here", "shape"]
    for block in range(4):
        shape = f"(4, {4 if block else 3}, 3, 3)".split()
        assert [f"encoder.{block}.0.weight", f"conv{block}.weight", *shape] in lines
        assert [f"encoder.{block}.1.bias", f"conv{block}.beta", "(4,)"] in lines
    assert "left out: encoder.0.1.num_batches_tracked, " in out
    assert ", fc.weight" in out
    assert "of no use to norm_mode support: encoder.0.1.running_mean, " in out
    assert "taken for: blocks of Sequential(Conv2d, BatchNorm2d, ReLU, MaxPool2d(2))" in out
    assert "learner: protonet on conv4 (width 4, depth 4, order bn-relu, bias True, padding 1, " in out
    assert err == "Checkpoint: out\nNow try: rbm evaluate --ckpt out\n"
    assert sorted(path.name for path in Path("out").iterdir()) == ["card.json", "weights.safetensors"]


def test_an_imported_learner_is_checked_and_compared_like_any_other(rbm: Run, tmp_path: Path) -> None:
    own = foreign.filled(foreign.Sequences(1, 4))
    torch.save(own.state_dict(), "net.pt")
    asked = ("--out", "out", "--algorithm", "protonet", "--family", "strokes", "--layout", "protonet")
    assert rbm("import", "net.pt", *asked)[0] == 0
    status, out, err = rbm("verify", "out")
    assert (status, "an imported learner has no history" in out) == (4, True), err
    status, out, err = rbm("submit-check", "out")
    assert status == 0, err
    assert "the card lacks hashes of its episodes, versions, its history" in " ".join(out.split())
    given = ("--attacks", "fgsm", "--eps", "0.1", "--queries", "2", "--tasks", "2", "--device", "cpu", "--no-audit")
    assert rbm("evaluate", "--ckpt", "out", *given)[0] == 0
    assert rbm("verify", "results", "--ckpt", "out", "--seconds", "0")[0] == 0
    status, out, err = rbm("compare", "./out", "out", "--results", "results")
    assert (status, "are the same learner" in err) == (2, True)  # known by its folder as by its name
    assert rbm("report", "results", "--out", "report")[0] == 0
    page = (tmp_path / "report" / "leaderboard.html").read_text()
    assert "unknown" in page
    assert "learning_rate" not in page  # of which nothing is known
    assert f"net.pt, SHA-256 {statedicts.read(Path('net.pt')).sha256}" in page
    assert rbm("leaderboard", "add", "results", "--board", "board")[0] == 0
    status, out, err = rbm("leaderboard", "build", "board")
    assert status == 0, err
    assert rbm("leaderboard", "check", "board")[0] == 0


def test_an_imported_recipe_cannot_be_trained(rbm: Run) -> None:
    Path("recipe.toml").write_text('origin = "imported"\nfamily = "strokes"\n')
    status, _, err = rbm("train", "recipe.toml", "--out", "out")
    assert (status, "origin: 'imported' marks what was trained elsewhere" in err) == (2, True)
    assert not Path("out").exists()


def huge() -> None:
    Path("net.pt").touch()
    os.truncate("net.pt", 2**31)


def save(**changes: object) -> None:
    torch.save(state(**changes), "net.pt")


def save_beside_a_folder() -> None:
    save()
    Path("out").mkdir()


REFUSALS: dict[str, tuple[Callable[[], object], tuple[str, ...], str]] = {
    "code": (lambda: Path("net.pt").write_bytes(pickle.dumps(Payload(), 2)), (), "nothing of it was run"),
    "huge": (huge, (), "more than 1073741824"),
    "missing": (lambda: None, (), "source: net.pt is missing"),
    "leftover": (lambda: save(x=torch.ones(1)), (), "has 1 tensors with no place"),
    "norm mode": (save, ("--norm-mode", "eval"), "norm_mode: 'eval' is not one of"),
    "option": (
        save,
        ("--network-option", "width"),
        "network-option: 'width' is not of the form key=value",
    ),
    "there already": (
        save_beside_a_folder,
        (),
        "out: out is there already, and nothing is overwritten",
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_is_one_line_and_status_2_and_writes_nothing(refusal: str, rbm: Run, tmp_path: Path) -> None:
    prepare, more, said = REFUSALS[refusal]
    prepare()
    before = sorted(tmp_path.rglob("*"))
    status, out, err = rbm("import", "net.pt", *ASKED, *more)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("rbm: ")
    assert said in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_the_environments_fault(rbm: Run) -> None:
    torch.save(state(), "net.pt")
    Path("file").touch()
    status, _, err = rbm("import", "net.pt", *ASKED[2:], "--out", "file/out")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "a file stands where a folder is needed" in err


def test_names_in_a_file_cannot_write_on_the_terminal(rbm: Run) -> None:
    torch.save(state(**{"\x1b[2Jgone\r": torch.ones(1)}), "net.pt")
    status, out, err = rbm("import", "net.pt", *ASKED, "--drop", "gone")
    assert status == 0
    assert "\x1b" not in out + err
    assert r"\x1b[2Jgone\r" in out
    assert checkpoint.load("out").name == "out"
