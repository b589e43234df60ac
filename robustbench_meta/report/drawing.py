"""What all figures share: style, how an entry looks, and how a figure becomes an SVG and a PNG of the same bytes.

Colours are Okabe and Ito's (2008), some darkened to stand on white; markers and dashes tell the same apart in print
without colour, and names stand beside what they name.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from robustbench_meta.outcomes import Entry
from robustbench_meta.report import frames

INK, MUTED, RULE, SHADE, REST = "#1b1f24", "#626b75", "#d5d9de", "#ececea", "#b9bec5"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#a8508a", "#8c6d00", "#3a9bd9", "#5b5b5b", "#b3002d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
RIGHT, WRONG = "#0072b2", "#d55e00"
NAMED = 12  # entries that a figure tells apart; the others are grey and counted
DOTTED, DASHED = (0, (1, 1.6)), (0, (5, 2))
STYLE: Any = {
    "svg.hashsalt": "robustbench_meta",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "hatch.color": REST,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Picture:
    """One figure on disk, as SVG and PNG; `board` is the slug of the board it belongs to, if it has one."""

    name: str
    board: str
    caption: str
    alt: str
    svg: Path
    png: Path


@dataclass(frozen=True)
class About:
    """What a page says of a figure: below it, and instead of it."""

    caption: str
    alt: str


@dataclass(frozen=True)
class Look:
    """How one entry is drawn, the same in every figure of a report; `named` is False where it is of the grey rest.

    The first 64 places differ in hue or shape, which are places in PALETTE and MARKERS.
    """

    place: int
    dashed: bool
    named: bool

    @property
    def hue(self) -> int:
        return self.place % len(PALETTE)

    @property
    def shape(self) -> int:
        return (self.place + self.place // len(PALETTE)) % len(MARKERS)

    @property
    def colour(self) -> str:
        return PALETTE[self.hue] if self.named else REST

    @property
    def marker(self) -> str:
        return MARKERS[self.shape] if self.named else "."

    @property
    def line(self) -> Any:
        return DASHED if self.dashed else "-"


def save(figure: Figure, path: Path, board: str, about: About) -> Picture:
    """Write a figure as SVG and PNG, twice the same bytes; `board` is the slug of the board it belongs to."""
    svg, png = path.with_name(f"{path.name}.svg"), path.with_name(f"{path.name}.png")
    close: Any = {"bbox_inches": "tight", "pad_inches": 0.08, "facecolor": "white"}
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Neither a date nor a version is kept.
        figure.savefig(svg, metadata={"Date": None, "Creator": None}, **close)
        figure.savefig(png, dpi=200, metadata={"Software": None}, **close)
    return Picture(path.name, board, about.caption, about.alt, svg, png)


def places(boards: Iterable[Iterable[Entry]]) -> dict[Entry, int]:
    """Give every entry the smallest place that no other of its boards has, by name, what is drawn dashed last.

    The place decides how an entry looks: two that are 64 apart, alike. It rests on who is on which board, and not on
    what anyone withstood, so that of more entries than hues any two of one hue may be among the best, which are named.
    """
    beside: dict[Entry, set[Entry]] = {}
    for board in map(set, boards):
        for entry in board:
            beside.setdefault(entry, set()).update(board)
    made: dict[Entry, int] = {}
    for entry in sorted(beside, key=lambda one: (_dashed(one), frames.by_name(one))):
        taken = {made[other] for other in beside[entry] if other in made}
        made[entry] = next(place for place in range(len(taken) + 1) if place not in taken)
    return made


def places_of(frame: pd.DataFrame) -> dict[Entry, int]:
    """Return the places of all entries of a frame of one board or several."""
    return places([entry for entry, _ in frames.by_entry(rows)] for _, rows in frames.by_board(frame))


def looks(rows: pd.DataFrame, order: Mapping[Entry, int]) -> dict[Entry, Look]:
    """Draw every entry of a board by its place, the best in colour and the others grey."""
    named = frames.best(rows, NAMED)
    return {entry: look(entry, order[entry], named=entry in named) for entry, _ in frames.by_entry(rows)}


def look(entry: Entry, place: int, *, named: bool) -> Look:
    """Say how an entry is drawn at its place: dashed if it was trained without a defense."""
    return Look(place, _dashed(entry), named)


def _dashed(entry: Entry) -> bool:
    return entry.defense == "standard"


def rest_text(found: dict[Entry, Look]) -> str:
    """Say how many entries are grey; empty if none is."""
    count = sum(not look.named for look in found.values())
    return f"{count} more" if count else ""


def heat(share: float) -> tuple[str, str]:
    """Return face and ink of a square: the darker, the higher `share`, from 0 to 1."""
    shade = 0.06 + 0.79 * min(1.0, max(0.0, share))
    return matplotlib.colors.to_hex(matplotlib.colormaps["Blues"](shade)), "#ffffff" if shade > 0.57 else "#11151a"


def short(text: str, length: int) -> str:
    """Make a name fit to be drawn: no control characters, no more than `length` characters."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return clean if len(clean) <= length else f"{clean[: length - 1]}…"
