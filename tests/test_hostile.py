"""Fifty hostile texts in every text field: a report shows each as what it is, and a browser runs none of them."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from conftest import SWITCHES
from hostile import EVIL, HOSTILE, MARK
from markdown_it import MarkdownIt
from test_grid import saved
from test_report import Results, gallery, results
from test_store import CELL, record

from robustbench_meta import cli, report, store, untrusted
from robustbench_meta.report import figures, plain
from robustbench_meta.statistics import leaderboard, summarise
from robustbench_meta.untrusted import printable

TEXTS = tuple(HOSTILE.values())
# What a store refuses to read with any other value (see store._check_types) or makes itself.
CLOSED = {"key", "split", "surface", "norm", "status"}
FIELDS = [str(name) for name, value in results().cells.iloc[0].items() if isinstance(value, str) and name not in CLOSED]
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
ELEMENTS = (
    "html head meta title style body header h1 h2 h3 p nav ul li a main section div table thead tbody tr "
    "th td b span svg g path rect line defs use clippath image circle polygon text details summary figure "
    "figcaption dl dt dd code footer script "
    "h4 strong em small sup sub abbr caption ol hr br time "
    "img desc fieldset legend label input button dialog "
)
TAGS = set(re.findall(r"\w+", ELEMENTS))


class Page(HTMLParser):
    """The tags, attributes and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.seen: list[str] = []
        self.scripted = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.scripted = tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self.scripted:
            self.seen.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.scripted = False

    @property
    def text(self) -> str:
        return squeezed("".join(self.seen))


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def base() -> tuple[pd.DataFrame, pd.DataFrame]:
    """One cell that was measured, and its tasks."""
    plain = results()
    cells = plain.cells[(plain.cells.checkpoint == "p-aq") & (plain.cells.shots == 5) & (plain.cells.eps > 0.02)]
    cell = cells[cells.attack == "fgsm"]
    return cell, plain.tasks[plain.tasks.key == cell.key.iloc[0]]


def with_texts(field: str, texts: Sequence[str] = TEXTS) -> Results:
    """One cell for each text, which stands in `field`; what is only shown of failures stands in one."""
    cell, tasks = base()
    rows = [cell.assign(key=f"{field}{i}", **{field: text}) for i, text in enumerate(texts)]
    if field in ("reason", "device"):  # neither makes a row of its own
        rows = [row.assign(attack=f"a{i}") for i, row in enumerate(rows)]
    if field == "reason":
        rows = [row.assign(status="error") for row in rows]
    return Results(pd.concat(rows), pd.concat([tasks.assign(key=row.key.iloc[0]) for row in rows]))


def everywhere() -> tuple[Results, list[dict[str, Any]]]:
    """One board whose every text field, titles of pictures included, holds hostile texts."""
    cell, tasks = base()
    shared = {"family", "episodes", "attack", "attack_fields"}  # a board and a panel for each would take minutes
    rows = []
    for i, text in enumerate(TEXTS):
        fields = dict.fromkeys(set(FIELDS) - shared, text)
        fields |= {"family": " ".join(TEXTS[::2])[:2000], "episodes": TEXTS[0]}
        fields |= {"attack": " ".join(TEXTS[i % 2 :: 17]), "attack_fields": " ".join(TEXTS[i % 2 :: 2])}
        rows.append(cell.assign(key=f"h{i}", **(fields | {"reason": ""})))
        if i % 10 == 0:
            failed = fields | {"attack": TEXTS[-5], "attack_fields": TEXTS[0], "reason": " ".join(TEXTS[i : i + 10])}
            rows.append(cell.assign(key=f"e{i}", status="error", **failed))
    bits = [tasks.assign(key=row.key.iloc[0]) for row in rows if row.status.iloc[0] == "ok"]
    pictures = [gallery(text)[0] | {"attack": text} for text in TEXTS]
    return Results(pd.concat(rows), pd.concat(bits)), pictures


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole report, drawings included, on hostile texts in every field at once."""
    top = tmp_path_factory.mktemp("hostile")
    made = report.write(*everywhere(), top / "out")
    assert sorted(path for path in top.rglob("*") if path.is_file()) == sorted(made)
    return top / "out"


def check_page(page: Page) -> None:
    assert set(page.tags) <= TAGS
    assert (page.tags.count("script"), page.tags.count("style")) == (2, 1)
    assert ("script", "type", "application/json") in page.attributes
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in {"style", "srcdoc", "action", "formaction", "background"}, tag
        if name in {"href", "src", "xlink:href"}:
            assert value.startswith(("#", "data:image/png;base64,"))


def check_markdown(text: str) -> None:
    """Render as GitHub would, but without cleaning: nothing but the report's own figures may be linked or drawn."""
    page = Page(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))
    assert not {"script", "svg", "iframe", "style", "form", "meta", "object"} & set(page.tags)
    # Those of the report stand alone on their lines, and each has its summary and its end.
    folded = [text.count(line) for line in ("\n<details>\n<summary>", "\n\n</details>\n")]
    assert folded == [page.tags.count("details")] * 2 == [page.tags.count("summary")] * 2
    for tag, name, value in page.attributes:
        assert (tag, name) in {("img", "src"), ("img", "alt"), ("a", "href")}
        assert name == "alt" or re.fullmatch(r"figures/[a-z0-9-]+\.svg|#[A-Za-z0-9-]+", value)
    # What GitHub links by itself.
    assert not re.search(r"(?i)https?://|www\.|javascript:|ftp://|\w@\w", text)
    assert text.isprintable() or set(re.findall(r"[^ -~\w\W]", text)) <= {"\n"}


