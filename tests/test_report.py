"""The report as a reader and as an attacker of it would meet it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import shutil
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from robustbench_meta import report
from robustbench_meta.intervals import interval
from robustbench_meta.ranking import standings
from robustbench_meta.report import folder, markdown, naming, plain, plots, tables, values
from robustbench_meta.statistics import COLUMNS, by_attack, leaderboard, summarise

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</style><script>alert(1)</script>",
    "--><script>alert(1)</script><!--",
    "]]><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "javascript:alert(1)",
    "data:text/html,<b>",
    "https://example.org www.example.org",
    "=HYPERLINK(0)",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "a|b|c\nnext `code` **bold** _em_ ~~x~~ # h",
    "$\\frac{1}{0}$ \\alpha",
    "&lt;b&gt; &amp; &#60;",
    "x" * 500,
    "\u202eesrever \u0000 \u0007 漢字 😀",
    "",
)


@dataclass(frozen=True)
class Results:
    cells: pd.DataFrame
    tasks: pd.DataFrame
    audits: pd.DataFrame = field(default_factory=pd.DataFrame)


def results(**changes: Any) -> Results:
    """Two protonets and a fomaml at two step counts on 2 shots x 2 eps x 2 attacks, 6 tasks of 10 queries."""
    rng = np.random.default_rng(0)
    cells: list[dict[str, Any]] = []
    tasks: list[dict[str, Any]] = []
    entries: list[tuple[str, str, str, int | None, float]]
    entries = [("p-std", "protonet", "standard", None, 0.1), ("p-aq", "protonet", "aq", None, 0.9)]
    entries += [("f-aq", "fomaml", "aq", steps, 0.8) for steps in (1, 5)]
    for name, algorithm, defense, steps, level in entries:
        for shots in (1, 5):
            strength = rng.random((6, 10))  # what a query withstands: more budget or more steps never leave more
            for eps in (2 / 255, 8 / 255):
                for attack, harm in (("fgsm", 0.9), ("pgd-20", 0.8)):
                    key = f"k{len(cells):03d}"
                    cell: dict[str, Any] = {
                        "key": key,
                        "checkpoint": name,
                        "weights": f"w-{name}",
                        "algorithm": algorithm,
                    }
                    cell |= {"defense": defense, "norm_mode": "support", "family": "strokes", "episodes": "ab" * 32}
                    cell |= {"split": "test", "ways": 5, "shots": shots, "queries": 2, "steps": steps}
                    cell |= {"attack": attack, "attack_fields": f"{attack}()", "surface": "query", "norm": "linf"}
                    cell |= {"eps": eps, "seed": 3, "status": "ok", "reason": "", "seconds": 1.5}
                    cell |= {"device": "cpu", "fraction": 1.0, "whole": False}
                    cells.append(cell | changes)
                    for task in range(6):
                        left = level * harm * (1 - 5 * eps)
                        survived = "".join(str(int(bit)) for bit in strength[task] < left)
                        row: dict[str, Any] = {"key": key, "task": task, "clean": "1111111110", "survived": survived}
                        tasks.append({**row, "distance": eps, "forwards": 200, "backwards": 100})
    return Results(pd.DataFrame(cells).astype({"steps": "Int64"}), pd.DataFrame(tasks))


def gallery(title: str = "p-aq, pgd-20", channels: int = 3) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    clean = rng.random((4, channels, 8, 8))
    moved = np.clip(clean + rng.choice([-1, 1], clean.shape) * 8 / 255, 0, 1)
    labels = np.arange(4)
    item = {"title": title, "clean": clean, "adversarial": moved, "labels": labels, "clean_predictions": labels}
    return [{**item, "adversarial_predictions": np.array([0, 0, 2, 1]), "attack": "pgd-20", "eps": 8 / 255}]


class Page(HTMLParser):
    """Collects the tags, attributes, ids and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    made = report.write(results(), gallery(), out)
    assert sorted(made) == sorted(path for path in out.rglob("*") if path.is_file())
    return out


