"""`rbm train`: a recipe from a file, a name and options, and the checkpoint that it makes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_meta.terminal import DataRoot, Device, bar, console, known, pair

if TYPE_CHECKING:
    from rich.console import Console

    from robustbench_meta import train as training
    from robustbench_meta.checkpoint import Recipe


def train(
    recipe: Annotated[str | None, typer.Argument(help="A TOML file, or a name that `rbm list recipes` shows.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the checkpoint.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="See `rbm list algorithms`.")] = None,
    defense: Annotated[str | None, typer.Option(help="See `rbm list defenses`.")] = None,
    family: Annotated[str | None, typer.Option(help="See `rbm list tasks`.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="A field of the recipe, as steps=500 or network_options.width=64.")
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Meta-train a learner. After a stop the same command goes on, to the same weights.

    Without a recipe, the shipped one named FAMILY-ALGORITHM-DEFENSE is the base, if there is one; without --family
    strokes, without --defense standard.
    """
    from robustbench_meta import grid as grids
    from robustbench_meta.checkpoint import CARD, read_card
    from robustbench_meta.train import train as meta_train
    from robustbench_meta.types import Spec

    named = {"family": family, "algorithm": algorithm, "defense": defense}
    chosen = read_recipe(recipe, {key: value for key, value in named.items() if value}, change or [], data_root)
    if out is None:
        out = Path("checkpoints") / f"{chosen.family}-{chosen.algorithm}-{chosen.defense}"
    where = grids.choose_device(device)
    screen = console()
    with _training_bar(screen, f"{chosen.algorithm} · {chosen.defense} · {chosen.family} on {where}") as progress:
        meta_train(chosen, out, root=data_root, device=where, progress=progress)
    card = read_card(out / CARD)
    if card.stopped:
        screen.print(f"Stopped, and kept the weights of step {card.selected_step}: {card.stopped}")
    words = ["rbm", "evaluate", "--ckpt", str(out), *(["--data-root", str(data_root)] if data_root else [])]
    if chosen.queries != Spec().queries:
        words += ["--queries", str(chosen.queries)]
    screen.print(f"Checkpoint: {out}\nNow try: {shlex.join(words)}", soft_wrap=True)


def read_recipe(source: str | None, named: dict[str, str], changes: Sequence[str], root: Path | None) -> Recipe:
    """Build a recipe from a TOML file or a shipped name, then options, then key=value changes; all are checked.

    Without a source, the shipped recipe FAMILY-ALGORITHM-DEFENSE is the base, if there is one; what of these is not
    given is as a recipe has it that does not say.
    """
    from pydantic import ValidationError

    from robustbench_meta import zoo
    from robustbench_meta.checkpoint import Recipe, first_problem
    from robustbench_meta.grid import choose_family
    from robustbench_meta.types import InputError

    fields: dict[str, Any] = {}
    if source is None and "algorithm" in named:
        meant = "-".join(named.get(key, Recipe.model_fields[key].default) for key in ("family", "algorithm", "defense"))
        source = meant if (zoo.RECIPES / f"{meant}.toml").is_file() else None
    if source is None and "algorithm" not in named and not any(pair(one, "set")[0] == "algorithm" for one in changes):
        raise InputError("recipe: none given; name one that `rbm list recipes` shows, or give --algorithm")
    if source is not None:
        fields = zoo.fields_of(_recipe_path(source))
    fields |= named
    for change in changes:
        _set(fields, change)
    for key in fields:
        known(key, list(Recipe.model_fields), "recipe")
    if isinstance(fields.get("eps"), str):
        from robustbench_meta.grid import parse_eps

        fields["eps"] = parse_eps(fields["eps"])
    try:
        made = Recipe.model_validate(fields)
        if "network" in fields:
            return made
        family: Any = choose_family(made.family, root, **made.family_options)
        options = {**family.default_network_options, **made.network_options}
        return made.model_copy(update={"network": family.default_network, "network_options": options})
    except ValidationError as error:
        raise InputError(f"recipe: {first_problem(error)}") from None


@contextmanager
def _training_bar(screen: Console, what: str) -> Iterator[Callable[[training.Progress], None]]:
    from robustbench_meta import grid as grids

    begun = False
    with bar(screen, "steps") as update:

        def progress(now: training.Progress) -> None:
            nonlocal begun
            if not begun:  # only now is it known that the recipe can be run
                again = f", going on from step {now.step - 1}" if now.step > 1 else ""
                screen.print(f"{what}: {now.steps} steps{again}")
                begun = True
            seen = now.validation
            accuracy = ""
            if seen is not None:
                accuracy = f"; step {seen.step}: clean {100 * seen.clean:.1f} %, robust {100 * seen.robust:.1f} %"
            update(now.step, now.steps, f"{grids.duration(now.eta)} left, loss {now.loss:.3f}{accuracy}")

        yield progress


def _recipe_path(source: str) -> Path:
    from robustbench_meta.types import InputError
    from robustbench_meta.zoo import RECIPES

    if source.endswith(".toml") or "/" in source:
        path = Path(source)
        if path.is_file():
            return path
        raise InputError(f"recipe: {path} is not a file")
    names = [path.stem for path in RECIPES.glob("*.toml")]
    known(source, sorted(names), "recipe")
    return RECIPES / f"{source}.toml"


def _set(fields: dict[str, Any], change: str) -> None:
    """Put one key=value into a recipe's fields; a dotted key goes into its options."""
    key, value = pair(change, "set")
    *tables, last = key.split(".")
    for table in tables:
        fields = fields.setdefault(table, {})
        if not isinstance(fields, dict):
            from robustbench_meta.types import InputError

            raise InputError(f"set: {key!r} is no field of a recipe; {table} holds no options")
    fields[last] = value
