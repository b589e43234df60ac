"""Adversarial examples of somebody's own attack: how to hand them in, and what they leave when we score them.

A published number may be wrong, and an attack cannot be run by whoever reads of it; its examples can be judged by
anybody. So a claim counts for what its examples do here, never for what it says (RobustBench, arXiv 2010.09670, asks
for the images too). An attack that adapts to a defense outranks ours wherever it fools what ours left.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from robustbench_meta import catalog, checkpoint, grid, store, submissions, threats, untrusted
from robustbench_meta.attacks import from_file
from robustbench_meta.attacks.from_file import FromFile
from robustbench_meta.checkpoint import first_problem
from robustbench_meta.episodes import drawn, fingerprint
from robustbench_meta.store import Run
from robustbench_meta.submissions import Claim, Credit, External, SpecFields
from robustbench_meta.types import Cell, InputError, Norm, Spec, Split, TaskFamily, Threat

ROUNDING = 1e-9


@dataclass(frozen=True)
class Judged:
    """A claim, the cell that its examples made here, and why it is refused where it is."""

    claim: Claim
    run: Run | None
    problems: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        return not self.problems

    @property
    def robust(self) -> float:
        """The accuracy that the examples leave here, over all queries; NaN where they could not be scored."""
        return float("nan") if self.run is None else _accuracy(self.run)

    @property
    def credit(self) -> Credit:
        one = self.claim
        return Credit(
            authors=one.authors,
            attack=one.attack,
            paper=one.paper,
            code=one.code,
            claimed=one.robust,
            set_sha256=one.set_sha256,
        )


def write_external(
    folder: Path | str,
    ckpt: Path | str,
    x_adv: Mapping[int, np.ndarray],
    *,
    attack: str,
    authors: str,
    robust: float,
    eps: float | str,
    norm: Norm = "linf",
    paper: str = "",
    code: str = "",
    family: str | None = None,
    split: Split = "test",
    ways: int | None = None,
    shots: int | None = None,
    queries: int = 15,
    steps: int | None = None,
    seed: int = 0,
    data_root: Path | str | None = None,
) -> Path:
    """Write what your attack found on a checkpoint as a claim that `rbm submit-check FOLDER` can judge.

    `x_adv` holds by task number, from 0 on, the attacked queries [Q,*X] in the order and the units of the episodes
    that the family draws, each within `eps` of its clean one and in the box. `robust` is the accuracy that you say
    they leave over all these tasks, rounded up. What is not given is as the checkpoint was trained. A folder may hold
    many claims. Returns external.json. Raises InputError before anything is written for examples that would be refused.
    """
    root = None if data_root is None else Path(data_root)
    other = None if family is None else grid.choose_family(family, root)
    subject = grid.load_subject(Path(ckpt), family=other, root=root, device="cpu")
    if norm == "corruption":
        raise InputError("norm: 'corruption' has no adversary who could be claimed; legal: linf, l2, l1, words")
    budget = threats.check(Threat(norm, grid.parse_eps(eps)), subject.family.space)
    spec = Spec(ways or subject.learner.ways, shots or subject.shots, queries)
    cell = Cell(
        checkpoint=subject.name,
        weights=subject.weights,
        algorithm=subject.algorithm,
        defense=subject.defense,
        norm_mode=subject.learner.norm_mode,
        family=subject.family_name,
        episodes=fingerprint(subject.family, split),
        split=split,
        spec=spec,
        steps=None if subject.learner.steps is None else steps or subject.test_steps,
        attack=attack,
        attack_fields=f"External(attack={attack!r}, authors={authors!r})",
        threat=budget,
        seed=seed,
    )
    examples = [_example(cell, subject.family, task, x_adv[task]) for task in sorted(x_adv)]
    if sorted(x_adv) != list(range(len(x_adv))) or not x_adv:
        raise InputError(f"x_adv: tasks {sorted(x_adv)[:5]}…; they go from 0 on without a gap")
    claimed = {"attack": attack, "authors": authors, "robust": float(robust), "paper": paper, "code": code}
    return _add_claim(Path(folder), cell, examples, claimed)


def judge(
    folder: Path,
    learners: Mapping[str, Path],
    *,
    root: Path | None = None,
    device: str = "auto",
    tell: Callable[[str], None] = lambda _: None,
) -> list[Judged]:
    """Score the examples of every claim in `folder` as any cell is measured, and say which claims hold.

    `learners` are checkpoint folders by weights. Raises InputError where external.json itself cannot be read.
    """
    judged = []
    for claim in submissions.read_external(folder).claims:
        tell(f"{claim.authors}, {claim.attack}: {claim.norm} {claim.eps:.4g}")
        try:
            attack = from_file.load(_inside(folder, claim.folder))
            problems = _unlike(claim, attack)
            run = None if problems else _scored(claim, attack, learners, root, device)
        except InputError as error:
            judged.append(Judged(claim, None, (str(error),)))
            continue
        judged.append(Judged(claim, run, tuple(problems or _worse(claim, run))))
    return judged


def lowered(run: Run, others: Sequence[Run]) -> int:
    """Count the queries that the examples of `run` fool and that `others` left, up to its eps on the same episodes.

    `others` are runs of the same learner; tasks that none of them met are not counted.
    """
    standing: dict[int, np.ndarray] = {}
    eps = run.cell.threat.eps
    for other in others:
        # At a larger eps other queries fall.
        if _place(other.cell, max(other.cell.threat.eps, eps)) != _place(run.cell, eps):
            continue
        for record in other.records:
            survived = np.array(record.survived)
            standing[record.task] = standing.get(record.task, np.ones_like(survived)) & survived
    fooled = {record.task: ~np.array(record.survived) for record in run.records}
    return sum(int((standing[task] & fooled[task]).sum()) for task in standing.keys() & fooled.keys())


def _place(cell: Cell, eps: float) -> Cell:
    """Name the episodes and the threat of a cell, at another eps."""
    return replace(cell, checkpoint="", attack="", attack_fields="", threat=replace(cell.threat, eps=eps))


def _example(cell: Cell, family: TaskFamily, task: int, given: np.ndarray) -> store.Examples:
    """Put the attacked queries of one task beside their clean ones, and refuse those that the threat does not allow."""
    if not isinstance(task, int) or task < 0:
        raise InputError(f"x_adv: {task!r} is not a task number")
    made = drawn(family, cell.split, cell.spec, [task], seed=cell.seed)
    x, moved = made.query_x[0], torch.as_tensor(np.asarray(given))
    if moved.shape != x.shape or not moved.is_floating_point():
        raise InputError(
            f"x_adv: task {task} is {tuple(moved.shape)} {moved.dtype}, must be {tuple(x.shape)} {x.dtype}"
        )
    moved = moved.to(x.dtype)
    if not moved.isfinite().all() or not threats.within(moved, x, cell.threat, family.space):
        far = threats.distance(moved - x, cell.threat.norm, len(family.space.shape)).max()
        raise InputError(
            f"x_adv: task {task} moves by up to {far:.6g} in {cell.threat.norm}, eps is {cell.threat.eps:.6g}; inputs"
            f" lie from {moved.min():.6g} to {moved.max():.6g}, legal is {family.space.low:g} to {family.space.high:g}"
        )
    return store.Examples(task, moved.numpy(), made.query_y[0].numpy(), store.query_digests(x.numpy()))


def _add_claim(folder: Path, cell: Cell, examples: Sequence[store.Examples], claimed: dict[str, Any]) -> Path:
    """Write a set and name it in external.json, which comes last: what it names is whole."""
    before = submissions.read_external(folder).claims if (folder / submissions.EXTERNAL_FILE).exists() else ()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".set.") as scratch:
        # A store locks, and keeps folders that nobody needs here.
        store.save_examples(Path(scratch), cell, examples)
        source, target = Path(scratch) / store.ADVERSARIAL / store.key(cell), folder / store.key(cell)
        shutil.rmtree(target, ignore_errors=True)
        source.replace(target)
    about = {name: getattr(cell, name) for name in ("weights", "family", "split", "steps", "seed")}
    about |= {"spec": SpecFields.model_validate(vars(cell.spec)), "norm": cell.threat.norm, "eps": cell.threat.eps}
    where = {"folder": target.name, "set_sha256": store.read_set(target).sha256, "tasks": len(examples)}
    try:
        claim = Claim.model_validate({**about, **where, **claimed})
        made = External(claims=(*(one for one in before if one.folder != claim.folder), claim))
    except ValidationError as error:
        raise InputError(f"external: {first_problem(error)}") from None
    text = json.dumps(made.model_dump(mode="json"), indent=1, sort_keys=True)
    checkpoint.write(folder / submissions.EXTERNAL_FILE, f"{text}\n".encode())
    return folder / submissions.EXTERNAL_FILE


def _inside(folder: Path, name: str) -> Path:
    """Find the folder of a set, which lies below that of the claims."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"external: {name} lies outside {folder}")
    if not (path / store.SET).is_file():
        raise InputError(f"external: {path} holds no adversarial set ({store.SET})")
    return path


