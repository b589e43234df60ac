"""A checkpoint is a folder: weights.safetensors, card.json, curve.svg. Names and dicts only, no objects.

Weights load from safetensors alone; a card that does not match its schema or its weights is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from robustbench_meta import untrusted
from robustbench_meta.types import InputError, MetaGradient, Norm, NormMode, Params

SCHEMA = 1
WEIGHTS, CARD, CURVE = "weights.safetensors", "card.json", "curve.svg"
RUNNING = "running."  # prefix of running statistics among the tensors
MAX_BYTES = 2**30  # a few-shot learner above a gigabyte is not one of ours
LARGEST_CARD = 2**24  # a hundred thousand looks at the validation tasks
HIGHEST_CLEAN = "highest clean accuracy"  # begins the criterion of what was chosen without an attack
OVERSIZE = 4  # times the size that the card declares

Options = dict[str, bool | int | float | str | tuple[int, ...] | tuple[float, ...]]
# Fields of an imported learner's recipe: what evaluation needs, and the defense that its makers name.
KNOWN_OF_IMPORTED = frozenset(
    (
        *("algorithm", "algorithm_options", "defense", "family", "family_options", "network", "network_options"),
        *("norm_mode", "ways", "shots", "origin"),
    )
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Recipe(_Strict):
    """Everything that decides the weights: names of the catalog, their options, the schedule and the seed."""

    algorithm: str = "protonet"
    algorithm_options: Options = {}
    defense: str = "standard"
    defense_options: Options = {}
    family: str = "strokes"
    family_options: Options = {}
    network: str = "conv4"
    network_options: Options = {}
    norm_mode: NormMode = "support"
    meta_gradient: MetaGradient | None = Field(None, description="None: the algorithm's own")
    ways: int = Field(5, ge=2, le=1000)
    train_ways: int | None = Field(None, ge=2, le=1000, description="of training tasks; None: `ways`")
    shots: int = Field(5, ge=1, le=1000)
    queries: int = Field(15, ge=1, le=1000)
    augment: tuple[str, ...] = Field((), description="flip, crop: drawn per image of a training task")
    craft: str = Field("pgd-7-aq", description="the attack of the defense; unused by `standard` and `fast`")
    norm: Norm = "linf"
    eps: float = Field(8 / 255, ge=0)
    steps: int = Field(2000, ge=1, le=10_000_000, description="meta-updates")
    meta_batch: int = Field(4, ge=1, le=1000)
    learning_rate: float = Field(1e-3, gt=0, lt=10, description="Adam's, annealed to 0 by a half cosine")
    weight_decay: float = Field(0.0, ge=0, lt=1)
    clip: float = Field(10.0, gt=0, description="largest norm of the meta-gradient")
    average: float = Field(0.0, ge=0, lt=1, description="decay of the weight average; 0: none")
    validate_every: int = Field(250, ge=1)
    validate_tasks: int = Field(40, ge=2)
    validate_attack: str = "pgd-10"
    train_tasks: int | None = Field(
        None, ge=2, description="training tasks measured at each validation; then the last weights are kept, too"
    )
    seed: int = Field(0, ge=0, lt=2**31)
    origin: Literal["imported"] | None = Field(None, description="imported: trained elsewhere, nobody here knows how")

    @model_validator(mode="after")
    def _says_what_is_known(self) -> Recipe:
        if self.origin is not None and (claimed := sorted(self.model_fields_set - KNOWN_OF_IMPORTED)):
            raise ValueError(
                f"an imported learner's recipe says nothing of its training, and this one has {claimed[0]}"
            )
        return self

    @model_serializer(mode="wrap")
    def _told(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        told: dict[str, Any] = dump(self)
        if self.origin is None:  # as recipes were written before there were imports
            told.pop("origin", None)
            return told
        return {name: told[name] for name in told if name in KNOWN_OF_IMPORTED}

    @property
    def sha256(self) -> str:
        # Without what is not set, so that a field added later leaves older recipes their name.
        return digest(self.model_dump(mode="json", exclude_none=True))

    @property
    def method(self) -> str:
        """Identify the recipe but for its seed: what training seeds of one method share."""
        return digest(self.model_dump(mode="json", exclude_none=True, exclude={"seed"}))


class Validation(_Strict):
    """What one look at the validation tasks saw; accuracies in [0, 1]."""

    step: int
    loss: float  # mean training loss since the last look
    clean: float
    robust: float
    seconds: float  # of training so far
    train_clean: float | None = None  # the same on training tasks, where the recipe asks for it
    train_robust: float | None = None


class Import(_Strict):
    """Where an imported learner's weights come from, and what each tensor was called there."""

    file: str = Field(description="its name, without folders")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=1)
    entry: str | None = Field(None, description="the part of a nested file that was taken")
    layout: str | None = Field(None, description="whose names they were; null: ours, or the module's own")
    maps: tuple[str, ...] = Field(description="regex=replacement, in this order, before the layout's")
    drops: tuple[str, ...] = Field(description="regexes of what was left out")
    names: dict[str, str] = Field(description="each tensor of ours with its name in the file")
    code_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="of the source of module:function")


