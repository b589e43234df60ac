"""A torch module of somebody's own as a network: a pure function of its weights, normalised by the engine.

`module:function` names a callable that builds an nn.Module; whoever calls `load` lets its code run. Batch norm layers
keep their weights and hand normalisation to the engine, under the names "net.<layer>"; all else runs as in eval().
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustbench_meta import untrusted
from robustbench_meta.kernels import EPSILON, scale_and_shift
from robustbench_meta.networks import BatchNorm, Embed
from robustbench_meta.types import InputError, Params

PREFIX = "net."  # of the module's tensors, so that none is taken for a head's or a rate
LARGEST_SOURCE = 2**24  # bytes
FORM = "module:function, as mynets:build, where the function returns a torch.nn.Module that embeds [B,*X] as [B,width]"


def is_code(name: str) -> bool:
    """Tell module:function from a name of the catalog."""
    return ":" in name


def load(name: str, options: Mapping[str, Any], *, sha256: str | None = None) -> ModuleNetwork:
    """Run the code that `name` stands for, once; refuse it unrun where its source has another SHA-256.

    The module is looked for where Python looks, and in the current folder.
    """
    module, colon, function = name.partition(":")
    parts = [*module.split("."), function]
    if not colon or not all(part.isidentifier() for part in parts):
        raise InputError(f"network: {name!r} is not of the form {FORM}")
    found = hashlib.sha256(_source(name, module)[1]).hexdigest()
    if sha256 is not None and found != sha256:
        raise InputError(
            f"network: the source of {name} has SHA-256 {found[:12]}…, not {sha256[:12]}… as when the weights were"
            " imported; bring that source back, or import again"
        )
    made = ModuleNetwork(name, tuple(sorted(options.items())), found)
    _built(made)
    return made


@dataclass(frozen=True)
class ModuleNetwork:
    """What `name`(**options) builds, whose source had that SHA-256; a worker process builds it afresh."""

    name: str
    options: tuple[tuple[str, Any], ...]
    sha256: str

    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params:
        """Return the weights that the function gave its module; `rng` draws none."""
        return {PREFIX + name: value.detach() for name, value in _built(self).net.named_parameters()}

    def features(self, shape: tuple[int, ...]) -> int:
        """Count the features of one embedding of an input of `shape`."""
        return _width(self, shape)

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor:
        built = _built(self)
        chosen = partial(_given, norm) if isinstance(norm, dict) else norm
        own = {name: weights[PREFIX + name] for name in built.names}
        with built.normalised(chosen):
            found: Tensor = functional_call(built.net, own, (x,))
        return found

    def freeze(self, weights: Params, norm: Params) -> Embed:
        """Return the embedding by constant weights and statistics."""
        constant = {name: value.detach() for name, value in weights.items()}
        return partial(self.__call__, constant, norm=norm)


@dataclass
class _Built:
    """A module whose batch norm layers ask `norm`, which is set while the module runs."""

    net: nn.Module
    names: tuple[str, ...]
    norm: list[BatchNorm] = field(default_factory=list)

    @contextmanager
    def normalised(self, norm: BatchNorm) -> Iterator[None]:
        self.norm.append(norm)
        try:
            yield
        finally:
            self.norm.pop()

    def normalise(self, name: str, layer: nn.BatchNorm2d, h: Tensor) -> Tensor:
        if h.dim() != 4:
            raise InputError(f"network: {name} normalises {h.dim()} axes; legal: [B,C,H,W]")
        return self.norm[-1](PREFIX + name, h, layer.weight, layer.bias)


@lru_cache(maxsize=8)
def _built(network: ModuleNetwork) -> _Built:
    # A worker process comes here without `load`: the source must still be what was trusted.
    module, _, function = network.name.partition(":")
    spec, source = _source(network.name, module)
    if hashlib.sha256(source).hexdigest() != network.sha256:
        raise InputError(f"network: the source of {network.name} has changed; import again")
    try:
        net = getattr(_run(spec, source), function)(**dict(network.options))
    except Exception as error:  # whatever code of somebody's own raises
        raise InputError(f"network: {network.name} failed with {_said(error)}") from None
    if not isinstance(net, nn.Module):
        raise InputError(f"network: {network.name} returned {type(net).__name__}, not a torch.nn.Module")
    net = net.eval().cpu()
    _check(network.name, net)
    built = _Built(net, tuple(name for name, _ in net.named_parameters()))
    for name, layer in net.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = partial(built.normalise, name, layer)  # type: ignore[method-assign]
    return built


def _check(where: str, net: nn.Module) -> None:
    """Refuse what cannot be the same function when the engine normalises."""
    statistics = set()
    for name, layer in net.named_modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase) and not isinstance(layer, nn.BatchNorm2d):
            if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and not layer.track_running_stats:
                continue
            raise InputError(f"network: {name} of {where} is a {type(layer).__name__}; legal: BatchNorm2d")
        if isinstance(layer, nn.BatchNorm2d):
            if type(layer).forward is not nn.BatchNorm2d.forward:
                kind = type(layer).__name__
                raise InputError(
                    f"network: {name} of {where} is a {kind} with a forward of its own; legal: BatchNorm2d's"
                )
            if not layer.affine:
                raise InputError(f"network: {name} of {where} has affine=False; legal: True")
            if layer.eps != EPSILON:
                raise InputError(f"network: {name} of {where} has eps={layer.eps:g}; legal: {EPSILON:g}")
            statistics |= {f"{name}.{part}".removeprefix(".") for part in _STATISTICS}
    for name, value in net.named_parameters():
        if not value.requires_grad:
            raise InputError(f"network: {name} of {where} requires no gradient; legal: parameters that do")
    if odd := sorted({name for name, _ in net.named_buffers()} - statistics):
        raise InputError(f"network: {odd[0]} of {where} is a buffer; legal: those of BatchNorm2d alone")


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@lru_cache(maxsize=8)
def _width(network: ModuleNetwork, shape: tuple[int, ...]) -> int:
    """Try the module on two random inputs: each must be embedded by itself, the same way every time, differentiably."""
    seen: list[str] = []

    def identity(name: str, h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        seen.append(name)
        return h * gamma.view(-1, 1, 1) + beta.view(-1, 1, 1)

    weights = network.parameters(shape, torch.Generator())
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    dtype = next(iter(weights.values())).dtype if weights else torch.float32
    x = x.to(dtype).requires_grad_()
    try:
        with torch.enable_grad():
            both = network(weights, x, identity)
            alone = network(weights, x[:1], identity)
    except InputError:
        raise
    except Exception as error:  # whatever code of somebody's own raises
        raise InputError(f"network: {network.name} fails on inputs of shape {(2, *shape)}: {_said(error)}") from None
    if not isinstance(both, Tensor) or both.dim() != 2 or len(both) != 2:
        found = f"shape {tuple(both.shape)}" if isinstance(both, Tensor) else type(both).__name__
        raise InputError(f"network: {network.name} embeds {(2, *shape)} as {found}; legal: (2, width)")
    if len(set(seen)) * 2 != len(seen):
        twice = next(name for name in seen if seen.count(name) > 2)
        raise InputError(f"network: {twice.removeprefix(PREFIX)} of {network.name} normalises twice; legal: once")
    if not torch.allclose(both[:1], alone, rtol=1e-4, atol=1e-5):
        raise InputError(
            f"network: {network.name} embeds an input otherwise beside another, or at random; legal: batch norm as"
            " BatchNorm2d layers, no dropout outside nn.Dropout"
        )
    if not both.requires_grad:
        raise InputError(f"network: {network.name} cuts the gradient to its input; legal: differentiable modules")
    return both.shape[1]


def _given(norm: Params, name: str, h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    scale, shift = scale_and_shift(gamma, beta, norm[f"{name}.mean"], norm[f"{name}.var"])
    return torch.addcmul(shift.view(-1, 1, 1), h, scale.view(-1, 1, 1))


def _run(spec: ModuleSpec, source: bytes) -> ModuleType:
    """Run exactly these bytes as the module: no bytecode beside them, nor what an earlier import left in memory."""
    made = module_from_spec(spec)
    sys.modules.setdefault(spec.name, made)  # as classes of the module expect
    exec(compile(source, str(spec.origin), "exec"), made.__dict__)
    return made


def _source(name: str, module: str) -> tuple[ModuleSpec, bytes]:
    """Read the file of a module; the module itself does not run, packages above it do."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that nothing here stands for what is installed
    try:
        spec = find_spec(module)
    except Exception as error:  # a package above it, which has to be imported
        raise InputError(f"network: {name} cannot be found: {_said(error)}") from None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise InputError(f"network: {name}: no file of a module {module!r} is in {here} or where Python looks")
    try:
        return spec, untrusted.content(Path(spec.origin), LARGEST_SOURCE)
    except ValueError as error:
        raise InputError(f"network: {spec.origin} {error}") from None


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
