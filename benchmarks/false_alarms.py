"""Count the flags that honest models raise and that maskers raise: every checkpoint, the honest learner, seven maskers.

    python benchmarks/false_alarms.py --out reports/flags [--data-root data] [--tasks 20] [--queries 5]

Audits go into OUT/results, so that a stopped run goes on; OUT/flags.md is written anew each time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from robustbench_meta import audit as audits
from robustbench_meta import catalog, checkpoint, flags, grid, maskers, outcomes, ranking, store, tracks
from robustbench_meta.flags import Flag
from robustbench_meta.types import Audit

ENTRIES = Path(__file__).parents[1] / "reports" / "leaderboard" / "entries"
EPS = 0.1  # of the objects; checkpoints meet the largest budget of their family


@dataclass(frozen=True)
class Line:
    """What one subject raised, over so many queries of so many tasks, in so many seconds of wall clock."""

    name: str
    honest: bool
    audit: Audit
    found: tuple[Flag, ...]
    tasks: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, default=Path(__file__).parents[1] / "checkpoints")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--entries", type=Path, default=ENTRIES)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--queries", type=int, default=5, help="per class")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for plan, honest in plans(given):
        lines.append(line(plan, honest, given.out / "results", given.tasks))
        print(f"{lines[-1].name}: {flags.codes(lines[-1].found) or 'none'}", flush=True)
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "flags.md").write_text(page(lines, given.entries), encoding="utf-8")


def plans(given: argparse.Namespace) -> Iterator[tuple[grid.Plan, bool]]:
    """Give a plan for every subject, and whether nothing may be flagged red."""
    strokes = catalog.family("strokes")
    subjects = [(grid.object_subject(maskers.Honest(), "honest", strokes, device="cpu", ways=5), True)]
    folders = [card.parent for card in given.checkpoints.glob(f"*/{checkpoint.CARD}")]
    for path in sorted(folders, key=lambda path: (not path.name.startswith("strokes"), path.name)):
        subjects.append((grid.load_subject(path, root=given.data_root, device="cpu"), True))
    for name, masker in maskers.MASKERS.items():
        subjects.append((grid.object_subject(masker, name, strokes, device="cpu", ways=5), False))
    attack = grid.named_attacks(["fgsm"])  # any: only the shape of the grid matters
    for subject, honest in subjects:
        eps = None if hasattr(subject.learner, "params") else (EPS,)
        plan = grid.make_plan(grid.Grid(attack, eps=eps, queries=given.queries), [subject], given.out / "results")
        yield plan, honest


def line(plan: grid.Plan, honest: bool, results: Path, tasks: int) -> Line:
    """Audit what is missing and raise the flags."""
    (job,) = audits.audits(plan)
    for failure in audits.run_audits(plan, results, tasks=range(tasks)):
        raise SystemExit(f"{job.audit.checkpoint}: {failure.reason}")
    found = [one for one in store.audited(results, job.audit) if one.task < tasks]
    about = job.audit
    raised = flags.of_audit(found, ways=about.spec.ways, surface=about.surface, transductive=about.norm_mode == "batch")
    seconds = store.seconds_per_task(results)[job.key] * len(found)
    return Line(job.audit.checkpoint, honest, job.audit, raised, len(found), seconds)


def page(lines: list[Line], entries: Path) -> str:
    spec, seed = lines[0].audit.spec, lines[0].audit.seed
    parts = [
        "# Flags: false alarms and maskers caught",
        f"Audits of {lines[0].tasks} tasks each, {spec.ways}-way {spec.shots}-shot, {spec.ways * spec.queries} queries "
        f"a task, test split, seed {seed}, version {lines[0].audit.version} of the audit, one thread of a shared CPU. "
        "A false alarm is a flag on a model that masks nothing: the checkpoints and the honest learner.",
        *_section("Honest models", [one for one in lines if one.honest], "raised no red flag"),
        *_section("Maskers", [one for one in lines if not one.honest], "raised no red flag and so escaped"),
        "## From stored verdicts",
        f"The verdicts of `{entries.parent.name}/{entries.name}`, whose attacks ran as a user runs them, with the "
        "audits there: 30 tasks of 75 queries, on which nothing was tuned, though 20 are the tasks above with more "
        "queries.",
        _stored(entries),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, lines: list[Line], none: str) -> list[str]:
    clear = sum(not flags.red(one.found) for one in lines)
    amber = sum(any(flag.colour == "amber" for flag in one.found) for one in lines)
    rows = [
        "| Subject | Family | ε | Red | Amber | What was found | Seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in lines:
        red, other = (flags.codes(f for f in one.found if f.colour == colour) or "none" for colour in ("red", "amber"))
        about = f"{one.audit.family} | {one.audit.norm} {outcomes.eps_text(one.audit.eps)}"
        details = "; ".join(flag.text for flag in one.found)
        rows.append(f"| {one.name} | {about} | {red} | {other} | {details} | {one.seconds:.0f} |")
    return [f"## {title}", f"{clear} of {len(lines)} {none}; {amber} raised an amber one.", "\n".join(rows)]


def _stored(entries: Path) -> str:
    rows = ["| Checkpoint | Board | Tasks | Flags | What was found |", "| --- | --- | --- | --- | --- |"]
    for board in ranking.standings(tracks.results_of(entries)):
        for one in board:
            about = f"{one.board.surface}, {one.board.shots}-shot, {one.board.norm}, {one.entry.steps or '–'} steps"
            details = "; ".join(f"{flag.colour} {flag.text}" for flag in one.check.flags)
            rows.append(f"| {one.entry.checkpoint} | {about} | {one.robust[2]} | {one.check.text} | {details} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
