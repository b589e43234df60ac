"""What nobody vouches for: files read up to a limit, JSON as RFC 8259 has it, arrays, text that shows as what it is.

Every refusal is a ValueError of one line that goes on from the file's name, as "has 9 bytes, more than 5".
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import numpy as np

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


def arrays(path: Path, needed: Sequence[str], optional: Sequence[str] = (), *, limit: int) -> dict[str, np.ndarray]:
    """Read numbers by their names from an .npz file of at most `limit` bytes, packed and unpacked."""
    import numpy as np  # which `rbm --help` does without

    try:
        with zipfile.ZipFile(io.BytesIO(content(path, limit))) as packed:
            if (size := sum(member.file_size for member in packed.infolist())) > limit:
                raise ValueError(f"holds {size} bytes, more than {limit}")
            there = {name for name in (*needed, *optional) if f"{name}.npy" in packed.namelist()}
            if lacking := [name for name in needed if name not in there]:
                raise ValueError(f"lacks {', '.join(lacking)}")
            read = {name: np.load(io.BytesIO(packed.read(f"{name}.npy")), allow_pickle=False) for name in sorted(there)}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as broken:
        raise ValueError(f"is not a readable .npz file ({broken})") from None
    if odd := [name for name, value in read.items() if value.dtype.kind not in "fiu"]:
        raise ValueError(f"{odd[0]} holds {read[odd[0]].dtype}, no numbers")
    return read


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
