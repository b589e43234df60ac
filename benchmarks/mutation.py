"""Would `rbm selftest` notice? Plants 12 bugs one at a time into a copy of the package, and runs it there.

    make mutation    # or: python benchmarks/mutation.py --out reports/mutation [--only sign-flip,eps-halved]

A bug is caught where the self-test exits with 1 and names the known answer it missed. A crash is not a catch. Exit
status 1 unless every bug is caught and the unchanged copy passes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import robustbench_meta
from robustbench_meta import gate

PACKAGE = Path(robustbench_meta.__file__).parent
CONTROL = "none"


@dataclass(frozen=True)
class Mutant:
    """One bug: `old`, which stands exactly once in `file`, becomes `new`."""

    name: str
    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Outcome:
    """What the self-test said of one copy; `missed` is the known answer that noticed, `found` what it found."""

    mutant: str
    file: str
    caught: bool
    missed: str
    found: str
    status: int
    seconds: float
    commit: str


MUTANTS = (
    Mutant("sign flip", "ascent.py", "threats.ascend(x, gradient, length,", "threats.ascend(x, -gradient, length,"),
    Mutant(
        "eps x 255",
        "evaluate.py",
        "    rng = Streams([seed_of(_stream(cell), task) for task in tasks])\n",
        "    rng = Streams([seed_of(_stream(cell), task) for task in tasks])\n"
        "    wide = Threat(cell.threat.norm, 255 * cell.threat.eps, cell.threat.surface)\n"
        '    cell = Cell(**{**vars(cell), "threat": wide})\n',
    ),
    Mutant("no clamp", "threats.py", "return (x + inside).clamp(box.low, box.high)", "return x + inside"),
    Mutant("train mode", "engine.py", '            "support": support,\n', '            "support": self._by_batch,\n'),
    Mutant("missing normalisation", "networks.py", "            kernel = kernel * scale.view(-1, 1, 1, 1)\n", ""),
    Mutant("targets off by one", "losses.py", "stable=True)[..., :-1]", "stable=True)[..., 1:]"),
    Mutant(
        "best iterate lost",
        "ascent.py",
        "            self.offer(x, outputs, points)\n            left",
        "            left",
    ),
    Mutant(
        "seed ignored",
        "types.py",
        "[torch.Generator().manual_seed(seed) for seed in seeds]",
        "[torch.Generator().manual_seed(0) for seed in seeds]",
    ),
    Mutant(
        "labels shuffled",
        "episodes.py",
        "torch.arange(ways).repeat_interleave(each)",
        "torch.arange(ways).repeat(each)",
    ),
    Mutant("eps / 2", "threats.py", "shrink(moved, room, threat.eps)", "shrink(moved, room, threat.eps / 2)"),
    Mutant(
        "one step for forty",
        "attacks/pgd.py",
        "return MultiTargetedPGD(steps, step=2.5 / steps)",
        "return MultiTargetedPGD(1, step=2.5)",
    ),
    Mutant(
        "exception counted as robust",
        "grid.py",
        "        except Exception as error:\n            lacked, reason = out_of_memory(error), reason_of(error)\n",
        "        except Exception:\n"
        "            right = (True,) * (job.cell.spec.ways * job.cell.spec.queries)\n"
        "            found = Block([store.Record(task, right, right, 0.0, 0, 0) for task in tasks], None)\n",
    ),
)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.jsonl")
    options.add_argument("--only", default="", help="names of mutants, separated by commas")
    given = options.parse_args()
    wanted = [name.strip() for name in given.only.split(",") if name.strip()]
    chosen = [mutant for mutant in MUTANTS if not wanted or mutant.name in wanted]
    if unknown := set(wanted) - {mutant.name for mutant in MUTANTS}:
        options.error(f"only: {', '.join(sorted(unknown))} is unknown; legal: {', '.join(one.name for one in MUTANTS)}")
    texts = [planted(mutant, PACKAGE) for mutant in chosen]  # all of them, before the first minute is spent
    found = [examine(None, "")]
    for mutant, text in zip(chosen, texts, strict=True):
        print(describe(found[-1]), flush=True)
        found.append(examine(mutant, text))
    print(describe(found[-1]))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(asdict(one), allow_nan=False) + "\n" for one in found)
    given.out.with_suffix(".jsonl").write_text(rows, encoding="utf-8")
    given.out.with_suffix(".md").write_text(report(found), encoding="utf-8")
    good = passed(found[0]) and all(one.caught for one in found[1:])
    print(summary(found))
    return 0 if good else 1


def planted(mutant: Mutant, package: Path) -> str:
    """Return the text of the mutant's file with the bug in it; raise ValueError unless it fits exactly once."""
    text = (package / mutant.file).read_text(encoding="utf-8")
    if (times := text.count(mutant.old)) != 1:
        raise ValueError(f"{mutant.name}: {mutant.old!r} stands {times} times in {mutant.file}, not once")
    return text.replace(mutant.old, mutant.new)


def examine(mutant: Mutant | None, text: str) -> Outcome:
    """Run the self-test on a copy of the package, up to its first miss; without a mutant, all of it."""
    commit, changed = gate.commit_of(PACKAGE.parent)
    with tempfile.TemporaryDirectory(prefix="rbm-mutation-") as scratch:
        folder = Path(scratch)
        shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            (folder / PACKAGE.name / mutant.file).write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", PACKAGE.name, "selftest", "--fail-fast", "--json", "answers.json"]
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        started = time.monotonic()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        seconds = time.monotonic() - started
        answers = (folder / "answers.json").read_text(encoding="utf-8") if (folder / "answers.json").is_file() else ""
    missed = [one for one in json.loads(answers or "[]") if not one["ok"]]
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return Outcome(
        mutant=CONTROL if mutant is None else mutant.name,
        file="" if mutant is None else mutant.file,
        caught=done.returncode == 1 and bool(missed),
        missed=missed[0]["name"] if missed else "",
        found=missed[0]["found"] if missed else ("" if done.returncode == 0 else last[:200]),
        status=done.returncode,
        seconds=round(seconds, 1),
        commit=commit + ("+" if changed else ""),
    )


def passed(control: Outcome) -> bool:
    return control.status == 0 and not control.missed


def describe(one: Outcome) -> str:
    verdict = f"caught by {one.missed}" if one.caught else "passes" if one.status == 0 else "crashed"
    return f"{one.mutant}: {verdict}, {one.seconds:.0f} s {one.found}".rstrip()


def summary(found: Sequence[Outcome]) -> str:
    control, *mutants = found
    verdict = "passes" if passed(control) else "FAILS"
    return f"{sum(one.caught for one in mutants)} of {len(mutants)} bugs caught; without a bug the self-test {verdict}"


def report(found: Sequence[Outcome]) -> str:
    """Write what was planted, where, and which known answer noticed."""
    rows = [
        f"| {one.mutant} | {one.file or '–'} | {one.missed or ('–' if one.status == 0 else 'crashed')} "
        f"| {one.found.replace('|', '/') or '–'} | {one.seconds:.0f} |"
        for one in found
    ]
    lines = (
        "# Planted bugs",
        "",
        "Each bug is planted alone into a copy of the package, where `rbm selftest --fail-fast` runs on one thread.",
        "The first row is the copy without a bug: all known answers. Made by `make mutation` on commit",
        f"{found[0].commit[:12]}{'+' if found[0].commit.endswith('+') else ''}; seconds are of wall clock.",
        "",
        f"**{summary(found)}.**",
        "",
        "| bug | file | first known answer missed | which found | seconds |",
        "|---|---|---|---|---:|",
        *rows,
        "",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
