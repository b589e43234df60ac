"""Do foolbox, torchattacks, cleverhans and we say the same at equal knobs? Verdict by verdict, on adapted learners.

    make agreement RBM_DATA=data    # an environment of its own, then: python benchmarks/agreement.py

Where a library's verdict is not ours, `Twin` says why: our ascent with that library's habits switched on one by one.
Shapes: Q queries of one task, of which those classified correctly are attacked and compared; X one input.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import platform
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_meta import catalog, grid, outcomes, threats
from robustbench_meta.attacks.pgd import PGD
from robustbench_meta.attacks.via_torchattacks import TorchAttacks
from robustbench_meta.intervals import interval
from robustbench_meta.libraries import Classifier, attack_tasks, require
from robustbench_meta.losses import correct
from robustbench_meta.report import markdown
from robustbench_meta.types import Attack, Norm, Spec, Streams, Threat, Victim

SPEC = Spec(ways=5, shots=5, queries=5)
TASKS, TWIN_TASKS = 30, 5  # the twins with single habits meet the first five, and tasks with a disagreement
PACKAGES = ("torch", "foolbox", "torchattacks", "cleverhans", "numpy")
LIBRARIES = ("foolbox", "torchattacks", "cleverhans")
IN_DOUBLE = ("foolbox", "torchattacks")  # cleverhans casts to float32


@dataclass(frozen=True)
class AgreementCell:
    """A shipped checkpoint at a budget that 20 to 80 % of its clean-correct queries survive."""

    checkpoint: str
    norm: Norm
    eps: float

    @property
    def threat(self) -> Threat:
        return Threat(self.norm, self.eps)


CELLS = (
    AgreementCell("strokes-protonet-standard", "linf", 0.03),
    AgreementCell("strokes-protonet-standard", "l2", 0.4),
    AgreementCell("strokes-protonet-aq", "linf", 0.1),
    AgreementCell("strokes-protonet-aq", "l2", 1.0),
    AgreementCell("cifar-fs-protonet-standard", "linf", 1 / 255),
    AgreementCell("cifar-fs-protonet-standard", "l2", 0.1),
    AgreementCell("cifar-fs-protonet-aq", "linf", 8 / 255),
    AgreementCell("cifar-fs-protonet-aq", "l2", 1.0),
)

_ONE_STEP = TorchAttacks("PGDL2", ("l2",), 1.0, (("steps", 1), ("random_start", False), ("eps_for_division", 1e-10)))
EQUAL: dict[tuple[str, Norm], dict[str, Attack]] = {
    ("FGSM", "linf"): {
        "ours": catalog.attack("fgsm"),
        "foolbox": catalog.attack("foolbox:FGSM"),
        "torchattacks": catalog.attack("torchattacks:FGSM"),
        "cleverhans": catalog.attack("cleverhans:fast_gradient_method"),
    },
    ("FGSM", "l2"): {
        "ours": catalog.attack("fgsm"),
        "foolbox": catalog.attack("foolbox:FGM"),
        "torchattacks": _ONE_STEP,  # it has no one-step attack in L2
        "cleverhans": catalog.attack("cleverhans:fast_gradient_method"),
    },
    ("PGD-20", "linf"): {
        "ours": PGD(20, 2.5 / 20, start="clean", keep="last"),
        "foolbox": catalog.attack("foolbox:LinfBasicIterativeAttack"),
        "torchattacks": catalog.attack("torchattacks:PGD-clean"),
        "cleverhans": catalog.attack("cleverhans:projected_gradient_descent-clean"),
    },
    ("PGD-20", "l2"): {
        "ours": PGD(20, 2.5 / 20, start="clean", keep="last"),
        "foolbox": catalog.attack("foolbox:L2BasicIterativeAttack"),
        "torchattacks": catalog.attack("torchattacks:PGDL2-clean"),
        "cleverhans": catalog.attack("cleverhans:projected_gradient_descent-clean"),
    },
}


Size = Callable[[Tensor], Tensor]  # rows [Q,D] -> their L2 norms [Q,1]


def _by_norm(rows: Tensor) -> Tensor:
    return rows.norm(dim=1, keepdim=True)


def _by_root(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=1, keepdim=True).sqrt()


def _unit(rows: Tensor, size: Tensor) -> Tensor:
    return rows / size.clamp_min(torch.finfo(rows.dtype).tiny)


@dataclass(frozen=True)
class Twin:
    """Our ascent from the clean image with a library's habits; like them it meets only queries that are right."""

    steps: int
    step: float  # in multiples of eps
    loss: Literal["sum", "mean"] = "sum"  # over the queries of a task
    ball_first: bool = False  # back into the ball before the box; ours clamps the step to the box first
    size: Size = _by_norm
    unit: Callable[[Tensor, Tensor], Tensor] = _unit  # gradients [Q,D] and their norms -> directions, in L2

    def __call__(self, victim: Victim, threat: Threat, rng: Streams) -> Tensor:
        box = victim.space

        def craft(classifier: Classifier, images: Tensor, labels: Tensor, seed: int) -> Tensor:
            x = images
            for _ in range(self.steps):
                leaf = x.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(F.cross_entropy(classifier(leaf), labels, reduction=self.loss), leaf)
                x = x + self.step * threat.eps * self.direction(gradient, threat.norm)
                x = x if self.ball_first else x.clamp(box.low, box.high)
                x = (images + self.shrink(x - images, threat)).clamp(box.low, box.high)
            return x

        return attack_tasks(victim, threat, rng, craft)

    def direction(self, gradient: Tensor, norm: Norm) -> Tensor:
        if norm == "linf":
            return gradient.sign()
        rows = gradient.flatten(1)
        return self.unit(rows, self.size(rows)).view_as(gradient)

    def shrink(self, moved: Tensor, threat: Threat) -> Tensor:
        if threat.norm == "linf":
            return moved.clamp(-threat.eps, threat.eps)
        rows = moved.flatten(1)
        return (rows * (threat.eps / self.size(rows)).clamp_max(1)).view_as(moved)


