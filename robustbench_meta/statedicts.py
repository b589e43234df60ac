"""State dicts from strangers: tensors by name, read with bounds; no object of another kind is ever made.

safetensors, and what torch.save writes, under weights-only loading alone. Every refusal is an InputError of one line.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from robustbench_meta import checkpoint, untrusted
from robustbench_meta.checkpoint import MAX_BYTES
from robustbench_meta.types import InputError, Params
from robustbench_meta.untrusted import printable

MOST_NAMES, DEEPEST, LONGEST_NAME = 10_000, 16, 400
SHOWN = 5  # names in a line


@dataclass(frozen=True)
class StateDict:
    """What a file holds by dotted name; not yet known to be tensors."""

    path: Path
    sha256: str
    bytes: int
    values: dict[str, Any]
    parts: tuple[str, ...]  # the dicts inside, each of which could be the entry

    def tensors(self, names: Mapping[str, str]) -> Params:
        """Give the tensors that `names` maps our names to: dense, finite, of one precision, not too large."""
        left, made = MAX_BYTES, {}
        first = ("", torch.float32)
        for ours, theirs in names.items():
            value = self._tensor(theirs)
            first = first if first[0] else (theirs, value.dtype)
            if value.dtype != first[1]:
                raise InputError(
                    f"source: {theirs} of {self.path} is {value.dtype}, {first[0]} {first[1]}; legal: all alike"
                )
            left -= value.numel() * value.element_size()  # before it is copied: it may be a view of one number
            if left < 0:
                raise InputError(f"source: {theirs} of {self.path}: tensors take more than {MAX_BYTES} bytes")
            if not torch.isfinite(value).all():
                raise InputError(f"source: {theirs} of {self.path} holds NaN or Inf; weights must be finite")
            made[ours] = value.detach().clone(memory_format=torch.contiguous_format)
        return made

    def _tensor(self, name: str) -> Tensor:
        value, where = self.values[name], f"source: {printable(name)} of {self.path}"
        if type(value) not in (Tensor, torch.nn.Parameter):
            legal = f"--entry, one of {several(self.parts)}, or --drop" if self.parts else "--drop"
            raise InputError(f"{where} is a {type(value).__name__}, not a tensor; legal: {legal}")
        if value.is_quantized or value.layout != torch.strided or value.is_nested or value.device.type != "cpu":
            kind = "quantized" if value.is_quantized else f"{value.layout} on {value.device}".removeprefix("torch.")
            raise InputError(f"{where} is {kind}; legal: dense tensors with their values")
        if value.dtype not in (torch.float32, torch.float64):
            kind = str(value.dtype).removeprefix("torch.")
            raise InputError(f"{where} is {kind}; legal: float32 or float64, which .float() makes of it")
        found: Tensor = value
        return found


def read(path: Path, entry: str | None = None) -> StateDict:
    """Read a file of at most MAX_BYTES; `entry` is the part of a nested one to take, as state_dict or model.encoder."""
    content = _content(path)
    chosen = _chosen(_loaded(content, path), path, entry)
    values: dict[str, Any] = {}
    for name, value in _flat(chosen, path):
        if name in values:
            raise InputError(f"source: {path} holds {printable(name)} twice, nested and not")
        values[name] = value
    if not values:
        raise InputError(f"source: {path} holds no tensor{' in ' + repr(entry) if entry else ''}")
    parts = tuple(str(name) for name, value in chosen.items() if isinstance(value, dict))
    # Sorted, since safetensors gives its tensors in another order every time.
    return StateDict(path, hashlib.sha256(content).hexdigest(), len(content), dict(sorted(values.items())), parts)


def several(names: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """Name the first few, and say how many more there are."""
    every = list(names)
    shown = ", ".join(printable(name)[:120] for name in every[:SHOWN])
    return f"{shown}, and {len(every) - SHOWN} more" if len(every) > SHOWN else shown or "nothing"


def _content(path: Path) -> bytes:
    if path.is_dir():
        ours = " (a checkpoint already)" if (path / checkpoint.CARD).exists() else ""
        raise InputError(f"source: {path} is a folder{ours}; legal: a file of tensors")
    if not path.exists():
        raise InputError(f"source: {path} is missing")
    try:
        content = untrusted.content(path, MAX_BYTES)
    except ValueError as error:
        raise InputError(f"source: {path} {error}") from None
    if not content:
        raise InputError(f"source: {path} is empty")
    return content


def _loaded(content: bytes, path: Path) -> Any:
    """Read tensors, and the dicts around them."""
    if content.startswith(b"PK\x03\x04"):
        _check_archive(content, path)
    elif not content.startswith(b"\x80"):
        try:
            return load_tensors(content)
        except (SafetensorError, ValueError, KeyError) as error:
            reason = checkpoint.looks_like(content) or str(error).splitlines()[0][:80]
            raise InputError(f"source: {path} is neither safetensors nor what torch.save writes ({reason})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (Exception, MemoryError) as error:  # whatever torch makes of a file that is broken on purpose
        raise InputError(f"source: {path} {_why(error)}") from None


def _check_archive(content: bytes, path: Path) -> None:
    """Refuse what is no archive of torch.save, or would grow in memory."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise InputError(f"source: {path} is a broken or truncated zip archive ({str(error)[:80]})") from None
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise InputError(f"source: {path} is a TorchScript archive, which holds code; legal: {STATE_DICT}")
    if not any(name.endswith("/data.pkl") for name in names):
        raise InputError(f"source: {path} is a zip archive, but not one of torch.save")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise InputError(f"source: {path} is compressed, as torch.save never does")
    if (size := sum(member.file_size for member in members)) > MAX_BYTES:
        raise InputError(f"source: {path} unpacks to {size} bytes, more than {MAX_BYTES}")


