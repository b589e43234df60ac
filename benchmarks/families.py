"""Is every family a task? What learners know without its support, with it, under noise and under attack.

    python benchmarks/families.py run --data-root data --out RESULTS     # resumable; --family strokes: it alone
    python benchmarks/families.py write RESULTS                          # reports/families.md; others' rows stay

A family is a task where the support is needed (learners know nothing without it, or with its labels shuffled; where
they act or write, they then succeed in few rollouts or sequences), where it is enough (adapted learners are far above
chance), where an adversary matters (learners without defense lose half of what they have above chance) and where it
takes an adversary (noise of the same budget costs a tenth of what the adversary does at most). A pair of learners
stands for each family: without defense and adversarially trained. Both meet the same test tasks.

Whether half is lost is asked of every task, and answered by the mean over tasks of what is lost beyond half of what is
above chance. Before, 50 points of accuracy were asked for, which a learner that has 49.8 % cannot lose. So is whether
noise costs more than a tenth: before, the tenth was of the mean that the attack takes, as if it were known exactly.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch

import robustbench_meta
from robustbench_meta import catalog, store
from robustbench_meta.environments import acts
from robustbench_meta.intervals import interval, paired_p
from robustbench_meta.report.markdown import grid
from robustbench_meta.report.naming import threat_text
from robustbench_meta.types import Box, Episodes, Norm, Spec, Split, TaskFamily

WAYS = 5
PAGE = Path(__file__).resolve().parents[1] / "reports" / "families.md"
NOISE = "noise-1"
ABOVE = 20.0  # points by which adapted learners are above chance at least
LOST = 0.5  # of what a learner has above chance, the least that an attack that matters takes
SHARE = 0.1  # of what an attack takes, the most that noise may take
ALIKE = 60.0  # degrees: tasks of learners that act are alike where their hidden angles are no further apart
FOREIGN = 1_000_000  # how much further on the task lies whose support another is given


@dataclass(frozen=True)
class Case:
    """A family, the pair of learners that stands for it, and an adversary with a budget."""

    family: str
    algorithm: str
    eps: float
    norm: Norm = "linf"
    attack: str = "pgd-20"
    queries: int = 15
    tasks: int = 30

    @property
    def acts(self) -> bool:
        return acts(catalog.shelf("tasks").presets[self.family])

    @property
    def writes(self) -> bool:
        return bool(catalog.shelf("tasks").presets[self.family].space.labels > 1)

    @property
    def chance(self) -> float:
        """What a constant predictor has, in %."""
        return 0.0 if self.acts or self.writes else 100 / WAYS

    @property
    def learners(self) -> list[str]:
        return [f"zoo:{self.family}-{self.algorithm}-{defense}" for defense in ("standard", "aq")]


CASES = (
    Case("cifar-fs", "protonet", 8 / 255),
    Case("omniglot", "protonet", 0.1),
    Case("strokes", "protonet", 0.1),
    Case("spoken-digits", "protonet", 0.005),
    Case("clinc150", "protonet", 0.01),
    Case("clinc150", "protonet", 2.0, "words", "words-exhaustive"),
    Case("navigation", "protonet", 0.05),
    Case("reach", "protonet", 0.02, tasks=120),
    Case("transduction", "r2d2", 0.02),
    Case("transduction", "r2d2", 2.0, "words", "words-exhaustive"),
    Case("compression", "r2d2", 0.02),
    Case("compression", "r2d2", 2.0, "words", "words-exhaustive"),
    Case("reacher", "protonet", 0.02, queries=1, tasks=20),
    Case("reacher", "protonet", 0.05, queries=1, tasks=20),
)


@dataclass(frozen=True)
class Misled:
    """A family whose support tells nothing: of other classes, or with its labels dealt anew within each task."""

    family: Any
    how: str

    duplicates: ClassVar[bool] = True  # the support of another task may hold its queries

    @property
    def name(self) -> str:
        return f"{self.family.name}-{self.how}"

    @property
    def space(self) -> Box:
        space: Box = self.family.space
        return space

    @property
    def default_network(self) -> str:
        return str(self.family.default_network)

    @property
    def default_network_options(self) -> Any:
        return self.family.default_network_options

    def classes(self, split: Split) -> list[str]:
        return list(self.family.classes(split))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "family":  # before there is a family, as in unpickling
            raise AttributeError(name)
        return getattr(self.family, name)  # what a family has besides, as simulators do

    def sample(self, split: Split, spec: Spec, indices: Sequence[int], *, seed: int = 0) -> Episodes:
        """Return the family's tasks, each with the support of one a million further on, or with labels shuffled."""
        own: Episodes = self.family.sample(split, spec, indices, seed=seed)
        if self.how == "foreign":
            other = self.family.sample(split, spec, [index + FOREIGN for index in indices], seed=seed)
            return replace(own, support_x=other.support_x, support_y=other.support_y)
        orders = [
            torch.randperm(own.support_y.shape[1], generator=torch.Generator().manual_seed(index)) for index in indices
        ]
        return replace(own, support_y=torch.stack([y[order] for y, order in zip(own.support_y, orders, strict=True)]))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    running, writing = commands.add_parser("run"), commands.add_parser("write")
    running.add_argument("--data-root", type=Path)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--tasks", type=int, help="instead of those of each case")
    running.add_argument("--family", choices=sorted({case.family for case in CASES}))
    writing.add_argument("results", type=Path)
    args = parser.parse_args(argv)
    if args.command == "write":
        PAGE.write_text(page(args.results), encoding="utf-8")
        print(PAGE)
        return 0
    for case in (case for case in CASES if args.family in (None, case.family)):
        run(case, args.data_root, args.out, case.tasks if args.tasks is None else args.tasks)
        print(f"{case.family}, {threat_text(case.norm, case.eps)}: done", flush=True)
    return 0


