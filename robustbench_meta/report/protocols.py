"""How the rows of a report stand to the protocols of which they met an attack, as tables for the pages."""

from __future__ import annotations

from typing import Any

from robustbench_meta import protocols
from robustbench_meta.outcomes import Board, Results
from robustbench_meta.ranking import Standing
from robustbench_meta.report.naming import display_names, entry_label, titles
from robustbench_meta.report.tables import ProtocolRow, ProtocolTable


def tables(
    results: Results, boards: list[list[Standing]], known: dict[str, dict[str, Any]]
) -> tuple[list[ProtocolTable], list[str]]:
    """Return a table for each protocol that was met, with rows of like differences joined, and the names of the others.

    `known` are the learners' recipes by weights.
    """
    names, abouts = display_names(results.cells), [one[0].board for one in boards]
    headings = dict(zip(abouts, titles(abouts), strict=True))
    found: dict[str, dict[tuple[Board, tuple[str, ...]], list[str]]] = {}
    for one in protocols.verdicts(results, known):
        rows = found.setdefault(one.protocol.name, {})
        rows.setdefault((one.board, one.differences), []).append(entry_label(one.entry, names))
    made = [
        ProtocolTable(
            label=protocols.PRESETS[name].label,
            about=protocols.PRESETS[name].about,
            beyond=protocols.PRESETS[name].beyond,
            rows=[ProtocolRow(headings[board], those, differences) for (board, differences), those in rows.items()],
        )
        for name, rows in found.items()
    ]
    return made, [name for name in protocols.PRESETS if name not in found]
