"""What ships under a name: recipes, and the checkpoints that a committed manifest pins.

`zoo:NAME` is the pinned checkpoint of that name, whatever else is called so. A card pins its weights; the manifest pins
weights, recipe and card, so that a card and weights swapped together are noticed too.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_meta import checkpoint, untrusted
from robustbench_meta.checkpoint import CARD, CURVE, WEIGHTS, Card, Recipe, first_problem
from robustbench_meta.types import InputError

PREFIX = "zoo:"
MANIFEST = "zoo.json"
RECIPES = Path(__file__).parent / "recipes"
LARGEST_RECIPE, LARGEST_MANIFEST = 2**20, 2**24  # bytes
LARGEST_ZOO = 20_000_000  # bytes; every clone and every wheel carries them
SEED = re.compile(r"(.+)-seed([1-9]\d{0,8})")

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern="^[a-z0-9]+(-[a-z0-9]+)*$", max_length=100)]
Change = Literal["added", "changed", "same", "removed"]


class Pin(BaseModel):
    """What a shipped checkpoint must be: SHA-256 of its weights, of its recipe and of all that its card says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights_sha256: Hash
    recipe_sha256: Hash
    card_sha256: Hash


class Manifest(BaseModel):
    """What zoo.json holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(1, le=1)
    checkpoints: dict[Name, Pin]


@dataclass(frozen=True)
class Entry:
    """One name of the zoo: its recipe, and what is shipped of it."""

    name: str
    recipe: Recipe | None  # None: there is a problem, and no recipe of this name
    card: Card | None  # None: only the recipe ships, or there is a problem
    size: int  # of the weights, in bytes
    problem: str  # why what is pinned cannot be used; empty: nothing

    @property
    def state(self) -> str:
        return "damaged" if self.problem else "shipped" if self.card else "recipe only"


def folder(given: Path | str) -> Path:
    """Return the folder that a checkpoint argument means: of `zoo:NAME` the shipped one, else the path itself.

    Raise InputError where the name is unknown, or where what lies there is not what the manifest pins. Weights are
    hashed by `checkpoint.load`, against the card that is checked here.
    """
    text = Path(given).as_posix()
    if not text.startswith(PREFIX):
        return Path(given)
    name, place = text.removeprefix(PREFIX), home()
    pins = read_manifest(place / MANIFEST).checkpoints
    if name not in pins:
        raise InputError(f"ckpt: {_unknown(name, pins)}")
    if problem := _problem(place / name, pins[name]):
        raise InputError(f"ckpt: {text}: {problem}")
    return place / name


def home() -> Path:
    """Return the folder that holds the manifest: in the package, or beside it in a source checkout."""
    for place in checkpoint.homes():
        if (place / MANIFEST).is_file():
            return place
    raise InputError(
        f"ckpt: this installation has no {MANIFEST}, so that no {PREFIX}NAME can be checked; install again"
    )


def read_manifest(path: Path) -> Manifest:
    """Parse zoo.json strictly."""
    try:
        content = untrusted.content(path, LARGEST_MANIFEST)
        untrusted.parse(content)  # pydantic's parser takes the last of two values under one name
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"zoo: {path}: {first_problem(error)}") from None
    except ValueError as error:
        raise InputError(f"zoo: {path}: {error}") from None


def problems() -> list[str]:
    """Say of every pinned checkpoint whose card is not what the manifest pins why it is not."""
    place = home()
    found = {name: _problem(place / name, one) for name, one in read_manifest(place / MANIFEST).checkpoints.items()}
    return [f"{PREFIX}{name}: {problem}" for name, problem in found.items() if problem]


def entries(place: Path) -> list[Entry]:
    """List every checkpoint that the manifest in `place` pins, read whole, and every shipped recipe, by name."""
    pins = read_manifest(place / MANIFEST).checkpoints
    found = []
    for name in sorted(pins.keys() | recipes().keys()):
        problem = _problem(place / name, pins[name]) if name in pins else ""
        if name in pins and not problem:
            try:
                card = checkpoint.load(place / name).card
                found.append(Entry(name, card.recipe, card, (place / name / WEIGHTS).stat().st_size, ""))
                continue
            except InputError as error:
                problem = str(error).removeprefix("ckpt: ")
        found.append(Entry(name, made_by(name), None, 0, problem))
    return found


def fields_of(path: Path) -> dict[str, Any]:
    """Read the fields of a recipe from TOML, unchecked."""
    try:
        return tomllib.loads(untrusted.content(path, LARGEST_RECIPE).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"recipe: {path} is not a recipe in TOML ({error})") from None


def described(path: Path) -> str:
    """Return the first comment of a recipe: what it is, in one line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("#").strip() for line in lines if line.startswith("#")), "")


@cache
def recipes() -> dict[str, Recipe]:
    """Read the shipped recipes, which all name their network."""
    return {path.stem: Recipe.model_validate(fields_of(path)) for path in sorted(RECIPES.glob("*.toml"))}


def made_by(name: str) -> Recipe | None:
    """Return the shipped recipe that makes a checkpoint of this name: NAME, or NAME-seedN for another seed."""
    if name in recipes():
        return recipes()[name]
    seeded = SEED.fullmatch(name)
    if seeded and seeded[1] in recipes():
        return recipes()[seeded[1]].model_copy(update={"seed": int(seeded[2])})
    return None


def command(name: str, place: str = "checkpoints") -> str:
    """Write the command that makes a checkpoint of the zoo in a folder of `place`."""
    seeded = None if name in recipes() else SEED.fullmatch(name)
    what = f"{seeded[1]} --set seed={seeded[2]}" if seeded else name
    return f"rbm train {what} --out {place}/{name}"


