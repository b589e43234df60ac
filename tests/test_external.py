"""Somebody's own attack counts for what its examples do here: accepted, it lowers; otherwise it says why not."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from robustbench_meta import audit, board, catalog, checkpoint, external, grid, store, submissions, tracks, verify
from robustbench_meta.submissions import About, Entry
from robustbench_meta.types import InputError, Spec

ROOT = Path(__file__).resolve().parents[1]
CKPT, OTHER = (ROOT / "checkpoints" / f"strokes-protonet-{defense}" for defense in ("standard", "aq"))
EPS, TASKS, QUERIES = 0.05, 2, 5
SPEC = Spec(ways=5, shots=5, queries=QUERIES)
Run = Callable[..., tuple[int, str, str]]
Arrays = dict[int, np.ndarray]


def attacked(ckpt: Path = CKPT, eps: float = EPS, steps: int = 15) -> Arrays:
    """Climb the cross entropy by a loop of one's own: what a stranger would write, with `adapt` and `predict` alone."""
    family: Any = catalog.family("strokes")
    learner = catalog.learner(checkpoint.load(ckpt))
    found = {}
    for task in range(TASKS):
        episode = family.sample("test", SPEC, [task])
        fitted = learner.adapt(episode.support_x, episode.support_y, steps=None)
        x, y = episode.query_x, episode.query_y
        x_adv = x.clone()
        for _ in range(steps):
            x_adv.requires_grad_()
            loss = torch.nn.functional.cross_entropy(learner.predict(fitted, x_adv).flatten(0, 1), y.flatten())
            (gradient,) = torch.autograd.grad(loss, x_adv)
            x_adv = (x_adv + eps / 4 * gradient.sign()).detach()
            x_adv = torch.clamp(x + torch.clamp(x_adv - x, -eps, eps), 0, 1)
        found[task] = x_adv[0].numpy()
    return found


