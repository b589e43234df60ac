"""The self-test: every known answer holds, a planted bug is a miss, and the bugs of the mutation check apply."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_meta import cli, selftest, threats
from robustbench_meta.linear import box_distances, linear
from robustbench_meta.selftest import Answer, Finding
from robustbench_meta.types import NORMS, Box, InputError, Norm

ROOT = Path(__file__).resolve().parents[1]
NAMES = [f"K{number}" for number in range(1, 16)]


@pytest.fixture(scope="module")
def found() -> dict[str, Answer]:
    """All known answers, checked once."""
    return {one.name: one for one in selftest.answers()}


@pytest.mark.parametrize("name", NAMES)
def test_every_known_answer_holds(found: dict[str, Answer], name: str) -> None:
    one = found[name]
    assert one.ok, f"expected {one.expected}; found {one.found}"
    assert one.n > 0


def test_the_table_names_every_known_answer_once_and_in_order(found: dict[str, Answer]) -> None:
    columns, rows = selftest.table(list(found.values()))
    assert [row[0] for row in rows] == NAMES == list(selftest.KNOWN)
    assert all(len(row) == len(columns) for row in rows)
    assert len({row[1] for row in rows}) == len(NAMES)


def test_what_raises_is_a_miss_and_never_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising() -> Finding:
        raise RuntimeError("planted\nin two lines")

    monkeypatch.setattr(selftest, "KNOWN", {"K1": raising})
    (one,) = selftest.answers()
    assert not one.ok
    assert one.found == "RuntimeError: planted in two lines"


def test_fail_fast_stops_at_the_first_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    def verdict(ok: bool) -> Callable[[], Finding]:
        def check() -> Finding:
            return Finding("", "", 1, ok)

        return check

    known = {"K1": verdict(True), "K2": verdict(False), "K3": verdict(True)}
    monkeypatch.setattr(selftest, "KNOWN", known)
    assert [one.name for one in selftest.answers(fail_fast=True)] == ["K1", "K2"]
    assert [one.name for one in selftest.answers()] == ["K1", "K2", "K3"]


def test_a_known_answer_of_another_name_is_refused() -> None:
    with pytest.raises(InputError, match="only: 'K99' is unknown; legal: K1, K2"):
        selftest.answers(["K99"])


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run `rbm selftest`: exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["rbm", "selftest", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.app()
    assert isinstance(left.value.code, int)
    return left.value.code, *capfd.readouterr()


def test_the_command_exits_with_zero_where_all_hold(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(monkeypatch, capfd, "--only", "K3,K6")
    assert status == 0
    assert "2 of 2 known answers hold" in out
    assert "nothing withstands half the box" in out


def test_the_command_exits_with_one_where_a_projection_halves_the_budget(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    honest = threats.geometry

    def halved(norm: Norm) -> threats.Geometry:
        one = honest(norm)
        return threats.Geometry(
            one.distance, lambda moved, room, eps: one.shrink(moved, room, eps / 2), one.steepest, one.random
        )

    monkeypatch.setattr(threats, "geometry", halved)
    status, out, err = run(monkeypatch, capfd, "--only", "K1", "--json", tmp_path / "answers.json")
    assert status == 1
    assert "MISSED" in out
    assert "0 of 1 known answers hold" in out
    assert "selftest: missed K1" in err
    (row,) = json.loads((tmp_path / "answers.json").read_text())
    assert (row["name"], row["ok"]) == ("K1", False)


def test_json_to_a_path_that_cannot_be_written_is_an_error_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = run(monkeypatch, capfd, "--only", "K3", "--json", tmp_path / "nowhere" / "answers.json")
    assert (status, out) == (3, "")
    assert "nowhere" in err


@pytest.mark.parametrize("norm", NORMS)
def test_box_distances_are_the_closed_form_where_the_box_is_inactive(norm: Norm) -> None:
    made = linear(tasks=1, ways=3)
    weights, x, y = made.weights[0].double(), made.victim.x.flatten(1).double(), made.victim.y
    scores = x @ weights.T
    gaps = scores.gather(1, y) - scores
    each = weights[y] - weights
    found = box_distances(gaps, each, x, norm, Box((36,), -9, 9)).scatter(1, y, torch.inf).amin(dim=1)
    torch.testing.assert_close(found, made.distances(norm).double(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("linf", 0.3),  # 2 * 0.1 + 1 * 0.3
        ("l2", (0.1**2 + 0.3**2) ** 0.5),
        ("l1", 0.4),  # 2 * 0.1 fills the first entry; 0.3 of the second
    ],
)
def test_box_distances_stop_at_the_edge_of_the_box(norm: Norm, expected: float) -> None:
    x = torch.tensor([[0.1, 0.5]], dtype=torch.float64)
    weights = torch.tensor([[[2.0, 1.0]]], dtype=torch.float64)
    found = box_distances(torch.tensor([[0.5]], dtype=torch.float64), weights, x, norm, Box((2,)))
    torch.testing.assert_close(found, torch.tensor([[expected]], dtype=torch.float64))
    beyond = box_distances(torch.tensor([[0.8]], dtype=torch.float64), weights, x, norm, Box((2,)))
    assert beyond.isinf().all()


@pytest.fixture(scope="module")
def mutation() -> Any:
    spec = importlib.util.spec_from_file_location("mutation", ROOT / "benchmarks" / "mutation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutation"] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def test_twelve_bugs_apply_to_the_present_source_and_leave_it_python(mutation: Any) -> None:
    assert len({mutant.name for mutant in mutation.MUTANTS}) == 12
    for mutant in mutation.MUTANTS:
        text = mutation.planted(mutant, mutation.PACKAGE)
        assert text != (mutation.PACKAGE / mutant.file).read_text(encoding="utf-8")
        compile(text, mutant.file, "exec")


@pytest.mark.parametrize("times", [0, 2])
def test_a_bug_that_does_not_apply_exactly_once_is_an_error(mutation: Any, tmp_path: Path, times: int) -> None:
    (tmp_path / "a.py").write_text("x = 1\n" * times)
    with pytest.raises(ValueError, match=f"stands {times} times in a.py, not once"):
        mutation.planted(mutation.Mutant("one", "a.py", "x = 1", "x = 2"), tmp_path)


def test_a_crash_and_a_pass_are_no_catch(mutation: Any) -> None:
    base = {"file": "a.py", "seconds": 1.0, "commit": ""}
    caught = mutation.Outcome(mutant="a", caught=True, missed="K1", found="2 others", status=1, **base)
    crashed = mutation.Outcome(mutant="b", caught=False, missed="", found="ImportError", status=1, **base)
    control = mutation.Outcome(mutant="none", caught=False, missed="", found="", status=0, **base)
    page = mutation.report([control, caught, crashed])
    assert "**1 of 2 bugs caught; without a bug the self-test passes.**" in page
    assert "| a | a.py | K1 | 2 others | 1 |" in page
    assert "| b | a.py | crashed | ImportError | 1 |" in page