def contents(place: Path) -> tuple[Manifest, list[str]]:
    """Return the manifest that a folder of checkpoints makes, and the names that no shipped recipe makes.

    Raise InputError for a checkpoint that is broken or was made by another recipe than the shipped one of its name, and
    where all of them together are too large.
    """
    pins, others, size = {}, [], 0
    for card in sorted(place.glob(f"*/{CARD}")):
        name, recipe = card.parent.name, made_by(card.parent.name)
        if recipe is None:
            others.append(name)
            continue
        found = checkpoint.load(card.parent).card
        _same_recipe(name, recipe, found.recipe)
        pins[name] = pin_of(found)
        size += sum(path.stat().st_size for path in card.parent.iterdir())
    if size > LARGEST_ZOO:
        raise InputError(f"zoo: {place} holds {size} bytes of checkpoints, more than {LARGEST_ZOO}")
    return Manifest(schema_version=1, checkpoints=pins), others


def pin(place: Path) -> dict[str, Change]:
    """Write the manifest of a folder of checkpoints; return what became of every name in it."""
    if not place.is_dir():
        raise InputError(f"place: {place} is not a folder of checkpoints")
    path = place / MANIFEST
    before = read_manifest(path).checkpoints if path.is_file() else {}
    manifest, _ = contents(place)
    checkpoint.write(path, as_bytes(manifest))
    now = manifest.checkpoints
    changes: dict[str, Change] = dict.fromkeys(sorted(before.keys() - now.keys()), "removed")
    for name, pinned in now.items():
        changes[name] = "added" if name not in before else "same" if before[name] == pinned else "changed"
    return dict(sorted(changes.items()))


def as_bytes(manifest: Manifest) -> bytes:
    return json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True).encode() + b"\n"


def pin_of(card: Card) -> Pin:
    # Without what is not set, so that a field added later leaves older cards their hash.
    said = checkpoint.digest(card.model_dump(mode="json", exclude_none=True))
    return Pin(weights_sha256=card.weights_sha256, recipe_sha256=card.recipe_sha256, card_sha256=said)


def add(source: Path, place: Path, *, replace: bool = False) -> Change:
    """Copy a finished checkpoint into the zoo under its own name, and pin it.

    One of that name that is there already is replaced where validation, done alike, says that the new one is better, or
    where `replace` is set; else InputError says why not.
    """
    name = source.resolve().name
    card, recipe = checkpoint.load(source).card, made_by(name)
    if recipe is None:
        raise InputError(f"zoo: no shipped recipe makes {name!r}; legal: the name of one, or NAME-seedN")
    _same_recipe(name, recipe, card.recipe)
    target = place / name
    there = checkpoint.read_card(target / CARD) if (target / CARD).is_file() else None
    if there is not None and pin_of(there) != pin_of(card) and not replace and (why := _no_better(card, there)):
        raise InputError(f"zoo: {target} stays: {why}; only --replace puts {source} in its place")
    target.mkdir(parents=True, exist_ok=True)
    # The card comes last, so that what is cut short is refused and not taken for whole.
    for part in (WEIGHTS, CURVE, CARD):
        if (source / part).is_file() and not (source / part).is_symlink():
            checkpoint.write(target / part, (source / part).read_bytes())
    return pin(place)[name]


def value(card: Card) -> float:
    """Return the validation accuracy by which a card's weights were chosen; NaN where the card does not hold it."""
    seen = card.chosen
    if seen is None:
        return float("nan")
    return seen.clean if card.criterion.startswith(checkpoint.HIGHEST_CLEAN) else (seen.clean + seen.robust) / 2


def _no_better(new: Card, old: Card) -> str:
    """Say why a checkpoint may not take the place of another; empty where it may."""
    if new.criterion != old.criterion:
        return f"chosen by the {old.criterion}, the new one by the {new.criterion}"
    for name in ("family", "family_options", "ways", "shots", "queries", "norm", "eps", "validate_tasks"):
        if (before := getattr(old.recipe, name)) != (now := getattr(new.recipe, name)):
            return f"validated with {name} {before}, the new one with {now}"
    if value(new) > value(old):
        return ""
    return f"its validation accuracy is {value(old):.2%}, that of the new one {value(new):.2%}"


def _problem(place: Path, pinned: Pin) -> str:
    """Say how a folder differs from its pin; empty where it does not."""
    try:
        found = pin_of(checkpoint.read_card(place / CARD))
    except InputError as error:
        return str(error).removeprefix("ckpt: ")
    for part in ("weights", "recipe", "card"):
        here, there = (getattr(one, f"{part}_sha256") for one in (found, pinned))
        if here != there:
            return f"the {part} of {place} has SHA-256 {here[:12]}…, {MANIFEST} pins {there[:12]}…"
    return ""


def _same_recipe(name: str, shipped: Recipe, found: Recipe) -> None:
    for field in Recipe.model_fields:
        here, there = getattr(found, field), getattr(shipped, field)
        if here != there:
            raise InputError(f"zoo: {name} was made with {field} = {here!r}, the shipped recipe says {there!r}")


def _unknown(name: str, pins: dict[str, Pin]) -> str:
    if made_by(name) is not None:
        return f"{PREFIX}{name} has a recipe and no weights; `{command(name)}` makes them"
    near = difflib.get_close_matches(name, sorted(pins), n=3)
    hint = f"did you mean {', '.join(PREFIX + one for one in near)}? " if near else ""
    return f"{PREFIX + name!r} is unknown; {hint}`rbm list zoo` shows all"