BATCH, MEAN, ORDER, FLOOR = "rounding", "mean of the losses", "ball before box", "floor under a norm"
UNEXPLAINED = "unexplained"
LOSSES: dict[str, Literal["sum", "mean"]] = {"foolbox": "sum", "torchattacks": "mean", "cleverhans": "mean"}
SIZES: dict[str, Size] = {"foolbox": _by_root, "torchattacks": _by_norm, "cleverhans": _by_root}
UNITS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "foolbox": lambda rows, size: rows * (1 / size.clamp_min(1e-12)),
    "torchattacks": lambda rows, size: rows / (size + 1e-10),
    "cleverhans": lambda rows, size: rows / size.clamp_min(1e-6),
}


def twins(library: str, steps: int, step: float, norm: Norm) -> dict[str, Twin]:
    """Give ours with more and more habits of a library, by the reason that a match stands for; the last has all."""
    plain = Twin(steps, step, size=SIZES[library])
    alike = replace(plain, loss=LOSSES[library])
    found = {BATCH: plain} | ({MEAN: alike} if alike != plain else {})
    if norm == "l2":
        floored = replace(alike, unit=UNITS[library])
        found[FLOOR] = floored
        if library in ("foolbox", "torchattacks"):
            found[ORDER] = replace(alike, ball_first=True)
            found[f"{ORDER}, {FLOOR}"] = replace(floored, ball_first=True)
    return found


