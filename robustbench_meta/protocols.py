"""Evaluation protocols by name: every knob as a paper's code sets it, and where results differ from them.

A protocol says what is measured (episodes, attack, budget, tasks) and on what sort of learner. A name and `version`
stand for one configuration, whose hash is shown beside it. What a results folder differs in is read off its cells and
cards, so that it does not matter which commands filled it. No torch here: reports use this.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from robustbench_meta import untrusted
from robustbench_meta.outcomes import (
    Board,
    Entry,
    Results,
    board_of,
    cards,
    entry_of,
    eps_text,
    is_object,
    is_set,
    records,
)

if TYPE_CHECKING:
    from robustbench_meta.types import Norm, Split, Surface

CLEAN = "clean"  # the part of a protocol that attacks nothing: any cell tells clean accuracy
AS_TESTED: Literal["as tested"] = "as tested"
GREY, COLOUR = ("strokes", "omniglot"), ("cifar-fs", "fc100")  # other families may be either
LONGEST = 80  # characters of a card's text that are shown
# What an algorithm's inner loop does where its recipe does not say: its rate, and its steps in training.
INNER: dict[str, tuple[float, int]] = {
    "maml": (0.01, 5),
    "fomaml": (0.01, 5),
    "anil": (0.1, 5),
    "reptile": (0.1, 8),
}


@dataclass(frozen=True)
class Part:
    """One attack of a protocol with its exact configuration, on at least so many tasks; a GPU runs `gpu_tasks`."""

    attack: str
    fields: str
    tasks: int
    gpu_tasks: int


@dataclass(frozen=True)
class Backbone:
    """A network of the catalog with the options that matter; `text` names what the paper's code has."""

    network: str
    options: tuple[tuple[str, Any], ...]
    text: str