@pytest.fixture(scope="module")
def found() -> Arrays:
    return attacked()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What our weakest attack leaves of the learner on the same tasks, with an audit."""
    folder = tmp_path_factory.mktemp("results")
    axes = grid.Grid(grid.named_attacks(["noise-2"]), eps=(EPS,), queries=QUERIES)
    plan = grid.make_plan(axes, [grid.load_subject(CKPT, device="cpu")], folder)
    assert audit.execute(plan, folder, tasks=TASKS) == ([], [])
    return folder


def claim(folder: Path, x_adv: Arrays, ckpt: Path = CKPT, **fields: Any) -> Path:
    given: dict[str, Any] = {"attack": "own-pgd", "authors": "A. Author 2027", "robust": 1.0, "eps": EPS}
    given |= {"queries": QUERIES, "paper": "arXiv:2701.00001"}
    external.write_external(folder, ckpt, x_adv, **given | fields)
    return folder


def judged(folder: Path, *ckpts: Path) -> external.Judged:
    (one,) = external.judge(folder, verify.learners(ckpts), device="cpu")
    return one


def edited(folder: Path, change: Callable[[Any], Any]) -> None:
    """Change external.json as its sender could."""
    path = folder / submissions.EXTERNAL_FILE
    content = json.loads(path.read_text())
    change(content["claims"][0])
    path.write_text(json.dumps(content))


def set_of(folder: Path) -> Path:
    (path,) = folder.glob("*/set.json")
    return path.parent


def reset(folder: Path, change: Callable[[Any, dict[str, np.ndarray]], None]) -> None:
    """Change a set and its first task, hash both anew, and let the claim name the new hash."""
    where = set_of(folder)
    path = where / "task-00000.safetensors"
    index, arrays = json.loads((where / store.SET).read_text()), load_file(path)
    change(index["cell"], arrays)
    save_file(arrays, path)
    index.pop("sha256")
    index["tasks"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    made = store._digest(index)
    (where / store.SET).write_text(json.dumps({**index, "sha256": made}))
    edited(folder, lambda one: one.update(set_sha256=made))


def entry_on(folder: Path) -> Entry:
    (entry,) = tracks.read(folder / "entries")[0].values()
    return entry


def test_a_stronger_set_is_accepted_and_lowers_what_ours_left(results: Path, found: Arrays, tmp_path: Path) -> None:
    one = judged(claim(tmp_path / "claim", found))
    assert one.problems == ()
    assert one.run
    ours = store.runs(results)
    assert one.robust < np.mean([bit for record in ours[0].records for bit in record.survived])
    fooled = external.lowered(one.run, ours)
    assert fooled == sum(
        a and not b
        for mine, theirs in zip(ours[0].records, one.run.records, strict=True)
        for a, b in zip(mine.survived, theirs.survived, strict=True)
    )
    assert fooled > 0


def test_the_verdicts_are_those_of_adapting_and_predicting(found: Arrays, tmp_path: Path) -> None:
    one = judged(claim(tmp_path, found))
    assert one.run
    learner = catalog.learner(checkpoint.load(CKPT))
    family: Any = catalog.family("strokes")
    for record in one.run.records:
        episode = family.sample("test", SPEC, [record.task])
        fitted = learner.adapt(episode.support_x, episode.support_y, steps=None)
        scores = learner.predict(fitted, torch.from_numpy(found[record.task])[None])[0]
        right = (scores.argmax(-1) == episode.query_y[0]).tolist()
        assert record.survived == tuple(a and b for a, b in zip(right, record.clean, strict=True))


def test_verdicts_with_somebodys_name_but_without_examples_are_refused(
    results: Path,
    found: Arrays,
    tmp_path: Path,
    rbm: Run,
) -> None:
    folder = claim(tmp_path / "claim", found, robust=0.9)
    assert rbm("leaderboard", "add", results, "--board", "b")[0] == 0
    assert rbm("leaderboard", "add", "--external", folder, "--board", "b")[0] == 0
    handed = tmp_path / "b" / "entries"
    status, out, _ = rbm("submit-check", handed, "--board", "none", "--seconds", 1)
    assert status == 1
    assert "verdicts alone prove nothing" in " ".join(out.split())
    assert rbm("submit-check", handed, "--board", "b", "--seconds", 1)[0] == 0  # there it was scored


def test_an_accepted_claim_enters_the_entry_with_our_verdicts_and_their_names(
    results: Path,
    found: Arrays,
    tmp_path: Path,
    rbm: Run,
) -> None:
    folder = claim(tmp_path / "claim", found, robust=0.9)
    assert rbm("leaderboard", "add", results, "--board", "b")[0] == 0
    before = entry_on(tmp_path / "b")
    status, out, _ = rbm("submit-check", folder, "--board", "b")
    assert status == 0
    assert "90.00 % was claimed" in out
    rescored = judged(folder).run
    assert rescored
    assert f"fools {external.lowered(rescored, before.runs)} that all attacks" in " ".join(out.split())
    assert rbm("leaderboard", "add", "--external", folder, "--board", "b")[0] == 0
    after = entry_on(tmp_path / "b")
    (cell,) = (one for one in after.cells if one.external)
    assert cell.external
    assert (cell.external.text, cell.external.claimed) == ("A. Author 2027, own-pgd", 0.9)
    assert cell.cell.attack.startswith("file:strokes-protonet-standard/own-pgd#")
    table = tracks.results_of(tmp_path / "b" / "entries")
    (row,) = table.cells[table.cells["external"] != ""].to_dict("records")
    assert row["external"] == "A. Author 2027, own-pgd"
    bits = ["".join("01"[bit] for bit in record.survived) for record in rescored.records]
    assert table.tasks[table.tasks["key"] == row["key"]]["survived"].tolist() == bits
    assert [one for one in after.cells if not one.external] == list(before.cells)
    text = (tmp_path / "b" / "entries" / after.file).read_bytes()
    assert rbm("leaderboard", "add", "--external", folder, "--board", "b")[0] == 0
    assert len(entry_on(tmp_path / "b").cells) == len(after.cells)
    assert rbm("leaderboard", "add", results, "--board", "b")[0] == 0
    assert entry_on(tmp_path / "b").cells[-1].external == after.cells[-1].external
    assert text.count(b"own-pgd") > 0
    assert rbm("leaderboard", "build", "b")[0] == 0
    assert rbm("leaderboard", "check", "b")[0] == 0


Step = Callable[[Path], None]


def claims(**fields: Any) -> Step:
    return lambda folder: edited(folder, lambda one: one.update(fields))


def sets(change: Callable[[Any, dict[str, np.ndarray]], None], **fields: Any) -> Step:
    """Change the set, and fields of the claim with it."""

    def step(folder: Path) -> None:
        reset(folder, change)
        claims(**fields)(folder)

    return step


def linked(folder: Path) -> None:
    shutil.move(set_of(folder), folder.parent / "elsewhere")
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    claims(folder="link")(folder)


def byte(folder: Path) -> None:
    path = set_of(folder) / "task-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")


def index(folder: Path) -> None:
    path = set_of(folder) / store.SET
    path.write_text(path.read_text().replace("0.05", "0.06"))


NOBODY = "0" * 64
REFUSED: dict[str, tuple[Step, str]] = {
    "over budget": (
        sets(lambda cell, arrays: arrays.update(x_adv=1 - arrays["x_adv"])),
        "examples: the attack left its budget or the box: linf distance",
    ),
    "outside the box": (
        sets(lambda cell, arrays: arrays.update(x_adv=arrays["x_adv"] - np.float32(0.04))),
        "the attack left its budget or the box",
    ),
    "better than it is": (claims(robust=0.0), "robust: 0 is claimed, but the examples leave"),
    "a smaller eps than it moved by": (claims(eps=0.01), "eps: the set has 0.05, the claim 0.01"),
    "a smaller eps in the set too": (
        sets(lambda cell, arrays: cell["threat"].update(eps=0.01), eps=0.01),
        "the attack left its budget or the box",
    ),
    "an eps that is none": (
        sets(lambda cell, arrays: cell["threat"].update(eps=0.9), eps=0.9),
        "eps: 0.9 is above half the box width",
    ),
    "queries of other episodes": (
        sets(lambda cell, arrays: arrays.update(clean_sha256=arrays["clean_sha256"][::-1].copy())),
        "a task's queries are not in file:",
    ),
    "episodes by another hash": (
        sets(lambda cell, arrays: cell.update(episodes=NOBODY)),
        "its queries are others: episodes",
    ),
    "another seed": (claims(seed=3), "seed: the set has 0, the claim 3"),
    "another split": (claims(split="val"), "split: the set has test, the claim val"),
    "another norm": (claims(norm="l2"), "norm: the set has linf, the claim l2"),
    "steps that are not there": (claims(steps=3), "steps: the set has None, the claim 3"),
    "steps that are not there in the set either": (
        sets(lambda cell, arrays: cell.update(steps=3), steps=3),
        "steps: 3; this learner's adaptation has none",
    ),
    "more tasks than there are": (claims(tasks=3), "tasks: the set holds 2 tasks from 0 on and 2 in all"),
    "another attack's name": (claims(attack="x"), "attack: the set has own-pgd, the claim x"),
    "weights nobody has": (
        sets(lambda cell, arrays: cell.update(weights=NOBODY), weights=NOBODY),
        "ckpt: no checkpoint of the claimed weights and recipe (000000000000…) is shipped; give --ckpt",
    ),
    "a set made on another learner": (
        claims(weights=checkpoint.read_card(OTHER / "card.json").learner),
        "weights: the set was made on strokes-protonet-standard",
    ),
    "another hash of the set": (claims(set_sha256=NOBODY), "the set has SHA-256"),
    "other verdicts": (claims(survived=["0000000"] * 2), "verdicts are others here"),
    "too few verdicts": (claims(survived=["00"]), "survived: 1 rows for 2 tasks"),
    "a set that is not there": (claims(folder="nothing"), "holds no adversarial set"),
    "a link to elsewhere": (linked, "link lies outside"),
    "a byte changed": (byte, "task-00001.safetensors has SHA-256"),
    "an index changed": (index, "does not hash to its own sha256"),
}


@pytest.mark.parametrize(("change", "says"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_hold_is_refused_with_the_reason(found: Arrays, tmp_path: Path, change: Step, says: str) -> None:
    folder = claim(tmp_path / "claim", found)
    change(folder)
    one = judged(folder)
    assert not one.accepted
    assert any(says in line for line in one.problems), one.problems
    assert all("\n" not in line for line in one.problems)


@pytest.mark.parametrize("folder", ["../elsewhere", "/etc", "a/../../b", ".hidden", "a//b", ""])
def test_a_claim_names_no_folder_outside_its_own(found: Arrays, tmp_path: Path, folder: str) -> None:
    claim(tmp_path, found)
    edited(tmp_path, lambda one: one.update(folder=folder))
    with pytest.raises(InputError, match=r"^external: .*claims\.0\.folder"):
        judged(tmp_path)


def test_a_refused_claim_exits_1_and_adds_nothing(
    results: Path,
    found: Arrays,
    tmp_path: Path,
    rbm: Run,
) -> None:
    folder = claim(tmp_path / "claim", found, robust=0.0)
    assert rbm("leaderboard", "add", results, "--board", "b")[0] == 0
    before = entry_on(tmp_path / "b")
    status, out, err = rbm("submit-check", folder, "--board", "b")
    assert (status, "is refused" in err) == (1, True)
    assert "robust: 0 is claimed, but the examples leave" in " ".join(out.split())
    status, _, err = rbm("leaderboard", "add", "--external", folder, "--board", "b")
    assert status == 1
    assert "rbm: A. Author 2027, own-pgd: robust: 0 is claimed" in err
    assert entry_on(tmp_path / "b") == before


def test_a_claim_about_a_learner_that_is_not_on_the_board_is_not_added(found: Arrays, tmp_path: Path) -> None:
    one = judged(claim(tmp_path / "claim", found))
    with pytest.raises(InputError, match=r"has no entry of .*; add its results first"):
        board.add(tmp_path / "b", [], judged=[one])


def test_what_our_own_attack_kept_of_another_learner_is_no_claim(tmp_path: Path) -> None:
    """--save-adversarial on one learner, handed in as an attack on the other."""
    axes = grid.Grid(grid.named_attacks(["pgd-3"]), eps=(EPS,), queries=QUERIES, save_adversarial=True)
    plan = grid.make_plan(axes, [grid.load_subject(OTHER, device="cpu")], tmp_path / "r")
    assert grid.execute(plan, tmp_path / "r", tasks=TASKS) == []
    (kept,) = (tmp_path / "r" / "adversarial").iterdir()
    held = store.read_set(kept)
    arrays = {task: store.read_examples(held, task).x_adv for task in range(TASKS)}
    folder = claim(tmp_path / "claim", arrays, OTHER)
    mine = checkpoint.read_card(CKPT / "card.json").learner
    edited(folder, lambda one: one.update(weights=mine))
    (line,) = judged(folder).problems
    assert line.startswith("weights: the set was made on strokes-protonet-aq (")


def test_verdicts_that_are_told_and_hold_are_accepted(found: Arrays, tmp_path: Path) -> None:
    run = judged(claim(tmp_path, found)).run
    assert run
    edited(tmp_path, lambda one: one.update(survived=[submissions.to_hex(record.survived) for record in run.records]))
    assert judged(tmp_path).accepted


def test_a_claim_may_say_exactly_what_was_measured(found: Arrays, tmp_path: Path) -> None:
    robust = judged(claim(tmp_path, found)).robust
    edited(tmp_path, lambda one: one.update(robust=robust))
    assert judged(tmp_path).accepted


def test_a_folder_holds_many_claims_and_a_claim_made_again_replaces_itself(found: Arrays, tmp_path: Path) -> None:
    claim(tmp_path, found)
    half = {task: np.clip(x, 0, 1) for task, x in attacked(eps=EPS / 2).items()}
    claim(tmp_path, half, eps=EPS / 2)
    claim(tmp_path, found, robust=0.8)
    claims = submissions.read_external(tmp_path).claims
    assert sorted((one.eps, one.robust) for one in claims) == [(EPS / 2, 1.0), (EPS, 0.8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["external.json", *(one.folder for one in claims)]
    )
    assert all(one.accepted for one in external.judge(tmp_path, verify.learners([]), device="cpu"))


@pytest.mark.parametrize(
    ("change", "fields", "says"),
    [
        (lambda x: {0: x[0] + np.float32(0.2)}, {}, "x_adv: task 0 moves by up to"),
        (lambda x: {0: x[0][:-1]}, {}, "x_adv: task 0 is \\(24, 1, 28, 28\\) torch.float32, must be"),
        (lambda x: {0: x[0] > 0}, {}, "torch.bool, must be"),
        (lambda x: {0: x[0] * np.nan}, {}, "moves by up to nan"),
        (lambda x: {0: x[0], 2: x[1]}, {}, "x_adv: task 2 moves|they go from 0 on without a gap"),
        (lambda x: {}, {}, "they go from 0 on without a gap"),
        (lambda x: x, {"robust": 1.5}, "robust: '1.5'"),
        (lambda x: x, {"authors": "a@b.c"}, "authors: 'a@b.c'"),
        (lambda x: x, {"code": "http://x"}, "code: 'http://x'"),
        (lambda x: x, {"eps": "8/"}, "eps: '8/'"),
        (lambda x: x, {"attack": "a\nb"}, "attack: "),
    ],
)
def test_what_would_be_refused_is_said_to_whoever_writes_it(
    found: Arrays, tmp_path: Path, change: Callable[[Arrays], Arrays], fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        claim(tmp_path / "claim", change(found), **fields)
    assert not (tmp_path / "claim" / "external.json").exists()


def test_larger_budgets_and_other_boards_say_nothing_about_what_a_claim_lowers(results: Path) -> None:
    (ours,) = store.runs(results)
    every = (True,) * len(ours.records[0].survived)
    none = (False,) * len(every)
    standing = replace(ours, records=tuple(replace(one, survived=every) for one in ours.records))
    fooled = replace(ours, records=tuple(replace(one, survived=none) for one in ours.records))
    many = len(every) * TASKS
    assert external.lowered(fooled, [standing]) == many
    assert external.lowered(fooled, []) == 0
    assert external.lowered(fooled, [standing, fooled]) == 0

    def left(**fields: Any) -> int:
        """Count what is lowered where another run, which differs in some fields, has fooled all before."""
        threat = replace(ours.cell.threat, **{name: fields.pop(name) for name in ("eps", "norm") if name in fields})
        other = replace(fooled, cell=replace(ours.cell, threat=threat, **fields))
        return external.lowered(fooled, [standing, other])

    assert left(eps=0.02) == left(attack="x") == left(checkpoint="renamed") == 0
    assert left(eps=0.09) == left(norm="l2") == left(seed=1) == left(split="val") == many


def test_the_example_of_the_documentation_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "submitting.md").read_text(), re.DOTALL)
    # On fewer tasks, and from a folder of its own.
    code = code.replace("range(20):  # from", "range(2):  # from").replace("sum(right) / 20", "sum(right) / 2")
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"checkpoints/', f'"{ROOT}/checkpoints/'), {})
    one = judged(tmp_path / "claim")
    assert one.problems == ()
    assert one.claim.tasks == 2
    assert 0 <= one.claim.robust - one.robust < 2e-4


def test_an_entry_made_of_a_claim_alone_is_checked_like_any_other(found: Arrays, tmp_path: Path) -> None:
    one = judged(claim(tmp_path, found))
    assert one.run
    entry = submissions.entry_of([one.run], [], card=checkpoint.read_card(CKPT / "card.json"), about=About(), rbm="1")
    assert tracks.of_entry(entry.file, board.claimed(entry, one)) == []
    wrong = board.claimed(entry, one)
    credit = wrong.cells[0].external
    assert credit
    cell = wrong.cells[0].model_copy(update={"external": credit.model_copy(update={"set_sha256": "0" * 64})})
    (problem,) = tracks.of_entry("x", wrong.model_copy(update={"cells": (cell,)}))
    assert problem.field == "cells.0.external.set_sha256"


def test_external_json_is_valid_by_the_schema_for_an_independent_validator(found: Arrays, tmp_path: Path) -> None:
    schema = json.loads(submissions.schema())
    validator = jsonschema.Draft202012Validator({"$ref": "#/$defs/External", "$defs": schema["$defs"]})
    content = json.loads((claim(tmp_path, found) / submissions.EXTERNAL_FILE).read_text())
    validator.validate(content)
    for change in ({"robust": 2}, {"surface": "support"}, {"folder": "../x"}, {"contact": "x"}):
        assert not validator.is_valid({**content, "claims": [{**content["claims"][0], **change}]})