def test_a_report_holds_tables_figures_and_cells(written: Path) -> None:
    names = {path.name for path in written.rglob("*") if path.is_file()}
    board = "strokes-test-5w5s-linf-query"
    figures = {f"{kind}-{board}" for kind in ("eps", "attacks", "scatter", "agreement", "tasks")} | {"gallery"}
    figures |= {"steps-shots-strokes-test-5w-linf-query"}
    assert {f"{name}.{ending}" for name in figures for ending in ("svg", "png")} <= names
    assert {"leaderboard.md", "leaderboard.html", "cells.csv"} <= names


def heard() -> list[dict[str, Any]]:
    """A gallery of one learner's recordings."""
    (item,) = gallery(channels=1)
    waves = np.sin(np.linspace(0, 900, 4 * 4096)).reshape(4, 1, 4096)
    return [item | {"clean": waves, "adversarial": 0.9 * waves, "rate": np.full(4, 8000)}]


def five_shot(**changes: Any) -> Results:
    plain = results(**changes)
    return Results(plain.cells[plain.cells.shots == 5], plain.tasks)


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_a_folder_of_an_earlier_report_holds_the_later_alone_and_what_is_of_others(tmp_path: Path) -> None:
    plain, both = five_shot(), joined(five_shot(), five_shot(norm="l2"))
    mine = ("figures/eps-mine.svg", "figures/notes.txt", "notes.txt")
    for name in mine:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    earlier = folder.write(both, heard(), tmp_path)
    assert files(tmp_path) - set(mine) == {path.relative_to(tmp_path).as_posix() for path in earlier}
    gone = {f"{kind}-strokes-test-5w5s-l2-query" for kind in ("eps", "attacks", "tasks")}
    assert {f"figures/{name}.png" for name in gone} <= files(tmp_path)
    assert list((tmp_path / "sounds").glob("*.wav"))
    changed = "figures/eps-strokes-test-5w5s-l2-query.svg"
    (tmp_path / changed).write_text("drawn over")

    later = folder.write(plain, gallery(), tmp_path)
    assert files(tmp_path) == {path.relative_to(tmp_path).as_posix() for path in later} | {*mine, changed}
    assert {(tmp_path / name).read_text() for name in mine} == {"mine"}
    assert not (tmp_path / "sounds").exists()


def test_nothing_goes_that_no_report_is_known_to_have_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    listed = {
        "../beside.svg": b"a",
        "figures/deep/one.svg": b"b",
        "figures/../notes.txt": b"c",
        "notes.txt": b"c",
        "figures/other.svg": b"d",
        "figures/gallery.png": b"e",
    }
    (out / "figures" / "deep").mkdir(parents=True)
    for name, content in listed.items():
        (out / name).write_bytes(content)
    there = five_shot()
    folder.write(there, [], out)  # no list tells of an earlier one
    assert all((out / name).read_bytes() == content for name, content in listed.items())
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in listed.items()]
    lines[4] = lines[4].replace(lines[4][:64], "0" * 64)
    (out / folder.WRITTEN).write_text("\n".join([*lines, "no line", str(tmp_path / "beside.svg"), "\x00"]))
    folder.write(there, [], out)
    assert {name for name in listed if not (out / name).exists()} == {"figures/gallery.png"}


def test_a_folder_that_is_a_link_to_another_keeps_what_is_there(tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "sounds").symlink_to(elsewhere)
    folder.write(five_shot(), heard(), out)
    there = set(elsewhere.iterdir())
    assert there
    folder.write(five_shot(), [], out)
    assert set(elsewhere.iterdir()) == there


@pytest.mark.parametrize("at", ["write", "move", "unlink"])
def test_a_later_report_takes_away_what_one_left_that_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    folder.write(five_shot(), [], tmp_path / "clean")
    folder.write(five_shot(norm="l2"), heard(), out := tmp_path / "out")
    owner: Any = {"write": report, "move": shutil, "unlink": Path}[at]
    calls, done = iter(range(100)), getattr(owner, at)

    def full(*given: Any, **named: Any) -> Any:
        if next(calls) == 3 or owner is report:
            raise OSError("no space left on device")
        return done(*given, **named)

    with monkeypatch.context() as broken:
        broken.setattr(owner, at, full)
        with pytest.raises(OSError, match="no space"):
            folder.write(five_shot(norm="l1"), [], out)
    folder.write(five_shot(), [], out)
    assert files(out) == files(tmp_path / "clean")


