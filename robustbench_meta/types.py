"""The nouns of robustbench_meta: small frozen values that every other module speaks in.

Shapes: T tasks, S support items, Q query items, P points, M items in one point, L labels judged in one
point, N classes, X the shape of one input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

Params = dict[str, Tensor]
Split = Literal["train", "val", "test"]
Norm = Literal["linf", "l2", "l1", "words", "labels", "corruption"]
Surface = Literal["query", "support", "rollout", "sequence"]
NormMode = Literal["support", "running", "batch"]
Inputs = Literal["images", "sounds", "sentences", "other"]
MetaGradient = Literal["exact", "recomputed", "first-order", "displacement"]
Backend = Literal["loop", "vmap", "flat"]

SPLITS: tuple[Split, ...] = get_args(Split)
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")  # of a ball around the input
THREATS: tuple[Norm, ...] = get_args(Norm)  # and rows that are replaced, and corruptions without an adversary
SURFACES: tuple[Surface, ...] = get_args(Surface)
NORM_MODES: tuple[NormMode, ...] = get_args(NormMode)
META_GRADIENTS: tuple[MetaGradient, ...] = get_args(MetaGradient)
BACKENDS: tuple[Backend, ...] = get_args(Backend)
SEVERITIES = (1, 2, 3, 4, 5)  # of a corruption


def served_as(surface: Surface) -> Surface:
    """Say what an attack must serve to serve `surface`: the victim of rollouts or sequences is like one of queries."""
    return "query" if surface in ("rollout", "sequence") else surface


class InputError(ValueError):
    """What a user gave cannot be used: one line with the field, the value and what is legal."""


@dataclass(frozen=True)
class Box:
    """The inputs a family allows: tensors of `shape` with every entry in [low, high].

    `labels` says how many labels an input has: one, or of sequences the tokens of its target.
    """

    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    labels: int = field(default=1, kw_only=True, repr=False)

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def inputs(self) -> Inputs:
        """What they are to somebody who looks or listens: [C,H,W] of one or three channels is an image."""
        return "images" if len(self.shape) == 3 and self.shape[0] in (1, 3) else "other"


@dataclass(frozen=True)
class Sounds(Box):
    """Waveforms [1,samples] at `rate` samples a second."""

    rate: int = 16_000

    @property
    def inputs(self) -> Inputs:
        return "sounds"


@dataclass(frozen=True, eq=False)
class Sentences(Box):
    """Sequences of vectors [L,d] of a frozen table: what an adversary may move in a ball, or replace word by word.

    The labels of a support are such a sequence, too: one word an item, of an alphabet of classes.

    `table` [V,d] holds in row 0 zeros, the padding; `swaps` [V,n] says by which words each may be replaced, -1 by none.
    `known` numbers the words that have a vector by their use, from which spelling.py makes one for any other word.
    """

    words: tuple[str, ...] = ()
    table: Tensor = field(default_factory=lambda: torch.zeros(1, 1))
    swaps: Tensor = field(default_factory=lambda: torch.full((1, 1), -1))
    known: tuple[int, ...] = ()

    @property
    def inputs(self) -> Inputs:
        return "sentences"

    def numbers(self, x: Tensor) -> Tensor:
        """Return the number of the word in every row of x [...,L,d], -1 where a row is no word's: [...,L]."""
        table, rows = self.table.to(x), x.flatten(0, -2)
        # Of vectors of one length the own one has the largest product; zeros are told apart first.
        found = torch.cat([(part @ table.T).argmax(dim=-1) for part in rows.split(4096)])
        found = found.masked_fill((rows == 0).all(dim=-1), 0)
        return found.masked_fill((table[found] != rows).any(dim=-1), -1).view(x.shape[:-1])

    def text(self, x: Tensor) -> list[str]:
        """Write sentences x [n,L,d] of this table's words."""
        return [" ".join(self.words[number] for number in row if number > 0) for row in self.numbers(x).tolist()]

    def replaced(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Count the words of x [...,L,d] that x_adv replaces, -1 where it does what `swaps` does not allow: [...]."""
        changed = (x_adv != x).any(dim=-1)
        before, after = self.numbers(x), self.numbers(x_adv)
        legal = (self.swaps.to(x.device)[before.clamp_min(0)] == after.unsqueeze(-1)).any(dim=-1) & (after > 0)
        return changed.sum(dim=-1).masked_fill((changed & ~legal).any(dim=-1), -1)


@dataclass(frozen=True)
class Spec:
    """What one episode holds; shots, queries and proxies are counted per class.

    Proxies are labelled items a poisoner may look at, disjoint from support and query.
    """

    ways: int = 5
    shots: int = 5
    queries: int = 15
    proxies: int = 0


@dataclass(frozen=True)
class Episodes:
    """T tasks as tensors, items ordered by class: support_x [T,S,*X], support_y [T,S] int64, and so on.

    Where an input has L labels, those of all items lie one after another: support_y [T,S*L]. So a token of a target is
    an example to an algorithm, as an input of one label is. `classes` are what those of each task are called, T of N
    names; empty where they have none.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    proxy_x: Tensor | None = None
    proxy_y: Tensor | None = None
    classes: tuple[tuple[str, ...], ...] = field(default=(), kw_only=True)

    @property
    def tasks(self) -> int:
        return len(self.support_x)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return the inputs and labels that there are, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Episodes:
        """Move to `device`; inputs also to `dtype`, labels stay int64."""
        moved: dict[str, Any] = {
            name: value.to(device) if name.endswith("_y") else value.to(device, dtype)
            for name, value in self.tensors.items()
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Threat:
    """What the adversary may do: move each item of `surface` by at most `eps` in `norm`, inside the box.

    On the surface `rollout` an item is what it adds to all observations of one rollout, [H,*X]; on the surface
    `sequence` it is a query, too, that is judged by all tokens that are written for it.

    Of `words` it may replace at most `eps` in each, by those that the space allows; of the `labels` of a task's support
    at most `eps` in all. On the support it reaches `fraction` of each class, and leaves the rest as it is.
    A `corruption` has no adversary: `eps` is its severity, a whole number from 0, which changes nothing, to 5.
    """

    norm: Norm
    eps: float
    surface: Surface = "query"
    fraction: float = 1.0


class Streams:
    """One CPU generator per task, so that no draw depends on chunk, dropping, order or device."""

    def __init__(self, seeds: Sequence[int]):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def uniform(self, like: Tensor) -> Tensor:
        """Draw from [0, 1) for every point of `like` [P, ...], whose P points lie task by task."""
        return self._draw(like, lambda shape, g: torch.rand(shape, generator=g))

    def normal(self, like: Tensor) -> Tensor:
        """Draw standard normals for every point of `like` [P, ...], whose P points lie task by task."""
        return self._draw(like, lambda shape, g: torch.randn(shape, generator=g))

    def poisson(self, rates: Tensor) -> Tensor:
        """Draw counts of the means `rates` [P, ...], whose P points lie task by task."""
        parts = zip(rates.cpu().split(self._each(rates)), self.generators, strict=True)
        return torch.cat([torch.poisson(part, generator=g) for part, g in parts]).to(rates)

    def seeds(self) -> list[int]:
        """Draw one integer per task, for libraries that keep their own generator."""
        return [int(torch.randint(2**31, (1,), generator=g)) for g in self.generators]

    def split(self, count: int) -> list[Streams]:
        """Make `count` sets of streams, so that how much one part of an attack draws shifts nothing in the next."""
        return [Streams(self.seeds()) for _ in range(count)]

    def _draw(self, like: Tensor, draw: Callable[[tuple[int, ...], torch.Generator], Tensor]) -> Tensor:
        shape = (self._each(like), *like.shape[1:])
        return torch.cat([draw(shape, g) for g in self.generators]).to(like)

    def _each(self, like: Tensor) -> int:
        each, rest = divmod(len(like), len(self.generators))
        if rest:
            raise ValueError(f"{len(like)} points do not divide into {len(self.generators)} tasks")
        return each


@dataclass(frozen=True)
class Cost:
    """Rows (points × items) sent forward and backward so far, per task: two int64 tensors [T]."""

    forwards: Tensor
    backwards: Tensor


@dataclass(frozen=True)
class Victim:
    """What an attack sees: a function from the tensor under attack to class scores, plus the truth.

    A point is one independently attackable variable of M items judged on L labels: a query (M = L = 1), a
    task's whole query set under batch statistics (M = L = Q), or a task's support (M = S, L = its proxies).
    Points lie task by task. `forward(x [P',M,*X], points [P'])` gives scores [P',L,N] for any subset of
    points; it is differentiable in x unless `differentiable` is False.

    `as_queries()`, where the inputs of a support are attacked, gives the same items in their order as queries of a
    learner that adapted to the proxies; what that costs adds to `cost`.
    """

    forward: Callable[[Tensor, Tensor], Tensor]
    x: Tensor  # [P, M, *X]
    y: Tensor  # [P, L]
    space: Box
    tasks: int
    cost: Cost
    differentiable: bool = True
    as_queries: Callable[[], Victim] | None = None

    @property
    def points(self) -> Tensor:
        """The index of every point: [P]."""
        return torch.arange(len(self.x), device=self.x.device)

    @property
    def single(self) -> bool:
        """Whether each point is one item judged on one label, so that image libraries can attack it."""
        return self.x.shape[1] == 1 and self.y.shape[1] == 1


@runtime_checkable
class Attack(Protocol):
    """A frozen dataclass of hyper-parameters that finds x_adv within a threat.

    Optional: `needs_package`, a library that is no dependency of ours; `needs_inputs`, the only `Inputs` that it
    serves; `misspells`, where it needs words known by their use; `least_classes`, fewer than which it cannot tell
    apart; `paints`, where it serves images and sounds alone.
    Where these do not hold the attack is refused at planning.
    """

    @property
    def norms(self) -> tuple[Norm, ...]: ...

    surfaces: ClassVar[tuple[Surface, ...]]
    needs_gradient: ClassVar[bool]
    needs_single_points: ClassVar[bool]  # each point one item judged on one label

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        """Return x_adv [P,M,*X] within `threat` and the box; leave the victim untouched."""
        ...


class Net(Protocol):
    """A network whose normalisation the engine has already chosen."""

    def __call__(self, weights: Params, x: Tensor) -> Tensor:
        """Embed x [B,*X] as [B, width]."""
        ...


@runtime_checkable
class Algorithm(Protocol):
    """A frozen dataclass of hyper-parameters that says how ONE task is learned.

    A state maps names of parameters to their adapted values; a name it lacks keeps its meta-learned value.
    """

    @property
    def steps(self) -> int | None: ...  # in meta-training; None where adaptation has no steps

    @property
    def test_steps(self) -> int | None: ...  # the default of `rbm evaluate`

    @property
    def meta_gradient(self) -> MetaGradient: ...  # of meta-training, unless the recipe says otherwise

    def parameters(self, body: Params, width: int, ways: int, rng: torch.Generator) -> Params:
        """Make the meta-parameters beyond the network's own `body` (head, step sizes, scale)."""
        ...

    def start(self, net: Net, params: Params) -> Params: ...

    def step(self, net: Net, params: Params, state: Params, x: Tensor, y: Tensor) -> Params: ...

    def finish(self, net: Net, params: Params, x: Tensor, y: Tensor, ways: int) -> Params:
        """Return what predict needs besides the adapted `params` (prototypes, ridge weights); may be empty.

        Here `net` may embed the support alone: its statistics are what `predict` normalises by.
        """
        ...

    def predict(self, net: Net, params: Params, fitted: Params, x: Tensor) -> Tensor:
        """Return scores [Q, N]; `params` holds adapted values, `fitted` what finish returned."""
        ...


@runtime_checkable
class Checked(Protocol):
    """An Algorithm that solves a problem in `finish`, and says when it failed to."""

    def check(self, fitted: Params) -> None:
        """Raise InputError where what `finish` returned for T tasks, each [T,...], is no solution."""
        ...


@runtime_checkable
class Pretrained(Protocol):
    """An Algorithm whose network is made by telling all classes of the train split apart, not by episodes."""

    @property
    def base(self) -> Algorithm:
        """The classifier that is trained; its own parameters, named base.*, are left out of the checkpoint."""
        ...


@runtime_checkable
class Defense(Protocol):
    """A frozen dataclass: what meta-training minimises, as named terms of one value per task.

    Optional: `rates`, the terms that an optimiser of their own follows, each with its share of the recipe's learning
    rate; `guard`, the share of its best so far that robust accuracy in validation must keep, or training
    ends (0: never).
    """

    surfaces: ClassVar[tuple[Surface, ...]]  # what it attacks in training

    @property
    def craft(self) -> Attack | None: ...

    @property
    def select(self) -> Literal["clean", "mean"]: ...  # the validation accuracy that picks the checkpoint

    def loss(self, learner: Any, episodes: Episodes, threat: Threat, rng: Streams) -> dict[str, Tensor]:
        """Return {term: [T]}; the sum over terms is what training minimises."""
        ...


@runtime_checkable
class TaskFamily(Protocol):
    """A frozen dataclass: where episodes come from.

    A preset of the catalog also has `name` (its own), and `default_network` with `default_network_options` for recipes
    that name none. Where an input has several labels, as `space` says, it is a `Transducer`, too. Optional: a field
    `root` (a Path or None) that takes `--data-root`; `sources` for `rbm data get`; `pool(split)`, the images by class,
    on which `transfer` trains;
    `tells`, a text of what decides results besides episodes, such as the user's own list of synonyms;
    `takes`, what a folder of the user's own holds, where it reads one; `deal(split)` and `stock(split, ways)`, what
    `rbm data check` says of a folder's files: which each split has, and a line for what each serves;
    `duplicates = True` where the source itself holds some images twice, so that support and query may share one.
    """

    @property
    def space(self) -> Box: ...

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the tasks numbered `indices`, each fixed by (family, split, seed, ways, number) alone."""
        ...

    def classes(self, split: Split) -> list[str]: ...


@runtime_checkable
class Transducer(Protocol):
    """What a TaskFamily has besides where its learners write: classes are tokens, of which 0 ends a target."""

    def written(self, split: Split, spec: Spec, index: int, *, seed: int = 0) -> tuple[str, ...]:
        """Return the tokens of one task as words: one for each class, that of class 0 empty."""
        ...


@dataclass(frozen=True)
class Scene:
    """What is to be drawn of R rollouts, in the plane: the way [R,H+1,2], circles [...,3], and a body of J joints."""

    path: Tensor
    goal: Tensor  # [R,3], centre and radius
    obstacles: Tensor  # [R,C,3]
    body: Tensor  # [R,J,2], where it is at the end; J may be 0


@runtime_checkable
class Simulator(Protocol):
    """What a TaskFamily has besides where its learners act: classes are actions, observations are its inputs.

    R rollouts of `horizon` steps, W actions, s numbers of a state. A world is named tensors [R,...]; what is done with
    it is differentiable in state and in chosen [R,W], the shares of the actions.
    """

    @property
    def space(self) -> Box: ...

    @property
    def horizon(self) -> int: ...

    def trials(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Params:
        """Return the worlds of ways * queries rollouts of each task that `sample` returns: each [T,R,...]."""
        ...

    def start(self, world: Params) -> Tensor:
        """Return the first state of every rollout: [R,s]."""
        ...

    def observe(self, world: Params, state: Tensor) -> Tensor:
        """Return what is observed at state [R,s], inside the box: [R,*X]."""
        ...

    def advance(self, world: Params, state: Tensor, chosen: Tensor) -> Tensor:
        """Return the state [R,s] one step later."""
        ...

    def judge(self, world: Params, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return of states [R,H+1,s] the margins [R,F] of the conditions of success, each above 0 where it is met, and
        the returns [R]."""
        ...

    def scene(self, world: Params, states: Tensor) -> Scene:
        """Return what is to be drawn of states [R,H+1,s]."""
        ...


@dataclass(frozen=True)
class Cell:
    """One square of the grid; `key` in store.py hashes these fields. The task count is not among them."""

    checkpoint: str  # name
    weights: str  # SHA-256 of the weights, or of the learner's description
    algorithm: str
    defense: str
    norm_mode: str
    family: str
    episodes: str  # SHA-256 of the split's reference episodes
    split: Split
    spec: Spec
    steps: int | None
    attack: str
    attack_fields: str  # repr of the configured attack: a name in a table means one configuration
    threat: Threat
    seed: int


@dataclass(frozen=True)
class Record:
    """One task of a cell, as bits over its queries."""

    task: int
    clean: tuple[bool, ...]
    survived: tuple[bool, ...]  # right when clean and after the attack; of a corruption, right after it
    distance: float  # largest norm any item was moved by
    forwards: int
    backwards: int
    clean_return: float | None = None  # of rollouts, their mean
    attacked_return: float | None = None
    clean_tokens: float | None = None  # of sequences, the share of the targets' tokens that are right
    attacked_tokens: float | None = None
    clean_chrf: float | None = None  # of sequences, their mean chrF, from 0 to 1
    attacked_chrf: float | None = None


@dataclass(frozen=True)
class Audit:
    """What one row of a board is audited on, at the largest eps of its grid; `key` in store.py hashes these fields.

    `version` counts the changes of what an audit does: an audit of an older version is not taken for one of this.
    `surface` is never the support.
    """

    checkpoint: str  # name
    weights: str
    algorithm: str
    defense: str
    norm_mode: str
    family: str
    episodes: str
    split: Split
    spec: Spec
    steps: int | None
    norm: Norm
    eps: float
    seed: int
    version: int
    surface: Surface = "query"
