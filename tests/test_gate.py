"""The gate's decision on samples whose answer is known, its worktree, and its exit statuses."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cli import Run

from robustbench_meta import gate
from robustbench_meta.gate import Options, SampleError, judge
from robustbench_meta.intervals import mann_whitney
from robustbench_meta.types import InputError

ROOT = Path(__file__).resolve().parents[1]
BASE = [1.0 + 0.01 * sample for sample in range(12)]


class Machine:
    """Samples by side: a constant ratio of the head to the base, and the order in which they were taken."""

    def __init__(
        self, ratio: Callable[[int], float] = lambda sample: 1.0, special: dict[str, dict[str, Any]] | None = None
    ):
        self.ratio, self.special = ratio, special or {}  # what samples of "case_side" hold besides
        self.taken: list[tuple[str, str]] = []

    def __call__(self, side: str, case: str) -> dict[str, Any]:
        sample = self.taken.count((side, case))
        self.taken.append((side, case))
        row = {"forwards": 10, "backwards": 5, "median": BASE[sample % 12]}
        if side == "head":
            row["median"] *= self.ratio(sample)
        return row | self.special.get(f"{case}_{side}", {})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository of two commits, the first tagged `old`."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch", "main")
    for name, text in (("user.name", "test"), ("user.email", "test@example.invalid")):
        git(root, "config", name, text)
    for text in ("old", "new"):
        (root / "file").write_text(text)
        git(root, "add", "file")
        git(root, "commit", "--quiet", "--message", text)
    git(root, "tag", "old", "HEAD~1")
    return root


def git(root: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def worktrees(root: Path) -> list[str]:
    return [line for line in git(root, "worktree", "list", "--porcelain").splitlines() if line.startswith("worktree")]


def test_mann_whitney_p_is_the_share_of_orders_that_are_as_extreme() -> None:
    # Of the 20 orders of 3 and 3, one puts all of x on top.
    assert mann_whitney([4, 5, 6], [1, 2, 3], "greater") == pytest.approx(1 / 20)
    assert mann_whitney([4, 5, 6], [1, 2, 3], "two-sided") == pytest.approx(2 / 20)
    assert mann_whitney([1, 2, 3], [4, 5, 6], "greater") == 1
    # Of the 6 orders of 2 and 2, those with U = 3 and U = 4 are as high as x = 2, 4 over y = 1, 3.
    assert mann_whitney([2, 4], [1, 3], "greater") == pytest.approx(2 / 6)
    assert mann_whitney([10 + one for one in BASE], BASE, "greater") == pytest.approx(1 / math.comb(24, 12))
    assert 0.4 < mann_whitney([1, 1, 1], [1, 1, 1], "greater") <= 1  # ties: no exact distribution


@pytest.mark.parametrize(
    ("ratio", "suspicious"),
    [(1.0, False), (1.1, False), (1.24, False), (1.26, True), (1.5, True), (0.5, False)],
)
def test_a_round_is_suspicious_where_the_head_is_surely_and_far_slower(ratio: float, suspicious: bool) -> None:
    found = judge("case", BASE, [ratio * one for one in BASE])
    assert found.ratio == pytest.approx(ratio)
    assert found.suspicious is suspicious


def test_a_large_ratio_that_chance_may_have_made_is_not_suspicious() -> None:
    # Seven of twelve samples are four times as slow; p is above 0.002 though the medians are far apart.
    head = [0.5] * 5 + [4.0] * 7
    found = judge("case", BASE, [value + 0.001 * at for at, value in enumerate(head)])
    assert found.ratio > 3
    assert found.p > gate.LEVEL
    assert not found.suspicious


def test_identical_code_is_judged_once_in_pairs_that_swap_their_order() -> None:
    machine = Machine()
    (verdict,) = gate.decide(["a"], machine)
    assert not verdict.slower
    assert len(verdict.rounds) == 1
    sides = [side for side, _ in machine.taken]
    assert sides[:2] == ["base", "head"]  # warms up, and says whether both can run
    assert sides[2:] == ["base", "head", "head", "base"] * 6
    assert verdict.rounds[0].ratio == pytest.approx(1)


def test_a_slower_case_alone_is_judged_a_second_time_by_new_samples() -> None:
    machine = Machine(lambda sample: 1.5)
    machine.special = {"b_head": {"median": 1.05}}
    slow, fine = gate.decide(["a", "b"], machine)
    assert slow.slower
    assert [turn.ratio for turn in slow.rounds] == pytest.approx([1.5, 1.5])
    assert not fine.slower
    assert len(fine.rounds) == 1
    assert machine.taken.count(("head", "a")) == 1 + 12 + 12
    assert machine.taken.count(("head", "b")) == 1 + 12


def test_a_case_that_is_slower_once_alone_passes() -> None:
    (verdict,) = gate.decide(["a"], Machine(lambda sample: 2.0 if sample <= 12 else 1.0))
    assert [turn.suspicious for turn in verdict.rounds] == [True, False]
    assert not verdict.slower


def test_the_gate_says_what_it_could_not_compare() -> None:
    gone, missing = {"missing": "attack: 'x' is unknown"}, {"missing": "no data"}
    special = {"lost_head": gone, "new_base": gone, "absent_base": missing, "absent_head": missing}
    machine = Machine(special=special | {"more_head": {"forwards": 15}})
    lost, new, absent, more = gate.decide(["lost", "new", "absent", "more"], machine)
    assert lost.lost
    assert "not there any more: attack: 'x' is unknown" in lost.note
    assert "new" in new.note
    assert (absent.lost, absent.note) == (False, "not there: no data")
    assert not lost.rounds
    assert not new.rounds
    assert not absent.rounds
    assert "(10, 5) to (15, 5)" in more.note
    assert len(more.rounds) == 1
    broken = iter([{}, {}, *[{"missing": "exit -9"}] * 2])
    with pytest.raises(SampleError, match="exit -9"):
        gate.decide(["a"], lambda side, case: {"forwards": 1, "backwards": 1, "median": 1.0} | next(broken))


@pytest.mark.parametrize(("samples", "threshold"), [(11, 1.25), (0, 1.25), (12, 1.0), (12, math.nan)])
def test_a_gate_that_could_not_tell_is_refused(samples: int, threshold: float) -> None:
    with pytest.raises(InputError):
        gate.decide(["a"], Machine(), samples=samples, threshold=threshold)


def test_the_worktree_holds_the_old_revision_and_is_gone_afterwards(repository: Path) -> None:
    with gate.worktree(repository, gate.resolve(repository, "old")) as folder:
        assert (folder / "file").read_text() == "old"
        assert (repository / "file").read_text() == "new"
        assert len(worktrees(repository)) == 2
    assert len(worktrees(repository)) == 1
    assert not folder.exists()
    assert not list((repository / ".git" / "worktrees").glob("*"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_gate_that_is_stopped_leaves_no_worktree(repository: Path, how: signal.Signals, tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\n"
        "from robustbench_meta import gate\n"
        "root = Path(sys.argv[1])\n"
        "with gate.worktree(root, gate.resolve(root, 'old')) as folder:\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(repository)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        process.send_signal(how)
        assert process.wait(timeout=30) != 0
    assert not folder.parent.exists()
    assert len(worktrees(repository)) == 1


def test_a_revision_that_git_does_not_know_is_refused(repository: Path) -> None:
    for name in ("no-such-branch", "--help", ""):
        with pytest.raises(InputError, match="is no commit"):
            gate.resolve(repository, name)
    assert gate.resolve(repository, "old") == git(repository, "rev-parse", "HEAD~1")


def test_the_commit_of_a_checkout_says_whether_files_differ(repository: Path, tmp_path: Path) -> None:
    assert gate.commit_of(repository) == (git(repository, "rev-parse", "HEAD"), False)
    (repository / "file").write_text("newer")
    assert gate.commit_of(repository)[1]
    assert gate.commit_of(tmp_path) == ("", False)


def test_a_sample_of_another_package_than_the_one_asked_for_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    take = gate.sampler(tmp_path / "empty", ROOT, Options(size="tiny"))
    with pytest.raises(SampleError, match="was measured"):
        take("base", "adapt/protonet")


def test_a_revision_whose_package_breaks_has_nothing_to_compare(tmp_path: Path) -> None:
    (tmp_path / "robustbench_meta").mkdir()
    (tmp_path / "robustbench_meta" / "__init__.py").write_text("raise ImportError('too old')")
    row = gate.sampler(tmp_path, ROOT, Options(size="tiny"))("base", "adapt/protonet")
    assert row["missing"] == "exit 1: ImportError: too old"


@pytest.fixture
def command(rbm: Run, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Iterator[Callable[..., Any]]:
    """Run `rbm bench gate` in the repository, with samples from a machine in place of processes."""

    def run(machine: Machine, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(gate, "sampler", lambda base, head, options: machine)
        return rbm("bench", "gate", *arguments)

    monkeypatch.setattr(gate, "head_checkout", lambda: repository)
    yield run
    assert len(worktrees(repository)) == 1


def test_exit_0_where_no_case_is_slower_and_1_where_one_is(command: Callable[..., Any], tmp_path: Path) -> None:
    status, out, _ = command(Machine(), "--base", "old", "--cases", "adapt/maml")
    assert status == 0
    assert "not slower" in out
    status, out, err = command(
        Machine(lambda sample: 1.4), "--base", "old", "--cases", "adapt/*", "--json", "verdicts.jsonl"
    )
    assert status == 1
    assert "adapt/maml" in err
    rows = [json.loads(line) for line in Path("verdicts.jsonl").read_text().splitlines()]
    assert [row["slower"] for row in rows] == [True] * 5
    assert rows[0]["rounds"][1]["ratio"] == pytest.approx(1.4)
    status, *_ = command(Machine(lambda sample: 1.4), "--base", "old", "--cases", "adapt/maml", "--threshold", "1.5")
    assert status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--base", "no-such-revision"),
        ("--base", "old", "--cases", "no-such-case"),
        ("--base", "old", "--samples", "11"),
        ("--base", "old", "--size", "huge"),
        ("--base", "old", "--threshold", "0.9"),
        ("--base", "old", "--device", "tpu"),
        (),
    ],
)
def test_exit_2_where_the_input_is_bad(command: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    machine = Machine()
    status, out, err = command(machine, *arguments)
    assert (status, out, machine.taken) == (2, "", [])
    assert len(err.splitlines()) == 1


def test_exit_3_where_a_process_breaks(command: Callable[..., Any]) -> None:
    def broken(side: str, case: str) -> Any:
        raise SampleError("adapt/maml: the head is elsewhere")

    status, _, err = command(broken, "--base", "old", "--cases", "adapt/maml")
    assert (status, err) == (3, "rbm: environment: adapt/maml: the head is elsewhere\n")


def test_exit_3_where_the_package_lies_in_no_checkout_or_git_is_not_there(
    rbm: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(gate, "TIMING", tmp_path / "robustbench_meta" / "timing.py")
    for path in (os.environ["PATH"], str(tmp_path)):
        monkeypatch.setenv("PATH", path)
        status, _, err = rbm("bench", "gate", "--base", "main", "--cases", "adapt/maml")
        assert status == 3
        assert "git" in err


def test_exit_4_where_nothing_was_measured_or_a_case_was_lost(command: Callable[..., Any]) -> None:
    gone = {"missing": "gone"}
    name = "adapt/maml"
    status, _, err = command(
        Machine(special={f"{name}_base": gone, f"{name}_head": gone}), "--base", "old", "--cases", name
    )
    assert status == 4
    assert "no case runs" in err
    status, _, err = command(Machine(special={f"{name}_head": gone}), "--base", "old", "--cases", "adapt/*")
    assert status == 4
    assert "not measured, though old can run it: adapt/maml" in err