def _unlike(claim: Claim, attack: FromFile) -> list[str]:
    """Say in what a set is not the one that a claim speaks of."""
    held, made = attack.held, attack.held.cell
    found = []
    if made.weights != claim.weights:
        who = untrusted.printable(f"{made.checkpoint} ({made.weights[:12]}…)")
        found.append(
            f"weights: the set was made on {who}, the claim is about {claim.weights[:12]}…; what was made to fool one"
            " learner is no attack on another"
        )
    if held.sha256 != claim.set_sha256:
        found.append(f"the set has SHA-256 {held.sha256[:12]}…, the claim says {claim.set_sha256[:12]}…")
    if attack.tasks != claim.tasks or len(held.tasks) != claim.tasks:
        held_tasks = f"{attack.tasks} tasks from 0 on and {len(held.tasks)} in all"
        found.append(f"tasks: the set holds {held_tasks}, the claim says {claim.tasks}")
    spec = Spec(**claim.spec.model_dump())
    if claim.norm == "corruption":
        found.append("norm: 'corruption' has no adversary who could be claimed; legal: linf, l2, l1, words")
    for name, theirs, mine in (
        *((name, getattr(made, name), getattr(claim, name)) for name in ("attack", "family", "split", "steps", "seed")),
        *((name, getattr(made.threat, name), getattr(claim, name)) for name in ("norm", "eps", "surface")),
        ("spec", made.spec, spec),
    ):
        if theirs != mine:
            found.append(untrusted.printable(f"{name}: the set has {theirs}, the claim {mine}"))
    if claim.survived is not None and len(claim.survived) != claim.tasks:
        found.append(f"survived: {len(claim.survived)} rows for {claim.tasks} tasks")
    return found


