"""The command `rbm`. Heavy imports wait inside the commands, so that help answers at once.

Exit status: 0 fine, 1 a negative result (a failed cell, a number that does not hold, a known answer missed, data that
is not there, a slower case, a drop that was not to be), 2 input, 3 environment (a disk that is full or read-only, git
that is not there), 4 nothing measured or compared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from robustbench_meta.cli_bench import bench
from robustbench_meta.cli_data import data
from robustbench_meta.cli_import import bring
from robustbench_meta.cli_leaderboard import leaderboard, submit_check
from robustbench_meta.cli_train import train
from robustbench_meta.cli_zoo import list_zoo, zoo_commands
from robustbench_meta.terminal import (
    ENVIRONMENT,
    INPUT,
    NEGATIVE,
    NOTHING,
    STOPPED,
    DataRoot,
    Device,
    FamilyOptions,
)
from robustbench_meta.terminal import bar as _bar
from robustbench_meta.terminal import complain as _complain
from robustbench_meta.terminal import console as _console
from robustbench_meta.terminal import known as _known
from robustbench_meta.terminal import pairs as _pairs
from robustbench_meta.terminal import print_table as _print_table
from robustbench_meta.terminal import said as _said

if TYPE_CHECKING:
    from rich.console import Console

    from robustbench_meta import executors, runs
    from robustbench_meta import grid as grids
    from robustbench_meta.types import TaskFamily

DEMO = ("strokes-protonet-standard", "strokes-protonet-aq")  # of the zoo
DEMO_EPS, DEMO_QUERIES = (0.05, 0.1), 5  # queries per class: 25 in a task
SHARED = ("steps", "task", "surface", "n", "seed")  # columns of the table that may be the same in every row

commands = typer.Typer(
    help="How robust is a model after it has learned a new task from a few examples?",
    add_completion=False,
    pretty_exceptions_enable=False,
)
commands.add_typer(data, name="data")
commands.add_typer(bench, name="bench")
commands.add_typer(leaderboard, name="leaderboard")
commands.add_typer(zoo_commands, name="zoo")
commands.command("submit-check")(submit_check)
commands.command("import")(bring)

Audited = Annotated[bool, typer.Option("--audit/--no-audit", help="Look for masked gradients afterwards.")]


def app() -> None:
    """Run the command line: one line on stderr for what went wrong, and the exit status for scripts."""
    usage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    try:
        status = commands(standalone_mode=False)
        if status == STOPPED:  # by Ctrl-C, of which typer makes this status without a word
            raise KeyboardInterrupt
    except (KeyboardInterrupt, typer.Abort):
        status = _complain("stopped; what was finished is kept, and the same command goes on", STOPPED)
    except usage as error:
        status = _complain(error.format_message(), INPUT)
    except (NotADirectoryError, FileExistsError) as error:
        status = _complain(f"{error.filename}: a file stands where a folder is needed", INPUT)
    except OSError as error:
        status = _complain(f"environment: {error}", ENVIRONMENT)
    except ValueError as error:
        from robustbench_meta.types import InputError

        if not isinstance(error, InputError):
            raise
        status = _complain(str(error), INPUT)
    sys.exit(status if isinstance(status, int) else 0)


@commands.callback(invoke_without_command=True)
def overview(context: typer.Context, version: Annotated[bool, typer.Option("--version")] = False) -> None:
    if version:
        from robustbench_meta import __version__

        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


@commands.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for results and report.")] = Path("rbm-demo"),
    tasks: Annotated[int, typer.Option(help="Tasks that AutoAttack meets; the others meet four times as many.")] = 10,
    audit: Audited = True,
) -> None:
    """Evaluate two shipped checkpoints, one standard and one adversarially trained, and write a report."""
    from robustbench_meta import grid as grids
    from robustbench_meta import runs as evaluations
    from robustbench_meta.executors import Here

    console = _console()
    console.print("Two learners that recognise drawn characters from 5 examples, attacked after they have learned.")
    subjects = [grids.load_subject(Path(f"zoo:{name}"), device="cpu") for name in DEMO]
    quick = grids.Grid(grids.named_attacks(["fgsm", "pgd-20"]), eps=DEMO_EPS, queries=DEMO_QUERIES)
    strong = grids.Grid(grids.named_attacks(["autoattack"]), eps=DEMO_EPS[-1:], queries=DEMO_QUERIES)
    results = out / "results"
    statuses = [
        _measure(evaluations.sole(axes, subjects, results, count), results, place=Here(), audit=audit)
        for axes, count in ((quick, 4 * tasks), (strong, tasks))
    ]
    pages = _write_report(results, out / "report")
    console.print(f"\nThe report is in {pages[0].parent.resolve()}: open leaderboard.html, or read leaderboard.md.")
    raise typer.Exit(max(statuses))


commands.command()(train)


@commands.command()
def evaluate(
    ckpt: Annotated[list[Path] | None, typer.Option(help="Checkpoint folder, or zoo:NAME; repeat it.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="Sets all options below; those given replace its own. See `rbm list protocols`."),
    ] = None,
    family: Annotated[str | None, typer.Option(help="Evaluate on this family, not the one trained on.")] = None,
    family_option: FamilyOptions = None,
    split: Annotated[str | None, typer.Option(help="train, val or test. Default: test.")] = None,
    shots: Annotated[str | None, typer.Option(help="As 1,5. Default: as trained.")] = None,
    steps: Annotated[
        str | None, typer.Option(help="Adaptation steps, as 1,5,10. Default: the algorithm's own.")
    ] = None,
    ways: Annotated[int | None, typer.Option(help="Classes in a task. Default: as trained.")] = None,
    queries: Annotated[int | None, typer.Option(help="Queries per class. Default: 15.")] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="See `rbm list attacks`; file:PATH is an adversarial test set. Default: fgsm,pgd-20,pgd-mt-50; of"
            " corruption all that serve the family."
        ),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(
            help="As 2/255,0.03. Default in linf: 2/255,4/255,8/255 for colour, 0.05,0.1 for grey images; of"
            " corruption the severities 1,2,3,4,5."
        ),
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option(
            help="linf, l2, l1; words (eps of them), labels of the support (eps in all), corruption (by severity)."
            " Default: linf."
        ),
    ] = None,
    surface: Annotated[
        str | None,
        typer.Option(
            help="query, support (poisoning), rollout, sequence. Default: query; rollout where learners act, sequence"
            " where they write."
        ),
    ] = None,
    fraction: Annotated[
        float | None, typer.Option(help="Of each class of a poisoned support, what is attacked. Default: 1.")
    ] = None,
    tasks: Annotated[int | None, typer.Option(help="Tasks per cell. Default: 100.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time, as 20m, that picks the number of tasks.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the tasks and attacks. Default: 0.")] = None,
    audit: Audited = True,
    data_root: DataRoot = None,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(help="Processes on this machine, one per GPU where there are several.")] = 1,
    executor: Annotated[str, typer.Option(help="local, or ray: a cluster that runs already.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster. Default: the one of this machine.")] = None,
    trust: Annotated[
        list[str] | None, typer.Option(help="Run this code of an imported checkpoint's, as module:function; repeat it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results; what is there is not run again.")] = Path("results"),
    save_adversarial: Annotated[
        bool, typer.Option("--save-adversarial", help="Keep every attacked query in OUT/adversarial.")
    ] = False,
) -> None:
    """Attack checkpoints over a grid. Lists are separated by commas; more of anything only adds."""
    from robustbench_meta import executors, protocols
    from robustbench_meta import grid as grids
    from robustbench_meta import runs as evaluations

    place = executors.choose_place(workers, executor, address, device)
    named = None if protocol is None else protocols.find(protocol)
    given: Any = {"norms": None if norm is None else _words(norm.lower(), "norm"), "split": split}
    given["surfaces"] = None if surface is None else _words(surface, "surface")
    given["eps"] = None if eps is None else tuple(grids.parse_eps(one) for one in _words(eps, "eps"))
    given["shots"] = None if shots is None else _numbers(shots, "shots")
    given["steps"] = None if steps is None else _numbers(steps, "steps")
    given["attacks"] = None if attacks is None else grids.named_attacks(_words(attacks, "attacks"))
    given["budget"] = None if budget is None else grids.parse_budget(budget)
    given |= {"ways": ways, "queries": queries, "seed": seed, "tasks": tasks, "save_adversarial": save_adversarial}
    given["fraction"] = fraction
    target = _target(family, family_option, data_root)
    if executor == "ray":
        device = "auto"  # here; what the cluster's devices do is the place's matter
    about: Any = {"family": target, "root": data_root, "device": device, "trust": trust or ()}
    subjects = [grids.load_subject(path, **about) for path in ckpt or []]
    run = evaluations.make(evaluations.Choice(**given), named, subjects, out)
    status = _measure(run, out, place=place, audit=audit)
    if status == 0:
        _console().print(f"Results: {out}. Now try: rbm report {out} --out {out}-report")
    raise typer.Exit(status)


@commands.command()
def report(
    results: Annotated[Path, typer.Argument(help="Folder that `rbm evaluate --out` wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report, else report; with --format a file, else stdout.")
    ] = None,
    form: Annotated[str | None, typer.Option("--format", help="latex, bibtex, csv or json, not a report.")] = None,
) -> None:
    """Write leaderboard.md, leaderboard.html, cells.csv and figures; or the leaderboard in one other format.

    Figures and sounds that an earlier report left in the folder go; files of yours stay.
    """
    from robustbench_meta import store
    from robustbench_meta.report import formats

    if form is not None:
        _known(form, tuple(formats.FORMATS), "format")
    there = store.read(results)
    if there.tasks.empty:
        raise typer.Exit(_complain(f"results: no task was measured in {results}", NOTHING))
    if form is not None:
        _write_bytes(formats.render(there, form).encode(), out)
        return
    for path in _write_report(results, out or Path("report")):
        print(path)


@commands.command()
def compare(
    a: Annotated[str, typer.Argument(help="A results folder; with --results a checkpoint's name, folder or zoo:NAME.")],
    b: Annotated[str, typer.Argument(help="What is compared with A.")],
    results: Annotated[Path | None, typer.Option(help="Compare two checkpoints inside this results folder.")] = None,
    fail_on_drop: Annotated[bool, typer.Option("--fail-on-drop", help="Exit 1 where B is worse, for CI.")] = False,
    tolerance: Annotated[float, typer.Option(help="Points that B may be lower by.")] = 0.0,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write everything here as JSON.")] = None,
) -> None:
    """Say what changed from A to B, by how much, and whether it is more than noise.

    Two runs are matched by checkpoint name, tasks, steps, attack and eps. B is worse where a worst case or a clean
    accuracy is lower, paired task by task and corrected for their number (Holm, 95 %), where an attack or an entry of
    A failed or is missing, and where a red flag is new. Exit 4 where nothing can be compared, and with --fail-on-drop
    where so few tasks could not show a drop, however large.
    """
    import json

    from robustbench_meta import compare as comparing
    from robustbench_meta import store

    if json_out is not None:  # a path that cannot be written is told before anything is read
        json_out.open("a", encoding="utf-8").close()
    if results is None:
        found = comparing.runs(store.read(Path(a)), store.read(Path(b)), tolerance / 100)
    else:
        found = comparing.checkpoints(store.read(results), a, b, tolerance / 100)
    if json_out is not None:
        json_out.write_text(json.dumps(found.json, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if found.rows:
        columns, rows, shared = comparing.table(found)
        _print_table(columns, rows)
        print(shared)
    for kind, lines in (("lost", found.lost), ("flagged", found.raised), ("note", found.notes)):
        for line in lines:
            print(f"{kind}: {line}")
    if not found.rows:
        raise typer.Exit(_complain(f"compare: nothing that is in both {a} and {b} can be compared", NOTHING))
    print(found.summary)
    if fail_on_drop and found.drops:
        raise typer.Exit(_complain(f"compare: {b} is worse than {a} in {len(found.drops)} of these", NEGATIVE))
    if found.blind:
        status = _complain(f"compare: {found.blind}", NOTHING)
        raise typer.Exit(status if fail_on_drop else 0)


@commands.command()
def verify(
    target: Annotated[Path, typer.Argument(help="A results folder, a checkpoint folder, its card.json, or zoo:NAME.")],
    ckpt: Annotated[list[Path] | None, typer.Option(help="Checkpoint folder of a learner that is not shipped.")] = None,
    seconds: Annotated[float, typer.Option(help="Time to spend; at least one task is run again.", min=0)] = 45.0,
    seed: Annotated[int, typer.Option(help="Draws the sample.", min=0)] = 0,
    data_root: DataRoot = None,
) -> None:
    """Run a sample of stored numbers again; exit 1 where one does not hold, 4 where none could be tried."""
    from robustbench_meta import checkpoint, zoo
    from robustbench_meta import verify as verifying

    console, target = _console(), zoo.folder(target)
    if target.name == checkpoint.CARD or (target / checkpoint.CARD).exists():
        found = verifying.verify_card(target, seconds=seconds, root=data_root)
    else:
        with _said(console) as tell:
            found = verifying.verify_results(target, ckpt or [], seconds=seconds, seed=seed, root=data_root, tell=tell)
    _print_table(("", "", ""), [(one.status, one.what, one.detail) for one in found.findings])
    _console(stderr=False).print(found.coverage)
    if found.fails:
        raise typer.Exit(_complain(f"verify: {target} does not hold", NEGATIVE))
    if not found.measured:
        raise typer.Exit(_complain(f"verify: no number of {target} was measured again to its end here", NOTHING))


@commands.command()
def doctor(
    results: Annotated[Path, typer.Argument(help="Where results are, or would go.")] = Path("results"),
    data_root: DataRoot = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show versions, devices, data and known traps; exit 3 where something that everything needs is broken."""
    import json
    from dataclasses import asdict

    from robustbench_meta import doctor as doctors

    checks = doctors.examine(results, data_root)
    if as_json:
        print(json.dumps([asdict(one) for one in checks], indent=1, allow_nan=False))
    else:
        _print_table(("", "", ""), [(one.state, one.name, one.text) for one in checks])
    if broken := [one.name for one in checks if one.state == "broken"]:
        raise typer.Exit(_complain(f"doctor: broken: {', '.join(broken)}", ENVIRONMENT))


