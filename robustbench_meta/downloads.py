"""Where data lies, and how it comes there: fetch, check and unpack what publishers ship."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Protocol

from robustbench_meta.types import InputError

if TYPE_CHECKING:
    import httpx

DATA_VARIABLE = "RBM_DATA"
LARGEST = 1 << 30  # bytes that a file of unknown size, or the content of an archive, may have
BLOCK = 1 << 20

Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all where they are known
State = Literal["whole", "other", "partial", "missing"]


class DownloadError(InputError):
    """What a publisher's server sent cannot be used: one line with the address or file and the reason."""


@dataclass(frozen=True)
class Member:
    """A file that an archive brings: its path below the data root, as in the archive, and its checksum if known."""

    path: str
    checksum: str = ""


@dataclass(frozen=True)
class Source:
    """One file of a publisher: what it is called below the data root, and how it is known to be whole.

    With `members` it is a tar archive, unpacked and then removed; without, it is kept as it is. The checksum is of its
    bytes, or of what `content` reads in it, where a host packs the same content anew.
    """

    url: str
    path: str
    checksum: str  # "sha256:..." or "md5:..."
    size: int | None = None  # bytes
    members: tuple[Member, ...] = ()
    optional: bool = False  # read where it is there, but not fetched with the rest of its family
    content: Callable[[Path], str] | None = None  # returns "sha256:..." of what the checksum is of

    def checksum_of(self, path: Path) -> str:
        return self.content(path) if self.content else checksum_of(path, self.checksum)


@dataclass(frozen=True)
class Found:
    """What is there of one file: whole (the publisher's bytes), other bytes, a partial download, or nothing."""

    path: Path
    state: State
    detail: str


class Sourced(Protocol):
    """The part of a task family that says what it reads, and where."""

    @property
    def name(self) -> str: ...

    @property
    def root(self) -> Path | None: ...

    @property
    def sources(self) -> tuple[Source, ...]: ...


def data_root(root: Path | None, *, family: str, advice: str = "") -> Path:
    """Return the folder that holds the families' data: `root`, or what the variable RBM_DATA names."""
    named = root if root is not None else os.environ.get(DATA_VARIABLE)
    if not named:
        then = advice or f"then run: rbm data get {family}"
        raise InputError(f"{family}: no data root; give --data-root or set {DATA_VARIABLE}, {then}")
    return Path(named).expanduser()


def located(root: Path | None, path: str, *, family: str) -> Path:
    """Return the file root/path; raises InputError naming it, and the command that brings it, where it is missing."""
    found = data_root(root, family=family) / path
    if not found.is_file():
        raise InputError(f"{family}: {found} is missing; run: rbm data get {family}")
    return found


def fetch_all(family: Sourced, *, progress: Progress | None = None) -> list[Path]:
    """Bring every file that `family` needs below its data root; return where they are. See `fetch`."""
    root = data_root(family.root, family=family.name)
    return [path for source in family.sources if not source.optional for path in fetch(source, root, progress=progress)]


def fetch(source: Source, root: Path, *, progress: Progress | None = None) -> list[Path]:
    """Bring one file below `root`, checked and unpacked, and return what it brought; what is there already is left.

    A cut download stays as PATH.part and the next call goes on from there. Nothing is put in place before its
    checksum is right. Raises DownloadError in one line; a file with a wrong checksum is removed.
    """
    target = root / source.path
    brought = [root / member.path for member in source.members] or [target]
    if source.members and all(path.is_file() for path in brought):
        return brought
    target.parent.mkdir(parents=True, exist_ok=True)
    if not (target.is_file() and source.checksum_of(target) == source.checksum):
        part = target.with_name(target.name + ".part")
        _receive(source, part, progress or (lambda name, done, total: None))
        _refuse_unless_whole(source, part)
        os.replace(part, target)
    if source.members:
        _unpack(target, source.members, root)
        target.unlink()
    return brought