def run(case: Case, data_root: Path | None, out: Path, tasks: int) -> None:
    """Measure what a case's table says: attacks on the family, and clean accuracy where the support is of no use."""
    family = catalog.family(case.family, root=data_root)
    common: dict[str, Any] = {"norm": case.norm, "tasks": tasks, "audit": False, "out": out, "queries": case.queries}
    robustbench_meta.evaluate(case.learners, family=family, attacks=[NOISE, case.attack], eps=[case.eps], **common)
    if case.norm == "linf":
        for how in ("foreign", "shuffled"):
            misled: TaskFamily = Misled(family, how)
            robustbench_meta.evaluate(case.learners, family=misled, attacks=[NOISE], eps=[0.0], **common)


def page(results: Path) -> str:
    """Write the page; of cases that the results do not hold it keeps the lines that it has."""
    read = store.read(results)
    cells = read.cells
    tasks = dict(iter(read.tasks.groupby("key")))
    before = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []
    rows, verdicts = [], []
    for case in CASES:
        if not ((cells["family"] == case.family) & (cells["norm"] == case.norm) & (cells["eps"] == case.eps)).any():
            kept = [f"{name.removeprefix('zoo:')} | {threat_text(case.norm, case.eps)}" for name in case.learners]
            told = f"- `{case.family}`, {threat_text(case.norm, case.eps)},"
            rows += [line[2:-2].split(" | ") for line in before if line.startswith(tuple(f"| {one} |" for one in kept))]
            verdicts += [line for line in before if line.startswith(told)]
            continue
        found = [_of(case, name.removeprefix("zoo:"), cells, tasks) for name in case.learners]
        for name, one in zip(case.learners, found, strict=True):
            shown = [_text(one.get(part)) for part in ("foreign", "shuffled", "clean", "noise", "attack")]
            rows.append([name.removeprefix("zoo:"), threat_text(case.norm, case.eps), *shown, str(len(one["clean"]))])
        verdicts.append(_verdict(case, *found))
    header = ["Learner", "Budget", "Another's support", "Labels shuffled", "Clean", "Noise", "Attack", "n"]
    told = [
        "Made by `python benchmarks/families.py run --out RESULTS` and `write RESULTS`: test tasks of "
        f"{WAYS} ways and 5 shots, seed 0, one training seed each; accuracy in %, ± the half-width of the 95 % "
        f"interval over n tasks. Chance is {100 / WAYS:.0f} %. Of `navigation`, `reach` and `reacher`, with 8 actions, "
        "success rates of rollouts in %, 120 a task, of `reacher` 8; who does one thing all the time has 0. Of "
        "`transduction` and `compression`, with 9 tokens, sentences in %, 135 a task, of which every token is right; "
        "who writes one token all the time has 0.",
        "- **Another's support**: the learner adapts to other classes than it is asked about. **Labels shuffled**: to "
        "the right inputs, with labels dealt anew. What it knows then it knows without learning the task.\n"
        "- **Noise**: one random draw of the budget. **Attack**: `pgd-20`, or `words-exhaustive` where words are "
        "replaced, which scores all that the budget allows.\n"
        "- An attack matters where it takes half of what the learner has above chance: the mean over tasks of what is "
        "lost beyond that half is told with its interval, which must lie above 0. Before, 50 points of accuracy were "
        "asked for, which a learner that has 49.8 % cannot lose; by that, `compression` said no twice and "
        "`transduction` no of words. `reach` has 120 tasks because 30 had left two of its answers undecided.\n"
        "- Noise does not do it where it takes a tenth of what the attack does at most: the mean over tasks of what "
        "is left of that tenth is told with its interval, too. Above 0 it is a yes, below a no, and with 0 in it "
        "undecided at this n. Before, the tenth was of the attack's mean, taken as exact; the change turned none of "
        "the 14 verdicts that there were.",
    ]
    parts = ["# Is every family a task?", *told, grid(header, rows), "## Verdicts", "\n".join(verdicts)]
    return "\n\n".join(parts) + "\n"