class Card(_Strict):
    """What card.json holds: the recipe, hashes, versions, and how the weights were chosen.

    Of an imported learner nothing is known of device, threads and time, and there is no history.
    """

    schema_version: int = Field(SCHEMA, le=SCHEMA)
    recipe: Recipe
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    weights_bytes: int | None = Field(None, ge=1, description="None: a card from before it was kept")
    recipe_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    episodes_sha256: dict[str, str]
    versions: dict[str, str]
    device: str
    threads: int | None = Field(None, ge=1)
    chunk: int | None = Field(None, ge=1)  # tasks that went backward together, at the end
    train_seconds: float | None = Field(None, ge=0)
    selected_step: int | None = Field(None, ge=0)
    criterion: str
    stopped: str | None = Field(None, description="why training ended before its last step; null: it did not")
    history: tuple[Validation, ...]
    imported: Import | None = Field(None, description="null: trained by the recipe")

    @model_validator(mode="after")
    def _tells_its_origin(self) -> Card:
        if (self.imported is None) != (self.recipe.origin is None):
            raise ValueError("imported and the recipe's origin must both be there, or neither")
        unknown = {name for name in ("threads", "train_seconds", "selected_step") if getattr(self, name) is None}
        if self.imported is None and unknown:
            raise ValueError(f"{min(unknown)} is required of every learner that was not imported")
        return self

    @property
    def learner(self) -> str:
        """Identify what is evaluated: the recipe too says what adaptation does with the weights (step size, ridge).

        Where the network is code of somebody's own, its source is part of the learner.
        """
        code = [] if self.imported is None or self.imported.code_sha256 is None else [self.imported.code_sha256]
        return digest([self.weights_sha256, self.recipe.sha256, *code])

    @property
    def chosen(self) -> Validation | None:
        """The look at the validation tasks that picked the weights, if the history holds it."""
        return next((seen for seen in self.history if seen.step == self.selected_step), None)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded folder: its card, and tensors on the CPU split into parameters and running statistics."""

    path: Path
    card: Card
    params: Params
    running: Params

    @property
    def name(self) -> str:
        return self.path.resolve().name


def save(folder: Path, card: Card, weights: bytes) -> None:
    """Write card and weights into `folder`; the card comes last, so that a folder with a card is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / WEIGHTS, weights)
    text = json.dumps(card.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
    write(folder / CARD, text.encode() + b"\n")


def load(folder: Path | str) -> Checkpoint:
    """Read and check a checkpoint folder; raise InputError naming the file and what is wrong with it."""
    folder = Path(folder)
    if folder.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt"):
        raise InputError(f"ckpt: {folder} is a pickle-style file; a checkpoint is a folder with {WEIGHTS} and {CARD}")
    if not any((folder / name).is_file() for name in (WEIGHTS, CARD)):
        raise InputError(f"ckpt: {folder} is not a folder with {WEIGHTS} and {CARD}")
    card = read_card(folder / CARD)
    params, running = split(unpack(_weights(folder / WEIGHTS, card), folder / WEIGHTS))
    return Checkpoint(folder, card, params, running)


def homes() -> tuple[Path, Path]:
    """Return where checkpoints ship: in the package, or beside it in a source checkout."""
    package = Path(__file__).parent
    return package / "checkpoints", package.parent / "checkpoints"


def shipped() -> list[Path]:
    """List the checkpoint folders that come with the package, or lie beside it in a source checkout."""
    return [card.parent for place in homes() for card in sorted(place.glob(f"*/{CARD}"))]


def read_card(path: Path) -> Card:
    """Parse card.json strictly."""
    if not path.is_file():
        raise InputError(f"ckpt: {path} is missing")
    try:
        return parse_card(untrusted.content(path, LARGEST_CARD))
    except ValueError as error:
        raise InputError(f"ckpt: {path}: {error}") from None


def parse_card(content: bytes) -> Card:
    """Read a card from JSON; raise ValueError in one line that goes on from where it lay."""
    try:
        card = Card.model_validate_json(content)
        untrusted.parse(content)  # pydantic's parser takes the last of two values under one name
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    except ValueError as error:
        raise ValueError(f"not a card in JSON ({error})") from None
    if card.recipe.sha256 != card.recipe_sha256:
        raise ValueError(f"the recipe is not the one whose SHA-256 is {card.recipe_sha256[:12]}…")
    return card


def card_line(card: Card) -> str:
    """Write a card as one line of JSON in printable ASCII; what is parsed from it may hold anything."""
    text = json.dumps(card.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("\x7f", "\\u007f")  # the one control character that JSON lets stand


def first_problem(error: ValidationError) -> str:
    """Say in one line which field is wrong, with its value and what is legal."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "content"
    value = "" if problem["type"] in ("missing", "json_invalid") else f" {str(problem['input'])[:60]!r}:"
    return f"{where}:{value} {problem['msg'][0].lower()}{problem['msg'][1:]}"


def pack(params: Params, running: Params) -> bytes:
    """Serialise parameters and running statistics: the same tensors give the same bytes."""
    tensors = {**params, **{RUNNING + name: value for name, value in running.items()}}
    return save_tensors({name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())})


def unpack(content: bytes, path: Path) -> Params:
    """Read tensors from the bytes of `path`; refuse what is not finite floating point, all of one precision."""
    try:
        tensors: dict[str, Tensor] = load_tensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        reason = looks_like(content) or str(error).splitlines()[0][:80]
        raise InputError(f"ckpt: {path} is not a safetensors file ({reason})") from None
    first = next(iter(tensors.values())).dtype if tensors else torch.float32
    for name, value in tensors.items():
        if value.dtype not in (torch.float32, torch.float64):
            kind = str(value.dtype).removeprefix("torch.")
            raise InputError(f"ckpt: {path}: {name} is {kind}, not floating point of 32 or 64 bits")
        if value.dtype != first:
            raise InputError(f"ckpt: {path}: {name} is {value.dtype}, others are {first}; all must be alike")
        if not torch.isfinite(value).all():
            raise InputError(f"ckpt: {path}: {name} holds NaN or Inf; weights must be finite")
    return tensors


def _weights(path: Path, card: Card) -> bytes:
    """Read the weights that a card pins; a file of another size than it declares is refused unread."""
    if not path.is_file():
        raise InputError(f"ckpt: {path} is missing")
    size, declared = path.stat().st_size, card.weights_bytes
    if size == 0:
        raise InputError(f"ckpt: {path} is empty")
    if declared is not None and size > OVERSIZE * declared:
        raise InputError(f"ckpt: {path} has {size} bytes, more than {OVERSIZE} times the {declared} its card declares")
    try:
        content = untrusted.content(path, MAX_BYTES)
    except ValueError as error:
        raise InputError(f"ckpt: {path} {error}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != card.weights_sha256:
        other = f" and {size} bytes, not {declared}" if declared not in (None, size) else ""
        what = f"; it is {kind}" if (kind := looks_like(content)) else ""
        raise InputError(
            f"ckpt: {path} has SHA-256 {found[:12]}…{other}, its card says {card.weights_sha256[:12]}…{what}"
        )
    return content


def looks_like(content: bytes) -> str:
    """Name what often lies where weights should; nothing of it is opened."""
    for start, kind in _FOREIGN.items():
        if content[:64].lstrip().startswith(start):
            return kind
    return ""


_FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch.save writes; such files can run code and are never loaded",
    b"\x80": "a pickle; such files can run code and are never loaded",
    b"<": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself",
}


def split(tensors: Params) -> tuple[Params, Params]:
    """Part what `pack` joined: parameters and running statistics."""
    params = {name: value for name, value in tensors.items() if not name.startswith(RUNNING)}
    running = {name.removeprefix(RUNNING): value for name, value in tensors.items() if name.startswith(RUNNING)}
    return params, running


def digest(content: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path` whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
