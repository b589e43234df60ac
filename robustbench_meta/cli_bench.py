"""`rbm bench`: how long the engine takes, beside its peers, against another revision, and over the years."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from robustbench_meta.terminal import ENVIRONMENT, NEGATIVE, NOTHING, DataRoot, Device, complain, console, print_table

bench = typer.Typer(help="Time the engine beside its peers, against another revision, and over the years.")

Cases = Annotated[str | None, typer.Option(help="Names or patterns, as meta-step/*,attack/pgd-20.")]
Threads = Annotated[int, typer.Option(help="Threads; one gives the steadiest times.", min=1, max=1024)]


@bench.command("run")
def bench_run(
    cases: Cases = None,
    samples: Annotated[int, typer.Option(help="Samples a side, ours and the peer's in turn.", min=1)] = 5,
    size: Annotated[str, typer.Option(help="full, small or tiny.")] = "full",
    device: Device = "cpu",
    threads: Threads = 1,
    data_root: DataRoot = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the rows here as JSON lines.")] = None,
    append: Annotated[Path | None, typer.Option(help="Add the rows to this history.")] = None,
) -> None:
    """Time every case in this process, beside its peer where benchmarks/ is there."""
    from dataclasses import asdict

    import torch

    from robustbench_meta import grid as grids
    from robustbench_meta import timing
    from robustbench_meta.report import speed

    chosen, how_large = timing.choose_cases(cases, timing.RUN_CASES), timing.choose_size(size)
    where = grids.choose_device(device)
    # Opened before anything is measured, which may take an hour.
    for path, mode in ((json_out, "w"), (append, "a")):
        if path is not None:
            path.open(mode, encoding="utf-8").close()
    torch.set_num_threads(threads)
    timing.steady_allocator()
    screen, context, found = console(), _bench_context(size, where), []
    for case in chosen:
        screen.print(f"{case.name} ...")
        one = timing.compare(case, how_large, samples=samples, device=where, root=data_root)
        found.append(asdict(one))
        # At once, so that a stop loses no case.
        if append is not None and one.ours:
            speed.append(append, [context | found[-1]])
        if json_out is not None:
            speed.append(json_out, [context | found[-1]])
    print_table(*speed.table(found))
    for line in speed.absent(found):
        screen.print(line)
    if not any(one["ours"] for one in found):
        raise typer.Exit(complain("bench: no case could be measured here", NOTHING))


@bench.command("gate")
def bench_gate(
    base: Annotated[str, typer.Option(help="Revision to compare with, as origin/main.")],
    cases: Cases = None,
    samples: Annotated[int, typer.Option(help="Samples a side and round, each a fresh process; at least 12.")] = 12,
    threshold: Annotated[float, typer.Option(help="Ratio of medians from which on a case is slower.")] = 1.25,
    size: Annotated[str, typer.Option(help="full, small or tiny.")] = "small",
    device: Device = "cpu",
    threads: Threads = 1,
    data_root: DataRoot = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the verdicts here as JSON lines.")] = None,
) -> None:
    """Compare this checkout with another revision; exit 1 where it is slower, twice in a row.

    A case is slower where Mann-Whitney's one-sided p < 0.002 and the ratio of medians is above the threshold. Exit 4
    where nothing was measured, or where this checkout lacks a case that the base can run.
    """
    from robustbench_meta import gate, timing
    from robustbench_meta import grid as grids

    chosen = [case.name for case in timing.choose_cases(cases, timing.GATE_CASES)]
    timing.choose_size(size)
    gate.check(samples, threshold)
    options = gate.Options(size, grids.choose_device(device), threads, data_root)
    head, screen = gate.head_checkout(), console()
    commit = gate.resolve(head, base)
    try:
        with gate.worktree(head, commit) as folder:
            take = gate.sampler(folder, head, options)
            verdicts = gate.decide(chosen, take, samples=samples, threshold=threshold, tell=screen.print)
    except gate.SampleError as error:
        raise typer.Exit(complain(f"environment: {error}", ENVIRONMENT)) from None
    if json_out is not None:
        json_out.write_text("".join(f"{line}\n" for line in gate.lines(verdicts)), encoding="utf-8")
    print_table(*gate.table(verdicts))
    slower = [one.case for one in verdicts if one.slower]
    if slower:
        raise typer.Exit(complain(f"slower than {base}: {', '.join(slower)}", NEGATIVE))
    if lost := [one.case for one in verdicts if one.lost]:
        raise typer.Exit(complain(f"bench: not measured, though {base} can run it: {', '.join(lost)}", NOTHING))
    if not any(one.rounds for one in verdicts):
        raise typer.Exit(complain(f"bench: no case runs both here and in {base}", NOTHING))


@bench.command("history")
def bench_history(
    file: Annotated[Path, typer.Argument(help="JSON lines that `rbm bench run --append` wrote.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("bench.html"),
) -> None:
    """Write one page of trends, with the steps marked."""
    from robustbench_meta.report import speed
    from robustbench_meta.types import InputError

    def refuse(problem: str) -> NoReturn:
        raise InputError(problem)

    if not file.is_file():
        refuse(f"history: {file} is not a file")
    rows = speed.read(file, refuse)
    if not rows:
        raise typer.Exit(complain(f"history: {file} holds no run", NOTHING))
    out.write_text(speed.page(rows), encoding="utf-8", newline="\n")
    print(out)


def _bench_context(size: str, device: str) -> dict[str, Any]:
    """Say what all rows of a run share: when, what code, and on what."""
    from datetime import UTC, datetime

    from robustbench_meta import gate, timing
    from robustbench_meta.report import speed

    commit, changed = gate.commit_of(gate.TIMING.parents[1])
    date = datetime.now(UTC).isoformat(timespec="seconds")
    code = {"schema": speed.SCHEMA, "date": date, "commit": commit, "changed": changed, "size": size}
    return code | timing.describe_machine(device)
