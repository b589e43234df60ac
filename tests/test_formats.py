"""LaTeX, BibTeX, CSV and JSON: what stands in them, read back by parsers that are not ours."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from bibtexparser.entrypoint import parse_string
from hostile import HOSTILE
from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec, get_default_latex_context_db
from pylatexenc.latexwalker import LatexWalker
from test_cli import Run
from test_hostile import everywhere
from test_plots import fill, five_shot, many
from test_report import Results, joined, results

from robustbench_meta import catalog
from robustbench_meta.intervals import interval
from robustbench_meta.outcomes import outcomes
from robustbench_meta.ranking import standings
from robustbench_meta.report import formats, latex, references
from robustbench_meta.statistics import leaderboard

ROOT = Path(__file__).resolve().parents[1]
ARXIV = re.compile(r"\b\d{4}\.\d{4,5}\b")


def rows_of(text: str) -> list[list[str]]:
    """Return the lines of the tables as cells, heads left out."""
    lines = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r"\\") and " & " in line]
    return [line.split(" & ") for line in lines if not line.startswith("Rank")]


def test_a_latex_table_holds_the_numbers_of_the_leaderboard() -> None:
    text = formats.render(five_shot(), "latex")
    found = {(row[1], row[2]): row for row in rows_of(text)}
    assert len(found) == 5
    for one in standings(five_shot())[0]:
        row = found[one.entry.checkpoint, "--" if one.entry.steps is None else str(one.entry.steps)]
        interval_of_rank = "--".join(map(str, sorted({one.rank_low or 0, one.rank_high or 0})))
        assert row[0] == f"{one.rank}{'=' if one.tied else ''} ({interval_of_rank})"
        assert row[3:6] == [one.entry.algorithm, one.entry.defense, "6"]
        expected = [one.clean[:2], *(interval(one.outcomes[eps].known) for eps in sorted(one.outcomes))]
        for cell, (mean, half) in zip(row[6:], expected, strict=True):
            assert re.sub(r"\\textbf\{(.*?)\}", r"\1", cell).startswith(
                rf"{100 * mean:.1f} {{\scriptsize$\pm${100 * half:.1f}}}"
            )
    assert found[r"\emph{constant predictor}", "--"][6:] == [r"20.0 {\scriptsize$\pm$0.0}"] * 3


def test_the_caption_states_protocol_attacks_seed_and_interval() -> None:
    text = formats.render(five_shot(), "latex")
    for said in (
        r"on strokes (test), 5-way 5-shot, $\ell_\infty$; attacks on queries, inductive learners, ",
        "2 queries a class, seed 3",
        "(fgsm, pgd-20)",
        r"95\,\% Student $t$ interval over $n$ tasks",
        r"Ranked by the worst case at $\varepsilon = 8/255$",
        r"$^\ddagger$: the interval does not lie above the 20.0\,\% of a constant predictor.",
    ):
        assert said in text
    assert "lacks" not in text
    assert "seed 0" not in text


def with_bits(levels: dict[str, str]) -> Results:
    """Give every task of a checkpoint the same bits, under every attack, on 24 tasks."""
    there = five_shot()
    names = there.cells.set_index("key").checkpoint
    few = there.tasks[there.tasks.key.isin(names.index)]
    tasks = pd.concat([few.assign(task=few.task + 6 * i) for i in range(4)])
    return Results(there.cells, tasks.assign(survived=[levels[names[key]] for key in tasks.key]))


def test_only_an_entry_that_is_better_than_all_others_is_bold() -> None:
    alone = with_bits({"p-aq": "1111111100", "f-aq": "1111100000", "p-std": "1000000000"})
    bold = [row for row in rows_of(formats.render(alone, "latex")) if "textbf" in "".join(row)]
    assert [(row[1], "textbf" in row[-1], sum("textbf" in cell for cell in row)) for row in bold] == [("p-aq", True, 1)]
    shared = with_bits({"p-aq": "1111111100", "f-aq": "1111111100", "p-std": "1000000000"})
    assert "textbf" not in formats.render(shared, "latex")


def test_a_table_too_long_for_a_page_breaks_over_pages() -> None:
    assert r"\begin{longtable}" in formats.render(many(45), "latex")
    assert r"\begin{longtable}" not in formats.render(many(20), "latex")


def read_back(text: str) -> str:
    """Read LaTeX as text, with the commands that the parser does not know by itself."""
    known = get_default_latex_context_db()
    plain = {"textless": "<", "textgreater": ">", "textbar": "|", "textasciicircum": "^"}
    specs = [MacroTextSpec(name, simplify_repl=sign) for name, sign in plain.items()]
    known.add_context_category("plain", macros=[*specs, MacroTextSpec("`", simplify_repl="`")], prepend=True)
    return LatexNodes2Text(latex_context=known).latex_to_text(text.replace(r"\texttt{\char34}", '"'))


@pytest.mark.parametrize("text", [*map(chr, range(33, 127)), "a -- b --- c", "x  y", "[y]*", "``''", ",,", "<<?`"])
def test_escaped_text_reads_as_itself(text: str) -> None:
    escaped = latex.escape(text)
    assert escaped.isascii()
    assert read_back(escaped) == " ".join(text.split())


def test_letters_with_accents_become_commands() -> None:
    assert LatexNodes2Text().latex_to_text(latex.escape("äéñçÅšőï")) == "äéñçÅšőï"
    assert latex.escape("é") == r"\'{e}"


def test_a_character_without_latex_becomes_its_code_point() -> None:
    assert latex.escape("漢😀") == r"\texttt{[U+6F22]}\texttt{[U+1F600]}"


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_text_is_one_balanced_line_of_latex_without_commands_of_its_own(what: str) -> None:
    escaped = latex.escape(HOSTILE[what])
    assert escaped.isascii()
    assert "\n" not in escaped
    LatexWalker(escaped, tolerant_parsing=False).get_latex_nodes()
    commands = set(re.findall(r"\\([A-Za-z]+)", escaped))
    assert commands <= {
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
        "texttt",
        "char",
    }
    assert not re.search(r"(?<!\\)[$#&%_^~]", escaped)


def test_a_leaderboard_of_hostile_texts_parses_in_every_format() -> None:
    there, _ = everywhere()
    text = formats.render(there, "latex")
    assert text.isascii()
    LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    assert len({line.count(" & ") for line in text.splitlines() if line.endswith(r"\\") and " & " in line}) == 1
    bib = formats.render(there, "bibtex")
    assert bib.isascii()
    assert [entry.key for entry in parsed(bib)] == ["robustbenchmeta"]
    for cell in (cell for row in csv.reader(io.StringIO(formats.render(there, "csv"), newline="")) for cell in row):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝")) or re.fullmatch(r"-?\d[\d.e-]*", cell)
    assert json.loads(formats.render(there, "json"))["schema"] == 1


def parsed(text: str) -> list[Any]:
    library = parse_string(text)
    assert library.failed_blocks == []
    return list(library.entries)


def test_every_name_of_the_catalog_has_its_papers_or_is_known_to_have_none() -> None:
    kinds: tuple[references.Kind, ...] = ("algorithms", "defenses", "attacks", "tasks")
    for kind in kinds:
        shelf = catalog.shelf(kind)
        for name in [*shelf.presets, *(pattern.replace(r"(\d+)", "7") for pattern in shelf.patterns)]:
            assert references.papers(kind, name) is not None, (
                f"references.py names no paper for {kind} {name}, nor none"
            )


def test_names_of_results_lead_to_their_papers() -> None:
    assert references.papers("attacks", "pgd-20 #ab12cd") == ("madry2018pgd",)
    assert references.papers("attacks", "fgsm+square") == ("goodfellow2015fgsm", "andriushchenko2020square")
    assert "croce2021mind" in (references.papers("attacks", "apgd-ce", "l1") or ())
    assert "croce2021mind" not in (references.papers("attacks", "apgd-ce", "linf") or ())
    assert references.papers("attacks", "file:a+b/c") == ("papernot2016transferability",)
    assert references.papers("defenses", "standard") == ()
    assert references.papers("algorithms", "my own (black-box)") is None


def test_the_bibliography_parses_and_every_paper_is_there_once() -> None:
    entries = parsed("\n\n".join(references.entries().values()))
    keys = [entry.key for entry in entries]
    named = {key for papers in references.PAPERS.values() for keys in papers.values() for key in keys}
    assert sorted(keys) == sorted(named | {references.OURS, references.SPARSE_PAPER})
    prints = [entry.fields_dict["eprint"].value for entry in entries if "eprint" in entry.fields_dict]
    assert len(set(prints)) == len(prints)
    for entry in entries:
        fields = entry.fields_dict
        assert {"author", "title", "year"} <= set(fields), entry.key
        assert 2009 <= int(fields["year"].value) <= 2026
        if match := re.search(r"\d{4}", entry.key):
            assert match[0] == fields["year"].value


@pytest.mark.parametrize("folder", ["algorithms", "defenses", "tasks"])
def test_the_papers_that_our_files_implement_are_those_that_the_bibliography_holds(folder: str) -> None:
    prints = set(ARXIV.findall("\n".join(references.entries().values())))
    for path in (ROOT / "robustbench_meta" / folder).glob("[a-z]*.py"):
        head = path.read_text(encoding="utf-8").split('"""')[1]
        assert set(ARXIV.findall(head)) <= prints, path.name


