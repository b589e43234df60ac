"""From results to a leaderboard as Markdown and HTML, a CSV and figures; no torch anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustbench_meta.outcomes import Results
from robustbench_meta.protocols import recipes
from robustbench_meta.ranking import standings
from robustbench_meta.report import (
    album,
    corruptions,
    figures,
    html,
    lines,
    markdown,
    naming,
    page,
    plain,
    protocols,
    renderings,
    sentences,
    sounds,
    strips,
    tables,
    trajectories,
    transfer,
)
from robustbench_meta.report import gallery as galleries
from robustbench_meta.statistics import summarise


def write(results: Results, gallery: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Write leaderboard.md, leaderboard.html, cells.csv and figures/ into `out`; return the files written.

    A gallery item holds title, clean and adversarial images [n,C,H,W] or [n,H,W] in [0, 1], or sounds [n,1,samples] in
    [-1, 1] with their rate [n] in samples a second, labels [n], clean_predictions [n], adversarial_predictions [n],
    attack and eps; where classes have names, classes [N] say them. Sounds are written as WAV files to sounds/, too. Of
    sentences clean and adversarial are texts [n] of as many words, and where learners write, so are targets [n],
    written [n] and written_attacked [n]; of rollouts they are ways [n,H+1,2], with a goal [n,3], obstacles [n,C,3] and
    bodies [n,2,J,2]. The cell named by its `key`, if it
    has one, gives the title instead. The same input gives the same bytes.
    """
    out.mkdir(parents=True, exist_ok=True)
    known, trained = lines.learners(results), recipes(results)  # before texts are made printable: a card is JSON
    results, gallery = plain.shown(results, gallery)
    boards = standings(results)
    report = tables.tables(results, boards, gallery)
    met, unmet = protocols.tables(results, boards, trained)
    report = replace(report, transfers=transfer.tables(results, boards), protocols=met, unmet=unmet)
    report = corruptions.shown(report, corruptions.tables(results, boards))
    titled = [galleries.named(item) for item in naming.titled(gallery, results.cells)]
    read = sentences.sheets(titled)
    pictured = [item for item in titled if not (sentences.is_text(item) or trajectories.is_course(item))]
    attacked, corrupted = strips.apart(pictured)
    mapped = trajectories.maps(titled)
    earned = trajectories.outings(results.cells, results.tasks, naming.cell_titles(results.cells))
    rendered = renderings.renderings(results.cells, results.tasks, naming.cell_titles(results.cells))
    pictures = figures.draw(results, boards, attacked, out / "figures", mapped, corrupted)
    pictures += transfer.draw(report, out / "figures")
    noisy = strips.chosen([item for item in corrupted if sounds.is_sound(item)])
    heard = sounds.write(galleries.chosen(attacked), out / "sounds", noisy)
    shown = page.Shown(album.album(attacked), read, mapped, earned, rendered, album.strip(corrupted))
    whole = page.make(results, boards, report, known, shown)
    texts = {
        "leaderboard.md": markdown.render(report, pictures, heard, read, earned, rendered),
        "leaderboard.html": html.render(report, whole),
        "cells.csv": plain.csv_text(summarise(results)),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8", newline="\n")
    drawn = [path for one in pictures for path in (one.svg, one.png)]
    return [*(out / name for name in texts), *drawn, *(path for one in heard for path in (one.clean, one.adversarial))]
