"""The task axis: authors write one task, the engine runs T of them and hands attacks a Victim.

T tasks, S support, Q query, P points, M items a point, L labels a point, N classes, X one input. The two
backends are equal: `loop` runs task after task, `vmap` maps them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from robustbench_meta.networks import EPSILON, BatchNorm
from robustbench_meta.types import (
    Algorithm,
    Attack,
    Backend,
    Box,
    Cost,
    Episodes,
    InputError,
    MetaGradient,
    NormMode,
    Params,
    Streams,
    Threat,
    Victim,
)


class Network(Protocol):
    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params: ...

    def features(self, shape: tuple[int, ...]) -> int: ...

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor: ...


@dataclass(frozen=True)
class Fitted:
    """T adapted learners: what changed (`state`), what `finish` added, and the statistics of the support."""

    state: Params  # each [T, ...]
    extra: Params  # each [T, ...]
    norm: Params  # each [T, C]

    def detach(self) -> Fitted:
        return Fitted(*({k: v.detach() for k, v in part.items()} for part in (self.state, self.extra, self.norm)))


@dataclass(frozen=True)
class Learner:
    """An algorithm with its meta-learned parameters, adapting and predicting for T tasks at once.

    `norm_mode` says by what `predict` normalises: the support's statistics after adaptation (`support`),
    meta-training's running ones (`running`), or the query batch's own (`batch`: transductive). Inner steps
    always normalise by the batch they are fed. `first-order` cuts the meta-gradient at the adapted values
    (FOMAML, arXiv 1703.03400 section 5.2) and belongs to training alone.
    """

    algorithm: Algorithm
    network: Network
    params: Params
    space: Box
    ways: int
    norm_mode: NormMode = "support"
    running: Params = field(default_factory=dict)
    backend: Backend = "loop"
    meta_gradient: MetaGradient = "exact"
    differentiable: bool = True

    @property
    def steps(self) -> int | None:
        """The default number of inner steps; None where adaptation has none."""
        return self.algorithm.steps

    @property
    def device(self) -> torch.device:
        return next(iter(self.params.values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.params.values())).dtype

    def adapt(self, x: Tensor, y: Tensor, *, steps: int | None = None) -> Fitted:
        """Learn T tasks from x [T,S,*X], y [T,S]; differentiable in x and in the parameters."""
        steps = self.algorithm.steps if steps is None else steps
        count = 0 if self.algorithm.steps is None or steps is None else steps
        state, extra, norm = self._map(lambda x, y: self._adapt_one(x, y, count), x, y)
        return Fitted(state, extra, norm)

    def predict(self, fitted: Fitted, x: Tensor) -> Tensor:
        """Score x [T,Q,*X] with each task's own learner: [T,Q,N]."""
        return self._map(self._predict_one, x, fitted.state, fitted.extra, fitted.norm)

    def query_victim(self, fitted: Fitted, x: Tensor, y: Tensor) -> Victim:
        """Expose the adapted, frozen learners to an attack on their queries x [T,Q,*X], y [T,Q]."""
        frozen, learner = fitted.detach(), self.detach()
        if self.norm_mode == "batch":

            def together(x_adv: Tensor, points: Tensor) -> Tensor:
                return learner.predict(_take(frozen, points), x_adv)

            return _victim(together, x, y, self.space, tasks=len(x))

        def alone(x_adv: Tensor, points: Tensor) -> Tensor:
            return learner._predict_points(frozen, x_adv.squeeze(1), points // x.shape[1]).unsqueeze(1)

        return _victim(alone, x.flatten(0, 1).unsqueeze(1), y.flatten().unsqueeze(1), self.space, tasks=len(x))

    def support_victim(self, episodes: Episodes, *, steps: int | None = None) -> Victim:
        """Expose adaptation itself: the support is under attack, the adapted learner judged on the proxies."""
        if episodes.proxy_x is None or episodes.proxy_y is None:
            raise InputError("proxies: 0 leaves an attack on the support nothing to judge by; give at least 1")
        proxy_x, support_y, learner = episodes.proxy_x, episodes.support_y, self.detach()

        def forward(x_adv: Tensor, points: Tensor) -> Tensor:
            fitted = learner.adapt(x_adv, support_y[points], steps=steps)
            return learner.predict(fitted, proxy_x[points])

        return _victim(forward, episodes.support_x, episodes.proxy_y, self.space, tasks=episodes.tasks)

    def detach(self) -> Learner:
        """Cut the parameters from training's graph; adaptation stays differentiable in its inputs."""
        return replace(self, params={k: v.detach() for k, v in self.params.items()}, meta_gradient="exact")

    def _adapt_one(self, x: Tensor, y: Tensor, steps: int) -> tuple[Params, Params, Params]:
        algorithm, params, inner = self.algorithm, self.params, self._net(self._batch_norm)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.meta_gradient == "exact"):
            state = algorithm.start(inner, params)
            for _ in range(steps):
                state = algorithm.step(inner, params, state, x, y)
        if self.meta_gradient == "first-order":
            state = {name: params[name] + (value - params[name]).detach() for name, value in state.items()}
        adapted = {**params, **state}
        recorder = _Recorder()
        if self.norm_mode == "running":
            extra = algorithm.finish(self._net(self.running), adapted, x, y, self.ways)
        else:
            extra = algorithm.finish(self._net(recorder), adapted, x, y, self.ways)
        if not recorder.statistics and self.norm_mode != "running":
            self.network(adapted, x, recorder)
        return state, extra, recorder.statistics

    def _predict_one(self, x: Tensor, state: Params, extra: Params, norm: Params) -> Tensor:
        norms: dict[NormMode, Params | BatchNorm] = {
            "support": norm,
            "running": self.running,
            "batch": self._batch_norm,
        }
        net = self._net(norms[self.norm_mode])
        return self.algorithm.predict(net, {**self.params, **state}, extra, x)

    def _predict_points(self, fitted: Fitted, x: Tensor, tasks: Tensor) -> Tensor:
        """Score rows x [P',*X], row p by the learner of task tasks[p]: [P',N]."""
        order = tasks.argsort(stable=True)
        present, row_of, counts = tasks[order].unique_consecutive(return_inverse=True, return_counts=True)
        if self.backend == "loop":
            rows = zip(present.tolist(), x[order].split(counts.tolist()), strict=True)
            parts = [self._predict_one(_channels_last(part), *_pick(fitted, task)) for task, part in rows]
            return torch.cat(parts)[order.argsort()]
        # Mapped code needs equal counts: pad every task that has points to the most, read back the real rows.
        slot = torch.arange(len(tasks), device=x.device) - (counts.cumsum(0) - counts)[row_of]
        padded = x.new_zeros(len(present), int(counts.max()), *x.shape[1:]).index_put((row_of, slot), x[order])
        return self.predict(_take(fitted, present), padded)[row_of, slot][order.argsort()]

    def _net(self, norm: Params | BatchNorm) -> _Net:
        return _Net(self.network, norm)

    @property
    def _batch_norm(self) -> BatchNorm:
        return _native if self.backend == "loop" else _decomposed

    def _map(self, one: Callable[..., Any], *batched: Any) -> Any:
        if self.backend == "vmap":
            return vmap(one)(*batched)
        tasks = len(batched[0])
        rows = [one(*(_index(part, t) for part in batched)) for t in range(tasks)]
        return _stack(rows)


