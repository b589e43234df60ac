"""The task axis: authors write one task, the engine runs T of them and hands attacks a Victim.

T tasks, S support, Q query, P points, M items a point, L labels a point, N classes, X one input. Where an input has
several labels, as `space.labels` says, rows of labels and scores are as many times those of inputs. The three
backends are equal: `loop` runs task after task, `vmap` maps them, `flat` sends all tasks through the part of the
network that they share as one batch and maps the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from robustbench_meta import poisoning
from robustbench_meta.kernels import EPSILON, batch_norm, scale_and_shift
from robustbench_meta.networks import BatchNorm, Embed
from robustbench_meta.rollouts import noise_space, roll
from robustbench_meta.sequences import judged
from robustbench_meta.types import (
    Algorithm,
    Attack,
    Backend,
    Box,
    Checked,
    Cost,
    Episodes,
    InputError,
    MetaGradient,
    NormMode,
    Params,
    Simulator,
    Streams,
    Threat,
    Victim,
)


class Network(Protocol):
    def parameters(self, shape: tuple[int, ...], rng: torch.Generator) -> Params: ...

    def features(self, shape: tuple[int, ...]) -> int: ...

    def __call__(self, weights: Params, x: Tensor, norm: Params | BatchNorm) -> Tensor: ...

    def freeze(self, weights: Params, norm: Params) -> Embed: ...

    def __hash__(self) -> int: ...


@runtime_checkable
class Writer(Protocol):
    """A Network that gives several rows for an input, one for each of its labels: [B,*X] -> [B*L,width]."""

    def labels(self, shape: tuple[int, ...]) -> int: ...


POISON = Threat("linf", 0.0, "support")  # all inputs of the support
Lift = Callable[[Callable[..., Any]], Callable[..., Any]]  # one task's function to that of T tasks, or itself
Score = Callable[[Tensor, Tensor], Tensor]  # rows [P',*X], tasks [P'] -> scores [P',N], or [P'*L,N] of L labels each
Normalise = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]  # h, gamma, beta -> h, mean, variance


@dataclass(frozen=True)
class Fitted:
    """T adapted learners: what changed (`state`), what `finish` added, and the statistics of the support."""

    state: Params  # each [T, ...]
    extra: Params  # each [T, ...]
    norm: Params  # each [T, C]; empty unless `predict` normalises by them

    def detach(self) -> Fitted:
        return Fitted(*({k: v.detach() for k, v in part.items()} for part in (self.state, self.extra, self.norm)))


@dataclass(frozen=True)
class Learner:
    """An algorithm with its meta-learned parameters, adapting and predicting for T tasks at once.

    `norm_mode` says by what `predict` normalises: the support's statistics after adaptation (`support`),
    meta-training's running ones (`running`), or the query batch's own (`batch`: transductive). Inner steps
    always normalise by the batch they are fed. `meta_gradient` belongs to training alone: `first-order` cuts it at
    the adapted values (FOMAML, arXiv 1703.03400 section 5.2); `recomputed` is the exact one in memory that does not
    grow with the steps, for one more forward pass a step; `displacement` is the way from the adapted values back
    (Reptile), which needs no gradient through adaptation.
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
        return self.rollout(x, y, [steps or 0])[0]

    def rollout(self, x: Tensor, y: Tensor, steps: Sequence[int]) -> list[Fitted]:
        """Learn T tasks once, keeping the learners at every count of `steps`, which must not fall."""
        counts = [0] * len(steps) if self.algorithm.steps is None else list(steps)
        if counts != sorted(counts) or counts[0] < 0:
            raise InputError(f"steps: {list(steps)} is not a list of whole numbers >= 0 in ascending order")
        if not x.shape[1]:  # without a support there is nothing to learn from, nor to normalise by
            return [Fitted(self.start(len(x)), {}, {}) for _ in counts]
        if self.backend != "loop":
            return [self._fitted(*parts) for parts in self._learn(x, y, counts, vmap)]
        tasks = [self._learn(_index(x, t), y[t], counts, _alone) for t in range(len(x))]
        return [self._fitted(*_stack(list(rows))) for rows in zip(*tasks, strict=True)]

    def start(self, tasks: int) -> Params:
        """Return what adaptation starts from, for each of T tasks: each [T,...]."""
        return {name: value.expand(tasks, *value.shape) for name, value in self._begin().items()}

    def step(self, state: Params, x: Tensor, y: Tensor) -> Params:
        """Take one inner step from `state` (each [T,...]) on x [T,S,*X], y [T,S], which may be others at every step."""
        if self.backend != "loop":
            return self._advance(state, x, y, (), steps=1, lift=vmap)
        rows = [(_index(state, t), _index(x, t), y[t]) for t in range(len(x))]
        return _stack([self._advance(*row, (), steps=1, lift=_alone) for row in rows])

    def finish(self, state: Params, x: Tensor, y: Tensor) -> Fitted:
        """Return T learners whose adaptation ended at `state`, normalising by x [T,S,*X] as if it were the support."""
        if self.backend != "loop":
            return self._fitted(*self._finish(state, x, y, vmap))
        return self._fitted(
            *_stack([self._finish(_index(state, t), _index(x, t), y[t], _alone) for t in range(len(x))])
        )

    def predict(self, fitted: Fitted, x: Tensor) -> Tensor:
        """Score x [T,Q,*X] with each task's own learner: [T,Q,N]."""
        if self._flat:
            features = self._features(x, fitted.norm)
            return vmap(self._predict_features)(features, fitted.state, fitted.extra)
        parts = (fitted.state, fitted.extra, fitted.norm)
        if self.backend == "loop":
            return torch.stack([self._predict_one(*(_index(part, t) for part in (x, *parts))) for t in range(len(x))])
        return vmap(self._predict_one)(x, *parts)

    def query_victim(self, fitted: Fitted, x: Tensor, y: Tensor, *, cost: Cost | None = None) -> Victim:
        """Expose the adapted, frozen learners to an attack on their queries x [T,Q,*X], y [T,Q]; it adds to `cost`."""
        if self.norm_mode == "batch":
            frozen, learner = fitted.detach(), self.detach()

            def together(x_adv: Tensor, points: Tensor) -> Tensor:
                return learner.predict(_take(frozen, points), x_adv)

            return _victim(together, x, y, self.space, tasks=len(x), cost=cost)
        return _alone_victim(self.scorer(fitted, len(x)), x, y, self.space, cost=cost)

    def scorer(self, fitted: Fitted, tasks: int) -> Score:
        """Return a function of rows x [P',*X] and the numbers of their tasks [P']: scores [P',N] by frozen learners."""
        frozen, learner = fitted.detach(), self.detach()
        if self.backend == "loop":
            return _by_task(cache(partial(learner._frozen, frozen)), tasks)
        return partial(learner._predict_points, frozen)

    def support_victim(self, episodes: Episodes, threat: Threat = POISON, *, steps: int | None = None) -> Victim:
        """Expose adaptation itself: the support is under attack, the adapted learner judged on the proxies."""
        return _support_victim(self.detach(), episodes, threat, steps)

    def detach(self) -> Learner:
        """Cut the parameters from training's graph; adaptation stays differentiable in its inputs."""
        return replace(self, params={k: v.detach() for k, v in self.params.items()}, meta_gradient="exact")

    def to(self, device: torch.device | str) -> Learner:
        """Move all tensors to `device`; the backend stays as it is."""
        params, running = ({k: v.to(device) for k, v in part.items()} for part in (self.params, self.running))
        return replace(self, params=params, running=running)

    def _fitted(self, state: Params, extra: Params, norm: Params) -> Fitted:
        """Let the algorithm judge what it found, which mapped code cannot."""
        if isinstance(self.algorithm, Checked):
            self.algorithm.check(extra)
        return Fitted(state, extra, norm)

    def _learn(self, x: Tensor, y: Tensor, counts: list[int], lift: Lift) -> list[tuple[Params, Params, Params]]:
        """Adapt to x [S,*X], y [S], or with `lift` = vmap to T such tasks: state, extra and norm at every count."""
        inner, final, norm = self._shared_embedding(x, lift) if self._shares_body else ((), (), {})
        state = self.start(len(x)) if lift is vmap else self._begin()
        found, done = [], 0
        for count in counts:
            state = self._advance(state, x, y, inner, steps=count - done, lift=lift)
            done = count
            attached, extra, recorded = self._finish(state, x, y, lift, *final)
            found.append((attached, extra, norm or recorded))
        return found

    def _finish(self, state: Params, x: Tensor, y: Tensor, lift: Lift, *known: Tensor) -> tuple[Params, Params, Params]:
        if self.meta_gradient == "first-order":
            state = {name: self.params[name] + (v - self.params[name]).detach() for name, v in state.items()}
        return (state, *lift(self._finish_one)(state, x, y, *known))

    def _advance(
        self, state: Params, x: Tensor, y: Tensor, known: tuple[Tensor, ...], *, steps: int, lift: Lift
    ) -> Params:
        def step(params: Params, state: Params, x: Tensor, *known: Tensor) -> Params:
            norm = self._by_batch_twice if torch.is_grad_enabled() else self._by_batch

            def one(state: Params, x: Tensor, y: Tensor, *known: Tensor) -> Params:
                net = _Net(self.network, norm, self._body(params), x, known)
                return self.algorithm.step(net, params, state, x, y)

            return lift(one)(state, x, y, *known)

        if self.meta_gradient == "recomputed" and torch.is_grad_enabled():
            return recomputed(step, self.params, state, (x, *known), steps=steps)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.meta_gradient != "first-order"):
            for _ in range(steps):
                state = step(self.params, state, x, *known)
        return state

    def _finish_one(self, state: Params, x: Tensor, y: Tensor, *known: Tensor) -> tuple[Params, Params]:
        adapted, recorder = {**self.params, **state}, _Recorder(self._normalise)
        net = _Net(self.network, self._norm(recorder), self._body(self.params), x, known)
        extra = self.algorithm.finish(net, adapted, x, y, self.ways)
        if self.norm_mode == "support" and not known and not recorder.statistics:
            self.network(adapted, x, recorder)
        return extra, recorder.statistics

    def _predict_one(self, x: Tensor, state: Params, extra: Params, norm: Params) -> Tensor:
        return self.algorithm.predict(_Net(self.network, self._norm(norm)), {**self.params, **state}, extra, x)

    def _predict_features(self, features: Tensor, state: Params, extra: Params) -> Tensor:
        net = _Embedded(self._body(self.params))
        return self.algorithm.predict(net, {**self.params, **state}, extra, features)

    def _frozen(self, fitted: Fitted, task: int) -> Callable[[Tensor], Tensor]:
        """Return x [b,*X] -> scores [b,N] of one adapted learner, with all that is constant worked out before."""
        state, extra, norm = (_index(part, task) for part in (fitted.state, fitted.extra, fitted.norm))
        adapted = {**self.params, **state}
        norm = self.running if self.norm_mode == "running" else norm
        net = _Frozen(self.network, norm, self._body(adapted), self.network.freeze(adapted, norm))
        return lambda x: self.algorithm.predict(net, adapted, extra, _channels_last(x))

    def _predict_points(self, fitted: Fitted, x: Tensor, tasks: Tensor) -> Tensor:
        """Score rows x [P',*X], row p by the learner of task tasks[p]: [P',N]."""
        if self._flat:
            x = self._embed_rows(x, fitted.norm, tasks).unflatten(0, (len(x), -1))
        # Mapped code needs equal counts: pad every task that has points to the most, read back the real rows.
        order = tasks.argsort(stable=True)
        present, row_of, counts = tasks[order].unique_consecutive(return_inverse=True, return_counts=True)
        slot = torch.arange(len(tasks), device=x.device) - (counts.cumsum(0) - counts)[row_of]
        padded = x.new_zeros(len(present), int(counts.max()), *x.shape[1:]).index_put((row_of, slot), x[order])
        here = _take(fitted, present)
        if self._flat:
            scores = vmap(self._predict_features)(padded.flatten(1, 2), here.state, here.extra)
        else:
            scores = self.predict(here, padded)
        return scores.unflatten(1, (padded.shape[1], -1))[row_of, slot][order.argsort()].flatten(0, 1)

    @property
    def _shares_body(self) -> bool:
        """Whether no parameter of the network changes in adaptation, so that one embedding serves all inner steps."""
        return not self._begin().keys() & self._body(self.params).keys()

    def _begin(self) -> Params:
        return self.algorithm.start(_Net(self.network, self._by_batch), self.params)

    def _body(self, params: Params) -> Params:
        """Pick the network's own parameters."""
        return {name: params[name] for name in _body_names(self.network, self.space.shape)}

    @property
    def _flat(self) -> bool:
        return self.backend == "flat" and self._shares_body

    def _shared_embedding(self, x: Tensor, lift: Lift) -> tuple[tuple[Tensor], tuple[Tensor], Params]:
        """Embed a support for the inner steps and for `finish`, with its statistics where `predict` needs them."""

        def by_itself(x: Tensor) -> tuple[Tensor, Params]:
            recorder = _Recorder(self._normalise)
            return self.network(self.params, x, recorder), recorder.statistics

        if self.backend == "flat":
            recorder = _Recorder(partial(_decomposed_by_task, tasks=len(x)))
            inner, norm = self._embed(x, recorder), recorder.statistics
        else:
            inner, norm = lift(by_itself)(x)
        if self.norm_mode != "running":
            return (inner,), (inner,), norm if self.norm_mode == "support" else {}
        final = lift(lambda x: self.network(self.params, x, self.running))(x)
        return (inner,), (final,), {}

    def _features(self, x: Tensor, norm: Params) -> Tensor:
        """Embed queries x [T,Q,*X] in one batch through the shared body: [T,Q,width]."""
        if self.norm_mode == "batch":
            return self._embed(x, _Recorder(partial(_decomposed_by_task, tasks=len(x))))
        tasks = torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])
        return self._embed_rows(x.flatten(0, 1), norm, tasks).unflatten(0, (len(x), -1))

    def _embed(self, x: Tensor, norm: BatchNorm) -> Tensor:
        return self.network(self.params, x.flatten(0, 1), norm).unflatten(0, (len(x), -1))

    def _embed_rows(self, x: Tensor, norm: Params, tasks: Tensor) -> Tensor:
        """Embed rows x [B,*X], row b normalised by the statistics of task tasks[b]."""
        if self.norm_mode == "running":
            return self.network(self.params, x, self.running)

        def given(name: str, h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
            scale, shift = scale_and_shift(gamma, beta, norm[f"{name}.mean"], norm[f"{name}.var"])
            return torch.addcmul(shift[tasks][..., None, None], h, scale[tasks][..., None, None])

        return self.network(self.params, x, given)

    def _norm(self, support: Params | BatchNorm) -> Params | BatchNorm:
        """Pick what `finish` and `predict` normalise by; `support` stands for the support's statistics."""
        norms: dict[NormMode, Params | BatchNorm] = {
            "support": support,
            "running": self.running,
            "batch": self._by_batch,
        }
        return norms[self.norm_mode]

    def _by_batch(self, name: str, h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        if self.backend == "loop":
            return F.batch_norm(h, None, None, gamma, beta, training=True, eps=EPSILON)
        return _decomposed(h, gamma, beta)[0]

    def _by_batch_twice(self, name: str, h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """The same, at less cost where its gradient is differentiated again."""
        return self._normalise(h, gamma, beta)[0]

    @property
    def _normalise(self) -> Normalise:
        return batch_norm if self.backend == "loop" else _decomposed


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
    backend: Backend = "loop"

    def adapt(self, x: Tensor, y: Tensor, *, steps: int | None = None) -> list[Any]:
        """Learn T tasks from x [T,S,*X], y [T,S], one after another; the object may train by autograd."""
        with torch.enable_grad():
            return [self.subject.adapt(support, labels) for support, labels in zip(x, y, strict=True)]

    def predict(self, fitted: list[Any], x: Tensor) -> Tensor:
        """Score x [T,Q,*X]: [T,Q,N]."""
        return torch.stack([self._scores(one, queries) for one, queries in zip(fitted, x, strict=True)])

    def query_victim(self, fitted: list[Any], x: Tensor, y: Tensor, *, cost: Cost | None = None) -> Victim:
        """Expose the adapted learners to an attack on their queries x [T,Q,*X], y [T,Q]; it adds to `cost`."""
        score = self.scorer(fitted, len(x))
        return _alone_victim(score, x, y, self.space, differentiable=self.differentiable, cost=cost)

    def scorer(self, fitted: list[Any], tasks: int) -> Score:
        """Return a function of rows x [P',*X] and the numbers of their tasks [P']: scores [P',N]."""

        def one(task: int) -> Callable[[Tensor], Tensor]:
            return lambda rows: self._scores(fitted[task], rows)

        return _by_task(one, tasks)

    def support_victim(self, episodes: Episodes, threat: Threat = POISON, *, steps: int | None = None) -> Victim:
        """Expose adaptation itself to an attack on the support, judged on the proxies."""
        return _support_victim(self, episodes, threat, steps)

    def _scores(self, fitted: Any, x: Tensor) -> Tensor:
        found = self.subject.predict(fitted, x if self.differentiable else x.detach())
        try:
            scores = torch.as_tensor(found)
        except (RuntimeError, TypeError, ValueError):
            raise InputError(f"predict: returned {type(found).__name__}, not scores") from None
        if scores.shape != (rows := len(x) * self.space.labels, self.ways):
            raise InputError(f"predict: scores of shape {tuple(scores.shape)}, not ({rows}, {self.ways})")
        return scores.to(self.dtype)


def rollout_victim(learner: Learner | ObjectLearner, fitted: Any, simulator: Simulator, worlds: Params) -> Victim:
    """Expose rollouts of adapted, frozen policies, worlds [T,R,...], to an attack on what they observe at every step.

    A point is a rollout, its item the noise [H,*X], its label 0: it succeeds. The gradient goes through the simulator.
    """
    tasks, each = next(iter(worlds.values())).shape[:2]
    flat, space = {name: value.flatten(0, 1) for name, value in worlds.items()}, noise_space(simulator)
    score = learner.scorer(fitted, tasks)

    def forward(noise: Tensor, points: Tensor) -> Tensor:
        here = {name: value[points] for name, value in flat.items()}
        return roll(simulator, lambda seen: score(seen, points // each), here, noise.squeeze(1)).scores.unsqueeze(1)

    still = torch.zeros(tasks * each, 1, *space.shape, device=learner.device, dtype=learner.dtype)
    success = torch.zeros(tasks * each, 1, dtype=torch.int64, device=learner.device)
    return _victim(forward, still, success, space, tasks=tasks, differentiable=learner.differentiable)


def policy_victim(
    learner: Learner | ObjectLearner, fitted: Any, x: Tensor, scores: Tensor, cost: Cost | None = None
) -> Victim:
    """Expose adapted, frozen policies to an attack on what they observe now, x [T,R,*X]; scores [T,R,N] are clean ones.

    Class 1 is the action that the policy likes least of all (arXiv 1712.03632), class 0 every other: to be led to the
    next best one, as by an attack on the label alone, costs a policy little. A score of class 0 is the log of the sum.
    """
    victim = learner.query_victim(fitted, x, scores.argmax(dim=-1), cost=cost)
    worst = scores.argmin(dim=-1).flatten()

    def forward(x_adv: Tensor, points: Tensor) -> Tensor:
        found, last = victim.forward(x_adv, points), worst[points].view(-1, 1, 1)
        others = found.scatter(2, last, -torch.inf).logsumexp(dim=2, keepdim=True)
        return torch.cat([others, found.gather(2, last)], dim=2)

    return replace(victim, forward=forward, y=torch.zeros_like(victim.y))


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


def craft_inner(
    learner: Learner, state: Params, x: Tensor, y: Tensor, *, attack: Attack, threat: Threat, rng: Streams
) -> Tensor:
    """Attack what the next inner step is fed, x [T,S,*X], against the learners as they stand at `state`."""
    with torch.no_grad():
        fitted = learner.finish(state, x, y)
    return craft(learner, fitted, x, y, attack=attack, threat=threat, rng=rng)


def start_params(algorithm: Algorithm, network: Network, space: Box, ways: int, rng: torch.Generator) -> Params:
    """Draw all meta-parameters: the network's and the algorithm's own.

    Raise InputError where the network does not write as many tokens as the space has labels.
    """
    given = network.labels(space.shape) if isinstance(network, Writer) else 1
    if given != space.labels:
        raise InputError(f"network: gives {given} labels for an input, and these inputs have {space.labels}")
    body = network.parameters(space.shape, rng)
    return {**body, **algorithm.parameters(body, network.features(space.shape), ways, rng)}


def recomputed(
    step: Callable[..., Params], params: Params, state: Params, inputs: tuple[Tensor, ...], *, steps: int
) -> Params:
    """Take `steps` steps, keeping the states alone; going backward, each step is taken again, one at a time.

    The exact gradient by params, state and inputs of step(params, state, *inputs): one Hessian-vector product a step,
    in the memory of one step whatever their number.
    """
    names = list(state)

    def flat(values: Sequence[Tensor], rest: Sequence[Tensor]) -> tuple[Tensor, ...]:
        given = dict(zip(params, rest[: len(params)], strict=True))
        after = step(given, dict(zip(names, values, strict=True)), *rest[len(params) :])
        return tuple(after[name] for name in names)

    if not (steps and names):
        return state
    values = _Recomputed.apply(flat, steps, len(names), *state.values(), *params.values(), *inputs)
    return dict(zip(names, values, strict=True))


class _Recomputed(torch.autograd.Function):
    """A chain of steps on `width` tensors of state, which each also read the other tensors."""

    @staticmethod
    def forward(ctx: Any, step: Callable[..., tuple[Tensor, ...]], steps: int, width: int, *tensors: Tensor) -> Any:
        state, rest = tensors[:width], tensors[width:]
        kept: list[Tensor] = []
        for _ in range(steps):
            kept += state
            state = step(state, rest)
        ctx.step, ctx.width, ctx.rest = step, width, len(rest)
        ctx.save_for_backward(*rest, *kept)
        return state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        width = ctx.width
        rest, kept = ctx.saved_tensors[: ctx.rest], ctx.saved_tensors[ctx.rest :]
        wanted = [index for index, needed in enumerate(ctx.needs_input_grad[3 + width :]) if needed]
        totals: list[Tensor | None] = [None] * len(rest)
        for at in range(len(kept) - width, -1, -width):
            with torch.enable_grad():
                state = [value.detach().requires_grad_() for value in kept[at : at + width]]
                others = [value.detach().requires_grad_(index in wanted) for index, value in enumerate(rest)]
                after = ctx.step(state, others)
            grads = torch.autograd.grad(after, [*state, *(others[i] for i in wanted)], upstream, allow_unused=True)
            upstream = tuple(
                torch.zeros_like(value) if grad is None else grad
                for value, grad in zip(state, grads[:width], strict=True)
            )
            for index, grad in zip(wanted, grads[width:], strict=True):
                if grad is not None:
                    before = totals[index]
                    totals[index] = grad if before is None else before + grad
        return None, None, None, *upstream, *totals


@dataclass(frozen=True)
class _Net:
    """A network with its normalisation, which need not embed x again where `known` holds its embedding by `body`."""

    network: Network
    norm: Params | BatchNorm
    body: Params = field(default_factory=dict)
    x: Tensor | None = None
    known: tuple[Tensor, ...] = ()

    def __call__(self, weights: Params, x: Tensor) -> Tensor:
        if self.known and x is self.x and _unchanged(weights, self.body):
            return self.known[0]
        return self.network(weights, x, self.norm)


@dataclass(frozen=True)
class _Embedded:
    """The network of a learner whose inputs were embedded beforehand by `body`: it hands them through."""

    body: Params

    def __call__(self, weights: Params, x: Tensor) -> Tensor:
        if not _unchanged(weights, self.body):
            raise InputError("backend: 'flat' embeds by the network's own weights, which predict has changed; use vmap")
        return x


@dataclass(frozen=True)
class _Frozen:
    """A network frozen with the weights `body`; with any others it goes the ordinary way."""

    network: Network
    norm: Params
    body: Params
    embed: Embed

    def __call__(self, weights: Params, x: Tensor) -> Tensor:
        return self.embed(x) if _unchanged(weights, self.body) else self.network(weights, x, self.norm)


class _Recorder:
    """Normalises by the batch and keeps its statistics."""

    def __init__(self, normalise: Normalise) -> None:
        self.normalise = normalise
        self.statistics: Params = {}

    def __call__(self, name: str, h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        normalised, mean, var = self.normalise(h, gamma, beta)
        self.statistics = {**self.statistics, f"{name}.mean": mean, f"{name}.var": var}
        return normalised


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


def _support_victim(learner: Learner | ObjectLearner, episodes: Episodes, threat: Threat, steps: int | None) -> Victim:
    """Put what is attacked of the support in its place, adapt to it, and judge by the proxies."""
    proxy_x, proxy_y = episodes.proxy_x, episodes.proxy_y
    if proxy_x is None or proxy_y is None:
        raise InputError("proxies: 0 leaves an attack on the support nothing to judge by; give at least 1")
    support = (episodes.support_x, episodes.support_y)
    items = poisoning.reached(episodes, threat.fraction, learner.ways)

    def forward(x_adv: Tensor, points: Tensor) -> Tensor:
        x, y = poisoning.poisoned((support[0][points], support[1][points]), x_adv, items, threat)
        fitted: Any = learner.adapt(x, y, steps=steps)
        return learner.predict(fitted, proxy_x[points])

    if threat.norm == "labels":
        labels = poisoning.labels_of(episodes, items, learner.ways)
        space = poisoning.alphabet(len(items), learner.ways)
        return _victim(forward, labels, proxy_y, space, tasks=episodes.tasks, differentiable=False)
    x, y = support[0][:, items], support[1][:, items]
    differentiable = not isinstance(learner, ObjectLearner) or learner.differentiable
    victim = _victim(forward, x, proxy_y, learner.space, tasks=episodes.tasks, differentiable=differentiable)

    def as_queries() -> Victim:
        with torch.no_grad():
            fitted: Any = learner.adapt(proxy_x, proxy_y, steps=steps)
        return learner.query_victim(fitted, x, y, cost=victim.cost)

    return replace(victim, as_queries=as_queries)


def _alone_victim(
    score: Score, x: Tensor, y: Tensor, space: Box, *, differentiable: bool = True, cost: Cost | None = None
) -> Victim:
    """Expose queries x [T,Q,*X] one by one, row p scored by the learner of its task."""
    queries = x.shape[1]

    def forward(x_adv: Tensor, points: Tensor) -> Tensor:
        return score(x_adv.squeeze(1), points // queries).unflatten(0, (len(points), -1))

    flat_x, flat_y = x.flatten(0, 1).unsqueeze(1), y.reshape(len(x) * queries, -1)
    return _victim(forward, flat_x, flat_y, space, tasks=len(x), differentiable=differentiable, cost=cost)


def _victim(
    forward: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    space: Box,
    *,
    tasks: int,
    differentiable: bool = True,
    cost: Cost | None = None,
) -> Victim:
    """Meter what is sent through `forward`; items of several labels are judged as wholes, by y [P,n*L]."""
    if space.labels > 1:
        written, targets = forward, y

        def forward(x_adv: Tensor, points: Tensor) -> Tensor:
            return judged(written(x_adv, points), targets[points], space.labels)[0]

        y = y.new_zeros(len(y), y.shape[1] // space.labels)
    cost = cost or Cost(*(torch.zeros(tasks, dtype=torch.int64, device=x.device) for _ in range(2)))
    each = len(x) // tasks

    def metered(x_adv: Tensor, points: Tensor) -> Tensor:
        # Counted where the points are, since asking a GPU for numbers would make it wait.
        rows = torch.zeros_like(cost.forwards)
        rows.index_add_(0, points // each, torch.full_like(points, x_adv.shape[1]))
        cost.forwards.add_(rows)
        return forward(_Metered.apply(x_adv, rows, cost) if x_adv.requires_grad else x_adv, points)

    return Victim(metered, x, y, space, tasks, cost, differentiable)


def _unchanged(weights: Params, body: Params) -> bool:
    return all(weights[name] is value for name, value in body.items())


def _by_task(one: Callable[[int], Callable[[Tensor], Tensor]], count: int) -> Score:
    """Score rows x [P',*X] task after task, row p by `one(tasks[p])`: [P',N]."""

    def score(x: Tensor, tasks: Tensor) -> Tensor:
        if count == 1:
            return one(0)(x)
        order = tasks.argsort(stable=True)
        present, sizes = tasks[order].unique_consecutive(return_counts=True)
        rows = x[order].split(sizes.tolist())
        found = torch.cat([one(task)(part) for task, part in zip(present.tolist(), rows, strict=True)])
        return found.unflatten(0, (len(x), -1))[order.argsort()].flatten(0, 1)

    return score


def _decomposed(h: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Native batch norm under second-order vmap gives wrong gradients without a word (torch 2.13).
    normalised, mean, var = _decomposed_by_task(h, gamma, beta, tasks=1)
    return normalised, mean.squeeze(0), var.squeeze(0)


def _decomposed_by_task(h: Tensor, gamma: Tensor, beta: Tensor, *, tasks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise h [T*B,C,H,W] by the statistics of each task: normalised h, mean [T,C], variance [T,C]."""
    rows = h.unflatten(0, (tasks, -1))
    mean = rows.mean(dim=(1, 3, 4))
    var = (rows - mean[:, None, :, None, None]).square().mean(dim=(1, 3, 4))
    scale, shift = scale_and_shift(gamma, beta, mean, var)
    normalised = rows * scale[:, None, :, None, None] + shift[:, None, :, None, None]
    return normalised.flatten(0, 1), mean, var


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@cache
def _body_names(network: Network, shape: tuple[int, ...]) -> frozenset[str]:
    return frozenset(network.parameters(shape, torch.Generator()))


def _channels_last(x: Tensor) -> Tensor:
    if x.dim() != 4:
        return x
    if x.shape[1] == 1:
        # With one channel both orders look alike, and torch would go on in the slower one.
        return x.reshape(len(x), *x.shape[2:], 1).movedim(3, 1)
    return x.contiguous(memory_format=torch.channels_last)


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


def _take(fitted: Fitted, tasks: Tensor) -> Fitted:
    return Fitted(*({k: v[tasks] for k, v in part.items()} for part in (fitted.state, fitted.extra, fitted.norm)))
