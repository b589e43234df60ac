"""What `rbm bench` shows: a table of a run, its history as JSON lines, and a page of trends with steps marked.

A row of a history is one case of one run: date, commit, machine, versions, and what timing.Measured holds of our
side (`ours`) and of the peer's (`peer`).
"""

from __future__ import annotations

import json
import math
import statistics as numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from robustbench_meta import untrusted
from robustbench_meta.intervals import mann_whitney
from robustbench_meta.report.html import style_hash

SCHEMA = 1
LARGEST = 2**26  # bytes of a history
WINDOW, LEVEL, RATIO = 3, 0.002, 1.25  # runs either side of a step, its p, how many times as long or as short
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 190, 62, 26, 12
FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "date": str,
    "commit": str,
    "changed": bool,
    "machine": str,
    "device": str,
    "threads": int,
    "versions": dict,
    "size": str,
    "case": str,
    "ours": dict,
    "peer": (dict, type(None)),
}
Row = dict[str, Any]

COLUMNS = (
    *("case", "median", "spread", "peer", "per row", "rows forward", "rows back"),
    *("peer's rows", "MiB", "peer's MiB", "survive"),
)


def table(comparisons: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the columns and rows of a run.

    Spread is half the interquartile range over the median. `peer` is how many times as long the peer takes, `per row`
    the same for one row sent forward or back: what is left of it where our side sends fewer.
    """
    return COLUMNS, [_table_row(one) for one in comparisons if one["ours"]]


def absent(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in one line each why cases could not be measured."""
    reasons: dict[str, list[str]] = {}
    for one in comparisons:
        if one["ours"] is None:
            reasons.setdefault(one["note"], []).append(one["case"])
    return [f"{reason} ({', '.join(cases)})" for reason, cases in reasons.items()]


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a history; raise ValueError where one holds a NaN, which JSON has no word for."""
    text = "".join(json.dumps(row, allow_nan=False, sort_keys=True) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read(path: Path, refuse: Callable[[str], NoReturn]) -> list[Row]:
    """Read a history in order of date, calling `refuse` with one line on what is wrong with it."""
    rows: list[Row] = []
    for number, line in enumerate(_lines(path, refuse), 1):
        if not line.strip():
            continue
        try:
            row = untrusted.parse(line)
        except ValueError as error:
            refuse(f"history: {path}, line {number}: {error}")
        if problem := _problem(row):
            refuse(f"history: {path}, line {number}: {problem}")
        rows.append(row)
    return sorted(rows, key=lambda row: row["date"])


@dataclass(frozen=True)
class Step:
    """A change that a series keeps: the first run after it, how many times as long that takes, and its p."""

    at: int
    ratio: float
    p: float


def steps(series: Sequence[Sequence[float]]) -> list[Step]:
    """Find steps between runs, each given by its samples.

    Three runs before are compared with three after (fewer at the ends) by a two-sided Mann-Whitney test on the pooled
    samples; a step has p < 0.002 and a ratio of medians above 1.25 or below 0.8. Of neighbours that are no more than
    two runs apart the surest stays, of equals the largest.
    """
    found: list[Step] = []
    for at in range(1, len(series)):
        before = [value for run in series[max(0, at - WINDOW) : at] for value in run]
        after = [value for run in series[at : at + WINDOW] for value in run]
        step = Step(at, numbers.median(after) / numbers.median(before), mann_whitney(after, before))
        if step.p >= LEVEL or abs(math.log(step.ratio)) <= math.log(RATIO):
            continue
        if found and at - found[-1].at < WINDOW:
            found[-1] = max(found[-1], step, key=lambda one: (-one.p, abs(math.log(one.ratio))))
        else:
            found.append(step)
    return found


def page(rows: Sequence[Row]) -> str:
    """Draw every series of a history as one HTML page that needs no network and no script."""
    series: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        series.setdefault(tuple(row[key] for key in ("case", "size", "device", "machine", "threads")), []).append(row)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style = _asset("speed.css")
    return environment.from_string(_asset("speed.html.j2")).render(
        charts=[_chart(key, found) for key, found in sorted(series.items(), key=lambda pair: tuple(map(str, pair[0])))],
        runs=len({(row["date"], row["commit"]) for row in rows}),
        policy=f"default-src 'none'; style-src '{style_hash(style)}'; base-uri 'none'; form-action 'none'",
        style=Markup(style),
        rule={"window": WINDOW, "level": LEVEL, "ratio": RATIO, "inverse": 1 / RATIO},
        frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "floor": HEIGHT - BOTTOM, "top": TOP},
    )


def seconds_text(seconds: float) -> str:
    """Write a time with three figures: 0.52 ms, 41.3 ms, 2.07 s."""
    if seconds >= 0.9995:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{1000 * seconds:.3g} ms"


@dataclass(frozen=True)
class Dot:
    """One run of a series, in pixels: its median, its fastest and slowest sample, and what a pointer reads."""

    x: float
    y: float
    low: float
    high: float
    text: str
    step: str  # how much longer or shorter, where a step begins here


@dataclass(frozen=True)
class Chart:
    title: str
    where: str
    dots: list[Dot]
    ticks: list[tuple[float, str]]  # y, label
    latest: str
    ratio: str
    steps: list[str]


def _table_row(one: Mapping[str, Any]) -> tuple[str, ...]:
    ours, peer = one["ours"], one["peer"]
    median = numbers.median(ours["seconds"])
    ratio = f"{numbers.median(peer['seconds']) / median:.2f}x as long" if peer else one["note"]
    theirs = f"{peer['forwards']} / {peer['backwards']}" if peer else ""
    survive = [f"{100 * side['survived']:.0f} %" for side in (ours, peer) if side and side["survived"] is not None]
    return (
        one["case"],
        seconds_text(median),
        _spread(ours["seconds"]),
        ratio,
        _per_row(ours, peer) if peer else "",
        str(ours["forwards"]),
        str(ours["backwards"]),
        theirs,
        _mib(ours),
        _mib(peer) if peer else "",
        " / ".join(survive),
    )


def _per_row(ours: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    paces = [numbers.median(side["seconds"]) / max(side["forwards"] + side["backwards"], 1) for side in (peer, ours)]
    return f"{paces[0] / paces[1]:.2f}x"


def _spread(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:
        return "-"
    low, _, high = numbers.quantiles(seconds, n=4, method="inclusive")
    return f"±{50 * (high - low) / numbers.median(seconds):.0f} %"


def _mib(side: Mapping[str, Any]) -> str:
    return "-" if side["peak_mib"] is None else f"{side['peak_mib']:.0f}"


def _chart(key: tuple[Any, ...], rows: Sequence[Row]) -> Chart:
    case, size, device, machine, threads = key
    series = [row["ours"]["seconds"] for row in rows]
    found = {step.at: step for step in steps(series)}
    top = max(max(run) for run in series) * 1.08
    floor = HEIGHT - BOTTOM

    def down(seconds: float) -> float:
        return round(floor - (floor - TOP) * seconds / top, 1)

    across = (WIDTH - LEFT - 24) / max(len(rows) - 1, 1)
    dots = []
    for at, (row, run) in enumerate(zip(rows, series, strict=True)):
        median = numbers.median(run)
        text = f"{row['date']}, {row['commit'][:10] or 'no commit'}{' + changes' if row['changed'] else ''}: "
        text += f"{seconds_text(median)} ({seconds_text(min(run))} to {seconds_text(max(run))}, n = {len(run)})"
        mark = _step_text(found[at].ratio) if at in found else ""
        dots.append(Dot(round(LEFT + 12 + across * at, 1), down(median), down(min(run)), down(max(run)), text, mark))
    last = rows[-1]
    peer = last["peer"]
    return Chart(
        title=case,
        where=f"size {size}, {device}, {threads} thread{'s' if threads != 1 else ''}, {machine}",
        dots=dots,
        ticks=[(down(share * top / 1.08), seconds_text(share * top / 1.08)) for share in (0.5, 1.0)],
        latest=seconds_text(numbers.median(series[-1])),
        ratio=f"{numbers.median(peer['seconds']) / numbers.median(series[-1]):.2f}" if peer else "no peer",
        steps=[
            f"{rows[step.at]['date']}, {rows[step.at]['commit'][:10]}: {_step_text(step.ratio)} (p = {step.p:.1g})"
            for step in found.values()
        ],
    )


def _step_text(ratio: float) -> str:
    return f"{ratio:.2f}x as long"


def _problem(row: Any) -> str:
    if not isinstance(row, dict):
        return "not an object"
    for name, kind in FIELDS.items():
        if not isinstance(row.get(name, ...), kind):
            return f"{name} is missing or of another type"
    if row["schema"] != SCHEMA:
        return f"schema {row['schema']}, and this version reads {SCHEMA}"
    for side in filter(None, (row["ours"], row["peer"])):
        seconds = side.get("seconds")
        if not isinstance(seconds, list) or not seconds or not all(_positive(one) for one in seconds):
            return "seconds is not a list of numbers above 0"
    return ""


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _lines(path: Path, refuse: Callable[[str], NoReturn]) -> list[str]:
    try:
        return list(untrusted.lines(path, limit=LARGEST))
    except ValueError as error:
        refuse(f"history: {path} cannot be read ({error})")


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()
