"""Where the tests find real data and optional libraries; one thread, so that float sums do not vary with the load."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from robustbench_meta import cli, grid, store
from robustbench_meta.doctor import BROWSERS, find_browser
from robustbench_meta.libraries import missing

torch.set_num_threads(1)
# Processes that tests start, too: tiny tensors on several threads only wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Gives RBM_DATA where it holds the folder asked for; else skips, or fails where RBM_REQUIRE_DATA=1."""

    def find(name: str) -> Path:
        root = os.environ.get("RBM_DATA")
        if root and (Path(root) / name).is_dir():
            return Path(root)
        reason = f"needs {name} below RBM_DATA" + ("" if root else ", which is not set")
        if os.environ.get("RBM_REQUIRE_DATA") == "1":
            pytest.fail(f"{reason}; RBM_REQUIRE_DATA=1 forbids to skip", pytrace=False)
        pytest.skip(reason)

    return find


@pytest.fixture
def cifar_root(real_data: Callable[[str], Path]) -> Path:
    """The data root, where CIFAR-100 is there."""
    return real_data("cifar-100-binary")


@pytest.fixture
def omniglot_root(real_data: Callable[[str], Path]) -> Path:
    """The data root, where Omniglot is there."""
    return real_data("omniglot")


@pytest.fixture(scope="session")
def optional() -> Callable[[str], None]:
    """Skips where a library that we do not depend on is missing, or fails where RBM_REQUIRE_LIBRARIES=1."""

    def need(package: str) -> None:
        if reason := missing(package):
            if os.environ.get("RBM_REQUIRE_LIBRARIES") == "1":
                pytest.fail(f"{reason}; RBM_REQUIRE_LIBRARIES=1 forbids to skip", pytrace=False)
            pytest.skip(f"needs {package}; `make agreement-tests` runs this where it is installed")

    return need


@pytest.fixture
def torchattacks(optional: Callable[[str], None]) -> Any:
    """The library, where it is there."""
    optional("torchattacks")
    return import_module("torchattacks")


@pytest.fixture
def cleverhans(optional: Callable[[str], None]) -> Any:
    """The library's attacks by name, where it is there."""
    optional("cleverhans")
    return lambda name: getattr(import_module(f"cleverhans.torch.attacks.{name}"), name)


SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
)
AXE = Path(__file__).resolve().parents[1] / "node_modules" / "axe-core" / "axe.min.js"


def _not_here(reason: str) -> NoReturn:
    if os.environ.get("RBM_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}; RBM_REQUIRE_BROWSER=1 forbids to skip", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a browser, where there is one; else skips, or fails where RBM_REQUIRE_BROWSER=1."""
    return find_browser() or _not_here(f"needs a browser: one of {', '.join(BROWSERS)}")


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    """One browser for all tests that drive a page; each opens a context of its own."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core: RBM_AXE, or what `make node_modules` installs; skips or fails as `chromium` does."""
    path = Path(os.environ.get("RBM_AXE") or AXE)
    return path.read_text(encoding="utf-8") if path.is_file() else _not_here(f"needs axe-core at {path}")


@pytest.fixture
def slow_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task is said to take 100 s, of a cell and of an audit alike."""

    def timed(learner: Any, tasks: Sequence[int], started: float) -> store.Timing:
        return store.Timing(tuple(tasks), 100.0 * len(tasks), "cpu", 1)

    monkeypatch.setattr(grid, "timed", timed)


@pytest.fixture
def rbm(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run `rbm` in an empty folder: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RBM_DATA", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rbm", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.app()
        assert isinstance(left.value.code, int)
        return left.value.code, *capfd.readouterr()

    return run
