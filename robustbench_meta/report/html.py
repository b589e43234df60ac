"""The leaderboard as one HTML file that needs no network, no JavaScript and nothing beside it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from robustbench_meta.report.figures import Picture
from robustbench_meta.report.markdown import DIFFERENCES, FLAGS, INTRODUCTION, TRANSFER
from robustbench_meta.report.tables import CONSTANT_MARK, Report, with_n

BROAD = 560  # pixels from which on a drawing is too fine for a phone's width, and scrolls there


def render(report: Report, pictures: Sequence[Picture]) -> str:
    """Fill the template; every text is escaped, and the policy allows this page's own style and script alone."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style, script = _asset("leaderboard.css"), _asset("leaderboard.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{style_hash(style)}'; script-src '{style_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return environment.from_string(_asset("leaderboard.html.j2")).render(
        report=report,
        pictures=[(one, inline(one, index)) for index, one in enumerate(pictures)],
        introduction=INTRODUCTION,
        differences=DIFFERENCES,
        transfer=TRANSFER,
        about_flags=FLAGS,
        with_n=with_n,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        marks={"constant": CONSTANT_MARK},
    )


def inline(picture: Picture, index: int) -> Markup:
    """Return a figure's SVG to stand inside the page: own ids, attributes for styles, colours the page can change.

    The policy forbids style attributes, and presentation attributes give way to the page's style sheet.
    """
    svg = picture.svg.read_text(encoding="utf-8")
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'style="([^"]*)"', _attributes, svg)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="f{index}-\1"', svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#f{index}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#f{index}-\1)", svg)
    found = re.search(r'viewBox="\S+ \S+ (\S+) ', svg)
    width = round(float(found.group(1)) * 1.25) if found else 0
    kind = "drawing broad" if width > BROAD else "drawing"
    head = f'<svg class="{kind}" role="img" aria-label="{Markup.escape(picture.alt)}"'
    svg = re.sub(r'(<svg[^>]*?) width="[^"]+"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]+"', r"\1", svg, count=1)
    size = f' width="{width}"' if width else ""
    return Markup(svg.replace("<svg", head + size, 1))


def _attributes(match: re.Match[str]) -> str:
    pairs = [one.split(":", 1) for one in match.group(1).split(";") if ":" in one]
    return " ".join(f'{name}="{value}"' for name, value in {n.strip(): v.strip() for n, v in pairs}.items())


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def style_hash(text: str) -> str:
    """Name a style or script in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
