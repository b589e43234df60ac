"""Weights made elsewhere become a checkpoint: renamed, and matched with what a learner calls for.

Every tensor of a file must find a place, be named to be left out, or be known to be of no use, and every place must be
filled. What the tensors do not show, as order and padding, is the layout's to say.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from robustbench_meta import catalog, checkpoint, modules, statedicts
from robustbench_meta.checkpoint import RUNNING, Card, Checkpoint, Import, Recipe
from robustbench_meta.engine import Network, start_params
from robustbench_meta.layouts import LAYOUTS, OWN_CODE, Layout, from_config
from robustbench_meta.statedicts import StateDict, several
from robustbench_meta.types import Box, InputError, NormMode, Params

UNKNOWN = "unknown"  # a defense that nobody told of
COUNTER = "num_batches_tracked"  # which torch's batch norm counts in, and which decides nothing


@dataclass(frozen=True)
class Wanted:
    """What to make of the file `source`: the learner whose weights it holds, and how its tensors are called.

    A network is a name of the catalog, or module:function, whose code runs. What is None follows from the layout and
    the tensors.
    """

    source: Path
    algorithm: str
    family: str
    algorithm_options: Mapping[str, Any] = field(default_factory=dict)
    family_options: Mapping[str, Any] = field(default_factory=dict)
    network: str | None = None
    network_options: Mapping[str, Any] = field(default_factory=dict)
    layout: str | None = None
    config: Path | None = None
    entry: str | None = None
    maps: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    norm_mode: NormMode | None = None
    ways: int = 5
    shots: int = 5
    defense: str = UNKNOWN


@dataclass(frozen=True)
class Placed:
    """A tensor of the file, and what it is to us."""

    theirs: str
    ours: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """A checkpoint that is not written yet, and what became of every tensor of the file."""

    card: Card
    weights: bytes
    placed: tuple[Placed, ...]
    dropped: tuple[str, ...]  # named by --drop, or counters
    unused: tuple[str, ...]  # running statistics that the norm mode asks nothing of
    assumed: str  # what the tensors cannot show


@dataclass(frozen=True)
class _Body:
    """The network that the tensors are of, as a recipe names it."""

    name: str
    options: Mapping[str, Any]
    network: Network

    @property
    def code_sha256(self) -> str | None:
        return self.network.sha256 if isinstance(self.network, modules.ModuleNetwork) else None


@dataclass(frozen=True)
class _Matched:
    """Tensors by our names, all of which the learner calls for."""

    params: Params
    running: Params
    norm_mode: NormMode


def prepare(wanted: Wanted) -> Prepared:
    """Read a file and make a checkpoint of it; nothing is written. Raise InputError where anything is left open."""
    layout = _layout(wanted)
    file = statedicts.read(wanted.source, wanted.entry)
    dropped = tuple(name for name in file.values if _dropped(name, wanted.drops))
    space = catalog.family(wanted.family, **wanted.family_options).space
    own = _own_code(wanted)
    rename = _of_module(own, space) if own else layout.rename if layout else str
    names = _renamed([name for name in file.values if name not in dropped], wanted.maps, rename)
    tensors = file.tensors(names)
    body = own or _body(wanted, layout, tensors)
    found = _matched(wanted, layout, body, names, tensors, space)
    taken = {n: theirs for n, theirs in names.items() if n in found.params or n.removeprefix(RUNNING) in found.running}
    weights = checkpoint.pack(found.params, found.running)
    card = _card(_recipe(wanted, body, found.norm_mode), _origin(wanted, file, taken, body), weights)
    _try(Checkpoint(wanted.source, card, found.params, found.running), space)
    return Prepared(
        card,
        weights,
        placed=tuple(Placed(theirs, ours, tuple(tensors[ours].shape)) for ours, theirs in taken.items()),
        dropped=dropped,
        unused=tuple(theirs for ours, theirs in names.items() if ours not in taken),
        assumed=layout.assumes if layout else "",
    )


def network_settings(recipe: Recipe) -> dict[str, Any]:
    """Return every setting of a learner's network, those too that were left to its defaults."""
    if modules.is_code(recipe.network):
        return dict(recipe.network_options)
    made: Any = catalog.network(recipe.network, **recipe.network_options)
    return asdict(made)