@commands.command()
def selftest(
    only: Annotated[str | None, typer.Option(help="As K1,K8. Default: all.")] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first miss.")] = False,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the answers here as JSON.")] = None,
) -> None:
    """Check robust accuracies that are known before they are measured; exit 1 on any miss."""
    import json
    from dataclasses import asdict

    import torch

    from robustbench_meta import selftest as known

    if json_out is not None:  # a path that cannot be written is told before a minute is spent
        json_out.open("w", encoding="utf-8").close()
    torch.set_num_threads(1)  # tiny tensors on several threads only wait for one another
    console = _console()
    chosen = () if only is None else _words(only, "only")
    found = known.answers(chosen, fail_fast=fail_fast, tell=lambda one: console.print(f"{one.name}: {one.verdict}"))
    if json_out is not None:
        rows = [asdict(one) for one in found]
        json_out.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    _print_table(*known.table(found))
    missed = [one.name for one in found if not one.ok]
    held = f"{len(found) - len(missed)} of {len(found)} known answers hold"
    print(f"{held}, {sum(one.seconds for one in found):.0f} s")
    if missed:
        raise typer.Exit(_complain(f"selftest: missed {', '.join(missed)}", NEGATIVE))


@commands.command("list")
def list_names(
    kind: Annotated[
        str, typer.Argument(help="tasks, algorithms, defenses, attacks, networks, recipes, protocols or zoo.")
    ],
) -> None:
    """List the names that can be used."""
    from rich.table import Table
    from rich.text import Text

    kind = "tasks" if kind == "families" else kind  # as the documents call them
    if kind == "zoo":
        list_zoo()
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    for name, text in _described(kind):
        table.add_row(name, Text(text))
    _console(stderr=False).print(table)


