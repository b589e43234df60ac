"""A history of runs and its page: strict JSON, steps found where they were made, text that stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from test_cli import Run

from robustbench_meta.report import speed


def row(run: int, level: float = 1.0, *, samples: int = 5, **changes: Any) -> dict[str, Any]:
    noise = np.random.default_rng(run).normal(0, 0.03, samples)
    ours: dict[str, Any] = {"seconds": [float(level * (1 + one)) for one in noise], "forwards": 9, "backwards": 3}
    ours |= {"peak_mib": 12.0, "survived": None, "wall": []}
    return {
        "schema": 1,
        "date": f"2026-01-{run + 1:02d}T00:00:00+00:00",
        "commit": f"{run:040x}",
        "changed": False,
        "machine": "a machine",
        "device": "cpu",
        "threads": 1,
        "versions": {},
        "size": "full",
        "case": "meta-step/maml",
        "ours": ours,
        "peer": ours | {"seconds": [2 * one for one in ours["seconds"]]},
        "note": "",
    } | changes


def refuse(problem: str) -> NoReturn:
    raise AssertionError(problem)


def seconds(levels: list[float]) -> list[list[float]]:
    return [row(run, level)["ours"]["seconds"] for run, level in enumerate(levels)]


@pytest.mark.parametrize(("at", "ratio"), [(3, 1.5), (6, 1.5), (9, 1.5), (5, 0.6)])
def test_a_step_is_marked_at_the_first_run_after_it(at: int, ratio: float) -> None:
    (found,) = speed.steps(seconds([1.0] * at + [ratio] * (12 - at)))
    assert found.at == at
    assert found.ratio == pytest.approx(ratio, rel=0.05)
    assert found.p < speed.LEVEL


def test_no_step_is_marked_on_a_flat_series_a_small_change_or_a_single_outlier() -> None:
    assert speed.steps(seconds([1.0] * 12)) == []
    assert speed.steps(seconds([1.0] * 6 + [1.15] * 6)) == []
    assert speed.steps(seconds([1.0] * 6 + [3.0] + [1.0] * 5)) == []
    assert speed.steps(seconds([1.0])) == []


def test_two_steps_are_both_marked() -> None:
    assert [step.at for step in speed.steps(seconds([1.0] * 5 + [1.6] * 5 + [1.0] * 5))] == [5, 10]


def test_a_history_comes_back_in_order_of_date(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    speed.append(path, [row(3), row(1)])
    speed.append(path, [row(2, peer=None)])
    assert speed.read(path, refuse) == [row(1), row(2, peer=None), row(3)]


def test_a_number_that_json_has_no_word_for_is_neither_written_nor_read(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with pytest.raises(ValueError, match="JSON"):
        speed.append(path, [row(0, ours=row(0)["ours"] | {"seconds": [float("nan")]})])
    assert not path.exists()
    path.write_text(json.dumps(row(0)) + "\n" + json.dumps(row(1)).replace("12.0", "NaN") + "\n")
    with pytest.raises(AssertionError, match="line 2: NaN is not JSON"):
        speed.read(path, refuse)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "not an object"),
        ("{", "line 1"),
        (json.dumps(row(0, schema=2)), "schema 2"),
        (json.dumps(row(0, case=7)), "case is missing or of another type"),
        (json.dumps({key: value for key, value in row(0).items() if key != "commit"}), "commit is missing"),
        (json.dumps(row(0, ours={"seconds": []})), "seconds is not"),
        (json.dumps(row(0, ours={"seconds": [0.0]})), "seconds is not"),
        (json.dumps(row(0, peer={"seconds": ["1"]})), "seconds is not"),
    ],
)
def test_a_line_of_a_history_that_is_not_a_row_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(AssertionError, match=problem):
        speed.read(path, refuse)


def test_the_page_has_a_series_a_machine_and_case_and_names_its_steps() -> None:
    rows = [row(run, 1.0 if run < 6 else 1.5) for run in range(12)]
    text = speed.page([*rows, *(row(run, machine="another") for run in range(2)), row(0, case="grid", peer=None)])
    assert text.count("<svg") == 3
    assert text.count("<circle") == 12 + 2 + 1
    assert len(re.findall(r'class="step"', text)) == 1
    assert f"2026-01-07T00:00:00+00:00, {6:040x}"[:37] in text
    assert "1.5" in text
    assert "2.00" in text  # the peer takes twice as long
    assert "no peer" in text
    assert text == speed.page(
        [*rows, *(row(run, machine="another") for run in range(2)), row(0, case="grid", peer=None)]
    )


def test_the_page_needs_nothing_else_and_shows_text_as_text() -> None:
    text = speed.page([row(0, case="<script>alert(1)</script>", machine='"><img src=x>', commit="<b>")])
    assert "<script" not in text
    assert "<img" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert not re.search(r"https?://|url\(|@import|src=(?!x&gt;)", text)


def test_the_policy_of_the_page_allows_its_own_style_alone() -> None:
    text = speed.page([row(0)])
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    expected = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert re.findall(r"sha256-([^&\']+)", text) == [expected]
    assert " style=" not in text


def test_points_lie_inside_the_frame_with_the_slowest_on_top() -> None:
    rows = [row(run, 1.0 + run) for run in range(4)]
    found = re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', speed.page(rows))
    x, y = ([float(pair[axis]) for pair in found] for axis in (0, 1))
    assert x == sorted(x)
    assert y == sorted(y, reverse=True)
    assert speed.LEFT < x[0] < x[-1] < speed.WIDTH
    assert speed.TOP < y[-1] < y[0] < speed.HEIGHT - speed.BOTTOM
    # Times start at 0: twice as long is twice as high.
    medians = [float(np.median(one["ours"]["seconds"])) for one in rows]
    floor = speed.HEIGHT - speed.BOTTOM
    assert (floor - y[1]) / (floor - y[0]) == pytest.approx(medians[1] / medians[0], rel=0.01)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00052, "0.52 ms"), (0.04131, "41.3 ms"), (0.9996, "1 s"), (2.071, "2.07 s"), (123.4, "123 s")],
)
def test_times_are_written_with_three_figures(value: float, text: str) -> None:
    assert speed.seconds_text(value) == text


def test_a_table_gives_medians_spreads_and_the_ratio_to_the_peer() -> None:
    ours = {"seconds": [1.0, 2.0, 3.0], "forwards": 9, "backwards": 3, "peak_mib": 11.6, "survived": 0.5}
    peer = ours | {"seconds": [4.0, 5.0, 6.0], "survived": 0.625, "peak_mib": None, "forwards": 15}
    columns, rows = speed.table([{"case": "a", "ours": ours, "peer": peer, "note": ""}])
    assert dict(zip(columns, rows[0], strict=True)) == {
        "case": "a",
        "median": "2 s",
        "spread": "±25 %",  # half of 2.5 - 1.5, over 2
        "peer": "2.50x as long",
        "per row": "1.67x",  # 5 / 18 over 2 / 12
        "rows forward": "9",
        "rows back": "3",
        "peer's rows": "15 / 3",
        "MiB": "12",
        "peer's MiB": "-",
        "survive": "50 % / 62 %",
    }
    alone = {"case": "b", "ours": ours, "peer": None, "note": "no peers here"}
    gone = {"case": "c", "ours": None, "peer": None, "note": "not there"}
    _, rows = speed.table([alone, gone])
    assert [one[3] for one in rows] == ["no peers here"]
    assert speed.absent([alone, gone, gone | {"case": "d"}]) == ["not there (c, d)"]


def test_runs_are_added_to_a_history_and_drawn(rbm: Run) -> None:
    run = ("bench", "run", "--size", "tiny", "--samples", "2", "--append", "history.jsonl")
    for _ in range(2):
        status, out, _ = rbm(*run, "--cases", "adapt/protonet,adapt/r2d2", "--json", "run.jsonl")
        assert status == 0
        assert "as long" in out
    rows = speed.read(Path("history.jsonl"), refuse)
    assert [one["case"] for one in rows] == ["adapt/protonet", "adapt/r2d2"] * 2
    assert rows[0]["date"] == rows[1]["date"]
    assert rows[0]["versions"]["torch"]
    assert len(Path("run.jsonl").read_text().splitlines()) == 2
    status, out, _ = rbm("bench", "history", "history.jsonl", "--out", "page.html")
    assert (status, out) == (0, "page.html\n")
    assert Path("page.html").read_text().count("<circle") == 4


def test_runs_and_histories_end_with_the_status_that_scripts_read(rbm: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "bad.jsonl").write_text("{}\n")
    assert rbm("bench", "history", "no-such-file")[0] == 2
    assert rbm("bench", "history", "bad.jsonl")[0] == 2
    assert rbm("bench", "history", "empty.jsonl")[0] == 4
    assert rbm("bench", "run", "--cases", "no-such-case")[0] == 2
    assert rbm("bench", "run", "--size", "huge")[0] == 2
    status, _, err = rbm("bench", "run", "--size", "tiny", "--cases", "attack/fgsm@cifar-fs-protonet-aq")
    assert status == 4
    assert "no data root" in err
