"""`rbm data`: bring what task families need from its publishers, and say what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from robustbench_meta.terminal import NEGATIVE, DataRoot, FamilyOptions, console, pairs

data = typer.Typer(help="Bring and check the data of task families.")


@data.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="A task family, see `rbm list tasks`.")], data_root: DataRoot = None
) -> None:
    """Download what a family needs from its publisher; a stopped download goes on."""
    from robustbench_meta import downloads
    from robustbench_meta.grid import choose_family

    family: Any = choose_family(name, data_root)
    if not getattr(family, "sources", ()):
        print(f"{name}: nothing to download")
        return
    with _download_bar() as progress:
        downloads.fetch_all(family, progress=progress)
    foreign = False
    for found in downloads.available(family):
        print(f"{found.path}: {found.state} ({found.detail})")
        foreign |= found.state == "other"
    raise typer.Exit(NEGATIVE if foreign else 0)


@data.command("check")
def data_check(
    name: Annotated[str | None, typer.Argument(help="A task family; all of them if none is named.")] = None,
    data_root: DataRoot = None,
    ways: Annotated[int | None, typer.Option(help="Classes of a task that must be drawn; default 5, or all.")] = None,
    family_option: FamilyOptions = None,
) -> None:
    """Say what is there of a family's data, and whether tasks can be drawn from it."""
    from robustbench_meta import catalog, doctor, downloads
    from robustbench_meta.grid import choose_family
    from robustbench_meta.types import InputError

    status = 0
    if family_option and not name:
        raise InputError(f"family-option: {family_option[0]!r} needs a family; name it")
    for one in [name] if name else catalog.names("tasks"):
        family: Any = choose_family(one, data_root, **pairs(family_option, "family-option"))
        try:
            for found in downloads.available(family) if getattr(family, "sources", ()) else []:
                print(f"{one}: {found.path}: {found.state} ({found.detail})")
            for line in doctor.stock(family, ways):
                print(f"{one}: {line}")
            print(f"{one}: {doctor.readiness(family, ways=ways)}")
        except InputError as error:
            wanted = "" if name else doctor.wanted(family)
            print(f"{one}: {wanted or 'not ready: ' + str(error).removeprefix(f'{one}: ')}")
            status = NEGATIVE if name else status
    raise typer.Exit(status)


@contextmanager
def _download_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console()) as bar:
        known: dict[str, Any] = {}

        def progress(name: str, done: int, total: int | None) -> None:
            if name not in known:
                known[name] = bar.add_task(name, total=total)
            bar.update(known[name], completed=done, total=total)

        yield progress
