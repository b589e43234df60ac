"""What the page says of an entry beyond its row of the table: its cost, where it is from, how to run it again."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from robustbench_meta import untrusted
from robustbench_meta.outcomes import Board, Entry, Results, is_object, is_set
from robustbench_meta.ranking import Standing
from robustbench_meta.report.tables import columns_of_eps
from robustbench_meta.report.values import NOTHING, Value
from robustbench_meta.untrusted import printable

LONGEST, MOST = 300, 80  # characters of a fact of a card, and fields of its recipe, that are shown
PUBLISHED = ("authors", "paper", "code", "license")
Cells = dict[tuple[Board, Entry, float, str], dict[str, Any]]


@dataclass(frozen=True)
class Learner:
    """What is known of how weights came about: facts and recipe as (name, value), and where they were published."""

    facts: tuple[tuple[str, str], ...] = ()
    recipe: tuple[tuple[str, str], ...] = ()
    family: str = ""
    published: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Run:
    """One attack at one eps: what was left, passes, seconds (NaN if not timed) and the start of the cell's key."""

    attack: str
    eps: float
    left: Value
    forwards: int
    backwards: int
    seconds: float
    device: str
    key: str


@dataclass(frozen=True)
class Line:
    """What the page says of an entry beyond its row in the table; `id` names it in links.

    `places` is the 95 % interval of its rank, `source` who holds the best known attack on it if not we,
    `commands` run its numbers again, and `left_out` says which attacks they cannot name. `weights` are those of its
    first training seed; `seeds` says of each that shares the row what it is and what it has.
    """

    id: str
    weights: str
    places: str
    area: Value
    gain: Value
    source: str
    runs: tuple[Run, ...]
    commands: tuple[str, ...]
    left_out: str
    seeds: tuple[str, ...] = ()

    def spent(self, attack: str) -> str:
        """Write what one attack took at all eps together."""
        return spent_text([run for run in self.runs if run.attack == attack])


def learners(results: Results) -> dict[str, Learner]:
    """Read what the results say of each learner, by weights; a card that is no JSON object has nothing to say."""
    table = getattr(results, "learners", None)  # what was made by hand may have none
    rows = [] if table is None else table.to_dict("records")
    return {printable(row["weights"]): _learner(row) for row in rows}


def entry_id(entry: Entry) -> str:
    """Name an entry in links, the same on every board and in every report."""
    return hashlib.sha256(json.dumps(asdict(entry), sort_keys=True).encode()).hexdigest()[:10]


def spent_text(runs: Sequence[Run]) -> str:
    """Write what runs took, and where: GPU-seconds on a GPU; a dash if none was timed."""
    timed = [run for run in runs if not math.isnan(run.seconds)]
    if not timed:
        return NOTHING
    devices = sorted({run.device for run in timed} - {""})
    unit = "GPU-s" if devices and all(device.startswith("cuda") for device in devices) else "s"
    on = f" on {', '.join(devices)}" if devices else ""
    total = sum(run.seconds for run in timed)
    shown = f"{total:,.0f}" if total >= 100 else f"{total:.3g}"
    return f"{shown} {unit}{on}"


def commands(one: Standing, cells: Cells, known: Learner | None) -> tuple[tuple[str, ...], str]:
    """Return the commands that run an entry's numbers again, and which attacks no command can name.

    One command runs the attacks that met the same budgets on the same number of tasks.
    """
    if is_object(one.entry.algorithm):
        return (), "all: no command finds an object of somebody's program"
    ran: dict[str, dict[int, list[float]]] = {}
    lost: list[str] = []
    for eps, outcome in sorted(one.outcomes.items()):
        for attack, bits in outcome.runs.items():
            cell = cells[one.board, one.entry, eps, attack]
            if is_set(cell["attack_fields"]) or attack != cell["attack"]:
                lost += [attack] if attack not in lost else []
            else:
                ran.setdefault(attack, {}).setdefault(len(bits.tasks), []).append(eps)
    grouped: dict[tuple[int, tuple[float, ...]], list[str]] = {}
    for attack, by_n in sorted(ran.items()):
        for n, budgets in by_n.items():
            grouped.setdefault((n, tuple(budgets)), []).append(attack)
    made = [_command(one, attacks, budgets, n, known) for (n, budgets), attacks in sorted(grouped.items())]
    return tuple(made), ", ".join(lost)


def _command(one: Standing, attacks: list[str], budgets: Sequence[float], n: int, known: Learner | None) -> str:
    board, entry = one.board, one.entry
    words = ["rbm", "evaluate", "--ckpt", f"checkpoints/{entry.checkpoint}"]
    if known is None or known.family != board.family:
        words += ["--family", board.family]
    words += ["--split", board.split] if board.split != "test" else []
    words += ["--ways", str(board.ways), "--shots", str(board.shots), "--queries", str(board.queries)]
    words += ["--steps", str(entry.steps)] if entry.steps is not None else []
    words += ["--attacks", ",".join(attacks), "--eps", ",".join(map(_exact, budgets)), "--norm", board.norm]
    words += ["--surface", board.surface] if board.surface != "query" else []
    words += ["--fraction", f"{board.fraction:.9g}"] if board.fraction != 1 else []
    return shlex.join([*words, "--tasks", str(n), "--seed", str(board.seed)])