def test_two_runs_write_the_same_bytes(written: Path, tmp_path: Path) -> None:
    for path in report.write(results(), gallery(), tmp_path):
        assert path.read_bytes() == (written / path.relative_to(tmp_path)).read_bytes(), path.name


def test_cells_csv_has_exactly_the_columns_and_numbers_of_the_summary(written: Path) -> None:
    rows = list(csv.DictReader((written / "cells.csv").open(encoding="utf-8")))
    assert tuple(rows[0]) == COLUMNS
    summary = summarise(results())
    assert len(rows) == len(summary)
    assert [float(row["robust"]) for row in rows] == summary.robust.tolist()
    assert float(rows[0]["eps"]) == summary.eps[0]
    assert {row["steps"] for row in rows} == {"", "1", "5"}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_of_the_csv_is_a_formula(start: str) -> None:
    text = plain.csv_text(summarise(results(checkpoint=f"{start}1+1")))
    names = [row["checkpoint"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    assert {name[:2] for name in names} == {f"'{start}"}


def test_the_markdown_names_rank_reference_n_seed_and_what_the_ranking_is(written: Path) -> None:
    text = (written / "leaderboard.md").read_text(encoding="utf-8")
    assert "Ranked by worst-case accuracy at ε = 8/255" in text
    assert text.count("| – | *constant predictor* | 20.0 ± 0.0 |") == 2
    expected = leaderboard(results()).query("shots == 5 and checkpoint == 'p-aq'").iloc[0]
    shown = f"{100 * expected.robust:.1f} ± {100 * expected.robust_ci95:.1f}"
    rank = rf"{expected['rank']}=? \([\d–]+\)"
    assert re.search(rf"\| {rank} \| p-aq \| \d+\.\d ± \d+\.\d \| \*\*{shown}\*\* \|.* \| 6 \| not", text)
    assert "| p-aq | – | protonet | aq | support | 3 |" in text


def test_every_table_of_the_markdown_has_rows_as_wide_as_its_head(written: Path) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", (written / "leaderboard.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_the_page_needs_nothing_beside_it_and_runs_only_its_own_style_and_script(written: Path) -> None:
    text = (written / "leaderboard.html").read_text(encoding="utf-8")
    page = Page(text)
    policy = next(value for name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        body = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(body) == 1
        digest = base64.b64encode(hashlib.sha256(body[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name != "style"
        if name in {"href", "src", "xlink:href"}:
            assert value.startswith(("#", "data:image/png;base64,"))


def test_ids_of_the_page_are_unique_and_every_reference_has_its_target(written: Path) -> None:
    attributes = Page((written / "leaderboard.html").read_text(encoding="utf-8")).attributes
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for name, value in attributes if name in {"href", "xlink:href"} and value.startswith("#")}
    wanted |= {one for _, value in attributes for one in re.findall(r"^url\(#(.+)\)$", value)}
    assert wanted <= set(ids)


@pytest.mark.parametrize("field", ["checkpoint", "algorithm", "defense", "family", "attack", "attack_fields", "reason"])
def test_hostile_text_is_shown_and_never_obeyed(field: str, tmp_path: Path) -> None:
    plain, cells = results(), results().cells
    keep = cells[(cells.checkpoint == "p-aq") & (cells.shots == 5) & (cells.eps > 0.02)].iloc[:1]
    copies = [keep.assign(key=f"h{i}", **{field: text}) for i, text in enumerate(HOSTILE)]
    if field == "reason":
        copies = [copy.assign(status="error") for copy in copies]
    bits = plain.tasks[plain.tasks.key == keep.key.iloc[0]]
    hostile = Results(pd.concat(copies), pd.concat([bits.assign(key=f"h{i}") for i in range(len(HOSTILE))]))
    if field == "family":  # a family is a board of its own: two of the worst are enough
        hostile = Results(hostile.cells.iloc[[0, 7]], hostile.tasks)
    report.write(hostile, gallery(HOSTILE[0]), tmp_path)
    page = Page((tmp_path / "leaderboard.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == 2  # the data and the program
    assert not {"iframe", "object", "base", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(v.startswith(("#", "data:image/png")) for n, v in page.attributes if n in {"href", "src", "xlink:href"})
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^<details>\n<summary>([^<>]*)</summary>$|^</details>$", r"\1", text)  # the report's own
    assert not re.search(r"<\w|javascript:|(?<!\\)\]\((?!figures/)|https?://|www\.", text)
    for row in csv.reader((tmp_path / "cells.csv").open(encoding="utf-8", newline="")):
        assert not [cell for cell in row if cell[:1] in {"=", "+", "@", "\t", "\r"} or cell == "-1"]
    for path in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(path)
        assert len(path.name) < 120


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_markdown_is_one_line_without_markup(text: str) -> None:
    shown = markdown.escape(text)
    assert shown.isprintable()
    assert not re.search(r"[<>]|(?<!\\)[|`*\[\]]", shown)


def test_an_errored_entry_shows_its_reason_everywhere(tmp_path: Path) -> None:
    there = results()
    broken = (there.cells.checkpoint == "f-aq") & (there.cells.attack == "pgd-20")
    there.cells.loc[broken, ["status", "reason"]] = ["error", "logits are NaN"]
    report.write(there, [], tmp_path)
    for name in ("leaderboard.md", "leaderboard.html"):
        assert "error in pgd-20 at 2/255: logits are NaN" in (tmp_path / name).read_text(encoding="utf-8")


def test_a_single_entry_with_one_task_draws_everything_and_says_that_it_has_no_interval(tmp_path: Path) -> None:
    there = results()
    cells = there.cells.iloc[:1]
    one = Results(cells, there.tasks[(there.tasks.key == cells.key.iloc[0]) & (there.tasks.task == 0)])
    report.write(one, gallery(channels=1), tmp_path)
    assert "n = 1 too small‡" in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")


def test_no_results_and_results_of_errors_alone_still_give_a_report(tmp_path: Path) -> None:
    there = results(status="error", reason="no device")
    report.write(Results(there.cells.iloc[:0], there.tasks.iloc[:0]), [], tmp_path / "none")
    assert "Nothing has been measured yet." in (tmp_path / "none" / "leaderboard.html").read_text(encoding="utf-8")
    report.write(Results(there.cells, there.tasks.iloc[:0]), [], tmp_path / "errors")
    assert "no device" in (tmp_path / "errors" / "leaderboard.md").read_text(encoding="utf-8")


def test_two_sets_of_weights_under_one_name_are_told_apart() -> None:
    cells = results().cells.assign(checkpoint="same")
    names = naming.display_names(cells)
    assert names["same", "w-p-aq"] == "same@w-p-aq"
    assert len(set(names.values())) == 3


def test_terminal_rows_are_as_wide_as_their_head() -> None:
    for columns, rows in (plain.rich_rows(summarise(results())), plain.rank_rows(leaderboard(results()))):
        assert rows
        assert {len(row) for row in rows} == {len(columns)}
        assert all(isinstance(cell, str) for row in rows for cell in row)
    assert [row[1] for row in plain.rich_rows(summarise(results()))[1]][-1] == "–"


def joined(*parts: Results) -> Results:
    """Put results together that share no cell."""
    made = [
        (p.cells.assign(key=f"{i}-" + p.cells.key), p.tasks.assign(key=f"{i}-" + p.tasks.key))
        for i, p in enumerate(parts)
    ]
    return Results(pd.concat([cells for cells, _ in made]), pd.concat([tasks for _, tasks in made]))


def some_tasks(there: Results, tasks: int, **where: Any) -> Results:
    """Keep only the first tasks of the cells that `where` describes."""
    chosen = there.cells.key[(there.cells[list(where)] == pd.Series(where)).all(axis=1)]
    return Results(there.cells, there.tasks[~there.tasks.key.isin(chosen) | (there.tasks.task < tasks)])


@pytest.mark.parametrize(
    "changes", [{"queries": 15}, {"seed": 4}, {"episodes": "cd" * 32}, {"family": "Strokes"}, {"family": "x" * 500}]
)
def test_groups_that_differ_in_one_thing_share_no_figure_nor_heading(changes: dict[str, Any], tmp_path: Path) -> None:
    first = results(family="x" * 501) if len(changes.get("family", "")) > 80 else results()
    made = report.write(joined(first, results(**changes)), [], tmp_path)
    assert len({path.name.lower() for path in made}) == len(made)
    kinds = [path.name.split("-")[0] for path in made if path.suffix == ".svg"]
    four = dict.fromkeys(("eps", "attacks", "scatter", "agreement", "tasks"), 4)
    assert {kind: kinds.count(kind) for kind in kinds} == four | {"steps": 2}
    headings = re.findall(r"^### .*$", (tmp_path / "leaderboard.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(set(headings)) == len(headings) == 4


def test_every_figure_stands_below_the_table_that_it_shows(tmp_path: Path) -> None:
    report.write(joined(results(), results(queries=15)), [], tmp_path)
    tables_alone = (tmp_path / "leaderboard.md").read_text(encoding="utf-8").partition("\n## Flags")[0]
    for section in re.split(r"^### ", tables_alone, flags=re.MULTILINE)[1:]:
        queries = re.findall(r"(\d+)q\.svg", section)
        assert queries
        assert set(queries) == set(re.findall(r"(\d+) queries a class", section))


def test_slugs_stay_apart_where_a_name_looks_like_a_numbered_one() -> None:
    board = standings(results())[0][0].board
    families = ["a-2", "a", "a!", "a!-2", "A"]
    made = naming.slugs([replace(board, family=f"x{name}", split="") for name in families])
    assert len(set(made)) == len(families)
    trap = [replace(board, family="f", surface=surface) for surface in ("s-2", "s", "s.")]
    assert len(set(naming.slugs(trap))) == 3


def test_clean_accuracy_stands_beside_each_attack_on_that_attacks_tasks(tmp_path: Path) -> None:
    there = some_tasks(results(), 3, attack="pgd-20")
    there.tasks.loc[there.tasks.task >= 3, "clean"] = "1111111111"
    report.write(there, [], tmp_path)
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    mean, half = interval([0.9] * 3 + [1.0] * 3)
    assert re.search(rf"\| p-aq \| – \| fgsm \|.*\| {100 * mean:.1f} ± {100 * half:.1f} \| 6 \|", text)
    assert re.search(r"\| p-aq \| – \| pgd-20 \|.*\| 90\.0 ± 0\.0 \| 3 \|", text)


def test_n_stands_for_each_eps_where_it_differs(tmp_path: Path) -> None:
    report.write(some_tasks(results(), 4, attack="pgd-20", eps=8 / 255), [], tmp_path)
    text = (tmp_path / "leaderboard.md").read_text(encoding="utf-8")
    assert "| ε 2/255 | n at ε 8/255, 2/255 | Flags |" in text
    assert re.search(r"\| p-aq \| .* \(n = 4\) \| .* \| 4, 6 \| not audited \|", text)
    assert "Where n differs, points rest on different tasks" in text
    page = " ".join(Page((tmp_path / "leaderboard.html").read_text(encoding="utf-8")).seen)
    assert "n at ε 8/255, 2/255" in page
    report.write(results(), [], tmp_path)
    assert "Every point rests on n = 6 tasks." in (tmp_path / "leaderboard.md").read_text(encoding="utf-8")


def test_an_interval_wider_than_half_the_scale_is_no_number(tmp_path: Path) -> None:
    there = results()
    there = Results(there.cells, there.tasks[there.tasks.task < 2].copy())
    there.tasks["survived"] = ["1111111110" if task else "0000000000" for task in there.tasks.task]
    report.write(there, [], tmp_path)
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "n = 2 too small" in text
        assert not [half for half in re.findall(r"± (\d+\.\d)", text) if float(half) > 50]
    rows = list(csv.DictReader((tmp_path / "cells.csv").open(encoding="utf-8")))
    assert {row["robust"] for row in rows} == {"0.45"}
    assert "n = 2 is too small to say how robust it is" in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("survived", "said"),
    [
        ("1111100000", "50.0 ± 0.0 %, n = 6 (a constant predictor has 20.0 %)"),
        ("1100000000", "20.0 ± 0.0 %, n = 6; not shown to be better than nothing"),
        ("1000000000", "10.0 ± 0.0 %, n = 6; worth nothing, a constant predictor has 20.0 %"),
    ],
)
def test_the_headline_says_what_the_best_number_is_worth(survived: str, said: str) -> None:
    there = results()
    there.tasks["survived"] = survived
    assert all(said in table.headline for table in tables.tables(there).tables)


def test_what_the_results_lack_is_said(written: Path, tmp_path: Path) -> None:
    assert "Missing here" not in (written / "leaderboard.md").read_text(encoding="utf-8")
    report.write(results(seconds=float("nan")), [], tmp_path)
    for name in ("leaderboard.md", "leaderboard.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "The gallery: these results hold no pictures" in text
        assert "Seconds in cells.csv, for all cells" in text


def test_no_picture_is_missed_of_a_poisoned_support_whose_queries_stay_clean() -> None:
    there = five_shot()
    poisoned = Results(there.cells.assign(surface="support", key="s" + there.cells.key), there.tasks)
    assert not tables.tables(Results(poisoned.cells, there.tasks.assign(key="s" + there.tasks.key))).missing
    (said,) = tables.tables(joined(there, poisoned)).missing
    assert said.startswith("The gallery")


def test_a_gallery_is_titled_by_its_cell_with_the_one_way_to_write_eps() -> None:
    there = joined(results(), results(queries=15))
    keys = there.cells.key[(there.cells.eps > 0.02) & (there.cells.checkpoint == "f-aq") & (there.cells.shots == 5)]
    items = [gallery()[0] | {"key": key} for key in keys[keys.str.contains("-")]]
    made = [item["title"] for item in naming.titled([*items, *gallery("mine")], there.cells)]
    assert "f-aq, 5-shot, 5 steps: pgd-20, L∞ 8/255, 15 queries a class, seed 3" in made
    assert made[-1] == "mine"
    assert len(set(made)) == len(made)


def test_shares_of_too_few_tasks_are_no_numbers() -> None:
    assert values.share((20.0, 12.7), 5) == "20.0 ± 12.7"
    assert values.share((20.0, 127.1), 2) == "n = 2 too small"
    assert values.share((20.0, float("nan")), 1) == "n = 1 too small"


def test_classes_with_names_are_called_by_them_in_pictures_and_on_the_page(tmp_path: Path) -> None:
    names = np.array(["fox", "a_class_with_a_long_name", "$bear", "<b>"])
    item = gallery()[0] | {"classes": names}
    axes = [axes for part in plots.gallery([item]).subfigs for axes in part.axes]
    said = [one.get_xlabel() for one in axes if one.get_xlabel()]
    assert said[:4] == ["✓ fox", "✓ a_class_with…", "✓ $bear", "✓ <b>"]
    assert said[4:] == ["✓ fox", "✗ fox,\nis a_class_with…", "✓ $bear", "✗ a_class_with…,\nis <b>"]
    report.write(results(), [item], tmp_path)
    page = (tmp_path / "leaderboard.html").read_text()
    assert "✗ fox, is a_class_with_a_long_name" in page
    assert "is &lt;b&gt;" in page


def test_an_attack_that_changed_nothing_is_labelled_in_the_gallery() -> None:
    item = gallery()[0] | {"adversarial_predictions": np.arange(4)}
    item["adversarial"] = np.concatenate([item["clean"][:2], item["adversarial"][2:]])
    figure = plots.gallery([item])
    words = [text.get_text() for part in figure.subfigs for axes in part.axes for text in axes.texts]
    assert words.count("withstood") == 2


@pytest.mark.parametrize("count", range(2, 8))
def test_every_attack_has_a_panel_with_ticks_only_where_it_was_run(count: int) -> None:
    there = results()
    more = there.cells[there.cells.attack == "fgsm"]
    cells = pd.concat([more.assign(attack=f"a{i}", attack_fields=f"a{i}") for i in range(count)])
    cells = cells[(cells.attack != "a0") | (cells.eps > 0.02)]
    frame = by_attack(Results(cells, there.tasks))
    figure = plots.attack_curves(frame, plots.boards(frame)[0])
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == [f"a{i}, n = 6" for i in range(count)]
    ticks = [[label.get_text() for label in axes.get_xticklabels()] for axes in panels]
    assert ticks == [["0", "8/255"], *[["0", "2/255", "8/255"]] * (count - 1)]
    assert all(axes.get_xlabel() == "ε" for axes in panels)
    assert figure.get_suptitle() == "strokes (test), 5-way 1-shot, L∞"
    assert len(figure.axes) - count <= 2