@dataclass(frozen=True)
class ObjectLearner:
    """A user's own object with adapt(x [S,*X], y [S]) -> fitted and predict(fitted, x [Q,*X]) -> scores [Q,N].

    Where scores carry no gradient to x, `differentiable` is False and only score-based attacks apply.
    """

    subject: Any
    space: Box
    ways: int
    differentiable: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    norm_mode: str = "own"
    steps: int | None = None

    def adapt(self, x: Tensor, y: Tensor, *, steps: int | None = None) -> list[Any]:
        """Learn T tasks from x [T,S,*X], y [T,S], one after another; the object may train by autograd."""
        with torch.enable_grad():
            return [self.subject.adapt(support, labels) for support, labels in zip(x, y, strict=True)]

    def predict(self, fitted: list[Any], x: Tensor) -> Tensor:
        """Score x [T,Q,*X]: [T,Q,N]."""
        return torch.stack([self._scores(one, queries) for one, queries in zip(fitted, x, strict=True)])

    def query_victim(self, fitted: list[Any], x: Tensor, y: Tensor) -> Victim:
        """Expose the adapted learners to an attack on their queries x [T,Q,*X], y [T,Q]."""
        queries = x.shape[1]

        def forward(x_adv: Tensor, points: Tensor) -> Tensor:
            tasks = points // queries
            order = tasks.argsort(stable=True)
            present, sizes = tasks[order].unique_consecutive(return_counts=True)
            rows = x_adv.squeeze(1)[order].split(sizes.tolist())
            parts = [self._scores(fitted[t], part) for t, part in zip(present.tolist(), rows, strict=True)]
            return torch.cat(parts)[order.argsort()].unsqueeze(1)

        flat_x, flat_y = x.flatten(0, 1).unsqueeze(1), y.flatten().unsqueeze(1)
        return _victim(forward, flat_x, flat_y, self.space, tasks=len(x), differentiable=self.differentiable)

    def support_victim(self, episodes: Episodes, *, steps: int | None = None) -> Victim:
        """Expose adaptation itself to an attack on the support, judged on the proxies."""
        if episodes.proxy_x is None or episodes.proxy_y is None:
            raise InputError("proxies: 0 leaves an attack on the support nothing to judge by; give at least 1")
        proxy_x, support_y = episodes.proxy_x, episodes.support_y

        def forward(x_adv: Tensor, points: Tensor) -> Tensor:
            return self.predict(self.adapt(x_adv, support_y[points]), proxy_x[points])

        x, y = episodes.support_x, episodes.proxy_y
        return _victim(forward, x, y, self.space, tasks=episodes.tasks, differentiable=self.differentiable)

    def _scores(self, fitted: Any, x: Tensor) -> Tensor:
        scores = torch.as_tensor(self.subject.predict(fitted, x if self.differentiable else x.detach()))
        if scores.shape != (len(x), self.ways):
            raise InputError(f"predict: scores of shape {tuple(scores.shape)}, not ({len(x)}, {self.ways})")
        return scores.to(self.dtype)


