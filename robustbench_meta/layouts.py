"""How other libraries call the tensors of networks that ours can stand for, and what their names do not show.

learn2learn: vision/models/cnn4.py and algorithms/maml.py; easyfsl: modules/feat_resnet12.py; MAML-Pytorch: learner.py
of dragen1860. In targets, "running." begins the name of a running statistic.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustbench_meta import untrusted
from robustbench_meta.types import InputError, NormMode

LARGEST_CONFIG = 2**16  # bytes
_NORM = {
    "weight": "{}.gamma",
    "bias": "{}.beta",
    "running_mean": "running.{}.mean",
    "running_var": "running.{}.var",
}
OWN_CODE = "give a function that builds it: --network module:function"


@dataclass(frozen=True)
class Layout:
    """Names of one library: a network of ours with the options that its tensors do not show.

    `rename` gives our name, or a name back that it does not know; `norm_mode` is what the library's own evaluation
    normalises by; `foreign` says why tensors whose names match are of another network; with fewer blocks than `fewest`
    they are of one too.
    """

    network: str
    norm_mode: NormMode
    rename: Callable[[str], str]
    assumes: str
    options: Mapping[str, Any] = field(default_factory=dict)
    foreign: Mapping[str, str] = field(default_factory=dict)
    fewest: int = 1

    def why(self, names: Collection[str]) -> str:
        """Say why tensors of these names find no place, where that is known."""
        found = (why for pattern, why in self.foreign.items() if any(re.search(pattern, name) for name in names))
        return next(found, "")


def _learn2learn(name: str) -> str:
    name = re.sub(r"^module\.", "", name)
    if match := re.fullmatch(r"(?:features\.)?(?:0\.)?(\d{1,2})\.(conv|normalize)\.(\w+)", name):
        return _part(f"conv{match[1]}", match[2] == "normalize", match[3], name)
    # ANIL keeps features and head apart, the head in a wrapper of its own.
    if match := re.fullmatch(r"(?:(?:classifier|linear|head|head\.module)\.)?(weight|bias)", name):
        return f"head.{match[1]}"
    return name


def _protonet(name: str) -> str:
    name = re.sub(r"^(?:module\.)?(?:backbone\.)?(?:encoder\.)?", "", name)
    if match := re.fullmatch(r"(\d{1,2})\.([01])\.(\w+)", name):
        return _part(f"conv{match[1]}", match[2] == "1", match[3], name)
    return name


def _easyfsl(name: str) -> str:
    name = re.sub(r"^(?:module\.)?(?:backbone\.|encoder\.)?", "", name)
    if match := re.fullmatch(r"layer([1-9])\.0\.(conv|bn)([123])\.(\w+)", name):
        place = f"block{int(match[1]) - 1}.conv{int(match[3]) - 1}"
        return _part(place, match[2] == "bn", match[4], name)
    if match := re.fullmatch(r"layer([1-9])\.0\.downsample\.([01])\.(\w+)", name):
        return _part(f"block{int(match[1]) - 1}.shortcut", match[2] == "1", match[3], name)
    return name


def _part(place: str, normalises: bool, part: str, name: str) -> str:
    if normalises:
        return _NORM[part].format(place) if part in _NORM else name
    return f"{place}.{part}" if part in ("weight", "bias") else name


_BLOCKS = "3x3 convolutions padded by 1, batch norm with eps 1e-5, ReLU, 2x2 max pooling, features in channel order"

LAYOUTS = {
    "learn2learn": Layout(
        network="conv4",
        norm_mode="batch",
        rename=_learn2learn,
        assumes=f"CNN4 or ConvBase with max_pool=True: {_BLOCKS}; inputs in [0, 1]",
        options={"order": "bn-relu", "padding": 1, "last_stride": 2},
        foreign={
            r"^(?:module\.)?features\.1\.\d+\.": "features.1 is OmniglotCNN, which strides instead of pooling; "
            + OWN_CODE,
            r"^(?:module\.)?base\.": "base holds what features.0 holds too, in older versions: --drop base",
            r"(?:^|\.)layer\d\.": "layers are a ResNet12: --layout easyfsl, and --drop features, which has them too",
        },
        fewest=3,  # CNN4 pools by 4 // layers times as much
    ),
    "protonet": Layout(
        network="conv4",
        norm_mode="running",
        rename=_protonet,
        assumes=f"blocks of Sequential(Conv2d, BatchNorm2d, ReLU, MaxPool2d(2)): {_BLOCKS}; inputs in [0, 1]",
        options={"order": "bn-relu", "padding": 1, "last_stride": 2},
        foreign={r"(?:^|\.)\d+\.2\.weight$": "block.2 has weights, so that batch norm follows ReLU; " + OWN_CODE},
    ),
    "easyfsl": Layout(
        network="resnet12",
        norm_mode="running",
        rename=_easyfsl,
        assumes="feat_resnet12: leaky ReLU of slope 0.1, the mean over places; inputs in [0, 1]",
        options={"pooling": "mean"},
        foreign={
            r"(?:^|\.)layer\d\.1\.|^(?:backbone\.)?conv1\.": "that is a network of torchvision's blocks, as easyfsl's"
            f" resnet12 and resnet18; legal here: feat_resnet12; else {OWN_CODE}"
        },
    ),
}


def from_config(path: Path) -> Layout:
    """Read the list that MAML-Pytorch's Learner was given; refuse by its step what conv4 cannot stand for.

    Its flat lists vars and vars_bn follow that list, and neither order, padding nor pooling can be seen in them.
    """
    try:
        steps = untrusted.parse(untrusted.content(path, LARGEST_CONFIG))
    except (ValueError, OSError) as error:
        raise InputError(f"config: {path} {error}") from None
    pairs = [step if isinstance(step, list) else None for step in steps] if isinstance(steps, list) else [None]
    if not pairs or any(
        p is None or len(p) != 2 or not isinstance(p[0], str) or not isinstance(p[1], list) for p in pairs
    ):
        raise InputError(f"config: {path} is not a list of [name, [numbers]], as [['conv2d', [32, 3, 3, 3, 1, 1]], …]")
    return _config(path, [(str(name), list(given)) for name, given in pairs])  # type: ignore[misc]


_ORDERS: dict[tuple[str, ...], str] = {
    ("bn", "relu", "max_pool2d"): "bn-relu",
    ("bn", "max_pool2d", "relu"): "bn-relu",  # ReLU and the maximum may change places
    ("relu", "bn", "max_pool2d"): "relu-bn",
}


def _config(path: Path, steps: list[tuple[str, list[Any]]]) -> Layout:
    blocks = 0
    while blocks * 4 < len(steps) and steps[blocks * 4][0] == "conv2d":
        blocks += 1
    rest = steps[blocks * 4 :]
    if not blocks or [name for name, _ in rest] not in (["flatten"], ["flatten", "linear"]):
        at = steps[blocks * 4] if blocks * 4 < len(steps) else "its end"
        raise InputError(
            f"config: {path} has {at!r} at step {blocks * 4}; legal: blocks of conv2d, bn, relu (in either order),"
            f" max_pool2d, then flatten and at most one linear; else {OWN_CODE}"
        )
    width, _, _, _, _, padding = (*steps[0][1], *6 * [None])[:6]
    order = _ORDERS.get(tuple(name for name, _ in steps[1:4]))
    last_stride = (*dict(steps[blocks * 4 - 4 : blocks * 4]).get("max_pool2d", []), None, None)[1]
    for block in range(blocks):
        names = tuple(name for name, _ in steps[block * 4 + 1 : block * 4 + 4])
        given = dict(steps[block * 4 : block * 4 + 4])
        stride = last_stride if block == blocks - 1 else 2
        legal = {"conv2d": [width, *given["conv2d"][1:2], 3, 3, 1, padding], "max_pool2d": [2, stride, 0]}
        if order is None or _ORDERS.get(names) != order:
            raise InputError(
                f"config: block {block} is {', '.join(names)}; legal: the same order of bn and relu in all"
            )
        for name, right in legal.items():
            if given[name] != right:
                raise InputError(
                    f"config: block {block} has {name} {given[name]}; legal for conv4: {right}; else {OWN_CODE}"
                )
    options = {"width": width, "depth": blocks, "order": order, "bias": True, "padding": padding}
    places = [f"conv{block}.{part}" for block in range(blocks) for part in ("weight", "bias", "gamma", "beta")]
    places += ["head.weight", "head.bias"] if len(rest) == 2 else []
    statistics = [f"running.conv{block}.{part}" for block in range(blocks) for part in ("mean", "var")]

    def rename(name: str) -> str:
        match = re.fullmatch(r"(?:module\.)?(?:net\.)?(vars|vars_bn)\.(\d{1,4})", name)
        known = [] if match is None else places if match[1] == "vars" else statistics
        return known[int(match[2])] if match is not None and int(match[2]) < len(known) else name

    return Layout(
        network="conv4",
        norm_mode="batch",
        rename=rename,
        assumes=f"what {path.name} says, batch norm with eps 1e-5; inputs in [0, 1]",
        options={**options, "last_stride": last_stride},
    )
