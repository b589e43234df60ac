"""`rbm import`: weights made elsewhere become a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_meta.terminal import console, pairs, print_table
from robustbench_meta.untrusted import printable

Options = list[str] | None


def bring(
    source: Annotated[Path, typer.Argument(help="A .safetensors file, or what torch.save wrote; no code of it runs.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; must not be there.")],
    algorithm: Annotated[str, typer.Option(help="See `rbm list algorithms`.")],
    family: Annotated[str, typer.Option(help="What it learned to learn: see `rbm list tasks`.")],
    layout: Annotated[
        str | None, typer.Option(help="Whose names the tensors have: learn2learn, protonet, easyfsl, maml-pytorch.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON of the list that maml-pytorch's Learner was given.")] = None,
    network: Annotated[
        str | None, typer.Option(help="See `rbm list networks`; or module:function, whose code is then run.")
    ] = None,
    entry: Annotated[str | None, typer.Option(help="Part of a nested file, as state_dict or model.encoder.")] = None,
    rename: Annotated[Options, typer.Option("--map", help="regex=replacement on names; repeat it, in order.")] = None,
    drop: Annotated[Options, typer.Option(help="Leave out tensors whose names hold this regex; repeat it.")] = None,
    norm_mode: Annotated[
        str | None, typer.Option(help="support, running or batch. Default: as the layout's library evaluates.")
    ] = None,
    ways: Annotated[int, typer.Option(help="Classes in a task.")] = 5,
    shots: Annotated[int, typer.Option(help="Support images of a class.")] = 5,
    defense: Annotated[str, typer.Option(help="What its makers say; see `rbm list defenses`.")] = "unknown",
    algorithm_option: Annotated[Options, typer.Option(help="As step_size=0.5; repeat it.")] = None,
    network_option: Annotated[Options, typer.Option(help="As width=64; repeat it. Default: by the shapes.")] = None,
    family_option: Annotated[Options, typer.Option(help="As size=32; repeat it.")] = None,
) -> None:
    """Turn weights made elsewhere into a checkpoint, and say which tensor went where.

    Every tensor must find a place or be named by --drop, and every place must be filled.
    """
    from robustbench_meta import imports
    from robustbench_meta.types import NORM_MODES, InputError

    if norm_mode is not None and norm_mode not in NORM_MODES:
        raise InputError(f"norm_mode: {norm_mode!r} is not one of {', '.join(NORM_MODES)}")
    imports.refuse_existing(out)
    made = imports.prepare(
        imports.Wanted(
            source=source,
            algorithm=algorithm,
            family=family,
            algorithm_options=pairs(algorithm_option, "algorithm-option"),
            family_options=pairs(family_option, "family-option"),
            network=network,
            network_options=pairs(network_option, "network-option"),
            layout=layout,
            config=config,
            entry=entry,
            maps=tuple(rename or ()),
            drops=tuple(drop or ()),
            norm_mode=norm_mode,
            ways=ways,
            shots=shots,
            defense=defense,
        )
    )
    imports.write(made, out)
    print_table(("in the file", "here", "shape"), [(one.theirs, one.ours, str(one.shape)) for one in made.placed])
    for what, names in (
        ("left out", made.dropped),
        (f"of no use to norm_mode {made.card.recipe.norm_mode}", made.unused),
    ):
        if names:
            print(printable(f"{what}: {', '.join(names)}"))
    if made.assumed:
        print(printable(f"taken for: {made.assumed}"))
    recipe = made.card.recipe
    # With what was left to the network's own defaults, since no tensor shows it.
    options = ", ".join(f"{name} {value}" for name, value in imports.network_settings(recipe).items())
    network_line = f"{recipe.network} ({options})" if options else recipe.network
    print(printable(f"learner: {recipe.algorithm} on {network_line}, norm_mode {recipe.norm_mode}, {recipe.ways} ways"))
    trust = f" --trust {recipe.network}" if made.card.imported and made.card.imported.code_sha256 else ""
    console().print(f"Checkpoint: {out}\nNow try: rbm evaluate --ckpt {out}{trust}")
