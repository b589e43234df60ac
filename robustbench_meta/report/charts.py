"""The page's own pictures: light SVG with real text, coloured by its style sheet, and a sentence that stands for it.

The first eight entries of a board have a colour, a mark of their own and a name beside it; the others are grey until
their row is pointed at. Nothing has a style attribute, which the page's policy forbids. Places are in pixels from the
upper left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix

from markupsafe import Markup

from robustbench_meta.outcomes import Entry, eps_text
from robustbench_meta.ranking import Standing
from robustbench_meta.report.drawing import MARKERS, Look, look, short
from robustbench_meta.report.naming import entry_label, norm_text
from robustbench_meta.report.tables import columns_of_eps
from robustbench_meta.report.values import Value

WIDTH, HEIGHT = 560, 380
LEFT, TOP, FLOOR = 44, 24, HEIGHT - 46
COLOURS, NAME = 8, 27  # entries with a colour, and characters of a name
LETTER, LINE = 6.4, 15  # about what a character is wide and a line high
Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Corners = tuple[tuple[float, float], ...]


def _regular(corners: int, radius: float, turned: float = 0.0) -> Corners:
    """Return the corners of a polygon about (0, 0), the first straight up but for `turned` in parts of a circle."""
    angles = [2 * math.pi * (turned + i / corners) for i in range(corners)]
    return tuple((round(radius * math.sin(angle), 2), round(-radius * math.cos(angle), 2)) for angle in angles)


_BAR = ((-0.4, -1.25), (0.4, -1.25), (0.4, -0.4), (1.25, -0.4), (1.25, 0.4), (0.4, 0.4))
_CROSS: Corners = (*_BAR, *((-x, -y) for x, y in _BAR))
# The corners of each of MARKERS on a circle of about radius 1; none of the circle itself.
SHAPES: tuple[Corners, ...] = tuple(
    {
        "o": (),
        "s": _regular(4, 1.25, turned=1 / 8),
        "^": _regular(3, 1.45),
        "D": _regular(4, 1.4),
        "v": _regular(3, 1.45, turned=1 / 2),
        "P": _CROSS,
        "X": tuple((round((x - y) / math.sqrt(2), 2), round((x + y) / math.sqrt(2), 2)) for x, y in _CROSS),
        "h": _regular(6, 1.2),
    }[marker]
    for marker in MARKERS
)


@dataclass(frozen=True)
class Chart:
    """A picture, what it is called, and what to say below it."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Scale:
    """Maps numbers from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return whole fives, tens or twenties of percent, about five of them."""
        step = next(step for step in (0.05, 0.1, 0.2) if (self.high - self.low) / step <= 6 or step == 0.2)
        first = round(self.low / step + 0.499999)
        return [round(step * i, 9) for i in range(first, round(self.high / step) + 2) if step * i <= self.high + 1e-9]


@dataclass(frozen=True)
class Plane:
    """Where numbers lie in a picture, and how its entries look and are called: in links, by checkpoint and weights."""

    x: Scale
    y: Scale
    looks: dict[Entry, Look]
    ids: dict[Entry, str]
    names: dict[tuple[str, str], str]

    def at(self, x: float, y: float) -> tuple[str, str]:
        return _p(self.x(x)), _p(self.y(y))


def of_board(
    board: list[Standing], ids: dict[Entry, str], names: dict[tuple[str, str], str], order: Mapping[Entry, int]
) -> tuple[Chart, ...]:
    """Draw robustness against eps, and clean against robust; what rests on no number is not drawn.

    `order` holds the place of each entry among colours and marks.
    """
    if not any(one.robust[2] for one in board):
        return ()
    looks = {one.entry: look(one.entry, order[one.entry], named=i < COLOURS) for i, one in enumerate(board)}
    return _curves(board, looks, ids, names), _scatter(board, looks, ids, names)


def _hue(look: Look) -> str:
    """Name the colour of an entry in the style sheet."""
    return f"c{look.hue}" if look.named else "rest"


def _mark(look: Look, kind: str, at: tuple[str, str], size: float) -> Markup:
    """Draw the mark of an entry, a circle where it is grey."""
    corners = SHAPES[look.shape] if look.named else ()
    if not corners:
        return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(kind, *at, size)
    x, y = map(float, at)
    points = " ".join(f"{_p(x + size * right)},{_p(y + size * down)}" for right, down in corners)
    return Markup('<polygon class="{}" points="{}"/>').format(kind, points)