def test_bibtex_holds_the_papers_of_what_ran_and_this_benchmark() -> None:
    text = formats.render(results(), "bibtex")
    keys = [
        "finn2017maml",
        "goldblum2020aq",
        "goodfellow2015fgsm",
        "madry2018pgd",
        "robustbenchmeta",
        "snell2017protonet",
    ]
    assert [entry.key for entry in parsed(text)] == keys
    assert text.startswith("% No paper stands behind: standard, strokes\n")


def test_the_csv_is_the_leaderboard_with_units_in_its_head() -> None:
    rows = list(csv.DictReader(io.StringIO(formats.render(results(), "csv"), newline="")))
    table = leaderboard(results())
    assert [float(row["robust_fraction"]) for row in rows] == table.robust.tolist()
    assert [float(row["rank_eps_input_units"]) for row in rows] == table.rank_eps.tolist()
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in rows[0])
    assert {row["steps"] for row in rows} == {"", "1", "5"}


def test_the_json_holds_every_outcome_and_its_attacks() -> None:
    there = joined(results(), results(norm="l2"))
    found = json.loads(formats.render(there, "json"))
    assert [len(board["entries"]) for board in found["boards"]] == [4] * 4
    by_place = {
        (board["norm"], board["shots"], entry["checkpoint"], entry["steps"], outcome["eps"]): outcome
        for board in found["boards"]
        for entry in board["entries"]
        for outcome in entry["worst_case"]
    }
    for one in outcomes(there):
        outcome = by_place[one.board.norm, one.board.shots, one.entry.checkpoint, one.entry.steps, one.eps]
        assert (outcome["mean"], outcome["ci95"]) == interval(one.known)
        assert outcome["n"] == 6
        assert [attack["attack"] for attack in outcome["attacks"]] == ["fgsm", "pgd-20"]
        assert outcome["attacks"][0]["mean"] == one.runs["fgsm"].survived.mean(1).mean()
        assert outcome["attacks"][0]["forwards_a_query"] == 20.0  # 200 rows for 10 queries


