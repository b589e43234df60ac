"""From a name to a configured object: plug-in folders, their presets and patterns, installed entry points."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from robustbench_meta import modules, networks
from robustbench_meta.ascent import Ensemble, Member
from robustbench_meta.attacks import from_file
from robustbench_meta.checkpoint import Checkpoint, Recipe
from robustbench_meta.engine import Learner, Network, start_params
from robustbench_meta.types import Algorithm, Attack, Backend, Box, Defense, InputError, Params, TaskFamily

Kind = Literal["attacks", "algorithms", "defenses", "tasks", "networks"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FILE = "file:"  # begins the name of an attack that gives back an adversarial test set
_SINGULAR = {
    "attacks": "attack",
    "algorithms": "algorithm",
    "defenses": "defense",
    "tasks": "family",
    "networks": "network",
}


@dataclass(frozen=True)
class Shelf:
    """What one kind of plug-in offers: exact names, and patterns for names that carry a number."""

    presets: dict[str, Any]
    patterns: dict[str, Callable[[re.Match[str]], Any]]


def attack(name: str) -> Attack:
    """Return the attack of that name; a name always means one exact configuration.

    `a+b` is the ensemble of a and b, each of which attacks only what still stands; `file:PATH` is the adversarial
    test set that lies there.
    """
    if name.startswith(FILE):
        return from_file.load(Path(name.removeprefix(FILE)))
    if "+" not in name:
        return cast(Attack, _find("attacks", name))
    members = {part: _find("attacks", part) for part in name.split("+")}
    for part, member in members.items():
        if not isinstance(member, Member):
            legal = [one for one, made in shelf("attacks").presets.items() if isinstance(made, Member)]
            raise InputError(
                f"attack: {part} cannot go on from what others found, as members of {name!r} must;"
                f" legal: {', '.join(sorted(legal))}"
            )
    made = Ensemble(tuple(members.values()))
    for axis in ("norms", "surfaces"):
        if not getattr(made, axis):
            raise InputError(f"attack: the members of {name!r} have none of the {axis} in common")
    return cast(Attack, made)


def algorithm(name: str, **options: Any) -> Algorithm:
    return cast(Algorithm, _configure("algorithm", _find("algorithms", name), options))


def network(name: str, **options: Any) -> Network:
    return cast(Network, _configure("network", _find("networks", name), options))


def defense(name: str, *, craft: str, **options: Any) -> Defense:
    """Return the defense with its crafting attack; the undefended one takes none."""
    found = _find("defenses", name)
    if not inspect.isclass(found):
        return cast(Defense, _configure("defense", found, options))
    crafting: Any = found
    return cast(Defense, _configure("defense", crafting(craft=attack(craft)), options))


def family(name: str, *, root: Path | None = None, **options: Any) -> TaskFamily:
    """Return the task family, reading its data under `root` (None: the environment variable RBM_DATA)."""
    found = _find("tasks", name)
    wanted = ("name", "space", "default_network", "default_network_options", "sample", "classes")
    # Of its class, too, for a property may need the data whose root is still to come.
    if missing := [member for member in wanted if not (hasattr(type(found), member) or hasattr(found, member))]:
        raise InputError(f"family: {name!r} lacks {', '.join(missing)}, which types.TaskFamily describes")
    if root is not None and any(f.name == "root" for f in fields(found)):
        found = replace(found, root=Path(root))
    return cast(TaskFamily, _configure("family", found, options))


def family_of(recipe: Recipe, root: Path | None = None) -> TaskFamily:
    """Return the family that a recipe was trained on."""
    return family(recipe.family, root=root, **recipe.family_options)


def network_of(checkpoint: Checkpoint, trust: Collection[str] = ()) -> Network:
    """Return a checkpoint's network; code of somebody's own runs only where `trust` names it, as module:function."""
    card = checkpoint.card
    if not modules.is_code(name := card.recipe.network):
        return network(name, **card.recipe.network_options)
    if name not in trust:
        raise InputError(
            f"ckpt: {checkpoint.path} has a network of its own, {name!r}, and nothing of it was run; where you trust"
            f" that code: --trust {name}, or evaluate(…, trust=[{name!r}])"
        )
    if card.imported is None or card.imported.code_sha256 is None:
        raise InputError(f"ckpt: {checkpoint.path} does not pin the source of its network {name!r} by SHA-256")
    return modules.load(name, card.recipe.network_options, sha256=card.imported.code_sha256)


def learner(
    checkpoint: Checkpoint,
    *,
    device: str = "cpu",
    backend: Backend | None = None,
    root: Path | None = None,
    trust: Collection[str] = (),
) -> Learner:
    """Rebuild a checkpoint's learner on `device`; its tensors must be exactly those its recipe calls for.

    Under `root` lie the data of families whose inputs only these describe.
    """
    recipe = checkpoint.card.recipe
    space = family_of(recipe, root).space
    made = algorithm(recipe.algorithm, **recipe.algorithm_options)
    body = network_of(checkpoint, trust)
    expected = start_params(made, body, space, recipe.ways, torch.Generator())
    found = checkpoint.params
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected:
            verb = "lacks" if name in expected else "has an unknown"
            raise InputError(
                f"ckpt: {checkpoint.path} {verb} tensor {name!r} for {recipe.algorithm} on {recipe.network}"
            )
        if found[name].shape != expected[name].shape:
            legal = tuple(expected[name].shape)
            raise InputError(
                f"ckpt: {checkpoint.path}: {name} has shape {tuple(found[name].shape)}, not {legal} as in"
                f" {recipe.algorithm} on {recipe.network}"
            )
    if recipe.norm_mode == "running":
        _check_running(checkpoint, body, space)
    elif checkpoint.running:
        odd = ", ".join(sorted(checkpoint.running))
        raise InputError(f"ckpt: {checkpoint.path}: norm_mode {recipe.norm_mode!r} uses no running statistics: {odd}")
    return Learner(
        made,
        body,
        {name: value.to(device) for name, value in found.items()},
        space,
        recipe.ways,
        norm_mode=recipe.norm_mode,
        running={name: value.to(device) for name, value in checkpoint.running.items()},
        backend=backend or default_backend(device),
    )


def statistics_of(network: Network, params: Params, space: Box) -> dict[str, tuple[int, ...]]:
    """Name the running statistics of a network, with their shapes."""
    seen: dict[str, tuple[int, ...]] = {}

    def record(name: str, h: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        seen.update({f"{name}.mean": tuple(gamma.shape), f"{name}.var": tuple(gamma.shape)})
        return h

    dtype = next(iter(params.values())).dtype
    network(params, torch.zeros(1, *space.shape, dtype=dtype), record)
    return seen


def _check_running(checkpoint: Checkpoint, network: Network, space: Box) -> None:
    seen = statistics_of(network, checkpoint.params, space)
    if seen != (found := {name: tuple(value.shape) for name, value in checkpoint.running.items()}):
        odd = sorted(name for name in seen.keys() | found.keys() if seen.get(name) != found.get(name))
        raise InputError(f"ckpt: {checkpoint.path}: norm_mode 'running' needs statistics that fit: {', '.join(odd)}")


def default_backend(device: str) -> Backend:
    """Loop on a CPU, where it was measured to win; on a GPU, not measured yet, all tasks at once as far as they go."""
    return "flat" if torch.device(device).type == "cuda" else "loop"


def names(kind: Kind) -> list[str]:
    """List the names of one kind, in alphabetical order."""
    return sorted(shelf(kind).presets)


@cache
def shelf(kind: Kind) -> Shelf:
    """Collect a plug-in folder and the installed entry points `robustbench_meta.<kind>`; refuse duplicates."""
    if kind == "networks":
        return Shelf(dict(networks.PRESETS), {})
    package = importlib.import_module(f"robustbench_meta.{kind}")
    presets: dict[str, Any] = {}
    patterns: dict[str, Callable[[re.Match[str]], Any]] = {}
    ensembles: dict[str, tuple[Callable[..., Any], Mapping[str, str]]] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        plugin = importlib.import_module(module.name)
        _add(presets, plugin.PRESETS, module.name)
        _add(patterns, getattr(plugin, "PATTERNS", {}), module.name)
        _add(ensembles, getattr(plugin, "ENSEMBLES", {}), module.name)
    for point in entry_points(group=f"robustbench_meta.{kind}"):
        _add(presets, {point.name: point.load()}, point.value)
    # An ensemble names its members, for siblings never import one another.
    for name, (make, members) in ensembles.items():
        _add(presets, {name: make(**{field: presets[member] for field, member in members.items()})}, package.__name__)
    return Shelf(presets, patterns)


def _add(known: dict[str, Any], new: Mapping[str, Any], where: str) -> None:
    for name, value in new.items():
        if name in known:
            raise InputError(f"catalog: {where} offers {name!r} a second time")
        known[name] = value


def _find(kind: Kind, name: str) -> Any:
    offered = shelf(kind)
    if name in offered.presets:
        return offered.presets[name]
    for pattern, make in offered.patterns.items():
        if match := re.fullmatch(pattern, name):
            return make(match)
    near = difflib.get_close_matches(name.lower(), offered.presets, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    told = (pattern.replace(r"(\d+)", "N").replace("(.+)", "NAME") for pattern in sorted(offered.patterns))
    legal = [*names(kind), *told]
    raise InputError(f"{_SINGULAR[kind]}: {name!r} is unknown; {hint}legal: {', '.join(legal)}")


def _configure(what: str, found: Any, options: Mapping[str, Any]) -> Any:
    if not options:
        return found
    legal = {f.name: getattr(found, f.name) for f in fields(found) if f.name not in ("craft", "root", "name")}
    for name, value in options.items():
        if name not in legal:
            raise InputError(f"{what}_options: {name!r} is unknown; legal: {', '.join(legal) or 'none'}")
        if not _fits(value, legal[name]):
            expected = type(legal[name]).__name__
            raise InputError(f"{what}_options: {name} = {value!r} is not of type {expected}")
    return replace(found, **{name: tuple(v) if isinstance(v, list) else v for name, v in options.items()})


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or default is None:
        return default is None or isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, tuple):
        return isinstance(value, (list, tuple))
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, type(default))
