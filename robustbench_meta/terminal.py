"""What commands of `rbm` share: statuses, options, and how they speak on a terminal. Heavy imports wait inside."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

NEGATIVE, INPUT, ENVIRONMENT, NOTHING, STOPPED = 1, 2, 3, 4, 130
LINE_SECONDS = 10.0  # between lines of progress where no bar can be drawn

DataRoot = Annotated[
    Path | None, typer.Option(help="Folder that holds the data; else the environment variable RBM_DATA.")
]
FamilyOptions = Annotated[
    list[str] | None, typer.Option("--family-option", help="Option of the family, as folder=birds; repeat it.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def console(stderr: bool = True) -> Console:
    """Give a console that takes text as it is."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False)
    # Elsewhere than on a terminal nothing tells how wide a line may be, and tables should stay whole.
    return made if made.is_terminal else Console(stderr=stderr, markup=False, highlight=False, width=220)


def complain(message: str, status: int) -> int:
    """Say on stderr in one line what is wrong, and give the status back."""
    from robustbench_meta.untrusted import printable

    print(f"rbm: {printable(' '.join(message.split()))}", file=sys.stderr)
    return status


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of plain text."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console(stderr=False).print(table)


@contextmanager
def said(where: Console) -> Iterator[Callable[[str], None]]:
    """Give tell(line): beside a spinner on a terminal, elsewhere nothing."""
    with where.status("reading") as status:
        yield status.update


def pair(text: str, option: str) -> tuple[str, Any]:
    """Read key=value, the value as TOML writes it, or else as text."""
    import tomllib

    from robustbench_meta.types import InputError

    key, sign, value = text.partition("=")
    if not (key.strip() and sign):
        raise InputError(f"{option}: {text!r} is not of the form key=value")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return key.strip(), value.strip()


def pairs(options: Sequence[str] | None, option: str) -> dict[str, Any]:
    """Read an option that is repeated, each time as key=value."""
    return dict(pair(one, option) for one in options or ())


@contextmanager
def bar(where: Console, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """Give update(done, total, text): a bar on a terminal, else a line every few seconds."""
    from rich.progress import BarColumn, Progress, TextColumn

    if not where.is_terminal:
        last = time.monotonic()

        def line(done: int, total: int, text: str) -> None:
            nonlocal last
            if done == total or time.monotonic() - last > LINE_SECONDS:
                last = time.monotonic()
                where.print(f"{done} of {total} {unit}: {text}")

        yield line
        return
    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.fields[unit]}"),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=where, transient=True) as drawn:
        task = drawn.add_task("", total=None, unit=unit)
        yield lambda done, total, text: drawn.update(task, completed=done, total=total, description=text)


def known(value: str, legal: Sequence[str], what: str) -> None:
    """Refuse a value that is not legal, and name the nearest that is."""
    import difflib

    from robustbench_meta.types import InputError

    if value not in legal:
        near = difflib.get_close_matches(value, legal, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"{what}: {value!r} is unknown; {hint}legal: {', '.join(legal) or 'none'}")
