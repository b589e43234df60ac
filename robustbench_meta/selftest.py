"""Known answers: robust accuracies that are known before they are measured, K1 to K15, for `rbm selftest`.

Closed forms for linear learners; planted adversarial points after the binarisation test of Zimmermann et al. 2022
(arXiv 2206.13991, section 3); what order, labels, batching and a budget of 0 must leave as it is. Each answer goes the
way of a cell of a grid. Shapes: T tasks, S support, Q queries, N classes, D features, X = (C, H, W) one input.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta import audit, catalog, grid, maskers, statistics, store
from robustbench_meta.attacks.pgd import PGD
from robustbench_meta.engine import Learner, ObjectLearner, start_params
from robustbench_meta.evaluate import AnyLearner, CellError, run
from robustbench_meta.libraries import missing
from robustbench_meta.linear import Blobs, Pixels, box_distances, prototype_distances
from robustbench_meta.networks import Conv4
from robustbench_meta.planted import (
    ALIKE,
    COLOUR,
    EDGES,
    FLAT,
    GREY,
    MIDDLES,
    Bands,
    Coin,
    Constant,
    Corners,
    Lanes,
    Means,
    Misbehaving,
    Readout,
    Rearranged,
    Stairs,
    scribble,
    throw,
)
from robustbench_meta.types import (
    BACKENDS,
    NORMS,
    Attack,
    Backend,
    Cell,
    Episodes,
    InputError,
    Norm,
    Params,
    Record,
    Spec,
    Streams,
    TaskFamily,
    Threat,
    Victim,
)

BAND = 0.01  # of eps, within which an attack may miss the closed form
EDGE = 1e-4  # of eps, beyond which no attack may succeed
PLANTED = 75
NETWORK, BLOBS = Conv4(width=4, depth=2), Blobs()
PEERS: dict[Norm, tuple[str, ...]] = {"linf": ("foolbox:LinfPGD",), "l2": ("foolbox:L2PGD",)}
EPS = 0.005  # at which many queries of COLOUR stand and many fall


@dataclass(frozen=True)
class Finding:
    """What one known answer expects and what it found, over n verdicts or comparisons."""

    expected: str
    found: str
    n: int
    ok: bool


@dataclass(frozen=True)
class Answer:
    """One line of the table."""

    name: str
    what: str
    expected: str
    found: str
    n: int
    seconds: float
    ok: bool

    @property
    def verdict(self) -> str:
        return "ok" if self.ok else "MISSED"


@dataclass(frozen=True)
class Trial:
    """A learner on a few tasks of a family, attacked as a cell of a grid is."""

    learner: AnyLearner
    family: TaskFamily
    spec: Spec
    tasks: int = 1
    seed: int = 0

    @property
    def episodes(self) -> Episodes:
        return self.family.sample("test", self.spec, range(self.tasks), seed=self.seed)

    def records(self, attack: str | Attack, threat: Threat) -> list[Record]:
        made = catalog.attack(attack) if isinstance(attack, str) else attack
        cell = Cell(
            checkpoint="selftest",
            weights="selftest",
            algorithm="selftest",
            defense="standard",
            norm_mode=self.learner.norm_mode,
            family="selftest",
            episodes="selftest",
            split="test",
            spec=self.spec,
            steps=self.learner.steps,
            attack=repr(made),
            attack_fields=repr(made),
            threat=threat,
            seed=self.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a reference warns of the very things that are planted here
            return run(cell, self.learner, self.family, made, range(self.tasks)).records

    def survived(self, attack: str | Attack, threat: Threat) -> Tensor:
        """Return which queries are right before and after the attack: [T,Q]."""
        return torch.tensor([record.survived for record in self.records(attack, threat)])


def answers(
    only: Sequence[str] = (), *, fail_fast: bool = False, tell: Callable[[Answer], None] = lambda _: None
) -> list[Answer]:
    """Check every known answer, or those named; whatever one raises makes it a miss."""
    for name in only:
        if name not in KNOWN:
            raise InputError(f"only: {name!r} is unknown; legal: {', '.join(KNOWN)}")
    found: list[Answer] = []
    for name in [name for name in KNOWN if not only or name in only]:
        check, started = KNOWN[name], time.perf_counter()
        try:
            made = check()
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            made = Finding("no exception", f"{type(error).__name__}: {text}", 0, ok=False)
        what = check.__name__.replace("_", " ")
        seconds = time.perf_counter() - started
        found.append(Answer(name, what, made.expected, made.found, made.n, seconds, made.ok))
        tell(found[-1])
        if fail_fast and not made.ok:
            break
    return found


def table(found: Sequence[Answer]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows for people to read."""
    rows = [
        [one.name, one.what, one.expected, one.found, str(one.n), f"{one.seconds:.1f}", one.verdict] for one in found
    ]
    return ["", "what", "expected", "found", "n", "seconds", ""], rows