def has_gradient(learner: ObjectLearner, episodes: Episodes) -> bool:
    """Say whether the object's scores carry a gradient to the queries, by trying one task."""
    query = episodes.query_x[:1].clone().requires_grad_()
    try:
        with torch.enable_grad():
            scores = learner.predict(learner.adapt(episodes.support_x[:1], episodes.support_y[:1]), query)
            if not scores.requires_grad:
                return False
            (gradient,) = torch.autograd.grad(scores.sum(), query, allow_unused=True)
    except (RuntimeError, TypeError):  # for one, x.numpy() of a tensor that requires grad
        return False
    return gradient is not None


def depends_on_batch(learner: ObjectLearner, episodes: Episodes) -> bool:
    """Say whether a query's scores change by more than 1e-4 of their range when its batch-mates go.

    Such a learner is transductive: attacked query by query, it would meet batches that it is not scored on.
    """
    fitted = learner.adapt(episodes.support_x[:1], episodes.support_y[:1])
    with torch.no_grad():
        together, again = (learner.predict(fitted, episodes.query_x[:1]) for _ in range(2))
        alone = learner.predict(fitted, episodes.query_x[:1, :1])
    limit = 1e-4 * (together.max() - together.min())
    random = (together - again).abs().max() > limit  # which says nothing about its batch-mates
    return not random and bool((together[:, :1] - alone).abs().max() > limit)