def _measure(run: runs.Run, out: Path, *, place: executors.Place, audit: bool) -> int:
    """Run and show what was planned; return the exit status."""
    from robustbench_meta import audit as audits
    from robustbench_meta import grid as grids
    from robustbench_meta import protocols, ranking, statistics
    from robustbench_meta import runs as evaluations
    from robustbench_meta.untrusted import printable

    console = _console()
    foreseen = protocols.lines(evaluations.foreseen(run))

    def begin(batch: runs.Batch, slots: int) -> None:
        if batch is run.batches[0]:
            for line in [*(f"not run: {one}" for one in run.refused), *_opening(run), *foreseen]:
                console.print(line)
        if batch.budget is None:
            count = batch.tasks if batch.tasks is not None else grids.TASKS
            plan, done = batch.plan, grids.done(batch.plan, out, count)
            what = sorted({job.cell.attack for job in plan.jobs})
            part = f"{', '.join(map(printable, what))}: " if len(run.batches) > 1 else ""
            console.print(f"{part}{len(plan.jobs)} cells of {count} tasks, {done} done, {len(plan.jobs) - done} to run")
            if (seconds := grids.estimate(plan, out, count, slots=slots)) is not None and done < len(plan.jobs):
                after = audits.estimate(plan, out, count, slots=slots) if audit else 0.0
                console.print(f"estimated by earlier runs: {grids.foreseen(seconds, after)}")

    with _evaluation_bar(console) as watcher:
        failures, lost = evaluations.execute(run, out, place=place, audit=audit, watcher=watcher, begin=begin)
    found = grids.results_of(run.plan, out)
    _print_summary(statistics.summarise(found))
    for line in protocols.lines(evaluations.reached(run, out)):
        if line not in foreseen:
            console.print(line)
    for one in (one for board in ranking.checkpoints(found) for one in board):
        for flag in one.check.flags:
            console.print(f"{printable(one.entry.checkpoint)}: {flag.colour} flag {printable(flag.text)}")
    if lost:
        _complain(f"{len(lost)} audits failed; their reasons are in {out}/audits", NEGATIVE)
    if failures:
        return _complain(
            f"{len(failures)} of {len(run.plan.jobs)} cells failed; their reasons are in {out}/errors", NEGATIVE
        )
    return NEGATIVE if lost else 0