def _curves(
    board: list[Standing], looks: dict[Entry, Look], ids: dict[Entry, str], names: dict[tuple[str, str], str]
) -> Chart:
    labels, constant = _labels(board, names), f"{board[0].board.constant_text}: a constant"
    right = WIDTH - 16 - LETTER * max(len(label) for label in [*labels[:COLOURS], constant])
    budgets = sorted({0.0, *columns_of_eps(board)})
    x = Scale(0, max(budgets) or 1.0, LEFT + 8, right)
    y = Scale(0, _top(board), FLOOR, TOP)
    parts, ends = [_grid_y(y, right)], []
    for eps in budgets:
        parts.append(Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(_p(x(eps)), FLOOR + 17, _eps(eps)))
    plane, drawn = Plane(x, y, looks, ids, names), []
    for one, name in zip(board, labels, strict=True):
        values, mine = _by_eps(one), looks[one.entry]
        if not values:
            continue
        drawn.append(_line(one, values, plane))
        if mine.named:
            last = max(values)
            ends.append((x(last), y(values[last].mean), name, _hue(mine)))
    parts += reversed(drawn)  # the best on top
    parts.append(_chance(y(board[0].board.constant), LEFT, right))
    ends.append((right, y(board[0].board.constant), constant, "chance"))
    parts += _beside(ends, right)
    about = board[0].board
    threat, budget = f"{about.budget} ({norm_text(about)})", about.budget
    parts.append(Markup('<text class="axis end" x="{}" y="{}">{}</text>').format(_p(right), HEIGHT - 8, threat))
    parts.append(Markup('<text class="axis" x="0" y="11">worst-case accuracy, %</text>'))
    best = board[0]
    said = f"{len(board)} lines from clean accuracy at {budget} 0 to worst-case accuracy at {budget} "
    said += f"{eps_text(max(budgets))}. First in the table: {_words(best, names)}."
    title = "Robustness curves"
    more = f" Coloured: the first {COLOURS} of {len(board)}." if len(board) > COLOURS else ""
    caption = (
        f"Worst case over all {'corruptions' if about.corrupted else 'attacks'} against {budget}; at 0 clean accuracy. "
        "Bars: 95 % intervals over tasks. Dashed: standard "
        "training. Hollow: an attack that others met is missing. "
        f"Dotted: {about.constant_text}, a constant predictor.{more}"
    )
    return Chart(title, _svg(title, said, parts), caption)


def _line(one: Standing, values: dict[float, Value], plane: Plane) -> Markup:
    mine = plane.looks[one.entry]
    dashed = " dashed" if mine.dashed else ""
    points = {eps: plane.at(eps, value.mean) for eps, value in sorted(values.items())}
    parts = [Markup('<path class="stroke{}" d="M{}"/>').format(dashed, "L".join(map(" ".join, points.values())))]
    if mine.named:
        firm = [(points[eps][0], value) for eps, value in sorted(values.items()) if value.firm]
        bars = "".join(f"M{x} {_p(plane.y(low))}V{_p(plane.y(high))}" for x, (low, high) in _ranges(firm))
        parts += [Markup('<path class="bars" d="{}"/>').format(bars)] if bars else []
        parts += [_mark(mine, "hollow" if values[eps].mark else "dot", at, 3.4) for eps, at in points.items()]
    return _group(one, parts, plane)


def _ranges(firm: Iterable[tuple[str, Value]]) -> Iterable[tuple[str, tuple[float, float]]]:
    return ((x, (max(0.0, value.mean - value.half), min(1.0, value.mean + value.half))) for x, value in firm)


def _group(one: Standing, parts: Iterable[Markup], plane: Plane) -> Markup:
    """Put together what shows one entry, so that a title says its numbers and a row can light it up."""
    head = Markup('<g class="line {}" data-entry="{}"><title>{}</title>')
    made = head.format(_hue(plane.looks[one.entry]), plane.ids[one.entry], _words(one, plane.names))
    return made + Markup("").join(parts) + Markup("</g>")