@dataclass
class Line:
    """One attack of one library on one cell, beside ours."""

    checkpoint: str
    norm: Norm
    eps: float
    attack: str
    library: str
    tasks: int = 0
    queries: int = 0
    clean_correct: int = 0
    survived: int = 0
    robust: float = 0.0
    robust_ci95: float = 0.0
    agree: int = 0
    ours_alone_fooled: int = 0
    library_alone_fooled: int = 0
    largest_difference: float = 0.0  # over every entry of every clean-correct query
    twin_disagrees: int = 0  # verdicts that all habits together do not reproduce
    double_disagrees: int | None = None  # verdicts that differ from ours in float64
    double_reasons: str = ""
    reasons: str = ""
    twins: str = ""  # by habits, the twin's largest difference from the library
    accuracies: list[float] = field(default_factory=list, repr=False)
    counted: Counter[str] = field(default_factory=Counter, repr=False)
    counted_double: Counter[str] = field(default_factory=Counter, repr=False)
    gaps: dict[str, float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Scene:
    """One task of a cell, adapted: what is attacked and judged."""

    victim: Victim
    clean: Tensor  # [Q]

    def verdicts(self, x_adv: Tensor) -> Tensor:
        """Whether each query survives: [Q]."""
        with torch.no_grad():
            return correct(self.victim.forward(x_adv, self.victim.points), self.victim.y)[:, 0] & self.clean


def scenes(cell: AgreementCell, tasks: int, root: Path | None, dtype: torch.dtype) -> Iterator[Scene]:
    subject = grid.load_subject(Path("checkpoints") / cell.checkpoint, root=root, device="cpu")
    learner: Any = subject.learner
    learner = replace(learner, **{part: _cast(getattr(learner, part), dtype) for part in ("params", "running")})
    for task in range(tasks):
        episodes = subject.family.sample("test", SPEC, [task]).to("cpu", dtype)
        with torch.no_grad():
            fitted = learner.adapt(episodes.support_x, episodes.support_y)
            victim = learner.query_victim(fitted, episodes.query_x, episodes.query_y)
            clean = correct(victim.forward(victim.x, victim.points), victim.y)[:, 0]
        yield Scene(victim, clean)


def _cast(tensors: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype) for name, value in tensors.items()}


def compare(cell: AgreementCell, attack: str, *, tasks: int, root: Path | None) -> list[Line]:
    """Attack the cell with ours and every library, at equal knobs."""
    arms = EQUAL[attack, cell.norm]
    lines = {name: Line(cell.checkpoint, cell.norm, cell.eps, attack, name) for name in arms}
    steps, step = (1, 1.0) if attack == "FGSM" else (20, 2.5 / 20)
    for scene in scenes(cell, tasks, root, torch.float32):
        ours = arms["ours"](scene.victim, cell.threat, Streams([0]))
        for name, arm in arms.items():
            x_adv = arm(scene.victim, cell.threat, Streams([0]))
            _add(lines[name], scene, ours, x_adv)
            if name != "ours":
                _explain(lines[name], scene, (ours, x_adv), twins(name, steps, step, cell.norm))
    for scene in scenes(cell, tasks, root, torch.float64):
        ours = arms["ours"](scene.victim, cell.threat, Streams([0]))
        for name in IN_DOUBLE:
            theirs = arms[name](scene.victim, cell.threat, Streams([0]))
            _explain_double(lines[name], scene, (ours, theirs), twins(name, steps, step, cell.norm))
    return [_finish(line) for line in lines.values()]


def _add(line: Line, scene: Scene, ours: Tensor, x_adv: Tensor) -> None:
    mine, theirs = scene.verdicts(ours), scene.verdicts(x_adv)
    line.tasks += 1
    line.queries += len(mine)
    line.clean_correct += int(scene.clean.sum())
    line.survived += int(theirs.sum())
    line.accuracies.append(float(theirs.double().mean()))
    line.agree += int((mine == theirs)[scene.clean].sum())
    line.ours_alone_fooled += int((~mine & theirs).sum())
    line.library_alone_fooled += int((mine & ~theirs).sum())
    line.largest_difference = max(line.largest_difference, _furthest(scene, ours, x_adv))


