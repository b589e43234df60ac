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
    attacks: str | Sequence[str] | Mapping[str, Attack] = ("fgsm", "pgd-20", "pgd-mt-50"),
    eps: float | str | Sequence[float | str] | None = None,
    norm: str | Sequence[str] = "linf",
    surface: str | Sequence[str] = "query",
    shots: int | Sequence[int] | None = None,
    steps: int | Sequence[int] | None = None,
    ways: int | None = None,
    queries: int = 15,
    split: str = "test",
    tasks: int | None = None,
    budget: float | str | None = None,
    seed: int = 0,
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
    name. `tasks` is 100 unless `budget` (seconds, or "20m") picks it. `audit` looks for masked gradients afterwards
    (see flags.py): a learner with a red flag has status "flagged". `workers` processes share the work, or with
    `executor="ray"` the cluster at `address` does. `save_adversarial` keeps every attacked query below `out`, and the
    attack "file:PATH" scores other learners on them. `trust` names code that may run where an imported checkpoint's
    network is somebody's own, as "module:function". Raises InputError for what cannot be used.
    """
    import tempfile
    import warnings

    from robustbench_meta import audit as audits
    from robustbench_meta import executors, grid, statistics
    from robustbench_meta.types import InputError

    if save_adversarial and out is None:
        raise InputError("save_adversarial: needs out, the folder of results in which the examples stay")
    root = None if data_root is None else Path(data_root)
    chosen = grid.choose_family(family, root) if isinstance(family, str) else family
    folders = [checkpoints] if isinstance(checkpoints, (str, Path)) else checkpoints
    axes: Any = {
        "attacks": dict(attacks) if isinstance(attacks, Mapping) else grid.named_attacks(_several(attacks)),
        "norms": tuple(dict.fromkeys(str(one).lower() for one in _several(norm))),
        "eps": None if eps is None else tuple(map(grid.parse_eps, _several(eps))),
        "surfaces": _several(surface),
        "shots": None if shots is None else _several(shots),
        "steps": None if steps is None else _several(steps),
        "save_adversarial": save_adversarial,
    }
    made = grid.Grid(**axes, ways=ways, queries=queries, split=split, seed=seed)  # type: ignore[arg-type]
    place = executors.choose_place(workers, executor, address, device)
    if executor == "ray":
        device = "auto"  # here; what the cluster's devices do is the place's matter
    subjects = [
        grid.load_subject(Path(path), family=chosen, root=root, device=device, trust=_several(trust))
        for path in folders
    ]
    if learner is not None:
        subjects.append(grid.object_subject(learner, name, chosen, device=device, ways=ways or 5))
    seconds = grid.parse_budget(budget) if isinstance(budget, str) else budget
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch if out is None else out)
        plan = grid.make_plan(made, subjects, results)
        for line in plan.refused:
            warnings.warn(f"not run: {line}", stacklevel=2)
        with place.open(grid.kit(plan)) as units:
            given: Any = {"tasks": tasks, "budget": seconds, "watcher": watcher, "executor": units}
            ran = audits.execute(plan, results, **given) if audit else (grid.execute(plan, results, **given), [])
        failures, lost = ran
        for failure in failures:
            warnings.warn(f"{grid.label(failure.cell)} failed: {failure.reason}", stacklevel=2)
        for one in lost:
            warnings.warn(f"audit of {audits.label(one.audit)} failed: {one.reason}", stacklevel=2)
        return statistics.summarise(grid.results_of(plan, results))


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