def _scatter(
    board: list[Standing], looks: dict[Entry, Look], ids: dict[Entry, str], names: dict[tuple[str, str], str]
) -> Chart:
    about, at = board[0].board, board[0].rank_eps
    points = [(one, Value(*one.clean), Value(*one.robust)) for one in board if one.robust[2]]
    constant = board[0].board.constant
    low = min([constant, *(clean.mean for *_, clean, _ in points)])
    high = max([constant, *(clean.mean for *_, clean, _ in points)])
    room = max(0.04, 0.08 * (high - low))
    x = Scale(max(0, low - room), min(1.0, high + room), LEFT + 8, WIDTH - 12)
    top = max([constant * 1.6, *(robust.mean + (robust.half if robust.firm else 0) for *_, robust in points)])
    y = Scale(0, min(1.0, top + 0.04), FLOOR, TOP)
    plane, parts = Plane(x, y, looks, ids, names), [_grid_y(y, WIDTH - 12)]
    for tick in x.ticks():
        parts.append(
            Markup('<text class="tick mid" x="{}" y="{}">{:.0f}</text>').format(_p(x(tick)), FLOOR + 17, 100 * tick)
        )
    shade = Markup('<rect class="useless" x="{}" y="{}" width="{}" height="{}"/>')
    floor = y(constant)
    parts.append(shade.format(LEFT, _p(floor), WIDTH - 12 - LEFT, _p(FLOOR - floor)))
    parts.append(
        Markup('<text class="note" x="{}" y="{}">no better than {}</text>').format(
            LEFT + 8, FLOOR - 7, board[0].board.constant_text
        )
    )
    parts += _diagonal(x, y)
    front = _pareto([(clean.mean, robust.mean) for *_, clean, robust in points])
    if len(front) > 1:
        steps = "".join(f"V{_p(y(r))}H{_p(x(c))}" for c, r in front[1:])
        parts.append(Markup('<path class="front" d="M{} {}{}"/>').format(_p(x(front[0][0])), _p(y(front[0][1])), steps))
    for one, *_ in reversed(points):
        parts.append(_point(one, plane))
    labels = dict(zip(looks, _labels(board, names), strict=True))
    named = [
        (x(clean.mean), y(robust.mean), labels[one.entry], _hue(looks[one.entry]))
        for one, clean, robust in points
        if looks[one.entry].named
    ]
    taken: list[Box] = []
    for one, clean, robust in points:
        at_x, at_y = x(clean.mean), y(robust.mean)
        taken.append((at_x - 5, at_y - 5, at_x + 5, at_y + 5))
        if looks[one.entry].named and clean.firm and robust.firm:
            taken.append((x(clean.mean - clean.half), at_y - 1, x(clean.mean + clean.half), at_y + 1))
            taken.append((at_x - 1, y(robust.mean + robust.half), at_x + 1, y(max(0.0, robust.mean - robust.half))))
    parts += _names(named, taken)
    parts.append(Markup('<text class="axis end" x="{}" y="{}">clean accuracy, %</text>').format(WIDTH - 12, HEIGHT - 8))
    axis = Markup('<text class="axis" x="0" y="11">worst case at {} {}, %</text>')
    parts.append(axis.format(about.budget, eps_text(at)))
    lead = " ".join(f"{_words(one, names)}." for one, *_ in points[:3])
    title = f"Clean against worst-case accuracy at {about.budget} {eps_text(at)}"
    caption = (
        f"Clean against worst-case accuracy at {about.at(at)}. Step line: the front, where no entry has more of "
        "both. Dotted: robust as high as clean. Shaded: no better than a constant predictor. Hollow: an attack that "
        "others met is missing. Bars: 95 % intervals over tasks."
    )
    return Chart(title, _svg(title, f"{len(points)} points. {lead}", parts), caption)


def _point(one: Standing, plane: Plane) -> Markup:
    here, clean, robust = one.outcomes.get(one.rank_eps), Value(*one.clean), Value(*one.robust)
    mine = plane.looks[one.entry]
    kind = "dot" if here is not None and here.complete else "hollow"
    (x, y), parts = plane.at(clean.mean, robust.mean), []
    if robust.firm and clean.firm and mine.named:
        _, low = plane.at(0, max(0.0, robust.mean - robust.half))
        right, high = plane.at(min(1.0, clean.mean + clean.half), min(1.0, robust.mean + robust.half))
        left, _ = plane.at(clean.mean - clean.half, 0)
        parts.append(Markup('<path class="bars" d="M{} {}V{}M{} {}H{}"/>').format(x, low, high, left, y, right))
    parts.append(_mark(mine, kind, (x, y), 4.6 if mine.named else 3.4))
    return _group(one, parts, plane)


