"""What our engine is timed against: the loops that users of other libraries write, labelled as what they are.

Meta-steps follow learn2learn's examples (whose sdist does not build on Python 3.11): a plain module, one task after
another, `autograd.grad`, a backward for each task. Attacks run per task on the adapted, frozen classifier:
foolbox with every knob set, a multi-targeted PGD written out, pyautoattack with K-1 targets. Nothing is fused, folded
or dropped, and memory keeps torch's default format. `peer(setup)` gives the other side of a case of timing.py.
Shapes: S support, Q query, C channels, N classes.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from robustbench_meta.networks import Conv4
from robustbench_meta.timing import Meter, NotThereError, Setup, Side, Values
from robustbench_meta.types import Episodes, Params, Threat

AQ_STEPS, AQ_STEP = 7, 2 / 255  # adversarial querying, arXiv 1910.00982
FEW_WAYS = {2: ["apgd-ce", "fab-t", "square"], 3: ["apgd-ce", "apgd-dlr", "fab-t", "square"]}

Start = Callable[[int, Tensor, float], Tensor]  # task, x [Q,C,H,W], eps -> where PGD begins


def peer(setup: Setup) -> Side:
    """Return the peer's side of a case, adapted as far as the case does not time adaptation."""
    network = setup.learner.network
    if not isinstance(network, Conv4) or network.order != "bn-relu":
        raise NotThereError(f"no peer for {network!r}")
    sides = {"meta-step": meta_step, "adapt": adapt, "attack": attack, "grid": grid}
    return sides[setup.case.kind](setup)


def uniform(task: int, x: Tensor, eps: float) -> Tensor:
    return x + torch.empty_like(x).uniform_(-eps, eps)


def meta_step(setup: Setup, start: Start = uniform) -> Side:
    """One meta-gradient over all tasks of a case, by the loop of its algorithm."""
    loops = {"maml": maml_losses, "fomaml": maml_losses, "anil": anil_losses}
    loops |= {"protonet": protonet_losses, "r2d2": r2d2_losses}
    losses = loops[setup.case.subject]

    def call(meter: Meter | None) -> Values:
        model = Plain(setup.learner.network, setup.learner.params, meter)
        for loss in losses(model, setup, start):
            (loss / setup.episodes.tasks).backward()  # task by task, as learn2learn's examples do
        return model.gradients()

    return call


def maml_losses(model: Plain, setup: Setup, start: Start) -> Iterator[Tensor]:
    """learn2learn's MAML: clone, adapt all parameters, the query loss; first_order leaves out create_graph."""
    second_order = setup.learner.meta_gradient == "exact"
    for task, (support_x, support_y, query_x, query_y) in enumerate(tasks(setup.episodes)):
        fast = dict(model.named_parameters())
        for _ in range(setup.learner.algorithm.steps or 0):
            loss = F.cross_entropy(functional_call(model, fast, (support_x,)), support_y)
            fast = updated(setup, fast, torch.autograd.grad(loss, list(fast.values()), create_graph=second_order))
        if setup.case.querying:
            frozen = {name: value.detach() for name, value in fast.items()}
            begin = start(task, query_x, setup.threat.eps)
            query_x = pgd(
                lambda x, f=frozen: functional_call(model, f, (x,)), query_x, query_y, setup.threat.eps, begin
            )
        yield F.cross_entropy(functional_call(model, fast, (query_x,)), query_y)


def anil_losses(model: Plain, setup: Setup, start: Start) -> Iterator[Tensor]:
    """learn2learn's ANIL: embed the support once, adapt the head on its features."""
    for task, (support_x, support_y, query_x, query_y) in enumerate(tasks(setup.episodes)):
        features = model.embed(support_x)
        head = cast(nn.Linear, model.head)
        weight, bias = head.weight, head.bias
        for _ in range(setup.learner.algorithm.steps or 0):
            loss = F.cross_entropy(F.linear(features, weight, bias), support_y)
            gradients = torch.autograd.grad(loss, [weight, bias], create_graph=True)
            weight, bias = updated(setup, {"weight": weight, "bias": bias}, gradients).values()
        if setup.case.querying:
            w, b = weight.detach(), bias.detach()
            begin = start(task, query_x, setup.threat.eps)
            query_x = pgd(lambda x, w=w, b=b: F.linear(model.embed(x), w, b), query_x, query_y, setup.threat.eps, begin)
        yield F.cross_entropy(F.linear(model.embed(query_x), weight, bias), query_y)


