"""The page of a report or a comparison: one HTML file that needs nothing else."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from apputils.report.section import Content, Section
from compress.io.files import read_text

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Head:
    """What the page is called: in the browser's tab, in its heading, and the line below that."""

    title: str
    heading: str
    about: str


def render(head: Head, content: Content, sections: Sequence[Section], folder: Path) -> str:
    """The page.

    Args:
        head: its title and heading.
        content: what the sections collected.
        sections: in their order.
        folder: of the results, for images.
    """
    return _template().render(
        head=head,
        notes=[note for each in sections for note in each.notes(content)],
        tiles=[tile for each in sections for tile in each.tiles(content)],
        sections=[(each, each.blocks(content, folder)) for each in sections if each.title],
    )


@functools.cache
def _template() -> jinja2.Template:
    world = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    for name, file in (("style", "style.css"), ("script", "script.js")):
        world.globals[name] = Markup(read_text(TEMPLATES / file))
    world.filters["code"] = _code
    return world.get_template("page.html.j2")


def _code(text: str) -> Markup:
    """What stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