def _opening(run: runs.Run) -> Iterator[str]:
    """Say what is said once: the protocol, and whose steps axis has one value."""
    if run.protocol is not None:
        yield f"protocol {run.protocol.label}: {run.protocol.about}"
    for name in run.without_steps:
        yield f"{name}: adaptation has no steps; it runs once for the whole steps axis"


def _print_summary(summary: Any) -> None:
    """Print one row per cell; what all rows share goes into a line below."""
    from rich.table import Table
    from rich.text import Text

    from robustbench_meta.report.plain import rich_rows

    columns, rows = rich_rows(summary)
    shared = [i for i, name in enumerate(columns) if name in SHARED and len({row[i] for row in rows}) == 1]
    table = Table(*(name for i, name in enumerate(columns) if i not in shared), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(text) for i, text in enumerate(row) if i not in shared))
    console = _console(stderr=False)
    console.print(table)
    console.print(", ".join(f"{columns[i]} {rows[0][i]}" for i in shared))


def _write_bytes(content: bytes, out: Path | None) -> None:
    """Write to a file, or to stdout as it is, whatever encoding and line ends the terminal has."""
    from robustbench_meta.types import InputError

    if out is None:
        sys.stdout.buffer.write(content)
        return
    if out.is_dir():
        raise InputError(f"out: {out} is a folder; legal with --format: a file")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)