def _exact(eps: float) -> str:
    """Write a budget so that it is read back as the same number."""
    levels = round(eps * 255)
    return f"{levels}/255" if eps < 1 and levels and round(levels / 255, 9) == eps else f"{eps:.9g}"


def line_of_standing(one: Standing, cells: Cells, known: dict[str, Learner]) -> Line:
    """Read everything that a standing says beyond its row of the table."""
    each = one.members or (one,)
    told = [commands(member, cells, known.get(member.entry.weights)) for member in each]
    return Line(
        id=entry_id(one.entry),
        weights=each[0].entry.weights,
        places=_places(one.rank_low, one.rank_high),
        area=Value(*one.area),
        gain=Value(*one.gain),
        source=", ".join(one.external),
        runs=tuple(_runs(one, cells)),
        commands=tuple(command for made, _ in told for command in made),
        left_out=", ".join(dict.fromkeys(left_out for _, left_out in told if left_out)),
        seeds=tuple(_seeds(one)),
    )


def _seeds(one: Standing) -> Iterable[str]:
    """Say of each training seed of a row what it is called, what it has and by which hash to know it."""
    for seed, member in zip(one.trained, one.members, strict=True):
        entry, worst, clean = member.entry, Value(*member.robust), Value(*member.clean)
        yield (
            f"seed {seed}: {entry.checkpoint}, worst case {worst.text}, clean {clean.text} %, n = {worst.n}, "
            f"SHA-256 {entry.weights[:12]}…"
        )


def _places(low: int | None, high: int | None) -> str:
    if low is None or high is None:
        return ""
    return str(low) if low == high else f"{low}{NOTHING}{high}"


def _runs(one: Standing, cells: Cells) -> Iterable[Run]:
    for eps in columns_of_eps([one]):
        for attack, bits in sorted(one.outcomes[eps].runs.items() if eps in one.outcomes else ()):
            found = [cells[one.board, each.entry, eps, attack] for each in one.members or (one,)]
            left = Value(*bits.accuracy(), len(bits.tasks))
            passes = int(bits.forwards.sum()), int(bits.backwards.sum())
            seconds = sum(float(cell.get("seconds", math.nan)) for cell in found)
            device = ", ".join(sorted({str(cell.get("device", "")) for cell in found}))
            yield Run(attack, eps, left, *passes, seconds, device, " ".join(str(cell["key"])[:8] for cell in found))


def _learner(row: dict[Any, Any]) -> Learner:
    card = _card(row.get("card", ""))
    recipe = card["recipe"] if isinstance(card.get("recipe"), dict) else {}
    published = [(name, _shown(row[name])) for name in PUBLISHED if isinstance(row.get(name), str) and row[name]]
    return Learner(
        facts=tuple(_facts(card)),
        recipe=tuple(_flat(recipe))[:MOST],
        family=_shown(recipe.get("family", "")),
        published=tuple(published),
    )


def _card(text: object) -> dict[str, Any]:
    """Read a card; one that is not a JSON object tells nothing."""
    try:
        found = untrusted.parse(text) if isinstance(text, str) and text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _facts(card: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Say what training took, what was kept of it, or where it was imported from, and by which hashes to know it."""
    imported = card.get("imported")
    if isinstance(imported, dict):
        yield "Imported", f"{_shown(imported.get('file', ''))}, SHA-256 {_shown(imported.get('sha256', ''))}"
        if imported.get("code_sha256") is not None:
            yield "Network, SHA-256", _shown(imported["code_sha256"])
    seconds, device = card.get("train_seconds"), card.get("device", "")
    if isinstance(seconds, int | float):
        unit = "GPU-s" if str(device).startswith("cuda") else "s"
        yield "Training", f"{seconds:,.0f} {unit} on {_shown(device)}" if device else f"{seconds:,.0f} s"
    if card.get("selected_step") is not None:
        yield "Step kept", f"{_shown(card['selected_step'])}: {_shown(card.get('criterion', ''))}".removesuffix(": ")
    versions = card.get("versions")
    if isinstance(versions, dict) and versions:
        yield "Versions", _shown(", ".join(f"{name} {version}" for name, version in versions.items()))
    for name, field in (("Recipe, SHA-256", "recipe_sha256"), ("Weights, SHA-256", "weights_sha256")):
        if field in card:
            yield name, _shown(card[field])


def _flat(values: dict[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """Give every value of nested tables as (dotted name, text); nothing of an empty one."""
    for name, value in values.items():
        here = f"{above}{_shown(name)}"
        if isinstance(value, dict):
            yield from _flat(value, f"{here}.")
        elif isinstance(value, list):
            yield here, _shown(", ".join(map(str, value))) or NOTHING
        else:
            yield here, NOTHING if value is None else _shown(value)


def _shown(value: object) -> str:
    return printable(value)[:LONGEST]
