"""`python -m robustbench_meta` is `rbm`."""

from __future__ import annotations

from robustbench_meta.cli import app

if __name__ == "__main__":
    app()