def _pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of which none other has more of both, from the most robust to the cleanest."""
    front: list[tuple[float, float]] = []
    for clean, robust in sorted(points, key=lambda point: (-point[0], -point[1])):
        if not front or robust > front[-1][1]:
            front.append((clean, robust))
    return front[::-1]


def _diagonal(x: Scale, y: Scale) -> list[Markup]:
    low, high = max(x.low, y.low), min(x.high, y.high)
    if high <= low:
        return []
    path = f"M{_p(x(low))} {_p(y(low))}L{_p(x(high))} {_p(y(high))}"
    return [Markup('<path class="chance" d="{}"/>').format(path)]


def _labels(board: list[Standing], names: dict[tuple[str, str], str]) -> list[str]:
    """Name the entries without the words that all their names begin with, cut where they are still too long."""
    texts = [entry_label(one.entry, names) for one in board]
    # Letter by letter is meant: these are no paths.
    shared = commonprefix(texts).rpartition("-")[0] if len(texts) > 1 else ""  # noqa: RUF071
    return [short(text[len(shared) :].removeprefix("-"), NAME) for text in texts]


def _names(points: Sequence[tuple[float, float, str, str]], taken: Sequence[Box]) -> list[Markup]:
    """Write names beside points where they cover nothing of `taken` and no other name, else leave them out."""
    boxes, made = [*taken], []
    for x, y, text, colour in points:
        wide = LETTER * len(text)
        for dx, dy in _AROUND:
            left = x + dx if dx > 0 else x + dx - wide
            box = (left, y + dy - 8, left + wide, y + dy + 5)
            inside = box[0] > LEFT and box[2] < WIDTH and box[1] > TOP - 4 and box[3] < FLOOR
            if inside and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                far = abs(dy) > LINE
                if far:
                    edge = left - 2 if dx > 0 else left + wide + 2
                    lead = Markup('<path class="lead {}" d="M{} {}L{} {}"/>')
                    made.append(lead.format(colour, _p(x), _p(y), _p(edge), _p(y + dy - 2)))
                label = Markup('<text class="name {}" x="{}" y="{}">{}</text>')
                made.append(label.format(colour, _p(left), _p(y + dy + 2), text))
                break
    return made


_AROUND = [(side * dx, dy) for dx, dy in ((8, -5), (8, 11), (9, 2)) for side in (1, -1)]
_AROUND += [(side * 20, dy) for dy in (24, -24, 40, -40, 56, -56, 72, -72) for side in (1, -1)]


def _overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def _beside(ends: list[tuple[float, float, str, str]], edge: float) -> list[Markup]:
    """Write each line's name to its right, moved apart where names would overlap."""
    ends = sorted(ends, key=lambda end: (end[1], end[2]))
    places = [end[1] for end in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + LINE)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], FLOOR - LINE * (len(places) - 1 - i))
    made = []
    for (x, y, text, colour), place in zip(ends, places, strict=True):
        lead = Markup('<path class="lead {}" d="M{} {}L{} {}"/>')
        made.append(lead.format(colour, _p(x + 5), _p(y), _p(edge + 13), _p(place)))
        label = Markup('<text class="name {}" x="{}" y="{}">{}</text>')
        made.append(label.format(colour, _p(edge + 16), _p(place + 4), text))
    return made


def _by_eps(one: Standing) -> dict[float, Value]:
    values = {0.0: Value(*one.clean)} if one.clean[2] else {}
    for eps, outcome in one.outcomes.items():
        if len(outcome.known) and eps > 0:
            mean, half = outcome.accuracy("known")
            values[eps] = Value(mean, half, len(outcome.known), "" if outcome.complete else "†")
    return values


def _top(board: list[Standing]) -> float:
    known = [v.mean + (v.half if v.firm else 0) for one in board for v in _by_eps(one).values()]
    return min(1.0, max([*known, board[0].board.constant]) + 0.03)


def _words(one: Standing, names: dict[tuple[str, str], str]) -> str:
    clean, robust = Value(*one.clean), Value(*one.robust)
    at = f"worst case at {one.board.budget} {eps_text(one.rank_eps)} {robust.text}"
    return f"{entry_label(one.entry, names)}: clean {clean.text}, {at}"


def _grid_y(y: Scale, right: float) -> Markup:
    made = []
    for tick in y.ticks():
        at = _p(y(tick))
        made.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, at, _p(right)))
        made.append(
            Markup('<text class="tick end" x="{}" y="{}">{:.0f}</text>').format(LEFT - 7, _p(y(tick) + 4), 100 * tick)
        )
    return Markup("").join(made)


def _chance(y: float, left: float, right: float) -> Markup:
    return Markup('<path class="chance" d="M{} {}H{}"/>').format(_p(left), _p(y), _p(right))


def _svg(title: str, said: str, parts: Iterable[Markup]) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title><desc>{}</desc>')
    made = head.format(WIDTH, HEIGHT, f"{title}. {said}", title, said)
    return made + Markup("").join(parts) + Markup("</svg>")


def _eps(eps: float) -> str:
    return eps_text(eps) if eps else "0 (clean)"


def _p(value: float) -> str:
    """Write a place in pixels, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")