def linear_learners_fall_exactly_where_the_closed_form_says() -> Finding:
    """K1: clean and attacked verdicts of every query, except within 1 % of eps."""
    wrong = n = 0
    for ways in (2, 3, 4, 5, 10):
        for norm in NORMS:
            # No targeted DLR below 4 classes; in L1, 100 steps of APGD end up to 8 % short of the closed form.
            second = "apgd-t" if ways > 3 and norm != "l1" else "fab-t"
            for attack, seed in (("pgd-mt-20", 3), (second, 4)):
                trial = Trial(_prototypes(ways), BLOBS, Spec(ways, 5, 20 // ways + 2), seed=seed)
                distances = prototype_distances(trial.episodes, ways, norm)
                eps = _between(distances)
                records = trial.records(attack, Threat(norm, eps))
                clean = torch.tensor([record.clean for record in records])
                survived = torch.tensor([record.survived for record in records])
                clear = (distances / eps - 1).abs() > BAND
                wrong += int((clean != (distances > 0)).sum() + ((survived != (distances > eps)) & clear).sum())
                n += clean.numel() + int(clear.sum())
    return Finding("every verdict as computed", f"{wrong} others", n, wrong == 0)


def no_attack_succeeds_beyond_the_closed_form() -> Finding:
    """K2: a budget just short of a query's distance does not reach it, at the edge of the box either."""
    ways, fooled, n = 3, 0, 0
    inner = Trial(_prototypes(ways), BLOBS, Spec(ways, 5, 5), seed=1)
    edge = Trial(ObjectLearner(Means(), EDGES.space, ways), EDGES, Spec(ways, 5, 5), seed=1)
    for norm in NORMS:
        for trial in (inner, edge):
            found = prototype_distances(trial.episodes, ways, norm) if trial is inner else _edge_distances(trial, norm)
            eps = float(found[found > 0].median()) / (1 + 2 * EDGE)
            beyond = found > eps * (1 + EDGE)
            for attack in ("pgd-mt-20", "apgd-ce", "fab-t", "noise", *PEERS.get(norm, ())):
                survived = trial.survived(attack, Threat(norm, eps))
                fooled += int((beyond & ~survived).sum())
                n += int(beyond.sum())
    return Finding("no success beyond eps (1 + 1e-4)", f"{fooled} successes", n, fooled == 0)


def a_budget_of_zero_changes_nothing() -> Finding:
    """K3: bit for bit, for every attack of the catalog, norm and surface."""
    learner, spec = _convolutional("protonet", dtype=torch.float32), Spec(3, 2, 1, 1)
    tasks = COLOUR.sample("test", spec, range(2))
    fitted = learner.adapt(tasks.support_x, tasks.support_y)
    changed: list[str] = []
    n = 0
    for name in catalog.names("attacks"):
        attack = catalog.attack(name)
        if missing(getattr(attack, "needs_package", "") or "torch"):
            continue
        for norm in attack.norms:
            for surface in attack.surfaces:
                if norm == "labels" and surface == "query":  # queries have none that an adversary could flip
                    continue
                threat = Threat(norm, 0.0, surface)
                query = learner.query_victim(fitted, tasks.query_x, tasks.query_y)
                victim = query if surface == "query" else learner.support_victim(tasks, threat)
                found = attack(victim, threat, Streams([0, 1]))
                n += 1
                if not torch.equal(found, victim.x):
                    changed.append(f"{name} {norm} {surface}")
    return Finding("every x_adv equal to x", ", ".join(changed) or "all equal", n, not changed and n > 0)


def robust_accuracy_falls_as_the_budget_grows() -> Finding:
    """K4: for the worst case over attacks and smaller budgets; what single attacks do is shown."""
    eps = (0.0025, 0.005, 0.01, 0.02)
    done = _through_the_grid(Trial(_convolutional("protonet", ways=5), COLOUR, Spec(5, 2, 5), 2), ("pgd-mt-10",), eps)
    summary = statistics.summarise(done.results).sort_values("eps")
    worst = statistics.worst_case(done.results).sort_values("eps")["robust"].to_numpy()
    raw, bits = summary["robust"].to_numpy(), np.stack([done.bits(key) for key in summary["key"]])
    expected = np.logical_and.accumulate(bits).mean(axis=(1, 2))
    rises = float(np.diff(raw).clip(min=0).max())
    ok = bool((np.diff(worst) <= 0).all() and np.allclose(worst, expected) and rises <= 0.02 and raw[0] > raw[-1])
    text = f"{' '.join(f'{100 * one:.0f}' for one in worst)} %; raw rises by at most {100 * rises:.1f} pp"
    return Finding("falling, and the AND of all verdicts", text, bits.size, ok)


def an_ensemble_is_no_weaker_than_its_members() -> Finding:
    """K5: after the per-query AND; verdicts in which a member alone beats the ensemble are counted."""
    members = ("apgd-ce", "apgd-t", "fab-t", "square-200")
    names = (*members, "+".join(members))
    done = _through_the_grid(Trial(_convolutional("protonet", ways=5), COLOUR, Spec(5, 2, 5)), names, (EPS,))
    bits = {name: done.survived(name) for name in names}
    worst = float(statistics.worst_case(done.results)["robust"].iloc[0])
    everything = np.logical_and.reduce(list(bits.values()))
    raw = int(max((bits[names[-1]] & ~bits[name]).sum() for name in members))
    above = max(worst - float(one.mean()) for one in bits.values())
    ok = above <= 1e-9 and bool(np.isclose(worst, everything.mean())) and raw <= 1 and 0 < worst < 1
    text = f"{100 * worst:.0f} % robust; {raw} raw violations"
    return Finding("worst case ≤ every member; ≤ 1 raw violation", text, everything.size, ok)


def nothing_withstands_half_the_box() -> Finding:
    """K6: in Linf .5 any image can become grey, so at most a constant guess is left."""
    ways = 5
    trial = Trial(_convolutional("protonet", ways=ways, dtype=torch.float32), COLOUR, Spec(ways, 5, 15))
    survived = trial.survived("pgd-mt-20", Threat("linf", 0.5))
    share = float(survived.double().mean())
    limit = 1 / ways + 0.02
    return Finding(f"≤ {100 * limit:.0f} % robust", f"{100 * share:.1f} %", survived.numel(), share <= limit)


def planted_adversarial_inputs_are_found() -> Finding:
    """K7: corners of the ball that a readout singles out among random points, and bands thinner than a step.

    Neither noise nor one long step must find most of them, or the test would ask for nothing.
    """
    corners = Trial(_binarised(), Corners(), Spec(2, 301, 1), PLANTED)
    bands = Trial(ObjectLearner(Bands(), GREY, 2), Lanes(), Spec(2, 1, 15), PLANTED // 15)
    texts, ok = [], True
    for name, trial, eps in (("corners", corners, Corners().eps), ("bands", bands, Lanes().eps)):
        robust = trial.episodes.query_y == 0  # the others are planted themselves
        clean = trial.survived("noise-1", Threat("linf", 0.0))
        attacks = ("pgd-mt-50+apgd-ce", "pgd-mt-50", "noise", "fgsm")
        survived = [trial.survived(attack, Threat("linf", eps)) for attack in attacks]
        both, ours, chance, leap = (int((~one)[robust].sum()) for one in survived)
        texts.append(f"{both} {name} (pgd-mt {ours}, noise {chance}, fgsm {leap})")
        ok &= int(clean[robust].sum()) == both == PLANTED and ours >= PLANTED - 3 and max(chance, leap) <= PLANTED // 2
    return Finding(f"{PLANTED} of {PLANTED}, twice; pgd-mt ≥ {PLANTED - 3}", ", ".join(texts), 2 * PLANTED, ok)


def gradient_maskers_are_flagged_and_an_honest_learner_is_not() -> Finding:
    """K8: logits × 10000, quantised, detached, noisy, softmax, saturated sigmoid, batch statistics."""
    examine = partial(audit.examine_object, threat=Threat("linf", 2 * EPS), spec=Spec(5, 5, 3), tasks=1)
    flags = {
        name: sorted(flag.code for flag in examine(subject, COLOUR) if flag.colour == "red")
        for name, subject in {"honest": maskers.Honest(), **maskers.MASKERS}.items()
    }
    honest = flags.pop("honest")
    missed = [name for name, codes in flags.items() if not codes]
    text = f"{len(flags) - len(missed)} of {len(flags)} flagged" + (f", not {', '.join(missed)}" if missed else "")
    text += f"; honest: {', '.join(honest) or 'none'}"
    return Finding("7 of 7 flagged, honest: none", text, len(flags) + 1, len(flags) == 7 and not missed and not honest)


def chance_is_chance() -> Finding:
    """K9: where classes look alike accuracy is 1/K, ties are wrong, and a coin thrown by noise falls evenly."""
    ways, nothing = 5, Threat("linf", 0.0)
    tasks = Trial(_convolutional("protonet", ways=ways), ALIKE, Spec(ways, 2, 4), 60).survived("noise-1", nothing)
    each = tasks.double().mean(dim=1)
    off = float((each.mean() - 1 / ways).abs() / (each.std() / len(each) ** 0.5).clamp_min(1e-6))
    ties = Trial(ObjectLearner(Constant(3), GREY, 3), FLAT, Spec(3, 1, 5), 2).survived("noise-1", nothing)
    coins = Trial(ObjectLearner(Coin(), GREY, 2), FLAT, Spec(2, 1, 2), 100)
    thrown = coins.survived("noise-1", Threat("linf", 0.1))[:, :2].double()
    uneven = float(((thrown.mean(dim=0) - 0.5).abs() / (0.25 / len(thrown)) ** 0.5).max())
    text = f"{100 * float(each.mean()):.1f} % ({off:.1f} SE), {int(ties.sum())} ties right, coins {uneven:.1f} SE off"
    ok = off <= 3 and not ties.any() and uneven <= 3
    return Finding("20 % within 3 SE, 0 ties right, coins within 3 SE", text, tasks.numel() + ties.numel() + 200, ok)


def every_backend_gives_the_same_verdicts() -> Finding:
    """K10: loop, vmap and flat, in float64; and clean verdicts are those of plain torch."""
    spec, differ, n = Spec(3, 2, 3), 0, 0
    for name in ("protonet", "r2d2", "maml"):
        records = {}
        for backend in BACKENDS:
            trial = Trial(_convolutional(name, backend=backend), COLOUR, spec, 3)
            records[backend] = trial.records("pgd-mt-5", Threat("linf", EPS))
        for one, *others in zip(*records.values(), strict=True):
            for other in others:
                pairs = zip(one.clean + one.survived, other.clean + other.survived, strict=True)
                differ += sum(mine != theirs for mine, theirs in pairs) + (abs(one.distance - other.distance) > 1e-9)
                n += 2 * len(one.clean) + 1
    away = max(_away_from_plain(backend, spec) for backend in BACKENDS)
    text = f"{differ} differ, scores by {away:.1e}"
    return Finding("the same verdicts; plain torch's scores within 1e-9", text, n, differ == 0 and away < 1e-9)


def the_order_of_queries_changes_nothing() -> Finding:
    """K11: permuted queries give permuted verdicts, the same seed the same numbers, another seed others."""
    spec, threat = Spec(3, 2, 5), Threat("linf", EPS)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0)).tolist()
    straight = Trial(_convolutional("protonet"), COLOUR, spec, 3)
    shuffled = replace(straight, family=Rearranged(COLOUR, order=tuple(order)))
    differ = n = 0
    for attack in ("fgsm", PGD(10, step=0.25, start="clean")):
        one, other = (trial.survived(attack, threat) for trial in (straight, shuffled))
        differ += int((one[:, order] != other).sum())
        n += one.numel()
    coins = Trial(ObjectLearner(Coin(), GREY, 2), FLAT, Spec(2, 1, 2), 3)
    again = [[one.distance for one in replace(coins, seed=seed).records("noise-1", threat)] for seed in (0, 0, 1)]
    same, fresh = again[0] == again[1], len({*again[0], *again[2]}) == 2 * len(again[0])
    text = f"{differ} differ; repeats {'' if same else 'not '}equal, seeds {'differ' if fresh else 'do not differ'}"
    return Finding("0 differ; repeats equal, seeds differ", text, n + 3 * len(again[0]), not differ and same and fresh)


def the_names_of_classes_change_nothing() -> Finding:
    """K12: with permuted labels the same queries survive, but for one at most."""
    straight = Trial(_convolutional("protonet", ways=5), COLOUR, Spec(5, 2, 5))
    renamed = replace(straight, family=Rearranged(COLOUR, labels=(3, 0, 4, 1, 2)))
    differ = n = 0
    for attack in ("pgd-mt-10", "apgd-t"):
        one, other = (trial.survived(attack, Threat("linf", EPS)) for trial in (straight, renamed))
        differ = max(differ, int((one != other).sum()))
        n += one.numel()
    return Finding("≤ 1 verdict differs", f"{differ}", n, differ <= 1)


def stronger_attacks_leave_no_more_standing() -> Finding:
    """K13: AutoAttack ≤ our strong PGD ≤ foolbox's PGD, within one query."""
    trial = Trial(_convolutional("protonet", ways=5, dtype=torch.float32), COLOUR, Spec(5, 5, 4))
    texts, ok, n = [], True, 0
    # In L2 without Square, for the sake of time: with it AutoAttack could only leave less.
    members = {"linf": "autoattack", "l2": "apgd-ce+apgd-t+fab-t"}
    for norm, eps in (("linf", EPS), ("l2", 8 * EPS)):
        threat = Threat(cast(Norm, norm), eps)
        attacks = (members[norm], "pgd-mt-50", *PEERS[threat.norm])
        survived = [trial.survived(attack, threat) for attack in attacks]
        ours, strong, peer = (int(one.sum()) for one in survived)
        texts.append(f"{norm} {ours}, {strong}, {peer}")
        ok &= ours <= strong + 1 and strong <= peer + 1 and 0 < peer < survived[0].numel()
        n += survived[0].numel()
    return Finding("AutoAttack ≤ PGD + 1 ≤ foolbox + 2", "; ".join(texts), n, ok)


def robust_learners_pass_through_autoattack_with_any_number_of_classes() -> Finding:
    """K14: 2 to 10 classes through the reference, ours where its members change; what throws is an error, not robust.

    Steps without a slope withstand every target of the gradient attacks, where the reference would fail on fewer than
    10 classes, and fall to Square; at a budget beyond all reach a learner withstands Square too.
    """
    names, eps = ("autoattack", "autoattack-reference"), 0.12
    failed: list[str] = []
    fallen = stood = 0
    for ways in range(2, 11):
        trial = Trial(ObjectLearner(Stairs(eps), GREY, ways), MIDDLES, Spec(ways, 1, 1))
        both = names if ways in (2, 3, 4, 10) else names[1:]
        done = _through_the_grid(trial, ("apgd-ce", *both), (eps,))
        failed += done.failures
        stood += done.survived("apgd-ce").sum() == 1  # the query of class 0; the others are wrong when clean
        fallen += sum(not done.survived(name).any() for name in both)
    robust = _through_the_grid(Trial(_prototypes(2), BLOBS, Spec(2, 5, 1)), names[1:], (0.001,))
    stays = bool(robust.survived(names[1]).all())
    thrown = _through_the_grid(Trial(_prototypes(2), BLOBS, Spec(2, 5, 1)), (Misbehaving("throwing", throw),), (0.001,))
    counted = len(thrown.results.tasks)
    failed += robust.failures
    text = f"{len(failed)} failed{''.join(f' ({one})' for one in failed[:1])}, {stood} of 9 withstand gradients,"
    text += f" {fallen} of 13 fall to Square, robust {'stays' if stays else 'falls'}, thrown counted {counted} times"
    ok = not failed and stood == 9 and fallen == 13 and stays and len(thrown.failures) == 1 and counted == 0
    return Finding("0 failed, 9 of 9, 13 of 13, stays, counted 0 times", text, 24, ok)


def attacks_leave_learners_as_they_were() -> Finding:
    """K15: support, adapted weights and torch's generator; an attack that writes into them is refused."""
    names = ("fgsm", "pgd-mt-5", "apgd-ce", "fab-t", "square-20", "noise", "foolbox:LinfPGD")
    touched: list[str] = []
    trial = Trial(_convolutional("maml", dtype=torch.float32), COLOUR, Spec(3, 2, 2), 2)
    learner, tasks = cast(Learner, trial.learner), trial.episodes
    fitted = learner.adapt(tasks.support_x, tasks.support_y)
    watched = [*tasks.tensors.values(), *fitted.state.values(), *fitted.norm.values(), *learner.params.values()]
    before, state = [tensor.clone() for tensor in watched], torch.get_rng_state()
    for name in names:
        victim = learner.query_victim(fitted, tasks.query_x, tasks.query_y)
        catalog.attack(name)(victim, Threat("linf", EPS), Streams([0, 1]))
        same = all(map(torch.equal, watched, before)) and all(tensor.grad is None for tensor in watched)
        if not (same and torch.equal(state, torch.get_rng_state())):
            touched.append(name)
    weight = next(iter(learner.params.values()))
    vandals = (Misbehaving("scribbling", scribble), Misbehaving("tampering", partial(_tamper, weight)))
    let = sum(not _refused(trial, vandal) for vandal in vandals)
    text = f"{', '.join(touched) or 'nothing'} changed, {let} of {len(vandals)} vandals let through"
    return Finding("nothing changed, 0 of 2 let through", text, len(names) + len(vandals), not touched and not let)


KNOWN: Mapping[str, Callable[[], Finding]] = {
    "K1": linear_learners_fall_exactly_where_the_closed_form_says,
    "K2": no_attack_succeeds_beyond_the_closed_form,
    "K3": a_budget_of_zero_changes_nothing,
    "K4": robust_accuracy_falls_as_the_budget_grows,
    "K5": an_ensemble_is_no_weaker_than_its_members,
    "K6": nothing_withstands_half_the_box,
    "K7": planted_adversarial_inputs_are_found,
    "K8": gradient_maskers_are_flagged_and_an_honest_learner_is_not,
    "K9": chance_is_chance,
    "K10": every_backend_gives_the_same_verdicts,
    "K11": the_order_of_queries_changes_nothing,
    "K12": the_names_of_classes_change_nothing,
    "K13": stronger_attacks_leave_no_more_standing,
    "K14": robust_learners_pass_through_autoattack_with_any_number_of_classes,
    "K15": attacks_leave_learners_as_they_were,
}


@dataclass(frozen=True)
class _Done:
    """What a grid left in its store."""

    results: store.Results
    failures: list[str]

    def bits(self, key: str) -> np.ndarray:
        """Return which queries survived in a cell [T,Q]."""
        rows = self.results.tasks[self.results.tasks["key"] == key].sort_values("task")
        return np.array([[bit == "1" for bit in one] for one in rows["survived"]])

    def survived(self, attack: str) -> np.ndarray:
        cells = self.results.cells
        return self.bits(cells[cells["attack"] == attack]["key"].iloc[0])


def _through_the_grid(trial: Trial, attacks: Sequence[str | Misbehaving], eps: tuple[float, ...]) -> _Done:
    """Plan, run and store the cells of a trial, as `rbm evaluate` does."""
    subject = grid.Subject(
        name="selftest",
        weights="selftest",
        algorithm="selftest",
        defense="standard",
        learner=trial.learner,
        family=trial.family,
        family_name="selftest",
        shots=trial.spec.shots,
        test_steps=trial.learner.steps,
    )
    made: dict[str, Attack] = {}
    for one in attacks:
        if isinstance(one, str):
            made[one] = catalog.attack(one)
        else:
            made[one.name] = one
    axes = grid.Grid(made, eps=eps, ways=trial.spec.ways, queries=trial.spec.queries, seed=trial.seed)
    with tempfile.TemporaryDirectory() as folder:
        plan = grid.make_plan(axes, [subject], Path(folder))
        failures = [failure.reason for failure in grid.execute(plan, Path(folder), tasks=trial.tasks)]
        return _Done(grid.results_of(plan, Path(folder)), failures + list(plan.refused))


def _prototypes(ways: int) -> Learner:
    """A ProtoNet on normalised pixels; its scores lie so far apart that the cross entropy has no gradient left."""
    network = Pixels(scale=20.0)
    params = network.parameters(BLOBS.shape, torch.Generator())
    return Learner(catalog.algorithm("protonet"), network, params, BLOBS.space, ways)


def _convolutional(
    algorithm: str, *, ways: int = 3, backend: Backend = "loop", dtype: torch.dtype = torch.float64
) -> Learner:
    """An untrained network of two blocks for COLOUR."""
    made = catalog.algorithm(algorithm)
    params = start_params(made, NETWORK, COLOUR.space, ways, torch.Generator().manual_seed(0))
    typed = {name: value.to(dtype) for name, value in params.items()}
    return Learner(made, NETWORK, typed, COLOUR.space, ways, backend=backend)


def _binarised() -> Learner:
    network = Conv4(width=8, depth=2)
    params = start_params(Readout(), network, GREY, 2, torch.Generator().manual_seed(0))
    return Learner(Readout(), network, params, GREY, 2, backend="flat")


def _between(distances: Tensor) -> float:
    """A budget in the widest gap among the middle of the distances."""
    ordered = distances[distances > 0].sort().values
    window = ordered[max(len(ordered) // 2 - 3, 0) : len(ordered) // 2 + 4]
    widest = int(window.diff().argmax())
    return float(window[widest : widest + 2].mean())


def _edge_distances(trial: Trial, norm: Norm) -> Tensor:
    """The least norm inside the box that changes the verdict of Means about each query: [T,Q]."""
    tasks, ways = trial.episodes, trial.spec.ways
    means = tasks.support_x.double().unflatten(1, (ways, -1)).mean(dim=2).flatten(2)  # [T,N,D]
    x = tasks.query_x.double().flatten(2)
    scores = x @ means.mT - means.square().sum(dim=2).unsqueeze(1) / 2
    y = torch.arange(ways).repeat_interleave(trial.spec.queries)
    gaps = scores[:, torch.arange(len(y)), y].unsqueeze(2) - scores
    weights = means[:, y].unsqueeze(2) - means.unsqueeze(1)
    found = box_distances(gaps, weights, x, norm, trial.family.space)
    return found.scatter(2, y.expand(len(x), -1).unsqueeze(2), torch.inf).amin(dim=2)


def _away_from_plain(backend: Backend, spec: Spec) -> float:
    """How far scores lie from plain torch's, those that an attack sees and those that count."""
    learner = _convolutional("protonet", backend=backend)
    tasks = COLOUR.sample("test", spec, range(3)).to("cpu", torch.float64)
    fitted = learner.adapt(tasks.support_x, tasks.support_y)
    victim = learner.query_victim(fitted, tasks.query_x, tasks.query_y)
    plain = torch.stack([_plain(learner.params, tasks, task) for task in range(3)])
    seen = victim.forward(victim.x, victim.points).view_as(plain)
    return max(float((one - plain).abs().max()) for one in (seen, learner.predict(fitted, tasks.query_x)))


def _plain(params: Params, tasks: Episodes, task: int) -> Tensor:
    """Score a task's queries as a ProtoNet by torch's own operations, the support's statistics worked out by hand."""
    support, query = tasks.support_x[task], tasks.query_x[task]
    for block in range(NETWORK.depth):
        weight = params[f"conv{block}.weight"]
        support, query = (F.conv2d(x, weight, padding=1) for x in (support, query))
        mean, var = support.mean(dim=(0, 2, 3)), support.var(dim=(0, 2, 3), correction=0)
        given = (mean, var, params[f"conv{block}.gamma"], params[f"conv{block}.beta"])
        support, query = (F.max_pool2d(F.batch_norm(x, *given).relu(), 2) for x in (support, query))
    prototypes = torch.stack([support[tasks.support_y[task] == way].mean(dim=0) for way in range(3)])
    return -(query.unsqueeze(1) - prototypes).square().flatten(2).sum(dim=2)


def _tamper(weight: Tensor, _: Victim) -> None:
    weight.mul_(1.001)


def _refused(trial: Trial, attack: Attack) -> bool:
    try:
        trial.records(attack, Threat("linf", EPS))
    except CellError:
        return True
    return False