def _scored(claim: Claim, attack: FromFile, learners: Mapping[str, Path], root: Path | None, device: str) -> Run:
    """Measure a claim's examples as a cell of a grid, which checks budget, box and episodes itself."""
    if claim.weights not in learners:
        raise InputError(
            f"ckpt: no checkpoint of the claimed weights and recipe ({claim.weights[:12]}…) is shipped; give --ckpt"
        )
    folder = learners[claim.weights]
    own = checkpoint.read_card(folder / checkpoint.CARD).recipe.family == claim.family
    family = None if own else catalog.family(claim.family, root=root)
    subject = grid.load_subject(folder, family=family, root=root, device=device)
    axes = grid.Grid(
        attacks={attack.name: attack},
        norms=(claim.norm,),
        eps=(claim.eps,),
        shots=(claim.spec.shots,),
        steps=None if claim.steps is None else (claim.steps,),
        ways=claim.spec.ways,
        queries=claim.spec.queries,
        split=claim.split,
        seed=claim.seed,
    )
    with tempfile.TemporaryDirectory() as scratch:
        plan = grid.make_plan(axes, [subject], Path(scratch))
        failures = grid.execute(plan, Path(scratch), tasks=claim.tasks)
        if failures:
            raise InputError(f"examples: {failures[0].reason}")
        (run,) = store.runs(Path(scratch))
    if run.cell.steps != claim.steps:
        raise InputError(f"steps: {claim.steps}; this learner's adaptation has none")
    return run


def _worse(claim: Claim, run: Run | None) -> list[str]:
    """Say in what a claim says more of its attack than its examples show."""
    if run is None:
        return []
    found, robust = [], _accuracy(run)
    if robust > claim.robust + ROUNDING:
        found.append(f"robust: {claim.robust:.6g} is claimed, but the examples leave {robust:.6g} here")
    if claim.survived is not None:
        differ = 0
        for record, packed in zip(run.records, claim.survived, strict=True):
            try:
                theirs = submissions.from_hex(packed, len(record.survived))
            except ValueError as error:
                return [*found, f"survived: task {record.task}: {error}"]
            differ += sum(a != b for a, b in zip(record.survived, theirs, strict=True))
        if differ:
            found.append(
                f"survived: {differ} verdicts are others here; leave them out where yours come from another device"
            )
    return found


def _accuracy(run: Run) -> float:
    return float(np.mean([bit for record in run.records for bit in record.survived]))
