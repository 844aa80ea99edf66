"""What a section of the page is made of, beside tables. Each block is drawn by its macro of templates/parts.html.j2."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from markupsafe import Markup

from apputils.report.images import ImageFile
from apputils.report.svg import Chart


class Block(Protocol):
    """Something on the page."""

    macro: ClassVar[str]


@dataclass(frozen=True)
class Text:
    """A paragraph; `kind` is empty, `quiet` (small print) or `absent` (what is missing)."""

    macro: ClassVar[str] = "text"
    text: str
    kind: str = ""


def absent(what: str, how: str) -> Text:
    """`Not measured: how that is done`."""
    return Text(f"{what}: {how}", "absent")


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    macro: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Charts:
    """Charts side by side, as many as fit."""

    macro: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Lines:
    """Text with its line breaks, such as commands; under a `summary` it is folded."""

    macro: ClassVar[str] = "lines"
    text: str
    summary: str = ""


@dataclass(frozen=True)
class Images:
    """Images whose versions lie over each other under a slider."""

    macro: ClassVar[str] = "images"
    images: Sequence[ImageFile]


@dataclass(frozen=True)
class Drawing:
    """A large SVG on white paper, whole or readable."""

    macro: ClassVar[str] = "drawing"
    svg: Markup


@dataclass(frozen=True)
class Tile:
    """A figure of the page's head: the figure, what it is, and lines of small print."""

    figure: str
    what: str
    small: Sequence[str]