def _explain(line: Line, scene: Scene, pair: tuple[Tensor, Tensor], suspects: dict[str, Twin]) -> None:
    """Give each disagreement the least set of habits that turns our verdict into the library's."""
    mine, theirs = (scene.verdicts(x) for x in pair)
    differ = (mine != theirs).nonzero().flatten().tolist()
    threat, everything = Threat(line.norm, line.eps), list(suspects)[-1]
    found: dict[str, Tensor] = {}
    for reason, twin in suspects.items():
        if reason == everything or differ or line.tasks <= TWIN_TASKS:
            x_adv = twin(scene.victim, threat, Streams([0]))
            found[reason] = scene.verdicts(x_adv)
            if reason == everything or line.tasks <= TWIN_TASKS:
                line.gaps[reason] = max(line.gaps.get(reason, 0.0), _furthest(scene, x_adv, pair[1]))
    line.twin_disagrees += int((found[everything] != theirs).sum())
    line.counted.update(_least(found, theirs, query) for query in differ)


def _explain_double(line: Line, scene: Scene, pair: tuple[Tensor, Tensor], suspects: dict[str, Twin]) -> None:
    """Do the same in float64, where what is left is no rounding."""
    mine, theirs = (scene.verdicts(x) for x in pair)
    differ = (mine != theirs).nonzero().flatten().tolist()
    line.double_disagrees = (line.double_disagrees or 0) + len(differ)
    if differ:
        threat = Threat(line.norm, line.eps)
        found = {reason: scene.verdicts(twin(scene.victim, threat, Streams([0]))) for reason, twin in suspects.items()}
        line.counted_double.update(_least(found, theirs, query) for query in differ)


def _least(found: dict[str, Tensor], theirs: Tensor, query: int) -> str:
    matching = [reason for reason, verdict in found.items() if verdict[query] == theirs[query]]
    return matching[0] if matching else UNEXPLAINED


def _furthest(scene: Scene, a: Tensor, b: Tensor) -> float:
    return float((a - b)[scene.clean].abs().max()) if scene.clean.any() else 0.0


def _finish(line: Line) -> Line:
    line.robust, line.robust_ci95 = interval(line.accuracies)
    line.reasons = "; ".join(f"{reason}: {count}" for reason, count in line.counted.most_common())
    line.double_reasons = "; ".join(f"{reason}: {count}" for reason, count in line.counted_double.most_common())
    line.twins = "; ".join(f"{reason}: {gap:.2g}" for reason, gap in line.gaps.items())
    return line


@dataclass
class Default:
    """What a user gets who sets as little as a library lets them."""

    checkpoint: str
    norm: Norm
    eps: float
    call: str
    error: str = ""
    robust: float | None = None
    robust_ci95: float | None = None
    furthest: float = 0.0  # largest distance from the clean image, in multiples of eps
    outside_box: float = 0.0  # share of images


Craft = Callable[[Classifier, Tensor, Tensor], Tensor]


