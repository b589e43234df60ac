"""Corrupted queries to look at: one learner's, at the highest severity, apart from what was attacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_evaluate import CENTROIDS, STROKES, cell

from robustbench_meta import catalog, evaluate, report, store
from robustbench_meta.evaluate import run
from robustbench_meta.report import album, sounds, strips
from robustbench_meta.types import Threat

NOISE = np.random.default_rng(0)


def item(attack: str, eps: float = 5.0, learner: str = "a", norm: str = "corruption", size: int = 8) -> dict[str, Any]:
    clean = NOISE.random((6, 1, size, size))
    return {
        "title": f"{learner}, 5-shot: {attack}, severity {eps:.0f}",
        "clean": clean,
        "adversarial": np.clip(clean + 0.1, 0, 1),
        "labels": np.arange(6),
        "clean_predictions": np.arange(6),
        "adversarial_predictions": np.zeros(6, int),
        **{"attack": attack, "norm": norm, "eps": eps},
    }


def test_what_was_attacked_is_told_apart_from_what_was_corrupted() -> None:
    attacked, old = item("pgd-20", norm="linf"), {**item("fgsm"), "norm": ""}
    assert strips.apart([attacked, one := item("fog"), old]) == ([attacked, old], [one])


def test_corruptions_of_one_learner_at_the_highest_severity_are_drawn() -> None:
    items = [item("jpeg"), item("fog", 4), item("fog"), item("snow", learner="b")]
    assert [(one["attack"], one["eps"]) for one in strips.chosen(items)] == [("fog", 5), ("jpeg", 5)]
    rows = strips.rows(items)
    assert [row.name for row in rows] == ["clean", "fog", "jpeg"]
    assert [row.says for row in rows] == [tuple("012345"), ("0",) * 6, ("0",) * 6]
    assert np.array_equal(rows[1].pictures, items[2]["adversarial"][:, 0])
    figure: Figure = strips.draw(items)
    assert len(figure.axes) == 3 * 6
    assert [axes.get_xlabel() for axes in figure.axes[6:8]] == ["✓ 0", "✗ 0, is 1"]
    about = strips.about(items)
    assert about.caption.startswith(
        "The same queries clean and under each corruption at severity 5, as a, 5-shot takes"
    )
    assert about.caption.endswith("Not shown: 1 that met them, too.")


def test_the_page_holds_as_many_columns_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    items = [item("fog"), item("jpeg")]
    whole = album.strip(items)
    assert [(name, [one.label for one in seen]) for name, seen in whole.rows] == [
        (name, list("0123")) for name in ("clean", "fog", "jpeg")
    ]
    sizes = [sum(len(seen[i].picture) for _, seen in whole.rows) for i in range(4)]
    monkeypatch.setattr(album, "LARGEST", sum(sizes[:2]))
    assert album.strip(items).rows == tuple((name, seen[:2]) for name, seen in whole.rows)
    monkeypatch.setattr(album, "LARGEST", sizes[0] - 1)
    assert album.strip(items) == album.Strip() == album.strip([])


def test_the_first_query_under_each_corruption_can_be_heard(tmp_path: Path) -> None:
    wave = {"clean": NOISE.random((6, 1, 400)), "adversarial": NOISE.random((6, 1, 400)), "rate": np.full(6, 8000)}
    heard = sounds.write([], tmp_path, [item("clipping") | wave, item("reverberation") | wave])
    assert [one.adversarial.name.rsplit("-", 1)[1] for one in heard] == ["corrupted.wav"] * 2
    assert len({*tmp_path.iterdir()}) == 4
    assert strips.rows([item("clipping") | wave])[0].pictures.shape[0] == 6


def test_queries_of_the_highest_severity_alone_are_kept() -> None:
    for severity in (1.0, 4.0, 5.0):
        one = cell(threat=Threat("corruption", severity))
        kept = run(one, CENTROIDS, STROKES, catalog.attack("brightness"), [0]).pictures
        assert (kept is not None) == (severity == 5)


def test_a_report_shows_corrupted_queries_in_a_figure_and_on_the_page(tmp_path: Path) -> None:
    names = ("brightness", "contrast")
    evaluate(
        "zoo:strokes-protonet-aq", norm="corruption", attacks=[*names], eps=[5], tasks=1, queries=2, out=tmp_path / "r"
    )
    made = report.write(store.read(tmp_path / "r"), store.read_gallery(tmp_path / "r"), tmp_path / "out")
    assert {path.name for path in made} >= {"corrupted.svg", "corrupted.png"}
    assert "gallery.svg" not in {path.name for path in made}
    page = (tmp_path / "out" / "leaderboard.html").read_text(encoding="utf-8")
    assert 'href="#corrupted"' in page
    assert all(f'<th scope="row">{name}</th>' in page for name in ("clean", *names))
    assert "figures/corrupted.svg" in (tmp_path / "out" / "leaderboard.md").read_text(encoding="utf-8")
