"""The rooms: a module imports only modules above it, and plug-in siblings never import one another."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "robustbench_meta"
# From the top down; a folder is one room, whose files may not know each other (report/ is one author's).
ROOMS = [
    "untrusted",
    "types",
    "draws",
    "flags",
    "maskers",
    "threats",
    "poisoning",
    "filters",
    "spelling",
    "losses",
    "kernels",
    "rollouts",
    "sequences",
    "attention",
    "environments",
    "networks",
    "modules",
    "heads",
    "episodes",
    "demonstrations",
    "downloads",
    "checkpoint",
    "zoo",
    "curve",
    "store",
    "engine",
    "ascent",
    "libraries",
    "attacks",
    "algorithms",
    "defenses",
    "tasks",
    "catalog",
    "statedicts",
    "layouts",
    "imports",
    "batches",
    "descent",
    "train",
    "evaluate",
    "executors",
    "grid",
    "audit",
    "intervals",
    "outcomes",
    "methods",
    "ranking",
    "protocols",
    "runs",
    "statistics",
    "transfer",
    "verify",
    "submissions",
    "tracks",
    "external",
    "timing",
    "gate",
    "doctor",
    "report",
    "compare",
    "board",
    "intake",
    "linear",
    "planted",
    "selftest",
    "terminal",
    "cli_leaderboard",
    "cli_zoo",
    "cli_import",
    "cli_train",
    "cli_data",
    "cli_bench",
    "cli",
    "__init__",
    "__main__",
]
FILES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def name_of(path: Path) -> str:
    parts = ["robustbench_meta", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            for alias in node.names:
                inside = PACKAGE.joinpath(*str(node.module).split(".")[1:], alias.name)
                deeper = node.module == "robustbench_meta" or inside.with_suffix(".py").exists()
                found.add(f"{node.module}.{alias.name}" if deeper else str(node.module))
    return {module for module in found if module.split(".")[0] == "robustbench_meta"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_imports_only_modules_listed_above_it(path: Path) -> None:
    here = room(name_of(path))
    assert here in ROOMS, f"{here} is in no room"
    for module in imports(path):
        there = room(module)
        if there == here:
            siblings = here in ("attacks", "algorithms", "defenses", "tasks") and path.stem != "__init__"
            assert not siblings or module == name_of(path), f"{path.name} imports its sibling {module}"
        elif there in ROOMS:
            assert ROOMS.index(there) < ROOMS.index(here), f"{path.name} imports {module}, which is below it"


def test_attacks_never_meet_a_meta_learner() -> None:
    for path in (PACKAGE / "attacks").glob("*.py"):
        assert not {room(m) for m in imports(path)} & {"engine", "algorithms", "defenses", "tasks", "networks"}


def test_the_report_and_its_statistics_do_not_know_torch() -> None:
    for path in [PACKAGE / "statistics.py", PACKAGE / "transfer.py", *(PACKAGE / "report").glob("*.py")]:
        runtime = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if not isinstance(node, ast.If)]
        text = "\n".join(ast.unparse(node) for node in runtime if isinstance(node, ast.Import | ast.ImportFrom))
        assert "torch" not in text
        assert "robustbench_meta.types" not in text  # which imports it
