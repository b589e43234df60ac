"""What nobody vouches for: files read up to a limit, JSON as RFC 8259 has it, text that shows as what it is.

Every refusal is a ValueError of one line that goes on from the file's name, as "has 9 bytes, more than 5".
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

LONGEST_LINE = 2**24  # bytes; a task of 1000 ways and 1000 queries takes two million
LARGEST_TEXT = 2**30


def content(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes; nothing of a larger one is read."""
    if not path.is_file():  # a pipe or device would never end
        raise ValueError("is not a file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"has {size} bytes, more than {limit}")
        found = file.read(size + 1)
    if len(found) > size:
        raise ValueError("grows while it is read")
    return found


def lines(path: Path, *, longest: int = LONGEST_LINE, limit: int = LARGEST_TEXT) -> Iterator[str]:
    """Give the lines of a UTF-8 file one by one, so that neither one of them nor all take more than is allowed."""
    if not path.is_file():
        raise ValueError("is not a file")
    left = limit
    with path.open("rb") as file:
        while line := file.readline(longest + 1):
            left -= len(line)
            if len(line) > longest or left < 0:
                what, most = ("a line of", longest) if len(line) > longest else ("", limit)
                raise ValueError(f"{what} more than {most} bytes".strip())
            yield line.decode("utf-8").rstrip("\r\n")


def parse(text: str | bytes) -> Any:
    """Parse JSON that holds no NaN, no infinity (1e999 is one) and no name twice in an object."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def printable(text: object) -> str:
    """Write what no screen should obey (controls, direction marks, lone surrogates) as its escape, such as \\x1b."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return made