def craft(
    learner: Learner, fitted: Fitted, x: Tensor, y: Tensor, *, attack: Attack, threat: Threat, rng: Streams
) -> Tensor:
    """Attack x [T,Q,*X] against the adapted learners; the result, like x, is a constant of any gradient.

    Raise InputError where the attack does not serve the norm, or needs queries that are judged alone.
    """
    if threat.norm not in attack.norms:
        raise InputError(f"norm: {threat.norm!r} is not served by {attack!r}; legal: {', '.join(attack.norms)}")
    if attack.needs_single_points and learner.norm_mode == "batch":
        raise InputError(f"norm_mode: 'batch' judges queries together, which {type(attack).__name__} cannot attack")
    return attack(learner.query_victim(fitted, x, y), threat, rng).detach().view(x.shape)


def start_params(algorithm: Algorithm, network: Network, space: Box, ways: int, rng: torch.Generator) -> Params:
    """Draw all meta-parameters: the network's and the algorithm's own."""
    params = network.parameters(space.shape, rng)
    return {**params, **algorithm.parameters(network.features(space.shape), ways, rng)}


@dataclass(frozen=True)
class _Net:
    network: Network
    norm: Params | BatchNorm

    def __call__(self, weights: Params, x: Tensor) -> Tensor:
        return self.network(weights, x, self.norm)


class _Recorder:
    """Normalises by the batch and keeps its statistics, in plain arithmetic so that it maps and differentiates."""

    def __init__(self) -> None:
        self.statistics: Params = {}

    def __call__(self, name: str, h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        mean, var = _moments(h)
        self.statistics = {**self.statistics, f"{name}.mean": mean, f"{name}.var": var}
        return _apply(h, gamma, beta, mean, var)


class _Metered(torch.autograd.Function):
    """The identity on x, counting rows that come back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, cost: Cost) -> Tensor:
        ctx.rows, ctx.cost = rows, cost
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> Any:
        ctx.cost.backwards.add_(ctx.rows)
        return grad[0], None, None


def _victim(
    forward: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    space: Box,
    *,
    tasks: int,
    differentiable: bool = True,
) -> Victim:
    cost = Cost(torch.zeros(tasks, dtype=torch.int64), torch.zeros(tasks, dtype=torch.int64))
    each = len(x) // tasks

    def metered(x_adv: Tensor, points: Tensor) -> Tensor:
        rows = torch.bincount(points.cpu() // each, minlength=tasks) * x_adv.shape[1]
        cost.forwards.add_(rows)
        return forward(_Metered.apply(x_adv, rows, cost) if x_adv.requires_grad else x_adv, points)

    return Victim(metered, x, y, space, tasks, cost, differentiable)


def _native(name: str, h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.batch_norm(h, None, None, gamma, beta, training=True, eps=EPSILON)


def _decomposed(name: str, h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    # Native batch norm under second-order vmap gives wrong gradients without a word (torch 2.13).
    return _apply(h, gamma, beta, *_moments(h))


def _moments(h: Tensor) -> tuple[Tensor, Tensor]:
    mean = h.mean(dim=(0, 2, 3))
    return mean, (h - mean.view(-1, 1, 1)).square().mean(dim=(0, 2, 3))


def _apply(h: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    scale = gamma * torch.rsqrt(var + EPSILON)
    return h * scale.view(-1, 1, 1) + (beta - mean * scale).view(-1, 1, 1)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _index(part: Any, task: int) -> Any:
    if isinstance(part, dict):
        return {name: value[task] for name, value in part.items()}
    return _channels_last(part[task])


def _stack(rows: list[Any]) -> Any:
    if isinstance(rows[0], tuple):
        return tuple(_stack(list(column)) for column in zip(*rows, strict=True))
    if isinstance(rows[0], dict):
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return torch.stack(rows)


def _pick(fitted: Fitted, task: int) -> tuple[Params, Params, Params]:
    return (_index(fitted.state, task), _index(fitted.extra, task), _index(fitted.norm, task))


def _take(fitted: Fitted, tasks: Tensor) -> Fitted:
    return Fitted(*({k: v[tasks] for k, v in part.items()} for part in (fitted.state, fitted.extra, fitted.norm)))
