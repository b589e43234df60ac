"""`rbm zoo` and `rbm list zoo`: what ships under a name, pinned by hashes, and the page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_meta.terminal import console, print_table

if TYPE_CHECKING:
    from robustbench_meta.checkpoint import Card, Recipe
    from robustbench_meta.zoo import Entry

PLACE, PAGE = Path("checkpoints"), Path("docs/zoo.md")
BEGIN, END = "<!-- made by `rbm zoo pin` -->", "<!-- until here -->"
COLUMNS = (
    *("name", "state", "family", "algorithm", "defense", "network", "kB"),
    *("clean %", "robust %", "under", "n", "minutes", "SHA-256"),
)

zoo_commands = typer.Typer(help="Add checkpoints to the zoo and pin what it holds.")

Place = Annotated[Path, typer.Argument(help="Folder of checkpoints.")]
Page = Annotated[Path, typer.Option(help="The page that shows them, where it is there.")]


@zoo_commands.command("pin")
def pin(place: Place = PLACE, page: Page = PAGE) -> None:
    """Write zoo.json, the hashes of every checkpoint that a shipped recipe makes, and the tables of the page."""
    from robustbench_meta import zoo

    changes = zoo.pin(place)
    for name, change in changes.items():
        if change != "same":
            print(f"{name}: {change}")
    for name in zoo.contents(place)[1]:
        print(f"{name}: not pinned, since no shipped recipe makes it")
    print(f"{place / zoo.MANIFEST}: {sum(one != 'removed' for one in changes.values())} checkpoints")
    write_page(place, page)


@zoo_commands.command("add")
def add(
    run: Annotated[Path, typer.Argument(help="Folder of a finished checkpoint, named as its recipe or NAME-seedN.")],
    place: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = PLACE,
    page: Page = PAGE,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where validation does not say it is better.")
    ] = False,
) -> None:
    """Copy a finished checkpoint into the zoo and pin it; one that is better in validation is not replaced."""
    from robustbench_meta import zoo

    print(f"{place / run.resolve().name}: {zoo.add(run, place, replace=replace)}")
    write_page(place, page)


def list_zoo() -> None:
    """Print what `rbm list zoo` shows, and after it, whole, why what is damaged cannot be used."""
    from robustbench_meta import zoo

    found = zoo.entries(zoo.home())
    print_table(COLUMNS, [_row(entry) for entry in found])
    for entry in found:
        if entry.problem:
            console().print(f"{entry.name}: {entry.problem}", soft_wrap=True)


def render(text: str, entries: Sequence[Entry]) -> str:
    """Return a page with the tables between its two marks made anew; raise InputError where it has not both, once."""
    from robustbench_meta.types import InputError

    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in tail:
        raise InputError(f"page: needs {BEGIN} and after it {END}, each once")
    return head + BEGIN + "\n\n" + _tables(entries) + "\n" + END + tail


def _tables(entries: Sequence[Entry]) -> str:
    """Write what is shipped, with its numbers and the command that makes it again, and what has only a recipe."""
    from robustbench_meta import zoo
    from robustbench_meta.report.markdown import escape, grid

    shipped = [
        (f"`{one.name}`", *cells[5:7], *cells[7:12], _maker(one.card), f"`{zoo.command(one.name, 'again')}`")
        for one in entries
        if one.card is not None and (cells := _row(one))
    ]
    head = ("`zoo:`", "network", "kB", "clean %", "robust %", "under", "n", "minutes", "on", "made again by")
    waiting = [
        (f"`{one.name}`", escape(zoo.described(zoo.RECIPES / f"{one.name}.toml")))
        for one in entries
        if one.card is None
    ]
    return "\n".join(
        [
            f"{len(shipped)} checkpoints, {sum(one.size for one in entries) / 1e6:.1f} MB of weights:\n",
            grid(head, shipped),
            f"\n{len(waiting)} recipes without weights so far (`rbm train NAME`):\n",
            grid(("recipe", "makes"), waiting),
            "",
        ]
    )


def _row(entry: Entry) -> Sequence[str]:
    recipe, card = entry.recipe, entry.card
    if recipe is None:
        return (entry.name, entry.state, *("",) * (len(COLUMNS) - 2))
    what = (entry.name, entry.state, recipe.family, recipe.algorithm, recipe.defense, _network(recipe))
    if card is None:
        return (*what, *("",) * (len(COLUMNS) - len(what)))
    seen = card.chosen
    accuracies = ("", "") if seen is None else (f"{100 * seen.clean:.1f}", f"{100 * seen.robust:.1f}")
    under = f"{recipe.validate_attack} {recipe.norm} {_budget(recipe.eps)}"
    minutes = "" if card.train_seconds is None else f"{card.train_seconds / 60:.0f}"
    numbers = (*accuracies, under, str(recipe.validate_tasks), minutes, f"{card.weights_sha256[:12]}")
    return (*what, f"{entry.size / 1e3:.0f}", *numbers)


def _network(recipe: Recipe) -> str:
    options = ", ".join(f"{name} {value}" for name, value in sorted(recipe.network_options.items()))
    return f"{recipe.network} {options}".strip()


def _budget(eps: float) -> str:
    return f"{round(eps * 255)}/255" if abs(eps * 255 - round(eps * 255)) < 1e-6 else f"{eps:.4g}"


def _maker(card: Card) -> str:
    return f"{card.device}, 1 thread" if card.threads == 1 else f"{card.device}, {card.threads} threads"


def write_page(place: Path, page: Path) -> None:
    from robustbench_meta import checkpoint, untrusted, zoo

    if page.is_file():
        text = untrusted.content(page, zoo.LARGEST_MANIFEST).decode("utf-8")
        made = render(text, zoo.entries(place))
        if made != text:
            checkpoint.write(page, made.encode())
            print(page)