def available(family: Sourced) -> list[Found]:
    """Say what is there of every file that `family` reads, reading each to compare its checksum."""
    root = data_root(family.root, family=family.name)
    return [found for source in family.sources for found in _found(source, root)]


def checksum_of(path: Path, like: str) -> str:
    """Return the checksum of a file in the form of `like`: "sha256:..." or "md5:..."."""
    kind = like.partition(":")[0]
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def _receive(source: Source, part: Path, progress: Progress) -> None:
    """Write the body at the source's address to `part`, after the bytes that are there already."""
    import httpx

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with httpx.stream("GET", source.url, headers=headers, follow_redirects=True, timeout=30) as response:
            if have and response.status_code == 416:  # nothing is left to send: the checksum decides
                return
            goes_on = response.status_code == 206 and _starts_at(response, have)
            if not goes_on and response.status_code != 200:
                raise DownloadError(f"{source.url}: the server answered {response.status_code}")
            with part.open("ab" if goes_on else "wb") as file:
                _write(source, response, file, progress)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(f"{source.url}: {reason}; the same command goes on from here") from error


def _starts_at(response: httpx.Response, offset: int) -> bool:
    return bool(response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"))


def _write(source: Source, response: httpx.Response, file: IO[bytes], progress: Progress) -> None:
    """Copy the body to `file`; refuse more bytes than the source has, and remove what came."""
    name, limit, done = Path(source.path).name, source.size or LARGEST, file.tell()
    length = response.headers.get("Content-Length", "")
    total = source.size or (done + int(length) if length.isdigit() else None)
    progress(name, done, total)
    for block in response.iter_raw():
        done += len(block)
        if done > limit:
            Path(file.name).unlink()
            raise DownloadError(f"{source.url}: more than {limit} bytes, the most that {name} may have; removed")
        file.write(block)
        progress(name, done, total)
    if done < (source.size or 0):
        raise DownloadError(f"{source.url}: {done} of {source.size} bytes came; the same command goes on from here")


def _refuse_unless_whole(source: Source, part: Path) -> None:
    found = source.checksum_of(part)
    if found != source.checksum:
        part.unlink()
        raise DownloadError(f"{source.url}: {found} came, must be {source.checksum}; removed")


def _unpack(archive: Path, members: Iterable[Member], root: Path) -> None:
    """Put the members of a tar archive below `root`, once all of them are out of it; refuse a hostile archive."""
    held = Path(tempfile.mkdtemp(prefix=f".{archive.name}.", dir=root))
    left = LARGEST

    def within_limits(entry: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        nonlocal left
        left -= entry.size
        if left < 0:
            raise tarfile.TarError(f"it holds more than {LARGEST} bytes")
        return tarfile.data_filter(entry, path)

    try:
        with tarfile.open(archive) as tar:
            tar.extractall(held, filter=within_limits)
        for member in members:
            if not (held / member.path).is_file():
                raise tarfile.TarError(f"it lacks {member.path}")
        for member in members:
            (root / member.path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(held / member.path, root / member.path)
    except (tarfile.TarError, EOFError) as error:
        raise DownloadError(f"{archive}: cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(held)


def _found(source: Source, root: Path) -> list[Found]:
    part = root / f"{source.path}.part"
    if not source.members:
        return [_state(root / source.path, source.checksum, part, source.checksum_of)]
    return [
        _state(root / file.path, file.checksum, part, partial(checksum_of, like=file.checksum))
        for file in source.members
    ]


def _state(path: Path, checksum: str, part: Path, measure: Callable[[Path], str]) -> Found:
    if path.is_file():
        size = f"{path.stat().st_size} bytes"
        if not checksum:
            return Found(path, "whole", f"{size}, no checksum known")
        if measure(path) == checksum:
            return Found(path, "whole", f"{size}, {checksum.partition(':')[0]} as published")
        return Found(path, "other", f"{size}, not the publisher's bytes; its format is checked when it is read")
    with suppress(FileNotFoundError):
        return Found(path, "partial", f"{part.stat().st_size} bytes of {part.name} so far")
    return Found(path, "missing", "not there")