@dataclass(frozen=True)
class Protocol:
    """Everything that an evaluation under a name fixes; None leaves a knob to the learner.

    `queries` None: as many as shots. `eps` (0.0,) is clean only; `grey_eps` replaces it on grey images. Learner:
    `norm_modes` that are allowed, adaptation `steps` at test, and how it was trained: `step_size`, `train_steps`,
    `train_shots` and `train_queries` (a number holds for closed forms; who takes steps is trained at the tested shots
    and 15 queries), as many ways as tested, algorithms, backbone.
    `data` are those of our families that the paper's code reads. `variants` are changes on a family. `beyond` says
    what no run here does as the paper's code.
    """

    name: str
    version: int
    about: str
    shots: tuple[int, ...]
    queries: int | None
    eps: tuple[float, ...]
    norm_modes: tuple[str, ...]
    parts: tuple[Part, ...]
    grey_eps: tuple[float, ...] = ()
    ways: int = 5
    split: Split = "test"
    surface: Surface = "query"
    norm: Norm = "linf"
    seed: int = 0
    steps: int | None = None
    step_size: float | None = None
    train_steps: int | None = None
    train_shots: int | Literal["as tested"] | None = None
    train_queries: int | None = None
    algorithms: tuple[str, ...] = ()
    backbone: Backbone | None = None
    data: tuple[str, ...] = ()
    data_text: str = ""
    variants: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    beyond: tuple[str, ...] = ()

    @property
    def clean_only(self) -> bool:
        return all(part.attack == CLEAN for part in self.parts)

    @property
    def sha256(self) -> str:
        """Hash every knob; what is only said of it, in `about` and `beyond`, left out."""
        knobs = {name: value for name, value in asdict(self).items() if name not in ("about", "beyond", "data_text")}
        text = json.dumps(knobs, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """Name, version and the start of the hash, as every table shows it."""
        return f"{self.name} v{self.version} ({self.sha256[:8]})"

    def on(self, family: str) -> Protocol:
        """Return what the protocol is on a family."""
        return replace(self, **dict(dict(self.variants).get(family, ())), variants=())

    def budgets(self, family: str) -> tuple[tuple[float, ...], ...]:
        """Return the sets of eps of which a row has to meet one; two where nobody knows whether a family is grey."""
        if not self.grey_eps or family in COLOUR:
            return (self.eps,)
        return (self.grey_eps,) if family in GREY else (self.eps, self.grey_eps)


@dataclass(frozen=True)
class Verdict:
    """How one row of a board stands to a protocol: differences are lines of text, none where it is as it says."""

    protocol: Protocol
    board: Board
    entry: Entry
    differences: tuple[str, ...]


@dataclass(frozen=True)
class _Met:
    """One attack that a row met at one eps, on `tasks` tasks; a reason where it failed."""

    attack: str
    fields: str
    eps: float
    tasks: int
    reason: str


def find(name: str) -> Protocol:
    """Return the protocol of that name."""
    if name in PRESETS:
        return PRESETS[name]
    near = difflib.get_close_matches(name.lower(), PRESETS, n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}? " if near else ""
    # Imported here because the vocabulary needs torch, which a report otherwise does without.
    from robustbench_meta.types import InputError

    raise InputError(f"protocol: {name!r} is unknown; {hint}legal: {', '.join(sorted(PRESETS))}")


def recipes(results: Results) -> dict[str, dict[str, Any]]:
    """Read the recipes of learners from their cards, by weights; of a card that is no such JSON nothing is known."""
    return {untrusted.printable(row["weights"]): card["recipe"] for row, card in cards(results)}


def verdicts(
    results: Results,
    known: Mapping[str, dict[str, Any]],
    only: Protocol | None = None,
    planned: Mapping[str, int] | None = None,
) -> list[Verdict]:
    """Judge every row by each protocol of which it met an attack, or by `only` whatever it met.

    `known` are recipes by weights. `planned` are tasks by cell key, for cells that are still to run.
    """
    ran = {str(key): int(count) for key, count in results.tasks["key"].value_counts().items()}
    counts = ran if planned is None else planned
    grouped: dict[tuple[Board, Entry], list[_Met]] = {}
    for cell in records(results.cells):
        if not cell["external"] and not is_set(cell["attack_fields"]):
            met = _Met(cell["attack"], cell["attack_fields"], round(cell["eps"], 9), 0, "")
            failed = str(cell["reason"]) if cell["status"] == "error" else ""
            met = replace(met, tasks=counts.get(cell["key"], 0), reason=failed)
            grouped.setdefault((board_of(cell), entry_of(cell)), []).append(met)
    return [
        Verdict(one, board, entry, differences(one.on(board.family), board, entry, met, known.get(entry.weights)))
        for one in ([only] if only else PRESETS.values())
        for (board, entry), met in grouped.items()
        if only or _touched(one, met)
    ]


def lines(found: Iterable[Verdict]) -> list[str]:
    """Say in a line for each row how it stands to its protocol."""
    made = []
    for one in found:
        steps = "" if one.entry.steps is None else f", {one.entry.steps} steps"
        row = untrusted.printable(f"{one.entry.checkpoint}, {one.board.shots}-shot{steps}")
        differs = f"differs from {one.protocol.name}: {'; '.join(one.differences)}"
        made.append(f"{row}: {differs if one.differences else f'as {one.protocol.name} says'}")
    return made


def differences(
    protocol: Protocol, board: Board, entry: Entry, met: Sequence[_Met], recipe: dict[str, Any] | None
) -> tuple[str, ...]:
    """Say in which knobs a row differs from a protocol, the track first."""
    found = [*_of_track(protocol, board, entry), *_of_task(protocol, board, entry)]
    found += _of_attacks(protocol, board.family, met)
    return tuple(untrusted.printable(one) for one in [*found, *_of_learner(protocol, board, entry, recipe)])


def _touched(protocol: Protocol, met: Iterable[_Met]) -> bool:
    if protocol.clean_only:
        return any(one.eps == 0 for one in met)
    return bool({one.attack for one in met} & {part.attack for part in protocol.parts})


def _of_track(protocol: Protocol, board: Board, entry: Entry) -> Iterable[str]:
    if board.surface != protocol.surface:
        yield f"attacks the {board.surface}, not the {protocol.surface}"
    if board.fraction != 1:
        yield f"attacks {board.fraction:.4g} of the support, not all of it"
    if board.norm != protocol.norm:
        yield f"norm {board.norm}, not {protocol.norm}"
    if entry.norm_mode in protocol.norm_modes:
        return
    wanted = " or ".join(_MODES.get(mode, mode) for mode in protocol.norm_modes)
    track = "transductive" if "batch" in protocol.norm_modes else "inductive"
    text = f"normalises by {_MODES.get(entry.norm_mode, entry.norm_mode)}, not by {wanted}"
    yield text if board.track == track else f"{board.track}, where the protocol is {track}: {text}"


_MODES = {
    "support": "the support's statistics",
    "running": "running statistics",
    "batch": "the query batch's statistics",
    "own": "means of its own",
}


def _of_task(protocol: Protocol, board: Board, entry: Entry) -> Iterable[str]:
    if protocol.data_text and board.family not in protocol.data:
        whose = ", unless the folder holds it" if board.family == "image-folder" else ""
        yield f"on {board.family}, not on {protocol.data_text}{whose}"
    queries = board.shots if protocol.queries is None else protocol.queries
    for what, has, wanted in (("split", board.split, protocol.split), ("seed", board.seed, protocol.seed)):
        if has != wanted:
            yield f"{what} {has}, not {wanted}"
    if board.ways != protocol.ways:
        yield f"{board.ways}-way, not {protocol.ways}-way"
    if board.shots not in protocol.shots:
        yield f"{board.shots}-shot, not {' or '.join(f'{shots}-shot' for shots in protocol.shots)}"
    if board.queries != queries:
        yield f"{board.queries} queries a class, not {queries}"
    if entry.steps is not None and protocol.steps is not None and entry.steps != protocol.steps:
        yield f"{entry.steps} adaptation steps, not {protocol.steps}"


def _of_attacks(protocol: Protocol, family: str, met: Sequence[_Met]) -> Iterable[str]:
    runs = {(one.attack, one.fields, one.eps): one for one in met}
    sets = [tuple(round(eps, 9) for eps in budgets) for budgets in protocol.budgets(family)]
    wanted = max(sets, key=lambda one: sum(_ran(part, runs, eps) for part in protocol.parts for eps in one) / len(one))
    for part in protocol.parts:
        if part.attack == CLEAN:
            most = max((one.tasks for one in met if not one.reason), default=0)
            if most < part.tasks:
                yield f"clean accuracy on {_tasks(most)}, not on {part.tasks}"
            continue
        if lacking := [eps for eps in wanted if not _ran(part, runs, eps)]:
            yield _lacking(part, lacking, wanted, met)
        there = [runs[part.attack, part.fields, eps] for eps in wanted if _ran(part, runs, eps)]
        if failed := [one for one in there if one.reason]:
            yield f"{part.attack} failed at ε {_list(one.eps for one in failed)}: {failed[0].reason}"
        short: dict[int, list[float]] = {}
        for one in there:
            if not one.reason and one.tasks < part.tasks:
                short.setdefault(one.tasks, []).append(one.eps)
        for tasks, those in short.items():
            yield f"{part.attack} on {_tasks(tasks)} at ε {_list(those)}, not on {part.tasks}"


def _ran(part: Part, runs: Mapping[tuple[str, str, float], _Met], eps: float) -> bool:
    return (part.attack, part.fields, eps) in runs


def _lacking(part: Part, lacking: Iterable[float], wanted: Iterable[float], met: Iterable[_Met]) -> str:
    """Say that an attack was not run, and what ran under its name instead."""
    text = f"{part.attack} not run at ε {_list(lacking)}"
    mine = [one for one in met if one.attack == part.attack]
    if other := next((one.fields for one in mine if one.fields != part.fields), ""):
        return f"{text}: what ran under that name is {other[:300]}"
    elsewhere = sorted({one.eps for one in mine} - {*wanted})
    return f"{text}, but at {_list(elsewhere)}" if elsewhere else text


def _of_learner(protocol: Protocol, board: Board, entry: Entry, recipe: dict[str, Any] | None) -> Iterable[str]:
    """Say how training differs from what the paper's code does, which no option of an evaluation can change."""
    if protocol.algorithms and entry.algorithm not in protocol.algorithms:
        yield f"algorithm {_short(entry.algorithm)}, not {' or '.join(protocol.algorithms)}"
    asks = (protocol.step_size, protocol.train_steps, protocol.train_shots, protocol.backbone)
    if all(one is None for one in asks):
        return
    if recipe is None:
        why = "it is an object" if is_object(entry.algorithm) else "the results hold no card of it"
        yield f"how it was trained is not known: {why}"
        return
    options = _options(recipe, "algorithm_options")
    rate = options.get("step_size", INNER.get(entry.algorithm, (None, None))[0])
    if entry.steps is not None and protocol.step_size is not None and rate != protocol.step_size:
        has = "rates of its own" if rate is None else f"a rate of {_short(rate)}"
        yield f"adapts by {has}, not by {protocol.step_size:g}"
    if protocol.algorithms and options.get("adapts", "all") != "all":
        yield f"adapts the {_short(options['adapts'])} alone, not the whole network"
    if recipe.get("origin") == "imported":
        yield "how it was trained is not known: it was imported"
    else:
        yield from _of_training(protocol, board, entry, recipe, options)
    if protocol.backbone is not None:
        yield from _of_backbone(protocol.backbone, recipe)


def _of_training(
    protocol: Protocol, board: Board, entry: Entry, recipe: dict[str, Any], options: dict[str, Any]
) -> Iterable[str]:
    stepping = entry.steps is not None and protocol.train_steps is not None
    steps = options.get("steps", INNER.get(entry.algorithm, (None, None))[1])
    if stepping and steps != protocol.train_steps:
        yield f"trained with {_short(steps)} inner steps, not {protocol.train_steps}"
    order = recipe.get("meta_gradient") or options.get("meta_gradient") or FIRST_ORDER
    if protocol.algorithms == ("fomaml",) and entry.algorithm == "fomaml" and order != FIRST_ORDER:
        yield f"trained by the {_short(order)} meta-gradient, not to first order"
    shots = protocol.train_shots
    if shots == AS_TESTED or (shots is not None and entry.steps is not None):
        shots = board.shots
    queries = STEPPING_QUERIES if stepping else None if entry.steps is not None else protocol.train_queries
    ways = recipe.get("train_ways") or recipe.get("ways")
    for what, has, wanted in (
        ("shots", recipe.get("shots"), shots),
        ("queries a class", recipe.get("queries"), queries),
        ("ways", ways, protocol.ways),
    ):
        if wanted is not None and has != wanted:
            yield f"trained at {_short(has)} {what}, not at {wanted}"


def _of_backbone(wanted: Backbone, recipe: dict[str, Any]) -> Iterable[str]:
    asked = {**CONV4, **dict(wanted.options)}
    has = {**CONV4, **_options(recipe, "network_options")}
    if recipe.get("network") != wanted.network:
        yield f"network {_short(recipe.get('network'))}, not {wanted.text}"
    elif has != asked:
        odd = ", ".join(f"{name} {_short(has[name])}" for name in has if has[name] != asked.get(name))
        yield f"network {wanted.network} with {odd}, not {wanted.text}"


def _options(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    found = recipe.get(name)
    return found if isinstance(found, dict) else {}


# Where a recipe does not say.
CONV4: dict[str, Any] = {
    **{"width": 64, "depth": 4, "order": "bn-relu", "bias": False},
    **{"padding": 1, "last_stride": 2},
}
FIRST_ORDER = "first-order"
STEPPING_QUERIES = 15  # a class, of the training tasks of AQ's MAML, of R-MAML and of MAML


def _list(budgets: Iterable[float]) -> str:
    return ", ".join(eps_text(eps) for eps in budgets)


def _tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'}"


def _short(value: object) -> str:
    return untrusted.printable(value)[:LONGEST]


def _levels(steps: int, levels: int) -> str:
    """Write the configuration of a PGD in steps of so many grey levels, from a random start, its last iterate kept."""
    how = "step_unit='input', start='random', objective='cross-entropy', keep='last', norms=('linf',)"
    return f"PGD(steps={steps}, step={levels / 255!r}, {how})"


_APGD = "steps=100, restarts={restarts}, loss='{loss}', targets={targets}, l1_restarts={l1}, l1_targets={l1_targets}"
_APGD = f"APGD({_APGD}, l1_radii=(3.0, 2.0, 1.0))"
_CE = _APGD.format(restarts=1, loss="cross-entropy", targets=None, l1=5, l1_targets=None)
_DLR = _APGD.format(restarts=1, loss="dlr", targets=None, l1=5, l1_targets=None)
_TARGETED = _APGD.format(restarts=1, loss="targeted-dlr", targets=9, l1=1, l1_targets=5)
_FAB = "TargetedFAB(steps=100, restarts=1, targets=9, pull=0.1, overshoot=1.05, retreat=0.9)"
_SQUARE = "Square(queries=5000, share=0.8, schedule=10000)"
_AUTOATTACK = f"AutoAttack(ce={_CE}, dlr={_DLR}, targeted={_TARGETED}, fab={_FAB}, square={_SQUARE})"

_OURS = "its code draws tasks of its own; ours are fixed and hashed, the same for every learner"
_START = "its random start may leave [0, 1] until the first step; ours is clamped at once"
_STRONG = Part("pgd-mt-50", "MultiTargetedPGD(steps=50, step=0.05, restarts=2)", 1000, 1000)
# What a learner that acts does: eight actions, and five rollouts each.
_ACTS: tuple[tuple[str, Any], ...] = (("surface", "rollout"), ("ways", 8), ("queries", 5))
# What a learner that writes does: of eight words and the end of a target.
_WRITES: tuple[tuple[str, Any], ...] = (("surface", "sequence"), ("ways", 9))


def _moved(*eps: float) -> tuple[tuple[str, Any], ...]:
    """Return what a protocol changes where inputs are no images: budgets in the family's own units."""
    return (("eps", eps), ("grey_eps", ()))


PRESETS: dict[str, Protocol] = {
    "aq": Protocol(
        name="aq",
        version=1,
        about="Adversarial Querying, closed-form heads: inductive, Linf 8/255, PGD-20 of step 2/255, 1000 tasks",
        shots=(1, 5),
        queries=15,
        eps=(8 / 255,),
        norm_modes=("running",),
        parts=(Part("pgd-20-aq", _levels(20, 2), 1000, 1000),),
        steps=10,
        step_size=0.01,
        train_steps=5,
        train_shots=15,
        train_queries=6,
        data=COLOUR,
        data_text="miniImageNet, tieredImageNet, CIFAR-FS or FC100",
        beyond=(
            _OURS,
            _START,
            "its SVM head is solved in 3 iterations at test, ours to a tolerance",
            "its MAML rows are transductive, which this preset is not",
            "on Omniglot its code takes 16/255 in steps of 4/255",
        ),
    ),
    "rmaml": Protocol(
        name="rmaml",
        version=1,
        about="R-MAML: 5-way 1-shot, first-order MAML, transductive, Linf 2/255, PGD-10 of step 2/255, 2400 tasks",
        shots=(1,),
        queries=15,
        eps=(2 / 255,),
        norm_modes=("batch",),
        parts=(Part("pgd-10-rmaml", _levels(10, 2), 2400, 2400),),
        steps=10,
        step_size=0.01,
        train_steps=5,
        train_shots=AS_TESTED,
        algorithms=("fomaml",),
        backbone=Backbone(
            "conv4",
            (("width", 32), ("order", "relu-bn"), ("bias", True)),
            "conv4 (width 32, ReLU before batch norm, bias)",
        ),
        data=("cifar-fs", "omniglot"),
        data_text="miniImageNet, CIFAR-FS or Omniglot",
        beyond=(
            _OURS,
            _START,
            "its convolutions do not pad and its last pooling has stride 1; ours do where conv4 is told so",
            "its second number, over the queries that are right when clean, is not what we call robust accuracy",
        ),
    ),
    "dfsl": Protocol(
        name="dfsl",
        version=1,
        about="Defensive Few-shot Learning: 5-way 5-shot, inductive, Linf 0.01, PGD-10 of step 1/255, 5000 tasks",
        shots=(5,),
        queries=15,
        eps=(0.01,),
        norm_modes=("running",),
        parts=(Part("pgd-10-dfsl", _levels(10, 1), 5000, 5000),),
        train_shots=AS_TESTED,
        algorithms=("protonet",),
        backbone=Backbone("conv4", (("width", 64), ("bias", True)), "conv4 (width 64, bias)"),
        data_text="miniImageNet",
        beyond=(
            "its five rounds of 1000 tasks are one series of 5000 here; its ± is the mean of five, ours the series'",
            _OURS,
            _START,
            "its published rows are DN4's, which is not offered here; of its classifiers only protonet is",
            "its network pools after the first two of four blocks only and has leaky ReLU of slope 0.2",
            "its option says a step of 0.003, its code takes 1/255: so do we",
        ),
    ),
    "maml-2017": Protocol(
        name="maml-2017",
        version=1,
        about="MAML as published: transductive, K queries a class at K shots, 10 steps, 600 tasks, clean accuracy only",
        shots=(1, 5),
        queries=None,
        eps=(0.0,),
        norm_modes=("batch",),
        parts=(Part(CLEAN, "", 600, 600),),
        steps=10,
        step_size=0.01,
        train_steps=5,
        train_shots=AS_TESTED,
        algorithms=("maml", "fomaml"),
        backbone=Backbone("conv4", (("width", 32), ("bias", True)), "conv4 (width 32, bias)"),
        data=("omniglot",),
        data_text="Omniglot or miniImageNet",
        variants=(
            (
                "omniglot",
                (
                    ("step_size", 0.4),
                    ("train_steps", 1),
                    ("backbone", Backbone("conv4", (("width", 64), ("bias", True)), "conv4 (width 64, bias)")),
                ),
            ),
        ),
        beyond=(
            _OURS,
            "on Omniglot its convolutions have stride 2 in place of pooling",
            "it reports accuracy after every number of steps up to 10, here the last; --steps adds others",
        ),
    ),
    "strict": Protocol(
        name="strict",
        version=2,
        about="The leaderboard's own: inductive, Linf 2, 4, 8/255 (grey 0.05, 0.1), pgd-mt-50 on 1000 tasks and "
        "AutoAttack on at least 100",
        shots=(5,),
        queries=15,
        eps=(2 / 255, 4 / 255, 8 / 255),
        grey_eps=(0.05, 0.1),
        norm_modes=("support", "running", "own"),
        parts=(
            _STRONG,
            Part("autoattack", _AUTOATTACK, 100, 1000),
        ),
        variants=(
            ("spoken-digits", _moved(0.002, 0.005)),
            ("spoken-new-digits", _moved(0.002, 0.005)),
            ("clinc150", _moved(0.005, 0.01)),
            ("navigation", (*_moved(0.02, 0.05), *_ACTS)),
            ("reach", (*_moved(0.01, 0.02), *_ACTS)),
            ("reacher", (*_moved(0.02, 0.05), *_ACTS, ("parts", (_STRONG,)))),
            ("transduction", (*_moved(0.01, 0.02), *_WRITES)),
            ("compression", (*_moved(0.01, 0.02), *_WRITES)),
        ),
    ),
}
