"""What every command of `rbm` shares: statuses, and how it speaks on a terminal. Heavy imports wait inside."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

NEGATIVE, INPUT, ENVIRONMENT, NOTHING, STOPPED = 1, 2, 3, 4, 130


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