def write(prepared: Prepared, out: Path) -> None:
    """Put a checkpoint at `out`, whole or not at all; what is there already is left alone and refused."""
    refuse_existing(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        checkpoint.save(partial, prepared.card, prepared.weights)
        refuse_existing(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise InputError(f"out: {out} is there already, and nothing is overwritten; choose another folder")


# Naming.


def _dropped(name: str, drops: tuple[str, ...]) -> bool:
    return name.rpartition(".")[2] == COUNTER or any(_regex("drop", drop).search(name) for drop in drops)


def _regex(option: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{option}: {text!r} is not a regular expression ({error})") from None


def _layout(wanted: Wanted) -> Layout | None:
    if (wanted.layout == "maml-pytorch") != (wanted.config is not None):
        raise InputError(
            f"config: {wanted.config}; legal with layout maml-pytorch, which needs it, and with no other: a JSON file"
            " of the list that Learner(config, …) was given"
        )
    if wanted.layout is None:
        return None
    if wanted.network is not None and modules.is_code(wanted.network):
        raise InputError(f"layout: {wanted.layout!r} has no meaning for a module's own names; legal: --map")
    if wanted.config is not None:
        return from_config(wanted.config)
    if wanted.layout not in LAYOUTS:
        raise InputError(f"layout: {wanted.layout!r} is unknown; legal: {', '.join([*LAYOUTS, 'maml-pytorch'])}")
    return LAYOUTS[wanted.layout]


def _renamed(found: Iterable[str], maps: tuple[str, ...], rename: Callable[[str], str]) -> dict[str, str]:
    """Give our name of every tensor, with its name in the file: the maps one after another, then `rename`."""
    rules = [*map(_rule, maps), rename]
    names: dict[str, str] = {}
    for theirs in found:
        ours = reduce(lambda name, rule: rule(name), rules, theirs)
        if ours in names:
            raise InputError(
                f"source: {names[ours]!r} and {theirs!r} both go to {ours!r}; --drop leaves one out, --map renames it"
            )
        names[ours] = theirs
    return names


def _rule(text: str) -> Callable[[str], str]:
    regex, sign, put = text.rpartition("=")
    if not (sign and regex):
        raise InputError(f"map: {text!r} is not of the form regex=replacement")
    pattern = _regex("map", regex)
    try:
        pattern.sub(put, "")  # which reads the replacement, match or not
    except (re.error, IndexError) as error:
        raise InputError(f"map: {put!r} of {text!r} is no replacement ({error})") from None
    return lambda name: pattern.sub(put, name)


def _of_module(body: _Body, space: Box) -> Callable[[str], str]:
    """Turn names of a module's own state dict into ours."""
    own = body.network.parameters(space.shape, torch.Generator())

    def rename(name: str) -> str:
        for end, stands in ((".running_mean", ".mean"), (".running_var", ".var")):
            if name.endswith(end):
                return f"{RUNNING}{modules.PREFIX}{name.removesuffix(end)}{stands}"
        return modules.PREFIX + name if modules.PREFIX + name in own else name

    return rename


# Matching.


def _own_code(wanted: Wanted) -> _Body | None:
    """Run the code that a network of somebody's own is; None where the catalog has it."""
    if wanted.network is None or not modules.is_code(wanted.network):
        return None
    return _Body(wanted.network, wanted.network_options, modules.load(wanted.network, wanted.network_options))


def _body(wanted: Wanted, layout: Layout | None, tensors: Params) -> _Body:
    """Choose the network: what is not told of it follows from the layout, and else from the tensors' shapes."""
    name = wanted.network or (layout.network if layout else None)
    if name is None:
        legal = ", ".join([*catalog.names("networks"), "module:function"])
        raise InputError(f"network: none given, and no layout that implies one; legal: {legal}")
    fixed = layout.options if layout else {}
    if layout is not None and name != layout.network:
        raise InputError(f"network: {name!r} is not what layout {wanted.layout} holds; legal: {layout.network}")
    for option, value in wanted.network_options.items():
        if fixed.get(option, value) != value:
            legal = f"{fixed[option]!r}, as layout {wanted.layout} has it"
            raise InputError(f"network_options: {option} = {value!r}; legal: {legal}")
    options = {**_implied(name, tensors), **fixed, **wanted.network_options}
    if layout is not None and options.get("depth", layout.fewest) < layout.fewest:
        raise InputError(
            f"source: {wanted.source} holds {options['depth']} blocks; legal with layout {wanted.layout}: at least"
            f" {layout.fewest}, since it pools more than 2x2 in fewer; else {OWN_CODE}"
        )
    return _Body(name, options, catalog.network(name, **options))


def _implied(network: str, tensors: Params) -> dict[str, Any]:
    """Read the options of a network off the shapes of its tensors; nothing where they are not its."""
    if network == "conv4" and (first := tensors.get("conv0.weight")) is not None and first.dim() == 4:
        blocks = [int(match[1]) for name in tensors if (match := re.fullmatch(r"conv(\d{1,3})\.weight", name))]
        return {"width": len(first), "depth": 1 + max(blocks), "bias": "conv0.bias" in tensors}
    if network == "resnet12":
        kernels = (tensors.get(f"block{block}.conv0.weight") for block in count())
        widths = tuple(len(kernel) for kernel in takewhile(lambda one: one is not None, kernels) if kernel is not None)
        return {"widths": widths} if widths else {}
    return {}


def _matched(
    wanted: Wanted, layout: Layout | None, body: _Body, names: Mapping[str, str], tensors: Params, space: Box
) -> _Matched:
    """Part the tensors into parameters and running statistics, which must be those that the learner calls for."""
    algorithm = catalog.algorithm(wanted.algorithm, **wanted.algorithm_options)
    start = start_params(algorithm, body.network, space, wanted.ways, torch.Generator())
    shapes = {name: tuple(value.shape) for name, value in start.items()}
    statistics = {RUNNING + name: shape for name, shape in catalog.statistics_of(body.network, start, space).items()}
    there = bool(statistics) and statistics.keys() <= tensors.keys()
    norm_mode = wanted.norm_mode or (layout.norm_mode if layout else "running" if there else "support")
    needed = shapes | (statistics if norm_mode == "running" else {})
    leftover = [f"{names[n]} {tuple(tensors[n].shape)}" for n in tensors if n not in shapes and n not in statistics]
    missing = [f"{name} {shape}" for name, shape in needed.items() if name not in tensors]
    if leftover or missing:
        has = f"has {len(leftover)} tensors with no place in {wanted.algorithm} on {body.name}: {several(leftover)}"
        lacks = f"lacks {len(missing)} of {len(needed)}: {several(missing)}"
        parts = [*([has] if leftover else ()), *([lacks] if missing else ())]
        why = layout.why(names.values()) if layout else ""
        raise InputError(f"source: {wanted.source} {'; it '.join(parts)}; {why or '--map renames, --drop leaves out'}")
    for name, legal in (shapes | statistics).items():
        if name in tensors and tuple(tensors[name].shape) != legal:
            raise InputError(
                f"source: {name} ({names[name]} of {wanted.source}) has shape {tuple(tensors[name].shape)}; legal:"
                f" {legal}, for {wanted.algorithm} of {wanted.ways} ways on inputs {space.shape}"
            )
    running = {name.removeprefix(RUNNING): tensors[name] for name in statistics} if norm_mode == "running" else {}
    return _Matched({name: tensors[name] for name in shapes}, running, norm_mode)


# The checkpoint.


def _origin(wanted: Wanted, file: StateDict, taken: dict[str, str], body: _Body) -> Import:
    return Import(
        file=wanted.source.name,
        sha256=file.sha256,
        bytes=file.bytes,
        entry=wanted.entry,
        layout=wanted.layout,
        maps=wanted.maps,
        drops=wanted.drops,
        names=taken,
        code_sha256=body.code_sha256,
    )


def _recipe(wanted: Wanted, body: _Body, norm_mode: NormMode) -> Recipe:
    legal = [UNKNOWN, *catalog.names("defenses")]
    if wanted.defense not in legal:
        raise InputError(f"defense: {wanted.defense!r} is not one of {', '.join(legal)}")
    try:
        return Recipe(
            origin="imported",
            algorithm=wanted.algorithm,
            algorithm_options=dict(wanted.algorithm_options),
            defense=wanted.defense,
            family=wanted.family,
            family_options=dict(wanted.family_options),
            network=body.name,
            network_options=dict(body.options),
            norm_mode=norm_mode,
            ways=wanted.ways,
            shots=wanted.shots,
        )
    except ValidationError as error:
        raise InputError(checkpoint.first_problem(error)) from None


def _card(recipe: Recipe, origin: Import, weights: bytes) -> Card:
    """Write down what is known: nothing of how the weights were trained."""
    return Card(
        recipe=recipe,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        weights_bytes=len(weights),
        recipe_sha256=recipe.sha256,
        episodes_sha256={},
        versions={},
        device="",
        threads=None,
        chunk=None,
        train_seconds=None,
        selected_step=None,
        criterion="",
        history=(),
        imported=origin,
    )


def _try(made: Checkpoint, space: Box) -> None:
    """Load the learner as an evaluation will, and let it learn one task of random inputs."""
    recipe = made.card.recipe
    learner = catalog.learner(made, trust=(recipe.network,))
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(recipe.ways).repeat(2)[None]
    x = space.low + space.width * torch.rand(1, y.shape[1], *space.shape, generator=rng)
    x = x.to(learner.dtype)
    with torch.no_grad():
        scores = learner.predict(learner.adapt(x, y), x)
    if not torch.isfinite(scores).all():
        raise InputError(
            f"source: {made.path}: with these weights {recipe.algorithm} scores random inputs as NaN or Inf"
        )
