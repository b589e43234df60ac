"""The leaderboard as one HTML file that needs no network, no JavaScript and nothing beside it."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from robustbench_meta.report.markdown import (
    CORRUPTED,
    DIFFERENCES,
    FLAGS,
    INTRODUCTION,
    LEFT_OUT,
    PROTOCOLS,
    RENDERINGS,
    ROLLOUTS,
    SAME,
    TRANSFER,
)
from robustbench_meta.report.page import Page
from robustbench_meta.report.tables import Report
from robustbench_meta.report.values import CONSTANT_MARK, NOTHING, share, with_n

# In this order; a later one uses what an earlier one declares.
SCRIPTS = ("numbers", "elements", "charts", "boards", "cards", "compare", "surface", "start")


def render(report: Report, page: Page) -> str:
    """Fill the template; every text is escaped, and the policy allows this page's own style and script alone."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style, script = _asset("leaderboard.css"), "\n".join(_asset(f"script/{name}.js") for name in SCRIPTS)
    policy = (
        "default-src 'none'; img-src data:; media-src data:; "
        f"style-src '{style_hash(style)}'; script-src '{style_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.from_string(_asset("leaderboard.html.j2")).render(
        report=report,
        page=page,
        boards=list(zip(report.tables, page.leaves, strict=True)),
        introduction=INTRODUCTION,
        differences=DIFFERENCES,
        transfer=TRANSFER,
        about_corrupted=CORRUPTED,
        about_flags=FLAGS,
        about_left_out=LEFT_OUT,
        about_renderings=RENDERINGS,
        about_rollouts=ROLLOUTS,
        about_protocols=PROTOCOLS,
        same=SAME,
        with_n=with_n,
        share=share,
        policy=policy,
        style=Markup(style),
        data=Markup(page.json),
        script=Markup(script),
        constant_mark=CONSTANT_MARK,
        nothing=NOTHING,
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def style_hash(text: str) -> str:
    """Name a style or script in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
