"""The drawing of the network: arch.svg."""

import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from apputils.report.blocks import Block, Drawing, absent
from apputils.report.section import Content, Section
from compress.io.files import read_text


class Architecture(Section):
    """On white paper in both themes."""

    name, title = "architecture", "Architecture"
    missing = absent("Not drawn", "draw_model_to_file writes arch.svg.")

    def blocks(self, content: Content, folder: Path) -> Sequence[Block]:
        """The drawing."""
        path = folder / "arch.svg"
        return [Drawing(_inline(read_text(path)))] if path.is_file() else [self.missing]


def _inline(text: str) -> Markup:
    """Graphviz's SVG without its XML head, its size left to the page."""
    svg = text[text.index("<svg") :]
    size = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ', svg)
    width = f"{float(size[1]):.0f}" if size else "800"
    return Markup(re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg data-width="{width}"', svg, count=1))