def check_csv(text: str) -> None:
    for cell in (cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row):
        assert not cell.startswith(FORMULA) or re.fullmatch(r"-?\d[\d.e-]*", cell)
        assert not re.search(r";\s*[=+\-@＝]", cell)


def test_there_are_fifty_texts_and_each_is_another() -> None:
    assert len(set(TEXTS)) == 50


@pytest.mark.parametrize("field", FIELDS)
def test_every_text_field_shows_its_text_and_obeys_none(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "draw", lambda *_: [])  # drawings are tested once, below
    there = with_texts(field)
    report.write(there, [], tmp_path / "out")
    assert {path.name for path in tmp_path.rglob("*")} == {"out", "leaderboard.md", "leaderboard.html", "cells.csv"}
    page = Page((tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8"))
    check_page(page)
    check_markdown((tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8"))
    check_csv((tmp_path / "out" / "cells.csv").read_text(encoding="utf-8"))
    if field != "weights":  # only a few characters of it tell equal names apart
        for what, text in HOSTILE.items():
            assert squeezed(printable(text)) in page.text, what
    for columns, rows in (plain.rich_rows(summarise(there)), plain.rank_rows(leaderboard(there))):
        assert all(text.isprintable() for row in [columns, *rows] for text in row)


def test_a_whole_report_on_hostile_texts_stays_in_its_folder_and_is_well_formed(written: Path) -> None:
    check_page(Page((written / "leaderboard.html").read_text(encoding="utf-8")))
    check_markdown((written / "leaderboard.md").read_text(encoding="utf-8"))
    check_csv((written / "cells.csv").read_text(encoding="utf-8"))
    drawn = list((written / "figures").glob("*.svg"))
    assert len(drawn) >= 4
    for path in drawn:
        assert re.fullmatch(r"[a-z0-9-]{1,120}\.svg", path.name)
        for element in ElementTree.parse(path).iter():
            assert not re.search(r"(?i)script|foreignobject|iframe", str(element.tag))
            assert not [name for name in element.attrib if name.lower().startswith("on")]
            assert not [
                v for n, v in element.attrib.items() if n.endswith("href") and not v.startswith(("#", "data:i"))
            ]


def test_a_store_keeps_hostile_texts_as_strict_json_in_files_of_its_own(tmp_path: Path) -> None:
    for i, text in enumerate(TEXTS):
        fields: dict[str, Any] = dict.fromkeys(("checkpoint", "algorithm", "defense", "attack", "attack_fields"), text)
        cell = replace(CELL, **fields, seed=i)
        store.append(tmp_path / "r", cell, [record(0)])
        store.save_gallery(tmp_path / "r", cell, pictures())
        store.fail(tmp_path / "r", cell, text)
    assert {path.name for path in tmp_path.iterdir()} == {"r"}
    for path in (path for path in (tmp_path / "r").rglob("*.json*") if path.is_file()):
        assert re.fullmatch(r"[0-9a-f]{64}\.jsonl?", path.name)
        for line in path.read_bytes().splitlines():
            json.loads(line, parse_constant=pytest.fail)
    back = store.read(tmp_path / "r").cells.set_index("seed")
    assert [back.attack[i] for i in range(50)] == [back.reason[i] for i in range(50)] == list(TEXTS)
    assert len(store.read_gallery(tmp_path / "r")) == 50


def pictures() -> dict[str, np.ndarray]:
    arrays = {name: np.zeros((1, 1, 2, 2), np.float32) for name in store.IMAGES}
    return arrays | {name: np.zeros(1, np.int64) for name in store.PICTURES if name not in arrays}


def test_a_terminal_gets_no_sequence_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "\x1b]0;pwned\x07\x1b[31m\u202e[bold]=1+1\udcff"
    saved(tmp_path / name)
    options = ["--attacks", "fgsm", "--eps", "0.1", "--queries", "3", "--tasks", "1", "--device", "cpu", "--out", "r"]
    for words in (["--ckpt", name, *options], ["--ckpt", f"{name}gone"], ["--ckpt", name, "--attacks", name]):
        monkeypatch.setattr("sys.argv", ["rbm", "evaluate", *words])
        with pytest.raises(SystemExit):
            cli.app()
        out, err = capfd.readouterr()
        assert "pwned" in out + err
        assert all(line.isprintable() for line in (out + err).splitlines())
    monkeypatch.setattr("sys.argv", ["rbm", "report", "r", "--out", "pages"])
    with pytest.raises(SystemExit) as left:
        cli.app()
    assert left.value.code in (0, None)
    assert r"\x1b]0;pwned\x07" in (tmp_path / "pages" / "leaderboard.html").read_text(encoding="utf-8")


def marks(chromium: str, text: str, folder: Path) -> set[int]:
    """Load a page as a file, and say which texts ran in it."""
    (folder / "page.html").write_text(text, encoding="utf-8")
    quick, profile = "--virtual-time-budget=4000", f"--user-data-dir={folder / 'profile'}"
    command = [chromium, *SWITCHES, quick, profile, "--dump-dom", f"file://{folder}/page.html"]
    done = subprocess.run(command, capture_output=True, timeout=120)
    dom = done.stdout.decode("utf-8", "replace")
    # A page that was left, as by a refresh, or that did not load is no page on which nothing ran.
    assert f"<title>{TITLE}</title>" in dom, done.stderr.decode("utf-8", "replace")[-500:]
    root = re.search(r"<html[^>]*>", dom)
    assert root is not None
    return {int(number) for number in re.findall(rf"{MARK}(\d\d)", root.group())}


# Touches every element in every way that needs no visitor.
POKE = """<script>
top.document.documentElement.setAttribute("data-pwned-99", 1);
for (const one of document.querySelectorAll("*"))
  for (const kind of ["click", "mouseover", "focus", "load", "error", "toggle", "begin"])
    one.dispatchEvent(new Event(kind, {cancelable: true}));
</script>"""
POKED = 99
TITLE = "Few-shot robustness leaderboard"


def test_a_browser_runs_none_of_the_texts_with_the_policy_or_without_it(
    chromium: str, written: Path, tmp_path: Path
) -> None:
    text = (written / "leaderboard.html").read_text(encoding="utf-8")
    assert marks(chromium, text, tmp_path) == set()
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert len(bare) < len(text) - 100
    source = (written / "leaderboard.md").read_text(encoding="utf-8")
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(source)
    assert marks(chromium, bare.replace("</body>", f"{rendered}{POKE}</body>"), tmp_path) == {POKED}


def test_the_browser_runs_the_same_texts_where_nothing_escapes_them(chromium: str, tmp_path: Path) -> None:
    quoted = [f"<div title=\"{text}\"></div><div title='{text}'></div>" for text in TEXTS]
    frames = [f'<iframe srcdoc="{html.escape(text + POKE)}"></iframe>' for text in (*TEXTS, *quoted)]
    page = f"<!DOCTYPE html><html><head><title>{TITLE}</title></head><body>{''.join(frames)}</body></html>"
    found = marks(chromium, page.encode("utf-8", "replace").decode(), tmp_path)
    assert POKED in found
    assert len(found) > 20, sorted(found)
    assert {1, 3, 4, 15, 24, 25, 26} <= found


def test_no_module_of_ours_unpickles() -> None:
    package = Path(untrusted.__file__).parent
    for path in package.rglob("*.py"):
        if path.name == "executors.py":  # it reads what its own driver wrote, through a pipe and not from a file
            continue
        text = path.read_text(encoding="utf-8")
        if path.name == "statedicts.py":  # weights made elsewhere, of which only tensors in plain containers are read
            assert re.findall(r"torch\.load\(.*", text) == [
                'torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)'
            ]
            continue
        assert not re.search(r"torch\.load|import pickle|allow_pickle=True|weights_only|joblib|marshal|yaml", text), (
            path
        )
        for opened in re.findall(r"np\.load\(.*", text):
            assert "allow_pickle=False" in opened


def test_the_texts_name_no_address_that_could_answer() -> None:
    assert EVIL.endswith(".example")
