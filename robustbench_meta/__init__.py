"""Adversarial robustness of meta-learners: train them, attack them, and read a leaderboard with intervals.

    from robustbench_meta import evaluate
    table = evaluate("checkpoints/strokes-protonet-aq", tasks=20)

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_meta.grid import Watcher
    from robustbench_meta.types import Attack, TaskFamily

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate"]


def evaluate(
    checkpoints: str | Path | Sequence[str | Path] = (),
    *,
    learner: Any = None,
    name: str = "custom",
    family: str | TaskFamily | None = None,
    data_root: str | Path | None = None,
    protocol: str | None = None,
    attacks: str | Sequence[str] | Mapping[str, Attack] | None = None,
    eps: float | str | Sequence[float | str] | None = None,
    norm: str | Sequence[str] | None = None,
    surface: str | Sequence[str] | None = None,
    fraction: float | None = None,
    shots: int | Sequence[int] | None = None,
    steps: int | Sequence[int] | None = None,
    ways: int | None = None,
    queries: int | None = None,
    split: str | None = None,
    tasks: int | None = None,
    budget: float | str | None = None,
    seed: int | None = None,
    audit: bool = True,
    device: str = "auto",
    workers: int = 1,
    executor: str = "local",
    address: str | None = None,
    trust: str | Sequence[str] = (),
    out: str | Path | None = None,
    save_adversarial: bool = False,
    watcher: Watcher | None = None,
) -> pd.DataFrame:
    """Evaluate checkpoint folders, or `learner`, an object with adapt(x, y) and predict(fitted, x), over a grid.

    Returns one row per cell, with the columns of cells.csv; a failed cell has status "error" and is warned of. An
    object gets x [S,*X] in the family's units and y [S] int64, and scores queries as [Q,N]; `name` identifies it.
    With `out`, results stay in that folder and what is there is not run again, so give a changed object another
    name. `protocol` names a preset of protocols.py, whose knobs are replaced by those given here; else attacks are
    fgsm, pgd-20 and pgd-mt-50 (of the norm "corruption" all that serve the family, at every severity), in linf on the
    queries, 15 a class, of the test split at seed 0. `tasks` is 100 unless
    the protocol says otherwise or `budget` (seconds, or "20m") picks it. `audit` looks for masked gradients afterwards
    (see flags.py): a learner with a red flag has status "flagged". `workers` processes share the work, or with
    `executor="ray"` the cluster at `address` does. `save_adversarial` keeps every attacked query below `out`, and the
    attack "file:PATH" scores other learners on them. `trust` names code that may run where an imported checkpoint's
    network is somebody's own, as "module:function". With a protocol the table's `attrs` hold its label, "protocol",
    and a line for each row, "differences". Raises InputError for what cannot be used.
    """
    import tempfile
    import warnings

    from robustbench_meta import audit as audits
    from robustbench_meta import executors, grid, protocols, runs, statistics
    from robustbench_meta.types import InputError

    if save_adversarial and out is None:
        raise InputError("save_adversarial: needs out, the folder of results in which the examples stay")
    named = None if protocol is None else protocols.find(protocol)
    root = None if data_root is None else Path(data_root)
    chosen = grid.choose_family(family, root) if isinstance(family, str) else family
    folders = [checkpoints] if isinstance(checkpoints, (str, Path)) else checkpoints
    axes: Any = {"ways": ways, "queries": queries, "split": split, "seed": seed, "tasks": tasks}
    axes["fraction"] = fraction
    axes["attacks"] = dict(attacks) if isinstance(attacks, Mapping) else None
    if attacks is not None and axes["attacks"] is None:
        axes["attacks"] = grid.named_attacks(_several(attacks))
    axes["norms"] = None if norm is None else tuple(dict.fromkeys(str(one).lower() for one in _several(norm)))
    axes["eps"] = None if eps is None else tuple(map(grid.parse_eps, _several(eps)))
    for field, value in (("surfaces", surface), ("shots", shots), ("steps", steps)):
        axes[field] = None if value is None else _several(value)
    axes["budget"] = grid.parse_budget(budget) if isinstance(budget, str) else budget
    place = executors.choose_place(workers, executor, address, device)
    if executor == "ray":
        device = "auto"  # here; what the cluster's devices do is the place's matter
    subjects = [
        grid.load_subject(Path(path), family=chosen, root=root, device=device, trust=_several(trust))
        for path in folders
    ]
    if learner is not None:
        classes = ways or (named.ways if named else 5)
        subjects.append(grid.object_subject(learner, name, chosen, device=device, ways=classes))
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch if out is None else out)
        run = runs.make(runs.Choice(**axes, save_adversarial=save_adversarial), named, subjects, results)
        for line in run.refused:
            warnings.warn(f"not run: {line}", stacklevel=2)
        failures, lost = runs.execute(run, results, place=place, audit=audit, watcher=watcher)
        for failure in failures:
            warnings.warn(f"{grid.label(failure.cell)} failed: {failure.reason}", stacklevel=2)
        for one in lost:
            warnings.warn(f"audit of {audits.label(one.audit)} failed: {one.reason}", stacklevel=2)
        table = statistics.summarise(grid.results_of(run.plan, results))
        if named is not None:
            table.attrs["protocol"] = named.label
            table.attrs["differences"] = protocols.lines(runs.reached(run, results))
        return table


def _several(value: Any) -> tuple[Any, ...]:
    """Read one value or many, each once, in the order given."""
    return (value,) if isinstance(value, (str, int, float)) else tuple(dict.fromkeys(value))


class _Package(ModuleType):
    """The package itself: importing its module evaluate.py must not put that in the place of the function."""

    @property
    def evaluate(self) -> Callable[..., pd.DataFrame]:
        return _evaluate

    @evaluate.setter
    def evaluate(self, module: ModuleType) -> None: ...


_evaluate = evaluate
sys.modules[__name__].__class__ = _Package