def defaults(cell: AgreementCell) -> dict[str, Craft]:
    """List direct calls of the libraries, by what the user writes."""
    import foolbox.attacks
    import torchattacks
    from foolbox.models.pytorch import PyTorchModel

    name = "LinfPGD" if cell.norm == "linf" else "L2PGD"
    theirs = torchattacks.PGD if cell.norm == "linf" else torchattacks.PGDL2
    descend = import_module("cleverhans.torch.attacks.projected_gradient_descent").projected_gradient_descent
    order = float("inf") if cell.norm == "linf" else 2

    def by_foolbox(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
        wrapped = PyTorchModel(model, bounds=(0, 1), device="cpu")
        found: Tensor = getattr(foolbox.attacks, name)()(wrapped, x, y, epsilons=cell.eps)[1]
        return found

    return {
        f"foolbox.attacks.{name}()": by_foolbox,
        f"torchattacks.{theirs.__name__}(model, eps)": lambda model, x, y: theirs(model, eps=cell.eps)(x, y),
        f"torchattacks.{theirs.__name__}(model)": lambda model, x, y: theirs(model)(x, y),
        f"cleverhans projected_gradient_descent(model, x, eps, 0.01, 40, {order:g})": lambda model, x, y: descend(
            model, x, cell.eps, 0.01, 40, order
        ),
    }


def try_defaults(cell: AgreementCell, *, tasks: int, root: Path | None) -> list[Default]:
    found = [_by_name(cell, "pgd-20", tasks, root)]
    for call, craft in defaults(cell).items():
        row, accuracies, outside, attacked = Default(cell.checkpoint, cell.norm, cell.eps, call), [], 0, 0
        try:
            for number, scene in enumerate(scenes(cell, tasks, root, torch.float32)):
                x, y = scene.victim.x[scene.clean].squeeze(1), scene.victim.y[scene.clean].squeeze(1)
                torch.manual_seed(number)
                with contextlib.redirect_stdout(io.StringIO()):  # torchattacks prints that it found no device
                    crafted = craft(Classifier(scene.victim, 0), x, y).detach()
                x_adv = scene.victim.x.clone()
                x_adv[scene.clean] = crafted.unsqueeze(1)
                accuracies.append(float(scene.verdicts(x_adv).double().mean()))
                row.furthest = max(row.furthest, float(threats.distance(crafted - x, cell.norm, 3).max()) / cell.eps)
                outside += int(((crafted < 0) | (crafted > 1)).flatten(1).any(1).sum())
                attacked += len(x)
            row.robust, row.robust_ci95 = interval(accuracies)
            row.outside_box = outside / attacked
        except AssertionError as error:
            row.error = f"AssertionError: {error}"
        found.append(row)
    return found


def _by_name(cell: AgreementCell, name: str, tasks: int, root: Path | None) -> Default:
    row, accuracies = Default(cell.checkpoint, cell.norm, cell.eps, f"ours: {name}"), []
    for number, scene in enumerate(scenes(cell, tasks, root, torch.float32)):
        x_adv = catalog.attack(name)(scene.victim, cell.threat, Streams([number]))
        accuracies.append(float(scene.verdicts(x_adv).double().mean()))
        row.furthest = max(row.furthest, float(threats.distance(x_adv - scene.victim.x, cell.norm, 3).max()) / cell.eps)
    row.robust, row.robust_ci95 = interval(accuracies)
    return row


def save(rows: list[Any], path: Path) -> None:
    """Write one CSV line per row; floats to six digits, so that a last bit makes no difference between two runs."""
    names = [name for name in asdict(rows[0]) if name not in ("accuracies", "counted", "counted_double", "gaps")]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            values = (getattr(row, name) for name in names)
            writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])


def page(lines: list[Line], users: list[Default], command: str) -> str:
    """Write the report: equal knobs, why x differs, and what those get who set nothing."""
    libraries = [line for line in lines if line.library != "ours"]
    compared, equal = sum(line.clean_correct for line in libraries), sum(line.agree for line in libraries)
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    parts = [
        "# Agreement across libraries",
        f"At equal knobs **{equal} of {compared} verdicts** of {', '.join(LIBRARIES)} are ours: FGSM and PGD-20 on"
        f" adapted 5-way 5-shot learners, {lines[0].tasks} tasks of {SPEC.ways * SPEC.queries} test queries a cell.",
        f"Made by `make agreement` (`{command}`) with Python {platform.python_version()}, {versions},"
        " in float32 on one CPU thread. Numbers with more digits are in agreement.csv and defaults.csv.",
        VERDICTS,
        _verdict_table(lines),
        "## Where images and verdicts differ, and why",
        _difference_table(libraries),
        _reason_counts(libraries),
        REASONS,
        _twin_table(libraries),
        DEFAULTS,
        _default_table(users),
        NOTES,
    ]
    return "\n\n".join(parts) + "\n"


