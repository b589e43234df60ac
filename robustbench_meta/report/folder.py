"""A report in a folder that may hold an earlier one: of what reports write, it holds this one alone afterwards.

FOLDER/report.sha256 lists what was written, as `sha256sum` writes it. Only a file that it names, whose bytes are still
those that were written, is ever taken away: what somebody put there or has changed since stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from robustbench_meta import report
from robustbench_meta.outcomes import Results

WRITTEN = "report.sha256"
SHOWN = ("figures", "sounds")  # the folders of what a later report may not have


def write(results: Results, gallery: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Write a report as `report.write` does, and take away what an earlier one left; return the files written."""
    before = _listed(out / WRITTEN)
    made = report.write(results, gallery, out)
    now = {path.relative_to(out).as_posix(): _hash(path) for path in made}
    for name in before.keys() - now.keys():
        path = out / name
        if path.is_file() and not path.is_symlink() and _hash(path) == before[name]:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    text = "".join(f"{now[name]}  {name}\n" for name in sorted(now))
    (out / WRITTEN).write_text(text, encoding="utf-8", newline="\n")
    return [*made, out / WRITTEN]


def _listed(path: Path) -> dict[str, str]:
    """Read the hashes of figures and sounds by their names; a line that names anything else says nothing."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = [re.fullmatch(r"([0-9a-f]{64})  (\S+)", line) for line in text.splitlines()]
    return {line[2]: line[1] for line in lines if line and str(PurePosixPath(line[2]).parent) in SHOWN}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