def protonet_losses(model: Plain, setup: Setup, start: Start) -> Iterator[Tensor]:
    """Class means of the embedded support, squared distances of the embedded queries."""
    for task, (support_x, support_y, query_x, query_y) in enumerate(tasks(setup.episodes)):
        means = class_means(model.embed(support_x), support_y)
        if setup.case.querying:
            frozen, begin = means.detach(), start(task, query_x, setup.threat.eps)
            query_x = pgd(lambda x, m=frozen: -distances(model.embed(x), m), query_x, query_y, setup.threat.eps, begin)
        yield F.cross_entropy(-distances(model.embed(query_x), means), query_y)


def r2d2_losses(model: Plain, setup: Setup, start: Start) -> Iterator[Tensor]:
    """Ridge regression on the embedded support, scaled scores of the embedded queries."""
    ridge = cast(Ridge, model.head)
    for task, (support_x, support_y, query_x, query_y) in enumerate(tasks(setup.episodes)):
        head = ridge.solve(model.embed(support_x), support_y, setup.learner.ways)
        if setup.case.querying:
            frozen, begin = head.detach(), start(task, query_x, setup.threat.eps)
            query_x = pgd(
                lambda x, h=frozen: ridge.scores(model.embed(x), h), query_x, query_y, setup.threat.eps, begin
            )
        yield F.cross_entropy(ridge.scores(model.embed(query_x), head), query_y)