VERDICTS = """## Verdicts

PGD-20 is 20 steps of 2.5 eps / 20 on the cross entropy from the clean image, last iterate. FGSM in L2 is one step of
eps along the normalised gradient (torchattacks has none: its PGDL2 with one step). `n` queries are classified
correctly, `stands` is the share of them that survives ours, `equal` the number on which the library's verdict is ours.
Robust accuracy, in %, is over all queries, with a 95 % interval over tasks."""

REASONS = """What libraries do otherwise, established by `Twin`: our ascent on the queries that a library meets, with
its habits switched on one by one.

* **mean of the losses** (torchattacks, cleverhans): they differentiate the mean over a batch, foolbox and we the sum.
  Directions are equal in exact arithmetic; in float32 a gradient that nearly vanishes may round to the other sign,
  and in Linf the pixel then moves the other way.
* **ball before box** (foolbox, torchattacks; L2): they pull the unclipped step back into the ball and clip to the box
  after that, so what the box cuts off counts against the budget. cleverhans and we clip the step to the box first. In
  Linf the order makes no difference.
* **floor under a norm** (L2): foolbox divides a gradient by at least 1e-12, torchattacks adds 1e-10 to its norm, and
  cleverhans divides the mean loss's gradient by at least 1e-6: where a learner is confident and its cross entropy flat,
  the step is shorter than asked for. Ours has no floor but the least normal float.
* **rounding**: we score all queries of a task at once, libraries only those that are right; and foolbox and cleverhans
  sum up norms in another order than `torch.norm`.

The largest entry of |twin − library| in PGD-20, over the first five tasks, and with all habits over all tasks:"""

DEFAULTS = """## Why every knob is set

What a user gets who gives a library only what it demands: robust accuracy in % over the same queries. `eps × r` says
how far the furthest image lies from the clean one where that is beyond the budget, `box` which share of the images has
pixels outside [0, 1]. cleverhans has no default for the step and the number of steps: these are the ones of its
CIFAR-10 tutorial, 0.01 and 40. Ours is the preset `pgd-20`, which keeps the best iterate."""

NOTES = """* foolbox: LinfPGD takes 40 steps of eps / 30 and L2PGD 50 of eps / 40, from a random start.
* torchattacks: 10 steps of 2/255 in Linf and of 0.2 in L2, whatever eps is: in Linf they end short of budgets beyond
  20/255. With nothing set, eps is 8/255 or 1.0, whatever was meant.
* cleverhans: no clipping to the box unless told where it lies. Steps of 0.01 are refused by an assertion where eps is
  smaller, and 40 of them end short of L2 budgets beyond 0.4. Its labels default to the model's own predictions, which
  are the true ones here only because the queries that are wrong are left out."""


def _where(row: Line | Default) -> list[str]:
    eps = outcomes.eps_text(row.eps) if row.norm == "linf" else f"{row.eps:g}"
    return [row.checkpoint, f"{row.norm} {eps}"]


def _percent(mean: float | None, half: float | None) -> str:
    return "–" if mean is None or half is None else f"{100 * mean:.1f} ± {100 * half:.1f}"


def _grouped(lines: list[Line]) -> list[dict[str, Line]]:
    groups: dict[tuple[Any, ...], dict[str, Line]] = {}
    for line in lines:
        groups.setdefault((line.checkpoint, line.norm, line.attack), {})[line.library] = line
    return list(groups.values())


def _verdict_table(lines: list[Line]) -> str:
    head = ["checkpoint", "threat", "attack", "n", "stands", "ours"]
    rows = []
    for group in _grouped(lines):
        ours = group["ours"]
        row = [*_where(ours), ours.attack, str(ours.clean_correct), f"{ours.survived / ours.clean_correct:.0%}"]
        row.append(_percent(ours.robust, ours.robust_ci95))
        for name in LIBRARIES:
            row += [_percent(group[name].robust, group[name].robust_ci95), str(group[name].agree)]
        rows.append(row)
    return markdown.grid([*head, *(column for name in LIBRARIES for column in (name, "equal"))], rows)