def _of(case: Case, name: str, cells: pd.DataFrame, tasks: dict[str, pd.DataFrame]) -> dict[str, list[float]]:
    """Return accuracies in % by task: of the two misleading supports, clean, under noise and under attack.

    Of learners that act, also `alike` and `unlike`: those of another's support, by how like their own that is.
    """
    mine = cells[cells["checkpoint"] == name]
    own = mine[(mine["family"] == case.family) & (mine["norm"] == case.norm) & (mine["eps"] == case.eps)]
    made = {}
    for part, attack in (("noise", NOISE), ("attack", case.attack)):
        key = own[own["attack"] == attack]["key"].item()
        made[part] = _shares(tasks[key]["survived"])
        made["clean"] = _shares(tasks[key]["clean"])
    for how in ("foreign", "shuffled"):
        there = mine[mine["family"] == f"{case.family}-{how}"]
        made[how] = _shares(tasks[there["key"].iloc[0]]["clean"])
    if case.acts:
        near = alike(case.family, tasks[key]["task"].tolist(), int(own["ways"].iloc[0]))
        made["alike"] = [share for share, close in zip(made["foreign"], near, strict=True) if close]
        made["unlike"] = [share for share, close in zip(made["foreign"], near, strict=True) if not close]
    return made


def alike(name: str, indices: Sequence[int], ways: int) -> list[bool]:
    """Say of tasks of learners that act which have a hidden angle within ALIKE degrees of the other's."""
    family: Any = catalog.family(name)
    spec = Spec(ways=ways, queries=1)
    own, other = (family.trials("test", spec, [index + on for index in indices])["turn"][:, 0] for on in (0, FOREIGN))
    apart = (torch.rad2deg(own - other) + 180) % 360 - 180
    return [bool(close) for close in apart.abs() <= ALIKE]


def _shares(bits: Sequence[str]) -> list[float]:
    return [100 * row.count("1") / len(row) for row in bits]


def _text(values: Sequence[float] | None) -> str:
    return "–" if values is None else "{:.1f} ± {:.1f}".format(*interval(values))


def _verdict(case: Case, standard: dict[str, list[float]], robust: dict[str, list[float]]) -> str:
    """Answer the four questions of the learner without defense, and give the difference that training makes."""
    chance = case.chance
    ignorant = [interval(standard[how]) for how in ("foreign", "shuffled")]
    clean, half = interval(standard["clean"])
    falls = _less(standard["clean"], standard["attack"])
    beyond = [fall - LOST * (own - chance) for fall, own in zip(falls, standard["clean"], strict=True)]
    lost, lost_half = interval(falls)
    by_noise = _less(standard["clean"], standard["noise"])
    left = [SHARE * fall - cost for fall, cost in zip(falls, by_noise, strict=True)]
    needed = "yes" if all(abs(mean - chance) <= half for mean, half in ignorant) else "**no**"
    why = "whether chance lies in both intervals"
    if case.acts or case.writes:  # a few rollouts or sentences succeed by luck
        luck, luck_half = max(ignorant, key=sum)
        needed, why = _above(-luck, luck_half, -ABOVE), f"at most {luck:.1f} ± {luck_half:.1f} % succeed without"
    if case.acts:
        near, far = (f"{_text(standard[how])} % of {len(standard[how])}" for how in ("alike", "unlike"))
        why += f"; with the support of a task whose angle is within {ALIKE:.0f}° {near}, with others {far}"
    answers = [
        ("the support is needed", needed, why),
        ("it is enough", _above(clean, half, chance + ABOVE), f"{clean:.1f} ± {half:.1f} %"),
        (
            "an attack matters",
            _above(*interval(beyond), 0.0),
            f"{lost:.1f} ± {lost_half:.1f} points lost, {_signed(beyond)} beyond half of what is above chance",
        ),
        (
            "noise does not do it",
            _above(*interval(left), 0.0),
            f"{_text(by_noise)} points lost, {_signed(left)} left of a tenth of the attack's",
        ),
    ]
    said = "; ".join(f"{what}: {answer} ({why})" for what, answer, why in answers)
    gained, price = _less(robust["attack"], standard["attack"]), _less(robust["clean"], standard["clean"])
    return (
        f"- `{case.family}`, {threat_text(case.norm, case.eps)}, without defense: {said}. Adversarial training: "
        f"{_signed(gained)} points under attack (p = {paired_p(gained):.1g}), {_signed(price)} clean."
    )


def _above(mean: float, half: float, bound: float) -> str:
    """Say whether an interval lies above a bound; where the bound lies in it, nothing is shown."""
    return "yes" if mean - half >= bound else "**no**" if mean + half < bound else "undecided"


def _less(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(a, b, strict=True)]


def _signed(values: Sequence[float]) -> str:
    return "{:+.1f} ± {:.1f}".format(*interval(values))


if __name__ == "__main__":
    sys.exit(main())