def _write_report(results: Path, out: Path) -> list[Path]:
    from robustbench_meta import store
    from robustbench_meta.report import folder

    return folder.write(store.read(results), store.read_gallery(results), out)


@contextmanager
def _evaluation_bar(console: Console) -> Iterator[grids.Watcher]:
    from robustbench_meta import grid as grids

    with _bar(console, "tasks") as update:

        def progress(now: grids.Progress) -> None:
            left = "" if now.seconds_left is None else f"{grids.duration(now.seconds_left)} left, "
            update(now.done, now.total, f"{left}{grids.label(now.cell)}")

        yield grids.Watcher(progress, lambda line: console.print(line))


def _described(kind: str) -> list[tuple[str, str]]:
    """Pair the names of a kind with a line on each."""
    from robustbench_meta import catalog, protocols, zoo

    _known(kind, [*catalog.KINDS, "recipes", "protocols", "zoo"], "list")
    if kind == "recipes":
        return [(path.stem, zoo.described(path)) for path in sorted(zoo.RECIPES.glob("*.toml"))]
    if kind == "protocols":
        return [(one.name, f"v{one.version} ({one.sha256[:8]}): {one.about}") for one in protocols.PRESETS.values()]
    shelf = catalog.shelf(cast(Any, kind))
    described = [(name, _described_one(value, kind)) for name, value in sorted(shelf.presets.items())]
    patterns = [_pattern(pattern) for pattern in sorted(shelf.patterns)]
    if kind == "attacks":
        patterns.append((f"{catalog.FILE}PATH", "an adversarial test set, as --save-adversarial keeps them"))
    return described + patterns