STATE_DICT = "torch.save(net.state_dict(), …)"


def _why(error: BaseException) -> str:
    """Say in a few words why torch did not load a file."""
    text = " ".join(str(error).split())
    if named := re.search(r"GLOBAL ([\w.]+)", text):
        return f"holds {named[1]}, which is no tensor; nothing of it was run; legal: {STATE_DICT}"
    if "eights only load failed" in text:
        return f"holds objects, of which nothing was run; legal: {STATE_DICT}"
    return f"is broken or truncated ({type(error).__name__}{': ' if text else ''}{text[:80]})"


def _chosen(loaded: Any, path: Path, entry: str | None) -> dict[Any, Any]:
    """Walk to the entry."""
    at, above = loaded, ""
    for part in entry.split(".") if entry else ():
        if not isinstance(at, dict) or part not in at:
            known = several(sorted(map(str, at))) if isinstance(at, dict) else f"nothing: it is a {type(at).__name__}"
            raise InputError(
                f"entry: {entry!r} of {path}: there is no {part!r} in {above or 'the file'}; legal: {known}"
            )
        at, above = at[part], f"{above}.{part}".removeprefix(".")
    if not isinstance(at, dict):
        raise InputError(
            f"source: {path} holds a {type(at).__name__}{f' in {above}' if above else ''}, not a dict of"
            f" tensors; legal: {STATE_DICT}"
        )
    return at


def _flat(nested: Mapping[Any, Any], path: Path) -> Iterator[tuple[str, Any]]:
    """Give what nested dicts hold by dotted name; dicts that hold one another many times over are cut off."""
    count, todo = 0, [("", nested, 0)]
    while todo:
        above, at, depth = todo.pop()
        for key, value in at.items():
            count += 1
            if not isinstance(key, str) or not 0 < len(f"{above}{key}") <= LONGEST_NAME:
                where = f" in {above[:-1][:60]}" if above else ""
                what = f"{str(key)[:60]!r} ({type(key).__name__}){where}"
                raise InputError(f"source: {path} has the key {what}; legal: texts of 1 to {LONGEST_NAME} characters")
            if count > MOST_NAMES or depth > DEEPEST:
                raise InputError(f"source: {path} holds more than {MOST_NAMES} names, or dicts {DEEPEST} deep")
            if isinstance(value, dict):
                todo.append((f"{above}{key}.", value, depth + 1))
            else:
                yield f"{above}{key}", value
