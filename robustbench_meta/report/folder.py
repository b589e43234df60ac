"""A report in a folder that may hold an earlier one: of what reports write, it holds this one alone afterwards.

FOLDER/report.sha256 lists what was written, as `sha256sum` writes it. Only a file that it names, whose bytes are still
those that were written, is ever taken away: what somebody put there or has changed since stays. The list is whole at
every moment: before the first file moves it has the earlier report and this one, so that a later report can clear up
after one that was stopped.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from robustbench_meta import report
from robustbench_meta.outcomes import Results

WRITTEN = "report.sha256"
# A hash, and a figure or a sound: what a later report may not have. A line that names anything else says nothing.
_LINE = re.compile(r"([0-9a-f]{64})  ((?:figures|sounds)/[^/\\\s]+)")


def write(results: Results, gallery: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Write a report as `report.write` does, and take away what an earlier one left; return the files written."""
    out.mkdir(parents=True, exist_ok=True)
    before = _listed(out / WRITTEN)
    with TemporaryDirectory(prefix=".report-", dir=out) as scratch:
        made = [path.relative_to(scratch) for path in report.write(results, gallery, Path(scratch))]
        now = {(_hash(Path(scratch, path)), path.as_posix()) for path in made}
        _list(out / WRITTEN, before | now)
        for path in made:
            (out / path.parent).mkdir(exist_ok=True)
            shutil.move(Path(scratch, path), out / path)
    for known, name in before - now:
        path = out / name
        if path.is_file() and not path.is_symlink() and not path.parent.is_symlink() and _hash(path) == known:
            path.unlink()
            with suppress(OSError):  # not empty
                path.parent.rmdir()
    _list(out / WRITTEN, now)
    return [*(out / path for path in made), out / WRITTEN]


def _listed(path: Path) -> set[tuple[str, str]]:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return {(line[1], line[2]) for line in map(_LINE.fullmatch, text.splitlines()) if line}


def _list(path: Path, files: Iterable[tuple[str, str]]) -> None:
    lines = (f"{known}  {name}\n" for known, name in sorted(files, key=lambda one: one[::-1]))
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