def _pattern(pattern: str) -> tuple[str, str]:
    """Write a family of names for people: a number in it, or the name of something."""
    number, name = pattern.replace(r"(\d+)", "N"), pattern.replace("(.+)", "NAME")
    return (name, "any NAME") if name != pattern else (number, "any number N")


def _described_one(value: Any, kind: str) -> str:
    """Give an exact configuration; where a recipe completes it, the first line of what it is and its options."""
    from dataclasses import MISSING, fields

    if kind not in ("tasks", "defenses"):
        return repr(value)
    made = value if isinstance(value, type) else type(value)
    hidden = ("root", "craft") if made is value or getattr(value, "craft", None) is None else ("root",)
    options = {f.name: getattr(value, f.name, f.default) for f in fields(made) if f.name not in hidden}
    settings = ", ".join(f"{name}={setting!r}" for name, setting in options.items() if setting is not MISSING)
    text = (made.__doc__ or "").strip().partition("\n")[0]
    return f"{text} [{settings}]" if settings else text


def _target(family: str | None, options: Sequence[str] | None, root: Path | None) -> TaskFamily | None:
    """Look up the family to evaluate on; None stands for each checkpoint's own."""
    from robustbench_meta.grid import choose_family
    from robustbench_meta.types import InputError

    if family is not None:
        return choose_family(family, root, **_pairs(options, "family-option"))
    if options:
        raise InputError(f"family-option: {options[0]!r} needs a family; give --family too")
    return None


def _words(text: str, option: str) -> tuple[str, ...]:
    """Part a list at its commas, each value once."""
    from robustbench_meta.types import InputError

    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise InputError(f"{option}: {text!r} names nothing; give values separated by commas")
    return words


def _numbers(text: str, option: str) -> tuple[int, ...]:
    from robustbench_meta.types import InputError

    words = _words(text, option)
    for word in words:
        if not word.isdecimal():
            raise InputError(f"{option}: {word!r} is not a whole number; give values such as 1,5")
    return tuple(dict.fromkeys(map(int, words)))