def test_json_writes_null_for_what_is_not_known() -> None:
    there = results()
    there.cells.loc[there.cells.attack == "pgd-20", ["status", "reason"]] = ["error", "no device"]
    one = Results(there.cells, there.tasks[there.tasks.task == 0])
    text = formats.render(one, "json")
    json.loads(text, parse_constant=pytest.fail)
    entry = json.loads(text)["boards"][0]["entries"][0]
    assert (entry["rank"], entry["clean"]["ci95"]) == (None, None)
    assert entry["worst_case"][0]["errors"] == [{"attack": "pgd-20", "reason": "no device"}]


def test_every_key_of_the_json_is_explained() -> None:
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    there = results()
    there.cells.loc[there.cells.attack == "pgd-20", ["status", "reason"]] = ["error", "no device"]
    keys = names_in(json.loads(formats.render(there, "json"))) | {"code", "colour", "detail"}
    assert {key for key in keys if f"`{key}`" not in text} == set()


def names_in(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(names_in, value)) if value else set()
    return set(value).union(*map(names_in, value.values())) if isinstance(value, dict) else set()


@pytest.mark.parametrize("name", formats.FORMATS)
def test_no_results_and_the_same_results_twice(name: str) -> None:
    there = results()
    assert formats.render(there, name) == formats.render(results(), name)
    formats.render(Results(there.cells.iloc[:0], there.tasks.iloc[:0]), name)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_the_command_writes_a_format_to_stdout_or_to_a_file(name: str, rbm: Run, tmp_path: Path) -> None:
    fill(tmp_path / "results", "protonet-aq", "fgsm", 4)
    status, out, err = rbm("report", "results", "--format", name)
    assert (status, err) == (0, "")
    assert rbm("report", "results", "--format", name, "--out", "papers/board")[:2] == (0, "")
    assert Path("papers/board").read_bytes() == out.encode()
    assert "protonet" in out
    assert {path.name for path in tmp_path.iterdir()} == {"results", "papers"}


def test_a_format_does_not_go_into_a_folder(rbm: Run, tmp_path: Path) -> None:
    fill(tmp_path / "results", "protonet-aq", "fgsm", 4)
    status, _, err = rbm("report", "results", "--format", "csv", "--out", "results")
    assert (status, err) == (2, "rbm: out: results is a folder; legal with --format: a file\n")


def test_an_unknown_format_is_refused(rbm: Run, tmp_path: Path) -> None:
    fill(tmp_path / "results", "protonet-aq", "fgsm", 4)
    status, _, err = rbm("report", "results", "--format", "tex")
    assert status == 2
    assert "format: 'tex' is unknown; did you mean 'latex'? legal: latex, bibtex, csv, json" in err