def _difference_table(libraries: list[Line]) -> str:
    head = ["checkpoint", "threat", "attack", *(f"{name}: max abs(x − x')" for name in LIBRARIES)]
    rows = []
    for group in _grouped(libraries):
        first = group[LIBRARIES[0]]
        rows.append([*_where(first), first.attack, *(f"{group[name].largest_difference:.2g}" for name in LIBRARIES)])
    return markdown.grid(head, rows)


def _reason_counts(libraries: list[Line]) -> str:
    said = [
        f"* {' '.join(_where(line))}, {line.attack}, {line.library}, {width}: {reasons}"
        for line in libraries
        for width, reasons in (("float32", line.reasons), ("float64", line.double_reasons))
        if reasons
    ]
    apart = sum(line.twin_disagrees for line in libraries)
    double = sum(line.double_disagrees or 0 for line in libraries)
    in_double = sum(line.clean_correct for line in libraries if line.double_disagrees is not None)
    summary = (
        f"In float64, where cleverhans cannot compute, {double} of {in_double} verdicts of foolbox and torchattacks are"
        f" not ours. In float32 {apart} verdicts are not those of the twin that has all of a library's habits (below)."
        " Every disagreement, by the least set of habits that explains it:"
    )
    return f"{summary}\n\n" + ("\n".join(said) or "* none")


def _twin_table(libraries: list[Line]) -> str:
    reasons = [BATCH, MEAN, FLOOR, ORDER, f"{ORDER}, {FLOOR}"]
    rows = [
        [*_where(line), line.library, *(f"{line.gaps[one]:.2g}" if one in line.gaps else "" for one in reasons)]
        for line in libraries
        if line.attack == "PGD-20"
    ]
    return markdown.grid(
        ["checkpoint", "threat", "library", "no habit", *(f"+ {reason}" for reason in reasons[1:])], rows
    )


def _default_table(users: list[Default]) -> str:
    head = ["checkpoint", "threat", "ours: pgd-20", "foolbox", "torchattacks, eps given", "torchattacks", "cleverhans"]
    rows: dict[tuple[str, Norm], list[str]] = {}
    for user in users:
        said = user.error or _percent(user.robust, user.robust_ci95)
        if user.furthest > 1.001:
            said += f", eps × {user.furthest:.3g}"
        if user.outside_box:
            said += f", box {user.outside_box:.0%}"
        rows.setdefault((user.checkpoint, user.norm), _where(user)).append(said)
    return markdown.grid(head, list(rows.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("reports/agreement"))
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--cells", default="", help="only checkpoints whose name holds this")
    parser.add_argument("--data-root", type=Path, default=None, help="else the environment variable RBM_DATA")
    given = parser.parse_args()
    for package in ("torchattacks", "cleverhans"):
        require(package)
    torch.set_num_threads(1)
    lines: list[Line] = []
    users: list[Default] = []
    for cell in CELLS:
        if given.cells in cell.checkpoint:
            for attack in ("FGSM", "PGD-20"):
                print(cell.checkpoint, cell.norm, attack, flush=True)
                lines += compare(cell, attack, tasks=given.tasks, root=given.data_root)
            users += try_defaults(cell, tasks=given.tasks, root=given.data_root)
    given.out.mkdir(parents=True, exist_ok=True)
    save(lines, given.out / "agreement.csv")
    save(users, given.out / "defaults.csv")
    (given.out / "agreement.md").write_text(page(lines, users, f"python benchmarks/agreement.py --tasks {given.tasks}"))


if __name__ == "__main__":
    main()