def pgd(scores: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float, begin: Tensor) -> Tensor:
    """The crafting loop of adversarial querying: 7 steps of 2/255 on the cross entropy, the last iterate."""
    x_adv = begin.clamp(0, 1)
    for _ in range(AQ_STEPS):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(scores(x_adv), y), x_adv)
        x_adv = (x_adv.detach() + AQ_STEP * gradient.sign()).clamp(0, 1)
        x_adv = (x + (x_adv - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv.detach()


def adapt(setup: Setup) -> Side:
    """Adapt to every task, one after another, as before an evaluation."""

    def call(meter: Meter | None) -> Values:
        rows = tasks(setup.episodes)
        fitted = [adapted(setup, x, y, steps=setup.learner.algorithm.steps, meter=meter) for x, y, _, _ in rows]
        return {"scale": torch.stack([cast(nn.BatchNorm2d, one.body[0][1]).running_mean for one in fitted])}

    return call


def attack(setup: Setup) -> Side:
    """Attack every task on its own adapted, frozen classifier."""
    ((name, knobs),) = setup.attacks.items()
    craft = crafting(name, knobs, setup.size.longest)
    episodes = list(tasks(setup.episodes))
    classifiers = [adapted(setup, x, y, steps=setup.steps) for x, y, _, _ in episodes]

    def call(meter: Meter | None) -> Values:
        rows = zip(classifiers, episodes, strict=True)
        found = [craft(one.counted(meter), x, y, setup.threat) for one, (_, _, x, y) in rows]
        return {"x_adv": torch.stack(found)}

    return call


def grid(setup: Setup) -> Side:
    """Every cell of the grid by itself: sample, adapt, attack and score each task anew."""
    axes, family = cast(Any, setup.axes), cast(Any, setup.family)
    learner = setup.learner
    cells = [
        (shots, steps, eps, name)
        for shots in axes.shots
        for steps in axes.steps or (None,)
        for eps in axes.eps
        for name in axes.attacks
    ]

    def call(meter: Meter | None) -> Values:
        clean, survived = [], []
        for shots, steps, eps, name in cells:
            craft = crafting(name, axes.attacks[name], setup.size.longest)
            for number in range(setup.size.attacked):
                spec = type(setup.size.spec)(learner.ways, shots, axes.queries)
                episodes = family.sample("test", spec, [number]).to(learner.device, learner.dtype)
                ((support_x, support_y, x, y),) = tasks(episodes)
                model = adapted(setup, support_x, support_y, steps=steps, meter=meter)
                x_adv = craft(model, x, y, Threat(setup.threat.norm, eps))
                with torch.no_grad():
                    right = model(x).argmax(-1) == y
                    stands = right & (model(x_adv).argmax(-1) == y)
                clean.append(right)
                survived.append(stands)
        return {"clean": torch.stack(clean), "survived": torch.stack(survived)}

    return call


Craft = Callable[["Plain", Tensor, Tensor, Threat], Tensor]  # classifier, x, y, threat -> x_adv [Q,C,H,W]


def crafting(name: str, knobs: Any, longest: int | None) -> Craft:
    """Return the peer of one of our attacks at its number of iterations."""
    if name == "fgsm":
        return foolbox("LinfFastGradientAttack", random_start=False)
    if name.startswith("pgd-mt-"):
        return lambda model, x, y, threat: multi_targeted(
            model, x, y, threat.eps, steps=knobs.steps, length=knobs.step * threat.eps, restarts=knobs.restarts
        )
    if name.startswith("pgd-"):
        return foolbox(
            "LinfPGD",
            rel_stepsize=knobs.step,
            abs_stepsize=None,
            steps=knobs.steps,
            random_start=knobs.start == "random",
        )
    return autoattack(None if name == "autoattack" else name, longest)


def foolbox(name: str, **knobs: Any) -> Craft:
    """foolbox's attack of that name on one task, at one budget."""
    try:
        from foolbox import attacks
        from foolbox.models.pytorch import PyTorchModel
    except ImportError as error:
        raise NotThereError(f"foolbox cannot be imported: {error}") from None

    def craft(model: Plain, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        wrapped = PyTorchModel(model, bounds=(0, 1), device=x.device)
        _, clipped, _ = getattr(attacks, name)(**knobs)(wrapped, x, y, epsilons=threat.eps)
        return cast(Tensor, clipped)

    return craft


def multi_targeted(
    model: Plain, x: Tensor, y: Tensor, eps: float, *, steps: int, length: float, restarts: int
) -> Tensor:
    """`pgd-mt-N` without dropping: the cross entropy, then each wrong class's margin; the worst iterate is kept."""
    with torch.no_grad():
        scores = model(x)
    ranked = scores.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :-1]
    best, highest = x.clone(), margins(scores, y)
    for restart in range(restarts):
        for target in [None, *ranked.T]:
            x_adv = x if restart == 0 else uniform(0, x, eps).clamp(0, 1)
            for step in range(steps + 1):
                x_adv = x_adv.detach().requires_grad_(step < steps)
                scores = model(x_adv)
                reached = margins(scores.detach(), y)
                better = reached > highest
                best[better], highest[better] = x_adv.detach()[better], reached[better]
                if step < steps:
                    gain = F.cross_entropy(scores, y, reduction="sum") if target is None else gap(scores, y, target)
                    (gradient,) = torch.autograd.grad(gain, x_adv)
                    x_adv = x + (x_adv.detach() + length * gradient.sign() - x).clamp(-eps, eps)
                    x_adv = x_adv.clamp(0, 1)
    return best


def margins(scores: Tensor, y: Tensor) -> Tensor:
    return scores.scatter(1, y[:, None], -torch.inf).amax(dim=1) - scores.gather(1, y[:, None]).squeeze(1)


def gap(scores: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return (scores.gather(1, target[:, None]) - scores.gather(1, y[:, None])).sum()


def autoattack(part: str | None, longest: int | None) -> Craft:
    """pyautoattack's standard version with K-1 targets; or one part of it, at the standard version's settings."""
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise NotThereError(f"pyautoattack cannot be imported: {error}") from None

    def craft(model: Plain, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        with torch.no_grad():
            ways = model(x[:1]).shape[-1]
        norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.norm]
        whole = AutoAttack(model, norm=norm, eps=threat.eps, version="standard", seed=0, device=x.device)
        whole.attacks_to_run = [part] if part else FEW_WAYS.get(ways, whole.attacks_to_run)
        for targeted in (whole.apgd_targeted, whole.fab):
            targeted.n_target_classes = min(targeted.n_target_classes, ways - 1)
        if longest is not None:
            for climb in (whole.apgd, whole.apgd_targeted):
                shorten(climb, longest)
            whole.fab.n_iter = min(whole.fab.n_iter, longest)
            whole.square.n_queries = min(whole.square.n_queries, longest)
        with quiet():
            x_adv, _ = whole.run_standard_evaluation(x, y, batch_size=250)
        return cast(Tensor, x_adv)

    return craft


def shorten(climb: Any, longest: int) -> None:
    """Give an APGD of pyautoattack fewer steps, and the schedule that it would have made for them."""
    steps = min(climb.n_iter, longest)
    climb.n_iter = climb.n_iter_orig = steps
    climb.n_iter_2, climb.n_iter_min, climb.size_decr = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pyautoattack's log from the table, and put back the tracer that its checks remove."""
    logger, tracer = logging.getLogger("auto-attack"), sys.gettrace()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.settrace(tracer)


class Plain(nn.Module):
    """Conv4 as everyone writes it: convolution with bias, BatchNorm2d by the batch's statistics, ReLU, max pooling."""

    def __init__(self, network: Conv4, params: Params, meter: Meter | None = None):
        super().__init__()
        self.depth, self.meter = network.depth, meter
        self.body = nn.Sequential(*(block(params, f"conv{b}") for b in range(network.depth)))
        self.head: nn.Module | None = None
        if "head.weight" in params:
            self.head = nn.Linear(*reversed(params["head.weight"].shape))
            self.head.weight.data, self.head.bias.data = params["head.weight"].clone(), params["head.bias"].clone()
        elif "ridge.scale" in params:
            self.head = Ridge(params)
        # Where a frozen classifier judges by what `finish` made of the support.
        self.means: Tensor | None = None
        self.ridge: Tensor | None = None

    def counted(self, meter: Meter | None) -> Plain:
        self.meter = meter
        return self

    def embed(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x).flatten(1)
        return self.meter.see(out) if self.meter else out

    def forward(self, x: Tensor) -> Tensor:
        features = self.embed(x)
        if self.means is not None:
            return -distances(features, self.means)
        if self.ridge is not None:
            return cast(Ridge, self.head).scores(features, self.ridge)
        return cast(Tensor, cast(nn.Linear, self.head)(features))

    def gradients(self) -> Values:
        """Name the gradients as our engine does, which leaves out a bias before batch norm: its gradient is zero."""
        found: Values = {}
        for b in range(self.depth):
            convolution, norm = cast(nn.Sequential, self.body[b])[0], cast(nn.Sequential, self.body[b])[1]
            found[f"conv{b}.weight"] = cast(Tensor, convolution.weight.grad)
            found[f"conv{b}.gamma"] = cast(Tensor, norm.weight.grad)
            found[f"conv{b}.beta"] = cast(Tensor, norm.bias.grad)
        prefix = "ridge" if isinstance(self.head, Ridge) else "head"
        heads = self.head.named_parameters() if self.head else ()
        return found | {f"{prefix}.{name}": cast(Tensor, value.grad) for name, value in heads}


def block(params: Params, name: str) -> nn.Sequential:
    kernel = params[f"{name}.weight"]
    into, out = kernel.shape[1], kernel.shape[0]
    convolution = nn.Conv2d(into, out, 3, padding=1, device=kernel.device, dtype=kernel.dtype)
    norm = nn.BatchNorm2d(out, track_running_stats=False, device=kernel.device, dtype=kernel.dtype)
    convolution.weight.data = kernel.detach().clone()
    convolution.bias.data = params.get(f"{name}.bias", kernel.new_zeros(out)).detach().clone()  # type: ignore[union-attr]
    norm.weight.data = params[f"{name}.gamma"].detach().clone()
    norm.bias.data = params[f"{name}.beta"].detach().clone()
    return nn.Sequential(convolution, norm, nn.ReLU(), nn.MaxPool2d(2))


class Ridge(nn.Module):
    """R2-D2's head (arXiv 1805.08136): a ridge regression whose lambda, scale and offset are learned."""

    def __init__(self, params: Params):
        super().__init__()
        self.log_lambda = nn.Parameter(params["ridge.log_lambda"].clone())
        self.scale = nn.Parameter(params["ridge.scale"].clone())
        self.offset = nn.Parameter(params["ridge.offset"].clone())

    def solve(self, features: Tensor, y: Tensor, ways: int) -> Tensor:
        identity = torch.eye(len(features), dtype=features.dtype, device=features.device)
        gram = features @ features.T + self.log_lambda.exp() * identity
        return features.T @ torch.linalg.solve(gram, F.one_hot(y, ways).to(features.dtype))

    def scores(self, features: Tensor, head: Tensor) -> Tensor:
        return self.scale * (features @ head) + self.offset


def adapted(setup: Setup, x: Tensor, y: Tensor, *, steps: int | None, meter: Meter | None = None) -> Plain:
    """Adapt to one task's support and freeze: batch norm in eval mode with the support's statistics."""
    learner = setup.learner
    model = Plain(cast(Conv4, learner.network), learner.params, meter)
    if isinstance(model.head, nn.Linear):
        moved = model.head if cast(Any, learner.algorithm).adapts == "head" else model
        for _ in range(steps or 0):
            parameters = list(moved.parameters())
            gradients = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
            with torch.no_grad():
                for value, gradient in zip(parameters, gradients, strict=True):
                    value -= cast(Any, learner.algorithm).step_size * gradient
    model.requires_grad_(False)
    features = freeze(model, x)
    if isinstance(model.head, Ridge):
        model.ridge = model.head.solve(features, y, learner.ways)
    elif model.head is None:
        model.means = class_means(features, y)
    return model.eval()


@torch.no_grad()
def freeze(model: Plain, x: Tensor) -> Tensor:
    """Embed the support x [S,C,H,W] once and leave its statistics in each batch norm."""
    for one in model.body:
        convolution, norm, *rest = cast(nn.Sequential, one)
        h = convolution(x)
        # Not by momentum 1: that would keep the unbiased variance, and no support was ever normalised by it.
        norm.running_mean, norm.running_var = h.mean(dim=(0, 2, 3)), h.var(dim=(0, 2, 3), unbiased=False)
        norm.track_running_stats = True
        x = norm.eval()(h)
        for part in rest:
            x = part(x)
    if model.meter:
        model.meter.forwards += len(x)
    return x.flatten(1)


def updated(setup: Setup, values: dict[str, Any], gradients: Sequence[Tensor]) -> dict[str, Tensor]:
    rate = cast(Any, setup.learner.algorithm).step_size
    return {name: value - rate * g for (name, value), g in zip(values.items(), gradients, strict=True)}


def class_means(features: Tensor, y: Tensor) -> Tensor:
    return torch.stack([features[y == k].mean(dim=0) for k in y.unique()])


def distances(features: Tensor, means: Tensor) -> Tensor:
    return (features.unsqueeze(1) - means.unsqueeze(0)).pow(2).sum(dim=2)


def tasks(episodes: Episodes) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    return zip(episodes.support_x, episodes.support_y, episodes.query_x, episodes.query_y, strict=True)
