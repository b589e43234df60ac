"""docs/choosing.md: its tables are what the committed results make, and its pictures show the whole eps."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scripts import ROOT, load

from robustbench_meta.types import InputError


@pytest.fixture
def choosing() -> Any:
    load("generalisation")  # which it imports from beside itself
    return load("choosing")


def test_the_committed_tables_are_what_the_committed_results_make(
    choosing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    page = choosing.PAGE.read_text(encoding="utf-8")
    assert choosing.filled(page, choosing.blocks(choosing.read())) == page
    for image in re.findall(r"\]\((img/[^)]+)\)", page):
        assert (ROOT / "docs" / image).is_file(), image


def test_noise_and_attack_are_drawn_with_the_whole_eps(choosing: Any) -> None:
    found = choosing.looks(ROOT / "checkpoints" / "strokes-protonet-aq", (0.05, 0.1), root=None)
    for kind in (found.noisy, found.attacked):
        for eps, images in kind.items():
            moved = np.abs(images - found.clean).reshape(len(images), -1)
            assert moved.max(1) == pytest.approx(eps, rel=0.02)
            assert moved.max() <= eps + 1e-6
    figure = choosing.draw_looks(found)
    assert len(figure.axes) == 5 * choosing.SHOWN


def test_only_what_stands_between_the_marks_is_made(choosing: Any) -> None:
    page = "a\n<!-- made: one -->\nold\nlines\n<!-- end -->\nb\n<!-- made: two-2 -->\n<!-- end -->\n"
    made = "a\n<!-- made: one -->\n1 \\1\n<!-- end -->\nb\n<!-- made: two-2 -->\n2\n<!-- end -->\n"
    assert choosing.filled(page, {"one": "1 \\1", "two-2": "2"}) == made
    assert choosing.filled(made, {"one": "1 \\1", "two-2": "2"}) == made
    for blocks in ({"one": ""}, {"one": "", "two-2": "", "three": ""}):
        with pytest.raises(InputError, match="page: it has one, two-2; made are"):
            choosing.filled(page, blocks)
