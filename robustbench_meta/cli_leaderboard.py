"""`rbm leaderboard` and `rbm submit-check`: what a board takes in, how it is made, and whether it is up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_meta.terminal import NEGATIVE, DataRoot, complain, console, print_table, said

BOARD = Path("reports/leaderboard")

leaderboard = typer.Typer(help="Add entries to a leaderboard, build its pages, and check that they are up to date.")

Board = Annotated[Path, typer.Argument(help="Folder of the leaderboard.")]
Checkpoints = Annotated[
    list[Path] | None, typer.Option("--ckpt", help="Checkpoint folder of a learner that is not shipped; repeat it.")
]


@leaderboard.command("add")
def add(
    results: Annotated[Path | None, typer.Argument(help="Folder that `rbm evaluate --out` wrote.")] = None,
    ckpt: Checkpoints = None,
    about: Annotated[
        Path | None, typer.Option(help="TOML or JSON: authors, paper, code, license of every learner in RESULTS.")
    ] = None,
    external: Annotated[
        Path | None, typer.Option(help="Folder of an external evaluation, whose examples are scored first.")
    ] = None,
    board: Annotated[Path, typer.Option(help="Folder of the leaderboard.")] = BOARD,
    data_root: DataRoot = None,
) -> None:
    """Write one entry for each learner in RESULTS, or add to those that are there; exit 1 where one is refused."""
    from robustbench_meta import __version__, checkpoint, submissions, tracks, verify
    from robustbench_meta import board as boards
    from robustbench_meta import external as claims
    from robustbench_meta.types import InputError

    if results is None and external is None:
        raise InputError("leaderboard: nothing to add; give RESULTS or --external")
    told = None if about is None else submissions.read_about(about)
    learners = verify.learners(ckpt or [])
    cards = {weights: checkpoint.read_card(folder / checkpoint.CARD) for weights, folder in learners.items()}
    entries = []
    if results is not None:
        entries = submissions.entries_of(results, cards, told or submissions.About(), __version__)
    with said(console()) as tell:
        judged = [] if external is None else claims.judge(external, learners, root=data_root, tell=tell)
    if refused := [one for one in judged if not one.accepted]:
        for one in refused:
            complain(f"{one.claim.authors}, {one.claim.attack}: {'; '.join(one.problems)}", NEGATIVE)
        raise typer.Exit(complain(f"leaderboard: {len(refused)} claims of {external} are refused", NEGATIVE))
    added = boards.add(board, entries, about=told, judged=judged, known=tracks.known_episodes(data_root))
    if added.problems:
        raise typer.Exit(_refuse([one.text for one in added.problems], f"nothing was added to {board}"))
    for file, state in added.entries.items():
        print(f"{board / submissions.ENTRIES / file}: {state}")
    console().print(f"Now try: rbm leaderboard build {board}")


@leaderboard.command("build")
def build(board: Board = BOARD) -> None:
    """Make leaderboard.html, leaderboard.md, cells.csv and figures/ from entries/ alone."""
    from robustbench_meta import board as boards

    for path in boards.build(board):
        print(path)


@leaderboard.command("check")
def check(board: Board = BOARD, data_root: DataRoot = None) -> None:
    """Exit 1 where an entry does not belong, or where a page is not what `build` makes of the entries.

    Drawings are compared by their names alone, since their bytes depend on the libraries that draw them; every text is
    compared by its bytes, leaderboard.html without its drawings.
    """
    from robustbench_meta import board as boards
    from robustbench_meta import submissions, tracks

    entries, problems = tracks.read(board / submissions.ENTRIES)
    known = tracks.known_episodes(data_root)
    problems += tracks.drawn(entries, known)
    if problems:
        raise typer.Exit(_refuse([one.text for one in problems], f"{len(problems)} problems in {board}"))
    if odd := boards.differences(board):
        raise typer.Exit(_refuse(odd, f"{board} is not what its entries make: `rbm leaderboard build {board}`"))
    print(f"{board}: {len(entries)} entries belong, and every text is what they make (drawings: names alone)")
    met = {(cell.cell.family, cell.cell.split) for entry in entries.values() for cell in entry.cells}
    for family, split in sorted(one for one in met if known(*one) is None):
        print(f"not checked: the episodes of {family} {split}, whose data are not here")


def submit_check(
    folder: Annotated[Path, typer.Argument(help="A checkpoint (also zoo:NAME), entries, or an external evaluation.")],
    ckpt: Checkpoints = None,
    board: Annotated[Path, typer.Option(help="The leaderboard that it is meant for.")] = BOARD,
    seconds: Annotated[float, typer.Option(help="Time for running stored numbers again.", min=0)] = 45.0,
    data_root: DataRoot = None,
) -> None:
    """Judge a submission before it is sent: exit 0 accepted, 1 refused with the reasons, 2 not to be judged here."""
    from robustbench_meta import intake, zoo

    with said(console()) as tell:
        found = intake.judge(zoo.folder(folder), ckpt or [], board=board, seconds=seconds, root=data_root, tell=tell)
    print_table(("", "", ""), [(one.status, one.what, one.detail) for one in found.findings])
    console(stderr=False).print(found.advice)
    if not found.accepted:
        raise typer.Exit(complain(f"submit-check: {folder} is refused", NEGATIVE))


def _refuse(lines: list[str], conclusion: str) -> int:
    for line in lines:
        complain(line, NEGATIVE)
    return complain(f"leaderboard: {conclusion}", NEGATIVE)
